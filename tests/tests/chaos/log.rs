//! NATS.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use roomreel_sfu::synthetic::SyntheticSpec;
use roomreel_shared::id::{SfuId, TrackId};
use roomreel_shared::policy::Policy;
use roomreel_shared::subject::{Address, Entry, Shard, Writer};
use roomreel_tests::cluster::TestCluster;
use roomreel_tests::room;
use roomreel_tests::servers::NatsServer;

use crate::outcome::Outcome;
use crate::stage::{SHARDS, Stage, WINDOW, spec, until};

#[tokio::test(flavor = "multi_thread")]
async fn nats_restarted() -> Result<()> {
    let mut stage = Stage::with("nats_restarted", WINDOW, [1, 1, 1]).await?;
    let played = stage.play("nats-restarted", 18)?;
    played.commits.reach(2).await?;
    for _ in 0..2 {
        stage.cluster.nats.kill();
        tokio::time::sleep(Duration::from_secs(1)).await;
        stage.cluster.nats.restart().await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let stats = played.publisher.clone();
    let outcome = Outcome::complete(&stage, played).await?;
    let stats = stats.stats();
    outcome.print("nats_restarted", &format!("{} retries, {} replays", stats.retries, stats.replays))
}

/// Power loss: what the broker had acknowledged and not yet synced is gone, and so is the process that had read it.
#[tokio::test(flavor = "multi_thread")]
async fn nats_rolled_back() -> Result<()> {
    rolled_back("nats_rolled_back", Duration::from_secs(5), 26, &["ingest-1"]).await
}

/// Of the whole machine room: no process remembers what the log has lost, but the publisher.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer: make chaos"]
async fn nats_rolled_back_30s() -> Result<()> {
    let all = ["ingest-1", "coordinator-1", "compositor-1"];
    rolled_back("nats_rolled_back_30s", Duration::from_secs(31), 56, &all).await
}

async fn rolled_back(name: &str, by: Duration, seconds: u64, killed: &[&str]) -> Result<()> {
    let mut stage = Stage::with(name, WINDOW, [1, 1, 1]).await?;
    let played = stage.play(name, seconds)?;
    played.commits.reach(1).await?;
    let before = stage.cluster.nats.copy_store()?;
    tokio::time::sleep(by).await;
    for node in killed {
        stage.node(node)?.kill();
    }
    stage.cluster.nats.roll_back(&before).await?;
    for node in killed {
        stage.node(node)?.restart().await?;
    }
    let publisher = played.publisher.clone();
    let outcome = Outcome::complete(&stage, played).await?;
    let stats = publisher.stats();
    outcome.print(name, &format!("{} retries, {} replays", stats.retries, stats.replays))
}

/// The log as it was before the room was created.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer: make chaos"]
async fn nats_emptied() -> Result<()> {
    emptied("nats_emptied", true, &[]).await
}

/// The same, and no process of roomreel remembers the room.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer: make chaos"]
async fn nats_emptied_all_killed() -> Result<()> {
    emptied("nats_emptied_all_killed", true, &["ingest-1", "coordinator-1", "compositor-1"]).await
}

/// The disk of the log is lost, streams and all.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer: make chaos"]
async fn nats_disk_lost() -> Result<()> {
    emptied("nats_disk_lost", false, &[]).await
}

async fn emptied(name: &str, has_streams: bool, killed: &[&str]) -> Result<()> {
    let mut stage = Stage::with(name, WINDOW, [1, 1, 1]).await?;
    let before = if has_streams { stage.cluster.nats.copy_store()? } else { tempfile::tempdir()? };
    let played = stage.play(name, 20)?;
    played.commits.reach(3).await?;
    tokio::time::sleep(WINDOW / 2).await;
    for node in killed {
        stage.node(node)?.kill();
    }
    stage.cluster.nats.roll_back(&before).await?;
    for node in killed {
        stage.node(node)?.restart().await?;
    }
    // In the same stream, at numbers that the lost entries had.
    let shard = Shard::of(&room::tenant(), &room::room(name), SHARDS);
    let later = stage.play(&neighbour(shard)?, 8)?;
    let publisher = played.publisher.clone();
    let later = Outcome::complete(&stage, later).await?;
    let outcome = Outcome::complete(&stage, played).await?;
    let stats = publisher.stats();
    outcome.print(name, &format!("{} retries, {} replays", stats.retries, stats.replays))?;
    later.print(&format!("{name}, a room begun afterwards"), "")
}

/// Nobody reads while the log grows past where it was before it lost its end: its numbers alone do not show that it lost anything.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes longer: make chaos"]
async fn nats_rolled_back_unnoticed() -> Result<()> {
    let mut stage = Stage::with("nats_rolled_back_unnoticed", WINDOW, [1, 1, 1]).await?;
    let shard = Shard::of(&room::tenant(), &room::room("unnoticed"), SHARDS);
    let neighbour = neighbour(shard)?;
    let mut played = stage.play("unnoticed", 9)?;
    let others = SyntheticSpec { participants: 4, policy: Policy::default(), ..spec(&neighbour, 60) };
    played.commits.reach(1).await?;
    let before = stage.cluster.nats.copy_store()?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    stage.node("ingest-1")?.kill();
    let last = stage.ports.log.last_sequence(shard).await?;
    stage.cluster.nats.roll_back(&before).await?;
    let accepted = played.closed().await?;
    played.publisher.flush().await?;
    let _others = stage.play_as(others)?;
    until("the log is longer than it was", Duration::from_secs(30), async || {
        stage.ports.log.last_sequence(shard).await.is_ok_and(|now| now > last + 10)
    })
    .await?;
    stage.node("ingest-1")?.restart().await?;
    let publisher = played.publisher.clone();
    let outcome = Outcome::complete_of(&stage, accepted, played).await?;
    let stats = publisher.stats();
    outcome.print("nats_rolled_back_unnoticed", &format!("{} retries, {} replays", stats.retries, stats.replays))
}

/// A room in the same stream.
fn neighbour(shard: Shard) -> Result<String> {
    let mut names = (0..).map(|number| format!("neighbour-{number}"));
    let same = names.find(|id| Shard::of(&room::tenant(), &room::room(id), SHARDS) == shard);
    same.context("a shard has many rooms")
}

/// Three servers of which the leader is paused for 5 to 8 s, again and again, every third time a follower. The broker loses
/// acknowledged messages here: a publisher of numbers to the same stream, which believes what is acknowledged, counts them in
/// the worst of the replicas.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make chaos"]
async fn nats_leader_paused() -> Result<()> {
    const ROUNDS: usize = 8;
    // With less than `gap_after` between the pauses a replay finds no leader in time, and its gap is declared.
    const RECOVERY: Duration = Duration::from_secs(9);
    let mut stage = Stage::on(TestCluster::start_replicated().await?, "nats_leader_paused", WINDOW).await?;
    stage.populate([1, 1, 1]).await?;
    let shard = Shard::of(&room::tenant(), &room::room("recorded"), SHARDS);
    let played = stage.play_as(SyntheticSpec { participants: 4, ..spec("recorded", ROUNDS as u64 * 16 + 10) })?;
    played.commits.reach(2).await?;
    let url = stage.cluster.nats_config().url;
    let believer = Believer::start(&url, shard, &neighbour(shard)?).await?;
    for round in 0..ROUNDS {
        tokio::time::sleep(RECOVERY).await;
        let victim = server(&stage, shard, round % 3 == 2).await?;
        victim.pause()?;
        tokio::time::sleep(Duration::from_millis(5000 + 3000 * (round as u64 % 4) / 3)).await;
        victim.resume()?;
    }
    let publisher = played.publisher.clone();
    let outcome = Outcome::complete(&stage, played).await?;
    let (acknowledged, missing) = believer.count().await?;
    let lost = missing.iter().map(|(_, lost)| *lost).max().unwrap_or_default();
    let stats = publisher.stats();
    let more = format!(
        "{ROUNDS} pauses, {} retries, {} replays; the broker lost {lost} of {acknowledged} messages that it had acknowledged \
         to another publisher (missing by replica: {missing:?}), we lost 0",
        stats.retries, stats.replays,
    );
    outcome.print("nats_leader_paused", &more)?;
    ensure!(acknowledged > 1000, "hardly anything was published beside the room");
    Ok(())
}

/// Publishers of the [`Believer`].
const LANES: u64 = 8;

/// Publishes numbers, each under its own message id until it is acknowledged, as JetStream's documentation advises; then looks
/// what of them is there.
struct Believer {
    client: async_nats::Client,
    stream: String,
    subject: String,
    lanes: Vec<tokio::task::JoinHandle<u64>>,
    stop: tokio_util::sync::CancellationToken,
}

impl Believer {
    async fn start(url: &str, shard: Shard, room: &str) -> Result<Self> {
        let client = async_nats::connect(url.split(',').collect::<Vec<_>>()).await?;
        let address = Address {
            shard,
            tenant: room::tenant(),
            writer: Writer::Sfu(SfuId::new("believer")?),
            room: room::room(room),
            entry: Entry::Media(TrackId::new("numbers")?),
        };
        let subject = address.subject().as_str().to_owned();
        let stop = tokio_util::sync::CancellationToken::new();
        let lane = |lane| tokio::spawn(publish_numbers(client.clone(), subject.clone(), lane, stop.clone()));
        let lanes = (0..LANES).map(lane).collect();
        Ok(Self { client, stream: shard.stream_name(), subject, lanes, stop })
    }

    /// How many were acknowledged, and how many of them each replica lacks when it leads.
    async fn count(self) -> Result<(u64, Vec<(String, u64)>)> {
        self.stop.cancel();
        let mut acknowledged = BTreeSet::new();
        for (lane, publishing) in (0..).zip(self.lanes) {
            acknowledged.extend((0..publishing.await?).map(|count| lane + count * LANES));
        }
        let context = async_nats::jetstream::new(self.client.clone());
        let mut missing: Vec<(String, u64)> = Vec::new();
        for _ in 0..40 {
            // Each in turn leads; between two nobody does.
            tokio::time::sleep(Duration::from_secs(1)).await;
            let Ok(mut stream) = context.get_stream(&self.stream).await else { continue };
            let Ok(info) = stream.info().await else { continue };
            let Some(leader) = info.cluster.as_ref().and_then(|cluster| cluster.leader.clone()) else { continue };
            if missing.iter().all(|(known, _)| *known != leader) {
                let Ok(there) = read_numbers(&stream, &self.subject).await else { continue };
                let lost = acknowledged.difference(&there).count() as u64;
                missing.push((leader, lost));
            }
            if missing.len() == 3 {
                break;
            }
            let step_down = format!("$JS.API.STREAM.LEADER.STEPDOWN.{}", self.stream);
            let _ = self.client.request(step_down, "".into()).await;
        }
        Ok((acknowledged.len() as u64, missing))
    }
}

async fn read_numbers(stream: &async_nats::jetstream::stream::Stream, subject: &str) -> Result<BTreeSet<u64>> {
    let filter_subject = subject.to_owned();
    let config = async_nats::jetstream::consumer::pull::OrderedConfig { filter_subject, ..Default::default() };
    let mut messages = stream.create_consumer(config).await?.messages().await?;
    let mut there = BTreeSet::new();
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_secs(3), messages.next()).await {
        let payload = message?.payload.clone();
        there.extend(payload.first_chunk().map(|number| u64::from_le_bytes(*number)));
    }
    Ok(there)
}

/// Every [`LANES`]th number from `lane` on; answers how many were acknowledged.
async fn publish_numbers(
    client: async_nats::Client,
    subject: String,
    lane: u64,
    stop: tokio_util::sync::CancellationToken,
) -> u64 {
    let mut count = 0_u64;
    while !stop.is_cancelled() {
        let number = lane + count * LANES;
        let mut payload = vec![0; 900];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("believer-{number}").as_str());
        let request = async_nats::Request::new().headers(headers).payload(payload.into());
        let request = request.timeout(Some(Duration::from_secs(2)));
        // Anything but an acknowledgement: again, under the same id.
        if let Ok(answer) = client.send_request(subject.clone(), request).await
            && serde_json::from_slice::<serde_json::Value>(&answer.payload)
                .is_ok_and(|ack| ack["seq"].as_u64().is_some())
        {
            count += 1;
        }
        // Some 400 a second in all: the stream has room for minutes of it.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    count
}

/// The server that leads a shard's stream, or one that follows it, as soon as one leads.
async fn server(stage: &Stage, shard: Shard, follows: bool) -> Result<&NatsServer> {
    let client = async_nats::connect(stage.cluster.nats_config().url.split(',').collect::<Vec<_>>()).await?;
    let context = async_nats::jetstream::new(client);
    let mut leader = None;
    until("the stream has a leader", Duration::from_secs(30), async || {
        let Ok(mut stream) = context.get_stream(shard.stream_name()).await else { return false };
        let Ok(info) = stream.info().await else { return false };
        let name = info.cluster.as_ref().and_then(|cluster| cluster.leader.as_deref());
        leader = name.and_then(|name| name.strip_prefix("nats-")?.parse::<usize>().ok());
        leader.is_some()
    })
    .await?;
    let leader = leader.context("there is one")?;
    let number = if follows { (leader + 1) % 3 } else { leader };
    [&stage.cluster.nats].into_iter().chain(&stage.cluster.nats_peers).nth(number).context("such a server")
}
