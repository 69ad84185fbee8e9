//! Who makes which piece of a late render: spans to compositors with a core to spare, then one join, then the end.
//!
//! Jobs are given out as there is room, so a node that dies costs its spans and a node that comes takes its share; a render is
//! divided into a few jobs for each core there is when it begins, and tenants have their turns at what is free. Slices do not
//! depend on any of this (see [`roomreel_shared::late`]). Recordings under way come first: a node whose cores are taken gets nothing.

use std::collections::BTreeMap;

use roomreel_shared::cluster::{Node, RenderJob, RenderProgress, Role};
use roomreel_shared::id::{NodeId, TenantId};
use roomreel_shared::late::{ActiveRender, LateState, Piece};

use super::placement::{MAX_ATTEMPTS, given_up, of_this_attempt, rendezvous};
use super::renders::LEAST;
use super::{Action, LateId, Memory, PieceId, World};

/// Jobs for each core: so many times is the work shared out anew while a render runs.
const JOBS_PER_CORE: u64 = 3;
/// Most jobs of a render.
const MAX_JOBS: u64 = 500;
/// Most jobs that are given out or forgotten in one transaction.
const MAX_CHANGES: usize = 24;

/// Cores that are free for late renders.
struct Room<'a> {
    world: &'a World<'a>,
    free: BTreeMap<NodeId, u64>,
}

impl<'a> Room<'a> {
    fn new(world: &'a World<'a>) -> Self {
        let mut free = BTreeMap::new();
        for node in willing(world) {
            let held = world.alive.pieces.values().filter(|job| job.node.as_ref() == Some(&node.id)).count() as u64;
            // What it does for late renders is part of its load.
            let busy = held == 0 && node.load.saturating_add(LEAST) > node.capacity;
            free.insert(node.id.clone(), if busy { 0 } else { cores(node).saturating_sub(held) });
        }
        Self { world, free }
    }

    /// A node with a free core, which is taken.
    fn take(&mut self, what: &str, not: Option<&NodeId>) -> Option<NodeId> {
        let able = self.free.iter().filter(|(node, free)| **free > 0 && Some(*node) != not);
        let (node, _) = able.max_by_key(|(node, free)| (**free, rendezvous(what, node)))?;
        let node = node.clone();
        self.free.entry(node.clone()).and_modify(|free| *free -= 1);
        Some(node)
    }

    /// Any node that takes new work: joining costs hardly anything.
    fn any(&self, what: &str, not: Option<&NodeId>) -> Option<NodeId> {
        let others = willing(self.world).filter(|node| Some(&node.id) != not);
        others.max_by_key(|node| rendezvous(what, &node.id)).map(|node| node.id.clone())
    }
}

fn willing<'a>(world: &World<'a>) -> impl Iterator<Item = &'a Node> + use<'a> {
    let of_role = world.alive.nodes.iter().filter(|((role, _), _)| *role == Role::Compositor);
    of_role.map(|(_, node)| node).filter(|node| !node.draining && node.capacity > 0)
}

fn cores(node: &Node) -> u64 {
    (node.capacity / 1000).max(1)
}

pub(super) fn plan(world: &World<'_>, memory: &Memory, actions: &mut Vec<Action>) {
    let mut room = Room::new(world);
    // One writer at a time for what a recording's documents list.
    let mut finishing = std::collections::BTreeSet::new();
    for (id, active) in in_turn(world) {
        let mut plan = Plan { world, memory, id, next: active.clone(), jobs: Vec::new(), gone: Vec::new() };
        plan.advance(&mut room);
        let Plan { mut next, jobs, gone, .. } = plan;
        if next.render.state.is_final() {
            if finishing.insert(&id.0) {
                next.render.finished_at = Some(world.now.wall);
                let gone = pieces_of(world, id).map(|(_, job)| job.clone()).collect();
                actions.push(Action::FinishLate { render: Box::new(next), gone });
            }
        } else if next != *active || !jobs.is_empty() || !gone.is_empty() {
            actions.push(Action::Late { render: Box::new(next), jobs, gone });
        }
    }
}

/// The tenants that hold the fewest cores first, then by age: many renders of one tenant take not every core that becomes free.
fn in_turn<'a>(world: &World<'a>) -> Vec<(&'a LateId, &'a ActiveRender)> {
    let mut held: BTreeMap<&TenantId, usize> = BTreeMap::new();
    for job in world.alive.pieces.values().filter(|job| job.node.is_some()) {
        *held.entry(&job.spec.tenant).or_default() += 1;
    }
    let mut turns: Vec<_> = world.alive.late.iter().collect();
    let of_tenant = |active: &ActiveRender| held.get(&active.fold.tenant).copied().unwrap_or_default();
    turns.sort_by_key(|(id, active)| (of_tenant(active), active.render.created_at, *id));
    turns
}

fn pieces_of<'a>(world: &World<'a>, id: &LateId) -> impl Iterator<Item = (&'a PieceId, &'a RenderJob)> {
    world.alive.pieces.iter().filter(move |((of, _), _)| of == id)
}

/// What one render comes to.
struct Plan<'a> {
    world: &'a World<'a>,
    memory: &'a Memory,
    id: &'a LateId,
    next: ActiveRender,
    jobs: Vec<RenderJob>,
    gone: Vec<RenderJob>,
}

impl Plan<'_> {
    fn advance(&mut self, room: &mut Room<'_>) {
        if self.next.spans_per_job == 0 {
            let cores: u64 = willing(self.world).map(cores).sum();
            if cores == 0 {
                return;
            }
            let spans = self.next.division.spans();
            self.next.spans_per_job = spans.div_ceil((cores * JOBS_PER_CORE).min(MAX_JOBS)).max(1);
        }
        let todo: Vec<_> = (0..self.next.jobs()).filter(|number| !self.next.done.contains(number)).collect();
        for number in &todo {
            let piece = self.next.piece(*number);
            if self.is_done(&piece) {
                self.next.done.insert(*number);
                self.gone.extend(self.job(&piece).cloned());
            } else if self.jobs.len() + self.gone.len() < MAX_CHANGES {
                self.place(piece, room);
            }
            if self.next.render.state.is_final() {
                return;
            }
        }
        self.count();
        if self.next.done.len() as u64 == self.next.jobs() {
            self.next.render.state = LateState::Joining;
            self.next.render.reason = "files are made of the slices".to_owned();
            if self.is_done(&Piece::Join) {
                let progress = self.progress(&Piece::Join).map(|progress| progress.files.clone()).unwrap_or_default();
                self.next.render.files = progress;
                self.next.render.state = LateState::Complete;
                self.next.render.reason = "everything is in the bucket".to_owned();
            } else {
                self.place(Piece::Join, room);
            }
        }
    }

    /// How many slices there are, as far as they were told of when something else changes.
    fn count(&mut self) {
        let spans = self.next.done.iter().map(|number| match self.next.piece(*number) {
            Piece::Spans { first, end } => {
                let slices = self.next.division.slices_of(first..end);
                slices.end - slices.start
            }
            Piece::Join => 0,
        });
        self.next.render.rendered = spans.sum();
    }

    fn job(&self, piece: &Piece) -> Option<&RenderJob> {
        self.world.alive.pieces.get(&(self.id.clone(), piece.clone()))
    }

    fn progress(&self, piece: &Piece) -> Option<&RenderProgress> {
        self.world.alive.piece_progress.get(&(self.id.clone(), piece.clone()))
    }

    fn is_done(&self, piece: &Piece) -> bool {
        self.job(piece).is_some() && self.progress(piece).is_some_and(|progress| progress.finished)
    }

    /// Gives a piece out, or to another node if the one that has it is gone, leaves or failed.
    fn place(&mut self, piece: Piece, room: &mut Room<'_>) {
        let what = format!("{}/{}/{piece:?}", self.id.0, self.id.1);
        let choose = |not: Option<&NodeId>, room: &mut Room<'_>| match piece {
            Piece::Join => room.any(&what, not),
            Piece::Spans { .. } => room.take(&what, not),
        };
        let existing = self.job(&piece).cloned();
        let mut job = existing.clone().unwrap_or_else(|| RenderJob {
            node: None,
            spec: self.next.fold.clone(),
            composite: Some(self.next.render.spec.composite.clone()),
            documents: false,
            failures: 0,
            late: Some(self.next.share(piece.clone())),
        });
        let error = self.progress(&piece).filter(|progress| of_this_attempt(&job, progress));
        let error = error.and_then(|progress| progress.error.clone());
        let before = job.node.clone();
        if let Some(why) = error {
            job.failures += 1;
            if given_up(&job) {
                self.next.render.state = LateState::Failed;
                self.next.render.reason = format!("it could not be rendered in {MAX_ATTEMPTS} attempts: {why}");
                return;
            }
            job.node = choose(before.as_ref(), room).or(before);
        } else {
            let is_dead = |node| self.memory.brake.is_dead(self.world.now.monotonic, Role::Compositor, node);
            let is_leaving = |node: &NodeId| {
                self.world.alive.nodes.get(&(Role::Compositor, node.clone())).is_some_and(|node| node.draining)
            };
            match &before {
                Some(node) if !is_dead(node) && !is_leaving(node) => return,
                // Without another one it stays: a node that leaves ends what it can.
                _ => match choose(before.as_ref(), room) {
                    Some(node) => job.node = Some(node),
                    None => return,
                },
            }
        }
        if existing.as_ref() != Some(&job) {
            self.jobs.push(job);
        }
    }
}
