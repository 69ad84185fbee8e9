//! What a lost packet of Opus costs, with in-band FEC and without.

use ffmpeg_the_third::codec::{Context, encoder};
use ffmpeg_the_third::format::sample::{Sample, Type};
use ffmpeg_the_third::{ChannelLayout, Dictionary, Packet as Coded, ffi, frame};

use super::*;
use crate::track::tests_support::{codec, producer, rtp};

const FRAME: usize = 960;
const FRAMES: usize = 400;

/// Something like speech: a voice whose pitch and vowels wander, in syllables.
fn speech() -> Vec<f32> {
    let mut phase = 0.0_f64;
    (0..FRAMES * FRAME)
        .map(|at| {
            let t = at as f64 / 48_000.0;
            phase += std::f64::consts::TAU * (120.0 + 25.0 * (2.1 * t).sin()) / 48_000.0;
            let syllable = 0.25 + 0.75 * (std::f64::consts::PI * 3.3 * t).sin().abs();
            let vowels = [500.0 + 250.0 * (4.3 * t).sin(), 1500.0 + 500.0 * (3.1 * t).cos()];
            let harmonic = |number: i32| {
                let pitch = 130.0 * f64::from(number);
                let loudness: f64 = vowels.iter().map(|vowel| (-((pitch - vowel) / 180.0).powi(2)).exp()).sum();
                (0.02 + loudness) * (phase * f64::from(number)).sin()
            };
            (0.12 * syllable * (1..25).map(harmonic).sum::<f64>()) as f32
        })
        .collect()
}

/// The packets of [`speech`], 20 ms each, for a network that loses one in ten.
fn packets() -> Vec<Vec<u8>> {
    let found = encoder::find_by_name("libopus").expect("libavcodec has libopus");
    let mut audio = Context::new_with_codec(found).encoder().audio().expect("an audio encoder");
    audio.set_rate(48_000);
    audio.set_format(Sample::F32(Type::Packed));
    audio.set_ch_layout(ChannelLayout::MONO);
    audio.set_bit_rate(28_000);
    let options = [("application", "voip"), ("fec", "1"), ("packet_loss", "10")];
    let mut encoder = audio.open_with(Dictionary::from_iter(options)).expect("it opens");
    let mut packets = Vec::new();
    for (index, sound) in speech().chunks_exact(FRAME).enumerate() {
        let mut frame = frame::Audio::empty();
        frame.set_format(Sample::F32(Type::Packed));
        frame.set_ch_layout(ChannelLayout::MONO);
        frame.set_rate(48_000);
        frame.set_samples(FRAME);
        // SAFETY: format, layout and length are set and there are no buffers yet.
        assert!(unsafe { ffi::av_frame_get_buffer(frame.as_mut_ptr(), 0) } >= 0);
        let bytes: Vec<u8> = sound.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        frame.data_mut(0)[..bytes.len()].copy_from_slice(&bytes);
        frame.set_pts(Some((index * FRAME) as i64));
        encoder.send_frame(&frame).expect("a frame");
        let mut packet = Coded::empty();
        while encoder.receive_packet(&mut packet).is_ok() {
            packets.push(packet.data().expect("data").to_vec());
        }
    }
    packets
}

/// Each tenth packet or so, never two in a row.
fn is_lost(index: usize) -> bool {
    index > 20 && (index * 7 + index / 10) % 10 == 3
}

/// Signal to noise in decibels.
fn ratio(signal: &[f32], sound: &[f32]) -> f64 {
    let energy = |samples: &mut dyn Iterator<Item = f32>| samples.map(|sample| f64::from(sample).powi(2)).sum::<f64>();
    let noise = energy(&mut signal.iter().zip(sound).map(|(a, b)| a - b));
    10.0 * (energy(&mut signal.iter().copied()) / noise.max(1e-12)).log10()
}

#[test]
fn what_the_next_packet_tells_is_much_better_than_a_guess() {
    let packets = packets();
    let new = || AudioDecoder::new(&Codec::Opus, 48_000, 2).expect("a decoder");
    let (mut whole, mut told, mut guessed) = (new(), new(), new());
    let (mut original, mut by_fec, mut by_guess) = (Vec::new(), Vec::new(), Vec::new());
    for (index, packet) in packets.iter().enumerate() {
        let sound = whole.decode(packet).expect("a packet");
        if !is_lost(index) {
            told.decode(packet).expect("a packet");
            guessed.decode(packet).expect("a packet");
            continue;
        }
        let next = packets.get(index + 1).expect("the last one is not lost");
        // The encoder leaves it out where it hears nothing that matters.
        if opus_redundancy(next).is_none() {
            told.conceal(FRAME);
            guessed.conceal(FRAME);
            continue;
        }
        original.extend(sound);
        by_fec.extend(told.conceal_before(FRAME, next));
        by_guess.extend(guessed.conceal(FRAME));
    }
    assert!(original.len() > 25 * FRAME && original.len() == by_fec.len() && by_fec.len() == by_guess.len());
    let (by_fec, by_guess) = (ratio(&original, &by_fec), ratio(&original, &by_guess));
    eprintln!("lost sound: {by_fec:.1} dB told, {by_guess:.1} dB guessed");
    assert!(by_fec > by_guess + 6.0, "{by_fec:.1} dB and {by_guess:.1} dB");
}

/// The first channel of a track that gets these packets, and what is said of it.
fn heard(packets: &[Vec<u8>], lost: impl Fn(usize) -> bool) -> (Vec<f32>, AudioQuality) {
    let media = producer(vec![codec(111, Codec::Opus, 48_000)]);
    let mut track = AudioTrack::new(media, RoomTime::from_micros(1_000_000), 0);
    let mut participant = ParticipantClock::default();
    for (index, packet) in packets.iter().enumerate().filter(|(index, _)| !lost(*index)) {
        let at = 1_000_000 + index as i64 * 20_000;
        track.receive(&rtp(1, 111, index as u16, (index * FRAME) as u32, index == 0, packet, at), &mut participant);
    }
    track.place(&participant);
    (track.take(FRAMES * FRAME).iter().map(|sample| sample[0]).collect(), track.quality())
}

#[test]
fn a_track_stays_in_its_place_through_losses() {
    let packets = packets();
    let (whole, _) = heard(&packets, |_| false);
    let (sound, quality) = heard(&packets, is_lost);
    let lost = (0..FRAMES).filter(|index| is_lost(*index)).count() as u64;
    let told =
        (0..FRAMES).filter(|index| is_lost(*index) && opus_redundancy(&packets[index + 1]).is_some()).count() as u64;
    assert_eq!((quality.intake.lost, quality.repaired_ms), (lost, told * 20));
    assert_eq!(quality.concealed_ms, (lost - told) * 20);
    let through = ratio(&whole, &sound);
    assert!(through > 12.0, "{through:.1} dB of the whole");
    // Sample by sample: at any other offset it fits worse.
    for offset in [1, 2, 5] {
        assert!(ratio(&whole[offset..], &sound) < through && ratio(&whole, &sound[offset..]) < through, "{offset} off");
    }
    // Of three lost in a row the last one is told, the others are made up.
    let told = (50..FRAMES).find(|index| opus_redundancy(&packets[*index]).is_some()).expect("nearly all of them");
    let (_, burst) = heard(&packets, |index| (told - 3..told).contains(&index));
    assert_eq!((burst.intake.lost, burst.repaired_ms, burst.concealed_ms), (3, 20, 40));
}

#[test]
fn redundant_audio_makes_good_what_is_lost() {
    let stream = crate::track::streams::stream("opus-red.rtpdump");
    let media = producer(vec![codec(63, Codec::Red, 48_000), codec(111, Codec::Opus, 48_000)]);
    let heard = |lost: &dyn Fn(usize) -> bool| {
        let mut track = AudioTrack::new(media.clone(), RoomTime::from_micros(0), 0);
        let mut participant = ParticipantClock::default();
        for (_, (at, view)) in stream.iter().enumerate().filter(|(index, _)| !lost(*index)) {
            let data = roomreel_shared::batch::PacketData::Rtp(view.bytes().clone());
            track.receive(&Packet { time: RoomTime::from_micros(at * 1000), data }, &mut participant);
        }
        track.place(&participant);
        (track.take(4 * 48_000), track.quality())
    };
    let (whole, undamaged) = heard(&|_| false);
    let (sound, quality) = heard(&|index| index > 10 && index % 10 == 4);
    assert_eq!((undamaged.intake.lost, undamaged.intake.recovered), (0, 0));
    assert!(quality.intake.recovered > 15, "{quality:?}");
    assert_eq!((quality.concealed_ms, quality.repaired_ms), (0, 0), "{quality:?}");
    assert!(quality.intake.lost <= 2, "but for probes: {quality:?}");
    let worst = whole.iter().zip(&sound).map(|(a, b)| (a[0] - b[0]).abs()).fold(0.0, f32::max);
    assert!(worst < 1e-6, "every packet is there: {worst}");
}
