//! Our part: an ingest node folds the rooms of the stream, into a bucket or into nothing.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use async_trait::async_trait;
use bytes::Bytes;
use roomreel_backends::memory::MemoryCoordination;
use roomreel_backends::nats::Nats;
use roomreel_ingest::{IngestConfig, IngestNode};
use roomreel_shared::cluster::{self, Assignment, FoldSpec, Progress};
use roomreel_shared::id::NodeId;
use roomreel_shared::key::Key;
use roomreel_shared::pieces::Pieces;
use roomreel_shared::ports::{Change, Coordination as _, Listed, ObjectStore, Ports, StoreError, Upload, UploadedPart};

use crate::usage::{self, Sample, Stopwatch};

/// Counts what is created, and passes it on if there is a bucket.
struct Counted {
    bucket: Option<Arc<dyn ObjectStore>>,
    puts: AtomicU64,
    bytes: AtomicU64,
}

impl Counted {
    fn bucket(&self, key: &Key) -> Result<&dyn ObjectStore, StoreError> {
        self.bucket.as_deref().ok_or_else(|| StoreError::NotFound { key: key.to_string() })
    }
}

#[async_trait]
impl ObjectStore for Counted {
    async fn create(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.create_of(key, body.into()).await
    }

    async fn create_of(&self, key: &Key, body: Pieces) -> Result<(), StoreError> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
        match &self.bucket {
            Some(bucket) => bucket.create_of(key, body).await,
            None => Ok(()),
        }
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.create(key, body).await
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.bucket(key)?.get(key).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.bucket(key)?.get_range(key, range).await
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        self.bucket(key)?.size(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        match &self.bucket {
            Some(bucket) => bucket.list(prefix).await,
            None => Ok(Vec::new()),
        }
    }

    async fn list_directory(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        match &self.bucket {
            Some(bucket) => bucket.list_directory(prefix).await,
            None => Ok(Vec::new()),
        }
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.bucket(key)?.delete(key).await
    }

    async fn begin_upload(&self, key: &Key) -> Result<Upload, StoreError> {
        self.bucket(key)?.begin_upload(key).await
    }

    async fn upload_part(&self, upload: &Upload, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        self.bucket(&upload.key)?.upload_part(upload, number, body).await
    }

    async fn complete_upload(&self, upload: &Upload, parts: Vec<UploadedPart>) -> Result<(), StoreError> {
        self.bucket(&upload.key)?.complete_upload(upload, parts).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        self.bucket(&upload.key)?.abort_upload(upload).await
    }

    async fn presign_get(&self, key: &Key, valid: Duration) -> Result<Option<String>, StoreError> {
        self.bucket(key)?.presign_get(key, valid).await
    }
}

/// Folds `recordings` to their ends.
pub async fn fold(nats: Nats, bucket: Option<Arc<dyn ObjectStore>>, recordings: Vec<FoldSpec>) -> Result<Sample> {
    let nats = Arc::new(nats);
    let store = Arc::new(Counted { bucket, puts: AtomicU64::new(0), bytes: AtomicU64::new(0) });
    let coordination = Arc::new(MemoryCoordination::new());
    let node = NodeId::new("bench")?;
    for spec in &recordings {
        let assignment = Assignment { node: node.clone(), spec: spec.clone() };
        let key = cluster::assignment_key(&spec.recording);
        let put = Change::Put(key, serde_json::to_vec(&assignment)?.into(), None);
        coordination.transact(Vec::new(), vec![put]).await?;
    }
    let ports = Ports { log: nats.clone(), bus: nats, store: store.clone(), coordination: coordination.clone() };
    let before = usage::memory()?;
    let stopwatch = Stopwatch::start();
    let ingest = IngestNode::start(ports, IngestConfig::new(node)).await?;
    let (mut most, mut sum, mut looks) = (0, 0, 0);
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let now = usage::memory()?.saturating_sub(before);
        (most, sum, looks) = (most.max(now), sum + now, looks + 1);
        let records = coordination.list(&cluster::progress_prefix()).await?.records;
        let progress = records.iter().map(|record| serde_json::from_slice::<Progress>(&record.value));
        let progress = progress.collect::<Result<Vec<_>, _>>()?;
        ensure!(!progress.iter().any(|progress| progress.incomplete), "the recordings have gaps");
        if progress.iter().filter(|progress| progress.finished).count() == recordings.len() {
            break;
        }
    }
    let (cpu, wall) = stopwatch.read();
    drop(ingest);
    let (puts, bytes) = (store.puts.load(Ordering::Relaxed), store.bytes.load(Ordering::Relaxed));
    Ok(Sample { bytes, cpu, wall, puts, memory: (most, sum / looks), ..Sample::default() })
}
