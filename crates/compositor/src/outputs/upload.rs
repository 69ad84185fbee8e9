//! One file's way into the bucket: in parts while it grows, or at once when it is small.
//!
//! Owns the upload. Does not own retries: every call can be made again after an error.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use roomreel_shared::key::Key;
use roomreel_shared::ports::{ObjectStore, StoreError, Upload, UploadedPart};

use crate::join::{Part, Remainder};

/// Uploads a file while it grows.
pub struct FileUpload {
    store: Arc<dyn ObjectStore>,
    key: Key,
    upload: Option<Upload>,
    /// Ready, not yet uploaded.
    waiting: VecDeque<Part>,
    /// With their lengths.
    uploaded: Vec<(UploadedPart, u64)>,
    whole: Option<Bytes>,
    bytes: u64,
    is_complete: bool,
}

impl FileUpload {
    /// Uploads to the object `key`.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, key: Key) -> Self {
        Self {
            store,
            key,
            upload: None,
            waiting: VecDeque::new(),
            uploaded: Vec::new(),
            whole: None,
            bytes: 0,
            is_complete: false,
        }
    }

    /// Goes on with an upload of which these parts stand, with their lengths.
    #[must_use]
    pub fn resumed(store: Arc<dyn ObjectStore>, upload: Upload, uploaded: Vec<(UploadedPart, u64)>) -> Self {
        let bytes = uploaded.iter().map(|(_, bytes)| bytes).sum();
        let key = upload.key.clone();
        Self { upload: Some(upload), uploaded, bytes, ..Self::new(store, key) }
    }

    /// The upload, if it was begun, and the parts that stand, with their lengths.
    #[must_use]
    pub fn begun(&self) -> Option<(&Upload, &[(UploadedPart, u64)])> {
        Some((self.upload.as_ref()?, &self.uploaded))
    }

    /// The object's key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Takes a part. It is stored by [`Self::flush`].
    pub fn push(&mut self, part: Part) {
        self.waiting.push_back(part);
    }

    /// Takes what remains; [`Self::finish`] stores it.
    pub fn end(&mut self, rest: Remainder) {
        match rest {
            Remainder::Whole(file) => self.whole = Some(file),
            Remainder::Parts(parts) => self.waiting.extend(parts),
        }
        self.is_complete = true;
    }

    /// Everything of the file has been taken.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Uploads what is ready.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn flush(&mut self) -> Result<(), StoreError> {
        while let Some(part) = self.waiting.front() {
            let upload = match &self.upload {
                Some(upload) => upload,
                None => {
                    let upload = self.store.begin_upload(&self.key).await?;
                    self.upload.insert(upload)
                }
            };
            let uploaded = self.store.upload_part(upload, part.number, part.body.clone()).await?;
            let bytes = part.body.len() as u64;
            self.bytes += bytes;
            self.uploaded.push((uploaded, bytes));
            self.waiting.pop_front();
        }
        Ok(())
    }

    /// Stores the rest: the file stands afterwards. A file that stands already, ours or another node's, is left as it is.
    ///
    /// # Errors
    /// What the store answers.
    pub async fn finish(&mut self) -> Result<(), StoreError> {
        if let Some(file) = &self.whole {
            return match self.store.create(&self.key, file.clone()).await {
                Err(StoreError::AlreadyExists { .. }) => Ok(()),
                other => other,
            };
        }
        self.flush().await?;
        let Some(upload) = &self.upload else { return Ok(()) };
        let mut parts: Vec<_> = self.uploaded.iter().map(|(part, _)| part.clone()).collect();
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
