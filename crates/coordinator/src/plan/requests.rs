//! What requests of the API come to.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use roomreel_shared::cluster::{ActiveRecording, Beginning, FoldSpec};
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::event::{EventKind, EventRef};
use roomreel_shared::id::RecordingId;
use roomreel_shared::key::RecordingName;
use roomreel_shared::policy;
use roomreel_shared::recording::{Recording, State};

use super::{Action, Limits, MAX_REMEMBERED, Memory, World};
use crate::request::{Outcome, Refusal, Request, Wish};
use crate::rooms::{Room, RoomKey, Rooms};

/// Stops that were asked for in this plan, and by whom.
pub type Wishes = BTreeMap<RecordingId, String>;

/// An SFU's clock may be off the log's by this before it is not believed.
const CLOCKS_APART: Duration = Duration::from_secs(3600);
/// What an id says beside its time.
const CAUSE_CHARS: usize = 16;

/// The id of the recording that `cause` starts in a session of a room: the same whoever decides it, and however often.
///
/// A broker that lost the session's first event and has it again gives it another log time, so the time is the SFU's where
/// that can be believed.
#[must_use]
pub fn recording_id(key: &RoomKey, room: &Room, cause: &str) -> RecordingId {
    let session = &room.session;
    let mut hasher = blake3::Hasher::new();
    for text in [key.tenant.as_str(), key.room.as_str(), cause] {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    hasher.update(&session.opened.incarnation.to_le_bytes()).update(&session.opened.event_no.to_le_bytes());
    let random = u128::from_le_bytes(hasher.finalize().as_bytes()[..16].try_into().expect("a hash has 32 bytes"));
    let (stored, happened) = (session.log_time.as_micros(), session.time.as_micros());
    let is_believable = u128::from(stored.abs_diff(happened)) <= CLOCKS_APART.as_micros();
    let created_us = if is_believable { happened } else { stored };
    RecordingId::generate(u64::try_from(created_us).unwrap_or(0) / 1000, random)
}

/// Recordings that are known, under whatever time, by what else their ids say.
struct Known<'a>(BTreeMap<&'a str, &'a RecordingId>);

impl<'a> Known<'a> {
    fn of(world: &World<'a>, memory: &'a Memory) -> Self {
        let ids = world.alive.recordings.keys().chain(memory.finished.keys());
        Self(ids.map(|id| (cause_of(id), id)).collect())
    }

    /// The id under which the recording is known, or its own.
    fn id(&self, id: RecordingId, room: &Room) -> RecordingId {
        let in_log = room.recordings.keys().find(|known| cause_of(known) == cause_of(&id));
        self.0.get(cause_of(&id)).copied().or(in_log).cloned().unwrap_or(id)
    }
}

fn cause_of(id: &RecordingId) -> &str {
    let id = id.as_str();
    id.len().checked_sub(CAUSE_CHARS).and_then(|at| id.get(at..)).unwrap_or(id)
}

/// A recording about to be started.
struct Start<'a> {
    key: &'a RoomKey,
    room: &'a Room,
    id: RecordingId,
    from: Option<EventRef>,
    requested_by: &'a str,
    composites: Vec<CompositeSpec>,
}

fn start(start: Start<'_>, world: &World<'_>, limits: &Limits) -> Action {
    let Start { key, room, id, from, requested_by, composites } = start;
    let recording = Recording {
        id: id.clone(),
        tenant: key.tenant.clone(),
        room: key.room.clone(),
        state: State::Starting,
        reason: if from.is_some() { "started by the room's policy" } else { "started on request" }.to_owned(),
        stop_reason: None,
        requested_by: requested_by.to_owned(),
        created_at: world.now.wall,
        finished_at: None,
        duration_ms: None,
        windows: None,
        incomplete: false,
        composites,
        policy: room.policy.clone(),
        files: Vec::new(),
    };
    let spec = FoldSpec {
        tenant: key.tenant.clone(),
        room: key.room.clone(),
        recording: id,
        shards: limits.shards,
        from,
        session: room.session.whole.then_some(room.session.opened),
        beginning: from.map(|_| Beginning { time: room.session.time, log_time: room.session.log_time }),
        start_sequence: room.session.sequence,
        window_ms: u64::try_from(limits.window.as_millis()).unwrap_or(u64::MAX),
        // The fold begins to read at the session's first event, and meets every later policy in the log.
        policy: room.initial_policy.clone(),
        epoch_base: 0,
    };
    Action::Start(Box::new(ActiveRecording { recording, spec, stopping: false }))
}

/// Rooms that are being recorded, and by what.
type Recorded<'a> = BTreeMap<RoomKey, &'a RecordingId>;

fn recorded<'a>(world: &World<'a>) -> Recorded<'a> {
    let running = world.alive.recordings.iter().filter(|(_, active)| !active.stopping);
    running.map(|(id, active)| (RoomKey::of(&active.recording), id)).collect()
}

pub(super) fn plan(world: &World<'_>, memory: &mut Memory, limits: &Limits, actions: &mut Vec<Action>) -> Wishes {
    let mut stops = Wishes::new();
    // Without the rooms nobody's role is known: requests wait.
    let Some(rooms) = world.rooms else { return stops };
    let recorded = recorded(world);
    let mut starting = take_up(rooms, world, memory, &recorded, actions);
    let memory = &*memory;
    let known = Known::of(world, memory);
    for (request_id, request) in world.alive.requests.iter().filter(|(_, request)| request.outcome.is_none()) {
        let decision = match &request.wish {
            Wish::Start { room, composites } => {
                let key = RoomKey::new(&request.tenant, room);
                match rooms.get(&key) {
                    // Another request starts one in this plan, or one may be taken up; the next plan says which.
                    Some(_) if starting.contains(&key) => Ok(None),
                    Some(room) => {
                        let id = known.id(recording_id(&key, room, request_id), room);
                        let composites = composites.clone().unwrap_or_else(|| limits.composites.clone());
                        let granted = decide_start(world, memory, recorded.get(&key), room, &id, request);
                        if granted == Ok(None) {
                            let requested_by = request.requested_by();
                            let begin = Start { key: &key, room, id, from: None, requested_by, composites };
                            actions.push(start(begin, world, limits));
                            starting.insert(key);
                        }
                        granted
                    }
                    None => Err(Refusal::RoomNotOpen),
                }
            }
            Wish::Stop { recording } => decide_running(world, recording, request).map(|active| {
                if active.stopping {
                    return Some(active.recording.clone());
                }
                stops.insert(recording.clone(), request.requested_by().to_owned());
                None
            }),
            Wish::Pause { recording } | Wish::Resume { recording } | Wish::Layout { recording, .. } => {
                decide_running(world, recording, request).and_then(|active| {
                    let key = RoomKey::of(&active.recording);
                    let seen = rooms.get(&key).and_then(|room| room.recordings.get(recording));
                    if active.stopping {
                        return Err(Refusal::Ended);
                    }
                    if seen.is_some_and(|seen| seen.commands.contains(request_id)) {
                        let pauses = matches!(request.wish, Wish::Pause { .. });
                        let state = if pauses { State::Paused } else { active.recording.state };
                        return Ok(Some(Recording { state, ..active.recording.clone() }));
                    }
                    actions.push(entry(key, recording, request_id, request));
                    Ok(None)
                })
            }
        };
        let outcome = match decision {
            Ok(Some(recording)) => Outcome::Done(Box::new(recording)),
            Ok(None) => continue,
            Err(refusal) => Outcome::Refused(refusal),
        };
        actions.push(Action::Answer { request: request_id.clone(), outcome: Box::new(outcome) });
    }
    start_unasked(world, memory, limits, (&recorded, &known), &starting, actions);
    stops
}

/// Seeks what the log says was begun and the coordination store does not know: it was lost there, or it has ended. Answers the rooms
/// that are to wait for what comes of it: those that are asked about for the first time, so that a bucket that is away delays nothing.
fn take_up(
    rooms: &Rooms,
    world: &World<'_>,
    memory: &mut Memory,
    recorded: &Recorded<'_>,
    actions: &mut Vec<Action>,
) -> BTreeSet<RoomKey> {
    let mut wait = BTreeSet::new();
    for (key, room) in rooms.iter().filter(|(key, _)| !recorded.contains_key(*key)) {
        let is_settled = |id: &RecordingId| {
            world.alive.recordings.contains_key(id) || memory.finished.contains_key(id) || memory.unknown.contains(id)
        };
        let lost: Vec<_> = room.recordings.keys().filter(|id| !is_settled(id)).cloned().collect();
        for recording in lost {
            if memory.sought.len() >= MAX_REMEMBERED {
                memory.sought.clear();
            }
            if memory.sought.insert(recording.clone()) {
                wait.insert(key.clone());
            }
            let (tenant, room) = (key.tenant.clone(), key.room.clone());
            actions.push(Action::TakeUp(RecordingName { tenant, room, recording }));
        }
    }
    wait
}

/// What the room's log is to say of a pause, a resume or a change of layout.
fn entry(key: RoomKey, recording: &RecordingId, id: &str, request: &Request) -> Action {
    let (recording, command) = (recording.clone(), id.to_owned());
    let requested_by = request.requested_by().to_owned();
    let event = match &request.wish {
        Wish::Pause { .. } => EventKind::RecordingPaused { recording, command, requested_by },
        Wish::Layout { composite, layout, hidden, .. } => {
            let (composite, layout, hidden) = (composite.clone(), layout.clone(), hidden.clone());
            EventKind::LayoutChanged { recording, command, composite, layout, hidden }
        }
        _ => EventKind::RecordingResumed { recording, command, requested_by },
    };
    Action::Command { room: key, command: id.to_owned(), event }
}

/// `Ok(None)`: it may begin.
fn decide_start(
    world: &World<'_>,
    memory: &Memory,
    recorded_by: Option<&&RecordingId>,
    room: &Room,
    id: &RecordingId,
    request: &Request,
) -> Result<Option<Recording>, Refusal> {
    // A request that has been granted before, by this leader or another, has come to this.
    let granted = world.alive.recordings.get(id).map(|active| &active.recording).or_else(|| memory.finished.get(id));
    if let Some(recording) = granted {
        return Ok(Some(recording.clone()));
    }
    if room.closed.is_some() {
        return Err(Refusal::RoomNotOpen);
    }
    may_record(&room.policy, request)?;
    match recorded_by {
        Some(recording) => Err(Refusal::AlreadyRecorded { recording: (*recording).clone() }),
        None => Ok(None),
    }
}

fn may_record(policy: &policy::Policy, request: &Request) -> Result<(), Refusal> {
    let checked = match &request.peer {
        Some(peer) => policy.check_record(peer),
        None if policy.enabled => Ok(()),
        None => Err(policy::Refusal::Disabled),
    };
    checked.map_err(|refusal| match refusal {
        policy::Refusal::Disabled => Refusal::Disabled,
        policy::Refusal::NotAuthorised { .. } => Refusal::NotAuthorised { detail: refusal.to_string() },
    })
}

/// The recording that a request names, if its asker may command it.
fn decide_running<'a>(
    world: &World<'a>,
    recording: &RecordingId,
    request: &Request,
) -> Result<&'a ActiveRecording, Refusal> {
    let alive = world.alive;
    let active = alive.recordings.get(recording).filter(|active| active.recording.tenant == request.tenant);
    let active = active.ok_or(Refusal::Ended)?;
    let key = RoomKey::of(&active.recording);
    let room = world.rooms.and_then(|rooms| rooms.get(&key));
    let policy = room.and_then(|room| room.policy_of(&active.spec)).unwrap_or(&active.recording.policy);
    match may_record(policy, request) {
        // Where recording is disabled, a recording is being stopped anyway.
        Ok(()) | Err(Refusal::Disabled) => Ok(active),
        Err(refusal) => Err(refusal),
    }
}

/// Starts what policy wants recorded and nobody has asked for.
fn start_unasked(
    world: &World<'_>,
    memory: &Memory,
    limits: &Limits,
    (recorded, known): (&Recorded<'_>, &Known<'_>),
    starting: &BTreeSet<RoomKey>,
    actions: &mut Vec<Action>,
) {
    let Some(rooms) = world.rooms else { return };
    for (key, room) in rooms.iter() {
        let wanted = room.policy.enabled && room.policy.auto_record && room.had_producer && room.session.whole;
        if !wanted || starting.contains(key) {
            continue;
        }
        let id = known.id(recording_id(key, room, "auto"), room);
        let is_known = world.alive.recordings.contains_key(&id) || memory.finished.contains_key(&id);
        if is_known || recorded.contains_key(key) {
            continue;
        }
        let from = Some(room.session.opened);
        let composites = limits.composites.clone();
        actions.push(start(Start { key, room, id, from, requested_by: "", composites }, world, limits));
    }
}
