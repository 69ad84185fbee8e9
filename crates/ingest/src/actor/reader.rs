//! Reads a room's log from its own position and pays for entries before the room's actor gets them.
//!
//! What comes within a moment goes to the actor together: waking it costs more than folding an entry does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use ractor::ActorRef;
use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::ports::{LogEntry, LogError, RoomLog};
use roomreel_shared::subject::{Shard, room_filter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::room::RoomMessage;
use super::shelf::Shelf;
use crate::commit::backoff;

/// Bytes per permit: a semaphore counts in 32 bits.
const PERMIT_BYTES: usize = 256;
/// What an entry costs besides its payload.
const ENTRY_BYTES: usize = 512;
/// Most entries that go to the actor together.
const CHUNK: usize = 64;
/// How often so many wait to be folded. While a window waits for the one before it nothing is folded, and what would be read
/// then is as safe in the log.
const CHUNKS_AHEAD: usize = 2;
/// How long what comes is left to gather. Short beside a window, and long beside the time between two entries of a busy room.
const GATHER: Duration = Duration::from_millis(5);

/// Bytes that a room, and all rooms of the node, may hold.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    room: Arc<Semaphore>,
    node: Arc<Semaphore>,
    /// Most permits that entries which come together can need.
    most: u32,
    /// An entry waits for bytes.
    pub(crate) is_short: Arc<AtomicBool>,
}

/// The node's part of every room's budget.
#[derive(Debug, Clone)]
pub(crate) struct NodeBudget {
    free: Arc<Semaphore>,
    permits: usize,
}

impl NodeBudget {
    pub(crate) fn new(bytes: usize) -> Self {
        let permits = permits(bytes);
        Self { free: Arc::new(Semaphore::new(permits)), permits }
    }
}

fn permits(bytes: usize) -> usize {
    (bytes / PERMIT_BYTES).clamp(1, Semaphore::MAX_PERMITS >> 1)
}

/// Bytes that entries hold while they are in memory.
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

    /// The part of an entry with a payload of `bytes`, or what there is.
    pub(crate) fn split(&mut self, bytes: usize) -> Option<Self> {
        let cost = cost(bytes).min(self.room.num_permits());
        Some(Self { room: self.room.split(cost)?, node: self.node.split(cost)? })
    }
}

/// Permits for an entry with a payload of `bytes`.
fn cost(bytes: usize) -> usize {
    (bytes + ENTRY_BYTES).div_ceil(PERMIT_BYTES)
}

impl Budget {
    pub(crate) fn new(room_bytes: usize, node: &NodeBudget) -> Self {
        let room = permits(room_bytes);
        let most = u32::try_from(room.min(node.permits)).unwrap_or(u32::MAX);
        Self { room: Arc::new(Semaphore::new(room)), node: node.free.clone(), most, is_short: Arc::default() }
    }

    /// The same bytes for another reader: what the one before it waited for when it was stopped, nobody waits for.
    pub(crate) fn for_new_reader(&self) -> Self {
        Self { is_short: Arc::default(), ..self.clone() }
    }

    /// Waits until entries of this cost may be held; `None` never happens while the node lives.
    async fn pay(&self, cost: usize) -> Option<Paid> {
        let cost = u32::try_from(cost).unwrap_or(u32::MAX).min(self.most);
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
    let mut shelf = Shelf::default();
    let ahead = Arc::new(Semaphore::new(CHUNKS_AHEAD));
    let mut failures = 0;
    loop {
        let opened = open(&*log, shard, &filter, &mut position, &spec, &room, generation).await;
        let error = match opened {
            Ok(entries) => {
                let mut chunks = entries.ready_chunks(CHUNK);
                loop {
                    let Ok(ahead) = ahead.clone().acquire_owned().await else { return };
                    let Some(chunk) = chunks.next().await else { break None };
                    let is_all = chunk.len() < CHUNK;
                    let (mut entries, error) = until_error(chunk);
                    if let Some(last) = entries.last() {
                        failures = 0;
                        position = last.sequence + 1;
                        let cost = entries.iter().map(|entry| cost(entry.payload.len())).sum();
                        let Some(paid) = budget.pay(cost).await else { return };
                        for entry in &mut entries {
                            entry.payload = shelf.put(&entry.payload);
                        }
                        if room.cast(RoomMessage::Entries { generation, entries, paid, ahead }).is_err() {
                            return;
                        }
                    }
                    if error.is_some() {
                        break error;
                    }
                    if is_all {
                        tokio::time::sleep(GATHER).await;
                    }
                }
            }
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

/// The entries before the first error, and the error.
fn until_error(chunk: Vec<Result<LogEntry, LogError>>) -> (Vec<LogEntry>, Option<LogError>) {
    let mut entries = Vec::with_capacity(chunk.len());
    for item in chunk {
        match item {
            Ok(entry) => entries.push(entry),
            Err(error) => return (entries, Some(error)),
        }
    }
    (entries, None)
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
        let _ = room.cast(RoomMessage::Rewound { generation, end: last });
    }
    log.read(shard, filter, *position).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_room_pays_in_full_although_the_node_was_short_when_it_began() {
        let node = NodeBudget::new(1 << 20);
        let other = Budget::new(1 << 20, &node).pay(permits(1 << 20)).await.expect("the node lives");
        let budget = Budget::new(1 << 20, &node);
        drop(other);
        let _paid = budget.pay(cost(50_000)).await.expect("the node lives");
        assert_eq!(node.free.available_permits(), node.permits - cost(50_000));
    }

    #[tokio::test]
    async fn what_a_stopped_reader_waited_for_nobody_waits_for() {
        let budget = Budget::new(1 << 20, &NodeBudget::new(1 << 20));
        let held = budget.pay(permits(1 << 20)).await.expect("the node lives");
        assert!(futures::FutureExt::now_or_never(budget.pay(1)).is_none() && budget.is_short.load(Ordering::Acquire));
        drop(held);
        let next = budget.for_new_reader();
        let _paid = next.pay(1).await.expect("the node lives");
        assert!(!next.is_short.load(Ordering::Acquire));
    }

    #[tokio::test]
    async fn what_is_paid_for_together_is_given_back_entry_by_entry() {
        let node = NodeBudget::new(1 << 20);
        let all = node.free.available_permits();
        let budget = Budget::new(1 << 20, &node);
        let mut paid = budget.pay(cost(1_000) + cost(50_000)).await.expect("the node lives");
        let first = paid.split(1_000).expect("it was paid for");
        drop(paid.split(50_000));
        assert_eq!(node.free.available_permits(), all - cost(1_000));
        drop((first, paid));
        assert_eq!((node.free.available_permits(), budget.room.available_permits()), (all, all));
    }

    #[tokio::test]
    async fn entries_above_the_whole_budget_take_it_all() {
        let node = NodeBudget::new(4 * PERMIT_BYTES);
        let budget = Budget::new(1 << 20, &node);
        let mut paid = budget.pay(cost(100_000) + cost(1)).await.expect("the node lives");
        assert_eq!(node.free.available_permits(), 0);
        let first = paid.split(100_000).expect("it was paid for");
        assert!(paid.split(1).is_some(), "the second entry goes with what is left: nothing");
        drop(first);
        assert_eq!(node.free.available_permits(), 4);
    }
}
