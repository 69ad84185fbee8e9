//! A room log and a bus in memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use roomreel_shared::ports::{Appended, Bus, BusMessage, LogEntry, LogError, NewEntry, RoomLog};
use roomreel_shared::subject::{Address, Filter, Shard, Subject};
use roomreel_shared::time::LogTime;
use tokio::sync::{mpsc, oneshot, watch};

use super::faults::{Fault, Faults, Hook, Operation, under};
use super::lock;

/// Where the log takes the time of its entries from.
pub type Clock = Arc<dyn Fn() -> LogTime + Send + Sync>;

/// How long a message id is remembered, as the real streams are configured.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);
/// Bytes of a shard unless told otherwise.
const DEFAULT_SHARD_BYTES: usize = 512 * 1024 * 1024;
/// Age at which entries go unless told otherwise.
const DEFAULT_AGE: Duration = Duration::from_secs(3600);
/// What an entry costs beside its payload.
const ENTRY_OVERHEAD_BYTES: usize = 256;
/// Messages a bus reader may be behind; more are lost.
const BUS_BACKLOG: usize = 1024;

/// A room log and a bus in memory. Clones share what they hold.
#[derive(Clone)]
pub struct MemoryLog(Arc<Inner>);

struct Inner {
    clock: Clock,
    max_bytes: usize,
    max_age: Duration,
    faults: Hook,
    shards: Mutex<BTreeMap<Shard, Arc<LogShard>>>,
    bus: Mutex<BusState>,
    next_inbox: AtomicU64,
}

#[derive(Default)]
struct LogShard {
    entries: Mutex<Entries>,
    /// Bumped at each change of `entries`.
    changed: watch::Sender<u64>,
}

struct Entries {
    stored: VecDeque<LogEntry>,
    bytes: usize,
    next_sequence: u64,
    /// Message ids of the last [`DUPLICATE_WINDOW`], with the sequence they were stored at.
    ids: HashMap<String, u64>,
    id_order: VecDeque<(LogTime, String)>,
    /// How often acknowledged entries were lost; readers of an earlier generation are told.
    generation: u64,
}

impl Default for Entries {
    fn default() -> Self {
        Self {
            stored: VecDeque::new(),
            bytes: 0,
            next_sequence: 1,
            ids: HashMap::new(),
            id_order: VecDeque::new(),
            generation: 0,
        }
    }
}

#[derive(Default)]
struct BusState {
    readers: Vec<(Filter, mpsc::Sender<BusMessage>)>,
    waiting: HashMap<String, oneshot::Sender<Bytes>>,
}

impl MemoryLog {
    /// An empty log whose entries get their time from `clock`.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self(Arc::new(Inner {
            clock,
            max_bytes: DEFAULT_SHARD_BYTES,
            max_age: DEFAULT_AGE,
            faults: Hook::default(),
            shards: Mutex::default(),
            bus: Mutex::default(),
            next_inbox: AtomicU64::new(0),
        }))
    }

    /// An empty log on the system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::new(Arc::new(|| {
            let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            LogTime::from_micros(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
        }))
    }

    /// Sets at how many bytes, payloads and a fixed cost per entry, a shard is full.
    ///
    /// # Panics
    /// If the log has been cloned already.
    #[must_use]
    pub fn with_max_bytes_per_shard(self, bytes: usize) -> Self {
        self.configured(|inner| inner.max_bytes = bytes)
    }

    /// Sets the age at which entries go.
    ///
    /// # Panics
    /// If the log has been cloned already.
    #[must_use]
    pub fn with_max_age(self, age: Duration) -> Self {
        self.configured(|inner| inner.max_age = age)
    }

    /// Lets `faults` decide what goes wrong.
    ///
    /// # Panics
    /// If the log has been cloned already.
    #[must_use]
    pub fn with_faults(self, faults: Arc<dyn Faults>) -> Self {
        self.configured(|inner| inner.faults = Hook(Some(faults)))
    }

    fn configured(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::get_mut(&mut self.0).expect("a log is configured before it is cloned"));
        self
    }

    /// Every entry a shard holds, in order: for oracles.
    #[must_use]
    pub fn entries(&self, shard: Shard) -> Vec<LogEntry> {
        lock(&self.0.shard(shard).entries).stored.iter().cloned().collect()
    }
}

impl Inner {
    fn shard(&self, shard: Shard) -> Arc<LogShard> {
        lock(&self.shards).entry(shard).or_default().clone()
    }

    fn append(&self, address: &Address, entry: NewEntry) -> Result<Appended, LogError> {
        let now = (self.clock)();
        let shard = self.shard(address.shard);
        let mut entries = lock(&shard.entries);
        entries.forget(now, self.max_age);
        if let Some(&sequence) = entries.ids.get(&entry.message_id) {
            return Ok(Appended { sequence, duplicate: true });
        }
        let cost = ENTRY_OVERHEAD_BYTES + entry.payload.len();
        if entries.bytes + cost > self.max_bytes {
            let reason = format!("it holds {} of {} bytes", entries.bytes, self.max_bytes);
            return Err(LogError::Full { stream: address.shard.stream_name(), reason });
        }
        let sequence = entries.next_sequence;
        entries.next_sequence += 1;
        entries.bytes += cost;
        entries.ids.insert(entry.message_id.clone(), sequence);
        entries.id_order.push_back((now, entry.message_id));
        entries.stored.push_back(LogEntry {
            sequence,
            time: now,
            subject: entry.subject.as_str().to_owned(),
            trace_parent: entry.trace_parent,
            payload: entry.payload,
        });
        drop(entries);
        shard.changed.send_modify(|version| *version += 1);
        Ok(Appended { sequence, duplicate: false })
    }

    fn lose(&self, address: &Address, count: usize) {
        let shard = self.shard(address.shard);
        let mut entries = lock(&shard.entries);
        for _ in 0..count {
            let Some(lost) = entries.stored.pop_back() else { break };
            entries.bytes -= ENTRY_OVERHEAD_BYTES + lost.payload.len();
            entries.next_sequence = lost.sequence;
        }
        entries.generation += 1;
        drop(entries);
        shard.changed.send_modify(|version| *version += 1);
    }

    fn deliver(&self, message: &BusMessage, times: usize) -> usize {
        let mut bus = lock(&self.bus);
        bus.readers.retain(|(_, reader)| !reader.is_closed());
        let mut readers = 0;
        for (_, reader) in bus.readers.iter().filter(|(filter, _)| filter.matches(&message.subject)) {
            readers += 1;
            for _ in 0..times {
                // A full reader loses the message, as the bus promises.
                let _ = reader.try_send(message.clone());
            }
        }
        readers
    }

    fn publish(&self, fault: Option<Fault>, message: &BusMessage) -> usize {
        let times = match fault {
            Some(Fault::Drop) => 0,
            Some(Fault::Duplicate) => 2,
            _ => 1,
        };
        self.deliver(message, times)
    }
}

impl Entries {
    fn forget(&mut self, now: LogTime, max_age: Duration) {
        while self.stored.front().is_some_and(|entry| now.saturating_since(entry.time) > max_age) {
            let gone = self.stored.pop_front().expect("there is a front");
            self.bytes -= ENTRY_OVERHEAD_BYTES + gone.payload.len();
        }
        while self.id_order.front().is_some_and(|(time, _)| now.saturating_since(*time) > DUPLICATE_WINDOW) {
            let (_, id) = self.id_order.pop_front().expect("there is a front");
            self.ids.remove(&id);
        }
    }

    /// The first entry at or after `from` that `filter` takes; else where to go on looking.
    fn next(&self, from: u64, filter: &Filter) -> Result<LogEntry, u64> {
        let first = self.next_sequence - self.stored.len() as u64;
        let skip = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
        let found = self.stored.iter().skip(skip).find(|entry| filter.matches(&entry.subject));
        found.cloned().ok_or(from.max(self.next_sequence))
    }
}

fn unavailable(reason: &str) -> LogError {
    LogError::Unavailable { server: "memory".to_owned(), reason: reason.to_owned() }
}

struct Reader {
    log: Arc<Inner>,
    shard: Arc<LogShard>,
    changed: watch::Receiver<u64>,
    filter: Filter,
    next: u64,
    generation: u64,
    /// An entry that is to be delivered once more.
    again: Option<LogEntry>,
}

impl Reader {
    async fn next(&mut self) -> Result<LogEntry, LogError> {
        if let Some(entry) = self.again.take() {
            return Ok(entry);
        }
        let entry = loop {
            self.changed.borrow_and_update();
            {
                let entries = lock(&self.shard.entries);
                if entries.generation != self.generation {
                    return Err(unavailable("the log lost entries it had acknowledged"));
                }
                match entries.next(self.next, &self.filter) {
                    Ok(entry) => break entry,
                    Err(next) => self.next = next,
                }
            }
            if self.changed.changed().await.is_err() {
                return Err(unavailable("the log is gone"));
            }
        };
        self.next = entry.sequence + 1;
        match self.log.faults.strike(Operation::Deliver, &entry.subject) {
            None => Ok(entry),
            Some(Fault::Duplicate) => {
                self.again = Some(entry.clone());
                Ok(entry)
            }
            fault => under(fault, unavailable, None, async { Ok(entry) }).await,
        }
    }
}

#[async_trait]
impl RoomLog for MemoryLog {
    async fn append(&self, entry: NewEntry) -> Result<Appended, LogError> {
        let address =
            Address::parse(entry.subject.as_str()).map_err(|e| LogError::Refused { reason: e.to_string() })?;
        let fault = self.0.faults.strike(Operation::Append, entry.subject.as_str());
        if let Some(Fault::LoseAcknowledged { entries }) = fault {
            self.0.lose(&address, entries);
        }
        under(fault, unavailable, None, async { self.0.append(&address, entry) }).await
    }

    async fn read(
        &self,
        shard: Shard,
        filter: &Filter,
        from_sequence: u64,
    ) -> Result<BoxStream<'static, Result<LogEntry, LogError>>, LogError> {
        let fault = self.0.faults.strike(Operation::Read, filter.as_str());
        let shard = self.0.shard(shard);
        let (generation, end) = {
            let entries = lock(&shard.entries);
            (entries.generation, entries.next_sequence)
        };
        let reader = Reader {
            log: self.0.clone(),
            changed: shard.changed.subscribe(),
            generation,
            shard,
            filter: filter.clone(),
            // As a broker does: who asks for what is not there yet gets what comes next.
            next: from_sequence.min(end),
            again: None,
        };
        let entries = stream::unfold(Some(reader), |reader| async {
            let mut reader = reader?;
            let item = reader.next().await;
            let go_on = item.is_ok().then_some(reader);
            Some((item, go_on))
        });
        under(fault, unavailable, None, async { Ok(entries.boxed()) }).await
    }

    async fn last_sequence(&self, shard: Shard) -> Result<u64, LogError> {
        let fault = self.0.faults.strike(Operation::LastSequence, &shard.stream_name());
        let last = lock(&self.0.shard(shard).entries).next_sequence - 1;
        under(fault, unavailable, None, async { Ok(last) }).await
    }
}

#[async_trait]
impl Bus for MemoryLog {
    async fn publish(&self, subject: &Subject, payload: Bytes) -> Result<(), LogError> {
        let fault = self.0.faults.strike(Operation::Publish, subject.as_str());
        let message = BusMessage { subject: subject.as_str().to_owned(), payload, reply: None };
        let act = async {
            self.0.publish(fault, &message);
            Ok(())
        };
        under(fault, unavailable, None, act).await
    }

    async fn subscribe(&self, filter: &Filter) -> Result<BoxStream<'static, BusMessage>, LogError> {
        let fault = self.0.faults.strike(Operation::Subscribe, filter.as_str());
        let act = async {
            let (sender, receiver) = mpsc::channel(BUS_BACKLOG);
            lock(&self.0.bus).readers.push((filter.clone(), sender));
            let messages = stream::unfold(receiver, |mut receiver| async {
                let message = receiver.recv().await?;
                Some((message, receiver))
            });
            Ok(messages.boxed())
        };
        under(fault, unavailable, None, act).await
    }

    async fn request(&self, subject: &Subject, payload: Bytes, limit: Duration) -> Result<Bytes, LogError> {
        let fault = self.0.faults.strike(Operation::Request, subject.as_str());
        let inbox = format!("_INBOX.{}", self.0.next_inbox.fetch_add(1, Ordering::Relaxed));
        let act = async {
            let (sender, answer) = oneshot::channel();
            lock(&self.0.bus).waiting.insert(inbox.clone(), sender);
            let message = BusMessage { subject: subject.as_str().to_owned(), payload, reply: Some(inbox.clone()) };
            if self.0.publish(fault, &message) == 0 {
                return Err(unavailable("nobody listens"));
            }
            match tokio::time::timeout(limit, answer).await {
                Ok(Ok(answer)) => Ok(answer),
                _ => Err(unavailable("no reply in time")),
            }
        };
        let answer = under(fault, unavailable, None, act).await;
        lock(&self.0.bus).waiting.remove(&inbox);
        answer
    }

    async fn reply(&self, to: &BusMessage, payload: Bytes) -> Result<(), LogError> {
        let fault = self.0.faults.strike(Operation::Reply, &to.subject);
        let act = async {
            let inbox = crate::inbox(to)?;
            if let Some(waiting) = lock(&self.0.bus).waiting.remove(inbox) {
                // Whoever asked may have given up.
                let _ = waiting.send(payload);
            }
            Ok(())
        };
        under(fault, unavailable, None, act).await
    }
}
