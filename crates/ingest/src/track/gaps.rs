//! What of a track is missing, and why: the records that account for every packet that is not stored.

use roomreel_shared::batch::{Incarnation, RtpBatch};
use roomreel_shared::time::{LogTime, RoomTime};
use roomreel_shared::window::{AcceptedReason, Gap, Missing};

use super::{Admission, TrackBatch, TrackFold, Want};
use crate::stream::Stream;

impl TrackFold {
    /// A publisher that began anew without closing the track had stopped: whatever it held last is lost with it.
    pub(super) fn declare_unknown_tails(&mut self, before: LogTime) {
        let time = self.last_time().unwrap_or_default();
        for (incarnation, numbering) in &mut self.incarnations {
            if numbering.ended || numbering.began >= before {
                continue;
            }
            numbering.ended = true;
            // Batches that wait for earlier ones may be lost with a node and the log before they are stored: what is not known
            // begins behind what is stored, whether or not they come.
            let (batch, packet) = (numbering.order.next(), numbering.next_packet_no);
            self.open.gaps.push(Gap {
                key: self.key.clone(),
                incarnation: *incarnation,
                missing: Missing::Accepted {
                    reason: AcceptedReason::Publisher,
                    batches: (batch, batch),
                    packets: (packet, None),
                },
                span: (time, time),
            });
        }
    }

    /// Declares what the publisher said it dropped, at the place where it is due.
    pub(super) fn skip_dropped(&mut self, incarnation: Incarnation) {
        let Some(numbering) = self.incarnations.get_mut(&incarnation) else { return };
        let range = numbering.dropped.remove(0);
        let next = numbering.order.next();
        let bound = numbering.order.first_held().map_or(u64::MAX, |(number, _)| number - 1);
        let last = range.last_batch_no.min(bound);
        if last < next {
            return;
        }
        let first_packet = numbering.next_packet_no;
        // A batch that came all the same ends the range, and with it the packets.
        let last_packet = match numbering.order.first_held() {
            Some((number, held)) if number <= range.last_batch_no => held.item.batch.first_packet_no.checked_sub(1),
            _ => Some(range.last_packet_no),
        };
        let Some(last_packet) = last_packet.filter(|last| *last >= first_packet) else {
            numbering.skip_to(last.saturating_add(1));
            return;
        };
        numbering.skip_to(last.saturating_add(1));
        numbering.next_packet_no = last_packet.saturating_add(1);
        let reason = numbering.reason_of(next, self.admission, AcceptedReason::Publisher);
        // Until what follows them, or else until the word of the publisher, which came after them.
        let follows = numbering.order.first_held().map(|(_, held)| held.item.batch.packets[0].time);
        let until = follows.unwrap_or(RoomTime::from_micros(range.time_us));
        // A window of before that word was kept says nothing of it.
        let until = self.last_time().map_or(until, |last| until.max(last));
        let packets = (first_packet, Some(last_packet));
        self.declare(incarnation, reason, (next, last), packets, until);
    }

    /// Declares everything below batch `until`, whose first packet is `packet`.
    pub(super) fn resolve_hole(&mut self, incarnation: Incarnation, until: u64, packet: u64, time: RoomTime) {
        while let Some(numbering) = self.incarnations.get_mut(&incarnation) {
            let next = numbering.order.next();
            if next >= until {
                return;
            }
            let dropped = numbering.dropped.first().filter(|range| range.first_batch_no < until).copied();
            if dropped.is_some_and(|range| range.first_batch_no <= next) {
                self.skip_dropped(incarnation);
                continue;
            }
            let last = dropped.map_or(until, |range| range.first_batch_no) - 1;
            let end = dropped.map_or(packet, |range| range.first_packet_no.min(packet));
            let first = numbering.next_packet_no;
            numbering.skip_to(last + 1);
            let reason = numbering.reason_of(next, self.admission, AcceptedReason::Log);
            match self.admission {
                Admission::NotRecording => numbering.unmissed.push(next, last),
                // What was forbidden when it was missed stays out, whatever holds when it comes.
                Admission::Refuse(_) => self.open.has_lost |= reason == AcceptedReason::Log,
                Admission::Undecided { .. } | Admission::Store => numbering.declared_missing.push(next, last),
            }
            if end > first {
                numbering.next_packet_no = end;
                self.declare(incarnation, reason, (next, last), (first, Some(end - 1)), time);
            } else {
                // Its neighbours leave no room for packets in it: the numbers contradict each other.
                self.declare(incarnation, reason, (next, last), (first, None), time);
            }
        }
    }

    /// Packets the publisher had accepted are not here.
    pub(super) fn declare(
        &mut self,
        incarnation: Incarnation,
        reason: AcceptedReason,
        batches: (u64, u64),
        packets: (u64, Option<u64>),
        after: RoomTime,
    ) {
        self.streams.iter_mut().for_each(Stream::interrupt);
        let before = self.last_time().unwrap_or(after);
        let gap = Gap {
            key: self.key.clone(),
            incarnation,
            missing: Missing::Accepted { reason, batches, packets },
            span: (before.min(after), after.max(before)),
        };
        if reason.is_intentional() {
            self.refuse(gap);
            return;
        }
        if self.admission == Admission::NotRecording {
            return;
        }
        if self.admission == Admission::Store {
            self.want = Some(Want { ssrc: None, requests: 0 });
        }
        self.end_refusal();
        self.open.gaps.push(gap);
    }

    pub(super) fn declare_batch(&mut self, batch: &TrackBatch, reason: AcceptedReason) {
        let RtpBatch { incarnation, batch_no, first_packet_no, ref packets, .. } = batch.batch;
        let numbers = (first_packet_no, Some(batch.batch.next_packet_no() - 1));
        self.declare(incarnation, reason, (batch_no, batch_no), numbers, packets[packets.len() - 1].time);
    }

    /// Adds to the run of refused batches, or begins one.
    pub(super) fn refuse(&mut self, gap: Gap) {
        if let (Some(run), Missing::Accepted { reason, batches, packets }) = (&mut self.open.refused, &gap.missing)
            && let Missing::Accepted { reason: run_reason, batches: run_batches, packets: run_packets } =
                &mut run.missing
            && run.incarnation == gap.incarnation
            && run_reason == reason
            && run_batches.1.checked_add(1) == Some(batches.0)
            && run_packets.1.and_then(|last| last.checked_add(1)) == Some(packets.0)
        {
            run_batches.1 = batches.1;
            run_packets.1 = packets.1;
            run.span.1 = run.span.1.max(gap.span.1);
            return;
        }
        self.end_refusal();
        self.open.refused = Some(gap);
    }

    pub(super) fn end_refusal(&mut self) {
        self.open.gaps.extend(self.open.refused.take());
    }
}
