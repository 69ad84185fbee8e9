//! Which packet numbers of one incarnation are stored, which are declared missing, and which are neither.

use std::collections::{BTreeMap, BTreeSet};

/// Inclusive ranges that neither touch nor overlap, by their first number.
#[derive(Debug, Default)]
struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a range; answers the first part of it that was there already.
    fn insert(&mut self, first: u64, last: u64) -> Option<(u64, u64)> {
        let (mut first, mut last) = (first, last.max(first));
        let overlap = self
            .0
            .range(..=last)
            .next_back()
            .filter(|(_, end)| **end >= first)
            .map(|(begin, end)| (first.max(*begin), last.min(*end)));
        while let Some((&begin, &end)) = self.0.range(..=last.saturating_add(1)).next_back() {
            if end.saturating_add(1) < first {
                break;
            }
            self.0.remove(&begin);
            (first, last) = (first.min(begin), last.max(end));
        }
        self.0.insert(first, last);
        overlap
    }
}

/// The numbers of one incarnation.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    stored: Ranges,
    accounted: Ranges,
    /// Where gaps begin whose end nobody knows.
    open_gaps: BTreeSet<u64>,
}

impl Numbers {
    /// Packets are stored; answers those that were stored before.
    pub(super) fn store(&mut self, first: u64, last: u64) -> Option<(u64, u64)> {
        self.accounted.insert(first, last);
        self.stored.insert(first, last)
    }

    /// Packets are declared missing; without an end: up to whatever comes next.
    pub(super) fn declare(&mut self, first: u64, last: Option<u64>) {
        match last {
            Some(last) => {
                self.accounted.insert(first, last);
            }
            None => {
                self.open_gaps.insert(first);
            }
        }
    }

    /// Numbers between the first and the last known that are neither stored nor declared.
    pub(super) fn unaccounted(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let known = self.accounted.0.iter();
        known.clone().zip(known.skip(1)).filter_map(|((_, before), (after, _))| {
            let (first, last) = (before + 1, after - 1);
            match self.open_gaps.range(first..=last).next() {
                Some(&open) if open == first => None,
                Some(&open) => Some((first, open - 1)),
                None => Some((first, last)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_stored_nor_declared_is_found() {
        let mut numbers = Numbers::default();
        assert_eq!(numbers.store(10, 19), None);
        assert_eq!(numbers.store(30, 39), None);
        assert_eq!(numbers.store(15, 34), Some((30, 34)), "and 15 to 19; one is enough to tell");
        assert_eq!(numbers.unaccounted().count(), 0);
        numbers.store(50, 59);
        assert_eq!(numbers.unaccounted().collect::<Vec<_>>(), [(40, 49)]);
        numbers.declare(42, None);
        assert_eq!(numbers.unaccounted().collect::<Vec<_>>(), [(40, 41)]);
        numbers.declare(40, Some(41));
        assert_eq!(numbers.unaccounted().count(), 0);
        numbers.store(u64::MAX, u64::MAX);
        assert_eq!(numbers.unaccounted().collect::<Vec<_>>(), [(60, u64::MAX - 1)]);
    }
}
