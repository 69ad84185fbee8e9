//! Every subject of the broker, built and read in one place.
//!
//! ```text
//! roomreel.v1.s{shard}.{tenant}.{sfu}.{room}.media.{track}   RtpBatch
//! roomreel.v1.s{shard}.{tenant}.{sfu}.{room}.event           RoomEvent of an SFU
//! roomreel.v1.s{shard}.{tenant}.=control.{room}.event        RoomEvent of the coordinator
//! roomreel.v1.back.{tenant}.{sfu}.{room}                     BackChannel       (core NATS)
//! roomreel.v1.registry.{tenant}.{sfu}                        SfuHeartbeat      (core NATS)
//! roomreel.v1.sfu.{tenant}.{sfu}.command                     SfuCommand        (core NATS, request/reply)
//! roomreel.v1.committed.{recording}                          a window was committed: a hint to renderers (core NATS)
//! ```

use std::fmt;

use crate::id::{self, RecordingId, RoomId, SfuId, TenantId, TrackId};

/// Stands where an SFU's token stands; no id can be spelled so.
const CONTROL: &str = "=control";
const PREFIX: &str = "roomreel.v1";

/// A subject that was built by this module, safe to publish to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subject(String);

impl Subject {
    /// The subject as the broker knows it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pattern over subjects, safe to subscribe to and to filter a consumer by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Filter(String);

impl Filter {
    /// The pattern as the broker knows it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the broker would deliver `subject` to this filter (`*` is one token, a last `>` one or more).
    #[must_use]
    pub fn matches(&self, subject: &str) -> bool {
        let mut subject = subject.split('.');
        for pattern in self.0.split('.') {
            match (pattern, subject.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (pattern, Some(token)) if pattern == token => {}
                _ => return false,
            }
        }
        subject.next().is_none()
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which of the cluster's streams holds a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard(u32);

impl Shard {
    /// The shard of a room: FNV-1a 64 of tenant token, a zero byte and room token, modulo the shard count.
    ///
    /// # Panics
    /// If `shards` is 0.
    #[must_use]
    pub fn of(tenant: &TenantId, room: &RoomId, shards: u32) -> Self {
        let (tenant, room) = (tenant.token(), room.token());
        let bytes = tenant.as_str().bytes().chain([0]).chain(room.as_str().bytes());
        let hash =
            bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self((hash % u64::from(shards)) as u32)
    }

    /// All shards of a cluster.
    pub fn all(shards: u32) -> impl Iterator<Item = Self> {
        (0..shards).map(Self)
    }

    /// The name of the stream that holds this shard.
    #[must_use]
    pub fn stream_name(self) -> String {
        format!("roomreel-v1-s{}", self.0)
    }

    /// What that stream captures.
    #[must_use]
    pub fn stream_filter(self) -> Filter {
        Filter(format!("{PREFIX}.s{}.>", self.0))
    }

    /// Its number, from 0.
    #[must_use]
    pub fn number(self) -> u32 {
        self.0
    }
}

/// Who wrote an entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Writer {
    /// An SFU's publisher.
    Sfu(SfuId),
    /// The coordinator.
    Control,
}

impl Writer {
    /// The SFU, if it was one.
    #[must_use]
    pub fn sfu(&self) -> Option<&SfuId> {
        match self {
            Self::Sfu(sfu) => Some(sfu),
            Self::Control => None,
        }
    }
}

/// What kind of entry a log subject carries.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Entry {
    /// An `RtpBatch` of this track.
    Media(TrackId),
    /// A `RoomEvent`.
    Event,
}

/// The address of a log entry: what a log subject says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The stream the room lives in.
    pub shard: Shard,
    /// Whose room it is.
    pub tenant: TenantId,
    /// Who wrote the entry.
    pub writer: Writer,
    /// The room.
    pub room: RoomId,
    /// What the entry is.
    pub entry: Entry,
}

/// Why a subject is not the address of a log entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It has not the form of a log subject.
    #[error(
        "{subject:?} is not a log subject (roomreel.v1.s{{shard}}.{{tenant}}.{{sfu}}.{{room}}.event or .media.{{track}})"
    )]
    Shape {
        /// The subject.
        subject: String,
    },
    /// One of its tokens is not an encoded id.
    #[error("subject {subject:?}: {source}")]
    Id {
        /// The subject.
        subject: String,
        /// Which token, and why.
        source: id::Error,
    },
}

impl Address {
    /// Reads a log subject.
    ///
    /// # Errors
    /// [`Error::Shape`] or [`Error::Id`].
    pub fn parse(subject: &str) -> Result<Self, Error> {
        let shape = || Error::Shape { subject: subject.to_owned() };
        let id = |source| Error::Id { subject: subject.to_owned(), source };
        let rest = subject.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix(".s")).ok_or_else(shape)?;
        let mut tokens = rest.split('.');
        let mut next = || tokens.next().ok_or_else(shape);
        let number = next()?;
        // One spelling: neither `01` nor `+1` names the stream `s1`.
        let shard = number.parse().ok().filter(|_| number == "0" || !number.starts_with(['0', '+']));
        let shard = Shard(shard.ok_or_else(shape)?);
        let tenant = TenantId::from_token(next()?).map_err(id)?;
        let writer = match next()? {
            CONTROL => Writer::Control,
            token => Writer::Sfu(SfuId::from_token(token).map_err(id)?),
        };
        let room = RoomId::from_token(next()?).map_err(id)?;
        let entry = match next()? {
            "event" => Entry::Event,
            "media" => Entry::Media(TrackId::from_token(next()?).map_err(id)?),
            _ => return Err(shape()),
        };
        if tokens.next().is_some() {
            return Err(shape());
        }
        Ok(Self { shard, tenant, writer, room, entry })
    }

    /// The subject of this entry.
    #[must_use]
    pub fn subject(&self) -> Subject {
        let writer = match &self.writer {
            Writer::Sfu(sfu) => sfu.token().to_string(),
            Writer::Control => CONTROL.to_owned(),
        };
        let entry = match &self.entry {
            Entry::Media(track) => format!("media.{}", track.token()),
            Entry::Event => "event".to_owned(),
        };
        let (tenant, room) = (self.tenant.token(), self.room.token());
        Subject(format!("{PREFIX}.s{}.{tenant}.{writer}.{room}.{entry}", self.shard.0))
    }
}

/// All entries of one room, whoever wrote them.
#[must_use]
pub fn room_filter(shard: Shard, tenant: &TenantId, room: &RoomId) -> Filter {
    Filter(format!("{PREFIX}.s{}.{}.*.{}.>", shard.0, tenant.token(), room.token()))
}

/// All events of all rooms of one shard: what the coordinator reads.
#[must_use]
pub fn shard_events_filter(shard: Shard) -> Filter {
    Filter(format!("{PREFIX}.s{}.*.*.*.event", shard.0))
}

/// Where an SFU hears about one of its rooms.
#[must_use]
pub fn back_channel(tenant: &TenantId, sfu: &SfuId, room: &RoomId) -> Subject {
    Subject(format!("{PREFIX}.back.{}.{}.{}", tenant.token(), sfu.token(), room.token()))
}

/// Everything an SFU hears about its rooms.
#[must_use]
pub fn back_channel_filter(tenant: &TenantId, sfu: &SfuId) -> Filter {
    Filter(format!("{PREFIX}.back.{}.{}.*", tenant.token(), sfu.token()))
}

/// Where an SFU says that it is alive.
#[must_use]
pub fn registry(tenant: &TenantId, sfu: &SfuId) -> Subject {
    Subject(format!("{PREFIX}.registry.{}.{}", tenant.token(), sfu.token()))
}

/// The heartbeats of all SFUs.
#[must_use]
pub fn registry_filter() -> Filter {
    Filter(format!("{PREFIX}.registry.*.*"))
}

/// Where an SFU takes commands.
#[must_use]
pub fn command(tenant: &TenantId, sfu: &SfuId) -> Subject {
    Subject(format!("{PREFIX}.sfu.{}.{}.command", tenant.token(), sfu.token()))
}

/// The same as a subscription.
#[must_use]
pub fn command_filter(tenant: &TenantId, sfu: &SfuId) -> Filter {
    Filter(command(tenant, sfu).0)
}

/// Where a committed window is announced; the payload is the window's number in ASCII.
#[must_use]
pub fn committed(recording: &RecordingId) -> Subject {
    Subject(format!("{PREFIX}.committed.{}", recording.token()))
}

/// The same as a subscription.
#[must_use]
pub fn committed_filter(recording: &RecordingId) -> Filter {
    Filter(committed(recording).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(entry: Entry, writer: Writer) -> Address {
        let tenant = TenantId::new("acme").expect("valid");
        let room = RoomId::new("all.hands").expect("valid");
        Address { shard: Shard::of(&tenant, &room, 4), tenant, writer, room, entry }
    }

    #[test]
    fn subjects_round_trip() {
        let sfu = Writer::Sfu(SfuId::new("sfu 1").expect("valid"));
        let media = address(Entry::Media(TrackId::new("cam").expect("valid")), sfu.clone());
        assert_eq!(media.subject().as_str(), "roomreel.v1.s0.acme.sfu=201.all=2Ehands.media.cam");
        for address in [media, address(Entry::Event, sfu), address(Entry::Event, Writer::Control)] {
            assert_eq!(Address::parse(address.subject().as_str()), Ok(address));
        }
    }

    #[test]
    fn foreign_subjects_are_refused() {
        for subject in [
            "roomreel.v1.s01.acme.sfu.room.event",
            "roomreel.v1.s+1.acme.sfu.room.event",
            "roomreel.v1.s2.acme.sfu.room.media.*",
            "roomreel.v1.s2.acme.sfu.room.media",
            "roomreel.v1.s2.acme.sfu.room.event.more",
            "roomreel.v1.sx.acme.sfu.room.event",
            "roomreel.v2.s2.acme.sfu.room.event",
            "roomreel.v1.s2.acme.=other.room.event",
            "",
        ] {
            assert!(Address::parse(subject).is_err(), "{subject}");
        }
    }

    #[test]
    fn filters_match_as_the_broker_does() {
        let tenant = TenantId::new("acme").expect("valid");
        let room = RoomId::new("all.hands").expect("valid");
        let shard = Shard::of(&tenant, &room, 4);
        let of_room = room_filter(shard, &tenant, &room);
        let events = shard_events_filter(shard);
        let control = address(Entry::Event, Writer::Control).subject();
        assert!(of_room.matches(control.as_str()) && events.matches(control.as_str()));
        assert!(shard.stream_filter().matches(control.as_str()));
        assert!(!of_room.matches("roomreel.v1.s2.acme.sfu.other.event"));
        assert!(!events.matches("roomreel.v1.s2.acme.sfu.other.media.cam"));
        assert!(!of_room.matches("roomreel.v1.s2.acme.sfu.all=2Ehands"));
    }
}
