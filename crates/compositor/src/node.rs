//! A compositor node: registers itself, follows its render jobs, runs an actor for each.
//!
//! Owns the set of renders, and what the node says of itself. Does not own its lease ([`roomreel_node`]), what a render does, nor who
//! gets which (the coordinator). Losing the lease stops nothing: a render ends when its job is given elsewhere or its report is refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, SupervisionEvent};
use roomreel_node::Membership;
use roomreel_shared::cluster::{self, Node, RenderJob, Role};
use roomreel_shared::id::NodeId;
use roomreel_shared::ports::{Ports, Record};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::actor::{RenderActor, RenderArguments, RenderMessage};
use crate::engine::{self, Isolation};
use crate::workers::Workers;

/// Jobs are listed at least this often, whatever the watch says.
const RECONCILE: Duration = Duration::from_secs(3);
/// Pause after a call to the coordination store that failed.
const RETRY: Duration = Duration::from_millis(500);
/// Longest that one step of a render may take when the node leaves.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// Settings of a compositor node.
#[derive(Debug, Clone)]
pub struct CompositorConfig {
    /// Its name, unique while it lives.
    pub node: NodeId,
    /// How long it counts as alive without a sign.
    pub lease_ttl: Duration,
    /// Most renders at once; further jobs wait.
    pub max_jobs: usize,
    /// What it can carry, in thousandths of a core; so many slices are rendered at once.
    pub capacity: u64,
    /// How renders have processes of their own; `None`: they are rendered in this one.
    pub isolation: Option<Arc<Isolation>>,
}

impl CompositorConfig {
    /// Settings for this machine.
    #[must_use]
    pub fn new(node: NodeId) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            node,
            lease_ttl: Duration::from_secs(5),
            max_jobs: 4 * cores,
            capacity: 1000 * cores as u64,
            isolation: None,
        }
    }
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The actor system refused.
    #[error("the node's actor does not start: {0}")]
    Actor(String),
    /// This system does not isolate renders as it has to.
    #[error(transparent)]
    Isolation(#[from] engine::Error),
}

/// A compositor node.
#[derive(Debug)]
pub struct CompositorNode;

/// A running compositor node; dropping it stops the node at once.
pub struct CompositorHandle {
    actor: ActorRef<NodeMessage>,
    shared: Arc<Shared>,
    tasks: Vec<AbortOnDropHandle<()>>,
}

struct Shared {
    ports: Ports,
    config: CompositorConfig,
    draining: AtomicBool,
    workers: Arc<Workers>,
    membership: Membership,
}

impl CompositorNode {
    /// Starts the node; it registers itself and takes up its jobs as soon as the servers answer.
    ///
    /// # Errors
    /// [`Error::Actor`].
    pub async fn start(ports: Ports, config: CompositorConfig) -> Result<CompositorHandle, Error> {
        if let Some(isolation) = config.isolation.clone() {
            see_isolation(isolation).await?;
        }
        let membership = Membership::new(ports.coordination.clone(), config.lease_ttl);
        let shared = Arc::new(Shared {
            ports,
            workers: Arc::new(Workers::new(usize::try_from(config.capacity.div_ceil(1000)).unwrap_or(usize::MAX))),
            config,
            draining: AtomicBool::new(false),
            membership,
        });
        let spawned = NodeActor::spawn(None, NodeActor, shared.clone()).await;
        let (actor, _) = spawned.map_err(|error| Error::Actor(error.to_string()))?;
        let tasks = vec![
            AbortOnDropHandle::new(tokio::spawn(keep_registered(shared.clone()))),
            AbortOnDropHandle::new(tokio::spawn(follow(shared.clone(), actor.clone()))),
        ];
        Ok(CompositorHandle { actor, shared, tasks })
    }
}

/// Says once what renders are shut off from; does not wait for it unless the node may not start otherwise.
async fn see_isolation(isolation: Arc<Isolation>) -> Result<(), engine::Error> {
    let is_required = isolation.is_required;
    let seen = async move {
        let lacks = isolation.probe().await?;
        if lacks.is_empty() {
            tracing::info!("renders are isolated in processes of their own");
        } else {
            let lacks = lacks.join(", ");
            tracing::warn!(
                lacks,
                "renders have processes of their own, but not all of the isolation: see docs/operators.md"
            );
        }
        Ok(())
    };
    if is_required {
        return seen.await;
    }
    tokio::spawn(async move {
        let seen: Result<(), engine::Error> = seen.await;
        if let Err(error) = seen {
            tracing::warn!(%error, "a render's process could not be tried out");
        }
    });
    Ok(())
}

impl CompositorHandle {
    /// Takes nothing new, lets every render end the step it is in and leaves. Whoever gets the jobs goes on behind the last slice.
    pub async fn drain(mut self) {
        self.shared.draining.store(true, Ordering::Release);
        self.shared.membership.changed();
        // Stops its renders too, and waits for them.
        if self.actor.stop_and_wait(None, Some(STEP_LIMIT)).await.is_err() {
            tracing::info!("a render did not end its step in time; its job is taken up elsewhere");
        }
        self.tasks.clear();
        self.shared.membership.leave().await;
    }

    /// Stops at once, as a crash would: for tests.
    pub async fn shutdown_now(mut self) {
        self.tasks.clear();
        // Its renders go with it. Fails only if it is gone already.
        let _ = self.actor.get_cell().kill_and_wait(None).await;
    }
}

impl Drop for CompositorHandle {
    fn drop(&mut self) {
        self.actor.kill();
    }
}

/// Says what the node carries, again and again.
async fn keep_registered(shared: Arc<Shared>) {
    let config = &shared.config;
    let mut since = (Instant::now(), shared.workers.busy());
    let mut load = 0;
    let describe = || {
        let (elapsed, busy) = (since.0.elapsed(), shared.workers.busy());
        if elapsed >= Duration::from_secs(5) {
            load = ((busy - since.1).as_micros() * 1000 / elapsed.as_micros().max(1)) as u64;
            since = (Instant::now(), busy);
        }
        Node {
            id: config.node.clone(),
            role: Role::Compositor,
            capacity: config.capacity,
            load,
            draining: shared.draining.load(Ordering::Acquire),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    };
    match shared.membership.keep(describe, |_| RETRY).await {}
}

/// Lists the jobs again and again; the watch only wakes it earlier.
async fn follow(shared: Arc<Shared>, node: ActorRef<NodeMessage>) {
    let prefix = cluster::renders_prefix();
    let coordination = &shared.ports.coordination;
    let mut failures = 0;
    loop {
        // Before the list, so that nothing falls between.
        let mut watch = coordination.watch(&prefix).await.ok();
        loop {
            match coordination.list(&prefix).await {
                Ok(snapshot) => {
                    failures = 0;
                    if node.cast(NodeMessage::Jobs(jobs_of(&shared.config.node, &snapshot.records))).is_err() {
                        return;
                    }
                }
                Err(error) => {
                    failures += 1;
                    if failures == 3 {
                        tracing::warn!(%error, "render jobs cannot be read; going on with those known");
                    }
                }
            }
            let Some(wake) = &mut watch else { break };
            if let Ok(None) = tokio::time::timeout(RECONCILE, wake.next()).await {
                break;
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The jobs given to `node`, with their revisions, by their keys.
fn jobs_of(node: &NodeId, records: &[Record]) -> BTreeMap<String, (RenderJob, u64)> {
    let mut jobs = BTreeMap::new();
    for record in records {
        match serde_json::from_slice::<RenderJob>(&record.value) {
            Ok(job) if job.node.as_ref() == Some(node) => {
                jobs.insert(record.key.clone(), (job, record.mod_revision));
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(key = record.key, %error, "a render job cannot be read"),
        }
    }
    jobs
}

/// What becomes of a render when the jobs were listed.
#[derive(Debug, PartialEq, Eq)]
enum Action {
    /// The job is no longer ours.
    Stop(String),
    /// It is still ours, under another revision.
    Tell(String, u64),
    /// It is new, or was given to us again after it had ended here.
    Start(String),
}

/// A job and what became of it here.
#[derive(Debug)]
struct Render {
    revision: u64,
    /// `None`: it has ended under this revision.
    actor: Option<ActorRef<RenderMessage>>,
}

/// Compares what is to be rendered with what is; starts no more than `max_jobs`.
fn reconcile(
    renders: &BTreeMap<String, (u64, bool)>,
    jobs: &BTreeMap<String, (RenderJob, u64)>,
    max_jobs: usize,
) -> Vec<Action> {
    let mut actions: Vec<_> =
        renders.keys().filter(|key| !jobs.contains_key(*key)).map(|key| Action::Stop(key.clone())).collect();
    let mut running = renders.iter().filter(|(key, (_, runs))| *runs && jobs.contains_key(*key)).count();
    for (key, (_, revision)) in jobs {
        match renders.get(key) {
            Some((known, _)) if known == revision => {}
            Some((_, true)) => actions.push(Action::Tell(key.clone(), *revision)),
            _ if running < max_jobs => {
                running += 1;
                actions.push(Action::Start(key.clone()));
            }
            _ => {}
        }
    }
    actions
}

enum NodeMessage {
    /// Every job of this node.
    Jobs(BTreeMap<String, (RenderJob, u64)>),
}

struct NodeState {
    shared: Arc<Shared>,
    renders: BTreeMap<String, Render>,
}

struct NodeActor;

impl Actor for NodeActor {
    type Msg = NodeMessage;
    type State = NodeState;
    type Arguments = Arc<Shared>;

    async fn pre_start(&self, _: ActorRef<NodeMessage>, shared: Arc<Shared>) -> Result<NodeState, ActorProcessingErr> {
        Ok(NodeState { shared, renders: BTreeMap::new() })
    }

    async fn handle(
        &self,
        myself: ActorRef<NodeMessage>,
        message: NodeMessage,
        state: &mut NodeState,
    ) -> Result<(), ActorProcessingErr> {
        let NodeMessage::Jobs(jobs) = message;
        if state.shared.draining.load(Ordering::Acquire) {
            return Ok(());
        }
        let known = state
            .renders
            .iter()
            .map(|(key, render)| (key.clone(), (render.revision, render.actor.is_some())))
            .collect();
        for action in reconcile(&known, &jobs, state.shared.config.max_jobs) {
            match action {
                Action::Stop(key) => {
                    if let Some(actor) = state.renders.remove(&key).and_then(|render| render.actor) {
                        tracing::info!(key, "the render is no longer given to this node");
                        actor.stop(None);
                    }
                }
                Action::Tell(key, revision) => {
                    let Some(render) = state.renders.get_mut(&key) else { continue };
                    render.revision = revision;
                    if let Some(actor) = &render.actor {
                        let _ = actor.cast(RenderMessage::Revision(revision));
                    }
                }
                Action::Start(key) => {
                    let Some((job, revision)) = jobs.get(&key).cloned() else { continue };
                    let arguments = RenderArguments {
                        ports: state.shared.ports.clone(),
                        node: state.shared.config.node.clone(),
                        job,
                        revision,
                        workers: state.shared.workers.clone(),
                        isolation: state.shared.config.isolation.clone(),
                    };
                    let (actor, _) = RenderActor::spawn_linked(None, RenderActor, arguments, myself.get_cell()).await?;
                    state.renders.insert(key, Render { revision, actor: Some(actor) });
                }
            }
        }
        Ok(())
    }

    async fn post_stop(&self, _: ActorRef<NodeMessage>, state: &mut NodeState) -> Result<(), ActorProcessingErr> {
        for actor in state.renders.values().filter_map(|render| render.actor.as_ref()) {
            let _ = actor.stop_and_wait(None, Some(STEP_LIMIT)).await;
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<NodeMessage>,
        event: SupervisionEvent,
        state: &mut NodeState,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(actor, _, reason) => {
                let render = state.on_ended(&actor);
                tracing::info!(render, reason, "a render ended");
            }
            SupervisionEvent::ActorFailed(actor, error) => {
                let render = state.on_ended(&actor);
                tracing::error!(render, %error, "a render failed; the coordinator decides who tries again");
            }
            _ => {}
        }
        Ok(())
    }
}

impl NodeState {
    /// It is not started again before its job is written anew. Answers the job's key.
    fn on_ended(&mut self, actor: &ActorCell) -> Option<&str> {
        let is_it = |render: &Render| render.actor.as_ref().is_some_and(|other| other.get_id() == actor.get_id());
        let (key, render) = self.renders.iter_mut().find(|(_, render)| is_it(render))?;
        render.actor = None;
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use roomreel_shared::cluster::FoldSpec;
    use roomreel_shared::id::{RecordingId, RoomId, TenantId};
    use roomreel_shared::policy::Policy;

    use super::*;

    fn jobs(revisions: &[(&str, u64)]) -> BTreeMap<String, (RenderJob, u64)> {
        let spec = FoldSpec {
            tenant: TenantId::new("t").expect("valid"),
            room: RoomId::new("r").expect("valid"),
            recording: RecordingId::new("x").expect("valid"),
            shards: 1,
            from: None,
            session: None,
            beginning: None,
            start_sequence: 1,
            window_ms: 4000,
            policy: Policy::default(),
            epoch_base: 0,
        };
        let job = RenderJob { node: None, spec, composite: None, documents: true, failures: 0, late: None };
        revisions.iter().map(|(key, revision)| ((*key).to_owned(), (job.clone(), *revision))).collect()
    }

    #[test]
    fn renders_follow_jobs() {
        let start = |key: &str| Action::Start(key.to_owned());
        let known = |entries: &[(&str, u64, bool)]| {
            entries.iter().map(|(key, revision, runs)| ((*key).to_owned(), (*revision, *runs))).collect()
        };
        for (story, renders, wanted, actions) in [
            ("new", known(&[]), jobs(&[("a", 1)]), vec![start("a")]),
            ("known", known(&[("a", 1, true)]), jobs(&[("a", 1)]), vec![]),
            ("ended here", known(&[("a", 1, false)]), jobs(&[("a", 1)]), vec![]),
            ("given again", known(&[("a", 1, false)]), jobs(&[("a", 2)]), vec![start("a")]),
            ("rewritten", known(&[("a", 1, true)]), jobs(&[("a", 2)]), vec![Action::Tell("a".to_owned(), 2)]),
            ("taken away", known(&[("a", 1, true)]), jobs(&[]), vec![Action::Stop("a".to_owned())]),
            ("full", known(&[("a", 1, true)]), jobs(&[("a", 1), ("b", 1), ("c", 1)]), vec![start("b")]),
        ] {
            assert_eq!(reconcile(&renders, &wanted, 2), actions, "{story}");
        }
    }
}
