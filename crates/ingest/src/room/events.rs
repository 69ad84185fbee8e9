//! What events do to the recording: begin it, end it, pause it, change what is stored.

use std::time::Duration;

use bytes::Bytes;
use roomreel_shared::batch::Incarnation;
use roomreel_shared::event::{EventKind, RoomEvent, StopReason};
use roomreel_shared::id::{RecordingId, SfuId};
use roomreel_shared::subject::Writer;
use roomreel_shared::time::{LogTime, RoomTime};
use roomreel_shared::window::{Final, TrackKey};
use roomreel_shared::wire::NumberRange;

use super::{EventStream, Phase, ReplayRequest, RoomFold, RoomOutput};
use crate::roster::{self, MAX_TRACKS};
use crate::track::TrackInput;

/// Log time in which a track that is sent has its next batch: of less than 100 ms, by a broker that may be slow.
const NEXT_BATCH: Duration = Duration::from_secs(1);

impl RoomFold {
    /// The next event of a writer, in its order; the writer is permitted to write it.
    pub(super) fn on_event(
        &mut self,
        writer: &Writer,
        event: RoomEvent,
        time: LogTime,
        message: Bytes,
        outputs: &mut Vec<RoomOutput>,
    ) {
        match self.phase {
            Phase::Finished => {}
            Phase::Ending(..) => {
                if let EventKind::PublisherGap(_) = event.kind {
                    self.tell_track(writer, &event, outputs);
                    self.stored.push((writer.clone(), time, message));
                }
            }
            Phase::Before | Phase::Open if writer.sfu().is_some() => {
                self.on_sfu_event(writer, &event, time, message, outputs);
            }
            Phase::Before | Phase::Open => self.on_control(event, time, message, outputs),
        }
    }

    fn on_sfu_event(
        &mut self,
        writer: &Writer,
        event: &RoomEvent,
        time: LogTime,
        message: Bytes,
        outputs: &mut Vec<RoomOutput>,
    ) {
        let Some(sfu) = writer.sfu() else { return };
        if matches!(event.kind, EventKind::RoomCreated { .. }) {
            self.from_zero = true;
            let stream = (writer.clone(), event.incarnation);
            if event.event_no == 0 {
                self.abandon_earlier_start(&stream, outputs);
            }
            let is_followed = self.events.get(&stream).is_some_and(|order| order.first_held().is_some());
            if self.phase == Phase::Open
                && !is_followed
                && let Some((end, _)) = self.stopping
            {
                // What comes now is none of what the coordinator saw end.
                self.stored.push((writer.clone(), time, message));
                self.end(end, outputs);
                return;
            }
        }
        // The coordinator saw a start end and the log has that again: it is what is waited for, whatever began since.
        let ends = self.stopping.is_some() || !self.is_outlived(writer, event.incarnation);
        let end = self.end_of_room(event, time).filter(|_| ends);
        self.clock.observe(event.time, time);
        if let EventKind::PublisherGap(gap) = &event.kind
            && self.phase == Phase::Open
        {
            let key = TrackKey { sfu: sfu.clone(), track: gap.track.clone() };
            self.recall(&key, gap.incarnation, MAX_TRACKS, outputs);
        }
        if let Some(key) = roster::track_of(writer, &event.kind)
            && self.open_track(&key, time, outputs).is_err()
        {
            return;
        }
        self.roster.on_sfu_event(sfu, event.time, &event.kind);
        if matches!(event.kind, EventKind::RoomClosed { .. } | EventKind::ProducerClosed { .. }) {
            self.tell_ends(sfu, (event.time, time), &message, outputs);
        }
        self.tell_track(writer, event, outputs);
        self.update_admissions(outputs);
        if self.phase == Phase::Before {
            if end.is_some() {
                // An earlier session, whose tracks are none of the recording's.
                let tracks = self.roster.tracks.keys().filter(|key| key.sfu == *sfu);
                outputs.extend(tracks.map(|key| RoomOutput::ToTrack(key.clone(), TrackInput::Closed)));
            }
            if end.is_some() || !matches!(event.kind, EventKind::RoomClosed { .. }) {
                self.prelude.on_event(writer, time, &event.kind, &message);
            }
        } else {
            self.stored.push((writer.clone(), time, message));
            if let Some(end) = end {
                self.end(end, outputs);
            }
        }
    }

    fn on_control(&mut self, event: RoomEvent, time: LogTime, message: Bytes, outputs: &mut Vec<RoomOutput>) {
        if let Some((recording, command)) = command_of(&event.kind) {
            if *recording != self.spec.recording || !self.roster.is_new_command(command) {
                return;
            }
            let room_time = self.clock.at(time).unwrap_or(event.time);
            if self.phase == Phase::Before
                && matches!(event.kind, EventKind::RecordingStarted { .. } | EventKind::RecordingStopped { .. })
            {
                // What was to come first is lost: it is missed all the same.
                self.from_zero |= self.spec.from.is_some();
                self.begin(self.spec.beginning.map_or(room_time, |beginning| beginning.time), time, outputs);
            }
        }
        if self.phase == Phase::Before {
            return;
        }
        self.stored.push((Writer::Control, time, message));
        match event.kind {
            EventKind::RecordingPaused { .. } => self.roster.paused = true,
            EventKind::RecordingResumed { .. } => self.roster.paused = false,
            EventKind::RecordingStopped { reason, .. } => {
                let seen = self.clock.newest();
                // An idle room ended when it was last heard, not when somebody noticed.
                let heard = if reason == StopReason::Idle { seen } else { self.clock.at(time) };
                let room_end = heard.unwrap_or(event.time).max(self.room_start);
                let end = Final { reason, room_end };
                if reason == StopReason::RoomClosed && self.phase == Phase::Open {
                    self.await_close(end, outputs);
                } else {
                    self.end(end, outputs);
                }
                return;
            }
            _ => return,
        }
        self.update_admissions(outputs);
    }

    /// The recording's first moment.
    pub(super) fn begin(&mut self, room_start: RoomTime, time: LogTime, outputs: &mut Vec<RoomOutput>) {
        self.phase = Phase::Open;
        self.roster.started = true;
        self.room_start = room_start;
        self.window_start = time;
        self.start = time;
        self.stored = self.prelude.take();
        // Before, time was nothing to them; an owner that takes over begins them with what it is.
        let tracks = self.roster.tracks.keys().cloned();
        outputs.extend(tracks.map(|key| RoomOutput::ToTrack(key, TrackInput::Clock(self.now))));
        self.update_admissions(outputs);
    }

    /// Whether the SFU began in the room again after it did so under these numbers. A RoomClosed among them is of before that:
    /// the log lost it and has it again, or it lay in the publisher's spool. It ends tracks, and not the room.
    fn is_outlived(&self, writer: &Writer, incarnation: Incarnation) -> bool {
        let began = |stream: &EventStream| self.began.get(stream).filter(|at| at.as_micros() != 0);
        let at = began(&(writer.clone(), incarnation));
        at.is_some() && self.began.keys().any(|other| other.0 == *writer && began(other) > at)
    }

    fn end_of_room(&self, event: &RoomEvent, time: LogTime) -> Option<Final> {
        let EventKind::RoomClosed { .. } = event.kind else { return None };
        let newest = self.clock.newest().unwrap_or(event.time);
        // Media that was stamped later belongs to the recording, and slices of it may have been made.
        let room_end = if self.clock.is_believable(event.time, time) { event.time.max(newest) } else { newest };
        Some(Final { reason: StopReason::RoomClosed, room_end: room_end.max(self.room_start) })
    }

    /// The coordinator has seen the room close, and the log may have lost that since: its publisher is asked for it and sends
    /// it again of itself, and it says how many packets there were.
    fn await_close(&mut self, end: Final, outputs: &mut Vec<RoomOutput>) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some((end, self.now + self.config.gap_after * 2));
        for ((writer, incarnation), order) in &self.events {
            if let Some(sfu) = writer.sfu() {
                outputs.push(RoomOutput::RequestReplay(ReplayRequest {
                    sfu: sfu.clone(),
                    track: None,
                    incarnation: *incarnation,
                    ranges: vec![NumberRange { first: order.next(), last: u64::MAX - 1 }],
                    attempt: 1,
                }));
            }
        }
    }

    /// The room's end has not come: nobody can say how many packets there were.
    pub(super) fn end_unheard(&mut self, outputs: &mut Vec<RoomOutput>) {
        if let Some((end, _)) = self.stopping.take() {
            self.abandon(|_| true, LogTime::from_micros(i64::MAX), outputs);
            self.end(end, outputs);
        }
    }

    pub(super) fn end(&mut self, end: Final, outputs: &mut Vec<RoomOutput>) {
        self.stopping = None;
        // What other writers' missing events hold up came before the end.
        let of_others = |stream: &&EventStream| stream.0.sfu().is_some() && !self.draining.contains(stream);
        let streams: Vec<_> = self.events.keys().filter(of_others).cloned().collect();
        for stream in streams {
            while self.phase == Phase::Open
                && self.events.get(&stream).is_some_and(|order| order.first_held().is_some())
            {
                self.skip_events(&stream, outputs);
            }
        }
        if self.phase != Phase::Open {
            return;
        }
        if end.reason == StopReason::Idle {
            self.abandon(|_| true, LogTime::from_micros(i64::MAX), outputs);
        }
        self.incomplete = self.roster.tracks.keys().cloned().collect();
        self.unanswered = self.incomplete.clone();
        // Only a room's end says how far its tracks went.
        let is_told = matches!(end.reason, StopReason::RoomClosed | StopReason::Idle);
        let next_batch = if is_told { Duration::ZERO } else { NEXT_BATCH };
        self.phase = Phase::Ending(end, self.now + next_batch + self.config.gap_after);
        for (key, track) in &self.roster.tracks {
            let until = (self.now < track.heard + next_batch).then_some(self.now + next_batch);
            outputs.push(RoomOutput::ToTrack(key.clone(), TrackInput::End { until }));
        }
        self.end_if_complete(outputs);
    }

    /// Seals the last window as soon as nothing is missing.
    pub(super) fn end_if_complete(&mut self, outputs: &mut Vec<RoomOutput>) {
        if let Phase::Ending(end, _) = self.phase
            && self.incomplete.is_empty()
            && !self.is_waiting()
        {
            self.begin_seal(self.now, Some(end), outputs);
        }
    }

    /// Tells tracks where their numberings end: a broker that lost the last of them left no hole behind.
    fn tell_ends(
        &mut self,
        sfu: &SfuId,
        (time, stored): (RoomTime, LogTime),
        message: &Bytes,
        outputs: &mut Vec<RoomOutput>,
    ) {
        for end in RoomEvent::track_ends(message.clone()) {
            let key = TrackKey { sfu: sfu.clone(), track: end.track.clone() };
            // Of what came before the recording nothing is missed.
            if self.phase != Phase::Open {
                continue;
            }
            if let Some(stand) = self.retired.get(end.incarnation)
                && (end.next_batch_no <= stand.next_batch_no
                    || !self.recall(&key, end.incarnation, MAX_TRACKS, outputs))
            {
                continue;
            }
            if self.open_track(&key, stored, outputs).is_ok() {
                let input = TrackInput::Ends { end, time, from_zero: self.from_zero };
                outputs.push(RoomOutput::ToTrack(key, input));
            }
        }
    }

    fn tell_track(&self, writer: &Writer, event: &RoomEvent, outputs: &mut Vec<RoomOutput>) {
        let Some(key) = roster::track_of(writer, &event.kind) else { return };
        let Some(track) = self.roster.tracks.get(&key) else { return };
        let input = match &event.kind {
            EventKind::ProducerCreated(_) => track.producer.clone().map(TrackInput::Producer),
            EventKind::ProducerClosed { .. } => Some(TrackInput::Closed),
            EventKind::PublisherGap(gap) => Some(TrackInput::PublisherGap { gap: gap.clone(), time: event.time }),
            _ => None,
        };
        outputs.extend(input.map(|input| RoomOutput::ToTrack(key, input)));
    }

    /// An SFU that creates the room again was restarted. Tracks of its new start may be here before their room.
    pub(super) fn abandon_earlier_start(&mut self, stream: &EventStream, outputs: &mut Vec<RoomOutput>) {
        let starts = self.events.keys().filter(|(other, _)| *other == stream.0).count();
        if let Some(sfu) = stream.0.sfu().filter(|_| self.phase == Phase::Open && starts > 1) {
            let began = self.began.get(stream).copied().filter(|at| at.as_micros() != 0);
            self.abandon(|key| key.sfu == *sfu, began.unwrap_or(LogTime::from_micros(i64::MAX)), outputs);
        }
    }

    /// Tells tracks that their publisher, who was at work before `before`, stopped without a word.
    pub(super) fn abandon(
        &mut self,
        which: impl Fn(&TrackKey) -> bool,
        before: LogTime,
        outputs: &mut Vec<RoomOutput>,
    ) {
        for (key, track) in self.roster.tracks.iter_mut().filter(|(key, _)| which(key)) {
            track.abandoned = true;
            outputs.push(RoomOutput::ToTrack(key.clone(), TrackInput::Abandoned { before }));
        }
    }

    /// Tells the tracks whose packets fare differently from here on.
    fn update_admissions(&mut self, outputs: &mut Vec<RoomOutput>) {
        for (key, admission) in self.roster.take_changed_admissions() {
            outputs.push(RoomOutput::ToTrack(key, TrackInput::Admission(admission)));
        }
    }
}

/// The recording and command id of a command.
fn command_of(kind: &EventKind) -> Option<(&RecordingId, &str)> {
    match kind {
        EventKind::RecordingStarted { recording, command, .. }
        | EventKind::RecordingStopped { recording, command, .. }
        | EventKind::RecordingPaused { recording, command, .. }
        | EventKind::RecordingResumed { recording, command, .. }
        | EventKind::LayoutChanged { recording, command, .. } => Some((recording, command)),
        _ => None,
    }
}
