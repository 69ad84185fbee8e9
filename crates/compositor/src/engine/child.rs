//! The supervisor of a render's process: starts it, asks it, does not wait for ever, and starts another one when it is lost.
//!
//! Owns what a process is given and what is believed of its answers: nothing that a bucket's object would not be believed. Does not own
//! retries: an error that is not permanent means that the same may be asked again, and another process is given what the lost one had.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry::metrics::Counter;
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::ports::ObjectStore;
use roomreel_shared::window::Window;

use super::crashes::{Crashes, Verdict};
use super::process::{Buried, Death, MEMORY_BYTES, Process, START_LIMIT};
use super::wire::{self, Due, Kind, Ready, Rendered, Start};
use super::{Error, Isolation, Work};
use crate::decode::SAMPLE_RATE;
use crate::documents::quality::RenderQuality;
use crate::encode::{AudioConfig, EncodedSlice, Grid, Sample, VideoConfig};

/// What the encoder may need, in canvases.
const CANVASES: u64 = 512;
/// Parameter sets are a few dozen bytes.
const MAX_SET_BYTES: usize = 1024;

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
        self.process.as_ref().and_then(Process::id)
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
        let asked = next(process, limit).await;
        let (rendered, slice) = self.believed(asked).await?;
        if let Some(slice) = &slice
            && let Err(death) = check(slice, self.slice, &self.work)
        {
            return Err(self.lost(death).await);
        }
        self.slice += u64::from(slice.is_some());
        self.next = rendered.next;
        let news = rendered.quality();
        self.quality.get_or_insert_with(|| RenderQuality::new(news.composite.clone())).follow(news);
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
    async fn lost(&mut self, death: Death) -> Error {
        let Some(process) = self.process.take() else { return Error::Crashed };
        let Buried { how, cause, place } = process.bury(death).await;
        let slice = self.slice;
        super::count_crash();
        match self.crashes.on_death(slice, cause, place) {
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

async fn next(
    process: &mut Process,
    limit: Duration,
) -> Result<Result<(Rendered, Option<EncodedSlice>), Error>, Death> {
    let rendered: Rendered = match process.ask_text(Kind::Next, &[], Kind::Rendered, limit).await? {
        Ok(rendered) => rendered,
        Err(error) => return Ok(Err(error)),
    };
    if !rendered.is_due {
        return Ok(Ok((rendered, None)));
    }
    let slice = wire::decode_slice(process.promised(Kind::Slice, limit).await?)?;
    Ok(Ok((rendered, Some(slice))))
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
