//! `roomreel publish`: a capture or a made-up room, published into the log as an SFU would.
//!
//! Owns the choice of the source. Does not own what is played (`roomreel_sfu`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use clap::Args;
use roomreel_sfu::capture::{Capture, CaptureOptions};
use roomreel_sfu::publisher::spool::SpoolConfig;
use roomreel_sfu::publisher::{Command, CommandError, Publisher, PublisherConfig, SfuCommands};
use roomreel_sfu::source::{self, Played, Progress, Source};
use roomreel_sfu::synthetic::{Network, Script, SyntheticRoom, SyntheticSpec};
use roomreel_shared::id::{RoomId, SfuId, TenantId};
use roomreel_shared::policy::Policy;
use roomreel_shared::ports::{Bus, RoomLog};
use roomreel_shared::time::RoomTime;

use crate::config::duration;
use crate::settings::{ClusterArgs, LogArgs, TenantArgs};
use crate::telemetry::{self, TelemetryArgs};
use crate::{output, outside, shutdown};

/// Problems of a capture that are told one by one.
const TOLD_PROBLEMS: usize = 5;
/// How often it is looked whether everything is durable.
const DURABLE_POLL: Duration = Duration::from_millis(200);

/// What is played.
#[derive(Debug, Args)]
#[command(next_help_heading = "Room")]
pub struct RoomArgs {
    /// A capture of RTP and RTCP: pcap, pcapng or rtpdump. Without it, a made-up room is played.
    #[arg(long, value_name = "FILE", requires = "events")]
    pub capture: Option<PathBuf>,
    /// What happened in the captured room, one JSON object a line.
    #[arg(long, value_name = "FILE", requires = "capture")]
    pub events: Option<PathBuf>,
    /// Room id. [default: the capture's, or `demo`]
    #[arg(long, value_name = "ROOM")]
    pub room: Option<RoomId>,
    /// Participants of the made-up room.
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=49))]
    pub participants: u8,
    /// Length of the made-up room.
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,
    /// Seed of the made-up room: the same seed makes the same room.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,
    /// How many times as fast as it was the room is played.
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, value_parser = speed)]
    pub speed: f64,
}

fn speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|_| format!("{text:?} is not a number"))?;
    if (0.1..=100.0).contains(&speed) { Ok(speed) } else { Err("it is not between 0.1 and 100".to_owned()) }
}

/// A room that can be played.
pub enum AnySource {
    /// A capture.
    Capture(Box<Capture>),
    /// A made-up room.
    Synthetic(Box<SyntheticRoom>),
}

impl RoomArgs {
    /// The room, ready to be played.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn open(&self) -> anyhow::Result<AnySource> {
        let policy = Policy { auto_record: true, ..Policy::default() };
        if let (Some(capture), Some(events)) = (&self.capture, &self.events) {
            let options = CaptureOptions { room: self.room.clone(), policy: Some(policy) };
            let opened = Capture::open(capture, events, options)?;
            return Ok(AnySource::Capture(Box::new(opened)));
        }
        let now =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the system's clock is before 1970")?;
        let room = match &self.room {
            Some(room) => room.clone(),
            None => RoomId::new("demo")?,
        };
        let spec = SyntheticSpec {
            room,
            start: RoomTime::default() + now,
            duration: Duration::from_secs(u64::from(self.seconds)),
            participants: usize::from(self.participants),
            seed: self.seed,
            width: 640,
            height: 360,
            frame_rate: 30,
            video_bits_per_second: 600_000,
            network: Network::default(),
            script: Script { late_joins: false, leave: false, mute: false, screenshare: false, active_speaker: true },
            policy,
        };
        Ok(AnySource::Synthetic(Box::new(SyntheticRoom::new(spec)?)))
    }
}

impl AnySource {
    /// The room's id.
    #[must_use]
    pub fn room(&self) -> &RoomId {
        match self {
            Self::Capture(capture) => capture.room(),
            Self::Synthetic(room) => room.room(),
        }
    }

    /// Plays it to its end.
    pub async fn play(self, publisher: &Publisher, speed: f64, on_progress: impl FnMut(&Progress)) -> Played {
        let room = publisher.room(self.room().clone());
        match self {
            Self::Capture(capture) => source::play(*capture, &room, speed, on_progress).await,
            Self::Synthetic(synthetic) => source::play(*synthetic, &room, speed, on_progress).await,
        }
    }
}

/// A publisher that plays a room: participants are told by a line of the log, and what is played cannot be changed.
struct Player;

#[async_trait]
impl SfuCommands for Player {
    async fn perform(&self, room: &RoomId, command: Command) -> Result<(), CommandError> {
        match command {
            Command::Notify { notice, recording } => {
                tracing::info!(%room, %recording, ?notice, "participants are told");
                Ok(())
            }
            Command::SubscribeTrack(_) => Ok(()),
            Command::UnsubscribeTrack(_) | Command::RequestKeyframe { .. } => {
                Err(CommandError { code: 1003, message: "a room that is played cannot be changed".to_owned() })
            }
        }
    }
}

/// A publisher for a room that is played, as SFU `sfu`.
#[must_use]
pub fn publisher(log: Arc<dyn RoomLog>, bus: Arc<dyn Bus>, tenant: TenantId, sfu: SfuId, shards: u32) -> Publisher {
    Publisher::start_with(log, bus, PublisherConfig::new(tenant, sfu, shards), Arc::new(Player))
}

/// Tells what could not be played; the rest was.
pub fn tell_problems(played: &Played) {
    for problem in played.problems.iter().take(TOLD_PROBLEMS) {
        tracing::warn!(%problem, "left out");
    }
    if played.problem_count > TOLD_PROBLEMS as u64 {
        tracing::warn!(problems = played.problem_count, "left out, in all");
    }
}

/// Arguments of `roomreel publish`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  roomreel publish --seconds 60 --participants 9
  roomreel publish --capture standup.pcap --events standup.events.jsonl --nats-url nats://nats:4222

The room's policy says that it is recorded from its first producer on.")]
pub struct PublishArgs {
    #[command(flatten)]
    room: RoomArgs,
    /// Which SFU this plays; no two publishers may use one id at a time.
    #[arg(long, value_name = "SFU", default_value = "roomreel-publish")]
    sfu: SfuId,
    /// How long to wait at the end until all that was published is durable.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    durable_limit: Duration,
    /// Directory for what memory cannot hold and for what is not durable when this process dies; what an earlier one left
    /// there is published too.
    #[arg(long, value_name = "DIR")]
    spool: Option<PathBuf>,
    /// Most bytes in it.
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 30, requires = "spool")]
    spool_max_bytes: u64,
    /// TOML file with settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    tenant: TenantArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

/// Runs the command.
///
/// # Errors
/// If the room cannot be opened, the log is not there, or not all of the room was taken.
pub async fn run(args: &PublishArgs) -> anyhow::Result<()> {
    let source = args.room.open()?;
    let telemetry = telemetry::start(&args.telemetry, "publish", "info")?;
    let leaving = shutdown::token()?;
    let (log, bus) = outside::publishers_log(&args.log, &args.cluster).await?;
    let config = PublisherConfig::new(args.tenant.tenant.clone(), args.sfu.clone(), args.cluster.shards);
    let publisher = match args.spool.clone() {
        Some(dir) => {
            let spool = SpoolConfig { dir, max_bytes: args.spool_max_bytes };
            Publisher::start_spooled(log, bus, config, Arc::new(Player), &spool)?
        }
        None => Publisher::start_with(log, bus, config, Arc::new(Player)),
    };
    let recovered = publisher.stats().recovered;
    if recovered > 0 {
        tracing::info!(messages = recovered, "an earlier process left them in the spool; they are published now");
    }
    let mut line = output::Progress::new();
    let room = source.room().clone();
    let play = source.play(&publisher, args.room.speed, |progress| {
        if line.is_live() {
            // A terminal that has gone away is found out at the end.
            let _ = line.show(&describe(progress));
        }
    });
    let played = tokio::select! {
        played = play => played,
        () = leaving.cancelled() => bail!("ended by a signal before room {room} closed; the recording ends at its idle limit"),
    };
    line.end()?;
    tell_problems(&played);
    publisher.flush().await?;
    let durable = tokio::time::timeout(args.durable_limit, async {
        while publisher.stats().held_messages > 0 {
            tokio::time::sleep(DURABLE_POLL).await;
        }
    });
    if durable.await.is_err() {
        let held = publisher.stats().held_messages;
        tracing::warn!(messages = held, "in the log and not yet in a committed window; is an ingest node running?");
    }
    let stats = publisher.stats();
    output::print(format!(
        "published room {room}: {} packets, {} events, {} batches; {} retries, {} packets dropped\n",
        stats.accepted_packets, stats.events, stats.batches, stats.retries, stats.dropped_packets
    ))?;
    drop(publisher);
    telemetry.shut_down().await;
    Ok(())
}

/// How far the playing is, in a line.
#[must_use]
pub fn describe(progress: &Progress) -> String {
    let total = progress.total.map(|total| format!(" of {:.0}", total.as_secs_f64())).unwrap_or_default();
    format!("{:.1}{total} s played, {} packets", progress.elapsed.as_secs_f64(), progress.packets)
}
