//! Files that need a decoder, an encoder or a muxer, without a store: bytes in, pieces of files out.
//!
//! Everything here follows slices and windows in order from the first on, so a successor that goes through them again makes the same files.

use std::collections::BTreeSet;
use std::sync::Arc;

use roomreel_shared::key::RecordingKeys;
use roomreel_shared::output::{Kind, Names, Output};
use roomreel_shared::window::Window;

use super::growing::{Pieces, TrackFiles};
use super::pictures::{Storyboard, Thumbnails, Wanted};
use super::relay::Order;
use super::sound::{Coding, Decoder, SoundFile};
use super::webm::Webm;
use super::{Ending, Error};
use crate::encode::{EncodedSlice, VideoConfig};
use crate::engine::witness;
use crate::export::Exporter;
use crate::join::OutOfOrder;

/// Opus, bits per second, unless it is said.
const USUAL_OPUS_BITRATE: u32 = 96_000;
/// MP3, bits per second, unless it is said.
const USUAL_MP3_BITRATE: u32 = 128_000;

/// Most bytes that files hold back: what a hundred tracks and every output take.
const MAX_HELD_BYTES: usize = 1 << 30;

/// Every file that needs a decoder, an encoder or a muxer.
pub(super) struct Works {
    names: Names,
    pieces: Pieces,
    next_slice: u64,
    next_window: u64,
    decoder: Option<Decoder>,
    sounds: Vec<SoundFile>,
    webm: Option<Webm>,
    thumbnails: Option<Thumbnails>,
    storyboard: Option<Storyboard>,
    tracks: Vec<Exporter>,
    /// What is to be said of the tracks.
    notes: BTreeSet<String>,
}

impl Works {
    pub(super) fn new(order: &Order, pieces: Pieces) -> Result<Self, Error> {
        let (keys, names): (RecordingKeys, Names) = (order.keys(), order.names());
        let mut works = Self {
            next_slice: 0,
            next_window: 0,
            decoder: None,
            sounds: Vec::new(),
            webm: None,
            thumbnails: None,
            storyboard: None,
            tracks: Vec::new(),
            notes: BTreeSet::new(),
            names,
            pieces,
        };
        let (video, audio) = order.configs();
        for output in &order.spec.outputs {
            works.add(output, &video)?;
        }
        if works.webm.is_some() || !works.sounds.is_empty() {
            works.decoder = Some(Decoder::open(&audio)?);
        }
        for format in &order.spec.tracks {
            let files = TrackFiles { keys: keys.clone(), pieces: works.pieces.clone() };
            works.tracks.push(Exporter::with(Arc::new(files), *format).without(order.banned.clone()));
        }
        Ok(works)
    }

    fn add(&mut self, output: &Output, video: &VideoConfig) -> Result<(), Error> {
        let key = || self.names.key(output, "");
        let bitrate = |usual| output.audio_bitrate.unwrap_or(usual);
        match output.kind {
            Kind::Hls | Kind::Mp4 | Kind::M4a | Kind::Captions => {}
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
        }
        Ok(())
    }

    pub(super) fn push_slice(&mut self, slice: &EncodedSlice) -> Result<(), Error> {
        if slice.number != self.next_slice {
            return Err(OutOfOrder { number: slice.number, expected: self.next_slice }.into());
        }
        self.next_slice += 1;
        if let Some(decoder) = &mut self.decoder {
            let samples = decoder.push(&slice.audio)?;
            // So that its supervisor sees it move.
            witness::done();
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

    /// Takes the next window; one that it has seen is nothing new.
    pub(super) fn push_window(&mut self, window: &Window) -> Result<(), Error> {
        let header = &window.header;
        if header.window < self.next_window {
            return Ok(());
        }
        self.next_window = header.window + 1;
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

    /// Ends every file. The answer is what is to be said of the tracks.
    pub(super) fn finish(mut self, ending: Ending) -> Result<BTreeSet<String>, Error> {
        if let Some(decoder) = &mut self.decoder {
            let rest = decoder.finish(ending.samples().unwrap_or(u64::MAX));
            for mut sound in self.sounds {
                sound.push(&rest)?;
                sound.finish()?;
            }
            if let Some(webm) = self.webm {
                webm.finish(&rest)?;
            }
        }
        if let Some(storyboard) = self.storyboard {
            storyboard.finish(ending.length_us.unwrap_or(0), &self.names, &self.pieces)?;
        }
        for tracks in self.tracks {
            let (files, notes) = tracks.finish()?;
            self.notes.extend(notes);
            let turned = files.iter().filter(|file| file.is_turned);
            self.notes.extend(
                turned.map(|file| format!("{}: the camera was turned; it says how it was held first", file.name)),
            );
        }
        Ok(self.notes)
    }
}
