//! Janus recordings (`.mjr`, version 2), which `janus-pp-rec` and other tools around Janus read.
//!
//! ```text
//! "MJR00002" · length u16 · JSON: type, codec, creation and first packet in microseconds
//! packet: "MEET" · milliseconds since the first packet u32 · length u16 · RTP packet
//! ```
//! Numbers are big-endian. The format knows one RTP stream of one codec, so each has a file of its own. The RTP headers are made anew:
//! packets that came in retransmissions or redundancy stand where they belong, header extensions are left out.

use std::collections::BTreeMap;

use roomreel_shared::event::Codec;
use roomreel_shared::rtp::Ssrc;
use roomreel_shared::time::RoomTime;

use super::{Error, Files, OpenFile};
use crate::depacketize::reorder::MediaPacket;
use crate::depacketize::reorder::Popped;
use crate::track::Intake;

const RTP_HEADER_BYTES: usize = 12;

fn header(is_audio: bool, codec: &Codec, start: RoomTime) -> Vec<u8> {
    let kind = if is_audio { "a" } else { "v" };
    let start = start.as_micros();
    let about =
        serde_json::json!({"t": kind, "c": codec.name().to_ascii_lowercase(), "s": start, "u": start}).to_string();
    let length = u16::try_from(about.len()).expect("codec names are short: those that Janus knows");
    [b"MJR00002", &length.to_be_bytes()[..], about.as_bytes()].concat()
}

/// The packet with what stands before it; `None` if it is longer than the format can say.
fn frame(packet: &MediaPacket, ssrc: Ssrc, offset_us: i64) -> Option<Vec<u8>> {
    let length = u16::try_from(RTP_HEADER_BYTES + packet.payload.len()).ok()?;
    let offset_ms = u32::try_from(offset_us.max(0) / 1000).unwrap_or(u32::MAX);
    let marker_and_type = u8::from(packet.marker) << 7 | packet.payload_type.0 & 0x7f;
    Some(
        [
            b"MEET",
            &offset_ms.to_be_bytes()[..],
            &length.to_be_bytes(),
            &[0x80, marker_and_type],
            &packet.sequence.0.to_be_bytes(),
            &packet.timestamp.0.to_be_bytes(),
            &ssrc.0.to_be_bytes(),
            &packet.payload,
        ]
        .concat(),
    )
}

struct Stream {
    number: usize,
    file: OpenFile,
}

/// Writes a track's RTP streams.
pub(super) struct Janus {
    is_audio: bool,
    streams: BTreeMap<(Ssrc, u8), Stream>,
}

impl Janus {
    pub(super) fn new(is_audio: bool) -> Self {
        Self { is_audio, streams: BTreeMap::new() }
    }

    pub(super) fn write_before(
        &mut self,
        end: RoomTime,
        start: RoomTime,
        intake: &mut Intake,
        files: &mut Files,
    ) -> Result<(), Error> {
        for (ssrc, Popped { packet, .. }) in intake.pop_before(end) {
            // A probe has a number and nothing else; Janus does not record it either.
            let Some(codec) = intake.codec(packet.payload_type).map(|parameters| parameters.codec.clone()) else {
                continue;
            };
            if !packet.payload.is_empty() && is_known(&codec) {
                self.write(ssrc, &packet, &codec, start, files)?;
            }
        }
        Ok(())
    }

    fn write(
        &mut self,
        ssrc: Ssrc,
        packet: &MediaPacket,
        codec: &Codec,
        start: RoomTime,
        files: &mut Files,
    ) -> Result<(), Error> {
        let offset_us = packet.time.micros_since(start);
        let Some(frame) = frame(packet, ssrc, offset_us) else { return Ok(()) };
        let of = (ssrc, packet.payload_type.0);
        if !self.streams.contains_key(&of) {
            let Some(mut file) = files.next("mjr", codec.name())? else { return Ok(()) };
            file.append(&header(self.is_audio, codec, start))?;
            self.streams.insert(of, Stream { number: files.newest(), file });
        }
        if let Some(stream) = self.streams.get_mut(&of) {
            stream.file.append(&frame)?;
            files.note(stream.number, offset_us.max(0), 0);
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(), Error> {
        self.streams.into_values().try_for_each(|stream| stream.file.finish())
    }
}

/// What Janus records.
fn is_known(codec: &Codec) -> bool {
    use Codec::{Av1, G722, H264, H265, Opus, Pcma, Pcmu, Vp8, Vp9};
    matches!(codec, Opus | Pcmu | Pcma | G722 | Vp8 | Vp9 | H264 | H265 | Av1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use roomreel_shared::rtp::{PayloadType, RtpTimestamp, SequenceNumber};

    #[test]
    fn frames_as_janus_writes_them() {
        let head = header(false, &Codec::Vp8, RoomTime::from_micros(7));
        assert_eq!(head, b"MJR00002\x00\x1f{\"c\":\"vp8\",\"s\":7,\"t\":\"v\",\"u\":7}");
        let packet = MediaPacket {
            sequence: SequenceNumber(0x0102),
            timestamp: RtpTimestamp(0x0304_0506),
            marker: true,
            payload_type: PayloadType(96),
            payload: Bytes::from_static(&[9]),
            time: RoomTime::default(),
            orientation: None,
        };
        let expected = b"MEET\x00\x00\x00\x02\x00\x0d\x80\xe0\x01\x02\x03\x04\x05\x06\x00\x00\x00\x0a\x09";
        assert_eq!(frame(&packet, Ssrc(10), 2_500), Some(expected.to_vec()));
    }
}
