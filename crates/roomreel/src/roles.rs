//! `roomreel ingest`, `coordinator`, `compositor`: one role as a service.
//!
//! Owns the order: settings, telemetry, outside, role, health, and the same backwards when asked to end. Does not own the roles.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use roomreel_compositor::node::{CompositorConfig, CompositorNode};
use roomreel_coordinator::{Coordinator, CoordinatorConfig};
use roomreel_ingest::{IngestConfig, IngestNode};
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::id::{CompositeId, NodeId};
use roomreel_shared::look::Look;
use roomreel_shared::policy::{Audience, Policy};
use roomreel_shared::ports::Ports;
use serde::de::DeserializeOwned;
use serde::de::value::StrDeserializer;
use tokio_util::sync::CancellationToken;

use crate::api::ApiSettings;
use crate::config::duration;
use crate::sandbox::SandboxSettings;
use crate::settings::{OutsideArgs, ServiceArgs};
use crate::telemetry::Telemetry;
use crate::{health, outside, shutdown, telemetry};

/// Arguments of `roomreel ingest`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  roomreel ingest --nats-url nats://nats:4222 --etcd-endpoints http://etcd:2379 \\
    --store s3://recordings")]
pub struct IngestArgs {
    #[command(flatten)]
    service: ServiceArgs,
    #[command(flatten)]
    outside: OutsideArgs,
    #[command(flatten)]
    ingest: IngestSettings,
}

/// Arguments of `roomreel coordinator`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  roomreel coordinator --nats-url nats://nats:4222 --etcd-endpoints http://etcd:2379 \\
    --store s3://recordings --jwt-secret-file /run/secrets/jwt")]
pub struct CoordinatorArgs {
    #[command(flatten)]
    service: ServiceArgs,
    #[command(flatten)]
    outside: OutsideArgs,
    /// How long a dead leader goes unnoticed.
    #[arg(long, value_name = "DURATION", default_value = "4s", value_parser = duration, help_heading = "Coordinator")]
    coordinator_lease: Duration,
    #[command(flatten)]
    api: ApiSettings,
    #[command(flatten)]
    recordings: RecordingSettings,
}

/// Arguments of `roomreel compositor`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  roomreel compositor --nats-url nats://nats:4222 --etcd-endpoints http://etcd:2379 \\
    --store s3://recordings")]
pub struct CompositorArgs {
    #[command(flatten)]
    service: ServiceArgs,
    #[command(flatten)]
    outside: OutsideArgs,
    #[command(flatten)]
    compositor: CompositorSettings,
}

/// Folds rooms until asked to end.
///
/// # Errors
/// If the role cannot be started.
pub async fn ingest(args: &IngestArgs) -> anyhow::Result<()> {
    let config = args.ingest.config(args.service.node(), args.service.drain_limit);
    let process = Process::start("ingest", &args.service, &args.outside).await?;
    let handle = IngestNode::start(process.ports.clone(), config).await.context("start ingest")?;
    process.until_asked_to_end().await;
    process.end(handle.drain()).await;
    Ok(())
}

/// Plans and serves the API until asked to end.
///
/// # Errors
/// If a setting is out of its range or the role cannot be started.
pub async fn coordinator(args: &CoordinatorArgs) -> anyhow::Result<()> {
    let config = args.recordings.config(args.service.node(), args.outside.cluster.shards, args.coordinator_lease)?;
    let verifier = args.api.verifier()?;
    let process = Process::start("coordinator", &args.service, &args.outside).await?;
    let handle = Coordinator::start(process.ports.clone(), config).await.context("start the coordinator")?;
    let (address, api) = args.api.serve(verifier, &process.ports, process.leaving.clone()).await?;
    tracing::info!(%address, "the API is served");
    process.until_asked_to_end().await;
    process
        .end(async {
            handle.drain().await;
            // Answers under way are given; a panic in one has been told.
            let _ = api.await;
        })
        .await;
    Ok(())
}

/// Renders until asked to end.
///
/// # Errors
/// If the role cannot be started.
pub async fn compositor(args: &CompositorArgs) -> anyhow::Result<()> {
    let config = args.compositor.config(args.service.node())?;
    let process = Process::start("compositor", &args.service, &args.outside).await?;
    let handle = CompositorNode::start(process.ports.clone(), config).await.context("start the compositor")?;
    process.until_asked_to_end().await;
    process.end(handle.drain()).await;
    Ok(())
}

/// What a drain may take beyond its limit; a pod is killed 5 s after it.
const AFTER_DRAIN: Duration = Duration::from_secs(3);

/// What every role has around it.
struct Process {
    telemetry: Telemetry,
    leaving: CancellationToken,
    ports: Ports,
    drain_limit: Duration,
}

impl Process {
    async fn start(role: &'static str, service: &ServiceArgs, outside: &OutsideArgs) -> anyhow::Result<Self> {
        let telemetry = telemetry::start(&service.telemetry, role, "info")?;
        let leaving = shutdown::token()?;
        let ports = tokio::select! {
            ports = outside::connect(outside) => ports?,
            () = leaving.cancelled() => bail!("ended by a signal while connecting"),
        };
        health::serve(role, service.health_listen, ports.clone(), leaving.clone()).await?;
        tracing::info!(role, version = env!("CARGO_PKG_VERSION"), "started");
        Ok(Self { telemetry, leaving, ports, drain_limit: service.drain_limit })
    }

    async fn until_asked_to_end(&self) {
        self.leaving.cancelled().await;
        tracing::info!(limit = ?self.drain_limit, "draining");
    }

    async fn end(self, drain: impl Future<Output = ()>) {
        // A role that keeps the limit itself gives its lease back afterwards.
        if tokio::time::timeout(self.drain_limit + AFTER_DRAIN, drain).await.is_err() {
            tracing::warn!(limit = ?self.drain_limit, "not everything was handed over in time; others take over when the lease ends");
        }
        tracing::info!("ended");
        self.telemetry.shut_down().await;
    }
}

/// Settings of the ingest role.
#[derive(Debug, Args)]
#[command(next_help_heading = "Ingest")]
pub struct IngestSettings {
    /// How long a dead ingest node goes unnoticed.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    ingest_lease: Duration,
    /// Bytes of media a second that this node can carry; rooms are spread by it.
    #[arg(long, value_name = "BYTES", default_value_t = 60_000_000)]
    ingest_capacity: u64,
    /// Most bytes of one room's log in memory.
    #[arg(long, value_name = "BYTES", default_value_t = 256 * 1024 * 1024)]
    ingest_room_bytes: usize,
    /// Most bytes of all rooms' logs in memory; the process takes up to three times that. [default: 1 GiB, and at most
    /// a third of the memory limit]
    #[arg(long, value_name = "BYTES")]
    ingest_node_bytes: Option<usize>,
}

impl IngestSettings {
    /// The node's configuration.
    #[must_use]
    pub fn config(&self, node: NodeId, drain_limit: Duration) -> IngestConfig {
        let default = IngestConfig::new(node);
        // A window that is being committed stands in memory beside the log it is made of, and what waits for a gap besides.
        let third = memory_limit().map_or(usize::MAX, |limit| usize::try_from(limit / 3).unwrap_or(usize::MAX));
        IngestConfig {
            lease_ttl: self.ingest_lease,
            capacity: self.ingest_capacity,
            room_bytes: self.ingest_room_bytes,
            node_bytes: self.ingest_node_bytes.unwrap_or(default.node_bytes.min(third)),
            drain_limit,
            ..default
        }
    }
}

/// The memory that this process's control group may take, bytes: a container's limit.
fn memory_limit() -> Option<u64> {
    // Version 2, then version 1 (which says "no limit" by a number beyond all memory).
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .into_iter()
        .find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok())
}

/// Settings of the compositor role.
#[derive(Debug, Args)]
#[command(next_help_heading = "Compositor")]
pub struct CompositorSettings {
    /// How long a dead compositor goes unnoticed.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    compositor_lease: Duration,
    /// Most renders at once; further ones wait. [default: 4 a core]
    #[arg(long, value_name = "COUNT")]
    compositor_max_jobs: Option<usize>,
    /// What this node can carry, in thousandths of a core; renders are spread by it. [default: all cores]
    #[arg(long, value_name = "MILLICORES")]
    compositor_capacity: Option<u64>,
    #[command(flatten)]
    sandbox: SandboxSettings,
}

impl CompositorSettings {
    fn config(&self, node: NodeId) -> anyhow::Result<CompositorConfig> {
        let default = CompositorConfig::new(node);
        Ok(CompositorConfig {
            isolation: self.sandbox.isolation()?,
            lease_ttl: self.compositor_lease,
            max_jobs: self.compositor_max_jobs.unwrap_or(default.max_jobs),
            capacity: self.compositor_capacity.unwrap_or(default.capacity),
            ..default
        })
    }
}

/// What recordings are like where neither room nor request says otherwise.
#[derive(Debug, Args)]
#[command(next_help_heading = "Recordings")]
pub struct RecordingSettings {
    /// Window duration, at most 60s: how much a recording is behind the room, and how often it is stored.
    #[arg(long, value_name = "DURATION", default_value = "4s", value_parser = duration)]
    pub window: Duration,
    /// A recording ends when its room was silent for this long.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    idle_limit: Duration,
    /// A recording ends when it is this old.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    max_duration: Duration,
    /// A recording that has ended and makes no progress for this long is given up.
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = duration)]
    ending_limit: Duration,
    /// Record every room that names no policy and in which somebody produces, from its creation on.
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    auto_record: bool,
    /// Who may start, stop and pause recordings of rooms that name no policy.
    #[arg(long, value_name = "WHO", default_value = "host")]
    who_can_record: Who,
    /// Who may download recordings of rooms that name no policy.
    #[arg(long, value_name = "WHO", default_value = "host")]
    who_can_download: Who,
    /// Days for which a recording of a room that names no policy is to be kept: written in its documents for what deletes
    /// recordings, roomreel deletes none. [default: for ever]
    #[arg(long, value_name = "DAYS")]
    retention_days: Option<u32>,
    #[command(flatten)]
    composite: CompositeSettings,
}

/// The composite that is made where a request names none.
#[derive(Debug, Args)]
#[command(next_help_heading = "Composite")]
pub struct CompositeSettings {
    /// Layout of the composite.
    #[arg(long, value_name = "NAME", default_value = "grid")]
    pub layout: String,
    /// Width in pixels, even.
    #[arg(long, value_name = "PIXELS", default_value_t = 1280)]
    width: u32,
    /// Height in pixels, even.
    #[arg(long, value_name = "PIXELS", default_value_t = 720)]
    height: u32,
    /// Frames a second.
    #[arg(long, value_name = "COUNT", default_value_t = 30)]
    fps: u32,
    /// Quality of the picture, 0 (best) to 51: x264's constant rate factor.
    #[arg(long, value_name = "NUMBER", default_value_t = 23)]
    crf: u8,
    /// Bits a second of the picture on average, instead of a quality. [default: as crf says]
    #[arg(long, value_name = "BITS")]
    bitrate: Option<u32>,
    /// Most milliseconds from key frame to key frame. [default: one slice]
    #[arg(long, value_name = "MS")]
    keyframe_ms: Option<u32>,
    /// Bits a second of the sound.
    #[arg(long, value_name = "BITS", default_value_t = 128_000)]
    audio_bitrate: u32,
    /// What is made: hls, mp4, webm, m4a, mp3, ogg, thumbnails, storyboard, captions; or a JSON list.
    #[arg(long, value_name = "KINDS", default_value = "hls,mp4")]
    outputs: String,
    /// Exports of every track: playable, rtpdump, mjr. [default: none]
    #[arg(long, value_name = "FORMATS", default_value = "", hide_default_value = true)]
    tracks: String,
    /// JSON file of a composite's `look`: background, backdrop, watermark, clock, names.
    #[arg(long, value_name = "FILE")]
    look: Option<PathBuf>,
}

/// Who may do something; each includes those before it.
#[derive(Debug, Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Who {
    Host,
    CoHost,
    Panelist,
    All,
}

impl From<Who> for Audience {
    fn from(who: Who) -> Self {
        match who {
            Who::Host => Self::Host,
            Who::CoHost => Self::CoHost,
            Who::Panelist => Self::Panelist,
            Who::All => Self::All,
        }
    }
}

fn read_look(file: &Path) -> anyhow::Result<Look> {
    let said = || format!("the look in {}", file.display());
    let text = std::fs::read(file).with_context(said)?;
    let look: Look = serde_json::from_slice(&text).with_context(said)?;
    // Its pictures are read when the first composite is drawn; here a file that is none is found out at start.
    roomreel_compositor::paint::Painter::dressed(2, 2, &look).with_context(said)?;
    Ok(look)
}

impl CompositeSettings {
    /// The composite, named after its layout.
    ///
    /// # Errors
    /// If a value is out of its range.
    pub fn spec(&self) -> anyhow::Result<CompositeSpec> {
        let look = self.look.as_deref().map(read_look).transpose()?.unwrap_or_default();
        let spec = CompositeSpec {
            // A region document makes no good name.
            id: CompositeId::new(if self.layout.starts_with('{') { "custom" } else { &self.layout })?,
            layout: self.layout.clone(),
            width: self.width,
            height: self.height,
            fps: self.fps,
            crf: self.crf,
            bitrate: self.bitrate,
            keyframe_ms: self.keyframe_ms,
            audio_bitrate: self.audio_bitrate,
            outputs: listed(&self.outputs).context("outputs")?,
            tracks: listed(&self.tracks).context("tracks")?,
            look,
        };
        spec.check()?;
        roomreel_compositor::layout::parse(&spec.layout)
            .and_then(|layout| layout.check(spec.width, spec.height))
            .context("layout")?;
        Ok(spec)
    }
}

/// Words with commas between them, or a JSON list.
fn listed<T: DeserializeOwned>(text: &str) -> serde_json::Result<Vec<T>> {
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text);
    }
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    words.map(|word| T::deserialize(StrDeserializer::<serde_json::Error>::new(word))).collect()
}

impl RecordingSettings {
    /// The coordinator's configuration.
    ///
    /// # Errors
    /// If a value is out of its range.
    pub fn config(&self, node: NodeId, shards: u32, lease_ttl: Duration) -> anyhow::Result<CoordinatorConfig> {
        let config = CoordinatorConfig {
            lease_ttl,
            window: self.window,
            idle_limit: self.idle_limit,
            max_duration: self.max_duration,
            ending_limit: self.ending_limit,
            default_policy: Policy {
                auto_record: self.auto_record,
                who_can_record: self.who_can_record.into(),
                who_can_download: self.who_can_download.into(),
                retention_days: self.retention_days,
                ..Policy::default()
            },
            composites: vec![self.composite.spec()?],
            ..CoordinatorConfig::new(node, shards)
        };
        config.check()?;
        Ok(config)
    }
}
