//! What compositors carry, and which of them has room for one more render.
//!
//! A node measures what its renders take and says so in its record, some seconds late. What was given to it and has made no slice
//! yet is not in there: it counts with what a render takes at the moment, on average. So many renders that begin together do not
//! all go where there is room for one.

use std::collections::BTreeMap;

use roomreel_shared::cluster::{Node, Role};
use roomreel_shared::id::NodeId;

use super::Alive;
use super::placement::{given_up, rendezvous};

/// What a render takes that nobody has measured, if none was, and at most: it works on one thread. Thousandths of a core.
const USUAL: u64 = 500;
const MOST: u64 = 1000;
/// The least it counts with: nodes that only wait measure nothing. A node with less room than that has none.
pub(super) const LEAST: u64 = 100;

/// Renders and what they take.
pub(super) struct Renders {
    /// Given to a node, not in its measure yet.
    fresh: BTreeMap<NodeId, u64>,
    /// Thousandths of a core.
    usual: u64,
}

impl Renders {
    pub(super) fn of(alive: &Alive) -> Self {
        let mut renders = Self { fresh: BTreeMap::new(), usual: USUAL };
        let mut measured = alive.pieces.values().filter(|job| job.node.is_some()).count() as u64;
        for (id, job) in alive.renders.iter().filter(|(_, job)| !given_up(job)) {
            let Some(node) = &job.node else { continue };
            let progress = alive.render_progress.get(id).filter(|progress| progress.node == *node);
            match progress {
                Some(progress) if progress.finished => {}
                Some(progress) if progress.slices > 0 => measured += 1,
                _ => renders.give(node),
            }
        }
        let compositors = alive.nodes.iter().filter(|((role, _), _)| *role == Role::Compositor);
        let load = compositors.fold(0_u64, |sum, (_, node)| sum.saturating_add(node.load));
        if let Some(mean) = load.checked_div(measured) {
            renders.usual = mean.clamp(LEAST, MOST);
        }
        renders
    }

    /// A render goes to a node.
    pub(super) fn give(&mut self, to: &NodeId) {
        *self.fresh.entry(to.clone()).or_default() += 1;
    }

    /// Which of `nodes` is to have another render: of those with room the one with the highest rendezvous hash, so that a render that comes
    /// again finds its node; the one least used if none has room.
    pub(super) fn choose<'a>(&self, nodes: impl Iterator<Item = &'a Node> + Clone, what: &str) -> Option<NodeId> {
        let hash = |node: &&Node| rendezvous(what, &node.id);
        let with_room = nodes.clone().filter(|node| self.carried_with_one_more(node) <= node.capacity).max_by_key(hash);
        let used = |node: &&Node| {
            let used = u128::from(self.carried_with_one_more(node)) * 1000 / u128::from(node.capacity.max(1));
            (used, std::cmp::Reverse(hash(node)))
        };
        with_room.or_else(|| nodes.min_by_key(used)).map(|node| node.id.clone())
    }

    fn carried_with_one_more(&self, node: &Node) -> u64 {
        let fresh = self.fresh.get(&node.id).copied().unwrap_or(0);
        node.load.saturating_add(fresh.saturating_add(1).saturating_mul(self.usual))
    }
}

#[cfg(test)]
mod tests {
    use roomreel_shared::cluster::{FoldSpec, RenderJob, RenderProgress};
    use roomreel_shared::id::{CompositeId, RecordingId, RoomId, TenantId};
    use roomreel_shared::policy::Policy;

    use super::super::RenderId;
    use super::*;

    fn node(name: &str, capacity: u64, load: u64) -> Node {
        let id = NodeId::new(name).expect("a name");
        Node { id, role: Role::Compositor, capacity, load, draining: false, version: "test".to_owned() }
    }

    /// How many of `count` renders each node gets.
    fn spread(mut renders: Renders, nodes: &[Node], count: u64) -> Vec<u64> {
        let before = renders.fresh.clone();
        for number in 0..count {
            let chosen = renders.choose(nodes.iter(), &format!("render {number}")).expect("there are nodes");
            renders.give(&chosen);
        }
        let given = |node: &Node| {
            let count = |of: &BTreeMap<NodeId, u64>| of.get(&node.id).copied().unwrap_or(0);
            count(&renders.fresh) - count(&before)
        };
        nodes.iter().map(given).collect()
    }

    fn unmeasured() -> Renders {
        Renders { fresh: BTreeMap::new(), usual: USUAL }
    }

    #[test]
    fn renders_that_begin_together_fill_nodes_by_their_room() {
        let nodes = [node("a", 4000, 0), node("b", 2000, 0), node("c", 4000, 3000)];
        assert_eq!(spread(unmeasured(), &nodes, 14), [8, 4, 2], "all there is room for, and not one more");
        let given = spread(unmeasured(), &nodes, 28);
        assert!(given[0] >= 13 && given[1] >= 6 && given[2] >= 6, "beyond that all are overloaded alike: {given:?}");
    }

    #[test]
    fn what_was_given_and_has_made_nothing_yet_counts() {
        let nodes = [node("a", 2000, 0), node("b", 2000, 0)];
        let fresh = BTreeMap::from([(NodeId::new("a").expect("a name"), 4)]);
        assert_eq!(spread(Renders { fresh, usual: USUAL }, &nodes, 4), [0, 4]);
    }

    #[test]
    fn a_render_takes_what_renders_take() {
        let named = |name: &str| NodeId::new(name).expect("a name");
        let mut alive = Alive::default();
        for (name, load) in [("a", 600), ("b", 0)] {
            alive.nodes.insert((Role::Compositor, named(name)), node(name, 2000, load));
        }
        let spec = FoldSpec {
            tenant: TenantId::new("t").expect("a name"),
            room: RoomId::new("r").expect("a name"),
            recording: RecordingId::new("x").expect("a name"),
            shards: 1,
            from: None,
            session: None,
            start_sequence: 1,
            window_ms: 4000,
            policy: Policy::default(),
            epoch_base: 0,
            beginning: None,
        };
        for (name, slices, finished) in [("p", 7, false), ("q", 1, false), ("r", 9, true), ("s", 0, false)] {
            let id = RenderId { recording: spec.recording.clone(), composite: CompositeId::new(name).ok() };
            let node = Some(named("a"));
            let job =
                RenderJob { node, spec: spec.clone(), composite: None, documents: false, failures: 0, late: None };
            alive.renders.insert(id.clone(), job);
            let progress = RenderProgress { node: named("a"), slices, finished, error: None, files: Vec::new() };
            alive.render_progress.insert(id, progress);
        }
        let renders = Renders::of(&alive);
        assert_eq!(renders.usual, 300, "two are in the measure");
        assert_eq!(renders.fresh, BTreeMap::from([(named("a"), 1)]));
    }
}
