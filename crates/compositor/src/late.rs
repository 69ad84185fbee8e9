//! Late renders: the slices of a recording that has ended, made span by span, by as many as there are.
//!
//! Every span is made by a render core of its own, behind a warm-up that depends on the recording alone: what happened before is
//! told by the footers of its windows, and packets are read from [`WARM_UP`](crate::render::WARM_UP) before the span on, or from the key picture that
//! a picture seen then builds on. So the slices of a span come out equal, byte for byte, whoever makes it, after whatever interruption, and in
//! which company.
//!
//! Owns which spans are made and which windows are read for them (`past`). Does not own who makes which (the coordinator does), nor
//! the files that are made of the slices ([`crate::render_job`]).

mod job;
pub(crate) mod past;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::late::LateJob;
use roomreel_shared::ports::{ObjectStore, StoreError};
use tracing::Span;

pub(crate) use self::job::SpanJob;
use self::past::Past;
use crate::encode::EncodedSlice;
use crate::engine::{Engine, Isolation, Work};
use crate::mux::fragment;
use crate::outputs;
use crate::render_job::{self, Error, parse_window, put_init};
use crate::workers::in_thread;

/// What follows a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    /// There is more to do.
    More,
    /// A slice of this length stands in the bucket now; it took so long to render.
    Made(Duration, Duration),
    /// Every slice of the spans is there.
    Finished,
}

/// Makes the slices of some spans of a late render.
pub struct Spans {
    store: Arc<dyn ObjectStore>,
    keys: RecordingKeys,
    spec: CompositeSpec,
    fold: FoldSpec,
    late: LateJob,
    past: Past,
    /// Slices of all spans that were to be made.
    share: Range<u64>,
    /// Spans that are still to be made.
    todo: Range<u64>,
    /// Slices that exist; `None` before the first step.
    existing: Option<BTreeSet<u64>>,
    run: Option<Run>,
    isolation: Option<Arc<Isolation>>,
    /// Windows whose packets were read, of all spans.
    windows_read: u64,
}

/// One span in the making.
struct Run {
    engine: Engine,
    slices: Range<u64>,
    next_window: u64,
    is_drained: bool,
    /// Rendered, not yet stored.
    pending: Option<(EncodedSlice, Duration)>,
    spent: Duration,
}

impl Spans {
    /// The spans `todo` of a late render.
    #[must_use]
    pub fn new(
        store: Arc<dyn ObjectStore>,
        spec: CompositeSpec,
        fold: FoldSpec,
        late: LateJob,
        todo: Range<u64>,
    ) -> Self {
        let keys = RecordingKeys::new(&fold.tenant, &fold.room, &fold.recording);
        let past = Past::new(store.clone(), keys.clone());
        let share = late.division.slices_of(todo.clone());
        Self {
            store,
            keys,
            spec,
            fold,
            late,
            past,
            share,
            todo,
            existing: None,
            run: None,
            isolation: None,
            windows_read: 0,
        }
    }

    /// Renders in processes of their own, if there is to be isolation.
    #[must_use]
    pub fn isolated(self, isolation: Option<Arc<Isolation>>) -> Self {
        Self { isolation, ..self }
    }

    /// Slices of these spans that exist.
    #[must_use]
    pub fn made(&self) -> u64 {
        self.existing.as_ref().map_or(0, |existing| existing.range(self.share.clone()).count() as u64)
    }

    /// Windows whose packets were read so far, those that were read twice included.
    #[must_use]
    pub fn windows_read(&self) -> u64 {
        self.windows_read
    }

    /// Does one thing.
    ///
    /// # Errors
    /// Any [`Error`]; unless it is permanent, the step can be made again.
    pub async fn step(&mut self) -> Result<Step, Error> {
        let Some(existing) = &self.existing else {
            self.existing = Some(self.list().await?);
            return Ok(Step::More);
        };
        let Some(run) = &mut self.run else {
            let slices = self.late.division.slices_of(self.todo.start..self.todo.start + 1);
            if self.todo.is_empty() {
                return Ok(Step::Finished);
            }
            if slices.clone().all(|slice| existing.contains(&slice)) {
                self.todo.start += 1;
                return Ok(Step::More);
            }
            self.run = Some(self.begin(slices).await?);
            return Ok(Step::More);
        };
        if let Some((slice, spent)) = run.pending.clone() {
            return self.keep(slice, spent).await;
        }
        if run.slices.is_empty() {
            self.run = None;
            self.todo.start += 1;
            return Ok(Step::More);
        }
        if run.is_drained {
            let number = run.next_window;
            let object = self.store.get(&self.keys.window(number)).await?;
            let window = in_thread(Error::Crashed, move || parse_window(number, object)).await??;
            let began = Instant::now();
            run.engine.push_window(Arc::new(window)).await?;
            run.spent += began.elapsed();
            run.next_window += 1;
            run.is_drained = false;
            self.windows_read += 1;
            return Ok(Step::More);
        }
        let began = Instant::now();
        let slice = run.engine.next_slice(Span::current()).await?;
        run.spent += began.elapsed();
        run.is_drained = slice.is_none();
        run.pending = slice.map(|slice| (slice, std::mem::take(&mut run.spent)));
        Ok(Step::More)
    }

    async fn list(&mut self) -> Result<BTreeSet<u64>, StoreError> {
        let listed = self.store.list(&self.keys.composite_prefix(&self.spec.id)).await?;
        Ok(listed.iter().filter_map(|object| self.keys.slice_number(&self.spec.id, &object.key)).collect())
    }

    /// Sets a span up and tells it what was before.
    async fn begin(&mut self, slices: Range<u64>) -> Result<Run, Error> {
        let slice = Duration::from_millis(self.fold.window_ms);
        let first = u32::try_from(slices.start).unwrap_or(u32::MAX);
        let at = self.late.stretch().start + self.late.cuts.source_at(slice.saturating_mul(first));
        let windows = self.past.before(at).await?;
        let work = Work {
            spec: self.spec.clone(),
            fold: self.fold.clone(),
            first: slices.start,
            late: Some(self.late.clone()),
        };
        let mut engine = Engine::open(work, self.isolation.as_ref(), &self.store).await?;
        let init = self.keys.init(&self.spec.id);
        put_init(&*self.store, &init, engine.video_config(), engine.audio_config()).await?;
        let next_window = windows.len() as u64;
        for (number, object) in (0..).zip(windows) {
            let window = parse_window(number, object)?;
            engine.push_made(Arc::new(window)).await?;
        }
        Ok(Run { engine, slices, next_window, is_drained: true, pending: None, spent: Duration::ZERO })
    }

    /// Stores a slice unless it is there. It is equal then: nobody makes these slices in another way (I5).
    async fn keep(&mut self, mut slice: EncodedSlice, spent: Duration) -> Result<Step, Error> {
        let (Some(run), Some(existing)) = (&mut self.run, &mut self.existing) else { return Ok(Step::More) };
        let is_new = !existing.contains(&slice.number);
        if is_new {
            // Before the slice, whose presence says that it has been made.
            outputs::keep_webm(&*self.store, &self.keys, &self.spec, &mut slice).await?;
            let body = fragment(&slice).map_err(|source| Error::Slice { number: slice.number, source })?;
            match self.store.create(&self.keys.slice(&self.spec.id, slice.number), body).await {
                Ok(()) | Err(StoreError::AlreadyExists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            existing.insert(slice.number);
        }
        run.pending = None;
        run.slices.start = slice.number + 1;
        let length = render_job::duration(&slice, run.engine.video_config());
        Ok(if is_new { Step::Made(length, spent) } else { Step::More })
    }
}

#[cfg(test)]
mod tests;
