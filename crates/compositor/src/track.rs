//! What one track shows and sounds like at a moment of the room's clock.
//!
//! Owns the way from received packets to pictures and samples, and what is to be said of its quality. Does not own where a
//! picture goes (layout), nor how sounds add up (mix).

mod announced;
mod assemble;
mod audio;
mod continuity;
mod intake;
#[cfg(test)]
mod streams;
#[cfg(test)]
pub(crate) mod tests_support;
mod video;

pub(crate) use announced::{announced, has_ended};
pub(crate) use assemble::Assembler;
pub use audio::{AudioQuality, AudioTrack};
pub(crate) use intake::Intake;
pub use intake::IntakeQuality;
pub(crate) use video::LAYER_OFF_US;
pub use video::{VideoQuality, VideoTrack};
