//! `roomreel render`: a recording that has ended, in another layout, or a part of it: by a running cluster, or by this process alone.
//!
//! Owns the command, what it prints, and that all cores have something to do. Does not own what a slice looks like, nor how a render
//! is divided.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::Args;
use roomreel_backends::memory::{MemoryCoordination, MemoryLog};
use roomreel_compositor::engine::Isolation;
use roomreel_compositor::late::{Spans, Step};
use roomreel_compositor::render_job::{Job, Next};
use roomreel_coordinator::late::{self, Source};
use roomreel_shared::cluster::RenderJob;
use roomreel_shared::id::{CompositeId, NodeId, PeerId, RecordingId};
use roomreel_shared::key::RecordingName;
use roomreel_shared::late::{ActiveRender, LateRender, LateSpec, LateState, Piece};
use roomreel_shared::ports::{Change, ObjectStore, Outcome, Ports};
use time::OffsetDateTime;
use tokio::task::{JoinSet, block_in_place};

use crate::client::{Api, ApiArgs};
use crate::output::{self, Progress};
use crate::recording_files;
use crate::roles::CompositeSettings;
use crate::sandbox::SandboxSettings;
use crate::settings::StoreArgs;

/// How often the API is asked how far the render is.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often an error that may pass is waited for.
const MAX_RETRIES: u32 = 5;
/// Ranges of spans for each core: so a core that is done early takes another's share.
const RANGES_PER_CORE: u64 = 3;

/// Arguments of `roomreel render`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  roomreel render 01kaj0v6zq3w8n5x2r7m4c9d1e --layout speaker --wait
  roomreel render 01kaj0v6zq3w8n5x2r7m4c9d1e --layout presentation --from 1:30 --to 5m --hide bo \\
    --id pitch
  roomreel render out/demo/default/rooms/demo/recordings/01kaj0… --layout pip
  roomreel render 01kaj0v6zq3w8n5x2r7m4c9d1e --store s3://recordings \\
    --layout \"$(cat regions.json)\" --id stage

Without --store, and with an id, the cluster behind the API renders, on all its compositors. \
With --store, or a recording's directory, this process does, on all cores; no cluster is needed. \
Either way the result stands beside the recording, which lists it, and a render that was interrupted goes on when it is asked for again.")]
pub struct RenderArgs {
    /// The recording: its id, or its directory, or (with --store) its id or prefix in the bucket.
    #[arg(value_name = "RECORDING")]
    target: String,
    /// Where the result begins on the recording's clock, for example 1:30 or 90s. [default: its beginning]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    from: Option<Moment>,
    /// Where it ends. [default: the recording's end]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    to: Option<Moment>,
    /// Participant that is not shown; can be given again.
    #[arg(long, value_name = "PEER")]
    hide: Vec<PeerId>,
    /// Name of the composite in the bucket. [default: the name of its layout]
    #[arg(long, value_name = "NAME")]
    id: Option<CompositeId>,
    /// Come back when it is done, not when it is under way.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    composite: CompositeSettings,
    #[command(flatten)]
    sandbox: SandboxSettings,
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// A time on a recording's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Moment(Duration);

/// `90s`, `5m`, `1:30`, `1:02:03.5`; a number alone is seconds.
fn moment(text: &str) -> Result<Moment, String> {
    let shape = || format!("{text:?} is no time; write for example 1:30, 1:02:03.5, 90s or 5m");
    if text.ends_with(|last: char| last.is_ascii_alphabetic()) {
        return crate::config::duration(text).map(Moment);
    }
    let parts: Vec<_> = text.split(':').collect();
    let (seconds, whole) = parts.split_last().ok_or_else(shape)?;
    let is_number = |part: &str| part.starts_with(|first: char| first.is_ascii_digit());
    if whole.len() > 2 || !parts.iter().all(|part| is_number(part)) {
        return Err(shape());
    }
    let below = if whole.is_empty() { f64::MAX } else { 60.0 };
    let mut total: f64 = seconds.parse().ok().filter(|seconds| *seconds < below).ok_or_else(shape)?;
    for (place, part) in whole.iter().rev().enumerate() {
        let number: u32 =
            part.parse().ok().filter(|number| place + 1 == whole.len() || *number < 60).ok_or_else(shape)?;
        total += f64::from(number) * [60.0, 3600.0][place];
    }
    Duration::try_from_secs_f64(total).map(Moment).map_err(|_| shape())
}

impl RenderArgs {
    fn spec(&self) -> anyhow::Result<LateSpec> {
        let mut composite = self.composite.spec()?;
        if let Some(id) = &self.id {
            composite.id = id.clone();
        }
        let ms = |moment: Moment| u64::try_from(moment.0.as_millis()).unwrap_or(u64::MAX);
        let hidden: BTreeSet<_> = self.hide.iter().cloned().collect();
        let hidden = Some(hidden).filter(|hidden| !hidden.is_empty());
        Ok(LateSpec { composite, from_ms: self.from.map_or(0, ms), to_ms: self.to.map(ms), hidden })
    }
}

/// Runs the command; `false` if the render failed.
///
/// # Errors
/// If nothing can be rendered.
pub async fn run(args: &RenderArgs) -> anyhow::Result<bool> {
    let spec = args.spec()?;
    if args.store.is_given() || Path::new(&args.target).is_dir() {
        let (store, name) = recording_files::find(&args.target, &args.store).await?;
        let render = here(&store, &name, spec, &args.sandbox).await?;
        return show(args, &render);
    }
    let Ok(recording) = RecordingId::new(args.target.clone()) else {
        bail!("there is no directory {:?}, and it is no recording's id", args.target);
    };
    if args.target.contains('/') {
        recording_files::directory(&args.target)?;
    }
    block_in_place(|| in_cluster(args, &recording, &spec))
}

fn in_cluster(args: &RenderArgs, recording: &RecordingId, spec: &LateSpec) -> anyhow::Result<bool> {
    let api = Api::new(&args.api)?;
    let read = |answer| serde_json::from_value::<LateRender>(answer).context("read the API's answer");
    let mut render =
        read(api.post(&["v1", "recordings", recording.as_str(), "composites"], &serde_json::to_value(spec)?)?)?;
    if args.wait {
        let mut told = Told::default();
        while !render.state.is_final() {
            told.tell(&render)?;
            std::thread::sleep(ASK_EVERY);
            let path = ["v1", "recordings", recording.as_str(), "composites", spec.composite.id.as_str()];
            render = read(api.get(&path)?)?;
        }
        told.progress.end()?;
    }
    show(args, &render)
}

fn show(args: &RenderArgs, render: &LateRender) -> anyhow::Result<bool> {
    let text = if args.api.json() { serde_json::to_string_pretty(render)? + "\n" } else { text(render) };
    output::print(text)?;
    Ok(render.state != LateState::Failed)
}

fn text(render: &LateRender) -> String {
    let mut out = String::new();
    let mut line =
        |name: &str, value: &str| writeln!(out, "{name:<10} {value}").expect("writing to a String cannot fail");
    line("recording", render.recording.as_str());
    line("composite", render.spec.composite.id.as_str());
    line("state", serde_json::to_value(render.state).unwrap_or_default().as_str().unwrap_or_default());
    line("reason", &render.reason);
    line("length", &format!("{:.1} s", render.duration_ms as f64 / 1000.0));
    if !render.state.is_final() {
        line("slices", &format!("{} of {}", render.rendered, render.slices));
    }
    for file in &render.files {
        line("file", file);
    }
    out
}

/// What was said of the progress.
#[derive(Default)]
struct Told {
    progress: Progress,
    line: String,
}

impl Told {
    fn tell(&mut self, render: &LateRender) -> anyhow::Result<()> {
        let line = match render.state {
            LateState::Joining => "joining the slices".to_owned(),
            // Tenths, where lines pile up.
            _ if !self.progress.is_live() => format!("{} % rendered", render.rendered * 10 / render.slices.max(1) * 10),
            _ => format!("{} of {} slices rendered", render.rendered, render.slices),
        };
        if line != self.line {
            self.progress.show(&line)?;
            self.line = line;
        }
        Ok(())
    }
}

/// Renders in this process, on all cores.
async fn here(
    store: &Arc<dyn ObjectStore>,
    name: &RecordingName,
    spec: LateSpec,
    sandbox: &SandboxSettings,
) -> anyhow::Result<LateRender> {
    let isolation = sandbox.isolation()?;
    let source = Source::asked(&**store, name, &spec).await.context("look at the recording")?;
    let mut active = source.render(spec, "", OffsetDateTime::now_utc())?;
    let composite = active.render.spec.composite.id.clone();
    let keys = name.keys();
    let is_new = late::document(&**store, &keys, &composite).await?.is_none();
    let taken = || format!("the recording has another composite {composite}; choose another name with --id");
    if is_new && !store.list(&keys.composite_prefix(&composite)).await?.is_empty() {
        bail!(taken());
    }
    let bound = late::bind(&**store, &active).await?;
    if bound.spec != active.render.spec {
        bail!(taken());
    }
    if bound.state == LateState::Complete {
        return Ok(bound);
    }
    let mut told = Told::default();
    let made = render_spans(store, &active, isolation.as_ref(), &mut told).await;
    told.progress.end()?;
    let joined = match made {
        Ok(()) => join(store, &active, isolation).await,
        Err(error) => Err(error),
    };
    active.render.rendered = active.render.slices;
    active.render.finished_at = Some(OffsetDateTime::now_utc());
    match joined {
        Ok(files) => {
            active.render.files = files;
            active.render.state = LateState::Complete;
            "everything is in the bucket".clone_into(&mut active.render.reason);
        }
        Err(error) => {
            active.render.rendered = 0;
            active.render.state = LateState::Failed;
            active.render.reason = format!("{error:#}");
        }
    }
    late::record(&**store, &active.fold, &active.render).await.context("write down what came of it")?;
    Ok(active.render)
}

async fn render_spans(
    store: &Arc<dyn ObjectStore>,
    active: &ActiveRender,
    isolation: Option<&Arc<Isolation>>,
    told: &mut Told,
) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let spans = active.division.spans();
    let length = spans.div_ceil(cores * RANGES_PER_CORE).max(1);
    let mut ranges = (0..spans).step_by(length as usize).map(|first| first..(first + length).min(spans));
    let made = Arc::new(AtomicU64::new(0));
    let mut workers = JoinSet::new();
    let mut take = |workers: &mut JoinSet<_>| {
        if let Some(range) = ranges.next() {
            let late = active.share(Piece::Spans { first: range.start, end: range.end });
            let (spec, fold) = (active.render.spec.composite.clone(), active.fold.clone());
            let spans = Spans::new(store.clone(), spec, fold, late, range).isolated(isolation.cloned());
            workers.spawn(render_range(spans, made.clone()));
        }
    };
    for _ in 0..cores {
        take(&mut workers);
    }
    let mut shown = active.render.clone();
    loop {
        tokio::select! {
            done = workers.join_next() => match done {
                Some(done) => {
                    done??;
                    take(&mut workers);
                }
                None => return Ok(()),
            },
            () = tokio::time::sleep(ASK_EVERY) => {
                shown.rendered = made.load(Ordering::Relaxed);
                told.tell(&shown)?;
            }
        }
    }
}

async fn render_range(mut spans: Spans, made: Arc<AtomicU64>) -> anyhow::Result<()> {
    let mut retries = 0;
    let mut counted = 0;
    loop {
        match spans.step().await {
            Ok(Step::Finished) => return Ok(()),
            Ok(_) => {
                retries = 0;
                made.fetch_add(spans.made() - counted, Ordering::Relaxed);
                counted = spans.made();
            }
            Err(error) if error.is_permanent() || retries == MAX_RETRIES => return Err(error.into()),
            Err(_) => {
                retries += 1;
                tokio::time::sleep(ASK_EVERY).await;
            }
        }
    }
}

/// Joins the slices to files, as a node of a cluster would.
async fn join(
    store: &Arc<dyn ObjectStore>,
    active: &ActiveRender,
    isolation: Option<Arc<Isolation>>,
) -> anyhow::Result<Vec<String>> {
    let log = Arc::new(MemoryLog::system());
    let coordination = Arc::new(MemoryCoordination::new());
    let ports = Ports { log: log.clone(), bus: log, store: store.clone(), coordination };
    let node = NodeId::new("render")?;
    let job = RenderJob {
        node: Some(node.clone()),
        spec: active.fold.clone(),
        composite: Some(active.render.spec.composite.clone()),
        documents: false,
        failures: 0,
        late: Some(active.share(Piece::Join)),
    };
    let put = Change::Put(job.key(), Bytes::from(serde_json::to_vec(&job)?), None);
    let Outcome::Committed(revision) = ports.coordination.transact(Vec::new(), vec![put]).await? else {
        bail!("a transaction without a condition was refused");
    };
    let progress_key = job.progress_key();
    let mut job = Job::new(ports.clone(), node, job, revision, Arc::default()).isolated(isolation);
    let mut retries = 0;
    loop {
        match job.step().await {
            Ok(Next::Finished) => break,
            Ok(_) => retries = 0,
            Err(error) if error.is_permanent() || retries == MAX_RETRIES => {
                job.abandon().await;
                return Err(error.into());
            }
            Err(_) => {
                retries += 1;
                tokio::time::sleep(ASK_EVERY).await;
            }
        }
    }
    let record = ports.coordination.get(&progress_key).await?.context("the join reported nothing")?;
    Ok(serde_json::from_slice::<roomreel_shared::cluster::RenderProgress>(&record.value)?.files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("90", Some(90.0)),
            ("90s", Some(90.0)),
            ("5m", Some(300.0)),
            ("1:30", Some(90.0)),
            ("100:00", Some(6000.0)),
            ("1:02:03.5", Some(3723.5)),
            ("0:00", Some(0.0)),
            ("1:60", None),
            ("1:99:00", None),
            ("1:2:3:4", None),
            ("-5", None),
            ("1:-3", None),
            ("", None),
            (":", None),
            ("5 m", None),
            ("inf", None),
            ("soon", None),
        ] {
            assert_eq!(moment(text).ok(), seconds.map(|s| Moment(Duration::from_secs_f64(s))), "{text:?}");
        }
    }
}
