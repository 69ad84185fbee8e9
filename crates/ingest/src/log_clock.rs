//! Log time: what the log's clock says, less its steps backwards.
//!
//! The server that leads the log stamps its entries, and another one's clock may be behind. Log time goes on from where it was
//! then, or nothing would be sealed, asked for or given up until that clock has caught up. A step forwards cannot be told from
//! silence and counts.
//!
//! Owns where steps were. They are kept by sequence: an entry that is read again has the time it had (I3).

use std::collections::VecDeque;
use std::time::Duration;

use roomreel_shared::time::LogTime;
use roomreel_shared::wire;

/// Time-outs are looked at whenever log time passes a multiple of this: a grid, so that they do not depend on where reading began.
const GRID_US: i64 = 100_000;

/// The grid's last point up to a log time.
pub(crate) fn on_grid(time: LogTime) -> LogTime {
    LogTime::from_micros(time.as_micros().div_euclid(GRID_US).saturating_mul(GRID_US))
}

/// What is no step: entries of several servers, a clock that is corrected.
pub(crate) const SLACK: Duration = Duration::from_secs(5);
/// Most steps that are kept; entries from before them are not read again.
const MAX_STEPS: usize = 64;

/// The steps, and what they add up to.
#[derive(Debug, Default)]
pub(crate) struct LogClock {
    /// From this sequence on, log time is ahead of the log's clock by so many microseconds.
    steps: VecDeque<(u64, i64)>,
    /// The log was rolled back: its entries are old until they have caught up.
    rewound: bool,
}

impl LogClock {
    /// Log time of an entry which the log's clock says was stored at `stored`; `now` is the newest log time, and entries up
    /// to `seen` were read before.
    pub(crate) fn time(&mut self, sequence: u64, stored: LogTime, now: LogTime, seen: u64) -> LogTime {
        let step = self.steps.iter().rev().find(|(from, _)| *from <= sequence);
        let time = stored.offset_micros(step.map_or(0, |(_, ahead)| *ahead));
        if sequence <= seen {
            return time;
        }
        let is_behind = time + SLACK < now;
        if !is_behind {
            self.rewound = false;
        } else if !self.rewound {
            self.steps.retain(|(from, _)| *from < sequence);
            self.steps.push_back((sequence, now.micros_since(stored)));
            if self.steps.len() > MAX_STEPS {
                self.steps.pop_front();
            }
            return now;
        }
        time
    }

    /// The log was rolled back and ends at sequence `end`: up to there it is what it was. What comes behind that is written now,
    /// by the clock that was set back.
    pub(crate) fn on_rewound(&mut self, end: u64) {
        let newest = self.steps.back().copied();
        self.steps.retain(|(from, _)| *from <= end);
        self.steps.extend(newest.filter(|(from, _)| *from > end).map(|(_, ahead)| (end + 1, ahead)));
        self.rewound = true;
    }

    /// Reads what [`LogClock::write`] wrote.
    pub(crate) fn read(carry: &wire::CarryOver) -> Self {
        let steps = carry.clock_steps.iter().map(|step| (step.sequence, step.ahead_us)).take(MAX_STEPS).collect();
        Self { steps, rewound: carry.rewound }
    }

    /// Writes what is needed for entries behind `carry.log_sequence`.
    pub(crate) fn write(&self, carry: &mut wire::CarryOver) {
        let past = self.steps.iter().filter(|(from, _)| *from <= carry.log_sequence).count();
        let steps = self.steps.iter().skip(past.saturating_sub(1));
        carry.clock_steps = steps.map(|&(sequence, ahead_us)| wire::ClockStep { sequence, ahead_us }).collect();
        carry.rewound = self.rewound;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: i64) -> LogTime {
        LogTime::from_micros(s * 1_000_000)
    }

    #[test]
    fn steps_backwards_are_left_out() {
        let mut clock = LogClock::default();
        let (mut now, mut seen) = (at(i64::MIN / 1_000_000), 0);
        let entries = [
            (1000, 1000, "the first"),
            (1010, 1010, "goes on"),
            (1006, 1006, "a small step stays what it is"),
            (410, 1010, "ten minutes back"),
            (412, 1012, "goes on from there"),
            (1011, 1611, "forwards counts"),
            (10, 1611, "back again"),
            (11, 1612, "and on"),
        ];
        for (sequence, (stored, expected, what)) in (1..).zip(entries) {
            let time = clock.time(sequence, at(stored), now, seen);
            assert_eq!(time, at(expected), "{what}");
            now = now.max(time);
            seen = sequence;
            let mut carry = wire::CarryOver { log_sequence: 2, ..Default::default() };
            clock.write(&mut carry);
            clock = LogClock::read(&carry);
        }
        for (sequence, (stored, expected, what)) in (1..).zip(entries) {
            assert_eq!(clock.time(sequence, at(stored), now, seen), at(expected), "{what}, read again");
        }
        let mut carry = wire::CarryOver { log_sequence: 5, ..Default::default() };
        clock.write(&mut carry);
        assert_eq!(carry.clock_steps.iter().map(|step| step.sequence).collect::<Vec<_>>(), [4, 7]);
    }

    #[test]
    fn a_log_that_is_read_again_is_no_clock_that_was_set_back() {
        let mut clock = LogClock::default();
        clock.on_rewound(0);
        assert_eq!(clock.time(1, at(100), at(1000), 0), at(100));
        assert_eq!(clock.time(2, at(996), at(1000), 1), at(996), "it has caught up");
        assert_eq!(clock.time(3, at(500), at(1000), 2), at(1000), "and was set back then");
    }

    #[test]
    fn what_a_log_that_was_rolled_back_has_kept_has_the_time_it_had() {
        for (end, steps) in [(9, vec![(4, 600), (7, 1200)]), (5, vec![(4, 600), (6, 1200)]), (2, vec![(3, 1200)])] {
            let mut clock =
                LogClock { steps: [(4, 600), (7, 1200)].map(|(from, s)| (from, s * 1_000_000)).into(), rewound: false };
            clock.on_rewound(end);
            assert_eq!(
                Vec::from(clock.steps.clone()),
                steps.iter().map(|(from, s)| (*from, s * 1_000_000)).collect::<Vec<_>>()
            );
            assert_eq!(clock.time(1, at(1000), at(1700), 0), at(1000), "from before the first step");
            assert_eq!(
                clock.time(end + 1, at(500), at(1700), end),
                at(1700),
                "written since, by the clock that was set back"
            );
        }
    }
}
