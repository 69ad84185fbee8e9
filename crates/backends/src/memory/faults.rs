//! Faults as data: what a call to an in-memory port does instead of what was asked.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::lock;

/// How long a call that hangs takes until it answers that it got no answer, by tokio's clock.
pub const HANG: Duration = Duration::from_secs(10);

/// A call to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the port's method of that name")]
pub enum Operation {
    // RoomLog
    Append,
    Read,
    /// One entry on its way to a reader.
    Deliver,
    LastSequence,
    // Bus
    Publish,
    Subscribe,
    Request,
    Reply,
    // ObjectStore
    Create,
    Put,
    Get,
    GetRange,
    Size,
    List,
    ListDirectory,
    Delete,
    BeginUpload,
    UploadPart,
    CompleteUpload,
    AbortUpload,
    ListUploads,
    // Coordination
    GrantLease,
    KeepAlive,
    Revoke,
    GetRecord,
    ListRecords,
    Transact,
    Watch,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call answers `Unavailable` and has done nothing. A delivery so struck ends its stream with an error.
    FailBefore,
    /// The call does what was asked, and answers `Unavailable`.
    LoseAnswer,
    /// A create or a completion answers `Conflict` (HTTP 409) and has done nothing; elsewhere as [`Fault::FailBefore`].
    Conflict,
    /// A call to the object store answers `Refused` and has done nothing; elsewhere as [`Fault::FailBefore`].
    Refuse,
    /// The call does nothing for [`HANG`], then answers `Unavailable`.
    Hang,
    /// An append first loses the shard's newest `entries`, which had been acknowledged, and still remembers their message
    /// ids: what a broker can do that came back from an older replica. Elsewhere it does nothing.
    LoseAcknowledged {
        /// How many.
        entries: usize,
    },
    /// A delivery, or a bus message, comes twice. Elsewhere it does nothing.
    Duplicate,
    /// A bus message is lost although the call succeeds. Elsewhere it does nothing.
    Drop,
}

/// Decides, call by call, what goes wrong. `target` is the subject, key, prefix, filter or lease of the call.
pub trait Faults: Send + Sync + 'static {
    /// The fault of this call, if it has one.
    fn strike(&self, operation: Operation, target: &str) -> Option<Fault>;
}

impl<F: Fn(Operation, &str) -> Option<Fault> + Send + Sync + 'static> Faults for F {
    fn strike(&self, operation: Operation, target: &str) -> Option<Fault> {
        self(operation, target)
    }
}

/// Faults in a fixed order: each strikes the first call of its operation that is made when it is at the front.
#[derive(Debug, Clone, Default)]
pub struct Script(Arc<Mutex<VecDeque<(Operation, Fault)>>>);

impl Script {
    /// An empty script.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds to its end.
    pub fn push(&self, operation: Operation, fault: Fault) {
        lock(&self.0).push_back((operation, fault));
    }

    /// How many faults have not struck yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        lock(&self.0).len()
    }
}

impl Faults for Script {
    fn strike(&self, operation: Operation, _target: &str) -> Option<Fault> {
        let mut script = lock(&self.0);
        script.pop_front_if(|(of, _)| *of == operation).map(|(_, fault)| fault)
    }
}

/// The hook of one port.
#[derive(Clone, Default)]
pub(super) struct Hook(pub(super) Option<Arc<dyn Faults>>);

impl Hook {
    pub(super) fn strike(&self, operation: Operation, target: &str) -> Option<Fault> {
        self.0.as_ref()?.strike(operation, target)
    }
}

/// Runs `act` under `fault`. `unavailable` makes the port's error from a reason, `conflict` that of a 409.
pub(super) async fn under<T, E>(
    fault: Option<Fault>,
    unavailable: impl Fn(&'static str) -> E,
    conflict: Option<E>,
    act: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    match fault {
        None | Some(Fault::LoseAcknowledged { .. } | Fault::Duplicate | Fault::Drop) => act.await,
        Some(Fault::FailBefore | Fault::Refuse) => Err(unavailable("fault: failed before")),
        Some(Fault::Conflict) => Err(conflict.unwrap_or_else(|| unavailable("fault: failed before"))),
        Some(Fault::LoseAnswer) => {
            // Whatever the answer was, it is lost.
            let _ = act.await;
            Err(unavailable("fault: answer lost"))
        }
        Some(Fault::Hang) => {
            tokio::time::sleep(HANG).await;
            Err(unavailable("fault: no answer in time"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_strikes_in_order() {
        let script = Script::new();
        script.push(Operation::Create, Fault::Conflict);
        script.push(Operation::Get, Fault::Hang);
        assert_eq!(script.strike(Operation::Get, "k"), None);
        assert_eq!(script.strike(Operation::Create, "k"), Some(Fault::Conflict));
        assert_eq!(script.strike(Operation::Get, "k"), Some(Fault::Hang));
        assert_eq!(script.remaining(), 0);
    }
}
