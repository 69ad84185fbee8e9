//! Pictures and sound in, slices of H.264 and AAC out, and of VP9 or VP8 where a WebM is made.
//!
//! Owns where slices are cut and that slices of two encoders fit together:
//!
//! * Video: every slice is a closed group of pictures by an encoder of its own with equal settings, so that any slice can
//!   follow any other, and an equal slice has equal bytes.
//! * Audio: AAC frame `i` holds samples `1024 i` to `1024 (i + 1)` of the recording, whoever encoded it. The encoder runs through from
//!   slice to slice. One that begins in mid-recording is fed [`Encoder::audio_from`] on, ahead of its first slice, and what it makes
//!   of that is dropped: by then it agrees with the encoder before it.
//!
//! AAC frames come out three frames after their samples went in, so a slice carries the sound of its own time moved by those 64 ms:
//! it lacks its own last three frames and begins with the last three of the slice before. The time stamps say so; joined, nothing is
//! missing. The first frame of a recording has no predecessor to overlap with and fades in over 21 ms; in return there is
//! no priming, and no player has to heed an edit list for sound and picture to agree.
//!
//! Does not own containers, nor where pictures and sound come from.

mod audio;
mod coded;
mod grid;
mod video;
mod webm;

pub use coded::{AudioConfig, EncodedSlice, Sample, SampleInfo, SliceTable, VideoConfig};
pub use grid::{AAC_FRAME, Grid, REORDER_TICKS};

use roomreel_shared::composite::CompositeSpec;

use crate::decode::SAMPLE_RATE;
use crate::frame::Canvas;

/// Why the encoder does not encode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// libavcodec lacks an encoder or refuses these settings.
    #[error("no encoder {name}: {why}")]
    Unavailable {
        /// libavcodec's name of it.
        name: &'static str,
        /// What it says.
        why: String,
    },
    /// It stopped working.
    #[error("{name} gave up: {why}")]
    GaveUp {
        /// libavcodec's name of it.
        name: &'static str,
        /// What it says.
        why: String,
    },
}

/// Encode the pictures of one slice.
struct PictureEncoders {
    video: video::SliceEncoder,
    /// The same pictures again, where a WebM is made.
    webm: Option<webm::SliceEncoder>,
}

impl PictureEncoders {
    fn open(spec: &CompositeSpec) -> Result<Self, Error> {
        Ok(Self { video: video::SliceEncoder::open(spec)?, webm: webm::SliceEncoder::open(spec)? })
    }
}

/// Encodes a recording slice by slice, from some slice on.
pub struct Encoder {
    grid: Grid,
    spec: CompositeSpec,
    slice: u64,
    config: VideoConfig,
    /// Those of this slice, from its first frame on. The ones before are gone by then: an encoder takes tens of megabytes.
    pictures: Option<PictureEncoders>,
    audio: audio::Encoder,
    /// Frames pushed into this slice.
    frames: u64,
}

impl Encoder {
    /// An encoder whose first slice is `first_slice`, with slices of `slice_ms` milliseconds.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub fn new(spec: &CompositeSpec, slice_ms: u64, first_slice: u64) -> Result<Self, Error> {
        crate::decode::silence_libav();
        let grid = Grid::new(slice_ms, spec.fps);
        let pictures = PictureEncoders::open(spec)?;
        let (sps, pps) = pictures.video.parameter_sets()?;
        let (width, height) = (spec.width as u16, spec.height as u16);
        Ok(Self {
            config: VideoConfig { width, height, timescale: grid.video_timescale(), sps, pps },
            pictures: Some(pictures),
            audio: audio::Encoder::open(spec.audio_bitrate, grid.audio_from(first_slice))?,
            slice: first_slice,
            spec: spec.clone(),
            grid,
            frames: 0,
        })
    }

    /// Where slices begin and end.
    #[must_use]
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// For the header of a container.
    #[must_use]
    pub fn video_config(&self) -> VideoConfig {
        self.config.clone()
    }

    /// For the header of a container.
    #[must_use]
    pub fn audio_config(&self) -> AudioConfig {
        AudioConfig {
            sample_rate: SAMPLE_RATE,
            channels: 2,
            bitrate: self.spec.audio_bitrate,
            specific: self.audio.specific_config(),
        }
    }

    /// The sample, from the start of the recording, that the first [`Self::push_audio`] begins with: before the start of the first
    /// slice, unless that is slice 0.
    #[must_use]
    pub fn audio_from(&self) -> u64 {
        self.audio.from()
    }

    /// Encodes the slice's next frame.
    ///
    /// # Errors
    /// Either [`Error`]; [`Error::GaveUp`] also for a canvas of another size.
    pub fn push_video(&mut self, canvas: &Canvas) -> Result<(), Error> {
        let PictureEncoders { video, webm } = match &mut self.pictures {
            Some(open) => open,
            None => {
                let opened = PictureEncoders::open(&self.spec)?;
                if opened.video.parameter_sets()? != (self.config.sps.clone(), self.config.pps.clone()) {
                    let why = "equal settings gave other parameter sets".to_owned();
                    return Err(Error::GaveUp { name: video::NAME, why });
                }
                self.pictures.insert(opened)
            }
        };
        video.push(canvas, self.frames as i64)?;
        if let Some(webm) = webm {
            webm.push(canvas, self.frames as i64)?;
        }
        self.frames += 1;
        Ok(())
    }

    /// Encodes the samples that follow those pushed before: interleaved stereo at 48 kHz, full scale ±1.
    ///
    /// # Errors
    /// [`Error::GaveUp`].
    pub fn push_audio(&mut self, samples: &[f32]) -> Result<(), Error> {
        self.audio.push(samples)
    }

    /// Ends a slice whose pictures and samples have all been pushed; the next one begins.
    ///
    /// # Errors
    /// [`Error::GaveUp`].
    pub fn finish_slice(&mut self) -> Result<EncodedSlice, Error> {
        let audio = self.audio.take(self.grid.audio_frames(self.slice));
        let slice = self.end_video(audio)?;
        self.slice += 1;
        self.frames = 0;
        Ok(slice)
    }

    /// Ends the last slice, which may be shorter, and the sound with it.
    ///
    /// # Errors
    /// [`Error::GaveUp`].
    pub fn finish_last(mut self) -> Result<EncodedSlice, Error> {
        let first = self.grid.audio_frames(self.slice).start;
        let end = self.audio.finish()?;
        let audio = self.audio.take(first..end);
        self.end_video(audio)
    }

    fn end_video(&mut self, audio: Vec<Sample>) -> Result<EncodedSlice, Error> {
        let first = self.grid.first_frame(self.slice) as i64;
        let (video, webm) = match self.pictures.take() {
            Some(PictureEncoders { mut video, webm }) => {
                (video.finish(first)?, webm.map_or(Ok(Vec::new()), |mut webm| webm.finish(first))?)
            }
            None => (Vec::new(), Vec::new()),
        };
        Ok(EncodedSlice { number: self.slice, video, audio, webm })
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Encoder at slice {}", self.slice)
    }
}
