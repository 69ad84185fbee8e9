//! Encoders, containers and decoders against FFmpeg's own tools.

mod decoding;
mod encoding;
mod support;
