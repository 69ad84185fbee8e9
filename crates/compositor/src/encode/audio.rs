//! AAC, continuous over slices.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use ffmpeg::codec::Context;
use ffmpeg::format::sample::{Sample as Format, Type};
use ffmpeg::{ChannelLayout, ffi, frame};
use ffmpeg_the_third as ffmpeg;

use super::grid::AAC_FRAME;
use super::{Error, Sample};
use crate::decode::{SAMPLE_RATE, is_again};

const NAME: &str = "aac";

/// Encodes sound from some sample of the recording on, a multiple of [`AAC_FRAME`].
pub(super) struct Encoder {
    encoder: ffmpeg::encoder::audio::Encoder,
    from: u64,
    /// Samples pushed, per channel.
    pushed: u64,
    /// Frames given to the encoder.
    encoded: u64,
    /// What does not fill a frame yet, by channel.
    pending: [Vec<f32>; 2],
    /// Coded frames with their number in the recording.
    coded: VecDeque<(u64, Bytes)>,
}

impl Encoder {
    pub(super) fn open(bitrate: u32, from: u64) -> Result<Self, Error> {
        debug_assert!(from.is_multiple_of(AAC_FRAME), "frames of all encoders lie on one grid");
        let unavailable = |why: String| Error::Unavailable { name: NAME, why };
        let codec = ffmpeg::encoder::find_by_name(NAME).ok_or_else(|| unavailable("it is not built in".to_owned()))?;
        let mut context = Context::new_with_codec(codec);
        context.set_flags(ffmpeg::codec::Flags::GLOBAL_HEADER);
        let mut audio = context.encoder().audio().map_err(|error| unavailable(error.to_string()))?;
        audio.set_rate(SAMPLE_RATE as i32);
        audio.set_format(Format::F32(Type::Planar));
        audio.set_ch_layout(ChannelLayout::STEREO);
        audio.set_bit_rate(bitrate as usize);
        // SAFETY: the context is allocated and not yet open; this is a plain field of it.
        unsafe {
            (*audio.as_mut_ptr()).time_base = ffi::AVRational { num: 1, den: SAMPLE_RATE as i32 };
        }
        let encoder = audio.open().map_err(|error| unavailable(error.to_string()))?;
        if u64::from(encoder.frame_size()) != AAC_FRAME {
            return Err(unavailable(format!("frames of {} samples", encoder.frame_size())));
        }
        Ok(Self { encoder, from, pushed: 0, encoded: 0, pending: [Vec::new(), Vec::new()], coded: VecDeque::new() })
    }

    pub(super) fn from(&self) -> u64 {
        self.from
    }

    pub(super) fn specific_config(&self) -> Bytes {
        // SAFETY: the encoder is open; `extradata` holds `extradata_size` bytes as long as it lives.
        unsafe {
            let context = self.encoder.as_ptr();
            if (*context).extradata.is_null() {
                return Bytes::new();
            }
            Bytes::copy_from_slice(std::slice::from_raw_parts((*context).extradata, (*context).extradata_size as usize))
        }
    }

    pub(super) fn push(&mut self, samples: &[f32]) -> Result<(), Error> {
        let (pairs, _) = samples.as_chunks::<2>();
        for &[left, right] in pairs {
            self.pending[0].push(finite(left));
            self.pending[1].push(finite(right));
        }
        self.pushed += pairs.len() as u64;
        let whole = self.pending[0].len() / AAC_FRAME as usize;
        for index in 0..whole {
            self.encode(index * AAC_FRAME as usize)?;
        }
        self.pending.iter_mut().for_each(|channel| drop(channel.drain(..whole * AAC_FRAME as usize)));
        Ok(())
    }

    /// Brings out what is inside; the number of the frame after the last.
    pub(super) fn finish(&mut self) -> Result<u64, Error> {
        let end = self.from + self.pushed;
        // Silence behind the end, so that the last frame of sound leaves the encoder as a whole one.
        self.push(&vec![0.0; 8 * AAC_FRAME as usize])?;
        self.pending.iter_mut().for_each(Vec::clear);
        Ok(end.div_ceil(AAC_FRAME))
    }

    /// Takes the frames with these numbers and drops those before.
    pub(super) fn take(&mut self, numbers: Range<u64>) -> Vec<Sample> {
        let mut samples = Vec::new();
        while let Some(&(number, _)) = self.coded.front().filter(|(number, _)| *number < numbers.end) {
            let (_, data) = self.coded.pop_front().expect("it has a front");
            if numbers.contains(&number) {
                let time = (number * AAC_FRAME) as i64;
                samples.push(Sample { data, pts: time, dts: time, duration: AAC_FRAME as u32, key: true });
            }
        }
        samples
    }

    fn encode(&mut self, offset: usize) -> Result<(), Error> {
        let length = AAC_FRAME as usize;
        let mut frame = frame::Audio::empty();
        frame.set_format(Format::F32(Type::Planar));
        frame.set_ch_layout(ChannelLayout::STEREO);
        frame.set_samples(length);
        frame.set_rate(SAMPLE_RATE);
        // SAFETY: format, layout and length are set and there are no buffers yet.
        let result = unsafe { ffi::av_frame_get_buffer(frame.as_mut_ptr(), 0) };
        if result < 0 {
            return Err(gave_up(ffmpeg::Error::from(result)));
        }
        for (channel, pending) in self.pending.iter().enumerate() {
            frame.plane_mut::<f32>(channel).copy_from_slice(&pending[offset..offset + length]);
        }
        frame.set_pts(Some((self.from + self.encoded * AAC_FRAME) as i64));
        self.encoded += 1;
        let mut packet = ffmpeg::Packet::empty();
        self.encoder.send_frame(&frame).map_err(gave_up)?;
        loop {
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {}
                Err(error) if is_again(error) => return Ok(()),
                Err(error) => return Err(gave_up(error)),
            }
            // The encoder dates its frames; the first lies before the first sample.
            let start = packet.pts().and_then(|pts| u64::try_from(pts).ok());
            if let (Some(start), Some(data)) = (start, packet.data()) {
                self.coded.push_back((start / AAC_FRAME, Bytes::copy_from_slice(data)));
            }
        }
    }
}

/// A sample that is no number is silence.
fn finite(sample: f32) -> f32 {
    if sample.is_finite() { sample } else { 0.0 }
}

fn gave_up(error: ffmpeg::Error) -> Error {
    Error::GaveUp { name: NAME, why: error.to_string() }
}
