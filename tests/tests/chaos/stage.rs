//! A cluster of real processes, a room that is played into it, and a watch on what is committed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use roomreel_backends::nats::NatsConfig;
use roomreel_sfu::publisher::Publisher;
use roomreel_sfu::source::{self, Source, SourceItem};
use roomreel_sfu::synthetic::{Network, SyntheticRoom, SyntheticSpec};
use roomreel_shared::cluster::{self, Assignment, RenderJob};
use roomreel_shared::id::{NodeId, RoomId, TrackId};
use roomreel_shared::ports::Ports;
use roomreel_shared::time::RoomTime;
use roomreel_tests::cluster::TestCluster;
use roomreel_tests::room;
use roomreel_tests::servers::Roomreel;
use tokio::task::JoinHandle;

pub const SHARDS: u32 = 4;

/// Windows of most scenarios: a room of seconds has several.
pub const WINDOW: Duration = Duration::from_secs(2);

/// Where a process finds the servers.
#[derive(Debug, Clone)]
pub struct Routes {
    pub nats: String,
    pub etcd: String,
    pub s3: String,
}

/// Servers and processes; dropping it kills all of them.
pub struct Stage {
    pub cluster: TestCluster,
    /// The test's own connections.
    pub ports: Ports,
    pub nodes: BTreeMap<String, Roomreel>,
    logs: PathBuf,
    bucket: PathBuf,
    window: Duration,
}

impl Stage {
    /// On servers that run. Logs of processes go to the build directory's `tmp/chaos/{name}`.
    pub async fn on(cluster: TestCluster, name: &str, window: Duration) -> Result<Self> {
        let logs = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos").join(name);
        if logs.exists() {
            std::fs::remove_dir_all(&logs)?;
        }
        std::fs::create_dir_all(&logs)?;
        let ports = cluster.ports().await?;
        let bucket = cluster.s3.directory().context("chaos needs the S3 server of this process")?;
        Ok(Self { cluster, ports, nodes: BTreeMap::new(), logs, bucket, window })
    }

    /// The three servers, and so many ingest, coordinator and compositor processes.
    pub async fn with(name: &str, window: Duration, counts: [usize; 3]) -> Result<Self> {
        let mut stage = Self::on(TestCluster::start().await?, name, window).await?;
        stage.populate(counts).await?;
        Ok(stage)
    }

    /// Starts so many ingest, coordinator and compositor processes.
    pub async fn populate(&mut self, counts: [usize; 3]) -> Result<()> {
        for (role, count) in ["ingest", "coordinator", "compositor"].into_iter().zip(counts) {
            for number in 1..=count {
                self.add(role, &format!("{role}-{number}"), &self.routes(), &[]).await?;
            }
        }
        Ok(())
    }

    /// Straight to the servers.
    pub fn routes(&self) -> Routes {
        let s3 = self.cluster.s3_config().endpoint.unwrap_or_default();
        Routes { nats: self.cluster.nats_config().url, etcd: self.cluster.etcd.url(), s3 }
    }

    /// Starts a process.
    pub async fn add(&mut self, role: &str, name: &str, routes: &Routes, more: &[&str]) -> Result<()> {
        let mut settings = self.log_settings(routes);
        settings.extend(self.store_settings(routes)?);
        if role == "coordinator" {
            let window = self.window.as_millis();
            settings.extend([format!("--window={window}ms"), "--width=320".into(), "--height=180".into()]);
            settings.extend(["--fps=10".into(), "--crf=40".into()]);
        }
        settings.extend(more.iter().map(|setting| (*setting).to_owned()));
        let process = Roomreel::start(role, name, &settings, &self.logs).await?;
        self.nodes.insert(name.to_owned(), process);
        Ok(())
    }

    /// Runs a command on the bucket and etcd.
    pub async fn tool(&self, command: &str, more: &[&str]) -> Result<roomreel_tests::servers::Server> {
        let mut arguments = vec![command.to_owned(), format!("--shards={SHARDS}")];
        arguments.extend(self.store_settings(&self.routes())?);
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        Roomreel::spawn(command, &arguments, &self.logs).await
    }

    fn store_settings(&self, routes: &Routes) -> Result<Vec<String>> {
        let config = self.cluster.s3_config();
        let keys = config.credentials.context("the test's bucket has keys")?;
        Ok(vec![
            format!("--etcd-endpoints={}", routes.etcd),
            format!("--store=s3://{}", config.bucket),
            format!("--s3-endpoint={}", routes.s3),
            format!("--s3-access-key={}", keys.access_key_id),
            format!("--s3-secret-key={}", keys.secret_access_key.expose()),
        ])
    }

    fn log_settings(&self, routes: &Routes) -> Vec<String> {
        let NatsConfig { max_bytes_per_shard: bytes, replicas, .. } = self.cluster.nats_config();
        vec![
            format!("--nats-url={}", routes.nats),
            format!("--nats-replicas={replicas}"),
            format!("--log-max-bytes={bytes}"),
            format!("--shards={SHARDS}"),
        ]
    }

    /// A `roomreel publish` process.
    pub async fn publish(
        &self,
        room: &RoomId,
        seconds: u32,
        more: &[String],
    ) -> Result<roomreel_tests::servers::Server> {
        let mut arguments = vec!["publish".to_owned()];
        arguments.extend(self.log_settings(&self.routes()));
        arguments.extend([format!("--tenant={}", room::tenant()), format!("--sfu={}", room::sfu())]);
        arguments.extend([format!("--room={room}"), format!("--seconds={seconds}"), "--participants=1".to_owned()]);
        arguments.extend_from_slice(more);
        Roomreel::spawn("publish", &arguments, &self.logs).await
    }

    pub fn node(&mut self, name: &str) -> Result<&mut Roomreel> {
        self.nodes.get_mut(name).with_context(|| format!("no process {name}"))
    }

    /// Begins to play a small room of this length, recorded by its policy.
    pub fn play(&self, id: &str, seconds: u64) -> Result<Played> {
        Played::begin(&self.ports, spec(id, seconds), &self.bucket)
    }

    /// Begins to play a room as it is specified.
    pub fn play_as(&self, spec: SyntheticSpec) -> Result<Played> {
        Played::begin(&self.ports, spec, &self.bucket)
    }

    /// Watches the commits of a room somebody else publishes.
    pub fn watch(&self, id: &str) -> Commits {
        Commits::watch(&self.bucket, &room::room(id))
    }

    /// Who folds the one recording there is.
    pub async fn folding(&self) -> Result<NodeId> {
        let listed = self.ports.coordination.list(&cluster::assignments_prefix()).await?;
        let record = listed.records.first().context("nothing is assigned")?;
        Ok(serde_json::from_slice::<Assignment>(&record.value)?.node)
    }

    /// Who renders it.
    pub async fn rendering(&self) -> Result<NodeId> {
        let listed = self.ports.coordination.list(&cluster::renders_prefix()).await?;
        let record = listed.records.first().context("nothing is to be rendered")?;
        serde_json::from_slice::<RenderJob>(&record.value)?.node.context("nobody renders")
    }

    /// Who leads.
    pub async fn leading(&self) -> Result<String> {
        let record = self.ports.coordination.get(&cluster::leader_key()).await?.context("nobody leads")?;
        let text = String::from_utf8(record.value.to_vec())?;
        Ok(text.split_whitespace().next().unwrap_or_default().to_owned())
    }
}

/// Asks until it is so, every 20 ms.
pub async fn until(what: &str, limit: Duration, mut is_so: impl AsyncFnMut() -> bool) -> Result<Instant> {
    let deadline = Instant::now() + limit;
    while !is_so().await {
        if Instant::now() > deadline {
            bail!("not within {limit:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(Instant::now())
}

/// What the publisher library accepted, by its own order.
#[derive(Debug, Default, Clone)]
pub struct Accepted {
    pub packets: BTreeMap<TrackId, Vec<blake3::Hash>>,
    pub events: u64,
}

/// Notes what a source gives on its way to the publisher.
struct Witness {
    room: SyntheticRoom,
    accepted: Arc<Mutex<Accepted>>,
}

impl Iterator for Witness {
    type Item = Result<(RoomTime, SourceItem), source::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = self.room.next()?;
        if let Ok((_, item)) = &item {
            let mut accepted = self.accepted.lock().expect("nothing panics while it is locked");
            match item {
                SourceItem::Event(_) => accepted.events += 1,
                SourceItem::Packet { track, data } => {
                    accepted.packets.entry(track.clone()).or_default().push(blake3::hash(data.bytes()));
                }
            }
        }
        Some(item)
    }
}

impl Source for Witness {
    fn room(&self) -> &RoomId {
        self.room.room()
    }

    fn duration(&self) -> Option<Duration> {
        Source::duration(&self.room)
    }
}

/// One participant with a small picture, recorded by the room's policy.
pub fn spec(id: &str, seconds: u64) -> SyntheticSpec {
    SyntheticSpec {
        duration: Duration::from_secs(seconds),
        participants: 1,
        width: 160,
        height: 90,
        frame_rate: 10,
        video_bits_per_second: 60_000,
        network: Network { loss: 0.0, ..Network::default() },
        ..SyntheticSpec::new(room::room(id), room::now())
    }
}

/// A room that is being played, and the watch on its recording.
pub struct Played {
    pub room: RoomId,
    pub publisher: Publisher,
    pub commits: Commits,
    accepted: Arc<Mutex<Accepted>>,
    task: JoinHandle<source::Played>,
}

impl Played {
    fn begin(ports: &Ports, spec: SyntheticSpec, bucket: &Path) -> Result<Self> {
        let room = spec.room.clone();
        let publisher = room::publisher(ports, SHARDS);
        let accepted = Arc::<Mutex<Accepted>>::default();
        let witness = Witness { room: SyntheticRoom::new(spec)?, accepted: accepted.clone() };
        let to = publisher.room(room.clone());
        let task = tokio::spawn(async move { source::play(witness, &to, 1.0, |_| {}).await });
        Ok(Self { commits: Commits::watch(bucket, &room), room, publisher, accepted, task })
    }

    /// Waits until the room has closed, and answers what was accepted of it.
    pub async fn closed(&mut self) -> Result<Accepted> {
        let played = (&mut self.task).await?;
        anyhow::ensure!(played.problem_count == 0, "playing had problems: {:?}", played.problems);
        Ok(self.accepted.lock().expect("nothing panics while it is locked").clone())
    }
}

/// When each window of a room's recording came into being.
pub struct Commits {
    seen: Arc<Mutex<Vec<Instant>>>,
    task: JoinHandle<()>,
}

impl Drop for Commits {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Commits {
    /// Looks at the bucket's files, so that no fault of the store is in the way.
    fn watch(bucket: &Path, room: &RoomId) -> Self {
        let recordings = bucket.join(format!("{}/rooms/{}/recordings", room::tenant().token(), room.token()));
        let seen = Arc::<Mutex<Vec<Instant>>>::default();
        let found = seen.clone();
        let task = tokio::spawn(async move {
            loop {
                let directory = std::fs::read_dir(&recordings).ok().and_then(|mut all| all.next()?.ok());
                if let Some(directory) = directory {
                    let mut seen = found.lock().expect("nothing panics while it is locked");
                    while directory.path().join(format!("windows/{:08}.win", seen.len())).exists() {
                        seen.push(Instant::now());
                    }
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Self { seen, task }
    }

    /// Times of commit, by window.
    pub fn times(&self) -> Vec<Instant> {
        self.seen.lock().expect("nothing panics while it is locked").clone()
    }

    /// Waits for so many windows.
    pub async fn reach(&self, count: usize) -> Result<Instant> {
        until(&format!("{count} windows"), Duration::from_secs(60), async || self.times().len() >= count).await
    }
}
