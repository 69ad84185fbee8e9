//! One RTP stream of a track: its extended sequence numbers, what of them is missing, its newest sender report.
//!
//! Owns arithmetic over one SSRC. Does not own which packets reach it (the track does).

use roomreel_shared::rtcp::{NtpTimestamp, SenderReport};
use roomreel_shared::rtp::{ExtendedSequenceNumber, PacketView, Ssrc};
use roomreel_shared::time::RoomTime;
use roomreel_shared::wire;

/// A jump further than this is a new numbering, not a loss (RFC 3550 appendix A.1, MAX_DROPOUT).
const MAX_DROPOUT: i64 = 3000;
/// Packets that a missing one may be late by before it counts as lost.
const REORDER_ALLOWANCE: u64 = 300;
/// Most runs of missing numbers that are kept open; the oldest count as lost first.
const MAX_OPEN: usize = 64;

/// Consecutive sequence numbers that were not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) span: (RoomTime, RoomTime),
}

/// One RTP stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stream {
    pub(crate) ssrc: Ssrc,
    payload_type: u8,
    highest: ExtendedSequenceNumber,
    timestamp: u32,
    pub(crate) last_time: RoomTime,
    report: Option<(NtpTimestamp, u32, RoomTime)>,
    missing: Vec<Run>,
    discontinuous: bool,
}

impl Stream {
    /// Begins with its first packet.
    pub(crate) fn new(packet: &PacketView, time: RoomTime) -> Self {
        Self {
            ssrc: packet.ssrc(),
            payload_type: packet.payload_type().0,
            highest: ExtendedSequenceNumber::first(packet.sequence_number()),
            timestamp: packet.timestamp().0,
            last_time: time,
            report: None,
            missing: Vec::new(),
            discontinuous: false,
        }
    }

    /// Takes the next packet in receive order; what is lost for good goes to `lost`.
    pub(crate) fn on_packet(&mut self, packet: &PacketView, time: RoomTime, lost: &mut Vec<(Ssrc, Run)>) {
        let extended = self.highest.extend(packet.sequence_number());
        let ahead = extended.0.cast_signed() - self.highest.0.cast_signed();
        if (-MAX_DROPOUT..=0).contains(&ahead) {
            self.fill(extended.0);
            self.last_time = self.last_time.max(time);
            return;
        }
        if ahead > 1 && ahead <= MAX_DROPOUT && !self.discontinuous {
            self.missing.push(Run {
                first: self.highest.0 + 1,
                last: extended.0 - 1,
                span: (self.last_time, time.max(self.last_time)),
            });
        }
        // A jump backwards begins the next cycle: extended numbers never fall.
        self.highest = if ahead > 0 { extended } else { ExtendedSequenceNumber(extended.0.saturating_add(0x1_0000)) };
        self.discontinuous = false;
        self.payload_type = packet.payload_type().0;
        self.timestamp = packet.timestamp().0;
        self.last_time = self.last_time.max(time);
        while self.missing.len() > MAX_OPEN
            || self.missing.first().is_some_and(|run| run.last + REORDER_ALLOWANCE < self.highest.0)
        {
            lost.push((self.ssrc, self.missing.remove(0)));
        }
    }

    /// A packet of before that was never seen, or a duplicate.
    fn fill(&mut self, number: u64) {
        let Some(at) = self.missing.iter().position(|run| (run.first..=run.last).contains(&number)) else { return };
        let run = self.missing[at];
        let below = (run.first < number).then(|| Run { last: number - 1, ..run });
        let above = (number < run.last).then(|| Run { first: number + 1, ..run });
        self.missing.splice(at..=at, below.into_iter().chain(above));
    }

    /// A packet that came long after its turn: it is no longer missing, and nothing else follows from it.
    pub(crate) fn on_late_packet(&mut self, packet: &PacketView) {
        self.fill(self.highest.extend(packet.sequence_number()).0);
    }

    /// The newest statement about its clock.
    pub(crate) fn on_report(&mut self, report: SenderReport, time: RoomTime) {
        self.report = Some((report.ntp, report.rtp.0, time));
    }

    /// Packets before the next one are not here for a reason of ours.
    pub(crate) fn interrupt(&mut self) {
        self.discontinuous = true;
    }

    /// Nothing more will come.
    pub(crate) fn end(&mut self, lost: &mut Vec<(Ssrc, Run)>) {
        lost.extend(self.missing.drain(..).map(|run| (self.ssrc, run)));
    }

    pub(crate) fn from_wire(wire: &wire::StreamState) -> Self {
        Self {
            ssrc: Ssrc(wire.ssrc),
            payload_type: wire.payload_type as u8 & 0x7f,
            highest: ExtendedSequenceNumber(wire.highest_sequence),
            timestamp: wire.last_rtp_timestamp,
            last_time: RoomTime::from_micros(wire.last_time_us),
            report: (wire.sender_report_ntp != 0).then(|| {
                let time = RoomTime::from_micros(wire.sender_report_time_us);
                (NtpTimestamp(wire.sender_report_ntp), wire.sender_report_rtp, time)
            }),
            missing: wire
                .missing
                .iter()
                .filter(|run| run.first <= run.last)
                .map(|run| Run {
                    first: run.first,
                    last: run.last,
                    span: (RoomTime::from_micros(run.from_time_us), RoomTime::from_micros(run.to_time_us)),
                })
                .collect(),
            discontinuous: wire.discontinuous,
        }
    }

    pub(crate) fn to_wire(&self) -> wire::StreamState {
        let (ntp, rtp, time) = self.report.unwrap_or((NtpTimestamp(0), 0, RoomTime::default()));
        wire::StreamState {
            ssrc: self.ssrc.0,
            payload_type: u32::from(self.payload_type),
            highest_sequence: self.highest.0,
            last_rtp_timestamp: self.timestamp,
            last_time_us: self.last_time.as_micros(),
            sender_report_ntp: ntp.0,
            sender_report_rtp: rtp,
            sender_report_time_us: time.as_micros(),
            missing: self
                .missing
                .iter()
                .map(|run| wire::MissingSequences {
                    first: run.first,
                    last: run.last,
                    from_time_us: run.span.0.as_micros(),
                    to_time_us: run.span.1.as_micros(),
                })
                .collect(),
            discontinuous: self.discontinuous,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(sequence: u16) -> PacketView {
        let [high, low] = sequence.to_be_bytes();
        PacketView::parse(vec![0x80, 96, high, low, 0, 0, 0, 0, 0, 0, 0, 1].into()).expect("valid")
    }

    /// Feeds sequence numbers 1 ms apart and ends the stream; answers the lost runs.
    fn lost(numbers: &[u16]) -> Vec<(u64, u64)> {
        let mut stream = Stream::new(&packet(numbers[0]), RoomTime::from_micros(0));
        let mut lost = Vec::new();
        for (i, number) in numbers.iter().enumerate().skip(1) {
            stream.on_packet(&packet(*number), RoomTime::from_micros(i as i64 * 1000), &mut lost);
            stream = Stream::from_wire(&stream.to_wire());
        }
        stream.end(&mut lost);
        lost.iter().map(|(_, run)| (run.first, run.last)).collect()
    }

    #[test]
    fn losses_are_counted_exactly() {
        let base = 0x1_0000;
        for (numbers, expected, what) in [
            (&[1_u16, 2, 3][..], &[][..], "in order"),
            (&[1, 2, 5], &[(base + 3, base + 4)], "loss"),
            (&[1, 3, 2], &[], "reorder"),
            (&[1, 2, 2, 3], &[], "duplicate"),
            (&[1, 5, 3], &[(base + 2, base + 2), (base + 4, base + 4)], "a hole filled in its middle"),
            (&[65_534, 65_535, 1], &[(base + 65_536, base + 65_536)], "loss at the wrap"),
            (&[65_534, 0, 65_535], &[], "reorder at the wrap"),
            (&[5, 30_000, 30_001], &[], "a jump forward is a new numbering"),
            (&[30_000, 5, 6, 8], &[(base * 2 + 7, base * 2 + 7)], "a jump backward is a new numbering"),
        ] {
            assert_eq!(lost(numbers), expected, "{what}");
        }
    }

    #[test]
    fn our_own_gaps_are_not_network_losses() {
        let mut stream = Stream::new(&packet(1), RoomTime::default());
        let mut lost = Vec::new();
        stream.interrupt();
        stream.on_packet(&packet(50), RoomTime::default(), &mut lost);
        stream.on_packet(&packet(52), RoomTime::default(), &mut lost);
        stream.end(&mut lost);
        assert_eq!(lost.len(), 1);
    }

    proptest! {
        #[test]
        fn shuffled_nearby_packets_lose_exactly_what_was_dropped(
            start in any::<u16>(),
            dropped in proptest::collection::btree_set(1_u16..400, 0..20),
            swaps in proptest::collection::vec((1_usize..380, 1_usize..20), 0..50),
        ) {
            let mut numbers: Vec<u16> = (0..=400).filter(|n| !dropped.contains(n)).collect();
            for (at, distance) in swaps {
                let at = at.min(numbers.len() - 2).max(1);
                let other = (at + distance).min(numbers.len() - 2).max(1);
                numbers.swap(at, other);
            }
            let numbers: Vec<u16> = numbers.iter().map(|n| n.wrapping_add(start)).collect();
            let count: u64 = lost(&numbers).iter().map(|run| run.1 - run.0 + 1).sum();
            prop_assert_eq!(count, dropped.len() as u64);
        }
    }
}
