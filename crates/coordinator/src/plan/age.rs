//! How old a recording is, and for how long its room has been silent, where one clock of several may be wrong.
//!
//! Three clocks tell a recording's age: the leader's, the broker's, which stamps the log, and the SFU's, by which it has its length. What two
//! of them say is believed, so that no leader, broker or SFU whose clock is ahead ends a recording. A clock that stands still says nothing
//! after a while: whoever it belongs to is gone, and the recording has to reach its end without it (I6).
//!
//! Pure. Owns what the clocks showed when they last moved, and since when by the leader's monotonic clock. Does not own the limits.

use std::collections::BTreeMap;
use std::time::Duration;

use roomreel_shared::id::RecordingId;
use roomreel_shared::time::LogTime;

/// What is known of one recording's clocks now.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Clocks {
    /// Since it was started, by the wall clock of this leader, and by that of the one that started it.
    pub(super) wall: Duration,
    /// When the log had its beginning.
    pub(super) log_began: Option<LogTime>,
    /// When the newest entry of its room was stored, ticks included.
    pub(super) log_newest: Option<LogTime>,
    /// When the newest entry of an SFU that was folded was stored, beside the newest of all that were.
    pub(super) folded: Option<(LogTime, LogTime)>,
    /// How long it is, on the SFU's clock.
    pub(super) length: Option<Duration>,
}

/// What a clock showed when it last moved, and when that was.
#[derive(Debug, Clone, Copy)]
struct Seen<T> {
    shown: T,
    since: Duration,
}

/// What the clocks of every recording showed.
#[derive(Debug, Default)]
pub(super) struct Ages(BTreeMap<RecordingId, Moved>);

#[derive(Debug, Default)]
struct Moved {
    log: Option<Seen<LogTime>>,
    length: Option<Seen<Duration>>,
    sfu: Option<Seen<LogTime>>,
}

/// How old a recording is, and how long its room has been silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Age {
    pub(super) age: Duration,
    pub(super) silence: Duration,
}

impl Ages {
    pub(super) fn retain(&mut self, is_alive: impl Fn(&RecordingId) -> bool) {
        self.0.retain(|id, _| is_alive(id));
    }

    /// By the clocks as they show now. A clock that has not moved for `stale` says nothing.
    pub(super) fn of(&mut self, id: &RecordingId, clocks: &Clocks, now: Duration, stale: Duration) -> Age {
        let moved = self.0.entry(id.clone()).or_default();
        let stands = |since: Option<Duration>| since.is_none_or(|since| now.saturating_sub(since) >= stale);
        let log_stands = stands(see(&mut moved.log, clocks.log_newest, now));
        let length_stands = stands(see(&mut moved.length, clocks.length, now));
        let by_log = clocks.log_newest.zip(clocks.log_began).map(|(newest, began)| newest.saturating_since(began));
        let by_log = by_log.filter(|_| !log_stands);
        let length = clocks.length.filter(|_| !length_stands);
        let sfu = clocks.folded.map(|(sfu, _)| sfu);
        let unheard = see(&mut moved.sfu, sfu, now).map_or(Duration::ZERO, |since| now.saturating_sub(since));
        let silence = clocks.folded.map_or(Duration::ZERO, |(sfu, newest)| newest.saturating_since(sfu));
        Age { age: agreed([Some(clocks.wall), by_log, length]), silence: silence.min(unheard) }
    }
}

/// Notes what a clock shows; answers since when it has shown that.
fn see<T: PartialEq>(seen: &mut Option<Seen<T>>, shown: Option<T>, now: Duration) -> Option<Duration> {
    let shown = shown?;
    if seen.as_ref().is_none_or(|seen| seen.shown != shown) {
        *seen = Some(Seen { shown, since: now });
    }
    seen.as_ref().map(|seen| seen.since)
}

/// What most clocks say at least: of three the middle, of two the lesser.
fn agreed(ages: [Option<Duration>; 3]) -> Duration {
    let mut known: Vec<_> = ages.into_iter().flatten().collect();
    known.sort_unstable();
    known.get(known.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: Duration = Duration::from_secs(600);

    fn at(seconds: u64) -> LogTime {
        LogTime::from_micros(1_700_000_000_000_000 + i64::try_from(seconds).expect("small") * 1_000_000)
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn id() -> RecordingId {
        RecordingId::new("01r").expect("valid")
    }

    #[test]
    fn two_clocks_of_three_are_believed() {
        const DAY: u64 = 86_400;
        for (wall, log, length, believed, case) in [
            (100, Some(101), Some(99), 100, "all agree"),
            (DAY, Some(101), Some(99), 101, "the leader's is ahead"),
            (0, Some(101), Some(99), 99, "the leader's is behind"),
            (100, Some(DAY), Some(99), 100, "the broker's is ahead"),
            (100, Some(101), Some(DAY), 101, "the SFU's is ahead"),
            (100, Some(101), Some(400), 101, "a capture that is played faster"),
            (DAY, Some(101), None, 101, "the leader's is ahead, and nothing is folded yet"),
            (DAY, None, Some(99), 99, "the leader's is ahead, and the log has lost the beginning"),
            (100, None, None, 100, "only one is known"),
        ] {
            let clocks = Clocks {
                wall: s(wall),
                log_began: log.map(|_| at(0)),
                log_newest: log.map(at),
                length: length.map(s),
                ..Clocks::default()
            };
            let age = Ages::default().of(&id(), &clocks, s(1), STALE).age;
            assert_eq!(age, s(believed), "{case}");
        }
    }

    #[test]
    fn a_clock_that_stands_still_says_nothing_after_a_while() {
        let mut ages = Ages::default();
        let mut age = |now: u64, log: u64| {
            let (log_began, log_newest) = (Some(at(0)), Some(at(log)));
            let clocks = Clocks { wall: s(now), log_began, log_newest, length: Some(s(7)), ..Clocks::default() };
            ages.of(&id(), &clocks, s(now), STALE).age
        };
        assert_eq!(age(10, 10), s(10));
        assert_eq!(age(599, 10), s(10));
        assert_eq!(age(609, 600), s(600), "the log moved, the length does not");
        assert_eq!(age(1208, 600), s(600));
        assert_eq!(age(1209, 600), s(1209), "nobody is left but the leader");
    }

    /// A broker's clock that jumps between two entries makes nobody silent.
    #[test]
    fn a_room_is_silent_by_the_log_and_by_the_leader() {
        for (steps, silence, case) in [
            (vec![(0, 0, 0), (60, 0, 60)], 60, "nothing but ticks for a minute"),
            (vec![(0, 0, 0), (1, 0, 3600)], 1, "the broker's clock jumps at a tick"),
            (vec![(0, 0, 0), (60, 0, 5)], 5, "the fold lags"),
            (vec![(0, 0, 0), (60, 59, 60)], 0, "it was heard meanwhile"),
            (vec![(50, 0, 60)], 0, "a leader that has just begun"),
        ] {
            let mut ages = Ages::default();
            let mut told = Duration::ZERO;
            for (now, sfu, newest) in steps {
                let clocks = Clocks { folded: Some((at(sfu), at(newest))), ..Clocks::default() };
                told = ages.of(&id(), &clocks, s(now), STALE).silence;
            }
            assert_eq!(told, s(silence), "{case}");
        }
    }
}
