//! Notices nodes that go, and tells a node's death from a stall of the coordination store.
//!
//! A paused coordination store expires every lease at once although every node is alive and recording. Reassigning then
//! would move every room for nothing. So: when more than 30 % of the nodes of a role, and more than one, go within 5 s,
//! nothing is reassigned for 30 s. One node alone is never a mass loss, or a cluster of three could not fail over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use roomreel_shared::cluster::Role;
use roomreel_shared::id::NodeId;

/// A node is taken for dead when its lease has been gone for this long.
pub const GRACE: Duration = Duration::from_secs(1);
const WITHIN: Duration = Duration::from_secs(5);
const HOLD: Duration = Duration::from_secs(30);
const SHARE_PERCENT: usize = 30;
const MIN_NODES: usize = 3;
/// A node that has been gone for this long is not remembered.
const FORGET: Duration = Duration::from_secs(600);

/// Which nodes are gone, since when.
#[derive(Debug, Default)]
pub struct Brake {
    gone_since: BTreeMap<(Role, NodeId), Duration>,
    present: BTreeSet<(Role, NodeId)>,
    held_until: Duration,
}

impl Brake {
    /// Takes the nodes that are there, and those that something is assigned to.
    pub fn observe(
        &mut self,
        now: Duration,
        present: BTreeSet<(Role, NodeId)>,
        assigned: impl Iterator<Item = (Role, NodeId)>,
    ) {
        for node in self.present.iter().cloned().chain(assigned) {
            if !present.contains(&node) {
                self.gone_since.entry(node).or_insert(now);
            }
        }
        self.gone_since.retain(|node, since| !present.contains(node) && now.saturating_sub(*since) < FORGET);
        self.present = present;
        for role in [Role::Ingest, Role::Compositor] {
            let of_role = |(r, _): &&(Role, NodeId)| *r == role;
            let there = self.present.iter().filter(of_role).count();
            let lately =
                self.gone_since.iter().filter(|(node, since)| of_role(node) && now.saturating_sub(**since) < WITHIN);
            let lost = lately.count();
            let before = there + lost;
            if before >= MIN_NODES && lost > 1 && lost * 100 > before * SHARE_PERCENT && !self.is_on(now) {
                self.held_until = now + HOLD;
            }
        }
    }

    /// Nothing is reassigned now.
    #[must_use]
    pub fn is_on(&self, now: Duration) -> bool {
        now < self.held_until
    }

    /// Whether what this node has is to be given to another one.
    #[must_use]
    pub fn is_dead(&self, now: Duration, role: Role, node: &NodeId) -> bool {
        let since = self.gone_since.get(&(role, node.clone()));
        !self.is_on(now) && since.is_some_and(|since| now.saturating_sub(*since) >= GRACE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(names: &[&str]) -> BTreeSet<(Role, NodeId)> {
        names.iter().map(|name| (Role::Ingest, NodeId::new(*name).expect("valid"))).collect()
    }

    fn is_dead(brake: &Brake, seconds: u64, name: &str) -> bool {
        brake.is_dead(Duration::from_secs(seconds), Role::Ingest, &NodeId::new(name).expect("valid"))
    }

    #[test]
    fn one_node_dies_after_the_grace_and_can_come_back() {
        let mut brake = Brake::default();
        brake.observe(Duration::ZERO, nodes(&["a", "b", "c"]), std::iter::empty());
        brake.observe(Duration::from_secs(10), nodes(&["a", "b"]), std::iter::empty());
        assert!(!is_dead(&brake, 10, "c") && is_dead(&brake, 11, "c") && !is_dead(&brake, 11, "a"));
        brake.observe(Duration::from_secs(12), nodes(&["a", "b", "c"]), std::iter::empty());
        assert!(!is_dead(&brake, 20, "c"));
    }

    #[test]
    fn a_mass_loss_moves_nothing_for_a_while() {
        for (before, after, braked) in [
            (&["a", "b", "c", "d"][..], &["a", "b"][..], true),
            (&["a", "b", "c", "d", "e"], &["a", "b", "c"], true),
            (&["a", "b", "c", "d", "e", "f", "g"], &["a", "b", "c", "d", "e"], false),
            (&["a", "b", "c"], &["a", "b"], false),
            (&["a", "b"], &[], false),
            (&["a", "b", "c"], &[], true),
        ] {
            let mut brake = Brake::default();
            brake.observe(Duration::ZERO, nodes(before), std::iter::empty());
            brake.observe(Duration::from_secs(10), nodes(after), std::iter::empty());
            brake.observe(Duration::from_secs(12), nodes(after), std::iter::empty());
            let lost = before.last().expect("not empty");
            assert_eq!(!is_dead(&brake, 12, lost), braked, "{before:?} {after:?}");
            assert!(is_dead(&brake, 41, lost), "the brake is let go");
        }
    }

    #[test]
    fn a_new_leader_counts_assigned_nodes_that_are_not_there() {
        let mut brake = Brake::default();
        brake.observe(Duration::ZERO, nodes(&[]), nodes(&["a", "b", "c"]).into_iter());
        assert!(!is_dead(&brake, 5, "a") && is_dead(&brake, 31, "a"));
    }

    #[test]
    fn losses_far_apart_are_deaths() {
        let mut brake = Brake::default();
        brake.observe(Duration::ZERO, nodes(&["a", "b", "c", "d"]), std::iter::empty());
        brake.observe(Duration::from_secs(10), nodes(&["a", "b", "c"]), std::iter::empty());
        brake.observe(Duration::from_secs(20), nodes(&["a", "b"]), std::iter::empty());
        assert!(is_dead(&brake, 21, "c") && is_dead(&brake, 21, "d"));
    }
}
