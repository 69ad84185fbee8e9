//! Parts of the benchmark in processes of their own, so that what each takes can be told apart.

use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use roomreel_backends::nats::{Nats, NatsConfig};
use roomreel_backends::s3::{S3Config, S3Credentials, S3Store};
use roomreel_backends::secret::Secret;
use roomreel_shared::cluster::FoldSpec;
use roomreel_shared::ports::ObjectStore;
use roomreel_shared::subject::Shard;
use roomreel_tests::servers::S3Server;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::load::{self, Load};
use crate::usage::Sample;
use crate::{ingest, raw, shards};

/// Where ingest puts windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Store {
    /// Nowhere.
    Null,
    /// The bucket, as over TLS: what is sent is not hashed for the signature.
    Bucket,
    /// The bucket, as without TLS.
    SigningBucket,
}

/// What a child process does.
#[derive(Debug, Serialize, Deserialize)]
pub enum Role {
    /// Serves a bucket until its standard input ends.
    Bucket,
    Publish {
        nats: String,
        load: Load,
    },
    Raw {
        nats: String,
        messages: u64,
        message_bytes: usize,
        ack: bool,
        /// What is read goes there as it is.
        into_bucket: bool,
    },
    Ingest {
        nats: String,
        store: Store,
        recordings: Vec<FoldSpec>,
    },
    Follow {
        nats: String,
        rooms: usize,
        messages: usize,
    },
    TakeOver {
        nats: String,
        rooms: usize,
        messages: usize,
    },
}

/// The log of one shard at `url`.
pub async fn log(url: &str) -> Result<Nats> {
    let nats = Nats::connect(NatsConfig { shards: 1, ..NatsConfig::new(url) }).await?;
    nats.ensure_streams().await?;
    Ok(nats)
}

/// In the child.
pub async fn perform(role: Role) -> Result<()> {
    let sample = match role {
        Role::Bucket => return serve_bucket().await,
        Role::Publish { nats, load } => load::publish(log(&nats).await?, load).await?,
        Role::Raw { nats, messages, message_bytes, ack, into_bucket } => {
            let stream = Shard::all(1).next().context("a shard")?.stream_name();
            let bucket = if into_bucket { Some(bucket_of_environment(false).await?) } else { None };
            raw::consume(&nats, &stream, messages, message_bytes, ack, bucket).await?
        }
        Role::Ingest { nats, store, recordings } => {
            let bucket = match store {
                Store::Null => None,
                Store::Bucket => Some(bucket_of_environment(false).await?),
                Store::SigningBucket => Some(bucket_of_environment(true).await?),
            };
            ingest::fold(log(&nats).await?, bucket, recordings).await?
        }
        Role::Follow { nats, rooms, messages } => shards::follow(log(&nats).await?, rooms, messages).await?,
        Role::TakeOver { nats, rooms, messages } => shards::take_over(log(&nats).await?, rooms, messages).await?,
    };
    println!("{}", serde_json::to_string(&sample)?);
    Ok(())
}

/// The bucket whose place the parent has put into the environment.
async fn bucket_of_environment(sign_payload: bool) -> Result<Arc<dyn ObjectStore>> {
    let config = S3Config { sign_payload: Some(sign_payload), ..S3Server::start().await?.config() };
    Ok(Arc::new(S3Store::connect(config).await?))
}

async fn serve_bucket() -> Result<()> {
    let server = S3Server::start().await?;
    let config = server.config();
    let keys = config.credentials.context("the server of the tests has keys")?;
    let secret = keys.secret_access_key.expose();
    let endpoint = config.endpoint.context("the server of the tests has an address")?;
    println!("{}", serde_json::to_string(&[&endpoint, &config.bucket, &keys.access_key_id, secret])?);
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    drop(server);
    Ok(())
}

fn spawn(role: &Role, environment: &[(String, String)]) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--role").arg(serde_json::to_string(role)?).envs(environment.iter().cloned());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    Ok(command.spawn()?)
}

/// A role at work.
pub struct Running(Child);

impl Running {
    pub fn start(role: &Role, bucket: Option<&Bucket>) -> Result<Self> {
        Ok(Self(spawn(role, bucket.map_or(&[], |bucket| &bucket.environment))?))
    }

    pub async fn finish(self) -> Result<Sample> {
        let output = self.0.wait_with_output().await?;
        ensure!(output.status.success(), "a part of the benchmark failed");
        serde_json::from_slice(&output.stdout).context("the answer of a part of the benchmark")
    }
}

/// Runs a role to its end.
pub async fn run(role: &Role, bucket: Option<&Bucket>) -> Result<Sample> {
    Running::start(role, bucket)?.finish().await
}

/// The S3 of the tests in a process of its own, or the one that the environment names.
pub struct Bucket {
    child: Option<Child>,
    environment: Vec<(String, String)>,
}

impl Bucket {
    pub async fn start() -> Result<Self> {
        const NAMES: [&str; 4] = ["ENDPOINT", "BUCKET", "ACCESS_KEY", "SECRET_KEY"];
        if std::env::var_os("ROOMREEL_TEST_S3_ENDPOINT").is_some() {
            return Ok(Self { child: None, environment: Vec::new() });
        }
        let mut child = spawn(&Role::Bucket, &[])?;
        let output = child.stdout.take().context("its output is ours")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).await?;
        let values: [String; 4] = serde_json::from_str(&line).context("the bucket's place")?;
        let names = NAMES.map(|name| format!("ROOMREEL_TEST_S3_{name}"));
        Ok(Self { child: Some(child), environment: names.into_iter().zip(values).collect() })
    }

    /// Of the server's process, if it is ours.
    pub fn process(&self) -> Option<u32> {
        self.child.as_ref()?.id()
    }

    /// The parent's own way to it.
    pub async fn store(&self) -> Result<Arc<dyn ObjectStore>> {
        let [endpoint, bucket, id, secret] = &self.environment[..] else { return bucket_of_environment(true).await };
        let credentials = S3Credentials {
            access_key_id: id.1.clone(),
            secret_access_key: Secret::new(secret.1.clone()),
            session_token: None,
        };
        let config = S3Config {
            endpoint: Some(endpoint.1.clone()),
            credentials: Some(credentials),
            path_style: true,
            ..S3Config::new(bucket.1.clone(), "us-east-1")
        };
        Ok(Arc::new(S3Store::connect(config).await?))
    }
}
