//! Tracks that are over: dropped, so that a room may have any number of them one after another. And tracks that are too many.

use std::time::Duration;

use roomreel_shared::batch::{Incarnation, RtpBatch};
use roomreel_shared::time::LogTime;
use roomreel_shared::window::{AcceptedReason, Gap, MAX_PARTICIPANTS, Missing, TrackKey};
use roomreel_shared::wire;

use super::{DamagedReason, Phase, RoomFold, RoomOutput};
use crate::past::Stand;
use crate::roster::MAX_TRACKS;
use crate::stream::Stream;
use crate::track::{OpenTrack, TrackInput, network_gap};

/// Most numberings of dropped tracks of which it is remembered how far they came.
pub(super) const MAX_RETIRED: usize = 4096;
/// Log time that a track which is over stays without a word: its publisher hears meanwhile how far it is stored.
const QUIET: Duration = Duration::from_secs(20);
/// The same, of one of which batches are declared missing, which may still come late.
const QUIET_WITH_HOLES: Duration = Duration::from_secs(600);
/// Tracks up to which one that was dropped is taken up again only to tell its publisher how far it is stored.
const MAX_TRACKS_RECALLED: usize = MAX_TRACKS / 2;
/// Most numberings of tracks that are too many which a window names.
const MAX_REFUSED: usize = 1024;

fn has_holes(state: &wire::TrackState) -> bool {
    state.incarnations.iter().any(|state| !state.declared_missing.is_empty())
}

impl RoomFold {
    /// Whether the track may be dropped with the window that ends at `end`: the window before it told of it as it is.
    pub(super) fn is_over(&self, state: &wire::TrackState, end: LogTime) -> bool {
        let quiet = if has_holes(state) { QUIET_WITH_HOLES } else { QUIET };
        let heard = LogTime::from_micros(state.heard_us);
        (state.closed || state.abandoned)
            && state
                .incarnations
                .iter()
                .all(|state| state.ended && state.expected.is_none() && state.dropped.is_empty())
            && heard < self.window_start
            && end >= heard + quiet
    }

    /// Drops a track; answers what is missing of it by its own numbers, which nothing will bring any more.
    pub(super) fn retire(&mut self, key: &TrackKey, state: &wire::TrackState) -> Vec<Gap> {
        self.has_lost |= has_holes(state);
        self.retired.extend_from_wire(&state.past);
        for state in &state.incarnations {
            if let Some(incarnation) = Incarnation::new(state.incarnation) {
                let wire::IncarnationState { next_batch_no, next_packet_no, .. } = *state;
                self.retired.push(incarnation, Stand { next_batch_no, next_packet_no });
            }
        }
        if let Some(track) = self.roster.tracks.remove(key)
            && let Some(producer) = track.producer
            && self.senders.len() < MAX_PARTICIPANTS
            && !self.roster.is_participant(&producer.peer)
        {
            self.senders.insert(producer.peer.to_string());
        }
        let newest = state.incarnations.iter().filter_map(|state| Incarnation::new(state.incarnation)).max();
        let Some(incarnation) = newest else { return Vec::new() };
        let mut lost = Vec::new();
        state.streams.iter().for_each(|stream| Stream::from_wire(stream).end(&mut lost));
        lost.into_iter().map(|(ssrc, run)| network_gap(key, incarnation, ssrc, run)).collect()
    }

    /// A batch of a numbering that was dropped has come. `true`: it is to be taken, its track has the numbering again.
    pub(super) fn on_retired(
        &mut self,
        key: &TrackKey,
        batch: &RtpBatch,
        stand: Stand,
        again: bool,
        outputs: &mut Vec<RoomOutput>,
    ) -> Result<bool, DamagedReason> {
        let is_new = batch.batch_no >= stand.next_batch_no;
        let most = if is_new { MAX_TRACKS } else { MAX_TRACKS_RECALLED };
        if again || self.phase != Phase::Open {
            return Ok(false);
        }
        if self.recall(key, batch.incarnation, most, outputs) {
            return Ok(true);
        }
        if is_new {
            self.refuse(key, batch);
            return Err(DamagedReason::TooMany);
        }
        Ok(false)
    }

    /// Takes up a dropped numbering again: its track was published again since and has it with what it has by now, or is taken
    /// up itself as far as this numbering goes. `false`: there are `most` tracks, and it is dropped still.
    pub(super) fn recall(
        &mut self,
        key: &TrackKey,
        incarnation: Incarnation,
        most: usize,
        outputs: &mut Vec<RoomOutput>,
    ) -> bool {
        let is_there = self.roster.tracks.contains_key(key);
        if !is_there && self.roster.tracks.len() >= most {
            return false;
        }
        let Some(Stand { next_batch_no, next_packet_no }) = self.retired.take(incarnation) else { return true };
        if is_there {
            let past = wire::PastNumbering { incarnation: incarnation.get(), next_batch_no, next_packet_no };
            outputs.push(RoomOutput::ToTrack(key.clone(), TrackInput::Past(past)));
            return true;
        }
        let numbering = wire::IncarnationState {
            incarnation: incarnation.get(),
            next_batch_no,
            next_packet_no,
            ended: true,
            ..Default::default()
        };
        let state = wire::TrackState {
            sfu_id: key.sfu.to_string(),
            track_id: key.track.to_string(),
            incarnations: vec![numbering],
            closed: true,
            ..Default::default()
        };
        let admission = self.roster.read_track(key, &state, self.now);
        outputs.push(RoomOutput::OpenTrack(OpenTrack { key: key.clone(), state, admission, now: self.now }));
        true
    }

    /// A batch of a track that is too many: the window says that it is missing.
    pub(super) fn refuse(&mut self, key: &TrackKey, batch: &RtpBatch) {
        let RtpBatch { incarnation, batch_no, first_packet_no, ref packets, .. } = *batch;
        let id = (key.clone(), incarnation);
        if self.refused.len() >= MAX_REFUSED && !self.refused.contains_key(&id) {
            return;
        }
        let (first, last) = (packets[0].time, packets[packets.len() - 1].time);
        let last_packet = batch.next_packet_no() - 1;
        let gap = self.refused.entry(id).or_insert_with(|| Gap {
            key: key.clone(),
            incarnation,
            missing: Missing::Accepted {
                reason: AcceptedReason::Damaged,
                batches: (batch_no, batch_no),
                packets: (first_packet_no, Some(last_packet)),
            },
            span: (first, last),
        });
        if let Missing::Accepted { batches, packets, .. } = &mut gap.missing {
            *batches = (batches.0.min(batch_no), batches.1.max(batch_no));
            *packets = (packets.0.min(first_packet_no), packets.1.max(Some(last_packet)));
        }
        gap.span = (gap.span.0.min(first), gap.span.1.max(last));
    }
}
