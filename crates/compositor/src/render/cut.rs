//! Sound beside what is left out of a render.
//!
//! Owns what is heard at a cut and what is not. What is left out is gone through like everything else, so what follows looks and sounds as it
//! would without a cut; only nobody gets to see or hear it.

use std::ops::Range;

use roomreel_shared::late::Cuts;

use crate::decode::SAMPLE_RATE;

/// Nothing is heard for so long before a cut: longer than what an encoder is fed ahead of its first slice, so an encoder that begins shortly behind
/// a cut need not know what was before it.
pub(super) const HUSH_SAMPLES: i64 = 14_400;
/// Samples in which the sound fades before that, and comes back behind the cut: 10 ms, no click.
const FADE_SAMPLES: i64 = 480;

/// What is left out, in samples behind the first one.
pub(super) fn cut_samples(cuts: &Cuts) -> impl DoubleEndedIterator<Item = Range<i64>> + '_ {
    cuts.at_rate(u64::from(SAMPLE_RATE)).map(|cut| cut.start.cast_signed()..cut.end.cast_signed())
}

/// Silences interleaved stereo that begins with sample `from` where something is left out, and shortly before.
pub(super) fn hush(cuts: &Cuts, from: i64, sound: &mut [f32]) {
    let end = from + (sound.len() / 2) as i64;
    for cut in cut_samples(cuts) {
        let silent = cut.start - HUSH_SAMPLES..cut.end;
        let touched = silent.start - FADE_SAMPLES..silent.end + FADE_SAMPLES;
        for sample in touched.start.max(from)..touched.end.min(end) {
            let away = (silent.start - sample).max(sample - silent.end + 1).max(0);
            let gain = away as f32 / (FADE_SAMPLES + 1) as f32;
            let at = 2 * (sample - from) as usize;
            sound[at..at + 2].iter_mut().for_each(|value| *value *= gain);
        }
    }
}

/// What is kept of the samples in `range`.
pub(super) fn kept(cuts: &Cuts, range: Range<i64>) -> Vec<Range<i64>> {
    let mut kept = Vec::new();
    let mut at = range.start;
    for cut in cut_samples(cuts) {
        kept.push(at..cut.start.min(range.end));
        at = at.max(cut.end);
    }
    kept.push(at..range.end);
    kept.retain(|kept| !kept.is_empty());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_fades_before_a_cut_and_comes_back_behind_it() {
        let cuts = Cuts::try_from(vec![(2, 3)]).expect("in order");
        let gains = |range: Range<i64>| {
            let mut sound = vec![1.0; 2 * (range.end - range.start) as usize];
            hush(&cuts, range.start, &mut sound);
            sound.chunks_exact(2).map(|both| both[0]).collect::<Vec<_>>()
        };
        let whole = gains(0..192_000);
        let pieces: Vec<_> = (0..120).flat_map(|frame| gains(frame * 1600..(frame + 1) * 1600)).collect();
        assert!(whole == pieces, "however it is divided");
        assert!(whole[..96_000 - 14_400 - 480].iter().all(|gain| *gain == 1.0));
        assert!(whole[96_000 - 14_400..144_000].iter().all(|gain| *gain == 0.0));
        assert!(whole[144_480..].iter().all(|gain| *gain == 1.0));
        assert!(whole.windows(2).all(|two| (two[0] - two[1]).abs() < 0.003), "no step");
    }

    #[test]
    fn what_is_left_out_is_not_kept() {
        let cuts = Cuts::try_from(vec![(1, 2), (3, 4)]).expect("in order");
        let second = 48_000;
        assert_eq!(kept(&cuts, 0..5 * second), [0..second, 2 * second..3 * second, 4 * second..5 * second]);
        assert_eq!(kept(&cuts, second + 1..second + 9), []);
        assert_eq!(kept(&cuts, -9..9).first(), Some(&(-9..9)));
        assert_eq!(kept(&cuts, second - 5..2 * second + 5), [second - 5..second, 2 * second..2 * second + 5]);
    }
}
