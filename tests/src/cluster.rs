//! NATS, etcd and S3 together, as a cluster of services has them.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use roomreel_backends::etcd::{Etcd, EtcdConfig};
use roomreel_backends::nats::{Nats, NatsConfig};
use roomreel_backends::s3::{S3Config, S3Store};
use roomreel_shared::ports::Ports;

use crate::servers::{EtcdServer, NatsServer, S3Server};

/// The three servers, stopped when dropped. Their fields give access to addresses and to faults.
pub struct TestCluster {
    /// The log and the bus.
    pub nats: NatsServer,
    /// The coordination store.
    pub etcd: EtcdServer,
    /// The bucket.
    pub s3: S3Server,
}

impl TestCluster {
    /// Starts the servers and creates the streams.
    ///
    /// # Errors
    /// A server that is not installed or does not come up.
    pub async fn start() -> Result<Self> {
        let (nats, etcd, s3) = futures::try_join!(NatsServer::start(), EtcdServer::start(), S3Server::start())?;
        let cluster = Self { nats, etcd, s3 };
        let log = Nats::connect(cluster.nats_config()).await?;
        log.ensure_streams().await.context("create the streams")?;
        Ok(cluster)
    }

    /// How to reach NATS: 4 shards of 256 MiB.
    #[must_use]
    pub fn nats_config(&self) -> NatsConfig {
        NatsConfig { max_bytes_per_shard: 256 * 1024 * 1024, ..NatsConfig::new(self.nats.url()) }
    }

    /// How to reach etcd.
    #[must_use]
    pub fn etcd_config(&self) -> EtcdConfig {
        EtcdConfig::new([self.etcd.url()])
    }

    /// How to reach the bucket.
    #[must_use]
    pub fn s3_config(&self) -> S3Config {
        self.s3.config()
    }

    /// New connections to all three: every process of a cluster has its own.
    ///
    /// # Errors
    /// A server that does not answer.
    pub async fn ports(&self) -> Result<Ports> {
        let log = Arc::new(Nats::connect(self.nats_config()).await?);
        Ok(Ports {
            bus: log.clone(),
            log,
            store: Arc::new(S3Store::connect(self.s3_config()).await?),
            coordination: Arc::new(Etcd::connect(self.etcd_config()).await?),
        })
    }
}
