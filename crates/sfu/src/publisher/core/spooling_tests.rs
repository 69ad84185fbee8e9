//! The core with a spool on a real disk: outages that memory does not hold, and processes that die.

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use roomreel_shared::batch::{PacketData, RtpBatch};
use roomreel_shared::event::RoomEvent;
use roomreel_shared::id::{RecordingId, RoomId, SfuId, TenantId, TrackId};
use roomreel_shared::ports::Appended;

use super::super::{Limits, Send};
use super::*;
use crate::publisher::spool::{Files, SpoolConfig};
use std::time::Duration;

const BUFFER_BYTES: usize = 200_000;

/// A process: a core and the spool's files, run in one thread.
struct Process {
    core: Core,
    files: Files,
    now: Duration,
}

fn room() -> RoomId {
    RoomId::new("standup").expect("valid")
}

fn recording() -> RecordingId {
    RecordingId::new("01r").expect("valid")
}

impl Process {
    fn start(dir: &Path, max_bytes: u64, seed: u64) -> Self {
        let (tenant, sfu) = (TenantId::new("acme").expect("valid"), SfuId::new("sfu-1").expect("valid"));
        let limits = Limits {
            batch_age: Duration::from_millis(100),
            batch_bytes: 4000,
            buffer_bytes: BUFFER_BYTES,
            in_flight: 8,
            unrecorded_grace: Duration::from_secs(10),
            retry_min: Duration::from_millis(250),
            retry_max: Duration::from_secs(5),
            trace_every: 0,
        };
        let config = SpoolConfig { dir: dir.to_owned(), max_bytes };
        let (files, recovered) = Files::open(&config, &tenant, &sfu).expect("opens");
        let mut core = Core::new(limits, tenant, sfu, 4, StdRng::seed_from_u64(seed));
        core.use_spool();
        core.recover(recovered);
        Self { core, files, now: Duration::ZERO }
    }

    /// What the spool's thread does.
    fn spool(&mut self) {
        while let Some(job) = self.core.next_job() {
            match job {
                Job::Write { key, is_batch, payload } => match self.files.append(is_batch, &payload) {
                    Ok(place) => self.core.on_spooled(key, place),
                    Err(_) => self.core.on_not_spooled(key),
                },
                Job::Read { key, place } => {
                    let read = self.files.read(place).ok();
                    self.core.on_read(key, read);
                }
                Job::Forget { incarnation, numbers, places } => self.files.forget(incarnation, numbers, &places),
            }
        }
    }

    fn packets(&mut self, track: &str, count: usize) {
        let track = TrackId::new(track).expect("valid");
        for _ in 0..count {
            let data = PacketData::Rtp(vec![7; 1000].into());
            self.core.accept_packet(self.now, &room(), &track, RoomTime::from_micros(1), data).expect("short enough");
            self.spool();
        }
    }

    /// The log takes everything.
    fn drain(&mut self, log: &mut Vec<Send>) {
        self.core.close_batches();
        for _ in 0..10_000 {
            self.spool();
            let sent: Vec<Send> = std::iter::from_fn(|| self.core.poll(self.now)).collect();
            for send in sent {
                self.core.on_appended(self.now, send.key, Appended { sequence: 1, duplicate: false });
                log.push(send);
            }
            self.now += Duration::from_millis(100);
            self.core.on_time(self.now);
            if self.core.is_flushed() {
                return;
            }
        }
        panic!("not flushed: {:?}", self.core.stats());
    }
}

fn batches(log: &[Send]) -> Vec<RtpBatch> {
    let media = log.iter().filter(|send| send.entry.subject.as_str().contains(".media."));
    media.map(|send| RtpBatch::decode(send.entry.payload.clone()).expect("a batch")).collect()
}

fn created() -> EventKind {
    EventKind::RoomCreated { room_name: String::new(), host: None, meeting_type: String::new(), policy: None }
}

#[test]
fn an_outage_larger_than_memory_loses_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut process = Process::start(dir.path(), 1 << 30, 1);
    process.packets("cam", 1800);
    let stats = process.core.stats();
    assert_eq!(stats.dropped_packets, 0);
    assert!(stats.unloaded > 400 && stats.held_bytes as usize <= BUFFER_BYTES + 4096, "{stats:?}");
    let mut log = Vec::new();
    process.drain(&mut log);
    // The open batch may overtake one that is still being read from the disk; the fold goes by their numbers.
    let mut numbers: Vec<u64> = batches(&log).iter().map(|batch| batch.batch_no).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
    assert_eq!(batches(&log).iter().map(|batch| batch.packets.len()).sum::<usize>(), 1800);
}

#[test]
fn without_a_place_in_the_spool_the_newest_is_dropped_and_declared() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut process = Process::start(dir.path(), 500_000, 1);
    process.packets("cam", 3000);
    let stats = process.core.stats();
    assert!(stats.dropped_packets > 0 && stats.not_spooled > 0, "{stats:?}");
    assert!(stats.held_bytes as usize <= BUFFER_BYTES + 8192, "{stats:?}");
    let mut log = Vec::new();
    process.drain(&mut log);
    let sent: usize = batches(&log).iter().map(|batch| batch.packets.len()).sum();
    let stats = process.core.stats();
    assert_eq!(sent as u64 + stats.dropped_packets, 3000);
    assert!(sent > 500 && stats.gaps > 0, "{sent} of 3000 were kept");
}

#[test]
fn a_process_that_begins_anew_publishes_what_is_not_durable_under_its_old_numbers() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut log = Vec::new();
    let incarnation = {
        let mut process = Process::start(dir.path(), 1 << 30, 1);
        process.core.accept_event(process.now, &room(), RoomTime::default(), created()).expect("taken");
        process.packets("cam", 300);
        process.drain(&mut log);
        process.core.on_recording_state(process.now, &room(), &recording(), true);
        let incarnation = batches(&log)[0].incarnation.get();
        process.core.on_watermark(&room(), Some(&TrackId::new("cam").expect("valid")), incarnation, 40);
        process.packets("cam", 300);
        process.core.close_batches();
        process.spool();
        incarnation
    };
    let all = 200;
    let mut process = Process::start(dir.path(), 1 << 30, 2);
    assert_eq!(process.core.rooms().count(), 0, "nobody publishes the room now");
    process.core.accept_event(process.now, &room(), RoomTime::default(), created()).expect("taken");
    process.packets("cam", 30);
    let mut again = Vec::new();
    process.drain(&mut again);
    let numbers = |of_old: bool| -> Vec<u64> {
        let of = |batch: &&RtpBatch| (batch.incarnation.get() == incarnation) == of_old;
        batches(&again).iter().filter(of).map(|batch| batch.batch_no).collect()
    };
    assert_eq!(numbers(true), (40..all).collect::<Vec<_>>(), "all above the watermark, in order");
    assert_eq!(numbers(false), (0..10).collect::<Vec<_>>(), "new media has numbers of its own");
    let first = again.iter().find(|send| send.entry.subject.as_str().contains(".media.")).expect("there is media");
    assert_eq!(first.entry.message_id, roomreel_shared::batch::message_id(batches(&again)[0].incarnation, 40));
    // A replay of an old number is answered from the disk, and a watermark lets it go.
    let cam = TrackId::new("cam").expect("valid");
    process.core.on_recording_state(process.now, &room(), &recording(), true);
    process.core.on_replay_request(&room(), Some(&cam), incarnation, 100..=101, 3);
    let mut replayed = Vec::new();
    process.drain(&mut replayed);
    assert!(process.core.poll(process.now).is_none());
    process.core.on_watermark(&room(), Some(&cam), incarnation, all);
    process.spool();
    drop(process);
    let left = Process::start(dir.path(), 1 << 30, 3);
    assert!(
        left.core.messages.values().all(|message| message.incarnation.get() != incarnation || message.track.is_none())
    );
}

#[test]
fn what_a_watermark_passes_over_is_still_in_the_spool() {
    let dir = tempfile::tempdir().expect("a directory");
    let cam = TrackId::new("cam").expect("valid");
    {
        let mut process = Process::start(dir.path(), 1 << 30, 1);
        process.packets("cam", 15);
        process.core.close_batches();
        process.spool();
        let sends: Vec<Send> = std::iter::from_fn(|| process.core.poll(process.now)).collect();
        for (number, send) in sends.iter().enumerate() {
            if number == 2 {
                process.core.on_failed(process.now, send.key);
            } else {
                process.core.on_appended(process.now, send.key, Appended { sequence: 1, duplicate: false });
            }
        }
        let incarnation = batches(&sends)[0].incarnation.get();
        process.core.on_watermark(&room(), Some(&cam), incarnation, 5);
        process.spool();
    }
    let mut process = Process::start(dir.path(), 1 << 30, 2);
    let mut log = Vec::new();
    process.drain(&mut log);
    assert_eq!(batches(&log).iter().map(|batch| batch.batch_no).collect::<Vec<_>>(), [2]);
}

#[test]
fn the_end_of_a_room_is_published_behind_what_it_ends() {
    let dir = tempfile::tempdir().expect("a directory");
    {
        let mut process = Process::start(dir.path(), 1 << 30, 1);
        process.core.accept_event(process.now, &room(), RoomTime::default(), created()).expect("taken");
        process.packets("cam", 100);
        let closed = EventKind::RoomClosed { reason: String::new() };
        process.core.accept_event(process.now, &room(), RoomTime::default(), closed).expect("taken");
        process.spool();
    }
    let mut process = Process::start(dir.path(), 1 << 30, 2);
    let mut log = Vec::new();
    process.drain(&mut log);
    assert_eq!(batches(&log).len(), 34);
    let last = RoomEvent::decode(log.last().expect("sent").entry.payload.clone()).expect("an event");
    assert!(matches!(last.kind, EventKind::RoomClosed { .. }));
}

#[test]
fn what_the_spool_cannot_give_any_more_is_declared() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut process = Process::start(dir.path(), 1 << 30, 1);
    process.packets("cam", 1000);
    for entry in std::fs::read_dir(dir.path()).expect("there") {
        let path = entry.expect("readable").path();
        let length = path.metadata().expect("there").len();
        std::fs::File::options().write(true).open(path).expect("there").set_len(length / 2).expect("cut");
    }
    let mut log = Vec::new();
    process.drain(&mut log);
    let sent: usize = batches(&log).iter().map(|batch| batch.packets.len()).sum();
    let declared: u64 = log
        .iter()
        .filter(|send| !send.entry.subject.as_str().contains(".media."))
        .filter_map(|send| match RoomEvent::decode(send.entry.payload.clone()).expect("an event").kind {
            EventKind::PublisherGap(gap) => Some(gap.packets.1 - gap.packets.0 + 1),
            _ => None,
        })
        .sum();
    assert!(declared > 0);
    assert_eq!(sent as u64 + declared, 1000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_batch_that_was_made_is_sent_whenever_the_process_dies(
        lives in proptest::collection::vec(
            proptest::collection::vec((0_u8..6, 1_usize..120), 1..12), 1..4),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        let mut log = Vec::new();
        let mut accepted = 0;
        for (life, steps) in lives.iter().enumerate() {
            let mut process = Process::start(dir.path(), 1 << 30, life as u64);
            for (step, count) in steps {
                match step {
                    0..=2 => process.packets(if *step == 0 { "mic" } else { "cam" }, *count),
                    3 => {
                        let sent: Vec<Send> = std::iter::from_fn(|| process.core.poll(process.now)).collect();
                        for (i, send) in sent.into_iter().enumerate() {
                            if (i + count) % 3 == 0 {
                                process.core.on_failed(process.now, send.key);
                            } else {
                                process.core.on_appended(process.now, send.key, Appended { sequence: 1, duplicate: false });
                                log.push(send);
                            }
                        }
                    }
                    4 => process.now += Duration::from_millis(*count as u64 * 10),
                    _ => process.core.on_time(process.now),
                }
                process.spool();
            }
            // What a process was still filling is not in the spool.
            process.core.close_batches();
            process.spool();
            accepted += process.core.stats().accepted_packets;
            prop_assert_eq!(process.core.stats().dropped_packets, 0);
        }
        let mut last = Process::start(dir.path(), 1 << 30, 99);
        last.drain(&mut log);
        let mut packets = BTreeSet::new();
        for batch in batches(&log) {
            packets.extend((batch.first_packet_no..batch.next_packet_no()).map(|no| (batch.incarnation, no)));
        }
        prop_assert_eq!(packets.len() as u64, accepted);
    }
}
