//! `roomreel rebuild`: after a total loss of etcd, gives it back what the bucket knows of unfinished recordings.
//!
//! Owns telling. Does not own what is restored ([`roomreel_coordinator::rebuild`]).

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use roomreel_coordinator::rebuild::{self, Restored, Scan, Unfinished};
use roomreel_shared::ports::Coordination;

use crate::output::{self, Lines};
use crate::outside;
use crate::settings::{ClusterArgs, CoordinationArgs, StoreArgs};

/// Arguments of `roomreel rebuild`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  roomreel rebuild --store s3://recordings --etcd-endpoints http://etcd:2379
  roomreel rebuild --store s3://recordings --etcd-endpoints http://etcd:2379 --apply

Scans every recording of the bucket and says what is to be done; --apply does it. \
Records that are in etcd are left as they are, so running it again is harmless. \
Exits with 1 if a recording may be unfinished and cannot be restored.")]
pub struct RebuildArgs {
    /// Write to etcd; without it, only tell.
    #[arg(long)]
    apply: bool,
    /// TOML file with settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    coordination: CoordinationArgs,
}

/// Runs the command; `false` if something could not be restored.
///
/// # Errors
/// If the bucket or the coordination store does not answer.
pub async fn run(args: &RebuildArgs) -> anyhow::Result<bool> {
    let store = args.store.open().await?;
    let coordination = outside::coordination(&args.coordination).await?;
    let found = rebuild::scan(&*store, args.cluster.shards).await.context("scan the bucket")?;
    let (told, settled) = perform(&*coordination, &found, args.apply).await?;
    output::print(told)?;
    Ok(settled && found.unclear.is_empty())
}

async fn perform(coordination: &dyn Coordination, found: &Scan, apply: bool) -> anyhow::Result<(String, bool)> {
    let mut told = Lines::default();
    let mut settled = true;
    for unfinished in &found.unfinished {
        let restored = match apply {
            true => rebuild::apply(coordination, unfinished).await?,
            false => rebuild::preview(coordination, unfinished).await?,
        };
        settled &= restored != Restored::Contended;
        told.push(line(unfinished, restored, apply));
    }
    for (name, why) in &found.unclear {
        let (recording, room) = (&name.recording, &name.room);
        told.push(format!("{recording} of room {room}: cannot be restored: {why}"));
    }
    let (unfinished, all) = (found.unfinished.len(), found.recordings);
    let hint = if apply || unfinished == 0 { "" } else { "; nothing was written, give --apply to do it" };
    told.push(format!("{unfinished} of {all} recording(s) unfinished{hint}"));
    Ok((told.into_text(), settled))
}

fn line(unfinished: &Unfinished, restored: Restored, applied: bool) -> String {
    let recording = &unfinished.active.recording;
    let done = match (restored, applied) {
        (Restored::Created, true) => "restored",
        (Restored::Created, false) => "would be restored",
        (Restored::Raised, true) => "its epochs were raised above those of its windows",
        (Restored::Raised, false) => "its epochs would be raised above those of its windows",
        (Restored::Kept, _) => "in etcd, left as it is",
        (Restored::Contended, _) => "was written by somebody else at the same time; run again",
    };
    let (id, room, windows) = (&recording.id, &recording.room, unfinished.windows);
    format!("{id} of room {room} ({:?}, {windows} window(s), epoch {}): {done}", recording.state, unfinished.epoch)
}
