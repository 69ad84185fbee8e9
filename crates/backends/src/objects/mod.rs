//! The object store over `object_store`'s backends: a directory, and by cargo feature Google Cloud Storage (`gcs`) and
//! Azure Blob Storage (`azure`).
//!
//! Owns: the adapter from their calls to the port's, and uploads in parts that end in a conditional create, which none of
//! them has: parts are joined under a key of their own below `.uploads/`, and the joined object is copied to its key if
//! there is none. Does not own retries: those of the library are off.

mod directory;

#[cfg(any(feature = "gcs", feature = "azure"))]
mod cloud;

use std::ops::Range;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutMode, PutOptions, PutPayload};
use roomreel_shared::key::Key;
use roomreel_shared::ports::{Listed, ObjectStore, OpenUpload, StoreError, Upload, UploadedPart};
use serde::{Deserialize, Serialize};

#[cfg(feature = "azure")]
pub use self::cloud::{AzureConfig, AzureStore};
#[cfg(feature = "gcs")]
pub use self::cloud::{GcsConfig, GcsStore};
pub use self::directory::{Directory, DirectoryStore};

/// Limit of every call.
const LIMIT: Duration = Duration::from_secs(40);
/// What the keys of parts begin with; no key of ours does.
const UPLOADS: &str = ".uploads/";
/// The name beside the parts under which an upload is written down.
const NOTE: &str = "upload";

/// An upload, written down so that others can find it.
#[derive(Serialize, Deserialize)]
struct Note {
    key: String,
    id: String,
}

impl Note {
    fn of(upload: &Upload) -> Self {
        Self { key: upload.key.to_string(), id: upload.id.clone() }
    }
}

/// What differs between the backends.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The library's store.
    type Store: object_store::ObjectStore;

    /// The library's store.
    fn store(&self) -> &Self::Store;

    /// Begins an upload whose joined parts will stand under `joined`; gives the name of its own.
    async fn begin(&self, joined: &Path) -> object_store::Result<String>;

    /// Stores a part, numbered from 1; gives its tag.
    async fn part(&self, joined: &Path, id: &str, number: u32, body: Bytes) -> object_store::Result<String>;

    /// Joins the parts, which are in order, under `joined`.
    async fn join(&self, joined: &Path, id: &str, parts: &[UploadedPart]) -> object_store::Result<()>;

    /// Drops what is left of the upload; `joined` itself too.
    async fn clear(&self, joined: &Path, id: &str) -> object_store::Result<()>;

    /// A URL that gives the object to whoever has it.
    async fn presign(&self, path: &Path, valid: Duration) -> object_store::Result<Option<String>>;
}

/// The port over one backend.
pub struct Objects<B> {
    backend: B,
    /// As a person would name it.
    name: String,
}

impl<B: Backend> Objects<B> {
    async fn limited<T>(
        &self,
        key: &str,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(LIMIT, call).await {
            Ok(answer) => answer.map_err(|e| translate(&self.name, key, &e)),
            Err(_) => {
                let reason = format!("no answer within {LIMIT:?}");
                Err(StoreError::Unavailable { store: self.name.clone(), key: key.to_owned(), reason })
            }
        }
    }

    fn path(&self, key: &str) -> Result<Path, StoreError> {
        Path::parse(key).map_err(|e| StoreError::Refused {
            store: self.name.clone(),
            key: key.to_owned(),
            reason: e.to_string(),
        })
    }

    /// The upload's joined object and the backend's name for it, from the port's.
    fn upload(&self, upload: &Upload) -> Result<(Path, String), StoreError> {
        let (nonce, id) = upload.id.split_once('/').unwrap_or((&upload.id, ""));
        Ok((self.path(&format!("{UPLOADS}{nonce}/joined"))?, id.to_owned()))
    }

    /// Where the upload is written down.
    fn note(&self, upload: &Upload) -> Result<Path, StoreError> {
        let nonce = upload.id.split_once('/').map_or(upload.id.as_str(), |(nonce, _)| nonce);
        self.path(&format!("{UPLOADS}{nonce}/{NOTE}"))
    }

    /// Drops what is left of an upload, its note last: what is left when this breaks off is still found by it.
    async fn clear(&self, upload: &Upload) -> Result<(), StoreError> {
        let (joined, id) = self.upload(upload)?;
        let note = self.note(upload)?;
        let key = upload.key.as_str();
        let gone_is_well = |cleared| match cleared {
            Err(StoreError::NotFound { .. }) => Ok(()),
            cleared => cleared,
        };
        gone_is_well(self.limited(key, self.backend.clear(&joined, &id)).await)?;
        gone_is_well(self.limited(key, self.backend.store().delete(&note)).await)
    }
}

fn translate(store: &str, key: &str, error: &object_store::Error) -> StoreError {
    use object_store::Error as E;
    let (store, key) = (store.to_owned(), key.to_owned());
    match error {
        E::NotFound { .. } => StoreError::NotFound { key },
        E::AlreadyExists { .. } | E::Precondition { .. } => StoreError::AlreadyExists { key },
        E::Generic { .. } | E::JoinError { .. } if !denied(error) => {
            StoreError::Unavailable { store, key, reason: reasons(error) }
        }
        _ => {
            let reason =
                format!("{}; check that it exists and that we may read, write and delete there", reasons(error));
            StoreError::Refused { store, key, reason }
        }
    }
}

fn chain<'a>(error: &'a object_store::Error) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source())
}

/// The file system says so where the library has no word for it.
fn denied(error: &object_store::Error) -> bool {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    let kind = |error: &(dyn std::error::Error + 'static)| error.downcast_ref::<std::io::Error>().map(|e| e.kind());
    chain(error).any(|error| matches!(kind(error), Some(PermissionDenied | ReadOnlyFilesystem)))
}

/// The error and what is behind it, where that says more.
fn reasons(error: &object_store::Error) -> String {
    let mut text = String::new();
    for error in chain(error) {
        let reason = error.to_string();
        if !text.contains(&reason) {
            let separator = if text.is_empty() { "" } else { ": " };
            text = format!("{text}{separator}{reason}");
        }
    }
    text
}

/// The directory a prefix of keys lies in; `None` for the whole store.
fn directory_of(prefix: &str) -> Option<&str> {
    prefix.rfind('/').map(|slash| &prefix[..slash])
}

#[async_trait]
impl<B: Backend> ObjectStore for Objects<B> {
    async fn create(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        use object_store::ObjectStore as _;
        let path = self.path(key.as_str())?;
        let options = PutOptions::from(PutMode::Create);
        self.limited(key.as_str(), self.backend.store().put_opts(&path, PutPayload::from(body), options)).await?;
        Ok(())
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        let path = self.path(key.as_str())?;
        self.limited(key.as_str(), self.backend.store().put(&path, PutPayload::from(body))).await?;
        Ok(())
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        let path = self.path(key.as_str())?;
        self.limited(key.as_str(), async { self.backend.store().get(&path).await?.bytes().await }).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        let path = self.path(key.as_str())?;
        let end = range.end.min(self.size(key).await?);
        if range.start >= end {
            return Ok(Bytes::new());
        }
        self.limited(key.as_str(), self.backend.store().get_range(&path, range.start..end)).await
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        let path = self.path(key.as_str())?;
        Ok(self.limited(key.as_str(), self.backend.store().head(&path)).await?.size)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        use object_store::ObjectStore as _;
        let directory = directory_of(prefix).map(|directory| self.path(directory)).transpose()?;
        let objects: Vec<_> = self.limited(prefix, self.backend.store().list(directory.as_ref()).try_collect()).await?;
        let mut listed: Vec<_> = objects
            .into_iter()
            .filter(|object| object.location.as_ref().starts_with(prefix))
            .filter(|object| !object.location.as_ref().starts_with(UPLOADS))
            .map(|object| Listed {
                key: Key::listed(object.location.to_string()),
                size: object.size,
                version: object.e_tag.unwrap_or_default(),
            })
            .collect();
        listed.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(listed)
    }

    async fn list_directory(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        use object_store::ObjectStore as _;
        let directory = directory_of(prefix).map(|directory| self.path(directory)).transpose()?;
        let found = self.limited(prefix, self.backend.store().list_with_delimiter(directory.as_ref())).await?;
        let directories = found.common_prefixes.iter().map(|directory| format!("{directory}/"));
        let objects = found.objects.iter().map(|object| object.location.to_string());
        let mut names: Vec<_> =
            directories.chain(objects).filter(|name| name.starts_with(prefix) && name != UPLOADS).collect();
        names.sort_unstable();
        Ok(names)
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let path = self.path(key.as_str())?;
        match self.limited(key.as_str(), self.backend.store().delete(&path)).await {
            Err(StoreError::NotFound { .. }) => Ok(()),
            answer => answer,
        }
    }

    async fn begin_upload(&self, key: &Key) -> Result<Upload, StoreError> {
        let mut upload = Upload { key: key.clone(), id: format!("{:016x}", crate::nonce()) };
        let (joined, _) = self.upload(&upload)?;
        let id = self.limited(key.as_str(), self.backend.begin(&joined)).await?;
        upload.id = format!("{}/{id}", upload.id);
        let note = serde_json::to_vec(&Note::of(&upload)).expect("plain text always serializes");
        self.limited(key.as_str(), self.backend.store().put(&self.note(&upload)?, PutPayload::from(note))).await?;
        Ok(upload)
    }

    async fn upload_part(&self, upload: &Upload, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        let (joined, id) = self.upload(upload)?;
        let tag = self.limited(upload.key.as_str(), self.backend.part(&joined, &id, number, body)).await?;
        Ok(UploadedPart { number, tag })
    }

    async fn complete_upload(&self, upload: &Upload, mut parts: Vec<UploadedPart>) -> Result<(), StoreError> {
        let (joined, id) = self.upload(upload)?;
        let path = self.path(upload.key.as_str())?;
        parts.sort_by_key(|part| part.number);
        let complete = async {
            self.backend.join(&joined, &id, &parts).await?;
            self.backend.store().copy_if_not_exists(&joined, &path).await?;
            Ok(())
        };
        self.limited(upload.key.as_str(), complete).await?;
        // The object is there; what is left of its parts costs space and nothing else.
        if let Err(error) = self.clear(upload).await {
            tracing::debug!(%error, "parts of a completed upload stay behind");
        }
        Ok(())
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        self.clear(upload).await
    }

    async fn list_uploads(&self) -> Result<Option<Vec<OpenUpload>>, StoreError> {
        use object_store::ObjectStore as _;
        let directory = self.path(UPLOADS.trim_end_matches('/'))?;
        let listed: Vec<_> = self.limited(UPLOADS, self.backend.store().list(Some(&directory)).try_collect()).await?;
        let now = SystemTime::now();
        let mut open = Vec::new();
        for object in listed.iter().filter(|object| object.location.filename() == Some(NOTE)) {
            let read = async { self.backend.store().get(&object.location).await?.bytes().await };
            let note = match self.limited(object.location.as_ref(), read).await {
                Ok(body) => serde_json::from_slice::<Note>(&body).ok(),
                // It has been completed or aborted meanwhile.
                Err(StoreError::NotFound { .. }) => None,
                Err(error) => return Err(error),
            };
            let Some(note) = note else { continue };
            let upload = Upload { key: Key::listed(note.key), id: note.id };
            if self.note(&upload).is_ok_and(|of_upload| of_upload == object.location) {
                let age = now.duration_since(object.last_modified.into()).unwrap_or_default();
                open.push(OpenUpload { upload, age });
            }
        }
        Ok(Some(open))
    }

    async fn presign_get(&self, key: &Key, valid: Duration) -> Result<Option<String>, StoreError> {
        let path = self.path(key.as_str())?;
        self.limited(key.as_str(), self.backend.presign(&path, valid)).await
    }
}
