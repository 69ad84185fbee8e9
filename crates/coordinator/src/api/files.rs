//! Gives out files of a recording: by a presigned URL where the store has such a thing, by streaming them where not.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::stream;
use roomreel_shared::key::{Key, RecordingKeys};
use roomreel_shared::ports::StoreError;
use roomreel_shared::recording::Recording;
use std::sync::Arc;

use super::ApiState;
use super::problem::Problem;

/// Bytes read from the store at once: what a slow reader can hold in memory.
const READ_BYTES: u64 = 1024 * 1024;

/// Answers with the file `name` of a recording.
///
/// # Errors
/// The name is none of a recording's files, there is no such file, or the store does not answer.
pub async fn serve(state: &ApiState, recording: &Recording, name: &str) -> Result<Response, Problem> {
    let keys = RecordingKeys::new(&recording.tenant, &recording.room, &recording.id);
    let key = keys.user_file(name).map_err(|error| Problem::no_file(error.to_string()))?;
    let size = match state.ports.store.size(&key).await {
        Ok(size) => size,
        Err(StoreError::NotFound { .. }) => {
            return Err(Problem::no_file(format!(
                "the recording has no file {name:?}; its `files` names those it has"
            )));
        }
        Err(error) => return Err(error.into()),
    };
    // A playlist names its slices relative to itself: a presigned URL would leave them unsigned.
    let is_playlist = name.ends_with(".m3u8");
    if !is_playlist && let Some(url) = state.ports.store.presign_get(&key, state.url_valid).await? {
        let location = HeaderValue::try_from(url).map_err(|_| Problem::unavailable("the store's URL is malformed"))?;
        let headers = [(header::LOCATION, location), (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
        return Ok((StatusCode::FOUND, headers).into_response());
    }
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type(name))),
        (header::CONTENT_LENGTH, HeaderValue::from(size)),
        (header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    Ok((headers, body(state, key, size)).into_response())
}

/// The object in pieces. It ends short, which the length shows, if the store fails in the middle.
fn body(state: &ApiState, key: Key, size: u64) -> Body {
    let store = Arc::clone(&state.ports.store);
    Body::from_stream(stream::try_unfold(0, move |offset| {
        let (store, key) = (Arc::clone(&store), key.clone());
        async move {
            if offset >= size {
                return Ok(None);
            }
            let end = size.min(offset + READ_BYTES);
            let piece: Bytes = store.get_range(&key, offset..end).await?;
            Ok::<_, StoreError>((!piece.is_empty()).then(|| {
                let next = offset + piece.len() as u64;
                (piece, next)
            }))
        }
    }))
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "mp4" => "video/mp4",
        "m4s" => "video/iso.segment",
        "webm" => "video/webm",
        "mka" => "audio/x-matroska",
        "m4a" => "audio/mp4",
        "mp3" => "audio/mpeg",
        "ogg" => "audio/ogg",
        "vtt" => "text/vtt; charset=utf-8",
        "srt" => "application/x-subrip",
        "m3u8" => "application/vnd.apple.mpegurl",
        "json" => "application/json",
        "jpg" => "image/jpeg",
        _ => "application/octet-stream",
    }
}
