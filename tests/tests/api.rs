//! The REST API over real servers: a recording is asked for, stopped, found and downloaded.
#![allow(missing_docs)]

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use roomreel_compositor::node::{CompositorConfig, CompositorNode};
use roomreel_coordinator::api::auth::{AuthConfig, KeySource, Verifier};
use roomreel_coordinator::api::{ApiState, serve};
use roomreel_coordinator::{Coordinator, CoordinatorConfig};
use roomreel_ingest::{IngestConfig, IngestNode};
use roomreel_sfu::source::{self, Source as _};
use roomreel_sfu::synthetic::{SyntheticRoom, SyntheticSpec};
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::event::StopReason;
use roomreel_shared::id::NodeId;
use roomreel_shared::policy::Policy;
use roomreel_shared::recording::{Recording, State};
use roomreel_tests::cluster::TestCluster;
use roomreel_tests::room;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const SHARDS: u32 = 4;
const SECRET: &str = "a secret of at least thirty-two bytes";

fn node(id: &str) -> NodeId {
    NodeId::new(id).expect("a literal that can be spelled")
}

fn token(tenant: &str, scope: &str) -> Result<String> {
    let exp = room::now().as_micros() / 1_000_000 + 600;
    let claims = json!({
        "iss": "tests", "aud": "roomreel", "sub": "backend", "tenant": tenant, "scope": scope, "exp": exp
    });
    Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET.as_bytes()))?)
}

/// A client of the API that does not follow redirects.
#[derive(Clone)]
struct Client {
    base: String,
    token: String,
    agent: ureq::Agent,
}

impl Client {
    fn new(base: &str, token: String) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(20)))
            .max_redirects(0)
            .http_status_as_error(false)
            .build()
            .new_agent();
        Self { base: base.to_owned(), token, agent }
    }

    async fn call(&self, post: bool, path: &str) -> Result<ureq::http::Response<ureq::Body>> {
        let (client, url) = (self.clone(), format!("{}{path}", self.base));
        tokio::task::spawn_blocking(move || {
            let bearer = format!("Bearer {}", client.token);
            Ok(if post {
                client.agent.post(url).header("authorization", bearer).send_empty()?
            } else {
                client.agent.get(url).header("authorization", bearer).call()?
            })
        })
        .await?
    }

    async fn json(&self, post: bool, path: &str) -> Result<(u16, Value)> {
        let mut response = self.call(post, path).await?;
        Ok((response.status().as_u16(), serde_json::from_str(&response.body_mut().read_to_string()?)?))
    }

    async fn until(&self, id: &str, state: State) -> Result<Recording> {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        loop {
            let (status, body) = self.json(false, &format!("/v1/recordings/{id}")).await?;
            ensure!(status == 200, "{status}: {body}");
            let recording: Recording = serde_json::from_value(body)?;
            if recording.state == state {
                return Ok(recording);
            }
            ensure!(tokio::time::Instant::now() < deadline, "still {:?}: {}", recording.state, recording.reason);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_is_asked_for_stopped_and_downloaded() -> Result<()> {
    let cluster = TestCluster::start().await?;
    let ports = cluster.ports().await?;
    let composite = CompositeSpec { width: 320, height: 180, fps: 15, ..CompositeSpec::default() };
    let config = CoordinatorConfig {
        window: Duration::from_secs(1),
        composites: vec![composite.clone()],
        ..CoordinatorConfig::new(node("coordinator"), SHARDS)
    };
    let coordinator = Coordinator::start(cluster.ports().await?, config).await?;
    let ingest = IngestNode::start(cluster.ports().await?, IngestConfig::new(node("ingest"))).await?;
    let compositor = CompositorNode::start(cluster.ports().await?, CompositorConfig::new(node("compositor"))).await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let base = format!("http://{}", listener.local_addr()?);
    let keys = vec![KeySource::Secret(SECRET.as_bytes().to_vec())];
    let verifier = Verifier::new(AuthConfig::new("tests", "roomreel", keys))?;
    let leaving = CancellationToken::new();
    let api = tokio::spawn(serve(listener, ApiState::new(cluster.ports().await?, verifier), leaving.clone()));

    // A room that does not record by itself.
    let spec = SyntheticSpec {
        duration: Duration::from_secs(60),
        participants: 1,
        width: 160,
        height: 90,
        frame_rate: 15,
        video_bits_per_second: 60_000,
        policy: Policy { auto_record: false, ..Policy::default() },
        ..SyntheticSpec::new(room::room("by request"), room::now())
    };
    let publisher = room::publisher(&ports, SHARDS);
    let handle = publisher.room(spec.room.clone());
    let source = SyntheticRoom::new(spec.clone())?;
    ensure!(*source.room() == spec.room, "the source plays another room");
    let playing = tokio::spawn(async move { source::play(source, &handle, 1.0, |_| {}).await });

    let client = Client::new(&base, token("acme", "recordings:read recordings:write")?);
    let started = loop {
        // Until the leader has read the room's creation from the log, there is no such room.
        let (status, body) = client.json(true, "/v1/rooms/by%20request/recordings").await?;
        if status != 404 {
            ensure!(status == 201 || status == 202, "{status}: {body}");
            break body;
        }
        ensure!(!playing.is_finished(), "the room was not known before it ended: {body}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let id = started["id"].as_str().context("an id")?.to_owned();
    client.until(&id, State::Active).await?;
    let (status, _) = client.json(true, &format!("/v1/recordings/{id}/pause")).await?;
    ensure!(status < 300, "pause: {status}");
    client.until(&id, State::Paused).await?;
    let (status, _) = client.json(true, &format!("/v1/recordings/{id}/resume")).await?;
    ensure!(status < 300, "resume: {status}");
    client.until(&id, State::Active).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (status, _) = client.json(true, &format!("/v1/recordings/{id}/stop")).await?;
    ensure!(status < 300, "stop: {status}");
    let recording = client.until(&id, State::Complete).await?;
    ensure!(recording.stop_reason == Some(StopReason::Requested), "stopped because {:?}", recording.stop_reason);

    // The file is had with the redirect's URL alone.
    let response = client.call(false, &format!("/v1/recordings/{id}/files/composites/grid/composite.mp4")).await?;
    ensure!(response.status() == 302, "{}", response.status());
    let url = response.headers()["location"].to_str()?.to_owned();
    let agent = client.agent.clone();
    let file = tokio::task::spawn_blocking(move || agent.get(url).call()?.body_mut().read_to_vec()).await??;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("composite.mp4");
    tokio::fs::write(&path, file).await?;
    roomreel_tests::watch::decode_without_warning(&path)?;
    room::require_format(&path, &composite, &recording)?;

    // Another tenant learns nothing; a reader cannot start.
    let other = Client::new(&base, token("globex", "recordings:read recordings:write")?);
    let (foreign, _) = other.json(false, &format!("/v1/recordings/{id}")).await?;
    let (missing, _) = other.json(false, "/v1/recordings/01aaaaaaaaaaaaaaaaaaaaaaaa").await?;
    ensure!((foreign, missing) == (404, 404), "{foreign} {missing}");
    let reader = Client::new(&base, token("acme", "recordings:read")?);
    let (status, _) = reader.json(true, "/v1/rooms/by%20request/recordings").await?;
    ensure!(status == 403, "{status}");

    playing.abort();
    leaving.cancel();
    api.await??;
    compositor.drain().await;
    ingest.drain().await;
    coordinator.drain().await;
    Ok(())
}
