//! What an encoder gives and a container takes: plain values, without a codec behind them.

use bytes::Bytes;

/// One coded frame. Times in units of its track's timescale, from the start of the recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// H.264 with 4-byte lengths, or a raw AAC frame.
    pub data: Bytes,
    /// When it is shown; at most [`super::REORDER_TICKS`] before its decode time.
    pub pts: i64,
    /// When it is decoded; contiguous from sample to sample.
    pub dts: i64,
    /// Until the next one.
    pub duration: u32,
    /// Decoding can begin here.
    pub key: bool,
}

/// What tables say of a coded frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SampleInfo {
    /// Its length.
    pub bytes: u32,
    /// From its decode time until it is shown.
    pub offset: i64,
    /// Until the next one.
    pub duration: u32,
    /// Decoding can begin here.
    pub key: bool,
}

impl Sample {
    /// What tables say of it.
    #[must_use]
    pub fn info(&self) -> SampleInfo {
        let Self { data, pts, dts, duration, key } = self;
        SampleInfo { bytes: data.len() as u32, offset: pts - dts, duration: *duration, key: *key }
    }
}

/// The coded frames of one slice as tables know them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SliceTable {
    /// Its number, from 0.
    pub number: u64,
    /// Its pictures, in decode order.
    pub video: Vec<SampleInfo>,
    /// Its sound, in order.
    pub audio: Vec<SampleInfo>,
}

impl From<&EncodedSlice> for SliceTable {
    fn from(slice: &EncodedSlice) -> Self {
        let infos = |samples: &[Sample]| samples.iter().map(Sample::info).collect();
        Self { number: slice.number, video: infos(&slice.video), audio: infos(&slice.audio) }
    }
}

/// What a container says about the video.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VideoConfig {
    /// Pixels.
    pub width: u16,
    /// Pixels.
    pub height: u16,
    /// Units per second.
    pub timescale: u32,
    /// Sequence parameter set, without start code.
    pub sps: Bytes,
    /// Picture parameter set, without start code.
    pub pps: Bytes,
}

/// What a container says about the audio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AudioConfig {
    /// Hz; the timescale too.
    pub sample_rate: u32,
    /// Channels.
    pub channels: u8,
    /// Bits per second.
    pub bitrate: u32,
    /// AudioSpecificConfig (ISO/IEC 14496-3).
    pub specific: Bytes,
}

/// The coded frames of one slice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EncodedSlice {
    /// Its number, from 0.
    pub number: u64,
    /// In decode order; begins with an IDR picture.
    pub video: Vec<Sample>,
    /// In order.
    pub audio: Vec<Sample>,
    /// The pictures again, as VP9 or VP8, where a WebM is made; begins with a key frame. Stored beside the slice, not in it.
    pub webm: Vec<Sample>,
}
