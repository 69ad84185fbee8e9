//! The publisher against a log in memory: faults of the log, the back channel, commands, and playing a source.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use prost::Message as _;
use roomreel_backends::memory::MemoryLog;
use roomreel_backends::memory::faults::{Fault, Operation, Script};
use roomreel_sfu::publisher::{Command, CommandError, Publisher, PublisherConfig, SfuCommands};
use roomreel_sfu::source::{Source, SourceItem, play};
use roomreel_shared::batch::{PacketData, RtpBatch};
use roomreel_shared::event::{EventKind, RoomEvent};
use roomreel_shared::id::{RoomId, SfuId, TenantId, TrackId};
use roomreel_shared::ports::{Bus as _, LogEntry};
use roomreel_shared::subject::{self, Address, Entry, Shard};
use roomreel_shared::time::RoomTime;
use roomreel_shared::wire;

fn tenant() -> TenantId {
    TenantId::new("acme").expect("valid")
}

fn sfu() -> SfuId {
    SfuId::new("sfu-1").expect("valid")
}

fn room() -> RoomId {
    RoomId::new("standup").expect("valid")
}

fn cam() -> TrackId {
    TrackId::new("cam").expect("valid")
}

fn start(log: &MemoryLog) -> Publisher {
    let log = Arc::new(log.clone());
    Publisher::start(log.clone(), log, PublisherConfig::new(tenant(), sfu(), 1))
}

fn entries(log: &MemoryLog) -> Vec<LogEntry> {
    log.entries(Shard::of(&tenant(), &room(), 1))
}

fn packet(number: u32) -> PacketData {
    PacketData::Rtp(number.to_be_bytes().repeat(200).into())
}

/// A hundred packets a second, an event every second, and the end.
struct Metronome {
    room: RoomId,
    next: i64,
    count: i64,
}

impl Iterator for Metronome {
    type Item = Result<(RoomTime, SourceItem), roomreel_sfu::source::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let number = self.next;
        self.next += 1;
        let item = if number < self.count {
            SourceItem::Packet { track: cam(), data: packet(number as u32) }
        } else if number == self.count {
            SourceItem::Event(EventKind::RoomClosed { reason: "ended".to_owned() })
        } else {
            return None;
        };
        Some(Ok((RoomTime::from_micros(number * 10_000), item)))
    }
}

impl Source for Metronome {
    fn room(&self) -> &RoomId {
        &self.room
    }

    fn duration(&self) -> Option<Duration> {
        Some(Duration::from_millis(10 * self.count.unsigned_abs()))
    }
}

fn packet_numbers(entries: &[LogEntry]) -> Vec<u64> {
    let mut numbers = Vec::new();
    for entry in entries {
        let address = Address::parse(&entry.subject).expect("a log subject");
        if address.entry == Entry::Media(cam()) {
            let batch = RtpBatch::decode(entry.payload.clone()).expect("a batch");
            numbers.extend(batch.first_packet_no..batch.next_packet_no());
        }
    }
    numbers
}

#[tokio::test(start_paused = true)]
async fn a_source_is_played_at_its_pace_and_ends_with_the_room() {
    for (speed, seconds) in [(1.0, 5.0), (4.0, 1.25), (0.0, 0.0)] {
        let log = MemoryLog::system();
        let publisher = start(&log);
        let source = Metronome { room: room(), next: 0, count: 500 };
        let begun = tokio::time::Instant::now();
        let mut reports = 0;
        let played = play(source, &publisher.room(room()), speed, |_| reports += 1).await;
        let took = begun.elapsed().as_secs_f64();
        publisher.flush().await.expect("the log takes everything");
        assert!((took - seconds).abs() < 0.5, "speed {speed} took {took} s");
        assert_eq!((played.progress.packets, played.progress.events, played.problem_count), (500, 1, 0));
        assert_eq!(played.progress.elapsed, Duration::from_secs(5));
        assert!(reports >= 1);
        let entries = entries(&log);
        assert!(packet_numbers(&entries).into_iter().eq(0..500), "in order, as nothing went wrong");
        let last = RoomEvent::decode(entries.last().expect("not empty").payload.clone());
        assert!(matches!(last, Ok(RoomEvent { kind: EventKind::RoomClosed { .. }, .. })));
    }
}

#[tokio::test(start_paused = true)]
async fn failed_appends_are_repeated_until_the_log_takes_them() {
    let script = Script::new();
    for _ in 0..5 {
        script.push(Operation::Append, Fault::FailBefore);
        script.push(Operation::Append, Fault::LoseAnswer);
    }
    let log = MemoryLog::system().with_faults(Arc::new(script.clone()));
    let publisher = start(&log);
    let room = publisher.room(room());
    for number in 0..200 {
        room.packet(&cam(), RoomTime::from_micros(i64::from(number)), packet(number)).expect("taken");
    }
    room.event(RoomTime::from_micros(200), EventKind::RoomClosed { reason: String::new() }).expect("taken");
    publisher.flush().await.expect("in the end the log takes everything");
    let mut numbers = packet_numbers(&entries(&log));
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..200), "each once: the retry has the same message id");
    assert!(publisher.stats().retries >= 5);
}

struct Recorder(tokio::sync::mpsc::UnboundedSender<Command>);

#[async_trait]
impl SfuCommands for Recorder {
    async fn perform(&self, room_id: &RoomId, command: Command) -> Result<(), CommandError> {
        assert_eq!(*room_id, room());
        self.0.send(command).expect("the test listens");
        Ok(())
    }
}

/// Repeats `action` until `done`: what the bus carries may be lost, as while the subscriptions are made.
async fn until<F: Future>(mut action: impl FnMut() -> F, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        action().await;
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it was not done within ten seconds");
}

#[test]
fn the_shards_of_the_contract_are_those_of_the_code() {
    let contract = include_str!("../../../docs/sfu-contract.md");
    for (tenant, room) in [("acme", "standup"), ("acme", "all.hands"), ("default", "standup"), ("Zoë", "会議")] {
        let (tenant, room) = (TenantId::new(tenant).expect("valid"), RoomId::new(room).expect("valid"));
        let [of_4, of_16] = [4, 16].map(|shards| Shard::of(&tenant, &room, shards).number());
        let line =
            contract.lines().find(|line| line.starts_with(&format!("| `{}` | `{}` |", tenant.token(), room.token())));
        let line = line.expect("the contract has this room");
        assert!(line.ends_with(&format!("| {of_4} | {of_16} |")), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_back_channel_keeps_replays_and_releases() {
    let log = MemoryLog::system();
    let publisher = start(&log);
    let handle = publisher.room(room());
    handle.packet(&cam(), RoomTime::from_micros(1), packet(1)).expect("taken");
    publisher.flush().await.expect("the log takes everything");
    let batch = RtpBatch::decode(entries(&log)[0].payload.clone()).expect("a batch");
    let incarnation = batch.incarnation.get();
    let say = |message: wire::back_channel::Message| {
        let log = log.clone();
        let message = wire::BackChannel { room_id: "standup".to_owned(), message: Some(message) };
        let subject = subject::back_channel(&tenant(), &sfu(), &room());
        async move { log.publish(&subject, message.encode_to_vec().into()).await.expect("sent") }
    };
    use wire::back_channel::Message as M;
    let mut attempt = 0;
    let replay = || {
        attempt += 1;
        let missing = vec![wire::NumberRange { first: 0, last: 9 }];
        say(M::ReplayRequest(wire::ReplayRequest { track_id: "cam".to_owned(), incarnation, missing, attempt }))
    };
    until(replay, || entries(&log).len() >= 2).await;
    assert_eq!(entries(&log)[1].payload, entries(&log)[0].payload);
    let state = wire::RecordingState { active: true, recording_id: "01r".to_owned() };
    say(M::RecordingState(state)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(publisher.stats().held_messages, 1, "the recording may still ask for it");
    assert!(!publisher.settle(Duration::from_secs(5)).await);
    let mark = wire::TrackWatermark { track_id: "cam".to_owned(), incarnation, next_batch_no: 1 };
    let watermark = || {
        say(M::Watermark(wire::Watermark {
            recording_id: "01r".to_owned(),
            tracks: vec![mark.clone()],
            ..Default::default()
        }))
    };
    until(watermark, || publisher.stats().held_messages == 0).await;
    assert!(publisher.settle(Duration::from_secs(5)).await);
}

#[tokio::test(start_paused = true)]
async fn commands_are_performed_and_answered_and_heartbeats_come() {
    let log = MemoryLog::system();
    let (sender, mut performed) = tokio::sync::mpsc::unbounded_channel();
    let shared = Arc::new(log.clone());
    let mut heartbeats = log.subscribe(&subject::registry_filter()).await.expect("subscribed");
    let config = PublisherConfig::new(tenant(), sfu(), 1);
    let publisher = Publisher::start_with(shared.clone(), shared, config, Arc::new(Recorder(sender)));
    publisher.room(room()).packet(&cam(), RoomTime::default(), packet(0)).expect("taken");
    let heartbeat = loop {
        let message = heartbeats.next().await.expect("it goes on");
        let heartbeat = wire::SfuHeartbeat::decode(message.payload).expect("a heartbeat");
        if !heartbeat.room_ids.is_empty() {
            break heartbeat;
        }
    };
    assert_eq!((heartbeat.sfu_id.as_str(), heartbeat.room_ids), ("sfu-1", vec!["standup".to_owned()]));

    let ask = |command: Option<wire::sfu_command::Command>| {
        let command = wire::SfuCommand { room_id: "standup".to_owned(), request_id: "7".to_owned(), command };
        let log = log.clone();
        async move {
            let subject = subject::command(&tenant(), &sfu());
            let reply = log.request(&subject, command.encode_to_vec().into(), Duration::from_secs(2)).await;
            wire::SfuCommandReply::decode(reply.expect("answered")).expect("a reply")
        }
    };
    let keyframe = wire::RequestKeyframe { track_id: "cam".to_owned(), ssrc: 0 };
    let reply = ask(Some(wire::sfu_command::Command::RequestKeyframe(keyframe))).await;
    assert!(reply.success && reply.request_id == "7");
    assert_eq!(performed.recv().await, Some(Command::RequestKeyframe { track: cam(), ssrc: None }));
    let reply = ask(None).await;
    assert_eq!((reply.success, reply.error.map(|error| error.code)), (false, Some(1002)));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_not_there_costs_a_bounded_wait_and_says_so() {
    let gone = |operation: Operation, _: &str| (operation == Operation::Append).then_some(Fault::FailBefore);
    let log = MemoryLog::system().with_faults(Arc::new(gone));
    let publisher = start(&log);
    publisher.room(room()).packet(&cam(), RoomTime::default(), packet(0)).expect("taken");
    let error = publisher.flush().await.expect_err("nothing was taken");
    assert_eq!(error.to_string(), "1 messages are not acknowledged by the log after 30s; is the broker reachable?");
    assert!(entries(&log).is_empty());
}
