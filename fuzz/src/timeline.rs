//! When things were.

#[path = "../../crates/compositor/src/timeline/clock.rs"]
pub mod clock;
#[path = "../../crates/compositor/src/timeline/log_clock.rs"]
pub mod log_clock;
#[path = "../../crates/compositor/src/timeline/presence.rs"]
mod presence;
#[path = "../../crates/compositor/src/timeline/room.rs"]
pub mod room;
