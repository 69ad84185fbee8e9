//! The coordinator: knows every room, starts and ends recordings, and says who folds and who renders them.
//!
//! One leader plans, elected over the coordination store; every replica serves the API. What is decided is decided in
//! [`rooms`], [`plan`], [`control`] and [`election::Tenure`], which have no clock, client or randomness; what is performed
//! is performed in [`node`] and [`leader`], which are plain tokio tasks rather than ractor actors: there is one task per
//! term, it has no children to supervise, and its inputs are bounded channels, which an actor's mailbox is not.
//!
//! Owns: `recording.json`, `unfinished.json`, `policy.json`, the daily index, and every key of the coordination store but nodes and progress.
//! Does not own: media, windows, renders.

pub mod api;
pub mod bucket;
pub mod clean;
pub mod config;
pub mod control;
pub mod election;
mod errands;
mod failures;
pub mod late;
pub mod leader;
pub mod metrics;
pub mod node;
mod notices;
pub mod observed;
mod perform;
pub mod plan;
mod reader;
pub mod rebuild;
pub mod request;
pub mod rooms;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use config::CoordinatorConfig;
pub use node::{Coordinator, CoordinatorHandle};
