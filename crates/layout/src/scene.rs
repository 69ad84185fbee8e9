//! What a layout arranges: who is in the room at one instant, and what they show.
//!
//! Owns the words a layout is decided from. Does not own how they came about (the timeline does).

use roomreel_shared::id::PeerId;
use serde::{Deserialize, Serialize};

/// Which picture of a participant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// The participant: the camera, or the placeholder in its stead.
    Camera,
    /// A shared screen or window.
    Screenshare,
}

/// One thing that can be in a tile.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourceId {
    /// Whose.
    pub peer: PeerId,
    /// Which of the peer's pictures.
    pub kind: SourceKind,
}

impl SourceId {
    /// The peer's camera.
    #[must_use]
    pub fn camera(peer: PeerId) -> Self {
        Self { peer, kind: SourceKind::Camera }
    }

    /// The peer's shared screen.
    #[must_use]
    pub fn screenshare(peer: PeerId) -> Self {
        Self { peer, kind: SourceKind::Screenshare }
    }
}

/// A camera's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Camera {
    /// There is a picture, or will be.
    On,
    /// No track, or a paused one: the tile shows a placeholder.
    Off,
}

/// A microphone's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Microphone {
    /// Can be heard.
    On,
    /// No track, or a paused one: the tile is marked.
    Muted,
}

/// One person in the room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Participant {
    /// Who.
    pub peer: PeerId,
    /// As shown on the label; any script, may be empty.
    pub display_name: String,
    /// The camera now.
    pub camera: Camera,
    /// The microphone now.
    pub microphone: Microphone,
    /// Heard right now: the tile wears a ring.
    pub speaking: bool,
    /// 0 is silence, 127 full scale (127 minus the level of RFC 6464).
    pub audio_level: u8,
    /// Left out of every arrangement, with everything it shares.
    pub hidden: bool,
}

/// One shared screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screenshare {
    /// What is in the tile; [`SourceKind::Screenshare`].
    pub source: SourceId,
    /// The participant it belongs to; the same peer, unless the SFU shares screens as peers of their own.
    pub owner: PeerId,
}

/// The room at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scene {
    /// In the order they joined.
    pub participants: Vec<Participant>,
    /// In the order they began.
    pub screenshares: Vec<Screenshare>,
    /// Who speaks, by the SFU; without it the loudest participant who speaks is taken.
    pub active_speaker: Option<PeerId>,
}

impl Scene {
    /// Participants that may be seen, in the order they joined.
    pub(super) fn visible(&self) -> impl Iterator<Item = &Participant> {
        self.participants.iter().filter(|participant| !participant.hidden)
    }

    /// Shared screens that may be seen, in the order they began.
    pub(super) fn visible_screenshares(&self) -> impl Iterator<Item = &Screenshare> {
        self.screenshares.iter().filter(|share| !self.is_hidden(&share.owner) && !self.is_hidden(&share.source.peer))
    }

    /// The participant, if it is here.
    pub(super) fn participant(&self, peer: &PeerId) -> Option<&Participant> {
        self.participants.iter().find(|participant| participant.peer == *peer)
    }

    fn is_hidden(&self, peer: &PeerId) -> bool {
        self.participant(peer).is_some_and(|participant| participant.hidden)
    }
}
