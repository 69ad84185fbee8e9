//! An ingest node: leases, assignments it may learn of late, and rooms that die with it.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng as _;
use roomreel_shared::cluster::{FoldSpec, Node, Role};
use roomreel_shared::id::{NodeId, RecordingId};

use super::room::{Died, Room};
use crate::simulation::faults::Fault;
use crate::simulation::world::Env;

const LEASE: Duration = Duration::from_secs(5);

/// See the module.
pub struct IngestNode {
    id: NodeId,
    down_until: Option<Duration>,
    paused_until: Duration,
    stale_until: Duration,
    renew_at: Duration,
    reconcile_at: Duration,
    rooms: BTreeMap<RecordingId, Room>,
}

impl IngestNode {
    /// A node of this name.
    #[must_use]
    pub fn new(id: NodeId) -> Self {
        Self {
            id,
            down_until: None,
            paused_until: Duration::ZERO,
            stale_until: Duration::ZERO,
            renew_at: Duration::ZERO,
            reconcile_at: Duration::ZERO,
            rooms: BTreeMap::new(),
        }
    }

    /// Nothing goes wrong any more: whoever is down or paused comes back.
    pub fn heal(&mut self, now: Duration) {
        self.down_until = self.down_until.map(|at| at.min(now));
        self.paused_until = now;
        self.stale_until = now;
    }

    /// One step.
    pub fn step(&mut self, env: &mut Env) {
        if let Some(until) = self.down_until {
            if env.now < until {
                return;
            }
            self.down_until = None;
            self.renew_at = env.now;
            env.tell(format!("{} is up again", self.id));
        }
        if env.strikes(Fault::NodesCrash) {
            return self.die(env, "dies");
        }
        if env.now >= self.paused_until && env.strikes(Fault::NodesPause) {
            self.paused_until = env.now + Duration::from_millis(env.rng.random_range(500..12_000));
            env.tell(format!("{} is paused", self.id));
        }
        if env.now < self.paused_until {
            return;
        }
        if env.now >= self.renew_at && env.coordination.answers(env.now) {
            self.renew_at = env.now + LEASE / 5;
            let node = Node {
                id: self.id.clone(),
                role: Role::Ingest,
                capacity: 1 << 30,
                load: 0,
                draining: false,
                version: String::new(),
            };
            env.coordination.register(node, env.now + LEASE);
        }
        self.follow(env);
        let ids: Vec<_> = self.rooms.keys().cloned().collect();
        for id in ids {
            let Some(room) = self.rooms.get_mut(&id) else { continue };
            if let Err(Died) = room.step(&self.id, env) {
                return self.die(env, "dies between two actions");
            }
        }
    }

    fn die(&mut self, env: &mut Env, how: &str) {
        env.tell(format!("{} {how}", self.id));
        self.rooms.clear();
        self.down_until = Some(env.now + Duration::from_millis(env.rng.random_range(300..9000)));
    }

    /// Begins what is assigned to it and leaves what no longer is, as far as it knows.
    fn follow(&mut self, env: &mut Env) {
        if env.now >= self.stale_until && env.strikes(Fault::WatchesAreStale) {
            self.stale_until = env.now + Duration::from_millis(env.rng.random_range(500..10_000));
        }
        if env.now < self.stale_until || env.now < self.reconcile_at || !env.coordination.answers(env.now) {
            return;
        }
        self.reconcile_at = env.now + Duration::from_millis(250);
        let mine: BTreeMap<RecordingId, (FoldSpec, u64)> = env
            .coordination
            .assignments
            .iter()
            .filter(|(_, (assignment, _))| assignment.node == self.id)
            .map(|(id, (assignment, revision))| (id.clone(), (assignment.spec.clone(), *revision)))
            .collect();
        self.rooms.retain(|id, room| mine.get(id).is_some_and(|(_, epoch)| *epoch == room.epoch()));
        for (id, (spec, epoch)) in mine {
            if !self.rooms.contains_key(&id) {
                env.tell(format!("{} takes over under epoch {epoch}", self.id));
                self.rooms.insert(id, Room::new(spec, epoch, env.now));
            }
        }
    }
}
