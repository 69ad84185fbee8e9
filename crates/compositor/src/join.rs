//! Slices joined to one file with its header in front, without encoding anything again and in a time that does not grow with
//! the recording.
//!
//! The media of the file is uploaded while slices land, as parts 2, 3, … of a multipart upload. Its first megabytes are held back:
//! with the header, which can only be written when every sample is known, they become part 1 when the recording ends.
//!
//! Owns the order of bytes ([`Parts`]) and the tables ([`Joiner`]); both are pure. Does not own slices, nor the upload (see
//! [`crate::outputs`]).

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use roomreel_shared::ports::MIN_PART_BYTES;

use crate::encode::{AudioConfig, EncodedSlice, Sample, SampleInfo, SliceTable, VideoConfig};
use crate::mux::{SampleTable, faststart_header};

/// Parts of the least length that stores take; the others are longer, so that the 10,000 that a store takes hold 130 GB.
const SHORT_PARTS: u32 = 5000;
const LONG_PART_BYTES: usize = 4 * MIN_PART_BYTES;

/// A slice that does not follow the one before (I5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("slice {number} was to follow slice {expected}")]
pub struct OutOfOrder {
    /// The slice.
    pub number: u64,
    /// What was to come.
    pub expected: u64,
}

/// A piece of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its place, from 1.
    pub number: u32,
    /// Its bytes.
    pub body: Bytes,
}

/// What remains to be stored when the last byte is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remainder {
    /// The whole file: nothing was uploaded before.
    Whole(Bytes),
    /// The parts that were not uploaded yet: the first, and the last if there is more.
    Parts(Vec<Part>),
}

/// A file cut into parts while it grows. Its beginning is held back until its end, and can be changed until then.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The first bytes: what makes part 1 long enough.
    head: BytesMut,
    tail: BytesMut,
    next: u32,
    length: u64,
    ready: VecDeque<Part>,
    /// Up to here, but for the head, somebody has uploaded it.
    stored: u64,
    /// What was uploaded ends where something appended does.
    fits: bool,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            head: BytesMut::new(),
            tail: BytesMut::new(),
            next: 2,
            length: 0,
            ready: VecDeque::new(),
            stored: 0,
            fits: true,
        }
    }
}

impl Parts {
    /// A file of which parts 2, 3, … have been uploaded that are so long. Its beginning is the same again.
    #[must_use]
    pub fn resumed(lengths: &[u64]) -> Self {
        let stored = if lengths.is_empty() { 0 } else { MIN_PART_BYTES as u64 + lengths.iter().sum::<u64>() };
        Self { next: 2 + lengths.len() as u32, stored, ..Self::default() }
    }

    /// The next `bytes` have been uploaded: [`Self::pass`] does instead of [`Self::append`].
    #[must_use]
    pub fn is_stored(&self, bytes: u64) -> bool {
        self.length >= MIN_PART_BYTES as u64 && self.length + bytes <= self.stored
    }

    /// Goes on behind bytes that have been uploaded.
    pub fn pass(&mut self, bytes: u64) {
        debug_assert!(self.is_stored(bytes), "what is not in the bucket must not be passed over");
        self.length += bytes;
    }

    /// Bytes so far.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Bytes that have not been given out.
    #[must_use]
    pub fn held(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// Adds bytes at the end.
    pub fn append(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        let room = MIN_PART_BYTES.saturating_sub(self.head.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(room);
        self.head.extend_from_slice(first);
        if self.length <= self.stored {
            return;
        }
        self.fits &= self.length - bytes.len() as u64 >= self.stored;
        self.tail.extend_from_slice(rest);
        let wanted = if self.next < SHORT_PARTS { MIN_PART_BYTES } else { LONG_PART_BYTES };
        if self.tail.len() >= wanted {
            self.ready.push_back(Part { number: self.next, body: self.tail.split().freeze() });
            self.next += 1;
        }
    }

    /// Changes bytes that are held back; `false` if not all of them are.
    #[must_use]
    pub fn change(&mut self, at: u64, bytes: &[u8]) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let place = usize::try_from(at).ok().and_then(|at| self.head.get_mut(at..at.checked_add(bytes.len())?));
        place.map(|place| place.copy_from_slice(bytes)).is_some()
    }

    /// The next part that is ready.
    pub fn pop(&mut self) -> Option<Part> {
        self.ready.pop_front()
    }

    /// What is left, with `before` in front of everything. Parts that are ready have been taken.
    #[must_use]
    pub fn finish(self, before: Bytes) -> Remainder {
        let mut first = BytesMut::from(before);
        first.extend_from_slice(&self.head);
        if self.next == 2 {
            first.extend_from_slice(&self.tail);
            return Remainder::Whole(first.freeze());
        }
        let mut parts = Vec::from(self.ready);
        parts.insert(0, Part { number: 1, body: first.freeze() });
        if !self.tail.is_empty() {
            parts.push(Part { number: self.next, body: self.tail.freeze() });
        }
        Remainder::Parts(parts)
    }
}

/// Decides which bytes go where.
#[derive(Debug, Clone)]
pub struct Joiner {
    /// `None`: the file holds the sound alone.
    video: Option<(VideoConfig, SampleTable)>,
    audio: (AudioConfig, SampleTable),
    expected: u64,
    parts: Parts,
}

impl Joiner {
    /// A file of slices with these encodings, from slice 0 on; of their sound alone if there is no `video`.
    #[must_use]
    pub fn new(video: Option<VideoConfig>, audio: AudioConfig) -> Self {
        Self {
            video: video.map(|video| (video, SampleTable::default())),
            audio: (audio, SampleTable::default()),
            expected: 0,
            parts: Parts::default(),
        }
    }

    /// Adds the next slice. The answer is the parts that are ready.
    ///
    /// # Errors
    /// [`OutOfOrder`]; the slice is not taken.
    pub fn push(&mut self, slice: &EncodedSlice) -> Result<Vec<Part>, OutOfOrder> {
        if slice.number != self.expected {
            return Err(OutOfOrder { number: slice.number, expected: self.expected });
        }
        self.expected += 1;
        if let Some((_, table)) = &mut self.video {
            append(&mut self.parts, table, &slice.video);
        }
        append(&mut self.parts, &mut self.audio.1, &slice.audio);
        Ok(std::iter::from_fn(|| self.parts.pop()).collect())
    }

    /// The same file, of which parts 2, 3, … have been uploaded that are so long.
    #[must_use]
    pub fn resumed(mut self, lengths: &[u64]) -> Self {
        self.parts = Parts::resumed(lengths);
        self
    }

    /// Whether a slice may have been uploaded as a whole: its table tells.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        self.parts.is_stored(1)
    }

    /// Goes on behind the next slice, if all of it has been uploaded; `false` if it is needed.
    ///
    /// # Errors
    /// [`OutOfOrder`].
    pub fn pass(&mut self, slice: &SliceTable) -> Result<bool, OutOfOrder> {
        if slice.number != self.expected {
            return Err(OutOfOrder { number: slice.number, expected: self.expected });
        }
        let bytes = |samples: &[SampleInfo]| samples.iter().map(|sample| u64::from(sample.bytes)).sum::<u64>();
        let pictures = if self.video.is_some() { bytes(&slice.video) } else { 0 };
        if !self.parts.is_stored(pictures + bytes(&slice.audio)) {
            return Ok(false);
        }
        self.expected += 1;
        if let Some((_, table)) = &mut self.video {
            table.push_chunk(self.parts.length(), &slice.video);
            self.parts.pass(pictures);
        }
        self.audio.1.push_chunk(self.parts.length(), &slice.audio);
        self.parts.pass(bytes(&slice.audio));
        Ok(true)
    }

    /// Whether the parts that were uploaded can be of these slices.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.parts.fits
    }

    /// Number of the slice that is to come.
    #[must_use]
    pub fn expected(&self) -> u64 {
        self.expected
    }

    /// The header, and what is still held. The sound ends with sample `samples`, if that is known: its last frame may be longer.
    #[must_use]
    pub fn finish(mut self, samples: Option<u64>) -> Remainder {
        if let Some(samples) = samples {
            self.audio.1.end_at(samples);
        }
        let video = self.video.as_ref().map(|(config, table)| (config, table));
        let header = faststart_header(video, (&self.audio.0, &self.audio.1), self.parts.length());
        self.parts.finish(header)
    }
}

fn append(parts: &mut Parts, table: &mut SampleTable, samples: &[Sample]) {
    let infos: Vec<_> = samples.iter().map(Sample::info).collect();
    table.push_chunk(parts.length(), &infos);
    samples.iter().for_each(|sample| parts.append(&sample.data));
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn parts_make_the_file(lengths in prop::collection::vec(1_usize..(3 << 20), 1..12), before in 0_usize..100) {
            let mut parts = Parts::default();
            let (mut file, mut uploaded) = (Vec::new(), Vec::new());
            for (index, length) in lengths.iter().enumerate() {
                let bytes = vec![index as u8 + 1; *length];
                parts.append(&bytes);
                file.extend(bytes);
                uploaded.extend(std::iter::from_fn(|| parts.pop()));
            }
            prop_assert!(parts.change(0, &[7]));
            file[0] = 7;
            prop_assert!(!parts.change(MIN_PART_BYTES as u64, &[7]));
            file.splice(0..0, vec![9; before]);
            let made = match parts.finish(vec![9; before].into()) {
                Remainder::Whole(whole) => {
                    prop_assert!(uploaded.is_empty());
                    whole.to_vec()
                }
                Remainder::Parts(rest) => {
                    uploaded.extend(rest);
                    uploaded.sort_by_key(|part| part.number);
                    let (last, others) = uploaded.split_last().expect("parts");
                    prop_assert!(others.iter().all(|part| part.body.len() >= MIN_PART_BYTES));
                    prop_assert_eq!(last.number as usize, uploaded.len());
                    uploaded.iter().flat_map(|part| part.body.to_vec()).collect()
                }
            };
            prop_assert!(made == file);
        }
    }

    /// Slices of a few samples each, far longer than they are in life.
    fn slices() -> Vec<EncodedSlice> {
        let sample = |number: u64, bytes: usize| Sample {
            data: vec![number as u8 + 1; bytes].into(),
            pts: number as i64 * 2000,
            dts: number as i64 * 2000,
            duration: 1000,
            key: true,
        };
        let video = |number| vec![sample(number, 900_000), sample(number, 1_400_000 + 10_000 * number as usize)];
        (0..16)
            .map(|number| EncodedSlice {
                number,
                video: video(number),
                audio: vec![sample(number, 9000)],
                webm: vec![],
            })
            .collect()
    }

    fn joiner() -> Joiner {
        let nothing = Bytes::new;
        let sps = Bytes::from_static(&[0x67, 66, 0, 30, 0]);
        let video = VideoConfig { width: 64, height: 64, timescale: 1000, sps, pps: nothing() };
        Joiner::new(Some(video), AudioConfig { sample_rate: 48_000, channels: 2, bitrate: 1, specific: nothing() })
    }

    #[test]
    fn a_slice_of_several_parts_leaves_none_behind() {
        let sample = Sample { data: vec![7; 3 << 20].into(), pts: 0, dts: 0, duration: 1000, key: true };
        let mut joiner = joiner();
        for number in 0..4 {
            let slice = EncodedSlice { number, video: vec![sample.clone(); 12], ..EncodedSlice::default() };
            let parts = joiner.push(&slice).expect("in order");
            assert!(parts.len() > 1 && joiner.parts.ready.is_empty());
            assert!(joiner.parts.held() < 3 * MIN_PART_BYTES, "{} bytes are held", joiner.parts.held());
        }
    }

    #[test]
    fn whoever_takes_over_uploads_what_is_missing_and_reads_little_else() {
        let slices = slices();
        let mut whole = joiner();
        let parts: Vec<_> = slices.iter().flat_map(|slice| whole.push(slice).expect("in order")).collect();
        let Remainder::Parts(rest) = whole.finish(None) else { panic!("there are parts") };
        assert!(parts.len() >= 5);
        for known in 0..=parts.len() {
            let lengths: Vec<_> = parts[..known].iter().map(|part| part.body.len() as u64).collect();
            let mut joiner = joiner().resumed(&lengths);
            let mut read = 0;
            let mut made = Vec::new();
            for slice in &slices {
                if joiner.may_pass() && joiner.pass(&slice.into()).expect("in order") {
                    continue;
                }
                read += 1;
                made.extend(joiner.push(slice).expect("in order"));
            }
            assert!(joiner.fits());
            assert_eq!(made, parts[known..]);
            let Remainder::Parts(end) = joiner.finish(None) else { panic!("there are parts") };
            assert!(end == rest, "{known} parts known");
            let missing = slices.len() - 2 * known;
            assert!(read <= missing + 4, "{read} slices were read for {known} parts");
        }
        // Parts of another file.
        let mut other = joiner().resumed(&[MIN_PART_BYTES as u64 + 7]);
        for slice in &slices {
            let table = SliceTable::from(slice);
            if !other.may_pass() || !other.pass(&table).expect("in order") {
                other.push(slice).expect("in order");
            }
        }
        assert!(!other.fits());
    }
}
