//! etcd as far as the cluster leans on it: revisions, leases, fenced writes; and what leases were seen to do.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::Rng as _;
use rand::rngs::StdRng;
use roomreel_coordinator::plan::{Alive, RenderId};
use roomreel_shared::cluster::{ActiveRecording, Assignment, Node, Progress, RenderJob, RenderProgress, Role};
use roomreel_shared::id::{NodeId, RecordingId};

use crate::simulation::faults::{Fault, Plan};

/// A record and the revision it was last changed at.
pub type Revised<T> = (T, u64);

/// See the module.
#[derive(Debug, Default)]
pub struct CoordinationModel {
    revision: u64,
    /// Create revision of the leader's key, and when its lease ends.
    leader: Option<(u64, Duration)>,
    nodes: BTreeMap<NodeId, (Node, Duration)>,
    /// Nodes whose lease has expired, for one that revives.
    expired: Vec<(NodeId, Node)>,
    /// Not final recordings.
    pub recordings: BTreeMap<RecordingId, Revised<ActiveRecording>>,
    /// Who folds them; the revision is the epoch.
    pub assignments: BTreeMap<RecordingId, Revised<Assignment>>,
    /// How far they are.
    pub progress: BTreeMap<RecordingId, Progress>,
    renders: BTreeMap<RenderId, Revised<RenderJob>>,
    away_until: Duration,
}

impl CoordinationModel {
    /// Time passes, leases end, faults strike.
    pub fn step(&mut self, now: Duration, plan: &Plan, rng: &mut StdRng) -> Option<String> {
        let gone: Vec<_> = self.nodes.extract_if(.., |_, (_, until)| *until <= now).collect();
        self.expired.extend(gone.into_iter().map(|(id, (node, _))| (id, node)));
        if self.leader.is_some_and(|(_, until)| until <= now) {
            self.leader = None;
        }
        if plan.strikes(Fault::AllLeasesExpire, rng) {
            self.expired.extend(std::mem::take(&mut self.nodes).into_iter().map(|(id, (node, _))| (id, node)));
            self.leader = None;
            return Some("all leases expire".to_owned());
        }
        if plan.strikes(Fault::LeasesRevive, rng)
            && let Some((id, node)) = self.expired.pop()
        {
            let line = format!("the lease of {id} is alive again");
            self.nodes.entry(id).or_insert((node, now + Duration::from_secs(6)));
            return Some(line);
        }
        if plan.strikes(Fault::CoordinationIsAway, rng) {
            self.away_until = now + Duration::from_millis(rng.random_range(500..8000));
            return Some("the coordination store cannot be reached".to_owned());
        }
        None
    }

    /// Nothing goes wrong any more.
    pub fn heal(&mut self) {
        self.away_until = Duration::ZERO;
    }

    /// Whether it answers.
    #[must_use]
    pub fn answers(&self, now: Duration) -> bool {
        now >= self.away_until
    }

    /// Becomes leader if there is none; answers the fence.
    pub fn campaign(&mut self, until: Duration) -> Option<u64> {
        if self.leader.is_some() {
            return None;
        }
        self.revision += 1;
        self.leader = Some((self.revision, until));
        Some(self.revision)
    }

    /// Renews the leader's lease; `false` if it is another's or gone.
    pub fn renew(&mut self, fence: u64, until: Duration) -> bool {
        match &mut self.leader {
            Some((held, end)) if *held == fence => {
                *end = until;
                true
            }
            _ => false,
        }
    }

    /// Registers a node, or renews it.
    pub fn register(&mut self, node: Node, until: Duration) {
        self.expired.retain(|(id, _)| *id != node.id);
        self.nodes.insert(node.id.clone(), (node, until));
    }

    /// What the planner sees, with the revisions its writes are conditioned on.
    #[must_use]
    pub fn observe(&self) -> (Alive, BTreeMap<RecordingId, [u64; 2]>, BTreeMap<RenderId, u64>) {
        let mut alive = Alive::default();
        let mut revisions: BTreeMap<RecordingId, [u64; 2]> = BTreeMap::new();
        alive.nodes = self.nodes.iter().map(|(id, (node, _))| ((Role::Ingest, id.clone()), node.clone())).collect();
        for (id, (active, revision)) in &self.recordings {
            alive.recordings.insert(id.clone(), active.clone());
            revisions.entry(id.clone()).or_default()[0] = *revision;
        }
        for (id, (assignment, revision)) in &self.assignments {
            alive.assignments.insert(id.clone(), assignment.clone());
            revisions.entry(id.clone()).or_default()[1] = *revision;
        }
        alive.progress.clone_from(&self.progress);
        for (id, (job, _)) in &self.renders {
            alive.renders.insert(id.clone(), job.clone());
            // Renders are no part of this simulation: they are done when the fold is.
            if self.progress.get(&id.recording).is_some_and(|progress| progress.finished) {
                let node = NodeId::new("compositor").expect("valid");
                let done = RenderProgress { node, slices: 1, finished: true, error: None, files: Vec::new() };
                alive.render_progress.insert(id.clone(), done);
            }
        }
        let renders = self.renders.iter().map(|(id, (_, revision))| (id.clone(), *revision)).collect();
        (alive, revisions, renders)
    }

    fn fenced(&mut self, fence: u64, now: Duration) -> bool {
        !self.answers(now) || self.leader.is_none_or(|(held, _)| held != fence)
    }

    /// Writes a recording; 0 for a record that must be absent.
    pub fn put_recording(&mut self, now: Duration, fence: u64, guard: u64, active: ActiveRecording) -> bool {
        let id = active.recording.id.clone();
        if self.fenced(fence, now) || self.recordings.get(&id).map_or(0, |(_, revision)| *revision) != guard {
            return false;
        }
        self.revision += 1;
        self.recordings.insert(id, (active, self.revision));
        true
    }

    /// Writes an assignment; answers the epoch.
    pub fn assign(&mut self, now: Duration, fence: u64, guard: u64, assignment: Assignment) -> Option<u64> {
        let id = assignment.spec.recording.clone();
        if self.fenced(fence, now) || self.assignments.get(&id).map_or(0, |(_, revision)| *revision) != guard {
            return None;
        }
        self.revision += 1;
        self.assignments.insert(id, (assignment, self.revision));
        Some(self.revision)
    }

    /// Writes a render job.
    pub fn put_render(&mut self, now: Duration, fence: u64, guard: u64, id: RenderId, job: RenderJob) {
        if !self.fenced(fence, now) && self.renders.get(&id).map_or(0, |(_, revision)| *revision) == guard {
            self.revision += 1;
            self.renders.insert(id, (job, self.revision));
        }
    }

    /// Forgets a recording that is final.
    pub fn finish(&mut self, now: Duration, fence: u64, guard: u64, id: &RecordingId) -> bool {
        if self.fenced(fence, now) || self.recordings.get(id).map_or(0, |(_, revision)| *revision) != guard {
            return false;
        }
        self.revision += 1;
        self.recordings.remove(id);
        self.assignments.remove(id);
        self.progress.remove(id);
        self.renders.retain(|render, _| render.recording != *id);
        true
    }

    /// A node says how far it is, while its assignment stands.
    pub fn report(&mut self, now: Duration, id: &RecordingId, epoch: u64, progress: Progress) {
        if self.answers(now) && self.assignments.get(id).is_some_and(|(_, revision)| *revision == epoch) {
            self.progress.insert(id.clone(), progress);
        }
    }
}
