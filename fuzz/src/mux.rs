//! MP4, without what libavformat muxes.

#[path = "../../crates/compositor/src/mux/boxes.rs"]
mod boxes;
#[path = "../../crates/compositor/src/mux/parse.rs"]
mod parse;
#[path = "../../crates/compositor/src/mux/tables.rs"]
mod tables;

pub use boxes::fragment;
pub use parse::{Error, parse_fragment, parse_table};
pub use tables::SampleTable;
