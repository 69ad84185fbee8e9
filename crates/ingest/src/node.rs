//! An ingest node: registers itself, follows its assignments, runs a room's actor for each.
//!
//! Owns the set of rooms and their shared budgets, and what the node says of itself. Does not own its lease ([`roomreel_node`]),
//! what a room does, nor who gets which room (the coordinator). Losing the lease stops nothing: only a newer owner's window, or an assignment elsewhere, ends a room here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, RpcReplyPort, SupervisionEvent};
use roomreel_node::Membership;
use roomreel_shared::cluster::{self, Assignment, FoldSpec, Node, Role};
use roomreel_shared::id::RecordingId;
use roomreel_shared::ports::{Coordination, Ports};
use tokio_util::task::AbortOnDropHandle;

use crate::actor::reader::{Budget, NodeBudget};
use crate::actor::room::{RoomActor, RoomArguments, RoomMessage};
use crate::commit::backoff;
use crate::config::IngestConfig;
use crate::metrics::Metrics;

/// Assignments are listed at least this often, whatever the watch says.
const RECONCILE: Duration = Duration::from_secs(3);

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The actor system refused.
    #[error("the node's actor does not start: {0}")]
    Actor(String),
}

/// An ingest node.
#[derive(Debug)]
pub struct IngestNode;

/// A running ingest node; dropping it stops the node at once.
pub struct IngestHandle {
    actor: ActorRef<NodeMessage>,
    shared: Arc<Shared>,
    drain_limit: Duration,
    tasks: Vec<AbortOnDropHandle<()>>,
}

/// What the node's tasks share.
struct Shared {
    config: IngestConfig,
    draining: AtomicBool,
    /// Bytes folded since the start.
    load: Arc<AtomicU64>,
    membership: Membership,
}

impl IngestNode {
    /// Starts the node; it registers itself and takes up its assignments as soon as the servers answer.
    ///
    /// # Errors
    /// [`Error::Actor`].
    pub async fn start(ports: Ports, config: IngestConfig) -> Result<IngestHandle, Error> {
        let shared = Arc::new(Shared {
            config: config.clone(),
            draining: AtomicBool::new(false),
            load: Arc::default(),
            membership: Membership::new(ports.coordination.clone(), config.lease_ttl),
        });
        let coordination = ports.coordination.clone();
        let arguments = NodeArguments { ports, shared: shared.clone() };
        let (actor, _) =
            NodeActor::spawn(None, NodeActor, arguments).await.map_err(|error| Error::Actor(error.to_string()))?;
        let tasks = vec![
            AbortOnDropHandle::new(tokio::spawn(keep_registered(shared.clone()))),
            AbortOnDropHandle::new(tokio::spawn(follow(coordination, shared.clone(), actor.clone()))),
        ];
        Ok(IngestHandle { actor, shared, drain_limit: config.drain_limit, tasks })
    }
}

impl IngestHandle {
    /// Takes nothing new, commits what is open and leaves. What comes after is in the log, for the next owner.
    pub async fn drain(mut self) {
        self.shared.draining.store(true, Ordering::Release);
        self.shared.membership.changed();
        let limit = self.drain_limit;
        let left = tokio::time::timeout(limit, self.actor.call(NodeMessage::Drain, None)).await;
        if left.is_err() {
            tracing::warn!(?limit, "windows could not be committed in time; their entries are still in the log");
        }
        self.tasks.clear();
        self.shared.membership.leave().await;
        self.actor.stop(None);
    }

    /// Stops at once, as a crash would: for tests.
    pub async fn shutdown_now(mut self) {
        self.tasks.clear();
        // Its rooms and their tracks go with it. Fails only if it is gone already.
        let _ = self.actor.get_cell().kill_and_wait(None).await;
    }
}

impl Drop for IngestHandle {
    fn drop(&mut self) {
        self.actor.kill();
    }
}

/// Says what the node carries, again and again.
async fn keep_registered(shared: Arc<Shared>) {
    let config = &shared.config;
    let mut counted = (shared.load.load(Ordering::Relaxed), tokio::time::Instant::now());
    let mut load = 0;
    let describe = || {
        if counted.1.elapsed() >= Duration::from_secs(1) {
            let total = shared.load.load(Ordering::Relaxed);
            let rate = (total - counted.0) as f64 / counted.1.elapsed().as_secs_f64();
            load = (load * 3 + rate as u64) / 4;
            counted = (total, tokio::time::Instant::now());
        }
        Node {
            id: config.node.clone(),
            role: Role::Ingest,
            capacity: config.capacity,
            load,
            draining: shared.draining.load(Ordering::Acquire),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    };
    let pace = shared.membership.pace();
    match shared.membership.keep(describe, |failures| backoff(failures).min(pace)).await {}
}

/// Lists the assignments again and again; the watch only wakes it earlier.
async fn follow(coordination: Arc<dyn Coordination>, shared: Arc<Shared>, node: ActorRef<NodeMessage>) {
    let prefix = cluster::assignments_prefix();
    let mut failures = 0;
    let mut watch = None;
    loop {
        if watch.is_none() {
            // Before the list, so that nothing falls between.
            watch = coordination.watch(&prefix).await.ok();
        }
        match coordination.list(&prefix).await {
            Ok(snapshot) => {
                failures = 0;
                let mut mine = BTreeMap::new();
                for record in snapshot.records {
                    match serde_json::from_slice::<Assignment>(&record.value) {
                        Ok(assignment) if assignment.node == shared.config.node => {
                            mine.insert(assignment.spec.recording.clone(), (assignment.spec, record.mod_revision));
                        }
                        Ok(_) => {}
                        Err(error) => tracing::warn!(key = record.key, %error, "an assignment cannot be read"),
                    }
                }
                if node.cast(NodeMessage::Assigned(mine)).is_err() {
                    return;
                }
            }
            Err(error) => {
                failures += 1;
                if failures == 3 {
                    tracing::warn!(%error, "assignments cannot be read; going on with those known");
                }
            }
        }
        let woken = async {
            match &mut watch {
                Some(watch) => watch.next().await,
                None => std::future::pending().await,
            }
        };
        if let Ok(None) = tokio::time::timeout(RECONCILE, woken).await {
            watch = None;
            tokio::time::sleep(backoff(1)).await;
        }
    }
}

pub(crate) enum NodeMessage {
    /// All that this node is to record, with the assignments' revisions.
    Assigned(BTreeMap<RecordingId, (FoldSpec, u64)>),
    /// Commit what is open and leave; answers when every room has.
    Drain(RpcReplyPort<()>),
}

struct NodeArguments {
    ports: Ports,
    shared: Arc<Shared>,
}

struct NodeState {
    ports: Ports,
    shared: Arc<Shared>,
    budget: NodeBudget,
    metrics: Arc<Metrics>,
    rooms: BTreeMap<RecordingId, Room>,
    drained: Option<RpcReplyPort<()>>,
}

/// An assignment and what became of it.
struct Room {
    epoch: u64,
    /// `None`: it has ended by itself under this epoch.
    actor: Option<ActorRef<RoomMessage>>,
}

struct NodeActor;

impl Actor for NodeActor {
    type Msg = NodeMessage;
    type State = NodeState;
    type Arguments = NodeArguments;

    async fn pre_start(
        &self,
        _: ActorRef<Self::Msg>,
        NodeArguments { ports, shared }: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let budget = NodeBudget::new(shared.config.node_bytes);
        Ok(NodeState {
            ports,
            shared,
            budget,
            metrics: Arc::new(Metrics::new()),
            rooms: BTreeMap::new(),
            drained: None,
        })
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            NodeMessage::Assigned(_) if state.drained.is_some() => {}
            NodeMessage::Assigned(assigned) => state.reconcile(&myself, assigned).await?,
            NodeMessage::Drain(reply) => {
                for actor in state.rooms.values().filter_map(|room| room.actor.as_ref()) {
                    let _ = actor.cast(RoomMessage::Drain);
                }
                state.drained = Some(reply);
                state.answer_drain();
            }
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorTerminated(actor, _, _) => state.on_room_ended(&actor, true),
            SupervisionEvent::ActorFailed(actor, error) => {
                tracing::error!(%error, "a room failed; it is taken up again from its last window");
                state.on_room_ended(&actor, false);
            }
            _ => {}
        }
        state.answer_drain();
        Ok(())
    }
}

impl NodeState {
    async fn reconcile(
        &mut self,
        myself: &ActorRef<NodeMessage>,
        assigned: BTreeMap<RecordingId, (FoldSpec, u64)>,
    ) -> Result<(), ActorProcessingErr> {
        self.rooms.retain(|recording, room| {
            let stays = assigned.get(recording).is_some_and(|(_, epoch)| *epoch == room.epoch);
            if !stays && let Some(actor) = &room.actor {
                tracing::info!(%recording, "no longer assigned to this node");
                actor.stop(Some("assigned elsewhere".to_owned()));
            }
            stays
        });
        for (recording, (spec, epoch)) in assigned {
            if self.rooms.contains_key(&recording) {
                continue;
            }
            let config = &self.shared.config;
            let arguments = RoomArguments {
                ports: self.ports.clone(),
                node: config.node.clone(),
                config: config.fold,
                budget: Budget::new(config.room_bytes, &self.budget),
                spec,
                revision: epoch,
                metrics: self.metrics.clone(),
                load: self.shared.load.clone(),
            };
            let (actor, _) = RoomActor::spawn_linked(None, RoomActor, arguments, myself.get_cell()).await?;
            self.rooms.insert(recording, Room { epoch, actor: Some(actor) });
        }
        Ok(())
    }

    /// `by_itself`: it finished, was fenced or drained, and is not begun again under this epoch.
    fn on_room_ended(&mut self, actor: &ActorCell, by_itself: bool) {
        let is_it = |room: &Room| room.actor.as_ref().is_some_and(|other| other.get_id() == actor.get_id());
        let Some(recording) = self.rooms.iter().find(|(_, room)| is_it(room)).map(|(id, _)| id.clone()) else { return };
        if by_itself {
            self.rooms.entry(recording).and_modify(|room| room.actor = None);
        } else {
            self.rooms.remove(&recording);
        }
    }

    fn answer_drain(&mut self) {
        if self.rooms.values().all(|room| room.actor.is_none())
            && let Some(reply) = self.drained.take()
        {
            let _ = reply.send(());
        }
    }
}
