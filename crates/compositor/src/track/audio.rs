//! A microphone or the sound of a screen: decoded samples on the recording's sample grid.
//!
//! Packets are placed end to end while their times say so, and a packet is made some samples longer or shorter where they
//! drift: clocks of 100 ppm need a tenth of a sample per packet. A hole is concealed, a pause (DTX, mute) is silence with soft
//! edges.

use std::collections::{BTreeMap, VecDeque};

use roomreel_shared::batch::Packet;
use roomreel_shared::event::{Codec, Producer};
use roomreel_shared::rtp::{RtpTimestamp, Ssrc};
use roomreel_shared::time::RoomTime;
use serde::{Deserialize, Serialize};

use super::assemble::MAX_NAME_CHARS;
use super::intake::{Intake, IntakeQuality};
use crate::decode::{AudioDecoder, SAMPLE_RATE};
use crate::depacketize::audio::{GRAIN, MAX_SAMPLES, duration_samples, opus_redundancy};
use crate::depacketize::reorder::Popped;
use crate::timeline::clock::ParticipantClock;

/// A packet this much after the end of the one before it, without loss between: a pause, not drift. Samples: 60 ms.
const PAUSE: i64 = 2880;
/// Drift below this is left alone: jitter of the clocks' estimate. Samples: 1 ms.
const DEADBAND: i64 = 48;
/// Longest loss that is concealed, samples: 120 ms.
const MAX_CONCEALED: i64 = MAX_SAMPLES as i64;
/// Length of a fade, samples: 5 ms.
const FADE: usize = 240;
/// How far beyond the end of what is asked for packets are decoded, so that it is known where sound stops. Samples: 100 ms.
const LOOK_AHEAD: i64 = 4800;

/// How well an audio track could be heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AudioQuality {
    /// Packets.
    #[serde(flatten)]
    pub intake: IntakeQuality,
    /// Times a decoder refused a packet.
    pub decoder_errors: u64,
    /// Sound that was invented for lost packets, milliseconds.
    pub concealed_ms: u64,
    /// Sound that was left out because its place was taken, milliseconds.
    pub dropped_ms: u64,
    /// Sound of lost packets that the packet behind them told (Opus in-band FEC), milliseconds.
    #[serde(default)]
    pub repaired_ms: u64,
}

/// Sample `n` of the recording's grid is at `start` + `n` / 48 kHz.
fn sample_at(time: RoomTime, start: RoomTime) -> i64 {
    (i128::from(time.micros_since(start)) * 48 / 1000) as i64
}

/// The other way round, rounded up.
fn time_of(sample: i64, start: RoomTime) -> RoomTime {
    start.offset_micros((sample.saturating_mul(1000) + 47).div_euclid(48))
}

/// Interleaved stereo that is not asked for yet.
#[derive(Debug)]
struct Pending {
    /// Grid number of the first sample.
    start: i64,
    samples: VecDeque<[f32; 2]>,
}

impl Pending {
    /// Adds sound at `at`; what lies before the start is over.
    fn add(&mut self, at: i64, sound: impl ExactSizeIterator<Item = [f32; 2]>) {
        let over = usize::try_from(self.start - at).unwrap_or(0).min(sound.len());
        let first = usize::try_from(at - self.start).unwrap_or(0);
        let end = first + sound.len() - over;
        if end > self.samples.len() {
            self.samples.resize(end, [0.0; 2]);
        }
        for (there, sample) in self.samples.range_mut(first..end).zip(sound.skip(over)) {
            *there = [there[0] + sample[0], there[1] + sample[1]];
        }
    }

    fn take(&mut self, count: usize) -> Vec<[f32; 2]> {
        let ready = count.min(self.samples.len());
        let mut taken: Vec<_> = self.samples.drain(..ready).collect();
        taken.resize(count, [0.0; 2]);
        self.start += count as i64;
        taken
    }
}

/// One RTP stream's sound.
#[derive(Default)]
struct Voice {
    decoder: Option<(Codec, AudioDecoder)>,
    /// Where the next packet goes if nothing is missing; `None` in silence.
    next: Option<i64>,
    /// The timestamp of the next packet if nothing is missing.
    next_timestamp: Option<RtpTimestamp>,
    /// The newest sample that was placed.
    last: [f32; 2],
}

/// An audio track.
pub struct AudioTrack {
    intake: Intake,
    start: RoomTime,
    voices: BTreeMap<Ssrc, Voice>,
    pending: Pending,
    concealed: u64,
    repaired: u64,
    dropped: u64,
    decoder_errors: u64,
    /// Name of a codec that is not decoded here.
    unsupported: Option<String>,
}

impl AudioTrack {
    /// Of a track as its SFU described it, in a recording that begins at `start`; sound is asked for from sample `first` on.
    #[must_use]
    pub fn new(producer: Producer, start: RoomTime, first: i64) -> Self {
        Self {
            intake: Intake::new(producer),
            start,
            voices: BTreeMap::new(),
            pending: Pending { start: first, samples: VecDeque::new() },
            concealed: 0,
            repaired: 0,
            dropped: 0,
            decoder_errors: 0,
            unsupported: None,
        }
    }

    /// Takes a packet as the SFU received it; call [`Self::place`] when all tracks have theirs.
    pub fn receive(&mut self, packet: &Packet, participant: &mut ParticipantClock) {
        self.intake.receive(packet, participant);
    }

    /// Puts what was received on the room's clock.
    pub fn place(&mut self, participant: &ParticipantClock) {
        self.intake.place(participant);
    }

    /// Lets go of the windows before the newest one, which are over but for a few packets.
    pub fn let_go(&mut self) {
        self.intake.let_go();
    }

    #[cfg(test)]
    pub(crate) fn waiting_packets(&mut self) -> usize {
        self.intake.waiting_packets()
    }

    /// What is to be said of it so far.
    #[must_use]
    pub fn quality(&self) -> AudioQuality {
        AudioQuality {
            intake: self.intake.quality(),
            decoder_errors: self.decoder_errors,
            concealed_ms: self.concealed / 48,
            dropped_ms: self.dropped / 48,
            repaired_ms: self.repaired / 48,
        }
    }

    /// What is to be said of it in words: why it is silent, or not all of it is heard.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        if let Some(codec) = &self.unsupported {
            return Some(format!("codec {codec} is not supported; it stays silent"));
        }
        let damaged = self.decoder_errors;
        let refused = (damaged > 0).then(|| format!("damaged, {damaged} of its packets could not be decoded"));
        self.intake.quality().complaint().or(refused)
    }

    /// The next `count` samples of the recording's grid.
    pub fn take(&mut self, count: usize) -> Vec<[f32; 2]> {
        let end = self.pending.start + count as i64;
        let decode_to = time_of(end + LOOK_AHEAD, self.start);
        for (ssrc, popped) in self.pop_before(decode_to) {
            self.hear(ssrc, &popped);
        }
        for voice in self.voices.values_mut() {
            if voice.next.is_some_and(|next| next < end) {
                voice.fall_silent(&mut self.pending);
            }
        }
        let intake = &self.intake;
        self.voices.retain(|ssrc, voice| voice.next.is_some() || intake.has_stream(*ssrc));
        self.pending.take(count)
    }

    fn pop_before(&mut self, end: RoomTime) -> Vec<(Ssrc, Popped)> {
        let popped = self.intake.pop_before(end);
        self.intake.count_lost(popped.iter().map(|(_, popped)| popped.missing).sum());
        popped
    }

    fn hear(&mut self, ssrc: Ssrc, popped: &Popped) {
        let packet = &popped.packet;
        let voice = self.voices.entry(ssrc).or_default();
        let Some(parameters) = self.intake.codec(packet.payload_type) else { return };
        let Some(duration) = duration_samples(&parameters.codec, &packet.payload) else {
            match &parameters.codec {
                // What stands for silence or keys is not heard, nor is a probe.
                Codec::ComfortNoise | Codec::TelephoneEvent => {}
                Codec::Opus | Codec::Pcmu | Codec::Pcma | Codec::G722 => {
                    self.decoder_errors += u64::from(!packet.payload.is_empty());
                }
                other => self.unsupported = Some(other.name().chars().take(MAX_NAME_CHARS).collect()),
            }
            return;
        };
        if voice.decoder.as_ref().is_none_or(|(of, _)| *of != parameters.codec) {
            match AudioDecoder::new(&parameters.codec, parameters.clock_rate, parameters.channels) {
                Ok(decoder) => voice.decoder = Some((parameters.codec.clone(), decoder)),
                Err(_) => {
                    self.decoder_errors += 1;
                    return;
                }
            }
        }
        let target = sample_at(packet.time, self.start);
        let hole = voice.hole_before(packet.timestamp, target, parameters.clock_rate).filter(|_| popped.missing > 0);
        if let Some(hole) = hole {
            let told = voice.fill(hole, &packet.payload, &mut self.pending);
            self.repaired += told as u64;
            self.concealed += (hole - told) as u64;
        }
        let units = u64::from(duration) * u64::from(parameters.clock_rate) / u64::from(SAMPLE_RATE);
        voice.next_timestamp = Some(RtpTimestamp(packet.timestamp.0.wrapping_add(units as u32)));
        let Some((_, decoder)) = &mut voice.decoder else { return };
        let mut sound = match decoder.decode(&packet.payload) {
            Ok(sound) => stereo(&sound),
            Err(_) => {
                self.decoder_errors += 1;
                let sound = decoder.conceal(duration as usize);
                self.concealed += u64::from(duration);
                stereo(&sound)
            }
        };
        if sound.is_empty() {
            return;
        }
        let pause = if popped.missing > 0 && hole.is_none() { DEADBAND } else { PAUSE };
        if voice.next.is_some_and(|next| target - next > pause) {
            voice.fall_silent(&mut self.pending);
        }
        let at = match voice.next {
            Some(next) if next - target > PAUSE => {
                self.dropped += sound.len() as u64;
                return;
            }
            Some(next) => {
                sound = stretched(sound, correction(target - next, duration));
                next
            }
            None => {
                fade_in(&mut sound);
                target
            }
        };
        voice.put(at, sound, &mut self.pending);
    }
}

impl Voice {
    /// How many samples lie between the newest packet and one with this timestamp whose place is `target`, if that is a loss to be
    /// concealed. Timestamps tell it exactly, if they can be believed.
    fn hole_before(&self, timestamp: RtpTimestamp, target: i64, clock_rate: u32) -> Option<usize> {
        let by_time = target - self.next?;
        let units = timestamp.since(self.next_timestamp?);
        let by_timestamp = units.saturating_mul(i64::from(SAMPLE_RATE)) / i64::from(clock_rate.max(1));
        let hole = if (by_timestamp - by_time).abs() <= PAUSE { by_timestamp } else { by_time };
        (DEADBAND..=MAX_CONCEALED).contains(&hole).then_some(hole as usize)
    }

    /// Conceals a hole that ends with this packet, which is to be decoded next; how much of it the packet told.
    fn fill(&mut self, hole: usize, packet: &[u8], pending: &mut Pending) -> usize {
        let Some((next, (codec, decoder))) = self.next.zip(self.decoder.as_mut()) else { return 0 };
        let redundancy = if *codec == Codec::Opus { opus_redundancy(packet) } else { None };
        let told = redundancy.map_or(0, |samples| samples as usize);
        let told = if told <= hole && hole.is_multiple_of(GRAIN) { told } else { 0 };
        let sound = if told > 0 { decoder.conceal_before(hole, packet) } else { decoder.conceal(hole) };
        self.put(next, stereo(&sound), pending);
        told
    }

    fn put(&mut self, at: i64, sound: Vec<[f32; 2]>, pending: &mut Pending) {
        self.last = sound.last().copied().unwrap_or_default();
        self.next = Some(at + sound.len() as i64);
        pending.add(at, sound.into_iter());
    }

    /// Lets the newest sample die away where sound stops.
    fn fall_silent(&mut self, pending: &mut Pending) {
        if let Some(next) = self.next.take() {
            let last = self.last;
            pending.add(next, (1..FADE).map(|index| last.map(|sample| sample * (1.0 - index as f32 / FADE as f32))));
        }
    }
}

/// Samples by which a packet of `duration` is made longer, or shorter, while it is `off` from its place: at most 1 %.
fn correction(off: i64, duration: u32) -> i64 {
    if off.abs() <= DEADBAND {
        return 0;
    }
    let most = i64::from(duration) / 100;
    (off / 16).clamp(-most, most)
}

fn stereo(interleaved: &[f32]) -> Vec<[f32; 2]> {
    interleaved.as_chunks().0.to_vec()
}

fn fade_in(sound: &mut [[f32; 2]]) {
    for (index, sample) in sound.iter_mut().take(FADE).enumerate() {
        *sample = sample.map(|value| value * index as f32 / FADE as f32);
    }
}

/// The same sound in `by` samples more (or fewer), interpolated by Catmull-Rom splines.
fn stretched(sound: Vec<[f32; 2]>, by: i64) -> Vec<[f32; 2]> {
    let length = sound.len();
    let wanted = length.saturating_add_signed(by as isize);
    if wanted == length || length < 2 || wanted < 2 {
        return sound;
    }
    let at = |index: isize, channel: usize| sound[index.clamp(0, length as isize - 1) as usize][channel];
    let step = length as f64 / wanted as f64;
    (0..wanted)
        .map(|index| {
            let position = index as f64 * step;
            let whole = position as isize;
            let x = (position - whole as f64) as f32;
            [0, 1].map(|channel| {
                let [a, b, c, d] = [-1, 0, 1, 2].map(|offset| at(whole + offset, channel));
                let cubic = 3.0 * (b - c) + d - a;
                b + 0.5 * x * (c - a + x * (2.0 * a - 5.0 * b + 4.0 * c - d + x * cubic))
            })
        })
        .collect()
}

#[cfg(test)]
mod drift;
#[cfg(test)]
mod loss;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::track::tests_support::{codec, producer, rtp};

    const RATE: u32 = 8000;

    /// A-law has one byte per sample and a decoder without memory: a ramp shows every sample's place.
    fn track() -> AudioTrack {
        AudioTrack::new(producer(vec![codec(8, Codec::Pcma, RATE)]), RoomTime::from_micros(1_000_000), 0)
    }

    /// Packet `index` of a 100 Hz square wave that nobody can hear a fade in.
    fn packet(index: u32, delay_us: i64, timestamp_base: u32) -> Packet {
        let payload: Vec<u8> = (0..160).map(|sample| if sample / 40 % 2 == 0 { 0x95 } else { 0x15 }).collect();
        let at = 1_000_000 + i64::from(index) * 20_000 + delay_us;
        rtp(1, 8, index as u16, timestamp_base.wrapping_add(index * 160), index == 0, &payload, at)
    }

    fn play(indices: impl Iterator<Item = u32>, ppm: i64) -> (Vec<[f32; 2]>, AudioQuality) {
        let mut track = track();
        let mut participant = ParticipantClock::default();
        let mut last = 0;
        for index in indices {
            track.receive(&packet(index, i64::from(index) * 20_000 * ppm / 1_000_000, 77), &mut participant);
            last = index;
        }
        track.place(&participant);
        (track.take((last as usize + 1) * 960), track.quality())
    }

    fn silent_samples(sound: &[[f32; 2]]) -> usize {
        sound.iter().filter(|sample| sample[0].abs() < 0.001).count()
    }

    fn largest_step(sound: &[[f32; 2]]) -> f32 {
        sound.windows(2).map(|pair| (pair[1][0] - pair[0][0]).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn packets_are_placed_end_to_end() {
        let (sound, quality) = play(0..50, 0);
        // A square wave crosses zero now and then.
        assert!(silent_samples(&sound[300..]) < 1000, "{}", silent_samples(&sound));
        assert_eq!((quality.concealed_ms, quality.intake.lost), (0, 0));
    }

    #[test]
    fn a_hole_is_concealed_and_a_pause_is_silent() {
        let (_, quality) = play((0..50).filter(|index| *index != 20), 0);
        assert_eq!((quality.concealed_ms, quality.intake.lost), (20, 1));

        let mut paused = track();
        let mut participant = ParticipantClock::default();
        for index in 0..10_u32 {
            // Numbers go on, timestamps and receive times leave out half a second.
            let pause = if index >= 5 { 500_000 } else { 0 };
            paused.receive(&packet(index, pause, if index >= 5 { 4000 } else { 0 }), &mut participant);
        }
        paused.place(&participant);
        let sound = paused.take(48_000);
        assert!((23_000..24_500).contains(&silent_samples(&sound[4800..4800 + 24_000])), "{}", silent_samples(&sound));
        assert_eq!(paused.quality().concealed_ms, 0);
    }

    #[test]
    fn drift_is_followed_without_a_gap() {
        // The source is 500 ppm slow for 40 s by the receive clock: 20 ms, made up for bit by bit.
        let (sound, quality) = play(0..2000, 500);
        assert_eq!((quality.dropped_ms, quality.concealed_ms), (0, 0));
        assert!(silent_samples(&sound[300..]) < sound.len() / 50, "{}", silent_samples(&sound));
    }

    #[test]
    fn a_stretched_sine_stays_a_sine() {
        let sine = |length: usize, step: f64| -> Vec<[f32; 2]> {
            (0..length).map(|index| [(index as f64 * step).sin() as f32; 2]).collect()
        };
        let longer = stretched(sine(960, 0.0654), 9);
        assert_eq!(longer.len(), 969);
        let expected = sine(969, 0.0654 * 960.0 / 969.0);
        for (index, (is, should)) in longer.iter().zip(expected).enumerate().take(960) {
            assert!((is[0] - should[0]).abs() < 0.001, "sample {index}: {} instead of {}", is[0], should[0]);
        }
        assert!(largest_step(&longer) < 0.07);
    }

    #[test]
    fn two_takes_are_one() {
        let mut whole = track();
        let mut parts = track();
        let mut participant = ParticipantClock::default();
        for index in 0..100 {
            whole.receive(&packet(index, 0, 0), &mut participant);
            parts.receive(&packet(index, 0, 0), &mut participant);
        }
        whole.place(&participant);
        parts.place(&participant);
        let whole = whole.take(96_000);
        let parts: Vec<_> = [47_000, 1, 48_999].into_iter().flat_map(|count| parts.take(count)).collect();
        assert!(whole == parts, "a slice join is not to be heard");
    }
}
