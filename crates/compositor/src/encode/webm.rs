//! One slice of VP9 or VP8: the pictures of a WebM.

use bytes::Bytes;
use ffmpeg::codec::Context;
use ffmpeg::format::Pixel;
use ffmpeg::{Dictionary, ffi};
use ffmpeg_the_third as ffmpeg;
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::output::{Kind, Output, WebmCodec};

use super::grid::TICKS_PER_FRAME;
use super::{Error, Sample};
use crate::decode::is_again;
use crate::frame::Canvas;

/// Quality of the picture unless it is said; the scales of both codecs differ.
const USUAL_VP9_CRF: u8 = 34;
const USUAL_VP8_CRF: u8 = 14;

/// Encodes one closed group of pictures.
pub(super) struct SliceEncoder {
    name: &'static str,
    encoder: ffmpeg::encoder::video::Encoder,
    /// Coded frames in the order they are shown, and whether decoding can begin there.
    coded: Vec<(Bytes, bool)>,
}

impl SliceEncoder {
    /// `None` if no WebM is asked for.
    pub(super) fn open(spec: &CompositeSpec) -> Result<Option<Self>, Error> {
        spec.outputs.iter().find(|output| output.kind == Kind::Webm).map(|output| Self::of(output, spec)).transpose()
    }

    fn of(output: &Output, spec: &CompositeSpec) -> Result<Self, Error> {
        // A positive speed is the utmost that VP8 goes to, as it finds it has time: a busy processor would give other bytes.
        let (name, usual_crf, speed) = match output.codec.unwrap_or_default() {
            WebmCodec::Vp8 => ("libvpx", USUAL_VP8_CRF, "-8"),
            WebmCodec::Vp9 => ("libvpx-vp9", USUAL_VP9_CRF, "8"),
        };
        let unavailable = |why: String| Error::Unavailable { name, why };
        let codec = ffmpeg::encoder::find_by_name(name).ok_or_else(|| unavailable("it is not built in".to_owned()))?;
        let mut video =
            Context::new_with_codec(codec).encoder().video().map_err(|error| unavailable(error.to_string()))?;
        video.set_width(spec.width);
        video.set_height(spec.height);
        video.set_format(Pixel::YUV420P);
        video.set_color_range(ffmpeg::color::Range::MPEG);
        video.set_colorspace(ffmpeg::color::Space::SMPTE170M);
        // VP8 takes a quality only below a bitrate: one that good pictures do not reach.
        let ceiling = u64::from(spec.width) * u64::from(spec.height) * u64::from(spec.fps) / 5;
        let bitrate = match (output.bitrate, output.codec.unwrap_or_default()) {
            (Some(bitrate), _) => bitrate as usize,
            (None, WebmCodec::Vp8) => ceiling as usize,
            (None, WebmCodec::Vp9) => 0,
        };
        video.set_bit_rate(bitrate);
        // SAFETY: the context is allocated and not yet open; these are plain fields of it.
        unsafe {
            let context = video.as_mut_ptr();
            (*context).time_base = ffi::AVRational { num: 1, den: spec.fps as i32 };
            (*context).framerate = ffi::AVRational { num: spec.fps as i32, den: 1 };
            if let Some(bitrate) = output.bitrate {
                (*context).rc_max_rate = i64::from(bitrate) * 3 / 2;
                (*context).rc_buffer_size = bitrate as i32;
            }
        }
        let mut options = Dictionary::new();
        // As calls are encoded: each frame comes out at once, so that the slice's last one does too.
        for (option, value) in [
            ("deadline", "realtime"),
            ("cpu-used", speed),
            ("lag-in-frames", "0"),
            ("auto-alt-ref", "0"),
            ("threads", "1"),
        ] {
            options.set(option, value);
        }
        if output.bitrate.is_none() {
            options.set("crf", output.crf.unwrap_or(usual_crf).to_string().as_str());
        }
        let keyframe_frames = spec.keyframe_ms.map_or(u64::from(u16::MAX), |ms| frames_in(ms, spec.fps));
        options.set("g", keyframe_frames.to_string().as_str());
        let encoder = video.open_with(options).map_err(|error| unavailable(error.to_string()))?;
        Ok(Self { name, encoder, coded: Vec::new() })
    }

    /// Encodes the frame at place `index` of the slice.
    pub(super) fn push(&mut self, canvas: &Canvas, index: i64) -> Result<(), Error> {
        let frame = canvas.frame_at(index).map_err(|error| self.gave_up(error.to_string()))?;
        self.encoder.send_frame(&frame).map_err(|error| self.gave_up(error.to_string()))?;
        self.receive()
    }

    /// The slice's samples, `first` being the number of its first frame in the recording.
    pub(super) fn finish(&mut self, first: i64) -> Result<Vec<Sample>, Error> {
        self.encoder.send_eof().map_err(|error| self.gave_up(error.to_string()))?;
        self.receive()?;
        let sample = |(place, (data, key)): (i64, (Bytes, bool))| {
            let time = (first + place) * i64::from(TICKS_PER_FRAME);
            Sample { data, pts: time, dts: time, duration: TICKS_PER_FRAME, key }
        };
        Ok((0..).zip(self.coded.drain(..)).map(sample).collect())
    }

    fn receive(&mut self) -> Result<(), Error> {
        let mut packet = ffmpeg::Packet::empty();
        loop {
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {}
                Err(error) if is_again(error) || error == ffmpeg::Error::Eof => return Ok(()),
                Err(error) => return Err(self.gave_up(error.to_string())),
            }
            let data = packet.data().map(Bytes::copy_from_slice);
            let data = data.ok_or_else(|| self.gave_up("an empty packet".to_owned()))?;
            self.coded.push((data, packet.is_key()));
        }
    }

    fn gave_up(&self, why: String) -> Error {
        Error::GaveUp { name: self.name, why }
    }
}

/// Frames in `ms` milliseconds, at least one.
pub(super) fn frames_in(ms: u32, fps: u32) -> u64 {
    (u64::from(ms) * u64::from(fps) / 1000).max(1)
}
