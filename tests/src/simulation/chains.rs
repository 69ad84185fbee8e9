//! The chains of the room as they stand in the bucket: that each is one (O6), unique (O2) and in order (O3).
//!
//! Does not own whether what they say is so: see [`super::oracles`].

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use roomreel_shared::event::{EventKind, StopReason};
use roomreel_shared::id::RecordingId;
use roomreel_shared::window::{AcceptedReason, Hash, Missing, Window};

use super::ledger::Track;
use super::oracles::{Check, fail};
use super::world::{Began, Env};

/// An incarnation of a track.
pub(super) type Numbering = (String, u64);

/// A gap record of packets that were accepted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Declared {
    pub(super) reason: AcceptedReason,
    pub(super) packets: (u64, Option<u64>),
}

/// One chain.
#[derive(Debug, Default)]
pub(super) struct Recorded {
    pub(super) packets: BTreeMap<Numbering, BTreeMap<u64, Bytes>>,
    pub(super) gaps: BTreeMap<Numbering, Vec<Declared>>,
    pub(super) events: BTreeMap<(u64, u64), Bytes>,
    /// Events that the chain says it lacks: which start of a writer, and inclusive numbers.
    pub(super) missing_events: BTreeSet<(u64, u64, u64)>,
    pub(super) windows: u64,
    pub(super) is_final: bool,
    /// Something is missing that nothing will bring.
    pub(super) lost: bool,
    /// Batches that the log lost and that have not come late.
    pub(super) outstanding: BTreeSet<(Numbering, u64)>,
    /// The control entry by which it ended while its room went on.
    pub(super) stopped: Option<(u64, u64)>,
    /// Hash and epoch of the newest window.
    pub(super) newest: Option<(Hash, u64)>,
    /// Whose event the recording is to begin with.
    pub(super) from: Option<u64>,
    /// The next packet of each numbering.
    pub(super) next: BTreeMap<Numbering, u64>,
}

impl Recorded {
    pub(super) fn is_incomplete(&self) -> bool {
        self.lost || !self.outstanding.is_empty()
    }

    pub(super) fn lacks(&self, (of, number): (u64, u64)) -> bool {
        self.missing_events.iter().any(|(start, first, last)| *start == of && (*first..=*last).contains(&number))
    }

    pub(super) fn gap(&self, numbering: &Numbering, packet_no: u64) -> Option<&Declared> {
        let covers = |gap: &&Declared| packet_no >= gap.packets.0 && gap.packets.1.is_none_or(|last| packet_no <= last);
        self.gaps.get(numbering)?.iter().find(covers)
    }

    /// Whether anything of a track is here, or is said to be missing.
    pub(super) fn knows(&self, id: &str, track: &Track) -> bool {
        let numbering = (id.to_owned(), track.incarnation.unwrap_or_default());
        self.packets.contains_key(&numbering) || self.gaps.contains_key(&numbering)
    }
}

/// The chains of the room: that which the books are compared with, and those of sessions that a leader saw besides.
#[derive(Debug, Default)]
pub(super) struct Chains {
    pub(super) main: Recorded,
    pub(super) others: Vec<Recorded>,
    /// When the main one was begun, and where reading begins.
    pub(super) began: Option<Began>,
}

impl Chains {
    /// Whether nobody who folds the main chain ever finds a batch or an event.
    pub(super) fn never_finds(&self, env: &Env, id: (u64, u64)) -> bool {
        let start = self.began.map_or(0, |began| began.start_sequence);
        env.log.standing(id).iter().all(|copied| copied.sequence < start)
    }
}

/// Reads all chains and checks that each is one (O6), with every batch once (O2) and in order (O3).
///
/// A log that lost a room's beginning makes the coordinator take it for another session, and record it again: the first that
/// was final is compared with the books.
pub(super) fn read_chains(env: &Env) -> Check<Chains> {
    let mut chains: BTreeMap<RecordingId, Recorded> = BTreeMap::new();
    for (key, object) in env.store.objects() {
        let window = match Window::parse(object.clone()) {
            Ok(window) => window,
            Err(why) => return fail("O4", format!("{key}: {why}")),
        };
        let header = &window.header;
        let recorded = chains.entry(header.recording.clone()).or_default();
        let number = recorded.windows;
        if header.window != number || !key.ends_with(&format!("{number:08}.win")) {
            return fail("O6", format!("{key} is window {} and follows {number} windows", header.window));
        }
        if header.previous != recorded.newest.map(|(hash, _)| hash) {
            return fail("O6", format!("window {number} does not name the hash of the one before"));
        }
        if let Some((_, epoch)) = recorded.newest.filter(|(_, epoch)| header.epoch < *epoch) {
            return fail("O6", format!("window {number} has epoch {} after {epoch}", header.epoch));
        }
        if recorded.is_final {
            return fail("O6", format!("window {number} follows the last one"));
        }
        recorded.newest = Some((window.hash(), header.epoch));
        recorded.windows += 1;
        recorded.is_final = header.end.is_some();
        read_window(&window, recorded)?;
    }
    let first = env.finished.first().map(|first| first.id.clone()).or_else(|| chains.keys().next().cloned());
    let main = first.as_ref().and_then(|first| chains.remove(first)).unwrap_or_default();
    let began = first.and_then(|first| env.began.get(&first).copied());
    Ok(Chains { main, others: chains.into_values().collect(), began })
}

fn read_window(window: &Window, recorded: &mut Recorded) -> Check {
    let number = window.header.window;
    for gap in &window.header.gaps {
        if let Missing::Accepted { reason, batches, packets } = gap.missing {
            let numbering = (gap.key.track.to_string(), gap.incarnation.get());
            if reason == AcceptedReason::Log {
                recorded.outstanding.extend((batches.0..=batches.1).map(|batch| (numbering.clone(), batch)));
            } else {
                recorded.lost |= !reason.is_intentional();
            }
            recorded.gaps.entry(numbering).or_default().push(Declared { reason, packets });
        }
    }
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
            if stored.late {
                recorded.outstanding.remove(&(numbering.clone(), batch.batch_no));
            } else {
                let next = recorded.next.entry(numbering.clone()).or_default();
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
    for stream in &window.header.carry_over.event_streams {
        recorded.lost |= !stream.missing.is_empty();
        let missing = stream.missing.iter().map(|range| (stream.incarnation, range.first, range.last));
        recorded.missing_events.extend(missing);
    }
    for stored in &window.events {
        if let EventKind::RecordingStarted { from, .. } = stored.event.kind {
            recorded.from = recorded.from.or(from.map(|event| event.incarnation));
        }
        let id = (stored.event.incarnation.get(), stored.event.event_no);
        if let EventKind::RecordingStopped { reason: StopReason::LimitReached, .. } = stored.event.kind {
            recorded.stopped = Some(id);
        }
        if stored.writer.sfu().is_none() {
            continue;
        }
        if recorded.events.insert(id, stored.event.encode()).is_some() {
            return fail("O2", format!("window {number}: event {id:?} is there twice"));
        }
    }
    Ok(())
}
