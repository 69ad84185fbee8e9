//! The SFU: the publisher's core, a workload, and processes that die.

use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use roomreel_sfu::publisher::core::{Core, Limits, MessageKey, Send};
use roomreel_shared::batch::{PacketData, RtpBatch};
use roomreel_shared::event::{Codec, CodecParameters, EventKind, Producer, RoomEvent};
use roomreel_shared::id::{PeerId, TrackId};
use roomreel_shared::policy::{Policy, TrackKind};
use roomreel_shared::rtp::PayloadType;

use crate::simulation::faults::Fault;
use crate::simulation::ledger::Life;
use crate::simulation::models::bus::Message;
use crate::simulation::models::log::Answer;
use crate::simulation::planted::Bug;
use crate::simulation::world::{self, Env};

/// An append on its way: first to the log, then back.
struct Append {
    /// Of which process; no later one hears the answer.
    life: usize,
    at: Duration,
    send: Send,
    answer: Option<Answer>,
}

/// See the module.
pub struct Sfu {
    core: Option<Core>,
    started: Duration,
    start_at: Option<Duration>,
    appends: Vec<Append>,
    tracks: Vec<TrackId>,
    /// The workload's end.
    until: Duration,
    closed: bool,
}

impl Sfu {
    /// One that sends media until `until`.
    pub fn new(until: Duration) -> Self {
        Self {
            core: None,
            started: Duration::ZERO,
            start_at: Some(Duration::ZERO),
            appends: Vec::new(),
            tracks: Vec::new(),
            until,
            closed: false,
        }
    }

    /// One step.
    pub fn step(&mut self, env: &mut Env) {
        if self.start_at.is_some_and(|at| at <= env.now) {
            self.start(env);
        }
        self.crash_perhaps(env);
        let messages = env.bus.arrived(env.now);
        let Some(core) = &mut self.core else {
            self.carry(env);
            return;
        };
        let local = env.now - self.started;
        for message in messages {
            hear(core, local, message);
        }
        if !self.closed {
            self.work(env);
        }
        let Some(core) = &mut self.core else { return };
        core.on_time(local);
        while let Some(mut send) = core.poll(local) {
            if env.bug == Some(Bug::ReplayUnderOldId)
                && let Some((first, _)) = send.entry.message_id.split_once(":r")
            {
                send.entry.message_id = first.to_owned();
            }
            note_sent(env, &send);
            // One connection keeps the order in which appends were begun; what is retried has lost its place.
            let late = if env.strikes(Fault::LogReorders) { env.rng.random_range(0..1500) } else { 0 };
            let at = env.now + Duration::from_millis(5 + late);
            self.appends.push(Append { life: env.ledger.lives.len(), at, send, answer: None });
        }
        self.carry(env);
        let Some(core) = &self.core else { return };
        env.ledger.life().stats = core.stats();
    }

    fn start(&mut self, env: &mut Env) {
        self.start_at = None;
        self.started = env.now;
        let limits = Limits {
            batch_age: Duration::from_millis(100),
            batch_bytes: 16 * 1024,
            buffer_bytes: if env.original.has(Fault::BufferIsSmall) { 24_000 } else { 16 << 20 },
            in_flight: 64,
            unrecorded_grace: Duration::from_secs(10),
            retry_min: Duration::from_millis(250),
            retry_max: Duration::from_secs(5),
            trace_every: 0,
        };
        let rng = StdRng::seed_from_u64(env.rng.random());
        let mut core = Core::new(limits, world::tenant(), world::sfu(), world::SHARDS, rng);
        env.ledger.lives.push(Life::default());
        env.tell(format!("the SFU starts, life {}", env.ledger.lives.len()));
        let policy = Policy { auto_record: true, ..Policy::default() };
        let created = EventKind::RoomCreated {
            room_name: "Standup".to_owned(),
            host: None,
            meeting_type: String::new(),
            policy: Some(policy),
        };
        accept_event(&mut core, env, Duration::ZERO, created);
        let count = env.rng.random_range(1..=3);
        self.tracks = (0..count).map(|n| TrackId::new(format!("track-{n}")).expect("valid")).collect();
        for track in &self.tracks {
            accept_event(&mut core, env, Duration::ZERO, EventKind::ProducerCreated(producer(track)));
        }
        self.core = Some(core);
    }

    fn crash_perhaps(&mut self, env: &mut Env) {
        if self.core.is_none() {
            return;
        }
        let leaves = env.strikes(Fault::SfuLeavesForGood);
        if leaves || env.strikes(Fault::SfuCrashes) {
            env.tell(format!("the SFU dies{}", if leaves { " for good" } else { "" }));
            env.ledger.life().crashed = true;
            self.core = None;
            // What is on the wire may still arrive.
            if env.rng.random_bool(0.5) {
                self.appends.clear();
            }
            if !leaves && !self.closed {
                self.start_at = Some(env.now + Duration::from_millis(env.rng.random_range(200..5000)));
            }
        }
    }

    fn work(&mut self, env: &mut Env) {
        let Some(core) = &mut self.core else { return };
        let local = env.now - self.started;
        if env.now >= self.until {
            self.closed = true;
            env.tell("the room closes".to_owned());
            accept_event(core, env, local, EventKind::RoomClosed { reason: String::new() });
            return;
        }
        if self.tracks.len() > 1 && env.strikes(Fault::TracksFallSilent) {
            let silent = self.tracks.pop();
            env.tell(format!("{silent:?} falls silent"));
        }
        for track in &self.tracks {
            for _ in 0..env.rng.random_range(0..=2) {
                let data =
                    packet(env.ledger.next_sequence(track), env.ledger.total_packets(), env.rng.random_range(8..200));
                let time = world::room_time(env.now);
                if core.accept_packet(local, &world::room(), track, time, PacketData::Rtp(data.clone())).is_ok() {
                    env.ledger.accept(track, data);
                }
            }
        }
        if env.rng.random_bool(0.02) {
            accept_event(core, env, local, EventKind::ActiveSpeaker { peer: None, level: 3 });
        }
    }

    /// Brings requests to the log and answers back.
    fn carry(&mut self, env: &mut Env) {
        self.appends.sort_by_key(|append| append.at);
        let mut later = Vec::new();
        for mut append in std::mem::take(&mut self.appends) {
            if append.at > env.now {
                later.push(append);
                continue;
            }
            match append.answer {
                None => {
                    append.answer = Some(env.append(&append.send.entry));
                    append.at = env.now + Duration::from_millis(env.rng.random_range(1..=10));
                    later.push(append);
                }
                Some(answer) if append.life == env.ledger.lives.len() => self.on_answer(env, append.send.key, answer),
                Some(_) => {}
            }
        }
        self.appends = later;
    }

    fn on_answer(&mut self, env: &mut Env, key: MessageKey, answer: Answer) {
        let Some(core) = &mut self.core else { return };
        let local = env.now - self.started;
        match answer {
            Answer::Stored(appended) => {
                core.on_appended(local, key, appended);
                if env.bug == Some(Bug::ForgetAtAck) {
                    for (track, incarnation, next) in env.ledger.life().watermark_of_everything_sent() {
                        core.on_watermark(&world::room(), Some(&track), incarnation, next);
                    }
                }
            }
            Answer::Failed => {
                core.on_failed(local, key);
            }
        }
    }
}

fn hear(core: &mut Core, local: Duration, message: Message) {
    let room = world::room();
    match message {
        Message::RecordingState(recording, active) => core.on_recording_state(local, &room, &recording, active),
        Message::Watermark(watermark) => {
            for mark in watermark.tracks {
                let track = TrackId::new(mark.track_id).expect("ours");
                core.on_watermark(&room, Some(&track), mark.incarnation, mark.next_batch_no);
            }
            for mark in watermark.events {
                core.on_watermark(&room, None, mark.incarnation, mark.next_event_no);
            }
        }
        Message::Replay(request) => {
            for range in request.ranges {
                let (track, missing) = (request.track.as_ref(), range.first..=range.last);
                core.on_replay_request(&room, track, request.incarnation.get(), missing, request.attempt);
            }
        }
    }
}

fn accept_event(core: &mut Core, env: &mut Env, local: Duration, kind: EventKind) {
    // A full buffer refuses it; then it was not accepted.
    let _ = core.accept_event(local, &world::room(), world::room_time(env.now), kind);
}

fn note_sent(env: &mut Env, send: &Send) {
    let now = env.now;
    env.story.trace(now, send.entry.message_id.as_bytes());
    if let Ok(batch) = RtpBatch::decode(send.entry.payload.clone()) {
        env.ledger.life().on_batch(&batch);
    } else if let Ok(event) = RoomEvent::decode(send.entry.payload.clone()) {
        let id = (event.incarnation.get(), event.event_no);
        env.ledger.life().events.insert(id, event.encode());
    }
}

fn producer(track: &TrackId) -> Producer {
    Producer {
        track: track.clone(),
        peer: PeerId::new("amara").expect("valid"),
        kind: TrackKind::Video,
        is_audio: false,
        codecs: vec![CodecParameters {
            payload_type: PayloadType(96),
            codec: Codec::Vp8,
            clock_rate: 90_000,
            channels: 0,
            fmtp: String::new(),
        }],
        encodings: Vec::new(),
        header_extensions: Vec::new(),
    }
}

/// An RTP packet whose payload no other packet has.
fn packet(sequence: u16, unique: u64, length: usize) -> Bytes {
    let mut bytes = vec![0x80, 96];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend((u32::from(sequence) * 3000).to_be_bytes());
    bytes.extend(7_u32.to_be_bytes());
    bytes.push(0x10);
    bytes.extend(unique.to_be_bytes());
    bytes.resize(bytes.len() + length, 0xaa);
    bytes.into()
}
