//! When things were: media and events on the room's clock, and the room's state at any moment of it.
//!
//! Owns the mapping of RTP timestamps ([`clock`]), of log time ([`log_clock`]), and the room's state ([`room`]). Does not own
//! media, nor who holds the stage (the layout does).

pub mod clock;
pub mod log_clock;
pub(crate) mod presence;
pub mod room;
