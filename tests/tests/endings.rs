//! How recordings end that do not end with their room, and what is cleared away behind them.
#![allow(missing_docs)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use roomreel_backends::etcd::{Etcd, EtcdConfig};
use roomreel_backends::memory::{MemoryCoordination, MemoryLog, MemoryStore};
use roomreel_backends::objects::DirectoryStore;
use roomreel_backends::s3::S3Store;
use roomreel_compositor::node::{CompositorConfig, CompositorHandle, CompositorNode};
use roomreel_coordinator::{Coordinator, CoordinatorConfig, CoordinatorHandle};
use roomreel_ingest::{IngestConfig, IngestHandle, IngestNode};
use roomreel_sfu::publisher::{Publisher, RoomPublisher};
use roomreel_shared::event::{Codec, CodecParameters, Encoding, EventKind, Producer, StopReason};
use roomreel_shared::id::{NodeId, PeerId, TrackId};
use roomreel_shared::key::{self, Key, RecordingName};
use roomreel_shared::policy::{Policy, TrackKind};
use roomreel_shared::ports::{ObjectStore, Ports};
use roomreel_shared::recording::{Recording, State};
use roomreel_shared::rtp::{PayloadType, Ssrc};
use roomreel_shared::time::{LogTime, RoomTime};
use roomreel_shared::window::Window;
use roomreel_tests::room;
use roomreel_tests::servers::{EtcdServer, S3Server};
use tokio::time::{Instant, sleep};

const SHARDS: u32 = 2;
const WINDOW: Duration = Duration::from_secs(4);

fn node(id: &str) -> NodeId {
    NodeId::new(id).expect("a literal that can be spelled")
}

fn microphone() -> Producer {
    let payload_type = PayloadType(111);
    let codec =
        CodecParameters { payload_type, codec: Codec::Opus, clock_rate: 48_000, channels: 2, fmtp: String::new() };
    Producer {
        track: TrackId::new("mic").expect("valid"),
        peer: PeerId::new("bo").expect("valid"),
        kind: TrackKind::Audio,
        is_audio: true,
        codecs: vec![codec],
        encodings: vec![Encoding { ssrc: Ssrc(7), rid: None, rtx_ssrc: None }],
        header_extensions: Vec::new(),
    }
}

/// A cluster in this process, with servers in memory and a clock that moves when everybody waits.
struct Cluster {
    ports: Ports,
    store: MemoryStore,
    begin: (i64, Instant),
}

impl Cluster {
    fn new() -> Self {
        let begin = (room::now().as_micros(), Instant::now());
        let now = move || LogTime::from_micros(begin.0 + i64::try_from(begin.1.elapsed().as_micros()).expect("short"));
        let (log, store) = (MemoryLog::new(Arc::new(now)), MemoryStore::new());
        let ports = Ports {
            log: Arc::new(log.clone()),
            bus: Arc::new(log),
            store: Arc::new(store.clone()),
            coordination: Arc::new(MemoryCoordination::new()),
        };
        Self { ports, store, begin }
    }

    fn now(&self) -> RoomTime {
        RoomTime::from_micros(self.begin.0 + i64::try_from(self.begin.1.elapsed().as_micros()).expect("short"))
    }

    async fn coordinator(&self, edit: impl FnOnce(&mut CoordinatorConfig)) -> Result<CoordinatorHandle> {
        // Documents alone are rendered: pictures are not what these tests look at.
        let new = CoordinatorConfig::new(node("coordinator"), SHARDS);
        let mut config = CoordinatorConfig { window: WINDOW, composites: Vec::new(), ..new };
        edit(&mut config);
        Ok(Coordinator::start(self.ports.clone(), config).await?)
    }

    async fn ingest(&self, name: &str) -> Result<IngestHandle> {
        Ok(IngestNode::start(self.ports.clone(), IngestConfig::new(node(name))).await?)
    }

    async fn compositor(&self) -> Result<CompositorHandle> {
        Ok(CompositorNode::start(self.ports.clone(), CompositorConfig::new(node("compositor"))).await?)
    }

    /// Opens a room that is recorded by its policy.
    fn open(&self, name: &str) -> Result<(Publisher, RoomPublisher)> {
        let publisher = room::publisher(&self.ports, SHARDS);
        let talking = publisher.room(room::room(name));
        let policy = Some(Policy { auto_record: true, ..Policy::default() });
        let (room_name, meeting_type) = (name.to_owned(), String::new());
        talking.event(self.now(), EventKind::RoomCreated { room_name, host: None, meeting_type, policy })?;
        talking.event(self.now(), EventKind::ProducerCreated(microphone()))?;
        Ok((publisher, talking))
    }

    /// Somebody is heard from every second.
    async fn talk(&self, talking: &RoomPublisher, seconds: u64) -> Result<()> {
        for _ in 0..seconds {
            talking.event(self.now(), EventKind::ActiveSpeaker { peer: None, level: 0 })?;
            sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    async fn windows(&self) -> Result<Vec<Key>> {
        let all = self.store.list("").await?.into_iter().map(|object| object.key);
        Ok(all.filter(|key| key.as_str().ends_with(".win")).collect())
    }

    async fn ended(&self, name: &str) -> Result<Recording> {
        room::final_recording(&self.store, &room::room(name), Duration::from_secs(600)).await
    }
}

/// A room that talks on for longer than a recording may be: the log, the windows and all documents say that it ended at its limit.
#[tokio::test(start_paused = true)]
async fn a_recording_ends_at_its_maximum_duration() -> Result<()> {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(|config| config.max_duration = Duration::from_secs(60)).await?;
    let (ingest, compositor) = (cluster.ingest("i0").await?, cluster.compositor().await?);
    let (publisher, talking) = cluster.open("endless")?;
    cluster.talk(&talking, 120).await?;
    let recording = cluster.ended("endless").await?;
    ensure!(recording.state == State::LimitReached, "{recording:?}");
    ensure!(
        recording.stop_reason == Some(StopReason::LimitReached) && recording.reason.contains("1 min"),
        "{recording:?}"
    );
    let length = Duration::from_millis(recording.duration_ms.context("a length")?);
    ensure!((Duration::from_secs(60)..Duration::from_secs(60) + 4 * WINDOW).contains(&length), "{length:?}");
    let windows = cluster.windows().await?;
    ensure!(recording.windows == Some(windows.len() as u64) && !recording.incomplete, "{recording:?}");
    let keys = recording.name().keys();
    let last = cluster.store.get(&keys.window(windows.len() as u64 - 1)).await?;
    let last = Window::parse(last)?.header.end.context("the last window says so")?;
    ensure!(last.reason == StopReason::LimitReached, "{last:?}");
    // The room goes on, and is not recorded again.
    cluster.talk(&talking, 60).await?;
    ensure!(cluster.windows().await?.len() == windows.len());
    drop((publisher, talking));
    compositor.drain().await;
    ingest.drain().await;
    coordinator.drain().await;
    Ok(())
}

/// The bucket returns something else than was written: nobody builds on it, and the recording ends all the same, with the reason.
#[tokio::test(start_paused = true)]
async fn a_last_window_that_is_damaged_ends_the_recording_as_failed() -> Result<()> {
    let cluster = Cluster::new();
    let coordinator = cluster.coordinator(|config| config.ending_limit = Duration::from_secs(120)).await?;
    let (first, compositor) = (cluster.ingest("i0").await?, cluster.compositor().await?);
    let (publisher, talking) = cluster.open("torn")?;
    cluster.talk(&talking, 14).await?;
    first.shutdown_now().await;
    let windows = cluster.windows().await?;
    let last = windows.last().context("there are windows")?;
    let whole = cluster.store.get(last).await?;
    cluster.store.put(last, whole.slice(..whole.len() / 2)).await?;
    let second = cluster.ingest("i1").await?;
    cluster.talk(&talking, 30).await?;
    ensure!(cluster.windows().await? == windows, "something was built on it");
    talking.event(cluster.now(), EventKind::RoomClosed { reason: "over".to_owned() })?;
    let recording = cluster.ended("torn").await?;
    ensure!(recording.state == State::Failed, "{recording:?}");
    let said = format!("ingest made no progress for 2 min and {} windows are in the bucket", windows.len());
    ensure!(recording.reason == said, "{}", recording.reason);
    drop((publisher, talking));
    compositor.drain().await;
    second.drain().await;
    coordinator.drain().await;
    Ok(())
}

/// The program beside the test's own executable, where one build puts both.
fn program() -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let target = test.parent().and_then(Path::parent).context("the test has no build directory")?;
    Ok(target.join("roomreel"))
}

/// `roomreel clean` with these settings: its exit code, and all that it said.
fn clean(settings: &[String], more: &[&str]) -> Result<(Option<i32>, String)> {
    let mut command = Command::new(program()?);
    let output = command.arg("clean").args(settings).args(more).output();
    let output = output.context("build it with: cargo build --package roomreel")?;
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
}

async fn cleaned(store: &dyn ObjectStore, etcd: &EtcdServer, settings: Vec<String>) -> Result<()> {
    let settings = [settings, vec![format!("--etcd-endpoints={}", etcd.url())]].concat();
    let unknown = RecordingName::of("acme/rooms/standup/recordings/01n/").context("a prefix of ours")?.keys();
    let other = RecordingName::of("acme/rooms/standup/recordings/01w/").context("a prefix of ours")?.keys();
    let stays =
        [other.window(0), other.policy_json(), Key::listed("acme/rooms/standup/recordings/01n/mine.txt".to_owned())];
    let goes = [unknown.policy_json(), unknown.unfinished_json(), key::probe(7)];
    for key in stays.iter().chain(&goes) {
        store.put(key, Bytes::from_static(b"{}")).await?;
    }
    let (code, said) = clean(&settings, &["--delete", "--grace=0s"])?;
    ensure!(code == Some(1) && said.contains("no coordinator leads"), "{said}");
    let log = MemoryLog::system();
    let ports = Ports {
        log: Arc::new(log.clone()),
        bus: Arc::new(log),
        store: Arc::new(MemoryStore::new()),
        coordination: Arc::new(Etcd::connect(EtcdConfig::new([etcd.url()])).await?),
    };
    let coordinator = Coordinator::start(ports, CoordinatorConfig::new(node("coordinator"), SHARDS)).await?;
    while !coordinator.is_leader() {
        sleep(Duration::from_millis(20)).await;
    }
    let there = async || Ok::<_, anyhow::Error>(store.list("acme/").await?.len() + store.list("probe/").await?.len());
    for more in [&[][..], &["--delete"]] {
        let (code, said) = clean(&settings, more)?;
        ensure!(code == Some(0) && said.contains("3 object(s) of 6 B are part of none"), "{said}");
        ensure!(said.contains("1 name(s) that roomreel does not give were left alone"), "{said}");
        ensure!(there().await? == 6, "nothing goes before its grace: {said}");
    }
    // Written anew, the grace begins anew as well.
    store.put(&key::probe(7), Bytes::from_static(b"again")).await?;
    let (code, said) = clean(&settings, &["--delete", "--grace=0s"])?;
    ensure!(code == Some(0) && said.contains("2 deleted, 1 marked"), "{said}");
    let (code, said) = clean(&settings, &["--delete", "--grace=0s"])?;
    ensure!(code == Some(0) && said.contains("1 deleted, 0 marked"), "{said}");
    let (code, said) = clean(&settings, &[])?;
    ensure!(code == Some(0) && said.contains("0 object(s) of 0 B are part of none"), "{said}");
    ensure!(store.list("clean/").await?.is_empty() && there().await? == stays.len());
    for key in &stays {
        store.size(key).await?;
    }
    coordinator.drain().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_part_of_no_recording_is_cleaned_from_a_bucket() -> Result<()> {
    let (etcd, s3) = (EtcdServer::start().await?, S3Server::start().await?);
    let config = s3.config();
    let keys = config.credentials.clone().context("the test's server has keys")?;
    let settings = vec![
        format!("--store=s3://{}", config.bucket),
        format!("--s3-endpoint={}", config.endpoint.clone().unwrap_or_default()),
        format!("--s3-access-key={}", keys.access_key_id),
        format!("--s3-secret-key={}", keys.secret_access_key.expose()),
    ];
    cleaned(&S3Store::connect(config).await?, &etcd, settings).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_part_of_no_recording_is_cleaned_from_a_directory() -> Result<()> {
    let (etcd, directory) = (EtcdServer::start().await?, tempfile::tempdir()?);
    let settings = vec![format!("--store=file://{}", directory.path().display())];
    cleaned(&DirectoryStore::open(directory.path())?, &etcd, settings).await
}
