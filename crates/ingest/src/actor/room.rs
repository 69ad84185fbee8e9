//! One room's actor: takes over the chain, feeds the fold, supervises the tracks, commits windows, tells who must know.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use roomreel_shared::cluster::{FoldSpec, Progress};
use roomreel_shared::id::{NodeId, SfuId};
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::ports::{LogEntry, Ports};
use roomreel_shared::window::{Header, TrackKey, Window};
use roomreel_shared::wire;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::AbortOnDropHandle;

use super::chain::{self, Committed};
use super::herald::Herald;
use super::reader::{self, Budget, Paid};
use super::slot::Slot;
use super::track::{TrackActor, TrackArguments};
use crate::config::FoldConfig;
use crate::metrics::Metrics;
use crate::room::{Damaged, Identity, RoomFold, RoomOutput, SealedWindow};
use crate::track::{OpenTrack, TrackOutput};
use crate::watermark::watermarks;

/// How often the room speaks up without a cause.
const BEAT: Duration = Duration::from_secs(1);
/// Skipped entries that are told one by one, in so many beats; the others are summed up.
const TOLD_DAMAGED: u64 = 16;
const TELL_DAMAGED_BEATS: u64 = 10;
/// Beats that a recording's end waits for what is missing while the log is not read for want of bytes: other rooms may give
/// some back, and what is missing may be on its way.
const PATIENT_BEATS: u64 = 10;

/// What a room's actor begins with.
pub(crate) struct RoomArguments {
    pub(crate) ports: Ports,
    pub(crate) node: NodeId,
    pub(crate) config: FoldConfig,
    pub(crate) budget: Budget,
    pub(crate) spec: FoldSpec,
    /// Of the assignment.
    pub(crate) revision: u64,
    pub(crate) metrics: Arc<Metrics>,
    /// Bytes folded by all rooms of the node.
    pub(crate) load: Arc<AtomicU64>,
}

pub(crate) enum RoomMessage {
    /// The end of the chain was read.
    Loaded { generation: u64, last: Option<Box<Window>> },
    /// The next entries of the log, paid for together; more come when they have been folded and `ahead` is given back.
    Entries { generation: u64, entries: Vec<LogEntry>, paid: Paid, ahead: OwnedSemaphorePermit },
    /// The log is read from an earlier place from here on.
    Rewound { generation: u64, end: u64 },
    /// A track asks or answers.
    Track { key: TrackKey, generation: u64, outputs: Vec<TrackOutput> },
    /// A commit has been resolved.
    Committed { generation: u64, committed: Committed },
    /// The last progress is written, or nobody wants it.
    ProgressWritten,
    /// Time to speak up.
    Beat,
    /// Commit what there is and leave.
    Drain,
}

/// What the reader says, in its order.
enum Read {
    Entry(LogEntry),
    /// The end of what came together.
    Chunk(OwnedSemaphorePermit),
    /// What follows is from an earlier place.
    Rewound(u64),
}

/// The fold and everything that stands and falls with it.
struct Folding {
    fold: RoomFold,
    tracks: BTreeMap<TrackKey, Slot>,
    inbox: VecDeque<Read>,
    /// What the inbox holds.
    waiting: Option<Paid>,
    /// What the open window's entries hold.
    open: Option<Paid>,
    open_bytes: u64,
    /// What the window holds that is being committed.
    committing: Option<(Option<Paid>, AbortOnDropHandle<()>)>,
    /// Windows that wait for the one before them: the entry that ends one window may end the recording as well.
    sealed: VecDeque<(Box<SealedWindow>, Option<Paid>)>,
    _reader: AbortOnDropHandle<()>,
}

pub(crate) struct RoomState {
    ports: Ports,
    node: NodeId,
    config: FoldConfig,
    budget: Budget,
    spec: FoldSpec,
    epoch: u64,
    metrics: Arc<Metrics>,
    load: Arc<AtomicU64>,
    herald: Herald,
    keys: RecordingKeys,
    folding: Option<Folding>,
    loading: Option<AbortOnDropHandle<()>>,
    /// Counts beginnings, of the fold and of tracks: what an earlier one said is not heard.
    generation: u64,
    tracks_begun: u64,
    committed: Option<Header>,
    folded_bytes: u64,
    rate: Rate,
    beats: u64,
    /// Beats in a row at which only this room could give bytes back.
    short_beats: u64,
    /// Entries skipped in this period of telling.
    damaged: u64,
    draining: bool,
    finished: bool,
}

/// Bytes per second, smoothed.
#[derive(Debug, Default)]
struct Rate {
    counted: u64,
    per_second: u64,
}

impl Rate {
    fn on_second(&mut self, total: u64) {
        let passed = total - self.counted;
        self.counted = total;
        self.per_second = (self.per_second * 3 + passed) / 4;
    }
}

pub(crate) struct RoomActor;

impl Actor for RoomActor {
    type Msg = RoomMessage;
    type State = RoomState;
    type Arguments = RoomArguments;

    async fn pre_start(
        &self,
        myself: ActorRef<Self::Msg>,
        arguments: Self::Arguments,
    ) -> Result<Self::State, ActorProcessingErr> {
        let RoomArguments { ports, node, config, budget, spec, revision, metrics, load } = arguments;
        let epoch = spec.epoch_base.saturating_add(revision);
        metrics.rooms.add(1, &[]);
        let herald =
            Herald::start(ports.bus.clone(), ports.coordination.clone(), spec.clone(), revision, myself.clone());
        let mut state = RoomState {
            keys: RecordingKeys::new(&spec.tenant, &spec.room, &spec.recording),
            ports,
            node,
            config,
            budget,
            spec,
            epoch,
            metrics,
            load,
            herald,
            folding: None,
            loading: None,
            generation: 0,
            tracks_begun: 0,
            committed: None,
            folded_bytes: 0,
            rate: Rate::default(),
            beats: 0,
            short_beats: 0,
            damaged: 0,
            draining: false,
            finished: false,
        };
        myself.send_interval(BEAT, || RoomMessage::Beat);
        state.take_over(&myself);
        Ok(state)
    }

    async fn post_stop(&self, _: ActorRef<Self::Msg>, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        state.tell_untold();
        state.metrics.rooms.add(-1, &[]);
        Ok(())
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        message: Self::Msg,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            RoomMessage::Loaded { generation, last } if generation == state.generation => {
                state.on_loaded(&myself, last).await?;
            }
            RoomMessage::Entries { generation, entries, paid, ahead } if generation == state.generation => {
                if let Some(folding) = &mut state.folding {
                    folding.inbox.extend(entries.into_iter().map(Read::Entry).chain([Read::Chunk(ahead)]));
                    merge(&mut folding.waiting, paid);
                }
                state.pump(&myself).await?;
            }
            RoomMessage::Rewound { generation, end } if generation == state.generation => {
                if let Some(folding) = &mut state.folding {
                    folding.inbox.push_back(Read::Rewound(end));
                }
            }
            RoomMessage::Track { key, generation, outputs } => {
                state.on_track(&myself, &key, generation, outputs).await?;
            }
            RoomMessage::Committed { generation, committed } if generation == state.generation => {
                state.on_committed(&myself, committed).await?;
            }
            RoomMessage::ProgressWritten if state.finished => myself.stop(Some("finished".to_owned())),
            RoomMessage::Beat => state.on_beat(&myself).await?,
            RoomMessage::Drain => {
                state.draining = true;
                state.leave_if_drained(&myself).await?;
            }
            // Of an earlier generation.
            _ => {}
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Self::Msg>,
        event: SupervisionEvent,
        state: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        let (actor, why) = match event {
            SupervisionEvent::ActorFailed(actor, error) => (actor, error.to_string()),
            SupervisionEvent::ActorTerminated(actor, _, reason) => (actor, reason.unwrap_or_default()),
            _ => return Ok(()),
        };
        let Some(folding) = &mut state.folding else { return Ok(()) };
        let failed = folding.tracks.iter().find(|(_, slot)| slot.actor.get_id() == actor.get_id());
        let Some(key) = failed.map(|(key, _)| key.clone()) else { return Ok(()) };
        tracing::error!(room = %state.spec.room, track = %key.track, %why, "a track failed and begins its window again");
        state.metrics.track_restarts.add(1, &[]);
        state.restart_track(&myself, &key).await
    }
}

impl RoomState {
    /// Begins, or begins again, from the end of the chain.
    fn take_over(&mut self, myself: &ActorRef<RoomMessage>) {
        self.generation += 1;
        if let Some(folding) = self.folding.take() {
            for slot in folding.tracks.into_values() {
                slot.actor.stop(None);
            }
        }
        let (ports, spec, room, generation) = (self.ports.clone(), self.spec.clone(), myself.clone(), self.generation);
        self.loading = Some(AbortOnDropHandle::new(tokio::spawn(async move {
            let last = chain::load(&*ports.store, &spec).await;
            let _ = room.cast(RoomMessage::Loaded { generation, last });
        })));
    }

    async fn on_loaded(
        &mut self,
        myself: &ActorRef<RoomMessage>,
        last: Option<Box<Window>>,
    ) -> Result<(), ActorProcessingErr> {
        self.loading = None;
        let identity = Identity { epoch: self.epoch, nonce: SmallRng::from_os_rng().random() };
        let mut outputs = Vec::new();
        let fold = match last {
            None => RoomFold::new(self.spec.clone(), identity, self.config),
            Some(last) => {
                if last.header.epoch > self.epoch {
                    self.step_down(myself, last.header.epoch);
                    return Ok(());
                }
                let fold = RoomFold::resume(self.spec.clone(), identity, self.config, &last, &mut outputs)?;
                self.committed = Some(last.header);
                fold
            }
        };
        tracing::info!(
            room = %self.spec.room,
            recording = %self.spec.recording,
            epoch = self.epoch,
            position = fold.position(),
            "recording"
        );
        if fold.is_finished() {
            self.finish();
            return Ok(());
        }
        self.budget = self.budget.for_new_reader();
        let (log, spec, budget) = (self.ports.log.clone(), self.spec.clone(), self.budget.clone());
        let reading = reader::read(log, spec, fold.position(), budget, myself.clone(), self.generation);
        self.folding = Some(Folding {
            fold,
            tracks: BTreeMap::new(),
            inbox: VecDeque::new(),
            waiting: None,
            open: None,
            open_bytes: 0,
            committing: None,
            sealed: VecDeque::new(),
            _reader: AbortOnDropHandle::new(tokio::spawn(reading)),
        });
        self.announce(true);
        self.perform(myself, outputs).await?;
        self.leave_if_drained(myself).await
    }

    /// Feeds what may be fed now.
    async fn pump(&mut self, myself: &ActorRef<RoomMessage>) -> Result<(), ActorProcessingErr> {
        let mut outputs = Vec::new();
        while let Some(folding) = &mut self.folding {
            // Of who leaves nothing more is wanted: it would be another window to wait for, and another.
            if self.draining || folding.fold.is_waiting() || !folding.sealed.is_empty() {
                break;
            }
            let entry = match folding.inbox.pop_front() {
                Some(Read::Entry(entry)) => entry,
                Some(Read::Chunk(ahead)) => {
                    drop(ahead);
                    continue;
                }
                Some(Read::Rewound(end)) => {
                    folding.fold.on_rewound(end);
                    continue;
                }
                None => break,
            };
            if let Some(paid) = folding.waiting.as_mut().and_then(|waiting| waiting.split(entry.payload.len())) {
                merge(&mut folding.open, paid);
            }
            let bytes = entry.payload.len() as u64;
            folding.open_bytes += bytes;
            self.folded_bytes += bytes;
            self.load.fetch_add(bytes, Ordering::Relaxed);
            folding.fold.on_entry(entry, &mut outputs);
            self.note(myself, &mut outputs).await?;
        }
        self.tell_tracks();
        Ok(())
    }

    async fn perform(
        &mut self,
        myself: &ActorRef<RoomMessage>,
        mut outputs: Vec<RoomOutput>,
    ) -> Result<(), ActorProcessingErr> {
        self.note(myself, &mut outputs).await?;
        self.tell_tracks();
        Ok(())
    }

    /// Tells the tracks what was noted for them.
    fn tell_tracks(&mut self) {
        let Some(folding) = &mut self.folding else { return };
        folding.tracks.values_mut().for_each(Slot::tell);
    }

    /// Performs all but for the telling of tracks, which are told once for many entries.
    async fn note(
        &mut self,
        myself: &ActorRef<RoomMessage>,
        outputs: &mut Vec<RoomOutput>,
    ) -> Result<(), ActorProcessingErr> {
        for output in outputs.drain(..) {
            match output {
                RoomOutput::OpenTrack(open) => self.open_track(myself, open).await?,
                RoomOutput::CloseTrack(key) => {
                    if let Some(slot) = self.folding.as_mut().and_then(|folding| folding.tracks.remove(&key)) {
                        slot.actor.stop(None);
                    }
                }
                RoomOutput::ToTrack(key, input) => {
                    let slot = self.folding.as_mut().and_then(|folding| folding.tracks.get_mut(&key));
                    if let Some(slot) = slot {
                        slot.note(input);
                    }
                }
                RoomOutput::Commit(window) => self.on_sealed(myself, window),
                RoomOutput::Released => {
                    if let Some(folding) = &mut self.folding {
                        (folding.open, folding.open_bytes) = (None, 0);
                    }
                }
                RoomOutput::RequestReplay(request) => {
                    self.metrics.replay_requests.add(1, &[]);
                    let message = wire::ReplayRequest {
                        track_id: request.track.map(|track| track.to_string()).unwrap_or_default(),
                        incarnation: request.incarnation.get(),
                        missing: request.ranges,
                        attempt: request.attempt,
                    };
                    self.herald.tell(&request.sfu, wire::back_channel::Message::ReplayRequest(message));
                }
                RoomOutput::RequestKeyframe { key, ssrc } => {
                    let request = format!("{}-{}", key.track, self.beats);
                    let command =
                        wire::RequestKeyframe { track_id: key.track.to_string(), ssrc: ssrc.map_or(0, |ssrc| ssrc.0) };
                    self.herald.command(&key.sfu, request, wire::sfu_command::Command::RequestKeyframe(command));
                }
                RoomOutput::Damaged(damaged) => self.on_damaged(&damaged),
                RoomOutput::Finished => {}
            }
        }
        Ok(())
    }

    /// Counts a skipped entry, and tells of it unless many were told of lately: who floods the room does not flood the logs.
    fn on_damaged(&mut self, Damaged { sequence, subject, why }: &Damaged) {
        self.metrics.on_damaged(why);
        self.damaged += 1;
        if self.damaged <= TOLD_DAMAGED {
            tracing::warn!(
                room = %self.spec.room, subject, sequence, %why,
                "an entry of the log was skipped and nothing of it is stored; look at what publishes to this subject"
            );
        }
    }

    /// A new period of telling of skipped entries begins.
    fn tell_untold(&mut self) {
        if let Some(entries @ 1..) = std::mem::take(&mut self.damaged).checked_sub(TOLD_DAMAGED) {
            tracing::warn!(room = %self.spec.room, entries, "more entries of the log were skipped");
        }
    }

    async fn open_track(&mut self, myself: &ActorRef<RoomMessage>, open: OpenTrack) -> Result<(), ActorProcessingErr> {
        self.tracks_begun += 1;
        let handled = Arc::new(AtomicUsize::new(0));
        let arguments = TrackArguments {
            open: open.clone(),
            config: self.config,
            room: myself.clone(),
            generation: self.tracks_begun,
            handled: handled.clone(),
        };
        let (actor, _) = TrackActor::spawn_linked(None, TrackActor, arguments, myself.get_cell()).await?;
        let Some(folding) = &mut self.folding else { return Ok(()) };
        let key = open.key.clone();
        let slot = Slot {
            actor,
            generation: self.tracks_begun,
            open,
            journal: Vec::new(),
            told: 0,
            handled,
            failures: (0, 0),
            told_invalid: false,
        };
        folding.tracks.insert(key, slot);
        Ok(())
    }

    /// A track begins its window again, alone; the input it failed at three times is left out.
    async fn restart_track(
        &mut self,
        myself: &ActorRef<RoomMessage>,
        key: &TrackKey,
    ) -> Result<(), ActorProcessingErr> {
        let Some(mut failed) = self.folding.as_mut().and_then(|folding| folding.tracks.remove(key)) else {
            return Ok(());
        };
        failed.on_failed()?;
        self.open_track(myself, failed.open).await?;
        if let Some(slot) = self.folding.as_mut().and_then(|folding| folding.tracks.get_mut(key)) {
            slot.journal = failed.journal;
            slot.tell();
            slot.failures = failed.failures;
            slot.told_invalid = failed.told_invalid;
        }
        Ok(())
    }

    async fn on_track(
        &mut self,
        myself: &ActorRef<RoomMessage>,
        key: &TrackKey,
        generation: u64,
        answers: Vec<TrackOutput>,
    ) -> Result<(), ActorProcessingErr> {
        let Some(folding) = &mut self.folding else { return Ok(()) };
        let Some(slot) = folding.tracks.get_mut(key).filter(|slot| slot.generation == generation) else {
            return Ok(());
        };
        let mut outputs = Vec::new();
        for answer in answers {
            if let TrackOutput::Sealed(part) = &answer {
                slot.on_sealed(part);
                if let Some(why) = part.invalid.filter(|_| !std::mem::replace(&mut slot.told_invalid, true)) {
                    tracing::warn!(
                        room = %self.spec.room, sfu = %key.sfu, track = %key.track, packets = part.counts.invalid_packets, %why,
                        "packets of a track are not valid RTP: they are stored and cannot be played; look at its publisher"
                    );
                }
            }
            folding.fold.on_track(key, answer, &mut outputs);
        }
        self.perform(myself, outputs).await?;
        self.pump(myself).await?;
        self.leave_if_drained(myself).await
    }

    fn on_sealed(&mut self, myself: &ActorRef<RoomMessage>, window: Box<SealedWindow>) {
        let Some(folding) = &mut self.folding else { return };
        folding.open_bytes = 0;
        let paid = folding.open.take();
        if folding.committing.is_some() {
            folding.sealed.push_back((window, paid));
        } else {
            self.begin_commit(myself, window, paid);
        }
    }

    fn begin_commit(&mut self, myself: &ActorRef<RoomMessage>, window: Box<SealedWindow>, paid: Option<Paid>) {
        let Some(folding) = &mut self.folding else { return };
        let (store, metrics, room) = (self.ports.store.clone(), self.metrics.clone(), myself.clone());
        let (key, generation) = (self.keys.window(window.header.window), self.generation);
        let task = tokio::spawn(async move {
            let committed = chain::commit(store, key, window, metrics).await;
            let _ = room.cast(RoomMessage::Committed { generation, committed });
        });
        folding.committing = Some((paid, AbortOnDropHandle::new(task)));
    }

    async fn on_committed(
        &mut self,
        myself: &ActorRef<RoomMessage>,
        committed: Committed,
    ) -> Result<(), ActorProcessingErr> {
        let (window, latency) = match committed {
            Committed::Ours(window, latency) => (window, latency),
            Committed::Adopt => {
                tracing::info!(recording = %self.spec.recording, "another owner's window was met; going on after it");
                self.take_over(myself);
                return Ok(());
            }
            Committed::Fenced { held, current } => {
                debug_assert_eq!(held, self.epoch);
                self.step_down(myself, current);
                return Ok(());
            }
        };
        self.metrics.on_committed(window.counts, &window.header.gaps, latency);
        let number = window.header.window;
        let is_last = window.header.end.is_some();
        self.committed = Some(window.header);
        self.herald.committed(number);
        self.tell_watermarks();
        if is_last {
            self.finish();
            return Ok(());
        }
        self.report();
        let Some(folding) = &mut self.folding else { return Ok(()) };
        folding.committing = None;
        if let Some((window, paid)) = folding.sealed.pop_front() {
            self.begin_commit(myself, window, paid);
        }
        self.pump(myself).await?;
        self.leave_if_drained(myself).await
    }

    async fn on_beat(&mut self, myself: &ActorRef<RoomMessage>) -> Result<(), ActorProcessingErr> {
        self.beats += 1;
        if self.beats.is_multiple_of(TELL_DAMAGED_BEATS) {
            self.tell_untold();
        }
        self.rate.on_second(self.folded_bytes);
        self.tell_watermarks();
        if self.beats.is_multiple_of(2) {
            self.announce(!self.finished);
            self.report();
        }
        // Nothing is being committed and the log cannot be read for want of bytes: what is open gives its own back.
        let is_short = self.budget.is_short.load(Ordering::Acquire);
        let could_give = |folding: &Folding| {
            is_short && folding.committing.is_none() && folding.inbox.is_empty() && folding.open_bytes > 0
        };
        match &mut self.folding {
            Some(folding) if could_give(folding) => {
                self.short_beats += 1;
                let mut outputs = Vec::new();
                folding.fold.give_back(self.short_beats > PATIENT_BEATS, &mut outputs);
                self.perform(myself, outputs).await
            }
            _ => {
                self.short_beats = 0;
                Ok(())
            }
        }
    }

    /// Ends the window and commits it, then stops.
    async fn leave_if_drained(&mut self, myself: &ActorRef<RoomMessage>) -> Result<(), ActorProcessingErr> {
        if !self.draining || self.finished {
            return Ok(());
        }
        if let Some(folding) = &mut self.folding {
            if folding.fold.is_waiting() || folding.committing.is_some() || !folding.sealed.is_empty() {
                return Ok(());
            }
            let mut outputs = Vec::new();
            if folding.open_bytes > 0 {
                folding.fold.seal_now(&mut outputs);
            }
            if !outputs.is_empty() {
                return self.perform(myself, outputs).await;
            }
        }
        myself.stop(Some("drained".to_owned()));
        Ok(())
    }

    fn step_down(&mut self, myself: &ActorRef<RoomMessage>, current: u64) {
        tracing::info!(recording = %self.spec.recording, held = self.epoch, current, "a newer owner is at work; stepping down");
        myself.stop(Some("fenced".to_owned()));
    }

    fn finish(&mut self) {
        self.finished = true;
        tracing::info!(recording = %self.spec.recording, "the last window is committed");
        self.tell_watermarks();
        self.announce(false);
        self.report();
        self.folding = None;
    }

    fn tell_watermarks(&self) {
        let Some(header) = &self.committed else { return };
        for (sfu, watermark) in watermarks(&header.recording, header.window, &header.carry_over) {
            self.herald.tell(&sfu, wire::back_channel::Message::Watermark(watermark));
        }
    }

    /// Whether the room is under recording, to all its SFUs.
    fn announce(&self, active: bool) {
        let mut sfus = self.folding.as_ref().map(|folding| folding.fold.sfus()).unwrap_or_default();
        if let Some(header) = &self.committed {
            let carried = header.carry_over.event_streams.iter().map(|stream| stream.sfu_id.as_str());
            sfus.extend(carried.filter_map(|sfu| SfuId::new(sfu).ok()));
        }
        for sfu in sfus {
            let message = wire::RecordingState { active, recording_id: self.spec.recording.to_string() };
            self.herald.tell(&sfu, wire::back_channel::Message::RecordingState(message));
        }
    }

    fn report(&self) {
        // Before the chain was read, who had the recording before knows more.
        if self.folding.is_none() && self.committed.is_none() {
            return;
        }
        let (log_time, sfu_log_time) =
            self.folding.as_ref().map_or_else(Default::default, |folding| folding.fold.log_times());
        let header = self.committed.as_ref();
        let end = header.map(|header| header.end.map_or(header.room_seen, |end| end.room_end));
        self.herald.progress(Progress {
            node: self.node.clone(),
            windows: header.map_or(0, |header| header.window + 1),
            finished: self.finished,
            log_time_us: log_time.as_micros(),
            sfu_log_time_us: sfu_log_time.as_micros(),
            paused: self.folding.as_ref().is_some_and(|folding| folding.fold.is_paused()),
            bytes_per_second: self.rate.per_second,
            incomplete: header.is_some_and(Header::is_incomplete),
            duration_us: match (header, end) {
                (Some(header), Some(end)) => end.micros_since(header.room_start).max(0).unsigned_abs(),
                _ => 0,
            },
        });
    }
}

fn merge(into: &mut Option<Paid>, paid: Paid) {
    match into {
        Some(held) => held.merge(paid),
        held => *held = Some(paid),
    }
}
