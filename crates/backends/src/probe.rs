//! Whether a store has conditional creates. Many S3-compatible stores do not, and answer as if they had.

use bytes::Bytes;
use roomreel_shared::key;
use roomreel_shared::ports::{ObjectStore, StoreError};

/// Two concurrent creates of one key: a store that keeps windows apart lets exactly one of them succeed. `nonce` is new each
/// time; the object is deleted.
///
/// # Errors
/// Where an answer leaves the question open: [`StoreError::Unavailable`], [`StoreError::Conflict`] (ask again), or
/// [`StoreError::Refused`].
pub async fn conditional_create(store: &dyn ObjectStore, nonce: u64) -> Result<bool, StoreError> {
    let key = key::probe(nonce);
    let (first, second) = futures::join!(
        store.create(&key, Bytes::from_static(b"first")),
        store.create(&key, Bytes::from_static(b"second")),
    );
    let deleted = store.delete(&key).await;
    let created = u32::from(took(first)?) + u32::from(took(second)?);
    deleted?;
    Ok(created == 1)
}

fn took(created: Result<(), StoreError>) -> Result<bool, StoreError> {
    match created {
        Ok(()) => Ok(true),
        // HTTP 409 says that the other of the two is being written: the store knows that only one may win.
        Err(StoreError::AlreadyExists { .. } | StoreError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}
