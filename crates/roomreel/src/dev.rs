//! `roomreel dev`: every role in one process, with the log and the coordination in memory and recordings in a directory.
//!
//! Owns the embedded cluster, which `roomreel demo` runs on as well. What is in memory ends with the process.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use roomreel_backends::memory::{MemoryCoordination, MemoryLog};
use roomreel_compositor::node::{CompositorConfig, CompositorHandle, CompositorNode};
use roomreel_coordinator::{Coordinator, CoordinatorHandle};
use roomreel_ingest::{IngestConfig, IngestHandle, IngestNode};
use roomreel_shared::id::{NodeId, SfuId};
use roomreel_shared::ports::Ports;

use crate::api::ApiSettings;
use crate::publish::{RoomArgs, publisher, tell_problems};
use crate::roles::RecordingSettings;
use crate::sandbox::SandboxSettings;
use crate::settings::{ClusterArgs, LogArgs, ServiceArgs, TenantArgs};
use crate::{health, output, outside, shutdown, telemetry};

/// The shortest that a coordinator takes, so that the embedded leader is there at once.
const LEASE: Duration = Duration::from_secs(2);

/// Arguments of `roomreel dev`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  roomreel dev --data data --play                     record a made-up room, then go on serving the API
  roomreel dev --data data --dev-log nats             one process for SFUs that publish to a local NATS

What is in memory, recordings that have not ended among it, ends with the process.")]
pub struct DevArgs {
    /// Directory that stands for the bucket.
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// Where the room log is: in memory, for rooms that --play plays, or in NATS, for SFUs.
    #[arg(long, value_name = "WHERE", default_value = "memory")]
    dev_log: DevLog,
    /// Play a room into the log at once.
    #[arg(long)]
    play: bool,
    #[command(flatten)]
    service: ServiceArgs,
    #[command(flatten)]
    room: RoomArgs,
    #[command(flatten)]
    tenant: TenantArgs,
    #[command(flatten)]
    api: ApiSettings,
    #[command(flatten)]
    recordings: RecordingSettings,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    sandbox: SandboxSettings,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DevLog {
    Memory,
    Nats,
}

/// Runs the command until it is asked to end.
///
/// # Errors
/// If a role cannot be started.
pub async fn run(args: &DevArgs) -> anyhow::Result<()> {
    let telemetry = telemetry::start(&args.service.telemetry, "dev", "info")?;
    let leaving = shutdown::token()?;
    let mut ports = ports(&args.data).await?;
    if args.dev_log == DevLog::Nats {
        (ports.log, ports.bus) = outside::log(&args.log, &args.cluster).await?;
    }
    let embedded = Embedded::start(ports, &args.recordings, &args.sandbox, args.cluster.shards).await?;
    let ports = &embedded.ports;
    health::serve("dev", args.service.health_listen, ports.clone(), leaving.clone()).await?;
    let (verifier, token) = if args.api.has_keys() {
        (args.api.verifier()?, None)
    } else {
        let (verifier, token) = args.api.for_development(&args.tenant.tenant)?;
        (verifier, Some(write_token(&args.data, &token)?))
    };
    let (address, api) = args.api.serve(verifier, ports, leaving.clone()).await?;
    let token = token.map(|file| format!(" --api-token-file {}", file.display())).unwrap_or_default();
    output::print(format!(
        "recordings are in {}; the API is at http://{address}/v1:\n  roomreel status --api-url http://{address}{token}\n",
        args.data.display()
    ))?;
    if args.play {
        let source = args.room.open()?;
        let (tenant, sfu) = (args.tenant.tenant.clone(), SfuId::new("dev")?);
        let publisher = publisher(ports.log.clone(), ports.bus.clone(), tenant, sfu, args.cluster.shards);
        tokio::select! {
            played = source.play(&publisher, args.room.speed, |_| {}) => tell_problems(&played),
            () = leaving.cancelled() => {}
        }
        publisher.flush().await?;
        leaving.cancelled().await;
        drop(publisher);
    }
    leaving.cancelled().await;
    tracing::info!("draining");
    embedded.drain().await;
    // Answers under way are given; a panic in one has been told.
    let _ = api.await;
    telemetry.shut_down().await;
    Ok(())
}

/// Keeps the token where its owner alone can read it.
fn write_token(data: &Path, token: &str) -> anyhow::Result<PathBuf> {
    let path = data.join("api-token");
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path)?;
        file.write_all(token.as_bytes())
    };
    write().with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Log, bus and coordination in memory; `data` as the bucket.
///
/// # Errors
/// If the directory cannot be used.
pub async fn ports(data: &Path) -> anyhow::Result<Ports> {
    let store = outside::directory(data).await?;
    let log = MemoryLog::system();
    Ok(Ports {
        log: Arc::new(log.clone()),
        bus: Arc::new(log),
        store,
        coordination: Arc::new(MemoryCoordination::new()),
    })
}

/// All roles in this process.
pub struct Embedded {
    /// What they stand on.
    pub ports: Ports,
    /// The only replica.
    pub coordinator: CoordinatorHandle,
    ingest: IngestHandle,
    compositor: CompositorHandle,
}

impl Embedded {
    /// Starts one of each.
    ///
    /// # Errors
    /// If a setting is out of its range or a role cannot be started.
    pub async fn start(
        ports: Ports,
        recordings: &RecordingSettings,
        sandbox: &SandboxSettings,
        shards: u32,
    ) -> anyhow::Result<Self> {
        let name = |role: &str| NodeId::new(format!("{role}-0"));
        let config = recordings.config(name("coordinator")?, shards, LEASE)?;
        let coordinator = Coordinator::start(ports.clone(), config).await.context("start the coordinator")?;
        let rendering =
            CompositorConfig { isolation: sandbox.isolation()?, ..CompositorConfig::new(name("compositor")?) };
        let ingest = IngestNode::start(ports.clone(), IngestConfig::new(name("ingest")?)).await;
        let compositor = CompositorNode::start(ports.clone(), rendering).await;
        Ok(Self {
            ports,
            coordinator,
            ingest: ingest.context("start ingest")?,
            compositor: compositor.context("start the compositor")?,
        })
    }

    /// Ends them, each within its own limit: what is recorded first, who plans last.
    pub async fn drain(self) {
        self.ingest.drain().await;
        self.compositor.drain().await;
        self.coordinator.drain().await;
    }
}
