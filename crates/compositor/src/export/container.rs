//! One track in one file of libavformat's.
//!
//! Owns the call of the muxer. Does not own what is written when.

use std::path::{Path, PathBuf};

use ffmpeg::format::{self, context::Output};
use ffmpeg::{Packet, ffi};
use ffmpeg_the_third as ffmpeg;
use roomreel_shared::event::Codec;

use super::Error;
use crate::decode::silence_libav;

/// What a container says about the media.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MediaFormat {
    pub(super) codec: Codec,
    /// Pixels; zero for sound.
    pub(super) size: (u32, u32),
    /// Samples per second; zero for video.
    pub(super) sample_rate: u32,
    /// Zero for video.
    pub(super) channels: u8,
    /// Parameter sets, sequence header or identification header, as libavformat takes them.
    pub(super) extradata: Vec<u8>,
}

impl MediaFormat {
    /// Whether media of this format can go on in a file that was begun with `begun`: sizes are in the key pictures.
    pub(super) fn continues(&self, begun: &Self) -> bool {
        Self { size: begun.size, ..self.clone() } == *begun
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
    path: PathBuf,
    output: Output,
    /// Ticks are `num` / `den` seconds.
    time_base: (i64, i64),
    last: Option<i64>,
}

impl Container {
    pub(super) fn create(path: &Path, media: &MediaFormat) -> Result<Self, Error> {
        silence_libav();
        let failed = |error: ffmpeg::Error| Error::Container { path: path.to_owned(), why: error.to_string() };
        let mut output = format::output_as(path, media.container().1).map_err(failed)?;
        output.add_stream(ffmpeg::codec::Id::None).map_err(failed)?;
        // SAFETY: the context has the one stream that was just added, with its parameters allocated; these are plain fields of
        // them. The extradata is allocated by libavutil with the padding it asks for, and freed with the parameters.
        unsafe {
            let context = output.as_mut_ptr();
            (*context).flags |= ffi::AVFMT_FLAG_BITEXACT;
            let stream = *(*context).streams;
            (*stream).time_base = ffi::AVRational { num: 1, den: 90_000 };
            let parameters = (*stream).codecpar;
            (*parameters).codec_id = media.codec_id();
            if media.channels == 0 {
                (*parameters).codec_type = ffi::AVMediaType::VIDEO;
                (*parameters).width = media.size.0 as i32;
                (*parameters).height = media.size.1 as i32;
            } else {
                (*parameters).codec_type = ffi::AVMediaType::AUDIO;
                (*parameters).sample_rate = media.sample_rate as i32;
                ffi::av_channel_layout_default(&mut (*parameters).ch_layout, i32::from(media.channels));
                let bits = match media.codec {
                    Codec::Pcmu | Codec::Pcma => 8,
                    Codec::G722 => 4,
                    _ => 0,
                };
                (*parameters).bits_per_coded_sample = bits;
                (*parameters).block_align = i32::from(bits > 0) * i32::from(media.channels);
            }
            if !media.extradata.is_empty() {
                let length = media.extradata.len();
                let memory = ffi::av_mallocz(length + ffi::AV_INPUT_BUFFER_PADDING_SIZE as usize).cast::<u8>();
                if memory.is_null() {
                    return Err(failed(ffmpeg::Error::Unknown));
                }
                std::ptr::copy_nonoverlapping(media.extradata.as_ptr(), memory, length);
                (*parameters).extradata = memory;
                (*parameters).extradata_size = length as i32;
            }
        }
        output.write_header().map_err(failed)?;
        let time_base = output.stream(0).map_or((1, 1000), |stream| {
            let base = stream.time_base();
            (i64::from(base.numerator()), i64::from(base.denominator()))
        });
        Ok(Self { path: path.to_owned(), output, time_base, last: None })
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
        packet.set_stream(0);
        packet.set_pts(Some(at));
        packet.set_dts(Some(at));
        packet.set_duration(self.ticks(duration_us));
        if is_key {
            packet.set_flags(ffmpeg::packet::Flags::KEY);
        }
        let written = packet.write(&mut self.output);
        written.map(drop).map_err(|error| Error::Container { path: self.path.clone(), why: error.to_string() })
    }

    pub(super) fn finish(mut self) -> Result<(), Error> {
        let ended = self.output.write_trailer();
        ended.map_err(|error| Error::Container { path: self.path.clone(), why: error.to_string() })
    }
}
