//! The ports, made of the settings: NATS, S3 or a directory, etcd.
//!
//! Owns connecting, and saying in one line what is not there. Does not own any call after that.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use roomreel_backends::etcd::{Etcd, EtcdConfig};
use roomreel_backends::nats::{Nats, NatsConfig};
use roomreel_backends::objects::DirectoryStore;
use roomreel_backends::probe;
use roomreel_backends::s3::{S3Config, S3Credentials, S3Store};
use roomreel_backends::secret::without_credentials;
use roomreel_shared::ports::{Bus, Coordination, ObjectStore, Ports, RoomLog};

use crate::config::secret;
use crate::settings::{ClusterArgs, CoordinationArgs, LogArgs, OutsideArgs, StoreArgs};

/// Connects to everything a service of the cluster needs.
///
/// # Errors
/// If something is not there, or is not what it has to be.
pub async fn connect(args: &OutsideArgs) -> anyhow::Result<Ports> {
    // One after the other, so that of several things that are not there the same one is named each time.
    let (log, bus) = log(&args.log, &args.cluster).await?;
    let coordination = coordination(&args.coordination).await?;
    let store = args.store.open().await?;
    check_store(&*store).await?;
    Ok(Ports { log, bus, store, coordination })
}

/// Connects to the log alone, and makes its streams where they are missing.
///
/// # Errors
/// As [`connect`].
pub async fn log(args: &LogArgs, cluster: &ClusterArgs) -> anyhow::Result<(Arc<dyn RoomLog>, Arc<dyn Bus>)> {
    let nats = nats(args, cluster).await?;
    nats.ensure_streams().await?;
    let nats = Arc::new(nats);
    Ok((nats.clone(), nats))
}

/// Connects to the log as an SFU does: nothing is asked of JetStream's API, for which it has no permission.
///
/// # Errors
/// As [`connect`].
pub async fn publishers_log(args: &LogArgs, cluster: &ClusterArgs) -> anyhow::Result<(Arc<dyn RoomLog>, Arc<dyn Bus>)> {
    let nats = Arc::new(nats(args, cluster).await?);
    Ok((nats.clone(), nats))
}

async fn nats(args: &LogArgs, cluster: &ClusterArgs) -> anyhow::Result<Nats> {
    let config = NatsConfig {
        credentials_file: args.nats_credentials_file.clone(),
        user: args.nats_user.clone(),
        password: secret("nats_password", &args.nats_password, &args.nats_password_file)?,
        inbox_prefix: args.nats_inbox_prefix.clone(),
        shards: cluster.shards,
        replicas: args.nats_replicas,
        max_bytes_per_shard: args.log_max_bytes,
        max_age: args.log_max_age,
        ..NatsConfig::new(args.nats_url.join(","))
    };
    Nats::connect(config).await.context("nats_url")
}

/// Connects to the coordination store alone.
///
/// # Errors
/// As [`connect`].
pub async fn coordination(args: &CoordinationArgs) -> anyhow::Result<Arc<dyn Coordination>> {
    let config = EtcdConfig {
        user: args.etcd_user.clone(),
        password: secret("etcd_password", &args.etcd_password, &args.etcd_password_file)?,
        ca_file: args.etcd_ca_file.clone(),
        certificate_file: args.etcd_certificate_file.clone(),
        key_file: args.etcd_key_file.clone(),
        ..EtcdConfig::new(args.etcd_endpoints.clone())
    };
    Ok(Arc::new(Etcd::connect(config).await.context("etcd_endpoints")?))
}

impl StoreArgs {
    /// Whether a store was named.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.store.is_some()
    }

    /// Connects to the store.
    ///
    /// # Errors
    /// If none is named, or it is not there.
    pub async fn open(&self) -> anyhow::Result<Arc<dyn ObjectStore>> {
        let Some(url) = self.store.as_deref() else {
            bail!("no store is named; give --store s3://BUCKET or --store file:///DIRECTORY (or ROOMREEL_STORE)");
        };
        match url.split_once("://") {
            Some(("s3", bucket)) => {
                let config = self.s3(bucket.trim_end_matches('/'))?;
                Ok(Arc::new(S3Store::connect(config).await.context("store")?))
            }
            Some(("file", path)) => directory(Path::new(path)).await,
            _ => bail!("store {:?} is neither s3://BUCKET nor file:///DIRECTORY", without_credentials(url)),
        }
    }

    fn s3(&self, bucket: &str) -> anyhow::Result<S3Config> {
        if bucket.is_empty() || bucket.contains(['/', '@']) {
            bail!("store {}: give the name of a bucket alone", without_credentials(&format!("s3://{bucket}")));
        }
        let secret_key = secret("s3_secret_key", &self.s3_secret_key, &self.s3_secret_key_file)?;
        let session_token = secret("s3_session_token", &self.s3_session_token, &self.s3_session_token_file)?;
        let credentials = match (&self.s3_access_key, secret_key) {
            (Some(id), Some(secret_access_key)) => {
                Some(S3Credentials { access_key_id: id.clone(), secret_access_key, session_token })
            }
            (None, None) => None,
            (Some(_), None) => bail!("s3_access_key is set and s3_secret_key is not; set both or neither"),
            (None, Some(_)) => bail!("s3_secret_key is set and s3_access_key is not; set both or neither"),
        };
        Ok(S3Config {
            endpoint: self.s3_endpoint.clone(),
            credentials,
            path_style: self.s3_path_style.unwrap_or(self.s3_endpoint.is_some()),
            sign_payload: self.s3_sign_payload,
            ..S3Config::new(bucket, &self.s3_region)
        })
    }
}

/// A directory as the bucket; made if it does not exist.
///
/// # Errors
/// If it cannot be made or used.
pub async fn directory(path: &Path) -> anyhow::Result<Arc<dyn ObjectStore>> {
    let store = DirectoryStore::open(path).context("store")?;
    Ok(Arc::new(store))
}

/// A store on which two owners could both commit a window must not be used.
async fn check_store(store: &dyn ObjectStore) -> anyhow::Result<()> {
    if probe::conditional_create(store, rand::random()).await.context("probe the store")? {
        return Ok(());
    }
    bail!(
        "the store has no conditional writes (two PUTs with If-None-Match of one key both succeeded); \
         use one that has: AWS S3, MinIO, R2, versitygw, or a directory"
    );
}
