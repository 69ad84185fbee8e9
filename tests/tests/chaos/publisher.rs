//! The publisher's own process: what dies with it cannot be recorded, and the recording says so.

use anyhow::{Result, ensure};
use roomreel_shared::event::StopReason;
use roomreel_shared::recording::State;
use roomreel_tests::{audit, room};

use crate::outcome::{FINAL_LIMIT, Outcome};
use crate::stage::{SHARDS, Stage, WINDOW};

#[tokio::test(flavor = "multi_thread")]
async fn publisher_killed() -> Result<()> {
    let mut stage = Stage::with("publisher_killed", WINDOW, [1, 0, 1]).await?;
    stage.add("coordinator", "coordinator-1", &stage.routes(), &["--idle-limit=5s"]).await?;
    let room = room::room("left-alone");
    let commits = stage.watch("left-alone");
    let mut publisher = stage.publish(&room, 120).await?;
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
