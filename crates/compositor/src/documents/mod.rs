//! `timeline.json`, `metadata.json` and `quality.json`: what a recording says about itself, accumulated from its windows.
//!
//! Owns the documents' schema (docs/formats.md): fields keep their names and order, new ones are only added. Pure. Does not
//! own `recording.json`, which is the coordinator's.

pub mod metadata;
pub mod quality;
pub mod timeline;

use std::collections::BTreeMap;

use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::event::{EventKind, Producer};
use roomreel_shared::id::{PeerId, SfuId};
use roomreel_shared::policy::TrackKind;
use roomreel_shared::time::RoomTime;
use roomreel_shared::window::{TrackKey, Window};

use crate::timeline::log_clock::LogClock;
use crate::timeline::presence::Presence;
use metadata::{Metadata, Participant, RecordingFacts, Room, Track};
use quality::{Quality, RenderQuality, StoredQuality};
use timeline::{Entry, Timeline};

/// Version of the documents' schema.
pub const SCHEMA_VERSION: u32 = 1;
/// Most participants and tracks that are listed.
const MAX_LISTED: usize = 10_000;

/// What the windows of a recording have told so far.
#[derive(Debug)]
pub struct Documents {
    fold: FoldSpec,
    clock: LogClock,
    start: Option<RoomTime>,
    seen: RoomTime,
    room: Room,
    participants: BTreeMap<PeerId, Participant>,
    /// Where they are.
    presence: BTreeMap<PeerId, Presence>,
    producers: BTreeMap<TrackKey, Producer>,
    timeline: Timeline,
    stored: BTreeMap<TrackKey, StoredQuality>,
    windows: u64,
    recording: RecordingFacts,
}

impl Documents {
    /// Of a recording none of whose windows has been seen.
    #[must_use]
    pub fn new(fold: &FoldSpec) -> Self {
        Self {
            room: Room {
                id: fold.room.to_string(),
                tenant_id: fold.tenant.to_string(),
                name: String::new(),
                host_id: fold.policy.host_id.as_ref().map(ToString::to_string),
                meeting_type: String::new(),
            },
            fold: fold.clone(),
            clock: LogClock::default(),
            start: None,
            seen: RoomTime::default(),
            participants: BTreeMap::new(),
            presence: BTreeMap::new(),
            producers: BTreeMap::new(),
            timeline: Timeline::default(),
            stored: BTreeMap::new(),
            windows: 0,
            recording: RecordingFacts::new(fold.recording.to_string()),
        }
    }

    /// Takes the next window of the chain.
    pub fn push_window(&mut self, window: &Window) {
        let header = &window.header;
        self.clock.see(header);
        let start = *self.start.get_or_insert(header.room_start);
        self.windows += 1;
        self.seen = self.seen.max(header.room_seen);
        let offset = |time: RoomTime| time.micros_since(start).div_euclid(1000);
        if self.windows == 1 {
            self.carry_in(window, start);
        }
        for stored in &window.events {
            let at = offset(self.clock.time_of(stored));
            self.on_event(at, stored.writer.sfu(), &stored.event.kind);
        }
        for segment in &window.segments {
            let quality = self.stored.entry(segment.key.clone()).or_default();
            quality.packets += u64::from(segment.packets);
            quality.invalid_packets += u64::from(segment.invalid_packets);
            quality.late_batches += u64::from(segment.late_batches);
            quality.keyframes += segment.keyframes.len() as u64;
        }
        for gap in &header.gaps {
            self.stored.entry(gap.key.clone()).or_default().on_gap(gap);
            if let Some(what) = timeline::What::of_gap(gap, offset(gap.span.1)) {
                self.timeline.push(Entry { offset_ms: offset(gap.span.0), what });
            }
        }
        if let Some(end) = header.end {
            self.seen = end.room_end;
            self.recording.stop_reason = Some(end.reason);
            self.timeline.push(Entry {
                offset_ms: offset(end.room_end),
                what: timeline::What::RecordingEnded { reason: end.reason },
            });
        }
    }

    /// Who was there before the first window: told by what it carries over.
    fn carry_in(&mut self, window: &Window, start: RoomTime) {
        let carry = &window.header.carry_over;
        self.room.name.clone_from(&carry.room_name);
        if !carry.host_id.is_empty() {
            self.room.host_id = Some(carry.host_id.clone());
        }
        for state in &carry.participants {
            let ids = (PeerId::new(state.peer_id.clone()), SfuId::new(state.sfu_id.clone()));
            let (Ok(peer), Ok(sfu)) = ids else { continue };
            if state.joined_us < start.as_micros() {
                let flags = (state.is_host, state.is_co_host, state.is_panelist);
                self.join(&sfu, peer, &state.display_name, flags, 0);
            }
        }
        for state in &carry.tracks {
            let producer = state.producer.clone().and_then(|producer| Producer::try_from(producer).ok());
            let (Some(producer), Ok(sfu)) = (producer, SfuId::new(state.sfu_id.clone())) else { continue };
            let is_new = window.events.iter().any(|stored| {
                matches!(&stored.event.kind, EventKind::ProducerCreated(created) if created.track == producer.track)
            });
            if !is_new && !state.closed {
                self.add_track(TrackKey { sfu, track: producer.track.clone() }, &producer, 0);
            }
        }
    }

    fn join(
        &mut self,
        sfu: &SfuId,
        peer: PeerId,
        display_name: &str,
        (host, co_host, panelist): (bool, bool, bool),
        at: i64,
    ) {
        if self.participants.len() >= MAX_LISTED && !self.participants.contains_key(&peer) {
            return;
        }
        self.presence.entry(peer.clone()).or_default().enter(sfu, at);
        let id = peer.to_string();
        let participant = self.participants.entry(peer).or_insert_with(|| Participant::new(id, at));
        if !display_name.is_empty() {
            display_name.clone_into(&mut participant.display_name);
        }
        participant.is_host |= host;
        participant.is_co_host |= co_host;
        participant.is_panelist |= panelist;
        if participant.left_ms.take().is_some() {
            participant.reconnects += 1;
        }
    }

    /// Who changes to another SFU leaves the old one with what they sent there alone.
    fn leave(&mut self, sfu: &SfuId, peer: &PeerId, at: i64) {
        let (Some(presence), Some(participant)) = (self.presence.get_mut(peer), self.participants.get_mut(peer)) else {
            return;
        };
        presence.leave(sfu);
        if !presence.is_here() {
            participant.left_ms = Some(at);
        }
        for track in participant.tracks.iter_mut().filter(|track| track.sfu_id == sfu.as_str()) {
            track.closed_ms = track.closed_ms.or(Some(at));
        }
    }

    fn add_track(&mut self, key: TrackKey, producer: &Producer, at: i64) {
        if self.producers.len() >= MAX_LISTED {
            return;
        }
        match self.presence.get_mut(&producer.peer) {
            Some(presence) => presence.enter(&key.sfu, at),
            None => self.join(&key.sfu, producer.peer.clone(), "", (false, false, false), at),
        }
        if let Some(participant) = self.participants.get_mut(&producer.peer) {
            participant.tracks.push(Track::new(&key, producer, at));
        }
        self.producers.insert(key, producer.clone());
    }

    fn on_event(&mut self, at: i64, sfu: Option<&SfuId>, kind: &EventKind) {
        match kind {
            EventKind::RoomCreated { room_name, host, meeting_type, .. } => {
                self.room.name.clone_from(room_name);
                self.room.meeting_type.clone_from(meeting_type);
                if let Some(host) = host {
                    self.room.host_id = Some(host.to_string());
                }
            }
            EventKind::PeerJoined { peer, display_name, is_host, is_co_host, is_panelist } => {
                if let Some(sfu) = sfu {
                    self.join(sfu, peer.clone(), display_name, (*is_host, *is_co_host, *is_panelist), at);
                }
            }
            EventKind::PeerLeft { peer, .. } => {
                if let Some(sfu) = sfu {
                    self.leave(sfu, peer, at);
                }
            }
            EventKind::ProducerCreated(producer) => {
                if let Some(sfu) = sfu {
                    self.add_track(TrackKey { sfu: sfu.clone(), track: producer.track.clone() }, producer, at);
                }
            }
            EventKind::ProducerClosed { track, .. } => {
                let tracks = self.participants.values_mut().flat_map(|participant| &mut participant.tracks);
                for closed in tracks
                    .filter(|of| of.track_id == track.as_str() && sfu.is_some_and(|sfu| of.sfu_id == sfu.as_str()))
                {
                    closed.closed_ms = closed.closed_ms.or(Some(at));
                }
            }
            EventKind::RecordingStarted { recording, requested_by, .. } if *recording == self.fold.recording => {
                self.recording.requested_by.clone_from(requested_by);
            }
            _ => {}
        }
        let of_track = |track: &_| {
            let key = TrackKey { sfu: sfu?.clone(), track: Clone::clone(track) };
            self.producers.get(&key).map(|producer| (producer.peer.to_string(), producer.kind))
        };
        if let Some(what) = timeline::What::of_event(kind, &self.fold.recording, of_track) {
            self.timeline.push(Entry { offset_ms: at, what });
        }
    }

    /// `timeline.json`.
    #[must_use]
    pub fn timeline(&self) -> timeline::Document {
        timeline::Document {
            schema_version: SCHEMA_VERSION,
            recording_id: self.fold.recording.to_string(),
            started_at: self.started_at(),
            duration_ms: self.duration_ms(),
            entries: self.timeline.entries(),
        }
    }

    /// `metadata.json`. `policy` is the one the recording began under.
    #[must_use]
    pub fn metadata(&self) -> Metadata {
        let mut participants: Vec<_> = self.participants.values().cloned().collect();
        participants.sort_by(|a, b| (a.joined_ms, &a.peer_id).cmp(&(b.joined_ms, &b.peer_id)));
        for track in participants.iter_mut().flat_map(|participant| &mut participant.tracks) {
            let key = SfuId::new(track.sfu_id.clone())
                .ok()
                .zip(roomreel_shared::id::TrackId::new(track.track_id.clone()).ok());
            let stored = key.and_then(|(sfu, track)| self.stored.get(&TrackKey { sfu, track }));
            track.packets = stored.map_or(0, |stored| stored.packets);
        }
        Metadata {
            schema_version: SCHEMA_VERSION,
            room: self.room.clone(),
            policy: self.fold.policy.clone(),
            participants,
            timeline: self.timeline.entries(),
            recording: RecordingFacts {
                started_at: self.started_at(),
                duration_ms: self.duration_ms(),
                windows: self.windows,
                ..self.recording.clone()
            },
        }
    }

    /// `quality.json`, with what the renders of this process say.
    #[must_use]
    pub fn quality(&self, renders: &[RenderQuality]) -> Quality {
        let owner = |key: &TrackKey| self.producers.get(key).map(|producer| (producer.peer.to_string(), producer.kind));
        Quality::new(self.fold.recording.to_string(), &self.stored, renders, owner)
    }

    fn started_at(&self) -> Option<time::OffsetDateTime> {
        let micros = self.start?.as_micros();
        time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1000).ok()
    }

    fn duration_ms(&self) -> u64 {
        self.start.map_or(0, |start| self.seen.micros_since(start).max(0).unsigned_abs() / 1000)
    }
}

/// What documents call a kind of track.
pub(crate) fn kind_name(kind: TrackKind) -> &'static str {
    match kind {
        TrackKind::Audio => "audio",
        TrackKind::Video => "video",
        TrackKind::Screenshare => "screenshare",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::tests::fold;

    #[test]
    fn who_changes_to_another_sfu_stays() {
        let peer = || PeerId::new("amara").expect("valid");
        let [old, new] = ["old", "new"].map(|id| SfuId::new(id).expect("valid"));
        let joined = EventKind::PeerJoined {
            peer: peer(),
            display_name: String::new(),
            is_host: false,
            is_co_host: false,
            is_panelist: false,
        };
        let produced = |track: &str| {
            EventKind::ProducerCreated(Producer {
                track: roomreel_shared::id::TrackId::new(track).expect("valid"),
                peer: peer(),
                kind: TrackKind::Audio,
                is_audio: true,
                codecs: vec![],
                encodings: vec![],
                header_extensions: vec![],
            })
        };
        let left = EventKind::PeerLeft { peer: peer(), reason: String::new() };
        let mut documents = Documents::new(&fold());
        let mut told = |at, sfu: &SfuId, kind: &EventKind| {
            documents.on_event(at, Some(sfu), kind);
            let participant = documents.metadata().participants.remove(0);
            let closed: Vec<_> = participant.tracks.iter().map(|track| track.closed_ms).collect();
            (participant.left_ms, participant.reconnects, closed)
        };
        assert_eq!(told(1, &old, &joined), (None, 0, vec![]));
        assert_eq!(told(2, &old, &produced("a")), (None, 0, vec![None]));
        assert_eq!(told(3, &new, &joined), (None, 0, vec![None]));
        assert_eq!(told(4, &new, &produced("b")), (None, 0, vec![None, None]));
        assert_eq!(told(5, &old, &left), (None, 0, vec![Some(5), None]));
        assert_eq!(told(6, &new, &left), (Some(6), 0, vec![Some(5), Some(6)]));
        assert_eq!(told(7, &old, &joined), (None, 1, vec![Some(5), Some(6)]));
    }
}
