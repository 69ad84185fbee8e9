//! Packets of one RTP stream in the order they were sent, and the pictures they make.
//!
//! There is no timer here: packets wait in sequence order until the render asks for what lies before a room time, and the
//! slice schedule asks only when the reorder allowance has passed. What is missing then is lost.

use std::collections::BTreeMap;

use super::orientation::Orientation;
use bytes::Bytes;
use roomreel_shared::rtp::{ExtendedSequenceNumber, PayloadType, RtpTimestamp, SequenceNumber};
use roomreel_shared::time::RoomTime;

/// Most packets of one stream that wait: ten seconds of 4K video.
const MAX_WAITING_PACKETS: usize = 32_768;
/// A larger step is a new numbering, not loss or reorder (RFC 3550 appendix A.1).
const MAX_DROPOUT: i64 = 3000;
const MAX_MISORDER: i64 = 1000;
/// A packet that was received this much before the newest one says nothing about a new numbering.
const STALE_US: i64 = 2_000_000;

/// What the render needs of a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaPacket {
    /// As on the wire.
    pub sequence: SequenceNumber,
    /// As on the wire.
    pub timestamp: RtpTimestamp,
    /// As on the wire.
    pub marker: bool,
    /// What the payload is.
    pub payload_type: PayloadType,
    /// Empty for a probe.
    pub payload: Bytes,
    /// Where its media stands on the room's clock.
    pub time: RoomTime,
    /// How the camera was held, if it says so.
    pub orientation: Option<Orientation>,
}

impl MediaPacket {
    /// The same in memory of its own.
    fn detached(&self) -> Self {
        Self { payload: Bytes::copy_from_slice(&self.payload), ..self.clone() }
    }
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    /// It waits for its turn.
    Waiting,
    /// It is there already.
    Duplicate,
    /// Its turn is over.
    Late,
    /// It does not fit the numbering, or too many wait.
    Refused,
}

/// A packet whose turn it is.
#[derive(Debug, PartialEq, Eq)]
pub struct Popped {
    /// The packet.
    pub packet: MediaPacket,
    /// Packets directly before it that never came.
    pub missing: u64,
    /// The stream's numbering began anew with it.
    pub restarts: bool,
}

/// A packet that waits, and the round in which it came.
#[derive(Debug)]
struct Waiting {
    packet: MediaPacket,
    round: u64,
}

/// The packets of one RTP stream that wait for their turn.
#[derive(Debug, Default)]
pub struct Reorder {
    waiting: BTreeMap<u64, Waiting>,
    round: u64,
    highest: Option<ExtendedSequenceNumber>,
    newest_receive: RoomTime,
    /// Number of the packet whose turn is next; `None` before the first.
    next: Option<u64>,
    /// First numbers of new numberings that have not had their turn.
    restarts: Vec<u64>,
    /// A packet far from all others: the next one tells whether a new numbering begins with it.
    stray: Option<MediaPacket>,
}

impl Reorder {
    /// Takes a packet that was received at `receive`.
    pub fn push(&mut self, packet: MediaPacket, receive: RoomTime) -> Pushed {
        let sequence = packet.sequence;
        let Some(highest) = self.highest else {
            self.newest_receive = receive;
            return self.insert(ExtendedSequenceNumber::first(sequence), packet);
        };
        let extended = highest.extend(sequence);
        let step = extended.0.cast_signed() - highest.0.cast_signed();
        if (-MAX_MISORDER..=MAX_DROPOUT).contains(&step) {
            self.stray = None;
            self.newest_receive = self.newest_receive.max(receive);
            return self.insert(extended, packet);
        }
        if self.newest_receive.micros_since(receive) > STALE_US {
            return if step < 0 { self.insert(extended, packet) } else { Pushed::Refused };
        }
        match self.stray.take() {
            Some(stray) if stray.sequence.0.wrapping_add(1) == sequence.0 => {
                let base = (highest.0 & !0xffff) + 0x2_0000;
                let first = ExtendedSequenceNumber(base + u64::from(stray.sequence.0));
                self.restarts.push(first.0);
                self.newest_receive = receive;
                self.insert(first, stray);
                self.insert(first.extend(sequence), packet)
            }
            _ => {
                // It may wait for ever.
                self.stray = Some(packet.detached());
                Pushed::Refused
            }
        }
    }

    /// Takes a packet that was sent again, under its original number.
    pub fn push_retransmitted(&mut self, packet: MediaPacket) -> Pushed {
        match self.highest {
            Some(highest) => self.insert(highest.extend(packet.sequence), packet),
            None => Pushed::Refused,
        }
    }

    fn insert(&mut self, extended: ExtendedSequenceNumber, packet: MediaPacket) -> Pushed {
        if self.next.is_some_and(|next| extended.0 < next) {
            return Pushed::Late;
        }
        if self.waiting.contains_key(&extended.0) {
            return Pushed::Duplicate;
        }
        if self.waiting.len() >= MAX_WAITING_PACKETS {
            return Pushed::Refused;
        }
        self.highest = Some(self.highest.map_or(extended, |highest| highest.max(extended)));
        self.waiting.insert(extended.0, Waiting { packet, round: self.round });
        Pushed::Waiting
    }

    /// What comes from here on is of another object than what came before.
    pub fn begin_round(&mut self) {
        self.round += 1;
    }

    /// Copies what still waits of the objects before the newest one, which is little once their time is over: a payload is a part of its
    /// object and would keep all of it in memory.
    pub fn let_go(&mut self) {
        let round = self.round;
        for waiting in self.waiting.values_mut().filter(|waiting| waiting.round < round) {
            waiting.packet = waiting.packet.detached();
            waiting.round = u64::MAX;
        }
    }

    /// Whether a packet with this number is missing among those that wait: a retransmission could be of this stream.
    #[must_use]
    pub fn misses(&self, sequence: SequenceNumber) -> bool {
        self.highest.is_some_and(|highest| {
            let extended = highest.extend(sequence).0;
            let oldest = self.next.or_else(|| self.waiting.keys().next().copied()).unwrap_or(highest.0);
            (oldest..highest.0).contains(&extended) && !self.waiting.contains_key(&extended)
        })
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The packet whose turn is next.
    #[must_use]
    pub fn peek(&self) -> Option<&MediaPacket> {
        self.waiting.first_key_value().map(|(_, waiting)| &waiting.packet)
    }

    /// The next packet, if its media lies before `end`.
    pub fn pop_before(&mut self, end: RoomTime) -> Option<Popped> {
        if self.peek()?.time >= end { None } else { self.pop() }
    }

    fn pop(&mut self) -> Option<Popped> {
        let (number, Waiting { packet, .. }) = self.waiting.pop_first()?;
        let restarts = self.restarts.iter().any(|first| *first <= number);
        self.restarts.retain(|first| *first > number);
        let missing = match self.next {
            Some(next) if !restarts => number - next,
            _ => 0,
        };
        self.next = Some(number + 1);
        Some(Popped { packet, missing, restarts })
    }

    /// The next picture, if it lies before `end`: all packets with its timestamp.
    pub fn pop_picture_before(&mut self, end: RoomTime) -> Option<PicturePackets> {
        let Popped { packet, missing, restarts } = self.pop_before(end)?;
        let mut picture = PicturePackets {
            time: packet.time,
            payload_type: packet.payload_type,
            payloads: Vec::new(),
            orientation: None,
            missing_before: missing,
            missing_within: 0,
            hole_at: None,
            is_ended: false,
            restarts,
        };
        let timestamp = packet.timestamp;
        picture.take(packet);
        while self.peek().is_some_and(|next| next.timestamp == timestamp) {
            let Some(Popped { packet, missing, .. }) = self.pop() else { break };
            picture.missing_within += missing;
            if missing > 0 {
                picture.hole_at.get_or_insert(picture.payloads.len());
            }
            picture.take(packet);
        }
        // Some senders set no markers: the next picture's first packet right behind says the same.
        let follows = self.waiting.first_key_value().is_some_and(|(number, _)| Some(*number) == self.next);
        picture.is_ended |= follows;
        Some(picture)
    }
}

/// The packets of one picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PicturePackets {
    /// Where it stands on the room's clock.
    pub time: RoomTime,
    /// What the payloads are.
    pub payload_type: PayloadType,
    /// How the camera was held, if one of them says so: senders do where it changes and in key pictures.
    pub orientation: Option<Orientation>,
    /// In order; none if there were probes only.
    pub payloads: Vec<Bytes>,
    /// Packets that are missing between the picture before and this one's first packet.
    pub missing_before: u64,
    /// Packets that are missing among its own.
    pub missing_within: u64,
    /// How many of its payloads come before the first of those.
    pub hole_at: Option<usize>,
    /// Its last packet is here.
    pub is_ended: bool,
    /// The stream's numbering began anew with it.
    pub restarts: bool,
}

impl PicturePackets {
    fn take(&mut self, packet: MediaPacket) {
        self.is_ended = packet.marker || (self.is_ended && packet.payload.is_empty());
        self.orientation = packet.orientation.or(self.orientation);
        if !packet.payload.is_empty() {
            self.payloads.push(packet.payload);
        }
    }

    /// Nothing of it is missing, as far as its own packets tell.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.missing_within == 0 && self.is_ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const END: RoomTime = RoomTime::from_micros(i64::MAX);

    fn packet(sequence: u16, timestamp: u32) -> MediaPacket {
        MediaPacket {
            sequence: SequenceNumber(sequence),
            timestamp: RtpTimestamp(timestamp),
            marker: false,
            payload_type: PayloadType(96),
            payload: Bytes::copy_from_slice(&sequence.to_be_bytes()),
            time: RoomTime::from_micros(i64::from(timestamp)),
            orientation: None,
        }
    }

    fn push(reorder: &mut Reorder, sequence: u16, at: i64) -> Pushed {
        reorder.push(packet(sequence, at as u32), RoomTime::from_micros(at))
    }

    fn drain(reorder: &mut Reorder) -> Vec<(u16, u64)> {
        std::iter::from_fn(|| reorder.pop_before(END))
            .map(|popped| (popped.packet.sequence.0, popped.missing))
            .collect()
    }

    #[test]
    fn order_is_restored_across_the_wrap_and_the_missing_are_counted() {
        let mut reorder = Reorder::default();
        for (index, sequence) in [65_533, 65_535, 65_534, 1, 4, 65_535].into_iter().enumerate() {
            let expected = if index == 5 { Pushed::Duplicate } else { Pushed::Waiting };
            assert_eq!(push(&mut reorder, sequence, index as i64), expected);
        }
        assert!(reorder.misses(SequenceNumber(0)) && !reorder.misses(SequenceNumber(1)));
        assert_eq!(reorder.push_retransmitted(packet(0, 3)), Pushed::Waiting);
        assert_eq!(drain(&mut reorder), [(65_533, 0), (65_534, 0), (65_535, 0), (0, 0), (1, 0), (4, 2)]);
        assert_eq!(push(&mut reorder, 3, 9), Pushed::Late);
    }

    #[test]
    fn what_came_before_the_first_seen_is_not_missing() {
        let mut reorder = Reorder::default();
        push(&mut reorder, 7, 1);
        push(&mut reorder, 6, 0);
        assert_eq!(drain(&mut reorder), [(6, 0), (7, 0)]);
    }

    #[test]
    fn a_new_numbering_takes_two_packets_and_a_stray_one_takes_nothing() {
        let mut reorder = Reorder::default();
        push(&mut reorder, 100, 0);
        assert_eq!(push(&mut reorder, 40_000, 1), Pushed::Refused);
        assert_eq!(push(&mut reorder, 101, 2), Pushed::Waiting);
        assert_eq!(push(&mut reorder, 20_000, 3), Pushed::Refused);
        assert_eq!(push(&mut reorder, 20_001, 4), Pushed::Waiting);
        assert_eq!(drain(&mut reorder), [(100, 0), (101, 0), (20_000, 0), (20_001, 0)]);
        assert_eq!(push(&mut reorder, 30_000, 3 - STALE_US), Pushed::Refused);
    }

    #[test]
    fn what_waits_long_keeps_no_object_in_memory() {
        let mut reorder = Reorder::default();
        let objects = [1_u8, 2, 3].map(|byte| Bytes::copy_from_slice(&[byte; 100]));
        for (sequence, object) in [100, 101, 40_000].into_iter().zip(&objects) {
            reorder.begin_round();
            let packet = MediaPacket { payload: object.slice(1..3), ..packet(sequence, 0) };
            reorder.push(packet, RoomTime::default());
        }
        assert_eq!(objects.each_ref().map(Bytes::is_unique), [false, false, true], "a stray one may wait for ever");
        reorder.let_go();
        assert_eq!(objects.each_ref().map(Bytes::is_unique), [true, true, true]);
        let payloads: Vec<_> =
            std::iter::from_fn(|| reorder.pop_before(END)).map(|popped| popped.packet.payload).collect();
        assert_eq!(payloads, [&[1, 1][..], &[2, 2]]);
    }

    #[test]
    fn pictures_end_with_a_marker_or_where_the_next_begins() {
        let mut reorder = Reorder::default();
        let mut give = |sequence, timestamp, marker| {
            reorder.push(MediaPacket { marker, ..packet(sequence, timestamp) }, RoomTime::from_micros(0));
        };
        give(1, 10, false);
        give(2, 10, true);
        give(3, 20, false);
        give(4, 30, true);
        give(6, 40, true);
        give(7, 50, false);
        give(9, 50, true);
        give(10, 60, false);
        let told: Vec<_> = std::iter::from_fn(|| reorder.pop_picture_before(RoomTime::from_micros(60)))
            .map(|picture| (picture.payloads.len(), picture.missing_before, picture.is_whole()))
            .collect();
        assert_eq!(told, [(2, 0, true), (1, 0, true), (1, 0, true), (1, 1, true), (2, 0, false)]);
        assert_eq!(reorder.pop_picture_before(END).map(|picture| picture.is_whole()), Some(false));
    }

    proptest! {
        #[test]
        fn every_accepted_packet_comes_out_once_in_order(
            steps in proptest::collection::vec((any::<u16>(), -3_000_000_i64..3_000_000, any::<bool>()), 0..300),
        ) {
            let mut reorder = Reorder::default();
            let (mut accepted, mut popped) = (0, 0);
            for (sequence, at, pop) in steps {
                accepted += u32::from(push(&mut reorder, sequence % 5000, at) == Pushed::Waiting);
                if pop {
                    popped += u32::from(reorder.pop_before(END).is_some());
                }
            }
            popped += drain(&mut reorder).len() as u32;
            // A stray that became the first of a numbering was refused when it was pushed.
            prop_assert!(popped >= accepted);
        }
    }
}
