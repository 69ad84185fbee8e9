//! The coordination store over etcd.
//!
//! Owns: the connection with its three limits (connecting, each request, HTTP/2 keep-alive), the check that a lease is
//! still there in every answer to a keep-alive, and the end of a watch whenever it may have missed something. Does not own
//! election, fencing or any retry: those are the caller's, by the revisions it gets here.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{
    Certificate, Client, Compare as EtcdCompare, CompareOp, ConnectOptions, Error, GetOptions, Identity, KeyValue,
    LeaseKeepAliveStream, LeaseKeeper, PutOptions, TlsOptions, Txn, TxnOp, WatchOptions, WatchStream,
};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use roomreel_shared::ports::{Change, Compare, Coordination, CoordinationError, LeaseId, Outcome, Record, Snapshot};

use crate::secret::{Secret, without_credentials};

/// How often a silent connection is tried, and how long the answer may take.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));
/// Records of one answer; a list goes on with the next, at the same revision.
const PAGE: i64 = 100;
/// etcd takes requests of 1.5 MiB, so no record is larger; a page of the largest still has to fit.
const MAX_ANSWER_BYTES: usize = PAGE as usize * 1536 * 1024 * 11 / 10;

/// Where etcd is and who we are there.
#[derive(Debug, Clone)]
pub struct EtcdConfig {
    /// `http://` or `https://`, host and port, of each member.
    pub endpoints: Vec<String>,
    /// User name, if etcd has authentication on.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// Certificates of the authorities that may sign the members'.
    pub ca_file: Option<PathBuf>,
    /// Our certificate; needs `key_file` too.
    pub certificate_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// Limit of connecting.
    pub connect_timeout: Duration,
    /// Limit of every call.
    pub request_timeout: Duration,
}

impl EtcdConfig {
    /// The cluster at `endpoints`, with defaults for the rest.
    #[must_use]
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            user: None,
            password: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
            connect_timeout: Duration::from_secs(3),
            request_timeout: Duration::from_secs(3),
        }
    }
}

/// The coordination store over one connection. Clones share it.
#[derive(Clone)]
pub struct Etcd {
    client: Client,
    server: Arc<str>,
    request_timeout: Duration,
    keepers: Arc<Mutex<HashMap<LeaseId, Keeper>>>,
}

/// Both halves of a keep-alive stream.
type Keeper = (LeaseKeeper, LeaseKeepAliveStream);

/// Renews once; gives the seconds left and the stream, or `None` if the lease has gone.
async fn renew(lease: LeaseId, (mut keeper, mut answers): Keeper) -> Result<Option<(u64, Keeper)>, Error> {
    keeper.keep_alive().await?;
    let answer = answers.message().await?;
    let answer = answer.ok_or_else(|| Error::Internal("the keep-alive stream ended".to_owned()))?;
    Ok(match u64::try_from(answer.ttl()) {
        Ok(seconds @ 1..) if answer.id() == lease.0 => Some((seconds, (keeper, answers))),
        _ => None,
    })
}

impl Etcd {
    /// Connects and asks once whether somebody is there; later breaks are mended by the client.
    ///
    /// # Errors
    /// [`CoordinationError::Unavailable`] if nobody answers, [`CoordinationError::Refused`] if the configuration or the login
    /// is wrong.
    pub async fn connect(config: EtcdConfig) -> Result<Self, CoordinationError> {
        let server: Arc<str> =
            config.endpoints.iter().map(|url| without_credentials(url)).collect::<Vec<_>>().join(",").into();
        let options = options(&config).await?;
        let limit = config.connect_timeout + config.request_timeout;
        let asked = tokio::time::timeout(limit, async {
            let mut client = Client::connect(&config.endpoints, Some(options)).await?;
            // The client connects at its first call.
            client.get("/roomreel/", None).await?;
            Ok(client)
        });
        let hint = "start etcd there, or correct the endpoints";
        let client = match asked.await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => {
                return Err(match translate(&server, &error) {
                    CoordinationError::Unavailable { server, reason } => {
                        CoordinationError::Unavailable { server, reason: format!("{reason}; {hint}") }
                    }
                    other => other,
                });
            }
            Err(_) => {
                let reason = format!("no answer within {limit:?}; {hint}");
                return Err(CoordinationError::Unavailable { server: server.to_string(), reason });
            }
        };
        Ok(Self { client, server, request_timeout: config.request_timeout, keepers: Arc::default() })
    }

    async fn limited<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, CoordinationError> {
        match tokio::time::timeout(self.request_timeout, call).await {
            Ok(answer) => answer.map_err(|e| translate(&self.server, &e)),
            Err(_) => Err(self.unavailable(format!("no answer within {:?}", self.request_timeout))),
        }
    }

    fn unavailable(&self, reason: impl Into<String>) -> CoordinationError {
        CoordinationError::Unavailable { server: self.server.to_string(), reason: reason.into() }
    }

    fn keepers(&self) -> std::sync::MutexGuard<'_, HashMap<LeaseId, Keeper>> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One page of the keys in `[from, end)`, at `revision` if it is not 0.
    async fn page(&self, from: Vec<u8>, end: Vec<u8>, revision: i64) -> Result<Page, CoordinationError> {
        let options = GetOptions::new().with_range(end).with_limit(PAGE).with_revision(revision);
        let mut kv = self.client.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES);
        let mut answer = self.limited(kv.get(from, Some(options))).await?;
        let revision = answer.header().map_or(0, |header| header.revision());
        let more = answer.more();
        Ok(Page { revision, more, pairs: answer.take_kvs() })
    }
}

struct Page {
    revision: i64,
    more: bool,
    pairs: Vec<KeyValue>,
}

async fn options(config: &EtcdConfig) -> Result<ConnectOptions, CoordinationError> {
    let refused = |reason: String| CoordinationError::Refused { reason };
    if config.endpoints.is_empty() {
        return Err(refused("no etcd endpoint is configured; write http://host:2379".to_owned()));
    }
    let mut options = ConnectOptions::new()
        .with_connect_timeout(config.connect_timeout)
        .with_timeout(config.request_timeout)
        .with_keep_alive(KEEP_ALIVE.0, KEEP_ALIVE.1)
        .with_keep_alive_while_idle(true)
        .with_tcp_keepalive(KEEP_ALIVE.0)
        // A member without a leader ends its watches and refuses, rather than answer from the past.
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let Some(user) = &config.user {
        options = options.with_user(user, config.password.as_ref().map_or("", |password| password.expose()));
    }
    let read = async |path: &PathBuf| {
        tokio::fs::read(path).await.map_err(|e| refused(format!("the etcd TLS file {}: {e}", path.display())))
    };
    if config.ca_file.is_some() || config.certificate_file.is_some() {
        let mut tls = TlsOptions::new();
        if let Some(path) = &config.ca_file {
            tls = tls.ca_certificate(Certificate::from_pem(read(path).await?));
        }
        if let Some(path) = &config.certificate_file {
            let key = config.key_file.as_ref();
            let key = key.ok_or_else(|| refused("an etcd client certificate needs its key file too".to_owned()))?;
            tls = tls.identity(Identity::from_pem(read(path).await?, read(key).await?));
        }
        options = options.with_tls(tls);
    }
    Ok(options)
}

/// gRPC's codes by number: the status type itself is not ours to name.
fn translate(server: &str, error: &Error) -> CoordinationError {
    const INVALID_ARGUMENT: i32 = 3;
    const NOT_FOUND: i32 = 5;
    const PERMISSION_DENIED: i32 = 7;
    const UNIMPLEMENTED: i32 = 12;
    const UNAUTHENTICATED: i32 = 16;
    match error {
        Error::GRpcStatus(status) => match i32::from(status.code()) {
            INVALID_ARGUMENT | NOT_FOUND | PERMISSION_DENIED | UNIMPLEMENTED | UNAUTHENTICATED => {
                CoordinationError::Refused { reason: format!("{} (etcd at {server})", status.message()) }
            }
            _ => CoordinationError::Unavailable { server: server.to_owned(), reason: status.message().to_owned() },
        },
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) | Error::EndpointError(_) => {
            CoordinationError::Refused { reason: format!("{error} (etcd at {server})") }
        }
        other => CoordinationError::Unavailable { server: server.to_owned(), reason: other.to_string() },
    }
}

/// etcd answers so for a lease that has gone.
fn is_lease_lost(error: &Error) -> bool {
    match error {
        Error::GRpcStatus(status) => status.message().contains("lease not found"),
        Error::LeaseKeepAliveError(message) => message.contains("lease not found"),
        _ => false,
    }
}

fn record(pair: &KeyValue) -> Record {
    Record {
        key: String::from_utf8_lossy(pair.key()).into_owned(),
        value: pair.value().to_vec().into(),
        create_revision: pair.create_revision().unsigned_abs(),
        mod_revision: pair.mod_revision().unsigned_abs(),
    }
}

fn revision(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// One past the last key that begins with `prefix`.
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // Every key: etcd's spelling of "to the end".
    vec![0]
}

#[async_trait]
impl Coordination for Etcd {
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, CoordinationError> {
        // Whole seconds, rounded up: a lease may live longer than asked for, never shorter.
        let seconds = i64::try_from(ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0)).unwrap_or(i64::MAX).max(1);
        let mut client = self.client.lease_client();
        let granted = self.limited(client.grant(seconds, None)).await?;
        Ok(LeaseId(granted.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, CoordinationError> {
        let kept = self.keepers().remove(&lease);
        let renew = async {
            if let Some(kept) = kept {
                match renew(lease, kept).await {
                    // It broke while nobody used it; the lease is asked for on a new one.
                    Err(error) if !is_lease_lost(&error) => {}
                    renewed => return renewed,
                }
            }
            renew(lease, self.client.lease_client().keep_alive(lease.0).await?).await
        };
        let lost = CoordinationError::LeaseLost { lease: lease.0 };
        let renewed = tokio::time::timeout(self.request_timeout, renew).await;
        match renewed {
            Ok(Ok(Some((seconds, keeper)))) => {
                // Only a stream whose every request was answered goes back: a late answer must not pass for the next one.
                self.keepers().insert(lease, keeper);
                Ok(Duration::from_secs(seconds))
            }
            Ok(Ok(None)) => Err(lost),
            Ok(Err(error)) if is_lease_lost(&error) => Err(lost),
            Ok(Err(error)) => Err(translate(&self.server, &error)),
            Err(_) => Err(self.unavailable(format!("no answer within {:?}", self.request_timeout))),
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), CoordinationError> {
        self.keepers().remove(&lease);
        let mut client = self.client.lease_client();
        let revoke = async {
            match client.revoke(lease.0).await {
                Ok(_) => Ok(Ok(())),
                Err(error) if is_lease_lost(&error) => Ok(Err(CoordinationError::LeaseLost { lease: lease.0 })),
                Err(error) => Err(error),
            }
        };
        self.limited(revoke).await?
    }

    async fn get(&self, key: &str) -> Result<Option<Record>, CoordinationError> {
        let mut client = self.client.kv_client();
        let answer = self.limited(client.get(key, None)).await?;
        Ok(answer.kvs().first().map(record))
    }

    async fn list(&self, prefix: &str) -> Result<Snapshot, CoordinationError> {
        let end = prefix_end(prefix);
        let mut from = if prefix.is_empty() { vec![0] } else { prefix.as_bytes().to_vec() };
        let mut snapshot = Snapshot::default();
        loop {
            let page = self.page(from, end.clone(), revision(snapshot.revision)).await?;
            if snapshot.revision == 0 {
                snapshot.revision = page.revision.unsigned_abs();
            }
            snapshot.records.extend(page.pairs.iter().map(record));
            match page.pairs.last() {
                Some(last) if page.more => {
                    from = last.key().to_vec();
                    from.push(0);
                }
                _ => return Ok(snapshot),
            }
        }
    }

    async fn transact(&self, conditions: Vec<Compare>, changes: Vec<Change>) -> Result<Outcome, CoordinationError> {
        let lease = changes.iter().find_map(|change| match change {
            Change::Put(_, _, lease) => *lease,
            Change::Delete(_) => None,
        });
        let conditions: Vec<_> = conditions
            .into_iter()
            .map(|condition| match condition {
                Compare::Absent(key) => EtcdCompare::create_revision(key, CompareOp::Equal, 0),
                // 0 is etcd's word for a key that does not exist; no key was created at 1.
                Compare::Created(key, at) => EtcdCompare::create_revision(key, CompareOp::Equal, revision(at.max(1))),
                Compare::Unchanged(key, at) => EtcdCompare::mod_revision(key, CompareOp::Equal, revision(at.max(1))),
            })
            .collect();
        let changes: Vec<_> = changes
            .into_iter()
            .map(|change| match change {
                Change::Put(key, value, lease) => {
                    TxnOp::put(key, value, lease.map(|lease| PutOptions::new().with_lease(lease.0)))
                }
                Change::Delete(key) => TxnOp::delete(key, None),
            })
            .collect();
        let mut client = self.client.kv_client();
        let transaction = async {
            match client.txn(Txn::new().when(conditions).and_then(changes)).await {
                Err(error) if is_lease_lost(&error) => {
                    Ok(Err(CoordinationError::LeaseLost { lease: lease.map_or(0, |lease| lease.0) }))
                }
                answer => answer.map(Ok),
            }
        };
        let answer = self.limited(transaction).await??;
        if !answer.succeeded() {
            return Ok(Outcome::Conflict);
        }
        let at = answer.header().ok_or_else(|| self.unavailable("an answer without a revision"))?.revision();
        Ok(Outcome::Committed(at.unsigned_abs()))
    }

    async fn watch(&self, prefix: &str) -> Result<BoxStream<'static, ()>, CoordinationError> {
        let mut client = self.client.watch_client();
        let options = WatchOptions::new().with_prefix();
        let open = async {
            let mut messages = client.watch(prefix, Some(options)).await?;
            // The first answer says that etcd watches; what changes from then on is told.
            match messages.message().await? {
                Some(answer) if answer.created() && !answer.canceled() => Ok(messages),
                Some(answer) => Err(Error::WatchError(answer.cancel_reason().to_owned())),
                None => Err(Error::WatchError("the stream ended".to_owned())),
            }
        };
        let messages = self.limited(open).await?;
        // The first wake-up is at once: what changed between a list and this watch is not missed.
        let first = stream::once(std::future::ready(()));
        let later = stream::unfold(messages, |mut messages| async {
            changed(&mut messages).await?;
            Some(((), messages))
        });
        Ok(first.chain(later).boxed())
    }
}

/// Waits for a change; `None` once something may have been missed.
async fn changed(messages: &mut WatchStream) -> Option<()> {
    loop {
        let answer = messages.message().await.ok()??;
        if answer.canceled() || answer.compact_revision() > 0 {
            return None;
        }
        if !answer.events().is_empty() {
            return Some(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(prefix_end("/a/"), b"/a0");
        assert_eq!(prefix_end(""), [0]);
    }
}
