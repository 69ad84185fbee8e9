//! Numbered items put back in order: duplicates dropped, holes noticed, replays asked for.
//!
//! Used for the batches of an incarnation and for the events of a writer. Owns order within one numbering. Does not own what
//! a declared hole means. Everything is decided by numbers and log time, so that reading the same entries again from an
//! earlier place leads to the same decisions (I3).

use std::collections::BTreeMap;

use roomreel_shared::time::LogTime;
use roomreel_shared::wire::NumberRange;

use crate::config::FoldConfig;

/// Most ranges in one replay request.
const MAX_REQUESTED_RANGES: usize = 64;

/// An item that waits for earlier numbers.
#[derive(Debug, Clone)]
pub(crate) struct Held<T> {
    pub(crate) item: T,
    /// When the log stored it.
    pub(crate) time: LogTime,
    /// Its place in the log.
    pub(crate) sequence: u64,
    /// Its size.
    pub(crate) bytes: usize,
}

/// What a hole's replay request says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Missing {
    pub(crate) ranges: Vec<NumberRange>,
    pub(crate) attempt: u32,
}

/// One numbering.
#[derive(Debug, Clone)]
pub(crate) struct Order<T> {
    next: u64,
    held: BTreeMap<u64, Held<T>>,
    held_bytes: usize,
    /// Replay requests made while `next` stood at the second number.
    asked: (u32, u64),
    /// Numbers below this exist, by the writer's word, which the log stored at this time.
    promised: Option<(u64, LogTime)>,
}

impl<T> Order<T> {
    /// Expects `next` first.
    pub(crate) fn new(next: u64) -> Self {
        Self { next, held: BTreeMap::new(), held_bytes: 0, asked: (0, next), promised: None }
    }

    /// Everything below it has come or was declared missing.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// One past the highest number that is known to exist.
    pub(crate) fn end(&self) -> u64 {
        let held = self.held.last_key_value().map_or(self.next, |(number, _)| number + 1);
        held.max(self.promised.map_or(0, |(end, _)| end))
    }

    /// Everything below `end` exists: what has not come by `since` is missing.
    pub(crate) fn promise(&mut self, end: u64, since: LogTime) {
        if self.promised.is_none_or(|(before, _)| before < end) {
            self.promised = Some((end, since));
        }
    }

    /// Whether something is missing, or waits for what is.
    pub(crate) fn is_waiting(&self) -> bool {
        self.next < self.end()
    }

    /// Keeps an item until its turn; `false` if its number has come before.
    pub(crate) fn hold(&mut self, number: u64, held: Held<T>) -> bool {
        if number < self.next || self.held.contains_key(&number) {
            return false;
        }
        self.held_bytes += held.bytes;
        self.held.insert(number, held);
        true
    }

    /// The item whose turn it is.
    pub(crate) fn peek_ready(&self) -> Option<&Held<T>> {
        self.held.first_key_value().filter(|(number, _)| **number == self.next).map(|(_, held)| held)
    }

    /// Takes the item whose turn it is.
    pub(crate) fn pop_ready(&mut self) -> Option<T> {
        self.peek_ready()?;
        let (number, held) = self.held.pop_first()?;
        self.held_bytes -= held.bytes;
        self.next = number + 1;
        Some(held.item)
    }

    /// The lowest item that waits, with its number.
    pub(crate) fn first_held(&self) -> Option<(u64, &Held<T>)> {
        self.held.first_key_value().map(|(number, held)| (*number, held))
    }

    /// All items that wait.
    pub(crate) fn held(&self) -> impl Iterator<Item = &Held<T>> {
        self.held.values()
    }

    /// Whether more waits than may.
    pub(crate) fn is_over(&self, config: &FoldConfig) -> bool {
        self.held.len() > config.held_batches || self.held_bytes > config.held_bytes
    }

    /// Goes on at `number`; nothing that waits may be below it.
    pub(crate) fn skip_to(&mut self, number: u64) {
        debug_assert!(number >= self.next && self.held.first_key_value().is_none_or(|(first, _)| *first >= number));
        self.next = number;
    }

    /// When the first entry that tells of the hole at `next` was stored; `None` if there is no hole there.
    fn hole_since(&self) -> Option<LogTime> {
        if !self.is_waiting() || self.peek_ready().is_some() {
            return None;
        }
        let promised = self.promised.filter(|(end, _)| self.next < *end).map(|(_, since)| since);
        self.held.values().map(|held| held.time).chain(promised).min()
    }

    /// Since when the hole at `next` is known, if it is to be declared.
    pub(crate) fn given_up(&self, now: LogTime, config: &FoldConfig) -> Option<LogTime> {
        self.hole_since().filter(|since| now >= *since + config.gap_after)
    }

    /// A replay request, if one is due.
    pub(crate) fn replay_due(&mut self, now: LogTime, config: &FoldConfig) -> Option<Missing> {
        let since = self.hole_since()?;
        if self.asked.1 != self.next {
            self.asked = (0, self.next);
        }
        let distance = config.replay_after.saturating_mul((1 << self.asked.0.min(16)) * 2 - 1);
        if now < since + distance {
            return None;
        }
        self.asked.0 += 1;
        let mut ranges = Vec::new();
        let mut expected = self.next;
        for &number in self.held.keys() {
            if expected < number {
                ranges.push(NumberRange { first: expected, last: number - 1 });
            }
            if ranges.len() == MAX_REQUESTED_RANGES {
                break;
            }
            expected = number + 1;
        }
        let end = self.end();
        if expected < end && ranges.len() < MAX_REQUESTED_RANGES {
            ranges.push(NumberRange { first: expected, last: end - 1 });
        }
        Some(Missing { ranges, attempt: self.asked.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(ms: i64) -> Held<i64> {
        Held { item: ms, time: at(ms), sequence: 1, bytes: 10 }
    }

    fn at(ms: i64) -> LogTime {
        LogTime::from_micros(ms * 1000)
    }

    #[test]
    fn order_is_restored_and_duplicates_are_dropped() {
        let mut order = Order::new(0);
        assert!(order.hold(1, held(1)));
        assert!(!order.hold(1, held(2)));
        assert!(order.pop_ready().is_none());
        assert!(order.hold(0, held(3)));
        assert_eq!((order.pop_ready(), order.pop_ready(), order.pop_ready()), (Some(3), Some(1), None));
        assert!(!order.hold(0, held(4)));
        assert_eq!((order.next(), order.end()), (2, 2));
    }

    #[test]
    fn replays_are_asked_for_with_growing_distance() {
        let config = FoldConfig::default();
        let mut order = Order::new(5);
        for number in [7, 8, 10] {
            order.hold(number, held(1000));
        }
        let asked: Vec<i64> =
            (0..110).map(|tick| tick * 100).filter(|ms| order.replay_due(at(*ms), &config).is_some()).collect();
        assert_eq!(asked, [1500, 2500, 4500, 8500]);
        let missing = order.replay_due(at(60_000), &config).expect("due");
        let range = |first, last| NumberRange { first, last };
        assert_eq!(missing, Missing { ranges: vec![range(5, 6), range(9, 9)], attempt: 5 });
        assert_eq!([at(10_999), at(11_000)].map(|now| order.given_up(now, &config)), [None, Some(at(1000))]);
    }

    #[test]
    fn a_promised_end_is_a_hole_until_all_below_it_has_come() {
        let config = FoldConfig::default();
        let mut order = Order::new(5);
        order.promise(9, at(1000));
        order.promise(8, at(3000));
        assert!(order.is_waiting());
        assert_eq!([at(10_999), at(11_000)].map(|now| order.given_up(now, &config)), [None, Some(at(1000))]);
        order.hold(6, held(2000));
        let range = |first, last| NumberRange { first, last };
        let missing = order.replay_due(at(1500), &config).expect("due since it was promised");
        assert_eq!(missing.ranges, [range(5, 5), range(7, 8)]);
        for number in [5, 8, 7] {
            order.hold(number, held(2000));
        }
        assert!(order.given_up(at(60_000), &config).is_none(), "nothing is missing");
        assert_eq!(std::iter::from_fn(|| order.pop_ready()).count(), 4);
        assert!(!order.is_waiting());
    }
}
