//! A coordinator replica: the planner, the rooms and the control entries as they are, between a lease and fenced writes.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng as _;
use roomreel_coordinator::control::{At, Control};
use roomreel_coordinator::election::Tenure;
use roomreel_coordinator::plan::{self, Action, Limits, Memory, Now, RenderId, World};
use roomreel_coordinator::rooms::Rooms;
use roomreel_shared::id::RecordingId;
use roomreel_shared::policy::Policy;
use roomreel_shared::recording::Recording;
use time::OffsetDateTime;

use crate::simulation::faults::Fault;
use crate::simulation::models::bus::Message;
use crate::simulation::models::log::Delivery;
use crate::simulation::planted::Bug;
use crate::simulation::world::{self, Began, Env};

const LEASE: Duration = Duration::from_secs(4);
const ROUND: Duration = Duration::from_millis(500);

struct Reign {
    fence: u64,
    began: Duration,
    tenure: Tenure,
    rooms: Rooms,
    control: Control,
    memory: Memory,
    position: u64,
    generation: u64,
    caught_up: bool,
    /// Planned and not yet performed.
    planned: Option<Planned>,
}

struct Planned {
    actions: Vec<Action>,
    revisions: BTreeMap<RecordingId, [u64; 2]>,
    renders: BTreeMap<RenderId, u64>,
}

/// See the module.
pub struct Replica {
    name: usize,
    reign: Option<Reign>,
    down_until: Duration,
    next: Duration,
}

impl Replica {
    /// A replica; they take turns within a round.
    #[must_use]
    pub fn new(name: usize) -> Self {
        Self { name, reign: None, down_until: Duration::ZERO, next: ROUND / 2 * u32::try_from(name).unwrap_or(0) }
    }

    /// Nothing goes wrong any more.
    pub fn heal(&mut self, now: Duration) {
        self.down_until = self.down_until.min(now);
    }

    /// One step.
    pub fn step(&mut self, env: &mut Env, limits: &Limits) {
        if env.now < self.next || env.now < self.down_until {
            return;
        }
        self.next = env.now + ROUND;
        if self.reign.is_some() && env.strikes(Fault::LeadersCrash) {
            env.tell(format!("leader {} dies", self.name));
            self.reign = None;
            self.down_until = env.now + Duration::from_secs(3);
            return;
        }
        let Some(reign) = &mut self.reign else { return self.campaign(env, limits) };
        // One that was paused finds its plan and asks its own clock first.
        if !reign.tenure.holds(env.now) {
            env.tell(format!("leader {} is none any more", self.name));
            self.reign = None;
            return;
        }
        if let Some(planned) = reign.planned.take() {
            reign.perform(env, planned);
            return;
        }
        if env.coordination.answers(env.now) {
            if !env.coordination.renew(reign.fence, env.now + LEASE) {
                self.reign = None;
                return;
            }
            reign.tenure.renewed(env.now, LEASE);
        } else {
            return;
        }
        reign.read(env);
        let (alive, revisions, renders) = env.coordination.observe();
        let now = reign.now(env);
        let world = World { now, alive: &alive, rooms: reign.caught_up.then_some(&reign.rooms) };
        let actions = plan::plan(&world, &mut reign.memory, limits);
        let planned = Planned { actions, revisions, renders };
        if env.strikes(Fault::LeadersPause) {
            env.tell(format!("leader {} is paused before it performs", self.name));
            reign.planned = Some(planned);
            self.down_until = env.now + Duration::from_millis(env.rng.random_range(500..9000));
        } else {
            reign.perform(env, planned);
        }
    }

    fn campaign(&mut self, env: &mut Env, limits: &Limits) {
        if !env.coordination.answers(env.now) {
            return;
        }
        let Some(fence) = env.coordination.campaign(env.now + LEASE) else { return };
        env.tell(format!("replica {} leads under {fence}", self.name));
        self.reign = Some(Reign {
            fence,
            began: env.now,
            tenure: Tenure::granted(env.now, LEASE),
            rooms: Rooms::new(limits.shards, Policy::default(), limits.idle),
            control: Control::new(env.rng.random(), limits.shards, limits.window),
            memory: Memory::default(),
            position: 1,
            generation: u64::MAX,
            caught_up: false,
            planned: None,
        });
    }
}

impl Reign {
    fn now(&self, env: &Env) -> Now {
        let wall = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + env.now;
        Now { monotonic: env.now - self.began, wall }
    }

    fn read(&mut self, env: &mut Env) {
        loop {
            match env.log.read(env.now, &mut self.generation, self.position, 256) {
                Delivery::Away => return,
                Delivery::Broken(last) => {
                    if last + 1 < self.position {
                        (self.position, self.caught_up) = (1, false);
                    }
                }
                Delivery::Entries(entries) if entries.is_empty() => {
                    self.caught_up = true;
                    return;
                }
                Delivery::Entries(entries) => {
                    for entry in entries {
                        self.position = entry.sequence + 1;
                        if let Ok(Some(echo)) = self.rooms.apply(&entry) {
                            self.control.on_echo(&echo);
                        }
                    }
                }
            }
        }
    }

    fn perform(&mut self, env: &mut Env, planned: Planned) {
        let now = self.now(env);
        let at = At { monotonic: now.monotonic, wall: world::room_time(env.now) };
        for action in planned.actions {
            let revision = |id: &RecordingId| planned.revisions.get(id).copied().unwrap_or_default();
            match action {
                Action::Start(active) => {
                    let guard = revision(&active.recording.id)[0];
                    let id = active.recording.id.clone();
                    let began = Began { at: env.now, start_sequence: active.spec.start_sequence };
                    // The bucket's final state is looked at first: what has ended is not begun again.
                    if let Some(recording) = env.finished.iter().find(|done| done.id == id) {
                        self.memory.on_finished(recording.clone());
                    } else if env.coordination.put_recording(env.now, self.fence, guard, *active) {
                        env.tell("a recording begins".to_owned());
                        env.began.entry(id.clone()).or_insert(began);
                        env.send(Message::RecordingState(id, true));
                    }
                }
                // What the log knows is in this coordination store, which loses nothing, or it has ended.
                Action::TakeUp(name) => match env.finished.iter().find(|done| done.id == name.recording) {
                    Some(recording) => self.memory.on_finished(recording.clone()),
                    None => self.memory.on_unknown(name.recording),
                },
                Action::Update(active) => {
                    let guard = revision(&active.recording.id)[0];
                    env.coordination.put_recording(env.now, self.fence, guard, *active);
                }
                Action::Assign { assignment, .. } => {
                    let guard = revision(&assignment.spec.recording)[1];
                    let to = assignment.node.clone();
                    if let Some(epoch) = env.coordination.assign(env.now, self.fence, guard, assignment) {
                        env.tell(format!("{to} is assigned, epoch {epoch}"));
                    }
                }
                Action::Render { id, job, .. } => {
                    let guard = planned.renders.get(&id).copied().unwrap_or_default();
                    env.coordination.put_render(env.now, self.fence, guard, id, *job);
                }
                Action::Command { room, command, event } => self.control.command(&room, &command, event, at),
                Action::Tick { room } if env.bug != Some(Bug::NoTicks) => self.control.tick(&room, at),
                Action::Tick { .. } | Action::Answer { .. } | Action::Late { .. } | Action::FinishLate { .. } => {}
                Action::Finish { recording, .. } => self.finish(env, *recording, revision),
            }
        }
        for entry in self.control.due(now.monotonic).into_iter().flatten() {
            env.append(&entry);
        }
    }

    fn finish(&mut self, env: &mut Env, recording: Recording, revision: impl Fn(&RecordingId) -> [u64; 2]) {
        let guard = revision(&recording.id)[0];
        if env.coordination.finish(env.now, self.fence, guard, &recording.id) {
            env.tell(format!("the recording is {:?}: {}", recording.state, recording.reason));
            env.send(Message::RecordingState(recording.id.clone(), false));
            self.memory.on_finished(recording.clone());
            env.finished.push(recording);
        }
    }
}
