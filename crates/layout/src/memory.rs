//! What a layout remembers from frame to frame: who holds the stage, and which cells of a region are taken.
//!
//! Owns the hysteresis. It is a fold of what [`super::Layout::arrange`] was called with, so a render that starts in
//! mid-recording comes to the same pictures by arranging (not painting) from the start.

use std::collections::BTreeMap;
use std::time::Duration;

use roomreel_shared::id::PeerId;

use super::scene::{Camera, Participant, Scene, SourceId};

/// A cough does not take the stage: who wants it must have spoken for this long.
const CHALLENGE: Duration = Duration::from_millis(700);
/// Nobody loses the stage before having had it for this long: a picture that changes faster is hard to watch.
const TENURE: Duration = Duration::from_millis(2500);

/// State carried from one arrangement to the next; start from `default()`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LayoutMemory {
    holder: Option<Holder>,
    challenger: Option<Challenger>,
    /// By name of the region: who had which cell, for regions that never give a cell to a second source.
    pub(super) spent: BTreeMap<String, Vec<SourceId>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    peer: PeerId,
    since: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Challenger {
    peer: PeerId,
    since: Duration,
}

impl LayoutMemory {
    /// Who holds the stage at `t`: the active speaker with hysteresis, else the first participant with a camera.
    pub(super) fn stage<'a>(&mut self, scene: &'a Scene, t: Duration) -> Option<&'a Participant> {
        let visible = |peer: &PeerId| scene.visible().find(|participant| participant.peer == *peer);
        self.follow(scene, t);
        let holder = self.holder.as_ref().and_then(|holder| visible(&holder.peer));
        holder.or_else(|| scene.visible().find(|p| p.camera == Camera::On)).or_else(|| scene.visible().next())
    }

    fn follow(&mut self, scene: &Scene, t: Duration) {
        let visible = |peer: &PeerId| scene.visible().any(|participant| participant.peer == *peer);
        if self.holder.as_ref().is_some_and(|holder| !visible(&holder.peer)) {
            self.holder = None;
        }
        let Some(speaker) = speaker(scene) else {
            // In silence the last speaker stays, and a challenge is not made of two coughs.
            self.challenger = None;
            return;
        };
        let Some(holder) = &self.holder else {
            self.holder = Some(Holder { peer: speaker.clone(), since: t });
            self.challenger = None;
            return;
        };
        if holder.peer == *speaker {
            self.challenger = None;
            return;
        }
        let since = match &self.challenger {
            Some(challenger) if challenger.peer == *speaker => challenger.since,
            _ => t,
        };
        if t.saturating_sub(since) >= CHALLENGE && t.saturating_sub(holder.since) >= TENURE {
            self.holder = Some(Holder { peer: speaker.clone(), since: t });
            self.challenger = None;
        } else {
            self.challenger = Some(Challenger { peer: speaker.clone(), since });
        }
    }
}

/// Who speaks now: by the SFU, else by level.
fn speaker(scene: &Scene) -> Option<&PeerId> {
    let by_sfu = scene.active_speaker.as_ref().filter(|peer| scene.visible().any(|p| p.peer == **peer));
    // `rev`: of equally loud ones the first to join.
    by_sfu.or_else(|| {
        scene
            .visible()
            .filter(|p| p.speaking)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .max_by_key(|p| p.audio_level)
            .map(|p| &p.peer)
    })
}
