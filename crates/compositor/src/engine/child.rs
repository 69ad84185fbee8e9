//! The supervisor of a render's process: starts it, asks it, does not wait for ever, and starts another one when it is lost.
//!
//! Owns what a process is given and what is believed of its answers: nothing that a bucket's object would not be believed. Does not own
//! retries: an error that is not permanent means that the same may be asked again, and another process is given what the lost one had.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry::metrics::Counter;
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::ports::ObjectStore;
use roomreel_shared::window::Window;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::crashes::{Cause, Crashes, Verdict};
use super::wire::{self, Due, HEADER_BYTES, Hello, Kind, Ready, Rendered, Start};
use super::witness::{self, PAGE_BYTES};
use super::{Error, Isolation, Work};
use crate::decode::SAMPLE_RATE;
use crate::documents::quality::RenderQuality;
use crate::encode::{AudioConfig, EncodedSlice, Grid, Sample, VideoConfig};

/// What decoders may need, whatever the canvas: a hundred at the size that simulcast gives a small tile.
const MEMORY_BYTES: u64 = 3 << 30;
/// What the encoder may need, in canvases.
const CANVASES: u64 = 512;
/// How long a process may take to come up.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How often a process that works is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Lines of a process that are logged, and bytes of each.
const MAX_LINES: usize = 50;
const MAX_LINE_BYTES: u64 = 2000;
/// Parameter sets are a few dozen bytes.
const MAX_SET_BYTES: usize = 1024;

/// A process that died, or has to.
struct Death(String);

impl<E: std::error::Error> From<E> for Death {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// A render in a process of its own.
pub(super) struct Child {
    isolation: Arc<Isolation>,
    work: Work,
    windows: Windows,
    process: Option<Process>,
    /// Windows that the process has been given.
    given: usize,
    /// The slice to come.
    slice: u64,
    /// It is due.
    next: Option<u64>,
    crashes: Crashes,
    quality: Option<RenderQuality>,
    notes: Vec<String>,
    meters: Meters,
    pub(super) video: VideoConfig,
    pub(super) audio: AudioConfig,
}

/// What every process of a render is given, in this order.
enum Windows {
    /// As they stand in the bucket.
    Stored { store: Arc<dyn ObjectStore>, keys: Box<RecordingKeys>, numbers: Vec<u64> },
    /// Those of a span of a late render were made for it.
    Kept(Vec<Bytes>),
}

impl Windows {
    fn len(&self) -> usize {
        match self {
            Self::Stored { numbers, .. } => numbers.len(),
            Self::Kept(objects) => objects.len(),
        }
    }

    async fn get(&self, index: usize) -> Result<Bytes, Error> {
        match self {
            Self::Stored { store, keys, numbers } => Ok(store.get(&keys.window(numbers[index])).await?),
            Self::Kept(objects) => Ok(objects[index].clone()),
        }
    }

    fn add(&mut self, window: &Window) {
        match self {
            Self::Stored { numbers, .. } => numbers.push(window.header.window),
            Self::Kept(objects) => objects.push(window.object().clone()),
        }
    }
}

struct Meters {
    crashes: Counter<u64>,
    banned: Counter<u64>,
}

impl Child {
    pub(super) async fn open(
        work: Work,
        isolation: Arc<Isolation>,
        store: Arc<dyn ObjectStore>,
    ) -> Result<Self, Error> {
        let meter = opentelemetry::global::meter("roomreel");
        let meters = Meters {
            crashes: meter
                .u64_counter("roomreel.compositor.child_crashes")
                .with_unit("{crash}")
                .with_description("processes of renders that died or were killed because they did not answer")
                .build(),
            banned: meter
                .u64_counter("roomreel.compositor.banned_tracks")
                .with_unit("{track}")
                .with_description("tracks that are left out of a render because they brought its process down twice")
                .build(),
        };
        let keys = Box::new(RecordingKeys::new(&work.fold.tenant, &work.fold.room, &work.fold.recording));
        let windows = if work.late.is_some() {
            Windows::Kept(Vec::new())
        } else {
            Windows::Stored { store, keys, numbers: Vec::new() }
        };
        let nothing = Bytes::new;
        let mut child = Self {
            windows,
            process: None,
            given: 0,
            slice: work.first,
            next: None,
            crashes: Crashes::default(),
            quality: None,
            notes: Vec::new(),
            meters,
            video: VideoConfig {
                width: work.spec.width as u16,
                height: work.spec.height as u16,
                timescale: grid(&work).video_timescale(),
                sps: nothing(),
                pps: nothing(),
            },
            audio: AudioConfig {
                sample_rate: SAMPLE_RATE,
                channels: 2,
                bitrate: work.spec.audio_bitrate,
                specific: nothing(),
            },
            isolation,
            work,
        };
        child.revive().await?;
        Ok(child)
    }

    pub(super) fn next_number(&self) -> Option<u64> {
        self.next
    }

    pub(super) fn process_id(&self) -> Option<u32> {
        self.process.as_ref().and_then(|process| process.child.id())
    }

    pub(super) fn quality(&self) -> Option<RenderQuality> {
        let mut quality = self.quality.clone()?;
        self.notes.iter().for_each(|note| quality.note(note.clone()));
        Some(quality)
    }

    pub(super) async fn push_window(&mut self, window: &Window) -> Result<(), Error> {
        self.revive().await?;
        self.give(window.object()).await?;
        self.windows.add(window);
        self.given += 1;
        Ok(())
    }

    pub(super) async fn next_slice(&mut self) -> Result<Option<EncodedSlice>, Error> {
        if self.next.is_none() {
            return Ok(None);
        }
        self.revive().await?;
        let limit = self.limit();
        let Some(process) = &mut self.process else { return Err(Error::Crashed) };
        let asked = process.next(limit).await;
        let (rendered, slice) = self.believed(asked).await?;
        if let Some(slice) = &slice
            && let Err(death) = check(slice, self.slice, &self.work)
        {
            return Err(self.lost(death).await);
        }
        self.slice += u64::from(slice.is_some());
        self.next = rendered.next;
        self.quality = Some(rendered.quality());
        Ok(slice)
    }

    /// There is a process, and it has every window.
    async fn revive(&mut self) -> Result<(), Error> {
        if self.process.is_none() {
            self.given = 0;
            let recording = self.work.fold.recording.to_string();
            let mut process = Process::start(&self.isolation, memory(&self.work), recording)?;
            let greeted = process.greeting(&self.isolation).await;
            self.process = Some(process);
            match greeted {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error),
                Err(death) => return Err(self.lost(death).await),
            }
            self.begin().await?;
        }
        while self.given < self.windows.len() {
            let object = self.windows.get(self.given).await?;
            self.give(&object).await?;
            self.given += 1;
        }
        Ok(())
    }

    async fn begin(&mut self) -> Result<(), Error> {
        let work = Work { first: self.slice, ..self.work.clone() };
        let start = Start::new(&work, self.crashes.banned());
        #[cfg(debug_assertions)]
        let start = start.with_fault(self.isolation.fault.clone());
        let Some(process) = &mut self.process else { return Err(Error::Crashed) };
        let asked = process.ask_text::<Ready>(Kind::Start, &wire::text(&start), Kind::Ready, START_LIMIT).await;
        let ready = self.believed(asked).await?;
        let sets = [&ready.sps, &ready.pps, &ready.specific];
        if ready.sps.len() < 4 || sets.iter().any(|set| set.is_empty() || set.len() > MAX_SET_BYTES) {
            return Err(self.lost(Death("it gives impossible parameter sets".to_owned())).await);
        }
        (self.video.sps, self.video.pps) = (ready.sps.into(), ready.pps.into());
        self.audio.specific = ready.specific.into();
        Ok(())
    }

    async fn give(&mut self, object: &Bytes) -> Result<(), Error> {
        let limit = self.limit();
        let Some(process) = &mut self.process else { return Err(Error::Crashed) };
        let asked = process.ask_text::<Due>(Kind::Window, object, Kind::Due, limit).await;
        self.next = self.believed(asked).await?.next;
        Ok(())
    }

    fn limit(&self) -> Duration {
        let (base, slices) = self.isolation.answer_limit;
        base.saturating_add(Duration::from_millis(self.work.fold.window_ms).saturating_mul(slices))
    }

    /// What was answered; a render that cannot go on is the end, a process that cannot is replaced.
    async fn believed<T>(&mut self, asked: Result<Result<T, Error>, Death>) -> Result<T, Error> {
        match asked {
            Ok(answer) => answer,
            Err(death) => Err(self.lost(death).await),
        }
    }

    /// Buries the process and decides what follows.
    async fn lost(&mut self, Death(why): Death) -> Error {
        let Some(process) = self.process.take() else { return Error::Crashed };
        let place = process.page.as_ref().and_then(|page| witness::read(page).1);
        let ended = process.bury().await;
        let (how, cause) = describe(ended, why);
        let slice = self.slice;
        self.meters.crashes.add(1, &[]);
        match self.crashes.on_death(slice, cause, place.clone()) {
            Verdict::Again => Error::Lost { slice, how },
            Verdict::Ban(track) => {
                self.meters.banned.add(1, &[]);
                let at = Duration::from_millis(self.work.fold.window_ms).as_secs_f64() * slice as f64;
                tracing::warn!(
                    recording = %self.work.fold.recording,
                    composite = %self.work.spec.id,
                    sfu = %track.sfu,
                    track = %track.track,
                    slice,
                    how,
                    "a track brings its render's process down and is left out from here on; keep the recording and report it"
                );
                self.notes.push(format!(
                    "track {} of {} is left out from {at:.1} s (slice {slice}) on: decoding it brought the render's process down: {how}",
                    track.track, track.sfu
                ));
                Error::Lost { slice, how }
            }
            Verdict::GiveUp => Error::GaveUp { slice, how },
        }
    }
}

fn grid(work: &Work) -> Grid {
    Grid::new(work.fold.window_ms, work.spec.fps)
}

fn memory(work: &Work) -> u64 {
    MEMORY_BYTES + CANVASES * u64::from(work.spec.width) * u64::from(work.spec.height) * 3 / 2
}

/// What a slice must be like to be stored: where it says it is, and whole.
fn check(slice: &EncodedSlice, number: u64, work: &Work) -> Result<(), Death> {
    let is_contiguous = |samples: &[Sample]| {
        samples.windows(2).all(|pair| pair[0].dts.checked_add(pair[0].duration.into()) == Some(pair[1].dts))
    };
    let starts_at = grid(work).first_frame(number).saturating_mul(1000);
    let frames = grid(work).frames(number);
    let is_right = slice.number == number
        && slice.video.first().is_some_and(|first| first.key && u64::try_from(first.dts) == Ok(starts_at))
        && slice.video.len() as u64 <= (frames.end - frames.start).max(1)
        && slice.video.iter().all(|sample| sample.duration == 1000 && (sample.pts - sample.dts).abs() < 1_000_000)
        && slice.audio.iter().all(|sample| sample.dts >= 0 && sample.pts == sample.dts)
        && is_contiguous(&slice.video)
        && is_contiguous(&slice.audio);
    if is_right { Ok(()) } else { Err(Death(format!("what it gives is not slice {number}"))) }
}

/// In words, and whose doing it was. `why` says what the supervisor saw.
fn describe(ended: Ended, why: String) -> (String, Cause) {
    match ended {
        Ended::Killed => (why, Cause::Own),
        Ended::Alone(status) => match status.signal() {
            Some(signal) if signal == libc::SIGKILL || signal == libc::SIGTERM => {
                (format!("signal {signal} from outside"), Cause::Outside)
            }
            Some(signal) => (format!("signal {signal}"), Cause::Own),
            None => (format!("it ended with {status}"), Cause::Own),
        },
    }
}

/// How a process ended.
enum Ended {
    /// By itself or somebody else.
    Alone(ExitStatus),
    /// By its supervisor.
    Killed,
}

/// A running process.
struct Process {
    child: tokio::process::Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    /// What the process says that it works on.
    page: Option<File>,
    still_limit: Duration,
    _lines: AbortOnDropHandle<()>,
}

impl Process {
    fn start(isolation: &Isolation, memory_bytes: u64, recording: String) -> Result<Self, Error> {
        let page = new_page()?;
        let mut command = Command::new(&isolation.program);
        command.args(&isolation.arguments).arg("--memory-bytes").arg(memory_bytes.to_string());
        if let Some(page) = &page {
            command.arg("--page").arg(page.as_raw_fd().to_string());
        }
        // No variable, no secret; a signal to the terminal's processes is for the supervisor alone.
        command.env_clear().current_dir("/").process_group(0).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let spawned = command.spawn();
        if let Some(page) = &page {
            keep_from_others(page);
        }
        let mut child = spawned?;
        let (Some(to), Some(from), Some(lines)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(Error::Crashed);
        };
        let lines = AbortOnDropHandle::new(tokio::spawn(forward(lines, recording)));
        let from = BufReader::new(from);
        Ok(Self { child, to, from, page, still_limit: isolation.still_limit, _lines: lines })
    }

    /// Waits until the process is up; what it lacks of its isolation.
    async fn greeting(&mut self, isolation: &Isolation) -> Result<Result<Vec<String>, Error>, Death> {
        let greeting = timeout(START_LIMIT, receive(&mut self.from)).await;
        let (kind, content) = greeting.map_err(|_| Death("it did not come up".to_owned()))??;
        if kind != Kind::Hello {
            return Err(Death("it did not greet".to_owned()));
        }
        let hello: Hello = wire::read_text(&content)?;
        Ok(if isolation.is_required && !hello.lacks.is_empty() {
            Err(Error::NotIsolated(hello.lacks.join(", ")))
        } else {
            Ok(hello.lacks)
        })
    }

    async fn ask_text<T: serde::de::DeserializeOwned>(
        &mut self,
        kind: Kind,
        content: &[u8],
        expected: Kind,
        limit: Duration,
    ) -> Result<Result<T, Error>, Death> {
        let (to, from) = (&mut self.to, &mut self.from);
        let exchange = async {
            send(to, kind, content).await?;
            receive(from).await
        };
        let (kind, content) = watched(exchange, self.page.as_ref(), self.still_limit, limit).await?;
        answer(kind, &content, expected)
    }

    async fn next(&mut self, limit: Duration) -> Result<Result<(Rendered, Option<EncodedSlice>), Error>, Death> {
        let rendered: Rendered = match self.ask_text(Kind::Next, &[], Kind::Rendered, limit).await? {
            Ok(rendered) => rendered,
            Err(error) => return Ok(Err(error)),
        };
        if !rendered.is_due {
            return Ok(Ok((rendered, None)));
        }
        let (kind, content) = watched(receive(&mut self.from), self.page.as_ref(), self.still_limit, limit).await?;
        if kind != Kind::Slice {
            return Err(Death("it promised a slice".to_owned()));
        }
        Ok(Ok((rendered, Some(wire::decode_slice(content)?))))
    }

    /// Ends it if it has not ended.
    async fn bury(mut self) -> Ended {
        // Its pipes close just before it can be waited for.
        if let Ok(Ok(status)) = timeout(Duration::from_millis(500), self.child.wait()).await {
            return Ended::Alone(status);
        }
        // Fails only if it is gone.
        let _ = self.child.kill().await;
        Ended::Killed
    }
}

fn answer<T: serde::de::DeserializeOwned>(
    kind: Kind,
    content: &[u8],
    expected: Kind,
) -> Result<Result<T, Error>, Death> {
    match kind {
        Kind::Failed => {
            let why: String = String::from_utf8_lossy(content).chars().take(500).collect();
            Ok(Err(Error::Refused(why)))
        }
        kind if kind == expected => Ok(Ok(wire::read_text(content)?)),
        _ => Err(Death("it answered something else".to_owned())),
    }
}

async fn send(to: &mut ChildStdin, kind: Kind, content: &[u8]) -> std::io::Result<()> {
    to.write_all(&wire::header(kind, content.len())?).await?;
    to.write_all(content).await?;
    to.flush().await
}

async fn receive(from: &mut BufReader<ChildStdout>) -> std::io::Result<(Kind, Bytes)> {
    let mut header = [0; HEADER_BYTES];
    from.read_exact(&mut header).await?;
    let (kind, length) = wire::read_header(header)?;
    let mut content = Vec::new();
    // Grows with what comes, not with what is announced.
    from.take(length).read_to_end(&mut content).await?;
    if content.len() as u64 == length { Ok((kind, content.into())) } else { Err(wire::invalid("it broke off")) }
}

/// Waits for `exchange`, as long as the process moves and no longer than `limit`.
async fn watched<T>(
    exchange: impl Future<Output = std::io::Result<T>>,
    page: Option<&File>,
    still_limit: Duration,
    limit: Duration,
) -> Result<T, Death> {
    tokio::pin!(exchange);
    let began = Instant::now();
    let mut seen = (page.map(|page| witness::read(page).0), began);
    loop {
        if let Ok(result) = timeout(LOOK_EVERY, &mut exchange).await {
            return Ok(result?);
        }
        let writes = page.map(|page| witness::read(page).0);
        if writes != seen.0 {
            seen = (writes, Instant::now());
        }
        if page.is_some() && seen.1.elapsed() > still_limit {
            return Err(Death(format!("it has not moved for {} s", still_limit.as_secs_f32())));
        }
        if began.elapsed() > limit {
            return Err(Death(format!("it has not answered for {} s", limit.as_secs_f32())));
        }
    }
}

/// Logs what a process says, up to a bound.
async fn forward(lines: ChildStderr, recording: String) {
    let mut lines = BufReader::new(lines);
    for _ in 0..MAX_LINES {
        let mut line = Vec::new();
        match (&mut lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                tracing::info!(recording, line = %String::from_utf8_lossy(&line).trim_end(), "a render's process says")
            }
        }
    }
    // It would stand still if nobody read on.
    let _ = tokio::io::copy(&mut lines, &mut tokio::io::sink()).await;
}

/// Memory that a process inherits, of a size that nobody can change.
#[cfg(target_os = "linux")]
fn new_page() -> std::io::Result<Option<File>> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let page = rustix::fs::memfd_create("roomreel-witness", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    rustix::fs::ftruncate(&page, PAGE_BYTES as u64)?;
    rustix::fs::fcntl_add_seals(&page, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    rustix::io::fcntl_setfd(&page, rustix::io::FdFlags::empty())?;
    Ok(Some(page.into()))
}

#[cfg(not(target_os = "linux"))]
fn new_page() -> std::io::Result<Option<File>> {
    Ok(None)
}

/// Processes that are started later do not inherit it; those started meanwhile close it.
fn keep_from_others(page: &File) {
    // Fails for no file that is open.
    let _ = rustix::io::fcntl_setfd(page, rustix::io::FdFlags::CLOEXEC);
}

/// Starts a process and asks what it lacks.
pub(super) async fn probe(isolation: &Isolation) -> Result<Vec<String>, Error> {
    let mut process = Process::start(isolation, MEMORY_BYTES, "none: only to see what it lacks".to_owned())?;
    match process.greeting(isolation).await {
        Ok(lacks) => lacks,
        Err(Death(how)) => Err(Error::Lost { slice: 0, how: describe(process.bury().await, how).0 }),
    }
}
