//! The header of a whole file: where each of its samples is.

use bytes::{BufMut as _, Bytes, BytesMut};
use mp4_atom::{Co64, Ctts, CttsEntry, Stbl, Stco, Stsc, StscEntry, Stss, Stsz, StszSamples, Stts, SttsEntry};

use super::boxes::{audio_track, file_type, movie, put, video_track};
use crate::encode::{AudioConfig, REORDER_TICKS, SampleInfo, VideoConfig};

/// The samples of one track, as compact as the file keeps them: a three hour meeting takes about 7 MB.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SampleTable {
    sizes: Vec<u32>,
    durations: Vec<SttsEntry>,
    composition: Vec<CttsEntry>,
    keys: Vec<u32>,
    /// Offset in the media, and samples.
    chunks: Vec<(u64, u32)>,
    duration: u64,
}

impl SampleTable {
    /// Adds samples that lie side by side at `offset` of the media.
    pub fn push_chunk(&mut self, offset: u64, samples: &[SampleInfo]) {
        if samples.is_empty() {
            return;
        }
        self.chunks.push((offset, samples.len() as u32));
        for sample in samples {
            self.sizes.push(sample.bytes);
            if sample.key {
                self.keys.push(self.sizes.len() as u32);
            }
            self.duration += u64::from(sample.duration);
            match self.durations.last_mut().filter(|run| run.sample_delta == sample.duration) {
                Some(run) => run.sample_count += 1,
                None => self.durations.push(SttsEntry { sample_count: 1, sample_delta: sample.duration }),
            }
            match self.composition.last_mut().filter(|run| run.sample_offset == sample.offset) {
                Some(run) => run.sample_count += 1,
                None => self.composition.push(CttsEntry { sample_count: 1, sample_offset: sample.offset }),
            }
        }
    }

    /// Makes the last sample shorter, so that the track lasts `duration`.
    pub fn end_at(&mut self, duration: u64) {
        let (excess, Some(run)) = (self.duration.saturating_sub(duration), self.durations.last_mut()) else { return };
        if excess == 0 || excess >= u64::from(run.sample_delta) {
            return;
        }
        let last = SttsEntry { sample_count: 1, sample_delta: run.sample_delta - excess as u32 };
        run.sample_count -= 1;
        if run.sample_count == 0 {
            self.durations.pop();
        }
        self.durations.push(last);
        self.duration = duration;
    }

    /// Samples so far.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.sizes.len()
    }

    /// The table with `media_at` as the file's offset of the media and composition times moved by `delay`.
    fn boxes(&self, media_at: u64, wide: bool, delay: u32) -> Stbl {
        let mut to_chunk: Vec<StscEntry> = Vec::new();
        for (first_chunk, &(_, samples_per_chunk)) in (1..).zip(&self.chunks) {
            if to_chunk.last().is_none_or(|run| run.samples_per_chunk != samples_per_chunk) {
                to_chunk.push(StscEntry { first_chunk, samples_per_chunk, sample_description_index: 1 });
            }
        }
        let offsets = self.chunks.iter().map(|(offset, _)| media_at + offset);
        let moved = |run: &CttsEntry| CttsEntry { sample_offset: run.sample_offset + i64::from(delay), ..*run };
        let composition: Vec<_> = self.composition.iter().map(moved).collect();
        let in_order = composition.iter().all(|run| run.sample_offset == 0);
        Stbl {
            stts: Stts { entries: self.durations.clone() },
            ctts: (!in_order).then_some(Ctts { entries: composition }),
            stss: (self.keys.len() < self.sizes.len()).then(|| Stss { entries: self.keys.clone() }),
            stsc: Stsc { entries: to_chunk },
            stsz: Stsz { samples: StszSamples::Different { sizes: self.sizes.clone() } },
            stco: (!wide).then(|| Stco { entries: offsets.clone().map(|offset| offset as u32).collect() }),
            co64: wide.then(|| Co64 { entries: offsets.collect() }),
            ..Stbl::default()
        }
    }
}

/// Everything of a file that comes before `media_bytes` of media: type, tables and the media's own header. Without `video` it is that of a
/// file of sound alone.
#[must_use]
pub fn faststart_header(
    video: Option<(&VideoConfig, &SampleTable)>,
    audio: (&AudioConfig, &SampleTable),
    media_bytes: u64,
) -> Bytes {
    // Offsets behind 4 GiB need the wide forms; a margin covers the header itself.
    let wide = media_bytes + (1 << 28) > u64::from(u32::MAX);
    let build = |media_at: u64| {
        let pictures = |(config, table): (&VideoConfig, &SampleTable)| {
            (video_track(config), table.boxes(media_at, wide, REORDER_TICKS), table.duration)
        };
        let sound = (audio_track(audio.0), audio.1.boxes(media_at, wide, 0), audio.1.duration);
        let mut header = BytesMut::new();
        match video {
            Some(_) => put(&mut header, &file_type(b"isom", &[b"isom", b"iso2", b"avc1", b"mp41"])),
            None => put(&mut header, &file_type(b"M4A ", &[b"M4A ", b"isom", b"iso2", b"mp42"])),
        }
        put(&mut header, &movie(video.map(pictures).into_iter().chain([sound]).collect()));
        if wide {
            header.put_u32(1);
            header.put_slice(b"mdat");
            header.put_u64(media_bytes + 16);
        } else {
            header.put_u32(media_bytes as u32 + 8);
            header.put_slice(b"mdat");
        }
        header.freeze()
    };
    // Its length does not depend on the offsets in it.
    build(build(0).len() as u64)
}
