//! The slices' sound in other codecs: decoded once, encoded for each file.
//!
//! Owns which sample goes where: AAC frame `i` holds samples `1024 i` to `1024 (i + 1)` of the recording, and the files end with its last
//! sample. Every file is made from its first slice on, so the same slices give the same bytes.

use std::io;

use ffmpeg::codec::Context;
use ffmpeg::format::sample::{Sample as Format, Type};
use ffmpeg::packet::Ref as _;
use ffmpeg::{ChannelLayout, Packet, ffi, frame};
use ffmpeg_the_third as ffmpeg;

use super::Error;
use crate::decode::{SAMPLE_RATE, is_again, silence_libav};
use crate::encode::{AAC_FRAME, AudioConfig, Sample};
use crate::mux::libav::{ByteSink, Muxer, StreamFormat};

const CHANNELS: u8 = 2;

/// Decodes the slices' sound.
pub(super) struct Decoder {
    decoder: ffmpeg::decoder::Opened,
    /// Samples of both channels, in turn, that are held back: the last frame may reach beyond the recording's end.
    held: Vec<f32>,
    /// Samples per channel given out.
    given: u64,
}

impl Decoder {
    pub(super) fn open(config: &AudioConfig) -> Result<Self, Error> {
        silence_libav();
        let codec = ffmpeg::decoder::find_by_name("aac").ok_or_else(|| Error::unavailable("aac", "not built in"))?;
        let mut context = Context::new_with_codec(codec);
        set_extradata(&mut context, &config.specific)?;
        let decoder = context.decoder().open().map_err(|error| Error::unavailable("aac", error))?;
        Ok(Self { decoder, held: Vec::new(), given: 0 })
    }

    /// Decodes a slice's frames; the answer are the samples that are certain to be part of the recording.
    pub(super) fn push(&mut self, samples: &[Sample]) -> Result<Vec<f32>, Error> {
        let mut frame = frame::Audio::empty();
        for sample in samples {
            self.decoder.send_packet(&Packet::copy(&sample.data)).map_err(|error| Error::gave_up("aac", error))?;
            while self.decoder.receive_frame(&mut frame).is_ok() {
                if frame.format() != Format::F32(Type::Planar) || frame.ch_layout().channels() != u32::from(CHANNELS) {
                    return Err(Error::gave_up("aac", "it is not stereo"));
                }
                let (left, right) = (frame.plane::<f32>(0), frame.plane::<f32>(1));
                self.held.extend(left.iter().zip(right).flat_map(|(left, right)| [*left, *right]));
            }
        }
        let certain = self.held.len().saturating_sub(2 * AAC_FRAME as usize);
        Ok(self.give(certain))
    }

    /// The rest of a recording of `samples` samples.
    pub(super) fn finish(&mut self, samples: u64) -> Vec<f32> {
        let rest = usize::try_from(samples.saturating_sub(self.given)).unwrap_or(usize::MAX).saturating_mul(2);
        self.give(rest.min(self.held.len()))
    }

    fn give(&mut self, count: usize) -> Vec<f32> {
        let rest = self.held.split_off(count);
        let given = std::mem::replace(&mut self.held, rest);
        self.given += given.len() as u64 / 2;
        given
    }
}

/// How sound is encoded.
#[derive(Debug, Clone, Copy)]
pub(super) enum Coding {
    Opus,
    Mp3,
}

impl Coding {
    fn encoder(self) -> &'static str {
        match self {
            Self::Opus => "libopus",
            Self::Mp3 => "libmp3lame",
        }
    }

    fn format(self) -> Format {
        match self {
            Self::Opus => Format::F32(Type::Packed),
            Self::Mp3 => Format::F32(Type::Planar),
        }
    }

    fn codec(self) -> ffi::AVCodecID {
        match self {
            Self::Opus => ffi::AVCodecID::OPUS,
            Self::Mp3 => ffi::AVCodecID::MP3,
        }
    }
}

/// Encodes sound from its first sample on.
pub(super) struct Encoder {
    coding: Coding,
    encoder: ffmpeg::encoder::audio::Encoder,
    /// What does not fill a frame yet.
    held: Vec<f32>,
    /// Samples per channel given to the encoder.
    encoded: u64,
}

impl Encoder {
    pub(super) fn open(coding: Coding, bitrate: u32) -> Result<Self, Error> {
        silence_libav();
        let name = coding.encoder();
        let unavailable = |error: ffmpeg::Error| Error::unavailable(name, error);
        let codec = ffmpeg::encoder::find_by_name(name).ok_or_else(|| Error::unavailable(name, "not built in"))?;
        let mut context = Context::new_with_codec(codec);
        context.set_flags(ffmpeg::codec::Flags::GLOBAL_HEADER | ffmpeg::codec::Flags::BITEXACT);
        let mut audio = context.encoder().audio().map_err(unavailable)?;
        audio.set_rate(SAMPLE_RATE as i32);
        audio.set_format(coding.format());
        audio.set_ch_layout(ChannelLayout::STEREO);
        audio.set_bit_rate(bitrate as usize);
        // SAFETY: the context is allocated and not yet open; this is a plain field of it.
        unsafe {
            (*audio.as_mut_ptr()).time_base = ffi::AVRational { num: 1, den: SAMPLE_RATE as i32 };
        }
        let encoder = audio.open().map_err(unavailable)?;
        Ok(Self { coding, encoder, held: Vec::new(), encoded: 0 })
    }

    /// What a container says about it.
    pub(super) fn stream(&self) -> StreamFormat {
        // SAFETY: the encoder is open; `extradata` holds `extradata_size` bytes as long as it lives, the others are plain fields.
        let (padding, extradata) = unsafe {
            let context = self.encoder.as_ptr();
            let extradata = if (*context).extradata.is_null() {
                &[]
            } else {
                std::slice::from_raw_parts((*context).extradata, (*context).extradata_size as usize)
            };
            ((*context).initial_padding, extradata)
        };
        StreamFormat {
            initial_padding: padding.max(0) as u32,
            frame_size: self.encoder.frame_size(),
            extradata: extradata.to_vec(),
            ..StreamFormat::audio(self.coding.codec(), SAMPLE_RATE, CHANNELS, SAMPLE_RATE)
        }
    }

    /// Encodes the samples, of both channels in turn, that follow those before.
    pub(super) fn push(&mut self, samples: &[f32]) -> Result<Vec<Packet>, Error> {
        self.held.extend_from_slice(samples);
        let per_frame = 2 * self.encoder.frame_size() as usize;
        let whole = self.held.len() / per_frame.max(1) * per_frame;
        let rest = self.held.split_off(whole);
        let mut packets = Vec::new();
        for samples in std::mem::replace(&mut self.held, rest).chunks_exact(per_frame) {
            self.encode(samples, &mut packets)?;
        }
        Ok(packets)
    }

    /// Encodes what is held, and brings out what is inside. The last packet says how much of it counts.
    pub(super) fn finish(&mut self) -> Result<Vec<Packet>, Error> {
        let mut packets = Vec::new();
        let rest = std::mem::take(&mut self.held);
        if !rest.is_empty() {
            self.encode(&rest, &mut packets)?;
        }
        self.encoder.send_eof().map_err(|error| self.gave_up(error))?;
        self.receive(&mut packets)?;
        // LAME may end with a frame of which nothing counts, behind one of which only some does; libavformat writes down what the last one says.
        if let [.., before, last] = &mut packets[..]
            && last.duration() == 0
        {
            let padding = end_padding(before).map_or(0, |bytes| u32::from_le_bytes(*bytes));
            if let Some(bytes) = end_padding(last) {
                *bytes = u32::from_le_bytes(*bytes).saturating_add(padding).to_le_bytes();
            }
        }
        Ok(packets)
    }

    fn encode(&mut self, samples: &[f32], packets: &mut Vec<Packet>) -> Result<(), Error> {
        let count = samples.len() / 2;
        let mut frame = frame::Audio::empty();
        frame.set_format(self.coding.format());
        frame.set_ch_layout(ChannelLayout::STEREO);
        frame.set_samples(count);
        frame.set_rate(SAMPLE_RATE);
        // SAFETY: format, layout and length are set and there are no buffers yet.
        let result = unsafe { ffi::av_frame_get_buffer(frame.as_mut_ptr(), 0) };
        if result < 0 {
            return Err(self.gave_up(ffmpeg::Error::from(result)));
        }
        let (pairs, _) = samples.as_chunks::<2>();
        if self.coding.format().is_planar() {
            for channel in 0..2 {
                let plane = frame.plane_mut::<f32>(channel);
                plane.iter_mut().zip(pairs).for_each(|(to, pair)| *to = pair[channel]);
            }
        } else {
            frame.plane_mut::<(f32, f32)>(0).iter_mut().zip(pairs).for_each(|(to, pair)| *to = (pair[0], pair[1]));
        }
        frame.set_pts(Some(self.encoded as i64));
        self.encoded += count as u64;
        self.encoder.send_frame(&frame).map_err(|error| self.gave_up(error))?;
        self.receive(packets)
    }

    fn receive(&mut self, packets: &mut Vec<Packet>) -> Result<(), Error> {
        loop {
            let mut packet = Packet::empty();
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => packets.push(packet),
                Err(error) if is_again(error) || error == ffmpeg::Error::Eof => return Ok(()),
                Err(error) => return Err(self.gave_up(error)),
            }
        }
    }

    fn gave_up(&self, error: ffmpeg::Error) -> Error {
        Error::gave_up(self.coding.encoder(), error)
    }
}

/// How many samples at a packet's end do not count, as it says itself.
fn end_padding(packet: &mut Packet) -> Option<&mut [u8; 4]> {
    let mut size = 0;
    // SAFETY: the answer is null or the side data of the packet, as long as it says, which lives as long as the packet.
    let data = unsafe {
        let kind = ffi::AVPacketSideDataType::SKIP_SAMPLES;
        let data = ffi::av_packet_get_side_data(packet.as_ptr(), kind, &mut size);
        if data.is_null() {
            return None;
        }
        std::slice::from_raw_parts_mut(data, size)
    };
    // Samples at the start, then those at the end.
    data.get_mut(4..)?.first_chunk_mut()
}

/// A file of sound alone.
pub(super) struct SoundFile {
    encoder: Encoder,
    muxer: Muxer,
}

impl SoundFile {
    pub(super) fn create(
        container: &'static str,
        coding: Coding,
        bitrate: u32,
        sink: Box<dyn ByteSink>,
    ) -> Result<Self, Error> {
        let encoder = Encoder::open(coding, bitrate)?;
        let muxer = Muxer::create(container, &[encoder.stream()], sink)?;
        Ok(Self { encoder, muxer })
    }

    pub(super) fn push(&mut self, samples: &[f32]) -> Result<(), Error> {
        let packets = self.encoder.push(samples)?;
        Ok(self.write(packets)?)
    }

    pub(super) fn finish(mut self) -> Result<(), Error> {
        let packets = self.encoder.finish()?;
        self.write(packets)?;
        Ok(self.muxer.finish()?)
    }

    fn write(&mut self, packets: Vec<Packet>) -> io::Result<()> {
        packets.into_iter().try_for_each(|packet| self.muxer.write(packet, 0))
    }
}

/// Gives libavcodec what it needs to know before the first packet.
pub(super) fn set_extradata(context: &mut Context, bytes: &[u8]) -> Result<(), Error> {
    // SAFETY: the context is not yet open; the memory is allocated by libavutil with the padding it asks for, and freed with the context.
    unsafe {
        let memory = ffi::av_mallocz(bytes.len() + ffi::AV_INPUT_BUFFER_PADDING_SIZE as usize).cast::<u8>();
        if memory.is_null() {
            return Err(io::Error::from(io::ErrorKind::OutOfMemory).into());
        }
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory, bytes.len());
        let context = context.as_mut_ptr();
        (*context).extradata = memory;
        (*context).extradata_size = bytes.len() as i32;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    struct OnDisk(File);

    impl ByteSink for OnDisk {
        fn write_at(&mut self, position: u64, bytes: &[u8]) -> io::Result<()> {
            self.0.write_all_at(bytes, position)
        }

        fn finish(self: Box<Self>) -> io::Result<()> {
            Ok(())
        }
    }

    /// From 200 Hz up to 6 kHz: like itself nowhere else.
    fn sweep(length: usize) -> Vec<f32> {
        let at = |index: usize| {
            let seconds = index as f64 / f64::from(SAMPLE_RATE);
            let rise = 5800.0 * f64::from(SAMPLE_RATE) / length as f64;
            0.4 * (std::f64::consts::TAU * (200.0 + rise * seconds / 2.0) * seconds).cos() as f32
        };
        (0..length).map(at).collect()
    }

    fn write(file: &Path, coding: Coding, sound: &[f32]) {
        let container = if matches!(coding, Coding::Mp3) { "mp3" } else { "ogg" };
        let sink = OnDisk(File::create(file).expect("a file"));
        let mut made = SoundFile::create(container, coding, 128_000, Box::new(sink)).expect("it is built in");
        let stereo: Vec<f32> = sound.iter().flat_map(|sample| [*sample; 2]).collect();
        stereo.chunks(2 * 1021).for_each(|some| made.push(some).expect("it takes sound"));
        made.finish().expect("it ends");
    }

    /// What a player gives out.
    fn decoded(file: &Path) -> Vec<f32> {
        let path = file.to_str().expect("a path in UTF-8");
        let arguments = ["-nostdin", "-v", "error", "-i", path, "-f", "f32le", "-ac", "1", "-"];
        let output = Command::new("ffmpeg").args(arguments).output().expect("ffmpeg (apt-get install ffmpeg)");
        assert!(output.status.success() && output.stderr.is_empty(), "{path}: {output:?}");
        let (samples, _) = output.stdout.as_chunks::<4>();
        samples.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
    }

    #[test]
    fn a_file_has_every_sample_where_it_was() {
        let directory = tempfile::tempdir().expect("a directory");
        for coding in [Coding::Mp3, Coding::Opus] {
            // Around whole frames of either, and where the encoders' delay fills a frame.
            for length in [1, 959, 960, 961, 1151, 1152, 1153, 1198, 1199, 1200, 30 * 960 + 1, 25 * 1152 + 46, 48_001] {
                let file = directory.path().join(format!("{coding:?}-{length}"));
                let sound = sweep(length);
                write(&file, coding, &sound);
                let heard = decoded(&file);
                assert_eq!(heard.len(), length, "{coding:?}");
                let like = |lag: isize| -> f32 {
                    let (ours, theirs) =
                        (sound.iter().skip(lag.min(0).unsigned_abs()), heard.iter().skip(lag.max(0).unsigned_abs()));
                    ours.zip(theirs).map(|(sample, heard)| sample * heard).sum()
                };
                let best = (-1500..1500).max_by(|a, b| like(*a).total_cmp(&like(*b)));
                assert_eq!(best, Some(0), "{coding:?} of {length} samples is heard too late or too early");
            }
        }
    }
}
