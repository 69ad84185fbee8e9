//! What came of a room: everything accepted against everything recorded, in one line.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::recording::{Recording, State};
use roomreel_shared::subject::Writer;
use roomreel_tests::audit::{self, LogContents, PacketId, RecordingContents, Verdict};
use roomreel_tests::room;

use crate::stage::{Accepted, Commits, Played, Stage};

/// Longest from the room's end, or the servers' return, to a final state.
pub const FINAL_LIMIT: Duration = Duration::from_secs(90);

/// A final recording, read from scratch.
pub struct Outcome {
    pub recording: Recording,
    pub contents: RecordingContents,
    pub verdict: Verdict,
    pub commits: Vec<Instant>,
    pub slices: u64,
}

impl Outcome {
    /// Waits for the room's end and its recording's, and requires what the promise says: COMPLETE, every accepted packet and event
    /// once, nothing declared missing, slices without a hole, and no object written twice.
    pub async fn complete(stage: &Stage, mut played: Played) -> Result<Self> {
        let accepted = played.closed().await?;
        Self::complete_of(stage, accepted, played).await
    }

    /// The same of a room that has closed.
    pub async fn complete_of(stage: &Stage, accepted: Accepted, played: Played) -> Result<Self> {
        played.publisher.flush().await?;
        let recording = room::final_recording(&*stage.ports.store, &played.room, FINAL_LIMIT).await?;
        let contents = audit::read_recording(&*stage.ports.store, &room::keys(&recording)).await?;
        let log = expected(&accepted, &contents)?;
        let outcome = Self::of(stage, recording, contents, &log, &played.commits).await?;
        let Self { recording, contents, verdict, .. } = &outcome;
        ensure!(recording.state == State::Complete, "{:?}: {}", recording.state, recording.reason);
        ensure!(!recording.incomplete && verdict.declared == 0, "it calls itself incomplete: {verdict}");
        ensure!(contents.packets.len() == verdict.recorded, "packets were recorded that nobody published: {verdict}");
        audit::require_everything_once(&log, contents)?;
        Ok(outcome)
    }

    /// Of a recording that has ended, against what `log` says was accepted.
    pub async fn of(
        stage: &Stage,
        recording: Recording,
        contents: RecordingContents,
        log: &LogContents,
        commits: &Commits,
    ) -> Result<Self> {
        let keys = room::keys(&recording);
        let slices = audit::require_contiguous_slices(&*stage.ports.store, &keys, &CompositeSpec::default().id).await?;
        ensure!(slices > 0 || contents.windows.is_empty(), "no slice was rendered");
        let mut created = BTreeSet::new();
        for write in stage.cluster.s3.history() {
            let is_once = write.path.ends_with(".win") || write.path.ends_with(".m4s");
            ensure!(!is_once || created.insert(write.path.clone()), "I2, I5: {} was written twice", write.path);
        }
        Ok(Self { verdict: audit::compare(log, &contents), commits: commits.times(), recording, contents, slices })
    }

    /// Longest time between two commits.
    pub fn silence(&self) -> Duration {
        self.commits.iter().zip(self.commits.iter().skip(1)).map(|(a, b)| *b - *a).max().unwrap_or_default()
    }

    /// From `fault` to the first window of another owner than the first one.
    pub fn taken_over_after(&self, fault: Instant) -> Result<Duration> {
        let first = self.contents.windows.first().context("there is no window")?.header.epoch;
        let successor = self.contents.windows.iter().position(|window| window.header.epoch != first);
        let at = *self.commits.get(successor.context("nobody took over")?).context("the commit was not seen")?;
        Ok(at.saturating_duration_since(fault))
    }

    /// How many owners the chain has.
    pub fn owners(&self) -> usize {
        self.contents.windows.iter().map(|window| window.header.epoch).collect::<BTreeSet<_>>().len()
    }

    /// Prints the scenario's line, past the harness, which would keep it to itself.
    pub fn print(&self, scenario: &str, more: &str) -> Result<()> {
        let Self { verdict, slices, .. } = self;
        let windows = self.contents.windows.len();
        let silence = self.silence().as_secs_f64();
        Ok(writeln!(
            std::io::stderr(),
            "chaos {scenario}: {verdict}; {silence:.1} s without a commit; {windows} windows, {slices} slices; {more}"
        )?)
    }
}

/// What the log would hold if it lost nothing: the publisher's numbers are contiguous from 0 in the order of acceptance.
fn expected(accepted: &Accepted, contents: &RecordingContents) -> Result<LogContents> {
    let mut log = LogContents { closed: true, ..LogContents::default() };
    for (track, hashes) in &accepted.packets {
        let incarnations: BTreeSet<u64> =
            contents.packets.keys().filter(|id| id.track == *track).map(|id| id.incarnation).collect();
        ensure!(incarnations.len() <= 1, "one publisher numbered {track} under {incarnations:?}");
        let incarnation = incarnations.first().copied().unwrap_or_default();
        for (hash, packet_no) in hashes.iter().zip(0..) {
            log.packets.insert(PacketId { sfu: room::sfu(), track: track.clone(), incarnation, packet_no }, *hash);
        }
    }
    let writer = Writer::Sfu(room::sfu());
    let incarnation = contents.events.keys().next().context("no event was recorded")?.1;
    log.events = (0..accepted.events).map(|number| (writer.clone(), incarnation, number)).collect();
    Ok(log)
}
