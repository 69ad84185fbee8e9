//! Who speaks, from the starts and stops of each participant: one active speaker at a time, the newest who has not stopped.

use roomreel_shared::event::EventKind;
use roomreel_shared::id::PeerId;

/// See the module. Gives an event when the active speaker changes.
#[derive(Debug, Default)]
pub struct Speakers {
    present: Vec<PeerId>,
    /// With the level when they began, -dBov; the newest last.
    speaking: Vec<(PeerId, u8)>,
}

impl Speakers {
    /// A participant came.
    pub fn joined(&mut self, peer: PeerId) {
        if !self.present.contains(&peer) {
            self.present.push(peer);
        }
    }

    /// A participant went.
    pub fn left(&mut self, peer: &PeerId) -> Option<EventKind> {
        self.present.retain(|present| present != peer);
        self.stopped(peer)
    }

    /// A participant began to speak. Nothing comes of one who is not there.
    pub fn speaking(&mut self, peer: PeerId, level_dbov: f64) -> Option<EventKind> {
        if !self.present.contains(&peer) {
            return None;
        }
        let was = self.active();
        self.speaking.retain(|(speaking, _)| *speaking != peer);
        // RFC 6464 counts down from 0, the loudest.
        self.speaking.push((peer, (-level_dbov).round().clamp(0.0, 127.0) as u8));
        self.change(was)
    }

    /// A participant stopped speaking.
    pub fn stopped(&mut self, peer: &PeerId) -> Option<EventKind> {
        let was = self.active();
        self.speaking.retain(|(speaking, _)| speaking != peer);
        self.change(was)
    }

    fn active(&self) -> Option<PeerId> {
        self.speaking.last().map(|(peer, _)| peer.clone())
    }

    fn change(&self, was: Option<PeerId>) -> Option<EventKind> {
        let is = self.active();
        let level = self.speaking.last().map_or(127, |(_, level)| *level);
        (was != is).then_some(EventKind::ActiveSpeaker { peer: is, level })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_speaker_is_active_and_silence_falls_back() {
        let peer = |id: &str| PeerId::new(id).expect("valid");
        let active = |id: Option<&str>, level| Some(EventKind::ActiveSpeaker { peer: id.map(peer), level });
        let mut speakers = Speakers::default();
        assert_eq!(speakers.speaking(peer("a"), -28.6), None, "nobody is there yet");
        speakers.joined(peer("a"));
        speakers.joined(peer("b"));
        assert_eq!(speakers.speaking(peer("a"), -28.6), active(Some("a"), 29));
        assert_eq!(speakers.speaking(peer("b"), f64::NAN), active(Some("b"), 0));
        assert_eq!(speakers.stopped(&peer("a")), None);
        assert_eq!(speakers.left(&peer("b")), active(None, 127));
        assert_eq!(speakers.speaking(peer("b"), -1.0), None);
    }
}
