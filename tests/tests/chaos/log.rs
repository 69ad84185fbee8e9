//! NATS.

use std::time::Duration;

use anyhow::Result;

use crate::outcome::Outcome;
use crate::stage::{Stage, WINDOW};

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
