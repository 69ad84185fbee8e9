//! `quality.json`: loss, freezes and other blemishes, track by track.

use std::collections::BTreeMap;

use roomreel_shared::id::CompositeId;
use roomreel_shared::policy::TrackKind;
use roomreel_shared::verify::reason_name;
use roomreel_shared::window::{Gap, Missing, TrackKey};
use serde::{Deserialize, Serialize};

use super::{SCHEMA_VERSION, kind_name};
use crate::track::{AudioQuality, VideoQuality};

/// Most notes of one render.
const MAX_NOTES: usize = 100;
/// Most tracks of one render that are told of.
const MAX_TOLD: usize = 10_000;

/// What the windows say of one track.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoredQuality {
    /// Packets in the windows, reports included.
    pub packets: u64,
    /// Those that are no RTP.
    pub invalid_packets: u64,
    /// Packets the network lost between participant and SFU.
    pub network_lost_packets: u64,
    /// Batches that came after they had been given up.
    pub late_batches: u64,
    /// Key frames.
    pub keyframes: u64,
    /// Gaps of what the publisher had accepted, by reason.
    pub gaps: BTreeMap<String, GapSum>,
}

/// Gaps of one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GapSum {
    /// How many.
    pub count: u64,
    /// Packets in them, as far as that is known.
    pub packets: u64,
    /// Time around them, milliseconds.
    pub duration_ms: u64,
}

impl StoredQuality {
    pub(super) fn on_gap(&mut self, gap: &Gap) {
        match &gap.missing {
            Missing::Network { sequences: (first, last), .. } => {
                self.network_lost_packets += last.saturating_sub(*first).saturating_add(1);
            }
            Missing::Accepted { reason, packets: (first, last), .. } => {
                let sum = self.gaps.entry(reason_name(*reason).to_owned()).or_default();
                sum.count += 1;
                sum.packets += last.map_or(0, |last| last.saturating_sub(*first).saturating_add(1));
                let duration_ms = gap.span.1.saturating_since(gap.span.0).as_millis() as u64;
                sum.duration_ms = sum.duration_ms.saturating_add(duration_ms);
            }
        }
    }
}

/// What a render says of one track.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TrackQuality {
    /// Of a camera or a screen.
    Video(VideoQuality),
    /// Of a microphone or the sound of a screen.
    Audio(AudioQuality),
}

/// What a render says of its recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderQuality {
    /// Which composite.
    pub composite: CompositeId,
    /// The first slice that this process rendered.
    pub first_slice: u64,
    /// Slices that it rendered.
    pub slices: u64,
    /// By track.
    pub tracks: BTreeMap<TrackKey, TrackQuality>,
    /// What else there is to say, in words.
    pub notes: Vec<String>,
}

impl RenderQuality {
    pub(crate) fn new(composite: CompositeId) -> Self {
        Self { composite, first_slice: 0, slices: 0, tracks: BTreeMap::new(), notes: Vec::new() }
    }

    /// Says how a track fared.
    pub(crate) fn tell(&mut self, key: TrackKey, quality: TrackQuality) {
        if self.tracks.len() < MAX_TOLD || self.tracks.contains_key(&key) {
            self.tracks.insert(key, quality);
        } else {
            self.note(format!("there were more than {MAX_TOLD} tracks; the figures of others are left out"));
        }
    }

    /// The same, of tracks alone that fared otherwise than `told`.
    pub(crate) fn news(&self, told: &BTreeMap<TrackKey, TrackQuality>) -> Self {
        let is_news = |(key, quality): &(&TrackKey, &TrackQuality)| told.get(key) != Some(quality);
        let tracks = self.tracks.iter().filter(is_news).map(|(key, quality)| (key.clone(), *quality)).collect();
        Self { tracks, ..self.clone() }
    }

    /// Takes [`Self::news`]; those of another process stand for themselves.
    pub(crate) fn follow(&mut self, news: Self) {
        let known = std::mem::replace(self, Self { tracks: BTreeMap::new(), notes: Vec::new(), ..news.clone() });
        if known.first_slice == news.first_slice {
            self.tracks = known.tracks;
        }
        news.tracks.into_iter().for_each(|(key, quality)| self.tell(key, quality));
        news.notes.into_iter().for_each(|note| self.note(note));
    }

    /// Says something once.
    pub(crate) fn note(&mut self, note: String) {
        if self.notes.len() < MAX_NOTES && !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }
}

/// The whole document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quality {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Of which recording.
    pub recording_id: String,
    /// What was stored.
    pub tracks: Vec<TrackEntry>,
    /// What was rendered.
    pub composites: Vec<CompositeEntry>,
}

/// A track as it was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackEntry {
    /// Its id at its SFU.
    pub track_id: String,
    /// The SFU.
    pub sfu_id: String,
    /// Whose; `null` if it was never announced.
    pub peer_id: Option<String>,
    /// `audio`, `video` or `screenshare`; `null` if it was never announced.
    pub kind: Option<String>,
    /// The figures.
    #[serde(flatten)]
    pub stored: StoredQuality,
}

/// A composite as it was rendered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompositeEntry {
    /// Which.
    pub composite_id: String,
    /// The figures begin with this slice: those before it were rendered by a process that is gone.
    pub first_slice: u64,
    /// Slices the figures are about.
    pub slices: u64,
    /// By track.
    pub tracks: Vec<RenderedTrack>,
    /// In words.
    pub notes: Vec<String>,
}

/// A track as it was rendered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderedTrack {
    /// Its id at its SFU.
    pub track_id: String,
    /// The SFU.
    pub sfu_id: String,
    /// The figures.
    #[serde(flatten)]
    pub quality: TrackQuality,
}

impl Quality {
    pub(super) fn new(
        recording_id: String,
        stored: &BTreeMap<TrackKey, StoredQuality>,
        renders: &[RenderQuality],
        owner: impl Fn(&TrackKey) -> Option<(String, TrackKind)>,
    ) -> Self {
        let entry = |(key, stored): (&TrackKey, &StoredQuality)| {
            let (peer_id, kind) = owner(key).unzip();
            TrackEntry {
                track_id: key.track.to_string(),
                sfu_id: key.sfu.to_string(),
                peer_id,
                kind: kind.map(|kind| kind_name(kind).to_owned()),
                stored: stored.clone(),
            }
        };
        let rendered = |(key, quality): (&TrackKey, &TrackQuality)| RenderedTrack {
            track_id: key.track.to_string(),
            sfu_id: key.sfu.to_string(),
            quality: *quality,
        };
        let composite = |render: &RenderQuality| CompositeEntry {
            composite_id: render.composite.to_string(),
            first_slice: render.first_slice,
            slices: render.slices,
            tracks: render.tracks.iter().map(rendered).collect(),
            notes: render.notes.clone(),
        };
        Self {
            schema_version: SCHEMA_VERSION,
            recording_id,
            tracks: stored.iter().map(entry).collect(),
            composites: renders.iter().map(composite).collect(),
        }
    }
}
