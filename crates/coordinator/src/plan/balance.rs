//! What ingest nodes carry, by measure, and which room moves so that they carry alike.
//!
//! A room weighs what its fold measured last, in bytes/s. New rooms go to the node that is least used; a room that somebody has moves
//! only where nodes have been used unevenly for a while, one at a time, to where it makes the difference smaller without turning it
//! round. So with steady rooms every move lessens the unevenness, and moves come to an end. Hysteresis and rests keep rooms that change
//! from being passed to and fro. A node that leaves or is gone comes first: nothing is balanced meanwhile.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use roomreel_shared::cluster::{Node, Progress, Role};
use roomreel_shared::id::{NodeId, RecordingId};

use super::placement::rendezvous;
use super::{Alive, Finishing, World};

/// What a room weighs that nobody has measured, if no room was: bytes/s.
const USUAL: u64 = 250_000;
/// What every room weighs at least, silent ones too: bytes/s.
const LEAST: u64 = 10_000;
/// Use is told in thousandths of a node's capacity.
const WHOLE: u64 = 1000;
/// Use is uneven from this difference on, and until it is below the second.
const UNEVEN: (u64, u64) = (200, 100);
/// How long it has to be uneven before a room moves.
const HOLD: Duration = Duration::from_secs(30);
/// Least time from one move to the next.
const GAP: Duration = Duration::from_secs(10);
/// Longest time that a room which was moved is waited for before the next one moves.
const SETTLE: Duration = Duration::from_secs(60);
/// A room that was moved for balance stays for this long.
const REST: Duration = Duration::from_secs(600);

/// What each ingest node carries.
pub(super) struct Loads {
    carried: BTreeMap<NodeId, u64>,
    weights: BTreeMap<RecordingId, u64>,
    usual: u64,
}

impl Loads {
    pub(super) fn of(alive: &Alive) -> Self {
        let measured = |progress: &Progress| progress.bytes_per_second.max(LEAST);
        let weights: BTreeMap<_, _> = alive
            .progress
            .iter()
            .filter(|(_, progress)| progress.windows > 0 && !progress.finished)
            .map(|(id, progress)| (id.clone(), measured(progress)))
            .collect();
        let sum = weights.values().fold(0, |sum: u64, weight| sum.saturating_add(*weight));
        let usual = sum.checked_div(weights.len() as u64).unwrap_or(USUAL);
        let mut loads = Self { carried: BTreeMap::new(), weights, usual };
        for (id, assignment) in &alive.assignments {
            if !alive.progress.get(id).is_some_and(|progress| progress.finished) {
                loads.put(id, &assignment.node);
            }
        }
        loads
    }

    fn weight(&self, recording: &RecordingId) -> u64 {
        self.weights.get(recording).copied().unwrap_or(self.usual)
    }

    fn carried(&self, node: &NodeId) -> u64 {
        self.carried.get(node).copied().unwrap_or(0)
    }

    /// A room goes to a node.
    pub(super) fn put(&mut self, recording: &RecordingId, to: &NodeId) {
        let weight = self.weight(recording);
        let carried = self.carried.entry(to.clone()).or_default();
        *carried = carried.saturating_add(weight);
    }

    /// It leaves one.
    pub(super) fn remove(&mut self, recording: &RecordingId, from: &NodeId) {
        let weight = self.weight(recording);
        self.carried.entry(from.clone()).and_modify(|carried| *carried = carried.saturating_sub(weight));
    }

    fn used(&self, node: &Node) -> u64 {
        share(self.carried(&node.id), node)
    }

    /// Which of `nodes` is to have what is new to them: the one least used, with room if one has room.
    pub(super) fn choose<'a>(&self, nodes: impl Iterator<Item = &'a Node> + Clone, what: &str) -> Option<NodeId> {
        let has_room = |node: &&Node| node.load < node.capacity && self.used(node) < WHOLE;
        let least = |node: &&Node| (self.used(node), Reverse(rendezvous(what, &node.id)));
        let best = nodes.clone().filter(has_room).min_by_key(least);
        best.or_else(|| nodes.min_by_key(least)).map(|node| node.id.clone())
    }
}

fn share(carried: u64, node: &Node) -> u64 {
    let share = u128::from(carried) * u128::from(WHOLE) / u128::from(node.capacity.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// What is remembered from plan to plan. A new leader begins with nothing, and with [`HOLD`].
#[derive(Debug, Default)]
pub(super) struct Balance {
    uneven_since: Option<Duration>,
    /// Rooms that were moved, and when.
    moved: BTreeMap<RecordingId, Duration>,
    last: Option<(RecordingId, Duration)>,
    /// Between the most and the least used node.
    difference: u64,
}

impl Balance {
    /// Difference between the most and the least used node, as a share of their capacity.
    pub(super) fn difference(&self) -> f64 {
        self.difference as f64 / WHOLE as f64
    }

    /// The room that is to move now, and where to. `is_calm`: no node leaves, is gone, or was taken for gone lately.
    pub(super) fn pick(
        &mut self,
        world: &World<'_>,
        loads: &Loads,
        finishing: &Finishing,
        is_calm: bool,
    ) -> Option<(RecordingId, NodeId)> {
        let now = world.now.monotonic;
        let nodes = world.alive.nodes.values().filter(|node| node.role == Role::Ingest);
        let nodes: Vec<_> = nodes.filter(|node| !node.draining && node.capacity > 0).collect();
        let most = nodes.iter().max_by_key(|node| loads.used(node))?;
        let least = nodes.iter().min_by_key(|node| loads.used(node))?;
        self.difference = loads.used(most) - loads.used(least);
        self.uneven_since = match self.uneven_since {
            _ if !is_calm || self.difference < UNEVEN.1 => None,
            None if self.difference >= UNEVEN.0 => Some(now),
            since => since,
        };
        self.moved.retain(|_, at| now.saturating_sub(*at) < REST);
        if now.saturating_sub(self.uneven_since?) < HOLD || self.waits(world) {
            return None;
        }
        let room = self.lightening(world, loads, finishing, most, least)?;
        self.moved.insert(room.clone(), now);
        self.last = Some((room.clone(), now));
        Some((room, least.id.clone()))
    }

    /// The last move was a moment ago, or has not come about.
    fn waits(&self, world: &World<'_>) -> bool {
        let Some((room, at)) = &self.last else { return false };
        let since = world.now.monotonic.saturating_sub(*at);
        let alive = world.alive;
        let has_settled = match (alive.assignments.get(room), alive.progress.get(room)) {
            (Some(assignment), Some(progress)) => assignment.node == progress.node,
            _ => true,
        };
        since < GAP || !has_settled && since < SETTLE
    }

    /// The room whose move from `most` to `least` leaves the greater of the two the least used, and `least` not the greater one.
    fn lightening(
        &self,
        world: &World<'_>,
        loads: &Loads,
        finishing: &Finishing,
        most: &Node,
        least: &Node,
    ) -> Option<RecordingId> {
        let alive = world.alive;
        let of_most = alive.assignments.iter().filter(|(_, assignment)| assignment.node == most.id).map(|(id, _)| id);
        let is_steady = |id: &&RecordingId| {
            let goes_on = alive.recordings.get(*id).is_some_and(|active| !active.stopping);
            let is_measured = alive
                .progress
                .get(*id)
                .is_some_and(|progress| progress.node == most.id && progress.windows > 0 && !progress.finished);
            goes_on && is_measured && !finishing.contains(*id) && !self.moved.contains_key(*id)
        };
        let after = |id: &RecordingId| {
            let weight = loads.weight(id);
            let most_after = share(loads.carried(&most.id).saturating_sub(weight), most);
            let least_after = share(loads.carried(&least.id).saturating_add(weight), least);
            (least_after <= most_after).then_some(most_after)
        };
        let rooms = of_most.filter(is_steady).filter_map(|id| Some((after(id)?, id)));
        rooms.min().map(|(_, id)| id.clone())
    }
}
