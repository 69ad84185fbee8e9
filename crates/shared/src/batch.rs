//! An `RtpBatch` read and written: packets of one track under the publisher's own numbers.

use bytes::Bytes;
use prost::Message as _;

use crate::checksum;
use crate::id::{self, RoomId, TrackId};
use crate::time::RoomTime;
use crate::wire;

/// Most bytes a batch may have on the wire; a larger one is refused before anything of it is decoded.
pub const MAX_BATCH_BYTES: usize = 512 * 1024;

/// What video packets are long, about.
const FULL_PACKET_BYTES: usize = 1_100;

/// What one publisher start calls itself; never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(u64);

impl Incarnation {
    /// `None` for 0, which no publisher may use.
    #[must_use]
    pub fn new(value: u64) -> Option<Self> {
        (value != 0).then_some(Self(value))
    }

    /// The number on the wire.
    #[must_use]
    pub fn get(self) -> u64 {
        self.0
    }
}

/// What a packet's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PacketData {
    /// A whole RTP packet as the SFU received it; not yet validated.
    Rtp(Bytes),
    /// A compound RTCP packet; not yet validated.
    Rtcp(Bytes),
}

impl PacketData {
    /// The bytes, whichever they are.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::Rtp(bytes) | Self::Rtcp(bytes) => bytes,
        }
    }
}

/// One packet of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// When the SFU received it.
    pub time: RoomTime,
    /// Its bytes.
    pub data: PacketData,
}

/// Packets of one track in receive order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RtpBatch {
    /// The room the publisher meant.
    pub room: RoomId,
    /// The track the publisher meant.
    pub track: TrackId,
    /// Which start of the publisher numbered this.
    pub incarnation: Incarnation,
    /// Contiguous from 0 within the incarnation.
    pub batch_no: u64,
    /// Number of the first packet, contiguous from 0 within the incarnation.
    pub first_packet_no: u64,
    /// At least one.
    pub packets: Vec<Packet>,
}

/// Why a message is not a batch. The message is the publisher's fault or was damaged on its way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than [`MAX_BATCH_BYTES`].
    #[error("batch of {bytes} bytes is over the limit of {MAX_BATCH_BYTES}; publish smaller batches")]
    TooLarge {
        /// Length of the message.
        bytes: usize,
    },
    /// Not a protobuf message of this type.
    #[error("batch does not decode: {0}")]
    Decode(String),
    /// The body is not what the publisher computed its checksum over.
    #[error("batch body has CRC32C {actual:#010x}, the publisher wrote {expected:#010x}")]
    Checksum {
        /// As written.
        expected: u32,
        /// As computed.
        actual: u32,
    },
    /// A field is missing or impossible.
    #[error("batch field {field}: {why}")]
    Field {
        /// Its name in the contract.
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An id cannot be spelled.
    #[error("batch: {0}")]
    Id(#[from] id::Error),
}

impl RtpBatch {
    /// Reads a message of the log.
    ///
    /// # Errors
    /// Any [`Error`]; nothing of such a message may be used.
    pub fn decode(message: Bytes) -> Result<Self, Error> {
        if message.len() > MAX_BATCH_BYTES {
            return Err(Error::TooLarge { bytes: message.len() });
        }
        let envelope = wire::RtpBatch::decode(message).map_err(|e| Error::Decode(e.to_string()))?;
        let actual = checksum::crc32c(&envelope.body);
        if actual != envelope.body_crc32c {
            return Err(Error::Checksum { expected: envelope.body_crc32c, actual });
        }
        // One allocation for as many packets as are to be expected.
        let packets = Vec::with_capacity(envelope.body.len() / FULL_PACKET_BYTES + 2);
        let mut body = wire::RtpBatchBody { packets, ..Default::default() };
        body.merge(envelope.body).map_err(|e| Error::Decode(e.to_string()))?;
        let incarnation =
            Incarnation::new(body.incarnation).ok_or(Error::Field { field: "incarnation", why: "it is 0" })?;
        if body.packets.is_empty() {
            return Err(Error::Field { field: "packets", why: "there are none" });
        }
        if body.batch_no == u64::MAX || body.first_packet_no.checked_add(body.packets.len() as u64).is_none() {
            return Err(Error::Field { field: "batch_no or first_packet_no", why: "it is at the end of its range" });
        }
        let base = RoomTime::from_micros(body.base_time_us);
        let packets = body
            .packets
            .into_iter()
            .map(|packet| {
                let data = match packet.data {
                    Some(wire::packet::Data::Rtp(bytes)) => PacketData::Rtp(bytes),
                    Some(wire::packet::Data::Rtcp(bytes)) => PacketData::Rtcp(bytes),
                    None => return Err(Error::Field { field: "packets.data", why: "neither rtp nor rtcp is set" }),
                };
                Ok(Packet { time: base.offset_micros(packet.receive_offset_us), data })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            room: RoomId::new(body.room_id)?,
            track: TrackId::new(body.track_id)?,
            incarnation,
            batch_no: body.batch_no,
            first_packet_no: body.first_packet_no,
            packets,
        })
    }

    /// The message to publish.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let base = self.packets.first().map_or(RoomTime::default(), |packet| packet.time);
        let packets = self
            .packets
            .iter()
            .map(|packet| wire::Packet {
                receive_offset_us: packet.time.micros_since(base),
                data: Some(match &packet.data {
                    PacketData::Rtp(bytes) => wire::packet::Data::Rtp(bytes.clone()),
                    PacketData::Rtcp(bytes) => wire::packet::Data::Rtcp(bytes.clone()),
                }),
            })
            .collect();
        let body = wire::RtpBatchBody {
            room_id: self.room.as_str().to_owned(),
            track_id: self.track.as_str().to_owned(),
            incarnation: self.incarnation.get(),
            batch_no: self.batch_no,
            first_packet_no: self.first_packet_no,
            base_time_us: base.as_micros(),
            packets,
        };
        let body = Bytes::from(body.encode_to_vec());
        let envelope = wire::RtpBatch { body_crc32c: checksum::crc32c(&body), body };
        Bytes::from(envelope.encode_to_vec())
    }

    /// One past the number of the last packet.
    #[must_use]
    pub fn next_packet_no(&self) -> u64 {
        self.first_packet_no + self.packets.len() as u64
    }
}

/// The CRC32C of what `crc32c` is of, followed by a message that has been decoded: the body's is known, if it stands where
/// [`RtpBatch::encode`] puts it, and need not be computed a second time.
pub(crate) fn append_crc32c(crc32c: u32, message: &[u8]) -> u32 {
    let Some((head, body_crc32c)) = split(message) else { return crc32c::crc32c_append(crc32c, message) };
    let before = crc32c::crc32c_append(crc32c, &message[..head]);
    checksum::combine(before, body_crc32c, message.len() - head)
}

/// Where the body begins that ends with the message, and its checksum as written.
fn split(message: &[u8]) -> Option<(usize, u32)> {
    /// Keys of the two fields: number, and the wire type of four bytes, of a length and bytes.
    const CHECKSUM: u8 = 1 << 3 | 5;
    const BODY: u8 = 2 << 3 | 2;
    let [CHECKSUM, a, b, c, d, BODY, length @ ..] = message else { return None };
    let mut rest = length;
    let bytes = prost::encoding::decode_varint(&mut rest).ok()?;
    (bytes == rest.len() as u64).then(|| (message.len() - rest.len(), u32::from_le_bytes([*a, *b, *c, *d])))
}

/// The broker's de-duplication id of a first publish and its retries.
#[must_use]
pub fn message_id(incarnation: Incarnation, number: u64) -> String {
    format!("{:016x}:{number}", incarnation.get())
}

/// The id of a replay: new each time, because a broker can swallow the retry of a message it never stored.
#[must_use]
pub fn replay_message_id(incarnation: Incarnation, number: u64, attempt: u32) -> String {
    format!("{:016x}:{number}:r{attempt}", incarnation.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> RtpBatch {
        RtpBatch {
            room: RoomId::new("standup").expect("valid"),
            track: TrackId::new("cam").expect("valid"),
            incarnation: Incarnation::new(0x0102_0304_0506_0708).expect("not 0"),
            batch_no: 3,
            first_packet_no: 40,
            packets: vec![
                Packet {
                    time: RoomTime::from_micros(1_000_000),
                    data: PacketData::Rtp(Bytes::from_static(&[0x80, 96, 0, 1])),
                },
                Packet {
                    time: RoomTime::from_micros(999_990),
                    data: PacketData::Rtcp(Bytes::from_static(&[0x80, 200])),
                },
            ],
        }
    }

    #[test]
    fn golden_bytes() {
        let message = batch().encode();
        let hex: String = message.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("../../../proto/golden/rtp_batch.hex").trim());
        assert_eq!(RtpBatch::decode(message), Ok(batch()));
    }

    #[test]
    fn a_known_checksum_is_not_computed_again() {
        let long = vec![7; 30_000].into();
        let packets = vec![Packet { time: RoomTime::default(), data: PacketData::Rtp(long) }];
        for batch in [batch(), RtpBatch { packets, ..batch() }] {
            let message = batch.encode();
            assert_eq!(append_crc32c(5, &message), crc32c::crc32c_append(5, &message));
            // A body that is not the last field, or whose checksum is not the first.
            let envelope = wire::RtpBatch::decode(message.clone()).expect("whole");
            let mut turned = Vec::new();
            prost::encoding::bytes::encode(2, &envelope.body, &mut turned);
            prost::encoding::fixed32::encode(1, &envelope.body_crc32c, &mut turned);
            assert_eq!(RtpBatch::decode(turned.clone().into()), Ok(batch));
            assert_eq!(append_crc32c(5, &turned), crc32c::crc32c_append(5, &turned));
            let again = [&message[..], &message[..5]].concat();
            assert_eq!(append_crc32c(5, &again), crc32c::crc32c_append(5, &again));
            assert_eq!(append_crc32c(5, &[]), 5);
        }
    }

    #[test]
    fn damage_is_told_apart() {
        let message = batch().encode();
        let mut flipped = message.to_vec();
        *flipped.last_mut().expect("not empty") ^= 1;
        assert!(matches!(RtpBatch::decode(flipped.into()), Err(Error::Checksum { .. })));
        assert!(matches!(RtpBatch::decode(message.slice(..message.len() - 1)), Err(Error::Decode(_))));
        assert!(matches!(RtpBatch::decode(Bytes::new()), Err(Error::Field { field: "incarnation", .. })));
        let empty = RtpBatch { packets: vec![], ..batch() };
        assert!(matches!(RtpBatch::decode(empty.encode()), Err(Error::Field { field: "packets", .. })));
        assert!(matches!(RtpBatch::decode(vec![0; MAX_BATCH_BYTES + 1].into()), Err(Error::TooLarge { .. })));
    }
}
