//! A node on ports in memory: from windows in the bucket to files beside them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use roomreel_backends::memory::faults::{Fault, Operation, Script};
use roomreel_backends::memory::{MemoryCoordination, MemoryLog, MemoryStore};
use roomreel_compositor::node::{CompositorConfig, CompositorHandle, CompositorNode};
use roomreel_shared::batch::Incarnation;
use roomreel_shared::cluster::{
    FoldSpec, Node, RenderJob, RenderProgress, Role, node_key, render_key, render_progress_key,
};
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::event::{EventKind, RoomEvent, StopReason};
use roomreel_shared::id::{NodeId, PeerId, RecordingId, RoomId, SfuId, TenantId};
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::late::{Cuts, Division, LateJob, Piece};
use roomreel_shared::policy::Policy;
use roomreel_shared::ports::{Change, Ports};
use roomreel_shared::subject::Writer;
use roomreel_shared::time::{LogTime, RoomTime};
use roomreel_shared::window::{self, Final, Hash, Header};

use crate::support::{decode_cleanly, packets, spec};

const WINDOW_MS: u64 = 1000;
/// The two clocks have nothing to do with each other.
const ROOM_START_US: i64 = 1_795_000_000_000_000;
const LOG_START_US: i64 = 1_700_000_000_000_000;

struct World {
    ports: Ports,
    store: MemoryStore,
    script: Script,
    fold: FoldSpec,
    keys: RecordingKeys,
    composite: CompositeSpec,
}

impl World {
    fn new() -> Self {
        let script = Script::new();
        let store = MemoryStore::new().with_history().with_faults(Arc::new(script.clone()));
        let log = MemoryLog::system();
        let ports = Ports {
            log: Arc::new(log.clone()),
            bus: Arc::new(log),
            store: Arc::new(store.clone()),
            coordination: Arc::new(MemoryCoordination::new().with_faults(Arc::new(script.clone()))),
        };
        let fold = FoldSpec {
            tenant: TenantId::new("acme").expect("valid"),
            room: RoomId::new("standup").expect("valid"),
            recording: RecordingId::new("01abc").expect("valid"),
            shards: 1,
            from: None,
            session: None,
            beginning: None,
            start_sequence: 1,
            window_ms: WINDOW_MS,
            policy: Policy::default(),
            epoch_base: 0,
        };
        let keys = RecordingKeys::new(&fold.tenant, &fold.room, &fold.recording);
        Self { ports, store, script, fold, keys, composite: spec() }
    }

    /// Commits window `k`; the last one ends the recording after `end_ms`.
    async fn commit(&self, k: u64, end_ms: Option<u64>) {
        let log = |ms: u64| LogTime::from_micros(LOG_START_US + ms as i64 * 1000);
        let room = |ms: u64| RoomTime::from_micros(ROOM_START_US + ms as i64 * 1000);
        let until = (k + 1) * WINDOW_MS;
        let header = Header {
            tenant: self.fold.tenant.clone(),
            room: self.fold.room.clone(),
            recording: self.fold.recording.clone(),
            window: k,
            epoch: 1,
            nonce: 1,
            previous: (k > 0).then(|| Hash::of(b"the window before")),
            log_span: (log(k * WINDOW_MS), log(until)),
            room_start: room(0),
            room_seen: room(end_ms.unwrap_or(until)),
            window_duration_us: WINDOW_MS * 1000,
            gaps: Vec::new(),
            carry_over: Default::default(),
            end: end_ms.map(|ms| Final { reason: StopReason::RoomClosed, room_end: room(ms) }),
            trace_parent: None,
        };
        let joined = RoomEvent {
            room: self.fold.room.clone(),
            incarnation: Incarnation::new(7).expect("not 0"),
            event_no: k,
            time: room(k * WINDOW_MS + 100),
            kind: EventKind::PeerJoined {
                peer: PeerId::new(format!("peer-{k}")).expect("valid"),
                display_name: format!("Peer {k}"),
                is_host: k == 0,
                is_co_host: false,
                is_panelist: false,
            },
        };
        let sfu = Writer::Sfu(SfuId::new("sfu").expect("valid"));
        let object = window::encode(&header, &[], &[(sfu, log(k * WINDOW_MS + 100), joined.encode())]);
        self.ports.store.create(&self.keys.window(k), object).await.expect("a new window");
    }

    async fn assign(&self, node: &str) {
        let job = RenderJob {
            node: Some(NodeId::new(node).expect("valid")),
            spec: self.fold.clone(),
            composite: Some(self.composite.clone()),
            documents: true,
            failures: 0,
            late: None,
        };
        let key = render_key(&self.fold.recording, Some(&self.composite.id));
        let put = Change::Put(key, Bytes::from(serde_json::to_vec(&job).expect("JSON")), None);
        self.ports.coordination.transact(Vec::new(), vec![put]).await.expect("the job");
    }

    async fn node(&self, name: &str) -> CompositorHandle {
        let config = CompositorConfig::new(NodeId::new(name).expect("valid"));
        CompositorNode::start(self.ports.clone(), config).await.expect("a node")
    }

    async fn progress(&self) -> Option<RenderProgress> {
        let key = render_progress_key(&self.fold.recording, Some(&self.composite.id));
        let record = self.ports.coordination.get(&key).await.expect("memory")?;
        Some(serde_json::from_slice(&record.value).expect("progress"))
    }

    async fn until(&self, what: &str, condition: impl Fn(&RenderProgress) -> bool) -> RenderProgress {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(15);
        loop {
            let progress = self.progress().await;
            match progress {
                Some(progress) if condition(&progress) => return progress,
                other => assert!(tokio::time::Instant::now() < deadline, "{what}: {other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Looks at everything a finished recording of `length_ms` is to have.
    async fn is_whole(&self, length_ms: u64) {
        let id = &self.composite.id;
        let frames = (length_ms * 30).div_ceil(1000) as usize;
        let playlist = self.ports.store.get(&self.keys.playlist(id)).await.expect("a playlist");
        let playlist = String::from_utf8(playlist.to_vec()).expect("text");
        let slices = length_ms.div_ceil(WINDOW_MS) as usize;
        assert_eq!(playlist.matches("#EXTINF").count(), slices, "{playlist}");
        assert!(playlist.ends_with("#EXT-X-ENDLIST\n"), "{playlist}");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("composite.mp4");
        std::fs::write(&file, self.ports.store.get(&self.keys.composite_mp4(id)).await.expect("the file"))
            .expect("written");
        decode_cleanly(&file);
        assert_eq!(packets(&file, "v").len(), frames, "I5");
        assert!(packets(&file, "a").windows(2).all(|pair| pair[1].0 - pair[0].0 == 1024), "I5");
        let mut stream = self.ports.store.get(&self.keys.init(id)).await.expect("a header").to_vec();
        for number in 0..slices as u64 {
            stream.extend_from_slice(&self.ports.store.get(&self.keys.slice(id, number)).await.expect("a slice"));
        }
        let streamed = folder.path().join("stream.mp4");
        std::fs::write(&streamed, stream).expect("written");
        decode_cleanly(&streamed);
        assert_eq!((packets(&streamed, "v"), packets(&streamed, "a")), (packets(&file, "v"), packets(&file, "a")));
        for key in [self.keys.metadata_json(), self.keys.timeline_json(), self.keys.quality_json()] {
            let text = self.ports.store.get(&key).await.expect("a document");
            serde_json::from_slice::<serde_json::Value>(&text).expect("JSON");
        }
        assert_eq!(self.store.open_uploads(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slices_land_while_the_room_talks_and_the_file_when_it_ends() {
    let world = World::new();
    world.assign("a").await;
    let node = world.node("a").await;
    world.commit(0, None).await;
    world.commit(1, None).await;
    let live = world.until("a slice before the end", |progress| progress.slices == 1).await;
    assert!(!live.finished);
    world.commit(2, Some(2_500)).await;
    let done = world.until("the end", |progress| progress.finished).await;
    assert_eq!((done.slices, done.error), (3, None));
    let files = [
        "composites/grid/composite.mp4",
        "composites/grid/live.m3u8",
        "metadata.json",
        "quality.json",
        "timeline.json",
    ];
    assert_eq!(done.files, files);
    world.is_whole(2_500).await;
    // Everything is there, but nobody was told: killed one instruction before the end.
    world.assign("b").await;
    let other = world.node("b").await;
    world.until("the end again", |progress| progress.finished && progress.node.as_str() == "b").await;
    world.is_whole(2_500).await;
    other.drain().await;
    node.drain().await;
    let key = node_key(Role::Compositor, &NodeId::new("a").expect("valid"));
    assert_eq!(world.ports.coordination.get(&key).await.expect("memory"), None, "it has left");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_goes_on_behind_the_last_slice() {
    let world = World::new();
    world.assign("a").await;
    let first = world.node("a").await;
    for k in 0..3 {
        world.commit(k, None).await;
    }
    world.until("slices of the first node", |progress| progress.slices >= 2).await;
    first.shutdown_now().await;
    world.assign("b").await;
    let second = world.node("b").await;
    world.commit(3, None).await;
    world.commit(4, Some(5_000)).await;
    let done = world.until("the end", |progress| progress.finished).await;
    assert_eq!((done.node.as_str(), done.slices), ("b", 5));
    world.is_whole(5_000).await;
    let created =
        |key: &str| world.store.history().iter().filter(|mutation| mutation.key.as_str().ends_with(key)).count();
    assert_eq!((0..5).map(|n| created(&format!("{n:08}.m4s"))).collect::<Vec<_>>(), [1; 5], "I5: a slice exists once");
    second.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_and_outages_cost_only_time() {
    let world = World::new();
    world.commit(0, Some(1_200)).await;
    for (operation, fault) in [
        (Operation::Create, Fault::LoseAnswer),
        (Operation::Create, Fault::LoseAnswer),
        (Operation::Create, Fault::Conflict),
        (Operation::Put, Fault::FailBefore),
        (Operation::Transact, Fault::LoseAnswer),
        (Operation::Create, Fault::LoseAnswer),
    ] {
        world.script.push(operation, fault);
    }
    world.assign("a").await;
    let node = world.node("a").await;
    world.until("the end", |progress| progress.finished).await;
    assert_eq!(world.script.remaining(), 0);
    world.is_whole(1_200).await;
    node.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_rendered_is_said_and_left_to_the_coordinator() {
    let world = World::new();
    world.ports.store.create(&world.keys.window(0), Bytes::from_static(b"not a window")).await.expect("stored");
    world.assign("a").await;
    let node = world.node("a").await;
    let failed = world.until("the failure", |progress| progress.error.is_some()).await;
    assert!(failed.error.expect("set").starts_with("window 0: "));
    assert!(!failed.finished);
    let record = world.ports.coordination.get(&node_key(Role::Compositor, &NodeId::new("a").expect("valid"))).await;
    let record: Node = serde_json::from_slice(&record.expect("memory").expect("it lives on").value).expect("a node");
    assert_eq!(record.role, Role::Compositor);
    node.drain().await;
}

/// A share of a late render of the whole recording, in spans of two slices.
fn share(world: &World, node: &str, length_ms: u64, piece: Piece) -> RenderJob {
    let length = Duration::from_millis(length_ms);
    let division = Division { span: 2, ..Division::of(length, Duration::from_millis(WINDOW_MS)) };
    RenderJob {
        node: Some(NodeId::new(node).expect("valid")),
        spec: world.fold.clone(),
        composite: Some(world.composite.clone()),
        documents: false,
        failures: 0,
        late: Some(LateJob {
            from_us: 0,
            to_us: length_ms * 1000,
            cuts: Cuts::default(),
            hidden: None,
            division,
            piece,
        }),
    }
}

async fn give(world: &World, job: &RenderJob) {
    let put = Change::Put(job.key(), Bytes::from(serde_json::to_vec(job).expect("JSON")), None);
    world.ports.coordination.transact(Vec::new(), vec![put]).await.expect("the job");
}

async fn done(world: &World, job: &RenderJob) -> RenderProgress {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let record = world.ports.coordination.get(&job.progress_key()).await.expect("memory");
        let progress = record.map(|record| serde_json::from_slice::<RenderProgress>(&record.value).expect("progress"));
        if let Some(progress) = progress.filter(|progress| progress.finished || progress.error.is_some()) {
            return progress;
        }
        assert!(tokio::time::Instant::now() < deadline, "{}", job.key());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_render_is_made_by_two_nodes_and_joined_by_one() {
    let world = World::new();
    for k in 0..5 {
        world.commit(k, None).await;
    }
    world.commit(5, Some(5_500)).await;
    let (first, second) = (world.node("a").await, world.node("b").await);
    // Before there is anything to join.
    let join = share(&world, "b", 5_500, Piece::Join);
    give(&world, &join).await;
    let failed = done(&world, &join).await.error.expect("an error");
    assert_eq!(failed, "0 of 6 slices are there");
    let jobs =
        [("a", 0, 1), ("b", 1, 3)].map(|(node, first, end)| share(&world, node, 5_500, Piece::Spans { first, end }));
    for job in &jobs {
        give(&world, job).await;
    }
    assert_eq!(done(&world, &jobs[0]).await.slices, 2);
    assert_eq!(done(&world, &jobs[1]).await.slices, 4);
    assert!(
        world.ports.store.get(&world.keys.playlist(&world.composite.id)).await.is_err(),
        "nothing half done is seen"
    );
    give(&world, &RenderJob { node: Some(NodeId::new("a").expect("valid")), failures: 1, ..join.clone() }).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !done(&world, &join).await.finished {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let files = done(&world, &join).await.files;
    assert_eq!(files, ["composites/grid/composite.mp4", "composites/grid/live.m3u8"]);
    for key in [world.keys.metadata_json(), world.keys.timeline_json(), world.keys.quality_json()] {
        assert!(world.ports.store.get(&key).await.is_err(), "the recording's own documents are not touched");
        world.ports.store.create(&key, Bytes::from_static(b"{}")).await.expect("memory");
    }
    world.is_whole(5_500).await;
    first.drain().await;
    second.drain().await;
}
