//! What may be recorded, by whom, and who may have it.

use serde::{Deserialize, Serialize};

use crate::id::PeerId;
use crate::wire;

/// Who a policy permits something to; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// The host alone.
    Host,
    /// The host and the co-hosts.
    CoHost,
    /// The host, the co-hosts and the panelists.
    Panelist,
    /// Everybody in the room.
    All,
}

/// Where a participant stands in the room, highest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Opened the room.
    Host,
    /// Named by the host.
    CoHost,
    /// On the panel.
    Panelist,
    /// Everybody else.
    Attendee,
}

/// What a check point refuses, with the code of docs/sfu-contract.md.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Code 5001.
    #[error("recording is disabled by the room's policy (5001)")]
    Disabled,
    /// Code 5002.
    #[error("{who:?} is not permitted to {what} by the room's policy (5002)")]
    NotAuthorised {
        /// The participant.
        who: String,
        /// What was asked.
        what: &'static str,
    },
}

/// What kind of media a track is, as policy tells kinds apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrackKind {
    /// A microphone, or the sound of a shared screen.
    Audio,
    /// A camera.
    Video,
    /// A shared screen or window.
    Screenshare,
}

/// A room's recording policy; it can change while the room talks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Nothing is recorded without it.
    pub enabled: bool,
    /// Record from the first producer on, unasked.
    pub auto_record: bool,
    /// Who may start, stop, pause and resume.
    pub who_can_record: Audience,
    /// Who may download.
    pub who_can_download: Audience,
    /// Store microphones.
    pub record_audio: bool,
    /// Store cameras.
    pub record_video: bool,
    /// Store shared screens.
    pub record_screenshare: bool,
    /// Days for which the recording is to be kept, for what deletes recordings; `None`: for ever. roomreel deletes none.
    pub retention_days: Option<u32>,
    /// Tell the participants.
    pub notify_participants: bool,
    /// The host, where known.
    pub host_id: Option<PeerId>,
    /// Co-hosts.
    pub co_host_ids: Vec<PeerId>,
    /// Panelists.
    pub panelist_ids: Vec<PeerId>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            enabled: true,
            auto_record: false,
            who_can_record: Audience::Host,
            who_can_download: Audience::Host,
            record_audio: true,
            record_video: true,
            record_screenshare: true,
            retention_days: None,
            notify_participants: true,
            host_id: None,
            co_host_ids: Vec::new(),
            panelist_ids: Vec::new(),
        }
    }
}

impl Policy {
    /// Where `peer` stands.
    #[must_use]
    pub fn role_of(&self, peer: &PeerId) -> Role {
        if self.host_id.as_ref() == Some(peer) {
            Role::Host
        } else if self.co_host_ids.contains(peer) {
            Role::CoHost
        } else if self.panelist_ids.contains(peer) {
            Role::Panelist
        } else {
            Role::Attendee
        }
    }

    /// Whether `peer` may start, stop, pause or resume a recording.
    ///
    /// # Errors
    /// [`Refusal`] with its code.
    pub fn check_record(&self, peer: &PeerId) -> Result<(), Refusal> {
        if !self.enabled {
            return Err(Refusal::Disabled);
        }
        self.check(peer, self.who_can_record, "record")
    }

    /// Whether `peer` may download.
    ///
    /// # Errors
    /// [`Refusal::NotAuthorised`].
    pub fn check_download(&self, peer: &PeerId) -> Result<(), Refusal> {
        self.check(peer, self.who_can_download, "download")
    }

    fn check(&self, peer: &PeerId, audience: Audience, what: &'static str) -> Result<(), Refusal> {
        let lowest = match audience {
            Audience::Host => Role::Host,
            Audience::CoHost => Role::CoHost,
            Audience::Panelist => Role::Panelist,
            Audience::All => Role::Attendee,
        };
        if self.role_of(peer) <= lowest { Ok(()) } else { Err(Refusal::NotAuthorised { who: peer.to_string(), what }) }
    }

    /// Whether media of this kind may be stored (I8).
    #[must_use]
    pub fn allows(&self, kind: TrackKind) -> bool {
        self.enabled
            && match kind {
                TrackKind::Audio => self.record_audio,
                TrackKind::Video => self.record_video,
                TrackKind::Screenshare => self.record_screenshare,
            }
    }
}

impl From<wire::RecordingPolicy> for Policy {
    /// What is unset falls to the strictest: an audience to the host. Ids that cannot be spelled name nobody.
    fn from(wire: wire::RecordingPolicy) -> Self {
        let audience = |value: wire::Audience| match value {
            wire::Audience::Unspecified | wire::Audience::Host => Audience::Host,
            wire::Audience::CoHost => Audience::CoHost,
            wire::Audience::Panelist => Audience::Panelist,
            wire::Audience::All => Audience::All,
        };
        let peers = |ids: Vec<String>| ids.into_iter().filter_map(|id| PeerId::new(id).ok()).collect();
        Self {
            enabled: wire.enabled,
            auto_record: wire.auto_record,
            who_can_record: audience(wire.who_can_record()),
            who_can_download: audience(wire.who_can_download()),
            record_audio: wire.record_audio,
            record_video: wire.record_video,
            record_screenshare: wire.record_screenshare,
            retention_days: (wire.retention_days != 0).then_some(wire.retention_days),
            notify_participants: wire.notify_participants,
            host_id: PeerId::new(wire.host_id).ok(),
            co_host_ids: peers(wire.co_host_ids),
            panelist_ids: peers(wire.panelist_ids),
        }
    }
}

impl From<&Policy> for wire::RecordingPolicy {
    fn from(policy: &Policy) -> Self {
        let audience = |value: Audience| match value {
            Audience::Host => wire::Audience::Host,
            Audience::CoHost => wire::Audience::CoHost,
            Audience::Panelist => wire::Audience::Panelist,
            Audience::All => wire::Audience::All,
        };
        let peers = |ids: &[PeerId]| ids.iter().map(ToString::to_string).collect();
        Self {
            enabled: policy.enabled,
            auto_record: policy.auto_record,
            who_can_record: audience(policy.who_can_record).into(),
            who_can_download: audience(policy.who_can_download).into(),
            record_audio: policy.record_audio,
            record_video: policy.record_video,
            record_screenshare: policy.record_screenshare,
            retention_days: policy.retention_days.unwrap_or(0),
            notify_participants: policy.notify_participants,
            host_id: policy.host_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            co_host_ids: peers(&policy.co_host_ids),
            panelist_ids: peers(&policy.panelist_ids),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audiences_include_those_above() {
        let peer = |id: &str| PeerId::new(id).expect("valid");
        let policy = Policy {
            host_id: Some(peer("host")),
            co_host_ids: vec![peer("co")],
            panelist_ids: vec![peer("pan")],
            ..Policy::default()
        };
        for (audience, permitted) in [
            (Audience::Host, &["host"][..]),
            (Audience::CoHost, &["host", "co"]),
            (Audience::Panelist, &["host", "co", "pan"]),
            (Audience::All, &["host", "co", "pan", "guest"]),
        ] {
            let policy = Policy { who_can_record: audience, ..policy.clone() };
            for id in ["host", "co", "pan", "guest"] {
                assert_eq!(policy.check_record(&peer(id)).is_ok(), permitted.contains(&id), "{audience:?} {id}");
            }
            assert_eq!(Policy::from(wire::RecordingPolicy::from(&policy)), policy);
        }
        let disabled = Policy { enabled: false, ..policy };
        assert_eq!(disabled.check_record(&peer("host")), Err(Refusal::Disabled));
        assert!(!disabled.allows(TrackKind::Audio));
    }
}
