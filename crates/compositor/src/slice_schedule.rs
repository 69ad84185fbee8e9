//! Which slices are due: pure arithmetic on the two clocks.
//!
//! Slices are cut on the room's clock, windows on the log's. A slice is due when the windows have brought every live track past
//! the slice's end plus the reorder allowance; or when the log has moved on that far without one, so that a track that
//! fell silent holds up nobody; or when the final window is in. Nothing assumes that the two clocks run at one speed.
//!
//! Owns which slices exist and where they are cut. Does not own rendering.

use std::collections::BTreeMap;
use std::time::Duration;

use roomreel_shared::event::EventKind;
use roomreel_shared::id::{SfuId, TrackId};
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
    room_start: Option<RoomTime>,
    log: LogTime,
    /// The room as a whole, as if it were a track that never ends.
    room: Option<Seen>,
    /// Tracks that are expected to send.
    live: BTreeMap<TrackKey, Seen>,
    paused: BTreeMap<TrackKey, Seen>,
    end: Option<RoomTime>,
    finished: bool,
}

impl SliceSchedule {
    /// Slices of `slice` length, from number `first` on.
    #[must_use]
    pub fn new(slice: Duration, first: u64) -> Self {
        Self {
            slice: slice.max(Duration::from_millis(1)),
            next: first,
            room_start: None,
            log: LogTime::from_micros(i64::MIN),
            room: None,
            live: BTreeMap::new(),
            paused: BTreeMap::new(),
            end: None,
            finished: false,
        }
    }

    /// Takes the next window of the chain.
    pub fn on_window(&mut self, window: &Window) {
        let header = &window.header;
        self.room_start.get_or_insert(header.room_start);
        self.log = self.log.max(header.log_span.1);
        let advance = |seen: Seen, room: RoomTime| {
            if room > seen.room { Seen { room, log: self.log } } else { seen }
        };
        self.room = Some(match self.room {
            Some(seen) => advance(seen, header.room_seen),
            None => Seen { room: header.room_seen, log: self.log },
        });
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
            EventKind::ProducerPaused { track } => {
                if let Some(seen) = self.live.remove(&key(track)) {
                    self.paused.insert(key(track), seen);
                }
            }
            EventKind::ProducerResumed { track } => {
                if self.paused.remove(&key(track)).is_some() {
                    self.live.insert(key(track), seen);
                }
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
        if let Some(room_end) = self.end {
            let length = room_end.saturating_since(room_start);
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
        let complete_at = room_start + end + REORDER_ALLOWANCE;
        let passed = |seen: &Seen| {
            let missing_us = complete_at.micros_since(seen.room);
            missing_us <= 0 || self.log.micros_since(seen.log) >= missing_us
        };
        if !self.room.iter().chain(self.live.values()).all(passed) {
            return None;
        }
        self.next += 1;
        Some(DueSlice { number, start, end, last: false })
    }

    /// The final window is in and every slice has been given out.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }
}
