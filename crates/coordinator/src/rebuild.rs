//! Gives a coordination store that was lost back what it held of unfinished recordings, from the bucket alone.
//!
//! [`restored`] decides from `unfinished.json` and the last window; [`scan`] reads the bucket, [`apply`] writes. A record that is
//! there is left as it is, unless its epochs could not rise above those of the windows: then every owner would be taken for one
//! that had been replaced (I7), and the recording would stand still. Nothing is assigned here: the leader does that.

use futures::{StreamExt as _, stream};
use roomreel_shared::cluster::{self, ActiveRecording, FoldSpec, UnfinishedDocument};
use roomreel_shared::id::RecordingId;
use roomreel_shared::key::{Key, RecordingName};
use roomreel_shared::ports::{Change, Compare, Coordination, CoordinationError, ObjectStore, Outcome, StoreError};
use roomreel_shared::recording::{Recording, State};
use roomreel_shared::window::{FetchError, Footer, Header};
use serde::de::DeserializeOwned;

use crate::bucket;
use crate::observed::json;
use crate::perform::to_json;

/// Recordings that are looked at at once.
const CONCURRENCY: usize = 16;

/// An unfinished recording as the bucket tells it.
#[derive(Debug, Clone, PartialEq)]
pub struct Unfinished {
    /// What stands under its key once it is restored.
    pub active: ActiveRecording,
    /// Epoch of its last window; 0 if there is none.
    pub epoch: u64,
    /// Windows in the bucket.
    pub windows: u64,
}

/// What the bucket holds.
#[derive(Debug, Default)]
pub struct Scan {
    /// Recordings that were looked at.
    pub recordings: u64,
    /// Those that can be restored.
    pub unfinished: Vec<Unfinished>,
    /// Those that may be unfinished and cannot be restored, and why.
    pub unclear: Vec<(RecordingName, String)>,
}

/// What came, or would come, of restoring one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// The record was not there and is now.
    Created,
    /// The record was there; now its epochs rise above those of the windows.
    Raised,
    /// Nothing was to be done.
    Kept,
    /// Somebody else wrote at the same time; look again.
    Contended,
}

/// Why one cannot be told, or cannot be restored.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The bucket does not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no document of it.
    #[error("there is neither a final recording.json nor an unfinished.json")]
    Nothing,
    /// In words.
    #[error("{0}")]
    Unclear(String),
}

/// What the record of a recording was, from its document and its last window; `None` if it is finished. `shards` is used
/// where the document does not name it.
///
/// # Errors
/// In words: what is missing.
pub fn restored(
    document: UnfinishedDocument,
    last: Option<&Header>,
    windows: u64,
    shards: u32,
) -> Result<Option<Unfinished>, String> {
    let UnfinishedDocument { recording, fold } = document;
    if recording.state.is_final() {
        return Ok(None);
    }
    let epoch = last.map_or(0, |last| last.epoch);
    let spec = match (fold, last) {
        (Some(fold), _) => fold,
        (None, Some(last)) => from_window(&recording, last, shards),
        (None, None) => {
            return Err("unfinished.json does not say how it is folded, and there is no window to tell".to_owned());
        }
    };
    if (&spec.tenant, &spec.room, &spec.recording) != (&recording.tenant, &recording.room, &recording.id) {
        return Err("unfinished.json contradicts itself about whose recording it is".to_owned());
    }
    let spec = FoldSpec { epoch_base: spec.epoch_base.max(epoch), ..spec };
    let stopping = recording.state == State::Ending;
    Ok(Some(Unfinished { active: ActiveRecording { recording, spec, stopping }, epoch, windows }))
}

/// A fold that goes on after `last` needs little more than the window holds.
fn from_window(recording: &Recording, last: &Header, shards: u32) -> FoldSpec {
    FoldSpec {
        tenant: recording.tenant.clone(),
        room: recording.room.clone(),
        recording: recording.id.clone(),
        shards,
        from: None,
        session: None,
        beginning: None,
        start_sequence: last.carry_over.log_sequence,
        window_ms: last.window_duration_us / 1000,
        policy: last.carry_over.policy.clone().map_or_else(|| recording.policy.clone(), Into::into),
        epoch_base: 0,
    }
}

/// Looks at every recording of the bucket.
///
/// # Errors
/// As the store's, for its listings; a recording that cannot be read is [`Scan::unclear`].
pub async fn scan(store: &dyn ObjectStore, shards: u32) -> Result<Scan, StoreError> {
    let names = bucket::recordings(store).await?;
    let look = |name: RecordingName| async move { (look_at(store, &name, shards).await, name) };
    let looks = stream::iter(names.into_iter().map(look).collect::<Vec<_>>());
    let mut looks = looks.buffered(CONCURRENCY);
    let mut scan = Scan::default();
    while let Some((found, name)) = looks.next().await {
        scan.recordings += 1;
        match found {
            Ok(Some(unfinished)) => scan.unfinished.push(unfinished),
            Ok(None) => {}
            Err(why) => scan.unclear.push((name, why.to_string())),
        }
    }
    Ok(scan)
}

/// One recording; `None` if it is finished.
///
/// # Errors
/// Why it cannot be told, or cannot be restored.
pub async fn look_at(
    store: &dyn ObjectStore,
    name: &RecordingName,
    shards: u32,
) -> Result<Option<Unfinished>, LookError> {
    let keys = name.keys();
    let unclear = |why: String| LookError::Unclear(why);
    match read::<Recording>(store, &keys.recording_json()).await? {
        Some(recording) if recording.name() != *name => {
            return Err(unclear("recording.json is of another recording".to_owned()));
        }
        Some(recording) if recording.state.is_final() => return Ok(None),
        Some(_) | None => {}
    }
    let Some(document) = read::<UnfinishedDocument>(store, &keys.unfinished_json()).await? else {
        return Err(LookError::Nothing);
    };
    if document.recording.name() != *name {
        return Err(unclear("unfinished.json is of another recording".to_owned()));
    }
    let listed = store.list(&keys.windows_prefix()).await?;
    let Some((number, size)) = keys.windows_in(&listed).max() else {
        return restored(document, None, 0, shards).map_err(unclear);
    };
    let footer = Footer::fetch(store, &keys.window(number), size).await.map_err(|error| match error {
        FetchError::Store(error) => error.into(),
        FetchError::Window(error) => unclear(format!("window {number}: {error}")),
    })?;
    restored(document, Some(&footer.window().header), number + 1, shards).map_err(unclear)
}

/// A document of a recording, if it is there.
async fn read<T: DeserializeOwned>(store: &dyn ObjectStore, key: &Key) -> Result<Option<T>, LookError> {
    match store.get(key).await {
        Ok(body) => match serde_json::from_slice(&body) {
            Ok(document) => Ok(Some(document)),
            Err(error) => Err(LookError::Unclear(format!("{}: {error}", key.file_name()))),
        },
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What stands in the coordination store about a recording.
struct Standing {
    active: Option<(ActiveRecording, u64)>,
    assigned: Option<u64>,
}

impl Standing {
    async fn read(store: &dyn Coordination, id: &RecordingId) -> Result<Self, CoordinationError> {
        let active = store.get(&cluster::recording_key(id)).await?;
        let assigned = store.get(&cluster::assignment_key(id)).await?.map(|record| record.mod_revision);
        let active = active.map(|record| json(&record).map(|active| (active, record.mod_revision)));
        let active = active.transpose().map_err(|reason| CoordinationError::Refused { reason })?;
        Ok(Self { active, assigned })
    }
}

/// The transaction that restores a recording.
fn changes(unfinished: &Unfinished, standing: Standing) -> Option<(Vec<Compare>, Vec<Change>, Restored)> {
    let id = &unfinished.active.recording.id;
    let (record, assignment) = (cluster::recording_key(id), cluster::assignment_key(id));
    match standing {
        Standing { active: None, assigned } => {
            // An assignment without its record was not written by a leader that knows of this recording.
            let assigned_as_seen = match assigned {
                Some(revision) => Compare::Unchanged(assignment.clone(), revision),
                None => Compare::Absent(assignment.clone()),
            };
            let mut changes = vec![Change::Put(record.clone(), to_json(&unfinished.active), None)];
            changes.extend(assigned.map(|_| Change::Delete(assignment)));
            Some((vec![Compare::Absent(record), assigned_as_seen], changes, Restored::Created))
        }
        Standing { active: Some((active, revision)), assigned: Some(assigned) }
            if active.spec.epoch_base.saturating_add(assigned) < unfinished.epoch =>
        {
            let spec = FoldSpec { epoch_base: unfinished.active.spec.epoch_base, ..active.spec.clone() };
            let raised = ActiveRecording { spec, ..active };
            let conditions =
                vec![Compare::Unchanged(record.clone(), revision), Compare::Unchanged(assignment.clone(), assigned)];
            // Assigned anew by the leader, with the new record.
            let changes = vec![Change::Put(record, to_json(&raised), None), Change::Delete(assignment)];
            Some((conditions, changes, Restored::Raised))
        }
        Standing { .. } => None,
    }
}

/// What [`apply`] would do.
///
/// # Errors
/// As the store's.
pub async fn preview(store: &dyn Coordination, unfinished: &Unfinished) -> Result<Restored, CoordinationError> {
    let standing = Standing::read(store, &unfinished.active.recording.id).await?;
    Ok(changes(unfinished, standing).map_or(Restored::Kept, |(_, _, restored)| restored))
}

/// Restores one recording, in one transaction.
///
/// # Errors
/// As the store's; applying again is harmless.
pub async fn apply(store: &dyn Coordination, unfinished: &Unfinished) -> Result<Restored, CoordinationError> {
    let standing = Standing::read(store, &unfinished.active.recording.id).await?;
    let Some((conditions, changes, restored)) = changes(unfinished, standing) else { return Ok(Restored::Kept) };
    Ok(match store.transact(conditions, changes).await? {
        Outcome::Committed(_) => restored,
        Outcome::Conflict => Restored::Contended,
    })
}
