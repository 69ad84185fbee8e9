//! Coded frames in, pictures and samples out, through libavcodec and libopus.
//!
//! Owns the decoders and what they may cost: one thread each, a bound on picture size. Does not own the order of frames, loss
//! or time: the caller hands over whole coded frames in decode order and carries its own time stamps through.

mod audio;
mod opus;
mod video;

pub use audio::{AudioDecoder, SAMPLE_RATE};
pub use video::VideoDecoder;
pub(crate) use video::is_again;

use roomreel_shared::event::Codec;

/// Why there is no picture or sound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such media can be decoded here; the track stays a placeholder.
    #[error("{codec} cannot be decoded: {why}")]
    Unsupported {
        /// The codec's name.
        codec: String,
        /// What is missing.
        why: String,
    },
    /// The bitstream is not what its codec says; the next key frame mends it.
    #[error("damaged {codec} bitstream: {why}")]
    Damaged {
        /// The codec's name.
        codec: String,
        /// As libavcodec says it.
        why: String,
    },
}

impl Error {
    fn unsupported(codec: &Codec, why: impl ToString) -> Self {
        Self::Unsupported { codec: codec.name().to_owned(), why: why.to_string() }
    }

    fn damaged(codec: &Codec, why: impl ToString) -> Self {
        Self::Damaged { codec: codec.name().to_owned(), why: why.to_string() }
    }
}

/// Says nothing on standard error: what is wrong with a bitstream is counted and reported by the caller.
pub(crate) fn silence_libav() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| ffmpeg_the_third::log::set_level(ffmpeg_the_third::log::Level::Quiet));
}
