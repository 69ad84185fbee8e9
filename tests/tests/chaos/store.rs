//! S3.

use std::time::Duration;

use anyhow::Result;
use hyper::StatusCode;
use roomreel_tests::servers::S3Fault;

use crate::outcome::Outcome;
use crate::stage::{Stage, WINDOW};

#[tokio::test(flavor = "multi_thread")]
async fn s3_gone_20s() -> Result<()> {
    gone("s3_gone_20s", Duration::from_secs(20)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn s3_gone_60s() -> Result<()> {
    gone("s3_gone_60s", Duration::from_secs(60)).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn s3_gone_10min() -> Result<()> {
    gone("s3_gone_10min", Duration::from_secs(600)).await
}

/// 503 to everything.
async fn gone(name: &str, duration: Duration) -> Result<()> {
    let stage = Stage::with(name, WINDOW, [1, 1, 1]).await?;
    let played = stage.play(name, duration.as_secs() + 10)?;
    played.commits.reach(2).await?;
    stage.cluster.s3.set(S3Fault::Refuse(StatusCode::SERVICE_UNAVAILABLE));
    tokio::time::sleep(duration).await;
    stage.cluster.s3.set(S3Fault::None);
    let windows = played.commits.times().len();
    let outcome = Outcome::complete(&stage, played).await?;
    outcome.print(name, &format!("{windows} windows before it came back"))
}

/// Writes that are done and not answered, or not done and answered with 409 or 500.
#[tokio::test(flavor = "multi_thread")]
async fn s3_ambiguous() -> Result<()> {
    let stage = Stage::with("s3_ambiguous", Duration::from_secs(1), [1, 1, 1]).await?;
    let played = stage.play("s3-ambiguous", 18)?;
    played.commits.reach(1).await?;
    for fault in [
        S3Fault::LoseAnswers(2),
        S3Fault::FailWrites(StatusCode::CONFLICT, 2),
        S3Fault::LoseAnswers(1),
        S3Fault::FailWrites(StatusCode::INTERNAL_SERVER_ERROR, 2),
    ] {
        stage.cluster.s3.set(fault);
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    stage.cluster.s3.set(S3Fault::None);
    let outcome = Outcome::complete(&stage, played).await?;
    outcome.print("s3_ambiguous", &format!("{} writes in all", stage.cluster.s3.history().len()))
}

/// It takes requests and never answers.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer: make chaos"]
async fn s3_hangs() -> Result<()> {
    let stage = Stage::with("s3_hangs", WINDOW, [1, 1, 1]).await?;
    let played = stage.play("s3-hangs", 50)?;
    played.commits.reach(2).await?;
    stage.cluster.s3.set(S3Fault::Hang);
    tokio::time::sleep(Duration::from_secs(10)).await;
    stage.cluster.s3.set(S3Fault::None);
    let outcome = Outcome::complete(&stage, played).await?;
    outcome.print("s3_hangs", "10 s without an answer")
}
