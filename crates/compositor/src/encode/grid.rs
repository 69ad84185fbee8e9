//! Where slices begin and end, in frames and samples.

use std::ops::Range;
use std::time::Duration;

use crate::decode::SAMPLE_RATE;

/// Samples of one AAC frame.
pub const AAC_FRAME: u64 = 1024;
/// AAC frames that are in the encoder when a sample goes in: two for its window and look-ahead, one that is being filled.
const DELAY_FRAMES: u64 = 3;
/// AAC frames that an encoder is fed before the first it keeps: its choice of windows looks back that far.
const PREROLL_FRAMES: u64 = 8;

/// Ticks of one video frame.
pub(super) const TICKS_PER_FRAME: u32 = 1000;
/// How long before its turn to be decoded a picture may be shown, in ticks: x264 with a pyramid of B-frames keeps two frames.
pub const REORDER_TICKS: u32 = 2 * TICKS_PER_FRAME;

/// The division of a recording into slices: slice `n` shows the frames from `n * slice_ms` to `(n + 1) * slice_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    slice_ms: u64,
    fps: u32,
}

impl Grid {
    /// Slices of `slice_ms` milliseconds, at least one frame long, at `fps` frames per second.
    #[must_use]
    pub fn new(slice_ms: u64, fps: u32) -> Self {
        let fps = fps.max(1);
        Self { slice_ms: slice_ms.clamp(1000_u64.div_ceil(u64::from(fps)), 3_600_000), fps }
    }

    /// Ticks per second of video time stamps; a frame has 1000.
    #[must_use]
    pub fn video_timescale(&self) -> u32 {
        self.fps * TICKS_PER_FRAME
    }

    /// Number of the first frame of a slice; frame `i` is shown at `i / fps` seconds.
    #[must_use]
    pub fn first_frame(&self, slice: u64) -> u64 {
        (slice * self.slice_ms * u64::from(self.fps)).div_ceil(1000)
    }

    /// Frames of a slice.
    #[must_use]
    pub fn frames(&self, slice: u64) -> Range<u64> {
        self.first_frame(slice)..self.first_frame(slice + 1)
    }

    /// How long a slice is that is not the last.
    #[must_use]
    pub fn duration(&self, slice: u64) -> Duration {
        let frames = self.frames(slice);
        Duration::from_nanos((frames.end - frames.start) * 1_000_000_000 / u64::from(self.fps))
    }

    /// First sample per channel of a slice's time.
    #[must_use]
    pub fn first_sample(&self, slice: u64) -> u64 {
        slice * self.slice_ms * u64::from(SAMPLE_RATE) / 1000
    }

    /// AAC frames that a slice carries: those that are complete when its samples have gone in.
    #[must_use]
    pub fn audio_frames(&self, slice: u64) -> Range<u64> {
        let before = |slice| (self.first_sample(slice) / AAC_FRAME).saturating_sub(DELAY_FRAMES - 1);
        before(slice)..before(slice + 1)
    }

    /// First sample that an encoder must be given whose first slice is `slice`.
    #[must_use]
    pub fn audio_from(&self, slice: u64) -> u64 {
        self.audio_frames(slice).start.saturating_sub(PREROLL_FRAMES) * AAC_FRAME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_share_out_every_frame_and_sample() {
        for (slice_ms, fps) in [(4000, 30), (4000, 25), (1500, 15), (333, 10), (10_000, 60)] {
            let grid = Grid::new(slice_ms, fps);
            assert_eq!((grid.first_frame(0), grid.audio_frames(0).start, grid.audio_from(0)), (0, 0, 0));
            for slice in 0..100 {
                assert_eq!(grid.frames(slice).end, grid.frames(slice + 1).start);
                assert!(!grid.frames(slice).is_empty());
                let (here, next) = (grid.audio_frames(slice), grid.audio_frames(slice + 1));
                assert_eq!(here.end, next.start, "I5");
                let complete = (here.end + DELAY_FRAMES - 1) * AAC_FRAME;
                assert!(here.end == 0 || complete <= grid.first_sample(slice + 1), "a slice's own sound suffices");
                assert!(grid.audio_from(slice) <= grid.first_sample(slice));
            }
        }
    }
}
