//! The node and its actors on ports in memory, with a paused clock.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use ractor::Actor as _;
use roomreel_backends::memory::faults::{Fault, Operation, Script};
use roomreel_backends::memory::{MemoryCoordination, MemoryLog, MemoryStore};
use roomreel_shared::cluster::{self, Assignment, FoldSpec, Node, Progress, Role};
use roomreel_shared::event::StopReason;
use roomreel_shared::id::NodeId;
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::ports::{
    Appended, Bus as _, Change, Coordination as _, LogEntry, LogError, NewEntry, ObjectStore as _, Outcome, Ports,
    RoomLog,
};
use roomreel_shared::subject::{Address, Filter, Shard, back_channel_filter};
use roomreel_shared::time::LogTime;
use roomreel_shared::window::{AcceptedReason, Window};
use roomreel_shared::wire;

use super::reader::{Budget, NodeBudget};
use super::room::{RoomActor, RoomArguments};
use crate::config::{FoldConfig, IngestConfig};
use crate::fold::{Fold, FoldOutput};
use crate::metrics::Metrics;
use crate::node::{IngestHandle, IngestNode};
use crate::room::Identity;
use crate::story::*;

struct Rig {
    log: MemoryLog,
    clock: Arc<AtomicI64>,
    store: MemoryStore,
    coordination: MemoryCoordination,
    faults: Script,
}

impl Rig {
    fn new() -> Self {
        let clock = Arc::new(AtomicI64::new(log_time(0).as_micros()));
        let now = clock.clone();
        Self {
            log: MemoryLog::new(Arc::new(move || LogTime::from_micros(now.load(Ordering::SeqCst)))),
            clock,
            store: MemoryStore::new().with_history(),
            coordination: MemoryCoordination::new(),
            faults: Script::new(),
        }
    }

    fn ports(&self) -> Ports {
        Ports {
            log: Arc::new(self.log.clone()),
            bus: Arc::new(self.log.clone()),
            store: Arc::new(self.store.clone().with_faults(Arc::new(self.faults.clone()))),
            coordination: Arc::new(self.coordination.clone()),
        }
    }

    async fn append(&self, entries: &[LogEntry]) {
        for entry in entries {
            self.clock.store(entry.time.as_micros(), Ordering::SeqCst);
            let subject = Address::parse(&entry.subject).expect("a log subject").subject();
            let message_id = format!("{}", entry.sequence);
            let entry = NewEntry { subject, message_id, trace_parent: None, payload: entry.payload.clone() };
            self.log.append(entry).await.expect("the log takes it");
        }
    }

    /// Gives the recording to a node; answers the epoch.
    async fn assign(&self, node: &str) -> u64 {
        self.assign_as(node, spec()).await
    }

    async fn assign_as(&self, node: &str, spec: FoldSpec) -> u64 {
        let assignment = Assignment { node: node_id(node), spec };
        let value = serde_json::to_vec(&assignment).expect("plain");
        let change = Change::Put(cluster::assignment_key(&recording()), value.into(), None);
        match self.coordination.transact(Vec::new(), vec![change]).await {
            Ok(Outcome::Committed(revision)) => revision,
            other => panic!("not assigned: {other:?}"),
        }
    }

    async fn start(&self, node: &str, edit: impl FnOnce(&mut IngestConfig)) -> IngestHandle {
        let mut config = IngestConfig::new(node_id(node));
        edit(&mut config);
        IngestNode::start(self.ports(), config).await.expect("the node starts")
    }

    /// For a room's actor alone.
    async fn arguments(&self) -> RoomArguments {
        RoomArguments {
            ports: self.ports(),
            node: node_id("a"),
            config: FoldConfig::default(),
            budget: Budget::new(1 << 20, &NodeBudget::new(1 << 20)),
            spec: spec(),
            revision: self.assign("a").await,
            metrics: Arc::new(Metrics::new()),
            load: Arc::new(AtomicU64::new(0)),
        }
    }

    async fn windows(&self) -> Vec<Window> {
        let keys = keys();
        let mut windows = Vec::new();
        for listed in self.store.list(&keys.windows_prefix()).await.expect("listed") {
            let object = self.store.get(&listed.key).await.expect("read");
            windows.push(Window::parse(object).expect("a window"));
        }
        windows
    }

    async fn until_windows(&self, count: usize) {
        for _ in 0..1200 {
            if self.windows().await.len() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{} windows after two minutes, not {count}", self.windows().await.len());
    }

    async fn until_finished(&self) -> Progress {
        for _ in 0..1200 {
            let record = self.coordination.get(&cluster::progress_key(&recording())).await.expect("read");
            if let Some(record) = record {
                let progress: Progress = serde_json::from_slice(&record.value).expect("progress");
                if progress.finished {
                    return progress;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("not finished after two minutes");
    }

    /// The chain is whole (I2) and holds batches `0..count` of the camera once each.
    async fn assert_recorded(&self, count: u64) {
        let windows = self.windows().await;
        for (number, window) in windows.iter().enumerate() {
            assert_eq!(window.header.window, number as u64);
            assert_eq!(window.header.previous, number.checked_sub(1).map(|before| windows[before].hash()), "I2");
        }
        assert!(windows.last().is_some_and(|window| window.header.end.is_some()));
        let writes = self.store.history().iter().filter(|m| m.key.as_str().ends_with(".win")).count();
        assert_eq!(writes, windows.len(), "I2: written once");
        let folded = Folded { windows, ..Folded::default() };
        let numbers: Vec<u64> = folded.batches().iter().map(|batch| batch.2).collect();
        assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "I1");
    }
}

fn node_id(name: &str) -> NodeId {
    NodeId::new(name).expect("valid")
}

fn keys() -> RecordingKeys {
    RecordingKeys::new(&tenant(), &room(), &recording())
}

fn talk() -> Log {
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..30, 100);
    log.sfu(closed(), 3150);
    log
}

/// The first window of the log as another writer would commit it.
fn first_window(entries: &[LogEntry], epoch: u64) -> Bytes {
    let mut fold = Fold::new(spec(), Identity { epoch, nonce: 99 }, FoldConfig::default());
    let mut outputs = entries.iter().flat_map(|entry| fold.on_entry(entry.clone()));
    let window = outputs.find_map(|output| match output {
        FoldOutput::Commit(window) => Some(window.object.joined()),
        _ => None,
    });
    window.expect("the log is longer than a window")
}

#[tokio::test(start_paused = true)]
async fn a_room_is_recorded_and_everybody_hears_of_it() {
    let rig = Rig::new();
    let mut heard = rig.log.subscribe(&back_channel_filter(&tenant(), &sfu())).await.expect("subscribed");
    rig.assign("a").await;
    let node = rig.start("a", |_| {}).await;
    rig.append(&talk().entries).await;
    let progress = rig.until_finished().await;
    assert_eq!((progress.windows, progress.incomplete, progress.duration_us), (4, false, 3_150_000));
    rig.assert_recorded(30).await;
    let record = rig.coordination.get(&cluster::node_key(Role::Ingest, &node_id("a"))).await.expect("read");
    let registered: Node = serde_json::from_slice(&record.expect("registered").value).expect("a node");
    assert!(!registered.draining);
    let mut watermark = 0;
    let mut states = BTreeSet::new();
    tokio::time::sleep(Duration::from_millis(100)).await;
    while let Some(message) = futures::FutureExt::now_or_never(futures::StreamExt::next(&mut heard)).flatten() {
        let message = <wire::BackChannel as prost::Message>::decode(message.payload).expect("decodes");
        match message.message {
            Some(wire::back_channel::Message::Watermark(mark)) => {
                watermark = mark.tracks.first().map_or(watermark, |track| track.next_batch_no);
            }
            Some(wire::back_channel::Message::RecordingState(state)) => {
                states.insert(state.active);
            }
            _ => {}
        }
    }
    assert_eq!(watermark, 30);
    assert!(states.contains(&false), "the SFU hears of the end");
    node.drain().await;
}

#[tokio::test(start_paused = true)]
async fn answers_that_get_lost_cost_nothing() {
    let rig = Rig::new();
    for fault in [Fault::LoseAnswer, Fault::Conflict, Fault::FailBefore, Fault::Hang, Fault::LoseAnswer] {
        rig.faults.push(Operation::Create, fault);
    }
    rig.assign("a").await;
    let _node = rig.start("a", |_| {}).await;
    rig.append(&talk().entries).await;
    rig.until_finished().await;
    assert_eq!(rig.faults.remaining(), 0);
    rig.assert_recorded(30).await;
}

#[tokio::test(start_paused = true)]
async fn another_owners_window_is_adopted() {
    let rig = Rig::new();
    let log = talk();
    let epoch = rig.assign("a").await;
    let node = rig.start("a", |_| {}).await;
    rig.append(&log.entries[..5]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    rig.store.create(&keys().window(0), first_window(&log.entries, epoch - 1)).await.expect("created");
    rig.append(&log.entries[5..]).await;
    rig.until_finished().await;
    rig.assert_recorded(30).await;
    let epochs: Vec<u64> = rig.windows().await.iter().map(|window| window.header.epoch).collect();
    assert_eq!(epochs, [epoch - 1, epoch, epoch, epoch]);
    node.shutdown_now().await;
}

#[tokio::test(start_paused = true)]
async fn a_replaced_owner_commits_nothing_more() {
    let rig = Rig::new();
    let log = talk();
    let epoch = rig.assign("a").await;
    let _node = rig.start("a", |_| {}).await;
    rig.append(&log.entries[..5]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    rig.store.create(&keys().window(0), first_window(&log.entries, epoch + 1)).await.expect("created");
    rig.append(&log.entries[5..]).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(rig.windows().await.len(), 1, "I7");
}

#[tokio::test(start_paused = true)]
async fn epochs_rise_when_revisions_have_begun_anew() {
    let mut rig = Rig::new();
    let log = talk();
    rig.store.create(&keys().window(0), first_window(&log.entries, 5000)).await.expect("created");
    rig.append(&log.entries).await;
    rig.assign("a").await;
    let fenced = rig.start("a", |_| {}).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(rig.windows().await.len(), 1, "I7");
    fenced.shutdown_now().await;
    rig.coordination = MemoryCoordination::new();
    let revision = rig.assign_as("a", FoldSpec { epoch_base: 5000, ..spec() }).await;
    let node = rig.start("a", |_| {}).await;
    rig.until_finished().await;
    let epochs: Vec<u64> = rig.windows().await.iter().map(|window| window.header.epoch).collect();
    assert_eq!((epochs[0], epochs[1]), (5000, 5000 + revision));
    rig.assert_recorded(30).await;
    node.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_leaves_without_a_hole_and_another_goes_on() {
    let rig = Rig::new();
    let log = talk();
    rig.assign("a").await;
    let first = rig.start("a", |_| {}).await;
    rig.append(&log.entries[..15]).await;
    rig.until_windows(1).await;
    first.drain().await;
    assert_eq!(rig.coordination.get(&cluster::node_key(Role::Ingest, &node_id("a"))).await.expect("read"), None);
    let left = rig.windows().await.len();
    assert_eq!(left, 2, "what was open is committed");
    rig.append(&log.entries[15..25]).await;
    rig.assign("b").await;
    let second = rig.start("b", |_| {}).await;
    rig.append(&log.entries[25..]).await;
    rig.until_finished().await;
    rig.assert_recorded(30).await;
    second.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_repeats_nothing_and_loses_nothing() {
    let rig = Rig::new();
    let log = talk();
    rig.assign("a").await;
    let first = rig.start("a", |_| {}).await;
    rig.append(&log.entries[..25]).await;
    rig.until_windows(2).await;
    first.shutdown_now().await;
    rig.assign("b").await;
    let _second = rig.start("b", |_| {}).await;
    rig.append(&log.entries[25..]).await;
    rig.until_finished().await;
    rig.assert_recorded(30).await;
}

#[tokio::test(start_paused = true)]
async fn expired_leases_and_broken_deliveries_stop_nothing() {
    let rig = Rig::new();
    let log = talk();
    rig.assign("a").await;
    let _node = rig.start("a", |_| {}).await;
    rig.append(&log.entries[..15]).await;
    rig.until_windows(1).await;
    rig.coordination.expire_leases();
    rig.coordination.break_watches();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let key = cluster::node_key(Role::Ingest, &node_id("a"));
    assert!(rig.coordination.get(&key).await.expect("read").is_some(), "registered again");
    rig.append(&log.entries[15..]).await;
    rig.until_finished().await;
    rig.assert_recorded(30).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_fills_the_log_and_not_the_memory() {
    let rig = Rig::new();
    for _ in 0..20 {
        rig.faults.push(Operation::Create, Fault::FailBefore);
    }
    rig.assign("a").await;
    let _node = rig
        .start("a", |config| {
            config.room_bytes = 8 * 1024;
            config.node_bytes = 8 * 1024;
        })
        .await;
    rig.append(&talk().entries).await;
    rig.until_finished().await;
    rig.assert_recorded(30).await;
}

fn tight(config: &mut IngestConfig) {
    config.room_bytes = 8 * 1024;
    config.node_bytes = 8 * 1024;
}

#[tokio::test(start_paused = true)]
async fn a_recording_begins_behind_more_than_memory_holds() {
    let rig = Rig::new();
    rig.assign_as("a", FoldSpec { from: None, ..spec() }).await;
    let _node = rig.start("a", tight).await;
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..100, 100);
    log.control(started(None), 10_050);
    log.batches("cam", 7, 100..120, 10_100);
    log.sfu(closed(), 12_100);
    rig.append(&log.entries).await;
    let progress = rig.until_finished().await;
    assert!(!progress.incomplete);
    let folded = Folded { windows: rig.windows().await, ..Folded::default() };
    let numbers: Vec<u64> = folded.batches().iter().map(|batch| batch.2).collect();
    assert_eq!(numbers, (100..120).collect::<Vec<_>>());
}

/// The recording ends, and what is behind that in the log is more than memory holds, before the time is up that it waits for
/// what is missing.
async fn assert_an_end_waits_no_longer_than_memory_lasts(reason: StopReason) {
    let rig = Rig::new();
    rig.assign("a").await;
    let _node = rig.start("a", tight).await;
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..5, 100);
    log.batches("cam", 7, 6..8, 600);
    log.control(stopped(reason), 800);
    for number in 8..100 {
        log.batch("cam", 7, number, 810);
    }
    rig.append(&log.entries).await;
    let progress = rig.until_finished().await;
    assert!(progress.incomplete, "a batch never came");
    let folded = Folded { windows: rig.windows().await, ..Folded::default() };
    assert!(folded.gaps().contains(&("cam".to_owned(), AcceptedReason::Log, (5, 5))), "{:?}", folded.gaps());
}

#[tokio::test(start_paused = true)]
async fn a_stopped_recording_ends_although_more_follows_than_memory_holds() {
    assert_an_end_waits_no_longer_than_memory_lasts(StopReason::Requested).await;
}

#[tokio::test(start_paused = true)]
async fn a_room_whose_end_is_lost_ends_although_more_follows_than_memory_holds() {
    assert_an_end_waits_no_longer_than_memory_lasts(StopReason::RoomClosed).await;
}

#[tokio::test(start_paused = true)]
async fn a_track_that_fails_begins_its_window_again_alone() {
    let rig = Rig::new();
    let log = talk();
    let (room, _) = RoomActor::spawn(None, RoomActor, rig.arguments().await).await.expect("the room starts");
    for (from, to) in [(0, 8), (8, 18), (18, 20)] {
        rig.append(&log.entries[from..to]).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let tracks = room.get_cell().get_children();
        assert_eq!(tracks.len(), 1);
        tracks[0].kill_and_wait(None).await.expect("killed");
    }
    rig.append(&log.entries[20..]).await;
    rig.until_finished().await;
    rig.assert_recorded(30).await;
}

#[tokio::test(start_paused = true)]
async fn a_track_that_fails_again_and_again_is_begun_anew_with_its_room() {
    let rig = Rig::new();
    let arguments = rig.arguments().await;
    let (room, ended) = RoomActor::spawn(None, RoomActor, arguments).await.expect("the room starts");
    rig.append(&talk().entries[..8]).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        room.get_cell().get_children()[0].kill_and_wait(None).await.expect("killed");
    }
    tokio::time::timeout(Duration::from_secs(1), ended).await.expect("the room fails").expect("it ends");
}

#[tokio::test(start_paused = true)]
async fn a_node_leaves_although_the_log_goes_on() {
    let rig = Rig::new();
    // Each commit takes a moment, in which more comes.
    for _ in 0..100 {
        rig.faults.push(Operation::Create, Fault::LoseAnswer);
    }
    rig.assign("a").await;
    let node = rig.start("a", |_| {}).await;
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..300, 100);
    rig.append(&log.entries[..5]).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let flows = async {
        for entries in log.entries[5..].chunks(1) {
            rig.append(entries).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = flows => panic!("the node is still there when the log has ended"),
        () = node.drain() => {}
    }
    assert_eq!(rig.windows().await.len(), 1, "what was open is committed, and no more");
}

#[tokio::test(start_paused = true)]
async fn windows_wait_for_the_commit_before_them() {
    let rig = Rig::new();
    rig.faults.push(Operation::Create, Fault::Hang);
    rig.assign("a").await;
    let _node = rig.start("a", |_| {}).await;
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..5, 100);
    // It ends one window and, with the next, the recording.
    log.sfu(closed(), 1600);
    rig.append(&log.entries).await;
    rig.until_finished().await;
    assert_eq!((rig.windows().await.len(), rig.faults.remaining()), (2, 0));
    rig.assert_recorded(5).await;
}

/// Counts what is read.
struct CountedLog(MemoryLog, Arc<AtomicU64>);

#[async_trait::async_trait]
impl RoomLog for CountedLog {
    async fn append(&self, entry: NewEntry) -> Result<Appended, LogError> {
        self.0.append(entry).await
    }

    async fn read(
        &self,
        shard: Shard,
        filter: &Filter,
        from_sequence: u64,
    ) -> Result<BoxStream<'static, Result<LogEntry, LogError>>, LogError> {
        let count = self.1.clone();
        let entries = self.0.read(shard, filter, from_sequence).await?;
        Ok(entries.inspect(move |_| _ = count.fetch_add(1, Ordering::SeqCst)).boxed())
    }

    async fn last_sequence(&self, shard: Shard) -> Result<u64, LogError> {
        self.0.last_sequence(shard).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_folded_yet_stays_in_the_log() {
    let rig = Rig::new();
    rig.faults.push(Operation::Create, Fault::Hang);
    let read = Arc::new(AtomicU64::new(0));
    let ports = Ports { log: Arc::new(CountedLog(rig.log.clone(), read.clone())), ..rig.ports() };
    let mut log = Log::with_camera();
    log.batches("cam", 7, 0..2_000, 100);
    log.sfu(closed(), 200_100);
    rig.append(&log.entries).await;
    rig.assign("a").await;
    let _node = IngestNode::start(ports, IngestConfig::new(node_id("a"))).await.expect("the node starts");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let ahead = read.load(Ordering::SeqCst);
    assert!((20..256).contains(&ahead), "{ahead} entries are in memory while the first window is being committed");
    rig.until_finished().await;
    rig.assert_recorded(2_000).await;
}

#[tokio::test(start_paused = true)]
async fn a_recording_moves_while_it_runs() {
    let rig = Rig::new();
    let log = talk();
    let first_epoch = rig.assign("a").await;
    let (_first, _second) = (rig.start("a", |_| {}).await, rig.start("b", |_| {}).await);
    rig.append(&log.entries[..15]).await;
    rig.until_windows(1).await;
    let second_epoch = rig.assign("b").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    rig.append(&log.entries[15..]).await;
    let progress = rig.until_finished().await;
    assert_eq!(progress.node, node_id("b"));
    rig.assert_recorded(30).await;
    let epochs: BTreeSet<u64> = rig.windows().await.iter().map(|window| window.header.epoch).collect();
    assert_eq!(epochs, [first_epoch, second_epoch].into());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_built_on_a_damaged_window() {
    let rig = Rig::new();
    let log = talk();
    let epoch = rig.assign("a").await;
    let whole = first_window(&log.entries, epoch - 1);
    let key = keys().window(0);
    rig.store.put(&key, whole.slice(..whole.len() / 2)).await.expect("put");
    rig.append(&log.entries).await;
    let node = rig.start("a", |_| {}).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.store.list(&keys().windows_prefix()).await.expect("listed").len(), 1);
    // An operator puts back what stood there.
    rig.store.put(&key, whole).await.expect("put");
    rig.until_finished().await;
    assert_eq!(rig.windows().await.len(), 4);
    node.drain().await;
}
