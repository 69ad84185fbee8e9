//! What comes of things that fail: when they are done again, and how often that is told.
//!
//! Owns the pauses of what needs the bucket, of which [`crate::errands`] is the one owner of retries, and the choice of what is told.
//! Pure: times are handed in. Does not own the retries, or what fails.

use std::collections::BTreeMap;
use std::time::Duration;

use roomreel_shared::ports::StoreError;

use crate::perform::Error;

/// Pauses after the first failure in a row, and the longest: of a store that does not answer, and may any moment.
const AWAY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));
/// The same of a store that refuses, which it does until somebody changes something.
const REFUSING: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A cause that is still met is told of again after this.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// The same of one object that is refused: it changes nothing for others.
const TELL_REFUSAL_AGAIN: Duration = Duration::from_secs(600);
/// What has not failed for this long has not failed before.
const FORGET: Duration = Duration::from_secs(1200);
/// Most things that are remembered, of each kind. What is beyond is done again without a pause, and told of as one cause.
const MAX_REMEMBERED: usize = 4096;

/// What failed lately, and until when it is left alone.
#[derive(Debug)]
pub struct Pauses<T>(BTreeMap<T, Pause>);

#[derive(Debug, Clone, Copy)]
struct Pause {
    length: Duration,
    until: Duration,
}

impl<T: Ord> Pauses<T> {
    /// Nothing has failed.
    pub fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Whether it is left alone now.
    pub fn has(&self, what: &T, now: Duration) -> bool {
        self.0.get(what).is_some_and(|pause| now < pause.until)
    }

    /// It was done.
    pub fn on_done(&mut self, what: &T) {
        self.0.remove(what);
    }

    /// It failed. What the bucket has no part in is planned again anyway, once its own store answers.
    pub fn on_failure(&mut self, what: T, error: &Error, now: Duration) {
        let (first, longest) = match error {
            Error::Store(error) if error.is_permanent() => REFUSING,
            Error::Store(_) | Error::Silent { .. } => AWAY,
            Error::Coordination(_) | Error::Busy { .. } | Error::Over => return,
        };
        self.0.retain(|_, pause| now < pause.until + FORGET);
        if self.0.len() >= MAX_REMEMBERED && !self.0.contains_key(&what) {
            return;
        }
        let before = self.0.get(&what).map(|pause| pause.length * 2);
        let length = before.unwrap_or(first).clamp(first, longest);
        self.0.insert(what, Pause { length, until: now + length });
    }
}

/// Causes of failures, and when each was told of.
#[derive(Debug, Default)]
pub struct Causes(BTreeMap<String, Told>);

#[derive(Debug)]
struct Told {
    at: Duration,
    /// How often it was met since.
    since: u64,
}

impl Causes {
    /// Takes a failure; `Some` if it is to be told of, with how often its cause was met since it was last.
    pub fn on_failure(&mut self, error: &Error, now: Duration) -> Option<u64> {
        let (cause, again) = match error {
            Error::Store(StoreError::Refused { key, .. }) => (key.as_str(), TELL_REFUSAL_AGAIN),
            error => (error.kind(), TELL_AGAIN),
        };
        self.0.retain(|_, told| now < told.at + FORGET);
        let has_space = self.0.len() < MAX_REMEMBERED || self.0.contains_key(cause);
        let cause = if has_space { cause } else { error.kind() };
        match self.0.get_mut(cause) {
            Some(told) if now < told.at + again => {
                told.since += 1;
                None
            }
            Some(told) => {
                let times = told.since + 1;
                *told = Told { at: now, since: 0 };
                Some(times)
            }
            None => {
                self.0.insert(cause.to_owned(), Told { at: now, since: 0 });
                Some(1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(key: &str) -> Error {
        let (store, reason) = ("bucket".to_owned(), "File name too long".to_owned());
        Error::Store(StoreError::Refused { store, key: key.to_owned(), reason })
    }

    fn away() -> Error {
        let (store, key, reason) = ("bucket".to_owned(), "k".to_owned(), "503".to_owned());
        Error::Store(StoreError::Unavailable { store, key, reason })
    }

    /// Times in an hour at which something that always fails is done, where it is planned every 50 ms.
    fn attempts(error: &Error) -> Vec<Duration> {
        let mut pauses = Pauses::new();
        let times = (0..72_000).map(|n| Duration::from_millis(50) * n);
        let mut attempts = Vec::new();
        for now in times {
            if !pauses.has(&"document", now) {
                pauses.on_failure("document", error, now);
                attempts.push(now);
            }
        }
        attempts
    }

    #[test]
    fn what_is_refused_is_done_again_once_a_minute_and_what_is_away_every_five_seconds() {
        for (error, within, longest) in [(refused("k"), 60..=66, 60), (away(), 720..=730, 5)] {
            let attempts = attempts(&error);
            assert!(within.contains(&attempts.len()), "{error}: {}", attempts.len());
            let gaps = attempts.windows(2).map(|pair| pair[1] - pair[0]);
            assert_eq!(gaps.max(), Some(Duration::from_secs(longest)), "{error}");
        }
        assert_eq!(attempts(&Error::Over).len(), 72_000, "the bucket has no part in it");
    }

    #[test]
    fn a_pause_is_of_one_thing_and_ends_with_its_success() {
        let mut pauses = Pauses::new();
        let at = Duration::from_secs;
        for now in [0, 1, 3] {
            pauses.on_failure("a", &refused("k"), at(now));
        }
        assert!(pauses.has(&"a", at(6)) && !pauses.has(&"b", at(6)) && !pauses.has(&"a", at(7)));
        pauses.on_done(&"a");
        pauses.on_failure("a", &refused("k"), at(7));
        assert!(!pauses.has(&"a", at(8)), "it begins anew");
    }

    #[test]
    fn a_cause_is_told_once_and_again_with_its_count() {
        let mut causes = Causes::default();
        let told = |causes: &mut Causes, error: &Error, second| causes.on_failure(error, Duration::from_secs(second));
        assert_eq!(told(&mut causes, &away(), 0), Some(1));
        assert_eq!(told(&mut causes, &refused("a"), 0), Some(1));
        assert_eq!(told(&mut causes, &refused("b"), 1), Some(1), "another object");
        for second in 1..60 {
            assert_eq!(told(&mut causes, &away(), second), None);
            assert_eq!(told(&mut causes, &refused("a"), second), None);
        }
        assert_eq!(told(&mut causes, &away(), 60), Some(60));
        assert_eq!(told(&mut causes, &refused("a"), 60), None);
        assert_eq!(told(&mut causes, &refused("a"), 600), Some(61));
        for n in 0..2 * MAX_REMEMBERED {
            told(&mut causes, &refused(&format!("k{n}")), 601);
        }
        assert!(causes.0.len() <= MAX_REMEMBERED + 1, "it is bounded");
    }
}
