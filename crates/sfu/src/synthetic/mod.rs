//! A room that was never held, as a source: participants with moving picture, name, timecode, beep and flash.
//!
//! Every participant has a camera (VP8) and a microphone (Opus) with sender reports on a wall clock of its own. Once a second
//! a participant beeps for 50 ms at its own pitch ([`SyntheticSpec::beep_hz`]) and, beginning at exactly the same media time,
//! its picture shows a white square in [`flash_area`] for three frames. Participants take turns within the second: the phase
//! of participant `i` of `n` is `i / n` of a second, rounded down to a frame, so that a beep in the mix and a flash in a
//! composite belong to one participant. [`SyntheticSpec::beep_times`] gives the media times; the SFU receives them 15 to 30 ms
//! later, and later still on a bad [`Network`].
//!
//! Same spec, same packets: the encoders run at a fixed speed, and everything random comes from the seed.

mod encoder;
mod network;
mod picture;
mod script;
mod stream;
mod text;

use std::collections::{BTreeMap, VecDeque};
use std::f64::consts::TAU;
use std::time::Duration;

use bytes::Bytes;
use ffmpeg_the_third as ffmpeg;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use roomreel_shared::batch::PacketData;
use roomreel_shared::event::{AUDIO_LEVEL_URI, Codec, CodecParameters, Encoding, EventKind, HeaderExtension, Producer};
use roomreel_shared::id::{PeerId, RoomId, TrackId};
use roomreel_shared::policy::{Policy, TrackKind};
use roomreel_shared::rtp::PayloadType;
use roomreel_shared::time::RoomTime;
use rtp::codecs::vp8::Vp8Payloader;
use rtp::packetizer::Payloader as _;

use self::encoder::{FRAME_SAMPLES, OPUS_LOOK_AHEAD_SAMPLES, Opus, SAMPLE_RATE, Vp8};
use self::network::Paths;
use self::picture::{Scene, Subject};
use self::script::{Plan, Span};
use self::stream::{AUDIO_LEVEL_ID, MTU, Stream, WallClock};
use self::text::Fonts;
use crate::source::{self, Source, SourceItem};

pub use self::network::Network;
pub use self::picture::{Area, flash_area};
pub use self::script::Script;

/// How long a beep is.
pub const BEEP: Duration = Duration::from_millis(50);
/// How many frames a flash is.
pub const FLASH_FRAMES: u64 = 3;

const NAMES: [(&str, &str); 12] = [
    ("amara", "Amara"),
    ("bjorn", "Björn"),
    ("chidi", "Chidi"),
    ("delphine", "Delphine"),
    ("emre", "Emre Şahin"),
    ("giorgos", "Γιώργος"),
    ("ivan", "Иван"),
    ("fatima", "فاطمة"),
    ("hiroko", "ひろ子"),
    ("kavya", "काव्या"),
    ("jun", "俊杰"),
    ("lucia", "Lucía"),
];
const AUDIO_FRAME: Duration = Duration::from_millis(20);
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
const SCREEN_SIZE: (u32, u32) = (1280, 720);
const SCREEN_FRAME_RATE: u32 = 15;
/// From the camera to the first packet, and from packet to packet of a frame.
const ENCODE_DELAY: Duration = Duration::from_millis(5);
const PACKET_PACE: Duration = Duration::from_micros(250);
const MAX_PARTICIPANTS: usize = 100;

/// Why a synthetic room cannot be made or go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spec asks for what cannot be.
    #[error("a synthetic room cannot have {what}")]
    Spec {
        /// What.
        what: &'static str,
    },
    /// FFmpeg was built without it.
    #[error("FFmpeg has no encoder {name}; install an FFmpeg that was built with it")]
    NoEncoder {
        /// Its name.
        name: &'static str,
    },
    /// The encoder gave up.
    #[error("{what} does not encode: {source}")]
    Encode {
        /// Which encoder.
        what: &'static str,
        /// As FFmpeg says it.
        source: ffmpeg::Error,
    },
    /// A frame could not be packetized.
    #[error("a frame cannot be packetized: {0}")]
    Packetize(#[from] rtp::Error),
}

/// What room to make.
#[derive(Debug, Clone, PartialEq)]
pub struct SyntheticSpec {
    /// Its id.
    pub room: RoomId,
    /// Room time of its creation.
    pub start: RoomTime,
    /// From creation to close.
    pub duration: Duration,
    /// How many take part, 1 to 100.
    pub participants: usize,
    /// Same seed, same room.
    pub seed: u64,
    /// Width of every camera, even.
    pub width: u32,
    /// Height of every camera, even.
    pub height: u32,
    /// Frames a second of every camera, 4 to 60.
    pub frame_rate: u32,
    /// Of every camera.
    pub video_bits_per_second: u32,
    /// The way to the SFU.
    pub network: Network,
    /// What happens.
    pub script: Script,
    /// Announced with the room; the first participant is its host.
    pub policy: Policy,
}

impl SyntheticSpec {
    /// Four participants with 640x360 at 30 frames a second for 30 seconds over a perfect network, recorded by policy.
    #[must_use]
    pub fn new(room: RoomId, start: RoomTime) -> Self {
        Self {
            room,
            start,
            duration: Duration::from_secs(30),
            participants: 4,
            seed: 1,
            width: 640,
            height: 360,
            frame_rate: 30,
            video_bits_per_second: 500_000,
            network: Network::default(),
            script: Script::default(),
            policy: Policy { auto_record: true, ..Policy::default() },
        }
    }

    /// Peer id and display name of a participant, counted from 0.
    #[must_use]
    pub fn name(&self, participant: usize) -> (PeerId, String) {
        let (id, name) = match NAMES.get(participant) {
            Some((id, name)) => ((*id).to_owned(), (*name).to_owned()),
            None => (format!("guest-{}", participant + 1), format!("Guest {}", participant + 1)),
        };
        (PeerId::new(id).expect("names are short"), name)
    }

    /// Pitch of a participant's beep.
    #[must_use]
    pub fn beep_hz(&self, participant: usize) -> f64 {
        700.0 + 110.0 * (participant % 24) as f64
    }

    /// Media times at which a participant's beeps and flashes begin, counted from the room's creation; those that can be
    /// heard and seen whole. While the camera is off there is the beep alone.
    #[must_use]
    pub fn beep_times(&self, participant: usize) -> Vec<Duration> {
        let (join, leave) = self.plan().presence(participant);
        let phase = Duration::from_secs(self.beep_frame(participant)) / self.frame_rate;
        let times = (0..=self.duration.as_secs()).map(|second| Duration::from_secs(second) + phase);
        times.filter(|at| *at >= join + 2 * BEEP && *at + 4 * BEEP <= leave).collect()
    }

    /// When a participant's camera is off.
    #[must_use]
    pub fn camera_off(&self, participant: usize) -> Option<(Duration, Duration)> {
        self.plan().camera_off(participant)
    }

    /// Which frame of every second a participant's flash begins with.
    fn beep_frame(&self, participant: usize) -> u64 {
        participant as u64 * u64::from(self.frame_rate) / self.participants as u64 % u64::from(self.frame_rate)
    }

    fn plan(&self) -> Plan {
        Plan { script: self.script, duration: self.duration, participants: self.participants }
    }

    fn check(&self) -> Result<(), Error> {
        let check = |is_fine: bool, what| if is_fine { Ok(()) } else { Err(Error::Spec { what }) };
        let (width, height) = (self.width, self.height);
        check((1..=MAX_PARTICIPANTS).contains(&self.participants), "less than 1 or more than 100 participants")?;
        check((4..=60).contains(&self.frame_rate), "less than 4 or more than 60 frames a second")?;
        check(width % 2 == 0 && (64..=4096).contains(&width), "a width that is odd or not between 64 and 4096")?;
        check(height % 2 == 0 && (64..=4096).contains(&height), "a height that is odd or not between 64 and 4096")?;
        check(
            (10_000..=100_000_000).contains(&self.video_bits_per_second),
            "a bit rate not between 10 kbit/s and 100 Mbit/s",
        )?;
        check(self.duration >= Duration::from_secs(1), "a duration of less than a second")?;
        check(self.duration <= Duration::from_secs(7 * 24 * 3600), "a duration of more than a week")
    }
}

/// What is done next in the room.
enum Work {
    Event(EventKind),
    Audio { participant: usize, frame: u64 },
    Video { camera: usize, frame: u64 },
    Report { of: ReportOf },
}

#[derive(Clone, Copy)]
enum ReportOf {
    Microphone(usize),
    Camera(usize),
}

struct Microphone {
    track: TrackId,
    stream: Stream,
    encoder: Opus,
    presence: Span,
    hz: f64,
    /// First sample of the beep in every second.
    beep_sample: u64,
    noise: StdRng,
}

/// A camera or a shared screen.
struct Camera {
    track: TrackId,
    /// Whose clock and network path it uses.
    participant: usize,
    stream: Stream,
    encoder: Vp8,
    payloader: Vp8Payloader,
    scene: Scene,
    presence: Span,
    off: Option<Span>,
    frame_rate: u32,
    /// First frame of the flash in every second.
    flash_frame: Option<u64>,
    was_off: bool,
}

/// A synthetic room as a source.
pub struct SyntheticRoom {
    spec: SyntheticSpec,
    microphones: Vec<Microphone>,
    cameras: Vec<Camera>,
    clocks: Vec<WallClock>,
    agenda: BTreeMap<(Duration, u64), Work>,
    agenda_entries: u64,
    paths: Paths<SourceItem>,
    ready: VecDeque<Result<(RoomTime, SourceItem), source::Error>>,
}

impl SyntheticRoom {
    /// Prepares the room: encoders, pictures and everything that will happen. The media is made as it is asked for.
    ///
    /// # Errors
    /// [`Error::Spec`], or an encoder that cannot be had.
    pub fn new(spec: SyntheticSpec) -> Result<Self, Error> {
        spec.check()?;
        let mut rng = StdRng::seed_from_u64(spec.seed);
        let mut fonts = Fonts::load();
        let clocks = (0..spec.participants)
            .map(|_| WallClock { at_start_us: spec.start.as_micros() + rng.random_range(-3_000_000..3_000_000) })
            .collect();
        let mut room = Self {
            paths: Paths::new(spec.network, spec.participants, spec.seed ^ 0x5eed),
            microphones: Vec::new(),
            cameras: Vec::new(),
            clocks,
            agenda: BTreeMap::new(),
            agenda_entries: 0,
            ready: VecDeque::new(),
            spec,
        };
        let (host, _) = room.spec.name(0);
        let policy = Policy { host_id: Some(host.clone()), ..room.spec.policy.clone() };
        let created = EventKind::RoomCreated {
            room_name: room.spec.room.to_string(),
            host: Some(host),
            meeting_type: "synthetic".to_owned(),
            policy: Some(policy),
        };
        room.plan(Duration::ZERO, Work::Event(created));
        for participant in 0..room.spec.participants {
            room.add_participant(participant, &mut rng, &mut fonts)?;
        }
        if let Some(span) = room.spec.plan().screenshare() {
            room.add_screen(span, &mut rng, &mut fonts)?;
        }
        for (at, participant) in room.spec.plan().speakers() {
            let peer = Some(room.spec.name(participant).0);
            room.plan(at, Work::Event(EventKind::ActiveSpeaker { peer, level: 30 }));
        }
        let closed = EventKind::RoomClosed { reason: "ended".to_owned() };
        room.plan(room.spec.duration, Work::Event(closed));
        Ok(room)
    }

    fn plan(&mut self, at: Duration, work: Work) {
        self.agenda.insert((at, self.agenda_entries), work);
        self.agenda_entries += 1;
    }

    fn add_participant(&mut self, participant: usize, rng: &mut StdRng, fonts: &mut Fonts) -> Result<(), Error> {
        let spec = self.spec.clone();
        let (peer, display_name) = spec.name(participant);
        let presence = spec.plan().presence(participant);
        let flash_frame = spec.beep_frame(participant);
        let microphone = Microphone {
            track: track(&peer, "audio"),
            stream: Stream::new(rng, 111, SAMPLE_RATE, peer.as_str()),
            encoder: Opus::new()?,
            presence,
            hz: spec.beep_hz(participant),
            beep_sample: flash_frame * u64::from(SAMPLE_RATE) / u64::from(spec.frame_rate),
            noise: StdRng::seed_from_u64(rng.random()),
        };
        let subject = Subject::Person { number: participant, name: &display_name };
        let camera = Camera {
            track: track(&peer, "video"),
            participant,
            stream: Stream::new(rng, 96, 90_000, peer.as_str()),
            encoder: Vp8::new(spec.width, spec.height, spec.frame_rate, spec.video_bits_per_second)?,
            payloader: payloader(),
            scene: Scene::new(fonts, spec.width, spec.height, &subject),
            presence,
            off: spec.plan().camera_off(participant),
            frame_rate: spec.frame_rate,
            flash_frame: Some(flash_frame),
            was_off: false,
        };
        let (join, _) = presence;
        let joined = EventKind::PeerJoined {
            peer: peer.clone(),
            display_name,
            is_host: participant == 0,
            is_co_host: false,
            is_panelist: false,
        };
        self.plan(join, Work::Event(joined));
        let opus = CodecParameters {
            payload_type: PayloadType(111),
            codec: Codec::Opus,
            clock_rate: SAMPLE_RATE,
            // Always 2, whatever is sent (RFC 7587 section 7).
            channels: 2,
            fmtp: "minptime=10;useinbandfec=1".to_owned(),
        };
        let producer = producer(&peer, &microphone.track, TrackKind::Audio, opus, &microphone.stream);
        self.plan(join, Work::Event(EventKind::ProducerCreated(producer)));
        let frame = join.as_micros().div_ceil(AUDIO_FRAME.as_micros()) as u64;
        self.plan(audio_sent(frame), Work::Audio { participant, frame });
        self.plan(join + first_report(rng), Work::Report { of: ReportOf::Microphone(participant) });
        self.microphones.push(microphone);
        self.add_camera(&peer, TrackKind::Video, camera, rng);
        self.plan_departure(&peer, &[track(&peer, "audio"), track(&peer, "video")], presence.1, "left");
        Ok(())
    }

    fn add_screen(&mut self, presence: Span, rng: &mut StdRng, fonts: &mut Fonts) -> Result<(), Error> {
        let (sharer, name) = self.spec.name(0);
        let peer = PeerId::new(format!("sharescreen_{sharer}")).expect("names are short");
        let (width, height) = SCREEN_SIZE;
        let title = format!("{name}: quarterly numbers");
        let camera = Camera {
            track: track(&peer, "video"),
            participant: 0,
            stream: Stream::new(rng, 96, 90_000, peer.as_str()),
            encoder: Vp8::new(width, height, SCREEN_FRAME_RATE, 800_000)?,
            payloader: payloader(),
            scene: Scene::new(fonts, width, height, &Subject::Slides { title: &title }),
            presence,
            off: None,
            frame_rate: SCREEN_FRAME_RATE,
            flash_frame: None,
            was_off: false,
        };
        let joined = EventKind::PeerJoined {
            peer: peer.clone(),
            display_name: format!("{name} (screen)"),
            is_host: false,
            is_co_host: false,
            is_panelist: false,
        };
        self.plan(presence.0, Work::Event(joined));
        let screen = camera.track.clone();
        self.add_camera(&peer, TrackKind::Screenshare, camera, rng);
        self.plan_departure(&peer, &[screen], presence.1, "stopped");
        Ok(())
    }

    fn add_camera(&mut self, peer: &PeerId, kind: TrackKind, camera: Camera, rng: &mut StdRng) {
        let number = self.cameras.len();
        let (join, _) = camera.presence;
        let vp8 = CodecParameters {
            payload_type: PayloadType(96),
            codec: Codec::Vp8,
            clock_rate: 90_000,
            channels: 0,
            fmtp: String::new(),
        };
        let producer = producer(peer, &camera.track, kind, vp8, &camera.stream);
        self.plan(join, Work::Event(EventKind::ProducerCreated(producer)));
        let rate = u128::from(camera.frame_rate);
        let frame = (join.as_micros() * rate).div_ceil(1_000_000) as u64;
        self.plan(camera.frame_time(frame), Work::Video { camera: number, frame });
        self.plan(join + first_report(rng), Work::Report { of: ReportOf::Camera(number) });
        if let Some((from, to)) = camera.off {
            self.plan(from, Work::Event(EventKind::ProducerPaused { track: camera.track.clone() }));
            self.plan(to, Work::Event(EventKind::ProducerResumed { track: camera.track.clone() }));
        }
        self.cameras.push(camera);
    }

    fn plan_departure(&mut self, peer: &PeerId, tracks: &[TrackId], at: Duration, reason: &str) {
        for track in tracks {
            let closed = EventKind::ProducerClosed { track: track.clone(), reason: reason.to_owned() };
            self.plan(at, Work::Event(closed));
        }
        self.plan(at, Work::Event(EventKind::PeerLeft { peer: peer.clone(), reason: reason.to_owned() }));
    }

    fn perform(&mut self, at: Duration, work: Work) -> Result<(), Error> {
        match work {
            Work::Event(event) => {
                let is_end = matches!(event, EventKind::RoomClosed { .. });
                self.paths.put(at, SourceItem::Event(event));
                if is_end {
                    // The SFU hears nothing any more of what is still under way.
                    self.agenda.clear();
                }
            }
            Work::Audio { participant, frame } => {
                let microphone = &mut self.microphones[participant];
                if let Some(data) = microphone.packet(frame)? {
                    let item = SourceItem::Packet { track: microphone.track.clone(), data };
                    self.paths.send(participant, at, item);
                }
                let next = audio_sent(frame + 1);
                if next <= microphone.presence.1 {
                    self.plan(next, Work::Audio { participant, frame: frame + 1 });
                }
            }
            Work::Video { camera: number, frame } => {
                let camera = &mut self.cameras[number];
                let participant = camera.participant;
                let mut sent = at + ENCODE_DELAY;
                for data in camera.packets(frame)? {
                    let item = SourceItem::Packet { track: camera.track.clone(), data };
                    self.paths.send(participant, sent, item);
                    sent += PACKET_PACE;
                }
                let next = camera.frame_time(frame + 1);
                if next < camera.presence.1 {
                    self.plan(next, Work::Video { camera: number, frame: frame + 1 });
                }
            }
            Work::Report { of } => {
                let (participant, track, stream, (_, leave)) = match of {
                    ReportOf::Microphone(participant) => {
                        let microphone = &self.microphones[participant];
                        (participant, &microphone.track, &microphone.stream, microphone.presence)
                    }
                    ReportOf::Camera(number) => {
                        let camera = &self.cameras[number];
                        (camera.participant, &camera.track, &camera.stream, camera.presence)
                    }
                };
                let data = stream.report(at, self.clocks[participant]);
                self.paths.send(participant, at, SourceItem::Packet { track: track.clone(), data });
                if at + REPORT_INTERVAL < leave {
                    self.plan(at + REPORT_INTERVAL, Work::Report { of });
                }
            }
        }
        Ok(())
    }

    /// Makes the next items ready; `false` at the end.
    fn step(&mut self) -> bool {
        let Some(((at, _), work)) = self.agenda.pop_first() else { return false };
        if let Err(error) = self.perform(at, work) {
            self.agenda.clear();
            self.ready.push_back(Err(error.into()));
        }
        while let Some((arrival, item)) = self.paths.receive(at) {
            self.ready.push_back(Ok((self.spec.start + arrival, item)));
        }
        true
    }
}

impl Iterator for SyntheticRoom {
    type Item = Result<(RoomTime, SourceItem), source::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && self.step() {}
        self.ready.pop_front()
    }
}

impl Source for SyntheticRoom {
    fn room(&self) -> &RoomId {
        &self.spec.room
    }

    fn duration(&self) -> Option<Duration> {
        Some(self.spec.duration)
    }
}

impl Microphone {
    /// The packet of 20 ms from `frame` on.
    fn packet(&mut self, frame: u64) -> Result<Option<PacketData>, Error> {
        // The decoder gives every sample later than it was put in, so it is put in earlier.
        let first_sample = frame * FRAME_SAMPLES as u64 + OPUS_LOOK_AHEAD_SAMPLES;
        let samples: Vec<f32> = (first_sample..).take(FRAME_SAMPLES).map(|sample| self.sample(sample)).collect();
        let Some(payload) = self.encoder.encode(&samples, first_sample)? else { return Ok(None) };
        let at = AUDIO_FRAME * u32::try_from(frame).expect("a week has fewer frames");
        Ok(Some(self.stream.packet(at, false, Some(audio_level(&samples)), &payload)))
    }

    fn sample(&mut self, sample: u64) -> f32 {
        const BEEP_SAMPLES: u64 = SAMPLE_RATE as u64 * BEEP.as_millis() as u64 / 1000;
        const RAMP_SAMPLES: f64 = 96.0;
        let noise = self.noise.random_range(-0.001..0.001_f32);
        let rate = u64::from(SAMPLE_RATE);
        let place = (sample + rate - self.beep_sample) % rate;
        if place >= BEEP_SAMPLES {
            return noise;
        }
        // Two milliseconds of slope at either end keep the click out of the spectrum.
        let slope = (place.min(BEEP_SAMPLES - 1 - place) as f64 / RAMP_SAMPLES).min(1.0);
        noise + (0.3 * slope * (TAU * self.hz * place as f64 / f64::from(SAMPLE_RATE)).sin()) as f32
    }
}

impl Camera {
    fn frame_time(&self, frame: u64) -> Duration {
        Duration::from_nanos(frame * 1_000_000_000 / u64::from(self.frame_rate))
    }

    fn packets(&mut self, frame: u64) -> Result<Vec<PacketData>, Error> {
        let at = self.frame_time(frame);
        if self.off.is_some_and(|(from, to)| from <= at && at < to) {
            self.was_off = true;
            return Ok(Vec::new());
        }
        let rate = u64::from(self.frame_rate);
        let is_flash = self.flash_frame.is_some_and(|first| (frame + rate - first) % rate < FLASH_FRAMES);
        let is_key = std::mem::take(&mut self.was_off);
        let picture = self.scene.draw(at, is_flash);
        let Some(encoded) = self.encoder.encode(picture, is_key)? else { return Ok(Vec::new()) };
        let payloads: Vec<Bytes> = self.payloader.payload(MTU - 12, &encoded)?;
        let last = payloads.len().saturating_sub(1);
        let packet = |(place, payload): (usize, &Bytes)| self.stream.packet(at, place == last, None, payload);
        Ok(payloads.iter().enumerate().map(packet).collect())
    }
}

/// A microphone's frame is sent when its last sample is there.
fn audio_sent(frame: u64) -> Duration {
    AUDIO_FRAME * u32::try_from(frame + 1).expect("a week has fewer frames")
}

/// RFC 6464: -dBov, with the upper bit for speech.
fn audio_level(samples: &[f32]) -> u8 {
    let power = samples.iter().map(|sample| f64::from(sample * sample)).sum::<f64>() / samples.len() as f64;
    let level = (-10.0 * power.max(1e-13).log10()).clamp(0.0, 127.0) as u8;
    level | u8::from(level < 40) << 7
}

fn first_report(rng: &mut StdRng) -> Duration {
    Duration::from_millis(rng.random_range(50..350))
}

fn payloader() -> Vp8Payloader {
    let mut payloader = Vp8Payloader::default();
    payloader.enable_picture_id = true;
    payloader
}

fn track(peer: &PeerId, kind: &str) -> TrackId {
    TrackId::new(format!("{peer}-{kind}")).expect("names are short")
}

fn producer(peer: &PeerId, track: &TrackId, kind: TrackKind, codec: CodecParameters, stream: &Stream) -> Producer {
    let is_audio = codec.channels > 0;
    let level = HeaderExtension { id: AUDIO_LEVEL_ID, uri: AUDIO_LEVEL_URI.to_owned() };
    Producer {
        track: track.clone(),
        peer: peer.clone(),
        kind,
        is_audio,
        codecs: vec![codec],
        encodings: vec![Encoding { ssrc: stream.ssrc, rid: None, rtx_ssrc: None }],
        header_extensions: if is_audio { vec![level] } else { Vec::new() },
    }
}
