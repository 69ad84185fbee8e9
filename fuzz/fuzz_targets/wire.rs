//! Every message of the contract: what decodes is written and read again as the same, and what becomes of it in our own types
//! settles too.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use roomreel_fuzz::publisher::messages::{Heard, parse_back_channel, parse_command};
use roomreel_fuzz::publisher::{Command, Notice};
use roomreel_shared::event::Producer;
use roomreel_shared::id::{SfuId, TenantId};
use roomreel_shared::policy::Policy;
use roomreel_shared::subject;
use roomreel_shared::wire;

fn settles<M: Message + Default + PartialEq>(input: &[u8]) -> Option<M> {
    let message = M::decode(input).ok()?;
    let written = message.encode_to_vec();
    let again = M::decode(&written[..]).expect("what was written can be read");
    assert_eq!(again.encode_to_vec(), written, "writing settles");
    Some(message)
}

fn policy(input: &[u8]) {
    let Some(policy) = settles::<wire::RecordingPolicy>(input).map(Policy::from) else { return };
    let again = Policy::from(wire::RecordingPolicy::from(&policy));
    assert_eq!(again, policy);
    let json = serde_json::to_string(&policy).expect("a policy is JSON");
    assert_eq!(serde_json::from_str::<Policy>(&json).expect("own JSON"), policy);
}

fn producer(input: &[u8]) {
    let Some(wire) = settles::<wire::ProducerCreated>(input) else { return };
    let Ok(producer) = Producer::try_from(wire) else { return };
    assert!(!producer.codecs.is_empty() && producer.codecs.iter().all(|codec| codec.clock_rate > 0));
    let again = Producer::try_from(wire::ProducerCreated::from(&producer)).expect("an own producer can be read");
    assert_eq!(again, producer);
}

fn back_channel(input: &[u8]) {
    let Some(message) = settles::<wire::BackChannel>(input) else { return };
    let (tenant, sfu) = (TenantId::new("acme").expect("valid"), SfuId::new("sfu-1").expect("valid"));
    let Ok(room) = message.room_id.parse() else {
        return assert!(parse_back_channel(&tenant, &sfu, "", Bytes::copy_from_slice(input)).is_err());
    };
    let own = subject::back_channel(&tenant, &sfu, &room);
    let payload = Bytes::from(message.encode_to_vec());
    assert!(parse_back_channel(&tenant, &sfu, "elsewhere", payload.clone()).is_err(), "only for this SFU and room");
    let Ok((named, heard)) = parse_back_channel(&tenant, &sfu, own.as_str(), payload) else { return };
    assert_eq!(named, room);
    use wire::back_channel::Message as M;
    let expected = match message.message.expect("it was read") {
        M::RecordingState(_) => 1,
        M::Watermark(watermark) => watermark.tracks.len() + watermark.events.len(),
        M::ReplayRequest(request) => request.missing.len(),
    };
    assert_eq!(heard.len(), expected, "nothing of it is left out");
    for heard in heard {
        if let Heard::ReplayRequest { missing, .. } = heard {
            let _ = missing.is_empty();
        }
    }
}

fn command(input: &[u8]) {
    let Some(message) = settles::<wire::SfuCommand>(input) else { return };
    let Ok((request_id, room, command)) = parse_command(message.encode_to_vec().into()) else { return };
    use wire::sfu_command::Command as W;
    let track_id = |track: &roomreel_shared::id::TrackId| track.to_string();
    let written = wire::SfuCommand {
        room_id: room.to_string(),
        request_id: request_id.clone(),
        command: Some(match &command {
            Command::SubscribeTrack(track) => W::SubscribeTrack(wire::SubscribeTrack { track_id: track_id(track) }),
            Command::UnsubscribeTrack(track) => {
                W::UnsubscribeTrack(wire::UnsubscribeTrack { track_id: track_id(track) })
            }
            Command::RequestKeyframe { track, ssrc } => W::RequestKeyframe(wire::RequestKeyframe {
                track_id: track_id(track),
                ssrc: ssrc.map_or(0, |ssrc| ssrc.0),
            }),
            Command::Notify { notice, recording } => {
                use wire::notify_participants::Notice as N;
                let notice = match notice {
                    Notice::Started => N::RecordingStarted,
                    Notice::Stopped => N::RecordingStopped,
                    Notice::Paused => N::RecordingPaused,
                    Notice::Resumed => N::RecordingResumed,
                };
                W::NotifyParticipants(wire::NotifyParticipants {
                    notice: notice.into(),
                    recording_id: recording.to_string(),
                })
            }
        }),
    };
    assert_eq!(parse_command(written.encode_to_vec().into()), Ok((request_id, room, command)));
}

fuzz_target!(|input: &[u8]| {
    let Some((&kind, input)) = input.split_first() else { return };
    match kind % 12 {
        0 => policy(input),
        1 => producer(input),
        2 => back_channel(input),
        3 => command(input),
        4 => drop(settles::<wire::RtpBatch>(input)),
        5 => drop(settles::<wire::RtpBatchBody>(input)),
        6 => drop(settles::<wire::RoomEvent>(input)),
        7 => drop(settles::<wire::WindowFooter>(input)),
        8 => drop(settles::<wire::CarryOver>(input)),
        9 => drop(settles::<wire::SfuHeartbeat>(input)),
        10 => drop(settles::<wire::SfuCommandReply>(input)),
        _ => drop(settles::<wire::TrackState>(input)),
    }
});
