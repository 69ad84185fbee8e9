//! What an answer to a commit means. Pure: a table of answers, no store.
//!
//! A create that timed out, or one that met an object, says nothing yet: the answer may have been lost, and the object may be
//! ours. What stands under the key decides. Whoever stands there has won, once and for all (I2, I7).

use std::time::Duration;

use bytes::Bytes;
use roomreel_shared::ports::StoreError;
use roomreel_shared::window::{Hash, Window};

/// What to do after an answer.
#[derive(Debug)]
pub enum Step {
    /// The window is committed, and it is ours.
    Done,
    /// Create again.
    Create,
    /// Create again after a pause: the store is in trouble.
    CreateLater,
    /// Read what stands under the key.
    ReadBack,
    /// Read it after a pause.
    ReadBackLater,
    /// Another owner's window stands there: go on after it.
    Adopt(Box<Window>),
    /// An owner with a higher epoch has written: this one has been replaced.
    Fenced {
        /// Our epoch.
        held: u64,
        /// Theirs.
        current: u64,
    },
}

impl Step {
    /// What follows a create, of which `failures` have failed by now: a store that goes on answering so is not asked again at once.
    #[must_use]
    pub fn paced(self, failures: u32) -> Self {
        match self {
            Self::Create if failures > 1 => Self::CreateLater,
            Self::ReadBack if failures > 1 => Self::ReadBackLater,
            step => step,
        }
    }
}

/// After the answer to a create.
#[must_use]
pub fn after_create(answer: &Result<(), StoreError>) -> Step {
    match answer {
        Ok(()) => Step::Done,
        Err(StoreError::AlreadyExists { .. }) => Step::ReadBack,
        Err(StoreError::Conflict { .. }) => Step::Create,
        Err(StoreError::Unavailable { .. }) => Step::ReadBackLater,
        // Nothing was written, and nothing will be until somebody mends the bucket; the log keeps what is not.
        Err(StoreError::Refused { .. } | StoreError::NotFound { .. }) => Step::CreateLater,
    }
}

/// After reading the key back; `ours` is the hash of the object we wrote under `epoch`.
#[must_use]
pub fn after_read_back(answer: Result<Bytes, StoreError>, ours: Hash, epoch: u64) -> Step {
    match answer {
        // The nonce is part of the object: an equal hash is our own write.
        Ok(object) if Hash::of(&object) == ours => Step::Done,
        Ok(object) => match Window::parse(object) {
            Ok(window) if window.header.epoch > epoch => Step::Fenced { held: epoch, current: window.header.epoch },
            Ok(window) => Step::Adopt(Box::new(window)),
            // A truncated read, or an object nobody of us wrote: not to be built upon.
            Err(_) => Step::ReadBackLater,
        },
        Err(StoreError::NotFound { .. }) => Step::Create,
        Err(_) => Step::ReadBackLater,
    }
}

/// The pause before attempt `attempt`, from 1.
#[must_use]
pub fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(100).saturating_mul(1 << attempt.min(6)).min(Duration::from_secs(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> String {
        "windows/0".to_owned()
    }

    fn unavailable() -> StoreError {
        StoreError::Unavailable { store: "bucket".to_owned(), key: key(), reason: "time-out".to_owned() }
    }

    #[test]
    fn an_answer_that_says_nothing_is_looked_into() {
        assert!(matches!(after_create(&Ok(())), Step::Done));
        assert!(matches!(after_create(&Err(StoreError::AlreadyExists { key: key() })), Step::ReadBack));
        assert!(matches!(after_create(&Err(StoreError::Conflict { key: key() })), Step::Create));
        assert!(matches!(after_create(&Err(unavailable())), Step::ReadBackLater));
        let ours = Bytes::from_static(b"ours");
        let hash = Hash::of(&ours);
        assert!(matches!(after_read_back(Ok(ours), hash, 4), Step::Done));
        assert!(matches!(after_read_back(Err(StoreError::NotFound { key: key() }), hash, 4), Step::Create));
        assert!(matches!(after_read_back(Err(unavailable()), hash, 4), Step::ReadBackLater));
        assert!(matches!(after_read_back(Ok(Bytes::from_static(b"torn")), hash, 4), Step::ReadBackLater));
    }

    #[test]
    fn a_store_that_goes_on_refusing_is_not_asked_at_wire_speed() {
        let conflict = || after_create(&Err(StoreError::Conflict { key: key() }));
        let exists = || after_create(&Err(StoreError::AlreadyExists { key: key() }));
        assert!(matches!((conflict().paced(1), exists().paced(1)), (Step::Create, Step::ReadBack)));
        assert!(matches!((conflict().paced(2), exists().paced(2)), (Step::CreateLater, Step::ReadBackLater)));
        assert!(matches!(after_create(&Ok(())).paced(9), Step::Done));
    }

    #[test]
    fn pauses_are_bounded() {
        assert_eq!(backoff(1), Duration::from_millis(200));
        assert_eq!(backoff(u32::MAX), Duration::from_secs(5));
    }
}
