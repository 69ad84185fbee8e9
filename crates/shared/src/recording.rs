//! A recording's life as users see it.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::composite::CompositeSpec;
use crate::event::StopReason;
use crate::id::{RecordingId, RoomId, TenantId};
use crate::key::RecordingName;
use crate::policy::Policy;

/// Where a recording stands. Every state has one writer: the coordinator's leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// Asked for; no window has been committed.
    Starting,
    /// Windows are being committed.
    Active,
    /// Between a pause and a resume.
    Paused,
    /// No more is recorded; renders are being finished.
    Ending,
    /// Everything that was asked for is in the bucket.
    Complete,
    /// It ended without everything that was asked for.
    Failed,
    /// It was given up before anything was recorded.
    Aborted,
    /// Complete, and it ended because it had reached its maximum duration.
    LimitReached,
    /// Its media was deleted.
    Deleted,
}

impl State {
    /// Nothing follows it but deletion (I6).
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Complete | Self::Failed | Self::Aborted | Self::LimitReached | Self::Deleted)
    }
}

/// `recording.json`, and what the API answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recording {
    /// Its id.
    pub id: RecordingId,
    /// Whose.
    pub tenant: TenantId,
    /// Of which room.
    pub room: RoomId,
    /// Where it stands.
    pub state: State,
    /// Why it stands there, for people.
    pub reason: String,
    /// Why it ended, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    /// Who asked for it; empty for auto-record.
    #[serde(default)]
    pub requested_by: String,
    /// When it was asked for.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it reached its final state.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<OffsetDateTime>,
    /// Length on the room's clock, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
    /// Committed windows, once it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub windows: Option<u64>,
    /// Packets are missing that the publisher accepted; the windows say which.
    #[serde(default)]
    pub incomplete: bool,
    /// What is rendered from it.
    #[serde(default)]
    pub composites: Vec<CompositeSpec>,
    /// The policy of its room: the one in force, or the last one of the session that it is of.
    pub policy: Policy,
    /// File names below the recording that a user may ask for.
    #[serde(default)]
    pub files: Vec<String>,
}

impl Recording {
    /// Where it lies in the bucket.
    #[must_use]
    pub fn name(&self) -> RecordingName {
        RecordingName { tenant: self.tenant.clone(), room: self.room.clone(), recording: self.id.clone() }
    }
}
