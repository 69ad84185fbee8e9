//! The log and the bus.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use roomreel_backends::memory::MemoryLog;
use roomreel_backends::memory::faults::{Fault, Operation, Script};
use roomreel_backends::nats::{Nats, NatsConfig};
use roomreel_backends::secret::Secret;
use roomreel_shared::id::{RoomId, SfuId, TenantId};
use roomreel_shared::ports::{Bus, LogError, NewEntry, RoomLog};
use roomreel_shared::subject::{self, Address, Entry, Shard, Writer};
use roomreel_tests::servers::NatsServer;

use crate::{PATIENCE, next};

const SHARDS: u32 = 2;
const SHARD_BYTES: usize = 4 * 1024 * 1024;

fn tenant() -> TenantId {
    TenantId::new("acme").expect("valid")
}

fn room(name: &str) -> RoomId {
    RoomId::new(name).expect("valid")
}

fn address(name: &str) -> Address {
    let shard = Shard::of(&tenant(), &room(name), SHARDS);
    let writer = Writer::Sfu(SfuId::new("sfu").expect("valid"));
    Address { shard, tenant: tenant(), writer, room: room(name), entry: Entry::Event }
}

fn entry(name: &str, id: &str, payload: impl Into<Bytes>) -> NewEntry {
    NewEntry {
        subject: address(name).subject(),
        message_id: id.to_owned(),
        trace_parent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()),
        payload: payload.into(),
    }
}

async fn contract(log: &(impl RoomLog + Bus)) {
    appends_are_stored_once_and_read_in_order(log).await;
    a_reader_sees_its_filter_only_and_goes_on(log).await;
    requests_are_answered(log).await;
    a_full_log_refuses_and_keeps_what_it_has(log).await;
}

async fn appends_are_stored_once_and_read_in_order(log: &impl RoomLog) {
    let shard = address("a").shard;
    assert_eq!(log.last_sequence(shard).await.expect("asked"), 0);
    let mut sequences = Vec::new();
    for number in 0..5 {
        let new = entry("a", &format!("a:{number}"), number.to_string());
        let appended = log.append(new.clone()).await.expect("stored");
        assert!(!appended.duplicate);
        let again = log.append(new).await.expect("answered");
        assert!(again.duplicate && again.sequence == appended.sequence, "{again:?} after {appended:?}");
        sequences.push(appended.sequence);
    }
    assert_eq!(log.last_sequence(shard).await.expect("asked"), sequences[4]);
    // From the middle on: the position is the reader's.
    let filter = subject::room_filter(shard, &tenant(), &room("a"));
    for (from, first) in [(0, 0), (sequences[3], 3)] {
        let mut entries = log.read(shard, &filter, from).await.expect("opened");
        for (number, sequence) in sequences.iter().enumerate().skip(first) {
            let read = next(&mut entries).await.expect("read");
            assert_eq!((read.sequence, &read.payload[..]), (*sequence, number.to_string().as_bytes()));
            assert_eq!(read.subject, address("a").subject().as_str());
            assert!(read.trace_parent.is_some_and(|trace| trace.starts_with("00-0af7")));
            assert!(read.time.as_micros() > 1_600_000_000_000_000);
        }
    }
}

async fn a_reader_sees_its_filter_only_and_goes_on(log: &impl RoomLog) {
    let shard = address("b").shard;
    let others: Vec<String> =
        (0..).map(|n| format!("b{n}")).filter(|name| address(name).shard == shard).take(2).collect();
    let filter = subject::room_filter(shard, &tenant(), &room("b"));
    let from = log.last_sequence(shard).await.expect("asked") + 1;
    let mut entries = log.read(shard, &filter, from).await.expect("opened");
    // More than one fetch of the reader, while it reads.
    let append = async {
        for number in 0..600 {
            log.append(entry("b", &format!("b:{number}"), number.to_string())).await.expect("stored");
            if number % 100 == 0 {
                let other = &others[number % 200 / 100];
                log.append(entry(other, &format!("{other}:{number}"), "other")).await.expect("stored");
            }
        }
    };
    let read = async {
        for number in 0..600 {
            let read = next(&mut entries).await.expect("read");
            assert_eq!(read.payload, number.to_string());
        }
    };
    futures::join!(append, read);
}

async fn requests_are_answered(bus: &impl Bus) {
    let sfu = SfuId::new("sfu").expect("valid");
    let mut commands = bus.subscribe(&subject::command_filter(&tenant(), &sfu)).await.expect("subscribed");
    let command = subject::command(&tenant(), &sfu);
    let answer = async {
        let asked = next(&mut commands).await;
        assert_eq!((&asked.payload[..], asked.subject.as_str()), (&b"keyframe"[..], command.as_str()));
        bus.reply(&asked, "done".into()).await.expect("answered");
    };
    let ask = bus.request(&command, "keyframe".into(), PATIENCE);
    let (reply, ()) = futures::join!(ask, answer);
    assert_eq!(reply.expect("answered"), "done");
    bus.publish(&command, "hint".into()).await.expect("sent");
    let hint = next(&mut commands).await;
    assert_eq!((hint.payload, hint.reply.is_none()), ("hint".into(), true));
    assert!(matches!(bus.reply(&hint_without_reply(), "?".into()).await, Err(LogError::Refused { .. })));
    // Nobody listens.
    let nobody = subject::command(&tenant(), &SfuId::new("nobody").expect("valid"));
    let alone = bus.request(&nobody, "?".into(), Duration::from_millis(300)).await;
    assert!(matches!(alone, Err(LogError::Unavailable { .. })), "{alone:?}");
}

fn hint_without_reply() -> roomreel_shared::ports::BusMessage {
    roomreel_shared::ports::BusMessage { subject: "x".to_owned(), payload: Bytes::new(), reply: None }
}

async fn a_full_log_refuses_and_keeps_what_it_has(log: &impl RoomLog) {
    let shard = address("c").shard;
    let big = Bytes::from(vec![7; 200 * 1024]);
    let mut stored = 0;
    let full = loop {
        match log.append(entry("c", &format!("c:{stored}"), big.clone())).await {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100, "the log never gets full");
    };
    assert!(matches!(&full, LogError::Full { stream, .. } if *stream == shard.stream_name()), "{full}");
    assert!(!full.is_permanent());
    // What is there is known again, and still read.
    assert!(log.append(entry("c", "c:0", big.clone())).await.expect("answered").duplicate);
    let filter = subject::room_filter(shard, &tenant(), &room("c"));
    let mut entries = log.read(shard, &filter, 0).await.expect("opened");
    for _ in 0..stored {
        assert_eq!(next(&mut entries).await.expect("read").payload.len(), big.len());
    }
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    contract(&MemoryLog::system().with_max_bytes_per_shard(SHARD_BYTES)).await;
}

fn config(server: &NatsServer) -> NatsConfig {
    NatsConfig { shards: SHARDS, max_bytes_per_shard: SHARD_BYTES as u64, ..NatsConfig::new(server.url()) }
}

#[tokio::test]
async fn nats_keeps_the_contract() {
    let server = NatsServer::start().await.expect("nats-server starts");
    let nats = Nats::connect(config(&server)).await.expect("connected");
    let missing = nats.check_streams().await.expect_err("no streams yet").to_string();
    assert!(missing.contains("roomreel-v1-s0"), "{missing}");
    nats.ensure_streams().await.expect("created");
    nats.ensure_streams().await.expect("found as they should be");
    nats.check_streams().await.expect("found as they should be");
    contract(&nats).await;
}

#[tokio::test]
async fn a_server_without_room_for_a_stream_is_told_of_with_what_to_change() {
    let account = "accounts { A { users: [{ user: a, password: a }], jetstream { max_file: 1MB } } }\nno_auth_user: a";
    for more in ["jetstream { max_file_store: 1MB }", account] {
        let server = NatsServer::start_with(more).await.expect("nats-server starts");
        let nats = Nats::connect(config(&server)).await.expect("connected");
        let error = nats.ensure_streams().await.expect_err("there is no room");
        let told = error.to_string();
        assert!(error.is_permanent() && told.contains("roomreel-v1-s0 was to take 4194304 bytes"), "{told}");
        assert!(told.contains("log_max_bytes") && told.contains("max_file_store"), "{told}");
    }
    let server = NatsServer::start().await.expect("nats-server starts");
    let three = Nats::connect(NatsConfig { replicas: 3, ..config(&server) }).await.expect("connected");
    let error = three.ensure_streams().await.expect_err("there is one server").to_string();
    assert!(error.contains("set nats_replicas to 1"), "{error}");
}

#[tokio::test]
async fn a_stream_that_is_gone_is_made_again_for_who_wants_to_read() {
    let server = NatsServer::start().await.expect("nats-server starts");
    let nats = Nats::connect(config(&server)).await.expect("connected");
    for shard in Shard::all(SHARDS) {
        assert_eq!(nats.last_sequence(shard).await.expect("made"), 0);
    }
    nats.check_streams().await.expect("found as they should be");
}

#[tokio::test]
async fn a_stream_that_is_not_as_configured_is_refused() {
    let server = NatsServer::start().await.expect("nats-server starts");
    let nats = Nats::connect(config(&server)).await.expect("connected");
    nats.ensure_streams().await.expect("created");
    let other = NatsConfig { max_age: Duration::from_secs(60), ..config(&server) };
    let other = Nats::connect(other).await.expect("connected");
    for refused in [other.ensure_streams().await, other.check_streams().await] {
        let error = refused.expect_err("refused");
        assert!(error.is_permanent() && error.to_string().contains("max_age is 86400s and not 60s"), "{error}");
    }
    // Somebody made it drop the oldest.
    let client = async_nats::connect(server.url()).await.expect("connected");
    let jetstream = async_nats::jetstream::new(client);
    let name = Shard::all(1).next().expect("one").stream_name();
    let mut found = jetstream.get_stream(&name).await.expect("there").cached_info().config.clone();
    found.discard = async_nats::jetstream::stream::DiscardPolicy::Old;
    jetstream.update_stream(found).await.expect("updated");
    let error = nats.check_streams().await.expect_err("refused").to_string();
    assert!(error.contains("discard is Old and not New"), "{error}");
}

#[tokio::test]
async fn a_reader_is_told_when_the_broker_goes_and_starts_again() {
    let mut server = NatsServer::start().await.expect("nats-server starts");
    let nats = Nats::connect(config(&server)).await.expect("connected");
    nats.ensure_streams().await.expect("created");
    let shard = address("a").shard;
    let filter = subject::room_filter(shard, &tenant(), &room("a"));
    let first = nats.append(entry("a", "1", "1")).await.expect("stored");
    let mut entries = nats.read(shard, &filter, 0).await.expect("opened");
    assert_eq!(next(&mut entries).await.expect("read").sequence, first.sequence);
    server.kill();
    assert!(matches!(next(&mut entries).await, Err(LogError::Unavailable { .. })));
    assert!(tokio::time::timeout(PATIENCE, entries.next()).await.expect("in time").is_none(), "it ends with the error");
    let down = nats.append(entry("a", "2", "2")).await.expect_err("nobody is there");
    assert!(matches!(&down, LogError::Unavailable { server: at, .. } if *at == server.url()), "{down}");
    server.restart().await.expect("restarted");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let second = loop {
        match nats.append(entry("a", "2", "2")).await {
            Ok(appended) => break appended,
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
    };
    let mut entries = nats.read(shard, &filter, first.sequence + 1).await.expect("opened");
    assert_eq!(next(&mut entries).await.expect("read").sequence, second.sequence);
}

#[tokio::test]
async fn nats_that_is_not_there_is_named_without_its_password() {
    let mut server = NatsServer::start().await.expect("nats-server starts");
    server.stop().await.expect("stopped");
    let url = server.url().replace("nats://", "nats://user:hunter2@");
    let error = Nats::connect(NatsConfig::new(url)).await.err().expect("nobody is there").to_string();
    assert!(error.contains(&server.url()) && error.contains("nats-server -js"), "{error}");
    assert!(!error.contains("hunter2"), "{error}");
}

#[tokio::test]
async fn what_permissions_forbid_is_refused_at_once() {
    let users = r#"authorization { users: [
        { user: admin, password: admin },
        { user: sfu, password: pass, permissions: { publish: ["roomreel.v1.*.acme.sfu.b.>"], subscribe: ["_INBOX.>"] } },
    ] }"#;
    let server = NatsServer::start_with(users).await.expect("nats-server starts");
    let login = |user: &str, password: &str| {
        let (user, password) = (Some(user.to_owned()), Some(Secret::new(password)));
        NatsConfig { user, password, ..config(&server) }
    };
    Nats::connect(login("admin", "admin")).await.expect("connected").ensure_streams().await.expect("created");
    let wrong = Nats::connect(login("sfu", "wrong")).await.err().expect("refused");
    assert!(wrong.is_permanent(), "{wrong}");
    let sfu = Nats::connect(login("sfu", "pass")).await.expect("connected");
    sfu.append(entry("b", "1", "mine")).await.expect("allowed");
    let began = tokio::time::Instant::now();
    let refused = sfu.append(entry("a", "1", "another's")).await.expect_err("not allowed");
    assert!(refused.is_permanent() && refused.to_string().contains(address("a").subject().as_str()), "{refused}");
    assert!(began.elapsed() < Duration::from_secs(3), "it waited for the time limit");
    let refused = sfu.ensure_streams().await.expect_err("not allowed");
    assert!(refused.is_permanent(), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn scripted_faults_do_what_they_say() {
    let script = Script::new();
    let log = MemoryLog::system().with_faults(Arc::new(script.clone()));
    let shard = address("a").shard;
    let filter = subject::room_filter(shard, &tenant(), &room("a"));
    log.append(entry("a", "0", "0")).await.expect("stored");
    for fault in [Fault::FailBefore, Fault::LoseAnswer, Fault::Hang] {
        script.push(Operation::Append, fault);
    }
    for id in ["1", "2", "3"] {
        assert!(matches!(log.append(entry("a", id, id)).await, Err(LogError::Unavailable { .. })));
    }
    let ids = |log: &MemoryLog| log.entries(shard).iter().map(|entry| entry.payload.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&log), ["0", "2"]);
    // A delivery that comes twice, and one that breaks.
    script.push(Operation::Deliver, Fault::Duplicate);
    script.push(Operation::Deliver, Fault::FailBefore);
    let mut entries = log.read(shard, &filter, 0).await.expect("opened");
    assert_eq!(next(&mut entries).await.expect("read").payload, "0");
    assert_eq!(next(&mut entries).await.expect("read").payload, "0");
    assert!(next(&mut entries).await.is_err());
    // Acknowledged, gone, and its id still known: the retry is swallowed, a new id is not.
    let mut entries = log.read(shard, &filter, 2).await.expect("opened");
    assert_eq!(next(&mut entries).await.expect("read").payload, "2");
    script.push(Operation::Append, Fault::LoseAcknowledged { entries: 1 });
    log.append(entry("a", "4", "4")).await.expect("stored");
    assert!(next(&mut entries).await.is_err(), "a reader of what was lost is told");
    assert!(log.append(entry("a", "2", "2")).await.expect("answered").duplicate);
    assert_eq!(ids(&log), ["0", "4"]);
    assert_eq!(script.remaining(), 0);
}
