//! Tracks that brought a render's process down, written down beside the slices for whoever takes over.
//!
//! Owns the list. Does not own who is put on it ([`super::crashes`]). It is a hint: a track that is missing on it brings down two processes more.

use roomreel_shared::id::CompositeId;
use roomreel_shared::key::{Key, RecordingKeys};
use roomreel_shared::ports::{ObjectStore, StoreError};
use roomreel_shared::window::TrackKey;
use serde::{Deserialize, Serialize};

/// Longest list that is read: more than all tracks of a render have.
const MAX_LIST_BYTES: usize = 1 << 20;

/// A track that is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ban {
    #[serde(flatten)]
    pub(super) track: TrackKey,
    /// The first slice without it.
    pub(super) slice: u64,
    /// What is to be said of it.
    pub(super) note: String,
}

fn key(keys: &RecordingKeys, composite: &CompositeId) -> Key {
    keys.composite_file(composite, "banned.json")
}

/// Those that are known; none of a list that cannot be understood.
pub(super) async fn read(
    store: &dyn ObjectStore,
    keys: &RecordingKeys,
    composite: &CompositeId,
) -> Result<Vec<Ban>, StoreError> {
    match store.get(&key(keys, composite)).await {
        Ok(text) if text.len() <= MAX_LIST_BYTES => Ok(serde_json::from_slice(&text).unwrap_or_default()),
        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Adds one to those that are known now: spans of one render are made by several.
pub(super) async fn add(
    store: &dyn ObjectStore,
    keys: &RecordingKeys,
    composite: &CompositeId,
    ban: Ban,
) -> Result<(), StoreError> {
    let mut known = read(store, keys, composite).await?;
    known.retain(|other| other.track != ban.track);
    known.push(ban);
    let text = serde_json::to_vec(&known).expect("bans are made of what JSON can say");
    store.put(&key(keys, composite), text.into()).await
}
