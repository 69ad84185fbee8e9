//! Settings that several commands share, in groups as `--help` shows them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use roomreel_backends::secret::Secret;
use roomreel_shared::id::{NodeId, TenantId};

use crate::config::duration;
use crate::telemetry::TelemetryArgs;

/// Settings of every role that runs as a service.
#[derive(Debug, Args)]
pub struct ServiceArgs {
    /// TOML file with settings; its keys are the flags' names with `_` for `-`.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of this process, unique in the cluster. [default: the host's name and a random part]
    #[arg(long, value_name = "NAME")]
    pub node_id: Option<NodeId>,
    /// Address of /healthz and /readyz.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8081")]
    pub health_listen: SocketAddr,
    /// How long a process that was asked to end may take to hand over what it has.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub drain_limit: Duration,
    #[command(flatten)]
    pub telemetry: TelemetryArgs,
}

/// What all processes of a cluster must agree on.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// Number of shards: streams of the log that rooms are spread over. The same everywhere; it cannot change later.
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub shards: u32,
}

/// Whose rooms a client or publisher speaks of.
#[derive(Debug, Args)]
pub struct TenantArgs {
    /// Whose rooms these are.
    #[arg(long, value_name = "TENANT", default_value = "default")]
    pub tenant: TenantId,
}

/// The room log and the bus beside it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Log (NATS JetStream)")]
pub struct LogArgs {
    /// Servers of NATS, with commas between them: nats:// or tls://.
    #[arg(long, value_name = "URL", default_value = "nats://127.0.0.1:4222", value_delimiter = ',')]
    pub nats_url: Vec<String>,
    /// Credentials file (.creds) with JWT and key.
    #[arg(long, value_name = "FILE")]
    pub nats_credentials_file: Option<PathBuf>,
    /// User name, if NATS asks for one.
    #[arg(long, value_name = "NAME")]
    pub nats_user: Option<String>,
    /// Password of that user; better in a file.
    #[arg(long, value_name = "PASSWORD", hide_default_value = true)]
    pub nats_password: Option<Secret>,
    /// File that holds the password.
    #[arg(long, value_name = "FILE")]
    pub nats_password_file: Option<PathBuf>,
    /// Prefix of reply subjects, where permissions allow no other; begins with _INBOX.
    #[arg(long, value_name = "PREFIX")]
    pub nats_inbox_prefix: Option<String>,
    /// Copies of each stream: 1, 3 or 5.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub nats_replicas: usize,
    /// How long the log keeps an entry: longer than any outage to be bridged, and than any room before its recording.
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = duration)]
    pub log_max_age: Duration,
    /// Bytes a shard's log may hold; a full log refuses new entries rather than dropping old ones.
    #[arg(long, value_name = "BYTES", default_value_t = 8 * 1024 * 1024 * 1024)]
    pub log_max_bytes: u64,
}

/// The bucket.
#[derive(Debug, Args)]
#[command(next_help_heading = "Object store")]
pub struct StoreArgs {
    /// The bucket: s3://BUCKET, or a directory as file:///PATH.
    #[arg(long, value_name = "URL")]
    pub store: Option<String>,
    /// Address of an S3 that is not Amazon's, for example http://minio:9000.
    #[arg(long, value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// Region of the bucket.
    #[arg(long, value_name = "REGION", default_value = "us-east-1")]
    pub s3_region: String,
    /// Access key. [default: the AWS chain: environment, profile, instance role]
    #[arg(long, value_name = "KEY")]
    pub s3_access_key: Option<String>,
    /// Secret key; better in a file.
    #[arg(long, value_name = "KEY", hide_default_value = true)]
    pub s3_secret_key: Option<Secret>,
    /// File that holds the secret key.
    #[arg(long, value_name = "FILE")]
    pub s3_secret_key_file: Option<PathBuf>,
    /// Session token of temporary keys; better in a file.
    #[arg(long, value_name = "TOKEN", hide_default_value = true)]
    pub s3_session_token: Option<Secret>,
    /// File that holds the session token.
    #[arg(long, value_name = "FILE")]
    pub s3_session_token_file: Option<PathBuf>,
    /// Name the bucket in the path, not in the host name. [default: true if s3_endpoint is set]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub s3_path_style: Option<bool>,
    /// Sign what is sent with its SHA-256, which the store checks; TLS protects it as well. [default: true if s3_endpoint is without TLS]
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub s3_sign_payload: Option<bool>,
}

/// The coordination store.
#[derive(Debug, Args)]
#[command(next_help_heading = "Coordination (etcd)")]
pub struct CoordinationArgs {
    /// Endpoints of etcd, with commas between them: http:// or https://.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:2379", value_delimiter = ',')]
    pub etcd_endpoints: Vec<String>,
    /// User name, if etcd asks for one.
    #[arg(long, value_name = "NAME")]
    pub etcd_user: Option<String>,
    /// Password of that user; better in a file.
    #[arg(long, value_name = "PASSWORD", hide_default_value = true)]
    pub etcd_password: Option<Secret>,
    /// File that holds the password.
    #[arg(long, value_name = "FILE")]
    pub etcd_password_file: Option<PathBuf>,
    /// Certificates of the authorities that may sign etcd's. [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub etcd_ca_file: Option<PathBuf>,
    /// Our certificate, where etcd asks for one.
    #[arg(long, value_name = "FILE", requires = "etcd_key_file")]
    pub etcd_certificate_file: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "etcd_certificate_file")]
    pub etcd_key_file: Option<PathBuf>,
}

/// Everything outside that a service of the cluster needs.
#[derive(Debug, Args)]
pub struct OutsideArgs {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    #[command(flatten)]
    pub log: LogArgs,
    #[command(flatten)]
    pub store: StoreArgs,
    #[command(flatten)]
    pub coordination: CoordinationArgs,
}

impl ServiceArgs {
    /// The name that was given, or one that no other process has.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node_id.clone().unwrap_or_else(|| {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let host: String = host.trim().chars().filter(char::is_ascii).take(63).collect();
            let random: u32 = rand::random();
            NodeId::new(format!("{host}-{random:08x}")).expect("short and not empty")
        })
    }
}
