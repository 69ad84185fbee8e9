//! A track's packets, sorted into their RTP streams and put on the room's clock.
//!
//! Owns what a payload type and an SSRC mean: retransmissions (RFC 4588) go back to where they belong, redundancy (RFC 2198)
//! is unwrapped, probes only keep their number. Does not own payload formats.

use std::collections::BTreeMap;

use bytes::Bytes;
use roomreel_shared::batch::{Packet, PacketData};
use roomreel_shared::event::{Codec, CodecParameters, Producer};
use roomreel_shared::rtcp;
use roomreel_shared::rtp::{PacketView, PayloadType, SequenceNumber, Ssrc};
use roomreel_shared::time::RoomTime;
use serde::{Deserialize, Serialize};

use crate::depacketize::audio::primary_of_red;
use crate::depacketize::reorder::{MediaPacket, Popped, Pushed, Reorder};
use crate::timeline::clock::{MediaPosition, ParticipantClock, StreamClock};

/// Most RTP streams of a track; the one that was silent longest makes room.
const MAX_STREAMS: usize = 16;

/// Most SSRCs of retransmissions whose stream is remembered.
const MAX_REPAIRS: usize = 64;

/// What became of a track's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IntakeQuality {
    /// Media packets that were taken.
    pub packets: u64,
    /// Packets that never came, not even again.
    pub lost: u64,
    /// Packets that came again in time to fill a hole.
    pub recovered: u64,
    /// Packets that came after their turn.
    pub late: u64,
    /// Packets that had come already.
    pub duplicate: u64,
    /// Packets that are no RTP, or do not fit the numbering of their stream.
    pub invalid: u64,
    /// Packets of a payload type that was not announced, or is not rendered.
    pub unknown_payload: u64,
    /// Sender reports that contradict the others.
    pub rejected_reports: u64,
}

/// One RTP stream of a track.
pub(crate) struct RtpStream {
    pub(crate) order: Reorder,
    clock: StreamClock,
    newest_receive: RoomTime,
}

/// A packet between being received and having its place on the room's clock.
struct Received {
    ssrc: Ssrc,
    packet: MediaPacket,
    position: MediaPosition,
    receive: RoomTime,
}

/// A packet that was sent again, under the SSRC of retransmissions.
struct Retransmitted {
    ssrc: Ssrc,
    packet: MediaPacket,
}

/// A track's packets.
pub(crate) struct Intake {
    producer: Producer,
    streams: BTreeMap<Ssrc, RtpStream>,
    /// Which stream an SSRC of retransmissions repairs.
    repairs: BTreeMap<Ssrc, Ssrc>,
    received: Vec<Received>,
    retransmitted: Vec<Retransmitted>,
    quality: IntakeQuality,
}

impl Intake {
    pub(crate) fn new(producer: Producer) -> Self {
        let repairs =
            producer.encodings.iter().filter_map(|encoding| Some((encoding.rtx_ssrc?, encoding.ssrc))).collect();
        Self {
            producer,
            streams: BTreeMap::new(),
            repairs,
            received: Vec::new(),
            retransmitted: Vec::new(),
            quality: IntakeQuality::default(),
        }
    }

    pub(crate) fn codec(&self, payload_type: PayloadType) -> Option<&CodecParameters> {
        self.producer.codec(payload_type)
    }

    pub(crate) fn streams(&mut self) -> impl Iterator<Item = (Ssrc, &mut RtpStream)> {
        self.streams.iter_mut().map(|(ssrc, stream)| (*ssrc, stream))
    }

    /// What is due before `end`, stream by stream, each in the order of its numbers.
    pub(crate) fn pop_before(&mut self, end: RoomTime) -> Vec<(Ssrc, Popped)> {
        let mut popped = Vec::new();
        for (ssrc, stream) in self.streams() {
            popped.extend(std::iter::from_fn(|| stream.order.pop_before(end)).map(|popped| (ssrc, popped)));
        }
        popped
    }

    pub(crate) fn has_stream(&self, ssrc: Ssrc) -> bool {
        self.streams.contains_key(&ssrc)
    }

    pub(crate) fn count_lost(&mut self, packets: u64) {
        self.quality.lost += packets;
    }

    pub(crate) fn quality(&self) -> IntakeQuality {
        let rejected_reports = self.streams.values().map(|stream| stream.clock.rejected_reports()).sum();
        IntakeQuality { rejected_reports, ..self.quality }
    }

    /// Takes a packet as the SFU received it. It has no place until [`Self::place`].
    pub(crate) fn receive(&mut self, packet: &Packet, participant: &mut ParticipantClock) {
        let receive = packet.time;
        match &packet.data {
            PacketData::Rtcp(compound) => {
                for report in rtcp::sender_reports(compound) {
                    if let Some(stream) = self.streams.get_mut(&report.ssrc) {
                        stream.clock.report(report, receive, participant);
                    }
                }
            }
            PacketData::Rtp(bytes) => match PacketView::parse(bytes.clone()) {
                Ok(view) => self.receive_media(&view, receive, participant),
                Err(_) => self.quality.invalid += 1,
            },
        }
    }

    fn receive_media(&mut self, view: &PacketView, receive: RoomTime, participant: &mut ParticipantClock) {
        let Some(parameters) = self.producer.codec(view.payload_type()) else {
            self.quality.unknown_payload += 1;
            return;
        };
        let mut packet = MediaPacket {
            sequence: view.sequence_number(),
            timestamp: view.timestamp(),
            marker: view.marker(),
            payload_type: view.payload_type(),
            payload: view.payload(),
            time: receive,
        };
        match &parameters.codec {
            Codec::Rtx => {
                let original = parameters.format_parameter("apt").and_then(|apt| apt.parse().ok()).map(PayloadType);
                self.receive_retransmitted(packet, view.ssrc(), original);
                return;
            }
            Codec::Fec => return,
            Codec::Red => match primary_of_red(&packet.payload) {
                Some((payload_type, primary)) => (packet.payload_type, packet.payload) = (payload_type, primary),
                None => packet.payload = Bytes::new(),
            },
            _ => {}
        }
        let clock_rate = parameters.clock_rate;
        if self.producer.codec(packet.payload_type).is_none_or(|inner| inner.codec == Codec::Fec) {
            packet.payload = Bytes::new();
        }
        let stream = self.stream(view.ssrc(), clock_rate);
        stream.newest_receive = stream.newest_receive.max(receive);
        let position = stream.clock.observe(packet.timestamp, receive, participant);
        self.received.push(Received { ssrc: view.ssrc(), packet, position, receive });
    }

    /// RFC 4588 section 4: the payload begins with the original sequence number. A probe has none.
    fn receive_retransmitted(&mut self, mut packet: MediaPacket, ssrc: Ssrc, original: Option<PayloadType>) {
        let Some((&[high, low], original)) = packet.payload.first_chunk().zip(original) else { return };
        packet.sequence = SequenceNumber(u16::from_be_bytes([high, low]));
        packet.payload = packet.payload.slice(2..);
        packet.payload_type = original;
        self.retransmitted.push(Retransmitted { ssrc, packet });
    }

    /// The only stream, or the only one that waits for this number.
    fn guess_repaired(&self, sequence: SequenceNumber) -> Option<Ssrc> {
        let mut candidates =
            self.streams.iter().filter(|(_, stream)| self.streams.len() == 1 || stream.order.misses(sequence));
        let (ssrc, _) = candidates.next()?;
        candidates.next().is_none().then_some(*ssrc)
    }

    fn stream(&mut self, ssrc: Ssrc, clock_rate: u32) -> &mut RtpStream {
        if !self.streams.contains_key(&ssrc) && self.streams.len() >= MAX_STREAMS {
            let silent = self.streams.iter().min_by_key(|(_, stream)| stream.newest_receive).map(|(ssrc, _)| *ssrc);
            silent.map(|silent| self.streams.remove(&silent));
        }
        self.streams.entry(ssrc).or_insert_with(|| RtpStream {
            order: Reorder::default(),
            clock: StreamClock::new(clock_rate),
            newest_receive: RoomTime::default(),
        })
    }

    /// Puts what was received on the room's clock, by all that the window has told about it.
    pub(crate) fn place(&mut self, participant: &ParticipantClock) {
        for Received { ssrc, mut packet, position, receive } in std::mem::take(&mut self.received) {
            let Some(stream) = self.streams.get_mut(&ssrc) else { continue };
            packet.time = stream.clock.room_time(position, participant);
            match stream.order.push(packet, receive) {
                Pushed::Waiting => self.quality.packets += 1,
                Pushed::Duplicate => self.quality.duplicate += 1,
                Pushed::Late => self.quality.late += 1,
                Pushed::Refused => self.quality.invalid += 1,
            }
        }
        // Only now it is known which stream lacks what.
        for Retransmitted { ssrc, mut packet } in std::mem::take(&mut self.retransmitted) {
            let repaired = self.repairs.get(&ssrc).copied().or_else(|| self.guess_repaired(packet.sequence));
            let Some((repaired, stream)) = repaired.and_then(|ssrc| Some((ssrc, self.streams.get_mut(&ssrc)?))) else {
                continue;
            };
            let Some(position) = stream.clock.position(packet.timestamp, packet.time) else { continue };
            packet.time = stream.clock.room_time(position, participant);
            // A retransmission of what has come all the same is as it should be.
            if stream.order.push_retransmitted(packet) == Pushed::Waiting {
                if self.repairs.len() < MAX_REPAIRS {
                    self.repairs.insert(ssrc, repaired);
                }
                self.quality.recovered += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::track::tests_support::{codec, producer, rtp};
    use roomreel_shared::event::Encoding;

    fn payloads(intake: &mut Intake, ssrc: u32) -> Vec<(u16, Bytes)> {
        let end = RoomTime::from_micros(i64::MAX);
        let (_, stream) = intake.streams().find(|(found, _)| found.0 == ssrc).expect("a stream");
        std::iter::from_fn(|| stream.order.pop_before(end))
            .map(|popped| (popped.packet.sequence.0, popped.packet.payload))
            .collect()
    }

    #[test]
    fn retransmissions_go_back_to_their_stream() {
        let mut rtx = codec(97, Codec::Rtx, 90_000);
        rtx.fmtp = "apt=96".to_owned();
        let mut video = producer(vec![codec(96, Codec::Vp8, 90_000), rtx]);
        video.encodings = vec![Encoding { ssrc: Ssrc(2), rid: None, rtx_ssrc: Some(Ssrc(22)) }];
        let mut intake = Intake::new(video);
        let mut clock = ParticipantClock::default();
        for (ssrc, sequence) in [(1, 10), (1, 12), (2, 500), (2, 502)] {
            intake.receive(&rtp(ssrc, 96, sequence, 0, false, b"media", 0), &mut clock);
        }
        intake.place(&clock);
        // SSRC 11 was not announced: its number tells the stream. 22 was.
        intake.receive(&rtp(11, 97, 1, 0, false, &[0, 11, 7], 9), &mut clock);
        intake.receive(&rtp(22, 97, 1, 0, false, &[1, 245, 8], 9), &mut clock);
        intake.receive(&rtp(11, 97, 2, 0, false, &[], 9), &mut clock);
        intake.place(&clock);
        let seven = Bytes::from_static(&[7]);
        assert_eq!(payloads(&mut intake, 1).into_iter().nth(1), Some((11, seven)));
        assert_eq!(payloads(&mut intake, 2).into_iter().nth(1), Some((501, Bytes::from_static(&[8]))));
        assert_eq!((intake.quality().packets, intake.quality().recovered), (4, 2));
    }

    #[test]
    fn redundancy_is_unwrapped_and_correction_keeps_its_number() {
        let mut intake = Intake::new(producer(vec![
            codec(111, Codec::Opus, 48_000),
            codec(63, Codec::Red, 48_000),
            codec(49, Codec::Fec, 48_000),
        ]));
        let mut clock = ParticipantClock::default();
        intake.receive(&rtp(1, 63, 1, 0, false, &[111, 5], 0), &mut clock);
        intake.receive(&rtp(1, 63, 2, 0, false, &[49, 5], 0), &mut clock);
        intake.receive(&rtp(1, 50, 3, 0, false, &[5], 0), &mut clock);
        intake.receive(
            &Packet { time: RoomTime::default(), data: PacketData::Rtp(Bytes::from_static(b"?")) },
            &mut clock,
        );
        intake.place(&clock);
        assert_eq!(payloads(&mut intake, 1), [(1, Bytes::from_static(&[5])), (2, Bytes::new())]);
        assert_eq!((intake.quality().unknown_payload, intake.quality().invalid), (1, 1));
    }
}
