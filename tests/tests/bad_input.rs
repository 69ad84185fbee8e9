//! What a room's log must not hold, put into it while the room is recorded: each costs itself, is counted and is told.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::mpsc;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use roomreel_compositor::node::{CompositorConfig, CompositorNode};
use roomreel_coordinator::{Coordinator, CoordinatorConfig};
use roomreel_ingest::{IngestConfig, IngestNode};
use roomreel_sfu::publisher::RoomPublisher;
use roomreel_sfu::source::{self, Source, SourceItem};
use roomreel_sfu::synthetic::{SyntheticRoom, SyntheticSpec};
use roomreel_shared::batch::{Incarnation, MAX_BATCH_BYTES, Packet, PacketData, RtpBatch};
use roomreel_shared::cluster;
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::event::{Codec, CodecParameters, EventKind, Producer, RoomEvent, StopReason};
use roomreel_shared::id::{NodeId, RecordingId, RoomId, TrackId};
use roomreel_shared::policy::TrackKind;
use roomreel_shared::ports::{Coordination, Ports};
use roomreel_shared::recording::State;
use roomreel_shared::rtp::PayloadType;
use roomreel_shared::subject::{Address, Entry, Shard, Writer};
use roomreel_tests::cluster::TestCluster;
use roomreel_tests::{audit, room, watch};
use serde_json::Value;

const SHARDS: u32 = 4;
/// Longest wait for anything the cluster does.
const LIMIT: Duration = Duration::from_secs(60);

fn node(id: &str) -> NodeId {
    NodeId::new(id).expect("a literal that can be spelled")
}

fn composite() -> CompositeSpec {
    CompositeSpec { width: 320, height: 180, fps: 15, ..CompositeSpec::default() }
}

/// Everything that is logged, as JSON lines.
static LOGS: LazyLock<Mutex<Vec<u8>>> = LazyLock::new(Mutex::default);

struct Logs;

impl Write for Logs {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        LOGS.lock().unwrap_or_else(PoisonError::into_inner).extend(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Begins to keep what is logged at INFO and above.
fn keep_logs() {
    let lines = tracing_subscriber::fmt().json().flatten_event(true).with_span_list(false).with_writer(|| Logs);
    lines.with_max_level(tracing::Level::INFO).init();
}

fn logged() -> Result<Vec<Value>> {
    let bytes = LOGS.lock().unwrap_or_else(PoisonError::into_inner).clone();
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|l| Ok(serde_json::from_slice(l)?)).collect()
}

/// Counters by name and by the value of their first attribute.
type Counters = BTreeMap<(String, String), u64>;

/// Keeps the newest values of the counters.
#[derive(Clone, Default)]
struct Meter(Arc<Mutex<Counters>>);

impl PushMetricExporter for Meter {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut counters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
            let AggregatedMetrics::U64(MetricData::Sum(sum)) = metric.data() else { continue };
            for point in sum.data_points() {
                let attribute = point.attributes().next().map(|a| a.value.to_string()).unwrap_or_default();
                counters.insert((metric.name().to_owned(), attribute), point.value());
            }
        }
        Ok(())
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

/// The counts of one counter, by its attribute.
fn counts_of(counters: &Counters, name: &str) -> BTreeMap<String, u64> {
    counters.iter().filter(|((n, _), _)| n == name).map(|((_, attribute), count)| (attribute.clone(), *count)).collect()
}

/// A room that does not close before it may.
struct HeldOpen {
    room: SyntheticRoom,
    may_close: mpsc::Receiver<()>,
}

impl Iterator for HeldOpen {
    type Item = <SyntheticRoom as Iterator>::Item;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.room.next();
        if let Some(Ok((_, SourceItem::Event(EventKind::RoomClosed { .. })))) = item {
            // The other end is dropped when the test has failed: the room may as well close then.
            let _ = self.may_close.recv_timeout(LIMIT);
        }
        item
    }
}

impl Source for HeldOpen {
    fn room(&self) -> &RoomId {
        self.room.room()
    }

    fn duration(&self) -> Option<Duration> {
        self.room.duration()
    }
}

/// Something the log must not hold, and what ingest has to say of it.
struct Bad {
    subject: String,
    payload: Bytes,
    kind: &'static str,
    why: &'static str,
}

/// All of it. What could be believed is made to do harm: a stop of the very recording, a closing of the room.
fn bad_entries(of: &RoomId, recording: &RecordingId) -> Vec<Bad> {
    let track = TrackId::new("amara-camera").expect("a literal that can be spelled");
    let address = |entry| {
        let shard = Shard::of(&room::tenant(), of, SHARDS);
        let writer = Writer::Sfu(room::sfu());
        Address { shard, tenant: room::tenant(), writer, room: of.clone(), entry }.subject().to_string()
    };
    let (media, events) = (address(Entry::Media(track.clone())), address(Entry::Event));
    let incarnation = Incarnation::new(0xbad).expect("not 0");
    let rtp = |bytes: Vec<u8>| Packet { time: room::now(), data: PacketData::Rtp(bytes.into()) };
    let batch = RtpBatch {
        room: of.clone(),
        track,
        incarnation,
        batch_no: 0,
        first_packet_no: 0,
        packets: vec![rtp(vec![0x80, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 7])],
    };
    let other_room = RoomId::new("board meeting").expect("a literal that can be spelled");
    let event = |of: &RoomId, event_no, kind| {
        RoomEvent { room: of.clone(), incarnation, event_no, time: room::now(), kind }.encode()
    };
    let closed = || EventKind::RoomClosed { reason: String::new() };
    let stop = EventKind::RecordingStopped {
        recording: recording.clone(),
        command: "forged".to_owned(),
        requested_by: "mallory".to_owned(),
        reason: StopReason::Requested,
    };
    let mut flipped = batch.encode().to_vec();
    if let Some(last) = flipped.last_mut() {
        *last ^= 1;
    }
    let sfu = format!(".{}.", room::sfu().token());
    let bad = |subject: &str, payload: Bytes, kind, why| Bad { subject: subject.to_owned(), payload, kind, why };
    vec![
        bad(&media, Bytes::from_static(b"\xff\xffnoise"), "batch", "does not decode"),
        bad(&media, flipped.into(), "batch", "CRC32C"),
        bad(&media, RtpBatch { packets: Vec::new(), ..batch.clone() }.encode(), "batch", "packets: there are none"),
        bad(&media, vec![0; MAX_BATCH_BYTES + 90_000].into(), "batch", "publish smaller batches"),
        bad(&media, RtpBatch { room: other_room.clone(), ..batch.clone() }.encode(), "wrong_place", "board meeting"),
        bad(&media.replace("amara-camera", "other"), batch.encode(), "wrong_place", "amara-camera"),
        bad(&events, Bytes::from_static(b"\xff"), "event", "does not decode"),
        bad(&events, event(&other_room, 0, closed()), "wrong_place", "board meeting"),
        bad(&events, event(of, 0, stop), "not_permitted", "SFU sfu-1 may not"),
        // `=41` is an A that stands for itself; `=2e` is `..` in lower-case digits. Nothing spells an id so.
        bad(&events.replace(&sfu, ".=41."), event(of, 0, closed()), "subject", "stands for itself"),
        bad(&media.replace("amara-camera", "=2e=2e"), batch.encode(), "subject", "upper-case"),
        bad(&media.replace("amara-camera", "a.b"), batch.encode(), "subject", "not a log subject"),
        bad(&events.replace(&sfu, ".=control."), batch.encode(), "event", "does not decode"),
    ]
}

const INVALID_PACKETS: [&[u8]; 4] = [
    b"",
    &[0x80, 111, 0, 1],
    // Version 1.
    &[0x40, 111, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 7, 7, 7, 7],
    // Fifteen contributing sources, and none of them there.
    &[0x8f, 111, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 7, 7, 7, 7],
];

/// Publishes, in a valid batch of an announced track, packets that are not valid RTP.
fn publish_invalid_rtp(to: &RoomPublisher, spec: &SyntheticSpec, track: &TrackId) -> Result<()> {
    let codec = CodecParameters {
        payload_type: PayloadType(111),
        codec: Codec::Opus,
        clock_rate: 48_000,
        channels: 2,
        fmtp: String::new(),
    };
    let producer = Producer {
        track: track.clone(),
        peer: spec.name(0).0,
        kind: TrackKind::Audio,
        is_audio: true,
        codecs: vec![codec],
        encodings: Vec::new(),
        header_extensions: Vec::new(),
    };
    to.event(room::now(), EventKind::ProducerCreated(producer))?;
    for bytes in INVALID_PACKETS {
        to.packet(track, room::now(), PacketData::Rtp(Bytes::from_static(bytes)))?;
    }
    Ok(())
}

/// The recording of the only room, once there is one.
async fn active_recording(coordination: &dyn Coordination) -> Result<RecordingId> {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while tokio::time::Instant::now() < deadline {
        if let Some(record) = coordination.list(&cluster::recordings_prefix()).await?.records.first() {
            let active: cluster::ActiveRecording = serde_json::from_slice(&record.value)?;
            return Ok(active.recording.id);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("nothing is recorded after {LIMIT:?}")
}

/// Nothing in the bucket is of another room (I4).
async fn require_own(ports: &Ports, of: &RoomId, recorded: &audit::RecordingContents) -> Result<()> {
    for window in &recorded.windows {
        for segment in &window.segments {
            for stored in window.batches(segment)? {
                let batch = stored?.batch;
                ensure!(
                    batch.room == *of && batch.track == segment.key.track,
                    "I4: {:?} of {}",
                    batch.track,
                    batch.room
                );
                ensure!(batch.incarnation.get() != 0xbad, "a forged batch of {} is stored", batch.track);
            }
        }
        let foreign = window.events.iter().find(|stored| stored.event.room != *of);
        ensure!(foreign.is_none(), "I4: {foreign:?}");
    }
    let mut listed = ports.store.list("").await?.into_iter().map(|object| object.key.to_string());
    let own = format!("{}/rooms/{}/recordings/", room::tenant().token(), of.token());
    let foreign = listed.find(|key| !key.starts_with(&own) && !key.starts_with("index/"));
    ensure!(foreign.is_none(), "the bucket holds {foreign:?}");
    Ok(())
}

/// Each is told once, with room, place and reason, and nothing else is told that somebody would have to act on.
fn require_told(of: &RoomId, bad: &[Bad], junk: &TrackId) -> Result<()> {
    let lines = logged()?;
    let said = |line: &Value, field: &str, text: &str| line[field].as_str().is_some_and(|value| value.contains(text));
    let of_ingest = |line: &&Value| said(line, "target", "roomreel_ingest") && line["level"] == "WARN";
    for entry in bad {
        let found = lines.iter().filter(of_ingest).filter(|line| {
            line["room"] == of.as_str() && line["subject"] == entry.subject.as_str() && said(line, "why", entry.why)
        });
        ensure!(found.count() == 1, "{} ({}) is not told once in {lines:#?}", entry.subject, entry.why);
    }
    let told_junk: Vec<_> = lines.iter().filter(|line| line["track"] == junk.as_str()).collect();
    ensure!(
        told_junk.len() == 1 && told_junk[0]["packets"] == 4 && said(told_junk[0], "why", "too short"),
        "packets that are not RTP: {told_junk:#?}"
    );
    let others = lines.iter().filter(|line| {
        let refused = said(line, "message", "was refused") || said(line, "message", "was skipped");
        line["level"] != "INFO" && !refused && line["track"] != junk.as_str()
    });
    let others: Vec<_> = others.collect();
    ensure!(others.is_empty(), "more is told than what was bad: {others:#?}");
    // One line a recording and stage, not one a packet.
    ensure!(lines.len() < 150, "{} lines for a room of seconds", lines.len());
    Ok(())
}

fn counts<const N: usize>(expected: [(&str, u64); N]) -> BTreeMap<String, u64> {
    expected.map(|(kind, count)| (kind.to_owned(), count)).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_costs_only_itself() -> Result<()> {
    keep_logs();
    let meter = Meter::default();
    let metrics = SdkMeterProvider::builder().with_reader(PeriodicReader::builder(meter.clone()).build()).build();
    opentelemetry::global::set_meter_provider(metrics.clone());

    let cluster = TestCluster::start().await?;
    let ports = cluster.ports().await?;
    let config = CoordinatorConfig {
        window: Duration::from_secs(1),
        composites: vec![composite()],
        ..CoordinatorConfig::new(node("coordinator"), SHARDS)
    };
    let coordinator = Coordinator::start(cluster.ports().await?, config).await?;
    let ingest = IngestNode::start(cluster.ports().await?, IngestConfig::new(node("ingest"))).await?;
    let compositor = CompositorNode::start(cluster.ports().await?, CompositorConfig::new(node("compositor"))).await?;

    // What a path or a pattern would take for its own is an id like any other.
    let id = room::room("../../*.> weekly");
    let spec = SyntheticSpec {
        duration: Duration::from_secs(5),
        participants: 1,
        width: 160,
        height: 90,
        frame_rate: 10,
        video_bits_per_second: 100_000,
        ..SyntheticSpec::new(id.clone(), room::now())
    };
    let publisher = room::publisher(&ports, SHARDS);
    let (close, may_close) = mpsc::sync_channel(1);
    let held_open = HeldOpen { room: SyntheticRoom::new(spec.clone())?, may_close };
    let to = publisher.room(id.clone());
    let junk = TrackId::new("junk").expect("a literal that can be spelled");
    let injecting = async {
        let recording = active_recording(&*ports.coordination).await?;
        let bad = bad_entries(&id, &recording);
        let raw = async_nats::jetstream::new(async_nats::connect(cluster.nats.url()).await?);
        for entry in &bad {
            raw.publish(entry.subject.clone(), entry.payload.clone()).await?.await.context("the log takes it")?;
        }
        publish_invalid_rtp(&to, &spec, &junk)?;
        close.send(())?;
        anyhow::Ok(bad)
    };
    let (played, bad) = tokio::join!(source::play(held_open, &to, 1.0, |_| {}), injecting);
    let bad = bad?;
    ensure!(played.problem_count == 0, "playing had problems: {:?}", played.problems);
    publisher.flush().await?;

    let recording = room::final_recording(&*ports.store, &id, LIMIT).await?;
    ensure!(recording.state == State::Complete, "{}: {}", recording.id, recording.reason);
    ensure!(!recording.incomplete, "nothing was lost, yet the recording calls itself incomplete");
    let length = Duration::from_millis(recording.duration_ms.context("a length")?);
    ensure!(length + Duration::from_millis(100) >= spec.duration, "{length:?} of {:?}", spec.duration);
    let keys = room::keys(&recording);
    let log = audit::read_log(&*ports.log, &recording.tenant, &id, SHARDS).await?;
    let recorded = audit::read_recording(&*ports.store, &keys).await?;
    let verdict = audit::require_everything_once(&log, &recorded)?;
    ensure!(verdict.published > 250, "the room was hardly published: {verdict}");
    ensure!(recorded.declared.is_empty(), "gaps were declared: {:?}", recorded.declared);
    require_own(&ports, &id, &recorded).await?;

    let directory = tempfile::tempdir()?;
    let file = room::download_composite(&*ports.store, &recording, &composite(), directory.path()).await?;
    room::require_format(&file, &composite(), &recording)?;
    watch::decode_without_warning(&file)?;

    compositor.drain().await;
    ingest.drain().await;
    coordinator.drain().await;
    metrics.force_flush()?;
    let counters = meter.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut damaged = BTreeMap::new();
    for entry in &bad {
        *damaged.entry(entry.kind.to_owned()).or_insert(0) += 1;
    }
    let counted = counts_of(&counters, "roomreel.ingest.damaged_entries");
    ensure!(counted == damaged, "counted {counted:?} of {damaged:?}");
    let invalid = counts_of(&counters, "roomreel.ingest.invalid_packets");
    ensure!(invalid == counts([("", INVALID_PACKETS.len() as u64)]), "{invalid:?}");
    let refused = counts_of(&counters, "roomreel.coordinator.refusals");
    ensure!(refused == counts([("event", 2), ("subject", 1), ("wrong_room", 1), ("wrong_writer", 1)]), "{refused:?}");
    require_told(&id, &bad, &junk)
}
