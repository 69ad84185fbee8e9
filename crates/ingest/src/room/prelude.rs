//! What was so when a recording began in mid-room: the events that still hold, so that the chain of windows explains itself.

use std::collections::BTreeMap;

use bytes::Bytes;
use roomreel_shared::event::EventKind;
use roomreel_shared::id::{PeerId, SfuId};
use roomreel_shared::subject::Writer;
use roomreel_shared::time::LogTime;
use roomreel_shared::window::TrackKey;

use crate::roster;

/// Most events that are kept; a room where more hold at once is hostile.
const MAX_EVENTS: usize = 16_384;

/// What an event says something about; a later one about the same replaces it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    Room,
    Policy,
    /// At one SFU: who changes to another leaves the old one afterwards.
    Peer(PeerId, Option<SfuId>),
    Producer(TrackKey),
    Mute(TrackKey),
    Speaker,
}

/// The events before a recording that still hold.
#[derive(Debug, Default)]
pub(super) struct Prelude {
    events: BTreeMap<Topic, (u64, Writer, LogTime, Bytes)>,
    count: u64,
}

impl Prelude {
    /// An event before the recording.
    pub(super) fn on_event(&mut self, writer: &Writer, time: LogTime, kind: &EventKind, message: &Bytes) {
        let track = roster::track_of(writer, kind);
        let at_sfu = |peer: &PeerId| Topic::Peer(peer.clone(), writer.sfu().cloned());
        let topic = match (kind, track) {
            (EventKind::RoomCreated { .. }, _) => Topic::Room,
            (EventKind::RoomPolicyUpdated { .. }, _) => Topic::Policy,
            (EventKind::PeerJoined { peer, .. }, _) => at_sfu(peer),
            (EventKind::ActiveSpeaker { .. }, _) => Topic::Speaker,
            (EventKind::ProducerCreated(_), Some(track)) => Topic::Producer(track),
            (EventKind::ProducerPaused { .. }, Some(track)) => Topic::Mute(track),
            (EventKind::PeerLeft { peer, .. }, _) => return self.forget(&[at_sfu(peer)]),
            (EventKind::ProducerResumed { .. }, Some(track)) => return self.forget(&[Topic::Mute(track)]),
            (EventKind::ProducerClosed { .. }, Some(track)) => {
                return self.forget(&[Topic::Mute(track.clone()), Topic::Producer(track)]);
            }
            (EventKind::RoomClosed { .. }, _) => return self.events.clear(),
            _ => return,
        };
        self.count += 1;
        if self.events.len() < MAX_EVENTS || self.events.contains_key(&topic) {
            self.events.insert(topic, (self.count, writer.clone(), time, message.clone()));
        }
    }

    fn forget(&mut self, topics: &[Topic]) {
        for topic in topics {
            self.events.remove(topic);
        }
    }

    /// What still holds, in log order.
    pub(super) fn take(&mut self) -> Vec<(Writer, LogTime, Bytes)> {
        let mut events: Vec<_> = std::mem::take(&mut self.events).into_values().collect();
        events.sort_by_key(|event| event.0);
        events.into_iter().map(|(_, writer, time, message)| (writer, time, message)).collect()
    }
}
