//! What a container takes.

#[path = "../../crates/compositor/src/encode/coded.rs"]
mod coded;
#[path = "../../crates/compositor/src/encode/grid.rs"]
mod grid;

pub use coded::{AudioConfig, EncodedSlice, Sample, SampleInfo, SliceTable, VideoConfig};
pub use grid::REORDER_TICKS;
