//! The part of RTCP a recording needs: sender reports (RFC 3550 section 6.4.1).

use crate::rtp::{RtpTimestamp, Ssrc};

/// Seconds since 1900 in the upper 32 bits, fractions of 2^-32 s in the lower (RFC 3550 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NtpTimestamp(pub u64);

impl NtpTimestamp {
    /// Microseconds from `earlier` to this.
    #[must_use]
    pub fn micros_since(self, earlier: Self) -> i64 {
        let delta = i128::from(self.0) - i128::from(earlier.0);
        i64::try_from((delta * 1_000_000) >> 32).expect("a 64-bit difference scaled down fits")
    }

    /// Microseconds since the NTP epoch.
    #[must_use]
    pub fn as_micros(self) -> i64 {
        self.micros_since(Self(0))
    }
}

/// The sender's statement that `rtp` and `ntp` are one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderReport {
    /// Which stream.
    pub ssrc: Ssrc,
    /// On the sender's wall clock, shared by all streams of a participant.
    pub ntp: NtpTimestamp,
    /// On the stream's RTP clock.
    pub rtp: RtpTimestamp,
}

/// The sender reports in a compound RTCP packet. A malformed part ends the walk; what came before it counts.
pub fn sender_reports(mut compound: &[u8]) -> impl Iterator<Item = SenderReport> + '_ {
    std::iter::from_fn(move || {
        loop {
            let &[first, packet_type, high, low, ..] = compound else { return None };
            let length = 4 * (usize::from(u16::from_be_bytes([high, low])) + 1);
            if first >> 6 != 2 || compound.len() < length {
                return None;
            }
            let (packet, rest) = compound.split_at(length);
            compound = rest;
            if packet_type == 200 && packet.len() >= 28 {
                let word = |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
                return Some(SenderReport {
                    ssrc: Ssrc(word(4)),
                    ntp: NtpTimestamp(u64::from(word(8)) << 32 | u64::from(word(12))),
                    rtp: RtpTimestamp(word(16)),
                });
            }
        }
    })
}

/// A sender report without report blocks, as a publisher would write it.
#[must_use]
pub fn write_sender_report(report: SenderReport, packets: u32, octets: u32) -> Vec<u8> {
    let mut bytes = vec![0x80, 200, 0, 6];
    bytes.extend(report.ssrc.0.to_be_bytes());
    bytes.extend(report.ntp.0.to_be_bytes());
    bytes.extend(report.rtp.0.to_be_bytes());
    bytes.extend(packets.to_be_bytes());
    bytes.extend(octets.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_reports_in_a_compound() {
        let report =
            SenderReport { ssrc: Ssrc(7), ntp: NtpTimestamp(0xe000_0000_8000_0000), rtp: RtpTimestamp(90_000) };
        let sdes = [0x81, 202, 0, 1, 0, 0, 0, 7];
        let compound = [&sdes[..], &write_sender_report(report, 1, 2), &[0x80, 200, 0, 99]].concat();
        assert_eq!(sender_reports(&compound).collect::<Vec<_>>(), [report]);
        assert_eq!(sender_reports(&[]).count(), 0);
        assert_eq!(sender_reports(&[0x40, 200, 0, 6]).count(), 0);
    }

    #[test]
    fn ntp_differences_are_exact_and_signed() {
        let second = NtpTimestamp(1 << 32);
        assert_eq!(second.micros_since(NtpTimestamp(0)), 1_000_000);
        assert_eq!(NtpTimestamp(0).micros_since(NtpTimestamp(1 << 31)), -500_000);
    }
}
