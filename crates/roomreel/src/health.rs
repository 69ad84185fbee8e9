//! `/healthz` and `/readyz` of a role, for the probes of an orchestrator.
//!
//! Alive: the process answers. Ready: log, store and coordination answered lately and the role is not leaving.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use roomreel_shared::cluster::leader_key;
use roomreel_shared::ports::Ports;
use roomreel_shared::subject::Shard;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

/// A dependency that takes longer counts as not there.
const CHECK_LIMIT: Duration = Duration::from_secs(2);
/// However often one asks, dependencies are asked no more often than this.
const CHECK_EVERY: Duration = Duration::from_secs(3);

/// What a probe is told.
#[derive(Debug, Clone, Serialize)]
struct Readiness {
    role: &'static str,
    ready: bool,
    /// `ok`, or what is wrong, by dependency.
    checks: BTreeMap<&'static str, String>,
}

struct Health {
    role: &'static str,
    ports: Ports,
    leaving: CancellationToken,
    newest: Mutex<Option<(Instant, Readiness)>>,
}

/// Serves the probes until the process ends.
///
/// # Errors
/// If the address cannot be bound.
pub async fn serve(
    role: &'static str,
    address: SocketAddr,
    ports: Ports,
    leaving: CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("health_listen: cannot listen on {address}; choose a free address"))?;
    let health = Arc::new(Health { role, ports, leaving, newest: Mutex::default() });
    let router = Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(readyz)).with_state(health);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the health server ended");
        }
    });
    Ok(())
}

async fn readyz(State(health): State<Arc<Health>>) -> (StatusCode, Json<Readiness>) {
    let readiness = health.readiness().await;
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness))
}

impl Health {
    async fn readiness(&self) -> Readiness {
        let mut newest = self.newest.lock().await;
        let mut readiness = match &*newest {
            Some((at, readiness)) if at.elapsed() < CHECK_EVERY => readiness.clone(),
            _ => {
                let checks = check(&self.ports).await;
                let ready = checks.values().all(|result| result == "ok");
                let readiness = Readiness { role: self.role, ready, checks };
                *newest = Some((Instant::now(), readiness.clone()));
                readiness
            }
        };
        drop(newest);
        if self.leaving.is_cancelled() {
            readiness.ready = false;
            readiness.checks.insert("role", "leaving".to_owned());
        }
        readiness
    }
}

/// Asks each dependency something cheap.
async fn check(ports: &Ports) -> BTreeMap<&'static str, String> {
    fn told<T, E: std::fmt::Display>(result: Result<Result<T, E>, tokio::time::error::Elapsed>) -> String {
        match result {
            Ok(Ok(_)) => "ok".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", CHECK_LIMIT.as_secs()),
        }
    }
    let shard = Shard::all(1).next().expect("a cluster has at least one shard");
    let leader = leader_key();
    let (log, store, coordination) = tokio::join!(
        tokio::time::timeout(CHECK_LIMIT, ports.log.last_sequence(shard)),
        tokio::time::timeout(CHECK_LIMIT, ports.store.list_directory("probe/")),
        tokio::time::timeout(CHECK_LIMIT, ports.coordination.get(&leader)),
    );
    BTreeMap::from([("log", told(log)), ("store", told(store)), ("coordination", told(coordination))])
}
