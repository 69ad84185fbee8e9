//! Delivery of a stream's entries without a silent gap.
//!
//! One pull consumer per read, without acknowledgements: the position is the reader's own, so nothing is redelivered and
//! nothing depends on what a consumer remembers. Delivery is trusted only while the consumer's own count goes up by one,
//! heartbeats come and the connection holds; else the stream ends with an error, and the reader starts again.

use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::pull::{Config, Stream as Messages};
use async_nats::jetstream::consumer::{AckPolicy, Consumer, DeliverPolicy, ReplayPolicy};
use async_nats::jetstream::stream::ConsumerErrorKind;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use roomreel_shared::ports::{LogEntry, LogError};
use roomreel_shared::subject::{Filter, Shard};
use roomreel_shared::time::LogTime;
use tokio::sync::watch;

use super::connection::State;
use super::{Nats, streams};

/// Entries asked for at a time; up to half as many again are on their way before they are read.
const BATCH: usize = 64;
/// How long one pull request lasts when there is nothing to deliver.
const PULL_EXPIRY: Duration = Duration::from_secs(30);
/// How often the server says that it is there; the client gives up after two that did not come.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// When the server forgets a consumer whose reader is gone.
const INACTIVE: Duration = Duration::from_secs(60);

pub(super) async fn open(
    nats: &Nats,
    shard: Shard,
    filter: &Filter,
    from_sequence: u64,
) -> Result<BoxStream<'static, Result<LogEntry, LogError>>, LogError> {
    let mut connection = nats.connection.watch();
    let breaks = connection.borrow_and_update().breaks;
    let wanted = Config {
        name: Some(format!("reader-{:016x}", crate::nonce())),
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: from_sequence.max(1) },
        ack_policy: AckPolicy::None,
        filter_subject: filter.as_str().to_owned(),
        replay_policy: ReplayPolicy::Instant,
        inactive_threshold: INACTIVE,
        num_replicas: 1,
        memory_storage: true,
        ..Config::default()
    };
    let consumer = create(nats, shard, &wanted).await?;
    verify(shard, &wanted, &consumer.cached_info().config)?;
    let pull = consumer.stream().max_messages_per_batch(BATCH).expires(PULL_EXPIRY).heartbeat(HEARTBEAT);
    let call = async { pull.messages().await.map_err(|e| nats.unavailable(e)) };
    let messages = nats.limited("the reader's inbox", nats.config.request_timeout, call).await?;
    let reader = Reader {
        messages,
        connection,
        breaks,
        server: nats.server.to_string(),
        filter: filter.clone(),
        delivered: 0,
        sequence: 0,
    };
    Ok(stream::unfold(Some(reader), |reader| async {
        let mut reader = reader?;
        let item = reader.next().await;
        let go_on = item.is_ok().then_some(reader);
        Some((item, go_on))
    })
    .boxed())
}

async fn create(nats: &Nats, shard: Shard, wanted: &Config) -> Result<Consumer<Config>, LogError> {
    let stream = shard.stream_name();
    let subject = format!(
        "$JS.API.CONSUMER.CREATE.{stream}.{}.{}",
        wanted.name.as_deref().unwrap_or_default(),
        wanted.filter_subject
    );
    let call = async {
        nats.jetstream.create_consumer_on_stream(wanted.clone(), &stream).await.map_err(|e| match e.kind() {
            ConsumerErrorKind::JetStream(error) => streams::refusal(nats, shard, &error),
            _ => nats.unavailable(format!("stream {stream}: {e}")),
        })
    };
    nats.limited(&subject, nats.config.request_timeout, call).await
}

/// A server that dropped the filter would hand over every room.
fn verify(shard: Shard, wanted: &Config, found: &jetstream::consumer::Config) -> Result<(), LogError> {
    let agrees = found.filter_subject == wanted.filter_subject
        && found.deliver_policy == wanted.deliver_policy
        && found.ack_policy == wanted.ack_policy
        && found.deliver_subject.is_none();
    if agrees {
        return Ok(());
    }
    let reason = format!(
        "the server made another consumer of stream {} than was asked for (filter {:?}, start {:?}); \
         use nats-server 2.9.10 or newer",
        shard.stream_name(),
        found.filter_subject,
        found.deliver_policy,
    );
    Err(LogError::Refused { reason })
}

struct Reader {
    messages: Messages,
    connection: watch::Receiver<State>,
    /// How often the connection had broken when the reader began.
    breaks: u64,
    server: String,
    filter: Filter,
    /// The consumer's count of the newest entry delivered.
    delivered: u64,
    /// The stream's.
    sequence: u64,
}

impl Reader {
    async fn next(&mut self) -> Result<LogEntry, LogError> {
        let message = tokio::select! {
            biased;
            message = self.messages.next() => message,
            // What was on its way is lost, and if nothing follows it nobody would notice. (An error here means that the
            // client is gone, and the connection with it.)
            _ = self.connection.wait_for(|state| state.breaks != self.breaks) => None,
        };
        match message {
            Some(Ok(message)) => self.entry(message),
            Some(Err(error)) => Err(self.broken(&error.to_string())),
            None => Err(self.broken("the connection broke")),
        }
    }

    fn entry(&mut self, message: jetstream::Message) -> Result<LogEntry, LogError> {
        let info = message.info().map_err(|e| self.broken(&format!("an entry without its place: {e}")))?;
        let (delivered, sequence) = (info.consumer_sequence, info.stream_sequence);
        let micros = i64::try_from(info.published.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX);
        if delivered != self.delivered + 1 || sequence <= self.sequence {
            let reason = format!(
                "an entry may have been skipped: delivery {delivered} of sequence {sequence} follows {} of {}",
                self.delivered, self.sequence
            );
            return Err(self.broken(&reason));
        }
        if !self.filter.matches(&message.subject) {
            return Err(self.broken(&format!("{} was delivered to the filter {}", message.subject, self.filter)));
        }
        (self.delivered, self.sequence) = (delivered, sequence);
        let message = message.message;
        let header = |name: &str| Some(message.headers.as_ref()?.get(name)?.as_str().to_owned());
        Ok(LogEntry {
            sequence,
            time: LogTime::from_micros(micros),
            trace_parent: header("traceparent"),
            subject: message.subject.to_string(),
            payload: message.payload,
        })
    }

    fn broken(&self, reason: &str) -> LogError {
        LogError::Unavailable { server: self.server.clone(), reason: reason.to_owned() }
    }
}
