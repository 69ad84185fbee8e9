//! Producers and packets for the tests of this crate.

use roomreel_shared::batch::{Packet, PacketData};
use roomreel_shared::event::{Codec, CodecParameters, Producer};
use roomreel_shared::id::{PeerId, TrackId};
use roomreel_shared::policy::TrackKind;
use roomreel_shared::rtp::PayloadType;
use roomreel_shared::time::RoomTime;

/// Of the header extension that [`with_orientation`] writes.
pub(crate) const ORIENTATION_ID: u8 = 3;

/// The packet, which says how the camera was held.
pub(crate) fn with_orientation(packet: &Packet, value: u8) -> Packet {
    let PacketData::Rtp(plain) = &packet.data else { panic!("it is RTP") };
    let extension = [0xbe, 0xde, 0, 1, ORIENTATION_ID << 4, value, 0, 0];
    let bytes = [&[plain[0] | 0x10], &plain[1..12], &extension, &plain[12..]].concat();
    Packet { time: packet.time, data: PacketData::Rtp(bytes.into()) }
}

pub(crate) fn codec(payload_type: u8, codec: Codec, clock_rate: u32) -> CodecParameters {
    let channels = if codec == Codec::Opus { 2 } else { 1 };
    CodecParameters { payload_type: PayloadType(payload_type), codec, clock_rate, channels, fmtp: String::new() }
}

pub(crate) fn producer(codecs: Vec<CodecParameters>) -> Producer {
    let is_audio = codecs.first().is_some_and(|codec| codec.clock_rate != 90_000);
    Producer {
        track: TrackId::new("track").expect("valid"),
        peer: PeerId::new("amara").expect("valid"),
        kind: if is_audio { TrackKind::Audio } else { TrackKind::Video },
        is_audio,
        codecs,
        encodings: vec![],
        header_extensions: vec![],
    }
}

/// A whole RTP packet that was received `at_us` of the room's clock.
pub(crate) fn rtp(
    ssrc: u32,
    payload_type: u8,
    sequence: u16,
    timestamp: u32,
    marker: bool,
    payload: &[u8],
    at_us: i64,
) -> Packet {
    let mut bytes = vec![0x80, u8::from(marker) << 7 | payload_type];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(timestamp.to_be_bytes());
    bytes.extend(ssrc.to_be_bytes());
    bytes.extend(payload);
    Packet { time: RoomTime::from_micros(at_us), data: PacketData::Rtp(bytes.into()) }
}
