//! The API over in-memory backends, with a real leader behind it where one is needed.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::FutureExt as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use roomreel_backends::memory::faults::{Faults, Operation};
use roomreel_shared::cluster::{self, ActiveRecording};
use roomreel_shared::event::EventKind;
use roomreel_shared::id::RecordingId;
use roomreel_shared::key::RecordingKeys;
use roomreel_shared::late::{LateRender, LateSpec, LateState};
use roomreel_shared::policy::Policy;
use roomreel_shared::ports::{Change, Coordination as _, ObjectStore as _};
use roomreel_shared::recording::{Recording, State};
use serde_json::{Value, json};
use time::OffsetDateTime;
use tower::ServiceExt as _;

use super::auth::{AuthConfig, KeySource, Refused, Verifier};
use super::problem::Problem;
use super::service::Page;
use super::{ApiState, MAX_BODY_BYTES, router, routes};
use crate::perform::{index_key, to_json};
use crate::testing::{auto, id};
use crate::tests::{World, until};

const SECRET: &[u8] = b"a secret for these tests alone, 32 bytes or more";
/// The public half of the Ed25519 key whose seed is 32 times the byte 7.
const ED_PUBLIC: &str = "6kpsY-KcUgq-9VB7Ey7F-ZVHdq6-vnuSQh7qaRRG0iw";

fn now_s() -> u64 {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).expect("after 1970")
}

fn claims() -> Value {
    json!({
        "iss": "https://issuer.test", "aud": "roomreel", "sub": "service-1", "tenant": "acme",
        "scope": "recordings:read recordings:write", "iat": now_s(), "exp": now_s() + 600,
    })
}

fn with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => drop(claims.as_object_mut().expect("an object").remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

fn sign(claims: &Value) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET)).expect("signs")
}

fn ed_key(seed: u8) -> EncodingKey {
    let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    EncodingKey::from_ed_der(&[prefix.as_slice(), &[seed; 32]].concat())
}

/// A token put together by hand.
fn forge(header: &str, claims: &Value, signature: &str) -> String {
    format!("{}.{}.{signature}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims.to_string()))
}

fn jwks() -> String {
    json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": ED_PUBLIC, "kid": "k1", "alg": "EdDSA", "use": "sig"}]})
        .to_string()
}

fn verifier(keys: Vec<KeySource>) -> Verifier {
    Verifier::new(AuthConfig::new("https://issuer.test", "roomreel", keys)).expect("good settings")
}

fn check(verifier: &Verifier, token: &str) -> Result<super::auth::Principal, Refused> {
    verifier.check(Some(&format!("Bearer {token}")), now_s())
}

#[test]
fn good_tokens_are_taken() {
    let secret = verifier(vec![KeySource::Secret(SECRET.to_vec())]);
    let principal = check(&secret, &sign(&with(json!({"peer": "bo", "nbf": now_s() - 5})))).expect("good");
    assert_eq!((principal.tenant.as_str(), principal.peer), ("acme", Some(id("bo"))));
    assert!(check(&secret, &sign(&with(json!({"aud": ["other", "roomreel"], "iat": null})))).is_ok());
    assert!(check(&secret, &sign(&with(json!({"exp": now_s() - 20})))).is_ok(), "within the leeway");
    assert!(secret.check(Some(&format!("bearer {}", sign(&claims()))), now_s()).is_ok());
    let ed = verifier(vec![KeySource::Jwks(jwks())]);
    for kid in [None, Some("k1".to_owned())] {
        let header = Header { kid, ..Header::new(Algorithm::EdDSA) };
        assert!(check(&ed, &encode(&header, &claims(), &ed_key(7)).expect("signs")).is_ok());
    }
}

#[test]
fn attack_tokens_are_refused() {
    let secret = verifier(vec![KeySource::Secret(SECRET.to_vec())]);
    let ed = verifier(vec![KeySource::Jwks(jwks())]);
    let good = sign(&claims());
    let (head, rest) = good.split_once('.').expect("three parts");
    let (body, signature) = rest.split_once('.').expect("three parts");
    let hs = |header: Value, key: &[u8]| {
        let header: Header = serde_json::from_value(header).expect("a header");
        encode(&header, &claims(), &EncodingKey::from_secret(key)).expect("signs")
    };
    let public = URL_SAFE_NO_PAD.decode(ED_PUBLIC).expect("base64");
    let hs_confusion = |key: &[u8]| hs(json!({"alg": "HS256", "kid": "k1"}), key);
    let changed = |changes: Value| sign(&with(changes));
    let doubled = {
        let text = claims().to_string().replacen('{', "{\"tenant\":\"other\",", 1);
        let message = format!("{head}.{}", URL_SAFE_NO_PAD.encode(text));
        let signed =
            jsonwebtoken::crypto::sign(message.as_bytes(), &EncodingKey::from_secret(SECRET), Algorithm::HS256);
        format!("{message}.{}", signed.expect("signs"))
    };
    let with_secret = [
        ("empty", String::new()),
        ("one part", head.to_owned()),
        ("two parts", format!("{head}.{body}")),
        ("four parts", format!("{good}.x")),
        ("no signature", format!("{head}.{body}.")),
        (
            "another's signature",
            format!("{head}.{}.{signature}", URL_SAFE_NO_PAD.encode(with(json!({"tenant": "other"})).to_string())),
        ),
        ("not base64", format!("{head}.{body}.!!!!")),
        ("alg none", forge(r#"{"alg":"none","typ":"JWT"}"#, &claims(), "")),
        ("alg None", forge(r#"{"alg":"None"}"#, &claims(), "")),
        ("alg nOnE, signed", forge(r#"{"alg":"nOnE"}"#, &claims(), signature)),
        ("no alg", forge(r#"{"typ":"JWT"}"#, &claims(), signature)),
        ("two algs", forge(r#"{"alg":"HS256","alg":"none"}"#, &claims(), signature)),
        ("alg of another kind", forge(r#"{"alg":"RS256"}"#, &claims(), signature)),
        ("HS512", encode(&Header::new(Algorithm::HS512), &claims(), &EncodingKey::from_secret(SECRET)).expect("signs")),
        ("HS384", encode(&Header::new(Algorithm::HS384), &claims(), &EncodingKey::from_secret(SECRET)).expect("signs")),
        ("another secret", hs(json!({"alg": "HS256"}), b"another secret, of 32 bytes or more, too")),
        ("an empty secret", hs(json!({"alg": "HS256"}), b"")),
        ("critical header", hs(json!({"alg": "HS256", "crit": ["exp"]}), SECRET)),
        ("wrong aud", changed(json!({"aud": "elsewhere"}))),
        ("no aud", changed(json!({"aud": null}))),
        ("empty aud", changed(json!({"aud": []}))),
        ("wrong iss", changed(json!({"iss": "https://issuer.test.evil"}))),
        ("no iss", changed(json!({"iss": null}))),
        ("iss as a number", changed(json!({"iss": 7}))),
        ("expired", changed(json!({"exp": now_s() - 60}))),
        ("no exp", changed(json!({"exp": null}))),
        ("exp as text", changed(json!({"exp": "9999999999"}))),
        ("exp below 0", changed(json!({"exp": -1}))),
        ("far exp", changed(json!({"exp": now_s() + 7200}))),
        ("farthest exp", changed(json!({"exp": u64::MAX}))),
        ("long life with an old iat", changed(json!({"iat": now_s() - 7200, "exp": now_s() + 60}))),
        ("issued tomorrow", changed(json!({"iat": now_s() + 86400, "exp": now_s() + 86400 + 60}))),
        ("not yet", changed(json!({"nbf": now_s() + 300}))),
        ("no sub", changed(json!({"sub": null}))),
        ("empty sub", changed(json!({"sub": ""}))),
        ("no tenant", changed(json!({"tenant": null}))),
        ("empty tenant", changed(json!({"tenant": ""}))),
        ("several tenants", changed(json!({"tenant": ["acme", "other"]}))),
        ("no scope", changed(json!({"scope": null}))),
        ("empty peer", changed(json!({"peer": ""}))),
        ("two tenants", doubled),
        ("too long", changed(json!({"more": "x".repeat(10_000)}))),
    ];
    for (attack, token) in &with_secret {
        assert!(check(&secret, token).is_err(), "{attack}");
    }
    let ed_with = |header: Value, seed| {
        let header: Header = serde_json::from_value(header).expect("a header");
        encode(&header, &claims(), &ed_key(seed)).expect("signs")
    };
    let own = json!({"kty": "OKP", "crv": "Ed25519", "x": "E5j2LG0aRXxRumpLXz29L2n8qTIWIY3ImX5Ba9F9k8o"});
    let with_public_key = [
        ("HS256 with the public key", hs_confusion(&public)),
        ("HS256 with the public key's text", hs_confusion(ED_PUBLIC.as_bytes())),
        ("HS256 with the key set", hs_confusion(jwks().as_bytes())),
        ("HS256", good.clone()),
        ("another key", ed_with(json!({"alg": "EdDSA", "kid": "k1"}), 8)),
        ("another key, no kid", ed_with(json!({"alg": "EdDSA"}), 8)),
        ("a kid that is a path", ed_with(json!({"alg": "EdDSA", "kid": "../../dev/null"}), 7)),
        ("a kid that is SQL", ed_with(json!({"alg": "EdDSA", "kid": "x' UNION SELECT 'k1"}), 7)),
        ("an empty kid", ed_with(json!({"alg": "EdDSA", "kid": ""}), 7)),
        ("a key of its own", ed_with(json!({"alg": "EdDSA", "jwk": own}), 8)),
        ("a key set of its own", ed_with(json!({"alg": "EdDSA", "kid": "k1", "jku": "https://evil.test/jwks"}), 8)),
        ("a certificate of its own", ed_with(json!({"alg": "EdDSA", "x5u": "https://evil.test/x5u"}), 8)),
    ];
    for (attack, token) in &with_public_key {
        assert!(check(&ed, token).is_err(), "{attack}");
    }
    for header in [None, Some(""), Some("Bearer"), Some("Basic dXNlcjpwYXNz"), Some(&*good)] {
        assert_eq!(secret.check(header, now_s()), Err(Refused::Missing), "{header:?}");
    }
    assert!(with_secret.len() + with_public_key.len() >= 40);
}

#[test]
fn settings_that_would_be_unsafe_are_refused_and_secrets_are_not_shown() {
    let rsa = r#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#;
    let symmetric = r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#;
    for keys in [
        vec![],
        vec![KeySource::Secret(b"short".to_vec())],
        vec![KeySource::EdDsaPem(b"no key".to_vec())],
        vec![KeySource::Es256Pem(b"no key".to_vec())],
        vec![KeySource::Jwks("{}".to_owned())],
        vec![KeySource::Jwks(rsa.to_owned())],
        vec![KeySource::Jwks(symmetric.to_owned())],
        vec![KeySource::Jwks(jwks().replace("EdDSA", "HS256"))],
    ] {
        assert!(Verifier::new(AuthConfig::new("i", "a", keys.clone())).is_err(), "{keys:?}");
    }
    let config = AuthConfig::new("i", "a", vec![KeySource::Secret(SECRET.to_vec())]);
    let lax = AuthConfig { leeway: Duration::from_secs(61), ..config.clone() };
    assert!(Verifier::new(lax).is_err());
    assert!(!format!("{config:?} {:?}", Verifier::new(config.clone())).contains("a secret for"));
}

struct Caller {
    router: Router,
}

impl Caller {
    fn new(world: &World) -> Self {
        Self { router: router(ApiState::new(world.ports(), verifier(vec![KeySource::Secret(SECRET.to_vec())]))) }
    }

    async fn send(&self, request: Request<Body>) -> (StatusCode, axum::http::HeaderMap, Bytes) {
        let response = self.router.clone().oneshot(request).await.expect("it never fails");
        let (parts, body) = response.into_parts();
        (parts.status, parts.headers, to_bytes(body, 1 << 24).await.expect("the body"))
    }

    async fn call(&self, method: Method, path: &str, claims: &Value, body: &str) -> (StatusCode, Bytes) {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::AUTHORIZATION, format!("Bearer {}", sign(claims)))
            .body(Body::from(body.to_owned()))
            .expect("a request");
        let (status, _, body) = self.send(request).await;
        (status, body)
    }

    async fn ok(&self, method: Method, path: &str) -> Recording {
        let (status, body) = self.call(method, path, &claims(), "").await;
        assert!(status.is_success(), "{path}: {status} {body:?}");
        serde_json::from_slice(&body).expect("a recording")
    }

    async fn problem(&self, method: Method, path: &str, claims: &Value, body: &str) -> (u16, u16) {
        let (status, body) = self.call(method, path, claims, body).await;
        let problem: Problem = serde_json::from_slice(&body).unwrap_or_else(|e| panic!("{path}: {e}: {body:?}"));
        assert_eq!(problem.status, status.as_u16());
        assert!(!problem.detail.is_empty());
        (problem.status, problem.code)
    }
}

#[tokio::test(start_paused = true)]
async fn a_recording_is_started_shown_paused_stopped_and_handed_out() {
    let mut world = World::new().await;
    let coordinator = world.coordinator("a").await;
    let caller = Caller::new(&world);
    world.open("all hands/2", Policy::default()).await;
    let start = "/v1/rooms/all%20hands%2F2/recordings";
    let host = with(json!({"peer": "host"}));
    let (status, body) = until("the room is known", async || {
        let answer = caller.call(Method::POST, start, &host, r#"{"requester":"host"}"#).await;
        (answer.0 != StatusCode::NOT_FOUND).then_some(answer)
    })
    .await;
    assert_eq!(status, StatusCode::CREATED, "{body:?}");
    let recording: Recording = serde_json::from_slice(&body).expect("a recording");
    assert_eq!((recording.requested_by.as_str(), recording.state), ("host", State::Starting));
    let path = format!("/v1/recordings/{}", recording.id);
    assert_eq!(caller.ok(Method::GET, &path).await.id, recording.id);
    assert_eq!(caller.problem(Method::POST, start, &host, "").await, (409, 2002));
    world.fold(2, false).await;
    world.in_state(State::Active).await;
    assert_eq!(caller.ok(Method::POST, &format!("{path}/pause")).await.state, State::Paused);
    world.in_state(State::Paused).await;
    caller.ok(Method::POST, &format!("{path}/resume")).await;
    world.in_state(State::Active).await;
    // Another layout, and somebody hidden, in mid-recording.
    let layout = format!("{path}/layout");
    for (body, field) in [
        (json!({"layout": "mosaic"}), "layout: "),
        (json!({"layout": "{\"regions\":{\"a\":{\"x_pos\":9999}}}"}), "layout.regions.a.x_pos: "),
        (json!({"composite": "none"}), "composite: "),
        (json!({"hide": []}), "the body: "),
    ] {
        let (status, answer) = caller.call(Method::PATCH, &layout, &host, &body.to_string()).await;
        let problem: Problem = serde_json::from_slice(&answer).expect("a problem");
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(problem.detail.starts_with(field), "{}", problem.detail);
    }
    let body = json!({"composite": "grid", "layout": "speaker", "hidden": ["bo"]}).to_string();
    assert_eq!(caller.call(Method::PATCH, &layout, &host, &body).await.0, StatusCode::OK);
    let in_log = world.control("all hands/2").into_iter().find_map(|event| match event.kind {
        EventKind::LayoutChanged { composite, layout, hidden, .. } => Some((composite, layout, hidden)),
        _ => None,
    });
    assert_eq!(in_log, Some((Some(id("grid")), "speaker".to_owned(), vec![id("bo")])));
    // A file, while it grows and to its end.
    let keys = RecordingKeys::new(&recording.tenant, &recording.room, &recording.id);
    let content = Bytes::from(vec![7; 3 * 1024 * 1024 + 1]);
    let name = "composites/grid/composite.mp4";
    world.store.put(&keys.user_file(name).expect("a name"), content.clone()).await.expect("the store is up");
    let (status, body) = caller.call(Method::GET, &format!("{path}/files/{name}"), &host, "").await;
    assert!(status == StatusCode::FOUND || (status == StatusCode::OK && body == content), "{status}");
    assert_eq!(caller.problem(Method::GET, &format!("{path}/files/none.json"), &host, "").await, (404, 4002));
    let guest = with(json!({"peer": "guest"}));
    assert_eq!(caller.problem(Method::GET, &format!("{path}/files/{name}"), &guest, "").await, (403, 5002));
    assert_eq!(caller.problem(Method::POST, &format!("{path}/stop"), &guest, "").await, (403, 5002));
    let stopped = caller.ok(Method::POST, &format!("{path}/stop")).await;
    assert_eq!(stopped.state, State::Ending);
    world.fold(3, true).await;
    world.render().await;
    world.finished(&recording.id).await;
    assert_eq!(caller.ok(Method::GET, &path).await.state, State::Complete);
    assert_eq!(caller.ok(Method::POST, &format!("{path}/stop")).await.state, State::Complete);
    assert_eq!(caller.problem(Method::POST, &format!("{path}/pause"), &claims(), "").await, (409, 2004));
    // Another tenant sees what one who asks for nothing at all sees.
    let other = with(json!({"tenant": "other"}));
    for path in [path.clone(), format!("{path}/files/{name}")] {
        let foreign = caller.call(Method::GET, &path, &other, "").await;
        let missing = caller.call(Method::GET, &path.replace(recording.id.as_str(), "nonesuch"), &other, "").await;
        assert_eq!(foreign, missing);
        assert_eq!(foreign.0, StatusCode::NOT_FOUND);
    }
    for verb in ["stop", "pause", "resume"] {
        assert_eq!(caller.problem(Method::POST, &format!("{path}/{verb}"), &other, "").await, (404, 2003));
    }
    let today = OffsetDateTime::now_utc().date();
    let list = format!("/v1/recordings?date={today}");
    let (_, body) = caller.call(Method::GET, &list, &claims(), "").await;
    let page: Page = serde_json::from_slice(&body).expect("a page");
    assert_eq!(page.recordings.iter().map(|recording| &recording.id).collect::<Vec<_>>(), [&recording.id]);
    let (_, body) = caller.call(Method::GET, &list, &other, "").await;
    assert!(serde_json::from_slice::<Page>(&body).expect("a page").recordings.is_empty());
    coordinator.drain().await;
}

#[tokio::test(start_paused = true)]
async fn a_day_is_paged_through_without_a_trace_of_other_tenants() {
    let mut world = World::new().await;
    world.open("standup", auto()).await;
    let coordinator = world.coordinator("a").await;
    world.the_recording().await;
    let template = world.recordings().await.remove(0);
    coordinator.kill();
    let caller = Caller::new(&world);
    // In the order of ids they take turns; some are final, some active, some are about to be forgotten as active.
    for n in 0_u64..60 {
        let (id, tenant) = (RecordingId::generate(1_700_000_000_000 + n, 0), id(["acme", "other"][n as usize % 2]));
        let recording = Recording { id, tenant, ..template.recording.clone() };
        if n % 5 < 3 {
            let ended = Recording { state: State::Complete, ..recording.clone() };
            let key = index_key(&recording.tenant, &recording.id);
            world.store.put(&key, to_json(&ended)).await.expect("the store is up");
        }
        if n % 5 >= 2 {
            let active = ActiveRecording { recording, ..template.clone() };
            world.put(cluster::recording_key(&active.recording.id), &active).await;
        }
    }
    for (tenant, first) in [("acme", 0), ("other", 1)] {
        let own: Vec<_> = (first..60).step_by(2).map(|n| RecordingId::generate(1_700_000_000_000 + n, 0)).collect();
        for limit in [1, 7, 30, 200] {
            let (mut seen, mut after) = (Vec::new(), String::new());
            loop {
                let path = format!("/v1/recordings?date=2023-11-14&limit={limit}{after}");
                let (status, body) = caller.call(Method::GET, &path, &with(json!({ "tenant": tenant })), "").await;
                assert_eq!(status, StatusCode::OK);
                let page: Page = serde_json::from_slice(&body).expect("a page");
                assert!(page.recordings.len() <= limit && page.recordings.iter().all(|one| one.tenant == id(tenant)));
                seen.extend(page.recordings.into_iter().map(|recording| recording.id));
                let Some(next) = page.next else { break };
                assert!(own.contains(&next), "{next} is not of {tenant}");
                after = format!("&after={next}");
            }
            assert_eq!(seen, own, "{tenant} by {limit}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_recording_that_ends_while_a_day_is_listed_is_listed() {
    let mut world = World::new().await;
    world.open("standup", auto()).await;
    let coordinator = world.coordinator("a").await;
    let recording = world.the_recording().await;
    coordinator.kill();
    // It ends between the two listings, whichever comes first.
    let (store, coordination) = (world.store.clone(), world.coordination.clone());
    let ended = Recording { state: State::Complete, ..recording.clone() };
    let listings = AtomicU64::new(0);
    let faults: Arc<dyn Faults> = Arc::new(move |operation: Operation, prefix: &str| {
        let lists = operation == Operation::List || prefix == cluster::recordings_prefix();
        if lists && listings.fetch_add(1, Ordering::SeqCst) == 1 {
            let key = index_key(&ended.tenant, &ended.id);
            let put = store.put(&key, to_json(&ended));
            put.now_or_never().expect("memory is there at once").expect("the store is up");
            let gone = vec![Change::Delete(cluster::recording_key(&ended.id))];
            coordination.transact(Vec::new(), gone).now_or_never().expect("so is this").expect("the store is up");
        }
        None
    });
    world.store = world.store.with_faults(faults.clone());
    world.coordination = world.coordination.with_faults(faults);
    let path = format!("/v1/recordings?date={}", OffsetDateTime::now_utc().date());
    let (_, body) = Caller::new(&world).call(Method::GET, &path, &claims(), "").await;
    let page: Page = serde_json::from_slice(&body).expect("a page");
    assert_eq!(page.recordings.into_iter().map(|one| one.id).collect::<Vec<_>>(), [recording.id]);
}

#[tokio::test(start_paused = true)]
async fn a_recording_is_rendered_again() {
    let mut world = World::new().await;
    world.open("standup", auto()).await;
    let coordinator = world.coordinator("a").await;
    let caller = Caller::new(&world);
    let recording = world.the_recording().await;
    let path = format!("/v1/recordings/{}/composites", recording.id);
    let ask = json!({"composite": {"id": "pitch", "layout": "speaker"}, "from_ms": 500, "hidden": ["bo"]}).to_string();
    assert_eq!(caller.problem(Method::POST, &path, &claims(), &ask).await, (409, 2005));
    world.last_window(&recording, 10_000_000).await;
    world.complete(&recording.id).await;
    let keys = RecordingKeys::new(&recording.tenant, &recording.room, &recording.id);
    // Refused before anything stands anywhere.
    let many = |count: u32| {
        let regions: serde_json::Map<_, _> = (0..count).map(|index| (format!("r{index}"), json!({}))).collect();
        json!({"regions": regions}).to_string()
    };
    let of_layout = |layout: String| json!({"id": "pitch", "layout": layout});
    for (composite, start) in [
        (of_layout(r#"{"regions":{"main":{"width":1}}}"#.into()), "composite.layout.regions.main.width: 1 is not"),
        (
            of_layout(r#"{"regions":{"main":{"width":0,"height":0}}}"#.into()),
            "composite.layout.regions.main.width: 0 is",
        ),
        (
            of_layout(r#"{"regions":{"a":{"width":400},"b":{"x_pos":200}}}"#.into()),
            "composite.layout.regions.b.z_pos: it overlaps region `a`",
        ),
        (of_layout(r#"{"regions":{"a":{"x_pos":4000}}}"#.into()), "composite.layout.regions.a.x_pos: 4000 is not on"),
        (
            of_layout(r#"{"regions":{"a":{"video_sources":["bo",""]}}}"#.into()),
            "composite.layout.regions.a.video_sources[1]: \"\" is not a source's name",
        ),
        (
            of_layout(r#"{"regions":{"a":{"video_sources":["*","bob"]}}}"#.into()),
            "composite.layout.regions.a.video_sources[1]: nobody in recording",
        ),
        (of_layout(r#"{"regions":{"a":{"audience":["bo"]}}}"#.into()), "composite.layout.regions.a.audience: no such"),
        (of_layout(r#"{"resolution":"0x0","regions":{"a":{}}}"#.into()), "composite.layout.resolution: \"0x0\" is not"),
        (of_layout(many(101)), "composite.layout.regions: 101 regions"),
        (of_layout(many(10_000)), "composite.layout: "),
        (json!({"id": "pitch", "width": 0, "height": 0}), "composite.width: "),
    ] {
        let body = json!({"composite": composite}).to_string();
        let (status, answer) = caller.call(Method::POST, &path, &claims(), &body).await;
        let problem: Problem = serde_json::from_slice(&answer).expect("a problem");
        assert_eq!(status, StatusCode::BAD_REQUEST, "{start}");
        assert!(problem.detail.starts_with(start), "{}", problem.detail);
    }
    let body = json!({"composite": of_layout(many(40_000))}).to_string();
    assert_eq!(caller.problem(Method::POST, &path, &claims(), &body).await, (413, 1006));
    for (claims, body, expected) in [
        (claims(), json!({"composite": {"id": "pitch", "layout": "mosaic"}}), (400, 1000)),
        (claims(), json!({"composite": {"id": "pitch", "width": 7}}), (400, 1000)),
        (claims(), json!({"composite": {"id": "pitch"}, "from_ms": 10_000}), (400, 1000)),
        (claims(), json!({"composite": {"id": "grid"}}), (409, 2007)),
        (with(json!({"peer": "guest"})), json!({"composite": {"id": "pitch"}}), (403, 5002)),
        (with(json!({"tenant": "other"})), json!({"composite": {"id": "pitch"}}), (404, 2003)),
        (with(json!({"scope": "recordings:read"})), json!({"composite": {"id": "pitch"}}), (403, 1007)),
    ] {
        assert_eq!(caller.problem(Method::POST, &path, &claims, &body.to_string()).await, expected, "{body}");
    }
    let one = format!("{path}/pitch");
    assert_eq!(caller.problem(Method::GET, &one, &claims(), "").await, (404, 2008));
    // Asked for twice, and once more after the job was lost with the coordination store.
    let asked = async |expected: StatusCode| {
        let (status, body) = caller.call(Method::POST, &path, &claims(), &ask).await;
        assert_eq!(status, expected, "{body:?}");
        serde_json::from_slice::<LateRender>(&body).expect("a late render")
    };
    let render = asked(StatusCode::ACCEPTED).await;
    assert_eq!((render.state, render.slices, render.duration_ms), (LateState::Rendering, 3, 9_500));
    asked(StatusCode::ACCEPTED).await;
    let other = json!({"composite": {"id": "pitch", "layout": "pip"}}).to_string();
    assert_eq!(caller.problem(Method::POST, &path, &claims(), &other).await, (409, 2007));
    world.forget_late().await;
    let (_, body) = caller.call(Method::GET, &one, &claims(), "").await;
    let lost: LateRender = serde_json::from_slice(&body).expect("a late render");
    assert!(lost.reason.contains("ask for it again"), "{}", lost.reason);
    asked(StatusCode::ACCEPTED).await;
    let show = async || {
        let (_, body) = caller.call(Method::GET, &one, &claims(), "").await;
        serde_json::from_slice::<LateRender>(&body).expect("a late render")
    };
    // What was begun when something else was left out does not go on with other slices; of before it was said, it does.
    let document = keys.render_json(&render.spec.composite.id);
    for (shown_ms, slices, expected) in [
        (vec![(500, 2_000), (4_000, 10_000)], 3, StatusCode::CONFLICT),
        (vec![], 2, StatusCode::CONFLICT),
        (vec![], 3, StatusCode::ACCEPTED),
        (vec![(500, 10_000)], 3, StatusCode::ACCEPTED),
    ] {
        world.forget_late().await;
        let begun = LateRender { shown_ms, slices, ..render.clone() };
        world.store.put(&document, to_json(&begun)).await.expect("the store is up");
        let (status, body) = caller.call(Method::POST, &path, &claims(), &ask).await;
        assert_eq!(status, expected, "{begun:?}: {body:?}");
    }
    // A failure has a reason, and is none of the recording's; asked for again, it goes on.
    until("it failed", async || {
        world.report_late(Some("window 0: damaged")).await;
        Some(show().await).filter(|render| render.state == LateState::Failed)
    })
    .await;
    assert_eq!(caller.ok(Method::GET, &format!("/v1/recordings/{}", recording.id)).await.state, State::Complete);
    asked(StatusCode::ACCEPTED).await;
    let done = until("it is complete", async || {
        world.report_late(None).await;
        Some(show().await).filter(|render| render.state == LateState::Complete)
    })
    .await;
    assert_eq!((done.rendered, done.files.clone()), (3, vec!["composites/pitch/composite.mp4".to_owned()]));
    let after = caller.ok(Method::GET, &format!("/v1/recordings/{}", recording.id)).await;
    assert_eq!(after.composites.iter().map(|composite| composite.id.as_str()).collect::<Vec<_>>(), ["grid", "pitch"]);
    assert!(after.files.contains(&"composites/pitch/composite.mp4".to_owned()));
    let document = world.store.get(&keys.recording_json()).await.expect("there");
    let document: Recording = serde_json::from_slice(&document).expect("a recording");
    assert_eq!(document.composites.len(), 1, "it is written once");
    let day = OffsetDateTime::now_utc().date();
    let page = caller.call(Method::GET, &format!("/v1/recordings?date={day}"), &claims(), "").await.1;
    let page: Page = serde_json::from_slice(&page).expect("a page");
    assert_eq!(page.recordings, [after]);
    assert_eq!(asked(StatusCode::OK).await.state, LateState::Complete);
    // A leader that was paused when the first attempt had failed writes that down now.
    let failed = LateRender { state: LateState::Failed, ..done };
    world.store.put(&keys.render_json(&failed.spec.composite.id), to_json(&failed)).await.expect("the store is up");
    assert_eq!(show().await.state, LateState::Complete);
    coordinator.drain().await;
}

#[tokio::test(start_paused = true)]
async fn an_idempotency_key_starts_one_recording() {
    let mut world = World::new().await;
    world.open("standup", Policy::default()).await;
    let coordinator = world.coordinator("a").await;
    until("it leads", async || coordinator.is_leader().then_some(())).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let caller = Caller::new(&world);
    let send = async |key: &str, body: &str| {
        let request = Request::post("/v1/rooms/standup/recordings")
            .header(header::AUTHORIZATION, format!("Bearer {}", sign(&claims())))
            .header("Idempotency-Key", key)
            .body(Body::from(body.to_owned()))
            .expect("a request");
        let (status, headers, body) = caller.send(request).await;
        let location = headers.get(header::LOCATION).map(|value| value.to_str().expect("text").to_owned());
        (status, location, body)
    };
    let (first, second) = tokio::join!(send("k1", ""), send("k1", ""));
    assert_eq!((first.0, second.0), (StatusCode::CREATED, StatusCode::CREATED), "{:?} {:?}", first.2, second.2);
    assert!(first.1.is_some() && first.1 == second.1);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(send("k1", "").await.1, first.1, "long after");
    assert_eq!(send("k2", "").await.0, StatusCode::CONFLICT);
    assert_eq!(send("", "").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(world.recordings().await.len(), 1);
    coordinator.drain().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_the_caller_is_told_and_nothing_is_left_behind() {
    let world = World::new().await;
    let caller = Caller::new(&world);
    assert_eq!(caller.problem(Method::POST, "/v1/rooms/r/recordings", &claims(), "").await, (503, 1002));
    let left = world.coordination.list(&cluster::requests_prefix()).await.expect("up");
    assert!(left.records.is_empty());
}

#[tokio::test(start_paused = true)]
async fn bad_requests_are_refused_with_what_to_do() {
    let world = World::new().await;
    let caller = Caller::new(&world);
    let long = format!("/v1/rooms/{}/recordings", "x".repeat(300));
    let output = json!([{"kind": "mp3", "name": "audio.mp3"}]);
    let same_name = json!({"composites": [{"id": "a", "outputs": output}, {"id": "b", "outputs": output}]}).to_string();
    let many = json!({"composites": (0..9).map(|n| json!({"id": format!("c{n}")})).collect::<Vec<_>>()}).to_string();
    let big = "x".repeat(MAX_BODY_BYTES + 1);
    let start = "/v1/rooms/r/recordings";
    for (method, path, body, expected) in [
        (Method::POST, start, "{", (400, 1000)),
        (Method::POST, start, "[]", (400, 1000)),
        (Method::POST, start, r#"{"layout":"grid"}"#, (400, 1000)),
        (Method::POST, start, r#"{"requester":""}"#, (400, 1000)),
        (Method::POST, start, r#"{"composites":[{"width":7}]}"#, (400, 1000)),
        (Method::POST, start, r#"{"composites":[{},{}]}"#, (400, 1000)),
        (Method::POST, start, r#"{"composites":[{"outputs":["mp5"]}]}"#, (400, 1000)),
        (Method::POST, start, r#"{"composites":[{"outputs":[{"kind":"mp3","name":"../x.mp3"}]}]}"#, (400, 1000)),
        (Method::POST, start, r#"{"composites":[{"outputs":[{"kind":"hls","width":320}]}]}"#, (400, 1000)),
        (Method::POST, start, r#"{"composites":[{"tracks":["wav"]}]}"#, (400, 1000)),
        (Method::POST, start, &same_name, (400, 1000)),
        (Method::POST, start, r#"{"composites":[{"layout":"mosaic"}]}"#, (400, 1000)),
        (Method::POST, "/v1/recordings/x/composites", "", (400, 1000)),
        (Method::POST, "/v1/recordings/x/composites", r#"{"layout":"grid"}"#, (400, 1000)),
        (Method::POST, "/v1/recordings/x/composites", r#"{"composite":{}}"#, (404, 2003)),
        (Method::GET, "/v1/recordings/x/composites/grid", "", (404, 2003)),
        (Method::POST, start, &many, (400, 1000)),
        (Method::POST, start, &big, (413, 1006)),
        (Method::POST, &long, "", (400, 1000)),
        (Method::POST, "/v1/rooms/%ff%fe/recordings", "", (400, 1000)),
        (Method::GET, "/v1/recordings", "", (400, 1000)),
        (Method::GET, "/v1/recordings?date=2024-02-30", "", (400, 1000)),
        (Method::GET, "/v1/recordings?date=../../..", "", (400, 1000)),
        (Method::GET, "/v1/recordings?date=2024-02-28&limit=x", "", (400, 1000)),
        (Method::GET, "/v1/elsewhere", "", (404, 1004)),
        (Method::DELETE, "/v1/recordings/x", "", (405, 1005)),
    ] {
        assert_eq!(caller.problem(method, path, &claims(), body).await, expected, "{path} {:.40}", body);
    }
    let read = with(json!({"scope": "recordings:read"}));
    let write = with(json!({"scope": "recordings:write recordings:reader"}));
    assert_eq!(caller.problem(Method::POST, start, &read, "").await, (403, 1007));
    assert_eq!(caller.problem(Method::GET, "/v1/recordings/x", &write, "").await, (403, 1007));
    let peer = with(json!({"peer": "bo"}));
    assert_eq!(caller.problem(Method::POST, start, &peer, r#"{"requester":"host"}"#).await, (403, 5002));
}

#[tokio::test(start_paused = true)]
async fn hostile_ids_find_nothing() {
    let mut world = World::new().await;
    world.open("standup", Policy::default()).await;
    let caller = Caller::new(&world);
    let hostile = [
        "%2e%2e",
        "..%2f..",
        "%2E%2E%2Fetc%2Fpasswd",
        "*",
        "%3E",
        "a%2ab",
        "%20",
        "%0d%0a",
        "%00",
        "%252e%252e",
        "=2E=2E",
        "%E4%BC%9A",
        "%F0%9F%8E%A5",
        "recording.json",
        "..;",
        "%5c..%5c",
        "'%20OR%201=1",
        "${jndi:ldap:x}",
        "{{7*7}}",
    ];
    for id in hostile.iter().map(|id| id.replace(['{', '}', '$', ' '], "%7B")) {
        for path in [format!("/v1/recordings/{id}"), format!("/v1/recordings/{id}/files/{id}")] {
            let (status, _) = caller.call(Method::GET, &path, &claims(), "").await;
            assert_eq!(status, StatusCode::NOT_FOUND, "{path}");
        }
        let (status, _) = caller.call(Method::POST, &format!("/v1/recordings/{id}/stop"), &claims(), "").await;
        assert_eq!(status, StatusCode::NOT_FOUND, "{id}");
    }
    assert!(world.store.list("").await.expect("the store is up").is_empty());
}

#[tokio::test(start_paused = true)]
async fn every_route_but_the_open_ones_wants_a_token() {
    let world = World::new().await;
    let caller = Caller::new(&world);
    let open = BTreeSet::from(["/healthz", "/readyz", "/openapi.json"]);
    for route in routes::routes() {
        let path = route.path.replace("{room}", "r").replace("{id}", "x").replace("{*name}", "a/b");
        let path = path.replace("{composite}", "grid");
        let request = Request::builder().method(&*route.method.to_uppercase()).uri(&path).body(Body::empty());
        let (status, headers, _) = caller.send(request.expect("a request")).await;
        if open.contains(route.path) {
            assert_eq!(status, StatusCode::OK, "{path}");
        } else {
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
            assert!(headers.contains_key(header::WWW_AUTHENTICATE));
            assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
        }
    }
}

#[test]
fn the_document_and_the_routes_agree() {
    let document: Value = serde_json::from_str(routes::OPENAPI).expect("JSON");
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    let mut documented = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            documented.insert((method.clone(), path.clone()));
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            let in_path: BTreeSet<_> =
                parameters.iter().filter(|p| p["in"] == "path").filter_map(|p| p["name"].as_str()).collect();
            let named: BTreeSet<_> =
                path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
            assert_eq!(in_path, named, "{path}");
        }
    }
    let served: BTreeSet<_> =
        routes::routes().iter().map(|route| (route.method.to_owned(), route.path.replace("{*", "{"))).collect();
    assert_eq!(documented, served);
}

#[test]
fn the_documents_references_exist_and_its_examples_read() {
    let document: Value = serde_json::from_str(routes::OPENAPI).expect("JSON");
    let mut examples = 0;
    visit(&document, &mut |value| {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            let pointer = reference.strip_prefix('#').expect("in this document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        if let (Some(example), Some(schema)) =
            (value.get("example"), value.pointer("/schema/$ref").and_then(Value::as_str))
        {
            examples += 1;
            match schema.rsplit('/').next().expect("a name") {
                "Recording" => {
                    let read: Recording = serde_json::from_value(example.clone()).expect("a recording");
                    let written = serde_json::to_value(&read).expect("plain data");
                    assert_eq!(&written, example, "nothing is left out or made up");
                }
                "Page" => {
                    assert_eq!(serde_json::from_value::<Page>(example.clone()).expect("a page").recordings.len(), 1)
                }
                "Start" => {}
                "LateRenderRequest" => {
                    serde_json::from_value::<LateSpec>(example.clone()).expect("a request");
                }
                "LateRender" => {
                    serde_json::from_value::<LateRender>(example.clone()).expect("a late render");
                }
                other => panic!("an example of {other} that nothing reads"),
            }
        }
    });
    assert!(examples >= 6, "{examples}");
}

fn visit(value: &Value, look: &mut impl FnMut(&Value)) {
    look(value);
    match value {
        Value::Object(members) => members.values().for_each(|member| visit(member, look)),
        Value::Array(items) => items.iter().for_each(|item| visit(item, look)),
        _ => {}
    }
}
