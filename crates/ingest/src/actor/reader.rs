//! Reads a room's log from its own position and pays for each entry before the room's actor gets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::StreamExt as _;
use ractor::ActorRef;
use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::ports::{LogEntry, LogError, RoomLog};
use roomreel_shared::subject::{Shard, room_filter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::room::RoomMessage;
use crate::commit::backoff;

/// Bytes per permit: a semaphore counts in 32 bits.
const PERMIT_BYTES: usize = 256;
/// What an entry costs besides its payload.
const ENTRY_BYTES: usize = 512;

/// Bytes that a room, and all rooms of the node, may hold.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    room: Arc<Semaphore>,
    node: Arc<Semaphore>,
    /// Most permits that one entry can need.
    most: u32,
    /// An entry waits for bytes.
    pub(crate) is_short: Arc<AtomicBool>,
}

/// The node's part of every room's budget.
pub(crate) fn node_budget(bytes: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(permits(bytes)))
}

fn permits(bytes: usize) -> usize {
    (bytes / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS >> 1)
}

/// Bytes that an entry holds while it is in memory.
#[derive(Debug)]
pub(crate) struct Paid {
    room: OwnedSemaphorePermit,
    node: OwnedSemaphorePermit,
}

impl Paid {
    /// Both together.
    pub(crate) fn merge(&mut self, other: Self) {
        self.room.merge(other.room);
        self.node.merge(other.node);
    }
}

impl Budget {
    pub(crate) fn new(room_bytes: usize, node: Arc<Semaphore>) -> Self {
        let room = permits(room_bytes);
        let most = u32::try_from(room.min(node.available_permits().max(1))).unwrap_or(u32::MAX);
        Self { room: Arc::new(Semaphore::new(room)), node, most, is_short: Arc::default() }
    }

    /// Waits until `bytes` may be held; `None` never happens while the node lives.
    async fn pay(&self, bytes: usize) -> Option<Paid> {
        let cost = u32::try_from((bytes + ENTRY_BYTES).div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX).min(self.most);
        let try_now = || {
            let room = self.room.clone().try_acquire_many_owned(cost).ok()?;
            Some(Paid { room, node: self.node.clone().try_acquire_many_owned(cost).ok()? })
        };
        if let Some(paid) = try_now() {
            return Some(paid);
        }
        self.is_short.store(true, Ordering::Release);
        let room = self.room.clone().acquire_many_owned(cost).await.ok()?;
        let node = self.node.clone().acquire_many_owned(cost).await.ok()?;
        self.is_short.store(false, Ordering::Release);
        Some(Paid { room, node })
    }
}

/// Reads for ever, from `position` on.
pub(crate) async fn read(
    log: Arc<dyn RoomLog>,
    spec: FoldSpec,
    mut position: u64,
    budget: Budget,
    room: ActorRef<RoomMessage>,
    generation: u64,
) {
    let shard = Shard::of(&spec.tenant, &spec.room, spec.shards.max(1));
    let filter = room_filter(shard, &spec.tenant, &spec.room);
    let mut failures = 0;
    loop {
        let opened = open(&*log, shard, &filter, &mut position, &spec, &room, generation).await;
        let error = match opened {
            Ok(mut entries) => loop {
                match entries.next().await {
                    Some(Ok(entry)) => {
                        failures = 0;
                        position = entry.sequence + 1;
                        let Some(paid) = budget.pay(entry.payload.len()).await else { return };
                        if room.cast(RoomMessage::Entry { generation, entry, paid }).is_err() {
                            return;
                        }
                    }
                    Some(Err(error)) => break Some(error),
                    None => break None,
                }
            },
            Err(error) => Some(error),
        };
        failures += 1;
        if let Some(error) = error.filter(|_| failures == 3) {
            // Twice is a server that restarts; from then on somebody may have to look.
            tracing::warn!(room = %spec.room, %error, position, "the room's log cannot be read; trying again");
        }
        tokio::time::sleep(backoff(failures)).await;
    }
}

async fn open(
    log: &dyn RoomLog,
    shard: Shard,
    filter: &roomreel_shared::subject::Filter,
    position: &mut u64,
    spec: &FoldSpec,
    room: &ActorRef<RoomMessage>,
    generation: u64,
) -> Result<futures::stream::BoxStream<'static, Result<LogEntry, LogError>>, LogError> {
    let last = log.last_sequence(shard).await?;
    if last.saturating_add(1) < *position {
        // The log is shorter than it was: it lost its end. Numbers of the publishers tell what is new in it.
        let restart = if spec.start_sequence <= last { spec.start_sequence } else { 1 };
        tracing::warn!(room = %spec.room, last, position, "the log has lost entries it had; reading it again");
        *position = restart;
        let _ = room.cast(RoomMessage::Rewound { generation });
    }
    log.read(shard, filter, *position).await
}
