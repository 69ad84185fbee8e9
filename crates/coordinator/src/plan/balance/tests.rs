use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use roomreel_shared::cluster::Progress;

use super::super::tests::{CAPACITY, Cluster};
use super::super::{Cause, Memory};
use super::*;
use crate::testing::{auto, id};

/// Rooms with a measured rate each, on ingest nodes.
struct Measured {
    cluster: Cluster,
    rates: BTreeMap<RecordingId, u64>,
    rng: StdRng,
    /// Share of a rate by which a measurement is off.
    noise: f64,
}

impl Measured {
    fn new(nodes: usize, seed: u64) -> Self {
        let mut cluster = Cluster::new(nodes, 1);
        // Nothing but the test ends a recording.
        cluster.limits.max_duration = Duration::from_secs(1_000_000);
        Self { cluster, rates: BTreeMap::new(), rng: StdRng::seed_from_u64(seed), noise: 0.0 }
    }

    /// Opens a room; what it sends is known once it was measured.
    fn open(&mut self, room: &str, rate: u64) -> RecordingId {
        let before: Vec<_> = self.cluster.alive.recordings.keys().cloned().collect();
        self.cluster.open(room, auto());
        self.cluster.settle();
        let new = self.cluster.alive.recordings.keys().find(|id| !before.contains(id)).expect("it begins").clone();
        self.rates.insert(new.clone(), rate);
        new
    }

    /// Seconds pass: nodes measure and report, and the leader plans.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.cluster.seconds += 1;
            let now = 1_700_000_000_000_000 + i64::try_from(self.cluster.seconds).expect("small") * 1_000_000;
            let alive = &mut self.cluster.alive;
            let mut loads: BTreeMap<NodeId, u64> = BTreeMap::new();
            for (id, assignment) in &alive.assignments {
                let off = self.rng.random_range(-1.0..1.0) * self.noise;
                let rate = (self.rates[id] as f64 * (1.0 + off)) as u64;
                *loads.entry(assignment.node.clone()).or_default() += rate;
                let progress = Progress {
                    node: assignment.node.clone(),
                    windows: self.cluster.seconds / 4 + 1,
                    finished: false,
                    log_time_us: now,
                    sfu_log_time_us: now,
                    paused: false,
                    bytes_per_second: rate,
                    incomplete: false,
                    duration_us: 0,
                };
                alive.progress.insert(id.clone(), progress);
            }
            for node in alive.nodes.values_mut() {
                node.load = loads.get(&node.id).copied().unwrap_or(0);
            }
            self.cluster.settle();
        }
    }

    fn node_of(&self, recording: &RecordingId) -> &str {
        self.cluster.alive.assignments[recording].node.as_str()
    }

    fn used(&self) -> Vec<u64> {
        let loads = Loads::of(&self.cluster.alive);
        let nodes = self.cluster.alive.nodes.values().filter(|node| node.role == Role::Ingest && !node.draining);
        nodes.map(|node| loads.used(node)).collect()
    }

    fn balanced(&self) -> Vec<(RecordingId, u64)> {
        let moves = self.cluster.moves.iter().filter(|(_, cause, _)| *cause == Cause::Balance);
        moves.map(|(id, _, at)| (id.clone(), *at)).collect()
    }
}

#[test]
fn a_new_room_goes_to_the_node_that_carries_least() {
    let mut measured = Measured::new(3, 1);
    for n in 0..3 {
        measured.open(&format!("room{n}"), 5_000_000 * (n + 1));
    }
    measured.pass(5);
    let carried: BTreeMap<_, _> =
        measured.cluster.alive.assignments.iter().map(|(id, a)| (a.node.clone(), id)).collect();
    assert_eq!(carried.len(), 3, "one each");
    let least =
        measured.cluster.alive.nodes.values().filter(|node| node.role == Role::Ingest).min_by_key(|node| node.load);
    let least = least.expect("three").id.clone();
    let new = measured.open("new", 1_000_000);
    assert_eq!(measured.node_of(&new), least.as_str());
    // A node with twice the capacity is used half as much by the same rooms.
    let mut measured = Measured::new(2, 1);
    measured.cluster.alive.nodes.get_mut(&(Role::Ingest, id("i1"))).expect("there").capacity = 2 * CAPACITY;
    for n in 0..30 {
        measured.open(&format!("room{n}"), 1_000_000);
        measured.pass(1);
    }
    let on_large = measured.cluster.alive.assignments.values().filter(|assignment| assignment.node.as_str() == "i1");
    assert!((18..=22).contains(&on_large.count()));
}

#[test]
fn rooms_move_to_a_node_that_joins_one_by_one_and_come_to_rest() {
    let mut measured = Measured::new(2, 1);
    for n in 0..20 {
        measured.open(&format!("room{n}"), 4_000_000);
    }
    measured.pass(60);
    assert_eq!(measured.balanced(), []);
    measured.cluster.join(Role::Ingest, "i2");
    measured.pass(29);
    assert_eq!(measured.balanced(), [], "it may go as it came");
    measured.pass(600);
    let moved = measured.balanced();
    assert!(moved.len() >= 4 && moved.windows(2).all(|two| two[1].1 - two[0].1 >= GAP.as_secs()), "{moved:?}");
    let used = measured.used();
    assert!(used.iter().max().expect("three") - used.iter().min().expect("three") < UNEVEN.0, "{used:?}");
    measured.pass(1200);
    assert_eq!(measured.balanced().len(), moved.len(), "and stay there");
}

#[test]
fn a_room_that_is_as_large_as_the_difference_stays() {
    let mut measured = Measured::new(2, 1);
    let large = measured.open("large", 50_000_000);
    let holder = measured.node_of(&large).to_owned();
    measured.pass(1200);
    assert_eq!((measured.balanced(), measured.node_of(&large)), (vec![], holder.as_str()));
}

#[test]
fn who_leaves_or_is_gone_comes_first() {
    let mut measured = Measured::new(3, 1);
    for n in 0..40 {
        measured.open(&format!("room{n}"), 1_000_000);
    }
    measured.pass(10);
    // All that one of the nodes has becomes large, and another leaves.
    let large: Vec<_> = measured.rates.keys().filter(|id| measured.node_of(id) == "i0").cloned().collect();
    measured.rates.extend(large.into_iter().map(|id| (id, 3_000_000)));
    measured.cluster.drain(Role::Ingest, "i1");
    measured.pass(1);
    let left =
        |measured: &Measured| measured.cluster.alive.assignments.values().filter(|a| a.node.as_str() == "i1").count();
    while left(&measured) > 0 {
        assert_eq!(measured.balanced(), []);
        measured.pass(1);
    }
    measured.cluster.leave(Role::Ingest, "i1");
    measured.pass(20);
    assert_eq!(measured.balanced(), [], "and after it there is a pause");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, ..ProptestConfig::default() })]

    /// Rooms of all sizes on nodes that come, leave and die, with measurements that are off: moves for balance keep their distance, no
    /// room moves again before its rest is over, and when everything is steady they end, with nothing left to gain.
    #[test]
    fn balance_is_bounded_and_comes_to_rest(
        seed in any::<u64>(),
        nodes in 2..5_usize,
        rates in proptest::collection::vec(20_000..9_000_000_u64, 1..30),
        happenings in proptest::collection::vec((0..5_u8, any::<u32>(), 1..90_u64), 0..10),
    ) {
        let mut measured = Measured::new(nodes, seed);
        measured.noise = 0.2;
        for (n, rate) in rates.iter().enumerate() {
            measured.open(&format!("room{n}"), *rate);
        }
        let mut joined = nodes;
        for (what, which, seconds) in happenings {
            let rooms: Vec<_> = measured.rates.keys().cloned().collect();
            let room = rooms[which as usize % rooms.len()].clone();
            match what {
                0 => measured.rates.extend([(room, u64::from(which) % 12_000_000)]),
                1 => {
                    measured.cluster.join(Role::Ingest, &format!("i{joined}"));
                    joined += 1;
                }
                2 => {
                    let node = measured.node_of(&room).to_owned();
                    if measured.used().len() > 1 {
                        measured.cluster.drain(Role::Ingest, &node);
                    }
                }
                3 => measured.cluster.memory = Memory::default(),
                _ => {}
            }
            measured.pass(seconds);
        }
        // Steady from here on, under one leader; drained nodes have gone.
        measured.noise = 0.0;
        measured.cluster.memory = Memory::default();
        let before = measured.balanced().len();
        measured.pass(60 + 11 * rates.len() as u64);
        let moved = measured.balanced()[before..].to_vec();
        prop_assert!(moved.windows(2).all(|two| two[1].1 - two[0].1 >= GAP.as_secs()), "{moved:?}");
        let rooms: std::collections::BTreeSet<_> = moved.iter().map(|(id, _)| id).collect();
        prop_assert_eq!(rooms.len(), moved.len(), "a room moved twice");
        measured.pass(REST.as_secs());
        let rested = measured.balanced().len();
        measured.pass(REST.as_secs());
        prop_assert_eq!(measured.balanced().len(), rested, "it does not come to rest");
    }

    /// Rates that change all the time, under one leader: the bounds hold all the same.
    #[test]
    fn rooms_that_change_are_not_passed_to_and_fro(seed in any::<u64>(), rooms in 2..25_usize) {
        let mut measured = Measured::new(3, seed);
        measured.noise = 0.3;
        for n in 0..rooms {
            measured.open(&format!("room{n}"), 1_000_000);
        }
        for _ in 0..40 {
            let all: Vec<_> = measured.rates.keys().cloned().collect();
            let room = all[measured.rng.random_range(0..all.len())].clone();
            let rate = measured.rng.random_range(10_000..15_000_000);
            measured.rates.insert(room, rate);
            measured.pass(30);
        }
        let moved = measured.balanced();
        prop_assert!(moved.windows(2).all(|two| two[1].1 - two[0].1 >= GAP.as_secs()), "{moved:?}");
        let mut last: BTreeMap<RecordingId, u64> = BTreeMap::new();
        for (id, at) in moved {
            if let Some(before) = last.insert(id, at) {
                prop_assert!(at - before >= REST.as_secs(), "again after {} s", at - before);
            }
        }
    }
}
