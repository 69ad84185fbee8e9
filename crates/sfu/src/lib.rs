//! The library an SFU links to publish its rooms, and the sources that stand in for an SFU: captures and synthetic rooms.
//!
//! Owns numbering, batching, retry and replay of what is published. Does not own storage, and knows nothing of windows.

pub mod capture;
pub mod publisher;
pub mod source;
pub mod synthetic;
