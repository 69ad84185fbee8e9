//! What each SFU may forget, from what the last committed window carries over.

use std::collections::BTreeMap;

use roomreel_shared::id::{RecordingId, SfuId};
use roomreel_shared::wire;

/// The watermark of every SFU that has tracks or events in the room.
#[must_use]
pub fn watermarks(recording: &RecordingId, window: u64, carry: &wire::CarryOver) -> BTreeMap<SfuId, wire::Watermark> {
    let mut watermarks = BTreeMap::new();
    for track in &carry.tracks {
        let Ok(sfu) = SfuId::new(track.sfu_id.as_str()) else { continue };
        // Of a numbering that is over the publisher may ask still.
        let past = track.past.iter().map(|past| (past.incarnation, past.next_batch_no));
        let followed = track.incarnations.iter().map(|state| (state.incarnation, state.next_batch_no));
        of(&mut watermarks, sfu).tracks.extend(past.chain(followed).map(|(incarnation, next_batch_no)| {
            wire::TrackWatermark { track_id: track.track_id.clone(), incarnation, next_batch_no }
        }));
    }
    for stream in &carry.event_streams {
        let Ok(sfu) = SfuId::new(stream.sfu_id.as_str()) else { continue };
        of(&mut watermarks, sfu)
            .events
            .push(wire::EventWatermark { incarnation: stream.incarnation, next_event_no: stream.next_event_no });
    }
    for watermark in watermarks.values_mut() {
        watermark.recording_id = recording.to_string();
        watermark.window = window;
    }
    watermarks
}

fn of(watermarks: &mut BTreeMap<SfuId, wire::Watermark>, sfu: SfuId) -> &mut wire::Watermark {
    watermarks.entry(sfu).or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sfu_hears_of_its_own() {
        let carry = wire::CarryOver {
            tracks: vec![wire::TrackState {
                sfu_id: "a".to_owned(),
                track_id: "cam".to_owned(),
                incarnations: vec![wire::IncarnationState { incarnation: 7, next_batch_no: 3, ..Default::default() }],
                past: vec![wire::PastNumbering { incarnation: 5, next_batch_no: 20, next_packet_no: 80 }],
                ..Default::default()
            }],
            event_streams: ["", "a", "b"]
                .map(|sfu| wire::EventStreamState {
                    sfu_id: sfu.to_owned(),
                    incarnation: 9,
                    next_event_no: 2,
                    ..Default::default()
                })
                .to_vec(),
            ..Default::default()
        };
        let watermarks = watermarks(&RecordingId::new("r").expect("valid"), 4, &carry);
        let shape: Vec<_> =
            watermarks.iter().map(|(sfu, w)| (sfu.as_str(), w.window, w.tracks.len(), w.events.len())).collect();
        assert_eq!(shape, [("a", 4, 2, 1), ("b", 4, 0, 1)]);
        let tracks = &watermarks[&SfuId::new("a").expect("valid")].tracks;
        let stored: Vec<_> = tracks.iter().map(|track| (track.incarnation, track.next_batch_no)).collect();
        assert_eq!(stored, [(5, 20), (7, 3)]);
    }
}
