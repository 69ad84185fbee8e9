//! The recordings there are in a bucket, found by its names alone.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use roomreel_shared::key::RecordingName;
use roomreel_shared::ports::{ObjectStore, StoreError};

/// Listings under way at once.
const CONCURRENCY: usize = 8;

/// Every recording of every tenant, in the order of keys.
///
/// # Errors
/// As the store's.
pub async fn recordings(store: &dyn ObjectStore) -> Result<Vec<RecordingName>, StoreError> {
    let tenants = directories(store, String::new()).await?;
    let rooms = below(store, tenants.into_iter().map(|tenant| format!("{tenant}rooms/"))).await?;
    let found = below(store, rooms.into_iter().map(|room| format!("{room}recordings/"))).await?;
    Ok(found.iter().filter_map(|prefix| RecordingName::of(prefix)).collect())
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
