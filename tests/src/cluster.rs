//! NATS, etcd and S3 together, as a cluster of services has them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use roomreel_backends::etcd::{Etcd, EtcdConfig};
use roomreel_backends::nats::{Nats, NatsConfig};
use roomreel_backends::s3::{S3Config, S3Store};
use roomreel_shared::ports::Ports;

use crate::servers::{EtcdServer, NatsServer, S3Server};

/// How long a cluster of NATS may take to elect leaders for its streams.
const ELECTION_LIMIT: Duration = Duration::from_secs(30);

/// The three servers, stopped when dropped. Their fields give access to addresses and to faults.
pub struct TestCluster {
    /// The log and the bus.
    pub nats: NatsServer,
    /// Further servers of the log, if it is replicated; `nats-0` is [`TestCluster::nats`], these are `nats-1` and so on.
    pub nats_peers: Vec<NatsServer>,
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
        let cluster = Self { nats, nats_peers: Vec::new(), etcd, s3 };
        cluster.ensure_streams().await.context("create the streams")?;
        Ok(cluster)
    }

    /// The same with a log on three servers.
    ///
    /// # Errors
    /// As [`TestCluster::start`].
    pub async fn start_replicated() -> Result<Self> {
        let (nats, etcd, s3) =
            futures::try_join!(NatsServer::start_cluster(3), EtcdServer::start(), S3Server::start())?;
        let mut servers = nats.into_iter();
        let nats = servers.next().context("there are three")?;
        let cluster = Self { nats, nats_peers: servers.collect(), etcd, s3 };
        let deadline = Instant::now() + ELECTION_LIMIT;
        while let Err(error) = cluster.ensure_streams().await {
            if Instant::now() > deadline {
                return Err(error.context("create the streams"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(cluster)
    }

    async fn ensure_streams(&self) -> Result<()> {
        Ok(Nats::connect(self.nats_config()).await?.ensure_streams().await?)
    }

    /// How to reach NATS: 4 shards of 256 MiB.
    #[must_use]
    pub fn nats_config(&self) -> NatsConfig {
        let servers: Vec<String> = [&self.nats].into_iter().chain(&self.nats_peers).map(NatsServer::url).collect();
        NatsConfig {
            max_bytes_per_shard: 256 * 1024 * 1024,
            replicas: servers.len(),
            ..NatsConfig::new(servers.join(","))
        }
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
