//! RTP payloads to what a decoder takes: pure functions over the payloads of one picture or one packet.
//!
//! Owns payload formats (one file per codec) and the order of packets ([`reorder`]). Does not own clocks, decoders, or
//! the decision what to do about a loss. Nothing here panics on any bytes.

mod annex_b;
pub mod audio;
mod av1;
mod bits;
mod h264;
mod h265;
pub mod marks;
pub mod orientation;
mod parameters;
pub mod reorder;
pub mod spatial;
mod vp8;
mod vp9;

use bytes::Bytes;
use marks::Marks;
pub use parameters::parameters;
use roomreel_shared::event::{Codec, CodecParameters};

/// Longest coded picture that is assembled; a longer one is refused.
pub const MAX_PICTURE_BYTES: usize = 8 << 20;

/// Why payloads do not make a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{codec} payload: {why}")]
pub struct Malformed {
    /// Whose payload format.
    pub codec: &'static str,
    /// What is wrong with it.
    pub why: &'static str,
}

/// A whole picture as a decoder takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodedPicture {
    /// Annex B for H.264 and H.265, a temporal unit for AV1, a frame or superframe for VP8 and VP9.
    pub data: Bytes,
    /// A decoder can start here.
    pub is_key: bool,
    /// Width and height in pixels, where a key picture's header tells them.
    pub size: Option<(u32, u32)>,
}

/// Makes pictures of one RTP stream's payloads; keeps the parameter sets that key pictures need.
#[derive(Debug, Clone)]
pub enum VideoDepacketizer {
    /// RFC 7741.
    Vp8,
    /// RFC 9628.
    Vp9,
    /// RFC 6184, packetization modes 0 and 1.
    H264(h264::ParameterSets),
    /// RFC 7798 without decoding order numbers.
    H265(h265::ParameterSets),
    /// The AV1 RTP payload specification.
    Av1,
}

impl VideoDepacketizer {
    /// For a payload type; `None` if the codec is not rendered.
    #[must_use]
    pub fn new(codec: &CodecParameters) -> Option<Self> {
        Some(match codec.codec {
            Codec::Vp8 => Self::Vp8,
            Codec::Vp9 => Self::Vp9,
            Codec::H264 => Self::H264(h264::ParameterSets::default()),
            Codec::H265 => Self::H265(h265::ParameterSets::default()),
            Codec::Av1 => Self::Av1,
            _ => return None,
        })
    }

    /// The picture whose packets, all of them and in order, carry `payloads`.
    ///
    /// # Errors
    /// [`Malformed`]; the picture is then lost. A start that is missing is noticed only where the format marks starts:
    /// after a hole, trust key pictures alone.
    pub fn picture(&mut self, payloads: &[Bytes]) -> Result<CodedPicture, Malformed> {
        match self {
            Self::Vp8 => vp8::picture(payloads),
            Self::Vp9 => vp9::picture(payloads),
            Self::H264(kept) => kept.picture(payloads),
            Self::H265(kept) => kept.picture(payloads),
            Self::Av1 => av1::picture(payloads),
        }
    }
}

impl VideoDepacketizer {
    /// What these payloads of one picture, which need not be all, say of those it builds on. `None` where the format, or this sender,
    /// does not tell. H.264 and H.265 are read by the parameter sets that [`Self::picture`] has seen.
    #[must_use]
    pub fn marks(&self, payloads: &[Bytes]) -> Option<Marks> {
        match self {
            Self::Vp8 => vp8::marks(payloads),
            Self::Vp9 => vp9::marks(payloads),
            Self::H264(kept) => kept.marks(payloads),
            Self::H265(kept) => kept.marks(payloads),
            Self::Av1 => None,
        }
    }
}

/// Appends to a picture within [`MAX_PICTURE_BYTES`].
fn append(picture: &mut Vec<u8>, part: &[u8], codec: &'static str) -> Result<(), Malformed> {
    if picture.len() + part.len() > MAX_PICTURE_BYTES {
        return Err(Malformed { codec, why: "the picture is larger than a picture can be" });
    }
    picture.extend_from_slice(part);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use roomreel_shared::rtp::PayloadType;

    proptest! {
        #[test]
        fn no_payloads_make_it_panic(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..6),
        ) {
            let payloads: Vec<Bytes> = payloads.into_iter().map(Bytes::from).collect();
            for codec in [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::H265, Codec::Av1] {
                let codec = CodecParameters {
                    payload_type: PayloadType(96), codec, clock_rate: 90_000, channels: 0, fmtp: String::new(),
                };
                let mut depacketizer = VideoDepacketizer::new(&codec).expect("rendered");
                let _ = depacketizer.marks(&payloads);
                let _ = depacketizer.picture(&payloads);
                let _ = depacketizer.picture(&payloads);
                let _ = depacketizer.marks(&payloads);
            }
        }
    }
}
