//! Who and what is in a room, by its events: participants, tracks, policy, pause.
//!
//! Owns the state that decides what becomes of a track's packets. Does not own numbering or windows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use roomreel_shared::event::{EventKind, Producer};
use roomreel_shared::id::{PeerId, SfuId};
use roomreel_shared::policy::{Policy, TrackKind};
use roomreel_shared::subject::Writer;
use roomreel_shared::time::{LogTime, RoomTime};
use roomreel_shared::window::{AcceptedReason, MAX_PARTICIPANTS, TrackKey};
use roomreel_shared::wire;

use crate::track::Admission;

/// Most tracks that a room has at once; a publisher that announces more is hostile.
pub(crate) const MAX_TRACKS: usize = 4096;
/// Bytes of a name that every window carries over; the event that says all of it is stored.
const MAX_NAME_BYTES: usize = 256;
/// Commands that are remembered as done.
const MAX_COMMANDS: usize = 256;

/// What the room knows of a track.
#[derive(Debug, Clone, Default)]
pub(crate) struct Track {
    pub(crate) producer: Option<Arc<Producer>>,
    pub(crate) paused: bool,
    pub(crate) closed: bool,
    /// Its publisher stopped without closing it.
    pub(crate) abandoned: bool,
    /// Log time of its newest entry.
    pub(crate) heard: LogTime,
    /// What it was told becomes of its packets.
    pub(crate) admission: Option<Admission>,
}

/// The room as its events left it.
#[derive(Debug)]
pub(crate) struct Roster {
    pub(crate) policy: Policy,
    pub(crate) paused: bool,
    /// The recording has begun.
    pub(crate) started: bool,
    pub(crate) tracks: BTreeMap<TrackKey, Track>,
    participants: BTreeMap<PeerId, wire::ParticipantState>,
    commands: VecDeque<String>,
    room_name: String,
    host: String,
}

impl Roster {
    pub(crate) fn new(policy: Policy) -> Self {
        Self {
            policy,
            paused: false,
            started: false,
            tracks: BTreeMap::new(),
            participants: BTreeMap::new(),
            commands: VecDeque::new(),
            room_name: String::new(),
            host: String::new(),
        }
    }

    /// What becomes of a track's packets.
    pub(crate) fn admission(&self, key: &TrackKey) -> Admission {
        if !self.started {
            return Admission::NotRecording;
        }
        let kinds = [TrackKind::Audio, TrackKind::Video, TrackKind::Screenshare];
        let producer = self.tracks.get(key).and_then(|track| track.producer.as_ref());
        let forbidden = match producer {
            Some(producer) => !self.policy.allows(producer.kind),
            None => !kinds.iter().any(|kind| self.policy.allows(*kind)),
        };
        match producer {
            _ if forbidden => Admission::Refuse(AcceptedReason::Policy),
            _ if self.paused => Admission::Refuse(AcceptedReason::Pause),
            Some(_) => Admission::Store,
            None => Admission::Undecided { store: kinds.iter().all(|kind| self.policy.allows(*kind)) },
        }
    }

    /// Whether a command is seen for the first time.
    pub(crate) fn is_new_command(&mut self, command: &str) -> bool {
        if command.is_empty() {
            return true;
        }
        if self.commands.iter().any(|seen| seen == command) {
            return false;
        }
        self.commands.push_back(command.to_owned());
        if self.commands.len() > MAX_COMMANDS {
            self.commands.pop_front();
        }
        true
    }

    /// Takes an SFU's event about people, tracks and policy.
    pub(crate) fn on_sfu_event(&mut self, sfu: &SfuId, time: RoomTime, kind: &EventKind) {
        let key = |track: &roomreel_shared::id::TrackId| TrackKey { sfu: sfu.clone(), track: track.clone() };
        match kind {
            EventKind::RoomCreated { room_name, host, policy, .. } => {
                self.room_name = shortened(room_name);
                self.host = host.as_ref().map(ToString::to_string).unwrap_or_default();
                if let Some(policy) = policy {
                    self.policy = policy.clone();
                }
            }
            EventKind::RoomPolicyUpdated { policy } => self.policy = policy.clone(),
            EventKind::PeerJoined { peer, display_name, is_host, is_co_host, is_panelist } => {
                if self.participants.len() >= MAX_PARTICIPANTS && !self.participants.contains_key(peer) {
                    return;
                }
                let participant = wire::ParticipantState {
                    peer_id: peer.to_string(),
                    display_name: shortened(display_name),
                    is_host: *is_host,
                    is_co_host: *is_co_host,
                    is_panelist: *is_panelist,
                    present: true,
                    sfu_id: sfu.to_string(),
                    joined_us: time.as_micros(),
                    left_us: 0,
                };
                self.participants.insert(peer.clone(), participant);
            }
            EventKind::PeerLeft { peer, .. } => {
                // Who has joined at another SFU since is there.
                let here = |participant: &&mut wire::ParticipantState| participant.sfu_id == sfu.as_str();
                if let Some(participant) = self.participants.get_mut(peer).filter(here) {
                    participant.present = false;
                    participant.left_us = time.as_micros();
                }
            }
            EventKind::ProducerCreated(producer) => {
                if let Some(track) = self.tracks.get_mut(&key(&producer.track)) {
                    track.producer = Some(Arc::new(producer.clone()));
                    track.paused = false;
                    track.closed = false;
                    track.abandoned = false;
                }
            }
            EventKind::ProducerClosed { track, .. } => self.with_track(&key(track), |track| track.closed = true),
            EventKind::ProducerPaused { track } => self.with_track(&key(track), |track| track.paused = true),
            EventKind::ProducerResumed { track } => self.with_track(&key(track), |track| track.paused = false),
            _ => {}
        }
    }

    fn with_track(&mut self, key: &TrackKey, change: impl FnOnce(&mut Track)) {
        if let Some(track) = self.tracks.get_mut(key) {
            change(track);
        }
    }

    /// The people that are or were here, in the order of their ids.
    pub(crate) fn write(&self, carry: &mut wire::CarryOver) {
        carry.participants = self.participants.values().cloned().collect();
        carry.policy = Some((&self.policy).into());
        carry.paused = self.paused;
        carry.started = self.started;
        carry.command_ids = self.commands.iter().cloned().collect();
        carry.room_name.clone_from(&self.room_name);
        carry.host_id.clone_from(&self.host);
    }

    /// Reads what [`Roster::write`] wrote; `policy` if none was written.
    pub(crate) fn read(carry: &wire::CarryOver, policy: Policy) -> Self {
        let mut roster = Self::new(carry.policy.clone().map_or(policy, Policy::from));
        roster.paused = carry.paused;
        roster.started = carry.started;
        roster.commands = carry.command_ids.iter().cloned().collect();
        roster.room_name.clone_from(&carry.room_name);
        roster.host.clone_from(&carry.host_id);
        roster.participants = carry
            .participants
            .iter()
            .filter_map(|participant| Some((PeerId::new(participant.peer_id.clone()).ok()?, participant.clone())))
            .collect();
        roster
    }

    /// What the room knows of a track, into what the track knows of itself.
    pub(crate) fn write_track(&self, key: &TrackKey, state: &mut wire::TrackState) {
        let Some(track) = self.tracks.get(key) else { return };
        state.producer = track.producer.as_deref().map(Into::into);
        state.paused = track.paused;
        state.closed = track.closed;
        state.abandoned = track.abandoned;
        state.heard_us = track.heard.as_micros();
    }

    /// Adds a track from its state; answers what becomes of its packets. `now`: when it was heard, if the state does not say.
    pub(crate) fn read_track(&mut self, key: &TrackKey, state: &wire::TrackState, now: LogTime) -> Admission {
        let producer = state.producer.clone().and_then(|wire| Producer::try_from(wire).ok()).map(Arc::new);
        let heard = if state.heard_us == 0 { now } else { LogTime::from_micros(state.heard_us) };
        let wire::TrackState { paused, closed, abandoned, .. } = *state;
        let track = Track { producer, paused, closed, abandoned, heard, admission: None };
        self.tracks.insert(key.clone(), track);
        self.open_track(key, heard)
    }

    /// Adds a track of which nothing is known, unless it is there; answers what becomes of its packets. `heard`: when.
    pub(crate) fn open_track(&mut self, key: &TrackKey, heard: LogTime) -> Admission {
        let admission = self.admission(key);
        let track = self.tracks.entry(key.clone()).or_insert_with(|| Track { heard, ..Track::default() });
        track.admission = Some(admission);
        admission
    }

    /// Whether that is somebody of whom the windows tell.
    pub(crate) fn is_participant(&self, peer: &PeerId) -> bool {
        self.participants.contains_key(peer)
    }

    /// Tracks whose packets fare differently since they were last told.
    pub(crate) fn take_changed_admissions(&mut self) -> Vec<(TrackKey, Admission)> {
        let changed: Vec<(TrackKey, Admission)> = self
            .tracks
            .iter()
            .map(|(key, track)| (key, track.admission, self.admission(key)))
            .filter(|(_, before, after)| *before != Some(*after))
            .map(|(key, _, after)| (key.clone(), after))
            .collect();
        for (key, admission) in &changed {
            self.with_track(key, |track| track.admission = Some(*admission));
        }
        changed
    }
}

/// As much of a name as is carried over.
fn shortened(name: &str) -> String {
    name[..name.floor_char_boundary(MAX_NAME_BYTES)].to_owned()
}

/// The track an event of this writer is about, if it is about one.
pub(crate) fn track_of(writer: &Writer, kind: &EventKind) -> Option<TrackKey> {
    let track = match kind {
        EventKind::ProducerCreated(producer) => &producer.track,
        EventKind::ProducerClosed { track, .. }
        | EventKind::ProducerPaused { track }
        | EventKind::ProducerResumed { track } => track,
        EventKind::PublisherGap(gap) => &gap.track,
        _ => return None,
    };
    Some(TrackKey { sfu: writer.sfu()?.clone(), track: track.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_carried_over_as_far_as_a_name_is_one() {
        assert_eq!(shortened("Amara"), "Amara");
        let long = "会".repeat(20_000);
        assert_eq!((shortened(&long).len(), long.starts_with(&shortened(&long))), (255, true));
    }

    #[test]
    fn who_changes_to_another_sfu_stays() {
        let peer = || PeerId::new("amara").expect("valid");
        let [old, new] = ["old", "new"].map(|id| SfuId::new(id).expect("valid"));
        let joined = EventKind::PeerJoined {
            peer: peer(),
            display_name: "Amara".to_owned(),
            is_host: false,
            is_co_host: false,
            is_panelist: false,
        };
        let left = EventKind::PeerLeft { peer: peer(), reason: String::new() };
        let mut roster = Roster::new(Policy::default());
        for (sfu, kind, is_present) in
            [(&old, &joined, true), (&new, &joined, true), (&old, &left, true), (&new, &left, false)]
        {
            roster.on_sfu_event(sfu, RoomTime::from_micros(7), kind);
            assert_eq!(roster.participants[&peer()].present, is_present, "after {kind:?} of {sfu}");
        }
    }
}
