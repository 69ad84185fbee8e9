//! Control entries on their way into the logs: numbers, order, and appending again what has not come back.
//!
//! Owns the numbering: per room an incarnation of its own, event numbers contiguous from 0. An entry is kept until the reader
//! of the log sees it back, and appended again under a new message id, because a broker can lose what it acknowledged and
//! swallow the retry. A command is told apart by its id, so what two leaders append has one effect.
//!
//! Does not own what is commanded (see [`crate::plan`]), the log, or any clock.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use roomreel_shared::batch::{Incarnation, message_id, replay_message_id};
use roomreel_shared::event::{EventKind, RoomEvent};
use roomreel_shared::ports::NewEntry;
use roomreel_shared::subject::{Address, Entry, Shard, Writer};
use roomreel_shared::time::RoomTime;

use crate::rooms::{Echo, RoomKey};

/// An entry that has not come back after this is appended again.
const ECHO_LIMIT: Duration = Duration::from_secs(2);
/// A command whose effect is still demanded after this becomes a new entry: the broker may have lost one that had come back.
const COMMAND_AGAIN: Duration = Duration::from_secs(30);
/// Most entries of a room under way; no tick is added beyond half of it.
const MAX_PENDING: usize = 16;
/// A room that nothing was wanted of for this long is forgotten.
const FORGET: Duration = Duration::from_secs(120);

struct Pending {
    event: RoomEvent,
    attempts: u32,
    next_try: Duration,
}

struct Queue {
    incarnation: Incarnation,
    next_event_no: u64,
    pending: VecDeque<Pending>,
    commanded: BTreeMap<String, Duration>,
    last_tick: Option<Duration>,
    last_wanted: Duration,
}

/// The control entries of one leadership.
pub struct Control {
    seed: u64,
    queues_made: u64,
    shards: u32,
    window: Duration,
    queues: BTreeMap<RoomKey, Queue>,
}

/// When an entry is made: since the leadership began, and on the leader's wall clock.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// Never goes back.
    pub monotonic: Duration,
    /// What the entry will say.
    pub wall: RoomTime,
}

impl Control {
    /// `seed` must be random, and new for each leadership: incarnations are made from it.
    #[must_use]
    pub fn new(seed: u64, shards: u32, window: Duration) -> Self {
        Self { seed, queues_made: 0, shards, window, queues: BTreeMap::new() }
    }

    /// Puts a command on its way unless it is, or was lately.
    pub fn command(&mut self, room: &RoomKey, command: &str, event: EventKind, at: At) {
        let queue = self.queue(room, at);
        let lately = |when: &Duration| at.monotonic.saturating_sub(*when) < COMMAND_AGAIN;
        if queue.pending.len() >= MAX_PENDING || queue.commanded.get(command).is_some_and(lately) {
            return;
        }
        queue.commanded.retain(|_, when| lately(when));
        queue.commanded.insert(command.to_owned(), at.monotonic);
        queue.push(room, event, at);
    }

    /// Puts a tick on its way if half a window has passed since the last one.
    pub fn tick(&mut self, room: &RoomKey, at: At) {
        let every = self.window / 2;
        let queue = self.queue(room, at);
        let due = queue.last_tick.is_none_or(|last| at.monotonic.saturating_sub(last) >= every);
        if due && queue.pending.len() < MAX_PENDING / 2 {
            queue.last_tick = Some(at.monotonic);
            queue.push(room, EventKind::Tick, at);
        }
    }

    /// Takes an entry as arrived.
    pub fn on_echo(&mut self, echo: &Echo) {
        if let Some(queue) = self.queues.get_mut(&echo.room)
            && queue.incarnation == echo.incarnation
        {
            queue.pending.retain(|pending| pending.event.event_no != echo.event_no);
        }
    }

    /// What is to be appended now, by room, each room's in order. The entries count as tried.
    pub fn due(&mut self, now: Duration) -> Vec<Vec<NewEntry>> {
        self.queues.retain(|_, queue| now.saturating_sub(queue.last_wanted) < FORGET);
        let shards = self.shards;
        let due = self.queues.iter_mut().map(|(room, queue)| queue.due(room, shards, now));
        due.filter(|entries| !entries.is_empty()).collect()
    }

    /// Entries that have not come back.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.queues.values().map(|queue| queue.pending.len()).sum()
    }

    fn queue(&mut self, room: &RoomKey, at: At) -> &mut Queue {
        let made = &mut self.queues_made;
        let seed = self.seed;
        let queue = self.queues.entry(room.clone()).or_insert_with(|| {
            *made += 1;
            let mixed = blake3::hash(&[seed.to_le_bytes(), made.to_le_bytes()].concat());
            let first: [u8; 8] = mixed.as_bytes()[..8].try_into().expect("a hash has 32 bytes");
            Queue {
                incarnation: Incarnation::new(u64::from_le_bytes(first).max(1)).expect("it is at least 1"),
                next_event_no: 0,
                pending: VecDeque::new(),
                commanded: BTreeMap::new(),
                last_tick: None,
                last_wanted: at.monotonic,
            }
        });
        queue.last_wanted = at.monotonic;
        queue
    }
}

impl Queue {
    fn push(&mut self, room: &RoomKey, kind: EventKind, at: At) {
        let event = RoomEvent {
            room: room.room.clone(),
            incarnation: self.incarnation,
            event_no: self.next_event_no,
            time: at.wall,
            kind,
        };
        self.next_event_no += 1;
        self.pending.push_back(Pending { event, attempts: 0, next_try: at.monotonic });
    }

    fn due(&mut self, room: &RoomKey, shards: u32, now: Duration) -> Vec<NewEntry> {
        let address = Address {
            shard: Shard::of(&room.tenant, &room.room, shards),
            tenant: room.tenant.clone(),
            writer: Writer::Control,
            room: room.room.clone(),
            entry: Entry::Event,
        };
        let mut entries = Vec::new();
        for pending in self.pending.iter_mut().filter(|pending| pending.next_try <= now) {
            let number = pending.event.event_no;
            let message_id = match pending.attempts {
                0 => message_id(self.incarnation, number),
                attempt => replay_message_id(self.incarnation, number, attempt),
            };
            pending.attempts += 1;
            pending.next_try = now + ECHO_LIMIT * pending.attempts.min(5);
            let payload = pending.event.encode();
            entries.push(NewEntry { subject: address.subject(), message_id, trace_parent: None, payload });
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use roomreel_shared::id::{RoomId, TenantId};

    fn room(name: &str) -> RoomKey {
        RoomKey { tenant: TenantId::new("acme").expect("valid"), room: RoomId::new(name).expect("valid") }
    }

    fn at(ms: u64) -> At {
        At { monotonic: Duration::from_millis(ms), wall: RoomTime::from_micros(7) }
    }

    fn events(due: Vec<Vec<NewEntry>>) -> Vec<(RoomEvent, String)> {
        let read = |entry: NewEntry| (RoomEvent::decode(entry.payload).expect("ours"), entry.message_id);
        due.into_iter().flatten().map(read).collect()
    }

    #[test]
    fn an_entry_is_appended_until_it_comes_back() {
        let mut control = Control::new(1, 4, Duration::from_secs(4));
        control.tick(&room("a"), at(0));
        control.command(&room("a"), "c1", EventKind::Tick, at(0));
        control.command(&room("a"), "c1", EventKind::Tick, at(10));
        let first = events(control.due(Duration::ZERO));
        assert_eq!(first.iter().map(|(event, _)| event.event_no).collect::<Vec<_>>(), [0, 1], "numbered, and once");
        assert!(events(control.due(Duration::from_millis(1999))).is_empty());
        let seen = Echo { room: room("a"), incarnation: first[0].0.incarnation, event_no: 0 };
        control.on_echo(&Echo { room: room("b"), ..seen.clone() });
        control.on_echo(&seen);
        let again = events(control.due(Duration::from_secs(2)));
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].0, first[1].0, "the same entry");
        assert_ne!(again[0].1, first[1].1, "under a new message id");
        control.on_echo(&Echo { event_no: 1, ..seen });
        assert_eq!(control.pending(), 0);
    }

    #[test]
    fn ticks_keep_their_distance_and_stop_when_the_log_is_stuck() {
        let mut control = Control::new(1, 4, Duration::from_secs(4));
        for ms in (0..10_000).step_by(100) {
            control.tick(&room("a"), at(ms));
        }
        assert_eq!(control.pending(), 5);
        for ms in (10_000..100_000).step_by(100) {
            control.tick(&room("a"), at(ms));
        }
        assert_eq!(control.pending(), MAX_PENDING / 2);
    }

    #[test]
    fn a_command_whose_effect_is_missing_is_given_again() {
        let mut control = Control::new(1, 4, Duration::from_secs(4));
        for ms in (0..=60_000).step_by(1000) {
            control.command(&room("a"), "stop", EventKind::Tick, at(ms));
            for (event, _) in events(control.due(Duration::from_millis(ms))) {
                control.on_echo(&Echo { room: room("a"), incarnation: event.incarnation, event_no: event.event_no });
            }
        }
        assert_eq!(control.queues[&room("a")].next_event_no, 3);
    }

    #[test]
    fn incarnations_differ_between_rooms_and_leaderships() {
        let incarnation = |seed, name: &str| {
            let mut control = Control::new(seed, 4, Duration::from_secs(4));
            control.tick(&room("first"), at(0));
            control.tick(&room(name), at(0));
            control.queues[&room(name)].incarnation
        };
        assert_ne!(incarnation(1, "first"), incarnation(2, "first"));
        assert_ne!(incarnation(1, "first"), incarnation(1, "second"));
    }
}
