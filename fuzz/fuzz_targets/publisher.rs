//! The publisher's core under any order of packets, answers, watermarks and requests: what it accepts is sent or declared
//! missing, under numbers without a hole, within its buffer.
#![no_main]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use roomreel_fuzz::publisher::core::{Core, Limits, Send};
use roomreel_fuzz::{Numbers, pieces};
use roomreel_shared::batch::{PacketData, RtpBatch};
use roomreel_shared::event::{EventKind, RoomEvent};
use roomreel_shared::id::{RecordingId, RoomId, SfuId, TenantId, TrackId};
use roomreel_shared::ports::Appended;
use roomreel_shared::subject::{Address, Entry};
use roomreel_shared::time::RoomTime;

const BUFFER_BYTES: usize = 64 * 1024;

/// Batches and packets by their inclusive numbers, of what was sent or declared missing.
type Seen = BTreeMap<u64, (u64, u64, u64)>;

struct Sent {
    /// By incarnation.
    batches: BTreeMap<u64, Seen>,
    events: BTreeMap<u64, BTreeMap<u64, Bytes>>,
}

impl Sent {
    fn take(&mut self, send: &Send) {
        let payload = send.entry.payload.clone();
        match Address::parse(send.entry.subject.as_str()).expect("an own subject").entry {
            Entry::Media(_) => {
                let batch = RtpBatch::decode(payload).expect("an own batch");
                let seen = self.batches.entry(batch.incarnation.get()).or_default();
                let value = (batch.batch_no, batch.first_packet_no, batch.next_packet_no() - 1);
                let before = seen.insert(batch.batch_no, value);
                assert!(before.is_none_or(|before| before == value), "a number has one meaning");
            }
            Entry::Event => {
                let event = RoomEvent::decode(payload.clone()).expect("an own event");
                let before = self.events.entry(event.incarnation.get()).or_default().insert(event.event_no, payload);
                if let EventKind::PublisherGap(gap) = event.kind
                    && before.is_none()
                {
                    let seen = self.batches.entry(gap.incarnation.get()).or_default();
                    assert!(seen.range(gap.batches.0..=gap.batches.1).next().is_none(), "what is missing was not sent");
                    seen.insert(gap.batches.0, (gap.batches.1, gap.packets.0, gap.packets.1));
                }
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let limits = Limits {
        batch_age: Duration::from_millis(100),
        batch_bytes: 2048,
        buffer_bytes: BUFFER_BYTES,
        in_flight: 8,
        unrecorded_grace: Duration::from_secs(10),
        retry_min: Duration::from_millis(250),
        retry_max: Duration::from_secs(5),
        trace_every: 50,
    };
    let id = || (TenantId::new("acme").expect("valid"), SfuId::new("sfu").expect("valid"));
    let mut core = Core::new(limits, id().0, id().1, 4, StdRng::seed_from_u64(1));
    let mut now = Duration::ZERO;
    let mut in_flight = Vec::new();
    let mut sent = Sent { batches: BTreeMap::new(), events: BTreeMap::new() };
    let mut events_bytes = 0;
    let mut is_lied_to = false;
    let recording = |number: u8| RecordingId::new(format!("01r{number}")).expect("valid");
    let room = |number: u8| RoomId::new(["standup", "board"][usize::from(number % 2)]).expect("valid");
    let track = |number: u8| TrackId::new(["cam", "mic", "screen"][usize::from(number % 3)]).expect("valid");
    for piece in pieces(input) {
        let mut numbers = Numbers(piece);
        let op = numbers.byte();
        let (room, track) = (room(op >> 4), track(op >> 5));
        match op % 12 {
            0..=3 => {
                for _ in 0..=numbers.byte() % 16 {
                    let data = PacketData::Rtp(vec![7; usize::from(numbers.byte()) * 5].into());
                    core.accept_packet(now, &room, &track, RoomTime::default(), data).expect("short enough");
                }
            }
            4 => {
                let kind = match numbers.byte() % 4 {
                    0 => EventKind::RoomCreated {
                        room_name: String::new(),
                        host: None,
                        meeting_type: String::new(),
                        policy: None,
                    },
                    1 => EventKind::ProducerClosed { track, reason: String::new() },
                    2 => EventKind::RoomClosed { reason: String::new() },
                    _ => EventKind::PeerLeft {
                        peer: "amara".parse().expect("valid"),
                        reason: "x".repeat(usize::from(numbers.byte())),
                    },
                };
                let _ = core.accept_event(now, &room, RoomTime::default(), kind);
            }
            5 => {
                for _ in 0..=numbers.byte() % 16 {
                    let Some(send) = core.poll(now) else { break };
                    sent.take(&send);
                    in_flight.push(send.key);
                }
            }
            6 if !in_flight.is_empty() => {
                let key = in_flight.swap_remove(numbers.number() as usize % in_flight.len());
                core.on_appended(now, key, Appended { sequence: 1, duplicate: false });
            }
            7 if !in_flight.is_empty() => {
                let key = in_flight.swap_remove(numbers.number() as usize % in_flight.len());
                core.on_failed(now, key);
            }
            8 => {
                now += Duration::from_millis(numbers.number() % 100_000);
                core.on_time(now);
            }
            9 => {
                let starts = if op & 16 == 0 {
                    sent.batches.keys().copied().collect::<Vec<_>>()
                } else {
                    sent.events.keys().copied().collect()
                };
                let start = starts.get(usize::from(numbers.byte()) % starts.len().max(1)).copied().unwrap_or(1);
                let next = numbers.number();
                let known =
                    sent.batches.get(&start).and_then(|seen| seen.last_key_value()).map_or(0, |(_, last)| last.0);
                // What a watermark covers before it was sent is not sent.
                is_lied_to |= op & 16 == 0 && next > known + 1;
                core.on_watermark(&room, (op & 16 == 0).then_some(&track), start, next);
            }
            10 => {
                let start = sent.batches.keys().next().copied().unwrap_or(1);
                core.on_replay_request(
                    &room,
                    Some(&track),
                    start,
                    numbers.number()..=numbers.number(),
                    numbers.number() as u32,
                );
            }
            11 => core.on_recording_state(now, &room, &recording(numbers.byte()), op & 16 == 0),
            _ => {}
        }
        let stats = core.stats();
        events_bytes = events_bytes.max(stats.events as usize * 1024);
        // A batch that is being filled may go past the bound before it is judged, and events have a bound of their own.
        let bound = BUFFER_BYTES + 6 * 4096 + BUFFER_BYTES.max(events_bytes);
        assert!(stats.held_bytes as usize <= bound, "{} bytes are held", stats.held_bytes);
    }
    // The log takes everything in the end.
    core.close_batches();
    for _ in 0..100_000 {
        now += Duration::from_secs(1);
        core.on_time(now);
        while let Some(send) = core.poll(now) {
            sent.take(&send);
            in_flight.push(send.key);
        }
        for key in in_flight.drain(..) {
            core.on_appended(now, key, Appended { sequence: 1, duplicate: false });
        }
        if core.is_flushed() {
            break;
        }
    }
    assert!(core.is_flushed());
    if is_lied_to {
        return;
    }
    let stats = core.stats();
    let mut packets = 0;
    for seen in sent.batches.values() {
        let mut next = (0, 0);
        for (first_batch, (last_batch, first_packet, last_packet)) in seen {
            assert_eq!((*first_batch, *first_packet), next, "no hole in the numbers");
            next = (last_batch + 1, last_packet + 1);
        }
        packets += next.1;
    }
    assert_eq!(packets, stats.accepted_packets, "what was accepted was sent or declared missing");
});
