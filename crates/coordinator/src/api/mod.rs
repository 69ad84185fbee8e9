//! The REST API: every replica serves it, and puts what changes a recording to the leader (see [`crate::request`]).
//!
//! Owns routes, limits, tokens and answers. Does not own decisions about recordings.

pub mod auth;
pub mod files;
mod late;
pub mod problem;
mod routes;
pub mod service;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use opentelemetry::KeyValue;
use roomreel_shared::ports::Ports;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use self::auth::Verifier;
use self::problem::Problem;
use crate::metrics::Metrics;

pub use self::auth::{AuthConfig, KeySource};

/// How long an unread request or outcome stays in the coordination store.
pub const REQUEST_LEASE: Duration = Duration::from_secs(60);
/// Largest body.
pub const MAX_BODY_BYTES: usize = 256 * 1024;
/// Longest that an answer may take to begin.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// What the handlers share.
#[derive(Clone)]
pub struct ApiState {
    pub(crate) ports: Ports,
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) metrics: Metrics,
    /// How long the URL of a file is good for.
    pub(crate) url_valid: Duration,
}

impl ApiState {
    /// URLs of files are good for 10 minutes.
    #[must_use]
    pub fn new(ports: Ports, verifier: Verifier) -> Self {
        let verifier = Arc::new(verifier);
        Self { ports, verifier, metrics: Metrics::new(), url_valid: Duration::from_secs(600) }
    }
}

/// The API's routes.
pub fn router(state: ApiState) -> Router {
    let mut router = Router::new();
    for route in routes::routes() {
        router = router.route(route.path, route.handler);
    }
    router
        .fallback(async || Problem::no_route())
        .method_not_allowed_fallback(async || Problem::no_method())
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(state.clone(), limit_and_count))
        .with_state(state)
}

/// Serves the API until `shutdown` is cancelled and the answers under way are given.
///
/// # Errors
/// The listener failed.
pub async fn serve(listener: TcpListener, state: ApiState, shutdown: CancellationToken) -> std::io::Result<()> {
    axum::serve(listener, router(state)).with_graceful_shutdown(shutdown.cancelled_owned()).await
}

/// Nothing waits for ever, and every answer is counted by the route's pattern, never by its ids.
async fn limit_and_count(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let span = tracing::info_span!(
        "request",
        otel.kind = "server",
        method = %request.method(),
        route,
        status = tracing::field::Empty,
        // Joins the caller's trace, if it has one.
        traceparent = request.headers().get("traceparent").and_then(|parent| parent.to_str().ok())
    );
    let response = match tokio::time::timeout(ANSWER_LIMIT, next.run(request)).instrument(span.clone()).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable("the answer took too long; try again").into_response(),
    };
    let status = i64::from(response.status().as_u16());
    span.record("status", status);
    state.metrics.answers.add(1, &[KeyValue::new("route", route), KeyValue::new("status", status)]);
    response
}
