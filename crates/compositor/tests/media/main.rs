//! Encoders, containers and decoders against FFmpeg's own tools.

mod decoding;
mod encoding;
mod rendering;
mod support;
