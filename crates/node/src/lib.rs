//! A working node's place in the cluster: its record in the coordination store, bound to a lease.
//!
//! Owns the lease: granting, renewing, taking another one when it is lost, giving it up; and when the record is written. Does not own
//! what the record says, nor the leader's lease, on which more depends (the coordinator). Losing the lease stops nothing: a node goes
//! on with what it has until somebody else's work meets its own.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use roomreel_shared::cluster::{self, Node};
use roomreel_shared::ports::{Change, Coordination, CoordinationError, LeaseId};
use tokio::sync::Notify;

/// Failures in a row after which they are told of.
const TOLD: u32 = 3;

/// The place of one node.
pub struct Membership {
    coordination: Arc<dyn Coordination>,
    lease_ttl: Duration,
    lease: Mutex<Option<LeaseId>>,
    changed: Notify,
}

impl Membership {
    /// A place that is taken by [`Membership::keep`]; without renewal for `lease_ttl` the cluster takes the node for dead.
    #[must_use]
    pub fn new(coordination: Arc<dyn Coordination>, lease_ttl: Duration) -> Self {
        Self { coordination, lease_ttl, lease: Mutex::default(), changed: Notify::new() }
    }

    /// How often the lease is renewed, and the record written if it says something else.
    #[must_use]
    pub fn pace(&self) -> Duration {
        self.lease_ttl / 5
    }

    /// Keeps the node's record alive for as long as it is polled, under a new lease where the old one is lost. `describe` says what the
    /// record is to say now, `pause` how long to wait after so many failures in a row.
    pub async fn keep(&self, mut describe: impl FnMut() -> Node, pause: impl Fn(u32) -> Duration) -> Infallible {
        let mut failures = 0;
        loop {
            let Err(error) = self.hold(&mut describe).await;
            *self.lease.lock().expect("nothing panics while it is locked") = None;
            failures = if matches!(error, CoordinationError::LeaseLost { .. }) { 1 } else { failures + 1 };
            if failures == TOLD {
                tracing::warn!(%error, "the node cannot register itself; it goes on with what it has and tries again");
            }
            tokio::time::sleep(pause(failures)).await;
        }
    }

    async fn hold(&self, describe: &mut impl FnMut() -> Node) -> Result<Infallible, CoordinationError> {
        let lease = self.coordination.grant_lease(self.lease_ttl).await?;
        *self.lease.lock().expect("nothing panics while it is locked") = Some(lease);
        let mut written = None;
        loop {
            let node = describe();
            if written.as_ref() != Some(&node) {
                let value = serde_json::to_vec(&node).expect("a node has no map with keys that are not text");
                let put = Change::Put(cluster::node_key(node.role, &node.id), value.into(), Some(lease));
                self.coordination.transact(Vec::new(), vec![put]).await?;
                written = Some(node);
            }
            let _ = tokio::time::timeout(self.pace(), self.changed.notified()).await;
            self.coordination.keep_alive(lease).await?;
        }
    }

    /// The record is to say something else: it is written now.
    pub fn changed(&self) {
        self.changed.notify_waiters();
    }

    /// Gives the place up; [`Membership::keep`] is not polled any more.
    pub async fn leave(&self) {
        let lease = self.lease.lock().expect("nothing panics while it is locked").take();
        if let Some(lease) = lease
            && let Err(error) = self.coordination.revoke(lease).await
        {
            tracing::debug!(%error, "the lease expires by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use roomreel_backends::memory::MemoryCoordination;
    use roomreel_shared::cluster::Role;
    use roomreel_shared::id::NodeId;
    use tokio::time::{Instant, sleep};

    use super::*;

    const TTL: Duration = Duration::from_secs(5);

    fn node(load: u64) -> Node {
        let id = NodeId::new("a").expect("valid");
        Node { id, role: Role::Ingest, capacity: 9, load, draining: false, version: String::new() }
    }

    async fn listed(store: &MemoryCoordination) -> Option<u64> {
        let record = store.get(&cluster::node_key(Role::Ingest, &node(0).id)).await.expect("up")?;
        Some(serde_json::from_slice::<Node>(&record.value).expect("a node").load)
    }

    async fn until(store: &MemoryCoordination, load: Option<u64>) -> Duration {
        let begun = Instant::now();
        while listed(store).await != load {
            assert!(begun.elapsed() < Duration::from_secs(60), "{load:?}");
            sleep(Duration::from_millis(10)).await;
        }
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_kept_found_again_and_given_up() {
        let store = MemoryCoordination::new();
        let place = Arc::new(Membership::new(Arc::new(store.clone()), TTL));
        let load = Arc::new(AtomicU64::new(1));
        let (kept, says) = (place.clone(), load.clone());
        let keeping = tokio::spawn(async move {
            kept.keep(|| node(says.load(Ordering::SeqCst)), |_| Duration::from_millis(500)).await
        });
        until(&store, Some(1)).await;
        sleep(4 * TTL).await;
        assert_eq!(listed(&store).await, Some(1), "it is renewed");
        load.store(2, Ordering::SeqCst);
        assert!(until(&store, Some(2)).await <= place.pace());
        load.store(3, Ordering::SeqCst);
        place.changed();
        assert!(until(&store, Some(3)).await <= Duration::from_millis(10), "at once, when told");
        store.expire_leases();
        assert_eq!(listed(&store).await, None);
        assert!(until(&store, Some(3)).await <= place.pace() + Duration::from_millis(520));
        keeping.abort();
        place.leave().await;
        assert_eq!(listed(&store).await, None, "at once");
    }
}
