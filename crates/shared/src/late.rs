//! A render of a recording that has ended: what is asked, in which pieces it is made, and where it stands.
//!
//! Owns the words that API, leader and compositors share. Does not own who makes which piece, nor how a slice comes about.

mod cuts;

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::cluster::FoldSpec;
use crate::composite::{self, CompositeSpec};
use crate::id::{PeerId, RecordingId};

pub use cuts::{Cuts, NotInOrder};

/// Length of a span, as whole slices: what one encoder run makes of a late render, however many nodes share it.
const SPAN: Duration = Duration::from_secs(120);
/// Most participants that are hidden.
const MAX_HIDDEN: usize = 1000;

/// What is asked for. Two asks for one composite are the same if this is equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LateSpec {
    /// Layout and encoding.
    pub composite: CompositeSpec,
    /// Where the result begins on the recording's clock, milliseconds.
    #[serde(default)]
    pub from_ms: u64,
    /// Where it ends; `None`: with the recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_ms: Option<u64>,
    /// Who is not shown; `None`: whoever was hidden in all composites while the recording ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<BTreeSet<PeerId>>,
}

impl LateSpec {
    /// Checks everything but the layout; of a recording that is `length` long.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn check(&self, length: Duration) -> Result<(), composite::Error> {
        self.composite.check()?;
        let refuse = |field, why| Err(composite::Error { field, why });
        let length_ms = u64::try_from(length.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        if let Some(to_ms) = self.to_ms.filter(|to_ms| *to_ms <= self.from_ms || *to_ms > length_ms) {
            let why = format!("{to_ms} is not between from_ms {} and the recording's length {length_ms}", self.from_ms);
            return refuse("to_ms", why);
        }
        if self.stretch(length).is_empty() {
            return refuse("from_ms", format!("{} is not before the recording's end at {length_ms}", self.from_ms));
        }
        match self.hidden.as_ref().map_or(0, BTreeSet::len) {
            0..=MAX_HIDDEN => Ok(()),
            more => refuse("hidden", format!("{more} participants are too many; at most {MAX_HIDDEN}")),
        }
    }

    /// What of a recording that is `length` long is rendered.
    #[must_use]
    pub fn stretch(&self, length: Duration) -> Range<Duration> {
        let to = self.to_ms.map_or(length, |to_ms| Duration::from_millis(to_ms).min(length));
        Duration::from_millis(self.from_ms)..to
    }
}

/// How a late render is divided. Every span is made by a decoder and an encoder run of its own that warms up in the same way, so
/// the slices come out equal whoever makes which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Division {
    /// Slices in all.
    pub slices: u64,
    /// Slices of a span; the last one may have fewer.
    pub span: u64,
}

impl Division {
    /// Of a result that is `length` long in slices of `slice` length, not 0.
    #[must_use]
    pub fn of(length: Duration, slice: Duration) -> Self {
        let slice_us = slice.as_micros().max(1);
        let length_us = length.as_micros();
        let count = |us: u128| u64::try_from(us.div_ceil(slice_us)).unwrap_or(u64::MAX);
        Self { slices: count(length_us), span: count(SPAN.as_micros()).max(1) }
    }

    /// Number of spans.
    #[must_use]
    pub fn spans(&self) -> u64 {
        self.slices.div_ceil(self.span.max(1))
    }

    /// Slices of the spans in `spans`.
    #[must_use]
    pub fn slices_of(&self, spans: Range<u64>) -> Range<u64> {
        let at = |span: u64| span.saturating_mul(self.span).min(self.slices);
        at(spans.start)..at(spans.end)
    }
}

/// A render job's share of a late render.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateJob {
    /// Begin on the recording's clock, microseconds.
    pub from_us: u64,
    /// End, microseconds.
    pub to_us: u64,
    /// What is left out between.
    #[serde(default, skip_serializing_if = "Cuts::is_empty")]
    pub cuts: Cuts,
    /// As [`LateSpec::hidden`].
    pub hidden: Option<BTreeSet<PeerId>>,
    /// Of the whole render.
    pub division: Division,
    /// What this job does.
    pub piece: Piece,
}

impl LateJob {
    /// What of the recording is rendered.
    #[must_use]
    pub fn stretch(&self) -> Range<Duration> {
        Duration::from_micros(self.from_us)..Duration::from_micros(self.to_us)
    }

    /// Length of the result.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.cuts.shown_at(Duration::from_micros(self.to_us.saturating_sub(self.from_us)))
    }
}

/// What one job of a late render does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Piece {
    /// Makes the slices of some spans.
    Spans {
        /// The first of them.
        first: u64,
        /// The one behind the last of them.
        end: u64,
    },
    /// Joins all slices to files.
    Join,
}

/// Where a late render stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum LateState {
    /// Slices are being made.
    Rendering,
    /// All slices exist; files are being made of them.
    Joining,
    /// Everything is in the bucket, and the recording lists it.
    Complete,
    /// It was given up. The recording itself is as it was.
    Failed,
}

impl LateState {
    /// Nothing more is done for it unless it is asked for again.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Complete | Self::Failed)
    }
}

/// `render.json` of a composite that was asked for late, and what the API answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LateRender {
    /// Of which recording.
    pub recording: RecordingId,
    /// What is asked.
    #[serde(flatten)]
    pub spec: LateSpec,
    /// Where it stands.
    pub state: LateState,
    /// Why it stands there, for people.
    pub reason: String,
    /// Slices of the whole.
    pub slices: u64,
    /// Slices that exist.
    pub rendered: u64,
    /// Length of the result, milliseconds.
    pub duration_ms: u64,
    /// What of the recording it shows, begin and end of each part on the recording's clock, milliseconds. More than one part if a layout's `trim`
    /// leaves pauses out.
    #[serde(default)]
    pub shown_ms: Vec<(u64, u64)>,
    /// Who asked.
    pub requested_by: String,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When it reached its final state.
    #[serde(default, with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<OffsetDateTime>,
    /// File names below the recording.
    #[serde(default)]
    pub files: Vec<String>,
}

/// A late render under way, as it stands in the coordination store. Put there by the API, then the leader's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActiveRender {
    /// As users see it.
    pub render: LateRender,
    /// The recording it is of.
    pub fold: FoldSpec,
    /// Begin and end on the recording's clock, microseconds.
    pub stretch_us: (u64, u64),
    /// What is left out between.
    #[serde(default, skip_serializing_if = "Cuts::is_empty")]
    pub cuts: Cuts,
    /// How it is divided.
    pub division: Division,
    /// Spans of one job; 0 until the leader has decided it.
    #[serde(default)]
    pub spans_per_job: u64,
    /// Jobs whose slices all exist, by their number.
    #[serde(default)]
    pub done: BTreeSet<u64>,
}

impl ActiveRender {
    /// Number of jobs that make slices.
    #[must_use]
    pub fn jobs(&self) -> u64 {
        if self.spans_per_job == 0 { 0 } else { self.division.spans().div_ceil(self.spans_per_job) }
    }

    /// What job `number` makes.
    #[must_use]
    pub fn piece(&self, number: u64) -> Piece {
        let at = |number: u64| number.saturating_mul(self.spans_per_job).min(self.division.spans());
        Piece::Spans { first: at(number), end: at(number + 1) }
    }

    /// The job's share.
    #[must_use]
    pub fn share(&self, piece: Piece) -> LateJob {
        LateJob {
            from_us: self.stretch_us.0,
            to_us: self.stretch_us.1,
            cuts: self.cuts.clone(),
            hidden: self.render.spec.hidden.clone(),
            division: self.division,
            piece,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(from_ms: u64, to_ms: Option<u64>) -> LateSpec {
        LateSpec { composite: CompositeSpec::default(), from_ms, to_ms, hidden: None }
    }

    #[test]
    fn stretches_lie_within_the_recording() {
        let length = Duration::from_micros(10_000_400);
        for (from_ms, to_ms, refused) in [
            (0, None, None),
            (9_999, None, None),
            (10_001, None, Some("from_ms")),
            (0, Some(10_001), None),
            (0, Some(10_002), Some("to_ms")),
            (5_000, Some(5_000), Some("to_ms")),
            (5_000, Some(5_001), None),
        ] {
            let checked = spec(from_ms, to_ms).check(length);
            assert_eq!(checked.err().map(|error| error.field), refused, "{from_ms} {to_ms:?}");
        }
        assert_eq!(spec(1_000, Some(10_001)).stretch(length), Duration::from_secs(1)..length);
    }

    #[test]
    fn spans_and_jobs_share_out_every_slice() {
        let stretch = Duration::from_secs(90)..Duration::from_secs(690);
        let division = Division::of(stretch.end - stretch.start, Duration::from_secs(4));
        assert_eq!((division.slices, division.span, division.spans()), (150, 30, 5));
        let mut active = ActiveRender {
            render: LateRender {
                recording: RecordingId::new("01r").expect("valid"),
                spec: spec(90_000, None),
                state: LateState::Rendering,
                reason: String::new(),
                slices: division.slices,
                rendered: 0,
                duration_ms: 600_000,
                shown_ms: vec![(90_000, 690_000)],
                requested_by: String::new(),
                created_at: OffsetDateTime::UNIX_EPOCH,
                finished_at: None,
                files: Vec::new(),
            },
            fold: FoldSpec {
                tenant: crate::id::TenantId::new("t").expect("valid"),
                room: crate::id::RoomId::new("r").expect("valid"),
                recording: RecordingId::new("01r").expect("valid"),
                shards: 1,
                from: None,
                session: None,
                beginning: None,
                start_sequence: 0,
                window_ms: 4000,
                policy: Default::default(),
                epoch_base: 0,
            },
            stretch_us: (90_000_000, 690_000_000),
            cuts: Cuts::default(),
            division,
            spans_per_job: 0,
            done: BTreeSet::new(),
        };
        assert_eq!(active.jobs(), 0);
        active.spans_per_job = 2;
        let pieces: Vec<_> = (0..active.jobs()).map(|number| active.piece(number)).collect();
        assert_eq!(pieces, [(0, 2), (2, 4), (4, 5)].map(|(first, end)| Piece::Spans { first, end }));
        assert_eq!((division.slices_of(2..4), division.slices_of(4..5)), (60..120, 120..150));
        let text = serde_json::to_string(&active).expect("JSON");
        assert_eq!(serde_json::from_str::<ActiveRender>(&text).expect("its own"), active);
    }
}
