//! The life of a recording: why it stops, which state users see, when it is final.

use std::time::Duration;

use roomreel_shared::cluster::{ActiveRecording, Progress};
use roomreel_shared::event::{EventKind, StopReason};
use roomreel_shared::recording::{Recording, State};
use roomreel_shared::time::LogTime;

use super::age::{Age, Clocks};
use super::placement::{RenderState, render_state};
use super::requests::Wishes;
use super::{Action, Finishing, Limits, Memory, World};
use crate::rooms::{Room, RoomKey};

/// An ended recording that is waited for, and what it had come to when it last made progress.
#[derive(Debug)]
pub struct Wait {
    since: Duration,
    progress: Option<Progress>,
    slices: u64,
}

/// Everything that bears on one recording.
struct Case<'a> {
    active: &'a ActiveRecording,
    progress: Option<&'a Progress>,
    room: Option<&'a Room>,
    age: Age,
    renders: RenderState,
}

/// What is known of a recording's clocks.
fn clocks(world: &World<'_>, active: &ActiveRecording, progress: Option<&Progress>, room: Option<&Room>) -> Clocks {
    let seen = room.and_then(|room| room.recordings.get(&active.recording.id));
    let folded = progress.filter(|progress| progress.windows > 0);
    let log = |us: i64| LogTime::from_micros(us);
    Clocks {
        wall: (world.now.wall - active.recording.created_at).try_into().unwrap_or(Duration::ZERO),
        log_began: active.spec.beginning.map(|beginning| beginning.log_time).or(seen.and_then(|seen| seen.started)),
        // A room that is recorded has no other session: its newest entry is of this one.
        log_newest: room.map(|room| room.newest).max(folded.map(|progress| log(progress.log_time_us))),
        folded: folded.map(|progress| (log(progress.sfu_log_time_us), log(progress.log_time_us))),
        length: folded.map(|progress| Duration::from_micros(progress.duration_us)),
    }
}

impl Case<'_> {
    fn finished(&self) -> bool {
        self.progress.is_some_and(|progress| progress.finished)
    }

    /// Whether it is made of this session of its room. A new leader, which reads the log from its beginning, sees the
    /// sessions before it first.
    fn is_of(&self, room: &Room) -> bool {
        let spec = &self.active.spec;
        room.session.is_of(spec).unwrap_or(room.session.sequence >= spec.start_sequence)
    }

    /// Whether the room is in a later session, so that this one is over, although its RoomClosed has not been seen.
    ///
    /// Where entries stand proves little: a broker may have the same ones further on, and drops the oldest, so that a room is
    /// first heard of ever later. In doubt the recording goes on: nothing is lost by that.
    fn is_before(&self, room: &Room) -> bool {
        let spec = &self.active.spec;
        let is_other = !room.session.is_of(spec).unwrap_or(!room.session.whole);
        let is_heard_of = room.recordings.contains_key(&self.active.recording.id);
        is_other && !is_heard_of && room.session.sequence > spec.start_sequence
    }

    /// Why the recording is to stop now.
    fn stop(&self, limits: &Limits, asked_by: Option<&String>) -> Option<(StopReason, String)> {
        if let Some(who) = asked_by {
            return Some((StopReason::Requested, format!("stopped by {who}")));
        }
        let is_over = |room: &Room| room.closed.is_some() && self.is_of(room) || self.is_before(room);
        if self.finished() || self.room.is_some_and(is_over) {
            return Some((StopReason::RoomClosed, "the room closed".to_owned()));
        }
        if self.room.is_some_and(|room| !room.policy.enabled && self.is_of(room)) {
            return Some((StopReason::Policy, "the room's policy was changed to forbid recording (5001)".to_owned()));
        }
        if self.age.age >= limits.max_duration {
            let minutes = limits.max_duration.as_secs() / 60;
            return Some((StopReason::LimitReached, format!("the maximum duration of {minutes} min was reached")));
        }
        if self.age.silence >= limits.idle {
            return Some((StopReason::Idle, format!("nothing came from the room for {} s", limits.idle.as_secs())));
        }
        None
    }

    /// The state and reason that users see while it is not final.
    fn show(&self, next: &mut ActiveRecording) {
        let recording = &mut next.recording;
        let windows = self.progress.map_or(0, |progress| progress.windows);
        let in_log = self.room.and_then(|room| room.recordings.get(&recording.id)).map(|seen| seen.paused);
        let paused = in_log.or(self.progress.map(|progress| progress.paused)).unwrap_or(false);
        let was = recording.state;
        recording.state = match (next.stopping, paused, windows) {
            (true, ..) => State::Ending,
            (false, true, _) => State::Paused,
            (false, false, 0) => State::Starting,
            (false, false, _) => State::Active,
        };
        if !next.stopping && was != recording.state {
            recording.reason = match recording.state {
                State::Paused => "paused on request".to_owned(),
                State::Active => "windows are being committed".to_owned(),
                _ => "waiting for the first window".to_owned(),
            };
        }
        // Who may see and download follows the room, for as long as it is that of this recording.
        if let Some(policy) = self.room.and_then(|room| room.policy_of(&self.active.spec)) {
            recording.policy.clone_from(policy);
        }
        if let Some(progress) = self.progress {
            recording.incomplete = progress.incomplete;
        }
    }

    /// The final state, if everything that is to come has come.
    fn settled(&self, world: &World<'_>) -> Option<Recording> {
        if !self.finished() || !self.renders.settled {
            return None;
        }
        let stop_reason = self.active.recording.stop_reason.unwrap_or(StopReason::RoomClosed);
        let reason = || self.active.recording.reason.clone();
        Some(match (&self.renders.failures[..], stop_reason) {
            ([], StopReason::LimitReached) => self.end(world, State::LimitReached, reason()),
            ([], _) => self.end(world, State::Complete, reason()),
            (failures, _) => self.end(world, State::Failed, failures.join("; ")),
        })
    }

    fn end(&self, world: &World<'_>, state: State, reason: String) -> Recording {
        let mut files: Vec<_> = ["recording.json", "policy.json"].map(str::to_owned).into();
        files.extend(self.renders.files.iter().filter(|file| !file.is_empty()).cloned());
        files.dedup();
        Recording {
            state,
            reason,
            finished_at: Some(world.now.wall),
            duration_ms: self.progress.map(|progress| progress.duration_us / 1000),
            windows: self.progress.map(|progress| progress.windows),
            files,
            ..self.active.recording.clone()
        }
    }

    /// The final state of a recording that has been waited for too long.
    fn give_up(&self, world: &World<'_>, limits: &Limits) -> Recording {
        let minutes = limits.ending.as_secs() / 60;
        let windows = self.progress.map_or(0, |progress| progress.windows);
        match (windows, self.finished()) {
            (0, false) => {
                let reason = format!("no ingest node recorded anything within {minutes} min of its end");
                self.end(world, State::Aborted, reason)
            }
            (_, false) => {
                let reason =
                    format!("ingest made no progress for {minutes} min and {windows} windows are in the bucket");
                self.end(world, State::Failed, reason)
            }
            (_, true) => self.end(world, State::Failed, format!("the compositors made no progress for {minutes} min")),
        }
    }
}

pub(super) fn plan(
    world: &World<'_>,
    memory: &mut Memory,
    limits: &Limits,
    wishes: &Wishes,
    actions: &mut Vec<Action>,
) -> Finishing {
    let alive = world.alive;
    let mut finishing = Finishing::new();
    memory.waits.retain(|id, _| alive.recordings.contains_key(id));
    memory.ages.retain(|id| alive.recordings.contains_key(id));
    for (id, active) in &alive.recordings {
        let key = RoomKey::of(&active.recording);
        let progress = alive.progress.get(id);
        let room = world.rooms.and_then(|rooms| rooms.get(&key));
        let clocks = clocks(world, active, progress, room);
        let case = Case {
            active,
            progress,
            room,
            age: memory.ages.of(id, &clocks, world.now.monotonic, limits.ending),
            renders: render_state(world, id),
        };
        let mut next = active.clone();
        if !active.stopping
            && let Some((stop_reason, reason)) = case.stop(limits, wishes.get(id))
        {
            next.stopping = true;
            next.recording.stop_reason = Some(stop_reason);
            next.recording.reason = reason;
        }
        case.show(&mut next);
        // What was decided is written down first: whoever leads next goes on from it.
        let end =
            if next != *active { None } else { case.settled(world).or_else(|| waited(&case, world, memory, limits)) };
        if let Some(recording) = end {
            let renders = alive.renders.keys().filter(|render| render.recording == *id).cloned().collect();
            actions.push(Action::Finish { recording: Box::new(recording), renders });
            finishing.insert(id.clone());
            continue;
        }
        if !case.finished() {
            demand_entries(&case, &key, actions);
        }
        if next != *active {
            actions.push(Action::Update(Box::new(next)));
        }
    }
    finishing
}

/// Counts how long an ended recording has made no progress.
fn waited(case: &Case<'_>, world: &World<'_>, memory: &mut Memory, limits: &Limits) -> Option<Recording> {
    let id = &case.active.recording.id;
    if !case.active.stopping {
        return None;
    }
    let of_recording = world.alive.render_progress.iter().filter(|(render, _)| render.recording == *id);
    let slices = of_recording.map(|(_, progress)| progress.slices).fold(0, u64::saturating_add);
    let now = world.now.monotonic;
    let begin = || Wait { since: now, progress: case.progress.cloned(), slices };
    let wait = memory.waits.entry(id.clone()).or_insert_with(begin);
    // Only what is new counts: a job that is restarted and fails again is not progress.
    let moved = |wait: &Wait| {
        let windows = |progress: Option<&Progress>| progress.map_or((0, false), |p| (p.windows, p.finished));
        windows(case.progress) > windows(wait.progress.as_ref()) || slices > wait.slices
    };
    if moved(wait) {
        *wait = begin();
    }
    (now.saturating_sub(wait.since) >= limits.ending).then(|| case.give_up(world, limits))
}

/// The control entries that the room's log must hold now. They are demanded until their effect is seen.
fn demand_entries(case: &Case<'_>, key: &RoomKey, actions: &mut Vec<Action>) {
    // As written down, not as just decided: a deposed leader's decision never reaches the log.
    let recording = &case.active.recording;
    let mut demand = |verb: &str, event: &dyn Fn(String) -> EventKind| {
        let command = format!("{}:{verb}", recording.id);
        actions.push(Action::Command { room: key.clone(), command: command.clone(), event: event(command) });
    };
    let (id, requested_by) = (&recording.id, &recording.requested_by);
    if case.progress.is_none_or(|progress| progress.windows == 0) {
        demand("start", &|command| EventKind::RecordingStarted {
            recording: id.clone(),
            command,
            requested_by: requested_by.clone(),
            from: case.active.spec.from,
        });
    }
    if let (true, Some(reason)) = (case.active.stopping, recording.stop_reason) {
        demand("stop", &|command| EventKind::RecordingStopped {
            recording: id.clone(),
            command,
            requested_by: String::new(),
            reason,
        });
    }
    actions.push(Action::Tick { room: key.clone() });
}
