//! Planted bugs: mistakes that the shell around the cores, or a model, can make on purpose.
//!
//! They prove the oracles: each must be found. None of them is in a product crate; where a core would have to be wrong, what
//! goes into it or comes out of it is falsified instead.

use roomreel_ingest::room::SealedWindow;
use roomreel_shared::window::{self, Header, SealedSegment, SegmentFrames, Window};

/// A mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bug {
    /// A node that meets a window of a higher epoch goes on after it.
    NoEpochCheck,
    /// Windows are put without a condition.
    NoConditionalHeader,
    /// A successor takes over without the numbers of what is recorded.
    NoDeduplication,
    /// A damaged batch is folded.
    NoChecksum,
    /// What is missing is not asked for.
    NoReplayRequest,
    /// The watermark goes out when a window is sealed.
    WatermarkBeforeCommit,
    /// The loser of a slot goes on with its own state.
    AdoptWithoutReading,
    /// A successor reads on from where its predecessor had read to.
    ResumeFromDelivered,
    /// Gap records are left out.
    GapNotDeclared,
    /// A late batch is stored twice.
    LateBatchTwice,
    /// Another room's batch is folded.
    ForeignRoom,
    /// The publisher forgets what the broker has acknowledged.
    ForgetAtAck,
    /// A replaced owner overwrites its successor's window.
    ZombieOverwrites,
    /// A successor does not link its first window to the last one.
    NoHashLink,
    /// A create that meets an object is repeated under the next number.
    OwnWindowNotRecognized,
    /// A create without an answer counts as done.
    NoAnswerIsSuccess,
    /// A replay has the message id of the first publish.
    ReplayUnderOldId,
    /// No ticks are written: an idle room's log stands still.
    NoTicks,
    /// Two batches of a segment change places.
    OrderLost,
    /// Of the windows that wait for a commit only the newest is kept.
    OneSealedWindow,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::NoEpochCheck,
        Self::NoConditionalHeader,
        Self::NoDeduplication,
        Self::NoChecksum,
        Self::NoReplayRequest,
        Self::WatermarkBeforeCommit,
        Self::AdoptWithoutReading,
        Self::ResumeFromDelivered,
        Self::GapNotDeclared,
        Self::LateBatchTwice,
        Self::ForeignRoom,
        Self::ForgetAtAck,
        Self::ZombieOverwrites,
        Self::NoHashLink,
        Self::OwnWindowNotRecognized,
        Self::NoAnswerIsSuccess,
        Self::ReplayUnderOldId,
        Self::NoTicks,
        Self::OrderLost,
        Self::OneSealedWindow,
    ];
}

/// Writes a window anew with a falsified header or body, as a wrong fold would have.
pub(super) fn falsify(sealed: &mut SealedWindow, header: impl FnOnce(&mut Header), late_twice: bool, swap: bool) {
    let window = Window::parse(sealed.object.joined()).expect("a core's window can be read");
    header(&mut sealed.header);
    let segments: Vec<SealedSegment> = window
        .segments
        .iter()
        .map(|segment| {
            let stored = window.batches(segment).expect("whole").map(|stored| stored.expect("whole"));
            let mut batches: Vec<_> = stored.collect();
            if swap && batches.len() > 1 {
                batches.swap(0, 1);
            }
            let mut frames = SegmentFrames::default();
            for stored in batches {
                let message = stored.batch.encode();
                for _ in 0..=u8::from(late_twice && stored.late) {
                    frames.push(&message, stored.log_time, stored.late);
                }
            }
            SealedSegment {
                key: segment.key.clone(),
                frames: frames.seal(),
                packets: segment.packets,
                invalid_packets: segment.invalid_packets,
                span: (segment.first_time, segment.last_time),
                keyframes: segment.keyframes.clone(),
            }
        })
        .collect();
    let events: Vec<_> =
        window.events.iter().map(|stored| (stored.writer.clone(), stored.log_time, stored.event.encode())).collect();
    (sealed.object, sealed.hash) = window::encode_with_hash(&sealed.header, &segments, &events);
}
