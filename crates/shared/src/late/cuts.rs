//! What is left out of the middle of a late render, and the arithmetic between its clock and the recording's.

use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Parts of a stretch that are left out, in whole seconds behind its begin: whole frames and whole samples at any rate, so sound and
/// picture are as far apart behind a cut as before it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Vec<(u32, u32)>", into = "Vec<(u32, u32)>")]
pub struct Cuts(Vec<(u32, u32)>);

/// They are empty or not in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what is left out overlaps, is empty or not in order")]
pub struct NotInOrder;

impl TryFrom<Vec<(u32, u32)>> for Cuts {
    type Error = NotInOrder;

    fn try_from(cuts: Vec<(u32, u32)>) -> Result<Self, NotInOrder> {
        // With something left between them, or they would be one.
        let in_order = cuts.windows(2).all(|two| two[0].1 < two[1].0) && cuts.iter().all(|(from, to)| from < to);
        if in_order { Ok(Self(cuts)) } else { Err(NotInOrder) }
    }
}

impl From<Cuts> for Vec<(u32, u32)> {
    fn from(cuts: Cuts) -> Self {
        cuts.0
    }
}

impl Cuts {
    /// Nothing is left out.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is left out, in units of which a second has `rate`, behind the stretch's begin.
    pub fn at_rate(&self, rate: u64) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        self.0.iter().map(move |(from, to)| u64::from(*from).saturating_mul(rate)..u64::from(*to).saturating_mul(rate))
    }

    /// What stands at `shown` in the render: how far behind the stretch's begin that is. Where something was left out it is what follows.
    #[must_use]
    pub fn source(&self, shown: u64, rate: u64) -> u64 {
        let mut at = shown;
        for cut in self.at_rate(rate) {
            if at < cut.start {
                break;
            }
            at = at.saturating_add(cut.end - cut.start);
        }
        at
    }

    /// Where in the render stands what is so far behind the stretch's begin; what is left out stands where it was cut.
    #[must_use]
    pub fn shown(&self, source: u64, rate: u64) -> u64 {
        let left_out = self.at_rate(rate).map(|cut| source.clamp(cut.start, cut.end) - cut.start);
        source.saturating_sub(left_out.sum())
    }

    /// As [`Self::source`].
    #[must_use]
    pub fn source_at(&self, shown: Duration) -> Duration {
        Duration::from_micros(self.source(micros(shown), 1_000_000))
    }

    /// As [`Self::shown`].
    #[must_use]
    pub fn shown_at(&self, source: Duration) -> Duration {
        Duration::from_micros(self.shown(micros(source), 1_000_000))
    }

    /// What stands at `shown` in the render, piece by piece.
    #[must_use]
    pub fn sources(&self, shown: Range<u64>, rate: u64) -> Vec<Range<u64>> {
        let mut pieces = Vec::new();
        let mut at = shown.start;
        while at < shown.end {
            let from = self.source(at, rate);
            let next = self.at_rate(rate).map(|cut| cut.start).find(|cut| *cut > from);
            let count = (shown.end - at).min(next.map_or(u64::MAX, |next| next - from));
            pieces.push(from..from + count);
            at += count;
        }
        pieces
    }
}

fn micros(at: Duration) -> u64 {
    u64::try_from(at.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(cuts: &[(u32, u32)]) -> Cuts {
        Cuts::try_from(cuts.to_vec()).expect("in order")
    }

    #[test]
    fn what_is_left_out_is_in_order() {
        for wrong in [&[(3, 3)][..], &[(4, 2)], &[(1, 5), (4, 6)], &[(1, 5), (5, 6)], &[(7, 8), (1, 2)]] {
            assert_eq!(Cuts::try_from(wrong.to_vec()), Err(NotInOrder), "{wrong:?}");
        }
        let read: Cuts = serde_json::from_str("[[2,5],[7,8]]").expect("in order");
        assert_eq!(serde_json::to_string(&read).expect("text"), "[[2,5],[7,8]]");
        assert!(serde_json::from_str::<Cuts>("[[5,2]]").is_err());
    }

    #[test]
    fn both_clocks_agree() {
        let cuts = cuts(&[(0, 1), (2, 5), (7, 8)]);
        for (shown, source) in [(0, 10), (9, 19), (10, 50), (29, 69), (30, 80), (100, 150)] {
            assert_eq!((cuts.source(shown, 10), cuts.shown(source, 10)), (source, shown));
        }
        for (source, shown) in [(0, 0), (5, 0), (20, 10), (34, 10), (75, 30)] {
            assert_eq!(cuts.shown(source, 10), shown, "where it was cut");
        }
        assert_eq!(cuts.sources(5..35, 10), [15..20, 50..70, 80..85]);
        assert_eq!(cuts.sources(0..15, 10), [10..20, 50..55]);
        assert_eq!(cuts.sources(10..10, 10), []);
        let none = Cuts::default();
        assert_eq!((none.source(7, 10), none.shown(7, 10), none.sources(3..9, 10).len()), (7, 7, 1));
    }
}
