//! The publisher's own process: what dies with it cannot be recorded, and the recording says so.

use std::time::Duration;

use anyhow::{Result, ensure};
use roomreel_sfu::publisher::spool;
use roomreel_shared::event::StopReason;
use roomreel_shared::recording::State;
use roomreel_tests::audit::PacketId;
use roomreel_tests::{audit, room};

use crate::outcome::{FINAL_LIMIT, Outcome};
use crate::stage::{SHARDS, Stage, WINDOW, until};

#[tokio::test(flavor = "multi_thread")]
async fn publisher_killed() -> Result<()> {
    let mut stage = Stage::with("publisher_killed", WINDOW, [1, 0, 1]).await?;
    stage.add("coordinator", "coordinator-1", &stage.routes(), &["--idle-limit=5s"]).await?;
    let room = room::room("left-alone");
    let commits = stage.watch("left-alone");
    let mut publisher = stage.publish(&room, 120, &[]).await?;
    commits.reach(3).await?;
    publisher.kill();
    let recording = room::final_recording(&*stage.ports.store, &room, FINAL_LIMIT).await?;
    // What the log holds is what was accepted and survived.
    let log = audit::read_log(&*stage.ports.log, &room::tenant(), &room, SHARDS).await?;
    let contents = audit::read_recording(&*stage.ports.store, &room::keys(&recording)).await?;
    let outcome = Outcome::of(&stage, recording, contents, &log, &commits).await?;
    audit::require_everything_once(&log, &outcome.contents)?;
    let Outcome { recording, verdict, .. } = &outcome;
    outcome.print("publisher_killed", &format!("{:?}: {}", recording.state, recording.reason))?;
    ensure!(recording.state == State::Complete, "{:?}: {}", recording.state, recording.reason);
    ensure!(recording.stop_reason == Some(StopReason::Idle), "it ended because {:?}", recording.stop_reason);
    ensure!(verdict.published > 100, "the room was hardly published: {verdict}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn publisher_killed_with_a_spool() -> Result<()> {
    let mut stage = Stage::with("publisher_killed_with_a_spool", WINDOW, [1, 0, 1]).await?;
    stage.add("coordinator", "coordinator-1", &stage.routes(), &["--idle-limit=15s"]).await?;
    let room = room::room("spooled");
    let commits = stage.watch("spooled");
    let directory = tempfile::tempdir()?;
    let spool = [format!("--spool={}", directory.path().display())];
    let mut publisher = stage.publish(&room, 120, &spool).await?;
    commits.reach(2).await?;
    // The broker goes; what is published now is in the publisher's hands alone. Then the publisher dies.
    stage.cluster.nats.kill();
    tokio::time::sleep(Duration::from_secs(4)).await;
    publisher.kill();
    let mut held = Vec::new();
    let inspect = || spool::inspect(directory.path(), &room::tenant(), &room::sfu());
    until("the spool is free", Duration::from_secs(5), async || {
        inspect().is_ok_and(|found| {
            held = found;
            true
        })
    })
    .await?;
    stage.cluster.nats.restart().await?;
    let before = audit::read_log(&*stage.ports.log, &room::tenant(), &room, SHARDS).await?;
    // It comes back with another room; nobody publishes the first one any more.
    let _publisher = stage.publish(&room::room("afterwards"), 1, &spool).await?;
    let recording = room::final_recording(&*stage.ports.store, &room, FINAL_LIMIT).await?;
    let log = audit::read_log(&*stage.ports.log, &room::tenant(), &room, SHARDS).await?;
    let contents = audit::read_recording(&*stage.ports.store, &room::keys(&recording)).await?;
    let outcome = Outcome::of(&stage, recording, contents, &log, &commits).await?;
    audit::require_everything_once(&log, &outcome.contents)?;
    let mut packets = 0;
    for found in &held {
        let Some(track) = &found.id.track else { continue };
        for packet_no in found.id.packets.0..=found.id.packets.1 {
            let (sfu, incarnation) = (room::sfu(), found.id.incarnation.get());
            let id = PacketId { sfu, track: track.clone(), incarnation, packet_no };
            packets += usize::from(!before.packets.contains_key(&id));
            let stored = outcome.contents.packets.get(&id).map(|(times, _)| *times);
            ensure!(stored == Some(1), "{id:?} of the spool is stored {stored:?} times");
        }
    }
    // Numbers without a hole from the first on: nothing is missing.
    for id in outcome.contents.packets.keys() {
        let previous = PacketId { packet_no: id.packet_no.saturating_sub(1), ..id.clone() };
        ensure!(outcome.contents.packets.contains_key(&previous), "{previous:?} is missing");
    }
    ensure!(packets > 100, "only {packets} packets were in the spool alone");
    let Outcome { recording, .. } = &outcome;
    let told = format!("{:?}: {packets} packets were in the spool alone", recording.state);
    outcome.print("publisher_killed_with_a_spool", &told)?;
    ensure!(recording.state == State::Complete, "{:?}: {}", recording.state, recording.reason);
    Ok(())
}
