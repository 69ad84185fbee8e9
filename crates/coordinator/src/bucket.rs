//! The recordings there are in a bucket, found by its names alone.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use roomreel_shared::key::RecordingName;
use roomreel_shared::ports::{ObjectStore, StoreError};

/// Listings under way at once.
const CONCURRENCY: usize = 8;

/// What a bucket has where recordings lie.
#[derive(Debug, Default)]
pub struct Names {
    /// Recordings of all tenants, in the order of keys.
    pub recordings: Vec<RecordingName>,
    /// Directories among them whose names are none of ours.
    pub foreign: u64,
}

/// Every recording of every tenant, in the order of keys.
///
/// # Errors
/// As the store's.
pub async fn recordings(store: &dyn ObjectStore) -> Result<Vec<RecordingName>, StoreError> {
    Ok(names(store).await?.recordings)
}

/// Everything that lies where recordings do.
///
/// # Errors
/// As the store's.
pub async fn names(store: &dyn ObjectStore) -> Result<Names, StoreError> {
    let tenants = directories(store, String::new()).await?;
    let rooms = below(store, tenants.into_iter().map(|tenant| format!("{tenant}rooms/"))).await?;
    let found = below(store, rooms.into_iter().map(|room| format!("{room}recordings/"))).await?;
    let recordings: Vec<_> = found.iter().filter_map(|prefix| RecordingName::of(prefix)).collect();
    let foreign = (found.len() - recordings.len()) as u64;
    Ok(Names { recordings, foreign })
}

async fn below(store: &dyn ObjectStore, prefixes: impl Iterator<Item = String>) -> Result<Vec<String>, StoreError> {
    let lists = stream::iter(prefixes.map(|prefix| directories(store, prefix)).collect::<Vec<_>>());
    let lists: Vec<_> = lists.buffered(CONCURRENCY).try_collect().await?;
    Ok(lists.into_iter().flatten().collect())
}

async fn directories(store: &dyn ObjectStore, prefix: String) -> Result<Vec<String>, StoreError> {
    let mut names = store.list_directory(&prefix).await?;
    names.retain(|name| name.ends_with('/'));
    Ok(names)
}
