//! When anything was received in a recording, as the footers of its windows tell, and what of a stretch that leaves.
//!
//! Owns the pauses. A footer says when the first and the last packet of a track came in its window, not what lies between: a pause that lies
//! within a window of a track is none.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use roomreel_shared::late::Cuts;
use roomreel_shared::time::RoomTime;
use roomreel_shared::window::Window;

/// Silences up to this long are none: somebody draws breath, a network falters.
const LEAST_PAUSE_US: u64 = 3_000_000;
/// So much of a pause stays on either side: the end of the last packet, and a moment to see that it is over.
const MARGIN_US: u64 = 500_000;
/// Most pauses that are left out, the longest ones: they travel with every job.
const MAX_CUTS: usize = 500;

/// When there was media, on the recording's clock: parts without a pause, by their begin, in microseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Media {
    parts: BTreeMap<u64, u64>,
}

impl Media {
    /// Takes what a window received.
    pub(super) fn see(&mut self, window: &Window) {
        let begin = window.header.room_start;
        let at = |time: RoomTime| u64::try_from(time.micros_since(begin).max(0)).unwrap_or_default();
        for sent in window.segments.iter().filter(|segment| segment.packets > segment.invalid_packets) {
            self.add(at(sent.first_time)..at(sent.last_time));
        }
    }

    /// Joins a part with those that no pause lies between.
    fn add(&mut self, part: Range<u64>) {
        let (mut from, mut to) = (part.start, part.end.max(part.start));
        while let Some((&begin, &end)) = self.parts.range(..=to.saturating_add(LEAST_PAUSE_US)).next_back()
            && end.saturating_add(LEAST_PAUSE_US) >= from
        {
            self.parts.remove(&begin);
            (from, to) = (from.min(begin), to.max(end));
        }
        self.parts.insert(from, to);
    }

    /// What of a stretch is left without its empty head and tail, in whole milliseconds, and what is left out between. One without any media
    /// stays as it is.
    pub(super) fn trim(&self, stretch: Range<Duration>) -> (Range<Duration>, Cuts) {
        let us = |at: Duration| u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        let asked = us(stretch.start)..us(stretch.end);
        let inside: Vec<_> = (self.parts.iter())
            .map(|(from, to)| {
                (from / 1000 * 1000).max(asked.start)
                    ..to.max(&(from + 1)).div_ceil(1000).saturating_mul(1000).min(asked.end)
            })
            .filter(|part| part.start < part.end)
            .collect();
        let (Some(first), Some(last)) = (inside.first(), inside.last()) else { return (stretch, Cuts::default()) };
        let left = first.start..last.end;
        let mut cuts: Vec<_> = inside.windows(2).filter_map(|two| cut(two[0].end..two[1].start, left.start)).collect();
        cuts.sort_by_key(|(from, to)| std::cmp::Reverse(to - from));
        cuts.truncate(MAX_CUTS);
        cuts.sort_unstable();
        let left = Duration::from_micros(left.start)..Duration::from_micros(left.end);
        (left, Cuts::try_from(cuts).expect("pauses are in order, and media lies between them"))
    }
}

/// The whole seconds of a pause that are left out.
fn cut(pause: Range<u64>, begin: u64) -> Option<(u32, u32)> {
    let from = (pause.start.saturating_add(MARGIN_US) - begin).div_ceil(1_000_000);
    let to = pause.end.saturating_sub(begin).saturating_sub(MARGIN_US) / 1_000_000;
    let (from, to) = (u32::try_from(from).ok()?, u32::try_from(to).ok()?);
    (from < to).then_some((from, to))
}

#[cfg(test)]
mod tests {
    use roomreel_backends::memory::MemoryStore;
    use roomreel_shared::composite::CompositeSpec;
    use roomreel_shared::event::StopReason;
    use roomreel_shared::key::RecordingName;
    use roomreel_shared::late::LateSpec;
    use roomreel_shared::ports::ObjectStore as _;
    use roomreel_shared::window::{self, Final, Hash, Header, SealedSegment, SegmentFrames, TrackKey};
    use roomreel_shared::wire;
    use time::OffsetDateTime;

    use super::*;
    use crate::late::Source;
    use crate::testing::id;

    fn media(parts: &[(u64, u64)]) -> Media {
        let mut media = Media::default();
        parts.iter().for_each(|(from, to)| media.add(*from..*to));
        media
    }

    fn stretch(from: u64, to: u64) -> Range<Duration> {
        Duration::from_micros(from)..Duration::from_micros(to)
    }

    #[test]
    fn an_empty_head_and_tail_are_left_out() {
        let some = media(&[(2_000_700, 7_999_100)]);
        for (asked, media, left) in [
            (stretch(0, 10_000_000), &some, stretch(2_000_000, 8_000_000)),
            (stretch(0, 10_000_000), &Media::default(), stretch(0, 10_000_000)),
            (stretch(3_000_000, 10_000_000), &some, stretch(3_000_000, 8_000_000)),
            (stretch(0, 5_000_000), &some, stretch(2_000_000, 5_000_000)),
            (stretch(4_000_000, 5_000_000), &some, stretch(4_000_000, 5_000_000)),
            // Nothing would be left.
            (stretch(0, 2_000_000), &some, stretch(0, 2_000_000)),
            (stretch(9_000_000, 10_000_000), &some, stretch(9_000_000, 10_000_000)),
            // The recording ended before the last packet was received.
            (stretch(0, 7_000_000), &some, stretch(2_000_000, 7_000_000)),
        ] {
            assert_eq!(media.trim(asked.clone()), (left, Cuts::default()), "{asked:?}");
        }
    }

    #[test]
    fn pauses_are_left_out_in_whole_seconds() {
        let second = 1_000_000;
        let talk = media(&[
            (20 * second, 24 * second),
            (2_300_000, 9 * second),
            (26 * second, 30 * second),
            (8 * second, 11_100_000),
            (60 * second, 60 * second),
        ]);
        // Two seconds between 24 and 26 are no pause.
        assert_eq!(
            talk.parts,
            BTreeMap::from([(2_300_000, 11_100_000), (20 * second, 30 * second), (60 * second, 60 * second)])
        );
        let cuts = |cuts: &[(u32, u32)]| Cuts::try_from(cuts.to_vec()).expect("in order");
        // Behind 2.3 s: media ends at 8.8, 9.3 with the margin, and begins at 17.7, 17.2 with it.
        let (left, left_out) = talk.trim(stretch(0, 61 * second));
        assert_eq!((left, left_out), (stretch(2_300_000, 60_001_000), cuts(&[(10, 17), (29, 57)])));
        // What is asked for begins in a pause, and ends in one.
        assert_eq!(talk.trim(stretch(15 * second, 40 * second)), (stretch(20 * second, 30 * second), Cuts::default()));
        assert_eq!(talk.trim(stretch(35 * second, 40 * second)), (stretch(35 * second, 40 * second), Cuts::default()));
    }

    #[test]
    fn the_longest_pauses_are_left_out_if_there_are_too_many() {
        let mut talk = Media::default();
        // A second of media, and a pause of ten or of twenty.
        let mut at = 0;
        for number in 0..1001_u64 {
            talk.add(at..at + 1_000_000);
            at += if number % 2 == 0 { 11_000_000 } else { 21_000_000 };
        }
        let (_, cuts) = talk.trim(stretch(0, at));
        let cuts: Vec<_> = cuts.at_rate(1).collect();
        assert_eq!(cuts.len(), MAX_CUTS);
        assert!(cuts.iter().all(|cut| cut.end - cut.start == 18), "{:?}", cuts[0]);
    }

    #[test]
    fn no_times_are_too_odd() {
        let talk = media(&[(0, 0), (u64::MAX, u64::MAX), (u64::MAX - 9, 4), (5, u64::MAX)]);
        assert_eq!(talk.parts.len(), 1);
        let (left, cuts) = talk.trim(Duration::ZERO..Duration::from_secs(9));
        assert_eq!((left, cuts.is_empty()), (Duration::ZERO..Duration::from_secs(9), true));
    }

    /// What a window tells of a track, in milliseconds of the recording.
    fn segment(from_ms: i64, to_ms: i64, packets: u32, invalid_packets: u32) -> SealedSegment {
        let at = |ms: i64| RoomTime::from_micros(1_000_000_000 + ms * 1000);
        SealedSegment {
            key: TrackKey { sfu: id("sfu"), track: id(&format!("track-{from_ms}")) },
            frames: SegmentFrames::default().seal(),
            packets,
            invalid_packets,
            span: (at(from_ms), at(to_ms)),
            keyframes: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_late_render_is_as_long_as_what_is_left() {
        let name = RecordingName { tenant: id("acme"), room: id("room"), recording: id("01r") };
        let store = MemoryStore::new();
        let received = [
            vec![segment(1_200, 3_900, 9, 0), segment(2_000, 3_000, 9, 9)],
            // Nothing of it can be read.
            vec![segment(5_000, 7_000, 2, 2)],
            vec![],
            vec![segment(12_600, 15_000, 9, 1), segment(12_900, 14_000, 9, 0)],
        ];
        for (number, segments) in (0..).zip(&received) {
            let header = Header {
                tenant: name.tenant.clone(),
                room: name.room.clone(),
                recording: name.recording.clone(),
                window: number,
                epoch: 1,
                nonce: 1,
                previous: (number > 0).then(|| Hash::of(b"before")),
                log_span: Default::default(),
                room_start: RoomTime::from_micros(1_000_000_000),
                room_seen: RoomTime::from_micros(1_000_000_000),
                window_duration_us: 4_000_000,
                gaps: Vec::new(),
                carry_over: wire::CarryOver::default(),
                end: (number == 3).then_some(Final {
                    reason: StopReason::RoomClosed,
                    room_end: RoomTime::from_micros(1_016_000_000),
                }),
                trace_parent: None,
            };
            store.create(&name.keys().window(number), window::encode(&header, segments, &[])).await.expect("memory");
        }
        for (layout, shown_ms, slices) in [
            (r#"{"regions": {"main": {}}}"#, vec![(0, 16_000)], 4),
            // A pause from 3.9 to 12.6 s: 3.2 to 10.9 behind the begin with what stays of it.
            (r#"{"regions": {"main": {}}, "trim": true}"#, vec![(1_200, 5_200), (11_200, 15_000)], 2),
        ] {
            let composite = CompositeSpec { layout: layout.to_owned(), ..CompositeSpec::default() };
            let spec = LateSpec { composite, from_ms: 0, to_ms: None, hidden: None };
            let source = Source::asked(&store, &name, &spec).await.expect("it has ended");
            let asked = source.render(spec, "amara", OffsetDateTime::UNIX_EPOCH).expect("a layout");
            assert_eq!((asked.render.shown_ms, asked.division.slices), (shown_ms.clone(), slices));
            let length: u64 = shown_ms.iter().map(|(from, to)| to - from).sum();
            assert_eq!(asked.render.duration_ms, length);
        }
    }
}
