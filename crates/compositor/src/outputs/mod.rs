//! The files of a render besides its slices: what is made of them, and their way into the bucket.
//!
//! Files grow with the slices and windows they are made of, so that they are ready when the last one is in, and leave memory part by part.
//! Those that are joined of slices as they are come first; those that need a decoder, an encoder or a muxer are made behind them, in a
//! process that can do nothing else, and hold nobody up. Whoever takes over goes on with the first kind and begins the second anew.
//!
//! Owns every output but the playlist. Does not own slices, nor retries: every call can be made again after an error.

mod growing;
mod joined;
mod maker;
mod pictures;
mod relay;
mod serve;
mod sound;
mod stills;
mod upload;
mod webm;
mod works;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::key::{Key, NameError, RecordingKeys};
use roomreel_shared::late::LateJob;
use roomreel_shared::output::{Kind, Names, Output};
use roomreel_shared::ports::{ObjectStore, StoreError};
use roomreel_shared::time::RoomTime;
use roomreel_shared::window::{self, TrackKey, Window};
use serde::{Deserialize, Serialize};

pub(crate) use serve::serve;
pub use upload::FileUpload;

use crate::captions::Captions;
use crate::decode::SAMPLE_RATE;
use crate::encode::{AudioConfig, EncodedSlice, SliceTable, VideoConfig};
use crate::engine::{self, Isolation};
use crate::export;
use crate::join::{Joiner, OutOfOrder};
use crate::mux;
use crate::workers::in_thread;
use growing::{Content, Piece};
use joined::{Joined, Uploads};
use maker::Maker;
use relay::Order;

/// Files that are stored at once when the recording ends.
const STORED_AT_ONCE: usize = 8;
/// Newest slices and windows that are kept for files that are made behind them.
const KEPT: usize = 2;
/// Slices whose tables are read in a step, and at once.
const TABLES_IN_A_STEP: u64 = 64;
const TABLES_AT_ONCE: usize = 16;
/// Where a slice's table ends, mostly, and at most.
const TABLE_BYTES: u64 = 16 * 1024;
const LONGEST_TABLE_BYTES: u64 = 1 << 20;

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
    /// A window is damaged.
    #[error("window {number}: {source}")]
    Window {
        /// Which.
        number: u64,
        /// How.
        source: window::Error,
    },
    /// Their process cannot go on, or there is none.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// Their process died, and what it had made with it; another one begins anew.
    #[error("the outputs' process was lost: {how}")]
    Lost {
        /// How it ended.
        how: String,
        /// Left out from now on: it was to blame.
        banned: Option<TrackKey>,
    },
    /// Their process died again and again, and no track is to blame.
    #[error("the outputs' process dies: {how}")]
    Process {
        /// How it ended the last time.
        how: String,
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
            Self::Engine(error) => error.is_permanent(),
            Self::Lost { .. } => false,
            _ => true,
        }
    }
}

/// What is known of a recording when it has ended.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Ending {
    /// How long what is rendered of it is.
    length_us: Option<i64>,
}

impl Ending {
    /// Samples of its sound, as the render counts them.
    fn samples(self) -> Option<u64> {
        self.length_us.map(|us| us.unsigned_abs() * u64::from(SAMPLE_RATE) / 1_000_000)
    }
}

/// What windows have told so far.
pub struct Told {
    windows: u64,
    /// Where the recording begins, and where it ends once that is known.
    start: Option<RoomTime>,
    end: Option<RoomTime>,
    captions: Option<(Output, Captions)>,
}

impl Told {
    /// To a composite that has seen none.
    #[must_use]
    pub fn of(spec: &CompositeSpec) -> Self {
        let output = spec.outputs.iter().find(|output| output.kind == Kind::Captions);
        let captions = output.map(|output| (output.clone(), Captions::default()));
        Self { windows: 0, start: None, end: None, captions }
    }

    /// Windows so far.
    #[must_use]
    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// Learns what a window tells, if it is the next one; its media may be missing.
    pub fn take_note(&mut self, window: &Window) {
        let header = &window.header;
        if header.window != self.windows {
            return;
        }
        self.windows += 1;
        self.start.get_or_insert(header.room_start);
        self.end = header.end.as_ref().map(|end| end.room_end);
        if let Some((_, captions)) = &mut self.captions {
            captions.push_window(window);
        }
    }
}

/// Files that need a decoder, an encoder or a muxer: they are made behind the slices.
struct Behind {
    maker: Maker,
    next_slice: u64,
    next_window: u64,
    uploads: BTreeMap<Key, FileUpload>,
    /// Everything has been made; some of it is to be stored.
    is_made: bool,
}

impl Behind {
    fn new(maker: Maker) -> Self {
        Self { maker, next_slice: 0, next_window: 0, uploads: BTreeMap::new(), is_made: false }
    }

    fn sort(&mut self, store: &Arc<dyn ObjectStore>, pieces: Vec<Piece>) {
        for Piece { key, content } in pieces {
            let upload = self.uploads.entry(key).or_insert_with_key(|key| FileUpload::new(store.clone(), key.clone()));
            match content {
                Content::Part(part) => upload.push(part),
                Content::End(rest) => upload.end(rest),
            }
        }
    }

    /// Stores what is ready; the files that stand now.
    async fn flush(&mut self) -> Result<Vec<Key>, Error> {
        for upload in self.uploads.values_mut() {
            upload.flush().await?;
        }
        // Files that have ended need not wait for the others.
        let store = |upload: FileUpload| async move {
            let mut upload = upload;
            let stored = upload.finish().await;
            (upload, stored)
        };
        let (ended, growing) =
            std::mem::take(&mut self.uploads).into_iter().partition(|(_, upload)| upload.is_complete());
        self.uploads = growing;
        let mut storing =
            futures::stream::iter(BTreeMap::into_values(ended).map(store)).buffer_unordered(STORED_AT_ONCE);
        let (mut stand, mut problem) = (Vec::new(), Ok(()));
        while let Some((upload, stored)) = storing.next().await {
            match stored {
                Ok(()) => stand.push(upload.key().clone()),
                Err(error) => {
                    self.uploads.insert(upload.key().clone(), upload);
                    problem = Err(error);
                }
            }
        }
        problem?;
        Ok(stand)
    }

    async fn abort(&mut self) {
        for upload in self.uploads.values_mut() {
            if let Err(error) = upload.abort().await {
                tracing::info!(%error, "parts of an unfinished upload remain in the bucket");
            }
        }
    }
}

/// The files of one render.
pub struct Outputs {
    store: Arc<dyn ObjectStore>,
    keys: RecordingKeys,
    spec: CompositeSpec,
    names: Names,
    /// Slices that stand in the bucket.
    slices: u64,
    told: Told,
    /// The newest, which need not be read.
    recent: VecDeque<EncodedSlice>,
    recent_windows: VecDeque<Arc<Window>>,
    joined: Vec<Joined>,
    /// What stands in the bucket of how far the joined ones are.
    saved: Uploads,
    behind: Option<Behind>,
    ready: BTreeSet<Key>,
    notes: BTreeSet<String>,
}

impl Outputs {
    /// Files of slices with these encodings, from slice 0 on, of a recording that began on the day `date`.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn new(
        store: Arc<dyn ObjectStore>,
        spec: &CompositeSpec,
        fold: &FoldSpec,
        date: String,
        (video, audio): (&VideoConfig, &AudioConfig),
        told: Told,
        isolation: Option<Arc<Isolation>>,
    ) -> Result<Self, Error> {
        let order = Order::new(spec, fold, date, (video, audio));
        let names = order.names();
        let (mut joined, mut is_behind) = (Vec::new(), !spec.tracks.is_empty());
        for output in &spec.outputs {
            let mut join = |video: Option<&VideoConfig>| -> Result<(), Error> {
                let joiner = Joiner::new(video.cloned(), audio.clone());
                joined.push(Joined::new(store.clone(), names.key(output, "")?, joiner));
                Ok(())
            };
            match output.kind {
                Kind::Hls | Kind::Captions => {}
                Kind::Mp4 => join(Some(video))?,
                Kind::M4a => join(None)?,
                Kind::Webm | Kind::Mp3 | Kind::Ogg | Kind::Thumbnails | Kind::Storyboard => is_behind = true,
            }
        }
        Ok(Self {
            keys: order.keys(),
            spec: spec.clone(),
            names,
            slices: 0,
            told,
            recent: VecDeque::new(),
            recent_windows: VecDeque::new(),
            joined,
            saved: Uploads::default(),
            behind: is_behind.then(|| Behind::new(Maker::new(order, isolation))),
            ready: BTreeSet::new(),
            notes: BTreeSet::new(),
            store,
        })
    }

    /// Goes on where somebody else has left off: so many slices stand.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn resume(&mut self, slices: u64) -> Result<(), Error> {
        let uploads = Uploads::read(&*self.store, &self.uploads_key()).await?;
        for file in &mut self.joined {
            match self.store.size(file.key()).await {
                Ok(_) => file.stands(),
                Err(StoreError::NotFound { .. }) => file.resume(&self.store, uploads.as_ref()),
                Err(error) => return Err(error.into()),
            }
        }
        self.saved = uploads.unwrap_or_default();
        self.slices = slices;
        Ok(())
    }

    fn uploads_key(&self) -> Key {
        self.keys.composite_file(&self.spec.id, "uploads.json")
    }

    /// A slice stands in the bucket; one that was told before is nothing new.
    pub fn take_in(&mut self, slice: &EncodedSlice) {
        if slice.number == self.slices {
            self.slices += 1;
            keep(&mut self.recent, slice.clone());
        }
    }

    /// Takes in a window; one that was taken in before is nothing new.
    pub fn take_in_window(&mut self, window: &Arc<Window>) {
        self.told.take_note(window);
        if !self.spec.tracks.is_empty() {
            keep(&mut self.recent_windows, window.clone());
        }
    }

    /// Whether it has to see the windows.
    #[must_use]
    pub fn wants_windows(&self) -> bool {
        self.told.captions.is_some() || !self.spec.tracks.is_empty()
    }

    /// Brings the joined files a step further towards the newest slice; `false` if they have all of them.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn join(&mut self) -> Result<bool, Error> {
        let next = self.joined.iter().map(Joined::expected).filter(|expected| *expected < self.slices).min();
        let Some(number) = next else { return Ok(false) };
        let is_recent = self.recent.iter().any(|slice| slice.number == number);
        if !is_recent && self.pass(number).await? {
            return Ok(true);
        }
        let slice = self.slice(number, false).await?;
        for file in self.joined.iter_mut().filter(|file| file.expected() == number) {
            file.push(&self.store, &slice).await?;
        }
        Ok(true)
    }

    /// Joins the slice that was taken in last, if those before it have been joined.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn join_newest(&mut self) -> Result<(), Error> {
        let is_next = |file: &Joined| file.expected().saturating_add(1) >= self.slices;
        if self.joined.iter().all(is_next) {
            self.join().await?;
        }
        Ok(())
    }

    /// Goes on behind slices that have been uploaded, by what their tables say; `false` if the first one is needed.
    async fn pass(&mut self, number: u64) -> Result<bool, Error> {
        if !self.joined.iter().any(|file| file.expected() == number && file.may_pass()) {
            return Ok(false);
        }
        let numbers = number..self.slices.min(number + TABLES_IN_A_STEP);
        let (store, keys, composite) = (&self.store, &self.keys, &self.spec.id);
        let read = |number| async move { table(&**store, &keys.slice(composite, number), number).await };
        let tables: Vec<SliceTable> =
            futures::stream::iter(numbers).map(read).buffered(TABLES_AT_ONCE).try_collect().await?;
        let mut is_passed = false;
        for table in &tables {
            for file in self.joined.iter_mut().filter(|file| file.expected() == table.number && file.may_pass()) {
                is_passed |= file.pass(table)?;
            }
        }
        Ok(is_passed)
    }

    /// The joined files have uploaded something that has not been written down.
    #[must_use]
    pub fn is_unsaved(&self) -> bool {
        Uploads::of(self.joined.iter()) != self.saved
    }

    /// Writes down what has been uploaded, for whoever takes over.
    ///
    /// # Errors
    /// [`Error::Store`].
    pub async fn save(&mut self) -> Result<(), Error> {
        let uploads = Uploads::of(self.joined.iter());
        if uploads != self.saved {
            let text = serde_json::to_vec(&uploads).expect("uploads are made of what JSON can say");
            self.store.put(&self.uploads_key(), text.into()).await?;
            self.saved = uploads;
        }
        Ok(())
    }

    /// Ends and stores what is joined of all the slices, and the captions: they stand afterwards, unless the answer is `false` and
    /// [`Self::join`] has more to do. The slices show the whole of what the windows tell, or what a `late` render shows of it.
    ///
    /// # Errors
    /// Any [`Error`].
    pub async fn finish_joined(&mut self, late: Option<&LateJob>) -> Result<bool, Error> {
        let samples = self.ending(late).samples();
        for file in &mut self.joined {
            if !file.finish(&self.store, samples).await? {
                return Ok(false);
            }
            self.ready.insert(file.key().clone());
        }
        if let Some((output, captions)) = &self.told.captions {
            // Of the whole, should this step be made again.
            let cut = late.map(|late| captions.cut(late));
            let captions = cut.as_ref().unwrap_or(captions);
            let webvtt = (self.names.key(output, ".vtt")?, captions.webvtt());
            // WebVTT without cues is one; SubRip has nothing to tell itself by.
            let srt = (captions.count().0 > 0).then(|| captions.srt());
            let srt = srt.map(|text| Ok::<_, NameError>((self.names.key(output, ".srt")?, text))).transpose()?;
            for (key, text) in [Some(webvtt), srt].into_iter().flatten() {
                match self.store.create(&key, Bytes::from(text)).await {
                    Ok(()) | Err(StoreError::AlreadyExists { .. }) => drop(self.ready.insert(key)),
                    Err(error) => return Err(error.into()),
                }
            }
            self.told.captions = None;
        }
        if !self.saved.is_empty() {
            self.store.delete(&self.uploads_key()).await?;
            self.saved = Uploads::default();
        }
        Ok(true)
    }

    /// Brings the files that are made behind the slices a step further; `false` if they have everything there is.
    ///
    /// # Errors
    /// What may pass. Whatever else goes wrong costs these files, not the render: [`Self::notes`] says so.
    pub async fn make(&mut self) -> Result<bool, Error> {
        match self.make_some().await {
            Err(error) => self.survive(error).await.map(|()| true),
            made => made,
        }
    }

    async fn make_some(&mut self) -> Result<bool, Error> {
        let Some(behind) = &self.behind else { return Ok(false) };
        let (next_slice, next_window) = (behind.next_slice, behind.next_window);
        let pieces = if next_window < self.told.windows && !self.spec.tracks.is_empty() {
            let window = self.window(next_window).await?;
            let Some(behind) = &mut self.behind else { return Ok(false) };
            let pieces = behind.maker.push_window(&window).await?;
            behind.next_window += 1;
            pieces
        } else if next_slice < self.slices {
            let slice = self.slice(next_slice, true).await?;
            let Some(behind) = &mut self.behind else { return Ok(false) };
            let pieces = behind.maker.push_slice(&slice).await?;
            behind.next_slice += 1;
            pieces
        } else {
            return Ok(false);
        };
        let Some(behind) = &mut self.behind else { return Ok(false) };
        behind.sort(&self.store, pieces);
        self.ready.extend(behind.flush().await?);
        Ok(true)
    }

    /// Ends and stores the files that are made behind the slices: they stand afterwards, unless the answer is `false` and [`Self::make`] has
    /// more to do.
    ///
    /// # Errors
    /// As [`Self::make`].
    pub async fn finish_made(&mut self, late: Option<&LateJob>) -> Result<bool, Error> {
        match self.finish_some(self.ending(late)).await {
            Err(error) => self.survive(error).await.map(|()| false),
            Ok(()) => Ok(true),
        }
    }

    async fn finish_some(&mut self, ending: Ending) -> Result<(), Error> {
        let Some(behind) = &mut self.behind else { return Ok(()) };
        if !behind.is_made {
            for wanted in behind.maker.wanted().await? {
                let slice = read_slice(&*self.store, &self.keys, &self.spec, wanted.slice).await?;
                let pieces = behind.maker.take_picture(&wanted, &slice).await?;
                behind.sort(&self.store, pieces);
            }
            let (pieces, notes) = behind.maker.finish(ending).await?;
            behind.sort(&self.store, pieces);
            behind.is_made = true;
            for note in notes {
                tracing::info!(composite = %self.spec.id, note, "a track's export lacks something");
            }
            // A file that its muxer gave up has no end.
            for upload in behind.uploads.values_mut().filter(|upload| !upload.is_complete()) {
                upload.abort().await?;
            }
            behind.uploads.retain(|_, upload| upload.is_complete());
        }
        self.ready.extend(behind.flush().await?);
        self.behind = None;
        Ok(())
    }

    /// After an error the files are made anew, or given up where that would not help; only what may pass by itself is an error here too.
    async fn survive(&mut self, error: Error) -> Result<(), Error> {
        let (recording, composite) = (self.keys.prefix(), &self.spec.id);
        let is_lost = match &error {
            Error::Lost { banned: Some(track), how } => {
                let TrackKey { sfu, track } = track;
                tracing::warn!(
                    recording, %composite, %sfu, %track, how,
                    "a track brings the outputs' process down and is left out of the exports; keep the recording and report it"
                );
                self.notes.insert(format!(
                    "track {track} of {sfu} is not exported: writing it brought the process down: {how}"
                ));
                true
            }
            Error::Lost { banned: None, how } => {
                tracing::info!(recording, %composite, how, "the outputs' process was lost; another one begins anew");
                true
            }
            error if error.is_permanent() => false,
            _ => return Err(error),
        };
        let Some(mut behind) = self.behind.take() else { return Ok(()) };
        behind.abort().await;
        if is_lost {
            self.behind = Some(Behind::new(behind.maker));
        } else {
            tracing::warn!(recording, %composite, %error, "outputs beside the slices are given up; `roomreel render` makes them again");
            self.notes.insert(format!("composite {composite}: some of its outputs were given up: {error}"));
        }
        Ok(())
    }

    /// Files that stand in the bucket.
    pub fn ready(&self) -> impl Iterator<Item = &Key> {
        self.ready.iter()
    }

    /// What is to be said of them.
    pub fn notes(&self) -> impl Iterator<Item = &str> {
        self.notes.iter().map(String::as_str)
    }

    /// Drops what was uploaded and nobody can go on with; for a render that is given up or moves elsewhere.
    pub async fn abandon(&mut self) {
        if let Some(behind) = &mut self.behind {
            behind.abort().await;
        }
        if !self.saved.is_empty() {
            return;
        }
        for file in &mut self.joined {
            if let Err(error) = file.abandon().await {
                tracing::info!(%error, "parts of an unfinished upload remain in the bucket");
            }
        }
    }

    fn ending(&self, late: Option<&LateJob>) -> Ending {
        let told = || Some(self.told.end?.micros_since(self.told.start?).max(0));
        let cut = late.map(|late| late.length().as_micros() as i64);
        Ending { length_us: cut.or_else(told) }
    }

    /// A slice that stands, with its pictures for a WebM if they are wanted.
    async fn slice(&self, number: u64, with_webm: bool) -> Result<EncodedSlice, Error> {
        if let Some(slice) = self.recent.iter().find(|slice| slice.number == number) {
            return Ok(slice.clone());
        }
        let mut slice = read_slice(&*self.store, &self.keys, &self.spec, number).await?;
        if with_webm {
            read_webm(&*self.store, &self.keys, &self.spec, &mut slice).await?;
        }
        Ok(slice)
    }

    async fn window(&self, number: u64) -> Result<Arc<Window>, Error> {
        if let Some(window) = self.recent_windows.iter().find(|window| window.header.window == number) {
            return Ok(window.clone());
        }
        let object = self.store.get(&self.keys.window(number)).await?;
        let window = in_thread(Error::Crashed, move || Window::parse(object)).await?;
        Ok(Arc::new(window.map_err(|source| Error::Window { number, source })?))
    }
}

fn keep<T>(recent: &mut VecDeque<T>, newest: T) {
    recent.push_back(newest);
    if recent.len() > KEPT {
        recent.pop_front();
    }
}

async fn read_slice(
    store: &dyn ObjectStore,
    keys: &RecordingKeys,
    spec: &CompositeSpec,
    number: u64,
) -> Result<EncodedSlice, Error> {
    let object = store.get(&keys.slice(&spec.id, number)).await?;
    mux::parse_fragment(&object).map_err(|source| Error::Slice { number, source })
}

/// What tables say of a slice.
async fn table(store: &dyn ObjectStore, key: &Key, number: u64) -> Result<SliceTable, Error> {
    for bytes in [TABLE_BYTES, LONGEST_TABLE_BYTES] {
        let beginning = store.get_range(key, 0..bytes).await?;
        match mux::parse_table(&beginning) {
            Err(_) if beginning.len() as u64 == bytes => {}
            table => return table.map_err(|source| Error::Slice { number, source }),
        }
    }
    let object = store.get(key).await?;
    mux::parse_table(&object).map_err(|source| Error::Slice { number, source })
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
    let body = mux::fragment(&pictures).map_err(|source| Error::Slice { number: slice.number, source })?;
    match store.create(&keys.webm_slice(&spec.id, slice.number), body).await {
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
