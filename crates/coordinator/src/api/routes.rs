//! The routes, as one table that the OpenAPI document is checked against, and their handlers.

use std::collections::BTreeSet;

use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use bytes::Bytes;
use roomreel_shared::cluster;
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::event;
use roomreel_shared::id::{CompositeId, PeerId, RecordingId, RoomId};
use roomreel_shared::output::check_together;
use roomreel_shared::recording::Recording;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use time::format_description::well_known::Iso8601;
use time::{Date, OffsetDateTime};

use super::auth::Principal;
use super::problem::Problem;
use super::service::{self, Page};
use super::{ApiState, MAX_BODY_BYTES, files, late};
use crate::late::{check_composite, check_layout};
use crate::request::{Refusal, Request, Wish};

/// Most composites of a recording.
const MAX_COMPOSITES: usize = 8;
/// Largest change of a layout in mid-recording: it has to fit into an event, with an id's tag and length for each participant.
const MAX_LAYOUT_BYTES: usize = event::MAX_EVENT_BYTES / 2;
/// Longest idempotency key.
const MAX_KEY_CHARS: usize = 255;
/// Recordings on a page, unless asked otherwise, and at most.
const PAGE: (usize, usize) = (50, 200);

/// A method on a path.
pub(super) struct Route {
    /// As the document names it, in lower case.
    #[cfg_attr(not(test), expect(dead_code, reason = "the OpenAPI document is checked against it"))]
    pub method: &'static str,
    /// As axum writes it.
    pub path: &'static str,
    /// What answers.
    pub handler: MethodRouter<ApiState>,
}

/// Every route there is.
pub(super) fn routes() -> Vec<Route> {
    let get = |path, handler| Route { method: "get", path, handler };
    let post = |path, handler| Route { method: "post", path, handler };
    vec![
        post("/v1/rooms/{room}/recordings", self::post(start)),
        get("/v1/recordings", self::get(list)),
        get("/v1/recordings/{id}", self::get(show)),
        post("/v1/recordings/{id}/stop", self::post(stop)),
        post("/v1/recordings/{id}/pause", self::post(pause)),
        post("/v1/recordings/{id}/resume", self::post(resume)),
        Route { method: "patch", path: "/v1/recordings/{id}/layout", handler: axum::routing::patch(change_layout) },
        post("/v1/recordings/{id}/composites", self::post(render)),
        get("/v1/recordings/{id}/composites/{composite}", self::get(show_render)),
        get("/v1/recordings/{id}/files/{*name}", self::get(file)),
        get("/healthz", self::get(healthz)),
        get("/readyz", self::get(readyz)),
        get("/openapi.json", self::get(openapi)),
    ]
}

/// The document of the API.
pub(super) const OPENAPI: &str = include_str!("../../openapi.json");

type Answer = Result<Response, Problem>;

fn principal(state: &ApiState, headers: &HeaderMap) -> Result<Principal, Problem> {
    let now_s = u64::try_from(OffsetDateTime::now_utc().unix_timestamp()).unwrap_or(0);
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    state.verifier.check(authorization, now_s).map_err(|refused| {
        state.metrics.refused("token");
        Problem::unauthenticated(refused)
    })
}

fn reader(state: &ApiState, headers: &HeaderMap) -> Result<Principal, Problem> {
    let principal = principal(state, headers)?;
    if principal.may_read { Ok(principal) } else { Err(Problem::no_scope("recordings:read")) }
}

fn writer(state: &ApiState, headers: &HeaderMap) -> Result<Principal, Problem> {
    let principal = principal(state, headers)?;
    if principal.may_write { Ok(principal) } else { Err(Problem::no_scope("recordings:write")) }
}

fn path<T>(path: Result<Path<T>, PathRejection>) -> Result<T, Problem> {
    path.map(|Path(inner)| inner).map_err(|rejection| Problem::malformed(rejection.body_text()))
}

/// Text that is no id of ours names no recording.
fn recording_id(id: &str) -> Result<RecordingId, Problem> {
    RecordingId::new(id).map_err(|_| Problem::no_recording())
}

fn answer(status: StatusCode, recording: &Recording) -> Response {
    let location = HeaderValue::try_from(format!("/v1/recordings/{}", recording.id.token())).ok();
    let mut response = (status, axum::Json(recording)).into_response();
    if let (StatusCode::CREATED, Some(location)) = (status, location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn received(body: Result<Bytes, BytesRejection>) -> Result<Bytes, Problem> {
    body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::too_large(MAX_BODY_BYTES),
        _ => Problem::malformed(rejection.body_text()),
    })
}

fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(Problem::malformed("the body is not a JSON object"));
    }
    serde_json::from_slice(body).map_err(|e| Problem::malformed(format!("the body: {e}")))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StartBody {
    requester: Option<PeerId>,
    composites: Option<Vec<CompositeSpec>>,
}

impl StartBody {
    fn read(body: Result<Bytes, BytesRejection>) -> Result<Self, Problem> {
        let body = received(body)?;
        let body: Self = if body.is_empty() { Self::default() } else { object(&body)? };
        let composites = body.composites.as_deref().unwrap_or_default();
        if composites.len() > MAX_COMPOSITES {
            let asked = composites.len();
            return Err(Problem::malformed(format!(
                "{asked} composites were asked for; at most {MAX_COMPOSITES} are made"
            )));
        }
        check_together(composites).map_err(|e| Problem::malformed(e.to_string()))?;
        for (n, composite) in composites.iter().enumerate() {
            let path = format!("composites[{n}]");
            check_composite(&path, composite).map_err(|e| Problem::malformed(e.to_string()))?;
            if composites[..n].iter().any(|other| other.id == composite.id) {
                return Err(Problem::malformed(format!("two composites have the id {}", composite.id)));
            }
        }
        Ok(body)
    }
}

async fn start(
    State(state): State<ApiState>,
    headers: HeaderMap,
    room: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let principal = writer(&state, &headers)?;
    let room = RoomId::new(path(room)?).map_err(|e| Problem::malformed(e.to_string()))?;
    let body = StartBody::read(body)?;
    let peer = match (&principal.peer, body.requester) {
        (Some(peer), Some(requester)) if *peer != requester => {
            let detail = "the requester is not the participant the token is for; leave it out";
            return Err(Problem::not_authorised(detail));
        }
        (peer, requester) => peer.clone().or(requester),
    };
    let idempotency_key = headers.get("idempotency-key").map(|key| key.to_str().unwrap_or_default());
    if idempotency_key.is_some_and(|key| key.is_empty() || key.len() > MAX_KEY_CHARS) {
        let detail = format!("the Idempotency-Key is not 1 to {MAX_KEY_CHARS} visible ASCII characters");
        return Err(Problem::malformed(detail));
    }
    let wish = Wish::Start { room, composites: body.composites };
    let request = Request { tenant: principal.tenant, subject: principal.subject, peer, wish, outcome: None };
    let id = service::request_id(&request, idempotency_key);
    let recording = service::submit(&state.ports, request, &id).await?;
    Ok(answer(StatusCode::CREATED, &recording))
}

/// Puts a command on a recording to the leader.
async fn command(
    state: &ApiState,
    headers: &HeaderMap,
    id: Result<Path<String>, PathRejection>,
    wish: impl FnOnce(RecordingId) -> Wish,
) -> Answer {
    let principal = writer(state, headers)?;
    let found = service::find(&state.ports, &principal.tenant, &recording_id(&path(id)?)?).await?;
    let wish = wish(found.recording.id.clone());
    if !found.active {
        return match wish {
            // It has stopped, which is what was asked.
            Wish::Stop { .. } if service::may_see(&principal, &found.recording) => {
                Ok(answer(StatusCode::OK, &found.recording))
            }
            _ => Err(Refusal::Ended.into()),
        };
    }
    let Principal { tenant, subject, peer, .. } = principal;
    let request = Request { tenant, subject, peer, wish, outcome: None };
    let id = service::request_id(&request, None);
    let recording = service::submit(&state.ports, request, &id).await?;
    Ok(answer(StatusCode::OK, &recording))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LayoutBody {
    composite: Option<CompositeId>,
    layout: Option<String>,
    #[serde(default)]
    hidden: BTreeSet<PeerId>,
}

/// What is shown from now on: the layout, and who is hidden.
async fn change_layout(
    State(state): State<ApiState>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let principal = writer(&state, &headers)?;
    let LayoutBody { composite, layout, hidden } = object(&received(body)?)?;
    let id = path(id)?;
    let found = service::find(&state.ports, &principal.tenant, &recording_id(&id)?).await?;
    let is_meant = |spec: &&CompositeSpec| composite.as_ref().is_none_or(|composite| spec.id == *composite);
    let mut meant = found.recording.composites.iter().filter(is_meant).peekable();
    if let (None, Some(composite)) = (meant.peek(), &composite) {
        return Err(Problem::malformed(format!("composite: the recording has no composite {composite}")));
    }
    let bytes = layout.as_ref().map_or(0, String::len) + hidden.iter().map(|peer| peer.as_str().len()).sum::<usize>();
    if bytes > MAX_LAYOUT_BYTES {
        let detail = format!("layout: it and the hidden participants have {bytes} bytes; at most {MAX_LAYOUT_BYTES}");
        return Err(Problem::malformed(detail));
    }
    if let Some(layout) = &layout {
        for spec in meant {
            check_layout(layout, spec.width, spec.height).map_err(|e| Problem::malformed(e.to_string()))?;
        }
    }
    let (layout, hidden) = (layout.unwrap_or_default(), hidden.into_iter().collect());
    command(&state, &headers, Ok(Path(id)), |recording| Wish::Layout { recording, composite, layout, hidden }).await
}

async fn stop(State(state): State<ApiState>, headers: HeaderMap, id: Result<Path<String>, PathRejection>) -> Answer {
    command(&state, &headers, id, |recording| Wish::Stop { recording }).await
}

async fn pause(State(state): State<ApiState>, headers: HeaderMap, id: Result<Path<String>, PathRejection>) -> Answer {
    command(&state, &headers, id, |recording| Wish::Pause { recording }).await
}

async fn resume(State(state): State<ApiState>, headers: HeaderMap, id: Result<Path<String>, PathRejection>) -> Answer {
    command(&state, &headers, id, |recording| Wish::Resume { recording }).await
}

async fn show(State(state): State<ApiState>, headers: HeaderMap, id: Result<Path<String>, PathRejection>) -> Answer {
    let principal = reader(&state, &headers)?;
    let seen = service::look_at(&state.ports, &principal, &recording_id(&path(id)?)?).await?;
    Ok(answer(StatusCode::OK, &seen.ok_or_else(Problem::not_seen)?))
}

async fn render(
    State(state): State<ApiState>,
    headers: HeaderMap,
    id: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Answer {
    let principal = writer(&state, &headers)?;
    let id = recording_id(&path(id)?)?;
    let (render, is_done) = late::ask(&state.ports, &principal, &id, object(&received(body)?)?).await?;
    let (recording, composite) = (render.recording.token(), render.spec.composite.id.token());
    let location = HeaderValue::try_from(format!("/v1/recordings/{recording}/composites/{composite}")).ok();
    let status = if is_done { StatusCode::OK } else { StatusCode::ACCEPTED };
    let mut response = (status, axum::Json(render)).into_response();
    if let Some(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

async fn show_render(
    State(state): State<ApiState>,
    headers: HeaderMap,
    parts: Result<Path<(String, String)>, PathRejection>,
) -> Answer {
    let principal = reader(&state, &headers)?;
    let (id, composite) = path(parts)?;
    let composite = CompositeId::new(composite).map_err(|_| Problem::no_composite())?;
    let render = late::show(&state.ports, &principal, &recording_id(&id)?, &composite).await?;
    Ok(axum::Json(render).into_response())
}

async fn file(
    State(state): State<ApiState>,
    headers: HeaderMap,
    parts: Result<Path<(String, String)>, PathRejection>,
) -> Answer {
    let principal = reader(&state, &headers)?;
    let (id, name) = path(parts)?;
    let found = service::find(&state.ports, &principal.tenant, &recording_id(&id)?).await?;
    if let Some(peer) = &principal.peer {
        found.recording.policy.check_download(peer).map_err(|refusal| Problem::not_authorised(refusal.to_string()))?;
    }
    tracing::info!(recording = %found.recording.id, file = name, subject = principal.subject, "a file is given out");
    files::serve(&state, &found.recording, &name).await
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    date: String,
    after: Option<RecordingId>,
    limit: Option<usize>,
}

async fn list(
    State(state): State<ApiState>,
    headers: HeaderMap,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<axum::Json<Page>, Problem> {
    let principal = reader(&state, &headers)?;
    let Query(query) = query.map_err(|rejection| Problem::malformed(rejection.body_text()))?;
    let date =
        Some(&query.date).filter(|date| date.len() == 10).and_then(|date| Date::parse(date, &Iso8601::DATE).ok());
    let date = date.ok_or_else(|| Problem::malformed("date is not of the form yyyy-mm-dd"))?;
    let limit = query.limit.unwrap_or(PAGE.0).clamp(1, PAGE.1);
    service::list(&state.ports, &principal, date, query.after.as_ref(), limit).await.map(axum::Json)
}

async fn healthz() -> Response {
    axum::Json(serde_json::json!({ "status": "ok" })).into_response()
}

/// Ready: the coordination store answers, so requests can be put to a leader.
async fn readyz(State(state): State<ApiState>) -> Answer {
    let leader = state.ports.coordination.get(&cluster::leader_key()).await?;
    Ok(axum::Json(serde_json::json!({ "status": "ready", "leader": leader.is_some() })).into_response())
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}
