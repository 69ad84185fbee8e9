//! Audio decoders: libopus for Opus, libavcodec for what is simpler.

use ffmpeg::codec::Context;
use ffmpeg::format::sample::{Sample, Type};
use ffmpeg::software::resampling;
use ffmpeg::{ChannelLayout, ChannelLayoutMask, ffi, frame};
use ffmpeg_the_third as ffmpeg;
use roomreel_shared::event::Codec;

use super::opus::Opus;
use super::video::is_again;
use super::{Error, silence_libav};
use crate::depacketize::audio::MAX_SAMPLES;

/// Samples per second and channel of everything after the decoders.
pub const SAMPLE_RATE: u32 = 48_000;

const OUTPUT: Sample = Sample::F32(Type::Packed);
/// Bytes of the longest packet; Opus allows 1,275 a frame and 48 frames (RFC 6716 §3.2).
const MAX_PACKET_BYTES: usize = 64 * 1024;
/// Longest loss that is concealed with sound rather than silence, in samples per channel: 120 ms.
const MAX_CONCEALED: usize = MAX_SAMPLES as usize;
/// Samples per channel that the resampler may give out beyond a packet's own: what its filter held back.
const RESAMPLER_SLACK: usize = 256;
/// A sound that is broken off fades over this many samples per channel: 5 ms.
const FADE: usize = 240;

/// Decodes one RTP stream's audio to 48 kHz stereo.
pub struct AudioDecoder {
    codec: Codec,
    decoder: Decoder,
    last: [f32; 2],
    /// Samples per channel that were made up since the newest packet.
    concealed: usize,
}

enum Decoder {
    Opus(Opus),
    Other(Box<Libav>),
}

impl AudioDecoder {
    /// A decoder for a stream whose RTP clock runs at `clock_rate` Hz; `channels` as in the SDP.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what is no audio codec, is not built into libavcodec or has an impossible rate.
    pub fn new(codec: &Codec, clock_rate: u32, channels: u8) -> Result<Self, Error> {
        let decoder = match codec {
            // Whatever the SDP says (RFC 7587 §4.2): microphones send one channel, and decoding two would cost more for the same sound.
            Codec::Opus => Decoder::Opus(Opus::new(1).ok_or_else(|| Error::unsupported(codec, "out of memory"))?),
            _ => Decoder::Other(Box::new(Libav::new(codec, clock_rate, channels)?)),
        };
        Ok(Self { codec: codec.clone(), decoder, last: [0.0; 2], concealed: 0 })
    }

    /// Decodes one packet's payload to interleaved stereo at [`SAMPLE_RATE`], full scale ±1.
    ///
    /// # Errors
    /// [`Error::Damaged`]: nothing of the packet can be heard; conceal it.
    pub fn decode(&mut self, packet: &[u8]) -> Result<Vec<f32>, Error> {
        if packet.is_empty() || packet.len() > MAX_PACKET_BYTES {
            return Err(Error::damaged(&self.codec, format!("a packet of {} bytes", packet.len())));
        }
        let mut sound = match &mut self.decoder {
            Decoder::Opus(opus) => {
                opus.make_room_for(packet);
                opus.decode(packet).ok_or_else(|| Error::damaged(&self.codec, "libopus refuses it"))?
            }
            Decoder::Other(libav) => libav.decode(packet)?,
        };
        keep_within_scale(&mut sound);
        self.concealed = 0;
        self.remember(&sound);
        Ok(sound)
    }

    /// Sound for `samples` samples per channel that were lost: interleaved stereo of exactly that length.
    ///
    /// Opus goes on with what it last heard, for 120 ms at most; the other codecs fade to silence.
    pub fn conceal(&mut self, samples: usize) -> Vec<f32> {
        let wanted = samples.min(MAX_CONCEALED.saturating_sub(self.concealed));
        let sound = match &mut self.decoder {
            Decoder::Opus(opus) if wanted > 0 => opus.conceal(wanted).unwrap_or_default(),
            _ => Vec::new(),
        };
        self.concealed += sound.len() / 2;
        self.exactly(samples, sound)
    }

    /// The same with the help of the packet behind the loss, which is to be decoded next: what it says itself of the sound before it
    /// (Opus in-band FEC, RFC 6716 §2.1.7), at the end of the loss.
    pub fn conceal_before(&mut self, samples: usize, packet: &[u8]) -> Vec<f32> {
        match &mut self.decoder {
            Decoder::Opus(opus) if !packet.is_empty() && (1..=MAX_CONCEALED).contains(&samples) => {
                opus.make_room_for(packet);
                let sound = opus.before(packet, samples).unwrap_or_default();
                self.exactly(samples, sound)
            }
            _ => self.conceal(samples),
        }
    }

    /// Cuts sound to a length, or lets it die away where it is too short.
    fn exactly(&mut self, samples: usize, mut sound: Vec<f32>) -> Vec<f32> {
        keep_within_scale(&mut sound);
        self.remember(&sound);
        for index in 0..samples.saturating_sub(sound.len() / 2) {
            let gain = 1.0 - (index.min(FADE) as f32 / FADE as f32);
            sound.extend(self.last.map(|sample| sample * gain));
        }
        sound.truncate(samples * 2);
        self.remember(&sound);
        sound
    }

    fn remember(&mut self, samples: &[f32]) {
        if let [.., left, right] = *samples {
            self.last = [left, right];
        }
    }
}

/// A damaged packet can be decoded to a million times full scale: one sample of it would turn everybody else down for seconds.
fn keep_within_scale(sound: &mut [f32]) {
    for sample in sound {
        *sample = if sample.is_nan() { 0.0 } else { sample.clamp(-1.0, 1.0) };
    }
}

/// A decoder of libavcodec, and what brings its sound to 48 kHz.
struct Libav {
    codec: Codec,
    decoder: ffmpeg::decoder::Opened,
    /// Made when the first sound tells its form.
    resampler: Option<resampling::Context>,
    /// Output samples per channel for each sample that is decoded.
    ratio: usize,
    /// Samples per channel given out beyond what the packets held. What the resampler's filter holds back is made up for with
    /// silence, once, so that a packet of n samples gives `n * ratio`.
    ahead: i64,
}

// SAFETY: a swresample context has no thread of its own and is only reached through `&mut self`.
unsafe impl Send for Libav {}

impl Libav {
    fn new(codec: &Codec, clock_rate: u32, channels: u8) -> Result<Self, Error> {
        silence_libav();
        let (name, rate, channels) = match codec {
            Codec::Pcmu => ("pcm_mulaw", clock_rate, channels.max(1)),
            Codec::Pcma => ("pcm_alaw", clock_rate, channels.max(1)),
            // Sampled at 16 kHz under an RTP clock of 8 kHz, by an old mistake (RFC 3551 §4.5.2).
            Codec::G722 => ("g722", 16_000, 1),
            _ => return Err(Error::unsupported(codec, "it is not an audio codec known here")),
        };
        if ![8_000, 16_000, 24_000, 48_000].contains(&rate) || channels > 2 {
            return Err(Error::unsupported(codec, format!("{rate} Hz in {channels} channels")));
        }
        let decoder = open(codec, name, rate, channels)?;
        Ok(Self { codec: codec.clone(), decoder, resampler: None, ratio: (SAMPLE_RATE / rate) as usize, ahead: 0 })
    }

    fn decode(&mut self, packet: &[u8]) -> Result<Vec<f32>, Error> {
        let damaged = |codec: &Codec, error: ffmpeg::Error| Error::damaged(codec, error);
        self.decoder.send_packet(&ffmpeg::Packet::copy(packet)).map_err(|error| damaged(&self.codec, error))?;
        let mut samples = Vec::new();
        loop {
            let mut frame = frame::Audio::empty();
            match self.decoder.receive_frame(&mut frame) {
                Ok(()) => self.take(&mut frame, &mut samples)?,
                Err(error) if is_again(error) || error == ffmpeg::Error::Eof => return Ok(samples),
                Err(error) => return Err(damaged(&self.codec, error)),
            }
        }
    }

    fn take(&mut self, frame: &mut frame::Audio, samples: &mut Vec<f32>) -> Result<(), Error> {
        let damaged = |codec: &Codec, error: ffmpeg::Error| Error::damaged(codec, error);
        // One channel stays one and is doubled here: libswresample would make it 3 dB softer.
        let is_mono = frame.ch_layout().channels() == 1;
        let resampler = match &mut self.resampler {
            Some(resampler) => resampler,
            None => {
                let made = resampling::Context::get2(
                    frame.format(),
                    frame.ch_layout(),
                    frame.rate(),
                    OUTPUT,
                    if is_mono { ChannelLayout::MONO } else { ChannelLayout::STEREO },
                    SAMPLE_RATE,
                );
                self.resampler.insert(made.map_err(|error| damaged(&self.codec, error))?)
            }
        };
        let expected = frame.samples() * self.ratio;
        // An empty frame would be given room for as many samples as went in, not for as many as come out.
        let layout = if is_mono { ChannelLayoutMask::MONO } else { ChannelLayoutMask::STEREO };
        let mut resampled = frame::Audio::new(OUTPUT, expected + RESAMPLER_SLACK, layout);
        resampler.run(frame, &mut resampled).map_err(|error| damaged(&self.codec, error))?;
        let given = resampled.samples();
        self.ahead += given as i64 - expected as i64;
        let silence = usize::try_from(-self.ahead).unwrap_or(0);
        self.ahead = self.ahead.max(0);
        samples.extend(std::iter::repeat_n(0.0, silence * 2));
        if given > 0 && is_mono {
            samples.extend(resampled.plane::<f32>(0).iter().flat_map(|&sample| [sample; 2]));
        } else if given > 0 {
            samples.extend(resampled.plane::<(f32, f32)>(0).iter().flat_map(|&(left, right)| [left, right]));
        }
        Ok(())
    }
}

fn open(codec: &Codec, name: &str, rate: u32, channels: u8) -> Result<ffmpeg::decoder::Opened, Error> {
    let found = ffmpeg::decoder::find_by_name(name)
        .ok_or_else(|| Error::unsupported(codec, format!("this libavcodec has no decoder {name}")))?;
    let mut context = Context::new_with_codec(found);
    // SAFETY: the context is allocated and not yet open; these are plain fields of it.
    unsafe {
        let context = context.as_mut_ptr();
        (*context).sample_rate = rate as i32;
        ffi::av_channel_layout_default(&mut (*context).ch_layout, i32::from(channels));
        (*context).request_sample_fmt = OUTPUT.into();
    }
    context.decoder().open().map_err(|error| Error::unsupported(codec, error))
}

impl std::fmt::Debug for AudioDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AudioDecoder of {}", self.codec.name())
    }
}
