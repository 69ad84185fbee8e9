//! What can be wrong with a capture, and where.

use roomreel_shared::id::{self, TrackId};

/// Most bytes of packets that wait for their producers to be announced.
pub(super) const MAX_EARLY_BYTES: usize = 32 * 1024 * 1024;

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
