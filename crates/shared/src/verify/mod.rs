//! What is wrong with a recording in the bucket, in words.
//!
//! Owns the rules that objects of a recording keep among themselves: the chain of windows ([`Checker::window`]), what each
//! packet is accounted for by, composites ([`Composite`]) and documents. Pure: the caller reads the bucket. Does not know what
//! the log accepted, so it cannot tell packets that are missing at the very end of a publisher's numbering.

mod media;
mod numbers;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::Serialize;

pub use self::media::{BoxHeader, Composite, box_header, media_bytes};
use self::numbers::Numbers;
use crate::batch::Incarnation;
use crate::id::{RecordingId, RoomId, TenantId};
use crate::output::{Kind, Output};
use crate::recording::{Recording, State};
use crate::window::{AcceptedReason, Final, Gap, Hash, Missing, Segment, TrackKey, Window};

/// Findings that are told one by one; further ones are counted.
pub const MAX_FINDINGS: usize = 1000;
/// A duration on the room's clock may be told with this much less precision.
const DURATION_TOLERANCE_MS: u64 = 1;

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Area {
    /// Windows and their chain.
    Window,
    /// One track's packets in a window.
    Segment,
    /// What is missing, and whether it is declared.
    Gap,
    /// Slices, playlist and file of a composite.
    Composite,
    /// `recording.json` and the other documents.
    Document,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about.
    pub area: Area,
    /// What is wrong, for people.
    pub what: String,
}

/// Gaps of one reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Declared {
    /// Gap records.
    pub gaps: u64,
    /// Packets they are known to span.
    pub packets: u64,
}

/// What came of checking a recording.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Windows that could be read.
    pub windows: u64,
    /// Packets in them.
    pub packets: u64,
    /// The last window says that it is the last.
    pub ended: bool,
    /// Packets or events are missing that the publisher accepted and nobody asked to leave out.
    pub incomplete: bool,
    /// Events of SFUs that the log lost and nobody wrote again.
    pub missing_events: u64,
    /// What is declared missing, by reason.
    pub declared: BTreeMap<&'static str, Declared>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Findings beyond [`MAX_FINDINGS`].
    pub more_findings: u64,
}

impl Verdict {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, area: Area, what: String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { area, what });
        } else {
            self.more_findings += 1;
        }
    }
}

/// The window before.
struct Link {
    number: u64,
    hash: Hash,
    epoch: u64,
}

/// Checks a recording, window by window; keeps numbers, not media.
pub struct Checker {
    tenant: TenantId,
    room: RoomId,
    recording: RecordingId,
    verdict: Verdict,
    last: Option<Link>,
    /// Number of the window that is to come.
    next: u64,
    room_start_us: Option<i64>,
    end: Option<(u64, Final)>,
    tracks: BTreeMap<(TrackKey, Incarnation), Numbers>,
    /// A gap is for good.
    lost: bool,
}

impl Checker {
    /// Of the recording whose prefix was read.
    #[must_use]
    pub fn new(tenant: TenantId, room: RoomId, recording: RecordingId) -> Self {
        let verdict = Verdict::default();
        let (tracks, end) = (BTreeMap::new(), None);
        let lost = false;
        Self { tenant, room, recording, verdict, last: None, next: 0, room_start_us: None, end, tracks, lost }
    }

    /// Adds what the caller found itself: an object that cannot be read.
    pub fn find(&mut self, area: Area, what: impl Into<String>) {
        self.verdict.find(area, what.into());
    }

    /// Takes the object under the key of window `number`; in the order of keys.
    pub fn window(&mut self, number: u64, object: Bytes) {
        self.skip_to(number);
        self.next = number.saturating_add(1);
        let window = match Window::parse(object) {
            Ok(window) => window,
            Err(error) => return self.find(Area::Window, format!("window {number} cannot be read: {error}")),
        };
        self.verdict.windows += 1;
        self.identity(number, &window);
        self.link(number, &window);
        for segment in &window.segments {
            self.segment(number, &window, segment);
        }
        for gap in &window.header.gaps {
            self.gap(gap);
        }
        // Each window says of all so far what is missing.
        self.lost |= window.header.gaps.iter().any(Gap::is_for_good);
        self.verdict.incomplete = self.lost || window.header.is_incomplete();
        if self.lost && !window.header.is_incomplete() {
            let what = format!("window {number} says that nothing is missing for good, which gaps up to it deny");
            self.find(Area::Window, what);
        }
        let missing = window.header.carry_over.event_streams.iter().flat_map(|stream| &stream.missing);
        let missing = missing.map(|range| range.last.saturating_sub(range.first).saturating_add(1));
        self.verdict.missing_events = missing.fold(0, u64::saturating_add);
        for stored in &window.events {
            if stored.event.room != self.room {
                let found = &stored.event.room;
                self.find(Area::Window, format!("window {number} holds an event of room {found:?} (I4)"));
            }
        }
    }

    /// Windows that are not there, up to `number`.
    fn skip_to(&mut self, number: u64) {
        if number > self.next {
            let last = number - 1;
            let missing =
                if self.next == last { format!("window {last}") } else { format!("windows {} to {last}", self.next) };
            self.find(Area::Window, format!("{missing} missing, and window {number} is there (I2)"));
        }
    }

    fn identity(&mut self, number: u64, window: &Window) {
        let header = &window.header;
        if (&header.tenant, &header.room, &header.recording) != (&self.tenant, &self.room, &self.recording) {
            let (tenant, room, recording) = (&header.tenant, &header.room, &header.recording);
            let what =
                format!("window {number} is of recording {recording} of room {room:?} of tenant {tenant:?} (I4)");
            self.find(Area::Window, what);
        }
        if header.window != number {
            self.find(Area::Window, format!("window {number} says that it is window {}", header.window));
        }
        let start = header.room_start.as_micros();
        if *self.room_start_us.get_or_insert(start) != start {
            self.find(
                Area::Window,
                format!("window {number} names another start of the recording than those before it"),
            );
        }
        if header.log_span.1 < header.log_span.0 {
            self.find(Area::Window, format!("window {number} ends before it begins"));
        }
    }

    fn link(&mut self, number: u64, window: &Window) {
        let header = &window.header;
        let before = self.last.replace(Link { number, hash: window.hash(), epoch: header.epoch });
        if let Some(before) = before {
            if before.number + 1 == number && header.previous != Some(before.hash) {
                let what = format!(
                    "window {number} names another object than window {} as the one before it (I2)",
                    before.number
                );
                self.find(Area::Window, what);
            }
            if header.epoch < before.epoch {
                let what = format!(
                    "window {number} has epoch {} and window {} has {} (I7)",
                    header.epoch, before.number, before.epoch
                );
                self.find(Area::Window, what);
            }
        }
        if let Some((ended, _)) = self.end {
            self.find(Area::Window, format!("window {number} follows window {ended}, which says that it is the last"));
        }
        if let Some(end) = header.end {
            self.end = Some((number, end));
        }
    }

    fn segment(&mut self, number: u64, window: &Window, segment: &Segment) {
        let key = &segment.key;
        let place = format!("window {number}, track {}/{}", key.sfu, key.track);
        let batches = match window.batches(segment) {
            Ok(batches) => batches,
            Err(error) => return self.find(Area::Segment, format!("{place}: {error}")),
        };
        let (mut count, mut packets, mut late) = (0_u64, 0_u64, 0_u64);
        for stored in batches {
            let stored = match stored {
                Ok(stored) => stored,
                Err(error) => {
                    self.find(Area::Segment, format!("{place}: {error}"));
                    continue;
                }
            };
            count += 1;
            packets += stored.batch.packets.len() as u64;
            late += u64::from(stored.late);
            let batch = &stored.batch;
            if batch.room != self.room || batch.track != key.track {
                let (room, track) = (&batch.room, &batch.track);
                self.find(Area::Segment, format!("{place}: holds a batch of track {track:?} of room {room:?} (I4)"));
            }
            let numbers = self.tracks.entry((key.clone(), batch.incarnation)).or_default();
            if let Some((first, last)) = numbers.store(batch.first_packet_no, batch.next_packet_no() - 1) {
                let twice = format!(
                    "{place}: packets {first} to {last} of incarnation {:x} are stored twice (I1)",
                    batch.incarnation.get()
                );
                self.find(Area::Segment, twice);
            }
        }
        self.verdict.packets += packets;
        let said = (u64::from(segment.batches), u64::from(segment.packets), u64::from(segment.late_batches));
        if said != (count, packets, late) {
            let what = format!(
                "{place}: holds {count} batches ({late} late) and {packets} packets, and the footer says {} ({} late) and {}",
                said.0, said.2, said.1
            );
            self.find(Area::Segment, what);
        }
    }

    fn gap(&mut self, gap: &Gap) {
        let span = |first: u64, last: u64| last.saturating_sub(first).saturating_add(1);
        let (reason, packets) = match &gap.missing {
            Missing::Network { sequences: (first, last), .. } => ("network", span(*first, *last)),
            Missing::Accepted { reason, packets: (first, last), .. } => {
                self.tracks.entry((gap.key.clone(), gap.incarnation)).or_default().declare(*first, *last);
                (reason_name(*reason), last.map_or(0, |last| span(*first, last)))
            }
        };
        let declared = self.verdict.declared.entry(reason).or_default();
        declared.gaps += 1;
        declared.packets = declared.packets.saturating_add(packets);
    }

    /// Checks one composite.
    pub fn composite(&mut self, composite: &Composite, recording: Option<&Recording>) {
        let whole = recording.is_some_and(|recording| matches!(recording.state, State::Complete | State::LimitReached));
        let spec = recording
            .and_then(|recording| recording.composites.iter().find(|spec| spec.id.token().as_str() == composite.name));
        // Files that were not asked for, or under other names, are not looked for here.
        let has = |kind| {
            let is_usual = |output: &Output| output.kind == kind && output.name.is_none();
            whole && spec.is_none_or(|spec| spec.outputs.iter().any(is_usual))
        };
        for what in composite.check(has(Kind::Hls), has(Kind::Mp4)) {
            self.find(Area::Composite, format!("composite {}: {what}", composite.name));
        }
    }

    /// Checks `recording.json` against the windows and `names`, the objects below the recording's prefix.
    pub fn recording(&mut self, recording: &Recording, names: &BTreeSet<String>) {
        if (&recording.tenant, &recording.room, &recording.id) != (&self.tenant, &self.room, &self.recording) {
            self.find(
                Area::Document,
                format!("recording.json is of recording {} of room {:?}", recording.id, recording.room),
            );
        }
        let state = recording.state;
        if state == State::Deleted {
            return;
        }
        let kept = matches!(state, State::Complete | State::LimitReached);
        if kept && self.end.is_none() {
            self.find(Area::Document, format!("recording.json says {state:?} and no window says that it is the last"));
        }
        if state.is_final() && recording.windows.is_some_and(|windows| windows != self.next) {
            let said = recording.windows.unwrap_or_default();
            self.find(
                Area::Document,
                format!("recording.json counts {said} windows and {} are in the bucket", self.next),
            );
        }
        if state == State::Active && self.next == 0 {
            self.find(Area::Document, "recording.json says Active and there is no window".to_owned());
        }
        if state.is_final() && recording.incomplete != self.verdict.incomplete {
            let what = match self.verdict.incomplete {
                true => {
                    "the windows declare packets or events lost that were accepted, and recording.json does not say incomplete"
                }
                false => "recording.json says incomplete, and no window declares an accepted packet or event lost",
            };
            self.find(Area::Document, what.to_owned());
        }
        if let (true, Some(said), Some((_, end)), Some(start)) =
            (kept, recording.duration_ms, self.end, self.room_start_us)
        {
            let found = end.room_end.as_micros().saturating_sub(start).max(0).unsigned_abs() / 1000;
            if found.abs_diff(said) > DURATION_TOLERANCE_MS {
                self.find(Area::Document, format!("recording.json says {said} ms and the windows span {found} ms"));
            }
        }
        for file in recording.files.iter().filter(|file| !names.contains(*file)) {
            self.find(Area::Document, format!("recording.json lists {file}, which is not in the bucket"));
        }
    }

    /// Everything was given.
    #[must_use]
    pub fn finish(mut self) -> Verdict {
        self.verdict.ended = self.end.is_some();
        for ((key, incarnation), numbers) in std::mem::take(&mut self.tracks) {
            for (first, last) in numbers.unaccounted() {
                let (sfu, track, incarnation) = (&key.sfu, &key.track, incarnation.get());
                let what = format!(
                    "track {sfu}/{track}: packets {first} to {last} of incarnation {incarnation:x} are neither stored nor declared missing (I1)"
                );
                self.find(Area::Gap, what);
            }
        }
        self.verdict
    }
}

/// A reason as it is told.
#[must_use]
pub fn reason_name(reason: AcceptedReason) -> &'static str {
    match reason {
        AcceptedReason::Publisher => "publisher",
        AcceptedReason::Log => "log",
        AcceptedReason::Policy => "policy",
        AcceptedReason::Pause => "pause",
        AcceptedReason::Damaged => "damaged",
    }
}

#[cfg(test)]
mod tests;
