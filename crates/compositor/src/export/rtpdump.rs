//! The rtpdump format of rtptools: every packet as it was received, RTP and RTCP, retransmissions and probes too.
//!
//! ```text
//! #!rtpplay1.0 0.0.0.0/0\n
//! start: seconds u32, microseconds u32 · source u32 · port u16 · 0 u16
//! packet: length u16, these 8 bytes included · length of the RTP packet u16, 0 for RTCP · milliseconds since the start u32 · packet
//! ```
//! Numbers are big-endian; the start is the recording's.

use roomreel_shared::batch::{Packet, PacketData};
use roomreel_shared::time::RoomTime;

use super::{Error, Files, OpenFile};

const LINE: &[u8] = b"#!rtpplay1.0 0.0.0.0/0\n";
const PACKET_HEADER_BYTES: usize = 8;

/// What stands before the first packet.
fn header(start: RoomTime) -> Vec<u8> {
    let start_us = start.as_micros().max(0);
    let seconds = u32::try_from(start_us / 1_000_000).unwrap_or(u32::MAX);
    let micros = (start_us % 1_000_000) as u32;
    [LINE, &seconds.to_be_bytes(), &micros.to_be_bytes(), &[0; 8]].concat()
}

/// What stands before `packet`; `None` if it is longer than the format can say.
fn packet_header(packet: &PacketData, offset_us: i64) -> Option<[u8; PACKET_HEADER_BYTES]> {
    let length = u16::try_from(packet.bytes().len() + PACKET_HEADER_BYTES).ok()?;
    let rtp_length = match packet {
        PacketData::Rtp(bytes) => bytes.len() as u16,
        PacketData::Rtcp(_) => 0,
    };
    let offset_ms = u32::try_from(offset_us.max(0) / 1000).unwrap_or(u32::MAX);
    let mut header = [0; PACKET_HEADER_BYTES];
    header[..2].copy_from_slice(&length.to_be_bytes());
    header[2..4].copy_from_slice(&rtp_length.to_be_bytes());
    header[4..].copy_from_slice(&offset_ms.to_be_bytes());
    Some(header)
}

/// Writes a track's packets in the order in which they were folded.
#[derive(Default)]
pub(super) struct RtpDump(Option<OpenFile>);

impl RtpDump {
    pub(super) fn write(&mut self, packet: &Packet, start: RoomTime, files: &mut Files) -> Result<(), Error> {
        let offset_us = packet.time.micros_since(start);
        let Some(before) = packet_header(&packet.data, offset_us) else { return Ok(()) };
        if self.0.is_none() {
            self.0 = files.next("rtpdump", "")?;
            if let Some(file) = &mut self.0 {
                file.append(&header(start))?;
            }
        }
        if let Some(file) = &mut self.0 {
            file.append(&before)?;
            file.append(packet.data.bytes())?;
            files.note(0, offset_us.max(0), 0);
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(), Error> {
        self.0.map_or(Ok(()), OpenFile::finish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn headers_as_rtptools_has_them() {
        let start = header(RoomTime::from_micros(0x0102_0304 * 1_000_000 + 5));
        assert_eq!(start[LINE.len()..], [1, 2, 3, 4, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0]);
        let rtp = PacketData::Rtp(Bytes::from_static(&[0x80; 12]));
        assert_eq!(packet_header(&rtp, 258_000), Some([0, 20, 0, 12, 0, 0, 1, 2]));
        let rtcp = PacketData::Rtcp(Bytes::from_static(&[0x80; 8]));
        assert_eq!(packet_header(&rtcp, -1), Some([0, 16, 0, 0, 0, 0, 0, 0]));
        assert_eq!(packet_header(&PacketData::Rtp(vec![0; 65_530].into()), 0), None);
    }
}
