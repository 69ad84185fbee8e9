//! Recordings as a user names them, and the windows of one, from a bucket or a directory.
//!
//! Owns how a user names a recording. Does not own what is done with it.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use roomreel_coordinator::bucket;
use roomreel_shared::key::{Key, RecordingName};
use roomreel_shared::ports::{Listed, ObjectStore, StoreError};

use crate::outside;
use crate::settings::StoreArgs;

/// Windows that are fetched ahead of the one being read.
const FETCH_AHEAD: usize = 4;
/// Parts of a recording's prefix: {tenant}/rooms/{room}/recordings/{recording}
const LEVELS: usize = 5;

/// The recording that `target` names, and where it is: by its directory, or with a store that is given by its prefix or its id.
///
/// # Errors
/// If there is none, or no such store.
pub async fn find(target: &str, store: &StoreArgs) -> anyhow::Result<(Arc<dyn ObjectStore>, RecordingName)> {
    if store.is_given() {
        let store = store.open().await?;
        let name = match RecordingName::of(target) {
            Some(name) => name,
            None => look_up(&*store, target).await?,
        };
        return Ok((store, name));
    }
    let path = directory(target)?.canonicalize().with_context(|| target.to_owned())?;
    let name = path.ancestors().nth(LEVELS).and_then(|root| {
        let below = path.strip_prefix(root).ok()?.to_str()?;
        Some((root, RecordingName::of(below)?))
    });
    let Some((root, name)) = name else {
        bail!("{target} is not the directory of a recording: …/TENANT/rooms/ROOM/recordings/RECORDING");
    };
    Ok((outside::directory(root).await?, name))
}

async fn look_up(store: &dyn ObjectStore, id: &str) -> anyhow::Result<RecordingName> {
    let all = bucket::recordings(store).await.context("look for the recording")?;
    let found = all.into_iter().find(|name| name.recording.as_str() == id);
    found.with_context(|| format!("there is no recording {id} in the store"))
}

/// The directory that `target` names.
///
/// # Errors
/// If there is none, or it may not be looked at.
pub fn directory(target: &str) -> anyhow::Result<&Path> {
    let path = Path::new(target);
    match path.metadata() {
        Ok(found) if found.is_dir() => Ok(path),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error).with_context(|| target.to_owned()),
        _ => bail!("there is no directory {target}; for a recording in a bucket give --store as well"),
    }
}

/// Where a recording's objects are.
pub struct RecordingFiles {
    /// The bucket, or the recording's directory.
    store: Arc<dyn ObjectStore>,
    /// What the keys of windows begin with.
    windows: String,
    target: String,
}

impl RecordingFiles {
    /// Opens `target`: a directory, or with a store that is given the prefix or the id of a recording in it.
    ///
    /// # Errors
    /// If there is no such directory, or no such store.
    pub async fn open(target: &str, store: &StoreArgs) -> anyhow::Result<Self> {
        let target = target.trim_end_matches('/');
        let target = target.strip_suffix("/windows").unwrap_or(target).to_owned();
        if store.is_given() {
            let store = store.open().await?;
            let windows = match target.contains('/') {
                true => format!("{target}/windows/"),
                false => look_up(&*store, &target).await?.keys().windows_prefix(),
            };
            return Ok(Self { store, windows, target });
        }
        let path = directory(&target)?;
        // Windows that were copied somewhere need no more than a directory.
        let windows = if path.join("windows").is_dir() { "windows/" } else { "" };
        Ok(Self { store: outside::directory(path).await?, windows: windows.to_owned(), target })
    }

    /// The window objects that there are, in order, each with its key.
    ///
    /// # Errors
    /// If there are none, or they cannot be listed.
    pub async fn windows(&self) -> anyhow::Result<BoxStream<'static, (Key, Result<Bytes, StoreError>)>> {
        let mut listed = self.store.list(&self.windows).await.context("list the windows")?;
        listed.retain(|object| object.key.as_str().ends_with(".win"));
        if listed.is_empty() {
            bail!(
                "there is no window object (*.win) in {}; give the directory or the prefix of a recording",
                self.target
            );
        }
        let store = self.store.clone();
        let fetch = move |object: Listed| {
            let store = store.clone();
            async move {
                let body = store.get(&object.key).await;
                (object.key, body)
            }
        };
        Ok(futures::stream::iter(listed).map(fetch).buffered(FETCH_AHEAD).boxed())
    }
}
