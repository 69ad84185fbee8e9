//! One stream per shard: what it must be, whether it is, and what it answers to an append.

use std::time::Duration;

use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{Error, context::RequestErrorKind};
use roomreel_shared::ports::{Appended, LogError};
use roomreel_shared::subject::{Address, Shard, Subject};
use serde::Serialize;

use super::{Nats, NatsConfig};

/// How long the broker remembers message ids: longer than a publisher retries under one.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// The server's codes for a stream, or its whole storage, that takes no more.
const FULL: [u64; 3] = [10077, 10047, 10023];
const STREAM_NOT_FOUND: u64 = 10059;
/// The server's codes for a stream that its storage, or that of the account, has no room for.
const NO_ROOM: [u64; 5] = [10047, 10023, 10005, 10002, 10122];
/// The server's code for more copies than there are servers.
const NO_REPLICAS: u64 = 10074;

/// What the stream of `shard` is to be.
fn wanted(config: &NatsConfig, shard: Shard) -> Config {
    Config {
        name: shard.stream_name(),
        subjects: vec![shard.stream_filter().as_str().to_owned()],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        // A full log answers an error; the default would silently drop unread media.
        discard: DiscardPolicy::New,
        max_bytes: i64::try_from(config.max_bytes_per_shard).unwrap_or(i64::MAX),
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        max_age: config.max_age,
        duplicate_window: DUPLICATE_WINDOW.min(config.max_age),
        num_replicas: config.replicas,
        ..Config::default()
    }
}

/// The fields in which `found` would treat entries otherwise than `wanted`, each with both values.
fn differences(wanted: &Config, found: &Config) -> Vec<String> {
    let mut differences = Vec::new();
    let mut compare = |field: &str, wanted: String, found: String| {
        if wanted != found {
            differences.push(format!("{field} is {found} and not {wanted}"));
        }
    };
    compare("subjects", format!("{:?}", wanted.subjects), format!("{:?}", found.subjects));
    compare("retention", format!("{:?}", wanted.retention), format!("{:?}", found.retention));
    compare("storage", format!("{:?}", wanted.storage), format!("{:?}", found.storage));
    compare("discard", format!("{:?}", wanted.discard), format!("{:?}", found.discard));
    compare("max_bytes", wanted.max_bytes.to_string(), found.max_bytes.to_string());
    compare("max_msgs", wanted.max_messages.to_string(), found.max_messages.to_string());
    let per_subject = |config: &Config| config.max_messages_per_subject.to_string();
    compare("max_msgs_per_subject", per_subject(wanted), per_subject(found));
    compare("max_msg_size", wanted.max_message_size.max(0).to_string(), found.max_message_size.max(0).to_string());
    compare("max_consumers", wanted.max_consumers.to_string(), found.max_consumers.to_string());
    compare("max_age", format!("{:?}", wanted.max_age), format!("{:?}", found.max_age));
    let window = |config: &Config| format!("{:?}", config.duplicate_window);
    compare("duplicate_window", window(wanted), window(found));
    compare("num_replicas", wanted.num_replicas.to_string(), found.num_replicas.to_string());
    compare("no_ack", wanted.no_ack.to_string(), found.no_ack.to_string());
    compare("sealed", wanted.sealed.to_string(), found.sealed.to_string());
    compare("allow_rollup_hdrs", wanted.allow_rollup.to_string(), found.allow_rollup.to_string());
    compare("a mirror", "absent".to_owned(), presence(found.mirror.is_some()));
    compare("a source", "absent".to_owned(), presence(found.sources.as_ref().is_some_and(|s| !s.is_empty())));
    differences
}

fn presence(there: bool) -> String {
    if there { "present" } else { "absent" }.to_owned()
}

fn verify(config: &NatsConfig, shard: Shard, found: &Config) -> Result<(), LogError> {
    let differences = differences(&wanted(config, shard), found);
    if differences.is_empty() {
        return Ok(());
    }
    let reason = format!(
        "stream {} is not as configured: {}; edit the stream (nats stream edit) or the configuration, so that they agree",
        shard.stream_name(),
        differences.join(", "),
    );
    Err(LogError::Refused { reason })
}

/// The error for a stream that does not exist.
pub(super) fn missing(shard: Shard) -> LogError {
    let reason = format!(
        "there is no stream {}; let the coordinator create the streams, or check that the number of shards agrees",
        shard.stream_name()
    );
    LogError::Refused { reason }
}

/// What the server says about the stream; `None` if there is none.
pub(super) async fn info(nats: &Nats, shard: Shard) -> Result<Option<Info>, LogError> {
    match api(nats, &format!("STREAM.INFO.{}", shard.stream_name()), &()).await? {
        Response::Ok(info) => Ok(Some(info)),
        Response::Err { error } if error.error_code().0 == STREAM_NOT_FOUND => Ok(None),
        Response::Err { error } => Err(refusal(nats, shard, &error)),
    }
}

pub(super) async fn check(nats: &Nats, shard: Shard) -> Result<(), LogError> {
    let info = info(nats, shard).await?.ok_or_else(|| missing(shard))?;
    verify(&nats.config, shard, &info.config)
}

pub(super) async fn ensure(nats: &Nats, shard: Shard) -> Result<(), LogError> {
    if let Some(info) = info(nats, shard).await? {
        return verify(&nats.config, shard, &info.config);
    }
    let config = wanted(&nats.config, shard);
    match api::<_, Info>(nats, &format!("STREAM.CREATE.{}", config.name), &config).await? {
        Response::Ok(info) => verify(&nats.config, shard, &info.config),
        Response::Err { error } => {
            let Some(remedy) = remedy(&nats.config, shard, error.error_code().0) else {
                return Err(refusal(nats, shard, &error));
            };
            let reason = format!("{error}: {remedy}");
            // A server of a cluster may be on its way back, with room.
            Err(if error.code() == 503 { nats.unavailable(reason) } else { LogError::Refused { reason } })
        }
    }
}

/// What was asked for when the server would not create a stream, and what to change; `None` where its own words say it.
fn remedy(config: &NatsConfig, shard: Shard, code: u64) -> Option<String> {
    let (stream, shards, replicas) = (shard.stream_name(), config.shards, config.replicas);
    let bytes = config.max_bytes_per_shard;
    let all = u128::from(bytes) * u128::from(shards);
    let gib = |bytes: u128| format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30));
    match code {
        _ if NO_ROOM.contains(&code) => Some(format!(
            "stream {stream} was to take {bytes} bytes ({}) on each of {replicas} server(s), and all {shards} streams {}; \
             lower log_max_bytes, or raise max_file_store in the jetstream section of nats-server's configuration (without \
             one it is a part of the disk's free space) and the limits of the account, if it has any",
            gib(u128::from(bytes)),
            gib(all),
        )),
        NO_REPLICAS => Some(format!(
            "stream {stream} was to have {replicas} copies; set nats_replicas to 1, or run nats-server as a cluster of as many"
        )),
        _ => None,
    }
}

async fn api<T: Serialize, V: serde::de::DeserializeOwned>(
    nats: &Nats,
    subject: &str,
    payload: &T,
) -> Result<Response<V>, LogError> {
    let call = async {
        nats.jetstream.request(subject.to_owned(), payload).await.map_err(|e| match e.kind() {
            RequestErrorKind::NoResponders => nats.unavailable(
                "it answers but has no JetStream; start nats-server with -js, or enable it for the account",
            ),
            _ => nats.unavailable(e),
        })
    };
    nats.limited(&format!("$JS.API.{subject}"), nats.config.request_timeout, call).await
}

/// What an error of JetStream means for the caller.
pub(super) fn refusal(nats: &Nats, shard: Shard, error: &Error) -> LogError {
    let stream = shard.stream_name();
    if error.error_code().0 == STREAM_NOT_FOUND {
        return missing(shard);
    }
    match error.code() {
        // No leader, shutting down, overloaded.
        503 | 408 | 429 => nats.unavailable(format!("stream {stream}: {error}")),
        _ => LogError::Refused { reason: format!("stream {stream}: {error}") },
    }
}

/// A publish acknowledgement as it comes: stored, or why not.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Acknowledgement {
    Error {
        error: StoreError,
    },
    Stored {
        seq: u64,
        #[serde(default)]
        duplicate: bool,
    },
}

#[derive(serde::Deserialize)]
struct StoreError {
    code: u64,
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// Reads the broker's answer to an append.
pub(super) fn read_acknowledgement(nats: &Nats, subject: &Subject, payload: &[u8]) -> Result<Appended, LogError> {
    let Ok(answer) = serde_json::from_slice(payload) else {
        return Err(nats.unavailable("the answer to an append is none of JetStream's; does a stream take the subject?"));
    };
    match answer {
        Acknowledgement::Stored { seq, duplicate } => Ok(Appended { sequence: seq, duplicate }),
        Acknowledgement::Error { error } => {
            let StoreError { code, err_code, description } = error;
            let reason = format!("{description} ({code}/{err_code})");
            Err(match code {
                _ if FULL.contains(&err_code) => LogError::Full { stream: stream_of(subject), reason },
                500..=599 | 408 | 429 => nats.unavailable(reason),
                _ => LogError::Refused { reason },
            })
        }
    }
}

fn stream_of(subject: &Subject) -> String {
    Address::parse(subject.as_str()).map_or_else(|_| subject.to_string(), |address| address.shard.stream_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_has_no_room_for_is_told_in_bytes() {
        let config = NatsConfig { replicas: 3, ..NatsConfig::new("nats://localhost") };
        let shard = Shard::all(2).last().expect("two shards");
        for code in NO_ROOM {
            let told = remedy(&config, shard, code).expect("a remedy");
            for said in ["roomreel-v1-s1", "8589934592 bytes (8.00 GiB)", "each of 3", "all 4 streams 32.00 GiB"] {
                assert!(told.contains(said), "{code}: {told}");
            }
            assert!(told.contains("log_max_bytes") && told.contains("max_file_store"), "{told}");
        }
        assert!(remedy(&config, shard, NO_REPLICAS).expect("a remedy").contains("nats_replicas"));
        assert_eq!(remedy(&config, shard, STREAM_NOT_FOUND), None);
    }

    #[test]
    fn every_drift_that_would_lose_media_is_named() {
        let config = NatsConfig::new("nats://localhost");
        let shard = Shard::all(1).next().expect("one shard");
        let wanted = wanted(&config, shard);
        assert_eq!(differences(&wanted, &wanted), Vec::<String>::new());
        type Drift = fn(&mut Config);
        let drifts: [(&str, Drift); 6] = [
            ("discard", |c| c.discard = DiscardPolicy::Old),
            ("max_age", |c| c.max_age = Duration::from_secs(60)),
            ("max_msgs is 1", |c| c.max_messages = 1),
            ("storage", |c| c.storage = StorageType::Memory),
            ("retention", |c| c.retention = RetentionPolicy::Interest),
            ("duplicate_window", |c| c.duplicate_window = Duration::from_secs(1)),
        ];
        for (named, drift) in drifts {
            let mut found = wanted.clone();
            drift(&mut found);
            let message = verify(&config, shard, &found).expect_err("a drift is refused").to_string();
            assert!(message.contains(named) && message.contains("roomreel-v1-s0"), "{message}");
        }
    }
}
