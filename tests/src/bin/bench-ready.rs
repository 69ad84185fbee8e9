//! Measures how long after a room closes its composite can be read, for rooms of growing length.
//!
//! Real NATS, etcd and S3; all roles in this process. `bench-ready [MINUTES …]`, 1, 5 and 20 by default.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use roomreel_compositor::node::{CompositorConfig, CompositorNode};
use roomreel_coordinator::{Coordinator, CoordinatorConfig};
use roomreel_ingest::{IngestConfig, IngestNode};
use roomreel_sfu::source::{self, Source as _};
use roomreel_sfu::synthetic::{SyntheticRoom, SyntheticSpec};
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::id::NodeId;
use roomreel_shared::ports::{ObjectStore, Ports};
use roomreel_shared::recording::State;
use roomreel_tests::cluster::TestCluster;
use roomreel_tests::{audit, room};

const SHARDS: u32 = 4;
/// A small machine renders this canvas at this speed without falling behind, while it makes the room as well.
const SPEED: f64 = 4.0;
const FRAME_RATE: u32 = 10;

fn composite() -> CompositeSpec {
    CompositeSpec { width: 320, height: 180, fps: FRAME_RATE, ..CompositeSpec::default() }
}

#[tokio::main]
async fn main() -> Result<()> {
    let minutes = std::env::args()
        .skip(1)
        .map(|argument| argument.parse::<u64>().with_context(|| format!("{argument:?} is not a number of minutes")))
        .collect::<Result<Vec<_>>>()?;
    let minutes = if minutes.is_empty() { vec![1, 5, 20] } else { minutes };
    let cluster = TestCluster::start().await?;
    let ports = cluster.ports().await?;
    let node = |name: &str| NodeId::new(name).expect("a literal that can be spelled");
    let config =
        CoordinatorConfig { composites: vec![composite()], ..CoordinatorConfig::new(node("coordinator"), SHARDS) };
    println!(
        "two participants, canvas {}x{} at {FRAME_RATE} frames/s, windows of {:?}, played {SPEED} times as fast",
        composite().width,
        composite().height,
        config.window
    );
    let coordinator = Coordinator::start(cluster.ports().await?, config).await?;
    let ingest = IngestNode::start(cluster.ports().await?, IngestConfig::new(node("ingest"))).await?;
    let compositor = CompositorNode::start(cluster.ports().await?, CompositorConfig::new(node("compositor"))).await?;
    for length in minutes {
        measure(&ports, length).await?;
    }
    compositor.drain().await;
    ingest.drain().await;
    coordinator.drain().await;
    Ok(())
}

async fn measure(ports: &Ports, minutes: u64) -> Result<()> {
    let spec = SyntheticSpec {
        duration: Duration::from_secs(60 * minutes),
        participants: 2,
        width: 160,
        height: 90,
        frame_rate: FRAME_RATE,
        video_bits_per_second: 60_000,
        ..SyntheticSpec::new(room::room(&format!("ready-{minutes}")), room::now())
    };
    let source = SyntheticRoom::new(spec.clone())?;
    let publisher = room::publisher(ports, SHARDS);
    let handle = publisher.room(source.room().clone());
    let mut lag = Duration::ZERO;
    let played = source::play(source, &handle, SPEED, |progress| lag = lag.max(progress.lag)).await;
    ensure!(played.problem_count == 0, "playing had problems: {:?}", played.problems);
    publisher.flush().await?;
    // Everything up to RoomClosed is acknowledged by the log: the room is closed from here on.
    let closed = Instant::now();
    let (recording, size) = loop {
        ensure!(closed.elapsed() < Duration::from_secs(120), "no composite two minutes after the room closed");
        if let Some(found) = readable_composite(&*ports.store, &spec).await? {
            break found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let ready = closed.elapsed();
    let recording =
        room::final_recording(&*ports.store, &spec.room, Duration::from_secs(60)).await.with_context(|| recording)?;
    ensure!(recording.state == State::Complete && !recording.incomplete, "{:?}: {}", recording.state, recording.reason);
    let slices = audit::require_contiguous_slices(&*ports.store, &room::keys(&recording), &composite().id).await?;
    println!(
        "room of {minutes} min: composite readable {:.2} s after RoomClosed ({slices} slices, {:.1} MB, player at most {:.2} s late)",
        ready.as_secs_f64(),
        size as f64 / 1e6,
        lag.as_secs_f64()
    );
    Ok(())
}

/// The recording's directory and the composite's size, once its first and last bytes can be read.
async fn readable_composite(store: &dyn ObjectStore, spec: &SyntheticSpec) -> Result<Option<(String, u64)>> {
    let prefix = format!("{}/rooms/{}/recordings/", room::tenant().token(), spec.room.token());
    let Some(directory) = store.list_directory(&prefix).await?.pop() else { return Ok(None) };
    let id = directory.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let id = roomreel_shared::id::RecordingId::from_token(id)?;
    let keys = roomreel_shared::key::RecordingKeys::new(&room::tenant(), &spec.room, &id);
    let key = keys.composite_mp4(&composite().id);
    let Ok(size) = store.size(&key).await else { return Ok(None) };
    let head = store.get_range(&key, 0..12).await?;
    ensure!(head.get(4..8) == Some(b"ftyp"), "composite.mp4 does not begin with a file type box");
    store.get_range(&key, size - 1..size).await?;
    Ok(Some((directory, size)))
}
