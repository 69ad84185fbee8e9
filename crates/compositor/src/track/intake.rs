//! A track's packets, sorted into their RTP streams and put on the room's clock.
//!
//! Owns what a payload type and an SSRC mean: retransmissions (RFC 4588) go back to where they belong, redundancy (RFC 2198)
//! is unwrapped, probes only keep their number. Does not own payload formats.

use std::collections::BTreeMap;

use bytes::Bytes;
use roomreel_shared::batch::{Packet, PacketData};
use roomreel_shared::event::{Codec, CodecParameters, Producer};
use roomreel_shared::rtcp;
use roomreel_shared::rtp::{PacketView, PayloadType, RtpTimestamp, SequenceNumber, Ssrc};
use roomreel_shared::time::RoomTime;
use serde::{Deserialize, Serialize};

use crate::depacketize::audio::{RedBlock, blocks_of_red};
use crate::depacketize::orientation::{self, Orientation};
use crate::depacketize::reorder::{MediaPacket, Popped, Pushed, Reorder};
use crate::timeline::clock::{MediaPosition, ParticipantClock, StreamClock};

/// Most RTP streams of a track; the one that was silent longest makes room.
const MAX_STREAMS: usize = 16;

/// Most SSRCs of retransmissions whose stream is remembered.
const MAX_REPAIRS: usize = 64;

/// Most packets before its own that a packet of redundant audio repeats.
const MAX_REDUNDANCY: usize = 8;

/// What became of a track's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct IntakeQuality {
    /// Media packets that were taken.
    pub packets: u64,
    /// Packets that never came, not even again.
    pub lost: u64,
    /// Packets that came again in time to fill a hole: retransmitted, or repeated in redundant audio (RFC 2198).
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

impl IntakeQuality {
    /// What is to be said in words of a track of which nothing could be taken.
    pub(crate) fn complaint(&self) -> Option<String> {
        (self.packets == 0 && self.unknown_payload > 0)
            .then(|| format!("{} packets, all of payload types that were not announced", self.unknown_payload))
    }
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

/// A packet that was sent again.
struct SentAgain {
    ssrc: Ssrc,
    /// It is the SSRC of the packet's own stream, not that of its retransmissions.
    is_own: bool,
    packet: MediaPacket,
}

/// A track's packets.
pub(crate) struct Intake {
    producer: Producer,
    /// Of the header extension that tells how a camera is held.
    orientation_id: Option<u8>,
    streams: BTreeMap<Ssrc, RtpStream>,
    /// Which stream an SSRC of retransmissions repairs.
    repairs: BTreeMap<Ssrc, Ssrc>,
    received: Vec<Received>,
    sent_again: Vec<SentAgain>,
    quality: IntakeQuality,
}

impl Intake {
    pub(crate) fn new(producer: Producer) -> Self {
        let repairs =
            producer.encodings.iter().filter_map(|encoding| Some((encoding.rtx_ssrc?, encoding.ssrc))).collect();
        Self {
            orientation_id: producer.extension_id(orientation::URI),
            producer,
            streams: BTreeMap::new(),
            repairs,
            received: Vec::new(),
            sent_again: Vec::new(),
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

    #[cfg(test)]
    pub(crate) fn waiting_packets(&mut self) -> usize {
        self.streams().map(|(_, stream)| stream.order.waiting()).sum()
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
            orientation: self.orientation_id.and_then(|id| Orientation::parse(view.extension(id)?)),
        };
        let clock_rate = parameters.clock_rate;
        match &parameters.codec {
            Codec::Rtx => {
                let original = parameters.format_parameter("apt").and_then(|apt| apt.parse().ok()).map(PayloadType);
                self.receive_retransmitted(packet, view.ssrc(), original);
                return;
            }
            Codec::Fec => return,
            Codec::Red => {
                let blocks = blocks_of_red(&packet.payload).unwrap_or_default();
                self.receive_redundant(&packet, view.ssrc(), &blocks);
                match blocks.into_iter().next_back() {
                    Some(own) => (packet.payload_type, packet.payload) = (own.payload_type, own.payload),
                    None => packet.payload = Bytes::new(),
                }
            }
            _ => {}
        }
        if self.producer.codec(packet.payload_type).is_none_or(|inner| inner.codec == Codec::Fec) {
            packet.payload = Bytes::new();
        }
        let stream = self.stream(view.ssrc(), clock_rate);
        stream.newest_receive = stream.newest_receive.max(receive);
        let position = stream.clock.observe(packet.timestamp, receive, participant);
        self.received.push(Received { ssrc: view.ssrc(), packet, position, receive });
    }

    /// RFC 2198: what packets before this one held. They have no numbers; senders repeat the packets directly before, in order.
    fn receive_redundant(&mut self, packet: &MediaPacket, ssrc: Ssrc, blocks: &[RedBlock]) {
        let Some((_, before)) = blocks.split_last() else { return };
        for (distance, block) in (1_u16..).zip(before.iter().rev()).take(MAX_REDUNDANCY) {
            if block.payload.is_empty() || block.age == 0 {
                continue;
            }
            let packet = MediaPacket {
                sequence: SequenceNumber(packet.sequence.0.wrapping_sub(distance)),
                timestamp: RtpTimestamp(packet.timestamp.0.wrapping_sub(block.age)),
                marker: false,
                payload_type: block.payload_type,
                payload: block.payload.clone(),
                time: packet.time,
                orientation: None,
            };
            self.sent_again.push(SentAgain { ssrc, is_own: true, packet });
        }
    }

    /// RFC 4588 section 4: the payload begins with the original sequence number. A probe has none.
    fn receive_retransmitted(&mut self, mut packet: MediaPacket, ssrc: Ssrc, original: Option<PayloadType>) {
        let Some((&[high, low], original)) = packet.payload.first_chunk().zip(original) else { return };
        packet.sequence = SequenceNumber(u16::from_be_bytes([high, low]));
        packet.payload = packet.payload.slice(2..);
        packet.payload_type = original;
        self.sent_again.push(SentAgain { ssrc, is_own: false, packet });
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

    /// Lets go of the windows before the newest one, which are over but for a few packets.
    pub(crate) fn let_go(&mut self) {
        self.streams.values_mut().for_each(|stream| stream.order.let_go());
    }

    /// Puts what was received on the room's clock, by all that the window has told about it.
    pub(crate) fn place(&mut self, participant: &ParticipantClock) {
        self.streams.values_mut().for_each(|stream| stream.order.begin_round());
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
        for SentAgain { ssrc, is_own, mut packet } in std::mem::take(&mut self.sent_again) {
            let repaired = match is_own {
                true => Some(ssrc),
                false => self.repairs.get(&ssrc).copied().or_else(|| self.guess_repaired(packet.sequence)),
            };
            let Some((repaired, stream)) = repaired.and_then(|ssrc| Some((ssrc, self.streams.get_mut(&ssrc)?))) else {
                continue;
            };
            // Nearly all of it is redundant indeed.
            if is_own && !stream.order.misses(packet.sequence) {
                continue;
            }
            let Some(position) = stream.clock.position(packet.timestamp, packet.time) else { continue };
            packet.time = stream.clock.room_time(position, participant);
            // A retransmission of what has come all the same is as it should be.
            if stream.order.push_retransmitted(packet) == Pushed::Waiting {
                if !is_own && self.repairs.len() < MAX_REPAIRS {
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
    fn redundancy_fills_holes() {
        let mut intake = Intake::new(producer(vec![codec(111, Codec::Opus, 48_000), codec(63, Codec::Red, 48_000)]));
        let mut clock = ParticipantClock::default();
        // Each repeats the two before it: 960 and 1920 units ago, one byte each. 3, 4, 7, 8 and 9 are lost.
        for number in [1_u8, 2, 5, 6, 10] {
            let payload = [0xef, 0x1e, 0, 1, 0xef, 0x0f, 0, 1, 111, number - 1, number, number + 1];
            let timestamp = u32::from(number) * 960;
            intake.receive(
                &rtp(1, 63, number.into(), timestamp, false, &payload, i64::from(number) * 20_000),
                &mut clock,
            );
        }
        intake.place(&clock);
        let found = payloads(&mut intake, 1);
        // What lies before the first packet is nobody's.
        let expected =
            [1_u8, 2, 3, 4, 5, 6, 8, 9, 10].map(|number| (number.into(), Bytes::copy_from_slice(&[number + 1])));
        assert_eq!(found, expected);
        assert_eq!((intake.quality().packets, intake.quality().recovered), (5, 4));
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
