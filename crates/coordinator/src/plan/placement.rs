//! Who folds and who renders: stickiness for what somebody has; for what nobody has, the ingest node that carries least
//! ([`super::balance`]), and rendezvous hashing among the compositors with room (`super::renders`).

use std::collections::BTreeMap;

use roomreel_shared::cluster::{Assignment, Node, RenderJob, RenderProgress, Role};
use roomreel_shared::id::{NodeId, RecordingId};

use super::balance::Loads;
use super::renders::Renders;
use super::{Action, Cause, Finishing, Memory, RenderId, World};

/// Attempts at a render before it is given up.
pub const MAX_ATTEMPTS: u32 = 3;
/// Most moves away from draining nodes in one plan: a node that leaves does not flood the others.
const MAX_DRAIN_MOVES: usize = 16;

/// Whether a job has used up its attempts.
#[must_use]
pub fn given_up(job: &RenderJob) -> bool {
    job.failures >= MAX_ATTEMPTS
}

/// Whether a job's progress is that of its present attempt.
pub(super) fn of_this_attempt(job: &RenderJob, progress: &RenderProgress) -> bool {
    job.node.is_none() || job.node.as_ref() == Some(&progress.node)
}

/// Where something stays or goes.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Stay,
    To(NodeId, Option<Cause>),
}

struct Placer<'a> {
    nodes: &'a BTreeMap<(Role, NodeId), Node>,
    memory: &'a Memory,
    world: &'a World<'a>,
    loads: Loads,
    renders: Renders,
    drain_moves: usize,
}

impl Placer<'_> {
    /// Where `what`, held by `current`, belongs.
    fn place(&mut self, role: Role, what: &str, current: Option<&NodeId>) -> Place {
        let Some(current) = current else {
            return self.choose(role, what, None).map_or(Place::Stay, |to| Place::To(to, None));
        };
        let move_for = |cause| match self.choose(role, what, Some(current)) {
            Some(to) => Place::To(to, Some(cause)),
            None => Place::Stay,
        };
        match self.nodes.get(&(role, current.clone())) {
            Some(node) if !node.draining => Place::Stay,
            Some(_) if self.drain_moves == 0 => Place::Stay,
            Some(_) => {
                let place = move_for(Cause::Draining);
                self.drain_moves -= usize::from(place != Place::Stay);
                place
            }
            None if self.memory.brake.is_dead(self.world.now.monotonic, role, current) => move_for(Cause::Gone),
            None => Place::Stay,
        }
    }

    /// A node that takes new work, one with room if there is one.
    fn choose(&self, role: Role, what: &str, not: Option<&NodeId>) -> Option<NodeId> {
        let of_role = self.nodes.iter().filter(move |((r, _), _)| *r == role).map(|(_, node)| node);
        let willing = of_role.filter(move |node| !node.draining && node.capacity > 0 && Some(&node.id) != not);
        if role == Role::Ingest {
            return self.loads.choose(willing, what);
        }
        self.renders.choose(willing, what)
    }
}

/// The weight of `node` for `what`: the same on every replica, and for other nodes whatever joins or leaves.
pub(super) fn rendezvous(what: &str, node: &NodeId) -> u64 {
    let hash = blake3::Hasher::new().update(what.as_bytes()).update(&[0]).update(node.as_str().as_bytes()).finalize();
    let first: [u8; 8] = hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes");
    u64::from_le_bytes(first)
}

pub(super) fn plan(world: &World<'_>, memory: &mut Memory, finishing: &Finishing, actions: &mut Vec<Action>) {
    let alive = world.alive;
    let folds = alive.assignments.values().map(|assignment| (Role::Ingest, assignment.node.clone()));
    let renders = alive
        .renders
        .values()
        .chain(alive.pieces.values())
        .filter_map(|job| Some((Role::Compositor, job.node.clone()?)));
    let present = alive.nodes.keys().cloned().collect();
    memory.brake.observe(world.now.monotonic, present, folds.chain(renders));
    let mut placer = Placer {
        nodes: &alive.nodes,
        memory,
        world,
        loads: Loads::of(alive),
        renders: Renders::of(alive),
        drain_moves: MAX_DRAIN_MOVES,
    };
    for (id, active) in alive.recordings.iter().filter(|(id, _)| !finishing.contains(*id)) {
        if !alive.progress.get(id).is_some_and(|progress| progress.finished) {
            let current = alive.assignments.get(id).map(|assignment| &assignment.node);
            if let Place::To(node, cause) = placer.place(Role::Ingest, id.as_str(), current) {
                if let Some(current) = current {
                    placer.loads.remove(id, current);
                }
                placer.loads.put(id, &node);
                let assignment = Assignment { node, spec: active.spec.clone() };
                actions.push(Action::Assign { assignment, cause });
            }
        }
        place_renders(&mut placer, id, actions);
    }
    let loads = placer.loads;
    balance(world, memory, finishing, &loads, actions);
}

/// Moves a room from the node that carries most, if it is time.
fn balance(world: &World<'_>, memory: &mut Memory, finishing: &Finishing, loads: &Loads, actions: &mut Vec<Action>) {
    let alive = world.alive;
    let stands = |node: &NodeId| alive.nodes.get(&(Role::Ingest, node.clone())).is_some_and(|node| !node.draining);
    let is_calm = alive.assignments.values().all(|assignment| stands(&assignment.node))
        && !memory.brake.is_on(world.now.monotonic);
    if let Some((id, node)) = memory.balance.pick(world, loads, finishing, is_calm) {
        let assignment = Assignment { node, spec: alive.recordings[&id].spec.clone() };
        actions.push(Action::Assign { assignment, cause: Some(Cause::Balance) });
    }
}

fn place_renders(placer: &mut Placer<'_>, recording: &RecordingId, actions: &mut Vec<Action>) {
    let alive = placer.world.alive;
    let active = &alive.recordings[recording];
    for (id, documents) in wanted(placer.world, recording) {
        let composite = active.recording.composites.iter().find(|spec| Some(&spec.id) == id.composite.as_ref());
        let existing = alive.renders.get(&id);
        let progress = alive.render_progress.get(&id);
        let mut job = existing.cloned().unwrap_or_else(|| RenderJob {
            node: None,
            spec: active.spec.clone(),
            composite: composite.cloned(),
            documents,
            failures: 0,
            late: None,
        });
        let done = progress.is_some_and(|progress| progress.finished);
        let failed = progress.is_some_and(|progress| progress.error.is_some() && of_this_attempt(&job, progress));
        if existing.is_some() && (done || given_up(&job)) {
            continue;
        }
        let what = format!("{recording}/{}", id.composite.as_ref().map_or("", |composite| composite.as_str()));
        let before = job.node.clone();
        let mut cause = None;
        if failed {
            job.failures += 1;
            cause = Some(Cause::Failed);
            // Another node, or the same one if there is no other.
            job.node = match placer.choose(Role::Compositor, &what, before.as_ref()) {
                Some(other) => Some(other),
                None => before.clone(),
            };
            if given_up(&job) {
                job.node = None;
            }
        } else {
            match placer.place(Role::Compositor, &what, before.as_ref()) {
                Place::To(node, why) => (job.node, cause) = (Some(node), why),
                Place::Stay => {}
            }
        }
        if let Some(node) = job.node.as_ref().filter(|_| job.node != before) {
            placer.renders.give(node);
        }
        if existing != Some(&job) {
            let restart = failed && !given_up(&job);
            let cause = cause.filter(|_| before.is_some() && before != job.node);
            actions.push(Action::Render { id, job: Box::new(job), restart, cause });
        }
    }
}

/// The renders a recording ought to have, and whether each writes the documents: the first one does. Should that one be
/// given up, or should there be none, a job for the documents alone is added.
fn wanted(world: &World<'_>, recording: &RecordingId) -> Vec<(RenderId, bool)> {
    let composites = &world.alive.recordings[recording].recording.composites;
    let id = |composite| RenderId { recording: recording.clone(), composite };
    let mut wanted: Vec<_> =
        composites.iter().enumerate().map(|(n, spec)| (id(Some(spec.id.clone())), n == 0)).collect();
    let has_documents = wanted.first().is_some_and(|(first, _)| !world.alive.renders.get(first).is_some_and(given_up));
    if !has_documents {
        wanted.push((id(None), true));
    }
    wanted
}

/// Where the renders of a recording stand.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RenderState {
    /// Every one that is wanted is done or given up.
    pub settled: bool,
    /// Which were given up, and why.
    pub failures: Vec<String>,
    /// Files that are ready.
    pub files: Vec<String>,
}

/// Sums up the renders of a recording.
#[must_use]
pub fn render_state(world: &World<'_>, recording: &RecordingId) -> RenderState {
    let mut state = RenderState { settled: true, ..RenderState::default() };
    for (id, _) in wanted(world, recording) {
        let progress = world.alive.render_progress.get(&id);
        state.files.extend(progress.iter().flat_map(|progress| progress.files.iter().cloned()));
        let done = progress.is_some_and(|progress| progress.finished);
        let name = id.composite.as_ref().map_or("documents".to_owned(), |composite| format!("composite {composite}"));
        match world.alive.renders.get(&id) {
            Some(_) if done => {}
            Some(job) if given_up(job) => {
                let why = progress.and_then(|progress| progress.error.as_deref()).unwrap_or("no reason was given");
                state.failures.push(format!("{name} could not be rendered in {MAX_ATTEMPTS} attempts: {why}"));
            }
            _ => state.settled = false,
        }
    }
    state.files.sort();
    state.files.dedup();
    state
}
