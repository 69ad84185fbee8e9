//! What happens in a room: `RoomEvent` read and written.

use bytes::Bytes;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::batch::Incarnation;
use crate::id::{self, CompositeId, PeerId, RecordingId, RoomId, TrackId};
use crate::policy::{Policy, TrackKind};
use crate::rtp::{PayloadType, Ssrc};
use crate::time::RoomTime;
use crate::wire;

/// Most bytes an event may have on the wire.
pub const MAX_EVENT_BYTES: usize = 64 * 1024;
/// Peer ids with this prefix share a screen, by a convention of SFUs that have no flag for it.
pub const SCREENSHARE_PEER_PREFIX: &str = "sharescreen_";

/// An event under its writer's own numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct RoomEvent {
    /// The room the writer meant.
    pub room: RoomId,
    /// Which start of the writer numbered this.
    pub incarnation: Incarnation,
    /// Contiguous from 0 within the incarnation.
    pub event_no: u64,
    /// When, on the writer's clock.
    pub time: RoomTime,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "fields are those of the contract, documented there")]
pub enum EventKind {
    RoomCreated {
        room_name: String,
        host: Option<PeerId>,
        meeting_type: String,
        policy: Option<Policy>,
    },
    RoomClosed {
        reason: String,
    },
    RoomPolicyUpdated {
        policy: Policy,
    },
    PeerJoined {
        peer: PeerId,
        display_name: String,
        is_host: bool,
        is_co_host: bool,
        is_panelist: bool,
    },
    PeerLeft {
        peer: PeerId,
        reason: String,
    },
    ProducerCreated(Producer),
    ProducerClosed {
        track: TrackId,
        reason: String,
    },
    ProducerPaused {
        track: TrackId,
    },
    ProducerResumed {
        track: TrackId,
    },
    ActiveSpeaker {
        peer: Option<PeerId>,
        level: u8,
    },
    TranscriptCue {
        peer: PeerId,
        text: String,
        start: RoomTime,
        end: RoomTime,
        language: String,
    },
    PublisherGap(PublisherGap),
    RecordingStarted {
        recording: RecordingId,
        command: String,
        requested_by: String,
        from: Option<EventRef>,
    },
    RecordingStopped {
        recording: RecordingId,
        command: String,
        requested_by: String,
        reason: StopReason,
    },
    RecordingPaused {
        recording: RecordingId,
        command: String,
        requested_by: String,
    },
    RecordingResumed {
        recording: RecordingId,
        command: String,
        requested_by: String,
    },
    LayoutChanged {
        recording: RecordingId,
        command: String,
        composite: Option<CompositeId>,
        layout: String,
        hidden: Vec<PeerId>,
    },
    Tick,
}

impl EventKind {
    /// Whether only the coordinator may write it.
    #[must_use]
    pub fn is_control(&self) -> bool {
        matches!(
            self,
            Self::RecordingStarted { .. }
                | Self::RecordingStopped { .. }
                | Self::RecordingPaused { .. }
                | Self::RecordingResumed { .. }
                | Self::LayoutChanged { .. }
                | Self::Tick
        )
    }
}

/// An event by its writer's own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRef {
    /// Which start of the writer; not 0.
    pub incarnation: u64,
    /// Its number.
    pub event_no: u64,
}

/// A track begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Producer {
    /// The track.
    pub track: TrackId,
    /// Whose it is.
    pub peer: PeerId,
    /// As policy tells kinds apart: a screenshare by flag or by the peer id's prefix.
    pub kind: TrackKind,
    /// The media is audio, whatever `kind` says: the sound of a shared screen is a screenshare too.
    pub is_audio: bool,
    /// Every payload type that may occur, the one in use first.
    pub codecs: Vec<CodecParameters>,
    /// One per RTP stream.
    pub encodings: Vec<Encoding>,
    /// Negotiated header extensions.
    pub header_extensions: Vec<HeaderExtension>,
}

impl Producer {
    /// Id of the header extension with this URI, if it was negotiated.
    #[must_use]
    pub fn extension_id(&self, uri: &str) -> Option<u8> {
        self.header_extensions.iter().find(|extension| extension.uri == uri).map(|extension| extension.id)
    }

    /// What a payload type stands for.
    #[must_use]
    pub fn codec(&self, payload_type: PayloadType) -> Option<&CodecParameters> {
        self.codecs.iter().find(|codec| codec.payload_type == payload_type)
    }
}

/// URI of the audio level header extension (RFC 6464).
pub const AUDIO_LEVEL_URI: &str = "urn:ietf:params:rtp-hdrext:ssrc-audio-level";

/// One payload type.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodecParameters {
    /// 7 bits.
    pub payload_type: PayloadType,
    /// What it encodes.
    pub codec: Codec,
    /// Hz.
    pub clock_rate: u32,
    /// 0 for video.
    pub channels: u8,
    /// As in the SDP.
    pub fmtp: String,
}

impl CodecParameters {
    /// A parameter of the fmtp line.
    #[must_use]
    pub fn format_parameter(&self, name: &str) -> Option<&str> {
        self.fmtp.split(';').find_map(|pair| {
            let (key, value) = pair.trim().split_once('=')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// What a payload type encodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "names of codecs")]
pub enum Codec {
    Opus,
    Pcmu,
    Pcma,
    G722,
    Vp8,
    Vp9,
    H264,
    H265,
    Av1,
    /// Retransmission of another payload type (RFC 4588).
    Rtx,
    /// Redundant audio or video (RFC 2198).
    Red,
    /// Forward error correction of any kind.
    Fec,
    /// Comfort noise (RFC 3389).
    ComfortNoise,
    /// DTMF (RFC 4733).
    TelephoneEvent,
    /// Stored and exported, not rendered.
    Other(String),
}

impl Codec {
    /// From an encoding name of SDP, any case.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "opus" => Self::Opus,
            "pcmu" => Self::Pcmu,
            "pcma" => Self::Pcma,
            "g722" => Self::G722,
            "vp8" => Self::Vp8,
            "vp9" => Self::Vp9,
            "h264" => Self::H264,
            "h265" => Self::H265,
            "av1" | "av1x" => Self::Av1,
            "rtx" => Self::Rtx,
            "red" => Self::Red,
            "ulpfec" | "flexfec" | "flexfec-03" => Self::Fec,
            "cn" => Self::ComfortNoise,
            "telephone-event" => Self::TelephoneEvent,
            other => Self::Other(other.to_owned()),
        }
    }

    /// The encoding name as SDP writes it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Opus => "opus",
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
            Self::G722 => "G722",
            Self::Vp8 => "VP8",
            Self::Vp9 => "VP9",
            Self::H264 => "H264",
            Self::H265 => "H265",
            Self::Av1 => "AV1",
            Self::Rtx => "rtx",
            Self::Red => "red",
            Self::Fec => "ulpfec",
            Self::ComfortNoise => "CN",
            Self::TelephoneEvent => "telephone-event",
            Self::Other(name) => name,
        }
    }
}

/// One RTP stream of a track.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encoding {
    /// The stream.
    pub ssrc: Ssrc,
    /// The simulcast layer's RID.
    pub rid: Option<String>,
    /// Where retransmissions of it come.
    pub rtx_ssrc: Option<Ssrc>,
}

/// A negotiated header extension (RFC 8285).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderExtension {
    /// 1 to 255.
    pub id: u8,
    /// What it means.
    pub uri: String,
}

/// Packets the publisher accepted and had to drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublisherGap {
    /// Of which track.
    pub track: TrackId,
    /// Of which numbering.
    pub incarnation: Incarnation,
    /// Inclusive packet numbers.
    pub packets: (u64, u64),
    /// Inclusive batch numbers.
    pub batches: (u64, u64),
    /// In words.
    pub reason: String,
}

/// Where the numbering of a track ends, by its publisher's word when it closes the track or the room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackEnd {
    /// Which track.
    pub track: TrackId,
    /// Which numbering.
    pub incarnation: Incarnation,
    /// One past the last batch; not 0.
    pub next_batch_no: u64,
    /// One past the last packet.
    pub next_packet_no: u64,
}

/// Why a recording ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Somebody stopped it.
    Requested,
    /// The room closed.
    RoomClosed,
    /// Nothing came from the room for the idle limit.
    Idle,
    /// The maximum duration was reached.
    LimitReached,
    /// Policy was changed to forbid it.
    Policy,
}

impl StopReason {
    /// From the wire; unset is a request.
    #[must_use]
    pub fn from_wire(reason: wire::StopReason) -> Self {
        match reason {
            wire::StopReason::Unspecified | wire::StopReason::Requested => Self::Requested,
            wire::StopReason::RoomClosed => Self::RoomClosed,
            wire::StopReason::Idle => Self::Idle,
            wire::StopReason::LimitReached => Self::LimitReached,
            wire::StopReason::Policy => Self::Policy,
        }
    }

    /// For the wire.
    #[must_use]
    pub fn to_wire(self) -> wire::StopReason {
        match self {
            Self::Requested => wire::StopReason::Requested,
            Self::RoomClosed => wire::StopReason::RoomClosed,
            Self::Idle => wire::StopReason::Idle,
            Self::LimitReached => wire::StopReason::LimitReached,
            Self::Policy => wire::StopReason::Policy,
        }
    }
}

/// Why a message is not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than [`MAX_EVENT_BYTES`].
    #[error("event of {bytes} bytes is over the limit of {MAX_EVENT_BYTES}")]
    TooLarge {
        /// Length of the message.
        bytes: usize,
    },
    /// Not a protobuf message of this type.
    #[error("event does not decode: {0}")]
    Decode(String),
    /// A field is missing or impossible.
    #[error("event field {field}: {why}")]
    Field {
        /// Its name in the contract.
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An id cannot be spelled.
    #[error("event: {0}")]
    Id(#[from] id::Error),
}

const fn field(field: &'static str, why: &'static str) -> Error {
    Error::Field { field, why }
}

impl RoomEvent {
    /// Reads a message of the log.
    ///
    /// # Errors
    /// Any [`Error`]; nothing of such a message may be used.
    pub fn decode(message: Bytes) -> Result<Self, Error> {
        if message.len() > MAX_EVENT_BYTES {
            return Err(Error::TooLarge { bytes: message.len() });
        }
        let wire = wire::RoomEvent::decode(message).map_err(|e| Error::Decode(e.to_string()))?;
        if wire.event_no == u64::MAX {
            return Err(field("event_no", "it is at the end of its range"));
        }
        Ok(Self {
            room: RoomId::new(wire.room_id)?,
            incarnation: Incarnation::new(wire.incarnation).ok_or(field("incarnation", "it is 0"))?,
            event_no: wire.event_no,
            time: RoomTime::from_micros(wire.time_us),
            kind: kind_from_wire(wire.event.ok_or(field("event", "none is set, or this version does not know it"))?)?,
        })
    }

    /// The message to append.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        self.encode_with_ends(&[])
    }

    /// The message of an event that closes tracks, with where their numberings end. What would make it longer than half of
    /// [`MAX_EVENT_BYTES`] is left out.
    #[must_use]
    pub fn encode_with_ends(&self, ends: &[TrackEnd]) -> Bytes {
        let mut wire = wire::RoomEvent {
            room_id: self.room.to_string(),
            incarnation: self.incarnation.get(),
            event_no: self.event_no,
            time_us: self.time.as_micros(),
            track_ends: Vec::new(),
            event: Some(kind_to_wire(&self.kind)),
        };
        let mut left = (MAX_EVENT_BYTES / 2).saturating_sub(wire.encoded_len());
        for end in ends {
            let end = wire::TrackEnd {
                track_id: end.track.to_string(),
                incarnation: end.incarnation.get(),
                next_batch_no: end.next_batch_no,
                next_packet_no: end.next_packet_no,
            };
            // Its tag and its length, which is below 16 KiB.
            let Some(rest) = left.checked_sub(end.encoded_len() + 3) else { break };
            left = rest;
            wire.track_ends.push(end);
        }
        Bytes::from(wire.encode_to_vec())
    }

    /// Where numberings end, by a message that was read before. An impossible end is left out: not every writer says any.
    #[must_use]
    pub fn track_ends(message: Bytes) -> Vec<TrackEnd> {
        let ends = wire::RoomEvent::decode(message).map(|wire| wire.track_ends).unwrap_or_default();
        let end = |end: wire::TrackEnd| {
            Some(TrackEnd {
                track: TrackId::new(end.track_id).ok()?,
                incarnation: Incarnation::new(end.incarnation)?,
                next_batch_no: Some(end.next_batch_no).filter(|next| (1..u64::MAX).contains(next))?,
                next_packet_no: Some(end.next_packet_no).filter(|next| *next < u64::MAX)?,
            })
        };
        ends.into_iter().filter_map(end).collect()
    }
}

fn optional<T>(id: String, new: impl Fn(String) -> Result<T, id::Error>) -> Result<Option<T>, id::Error> {
    if id.is_empty() { Ok(None) } else { new(id).map(Some) }
}

fn event_ref(wire: wire::EventRef) -> Result<EventRef, Error> {
    if wire.incarnation == 0 {
        return Err(field("from_event.incarnation", "it is 0"));
    }
    Ok(EventRef { incarnation: wire.incarnation, event_no: wire.event_no })
}

fn kind_from_wire(event: wire::room_event::Event) -> Result<EventKind, Error> {
    use wire::room_event::Event as W;
    Ok(match event {
        W::RoomCreated(e) => EventKind::RoomCreated {
            room_name: e.room_name,
            host: optional(e.host_id, PeerId::new)?,
            meeting_type: e.meeting_type,
            policy: e.policy.map(Policy::from),
        },
        W::RoomClosed(e) => EventKind::RoomClosed { reason: e.reason },
        W::RoomPolicyUpdated(e) => EventKind::RoomPolicyUpdated {
            policy: e.policy.ok_or(field("room_policy_updated.policy", "it is not set"))?.into(),
        },
        W::PeerJoined(e) => EventKind::PeerJoined {
            peer: PeerId::new(e.peer_id)?,
            display_name: e.display_name,
            is_host: e.is_host,
            is_co_host: e.is_co_host,
            is_panelist: e.is_panelist,
        },
        W::PeerLeft(e) => EventKind::PeerLeft { peer: PeerId::new(e.peer_id)?, reason: e.reason },
        W::ProducerCreated(e) => EventKind::ProducerCreated(Producer::try_from(e)?),
        W::ProducerClosed(e) => EventKind::ProducerClosed { track: TrackId::new(e.track_id)?, reason: e.reason },
        W::ProducerPaused(e) => EventKind::ProducerPaused { track: TrackId::new(e.track_id)? },
        W::ProducerResumed(e) => EventKind::ProducerResumed { track: TrackId::new(e.track_id)? },
        W::ActiveSpeaker(e) => {
            EventKind::ActiveSpeaker { peer: optional(e.peer_id, PeerId::new)?, level: e.level.min(127) as u8 }
        }
        W::TranscriptCue(e) => EventKind::TranscriptCue {
            peer: PeerId::new(e.peer_id)?,
            text: e.text,
            start: RoomTime::from_micros(e.start_time_us),
            end: RoomTime::from_micros(e.end_time_us),
            language: e.language,
        },
        W::PublisherGap(e) => {
            if e.first_packet_no > e.last_packet_no || e.first_batch_no > e.last_batch_no {
                return Err(field("publisher_gap", "a range ends before it begins"));
            }
            EventKind::PublisherGap(PublisherGap {
                track: TrackId::new(e.track_id)?,
                incarnation: Incarnation::new(e.incarnation).ok_or(field("publisher_gap.incarnation", "it is 0"))?,
                packets: (e.first_packet_no, e.last_packet_no),
                batches: (e.first_batch_no, e.last_batch_no),
                reason: e.reason,
            })
        }
        W::RecordingStarted(e) => EventKind::RecordingStarted {
            recording: RecordingId::new(e.recording_id)?,
            command: e.command_id,
            requested_by: e.requested_by,
            from: e.from_event.map(event_ref).transpose()?,
        },
        W::RecordingStopped(e) => EventKind::RecordingStopped {
            reason: StopReason::from_wire(e.reason()),
            recording: RecordingId::new(e.recording_id)?,
            command: e.command_id,
            requested_by: e.requested_by,
        },
        W::RecordingPaused(e) => EventKind::RecordingPaused {
            recording: RecordingId::new(e.recording_id)?,
            command: e.command_id,
            requested_by: e.requested_by,
        },
        W::RecordingResumed(e) => EventKind::RecordingResumed {
            recording: RecordingId::new(e.recording_id)?,
            command: e.command_id,
            requested_by: e.requested_by,
        },
        W::LayoutChanged(e) => EventKind::LayoutChanged {
            recording: RecordingId::new(e.recording_id)?,
            command: e.command_id,
            composite: optional(e.composite_id, CompositeId::new)?,
            layout: e.layout,
            hidden: e.hidden_peer_ids.into_iter().map(PeerId::new).collect::<Result<_, _>>()?,
        },
        W::Tick(wire::Tick {}) => EventKind::Tick,
    })
}

fn kind_to_wire(kind: &EventKind) -> wire::room_event::Event {
    use wire::room_event::Event as W;
    let peer_or_empty = |peer: &Option<PeerId>| peer.as_ref().map(ToString::to_string).unwrap_or_default();
    match kind {
        EventKind::RoomCreated { room_name, host, meeting_type, policy } => W::RoomCreated(wire::RoomCreated {
            room_name: room_name.clone(),
            host_id: peer_or_empty(host),
            meeting_type: meeting_type.clone(),
            policy: policy.as_ref().map(Into::into),
        }),
        EventKind::RoomClosed { reason } => W::RoomClosed(wire::RoomClosed { reason: reason.clone() }),
        EventKind::RoomPolicyUpdated { policy } => {
            W::RoomPolicyUpdated(wire::RoomPolicyUpdated { policy: Some(policy.into()) })
        }
        EventKind::PeerJoined { peer, display_name, is_host, is_co_host, is_panelist } => {
            W::PeerJoined(wire::PeerJoined {
                peer_id: peer.to_string(),
                display_name: display_name.clone(),
                is_host: *is_host,
                is_co_host: *is_co_host,
                is_panelist: *is_panelist,
            })
        }
        EventKind::PeerLeft { peer, reason } => {
            W::PeerLeft(wire::PeerLeft { peer_id: peer.to_string(), reason: reason.clone() })
        }
        EventKind::ProducerCreated(producer) => W::ProducerCreated(producer.into()),
        EventKind::ProducerClosed { track, reason } => {
            W::ProducerClosed(wire::ProducerClosed { track_id: track.to_string(), reason: reason.clone() })
        }
        EventKind::ProducerPaused { track } => W::ProducerPaused(wire::ProducerPaused { track_id: track.to_string() }),
        EventKind::ProducerResumed { track } => {
            W::ProducerResumed(wire::ProducerResumed { track_id: track.to_string() })
        }
        EventKind::ActiveSpeaker { peer, level } => {
            W::ActiveSpeaker(wire::ActiveSpeaker { peer_id: peer_or_empty(peer), level: u32::from(*level) })
        }
        EventKind::TranscriptCue { peer, text, start, end, language } => W::TranscriptCue(wire::TranscriptCue {
            peer_id: peer.to_string(),
            text: text.clone(),
            start_time_us: start.as_micros(),
            end_time_us: end.as_micros(),
            language: language.clone(),
        }),
        EventKind::PublisherGap(gap) => W::PublisherGap(wire::PublisherGap {
            track_id: gap.track.to_string(),
            incarnation: gap.incarnation.get(),
            first_packet_no: gap.packets.0,
            last_packet_no: gap.packets.1,
            first_batch_no: gap.batches.0,
            last_batch_no: gap.batches.1,
            reason: gap.reason.clone(),
        }),
        EventKind::RecordingStarted { recording, command, requested_by, from } => {
            W::RecordingStarted(wire::RecordingStarted {
                recording_id: recording.to_string(),
                command_id: command.clone(),
                requested_by: requested_by.clone(),
                from_event: from.map(|from| wire::EventRef { incarnation: from.incarnation, event_no: from.event_no }),
            })
        }
        EventKind::RecordingStopped { recording, command, requested_by, reason } => {
            W::RecordingStopped(wire::RecordingStopped {
                recording_id: recording.to_string(),
                command_id: command.clone(),
                requested_by: requested_by.clone(),
                reason: reason.to_wire().into(),
            })
        }
        EventKind::RecordingPaused { recording, command, requested_by } => W::RecordingPaused(wire::RecordingPaused {
            recording_id: recording.to_string(),
            command_id: command.clone(),
            requested_by: requested_by.clone(),
        }),
        EventKind::RecordingResumed { recording, command, requested_by } => {
            W::RecordingResumed(wire::RecordingResumed {
                recording_id: recording.to_string(),
                command_id: command.clone(),
                requested_by: requested_by.clone(),
            })
        }
        EventKind::LayoutChanged { recording, command, composite, layout, hidden } => {
            W::LayoutChanged(wire::LayoutChanged {
                recording_id: recording.to_string(),
                command_id: command.clone(),
                composite_id: composite.as_ref().map(ToString::to_string).unwrap_or_default(),
                layout: layout.clone(),
                hidden_peer_ids: hidden.iter().map(ToString::to_string).collect(),
            })
        }
        EventKind::Tick => W::Tick(wire::Tick {}),
    }
}

impl TryFrom<wire::ProducerCreated> for Producer {
    type Error = Error;

    fn try_from(wire: wire::ProducerCreated) -> Result<Self, Error> {
        let peer = PeerId::new(wire.peer_id.clone())?;
        let is_audio = match wire.kind() {
            wire::MediaKind::Audio => true,
            wire::MediaKind::Video => false,
            wire::MediaKind::Unspecified => return Err(field("producer_created.kind", "it is not set")),
        };
        let is_screenshare = wire.is_screenshare || peer.as_str().starts_with(SCREENSHARE_PEER_PREFIX);
        let codecs = wire
            .codecs
            .into_iter()
            .map(|codec| {
                let payload_type = u8::try_from(codec.payload_type).ok().filter(|value| *value < 128);
                Ok(CodecParameters {
                    payload_type: PayloadType(payload_type.ok_or(field("codecs.payload_type", "it is over 127"))?),
                    codec: Codec::from_name(&codec.name),
                    clock_rate: match codec.clock_rate {
                        0 => return Err(field("codecs.clock_rate", "it is 0")),
                        rate => rate,
                    },
                    channels: codec.channels.min(8) as u8,
                    fmtp: codec.fmtp,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if codecs.is_empty() {
            return Err(field("producer_created.codecs", "there are none"));
        }
        Ok(Self {
            track: TrackId::new(wire.track_id)?,
            peer,
            kind: match (is_screenshare, is_audio) {
                (true, _) => TrackKind::Screenshare,
                (false, true) => TrackKind::Audio,
                (false, false) => TrackKind::Video,
            },
            is_audio,
            codecs,
            encodings: wire
                .encodings
                .into_iter()
                .map(|encoding| Encoding {
                    ssrc: Ssrc(encoding.ssrc),
                    rid: (!encoding.rid.is_empty()).then_some(encoding.rid),
                    rtx_ssrc: (encoding.rtx_ssrc != 0).then_some(Ssrc(encoding.rtx_ssrc)),
                })
                .collect(),
            header_extensions: wire
                .header_extensions
                .into_iter()
                .filter_map(|extension| {
                    Some(HeaderExtension { id: u8::try_from(extension.id).ok()?, uri: extension.uri })
                })
                .collect(),
        })
    }
}

impl From<&Producer> for wire::ProducerCreated {
    fn from(producer: &Producer) -> Self {
        Self {
            track_id: producer.track.to_string(),
            peer_id: producer.peer.to_string(),
            kind: if producer.is_audio { wire::MediaKind::Audio } else { wire::MediaKind::Video }.into(),
            is_screenshare: producer.kind == TrackKind::Screenshare,
            codecs: producer
                .codecs
                .iter()
                .map(|codec| wire::CodecParameters {
                    payload_type: u32::from(codec.payload_type.0),
                    name: codec.codec.name().to_owned(),
                    clock_rate: codec.clock_rate,
                    channels: u32::from(codec.channels),
                    fmtp: codec.fmtp.clone(),
                })
                .collect(),
            encodings: producer
                .encodings
                .iter()
                .map(|encoding| wire::Encoding {
                    ssrc: encoding.ssrc.0,
                    rid: encoding.rid.clone().unwrap_or_default(),
                    rtx_ssrc: encoding.rtx_ssrc.map_or(0, |ssrc| ssrc.0),
                })
                .collect(),
            header_extensions: producer
                .header_extensions
                .iter()
                .map(|extension| wire::HeaderExtension { id: u32::from(extension.id), uri: extension.uri.clone() })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind) -> RoomEvent {
        RoomEvent {
            room: RoomId::new("standup").expect("valid"),
            incarnation: Incarnation::new(9).expect("not 0"),
            event_no: 2,
            time: RoomTime::from_micros(5),
            kind,
        }
    }

    fn producer() -> Producer {
        Producer {
            track: TrackId::new("cam").expect("valid"),
            peer: PeerId::new("amara").expect("valid"),
            kind: TrackKind::Video,
            is_audio: false,
            codecs: vec![CodecParameters {
                payload_type: PayloadType(96),
                codec: Codec::Vp8,
                clock_rate: 90_000,
                channels: 0,
                fmtp: "max-fr=30; max-fs=3600".to_owned(),
            }],
            encodings: vec![Encoding { ssrc: Ssrc(1), rid: Some("l".to_owned()), rtx_ssrc: Some(Ssrc(2)) }],
            header_extensions: vec![HeaderExtension { id: 1, uri: AUDIO_LEVEL_URI.to_owned() }],
        }
    }

    #[test]
    fn events_round_trip() {
        let peer = PeerId::new("amara").expect("valid");
        let track = TrackId::new("cam").expect("valid");
        let recording = RecordingId::new("01r").expect("valid");
        let text = || "x".to_owned();
        for kind in [
            EventKind::RoomCreated {
                room_name: text(),
                host: Some(peer.clone()),
                meeting_type: text(),
                policy: Some(Policy::default()),
            },
            EventKind::RoomClosed { reason: text() },
            EventKind::RoomPolicyUpdated { policy: Policy { enabled: false, ..Policy::default() } },
            EventKind::PeerJoined {
                peer: peer.clone(),
                display_name: text(),
                is_host: true,
                is_co_host: false,
                is_panelist: true,
            },
            EventKind::PeerLeft { peer: peer.clone(), reason: text() },
            EventKind::ProducerCreated(producer()),
            EventKind::ProducerClosed { track: track.clone(), reason: text() },
            EventKind::ProducerPaused { track: track.clone() },
            EventKind::ProducerResumed { track: track.clone() },
            EventKind::ActiveSpeaker { peer: None, level: 127 },
            EventKind::TranscriptCue {
                peer,
                text: text(),
                start: RoomTime::from_micros(1),
                end: RoomTime::from_micros(2),
                language: text(),
            },
            EventKind::PublisherGap(PublisherGap {
                track,
                incarnation: Incarnation::new(1).expect("not 0"),
                packets: (3, 9),
                batches: (1, 2),
                reason: text(),
            }),
            EventKind::RecordingStarted {
                recording: recording.clone(),
                command: text(),
                requested_by: text(),
                from: Some(EventRef { incarnation: 4, event_no: 0 }),
            },
            EventKind::RecordingStopped {
                recording: recording.clone(),
                command: text(),
                requested_by: text(),
                reason: StopReason::LimitReached,
            },
            EventKind::RecordingPaused { recording: recording.clone(), command: text(), requested_by: text() },
            EventKind::RecordingResumed { recording: recording.clone(), command: text(), requested_by: text() },
            EventKind::LayoutChanged {
                recording,
                command: text(),
                composite: None,
                layout: text(),
                hidden: vec![PeerId::new("bjorn").expect("valid")],
            },
            EventKind::Tick,
        ] {
            let event = event(kind);
            assert_eq!(RoomEvent::decode(event.encode()), Ok(event));
        }
    }

    #[test]
    fn golden_bytes() {
        let message = event(EventKind::ProducerCreated(producer())).encode();
        let hex: String = message.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("../../../proto/golden/room_event.hex").trim());
    }

    #[test]
    fn ends_of_tracks_go_with_an_event_as_far_as_there_is_room() {
        let closed = event(EventKind::RoomClosed { reason: String::new() });
        let end = |number: u64| TrackEnd {
            track: TrackId::new(format!("track-{number}")).expect("valid"),
            incarnation: Incarnation::new(number).expect("not 0"),
            next_batch_no: number,
            next_packet_no: 4 * number,
        };
        let ends: Vec<_> = (1..10_000).map(end).collect();
        let message = closed.encode_with_ends(&ends);
        assert!(message.len() <= MAX_EVENT_BYTES / 2, "{} bytes", message.len());
        assert_eq!(RoomEvent::decode(message.clone()), Ok(closed.clone()));
        let read = RoomEvent::track_ends(message);
        assert!(read.len() > 500 && read == ends[..read.len()]);
        assert_eq!(RoomEvent::track_ends(closed.encode()), [], "an event of before there were ends");
        let impossible =
            [TrackEnd { next_batch_no: 0, ..end(1) }, TrackEnd { next_packet_no: u64::MAX, ..end(1) }, end(2)];
        assert_eq!(RoomEvent::track_ends(closed.encode_with_ends(&impossible)), [end(2)]);
        assert_eq!(RoomEvent::track_ends(Bytes::from_static(&[0xff])), []);
    }

    #[test]
    fn a_screen_is_known_by_its_peer_id() {
        let mut wire = wire::ProducerCreated::from(&producer());
        wire.peer_id = "sharescreen_amara".to_owned();
        assert_eq!(Producer::try_from(wire).map(|producer| producer.kind), Ok(TrackKind::Screenshare));
    }

    #[test]
    fn refuses_impossible_fields() {
        let decode = |edit: &dyn Fn(&mut wire::RoomEvent)| {
            let mut wire = wire::RoomEvent::decode(event(EventKind::Tick).encode()).expect("valid");
            edit(&mut wire);
            RoomEvent::decode(wire.encode_to_vec().into())
        };
        assert!(matches!(decode(&|w| w.incarnation = 0), Err(Error::Field { field: "incarnation", .. })));
        assert!(matches!(decode(&|w| w.event = None), Err(Error::Field { field: "event", .. })));
        assert!(matches!(decode(&|w| w.room_id = String::new()), Err(Error::Id(_))));
        assert!(matches!(RoomEvent::decode(Bytes::from_static(&[0xff])), Err(Error::Decode(_))));
    }

    #[test]
    fn format_parameters_are_found() {
        let codec = &producer().codecs[0];
        assert_eq!(codec.format_parameter("MAX-FS"), Some("3600"));
        assert_eq!(codec.format_parameter("profile-id"), None);
    }
}
