//! Pure fold of one track: its batches in log order in, one segment per window out.
//!
//! Owns the order of batches within each incarnation, what of them is missing and why, the RTP streams they carry and the key
//! frame index. Does not own when a window ends, what policy says or what the room's clock is (see [`crate::room`]).

mod gaps;
mod message;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use roomreel_shared::batch::{Incarnation, PacketData, RtpBatch};
use roomreel_shared::event::{Producer, PublisherGap, TrackEnd};
use roomreel_shared::rtcp;
use roomreel_shared::rtp::{self, PacketView, Ssrc};
use roomreel_shared::time::{LogTime, RoomTime};
use roomreel_shared::window::{AcceptedReason, Gap, Keyframe, Missing, SealedSegment, SegmentFrames, TrackKey};
use roomreel_shared::wire;

use crate::config::FoldConfig;
use crate::keyframe;
use crate::log_clock::on_grid;
use crate::order::{Held, Order};
use crate::past::{Past, Stand};
use crate::ranges::Ranges;
use crate::stream::{Run, Stream};

pub use message::{Admission, Counts, OpenTrack, SealedTrack, TrackBatch, TrackInput, TrackOutput};

/// Most incarnations of a track that are followed. One that has ended and waits for nothing makes room for the next.
const MAX_INCARNATIONS: usize = 16;
/// Most incarnations of a track beyond them of which it is remembered how far they came.
const MAX_PAST: usize = 32;
/// Most RTP streams of a track that are remembered; the longest silent goes first.
const MAX_STREAMS: usize = 64;
/// Most publisher gaps that are remembered before their turn.
const MAX_DROPPED: usize = 64;
/// Most key frames a segment indexes.
const MAX_KEYFRAMES: usize = 4096;
/// Key frame requests for one want; an SFU that did not react to them will not.
const MAX_KEYFRAME_REQUESTS: u32 = 5;
/// Batches that were asked for once and did not come may never come: what follows is to begin with a key frame of its own, long
/// before the gap is declared.
const KEYFRAME_AT_ATTEMPT: u32 = 2;

/// Where numbering within an incarnation stands.
#[derive(Debug)]
struct Numbering {
    order: Order<Arc<TrackBatch>>,
    /// Log time of its first batch.
    began: LogTime,
    next_packet_no: u64,
    declared_missing: Ranges,
    /// Of before the recording: taken if they come, and not missed.
    unmissed: Ranges,
    dropped: Vec<wire::DroppedRange>,
    ended: bool,
    /// Where the publisher said that it ends.
    expected: Option<wire::ExpectedEnd>,
    /// Batches from this number on came after the end of the recording.
    limit: Option<u64>,
    /// The next one tells whether the log lost some of before it.
    awaited: bool,
    /// From this number on nothing is stored now. What is missing there may be of before that.
    refused_from: Option<u64>,
}

impl Numbering {
    fn new(next: u64, next_packet_no: u64) -> Self {
        Self {
            order: Order::new(next),
            began: LogTime::default(),
            next_packet_no,
            declared_missing: Ranges::default(),
            unmissed: Ranges::default(),
            dropped: Vec::new(),
            ended: false,
            expected: None,
            limit: None,
            awaited: false,
            refused_from: None,
        }
    }

    /// Everything below `end` was sent: what has not come is missing.
    fn expect(&mut self, end: wire::ExpectedEnd) {
        self.order.promise(end.next_batch_no, LogTime::from_micros(end.since_us));
        if self.expected.is_none_or(|before| before.next_batch_no < end.next_batch_no) {
            self.expected = Some(end);
        }
    }

    /// More was missing than is remembered.
    fn lacks_for_good(&self) -> bool {
        self.declared_missing.has_forgotten()
    }

    /// The batch whose turn it is, if it has waited so long.
    fn ready(&self, now: LogTime, wait: Duration) -> Option<&Held<Arc<TrackBatch>>> {
        self.order.peek_ready().filter(|held| wait.is_zero() || now >= held.time + wait)
    }

    /// Takes the batch whose turn it is.
    fn pop_ready(&mut self) -> Option<Arc<TrackBatch>> {
        let batch = self.order.pop_ready()?;
        self.forget_dropped();
        Some(batch)
    }

    /// Goes on at `number`; nothing that waits may be below it.
    fn skip_to(&mut self, number: u64) {
        self.order.skip_to(number);
        self.forget_dropped();
    }

    fn forget_dropped(&mut self) {
        let next = self.order.next();
        self.dropped.retain(|range| range.last_batch_no >= next);
    }

    /// Whether the publisher said that it dropped the batch whose turn it is.
    fn is_dropped(&self) -> bool {
        let next = self.order.next();
        self.order.peek_ready().is_none() && self.dropped.first().is_some_and(|range| range.first_batch_no <= next)
    }

    /// Why what begins with batch `first` is missing: if nothing would be stored of it, that. What is missing from the moment on
    /// from which nothing is stored may have been sent before it.
    fn reason_of(&self, first: u64, admission: Admission, otherwise: AcceptedReason) -> AcceptedReason {
        match admission {
            Admission::Refuse(reason) if self.refused_from != Some(first) => reason,
            _ => otherwise,
        }
    }

    /// The batch that the first hole ends before, its first packet and its time.
    fn behind_hole(&self) -> Option<(u64, u64, RoomTime)> {
        if let Some((number, held)) = self.order.first_held() {
            return Some((number, held.item.batch.first_packet_no, held.item.batch.packets[0].time));
        }
        let end = self.expected.filter(|end| self.order.next() < end.next_batch_no)?;
        Some((end.next_batch_no, end.next_packet_no, RoomTime::from_micros(end.time_us)))
    }
}

/// The window being filled.
#[derive(Debug, Default)]
struct Open {
    frames: SegmentFrames,
    span: Option<(RoomTime, RoomTime)>,
    keyframes: Vec<Keyframe>,
    gaps: Vec<Gap>,
    /// Batches in a row that were refused for one reason.
    refused: Option<Gap>,
    /// What was missing, and might have come late, will be taken no more.
    has_lost: bool,
    counts: Counts,
    invalid: Option<rtp::Error>,
}

/// A wish for a key frame.
#[derive(Debug, Clone, Copy)]
struct Want {
    ssrc: Option<Ssrc>,
    requests: u32,
}

/// The fold of one track.
#[derive(Debug)]
pub struct TrackFold {
    key: TrackKey,
    config: FoldConfig,
    admission: Admission,
    producer: Option<Arc<Producer>>,
    /// The newest point of the clock's grid, which is the same for whoever reads the log from an earlier place (I3).
    now: LogTime,
    incarnations: BTreeMap<Incarnation, Numbering>,
    past: Past,
    streams: Vec<Stream>,
    open: Open,
    want: Option<Want>,
    requested_at: Option<LogTime>,
    /// The recording has ended; whether that everything is here has been said.
    ended: Option<bool>,
    /// How long the batches behind the end are waited for.
    awaited_until: Option<LogTime>,
    lost: Vec<(Ssrc, Run)>,
}

impl TrackFold {
    /// Begins from what an earlier window left, or from nothing with the default state.
    #[must_use]
    pub fn new(open: &OpenTrack, config: FoldConfig) -> Self {
        let OpenTrack { key, state, admission, now } = open;
        let incarnations = state
            .incarnations
            .iter()
            .filter_map(|wire| {
                let mut numbering = Numbering::new(wire.next_batch_no, wire.next_packet_no);
                numbering.declared_missing = Ranges::from_wire(&wire.declared_missing);
                numbering.unmissed = Ranges::from_wire(&wire.unmissed);
                numbering.dropped.clone_from(&wire.dropped);
                numbering.dropped.sort_by_key(|range| range.first_batch_no);
                numbering.forget_dropped();
                numbering.began = LogTime::from_micros(wire.began_us);
                numbering.ended = wire.ended;
                numbering.refused_from = wire.refused_from;
                if let Some(end) = wire.expected {
                    numbering.expect(end);
                }
                Some((Incarnation::new(wire.incarnation)?, numbering))
            })
            .collect();
        let mut past = Past::new(MAX_PAST);
        past.extend_from_wire(&state.past);
        Self {
            key: key.clone(),
            config,
            admission: *admission,
            producer: state.producer.clone().and_then(|wire| Producer::try_from(wire).ok()).map(Arc::new),
            now: on_grid(*now),
            incarnations,
            past,
            streams: state.streams.iter().map(Stream::from_wire).collect(),
            open: Open::default(),
            want: None,
            requested_at: None,
            ended: None,
            awaited_until: None,
            lost: Vec::new(),
        }
    }

    /// Takes the next input.
    pub fn on_input(&mut self, input: TrackInput, outputs: &mut Vec<TrackOutput>) {
        match input {
            TrackInput::Batch(batch) => self.on_batch(batch),
            TrackInput::Poisoned(batch) => self.on_poisoned(&batch),
            TrackInput::Producer(producer) => self.producer = Some(producer),
            TrackInput::Ends { end, time, from_zero } => self.on_end(&end, time, from_zero),
            TrackInput::Closed => self.incarnations.values_mut().for_each(|numbering| numbering.ended = true),
            TrackInput::Abandoned { before } if self.admission != Admission::NotRecording => {
                self.declare_unknown_tails(before);
            }
            TrackInput::Abandoned { .. } => {}
            TrackInput::Past(numbering) => self.past.extend_from_wire(&[numbering]),
            TrackInput::PublisherGap { gap, time } => self.on_publisher_gap(&gap, time),
            TrackInput::Admission(admission) => self.set_admission(admission),
            TrackInput::Clock(now) => self.on_clock(now, outputs),
            TrackInput::End { until } => {
                for numbering in self.incarnations.values_mut() {
                    numbering.limit = Some(numbering.order.end());
                    let stores = matches!(self.admission, Admission::Store | Admission::Undecided { .. });
                    numbering.awaited = until.is_some() && stores && !numbering.ended;
                }
                self.awaited_until = until;
                let complete = !self.is_waiting();
                self.ended = Some(complete);
                outputs.push(TrackOutput::Ended { complete });
            }
            TrackInput::Seal { last } => {
                let sealed = self.seal(last);
                outputs.push(TrackOutput::Sealed(Box::new(sealed)));
            }
        }
        self.request_keyframe(outputs);
        if self.ended == Some(false) && !self.is_waiting() {
            self.ended = Some(true);
            outputs.push(TrackOutput::Ended { complete: true });
        }
    }

    fn is_waiting(&self) -> bool {
        self.incarnations.values().any(|numbering| numbering.awaited || numbering.order.is_waiting())
    }

    fn on_batch(&mut self, batch: Arc<TrackBatch>) {
        // The clock says so already, but to a track that has just begun again, or before the recording.
        self.now = self.now.max(on_grid(batch.time));
        let incarnation = batch.batch.incarnation;
        let number = batch.batch.batch_no;
        if !self.incarnations.contains_key(&incarnation) {
            if self.is_past(incarnation, number) {
                self.open.counts.duplicate_batches += 1;
                return;
            }
            if self.ended.is_some() {
                return;
            }
            if !self.recall(incarnation) {
                self.begin_incarnation(&batch);
            }
        }
        let recording = self.admission != Admission::NotRecording;
        let Some(numbering) = self.incarnations.get_mut(&incarnation) else { return };
        if numbering.limit.is_some_and(|limit| number >= limit) {
            if std::mem::take(&mut numbering.awaited) {
                numbering.limit = Some(number);
                numbering.expect(wire::ExpectedEnd {
                    next_batch_no: number,
                    next_packet_no: batch.batch.first_packet_no,
                    since_us: batch.time.as_micros(),
                    time_us: batch.batch.packets[0].time.as_micros(),
                });
            }
            return;
        }
        let was_missed = numbering.declared_missing.take(number);
        if was_missed || numbering.unmissed.take(number) {
            // By what holds now, once: whoever reads it again, when something else holds, finds that it was here (I3, I8).
            if matches!(self.admission, Admission::Store | Admission::Undecided { store: true }) {
                self.store(&batch, true);
            } else {
                self.open.has_lost |= was_missed;
            }
            return;
        }
        let held = Held { time: batch.time, sequence: batch.sequence, bytes: batch.message.len(), item: batch };
        if !numbering.order.hold(number, held) {
            self.open.counts.duplicate_batches += 1;
            return;
        }
        if !recording && numbering.order.next() < number {
            // Nobody keeps what came before a recording.
            numbering.unmissed.push(numbering.order.next(), number - 1);
            numbering.skip_to(number);
        }
        self.drain(incarnation, self.producer_wait());
        while self.incarnations.get(&incarnation).is_some_and(|numbering| numbering.order.is_over(&self.config)) {
            self.give_up(incarnation);
        }
    }

    fn begin_incarnation(&mut self, batch: &TrackBatch) {
        let RtpBatch { incarnation, batch_no, first_packet_no, .. } = batch.batch;
        if self.admission != Admission::NotRecording {
            self.declare_unknown_tails(LogTime::from_micros(i64::MAX));
        }
        let from_zero = batch.from_zero && self.admission != Admission::NotRecording;
        let (next, packet) = if from_zero { (0, 0) } else { (batch_no, first_packet_no) };
        self.make_room();
        // What a stream sent between two publishers had no publisher: the network did not lose it.
        self.streams.iter_mut().for_each(Stream::interrupt);
        self.incarnations.insert(incarnation, Numbering { began: batch.time, ..Numbering::new(next, packet) });
    }

    /// Forgets an incarnation but for how far it came, if there are too many.
    fn make_room(&mut self) {
        if self.incarnations.len() < MAX_INCARNATIONS {
            return;
        }
        let idle = self.incarnations.iter().filter(|(_, numbering)| !numbering.order.is_waiting());
        // Of equals the smallest number goes: which one does not matter, that it is the same one does (I3).
        let oldest = idle.min_by_key(|(_, numbering)| !numbering.ended).or(self.incarnations.first_key_value());
        let Some(oldest) = oldest.map(|(incarnation, _)| *incarnation) else { return };
        self.settle_one(oldest);
        if let Some(numbering) = self.incarnations.remove(&oldest) {
            self.open.has_lost |= numbering.lacks_for_good() || !numbering.declared_missing.is_empty();
            let stand = Stand { next_batch_no: numbering.order.next(), next_packet_no: numbering.next_packet_no };
            self.past.push(oldest, stand);
        }
    }

    /// Whether the number is of an incarnation that is over, and has had its turn.
    fn is_past(&self, incarnation: Incarnation, number: u64) -> bool {
        self.past.get(incarnation).is_some_and(|stand| number < stand.next_batch_no)
    }

    /// Goes on with an incarnation that is over, if it is one: more of it has come.
    fn recall(&mut self, incarnation: Incarnation) -> bool {
        let Some(Stand { next_batch_no, next_packet_no }) = self.past.take(incarnation) else { return false };
        self.make_room();
        let numbering = Numbering { ended: true, ..Numbering::new(next_batch_no, next_packet_no) };
        self.incarnations.insert(incarnation, numbering);
        true
    }

    fn on_poisoned(&mut self, batch: &Arc<TrackBatch>) {
        let RtpBatch { incarnation, batch_no, .. } = batch.batch;
        if self.is_past(incarnation, batch_no) {
            return;
        }
        if !self.incarnations.contains_key(&incarnation) && !self.recall(incarnation) {
            self.begin_incarnation(batch);
        }
        while let Some(numbering) = self.incarnations.get_mut(&incarnation) {
            if batch_no < numbering.order.next() {
                self.open.has_lost |= numbering.declared_missing.take(batch_no);
                break;
            }
            if numbering.order.next() == batch_no {
                numbering.skip_to(batch_no + 1);
                numbering.next_packet_no = batch.batch.next_packet_no();
                self.declare_batch(batch, AcceptedReason::Damaged);
                break;
            }
            if numbering.order.first_held().is_some_and(|(number, _)| number < batch_no) {
                self.give_up(incarnation);
            } else {
                self.resolve_hole(incarnation, batch_no, batch.batch.first_packet_no, batch.batch.packets[0].time);
            }
        }
        self.drain(incarnation, self.producer_wait());
    }

    fn on_publisher_gap(&mut self, gap: &PublisherGap, time: RoomTime) {
        if self.is_past(gap.incarnation, gap.batches.1) {
            return;
        }
        if self.ended.is_none() {
            self.recall(gap.incarnation);
        }
        let full = self.incarnations.len() >= MAX_INCARNATIONS || self.ended.is_some();
        if self.admission == Admission::NotRecording || full && !self.incarnations.contains_key(&gap.incarnation) {
            return;
        }
        let numbering = self.incarnations.entry(gap.incarnation).or_insert_with(|| Numbering::new(0, 0));
        if gap.batches.1 < numbering.order.next() || numbering.dropped.len() >= MAX_DROPPED {
            return;
        }
        let range = wire::DroppedRange {
            first_batch_no: gap.batches.0,
            last_batch_no: gap.batches.1,
            first_packet_no: gap.packets.0,
            last_packet_no: gap.packets.1,
            time_us: time.as_micros(),
        };
        let at = numbering.dropped.partition_point(|other| other.first_batch_no < range.first_batch_no);
        numbering.dropped.insert(at, range);
        self.drain(gap.incarnation, self.producer_wait());
    }

    /// The publisher says how far its numbers went.
    fn on_end(&mut self, end: &TrackEnd, time: RoomTime, from_zero: bool) {
        if self.past.get(end.incarnation).is_some_and(|stand| end.next_batch_no <= stand.next_batch_no) {
            return;
        }
        if self.ended.is_none() {
            self.recall(end.incarnation);
        }
        let is_known = self.incarnations.contains_key(&end.incarnation);
        if self.admission == Admission::NotRecording
            || self.ended.is_some()
            || !is_known && (!from_zero || self.incarnations.len() >= MAX_INCARNATIONS)
        {
            return;
        }
        let numbering = self.incarnations.entry(end.incarnation).or_insert_with(|| Numbering::new(0, 0));
        numbering.ended = true;
        numbering.expect(wire::ExpectedEnd {
            next_batch_no: end.next_batch_no,
            next_packet_no: end.next_packet_no,
            since_us: self.now.as_micros(),
            time_us: time.as_micros(),
        });
    }

    fn set_admission(&mut self, admission: Admission) {
        let before = self.admission;
        if before == admission {
            return;
        }
        let decided = !matches!(before, Admission::Undecided { .. });
        let stored = matches!(before, Admission::Store | Admission::Undecided { store: true });
        if decided || stored && admission == Admission::Refuse(AcceptedReason::Pause) {
            // What waits came before the change and is judged by what held then.
            self.settle();
        }
        self.admission = admission;
        for numbering in self.incarnations.values_mut() {
            numbering.refused_from = match (before, admission) {
                (_, Admission::Refuse(_)) if stored => Some(numbering.order.next()),
                (Admission::Refuse(_), Admission::Refuse(_)) => numbering.refused_from,
                _ => None,
            };
        }
        self.end_refusal();
        if admission == Admission::Store {
            self.want = Some(Want { ssrc: None, requests: 0 });
        }
        if decided {
            self.streams.iter_mut().for_each(Stream::interrupt);
        } else {
            self.drain_all(self.producer_wait());
        }
    }

    fn on_clock(&mut self, now: LogTime, outputs: &mut Vec<TrackOutput>) {
        self.now = self.now.max(on_grid(now));
        if self.awaited_until.take_if(|until| *until <= now).is_some() {
            self.incarnations.values_mut().for_each(|numbering| numbering.awaited = false);
        }
        let asks = !matches!(self.admission, Admission::Refuse(_) | Admission::NotRecording);
        let mut stays_away = false;
        self.drain_all(self.producer_wait());
        self.give_up_all(now);
        for (&incarnation, numbering) in self.incarnations.iter_mut().filter(|_| asks) {
            if let Some(missing) = numbering.order.replay_due(now, &self.config) {
                stays_away |= missing.attempt == KEYFRAME_AT_ATTEMPT;
                outputs.push(TrackOutput::RequestReplay {
                    incarnation,
                    ranges: missing.ranges,
                    attempt: missing.attempt,
                });
            }
        }
        if stays_away && self.wants_keyframes() {
            self.ask_for_keyframe(None, outputs);
        }
    }

    /// Declares the first hole, or lets go what waits for a producer.
    fn give_up(&mut self, incarnation: Incarnation) {
        if let Some((number, packet, time)) = self.incarnations.get(&incarnation).and_then(Numbering::behind_hole) {
            self.resolve_hole(incarnation, number, packet, time);
        }
        self.drain(incarnation, Duration::ZERO);
    }

    /// Waits for nothing any more.
    fn settle(&mut self) {
        self.drain_all(Duration::ZERO);
        self.give_up_all(LogTime::from_micros(i64::MAX));
    }

    fn settle_one(&mut self, incarnation: Incarnation) {
        while self.incarnations.get(&incarnation).is_some_and(|n| n.order.is_waiting()) {
            self.give_up(incarnation);
        }
    }

    /// Declares the holes that nothing fills any more, the oldest first.
    fn give_up_all(&mut self, now: LogTime) {
        let config = self.config;
        let hole = |(incarnation, numbering): (&Incarnation, &Numbering)| {
            Some((numbering.order.given_up(now, &config)?, *incarnation))
        };
        let mut holes: BTreeSet<_> = self.incarnations.iter().filter_map(hole).collect();
        while let Some((_, incarnation)) = holes.pop_first() {
            self.give_up(incarnation);
            holes.extend(self.incarnations.get_key_value(&incarnation).and_then(hole));
        }
    }

    /// Accepts what is in order in any numbering as it stands in the log: whoever reads it later, with the clock further
    /// on, takes each as it comes (I3).
    fn drain_all(&mut self, wait: Duration) {
        while let Some(incarnation) = self.next_turn(wait) {
            self.take_next(incarnation, wait);
        }
    }

    /// The numbering of which something is in order, and stands first in the log.
    fn next_turn(&self, wait: Duration) -> Option<Incarnation> {
        let turns = self.incarnations.iter().filter_map(|(incarnation, numbering)| {
            let dropped = numbering.is_dropped().then_some(0);
            let ready = || numbering.ready(self.now, wait).map(|held| held.sequence);
            Some((dropped.or_else(ready)?, *incarnation))
        });
        turns.min().map(|(_, incarnation)| incarnation)
    }

    /// How long a batch waits for its producer.
    fn producer_wait(&self) -> Duration {
        let waits = matches!(self.admission, Admission::Undecided { .. });
        if waits { self.config.producer_wait } else { Duration::ZERO }
    }

    /// Accepts what is in order in one numbering.
    fn drain(&mut self, incarnation: Incarnation, wait: Duration) {
        while self.take_next(incarnation, wait) {}
    }

    /// Accepts a batch that is in order and has waited, or passes over what the publisher dropped; `false` if there is none.
    fn take_next(&mut self, incarnation: Incarnation, wait: Duration) -> bool {
        let Some(numbering) = self.incarnations.get_mut(&incarnation) else { return false };
        if numbering.is_dropped() {
            self.skip_dropped(incarnation);
            return true;
        }
        if numbering.ready(self.now, wait).is_none() {
            return false;
        }
        let Some(batch) = numbering.pop_ready() else { return false };
        let expected = numbering.next_packet_no;
        let first = batch.batch.first_packet_no;
        if first < expected {
            // Its packets would have numbers that others have: not to be believed.
            self.declare_batch(&batch, AcceptedReason::Damaged);
            return true;
        }
        numbering.next_packet_no = batch.batch.next_packet_no();
        if first > expected {
            let number = batch.batch.batch_no;
            let packets = (expected, Some(first - 1));
            let reason = numbering.reason_of(number, self.admission, AcceptedReason::Publisher);
            self.declare(incarnation, reason, (number, number), packets, batch.batch.packets[0].time);
        }
        self.accept(&batch);
        true
    }

    fn accept(&mut self, batch: &TrackBatch) {
        match self.admission {
            Admission::NotRecording => {}
            Admission::Refuse(reason) => self.declare_batch(batch, reason),
            Admission::Undecided { store: false } => {
                // Of a numbering that is over nobody will say what it was, and it may have been what is to be stored.
                let is_over = self.incarnations.get(&batch.batch.incarnation).is_some_and(|numbering| numbering.ended);
                let reason = if is_over { AcceptedReason::Damaged } else { AcceptedReason::Policy };
                self.declare_batch(batch, reason);
            }
            Admission::Store | Admission::Undecided { store: true } => self.store(batch, false),
        }
    }

    fn store(&mut self, batch: &TrackBatch, late: bool) {
        self.end_refusal();
        let open = &mut self.open;
        open.frames.push(&batch.message, batch.time, late);
        open.counts.bytes += batch.message.len() as u64;
        open.counts.packets += batch.batch.packets.len() as u64;
        open.counts.late_batches += u64::from(late);
        let packets = &batch.batch.packets;
        let (first, last) = (packets[0].time, packets[packets.len() - 1].time);
        open.span = Some(open.span.map_or((first, last), |span| (span.0, last)));
        // Packets first: the range would be asked for one number more than there may be.
        for (packet, number) in packets.iter().zip(batch.batch.first_packet_no..) {
            match &packet.data {
                PacketData::Rtp(bytes) => match PacketView::parse(bytes.clone()) {
                    Ok(view) => self.on_rtp(batch.batch.incarnation, number, &view, packet.time, late),
                    Err(why) => {
                        self.open.counts.invalid_packets += 1;
                        self.open.invalid.get_or_insert(why);
                    }
                },
                PacketData::Rtcp(bytes) => {
                    for report in rtcp::sender_reports(bytes) {
                        if let Some(stream) = self.streams.iter_mut().find(|s| s.ssrc == report.ssrc).filter(|_| !late)
                        {
                            stream.on_report(report, packet.time);
                        }
                    }
                }
            }
        }
        let (key, incarnation) = (&self.key, batch.batch.incarnation);
        self.open.gaps.extend(self.lost.drain(..).map(|(ssrc, run)| network_gap(key, incarnation, ssrc, run)));
    }

    fn on_rtp(&mut self, incarnation: Incarnation, packet_no: u64, view: &PacketView, time: RoomTime, late: bool) {
        let ssrc = view.ssrc();
        let codec = self.producer.as_ref().and_then(|producer| producer.codec(view.payload_type()));
        let seeks = codec.is_some_and(|codec| keyframe::has_keyframes(&codec.codec));
        match self.streams.iter().position(|stream| stream.ssrc == ssrc) {
            Some(at) if late => self.streams[at].on_late_packet(view),
            Some(at) => self.streams[at].on_packet(view, time, &mut self.lost),
            None if late => {}
            None => {
                if self.streams.len() >= MAX_STREAMS {
                    let silent = self.streams.iter().enumerate().min_by_key(|(_, stream)| stream.last_time);
                    if let Some(at) = silent.map(|(at, _)| at) {
                        self.streams.remove(at);
                    }
                }
                self.streams.push(Stream::new(view, time));
                if seeks && self.want.is_none() {
                    self.want = Some(Want { ssrc: Some(ssrc), requests: 0 });
                }
            }
        }
        let Some(codec) = codec.filter(|_| seeks) else { return };
        if !keyframe::starts_keyframe(&codec.codec, &view.payload()) {
            return;
        }
        if self.want.is_some_and(|want| want.ssrc.is_none_or(|wanted| wanted == ssrc)) {
            self.want = None;
        }
        let timestamp = view.timestamp();
        let mut recent = self.open.keyframes.iter().rev().take(8);
        if self.open.keyframes.len() < MAX_KEYFRAMES && !recent.any(|k| k.ssrc == ssrc && k.timestamp == timestamp) {
            self.open.keyframes.push(Keyframe { incarnation, packet_no, ssrc, timestamp, time });
        }
    }

    fn request_keyframe(&mut self, outputs: &mut Vec<TrackOutput>) {
        let Some(want) = self.want.filter(|_| self.producer.is_some()) else { return };
        if !self.wants_keyframes() || want.requests >= MAX_KEYFRAME_REQUESTS {
            self.want = None;
            return;
        }
        if self.ask_for_keyframe(want.ssrc, outputs) {
            self.want = Some(Want { requests: want.requests + 1, ..want });
        }
    }

    fn wants_keyframes(&self) -> bool {
        let is_video = self.producer.as_ref().is_some_and(|producer| !producer.is_audio);
        is_video && self.admission == Admission::Store && self.ended.is_none()
    }

    /// Whether it is time to ask again, and it was asked.
    fn ask_for_keyframe(&mut self, ssrc: Option<Ssrc>, outputs: &mut Vec<TrackOutput>) -> bool {
        let is_due = self.requested_at.is_none_or(|at| self.now >= at + self.config.keyframe_interval);
        if is_due {
            self.requested_at = Some(self.now);
            outputs.push(TrackOutput::RequestKeyframe { ssrc });
        }
        is_due
    }

    /// Receive time of the newest packet; also what a restored fold knows (I3).
    fn last_time(&self) -> Option<RoomTime> {
        self.streams.iter().map(|stream| stream.last_time).max()
    }

    fn seal(&mut self, last: bool) -> SealedTrack {
        if last {
            self.settle();
            let newest = self.incarnations.keys().next_back().copied();
            for stream in &mut self.streams {
                stream.end(&mut self.lost);
            }
            if let Some(incarnation) = newest {
                let key = &self.key;
                self.open.gaps.extend(self.lost.drain(..).map(|(ssrc, run)| network_gap(key, incarnation, ssrc, run)));
            }
        }
        self.end_refusal();
        let Open { frames, span, keyframes, gaps, refused: _, has_lost, counts, invalid } =
            std::mem::take(&mut self.open);
        let has_lost = has_lost || self.incarnations.values().any(Numbering::lacks_for_good);
        let segment = span.map(|span| SealedSegment {
            key: self.key.clone(),
            frames: frames.seal(),
            packets: u32::try_from(counts.packets).unwrap_or(u32::MAX),
            invalid_packets: u32::try_from(counts.invalid_packets).unwrap_or(u32::MAX),
            span,
            keyframes,
        });
        let incarnations = self
            .incarnations
            .iter()
            .map(|(incarnation, numbering)| wire::IncarnationState {
                incarnation: incarnation.get(),
                next_batch_no: numbering.order.next(),
                next_packet_no: numbering.next_packet_no,
                declared_missing: numbering.declared_missing.to_wire(),
                unmissed: numbering.unmissed.to_wire(),
                dropped: numbering.dropped.clone(),
                ended: numbering.ended,
                expected: numbering.expected.filter(|end| numbering.order.next() < end.next_batch_no),
                began_us: numbering.began.as_micros(),
                refused_from: numbering.refused_from,
            })
            .collect();
        SealedTrack {
            segment,
            gaps,
            state: wire::TrackState {
                sfu_id: self.key.sfu.to_string(),
                track_id: self.key.track.to_string(),
                incarnations,
                streams: self.streams.iter().map(Stream::to_wire).collect(),
                past: self.past.to_wire(),
                ..Default::default()
            },
            held: self.held(),
            has_lost,
            counts,
            invalid,
        }
    }

    fn held(&self) -> Vec<Arc<TrackBatch>> {
        let mut held: Vec<_> = self
            .incarnations
            .values()
            .flat_map(|numbering| numbering.order.held())
            .map(|held| held.item.clone())
            .collect();
        held.sort_by_key(|batch| batch.sequence);
        held
    }
}

/// What the network lost of a stream.
pub(crate) fn network_gap(key: &TrackKey, incarnation: Incarnation, ssrc: Ssrc, run: Run) -> Gap {
    let missing = Missing::Network { ssrc, sequences: (run.first, run.last) };
    Gap { key: key.clone(), incarnation, missing, span: run.span }
}
