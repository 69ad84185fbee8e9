//! What the handlers do: find recordings, and put requests to the leader.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt as _, stream};
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};
use roomreel_shared::cluster::{self, ActiveRecording};
use roomreel_shared::id::{RecordingId, TenantId};
use roomreel_shared::key;
use roomreel_shared::ports::{Change, Compare, LeaseId, Ports};
use roomreel_shared::recording::Recording;
use time::Date;
use tokio::time::{Instant, sleep};

use super::REQUEST_LEASE;
use super::auth::Principal;
use super::problem::Problem;
use crate::late;
use crate::observed::json;
use crate::perform::{date_path, final_state, index_key, to_json};
use crate::request::{Outcome, Request, Wish};

/// How long the leader has to decide.
const DECISION_LIMIT: Duration = Duration::from_secs(10);
/// How often a request is looked at although no change was announced.
const POLL: Duration = Duration::from_millis(500);
/// Index entries of one day that one page looks at.
const MAX_SCANNED: usize = 1000;
/// Recordings of a page that are looked at at once.
const LOOKS: usize = 8;

/// A recording that may still be active.
pub struct Found {
    /// As users see it.
    pub recording: Recording,
    /// It has not reached its final state.
    pub active: bool,
}

/// A recording of this tenant, active or final.
///
/// # Errors
/// The same problem for one that does not exist and one of another tenant.
pub async fn find(ports: &Ports, tenant: &TenantId, id: &RecordingId) -> Result<Found, Problem> {
    let record = ports.coordination.get(&cluster::recording_key(id)).await?;
    let active = record.and_then(|record| json::<ActiveRecording>(&record).ok());
    if let Some(active) = active.filter(|active| active.recording.tenant == *tenant) {
        return Ok(Found { recording: active.recording, active: true });
    }
    let recording = final_state(&*ports.store, tenant, id).await?.ok_or_else(Problem::no_recording)?;
    Ok(Found { recording, active: false })
}

/// The recording with what it has of late renders, if `principal` may see it.
///
/// # Errors
/// As [`find`]'s, or the bucket's.
pub async fn look_at(ports: &Ports, principal: &Principal, id: &RecordingId) -> Result<Option<Recording>, Problem> {
    let Found { recording, active } = find(ports, &principal.tenant, id).await?;
    if !may_see(principal, &recording) {
        return Ok(None);
    }
    Ok(Some(if active { recording } else { late::listed(&*ports.store, recording).await? }))
}

/// A page of a day's recordings.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Page {
    /// In the order of ids.
    pub recordings: Vec<Recording>,
    /// Give it as `after` to see what follows; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<RecordingId>,
}

/// The recordings whose rooms opened on `date` (UTC) that `principal` may see, from behind `after` on.
///
/// # Errors
/// A store does not answer.
pub async fn list(
    ports: &Ports,
    principal: &Principal,
    date: Date,
    after: Option<&RecordingId>,
    limit: usize,
) -> Result<Page, Problem> {
    let tenant = &principal.tenant;
    let prefix = key::index_prefix(tenant, &date_path(date));
    let active = ports.coordination.list(&cluster::recordings_prefix()).await?;
    let active = active.records.iter().filter_map(|record| json::<ActiveRecording>(record).ok());
    let active = active.map(|active| active.recording).filter(|recording| recording.tenant == *tenant);
    let today = |id: &RecordingId| index_key(tenant, id).as_str().starts_with(&prefix);
    let mut ids: BTreeSet<_> = active.map(|recording| recording.id).filter(today).collect();
    // The index last: a recording that ends between the two is in it before it is no longer active.
    for listed in ports.store.list(&prefix).await? {
        let token = listed.key.file_name().strip_suffix(".json").unwrap_or_default();
        ids.extend(RecordingId::from_token(token));
    }
    let mut page = Page::default();
    let ids = ids.into_iter().filter(|id| after.is_none_or(|after| id > after));
    let looks = ids.map(|id| async move { (look_at(ports, principal, &id).await, id) });
    let mut looks = stream::iter(looks.collect::<Vec<_>>()).buffered(LOOKS).enumerate();
    while let Some((scanned, (look, id))) = looks.next().await {
        if page.recordings.len() == limit || scanned == MAX_SCANNED {
            return Ok(page);
        }
        page.next = Some(id);
        match look {
            Ok(seen) => page.recordings.extend(seen),
            Err(problem) if problem.status == 404 => {}
            Err(problem) => return Err(problem),
        }
    }
    page.next = None;
    Ok(page)
}

/// Whether a participant may know of the recording: who may record or download it.
#[must_use]
pub fn may_see(principal: &Principal, recording: &Recording) -> bool {
    let policy = &recording.policy;
    principal.peer.as_ref().is_none_or(|peer| policy.check_download(peer).is_ok() || policy.check_record(peer).is_ok())
}

/// The id of a request: that of its idempotency key, or a new one.
#[must_use]
pub fn request_id(request: &Request, idempotency_key: Option<&str>) -> String {
    let Some(idempotency_key) = idempotency_key else {
        let mut random = [0; 16];
        StdRng::from_os_rng().fill_bytes(&mut random);
        return hex(&random);
    };
    let room = match &request.wish {
        Wish::Start { room, .. } => room.as_str(),
        Wish::Stop { .. } | Wish::Pause { .. } | Wish::Resume { .. } | Wish::Layout { .. } => "",
    };
    let mut hasher = blake3::Hasher::new();
    for text in [request.tenant.as_str(), &request.subject, room, idempotency_key] {
        hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
    }
    hex(&hasher.finalize().as_bytes()[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Puts a request to the leader and waits for its outcome.
///
/// # Errors
/// What the leader refused, or [`Problem::unavailable`] if none decided in time. Sent again under the same idempotency key,
/// it is granted once.
pub async fn submit(ports: &Ports, request: Request, id: &str) -> Result<Recording, Problem> {
    let lease = ports.coordination.grant_lease(REQUEST_LEASE).await?;
    let outcome = await_outcome(ports, &request, id, lease).await;
    // Nobody waits any more: a request that is still undecided goes with its lease, which would also expire by itself.
    let _ = ports.coordination.revoke(lease).await;
    match outcome? {
        Outcome::Done(recording) => Ok(*recording),
        Outcome::Refused(refusal) => Err(refusal.into()),
    }
}

async fn await_outcome(ports: &Ports, request: &Request, id: &str, lease: LeaseId) -> Result<Outcome, Problem> {
    let deadline = Instant::now() + DECISION_LIMIT;
    let store = &*ports.coordination;
    let key = cluster::request_key(id);
    // Before the write: no change can fall between them.
    let mut changes = store.watch(&key).await?;
    while Instant::now() < deadline {
        let Some(record) = store.get(&key).await? else {
            // Not asked yet, or asked by another caller under the same key and done with.
            let put = Change::Put(key.clone(), to_json(request), Some(lease));
            store.transact(vec![Compare::Absent(key.clone())], vec![put]).await?;
            continue;
        };
        let there: Request = json(&record).map_err(|_| Problem::key_reused())?;
        if there.wish != request.wish || there.peer != request.peer {
            return Err(Problem::key_reused());
        }
        if let Some(outcome) = there.outcome {
            let unchanged = Compare::Unchanged(key.clone(), record.mod_revision);
            // Should this fail, the record's lease ends it.
            let _ = store.transact(vec![unchanged], vec![Change::Delete(key)]).await;
            return Ok(outcome);
        }
        tokio::select! {
            Some(()) = changes.next() => {}
            () = sleep(POLL) => {}
        }
    }
    Err(Problem::unavailable("no leader has decided in time; send the request again with the same Idempotency-Key"))
}
