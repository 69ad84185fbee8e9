//! What an answer of S3, or its absence, means for the caller.

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use roomreel_shared::key::Key;
use roomreel_shared::ports::StoreError;

/// Makes the port's errors for one bucket.
#[derive(Debug, Clone)]
pub(super) struct Answers {
    /// Bucket and place, as a person would name it.
    store: String,
    bucket: String,
}

/// What the caller does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    NotFound,
    AlreadyExists,
    Conflict,
    Unavailable,
    Refused(&'static str),
}

const NO_BUCKET: &str = "there is no such bucket; create it, or correct the bucket's name or the endpoint";
const NOT_ALLOWED: &str = "access is denied; check the credentials and the permissions on the bucket \
                           (get, put, delete, list, multipart uploads)";
const WRONG_REGION: &str =
    "the bucket is in another region, or the endpoint is another store's; correct the region or the endpoint";

fn meaning(status: u16, code: &str) -> Meaning {
    match (status, code) {
        (_, "NoSuchBucket") => Meaning::Refused(NO_BUCKET),
        // A conditional create that lost while it ran, and a lock on the key: both are asked again.
        (409, _) => Meaning::Conflict,
        (412, _) => Meaning::AlreadyExists,
        (404, _) => Meaning::NotFound,
        (301 | 307 | 308, _) => Meaning::Refused(WRONG_REGION),
        (408 | 429, _) | (_, "RequestTimeout" | "SlowDown" | "RequestTimeTooSkewed") => Meaning::Unavailable,
        (401 | 403, _) => Meaning::Refused(NOT_ALLOWED),
        (400..=499, _) => Meaning::Refused("the store does not take the request"),
        // 5xx, and 200 with an error in its body, as a completion can answer.
        _ => Meaning::Unavailable,
    }
}

impl Answers {
    pub(super) fn new(bucket: &str, at: &str) -> Self {
        Self { store: format!("{bucket} ({at})"), bucket: bucket.to_owned() }
    }

    pub(super) fn unavailable(&self, key: &Key, reason: &dyn std::fmt::Display) -> StoreError {
        StoreError::Unavailable { store: self.store.clone(), key: key.to_string(), reason: reason.to_string() }
    }

    pub(super) fn refused(&self, key: &Key, reason: &str) -> StoreError {
        StoreError::Refused { store: self.store.clone(), key: key.to_string(), reason: reason.to_owned() }
    }

    /// The error of a call on `key`.
    pub(super) fn of<E>(&self, key: &Key, error: SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let Some((status, code)) = status_and_code(&error) else { return self.unanswered(key, &error) };
        let said = error.message().unwrap_or_default();
        let key_text = key.to_string();
        match meaning(status, code) {
            Meaning::NotFound => StoreError::NotFound { key: key_text },
            Meaning::AlreadyExists => StoreError::AlreadyExists { key: key_text },
            Meaning::Conflict => StoreError::Conflict { key: key_text },
            Meaning::Unavailable => self.unavailable(key, &format!("{status} {code} {said}")),
            Meaning::Refused(what_to_do) => self.refused(key, &format!("{what_to_do} ({status} {code} {said})")),
        }
    }

    /// The error of asking for the bucket itself: an answer without a body, so a 404 is the bucket's.
    pub(super) fn of_bucket<E>(&self, error: SdkError<E, HttpResponse>) -> StoreError
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
    {
        let bucket = Key::listed(self.bucket.clone());
        match self.of(&bucket, error) {
            StoreError::NotFound { .. } => self.refused(&bucket, NO_BUCKET),
            error => error,
        }
    }

    /// No answer that could be read. Without credentials nothing was sent, and nothing will be.
    fn unanswered<E>(&self, key: &Key, error: &SdkError<E, HttpResponse>) -> StoreError
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        let reason = DisplayErrorContext(error).to_string();
        if matches!(error, SdkError::ConstructionFailure(_)) || reason.contains("CredentialsNotLoaded") {
            return self.refused(key, &format!("{reason}; check the configuration and the credentials"));
        }
        self.unavailable(key, &reason)
    }
}

fn status_and_code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> Option<(u16, &str)> {
    match error {
        SdkError::ServiceError(service) => {
            Some((service.raw().status().as_u16(), service.err().code().unwrap_or_default()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart_by_what_the_caller_does() {
        for (status, code, expected) in [
            (412, "PreconditionFailed", Meaning::AlreadyExists),
            (409, "ConditionalRequestConflict", Meaning::Conflict),
            (404, "NoSuchKey", Meaning::NotFound),
            (404, "NoSuchUpload", Meaning::NotFound),
            (404, "NoSuchBucket", Meaning::Refused(NO_BUCKET)),
            (403, "AccessDenied", Meaning::Refused(NOT_ALLOWED)),
            (301, "PermanentRedirect", Meaning::Refused(WRONG_REGION)),
            (400, "RequestTimeout", Meaning::Unavailable),
            (503, "SlowDown", Meaning::Unavailable),
            (500, "InternalError", Meaning::Unavailable),
            (200, "InternalError", Meaning::Unavailable),
        ] {
            assert_eq!(meaning(status, code), expected, "{status} {code}");
        }
    }
}
