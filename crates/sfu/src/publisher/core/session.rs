//! A room from its creation to its end: what of it may not overtake what, where one session ends and the next begins, and
//! what is kept of a room that is to be recorded before anybody says that it is.

use std::time::Duration;

use roomreel_shared::event::EventKind;
use roomreel_shared::id::{RecordingId, RoomId};
use roomreel_shared::subject::Entry;

use super::{Core, MessageKey, Room, Sending, Series, UNCONFIRMED_AFTER};

/// How long a room is kept whose policy has it recorded and of which nobody says that it is, and a recording and a session
/// that is over of which nobody says anything any more. Of a recording that goes on something is said every 2 s.
const EXPECTED_FOR: Duration = Duration::from_secs(600);
/// Longest wait before its beginning is sent again.
const MAX_WAIT: Duration = Duration::from_secs(160);
/// Recordings of a room that are known at a time: one goes on, and those before it are ending.
const MAX_RECORDINGS: usize = 16;

/// What a message is to its room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// One of many.
    Plain,
    /// The session begins: nothing overtakes it, or a cluster that meets a room's middle first does not know where it began.
    Created,
    /// A track begins; a recording by policy begins with the first.
    Producer,
    /// The session ends: it overtakes nothing, and nothing of the next session overtakes it.
    Closed,
}

impl Mark {
    pub(super) fn of(kind: &EventKind) -> Self {
        match kind {
            EventKind::RoomCreated { .. } => Self::Created,
            EventKind::ProducerCreated(_) => Self::Producer,
            EventKind::RoomClosed { .. } => Self::Closed,
            _ => Self::Plain,
        }
    }
}

/// A room whose policy has it recorded, and of whose session nobody has recorded the beginning yet, as far as is known here.
#[derive(Debug)]
pub(super) struct Expected {
    until: Duration,
    /// When its beginning is sent again: the log may have lost it before anybody read it.
    again_at: Duration,
    wait: Duration,
}

/// What a room's policy says about recording, if the event says something about it.
pub(super) fn expects(kind: &EventKind) -> Option<bool> {
    match kind {
        EventKind::RoomCreated { policy: Some(policy), .. } | EventKind::RoomPolicyUpdated { policy } => {
            Some(policy.enabled && policy.auto_record)
        }
        _ => None,
    }
}

impl Room {
    /// Somebody says that it is recorded.
    pub(super) fn is_recorded(&self) -> bool {
        !self.recordings.is_empty()
    }

    /// What the broker has acknowledged of it is kept for a watermark.
    pub(super) fn is_kept(&self) -> bool {
        self.is_recorded() || self.expected.is_some()
    }
}

impl Core {
    /// Notes what a policy says about recording.
    pub(super) fn expect(&mut self, now: Duration, room_id: &RoomId, is_expected: bool) {
        let Some(room) = self.rooms.get_mut(room_id) else { return };
        let was_kept = room.is_kept();
        if is_expected {
            let (until, again_at) = (now + EXPECTED_FOR, now + UNCONFIRMED_AFTER);
            room.expected.get_or_insert(Expected { until, again_at, wait: UNCONFIRMED_AFTER });
        } else {
            room.expected = None;
        }
        self.begin_grace(now, room_id, was_kept);
    }

    /// The cluster said whether a recording of the room goes on. It may be one of an earlier session: that this one is recorded
    /// is known when a watermark covers its first event.
    pub fn on_recording_state(&mut self, now: Duration, room_id: &RoomId, recording: &RecordingId, active: bool) {
        let Some(room) = self.rooms.get_mut(room_id) else { return };
        let was_kept = room.is_kept();
        if active {
            let unheard = room.recordings.iter().min_by_key(|(_, heard_at)| **heard_at).map(|(id, _)| id.clone());
            room.recordings.insert(recording.clone(), now);
            if room.recordings.len() > MAX_RECORDINGS {
                unheard.map(|id| room.recordings.remove(&id));
            }
        } else {
            room.recordings.remove(recording);
        }
        self.begin_grace(now, room_id, was_kept);
    }

    /// The first event of a numbering is in a window: if it is this session's, the session is being recorded.
    pub(super) fn on_begun(&mut self, room_id: &RoomId, incarnation: u64) {
        let Some(room) = self.rooms.get_mut(room_id) else { return };
        // The word that it is recorded may be on its way; until it comes, the session is still kept as an expected one.
        if room.events.incarnation.get() == incarnation && room.is_recorded() {
            room.expected = None;
        }
    }

    /// The last word of a recording may be lost, and the first may come from a node that slept through its end: what belongs
    /// to it is kept only as long as the cluster speaks of it. While the broker does not answer, nobody can speak.
    pub(super) fn give_up_unheard(&mut self, now: Duration) {
        if self.window > 0 && self.answered_at + UNCONFIRMED_AFTER <= now {
            self.silent_from = now;
        }
        let silent_from = self.silent_from;
        let is_unheard = |heard_at: Duration| heard_at.max(silent_from) + EXPECTED_FOR <= now;
        let mut over = Vec::new();
        let mut earlier = Vec::new();
        for (id, room) in &mut self.rooms {
            let was_kept = room.is_kept();
            room.recordings.retain(|_, heard_at| !is_unheard(*heard_at));
            if was_kept && !room.is_kept() {
                over.push(id.clone());
            } else if !room.closed {
                let unheard = room.earlier.values().filter(|series| is_unheard(series.heard_at));
                earlier.extend(unheard.flat_map(|series| series.held.values().copied()));
            }
        }
        for room in over {
            self.begin_grace(now, &room, true);
        }
        earlier.retain(|key| self.messages[key].stored && self.messages[key].sending == Sending::Idle);
        earlier.into_iter().for_each(|key| self.forget(key));
    }

    /// The grace begins for what a room was kept for.
    fn begin_grace(&mut self, now: Duration, room_id: &RoomId, was_kept: bool) {
        let Some(room) = self.rooms.get(room_id).filter(|room| was_kept && !room.is_kept()) else { return };
        let due = now + self.limits.unrecorded_grace;
        let held = room.series().flat_map(|series| series.held.values());
        let stored = held.copied().filter(|key| self.messages[key].stored);
        self.graces.extend(stored.map(|key| (due, key)));
    }

    /// Beginnings that are to be sent again, of rooms that are expected to be recorded; gives up those that waited too long.
    pub(super) fn unheard_beginnings(&mut self, now: Duration) -> Vec<MessageKey> {
        let (mut beginnings, mut given_up) = (Vec::new(), Vec::new());
        for (id, room) in &mut self.rooms {
            let Some(expected) = &mut room.expected else { continue };
            if expected.until <= now {
                room.expected = None;
                given_up.push(id.clone());
            } else if expected.again_at <= now {
                expected.wait = (expected.wait * 2).min(MAX_WAIT);
                expected.again_at = now + expected.wait;
                let begins = |key: &&MessageKey| matches!(self.messages[*key].mark, Mark::Created | Mark::Producer);
                beginnings.extend(room.events.held.values().filter(begins));
            }
        }
        for room in given_up {
            self.begin_grace(now, &room, true);
        }
        beginnings
    }

    /// Lets a room's messages have their turn, as far as none overtakes what it may not.
    pub(super) fn release(&mut self, room_id: &RoomId) {
        let Some(room) = self.rooms.get_mut(room_id) else { return };
        while let (None, Some(&key)) = (room.barrier, room.waiting.front()) {
            let mark = self.messages.get(&key).map(|message| message.mark);
            if mark == Some(Mark::Closed) && !room.outstanding.is_empty() {
                return;
            }
            room.waiting.pop_front();
            let Some(mark) = mark else { continue };
            room.outstanding.insert(key);
            self.queue.push_back(key);
            if matches!(mark, Mark::Created | Mark::Closed) {
                room.barrier = Some(key);
            }
        }
    }

    /// A message needs no acknowledgement any more.
    pub(super) fn one_less_unacknowledged(&mut self, room_id: &RoomId, key: MessageKey) {
        self.stats.unacknowledged -= 1;
        let Some(room) = self.rooms.get_mut(room_id) else { return };
        room.outstanding.remove(&key);
        room.barrier.take_if(|barrier| *barrier == key);
        self.release(room_id);
    }

    /// A room that was closed is created again: what comes now has numbers of its own.
    pub(super) fn renew(&mut self, room_id: &RoomId) {
        let Some(shard) = self.rooms.get(room_id).filter(|room| room.closed).map(|room| room.shard) else { return };
        let (events, heard_at) = (self.new_series(shard, room_id, Entry::Event), self.now);
        let Some(room) = self.rooms.get_mut(room_id) else { return };
        let before = std::mem::take(&mut room.tracks).into_values().map(|track| track.series);
        let before = before.chain([std::mem::replace(&mut room.events, events)]);
        let before = before.map(|series| Series { heard_at, ..series });
        room.earlier.extend(before.filter(|series| !series.held.is_empty()).map(|series| (series.incarnation, series)));
        room.expected = None;
    }
}
