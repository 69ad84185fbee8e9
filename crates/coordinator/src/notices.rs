//! What SFUs are told: whether a room is under recording, and notices for its participants.
//!
//! Everything here is a hint. A lost one costs no media: ingest repeats the recording state, and the log says the rest.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use roomreel_shared::cluster::ActiveRecording;
use roomreel_shared::id::{RecordingId, SfuId};
use roomreel_shared::ports::Bus;
use roomreel_shared::recording::State;
use roomreel_shared::subject;
use roomreel_shared::wire::{self, notify_participants::Notice};

use crate::metrics::Metrics;
use crate::rooms::RoomKey;

/// How long an SFU has to take a notice.
const NOTICE_LIMIT: Duration = Duration::from_secs(2);

/// The notice that a change of a recording calls for.
#[must_use]
pub fn notice(before: Option<&ActiveRecording>, after: &ActiveRecording) -> Option<Notice> {
    let Some(before) = before else { return Some(Notice::RecordingStarted) };
    let paused = |active: &ActiveRecording| active.recording.state == State::Paused;
    match (before.stopping, after.stopping, paused(before), paused(after)) {
        (false, true, ..) => Some(Notice::RecordingStopped),
        (false, false, false, true) => Some(Notice::RecordingPaused),
        (false, false, true, false) => Some(Notice::RecordingResumed),
        _ => None,
    }
}

/// Tells each SFU of the room whether it is under recording.
pub async fn tell_state(bus: Arc<dyn Bus>, room: RoomKey, sfus: Vec<SfuId>, recording: RecordingId, active: bool) {
    use prost::Message as _;
    let state = wire::RecordingState { active, recording_id: recording.to_string() };
    let message = wire::back_channel::Message::RecordingState(state);
    let back = wire::BackChannel { room_id: room.room.to_string(), message: Some(message) };
    let payload = Bytes::from(back.encode_to_vec());
    for sfu in sfus {
        let subject = subject::back_channel(&room.tenant, &sfu, &room.room);
        if let Err(error) = bus.publish(&subject, payload.clone()).await {
            tracing::info!(%sfu, %error, "an SFU was not told whether its room is under recording");
        }
    }
}

/// Asks each SFU of the room to notify its participants.
pub async fn notify(
    bus: Arc<dyn Bus>,
    room: RoomKey,
    sfus: Vec<SfuId>,
    recording: RecordingId,
    notice: Notice,
    metrics: Metrics,
) {
    use prost::Message as _;
    let notify = wire::NotifyParticipants { notice: notice.into(), recording_id: recording.to_string() };
    let command = wire::SfuCommand {
        room_id: room.room.to_string(),
        request_id: format!("{recording}:{}", notice.as_str_name()),
        command: Some(wire::sfu_command::Command::NotifyParticipants(notify)),
    };
    let payload = Bytes::from(command.encode_to_vec());
    for sfu in sfus {
        let subject = subject::command(&room.tenant, &sfu);
        let failed = match bus.request(&subject, payload.clone(), NOTICE_LIMIT).await {
            Ok(reply) => match wire::SfuCommandReply::decode(reply) {
                Ok(reply) if reply.success => continue,
                Ok(reply) => reply.error.map_or("the SFU gave no reason".to_owned(), |error| error.message),
                Err(error) => format!("the reply does not decode: {error}"),
            },
            Err(error) => error.to_string(),
        };
        metrics.notices_failed.add(1, &[]);
        tracing::info!(%sfu, %recording, ?notice, reason = failed, "participants may not have been notified");
    }
}
