//! Reads the events of one shard from the beginning of its stream, for as long as a leadership lasts.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use roomreel_shared::ports::{LogEntry, LogError, RoomLog};
use roomreel_shared::subject::{Shard, shard_events_filter};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// A shard whose log has said nothing for this long is taken as read to its end: media are not read here, so the end of the
/// events cannot be told from the stream's last sequence alone. Taken too early, it delays nothing and starts nothing twice.
const QUIET: Duration = Duration::from_millis(500);
const BACKOFF: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// What a reader hands over.
pub enum Read {
    /// The next event entry.
    Entry(LogEntry),
    /// The shard has been read to where it ended when the reader began.
    CaughtUp(Shard),
    /// The shard has lost entries that were read, and is read from its beginning again.
    Rewound(Shard),
}

/// Reads until the receiver is gone. Delivery that breaks is begun again from the reader's own position.
pub async fn read_shard(log: Arc<dyn RoomLog>, shard: Shard, to: mpsc::Sender<Read>) {
    let mut reader = Reader { log, shard, to, next: 1, caught_up: false };
    let mut backoff = BACKOFF.0;
    loop {
        let before = reader.next;
        let Err(error) = reader.follow().await else { return };
        backoff = if reader.next > before { BACKOFF.0 } else { (backoff * 2).min(BACKOFF.1) };
        tracing::info!(shard = shard.number(), %error, next = reader.next, "reading the events of a shard again");
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = reader.to.closed() => return,
        }
    }
}

struct Reader {
    log: Arc<dyn RoomLog>,
    shard: Shard,
    to: mpsc::Sender<Read>,
    next: u64,
    caught_up: bool,
}

impl Reader {
    /// `Ok`: nobody listens any more.
    async fn follow(&mut self) -> Result<(), LogError> {
        let end = self.log.last_sequence(self.shard).await?;
        if end.saturating_add(1) < self.next {
            // What was read stays known: reading it twice changes nothing. What is new would else be looked for behind it.
            tracing::warn!(
                shard = self.shard.number(),
                end,
                next = self.next,
                "the log has lost entries it had; reading it again"
            );
            (self.next, self.caught_up) = (1, false);
            if self.to.send(Read::Rewound(self.shard)).await.is_err() {
                return Ok(());
            }
        }
        let mut entries = self.log.read(self.shard, &shard_events_filter(self.shard), self.next).await?;
        loop {
            if !self.caught_up && self.next > end {
                self.say_caught_up().await;
            }
            let next = if self.caught_up {
                tokio::select! {
                    next = entries.next() => next,
                    () = self.to.closed() => return Ok(()),
                }
            } else {
                let Ok(next) = timeout(QUIET, entries.next()).await else {
                    self.say_caught_up().await;
                    continue;
                };
                next
            };
            let Some(entry) = next else {
                let reason = "the events ended".to_owned();
                return Err(LogError::Unavailable { server: self.shard.stream_name(), reason });
            };
            let entry = entry?;
            self.next = entry.sequence + 1;
            if self.to.send(Read::Entry(entry)).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn say_caught_up(&mut self) {
        self.caught_up = true;
        // A receiver that is gone is noticed at the next entry.
        let _ = self.to.send(Read::CaughtUp(self.shard)).await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use roomreel_backends::memory::MemoryLog;
    use roomreel_shared::id::{RoomId, SfuId, TenantId};
    use roomreel_shared::ports::NewEntry;
    use roomreel_shared::subject::{Address, Entry, Writer};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_log_that_lost_its_end_is_read_again_from_its_beginning() {
        let (tenant, room) = (TenantId::new("t").expect("valid"), RoomId::new("r").expect("valid"));
        let shard = Shard::of(&tenant, &room, 1);
        let writer = Writer::Sfu(SfuId::new("s").expect("valid"));
        let subject = Address { shard, tenant, writer, room, entry: Entry::Event }.subject();
        let log = MemoryLog::system();
        let entry = NewEntry { subject, message_id: "1".to_owned(), trace_parent: None, payload: Bytes::new() };
        log.append(entry).await.expect("the log takes it");
        let (to, mut reads) = mpsc::channel(8);
        let mut reader = Reader { log: Arc::new(log), shard, to, next: 5, caught_up: true };
        let reading = tokio::spawn(async move { reader.follow().await });
        assert!(matches!(reads.recv().await, Some(Read::Rewound(of)) if of == shard));
        assert!(matches!(reads.recv().await, Some(Read::Entry(entry)) if entry.sequence == 1));
        assert!(matches!(reads.recv().await, Some(Read::CaughtUp(of)) if of == shard));
        drop(reads);
        reading.await.expect("no panic").expect("nobody listens any more");
    }
}
