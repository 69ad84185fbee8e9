//! Renders windows into composites: depacketize, decode, place on the timeline, lay out, draw and mix, encode, join.
//!
//! Owns what a composite looks and sounds like and how its slices, playlist and file come into being. Does not own what is
//! recorded (ingest does), nor which node renders what (the coordinator does).

pub mod actor;
mod allocator;
pub mod captions;
mod claim;
pub mod decode;
pub mod depacketize;
pub mod documents;
pub mod encode;
pub mod engine;
pub mod export;
pub mod frame;
pub mod join;
pub mod late;
pub use roomreel_layout as layout;
pub mod mix;
pub mod mux;
pub mod node;
pub mod outputs;
pub mod paint;
pub mod playlist;
pub mod render;
pub mod render_job;
pub mod slice_schedule;
pub mod timeline;
pub mod track;
pub mod workers;
