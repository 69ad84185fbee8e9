//! Measures what ingest costs, beside a raw async-nats consumer of the same stream.
//!
//! `bench-ingest [throughput] [live] [rooms]`, all by default. A real NATS server and an S3 over HTTP, each in a process of
//! its own; whatever is measured runs in one too, and is charged with its own processor seconds alone. Ends with an error
//! if the ratio or the rate is below what it must be. `ROUNDS` in the environment: how many, 3 by default.
//!
//! The yardstick is async-nats' pull consumer as it comes: it acknowledges what it reads. The same without acknowledgements,
//! which is how ingest reads, is measured and printed beside it.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(missing_docs, reason = "a program has no users of its items")]

mod children;
mod ingest;
mod load;
mod raw;
mod shards;
mod usage;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::StreamExt as _;
use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::event::{EventKind, EventRef, RoomEvent};
use roomreel_shared::id::RecordingId;
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::policy::Policy;
use roomreel_shared::ports::{ObjectStore, RoomLog as _};
use roomreel_shared::subject::{Shard, shard_events_filter};
use roomreel_shared::window::Window;
use roomreel_tests::room;
use roomreel_tests::servers::NatsServer;

use crate::children::{Bucket, Role, Running, Store, run};
use crate::load::Load;
use crate::usage::{Sample, time_of};

/// Must: of the acknowledging raw consumer's rate, and packets a second and core, into S3 with batches of 16 KiB.
const MUST_RATIO: f64 = 0.45;
const MUST_PACKETS: f64 = 300_000.0;
/// Must: memory of a recorded track.
const MUST_TRACK_BYTES: u64 = 512 * 1024;
/// Rounds, if the environment does not say how many; what is printed is the median.
const ROUNDS: usize = 3;
/// What a window of a room holds at four tracks of 1 Mbit/s and four seconds.
const WINDOW_BYTES: u64 = 2_000_000;

/// 32 tracks in batches of 16 KiB.
const BATCHED: Load = Load { rooms: 8, tracks: 4, packets: 25_600, batch_bytes: 16 * 1024, live: false };
/// The same, one packet a message.
const SINGLE: Load = Load { packets: 4_800, batch_bytes: 1, ..BATCHED };
/// 200 tracks of 1 Mbit/s for 25 s.
const LIVE: Load = Load { rooms: 20, tracks: 10, packets: 2_840, batch_bytes: 16 * 1024, live: true };

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, role] = &arguments[..]
        && flag == "--role"
    {
        return children::perform(serde_json::from_str(role)?).await;
    }
    if arguments.is_empty() {
        arguments = ["throughput", "live", "rooms"].map(str::to_owned).to_vec();
    }
    let mut failures = Vec::new();
    for section in arguments {
        match section.as_str() {
            "throughput" => throughput(&mut failures).await?,
            "live" => live(&mut failures).await?,
            "rooms" => rooms().await?,
            other => anyhow::bail!("{other:?} is none of throughput, live, rooms"),
        }
    }
    ensure!(failures.is_empty(), "below what it must be: {}", failures.join("; "));
    Ok(())
}

/// A stream that has been filled.
struct Filled {
    nats: NatsServer,
    load: Load,
    messages: u64,
    beginnings: BTreeMap<String, (EventRef, u64)>,
    window_ms: u64,
}

async fn fill(load: Load) -> Result<Filled> {
    let nats = NatsServer::start().await?;
    let log = children::log(&nats.url()).await?;
    let before = time_of(nats.process()?)?;
    let sample = run(&Role::Publish { nats: nats.url(), load }, None).await?;
    let server = time_of(nats.process()?)? - before;
    let messages = log.last_sequence(Shard::all(1).next().context("a shard")?).await?;
    row("publisher library, to JetStream", std::slice::from_ref(&sample), &[server], messages, &[]);
    let windows = (sample.bytes / load.rooms as u64 / WINDOW_BYTES).max(1);
    let window_ms = ((sample.wall * 1000.0) as u64 / windows).max(1);
    Ok(Filled { beginnings: beginnings(&log, load.rooms).await?, nats, load, messages, window_ms })
}

/// Where each room begins in the log.
async fn beginnings(
    log: &impl roomreel_shared::ports::RoomLog,
    rooms: usize,
) -> Result<BTreeMap<String, (EventRef, u64)>> {
    let shard = Shard::all(1).next().context("a shard")?;
    let mut events = log.read(shard, &shard_events_filter(shard), 1).await?;
    let mut beginnings = BTreeMap::new();
    while beginnings.len() < rooms {
        let entry = tokio::time::timeout(Duration::from_secs(20), events.next()).await?.context("the log ended")??;
        let event = RoomEvent::decode(entry.payload)?;
        if let EventKind::RoomCreated { .. } = event.kind {
            let from = EventRef { incarnation: event.incarnation.get(), event_no: event.event_no };
            beginnings.insert(event.room.to_string(), (from, entry.sequence));
        }
    }
    Ok(beginnings)
}

/// A recording of every room, from its beginning on.
fn recordings(beginnings: &BTreeMap<String, (EventRef, u64)>, window_ms: u64, round: usize) -> Result<Vec<FoldSpec>> {
    let spec = |(room, (from, sequence)): (&String, &(EventRef, u64))| {
        Ok(FoldSpec {
            tenant: room::tenant(),
            room: room::room(room),
            recording: RecordingId::new(format!("{room}-{round}"))?,
            shards: 1,
            from: Some(*from),
            session: None,
            beginning: None,
            start_sequence: *sequence,
            window_ms,
            policy: Policy::default(),
            epoch_base: 0,
        })
    };
    beginnings.iter().map(spec).collect()
}

async fn throughput(failures: &mut Vec<String>) -> Result<()> {
    for (name, load) in [("batches of 16 KiB", BATCHED), ("one packet a message", SINGLE)] {
        let rounds = std::env::var("ROUNDS").map_or(Ok(ROUNDS), |rounds| rounds.parse())?.max(1);
        println!("\n{name}: {} rooms of {} tracks, median of {rounds} rounds", load.rooms, load.tracks);
        println!(
            "{:<34} {:>11} {:>8} {:>10} {:>9} {:>8} {:>7}",
            "", "packets/s", "MB/s", "µs/message", "NATS µs/m", "S3 MB/s", "spread"
        );
        let filled = fill(load).await?;
        let bucket = Bucket::start().await?;
        let [unacknowledged, raw, floor, null, s3, _] = measure(&filled, &bucket, rounds).await?;
        println!("of the raw consumer's rate, to a null store: {:.3}", null / raw);
        println!(
            "of the raw consumer's rate, the raw consumer to S3: {:.3}; of that, ingest: {:.3}",
            floor / raw,
            s3 / floor
        );
        println!("of the raw consumer's rate without acknowledgements, to S3: {:.3}", s3 / unacknowledged);
        if load.batch_bytes > 1 {
            let ratio = s3 / raw;
            println!("ratio {ratio:.3}");
            if ratio < MUST_RATIO {
                failures.push(format!("ratio {ratio:.3}, must be {MUST_RATIO}"));
            }
            if s3 < MUST_PACKETS {
                failures.push(format!("{s3:.0} packets/s a core, must be {MUST_PACKETS}"));
            }
        }
    }
    Ok(())
}

/// Packets a second and core: raw without acknowledgements, raw, raw into S3, ingest into nothing, into S3, into S3 with
/// signed payloads.
async fn measure(filled: &Filled, bucket: &Bucket, rounds: usize) -> Result<[f64; 6]> {
    let Filled { nats, load, messages, beginnings, window_ms } = filled;
    let url = nats.url();
    let (mut samples, mut servers) = ([const { Vec::new() }; 6], [const { Vec::new() }; 6]);
    let mut buckets = [const { Vec::new() }; 6];
    let store = bucket.store().await?;
    let message_bytes = load.batch_bytes.max(1_100);
    for round in 0..rounds {
        let raw =
            |ack, into_bucket| Role::Raw { nats: url.clone(), messages: *messages, message_bytes, ack, into_bucket };
        let specs = recordings(beginnings, *window_ms, round)?;
        let ingest = |store| Role::Ingest { nats: url.clone(), store, recordings: specs.clone() };
        let stores = [Store::Null, Store::Bucket, Store::SigningBucket];
        let roles = [raw(false, false), raw(true, false), raw(true, true)].into_iter().chain(stores.map(ingest));
        for (at, role) in roles.enumerate() {
            let before = (time_of(nats.process()?)?, bucket.process().map(time_of).transpose()?);
            let mut sample = run(&role, Some(bucket)).await?;
            servers[at].push(time_of(nats.process()?)? - before.0);
            if (at == 2 || at >= 4)
                && let (Some(process), Some(before)) = (bucket.process(), before.1)
            {
                buckets[at].push(time_of(process)? - before);
            }
            sample.packets = load.total_packets();
            samples[at].push(sample);
            if at >= 4 {
                check_and_delete(&*store, &specs, load.total_packets()).await?;
            }
        }
    }
    let names = [
        "raw consumer, no acknowledgements",
        "raw consumer",
        "raw consumer, to S3",
        "ingest, to a null store",
        "ingest, to S3",
        "ingest, to S3, payloads signed",
    ];
    let mut medians = [0.0; 6];
    for (at, name) in names.into_iter().enumerate() {
        medians[at] = row(name, &samples[at], &servers[at], *messages, &buckets[at]);
    }
    Ok(medians)
}

/// Every packet is in the windows, once.
async fn check_and_delete(store: &dyn ObjectStore, specs: &[FoldSpec], expected: u64) -> Result<()> {
    let mut packets = 0;
    for spec in specs {
        let keys = RecordingKeys::new(&spec.tenant, &spec.room, &spec.recording);
        for listed in store.list(&keys.windows_prefix()).await? {
            let window = Window::parse(store.get(&listed.key).await?)?;
            packets += window.segments.iter().map(|segment| u64::from(segment.packets)).sum::<u64>();
            store.delete(&listed.key).await?;
        }
    }
    ensure!(packets == expected, "{packets} packets are in the windows, {expected} were published");
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn row(name: &str, samples: &[Sample], servers: &[f64], messages: u64, buckets: &[f64]) -> f64 {
    let rates: Vec<f64> = samples.iter().map(Sample::packets_per_core).collect();
    let (least, most) =
        (rates.iter().copied().fold(f64::INFINITY, f64::min), rates.iter().copied().fold(0.0, f64::max));
    let rate = median(rates);
    let bytes = median(samples.iter().map(Sample::megabytes_per_core).collect());
    let own = median(samples.iter().map(|sample| sample.cpu).collect()) * 1e6 / messages as f64;
    let server = median(servers.to_vec()) * 1e6 / messages as f64;
    let bucket = if buckets.is_empty() {
        String::new()
    } else {
        format!("{:.0}", samples[0].bytes as f64 / 1e6 / median(buckets.to_vec()))
    };
    let spread = (most - least) / rate * 100.0;
    println!("{name:<34} {rate:>11.0} {bytes:>8.0} {own:>10.1} {server:>9.1} {bucket:>8} {spread:>6.0}%");
    rate
}

async fn live(failures: &mut Vec<String>) -> Result<()> {
    let tracks = (LIVE.rooms * LIVE.tracks) as u64;
    println!("\nlive: {} rooms of {} tracks of 1 Mbit/s, windows of 4 s, to S3", LIVE.rooms, LIVE.tracks);
    let nats = NatsServer::start().await?;
    let log = children::log(&nats.url()).await?;
    let bucket = Bucket::start().await?;
    let publisher = Running::start(&Role::Publish { nats: nats.url(), load: LIVE }, None)?;
    let specs = recordings(&beginnings(&log, LIVE.rooms).await?, load::WINDOW.as_millis() as u64, 0)?;
    let mut sample =
        run(&Role::Ingest { nats: nats.url(), store: Store::Bucket, recordings: specs.clone() }, Some(&bucket)).await?;
    let published = publisher.finish().await?;
    check_and_delete(&*bucket.store().await?, &specs, LIVE.total_packets()).await?;
    sample.packets = LIVE.total_packets();
    let a_track = |bytes: u64| bytes / tracks / 1024;
    println!(
        "publisher {:.0} packets/s a core, ingest {:.0} packets/s a core, {:.1} mCPU a track",
        published.packets_per_core(),
        sample.packets_per_core(),
        sample.cpu / sample.wall / tracks as f64 * 1000.0
    );
    println!("memory a track: {} KiB at most, {} KiB on average", a_track(sample.memory.0), a_track(sample.memory.1));
    let hours = LIVE.rooms as f64 * sample.wall / 3600.0;
    println!(
        "PUTs a room and hour: {:.0} (windows of 4 s; {} in {:.1} s)",
        sample.puts as f64 / hours,
        sample.puts,
        sample.wall
    );
    if sample.memory.0 / tracks > MUST_TRACK_BYTES {
        failures.push(format!("{} KiB a track, must be {}", a_track(sample.memory.0), MUST_TRACK_BYTES / 1024));
    }
    Ok(())
}

async fn rooms() -> Result<()> {
    println!("\nrooms in one stream, each read by a filtered consumer; 500 messages/s of 12.5 kB in all");
    println!(
        "{:>6} {:>16} {:>10} {:>10} {:>22}",
        "rooms", "NATS µs/message", "p50 ms", "p99 ms", "read one room again, NATS ms"
    );
    for rooms in [1, 10, 50, 100, 200, 500] {
        let messages = 2_500;
        let nats = NatsServer::start().await?;
        let _log = children::log(&nats.url()).await?;
        let before = time_of(nats.process()?)?;
        let sample = run(&Role::Follow { nats: nats.url(), rooms, messages }, None).await?;
        let followed = time_of(nats.process()?)?;
        let again = run(&Role::TakeOver { nats: nats.url(), rooms, messages }, None).await?;
        let taken_over = time_of(nats.process()?)? - followed;
        let percentile =
            |percent: usize| sample.latencies[(sample.latencies.len() - 1) * percent / 100] as f64 / 1000.0;
        println!(
            "{rooms:>6} {:>16.0} {:>10.2} {:>10.2} {:>22.0} ({:.0} ms)",
            (followed - before) * 1e6 / messages as f64,
            percentile(50),
            percentile(99),
            taken_over * 1000.0,
            again.wall * 1000.0
        );
    }
    Ok(())
}
