//! What a composite is asked to be.

use serde::{Deserialize, Serialize};

use crate::id::CompositeId;
use crate::look::Look;
use crate::output::{Kind, Output, TrackFormat, check_outputs};

/// One rendering of a recording: layout and encoding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompositeSpec {
    /// Its name in the bucket.
    pub id: CompositeId,
    /// A layout's name, or a region document as JSON.
    pub layout: String,
    /// Pixels; even.
    pub width: u32,
    /// Pixels; even.
    pub height: u32,
    /// Frames per second, 10 to 60.
    pub fps: u32,
    /// x264's constant rate factor, 0 to 51; without meaning where `bitrate` is set.
    pub crf: u8,
    /// H.264, bits per second on average, with peaks of half as much again; none: as `crf` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bitrate: Option<u32>,
    /// Most milliseconds from key frame to key frame; every slice begins with one anyway. None: nowhere else but where a cut asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyframe_ms: Option<u32>,
    /// AAC, bits per second.
    pub audio_bitrate: u32,
    /// What is made besides the slices.
    pub outputs: Vec<Output>,
    /// Exports of every track, without transcoding, to `tracks/`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tracks: Vec<TrackFormat>,
    /// Background, watermark, clock, names.
    pub look: Look,
}

impl Default for CompositeSpec {
    fn default() -> Self {
        Self {
            id: CompositeId::new("grid").expect("a literal that can be spelled"),
            layout: "grid".to_owned(),
            width: 1280,
            height: 720,
            fps: 30,
            crf: 23,
            bitrate: None,
            keyframe_ms: None,
            audio_bitrate: 128_000,
            outputs: vec![Kind::Hls.into(), Kind::Mp4.into()],
            tracks: Vec::new(),
            look: Look::default(),
        }
    }
}

/// Why a composite cannot be rendered as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("composite {field}: {why}")]
pub struct Error {
    /// The field's name.
    pub field: &'static str,
    /// What is wrong with it, and what would be right.
    pub why: String,
}

impl CompositeSpec {
    /// Checks ranges; the layout is checked by the compositor, which knows them.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |field, why: String| Err(Error { field, why });
        for (field, value) in [("width", self.width), ("height", self.height)] {
            if !(180..=1920).contains(&value) || !value.is_multiple_of(2) {
                return refuse(field, format!("{value} is not an even number from 180 to 1920"));
            }
        }
        if !(10..=60).contains(&self.fps) {
            return refuse("fps", format!("{} is not between 10 and 60", self.fps));
        }
        if self.crf > 51 {
            return refuse("crf", format!("{} is over 51", self.crf));
        }
        for (field, value, range) in
            [("bitrate", self.bitrate, 50_000..=50_000_000), ("keyframe_ms", self.keyframe_ms, 100..=60_000)]
        {
            if let Some(value) = value.filter(|value| !range.contains(value)) {
                return refuse(field, format!("{value} is not between {} and {}", range.start(), range.end()));
            }
        }
        if !(16_000..=512_000).contains(&self.audio_bitrate) {
            return refuse("audio_bitrate", format!("{} is not between 16000 and 512000", self.audio_bitrate));
        }
        check_outputs(self)?;
        self.look.check().map_err(|(field, why)| Error { field, why })
    }
}
