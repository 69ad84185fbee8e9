//! The readers of captures.

#[path = "../../crates/sfu/src/capture/error.rs"]
mod error;
#[path = "../../crates/sfu/src/capture/events.rs"]
pub mod events;
#[path = "../../crates/sfu/src/capture/frames.rs"]
pub mod frames;
#[path = "../../crates/sfu/src/capture/link.rs"]
pub mod link;

pub use error::Error;
