//! The ports in memory: what the single-process mode, the simulation and the tests run on.
//!
//! They behave as the servers do where the difference would show: message ids are remembered, a full log refuses, leases
//! run out, revisions count as in etcd, a part of an upload below the minimum is refused. [`faults`] scripts what goes wrong.
//! Nothing here survives the process.

mod coordination;
pub mod faults;
mod log;
mod store;

pub use coordination::MemoryCoordination;
pub use log::{Clock, MemoryLog};
pub use store::{MemoryStore, Mutation, MutationKind};

/// Locks, also after a panic elsewhere: no lock here is held across code that can leave the state half-changed.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
