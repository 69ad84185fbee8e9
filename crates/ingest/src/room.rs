//! Pure fold of one room's log: entries in, sealed windows out.
//!
//! Owns which entries belong to the recording and to which window, the room's state and clock, and the carry-over a window
//! records. Does not own the tracks' packets (see [`crate::track`]), the log, the store or any clock (see `crate::actor`).
//!
//! The fold does not run the tracks: it says what each is to be told and hears what each answers, so that they can run beside
//! it in one thread ([`crate::fold`]) or as actors. While [`RoomFold::is_waiting`], answers are outstanding and no entry may be
//! fed: what is decided then depends on the log alone (I3).

mod events;
mod prelude;
mod retire;
mod seal;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use roomreel_shared::batch::{self, Incarnation, RtpBatch};
use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::event::{self, EventKind, EventRef, RoomEvent};
use roomreel_shared::id::{self, SfuId, TrackId};
use roomreel_shared::pieces::Pieces;
use roomreel_shared::ports::LogEntry;
use roomreel_shared::rtp::Ssrc;
use roomreel_shared::subject::{self, Address, Entry, Shard, Writer};
use roomreel_shared::time::{LogTime, RoomTime};
use roomreel_shared::window::{Final, Gap, Hash, Header, TrackKey, Window};
use roomreel_shared::wire;

use self::prelude::Prelude;
use self::retire::MAX_RETIRED;
use crate::clock::RoomClock;
use crate::config::FoldConfig;
use crate::log_clock::{self, LogClock, on_grid};
use crate::order::{Held, Order};
use crate::past::Past;
use crate::ranges::Ranges;
use crate::roster::{MAX_TRACKS, Roster};
use crate::track::{Counts, OpenTrack, SealedTrack, TrackBatch, TrackInput, TrackOutput};

/// Most starts of SFUs, and of coordinators, that are told apart in one room.
const MAX_EVENT_STREAMS: usize = 256;
/// The writer of control entries, as errors name it.
const THE_COORDINATOR: &str = "the coordinator";

/// What the shell does next.
#[derive(Debug)]
pub enum RoomOutput {
    /// Begin this track's fold.
    OpenTrack(OpenTrack),
    /// The track is over and was dropped: end its fold.
    CloseTrack(TrackKey),
    /// Tell this track.
    ToTrack(TrackKey, TrackInput),
    /// Commit this window.
    Commit(Box<SealedWindow>),
    /// What was fed so far came before the recording and will be in no window: let go of it.
    Released,
    /// Ask an SFU to publish again.
    RequestReplay(ReplayRequest),
    /// Ask an SFU for a key frame.
    RequestKeyframe {
        /// Of which track.
        key: TrackKey,
        /// Of which layer; `None`: all.
        ssrc: Option<Ssrc>,
    },
    /// An entry was skipped; nothing else is lost by it.
    Damaged(Damaged),
    /// The recording has ended; nothing follows the last window.
    Finished,
}

/// What an SFU is asked to publish again.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplayRequest {
    /// Whom to ask.
    pub sfu: SfuId,
    /// Of which track; `None`: events.
    pub track: Option<TrackId>,
    /// By whose numbers.
    pub incarnation: Incarnation,
    /// Batch or event numbers.
    pub ranges: Vec<wire::NumberRange>,
    /// Counts the requests for them, from 1.
    pub attempt: u32,
}

/// An entry that was skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damaged {
    /// Its place in the log.
    pub sequence: u64,
    /// Where it was published.
    pub subject: String,
    /// Why.
    pub why: DamagedReason,
}

/// Why an entry was skipped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DamagedReason {
    /// Its subject is not the address of a log entry.
    #[error(transparent)]
    Subject(#[from] subject::Error),
    /// It is a damaged batch.
    #[error(transparent)]
    Batch(#[from] batch::Error),
    /// It is a damaged event.
    #[error(transparent)]
    Event(#[from] event::Error),
    /// It names another room or track than its subject, or than this fold's (I4).
    #[error("the entry is for {named:?}, not for {expected:?}")]
    WrongPlace {
        /// As it says.
        named: String,
        /// As it should.
        expected: String,
    },
    /// Its writer may not write such an event.
    #[error("{writer} may not write such an entry")]
    NotPermitted {
        /// Who wrote it.
        writer: String,
    },
    /// The room has more tracks or writers than any real one.
    #[error("the room has too many tracks or writers")]
    TooMany,
}

impl DamagedReason {
    /// One word for a metric's attribute.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Subject(_) => "subject",
            Self::Batch(_) => "batch",
            Self::Event(_) => "event",
            Self::WrongPlace { .. } => "wrong_place",
            Self::NotPermitted { .. } => "not_permitted",
            Self::TooMany => "too_many",
        }
    }
}

/// A window that is ready to be committed.
#[derive(Debug, Clone)]
pub struct SealedWindow {
    /// Its footer but for segments and events.
    pub header: Header,
    /// The whole object.
    pub object: Pieces,
    /// The object's link of the chain.
    pub hash: Hash,
    /// Figures for metrics.
    pub counts: Counts,
}

/// Why a fold cannot begin from a window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// It is of another recording.
    #[error("the window is of another recording")]
    Foreign,
    /// An id in it cannot be spelled.
    #[error("carry-over: {0}")]
    Id(#[from] id::Error),
    /// A number in it is impossible.
    #[error("carry-over field {field} is impossible")]
    Field {
        /// Its name.
        field: &'static str,
    },
}

/// Who writes: what tells two owners' windows apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Revision of the assignment.
    pub epoch: u64,
    /// Random, per writer and take-over.
    pub nonce: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No entry says yet that the recording has begun.
    Before,
    Open,
    /// The last entry has been seen; what is missing may come until then.
    Ending(Final, LogTime),
    Finished,
}

/// Tracks that have not answered a seal.
#[derive(Debug)]
struct Sealing {
    waiting: BTreeSet<TrackKey>,
    parts: BTreeMap<TrackKey, SealedTrack>,
    end: LogTime,
    last: Option<Final>,
}

type EventStream = (Writer, Incarnation);
type EventMessage = (RoomEvent, Bytes);

/// The fold of one room's log into one recording.
#[derive(Debug)]
pub struct RoomFold {
    spec: FoldSpec,
    shard: Shard,
    identity: Identity,
    config: FoldConfig,
    phase: Phase,
    roster: Roster,
    /// Numberings of tracks that are over and were dropped.
    retired: Past,
    /// Who sent dropped tracks and is not known as a participant.
    senders: BTreeSet<String>,
    /// What of tracks that are too many has come since the last window.
    refused: BTreeMap<(TrackKey, Incarnation), Gap>,
    clock: RoomClock,
    events: BTreeMap<EventStream, Order<EventMessage>>,
    /// Numbers of events of SFUs that were given up.
    missing_events: BTreeMap<EventStream, Ranges>,
    /// Something is missing that nobody asked to leave out, and that nothing will bring any more.
    has_lost: bool,
    /// How many of them since the last window.
    lost_events: u64,
    /// Log time of the first event of each.
    began: BTreeMap<EventStream, LogTime>,
    log_clock: LogClock,
    /// Running maximum of log time.
    now: LogTime,
    sfu_time: LogTime,
    folded: u64,
    seen: u64,
    /// The log was read from the room's beginning on.
    from_zero: bool,
    /// Log time of the recording's beginning.
    start: LogTime,
    /// The log was rolled back, and is read from before the recording's beginning perhaps.
    rewound: Option<u64>,
    window: u64,
    window_start: LogTime,
    previous: Option<Hash>,
    room_start: RoomTime,
    stored: Vec<(Writer, LogTime, Bytes)>,
    prelude: Prelude,
    trace_parent: Option<String>,
    sealing: Option<Sealing>,
    /// The coordinator has seen the room's end, which has not come here, and how long it is waited for. Nothing is sealed then.
    stopping: Option<(Final, LogTime)>,
    /// Tracks that have not said whether they miss something at the end.
    unanswered: BTreeSet<TrackKey>,
    /// Tracks that miss something at the end.
    incomplete: BTreeSet<TrackKey>,
    /// Event streams whose events are being folded right now.
    draining: Vec<EventStream>,
    /// The entry that ended a window and belongs to the next, or ended the wait for an event and is folded behind it.
    deferred: Option<LogEntry>,
}

impl RoomFold {
    /// Begins a recording that has no window yet.
    #[must_use]
    pub fn new(spec: FoldSpec, identity: Identity, config: FoldConfig) -> Self {
        Self {
            shard: Shard::of(&spec.tenant, &spec.room, spec.shards.max(1)),
            roster: Roster::new(spec.policy.clone()),
            spec,
            identity,
            config,
            phase: Phase::Before,
            retired: Past::new(MAX_RETIRED),
            senders: BTreeSet::new(),
            refused: BTreeMap::new(),
            clock: RoomClock::default(),
            events: BTreeMap::new(),
            missing_events: BTreeMap::new(),
            has_lost: false,
            lost_events: 0,
            began: BTreeMap::new(),
            stopping: None,
            log_clock: LogClock::default(),
            now: LogTime::from_micros(i64::MIN),
            sfu_time: LogTime::default(),
            folded: 0,
            seen: 0,
            from_zero: false,
            start: LogTime::from_micros(i64::MIN),
            rewound: None,
            window: 0,
            window_start: LogTime::default(),
            previous: None,
            room_start: RoomTime::default(),
            stored: Vec::new(),
            prelude: Prelude::default(),
            trace_parent: None,
            sealing: None,
            unanswered: BTreeSet::new(),
            incomplete: BTreeSet::new(),
            draining: Vec::new(),
            deferred: None,
        }
    }

    /// Goes on after `last`, whoever wrote it.
    ///
    /// # Errors
    /// [`ResumeError`]: the window cannot be gone on from.
    pub fn resume(
        spec: FoldSpec,
        identity: Identity,
        config: FoldConfig,
        last: &Window,
        outputs: &mut Vec<RoomOutput>,
    ) -> Result<Self, ResumeError> {
        let header = &last.header;
        if header.recording != spec.recording || header.room != spec.room || header.tenant != spec.tenant {
            return Err(ResumeError::Foreign);
        }
        let carry = &header.carry_over;
        let policy = spec.policy.clone();
        let mut fold = Self::new(spec, identity, config);
        fold.roster = Roster::read(carry, policy);
        fold.retired.extend_from_wire(&carry.retired);
        fold.senders = carry.senders.iter().cloned().collect();
        fold.phase = if header.end.is_some() { Phase::Finished } else { Phase::Open };
        fold.window = header.window + 1;
        fold.window_start = header.log_span.1;
        fold.previous = Some(last.hash());
        fold.room_start = header.room_start;
        fold.now = LogTime::from_micros(carry.log_time_us);
        fold.log_clock = LogClock::read(carry);
        fold.rewound = carry.rewound.then(|| carry.rewound_end.unwrap_or(u64::MAX));
        // Of a room that is taken over nobody has been silent yet, or it would be ended as idle for the take-over's sake.
        fold.sfu_time = fold.now;
        fold.has_lost = carry.has_lost;
        fold.folded = carry.log_sequence;
        fold.seen = carry.seen_sequence;
        fold.from_zero = true;
        fold.start = LogTime::from_micros(if carry.began_us == 0 { i64::MIN } else { carry.began_us });
        let pair = (RoomTime::from_micros(carry.room_clock_us), LogTime::from_micros(carry.room_clock_log_us));
        fold.clock = RoomClock::new((carry.room_clock_log_us != 0).then_some(pair));
        for stream in &carry.event_streams {
            let writer = match stream.sfu_id.as_str() {
                "" => Writer::Control,
                sfu => Writer::Sfu(SfuId::new(sfu)?),
            };
            let incarnation = Incarnation::new(stream.incarnation)
                .ok_or(ResumeError::Field { field: "event_streams.incarnation" })?;
            let missing = Ranges::from_wire(&stream.missing);
            if !missing.is_empty() {
                fold.missing_events.insert((writer.clone(), incarnation), missing);
            }
            fold.began.insert((writer.clone(), incarnation), LogTime::from_micros(stream.began_us));
            fold.events.insert((writer, incarnation), Order::new(stream.next_event_no));
        }
        for state in &carry.tracks {
            let key =
                TrackKey { sfu: SfuId::new(state.sfu_id.as_str())?, track: TrackId::new(state.track_id.as_str())? };
            let admission = fold.roster.read_track(&key, state, fold.now);
            outputs.push(RoomOutput::OpenTrack(OpenTrack { key, state: state.clone(), admission, now: fold.now }));
        }
        Ok(fold)
    }

    /// Stream sequence of the first entry to read.
    #[must_use]
    pub fn position(&self) -> u64 {
        if self.window == 0 { self.spec.start_sequence } else { self.folded + 1 }
    }

    /// The log was rolled back, ends at sequence `end` and is read from an earlier place: its sequences say nothing about what
    /// was seen.
    pub fn on_rewound(&mut self, end: u64) {
        self.seen = 0;
        self.folded = 0;
        self.rewound = Some(self.rewound.map_or(end, |before| before.min(end)));
        self.log_clock.on_rewound(end);
    }

    /// Whether answers of tracks are outstanding; no entry may be fed then.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.sealing.is_some() || !self.unanswered.is_empty()
    }

    /// Whether the last window has been sealed.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Finished
    }

    /// Whether the log has paused the recording.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.roster.paused
    }

    /// SFUs that have tracks or events in the room.
    #[must_use]
    pub fn sfus(&self) -> BTreeSet<SfuId> {
        let of_events = self.events.keys().filter_map(|(writer, _)| writer.sfu());
        of_events.chain(self.roster.tracks.keys().map(|key| &key.sfu)).cloned().collect()
    }

    /// Log time of the newest entry, and of the newest entry of an SFU.
    #[must_use]
    pub fn log_times(&self) -> (LogTime, LogTime) {
        (self.now, self.sfu_time)
    }

    /// Feeds the next entry of the log.
    pub fn on_entry(&mut self, mut entry: LogEntry, outputs: &mut Vec<RoomOutput>) {
        debug_assert!(!self.is_waiting(), "I3: no entry while a window is being sealed");
        entry.time = self.log_clock.time(entry.sequence, entry.time, self.now, self.seen);
        let now = self.now.max(entry.time);
        if self.phase == Phase::Open && self.stopping.is_none() && now >= self.window_start + self.duration() {
            // Several windows' time may have passed without an entry: they are one window, numbers have no holes.
            let passed = now.micros_since(self.window_start) / self.duration_us();
            let end = self.window_start.offset_micros(passed.saturating_mul(self.duration_us()));
            self.deferred = Some(entry);
            self.begin_seal(end, None, outputs);
            return;
        }
        self.fold_entry(entry, outputs);
    }

    /// Ends the window here although its time has not passed: the node leaves.
    pub fn seal_now(&mut self, outputs: &mut Vec<RoomOutput>) {
        if self.phase == Phase::Open && self.stopping.is_none() && !self.is_waiting() && self.now > self.window_start {
            self.begin_seal(self.now, None, outputs);
        }
    }

    /// Memory is short: ends the window here, or lets go of what came before the recording. `even_last`: what the end of the
    /// recording waits for is waited for no longer.
    pub fn give_back(&mut self, even_last: bool, outputs: &mut Vec<RoomOutput>) {
        if self.is_waiting() {
            return;
        }
        match self.phase {
            Phase::Before => self.begin_seal(self.now, None, outputs),
            Phase::Open if self.stopping.is_none() => self.seal_now(outputs),
            Phase::Open if even_last => self.end_unheard(outputs),
            Phase::Ending(end, _) if even_last => self.begin_seal(self.now, Some(end), outputs),
            Phase::Open | Phase::Ending(..) | Phase::Finished => {}
        }
    }

    /// Hears what a track asks for or answers.
    pub fn on_track(&mut self, key: &TrackKey, output: TrackOutput, outputs: &mut Vec<RoomOutput>) {
        match output {
            TrackOutput::RequestReplay { incarnation, ranges, attempt } => {
                outputs.push(RoomOutput::RequestReplay(ReplayRequest {
                    sfu: key.sfu.clone(),
                    track: Some(key.track.clone()),
                    incarnation,
                    ranges,
                    attempt,
                }));
            }
            TrackOutput::RequestKeyframe { ssrc } => {
                outputs.push(RoomOutput::RequestKeyframe { key: key.clone(), ssrc });
            }
            TrackOutput::Ended { complete } => {
                self.unanswered.remove(key);
                if complete {
                    self.incomplete.remove(key);
                }
                self.end_if_complete(outputs);
                self.resume_deferred(outputs);
            }
            TrackOutput::Sealed(part) => {
                if let Some(sealing) = &mut self.sealing
                    && sealing.waiting.remove(key)
                {
                    sealing.parts.insert(key.clone(), *part);
                }
                self.finish_seal(outputs);
            }
        }
    }

    fn duration_us(&self) -> i64 {
        i64::try_from(self.spec.window_ms.max(1)).unwrap_or(i64::MAX).saturating_mul(1000)
    }

    fn duration(&self) -> Duration {
        Duration::from_micros(self.duration_us().unsigned_abs())
    }

    /// Folds the entry that was put off, unless tracks are to answer first.
    fn resume_deferred(&mut self, outputs: &mut Vec<RoomOutput>) {
        if !self.is_waiting()
            && let Some(entry) = self.deferred.take()
        {
            self.fold_entry(entry, outputs);
        }
    }

    fn fold_entry(&mut self, entry: LogEntry, outputs: &mut Vec<RoomOutput>) {
        let is_old = self.rewound.is_some_and(|end| entry.sequence <= end);
        if self.phase == Phase::Finished || is_old && entry.time < self.start {
            // It is over, or what is read again is an earlier session of the room.
            return;
        }
        let before = self.now;
        self.now = self.now.max(entry.time);
        if self.sfu_time == LogTime::default() {
            // Silence counts from where reading begins, should the log hold nothing of an SFU.
            self.sfu_time = self.now;
        }
        if on_grid(before) != on_grid(self.now) {
            self.on_clock(outputs);
            if self.sealing.is_some() {
                // The bounded wait at the end is over.
                return;
            }
            if self.is_waiting() {
                // An event was given up, and the room's end stood behind it: this entry is folded once tracks have heard of that.
                self.deferred = Some(entry);
                return;
            }
        }
        let again = entry.sequence <= self.seen;
        self.seen = self.seen.max(entry.sequence);
        let sequence = entry.sequence;
        if let Err(why) = self.route(&entry, again, outputs) {
            outputs.push(RoomOutput::Damaged(Damaged { sequence, subject: entry.subject, why }));
        }
        self.folded = self.folded.max(sequence);
        if self.stopping.is_some_and(|(_, until)| until <= self.now) {
            self.end_unheard(outputs);
        }
    }

    fn on_clock(&mut self, outputs: &mut Vec<RoomOutput>) {
        if let Phase::Ending(end, until) = self.phase
            && self.now >= until
        {
            self.begin_seal(self.now, Some(end), outputs);
            return;
        }
        if self.phase != Phase::Before {
            for key in self.roster.tracks.keys() {
                outputs.push(RoomOutput::ToTrack(key.clone(), TrackInput::Clock(self.now)));
            }
        }
        let mut given_up = Vec::new();
        for ((writer, incarnation), order) in &mut self.events {
            if order.given_up(self.now, &self.config).is_some() {
                given_up.push((writer.clone(), *incarnation));
            } else if let Writer::Sfu(sfu) = writer
                && let Some(missing) = order.replay_due(self.now, &self.config)
            {
                outputs.push(RoomOutput::RequestReplay(ReplayRequest {
                    sfu: sfu.clone(),
                    track: None,
                    incarnation: *incarnation,
                    ranges: missing.ranges,
                    attempt: missing.attempt,
                }));
            }
        }
        for stream in given_up {
            self.skip_events(&stream, outputs);
        }
    }

    /// Goes on without the events that are missing.
    fn skip_events(&mut self, stream: &EventStream, outputs: &mut Vec<RoomOutput>) {
        if let Some(order) = self.events.get_mut(stream)
            && let Some((number, _)) = order.first_held()
        {
            let next = order.next();
            // Commands that a coordinator numbered and never wrote are nobody's loss.
            if self.phase != Phase::Before && stream.0.sfu().is_some() && next < number {
                self.missing_events.entry(stream.clone()).or_default().push(next, number - 1);
                self.lost_events = self.lost_events.saturating_add(number - next);
            }
            order.skip_to(number);
            if next == 0 {
                // Among what is lost is the room's creation by this start.
                self.abandon_earlier_start(stream, outputs);
            }
        }
        self.drain_events(stream, outputs);
    }

    fn route(&mut self, entry: &LogEntry, again: bool, outputs: &mut Vec<RoomOutput>) -> Result<(), DamagedReason> {
        let address = Address::parse(&entry.subject)?;
        if address.tenant != self.spec.tenant || address.room != self.spec.room || address.shard != self.shard {
            let expected = subject::room_filter(self.shard, &self.spec.tenant, &self.spec.room).as_str().to_owned();
            return Err(DamagedReason::WrongPlace { named: entry.subject.clone(), expected });
        }
        match (address.entry, address.writer) {
            (Entry::Media(track), Writer::Sfu(sfu)) => self.on_media(TrackKey { sfu, track }, entry, again, outputs),
            (Entry::Media(_), Writer::Control) => {
                Err(DamagedReason::NotPermitted { writer: THE_COORDINATOR.to_owned() })
            }
            (Entry::Event, writer) => self.on_event_message(writer, entry, again, outputs),
        }
    }

    fn on_media(
        &mut self,
        key: TrackKey,
        entry: &LogEntry,
        again: bool,
        outputs: &mut Vec<RoomOutput>,
    ) -> Result<(), DamagedReason> {
        let batch = RtpBatch::decode(entry.payload.clone())?;
        if batch.room != self.spec.room || batch.track != key.track {
            let named = format!("{}/{}", batch.room, batch.track);
            return Err(DamagedReason::WrongPlace { named, expected: format!("{}/{}", self.spec.room, key.track) });
        }
        self.begin_without_beginning(entry.time, outputs);
        if let Some(stand) = self.retired.get(batch.incarnation)
            && !self.on_retired(&key, &batch, stand, again, outputs)?
        {
            return Ok(());
        }
        if matches!(self.phase, Phase::Ending(..)) && !self.roster.tracks.contains_key(&key) {
            // Of a track that began behind the end.
            return Ok(());
        }
        if let Err(why) = self.open_track(&key, entry.time, outputs) {
            if self.phase == Phase::Open && !again {
                self.refuse(&key, &batch);
            }
            return Err(why);
        }
        if !again {
            self.sfu_time = self.sfu_time.max(entry.time);
            self.clock.observe(batch.packets[batch.packets.len() - 1].time, entry.time);
        }
        // What an earlier owner saw is in a window of its own (I3).
        if self.trace_parent.is_none() && !again && self.phase != Phase::Before {
            self.trace_parent = entry.trace_parent.as_ref().filter(|parent| is_sampled(parent)).cloned();
        }
        let batch = TrackBatch {
            sequence: entry.sequence,
            time: entry.time,
            message: entry.payload.clone(),
            batch,
            from_zero: self.from_zero,
        };
        outputs.push(RoomOutput::ToTrack(key, TrackInput::Batch(Arc::new(batch))));
        Ok(())
    }

    /// Something of a track has come, which the log stored at `time`: begins it, if it is not there.
    fn open_track(
        &mut self,
        key: &TrackKey,
        time: LogTime,
        outputs: &mut Vec<RoomOutput>,
    ) -> Result<(), DamagedReason> {
        if let Some(track) = self.roster.tracks.get_mut(key) {
            track.heard = track.heard.max(time);
            return Ok(());
        }
        if self.roster.tracks.len() >= MAX_TRACKS {
            return Err(DamagedReason::TooMany);
        }
        let admission = self.roster.open_track(key, time);
        let state = wire::TrackState::default();
        outputs.push(RoomOutput::OpenTrack(OpenTrack { key: key.clone(), state, admission, now: self.now }));
        Ok(())
    }

    fn on_event_message(
        &mut self,
        writer: Writer,
        entry: &LogEntry,
        again: bool,
        outputs: &mut Vec<RoomOutput>,
    ) -> Result<(), DamagedReason> {
        let event = RoomEvent::decode(entry.payload.clone())?;
        if event.room != self.spec.room {
            let (named, expected) = (event.room.to_string(), self.spec.room.to_string());
            return Err(DamagedReason::WrongPlace { named, expected });
        }
        if writer.sfu().is_some() && !again {
            self.sfu_time = self.sfu_time.max(entry.time);
        }
        let is_of_sfu = writer.sfu().is_some() && !event.kind.is_control();
        let begins = is_of_sfu && self.phase == Phase::Before && self.is_of_beginning(&event);
        if is_of_sfu && !begins {
            self.begin_without_beginning(entry.time, outputs);
        }
        let stream = (writer, event.incarnation);
        if !self.events.contains_key(&stream) {
            if is_of_sfu && self.is_end_of_earlier_session(&event) {
                return Ok(());
            }
            self.make_room_for(&stream.0)?;
            // Before the recording, a writer's numbers begin where reading begins, or with the event that the recording does.
            let next = match self.spec.from {
                Some(from) if is_of_sfu && self.is_of_beginning(&event) => from.event_no,
                _ if self.phase == Phase::Before => event.event_no,
                _ => 0,
            };
            self.events.insert(stream.clone(), Order::new(next));
            self.began.insert(stream.clone(), entry.time);
        }
        if begins {
            self.from_zero = true;
            self.begin(event.time, entry.time, outputs);
        }
        let permitted = event.kind.is_control() == (stream.0 == Writer::Control);
        let number = event.event_no;
        let held = Held {
            time: entry.time,
            sequence: entry.sequence,
            bytes: entry.payload.len(),
            item: (event, entry.payload.clone()),
        };
        if let Some(order) = self.events.get_mut(&stream) {
            let is_new = order.hold(number, held);
            if is_new && self.phase == Phase::Before && stream.0 == Writer::Control {
                // Commands of before the recording are none of it, and its beginning waits for none of them.
                order.skip_to(order.first_held().map_or(number, |(first, _)| first));
            }
        }
        self.drain_events(&stream, outputs);
        while self.events.get(&stream).is_some_and(|order| order.is_over(&self.config)) {
            self.skip_events(&stream, outputs);
        }
        if permitted {
            return Ok(());
        }
        let writer = stream.0.sfu().map_or_else(|| THE_COORDINATOR.to_owned(), |sfu| format!("SFU {sfu}"));
        Err(DamagedReason::NotPermitted { writer })
    }

    /// Whether it ends a session of the room that was over before the recording began: its publisher may say so again, as
    /// nobody confirmed it. Nothing else of that session has come.
    fn is_end_of_earlier_session(&self, event: &RoomEvent) -> bool {
        let ends = matches!(event.kind, EventKind::RoomClosed { .. });
        ends && self.phase == Phase::Open && event.time < self.room_start
    }

    /// Forgets the oldest start of a writer of this kind which began again since and waits for nothing, if there are too many.
    fn make_room_for(&mut self, writer: &Writer) -> Result<(), DamagedReason> {
        let is_control = *writer == Writer::Control;
        let streams = || self.events.keys().filter(|(other, _)| (*other == Writer::Control) == is_control);
        if streams().count() < MAX_EVENT_STREAMS {
            return Ok(());
        }
        let began = |stream: &EventStream| self.began.get(stream).copied().unwrap_or_default();
        let is_over = |stream: &&EventStream| {
            let waits = self.events.get(*stream).is_some_and(|order| order.first_held().is_some());
            // A coordinator's commands are repeated until they have come; its next start is never refused.
            is_control
                || !waits && (stream.0 == *writer || streams().any(|o| o.0 == stream.0 && began(o) > began(stream)))
        };
        let oldest = streams().filter(is_over).min_by_key(|stream| began(stream)).cloned();
        let oldest = oldest.ok_or(DamagedReason::TooMany)?;
        self.events.remove(&oldest);
        self.began.remove(&oldest);
        self.has_lost |= self.missing_events.remove(&oldest).is_some();
        Ok(())
    }

    /// Whether it is the event that the recording is to begin with, or a later one of that writer: the log may have lost the
    /// first.
    fn is_of_beginning(&self, event: &RoomEvent) -> bool {
        let is_of = |from: EventRef| from.incarnation == event.incarnation.get() && event.event_no >= from.event_no;
        self.spec.from.is_some_and(is_of)
    }

    /// Begins a recording that is to begin with an event which the log has lost, and of whose writer this is not: with
    /// whatever an SFU wrote since.
    fn begin_without_beginning(&mut self, time: LogTime, outputs: &mut Vec<RoomOutput>) {
        let Some(beginning) = self.spec.beginning.filter(|_| self.phase == Phase::Before) else { return };
        // A log that is read again from before the session shows earlier ones.
        if self.rewound.is_none() || time + log_clock::SLACK >= beginning.log_time {
            self.from_zero = true;
            self.begin(beginning.time, time, outputs);
        }
    }

    fn drain_events(&mut self, stream: &EventStream, outputs: &mut Vec<RoomOutput>) {
        self.draining.push(stream.clone());
        while let Some(order) = self.events.get_mut(stream) {
            let Some(time) = order.peek_ready().map(|held| held.time) else { break };
            let Some((event, message)) = order.pop_ready() else { break };
            if event.kind.is_control() == (stream.0 == Writer::Control) {
                self.on_event(&stream.0, event, time, message, outputs);
            }
        }
        self.draining.pop();
    }
}

/// Whether it is a `traceparent` with its sampled flag set (W3C Trace Context, version 00).
fn is_sampled(trace_parent: &str) -> bool {
    let is_hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let fields: Vec<&str> = trace_parent.splitn(5, '-').collect();
    let [version, trace, parent, flags] = fields[..] else { return false };
    let is_whole = is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
    is_whole && u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 != 0)
}

#[cfg(test)]
mod tests {
    use super::is_sampled;

    #[test]
    fn only_a_whole_and_sampled_trace_is_kept() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-";
        assert!(is_sampled(&format!("{parent}01")) && is_sampled(&format!("{parent}03")));
        let long = format!("{parent}01-{}", "a".repeat(1 << 20));
        for other in [&format!("{parent}00"), &format!("{parent}0g"), &parent[..50], "", "01", "a-b-c-01", &long] {
            assert!(!is_sampled(other), "{}", &other[..other.len().min(80)]);
        }
    }
}
