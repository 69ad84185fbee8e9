//! One WebM of the slices' pictures as they were encoded for it, and of their sound in Opus.

use ffmpeg::{Packet, ffi};
use ffmpeg_the_third as ffmpeg;
use roomreel_shared::output::WebmCodec;

use super::Error;
use super::sound::{Coding, Encoder};
use crate::encode::{EncodedSlice, VideoConfig};
use crate::mux::libav::{ByteSink, Muxer, StreamFormat};

const VIDEO: usize = 0;
const AUDIO: usize = 1;

/// The file while it grows.
pub(super) struct Webm {
    muxer: Muxer,
    sound: Encoder,
    /// What Matroska has players take off the sound's time stamps (CodecDelay, RFC 9559 §5.1.4.1.25).
    delay: i64,
}

impl Webm {
    pub(super) fn create(
        codec: WebmCodec,
        video: &VideoConfig,
        audio_bitrate: u32,
        sink: Box<dyn ByteSink>,
    ) -> Result<Self, Error> {
        let codec = match codec {
            WebmCodec::Vp8 => ffi::AVCodecID::VP8,
            WebmCodec::Vp9 => ffi::AVCodecID::VP9,
        };
        let sound = Encoder::open(Coding::Opus, audio_bitrate)?;
        let pictures = StreamFormat::video(codec, (video.width.into(), video.height.into()), video.timescale);
        let format = sound.stream();
        let delay = i64::from(format.initial_padding);
        let muxer = Muxer::create("webm", &[pictures, format], sink)?;
        Ok(Self { muxer, sound, delay })
    }

    /// Adds a slice's pictures, and sound that has been decoded meanwhile.
    pub(super) fn push(&mut self, slice: &EncodedSlice, samples: &[f32]) -> Result<(), Error> {
        if slice.webm.len() != slice.video.len() {
            let (webm, video) = (slice.webm.len(), slice.video.len());
            let why = format!("slice {} has {webm} pictures for it, and {video} others", slice.number);
            return Err(Error::gave_up("webm", why));
        }
        for sample in &slice.webm {
            let mut packet = Packet::copy(&sample.data);
            packet.set_pts(Some(sample.pts));
            packet.set_dts(Some(sample.pts));
            packet.set_duration(sample.duration.into());
            if sample.key {
                packet.set_flags(ffmpeg::packet::Flags::KEY);
            }
            self.muxer.write(packet, VIDEO)?;
        }
        let packets = self.sound.push(samples)?;
        self.write_sound(packets)
    }

    /// Ends the file with the last sound.
    pub(super) fn finish(mut self, samples: &[f32]) -> Result<(), Error> {
        let mut packets = self.sound.push(samples)?;
        packets.extend(self.sound.finish()?);
        self.write_sound(packets)?;
        Ok(self.muxer.finish()?)
    }

    fn write_sound(&mut self, packets: Vec<Packet>) -> Result<(), Error> {
        Ok(packets.into_iter().try_for_each(|mut packet| {
            // libavformat writes the delay down and leaves the time stamps as they are.
            packet.set_pts(packet.pts().map(|pts| pts + self.delay));
            packet.set_dts(packet.dts().map(|dts| dts + self.delay));
            self.muxer.write(packet, AUDIO)
        })?)
    }
}
