//! The process that renders, with every output there is.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use roomreel_shared::composite::CompositeSpec;
use roomreel_tests::cluster::TestCluster;
use roomreel_tests::{room, watch};

use crate::outcome::Outcome;
use crate::stage::{Stage, WINDOW};

const SECONDS: u64 = 18;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer: make chaos"]
async fn compositor_killed_with_every_output() -> Result<()> {
    let mut stage = Stage::on(TestCluster::start().await?, "compositor_killed_with_every_output", WINDOW).await?;
    let routes = stage.routes();
    let outputs = "--outputs=hls,mp4,webm,m4a,mp3,ogg,thumbnails,storyboard,captions";
    stage.add("coordinator", "coordinator-1", &routes, &[outputs, "--tracks=playable,mjr,rtpdump"]).await?;
    stage.add("ingest", "ingest-1", &routes, &[]).await?;
    for name in ["compositor-1", "compositor-2"] {
        stage.add("compositor", name, &routes, &["--sandbox=required"]).await?;
    }
    let played = stage.play("all-outputs", SECONDS)?;
    played.commits.reach(4).await?;
    let owner = stage.rendering().await?;
    stage.node(owner.as_str())?.kill();
    let outcome = Outcome::complete(&stage, played).await?;
    let (store, keys) = (&*stage.ports.store, room::keys(&outcome.recording));
    let directory = tempfile::tempdir()?;
    let mut decoded = 0;
    for name in &outcome.recording.files {
        let file = directory.path().join(name);
        std::fs::create_dir_all(file.parent().context("a file is in a directory")?)?;
        let object = store.get(&keys.user_file(name)?).await.with_context(|| format!("{name} is listed"))?;
        std::fs::write(&file, object)?;
        let extension = name.rsplit('.').next().unwrap_or_default();
        let lasts = ["mp4", "webm", "m4a", "mp3", "ogg"].contains(&extension);
        if !lasts && extension != "jpg" {
            continue;
        }
        // Time stamps of cameras are uneven: without it FFmpeg complains of its own output.
        let output = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "warning", "-xerror", "-i"])
            .arg(&file)
            .args(["-enc_time_base", "-1", "-f", "null", "-"])
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        // FFmpeg says the second of any black JPEG, its own too (seen with 5.1).
        let known =
            |line: &&str| line.starts_with("Guessed Channel Layout") || line.ends_with("EOI missing, emulating");
        let said: Vec<_> = said.lines().filter(|line| !known(line)).collect();
        ensure!(output.status.success() && said.is_empty(), "{name}: {said:?}");
        decoded += 1;
        if lasts && !name.starts_with("tracks/") {
            let length = watch::probe(&file)?["format"]["duration"].as_str().unwrap_or_default().parse::<f64>()?;
            ensure!((length - SECONDS as f64).abs() < 0.2, "{name} lasts {length} s");
        }
    }
    for output in
        ["composite.mp4", "composite.webm", "audio.m4a", "audio.mp3", "audio.ogg", "storyboard.vtt", "captions.vtt"]
    {
        let name = format!("composites/{}/{output}", CompositeSpec::default().id);
        ensure!(outcome.recording.files.contains(&name), "{name} is not listed: {:?}", outcome.recording.files);
    }
    ensure!(
        outcome.recording.files.iter().filter(|name| name.ends_with(".jpg")).count() == 6,
        "five thumbnails and a sheet"
    );
    ensure!(outcome.recording.files.iter().any(|name| name.starts_with("tracks/")), "tracks are listed");
    let left = store.list_uploads().await?.unwrap_or_default();
    ensure!(left.is_empty(), "uploads are left: {left:?}");
    outcome.print("compositor_killed_with_every_output", &format!("{decoded} files decode without a warning"))
}
