//! The supervisor of a render's process: starts it, asks it, does not wait for ever, and starts another one when it is lost.
//!
//! Owns what a process is given and what is believed of its answers: nothing that a bucket's object would not be believed. Does not own
//! retries: an error that is not permanent means that the same may be asked again, and another process is given what the lost one had.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry::metrics::Counter;
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::output::Kind as Output;
use roomreel_shared::ports::ObjectStore;
use roomreel_shared::window::{TrackKey, Window};

use super::bans::{self, Ban};
use super::crashes::{Crashes, Verdict};
use super::process::{Buried, Death, MEMORY_BYTES, Process, START_LIMIT};
use super::wire::{self, Due, Kind, Ready, Rendered, Start};
use super::{Error, Isolation, Work, slice_start};
use crate::decode::SAMPLE_RATE;
use crate::documents::quality::RenderQuality;
use crate::encode::{AAC_FRAME, AudioConfig, EncodedSlice, Grid, Sample, VideoConfig};
use crate::late::past::Past;

/// What the encoder may need, in canvases.
const CANVASES: u64 = 512;
/// What the last slice has of AAC frames beyond those of another one: what an encoder keeps until its end.
const MAX_LAST_SOUNDS: u64 = 4;
/// Parameter sets are a few dozen bytes.
const MAX_SET_BYTES: usize = 1024;

/// A render in a process of its own.
pub(super) struct Child {
    isolation: Arc<Isolation>,
    work: Work,
    store: Arc<dyn ObjectStore>,
    keys: Box<RecordingKeys>,
    windows: Windows,
    process: Option<Process>,
    /// Number of the window that the process is to be given next.
    given: u64,
    /// The slice to come.
    slice: u64,
    /// It is due.
    next: Option<u64>,
    crashes: Crashes,
    /// Those of which a window that was pushed holds media.
    tracks: BTreeSet<TrackKey>,
    quality: Option<RenderQuality>,
    notes: Vec<String>,
    meters: Meters,
    pub(super) video: VideoConfig,
    pub(super) audio: AudioConfig,
}

/// What a process of a render is given.
enum Windows {
    /// As they stand in the bucket, up to but not including window `end`. One that begins in mid-recording is told of the past instead.
    Stored { past: Box<Past>, end: u64 },
    /// The first ones of a span of a late render were made for it; behind them those in the bucket, up to but not including window `end`.
    Kept { made: Vec<Bytes>, end: u64 },
}

impl Windows {
    fn end(&self) -> u64 {
        match self {
            Self::Stored { end, .. } | Self::Kept { end, .. } => *end,
        }
    }

    /// Those that a process needs which begins at `at` on the recording's clock: from the first on, as far as they differ from those
    /// that stand in the bucket.
    async fn before(&mut self, at: Duration) -> Result<Vec<Bytes>, Error> {
        let Self::Stored { past, end, .. } = self else { return Ok(Vec::new()) };
        if at.is_zero() {
            return Ok(Vec::new());
        }
        let objects = past.before(at).await?;
        *end = (*end).max(objects.len() as u64);
        Ok(objects)
    }

    /// One that was kept; the others stand in the bucket.
    fn kept(&self, number: u64) -> Option<Bytes> {
        match self {
            Self::Stored { .. } => None,
            Self::Kept { made, .. } => made.get(number as usize).cloned(),
        }
    }

    /// Whether a window that was read for it holds media of the track.
    fn has(&self, track: &TrackKey) -> bool {
        match self {
            Self::Stored { past, .. } => past.has(track),
            Self::Kept { .. } => false,
        }
    }

    fn add(&mut self, window: &Window) {
        match self {
            Self::Stored { past, end, .. } => {
                past.see(window);
                *end += 1;
            }
            Self::Kept { end, .. } => *end += 1,
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
        past: Past,
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
            Windows::Kept { made: Vec::new(), end: 0 }
        } else {
            Windows::Stored { past: Box::new(past), end: 0 }
        };
        let known = bans::read(&*store, &keys, &work.spec.id).await?;
        let mut crashes = Crashes::default();
        known.iter().for_each(|ban| crashes.ban(ban.track.clone()));
        let nothing = Bytes::new;
        let mut child = Self {
            windows,
            store,
            keys,
            process: None,
            given: 0,
            slice: work.first,
            next: None,
            crashes,
            tracks: BTreeSet::new(),
            quality: None,
            notes: known.into_iter().map(|ban| ban.note).collect(),
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

    /// Number of the window that is to be pushed next.
    pub(super) fn next_window(&self) -> u64 {
        self.windows.end()
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
        self.tracks.extend(window.segments.iter().map(|segment| segment.key.clone()));
        self.give(window.object()).await?;
        self.windows.add(window);
        self.given += 1;
        Ok(())
    }

    /// The same with one that is kept: the bucket does not have it. They come before all others.
    pub(super) async fn push_made(&mut self, window: &Window) -> Result<(), Error> {
        self.push_window(window).await?;
        if let Windows::Kept { made, .. } = &mut self.windows {
            made.push(window.object().clone());
        }
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
            let before = self.windows.before(slice_start(&self.work, self.slice)).await?;
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
            for object in before {
                self.give(&object).await?;
                self.given += 1;
            }
        }
        while self.given < self.windows.end() {
            let object = match self.windows.kept(self.given) {
                Some(object) => object,
                None => self.store.get(&self.keys.window(self.given)).await?,
            };
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
        // A process that was taken over may name any.
        let place = place.filter(|place| self.tracks.contains(&place.track) || self.windows.has(&place.track));
        let slice = self.slice;
        super::count_crash();
        match self.crashes.on_death(slice, cause, place) {
            Verdict::Again => Error::Lost { slice, how },
            Verdict::Ban(track) => {
                self.meters.banned.add(1, &[]);
                let at = slice_start(&self.work, slice).as_secs_f64();
                tracing::warn!(
                    recording = %self.work.fold.recording,
                    composite = %self.work.spec.id,
                    sfu = %track.sfu,
                    track = %track.track,
                    slice,
                    how,
                    "a track brings its render's process down and is left out from here on; keep the recording and report it"
                );
                let note = format!(
                    "track {} of {} is left out from {at:.1} s (slice {slice}) on: decoding it brought the render's process down: {how}",
                    track.track, track.sfu
                );
                self.notes.push(note.clone());
                let ban = Ban { track, slice, note };
                if let Err(error) = bans::add(&*self.store, &self.keys, &self.work.spec.id, ban).await {
                    tracing::info!(%error, "who takes over will not know of a track that is left out");
                }
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
    let grid = grid(work);
    let (frames, sounds) = (grid.frames(number), grid.audio_frames(number));
    let is_on_grid = |samples: &[Sample], first: u64, ticks: u32| {
        let at = |place: u64| place.checked_mul(ticks.into()).and_then(|time| i64::try_from(time).ok());
        (first..).zip(samples).all(|(place, sample)| sample.duration == ticks && at(place) == Some(sample.dts))
    };
    let is_shown_as_decoded = |samples: &[Sample]| samples.iter().all(|sample| sample.pts == sample.dts);
    let begins = |samples: &[Sample]| samples.first().is_some_and(|first| first.key);
    let has_webm = work.spec.outputs.iter().any(|output| output.kind == Output::Webm);
    let pictures = if has_webm { slice.video.len() } else { 0 };
    let is_right = slice.number == number
        && begins(&slice.video)
        && slice.video.len() as u64 <= (frames.end - frames.start).max(1)
        && is_on_grid(&slice.video, frames.start, 1000)
        && slice.video.iter().all(|sample| sample.pts.abs_diff(sample.dts) < 1_000_000)
        && slice.audio.len() as u64 <= sounds.end - sounds.start + MAX_LAST_SOUNDS
        && is_on_grid(&slice.audio, sounds.start, AAC_FRAME as u32)
        && is_shown_as_decoded(&slice.audio)
        && slice.webm.len() == pictures
        && (pictures == 0 || begins(&slice.webm))
        && is_on_grid(&slice.webm, frames.start, 1000)
        && is_shown_as_decoded(&slice.webm);
    if is_right { Ok(()) } else { Err(Death(format!("what it gives is not slice {number}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::tests::{fold, spec};

    fn samples(places: std::ops::Range<u64>, ticks: u32) -> Vec<Sample> {
        let sample = |place: u64| {
            let time = (place * u64::from(ticks)) as i64;
            Sample { data: Bytes::from_static(b"coded"), pts: time, dts: time, duration: ticks, key: true }
        };
        places.map(sample).collect()
    }

    #[test]
    fn what_is_no_slice_is_not_believed() {
        let outputs = vec![Output::Webm.into()];
        let spec = roomreel_shared::composite::CompositeSpec { outputs, ..spec() };
        let work = Work { spec, fold: fold(), first: 0, late: None };
        let grid = grid(&work);
        let right = EncodedSlice {
            number: 3,
            video: samples(grid.frames(3), 1000),
            audio: samples(grid.audio_frames(3), 1024),
            webm: samples(grid.frames(3), 1000),
        };
        assert!(check(&right, 3, &work).is_ok());
        assert!(check(&right, 4, &work).is_err());
        type Wrong = fn(&mut EncodedSlice);
        let wrongs: [(&str, Wrong); 11] = [
            ("no pictures", |slice| slice.video.clear()),
            ("no key picture", |slice| slice.video[0].key = false),
            ("a time that overflows", |slice| slice.video[1].pts = i64::MIN),
            ("a picture elsewhere", |slice| slice.video[1].dts += 1),
            ("sound elsewhere", |slice| {
                slice.audio.iter_mut().for_each(|sample| {
                    (sample.pts, sample.dts) = (sample.pts + 1024, sample.dts + 1024);
                })
            }),
            ("sound of another length", |slice| slice.audio[0].duration = 0),
            ("too much sound", |slice| slice.audio = samples(slice.audio[0].dts as u64 / 1024..10_000, 1024)),
            ("no WebM", |slice| slice.webm.clear()),
            ("a WebM's picture too few", |slice| drop(slice.webm.pop())),
            ("a WebM's time that overflows", |slice| slice.webm[1].pts = i64::MAX),
            ("a WebM's picture without length", |slice| slice.webm[1].duration = 0),
        ];
        for (what, damage) in wrongs {
            let mut slice = right.clone();
            damage(&mut slice);
            assert!(check(&slice, 3, &work).is_err(), "{what}");
        }
        let without = Work { spec: crate::render::tests::spec(), ..work };
        assert!(check(&right, 3, &without).is_err(), "a WebM that nobody asked for");
    }
}
