//! A room's log as it is written for a trace, and what is expected of folding it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use roomreel_shared::batch::{Incarnation, Packet, PacketData, RtpBatch};
use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::event::{
    Codec, CodecParameters, EventKind, EventRef, Producer, PublisherGap, RoomEvent, StopReason,
};
use roomreel_shared::id::{PeerId, RecordingId, RoomId, SfuId, TenantId, TrackId};
use roomreel_shared::policy::{Policy, TrackKind};
use roomreel_shared::ports::LogEntry;
use roomreel_shared::rtp::PayloadType;
use roomreel_shared::subject::{Address, Entry, Shard, Writer};
use roomreel_shared::time::{LogTime, RoomTime};
use roomreel_shared::window::AcceptedReason;

/// The two clocks are hours apart.
const LOG_EPOCH_MS: i64 = 1_700_000_000_000;
const ROOM_EPOCH_MS: i64 = 1_600_000_000_000;
/// From receiving a packet to its batch standing in the log.
pub(crate) const DELAY_MS: i64 = 40;

pub(crate) fn room_time(ms: i64) -> RoomTime {
    RoomTime::from_micros((ROOM_EPOCH_MS + ms) * 1000)
}

pub(crate) fn room_ms(time: RoomTime) -> i64 {
    time.as_micros() / 1000 - ROOM_EPOCH_MS
}

pub(crate) fn tenant() -> TenantId {
    TenantId::new("acme").expect("valid")
}

pub(crate) fn room() -> RoomId {
    RoomId::new("standup").expect("valid")
}

pub(crate) fn recording() -> RecordingId {
    RecordingId::new("01r").expect("valid")
}

fn sfu() -> SfuId {
    SfuId::new("sfu").expect("valid")
}

pub(crate) fn track(name: &str) -> TrackId {
    TrackId::new(name).expect("valid")
}

pub(crate) fn address(writer: Writer, entry: Entry) -> Address {
    Address { shard: Shard::of(&tenant(), &room(), 4), tenant: tenant(), writer, room: room(), entry }
}

/// What a recording has of one track.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// By incarnation: batches in the order they are stored, those that came after their gap was declared left out.
    pub(crate) stored: BTreeMap<u64, Vec<u64>>,
    /// Batches that came after their gap was declared.
    pub(crate) late: BTreeSet<(u64, u64)>,
    /// What was accepted and is missing, in the order of incarnation and batch.
    pub(crate) missing: BTreeSet<Missing>,
    /// By SSRC: extended sequence numbers the network lost, as runs.
    pub(crate) lost: BTreeMap<u32, Vec<(u64, u64)>>,
    /// Of those runs whose surroundings are known: first number, and the room milliseconds of the packets around it.
    pub(crate) lost_spans: BTreeMap<(u32, u64), (i64, i64)>,
    /// By SSRC: the highest extended sequence number and the timestamp of its packet.
    pub(crate) newest: BTreeMap<u32, (u64, u32)>,
    /// Packets in the index of key frames: incarnation, packet number, SSRC, timestamp.
    pub(crate) keyframes: BTreeSet<(u64, u64, u32, u32)>,
    /// Packets that are no RTP.
    pub(crate) invalid: u64,
    /// By SSRC: RTP timestamp of the newest sender report.
    pub(crate) reports: BTreeMap<u32, u32>,
}

/// Accepted packets that are not stored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Missing {
    pub(crate) incarnation: u64,
    pub(crate) batches: (u64, u64),
    pub(crate) packets: (u64, Option<u64>),
    pub(crate) reason: AcceptedReason,
}

/// What is expected of a trace.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Expected {
    pub(crate) tracks: BTreeMap<String, Account>,
    /// Entries that are skipped, by kind.
    pub(crate) damaged: BTreeMap<&'static str, u64>,
    /// By track and incarnation: batches that must be asked for again, and none but these and `askable` may.
    pub(crate) asked: BTreeMap<(String, u64), BTreeSet<u64>>,
    /// Batches that are missing for a while, or behind others that are: asked for or not, as it happens.
    pub(crate) askable: BTreeMap<(String, u64), BTreeSet<u64>>,
    /// Room milliseconds of beginning and end.
    pub(crate) span: (i64, i64),
}

/// A packet as the SFU received it.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) at: i64,
    pub(crate) data: PacketData,
}

/// One start of a publisher for a track: its packets under its numbers.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) track: &'static str,
    pub(crate) incarnation: u64,
    pub(crate) packets: Vec<Received>,
    /// Packet numbers of each batch.
    pub(crate) batches: Vec<Range<usize>>,
}

impl Published {
    /// Cuts packets into batches of one to eight.
    pub(crate) fn new(
        track: &'static str,
        incarnation: u64,
        packets: Vec<Received>,
        sizes: &mut impl FnMut() -> usize,
    ) -> Self {
        let mut batches = Vec::new();
        let mut at = 0;
        while at < packets.len() {
            let end = (at + sizes().clamp(1, 8)).min(packets.len());
            batches.push(at..end);
            at = end;
        }
        Self { track, incarnation, packets, batches }
    }

    pub(crate) fn batch(&self, number: u64) -> RtpBatch {
        let range = self.batches[number as usize].clone();
        RtpBatch {
            room: room(),
            track: track(self.track),
            incarnation: Incarnation::new(self.incarnation).expect("not 0"),
            batch_no: number,
            first_packet_no: range.start as u64,
            packets: self.packets[range]
                .iter()
                .map(|packet| Packet { time: room_time(packet.at), data: packet.data.clone() })
                .collect(),
        }
    }

    /// Log milliseconds at which batch `number` is stored, if nothing happens to it.
    pub(crate) fn time(&self, number: u64) -> i64 {
        self.packets[self.batches[number as usize].end - 1].at + DELAY_MS
    }

    pub(crate) fn numbers(&self) -> Range<u64> {
        0..self.batches.len() as u64
    }

    /// What is missing when these batches in a row are.
    pub(crate) fn missing(&self, batches: (u64, u64), reason: AcceptedReason) -> Missing {
        let first = self.batches[batches.0 as usize].start as u64;
        let last = self.batches[batches.1 as usize].end as u64 - 1;
        Missing { incarnation: self.incarnation, batches, packets: (first, Some(last)), reason }
    }
}

/// A trace.
#[derive(Debug, Clone)]
pub(crate) struct Trace {
    pub(crate) family: &'static str,
    pub(crate) seed: u64,
    pub(crate) spec: FoldSpec,
    pub(crate) entries: Vec<LogEntry>,
    pub(crate) expected: Expected,
    /// Every packet that was published, by track, incarnation and number.
    pub(crate) packets: BTreeMap<(String, u64, u64), Received>,
    /// What was done to it, for people.
    pub(crate) story: Vec<String>,
}

/// A trace being written. Entries go to the log in the order of their log times.
pub(crate) struct Writing {
    entries: Vec<(i64, String, Bytes)>,
    events: BTreeMap<Writer, u64>,
    pub(crate) expected: Expected,
    packets: BTreeMap<(String, u64, u64), Received>,
    pub(crate) story: Vec<String>,
    pub(crate) spec: FoldSpec,
}

impl Writing {
    /// A room that is created at 0 and recorded from there on.
    pub(crate) fn new() -> Self {
        let spec = FoldSpec {
            tenant: tenant(),
            room: room(),
            recording: recording(),
            shards: 4,
            from: Some(EventRef { incarnation: 1, event_no: 0 }),
            session: None,
            beginning: None,
            start_sequence: 1,
            window_ms: 1000,
            policy: Policy::default(),
            epoch_base: 0,
        };
        let mut writing = Self {
            entries: Vec::new(),
            events: BTreeMap::new(),
            expected: Expected::default(),
            packets: BTreeMap::new(),
            story: Vec::new(),
            spec,
        };
        let created =
            EventKind::RoomCreated { room_name: String::new(), host: None, meeting_type: String::new(), policy: None };
        writing.sfu(created, 0);
        writing
    }

    pub(crate) fn raw(&mut self, subject: String, payload: Bytes, ms: i64) {
        self.entries.push((ms, subject, payload));
    }

    fn event(&mut self, writer: Writer, kind: EventKind, ms: i64) {
        let number = self.events.entry(writer.clone()).or_default();
        let event = RoomEvent {
            room: room(),
            incarnation: Incarnation::new(1).expect("not 0"),
            event_no: *number,
            time: room_time(ms),
            kind,
        };
        *number += 1;
        self.raw(address(writer, Entry::Event).subject().to_string(), event.encode(), ms);
    }

    pub(crate) fn sfu(&mut self, kind: EventKind, ms: i64) {
        self.event(Writer::Sfu(sfu()), kind, ms);
    }

    pub(crate) fn control(&mut self, kind: EventKind, ms: i64) {
        self.event(Writer::Control, kind, ms);
    }

    /// Announces a track; it has an account from then on.
    pub(crate) fn producer(&mut self, name: &'static str, codecs: &[(u8, Codec, u32)], ms: i64) {
        let is_audio = codecs.iter().any(|(_, codec, _)| matches!(codec, Codec::Opus));
        self.expected.tracks.entry(name.to_owned()).or_default();
        let producer = Producer {
            track: track(name),
            peer: PeerId::new("amara").expect("valid"),
            kind: if is_audio { TrackKind::Audio } else { TrackKind::Video },
            is_audio,
            codecs: codecs
                .iter()
                .map(|(payload_type, codec, clock_rate)| CodecParameters {
                    payload_type: PayloadType(*payload_type),
                    codec: codec.clone(),
                    clock_rate: *clock_rate,
                    channels: 0,
                    fmtp: String::new(),
                })
                .collect(),
            encodings: Vec::new(),
            header_extensions: Vec::new(),
        };
        self.sfu(EventKind::ProducerCreated(producer), ms);
    }

    /// Puts batch `number` into the log at `ms`.
    pub(crate) fn batch(&mut self, published: &Published, number: u64, ms: i64) {
        self.know(published);
        let subject = self.media_subject(published.track);
        self.raw(subject, published.batch(number).encode(), ms);
    }

    pub(crate) fn media_subject(&self, name: &str) -> String {
        address(Writer::Sfu(sfu()), Entry::Media(track(name))).subject().to_string()
    }

    fn know(&mut self, published: &Published) {
        for (number, packet) in (0..).zip(&published.packets) {
            let key = (published.track.to_owned(), published.incarnation, number);
            self.packets.entry(key).or_insert_with(|| packet.clone());
        }
    }

    /// Puts all batches into the log in time, and expects them all stored.
    pub(crate) fn all(&mut self, published: &Published) {
        for number in published.numbers() {
            self.batch(published, number, published.time(number));
        }
        self.stored(published, published.numbers());
    }

    /// Expects these batches stored, in this order.
    pub(crate) fn stored(&mut self, published: &Published, numbers: impl IntoIterator<Item = u64>) {
        self.account(published.track).stored.entry(published.incarnation).or_default().extend(numbers);
    }

    pub(crate) fn account(&mut self, name: &str) -> &mut Account {
        self.expected.tracks.entry(name.to_owned()).or_default()
    }

    /// Expects batches in a row missing.
    pub(crate) fn missing(&mut self, published: &Published, batches: (u64, u64), reason: AcceptedReason) {
        let missing = published.missing(batches, reason);
        self.account(published.track).missing.insert(missing);
    }

    pub(crate) fn damaged(&mut self, kind: &'static str) {
        *self.expected.damaged.entry(kind).or_default() += 1;
    }

    pub(crate) fn gap_event(&mut self, published: &Published, batches: (u64, u64), ms: i64) {
        let packets = published.missing(batches, AcceptedReason::Publisher).packets;
        let gap = PublisherGap {
            track: track(published.track),
            incarnation: Incarnation::new(published.incarnation).expect("not 0"),
            packets: (packets.0, packets.1.unwrap_or(packets.0)),
            batches,
            reason: "the publisher's buffer was full".to_owned(),
        };
        self.sfu(EventKind::PublisherGap(gap), ms);
    }

    pub(crate) fn say(&mut self, what: impl Into<String>) {
        self.story.push(what.into());
    }

    /// When the last entry so far is stored.
    pub(crate) fn last_time(&self) -> i64 {
        self.entries.iter().map(|entry| entry.0).max().unwrap_or_default()
    }

    /// Closes the room, and lets log time pass for what is still waited for.
    pub(crate) fn close(self) -> Self {
        let at = self.last_time() + 100;
        self.close_at(at)
    }

    pub(crate) fn close_at(mut self, at: i64) -> Self {
        self.sfu(EventKind::RoomClosed { reason: String::new() }, at);
        self.expected.span.1 = at;
        self.ticks(at, at + 11_500);
        self
    }

    /// Ends by the API.
    pub(crate) fn stop_at(mut self, at: i64) -> Self {
        let stopped = EventKind::RecordingStopped {
            recording: recording(),
            command: "stop".to_owned(),
            requested_by: String::new(),
            reason: StopReason::Requested,
        };
        self.control(stopped, at);
        self.ticks(at, at + 11_500);
        self
    }

    pub(crate) fn ticks(&mut self, from: i64, until: i64) {
        for ms in (from..until).step_by(500).skip(1) {
            self.control(EventKind::Tick, ms);
        }
    }

    pub(crate) fn finish(mut self, family: &'static str, seed: u64) -> Trace {
        self.entries.sort_by_key(|entry| entry.0);
        let entries = (1..)
            .zip(self.entries)
            .map(|(sequence, (ms, subject, payload))| LogEntry {
                sequence,
                time: LogTime::from_micros((LOG_EPOCH_MS + ms) * 1000),
                subject,
                trace_parent: None,
                payload,
            })
            .collect();
        let Self { expected, packets, story, spec, .. } = self;
        Trace { family, seed, spec, entries, expected, packets, story }
    }
}
