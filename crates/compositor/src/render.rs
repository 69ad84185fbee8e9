//! Windows in, rendered slices out: one composite of one recording.
//!
//! Owns how the parts meet: packets go to their tracks and wait; when the windows have brought a slice's time to an end, every
//! tick of it asks the room who is here, the layout where they go, the tracks what they look and sound like, the painter and
//! the mixer for the result. What has been rendered is dropped. Pure but for decoders and encoder: no clock, no store.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use roomreel_shared::batch::Packet;
use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::composite::{self, CompositeSpec};
use roomreel_shared::event::Producer;
use roomreel_shared::id::{PeerId, RecordingId, SfuId};
use roomreel_shared::late::{Cuts, LateJob};
use roomreel_shared::policy::TrackKind;
use roomreel_shared::time::RoomTime;
use roomreel_shared::window::{TrackKey, Window};

use crate::allocator;
use crate::decode::SAMPLE_RATE;
use crate::documents::quality::{RenderQuality, TrackQuality};
use crate::encode::{self, AudioConfig, EncodedSlice, Encoder, Grid, VideoConfig};
use crate::engine::witness;
use crate::frame::Canvas;
use crate::layout::{self, Layout, LayoutMemory, Transition};
use crate::mix::{Mixer, SpeechMeter};
use crate::paint::{self, Painter};
use crate::slice_schedule::{DueSlice, REORDER_ALLOWANCE, SliceSchedule};
use crate::timeline::clock::ParticipantClock;
use crate::timeline::room::{Activity, RoomTimeline};
use crate::track::{AudioTrack, VideoTrack, announced, has_ended};

mod cut;
mod views;

use views::{Frame, Views};

/// Most packets that wait for their track to be announced.
const MAX_ORPHANS: usize = 4096;
/// Most tracks that are followed.
const MAX_TRACKS: usize = 8000;
/// A render that begins in mid-recording hears and follows this much of it before its first slice: the window of the clocks' least
/// delay, and a little.
pub const WARM_UP: Duration = Duration::from_secs(32);
/// Before that, the stage is told by events alone, at this pace.
const STAGE_STEP_US: i64 = 500_000;
/// And tracks that have ended are forgotten at this one, a multiple of it.
const STAGE_CLEANING_US: i64 = 300_000_000;
/// Most frames that are decoded in a row, track by track, before they are drawn: a decoder then finds its pictures, tables and code
/// in the processor's caches. That takes a tenth off the decoding of 25 tracks of 720 lines; more than eight gain another fiftieth.
const FRAMES_AT_ONCE: usize = 8;

/// Why a recording cannot be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The composite's fields are out of range.
    #[error(transparent)]
    Spec(#[from] composite::Error),
    /// The layout is none.
    #[error(transparent)]
    Layout(#[from] layout::Error),
    /// A picture of its look cannot be read.
    #[error(transparent)]
    Look(#[from] paint::LookError),
    /// The encoder does not work.
    #[error(transparent)]
    Encode(#[from] encode::Error),
    /// A window of another recording or room: nothing of it may be shown (I4).
    #[error("a window of recording {found} came where {expected} is rendered")]
    WrongRecording {
        /// Whose window it is.
        found: RecordingId,
        /// Whose it should be.
        expected: RecordingId,
    },
}

/// A slice, ready to be packaged.
#[derive(Debug)]
pub struct RenderedSlice {
    /// Which, and where on the recording's clock.
    pub due: DueSlice,
    /// Its coded frames.
    pub encoded: EncodedSlice,
}

enum TrackMedia {
    Video(Box<VideoTrack>),
    Audio(Box<AudioTrack>),
}

struct Track {
    producer: Producer,
    media: TrackMedia,
}

impl Track {
    fn receive(&mut self, packet: &Packet, participant: &mut ParticipantClock) {
        match &mut self.media {
            TrackMedia::Video(track) => track.receive(packet, participant),
            TrackMedia::Audio(track) => track.receive(packet, participant),
        }
    }

    fn place(&mut self, participant: &ParticipantClock) {
        match &mut self.media {
            TrackMedia::Video(track) => track.place(participant),
            TrackMedia::Audio(track) => track.place(participant),
        }
    }

    fn let_go(&mut self) {
        match &mut self.media {
            TrackMedia::Video(track) => track.let_go(),
            TrackMedia::Audio(track) => track.let_go(),
        }
    }

    /// What is to be said in words.
    fn complaint(&self, key: &TrackKey) -> Option<String> {
        let complaint = match &self.media {
            TrackMedia::Video(track) => track.complaint(),
            TrackMedia::Audio(track) => track.complaint(),
        };
        complaint.map(|complaint| format!("track {} of {}: {complaint}", key.track, key.sfu))
    }

    fn quality(&self) -> TrackQuality {
        match &self.media {
            TrackMedia::Video(track) => TrackQuality::Video(track.quality()),
            TrackMedia::Audio(track) => TrackQuality::Audio(track.quality()),
        }
    }
}

/// What draws, for as long as the layout stays.
struct Stage {
    layout: Layout,
    /// The text it was read from.
    text: String,
    memory: LayoutMemory,
    transition: Transition,
}

impl Stage {
    fn new(text: &str, spec: &CompositeSpec) -> Result<Self, layout::Error> {
        let layout = layout::parse(text)?;
        layout.check(spec.width, spec.height)?;
        Ok(Self { layout, text: text.to_owned(), memory: LayoutMemory::default(), transition: Transition::default() })
    }
}

/// Renders one composite of one recording.
pub struct RenderCore {
    spec: CompositeSpec,
    fold: FoldSpec,
    grid: Grid,
    schedule: SliceSchedule,
    room: RoomTimeline,
    /// Where slice 0 begins; known from the first window on.
    start: Option<RoomTime>,
    /// Slice 0 begins this much after the recording.
    from: Duration,
    /// What behind that is gone through without being rendered.
    cuts: Cuts,
    /// The frames to go through before the first slice, as far as it is not done; `None` when it is.
    warm_up: Option<Range<i64>>,
    /// Who has the stage is known up to the warm-up.
    is_staged: bool,
    tracks: BTreeMap<TrackKey, Track>,
    clocks: BTreeMap<(SfuId, PeerId), ParticipantClock>,
    orphans: Vec<(TrackKey, Packet)>,
    /// Tracks that are left out.
    banned: BTreeSet<TrackKey>,
    stage: Stage,
    painter: Painter,
    canvas: Canvas,
    views: Views,
    mixer: Mixer<TrackKey>,
    meters: BTreeMap<PeerId, SpeechMeter>,
    /// The first slice that is rendered; those before it exist already.
    first: u64,
    /// `None` after the last slice.
    encoder: Option<Encoder>,
    /// The first sample that the encoder wants.
    sound_from: i64,
    /// All who ever were in the room, once that is known.
    people: Option<BTreeSet<PeerId>>,
    /// Up to which sample the tracks have been asked; below 0 before slice 0. Frames and samples are counted with those that are left out.
    samples: i64,
    /// And up to which frame.
    frames: i64,
    quality: RenderQuality,
    finished: bool,
}

impl RenderCore {
    /// A render from the first slice on.
    ///
    /// # Errors
    /// Any [`Error`] but [`Error::WrongRecording`].
    pub fn new(spec: CompositeSpec, fold: FoldSpec) -> Result<Self, Error> {
        allocator::settle();
        spec.check()?;
        let stage = Stage::new(&spec.layout, &spec)?;
        let encoder = Encoder::new(&spec, fold.window_ms, 0)?;
        Ok(Self {
            grid: encoder.grid(),
            schedule: SliceSchedule::new(Duration::from_millis(fold.window_ms), 0),
            room: RoomTimeline::new(spec.id.clone()),
            start: None,
            from: Duration::ZERO,
            cuts: Cuts::default(),
            warm_up: None,
            is_staged: false,
            tracks: BTreeMap::new(),
            clocks: BTreeMap::new(),
            orphans: Vec::new(),
            banned: BTreeSet::new(),
            stage,
            painter: Painter::dressed(spec.width, spec.height, &spec.look)?,
            canvas: Canvas::new(spec.width as usize, spec.height as usize),
            views: Views::default(),
            mixer: Mixer::new(),
            meters: BTreeMap::new(),
            first: 0,
            encoder: Some(encoder),
            sound_from: 0,
            people: None,
            samples: 0,
            frames: 0,
            quality: RenderQuality::new(spec.id.clone()),
            finished: false,
            spec,
            fold,
        })
    }

    /// A late render from slice `first` on, behind a warm-up that is the same for whoever makes these slices. It has to be given
    /// every window from the first on, but only the packets of the last [`WARM_UP`] before the slice, and those that the pictures then
    /// seen build on.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn late(spec: CompositeSpec, fold: FoldSpec, late: &LateJob, first: u64) -> Result<Self, Error> {
        let mut core = Self::new(spec, fold)?;
        core.room = RoomTimeline::late(core.spec.id.clone(), late.hidden.clone());
        core.begin_behind(first, late.stretch(), late.cuts.clone())?;
        Ok(core)
    }

    /// Makes `slice` the first one that is rendered, behind a warm-up: those before it exist already. Call it before the first window, and
    /// give it windows as [`Self::late`] says.
    ///
    /// # Errors
    /// [`Error::Encode`].
    pub fn skip_to(&mut self, slice: u64) -> Result<(), Error> {
        self.begin_behind(slice, Duration::ZERO..Duration::MAX, Cuts::default())
    }

    fn begin_behind(&mut self, first: u64, stretch: Range<Duration>, cuts: Cuts) -> Result<(), Error> {
        let fps = i64::from(self.spec.fps);
        (self.first, self.cuts) = (first, cuts);
        let first_frame = self.cuts.source(self.grid.first_frame(first), u64::from(self.spec.fps)).cast_signed();
        let first_sample = self.first_sample();
        let room_start = -((stretch.start.as_micros() * u128::from(self.spec.fps) / 1_000_000) as i64);
        // The first frame may lie behind a cut, and the samples before it, which belong to the slice, before the cut.
        let begin = first_frame.min((first_sample * fps).div_euclid(i64::from(SAMPLE_RATE)));
        let warm_up = (begin - WARM_UP.as_secs().cast_signed() * fps).max(room_start)..first_frame;
        self.samples = warm_up.start * i64::from(SAMPLE_RATE) / fps;
        self.frames = warm_up.start;
        self.from = stretch.start;
        self.warm_up = Some(warm_up);
        let mut encoder = Encoder::new(&self.spec, self.fold.window_ms, first)?;
        let ahead = self.grid.first_sample(first) - encoder.audio_from();
        self.sound_from = first_sample - ahead.cast_signed();
        // What is before a cut was silent there.
        let inside = cut::cut_samples(&self.cuts).rev().find(|cut| cut.end <= first_sample);
        if let Some(cut) = inside.filter(|cut| cut.end > self.sound_from) {
            encoder.push_audio(&vec![0.0; 2 * (cut.end - self.sound_from) as usize])?;
            self.sound_from = cut.end;
        }
        self.encoder = Some(encoder);
        self.schedule =
            SliceSchedule::of_stretch(Duration::from_millis(self.fold.window_ms), first, stretch, self.cuts.clone());
        self.quality.first_slice = first;
        Ok(())
    }

    /// The first sample of the first slice.
    fn first_sample(&self) -> i64 {
        self.cuts.source(self.grid.first_sample(self.first), u64::from(SAMPLE_RATE)).cast_signed()
    }

    /// What containers say about the video.
    #[must_use]
    pub fn video_config(&self) -> Option<VideoConfig> {
        self.encoder.as_ref().map(Encoder::video_config)
    }

    /// What containers say about the audio.
    #[must_use]
    pub fn audio_config(&self) -> Option<AudioConfig> {
        self.encoder.as_ref().map(Encoder::audio_config)
    }

    /// All slices have been rendered.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// What is to be said of this render, so far.
    #[must_use]
    pub fn quality(&self) -> RenderQuality {
        let mut quality = self.quality.clone();
        for (key, track) in &self.tracks {
            quality.tell(key.clone(), track.quality());
            track.complaint(key).into_iter().for_each(|note| quality.note(note));
        }
        quality
    }

    /// Takes the next window of the chain.
    ///
    /// # Errors
    /// [`Error::WrongRecording`]; [`Error::Encode`] as [`Self::next_slice`].
    pub fn push_window(&mut self, window: &Window) -> Result<(), Error> {
        let header = &window.header;
        if header.recording != self.fold.recording || header.room != self.fold.room || header.tenant != self.fold.tenant
        {
            let found = header.recording.clone();
            return Err(Error::WrongRecording { found, expected: self.fold.recording.clone() });
        }
        let start = *self.start.get_or_insert(header.room_start + self.from);
        self.schedule.on_window(window);
        self.room.push_window(window);
        if header.end.is_some() {
            self.people = header.people();
        }
        self.announce(window, start);
        // Who has waited for one window without being announced never will be.
        for (key, packet) in std::mem::take(&mut self.orphans) {
            if self.tracks.contains_key(&key) {
                self.receive(&key, packet);
            }
        }
        for segment in &window.segments {
            let Ok(batches) = window.batches(segment) else {
                self.quality
                    .note(format!("window {}: the segment of track {} is damaged", header.window, segment.key.track));
                continue;
            };
            let mut damaged = 0;
            for stored in batches {
                match stored {
                    Ok(stored) => {
                        stored.batch.packets.into_iter().for_each(|packet| self.receive(&segment.key, packet))
                    }
                    Err(_) => damaged += 1,
                }
            }
            if damaged > 0 {
                let track = &segment.key.track;
                self.quality.note(format!("window {}: {damaged} batches of track {track} are damaged", header.window));
            }
        }
        // Only now all sender reports of the window are known, those of a participant's other tracks too.
        for (key, track) in &mut self.tracks {
            let clock = self.clocks.entry((key.sfu.clone(), track.producer.peer.clone())).or_default();
            witness::at(key, header.room_seen);
            track.place(clock);
        }
        witness::done();
        self.pass_before_warm_up(start, header.room_seen);
        self.begin_warm_up(start)
    }

    /// What is given of the time before the warm-up is only there to be built upon: it does not pile up.
    fn pass_before_warm_up(&mut self, start: RoomTime, seen: RoomTime) {
        let Some(warm_up) = &self.warm_up else { return };
        if seen >= self.time_of(start, warm_up.start) {
            return;
        }
        let complete = seen.offset_micros(-(REORDER_ALLOWANCE.as_micros() as i64));
        for track in self.tracks.values_mut() {
            if let TrackMedia::Video(video) = &mut track.media {
                video.pass(complete);
            }
            track.let_go();
        }
    }

    /// Goes through those frames of the warm-up that nothing to come can change: else all of its packets would wait for the first slice,
    /// half a minute of every layer of everybody. The last one is left to the slice, with whose samples its own end.
    fn begin_warm_up(&mut self, start: RoomTime) -> Result<(), Error> {
        let Some(mut frames) = self.warm_up.clone() else { return Ok(()) };
        let last = frames.end - 1;
        frames.end = frames.start;
        while frames.end < last && self.schedule.is_complete(self.time_of(start, frames.end + 1)) {
            frames.end += 1;
        }
        if frames.is_empty() {
            return Ok(());
        }
        self.warm_up = Some(frames.end..last + 1);
        let samples_end = self.sample_of(frames.end);
        self.warm_up(start, frames, samples_end)?;
        self.tracks.values_mut().for_each(Track::let_go);
        Ok(())
    }

    fn warm_up(&mut self, start: RoomTime, frames: Range<i64>, samples_end: i64) -> Result<(), Error> {
        if !std::mem::replace(&mut self.is_staged, true) {
            self.tell_stage(start, self.time_of(start, frames.start));
        }
        self.go_through(start, frames, samples_end, true)
    }

    /// When a frame is shown.
    fn time_of(&self, start: RoomTime, frame: i64) -> RoomTime {
        start.offset_micros((frame * 1_000_000).div_euclid(i64::from(self.spec.fps)))
    }

    /// Learns of the tracks that a window tells of.
    fn announce(&mut self, window: &Window, start: RoomTime) {
        for (key, producer) in announced(window) {
            let is_known = self.tracks.get(&key).is_some_and(|track| track.producer == producer);
            if is_known || self.banned.contains(&key) || self.tracks.len() >= MAX_TRACKS {
                continue;
            }
            // What comes late of a track that has been forgotten brings it back to nobody.
            if self.room.state().track(&key).is_none() && has_ended(window, &key) {
                continue;
            }
            let media = if producer.is_audio {
                TrackMedia::Audio(Box::new(AudioTrack::new(producer.clone(), start, self.samples)))
            } else {
                TrackMedia::Video(Box::new(VideoTrack::new(producer.clone())))
            };
            if let Some(replaced) = self.tracks.insert(key.clone(), Track { producer, media }) {
                self.quality.tell(key, replaced.quality());
            }
        }
    }

    /// Leaves tracks out: nothing of them is looked at. Call it before the first window.
    pub fn ban(&mut self, tracks: BTreeSet<TrackKey>) {
        self.banned = tracks;
    }

    fn receive(&mut self, key: &TrackKey, packet: Packet) {
        if self.banned.contains(key) {
            return;
        }
        match self.tracks.get_mut(key) {
            Some(track) => {
                let clock = self.clocks.entry((key.sfu.clone(), track.producer.peer.clone())).or_default();
                track.receive(&packet, clock);
            }
            // Packets may precede the event that announces their track; those of a
            // track that has ended find no place.
            None if self.orphans.len() < MAX_ORPHANS => {
                self.orphans.push((key.clone(), packet));
            }
            None => {}
        }
    }

    /// Number of the slice that [`Self::next_slice`] would give.
    #[must_use]
    pub fn next_number(&self) -> Option<u64> {
        self.schedule.clone().next_due().map(|due| due.number)
    }

    /// Renders the next slice, if it is due.
    ///
    /// # Errors
    /// [`Error::Encode`]: nothing more will come of this render.
    pub fn next_slice(&mut self) -> Result<Option<RenderedSlice>, Error> {
        let Some(due) = self.schedule.next_due() else { return Ok(None) };
        self.render(&due)?;
        self.forget_ended();
        // Before the next window is read.
        if self.next_number().is_none() {
            self.tracks.values_mut().for_each(Track::let_go);
        }
        self.finished = due.last;
        if let Some(people) = self.people.take_if(|_| due.last)
            && let Err(error) = self.stage.layout.check_sources(&self.fold.recording, &people)
        {
            // While they could still come it was no mistake.
            self.quality.note(format!("layout: {error}"));
        }
        let Some(mut encoder) = self.encoder.take() else { return Ok(None) };
        let encoded = if due.last {
            encoder.finish_last()?
        } else {
            let encoded = encoder.finish_slice()?;
            self.encoder = Some(encoder);
            encoded
        };
        self.quality.slices += 1;
        Ok(Some(RenderedSlice { due, encoded }))
    }

    /// Goes through the frames of a slice, and before the first one through those it depends on.
    fn render(&mut self, due: &DueSlice) -> Result<(), Error> {
        let Some(start) = self.start else { return Ok(()) };
        let fps = u64::from(self.spec.fps);
        if let Some(warm_up) = self.warm_up.take() {
            let samples_end = self.first_sample().max(self.sample_of(warm_up.end - 1));
            self.warm_up(start, warm_up, samples_end)?;
            self.forget_ended();
        }
        let frames = self.grid.frames(due.number);
        let end_us = due.end.as_micros() as u64;
        // The last slice ends with the recording; at least one frame shows it.
        let frames_end = (end_us * fps).div_ceil(1_000_000).clamp(frames.start + 1, frames.end.max(frames.start + 1));
        let samples_end =
            if due.last { end_us * u64::from(SAMPLE_RATE) / 1_000_000 } else { self.grid.first_sample(due.number + 1) };
        // The end of the last sample, not where the one behind it stands.
        let samples_end =
            samples_end.checked_sub(1).map_or(0, |last| self.cuts.source(last, u64::from(SAMPLE_RATE)) + 1);
        let pieces = self.cuts.sources(frames.start..frames_end, fps);
        for (index, piece) in pieces.iter().enumerate() {
            let (from, to) = (piece.start.cast_signed(), piece.end.cast_signed());
            let is_last = index + 1 == pieces.len();
            let end = if is_last { samples_end.cast_signed() } else { self.sample_of(to) };
            // What is left out before it.
            self.go_through(start, self.frames..from, self.sample_of(from), true)?;
            self.go_through(start, from..to, end, false)?;
        }
        Ok(())
    }

    /// The first sample of a frame.
    fn sample_of(&self, frame: i64) -> i64 {
        (frame * i64::from(SAMPLE_RATE)).div_euclid(i64::from(self.spec.fps))
    }

    fn go_through(
        &mut self,
        start: RoomTime,
        frames: Range<i64>,
        samples_end: i64,
        is_skipped: bool,
    ) -> Result<(), Error> {
        let mut frame = frames.start;
        self.frames = frames.end;
        while frame < frames.end {
            self.room.advance(self.time_of(start, frame));
            self.change_layout();
            // Frames for which nobody comes, goes or is muted.
            let mut together = Vec::with_capacity(FRAMES_AT_ONCE);
            loop {
                let is_last = frame + 1 == frames.end;
                self.sound(if is_last { samples_end } else { self.sample_of(frame + 1).min(samples_end) })?;
                together.push(self.lay_out(start, self.time_of(start, frame)));
                frame += 1;
                if is_last || together.len() == FRAMES_AT_ONCE || self.room.changes_by(self.time_of(start, frame)) {
                    break;
                }
            }
            if is_skipped {
                self.views.skip(&mut self.tracks, self.room.state(), &together);
            } else {
                self.show(&together)?;
            }
        }
        Ok(())
    }

    /// Who has the stage at `until`, and which cells are taken, as far as events tell.
    fn tell_stage(&mut self, start: RoomTime, until: RoomTime) {
        let room_start = start.offset_micros(-(self.from.as_micros() as i64));
        let mut t = room_start;
        while t < until {
            // There may be hours of it.
            witness::moved();
            self.room.advance(t);
            if t.micros_since(room_start) % STAGE_CLEANING_US == 0 {
                self.forget_ended();
            }
            self.change_layout();
            let scene = self.room.state().scene(|_| Activity::default());
            let offset = t.saturating_since(room_start);
            // Only what the layout remembers of it is wanted.
            let _ =
                self.stage.layout.arrange(&scene, self.spec.width, self.spec.height, &mut self.stage.memory, offset);
            t = t.offset_micros(STAGE_STEP_US);
        }
    }

    /// A changed layout counts from its moment on; one that cannot be read changes nothing.
    fn change_layout(&mut self) {
        let Some(text) = self.room.state().layout().filter(|text| *text != self.stage.text) else { return };
        match Stage::new(text, &self.spec) {
            Ok(stage) => {
                // Tiles move from their old places to the new ones.
                let transition = std::mem::take(&mut self.stage.transition);
                self.stage = Stage { transition, ..stage };
            }
            Err(error) => {
                self.quality.note(format!("a layout change was ignored: {error}"));
                text.clone_into(&mut self.stage.text);
            }
        }
    }

    /// Mixes the samples up to `until` and hands them to the encoder, as far as it wants them.
    fn sound(&mut self, until: i64) -> Result<(), Error> {
        let count = (until - self.samples).max(0) as usize;
        let witnessed = self.start.unwrap_or_default().offset_micros(self.samples.saturating_mul(1000) / 48);
        let state = self.room.state();
        let mut sum = vec![[0.0; 2]; count];
        for (key, track) in &mut self.tracks {
            let TrackMedia::Audio(audio) = &mut track.media else { continue };
            witness::at(key, witnessed);
            let sound = audio.take(count);
            let Producer { peer, kind, .. } = &track.producer;
            let is_audible = !state.is_paused()
                && state.track(key).is_some_and(|track| track.is_live())
                && self.stage.layout.hears(peer, *kind);
            self.mixer.add(&mut sum, key, &sound, is_audible);
            if *kind == TrackKind::Audio {
                let heard: &[_] = if is_audible { &sound } else { &[] };
                self.meters.entry(peer.clone()).or_default().measure(heard, count);
            }
        }
        witness::done();
        let mut mixed = self.mixer.finish(sum);
        let from = self.samples;
        self.samples += count as i64;
        cut::hush(&self.cuts, from, &mut mixed);
        for kept in cut::kept(&self.cuts, from.max(self.sound_from)..self.samples) {
            if let Some(encoder) = &mut self.encoder {
                encoder.push_audio(&mixed[2 * (kept.start - from) as usize..2 * (kept.end - from) as usize])?;
            }
        }
        Ok(())
    }

    /// Where everything is at `t`.
    fn lay_out(&mut self, start: RoomTime, t: RoomTime) -> Frame {
        // Since the recording began, whatever was cut off before slice 0.
        let offset = (t + self.from).saturating_since(start);
        let activity = |peer: &PeerId| self.meters.get(peer).map_or(Activity::default(), SpeechMeter::activity);
        let scene = self.room.state().scene(activity);
        let (width, height) = (self.spec.width, self.spec.height);
        let wanted = self.stage.layout.arrange(&scene, width, height, &mut self.stage.memory, offset);
        let mut shown = self.stage.transition.step(wanted.clone(), offset);
        paint::wear(&self.spec.look, &mut shown, offset, t);
        Frame { t, wanted, shown }
    }

    /// Draws and encodes frames.
    fn show(&mut self, frames: &[Frame]) -> Result<(), Error> {
        let pictures = self.views.pictures(&mut self.tracks, self.room.state(), frames);
        for (frame, pictures) in frames.iter().zip(pictures) {
            self.painter.paint(&mut self.canvas, &frame.shown, &|source| pictures.get(source).cloned());
            if let Some(encoder) = &mut self.encoder {
                encoder.push_video(&self.canvas)?;
            }
        }
        Ok(())
    }

    /// Lets go of tracks that ended.
    fn forget_ended(&mut self) {
        let state = self.room.state();
        let ended = |key: &TrackKey| state.track(key).is_some_and(|track| track.closed);
        for (key, track) in self.tracks.extract_if(.., |key, _| ended(key)) {
            track.complaint(&key).into_iter().for_each(|note| self.quality.note(note));
            self.quality.tell(key, track.quality());
        }
        self.room.forget_closed();
        let tracks = &self.tracks;
        self.mixer.retain(|key| tracks.contains_key(key));
        self.meters.retain(|peer, _| tracks.values().any(|track| track.producer.peer == *peer));
        self.clocks
            .retain(|(sfu, peer), _| tracks.iter().any(|(key, track)| key.sfu == *sfu && track.producer.peer == *peer));
    }
}

#[cfg(test)]
pub(crate) mod tests;
