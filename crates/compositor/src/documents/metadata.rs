//! `metadata.json`: room, policy, participants with their tracks, timeline and recording in one document.

use roomreel_shared::event::{Codec, Producer, StopReason};
use roomreel_shared::policy::Policy;
use roomreel_shared::window::TrackKey;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::kind_name;
use super::timeline::Entry;

/// The whole document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// [`super::SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The room.
    pub room: Room,
    /// The policy the recording began under.
    pub policy: Policy,
    /// In the order they joined.
    pub participants: Vec<Participant>,
    /// As in `timeline.json`.
    pub timeline: Vec<Entry>,
    /// The recording.
    pub recording: RecordingFacts,
}

/// The room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Its id.
    pub id: String,
    /// Whose.
    pub tenant_id: String,
    /// As its SFU calls it; may be empty.
    pub name: String,
    /// Who opened it, where known.
    pub host_id: Option<String>,
    /// As its SFU calls it; may be empty.
    pub meeting_type: String,
}

/// Somebody who was there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Participant {
    /// The id.
    pub peer_id: String,
    /// The name last announced.
    pub display_name: String,
    /// Opened the room.
    pub is_host: bool,
    /// Named by the host.
    pub is_co_host: bool,
    /// On the panel.
    pub is_panelist: bool,
    /// First joined, milliseconds from the recording's start.
    pub joined_ms: i64,
    /// Left for the last time; `null`: was there to the end.
    pub left_ms: Option<i64>,
    /// Times they left and came back.
    pub reconnects: u32,
    /// In the order they were created.
    pub tracks: Vec<Track>,
}

impl Participant {
    pub(super) fn new(peer_id: String, joined_ms: i64) -> Self {
        Self {
            display_name: peer_id.clone(),
            peer_id,
            is_host: false,
            is_co_host: false,
            is_panelist: false,
            joined_ms,
            left_ms: None,
            reconnects: 0,
            tracks: Vec::new(),
        }
    }
}

/// A track of a participant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Track {
    /// Its id at its SFU.
    pub track_id: String,
    /// The SFU.
    pub sfu_id: String,
    /// `audio`, `video` or `screenshare`.
    pub kind: String,
    /// Sound or picture: the sound of a shared screen is a screenshare too.
    pub is_audio: bool,
    /// Codecs that could occur, the one in use first.
    pub codecs: Vec<String>,
    /// RTP streams, with their simulcast layer's RID where there is one.
    pub streams: Vec<Stream>,
    /// Milliseconds from the recording's start.
    pub created_ms: i64,
    /// `null`: there to the end.
    pub closed_ms: Option<i64>,
    /// Packets in the recording.
    pub packets: u64,
}

/// An RTP stream of a track.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream {
    /// Its SSRC.
    pub ssrc: u32,
    /// Its simulcast layer.
    pub rid: Option<String>,
}

impl Track {
    pub(super) fn new(key: &TrackKey, producer: &Producer, created_ms: i64) -> Self {
        let is_media = |codec: &Codec| !matches!(codec, Codec::Rtx | Codec::Red | Codec::Fec);
        let codecs = producer.codecs.iter().map(|parameters| &parameters.codec).filter(|codec| is_media(codec));
        let streams =
            producer.encodings.iter().map(|encoding| Stream { ssrc: encoding.ssrc.0, rid: encoding.rid.clone() });
        Self {
            track_id: key.track.to_string(),
            sfu_id: key.sfu.to_string(),
            kind: kind_name(producer.kind).to_owned(),
            is_audio: producer.is_audio,
            codecs: codecs.map(|codec| codec.name().to_owned()).collect(),
            streams: streams.collect(),
            created_ms,
            closed_ms: None,
            packets: 0,
        }
    }
}

/// The recording, by its windows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingFacts {
    /// Its id.
    pub id: String,
    /// Who asked for it; empty for auto-record.
    pub requested_by: String,
    /// On the room's clock.
    #[serde(with = "time::serde::rfc3339::option")]
    pub started_at: Option<OffsetDateTime>,
    /// Length.
    pub duration_ms: u64,
    /// Windows.
    pub windows: u64,
    /// Why it ended; `null` while it has not.
    pub stop_reason: Option<StopReason>,
}

impl RecordingFacts {
    pub(super) fn new(id: String) -> Self {
        Self { id, requested_by: String::new(), started_at: None, duration_ms: 0, windows: 0, stop_reason: None }
    }
}
