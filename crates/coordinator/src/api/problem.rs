//! Errors as `application/problem+json` (RFC 9457).
//!
//! Codes come in families: 1xxx the request and the connection, 2xxx rooms and recordings, 4xxx storage, 5xxx policy.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use roomreel_shared::id::{CompositeId, RecordingId};
use roomreel_shared::ports::{CoordinationError, StoreError};
use serde::{Deserialize, Serialize};

use super::auth::Refused;
use crate::request::Refusal;

/// An error as the caller sees it: what is wrong, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `urn:roomreel:problem:{code}`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The same for every problem of this code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// By family.
    pub code: u16,
    /// What is wrong in this case, and what to do.
    pub detail: String,
    /// The recording that is in the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<RecordingId>,
}

impl Problem {
    fn new(status: StatusCode, code: u16, title: &str, detail: impl Into<String>) -> Self {
        Self {
            kind: format!("urn:roomreel:problem:{code}"),
            title: title.to_owned(),
            status: status.as_u16(),
            code,
            detail: detail.into(),
            recording: None,
        }
    }

    /// 1000: the request is malformed.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, 1000, "malformed request", detail)
    }

    /// 1001: no token, or one that is refused.
    pub fn unauthenticated(refused: Refused) -> Self {
        let detail = format!("{refused}; send `Authorization: Bearer` with a token of the configured issuer");
        Self::new(StatusCode::UNAUTHORIZED, 1001, "not authenticated", detail)
    }

    /// 1002: nobody can answer now.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, 1002, "not available now", detail)
    }

    /// 1003: the key was used for another request.
    pub fn key_reused() -> Self {
        let detail = "this Idempotency-Key was sent with another request; use a new key for each request";
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, 1003, "idempotency key used twice", detail)
    }

    /// 1004: there is no such route.
    pub fn no_route() -> Self {
        let detail = "there is nothing under this path; /openapi.json lists the routes";
        Self::new(StatusCode::NOT_FOUND, 1004, "no such route", detail)
    }

    /// 1005: the route has no such method.
    pub fn no_method() -> Self {
        let detail = "this path does not take this method; /openapi.json lists the routes";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, 1005, "no such method", detail)
    }

    /// 1006: the body is too large.
    pub fn too_large(limit: usize) -> Self {
        let detail = format!("the body is over the limit of {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, 1006, "body too large", detail)
    }

    /// 1007: the token lacks a scope.
    pub fn no_scope(scope: &str) -> Self {
        let detail = format!("the token lacks the scope {scope}");
        Self::new(StatusCode::FORBIDDEN, 1007, "scope missing", detail)
    }

    /// 2003: missing, or another tenant's: the answer is the same.
    pub fn no_recording() -> Self {
        Self::new(StatusCode::NOT_FOUND, 2003, "no such recording", "there is no recording with this id")
    }

    /// 2005: the recording is not final yet.
    pub fn not_ended() -> Self {
        let detail = "the recording is still under way; ask again when it has reached its final state";
        Self::new(StatusCode::CONFLICT, 2005, "recording has not ended", detail)
    }

    /// 2006: nothing can be rendered from the recording.
    pub fn not_renderable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, 2006, "recording cannot be rendered", detail)
    }

    /// 2007: the composite's id stands for something else.
    pub fn composite_taken(composite: &CompositeId) -> Self {
        let detail = format!("the recording has another composite {composite}; choose another id");
        Self::new(StatusCode::CONFLICT, 2007, "composite exists", detail)
    }

    /// 2007: the composite's slices were made when something else was left out of it.
    pub fn composite_divided(composite: &CompositeId) -> Self {
        let detail = format!(
            "composite {composite} was begun when its layout left something else out, and its slices do not go with those to come; choose \
             another id, or delete what the bucket has of it"
        );
        Self::new(StatusCode::CONFLICT, 2007, "composite exists", detail)
    }

    /// 2008: nobody has asked for such a composite after the recording.
    pub fn no_composite() -> Self {
        let detail =
            "no late render of this recording has this id; the recording itself lists what was rendered with it";
        Self::new(StatusCode::NOT_FOUND, 2008, "no such late render", detail)
    }

    /// 4002: the recording has no such file.
    pub fn no_file(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, 4002, "no such file", detail)
    }

    /// 5002: the participant may neither record nor download the room.
    pub fn not_seen() -> Self {
        Self::not_authorised("the room's policy does not let this participant see its recordings (5002)")
    }

    /// 5002: the participant's role does not permit it.
    pub fn not_authorised(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, 5002, "not authorised", detail)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::RoomNotOpen => {
                let detail =
                    "no SFU has opened a room with this id; check the id and that the SFU publishes its events";
                Self::new(StatusCode::NOT_FOUND, 2001, "no such room", detail)
            }
            Refusal::AlreadyRecorded { recording } => {
                let detail = "the room is being recorded; stop that recording first";
                let problem = Self::new(StatusCode::CONFLICT, 2002, "room is being recorded", detail);
                Self { recording: Some(recording), ..problem }
            }
            Refusal::Ended => {
                let detail = "the recording is ending or has ended; start a new one";
                Self::new(StatusCode::CONFLICT, 2004, "recording has ended", detail)
            }
            Refusal::Disabled => {
                let detail = "the room's policy disables recording; have the SFU send a policy that enables it";
                Self::new(StatusCode::FORBIDDEN, 5001, "recording disabled", detail)
            }
            Refusal::NotAuthorised { detail } => Self::not_authorised(detail),
        }
    }
}

impl From<CoordinationError> for Problem {
    fn from(error: CoordinationError) -> Self {
        tracing::info!(%error, "the API could not reach the coordination store");
        Self::unavailable("the coordination store does not answer; try again in a few seconds")
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::info!(%error, "the API could not reach the object store");
        let detail = "the object store does not answer; try again in a few seconds";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, 4001, "storage not available", detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).expect("made from a status");
        let body = serde_json::to_vec(&self).expect("plain data always serializes");
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"roomreel\""));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("2"));
        }
        response
    }
}
