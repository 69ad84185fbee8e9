//! The room log and the bus over NATS: JetStream for the log, core NATS for the bus.
//!
//! Owns: the connection, one stream per shard and what it must be configured as (`streams`), delivery without a silent
//! gap (`reader`), and the translation of NATS' answers. Does not own retries, nor any trust in what the broker says it
//! stored: an acknowledgement is a hint, and the numbers that count are the publisher's.
//!
//! What is checked because servers and clients get it wrong: configurations are compared with what was asked (old servers
//! drop unknown fields), permission errors arrive beside the call they belong to, and a reply goes to an inbox only.

mod connection;
mod reader;
mod streams;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::{Client, HeaderMap, HeaderValue, Request};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use roomreel_shared::ports::{Appended, Bus, BusMessage, LogEntry, LogError, NewEntry, RoomLog};
use roomreel_shared::subject::{Filter, Shard, Subject};

use self::connection::Connection;
use crate::secret::{Secret, without_credentials};

/// Where NATS is, who we are there, and what its streams are to be.
#[derive(Debug, Clone)]
pub struct NatsConfig {
    /// `nats://` or `tls://`, host and port; several are separated by commas.
    pub url: String,
    /// A `.creds` file with JWT and key.
    pub credentials_file: Option<PathBuf>,
    /// User name, where there is no credentials file.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// Prefix of our inboxes, where permissions allow no other; `_INBOX` if `None`. Must begin with `_INBOX`.
    pub inbox_prefix: Option<String>,
    /// How many streams the rooms are spread over; the same for every process of a cluster, for ever.
    pub shards: u32,
    /// Copies of each stream: 1, 3 or 5.
    pub replicas: usize,
    /// At this many bytes a stream is full and refuses, so that unread media is never dropped.
    pub max_bytes_per_shard: u64,
    /// At this age an entry goes. Longer than any outage that is to be survived, and than any room before its recording.
    pub max_age: Duration,
    /// Limit of connecting, name look-up to login.
    pub connect_timeout: Duration,
    /// Limit of every call.
    pub request_timeout: Duration,
}

impl NatsConfig {
    /// The server at `url`, with defaults for the rest.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            credentials_file: None,
            user: None,
            password: None,
            inbox_prefix: None,
            shards: 4,
            replicas: 1,
            max_bytes_per_shard: 8 * 1024 * 1024 * 1024,
            max_age: Duration::from_secs(24 * 3600),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(5),
        }
    }

    /// The URL as it may be shown.
    fn shown_url(&self) -> String {
        self.url.split(',').map(without_credentials).collect::<Vec<_>>().join(",")
    }
}

/// The room log and the bus over one connection. Clones share it.
#[derive(Clone)]
pub struct Nats {
    client: Client,
    jetstream: jetstream::Context,
    connection: Arc<Connection>,
    config: Arc<NatsConfig>,
    server: Arc<str>,
}

impl Nats {
    /// Connects once; later breaks are mended by the client.
    ///
    /// # Errors
    /// [`LogError::Unavailable`] if nobody answers there, [`LogError::Refused`] if the configuration or the login is wrong.
    pub async fn connect(config: NatsConfig) -> Result<Self, LogError> {
        let server: Arc<str> = config.shown_url().into();
        let (client, connection) = connection::connect(&config, &server).await?;
        let jetstream = jetstream::ContextBuilder::new().timeout(config.request_timeout).build(client.clone());
        Ok(Self { client, jetstream, connection, config: Arc::new(config), server })
    }

    /// Creates the streams that are missing and checks every one.
    ///
    /// # Errors
    /// [`LogError::Refused`] names the fields in which a stream is not what the configuration asks for; nothing is altered.
    pub async fn ensure_streams(&self) -> Result<(), LogError> {
        for shard in Shard::all(self.config.shards) {
            streams::ensure(self, shard).await?;
        }
        Ok(())
    }

    /// Checks every stream and creates none: for identities that may not.
    ///
    /// # Errors
    /// As [`Nats::ensure_streams`]; a missing stream is [`LogError::Refused`] too.
    pub async fn check_streams(&self) -> Result<(), LogError> {
        for shard in Shard::all(self.config.shards) {
            streams::check(self, shard).await?;
        }
        Ok(())
    }

    fn unavailable(&self, reason: impl ToString) -> LogError {
        LogError::Unavailable { server: self.server.to_string(), reason: reason.to_string() }
    }

    /// Runs `call` for at most `limit`, or until the server says that we may not publish to `subject`.
    async fn limited<T>(
        &self,
        subject: &str,
        limit: Duration,
        call: impl Future<Output = Result<T, LogError>>,
    ) -> Result<T, LogError> {
        tokio::select! {
            biased;
            done = tokio::time::timeout(limit, call) => {
                done.unwrap_or_else(|_| Err(self.unavailable(format!("no answer for {subject} within {limit:?}"))))
            }
            violation = self.connection.violation(subject) => Err(LogError::Refused {
                reason: format!("{violation}; allow it for this user in the server's permissions"),
            }),
        }
    }

    /// Sends a request and gives its answer; [`Nats::limited`] bounds it.
    async fn ask(&self, subject: &str, limit: Duration, request: Request) -> Result<async_nats::Message, LogError> {
        use async_nats::RequestErrorKind as Kind;
        let call = async {
            let request = request.timeout(None);
            self.client.send_request(subject.to_owned(), request).await.map_err(|e| match e.kind() {
                Kind::NoResponders => self.unavailable(format!("nobody listens on {subject}")),
                Kind::MaxPayloadExceeded => {
                    LogError::Refused { reason: format!("the message for {subject} is over the server's max_payload") }
                }
                Kind::InvalidSubject => LogError::Refused { reason: format!("{subject:?} is no subject") },
                Kind::TimedOut | Kind::Other => self.unavailable(e),
            })
        };
        self.limited(subject, limit, call).await
    }

    /// Returns when the server has taken everything sent before: it has answered that nobody listens on a new inbox, or
    /// that we may not publish there.
    async fn round_trip(&self) -> Result<(), LogError> {
        let inbox = self.client.new_inbox();
        let call = async {
            // Nobody listens there, so the only answers are that, and the break of the connection.
            let _ = self.client.send_request(inbox.clone(), Request::new().timeout(None)).await;
            Ok(())
        };
        match self.limited(&inbox, self.config.request_timeout, call).await {
            Err(LogError::Refused { .. }) => Ok(()),
            answer => answer,
        }
    }
}

#[async_trait]
impl RoomLog for Nats {
    async fn append(&self, entry: NewEntry) -> Result<Appended, LogError> {
        let header = |text: &str| {
            text.parse::<HeaderValue>().map_err(|e| LogError::Refused { reason: format!("header {text:?}: {e}") })
        };
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", header(&entry.message_id)?);
        if let Some(trace_parent) = &entry.trace_parent {
            headers.insert("traceparent", header(trace_parent)?);
        }
        let request = Request::new().headers(headers).payload(entry.payload);
        let answer = self.ask(entry.subject.as_str(), self.config.request_timeout, request).await?;
        streams::read_acknowledgement(self, &entry.subject, &answer.payload)
    }

    async fn read(
        &self,
        shard: Shard,
        filter: &Filter,
        from_sequence: u64,
    ) -> Result<BoxStream<'static, Result<LogEntry, LogError>>, LogError> {
        reader::open(self, shard, filter, from_sequence).await
    }

    async fn last_sequence(&self, shard: Shard) -> Result<u64, LogError> {
        if let Some(info) = streams::info(self, shard).await? {
            return Ok(info.state.last_sequence);
        }
        // Every reader asks before it reads: so a stream that was deleted, or lost with its disk, takes entries again.
        streams::ensure(self, shard).await?;
        tracing::warn!(stream = shard.stream_name(), "a stream of the log was gone and was made again, empty");
        Ok(0)
    }
}

#[async_trait]
impl Bus for Nats {
    async fn publish(&self, subject: &Subject, payload: Bytes) -> Result<(), LogError> {
        if !self.connection.is_up() {
            // The client would keep it and send it later, out of date.
            return Err(self.unavailable("not connected"));
        }
        let call =
            async { self.client.publish(subject.as_str().to_owned(), payload).await.map_err(|e| self.unavailable(e)) };
        self.limited(subject.as_str(), self.config.request_timeout, call).await
    }

    async fn subscribe(&self, filter: &Filter) -> Result<BoxStream<'static, BusMessage>, LogError> {
        let call = async { self.client.subscribe(filter.as_str().to_owned()).await.map_err(|e| self.unavailable(e)) };
        let messages = self.limited(filter.as_str(), self.config.request_timeout, call).await?;
        self.round_trip().await?;
        let message = |message: async_nats::Message| BusMessage {
            subject: message.subject.to_string(),
            payload: message.payload,
            reply: message.reply.map(|reply| reply.to_string()),
        };
        Ok(messages.map(message).boxed())
    }

    async fn request(&self, subject: &Subject, payload: Bytes, limit: Duration) -> Result<Bytes, LogError> {
        let answer = self.ask(subject.as_str(), limit, Request::new().payload(payload)).await?;
        Ok(answer.payload)
    }

    async fn reply(&self, to: &BusMessage, payload: Bytes) -> Result<(), LogError> {
        let inbox = crate::inbox(to)?;
        // Whoever asks names the subject; anything but an inbox would make us write where they may not.
        if !inbox.starts_with("_INBOX") || inbox.contains(['*', '>']) {
            return Err(LogError::Refused { reason: format!("{inbox:?} is no inbox to reply to") });
        }
        let call = async { self.client.publish(inbox.to_owned(), payload).await.map_err(|e| self.unavailable(e)) };
        self.limited(inbox, self.config.request_timeout, call).await
    }
}
