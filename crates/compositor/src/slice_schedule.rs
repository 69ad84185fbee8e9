//! Which slices are due: pure arithmetic on the two clocks.
//!
//! Slices are cut on the room's clock, windows on the log's. A slice is due when the windows have brought every live track past
//! the slice's end plus the reorder allowance; or when the log has moved on that far without one, so that a track that
//! fell silent holds up nobody; or when the final window is in. Nothing assumes that the two clocks run at one speed.
//!
//! A room that falls silent as a whole holds up its slices: a recording that ends as idle ended when the room was last heard, and a
//! slice behind that would be one too many. They are due together when it is heard again, or when the recording has ended.
//!
//! Owns which slices exist and where they are cut. Does not own rendering.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use roomreel_shared::event::EventKind;
use roomreel_shared::id::{SfuId, TrackId};
use roomreel_shared::late::Cuts;
use roomreel_shared::subject::Writer;
use roomreel_shared::time::{LogTime, RoomTime};
use roomreel_shared::window::{TrackKey, Window};

/// How late, on the room's clock, media may come and still be in its slice.
pub const REORDER_ALLOWANCE: Duration = Duration::from_millis(500);

/// A slice that can be rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueSlice {
    /// Its number, from 0.
    pub number: u64,
    /// Where it begins, from the start of the recording.
    pub start: Duration,
    /// Where it ends; the last slice ends with the recording.
    pub end: Duration,
    /// No slice follows.
    pub last: bool,
}

/// How far something has come, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    room: RoomTime,
    log: LogTime,
}

/// Follows the windows of one recording.
#[derive(Debug, Clone)]
pub struct SliceSchedule {
    slice: Duration,
    next: u64,
    /// What of the recording is rendered: slice 0 begins at its start.
    stretch: Range<Duration>,
    cuts: Cuts,
    room_start: Option<RoomTime>,
    log: LogTime,
    /// Where the log last brought anything from the room.
    heard: LogTime,
    /// The room as a whole, as if it were a track that never ends.
    room: Option<Seen>,
    /// Tracks that are expected to send.
    live: BTreeMap<TrackKey, Seen>,
    paused: BTreeSet<TrackKey>,
    end: Option<RoomTime>,
    finished: bool,
}

impl SliceSchedule {
    /// Slices of `slice` length, from number `first` on, of the whole recording.
    #[must_use]
    pub fn new(slice: Duration, first: u64) -> Self {
        Self::of_stretch(slice, first, Duration::ZERO..Duration::MAX, Cuts::default())
    }

    /// Slices of `slice` length, from number `first` on, of what `cuts` leave of a stretch of the recording; it ends no later than the recording.
    #[must_use]
    pub fn of_stretch(slice: Duration, first: u64, stretch: Range<Duration>, cuts: Cuts) -> Self {
        Self {
            slice: slice.max(Duration::from_millis(1)),
            next: first,
            stretch,
            cuts,
            room_start: None,
            log: LogTime::from_micros(i64::MIN),
            heard: LogTime::from_micros(i64::MIN),
            room: None,
            live: BTreeMap::new(),
            paused: BTreeSet::new(),
            end: None,
            finished: false,
        }
    }

    /// Takes the next window of the chain.
    pub fn on_window(&mut self, window: &Window) {
        let header = &window.header;
        self.room_start.get_or_insert(header.room_start);
        self.log = self.log.max(header.log_span.1);
        let log = self.log;
        let advance = |seen: Seen, room| if room > seen.room { Seen { room, log } } else { seen };
        self.room = Some(match self.room {
            Some(seen) => advance(seen, header.room_seen),
            None => Seen { room: header.room_seen, log },
        });
        if !window.segments.is_empty() || window.events.iter().any(|stored| stored.writer.sfu().is_some()) {
            self.heard = log;
        }
        for stored in &window.events {
            if let Writer::Sfu(sfu) = &stored.writer {
                self.on_event(sfu, &stored.event.kind, stored.event.time);
            }
        }
        for segment in &window.segments {
            // Media of a track nobody announced is not waited for.
            if let Some(seen) = self.live.get_mut(&segment.key) {
                *seen =
                    if segment.last_time > seen.room { Seen { room: segment.last_time, log: self.log } } else { *seen };
            }
        }
        if let Some(end) = header.end {
            self.end = Some(end.room_end);
        }
    }

    fn on_event(&mut self, sfu: &SfuId, event: &EventKind, time: RoomTime) {
        let key = |track: &TrackId| TrackKey { sfu: sfu.clone(), track: track.clone() };
        let seen = Seen { room: time, log: self.log };
        match event {
            EventKind::ProducerCreated(producer) => {
                self.live.insert(key(&producer.track), seen);
            }
            EventKind::ProducerClosed { track, .. } => {
                self.live.remove(&key(track));
                self.paused.remove(&key(track));
            }
            EventKind::ProducerPaused { track } if self.live.remove(&key(track)).is_some() => {
                self.paused.insert(key(track));
            }
            EventKind::ProducerResumed { track } if self.paused.remove(&key(track)) => {
                self.live.insert(key(track), seen);
            }
            _ => {}
        }
    }

    /// The next slice, if it is due. Each is given out once.
    pub fn next_due(&mut self) -> Option<DueSlice> {
        let room_start = self.room_start?;
        if self.finished {
            return None;
        }
        let number = self.next;
        let start = self.slice.saturating_mul(u32::try_from(number).unwrap_or(u32::MAX));
        let end = start + self.slice;
        let recorded = self.end.map(|room_end| room_end.saturating_since(room_start));
        let length = recorded.unwrap_or(Duration::MAX).min(self.stretch.end).saturating_sub(self.stretch.start);
        let length = self.cuts.shown_at(length);
        if recorded.is_some() {
            // A recording without any length has no slice; every other ends with one that has.
            if start >= length {
                self.finished = true;
                return None;
            }
            let last = end >= length;
            self.finished = last;
            self.next += 1;
            return Some(DueSlice { number, start, end: end.min(length), last });
        }
        let last = end >= length;
        let end = end.min(length);
        let is_due = self.is_complete(room_start + self.stretch.start + self.cuts.source_at(end));
        if !is_due {
            return None;
        }
        self.finished = last;
        self.next += 1;
        Some(DueSlice { number, start, end, last })
    }

    /// Whether the windows have brought all that happened before `t`, and what came late of it.
    #[must_use]
    pub fn is_complete(&self, t: RoomTime) -> bool {
        let complete_at = t + REORDER_ALLOWANCE;
        let passed = |seen: &Seen, log: LogTime| {
            let missing_us = complete_at.micros_since(seen.room);
            missing_us <= 0 || log.micros_since(seen.log) >= missing_us
        };
        // A clock of the room that stands still while the room is heard was set back: the log stands in for it.
        self.end.is_some()
            || self.room.iter().all(|room| passed(room, self.heard))
                && self.live.values().all(|track| passed(track, self.log))
    }

    /// The final window is in and every slice has been given out.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }
}

#[cfg(test)]
mod tests {
    use roomreel_shared::batch::Incarnation;
    use roomreel_shared::event::{Codec, CodecParameters, Encoding, Producer, RoomEvent, StopReason};
    use roomreel_shared::id::{PeerId, RecordingId, RoomId, TenantId};
    use roomreel_shared::late::Division;
    use roomreel_shared::policy::TrackKind;
    use roomreel_shared::rtp::{PayloadType, Ssrc};
    use roomreel_shared::window::{self, Final, Header, SealedSegment, SegmentFrames};

    use super::*;

    /// Windows of 4 s of the log, written down in seconds of either clock.
    struct Story {
        schedule: SliceSchedule,
        windows: u64,
    }

    fn log(s: f64) -> LogTime {
        LogTime::from_micros((s * 1e6) as i64)
    }

    fn room(s: f64) -> RoomTime {
        RoomTime::from_micros(1_000_000_000 + (s * 1e6) as i64)
    }

    fn track(name: &str) -> TrackId {
        TrackId::new(name).expect("valid")
    }

    fn created(name: &str) -> EventKind {
        EventKind::ProducerCreated(Producer {
            track: track(name),
            peer: PeerId::new("p").expect("valid"),
            kind: TrackKind::Audio,
            is_audio: true,
            codecs: vec![CodecParameters {
                payload_type: PayloadType(111),
                codec: Codec::Opus,
                clock_rate: 48_000,
                channels: 2,
                fmtp: String::new(),
            }],
            encodings: vec![Encoding { ssrc: Ssrc(1), rid: None, rtx_ssrc: None }],
            header_extensions: Vec::new(),
        })
    }

    impl Story {
        fn new() -> Self {
            Self { schedule: SliceSchedule::new(Duration::from_secs(4), 0), windows: 0 }
        }

        /// A window that brings the room and some tracks so far; what is due then.
        fn window(
            &mut self,
            seen: f64,
            events: &[(f64, EventKind)],
            tracks: &[(&str, f64)],
            end: Option<f64>,
        ) -> Vec<DueSlice> {
            let (k, sfu) = (self.windows, SfuId::new("sfu").expect("valid"));
            self.windows += 1;
            let name = RoomId::new("r").expect("valid");
            let header = Header {
                tenant: TenantId::new("t").expect("valid"),
                room: name.clone(),
                recording: RecordingId::new("x").expect("valid"),
                window: k,
                epoch: 1,
                nonce: 1,
                previous: (k > 0).then(|| window::Hash::of(b"before")),
                log_span: (log(4.0 * k as f64), log(4.0 * (k + 1) as f64)),
                room_start: room(0.0),
                room_seen: room(seen),
                window_duration_us: 4_000_000,
                trace_parent: None,
                gaps: Vec::new(),
                carry_over: Default::default(),
                end: end.map(|at| Final { reason: StopReason::RoomClosed, room_end: room(at) }),
            };
            let segments: Vec<_> = tracks
                .iter()
                .map(|(name, last)| SealedSegment {
                    key: TrackKey { sfu: sfu.clone(), track: track(name) },
                    frames: SegmentFrames::default().seal(),
                    packets: 1,
                    invalid_packets: 0,
                    span: (room(0.0), room(*last)),
                    keyframes: Vec::new(),
                })
                .collect();
            let incarnation = Incarnation::new(1).expect("not 0");
            let events: Vec<_> = (0..)
                .zip(events)
                .map(|(event_no, (at, kind))| {
                    let event =
                        RoomEvent { room: name.clone(), incarnation, event_no, time: room(*at), kind: kind.clone() };
                    (Writer::Sfu(sfu.clone()), log(4.0 * k as f64), event.encode())
                })
                .collect();
            let object = window::encode(&header, &segments, &events);
            self.schedule.on_window(&Window::parse(object).expect("a window"));
            std::iter::from_fn(|| self.schedule.next_due()).collect()
        }
    }

    fn numbers(due: &[DueSlice]) -> Vec<u64> {
        due.iter().map(|slice| slice.number).collect()
    }

    #[test]
    fn a_slice_waits_for_every_live_track_and_the_allowance() {
        let mut story = Story::new();
        assert!(
            story.window(4.4, &[(0.0, created("a")), (0.0, created("b"))], &[("a", 4.4), ("b", 4.4)], None).is_empty()
        );
        assert!(story.window(8.4, &[], &[("a", 8.4), ("b", 4.45)], None).is_empty(), "b is behind");
        assert_eq!(numbers(&story.window(12.6, &[], &[("a", 12.6), ("b", 8.6)], None)), [0, 1]);
    }

    #[test]
    fn a_silent_track_holds_up_nobody_for_long() {
        let mut story = Story::new();
        assert!(
            story.window(4.0, &[(0.0, created("a")), (0.0, created("b"))], &[("a", 4.0), ("b", 3.0)], None).is_empty()
        );
        // The log has 4 s to go on without b until it counts as 1.5 s ahead.
        assert_eq!(numbers(&story.window(8.0, &[], &[("a", 8.0)], None)), [0]);
        assert_eq!(numbers(&story.window(12.0, &[], &[("a", 12.0)], None)), [1]);
    }

    #[test]
    fn the_slices_of_a_silent_room_wait_for_its_voice_or_its_end() {
        let mut silent = Story::new();
        assert_eq!(numbers(&silent.window(4.6, &[(0.0, created("a"))], &[("a", 4.6)], None)), [0]);
        assert_eq!(numbers(&silent.window(9.0, &[], &[("a", 9.0)], None)), [1]);
        // A minute of ticks.
        for _ in 0..15 {
            assert!(silent.window(9.0, &[], &[], None).is_empty());
        }
        let mut heard = Story { schedule: silent.schedule.clone(), windows: silent.windows };
        let due = heard.window(70.0, &[(69.9, EventKind::ActiveSpeaker { peer: None, level: 0 })], &[], None);
        assert_eq!(numbers(&due), (2..17).collect::<Vec<_>>(), "what was held back comes at once");

        let due = silent.window(9.0, &[], &[], Some(9.0));
        assert_eq!(due.iter().map(|due| (due.number, due.end.as_secs(), due.last)).collect::<Vec<_>>(), [(2, 9, true)]);
        let slices = Division::of(Duration::from_secs(9), Duration::from_secs(4)).slices;
        assert_eq!(slices, 3, "as many as there were");
    }

    #[test]
    fn a_room_whose_clock_was_set_back_goes_on() {
        let mut story = Story::new();
        assert_eq!(numbers(&story.window(4.6, &[(0.0, created("a"))], &[("a", 4.6)], None)), [0]);
        assert_eq!(numbers(&story.window(4.6, &[], &[("a", 1.0)], None)), [1]);
        assert_eq!(numbers(&story.window(4.6, &[], &[("a", 2.0)], None)), [2]);
    }

    #[test]
    fn who_pauses_or_ends_is_not_waited_for() {
        let mut story = Story::new();
        let paused = EventKind::ProducerPaused { track: track("b") };
        let closed = EventKind::ProducerClosed { track: track("c"), reason: String::new() };
        let events = [(0.0, created("a")), (0.0, created("b")), (0.0, created("c")), (1.0, paused), (1.0, closed)];
        assert_eq!(numbers(&story.window(4.6, &events, &[("a", 4.6), ("b", 1.0), ("c", 1.0)], None)), [0]);
        let resumed = EventKind::ProducerResumed { track: track("b") };
        assert!(story.window(8.6, &[(8.0, resumed)], &[("a", 8.6)], None).is_empty(), "it is waited for again");
    }

    #[test]
    fn room_time_may_run_faster_than_the_log() {
        let mut story = Story::new();
        let due = story.window(17.0, &[(0.0, created("a"))], &[("a", 17.0)], None);
        assert_eq!(numbers(&due), [0, 1, 2, 3], "one window, four slices");
    }

    #[test]
    fn a_stretch_has_slices_of_its_own_and_ends_before_the_recording() {
        let stretch = |from, to| Duration::from_secs_f64(from)..Duration::from_secs_f64(to);
        let mut story = Story::new();
        story.schedule = SliceSchedule::of_stretch(Duration::from_secs(4), 0, stretch(2.5, 7.5), Cuts::default());
        assert!(story.window(6.9, &[(0.0, created("a"))], &[("a", 6.9)], None).is_empty(), "6.5 s and the allowance");
        let due = story.window(12.0, &[], &[("a", 12.0)], None);
        let told: Vec<_> = due.iter().map(|due| (due.start.as_secs(), due.end.as_secs(), due.last)).collect();
        assert_eq!(told, [(0, 4, false), (4, 5, true)]);
        assert!(story.schedule.is_finished());
        let mut beyond = Story::new();
        beyond.schedule = SliceSchedule::of_stretch(Duration::from_secs(4), 1, stretch(2.0, 60.0), Cuts::default());
        let due = beyond.window(9.0, &[], &[], Some(9.0));
        assert_eq!(due.iter().map(|due| (due.number, due.end.as_secs(), due.last)).collect::<Vec<_>>(), [(1, 7, true)]);
    }

    #[test]
    fn what_is_left_out_takes_no_time() {
        let mut story = Story::new();
        let stretch = Duration::from_secs(1)..Duration::from_secs(60);
        let cuts = Cuts::try_from(vec![(2, 5), (6, 7)]).expect("in order");
        story.schedule = SliceSchedule::of_stretch(Duration::from_secs(4), 0, stretch, cuts);
        // Four seconds are 0 to 2, 5 to 6, and 7 to 8 behind the first second.
        assert!(story.window(9.4, &[(0.0, created("a"))], &[("a", 9.4)], None).is_empty());
        assert_eq!(numbers(&story.window(9.6, &[], &[("a", 9.6)], None)), [0]);
        let due = story.window(15.0, &[], &[], Some(15.0));
        let told: Vec<_> = due.iter().map(|due| (due.start.as_secs(), due.end.as_secs(), due.last)).collect();
        assert_eq!(told, [(4, 8, false), (8, 10, true)], "fourteen less four");
    }

    #[test]
    fn the_last_slice_ends_with_the_recording() {
        for (end, last) in [(9.5, Some((2, 9.5))), (8.0, Some((1, 8.0))), (0.0, None)] {
            let mut story = Story::new();
            let due = story.window(end, &[(0.0, created("a"))], &[], Some(end));
            let seen = due.last().map(|slice| (slice.number, slice.end.as_secs_f64()));
            assert_eq!(seen, last);
            assert!(due.iter().rev().skip(1).all(|slice| !slice.last) && due.last().is_none_or(|slice| slice.last));
            assert!(story.schedule.is_finished() && story.schedule.next_due().is_none());
        }
    }
}
