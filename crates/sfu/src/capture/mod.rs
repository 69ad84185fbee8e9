//! A capture of a real room as a source: packets from pcap, pcapng or rtpdump, events from the JSON lines beside it.
//!
//! Owns the merge of both in the order of time. Packets that came before their producer was announced are delivered right
//! after the announcement, with their own receive times. `RoomClosed` is delivered last. A capture is read twice: once to
//! learn its streams, once to play it; it is never held in memory.

mod error;
mod events;
mod frames;
mod link;
mod player;
mod speakers;
mod survey;
mod tracks;

use roomreel_shared::id::RoomId;
use roomreel_shared::policy::Policy;

use self::error::MAX_EARLY_BYTES;

pub use self::error::Error;
pub use self::player::Capture;
pub use self::survey::{Summary, TrackSummary, UnknownStream};

/// How a capture is played.
#[derive(Debug, Clone, Default)]
pub struct CaptureOptions {
    /// Another room id than the capture's own.
    pub room: Option<RoomId>,
    /// The room's recording policy; `None`: the default with `auto_record`.
    pub policy: Option<Policy>,
}
