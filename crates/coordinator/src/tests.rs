//! Whole replicas on in-memory backends, with the clock paused.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use roomreel_backends::memory::faults::{Fault, Faults, Operation, Script};
use roomreel_backends::memory::{MemoryCoordination, MemoryLog, MemoryStore};
use roomreel_shared::cluster::{
    self, ActiveRecording, Assignment, FoldSpec, Node, Progress, RenderJob, RenderProgress, Role,
};
use roomreel_shared::event::{EventKind, RoomEvent, StopReason};
use roomreel_shared::id::RecordingId;
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::late::Piece;
use roomreel_shared::policy::Policy;
use roomreel_shared::ports::{
    Bus as _, Change, Compare, Coordination as _, ObjectStore as _, Outcome as Written, Ports, RoomLog as _,
};
use roomreel_shared::recording::{Recording, State};
use roomreel_shared::subject::{self, Shard};
use roomreel_shared::time::RoomTime;
use roomreel_shared::window::{self, Final, Header};
use roomreel_shared::wire;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::election::{Tenure, campaign};
use crate::leader::Reign;
use crate::metrics::Metrics;
use crate::observed::{Observed, json};
use crate::perform::{Effect, Performer, index_key, to_json};
use crate::plan::Action;
use crate::rebuild::{self, Restored};
use crate::request::{self, Refusal, Request, Wish};
use crate::testing::{auto, id, new_entry, producer_created, room_closed, room_created};
use crate::{Coordinator, CoordinatorConfig, CoordinatorHandle};

const SHARDS: u32 = 2;

/// The outside of a cluster, and stand-ins for its ingest and compositor nodes.
pub struct World {
    pub log: MemoryLog,
    pub store: MemoryStore,
    pub coordination: MemoryCoordination,
    event_no: u64,
}

impl World {
    pub async fn new() -> Self {
        let world = Self {
            log: MemoryLog::system(),
            store: MemoryStore::new(),
            coordination: MemoryCoordination::new(),
            event_no: 0,
        };
        world.register_nodes().await;
        world
    }

    async fn register_nodes(&self) {
        for (role, name) in [(Role::Ingest, "i0"), (Role::Ingest, "i1"), (Role::Compositor, "c0")] {
            let node = Node { id: id(name), role, capacity: 4000, load: 0, draining: false, version: String::new() };
            self.put(cluster::node_key(role, &node.id), &node).await;
        }
    }

    /// Everything in the coordination store is lost, and its revisions begin anew; the nodes come back.
    async fn lose_coordination(&mut self) {
        self.coordination = MemoryCoordination::new();
        self.register_nodes().await;
    }

    /// Puts window 0 into the bucket, written under `epoch`.
    async fn window(&self, recording: &Recording, epoch: u64) {
        let keys = RecordingKeys::new(&recording.tenant, &recording.room, &recording.id);
        let header = Header {
            tenant: recording.tenant.clone(),
            room: recording.room.clone(),
            recording: recording.id.clone(),
            window: 0,
            epoch,
            nonce: 1,
            previous: None,
            log_span: Default::default(),
            room_start: Default::default(),
            room_seen: Default::default(),
            window_duration_us: 4_000_000,
            gaps: Vec::new(),
            carry_over: wire::CarryOver { log_sequence: 5, ..Default::default() },
            end: None,
            trace_parent: None,
        };
        self.store.create(&keys.window(0), window::encode(&header, &[], &[])).await.expect("the store is up");
    }

    async fn assignment(&self, recording: &RecordingId) -> Option<(Assignment, u64)> {
        let record = self.coordination.get(&cluster::assignment_key(recording)).await.expect("up")?;
        Some((json(&record).expect("well formed"), record.mod_revision))
    }

    pub fn ports(&self) -> Ports {
        Ports {
            log: Arc::new(self.log.clone()),
            bus: Arc::new(self.log.clone()),
            store: Arc::new(self.store.clone()),
            coordination: Arc::new(self.coordination.clone()),
        }
    }

    pub async fn coordinator(&self, name: &str) -> CoordinatorHandle {
        let config = CoordinatorConfig::new(id(name), SHARDS);
        Coordinator::start(self.ports(), config).await.expect("good settings")
    }

    pub async fn put(&self, key: String, value: &impl serde::Serialize) {
        let put = Change::Put(key, to_json(value), None);
        self.coordination.transact(Vec::new(), vec![put]).await.expect("the store is up");
    }

    pub async fn event(&mut self, room: &str, kind: EventKind) {
        self.event_no += 1;
        self.log.append(new_entry(room, SHARDS, self.event_no, kind)).await.expect("the log is up");
    }

    pub async fn open(&mut self, room: &str, policy: Policy) {
        self.event(room, room_created(Some(policy))).await;
        self.event(room, producer_created()).await;
    }

    pub async fn recordings(&self) -> Vec<ActiveRecording> {
        let observed = Observed::read(&self.coordination).await.expect("the store is up");
        assert!(observed.unreadable.is_empty(), "{:?}", observed.unreadable);
        observed.alive.recordings.into_values().collect()
    }

    pub async fn the_recording(&self) -> Recording {
        until("a recording is active", async || {
            let recordings = self.recordings().await;
            assert!(recordings.len() <= 1, "{recordings:?}");
            recordings.into_iter().next().map(|active| active.recording)
        })
        .await
    }

    pub async fn in_state(&self, state: State) -> Recording {
        until("the recording reaches the state", async || {
            self.recordings().await.pop().map(|active| active.recording).filter(|recording| recording.state == state)
        })
        .await
    }

    /// A world with an open room that the coordinator `a` records by policy.
    async fn recording() -> (Self, CoordinatorHandle, Recording) {
        let mut world = Self::new().await;
        world.open("standup", auto()).await;
        let coordinator = world.coordinator("a").await;
        let recording = world.the_recording().await;
        (world, coordinator, recording)
    }

    /// Puts a last window into the bucket, and nothing else.
    pub async fn last_window(&self, recording: &Recording, length_us: i64) {
        let keys = RecordingKeys::new(&recording.tenant, &recording.room, &recording.id);
        let start = RoomTime::from_micros(1_700_000_000_000_000);
        let header = Header {
            tenant: recording.tenant.clone(),
            room: recording.room.clone(),
            recording: recording.id.clone(),
            window: 0,
            epoch: 1,
            nonce: 1,
            previous: None,
            log_span: Default::default(),
            room_start: start,
            room_seen: start.offset_micros(length_us),
            window_duration_us: 4_000_000,
            gaps: Vec::new(),
            carry_over: wire::CarryOver::default(),
            end: Some(Final { reason: StopReason::RoomClosed, room_end: start.offset_micros(length_us) }),
            trace_parent: None,
        };
        self.store.create(&keys.window(0), window::encode(&header, &[], &[])).await.expect("the store is up");
    }

    /// Compositors finish every job of late renders, or fail.
    pub async fn report_late(&self, error: Option<&str>) {
        let listed = self.coordination.list(&cluster::renders_prefix()).await.expect("the store is up");
        for job in listed.records.iter().map(|record| json::<RenderJob>(record).expect("well formed")) {
            let (Some(node), Some(late)) = (job.node.clone(), &job.late) else { continue };
            let files = match late.piece {
                Piece::Join => vec!["composites/pitch/composite.mp4".to_owned()],
                Piece::Spans { .. } => Vec::new(),
            };
            let (finished, error) = (error.is_none(), error.map(str::to_owned));
            let progress = RenderProgress { node, slices: late.division.slices, finished, error, files };
            self.put(job.progress_key(), &progress).await;
        }
    }

    /// The coordination store has lost all that it knew of late renders.
    pub async fn forget_late(&self) {
        for prefix in [cluster::late_renders_prefix(), cluster::renders_prefix(), cluster::render_progress_prefix()] {
            let listed = self.coordination.list(&prefix).await.expect("the store is up");
            let gone = listed.records.into_iter().map(|record| Change::Delete(record.key)).collect();
            self.coordination.transact(Vec::new(), gone).await.expect("the store is up");
        }
    }

    /// The room closes, and ingest and compositors finish.
    pub async fn complete(&mut self, recording: &RecordingId) -> Recording {
        self.event("standup", room_closed()).await;
        self.fold(9, true).await;
        self.render().await;
        self.finished(recording).await
    }

    /// Ingest reports on every assignment.
    pub async fn fold(&self, windows: u64, finished: bool) {
        let assignments = until("the fold is assigned", async || {
            let list = self.coordination.list(&cluster::assignments_prefix()).await.expect("the store is up");
            Some(list.records).filter(|records| !records.is_empty())
        })
        .await;
        for record in assignments {
            let assignment: Assignment = json(&record).expect("well formed");
            let progress = Progress {
                node: assignment.node,
                windows,
                finished,
                log_time_us: 1,
                sfu_log_time_us: 1,
                paused: false,
                bytes_per_second: 0,
                incomplete: false,
                duration_us: windows * 4_000_000,
            };
            self.put(cluster::progress_key(&assignment.spec.recording), &progress).await;
        }
    }

    /// Compositors finish every job.
    pub async fn render(&self) {
        let jobs = until("the render is assigned", async || {
            let list = self.coordination.list(&cluster::renders_prefix()).await.expect("the store is up");
            let jobs = list.records.iter().map(|record| json::<RenderJob>(record).expect("well formed"));
            Some(jobs.collect::<Vec<_>>()).filter(|jobs| !jobs.is_empty() && jobs.iter().all(|job| job.node.is_some()))
        })
        .await;
        for job in jobs {
            let composite = job.composite.map(|composite| composite.id);
            let progress = RenderProgress {
                node: job.node.expect("checked"),
                slices: 3,
                finished: true,
                error: None,
                files: vec!["composites/grid/composite.mp4".to_owned()],
            };
            self.put(cluster::render_progress_key(&job.spec.recording, composite.as_ref()), &progress).await;
        }
    }

    pub async fn finished(&self, recording: &RecordingId) -> Recording {
        let found = until("the recording is final", async || {
            let active = self.coordination.get(&cluster::recording_key(recording)).await.expect("the store is up");
            if active.is_some() {
                return None;
            }
            self.store.get(&index_key(&id("acme"), recording)).await.ok()
        })
        .await;
        serde_json::from_slice(&found).expect("a recording")
    }

    /// Control entries in the room's log.
    pub fn control(&self, room: &str) -> Vec<RoomEvent> {
        let shard = Shard::of(&id("acme"), &id(room), SHARDS);
        let entries = self.log.entries(shard).into_iter().filter(|entry| entry.subject.contains("=control"));
        entries.map(|entry| RoomEvent::decode(entry.payload).expect("ours")).collect()
    }
}

/// Looks until `look` finds something. The clock is paused, so this takes no time.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    while Instant::now() < deadline {
        if let Some(found) = look().await {
            return found;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("not within two minutes: {what}");
}

async fn leads(handle: &CoordinatorHandle) {
    until("the replica leads", async || handle.is_leader().then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn a_room_is_recorded_from_its_creation_to_its_end() {
    let mut world = World::new().await;
    world.open("standup", auto()).await;
    let back = subject::back_channel_filter(&id("acme"), &id("sfu"));
    let mut back = world.log.subscribe(&back).await.expect("the bus is up");
    let coordinator = world.coordinator("a").await;
    let recording = world.the_recording().await;
    let active = world.recordings().await.remove(0);
    assert_eq!(active.spec.from.expect("retroactive").event_no, 1);
    let created = world.log.entries(Shard::of(&id("acme"), &id("standup"), SHARDS)).remove(0);
    assert_eq!(active.spec.start_sequence, created.sequence);
    world.fold(1, false).await;
    world.in_state(State::Active).await;
    let message = futures::StreamExt::next(&mut back).await.expect("the SFU is told");
    let message: wire::BackChannel = prost::Message::decode(message.payload).expect("ours");
    assert!(matches!(message.message, Some(wire::back_channel::Message::RecordingState(state)) if state.active));
    let keys = RecordingKeys::new(&recording.tenant, &recording.room, &recording.id);
    let document = until("the bucket says so", async || {
        let body = world.store.get(&keys.unfinished_json()).await.ok()?;
        let document: Recording = serde_json::from_slice(&body).ok()?;
        (document.state == State::Active).then_some(document)
    });
    assert_eq!(document.await.id, recording.id);
    assert!(world.store.get(&keys.policy_json()).await.is_ok());
    // Ticks keep the log's time going.
    until("ticks", async || {
        let ticks = world.control("standup").into_iter().filter(|event| event.kind == EventKind::Tick).count();
        (ticks >= 3).then_some(())
    })
    .await;
    world.event("standup", room_closed()).await;
    world.in_state(State::Ending).await;
    world.fold(2, true).await;
    world.render().await;
    let finished = world.finished(&recording.id).await;
    assert_eq!((finished.state, finished.stop_reason), (State::Complete, Some(StopReason::RoomClosed)));
    assert_eq!((finished.windows, finished.duration_ms), (Some(2), Some(8000)));
    assert!(finished.files.contains(&"composites/grid/composite.mp4".to_owned()));
    let document = world.store.get(&keys.recording_json()).await.expect("there");
    assert_eq!(document, world.store.get(&index_key(&recording.tenant, &recording.id)).await.expect("there"));
    let observed = Observed::read(&world.coordination).await.expect("the store is up");
    assert_eq!(observed.revisions.len(), 3, "only the nodes are left: {:?}", observed.revisions);
    // The entries are numbered without a hole, and the start comes first.
    let control = world.control("standup");
    assert!(matches!(&control[0].kind, EventKind::RecordingStarted { from: Some(_), .. }));
    let numbers: BTreeSet<_> = control.iter().map(|event| event.event_no).collect();
    assert_eq!(numbers, (0..numbers.len() as u64).collect());
    coordinator.drain().await;
}

#[tokio::test(start_paused = true)]
async fn two_replicas_have_one_leader_and_a_killed_one_is_replaced() {
    let mut world = World::new().await;
    world.open("standup", auto()).await;
    let first = world.coordinator("a").await;
    leads(&first).await;
    let second = world.coordinator("b").await;
    let recording = world.the_recording().await;
    world.fold(1, false).await;
    world.in_state(State::Active).await;
    sleep(Duration::from_secs(30)).await;
    assert!(first.is_leader() && !second.is_leader());
    first.kill();
    let killed = Instant::now();
    leads(&second).await;
    assert!(killed.elapsed() <= Duration::from_secs(6), "{:?}", killed.elapsed());
    sleep(Duration::from_secs(30)).await;
    assert_eq!(world.the_recording().await.id, recording.id);
    let starts = world.control("standup").into_iter().filter_map(|event| match event.kind {
        EventKind::RecordingStarted { command, .. } => Some(command),
        _ => None,
    });
    assert_eq!(starts.collect::<BTreeSet<_>>().len(), 1, "nothing is started twice");
    // The new leader numbers its entries anew, and ends what the old one began.
    let incarnations: BTreeSet<_> = world.control("standup").iter().map(|event| event.incarnation.get()).collect();
    assert_eq!(incarnations.len(), 2);
    assert_eq!(world.complete(&recording.id).await.state, State::Complete);
    second.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_leaves_hands_over_at_once() {
    let world = World::new().await;
    let first = world.coordinator("a").await;
    leads(&first).await;
    let second = world.coordinator("b").await;
    sleep(Duration::from_secs(5)).await;
    let left = Instant::now();
    first.drain().await;
    leads(&second).await;
    assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
    second.drain().await;
    assert_eq!(world.coordination.get(&cluster::leader_key()).await.expect("the store is up"), None);
}

#[tokio::test(start_paused = true)]
async fn a_recording_that_had_ended_is_not_started_again_by_the_next_leader() {
    let (world, first, recording) = World::recording().await;
    world.fold(1, true).await;
    world.render().await;
    world.finished(&recording.id).await;
    first.kill();
    let second = world.coordinator("b").await;
    leads(&second).await;
    sleep(Duration::from_secs(30)).await;
    assert!(world.recordings().await.is_empty());
    second.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_deposed_leader_is_refused_by_the_store() {
    let mut world = World::new().await;
    let first = world.coordinator("a").await;
    leads(&first).await;
    // The key passes to somebody else while the leader believes that its lease holds.
    let mine = world.coordination.get(&cluster::leader_key()).await.expect("up").expect("there");
    let delete = Change::Delete(mine.key.clone());
    let put = Change::Put(mine.key, Bytes::from_static(b"usurper"), None);
    for change in [delete, put] {
        assert!(matches!(world.coordination.transact(Vec::new(), vec![change]).await, Ok(Written::Committed(_))));
    }
    world.open("standup", auto()).await;
    sleep(Duration::from_secs(20)).await;
    assert!(world.recordings().await.is_empty(), "nothing of it was written");
    assert!(!first.is_leader());
    assert!(world.control("standup").is_empty(), "nor did anything reach the log");
    first.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_replica_whose_lease_is_gone_leads_again_under_another_fence() {
    let world = World::new().await;
    let first = world.coordinator("a").await;
    leads(&first).await;
    let fence =
        async || Some(world.coordination.get(&cluster::leader_key()).await.expect("the store is up")?.create_revision);
    let before = fence().await.expect("it leads");
    world.coordination.expire_leases();
    until("it leads again", async || fence().await.filter(|fence| *fence > before)).await;
    first.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_cut_off_from_the_store_stops_before_another_one_begins() {
    let mut world = World::new().await;
    let cut = Arc::new(AtomicBool::new(false));
    let is_cut = cut.clone();
    let faults = move |_: Operation, _: &str| is_cut.load(Ordering::SeqCst).then_some(Fault::Hang);
    let reachable = world.coordination.clone();
    world.coordination = world.coordination.with_faults(Arc::new(faults));
    let first = world.coordinator("a").await;
    leads(&first).await;
    world.coordination = reachable;
    let second = world.coordinator("b").await;
    sleep(Duration::from_secs(5)).await;
    cut.store(true, Ordering::SeqCst);
    until("the second one leads", async || {
        assert!(!(first.is_leader() && second.is_leader()), "two leaders");
        second.is_leader().then_some(())
    })
    .await;
    world.open("standup", auto()).await;
    world.the_recording().await;
    cut.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(30)).await;
    assert!(second.is_leader() && !first.is_leader());
    first.drain().await;
    second.drain().await;
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_lost_start_and_end_nothing_twice() {
    let mut world = World::new().await;
    let calls = AtomicU64::new(0);
    let faults = move |operation: Operation, _: &str| {
        let writes = matches!(operation, Operation::Transact | Operation::Create | Operation::Put | Operation::Append);
        let third = writes && calls.fetch_add(1, Ordering::SeqCst) % 3 == 2;
        third.then_some(Fault::LoseAnswer)
    };
    let faults: Arc<dyn Faults> = Arc::new(faults);
    let plain = (world.coordination.clone(), world.store.clone());
    world.coordination = world.coordination.with_faults(faults.clone());
    world.store = world.store.with_faults(faults);
    let coordinator = world.coordinator("a").await;
    (world.coordination, world.store) = plain;
    world.open("standup", auto()).await;
    let recording = world.the_recording().await;
    world.fold(2, false).await;
    world.in_state(State::Active).await;
    let finished = world.complete(&recording.id).await;
    assert_eq!(finished.state, State::Complete);
    let keys = RecordingKeys::new(&recording.tenant, &recording.room, &recording.id);
    let document = world.store.get(&keys.recording_json()).await.expect("there");
    assert_eq!(serde_json::from_slice::<Recording>(&document).expect("a recording"), finished);
    sleep(Duration::from_secs(60)).await;
    assert!(world.recordings().await.is_empty());
    coordinator.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_room_ends_idle() {
    let (world, coordinator, recording) = World::recording().await;
    world.fold(1, false).await;
    world.in_state(State::Active).await;
    let mut progress: Progress =
        json(&world.coordination.get(&cluster::progress_key(&recording.id)).await.expect("up").expect("there"))
            .expect("well formed");
    progress.log_time_us = progress.sfu_log_time_us + 60_000_000;
    world.put(cluster::progress_key(&recording.id), &progress).await;
    let ending = world.in_state(State::Ending).await;
    assert_eq!(ending.stop_reason, Some(StopReason::Idle));
    until("the log is told", async || {
        let control = world.control("standup");
        control.iter().any(|event| matches!(event.kind, EventKind::RecordingStopped { .. })).then_some(())
    })
    .await;
    world.fold(2, true).await;
    world.render().await;
    let finished = world.finished(&recording.id).await;
    assert_eq!((finished.state, finished.stop_reason), (State::Complete, Some(StopReason::Idle)));
    coordinator.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_fold_moves_when_its_nodes_lease_is_gone() {
    let (world, coordinator, recording) = World::recording().await;
    let assignment = async || {
        let record = world.coordination.get(&cluster::assignment_key(&recording.id)).await.expect("up")?;
        Some((json::<Assignment>(&record).expect("well formed").node, record.mod_revision))
    };
    let (node, epoch) = until("it is assigned", &assignment).await;
    let gone = Change::Delete(cluster::node_key(Role::Ingest, &node));
    let deleted = world.coordination.transact(vec![Compare::Unchanged("x".to_owned(), 1)], vec![gone.clone()]).await;
    assert!(matches!(deleted, Ok(Written::Conflict)));
    world.coordination.transact(Vec::new(), vec![gone]).await.expect("up");
    let lost = Instant::now();
    let moved = until("it moves", async || assignment().await.filter(|(now, _)| *now != node)).await;
    assert!(moved.1 > epoch, "the epoch rises");
    assert!(lost.elapsed() <= Duration::from_secs(3), "{:?}", lost.elapsed());
    coordinator.drain().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_given_out_of_a_recording_that_has_ended_meanwhile() {
    let (world, coordinator, recording) = World::recording().await;
    let key = cluster::assignment_key(&recording.id);
    let given = until("it is assigned", async || world.coordination.get(&key).await.expect("up")).await;
    let assignment: Assignment = json(&given).expect("well formed");
    coordinator.drain().await;
    let lease = world.coordination.grant_lease(Duration::from_secs(60)).await.expect("up");
    let fence = campaign(&world.coordination, &id("b"), lease).await.expect("up").expect("nobody leads");
    let origin = Instant::now();
    let (_tenure, tenure) = watch::channel(Tenure::granted(Duration::ZERO, Duration::from_secs(60)));
    let reign = Reign { fence, tenure, origin, over: CancellationToken::new() };
    let assign = Action::Assign { assignment, cause: None };
    // What was listed before the recording's end, and what was listed behind it.
    let mut observed = Observed::read(&world.coordination).await.expect("up");
    let gone = [cluster::recording_key(&recording.id), key.clone()].map(Change::Delete);
    world.coordination.transact(Vec::new(), gone.to_vec()).await.expect("up");
    observed.revisions.remove(&key);
    let performer = Performer {
        ports: world.ports(),
        reign,
        revisions: Arc::new(observed.revisions),
        shards: SHARDS,
        metrics: Metrics::new(),
    };
    assert_eq!(performer.perform(&assign).await.expect("it leads"), Effect::None);
    assert_eq!(world.coordination.get(&key).await.expect("up"), None);
    // There is a recording: it is assigned.
    world.put(cluster::recording_key(&recording.id), &recording).await;
    let revisions = Arc::new(Observed::read(&world.coordination).await.expect("up").revisions);
    let performer = Performer { revisions, ..performer };
    assert_eq!(performer.perform(&assign).await.expect("it leads"), Effect::Changed);
}

#[tokio::test(start_paused = true)]
async fn what_a_lost_store_held_is_rebuilt_from_the_bucket() {
    let (mut world, first, recording) = World::recording().await;
    world.fold(1, false).await;
    world.in_state(State::Active).await;
    world.window(&recording, 7000).await;
    let spec = world.recordings().await.remove(0).spec;
    let keys = RecordingKeys::new(&recording.tenant, &recording.room, &recording.id);
    until("the bucket says so", async || {
        let document: Recording =
            serde_json::from_slice(&world.store.get(&keys.unfinished_json()).await.ok()?).expect("a recording");
        (document.state == State::Active).then_some(())
    })
    .await;
    first.kill();
    world.lose_coordination().await;

    let found = rebuild::scan(&world.store, SHARDS).await.expect("the store is up");
    assert_eq!((found.recordings, found.unfinished.len(), found.unclear.len()), (1, 1, 0));
    let lost = &found.unfinished[0];
    assert_eq!((lost.epoch, lost.windows), (7000, 1));
    assert_eq!(rebuild::preview(&world.coordination, lost).await.expect("up"), Restored::Created);
    assert!(world.recordings().await.is_empty(), "nothing was written yet");
    assert_eq!(rebuild::apply(&world.coordination, lost).await.expect("up"), Restored::Created);
    assert_eq!(rebuild::apply(&world.coordination, lost).await.expect("up"), Restored::Kept);
    let restored = world.recordings().await.remove(0);
    assert_eq!(restored.spec, FoldSpec { epoch_base: 7000, ..spec });

    let second = world.coordinator("b").await;
    let (assignment, revision) = until("it is assigned", async || world.assignment(&recording.id).await).await;
    assert!(assignment.spec.epoch_base + revision > 7000, "I7: the epoch rises");
    let finished = world.complete(&recording.id).await;
    assert_eq!((finished.id, finished.state), (recording.id, State::Complete));
    let found = rebuild::scan(&world.store, SHARDS).await.expect("the store is up");
    assert_eq!((found.recordings, found.unfinished.len()), (1, 0), "what is finished stays finished");
    second.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_recording_that_was_started_anew_gets_epochs_above_its_windows() {
    let (mut world, first, recording) = World::recording().await;
    world.window(&recording, 7000).await;
    until("the bucket says so", async || {
        let keys = RecordingKeys::new(&recording.tenant, &recording.room, &recording.id);
        world.store.get(&keys.unfinished_json()).await.ok()
    })
    .await;
    first.kill();
    world.lose_coordination().await;
    // The room's policy starts the same recording again while the bucket does not answer.
    let plain = world.store.clone();
    let silent = |operation: Operation, key: &str| {
        let asks = matches!(operation, Operation::Size | Operation::Get) && key.ends_with("unfinished.json");
        asks.then_some(Fault::FailBefore)
    };
    world.store = world.store.with_faults(Arc::new(silent));
    let second = world.coordinator("b").await;
    world.store = plain;
    let (stuck, _) = until("it is assigned", async || world.assignment(&recording.id).await).await;
    assert_eq!(stuck.spec.epoch_base, 0);
    let found = rebuild::scan(&world.store, SHARDS).await.expect("the store is up");
    assert_eq!(rebuild::apply(&world.coordination, &found.unfinished[0]).await.expect("up"), Restored::Raised);
    let raised = until("it is assigned anew", async || {
        world.assignment(&recording.id).await.filter(|(assignment, _)| assignment.spec.epoch_base == 7000)
    });
    raised.await;
    assert_eq!(rebuild::apply(&world.coordination, &found.unfinished[0]).await.expect("up"), Restored::Kept);
    second.drain().await;
}

/// I7: a leader that was paused in the middle of a write finishes it when another one has long written the final state.
#[tokio::test(start_paused = true)]
async fn what_a_paused_leader_writes_late_changes_no_final_state() {
    let mut world = World::new().await;
    let script = Script::new();
    let plain = world.store.clone();
    world.store = world.store.with_faults(Arc::new(script.clone()));
    world.open("standup", auto()).await;
    let first = world.coordinator("a").await;
    world.store = plain;
    let recording = world.the_recording().await;
    let keys = RecordingKeys::new(&recording.tenant, &recording.room, &recording.id);
    let early = until("it is documented", async || world.store.get(&keys.unfinished_json()).await.ok()).await;
    // Its next document is on the way and does not arrive.
    script.push(Operation::Put, Fault::Hang);
    world.fold(1, false).await;
    world.in_state(State::Active).await;
    until("the write hangs", async || (script.remaining() == 0).then_some(())).await;
    first.kill();
    let second = world.coordinator("b").await;
    let finished = world.complete(&recording.id).await;
    // Now it does, and so does a final document that it had come to by itself.
    world.store.put(&keys.unfinished_json(), early).await.expect("the store is up");
    let other = to_json(&Recording { state: State::Failed, ..finished.clone() });
    assert!(world.store.create(&keys.recording_json(), other).await.is_err(), "it is written once");
    let document = world.store.get(&keys.recording_json()).await.expect("there");
    assert_eq!(serde_json::from_slice::<Recording>(&document).expect("a recording"), finished);
    let found = rebuild::scan(&world.store, SHARDS).await.expect("the store is up");
    assert_eq!((found.recordings, found.unfinished.len(), found.unclear.len()), (1, 0, 0));
    second.kill();
    let third = world.coordinator("c").await;
    leads(&third).await;
    sleep(Duration::from_secs(10)).await;
    assert!(world.recordings().await.is_empty(), "nothing is taken up again");
    third.drain().await;
}

/// The room's policy demands a recording that an empty coordination store does not know, and the bucket does.
#[tokio::test(start_paused = true)]
async fn a_leader_takes_up_what_an_empty_store_has_forgotten() {
    let (mut world, first, recording) = World::recording().await;
    world.fold(1, false).await;
    world.in_state(State::Active).await;
    world.window(&recording, 7000).await;
    let keys = RecordingKeys::new(&recording.tenant, &recording.room, &recording.id);
    until("it is documented", async || world.store.get(&keys.unfinished_json()).await.ok()).await;
    first.kill();
    world.lose_coordination().await;
    let second = world.coordinator("b").await;
    let (assignment, revision) = until("it is assigned", async || world.assignment(&recording.id).await).await;
    assert_eq!(assignment.spec.epoch_base, 7000);
    assert!(assignment.spec.epoch_base + revision > 7000, "I7: the epoch rises");
    let again = world.the_recording().await;
    assert_eq!((&again.id, again.created_at), (&recording.id, recording.created_at), "it is no other one");
    assert_eq!(world.complete(&recording.id).await.state, State::Complete);
    let found = rebuild::scan(&world.store, SHARDS).await.expect("the store is up");
    assert_eq!((found.recordings, found.unfinished.len()), (1, 0));
    second.drain().await;
}

/// What was started by request is in no policy: only the log and the bucket know of it.
#[tokio::test(start_paused = true)]
async fn a_leader_takes_up_what_was_started_by_request() {
    let mut world = World::new().await;
    world.open("standup", Policy::default()).await;
    let first = world.coordinator("a").await;
    let request = Request {
        tenant: id("acme"),
        subject: "api".to_owned(),
        peer: None,
        wish: Wish::Start { room: id("standup"), composites: None },
        outcome: None,
    };
    world.put(cluster::request_key("0a"), &request).await;
    let recording = world.the_recording().await;
    world.fold(1, false).await;
    world.in_state(State::Active).await;
    world.window(&recording, 7000).await;
    until("it is documented", async || world.store.get(&recording.name().keys().unfinished_json()).await.ok()).await;
    let started = |event: &RoomEvent| matches!(event.kind, EventKind::RecordingStarted { .. });
    until("the log knows it", async || world.control("standup").iter().any(started).then_some(())).await;
    first.kill();
    world.lose_coordination().await;
    // Asked again meanwhile, it is not begun twice.
    world.put(cluster::request_key("0b"), &request).await;
    let second = world.coordinator("b").await;
    let (assignment, revision) = until("it is assigned", async || world.assignment(&recording.id).await).await;
    assert!(assignment.spec.epoch_base + revision > 7000, "I7: the epoch rises");
    let again = world.the_recording().await;
    assert_eq!((&again.id, &again.requested_by), (&recording.id, &recording.requested_by));
    let refused = until("it is answered", async || {
        let record = world.coordination.get(&cluster::request_key("0b")).await.expect("up")?;
        json::<Request>(&record).expect("well formed").outcome
    });
    let expected = Refusal::AlreadyRecorded { recording: recording.id.clone() };
    assert_eq!(refused.await, request::Outcome::Refused(expected));
    assert_eq!(world.complete(&recording.id).await.state, State::Complete);
    // A recording that was deleted from the bucket does not come back, whatever the log says.
    let all = world.store.list("").await.expect("the store is up");
    for object in all {
        world.store.delete(&object.key).await.expect("the store is up");
    }
    second.kill();
    let third = world.coordinator("c").await;
    leads(&third).await;
    sleep(Duration::from_secs(30)).await;
    assert!(world.recordings().await.is_empty());
    third.drain().await;
}

/// What does not need the bucket goes on at its pace, starts go on without its word, and what needs it is made up for.
#[tokio::test(start_paused = true)]
async fn a_bucket_that_hangs_delays_no_other_decision() {
    const ROOMS: usize = 100;
    let mut world = World::new().await;
    let hangs = Arc::new(AtomicBool::new(true));
    let is_hanging = hangs.clone();
    let plain = world.store.clone();
    let faults = move |_: Operation, _: &str| is_hanging.load(Ordering::SeqCst).then_some(Fault::Hang);
    world.store = world.store.with_faults(Arc::new(faults));
    for room in 0..ROOMS {
        world.open(&format!("r{room}"), auto()).await;
    }
    let coordinator = world.coordinator("a").await;
    world.store = plain;
    leads(&coordinator).await;
    let begun = Instant::now();
    until("all rooms are recorded", async || (world.recordings().await.len() == ROOMS).then_some(())).await;
    assert!(begun.elapsed() <= Duration::from_secs(12), "{:?}", begun.elapsed());
    // By now as many documents hang as are written at once.
    sleep(Duration::from_secs(5)).await;
    let folds = async || {
        let list = world.coordination.list(&cluster::assignments_prefix()).await.expect("up").records;
        list.iter().map(|record| json::<Assignment>(record).expect("well formed").node).collect::<Vec<_>>()
    };
    let gone = folds().await.remove(0);
    let delete = Change::Delete(cluster::node_key(Role::Ingest, &gone));
    world.coordination.transact(Vec::new(), vec![delete]).await.expect("up");
    let lost = Instant::now();
    until("its folds move", async || folds().await.iter().all(|node| *node != gone).then_some(())).await;
    assert!(lost.elapsed() <= Duration::from_secs(3), "{:?}", lost.elapsed());
    assert!(coordinator.is_leader());
    hangs.store(false, Ordering::SeqCst);
    for ActiveRecording { recording, .. } in world.recordings().await {
        let keys = recording.name().keys();
        until("it is documented", async || world.store.get(&keys.unfinished_json()).await.ok()).await;
        world.event(recording.room.as_str(), room_closed()).await;
    }
    world.fold(1, true).await;
    world.render().await;
    until("all are final", async || world.recordings().await.is_empty().then_some(())).await;
    coordinator.drain().await;
}

/// Keys that are too long for the store, say: they cost the recording that needs them, and hardly any calls.
#[tokio::test(start_paused = true)]
async fn a_bucket_that_refuses_one_recording_for_ever_costs_nobody_else() {
    let mut world = World::new().await;
    let (refuses, calls) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU64::new(0)));
    let (is_refusing, counted) = (refuses.clone(), calls.clone());
    let plain = world.store.clone();
    let faults = move |_: Operation, key: &str| {
        let is_refused = key.contains("/rooms/refused/") && is_refusing.load(Ordering::SeqCst);
        is_refused.then(|| {
            counted.fetch_add(1, Ordering::SeqCst);
            Fault::Refuse
        })
    };
    world.store = world.store.with_faults(Arc::new(faults));
    for room in ["refused", "standup"] {
        world.open(room, auto()).await;
    }
    let coordinator = world.coordinator("a").await;
    world.store = plain;
    let both = until("both are recorded", async || Some(world.recordings().await).filter(|all| all.len() == 2)).await;
    let of = |room: &str| both.iter().map(|active| &active.recording).find(|of| of.room == id(room)).expect("recorded");
    let (refused, other) = (of("refused"), of("standup"));
    let begun = Instant::now();
    // Others' events bring round after round.
    while begun.elapsed() < Duration::from_secs(600) {
        world.event("standup", producer_created()).await;
        sleep(Duration::from_millis(100)).await;
    }
    let calls = calls.load(Ordering::SeqCst);
    assert!((5..=25).contains(&calls), "{calls} calls in 10 min");
    world.event("standup", room_closed()).await;
    world.fold(1, true).await;
    world.render().await;
    assert_eq!(world.finished(&other.id).await.state, State::Complete);
    refuses.store(false, Ordering::SeqCst);
    let since = Instant::now();
    assert_eq!(world.finished(&refused.id).await.state, State::Complete, "what it waited for has come");
    assert!(since.elapsed() <= Duration::from_secs(62), "{:?}", since.elapsed());
    coordinator.drain().await;
}

/// The leader before this one was killed between the index, which is written first, and the keys.
#[tokio::test(start_paused = true)]
async fn the_final_state_that_was_written_first_stands() {
    let (mut world, coordinator, recording) = World::recording().await;
    let first = Recording { state: State::Failed, reason: "written first".to_owned(), ..recording.clone() };
    let index = index_key(&recording.tenant, &recording.id);
    world.store.create(&index, to_json(&first)).await.expect("the store is up");
    let keys = recording.name().keys();
    world.store.put(&keys.recording_json(), Bytes::from_static(b"{torn")).await.expect("the store is up");
    assert_eq!(world.complete(&recording.id).await, first);
    let document = world.store.get(&keys.recording_json()).await.expect("there");
    assert_eq!(serde_json::from_slice::<Recording>(&document).expect("whole again"), first);
    assert!(world.store.get(&keys.unfinished_json()).await.is_err(), "nothing is left that says otherwise");
    sleep(Duration::from_secs(30)).await;
    assert!(world.recordings().await.is_empty(), "nor does it come back");
    coordinator.drain().await;
}

/// What cannot be taken up from the bucket is recorded all the same where policy demands it.
#[tokio::test(start_paused = true)]
async fn a_document_that_is_damaged_keeps_no_room_from_being_recorded() {
    let (mut world, first, recording) = World::recording().await;
    let keys = recording.name().keys();
    let started = |event: &RoomEvent| matches!(event.kind, EventKind::RecordingStarted { .. });
    until("the log knows it", async || world.control("standup").iter().any(started).then_some(())).await;
    until("it is documented", async || world.store.get(&keys.unfinished_json()).await.ok()).await;
    first.kill();
    world.lose_coordination().await;
    world.store.put(&keys.unfinished_json(), Bytes::from_static(b"{torn")).await.expect("the store is up");
    let second = world.coordinator("b").await;
    assert_eq!(world.the_recording().await.id, recording.id);
    until("its document is whole", async || {
        serde_json::from_slice::<Recording>(&world.store.get(&keys.unfinished_json()).await.ok()?).ok()
    })
    .await;
    assert_eq!(world.complete(&recording.id).await.state, State::Complete);
    second.drain().await;
}
