//! Ingest: folds the logs of rooms into chains of windows.
//!
//! The core ([`room::RoomFold`], [`track::TrackFold`], composed in [`fold::Fold`]) decides what belongs into which window, what is
//! missing and what to ask for; it has no clock, no client and no task. The shell ([`node`], `actor`) runs one supervised
//! actor per room and per track, reads the log, commits windows and tells the publishers what is durable.
//!
//! Does not own: who records what (the coordinator), what windows look like as bytes (`roomreel_shared::window`).

mod actor;
mod clock;
pub mod commit;
pub mod config;
pub mod fold;
pub mod keyframe;
mod log_clock;
#[cfg(test)]
mod many;
mod metrics;
pub mod node;
mod order;
mod past;
mod ranges;
pub mod room;
mod roster;
#[cfg(test)]
mod stories;
#[cfg(test)]
mod story;
mod stream;
pub mod track;
pub mod watermark;

pub use config::{FoldConfig, IngestConfig};
pub use node::{IngestHandle, IngestNode};
