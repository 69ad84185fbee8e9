//! The tracks that a window tells of.

use roomreel_shared::event::{EventKind, Producer};
use roomreel_shared::id::SfuId;
use roomreel_shared::window::{TrackKey, Window};

/// Whether the track was over when the window ended, and did not begin in it.
pub(crate) fn has_ended(window: &Window, key: &TrackKey) -> bool {
    let is_it = |sfu: &str, track: &str| key.sfu.as_str() == sfu && key.track.as_str() == track;
    let is_closed = window.header.carry_over.tracks.iter().any(|track| {
        track.closed && track.producer.as_ref().is_some_and(|producer| is_it(&track.sfu_id, &producer.track_id))
    });
    let begins = window.events.iter().any(|stored| match (&stored.event.kind, stored.writer.sfu()) {
        (EventKind::ProducerCreated(producer), Some(sfu)) => is_it(sfu.as_str(), producer.track.as_str()),
        _ => false,
    });
    is_closed && !begins
}

/// The tracks that were there when the window ended and those that came in it, as their SFUs described them.
pub(crate) fn announced(window: &Window) -> impl Iterator<Item = (TrackKey, Producer)> {
    let sends = |key: &TrackKey| window.segments.iter().any(|segment| segment.key == *key);
    let carried = window.header.carry_over.tracks.iter().filter_map(move |track| {
        let producer = Producer::try_from(track.producer.clone()?).ok()?;
        let key = TrackKey { sfu: SfuId::new(track.sfu_id.clone()).ok()?, track: producer.track.clone() };
        (!track.closed || sends(&key)).then_some((key, producer))
    });
    let created = window.events.iter().filter_map(|stored| match &stored.event.kind {
        EventKind::ProducerCreated(producer) => {
            Some((TrackKey { sfu: stored.writer.sfu()?.clone(), track: producer.track.clone() }, producer.clone()))
        }
        _ => None,
    });
    carried.chain(created)
}
