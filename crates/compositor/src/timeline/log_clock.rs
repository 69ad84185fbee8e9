//! Log time to room time, for the coordinator's entries: their own clock is neither an SFU's nor the log's.

use roomreel_shared::time::{LogTime, RoomTime};
use roomreel_shared::window::{Header, StoredEvent};

/// Follows the pairs of the two clocks that windows carry. A capture played faster than real time changes their ratio.
#[derive(Debug, Default, Clone)]
pub struct LogClock {
    /// The newest pairs, oldest first.
    pairs: Option<[(LogTime, RoomTime); 2]>,
}

impl LogClock {
    /// Learns from a window, before its events are asked for.
    pub fn see(&mut self, header: &Header) {
        let carry = &header.carry_over;
        let before = match self.pairs {
            Some([_, newest]) => newest,
            None => (header.log_span.0, header.room_start),
        };
        let known = carry.room_clock_log_us != 0;
        let now = if known {
            (LogTime::from_micros(carry.room_clock_log_us), RoomTime::from_micros(carry.room_clock_us))
        } else {
            (header.log_span.1, header.room_seen)
        };
        self.pairs = Some([before, now.max(before)]);
    }

    /// Room time of the log at `log_time`.
    #[must_use]
    pub fn room_time(&self, log_time: LogTime) -> RoomTime {
        let Some([(log_0, room_0), (log_1, room_1)]) = self.pairs else { return RoomTime::default() };
        let elapsed = log_time.micros_since(log_0).max(0);
        let span = log_1.micros_since(log_0);
        if elapsed >= span {
            return room_1.offset_micros(elapsed.saturating_sub(span));
        }
        let room_span = room_1.micros_since(room_0).max(0);
        let share = i128::from(room_span) * i128::from(elapsed) / i128::from(span);
        room_0.offset_micros(i64::try_from(share).unwrap_or(i64::MAX))
    }

    /// When an event happened on the room's clock.
    #[must_use]
    pub fn time_of(&self, stored: &StoredEvent) -> RoomTime {
        if stored.writer.sfu().is_some() { stored.event.time } else { self.room_time(stored.log_time) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpolates_between_pairs_and_goes_on_in_real_time() {
        let log = LogTime::from_micros;
        let room = RoomTime::from_micros;
        // A capture at speed 4: 1 s of the log is 4 s of the room.
        let clock = LogClock { pairs: Some([(log(0), room(100)), (log(1_000_000), room(4_000_100))]) };
        assert_eq!(clock.room_time(log(-5)), room(100));
        assert_eq!(clock.room_time(log(500_000)), room(2_000_100));
        assert_eq!(clock.room_time(log(1_500_000)), room(4_500_100));
        assert_eq!(LogClock::default().room_time(log(7)), room(0));
    }
}
