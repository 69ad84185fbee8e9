//! The pure planner: what is known in, what is to be done out.
//!
//! [`plan`] is level-triggered: it compares what is with what ought to be, and asks again for what has not come about.
//! Performing an action twice, late, or not at all is therefore harmless, and so is another leader planning the same.
//!
//! Owns: the life of recordings ([`lifecycle`]), who folds and renders them ([`placement`], [`balance`]), the brake ([`brake`]) and what
//! requests come to ([`requests`]). Does not own clocks, writes or the numbering of control entries.

mod age;
pub mod balance;
pub mod brake;
pub mod late;
pub mod lifecycle;
pub mod placement;
mod renders;
pub mod requests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use roomreel_shared::cluster::{ActiveRecording, Assignment, Node, Progress, RenderJob, RenderProgress, Role};
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::event::EventKind;
use roomreel_shared::id::{CompositeId, NodeId, RecordingId};
use roomreel_shared::key::RecordingName;
use roomreel_shared::late::{ActiveRender, Piece};
use roomreel_shared::recording::Recording;
use time::OffsetDateTime;

use crate::request::{Outcome, Request};
use crate::rooms::{RoomKey, Rooms};

/// The planner's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since this leadership began; never goes back.
    pub monotonic: Duration,
    /// On the leader's wall clock; for ages that outlive a leader.
    pub wall: OffsetDateTime,
}

/// A render among those of all recordings; no composite: the documents-only job.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RenderId {
    /// Of which recording.
    pub recording: RecordingId,
    /// What.
    pub composite: Option<CompositeId>,
}

/// A late render among those of all recordings.
pub type LateId = (RecordingId, CompositeId);
/// A job of a late render.
pub type PieceId = (LateId, Piece);

/// What is alive, as the coordination store has it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Alive {
    /// Nodes whose lease holds.
    pub nodes: BTreeMap<(Role, NodeId), Node>,
    /// Recordings that are not final.
    pub recordings: BTreeMap<RecordingId, ActiveRecording>,
    /// Who folds them.
    pub assignments: BTreeMap<RecordingId, Assignment>,
    /// How far the folds are.
    pub progress: BTreeMap<RecordingId, Progress>,
    /// Renders that were asked for.
    pub renders: BTreeMap<RenderId, RenderJob>,
    /// How far the renders are.
    pub render_progress: BTreeMap<RenderId, RenderProgress>,
    /// Late renders under way.
    pub late: BTreeMap<LateId, ActiveRender>,
    /// Jobs of late renders.
    pub pieces: BTreeMap<PieceId, RenderJob>,
    /// How far they are.
    pub piece_progress: BTreeMap<PieceId, RenderProgress>,
    /// Requests of the API, answered ones included.
    pub requests: BTreeMap<String, Request>,
}

/// Everything the planner decides by.
#[derive(Debug)]
pub struct World<'a> {
    /// When.
    pub now: Now,
    /// What is alive.
    pub alive: &'a Alive,
    /// Rooms; `None` while the log has not been read to where it stood when this leadership began.
    pub rooms: Option<&'a Rooms>,
}

/// The cluster's settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Number of shards.
    pub shards: u32,
    /// Window duration.
    pub window: Duration,
    /// Silence of a room's SFUs, by the log and by the leader's clock, that ends a recording.
    pub idle: Duration,
    /// Age that ends a recording, by two clocks of the leader's, the broker's and the SFU's.
    pub max_duration: Duration,
    /// Time without progress after which an ended recording is given up.
    pub ending: Duration,
    /// Rendered where nothing else is asked.
    pub composites: Vec<CompositeSpec>,
}

/// What the planner remembers from plan to plan. Lost with the leadership; everything in it is found again or harmless.
#[derive(Debug, Default)]
pub struct Memory {
    brake: brake::Brake,
    balance: balance::Balance,
    ages: age::Ages,
    waits: BTreeMap<RecordingId, lifecycle::Wait>,
    finished: BTreeMap<RecordingId, Recording>,
    /// Recordings that the log knows and the coordination store does not, once the bucket was to be asked for them.
    sought: BTreeSet<RecordingId>,
    /// Of these, those of which the bucket has nothing that could go on.
    unknown: BTreeSet<RecordingId>,
}

/// Most recordings of a kind that are remembered.
const MAX_REMEMBERED: usize = 10_000;

impl Memory {
    /// Notes that the bucket has the final state of a recording: it is not started again.
    pub fn on_finished(&mut self, recording: Recording) {
        if self.finished.len() >= MAX_REMEMBERED {
            self.finished.pop_first();
        }
        self.finished.insert(recording.id.clone(), recording);
    }

    /// Notes that the bucket did not take a recording's final state. Its owner had to wait for the bucket as well: it is waited for
    /// from now on, and not given up in the moment in which the bucket is back.
    pub fn on_bucket_away(&mut self, recording: &RecordingId) {
        self.waits.remove(recording);
    }

    /// Notes that the bucket does not know a recording that the log knows: it is not sought again.
    pub fn on_unknown(&mut self, recording: RecordingId) {
        if self.unknown.len() >= MAX_REMEMBERED {
            self.unknown.pop_first();
        }
        self.unknown.insert(recording);
    }

    /// How differently ingest nodes were used when last planned: of the most and the least used, in shares of their capacity.
    #[must_use]
    pub fn imbalance(&self) -> f64 {
        self.balance.difference()
    }
}

/// Why a fold or a render goes from one node to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The node's lease is gone.
    Gone,
    /// The node is leaving.
    Draining,
    /// The render failed there.
    Failed,
    /// The node carries more than others.
    Balance,
}

impl Cause {
    /// As a metric's attribute.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Draining => "draining",
            Self::Failed => "failed",
            Self::Balance => "balance",
        }
    }
}

/// What the shell does next.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write down a new recording, unless the bucket has its final state ([`Memory::on_finished`]).
    Start(Box<ActiveRecording>),
    /// Write down again a recording that the log knows and the coordination store does not, if the bucket has it and it is not final
    /// ([`Memory::on_finished`], [`Memory::on_unknown`]).
    TakeUp(RecordingName),
    /// Write down a recording's new state.
    Update(Box<ActiveRecording>),
    /// Give a fold to a node.
    Assign {
        /// To whom and what.
        assignment: Assignment,
        /// Why the node that had it does not keep it, if one had it.
        cause: Option<Cause>,
    },
    /// Write down a render job.
    Render {
        /// Which.
        id: RenderId,
        /// The job.
        job: Box<RenderJob>,
        /// Drop the progress of the attempt before.
        restart: bool,
        /// Why the node that had it does not keep it, if one had it.
        cause: Option<Cause>,
    },
    /// See that this entry stands in the room's log; its command id tells it from others.
    Command {
        /// Which room.
        room: RoomKey,
        /// The command's id.
        command: String,
        /// The entry.
        event: EventKind,
    },
    /// See that the room's log time moves on.
    Tick {
        /// Which room.
        room: RoomKey,
    },
    /// Tell the API what came of a request.
    Answer {
        /// Which.
        request: String,
        /// What.
        outcome: Box<Outcome>,
    },
    /// Write down how a late render stands, and its jobs.
    Late {
        /// As it is to stand.
        render: Box<ActiveRender>,
        /// Jobs to be given out, or to others; the progress of who had them before is dropped.
        jobs: Vec<RenderJob>,
        /// Jobs that are no longer needed.
        gone: Vec<RenderJob>,
    },
    /// Write to the bucket how a late render ended, then forget it.
    FinishLate {
        /// In its final state.
        render: Box<ActiveRender>,
        /// Its jobs, to be forgotten with it.
        gone: Vec<RenderJob>,
    },
    /// Write the final state to the bucket, then forget the recording.
    Finish {
        /// In its final state.
        recording: Box<Recording>,
        /// Its renders, to be forgotten with it.
        renders: Vec<RenderId>,
    },
}

impl Action {
    /// Whether the bucket has a part in it, which may be long in answering.
    #[must_use]
    pub fn needs_bucket(&self) -> bool {
        matches!(self, Self::Start(_) | Self::TakeUp(_) | Self::Finish { .. } | Self::FinishLate { .. })
    }

    /// In a word or two, for logs and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start(_) => "start",
            Self::TakeUp(_) => "take up",
            Self::Update(_) => "update",
            Self::Assign { .. } => "assign",
            Self::Render { .. } => "render",
            Self::Command { .. } => "command",
            Self::Tick { .. } => "tick",
            Self::Answer { .. } => "answer",
            Self::Late { .. } => "late",
            Self::FinishLate { .. } => "finish late",
            Self::Finish { .. } => "finish",
        }
    }
}

/// Decides what is to be done.
pub fn plan(world: &World<'_>, memory: &mut Memory, limits: &Limits) -> Vec<Action> {
    let mut actions = Vec::new();
    let wishes = requests::plan(world, memory, limits, &mut actions);
    let finishing = lifecycle::plan(world, memory, limits, &wishes, &mut actions);
    placement::plan(world, memory, &finishing, &mut actions);
    late::plan(world, memory, &mut actions);
    actions
}

/// Recordings that this plan finishes: nothing is placed for them any more.
type Finishing = BTreeSet<RecordingId>;
