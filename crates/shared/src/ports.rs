//! The ports: what the services ask of the outside. `roomreel-backends` implements them.
//!
//! Every call returns within the implementation's time limit; nothing waits for ever. An implementation does not retry
//! what the caller can see: the retry's one owner is above the port.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::key::Key;
use crate::pieces::Pieces;
use crate::subject::{Filter, Shard, Subject};
use crate::time::LogTime;

/// Why a call to the log or the bus did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The stream is at its size limit and refuses new entries rather than drop old ones.
    #[error("the log's stream {stream} is full: {reason}")]
    Full {
        /// The stream.
        stream: String,
        /// As the broker says it.
        reason: String,
    },
    /// The broker cannot be reached or did not answer in time; whether it acted is unknown.
    #[error("the log at {server} does not answer: {reason}")]
    Unavailable {
        /// Where it was sought, without credentials.
        server: String,
        /// As the client says it.
        reason: String,
    },
    /// The broker refused, and would refuse again.
    #[error("the log refuses: {reason}")]
    Refused {
        /// As the broker says it.
        reason: String,
    },
}

impl LogError {
    /// Whether the same call cannot succeed later.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// The broker stored an entry. Not yet durable: see docs/guarantees.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its place in the stream.
    pub sequence: u64,
    /// The broker had an entry with this message id already.
    pub duplicate: bool,
}

/// What is appended to the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// Where to.
    pub subject: Subject,
    /// The broker drops a second entry with the same id for a while.
    pub message_id: String,
    /// A W3C `traceparent`, carried as a header of that name.
    pub trace_parent: Option<String>,
    /// The message.
    pub payload: Bytes,
}

/// An entry as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place in the stream: increasing, not contiguous for one room.
    pub sequence: u64,
    /// When the broker stored it.
    pub time: LogTime,
    /// The subject as the broker has it; from outside, not yet parsed.
    pub subject: String,
    /// A W3C `traceparent`.
    pub trace_parent: Option<String>,
    /// The message.
    pub payload: Bytes,
}

/// The room log.
#[async_trait]
pub trait RoomLog: Send + Sync + 'static {
    /// Appends one entry and waits until the broker has stored it.
    async fn append(&self, entry: NewEntry) -> Result<Appended, LogError>;

    /// Entries of `shard` that match `filter`, from the first with a sequence of at least `from_sequence` on, in order, going
    /// on with what is appended later. The stream ends with an `Err` when delivery breaks or an entry may have been skipped;
    /// the reader starts again from its own position. No more is fetched ahead than the implementation's bound.
    async fn read(
        &self,
        shard: Shard,
        filter: &Filter,
        from_sequence: u64,
    ) -> Result<BoxStream<'static, Result<LogEntry, LogError>>, LogError>;

    /// Sequence of the newest entry of `shard`; 0 if there is none.
    async fn last_sequence(&self, shard: Shard) -> Result<u64, LogError>;
}

/// A message of the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusMessage {
    /// Where it was sent; from outside, not yet parsed.
    pub subject: String,
    /// The message.
    pub payload: Bytes,
    /// Where the reply goes, if one is expected. Opaque to the caller.
    pub reply: Option<String>,
}

/// Messages that may be lost: hints, watermarks, commands.
#[async_trait]
pub trait Bus: Send + Sync + 'static {
    /// Sends to whoever listens.
    async fn publish(&self, subject: &Subject, payload: Bytes) -> Result<(), LogError>;

    /// Messages from now on. A slow reader loses messages.
    async fn subscribe(&self, filter: &Filter) -> Result<BoxStream<'static, BusMessage>, LogError>;

    /// Sends and waits for one reply.
    async fn request(&self, subject: &Subject, payload: Bytes, limit: Duration) -> Result<Bytes, LogError>;

    /// Answers a message that expects it.
    async fn reply(&self, to: &BusMessage, payload: Bytes) -> Result<(), LogError>;
}

/// Why a call to the object store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("there is no object {key}")]
    NotFound {
        /// Its key.
        key: String,
    },
    /// A conditional create met an object under the key (HTTP 412).
    #[error("object {key} exists already")]
    AlreadyExists {
        /// Its key.
        key: String,
    },
    /// A concurrent write to the key; the same request is to be sent again (HTTP 409).
    #[error("a concurrent write to {key}; send the request again")]
    Conflict {
        /// Its key.
        key: String,
    },
    /// The store cannot be reached, is overloaded or did not answer in time; whether it acted is unknown.
    #[error("the object store {store} does not answer for {key}: {reason}")]
    Unavailable {
        /// Bucket or directory, without credentials.
        store: String,
        /// The key of the call.
        key: String,
        /// As the client says it.
        reason: String,
    },
    /// The store refused, and would refuse again: no such bucket, no permission.
    #[error("the object store {store} refuses {key}: {reason}")]
    Refused {
        /// Bucket or directory, without credentials.
        store: String,
        /// The key of the call.
        key: String,
        /// As the store says it, with what to do.
        reason: String,
    },
}

impl StoreError {
    /// Whether the same call cannot succeed later.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: Key,
    /// Its length in bytes.
    pub size: u64,
    /// The store's word for its content, another one once it is replaced (an ETag); empty where the store has none.
    pub version: String,
}

/// An upload in parts that has not been completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// The key it will have.
    pub key: Key,
    /// The store's name for it.
    pub id: String,
}

/// An upload that was begun and neither completed nor aborted: one under way, or what a process left that was killed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenUpload {
    /// Which.
    pub upload: Upload,
    /// How long ago it was begun.
    pub age: Duration,
}

/// A part that the store has; given back on completion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedPart {
    /// Its place, from 1. Parts may be uploaded in any order.
    pub number: u32,
    /// The store's name for it.
    pub tag: String,
}

/// Smallest part but for the last that every store takes.
pub const MIN_PART_BYTES: usize = 5 * 1024 * 1024;

/// The bucket.
#[async_trait]
pub trait ObjectStore: Send + Sync + 'static {
    /// Creates the object, atomically, if there is none under the key.
    ///
    /// [`StoreError::Unavailable`] leaves it open whether the object was created: read the key back.
    async fn create(&self, key: &Key, body: Bytes) -> Result<(), StoreError>;

    /// The same with a body in pieces, which an implementation may send without copying them together.
    async fn create_of(&self, key: &Key, body: Pieces) -> Result<(), StoreError> {
        self.create(key, body.joined()).await
    }

    /// Creates or replaces the object. For documents with one owner only.
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError>;

    /// The whole object.
    async fn get(&self, key: &Key) -> Result<Bytes, StoreError>;

    /// `range` of the object's bytes, cut at its end.
    async fn get_range(&self, key: &Key, range: std::ops::Range<u64>) -> Result<Bytes, StoreError>;

    /// Length of the object in bytes.
    async fn size(&self, key: &Key) -> Result<u64, StoreError>;

    /// Every object whose key begins with `prefix`, in the order of keys.
    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError>;

    /// Keys and "directories" (ending in `/`) directly below `prefix`, in order.
    async fn list_directory(&self, prefix: &str) -> Result<Vec<String>, StoreError>;

    /// Removes the object; removing none is no error.
    async fn delete(&self, key: &Key) -> Result<(), StoreError>;

    /// Begins an upload in parts.
    async fn begin_upload(&self, key: &Key) -> Result<Upload, StoreError>;

    /// Uploads a part, at least [`MIN_PART_BYTES`] long unless it is the last by number.
    async fn upload_part(&self, upload: &Upload, number: u32, body: Bytes) -> Result<UploadedPart, StoreError>;

    /// Joins the parts, in the order of numbers, to the object; creates it, atomically, if there is none under the key.
    async fn complete_upload(&self, upload: &Upload, parts: Vec<UploadedPart>) -> Result<(), StoreError>;

    /// Drops the parts. Of an upload that is not there any more, there are none.
    async fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError>;

    /// Every upload, whoever began it, that was neither completed nor aborted; `None` where the store cannot tell.
    async fn list_uploads(&self) -> Result<Option<Vec<OpenUpload>>, StoreError> {
        Ok(None)
    }

    /// A URL that gives the object to whoever has it, for `valid`; `None` where the store has no such thing.
    async fn presign_get(&self, key: &Key, valid: Duration) -> Result<Option<String>, StoreError>;
}

/// Why a call to the coordination store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CoordinationError {
    /// It cannot be reached or did not answer in time; whether it acted is unknown.
    #[error("the coordination store at {server} does not answer: {reason}")]
    Unavailable {
        /// Where it was sought, without credentials.
        server: String,
        /// As the client says it.
        reason: String,
    },
    /// The lease does not exist any more.
    #[error("the lease {lease:x} has expired")]
    LeaseLost {
        /// Which.
        lease: i64,
    },
    /// It refused, and would refuse again.
    #[error("the coordination store refuses: {reason}")]
    Refused {
        /// As it says it.
        reason: String,
    },
}

/// A lease: what is bound to it goes when it is not renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId(pub i64);

/// A key with its value and history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: String,
    /// Its value.
    pub value: Bytes,
    /// Store revision at which the key came into being.
    pub create_revision: u64,
    /// Store revision of its last change: the fencing number.
    pub mod_revision: u64,
}

/// Every key below a prefix at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The store's revision.
    pub revision: u64,
    /// In the order of keys.
    pub records: Vec<Record>,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key exists and came into being at this revision: nobody else has held it since.
    Created(String, u64),
    /// The key's last change was at this revision.
    Unchanged(String, u64),
}

/// A change of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Sets the key, bound to a lease if one is given.
    Put(String, Bytes, Option<LeaseId>),
    /// Removes the key.
    Delete(String),
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every condition held; all changes were made at this revision.
    Committed(u64),
    /// Some condition did not hold; nothing was changed.
    Conflict,
}

/// Where what is alive is written down: nodes, active recordings, assignments, render jobs.
#[async_trait]
pub trait Coordination: Send + Sync + 'static {
    /// A new lease.
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, CoordinationError>;

    /// Renews; answers the time left.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, CoordinationError>;

    /// Ends the lease and what is bound to it.
    async fn revoke(&self, lease: LeaseId) -> Result<(), CoordinationError>;

    /// One key.
    async fn get(&self, key: &str) -> Result<Option<Record>, CoordinationError>;

    /// Every key that begins with `prefix`.
    async fn list(&self, prefix: &str) -> Result<Snapshot, CoordinationError>;

    /// Makes all `changes` if all `conditions` hold.
    async fn transact(&self, conditions: Vec<Compare>, changes: Vec<Change>) -> Result<Outcome, CoordinationError>;

    /// An item whenever something below `prefix` may have changed: a wake-up, not the truth. Ends when the connection
    /// breaks; the caller lists and watches again.
    async fn watch(&self, prefix: &str) -> Result<BoxStream<'static, ()>, CoordinationError>;
}

/// Everything a service needs of the outside.
#[derive(Clone)]
pub struct Ports {
    /// The room log.
    pub log: std::sync::Arc<dyn RoomLog>,
    /// The bus beside it.
    pub bus: std::sync::Arc<dyn Bus>,
    /// The bucket.
    pub store: std::sync::Arc<dyn ObjectStore>,
    /// The coordination store.
    pub coordination: std::sync::Arc<dyn Coordination>,
}
