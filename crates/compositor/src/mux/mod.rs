//! MP4: the header and the fragments of a CMAF track pair, and the header of a whole file.
//!
//! Owns boxes. Does not own bytes of media, which go through as they are, nor where they are stored.
//!
//! Video is track 1, audio track 2. Video composition times are moved by [`REORDER_TICKS`](crate::encode::REORDER_TICKS) and an edit list moves them back, so that both
//! tracks begin at time 0. Signed composition offsets would do without, but FFmpeg shows such fragments too late (seen with 5.1).

mod boxes;
pub(crate) mod libav;
mod parse;
mod tables;
mod turn;

pub use boxes::{fragment, init_segment};
pub use parse::{Error, parse_fragment, parse_table};
pub use tables::{SampleTable, faststart_header};
