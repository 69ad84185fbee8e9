//! One render, step by step: windows from the bucket through the render core, slices, playlist, file and documents back into it.
//!
//! Owns the order of these writes, so that a process that is killed anywhere leaves something its successor goes on from: a slice
//! exists before the playlist names it, the file and the documents come last, and "finished" is said after everything is there.
//! Does not own when a step is made or made again (see [`crate::actor`]), nor what a slice looks like ([`crate::render`]).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use opentelemetry::KeyValue;
use roomreel_shared::cluster::RenderJob;
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::id::{CompositeId, NodeId};
use roomreel_shared::key::{Key, RecordingKeys};
use roomreel_shared::output::Kind;
use roomreel_shared::ports::{CoordinationError, ObjectStore, Ports, StoreError};
use roomreel_shared::time::LogTime;
use roomreel_shared::window::{self, Window};
use time::OffsetDateTime;
use tracing::{Instrument as _, Span};

use crate::claim::{self, Claim};
use crate::documents::Documents;
use crate::documents::quality::RenderQuality;
use crate::encode::{AudioConfig, EncodedSlice, Grid, VideoConfig};
use crate::engine::{self, Engine, Isolation, Work};
use crate::join::OutOfOrder;
use crate::late::past::Past;
use crate::mux::{self, fragment, init_segment, parse_fragment};
use crate::outputs::{self, Outputs, Told};
use crate::playlist::Playlist;
use crate::workers::{Workers, in_thread};

/// Why a step did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bucket did not do what was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The coordination store did not do what was asked.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
    /// A window object is damaged.
    #[error("window {number}: {source}")]
    Window {
        /// Which.
        number: u64,
        /// How.
        source: window::Error,
    },
    /// The render cannot go on.
    #[error(transparent)]
    Render(#[from] engine::Error),
    /// An object in a slice's place is none.
    #[error("slice {number}: {source}")]
    Slice {
        /// Which.
        number: u64,
        /// Why not.
        source: mux::Error,
    },
    /// Slices do not follow each other (I5).
    #[error(transparent)]
    OutOfOrder(#[from] OutOfOrder),
    /// The files besides the slices are not made.
    #[error(transparent)]
    Outputs(#[from] outputs::Error),
    /// Slices exist that were encoded in another way and do not go with ours.
    #[error("{key} was written by an encoder with other settings")]
    OtherEncoder {
        /// The header's key.
        key: String,
    },
    /// Reading a window panicked: a bug.
    #[error("a window could not be read")]
    Crashed,
    /// The job is somebody else's now; nothing more may be written (I7).
    #[error("the job has been given to another node")]
    Superseded,
    /// Slices that were to be joined are not there.
    #[error("{found} of {expected} slices are there")]
    Missing {
        /// Slices from 0 on without a hole.
        found: u64,
        /// Slices of the render.
        expected: u64,
    },
}

impl From<claim::Error> for Error {
    fn from(error: claim::Error) -> Self {
        match error {
            claim::Error::Coordination(error) => Self::Coordination(error),
            claim::Error::Superseded => Self::Superseded,
        }
    }
}

impl Error {
    /// Whether the same step cannot succeed later.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Store(error) => error.is_permanent(),
            Self::Render(error) => error.is_permanent(),
            Self::Outputs(error) => error.is_permanent(),
            Self::Coordination(error) => matches!(error, CoordinationError::Refused { .. }),
            _ => true,
        }
    }
}

/// What follows a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// There is more to do.
    Step,
    /// The next window is not there yet.
    Wait,
    /// Everything is in the bucket.
    Finished,
}

/// The composite's side of a job.
struct Composite {
    spec: CompositeSpec,
    engine: Engine,
    video: VideoConfig,
    outputs: Outputs,
    playlist: Playlist,
    /// Rendered, not yet stored; with the span of its rendering.
    pending: Option<(EncodedSlice, Span)>,
    /// Every due slice of the windows so far has been rendered.
    is_drained: bool,
    /// Slices, playlist and joined files are whole.
    is_ended: bool,
}

impl Composite {
    fn quality(&self) -> Option<RenderQuality> {
        let mut quality = self.engine.quality()?;
        self.outputs.notes().for_each(|note| quality.note(note.to_owned()));
        Some(quality)
    }
}

/// A render and where it stands.
pub struct Job {
    ports: Ports,
    claim: Claim,
    job: RenderJob,
    keys: RecordingKeys,
    /// The cores of the node, shared by all of its renders.
    workers: Arc<Workers>,
    meters: Meters,
    documents: Documents,
    /// Windows that the documents know.
    documented: u64,
    composite: Option<Composite>,
    next_window: u64,
    /// The trace that the newest window joins, and so do the slices that it makes due.
    trace_parent: Option<String>,
    /// Where the newest window ends on the log's clock.
    log_end: LogTime,
    final_seen: bool,
    isolation: Option<Arc<Isolation>>,
    files: BTreeSet<String>,
}

pub(crate) struct Meters {
    pub(crate) slices: opentelemetry::metrics::Counter<u64>,
    pub(crate) render_time: opentelemetry::metrics::Histogram<f64>,
    lag: opentelemetry::metrics::Histogram<f64>,
    pub(crate) failures: opentelemetry::metrics::Counter<u64>,
    /// Counts itself while it exists.
    open_renders: opentelemetry::metrics::UpDownCounter<i64>,
}

impl Drop for Meters {
    fn drop(&mut self) {
        self.open_renders.add(-1, &[]);
    }
}

impl Meters {
    pub(crate) fn new() -> Self {
        let meter = opentelemetry::global::meter("roomreel");
        let open_renders = meter
            .i64_up_down_counter("roomreel.compositor.open_renders")
            .with_unit("{render}")
            .with_description("renders that this node has taken up and not let go of")
            .build();
        open_renders.add(1, &[]);
        Self {
            open_renders,
            failures: meter
                .u64_counter("roomreel.compositor.failed_steps")
                .with_unit("{step}")
                .with_description("steps that did not succeed: permanent ones end a render, others are made again")
                .build(),
            slices: meter
                .u64_counter("roomreel.compositor.slices")
                .with_unit("{slice}")
                .with_description("slices rendered and stored")
                .build(),
            render_time: meter
                .f64_histogram("roomreel.compositor.render_time")
                .with_unit("1")
                .with_boundaries(vec![0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 5.0])
                .with_description("time spent rendering per second of output")
                .build(),
            lag: meter
                .f64_histogram("roomreel.compositor.slice_lag")
                .with_unit("s")
                .with_boundaries(vec![0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 15.0, 30.0, 60.0, 120.0, 600.0])
                .with_description(
                    "from the end of the window that made a slice due, on the log's clock, to the slice in the bucket",
                )
                .build(),
        }
    }
}

impl Job {
    /// A job as it stands under its key at `revision`.
    #[must_use]
    pub fn new(ports: Ports, node: NodeId, job: RenderJob, revision: u64, workers: Arc<Workers>) -> Self {
        let keys = RecordingKeys::new(&job.spec.tenant, &job.spec.room, &job.spec.recording);
        let documents = Documents::new(&job.spec);
        Self {
            ports,
            claim: Claim::new(node, &job, revision),
            keys,
            workers,
            meters: Meters::new(),
            documents,
            documented: 0,
            composite: None,
            next_window: 0,
            trace_parent: None,
            log_end: LogTime::default(),
            final_seen: false,
            isolation: None,
            files: BTreeSet::new(),
            job,
        }
    }

    /// Renders in processes of their own, if there is to be isolation.
    #[must_use]
    pub fn isolated(self, isolation: Option<Arc<Isolation>>) -> Self {
        Self { isolation, ..self }
    }

    /// The leader rewrote the job without taking it away.
    pub fn set_revision(&mut self, revision: u64) {
        self.claim.set_revision(revision);
    }

    /// What it renders, for logs.
    #[must_use]
    pub fn composite_id(&self) -> Option<&CompositeId> {
        self.job.composite.as_ref().map(|spec| &spec.id)
    }

    /// Does one thing.
    ///
    /// # Errors
    /// Any [`Error`]; unless it is permanent, the step can be made again.
    pub async fn step(&mut self) -> Result<Next, Error> {
        let done = self.try_step().await;
        if let Err(error) = &done
            && !matches!(error, Error::Superseded)
        {
            self.meters.failures.add(1, &[KeyValue::new("permanent", error.is_permanent())]);
        }
        done
    }

    async fn try_step(&mut self) -> Result<Next, Error> {
        if let Some(spec) = self.job.composite.clone()
            && self.composite.is_none()
        {
            return self.begin(spec).await;
        }
        if let Some(composite) = &self.composite {
            if composite.pending.is_some() {
                self.store_pending().await?;
                return Ok(Next::Step);
            }
            if !composite.is_drained {
                self.render().await?;
                return Ok(Next::Step);
            }
        }
        if self.final_seen || self.job.late.is_some() {
            return self.end().await;
        }
        self.follow().await
    }

    /// Sets the render up behind the slices that exist.
    async fn begin(&mut self, spec: CompositeSpec) -> Result<Next, Error> {
        let first = match self.ports.store.get(&self.keys.window(0)).await {
            Ok(object) => parse_window(0, object)?,
            Err(StoreError::NotFound { .. }) => return Ok(Next::Wait),
            Err(error) => return Err(error.into()),
        };
        let listed = self.ports.store.list(&self.keys.composite_prefix(&spec.id)).await?;
        let numbers: BTreeSet<_> =
            listed.iter().filter_map(|object| self.keys.slice_number(&spec.id, &object.key)).collect();
        let existing = (0..).take_while(|number| numbers.contains(number)).count() as u64;
        let late = self.job.late.as_ref();
        if let Some(expected) = late.map(|late| late.division.slices).filter(|expected| existing < *expected) {
            return Err(Error::Missing { found: existing, expected });
        }
        let mut past = Past::of(&self.ports.store, &self.job.spec);
        let (mut documents, mut told) = (Documents::new(&self.job.spec), Told::of(&spec));
        // Slices of a late render were made elsewhere: nothing is rendered here.
        let behind = if late.is_some() { 0 } else { existing };
        if behind > 0 {
            let slice = Duration::from_millis(self.job.spec.window_ms);
            let until = slice.saturating_mul(u32::try_from(behind).unwrap_or(u32::MAX));
            let tell = |window: &Window| {
                documents.push_window(window);
                told.take_note(window);
            };
            past.read_until(until, tell).await?;
        }
        let work = Work { spec: spec.clone(), fold: self.job.spec.clone(), first: behind, late: None };
        let engine = Engine::open_behind(work, self.isolation.as_ref(), &self.ports.store, past).await?;
        let (video, audio) = (engine.video_config().clone(), engine.audio_config().clone());
        put_init(&*self.ports.store, &self.keys.init(&spec.id), &video, &audio).await?;
        let start = first.header.room_start + late.map_or(Duration::ZERO, |late| late.stretch().start);
        let start = i128::from(start.as_micros()) * 1000;
        let start = OffsetDateTime::from_unix_timestamp_nanos(start).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let (fold, cuts) = (&self.job.spec, late.map(|late| late.cuts.clone()).unwrap_or_default());
        let (date, configs, isolation) = (start.date().to_string(), (&video, &audio), self.isolation.clone());
        (self.documents, self.documented) = (documents, told.windows());
        self.next_window = engine.first_window();
        let mut outputs = Outputs::new(self.ports.store.clone(), &spec, fold, date, configs, told, isolation)?;
        let mut playlist = Playlist::new(start, Duration::from_millis(fold.window_ms), cuts);
        if existing > 0 {
            outputs.resume(existing).await?;
            let newest = existing - 1;
            let object = self.ports.store.get(&self.keys.slice(&spec.id, newest)).await?;
            let grid = Grid::new(fold.window_ms, spec.fps);
            // All are as long as they have to be but for the newest, which may be the last.
            (0..newest).for_each(|number| playlist.push(grid.duration(number)));
            playlist.push(duration(&parse_slice(newest, &object)?, &video));
        }
        self.composite = Some(Composite {
            outputs,
            playlist,
            spec,
            engine,
            video,
            pending: None,
            is_drained: true,
            is_ended: false,
        });
        Ok(Next::Step)
    }

    /// Renders the next slice that is due, away from the runtime's threads.
    async fn render(&mut self) -> Result<(), Error> {
        let composite = self.composite.as_mut().expect("only called with a composite");
        let span = composite.engine.next_number().map_or_else(Span::none, |slice| {
            tracing::info_span!(
                "render slice",
                recording = %self.job.spec.recording,
                composite = %composite.spec.id,
                slice,
                window = self.next_window.saturating_sub(1),
                traceparent = self.trace_parent.as_deref()
            )
        });
        let core = self.workers.turn().await;
        let began = Instant::now();
        let slice = composite.engine.next_slice(span.clone()).await;
        let spent = began.elapsed();
        drop(core);
        self.workers.took(spent);
        composite.pending = slice?.map(|slice| (slice, span));
        composite.is_drained = composite.pending.is_none();
        if let Some((slice, _)) = &composite.pending {
            let output = duration(slice, &composite.video).as_secs_f64();
            self.meters.render_time.record(spent.as_secs_f64() / output.max(0.001), &[]);
        }
        Ok(())
    }

    /// Stores the rendered slice, or takes the one that another node has stored in its place (I5).
    async fn store_pending(&mut self) -> Result<(), Error> {
        let composite = self.composite.as_ref().expect("only called with a composite");
        let Some((mut slice, span)) = composite.pending.clone() else { return Ok(()) };
        // Before the slice, whose presence says that it has been made.
        let spec = composite.spec.clone();
        outputs::keep_webm(&*self.ports.store, &self.keys, &spec, &mut slice).await?;
        let key = self.keys.slice(&spec.id, slice.number);
        let body = fragment(&slice).map_err(|source| Error::Slice { number: slice.number, source })?;
        let put = tracing::info_span!(parent: &span, "put slice", %key, bytes = body.len());
        let stored = match self.ports.store.create(&key, body).instrument(put).await {
            Ok(()) => slice,
            Err(StoreError::AlreadyExists { .. }) => {
                let stored = parse_slice(slice.number, &self.ports.store.get(&key).await?)?;
                EncodedSlice { webm: slice.webm, ..stored }
            }
            Err(error) => return Err(error.into()),
        };
        // Not again, if this step is made again.
        let composite = self.composite.as_mut().expect("only called with a composite");
        if composite.playlist.slices() == stored.number {
            composite.outputs.take_in(&stored);
            composite.playlist.push(duration(&stored, &composite.video));
            self.meters.slices.add(1, &[]);
            let now = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1000;
            self.meters.lag.record((now - i128::from(self.log_end.as_micros())) as f64 / 1e6, &[]);
        }
        self.composite.as_mut().expect("it is there").outputs.join_newest().await?;
        // Asks whether the job is still ours, before what a successor and all readers see is written (I7).
        self.report(false, None).await?;
        self.composite.as_mut().expect("it is there").outputs.save().await?;
        self.put_playlist().await?;
        self.composite.as_mut().expect("only called with a composite").pending = None;
        Ok(())
    }

    async fn put_playlist(&mut self) -> Result<(), Error> {
        let Some(composite) = &self.composite else { return Ok(()) };
        if !composite.spec.outputs.iter().any(|output| output.kind == Kind::Hls) {
            return Ok(());
        }
        let key = self.keys.playlist(&composite.spec.id);
        self.ports.store.put(&key, Bytes::from(composite.playlist.render())).await?;
        self.note(&key);
        Ok(())
    }

    /// Reads the next window of the chain.
    async fn follow(&mut self) -> Result<Next, Error> {
        let number = self.next_window;
        let object = match self.ports.store.get(&self.keys.window(number)).await {
            Ok(object) => object,
            Err(StoreError::NotFound { .. }) => {
                return Ok(if self.catch_up().await? { Next::Step } else { Next::Wait });
            }
            Err(error) => return Err(error.into()),
        };
        let window = Arc::new(in_thread(Error::Crashed, move || parse_window(number, object)).await??);
        if let Some(composite) = &mut self.composite {
            composite.engine.push_window(window.clone()).await?;
            composite.outputs.take_in_window(&window);
            composite.is_drained = false;
        }
        self.final_seen = window.header.end.is_some();
        self.log_end = window.header.log_span.1;
        self.trace_parent.clone_from(&window.header.trace_parent);
        if number == self.documented {
            self.documents.push_window(&window);
            self.documented += 1;
        }
        self.next_window += 1;
        Ok(Next::Step)
    }

    /// Brings the files besides the slices a step further; `false` if there is nothing to do. Slices come first: nobody waits for files
    /// before the end.
    async fn catch_up(&mut self) -> Result<bool, Error> {
        let Some(composite) = &mut self.composite else { return Ok(false) };
        let is_joining = composite.outputs.join().await?;
        if composite.outputs.is_unsaved() {
            // Asks whether the job is still ours, before what a successor reads is written (I7).
            self.report(false, None).await?;
            self.composite.as_mut().expect("it is there").outputs.save().await?;
        }
        if is_joining {
            return Ok(true);
        }
        Ok(self.composite.as_mut().expect("it is there").outputs.make().await?)
    }

    /// Writes what stands at the end, then says so. What most people wait for comes first.
    async fn end(&mut self) -> Result<Next, Error> {
        let late = self.job.late.clone();
        if let Some(composite) = &mut self.composite
            && !composite.is_ended
        {
            if composite.outputs.join().await? || (late.is_some() && self.follow_for_outputs().await?) {
                return Ok(Next::Step);
            }
            let composite = self.composite.as_mut().expect("it is there");
            if !composite.outputs.finish_joined(late.as_ref()).await? {
                return Ok(Next::Step);
            }
            composite.playlist.end();
            self.note_ready();
            self.report(false, None).await?;
            self.put_playlist().await?;
            self.composite.as_mut().expect("it is there").is_ended = true;
            return Ok(Next::Step);
        }
        if let Some(composite) = &mut self.composite {
            if composite.outputs.make().await? || !composite.outputs.finish_made(late.as_ref()).await? {
                return Ok(Next::Step);
            }
            self.note_ready();
        }
        if self.job.documents {
            let quality: Vec<_> = self.composite.iter().filter_map(Composite::quality).collect();
            let documents = [
                (self.keys.timeline_json(), serde_json::to_vec_pretty(&self.documents.timeline())),
                (self.keys.metadata_json(), serde_json::to_vec_pretty(&self.documents.metadata())),
                (self.keys.quality_json(), serde_json::to_vec_pretty(&self.documents.quality(&quality))),
            ];
            for (key, text) in documents {
                let text = text.expect("documents are made of what JSON can say");
                self.ports.store.put(&key, Bytes::from(text)).await?;
                self.note(&key);
            }
        }
        self.report(true, None).await?;
        Ok(Next::Finished)
    }

    /// A late render's slices are made elsewhere; what its files need of the windows is read here, one of them at a time. `false` if
    /// there is no more.
    async fn follow_for_outputs(&mut self) -> Result<bool, Error> {
        let Some(composite) = &mut self.composite else { return Ok(false) };
        if !composite.outputs.wants_windows() {
            return Ok(false);
        }
        let number = self.next_window;
        let object = match self.ports.store.get(&self.keys.window(number)).await {
            Ok(object) => object,
            Err(StoreError::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let window = in_thread(Error::Crashed, move || parse_window(number, object)).await??;
        composite.outputs.take_in_window(&Arc::new(window));
        self.next_window += 1;
        // While it is at hand.
        composite.outputs.make().await?;
        Ok(true)
    }

    fn note_ready(&mut self) {
        let Some(composite) = &self.composite else { return };
        let ready: Vec<_> = composite.outputs.ready().cloned().collect();
        ready.iter().for_each(|key| self.note(key));
    }

    fn note(&mut self, key: &Key) {
        if let Some(name) = key.as_str().strip_prefix(self.keys.prefix()) {
            self.files.insert(name.to_owned());
        }
    }

    /// Says in the coordination store how far it has come, provided that the job is still ours.
    ///
    /// # Errors
    /// [`Error::Superseded`] if it is not; [`Error::Coordination`].
    pub async fn report(&mut self, finished: bool, error: Option<String>) -> Result<(), Error> {
        let slices = self.composite.as_ref().map_or(0, |composite| composite.playlist.slices());
        let files = self.files.iter().cloned().collect();
        Ok(self.claim.report(&*self.ports.coordination, slices, finished, error, files).await?)
    }

    /// Lets go of what was uploaded in parts and will never become a file.
    pub async fn abandon(&mut self) {
        if let Some(composite) = &mut self.composite {
            composite.outputs.abandon().await;
        }
    }
}

/// Creates the header of a composite's slices, or finds that it is there as ours would be.
pub(crate) async fn put_init(
    store: &dyn ObjectStore,
    key: &Key,
    video: &VideoConfig,
    audio: &AudioConfig,
) -> Result<(), Error> {
    let header = init_segment(video, audio);
    match store.create(key, header.clone()).await {
        Err(StoreError::AlreadyExists { .. }) => {
            if store.get(key).await? == header {
                Ok(())
            } else {
                Err(Error::OtherEncoder { key: key.to_string() })
            }
        }
        other => Ok(other?),
    }
}

pub(crate) fn duration(slice: &EncodedSlice, video: &VideoConfig) -> Duration {
    let ticks: u64 = slice.video.iter().map(|sample| u64::from(sample.duration)).sum();
    Duration::from_nanos(ticks.saturating_mul(1_000_000_000) / u64::from(video.timescale.max(1)))
}

pub(crate) fn parse_window(number: u64, object: Bytes) -> Result<Window, Error> {
    Window::parse(object).map_err(|source| Error::Window { number, source })
}

pub(crate) fn parse_slice(number: u64, object: &Bytes) -> Result<EncodedSlice, Error> {
    let slice = parse_fragment(object).map_err(|source| Error::Slice { number, source })?;
    if slice.number == number { Ok(slice) } else { Err(OutOfOrder { number: slice.number, expected: number }.into()) }
}
