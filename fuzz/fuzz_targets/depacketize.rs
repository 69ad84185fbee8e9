//! Payloads of every codec to pictures, through the reordering of one stream.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use roomreel_fuzz::depacketize::reorder::{MediaPacket, Reorder};
use roomreel_fuzz::depacketize::spatial::SpatialLayers;
use roomreel_fuzz::depacketize::{MAX_PICTURE_BYTES, VideoDepacketizer, audio};
use roomreel_shared::event::{Codec, CodecParameters};
use roomreel_shared::rtp::{PayloadType, RtpTimestamp, SequenceNumber};
use roomreel_shared::time::RoomTime;

/// Each piece is a packet: sequence number, timestamp and marker in two bytes, then the payload.
fn packets(input: &[u8]) -> impl Iterator<Item = MediaPacket> {
    let mut sequence = 0_u16;
    let mut timestamp = 0_u32;
    roomreel_fuzz::pieces(input).map(move |piece| {
        let (step, flags, payload) = match piece {
            [step, flags, payload @ ..] => (step.cast_signed(), *flags, payload),
            _ => (1, 0, piece),
        };
        let jump = if flags & 4 != 0 { 200 } else { 1 };
        sequence = sequence.wrapping_add_signed(i16::from(step) * jump);
        timestamp = timestamp.wrapping_add(u32::from(flags >> 3) * 300);
        MediaPacket {
            sequence: SequenceNumber(sequence),
            timestamp: RtpTimestamp(timestamp),
            marker: flags & 1 != 0,
            payload_type: PayloadType(96),
            payload: Bytes::copy_from_slice(payload),
            time: RoomTime::from_micros(i64::from(timestamp)),
            orientation: None,
        }
    })
}

fuzz_target!(|input: &[u8]| {
    let Some((&codec, input)) = input.split_first() else { return };
    let codecs = [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::H265, Codec::Av1];
    let codec = codecs[usize::from(codec) % codecs.len()].clone();
    let parameters =
        CodecParameters { payload_type: PayloadType(96), codec, clock_rate: 90_000, channels: 0, fmtp: String::new() };
    let mut depacketizer = VideoDepacketizer::new(&parameters).expect("a codec that is rendered");
    let mut layers = SpatialLayers::default();
    let mut reorder = Reorder::default();
    for (number, packet) in (0..).zip(packets(input)) {
        for codec in [Codec::Opus, Codec::G722, Codec::Pcmu] {
            let _ = audio::duration_samples(&codec, &packet.payload);
        }
        let _ = audio::opus_redundancy(&packet.payload);
        if let Some(blocks) = audio::blocks_of_red(&packet.payload) {
            assert!(blocks.iter().map(|block| block.payload.len()).sum::<usize>() < packet.payload.len());
        }
        let sequence = packet.sequence;
        let _ = reorder.push(packet, RoomTime::from_micros(number * 1000));
        let _ = reorder.misses(sequence);
    }
    while let Some(picture) = reorder.pop_picture_before(RoomTime::from_micros(i64::MAX)) {
        for part in layers.split(picture, Some(&parameters.codec)) {
            let _ = depacketizer.marks(&part.payloads);
            if let Ok(coded) = depacketizer.picture(&part.payloads) {
                assert!(coded.data.len() <= MAX_PICTURE_BYTES);
            }
        }
    }
});
