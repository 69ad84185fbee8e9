//! Small rooms for tests: entries of a log as an SFU and the coordinator would have it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use roomreel_shared::batch::{Incarnation, Packet, PacketData, RtpBatch};
use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::event::{
    Codec, CodecParameters, EventKind, EventRef, Producer, PublisherGap, RoomEvent, StopReason, TrackEnd,
};
use roomreel_shared::id::{PeerId, RecordingId, RoomId, SfuId, TenantId, TrackId};
use roomreel_shared::policy::{Policy, TrackKind};
use roomreel_shared::ports::LogEntry;
use roomreel_shared::rtp::PayloadType;
use roomreel_shared::subject::{Address, Entry, Shard, Writer};
use roomreel_shared::time::{LogTime, RoomTime};
use roomreel_shared::window::{AcceptedReason, Missing, Window};

use crate::config::FoldConfig;
use crate::fold::{Fold, FoldOutput};
use crate::room::Identity;

/// Log time of a story's beginning, and the room time that goes with it: the clocks are hours apart.
const LOG_EPOCH_MS: i64 = 1_700_000_000_000;
const ROOM_EPOCH_MS: i64 = 1_600_000_000_000;
pub(crate) const PACKETS_PER_BATCH: u64 = 4;

pub(crate) fn tenant() -> TenantId {
    TenantId::new("acme").expect("valid")
}

pub(crate) fn room() -> RoomId {
    RoomId::new("standup").expect("valid")
}

pub(crate) fn recording() -> RecordingId {
    RecordingId::new("01r").expect("valid")
}

pub(crate) fn sfu() -> SfuId {
    SfuId::new("sfu").expect("valid")
}

pub(crate) fn track(name: &str) -> TrackId {
    TrackId::new(name).expect("valid")
}

pub(crate) fn incarnation(value: u64) -> Incarnation {
    Incarnation::new(value).expect("not 0")
}

/// A recording that begins at the SFU's event 0.
pub(crate) fn spec() -> FoldSpec {
    FoldSpec {
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
    }
}

pub(crate) fn log_time(ms: i64) -> LogTime {
    LogTime::from_micros((LOG_EPOCH_MS + ms) * 1000)
}

pub(crate) fn room_time(ms: i64) -> RoomTime {
    RoomTime::from_micros((ROOM_EPOCH_MS + ms) * 1000)
}

pub(crate) fn address(writer: Writer, entry: Entry) -> Address {
    Address { shard: Shard::of(&tenant(), &room(), 4), tenant: tenant(), writer, room: room(), entry }
}

/// Batch `number` of a track: packets `4n..4n+4`, each an RTP packet whose sequence number is its packet number; the first of
/// each tenth batch starts a VP8 key frame.
pub(crate) fn batch(name: &str, publisher: u64, number: u64, ms: i64) -> RtpBatch {
    let first_packet_no = number * PACKETS_PER_BATCH;
    let packets = (first_packet_no..first_packet_no + PACKETS_PER_BATCH)
        .map(|packet_no| {
            let mut bytes = vec![0x80, 96];
            bytes.extend((packet_no as u16).to_be_bytes());
            bytes.extend((packet_no as u32 * 3000).to_be_bytes());
            bytes.extend((publisher as u32).to_be_bytes());
            bytes.extend([0x10, u8::from(packet_no % 40 != 0)]);
            Packet { time: room_time(ms), data: PacketData::Rtp(bytes.into()) }
        })
        .collect();
    RtpBatch {
        room: room(),
        track: track(name),
        incarnation: incarnation(publisher),
        batch_no: number,
        first_packet_no,
        packets,
    }
}

pub(crate) fn producer(name: &str, kind: TrackKind) -> EventKind {
    EventKind::ProducerCreated(Producer {
        track: track(name),
        peer: PeerId::new("amara").expect("valid"),
        kind,
        is_audio: kind == TrackKind::Audio,
        codecs: vec![CodecParameters {
            payload_type: PayloadType(96),
            codec: Codec::Vp8,
            clock_rate: 90_000,
            channels: 0,
            fmtp: String::new(),
        }],
        encodings: Vec::new(),
        header_extensions: Vec::new(),
    })
}

pub(crate) fn created() -> EventKind {
    EventKind::RoomCreated { room_name: "Standup".to_owned(), host: None, meeting_type: String::new(), policy: None }
}

pub(crate) fn closed() -> EventKind {
    EventKind::RoomClosed { reason: String::new() }
}

pub(crate) fn started(from: Option<EventRef>) -> EventKind {
    EventKind::RecordingStarted {
        recording: recording(),
        command: "start".to_owned(),
        requested_by: String::new(),
        from,
    }
}

pub(crate) fn stopped(reason: StopReason) -> EventKind {
    EventKind::RecordingStopped {
        recording: recording(),
        command: "stop".to_owned(),
        requested_by: String::new(),
        reason,
    }
}

pub(crate) fn paused(command: &str) -> EventKind {
    EventKind::RecordingPaused { recording: recording(), command: command.to_owned(), requested_by: String::new() }
}

pub(crate) fn resumed(command: &str) -> EventKind {
    EventKind::RecordingResumed { recording: recording(), command: command.to_owned(), requested_by: String::new() }
}

pub(crate) fn publisher_gap(name: &str, publisher: u64, batches: (u64, u64)) -> EventKind {
    EventKind::PublisherGap(PublisherGap {
        track: track(name),
        incarnation: incarnation(publisher),
        packets: (batches.0 * PACKETS_PER_BATCH, (batches.1 + 1) * PACKETS_PER_BATCH - 1),
        batches,
        reason: "full".to_owned(),
    })
}

/// The trace of an entry; one in two is sampled.
pub(crate) fn trace_parent(sequence: u64) -> String {
    format!("00-{sequence:032x}-00000000000000aa-{:02x}", sequence % 2)
}

/// A log being written.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) entries: Vec<LogEntry>,
    numbers: BTreeMap<Writer, u64>,
}

impl Log {
    pub(crate) fn push(&mut self, subject: &Address, payload: Bytes, ms: i64) {
        let sequence = self.entries.len() as u64 + 1;
        let subject = subject.subject().as_str().to_owned();
        let trace_parent = Some(trace_parent(sequence));
        self.entries.push(LogEntry { sequence, time: log_time(ms), subject, trace_parent, payload });
    }

    pub(crate) fn event_no(&mut self, writer: &Writer) -> u64 {
        let next = self.numbers.entry(writer.clone()).or_default();
        *next += 1;
        *next - 1
    }

    pub(crate) fn event(&mut self, writer: Writer, kind: EventKind, ms: i64) {
        self.event_with_ends(writer, kind, &[], ms);
    }

    fn event_with_ends(&mut self, writer: Writer, kind: EventKind, ends: &[TrackEnd], ms: i64) {
        let event_no = self.event_no(&writer);
        let event = RoomEvent { room: room(), incarnation: incarnation(1), event_no, time: room_time(ms), kind };
        self.push(&address(writer, Entry::Event), event.encode_with_ends(ends), ms);
    }

    /// An event of the SFU that says of tracks and their publishers how many batches there were.
    pub(crate) fn closing(&mut self, kind: EventKind, ends: &[(&str, u64, u64)], ms: i64) {
        let end = |(name, publisher, next_batch_no): &(&str, u64, u64)| TrackEnd {
            track: track(name),
            incarnation: incarnation(*publisher),
            next_batch_no: *next_batch_no,
            next_packet_no: next_batch_no * PACKETS_PER_BATCH,
        };
        let ends: Vec<_> = ends.iter().map(end).collect();
        self.event_with_ends(Writer::Sfu(sfu()), kind, &ends, ms);
    }

    pub(crate) fn sfu(&mut self, kind: EventKind, ms: i64) {
        self.event(Writer::Sfu(sfu()), kind, ms);
    }

    pub(crate) fn control(&mut self, kind: EventKind, ms: i64) {
        self.event(Writer::Control, kind, ms);
    }

    pub(crate) fn batch(&mut self, name: &str, publisher: u64, number: u64, ms: i64) {
        let message = batch(name, publisher, number, ms).encode();
        self.push(&address(Writer::Sfu(sfu()), Entry::Media(track(name))), message, ms);
    }

    /// Batches `numbers`, 100 ms apart, the first at `ms`.
    pub(crate) fn batches(&mut self, name: &str, publisher: u64, numbers: std::ops::Range<u64>, ms: i64) {
        for (i, number) in numbers.enumerate() {
            self.batch(name, publisher, number, ms + i as i64 * 100);
        }
    }

    /// A room that has just been created, with a camera.
    pub(crate) fn with_camera() -> Self {
        let mut log = Self::default();
        log.sfu(created(), 0);
        log.sfu(producer("cam", TrackKind::Video), 10);
        log
    }
}

/// What a fold gave.
#[derive(Default)]
pub(crate) struct Folded {
    pub(crate) windows: Vec<Window>,
    pub(crate) others: Vec<FoldOutput>,
    pub(crate) lost_events: u64,
}

impl Folded {
    pub(crate) fn take(&mut self, outputs: Vec<FoldOutput>) {
        for output in outputs {
            match output {
                FoldOutput::Commit(window) => {
                    self.lost_events += window.counts.lost_events;
                    self.windows.push(Window::parse(window.object.joined()).expect("an own window can be read"));
                }
                other => self.others.push(other),
            }
        }
    }

    pub(crate) fn objects(&self) -> Vec<Bytes> {
        self.windows.iter().map(|window| window.object().clone()).collect()
    }

    /// Batches as stored: track, incarnation, number, late.
    pub(crate) fn batches(&self) -> Vec<(String, u64, u64, bool)> {
        let mut batches = Vec::new();
        for window in &self.windows {
            for segment in &window.segments {
                for stored in window.batches(segment).expect("whole") {
                    let stored = stored.expect("whole");
                    let batch = stored.batch;
                    batches.push((batch.track.to_string(), batch.incarnation.get(), batch.batch_no, stored.late));
                }
            }
        }
        batches
    }

    /// Gaps of accepted packets: track, reason, batches.
    pub(crate) fn gaps(&self) -> Vec<(String, AcceptedReason, (u64, u64))> {
        let gaps = self.windows.iter().flat_map(|window| &window.header.gaps);
        gaps.filter_map(|gap| match gap.missing {
            Missing::Accepted { reason, batches, .. } => Some((gap.key.track.to_string(), reason, batches)),
            Missing::Network { .. } => None,
        })
        .collect()
    }

    pub(crate) fn replays(&self) -> usize {
        self.others.iter().filter(|output| matches!(output, FoldOutput::RequestReplay(_))).count()
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.others.iter().any(|output| matches!(output, FoldOutput::Finished))
    }
}

pub(crate) const WRITER: Identity = Identity { epoch: 3, nonce: 4 };

/// Folds a log in one go.
pub(crate) fn fold(spec: &FoldSpec, entries: &[LogEntry]) -> Folded {
    fold_with_crashes(spec, entries, &BTreeSet::new())
}

/// Folds a log; after each window in `crashes`, begins again from that window alone.
pub(crate) fn fold_with_crashes(spec: &FoldSpec, entries: &[LogEntry], crashes: &BTreeSet<u64>) -> Folded {
    let config = FoldConfig::default();
    let mut fold = Fold::new(spec.clone(), WRITER, config);
    let mut folded = Folded::default();
    let mut at = 0;
    while at < entries.len() {
        let windows = folded.windows.len();
        folded.take(fold.on_entry(entries[at].clone()));
        at += 1;
        let committed = folded.windows.len();
        if committed > windows && crashes.contains(&(committed as u64 - 1)) {
            let last = folded.windows.last().expect("just committed");
            fold = Fold::resume(spec.clone(), WRITER, config, last).expect("an own window can be gone on from");
            let position = fold.room().position();
            at = entries.iter().position(|entry| entry.sequence >= position).unwrap_or(entries.len());
        }
    }
    folded
}
