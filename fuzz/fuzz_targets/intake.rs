//! A track on its way to the decoders: hostile packets of every codec, retransmissions and redundancy, in windows.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use roomreel_fuzz::{Numbers, pieces, track};
use roomreel_shared::batch::{Packet, PacketData};
use roomreel_shared::event::{Codec, CodecParameters, Encoding, Producer};
use roomreel_shared::id::{PeerId, TrackId};
use roomreel_shared::policy::TrackKind;
use roomreel_shared::rtcp::{NtpTimestamp, SenderReport, write_sender_report};
use roomreel_shared::rtp::{PayloadType, RtpTimestamp, Ssrc};
use roomreel_shared::time::RoomTime;

fn producer(is_audio: bool) -> Producer {
    let codec = |payload_type, codec, clock_rate, fmtp: &str| CodecParameters {
        payload_type: PayloadType(payload_type),
        codec,
        clock_rate,
        channels: u8::from(is_audio) * 2,
        fmtp: fmtp.to_owned(),
    };
    let codecs = if is_audio {
        vec![
            codec(96, Codec::Opus, 48_000, ""),
            codec(97, Codec::Red, 48_000, "96/96"),
            codec(98, Codec::Pcmu, 8000, ""),
            codec(99, Codec::G722, 8000, ""),
            codec(100, Codec::Fec, 48_000, ""),
        ]
    } else {
        vec![
            codec(96, Codec::Vp8, 90_000, ""),
            codec(97, Codec::Rtx, 90_000, "apt=96"),
            codec(98, Codec::Vp9, 90_000, ""),
            codec(99, Codec::H264, 90_000, "packetization-mode=1"),
            codec(100, Codec::Av1, 90_000, ""),
            codec(101, Codec::H265, 90_000, ""),
            codec(102, Codec::Rtx, 90_000, "apt=99"),
            codec(103, Codec::Fec, 1, ""),
            codec(104, Codec::Rtx, 90_000, "apt=104"),
        ]
    };
    Producer {
        track: TrackId::new("cam").expect("valid"),
        peer: PeerId::new("amara").expect("valid"),
        kind: if is_audio { TrackKind::Audio } else { TrackKind::Video },
        is_audio,
        codecs,
        encodings: vec![
            Encoding { ssrc: Ssrc(1), rid: Some("l".to_owned()), rtx_ssrc: Some(Ssrc(17)) },
            Encoding { ssrc: Ssrc(2), rid: None, rtx_ssrc: None },
        ],
        header_extensions: Vec::new(),
    }
}

/// A piece is a packet: whole as it is, or a header from some numbers and then the payload; or the end of a window.
fn windows(input: &[u8]) -> Vec<Vec<Packet>> {
    let mut windows = vec![Vec::new()];
    let mut time = 1_600_000_000_000_000_i64;
    let (mut sequence, mut timestamp) = (65_530_u16, u32::MAX - 1000);
    for piece in pieces(input) {
        let mut numbers = Numbers(piece);
        let op = numbers.byte();
        time = time.saturating_add(match op >> 6 {
            0 => 1000,
            1 => 33_000,
            2 => numbers.number().cast_signed() % 3_600_000_000,
            _ => 0,
        });
        let data = match op % 8 {
            0 => PacketData::Rtp(Bytes::copy_from_slice(numbers.0)),
            1 => PacketData::Rtcp(Bytes::copy_from_slice(numbers.0)),
            2 => {
                let report = SenderReport {
                    ssrc: Ssrc(numbers.byte().into()),
                    ntp: NtpTimestamp(numbers.number() << 28),
                    rtp: RtpTimestamp(timestamp.wrapping_add(numbers.number() as u32)),
                };
                PacketData::Rtcp(write_sender_report(report, 0, 0).into())
            }
            3 => {
                windows.push(Vec::new());
                continue;
            }
            _ => {
                let flags = numbers.byte();
                sequence = sequence.wrapping_add_signed(i16::from((numbers.byte()).cast_signed()));
                timestamp = timestamp.wrapping_add((numbers.number() as u32).wrapping_mul(100));
                let mut bytes = vec![0x80, (flags & 0x80) | (96 + flags % 10)];
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(timestamp.to_be_bytes());
                bytes.extend(u32::from(numbers.byte() % 40).to_be_bytes());
                bytes.extend(numbers.0);
                PacketData::Rtp(bytes.into())
            }
        };
        let packet = Packet { time: RoomTime::from_micros(time), data };
        windows.last_mut().expect("there is one").push(packet);
    }
    windows
}

fuzz_target!(|input: &[u8]| {
    let windows = windows(input);
    let rtp: usize = windows.iter().flatten().filter(|packet| matches!(packet.data, PacketData::Rtp(_))).count();
    for is_audio in [false, true] {
        let (quality, pictures, packets) = track::run(&producer(is_audio), &windows);
        let taken = quality.packets + quality.recovered;
        // The first packet of a new numbering counts as one that does not fit, until the next one tells.
        assert!(packets <= taken + quality.invalid, "{packets} packets came out of {quality:?}");
        assert!(pictures <= packets);
        let seen = quality.packets + quality.duplicate + quality.late + quality.invalid + quality.unknown_payload;
        assert!(seen <= rtp as u64, "{quality:?} of {rtp} packets");
        // A packet of redundant audio repeats eight at most.
        assert!(quality.recovered <= 8 * rtp as u64, "{quality:?} of {rtp} packets");
    }
});
