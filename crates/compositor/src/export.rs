//! Windows in, files of single tracks out: playable ones without transcoding, and the packets as they were received.
//!
//! Owns which packet goes to which file and when on the recording's clock. Does not own where windows come from, nor where files
//! are kept ([`FileMaker`]). Files are written while windows are pushed, so memory holds what a window and the reorder allowance hold,
//! whatever the recording's length.

mod container;
mod file;
mod janus;
mod playable;
mod rtpdump;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use roomreel_shared::batch::Packet;
use roomreel_shared::event::Producer;
use roomreel_shared::id::{PeerId, RecordingId, SfuId};
use roomreel_shared::policy::TrackKind;
use roomreel_shared::time::RoomTime;
use roomreel_shared::window::{TrackKey, Window};

use crate::engine::witness;
use crate::timeline::clock::ParticipantClock;
use crate::track::{Intake, announced};
use file::{Directory, OpenFile};
use janus::Janus;
use playable::{Sound, Video};
use rtpdump::RtpDump;

pub use file::FileMaker;
pub use roomreel_shared::output::TrackFormat as Format;

/// How far behind the newest packet media is written, microseconds: what is late or sent again has come by then.
const ALLOWANCE_US: i64 = 2_000_000;
/// Most packets that wait for their track to be announced.
const MAX_ORPHANS: usize = 4096;
/// Most tracks of a recording, and most files of a track: each is an open file or a name in a listing.
const MAX_TRACKS: usize = 8000;
const MAX_FILES: usize = 1000;

/// Why tracks cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A window of another recording: nothing of it may be written (I4).
    #[error("a window of recording {found} came where {expected} is exported")]
    WrongRecording {
        /// Whose window it is.
        found: RecordingId,
        /// Whose it should be.
        expected: RecordingId,
    },
    /// A file cannot be written, or libavformat does not make its container.
    #[error("write {name}: {source}")]
    File {
        /// Which.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportedFile {
    /// Its name in the directory.
    pub name: String,
    /// Whose media.
    pub peer: PeerId,
    /// What it holds, as SDP names it; empty for packets of any kind.
    pub codec: String,
    /// Where its media begins and ends on the recording's clock, microseconds.
    pub span_us: (i64, i64),
    /// Pictures or packets.
    pub count: u64,
    /// The camera was turned meanwhile: the file says how it was held when it began.
    pub is_turned: bool,
}

/// The files of one track, named one after another.
struct Files {
    maker: Arc<dyn FileMaker>,
    stem: String,
    peer: PeerId,
    written: Vec<ExportedFile>,
}

impl Files {
    /// The next file; `None` if there are too many.
    fn next(&mut self, extension: &str, codec: &str) -> Result<Option<OpenFile>, Error> {
        if self.written.len() >= MAX_FILES {
            return Ok(None);
        }
        let name = match self.written.len() {
            0 => format!("{}.{extension}", self.stem),
            before => format!("{}.part{}.{extension}", self.stem, before + 1),
        };
        let file = OpenFile::create(&*self.maker, &name)?;
        let (peer, codec) = (self.peer.clone(), codec.to_owned());
        self.written.push(ExportedFile { name, peer, codec, span_us: (i64::MAX, 0), count: 0, is_turned: false });
        Ok(Some(file))
    }

    /// Number of the file that was begun last.
    fn newest(&self) -> usize {
        self.written.len().saturating_sub(1)
    }

    /// The camera is held otherwise than when the newest file began.
    fn turn(&mut self) {
        if let Some(file) = self.written.last_mut() {
            file.is_turned = true;
        }
    }

    /// Notes what went into a file.
    fn note(&mut self, file: usize, at_us: i64, duration_us: i64) {
        if let Some(file) = self.written.get_mut(file) {
            file.count += 1;
            file.span_us = (file.span_us.0.min(at_us), file.span_us.1.max(at_us.saturating_add(duration_us)));
        }
    }
}

enum Sink {
    Video(Box<Video>),
    Sound(Sound),
    Janus(Janus),
    Dump(RtpDump),
    /// A file of the track could not be written: the others go on.
    Broken,
}

struct Track {
    producer: Producer,
    intake: Intake,
    files: Files,
    sink: Sink,
}

impl Track {
    /// Writes what lies before `end`.
    fn write_before(&mut self, end: RoomTime, start: RoomTime) -> Result<(), Error> {
        match &mut self.sink {
            Sink::Video(video) => video.write_before(end, start, &mut self.intake, &mut self.files),
            Sink::Sound(sound) => sound.write_before(end, start, &mut self.intake, &mut self.files),
            Sink::Janus(janus) => janus.write_before(end, start, &mut self.intake, &mut self.files),
            Sink::Dump(_) | Sink::Broken => Ok(()),
        }
    }

    fn finish(self) -> Result<Vec<ExportedFile>, Error> {
        match self.sink {
            Sink::Video(video) => video.finish()?,
            Sink::Sound(sound) => sound.finish()?,
            Sink::Janus(janus) => janus.finish()?,
            Sink::Dump(dump) => dump.finish()?,
            Sink::Broken => {}
        }
        Ok(self.files.written)
    }
}

/// Exports every track of a recording.
pub struct Exporter {
    maker: Arc<dyn FileMaker>,
    format: Format,
    /// Which recording, and where it begins; known from the first window on.
    recording: Option<(RecordingId, RoomTime)>,
    tracks: BTreeMap<TrackKey, Track>,
    clocks: BTreeMap<(SfuId, PeerId), ParticipantClock>,
    orphans: Vec<(TrackKey, Packet)>,
    /// How many tracks share a stem.
    stems: BTreeMap<String, u32>,
    done: Vec<ExportedFile>,
    notes: Vec<String>,
    /// Tracks that are left out.
    banned: BTreeSet<TrackKey>,
}

impl Exporter {
    /// Files go to `directory`, which exists; those of the same names are replaced.
    #[must_use]
    pub fn new(directory: &Path, format: Format) -> Self {
        Self::with(Arc::new(Directory(directory.to_owned())), format)
    }

    /// Files are made by `maker`.
    #[must_use]
    pub fn with(maker: Arc<dyn FileMaker>, format: Format) -> Self {
        Self {
            maker,
            format,
            recording: None,
            tracks: BTreeMap::new(),
            clocks: BTreeMap::new(),
            orphans: Vec::new(),
            stems: BTreeMap::new(),
            done: Vec::new(),
            notes: Vec::new(),
            banned: BTreeSet::new(),
        }
    }

    /// Leaves tracks out: nothing of them is looked at. Call it before the first window.
    #[must_use]
    pub fn without(self, banned: BTreeSet<TrackKey>) -> Self {
        Self { banned, ..self }
    }

    /// Takes the next window of the chain.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn push_window(&mut self, window: &Window) -> Result<(), Error> {
        let header = &window.header;
        let (expected, start) =
            self.recording.get_or_insert_with(|| (header.recording.clone(), header.room_start)).clone();
        if header.recording != expected {
            return Err(Error::WrongRecording { found: header.recording.clone(), expected });
        }
        self.announce(window)?;
        // Who has waited for one window without being announced never will be.
        for (key, packet) in std::mem::take(&mut self.orphans) {
            if self.tracks.contains_key(&key) {
                self.receive(&key, packet, start)?;
            }
        }
        for segment in &window.segments {
            let Ok(batches) = window.batches(segment) else {
                self.note(format!("window {}: the segment of track {} is damaged", header.window, segment.key.track));
                continue;
            };
            for stored in batches {
                match stored {
                    Ok(stored) => {
                        for packet in stored.batch.packets {
                            self.receive(&segment.key, packet, start)?;
                        }
                    }
                    Err(error) => self.note(format!("window {}: {error}", header.window)),
                }
            }
        }
        let end = match header.end {
            Some(_) => RoomTime::from_micros(i64::MAX),
            None => header.room_seen.offset_micros(-ALLOWANCE_US),
        };
        // Only now all sender reports of the window are known, those of a participant's other tracks too.
        let mut broken = Vec::new();
        for (key, track) in &mut self.tracks {
            witness::at(key, header.room_seen);
            let clock = self.clocks.entry((key.sfu.clone(), track.producer.peer.clone())).or_default();
            track.intake.place(clock);
            if let Err(error) = track.write_before(end, start) {
                broken.push(error.to_string());
                track.sink = Sink::Broken;
            }
        }
        witness::done();
        broken.into_iter().for_each(|why| self.note(why));
        Ok(())
    }

    /// Writes what still waits and ends every file; those that were written, in the order of their names, and what is to be said of
    /// the windows.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn finish(mut self) -> Result<(Vec<ExportedFile>, Vec<String>), Error> {
        if let Some((_, start)) = self.recording {
            for (_, mut track) in std::mem::take(&mut self.tracks) {
                match track.write_before(RoomTime::from_micros(i64::MAX), start).and_then(|()| track.finish()) {
                    Ok(files) => self.done.extend(files),
                    Err(error) => self.note(error.to_string()),
                }
            }
        }
        self.done.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((self.done, self.notes))
    }

    fn note(&mut self, note: String) {
        if self.notes.len() < MAX_FILES {
            self.notes.push(note);
        }
    }

    fn announce(&mut self, window: &Window) -> Result<(), Error> {
        for (key, producer) in announced(window) {
            let is_known = self.tracks.get(&key).is_some_and(|track| track.producer == producer);
            if is_known || self.banned.contains(&key) || self.tracks.len() >= MAX_TRACKS {
                continue;
            }
            let kind = match (producer.kind, producer.is_audio) {
                (TrackKind::Screenshare, true) => "screen-audio",
                (TrackKind::Screenshare, false) => "screen",
                (_, true) => "audio",
                (_, false) => "video",
            };
            let mut stem = format!("{}-{kind}", producer.peer.token());
            let count = self.stems.entry(stem.clone()).or_default();
            *count += 1;
            if *count > 1 {
                stem = format!("{stem}-{count}");
            }
            let peer = producer.peer.clone();
            let files = Files { maker: self.maker.clone(), stem, peer, written: Vec::new() };
            let sink = match self.format {
                Format::Playable if producer.is_audio => Sink::Sound(Sound::default()),
                Format::Playable => Sink::Video(Box::new(Video::new(producer.clone()))),
                Format::Mjr => Sink::Janus(Janus::new(producer.is_audio)),
                Format::Rtpdump => Sink::Dump(RtpDump::default()),
            };
            let track = Track { intake: Intake::new(producer.clone()), producer, files, sink };
            if let Some(mut replaced) = self.tracks.insert(key, track) {
                let start = self.recording.as_ref().map_or(RoomTime::default(), |(_, start)| *start);
                match replaced.write_before(RoomTime::from_micros(i64::MAX), start).and_then(|()| replaced.finish()) {
                    Ok(files) => self.done.extend(files),
                    Err(error) => self.note(error.to_string()),
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self, key: &TrackKey, packet: Packet, start: RoomTime) -> Result<(), Error> {
        if self.banned.contains(key) {
            return Ok(());
        }
        witness::at(key, packet.time);
        match self.tracks.get_mut(key) {
            Some(Track { sink: Sink::Dump(dump), files, .. }) => dump.write(&packet, start, files)?,
            Some(Track { sink: Sink::Broken, .. }) => {}
            Some(track) => {
                let clock = self.clocks.entry((key.sfu.clone(), track.producer.peer.clone())).or_default();
                track.intake.receive(&packet, clock);
            }
            None if self.orphans.len() < MAX_ORPHANS => self.orphans.push((key.clone(), packet)),
            None => {}
        }
        Ok(())
    }
}
