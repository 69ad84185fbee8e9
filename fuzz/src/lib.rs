//! What the fuzz targets share: input cut into pieces, and the pure modules of crates that link codecs.
//!
//! Those modules are compiled from their own sources, so that a target builds without FFmpeg and all of it is instrumented.

#[path = "../../crates/compositor/src/depacketize/mod.rs"]
#[allow(dead_code)]
pub mod depacketize;

#[path = "../../crates/sfu/src/publisher/mod.rs"]
#[allow(dead_code)]
pub mod publisher;

pub use roomreel_layout as layout;

#[allow(dead_code)]
pub mod capture;
#[allow(dead_code)]
pub mod encode;
#[allow(dead_code)]
pub mod mux;
#[allow(dead_code, unused_imports)]
pub mod timeline;
pub mod track;

/// What [`encode`] asks of the decoders.
mod decode {
    pub(crate) const SAMPLE_RATE: u32 = 48_000;
}

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

/// Takes numbers off the front of input; 0 when there is none left.
pub struct Numbers<'a>(pub &'a [u8]);

impl Numbers<'_> {
    /// One byte.
    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    /// Mostly a small number, sometimes one at an end of the range.
    pub fn number(&mut self) -> u64 {
        match self.byte() {
            small @ 0..250 => u64::from(small),
            250 => u64::MAX,
            251 => u64::MAX - 1,
            252 => 1 << 63,
            253 => u64::from(u32::MAX),
            _ => (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte())),
        }
    }
}
