//! The coordinator's leader, and etcd.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use roomreel_shared::cluster;

use crate::outcome::Outcome;
use crate::stage::{Stage, WINDOW, until};

/// A room goes on while its leader is dead; one that begins meanwhile is recorded from its beginning.
#[tokio::test(flavor = "multi_thread")]
async fn leader_killed() -> Result<()> {
    let mut stage = Stage::with("leader_killed", WINDOW, [1, 2, 1]).await?;
    let played = stage.play("old", 18)?;
    played.commits.reach(2).await?;
    let leader = stage.leading().await?;
    let fault = Instant::now();
    stage.node(&leader)?.kill();
    let meanwhile = stage.play("new", 14)?;
    let led =
        until("another leader", Duration::from_secs(20), async || stage.leading().await.is_ok_and(|now| now != leader))
            .await?;
    let begun = meanwhile.commits.reach(1).await? - fault;
    let old = Outcome::complete(&stage, played).await?;
    let new = Outcome::complete(&stage, meanwhile).await?;
    old.print("leader_killed", &format!("another leads after {:.1} s", (led - fault).as_secs_f64()))?;
    new.print("leader_killed, a room begun meanwhile", &format!("first commit after {:.1} s", begun.as_secs_f64()))?;
    ensure!(old.silence() < 3 * WINDOW, "the room that was recorded felt it: {:?}", old.silence());
    Ok(())
}

/// All leases run out at once.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_paused() -> Result<()> {
    paused("etcd_paused", 3).await
}

/// Too few nodes for a mass.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer: make chaos"]
async fn etcd_paused_two_nodes() -> Result<()> {
    paused("etcd_paused_two_nodes", 2).await
}

async fn paused(name: &str, nodes: usize) -> Result<()> {
    let stage = Stage::with(name, WINDOW, [nodes, 2, 1]).await?;
    let played = stage.play(name, 24)?;
    played.commits.reach(2).await?;
    stage.cluster.etcd.pause()?;
    tokio::time::sleep(Duration::from_secs(10)).await;
    stage.cluster.etcd.resume()?;
    let outcome = Outcome::complete(&stage, played).await?;
    outcome.print(name, &format!("{} owners", outcome.owners()))?;
    ensure!(outcome.owners() == 1, "a mass loss of leases moved the room");
    ensure!(outcome.silence() < 3 * WINDOW, "the room felt it: {:?}", outcome.silence());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer: make chaos"]
async fn etcd_restarted() -> Result<()> {
    let mut stage = Stage::with("etcd_restarted", WINDOW, [2, 1, 1]).await?;
    let played = stage.play("etcd-restarted", 24)?;
    played.commits.reach(2).await?;
    stage.cluster.etcd.kill();
    tokio::time::sleep(Duration::from_secs(8)).await;
    stage.cluster.etcd.restart().await?;
    let outcome = Outcome::complete(&stage, played).await?;
    outcome.print("etcd_restarted", &format!("{} owners", outcome.owners()))?;
    ensure!(outcome.silence() < 3 * WINDOW, "the room felt it: {:?}", outcome.silence());
    Ok(())
}

/// The room goes on and closes without etcd; with etcd back, its recording completes.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_gone() -> Result<()> {
    let mut stage = Stage::with("etcd_gone", WINDOW, [2, 1, 1]).await?;
    let mut played = stage.play("etcd-gone", 14)?;
    played.commits.reach(2).await?;
    stage.cluster.etcd.kill();
    let accepted = played.closed().await?;
    let closed = Instant::now();
    ensure!(accepted.events > 0, "the room was hardly played");
    tokio::time::sleep(Duration::from_secs(4)).await;
    stage.cluster.etcd.restart().await?;
    let back = Instant::now();
    let outcome = Outcome::complete_of(&stage, accepted, played).await?;
    let last = outcome.commits.last().copied().unwrap_or(back);
    let more = format!(
        "last window {:.1} s after the room's end, COMPLETE {:.1} s after etcd's return",
        last.saturating_duration_since(closed).as_secs_f64(),
        back.elapsed().as_secs_f64()
    );
    outcome.print("etcd_gone", &more)?;
    ensure!(last < back, "the last window waited for etcd");
    Ok(())
}

/// etcd comes back empty in the middle of a room; the leader takes the recording up again by itself.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_wiped() -> Result<()> {
    let mut stage = Stage::with("etcd_wiped", WINDOW, [2, 1, 1]).await?;
    let played = stage.play("etcd-wiped", 24)?;
    played.commits.reach(3).await?;
    let fault = Instant::now();
    stage.cluster.etcd.wipe().await?;
    let outcome = Outcome::complete(&stage, played).await?;
    let after = outcome.taken_over_after(fault)?;
    outcome.print("etcd_wiped", &format!("goes on after {:.1} s", after.as_secs_f64()))
}

/// The same without a coordinator: `roomreel rebuild` restores the recording, and the coordinator that comes back finds it.
#[tokio::test(flavor = "multi_thread")]
async fn etcd_wiped_and_rebuilt() -> Result<()> {
    let mut stage = Stage::with("etcd_wiped_and_rebuilt", WINDOW, [2, 1, 1]).await?;
    let played = stage.play("etcd-rebuilt", 24)?;
    played.commits.reach(3).await?;
    stage.node("coordinator-1")?.kill();
    stage.cluster.etcd.wipe().await?;
    let mut rebuild = stage.tool("rebuild", &["--apply"]).await?;
    let recordings = cluster::recordings_prefix();
    until("the recording is restored", Duration::from_secs(20), async || {
        let listed = stage.ports.coordination.list(&recordings).await;
        listed.is_ok_and(|listed| listed.records.len() == 1)
    })
    .await?;
    rebuild.kill();
    stage.node("coordinator-1")?.restart().await?;
    let outcome = Outcome::complete(&stage, played).await?;
    outcome.print("etcd_wiped_and_rebuilt", &format!("{} owners", outcome.owners()))
}

/// The leader comes back after another has led for a while.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer: make chaos"]
async fn leader_paused() -> Result<()> {
    let mut stage = Stage::with("leader_paused", WINDOW, [1, 2, 1]).await?;
    let played = stage.play("leader-paused", 24)?;
    played.commits.reach(2).await?;
    let leader = stage.leading().await?;
    stage.node(&leader)?.pause()?;
    tokio::time::sleep(Duration::from_secs(12)).await;
    stage.node(&leader)?.resume()?;
    let outcome = Outcome::complete(&stage, played).await?;
    outcome.print("leader_paused", &format!("{} owners", outcome.owners()))?;
    ensure!(outcome.owners() == 1, "a leader that came back moved the room");
    Ok(())
}

/// Everything of roomreel at once, and again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer: make chaos"]
async fn all_killed() -> Result<()> {
    let mut stage = Stage::with("all_killed", WINDOW, [1, 1, 1]).await?;
    let played = stage.play("all-killed", 40)?;
    for round in 1..=3 {
        played.commits.reach(3 * round).await?;
        stage.nodes.values_mut().for_each(|node| node.kill());
        for node in stage.nodes.values_mut() {
            node.restart().await?;
        }
    }
    let outcome = Outcome::complete(&stage, played).await?;
    outcome.print("all_killed", &format!("{} owners", outcome.owners()))
}

/// Two processes of every role, each asked to leave (SIGTERM) and started again, one after the other.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer: make chaos"]
async fn rolling_restart() -> Result<()> {
    let mut stage = Stage::with("rolling_restart", WINDOW, [2, 2, 2]).await?;
    let played = stage.play("rolled", 40)?;
    played.commits.reach(2).await?;
    for node in stage.nodes.values_mut() {
        node.stop().await?;
        node.restart().await?;
        tokio::time::sleep(WINDOW).await;
    }
    let outcome = Outcome::complete(&stage, played).await?;
    outcome.print("rolling_restart", &format!("{} owners", outcome.owners()))?;
    ensure!(outcome.silence() < 3 * WINDOW, "the room felt it: {:?}", outcome.silence());
    Ok(())
}
