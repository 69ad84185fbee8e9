//! The end of a window: asks the tracks for their parts and makes the object of them.

use std::collections::{BTreeMap, BTreeSet};

use roomreel_shared::subject::Writer;
use roomreel_shared::time::LogTime;
use roomreel_shared::window::{self, Final, Gap, Header, TrackKey};
use roomreel_shared::wire;

use super::{Phase, RoomFold, RoomOutput, SealedWindow, Sealing};
use crate::ranges::Ranges;
use crate::track::{Counts, TrackInput};

impl RoomFold {
    pub(super) fn begin_seal(&mut self, end: LogTime, last: Option<Final>, outputs: &mut Vec<RoomOutput>) {
        let waiting: BTreeSet<TrackKey> = self.roster.tracks.keys().cloned().collect();
        for key in &waiting {
            outputs.push(RoomOutput::ToTrack(key.clone(), TrackInput::Seal { last: last.is_some() }));
        }
        self.unanswered.clear();
        self.sealing = Some(Sealing { waiting, parts: BTreeMap::new(), end, last });
        self.finish_seal(outputs);
    }

    /// Makes the window once every track has given its part; before the recording there is none to make.
    pub(super) fn finish_seal(&mut self, outputs: &mut Vec<RoomOutput>) {
        let Some(sealing) = self.sealing.take_if(|sealing| sealing.waiting.is_empty()) else { return };
        if self.phase == Phase::Before {
            outputs.push(RoomOutput::Released);
            return;
        }
        let held = sealing.parts.values().flat_map(|part| &part.held).map(|batch| batch.sequence);
        let held = held.chain(self.events.values().flat_map(|order| order.held()).map(|held| held.sequence));
        let log_sequence = held.map(|sequence| sequence - 1).fold(self.folded, u64::min);
        let mut carry_over = wire::CarryOver {
            log_sequence,
            log_time_us: self.now.as_micros(),
            seen_sequence: self.seen,
            began_us: self.start.as_micros(),
            event_streams: self
                .events
                .iter()
                .map(|((writer, incarnation), order)| wire::EventStreamState {
                    sfu_id: match writer {
                        Writer::Sfu(sfu) => sfu.to_string(),
                        Writer::Control => String::new(),
                    },
                    incarnation: incarnation.get(),
                    next_event_no: order.next(),
                    missing: self
                        .missing_events
                        .get(&(writer.clone(), *incarnation))
                        .map(Ranges::to_wire)
                        .unwrap_or_default(),
                    began_us: self.began.get(&(writer.clone(), *incarnation)).map_or(0, |began| began.as_micros()),
                })
                .collect(),
            ..Default::default()
        };
        if let Some((room, log)) = self.clock.pair() {
            carry_over.room_clock_us = room.as_micros();
            carry_over.room_clock_log_us = log.as_micros();
        }
        self.log_clock.write(&mut carry_over);
        carry_over.rewound_end = self.rewound.filter(|_| carry_over.rewound);
        self.roster.write(&mut carry_over);
        let mut counts = Counts { lost_events: std::mem::take(&mut self.lost_events), ..Counts::default() };
        let mut gaps = Vec::new();
        let mut segments = Vec::new();
        let mut closed = Vec::new();
        for (key, mut part) in sealing.parts {
            self.roster.write_track(&key, &mut part.state);
            let is_quiet = part.segment.is_none() && part.gaps.is_empty() && part.held.is_empty();
            if is_quiet && sealing.last.is_none() && self.is_over(&part.state, sealing.end) {
                gaps.extend(self.retire(&key, &part.state));
                closed.push(RoomOutput::CloseTrack(key));
            } else {
                carry_over.tracks.push(part.state);
            }
            self.has_lost |= part.has_lost;
            gaps.extend(part.gaps);
            segments.extend(part.segment);
            counts.add(part.counts);
        }
        gaps.extend(std::mem::take(&mut self.refused).into_values());
        self.has_lost |= gaps.iter().any(Gap::is_for_good);
        carry_over.has_lost = self.has_lost;
        carry_over.retired = self.retired.to_wire();
        carry_over.senders = self.senders.iter().cloned().collect();
        let header = Header {
            tenant: self.spec.tenant.clone(),
            room: self.spec.room.clone(),
            recording: self.spec.recording.clone(),
            window: self.window,
            epoch: self.identity.epoch,
            nonce: self.identity.nonce,
            previous: self.previous,
            log_span: (self.window_start, sealing.end),
            room_start: self.room_start,
            room_seen: self.clock.newest().unwrap_or(self.room_start).max(self.room_start),
            window_duration_us: self.duration_us().unsigned_abs(),
            gaps,
            carry_over,
            end: sealing.last,
            trace_parent: self.trace_parent.take(),
        };
        let (object, hash) = window::encode_with_hash(&header, &segments, &std::mem::take(&mut self.stored));
        self.window += 1;
        self.window_start = sealing.end;
        self.previous = Some(hash);
        self.from_zero = true;
        outputs.append(&mut closed);
        outputs.push(RoomOutput::Commit(Box::new(SealedWindow { header, object, hash, counts })));
        if sealing.last.is_some() {
            self.phase = Phase::Finished;
            outputs.push(RoomOutput::Finished);
        } else {
            self.resume_deferred(outputs);
        }
    }
}
