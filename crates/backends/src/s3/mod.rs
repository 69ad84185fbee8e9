//! The object store over S3 and what speaks as S3 does.
//!
//! Owns: the client and its limits, the condition on every create, and the translation of S3's answers. The SDK retries
//! nothing: a retried conditional create answers 412 to its own success, and the retry's one owner is above the port. The
//! SDK sends checksums only where S3 requires them (other stores refuse them, and windows carry their own), and its
//! stalled-stream guard is off for uploads, which it kills when they are merely slow; the time limits stand in for it.
//! Does not own the question whether the store honours conditions: [`crate::probe`].

mod answer;
mod body;

use std::ops::Range;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
    SharedCredentialsProvider, StalledStreamProtectionConfig,
};
use aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use aws_smithy_http_client::tls::{self, rustls_provider::CryptoMode};
use bytes::Bytes;
use roomreel_shared::key::Key;
use roomreel_shared::pieces::Pieces;
use roomreel_shared::ports::{Listed, ObjectStore, OpenUpload, StoreError, Upload, UploadedPart};

use self::answer::Answers;
use crate::secret::{Secret, without_credentials};

/// A pooled connection that rested longer is not used again: the other side may have dropped it.
const POOL_IDLE: Duration = Duration::from_secs(20);

/// A store that has not begun to answer after this long is asked again by the one who owns the retry: one that hangs and comes
/// back costs seconds, not the limit of an attempt, which large bodies on slow lines need.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The slowest line that an upload is given time for, bytes per second.
const SLOWEST_UPLINK: u64 = 1024 * 1024;

/// How long the answer to a request with a body of `bytes` may take.
fn answer_limit(bytes: usize) -> Duration {
    ANSWER_LIMIT + Duration::from_millis(bytes as u64 * 1000 / SLOWEST_UPLINK)
}

/// Static keys.
#[derive(Debug, Clone)]
pub struct S3Credentials {
    /// The access key's id.
    pub access_key_id: String,
    /// The access key.
    pub secret_access_key: Secret,
    /// Of temporary credentials.
    pub session_token: Option<Secret>,
}

/// Where the bucket is and who we are there.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// Its name.
    pub bucket: String,
    /// Its region; stores other than AWS take any.
    pub region: String,
    /// `http://` or `https://` and host of a store other than AWS.
    pub endpoint: Option<String>,
    /// Static keys; if `None`, what the environment, profile, web identity or instance offers.
    pub credentials: Option<S3Credentials>,
    /// The bucket stands in the path and not in the host name: what most stores other than AWS need.
    pub path_style: bool,
    /// What is sent is signed with its SHA-256, which the store checks: a quarter of an ingest node's work, and no more
    /// than TLS checks as well. `None`: only where there is no TLS.
    pub sign_payload: Option<bool>,
    /// Limit of connecting.
    pub connect_timeout: Duration,
    /// Limit of one attempt, body included.
    pub attempt_timeout: Duration,
    /// Limit of every call; the looking up of credentials counts in.
    pub operation_timeout: Duration,
}

impl S3Config {
    /// The bucket on AWS, with defaults for the rest.
    #[must_use]
    pub fn new(bucket: impl Into<String>, region: impl Into<String>) -> Self {
        Self {
            bucket: bucket.into(),
            region: region.into(),
            endpoint: None,
            credentials: None,
            path_style: false,
            sign_payload: None,
            connect_timeout: Duration::from_secs(3),
            attempt_timeout: Duration::from_secs(30),
            operation_timeout: Duration::from_secs(40),
        }
    }
}

/// One bucket. Clones share the client.
#[derive(Clone)]
pub struct S3Store {
    client: Client,
    bucket: String,
    answers: Answers,
    operation_timeout: Duration,
    signs_payload: bool,
}

impl S3Store {
    /// Makes a client and asks once for the bucket.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if there is no such bucket or it is not ours, [`StoreError::Unavailable`] if nobody answers.
    pub async fn connect(config: S3Config) -> Result<Self, StoreError> {
        let at = config.endpoint.as_deref().map_or_else(|| format!("AWS, {}", config.region), without_credentials);
        let answers = Answers::new(&config.bucket, &at);
        let store = Self {
            client: client(&config).await,
            bucket: config.bucket,
            answers,
            operation_timeout: config.operation_timeout,
            signs_payload: config.sign_payload.unwrap_or_else(|| is_plain(config.endpoint.as_deref())),
        };
        match store.client.head_bucket().bucket(&store.bucket).send().await {
            Ok(_) => Ok(store),
            Err(error) => Err(store.answers.of_bucket(error)),
        }
    }

    /// Sends a get and collects its body within the limit of a call.
    async fn fetch(&self, key: &Key, get: GetObjectFluentBuilder) -> Result<Bytes, StoreError> {
        let fetch = async {
            let answer = self.answered(key, ANSWER_LIMIT, get.send()).await?.map_err(|e| self.answers.of(key, e))?;
            let body = answer.body.collect().await.map_err(|e| self.answers.unavailable(key, &e))?;
            Ok(body.into_bytes())
        };
        match tokio::time::timeout(self.operation_timeout, fetch).await {
            Ok(body) => body,
            Err(_) => Err(self.answers.unavailable(key, &"the body did not come in time")),
        }
    }

    async fn send_put(&self, key: &Key, body: Pieces, put: PutObjectFluentBuilder) -> Result<(), StoreError> {
        let limit = answer_limit(body.len());
        let put = if self.signs_payload {
            // The SDK hashes one piece of memory only.
            put.body(ByteStream::from(body.joined())).customize()
        } else {
            put.body(ByteStream::new(body::of(body))).customize().disable_payload_signing()
        };
        self.answered(key, limit, put.send()).await?.map_err(|e| self.answers.of(key, e))?;
        Ok(())
    }

    /// Waits for an answer. One that comes too late says nothing: what was asked for may have been done.
    async fn answered<T>(&self, key: &Key, limit: Duration, answer: impl Future<Output = T>) -> Result<T, StoreError> {
        let late = |_| self.answers.unavailable(key, &format!("no answer within {} ms", limit.as_millis()));
        tokio::time::timeout(limit, answer).await.map_err(late)
    }

    fn get_object(&self, key: &Key) -> GetObjectFluentBuilder {
        self.client.get_object().bucket(&self.bucket).key(key.as_str())
    }

    /// Every page of a listing: objects, and the common prefixes if there is a `delimiter`.
    async fn pages(&self, prefix: &str, delimiter: Option<&str>) -> Result<(Vec<Listed>, Vec<String>), StoreError> {
        let at = Key::listed(prefix.to_owned());
        let (mut objects, mut directories) = (Vec::new(), Vec::new());
        let mut token: Option<String> = None;
        loop {
            let page = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix);
            let page = page.set_delimiter(delimiter.map(str::to_owned)).set_continuation_token(token.clone());
            let page = self.answered(&at, 2 * ANSWER_LIMIT, page.send()).await?.map_err(|e| self.answers.of(&at, e))?;
            objects.extend(page.contents().iter().filter_map(|object| {
                let size = u64::try_from(object.size().unwrap_or_default()).unwrap_or_default();
                let version = object.e_tag().unwrap_or_default().to_owned();
                Some(Listed { key: Key::listed(object.key()?.to_owned()), size, version })
            }));
            directories.extend(page.common_prefixes().iter().filter_map(|p| p.prefix().map(str::to_owned)));
            let next = page.next_continuation_token().map(str::to_owned);
            if !page.is_truncated().unwrap_or(false) {
                break;
            }
            if next.is_none() || next == token {
                return Err(self.answers.unavailable(&at, &"the listing does not go on after a page"));
            }
            token = next;
        }
        // Directory buckets, and some stores, list in an order of their own.
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok((objects, directories))
    }
}

/// Whether what is sent there goes without TLS.
fn is_plain(endpoint: Option<&str>) -> bool {
    endpoint.is_some_and(|endpoint| !endpoint.starts_with("https://"))
}

async fn client(config: &S3Config) -> Client {
    let tls = tls::Provider::Rustls(CryptoMode::Ring);
    let http = aws_smithy_http_client::Builder::new().tls_provider(tls).pool_idle_timeout(POOL_IDLE).build_https();
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(config.connect_timeout)
        .operation_attempt_timeout(config.attempt_timeout)
        .operation_timeout(config.operation_timeout)
        .build();
    let region = Region::new(config.region.clone());
    let version = BehaviorVersion::v2026_01_12();
    let mut builder = aws_sdk_s3::Config::builder();
    if let Some(keys) = &config.credentials {
        let token = keys.session_token.as_ref().map(|token| token.expose().to_owned());
        let credentials =
            Credentials::new(&keys.access_key_id, keys.secret_access_key.expose(), token, None, "configuration");
        builder = builder.credentials_provider(SharedCredentialsProvider::new(credentials));
    } else {
        let found = aws_config::defaults(version).region(region.clone()).http_client(http.clone()).load().await;
        builder.set_credentials_provider(found.credentials_provider());
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.endpoint_url(endpoint);
    }
    let config = builder
        .behavior_version(version)
        .region(region)
        .http_client(http)
        .force_path_style(config.path_style)
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts)
        .stalled_stream_protection(StalledStreamProtectionConfig::enabled().upload_enabled(false).build())
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .build();
    Client::from_conf(config)
}

#[async_trait]
impl ObjectStore for S3Store {
    async fn create(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.create_of(key, body.into()).await
    }

    async fn create_of(&self, key: &Key, body: Pieces) -> Result<(), StoreError> {
        let put = self.client.put_object().bucket(&self.bucket).key(key.as_str()).if_none_match("*");
        self.send_put(key, body, put).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        let put = self.client.put_object().bucket(&self.bucket).key(key.as_str());
        self.send_put(key, body.into(), put).await
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.fetch(key, self.get_object(key)).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Bytes, StoreError> {
        // S3 has no empty range, and answers 416 to one that begins at or past the end.
        let size = self.size(key).await?;
        let (start, end) = (range.start, range.end.min(size));
        if start >= end {
            return Ok(Bytes::new());
        }
        let body = self.fetch(key, self.get_object(key).range(format!("bytes={start}-{}", end - 1))).await?;
        if body.len() as u64 != end - start {
            let reason = format!("{} bytes came for the range {start}..{end}", body.len());
            return Err(self.answers.unavailable(key, &reason));
        }
        Ok(body)
    }

    async fn size(&self, key: &Key) -> Result<u64, StoreError> {
        let head = self.client.head_object().bucket(&self.bucket).key(key.as_str());
        let head = head.send().await.map_err(|e| self.answers.of(key, e))?;
        let length = head.content_length().and_then(|length| u64::try_from(length).ok());
        length.ok_or_else(|| self.answers.unavailable(key, &"it answered without a length"))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, StoreError> {
        Ok(self.pages(prefix, None).await?.0)
    }

    async fn list_directory(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let (objects, mut names) = self.pages(prefix, Some("/")).await?;
        names.extend(objects.into_iter().map(|object| object.key.as_str().to_owned()));
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let delete = self.client.delete_object().bucket(&self.bucket).key(key.as_str());
        match delete.send().await.map_err(|e| self.answers.of(key, e)) {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn begin_upload(&self, key: &Key) -> Result<Upload, StoreError> {
        let begin = self.client.create_multipart_upload().bucket(&self.bucket).key(key.as_str());
        let begun = begin.send().await.map_err(|e| self.answers.of(key, e))?;
        let id = begun.upload_id().ok_or_else(|| self.answers.unavailable(key, &"it answered without an upload id"))?;
        Ok(Upload { key: key.clone(), id: id.to_owned() })
    }

    async fn upload_part(&self, upload: &Upload, number: u32, body: Bytes) -> Result<UploadedPart, StoreError> {
        let (key, limit) = (&upload.key, answer_limit(body.len()));
        let part = self.client.upload_part().bucket(&self.bucket).key(key.as_str()).upload_id(&upload.id);
        let part = part.part_number(wire_number(number)).body(ByteStream::from(body)).customize();
        let part = if self.signs_payload { part } else { part.disable_payload_signing() };
        let uploaded = self.answered(key, limit, part.send()).await?.map_err(|e| self.answers.of(key, e))?;
        let tag = uploaded.e_tag().ok_or_else(|| self.answers.unavailable(key, &"it answered without an ETag"))?;
        Ok(UploadedPart { number, tag: tag.to_owned() })
    }

    async fn complete_upload(&self, upload: &Upload, mut parts: Vec<UploadedPart>) -> Result<(), StoreError> {
        parts.sort_by_key(|part| part.number);
        let parts = parts
            .into_iter()
            .map(|part| CompletedPart::builder().part_number(wire_number(part.number)).e_tag(part.tag).build())
            .collect();
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let key = &upload.key;
        let complete = self.client.complete_multipart_upload().bucket(&self.bucket).key(key.as_str());
        let complete = complete.upload_id(&upload.id).multipart_upload(parts).if_none_match("*");
        complete.send().await.map_err(|e| self.answers.of(key, e))?;
        Ok(())
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        let abort = self.client.abort_multipart_upload().bucket(&self.bucket).key(upload.key.as_str());
        match abort.upload_id(&upload.id).send().await.map_err(|e| self.answers.of(&upload.key, e)) {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn list_uploads(&self) -> Result<Option<Vec<OpenUpload>>, StoreError> {
        let at = Key::listed(String::new());
        let mut open = Vec::new();
        let mut marker: (Option<String>, Option<String>) = (None, None);
        loop {
            let page = self.client.list_multipart_uploads().bucket(&self.bucket);
            let page = page.set_key_marker(marker.0.clone()).set_upload_id_marker(marker.1.clone());
            let page = self.answered(&at, 2 * ANSWER_LIMIT, page.send()).await?.map_err(|e| self.answers.of(&at, e))?;
            let now = SystemTime::now();
            open.extend(page.uploads().iter().filter_map(|upload| {
                let upload_of =
                    Upload { key: Key::listed(upload.key()?.to_owned()), id: upload.upload_id()?.to_owned() };
                // Without a time, or with one to come, it has just been begun.
                let begun = upload.initiated().and_then(|at| SystemTime::try_from(*at).ok());
                let age = begun.and_then(|begun| now.duration_since(begun).ok()).unwrap_or_default();
                Some(OpenUpload { upload: upload_of, age })
            }));
            if !page.is_truncated().unwrap_or(false) {
                return Ok(Some(open));
            }
            let next = (page.next_key_marker().map(str::to_owned), page.next_upload_id_marker().map(str::to_owned));
            if next.0.is_none() || next == marker {
                return Err(self.answers.unavailable(&at, &"the listing of uploads does not go on after a page"));
            }
            marker = next;
        }
    }

    async fn presign_get(&self, key: &Key, valid: Duration) -> Result<Option<String>, StoreError> {
        let config = PresigningConfig::expires_in(valid).map_err(|e| self.answers.refused(key, &e.to_string()))?;
        let request = self.get_object(key).presigned(config).await.map_err(|e| self.answers.of(key, e))?;
        Ok(Some(request.uri().to_owned()))
    }
}

fn wire_number(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::is_plain;

    #[test]
    fn payloads_are_signed_where_tls_does_not_protect_them() {
        assert!(is_plain(Some("http://minio:9000")));
        assert!(!is_plain(Some("https://s3.example.com")) && !is_plain(None));
    }
}
