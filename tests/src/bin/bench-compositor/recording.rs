//! The clips as an SFU would have received them, and as ingest would have stored them: RTP, batches, a folded chain of windows.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use ffmpeg_the_third as ffmpeg;
use roomreel_backends::objects::DirectoryStore;
use roomreel_ingest::FoldConfig;
use roomreel_ingest::fold::{Fold, FoldOutput};
use roomreel_ingest::room::Identity;
use roomreel_shared::batch::{Incarnation, Packet, PacketData, RtpBatch};
use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::event::{Codec, CodecParameters, Encoding, EventKind, EventRef, Producer, RoomEvent};
use roomreel_shared::id::{PeerId, RecordingId, RoomId, TrackId};
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::policy::{Policy, TrackKind};
use roomreel_shared::ports::{LogEntry, ObjectStore as _};
use roomreel_shared::rtp::{PayloadType, Ssrc};
use roomreel_shared::subject::{Address, Entry, Shard, Writer};
use roomreel_shared::time::{LogTime, RoomTime};
use roomreel_tests::room;

use crate::clips::{Clips, LAYERS, SECONDS};
use crate::webcam::FRAME_RATE;

/// Where the room's clock stands when it begins, and the log's: they have nothing to do with each other.
const ROOM_START_US: i64 = 1_795_000_000_000_000;
const LOG_START_US: i64 = 1_700_000_000_000_000;
/// Windows and slices of what a coordinator asks for by default.
const WINDOW_MS: u64 = 4000;
const SHARDS: u32 = 1;
/// Bytes of media in a packet, as browsers send.
const PAYLOAD_BYTES: usize = 1150;
/// What a publisher collects into one batch.
const BATCH_US: i64 = 100_000;
/// Length of an Opus packet.
const SOUND_US: i64 = 20_000;
/// Pictures come a little before the tick that shows them.
const EARLY_US: i64 = 10_000;
const VIDEO: u8 = 96;
const AUDIO: u8 = 111;

/// Which layers of its cameras a room has recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// All of them, as simulcast.
    AllLayers,
    /// The one with so many lines: there was no simulcast.
    Layer(usize),
}

/// A recording below a directory.
#[derive(Debug, Clone)]
pub struct Recording {
    pub directory: PathBuf,
    pub spec: FoldSpec,
}

impl Recording {
    /// A room of `count` participants below `directory`, in which the clips come `times` times; made if it is not there.
    pub async fn prepare(
        directory: &Path,
        clips: &Clips,
        count: usize,
        recorded: Recorded,
        times: usize,
    ) -> Result<Self> {
        let (name, layers) = match recorded {
            Recorded::AllLayers => ("simulcast".to_owned(), LAYERS.to_vec()),
            Recorded::Layer(lines) => (format!("single-{lines}"), vec![lines]),
        };
        let recording = Self { directory: directory.join("bucket"), spec: spec(&format!("{name}-{count}-{times}"))? };
        let store = DirectoryStore::open(&recording.directory)?;
        let keys = recording.keys();
        let last = keys.window((SECONDS as u64 * 1000 * times as u64).div_ceil(WINDOW_MS) - 1);
        if store.size(&last).await.is_ok() {
            return Ok(recording);
        }
        let mut fold = Fold::new(recording.spec.clone(), Identity { epoch: 1, nonce: 1 }, FoldConfig::default());
        let mut windows = Vec::new();
        for entry in log(&recording.spec, clips, count, &layers, times)? {
            for output in fold.on_entry(entry) {
                match output {
                    FoldOutput::Commit(window) => windows.push(window),
                    FoldOutput::Finished | FoldOutput::RequestKeyframe(_) => {}
                    other => anyhow::bail!("the fold says {other:?}"),
                }
            }
        }
        ensure!(fold.room().is_finished(), "the recording did not end");
        // The last one last: it says that all are there.
        for window in windows {
            ensure!(window.header.gaps.is_empty(), "the recording has gaps: {:?}", window.header.gaps);
            store.put(&keys.window(window.header.window), window.object.joined()).await?;
        }
        ensure!(store.size(&last).await.is_ok(), "the recording has fewer windows than {last} says");
        Ok(recording)
    }

    pub fn keys(&self) -> RecordingKeys {
        RecordingKeys::new(&self.spec.tenant, &self.spec.room, &self.spec.recording)
    }
}

/// The name of a participant.
pub fn peer(number: usize) -> Result<PeerId> {
    Ok(PeerId::new(format!("peer-{number:02}"))?)
}

fn spec(name: &str) -> Result<FoldSpec> {
    Ok(FoldSpec {
        tenant: room::tenant(),
        room: RoomId::new(name)?,
        recording: RecordingId::new(name)?,
        shards: SHARDS,
        from: Some(EventRef { incarnation: incarnation()?.get(), event_no: 0 }),
        session: None,
        beginning: None,
        start_sequence: 1,
        window_ms: WINDOW_MS,
        policy: Policy::default(),
        epoch_base: 0,
    })
}

fn incarnation() -> Result<Incarnation> {
    Incarnation::new(1).context("it is not 0")
}

/// The room's log in the order of time.
fn log(spec: &FoldSpec, clips: &Clips, count: usize, layers: &[usize], times: usize) -> Result<Vec<LogEntry>> {
    let mut script = Script { spec, entries: Vec::new(), events: 0 };
    let policy = Some(spec.policy.clone());
    let (room_name, meeting_type) = (spec.room.to_string(), String::new());
    script.event(0, EventKind::RoomCreated { room_name, host: None, meeting_type, policy })?;
    for participant in 0..count {
        let peer = peer(participant)?;
        let display_name = format!("Participant {}", participant + 1);
        let joined = EventKind::PeerJoined {
            peer: peer.clone(),
            display_name,
            is_host: false,
            is_co_host: false,
            is_panelist: false,
        };
        script.event(0, joined)?;
        let mut streams = Vec::new();
        for (layer, lines) in layers.iter().enumerate() {
            let [pictures, mut sound] = demux(&clips.path(participant, *lines))?;
            sound.truncate((SECONDS as i64 * 1_000_000 / SOUND_US) as usize);
            let [pictures, sound] = [pictures, sound].map(|clip| vec![clip; times].concat());
            let ssrc = (participant * 10 + layer + 1) as u32;
            streams.push((ssrc, pictures));
            if layer == 0 {
                let microphone = producer(participant, &peer, true, &[])?;
                let track = microphone.track.clone();
                script.event(0, EventKind::ProducerCreated(microphone))?;
                let packets = sound.iter().enumerate().map(|(index, data)| {
                    let at = index as i64 * SOUND_US;
                    (at, rtp(AUDIO, index as u16, index as u32 * 960, ssrc + 1_000_000, index == 0, data))
                });
                script.media(&track, packets.collect())?;
            }
        }
        let camera = producer(participant, &peer, false, &streams.iter().map(|(ssrc, _)| *ssrc).collect::<Vec<_>>())?;
        let track = camera.track.clone();
        script.event(0, EventKind::ProducerCreated(camera))?;
        script.media(&track, streams.iter().flat_map(|(ssrc, pictures)| video(*ssrc, pictures)).collect())?;
    }
    script.event((SECONDS * times) as i64 * 1_000_000, EventKind::RoomClosed { reason: "the end".to_owned() })?;
    script.entries.sort_by_key(|entry| entry.time);
    for (sequence, entry) in (1..).zip(&mut script.entries) {
        entry.sequence = sequence;
    }
    Ok(script.entries)
}

struct Script<'a> {
    spec: &'a FoldSpec,
    entries: Vec<LogEntry>,
    events: u64,
}

impl Script<'_> {
    fn append(&mut self, at_us: i64, entry: Entry, payload: Bytes) {
        let FoldSpec { tenant, room, shards, .. } = self.spec;
        let address = Address {
            shard: Shard::of(tenant, room, *shards),
            tenant: tenant.clone(),
            writer: Writer::Sfu(room::sfu()),
            room: room.clone(),
            entry,
        };
        self.entries.push(LogEntry {
            sequence: 0,
            time: LogTime::from_micros(LOG_START_US + at_us),
            subject: address.subject().to_string(),
            trace_parent: None,
            payload,
        });
    }

    fn event(&mut self, at_us: i64, kind: EventKind) -> Result<()> {
        let event = RoomEvent {
            room: self.spec.room.clone(),
            incarnation: incarnation()?,
            event_no: self.events,
            time: RoomTime::from_micros(ROOM_START_US + at_us),
            kind,
        };
        self.events += 1;
        self.append(at_us, Entry::Event, event.encode());
        Ok(())
    }

    /// A track's packets, cut into batches.
    fn media(&mut self, track: &TrackId, mut packets: Vec<(i64, Bytes)>) -> Result<()> {
        packets.sort_by_key(|(at, _)| *at);
        let mut first_packet_no = 0;
        for (batch_no, batch) in (0..).zip(packets.chunk_by(|a, b| a.0 / BATCH_US == b.0 / BATCH_US)) {
            let at_us = batch.last().map_or(0, |(at, _)| *at);
            let packets: Vec<_> = batch
                .iter()
                .map(|(at, data)| Packet {
                    time: RoomTime::from_micros(ROOM_START_US + at),
                    data: PacketData::Rtp(data.clone()),
                })
                .collect();
            let count = packets.len() as u64;
            let batch = RtpBatch {
                room: self.spec.room.clone(),
                track: track.clone(),
                incarnation: incarnation()?,
                batch_no,
                first_packet_no,
                packets,
            };
            first_packet_no += count;
            self.append(at_us, Entry::Media(track.clone()), batch.encode());
        }
        Ok(())
    }
}

fn producer(participant: usize, peer: &PeerId, is_audio: bool, layers: &[u32]) -> Result<Producer> {
    let (name, kind, payload_type, codec, clock_rate, channels) = if is_audio {
        ("mic", TrackKind::Audio, AUDIO, Codec::Opus, 48_000, 2)
    } else {
        ("cam", TrackKind::Video, VIDEO, Codec::Vp8, 90_000, 0)
    };
    let encodings = layers.iter().zip(["h", "m", "l"]);
    Ok(Producer {
        track: TrackId::new(format!("{name}-{participant:02}"))?,
        peer: peer.clone(),
        kind,
        is_audio,
        codecs: vec![CodecParameters {
            payload_type: PayloadType(payload_type),
            codec,
            clock_rate,
            channels,
            fmtp: String::new(),
        }],
        encodings: encodings
            .map(|(ssrc, rid)| Encoding { ssrc: Ssrc(*ssrc), rid: Some(rid.to_owned()), rtx_ssrc: None })
            .collect(),
        header_extensions: Vec::new(),
    })
}

/// Pictures as packets (RFC 7741, without picture numbers), with the times they are received at.
fn video(ssrc: u32, pictures: &[Bytes]) -> Vec<(i64, Bytes)> {
    let mut packets = Vec::new();
    for (index, picture) in pictures.iter().enumerate() {
        let at = (index as i64 * 1_000_000 / FRAME_RATE as i64 - EARLY_US).max(0);
        let parts = picture.chunks(PAYLOAD_BYTES);
        let last = parts.len() - 1;
        for (part, data) in parts.enumerate() {
            let payload = [&[if part == 0 { 0x10 } else { 0x00 }], data].concat();
            let timestamp = (index * 90_000 / FRAME_RATE) as u32;
            packets.push((at, rtp(VIDEO, packets.len() as u16, timestamp, ssrc, part == last, &payload)));
        }
    }
    packets
}

fn rtp(payload_type: u8, sequence: u16, timestamp: u32, ssrc: u32, marker: bool, payload: &[u8]) -> Bytes {
    let mut packet = BytesMut::with_capacity(12 + payload.len());
    packet.put_slice(&[0x80, u8::from(marker) << 7 | payload_type]);
    packet.put_u16(sequence);
    packet.put_u32(timestamp);
    packet.put_u32(ssrc);
    packet.put_slice(payload);
    packet.freeze()
}

/// Coded pictures and coded sound of a clip, each in order.
fn demux(path: &Path) -> Result<[Vec<Bytes>; 2]> {
    let mut streams = [Vec::new(), Vec::new()];
    let mut input = ffmpeg::format::input(path).with_context(|| path.display().to_string())?;
    for packet in input.packets() {
        let (stream, packet) = packet?;
        let is_sound = stream.parameters().medium() == ffmpeg::media::Type::Audio;
        streams[usize::from(is_sound)].push(Bytes::copy_from_slice(packet.data().context("an empty packet")?));
    }
    ensure!(streams.iter().all(|packets| !packets.is_empty()), "{} lacks a stream", path.display());
    Ok(streams)
}
