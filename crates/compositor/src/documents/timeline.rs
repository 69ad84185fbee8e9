//! `timeline.json`: what happened, in milliseconds from the start of the recording.

use roomreel_shared::event::{EventKind, StopReason};
use roomreel_shared::id::{RecordingId, TrackId};
use roomreel_shared::policy::TrackKind;
use roomreel_shared::verify::reason_name;
use roomreel_shared::window::{Gap, Missing};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::kind_name;

/// Most entries that are kept: an event every quarter of a second for seven hours.
const MAX_ENTRIES: usize = 100_000;

/// The whole document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    /// [`super::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Of which recording.
    pub recording_id: String,
    /// Where offset 0 is; `null` for a recording without windows.
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// Length so far.
    pub duration_ms: u64,
    /// In order.
    pub entries: Vec<Entry>,
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Milliseconds from the start of the recording; negative if it was before.
    pub offset_ms: i64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What happened; `type` tells which.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(missing_docs, reason = "fields are those of the events, documented in the contract")]
pub enum What {
    RoomCreated {
        room_name: String,
    },
    RoomClosed {
        reason: String,
    },
    RecordingStarted {
        requested_by: String,
    },
    RecordingPaused {
        requested_by: String,
    },
    RecordingResumed {
        requested_by: String,
    },
    RecordingEnded {
        reason: StopReason,
    },
    PolicyUpdated,
    PeerJoined {
        peer_id: String,
        display_name: String,
    },
    PeerLeft {
        peer_id: String,
        reason: String,
    },
    TrackStarted {
        track_id: String,
        peer_id: String,
        kind: String,
        codec: String,
    },
    TrackEnded {
        track_id: String,
        peer_id: Option<String>,
        kind: Option<String>,
        reason: String,
    },
    TrackMuted {
        track_id: String,
        peer_id: Option<String>,
        kind: Option<String>,
    },
    TrackUnmuted {
        track_id: String,
        peer_id: Option<String>,
        kind: Option<String>,
    },
    ActiveSpeaker {
        peer_id: Option<String>,
    },
    LayoutChanged {
        composite_id: Option<String>,
        layout: String,
        hidden_peer_ids: Vec<String>,
    },
    Gap {
        track_id: String,
        reason: String,
        until_ms: i64,
        packets: Option<u64>,
    },
    /// Later entries were left out.
    Truncated,
}

impl What {
    /// What an event says; `owner` knows the participant and kind of a track.
    pub(super) fn of_event(
        kind: &EventKind,
        recording: &RecordingId,
        owner: impl Fn(&TrackId) -> Option<(String, TrackKind)>,
    ) -> Option<Self> {
        let names = |track: &TrackId| match owner(track) {
            Some((peer, kind)) => (Some(peer), Some(kind_name(kind).to_owned())),
            None => (None, None),
        };
        Some(match kind {
            EventKind::RoomCreated { room_name, .. } => Self::RoomCreated { room_name: room_name.clone() },
            EventKind::RoomClosed { reason } => Self::RoomClosed { reason: reason.clone() },
            EventKind::RoomPolicyUpdated { .. } => Self::PolicyUpdated,
            EventKind::PeerJoined { peer, display_name, .. } => {
                Self::PeerJoined { peer_id: peer.to_string(), display_name: display_name.clone() }
            }
            EventKind::PeerLeft { peer, reason } => {
                Self::PeerLeft { peer_id: peer.to_string(), reason: reason.clone() }
            }
            EventKind::ProducerCreated(producer) => Self::TrackStarted {
                track_id: producer.track.to_string(),
                peer_id: producer.peer.to_string(),
                kind: kind_name(producer.kind).to_owned(),
                codec: producer.codecs.first().map(|codec| codec.codec.name().to_owned()).unwrap_or_default(),
            },
            EventKind::ProducerClosed { track, reason } => {
                let (peer_id, kind) = names(track);
                Self::TrackEnded { track_id: track.to_string(), peer_id, kind, reason: reason.clone() }
            }
            EventKind::ProducerPaused { track } => {
                let (peer_id, kind) = names(track);
                Self::TrackMuted { track_id: track.to_string(), peer_id, kind }
            }
            EventKind::ProducerResumed { track } => {
                let (peer_id, kind) = names(track);
                Self::TrackUnmuted { track_id: track.to_string(), peer_id, kind }
            }
            EventKind::ActiveSpeaker { peer, .. } => {
                Self::ActiveSpeaker { peer_id: peer.as_ref().map(ToString::to_string) }
            }
            EventKind::RecordingStarted { recording: of, requested_by, .. } if of == recording => {
                Self::RecordingStarted { requested_by: requested_by.clone() }
            }
            EventKind::RecordingPaused { recording: of, requested_by, .. } if of == recording => {
                Self::RecordingPaused { requested_by: requested_by.clone() }
            }
            EventKind::RecordingResumed { recording: of, requested_by, .. } if of == recording => {
                Self::RecordingResumed { requested_by: requested_by.clone() }
            }
            EventKind::LayoutChanged { recording: of, composite, layout, hidden, .. } if of == recording => {
                Self::LayoutChanged {
                    composite_id: composite.as_ref().map(ToString::to_string),
                    layout: layout.clone(),
                    hidden_peer_ids: hidden.iter().map(ToString::to_string).collect(),
                }
            }
            EventKind::RecordingStarted { .. }
            | EventKind::RecordingPaused { .. }
            | EventKind::RecordingResumed { .. }
            | EventKind::LayoutChanged { .. }
            | EventKind::RecordingStopped { .. }
            | EventKind::PublisherGap(_)
            | EventKind::TranscriptCue { .. }
            | EventKind::Tick => return None,
        })
    }

    /// A gap that is worth telling: what the publisher had accepted. Single packets that the network lost are counted in
    /// `quality.json`.
    pub(super) fn of_gap(gap: &Gap, until_ms: i64) -> Option<Self> {
        let Missing::Accepted { reason, packets: (first, last), .. } = &gap.missing else { return None };
        Some(Self::Gap {
            track_id: gap.key.track.to_string(),
            reason: reason_name(*reason).to_owned(),
            until_ms,
            packets: last.map(|last| last.saturating_sub(*first).saturating_add(1)),
        })
    }
}

/// Entries as they were learned of.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    entries: Vec<Entry>,
}

impl Timeline {
    pub(super) fn push(&mut self, entry: Entry) {
        match self.entries.len() {
            0..MAX_ENTRIES => self.entries.push(entry),
            MAX_ENTRIES => self.entries.push(Entry { what: What::Truncated, ..entry }),
            _ => {}
        }
    }

    /// By offset; what has the same offset stands as it stood in the log.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let mut entries = self.entries.clone();
        entries.sort_by_key(|entry| entry.offset_ms);
        entries
    }
}
