//! The room's clock as the fold believes it: the newest room time, held against log time.
//!
//! SFUs' clocks are hostile input: one packet from tomorrow must not make a recording a day long. So room time may advance at
//! most [`MAX_SPEED`] times as fast as log time (a capture may be played that fast), and what is ahead of that is not believed.

use std::time::Duration;

use roomreel_shared::time::{LogTime, RoomTime};

/// Fastest that a capture may be played into the log.
const MAX_SPEED: u32 = 16;
/// What room time may be ahead by all the same: batches come in bursts.
pub(crate) const SLACK: Duration = Duration::from_secs(10);

/// Newest believed pair of room time and the log time it was seen at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RoomClock {
    pair: Option<(RoomTime, LogTime)>,
}

impl RoomClock {
    pub(crate) fn new(pair: Option<(RoomTime, LogTime)>) -> Self {
        Self { pair }
    }

    /// What was seen last, for the carry-over.
    pub(crate) fn pair(&self) -> Option<(RoomTime, LogTime)> {
        self.pair
    }

    /// Newest room time.
    pub(crate) fn newest(&self) -> Option<RoomTime> {
        self.pair.map(|(room, _)| room)
    }

    /// An entry stored at `log` says that it is `room`.
    pub(crate) fn observe(&mut self, room: RoomTime, log: LogTime) {
        if self.newest().is_none_or(|newest| room >= newest && self.is_believable(room, log)) {
            self.pair = Some((room, log));
        }
    }

    /// Whether `room` is not too far ahead at `log`.
    pub(crate) fn is_believable(&self, room: RoomTime, log: LogTime) -> bool {
        self.pair.is_none_or(|(newest, since)| {
            room <= newest + log.saturating_since(since).saturating_mul(MAX_SPEED) + SLACK
        })
    }

    /// Room time at log time `log`, if the room goes on at the log's speed.
    pub(crate) fn at(&self, log: LogTime) -> Option<RoomTime> {
        self.pair.map(|(room, since)| room + log.saturating_since(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(s: i64) -> RoomTime {
        RoomTime::from_micros(s * 1_000_000)
    }

    fn log(s: i64) -> LogTime {
        LogTime::from_micros(s * 1_000_000)
    }

    #[test]
    fn hostile_times_are_not_believed() {
        let mut clock = RoomClock::default();
        clock.observe(room(1000), log(5));
        for (time, at, expected, what) in [
            (1001, 6, 1001, "real time"),
            (900, 7, 1001, "the past"),
            (1001 + 20 * 3600, 7, 1001, "tomorrow"),
            (1017, 8, 1017, "eight times as fast"),
            (1025, 9, 1025, "eight times as fast, again"),
        ] {
            clock.observe(room(time), log(at));
            assert_eq!(clock.newest(), Some(room(expected)), "{what}");
        }
        assert_eq!(clock.at(log(12)), Some(room(1028)));
        clock.observe(room(1025 + 3600), log(9 + 300));
        assert_eq!(clock.newest(), Some(room(1025 + 3600)), "a clock that was set is believed in the end");
    }
}
