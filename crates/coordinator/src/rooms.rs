//! Pure fold of the room events of all shards into the rooms that are known.
//!
//! Owns: which rooms are open, since which event, under which policy, with whom, through which SFUs, and which control
//! entries have been seen. Does not own media, the log, or any decision about recordings.
//!
//! Input is hostile: what is not an event of the room it was addressed to is refused and counted by the caller, and every
//! collection is bounded.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use roomreel_shared::batch::Incarnation;
use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::event::{self, EventKind, EventRef, RoomEvent};
use roomreel_shared::id::{PeerId, RecordingId, RoomId, SfuId, TenantId, TrackId};
use roomreel_shared::policy::{Policy, Refusal, Role};
use roomreel_shared::ports::LogEntry;
use roomreel_shared::recording::Recording;
use roomreel_shared::subject::{self, Address, Entry, Shard, Writer};
use roomreel_shared::time::{LogTime, RoomTime};

/// Most rooms known at once, and most of them of one tenant. A new one takes the place of the one that closed first, or else
/// of the one that has been silent for longest and is not recorded.
pub const MAX_ROOMS: usize = 100_000;
/// See [`MAX_ROOMS`].
pub const MAX_ROOMS_OF_TENANT: usize = 25_000;
/// Most participants, and most tracks, of a room.
pub const MAX_MEMBERS: usize = 10_000;
/// Most bytes of the ids that participants added to a policy by joining: records hold it.
const MAX_ROLES_BYTES: usize = 128 * 1024;
/// Most SFUs of a room.
pub const MAX_SFUS: usize = 64;
/// Most recordings of a room whose control entries are remembered.
const MAX_RECORDINGS: usize = 64;
/// Most commands of a recording that are remembered.
const MAX_COMMANDS: usize = 64;
/// Most starts of SFUs that are remembered as having written in a room.
const MAX_WRITERS: usize = 256;
/// A closed room is remembered for this long of log time, so that one that opened and closed while there was no leader is
/// still recorded.
const CLOSED_KEPT: Duration = Duration::from_secs(3600);

/// A room among those of all tenants.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoomKey {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub room: RoomId,
}

impl RoomKey {
    /// A tenant's room.
    #[must_use]
    pub fn new(tenant: &TenantId, room: &RoomId) -> Self {
        Self { tenant: tenant.clone(), room: room.clone() }
    }

    /// The room of a recording.
    #[must_use]
    pub fn of(recording: &Recording) -> Self {
        Self::new(&recording.tenant, &recording.room)
    }
}

/// One life of a room: from a RoomCreated to a RoomClosed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The event it began with.
    pub opened: EventRef,
    /// Stream sequence of that event.
    pub sequence: u64,
    /// When the broker stored it.
    pub log_time: LogTime,
    /// When it happened, on the SFU's clock.
    pub time: RoomTime,
    /// The event was a RoomCreated. Otherwise the log no longer holds the beginning, and nothing begins unasked.
    pub whole: bool,
}

impl Session {
    /// Whether the fold is of this session; `None` where that cannot be told, because the log holds the beginning no more or
    /// did not when the recording began.
    #[must_use]
    pub fn is_of(&self, spec: &FoldSpec) -> Option<bool> {
        let of = spec.session.or(spec.from)?;
        self.whole.then_some(of == self.opened)
    }
}

/// What has been seen of a recording's control entries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ControlSeen {
    /// When its start was stored first.
    pub started: Option<LogTime>,
    /// The newest of pause and resume was a pause.
    pub paused: bool,
    /// A stop was seen.
    pub stopped: bool,
    /// Newest commands, oldest first.
    pub commands: VecDeque<String>,
}

/// A room and what is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Its present or last life.
    pub session: Session,
    /// The policy the session began under.
    pub initial_policy: Policy,
    /// The policy in force, roles that participants joined with included.
    pub policy: Policy,
    /// Who is there, and where they stand.
    pub participants: BTreeMap<PeerId, Role>,
    /// Tracks there are now.
    pub producers: BTreeSet<TrackId>,
    /// There was a track in this session.
    pub had_producer: bool,
    /// SFUs that wrote in this session.
    pub sfus: BTreeSet<SfuId>,
    /// When the newest event of an SFU was stored.
    pub last_sfu_log_time: LogTime,
    /// When the newest event was stored, whoever wrote it.
    pub newest: LogTime,
    /// When the room was closed, if it is.
    pub closed: Option<LogTime>,
    /// Control entries seen.
    pub recordings: BTreeMap<RecordingId, ControlSeen>,
    policy_written: Option<EventRef>,
    /// The newest event of each start of an SFU in this session, longest known first.
    written: VecDeque<EventRef>,
    /// The same of earlier sessions: what comes again of them is not of this one.
    over: VecDeque<EventRef>,
    /// The newest start of each SFU, by its incarnation.
    starts: BTreeMap<SfuId, u64>,
}

impl Room {
    fn open(session: Session, policy: Policy) -> Self {
        Self {
            written: VecDeque::new(),
            over: VecDeque::new(),
            starts: BTreeMap::new(),
            last_sfu_log_time: session.log_time,
            newest: session.log_time,
            session,
            initial_policy: policy.clone(),
            policy,
            participants: BTreeMap::new(),
            producers: BTreeSet::new(),
            had_producer: false,
            sfus: BTreeSet::new(),
            closed: None,
            recordings: BTreeMap::new(),
            policy_written: None,
        }
    }

    /// Whether a recording is being made of it, as far as the log says.
    fn is_recorded(&self) -> bool {
        self.recordings.values().any(|seen| !seen.stopped)
    }

    /// Everything that was written in this session and in those before.
    fn into_past(mut self) -> VecDeque<EventRef> {
        for event in self.written {
            note(&mut self.over, event);
        }
        self.over
    }

    /// Whether `peer` may start, stop, pause or resume here.
    ///
    /// # Errors
    /// As [`Policy::check_record`].
    pub fn check_record(&self, peer: &PeerId) -> Result<(), Refusal> {
        self.policy.check_record(peer)
    }

    /// The policy in force, if the fold is of this session and the session's beginning is known.
    #[must_use]
    pub fn policy_of(&self, spec: &FoldSpec) -> Option<&Policy> {
        let Session { sequence, whole, .. } = self.session;
        let is_of = self.session.is_of(spec).unwrap_or(sequence == spec.start_sequence);
        (whole && is_of).then_some(&self.policy)
    }

    /// Puts a policy in force unless a newer one of the same writer is.
    fn update_policy(&mut self, policy: Policy, written: EventRef) {
        if self
            .policy_written
            .is_some_and(|at| at.incarnation == written.incarnation && at.event_no >= written.event_no)
        {
            return;
        }
        let names_roles = policy.host_id.is_some() || !policy.co_host_ids.is_empty() || !policy.panelist_ids.is_empty();
        let host = policy.host_id.clone().or_else(|| self.policy.host_id.clone());
        self.policy = Policy { host_id: host, ..policy };
        self.policy_written = Some(written);
        if names_roles {
            // It is newer than what participants joined with, and may have taken a role away.
            return;
        }
        let roles: Vec<_> = self.participants.iter().map(|(peer, role)| (peer.clone(), *role)).collect();
        for (peer, role) in roles {
            self.grant(&peer, role);
        }
    }

    /// Adds a role that a participant joined with to the policy's lists.
    fn grant(&mut self, peer: &PeerId, role: Role) {
        if self.policy.role_of(peer) <= role {
            return;
        }
        let named = self.policy.co_host_ids.iter().chain(&self.policy.panelist_ids).chain([peer]);
        let has_space = named.map(bytes_in_record).sum::<usize>() <= MAX_ROLES_BYTES;
        match role {
            Role::Host if self.policy.host_id.is_none() => self.policy.host_id = Some(peer.clone()),
            Role::Host | Role::CoHost if has_space => self.policy.co_host_ids.push(peer.clone()),
            Role::Panelist if has_space => self.policy.panelist_ids.push(peer.clone()),
            _ => {}
        }
    }
}

/// Bytes of an id in a record's list: JSON spells a control character with six.
fn bytes_in_record(peer: &PeerId) -> usize {
    let spelled = |byte: u8| match byte {
        ..0x20 => 6,
        b'"' | b'\\' => 2,
        _ => 1,
    };
    peer.as_str().bytes().map(spelled).sum::<usize>() + 3
}

/// Keeps the newest event of each start of an SFU.
fn note(newest: &mut VecDeque<EventRef>, event: EventRef) {
    if let Some(known) = newest.iter_mut().find(|known| known.incarnation == event.incarnation) {
        known.event_no = known.event_no.max(event.event_no);
        return;
    }
    if newest.len() == MAX_WRITERS {
        newest.pop_front();
    }
    newest.push_back(event);
}

/// Whether an event is not newer than what [`note`] kept of its start of an SFU.
fn has_seen(newest: &VecDeque<EventRef>, event: EventRef) -> bool {
    newest.iter().any(|last| last.incarnation == event.incarnation && event.event_no <= last.event_no)
}

/// A control entry that came back in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Echo {
    /// In which room.
    pub room: RoomKey,
    /// Under which numbers.
    pub incarnation: Incarnation,
    /// Under which numbers.
    pub event_no: u64,
}

/// Why an entry changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its subject is not one of the log.
    #[error(transparent)]
    Subject(#[from] subject::Error),
    /// It does not decode.
    #[error(transparent)]
    Event(#[from] event::Error),
    /// The subject is not that of an event.
    #[error("the subject is not one that events are written to")]
    Misplaced,
    /// The subject is in another shard than its room.
    #[error(
        "it stands in shard {found}, and of {shards} shards the room is in shard {of_room}; the SFU's publisher was most \
         likely set to another number of shards than the {shards} of this cluster (setting shards)"
    )]
    WrongShard {
        /// The shard of the subject.
        found: u32,
        /// The shard of the room.
        of_room: u32,
        /// How many there are, as this cluster is set.
        shards: u32,
    },
    /// The event names another room than its subject (I4).
    #[error("the event names room {found:?} and its subject another")]
    WrongRoom {
        /// The room it names.
        found: RoomId,
    },
    /// An SFU wrote what only the coordinator may write, or the other way round.
    #[error("this writer may not write such an event")]
    WrongWriter,
    /// A bound was reached.
    #[error("there are too many {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
    },
}

impl Refused {
    /// One word for a metric's attribute.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Subject(_) => "subject",
            Self::Event(_) => "event",
            Self::Misplaced => "misplaced",
            Self::WrongShard { .. } => "wrong_shard",
            Self::WrongRoom { .. } => "wrong_room",
            Self::WrongWriter => "wrong_writer",
            Self::TooMany { .. } => "too_many",
        }
    }
}

/// All rooms that are known.
#[derive(Debug, Clone)]
pub struct Rooms {
    shards: u32,
    default_policy: Policy,
    /// An SFU that creates a room again within this time after its last event goes on with the same session.
    reopen: Duration,
    rooms: BTreeMap<RoomKey, Room>,
    /// When the newest entry was stored: the broker's clock, by which rooms are forgotten.
    newest: LogTime,
}

impl Rooms {
    /// No rooms yet.
    #[must_use]
    pub fn new(shards: u32, default_policy: Policy, reopen: Duration) -> Self {
        Self { shards, default_policy, reopen, rooms: BTreeMap::new(), newest: LogTime::default() }
    }

    /// One room.
    #[must_use]
    pub fn get(&self, key: &RoomKey) -> Option<&Room> {
        self.rooms.get(key)
    }

    /// All rooms, closed ones that are still remembered included.
    pub fn iter(&self) -> impl Iterator<Item = (&RoomKey, &Room)> {
        self.rooms.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rooms.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rooms.is_empty()
    }

    /// Takes the next event entry of a shard; answers an [`Echo`] if it is a control entry.
    ///
    /// # Errors
    /// [`Refused`]: nothing was changed.
    pub fn apply(&mut self, entry: &LogEntry) -> Result<Option<Echo>, Refused> {
        let address = Address::parse(&entry.subject)?;
        if address.entry != Entry::Event {
            return Err(Refused::Misplaced);
        }
        let of_room = Shard::of(&address.tenant, &address.room, self.shards);
        if of_room != address.shard {
            let (found, of_room) = (address.shard.number(), of_room.number());
            return Err(Refused::WrongShard { found, of_room, shards: self.shards });
        }
        let event = RoomEvent::decode(entry.payload.clone())?;
        if event.room != address.room {
            return Err(Refused::WrongRoom { found: event.room });
        }
        if event.kind.is_control() != (address.writer == Writer::Control) {
            return Err(Refused::WrongWriter);
        }
        let key = RoomKey { tenant: address.tenant, room: address.room };
        self.newest = self.newest.max(entry.time);
        match address.writer {
            Writer::Control => Ok(Some(self.apply_control(key, event, entry.time))),
            Writer::Sfu(sfu) => self.apply_sfu(key, &sfu, event, entry).map(|()| None),
        }
    }

    /// Forgets rooms that closed long before the newest entry was stored.
    pub fn forget_closed(&mut self) {
        let newest = self.newest;
        self.rooms.retain(|_, room| room.closed.is_none_or(|at| newest.saturating_since(at) < CLOSED_KEPT));
    }

    fn apply_control(&mut self, key: RoomKey, event: RoomEvent, at: LogTime) -> Echo {
        let RoomEvent { incarnation, event_no, kind, .. } = event;
        if let Some(room) = self.rooms.get_mut(&key) {
            room.newest = room.newest.max(at);
            let seen = match &kind {
                EventKind::RecordingStarted { recording, command, .. } => Some((recording, command, None, false)),
                EventKind::RecordingPaused { recording, command, .. } => Some((recording, command, Some(true), false)),
                EventKind::RecordingResumed { recording, command, .. } => {
                    Some((recording, command, Some(false), false))
                }
                EventKind::RecordingStopped { recording, command, .. } => Some((recording, command, None, true)),
                EventKind::LayoutChanged { recording, command, .. } => Some((recording, command, None, false)),
                _ => None,
            };
            if let Some((recording, command, paused, stopped)) = seen
                && room.has_space_for(recording)
            {
                let control = room.recordings.entry(recording.clone()).or_default();
                if matches!(kind, EventKind::RecordingStarted { .. }) {
                    control.started.get_or_insert(at);
                }
                // The same command appended twice has one effect.
                if !control.commands.contains(command) {
                    control.paused = paused.unwrap_or(control.paused);
                    control.stopped |= stopped;
                    if control.commands.len() == MAX_COMMANDS {
                        control.commands.pop_front();
                    }
                    control.commands.push_back(command.clone());
                }
            }
        }
        Echo { room: key, incarnation, event_no }
    }

    fn apply_sfu(&mut self, key: RoomKey, sfu: &SfuId, event: RoomEvent, entry: &LogEntry) -> Result<(), Refused> {
        let written = EventRef { incarnation: event.incarnation.get(), event_no: event.event_no };
        if self.rooms.get(&key).is_some_and(|room| has_seen(&room.over, written)) {
            // Of an earlier session: the log is read again, or holds it twice.
            return Ok(());
        }
        let creates = matches!(event.kind, EventKind::RoomCreated { .. });
        let opens = match self.rooms.get(&key) {
            None => true,
            // It comes again, or is the beginning that is missed.
            Some(room) if room.session.whole && has_seen(&room.written, written) || room.lacks_beginning(written) => {
                false
            }
            Some(room) => creates && room.session.opened != written && self.begins_anew(room, sfu, entry.time),
        };
        if opens {
            self.make_room_for(&key)?;
            let session = Session {
                opened: written,
                sequence: entry.sequence,
                log_time: entry.time,
                time: event.time,
                whole: creates,
            };
            let policy = match &event.kind {
                EventKind::RoomCreated { policy: Some(policy), .. } => policy.clone(),
                _ => self.default_policy.clone(),
            };
            let mut over = self.rooms.remove(&key).map(Room::into_past).unwrap_or_default();
            // What this start wrote belongs to the session that it creates.
            over.retain(|past| past.incarnation != written.incarnation);
            self.rooms.insert(key.clone(), Room { over, ..Room::open(session, policy) });
        }
        let room = self.rooms.get_mut(&key).expect("it was there or has just been inserted");
        room.find_beginning(&event, written);
        let closes = matches!(event.kind, EventKind::RoomClosed { .. });
        if room.closed.is_some() {
            // The log lost it and has it again, behind the session's end.
            room.had_producer |=
                has_seen(&room.written, written) && matches!(event.kind, EventKind::ProducerCreated(_));
            // What trails behind a RoomClosed belongs to no session; a later one may not be closed by it.
            if closes {
                note(&mut room.written, written);
            }
            return Ok(());
        }
        if room.sfus.len() >= MAX_SFUS && !room.sfus.contains(sfu) {
            return Err(Refused::TooMany { what: "SFUs in the room" });
        }
        if closes && room.is_of_the_past(sfu, &event, written) {
            return Ok(());
        }
        room.sfus.insert(sfu.clone());
        if !room.knows_start(written) || !room.starts.contains_key(sfu) {
            room.starts.insert(sfu.clone(), written.incarnation);
        }
        note(&mut room.written, written);
        room.last_sfu_log_time = room.last_sfu_log_time.max(entry.time);
        room.newest = room.newest.max(entry.time);
        room.apply(event.kind, written, entry.time)
    }

    /// Whether a RoomCreated begins a new session of a room that is known.
    ///
    /// A second SFU joins the session. The same SFU that creates it again was restarted: the meeting goes on if it was
    /// heard of a moment ago or is being recorded, and is another one otherwise. So it is where the log has lost the
    /// beginning, which nobody can write again any more.
    fn begins_anew(&self, room: &Room, sfu: &SfuId, now: LogTime) -> bool {
        if room.closed.is_some() {
            return true;
        }
        let is_lost = !room.session.whole && room.sfus.len() == 1;
        let was_silent = now.saturating_since(room.last_sfu_log_time) > self.reopen;
        room.sfus.contains(sfu) && !room.is_recorded() && (was_silent || is_lost)
    }

    fn make_room_for(&mut self, key: &RoomKey) -> Result<(), Refused> {
        if self.rooms.len() < MAX_ROOMS_OF_TENANT || self.rooms.contains_key(key) {
            return Ok(());
        }
        let of_tenant = |room: &(&RoomKey, &Room)| room.0.tenant == key.tenant;
        // Rooms are in the order of their tenants: those of one stand together.
        let before = self.rooms.range(..key).rev().take_while(of_tenant);
        let behind = self.rooms.range(key..).take_while(of_tenant);
        let tenant_is_full = before.chain(behind).nth(MAX_ROOMS_OF_TENANT - 1).is_some();
        if self.rooms.len() < MAX_ROOMS && !tenant_is_full {
            return Ok(());
        }
        let candidates = self.rooms.iter().filter(|room| !tenant_is_full || of_tenant(room));
        let idle = candidates.filter(|(_, room)| room.closed.is_some() || !room.is_recorded());
        let first = idle.min_by_key(|(_, room)| (room.closed.is_none(), room.closed.unwrap_or(room.last_sfu_log_time)));
        let Some(forgotten) = first.map(|(key, _)| key.clone()) else {
            return Err(Refused::TooMany { what: "rooms" });
        };
        self.rooms.remove(&forgotten);
        Ok(())
    }
}

impl Room {
    /// Whether control entries of a recording can be remembered; one that was stopped makes room for it.
    fn has_space_for(&mut self, recording: &RecordingId) -> bool {
        if self.recordings.len() >= MAX_RECORDINGS && !self.recordings.contains_key(recording) {
            let stopped = self.recordings.iter().find(|(_, seen)| seen.stopped).map(|(id, _)| id.clone());
            return stopped.is_some_and(|id| self.recordings.remove(&id).is_some());
        }
        true
    }

    fn knows_start(&self, written: EventRef) -> bool {
        self.written.iter().chain(&self.over).any(|known| known.incarnation == written.incarnation)
    }

    /// Whether a RoomClosed is of before the SFU began in the room again, or before the session: the log lost it and has it again,
    /// or it lay in the publisher's spool. It ends nothing; folds decide alike.
    fn is_of_the_past(&self, sfu: &SfuId, event: &RoomEvent, written: EventRef) -> bool {
        let is_outlived = self.starts.get(sfu).is_some_and(|newest| *newest != written.incarnation);
        if self.knows_start(written) { is_outlived } else { event.time < self.session.time }
    }

    /// Whether the session is known by later events of this start of an SFU alone.
    fn lacks_beginning(&self, written: EventRef) -> bool {
        !self.session.whole && self.session.opened.incarnation == written.incarnation
    }

    /// The RoomCreated of a session that is known by later events: the log lost it and has it again, further on.
    fn find_beginning(&mut self, event: &RoomEvent, written: EventRef) {
        if let EventKind::RoomCreated { policy, .. } = &event.kind
            && self.lacks_beginning(written)
        {
            let Session { sequence, log_time, time, .. } = self.session;
            // When the log had it first, as far as the two clocks go alike.
            let log_time = log_time.offset_micros(event.time.micros_since(time).min(0));
            self.session = Session { opened: written, sequence, log_time, time: event.time, whole: true };
            if let Some(policy) = policy {
                self.initial_policy = policy.clone();
                self.update_policy(policy.clone(), written);
            }
        }
    }

    fn apply(&mut self, kind: EventKind, written: EventRef, log_time: LogTime) -> Result<(), Refused> {
        match kind {
            EventKind::RoomCreated { host, policy, .. } => {
                if let Some(policy) = policy {
                    self.update_policy(policy, written);
                }
                if self.policy.host_id.is_none() {
                    self.policy.host_id = host;
                }
            }
            EventKind::RoomClosed { .. } => {
                self.closed = Some(log_time);
                self.participants.clear();
                self.producers.clear();
            }
            EventKind::RoomPolicyUpdated { policy } => self.update_policy(policy, written),
            EventKind::PeerJoined { peer, is_host, is_co_host, is_panelist, .. } => {
                if self.participants.len() >= MAX_MEMBERS && !self.participants.contains_key(&peer) {
                    return Err(Refused::TooMany { what: "participants in the room" });
                }
                let joined_as = match (is_host, is_co_host, is_panelist) {
                    (true, ..) => Role::Host,
                    (_, true, _) => Role::CoHost,
                    (_, _, true) => Role::Panelist,
                    _ => Role::Attendee,
                };
                self.grant(&peer, joined_as);
                let role = self.policy.role_of(&peer).min(joined_as);
                self.participants.insert(peer, role);
            }
            EventKind::PeerLeft { peer, .. } => {
                self.participants.remove(&peer);
            }
            EventKind::ProducerCreated(producer) => {
                self.had_producer = true;
                if self.producers.len() >= MAX_MEMBERS && !self.producers.contains(&producer.track) {
                    return Err(Refused::TooMany { what: "tracks in the room" });
                }
                self.producers.insert(producer.track);
            }
            EventKind::ProducerClosed { track, .. } => {
                self.producers.remove(&track);
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{auto, event_payload, event_subject, id, producer_created, room_closed, room_created};
    use bytes::Bytes;
    use proptest::prelude::*;
    use roomreel_shared::event::StopReason;

    const SHARDS: u32 = 4;

    struct Log {
        rooms: Rooms,
        sequence: u64,
        seconds: i64,
        event_no: u64,
        incarnation: u64,
    }

    impl Log {
        fn new() -> Self {
            let rooms = Rooms::new(SHARDS, Policy::default(), Duration::from_secs(60));
            Self { rooms, sequence: 0, seconds: 0, event_no: 0, incarnation: 9 }
        }

        fn write(&mut self, sfu: &str, room: &str, kind: EventKind) -> Result<Option<Echo>, Refused> {
            let subject = event_subject("acme", sfu, room, SHARDS, &kind).to_string();
            let payload = event_payload(room, self.incarnation, self.event_no, kind);
            self.event_no += 1;
            self.append(subject, payload)
        }

        fn append(&mut self, subject: String, payload: Bytes) -> Result<Option<Echo>, Refused> {
            self.sequence += 1;
            let time = LogTime::from_micros(self.seconds * 1_000_000);
            self.rooms.apply(&LogEntry { sequence: self.sequence, time, subject, trace_parent: None, payload })
        }

        fn ok(&mut self, kind: EventKind) {
            self.write("sfu", "standup", kind).expect("well formed");
        }

        fn room(&self) -> &Room {
            self.rooms.get(&RoomKey { tenant: id("acme"), room: id("standup") }).expect("known")
        }
    }

    fn joined(peer: &str, is_host: bool, is_co_host: bool) -> EventKind {
        EventKind::PeerJoined { peer: id(peer), display_name: String::new(), is_host, is_co_host, is_panelist: false }
    }

    #[test]
    fn a_room_is_known_with_its_policy_people_and_tracks() {
        let mut log = Log::new();
        log.ok(room_created(Some(auto())));
        log.ok(joined("bo", false, true));
        log.ok(joined("guest", false, false));
        assert!(!log.room().had_producer);
        log.ok(producer_created());
        log.write("sfu2", "standup", joined("far", false, false)).expect("well formed");
        let room = log.room();
        assert_eq!((room.session.sequence, room.session.whole, room.had_producer), (1, true, true));
        assert_eq!((room.participants.len(), room.producers.len(), room.sfus.len()), (3, 1, 2));
        assert_eq!(room.participants[&id::<PeerId>("bo")], Role::CoHost);
        assert!(room.check_record(&id("host")).is_ok() && room.check_record(&id("bo")).is_err());
        log.ok(EventKind::ProducerClosed { track: id("cam"), reason: String::new() });
        log.ok(EventKind::PeerLeft { peer: id("guest"), reason: String::new() });
        log.ok(room_closed());
        let room = log.room();
        assert!(room.closed.is_some() && room.had_producer && room.participants.is_empty());
        // What trails behind changes nothing.
        log.ok(joined("late", true, false));
        assert!(log.room().participants.is_empty());
    }

    #[test]
    fn a_policy_update_takes_roles_away_and_an_old_one_does_not_come_back() {
        let co_hosts = Policy { who_can_record: roomreel_shared::policy::Audience::CoHost, ..Policy::default() };
        let mut log = Log::new();
        log.ok(room_created(Some(co_hosts.clone())));
        log.ok(joined("bo", false, true));
        assert!(log.room().check_record(&id("bo")).is_ok());
        log.ok(EventKind::RoomPolicyUpdated { policy: Policy { record_video: false, ..co_hosts.clone() } });
        assert!(log.room().check_record(&id("bo")).is_ok(), "it names no roles");
        let named = Policy { co_host_ids: vec![id("cy")], ..co_hosts.clone() };
        log.ok(EventKind::RoomPolicyUpdated { policy: named });
        assert!(log.room().check_record(&id("bo")).is_err() && log.room().check_record(&id("cy")).is_ok());
        // A replay of the first update, under its own number.
        log.event_no = 2;
        log.ok(EventKind::RoomPolicyUpdated { policy: co_hosts });
        assert!(log.room().check_record(&id("cy")).is_ok());
        assert_eq!(log.room().initial_policy.co_host_ids, Vec::new());
    }

    #[test]
    fn an_sfu_that_comes_back_goes_on_with_its_session_or_begins_another() {
        for (silence, recorded, same) in [(10, false, true), (61, false, false), (61, true, true)] {
            let mut log = Log::new();
            log.ok(room_created(None));
            if recorded {
                let (recording, command) = (id("01r"), "c".to_owned());
                let started =
                    EventKind::RecordingStarted { recording, command, requested_by: String::new(), from: None };
                assert!(log.write("", "standup", started).expect("well formed").is_some());
            }
            log.seconds += silence;
            (log.incarnation, log.event_no) = (10, 0);
            log.ok(room_created(None));
            assert_eq!(log.room().session.opened.incarnation == 9, same, "{silence} {recorded}");
        }
        // Another SFU joins, whenever it comes.
        let mut log = Log::new();
        log.ok(room_created(None));
        log.seconds += 1000;
        log.incarnation = 11;
        log.write("sfu2", "standup", room_created(None)).expect("well formed");
        assert_eq!(log.room().session.opened.incarnation, 9);
    }

    #[test]
    fn a_replayed_creation_does_not_open_a_closed_room() {
        let mut log = Log::new();
        log.ok(room_created(None));
        log.ok(room_closed());
        log.event_no = 0;
        log.ok(room_created(None));
        assert!(log.room().closed.is_some());
        log.event_no = 2;
        log.ok(room_created(None));
        assert!(log.room().closed.is_none());
    }

    #[test]
    fn a_room_whose_beginning_is_no_longer_in_the_log_is_known_but_not_whole() {
        let mut log = Log::new();
        log.ok(producer_created());
        assert!(!log.room().session.whole);
    }

    #[test]
    fn a_beginning_that_the_log_has_again_makes_a_room_whole() {
        let mut log = Log::new();
        log.event_no = 1;
        log.ok(producer_created());
        let sequence = log.room().session.sequence;
        log.event_no = 0;
        log.ok(room_created(Some(auto())));
        let room = log.room();
        assert!(room.session.whole && room.policy.auto_record && room.initial_policy.auto_record && room.had_producer);
        assert_eq!(room.session.opened, EventRef { incarnation: 9, event_no: 0 });
        assert_eq!(room.session.sequence, sequence, "it is read from where it is first heard of");
    }

    #[test]
    fn hostile_entries_change_nothing() {
        let mut log = Log::new();
        log.ok(room_created(None));
        let before = log.room().clone();
        let good = event_subject("acme", "sfu", "standup", SHARDS, &room_closed()).to_string();
        let control = event_subject("acme", "sfu", "standup", SHARDS, &EventKind::Tick).to_string();
        let shard = Shard::of(&id("acme"), &id("standup"), SHARDS).number();
        let misplaced = good.replace(&format!(".s{shard}."), &format!(".s{}.", (shard + 1) % SHARDS));
        let closed = event_payload("standup", 9, 1, room_closed());
        for (subject, payload, kind) in [
            ("roomreel.v1".to_owned(), closed.clone(), "subject"),
            (good.replace("acme", "ac*me"), closed.clone(), "subject"),
            (good.replace(".event", ".media.cam"), closed.clone(), "misplaced"),
            (misplaced.clone(), closed.clone(), "wrong_shard"),
            (good.clone(), event_payload("other", 9, 1, room_closed()), "wrong_room"),
            (good.clone(), event_payload("standup", 9, 1, EventKind::Tick), "wrong_writer"),
            (control, closed, "wrong_writer"),
            (good.clone(), Bytes::from_static(b"\xff\xff\xff"), "event"),
            (good.clone(), Bytes::new(), "event"),
            (good, Bytes::from(vec![0; event::MAX_EVENT_BYTES + 1]), "event"),
        ] {
            let refused = log.append(subject.clone(), payload).expect_err("hostile");
            assert_eq!(refused.kind(), kind, "{subject}: {refused}");
        }
        assert_eq!(log.room(), &before);
        let told =
            log.append(misplaced, event_payload("standup", 9, 1, room_closed())).expect_err("hostile").to_string();
        assert!(told.contains(&format!("the {SHARDS} of this cluster")), "the usual cause is named: {told}");
    }

    #[test]
    fn however_many_recordings_a_session_had_the_last_one_is_known() {
        let mut log = Log::new();
        log.ok(room_created(None));
        for n in 0..=MAX_RECORDINGS {
            let (recording, command) = (id::<RecordingId>(&format!("01r{n}")), format!("{n}"));
            let started = EventKind::RecordingStarted {
                recording: recording.clone(),
                command: command.clone(),
                requested_by: String::new(),
                from: None,
            };
            let paused = EventKind::RecordingPaused {
                recording: recording.clone(),
                command: command.clone() + "p",
                requested_by: String::new(),
            };
            let stopped = EventKind::RecordingStopped {
                recording: recording.clone(),
                command: command + "s",
                requested_by: String::new(),
                reason: StopReason::Requested,
            };
            log.ok(started);
            log.ok(paused);
            assert!(log.room().recordings.get(&recording).is_some_and(|seen| seen.paused), "{n}");
            assert!(log.room().is_recorded());
            log.ok(stopped);
        }
        assert_eq!(log.room().recordings.len(), MAX_RECORDINGS);
    }

    #[test]
    fn who_joins_with_a_role_does_not_outgrow_a_record() {
        let mut log = Log::new();
        log.ok(room_created(None));
        for n in 0..2_000 {
            log.ok(joined(&format!("{n:0190}"), false, true));
        }
        assert_eq!(log.room().participants.len(), 2_000);
        let bytes = serde_json::to_vec(&log.room().policy).expect("plain data").len();
        assert!((100 * 1024..200 * 1024).contains(&bytes), "{bytes}");
    }

    #[test]
    fn a_room_is_bounded_and_closed_ones_are_forgotten() {
        let mut log = Log::new();
        log.ok(room_created(None));
        for n in 0..MAX_MEMBERS {
            log.ok(joined(&format!("p{n}"), false, true));
        }
        let refused = log.write("sfu", "standup", joined("one more", false, false)).expect_err("full");
        assert_eq!(refused, Refused::TooMany { what: "participants in the room" });
        for n in 1..MAX_SFUS {
            log.write(&format!("sfu{n}"), "standup", EventKind::ActiveSpeaker { peer: None, level: 0 }).expect("room");
        }
        assert!(log.write("extra", "standup", room_closed()).is_err());
        log.ok(room_closed());
        for (seconds, kept) in [(3_599, true), (3_600, false)] {
            log.seconds = seconds;
            log.write("sfu", "other", room_created(None)).expect("room");
            log.rooms.forget_closed();
            assert_eq!(log.rooms.len() == 2, kept, "{seconds}");
        }
    }

    #[test]
    fn an_sfu_that_comes_back_to_a_session_whose_beginning_is_lost_begins_another() {
        let mut log = Log::new();
        log.event_no = 2;
        log.ok(joined("ann", false, false));
        (log.incarnation, log.event_no) = (10, 0);
        log.ok(room_created(Some(auto())));
        let room = log.room();
        assert!(room.session.whole && room.session.opened.incarnation == 10 && room.participants.is_empty());
    }

    #[test]
    fn a_creation_that_comes_again_opens_nothing_and_one_that_was_lost_brings_its_session_along() {
        let mut log = Log::new();
        log.ok(room_created(None));
        (log.incarnation, log.event_no) = (10, 0);
        log.write("sfu2", "standup", room_created(None)).expect("well formed");
        log.write("sfu2", "standup", room_closed()).expect("well formed");
        log.event_no = 0;
        log.write("sfu2", "standup", room_created(None)).expect("well formed");
        assert!(log.room().closed.is_some() && log.room().session.opened.incarnation == 9);

        // Of the first start only an end is left, of the second all but its creation, which its publisher writes again.
        let mut log = Log::new();
        log.event_no = 5;
        log.ok(joined("ann", false, false));
        (log.incarnation, log.event_no) = (10, 1);
        log.ok(producer_created());
        log.ok(room_closed());
        log.event_no = 0;
        log.ok(room_created(Some(auto())));
        log.ok(producer_created());
        let room = log.room();
        assert!(room.session.whole && room.session.opened.incarnation == 10 && room.had_producer);
    }

    #[test]
    fn a_beginning_that_comes_behind_the_end_makes_the_session_whole() {
        let mut log = Log::new();
        log.event_no = 2;
        log.ok(joined("ann", false, false));
        log.ok(room_closed());
        assert!(!log.room().session.whole);
        // The log lost its first events; their publisher wrote them again.
        log.event_no = 0;
        log.ok(room_created(Some(auto())));
        log.ok(producer_created());
        let room = log.room();
        assert!(room.session.whole && room.had_producer && room.policy.auto_record && room.closed.is_some());
        assert_eq!((room.session.opened, room.session.sequence), (EventRef { incarnation: 9, event_no: 0 }, 1));
        assert!(room.session.log_time <= LogTime::default(), "no later than the event that was seen first");
    }

    #[test]
    fn an_end_of_before_the_sfu_created_the_room_again_closes_nothing() {
        for silence in [2, 100] {
            let mut log = Log::new();
            log.ok(room_created(None));
            log.ok(producer_created());
            // Its end is lost, and the SFU creates the room again: in the same session, or after a while in another.
            log.seconds += silence;
            (log.incarnation, log.event_no) = (10, 0);
            log.ok(room_created(None));
            log.ok(producer_created());
            (log.incarnation, log.event_no) = (9, 2);
            log.ok(room_closed());
            assert!(log.room().closed.is_none(), "{silence}");
            (log.incarnation, log.event_no) = (10, 2);
            log.ok(room_closed());
            assert!(log.room().closed.is_some(), "{silence}");
        }
    }

    #[test]
    fn what_comes_again_of_an_earlier_session_changes_nothing() {
        let mut log = Log::new();
        let two_sessions = |log: &mut Log| {
            (log.incarnation, log.event_no) = (9, 0);
            log.ok(room_created(None));
            log.ok(joined("ann", false, false));
            log.write("sfu2", "standup", joined("far", false, false)).expect("well formed");
            log.ok(room_closed());
            (log.incarnation, log.event_no) = (10, 0);
            log.ok(room_created(None));
            log.ok(joined("bo", false, false));
        };
        two_sessions(&mut log);
        let before = log.room().clone();
        // The log is read again from its beginning, and holds the end of the first session once more behind the second.
        two_sessions(&mut log);
        assert_eq!(log.room(), &before);
        log.ok(room_closed());
        assert!(log.room().closed.is_some());
    }

    #[test]
    fn a_tenant_that_fills_its_share_takes_no_rooms_of_others() {
        let mut log = Log::new();
        log.ok(room_created(None));
        for n in 0..=MAX_ROOMS_OF_TENANT {
            log.seconds += 1;
            let kind = room_created(None);
            let subject = event_subject("flood", "sfu", &format!("r{n}"), SHARDS, &kind).to_string();
            let payload = event_payload(&format!("r{n}"), 9, 0, kind);
            log.append(subject, payload).expect("taken");
        }
        assert_eq!(log.rooms.len(), MAX_ROOMS_OF_TENANT + 1);
        assert!(log.rooms.get(&RoomKey { tenant: id("flood"), room: id("r0") }).is_none(), "it was silent for longest");
        assert!(log.room().closed.is_none());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(subject in ".{0,80}", payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut log = Log::new();
            let good = event_subject("acme", "sfu", "standup", SHARDS, &EventKind::RoomClosed { reason: String::new() });
            let _ = log.append(subject, Bytes::from(payload.clone()));
            let _ = log.append(good.to_string(), Bytes::from(payload));
        }
    }
}
