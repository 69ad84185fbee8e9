//! Records of the spool as bytes.
//!
//! ```text
//! file:    "RRSPL" 0x01 0x0D 0x0A · records
//! record:  length u32 LE · CRC32C of what follows u32 LE · kind u8 · contents (length counts kind and contents)
//! kind 0:  whose spool it is: tenant, 0x00, SFU. First in every file
//! kind 1:  an RtpBatch, kind 2: a RoomEvent, as published
//! kind 3:  what need not be published any more: incarnation u64 LE · first and last number u64 LE
//! ```
//!
//! A message says itself whose it is and which number it has, so nothing stands beside it. Owns reading and writing.

use bytes::{Buf as _, BufMut as _, Bytes};
use roomreel_shared::batch::{Incarnation, MAX_BATCH_BYTES, RtpBatch};
use roomreel_shared::event::{EventKind, MAX_EVENT_BYTES, RoomEvent};
use roomreel_shared::id::{RoomId, SfuId, TenantId, TrackId};

/// How a file begins.
pub(super) const MAGIC: &[u8; 8] = b"RRSPL\x01\r\n";
/// Before a record's kind.
pub(super) const HEADER_BYTES: usize = 8;

const OWNER: u8 = 0;
const BATCH: u8 = 1;
const EVENT: u8 = 2;
const FORGOTTEN: u8 = 3;

/// What a held message is, but for its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageId {
    /// The room.
    pub room: RoomId,
    /// `None`: an event.
    pub track: Option<TrackId>,
    /// By whose numbers.
    pub incarnation: Incarnation,
    /// Batch or event number.
    pub number: u64,
    /// A batch's first and last packet number.
    pub packets: (u64, u64),
    /// It is the room's end.
    pub closes_room: bool,
}

impl MessageId {
    /// Of a message of the log; `None` if it is none.
    #[must_use]
    fn of(kind: u8, payload: &Bytes) -> Option<Self> {
        if kind == BATCH {
            let batch = RtpBatch::decode(payload.clone()).ok()?;
            return Some(Self {
                incarnation: batch.incarnation,
                number: batch.batch_no,
                packets: (batch.first_packet_no, batch.next_packet_no() - 1),
                closes_room: false,
                room: batch.room,
                track: Some(batch.track),
            });
        }
        let event = RoomEvent::decode(payload.clone()).ok().filter(|event| !event.kind.is_control())?;
        Some(Self {
            incarnation: event.incarnation,
            number: event.event_no,
            packets: (0, 0),
            closes_room: matches!(event.kind, EventKind::RoomClosed { .. }),
            room: event.room,
            track: None,
        })
    }
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Owner { tenant: String, sfu: String },
    Message(MessageId),
    Forgotten { incarnation: u64, numbers: (u64, u64) },
}

/// What stands at some place of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// A record and its length with the header.
    Record(Record, usize),
    /// A record that is damaged; the next one is behind this many bytes.
    Damaged(usize),
    /// Nothing, or what was being written when the process died.
    End,
}

fn frame(kind: u8, contents: &[&[u8]]) -> Vec<u8> {
    let length = 1 + contents.iter().map(|part| part.len()).sum::<usize>();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + length);
    bytes.put_u32_le(u32::try_from(length).expect("a message is far below 4 GiB"));
    bytes.put_u32_le(0);
    bytes.put_u8(kind);
    contents.iter().for_each(|part| bytes.put_slice(part));
    let crc32c = crc32c::crc32c(&bytes[HEADER_BYTES..]);
    bytes[4..8].copy_from_slice(&crc32c.to_le_bytes());
    bytes
}

pub(super) fn owner(tenant: &TenantId, sfu: &SfuId) -> Vec<u8> {
    frame(OWNER, &[tenant.as_str().as_bytes(), &[0], sfu.as_str().as_bytes()])
}

pub(super) fn message(is_batch: bool, payload: &[u8]) -> Vec<u8> {
    frame(if is_batch { BATCH } else { EVENT }, &[payload])
}

pub(super) fn forgotten(incarnation: u64, numbers: (u64, u64)) -> Vec<u8> {
    frame(FORGOTTEN, &[&incarnation.to_le_bytes(), &numbers.0.to_le_bytes(), &numbers.1.to_le_bytes()])
}

/// The contents of a message's record; `None` if they are not what was written.
pub(super) fn payload(record: Bytes) -> Option<Bytes> {
    let mut header = &record[..HEADER_BYTES.min(record.len())];
    if header.len() < HEADER_BYTES {
        return None;
    }
    let (length, crc32c) = (header.get_u32_le() as usize, header.get_u32_le());
    let body = record.slice(HEADER_BYTES..);
    (body.len() == length && length > 1 && crc32c::crc32c(&body) == crc32c).then(|| body.slice(1..))
}

/// Reads what `rest` of a file begins with.
pub(super) fn read(rest: &Bytes) -> Read {
    let mut header = &rest[..HEADER_BYTES.min(rest.len())];
    if header.len() < HEADER_BYTES {
        return Read::End;
    }
    let length = header.get_u32_le() as usize;
    let end = HEADER_BYTES + length;
    if length == 0 || length > 1 + MAX_BATCH_BYTES.max(MAX_EVENT_BYTES) || end > rest.len() {
        return Read::End;
    }
    let Some(contents) = payload(rest.slice(..end)) else { return Read::Damaged(end) };
    let record = match rest[HEADER_BYTES] {
        OWNER => {
            let text = std::str::from_utf8(&contents).ok().and_then(|text| text.split_once('\0'));
            text.map(|(tenant, sfu)| Record::Owner { tenant: tenant.to_owned(), sfu: sfu.to_owned() })
        }
        kind @ (BATCH | EVENT) => MessageId::of(kind, &contents).map(Record::Message),
        FORGOTTEN if contents.len() == 24 => {
            let mut contents = contents;
            let incarnation = contents.get_u64_le();
            Some(Record::Forgotten { incarnation, numbers: (contents.get_u64_le(), contents.get_u64_le()) })
        }
        _ => None,
    };
    record.map_or(Read::Damaged(end), |record| Read::Record(record, end))
}
