//! Single pictures of slices, scaled and as JPEG.
//!
//! Owns decoding, scaling and coding of stills. Does not own which ones are wanted.

use bytes::Bytes;
use ffmpeg::codec::{Context, threading};
use ffmpeg::format::Pixel;
use ffmpeg::software::scaling;
use ffmpeg::{Packet, Rational, ffi, frame};
use ffmpeg_the_third as ffmpeg;

use super::Error;
use super::sound::set_extradata;
use crate::decode::{is_again, silence_libav};
use crate::encode::{EncodedSlice, VideoConfig};

/// What JPEG pictures are made of: the whole range of values, chroma halved.
const FULL_RANGE: Pixel = Pixel::YUVJ420P;
/// FFmpeg's scale of JPEG quality, 2 (best) to 31.
const JPEG_QUALITY: i32 = 4;

/// A picture in JPEG's colours.
pub(super) struct Still(frame::Video);

// SAFETY: the frame's memory is its own.
unsafe impl Send for Still {}

impl Still {
    /// A black one.
    pub(super) fn black(width: u32, height: u32) -> Self {
        let mut frame = frame::Video::new(FULL_RANGE, width, height);
        frame.data_mut(0).fill(0);
        frame.data_mut(1).fill(128);
        frame.data_mut(2).fill(128);
        Self(frame)
    }

    /// Draws `other` with its upper left corner at (`x`, `y`), both even; what lies outside is cut off.
    pub(super) fn draw(&mut self, other: &Self, x: usize, y: usize) {
        for plane in 0..3 {
            let shift = usize::from(plane > 0);
            let (columns, rows) = (other.0.plane_width(plane) as usize, other.0.plane_height(plane) as usize);
            let (x, y) = (x >> shift, y >> shift);
            let (from_stride, to_stride) = (other.0.stride(plane), self.0.stride(plane));
            let (width, height) = (self.0.plane_width(plane) as usize, self.0.plane_height(plane) as usize);
            let columns = columns.min(width.saturating_sub(x));
            for row in 0..rows.min(height.saturating_sub(y)) {
                let from = &other.0.data(plane)[row * from_stride..][..columns];
                self.0.data_mut(plane)[(y + row) * to_stride + x..][..columns].copy_from_slice(from);
            }
        }
    }

    /// Its upper rows, for a picture that is not full.
    pub(super) fn cut_to(&mut self, rows: u32) {
        let height = rows.min(self.0.height());
        self.0.set_height(height);
    }

    /// As a JPEG file.
    pub(super) fn jpeg(&self) -> Result<Bytes, Error> {
        silence_libav();
        const NAME: &str = "mjpeg";
        let gave_up = |error: ffmpeg::Error| Error::gave_up(NAME, error);
        let codec = ffmpeg::encoder::find_by_name(NAME).ok_or_else(|| Error::unavailable(NAME, "not built in"))?;
        let mut context = Context::new_with_codec(codec);
        context.set_flags(ffmpeg::codec::Flags::QSCALE | ffmpeg::codec::Flags::BITEXACT);
        let mut video = context.encoder().video().map_err(gave_up)?;
        video.set_width(self.0.width());
        video.set_height(self.0.height());
        video.set_format(FULL_RANGE);
        video.set_color_range(ffmpeg::color::Range::JPEG);
        video.set_time_base(Rational(1, 1));
        video.set_aspect_ratio(Rational(1, 1));
        video.set_global_quality(JPEG_QUALITY * ffi::FF_QP2LAMBDA);
        // SAFETY: the context is allocated and not yet open; this is a plain field of it.
        unsafe {
            (*video.as_mut_ptr()).thread_count = 1;
        }
        let mut encoder = video.open().map_err(gave_up)?;
        let mut frame = self.0.clone();
        frame.set_pts(Some(0));
        // SAFETY: the frame is allocated; this is a plain field of it.
        unsafe {
            (*frame.as_mut_ptr()).quality = JPEG_QUALITY * ffi::FF_QP2LAMBDA;
        }
        encoder.send_frame(&frame).map_err(gave_up)?;
        encoder.send_eof().map_err(gave_up)?;
        let mut packet = Packet::empty();
        encoder.receive_packet(&mut packet).map_err(gave_up)?;
        packet.data().map(Bytes::copy_from_slice).ok_or_else(|| Error::gave_up(NAME, "an empty picture"))
    }
}

/// Takes pictures out of slices.
pub(super) struct Camera {
    video: VideoConfig,
    scaler: Option<scaling::Context>,
    size: (u32, u32),
}

// SAFETY: a swscale context has no thread of its own and is only reached through `&mut self`.
unsafe impl Send for Camera {}

impl Camera {
    /// Pictures of this width, or of the slices' own; the height follows.
    pub(super) fn new(video: &VideoConfig, width: Option<u32>) -> Self {
        let (full_width, full_height) = (u32::from(video.width), u32::from(video.height));
        let width = width.unwrap_or(full_width).min(full_width);
        let height = (full_height * width / full_width.max(1)).next_multiple_of(2).max(2);
        Self { video: video.clone(), scaler: None, size: (width, height) }
    }

    /// Columns and rows of its pictures.
    pub(super) fn size(&self) -> (u32, u32) {
        self.size
    }

    /// What is shown at `pts`, or at the slice's end if that is later.
    pub(super) fn take(&mut self, slice: &EncodedSlice, pts: i64) -> Result<Still, Error> {
        let frame = decode_at(&self.video, slice, pts)?;
        let gave_up = |error: ffmpeg::Error| Error::gave_up("swscale", error);
        let scaler = match &mut self.scaler {
            Some(scaler) => scaler,
            none => none.insert(
                scaling::Context::get(
                    Pixel::YUV420P,
                    frame.width(),
                    frame.height(),
                    FULL_RANGE,
                    self.size.0,
                    self.size.1,
                    scaling::Flags::AREA | scaling::Flags::ACCURATE_RND | scaling::Flags::BITEXACT,
                )
                .map_err(gave_up)?,
            ),
        };
        let mut scaled = frame::Video::empty();
        scaler.run(&frame, &mut scaled).map_err(gave_up)?;
        Ok(Still(scaled))
    }
}

/// Decodes from the nearest key frame on until the picture that is shown at `pts`.
fn decode_at(video: &VideoConfig, slice: &EncodedSlice, pts: i64) -> Result<frame::Video, Error> {
    const NAME: &str = "h264";
    let gave_up = |error: ffmpeg::Error| Error::gave_up(NAME, error);
    let nothing = || Error::gave_up(NAME, format!("slice {} has no picture", slice.number));
    let begins = |sample: &crate::encode::Sample| sample.key && sample.pts <= pts;
    let first = slice.video.iter().rposition(begins).unwrap_or(0);
    let samples = slice.video.get(first..).unwrap_or_default();
    let earlier = samples.iter().map(|sample| sample.pts).filter(|shown| *shown <= pts).max();
    let wanted = earlier.or_else(|| samples.first().map(|sample| sample.pts)).ok_or_else(nothing)?;
    silence_libav();
    let codec = ffmpeg::decoder::find_by_name(NAME).ok_or_else(|| Error::unavailable(NAME, "not built in"))?;
    let mut context = Context::new_with_codec(codec);
    context.set_threading(threading::Config { kind: threading::Type::None, count: 1, ..Default::default() });
    set_extradata(&mut context, &decoder_configuration(video))?;
    let mut decoder = context.decoder().open().map_err(gave_up)?;
    let mut picture = frame::Video::empty();
    for sample in samples.iter().map(Some).chain([None]) {
        match sample {
            Some(sample) => {
                let mut packet = Packet::copy(&sample.data);
                packet.set_pts(Some(sample.pts));
                packet.set_dts(Some(sample.dts));
                decoder.send_packet(&packet).map_err(gave_up)?;
            }
            None => decoder.send_eof().map_err(gave_up)?,
        }
        loop {
            match decoder.receive_frame(&mut picture) {
                Ok(()) if picture.pts() == Some(wanted) && picture.format() == Pixel::YUV420P => return Ok(picture),
                Ok(()) => {}
                Err(error) if is_again(error) || error == ffmpeg::Error::Eof => break,
                Err(error) => return Err(gave_up(error)),
            }
        }
    }
    Err(nothing())
}

/// AVCDecoderConfigurationRecord (ISO/IEC 14496-15 §5.3.3.1): lengths of 4 bytes, one set of each kind.
fn decoder_configuration(video: &VideoConfig) -> Vec<u8> {
    let mut record = vec![1];
    record.extend(video.sps.get(1..4).unwrap_or_default());
    record.extend([0xff, 0xe1]);
    record.extend((video.sps.len() as u16).to_be_bytes());
    record.extend(&video.sps);
    record.push(1);
    record.extend((video.pps.len() as u16).to_be_bytes());
    record.extend(&video.pps);
    record
}
