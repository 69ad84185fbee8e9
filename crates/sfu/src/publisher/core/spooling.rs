//! What the core has the spool do: every message is written, one whose bytes memory cannot hold is read back when its turn
//! comes, and what an earlier process left is published under its old numbers.
//!
//! What memory gives up first are the bytes of written messages: those the broker has acknowledged, oldest first, then those
//! whose turn is farthest away.

use std::collections::BTreeSet;

use bytes::Bytes;
use roomreel_shared::event::{EventKind, PublisherGap};
use roomreel_shared::subject::Entry;
use roomreel_shared::time::RoomTime;

use super::super::spool::{Job, Place, Recovered};
use super::session::Mark;
use super::{Core, MessageKey, Sending, Series};

/// What the core knows of the spool.
#[derive(Debug, Default)]
pub(super) struct Spooling {
    /// There is one.
    pub(super) is_on: bool,
    jobs: std::collections::VecDeque<Job>,
    /// Messages whose bytes are in memory and in the spool: acknowledged ones, and ones whose turn is to come.
    spare: [BTreeSet<MessageKey>; 2],
    /// Read back; their places in the window are theirs already.
    pub(super) ready: std::collections::VecDeque<MessageKey>,
}

impl Core {
    /// From here on there is a spool.
    pub fn use_spool(&mut self) {
        self.spooling.is_on = true;
    }

    /// The next job of the spool.
    pub fn next_job(&mut self) -> Option<Job> {
        self.spooling.jobs.pop_front()
    }

    /// The spool has no place for `job` now: a message stays in memory alone, all else is done later. Answers whether further
    /// jobs may be tried.
    pub fn put_back(&mut self, job: Job) -> bool {
        if let Job::Write { key, .. } = job {
            self.on_not_spooled(key);
            return true;
        }
        self.spooling.jobs.push_front(job);
        false
    }

    pub(super) fn spool(&mut self, key: MessageKey) {
        let Some(message) = self.messages.get(&key).filter(|_| self.spooling.is_on) else { return };
        let (is_batch, payload) = (message.track.is_some(), message.payload.clone());
        self.spooling.jobs.push_back(Job::Write { key, is_batch, payload });
    }

    /// A message is written.
    pub fn on_spooled(&mut self, key: MessageKey, place: Place) {
        self.stats.spooled += 1;
        let Some(message) = self.messages.get_mut(&key) else {
            // It became durable meanwhile; what number it had does not matter to the files.
            self.spooling.jobs.push_back(Job::Forget { incarnation: 0, numbers: (1, 0), places: vec![place] });
            return;
        };
        message.place = Some(place);
        self.refile(key);
    }

    /// A message is not written; memory alone has it.
    pub fn on_not_spooled(&mut self, _key: MessageKey) {
        self.stats.not_spooled += 1;
    }

    /// A message is read back; `None`: the spool cannot give it.
    pub fn on_read(&mut self, key: MessageKey, payload: Option<Bytes>) {
        let Some(message) = self.messages.get_mut(&key).filter(|message| message.sending == Sending::Loading) else {
            self.window -= 1;
            return; // nothing that is being sent is forgotten
        };
        let Some(payload) = payload.filter(|payload| payload.len() == message.length) else {
            self.window -= 1;
            message.sending = Sending::Idle;
            self.lose(key);
            return;
        };
        message.payload = payload;
        message.is_loaded = true;
        message.sending = Sending::Ready;
        self.bytes += message.length;
        if message.track.is_none() {
            self.event_bytes += message.length;
        }
        self.spooling.ready.push_back(key);
    }

    /// Asks for the bytes of a message whose turn it is.
    pub(super) fn load(&mut self, key: MessageKey) {
        let Some(message) = self.messages.get_mut(&key) else { return };
        message.sending = Sending::Loading;
        let place = message.place.expect("what is not in memory is in the spool");
        self.spooling.jobs.push_back(Job::Read { key, place });
    }

    /// What the spool cannot give any more is declared missing.
    fn lose(&mut self, key: MessageKey) {
        let Some(message) = self.messages.get(&key) else { return };
        let (room, incarnation, number, packets) =
            (message.room.clone(), message.incarnation, message.number, message.packets);
        // What a watermark covers is in a window, or declared missing already.
        let track = message.track.clone().filter(|_| !message.is_covered);
        self.forget(key);
        let Some(track) = track else { return };
        self.stats.dropped_packets += packets.1 - packets.0 + 1;
        self.stats.dropped_batches += 1;
        self.stats.gaps += 1;
        let reason = "the publisher's spool was damaged".to_owned();
        let gap = PublisherGap { track, incarnation, packets, batches: (number, number), reason };
        self.room(&room);
        self.append_event(&room, RoomTime::default(), EventKind::PublisherGap(gap)).expect("a gap is a small event");
    }

    /// Notes whether a message's bytes may leave memory.
    pub(super) fn refile(&mut self, key: MessageKey) {
        self.spooling.spare.iter_mut().for_each(|keys| {
            keys.remove(&key);
        });
        // Events are few and have a bound of their own.
        let Some(message) =
            self.messages.get(&key).filter(|message| message.place.is_some() && message.track.is_some())
        else {
            return;
        };
        match message.sending {
            _ if !message.is_loaded => {}
            Sending::Idle if message.stored => drop(self.spooling.spare[0].insert(key)),
            Sending::Queued => drop(self.spooling.spare[1].insert(key)),
            _ => {}
        }
    }

    /// Lets the bytes of one message go; `false` if there is none that can.
    pub(super) fn unload_one(&mut self) -> bool {
        let [acknowledged, waiting] = &mut self.spooling.spare;
        let Some(key) = acknowledged.pop_first().or_else(|| waiting.pop_last()) else { return false };
        let Some(message) = self.messages.get_mut(&key) else { return true };
        message.payload = Bytes::new();
        message.is_loaded = false;
        self.bytes -= message.length;
        self.stats.unloaded += 1;
        true
    }

    /// Messages of one numbering are held no more.
    pub(super) fn despool(&mut self, incarnation: u64, forgotten: &[(u64, Place)]) {
        let (Some(first), Some(last)) = (forgotten.first(), forgotten.last()) else { return };
        let places = forgotten.iter().map(|(_, place)| *place).collect();
        self.spooling.jobs.push_back(Job::Forget { incarnation, numbers: (first.0, last.0), places });
    }

    /// Publishes what an earlier process left, under its old numbers.
    pub fn recover(&mut self, recovered: Vec<Recovered>) {
        let (ends, others): (Vec<_>, Vec<_>) = recovered.into_iter().partition(|recovered| recovered.id.closes_room);
        for Recovered { id, place, bytes } in others.into_iter().chain(ends) {
            let is_new = !self.rooms.contains_key(&id.room);
            self.room(&id.room);
            let entry = id.track.clone().map_or(Entry::Event, Entry::Media);
            let room = self.rooms.get_mut(&id.room).expect("made above");
            // Nobody publishes it now: it is gone when all of it is durable.
            room.closed |= is_new;
            let shard = room.shard;
            if !room.earlier.contains_key(&id.incarnation) {
                let series = Series { incarnation: id.incarnation, ..self.new_series(shard, &id.room, entry) };
                self.rooms.get_mut(&id.room).expect("made above").earlier.insert(id.incarnation, series);
            }
            let series = &self.rooms[&id.room].earlier[&id.incarnation];
            if series.held.contains_key(&id.number) {
                continue;
            }
            let subject = series.subject.clone();
            let message = super::Message {
                room: id.room.clone(),
                track: id.track,
                incarnation: id.incarnation,
                number: id.number,
                packets: id.packets,
                mark: if id.closes_room { Mark::Closed } else { Mark::Plain },
                subject,
                trace_parent: None,
                payload: Bytes::new(),
                length: bytes,
                is_loaded: false,
                place: Some(place),
                sending: Sending::Queued,
                attempts: 0,
                replay: 0,
                stored: false,
                stored_at: std::time::Duration::ZERO,
                is_covered: false,
            };
            self.stats.recovered += 1;
            self.hold(message);
        }
    }
}

#[cfg(test)]
#[path = "spooling_tests.rs"]
mod tests;
