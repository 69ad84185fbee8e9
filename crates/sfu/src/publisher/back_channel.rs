//! What an SFU says and hears over the bus: heartbeats, recording states, watermarks, replay requests, commands.
//!
//! Owns the subscriptions. Does not own how messages read (see [`super::messages`]). Everything here may be lost and is
//! repeated by its sender.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use prost::Message as _;
use roomreel_shared::ports::{Bus, BusMessage};
use roomreel_shared::subject::{self, Filter};
use roomreel_shared::wire;
use tokio_util::sync::CancellationToken;

use super::messages::{Heard, parse_back_channel, parse_command};
use super::shell::Shared;
use super::{CommandError, PublisherConfig, SfuCommands};

/// How often an SFU says that it is alive.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(5);
/// Wait before a broken subscription is renewed.
const RESUBSCRIBE_AFTER: Duration = Duration::from_secs(1);
/// A command that takes longer is answered with an error.
const COMMAND_LIMIT: Duration = Duration::from_secs(5);
/// Commands performed at a time.
const CONCURRENT_COMMANDS: usize = 16;

/// Publishes heartbeats until `stop`.
pub(super) async fn heartbeat(
    shared: Arc<Shared>,
    bus: Arc<dyn Bus>,
    config: PublisherConfig,
    stop: CancellationToken,
) {
    let subject = subject::registry(&config.tenant, &config.sfu);
    let instance = rand::random();
    let mut interval = tokio::time::interval(HEARTBEAT_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = interval.tick() => {}
        }
        let heartbeat = wire::SfuHeartbeat {
            sfu_id: config.sfu.to_string(),
            tenant_id: config.tenant.to_string(),
            software: config.software.clone(),
            instance,
            room_ids: shared.with(|core, _| core.rooms().map(ToString::to_string).collect()),
            time_us: unix_micros(),
        };
        if let Err(error) = bus.publish(&subject, heartbeat.encode_to_vec().into()).await {
            tracing::debug!(%error, "heartbeat was not sent");
        }
    }
}

fn unix_micros() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Feeds the core with what the cluster says about this SFU's rooms, until `stop`.
pub(super) async fn listen(shared: Arc<Shared>, bus: Arc<dyn Bus>, config: PublisherConfig, stop: CancellationToken) {
    let mut messages = messages(bus, subject::back_channel_filter(&config.tenant, &config.sfu));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(message) = messages.next() => {
                if let Err(why) = hear(&shared, &config, &message) {
                    tracing::debug!(subject = message.subject, why, "a back channel message was ignored");
                }
                shared.wake();
            }
        }
    }
}

fn hear(shared: &Shared, config: &PublisherConfig, message: &BusMessage) -> Result<(), &'static str> {
    let (room, heard) = parse_back_channel(&config.tenant, &config.sfu, &message.subject, message.payload.clone())?;
    for heard in heard {
        // The lock is taken for each: media does not wait for a long list.
        shared.with(|core, now| match heard {
            Heard::RecordingState { recording, active } => core.on_recording_state(now, &room, &recording, active),
            Heard::Watermark { track, incarnation, next } => {
                core.on_watermark(&room, track.as_ref(), incarnation, next);
            }
            Heard::ReplayRequest { track, incarnation, missing, attempt } => {
                core.on_replay_request(&room, track.as_ref(), incarnation, missing, attempt);
            }
        });
    }
    Ok(())
}

/// Performs the cluster's commands until `stop`.
pub(super) async fn obey(
    bus: Arc<dyn Bus>,
    config: PublisherConfig,
    commands: Arc<dyn SfuCommands>,
    stop: CancellationToken,
) {
    let messages = messages(bus.clone(), subject::command_filter(&config.tenant, &config.sfu));
    let perform = |message: BusMessage| {
        let (bus, commands) = (bus.clone(), commands.clone());
        async move {
            let reply = answer(commands.as_ref(), message.payload.clone()).await;
            if let Err(error) = bus.reply(&message, reply.encode_to_vec().into()).await {
                tracing::debug!(%error, "the reply to a command was not sent");
            }
        }
    };
    let all = messages.for_each_concurrent(CONCURRENT_COMMANDS, perform);
    tokio::select! {
        () = stop.cancelled() => {}
        () = all => {}
    }
}

async fn answer(commands: &dyn SfuCommands, payload: Bytes) -> wire::SfuCommandReply {
    let (request_id, outcome) = match parse_command(payload) {
        Err(error) => (String::new(), Err(error)),
        Ok((request_id, room, command)) => {
            let outcome = tokio::time::timeout(COMMAND_LIMIT, commands.perform(&room, command)).await;
            let late = CommandError { code: 1004, message: format!("not done within {COMMAND_LIMIT:?}") };
            (request_id, outcome.unwrap_or(Err(late)))
        }
    };
    wire::SfuCommandReply {
        request_id,
        success: outcome.is_ok(),
        error: outcome.err().map(|error| wire::Error { code: error.code, message: error.message }),
    }
}

/// Everything sent to `filter`, for ever: a broken subscription is renewed.
fn messages(bus: Arc<dyn Bus>, filter: Filter) -> BoxStream<'static, BusMessage> {
    stream::unfold((bus, filter, true), |(bus, filter, is_first)| async move {
        if !is_first {
            tokio::time::sleep(RESUBSCRIBE_AFTER).await;
        }
        let messages = match bus.subscribe(&filter).await {
            Ok(messages) => messages,
            Err(error) => {
                tracing::debug!(%error, %filter, "not subscribed; trying again");
                stream::empty().boxed()
            }
        };
        Some((messages, (bus, filter, false)))
    })
    .flatten()
    .boxed()
}
