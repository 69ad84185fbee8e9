//! A directory as object store.
//!
//! An object is written to a file beside its place, synced, and linked to its name if there is none; then the directory is
//! synced. So an object whose create was answered survives a loss of power as far as the disk keeps its word, and one
//! under its name is whole. Parts of an upload are objects below `.uploads/`; a process that dies in the middle of one
//! leaves them there, with a note of which upload it was. Processes on one machine may share a directory.

use std::path::Path as FilePath;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{MultipartUpload as _, ObjectStore as _, ObjectStoreExt as _, PutPayload};
use roomreel_shared::ports::{StoreError, UploadedPart};

use super::{Backend, NOTE, Objects};

/// A directory of this machine.
pub struct Directory(LocalFileSystem);

/// The object store in a directory.
pub type DirectoryStore = Objects<Directory>;

impl DirectoryStore {
    /// Opens the directory, which is created if there is none.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if it cannot be created or is none.
    pub fn open(path: impl AsRef<FilePath>) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let refused = |reason: String| StoreError::Refused {
            store: name.clone(),
            key: "every key".to_owned(),
            reason: format!("{reason}; name a directory that can be written to"),
        };
        std::fs::create_dir_all(path).map_err(|e| refused(e.to_string()))?;
        let store = LocalFileSystem::new_with_prefix(path).map_err(|e| refused(e.to_string()))?;
        Ok(Self { backend: Directory(store.with_fsync(true)), name })
    }
}

/// Where a part stands: beside the joined object.
fn part_path(joined: &Path, number: u32) -> Path {
    let upload = joined.as_ref().trim_end_matches("joined");
    Path::from(format!("{upload}{number:05}"))
}

#[async_trait]
impl Backend for Directory {
    type Store = LocalFileSystem;

    fn store(&self) -> &LocalFileSystem {
        &self.0
    }

    async fn begin(&self, _joined: &Path) -> object_store::Result<String> {
        Ok(String::new())
    }

    async fn part(&self, joined: &Path, _id: &str, number: u32, body: Bytes) -> object_store::Result<String> {
        let tag = body.len().to_string();
        self.0.put(&part_path(joined, number), PutPayload::from(body)).await?;
        Ok(tag)
    }

    async fn join(&self, joined: &Path, _id: &str, parts: &[UploadedPart]) -> object_store::Result<()> {
        let mut join = self.0.put_multipart(joined).await?;
        for part in parts {
            let body = self.0.get(&part_path(joined, part.number)).await?.bytes().await?;
            join.put_part(PutPayload::from(body)).await?;
        }
        join.complete().await?;
        Ok(())
    }

    async fn clear(&self, joined: &Path, _id: &str) -> object_store::Result<()> {
        let upload = Path::from(joined.as_ref().trim_end_matches("/joined"));
        let left: Vec<_> = self.0.list(Some(&upload)).try_collect().await?;
        for object in left.iter().filter(|object| object.location.filename() != Some(NOTE)) {
            self.0.delete(&object.location).await?;
        }
        Ok(())
    }

    async fn presign(&self, _path: &Path, _valid: Duration) -> object_store::Result<Option<String>> {
        Ok(None)
    }
}
