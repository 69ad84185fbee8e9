//! What an SFU links to publish its rooms: media never blocks, loss is never silent.
//!
//! [`Publisher`] owns the connection to one cluster, [`RoomPublisher`] is a cheap handle for one room of it. Everything that is
//! decided is decided in [`core`]; a task performs it. The wire contract is in `docs/sfu-contract.md`.

mod back_channel;
pub mod core;
pub mod messages;
mod metrics;
mod shell;
pub mod spool;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use roomreel_shared::batch::PacketData;
use roomreel_shared::event::{EventKind, MAX_EVENT_BYTES};
use roomreel_shared::id::{RecordingId, RoomId, SfuId, TenantId, TrackId};
use roomreel_shared::ports::{Bus, RoomLog};
use roomreel_shared::rtp::Ssrc;
use roomreel_shared::time::RoomTime;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Why something was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No datagram is that long.
    #[error("packet of {bytes} bytes is longer than a datagram can be ({})", core::MAX_PACKET_BYTES)]
    PacketTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Longer than [`MAX_EVENT_BYTES`].
    #[error("event of {bytes} bytes is over the limit of {MAX_EVENT_BYTES}; shorten its texts or lists")]
    EventTooLarge {
        /// Its length.
        bytes: usize,
    },
    /// Only the coordinator writes this kind of event.
    #[error("this kind of event is written by the coordinator only")]
    NotForSfu,
    /// The log has not taken events for so long that their part of the buffer is full.
    #[error("{bytes} bytes of events wait for the log; is the broker reachable?")]
    BufferFull {
        /// Bytes of events held.
        bytes: usize,
    },
    /// The log did not acknowledge everything within the limit.
    #[error("{messages} messages are not acknowledged by the log after {limit:?}; is the broker reachable?")]
    Unacknowledged {
        /// How many are left.
        messages: u64,
        /// How long was waited.
        limit: Duration,
    },
}

/// How a publisher is set up.
#[derive(Debug, Clone)]
pub struct PublisherConfig {
    /// Whose rooms these are.
    pub tenant: TenantId,
    /// Which SFU this is; no other process may use the id at the same time.
    pub sfu: SfuId,
    /// The cluster's number of shards; all publishers and the cluster must agree.
    pub shards: u32,
    /// Name and version of the publishing software, for operators.
    pub software: String,
    /// The bounds.
    pub limits: core::Limits,
    /// Longest [`Publisher::flush`].
    pub flush_limit: Duration,
}

impl PublisherConfig {
    /// The defaults for this SFU: batches of 100 ms or 16 KiB, 256 MiB of buffer, 256 messages in flight, 10 s of grace,
    /// one batch in 50 traced.
    #[must_use]
    pub fn new(tenant: TenantId, sfu: SfuId, shards: u32) -> Self {
        let limits = core::Limits {
            batch_age: Duration::from_millis(100),
            batch_bytes: 16 * 1024,
            buffer_bytes: 256 * 1024 * 1024,
            in_flight: 256,
            unrecorded_grace: Duration::from_secs(10),
            retry_min: Duration::from_millis(250),
            retry_max: Duration::from_secs(5),
            trace_every: 50,
        };
        let software = concat!("roomreel-sfu ", env!("CARGO_PKG_VERSION")).to_owned();
        Self { tenant, sfu, shards, software, limits, flush_limit: Duration::from_secs(30) }
    }
}

/// What a publisher has done and holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Packets taken and numbered.
    pub accepted_packets: u64,
    /// Their bytes.
    pub accepted_bytes: u64,
    /// Packets and events refused with an error.
    pub rejected: u64,
    /// Batches made and kept.
    pub batches: u64,
    /// Events made, declared gaps included.
    pub events: u64,
    /// Appends the log has acknowledged.
    pub stored: u64,
    /// Of these, appends the log had already.
    pub duplicates: u64,
    /// Appends that went wrong and are repeated.
    pub retries: u64,
    /// Messages sent again because they were asked for.
    pub replays: u64,
    /// Messages covered by a watermark.
    pub durable: u64,
    /// Acknowledged messages forgotten before their watermark, to make room for new media.
    pub evicted: u64,
    /// Packets dropped because the buffer was full.
    pub dropped_packets: u64,
    /// The batches they were in.
    pub dropped_batches: u64,
    /// Gap events that declare them.
    pub gaps: u64,
    /// Messages held now.
    pub held_messages: u64,
    /// Their bytes and those of open batches.
    pub held_bytes: u64,
    /// Messages the log has not acknowledged yet.
    pub unacknowledged: u64,
    /// Messages written to the spool.
    pub spooled: u64,
    /// Messages the spool did not take: it was full, or could not keep up.
    pub not_spooled: u64,
    /// Times that a message's bytes were left to the spool, for memory's sake.
    pub unloaded: u64,
    /// Messages that an earlier process left in the spool.
    pub recovered: u64,
}

/// What the cluster asks an SFU to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Publish this track.
    SubscribeTrack(TrackId),
    /// Publish it no more.
    UnsubscribeTrack(TrackId),
    /// Send a PLI (RFC 4585 section 6.3.1) to the participant.
    RequestKeyframe {
        /// Of which track.
        track: TrackId,
        /// Of which layer; `None`: of every one.
        ssrc: Option<Ssrc>,
    },
    /// Tell the participants about the recording.
    Notify {
        /// What to tell.
        notice: Notice,
        /// Which recording.
        recording: RecordingId,
    },
}

/// What participants are told about a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Notice {
    Started,
    Stopped,
    Paused,
    Resumed,
}

/// Why a command was not done; the code is one of docs/sfu-contract.md.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct CommandError {
    /// The code.
    pub code: u32,
    /// In words.
    pub message: String,
}

/// Carries out what the cluster asks for.
#[async_trait]
pub trait SfuCommands: Send + Sync + 'static {
    /// Does it; the caller is answered with the outcome. Takes no longer than a few seconds.
    async fn perform(&self, room: &RoomId, command: Command) -> Result<(), CommandError>;
}

/// For publishers that cannot do anything: every command is answered with code 1003.
#[derive(Debug, Clone, Copy)]
pub struct NoCommands;

#[async_trait]
impl SfuCommands for NoCommands {
    async fn perform(&self, _room: &RoomId, _command: Command) -> Result<(), CommandError> {
        Err(CommandError { code: 1003, message: "this publisher takes no commands".to_owned() })
    }
}

/// Publishes the rooms of one SFU. Clones are the same publisher; its tasks end with the last of them and its rooms.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<shell::Shared>,
    flush_limit: Duration,
    _tasks: Arc<DropGuard>,
}

impl Publisher {
    /// Starts publishing, with [`NoCommands`]. Needs a Tokio runtime.
    #[must_use]
    pub fn start(log: Arc<dyn RoomLog>, bus: Arc<dyn Bus>, config: PublisherConfig) -> Self {
        Self::start_with(log, bus, config, Arc::new(NoCommands))
    }

    /// Starts publishing. Needs a Tokio runtime.
    #[must_use]
    pub fn start_with(
        log: Arc<dyn RoomLog>,
        bus: Arc<dyn Bus>,
        config: PublisherConfig,
        commands: Arc<dyn SfuCommands>,
    ) -> Self {
        let shared = Arc::new(shell::Shared::new(&config));
        Self::run(log, bus, config, commands, shared)
    }

    /// Starts publishing with a spool: what memory cannot hold, and what is not durable when the process dies, is kept in
    /// files. What an earlier process left there is published first, under its old numbers. Needs a Tokio runtime; opening
    /// a spool that holds much takes a moment.
    ///
    /// # Errors
    /// [`spool::Error`]: there is no spool, and nothing is started.
    pub fn start_spooled(
        log: Arc<dyn RoomLog>,
        bus: Arc<dyn Bus>,
        config: PublisherConfig,
        commands: Arc<dyn SfuCommands>,
        spool: &spool::SpoolConfig,
    ) -> Result<Self, spool::Error> {
        let shared = shell::Shared::spooled(&config, spool)?;
        Ok(Self::run(log, bus, config, commands, shared))
    }

    fn run(
        log: Arc<dyn RoomLog>,
        bus: Arc<dyn Bus>,
        config: PublisherConfig,
        commands: Arc<dyn SfuCommands>,
        shared: Arc<shell::Shared>,
    ) -> Self {
        let stop = CancellationToken::new();
        let flush_limit = config.flush_limit;
        tokio::spawn(shell::send(shared.clone(), log, stop.clone()));
        tokio::spawn(back_channel::heartbeat(shared.clone(), bus.clone(), config.clone(), stop.clone()));
        tokio::spawn(back_channel::listen(shared.clone(), bus.clone(), config.clone(), stop.clone()));
        tokio::spawn(back_channel::obey(bus, config, commands, stop.clone()));
        Self { shared, flush_limit, _tasks: Arc::new(stop.drop_guard()) }
    }

    /// A handle for one room.
    #[must_use]
    pub fn room(&self, room: RoomId) -> RoomPublisher {
        RoomPublisher { publisher: self.clone(), room }
    }

    /// Closes the open batches and waits until the log has acknowledged everything.
    ///
    /// # Errors
    /// [`Error::Unacknowledged`] after the configured limit; what is left is still being sent.
    pub async fn flush(&self) -> Result<(), Error> {
        self.shared.with(|core, _| core.close_batches());
        self.shared.wake();
        let limit = self.flush_limit;
        let flushed = tokio::time::timeout(limit, self.shared.wait_until(|core| core.is_flushed())).await;
        flushed.map_err(|_| Error::Unacknowledged { messages: self.stats().unacknowledged, limit })
    }

    /// Waits until everything of the recorded rooms is durable: a process that ends before may still be asked for replays.
    /// `false` if it is not after `limit`.
    pub async fn settle(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.shared.wait_until(|core| core.is_settled())).await.is_ok()
    }

    /// What was done so far, and what is held.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.with(|core, _| core.stats())
    }
}

/// Publishes one room.
#[derive(Clone)]
pub struct RoomPublisher {
    publisher: Publisher,
    room: RoomId,
}

impl RoomPublisher {
    /// The room.
    #[must_use]
    pub fn room(&self) -> &RoomId {
        &self.room
    }

    /// Takes an event; never blocks. Media accepted before it goes first, and a `RoomClosed` goes after everything else.
    ///
    /// # Errors
    /// [`Error::NotForSfu`], [`Error::EventTooLarge`] or [`Error::BufferFull`]: the event was not taken.
    pub fn event(&self, time: RoomTime, event: EventKind) -> Result<(), Error> {
        self.publisher.shared.with(|core, now| core.accept_event(now, &self.room, time, event))?;
        self.publisher.shared.wake();
        Ok(())
    }

    /// Takes a packet of a track; never blocks. `time` is when the SFU received it. Accepted packets are published or, if the
    /// buffer is full, declared missing.
    ///
    /// # Errors
    /// [`Error::PacketTooLarge`]: the packet was not taken.
    pub fn packet(&self, track: &TrackId, time: RoomTime, data: PacketData) -> Result<(), Error> {
        if self.publisher.shared.with(|core, now| core.accept_packet(now, &self.room, track, time, data))? {
            self.publisher.shared.wake();
        }
        Ok(())
    }

    /// Waits until the log keeps up: for sources that can wait, as live media cannot.
    pub async fn capacity(&self) {
        self.publisher.shared.wait_until(|core| !core.is_congested()).await;
    }
}
