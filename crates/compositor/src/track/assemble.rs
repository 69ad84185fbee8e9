//! Whole pictures of one RTP stream, each one that a decoder can go on with.

use roomreel_shared::event::Producer;
use roomreel_shared::rtp::PayloadType;

use super::continuity::Continuity;
use crate::depacketize::reorder::PicturePackets;
use crate::depacketize::{CodedPicture, VideoDepacketizer};

/// Makes pictures of packets, and leaves out what builds on a picture that is missing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Assembler {
    depacketizer: Option<(PayloadType, VideoDepacketizer)>,
    continuity: Continuity,
    /// Packets that are missing before the next picture.
    missing: u64,
    /// There has been a key picture.
    had_key: bool,
}

/// Longest name of a codec that is told.
pub(super) const MAX_NAME_CHARS: usize = 40;

/// Why there is no picture for a decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unusable {
    /// There were probes only.
    Empty,
    /// A packet is missing, of it or of what it builds on.
    Lost,
    /// It is whole, and there has been no key picture yet.
    Keyless,
    /// Its payloads are not what their format says.
    Malformed,
    /// It is of no codec that is decoded here; its name.
    Unsupported(String),
}

impl Assembler {
    /// Nothing can be decoded before the next key picture.
    pub(crate) fn awaits_key(&self) -> bool {
        self.continuity.awaits_key()
    }

    /// Nothing is to be decoded before the next key picture.
    pub(crate) fn await_key(&mut self) {
        self.continuity.break_off();
    }

    /// The picture of these packets, if nothing of it is missing and a decoder that was given all pictures before it since the
    /// newest key picture can take it.
    ///
    /// # Errors
    /// [`Unusable`].
    pub(crate) fn picture(&mut self, packets: &PicturePackets, producer: &Producer) -> Result<CodedPicture, Unusable> {
        if packets.restarts {
            self.await_key();
        }
        let missing = std::mem::take(&mut self.missing) + packets.missing_before;
        if packets.payloads.is_empty() {
            self.missing = missing + packets.missing_within;
            return Err(Unusable::Empty);
        }
        let payload_type = packets.payload_type;
        if self.depacketizer.as_ref().is_none_or(|(of, _)| *of != payload_type) {
            self.await_key();
            self.depacketizer =
                producer.codec(payload_type).and_then(VideoDepacketizer::new).map(|new| (payload_type, new));
        }
        let Some((_, depacketizer)) = &mut self.depacketizer else {
            let name = producer.codec(payload_type).map_or("", |parameters| parameters.codec.name());
            return Err(Unusable::Unsupported(name.chars().take(MAX_NAME_CHARS).collect()));
        };
        let coded = if packets.is_whole() {
            depacketizer.picture(&packets.payloads).map_err(|_| Unusable::Malformed)
        } else {
            Err(Unusable::Lost)
        };
        // Behind the picture, whose parameter sets they are read by.
        let marks = depacketizer.marks(&packets.payloads);
        self.continuity.see(marks.as_ref(), missing);
        let coded = coded.inspect_err(|_| self.continuity.lose(marks.as_ref()))?;
        self.had_key |= coded.is_key;
        match self.continuity.admit(marks.as_ref(), coded.is_key) {
            true => Ok(coded),
            false if self.had_key => Err(Unusable::Lost),
            false => Err(Unusable::Keyless),
        }
    }
}
