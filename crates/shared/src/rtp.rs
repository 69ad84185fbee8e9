//! RTP packets as they are on the wire (RFC 3550 section 5, RFC 8285), read without copying.
//!
//! Owns header validation and sequence and timestamp arithmetic. Does not own payload formats.

use bytes::Bytes;

/// Synchronization source of one RTP stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Ssrc(pub u32);

/// What the payload is, by negotiation; 7 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct PayloadType(pub u8);

/// As on the wire: 16 bits, wraps every 65,536 packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SequenceNumber(pub u16);

/// As on the wire: clock-rate units from a random offset, wraps after 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RtpTimestamp(pub u32);

impl RtpTimestamp {
    /// Clock-rate units from `earlier` to this, assuming that less than 2^31 of them lie between.
    #[must_use]
    pub fn since(self, earlier: Self) -> i64 {
        i64::from(self.0.wrapping_sub(earlier.0).cast_signed())
    }
}

/// A sequence number counted across wraps; starts at 65,536 + the first one seen, so that packets from before it exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtendedSequenceNumber(pub u64);

impl ExtendedSequenceNumber {
    /// Of the first packet seen of a stream.
    #[must_use]
    pub fn first(sequence: SequenceNumber) -> Self {
        Self(0x1_0000 + u64::from(sequence.0))
    }

    /// Of a packet with `sequence`, taken to be within 32,768 packets of this one. Where there is no such number, at the ends
    /// of the range, it is the one of the same cycle: what stands for two packets is never one number.
    #[must_use]
    pub fn extend(self, sequence: SequenceNumber) -> Self {
        let delta = sequence.0.wrapping_sub(self.0 as u16).cast_signed();
        let same_cycle = (self.0 & !0xffff) | u64::from(sequence.0);
        Self(self.0.checked_add_signed(i64::from(delta)).unwrap_or(same_cycle))
    }

    /// The 16 bits on the wire.
    #[must_use]
    pub fn sequence(self) -> SequenceNumber {
        SequenceNumber(self.0 as u16)
    }
}

/// Why bytes are not an RTP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Shorter than the header says it is.
    #[error("RTP packet of {actual} bytes is too short: {needed} are needed")]
    TooShort {
        /// Bytes that the header asks for.
        needed: usize,
        /// Bytes there are.
        actual: usize,
    },
    /// Not version 2.
    #[error("RTP version is {0}, not 2")]
    Version(u8),
    /// The padding count is 0 or longer than the payload.
    #[error("RTP padding of {0} bytes does not fit the payload")]
    Padding(u8),
}

/// The form of the header extension block (RFC 8285 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Extensions {
    None,
    OneByte,
    TwoByte,
    /// A profile-specific block that is carried and not read.
    Other,
}

/// A validated view of an RTP packet.
#[derive(Debug, Clone)]
pub struct PacketView {
    bytes: Bytes,
    extensions: Extensions,
    extensions_start: usize,
    payload_start: usize,
    payload_end: usize,
}

impl PacketView {
    /// Checks the header of `bytes`.
    ///
    /// # Errors
    /// Any [`Error`]; the bytes are then no RTP packet.
    pub fn parse(bytes: Bytes) -> Result<Self, Error> {
        let actual = bytes.len();
        let need = |needed: usize| if actual < needed { Err(Error::TooShort { needed, actual }) } else { Ok(()) };
        need(12)?;
        let version = bytes[0] >> 6;
        if version != 2 {
            return Err(Error::Version(version));
        }
        let mut payload_start = 12 + 4 * usize::from(bytes[0] & 0x0f);
        let mut extensions = Extensions::None;
        let mut extensions_start = payload_start;
        if bytes[0] & 0x10 != 0 {
            need(payload_start + 4)?;
            let profile = u16::from_be_bytes([bytes[payload_start], bytes[payload_start + 1]]);
            let words = u16::from_be_bytes([bytes[payload_start + 2], bytes[payload_start + 3]]);
            extensions = match profile {
                0xbede => Extensions::OneByte,
                0x1000..=0x100f => Extensions::TwoByte,
                _ => Extensions::Other,
            };
            extensions_start = payload_start + 4;
            payload_start = extensions_start + 4 * usize::from(words);
        }
        need(payload_start)?;
        let mut payload_end = actual;
        if bytes[0] & 0x20 != 0 {
            let padding = bytes[actual - 1];
            if padding == 0 || usize::from(padding) > actual - payload_start {
                return Err(Error::Padding(padding));
            }
            payload_end -= usize::from(padding);
        }
        Ok(Self { bytes, extensions, extensions_start, payload_start, payload_end })
    }

    /// RFC 3550 section 5.1; its meaning is the payload format's.
    #[must_use]
    pub fn marker(&self) -> bool {
        self.bytes[1] & 0x80 != 0
    }

    /// What the payload is.
    #[must_use]
    pub fn payload_type(&self) -> PayloadType {
        PayloadType(self.bytes[1] & 0x7f)
    }

    /// As on the wire.
    #[must_use]
    pub fn sequence_number(&self) -> SequenceNumber {
        SequenceNumber(u16::from_be_bytes([self.bytes[2], self.bytes[3]]))
    }

    /// As on the wire.
    #[must_use]
    pub fn timestamp(&self) -> RtpTimestamp {
        RtpTimestamp(u32::from_be_bytes([self.bytes[4], self.bytes[5], self.bytes[6], self.bytes[7]]))
    }

    /// Which stream.
    #[must_use]
    pub fn ssrc(&self) -> Ssrc {
        Ssrc(u32::from_be_bytes([self.bytes[8], self.bytes[9], self.bytes[10], self.bytes[11]]))
    }

    /// What is left after header and padding; empty for a padding-only probe.
    #[must_use]
    pub fn payload(&self) -> Bytes {
        self.bytes.slice(self.payload_start..self.payload_end)
    }

    /// The whole packet.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The value of header extension `id`, one- or two-byte form. A malformed block ends the search.
    #[must_use]
    pub fn extension(&self, id: u8) -> Option<&[u8]> {
        let mut block = &self.bytes[self.extensions_start..self.payload_start];
        while let [head, rest @ ..] = block {
            if *head == 0 {
                block = rest;
                continue;
            }
            let (found, length, rest) = match self.extensions {
                Extensions::OneByte if head >> 4 == 15 => return None,
                Extensions::OneByte => (head >> 4, usize::from(head & 0x0f) + 1, rest),
                Extensions::TwoByte => (*head, usize::from(*rest.first()?), &rest[1..]),
                Extensions::None | Extensions::Other => return None,
            };
            let value = rest.get(..length)?;
            if found == id {
                return Some(value);
            }
            block = &rest[length..];
        }
        None
    }
}

/// Audio level of a packet (RFC 6464): 0 is loudest, 127 silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioLevel {
    /// -dBov.
    pub level: u8,
    /// The sender believes that it is speech.
    pub voice: bool,
}

impl AudioLevel {
    /// Reads the extension's value.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let byte = *value.first()?;
        Some(Self { level: byte & 0x7f, voice: byte & 0x80 != 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_header_extensions_and_padding() {
        let mut packet = vec![0xb1, 0x80 | 111, 0x12, 0x34, 0, 0, 0, 9, 1, 2, 3, 4, 9, 9, 9, 9];
        packet.extend([0xbe, 0xde, 0, 2, 0x10, 0x85, 0, 0x41, b'a', b'v', 0, 0]);
        packet.extend([7, 7, 7, 0, 0, 3]);
        let view = PacketView::parse(packet.into()).expect("valid");
        assert!(view.marker());
        assert_eq!(view.payload_type(), PayloadType(111));
        assert_eq!(view.sequence_number(), SequenceNumber(0x1234));
        assert_eq!(view.ssrc(), Ssrc(0x0102_0304));
        assert_eq!(view.payload(), &[7_u8, 7, 7][..]);
        let level = view.extension(1).and_then(AudioLevel::parse);
        assert_eq!(level, Some(AudioLevel { level: 5, voice: true }));
        assert_eq!(view.extension(4), Some(&b"av"[..]));
        assert_eq!(view.extension(2), None);
    }

    #[test]
    fn two_byte_extensions_may_be_empty() {
        let packet = [&[0x90, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0x10, 0, 0, 2][..], &[1, 0, 0, 7, 2, 8, 9, 0]].concat();
        let view = PacketView::parse(packet.into()).expect("valid");
        assert_eq!(view.extension(1), Some(&[][..]));
        assert_eq!(view.extension(7), Some(&[8_u8, 9][..]));
    }

    #[test]
    fn refuses_what_is_no_packet() {
        let parse = |bytes: &[u8]| PacketView::parse(Bytes::copy_from_slice(bytes)).map(|_| ());
        let plain = [0x80, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1];
        assert_eq!(parse(&plain), Ok(()));
        assert_eq!(parse(&plain[..11]), Err(Error::TooShort { needed: 12, actual: 11 }));
        let with = |first: u8, tail: &[u8]| [&[first], &plain[1..], tail].concat();
        assert_eq!(parse(&with(0x40, &[])), Err(Error::Version(1)));
        assert_eq!(parse(&with(0x82, &[0; 4])), Err(Error::TooShort { needed: 20, actual: 16 }));
        assert_eq!(parse(&with(0x90, &[0xbe, 0xde, 0, 9])), Err(Error::TooShort { needed: 52, actual: 16 }));
        assert_eq!(parse(&with(0xa0, &[0])), Err(Error::Padding(0)));
        assert_eq!(parse(&with(0xa0, &[2])), Err(Error::Padding(2)));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), id in any::<u8>()) {
            if let Ok(view) = PacketView::parse(bytes.into()) {
                let _ = (view.payload(), view.extension(id), view.ssrc());
            }
        }

        #[test]
        fn sequence_numbers_extend_across_wraps(start in any::<u16>(), steps in proptest::collection::vec(-1000_i64..2000, 1..200)) {
            let mut true_number = 0x1_0000 + i64::from(start);
            let mut extended = ExtendedSequenceNumber::first(SequenceNumber(start));
            for step in steps {
                true_number = (true_number + step).max(0);
                extended = extended.extend(SequenceNumber(true_number as u16));
                prop_assert_eq!(extended.0, true_number.unsigned_abs());
            }
        }

        #[test]
        fn an_extended_number_is_of_its_packet(numbers in proptest::collection::vec(any::<u16>(), 1..40)) {
            for start in [0, 0x1_0000, u64::MAX] {
                let mut extended = ExtendedSequenceNumber(start);
                for &number in &numbers {
                    extended = extended.extend(SequenceNumber(number));
                    prop_assert_eq!(extended.sequence(), SequenceNumber(number));
                }
            }
        }

        #[test]
        fn timestamps_differ_across_the_wrap(start in any::<u32>(), delta in -0x4000_0000_i32..0x4000_0000) {
            let later = RtpTimestamp(start.wrapping_add_signed(delta));
            prop_assert_eq!(later.since(RtpTimestamp(start)), i64::from(delta));
        }
    }
}
