//! Many sounds to one: gains with ramps, their sum, and a limiter that never clips.
//!
//! Owns 48 kHz stereo arithmetic and who is heard speaking. Does not own where samples stand in time (the tracks do).

use std::collections::BTreeMap;

use crate::timeline::room::Activity;

/// Samples in which a gain goes from one value to another: 10 ms, no click and no delay to speak of.
const RAMP: usize = 480;
/// The limiter decides once per this many samples.
const BLOCK: usize = 480;
/// Peaks are kept below this by gain; what still exceeds it is bent, not cut.
const CEILING: f32 = 0.89;
/// Gain that comes back per block: 6 dB in half a second.
const RELEASE: f32 = 1.014;

/// A source's gain, moving.
#[derive(Debug, Clone, Copy, Default)]
struct Gain {
    now: f32,
}

impl Gain {
    /// Adds `sound` to `sum` with the gain moving to `target`.
    fn add(&mut self, sum: &mut [[f32; 2]], sound: &[[f32; 2]], target: f32) {
        if self.now == target {
            if target != 0.0 {
                for (sum, sound) in sum.iter_mut().zip(sound) {
                    *sum = [sum[0] + sound[0] * target, sum[1] + sound[1] * target];
                }
            }
            return;
        }
        let step = 1.0 / RAMP as f32;
        for (sum, sound) in sum.iter_mut().zip(sound) {
            self.now += (target - self.now).clamp(-step, step);
            *sum = [sum[0] + sound[0] * self.now, sum[1] + sound[1] * self.now];
        }
    }
}

/// Mixes one composite's sound, piece by piece.
#[derive(Debug)]
pub struct Mixer<K> {
    gains: BTreeMap<K, Gain>,
    limiter: Limiter,
}

impl<K: Ord + Clone> Mixer<K> {
    /// Everybody is silent at first, and ramped up when heard.
    #[must_use]
    pub fn new() -> Self {
        Self { gains: BTreeMap::new(), limiter: Limiter { gain: 1.0 } }
    }

    /// Adds a source's next piece to the sum; its gain moves towards being heard, or not.
    pub fn add(&mut self, sum: &mut [[f32; 2]], source: &K, sound: &[[f32; 2]], is_audible: bool) {
        let gain = self.gains.entry(source.clone()).or_default();
        gain.add(sum, sound, if is_audible { 1.0 } else { 0.0 });
    }

    /// Forgets sources that are gone.
    pub fn retain(&mut self, is_here: impl Fn(&K) -> bool) {
        self.gains.retain(|source, _| is_here(source));
    }

    /// The sum as it may be heard: interleaved, within ±1.
    pub fn finish(&mut self, sum: Vec<[f32; 2]>) -> Vec<f32> {
        self.limiter.limit(sum)
    }
}

impl<K: Ord + Clone> Default for Mixer<K> {
    fn default() -> Self {
        Self::new()
    }
}

/// Turns down what is too loud for everybody, and bends what is left.
#[derive(Debug)]
struct Limiter {
    gain: f32,
}

impl Limiter {
    fn limit(&mut self, sum: Vec<[f32; 2]>) -> Vec<f32> {
        let mut limited = Vec::with_capacity(sum.len() * 2);
        for block in sum.chunks(BLOCK) {
            let peak = block.iter().flatten().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
            let allowed = if peak > CEILING { CEILING / peak } else { 1.0 };
            let release = RELEASE.powf(block.len() as f32 / BLOCK as f32);
            let target = allowed.min(self.gain * release).min(1.0);
            let from = self.gain;
            for (index, sample) in block.iter().enumerate() {
                let gain = from + (target - from) * (index + 1) as f32 / block.len() as f32;
                limited.extend(sample.map(|value| bend(value * gain)));
            }
            self.gain = target;
        }
        limited
    }
}

/// The identity up to the ceiling, and from there a curve that never reaches 1.
fn bend(value: f32) -> f32 {
    let over = value.abs() - CEILING;
    if over <= 0.0 {
        return value;
    }
    let room = 1.0 - CEILING;
    (CEILING + room * (over / room).tanh() * 0.999).copysign(value)
}

/// Says who is heard speaking, from the sound itself: what is heard is what is marked.
#[derive(Debug, Default, Clone)]
pub struct SpeechMeter {
    /// Samples for which the mark still stays.
    hang: usize,
    level: u8,
}

/// Speech is louder than this: -48 dB of full scale.
const SPEECH_LEVEL: u8 = 79;
/// The mark stays this long after a word, samples: half a second.
const HANG: usize = 24_000;

impl SpeechMeter {
    /// Measures the next piece, `count` samples long; what `sound` lacks of it is silence.
    pub fn measure(&mut self, sound: &[[f32; 2]], count: usize) {
        let power = power(sound.as_flattened());
        let decibels = 10.0 * (power / (2 * count.max(1)) as f32).max(1e-13).log10();
        self.level = (127.0 + decibels).clamp(0.0, 127.0) as u8;
        self.hang = if self.level > SPEECH_LEVEL { HANG } else { self.hang.saturating_sub(count) };
    }

    /// What the newest piece says.
    #[must_use]
    pub fn activity(&self) -> Activity {
        Activity { speaking: self.hang > 0, level: self.level }
    }
}

/// Sum of the squares. In several sums at once: one alone would wait for itself.
fn power(samples: &[f32]) -> f32 {
    let (blocks, rest) = samples.as_chunks::<16>();
    let mut sums = [0.0_f32; 16];
    for block in blocks {
        for (sum, sample) in sums.iter_mut().zip(block) {
            *sum += sample * sample;
        }
    }
    sums.iter().sum::<f32>() + rest.iter().map(|sample| sample * sample).sum::<f32>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(amplitude: f32, length: usize) -> Vec<[f32; 2]> {
        (0..length).map(|index| [(index as f32 * 0.1309).sin() * amplitude; 2]).collect()
    }

    fn largest_step(sound: &[f32]) -> f32 {
        sound.chunks_exact(2).collect::<Vec<_>>().windows(2).map(|w| (w[1][0] - w[0][0]).abs()).fold(0.0, f32::max)
    }

    fn mixed(pieces: &[usize], voices: usize, amplitude: f32) -> Vec<f32> {
        let mut mixer = Mixer::new();
        let sound = tone(amplitude, pieces.iter().sum());
        let mut at = 0;
        let mut out = Vec::new();
        for &length in pieces {
            let mut sum = vec![[0.0; 2]; length];
            for voice in 0..voices {
                mixer.add(&mut sum, &voice, &sound[at..at + length], true);
            }
            at += length;
            out.extend(mixer.finish(sum));
        }
        out
    }

    #[test]
    fn loud_rooms_do_not_clip() {
        let sound = mixed(&[48_000], 12, 0.9);
        assert!(sound.iter().all(|sample| sample.abs() < 1.0));
        // Settled, the sum is a clean sine below the ceiling.
        let settled = &sound[20_000..];
        assert!(settled.iter().all(|sample| sample.abs() <= CEILING + 0.001));
        assert!(largest_step(settled) < 0.1309 * CEILING * 1.05);
    }

    #[test]
    fn a_quiet_voice_is_left_alone_and_joins_are_not_heard() {
        let whole = mixed(&[19_200], 1, 0.5);
        let parts = mixed(&[9600, 4800, 4800], 1, 0.5);
        assert!(whole == parts);
        let original = tone(0.5, 19_200);
        assert!(
            original[RAMP..].iter().zip(whole[RAMP * 2..].chunks_exact(2)).all(|(a, b)| (a[0] - b[0]).abs() < 1e-4)
        );
    }

    #[test]
    fn a_mute_ramps() {
        let mut mixer = Mixer::new();
        let ones = vec![[0.5; 2]; 1000];
        let mut out = Vec::new();
        for is_audible in [true, false, true, false] {
            let mut sum = vec![[0.0; 2]; 1000];
            mixer.add(&mut sum, &1, &ones, is_audible);
            out.extend(sum);
        }
        assert!((out[900][0] - 0.5).abs() < 1e-4 && (out[2900][0] - 0.5).abs() < 1e-4);
        assert!(out[1600][0] < 1e-4 && out[3999][0] < 1e-4);
        assert!(out.windows(2).all(|pair| (pair[1][0] - pair[0][0]).abs() < 0.002));
        mixer.retain(|_| false);
        assert!(mixer.gains.is_empty());
    }

    #[test]
    fn speech_is_marked_a_little_longer_than_it_is_heard() {
        let mut meter = SpeechMeter::default();
        assert!(!meter.activity().speaking);
        meter.measure(&tone(0.1, 4800), 4800);
        assert!(meter.activity().speaking && meter.activity().level > 100);
        let marks = (0..7).map(|_| {
            meter.measure(&[], 4800);
            meter.activity().speaking
        });
        assert_eq!(marks.collect::<Vec<_>>(), [true, true, true, true, false, false, false]);
        assert_eq!(meter.activity().level, 0);
    }
}
