//! What is made of slices and windows, without a store: bytes in, pieces of files out.
//!
//! Everything here follows slices and windows in order from the first on, so a successor that goes through them again makes the same files.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::key::{Key, RecordingKeys};
use roomreel_shared::output::{Kind, Names, Output};
use roomreel_shared::time::RoomTime;
use roomreel_shared::window::Window;

use super::Error;
use super::growing::{Pieces, TrackFiles};
use super::pictures::{Storyboard, Thumbnails, Wanted};
use super::sound::{Coding, Decoder, SoundFile};
use super::webm::Webm;
use crate::captions::Captions;
use crate::decode::SAMPLE_RATE;
use crate::encode::{AudioConfig, EncodedSlice, VideoConfig};
use crate::export::Exporter;
use crate::join::{Joiner, OutOfOrder};

/// Opus, bits per second, unless it is said.
const USUAL_OPUS_BITRATE: u32 = 96_000;
/// MP3, bits per second, unless it is said.
const USUAL_MP3_BITRATE: u32 = 128_000;

/// Most bytes that files hold back: what a hundred tracks and every output take.
const MAX_HELD_BYTES: usize = 1 << 30;

/// A file that is joined from the slices as they are.
struct Joined {
    key: Key,
    joiner: Joiner,
}

/// Everything that one render makes besides its slices and the playlist.
pub(super) struct Works {
    names: Names,
    pieces: Pieces,
    next_slice: u64,
    next_window: u64,
    /// Where the recording begins and ends, as far as windows have told.
    start: Option<RoomTime>,
    end: Option<RoomTime>,
    joined: Vec<Joined>,
    decoder: Option<Decoder>,
    sounds: Vec<SoundFile>,
    webm: Option<Webm>,
    thumbnails: Option<Thumbnails>,
    storyboard: Option<Storyboard>,
    captions: Option<(Output, Captions)>,
    tracks: Vec<Exporter>,
    /// What is to be said of the tracks.
    notes: BTreeSet<String>,
}

impl Works {
    pub(super) fn new(
        spec: &CompositeSpec,
        names: Names,
        keys: &RecordingKeys,
        (video, audio): (&VideoConfig, &AudioConfig),
        pieces: Pieces,
    ) -> Result<Self, Error> {
        let mut works = Self {
            next_slice: 0,
            next_window: 0,
            start: None,
            end: None,
            joined: Vec::new(),
            decoder: None,
            sounds: Vec::new(),
            webm: None,
            thumbnails: None,
            storyboard: None,
            captions: None,
            tracks: Vec::new(),
            notes: BTreeSet::new(),
            names,
            pieces,
        };
        for output in &spec.outputs {
            works.add(output, video, audio)?;
        }
        if works.webm.is_some() || !works.sounds.is_empty() {
            works.decoder = Some(Decoder::open(audio)?);
        }
        for format in &spec.tracks {
            let files = TrackFiles { keys: keys.clone(), pieces: works.pieces.clone() };
            works.tracks.push(Exporter::with(Arc::new(files), *format));
        }
        Ok(works)
    }

    fn add(&mut self, output: &Output, video: &VideoConfig, audio: &AudioConfig) -> Result<(), Error> {
        let key = || self.names.key(output, "");
        let bitrate = |usual| output.audio_bitrate.unwrap_or(usual);
        match output.kind {
            Kind::Hls => {}
            Kind::Mp4 => {
                let joiner = Joiner::new(Some(video.clone()), audio.clone());
                self.joined.push(Joined { key: key()?, joiner });
            }
            Kind::M4a => self.joined.push(Joined { key: key()?, joiner: Joiner::new(None, audio.clone()) }),
            Kind::Mp3 => {
                let file = self.pieces.file(key()?);
                self.sounds.push(SoundFile::create("mp3", Coding::Mp3, bitrate(USUAL_MP3_BITRATE), file)?);
            }
            Kind::Ogg => {
                let file = self.pieces.file(key()?);
                self.sounds.push(SoundFile::create("ogg", Coding::Opus, bitrate(USUAL_OPUS_BITRATE), file)?);
            }
            Kind::Webm => {
                let file = self.pieces.file(key()?);
                let codec = output.codec.unwrap_or_default();
                self.webm = Some(Webm::create(codec, video, bitrate(USUAL_OPUS_BITRATE), file)?);
            }
            Kind::Thumbnails => self.thumbnails = Some(Thumbnails::new(output, video)),
            Kind::Storyboard => self.storyboard = Some(Storyboard::new(output, video)),
            Kind::Captions => self.captions = Some((output.clone(), Captions::default())),
        }
        Ok(())
    }

    pub(super) fn push_slice(&mut self, slice: &EncodedSlice) -> Result<(), Error> {
        if slice.number != self.next_slice {
            return Err(OutOfOrder { number: slice.number, expected: self.next_slice }.into());
        }
        self.next_slice += 1;
        for Joined { key, joiner } in &mut self.joined {
            if let Some(part) = joiner.push(slice)? {
                self.pieces.part(key.clone(), part);
            }
        }
        if let Some(decoder) = &mut self.decoder {
            let samples = decoder.push(&slice.audio)?;
            self.sounds.iter_mut().try_for_each(|sound| sound.push(&samples))?;
            if let Some(webm) = &mut self.webm {
                webm.push(slice, &samples)?;
            }
        }
        if let Some(thumbnails) = &mut self.thumbnails {
            thumbnails.push(slice, &self.names, &self.pieces)?;
        }
        if let Some(storyboard) = &mut self.storyboard {
            storyboard.push(slice, &self.names, &self.pieces)?;
        }
        Ok(())
    }

    /// Whether it has to see a window's media, or only when the recording begins and ends.
    pub(super) fn wants_windows(&self) -> bool {
        self.captions.is_some() || !self.tracks.is_empty()
    }

    /// Takes the next window; one that it has seen is nothing new.
    pub(super) fn push_window(&mut self, window: &Window) -> Result<(), Error> {
        let header = &window.header;
        if header.window < self.next_window {
            return Ok(());
        }
        self.next_window = header.window + 1;
        self.start.get_or_insert(header.room_start);
        self.end = header.end.as_ref().map(|end| end.room_end);
        if let Some((_, captions)) = &mut self.captions {
            captions.push_window(window);
        }
        self.tracks.iter_mut().try_for_each(|tracks| tracks.push_window(window))?;
        if self.pieces.held() > MAX_HELD_BYTES {
            self.tracks.clear();
            let why = format!(
                "window {}: too many tracks to export them beside a render; `roomreel export` does",
                header.window
            );
            self.notes.insert(why);
        }
        Ok(())
    }

    /// Pictures that can be chosen now that every slice has been taken in.
    pub(super) fn wanted_pictures(&self) -> Vec<Wanted> {
        self.thumbnails.as_ref().map(Thumbnails::wanted).unwrap_or_default()
    }

    pub(super) fn take_picture(&mut self, wanted: &Wanted, slice: &EncodedSlice) -> Result<(), Error> {
        self.thumbnails.as_mut().map_or(Ok(()), |thumbnails| thumbnails.take(wanted, slice, &self.names, &self.pieces))
    }

    /// Ends every file; the slices show what the windows told, or a `stretch` of it. The answer is what is to be said of the tracks.
    pub(super) fn finish(mut self, stretch: Option<Range<Duration>>) -> Result<BTreeSet<String>, Error> {
        let told = || Some(self.end?.micros_since(self.start?).max(0));
        let stretch = stretch.map(|stretch| (stretch.start.as_micros() as i64, stretch.end.as_micros() as i64));
        let length_us = stretch.map(|(from_us, to_us)| to_us - from_us).or_else(told);
        // As the render counts them.
        let samples = length_us.map(|us| us.unsigned_abs() * u64::from(SAMPLE_RATE) / 1_000_000);
        for Joined { key, joiner } in self.joined {
            self.pieces.end(key, joiner.finish(samples));
        }
        if let Some(decoder) = &mut self.decoder {
            let rest = decoder.finish(samples.unwrap_or(u64::MAX));
            for mut sound in self.sounds {
                sound.push(&rest)?;
                sound.finish()?;
            }
            if let Some(webm) = self.webm {
                webm.finish(&rest)?;
            }
        }
        if let Some(storyboard) = self.storyboard {
            storyboard.finish(length_us.unwrap_or(0), &self.names, &self.pieces)?;
        }
        if let Some((output, captions)) = &mut self.captions {
            if let Some((from_us, to_us)) = stretch {
                captions.cut(from_us, to_us);
            }
            self.pieces.whole(self.names.key(output, ".vtt")?, captions.webvtt().into());
            // WebVTT without cues is one; SubRip has nothing to tell itself by.
            if captions.count().0 > 0 {
                self.pieces.whole(self.names.key(output, ".srt")?, captions.srt().into());
            }
        }
        for tracks in self.tracks {
            let (_, notes) = tracks.finish()?;
            self.notes.extend(notes);
        }
        Ok(self.notes)
    }
}
