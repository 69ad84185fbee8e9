//! `roomreel demo`: records a room from beginning to end in this process and shows what came of it.
//!
//! Owns the story that is told. Does not own anything that happens in it: the roles are those of a cluster.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use roomreel_sfu::source::{Played, Progress};
use roomreel_shared::cluster::{self, ActiveRecording};
use roomreel_shared::id::{RecordingId, RoomId, SfuId, TenantId};
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::ports::{Listed, Ports, StoreError};
use roomreel_shared::recording::{Recording, State};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::dev::{self, Embedded};
use crate::publish::{AnySource, RoomArgs, describe, publisher, tell_problems};
use crate::roles::RecordingSettings;
use crate::sandbox::SandboxSettings;
use crate::telemetry::{self, TelemetryArgs};
use crate::{output, shutdown};

/// How often the state is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often it is told on a terminal, and elsewhere.
const TELL_EVERY: Duration = Duration::from_millis(250);
const TELL_SELDOM: Duration = Duration::from_secs(5);
/// Nothing new for this long after the room has closed: something is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);
const SHARDS: u32 = 1;

/// Arguments of `roomreel demo`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  roomreel demo --out out/demo
  roomreel demo --out out/nine --participants 9 --seconds 60
  roomreel demo --out out/real --capture standup.pcap --events standup.events.jsonl --speed 2

The last line of the output is the path of the composite.")]
pub struct DemoArgs {
    /// Directory for everything that is made; it may exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    room: RoomArgs,
    #[command(flatten)]
    recordings: RecordingSettings,
    #[command(flatten)]
    sandbox: SandboxSettings,
    /// TOML file with settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

/// Runs the command.
///
/// # Errors
/// If the room cannot be played, or its recording does not become complete.
pub async fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let source = args.room.open()?;
    let telemetry = telemetry::start(&args.telemetry, "demo", "warn")?;
    let leaving = shutdown::token()?;
    let embedded = Embedded::start(dev::ports(&args.out).await?, &args.recordings, &args.sandbox, SHARDS).await?;
    let told = tokio::select! {
        told = record(args, source, &embedded) => told,
        () = leaving.cancelled() => Err(anyhow::anyhow!("ended by a signal before the recording was complete")),
    };
    embedded.drain().await;
    telemetry.shut_down().await;
    output::print(told?)?;
    Ok(())
}

/// Records the room; what is to be told at the end.
async fn record(args: &DemoArgs, source: AnySource, embedded: &Embedded) -> anyhow::Result<String> {
    let tenant = TenantId::new("default")?;
    let room = source.room().clone();
    let mut view = View::new(&embedded.ports, tenant.clone(), room.clone()).await?;
    let window = args.recordings.window;
    output::print(format!("recording room {room} into {}\n", args.out.display()))?;

    let (log, bus) = (embedded.ports.log.clone(), embedded.ports.bus.clone());
    let publisher = publisher(log, bus, tenant, SfuId::new("demo")?, SHARDS);
    let (progress_sender, progress) = watch::channel(Progress::default());
    let playing = source.play(&publisher, args.room.speed, move |progress| {
        progress_sender.send_replace(*progress);
    });
    tokio::pin!(playing);
    let mut line = output::Progress::new();
    let mut told = Instant::now();
    let played: Played = loop {
        tokio::select! {
            played = &mut playing => break played,
            () = tokio::time::sleep(LOOK_EVERY) => {
                view.look().await?;
                tell(&mut line, &mut told, || view.line(&progress.borrow(), window))?;
            }
        }
    };
    publisher.flush().await?;
    let closed = Instant::now();
    let mut ready: Option<Duration> = None;
    let mut last_change = Instant::now();
    let finished = loop {
        if view.look().await? {
            last_change = Instant::now();
        }
        if ready.is_none() && view.composite_exists().await? {
            ready = Some(closed.elapsed());
        }
        if let Some(recording) = view.finished().await? {
            break recording;
        }
        if last_change.elapsed() > STUCK_AFTER {
            line.end()?;
            bail!(
                "nothing has happened for {} s after the room closed ({}); run again with --log-level info to see why",
                STUCK_AFTER.as_secs(),
                view.line(&progress.borrow(), window)
            );
        }
        tell(&mut line, &mut told, || view.line(&progress.borrow(), window))?;
        tokio::time::sleep(LOOK_EVERY).await;
    };
    view.look().await?;
    line.show(&view.line(&progress.borrow(), window))?;
    line.end()?;
    tell_problems(&played);
    if finished.state != State::Complete {
        bail!("the recording ended as {:?}: {}", finished.state, finished.reason);
    }
    // Not every composite is joined to a file; all of them are ready when the recording is.
    let ready = ready.unwrap_or_else(|| closed.elapsed());
    view.summary(&args.out, &finished, ready).await
}

fn tell(line: &mut output::Progress, told: &mut Instant, text: impl FnOnce() -> String) -> std::io::Result<()> {
    if told.elapsed() < if line.is_live() { TELL_EVERY } else { TELL_SELDOM } {
        return Ok(());
    }
    *told = Instant::now();
    line.show(&text())
}

/// What can be seen of the recording from outside: coordination and bucket, as any operator could.
struct View<'a> {
    ports: &'a Ports,
    tenant: TenantId,
    room: RoomId,
    /// Recordings of the room that were there before.
    earlier: Vec<String>,
    recording: Option<(RecordingId, RecordingKeys)>,
    composite: Option<roomreel_shared::id::CompositeId>,
    windows: u64,
    slices: u64,
}

impl<'a> View<'a> {
    async fn new(ports: &'a Ports, tenant: TenantId, room: RoomId) -> anyhow::Result<Self> {
        let mut view =
            Self { ports, tenant, room, earlier: Vec::new(), recording: None, composite: None, windows: 0, slices: 0 };
        view.earlier = view.recordings().await?;
        Ok(view)
    }

    /// "Directories" of this room's recordings.
    async fn recordings(&self) -> anyhow::Result<Vec<String>> {
        let prefix = format!("{}/rooms/{}/recordings/", self.tenant.token(), self.room.token());
        Ok(self.ports.store.list_directory(&prefix).await?)
    }

    /// Takes in the newest state; whether anything has changed.
    async fn look(&mut self) -> anyhow::Result<bool> {
        let before = (self.recording.is_some(), self.windows, self.slices);
        if self.recording.is_none() {
            self.find().await?;
        }
        if let Some((_, keys)) = &self.recording {
            let windows = self.ports.store.list(&keys.windows_prefix()).await?;
            self.windows = windows.len() as u64;
            if let Some(composite) = &self.composite {
                let files = self.ports.store.list(&keys.composite_prefix(composite)).await?;
                self.slices =
                    files.iter().filter(|file| keys.slice_number(composite, &file.key).is_some()).count() as u64;
            }
        }
        Ok((self.recording.is_some(), self.windows, self.slices) != before)
    }

    async fn find(&mut self) -> anyhow::Result<()> {
        for record in self.ports.coordination.list(&cluster::recordings_prefix()).await?.records {
            let active: ActiveRecording = decode(&record.value)?;
            if active.recording.room == self.room && active.recording.tenant == self.tenant {
                self.adopt(&active.recording);
                return Ok(());
            }
        }
        // Short ones may be over before they are seen.
        let found = self.recordings().await?.into_iter().find(|directory| !self.earlier.contains(directory));
        if let Some(directory) = found {
            let token = directory.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            let keys = RecordingKeys::new(&self.tenant, &self.room, &RecordingId::from_token(token)?);
            if let Some(recording) = self.document(&keys).await? {
                self.adopt(&recording);
            }
        }
        Ok(())
    }

    fn adopt(&mut self, recording: &Recording) {
        let keys = RecordingKeys::new(&self.tenant, &self.room, &recording.id);
        self.recording = Some((recording.id.clone(), keys));
        self.composite = recording.composites.first().map(|composite| composite.id.clone());
    }

    async fn document(&self, keys: &RecordingKeys) -> anyhow::Result<Option<Recording>> {
        match self.ports.store.get(&keys.recording_json()).await {
            Ok(document) => Ok(Some(decode(&document)?)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The recording, once it has reached its final state.
    async fn finished(&self) -> anyhow::Result<Option<Recording>> {
        let Some((_, keys)) = &self.recording else { return Ok(None) };
        Ok(self.document(keys).await?.filter(|recording| recording.state.is_final()))
    }

    async fn composite_exists(&self) -> anyhow::Result<bool> {
        let (Some((_, keys)), Some(composite)) = (&self.recording, &self.composite) else { return Ok(false) };
        match self.ports.store.size(&keys.composite_mp4(composite)).await {
            Ok(_) => Ok(true),
            Err(StoreError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn line(&self, progress: &Progress, window: Duration) -> String {
        let rendered = window.as_secs_f64() * self.slices as f64;
        let behind = (progress.elapsed.as_secs_f64() - rendered).max(0.0);
        format!(
            "{}; {} windows committed, {} slices rendered, {behind:.1} s behind",
            describe(progress),
            self.windows,
            self.slices
        )
    }

    async fn summary(&self, out: &Path, finished: &Recording, ready: Duration) -> anyhow::Result<String> {
        let (Some((_, keys)), Some(composite)) = (&self.recording, &self.composite) else {
            bail!("the recording has no composite");
        };
        let directory = out.join(keys.prefix());
        let files = self.ports.store.list(keys.prefix()).await?;
        let mut text = format!(
            "\nrecording {} of room {} is complete: {:.1} s, {} windows{}\n\n{}:\n",
            finished.id,
            finished.room,
            finished.duration_ms.unwrap_or(0) as f64 / 1000.0,
            self.windows,
            if finished.incomplete { ", with packets missing" } else { "" },
            directory.display()
        );
        for (name, count, bytes) in table(keys.prefix(), &files) {
            let count = if count == 1 { String::new() } else { format!("({count} files)") };
            text.push_str(&format!("  {:>12} bytes  {name} {count}\n", grouped(bytes)));
        }
        text.push_str(&format!("\nthe composite was ready {:.1} s after the room closed\n", ready.as_secs_f64()));
        let mut result = None;
        for (how, key) in [("play it:  ", keys.composite_mp4(composite)), ("as HLS:   ", keys.playlist(composite))] {
            let name = key.as_str().strip_prefix(keys.prefix()).unwrap_or_default();
            if finished.files.iter().any(|file| file == name) {
                let path = out.join(key.as_str());
                text.push_str(&format!("{how} ffplay {}\n", path.display()));
                result.get_or_insert(path);
            }
        }
        let result = result.unwrap_or_else(|| directory.clone());
        let program = std::env::args().next().unwrap_or_else(|| "roomreel".to_owned());
        text.push_str(&format!("look into: {program} inspect {}\n\n{}\n", directory.display(), result.display()));
        Ok(text)
    }
}

fn decode<T: DeserializeOwned>(value: &Bytes) -> anyhow::Result<T> {
    serde_json::from_slice(value).context("read what the cluster wrote")
}

/// Files with count and bytes; numbered ones of a kind are one row.
fn table(prefix: &str, files: &[Listed]) -> Vec<(String, u64, u64)> {
    let mut rows: Vec<(String, u64, u64)> = Vec::new();
    for file in files {
        let name = file.key.as_str().strip_prefix(prefix).unwrap_or(file.key.as_str());
        let (directory, file_name) = name.rsplit_once('/').map_or(("", name), |(directory, file)| (directory, file));
        let (stem, extension) = file_name.split_once('.').unwrap_or((file_name, ""));
        let numbered = stem.len() == 8 && stem.bytes().all(|byte| byte.is_ascii_digit());
        let name = if numbered { format!("{directory}/*.{extension}") } else { name.to_owned() };
        match rows.iter_mut().find(|row| row.0 == name) {
            Some(row) => {
                row.1 += 1;
                row.2 += file.size;
            }
            None => rows.push((name, 1, file.size)),
        }
    }
    rows
}

/// Digits in groups of three.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use roomreel_shared::key::Key;

    #[test]
    fn numbered_files_are_one_row() {
        let listed = |key: &str, size| Listed { key: Key::listed(key.to_owned()), size, version: String::new() };
        let files = [
            listed("r/composites/grid/00000000.m4s", 5),
            listed("r/composites/grid/00000001.m4s", 6),
            listed("r/composites/grid/composite.mp4", 11),
            listed("r/recording.json", 1),
        ];
        assert_eq!(
            table("r/", &files),
            [
                ("composites/grid/*.m4s".to_owned(), 2, 11),
                ("composites/grid/composite.mp4".to_owned(), 1, 11),
                ("recording.json".to_owned(), 1, 1)
            ]
        );
        assert_eq!((grouped(7), grouped(1_234), grouped(123_456)), ("7".into(), "1,234".into(), "123,456".into()));
    }
}
