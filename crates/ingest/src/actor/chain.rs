//! The chain of windows in the bucket: its end is read at take-over, and it grows by commits.

use std::sync::Arc;

use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::key::{Key, RecordingKeys};
use roomreel_shared::pieces::Pieces;
use roomreel_shared::ports::{MIN_PART_BYTES, ObjectStore, StoreError};
use roomreel_shared::window::Window;
use tracing::Instrument as _;

use crate::commit::{Step, after_create, after_read_back, backoff};
use crate::metrics::Metrics;
use crate::room::SealedWindow;

/// Windows above this go up in parts.
const WHOLE_BYTES: usize = 64 * 1024 * 1024;
/// The length of such a part.
const PART_BYTES: usize = 4 * MIN_PART_BYTES;
/// Failures after which somebody may have to look.
const WARN_AFTER: u32 = 3;

/// How a commit ended.
#[derive(Debug)]
pub(crate) enum Committed {
    /// The window is ours.
    Ours(Box<SealedWindow>, std::time::Duration),
    /// Another owner's window stands in its place.
    Adopt,
    /// A newer owner is at work.
    Fenced { held: u64, current: u64 },
}

/// Reads the end of the chain, from which a take-over begins; tries for ever, for without it nothing can be recorded.
pub(crate) async fn load(store: &dyn ObjectStore, spec: &FoldSpec) -> Option<Box<Window>> {
    let keys = RecordingKeys::new(&spec.tenant, &spec.room, &spec.recording);
    let mut failures = 0;
    loop {
        match last_window(store, &keys).await {
            Ok(last) => return last.map(Box::new),
            Err(reason) => {
                failures += 1;
                if failures == WARN_AFTER {
                    tracing::warn!(recording = %spec.recording, %reason, "the windows of a recording cannot be read; trying again");
                }
                tokio::time::sleep(backoff(failures)).await;
            }
        }
    }
}

async fn last_window(store: &dyn ObjectStore, keys: &RecordingKeys) -> Result<Option<Window>, String> {
    let listed = store.list(&keys.windows_prefix()).await.map_err(|error| error.to_string())?;
    let Some(last) = listed.iter().filter_map(|listed| keys.window_number(&listed.key)).max() else { return Ok(None) };
    let key = keys.window(last);
    let object = store.get(&key).await.map_err(|error| error.to_string())?;
    Window::parse(object).map(Some).map_err(|error| format!("{key}: {error}"))
}

/// Commits a window; tries until what stands under its key is known.
pub(crate) async fn commit(
    store: Arc<dyn ObjectStore>,
    key: Key,
    window: Box<SealedWindow>,
    metrics: Arc<Metrics>,
) -> Committed {
    let span = tracing::info_span!(
        "commit window",
        %key,
        window = window.header.window,
        bytes = window.object.len(),
        traceparent = window.header.trace_parent.as_deref()
    );
    resolve(store, key, window, metrics).instrument(span).await
}

async fn resolve(store: Arc<dyn ObjectStore>, key: Key, window: Box<SealedWindow>, metrics: Arc<Metrics>) -> Committed {
    let begun = tokio::time::Instant::now();
    let mut failures = 0;
    let mut step = Step::Create;
    loop {
        step = match step {
            Step::Done => return Committed::Ours(window, begun.elapsed()),
            Step::Adopt(_) => return Committed::Adopt,
            Step::Fenced { held, current } => return Committed::Fenced { held, current },
            Step::Create => {
                let answer = create(&*store, &key, window.object.clone()).await;
                if let Err(error) = &answer {
                    failures += 1;
                    metrics.commit_retries.add(1, &[]);
                    if failures == WARN_AFTER || error.is_permanent() && failures == 1 {
                        tracing::warn!(%error, "a window cannot be committed; the log keeps what comes, trying again");
                    }
                }
                after_create(&answer).paced(failures)
            }
            Step::ReadBack => after_read_back(store.get(&key).await, window.hash, window.header.epoch),
            Step::CreateLater => {
                tokio::time::sleep(backoff(failures)).await;
                Step::Create
            }
            Step::ReadBackLater => {
                failures += 1;
                tokio::time::sleep(backoff(failures)).await;
                Step::ReadBack
            }
        };
    }
}

async fn create(store: &dyn ObjectStore, key: &Key, object: Pieces) -> Result<(), StoreError> {
    if object.len() <= WHOLE_BYTES {
        return store.create_of(key, object).await;
    }
    let upload = store.begin_upload(key).await?;
    let mut parts = Vec::new();
    let mut result = Ok(());
    for (number, start) in (1..).zip((0..object.len()).step_by(PART_BYTES)) {
        let part = object.slice(start..start + PART_BYTES).joined();
        match store.upload_part(&upload, number, part).await {
            Ok(part) => parts.push(part),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    if result.is_ok() {
        result = store.complete_upload(&upload, parts).await;
    }
    if result.is_err()
        && let Err(error) = store.abort_upload(&upload).await
    {
        tracing::debug!(%key, %error, "parts of an upload stay until the bucket's lifecycle rule removes them");
    }
    result
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use roomreel_backends::memory::MemoryStore;
    use roomreel_backends::memory::faults::{Fault, Operation, Script};

    use super::*;
    use crate::story;

    #[tokio::test]
    async fn a_window_too_large_for_one_put_goes_up_in_parts() {
        let faults = Script::new();
        let store = MemoryStore::new().with_history();
        let faulty = store.clone().with_faults(Arc::new(faults.clone()));
        let keys = RecordingKeys::new(&story::tenant(), &story::room(), &story::recording());
        let object: Bytes = (0..=WHOLE_BYTES).map(|at| at as u8).collect::<Vec<_>>().into();
        faults.push(Operation::UploadPart, Fault::FailBefore);
        let failed = create(&faulty, &keys.window(0), object.clone().into()).await;
        assert!(matches!(failed, Err(StoreError::Unavailable { .. })), "{failed:?}");
        assert!(
            matches!(store.get(&keys.window(0)).await, Err(StoreError::NotFound { .. })),
            "half of it is not there"
        );
        faults.push(Operation::CompleteUpload, Fault::LoseAnswer);
        let unsaid = create(&faulty, &keys.window(0), object.clone().into()).await;
        assert!(matches!(after_create(&unsaid), Step::ReadBackLater), "{unsaid:?}");
        let stored = store.get(&keys.window(0)).await.expect("it is there");
        assert!(stored == object, "in its order");
        let again = create(&faulty, &keys.window(0), object.into()).await;
        assert!(matches!(again, Err(StoreError::AlreadyExists { .. })), "one create wins: {again:?}");
        assert_eq!(faults.remaining(), 0);
    }
}
