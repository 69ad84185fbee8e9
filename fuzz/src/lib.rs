//! What the fuzz targets share: input cut into pieces, and the pure modules of crates that link codecs.
//!
//! Those modules are compiled from their own sources, so that a target builds without FFmpeg and all of it is instrumented.

#[path = "../../crates/compositor/src/depacketize/mod.rs"]
#[allow(dead_code)]
pub mod depacketize;

#[path = "../../crates/compositor/src/layout/mod.rs"]
#[allow(dead_code)]
pub mod layout;

#[allow(dead_code)]
pub mod capture;

/// Cuts input into pieces: each begins with its length in one byte (255: everything that is left).
pub fn pieces(mut input: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (&length, rest) = input.split_first()?;
        let length = if length == 255 { rest.len() } else { usize::from(length).min(rest.len()) };
        let (piece, rest) = rest.split_at(length);
        input = rest;
        Some(piece)
    })
}
