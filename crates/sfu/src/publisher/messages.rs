//! What the cluster sends an SFU over the bus, read.
//!
//! Owns the decoding of what comes from outside. Does not own what follows from it.

use std::ops::RangeInclusive;

use bytes::Bytes;
use prost::Message as _;
use roomreel_shared::id::{RecordingId, RoomId, SfuId, TenantId, TrackId};
use roomreel_shared::rtp::Ssrc;
use roomreel_shared::subject;
use roomreel_shared::wire;

use super::{Command, CommandError, Notice};

/// Longest message that is decoded.
const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// What the cluster says about a room. `track` is `None` for the room's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Whether a recording of the room goes on.
    RecordingState {
        /// Which.
        recording: RecordingId,
        /// It does.
        active: bool,
    },
    /// What of one numbering is in committed windows.
    Watermark {
        /// Whose numbering.
        track: Option<TrackId>,
        /// Which one of it.
        incarnation: u64,
        /// Everything below is.
        next: u64,
    },
    /// Somebody misses these numbers.
    ReplayRequest {
        /// Whose numbering.
        track: Option<TrackId>,
        /// Which one of it.
        incarnation: u64,
        /// Batch or event numbers.
        missing: RangeInclusive<u64>,
        /// Counts the requests for them.
        attempt: u32,
    },
}

/// Reads a message of the back channel that came under `subject`.
///
/// # Errors
/// What is wrong with it; nothing of it may be used.
pub fn parse_back_channel(
    tenant: &TenantId,
    sfu: &SfuId,
    subject: &str,
    payload: Bytes,
) -> Result<(RoomId, Vec<Heard>), &'static str> {
    if payload.len() > MAX_MESSAGE_BYTES {
        return Err("it is too long");
    }
    let wire = wire::BackChannel::decode(payload).map_err(|_| "it does not decode")?;
    let room = RoomId::new(wire.room_id).map_err(|_| "its room id cannot be spelled")?;
    if subject::back_channel(tenant, sfu, &room).as_str() != subject {
        return Err("it names another room than its subject");
    }
    let track = |id: String| TrackId::new(id).map_err(|_| "a track id cannot be spelled");
    use wire::back_channel::Message as M;
    let heard = match wire.message.ok_or("it is empty")? {
        M::RecordingState(state) => {
            let recording = RecordingId::new(state.recording_id).map_err(|_| "its recording id cannot be spelled")?;
            vec![Heard::RecordingState { recording, active: state.active }]
        }
        M::Watermark(watermark) => {
            let tracks = watermark.tracks.into_iter().map(|mark| {
                let track = Some(track(mark.track_id)?);
                Ok(Heard::Watermark { track, incarnation: mark.incarnation, next: mark.next_batch_no })
            });
            let events = watermark.events.into_iter().map(|mark| {
                Ok(Heard::Watermark { track: None, incarnation: mark.incarnation, next: mark.next_event_no })
            });
            tracks.chain(events).collect::<Result<_, &'static str>>()?
        }
        M::ReplayRequest(request) => {
            let track = (!request.track_id.is_empty()).then(|| track(request.track_id)).transpose()?;
            let (incarnation, attempt) = (request.incarnation, request.attempt);
            let asked = request.missing.into_iter().map(|range| {
                let missing = range.first..=range.last;
                Heard::ReplayRequest { track: track.clone(), incarnation, missing, attempt }
            });
            asked.collect()
        }
    };
    Ok((room, heard))
}

/// Reads a command: its request id, the room it is about, what is to be done.
///
/// # Errors
/// [`CommandError`] with code 1002: it cannot be understood.
pub fn parse_command(payload: Bytes) -> Result<(String, RoomId, Command), CommandError> {
    let bad = |message: String| CommandError { code: 1002, message };
    if payload.len() > MAX_MESSAGE_BYTES {
        return Err(bad("the command is too long".to_owned()));
    }
    let wire = wire::SfuCommand::decode(payload).map_err(|error| bad(error.to_string()))?;
    let room = RoomId::new(wire.room_id).map_err(|error| bad(error.to_string()))?;
    let track = |id: String| TrackId::new(id).map_err(|error| bad(error.to_string()));
    use wire::sfu_command::Command as W;
    let command = match wire.command.ok_or_else(|| bad("the command is empty or not known".to_owned()))? {
        W::SubscribeTrack(command) => Command::SubscribeTrack(track(command.track_id)?),
        W::UnsubscribeTrack(command) => Command::UnsubscribeTrack(track(command.track_id)?),
        W::RequestKeyframe(command) => Command::RequestKeyframe {
            track: track(command.track_id)?,
            ssrc: (command.ssrc != 0).then_some(Ssrc(command.ssrc)),
        },
        W::NotifyParticipants(command) => Command::Notify {
            notice: match command.notice() {
                wire::notify_participants::Notice::Unspecified => return Err(bad("the notice is not set".to_owned())),
                wire::notify_participants::Notice::RecordingStarted => Notice::Started,
                wire::notify_participants::Notice::RecordingStopped => Notice::Stopped,
                wire::notify_participants::Notice::RecordingPaused => Notice::Paused,
                wire::notify_participants::Notice::RecordingResumed => Notice::Resumed,
            },
            recording: RecordingId::new(command.recording_id).map_err(|error| bad(error.to_string()))?,
        },
    };
    Ok((wire.request_id, room, command))
}
