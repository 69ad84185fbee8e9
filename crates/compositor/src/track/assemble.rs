//! Whole pictures of one RTP stream, each one that a decoder can go on with.

use roomreel_shared::event::Producer;
use roomreel_shared::rtp::PayloadType;

use crate::depacketize::reorder::PicturePackets;
use crate::depacketize::{CodedPicture, VideoDepacketizer};

/// Makes pictures of packets, and leaves out what builds on a picture that is missing.
#[derive(Debug)]
pub(crate) struct Assembler {
    depacketizer: Option<(PayloadType, VideoDepacketizer)>,
    /// Nothing can be decoded before the next key picture.
    pub(super) awaits_key: bool,
}

impl Default for Assembler {
    fn default() -> Self {
        Self { depacketizer: None, awaits_key: true }
    }
}

impl Assembler {
    /// The picture of these packets, if nothing of it is missing and a decoder that was given all pictures before it since the
    /// newest key picture can take it.
    pub(crate) fn picture(&mut self, packets: &PicturePackets, producer: &Producer) -> Option<CodedPicture> {
        // A hole before it took a picture that this one may build on; a key picture builds on nothing.
        self.awaits_key |= packets.missing_before > 0 || packets.restarts;
        if packets.payloads.is_empty() {
            return None;
        }
        let payload_type = packets.payload_type;
        if self.depacketizer.as_ref().is_none_or(|(of, _)| *of != payload_type) {
            self.awaits_key = true;
            self.depacketizer =
                producer.codec(payload_type).and_then(VideoDepacketizer::new).map(|new| (payload_type, new));
        }
        let coded = match &mut self.depacketizer {
            Some((_, depacketizer)) if packets.is_whole() => depacketizer.picture(&packets.payloads).ok(),
            _ => None,
        };
        self.awaits_key = coded.as_ref().is_none_or(|coded| self.awaits_key && !coded.is_key);
        coded.filter(|_| !self.awaits_key)
    }
}
