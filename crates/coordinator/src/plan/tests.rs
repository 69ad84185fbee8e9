use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use roomreel_shared::cluster::{ActiveRecording, FoldSpec, Node, Progress, RenderProgress, Role};
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::event::{EventKind, StopReason};
use roomreel_shared::id::RecordingId;
use roomreel_shared::late::{ActiveRender, Cuts, Division, LateRender, LateSpec, LateState, Piece};
use roomreel_shared::policy::{Audience, Policy};
use roomreel_shared::ports::LogEntry;
use roomreel_shared::recording::{Recording, State};
use roomreel_shared::time::LogTime;
use time::OffsetDateTime;

use super::*;
use crate::request::{Refusal, Request, Wish};
use crate::testing::{auto, event_payload, event_subject, id, producer_created, room_closed, room_created};

fn limits() -> Limits {
    Limits {
        shards: 1,
        window: Duration::from_secs(4),
        idle: Duration::from_secs(60),
        max_duration: Duration::from_secs(3600),
        ending: Duration::from_secs(600),
        composites: vec![CompositeSpec::default()],
    }
}

/// Bytes/s that an ingest node carries.
pub(super) const CAPACITY: u64 = 60_000_000;

/// A cluster in which what is planned happens at once, and everything else when the test says so.
pub(super) struct Cluster {
    pub(super) alive: Alive,
    rooms: Rooms,
    pub(super) memory: Memory,
    pub(super) limits: Limits,
    pub(super) seconds: u64,
    sequence: u64,
    finished: Vec<Recording>,
    commands: Vec<EventKind>,
    started: usize,
    /// What was taken from a node, why, and when.
    pub(super) moves: Vec<(RecordingId, Cause, u64)>,
    answers: BTreeMap<String, Outcome>,
    late_ends: Vec<LateRender>,
}

impl Cluster {
    pub(super) fn new(ingest: usize, compositors: usize) -> Self {
        let mut cluster = Self {
            alive: Alive::default(),
            rooms: Rooms::new(1, Policy::default(), Duration::from_secs(60)),
            memory: Memory::default(),
            limits: limits(),
            seconds: 0,
            sequence: 0,
            finished: Vec::new(),
            commands: Vec::new(),
            started: 0,
            moves: Vec::new(),
            answers: BTreeMap::new(),
            late_ends: Vec::new(),
        };
        for n in 0..ingest {
            cluster.join(Role::Ingest, &format!("i{n}"));
        }
        for n in 0..compositors {
            cluster.join(Role::Compositor, &format!("c{n}"));
        }
        cluster
    }

    pub(super) fn join(&mut self, role: Role, name: &str) {
        let capacity = if role == Role::Ingest { CAPACITY } else { 100 };
        let node = Node { id: id(name), role, capacity, load: 0, draining: false, version: "test".to_owned() };
        self.alive.nodes.insert((role, node.id.clone()), node);
    }

    pub(super) fn leave(&mut self, role: Role, name: &str) {
        self.alive.nodes.remove(&(role, id(name)));
    }

    pub(super) fn drain(&mut self, role: Role, name: &str) {
        self.alive.nodes.get_mut(&(role, id(name))).expect("there").draining = true;
    }

    fn event(&mut self, room: &str, kind: EventKind) {
        self.sequence += 1;
        self.event_at(room, (self.sequence, 9, self.sequence), kind);
    }

    /// The event stands at this sequence of the log, of this start of the SFU, under this number.
    fn event_at(&mut self, room: &str, (sequence, incarnation, number): (u64, u64, u64), kind: EventKind) {
        let entry = LogEntry {
            sequence,
            time: self.log_time(),
            subject: event_subject("acme", "sfu", room, 1, &kind).to_string(),
            trace_parent: None,
            payload: event_payload(room, incarnation, number, kind),
        };
        self.rooms.apply(&entry).expect("well formed");
    }

    fn log_time(&self) -> LogTime {
        LogTime::from_micros(1_700_000_000_000_000 + i64::try_from(self.seconds).expect("small") * 1_000_000)
    }

    pub(super) fn open(&mut self, room: &str, policy: Policy) {
        self.event(room, room_created(Some(policy)));
        self.event(room, producer_created());
    }

    pub(super) fn close(&mut self, room: &str) {
        self.event(room, room_closed());
    }

    pub(super) fn plan(&mut self) -> Vec<Action> {
        let now = Now {
            monotonic: Duration::from_secs(self.seconds),
            wall: OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + self.seconds),
        };
        let world = World { now, alive: &self.alive, rooms: Some(&self.rooms) };
        plan(&world, &mut self.memory, &self.limits)
    }

    /// Plans and performs until nothing more is to be done.
    pub(super) fn settle(&mut self) {
        for _ in 0..20 {
            let mut again = false;
            for action in self.plan() {
                again |= self.perform(action);
            }
            if !again {
                return;
            }
        }
        panic!("the plan never comes to rest: {:?}", self.plan());
    }

    fn perform(&mut self, action: Action) -> bool {
        let alive = &mut self.alive;
        match action {
            Action::Start(active) => {
                self.started += 1;
                assert!(alive.recordings.insert(active.recording.id.clone(), *active).is_none(), "started twice");
            }
            Action::TakeUp(name) => match self.finished.iter().find(|finished| finished.id == name.recording) {
                Some(finished) => self.memory.on_finished(finished.clone()),
                None => self.memory.on_unknown(name.recording),
            },
            Action::Update(active) => {
                alive.recordings.insert(active.recording.id.clone(), *active);
            }
            Action::Assign { assignment, cause } => {
                let moved = cause.map(|cause| (assignment.spec.recording.clone(), cause, self.seconds));
                self.moves.extend(moved);
                alive.assignments.insert(assignment.spec.recording.clone(), assignment);
            }
            Action::Render { id, job, restart, cause } => {
                let cause = cause.filter(|_| !restart);
                self.moves.extend(cause.map(|cause| (id.recording.clone(), cause, self.seconds)));
                if restart {
                    alive.render_progress.remove(&id);
                }
                alive.renders.insert(id, *job);
            }
            Action::Command { event, .. } => {
                self.commands.push(event);
                return false;
            }
            Action::Tick { .. } => return false,
            Action::Late { render, jobs, gone } => {
                let id = (render.fold.recording.clone(), render.render.spec.composite.id.clone());
                for job in gone {
                    let id = (id.clone(), job.late.expect("a piece").piece);
                    alive.pieces.remove(&id);
                    alive.piece_progress.remove(&id);
                }
                for job in jobs {
                    let id = (id.clone(), job.late.clone().expect("a piece").piece);
                    alive.piece_progress.remove(&id);
                    alive.pieces.insert(id, job);
                }
                alive.late.insert(id, *render);
            }
            Action::FinishLate { render, .. } => {
                assert!(render.render.state.is_final() && !render.render.reason.is_empty(), "{render:?}");
                let id = (render.fold.recording.clone(), render.render.spec.composite.id.clone());
                alive.pieces.retain(|(of, _), _| *of != id);
                alive.piece_progress.retain(|(of, _), _| *of != id);
                alive.late.remove(&id);
                self.late_ends.push(render.render);
            }
            Action::Answer { request, outcome } => {
                alive.requests.remove(&request);
                self.answers.insert(request, *outcome);
            }
            Action::Finish { recording, renders } => {
                assert!(recording.state.is_final() && !recording.reason.is_empty(), "{recording:?}");
                alive.recordings.remove(&recording.id);
                alive.assignments.remove(&recording.id);
                alive.progress.remove(&recording.id);
                for render in renders {
                    alive.renders.remove(&render);
                    alive.render_progress.remove(&render);
                }
                self.memory.on_finished((*recording).clone());
                self.finished.push(*recording);
            }
        }
        true
    }

    fn the_recording(&self) -> &ActiveRecording {
        assert_eq!(self.alive.recordings.len(), 1);
        self.alive.recordings.values().next().expect("one")
    }

    fn change(&mut self, change: impl Fn(&mut ActiveRecording)) {
        self.alive.recordings.values_mut().for_each(change);
    }

    fn state(&self) -> State {
        self.the_recording().recording.state
    }

    /// Ingest reports on every assignment.
    pub(super) fn fold(&mut self, windows: u64, change: impl Fn(&mut Progress)) {
        let now = self.log_time().as_micros();
        for (id, assignment) in &self.alive.assignments {
            let mut progress = Progress {
                node: assignment.node.clone(),
                windows,
                finished: false,
                log_time_us: now,
                sfu_log_time_us: now,
                paused: false,
                bytes_per_second: 0,
                incomplete: false,
                duration_us: windows * 4_000_000,
            };
            change(&mut progress);
            self.alive.progress.insert(id.clone(), progress);
        }
    }

    /// Compositors report.
    fn render(&mut self, change: impl Fn(&mut RenderProgress)) {
        for (id, job) in &self.alive.renders {
            let Some(node) = job.node.clone() else { continue };
            let mut progress = RenderProgress {
                node,
                slices: 1,
                finished: false,
                error: None,
                files: vec!["metadata.json".to_owned()],
            };
            change(&mut progress);
            self.alive.render_progress.insert(id.clone(), progress);
        }
    }

    fn request(&mut self, name: &str, peer: Option<&str>, wish: Wish) {
        let request =
            Request { tenant: id("acme"), subject: "api".to_owned(), peer: peer.map(id), wish, outcome: None };
        self.alive.requests.insert(name.to_owned(), request);
        self.settle();
    }

    fn start(&mut self, name: &str, peer: Option<&str>, room: &str) -> Result<Recording, Refusal> {
        self.request(name, peer, Wish::Start { room: id(room), composites: None });
        self.answer(name)
    }

    fn answer(&mut self, name: &str) -> Result<Recording, Refusal> {
        match self.answers.remove(name).expect("answered") {
            Outcome::Done(recording) => Ok(*recording),
            Outcome::Refused(refusal) => Err(refusal),
        }
    }
}

/// A cluster that records a room by policy and has committed windows.
fn recording_cluster() -> Cluster {
    let mut cluster = Cluster::new(3, 2);
    cluster.open("standup", auto());
    cluster.settle();
    cluster.fold(3, |_| {});
    cluster.settle();
    assert_eq!(cluster.state(), State::Active);
    cluster
}

#[test]
fn who_may_have_a_recording_follows_its_session_and_no_later_one() {
    let mut cluster = recording_cluster();
    let recording = cluster.alive.recordings.keys().next().expect("there is one").clone();
    let may = |cluster: &Cluster, who: &str| {
        let ended = cluster.finished.iter().find(|ended| ended.id == recording);
        let recording = ended.unwrap_or_else(|| &cluster.alive.recordings[&recording].recording);
        recording.policy.check_download(&id(who)).is_ok()
    };
    let joined = |peer: &str| EventKind::PeerJoined {
        peer: id(peer),
        display_name: String::new(),
        is_host: false,
        is_co_host: true,
        is_panelist: false,
    };
    cluster.event("standup", joined("bo"));
    cluster.settle();
    assert!(may(&cluster, "host") && !may(&cluster, "bo"));
    let co_hosts = Policy { who_can_download: Audience::CoHost, ..auto() };
    cluster.event("standup", EventKind::RoomPolicyUpdated { policy: co_hosts.clone() });
    cluster.settle();
    assert!(may(&cluster, "bo") && !may(&cluster, "cy"));
    cluster.event("standup", joined("cy"));
    cluster.settle();
    assert!(may(&cluster, "cy"));
    let named = Policy { co_host_ids: vec![id("cy")], ..co_hosts };
    cluster.event("standup", EventKind::RoomPolicyUpdated { policy: named.clone() });
    cluster.close("standup");
    cluster.settle();
    assert!(!may(&cluster, "bo") && may(&cluster, "cy"), "what was in force at the end");
    // Other people meet in a room of the same name while this one is still being rendered.
    let others = Policy { host_id: Some(id("dee")), who_can_download: Audience::All, ..auto() };
    cluster.open("standup", others);
    cluster.settle();
    assert!(!may(&cluster, "dee") && !may(&cluster, "bo") && may(&cluster, "cy"));
}

#[test]
fn policy_starts_a_recording_at_the_rooms_creation_once() {
    let mut cluster = Cluster::new(2, 1);
    cluster.open("standup", auto());
    cluster.open("private", Policy::default());
    cluster.open("off", Policy { enabled: false, ..auto() });
    cluster.settle();
    let active = cluster.the_recording().clone();
    assert_eq!((active.spec.start_sequence, active.recording.room.as_str()), (1, "standup"));
    assert_eq!(active.spec.from.expect("retroactive").event_no, 1);
    assert_eq!(active.recording.state, State::Starting);
    assert_eq!((cluster.alive.assignments.len(), cluster.alive.renders.len()), (1, 1));
    assert!(cluster.commands.iter().any(|event| matches!(event, EventKind::RecordingStarted { .. })));
    // Stopped by hand, it is not started again in the same session.
    cluster.request("r", None, Wish::Stop { recording: active.recording.id.clone() });
    cluster.fold(1, |progress| progress.finished = true);
    cluster.render(|progress| progress.finished = true);
    cluster.settle();
    assert_eq!((cluster.finished.len(), cluster.started), (1, 1));
    // Another leader does not know that it was, and comes to the same id.
    cluster.memory = Memory::default();
    let again = cluster.plan();
    assert!(matches!(&again[..], [Action::Start(start)] if start.recording.id == active.recording.id), "{again:?}");
}

#[test]
fn a_room_that_closed_while_nobody_led_is_recorded() {
    let mut cluster = Cluster::new(1, 1);
    cluster.open("standup", auto());
    cluster.close("standup");
    cluster.settle();
    assert_eq!(cluster.state(), State::Ending);
    cluster.fold(2, |progress| progress.finished = true);
    cluster.render(|progress| progress.finished = true);
    cluster.settle();
    assert_eq!(cluster.finished[0].state, State::Complete);
    assert_eq!(cluster.started, 1);
}

#[test]
fn a_room_that_opens_again_is_another_session() {
    let mut cluster = recording_cluster();
    cluster.close("standup");
    cluster.settle();
    cluster.open("standup", auto());
    cluster.settle();
    let mut states: Vec<_> = cluster.alive.recordings.values().map(|active| active.recording.state).collect();
    states.sort();
    assert_eq!(states, [State::Starting, State::Ending]);
}

#[test]
fn a_requested_recording_is_of_its_session_wherever_the_log_holds_that() {
    let mut cluster = Cluster::new(1, 0);
    cluster.open("standup", Policy::default());
    let recording = cluster.start("r", None, "standup").expect("allowed").id;
    cluster.fold(1, |_| {});
    cluster.settle();
    assert_eq!(cluster.the_recording().spec.session.map(|created| created.event_no), Some(1));
    let before = cluster.alive;
    // What a new leader reads: at which sequence, of which start of the SFU, under which number.
    type Read = (u64, u64, u64, EventKind);
    let created = |sequence, incarnation, number| -> Read { (sequence, incarnation, number, room_created(None)) };
    let camera = |sequence, incarnation| -> Read { (sequence, incarnation, 2, producer_created()) };
    let (command, requested_by) = ("start".to_owned(), String::new());
    let started = EventKind::RecordingStarted { recording, command, requested_by, from: None };
    // Whether it is over then; and so for the record of a build that did not note the session, which has sequences alone.
    let cases: [(&str, Vec<Read>, bool, bool); 8] = [
        ("as it was", vec![created(1, 9, 1), camera(2, 9)], false, false),
        ("of a replica that holds more", vec![created(4, 9, 1), camera(5, 9)], false, true),
        ("without what is too old", vec![camera(700, 9)], false, false),
        ("without its first SFU", vec![camera(700, 10)], false, false),
        ("begun with its second SFU", vec![created(700, 10, 0), (701, 11, 0, started)], false, false),
        ("first heard of in its middle", vec![camera(3, 9), created(700, 9, 1)], false, true),
        ("closed, further on", vec![created(4, 9, 1), (5, 9, 3, room_closed())], true, true),
        ("another one", vec![created(700, 10, 1)], true, true),
    ];
    for (what, read, is_over, by_sequence) in cases {
        for (is_noted, is_over) in [(true, is_over), (false, by_sequence)] {
            let mut cluster = Cluster { alive: before.clone(), ..Cluster::new(0, 0) };
            cluster.change(|active| active.spec.session = active.spec.session.filter(|_| is_noted));
            for (sequence, incarnation, number, kind) in read.clone() {
                cluster.event_at("standup", (sequence, incarnation, number), kind);
            }
            cluster.settle();
            let stop = cluster.the_recording().recording.stop_reason;
            assert_eq!(stop, is_over.then_some(StopReason::RoomClosed), "{what}, its session noted: {is_noted}");
        }
    }
}

#[test]
fn the_time_in_which_the_bucket_is_away_is_not_held_against_an_ended_recording() {
    let mut cluster = recording_cluster();
    cluster.close("standup");
    cluster.settle();
    let id = cluster.the_recording().recording.id.clone();
    let is_given_up =
        |cluster: &mut Cluster| cluster.plan().iter().any(|action| matches!(action, Action::Finish { .. }));
    for _ in 0..3 {
        cluster.seconds += 599;
        assert!(!is_given_up(&mut cluster), "at {}", cluster.seconds);
        cluster.seconds += 1;
        assert!(is_given_up(&mut cluster), "at {}", cluster.seconds);
        cluster.memory.on_bucket_away(&id);
        assert!(!is_given_up(&mut cluster), "at {}", cluster.seconds);
    }
    // It is back: the owner commits what it could not.
    cluster.fold(4, |progress| progress.finished = true);
    cluster.render(|progress| progress.finished = true);
    cluster.settle();
    assert_eq!(cluster.finished[0].state, State::Complete);
}

#[test]
fn recordings_stop_for_their_reasons() {
    type Cause = fn(&mut Cluster);
    let cases: [(Cause, StopReason, State); 5] = [
        (|c| c.close("standup"), StopReason::RoomClosed, State::Complete),
        (
            |c| {
                c.seconds += 60;
                c.fold(15, |progress| progress.sfu_log_time_us -= 60_000_000);
            },
            StopReason::Idle,
            State::Complete,
        ),
        (
            |c| {
                c.seconds += 3600;
                c.fold(900, |_| {});
            },
            StopReason::LimitReached,
            State::LimitReached,
        ),
        (
            |c| c.event("standup", EventKind::RoomPolicyUpdated { policy: Policy { enabled: false, ..auto() } }),
            StopReason::Policy,
            State::Complete,
        ),
        (
            |c| {
                let recording = c.the_recording().recording.id.clone();
                c.request("r", Some("host"), Wish::Stop { recording });
            },
            StopReason::Requested,
            State::Complete,
        ),
    ];
    for (cause, stop_reason, state) in cases {
        let mut cluster = recording_cluster();
        cause(&mut cluster);
        cluster.commands.clear();
        cluster.settle();
        assert_eq!(cluster.state(), State::Ending, "{stop_reason:?}");
        let stop = cluster.commands.iter().find_map(|event| match event {
            EventKind::RecordingStopped { reason, .. } => Some(*reason),
            _ => None,
        });
        assert_eq!(stop, Some(stop_reason), "the log is told");
        cluster.fold(20, |progress| progress.finished = true);
        cluster.settle();
        assert_eq!(cluster.state(), State::Ending, "{stop_reason:?}: the render is waited for");
        cluster.render(|progress| progress.finished = true);
        cluster.settle();
        let finished = &cluster.finished[0];
        assert_eq!((finished.state, finished.stop_reason), (state, Some(stop_reason)));
        assert_eq!(finished.files, ["recording.json", "policy.json", "metadata.json"]);
        assert_eq!(cluster.alive.recordings.len() + cluster.alive.renders.len() + cluster.alive.progress.len(), 0);
    }
}

/// No clock ends a recording by itself: not the leader's, the SFU's or the broker's.
#[test]
fn one_clock_that_is_ahead_ends_nothing() {
    let mut cluster = recording_cluster();
    let day_us = 86_400_000_000;
    let created = cluster.the_recording().recording.created_at;
    let ahead: [fn(&mut Cluster, i64); 3] = [
        |c, us| c.change(|active| active.recording.created_at -= Duration::from_micros(us.unsigned_abs())),
        |c, us| c.fold(4, |progress| progress.duration_us += us.unsigned_abs()),
        |c, us| c.fold(5, |progress| progress.log_time_us += us),
    ];
    for jump in ahead {
        cluster.seconds += 4;
        jump(&mut cluster, day_us);
        cluster.settle();
        assert_eq!(cluster.state(), State::Active);
        cluster.change(|active| active.recording.created_at = created);
        cluster.fold(6, |_| {});
        cluster.settle();
    }
}

#[test]
fn an_ingest_node_that_lags_does_not_make_a_room_idle() {
    let mut cluster = recording_cluster();
    cluster.seconds += 600;
    cluster.settle();
    assert_eq!(cluster.state(), State::Active);
}

#[test]
fn nothing_is_decided_about_rooms_that_are_not_known_yet() {
    let mut cluster = recording_cluster();
    cluster.close("standup");
    cluster.leave(Role::Ingest, "i0");
    let now = Now { monotonic: Duration::from_secs(9), wall: OffsetDateTime::UNIX_EPOCH };
    let request = Wish::Start { room: id("unknown"), composites: None };
    let request = Request { tenant: id("acme"), subject: "api".to_owned(), peer: None, wish: request, outcome: None };
    cluster.alive.requests.insert("r".to_owned(), request);
    let world = World { now, alive: &cluster.alive, rooms: None };
    let actions = plan(&world, &mut cluster.memory, &cluster.limits);
    let room_bound = |action: &&Action| matches!(action, Action::Start(_) | Action::Answer { .. } | Action::Update(_));
    assert_eq!(actions.iter().find(room_bound), None);
}

#[test]
fn folds_stay_where_they_are_until_their_node_goes() {
    let mut cluster = recording_cluster();
    let holder = |cluster: &Cluster| cluster.alive.assignments.values().next().expect("one").node.clone();
    let first = holder(&cluster);
    cluster.join(Role::Ingest, "new");
    cluster.settle();
    assert_eq!(holder(&cluster), first, "a node that joins takes nothing");
    cluster.leave(Role::Ingest, first.as_str());
    cluster.settle();
    assert_eq!(holder(&cluster), first, "not within the grace");
    cluster.seconds += 1;
    cluster.settle();
    let second = holder(&cluster);
    assert_ne!(second, first);
    cluster.drain(Role::Ingest, second.as_str());
    cluster.settle();
    let third = holder(&cluster);
    assert_ne!(third, second, "a draining node gives away what it has");
    for name in ["i0", "i1", "i2", "new"] {
        cluster.leave(Role::Ingest, name);
    }
    cluster.join(Role::Ingest, third.as_str());
    cluster.drain(Role::Ingest, third.as_str());
    cluster.settle();
    assert_eq!(holder(&cluster), third, "unless there is nobody to give it to");
    assert_eq!(cluster.moves.len(), 2);
}

#[test]
fn full_and_closed_nodes_get_nothing_new_while_others_have_room() {
    let mut cluster = Cluster::new(3, 1);
    for (name, capacity, load) in [("i0", CAPACITY, CAPACITY), ("i1", 0, 0), ("i2", CAPACITY, CAPACITY - 1)] {
        let node = cluster.alive.nodes.get_mut(&(Role::Ingest, id(name))).expect("there");
        (node.capacity, node.load) = (capacity, load);
    }
    for n in 0..20 {
        cluster.open(&format!("room{n}"), auto());
    }
    cluster.settle();
    assert!(cluster.alive.assignments.values().all(|assignment| assignment.node.as_str() == "i2"));
    // Recording too much beats not recording.
    cluster.alive.nodes.get_mut(&(Role::Ingest, id("i2"))).expect("there").load = CAPACITY;
    cluster.open("one more", auto());
    cluster.settle();
    let nodes: BTreeSet<_> = cluster.alive.assignments.values().map(|assignment| assignment.node.as_str()).collect();
    assert_eq!(cluster.alive.assignments.len(), 21);
    assert!(!nodes.contains("i1"), "{nodes:?}");
}

#[test]
fn rooms_that_nobody_has_measured_are_spread_evenly() {
    let mut cluster = Cluster::new(3, 1);
    for n in 0..300 {
        cluster.open(&format!("room{n}"), auto());
    }
    cluster.settle();
    for name in ["i0", "i1", "i2"] {
        let share = cluster.alive.assignments.values().filter(|assignment| assignment.node.as_str() == name).count();
        assert!((90..=110).contains(&share), "{name}: {share}");
    }
}

#[test]
fn a_mass_loss_of_leases_moves_nothing() {
    let mut cluster = Cluster::new(10, 1);
    for n in 0..50 {
        cluster.open(&format!("room{n}"), auto());
    }
    cluster.settle();
    for n in 0..6 {
        cluster.leave(Role::Ingest, &format!("i{n}"));
    }
    for _ in 0..20 {
        cluster.seconds += 1;
        cluster.settle();
    }
    assert_eq!(cluster.moves, []);
    for n in 0..6 {
        cluster.join(Role::Ingest, &format!("i{n}"));
    }
    for _ in 0..60 {
        cluster.seconds += 1;
        cluster.settle();
    }
    assert_eq!(cluster.moves, [], "they came back");
}

#[test]
fn a_render_is_tried_three_times_and_then_given_up_with_its_reason() {
    let mut cluster = recording_cluster();
    cluster.close("standup");
    cluster.fold(3, |progress| progress.finished = true);
    cluster.settle();
    let job = |cluster: &Cluster| {
        cluster.alive.renders.values().find(|job| job.composite.is_some()).expect("the grid").clone()
    };
    let mut nodes = Vec::new();
    for attempt in 0..3 {
        assert_eq!(job(&cluster).failures, attempt);
        nodes.push(job(&cluster).node.expect("given to a node"));
        cluster.render(|progress| progress.error = Some("out of memory".to_owned()));
        cluster.settle();
    }
    assert_ne!(nodes[0], nodes[1]);
    assert_eq!(job(&cluster).node, None);
    // The documents, which that job was to write, become a job of their own.
    assert_eq!(cluster.state(), State::Ending);
    let documents: Vec<_> = cluster.alive.renders.values().filter(|job| job.composite.is_none()).collect();
    assert!(matches!(&documents[..], [job] if job.documents && job.node.is_some()));
    cluster.render(|progress| progress.finished = true);
    cluster.settle();
    let finished = &cluster.finished[0];
    assert_eq!(finished.state, State::Failed);
    assert!(
        finished.reason.contains("composite grid") && finished.reason.contains("out of memory"),
        "{}",
        finished.reason
    );
    assert!(finished.files.contains(&"metadata.json".to_owned()));
}

#[test]
fn without_compositors_or_ingest_a_recording_is_given_up_in_time() {
    for (ingest, compositors, windows, state) in
        [(0, 1, 0, State::Aborted), (1, 0, 5, State::Failed), (1, 1, 5, State::Failed)]
    {
        let mut cluster = Cluster::new(ingest, compositors);
        cluster.open("standup", auto());
        cluster.settle();
        if windows > 0 {
            cluster.fold(windows, |progress| progress.finished = compositors == 0);
        }
        cluster.close("standup");
        cluster.settle();
        cluster.seconds += 599;
        cluster.settle();
        assert_eq!(cluster.finished.len(), 0);
        cluster.seconds += 1;
        cluster.settle();
        assert_eq!(cluster.finished[0].state, state);
        assert!(cluster.finished[0].reason.contains("10 min"), "{}", cluster.finished[0].reason);
    }
}

#[test]
fn a_host_is_known_where_the_log_has_lost_the_beginning() {
    let mut cluster = recording_cluster();
    let recording = cluster.the_recording().recording.id.clone();
    // Another leader reads a log that begins later.
    cluster.rooms = Rooms::new(1, Policy::default(), Duration::from_secs(60));
    cluster.event("standup", producer_created());
    cluster.settle();
    cluster.request("r1", Some("guest"), Wish::Stop { recording: recording.clone() });
    assert!(matches!(cluster.answer("r1"), Err(Refusal::NotAuthorised { .. })));
    cluster.request("r2", Some("host"), Wish::Stop { recording });
    assert_eq!(cluster.answer("r2").expect("it is its host").stop_reason, Some(StopReason::Requested));
}

#[test]
fn requests_are_granted_and_refused_by_room_and_role() {
    let policy = Policy { who_can_record: Audience::CoHost, co_host_ids: vec![id("bo")], ..Policy::default() };
    let mut cluster = Cluster::new(1, 1);
    cluster.open("standup", policy.clone());
    cluster.open("off", Policy { enabled: false, ..policy });
    assert_eq!(cluster.start("r1", Some("host"), "elsewhere"), Err(Refusal::RoomNotOpen));
    assert_eq!(cluster.start("r2", Some("host"), "off"), Err(Refusal::Disabled));
    assert_eq!(cluster.start("r3", None, "off"), Err(Refusal::Disabled));
    assert!(matches!(cluster.start("r4", Some("guest"), "standup"), Err(Refusal::NotAuthorised { .. })));
    let recording = cluster.start("r5", Some("bo"), "standup").expect("a co-host may");
    assert_eq!((recording.state, recording.requested_by.as_str()), (State::Starting, "bo"));
    assert_eq!(cluster.the_recording().spec.from, None);
    assert_eq!(cluster.start("r5", Some("bo"), "standup").expect("the same request").id, recording.id);
    assert_eq!(cluster.start("r6", None, "standup"), Err(Refusal::AlreadyRecorded { recording: recording.id.clone() }));
    cluster.request("r7", Some("guest"), Wish::Stop { recording: recording.id.clone() });
    assert!(matches!(cluster.answer("r7"), Err(Refusal::NotAuthorised { .. })));
    cluster.request("r8", None, Wish::Stop { recording: recording.id.clone() });
    assert_eq!(cluster.answer("r8").expect("a service may").stop_reason, Some(StopReason::Requested));
    cluster.request("r9", None, Wish::Pause { recording: recording.id.clone() });
    assert_eq!(cluster.answer("r9"), Err(Refusal::Ended));
    cluster.request("r10", None, Wish::Stop { recording: id("nonesuch") });
    assert_eq!(cluster.answer("r10"), Err(Refusal::Ended));
    assert_eq!(cluster.started, 1);
}

#[test]
fn two_requests_at_once_start_one_recording() {
    let mut cluster = Cluster::new(1, 1);
    cluster.open("standup", Policy::default());
    for name in ["a", "b"] {
        let wish = Wish::Start { room: id("standup"), composites: None };
        let request = Request { tenant: id("acme"), subject: "api".to_owned(), peer: None, wish, outcome: None };
        cluster.alive.requests.insert(name.to_owned(), request);
    }
    cluster.settle();
    assert_eq!(cluster.started, 1);
    let first = cluster.answer("a").expect("granted");
    assert_eq!(cluster.answer("b"), Err(Refusal::AlreadyRecorded { recording: first.id }));
}

#[test]
fn a_pause_is_answered_when_the_log_has_it() {
    let mut cluster = recording_cluster();
    let recording = cluster.the_recording().recording.id.clone();
    cluster.request("p", Some("host"), Wish::Pause { recording: recording.clone() });
    assert!(!cluster.answers.contains_key("p"));
    let pause = cluster.commands.iter().find(|event| matches!(event, EventKind::RecordingPaused { .. })).cloned();
    cluster.event("standup", pause.clone().expect("commanded"));
    cluster.settle();
    assert_eq!(cluster.answer("p").expect("done").state, State::Paused);
    assert_eq!(cluster.state(), State::Paused);
    cluster.request("q", None, Wish::Resume { recording });
    let resume = cluster.commands.iter().find(|event| matches!(event, EventKind::RecordingResumed { .. })).cloned();
    cluster.event("standup", resume.expect("commanded"));
    // The pause again: the same command has no second effect.
    cluster.event("standup", pause.expect("commanded"));
    cluster.settle();
    assert_eq!(cluster.state(), State::Active);
    assert_ne!(cluster.answer("q").expect("done").state, State::Starting);
}

#[test]
fn other_tenants_recordings_cannot_be_commanded() {
    let mut cluster = recording_cluster();
    let recording = cluster.the_recording().recording.id.clone();
    let wish = Wish::Stop { recording };
    let request = Request { tenant: id("other"), subject: "api".to_owned(), peer: None, wish, outcome: None };
    cluster.alive.requests.insert("r".to_owned(), request);
    cluster.settle();
    assert_eq!(cluster.answer("r"), Err(Refusal::Ended));
    assert_eq!(cluster.state(), State::Active);
}

/// What can happen to a cluster from one second to the next.
#[derive(Debug, Clone)]
enum Happening {
    Open(u8, bool),
    Close(u8),
    Forbid(u8),
    Join(bool, u8),
    Leave(bool, u8),
    Drain(bool, u8),
    Fold(u64, bool),
    Render(bool, bool),
    NewLeader,
    Wait(u16),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (0..4_u8, any::<bool>()).prop_map(|(room, auto)| Happening::Open(room, auto)),
        (0..4_u8).prop_map(Happening::Close),
        (0..4_u8).prop_map(Happening::Forbid),
        (any::<bool>(), 0..4_u8).prop_map(|(ingest, n)| Happening::Join(ingest, n)),
        (any::<bool>(), 0..4_u8).prop_map(|(ingest, n)| Happening::Leave(ingest, n)),
        (any::<bool>(), 0..4_u8).prop_map(|(ingest, n)| Happening::Drain(ingest, n)),
        (0..50_u64, any::<bool>()).prop_map(|(windows, finished)| Happening::Fold(windows, finished)),
        (any::<bool>(), any::<bool>()).prop_map(|(finished, failed)| Happening::Render(finished, failed)),
        Just(Happening::NewLeader),
        (0..100_u16).prop_map(Happening::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// I6: whatever happens, and whoever leads, a recording that was started reaches a final state with a reason.
    #[test]
    fn every_recording_reaches_a_final_state(happenings in proptest::collection::vec(happening(), 0..60)) {
        let mut cluster = Cluster::new(2, 1);
        let role = |ingest| if ingest { (Role::Ingest, "i") } else { (Role::Compositor, "c") };
        for happening in happenings {
            match happening {
                Happening::Open(room, auto_record) => {
                    cluster.open(&format!("room{room}"), Policy { auto_record, ..Policy::default() });
                }
                Happening::Close(room) => cluster.close(&format!("room{room}")),
                Happening::Forbid(room) => {
                    let policy = Policy { enabled: false, ..Policy::default() };
                    cluster.event(&format!("room{room}"), EventKind::RoomPolicyUpdated { policy });
                }
                Happening::Join(ingest, n) => {
                    let (role, prefix) = role(ingest);
                    cluster.join(role, &format!("{prefix}{n}"));
                }
                Happening::Leave(ingest, n) => {
                    let (role, prefix) = role(ingest);
                    cluster.leave(role, &format!("{prefix}{n}"));
                }
                Happening::Drain(ingest, n) => {
                    let (role, prefix) = role(ingest);
                    if let Some(node) = cluster.alive.nodes.get_mut(&(role, id(&format!("{prefix}{n}")))) {
                        node.draining = true;
                    }
                }
                Happening::Fold(windows, finished) => cluster.fold(windows, |progress| progress.finished |= finished),
                Happening::Render(finished, failed) => cluster.render(|progress| {
                    progress.finished = finished;
                    progress.error = failed.then(|| "broken".to_owned());
                }),
                Happening::NewLeader => cluster.memory = Memory::default(),
                Happening::Wait(seconds) => cluster.seconds += u64::from(seconds),
            }
            cluster.settle();
        }
        let finished_before = cluster.finished.len();
        let open = cluster.alive.recordings.len();
        // From here on nothing happens any more: no node, no progress, no word from a room.
        let limits = cluster.limits.clone();
        let deadline = cluster.seconds + (limits.max_duration + limits.ending).as_secs() + 100;
        while cluster.seconds < deadline {
            cluster.seconds += 30;
            cluster.settle();
        }
        prop_assert_eq!(cluster.alive.recordings.len(), 0);
        prop_assert!(cluster.finished.len() >= finished_before + open);
        prop_assert_eq!(cluster.finished.len(), cluster.started);
        prop_assert!(cluster.alive.renders.is_empty() && cluster.alive.assignments.is_empty());
    }
}

#[test]
fn ids_of_recordings_depend_on_everything_they_must() {
    let mut cluster = Cluster::new(0, 0);
    for room in ["a", "b"] {
        cluster.open(room, auto());
    }
    let key = |room: &str| RoomKey { tenant: id("acme"), room: id(room) };
    let of = |cluster: &Cluster, room: &str, cause: &str| {
        requests::recording_id(&key(room), cluster.rooms.get(&key(room)).expect("open"), cause)
    };
    let first = of(&cluster, "a", "auto");
    assert_eq!(first, of(&cluster, "a", "auto"));
    let others = [of(&cluster, "b", "auto"), of(&cluster, "a", "r1")];
    cluster.close("a");
    cluster.open("a", auto());
    let again = of(&cluster, "a", "auto");
    assert_eq!([&first, &others[0], &others[1], &again].into_iter().collect::<BTreeSet<_>>().len(), 4);
}

#[test]
fn a_beginning_that_the_log_stores_again_is_not_recorded_again() {
    let mut cluster = Cluster::new(1, 0);
    cluster.open("a", auto());
    cluster.settle();
    let started = cluster.started;
    assert_eq!(started, 1);
    let key = RoomKey { tenant: id("acme"), room: id("a") };
    let id = cluster.alive.recordings.keys().next().expect("it began").clone();
    // A new leader finds the same events further on in the log, and none of the commands.
    cluster.rooms = Rooms::new(1, Policy::default(), Duration::from_secs(60));
    (cluster.sequence, cluster.seconds) = (0, cluster.seconds + 7200);
    cluster.open("a", auto());
    assert_ne!(requests::recording_id(&key, cluster.rooms.get(&key).expect("open"), "auto"), id, "by the log's time");
    cluster.settle();
    assert_eq!((cluster.started, cluster.alive.recordings.len()), (1, 1));
    cluster.close("a");
    (0..5).for_each(|_| cluster.settle());
    cluster.seconds += 30;
    cluster.settle();
    assert_eq!(cluster.started, 1);
}

/// Asks for a late render of `spans` spans.
fn ask_late(cluster: &mut Cluster, composite: &str, spans: u64) {
    ask_late_of(cluster, "acme", composite, spans);
}

fn ask_late_of(cluster: &mut Cluster, tenant: &str, composite: &str, spans: u64) {
    let fold = FoldSpec {
        tenant: id(tenant),
        room: id("standup"),
        recording: id("01r"),
        shards: 1,
        from: None,
        session: None,
        beginning: None,
        start_sequence: 0,
        window_ms: 4000,
        policy: Policy::default(),
        epoch_base: 0,
    };
    let division = Division { slices: spans * 30 - 1, span: 30 };
    let composite = CompositeSpec { id: id(composite), ..CompositeSpec::default() };
    let render = LateRender {
        recording: id("01r"),
        spec: LateSpec { composite: composite.clone(), from_ms: 0, to_ms: None, hidden: None },
        state: LateState::Rendering,
        reason: "asked for".to_owned(),
        slices: division.slices,
        rendered: 0,
        duration_ms: 0,
        shown_ms: Vec::new(),
        requested_by: String::new(),
        created_at: OffsetDateTime::UNIX_EPOCH,
        finished_at: None,
        files: Vec::new(),
    };
    let active = ActiveRender {
        render,
        fold,
        stretch_us: (0, 1),
        cuts: Cuts::default(),
        division,
        spans_per_job: 0,
        done: BTreeSet::new(),
    };
    cluster.alive.late.insert((id("01r"), composite.id), active);
    cluster.settle();
}

/// Those of `node` report, or all compositors.
fn report_late(cluster: &mut Cluster, node: Option<&str>, change: impl Fn(&mut RenderProgress)) {
    for (piece, job) in &cluster.alive.pieces {
        let Some(holder) = job.node.clone().filter(|holder| node.is_none_or(|node| holder.as_str() == node)) else {
            continue;
        };
        let mut progress = RenderProgress { node: holder, slices: 1, finished: false, error: None, files: Vec::new() };
        change(&mut progress);
        cluster.alive.piece_progress.insert(piece.clone(), progress);
    }
    cluster.settle();
}

/// Which spans each node has.
fn shares(cluster: &Cluster) -> Vec<(String, Piece)> {
    let mut shares: Vec<_> = cluster
        .alive
        .pieces
        .iter()
        .map(|((_, piece), job)| (job.node.as_ref().map(ToString::to_string).unwrap_or_default(), piece.clone()))
        .collect();
    shares.sort();
    shares
}

#[test]
fn a_late_render_is_shared_by_all_compositors_and_joined_by_one() {
    let mut cluster = Cluster::new(0, 2);
    ask_late(&mut cluster, "speaker", 10);
    // Two cores, three jobs for each: two spans a job, and one job at a time.
    let spans = |first, end| Piece::Spans { first, end };
    let given = shares(&cluster);
    assert_eq!(
        given.iter().map(|(_, piece)| piece.clone()).collect::<BTreeSet<_>>(),
        [spans(0, 2), spans(2, 4)].into()
    );
    assert_eq!(given.iter().map(|(node, _)| node.as_str()).collect::<BTreeSet<_>>(), ["c0", "c1"].into());
    let mut made = BTreeSet::new();
    for _ in 0..3 {
        made.extend(shares(&cluster).into_iter().map(|(_, piece)| piece));
        report_late(&mut cluster, None, |progress| progress.finished = true);
    }
    assert_eq!(made.len(), 5, "{made:?}");
    let active = cluster.alive.late.values().next().expect("under way");
    assert_eq!((active.render.state, active.render.rendered), (LateState::Joining, 299));
    assert_eq!(shares(&cluster).iter().map(|(_, piece)| piece.clone()).collect::<Vec<_>>(), [Piece::Join]);
    let file = "composites/speaker/composite.mp4";
    report_late(&mut cluster, None, |progress| {
        progress.finished = true;
        progress.files = vec![file.to_owned()];
    });
    let end = cluster.late_ends.pop().expect("ended");
    assert_eq!((end.state, end.files), (LateState::Complete, vec![file.to_owned()]));
    assert!(end.finished_at.is_some() && cluster.alive.late.is_empty() && cluster.alive.pieces.is_empty());
}

#[test]
fn a_tenant_with_many_late_renders_leaves_cores_to_another() {
    let mut cluster = Cluster::new(0, 2);
    for n in 0..20 {
        ask_late_of(&mut cluster, "greedy", &format!("g{n:02}"), 10);
    }
    ask_late_of(&mut cluster, "modest", "m", 10);
    let held = |cluster: &Cluster| {
        let jobs = cluster.alive.pieces.values().filter(|job| job.spec.tenant.as_str() == "modest");
        (jobs.count(), cluster.alive.pieces.len())
    };
    assert_eq!(held(&cluster), (0, 2), "what was given out stays");
    let mut shares = Vec::new();
    while cluster.late_ends.iter().all(|end| end.spec.composite.id.as_str() != "m") {
        report_late(&mut cluster, None, |progress| progress.finished = true);
        shares.push(held(&cluster).0);
        assert!(shares.len() < 20, "it waits for all the others: {shares:?}");
    }
}

#[test]
fn a_compositor_that_dies_or_leaves_costs_a_late_render_its_spans() {
    for drained in [false, true] {
        let mut cluster = Cluster::new(0, 2);
        ask_late(&mut cluster, "speaker", 6);
        report_late(&mut cluster, None, |_| {});
        let lost = shares(&cluster).into_iter().find(|(node, _)| node == "c0").expect("c0 has some").1;
        if drained {
            cluster.drain(Role::Compositor, "c0")
        } else {
            cluster.leave(Role::Compositor, "c0")
        }
        cluster.settle();
        cluster.seconds += 5;
        cluster.settle();
        // The other has one core, and what it has comes first.
        assert_eq!(shares(&cluster).len(), 2);
        report_late(&mut cluster, Some("c1"), |progress| progress.finished = true);
        assert!(shares(&cluster).contains(&("c1".to_owned(), lost.clone())), "{:?}", shares(&cluster));
        for _ in 0..8 {
            report_late(&mut cluster, Some("c1"), |progress| progress.finished = true);
        }
        assert_eq!(cluster.late_ends.pop().expect("ended").state, LateState::Complete);
    }
}

#[test]
fn late_renders_wait_for_a_core_and_end_with_a_reason() {
    let mut cluster = Cluster::new(0, 1);
    let node = (Role::Compositor, id("c0"));
    cluster.alive.nodes.get_mut(&node).expect("there").load = 100;
    ask_late(&mut cluster, "speaker", 1);
    ask_late(&mut cluster, "pip", 1);
    assert!(shares(&cluster).is_empty(), "recordings under way come first");
    cluster.alive.nodes.get_mut(&node).expect("there").load = 0;
    cluster.settle();
    assert_eq!(shares(&cluster).len(), 1, "one core");
    for _ in 0..3 {
        report_late(&mut cluster, None, |progress| progress.error = Some("window 0: damaged".to_owned()));
    }
    let end = cluster.late_ends.pop().expect("ended");
    assert_eq!(end.state, LateState::Failed);
    assert!(end.reason.ends_with("3 attempts: window 0: damaged"), "{}", end.reason);
    assert_eq!(shares(&cluster).len(), 1, "the other one is next");
}
