//! An object store in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use roomreel_shared::key::Key;
use roomreel_shared::ports::{Listed, MIN_PART_BYTES, ObjectStore, OpenUpload, StoreError, Upload, UploadedPart};
use tokio::time::Instant;

use super::faults::{Fault, Faults, Hook, Operation, under};
use super::lock;

/// An object store in memory. Creates are linearizable. Clones share what they hold.
#[derive(Clone, Default)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    faults: Hook,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Bytes>,
    /// How many objects had been written when each was.
    versions: BTreeMap<Key, u64>,
    writes: u64,
    uploads: BTreeMap<String, Begun>,
    next_upload: u64,
    history: Option<Vec<Mutation>>,
}

struct Begun {
    key: Key,
    at: Instant,
    parts: BTreeMap<u32, Bytes>,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MutationKind {
    /// It came into being.
    Created,
    /// It was replaced.
    Replaced,
    /// It went.
    Deleted,
}

/// One change the store made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    /// What was done.
    pub kind: MutationKind,
    /// To which object.
    pub key: Key,
    /// Its body afterwards; empty when deleted.
    pub body: Bytes,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps every change from now on, for oracles; memory grows with it.
    #[must_use]
    pub fn with_history(self) -> Self {
        lock(&self.state).history.get_or_insert_default();
        self
    }

    /// Lets `faults` decide what goes wrong, for this handle and its later clones: another handle of the same store can
    /// have other faults.
    #[must_use]
    pub fn with_faults(mut self, faults: Arc<dyn Faults>) -> Self {
        self.faults = Hook(Some(faults));
        self
    }

    /// Every change since [`MemoryStore::with_history`], in order.
    #[must_use]
    pub fn history(&self) -> Vec<Mutation> {
        lock(&self.state).history.clone().unwrap_or_default()
    }

    /// Uploads begun and neither completed nor aborted.
    #[must_use]
    pub fn open_uploads(&self) -> usize {
        lock(&self.state).uploads.len()
    }

    async fn call<T>(
        &self,
        operation: Operation,
        key: &str,
        act: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let fault = self.faults.strike(operation, key);
        if fault == Some(Fault::Refuse) {
            let (store, key, reason) = ("memory".to_owned(), key.to_owned(), "fault: refused".to_owned());
            return Err(StoreError::Refused { store, key, reason });
        }
        let conflicts = matches!(operation, Operation::Create | Operation::CompleteUpload);
        let conflict = conflicts.then(|| StoreError::Conflict { key: key.to_owned() });
        let unavailable = |reason: &str| StoreError::Unavailable {
            store: "memory".to_owned(),
            key: key.to_owned(),
            reason: reason.to_owned(),
        };
        under(fault, unavailable, conflict, async { act(&mut lock(&self.state)) }).await
    }
}

impl State {
    fn write(&mut self, key: &Key, body: Bytes) {
        let old = self.objects.insert(key.clone(), body.clone());
        self.writes += 1;
        self.versions.insert(key.clone(), self.writes);
        let kind = if old.is_some() { MutationKind::Replaced } else { MutationKind::Created };
        self.remember(kind, key, body);
    }

    fn create(&mut self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        if self.objects.contains_key(key) {
            return Err(StoreError::AlreadyExists { key: key.to_string() });
        }
        self.write(key, body);
        Ok(())
    }

    fn remember(&mut self, kind: MutationKind, key: &Key, body: Bytes) {
        if let Some(history) = &mut self.history {
            history.push(Mutation { kind, key: key.clone(), body });
        }
    }

    fn get(&self, key: &Key) -> Result<&Bytes, StoreError> {
        self.objects.get(key).ok_or_else(|| StoreError::NotFound { key: key.to_string() })
    }

    fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a Key, &'a Bytes)> {
        let from = Key::listed(prefix.to_owned());
        self.objects.range(from..).take_while(move |(key, _)| key.as_str().starts_with(prefix))
    }

    fn complete(&mut self, upload: &Upload, parts: &[UploadedPart]) -> Result<(), StoreError> {
        let uploaded = &self.uploads.get(&upload.id).ok_or_else(|| no_upload(upload))?.parts;
        let mut numbers: Vec<_> = parts.iter().collect();
        numbers.sort_by_key(|part| part.number);
        let mut body = BytesMut::new();
        for (at, part) in numbers.iter().enumerate() {
            let Some(bytes) = uploaded.get(&part.number).filter(|bytes| tag(part.number, bytes) == part.tag) else {
                return Err(refused(upload, format!("part {} is not as it was uploaded", part.number)));
            };
            if at + 1 < numbers.len() && bytes.len() < MIN_PART_BYTES {
                return Err(refused(upload, format!("part {} is smaller than the minimum", part.number)));
            }
            body.extend_from_slice(bytes);
        }
        self.create(&upload.key, body.freeze())?;
        self.uploads.remove(&upload.id);
        Ok(())
    }
}

fn tag(number: u32, body: &[u8]) -> String {
    format!("{number}-{}", body.len())
}

fn no_upload(upload: &Upload) -> StoreError {
    StoreError::NotFound { key: format!("{} (upload {})", upload.key, upload.id) }
}

fn refused(upload: &Upload, reason: String) -> StoreError {
    StoreError::Refused { store: "memory".to_owned(), key: upload.key.to_string(), reason }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn create(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.call(Operation::Create, key.as_str(), |state| state.create(key, body)).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        let act = |state: &mut State| {
            state.write(key, body);
            Ok(())
        };
        self.call(Operation::Put, key.as_str(), act).await
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.call(Operation::Get, key.as_str(), |state| state.get(key).cloned()).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        let act = |state: &mut State| {
            let body = state.get(key)?;
            let cut = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(body.len());
            let (start, end) = (cut(range.start), cut(range.end));
            Ok(body.slice(start..end.max(start)))
        };
        self.call(Operation::GetRange, key.as_str(), act).await
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        self.call(Operation::Size, key.as_str(), |state| state.get(key).map(|body| body.len() as u64)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        let act = |state: &mut State| {
            let listed = |(key, body): (&Key, &Bytes)| Listed {
                key: key.clone(),
                size: body.len() as u64,
                version: state.versions.get(key).copied().unwrap_or_default().to_string(),
            };
            Ok(state.below(prefix).map(listed).collect())
        };
        self.call(Operation::List, prefix, act).await
    }

    async fn list_directory(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let act = |state: &mut State| {
            let child = |(key, _): (&Key, &Bytes)| {
                let rest = &key.as_str()[prefix.len()..];
                let end = rest.find('/').map_or(rest.len(), |slash| slash + 1);
                format!("{prefix}{}", &rest[..end])
            };
            Ok(state.below(prefix).map(child).collect::<BTreeSet<_>>().into_iter().collect())
        };
        self.call(Operation::ListDirectory, prefix, act).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let act = |state: &mut State| {
            if state.objects.remove(key).is_some() {
                state.versions.remove(key);
                state.remember(MutationKind::Deleted, key, Bytes::new());
            }
            Ok(())
        };
        self.call(Operation::Delete, key.as_str(), act).await
    }

    async fn begin_upload(&self, key: &Key) -> Result<Upload, StoreError> {
        let act = |state: &mut State| {
            state.next_upload += 1;
            let id = state.next_upload.to_string();
            let begun = Begun { key: key.clone(), at: Instant::now(), parts: BTreeMap::new() };
            state.uploads.insert(id.clone(), begun);
            Ok(Upload { key: key.clone(), id })
        };
        self.call(Operation::BeginUpload, key.as_str(), act).await
    }

    async fn upload_part(&self, upload: &Upload, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        let act = |state: &mut State| {
            let parts = &mut state.uploads.get_mut(&upload.id).ok_or_else(|| no_upload(upload))?.parts;
            let part = UploadedPart { number, tag: tag(number, &body) };
            parts.insert(number, body);
            Ok(part)
        };
        self.call(Operation::UploadPart, upload.key.as_str(), act).await
    }

    async fn complete_upload(&self, upload: &Upload, parts: Vec<UploadedPart>) -> Result<(), StoreError> {
        self.call(Operation::CompleteUpload, upload.key.as_str(), |state| state.complete(upload, &parts)).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        let act = |state: &mut State| {
            state.uploads.remove(&upload.id);
            Ok(())
        };
        self.call(Operation::AbortUpload, upload.key.as_str(), act).await
    }

    async fn list_uploads(&self) -> Result<Option<Vec<OpenUpload>>, StoreError> {
        let act = |state: &mut State| {
            let open = |(id, begun): (&String, &Begun)| OpenUpload {
                upload: Upload { key: begun.key.clone(), id: id.clone() },
                age: begun.at.elapsed(),
            };
            Ok(Some(state.uploads.iter().map(open).collect()))
        };
        self.call(Operation::ListUploads, "", act).await
    }

    async fn presign_get(&self, _key: &Key, _valid: Duration) -> Result<Option<String>, StoreError> {
        Ok(None)
    }
}
