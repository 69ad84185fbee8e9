//! Pure core of the publisher: packets and events in, messages to append out.
//!
//! Owns the numbers, the open batches, the bounded buffer of what is not yet durable, and what is sent when.
//! Does not own the log, the bus, a clock or a source of randomness (see `shell`): time is an argument, counted
//! from the publisher's start.
//!
//! What is full and who feels it: the window of messages without an answer holds the queue back; the queue and everything
//! kept for replay live in one buffer of `buffer_bytes`; when that is full, what the broker has acknowledged is forgotten
//! first (its durability is then the broker's alone), and if nothing of the kind is left, the newest batch is dropped and a
//! [`PublisherGap`] takes its place.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng as _;
use rand::rngs::StdRng;
use roomreel_shared::batch::{self, Incarnation, MAX_BATCH_BYTES, Packet, PacketData, RtpBatch};
use roomreel_shared::event::{EventKind, MAX_EVENT_BYTES, PublisherGap, RoomEvent, TrackEnd};
use roomreel_shared::id::{RecordingId, RoomId, SfuId, TenantId, TrackId};
use roomreel_shared::ports::{Appended, NewEntry};
use roomreel_shared::subject::{Address, Entry, Shard, Subject, Writer};
use roomreel_shared::time::RoomTime;

use self::session::{Expected, Mark};
use self::spooling::Spooling;
use super::spool::Place;
use super::{Error, Stats};

mod session;
mod spooling;

/// Longest packet: what UDP can carry.
pub const MAX_PACKET_BYTES: usize = 65_535;
/// What a held message costs beside its payload: keys, subject, ids.
const MESSAGE_OVERHEAD_BYTES: usize = 256;
/// What an open batch costs per packet beside its bytes.
const PACKET_OVERHEAD_BYTES: usize = 48;
/// A replay request is answered with at most this many messages; the rest is asked for again.
const MAX_REPLAYED_MESSAGES: usize = 4096;
/// What is acknowledged, is the newest of its numbering and has no watermark after this is sent again: a broker that lost
/// it would leave no hole that somebody could notice.
const UNCONFIRMED_AFTER: Duration = Duration::from_secs(10);
/// How often it is looked for what is over.
const SWEEP: Duration = Duration::from_millis(100);
/// How long a closed track's numbering is remembered for stragglers.
const CLOSED_TRACK_MEMORY: Duration = Duration::from_secs(60);

/// The bounds of the core.
#[derive(Debug, Clone)]
pub struct Limits {
    /// An open batch is closed at this age.
    pub batch_age: Duration,
    /// An open batch is closed before it would grow past this.
    pub batch_bytes: usize,
    /// Everything held: open, queued, sent, kept for replay.
    pub buffer_bytes: usize,
    /// Messages sent and not acknowledged.
    pub in_flight: usize,
    /// How long an acknowledged message of a room that is not known to be recorded is kept.
    pub unrecorded_grace: Duration,
    /// Wait before the first retry; doubles up to `retry_max`.
    pub retry_min: Duration,
    /// Longest wait before a retry.
    pub retry_max: Duration,
    /// Every how many batches one is traced; 0: none.
    pub trace_every: u64,
}

/// Handle of a held message, in the order of acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageKey(u64);

/// The next message to append; the outcome goes to [`Core::on_appended`] or [`Core::on_failed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// Which message.
    pub key: MessageKey,
    /// What to append.
    pub entry: NewEntry,
}

/// How far the sending of a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    /// Nothing to do.
    Idle,
    /// In the queue, or waiting for its room's other messages.
    Queued,
    /// The log has it and has not answered.
    InFlight,
    /// Its retry is due at the time in `retries`.
    Waiting,
    /// Its turn has come, and the spool is asked for its bytes.
    Loading,
    /// Its bytes have come.
    Ready,
}

#[derive(Debug)]
struct Message {
    room: RoomId,
    /// `None`: an event.
    track: Option<TrackId>,
    incarnation: Incarnation,
    number: u64,
    /// A batch's first and last packet number.
    packets: (u64, u64),
    mark: Mark,
    subject: Subject,
    trace_parent: Option<String>,
    /// Empty while the spool alone has it.
    payload: Bytes,
    /// Of the payload, wherever it is.
    length: usize,
    is_loaded: bool,
    /// Where the spool has it.
    place: Option<Place>,
    sending: Sending,
    attempts: u32,
    /// 0: the first message id; else the replay's attempt.
    replay: u32,
    /// The broker has acknowledged it.
    stored: bool,
    /// When it was acknowledged last.
    stored_at: Duration,
    /// A watermark has covered it while it was being sent: the acknowledgement forgets it.
    is_covered: bool,
}

impl Message {
    /// What it takes of the memory.
    fn cost(&self) -> usize {
        MESSAGE_OVERHEAD_BYTES + if self.is_loaded { self.length } else { 0 }
    }
}

/// One numbering: a room's events or a track's batches.
#[derive(Debug)]
struct Series {
    incarnation: Incarnation,
    subject: Subject,
    next: u64,
    held: BTreeMap<u64, MessageKey>,
    /// When the cluster last spoke of it, or it was put aside.
    heard_at: Duration,
}

#[derive(Debug)]
struct OpenBatch {
    opened_at: Duration,
    first_packet_no: u64,
    packets: Vec<Packet>,
    bytes: usize,
}

#[derive(Debug)]
struct Track {
    series: Series,
    next_packet_no: u64,
    open: Option<OpenBatch>,
    /// Dropped and not yet declared, with the time of the last dropped packet.
    gap: Option<(PublisherGap, RoomTime)>,
    closed_at: Option<Duration>,
}

#[derive(Debug)]
struct Room {
    shard: Shard,
    events: Series,
    tracks: BTreeMap<TrackId, Track>,
    /// Numberings of an earlier process or session, of which something is held.
    earlier: BTreeMap<Incarnation, Series>,
    /// The recordings that are said to be going on in it, and when that was said last.
    recordings: BTreeMap<RecordingId, Duration>,
    expected: Option<Expected>,
    /// What has not had its turn, in the order of acceptance.
    waiting: VecDeque<MessageKey>,
    /// What had its turn and is not acknowledged.
    outstanding: BTreeSet<MessageKey>,
    /// Of these, the beginning or the end of a session: everything else waits for it.
    barrier: Option<MessageKey>,
    closed: bool,
}

impl Room {
    /// Its numberings: those of its tracks, and of its events last.
    fn series(&self) -> impl Iterator<Item = &Series> {
        let of_tracks = self.tracks.values().map(|track| &track.series);
        of_tracks.chain(self.earlier.values()).chain([&self.events])
    }

    /// No message of it is held.
    fn holds_nothing(&self) -> bool {
        self.series().all(|series| series.held.is_empty())
    }

    /// Where the numberings of the tracks end that this event closes; first of those of which something is held.
    fn ends(&self, kind: &EventKind) -> Vec<TrackEnd> {
        let mut tracks: Vec<(&TrackId, &Track)> = match kind {
            EventKind::RoomClosed { .. } => self.tracks.iter().collect(),
            EventKind::ProducerClosed { track, .. } => self.tracks.get_key_value(track).into_iter().collect(),
            _ => return Vec::new(),
        };
        tracks.retain(|(_, track)| track.series.next > 0);
        tracks.sort_by_key(|(_, track)| track.series.held.is_empty());
        let end = |(id, track): (&TrackId, &Track)| TrackEnd {
            track: id.clone(),
            incarnation: track.series.incarnation,
            next_batch_no: track.series.next,
            next_packet_no: track.next_packet_no,
        };
        tracks.into_iter().map(end).collect()
    }
}

/// See the module.
#[derive(Debug)]
pub struct Core {
    limits: Limits,
    tenant: TenantId,
    sfu: SfuId,
    shards: u32,
    rng: StdRng,
    rooms: BTreeMap<RoomId, Room>,
    messages: BTreeMap<MessageKey, Message>,
    next_key: u64,
    queue: VecDeque<MessageKey>,
    retries: BTreeSet<(Duration, MessageKey)>,
    /// Open batches in the order they are due. An entry is stale if the batch was closed since.
    due: VecDeque<(Duration, RoomId, TrackId)>,
    /// Acknowledged messages in the order their grace ends. An entry is stale if the message is gone or now recorded.
    graces: VecDeque<(Duration, MessageKey)>,
    acknowledged: BTreeSet<MessageKey>,
    /// Sent and not answered, those waiting for a retry included: an outage does not let the queue run into retries.
    window: usize,
    bytes: usize,
    event_bytes: usize,
    batches_made: u64,
    /// The newest time that was told.
    now: Duration,
    /// When it is next looked for what has no watermark although it should.
    next_confirm: Duration,
    /// When the broker has answered last.
    answered_at: Duration,
    /// From when on silence says something: before, the broker did not answer either.
    silent_from: Duration,
    /// When it is next looked for gaps that fit and for what is over, and whether that was put off.
    next_sweep: Duration,
    sweep_is_due: bool,
    spooling: Spooling,
    stats: Stats,
}

impl Core {
    /// A core for one SFU; `rng` gives incarnations and trace ids.
    #[must_use]
    pub fn new(limits: Limits, tenant: TenantId, sfu: SfuId, shards: u32, rng: StdRng) -> Self {
        Self {
            limits,
            tenant,
            sfu,
            shards: shards.max(1),
            rng,
            rooms: BTreeMap::new(),
            messages: BTreeMap::new(),
            next_key: 0,
            queue: VecDeque::new(),
            retries: BTreeSet::new(),
            due: VecDeque::new(),
            graces: VecDeque::new(),
            acknowledged: BTreeSet::new(),
            window: 0,
            bytes: 0,
            event_bytes: 0,
            batches_made: 0,
            now: Duration::ZERO,
            next_confirm: UNCONFIRMED_AFTER,
            answered_at: Duration::ZERO,
            silent_from: Duration::ZERO,
            next_sweep: Duration::ZERO,
            sweep_is_due: false,
            spooling: Spooling::default(),
            stats: Stats::default(),
        }
    }

    /// Takes a packet; it has its number when this returns. Answers whether the shell should look for work.
    ///
    /// # Errors
    /// [`Error::PacketTooLarge`]; nothing was taken.
    pub fn accept_packet(
        &mut self,
        now: Duration,
        room_id: &RoomId,
        track_id: &TrackId,
        time: RoomTime,
        data: PacketData,
    ) -> Result<bool, Error> {
        let length = data.bytes().len();
        if length > MAX_PACKET_BYTES {
            self.stats.rejected += 1;
            return Err(Error::PacketTooLarge { bytes: length });
        }
        let was_idle = self.due.is_empty();
        let mut closed = false;
        self.room(room_id);
        self.ensure_track(room_id, track_id);
        let (batch_age, batch_bytes) = (self.limits.batch_age, self.limits.batch_bytes);
        let cost = length + PACKET_OVERHEAD_BYTES;
        let open = self.track(room_id, track_id).and_then(|track| track.open.as_ref());
        if open.is_some_and(|open| open.bytes + cost > batch_bytes) {
            self.close_batch(room_id, track_id);
            closed = true;
        }
        let track = self.track(room_id, track_id).expect("ensured above");
        let first_packet_no = track.next_packet_no;
        track.next_packet_no += 1;
        let is_new = track.open.is_none();
        let open = track.open.get_or_insert_with(|| OpenBatch {
            opened_at: now,
            first_packet_no,
            packets: Vec::new(),
            bytes: 0,
        });
        open.packets.push(Packet { time, data });
        open.bytes += cost;
        let is_full = open.bytes >= batch_bytes;
        self.bytes += cost;
        self.stats.accepted_packets += 1;
        self.stats.accepted_bytes += length as u64;
        if is_full {
            self.close_batch(room_id, track_id);
            closed = true;
        } else if is_new {
            self.due.push_back((now + batch_age, room_id.clone(), track_id.clone()));
        }
        Ok(closed || was_idle)
    }

    /// Takes an event. The room's open batches are closed first, so that the log has it after the media accepted before it.
    ///
    /// # Errors
    /// [`Error::NotForSfu`], [`Error::EventTooLarge`] and [`Error::BufferFull`]; nothing was taken, no number was used.
    pub fn accept_event(
        &mut self,
        now: Duration,
        room_id: &RoomId,
        time: RoomTime,
        kind: EventKind,
    ) -> Result<(), Error> {
        if kind.is_control() {
            self.stats.rejected += 1;
            return Err(Error::NotForSfu);
        }
        // Gaps are declared past this bound: there is at most one undeclared per track.
        if self.event_bytes >= self.event_buffer_bytes() {
            self.stats.rejected += 1;
            return Err(Error::BufferFull { bytes: self.event_bytes });
        }
        self.room(room_id);
        self.close_batches_of(room_id);
        let tracks: Vec<TrackId> = match &kind {
            EventKind::RoomCreated { .. } | EventKind::RoomClosed { .. } => {
                self.rooms[room_id].tracks.keys().cloned().collect()
            }
            EventKind::ProducerClosed { track, .. } => vec![track.clone()],
            _ => Vec::new(),
        };
        for track in &tracks {
            self.declare_gap(room_id, track);
        }
        if let EventKind::RoomCreated { .. } = kind {
            self.renew(room_id);
        }
        let closes_track = match &kind {
            EventKind::ProducerClosed { track, .. } => Some(track.clone()),
            _ => None,
        };
        let expects = session::expects(&kind);
        self.append_event(room_id, time, kind)?;
        if let Some(is_expected) = expects {
            self.expect(now, room_id, is_expected);
        }
        if let Some(track) = closes_track.and_then(|track| self.track(room_id, &track)) {
            track.closed_at = Some(now);
        }
        Ok(())
    }

    /// The next message to append, if there is one and the window has room.
    pub fn poll(&mut self, now: Duration) -> Option<Send> {
        let key = loop {
            let key = self.next_to_send(now)?;
            if self.messages[&key].is_loaded {
                break key;
            }
            self.load(key);
        };
        let message = self.messages.get_mut(&key).expect("forgetting a message takes it out of queue and retries");
        message.sending = Sending::InFlight;
        let message_id = match message.replay {
            0 => batch::message_id(message.incarnation, message.number),
            attempt => batch::replay_message_id(message.incarnation, message.number, attempt),
        };
        let entry = NewEntry {
            subject: message.subject.clone(),
            message_id,
            trace_parent: message.trace_parent.clone(),
            payload: message.payload.clone(),
        };
        self.refile(key);
        Some(Send { key, entry })
    }

    /// The next message whose turn it is; it has a place in the window.
    fn next_to_send(&mut self, now: Duration) -> Option<MessageKey> {
        while let Some(key) = self.spooling.ready.pop_front() {
            if self.messages.contains_key(&key) {
                return Some(key);
            }
        }
        if let Some(&(due, key)) = self.retries.first()
            && due <= now
        {
            self.retries.pop_first();
            return Some(key);
        }
        if self.window >= self.limits.in_flight {
            return None;
        }
        while let Some(key) = self.queue.pop_front() {
            if self.messages.contains_key(&key) {
                self.window += 1;
                return Some(key);
            }
        }
        None
    }

    /// The broker has stored a message.
    pub fn on_appended(&mut self, now: Duration, key: MessageKey, appended: Appended) {
        self.window -= 1;
        self.answered_at = now;
        self.stats.stored += 1;
        self.stats.duplicates += u64::from(appended.duplicate);
        let Some(message) = self.messages.get_mut(&key) else {
            return; // nothing that is being sent is forgotten
        };
        message.sending = Sending::Idle;
        if message.is_covered {
            self.stats.durable += 1;
            self.forget(key);
            return;
        }
        message.attempts = 0;
        message.stored_at = now;
        let first = !std::mem::replace(&mut message.stored, true);
        let room_id = message.room.clone();
        // Without its beginning nothing of a room is recorded.
        if !matches!(message.mark, Mark::Created | Mark::Producer) {
            self.acknowledged.insert(key);
        }
        self.refile(key);
        if first {
            self.one_less_unacknowledged(&room_id, key);
        }
        if !self.rooms.get(&room_id).is_some_and(Room::is_kept) {
            self.graces.push_back((now + self.limits.unrecorded_grace, key));
        }
    }

    /// An append went wrong; the message is sent again under the same id after a while, for ever. Answers the wait.
    pub fn on_failed(&mut self, now: Duration, key: MessageKey) -> Duration {
        let Some(message) = self.messages.get_mut(&key) else {
            self.window -= 1;
            return Duration::ZERO; // nothing that is being sent is forgotten
        };
        let doubled = self.limits.retry_min.saturating_mul(1 << message.attempts.min(16));
        let wait = doubled.min(self.limits.retry_max);
        message.attempts = message.attempts.saturating_add(1);
        message.sending = Sending::Waiting;
        self.retries.insert((now + wait, key));
        self.stats.retries += 1;
        wait
    }

    /// Time has passed: closes batches that are due, forgets what nobody needs, declares gaps that now fit.
    pub fn on_time(&mut self, now: Duration) {
        self.now = now;
        while self.due.front().is_some_and(|(due, ..)| *due <= now) {
            let (due, room, track) = self.due.pop_front().expect("there is a front");
            let age = self.limits.batch_age;
            let open = self.track(&room, &track).and_then(|track| track.open.as_ref());
            if open.is_some_and(|open| open.opened_at + age == due) {
                self.close_batch(&room, &track);
            }
        }
        while self.graces.front().is_some_and(|(due, _)| *due <= now) {
            let (_, key) = self.graces.pop_front().expect("there is a front");
            let is_kept = |message: &Message| self.rooms.get(&message.room).is_some_and(Room::is_kept);
            if self.messages.get(&key).is_some_and(|message| !is_kept(message) && message.sending == Sending::Idle) {
                self.forget(key);
            }
        }
        if self.next_confirm <= now {
            self.next_confirm = now + UNCONFIRMED_AFTER / 4;
            self.give_up_unheard(now);
            self.send_unconfirmed(now);
        }
        // Both walk through all tracks.
        self.sweep_is_due = now < self.next_sweep;
        if !self.sweep_is_due {
            self.next_sweep = now + SWEEP;
            if self.bytes < self.limits.buffer_bytes / 4 * 3 {
                self.declare_gaps();
            }
            self.drop_what_is_over(now);
        }
    }

    /// Sends the ends of recorded rooms' numberings again that should have a watermark by now. A room's events follow when
    /// its media has been acknowledged: its end must not overtake what it ends. Of rooms that should be recorded by now it is
    /// the beginning.
    fn send_unconfirmed(&mut self, now: Duration) {
        let mut tails = self.unheard_beginnings(now);
        let is_due = |key: &MessageKey| {
            let message = &self.messages[key];
            message.sending == Sending::Idle && message.stored && message.stored_at + UNCONFIRMED_AFTER <= now
        };
        tails.retain(is_due);
        for room in self.rooms.values().filter(|room| room.is_recorded()) {
            let newest = |series: &Series| series.held.last_key_value().map(|(_, key)| *key);
            let media = room.tracks.values().map(|track| &track.series).chain(room.earlier.values());
            let media: Vec<MessageKey> = media.filter_map(newest).collect();
            let due: Vec<MessageKey> = media.iter().copied().filter(is_due).collect();
            if due.is_empty() && media.iter().all(|key| self.messages[key].sending == Sending::Idle) {
                tails.extend(newest(&room.events).filter(is_due));
            }
            tails.extend(due);
        }
        for key in tails {
            let attempt = self.messages[&key].replay + 1;
            self.send_again(key, attempt);
        }
    }

    fn send_again(&mut self, key: MessageKey, attempt: u32) {
        let Some(message) = self.messages.get_mut(&key) else { return };
        // What is still being sent arrives without being asked for.
        if message.sending == Sending::Idle {
            message.replay = attempt.max(message.replay + 1);
            message.sending = Sending::Queued;
            self.acknowledged.remove(&key);
            self.queue.push_back(key);
            self.stats.replays += 1;
            self.refile(key);
        }
    }

    /// Closes every open batch now.
    pub fn close_batches(&mut self) {
        for room in self.rooms.keys().cloned().collect::<Vec<_>>() {
            self.close_batches_of(&room);
        }
        self.declare_gaps();
    }

    /// When [`Self::on_time`] or [`Self::poll`] has something to do next, if nothing else happens.
    #[must_use]
    pub fn next_due(&self) -> Option<Duration> {
        let due = self.due.front().map(|(due, ..)| *due);
        let grace = self.graces.front().map(|(due, _)| *due);
        let retry = self.retries.first().map(|(due, _)| *due);
        let holds = self.rooms.values().any(|room| room.is_kept() && !room.holds_nothing());
        let sweep = self.sweep_is_due.then_some(self.next_sweep);
        [due, grace, retry, holds.then_some(self.next_confirm), sweep].into_iter().flatten().min()
    }

    /// Everything below `next` of this numbering is in committed windows, or declared missing in them. What is on its way to
    /// the log may be one that was given up: it is stored late when it arrives, so it is sent until it is acknowledged.
    /// `track` is `None` for events.
    pub fn on_watermark(&mut self, room: &RoomId, track: Option<&TrackId>, incarnation: u64, next: u64) {
        let now = self.now;
        let Some(series) = self.series(room, track, incarnation) else { return };
        series.heard_at = now;
        let covered: Vec<(u64, MessageKey)> = series.held.range(..next).map(|(number, key)| (*number, *key)).collect();
        // The spool hears of runs of numbers; none of them may span one that is still needed.
        let mut run = Vec::new();
        for (number, key) in covered {
            let Some(message) = self.messages.get_mut(&key) else { continue };
            if !message.stored || message.sending != Sending::Idle {
                message.is_covered = true;
                self.despool(incarnation, &std::mem::take(&mut run));
                continue;
            }
            run.extend(message.place.take().map(|place| (number, place)));
            self.stats.durable += 1;
            self.forget(key);
        }
        self.despool(incarnation, &run);
        if track.is_none() && next > 0 {
            self.on_begun(room, incarnation);
        }
    }

    /// Somebody misses these numbers: sends those that are held again, under ids that carry `attempt`.
    pub fn on_replay_request(
        &mut self,
        room: &RoomId,
        track: Option<&TrackId>,
        incarnation: u64,
        missing: RangeInclusive<u64>,
        attempt: u32,
    ) {
        if missing.is_empty() {
            return;
        }
        let now = self.now;
        let Some(series) = self.series(room, track, incarnation) else { return };
        series.heard_at = now;
        let keys: Vec<MessageKey> =
            series.held.range(missing).map(|(_, key)| *key).take(MAX_REPLAYED_MESSAGES).collect();
        for key in keys {
            self.send_again(key, attempt);
        }
    }

    /// Nothing is open or unacknowledged.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.stats.unacknowledged == 0
            && self
                .rooms
                .values()
                .all(|room| room.tracks.values().all(|track| track.open.is_none() && track.gap.is_none()))
    }

    /// It is flushed, and what recorded rooms hold is below their watermarks.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.is_flushed() && self.rooms.values().all(|room| !room.is_recorded() || room.holds_nothing())
    }

    /// Whether a source that can wait should: a whole window waits behind the one in flight.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        let waiting = self.rooms.values().map(|room| room.waiting.len());
        self.queue.len() + waiting.sum::<usize>() >= self.limits.in_flight
    }

    /// The rooms that are published and not closed.
    pub fn rooms(&self) -> impl Iterator<Item = &RoomId> {
        self.rooms.iter().filter(|(_, room)| !room.closed).map(|(id, _)| id)
    }

    /// What was done so far, and what is held.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats { held_messages: self.messages.len() as u64, held_bytes: self.bytes as u64, ..self.stats }
    }

    fn event_buffer_bytes(&self) -> usize {
        (self.limits.buffer_bytes / 8).max(2 * MAX_EVENT_BYTES)
    }

    fn incarnation(&mut self) -> Incarnation {
        Incarnation::new(self.rng.random_range(1..=u64::MAX)).expect("the range has no 0")
    }

    fn new_series(&mut self, shard: Shard, room: &RoomId, entry: Entry) -> Series {
        let writer = Writer::Sfu(self.sfu.clone());
        let address = Address { shard, tenant: self.tenant.clone(), writer, room: room.clone(), entry };
        let (incarnation, subject, heard_at) = (self.incarnation(), address.subject(), self.now);
        Series { incarnation, subject, next: 0, held: BTreeMap::new(), heard_at }
    }

    fn room(&mut self, id: &RoomId) {
        if !self.rooms.contains_key(id) {
            let shard = Shard::of(&self.tenant, id, self.shards);
            let events = self.new_series(shard, id, Entry::Event);
            let room = Room {
                shard,
                events,
                tracks: BTreeMap::new(),
                earlier: BTreeMap::new(),
                recordings: BTreeMap::new(),
                expected: None,
                waiting: VecDeque::new(),
                outstanding: BTreeSet::new(),
                barrier: None,
                closed: false,
            };
            self.rooms.insert(id.clone(), room);
        }
    }

    fn ensure_track(&mut self, room: &RoomId, track: &TrackId) {
        let known = self.rooms.get(room).expect("callers make the room first");
        if !known.tracks.contains_key(track) {
            let series = self.new_series(known.shard, room, Entry::Media(track.clone()));
            let new = Track { series, next_packet_no: 0, open: None, gap: None, closed_at: None };
            self.rooms.get_mut(room).expect("found above").tracks.insert(track.clone(), new);
        }
    }

    fn track(&mut self, room: &RoomId, track: &TrackId) -> Option<&mut Track> {
        self.rooms.get_mut(room)?.tracks.get_mut(track)
    }

    fn series(&mut self, room: &RoomId, track: Option<&TrackId>, incarnation: u64) -> Option<&mut Series> {
        let room = self.rooms.get_mut(room)?;
        let series = match track {
            None => Some(&mut room.events),
            Some(track) => room.tracks.get_mut(track).map(|track| &mut track.series),
        };
        match series.filter(|series| series.incarnation.get() == incarnation) {
            Some(series) => Some(series),
            None => room.earlier.get_mut(&Incarnation::new(incarnation)?),
        }
    }

    fn close_batches_of(&mut self, room: &RoomId) {
        let open = |(id, track): (&TrackId, &Track)| track.open.is_some().then(|| id.clone());
        let tracks: Vec<TrackId> = self.rooms[room].tracks.iter().filter_map(open).collect();
        for track in tracks {
            self.close_batch(room, &track);
        }
    }

    fn close_batch(&mut self, room_id: &RoomId, track_id: &TrackId) {
        let Some(track) = self.track(room_id, track_id) else { return };
        let Some(open) = track.open.take() else { return };
        let batch_no = track.series.next;
        track.series.next += 1;
        let incarnation = track.series.incarnation;
        let subject = track.series.subject.clone();
        let last_packet_time = open.packets.last().map_or(RoomTime::default(), |packet| packet.time);
        self.bytes -= open.bytes;
        let packets = open.packets.len() as u64;
        let batch = RtpBatch {
            room: room_id.clone(),
            track: track_id.clone(),
            incarnation,
            batch_no,
            first_packet_no: open.first_packet_no,
            packets: open.packets,
        };
        let payload = batch.encode();
        debug_assert!(payload.len() <= MAX_BATCH_BYTES, "a batch is bounded by batch_bytes and one packet");
        if !self.make_room(payload.len() + MESSAGE_OVERHEAD_BYTES) {
            self.stats.dropped_packets += packets;
            self.stats.dropped_batches += 1;
            let last_packet_no = batch.next_packet_no() - 1;
            let track = self.track(room_id, track_id).expect("it was there above");
            let (gap, time) = track.gap.get_or_insert_with(|| {
                let gap = PublisherGap {
                    track: track_id.clone(),
                    incarnation,
                    packets: (batch.first_packet_no, last_packet_no),
                    batches: (batch_no, batch_no),
                    reason: "the publisher's buffer was full".to_owned(),
                };
                (gap, last_packet_time)
            });
            gap.packets.1 = last_packet_no;
            gap.batches.1 = batch_no;
            *time = last_packet_time;
            return;
        }
        self.declare_gap(room_id, track_id);
        self.batches_made += 1;
        self.stats.batches += 1;
        let every = self.limits.trace_every;
        let sampled = every != 0 && self.batches_made.is_multiple_of(every);
        let trace_parent = Some(self.trace_parent(sampled));
        self.hold(Message {
            room: room_id.clone(),
            track: Some(track_id.clone()),
            incarnation,
            number: batch_no,
            packets: (batch.first_packet_no, batch.next_packet_no() - 1),
            mark: Mark::Plain,
            subject,
            trace_parent,
            length: payload.len(),
            is_loaded: true,
            place: None,
            payload,
            sending: Sending::Queued,
            attempts: 0,
            replay: 0,
            stored: false,
            stored_at: Duration::ZERO,
            is_covered: false,
        });
    }

    /// W3C Trace Context: version, trace id, parent id, flags.
    fn trace_parent(&mut self, sampled: bool) -> String {
        let trace = self.rng.random_range(1..=u128::MAX);
        let parent = self.rng.random_range(1..=u64::MAX);
        format!("00-{trace:032x}-{parent:016x}-{:02x}", u8::from(sampled))
    }

    fn append_event(&mut self, room_id: &RoomId, time: RoomTime, kind: EventKind) -> Result<(), Error> {
        let room = self.rooms.get(room_id).expect("callers make the room first");
        let (incarnation, event_no) = (room.events.incarnation, room.events.next);
        let subject = room.events.subject.clone();
        let mark = Mark::of(&kind);
        let ends = room.ends(&kind);
        let payload = RoomEvent { room: room_id.clone(), incarnation, event_no, time, kind }.encode_with_ends(&ends);
        if payload.len() > MAX_EVENT_BYTES {
            self.stats.rejected += 1;
            return Err(Error::EventTooLarge { bytes: payload.len() });
        }
        self.stats.events += 1;
        let trace_parent = Some(self.trace_parent(self.limits.trace_every != 0));
        let message = Message {
            room: room_id.clone(),
            track: None,
            incarnation,
            number: event_no,
            packets: (0, 0),
            mark,
            subject,
            trace_parent,
            length: payload.len(),
            is_loaded: true,
            place: None,
            payload,
            sending: Sending::Queued,
            attempts: 0,
            replay: 0,
            stored: false,
            stored_at: Duration::ZERO,
            is_covered: false,
        };
        let room = self.rooms.get_mut(room_id).expect("found above");
        room.events.next += 1;
        match mark {
            Mark::Created => room.closed = false,
            Mark::Closed => room.closed = true,
            Mark::Plain | Mark::Producer => {}
        }
        self.hold(message);
        Ok(())
    }

    fn hold(&mut self, message: Message) {
        let key = MessageKey(self.next_key);
        self.next_key += 1;
        self.bytes += message.cost();
        if message.track.is_none() {
            self.event_bytes += message.cost();
        }
        let room = self.rooms.get_mut(&message.room).expect("callers make the room first");
        room.waiting.push_back(key);
        self.stats.unacknowledged += 1;
        let (track, incarnation, number) = (message.track.clone(), message.incarnation.get(), message.number);
        let room_id = message.room.clone();
        let is_new = message.place.is_none();
        self.messages.insert(key, message);
        let series = self.series(&room_id, track.as_ref(), incarnation).expect("callers make the numbering first");
        series.held.insert(number, key);
        if is_new {
            self.spool(key);
        }
        self.release(&room_id);
    }

    /// Makes room for `cost` bytes of media, at the expense of what the broker has acknowledged.
    fn make_room(&mut self, cost: usize) -> bool {
        while self.bytes + cost > self.limits.buffer_bytes {
            if self.unload_one() {
                continue;
            }
            let Some(&oldest) = self.acknowledged.first() else { return false };
            self.stats.evicted += 1;
            self.forget(oldest);
        }
        true
    }

    fn declare_gaps(&mut self) {
        let mut tracks = Vec::new();
        for (room_id, room) in &self.rooms {
            let gaps = room.tracks.iter().filter(|(_, track)| track.gap.is_some());
            tracks.extend(gaps.map(|(track, _)| (room_id.clone(), track.clone())));
        }
        for (room, track) in tracks {
            self.declare_gap(&room, &track);
        }
    }

    fn declare_gap(&mut self, room: &RoomId, track: &TrackId) {
        if let Some((gap, time)) = self.track(room, track).and_then(|track| track.gap.take()) {
            self.stats.gaps += 1;
            self.append_event(room, time, EventKind::PublisherGap(gap)).expect("a gap is a small event");
        }
    }

    fn forget(&mut self, key: MessageKey) {
        let Some(message) = self.messages.remove(&key) else { return };
        self.acknowledged.remove(&key);
        self.bytes -= message.cost();
        self.refile(key);
        // What is in flight or being read keeps its place in the window until it is answered.
        if matches!(message.sending, Sending::Waiting | Sending::Ready) {
            self.window -= 1;
            self.retries.retain(|(_, waiting)| *waiting != key);
        }
        if let Some(place) = message.place {
            self.despool(message.incarnation.get(), &[(message.number, place)]);
        }
        if let Some(series) = self.series(&message.room, message.track.as_ref(), message.incarnation.get()) {
            series.held.remove(&message.number);
        }
        if message.track.is_none() {
            self.event_bytes -= message.cost();
        }
        if !message.stored {
            self.one_less_unacknowledged(&message.room, key);
        }
    }

    /// Lets go of tracks and rooms that are closed and of which nothing is held.
    fn drop_what_is_over(&mut self, now: Duration) {
        let is_over = |track: &Track| {
            let is_idle = track.series.held.is_empty() && track.open.is_none() && track.gap.is_none();
            is_idle && track.closed_at.is_some_and(|closed| closed + CLOSED_TRACK_MEMORY <= now)
        };
        for room in self.rooms.values_mut() {
            room.tracks.retain(|_, track| !is_over(track));
            room.earlier.retain(|_, series| !series.held.is_empty());
        }
        let is_idle = |room: &Room| {
            room.holds_nothing() && room.tracks.values().all(|track| track.open.is_none() && track.gap.is_none())
        };
        self.rooms.retain(|_, room| !(room.closed && is_idle(room)));
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
