//! Leases, records and transactions in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use roomreel_shared::ports::{Change, Compare, Coordination, CoordinationError, LeaseId, Outcome, Record, Snapshot};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::faults::{Faults, Hook, Operation, under};
use super::lock;

/// Leases, records and transactions in memory, with etcd's revisions. Leases run out by tokio's clock. Clones share what
/// they hold.
#[derive(Clone, Default)]
pub struct MemoryCoordination {
    shared: Arc<Shared>,
    faults: Hook,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Bumped when the earliest deadline of the leases may have come nearer.
    leases_changed: watch::Sender<u64>,
}

struct State {
    revision: u64,
    records: BTreeMap<String, Bound>,
    leases: BTreeMap<i64, Lease>,
    next_lease: i64,
    watchers: Vec<(String, mpsc::Sender<()>)>,
}

struct Bound {
    record: Record,
    lease: Option<i64>,
}

struct Lease {
    ttl: Duration,
    deadline: Instant,
}

impl Default for State {
    fn default() -> Self {
        // As in etcd, an empty store is at revision 1.
        Self { revision: 1, records: BTreeMap::new(), leases: BTreeMap::new(), next_lease: 1, watchers: Vec::new() }
    }
}

impl MemoryCoordination {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `faults` decide what goes wrong, for this handle and its later clones: another handle of the same store can
    /// have other faults.
    #[must_use]
    pub fn with_faults(mut self, faults: Arc<dyn Faults>) -> Self {
        self.faults = Hook(Some(faults));
        self
    }

    /// Ends every lease at once, as a pause of the real store does.
    pub fn expire_leases(&self) {
        let mut state = self.shared.now();
        let leases: Vec<_> = state.leases.keys().copied().collect();
        for lease in leases {
            state.end(lease);
        }
    }

    /// Ends every watch, as a broken connection does.
    pub fn break_watches(&self) {
        self.shared.now().watchers.clear();
    }

    async fn call<T>(
        &self,
        operation: Operation,
        target: &str,
        act: impl FnOnce(&mut State) -> Result<T, CoordinationError>,
    ) -> Result<T, CoordinationError> {
        let fault = self.faults.strike(operation, target);
        let unavailable =
            |reason: &str| CoordinationError::Unavailable { server: "memory".to_owned(), reason: reason.to_owned() };
        under(fault, unavailable, None, async { act(&mut self.shared.now()) }).await
    }
}

impl Shared {
    /// The state as of now: what has run out is gone.
    fn now(&self) -> std::sync::MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        let now = Instant::now();
        let over: Vec<_> =
            state.leases.iter().filter(|(_, lease)| lease.deadline <= now).map(|(&lease, _)| lease).collect();
        for lease in over {
            state.end(lease);
        }
        state
    }
}

impl State {
    fn lease(&mut self, lease: LeaseId) -> Result<&mut Lease, CoordinationError> {
        self.leases.get_mut(&lease.0).ok_or(CoordinationError::LeaseLost { lease: lease.0 })
    }

    /// Ends a lease; its records go in one revision each, as in etcd.
    fn end(&mut self, lease: i64) {
        self.leases.remove(&lease);
        let bound = |(_, bound): &(&String, &Bound)| bound.lease == Some(lease);
        let keys: Vec<_> = self.records.iter().filter(bound).map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.records.remove(&key);
            self.revision += 1;
            self.wake(&key);
        }
    }

    fn wake(&mut self, key: &str) {
        self.watchers.retain(|(_, watcher)| !watcher.is_closed());
        for (_, watcher) in self.watchers.iter().filter(|(prefix, _)| key.starts_with(prefix.as_str())) {
            // Full: a wake-up waits there already.
            let _ = watcher.try_send(());
        }
    }

    fn holds(&self, condition: &Compare) -> bool {
        let record = |key: &String| self.records.get(key).map(|bound| &bound.record);
        match condition {
            Compare::Absent(key) => record(key).is_none(),
            Compare::Created(key, revision) => record(key).is_some_and(|r| r.create_revision == *revision),
            Compare::Unchanged(key, revision) => record(key).is_some_and(|r| r.mod_revision == *revision),
        }
    }

    fn transact(&mut self, conditions: &[Compare], changes: Vec<Change>) -> Result<Outcome, CoordinationError> {
        if !conditions.iter().all(|condition| self.holds(condition)) {
            return Ok(Outcome::Conflict);
        }
        // Everything that can be refused is refused before anything is changed.
        let mut keys = Vec::new();
        for change in &changes {
            let (Change::Put(key, ..) | Change::Delete(key)) = change;
            if keys.contains(&key) {
                return Err(CoordinationError::Refused { reason: format!("two changes of {key} in one transaction") });
            }
            keys.push(key);
            if let Change::Put(_, _, Some(lease)) = change {
                self.lease(*lease)?;
            }
        }
        let revision = self.revision + 1;
        for change in changes {
            let key = match change {
                Change::Put(key, value, lease) => {
                    let create_revision = self.records.get(&key).map_or(revision, |bound| bound.record.create_revision);
                    let record = Record { key: key.clone(), value, create_revision, mod_revision: revision };
                    self.records.insert(key.clone(), Bound { record, lease: lease.map(|lease| lease.0) });
                    key
                }
                Change::Delete(key) => {
                    if self.records.remove(&key).is_none() {
                        continue;
                    }
                    key
                }
            };
            self.revision = revision;
            self.wake(&key);
        }
        Ok(Outcome::Committed(self.revision))
    }
}

/// A watch: its wake-ups, and the leases that have to be ended in time though nobody calls.
struct Watch {
    shared: Arc<Shared>,
    leases_changed: watch::Receiver<u64>,
    wake_ups: mpsc::Receiver<()>,
}

impl Watch {
    async fn next(&mut self) -> Option<()> {
        loop {
            self.leases_changed.borrow_and_update();
            let next_deadline = self.shared.now().leases.values().map(|lease| lease.deadline).min();
            let run_out = async {
                match next_deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                wake_up = self.wake_ups.recv() => return wake_up,
                _ = self.leases_changed.changed() => {}
                () = run_out => {}
            }
        }
    }
}

#[async_trait]
impl Coordination for MemoryCoordination {
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, CoordinationError> {
        let act = |state: &mut State| {
            let id = state.next_lease;
            state.next_lease += 1;
            state.leases.insert(id, Lease { ttl, deadline: Instant::now() + ttl });
            Ok(LeaseId(id))
        };
        let granted = self.call(Operation::GrantLease, "", act).await;
        self.shared.leases_changed.send_modify(|version| *version += 1);
        granted
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, CoordinationError> {
        let act = |state: &mut State| {
            let lease = state.lease(lease)?;
            lease.deadline = Instant::now() + lease.ttl;
            Ok(lease.ttl)
        };
        self.call(Operation::KeepAlive, &lease.0.to_string(), act).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), CoordinationError> {
        let act = |state: &mut State| {
            state.lease(lease)?;
            state.end(lease.0);
            Ok(())
        };
        self.call(Operation::Revoke, &lease.0.to_string(), act).await
    }

    async fn get(&self, key: &str) -> Result<Option<Record>, CoordinationError> {
        let act = |state: &mut State| Ok(state.records.get(key).map(|bound| bound.record.clone()));
        self.call(Operation::GetRecord, key, act).await
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot, CoordinationError> {
        let act = |state: &mut State| {
            let below = state.records.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
            let records = below.map(|(_, bound)| bound.record.clone()).collect();
            Ok(Snapshot { revision: state.revision, records })
        };
        self.call(Operation::ListRecords, prefix, act).await
    }

    async fn transact(&self, conditions: Vec<Compare>, changes: Vec<Change>) -> Result<Outcome, CoordinationError> {
        let target = changes.first().map_or(String::new(), |change| {
            let (Change::Put(key, ..) | Change::Delete(key)) = change;
            key.clone()
        });
        self.call(Operation::Transact, &target, |state| state.transact(&conditions, changes)).await
    }

    async fn watch(&self, prefix: &str) -> Result<BoxStream<'static, ()>, CoordinationError> {
        let act = |state: &mut State| {
            let (sender, wake_ups) = mpsc::channel(1);
            // The first wake-up is at once: what changed between a list and this watch is not missed.
            sender.try_send(()).expect("the channel is empty and its receiver is here");
            state.watchers.push((prefix.to_owned(), sender));
            Ok(wake_ups)
        };
        let wake_ups = self.call(Operation::Watch, prefix, act).await?;
        let leases_changed = self.shared.leases_changed.subscribe();
        let watch = Watch { shared: self.shared.clone(), leases_changed, wake_ups };
        Ok(stream::unfold(watch, |mut watch| async {
            watch.next().await?;
            Some(((), watch))
        })
        .boxed())
    }
}
