//! What is alive, as it stands in the coordination store: nodes, active recordings, assignments, renders.
//!
//! Values are JSON. Finished recordings live in the bucket alone.

use serde::{Deserialize, Serialize};

use crate::composite::CompositeSpec;
use crate::event::EventRef;
use crate::id::{CompositeId, NodeId, RecordingId, RoomId, TenantId};
use crate::late::{LateJob, Piece};
use crate::policy::Policy;
use crate::recording::Recording;
use crate::time::{LogTime, RoomTime};

const PREFIX: &str = "/roomreel/v1";

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Folds rooms.
    Ingest,
    /// Renders composites.
    Compositor,
    /// Plans.
    Coordinator,
}

/// A living process, bound to its lease.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its name, unique while it lives.
    pub id: NodeId,
    /// What it does.
    pub role: Role,
    /// What it can carry, in units of its own measured load; 0: nothing new.
    pub capacity: u64,
    /// What it carries: bytes/s for ingest, thousandths of a core for a compositor.
    pub load: u64,
    /// It is leaving: move what it has, give it nothing.
    pub draining: bool,
    /// Software version.
    pub version: String,
}

/// An active recording: what was asked and where it stands. Written by the leader only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActiveRecording {
    /// As users see it.
    pub recording: Recording,
    /// What the fold needs to know.
    pub spec: FoldSpec,
    /// A stop has been appended to the log.
    #[serde(default)]
    pub stopping: bool,
}

/// What an ingest node needs to fold a recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FoldSpec {
    /// Whose.
    pub tenant: TenantId,
    /// Which room.
    pub room: RoomId,
    /// The recording.
    pub recording: RecordingId,
    /// Number of shards of the cluster.
    pub shards: u32,
    /// Set: begins at this event, earlier in the log. Unset: at its RecordingStarted entry.
    #[serde(default)]
    pub from: Option<EventRef>,
    /// The RoomCreated that began the room's session, whatever the recording begins at: what tells the session from others.
    /// `None`: the log did not hold it any more.
    #[serde(default)]
    pub session: Option<EventRef>,
    /// When that event was, as far as the coordinator saw it.
    #[serde(default)]
    pub beginning: Option<Beginning>,
    /// Stream sequence where reading begins if there is no window yet: a hint. A broker that lost entries, or led from another
    /// replica, has the same entry elsewhere, so that it proves nothing about which session is which.
    pub start_sequence: u64,
    /// Window duration in log time, milliseconds.
    pub window_ms: u64,
    /// The policy in force until the log changes it.
    pub policy: Policy,
    /// Added to the assignment's revision to make the epoch: 0, or the highest epoch of the windows that were there when a
    /// coordination store whose revisions began anew was rebuilt.
    #[serde(default)]
    pub epoch_base: u64,
}

/// When a recording began that begins with an event: what is left of it should the log lose the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beginning {
    /// On the SFU's clock.
    pub time: RoomTime,
    /// When the log stored the session's first event: what it stored before is of no session, or of an earlier one.
    pub log_time: LogTime,
}

/// `unfinished.json`, which stands in for `recording.json` until there is one: with it and the windows, the bucket alone can
/// give a coordination store back what it has lost.
///
/// A document of its own, because it is replaced as the state changes: a leader that was paused in the middle of replacing it
/// may finish doing so when another one has long written the final state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnfinishedDocument {
    /// As users see it.
    #[serde(flatten)]
    pub recording: Recording,
    /// What the fold needs to know.
    #[serde(default)]
    pub fold: Option<FoldSpec>,
}

/// Which node folds a recording. The record's mod revision, over [`FoldSpec::epoch_base`], is the epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// Who.
    pub node: NodeId,
    /// What.
    pub spec: FoldSpec,
}

/// How far an ingest node has come with a recording. A hint: the windows are the truth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Who.
    pub node: NodeId,
    /// Windows committed.
    pub windows: u64,
    /// The last window is committed.
    pub finished: bool,
    /// Log time of the newest folded entry, microseconds since the Unix epoch.
    pub log_time_us: i64,
    /// Log time of the newest folded entry of an SFU; ticks do not count.
    pub sfu_log_time_us: i64,
    /// Recording is paused by the log.
    pub paused: bool,
    /// Bytes folded per second, lately.
    pub bytes_per_second: u64,
    /// Gaps declared so far that lost something the publisher had accepted.
    pub incomplete: bool,
    /// Length on the room's clock so far, microseconds.
    pub duration_us: u64,
}

/// Which node renders a composite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RenderJob {
    /// Who; `None` while nobody has it.
    pub node: Option<NodeId>,
    /// Of which recording.
    pub spec: FoldSpec,
    /// What to render; `None`: documents only.
    pub composite: Option<CompositeSpec>,
    /// This job also writes timeline, metadata and quality documents.
    pub documents: bool,
    /// Attempts that failed.
    #[serde(default)]
    pub failures: u32,
    /// Its share of a late render; `None`: it follows a recording from the first window to the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late: Option<LateJob>,
}

impl RenderJob {
    /// Where it stands.
    #[must_use]
    pub fn key(&self) -> String {
        let composite = self.composite.as_ref().map(|composite| &composite.id);
        let key = render_key(&self.spec.recording, composite);
        self.late.as_ref().map_or(key.clone(), |late| format!("{key}/{}", piece_token(&late.piece)))
    }

    /// Where its progress stands.
    #[must_use]
    pub fn progress_key(&self) -> String {
        progress_of_render(&self.key())
    }
}

/// How far a compositor has come with a render. A hint: the slices are the truth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderProgress {
    /// Who.
    pub node: NodeId,
    /// Slices in the bucket.
    pub slices: u64,
    /// Everything is in the bucket.
    pub finished: bool,
    /// Why this node gave up, if it has.
    #[serde(default)]
    pub error: Option<String>,
    /// File names below the recording that are ready.
    #[serde(default)]
    pub files: Vec<String>,
}

/// The election of the coordinator's leader.
#[must_use]
pub fn leader_key() -> String {
    format!("{PREFIX}/leader")
}

/// All nodes of a role.
#[must_use]
pub fn nodes_prefix(role: Role) -> String {
    let role = match role {
        Role::Ingest => "ingest",
        Role::Compositor => "compositor",
        Role::Coordinator => "coordinator",
    };
    format!("{PREFIX}/nodes/{role}/")
}

/// A node.
#[must_use]
pub fn node_key(role: Role, node: &NodeId) -> String {
    format!("{}{}", nodes_prefix(role), node.token())
}

/// All active recordings.
#[must_use]
pub fn recordings_prefix() -> String {
    format!("{PREFIX}/recordings/")
}

/// An active recording.
#[must_use]
pub fn recording_key(recording: &RecordingId) -> String {
    format!("{}{}", recordings_prefix(), recording.token())
}

/// All assignments.
#[must_use]
pub fn assignments_prefix() -> String {
    format!("{PREFIX}/assignments/")
}

/// The assignment of a recording.
#[must_use]
pub fn assignment_key(recording: &RecordingId) -> String {
    format!("{}{}", assignments_prefix(), recording.token())
}

/// All ingest progress.
#[must_use]
pub fn progress_prefix() -> String {
    format!("{PREFIX}/progress/")
}

/// Ingest progress of a recording.
#[must_use]
pub fn progress_key(recording: &RecordingId) -> String {
    format!("{}{}", progress_prefix(), recording.token())
}

/// All render jobs.
#[must_use]
pub fn renders_prefix() -> String {
    format!("{PREFIX}/renders/")
}

/// The render of a composite; `None`: the documents-only job.
#[must_use]
pub fn render_key(recording: &RecordingId, composite: Option<&CompositeId>) -> String {
    let composite = composite.map_or_else(|| "=documents".to_owned(), |id| id.token().to_string());
    format!("{}{}/{composite}", renders_prefix(), recording.token())
}

/// All render progress.
#[must_use]
pub fn render_progress_prefix() -> String {
    format!("{PREFIX}/render-progress/")
}

/// The progress beside a render job's key.
#[must_use]
pub fn render_progress_key(recording: &RecordingId, composite: Option<&CompositeId>) -> String {
    progress_of_render(&render_key(recording, composite))
}

fn progress_of_render(key: &str) -> String {
    key.replacen("/renders/", "/render-progress/", 1)
}

fn piece_token(piece: &Piece) -> String {
    match piece {
        Piece::Spans { first, end } => format!("{first}-{end}"),
        Piece::Join => "join".to_owned(),
    }
}

/// The piece of a late render that the last part of a job's key names.
#[must_use]
pub fn piece_of_token(token: &str) -> Option<Piece> {
    if token == "join" {
        return Some(Piece::Join);
    }
    let (first, end) = token.split_once('-')?;
    let piece = Piece::Spans { first: first.parse().ok()?, end: end.parse().ok()? };
    // One spelling: `+1-2` is none.
    (piece_token(&piece) == token).then_some(piece)
}

/// All late renders.
#[must_use]
pub fn late_renders_prefix() -> String {
    format!("{PREFIX}/late-renders/")
}

/// A late render.
#[must_use]
pub fn late_render_key(recording: &RecordingId, composite: &CompositeId) -> String {
    format!("{}{}/{}", late_renders_prefix(), recording.token(), composite.token())
}

/// All requests that the coordinator's API has put to the leader.
#[must_use]
pub fn requests_prefix() -> String {
    format!("{PREFIX}/requests/")
}

/// A request; `id` is the coordinator's own, of lower-case hexadecimal digits.
#[must_use]
pub fn request_key(id: &str) -> String {
    format!("{}{id}", requests_prefix())
}
