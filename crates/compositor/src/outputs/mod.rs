//! The files of a render besides its slices: what is made of them, and their way into the bucket.
//!
//! Files grow with the slices and windows they are made of, so that they are ready when the last one is in, and leave memory part by part.
//! They are functions of the slices and windows alone: a successor that takes in the same ones makes the same bytes.
//!
//! Owns every output but the playlist. Does not own slices, nor retries: every call can be made again after an error.

mod growing;
mod pictures;
mod sound;
mod stills;
mod upload;
mod webm;
mod works;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::id::CompositeId;
use roomreel_shared::key::{Key, NameError, RecordingKeys};
use roomreel_shared::output::{Kind, Names};
use roomreel_shared::ports::{ObjectStore, StoreError};
use roomreel_shared::window::Window;

pub use upload::FileUpload;

use crate::encode::{AudioConfig, EncodedSlice, VideoConfig};
use crate::export;
use crate::join::OutOfOrder;
use crate::mux;
use growing::{Content, Pieces};
use works::Works;

/// Files that are stored at once when the recording ends.
const STORED_AT_ONCE: usize = 8;

/// Why the files are not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bucket did not do what was asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Slices do not follow each other (I5).
    #[error(transparent)]
    OutOfOrder(#[from] OutOfOrder),
    /// An object in a slice's place is none.
    #[error("slice {number}: {source}")]
    Slice {
        /// Which.
        number: u64,
        /// Why not.
        source: mux::Error,
    },
    /// A template does not make a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A container cannot be written.
    #[error("write an output: {0}")]
    Container(#[from] io::Error),
    /// A track cannot be exported.
    #[error(transparent)]
    Export(#[from] export::Error),
    /// FFmpeg's libraries lack something.
    #[error("no {name}: {why}")]
    Unavailable {
        /// Their name of it.
        name: &'static str,
        /// What they say.
        why: String,
    },
    /// FFmpeg's libraries stopped working.
    #[error("{name} gave up: {why}")]
    GaveUp {
        /// Their name of what did.
        name: &'static str,
        /// What they say.
        why: String,
    },
    /// Making a file panicked: a bug.
    #[error("making the outputs crashed")]
    Crashed,
}

impl Error {
    fn unavailable(name: &'static str, why: impl ToString) -> Self {
        Self::Unavailable { name, why: why.to_string() }
    }

    fn gave_up(name: &'static str, why: impl ToString) -> Self {
        Self::GaveUp { name, why: why.to_string() }
    }

    /// Whether the same call cannot succeed later.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Store(error) => error.is_permanent(),
            _ => true,
        }
    }
}

/// A value that is reached through `&mut` alone, so that threads may share the place it is in, whatever it is.
struct Alone<T>(T);

// SAFETY: a shared reference to it gives no access to the value.
unsafe impl<T: Send> Sync for Alone<T> {}

impl<T> Alone<T> {
    fn get(&mut self) -> &mut T {
        &mut self.0
    }
}

/// The files of one render.
pub struct Outputs {
    store: Arc<dyn ObjectStore>,
    keys: RecordingKeys,
    composite: CompositeId,
    /// `None` while they work in another thread, and when they are done.
    works: Alone<Option<Box<Works>>>,
    is_done: bool,
    next_slice: u64,
    pieces: Pieces,
    uploads: BTreeMap<Key, FileUpload>,
    ready: BTreeSet<Key>,
}

impl Outputs {
    /// Files of slices with these encodings, from slice 0 on.
    ///
    /// # Errors
    /// FFmpeg's libraries lack an encoder.
    pub fn new(
        store: Arc<dyn ObjectStore>,
        keys: RecordingKeys,
        spec: &CompositeSpec,
        names: Names,
        configs: (&VideoConfig, &AudioConfig),
    ) -> Result<Self, Error> {
        let pieces = Pieces::default();
        let works = Works::new(spec, names, &keys, configs, pieces.clone())?;
        Ok(Self {
            store,
            composite: spec.id.clone(),
            works: Alone(Some(Box::new(works))),
            is_done: false,
            next_slice: 0,
            pieces,
            uploads: BTreeMap::new(),
            ready: BTreeSet::new(),
            keys,
        })
    }

    /// Takes in a slice that stands in the bucket; one that was taken in before is nothing new.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn take_in(&mut self, slice: &EncodedSlice) -> Result<(), Error> {
        if slice.number >= self.next_slice {
            let taken = slice.clone();
            self.work(move |works| works.push_slice(&taken)).await?;
            self.next_slice = slice.number + 1;
        }
        self.flush().await
    }

    /// Takes in a window; one that was taken in before is nothing new.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn take_in_window(&mut self, window: &Window) -> Result<(), Error> {
        match self.works.get() {
            Some(works) if !works.wants_windows() => works.push_window(window)?,
            _ => {
                let window = window.clone();
                self.work(move |works| works.push_window(&window)).await?;
            }
        }
        self.flush().await
    }

    /// Whether it has to see the windows' content.
    #[must_use]
    pub fn wants_windows(&mut self) -> bool {
        self.works.get().as_ref().is_some_and(|works| works.wants_windows())
    }

    /// Ends and stores every file: they stand afterwards. Their slices show the whole of what the windows tell, or a `stretch` of it.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn finish(&mut self, stretch: Option<Range<Duration>>) -> Result<(), Error> {
        if !self.is_done {
            self.take_last_pictures().await?;
            let works = self.works.get().take().ok_or(Error::Crashed)?;
            let notes = in_thread(move || works.finish(stretch)).await??;
            self.is_done = true;
            for note in notes {
                tracing::info!(composite = %self.composite, note, "a track's export lacks something");
            }
            self.sort_pieces();
        }
        // A file that its muxer gave up has no end.
        for upload in self.uploads.values_mut().filter(|upload| !upload.is_complete()) {
            upload.abort().await?;
        }
        self.uploads.retain(|_, upload| upload.is_complete());
        let store = |upload: FileUpload| async move {
            let mut upload = upload;
            let stored = upload.finish().await;
            (upload, stored)
        };
        let uploads = std::mem::take(&mut self.uploads).into_values();
        let mut storing = futures::stream::iter(uploads.map(store)).buffer_unordered(STORED_AT_ONCE);
        let mut problem = Ok(());
        while let Some((upload, stored)) = storing.next().await {
            match stored {
                Ok(()) => drop(self.ready.insert(upload.key().clone())),
                Err(error) => {
                    self.uploads.insert(upload.key().clone(), upload);
                    problem = Err(error);
                }
            }
        }
        Ok(problem?)
    }

    /// Files that stand in the bucket.
    pub fn ready(&self) -> impl Iterator<Item = &Key> {
        self.ready.iter()
    }

    /// Drops what was uploaded; for a render that is given up or moves elsewhere.
    pub async fn abandon(&mut self) {
        for upload in self.uploads.values_mut() {
            if let Err(error) = upload.abort().await {
                tracing::info!(%error, "parts of an unfinished upload remain in the bucket");
            }
        }
    }

    async fn take_last_pictures(&mut self) -> Result<(), Error> {
        let wanted = self.works.get().as_ref().ok_or(Error::Crashed)?.wanted_pictures();
        for wanted in wanted {
            let number = wanted.slice;
            let object = self.store.get(&self.keys.slice(&self.composite, number)).await?;
            let slice = mux::parse_fragment(&object).map_err(|source| Error::Slice { number, source })?;
            self.work(move |works| works.take_picture(&wanted, &slice)).await?;
        }
        Ok(())
    }

    /// Works in a thread of its own: encoding takes its time.
    async fn work(&mut self, work: impl FnOnce(&mut Works) -> Result<(), Error> + Send + 'static) -> Result<(), Error> {
        let mut works = self.works.get().take().ok_or(Error::Crashed)?;
        let (works, done) = in_thread(move || {
            let done = work(&mut works);
            (works, done)
        })
        .await?;
        *self.works.get() = Some(works);
        done
    }

    fn sort_pieces(&mut self) {
        for piece in self.pieces.take() {
            let upload = || FileUpload::new(self.store.clone(), piece.key.clone());
            let upload = self.uploads.entry(piece.key.clone()).or_insert_with(upload);
            match piece.content {
                Content::Part(part) => upload.push(part),
                Content::End(rest) => upload.end(rest),
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Error> {
        self.sort_pieces();
        for upload in self.uploads.values_mut() {
            upload.flush().await?;
        }
        // Files that have ended need not wait for the others.
        let ended: Vec<_> =
            self.uploads.values().filter(|upload| upload.is_complete()).map(|upload| upload.key().clone()).collect();
        for key in ended {
            if let Some(upload) = self.uploads.get_mut(&key) {
                upload.finish().await?;
                self.uploads.remove(&key);
                self.ready.insert(key);
            }
        }
        Ok(())
    }
}

/// Stores the pictures for a WebM beside the slice they belong to, or takes those that stand there.
///
/// # Errors
/// [`Error::Store`], [`Error::Slice`].
pub async fn keep_webm(
    store: &dyn ObjectStore,
    keys: &RecordingKeys,
    spec: &CompositeSpec,
    slice: &mut EncodedSlice,
) -> Result<(), Error> {
    if slice.webm.is_empty() {
        return Ok(());
    }
    let pictures = EncodedSlice { number: slice.number, video: slice.webm.clone(), ..EncodedSlice::default() };
    match store.create(&keys.webm_slice(&spec.id, slice.number), mux::fragment(&pictures)).await {
        Err(StoreError::AlreadyExists { .. }) => read_webm(store, keys, spec, slice).await,
        other => Ok(other?),
    }
}

/// Reads the pictures for a WebM, if one is asked for, to the slice they belong to.
///
/// # Errors
/// [`Error::Store`], [`Error::Slice`].
pub async fn read_webm(
    store: &dyn ObjectStore,
    keys: &RecordingKeys,
    spec: &CompositeSpec,
    slice: &mut EncodedSlice,
) -> Result<(), Error> {
    if spec.outputs.iter().any(|output| output.kind == Kind::Webm) {
        let number = slice.number;
        let object = store.get(&keys.webm_slice(&spec.id, number)).await?;
        slice.webm = mux::parse_fragment(&object).map_err(|source| Error::Slice { number, source })?.video;
    }
    Ok(())
}

async fn in_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Crashed)
}
