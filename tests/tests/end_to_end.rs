//! A room through real NATS, etcd and S3: published, folded, rendered, joined, audited and watched.
#![allow(missing_docs)]

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use roomreel_compositor::node::{CompositorConfig, CompositorNode};
use roomreel_coordinator::{Coordinator, CoordinatorConfig};
use roomreel_ingest::{IngestConfig, IngestNode};
use roomreel_sfu::synthetic::{Network, SyntheticRoom, SyntheticSpec};
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::id::NodeId;
use roomreel_shared::ports::Ports;
use roomreel_shared::recording::State;
use roomreel_shared::subject::Shard;
use roomreel_tests::cluster::TestCluster;
use roomreel_tests::{audit, room};
use tokio::process::Command;

const SHARDS: u32 = 4;

fn node(id: &str) -> NodeId {
    NodeId::new(id).expect("a literal that can be spelled")
}

/// A quarter of HD: what a busy test machine renders without falling behind.
fn composite() -> CompositeSpec {
    CompositeSpec { width: 640, height: 360, fps: 30, ..CompositeSpec::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_becomes_a_composite_and_nothing_is_lost() -> Result<()> {
    let cluster = TestCluster::start().await?;
    let ports = cluster.ports().await?;
    let coordinator = Coordinator::start(
        cluster.ports().await?,
        CoordinatorConfig {
            window: Duration::from_secs(2),
            composites: vec![composite()],
            ..CoordinatorConfig::new(node("coordinator"), SHARDS)
        },
    )
    .await?;
    let ingest = IngestNode::start(cluster.ports().await?, IngestConfig::new(node("ingest"))).await?;
    let compositor = CompositorNode::start(cluster.ports().await?, CompositorConfig::new(node("compositor"))).await?;

    let spec = SyntheticSpec {
        duration: Duration::from_secs(12),
        participants: 2,
        width: 320,
        height: 180,
        video_bits_per_second: 200_000,
        network: Network { loss: 0.0, ..Network::default() },
        ..SyntheticSpec::new(room::room("weekly/all.hands*"), room::now())
    };
    let publisher = room::publisher(&ports, SHARDS);
    room::publish(&publisher, SyntheticRoom::new(spec.clone())?, 1.0).await?;
    let recording = room::final_recording(&*ports.store, &spec.room, Duration::from_secs(60)).await?;
    ensure!(recording.state == State::Complete, "{}: {}", recording.id, recording.reason);
    ensure!(!recording.incomplete, "nothing was lost, yet the recording calls itself incomplete");
    let length = Duration::from_millis(recording.duration_ms.context("a length")?);
    ensure!(length + Duration::from_millis(100) >= spec.duration, "{length:?} of {:?}", spec.duration);

    let keys = room::keys(&recording);
    let log = audit::read_log(&*ports.log, &recording.tenant, &spec.room, SHARDS).await?;
    let recorded = audit::read_recording(&*ports.store, &keys).await?;
    let verdict = audit::require_everything_once(&log, &recorded)?;
    ensure!(verdict.published > 500, "the room was hardly published: {verdict}");
    let slices = audit::require_contiguous_slices(&*ports.store, &keys, &composite().id).await?;
    ensure!(slices >= 3, "{slices} slices of a room of 12 s");

    let directory = tempfile::tempdir()?;
    let file = room::download_composite(&*ports.store, &recording, &composite(), directory.path()).await?;
    room::require_format(&file, &composite(), &recording)?;
    roomreel_tests::watch::decode_without_warning(&file)?;
    for (peer, offsets) in room::beep_flash_offsets(&file, &spec, &composite())? {
        let worst = offsets.iter().copied().map(f64::abs).fold(0.0, f64::max);
        ensure!(offsets.len() >= 6 && worst <= 40.0, "{peer}: beeps lie {offsets:?} ms from flashes");
    }
    publisher.flush().await?;
    compositor.drain().await;
    ingest.drain().await;
    coordinator.drain().await;
    Ok(())
}

/// docs/examples, while the log forgets what it has acknowledged: what is missed is asked for, and published again.
#[tokio::test(flavor = "multi_thread")]
async fn the_publisher_in_python_replays_what_the_log_lost() -> Result<()> {
    let mut cluster = TestCluster::start().await?;
    let config = CoordinatorConfig {
        window: Duration::from_secs(1),
        composites: Vec::new(),
        ..CoordinatorConfig::new(node("coordinator"), SHARDS)
    };
    let coordinator = Coordinator::start(cluster.ports().await?, config).await?;
    let ingest = IngestNode::start(cluster.ports().await?, IngestConfig::new(node("ingest"))).await?;
    // Of the documents, without which a recording does not end.
    let compositor = CompositorNode::start(cluster.ports().await?, CompositorConfig::new(node("compositor"))).await?;

    let room = room::room("from: python.*");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/examples/publish_room.py");
    let url = cluster.nats.url();
    let publisher = Command::new("python3")
        .args(["-B", example, url.trim_start_matches("nats://"), "--seconds", "8", "--room", room.as_str()])
        .args(["--tenant", room::tenant().as_str(), "--shards", &SHARDS.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("start python3; install it with: apt-get install -y python3")?;
    let ports = cluster.ports().await?;
    let shard = Shard::of(&room::tenant(), &room, SHARDS);
    until_logged(&ports, shard, 30).await?;
    let before = cluster.nats.copy_store()?;
    until_logged(&ports, shard, 50).await?;
    cluster.nats.roll_back(&before).await?;

    let publisher = tokio::time::timeout(Duration::from_secs(60), publisher.wait_with_output()).await??;
    let said = String::from_utf8_lossy(&publisher.stdout).into_owned();
    ensure!(publisher.status.success(), "{}: {said}", publisher.status);
    let recording = room::final_recording(&*ports.store, &room, Duration::from_secs(60)).await?;
    ensure!(recording.state == State::Complete && !recording.incomplete, "{}: {said}", recording.reason);
    // 50 packets and a sender report a second.
    ensure!(said.contains("batches with 408 packets are in the bucket"), "it says {said:?}");
    let recorded = audit::read_recording(&*ports.store, &room::keys(&recording)).await?;
    let once = recorded.packets.values().filter(|(times, _)| *times == 1).count();
    ensure!((once, recorded.packets.len()) == (408, 408), "{once} of {} packets stand once", recorded.packets.len());
    compositor.drain().await;
    ingest.drain().await;
    coordinator.drain().await;
    Ok(())
}

async fn until_logged(ports: &Ports, shard: Shard, entries: u64) -> Result<()> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while ports.log.last_sequence(shard).await? < entries {
        ensure!(tokio::time::Instant::now() < deadline, "the log has not reached {entries} entries");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
