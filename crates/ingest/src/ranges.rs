//! Inclusive ranges of numbers, bounded in count.

use roomreel_shared::wire::NumberRange;

/// Most ranges kept; the lowest go first.
const MAX_RANGES: usize = 128;

/// A set of numbers as ascending, disjoint ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    ranges: Vec<(u64, u64)>,
    has_forgotten: bool,
}

impl Ranges {
    /// Adds `first..=last`, which lies above everything in the set.
    pub(crate) fn push(&mut self, first: u64, last: u64) {
        debug_assert!(
            first <= last && self.ranges.last().is_none_or(|range| range.1 < first),
            "ranges are added upwards"
        );
        match self.ranges.last_mut() {
            Some(range) if range.1.checked_add(1) == Some(first) => range.1 = last,
            _ => self.ranges.push((first, last)),
        }
        self.forget();
    }

    fn forget(&mut self) {
        if self.ranges.len() > MAX_RANGES {
            self.ranges.remove(0);
            self.has_forgotten = true;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether there were more than are kept. Not on the wire: the window says it of the recording.
    pub(crate) fn has_forgotten(&self) -> bool {
        self.has_forgotten
    }

    /// Removes `number`; whether it was there.
    pub(crate) fn take(&mut self, number: u64) -> bool {
        let Some(at) = self.ranges.iter().position(|range| (range.0..=range.1).contains(&number)) else { return false };
        let (first, last) = self.ranges[at];
        let below = (first < number).then(|| (first, number - 1));
        let above = (number < last).then(|| (number + 1, last));
        self.ranges.splice(at..=at, below.into_iter().chain(above));
        self.forget();
        true
    }

    /// Reads what [`Ranges::to_wire`] wrote; ranges out of order are dropped.
    pub(crate) fn from_wire(wire: &[NumberRange]) -> Self {
        let mut ranges = Self::default();
        for range in wire {
            if range.first <= range.last && ranges.ranges.last().is_none_or(|before| before.1 < range.first) {
                ranges.push(range.first, range.last);
            }
        }
        ranges
    }

    pub(crate) fn to_wire(&self) -> Vec<NumberRange> {
        self.ranges.iter().map(|&(first, last)| NumberRange { first, last }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_once() {
        let mut ranges = Ranges::default();
        ranges.push(3, 5);
        ranges.push(6, 6);
        ranges.push(9, 9);
        assert_eq!(ranges.ranges, [(3, 6), (9, 9)]);
        assert!(ranges.take(4) && !ranges.take(4) && ranges.take(9) && !ranges.take(7));
        assert_eq!(ranges.ranges, [(3, 3), (5, 6)]);
        assert_eq!(Ranges::from_wire(&ranges.to_wire()), ranges);
    }

    #[test]
    fn the_lowest_ranges_go_first() {
        let mut ranges = Ranges::default();
        for number in 0..1000 {
            ranges.push(number * 2, number * 2);
        }
        assert!(ranges.ranges.len() == MAX_RANGES && ranges.has_forgotten());
        assert!(ranges.take(1998) && !ranges.take(0));
    }
}
