//! The process that renders the composite.

use std::time::Duration;

use anyhow::Result;
use roomreel_shared::composite::CompositeSpec;
use roomreel_tests::{room, watch};

use crate::outcome::Outcome;
use crate::stage::{Stage, WINDOW};

#[tokio::test(flavor = "multi_thread")]
async fn compositor_killed() -> Result<()> {
    let mut stage = Stage::with("compositor_killed", WINDOW, [1, 1, 2]).await?;
    let played = stage.play("rendered", 18)?;
    played.commits.reach(4).await?;
    let owner = stage.rendering().await?;
    stage.node(owner.as_str())?.kill();
    let outcome = Outcome::complete(&stage, played).await?;
    let directory = tempfile::tempdir()?;
    let spec = CompositeSpec::default();
    let file = room::download_composite(&*stage.ports.store, &outcome.recording, &spec, directory.path()).await?;
    watch::decode_without_warning(&file)?;
    let format = watch::probe(&file)?["format"]["duration"].as_str().unwrap_or_default().to_owned();
    anyhow::ensure!(
        format.parse::<f64>().is_ok_and(|seconds| (seconds - Duration::from_secs(18).as_secs_f64()).abs() < 0.2),
        "the composite lasts {format} s"
    );
    outcome.print("compositor_killed", "every slice was written once and the joined file decodes without a warning")
}

/// The one that was paused comes back while another renders.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer: make chaos"]
async fn compositor_paused() -> Result<()> {
    let mut stage = Stage::with("compositor_paused", WINDOW, [1, 1, 2]).await?;
    let played = stage.play("rendered-twice", 26)?;
    played.commits.reach(4).await?;
    let owner = stage.rendering().await?;
    stage.node(owner.as_str())?.pause()?;
    tokio::time::sleep(Duration::from_secs(15)).await;
    stage.node(owner.as_str())?.resume()?;
    let outcome = Outcome::complete(&stage, played).await?;
    outcome.print("compositor_paused", "every slice was written once")
}
