//! What the bucket says of late renders: two documents of each, `render.json` and `rendered.json`.
//!
//! A composite's `render.json` is created when it is asked for, which binds its id to what was asked, and replaced when it fails. A
//! render that is complete has a `rendered.json`, which is created once, as `recording.json` is: a leader that was paused in the middle
//! of writing takes nothing back. What the recording lists of late renders is read from these documents ([`listed`]), never written.

mod media;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use roomreel_layout::{Document, Layout};
use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::id::{CompositeId, PeerId};
use roomreel_shared::key::{RecordingKeys, RecordingName};
use roomreel_shared::late::{ActiveRender, Cuts, Division, LateRender, LateSpec, LateState};
use roomreel_shared::policy::Policy;
use roomreel_shared::ports::{Listed, ObjectStore, StoreError};
use roomreel_shared::recording::Recording;
use roomreel_shared::window::{FetchError, Footer};
use time::OffsetDateTime;

use crate::perform::to_json;

use media::Media;

/// Footers that are read at once.
const CONCURRENCY: usize = 64;

/// A field that cannot be as it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub struct FieldError {
    /// The field, as in `composite.layout.regions.main.width`.
    pub path: String,
    /// What is wrong with it, and what would be right.
    pub why: String,
}

/// Whether a composite can be rendered, its layout included; `path` is what its fields are below.
///
/// # Errors
/// The first field that is out of its range.
pub fn check_composite(path: &str, composite: &CompositeSpec) -> Result<(), FieldError> {
    let refuse = |field: &str, why| FieldError { path: format!("{path}.{field}"), why };
    composite.check().map_err(|e| refuse(e.field, e.why))?;
    check_layout(&composite.layout, composite.width, composite.height).map_err(|e| refuse(&e.path, e.why))
}

/// Whether a text is a layout for a canvas of this size; `layout` is what its fields are below.
///
/// # Errors
/// The first field that is out of its range.
pub fn check_layout(layout: &str, width: u32, height: u32) -> Result<(), FieldError> {
    roomreel_layout::parse(layout).and_then(|layout| layout.check(width, height)).map_err(refused)
}

fn refused(error: roomreel_layout::Error) -> FieldError {
    match error {
        roomreel_layout::Error::Document { path, why } if path != "layout" => {
            FieldError { path: format!("layout.{path}"), why }
        }
        roomreel_layout::Error::Document { why, .. } => FieldError { path: "layout".to_owned(), why },
        unknown @ roomreel_layout::Error::UnknownName { .. } => {
            FieldError { path: "layout".to_owned(), why: unknown.to_string() }
        }
    }
}

/// Why a recording cannot be rendered again.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The bucket does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its windows do not permit it.
    #[error("{0}")]
    NotRenderable(String),
}

/// A recording that has ended, as its windows tell of it.
#[derive(Debug, Clone)]
pub struct Source {
    /// What a render has to know.
    pub fold: FoldSpec,
    /// Its length on the room's clock.
    pub length: Duration,
    /// All who ever were there, where that is known.
    people: Option<BTreeSet<PeerId>>,
    /// When there was media, if that was looked for.
    media: Option<Media>,
}

impl Source {
    /// As the windows in this listing tell.
    ///
    /// # Errors
    /// Either [`SourceError`].
    pub async fn of_listed(
        store: &dyn ObjectStore,
        name: &RecordingName,
        listed: &[Listed],
    ) -> Result<Self, SourceError> {
        let not = |why: String| Err(SourceError::NotRenderable(why));
        let keys = name.keys();
        let sizes: BTreeMap<_, _> = keys.windows_in(listed).collect();
        let Some((&last, &size)) = sizes.last_key_value() else {
            return not("the recording has no windows".to_owned());
        };
        if last + 1 != sizes.len() as u64 {
            return not("windows of the recording are missing; `roomreel verify` says which".to_owned());
        }
        let footer = Footer::fetch(store, &keys.window(last), size).await.map_err(|error| unread(last, error))?;
        let header = &footer.window().header;
        let Some(end) = header.end else {
            return not("the recording has no last window: it was given up while it ran".to_owned());
        };
        let fold = FoldSpec {
            tenant: name.tenant.clone(),
            room: name.room.clone(),
            recording: name.recording.clone(),
            window_ms: (header.window_duration_us / 1000).max(1),
            // What only a fold looks at.
            shards: 1,
            from: None,
            session: None,
            beginning: None,
            start_sequence: 0,
            policy: Policy::default(),
            epoch_base: 0,
        };
        let length = end.room_end.saturating_since(header.room_start);
        Ok(Self { fold, length, people: header.people(), media: None })
    }

    /// Looks at the windows of a recording as far as what is asked of it needs.
    ///
    /// # Errors
    /// Either [`SourceError`].
    pub async fn asked(store: &dyn ObjectStore, name: &RecordingName, spec: &LateSpec) -> Result<Self, SourceError> {
        let listed = store.list(&name.keys().windows_prefix()).await?;
        let source = Self::of_listed(store, name, &listed).await?;
        // What is no layout is refused by `render`.
        let layout = roomreel_layout::parse(&spec.composite.layout).ok();
        let is_trimmed = layout.as_ref().and_then(Layout::document).is_some_and(Document::trim);
        let media = if is_trimmed { Some(media(store, name, &listed).await?) } else { None };
        Ok(Self { media, ..source })
    }

    /// Slices of a composite of the whole of it.
    #[must_use]
    pub fn slices(&self) -> u64 {
        Division::of(self.length, Duration::from_millis(self.fold.window_ms)).slices
    }

    /// A late render of it that begins now, or goes on from the slices that exist.
    ///
    /// # Errors
    /// The first field that is out of its range.
    pub fn render(&self, spec: LateSpec, requested_by: &str, now: OffsetDateTime) -> Result<ActiveRender, FieldError> {
        check_composite("composite", &spec.composite)?;
        if let Some(people) = &self.people {
            let layout = roomreel_layout::parse(&spec.composite.layout);
            let checked = layout.and_then(|layout| layout.check_sources(&self.fold.recording, people));
            checked.map_err(refused).map_err(|e| FieldError { path: format!("composite.{}", e.path), why: e.why })?;
        }
        spec.check(self.length).map_err(|e| FieldError { path: e.field.to_owned(), why: e.why })?;
        let asked = spec.stretch(self.length);
        let (stretch, cuts) =
            self.media.as_ref().map_or((asked.clone(), Cuts::default()), |media| media.trim(asked.clone()));
        let length = cuts.shown_at(stretch.end - stretch.start);
        let division = Division::of(length, Duration::from_millis(self.fold.window_ms));
        let us = |at: Duration| u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        let parts = cuts.sources(0..us(length), 1_000_000).into_iter();
        let on_recording = |behind: u64| (us(stretch.start).saturating_add(behind)) / 1000;
        let render = LateRender {
            recording: self.fold.recording.clone(),
            spec,
            state: LateState::Rendering,
            reason: "slices are being made".to_owned(),
            slices: division.slices,
            rendered: 0,
            duration_ms: us(length) / 1000,
            shown_ms: parts.map(|part| (on_recording(part.start), on_recording(part.end))).collect(),
            requested_by: requested_by.to_owned(),
            created_at: now,
            finished_at: None,
            files: Vec::new(),
        };
        Ok(ActiveRender {
            render,
            fold: self.fold.clone(),
            stretch_us: (us(stretch.start), us(stretch.end)),
            cuts,
            division,
            spans_per_job: 0,
            done: BTreeSet::new(),
        })
    }
}

fn unread(window: u64, error: FetchError) -> SourceError {
    match error {
        FetchError::Store(error) => SourceError::Store(error),
        FetchError::Window(error) => SourceError::NotRenderable(format!("window {window}: {error}")),
    }
}

/// When there was media in a recording.
async fn media(store: &dyn ObjectStore, name: &RecordingName, listed: &[Listed]) -> Result<Media, SourceError> {
    let keys = name.keys();
    let windows: Vec<_> = keys.windows_in(listed).collect();
    let footers = windows.into_iter().map(async |(number, size)| {
        let footer = Footer::fetch(store, &keys.window(number), size).await;
        footer.map_err(|error| unread(number, error))
    });
    let mut footers = pin!(stream::iter(footers).buffered(CONCURRENCY));
    let mut media = Media::default();
    while let Some(footer) = footers.next().await {
        media.see(footer?.window());
    }
    Ok(media)
}

/// Binds a composite's id to what is asked of it: creates its `render.json`, or answers the one that is there.
///
/// # Errors
/// As the store's; the call can be made again.
pub async fn bind(store: &dyn ObjectStore, asked: &ActiveRender) -> Result<LateRender, StoreError> {
    let fold = &asked.fold;
    let keys = RecordingKeys::new(&fold.tenant, &fold.room, &fold.recording);
    let composite = &asked.render.spec.composite.id;
    if let Some(there) = document(store, &keys, composite).await? {
        return Ok(there);
    }
    match store.create(&keys.render_json(composite), to_json(&asked.render)).await {
        Ok(()) => Ok(asked.render.clone()),
        Err(StoreError::AlreadyExists { key }) => document(store, &keys, composite).await?.ok_or(StoreError::Refused {
            store: "the bucket".to_owned(),
            key,
            reason: "the object is no render.json; give the composite another id".to_owned(),
        }),
        Err(error) => Err(error),
    }
}

/// How a late render stands or ended; `None` if the composite is none, or its documents are not ours.
///
/// # Errors
/// As the store's.
pub async fn document(
    store: &dyn ObjectStore,
    keys: &RecordingKeys,
    composite: &CompositeId,
) -> Result<Option<LateRender>, StoreError> {
    // Once it is complete, `render.json` says nothing any more: whoever was paused may still write there.
    for key in [keys.rendered_json(composite), keys.render_json(composite)] {
        match store.get(&key).await {
            Ok(body) => {
                let read = serde_json::from_slice(&body).ok();
                if let Some(found) = read.filter(|found: &LateRender| found.spec.composite.id == *composite) {
                    return Ok(Some(found));
                }
            }
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Writes down how a late render ended: once, if it is complete.
///
/// # Errors
/// As the store's; the call can be made again.
pub async fn record(store: &dyn ObjectStore, fold: &FoldSpec, render: &LateRender) -> Result<(), StoreError> {
    let keys = RecordingKeys::new(&fold.tenant, &fold.room, &fold.recording);
    let composite = &render.spec.composite.id;
    if render.state != LateState::Complete {
        return store.put(&keys.render_json(composite), to_json(render)).await;
    }
    match store.create(&keys.rendered_json(composite), to_json(render)).await {
        Ok(()) | Err(StoreError::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A recording that has ended, with the late renders that are complete and their files.
///
/// # Errors
/// As the store's.
pub async fn listed(store: &dyn ObjectStore, mut recording: Recording) -> Result<Recording, StoreError> {
    let keys = recording.name().keys();
    for entry in store.list_directory(&format!("{}composites/", keys.prefix())).await? {
        let token = entry.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        let Ok(composite) = CompositeId::from_token(token) else { continue };
        if recording.composites.iter().any(|listed| listed.id == composite) {
            continue;
        }
        let complete = document(store, &keys, &composite).await?.filter(|render| render.state == LateState::Complete);
        let Some(LateRender { spec, files, .. }) = complete else { continue };
        recording.composites.push(spec.composite);
        recording.files.extend(files);
        recording.files.sort();
        recording.files.dedup();
    }
    Ok(recording)
}
