//! What must hold, whatever went wrong: the books of the publisher against the bucket.
//!
//! O1 complete, O2 unique, O3 order, O4 integrity, O5 immutable, O6 a single history, O7 liveness after the healing,
//! O8 nothing silent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use roomreel_shared::event::EventKind;
use roomreel_shared::window::{AcceptedReason, Hash, Missing, Window};

use super::faults::{Fault, Plan};
use super::ledger::{Life, Track};
use super::world::Env;

/// Something does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which oracle.
    pub oracle: &'static str,
    /// What it found.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.oracle, self.what)
    }
}

/// What became of the packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accepted by the publisher.
    pub accepted: u64,
    /// In a window.
    pub recorded: u64,
    /// In a gap record.
    pub declared: u64,
    /// Lost with the process that held them, past the end of what anybody else has seen.
    pub unknown: u64,
    /// Lost by the log in one of the ways that docs/guarantees.md says nobody notices.
    pub unnoticed: u64,
    /// Entries that the log acknowledged and lost.
    pub broker_lost: u64,
    /// Windows.
    pub windows: u64,
}

impl Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.recorded += other.recorded;
        self.declared += other.declared;
        self.unknown += other.unknown;
        self.unnoticed += other.unnoticed;
        self.broker_lost += other.broker_lost;
        self.windows += other.windows;
    }
}

/// As the fold's.
const GAP_AFTER: Duration = Duration::from_secs(10);

type Check<T = ()> = Result<T, Violation>;

fn fail<T>(oracle: &'static str, what: String) -> Check<T> {
    Err(Violation { oracle, what })
}

/// An incarnation of a track.
type Numbering = (String, u64);

/// A gap record of packets that were accepted.
#[derive(Debug, Clone, Copy)]
struct Declared {
    reason: AcceptedReason,
    packets: (u64, Option<u64>),
}

#[derive(Debug, Default)]
struct Recorded {
    packets: BTreeMap<Numbering, BTreeMap<u64, Bytes>>,
    gaps: BTreeMap<Numbering, Vec<Declared>>,
    events: BTreeMap<(u64, u64), Bytes>,
    /// Events that the chain says it lacks: which start of a writer, and inclusive numbers.
    missing_events: BTreeSet<(u64, u64, u64)>,
    windows: u64,
    is_final: bool,
    incomplete: bool,
    /// Whose event the recording is to begin with.
    from: Option<u64>,
}

impl Recorded {
    /// Whether nobody can tell that a process died: all that it said of itself was lost, or it was dead before the session
    /// that is recorded began.
    fn never_knew(&self, env: &Env, life: &Life) -> bool {
        if life.crashed && !life.events.keys().any(|event| self.events.contains_key(event)) {
            return true;
        }
        let wrote = |life: &Life| life.events.keys().any(|(of, _)| Some(*of) == self.from);
        life.crashed && env.ledger.lives.iter().skip_while(|other| !std::ptr::eq(*other, life)).skip(1).any(wrote)
    }

    fn lacks(&self, (of, number): (u64, u64)) -> bool {
        self.missing_events.iter().any(|(start, first, last)| *start == of && (*first..=*last).contains(&number))
    }
}

/// Judges a run that has ended.
#[must_use]
pub fn judge(env: &Env) -> (Option<Violation>, Counts) {
    let mut counts = Counts { broker_lost: env.log.acknowledged_and_lost, ..Counts::default() };
    let violation = check(env, &mut counts).err();
    (violation, counts)
}

fn check(env: &Env, counts: &mut Counts) -> Check {
    if let Some(key) = env.store.overwritten.first() {
        return fail("O5", format!("{key} was overwritten"));
    }
    let recorded = read_chain(env)?;
    if let Some(window) = env.premature {
        return fail("O1", format!("the watermark of window {window} was sent before the window stood"));
    }
    if let Some(batch) = env.passed_over {
        return fail("O1", format!("batch {batch:x?} was asked for again, which the log had shown: it was not read"));
    }
    counts.windows = recorded.windows;
    for life in &env.ledger.lives {
        counts.accepted += life.tracks.values().map(|track| track.packets.len() as u64).sum::<u64>();
    }
    if recorded.windows == 0 && may_not_begin(env) {
        counts.unknown = counts.accepted;
        return Ok(());
    }
    if !recorded.is_final || env.finished.is_empty() {
        return fail("O7", format!("no final state after {:?}, {} windows", env.now, recorded.windows));
    }
    for life in &env.ledger.lives {
        for (id, track) in &life.tracks {
            check_track(env, life, id.as_str(), track, &recorded, counts)?;
        }
        check_events(env, life, &recorded)?;
    }
    let known = |numbering: &Numbering| {
        let mut tracks =
            env.ledger.lives.iter().filter_map(|life| life.tracks.iter().find(|(id, _)| id.as_str() == numbering.0));
        tracks.any(|(_, track)| track.incarnation == Some(numbering.1))
    };
    if let Some(foreign) = recorded.packets.keys().find(|numbering| !known(numbering)) {
        return fail("O4", format!("nobody accepted what is recorded of {foreign:?}"));
    }
    // What an owner had found out and could not report is in its windows alone.
    let could_report = !env.original.any(Fault::keeps_owners_from_reporting);
    if recorded.incomplete && could_report && !env.finished.iter().any(|recording| recording.incomplete) {
        return fail("O8", "packets are missing and the recording does not say that it is incomplete".to_owned());
    }
    Ok(())
}

/// Whether it can be that nothing was ever begun: nobody lived to tell of the room.
fn may_not_begin(env: &Env) -> bool {
    env.ledger.lives.iter().all(|life| life.crashed)
}

/// Reads the chain and checks that it is one (O6), with every batch once (O2) and in order (O3).
fn read_chain(env: &Env) -> Check<Recorded> {
    let mut recorded = Recorded::default();
    let mut finals = BTreeSet::new();
    let mut chain: BTreeMap<String, (u64, Option<Hash>, u64)> = BTreeMap::new();
    let mut next: BTreeMap<(String, Numbering), u64> = BTreeMap::new();
    for (key, object) in env.store.objects() {
        let window = match Window::parse(object.clone()) {
            Ok(window) => window,
            Err(why) => return fail("O4", format!("{key}: {why}")),
        };
        let header = &window.header;
        let of = header.recording.to_string();
        let (number, previous, epoch) = chain.entry(of.clone()).or_insert((0, None, 0));
        if header.window != *number || !key.ends_with(&format!("{number:08}.win")) {
            return fail("O6", format!("{key} is window {} and follows {number} windows", header.window));
        }
        if header.previous != *previous {
            return fail("O6", format!("window {number} does not name the hash of the one before"));
        }
        if header.epoch < *epoch {
            return fail("O6", format!("window {number} has epoch {} after {epoch}", header.epoch));
        }
        if !finals.insert(of.clone()) {
            return fail("O6", format!("window {number} follows the last one"));
        }
        if header.end.is_none() {
            finals.remove(&of);
        }
        (*number, *previous, *epoch) = (header.window + 1, Some(window.hash()), header.epoch);
        // A log that lost a room's beginning makes the coordinator take it for another session, and record it again: each
        // chain must be one, and the first that was final is compared with the books.
        if env.finished.first().is_some_and(|first| first.id != header.recording) {
            continue;
        }
        recorded.windows += 1;
        recorded.is_final = header.end.is_some();
        read_window(&window, &of, &mut recorded, &mut next)?;
    }
    Ok(recorded)
}

fn read_window(
    window: &Window,
    of: &str,
    recorded: &mut Recorded,
    next: &mut BTreeMap<(String, Numbering), u64>,
) -> Check {
    let number = window.header.window;
    for segment in &window.segments {
        let batches = match window.batches(segment) {
            Ok(batches) => batches,
            Err(why) => return fail("O4", format!("window {number}: {why}")),
        };
        for stored in batches {
            let stored = match stored {
                Ok(stored) => stored,
                Err(why) => return fail("O4", format!("window {number}: {why}")),
            };
            let batch = stored.batch;
            let numbering = (batch.track.to_string(), batch.incarnation.get());
            if !stored.late {
                let next = next.entry((of.to_owned(), numbering.clone())).or_default();
                if batch.first_packet_no < *next && !recorded.packets.contains_key(&numbering) {
                    return fail("O3", format!("window {number}: packet {} before its turn", batch.first_packet_no));
                }
                if batch.first_packet_no < *next {
                    let oracle =
                        if recorded.packets[&numbering].contains_key(&batch.first_packet_no) { "O2" } else { "O3" };
                    return fail(oracle, format!("window {number}: packet {} again or late", batch.first_packet_no));
                }
                *next = batch.next_packet_no();
            }
            for (packet_no, packet) in (batch.first_packet_no..).zip(&batch.packets) {
                let packets = recorded.packets.entry(numbering.clone()).or_default();
                if packets.insert(packet_no, packet.data.bytes().clone()).is_some() {
                    return fail("O2", format!("window {number}: packet {packet_no} of {numbering:?} is there twice"));
                }
            }
        }
    }
    for gap in &window.header.gaps {
        if let Missing::Accepted { reason, packets, .. } = gap.missing {
            recorded.incomplete |= !reason.is_intentional();
            let numbering = (gap.key.track.to_string(), gap.incarnation.get());
            recorded.gaps.entry(numbering).or_default().push(Declared { reason, packets });
        }
    }
    for stream in &window.header.carry_over.event_streams {
        recorded.incomplete |= !stream.missing.is_empty();
        let missing = stream.missing.iter().map(|range| (stream.incarnation, range.first, range.last));
        recorded.missing_events.extend(missing);
    }
    for stored in &window.events {
        if let EventKind::RecordingStarted { from, .. } = stored.event.kind {
            recorded.from = recorded.from.or(from.map(|event| event.incarnation));
        }
        if stored.writer.sfu().is_none() {
            continue;
        }
        let id = (stored.event.incarnation.get(), stored.event.event_no);
        if recorded.events.insert(id, stored.event.encode()).is_some() {
            return fail("O2", format!("window {number}: event {id:?} is there twice"));
        }
    }
    Ok(())
}

fn check_track(env: &Env, life: &Life, id: &str, track: &Track, recorded: &Recorded, counts: &mut Counts) -> Check {
    let numbering = (id.to_owned(), track.incarnation.unwrap_or_default());
    let nothing = BTreeMap::new();
    let packets = recorded.packets.get(&numbering).unwrap_or(&nothing);
    let gaps = recorded.gaps.get(&numbering).map_or(&[][..], Vec::as_slice);
    for (packet_no, (bytes, batch)) in (0..).zip(&track.packets) {
        let name = || {
            let newest = packets.last_key_value().map(|(number, _)| number);
            let gaps: Vec<_> = gaps.iter().map(|gap| (gap.reason, gap.packets)).collect();
            let of = track.incarnation.unwrap_or_default();
            format!(
                "packet {packet_no}, batch {batch:?} of {id} {of:x} (newest recorded {newest:?}, declared {gaps:?})"
            )
        };

        if let Some(stored) = packets.get(&packet_no) {
            if stored != bytes {
                return fail("O4", format!("{} has other bytes", name()));
            }
            counts.recorded += 1;
            continue;
        }
        let covers = |gap: &&Declared| packet_no >= gap.packets.0 && gap.packets.1.is_none_or(|last| packet_no <= last);
        if let Some(gap) = gaps.iter().find(covers) {
            if !is_true(&env.original, life, gap, track.incarnation.zip(*batch), env) {
                return fail("O8", format!("{} is declared missing by {gap:?}, which is not so", name()));
            }
            counts.declared += 1;
        } else if is_unnoticed(env) {
            counts.unnoticed += 1;
        } else if !life.crashed {
            return fail("O1", format!("{} is neither recorded nor declared", name()));
        } else if packets.is_empty() && gaps.is_empty() || recorded.never_knew(env, life) {
            counts.unknown += 1;
        } else {
            return fail("O8", format!("{} went with the SFU's process and nothing says so", name()));
        }
    }
    if let Some(beyond) = packets.keys().find(|number| **number >= track.packets.len() as u64) {
        return fail("O4", format!("packet {beyond} of {id} was never accepted"));
    }
    Ok(())
}

/// The loss that docs/guarantees.md excepts: where the log's loss of a beginning makes a leader see two sessions, the rest is
/// in the other recording.
fn is_unnoticed(env: &Env) -> bool {
    env.original.any(Fault::loses_acknowledged) && env.finished.len() > 1
}

/// Whether what a gap record says can be so after what went wrong.
fn is_true(plan: &Plan, life: &Life, gap: &Declared, batch: Option<(u64, u64)>, env: &Env) -> bool {
    match (gap.reason, gap.packets.1) {
        // A start of the publisher that the log showed too late looks like another's end.
        (AcceptedReason::Publisher, None) => life.crashed || plan.any(Fault::loses_entries),
        (AcceptedReason::Publisher, Some(_)) => batch.is_none() && plan.has(Fault::BufferIsSmall),
        (AcceptedReason::Log, _) => {
            let was_lost = batch.is_some_and(|batch| env.log.lost.contains(&batch));
            let is_late = plan.any(Fault::delays_batches);
            let had_it = !life.crashed && life.stats.evicted == 0 && !was_unknown(plan);
            // Whoever reads a log long after it was written, and perhaps not all of it, gives holes up before they are filled.
            let began_late = env.began.is_none_or(|began| began > GAP_AFTER);
            life.crashed || is_late || began_late || was_lost && !had_it
        }
        (AcceptedReason::Policy | AcceptedReason::Pause | AcceptedReason::Damaged, _) => false,
    }
}

/// Whether the publisher may not have heard for its grace that the room is under recording.
fn was_unknown(plan: &Plan) -> bool {
    let delays = [
        Fault::AllLeasesExpire,
        Fault::CoordinationIsAway,
        Fault::LeadersPause,
        Fault::LeadersCrash,
        Fault::WatchesAreStale,
        Fault::StoreIsAway,
        Fault::StoreIsBusy,
        Fault::StoreReadsTorn,
    ];
    plan.any(|fault| delays.contains(&fault))
}

fn check_events(env: &Env, life: &Life, recorded: &Recorded) -> Check {
    for (id, bytes) in &life.events {
        match recorded.events.get(id) {
            Some(stored) if stored != bytes => return fail("O4", format!("event {id:?} has other bytes")),
            Some(_) => {}
            None if recorded.lacks(*id) || life.crashed => {}
            None if is_unnoticed(env) => {}
            None => return fail("O1", format!("event {id:?} is not recorded")),
        }
    }
    Ok(())
}
