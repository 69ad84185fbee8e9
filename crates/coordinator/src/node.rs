//! One coordinator replica: its lease, its registration, its campaigns.
//!
//! Owns the lease and how long it can be relied upon. Does not own what a leader does (see [`crate::leader`]).

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use roomreel_shared::cluster::{self, Node, Role};
use roomreel_shared::ports::{Change, CoordinationError, LeaseId, Ports};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::config::{ConfigError, CoordinatorConfig};
use crate::election::{self, Tenure};
use crate::leader::{Leader, Reign};
use crate::metrics::Metrics;

/// Longest that leaving may take.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Starts replicas.
pub struct Coordinator;

impl Coordinator {
    /// Starts a replica: it registers, campaigns, and leads while it can.
    ///
    /// # Errors
    /// A setting is out of its range. A store that does not answer is no error: the replica tries until it does.
    pub async fn start(ports: Ports, config: CoordinatorConfig) -> Result<CoordinatorHandle, ConfigError> {
        config.check()?;
        let stop = CancellationToken::new();
        let (leading, is_leading) = watch::channel(false);
        let replica =
            Replica { ports, config, stop: stop.clone(), leading, metrics: Metrics::new(), origin: Instant::now() };
        Ok(CoordinatorHandle { stop, is_leading, task: tokio::spawn(replica.run()) })
    }
}

/// A running replica.
pub struct CoordinatorHandle {
    stop: CancellationToken,
    is_leading: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl CoordinatorHandle {
    /// Whether this replica leads now.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        *self.is_leading.borrow()
    }

    /// Leaves: finishes the writes under way and gives up the lease, so that another replica leads at once.
    pub async fn drain(self) {
        self.stop.cancel();
        let abort = self.task.abort_handle();
        if timeout(DRAIN_LIMIT, self.task).await.is_err() {
            abort.abort();
        }
    }

    /// Ends at this instruction, as a crash would: the lease is left to expire.
    pub fn kill(self) {
        self.task.abort();
    }
}

struct Replica {
    ports: Ports,
    config: CoordinatorConfig,
    stop: CancellationToken,
    leading: watch::Sender<bool>,
    metrics: Metrics,
    origin: Instant,
}

/// A lease that is being renewed.
struct Held {
    lease: LeaseId,
    tenure: watch::Receiver<Tenure>,
    lost: CancellationToken,
    renewer: JoinHandle<()>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.renewer.abort();
    }
}

impl Replica {
    async fn run(self) {
        let pause = self.config.lease_ttl / 4;
        let mut is_told = false;
        while !self.stop.is_cancelled() {
            match self.hold_lease().await {
                Ok(held) => {
                    is_told = false;
                    self.live(&held).await;
                    if self.stop.is_cancelled() {
                        // Should this fail, the lease expires by itself.
                        let _ = timeout(DRAIN_LIMIT / 2, self.ports.coordination.revoke(held.lease)).await;
                        return;
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut is_told, true) {
                        tracing::warn!(
                            %error,
                            "the coordinator has no lease and cannot lead; it tries again until the coordination store answers"
                        );
                    }
                    self.pause(pause).await;
                }
            }
        }
    }

    async fn pause(&self, duration: Duration) {
        tokio::select! {
            () = sleep(duration) => {}
            () = self.stop.cancelled() => {}
        }
    }

    async fn hold_lease(&self) -> Result<Held, CoordinationError> {
        let sent = self.origin.elapsed();
        let lease = self.ports.coordination.grant_lease(self.config.lease_ttl).await?;
        let node = Node {
            id: self.config.node.clone(),
            role: Role::Coordinator,
            capacity: 1,
            load: 0,
            draining: false,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let value = Bytes::from(serde_json::to_vec(&node).expect("plain data always serializes"));
        let register = Change::Put(cluster::node_key(Role::Coordinator, &node.id), value, Some(lease));
        self.ports.coordination.transact(Vec::new(), vec![register]).await?;
        let (to, tenure) = watch::channel(Tenure::granted(sent, self.config.lease_ttl));
        let lost = CancellationToken::new();
        let renewer = tokio::spawn(renew(self.ports.clone(), lease, self.origin, to, lost.clone()));
        Ok(Held { lease, tenure, lost, renewer })
    }

    /// Campaigns and leads until the lease is lost or the replica leaves.
    async fn live(&self, held: &Held) {
        while !self.stop.is_cancelled() && !held.lost.is_cancelled() {
            match election::campaign(&*self.ports.coordination, &self.config.node, held.lease).await {
                Ok(Some(fence)) => {
                    let tenure = held.tenure.clone();
                    let over = held.lost.child_token();
                    let reign = Reign { fence, tenure, origin: self.origin, over: over.clone() };
                    tracing::info!(fence, node = %self.config.node, "leading");
                    self.lead(reign, &over, &held.lost).await;
                    tracing::info!(fence, node = %self.config.node, "no longer leading");
                }
                Ok(None) => self.await_vacancy(held).await,
                Err(error) => {
                    tracing::info!(%error, "the campaign had no answer");
                    self.pause(self.config.lease_ttl / 4).await;
                }
            }
        }
    }

    async fn lead(&self, reign: Reign, over: &CancellationToken, lost: &CancellationToken) {
        self.leading.send_replace(true);
        self.metrics.leading.record(1, &[]);
        let leader = Leader::new(self.ports.clone(), self.config.clone(), reign, self.metrics.clone());
        let stop = self.stop.clone();
        let hand_over = over.clone();
        tokio::select! {
            () = leader.run() => {}
            // Whatever it waits for, it no longer leads.
            () = lost.cancelled() => {}
            // A leader that leaves is given time to finish its writes.
            () = async { stop.cancelled().await; hand_over.cancel(); sleep(DRAIN_LIMIT / 2).await } => {}
        }
        self.leading.send_replace(false);
        self.metrics.leading.record(0, &[]);
    }

    /// Waits until the leader's key has gone, or long enough to look again.
    async fn await_vacancy(&self, held: &Held) {
        tokio::select! {
            () = self.vacancy() => {}
            // The watch is a wake-up, not the truth.
            () = sleep(self.config.lease_ttl / 2) => {}
            () = held.lost.cancelled() => {}
            () = self.stop.cancelled() => {}
        }
    }

    /// Ends when the leader's key is seen to be absent; never, if that cannot be seen.
    async fn vacancy(&self) {
        let key = cluster::leader_key();
        if let Ok(mut changes) = self.ports.coordination.watch(&key).await {
            while changes.next().await.is_some() {
                if matches!(self.ports.coordination.get(&key).await, Ok(None)) {
                    return;
                }
            }
        }
        std::future::pending().await
    }
}

/// Renews the lease; cancels `lost` before it can have expired.
async fn renew(ports: Ports, lease: LeaseId, origin: Instant, to: watch::Sender<Tenure>, lost: CancellationToken) {
    let _on_end = lost.drop_guard();
    loop {
        let tenure = *to.borrow();
        let now = origin.elapsed();
        if !tenure.holds(now) {
            return;
        }
        sleep(tenure.renew_every().min(tenure.until() - now)).await;
        let sent = origin.elapsed();
        let left = tenure.until().saturating_sub(sent);
        match timeout(left, ports.coordination.keep_alive(lease)).await {
            Ok(Ok(granted)) if !granted.is_zero() => {
                to.send_modify(|tenure| tenure.renewed(sent, granted));
            }
            Ok(Ok(_) | Err(CoordinationError::LeaseLost { .. } | CoordinationError::Refused { .. })) => return,
            Ok(Err(CoordinationError::Unavailable { .. })) | Err(_) => {}
        }
    }
}
