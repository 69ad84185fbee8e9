//! The room's state as its events make it, moment by moment on the room's clock.
//!
//! Owns who is here, which tracks they have, and what was asked of the layout. Does not own media, nor the stage. A
//! participant whose leaving was never told is here until the room ends.

use std::collections::{BTreeMap, BTreeSet};

use roomreel_shared::event::{EventKind, Producer, SCREENSHARE_PEER_PREFIX};
use roomreel_shared::id::{CompositeId, PeerId, SfuId};
use roomreel_shared::policy::TrackKind;
use roomreel_shared::time::RoomTime;
use roomreel_shared::window::{TrackKey, Window};

use super::log_clock::LogClock;
use super::presence::Presence;
use crate::layout::{Camera, Microphone, Participant, Scene, Screenshare, SourceId};

/// Most participants and tracks that are kept; a room with more is an attack.
const MAX_PARTICIPANTS: usize = 2000;
const MAX_TRACKS: usize = 8000;
/// Most SFUs of which it is kept when they began in the room.
const MAX_SFUS: usize = 1000;

/// A track of the room.
#[derive(Debug, Clone)]
pub struct Track {
    /// What the SFU said of it.
    pub producer: Producer,
    /// It has been closed, or its participant has left.
    pub closed: bool,
    /// Muted.
    pub paused: bool,
    /// When it was muted last, if that was told.
    pub paused_at: Option<RoomTime>,
    /// Counts tracks as they were created.
    order: i64,
}

impl Track {
    /// There is media of it to be seen or heard.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.closed && !self.paused
    }

    fn is_camera(&self) -> bool {
        self.producer.kind == TrackKind::Video
    }

    fn is_screen(&self) -> bool {
        self.producer.kind == TrackKind::Screenshare && !self.producer.is_audio
    }
}

#[derive(Debug, Clone)]
struct Peer {
    display_name: String,
    presence: Presence,
    /// Counts participants as they joined, and as they left.
    order: i64,
}

/// How loud somebody is, for marks and the stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Activity {
    /// Heard right now.
    pub speaking: bool,
    /// 0 is silence, 127 full scale.
    pub level: u8,
}

/// The room between two events.
#[derive(Debug, Default)]
pub struct RoomState {
    peers: BTreeMap<PeerId, Peer>,
    tracks: BTreeMap<TrackKey, Track>,
    counter: i64,
    /// When the newest event happened.
    now: RoomTime,
    /// When each SFU began in the room for the last time.
    began: BTreeMap<SfuId, i64>,
    active_speaker: Option<PeerId>,
    hidden: BTreeSet<PeerId>,
    /// What the layout was changed to, if it was.
    layout: Option<String>,
    /// Changes of the layout are not for us.
    keeps_layout: bool,
    /// Nor is who is hidden.
    keeps_hidden: bool,
    paused: bool,
}

impl RoomState {
    fn next_order(&mut self) -> i64 {
        self.counter += 1;
        self.counter
    }

    fn join(&mut self, sfu: &SfuId, peer: &PeerId, display_name: &str) {
        if !self.peers.contains_key(peer) && !self.has_room() {
            return;
        }
        let order = self.next_order();
        let name = || if display_name.is_empty() { peer.to_string() } else { display_name.to_owned() };
        let known = self.peers.entry(peer.clone()).or_insert_with(|| Peer {
            display_name: name(),
            presence: Presence::default(),
            order,
        });
        if !known.presence.is_here() {
            known.order = order;
        }
        known.presence.enter(sfu, order);
        if !display_name.is_empty() {
            display_name.clone_into(&mut known.display_name);
        }
    }

    fn leave(&mut self, sfu: &SfuId, peer: &PeerId) {
        let order = self.next_order();
        if let Some(known) = self.peers.get_mut(peer) {
            known.presence.leave(sfu);
            if !known.presence.is_here() {
                known.order = order;
                self.active_speaker.take_if(|speaker| speaker == peer);
            }
        }
        for (key, track) in &mut self.tracks {
            track.closed |= track.producer.peer == *peer && key.sfu == *sfu;
        }
    }

    /// `sfu` begins in the room, maybe again.
    fn begin_at(&mut self, sfu: &SfuId) {
        let order = self.next_order();
        if self.began.len() < MAX_SFUS || self.began.contains_key(sfu) {
            self.began.insert(sfu.clone(), order);
        }
    }

    /// The end that counts is the recording's own. Another is of before `sfu` began in the room again, and comes late: it ends what was
    /// there by then, not what came since.
    fn end_before_begin(&mut self, sfu: &SfuId) {
        let Some(&began) = self.began.get(sfu) else { return };
        let left = self.peers.iter().filter(|(_, peer)| peer.presence.entered_before(sfu, began));
        let left: Vec<_> = left.map(|(id, _)| id.clone()).collect();
        left.iter().for_each(|peer| self.leave(sfu, peer));
        for (key, track) in &mut self.tracks {
            track.closed |= key.sfu == *sfu && track.order < began;
        }
    }

    /// Whether there is room for another participant: whoever has been away for the longest is forgotten for it.
    fn has_room(&mut self) -> bool {
        if self.peers.len() < MAX_PARTICIPANTS {
            return true;
        }
        let away = self.peers.iter().filter(|(_, peer)| !peer.presence.is_here());
        let longest = away.min_by_key(|(_, peer)| peer.order).map(|(id, _)| id.clone());
        longest.is_some_and(|peer| self.peers.remove(&peer).is_some())
    }

    fn create_track(&mut self, key: TrackKey, producer: &Producer) {
        if self.tracks.len() >= MAX_TRACKS && !self.tracks.contains_key(&key) {
            return;
        }
        // A track whose participant was never announced still is somebody's; and who sends is here.
        self.join(&key.sfu, &producer.peer, "");
        let order = self.next_order();
        self.tracks
            .insert(key, Track { producer: producer.clone(), closed: false, paused: false, paused_at: None, order });
    }

    /// Applies an event of `sfu`, or of the coordinator.
    fn apply(&mut self, sfu: Option<&SfuId>, kind: &EventKind, composite: &CompositeId) {
        let track = |track: &_| sfu.map(|sfu| TrackKey { sfu: sfu.clone(), track: Clone::clone(track) });
        match kind {
            EventKind::PeerJoined { peer, display_name, .. } => {
                if let Some(sfu) = sfu {
                    self.join(sfu, peer, display_name);
                }
            }
            EventKind::PeerLeft { peer, .. } => {
                if let Some(sfu) = sfu {
                    self.leave(sfu, peer);
                }
            }
            EventKind::ProducerCreated(producer) => {
                if let Some(key) = track(&producer.track) {
                    self.create_track(key, producer);
                }
            }
            EventKind::ProducerClosed { track: id, .. } => self.change_track(track(id), |track| track.closed = true),
            EventKind::ProducerPaused { track: id } => {
                let now = self.now;
                self.change_track(track(id), |track| (track.paused, track.paused_at) = (true, Some(now)));
            }
            EventKind::ProducerResumed { track: id } => self.change_track(track(id), |track| track.paused = false),
            EventKind::ActiveSpeaker { peer, .. } => self.active_speaker.clone_from(peer),
            EventKind::RecordingPaused { .. } => self.paused = true,
            EventKind::RecordingResumed { .. } => self.paused = false,
            EventKind::LayoutChanged { composite: of, layout, hidden, .. } => {
                if of.as_ref().is_none_or(|of| of == composite) {
                    if !layout.is_empty() && !self.keeps_layout {
                        self.layout = Some(layout.clone());
                    }
                    if !self.keeps_hidden {
                        self.hidden = hidden.iter().cloned().collect();
                    }
                }
            }
            EventKind::RoomCreated { .. } => sfu.into_iter().for_each(|sfu| self.begin_at(sfu)),
            EventKind::RoomClosed { .. } => sfu.into_iter().for_each(|sfu| self.end_before_begin(sfu)),
            EventKind::RoomPolicyUpdated { .. }
            | EventKind::TranscriptCue { .. }
            | EventKind::PublisherGap(_)
            | EventKind::RecordingStarted { .. }
            | EventKind::RecordingStopped { .. }
            | EventKind::Tick => {}
        }
    }

    fn change_track(&mut self, key: Option<TrackKey>, change: impl FnOnce(&mut Track)) {
        if let Some(track) = key.and_then(|key| self.tracks.get_mut(&key)) {
            change(track);
        }
    }

    /// A track, live or not.
    #[must_use]
    pub fn track(&self, key: &TrackKey) -> Option<&Track> {
        self.tracks.get(key)
    }

    /// What the layout was changed to, if it was.
    #[must_use]
    pub fn layout(&self) -> Option<&str> {
        self.layout.as_deref()
    }

    /// Nothing is recorded at this moment.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Live tracks that can stand for a source, newest first: after a reconnect the old one may not have been closed.
    pub fn tracks_of<'a>(&'a self, source: &'a SourceId) -> impl Iterator<Item = &'a TrackKey> + 'a {
        let mut of_source: Vec<_> = self
            .tracks
            .iter()
            .filter(|(_, track)| {
                let fits = match source.kind {
                    crate::layout::SourceKind::Camera => track.is_camera(),
                    crate::layout::SourceKind::Screenshare => track.is_screen(),
                };
                fits && track.is_live() && track.producer.peer == source.peer
            })
            .collect();
        of_source.sort_by_key(|(_, track)| std::cmp::Reverse(track.order));
        of_source.into_iter().map(|(key, _)| key)
    }

    /// What a layout arranges.
    #[must_use]
    pub fn scene(&self, activity: impl Fn(&PeerId) -> Activity) -> Scene {
        if self.paused {
            return Scene::default();
        }
        let mut present: Vec<_> = self.peers.iter().filter(|(_, peer)| peer.presence.is_here()).collect();
        present.sort_by_key(|(_, peer)| peer.order);
        let live = |peer: &PeerId, wanted: &dyn Fn(&Track) -> bool| {
            self.tracks.values().any(|track| track.producer.peer == *peer && track.is_live() && wanted(track))
        };
        // A screen that an SFU shows as a peer of its own is a tile of its owner's, not a person.
        let owner = |peer: &PeerId| {
            let owner = peer.as_str().strip_prefix(SCREENSHARE_PEER_PREFIX)?;
            PeerId::new(owner).ok().filter(|owner| self.peers.get(owner).is_some_and(|owner| owner.presence.is_here()))
        };
        let is_person = |peer: &PeerId| {
            !peer.as_str().starts_with(SCREENSHARE_PEER_PREFIX)
                || live(peer, &|track| track.producer.kind != TrackKind::Screenshare)
        };
        let participants = present
            .iter()
            .filter(|(id, _)| is_person(id))
            .map(|(id, peer)| {
                let Activity { speaking, level } = activity(id);
                let has_microphone = live(id, &|track| track.producer.kind == TrackKind::Audio);
                Participant {
                    peer: (*id).clone(),
                    display_name: peer.display_name.clone(),
                    camera: if live(id, &Track::is_camera) { Camera::On } else { Camera::Off },
                    microphone: if has_microphone { Microphone::On } else { Microphone::Muted },
                    speaking: speaking && has_microphone,
                    audio_level: level,
                    hidden: self.hidden.contains(*id),
                }
            })
            .collect();
        let mut screens: Vec<_> = self.tracks.values().filter(|track| track.is_screen() && track.is_live()).collect();
        screens.sort_by_key(|track| track.order);
        let mut shared = BTreeSet::new();
        let screenshares = screens
            .into_iter()
            .map(|track| &track.producer.peer)
            .filter(|peer| shared.insert(*peer))
            .map(|peer| Screenshare {
                source: SourceId::screenshare(peer.clone()),
                owner: owner(peer).unwrap_or_else(|| peer.clone()),
            })
            .collect();
        Scene { participants, screenshares, active_speaker: self.active_speaker.clone() }
    }
}

/// Events in the order of the room's clock, and the state they have led to so far.
#[derive(Debug)]
pub struct RoomTimeline {
    composite: CompositeId,
    clock: LogClock,
    /// By time, then as they stood in the log.
    upcoming: BTreeMap<(RoomTime, u64), (Option<SfuId>, EventKind)>,
    pushed: u64,
    state: RoomState,
    began: bool,
}

impl RoomTimeline {
    /// Of a recording as `composite` sees it.
    #[must_use]
    pub fn new(composite: CompositeId) -> Self {
        Self {
            composite,
            clock: LogClock::default(),
            upcoming: BTreeMap::new(),
            pushed: 0,
            state: RoomState::default(),
            began: false,
        }
    }

    /// As a composite sees it that was asked for later: with the layout it was asked for, and these participants hidden, if it
    /// was said who, whatever was wished while the recording ran.
    #[must_use]
    pub fn late(composite: CompositeId, hidden: Option<BTreeSet<PeerId>>) -> Self {
        let keeps_hidden = hidden.is_some();
        let hidden = hidden.unwrap_or_default();
        let state = RoomState { hidden, keeps_layout: true, keeps_hidden, ..RoomState::default() };
        Self { state, ..Self::new(composite) }
    }

    /// Takes a window's events. Before those of the first one, what it says was there already.
    pub fn push_window(&mut self, window: &Window) {
        self.clock.see(&window.header);
        if !std::mem::replace(&mut self.began, true) {
            self.state.begin(window);
        }
        for stored in &window.events {
            if matches!(stored.event.kind, EventKind::Tick | EventKind::TranscriptCue { .. }) {
                continue;
            }
            let time = self.clock.time_of(stored);
            self.upcoming.insert((time, self.pushed), (stored.writer.sfu().cloned(), stored.event.kind.clone()));
            self.pushed += 1;
        }
    }

    /// The state at `time`, which never falls. An event that came late counts from now on.
    pub fn advance(&mut self, time: RoomTime) -> &RoomState {
        while let Some(entry) = self.upcoming.first_entry().filter(|entry| entry.key().0 <= time) {
            let ((now, _), (sfu, kind)) = entry.remove_entry();
            self.state.now = now;
            self.state.apply(sfu.as_ref(), &kind, &self.composite);
        }
        &self.state
    }

    /// Lets go of tracks that have been closed.
    pub fn forget_closed(&mut self) {
        self.state.tracks.retain(|_, track| !track.closed);
    }

    /// Whether [`Self::advance`] to `time` would change the state.
    #[must_use]
    pub fn changes_by(&self, time: RoomTime) -> bool {
        self.upcoming.first_key_value().is_some_and(|((at, _), _)| *at <= time)
    }

    /// The state where [`Self::advance`] left it.
    #[must_use]
    pub fn state(&self) -> &RoomState {
        &self.state
    }
}

impl RoomState {
    /// Participants and tracks from before the window: what it carries over less what its own events brought.
    fn begin(&mut self, window: &Window) {
        let carry = &window.header.carry_over;
        let happened = |wanted: &dyn Fn(&EventKind, &str) -> bool| {
            window
                .events
                .iter()
                .any(|stored| wanted(&stored.event.kind, stored.writer.sfu().map(SfuId::as_str).unwrap_or_default()))
        };
        let mut participants: Vec<_> = carry.participants.iter().collect();
        participants.sort_by_key(|participant| participant.joined_us);
        for participant in participants {
            let ids = (PeerId::new(participant.peer_id.clone()), SfuId::new(participant.sfu_id.clone()));
            let (Ok(peer), Ok(sfu)) = ids else { continue };
            let joins =
                happened(&|kind, _| matches!(kind, EventKind::PeerJoined { peer: joined, .. } if *joined == peer));
            let leaves = happened(
                &|kind, writer| matches!(kind, EventKind::PeerLeft { peer: left, .. } if *left == peer && writer == sfu.as_str()),
            );
            if !joins && (participant.present || leaves) {
                self.join(&sfu, &peer, &participant.display_name);
            }
        }
        for track in &carry.tracks {
            let Some(producer) = track.producer.clone().and_then(|producer| Producer::try_from(producer).ok()) else {
                continue;
            };
            let Ok(sfu) = SfuId::new(track.sfu_id.clone()) else { continue };
            let of_this = |kind: &EventKind, writer: &str| {
                writer == sfu.as_str()
                    && match kind {
                        EventKind::ProducerCreated(created) => created.track == producer.track,
                        EventKind::ProducerClosed { track, .. }
                        | EventKind::ProducerPaused { track }
                        | EventKind::ProducerResumed { track } => *track == producer.track,
                        _ => false,
                    }
            };
            let own: Vec<_> = window
                .events
                .iter()
                .filter(|stored| {
                    of_this(&stored.event.kind, stored.writer.sfu().map(SfuId::as_str).unwrap_or_default())
                })
                .map(|stored| &stored.event.kind)
                .collect();
            let is_kind = |wanted: fn(&EventKind) -> bool| own.iter().any(|kind| wanted(kind));
            let peer_left = happened(
                &|kind, writer| matches!(kind, EventKind::PeerLeft { peer, .. } if *peer == producer.peer && writer == sfu.as_str()),
            );
            let closes = is_kind(|kind| matches!(kind, EventKind::ProducerClosed { .. })) || peer_left;
            if is_kind(|kind| matches!(kind, EventKind::ProducerCreated(_))) || (track.closed && !closes) {
                continue;
            }
            let first_switch = own.iter().find_map(|kind| match kind {
                EventKind::ProducerPaused { .. } => Some(true),
                EventKind::ProducerResumed { .. } => Some(false),
                _ => None,
            });
            let key = TrackKey { sfu, track: producer.track.clone() };
            self.create_track(key.clone(), &producer);
            let paused = first_switch.map_or(track.paused, |pauses| !pauses);
            self.change_track(Some(key), |track| track.paused = paused);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::SourceKind;
    use roomreel_shared::event::{Codec, CodecParameters};
    use roomreel_shared::id::TrackId;
    use roomreel_shared::rtp::PayloadType;

    fn peer(id: &str) -> PeerId {
        PeerId::new(id).expect("valid")
    }

    fn track(id: &str) -> TrackId {
        TrackId::new(id).expect("valid")
    }

    fn joined(id: &str) -> EventKind {
        EventKind::PeerJoined {
            peer: peer(id),
            display_name: id.to_uppercase(),
            is_host: false,
            is_co_host: false,
            is_panelist: false,
        }
    }

    fn produced(of: &str, id: &str, kind: TrackKind) -> EventKind {
        EventKind::ProducerCreated(Producer {
            track: track(id),
            peer: peer(of),
            kind,
            is_audio: kind == TrackKind::Audio,
            codecs: vec![CodecParameters {
                payload_type: PayloadType(96),
                codec: Codec::Vp8,
                clock_rate: 90_000,
                channels: 0,
                fmtp: String::new(),
            }],
            encodings: vec![],
            header_extensions: vec![],
        })
    }

    /// One line per participant and screen: who, camera, microphone.
    fn told(state: &RoomState) -> String {
        let scene = state.scene(|_| Activity::default());
        let people = scene.participants.iter().map(|p| {
            let camera = if p.camera == Camera::On { "+cam" } else { "" };
            let mute = if p.microphone == Microphone::Muted { "+muted" } else { "" };
            format!("{}{camera}{mute}{}", p.display_name, if p.hidden { "+hidden" } else { "" })
        });
        let screens = scene.screenshares.iter().map(|s| format!("screen of {}", s.owner));
        people.chain(screens).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn a_meeting_told_by_its_events() {
        let sfu = SfuId::new("sfu").expect("valid");
        let composite = CompositeId::new("grid").expect("valid");
        let mut state = RoomState::default();
        let mut step = |kind: EventKind, expected: &str| {
            state.apply(Some(&sfu), &kind, &composite);
            assert_eq!(told(&state), expected, "after {kind:?}");
        };
        step(joined("amara"), "AMARA+muted");
        step(produced("amara", "a1", TrackKind::Audio), "AMARA");
        step(produced("amara", "a2", TrackKind::Video), "AMARA+cam");
        step(produced("bjorn", "b2", TrackKind::Video), "AMARA+cam, bjorn+cam+muted");
        step(EventKind::ProducerPaused { track: track("a2") }, "AMARA, bjorn+cam+muted");
        step(joined("sharescreen_amara"), "AMARA, bjorn+cam+muted");
        step(produced("sharescreen_amara", "s", TrackKind::Screenshare), "AMARA, bjorn+cam+muted, screen of amara");
        step(EventKind::ProducerResumed { track: track("a2") }, "AMARA+cam, bjorn+cam+muted, screen of amara");
        let hide = |composite| EventKind::LayoutChanged {
            recording: roomreel_shared::id::RecordingId::new("r").expect("valid"),
            command: String::new(),
            composite,
            layout: "speaker".to_owned(),
            hidden: vec![peer("bjorn")],
        };
        let other = Some(CompositeId::new("other").expect("valid"));
        step(hide(other), "AMARA+cam, bjorn+cam+muted, screen of amara");
        step(hide(None), "AMARA+cam, bjorn+cam+muted+hidden, screen of amara");
        step(
            EventKind::ProducerClosed { track: track("s"), reason: String::new() },
            "AMARA+cam, bjorn+cam+muted+hidden",
        );
        step(EventKind::PeerLeft { peer: peer("amara"), reason: String::new() }, "bjorn+cam+muted+hidden");
        step(joined("amara"), "bjorn+cam+muted+hidden, AMARA+muted");
        step(produced("amara", "a3", TrackKind::Video), "bjorn+cam+muted+hidden, AMARA+cam+muted");
        step(EventKind::RoomClosed { reason: String::new() }, "bjorn+cam+muted+hidden, AMARA+cam+muted");
        assert_eq!(state.layout(), Some("speaker"));
    }

    #[test]
    fn an_end_that_comes_late_ends_what_was_before_the_room_was_created_again() {
        let [sfu, other] = ["sfu", "other"].map(|id| SfuId::new(id).expect("valid"));
        let composite = CompositeId::new("grid").expect("valid");
        let created = || EventKind::RoomCreated {
            room_name: String::new(),
            host: None,
            meeting_type: String::new(),
            policy: None,
        };
        let closed = || EventKind::RoomClosed { reason: String::new() };
        let mut state = RoomState::default();
        for (sfu, kind, expected) in [
            (&sfu, created(), ""),
            (&sfu, joined("amara"), "AMARA+muted"),
            (&sfu, joined("bjorn"), "AMARA+muted, BJORN+muted"),
            (&sfu, produced("amara", "s", TrackKind::Screenshare), "AMARA+muted, BJORN+muted, screen of amara"),
            (
                &other,
                produced("chidi", "c", TrackKind::Video),
                "AMARA+muted, BJORN+muted, chidi+cam+muted, screen of amara",
            ),
            // Nothing came before its begin.
            (&sfu, closed(), "AMARA+muted, BJORN+muted, chidi+cam+muted, screen of amara"),
            (&sfu, created(), "AMARA+muted, BJORN+muted, chidi+cam+muted, screen of amara"),
            (&sfu, joined("dao"), "AMARA+muted, BJORN+muted, chidi+cam+muted, DAO+muted, screen of amara"),
            (
                &sfu,
                produced("bjorn", "b", TrackKind::Video),
                "AMARA+muted, BJORN+cam+muted, chidi+cam+muted, DAO+muted, screen of amara",
            ),
            (&sfu, closed(), "BJORN+cam+muted, chidi+cam+muted, DAO+muted"),
            (&other, closed(), "BJORN+cam+muted, chidi+cam+muted, DAO+muted"),
            (&sfu, closed(), "BJORN+cam+muted, chidi+cam+muted, DAO+muted"),
        ] {
            state.apply(Some(sfu), &kind, &composite);
            assert_eq!(told(&state), expected, "after {kind:?} of {sfu}");
        }
    }

    #[test]
    fn who_changes_to_another_sfu_stays() {
        let [old, new] = ["old", "new"].map(|id| SfuId::new(id).expect("valid"));
        let composite = CompositeId::new("grid").expect("valid");
        let left = || EventKind::PeerLeft { peer: peer("amara"), reason: String::new() };
        let mut state = RoomState::default();
        for (sfu, kind, expected) in [
            (&old, joined("amara"), "AMARA+muted"),
            (&old, produced("amara", "v", TrackKind::Video), "AMARA+cam+muted"),
            (&new, joined("amara"), "AMARA+cam+muted"),
            (&new, produced("amara", "a", TrackKind::Audio), "AMARA+cam"),
            (&old, left(), "AMARA"),
            (&new, left(), ""),
        ] {
            state.apply(Some(sfu), &kind, &composite);
            assert_eq!(told(&state), expected, "after {kind:?} of {sfu}");
        }
    }

    #[test]
    fn a_room_in_which_many_come_and_go_has_room_for_more() {
        let sfu = SfuId::new("sfu").expect("valid");
        let composite = CompositeId::new("grid").expect("valid");
        let mut room = RoomTimeline::new(composite.clone());
        for number in 0..2 * MAX_TRACKS {
            let (id, track_id) = (format!("p{}", number / 2), format!("t{number}"));
            for kind in [
                joined(&id),
                produced(&id, &track_id, TrackKind::Video),
                EventKind::ProducerClosed { track: track(&track_id), reason: String::new() },
                EventKind::PeerLeft { peer: peer(&id), reason: String::new() },
            ] {
                room.state.apply(Some(&sfu), &kind, &composite);
            }
            if number % 100 == 0 {
                room.forget_closed();
            }
        }
        assert!(room.state.peers.len() <= MAX_PARTICIPANTS && room.state.tracks.len() <= 100);
        room.state.apply(Some(&sfu), &joined("amara"), &composite);
        room.state.apply(Some(&sfu), &produced("amara", "v", TrackKind::Video), &composite);
        assert_eq!(told(&room.state), "AMARA+cam+muted");
    }

    #[test]
    fn the_newest_track_stands_for_a_source() {
        let sfu = SfuId::new("sfu").expect("valid");
        let composite = CompositeId::new("grid").expect("valid");
        let mut state = RoomState::default();
        for id in ["new", "newer"] {
            state.apply(Some(&sfu), &produced("amara", id, TrackKind::Video), &composite);
        }
        let source = SourceId { peer: peer("amara"), kind: SourceKind::Camera };
        let order: Vec<_> = state.tracks_of(&source).map(|key| key.track.as_str()).collect();
        assert_eq!(order, ["newer", "new"]);
    }

    #[test]
    fn a_coordinators_event_has_no_tracks() {
        let mut state = RoomState::default();
        state.apply(None, &produced("amara", "a", TrackKind::Video), &CompositeId::new("grid").expect("valid"));
        assert_eq!(told(&state), "");
    }
}
