//! Slices joined to one file with its header in front, without encoding anything again and in a time that does not grow with
//! the recording.
//!
//! The media of the file is uploaded while slices land, as parts 2, 3, … of a multipart upload. Its first megabytes are held back:
//! with the header, which can only be written when every sample is known, they become part 1 when the recording ends.
//!
//! Owns the order of bytes and the tables ([`Joiner`], pure) and the upload ([`Join`]). Does not own slices, nor retries:
//! every call of [`Join`] can be made again after an error.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use roomreel_shared::key::Key;
use roomreel_shared::ports::{MIN_PART_BYTES, ObjectStore, StoreError, Upload, UploadedPart};

use crate::encode::{AudioConfig, EncodedSlice, Sample, VideoConfig};
use crate::mux::{SampleTable, faststart_header};

/// Bytes of a part: 10,000 of them, the most a store takes, hold 80 GB.
const PART_BYTES: usize = 8 * 1024 * 1024;

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

/// What remains to be stored when the last slice is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remainder {
    /// The whole file: nothing was uploaded before.
    Whole(Bytes),
    /// The parts that were not uploaded yet: the first, and the last if there is more.
    Parts(Vec<Part>),
}

/// Decides which bytes go where.
#[derive(Debug)]
pub struct Joiner {
    video: (VideoConfig, SampleTable),
    audio: (AudioConfig, SampleTable),
    expected: u64,
    media_bytes: u64,
    /// The first bytes of media: what makes part 1 long enough.
    head: BytesMut,
    tail: BytesMut,
    next_part: u32,
}

impl Joiner {
    /// A file of slices with these encodings, from slice 0 on.
    #[must_use]
    pub fn new(video: VideoConfig, audio: AudioConfig) -> Self {
        Self {
            video: (video, SampleTable::default()),
            audio: (audio, SampleTable::default()),
            expected: 0,
            media_bytes: 0,
            head: BytesMut::new(),
            tail: BytesMut::new(),
            next_part: 2,
        }
    }

    /// Adds the next slice; the answer is a part that is ready.
    ///
    /// # Errors
    /// [`OutOfOrder`]; the slice is not taken.
    pub fn push(&mut self, slice: &EncodedSlice) -> Result<Option<Part>, OutOfOrder> {
        if slice.number != self.expected {
            return Err(OutOfOrder { number: slice.number, expected: self.expected });
        }
        self.expected += 1;
        self.video.1.push_chunk(self.media_bytes, &slice.video);
        slice.video.iter().for_each(|sample| self.append(sample));
        self.audio.1.push_chunk(self.media_bytes, &slice.audio);
        slice.audio.iter().for_each(|sample| self.append(sample));
        if self.tail.len() < PART_BYTES {
            return Ok(None);
        }
        let part = Part { number: self.next_part, body: self.tail.split().freeze() };
        self.next_part += 1;
        Ok(Some(part))
    }

    fn append(&mut self, sample: &Sample) {
        self.media_bytes += sample.data.len() as u64;
        let held = if self.head.len() < MIN_PART_BYTES { &mut self.head } else { &mut self.tail };
        held.extend_from_slice(&sample.data);
    }

    /// Number of the slice that is to come.
    #[must_use]
    pub fn expected(&self) -> u64 {
        self.expected
    }

    /// The header, and what is still held.
    #[must_use]
    pub fn finish(self) -> Remainder {
        let header = faststart_header((&self.video.0, &self.video.1), (&self.audio.0, &self.audio.1), self.media_bytes);
        let mut first = BytesMut::from(header);
        first.extend_from_slice(&self.head);
        if self.next_part == 2 {
            first.extend_from_slice(&self.tail);
            return Remainder::Whole(first.freeze());
        }
        let mut parts = vec![Part { number: 1, body: first.freeze() }];
        if !self.tail.is_empty() {
            parts.push(Part { number: self.next_part, body: self.tail.freeze() });
        }
        Remainder::Parts(parts)
    }
}

/// Uploads the file while it grows.
pub struct Join {
    store: Arc<dyn ObjectStore>,
    key: Key,
    joiner: Option<Joiner>,
    upload: Option<Upload>,
    /// Ready, not yet uploaded.
    waiting: Vec<Part>,
    uploaded: Vec<UploadedPart>,
    whole: Option<Bytes>,
    bytes: u64,
}

impl Join {
    /// Joins to the object `key`.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, key: Key, joiner: Joiner) -> Self {
        Self {
            store,
            key,
            joiner: Some(joiner),
            upload: None,
            waiting: Vec::new(),
            uploaded: Vec::new(),
            whole: None,
            bytes: 0,
        }
    }

    /// Number of the slice that is to come; `None` once [`Self::finish`] was called.
    #[must_use]
    pub fn expected(&self) -> Option<u64> {
        self.joiner.as_ref().map(Joiner::expected)
    }

    /// Adds the next slice. What it makes ready is stored by [`Self::flush`].
    ///
    /// # Errors
    /// [`OutOfOrder`]; the slice is not taken.
    pub fn push(&mut self, slice: &EncodedSlice) -> Result<(), OutOfOrder> {
        if let Some(joiner) = &mut self.joiner {
            self.waiting.extend(joiner.push(slice)?);
        }
        Ok(())
    }

    /// Uploads what is ready.
    ///
    /// # Errors
    /// What the store answers; the call can be made again.
    pub async fn flush(&mut self) -> Result<(), StoreError> {
        while let Some(part) = self.waiting.first() {
            let upload = match &self.upload {
                Some(upload) => upload,
                None => {
                    let upload = self.store.begin_upload(&self.key).await?;
                    self.upload.insert(upload)
                }
            };
            let uploaded = self.store.upload_part(upload, part.number, part.body.clone()).await?;
            self.bytes += part.body.len() as u64;
            self.uploaded.push(uploaded);
            self.waiting.remove(0);
        }
        Ok(())
    }

    /// Stores the rest: the file stands afterwards. A file that stands already, ours or another node's, is left as it is.
    ///
    /// # Errors
    /// What the store answers; the call can be made again.
    pub async fn finish(&mut self) -> Result<(), StoreError> {
        match self.joiner.take().map(Joiner::finish) {
            Some(Remainder::Whole(file)) => self.whole = Some(file),
            Some(Remainder::Parts(parts)) => self.waiting.extend(parts),
            None => {}
        }
        if let Some(file) = &self.whole {
            return match self.store.create(&self.key, file.clone()).await {
                Err(StoreError::AlreadyExists { .. }) => Ok(()),
                other => other,
            };
        }
        self.flush().await?;
        let Some(upload) = &self.upload else { return Ok(()) };
        let mut parts = self.uploaded.clone();
        parts.sort_by_key(|part| part.number);
        match self.store.complete_upload(upload, parts).await {
            Ok(()) => Ok(()),
            Err(StoreError::AlreadyExists { .. }) => self.store.abort_upload(upload).await.or(Ok(())),
            // The upload may have been completed and the answer lost.
            Err(error) => match self.store.size(&self.key).await {
                Ok(size) if size == self.bytes => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Drops what was uploaded; for a render that is given up or moves elsewhere.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn abort(&mut self) -> Result<(), StoreError> {
        match self.upload.take() {
            Some(upload) => self.store.abort_upload(&upload).await,
            None => Ok(()),
        }
    }
}
