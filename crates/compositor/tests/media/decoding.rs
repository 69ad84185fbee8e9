//! Every codec that FFmpeg can encode here, there and back; and garbage into every decoder.

use ffmpeg_the_third as ffmpeg;

use ffmpeg::format::{Pixel, sample};
use ffmpeg::{ChannelLayout, Dictionary, frame};
use proptest::prelude::*;
use roomreel_compositor::decode::{AudioDecoder, Error, VideoDecoder};
use roomreel_compositor::frame::Canvas;
use roomreel_compositor::mix::Mixer;
use roomreel_shared::event::Codec;

use crate::support::{paint, tone};

const FRAMES: u64 = 12;

/// The packets of [`FRAMES`] painted frames, by libavcodec's encoder `name`.
fn video_packets(name: &str, format: Pixel, options: &[(&str, &str)]) -> Vec<Vec<u8>> {
    let codec = ffmpeg::encoder::find_by_name(name).unwrap_or_else(|| panic!("libavcodec has no {name}"));
    let mut video = ffmpeg::codec::Context::new_with_codec(codec).encoder().video().expect("video");
    video.set_width(320);
    video.set_height(180);
    video.set_format(format);
    video.set_bit_rate(1_000_000);
    video.set_max_b_frames(0);
    // SAFETY: the context is allocated and not yet open; this is a plain field of it.
    unsafe { (*video.as_mut_ptr()).time_base = ffmpeg::ffi::AVRational { num: 1, den: 30 } };
    let mut settings = Dictionary::new();
    options.iter().for_each(|(key, value)| settings.set(*key, *value));
    let mut encoder = video.open_with(settings).expect(name);
    let mut packets = Vec::new();
    let mut take = |encoder: &mut ffmpeg::encoder::video::Encoder| {
        let mut packet = ffmpeg::Packet::empty();
        while encoder.receive_packet(&mut packet).is_ok() {
            packets.push(packet.data().expect("data").to_vec());
        }
    };
    let mut canvas = Canvas::new(320, 180);
    for index in 0..FRAMES {
        paint(&mut canvas, index);
        let mut frame = frame::Video::new(format, 320, 180);
        for plane in 0..3 {
            let rows = frame.plane_height(plane) as usize;
            let (from, to) = (canvas.stride(plane), frame.stride(plane));
            for row in 0..rows {
                // A format with more chroma rows repeats them; one without subsampling repeats nothing that is looked at.
                let source = row.min(canvas.plane_size(plane).1 - 1);
                let width = canvas.plane_size(plane).0.min(to);
                let line = canvas.plane(plane)[source * from..][..width].to_vec();
                frame.data_mut(plane)[row * to..][..width].copy_from_slice(&line);
            }
        }
        frame.set_pts(Some(index as i64));
        encoder.send_frame(&frame).expect("a frame");
        take(&mut encoder);
    }
    encoder.send_eof().expect("the end");
    take(&mut encoder);
    packets
}

#[test]
fn every_video_codec_comes_back() {
    let quick: &[(&str, &str)] = &[("deadline", "realtime"), ("cpu-used", "8"), ("lag-in-frames", "0")];
    for (codec, name, format, options) in [
        (Codec::Vp8, "libvpx", Pixel::YUV420P, quick),
        (Codec::Vp9, "libvpx-vp9", Pixel::YUV420P, quick),
        (Codec::Vp9, "libvpx-vp9", Pixel::YUV444P, quick),
        (Codec::H264, "libx264", Pixel::YUV420P, &[("preset", "veryfast"), ("tune", "zerolatency")]),
        (Codec::H264, "libx264", Pixel::YUVJ420P, &[("preset", "veryfast"), ("tune", "zerolatency")]),
        (
            Codec::H265,
            "libx265",
            Pixel::YUV420P,
            &[("preset", "ultrafast"), ("tune", "zerolatency"), ("x265-params", "log-level=none")],
        ),
        (Codec::Av1, "libaom-av1", Pixel::YUV420P, &[("usage", "realtime"), ("cpu-used", "8"), ("lag-in-frames", "0")]),
    ] {
        let packets = video_packets(name, format, options);
        let mut decoder = VideoDecoder::new(&codec).expect("a decoder");
        let mut canvas = Canvas::new(320, 180);
        let mut shown = 0;
        for (index, packet) in (0..).zip(&packets) {
            // Time stamps are the caller's own, however large.
            let pts = 1_800_000_000_000_000 + index * 33_333;
            for (at, picture) in decoder.decode(packet, pts).expect(name) {
                assert_eq!(at, pts, "{name} gives each picture at once");
                assert_eq!((picture.width(), picture.height()), (320, 180));
                paint(&mut canvas, index as u64);
                if format == Pixel::YUV420P {
                    let worst = picture.y()[..320].iter().zip(canvas.plane(0)).map(|(a, b)| a.abs_diff(*b)).max();
                    let mean = picture.y()[..320].iter().zip(canvas.plane(0)).map(|(a, b)| u64::from(a.abs_diff(*b)));
                    let mean = mean.sum::<u64>() / 320;
                    assert!(mean <= 8, "{name}: frame {index} differs by {mean}, {worst:?} at worst");
                }
                shown += 1;
            }
        }
        assert_eq!(shown, FRAMES, "{name} {format:?}");
        decoder.reset();
        let first = decoder.decode(&packets[0], 0).expect("a key frame after a reset");
        assert_eq!(first.len(), 1, "{name}");
    }
}

/// The packets of a second of [`tone`], 20 ms each, by libavcodec's encoder `name`.
fn audio_packets(name: &str, rate: u32, channels: usize, opus: bool) -> Vec<Vec<u8>> {
    let codec = ffmpeg::encoder::find_by_name(name).unwrap_or_else(|| panic!("libavcodec has no {name}"));
    let mut audio = ffmpeg::codec::Context::new_with_codec(codec).encoder().audio().expect("audio");
    let layout = || if channels == 2 { ChannelLayout::STEREO } else { ChannelLayout::MONO };
    audio.set_rate(rate as i32);
    audio.set_format(sample::Sample::I16(sample::Type::Packed));
    audio.set_ch_layout(layout());
    if opus {
        audio.set_bit_rate(96_000);
    }
    let mut encoder = audio.open().expect(name);
    let length = (rate / 50) as usize;
    let mut packets = Vec::new();
    for index in 0..50_usize {
        let mut frame = frame::Audio::empty();
        frame.set_format(sample::Sample::I16(sample::Type::Packed));
        frame.set_ch_layout(layout());
        frame.set_rate(rate);
        frame.set_samples(length);
        // SAFETY: format, layout and length are set and there are no buffers yet.
        assert!(unsafe { ffmpeg::ffi::av_frame_get_buffer(frame.as_mut_ptr(), 0) } >= 0);
        let step = (48_000 / rate) as usize;
        let sound = tone((index * length * step) as u64, (length * step) as u64);
        let values = sound.chunks_exact(2 * step).flat_map(|pair| vec![(pair[0] * 32_767.0) as i16; channels]);
        let bytes: Vec<u8> = values.flat_map(i16::to_le_bytes).collect();
        frame.data_mut(0)[..bytes.len()].copy_from_slice(&bytes);
        frame.set_pts(Some((index * length) as i64));
        encoder.send_frame(&frame).expect("a frame");
        let mut packet = ffmpeg::Packet::empty();
        while encoder.receive_packet(&mut packet).is_ok() {
            packets.push(packet.data().expect("data").to_vec());
        }
    }
    packets
}

/// Energy of the 1 kHz tone in the first channel, relative to all of it.
fn purity(sound: &[f32]) -> f64 {
    let (mut cosine, mut sine, mut energy) = (0.0, 0.0, 0.0);
    let count = sound.len() / 2;
    for (at, pair) in sound.chunks_exact(2).enumerate() {
        let (phase, value) = (std::f64::consts::TAU * 1000.0 * at as f64 / 48_000.0, f64::from(pair[0]));
        cosine += value * phase.cos();
        sine += value * phase.sin();
        energy += value * value;
    }
    2.0 * (cosine * cosine + sine * sine) / (count as f64 * energy)
}

#[test]
fn every_audio_codec_comes_back_at_48_khz_in_stereo() {
    for (codec, name, rate, clock_rate, channels) in [
        (Codec::Opus, "libopus", 48_000, 48_000, 2),
        (Codec::Pcmu, "pcm_mulaw", 8_000, 8_000, 1),
        (Codec::Pcma, "pcm_alaw", 8_000, 8_000, 1),
        (Codec::G722, "g722", 16_000, 8_000, 1),
    ] {
        let packets = audio_packets(name, rate, channels, codec == Codec::Opus);
        let mut decoder = AudioDecoder::new(&codec, clock_rate, channels as u8).expect("a decoder");
        let mut sound = Vec::new();
        for packet in &packets {
            let samples = decoder.decode(packet).expect(name);
            assert_eq!(samples.len(), 1920, "{name}: 20 ms in, 20 ms out");
            sound.extend(samples);
        }
        let settled = &sound[9_600..];
        let peak = settled.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
        assert!(purity(settled) > 0.95 && (0.2..0.3).contains(&peak), "{name}: {} {peak}", purity(settled));
        assert!(settled.chunks_exact(2).all(|pair| (pair[0] - pair[1]).abs() < 0.02), "{name}: both channels");

        let concealed = decoder.conceal(960);
        assert_eq!(concealed.len(), 1920, "{name}");
        assert!((concealed[0] - sound[sound.len() - 2]).abs() < 0.1, "{name}: no click where the loss begins");
        if codec == Codec::Opus {
            assert!(purity(&concealed) > 0.9, "Opus goes on with what it heard: {}", purity(&concealed));
        }
        let long = decoder.conceal(48_000);
        assert_eq!(long.len(), 96_000);
        assert!(long[90_000..].iter().all(|sample| sample.abs() < 1e-3), "{name} falls silent");
        assert_eq!(decoder.decode(&packets[0]).map(|samples| samples.len()), Ok(1920), "{name} goes on after a loss");
    }
}

#[test]
fn a_damaged_packet_silences_nobody() {
    let mut decoder = AudioDecoder::new(&Codec::Opus, 48_000, 2).expect("a decoder");
    let (mut mixer, mut state) = (Mixer::new(), 1_u32);
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let mut mixed = Vec::new();
    for frame in 0..200 {
        // Five frames of nonsense, full band and of 20 ms, then five of silence.
        let damaged = if frame % 10 < 5 {
            let packet: Vec<u8> = std::iter::once(0xfc).chain((0..200).map(|_| noise())).collect();
            decoder.decode(&packet).expect("libopus takes any of them")
        } else {
            vec![0.0; 1920]
        };
        let concealed = decoder.conceal(480);
        assert!(damaged.iter().chain(&concealed).all(|sample| sample.abs() <= 1.0), "frame {frame}");
        let mut sum = vec![[0.0; 2]; 960];
        for (source, sound) in [("victim", tone(frame * 960, 960)), ("damaged", damaged)] {
            mixer.add(&mut sum, &source, sound.as_chunks().0, true);
        }
        mixed = mixer.finish(sum);
        if frame % 10 > 5 {
            let peak = mixed.iter().fold(0.0_f32, |peak, sample| peak.max(sample.abs()));
            assert!(peak > 0.125, "frame {frame}: the other is heard at {peak} of 0.25");
        }
    }
    assert!(purity(&mixed) > 0.9);
}

#[test]
fn what_is_no_media_is_refused_by_name() {
    assert!(matches!(VideoDecoder::new(&Codec::Opus), Err(Error::Unsupported { .. })));
    assert!(matches!(AudioDecoder::new(&Codec::Vp8, 90_000, 0), Err(Error::Unsupported { .. })));
    for (rate, channels) in [(0, 1), (u32::MAX, 1), (8_000, 3), (11_025, 1)] {
        assert!(
            matches!(AudioDecoder::new(&Codec::Pcmu, rate, channels), Err(Error::Unsupported { .. })),
            "{rate} {channels}"
        );
    }
    let mut decoder = VideoDecoder::new(&Codec::Vp8).expect("a decoder");
    assert!(matches!(decoder.decode(&[], 0), Err(Error::Damaged { .. })));
}

#[test]
fn garbage_is_survived() {
    let seeds = [
        (Codec::Vp8, video_packets("libvpx", Pixel::YUV420P, &[("deadline", "realtime"), ("cpu-used", "8")])),
        (Codec::Vp9, video_packets("libvpx-vp9", Pixel::YUV420P, &[("deadline", "realtime"), ("cpu-used", "8")])),
        (Codec::H264, video_packets("libx264", Pixel::YUV420P, &[("preset", "veryfast")])),
        (
            Codec::H265,
            video_packets("libx265", Pixel::YUV420P, &[("preset", "ultrafast"), ("x265-params", "log-level=none")]),
        ),
        (Codec::Av1, video_packets("libaom-av1", Pixel::YUV420P, &[("usage", "realtime"), ("cpu-used", "8")])),
    ];
    let sounds = [(Codec::Opus, 48_000), (Codec::Pcmu, 8_000), (Codec::Pcma, 8_000), (Codec::G722, 8_000)];
    let config = ProptestConfig { cases: 24, ..ProptestConfig::default() };
    proptest!(config, |(noise in proptest::collection::vec(any::<u8>(), 0..400), flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..40))| {
        for (codec, packets) in &seeds {
            let mut decoder = VideoDecoder::new(codec).expect("a decoder");
            let _ = decoder.decode(&noise, 0);
            for (index, packet) in (0..).zip(packets.iter().take(4)) {
                let mut packet = packet.clone();
                for (at, value) in &flips {
                    let length = packet.len();
                    packet[at % length] ^= value;
                }
                for (_, picture) in decoder.decode(&packet, index).unwrap_or_default() {
                    prop_assert!(picture.y().len() + picture.u().len() + picture.v().len() > 0);
                }
            }
        }
        for (codec, rate) in &sounds {
            let mut decoder = AudioDecoder::new(codec, *rate, 1).expect("a decoder");
            let _ = decoder.decode(&noise);
            prop_assert_eq!(decoder.conceal(480).len(), 960);
        }
    });
}
