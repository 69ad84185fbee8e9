//! What the API asks of the leader, as it stands in the coordination store.
//!
//! A replica writes a [`Request`] bound to a short lease, the leader writes the [`Outcome`] into the same record in a
//! fenced transaction, and the replica reads it. So every decision about a recording has one maker, which knows the rooms and
//! the policy in force, and no replica but the leader reads the log. The alternative, that a replica creates the recording
//! itself on condition that the key is absent, would check permission against a policy that it may not have read yet.
//!
//! A request's id decides the id of the recording it starts, so a request that is repeated, or decided by two leaders, starts
//! one recording.

use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::id::{CompositeId, PeerId, RecordingId, RoomId, TenantId};
use roomreel_shared::recording::Recording;
use serde::{Deserialize, Serialize};

/// A request and, once the leader has decided, its outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Whose; from the token.
    pub tenant: TenantId,
    /// The token's subject.
    pub subject: String,
    /// The participant for whom it is asked; its role is checked. `None`: a service asks for itself.
    pub peer: Option<PeerId>,
    /// What is asked.
    pub wish: Wish,
    /// What came of it.
    #[serde(default)]
    pub outcome: Option<Outcome>,
}

impl Request {
    /// Who asked, as the recording shows it.
    #[must_use]
    pub fn requested_by(&self) -> &str {
        self.peer.as_ref().map_or(&self.subject, PeerId::as_str)
    }
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// Begin a recording.
    Start {
        /// Of this room.
        room: RoomId,
        /// What to render; `None`: the cluster's default.
        composites: Option<Vec<CompositeSpec>>,
    },
    /// End it.
    Stop {
        /// Which.
        recording: RecordingId,
    },
    /// Record nothing until resumed.
    Pause {
        /// Which.
        recording: RecordingId,
    },
    /// Record again.
    Resume {
        /// Which.
        recording: RecordingId,
    },
    /// Show it in another way from now on.
    Layout {
        /// Which.
        recording: RecordingId,
        /// In this composite; `None`: in all of them.
        composite: Option<CompositeId>,
        /// Its layout; empty: as before.
        layout: String,
        /// Who is not shown.
        hidden: Vec<PeerId>,
    },
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Done; the recording as it stands.
    Done(Box<Recording>),
    /// Refused.
    Refused(Refusal),
}

/// Why the leader refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// No such room is open.
    RoomNotOpen,
    /// The room is being recorded already.
    AlreadyRecorded {
        /// By this recording.
        recording: RecordingId,
    },
    /// The recording is ending or has ended.
    Ended,
    /// The room's policy disables recording.
    Disabled,
    /// The participant's role does not permit it.
    NotAuthorised {
        /// In words.
        detail: String,
    },
}
