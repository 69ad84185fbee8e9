//! A bucket behind a real S3 API over HTTP.
//!
//! By default s3s-fs in this process: it checks signatures and keeps objects as files. It looks whether an object exists and
//! then renames, so two conditional writes at once could both succeed; requests with a condition therefore pass one by one
//! here, as S3 promises. It names a metadata file after the whole key, so keys over about 150 bytes do not fit: they are refused as
//! S3 refuses those over 1,024.
//! `ROOMREEL_TEST_S3_ENDPOINT`, `…_BUCKET`, `…_REGION`, `…_ACCESS_KEY` and `…_SECRET_KEY` name another S3 to test against.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use futures::TryStreamExt as _;
use hyper::body::Incoming;
use hyper::header::IF_NONE_MATCH;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use roomreel_backends::s3::{S3Config, S3Credentials};
use roomreel_backends::secret::Secret;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpResponse};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, oneshot};

use super::uploads::{self, Uploads};

const ACCESS_KEY: &str = "ROOMREELTESTKEY";
const SECRET_KEY: &str = "roomreel-test-secret";

/// A bucket. Dropping it stops the server it started.
pub struct S3Server {
    config: S3Config,
    state: Arc<State>,
    local: Option<Local>,
}

/// What the server does to those who ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum S3Fault {
    /// Nothing unusual.
    #[default]
    None,
    /// It answers this status to everything and does nothing.
    Refuse(StatusCode),
    /// It never answers and does nothing.
    Hang,
    /// One write in so many gets this answer, 409 or 500, and nothing is done.
    FailWrites(StatusCode, u32),
    /// One write in so many is done, and the connection breaks before the answer.
    LoseAnswers(u32),
}

/// A write that changed the bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mutation {
    /// PUT, POST or DELETE.
    pub method: Method,
    /// Bucket and key, as they stood in the request.
    pub path: String,
    /// It was to create and not to replace.
    pub is_create: bool,
}

#[derive(Default)]
struct State {
    fault: std::sync::Mutex<S3Fault>,
    writes: AtomicU32,
    history: std::sync::Mutex<Vec<Mutation>>,
    uploads: Uploads,
    /// Writes with a condition pass one by one.
    conditional: Mutex<()>,
}

struct Local {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    directory: TempDir,
}

impl S3Server {
    /// Starts a server with one bucket, or takes the one the environment names.
    ///
    /// # Errors
    /// The environment names half an S3, or no port is free.
    pub async fn start() -> Result<Self> {
        let state = Arc::<State>::default();
        if let Ok(endpoint) = std::env::var("ROOMREEL_TEST_S3_ENDPOINT") {
            return Ok(Self { config: external(endpoint)?, state, local: None });
        }
        let directory = tempfile::tempdir()?;
        let bucket = "roomreel-test";
        std::fs::create_dir(directory.path().join(bucket))?;
        let service = service(directory.path())?;
        let (stop, stopped) = oneshot::channel();
        let (listening, address) = oneshot::channel();
        let served = state.clone();
        // A thread and runtime of its own: a test may pause its clock or block its thread.
        let thread = std::thread::Builder::new().name("s3".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime for the S3 server");
            runtime.block_on(async {
                let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await else { return };
                let Ok(address) = listener.local_addr() else { return };
                let _ = listening.send(address);
                tokio::select! {
                    _ = stopped => {}
                    _ = serve(service, served, listener) => {}
                }
            });
        })?;
        let address = address.await.context("the S3 server does not listen")?;
        let config = S3Config {
            endpoint: Some(format!("http://{address}")),
            credentials: Some(keys(ACCESS_KEY.to_owned(), SECRET_KEY.to_owned())),
            path_style: true,
            ..S3Config::new(bucket, "us-east-1")
        };
        let local = Local { stop: Some(stop), thread: Some(thread), directory };
        Ok(Self { config, state, local: Some(local) })
    }

    /// How to reach the bucket.
    #[must_use]
    pub fn config(&self) -> S3Config {
        self.config.clone()
    }

    /// Whether this is the server in this process, whose data can be looked at and whose faults set.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// The bucket's objects as files, where the server is in this process.
    #[must_use]
    pub fn directory(&self) -> Option<std::path::PathBuf> {
        Some(self.local.as_ref()?.directory.path().join(&self.config.bucket))
    }

    /// Answers 503 to everything until [`S3Server::resume`]; only where the server is in this process.
    pub fn pause(&self) {
        self.set(S3Fault::Refuse(StatusCode::SERVICE_UNAVAILABLE));
    }

    /// Answers again.
    pub fn resume(&self) {
        self.set(S3Fault::None);
    }

    /// Sets what happens to requests from now on; only where the server is in this process.
    pub fn set(&self, fault: S3Fault) {
        *self.state.fault.lock().expect("nothing panics while it is locked") = fault;
    }

    /// Every write that changed the bucket so far, in order; only where the server is in this process.
    #[must_use]
    pub fn history(&self) -> Vec<Mutation> {
        self.state.history.lock().expect("nothing panics while it is locked").clone()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn keys(access_key_id: String, secret: String) -> S3Credentials {
    S3Credentials { access_key_id, secret_access_key: Secret::new(secret), session_token: None }
}

fn external(endpoint: String) -> Result<S3Config> {
    let variable = |name: &str| {
        let name = format!("ROOMREEL_TEST_S3_{name}");
        std::env::var(&name).with_context(|| format!("ROOMREEL_TEST_S3_ENDPOINT is set, {name} is not"))
    };
    Ok(S3Config {
        endpoint: Some(endpoint),
        credentials: Some(keys(variable("ACCESS_KEY")?, variable("SECRET_KEY")?)),
        path_style: true,
        ..S3Config::new(variable("BUCKET")?, variable("REGION").unwrap_or_else(|_| "us-east-1".to_owned()))
    })
}

fn service(root: &Path) -> Result<S3Service> {
    let files = s3s_fs::FileSystem::new(root).map_err(|e| anyhow!("s3s-fs at {}: {e:?}", root.display()))?;
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    Ok(builder.build())
}

/// Serves the directories in `root` as buckets, with the keys of the tests, until it is cancelled. For a cluster to play with.
///
/// # Errors
/// The directory cannot be used or the address not be listened on.
pub async fn serve_directory(root: &Path, address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    serve(service(root)?, Arc::default(), listener).await
}

async fn serve(service: S3Service, state: Arc<State>, listener: TcpListener) -> Result<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        let (service, state) = (service.clone(), state.clone());
        let answer = service_fn(move |request| answer(service.clone(), state.clone(), request));
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), answer);
        // A connection that breaks is its client's affair.
        tokio::spawn(async { _ = connection.await });
    }
}

/// An error breaks the connection.
async fn answer(service: S3Service, state: Arc<State>, request: Request<Incoming>) -> Result<HttpResponse> {
    let is_write = matches!(*request.method(), Method::PUT | Method::POST | Method::DELETE);
    let number = if is_write { state.writes.fetch_add(1, Ordering::SeqCst) } else { 0 };
    let strikes = |one_in: u32| is_write && number.is_multiple_of(one_in);
    let fault = *state.fault.lock().expect("nothing panics while it is locked");
    match fault {
        S3Fault::Refuse(status) => return Ok(refusal(status)),
        S3Fault::FailWrites(status, one_in) if strikes(one_in) => return Ok(refusal(status)),
        S3Fault::Hang => return std::future::pending().await,
        _ => {}
    }
    if let Some(listing) = state.uploads.answer(&request) {
        return Ok(listing);
    }
    if !fits(request.uri().path()) {
        return Ok(key_too_long());
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    let is_create = request.headers().contains_key(IF_NONE_MATCH);
    let mutation = Mutation { method: request.method().clone(), path: request.uri().path().to_owned(), is_create };
    let _one_by_one = if is_create { Some(state.conditional.lock().await) } else { None };
    let done = hyper::service::Service::call(&service, request).await;
    let mut response = done.map_err(|error| anyhow!("s3s: {error:?}"))?;
    if response.status().is_success() && uploads::concerns(&mutation.method, &query) {
        let body: Vec<Bytes> = std::mem::take(response.body_mut()).try_collect().await.map_err(|e| anyhow!("{e}"))?;
        let body = body.concat();
        state.uploads.note(&mutation.method, &mutation.path, &query, &String::from_utf8_lossy(&body));
        *response.body_mut() = Body::from(body);
    }
    if is_write && response.status().is_success() {
        state.history.lock().expect("nothing panics while it is locked").push(mutation);
    }
    match fault {
        S3Fault::LoseAnswers(one_in) if strikes(one_in) => bail!("the answer is lost"),
        _ => Ok(response),
    }
}

/// Whether the file that s3s-fs keeps beside an object can have its name, which bucket and key stand in, in base 64.
fn fits(path: &str) -> bool {
    let (bucket, key) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    let in_base_64 = |text: &str| ((text.len() - 2 * text.matches('%').count()) * 4).div_ceil(3);
    ".bucket-.object-.metadata.json".len() + in_base_64(bucket) + in_base_64(key) <= 255
}

fn key_too_long() -> HttpResponse {
    const SAID: &str = "<Error><Code>KeyTooLongError</Code><Message>this S3 keeps objects as files and takes keys of about \
        150 bytes: use shorter ids of tenants and rooms</Message></Error>";
    let mut response = refusal(StatusCode::BAD_REQUEST);
    *response.body_mut() = Body::from(SAID.to_owned());
    response
}

fn refusal(status: StatusCode) -> HttpResponse {
    let mut response = HttpResponse::new(Body::empty());
    *response.status_mut() = status;
    response
}
