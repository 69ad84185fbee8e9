//! What a track's fold is told and what it answers.

use std::sync::Arc;

use bytes::Bytes;
use roomreel_shared::batch::{Incarnation, RtpBatch};
use roomreel_shared::event::{Producer, PublisherGap, TrackEnd};
use roomreel_shared::rtp::{self, Ssrc};
use roomreel_shared::time::{LogTime, RoomTime};
use roomreel_shared::window::{AcceptedReason, Gap, SealedSegment, TrackKey};
use roomreel_shared::wire;

#[cfg(doc)]
use super::TrackFold;

/// A batch of the track as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrackBatch {
    /// Its place in the log.
    pub sequence: u64,
    /// When the log stored it.
    pub time: LogTime,
    /// The message.
    pub message: Bytes,
    /// What the message says.
    pub batch: RtpBatch,
    /// The log was read from the room's beginning: an incarnation that begins here began with number 0.
    pub from_zero: bool,
}

/// What a track's fold begins from.
#[derive(Debug, Clone)]
pub struct OpenTrack {
    /// Whose.
    pub key: TrackKey,
    /// What earlier windows left.
    pub state: wire::TrackState,
    /// What becomes of its packets at first.
    pub admission: Admission,
    /// Log time at which it begins.
    pub now: LogTime,
}

/// What becomes of the track's packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The recording has not begun: numbers are followed, nothing is stored or declared.
    NotRecording,
    /// What the track is has not been said: packets wait for it, and after a while are stored if policy allows all kinds.
    Undecided {
        /// Policy allows whatever it may be.
        store: bool,
    },
    /// They are stored.
    Store,
    /// They are accounted for and not stored (I8).
    Refuse(AcceptedReason),
}

/// What a [`TrackFold`] is told, in log order.
#[derive(Debug, Clone)]
pub enum TrackInput {
    /// The next batch.
    Batch(Arc<TrackBatch>),
    /// A batch that cannot be folded: its number is spent, its packets are declared damaged.
    Poisoned(Arc<TrackBatch>),
    /// What the track is.
    Producer(Arc<Producer>),
    /// Where a numbering ends, by the publisher's word.
    Ends {
        /// The numbers.
        end: TrackEnd,
        /// Room time of that word.
        time: RoomTime,
        /// As [`TrackBatch::from_zero`], should it be the first of its numbering.
        from_zero: bool,
    },
    /// The publisher closed the track.
    Closed,
    /// The publisher stopped without closing the track: what it held last is not known.
    Abandoned {
        /// Numberings that began later are another start's.
        before: LogTime,
    },
    /// Where a numbering of the track stood that was dropped, of which more comes now.
    Past(wire::PastNumbering),
    /// The publisher dropped packets.
    PublisherGap {
        /// Which.
        gap: PublisherGap,
        /// Room time of that word.
        time: RoomTime,
    },
    /// What becomes of packets from here on.
    Admission(Admission),
    /// Log time has moved on to this.
    Clock(LogTime),
    /// The recording ends here: of what follows, only numbers below those seen are taken.
    End {
        /// The publisher goes on and says of itself nothing here: its next batch, up to this log time, tells whether the log
        /// lost the last ones of before the end.
        until: Option<LogTime>,
    },
    /// The window ends here. `last`: so does the recording; nothing is waited for.
    Seal {
        /// The recording ends.
        last: bool,
    },
}

/// What a [`TrackFold`] asks for or answers.
#[derive(Debug, Clone, PartialEq)]
pub enum TrackOutput {
    /// Ask the SFU to publish these batches again.
    RequestReplay {
        /// By whose numbers.
        incarnation: Incarnation,
        /// Batch numbers.
        ranges: Vec<wire::NumberRange>,
        /// Counts the requests for them, from 1.
        attempt: u32,
    },
    /// Ask the SFU for a key frame.
    RequestKeyframe {
        /// The layer; `None`: all.
        ssrc: Option<Ssrc>,
    },
    /// Answers [`TrackInput::End`], and says later that nothing is missing any more.
    Ended {
        /// Nothing is missing.
        complete: bool,
    },
    /// Answers [`TrackInput::Seal`].
    Sealed(Box<SealedTrack>),
}

/// A track's part of a window.
#[derive(Debug, Clone, PartialEq)]
pub struct SealedTrack {
    /// Its packets, if there are any.
    pub segment: Option<SealedSegment>,
    /// What is missing of it.
    pub gaps: Vec<Gap>,
    /// What the next window's fold starts from; without what the room knows of the track.
    pub state: wire::TrackState,
    /// Batches that wait for earlier ones, and go into a later window.
    pub held: Vec<Arc<TrackBatch>>,
    /// What a gap of the log stands for will be taken no more, should it come.
    pub has_lost: bool,
    /// Figures for metrics.
    pub counts: Counts,
    /// What is wrong with the first packet that is not valid RTP.
    pub invalid: Option<rtp::Error>,
}

/// What happened in a window, in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets stored.
    pub packets: u64,
    /// Bytes stored.
    pub bytes: u64,
    /// Packets stored that are not valid RTP.
    pub invalid_packets: u64,
    /// Batches that had come before.
    pub duplicate_batches: u64,
    /// Batches that came after their gap was declared.
    pub late_batches: u64,
    /// Events of SFUs that were given up.
    pub lost_events: u64,
}

impl Counts {
    /// Adds another track's.
    pub fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.invalid_packets += other.invalid_packets;
        self.duplicate_batches += other.duplicate_batches;
        self.late_batches += other.late_batches;
        self.lost_events += other.lost_events;
    }
}
