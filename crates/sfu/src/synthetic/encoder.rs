//! VP8 and Opus through FFmpeg, set up as a browser would and so that the same input gives the same bytes.

use std::sync::Once;

use bytes::Bytes;
use ffmpeg_the_third as ffmpeg;
use ffmpeg_the_third::codec::{Context, encoder};
use ffmpeg_the_third::format::{Pixel, Sample, sample};
use ffmpeg_the_third::{ChannelLayout, ChannelLayoutMask, Dictionary, Packet, frame, picture};

use super::Error;
use super::picture::Canvas;

/// Samples a second of every microphone.
pub(super) const SAMPLE_RATE: u32 = 48_000;
/// Samples of a 20 ms frame.
pub(super) const FRAME_SAMPLES: usize = 960;
/// How much later a decoder gives a sample than the packet says: libopus' look-ahead at 48 kHz.
pub(super) const OPUS_LOOK_AHEAD_SAMPLES: u64 = 312;
/// Seconds from one key frame to the next, as a recorder would ask for them.
const KEYFRAME_SECONDS: u32 = 4;

static INIT: Once = Once::new();

fn find(name: &'static str) -> Result<Context, Error> {
    INIT.call_once(|| ffmpeg::log::set_level(ffmpeg::log::Level::Error));
    let codec = encoder::find_by_name(name).ok_or(Error::NoEncoder { name })?;
    Ok(Context::new_with_codec(codec))
}

/// A camera's encoder.
pub(super) struct Vp8 {
    encoder: encoder::Video,
    frame: frame::Video,
    next_pts: i64,
}

impl Vp8 {
    pub(super) fn new(width: u32, height: u32, frame_rate: u32, bits_per_second: u32) -> Result<Self, Error> {
        let fail = |source| Error::Encode { what: "libvpx", source };
        let mut setup = find("libvpx")?.encoder().video().map_err(fail)?;
        setup.set_width(width);
        setup.set_height(height);
        setup.set_format(Pixel::YUV420P);
        setup.set_time_base((1, frame_rate as i32));
        setup.set_frame_rate(Some((frame_rate as i32, 1)));
        setup.set_bit_rate(bits_per_second as usize);
        setup.set_gop(frame_rate * KEYFRAME_SECONDS);
        let rate = bits_per_second.to_string();
        let mut options = Dictionary::new();
        for (name, value) in [
            ("deadline", "realtime"),
            // Negative: a fixed speed. A positive one adapts to how fast the machine is, and the bytes with it.
            ("cpu-used", "-8"),
            ("error-resilient", "default"),
            ("lag-in-frames", "0"),
            ("auto-alt-ref", "0"),
            ("static-thresh", "100"),
            ("threads", "1"),
            ("maxrate", &rate),
            ("minrate", &rate),
            ("bufsize", &rate),
        ] {
            options.set(name, value);
        }
        let encoder = setup.open_with(options).map_err(fail)?;
        Ok(Self { encoder, frame: frame::Video::new(Pixel::YUV420P, width, height), next_pts: 0 })
    }

    /// The picture as a VP8 frame.
    pub(super) fn encode(&mut self, canvas: &Canvas, is_key: bool) -> Result<Option<Bytes>, Error> {
        let fail = |source| Error::Encode { what: "libvpx", source };
        for (plane, (source, width)) in canvas.planes().into_iter().enumerate() {
            let stride = self.frame.stride(plane);
            let rows = self.frame.data_mut(plane).chunks_mut(stride);
            for (row, source) in rows.zip(source.chunks(width)) {
                row[..width].copy_from_slice(source);
            }
        }
        self.frame.set_pts(Some(self.next_pts));
        self.frame.set_kind(if is_key { picture::Type::I } else { picture::Type::None });
        self.next_pts += 1;
        self.encoder.send_frame(&self.frame).map_err(fail)?;
        receive(&mut self.encoder).map_err(fail)
    }
}

/// A microphone's encoder.
pub(super) struct Opus {
    encoder: encoder::Audio,
    frame: frame::Audio,
}

impl Opus {
    pub(super) fn new() -> Result<Self, Error> {
        let fail = |source| Error::Encode { what: "libopus", source };
        let mut setup = find("libopus")?.encoder().audio().map_err(fail)?;
        let format = Sample::F32(sample::Type::Packed);
        setup.set_rate(SAMPLE_RATE as i32);
        setup.set_format(format);
        setup.set_ch_layout(ChannelLayout::MONO);
        setup.set_bit_rate(32_000);
        setup.set_time_base((1, SAMPLE_RATE as i32));
        let mut options = Dictionary::new();
        options.set("application", "audio");
        options.set("frame_duration", "20");
        let encoder = setup.open_with(options).map_err(fail)?;
        let mut frame = frame::Audio::new(format, FRAME_SAMPLES, ChannelLayoutMask::MONO);
        frame.set_rate(SAMPLE_RATE);
        Ok(Self { encoder, frame })
    }

    /// 20 ms as an Opus packet.
    pub(super) fn encode(&mut self, samples: &[f32], first_sample: u64) -> Result<Option<Bytes>, Error> {
        let fail = |source| Error::Encode { what: "libopus", source };
        self.frame.plane_mut::<f32>(0).copy_from_slice(samples);
        self.frame.set_pts(i64::try_from(first_sample).ok());
        self.encoder.send_frame(&self.frame).map_err(fail)?;
        receive(&mut self.encoder).map_err(fail)
    }
}

fn receive(encoder: &mut encoder::Encoder) -> Result<Option<Bytes>, ffmpeg::Error> {
    let mut packet = Packet::empty();
    match encoder.receive_packet(&mut packet) {
        Ok(()) => Ok(packet.data().map(Bytes::copy_from_slice)),
        Err(ffmpeg::Error::Other { errno }) if is_would_block(errno) => Ok(None),
        Err(error) => Err(error),
    }
}

/// EAGAIN: the encoder wants another frame first.
fn is_would_block(errno: i32) -> bool {
    std::io::Error::from_raw_os_error(errno).kind() == std::io::ErrorKind::WouldBlock
}
