//! A capture of a real room as a source: packets from pcap, pcapng or rtpdump, events from the JSON lines beside it.
//!
//! Owns the merge of both in the order of time. Packets that came before their producer was announced are delivered right
//! after the announcement, with their own receive times. `RoomClosed` is delivered last. A capture is read twice: once to
//! learn its streams, once to play it; it is never held in memory.

mod events;
mod frames;
mod link;
mod player;
mod speakers;
mod survey;
mod tracks;

use roomreel_shared::id::{self, RoomId, TrackId};
use roomreel_shared::policy::Policy;

pub use self::player::Capture;
pub use self::survey::{Summary, TrackSummary, UnknownStream};

/// Most bytes of packets that wait for their producers to be announced.
const MAX_EARLY_BYTES: usize = 32 * 1024 * 1024;

/// Why a capture, or a part of it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there or may not be read.
    #[error("{path} cannot be opened: {source}")]
    Open {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file system failed.
    #[error("{path} cannot be read: {source}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// None of the formats.
    #[error("{path} is not a pcap, pcapng or rtpdump file: it begins with {found}")]
    Format {
        /// The file.
        path: String,
        /// In hexadecimal.
        found: String,
    },
    /// The file ends too early. What was before it counts.
    #[error(
        "{path} is cut off at byte {offset}, inside a {what}; everything before it is used. If it should be longer, copy it again"
    )]
    CutOff {
        /// The file.
        path: String,
        /// Where the incomplete part begins.
        offset: u64,
        /// What is incomplete.
        what: &'static str,
    },
    /// The file holds what cannot be. What was before it counts.
    #[error("{path} is damaged before byte {offset}: {why}; everything before it is used")]
    Damaged {
        /// The file.
        path: String,
        /// Near which byte.
        offset: u64,
        /// What cannot be.
        why: String,
    },
    /// A line of the events cannot be used; the others count.
    #[error("{path}, line {line}: {why}; the line is left out")]
    Event {
        /// The file.
        path: String,
        /// From 1.
        line: usize,
        /// Why.
        why: String,
    },
    /// An id of the events cannot be spelled.
    #[error("{path}: {source}")]
    Id {
        /// The file.
        path: String,
        /// Which, and why.
        source: id::Error,
    },
    /// The events announce nothing that packets could belong to.
    #[error("{path} announces no producer; are these the events of this capture?")]
    NoProducers {
        /// The file.
        path: String,
    },
    /// More came before the announcement of its producer than is kept.
    #[error(
        "packet of track {track} came before its producer was announced, and {MAX_EARLY_BYTES} bytes wait already; it is left out"
    )]
    TooEarly {
        /// The track.
        track: TrackId,
    },
}

/// How a capture is played.
#[derive(Debug, Clone, Default)]
pub struct CaptureOptions {
    /// Another room id than the capture's own.
    pub room: Option<RoomId>,
    /// The room's recording policy; `None`: the default with `auto_record`.
    pub policy: Option<Policy>,
}
