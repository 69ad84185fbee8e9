//! The window object: what a window of the room log became in the bucket (docs/formats.md).
//!
//! ```text
//! "RRWIN" 0x01 0x0D 0x0A                                  magic and version, 8 bytes
//! body: segments, one after another; a segment is a run of frames
//!   frame: length u32 LE · flags u8 (bit 0: late) · log time i64 LE, µs · RtpBatch as it stood in the log
//! footer: WindowFooter (protobuf)
//! footer length u32 LE · CRC32C of the footer u32 LE · "RRWE"   trailer, 12 bytes
//! ```
//!
//! A window is a piece of the log with an index: batches and events are stored as they were published, so nothing is
//! lost in a conversion. Owns reading and writing. Does not own what belongs into which window (the fold does).

use std::collections::BTreeSet;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::batch::{self, Incarnation, RtpBatch};
use crate::checksum;
use crate::event::{self, RoomEvent, StopReason};
use crate::id::{self, PeerId, RecordingId, RoomId, SfuId, TenantId, TrackId};
use crate::pieces::Pieces;
use crate::rtp::{RtpTimestamp, Ssrc};
use crate::subject::Writer;
use crate::time::{LogTime, RoomTime};
use crate::wire;

mod footer;

pub use footer::{FetchError, Footer};

/// Most participants that a window carries over.
pub const MAX_PARTICIPANTS: usize = 16_384;

const MAGIC: &[u8; 8] = b"RRWIN\x01\r\n";
const TRAILER_MAGIC: &[u8; 4] = b"RRWE";
const TRAILER_BYTES: usize = 12;
const FRAME_HEADER_BYTES: usize = 13;
const LATE: u8 = 1;

/// BLAKE3 of a whole window object: a link of the chain.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hash([u8; 32]);

impl Hash {
    /// Of an object's bytes.
    #[must_use]
    pub fn of(object: &[u8]) -> Self {
        Self(*blake3::hash(object).as_bytes())
    }

    /// The 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Hash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Why an object is not a window, or not a whole one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It does not begin and end like one.
    #[error("not a window object: {0}")]
    Shape(&'static str),
    /// The footer is not what was written.
    #[error("window footer has CRC32C {actual:#010x}, its trailer says {expected:#010x}")]
    FooterChecksum {
        /// As written.
        expected: u32,
        /// As computed.
        actual: u32,
    },
    /// The footer is not a message of this type.
    #[error("window footer does not decode: {0}")]
    Decode(String),
    /// A field is missing or impossible.
    #[error("window field {field}: {why}")]
    Field {
        /// Its name in `window.proto`.
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// An id cannot be spelled.
    #[error("window: {0}")]
    Id(#[from] id::Error),
    /// A stored event does not decode.
    #[error("window: {0}")]
    Event(#[from] event::Error),
    /// A segment's bytes are not what was written.
    #[error("segment of track {track} has CRC32C {actual:#010x}, the footer says {expected:#010x}")]
    SegmentChecksum {
        /// Of which track.
        track: TrackId,
        /// As written.
        expected: u32,
        /// As computed.
        actual: u32,
    },
    /// A stored batch does not decode.
    #[error("segment of track {track}: {source}")]
    Batch {
        /// Of which track.
        track: TrackId,
        /// Why.
        source: batch::Error,
    },
}

/// A track of a room: the SFU that published it and its id there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TrackKey {
    /// Who published it.
    pub sfu: SfuId,
    /// Its id at that SFU.
    pub track: TrackId,
}

/// One track's packets in a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Whose packets.
    pub key: TrackKey,
    /// Byte range in the object.
    pub range: std::ops::Range<usize>,
    /// CRC32C of that range.
    pub crc32c: u32,
    /// Batches in it.
    pub batches: u32,
    /// Packets in it.
    pub packets: u32,
    /// Packets that are not valid RTP; stored, not rendered.
    pub invalid_packets: u32,
    /// Receive time of its first packet.
    pub first_time: RoomTime,
    /// Receive time of its last packet.
    pub last_time: RoomTime,
    /// Where decoding can begin, in receive order.
    pub keyframes: Vec<Keyframe>,
    /// Batches whose absence an earlier gap had declared.
    pub late_batches: u32,
}

/// A packet that starts a picture a decoder can start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keyframe {
    /// Numbering of `packet_no`.
    pub incarnation: Incarnation,
    /// The packet.
    pub packet_no: u64,
    /// Its stream: the layer.
    pub ssrc: Ssrc,
    /// Its RTP timestamp.
    pub timestamp: RtpTimestamp,
    /// Its receive time.
    pub time: RoomTime,
}

/// A batch as the window keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBatch {
    /// When the log stored it.
    pub log_time: LogTime,
    /// It came after a gap in an earlier window had declared it missing.
    pub late: bool,
    /// The batch.
    pub batch: RtpBatch,
}

/// An event as the window keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// Who wrote it.
    pub writer: Writer,
    /// When the log stored it.
    pub log_time: LogTime,
    /// The event.
    pub event: RoomEvent,
}

/// Packets that are missing, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Of which track.
    pub key: TrackKey,
    /// By whose numbers.
    pub incarnation: Incarnation,
    /// What is missing, and why.
    pub missing: Missing,
    /// Room time around it.
    pub span: (RoomTime, RoomTime),
}

/// What a gap is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// RTP packets that never reached the SFU: inclusive extended sequence numbers of one stream.
    Network {
        /// The stream.
        ssrc: Ssrc,
        /// Inclusive.
        sequences: (u64, u64),
    },
    /// Packets that the publisher had accepted.
    Accepted {
        /// Why they are not here.
        reason: AcceptedReason,
        /// Inclusive batch numbers.
        batches: (u64, u64),
        /// Inclusive packet numbers; `None` for the end of the range if the batches' lengths are not known.
        packets: (u64, Option<u64>),
    },
}

/// Why packets that the publisher accepted are not in the recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AcceptedReason {
    /// The publisher dropped them, or stopped while it held them.
    Publisher,
    /// The log lost them and the publisher had them no longer.
    Log,
    /// Policy forbids them (I8).
    Policy,
    /// The recording was paused.
    Pause,
    /// The batch could not be read.
    Damaged,
}

impl AcceptedReason {
    /// Whether somebody asked for it: such a gap does not make a recording incomplete.
    #[must_use]
    pub fn is_intentional(self) -> bool {
        matches!(self, Self::Policy | Self::Pause)
    }
}

impl Gap {
    /// Whether accepted packets are missing that nobody asked to leave out, and that nothing will bring any more. What the log
    /// lost may still come late.
    #[must_use]
    pub fn is_for_good(&self) -> bool {
        let may_come = |reason: AcceptedReason| reason == AcceptedReason::Log || reason.is_intentional();
        matches!(self.missing, Missing::Accepted { reason, .. } if !may_come(reason))
    }
}

/// The end of a recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Final {
    /// Why.
    pub reason: StopReason,
    /// When, on the room's clock.
    pub room_end: RoomTime,
}

/// What stands in a window's footer besides segments.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Whose.
    pub tenant: TenantId,
    /// Which room.
    pub room: RoomId,
    /// Which recording.
    pub recording: RecordingId,
    /// Number of the window, from 0.
    pub window: u64,
    /// Revision of the assignment it was written under.
    pub epoch: u64,
    /// Random per writer and take-over.
    pub nonce: u64,
    /// Hash of the object before it; `None` for window 0.
    pub previous: Option<Hash>,
    /// Start and end on the log's clock.
    pub log_span: (LogTime, LogTime),
    /// Where the recording begins on the room's clock.
    pub room_start: RoomTime,
    /// The newest room time that was seen.
    pub room_seen: RoomTime,
    /// Its nominal duration in log time, microseconds.
    pub window_duration_us: u64,
    /// What is missing.
    pub gaps: Vec<Gap>,
    /// What the next window's fold starts from.
    pub carry_over: wire::CarryOver,
    /// Set in the last window.
    pub end: Option<Final>,
    /// W3C `traceparent` of the window's first sampled batch.
    pub trace_parent: Option<String>,
}

impl Header {
    /// Whether the recording, up to this window's end, lacks what a publisher accepted and nobody forbade. What came late is
    /// not lacking.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        let mut numberings = self.carry_over.tracks.iter().flat_map(|track| &track.incarnations);
        self.carry_over.has_lost
            || numberings.any(|numbering| !numbering.declared_missing.is_empty())
            || self.lacks_events()
    }

    fn lacks_events(&self) -> bool {
        self.carry_over.event_streams.iter().any(|stream| !stream.missing.is_empty())
    }

    /// Everybody who was in the room until the window's end, and whoever sent something. `None` where there may have been others:
    /// the log lost events, or there were more than are carried over.
    #[must_use]
    pub fn people(&self) -> Option<BTreeSet<PeerId>> {
        let carried = &self.carry_over;
        if self.lacks_events() || carried.participants.len() >= MAX_PARTICIPANTS {
            return None;
        }
        let joined = carried.participants.iter().map(|participant| &participant.peer_id);
        let sent = carried.tracks.iter().filter_map(|track| Some(&track.producer.as_ref()?.peer_id));
        Some(joined.chain(sent).chain(&carried.senders).filter_map(|id| PeerId::new(id.clone()).ok()).collect())
    }
}

/// A window object that was read.
#[derive(Debug, Clone)]
pub struct Window {
    /// What the footer says.
    pub header: Header,
    /// In the order of their keys.
    pub segments: Vec<Segment>,
    /// In log order.
    pub events: Vec<StoredEvent>,
    object: Bytes,
}

/// One track's frames while a window is open. Messages are held as they came.
#[derive(Debug, Default)]
pub struct SegmentFrames {
    sealed: SealedFrames,
}

impl SegmentFrames {
    /// Appends a batch as it stood in the log. It has been decoded: its body's checksum is what it says.
    ///
    /// # Panics
    /// If the message is longer than [`batch::MAX_BATCH_BYTES`], which no decoded batch is.
    pub fn push(&mut self, message: &Bytes, log_time: LogTime, late: bool) {
        assert!(message.len() <= batch::MAX_BATCH_BYTES, "a decoded batch is within the limit");
        let frame = Frame { message: message.clone(), log_time, late };
        let frames = &mut self.sealed;
        frames.crc32c = batch::append_crc32c(crc32c::crc32c_append(frames.crc32c, &frame.header()), message);
        frames.length += FRAME_HEADER_BYTES + message.len();
        frames.late += u32::from(late);
        frames.frames.push(frame);
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sealed.len()
    }

    /// Whether there is no batch yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sealed.is_empty()
    }

    /// Ends the segment.
    #[must_use]
    pub fn seal(self) -> SealedFrames {
        self.sealed
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Frame {
    message: Bytes,
    log_time: LogTime,
    late: bool,
}

impl Frame {
    fn header(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut header = [0; FRAME_HEADER_BYTES];
        let mut rest = &mut header[..];
        rest.put_u32_le(self.message.len() as u32);
        rest.put_u8(if self.late { LATE } else { 0 });
        rest.put_i64_le(self.log_time.as_micros());
        header
    }
}

/// The frames of a segment that has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SealedFrames {
    frames: Vec<Frame>,
    length: usize,
    crc32c: u32,
    late: u32,
}

impl SealedFrames {
    /// Its length in the object.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it holds no batch.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

/// A segment that has ended, with its index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSegment {
    /// Whose packets.
    pub key: TrackKey,
    /// The frames.
    pub frames: SealedFrames,
    /// Packets in them.
    pub packets: u32,
    /// Packets that are not valid RTP.
    pub invalid_packets: u32,
    /// Receive time of the first and last packet.
    pub span: (RoomTime, RoomTime),
    /// Where decoding can begin.
    pub keyframes: Vec<Keyframe>,
}

/// How much is hashed at a time: BLAKE3 works on many chunks at once, where they stand side by side and begin at a multiple of
/// their length.
const HASHED_TOGETHER: usize = 64 * 1024;
/// Messages below this are copied into the object, others stay where they are: a piece has a price too.
const COPIED_BELOW: usize = 4 * 1024;

fn is_copied(message: &Bytes) -> bool {
    message.len() < COPIED_BELOW
}

/// An object being written: what is small is copied together, what is large is a piece of its own.
struct Writing {
    pieces: Pieces,
    copied: BytesMut,
    hasher: blake3::Hasher,
    unhashed: Vec<u8>,
}

impl Writing {
    /// `copied`: bytes of what is small, all together.
    fn new(copied: usize) -> Self {
        Self {
            pieces: Pieces::default(),
            copied: BytesMut::with_capacity(copied),
            hasher: blake3::Hasher::new(),
            unhashed: Vec::with_capacity(HASHED_TOGETHER),
        }
    }

    fn copy(&mut self, bytes: &[u8]) {
        self.copied.put_slice(bytes);
        self.hash(bytes);
    }

    fn message(&mut self, message: &Bytes) {
        if is_copied(message) {
            return self.copy(message);
        }
        self.pieces.push(self.copied.split().freeze());
        self.pieces.push(message.clone());
        self.hash(message);
    }

    fn hash(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(HASHED_TOGETHER - self.unhashed.len()));
            self.unhashed.extend_from_slice(now);
            if self.unhashed.len() == HASHED_TOGETHER {
                self.hasher.update(&self.unhashed);
                self.unhashed.clear();
            }
            bytes = rest;
        }
    }

    fn end(mut self) -> (Pieces, Hash) {
        self.pieces.push(self.copied.freeze());
        self.hasher.update(&self.unhashed);
        (self.pieces, Hash(*self.hasher.finalize().as_bytes()))
    }
}

/// Writes a window object. `segments` in the order of their keys; events in log order, each as it stood in the log.
#[must_use]
pub fn encode(header: &Header, segments: &[SealedSegment], events: &[(Writer, LogTime, Bytes)]) -> Bytes {
    encode_with_hash(header, segments, events).0.joined()
}

/// The same in pieces, with the object's link of the chain.
#[must_use]
pub fn encode_with_hash(
    header: &Header,
    segments: &[SealedSegment],
    events: &[(Writer, LogTime, Bytes)],
) -> (Pieces, Hash) {
    debug_assert!(segments.is_sorted_by(|a, b| a.key < b.key), "I3: one order of segments");
    let end = end_of_object(&footer_to_wire(header, segments, events));
    let frames = || segments.iter().flat_map(|segment| &segment.frames.frames);
    let small = frames().map(|frame| &frame.message).filter(|message| is_copied(message)).map(Bytes::len);
    let copied = frames().count() * FRAME_HEADER_BYTES + small.sum::<usize>();
    let mut object = Writing::new(MAGIC.len() + copied + end.len());
    object.copy(MAGIC);
    for frame in frames() {
        object.copy(&frame.header());
        object.message(&frame.message);
    }
    object.copy(&end);
    object.end()
}

fn footer_to_wire(
    header: &Header,
    segments: &[SealedSegment],
    events: &[(Writer, LogTime, Bytes)],
) -> wire::WindowFooter {
    let mut offset = MAGIC.len() as u64;
    let segments = segments
        .iter()
        .map(|segment| {
            let begin = offset;
            offset += segment.frames.len() as u64;
            wire::Segment {
                sfu_id: segment.key.sfu.to_string(),
                track_id: segment.key.track.to_string(),
                offset: begin,
                length: segment.frames.len() as u64,
                crc32c: segment.frames.crc32c,
                batches: u32::try_from(segment.frames.frames.len()).unwrap_or(u32::MAX),
                packets: segment.packets,
                invalid_packets: segment.invalid_packets,
                first_time_us: segment.span.0.as_micros(),
                last_time_us: segment.span.1.as_micros(),
                keyframes: segment
                    .keyframes
                    .iter()
                    .map(|keyframe| wire::Keyframe {
                        incarnation: keyframe.incarnation.get(),
                        packet_no: keyframe.packet_no,
                        ssrc: keyframe.ssrc.0,
                        rtp_timestamp: keyframe.timestamp.0,
                        time_us: keyframe.time.as_micros(),
                    })
                    .collect(),
                late_batches: segment.frames.late,
            }
        })
        .collect();
    wire::WindowFooter {
        tenant_id: header.tenant.to_string(),
        room_id: header.room.to_string(),
        recording_id: header.recording.to_string(),
        window: header.window,
        epoch: header.epoch,
        nonce: header.nonce,
        previous_hash: header.previous.map(|hash| hash.0.to_vec()).unwrap_or_default(),
        log_start_us: header.log_span.0.as_micros(),
        log_end_us: header.log_span.1.as_micros(),
        room_start_us: header.room_start.as_micros(),
        room_seen_us: header.room_seen.as_micros(),
        segments,
        events: events
            .iter()
            .map(|(writer, log_time, event)| wire::StoredEvent {
                sfu_id: writer.sfu().map(ToString::to_string).unwrap_or_default(),
                log_time_us: log_time.as_micros(),
                event: event.clone(),
            })
            .collect(),
        gaps: header.gaps.iter().map(gap_to_wire).collect(),
        carry_over: Some(header.carry_over.clone()),
        r#final: header
            .end
            .map(|end| wire::FinalMark { reason: end.reason.to_wire().into(), room_end_us: end.room_end.as_micros() }),
        window_duration_us: i64::try_from(header.window_duration_us).unwrap_or(i64::MAX),
        traceparent: header.trace_parent.clone().unwrap_or_default(),
    }
}

/// Footer and trailer: an object's end.
fn end_of_object(footer: &wire::WindowFooter) -> Vec<u8> {
    let mut end = footer.encode_to_vec();
    let (length, crc32c) = (end.len(), checksum::crc32c(&end));
    end.put_u32_le(u32::try_from(length).expect("a footer is far below 4 GiB"));
    end.put_u32_le(crc32c);
    end.put_slice(TRAILER_MAGIC);
    end
}

impl Window {
    /// Reads an object. Segments are checked when they are read.
    ///
    /// # Errors
    /// Any [`Error`] but those of segments.
    pub fn parse(object: Bytes) -> Result<Self, Error> {
        if !object.starts_with(MAGIC) {
            return Err(Error::Shape("it does not begin with the magic of version 1"));
        }
        let (footer, footer_length) = footer::read(&object.slice(MAGIC.len()..))?;
        let footer_at = object.len() - footer_length;
        let segments =
            footer.segments.iter().map(|segment| segment_from_wire(segment, footer_at)).collect::<Result<_, _>>()?;
        let events = footer
            .events
            .iter()
            .map(|stored| {
                Ok(StoredEvent {
                    writer: match stored.sfu_id.as_str() {
                        "" => Writer::Control,
                        sfu => Writer::Sfu(SfuId::new(sfu)?),
                    },
                    log_time: LogTime::from_micros(stored.log_time_us),
                    event: RoomEvent::decode(stored.event.clone())?,
                })
            })
            .collect::<Result<_, Error>>()?;
        let header = header_from_wire(footer)?;
        Ok(Self { header, segments, events, object })
    }

    /// Its link of the chain.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(&self.object)
    }

    /// The object's bytes.
    #[must_use]
    pub fn object(&self) -> &Bytes {
        &self.object
    }

    /// The batches of a segment of this window, in the order they were folded.
    ///
    /// # Errors
    /// [`Error::SegmentChecksum`]; the iterator's items say which batches do not decode.
    pub fn batches<'a>(
        &self,
        segment: &'a Segment,
    ) -> Result<impl Iterator<Item = Result<StoredBatch, Error>> + use<'a>, Error> {
        let mut rest = self.object.slice(segment.range.clone());
        let actual = checksum::crc32c(&rest);
        if actual != segment.crc32c {
            let track = segment.key.track.clone();
            return Err(Error::SegmentChecksum { track, expected: segment.crc32c, actual });
        }
        Ok(std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            if rest.len() < FRAME_HEADER_BYTES {
                rest.clear();
                return Some(Err(Error::Shape("a segment ends within a frame header")));
            }
            let length = rest.get_u32_le() as usize;
            let flags = rest.get_u8();
            let log_time = LogTime::from_micros(rest.get_i64_le());
            if rest.len() < length {
                rest.clear();
                return Some(Err(Error::Shape("a segment ends within a frame")));
            }
            let batch = RtpBatch::decode(rest.split_to(length));
            Some(match batch {
                Ok(batch) => Ok(StoredBatch { log_time, late: flags & LATE != 0, batch }),
                Err(source) => Err(Error::Batch { track: segment.key.track.clone(), source }),
            })
        }))
    }
}

fn field(field: &'static str, why: &'static str) -> Error {
    Error::Field { field, why }
}

fn track_key(sfu: &str, track: &str) -> Result<TrackKey, Error> {
    Ok(TrackKey { sfu: SfuId::new(sfu)?, track: TrackId::new(track)? })
}

fn incarnation(value: u64) -> Result<Incarnation, Error> {
    Incarnation::new(value).ok_or(field("incarnation", "it is 0"))
}

fn segment_from_wire(wire: &wire::Segment, body_end: usize) -> Result<Segment, Error> {
    let start = usize::try_from(wire.offset).ok().filter(|start| *start >= MAGIC.len());
    let range = start
        .and_then(|start| Some(start..start.checked_add(usize::try_from(wire.length).ok()?)?))
        .filter(|range| range.end <= body_end)
        .ok_or(field("segments.offset", "the range is not within the body"))?;
    Ok(Segment {
        key: track_key(&wire.sfu_id, &wire.track_id)?,
        range,
        crc32c: wire.crc32c,
        batches: wire.batches,
        packets: wire.packets,
        invalid_packets: wire.invalid_packets,
        first_time: RoomTime::from_micros(wire.first_time_us),
        last_time: RoomTime::from_micros(wire.last_time_us),
        keyframes: wire
            .keyframes
            .iter()
            .map(|keyframe| {
                Ok(Keyframe {
                    incarnation: incarnation(keyframe.incarnation)?,
                    packet_no: keyframe.packet_no,
                    ssrc: Ssrc(keyframe.ssrc),
                    timestamp: RtpTimestamp(keyframe.rtp_timestamp),
                    time: RoomTime::from_micros(keyframe.time_us),
                })
            })
            .collect::<Result<_, Error>>()?,
        late_batches: wire.late_batches,
    })
}

fn header_from_wire(footer: wire::WindowFooter) -> Result<Header, Error> {
    let previous = match (footer.window, footer.previous_hash.as_slice()) {
        (0, []) => None,
        (0, _) => return Err(field("previous_hash", "window 0 has none")),
        (_, hash) => Some(Hash(hash.try_into().map_err(|_| field("previous_hash", "it is not 32 bytes long"))?)),
    };
    Ok(Header {
        tenant: TenantId::new(footer.tenant_id)?,
        room: RoomId::new(footer.room_id)?,
        recording: RecordingId::new(footer.recording_id)?,
        window: footer.window,
        epoch: footer.epoch,
        nonce: footer.nonce,
        previous,
        log_span: (LogTime::from_micros(footer.log_start_us), LogTime::from_micros(footer.log_end_us)),
        room_start: RoomTime::from_micros(footer.room_start_us),
        room_seen: RoomTime::from_micros(footer.room_seen_us),
        window_duration_us: footer.window_duration_us.max(0).unsigned_abs(),
        gaps: footer.gaps.iter().map(gap_from_wire).collect::<Result<_, _>>()?,
        carry_over: footer.carry_over.ok_or(field("carry_over", "it is not set"))?,
        end: footer.r#final.map(|end| Final {
            reason: StopReason::from_wire(end.reason()),
            room_end: RoomTime::from_micros(end.room_end_us),
        }),
        trace_parent: Some(footer.traceparent).filter(|parent| !parent.is_empty()),
    })
}

fn gap_to_wire(gap: &Gap) -> wire::Gap {
    let mut wire = wire::Gap {
        sfu_id: gap.key.sfu.to_string(),
        track_id: gap.key.track.to_string(),
        incarnation: gap.incarnation.get(),
        from_time_us: gap.span.0.as_micros(),
        to_time_us: gap.span.1.as_micros(),
        ..Default::default()
    };
    match &gap.missing {
        Missing::Network { ssrc, sequences } => {
            wire.set_reason(wire::GapReason::Network);
            wire.ssrc = ssrc.0;
            (wire.first_sequence, wire.last_sequence) = *sequences;
        }
        Missing::Accepted { reason, batches, packets } => {
            wire.set_reason(match reason {
                AcceptedReason::Publisher => wire::GapReason::Publisher,
                AcceptedReason::Log => wire::GapReason::Log,
                AcceptedReason::Policy => wire::GapReason::Policy,
                AcceptedReason::Pause => wire::GapReason::Pause,
                AcceptedReason::Damaged => wire::GapReason::Damaged,
            });
            (wire.first_batch_no, wire.last_batch_no) = *batches;
            wire.first_packet_no = packets.0;
            wire.last_packet_no = packets.1.unwrap_or(packets.0);
            wire.packets_unknown = packets.1.is_none();
        }
    }
    wire
}

fn gap_from_wire(wire: &wire::Gap) -> Result<Gap, Error> {
    let accepted = |reason| Missing::Accepted {
        reason,
        batches: (wire.first_batch_no, wire.last_batch_no),
        packets: (wire.first_packet_no, (!wire.packets_unknown).then_some(wire.last_packet_no)),
    };
    Ok(Gap {
        key: track_key(&wire.sfu_id, &wire.track_id)?,
        incarnation: incarnation(wire.incarnation)?,
        missing: match wire.reason() {
            wire::GapReason::Unspecified => return Err(field("gaps.reason", "it is not set")),
            wire::GapReason::Network => {
                Missing::Network { ssrc: Ssrc(wire.ssrc), sequences: (wire.first_sequence, wire.last_sequence) }
            }
            wire::GapReason::Publisher => accepted(AcceptedReason::Publisher),
            wire::GapReason::Log => accepted(AcceptedReason::Log),
            wire::GapReason::Policy => accepted(AcceptedReason::Policy),
            wire::GapReason::Pause => accepted(AcceptedReason::Pause),
            wire::GapReason::Damaged => accepted(AcceptedReason::Damaged),
        },
        span: (RoomTime::from_micros(wire.from_time_us), RoomTime::from_micros(wire.to_time_us)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{Packet, PacketData};
    use crate::event::EventKind;

    fn incarnation() -> Incarnation {
        Incarnation::new(7).expect("not 0")
    }

    fn key() -> TrackKey {
        track_key("sfu", "cam").expect("valid")
    }

    fn batch(batch_no: u64) -> RtpBatch {
        RtpBatch {
            room: RoomId::new("standup").expect("valid"),
            track: key().track,
            incarnation: incarnation(),
            batch_no,
            first_packet_no: batch_no,
            packets: vec![Packet {
                time: RoomTime::from_micros(50),
                data: PacketData::Rtp(Bytes::from_static(b"packet")),
            }],
        }
    }

    fn header() -> Header {
        Header {
            tenant: TenantId::new("acme").expect("valid"),
            room: RoomId::new("standup").expect("valid"),
            recording: RecordingId::new("01r").expect("valid"),
            window: 1,
            epoch: 4,
            nonce: 5,
            previous: Some(Hash::of(b"before")),
            log_span: (LogTime::from_micros(10), LogTime::from_micros(20)),
            room_start: RoomTime::from_micros(1),
            room_seen: RoomTime::from_micros(2),
            window_duration_us: 4_000_000,
            gaps: vec![
                Gap {
                    key: key(),
                    incarnation: incarnation(),
                    missing: Missing::Network { ssrc: Ssrc(3), sequences: (65_540, 65_541) },
                    span: (RoomTime::from_micros(1), RoomTime::from_micros(2)),
                },
                Gap {
                    key: key(),
                    incarnation: incarnation(),
                    missing: Missing::Accepted { reason: AcceptedReason::Log, batches: (2, 3), packets: (9, None) },
                    span: (RoomTime::from_micros(1), RoomTime::from_micros(2)),
                },
            ],
            carry_over: wire::CarryOver { log_sequence: 12, ..Default::default() },
            end: Some(Final { reason: StopReason::RoomClosed, room_end: RoomTime::from_micros(99) }),
            trace_parent: None,
        }
    }

    fn object() -> Bytes {
        object_of(&header())
    }

    fn object_of(header: &Header) -> Bytes {
        let mut frames = SegmentFrames::default();
        frames.push(&batch(0).encode(), LogTime::from_micros(11), false);
        frames.push(&batch(1).encode(), LogTime::from_micros(12), true);
        let segment = SealedSegment {
            key: key(),
            frames: frames.seal(),
            packets: 2,
            invalid_packets: 1,
            span: (RoomTime::from_micros(50), RoomTime::from_micros(50)),
            keyframes: vec![Keyframe {
                incarnation: incarnation(),
                packet_no: 0,
                ssrc: Ssrc(3),
                timestamp: RtpTimestamp(4),
                time: RoomTime::from_micros(50),
            }],
        };
        let event = RoomEvent {
            room: header.room.clone(),
            incarnation: incarnation(),
            event_no: 0,
            time: RoomTime::from_micros(3),
            kind: EventKind::Tick,
        };
        encode(header, &[segment], &[(Writer::Control, LogTime::from_micros(13), event.encode())])
    }

    #[test]
    fn windows_round_trip() {
        let window = Window::parse(object()).expect("whole");
        assert_eq!(window.header, header());
        assert_eq!(window.events[0].event.kind, EventKind::Tick);
        let batches: Vec<_> = window.batches(&window.segments[0]).expect("whole").map(|b| b.expect("whole")).collect();
        assert_eq!(batches.iter().map(|b| b.late).collect::<Vec<_>>(), [false, true]);
        assert_eq!(batches[1].batch, batch(1));
        assert_eq!(window.segments[0].late_batches, 1);
    }

    #[test]
    fn a_window_is_hashed_as_it_is_written() {
        let long = |batch_no| RtpBatch {
            packets: vec![Packet { time: RoomTime::default(), data: PacketData::Rtp(vec![9; 30_000].into()) }],
            ..batch(batch_no)
        };
        for batches in [0, 1, 5, 11] {
            let mut frames = SegmentFrames::default();
            (0..batches).for_each(|number| frames.push(&long(number).encode(), LogTime::default(), false));
            let segment = SealedSegment {
                key: key(),
                frames: frames.seal(),
                packets: 0,
                invalid_packets: 0,
                span: Default::default(),
                keyframes: Vec::new(),
            };
            let (pieces, hash) = encode_with_hash(&header(), &[segment], &[]);
            let object = pieces.joined();
            assert_eq!((hash, object.len()), (Hash::of(&object), pieces.len()));
            let window = Window::parse(object).expect("whole");
            assert_eq!(window.batches(&window.segments[0]).expect("whole").count() as u64, batches);
        }
    }

    #[test]
    fn a_window_tells_who_was_there() {
        let state = |id: &str| wire::ParticipantState { peer_id: id.to_owned(), ..Default::default() };
        let track = |id: &str| {
            let producer = Some(wire::ProducerCreated { peer_id: id.to_owned(), ..Default::default() });
            wire::TrackState { producer, ..Default::default() }
        };
        let mut header = header();
        header.carry_over.participants = vec![state("amara"), state(""), state("bo")];
        header.carry_over.tracks = vec![track("bo"), track("screenshare-bo"), wire::TrackState::default()];
        let people = |header: &Header| Some(header.people()?.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(people(&header), Some(["amara", "bo", "screenshare-bo"].map(str::to_owned).to_vec()));
        let lost = wire::EventStreamState { missing: vec![Default::default()], ..Default::default() };
        let lossy = Header {
            carry_over: wire::CarryOver { event_streams: vec![lost], ..header.carry_over.clone() },
            ..header.clone()
        };
        assert_eq!(people(&lossy), None);
        header.carry_over.participants = vec![state("amara"); MAX_PARTICIPANTS];
        assert_eq!(people(&header), None);
    }

    #[test]
    fn a_footer_alone_tells_of_the_window() {
        let object = object();
        let length = Footer::length(&object).expect("whole");
        let tail = object.slice(object.len() - length as usize..);
        let footer = Footer::parse(&tail, object.len() as u64).expect("whole");
        let whole = Window::parse(object.clone()).expect("whole");
        let packets = |window: &Window| window.batches(&window.segments[0]).expect("whole").count();
        assert_eq!((&footer.window().header, &footer.window().events), (&whole.header, &whole.events));
        assert_eq!((footer.window().segments[0].packets, packets(footer.window())), (2, 0));
        assert!(Footer::parse(&tail, length).is_err(), "a range beyond the object");
        assert!(Footer::parse(&tail.slice(1..), object.len() as u64).is_err());
        let range = footer.range(0).expect("a segment");
        let media = object.slice(range.start as usize..range.end as usize);
        let with_media = Window::parse(footer.with_media(&[(0, media)].into())).expect("whole");
        assert_eq!(packets(&with_media), 2);
        let events = Window::parse(footer.events_only()).expect("whole");
        assert_eq!((events.events.len(), events.header.carry_over.log_sequence), (1, 0));
    }

    #[test]
    fn a_trace_round_trips() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let traced = Header { trace_parent: Some(parent.to_owned()), ..header() };
        assert_eq!(Window::parse(object_of(&traced)).expect("whole").header, traced);
    }

    #[test]
    fn golden_bytes() {
        let hex: String = object().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, include_str!("../../../proto/golden/window_v1.hex").trim());
    }

    #[test]
    fn every_cut_and_every_flip_is_noticed() {
        let object = object();
        for length in 0..object.len() {
            assert!(Window::parse(object.slice(..length)).is_err(), "cut to {length}");
        }
        for at in 0..object.len() {
            let mut flipped = object.to_vec();
            flipped[at] ^= 0x10;
            let sound = Window::parse(flipped.into())
                .and_then(|window| window.batches(&window.segments[0]).map(Iterator::count));
            assert!(sound.is_err(), "byte {at}");
        }
    }
}
