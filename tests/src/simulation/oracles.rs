//! What must hold, whatever went wrong: the books of the publisher against the bucket.
//!
//! O1 complete, O2 unique, O3 order, O4 integrity, O5 immutable, O6 a single history, O7 liveness after the healing,
//! O8 nothing silent.

use std::collections::BTreeMap;
use std::iter;
use std::time::Duration;

use bytes::Bytes;
use roomreel_ingest::FoldConfig;
use roomreel_shared::event::{EventKind, RoomEvent};
use roomreel_shared::time::LogTime;
use roomreel_shared::window::AcceptedReason;

use super::chains::{Chains, Declared, Numbering, Recorded, read_chains};
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
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Accepted by the publisher.
    pub accepted: u64,
    /// In a window.
    pub recorded: u64,
    /// In a gap record.
    pub declared: u64,
    /// Lost with the process that held them, past the end of what anybody else has seen.
    pub unknown: u64,
    /// In another recording of the room, as docs/guarantees.md says.
    pub elsewhere: u64,
    /// Of a room that goes on after its recording.
    pub beyond: u64,
    /// Entries that the log acknowledged and lost.
    pub broker_lost: u64,
    /// Windows.
    pub windows: u64,
    /// Packets and events that are not recorded, by what made them be accepted as missing.
    pub excused: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// Adds another run's.
    pub fn add(&mut self, other: Self) {
        self.accepted += other.accepted;
        self.recorded += other.recorded;
        self.declared += other.declared;
        self.unknown += other.unknown;
        self.elsewhere += other.elsewhere;
        self.beyond += other.beyond;
        self.broker_lost += other.broker_lost;
        self.windows += other.windows;
        for (why, count) in other.excused {
            *self.excused.entry(why).or_default() += count;
        }
    }

    fn excuse(&mut self, why: &'static str) {
        *self.excused.entry(why).or_default() += 1;
    }
}

/// Time-outs of the fold are looked at on a grid of log time: a moment more than it does not count.
const GRID: Duration = Duration::from_millis(200);

pub(super) type Check<T = ()> = Result<T, Violation>;

pub(super) fn fail<T>(oracle: &'static str, what: String) -> Check<T> {
    Err(Violation { oracle, what })
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
    let chains = read_chains(env)?;
    let recorded = &chains.main;
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
    for (at, life) in env.ledger.lives.iter().enumerate() {
        let later = &env.ledger.lives[at + 1..];
        for (id, track) in &life.tracks {
            check_track(env, Place { life, later, id: id.as_str(), track }, &chains, counts)?;
        }
        check_events(env, life, &chains, counts)?;
    }
    let known = |numbering: &Numbering| {
        let mut tracks =
            env.ledger.lives.iter().filter_map(|life| life.tracks.iter().find(|(id, _)| id.as_str() == numbering.0));
        tracks.any(|(_, track)| track.incarnation == Some(numbering.1))
    };
    if let Some(foreign) = recorded.packets.keys().find(|numbering| !known(numbering)) {
        return fail("O4", format!("nobody accepted what is recorded of {foreign:?}"));
    }
    if env.finished[0].incomplete != recorded.is_incomplete() {
        let what = if recorded.is_incomplete() {
            "lacks packets and does not say so"
        } else {
            "lacks nothing and says it does"
        };
        return fail("O8", format!("the recording {what}"));
    }
    Ok(())
}

/// Whether it can be that nothing was ever begun: nobody lived to tell of the room.
fn may_not_begin(env: &Env) -> bool {
    env.ledger.lives.iter().all(|life| life.crashed)
}

/// A packet that is not recorded.
#[derive(Debug, Clone, Copy)]
struct Accepted {
    incarnation: u64,
    packet_no: u64,
    /// The batch it was sent in, if it was.
    batch: Option<(u64, u64)>,
}

/// Whose packets are looked at.
#[derive(Debug, Clone, Copy)]
struct Place<'a> {
    life: &'a Life,
    /// The processes that followed it.
    later: &'a [Life],
    id: &'a str,
    track: &'a Track,
}

fn check_track(env: &Env, place: Place, chains: &Chains, counts: &mut Counts) -> Check {
    let Place { life, id, track, .. } = place;
    let recorded = &chains.main;
    let numbering = (id.to_owned(), track.incarnation.unwrap_or_default());
    let nothing = BTreeMap::new();
    let packets = recorded.packets.get(&numbering).unwrap_or(&nothing);
    let excuse_of_end = end_is_unknown(env, place, chains);
    for (packet_no, (bytes, batch)) in (0..).zip(&track.packets) {
        let name = || {
            let newest = packets.last_key_value().map(|(number, _)| number);
            let gaps = recorded.gaps.get(&numbering).map_or(&[][..], Vec::as_slice);
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
        let is_elsewhere = |other: &Recorded| {
            let stored = other.packets.get(&numbering).and_then(|packets| packets.get(&packet_no));
            stored == Some(bytes) || stored.is_none() && other.gap(&numbering, packet_no).is_some()
        };
        if let Some(gap) = recorded.gap(&numbering, packet_no) {
            let packet = Accepted { incarnation: numbering.1, packet_no, batch: track.incarnation.zip(*batch) };
            let Some(why) = truth_of(env, life, gap, packet, chains) else {
                return fail("O8", format!("{} is declared missing by {gap:?}, which is not so", name()));
            };
            counts.excuse(why);
            counts.declared += 1;
        } else if is_behind_the_end(env, track.incarnation.zip(*batch), chains) {
            counts.excuse("stop: not before it in the log");
            counts.beyond += 1;
        } else if env.original.any(Fault::loses_acknowledged) && chains.others.iter().any(is_elsewhere) {
            counts.elsewhere += 1;
        } else if !life.crashed {
            return fail("O1", format!("{} is neither recorded nor declared", name()));
        } else if let Some(why) = excuse_of_end.or_else(|| beginning_is_unknown(env, place, packet_no, chains)) {
            counts.excuse(why);
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

/// Whether a recording ended while its room went on, and nothing that stands before that in the log tells of the batch or
/// event: it came later, or is lost with all that followed it.
fn is_behind_the_end(env: &Env, id: Option<(u64, u64)>, chains: &Chains) -> bool {
    let mut stops = iter::once(&chains.main).chain(&chains.others).filter_map(|recorded| recorded.stopped);
    let start = chains.began.map_or(0, |began| began.start_sequence);
    stops.any(|stop| is_behind(env, id, stop, start))
}

/// `start`: where the recording is read from.
fn is_behind(env: &Env, id: Option<(u64, u64)>, stop: (u64, u64), start: u64) -> bool {
    let (Some(stopped), Some(id)) = (env.log.first_of((stop.0, stop.1..)), id) else { return true };
    let mut read = env.log.standing_from((id.0, id.1..)).filter(|copied| copied.sequence >= start);
    let stands_before = read.any(|copied| copied.newest + GRID < stopped);
    let was_before = || env.log.first_of((id.0, id.1..)).is_some_and(|first| first + GRID < stopped);
    let is_lost = env.log.standing(id).is_empty() && was_before();
    !stands_before && (!is_lost || env.original.any(Fault::loses_acknowledged))
}

/// Why nobody can tell how far the numbers of a process that died went, as docs/guarantees.md has it.
fn end_is_unknown(env: &Env, place: Place, chains: &Chains) -> Option<&'static str> {
    let Place { life, later, id, track } = place;
    let batches = track.packets.iter().filter_map(|(_, batch)| track.incarnation.zip(*batch));
    let no_batch = batches.into_iter().all(|batch| chains.never_finds(env, batch));
    if no_batch && !chains.main.knows(id, track) {
        return Some("end: no batch of the track can be read");
    }
    let no_event = life.events.keys().all(|event| chains.never_finds(env, *event));
    let followed = |life: &Life| {
        let mut tracks = life.tracks.iter();
        tracks.any(|(other, track)| other.as_str() == id && chains.main.knows(id, track))
    };
    (no_event && !later.iter().any(followed)).then_some("end: no event of the process can be read")
}

/// Why nobody can tell that a process that died was at work before the session that is recorded, as docs/guarantees.md has it.
fn beginning_is_unknown(env: &Env, place: Place, packet_no: u64, chains: &Chains) -> Option<&'static str> {
    let Place { life, later, id, track } = place;
    let recorded = &chains.main;
    let numbering = (id.to_owned(), track.incarnation?);
    let of_next = |next: &Life| next.events.keys().any(|(of, _)| Some(*of) == recorded.from);
    let creates = |bytes: &Bytes| {
        RoomEvent::decode(bytes.clone()).is_ok_and(|event| matches!(event.kind, EventKind::RoomCreated { .. }))
    };
    let mut created = life.events.iter().filter(|(_, bytes)| creates(bytes));
    let is_before = recorded.gaps.get(&numbering).is_none_or(|gaps| gaps.iter().all(|gap| packet_no < gap.packets.0))
        && recorded.packets.get(&numbering).is_none_or(|packets| packets.keys().all(|other| packet_no < *other));
    let batch = track.packets.get(usize::try_from(packet_no).ok()?)?.1;
    let is_lost = batch.is_none_or(|batch| chains.never_finds(env, (numbering.1, batch)));
    let is_so =
        later.iter().any(of_next) && created.all(|(id, _)| chains.never_finds(env, *id)) && is_before && is_lost;
    is_so.then_some("beginning: no creation of the process can be read")
}

/// What makes a gap record true after what went wrong, if anything does.
fn truth_of(env: &Env, life: &Life, gap: &Declared, packet: Accepted, chains: &Chains) -> Option<&'static str> {
    let plan = &env.original;
    match (gap.reason, gap.packets.1) {
        (AcceptedReason::Publisher, None) if life.crashed => Some("publisher: its process died"),
        // A start of the publisher that the log showed too late looks like another's end.
        (AcceptedReason::Publisher, None) => {
            plan.any(Fault::loses_entries).then_some("publisher: seemed to begin again")
        }
        (AcceptedReason::Publisher, Some(_)) => {
            (packet.batch.is_none() && plan.has(Fault::BufferIsSmall)).then_some("publisher: dropped by it")
        }
        // It never sent them, and said so too late.
        (AcceptedReason::Log, _) if packet.batch.is_none() => {
            let is_so = plan.has(Fault::BufferIsSmall) && !word_came(env, life, packet, chains);
            is_so.then_some("log: dropped by the publisher, whose word came late or never")
        }
        (AcceptedReason::Log, _) => truth_of_log_gap(env, life, packet.batch?, chains),
        (AcceptedReason::Policy | AcceptedReason::Pause | AcceptedReason::Damaged, _) => None,
    }
}

/// What makes it true that a batch did not come within `gap_after` of what follows it.
fn truth_of_log_gap(env: &Env, life: &Life, batch: (u64, u64), chains: &Chains) -> Option<&'static str> {
    let plan = &env.original;
    let start = chains.began.map_or(0, |began| began.start_sequence);
    if came_in_time(env, batch, noticed(env, life, batch), chains) {
        return None;
    }
    let standing = env.log.standing(batch);
    // Whoever reads a log long after it was written, and not all of it, gives holes up before they are filled.
    let late = chains.began.filter(|began| began.at > FoldConfig::default().gap_after);
    let late = late.filter(|_| plan.any(Fault::loses_acknowledged));
    if late.is_some() && standing.iter().any(|copied| copied.sequence < start) {
        return Some("log: stands before a late beginning");
    }
    let is_late = plan.any(Fault::delays_batches);
    match env.log.lost(batch) {
        _ if life.crashed => Some("log: not in time, its process died"),
        Some(_) if life.stats.evicted > 0 => Some("log: lost, and evicted by the publisher"),
        Some(_) if was_unknown(plan) => Some("log: lost, and perhaps let go before the recording was known"),
        Some(_) if is_late => Some("log: lost, and replays may have been"),
        Some(at) if late.is_some_and(|late| at < late.at) => Some("log: lost before a late beginning"),
        Some(_) => None,
        // Whose recording has ended is not waited for: what was on its way is never seen to arrive.
        None if standing.is_empty() && chains.main.stopped.is_some() => is_late.then_some("log: stored too late"),
        None if standing.is_empty() && life.stats.evicted == 0 => None,
        None if standing.is_empty() => Some("log: never stored, evicted by the publisher"),
        None => is_late.then_some("log: stored too late"),
    }
}

/// Whether the publisher's word that it dropped a packet came in its order, before what it dropped was given up.
fn word_came(env: &Env, life: &Life, packet: Accepted, chains: &Chains) -> bool {
    life.events.iter().any(|((of, number), bytes)| {
        let Ok(RoomEvent { kind: EventKind::PublisherGap(gap), .. }) = RoomEvent::decode(bytes.clone()) else {
            return false;
        };
        let noticed = noticed(env, life, (packet.incarnation, gap.batches.1));
        gap.incarnation.get() == packet.incarnation
            && (gap.packets.0..=gap.packets.1).contains(&packet.packet_no)
            && (0..=*number).all(|number| {
                // An event that comes after it was given up is not taken any more.
                let missed = env.log.first_of((*of, number + 1..));
                // Nor is one that a stop did not wait for.
                let is_behind = is_behind_the_end(env, Some((*of, number)), chains);
                !is_behind && came_in_time(env, (*of, number), noticed.into_iter().chain(missed).min(), chains)
            })
    })
}

/// Whether a batch or an event stands in the log where it is read, before what misses it is given up.
fn came_in_time(env: &Env, id: (u64, u64), noticed: Option<LogTime>, chains: &Chains) -> bool {
    let start = chains.began.map_or(0, |began| began.start_sequence);
    let in_time = |newest: LogTime| noticed.is_none_or(|at| newest + GRID < at + FoldConfig::default().gap_after);
    env.log.standing(id).iter().any(|copied| copied.sequence >= start && in_time(copied.newest))
}

/// When the log first told of a number behind this batch, or of the end of the numbers.
fn noticed(env: &Env, life: &Life, (incarnation, number): (u64, u64)) -> Option<LogTime> {
    let follows = env.log.first_of((incarnation, number + 1..));
    let closes = |bytes: &Bytes| {
        RoomEvent::decode(bytes.clone()).is_ok_and(|event| matches!(event.kind, EventKind::RoomClosed { .. }))
    };
    let closed = life.events.iter().filter(|(_, bytes)| closes(bytes));
    let closed = closed.filter_map(|((of, number), _)| env.log.first_of((*of, *number..)));
    closed.chain(follows).min()
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

fn check_events(env: &Env, life: &Life, chains: &Chains, counts: &mut Counts) -> Check {
    let is_elsewhere = |id: &(u64, u64), bytes: &Bytes| {
        let has = |other: &Recorded| other.events.get(id) == Some(bytes) || other.lacks(*id);
        env.original.any(Fault::loses_acknowledged) && chains.others.iter().any(has)
    };
    for (id, bytes) in &life.events {
        match chains.main.events.get(id) {
            Some(stored) if stored != bytes => return fail("O4", format!("event {id:?} has other bytes")),
            Some(_) => {}
            None if chains.main.lacks(*id) => counts.excuse("event: named as missing"),
            None if is_behind_the_end(env, Some(*id), chains) => counts.excuse("event: not before a stop in the log"),
            None if is_elsewhere(id, bytes) => counts.excuse("event: in another recording"),
            None if life.crashed && chains.never_finds(env, *id) => counts.excuse("event: lost with its process"),
            None => return fail("O1", format!("event {id:?} is not recorded")),
        }
    }
    Ok(())
}
