//! A room's log as hostile as it may be, folded: nothing panics, and what is stored keeps I1 (no packet twice), I2 (windows
//! follow each other), I3 (the same log makes the same windows, wherever the writer crashed) and I4 (nothing of other rooms).
#![no_main]

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use roomreel_fuzz::{Numbers, pieces};
use roomreel_ingest::FoldConfig;
use roomreel_ingest::fold::{Fold, FoldOutput};
use roomreel_ingest::room::Identity;
use roomreel_shared::batch::{Incarnation, Packet, PacketData, RtpBatch};
use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::event::{
    Codec, CodecParameters, EventKind, EventRef, Producer, PublisherGap, RoomEvent, StopReason,
};
use roomreel_shared::id::{PeerId, RecordingId, RoomId, SfuId, TenantId, TrackId};
use roomreel_shared::policy::{Policy, TrackKind};
use roomreel_shared::ports::LogEntry;
use roomreel_shared::rtp::PayloadType;
use roomreel_shared::subject::{Address, Entry, Shard, Writer};
use roomreel_shared::time::{LogTime, RoomTime};
use roomreel_shared::verify::{Area, Checker};
use roomreel_shared::window::{self, Hash, Header, Window};
use roomreel_shared::wire;

const IDENTITY: Identity = Identity { epoch: 3, nonce: 4 };
/// Starts of a publisher that are told apart for certain: of more than the fold remembers, the oldest may come twice.
const REMEMBERED_STARTS: usize = 16;

fn tenant() -> TenantId {
    TenantId::new("acme").expect("valid")
}

fn room() -> RoomId {
    RoomId::new("standup").expect("valid")
}

fn recording() -> RecordingId {
    RecordingId::new("01r").expect("valid")
}

fn track(number: u8) -> TrackId {
    TrackId::new(["cam", "mic", "screen", "mystery"][usize::from(number % 4)]).expect("valid")
}

fn incarnation(number: u64) -> Incarnation {
    Incarnation::new(number.max(1)).expect("not 0")
}

/// A start of a track's publisher: no two tracks have one, or the log would take their batches for copies.
fn start_of(track: u8, start: u8) -> Incarnation {
    incarnation(u64::from(track % 4) * 4 + u64::from(start % 4))
}

fn spec(flags: u8) -> FoldSpec {
    FoldSpec {
        tenant: tenant(),
        room: room(),
        recording: recording(),
        shards: 4,
        from: (flags & 1 != 0).then_some(EventRef { incarnation: 1, event_no: 0 }),
        session: None,
        beginning: None,
        start_sequence: 1,
        window_ms: 1000,
        policy: Policy { record_audio: flags & 2 == 0, ..Policy::default() },
        epoch_base: 0,
    }
}

fn config(flags: u8) -> FoldConfig {
    let small = FoldConfig { held_batches: 8, held_bytes: 4096, ..FoldConfig::default() };
    if flags & 4 != 0 { small } else { FoldConfig::default() }
}

fn kind(numbers: &mut Numbers<'_>) -> EventKind {
    let command = |numbers: &mut Numbers<'_>| (recording(), format!("{}", numbers.byte() % 8), String::new());
    match numbers.byte() % 16 {
        0 => EventKind::RoomCreated { room_name: String::new(), host: None, meeting_type: String::new(), policy: None },
        1 => EventKind::RoomClosed { reason: String::new() },
        2 => EventKind::RoomPolicyUpdated {
            policy: Policy { record_video: numbers.byte() & 1 == 0, ..Policy::default() },
        },
        3 | 4 => {
            let number = numbers.byte();
            EventKind::ProducerCreated(Producer {
                track: track(number),
                peer: PeerId::new("amara").expect("valid"),
                kind: if number & 1 == 0 { TrackKind::Video } else { TrackKind::Audio },
                is_audio: number & 1 != 0,
                codecs: vec![CodecParameters {
                    payload_type: PayloadType(96),
                    codec: [Codec::Vp8, Codec::Opus, Codec::H264, Codec::Rtx][usize::from(number / 4 % 4)].clone(),
                    clock_rate: 90_000,
                    channels: 0,
                    fmtp: String::new(),
                }],
                encodings: Vec::new(),
                header_extensions: Vec::new(),
            })
        }
        5 => EventKind::ProducerClosed { track: track(numbers.byte()), reason: String::new() },
        6 => EventKind::ProducerPaused { track: track(numbers.byte()) },
        7 | 8 => {
            let of = numbers.byte();
            EventKind::PublisherGap(PublisherGap {
                track: track(of),
                incarnation: start_of(of, numbers.byte()),
                packets: (numbers.number(), numbers.number()),
                batches: (numbers.number(), numbers.number()),
                reason: String::new(),
            })
        }
        9 => {
            let (recording, command, requested_by) = command(numbers);
            EventKind::RecordingStarted { recording, command, requested_by, from: None }
        }
        10 => {
            let (recording, command, requested_by) = command(numbers);
            let reason = if command == "0" { StopReason::Idle } else { StopReason::Requested };
            EventKind::RecordingStopped { recording, command, requested_by, reason }
        }
        11 => {
            let (recording, command, requested_by) = command(numbers);
            EventKind::RecordingPaused { recording, command, requested_by }
        }
        12 => {
            let (recording, command, requested_by) = command(numbers);
            EventKind::RecordingResumed { recording, command, requested_by }
        }
        13 => EventKind::PeerJoined {
            peer: PeerId::new("amara").expect("valid"),
            display_name: String::new(),
            is_host: true,
            is_co_host: false,
            is_panelist: false,
        },
        14 => EventKind::ActiveSpeaker { peer: None, level: 7 },
        _ => EventKind::Tick,
    }
}

/// The next number of a numbering, mostly; else one nearby or anywhere.
fn choose(next: &mut u64, numbers: &mut Numbers<'_>) -> u64 {
    let chosen = match numbers.byte() {
        0..=199 => *next,
        200..=219 => next.saturating_sub(1 + u64::from(numbers.byte() % 8)),
        220..=244 => next.saturating_add(1 + u64::from(numbers.byte() % 8)),
        _ => numbers.number(),
    };
    *next = (*next).max(chosen.saturating_add(1)).min(u64::MAX - 1);
    chosen
}

fn entries(input: &[u8]) -> Vec<LogEntry> {
    let mut entries: Vec<LogEntry> = Vec::new();
    let mut time = 1_700_000_000_000_000_i64;
    let mut events = [[0_u64; 4]; 2];
    let mut batches = [[(0_u64, 0_u64); 4]; 4];
    for piece in pieces(input) {
        let mut numbers = Numbers(piece);
        let op = numbers.byte();
        let step = match op >> 6 {
            0 => 0,
            1 => 20_000,
            2 => 700_000,
            _ => (numbers.number() % 100_000_000).cast_signed() * 1000 - 5_000_000,
        };
        time = time.saturating_add(step);
        let room_time = RoomTime::from_micros(time.wrapping_sub(7_000_000_000));
        let address = |writer, entry| Address {
            shard: Shard::of(&tenant(), &room(), 4),
            tenant: tenant(),
            writer,
            room: room(),
            entry,
        };
        let sfu = Writer::Sfu(SfuId::new("sfu").expect("valid"));
        let (subject, payload) = match op % 16 {
            0..=6 => {
                let (of, start) = (numbers.byte(), numbers.byte());
                let (next_batch, next_packet) = &mut batches[usize::from(of % 4)][usize::from(start % 4)];
                let batch_no = choose(next_batch, &mut numbers);
                let count = u64::from(numbers.byte() % 5);
                let first_packet_no = choose(next_packet, &mut numbers);
                *next_packet = next_packet.saturating_add(count.saturating_sub(1)).min(u64::MAX - 1);
                let packets = (0..count)
                    .map(|i| {
                        let sequence = (first_packet_no.wrapping_add(i)) as u16;
                        let sequence = if numbers.byte() > 240 { u16::from(numbers.byte()) << 8 } else { sequence };
                        let mut bytes = vec![0x80, 96];
                        bytes.extend(sequence.to_be_bytes());
                        bytes.extend((first_packet_no as u32).to_be_bytes());
                        bytes.extend(u32::from(numbers.byte() % 3).to_be_bytes());
                        bytes.extend([0x10, 0, 0]);
                        let data = match numbers.byte() {
                            255 => PacketData::Rtp(Bytes::copy_from_slice(numbers.0)),
                            254 => PacketData::Rtcp(Bytes::copy_from_slice(numbers.0)),
                            _ => PacketData::Rtp(bytes.into()),
                        };
                        Packet { time: room_time, data }
                    })
                    .collect();
                let batch = RtpBatch {
                    room: room(),
                    track: track(of),
                    incarnation: start_of(of, start),
                    batch_no,
                    first_packet_no,
                    packets,
                };
                (address(sfu, Entry::Media(track(of))).subject().to_string(), batch.encode())
            }
            7..=12 => {
                let is_control = op % 16 > 9;
                let start = numbers.byte() % 4;
                let event_no = choose(&mut events[usize::from(is_control)][usize::from(start)], &mut numbers);
                let incarnation = incarnation(start.into());
                let kind = kind(&mut numbers);
                let event = RoomEvent { room: room(), incarnation, event_no, time: room_time, kind };
                let writer = if is_control { Writer::Control } else { sfu };
                (address(writer, Entry::Event).subject().to_string(), event.encode())
            }
            13 => (address(sfu, Entry::Media(track(0))).subject().to_string(), Bytes::copy_from_slice(numbers.0)),
            14 => (address(sfu, Entry::Event).subject().to_string(), Bytes::copy_from_slice(numbers.0)),
            _ => (String::from_utf8_lossy(numbers.0).into_owned(), Bytes::new()),
        };
        let sequence = entries.len() as u64 + 1;
        let entry = LogEntry { sequence, time: LogTime::from_micros(time), subject, trace_parent: None, payload };
        entries.push(entry);
    }
    entries
}

/// Folds; after every window, if `crashes`, begins again from it alone.
fn fold(flags: u8, entries: &[LogEntry], crashes: bool) -> Vec<Bytes> {
    let mut objects = Vec::new();
    let mut fold = Fold::new(spec(flags), IDENTITY, config(flags));
    let mut at = 0;
    while at < entries.len() {
        let before = objects.len();
        for output in fold.on_entry(entries[at].clone()) {
            if let FoldOutput::Commit(window) = output {
                objects.push(window.object.joined());
            }
        }
        at += 1;
        if crashes && objects.len() > before {
            let last = Window::parse(objects[objects.len() - 1].clone()).expect("an own window can be read");
            fold =
                Fold::resume(spec(flags), IDENTITY, config(flags), &last).expect("an own window can be gone on from");
            let position = fold.room().position();
            at = entries.iter().position(|entry| entry.sequence >= position).unwrap_or(entries.len());
        }
    }
    objects
}

/// Numberings whose batches do not fit together, in the publisher's own words: which packet stands where is not known of them.
fn contradictory(entries: &[LogEntry]) -> BTreeSet<(TrackId, Incarnation)> {
    let mut batches = BTreeMap::new();
    for batch in entries.iter().filter_map(|entry| RtpBatch::decode(entry.payload.clone()).ok()) {
        let of: &mut BTreeMap<_, BTreeSet<_>> = batches.entry((batch.track.clone(), batch.incarnation)).or_default();
        of.entry(batch.batch_no).or_default().insert((batch.first_packet_no, batch.next_packet_no()));
    }
    let contradicts = |of: &BTreeMap<u64, BTreeSet<(u64, u64)>>| {
        let mut next = 0;
        of.values().any(|packets| {
            let (first, end) = packets.first().copied().unwrap_or_default();
            let fits = packets.len() == 1 && first >= next;
            next = end;
            !fits
        })
    };
    batches.into_iter().filter(|(_, of)| contradicts(of)).map(|(numbering, _)| numbering).collect()
}

/// Whether the publisher says that it dropped what it sent: which of the two is heard first decides.
fn drops_what_it_sent(entries: &[LogEntry]) -> bool {
    let decode = |entry: &LogEntry| RtpBatch::decode(entry.payload.clone()).ok();
    let sent: BTreeSet<_> = entries.iter().filter_map(decode).map(|b| (b.track, b.incarnation, b.batch_no)).collect();
    entries.iter().any(|entry| {
        let Ok(RoomEvent { kind: EventKind::PublisherGap(gap), .. }) = RoomEvent::decode(entry.payload.clone()) else {
            return false;
        };
        let PublisherGap { track, incarnation, batches: (first, last), .. } = gap;
        first <= last && sent.range((track.clone(), incarnation, first)..=(track, incarnation, last)).next().is_some()
    })
}

fn check(objects: &[Bytes], entries: &[LogEntry]) {
    let contradictory = contradictory(entries);
    let mut checker = Checker::new(tenant(), room(), recording());
    let (mut packets, mut batches) = (BTreeSet::new(), BTreeSet::new());
    let mut starts = BTreeSet::new();
    let mut twice = None;
    let mut before: Option<Window> = None;
    for (number, object) in (0..).zip(objects) {
        checker.window(number, object.clone());
        let window = Window::parse(object.clone()).expect("an own window can be read");
        assert_eq!(window.header.window, number, "I2");
        assert_eq!(window.header.previous, before.as_ref().map(Window::hash), "I2");
        assert!(
            before.as_ref().is_none_or(
                |before| before.header.log_span.1 == window.header.log_span.0 && before.header.end.is_none()
            ),
            "I2"
        );
        for segment in &window.segments {
            for stored in window.batches(segment).expect("whole") {
                let batch = stored.expect("whole").batch;
                assert_eq!((&batch.room, &batch.track), (&room(), &segment.key.track), "I4");
                let numbering = (batch.track.clone(), batch.incarnation);
                if !batches.insert((numbering.clone(), batch.batch_no)) {
                    twice = Some((batch.track.clone(), batch.incarnation, batch.first_packet_no));
                }
                let is_known = !contradictory.contains(&numbering);
                starts.insert(numbering);
                for packet_no in batch.first_packet_no..batch.next_packet_no() {
                    if !packets.insert((batch.track.clone(), batch.incarnation, packet_no)) && is_known {
                        twice = Some((batch.track.clone(), batch.incarnation, packet_no));
                    }
                }
            }
        }
        before = Some(window);
    }
    if starts.len() <= REMEMBERED_STARTS {
        assert_eq!(twice, None, "I1");
    }
    let verdict = checker.finish();
    let broken = |area| area == Area::Window || area == Area::Segment && contradictory.is_empty();
    assert!(!verdict.findings.iter().any(|finding| broken(finding.area)), "{:?}", verdict.findings);
    let logged: usize = entries.iter().map(|entry| entry.payload.len() + 64).sum();
    let stored: usize = objects.iter().map(Bytes::len).sum();
    // Each window carries over what the log ever said of commands, tracks and people.
    assert!(stored <= (logged + 4096) * (objects.len() + 1), "{stored} bytes of {logged}");
}

/// Goes on from a window whose carry-over is whatever the input says.
fn resume(flags: u8, carry: &[u8], entries: &[LogEntry]) {
    let Ok(carry_over) = wire::CarryOver::decode(carry) else { return };
    let header = Header {
        tenant: tenant(),
        room: room(),
        recording: recording(),
        window: 7,
        epoch: 1,
        nonce: 1,
        previous: Some(Hash::of(b"before")),
        log_span: (LogTime::from_micros(1_699_999_999_000_000), LogTime::from_micros(1_700_000_000_000_000)),
        room_start: RoomTime::default(),
        room_seen: RoomTime::default(),
        window_duration_us: 1_000_000,
        gaps: Vec::new(),
        carry_over,
        end: None,
        trace_parent: None,
    };
    let last = Window::parse(window::encode(&header, &[], &[])).expect("an own window can be read");
    if let Ok(mut fold) = Fold::resume(spec(flags), IDENTITY, config(flags), &last) {
        for entry in entries {
            let entry = LogEntry { sequence: entry.sequence.wrapping_add(fold.room().position()), ..entry.clone() };
            for output in fold.on_entry(entry) {
                if let FoldOutput::Commit(window) = output {
                    Window::parse(window.object.joined()).expect("an own window can be read");
                }
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let Some((&flags, input)) = input.split_first() else { return };
    if flags & 8 != 0 {
        let Some((&length, input)) = input.split_first() else { return };
        let (carry, input) = input.split_at(usize::from(length).min(input.len()));
        return resume(flags, carry, &entries(input));
    }
    let entries = entries(input);
    let whole = fold(flags, &entries, false);
    check(&whole, &entries);
    if !drops_what_it_sent(&entries) {
        assert_eq!(fold(flags, &entries, true), whole, "I3");
    }
});
