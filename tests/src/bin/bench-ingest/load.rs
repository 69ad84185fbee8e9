//! Rooms as an SFU publishes them: packets of about 1,100 bytes, through the publisher library.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::{BufMut as _, Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};
use roomreel_backends::nats::Nats;
use roomreel_sfu::publisher::{Publisher, PublisherConfig, RoomPublisher};
use roomreel_shared::batch::PacketData;
use roomreel_shared::event::{Codec, CodecParameters, Encoding, EventKind, Producer};
use roomreel_shared::id::{PeerId, RoomId, TrackId};
use roomreel_shared::policy::{Policy, TrackKind};
use roomreel_shared::rtp::{PayloadType, Ssrc};
use roomreel_tests::room;
use serde::{Deserialize, Serialize};

use crate::usage::{Sample, Stopwatch};

/// Bytes of an RTP packet.
const PACKET_BYTES: usize = 1_100;
/// 1 Mbit/s in such packets.
const PACKETS_PER_SECOND: f64 = 1e6 / 8.0 / PACKET_BYTES as f64;
const PACKETS_PER_FRAME: u64 = 4;
const FRAMES_PER_KEYFRAME: u64 = 90;

/// The window of a live room.
pub const WINDOW: Duration = Duration::from_secs(4);

/// What is published.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Load {
    pub rooms: usize,
    /// Tracks of each room.
    pub tracks: usize,
    /// Packets of each track.
    pub packets: u64,
    /// A message of the log holds about this many bytes.
    pub batch_bytes: usize,
    /// In real time, 1 Mbit/s a track; else as fast as the log takes it.
    pub live: bool,
}

impl Load {
    pub fn total_packets(&self) -> u64 {
        self.packets * (self.rooms * self.tracks) as u64
    }

    pub fn room(&self, number: usize) -> RoomId {
        room::room(&format!("bench-{number}"))
    }
}

struct Track {
    id: TrackId,
    room: usize,
    ssrc: u32,
    sent: u64,
}

impl Track {
    fn send(&mut self, rooms: &[RoomPublisher], noise: &[u8]) -> Result<()> {
        let data = PacketData::Rtp(self.packet(noise));
        self.sent += 1;
        Ok(rooms[self.room].packet(&self.id, room::now(), data)?)
    }

    /// The next packet: VP8 of 30 frames/s.
    fn packet(&self, noise: &[u8]) -> Bytes {
        let (frame, within) = (self.sent / PACKETS_PER_FRAME, self.sent % PACKETS_PER_FRAME);
        let mut packet = BytesMut::with_capacity(PACKET_BYTES);
        packet.put_u8(0x80);
        packet.put_u8(96 | if within + 1 == PACKETS_PER_FRAME { 0x80 } else { 0 });
        packet.put_u16(self.sent as u16);
        packet.put_u32((frame * 3_000) as u32);
        packet.put_u32(self.ssrc);
        // Payload descriptor (RFC 7741 section 4.2): the start of a frame or not; then bit 0 of the frame says "no key frame".
        packet.put_u8(if within == 0 { 0x10 } else { 0 });
        packet.put_u8(u8::from(frame % FRAMES_PER_KEYFRAME != 0));
        let from = (self.sent as usize * 61 + self.ssrc as usize) % (noise.len() - PACKET_BYTES);
        packet.put_slice(&noise[from..from + PACKET_BYTES - packet.len()]);
        packet.freeze()
    }
}

/// Publishes all of `load`, and counts what that takes.
pub async fn publish(nats: Nats, load: Load) -> Result<Sample> {
    let nats = Arc::new(nats);
    let mut config = PublisherConfig::new(room::tenant(), room::sfu(), 1);
    config.limits.batch_bytes = load.batch_bytes;
    let stopwatch = Stopwatch::start();
    let publisher = Publisher::start(nats.clone(), nats, config);
    let mut noise = vec![0; 1 << 20];
    SmallRng::seed_from_u64(1).fill_bytes(&mut noise);
    let rooms: Vec<RoomPublisher> = (0..load.rooms).map(|number| publisher.room(load.room(number))).collect();
    let mut tracks = Vec::new();
    for (number, room) in rooms.iter().enumerate() {
        tracks.extend(open(room, number, load.tracks)?);
        if load.live {
            // The windows of a node's rooms do not all end at once.
            tokio::time::sleep(WINDOW / load.rooms as u32).await;
        }
    }
    publisher.flush().await?;
    let begun = Instant::now();
    for number in 0..load.packets {
        if load.live {
            tokio::time::sleep_until((begun + Duration::from_secs_f64(number as f64 / PACKETS_PER_SECOND)).into())
                .await;
        } else {
            rooms[0].capacity().await;
        }
        tracks.iter_mut().try_for_each(|track| track.send(&rooms, &noise))?;
    }
    for room in &rooms {
        room.event(room::now(), EventKind::RoomClosed { reason: "ended".to_owned() })?;
    }
    publisher.flush().await?;
    let (cpu, wall) = stopwatch.read();
    let stats = publisher.stats();
    ensure!(stats.dropped_packets == 0 && stats.rejected == 0, "the publisher lost packets: {stats:?}");
    ensure!(stats.accepted_packets == load.total_packets(), "the publisher took too few: {stats:?}");
    Ok(Sample { packets: stats.accepted_packets, bytes: stats.accepted_bytes, cpu, wall, ..Sample::default() })
}

/// Creates a room with its tracks.
fn open(room: &RoomPublisher, number: usize, tracks: usize) -> Result<Vec<Track>> {
    room.event(
        room::now(),
        EventKind::RoomCreated {
            room_name: room.room().to_string(),
            host: None,
            meeting_type: "bench".to_owned(),
            policy: Some(Policy::default()),
        },
    )?;
    let mut opened = Vec::new();
    for track in 0..tracks {
        let peer = PeerId::new(format!("peer-{track}"))?;
        let id = TrackId::new(format!("camera-{track}"))?;
        let ssrc = (number * 1_000 + track + 1) as u32;
        room.event(
            room::now(),
            EventKind::PeerJoined {
                peer: peer.clone(),
                display_name: peer.to_string(),
                is_host: false,
                is_co_host: false,
                is_panelist: false,
            },
        )?;
        let vp8 = CodecParameters {
            payload_type: PayloadType(96),
            codec: Codec::Vp8,
            clock_rate: 90_000,
            channels: 0,
            fmtp: String::new(),
        };
        room.event(
            room::now(),
            EventKind::ProducerCreated(Producer {
                track: id.clone(),
                peer,
                kind: TrackKind::Video,
                is_audio: false,
                codecs: vec![vp8],
                encodings: vec![Encoding { ssrc: Ssrc(ssrc), rid: None, rtx_ssrc: None }],
                header_extensions: Vec::new(),
            }),
        )?;
        opened.push(Track { id, room: number, ssrc, sent: 0 });
    }
    Ok(opened)
}
