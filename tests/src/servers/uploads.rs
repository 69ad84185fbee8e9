//! Uploads in parts that are under way at the S3 server of this process, which keeps none of their keys itself.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;

use hyper::{Method, Request, StatusCode};
use s3s::{Body, HttpResponse};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Key and time by upload id. Pages of a listing hold two, so that they are turned.
#[derive(Default)]
pub(super) struct Uploads(Mutex<BTreeMap<String, (String, OffsetDateTime)>>);

const PAGE: usize = 2;

impl Uploads {
    /// The answer to `ListMultipartUploads`, if it is one. Signatures are not looked at.
    pub(super) fn answer<B>(&self, request: &Request<B>) -> Option<HttpResponse> {
        let query = request.uri().query().unwrap_or_default();
        let is_listing = query.split('&').any(|pair| pair == "uploads" || pair == "uploads=");
        if *request.method() != Method::GET || !is_listing {
            return None;
        }
        let after = parameter(query, "upload-id-marker");
        let open = self.0.lock().expect("nothing panics while it is locked");
        let left: Vec<_> = open.iter().filter(|(id, _)| after.as_ref().is_none_or(|after| *id > after)).collect();
        let mut xml = String::from("<ListMultipartUploadsResult>");
        for (id, (key, begun)) in left.iter().take(PAGE) {
            let begun = begun.format(&Rfc3339).unwrap_or_default();
            let _ =
                write!(xml, "<Upload><Key>{key}</Key><UploadId>{id}</UploadId><Initiated>{begun}</Initiated></Upload>");
        }
        if let Some((id, (key, _))) = left.get(PAGE - 1).filter(|_| left.len() > PAGE) {
            let _ = write!(xml, "<NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>{id}</NextUploadIdMarker>");
        }
        let _ = write!(xml, "<IsTruncated>{}</IsTruncated></ListMultipartUploadsResult>", left.len() > PAGE);
        let mut response = HttpResponse::new(Body::from(xml));
        *response.status_mut() = StatusCode::OK;
        Some(response)
    }

    /// Notes what a request that succeeded began or ended. `body` is the answer's.
    pub(super) fn note(&self, method: &Method, path: &str, query: &str, body: &str) {
        let mut open = self.0.lock().expect("nothing panics while it is locked");
        if let Some(id) = parameter(query, "uploadId") {
            if *method == Method::POST || *method == Method::DELETE {
                open.remove(&id);
            }
        } else if let (Some(id), Some((_, key))) =
            (between(body, "<UploadId>", "</UploadId>"), path[1..].split_once('/'))
        {
            open.insert(id.to_owned(), (decoded(key), OffsetDateTime::now_utc()));
        }
    }
}

/// Whether the answer to this request says something that [`Uploads::note`] has to see.
pub(super) fn concerns(method: &Method, query: &str) -> bool {
    matches!(*method, Method::POST | Method::DELETE) && query.contains("upload")
}

fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, value)| *key == name && !value.is_empty()).map(|(_, value)| value.to_owned())
}

/// Keys of ours have no other characters that a path must encode.
fn decoded(key: &str) -> String {
    key.replace("%3D", "=")
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    text.split_once(from)?.1.split_once(to).map(|(found, _)| found)
}
