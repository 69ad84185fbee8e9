//! One slice of H.264.

use bytes::{BufMut as _, Bytes, BytesMut};
use ffmpeg::codec::Context;
use ffmpeg::format::Pixel;
use ffmpeg::{Dictionary, Rational, ffi};
use ffmpeg_the_third as ffmpeg;
use roomreel_shared::composite::CompositeSpec;

use super::grid::{REORDER_TICKS, TICKS_PER_FRAME};
use super::webm::frames_in;
use super::{Error, Sample};
use crate::decode::is_again;
use crate::frame::Canvas;

pub(super) const NAME: &str = "libx264";

/// What `veryfast` has over `superfast` and is worth its price: the look-ahead, and blocks of 8x8 where a picture is made of small
/// ones. Its search between pixels is not: it is the dearest thing in it. Measured on composites of 1 to 25 cameras against x264's
/// `veryfast` (`make bench-compositor`): 0.6 of the time for equal pictures and about a tenth more bits, key frames every 4 s included.
const SEARCH: &str = "rc-lookahead=10:mbtree=1:partitions=p8x8,i8x8,i4x4:aq-strength=0.9";

const NAL_IDR: u8 = 5;
const NAL_SEI: u8 = 6;
const NAL_SPS: u8 = 7;
const NAL_PPS: u8 = 8;
const NAL_DELIMITER: u8 = 9;

/// Encodes one closed group of pictures.
pub(super) struct SliceEncoder {
    encoder: ffmpeg::encoder::video::Encoder,
    /// Coded frames with their place in the slice, in decode order.
    coded: Vec<(Bytes, i64, bool)>,
}

impl SliceEncoder {
    pub(super) fn open(spec: &CompositeSpec) -> Result<Self, Error> {
        let unavailable = |why: String| Error::Unavailable { name: NAME, why };
        let codec = ffmpeg::encoder::find_by_name(NAME).ok_or_else(|| unavailable("it is not built in".to_owned()))?;
        let mut context = Context::new_with_codec(codec);
        context.set_flags(ffmpeg::codec::Flags::GLOBAL_HEADER);
        let mut video = context.encoder().video().map_err(|error| unavailable(error.to_string()))?;
        video.set_width(spec.width);
        video.set_height(spec.height);
        video.set_format(Pixel::YUV420P);
        video.set_color_range(ffmpeg::color::Range::MPEG);
        video.set_colorspace(ffmpeg::color::Space::SMPTE170M);
        video.set_aspect_ratio(Rational(1, 1));
        // SAFETY: the context is allocated and not yet open; these are plain fields of it.
        unsafe {
            let context = video.as_mut_ptr();
            (*context).time_base = ffi::AVRational { num: 1, den: spec.fps as i32 };
            (*context).framerate = ffi::AVRational { num: spec.fps as i32, den: 1 };
            (*context).color_primaries = ffi::AVColorPrimaries::from(ffmpeg::color::Primaries::SMPTE170M);
            (*context).color_trc =
                ffi::AVColorTransferCharacteristic::from(ffmpeg::color::TransferCharacteristic::SMPTE170M);
        }
        let mut options = Dictionary::new();
        options.set("preset", "superfast");
        if let Some(bitrate) = spec.bitrate {
            video.set_bit_rate(bitrate as usize);
            options.set("maxrate", (u64::from(bitrate) * 3 / 2).to_string().as_str());
            options.set("bufsize", bitrate.to_string().as_str());
        } else {
            options.set("crf", rate_factor(spec.crf).to_string().as_str());
        }
        let keyint = match spec.keyframe_ms {
            // Decoding can begin at each of them: FFmpeg's own setting is open groups.
            Some(ms) => format!("{}:open-gop=0", frames_in(ms, spec.fps)),
            None => "infinite".to_owned(),
        };
        // keyint: unless it is set, the slice ends before.
        let parameters = format!("{SEARCH}:keyint={keyint}:sliced-threads=0{}", instruction_sets());
        options.set("x264-params", parameters.as_str());
        options.set("threads", "1");
        let encoder = video.open_with(options).map_err(|error| unavailable(error.to_string()))?;
        Ok(Self { encoder, coded: Vec::new() })
    }

    /// Sequence and picture parameter set.
    pub(super) fn parameter_sets(&self) -> Result<(Bytes, Bytes), Error> {
        // SAFETY: the encoder is open; `extradata` holds `extradata_size` bytes as long as it lives.
        let header = unsafe {
            let context = self.encoder.as_ptr();
            if (*context).extradata.is_null() {
                &[]
            } else {
                std::slice::from_raw_parts((*context).extradata, (*context).extradata_size as usize)
            }
        };
        let find = |kind| nal_units(header).find(|unit| unit[0] & 0x1f == kind).map(Bytes::copy_from_slice);
        match (find(NAL_SPS), find(NAL_PPS)) {
            (Some(sps), Some(pps)) if sps.len() >= 4 => Ok((sps, pps)),
            _ => Err(Error::Unavailable { name: NAME, why: "it gives no parameter sets".to_owned() }),
        }
    }

    /// Encodes the frame at place `index` of the slice.
    pub(super) fn push(&mut self, canvas: &Canvas, index: i64) -> Result<(), Error> {
        let context = &self.encoder;
        if (canvas.width() as u32, canvas.height() as u32) != (context.width(), context.height()) {
            return Err(gave_up(format!("a canvas of {}x{}", canvas.width(), canvas.height())));
        }
        // x264 has copied the pixels when the reference is dropped.
        let frame = canvas.frame_at(index).map_err(|error| gave_up(error.to_string()))?;
        self.encoder.send_frame(&frame).map_err(|error| gave_up(error.to_string()))?;
        self.receive()
    }

    /// The slice's samples, `first` being the number of its first frame in the recording.
    pub(super) fn finish(&mut self, first: i64) -> Result<Vec<Sample>, Error> {
        self.encoder.send_eof().map_err(|error| gave_up(error.to_string()))?;
        self.receive()?;
        let ticks = i64::from(TICKS_PER_FRAME);
        let sample = |(place, (data, index, key)): (i64, (Bytes, i64, bool))| Sample {
            data,
            pts: (first + index) * ticks,
            // Frames are decoded at the pace they are shown; containers move the one against the other.
            dts: (first + place) * ticks,
            duration: TICKS_PER_FRAME,
            key,
        };
        let samples: Vec<_> = (0..).zip(self.coded.drain(..)).map(sample).collect();
        if samples.iter().any(|sample| sample.dts - sample.pts > i64::from(REORDER_TICKS)) {
            return Err(gave_up("it reorders more than it was set to".to_owned()));
        }
        Ok(samples)
    }

    fn receive(&mut self) -> Result<(), Error> {
        let mut packet = ffmpeg::Packet::empty();
        loop {
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {}
                Err(error) if is_again(error) || error == ffmpeg::Error::Eof => return Ok(()),
                Err(error) => return Err(gave_up(error.to_string())),
            }
            let (Some(data), Some(pts)) = (packet.data(), packet.pts()) else {
                return Err(gave_up("an empty packet".to_owned()));
            };
            let (data, key) = length_prefixed(data);
            self.coded.push((data, pts, key));
        }
    }
}

/// x264's rate factor for pictures that cost about what they would cost with its preset `veryfast` at `crf`; 0 is without loss.
fn rate_factor(crf: u8) -> f32 {
    if crf == 0 { 0.0 } else { (f32::from(crf) + 0.5).min(51.0) }
}

/// x264's AVX-512 code gives other bytes for equal pictures now and then (seen with core 164): it stays with AVX2 there.
fn instruction_sets() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx512f") {
        return ":asm=AVX2";
    }
    ""
}

fn gave_up(why: String) -> Error {
    Error::GaveUp { name: NAME, why }
}

/// Pictures only, each behind its length; and whether they are an IDR picture. Parameter sets stand in the container's header.
fn length_prefixed(annex_b: &[u8]) -> (Bytes, bool) {
    let mut sample = BytesMut::with_capacity(annex_b.len() + 16);
    let mut key = false;
    for unit in nal_units(annex_b) {
        let kind = unit[0] & 0x1f;
        if matches!(kind, NAL_SEI | NAL_SPS | NAL_PPS | NAL_DELIMITER) {
            continue;
        }
        key |= kind == NAL_IDR;
        sample.put_u32(unit.len() as u32);
        sample.put_slice(unit);
    }
    (sample.freeze(), key)
}

/// The NAL units, none of them empty, of a byte stream (H.264 Annex B).
fn nal_units(stream: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = after_start_code(stream).unwrap_or_default();
    std::iter::from_fn(move || {
        while !rest.is_empty() {
            let end = rest.windows(3).position(|bytes| bytes == [0, 0, 1]).unwrap_or(rest.len());
            let unit = &rest[..end];
            rest = rest.get(end + 3..).unwrap_or_default();
            // Zeros before a start code belong to it; a unit never ends with one.
            let unit = &unit[..unit.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)];
            if !unit.is_empty() {
                return Some(unit);
            }
        }
        None
    })
}

fn after_start_code(stream: &[u8]) -> Option<&[u8]> {
    let start = stream.windows(3).position(|bytes| bytes == [0, 0, 1])?;
    stream.get(start + 3..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_streams_come_apart() {
        let stream = [0, 0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 2, 0, 0, 0, 1, 0x06, 5, 0, 0, 1, 0x65, 3, 0, 4];
        let units: Vec<_> = nal_units(&stream).collect();
        assert_eq!(units, [&[0x67, 1][..], &[0x68, 2], &[0x06, 5], &[0x65, 3, 0, 4]]);
        assert_eq!(length_prefixed(&stream), (Bytes::from_static(&[0, 0, 0, 4, 0x65, 3, 0, 4]), true));
        assert_eq!(nal_units(&[0, 0, 1]).count() + nal_units(&[1, 2]).count() + nal_units(&[]).count(), 0);
    }
}
