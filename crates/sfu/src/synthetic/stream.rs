//! One RTP stream of a participant: packets with running numbers, and its sender reports (RFC 3550).

use std::time::Duration;

use bytes::Bytes;
use rand::Rng as _;
use rand::rngs::StdRng;
use roomreel_shared::batch::PacketData;
use roomreel_shared::rtcp::{NtpTimestamp, SenderReport, write_sender_report};
use roomreel_shared::rtp::{RtpTimestamp, Ssrc};

/// Longest RTP packet.
pub(super) const MTU: usize = 1200;
/// Id of the audio level header extension.
pub(super) const AUDIO_LEVEL_ID: u8 = 1;

/// Seconds from the NTP epoch to Unix'.
const NTP_OFFSET_SECONDS: i64 = 2_208_988_800;

/// A participant's wall clock: it is not the SFU's.
#[derive(Debug, Clone, Copy)]
pub(super) struct WallClock {
    /// Microseconds since the Unix epoch at the room's beginning.
    pub(super) at_start_us: i64,
}

impl WallClock {
    fn ntp(self, at: Duration) -> NtpTimestamp {
        let micros = i128::from(self.at_start_us) + at.as_micros() as i128 + i128::from(NTP_OFFSET_SECONDS) * 1_000_000;
        NtpTimestamp(((micros << 32) / 1_000_000) as u64)
    }
}

pub(super) struct Stream {
    pub(super) ssrc: Ssrc,
    payload_type: u8,
    clock_rate: u32,
    sequence: u16,
    timestamp_offset: u32,
    packets: u32,
    octets: u32,
    cname: String,
}

impl Stream {
    pub(super) fn new(rng: &mut StdRng, payload_type: u8, clock_rate: u32, cname: &str) -> Self {
        Self {
            ssrc: Ssrc(rng.random_range(1..=u32::MAX)),
            payload_type,
            clock_rate,
            sequence: rng.random(),
            timestamp_offset: rng.random(),
            packets: 0,
            octets: 0,
            cname: cname.to_owned(),
        }
    }

    /// The RTP timestamp of media time `at`.
    fn timestamp(&self, at: Duration) -> RtpTimestamp {
        let ticks = (at.as_nanos() * u128::from(self.clock_rate) + 500_000_000) / 1_000_000_000;
        RtpTimestamp(self.timestamp_offset.wrapping_add(ticks as u32))
    }

    /// A packet of what was captured at `at`. `audio_level` is -dBov, with the upper bit for speech (RFC 6464).
    pub(super) fn packet(
        &mut self,
        at: Duration,
        marker: bool,
        audio_level: Option<u8>,
        payload: &Bytes,
    ) -> PacketData {
        let mut packet = Vec::with_capacity(24 + payload.len());
        packet.push(if audio_level.is_some() { 0x90 } else { 0x80 });
        packet.push(u8::from(marker) << 7 | self.payload_type);
        packet.extend(self.sequence.to_be_bytes());
        packet.extend(self.timestamp(at).0.to_be_bytes());
        packet.extend(self.ssrc.0.to_be_bytes());
        if let Some(level) = audio_level {
            packet.extend([0xbe, 0xde, 0, 1, AUDIO_LEVEL_ID << 4, level, 0, 0]);
        }
        packet.extend_from_slice(payload);
        self.sequence = self.sequence.wrapping_add(1);
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(payload.len() as u32);
        PacketData::Rtp(packet.into())
    }

    /// A sender report at media time `at`, with the canonical name that RFC 3550 section 6.1 asks for.
    pub(super) fn report(&self, at: Duration, clock: WallClock) -> PacketData {
        let report = SenderReport { ssrc: self.ssrc, ntp: clock.ntp(at), rtp: self.timestamp(at) };
        let mut compound = write_sender_report(report, self.packets, self.octets);
        let mut chunk = self.ssrc.0.to_be_bytes().to_vec();
        let name = &self.cname.as_bytes()[..self.cname.len().min(255)];
        chunk.extend([1, name.len() as u8]);
        chunk.extend(name);
        // At least one zero ends the chunk's items.
        chunk.resize((chunk.len() + 1).next_multiple_of(4), 0);
        compound.extend([0x81, 202, 0, (chunk.len() / 4) as u8]);
        compound.extend(chunk);
        PacketData::Rtcp(compound.into())
    }
}
