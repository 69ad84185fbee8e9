//! Files that are joined from the slices as they are: bytes are moved, nothing is decoded.
//!
//! What has been uploaded of a file is written down beside the slices ([`Uploads`]), so that whoever takes over goes on behind it and reads
//! of the other slices no more than their tables. Owns one such file. Does not own when slices are read.

use std::collections::BTreeMap;
use std::sync::Arc;

use roomreel_shared::key::Key;
use roomreel_shared::ports::{ObjectStore, StoreError, Upload, UploadedPart};
use serde::{Deserialize, Serialize};

use super::Error;
use super::upload::FileUpload;
use crate::encode::{EncodedSlice, SliceTable};
use crate::join::Joiner;

/// Longest list that is read.
const MAX_LIST_BYTES: usize = 16 << 20;

/// What has been uploaded of files that are not whole yet, by their keys. A hint: what does not fit is uploaded again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Uploads {
    files: BTreeMap<String, Begun>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Begun {
    id: String,
    /// Parts 2, 3, …: the store's name and the length of each.
    parts: Vec<(String, u64)>,
}

impl Uploads {
    /// What stands in the bucket; nothing if it cannot be understood.
    pub(super) async fn read(store: &dyn ObjectStore, key: &Key) -> Result<Option<Self>, StoreError> {
        match store.get(key).await {
            Ok(text) if text.len() <= MAX_LIST_BYTES => Ok(Some(serde_json::from_slice(&text).unwrap_or_default())),
            Ok(_) => Ok(Some(Self::default())),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is to be written of these files.
    pub(super) fn of<'a>(files: impl Iterator<Item = &'a Joined>) -> Self {
        let begun = |file: &Joined| {
            let (upload, parts) = file.upload.begun()?;
            // A gap would be one that was uploaded out of order: there is none.
            let parts = parts.iter().map(|(part, bytes)| (part.tag.clone(), *bytes)).collect();
            Some((file.key.to_string(), Begun { id: upload.id.clone(), parts }))
        };
        Self { files: files.filter_map(begun).collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }
}

/// One file.
pub(super) struct Joined {
    key: Key,
    /// As it begins.
    fresh: Joiner,
    joiner: Joiner,
    upload: FileUpload,
    /// It goes on behind what somebody else has uploaded.
    is_resumed: bool,
    is_stored: bool,
}

impl Joined {
    pub(super) fn new(store: Arc<dyn ObjectStore>, key: Key, joiner: Joiner) -> Self {
        let upload = FileUpload::new(store, key.clone());
        Self { key, fresh: joiner.clone(), joiner, upload, is_resumed: false, is_stored: false }
    }

    /// It is in the bucket already.
    pub(super) fn stands(&mut self) {
        self.is_stored = true;
    }

    /// Goes on behind what was uploaded.
    pub(super) fn resume(&mut self, store: &Arc<dyn ObjectStore>, uploads: Option<&Uploads>) {
        let begun = uploads.and_then(|uploads| uploads.files.get(self.key.as_str()));
        let Some(Begun { id, parts }) = begun else { return };
        let lengths: Vec<_> = parts.iter().map(|(_, bytes)| *bytes).collect();
        let uploaded =
            (2..).zip(parts).map(|(number, (tag, bytes))| (UploadedPart { number, tag: tag.clone() }, *bytes));
        let upload = Upload { key: self.key.clone(), id: id.clone() };
        self.upload = FileUpload::resumed(store.clone(), upload, uploaded.collect());
        self.joiner = self.fresh.clone().resumed(&lengths);
        self.is_resumed = true;
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    /// Number of the slice that is to come.
    pub(super) fn expected(&self) -> u64 {
        if self.is_stored { u64::MAX } else { self.joiner.expected() }
    }

    /// A slice's table may do.
    pub(super) fn may_pass(&self) -> bool {
        self.joiner.may_pass()
    }

    /// Goes on behind the next slice if all of it has been uploaded.
    pub(super) fn pass(&mut self, slice: &SliceTable) -> Result<bool, Error> {
        Ok(self.joiner.pass(slice)?)
    }

    /// Takes the next slice.
    pub(super) async fn push(&mut self, store: &Arc<dyn ObjectStore>, slice: &EncodedSlice) -> Result<(), Error> {
        self.joiner.push(slice)?.into_iter().for_each(|part| self.upload.push(part));
        if self.joiner.fits() {
            return self.flush(store).await;
        }
        self.begin_anew(store);
        Ok(())
    }

    async fn flush(&mut self, store: &Arc<dyn ObjectStore>) -> Result<(), Error> {
        let flushed = self.upload.flush().await;
        self.settled(store, flushed).map(drop)
    }

    /// What is uploaded again is the slices': nothing is lost with an upload that somebody else had begun.
    fn settled(&mut self, store: &Arc<dyn ObjectStore>, done: Result<(), StoreError>) -> Result<bool, Error> {
        match done {
            Ok(()) => Ok(true),
            Err(error) if self.is_resumed && (error.is_permanent() || matches!(error, StoreError::NotFound { .. })) => {
                tracing::info!(key = %self.key, %error, "an upload that another node began cannot be gone on with; it is made anew");
                self.begin_anew(store);
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn begin_anew(&mut self, store: &Arc<dyn ObjectStore>) {
        *self = Self::new(store.clone(), self.key.clone(), self.fresh.clone());
    }

    /// Stores the file of all the slices that it was given, with so many samples of sound: it stands afterwards, unless the answer is `false`
    /// and it has to be given all of them again.
    pub(super) async fn finish(&mut self, store: &Arc<dyn ObjectStore>, samples: Option<u64>) -> Result<bool, Error> {
        if self.is_stored {
            return Ok(true);
        }
        if !self.upload.is_complete() {
            self.upload.end(self.joiner.clone().finish(samples));
        }
        let stored = self.upload.finish().await;
        self.is_stored = self.settled(store, stored)?;
        Ok(self.is_stored)
    }

    /// Drops what was uploaded.
    pub(super) async fn abandon(&mut self) -> Result<(), StoreError> {
        self.upload.abort().await
    }
}
