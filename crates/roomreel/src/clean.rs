//! `roomreel clean`: finds what in the bucket is part of no recording, and deletes what has been so for a grace.
//!
//! Owns telling. Does not own what is found, nor when it may go ([`roomreel_coordinator::clean`]).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use roomreel_coordinator::clean::{Cleaner, Left, Marked, Place, Report};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::duration;
use crate::output::{self, Lines};
use crate::outside;
use crate::settings::{CoordinationArgs, StoreArgs};

/// Arguments of `roomreel clean`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  roomreel clean --store s3://recordings --etcd-endpoints http://etcd:2379
  roomreel clean --store s3://recordings --etcd-endpoints http://etcd:2379 --delete

Each run marks what it finds with the time, below clean/ in the bucket, and says what may go. \
--delete deletes what has been marked for the grace, is unchanged since and is part of nothing still. \
Windows, recordings that are under way and names that roomreel does not give are never touched. \
Needs etcd and a leader, to know what is under way. Exits with 1 if something could not be looked at or deleted.")]
pub struct CleanArgs {
    /// Delete what may go; without it, only mark and tell.
    #[arg(long)]
    delete: bool,
    /// How long something must have been marked before it may go.
    #[arg(long, value_name = "DURATION", default_value = "7d", value_parser = duration)]
    grace: Duration,
    /// TOML file with settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    coordination: CoordinationArgs,
}

/// Runs the command; `false` if something could not be looked at or deleted.
///
/// # Errors
/// If nobody leads, or the bucket or the coordination store does not answer.
pub async fn run(args: &CleanArgs) -> anyhow::Result<bool> {
    let store = args.store.open().await?;
    let coordination = outside::coordination(&args.coordination).await?;
    let now = OffsetDateTime::now_utc();
    let cleaner = Cleaner { store: &*store, coordination: &*coordination, grace: args.grace };
    let report = cleaner.run(now, rand::random(), args.delete).await?;
    output::print(text(&report, args, now))?;
    Ok(report.troubles.is_empty())
}

/// Objects of one kind in one place.
#[derive(Default)]
struct Sum {
    objects: u64,
    bytes: u64,
    due: u64,
    deleted: u64,
    first_seen: Option<OffsetDateTime>,
}

impl Sum {
    fn add(&mut self, marked: &Marked, is_deleted: bool) {
        self.objects += 1;
        self.bytes += marked.candidate.size;
        self.due += u64::from(marked.is_due);
        self.deleted += u64::from(is_deleted);
        self.first_seen = Some(self.first_seen.map_or(marked.first_seen, |first| first.min(marked.first_seen)));
    }
}

fn text(report: &Report, args: &CleanArgs, now: OffsetDateTime) -> String {
    let mut sums: BTreeMap<(&Place, Left), Sum> = BTreeMap::new();
    let mut all = Sum::default();
    for marked in &report.marked {
        let is_deleted = report.deleted.contains(&marked.candidate);
        sums.entry((&marked.candidate.place, marked.candidate.left)).or_default().add(marked, is_deleted);
        all.add(marked, is_deleted);
    }
    let mut out = Lines::default();
    let mut line = |text: String| out.push(text);
    for ((place, left), sum) in &sums {
        line(format!("{place}: {} {}, {}", sum.objects, what(*left), fate(sum, args, now)));
    }
    report.troubles.iter().for_each(|trouble| line(trouble.clone()));
    if report.uploads_unknown {
        line("the store cannot tell which uploads are open; a lifecycle rule can end them".to_owned());
    }
    if report.foreign > 0 {
        line(format!("{} name(s) that roomreel does not give were left alone", report.foreign));
    }
    let (recordings, objects, size) = (report.recordings, all.objects, bytes(all.bytes));
    let came_of_it = match (args.delete, all.due) {
        (true, _) => format!("{} deleted, {} marked", all.deleted, objects - all.deleted),
        (false, 0) => "all marked, none may go yet".to_owned(),
        (false, due) => format!("all marked, {due} may go: give --delete to do it"),
    };
    line(format!("{recordings} recording(s) looked at, {objects} object(s) of {size} are part of none; {came_of_it}"));
    out.into_text()
}

fn what(left: Left) -> &'static str {
    match left {
        Left::Unfinished => "unfinished.json beside a final recording.json",
        Left::Slice => "slice(s) behind the recording's end",
        Left::File => "file(s) that neither the recording nor a late render knows",
        Left::Unknown => "object(s) of a recording without windows that nobody knows",
        Left::Probe => "object(s) of start-up checks",
        Left::Upload => "upload(s) that were never completed",
    }
}

fn fate(sum: &Sum, args: &CleanArgs, now: OffsetDateTime) -> String {
    let first = sum.first_seen.unwrap_or(now);
    let at = |time: OffsetDateTime| time.truncate_to_second().format(&Rfc3339).unwrap_or_default();
    let fate = match (sum.due, args.delete) {
        (0, _) => match time::Duration::try_from(args.grace).ok().and_then(|grace| first.checked_add(grace)) {
            Some(due) => format!("may go from {} on", at(due)),
            None => "may never go".to_owned(),
        },
        (due, false) => format!("{due} may go"),
        (due, true) if sum.deleted == due => format!("{due} deleted"),
        (due, true) => format!("{} of {due} deleted, the others were asked for or changed meanwhile", sum.deleted),
    };
    format!("{}, first seen {}: {fate}", bytes(sum.bytes), at(first))
}

/// A number of bytes as people read it.
fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{} kB", count / 1000),
        10_000_000..10_000_000_000 => format!("{} MB", count / 1_000_000),
        _ => format!("{} GB", count / 1_000_000_000),
    }
}
