//! NATS.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use roomreel_sfu::synthetic::SyntheticSpec;
use roomreel_shared::policy::Policy;
use roomreel_shared::subject::Shard;
use roomreel_tests::cluster::TestCluster;
use roomreel_tests::servers::NatsServer;
use roomreel_tests::{audit, room};

use crate::outcome::Outcome;
use crate::stage::{SHARDS, Stage, WINDOW, spec, until};

#[tokio::test(flavor = "multi_thread")]
async fn nats_restarted() -> Result<()> {
    let mut stage = Stage::with("nats_restarted", WINDOW, [1, 1, 1]).await?;
    let played = stage.play("nats-restarted", 18)?;
    played.commits.reach(2).await?;
    for _ in 0..2 {
        stage.cluster.nats.kill();
        tokio::time::sleep(Duration::from_secs(1)).await;
        stage.cluster.nats.restart().await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let stats = played.publisher.clone();
    let outcome = Outcome::complete(&stage, played).await?;
    let stats = stats.stats();
    outcome.print("nats_restarted", &format!("{} retries, {} replays", stats.retries, stats.replays))
}

/// Power loss: what the broker had acknowledged and not yet synced is gone, and so is the process that had read it.
#[tokio::test(flavor = "multi_thread")]
async fn nats_rolled_back() -> Result<()> {
    rolled_back("nats_rolled_back", Duration::from_secs(5), 26, &["ingest-1"]).await
}

/// Of the whole machine room: no process remembers what the log has lost, but the publisher.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer: make chaos"]
async fn nats_rolled_back_30s() -> Result<()> {
    let all = ["ingest-1", "coordinator-1", "compositor-1"];
    rolled_back("nats_rolled_back_30s", Duration::from_secs(31), 56, &all).await
}

async fn rolled_back(name: &str, by: Duration, seconds: u64, killed: &[&str]) -> Result<()> {
    let mut stage = Stage::with(name, WINDOW, [1, 1, 1]).await?;
    let played = stage.play(name, seconds)?;
    played.commits.reach(1).await?;
    let before = stage.cluster.nats.copy_store()?;
    tokio::time::sleep(by).await;
    for node in killed {
        stage.node(node)?.kill();
    }
    stage.cluster.nats.roll_back(&before).await?;
    for node in killed {
        stage.node(node)?.restart().await?;
    }
    let publisher = played.publisher.clone();
    let outcome = Outcome::complete(&stage, played).await?;
    let stats = publisher.stats();
    outcome.print(name, &format!("{} retries, {} replays", stats.retries, stats.replays))
}

/// The log as it was before the room was created.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer: make chaos"]
async fn nats_emptied() -> Result<()> {
    emptied("nats_emptied", true, &[]).await
}

/// The same, and no process of roomreel remembers the room.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer: make chaos"]
async fn nats_emptied_all_killed() -> Result<()> {
    emptied("nats_emptied_all_killed", true, &["ingest-1", "coordinator-1", "compositor-1"]).await
}

/// The disk of the log is lost, streams and all.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer: make chaos"]
async fn nats_disk_lost() -> Result<()> {
    emptied("nats_disk_lost", false, &[]).await
}

async fn emptied(name: &str, has_streams: bool, killed: &[&str]) -> Result<()> {
    let mut stage = Stage::with(name, WINDOW, [1, 1, 1]).await?;
    let before = if has_streams { stage.cluster.nats.copy_store()? } else { tempfile::tempdir()? };
    let played = stage.play(name, 20)?;
    played.commits.reach(3).await?;
    tokio::time::sleep(WINDOW / 2).await;
    for node in killed {
        stage.node(node)?.kill();
    }
    stage.cluster.nats.roll_back(&before).await?;
    for node in killed {
        stage.node(node)?.restart().await?;
    }
    // In the same stream, at numbers that the lost entries had.
    let shard = Shard::of(&room::tenant(), &room::room(name), SHARDS);
    let later = stage.play(&neighbour(shard)?, 8)?;
    let publisher = played.publisher.clone();
    let later = Outcome::complete(&stage, later).await?;
    let outcome = Outcome::complete(&stage, played).await?;
    let stats = publisher.stats();
    outcome.print(name, &format!("{} retries, {} replays", stats.retries, stats.replays))?;
    later.print(&format!("{name}, a room begun afterwards"), "")
}

/// Nobody reads while the log grows past where it was before it lost its end: its numbers alone do not show that it lost anything.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer: make chaos"]
async fn nats_rolled_back_unnoticed() -> Result<()> {
    let mut stage = Stage::with("nats_rolled_back_unnoticed", WINDOW, [1, 1, 1]).await?;
    let shard = Shard::of(&room::tenant(), &room::room("unnoticed"), SHARDS);
    let neighbour = neighbour(shard)?;
    let mut played = stage.play("unnoticed", 9)?;
    let others = SyntheticSpec { participants: 4, policy: Policy::default(), ..spec(&neighbour, 60) };
    played.commits.reach(1).await?;
    let before = stage.cluster.nats.copy_store()?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    stage.node("ingest-1")?.kill();
    let last = stage.ports.log.last_sequence(shard).await?;
    stage.cluster.nats.roll_back(&before).await?;
    let accepted = played.closed().await?;
    played.publisher.flush().await?;
    let _others = stage.play_as(others)?;
    until("the log is longer than it was", Duration::from_secs(30), async || {
        stage.ports.log.last_sequence(shard).await.is_ok_and(|now| now > last + 10)
    })
    .await?;
    stage.node("ingest-1")?.restart().await?;
    let publisher = played.publisher.clone();
    let outcome = Outcome::complete_of(&stage, accepted, played).await?;
    let stats = publisher.stats();
    outcome.print("nats_rolled_back_unnoticed", &format!("{} retries, {} replays", stats.retries, stats.replays))
}

/// A room in the same stream.
fn neighbour(shard: Shard) -> Result<String> {
    let mut names = (0..).map(|number| format!("neighbour-{number}"));
    let same = names.find(|id| Shard::of(&room::tenant(), &room::room(id), SHARDS) == shard);
    same.context("a shard has many rooms")
}

/// Three servers of which the leader is paused for 5 to 8 s, again and again. The broker loses acknowledged messages here; a room
/// in the same stream that nobody records shows how many.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn nats_leader_paused() -> Result<()> {
    const ROUNDS: u32 = 6;
    const ROUND: Duration = Duration::from_secs(18);
    let mut stage = Stage::on(TestCluster::start_replicated().await?, "nats_leader_paused", WINDOW).await?;
    stage.populate([1, 1, 1]).await?;
    let shard = Shard::of(&room::tenant(), &room::room("recorded"), SHARDS);
    let neighbour = neighbour(shard)?;
    let seconds = u64::from(ROUNDS) * ROUND.as_secs() + 10;
    let played = stage.play_as(SyntheticSpec { participants: 4, ..spec("recorded", seconds) })?;
    let mut control =
        stage.play_as(SyntheticSpec { participants: 8, policy: Policy::default(), ..spec(&neighbour, seconds) })?;
    played.commits.reach(2).await?;
    for round in 0..ROUNDS {
        let leader = leader(&stage, shard).await?;
        leader.pause()?;
        tokio::time::sleep(Duration::from_secs(5) + Duration::from_secs(3) * round / (ROUNDS - 1)).await;
        leader.resume()?;
        tokio::time::sleep(ROUND / 2).await;
    }
    let accepted: usize = control.closed().await?.packets.values().map(Vec::len).sum();
    control.publisher.flush().await?;
    let kept = audit::read_log(&*stage.ports.log, &room::tenant(), &control.room, SHARDS).await?.packets.len();
    let publisher = played.publisher.clone();
    let outcome = Outcome::complete(&stage, played).await?;
    let stats = publisher.stats();
    let more = format!(
        "{ROUNDS} pauses, {} retries, {} replays; the broker lost {} of {accepted} acknowledged packets of the other room",
        stats.retries,
        stats.replays,
        accepted - kept
    );
    outcome.print("nats_leader_paused", &more)?;
    ensure!(accepted > 10_000, "the other room was hardly published");
    Ok(())
}

/// The server that leads a shard's stream.
async fn leader(stage: &Stage, shard: Shard) -> Result<&NatsServer> {
    let client = async_nats::connect(stage.cluster.nats_config().url.split(',').collect::<Vec<_>>()).await?;
    let mut stream = async_nats::jetstream::new(client).get_stream(shard.stream_name()).await?;
    let name = stream.info().await?.cluster.as_ref().and_then(|cluster| cluster.leader.clone());
    let number: usize = name.as_deref().and_then(|name| name.strip_prefix("nats-")).context("no leader")?.parse()?;
    [&stage.cluster.nats].into_iter().chain(&stage.cluster.nats_peers).nth(number).context("such a server")
}
