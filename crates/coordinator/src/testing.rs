//! What the tests of several modules build their worlds from.

use bytes::Bytes;
use roomreel_shared::batch::Incarnation;
use roomreel_shared::event::{Codec, CodecParameters, Encoding, EventKind, Producer, RoomEvent};
use roomreel_shared::id::{RoomId, TenantId};
use roomreel_shared::policy::{Policy, TrackKind};
use roomreel_shared::ports::NewEntry;
use roomreel_shared::rtp::{PayloadType, Ssrc};
use roomreel_shared::subject::{Address, Entry, Shard, Subject, Writer};
use roomreel_shared::time::RoomTime;

/// An id of any kind.
pub fn id<T: TryFrom<String, Error = roomreel_shared::id::Error>>(text: &str) -> T {
    T::try_from(text.to_owned()).expect("a test's id can be spelled")
}

/// A policy that records unasked.
pub fn auto() -> Policy {
    Policy { auto_record: true, ..Policy::default() }
}

/// A room opens.
pub fn room_created(policy: Option<Policy>) -> EventKind {
    EventKind::RoomCreated {
        room_name: "Stand-up".to_owned(),
        host: Some(id("host")),
        meeting_type: String::new(),
        policy,
    }
}

/// A room closes.
pub fn room_closed() -> EventKind {
    EventKind::RoomClosed { reason: "over".to_owned() }
}

/// The host's camera.
pub fn producer_created() -> EventKind {
    let codec = CodecParameters {
        payload_type: PayloadType(96),
        codec: Codec::Vp8,
        clock_rate: 90_000,
        channels: 0,
        fmtp: String::new(),
    };
    EventKind::ProducerCreated(Producer {
        track: id("cam"),
        peer: id("host"),
        kind: TrackKind::Video,
        is_audio: false,
        codecs: vec![codec],
        encodings: vec![Encoding { ssrc: Ssrc(7), rid: None, rtx_ssrc: None }],
        header_extensions: Vec::new(),
    })
}

/// Where events of a room are written: by the coordinator if they are its own, by `sfu` otherwise.
pub fn event_subject(tenant: &str, sfu: &str, room: &str, shards: u32, kind: &EventKind) -> Subject {
    let (tenant, room): (TenantId, RoomId) = (id(tenant), id(room));
    let writer = if kind.is_control() { Writer::Control } else { Writer::Sfu(id(sfu)) };
    Address { shard: Shard::of(&tenant, &room, shards), tenant, writer, room, entry: Entry::Event }.subject()
}

/// An event as its writer encodes it.
pub fn event_payload(room: &str, incarnation: u64, event_no: u64, kind: EventKind) -> Bytes {
    let incarnation = Incarnation::new(incarnation).expect("not 0");
    RoomEvent { room: id(room), incarnation, event_no, time: RoomTime::from_micros(0), kind }.encode()
}

/// An event on its way to the log, by tenant `acme` through `sfu`.
pub fn new_entry(room: &str, shards: u32, event_no: u64, kind: EventKind) -> NewEntry {
    NewEntry {
        subject: event_subject("acme", "sfu", room, shards, &kind),
        message_id: format!("{room}:{event_no}"),
        trace_parent: None,
        payload: event_payload(room, 9, event_no, kind),
    }
}
