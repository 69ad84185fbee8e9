//! One track in one file of libavformat's.
//!
//! Owns the call of the muxer. Does not own what is written when.

use ffmpeg::{Packet, ffi};
use ffmpeg_the_third as ffmpeg;
use roomreel_shared::event::Codec;

use super::{Error, OpenFile};
use crate::depacketize::orientation::Orientation;
use crate::mux::libav::{Muxer, StreamFormat};

/// What is asked of containers that can choose their clock: RTP's for video.
const TIMESCALE: u32 = 90_000;

/// What a container says about the media.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MediaFormat {
    pub(super) codec: Codec,
    /// Pixels; zero for sound.
    pub(super) size: (u32, u32),
    /// How the camera was held.
    pub(super) orientation: Orientation,
    /// Samples per second; zero for video.
    pub(super) sample_rate: u32,
    /// Zero for video.
    pub(super) channels: u8,
    /// Parameter sets, sequence header or identification header, as libavformat takes them.
    pub(super) extradata: Vec<u8>,
}

impl MediaFormat {
    /// Whether media of this format can go on in a file that was begun with `begun`: sizes are in the key pictures, and a camera that is
    /// turned is the same camera.
    pub(super) fn continues(&self, begun: &Self) -> bool {
        Self { size: begun.size, orientation: begun.orientation, ..self.clone() } == *begun
    }

    /// Extension of the file and libavformat's name of the container.
    pub(super) fn container(&self) -> (&'static str, &'static str) {
        match self.codec {
            Codec::H264 | Codec::H265 => ("mp4", "mp4"),
            Codec::Pcmu | Codec::Pcma | Codec::G722 => ("mka", "matroska"),
            _ => ("webm", "webm"),
        }
    }

    fn codec_id(&self) -> ffi::AVCodecID {
        match self.codec {
            Codec::Vp8 => ffi::AVCodecID::VP8,
            Codec::Vp9 => ffi::AVCodecID::VP9,
            Codec::H264 => ffi::AVCodecID::H264,
            Codec::H265 => ffi::AVCodecID::HEVC,
            Codec::Av1 => ffi::AVCodecID::AV1,
            Codec::Opus => ffi::AVCodecID::OPUS,
            Codec::Pcmu => ffi::AVCodecID::PCM_MULAW,
            Codec::Pcma => ffi::AVCodecID::PCM_ALAW,
            Codec::G722 => ffi::AVCodecID::ADPCM_G722,
            _ => ffi::AVCodecID::NONE,
        }
    }
}

/// A file that is being written.
pub(super) struct Container {
    name: String,
    muxer: Muxer,
    /// Ticks are `num` / `den` seconds.
    time_base: (i64, i64),
    last: Option<i64>,
}

impl Container {
    pub(super) fn create(file: OpenFile, media: &MediaFormat) -> Result<Self, Error> {
        let (name, sink) = file.into_sink();
        let format = StreamFormat {
            size: media.size,
            degrees_clockwise: media.orientation.degrees_clockwise(),
            bits_per_sample: match media.codec {
                Codec::Pcmu | Codec::Pcma => 8,
                Codec::G722 => 4,
                _ => 0,
            },
            extradata: media.extradata.clone(),
            ..StreamFormat::audio(media.codec_id(), media.sample_rate, media.channels, TIMESCALE)
        };
        match Muxer::create(media.container().1, &[format], sink) {
            Ok(muxer) => Ok(Self { name, time_base: muxer.resolution(), muxer, last: None }),
            Err(source) => Err(Error::File { name, source }),
        }
    }

    /// Ticks of the file's clock.
    fn ticks(&self, micros: i64) -> i64 {
        let (num, den) = self.time_base;
        let unit = i128::from(num.max(1)) * 1_000_000;
        ((i128::from(micros) * i128::from(den) + unit / 2) / unit) as i64
    }

    /// Writes a picture or a sound packet that stands `at_us` on the recording's clock. Clocks that were corrected may go back; files
    /// cannot.
    pub(super) fn write(&mut self, data: &[u8], at_us: i64, duration_us: i64, is_key: bool) -> Result<(), Error> {
        let at = self.ticks(at_us.max(0)).max(self.last.map_or(0, |last| last + 1));
        self.last = Some(at);
        let mut packet = Packet::copy(data);
        packet.set_pts(Some(at));
        packet.set_dts(Some(at));
        packet.set_duration(self.ticks(duration_us));
        if is_key {
            packet.set_flags(ffmpeg::packet::Flags::KEY);
        }
        let written = self.muxer.write_in_its_units(packet);
        written.map_err(|source| Error::File { name: self.name.clone(), source })
    }

    pub(super) fn finish(self) -> Result<(), Error> {
        let name = self.name;
        self.muxer.finish().map_err(|source| Error::File { name, source })
    }
}
