//! Performs planned actions: fenced transactions, and the documents of the bucket.
//!
//! Every transaction compares the leader's key and the record that it changes. Nothing is begun, and nothing is waited for,
//! past the leader's tenure, and no call to the bucket is waited for longer than its limit. Does not decide.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use opentelemetry::KeyValue;
use roomreel_shared::cluster::{self, ActiveRecording, RenderJob, UnfinishedDocument};
use roomreel_shared::id::{RecordingId, TenantId};
use roomreel_shared::key::{self, Key, RecordingKeys, RecordingName};
use roomreel_shared::late::ActiveRender;
use roomreel_shared::ports::{Change, Compare, CoordinationError, ObjectStore, Outcome, Ports, StoreError};
use roomreel_shared::recording::Recording;
use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::timeout;
use tracing::Instrument as _;

use crate::late;
use crate::leader::Reign;
use crate::metrics::Metrics;
use crate::observed::Revisions;
use crate::plan::{Action, Cause, RenderId};
use crate::rebuild::{self, LookError, Unfinished};

/// How long a call to the bucket may take. Its client gives up earlier, and says more.
const BUCKET_LIMIT: Duration = Duration::from_secs(10);
/// How long a start waits for the bucket to say whether it knows the recording: whoever asked for it waits, too.
const START_LIMIT: Duration = Duration::from_secs(2);

/// What became of an action.
#[derive(Debug, PartialEq)]
pub enum Effect {
    /// Nothing was changed.
    None,
    /// Something was changed: plan again.
    Changed,
    /// The recording's final state is in the bucket.
    Finished(Box<Recording>),
    /// The bucket has nothing of the recording that could go on.
    Unknown(RecordingId),
}

/// Why an action could not be performed. It is planned again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The coordination store.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
    /// The bucket.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the bucket was asked for was not done in time; whether it acted is unknown.
    #[error("the bucket did not do it within {} s", limit.as_secs())]
    Silent {
        /// How long it had.
        limit: Duration,
    },
    /// So much is under way that its turn did not come.
    #[error("its turn did not come within {} s: too much is under way with the bucket", limit.as_secs())]
    Busy {
        /// How long it waited.
        limit: Duration,
    },
    /// The tenure ended first; whether it was done is for the next leader to see.
    #[error("this leadership ended")]
    Over,
}

impl Error {
    /// One word for a metric's attribute.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Coordination(_) => "coordination",
            Self::Store(_) => "store",
            Self::Silent { .. } => "silent",
            Self::Busy { .. } => "busy",
            Self::Over => "over",
        }
    }
}

/// Performs under one leadership, on what was observed.
#[derive(Clone)]
pub struct Performer {
    pub ports: Ports,
    pub reign: Reign,
    pub revisions: Arc<BTreeMap<String, Revisions>>,
    pub shards: u32,
    pub metrics: Metrics,
}

impl Performer {
    /// Performs one action. Entries for the log are not performed here.
    pub async fn perform(&self, action: &Action) -> Result<Effect, Error> {
        match action {
            Action::Start(active) => {
                let recording = &active.recording;
                let known = final_state(&*self.ports.store, &recording.tenant, &recording.id);
                match self.within(START_LIMIT, known).await {
                    Ok(Ok(Some(finished))) => return Ok(Effect::Finished(Box::new(finished))),
                    Ok(Ok(None)) => {}
                    // A store that is away, or refuses, delays no start: a recording that had ended finds its own last window.
                    Ok(Err(_)) | Err(Error::Silent { .. }) => {
                        tracing::info!(recording = %recording.id, "a recording starts without the bucket's word on it");
                    }
                    Err(error) => return Err(error),
                }
                let taken_up = self.taken_up(recording).await?;
                let active = taken_up.as_ref().unwrap_or(&**active);
                self.write("start", cluster::recording_key(&recording.id), active, Vec::new()).await
            }
            Action::TakeUp(name) => self.take_up(name).await,
            Action::Update(active) => {
                self.write("update", cluster::recording_key(&active.recording.id), active, Vec::new()).await
            }
            Action::Assign { assignment, cause } => {
                let key = cluster::assignment_key(&assignment.spec.recording);
                let of = &assignment.spec.recording;
                let effect = self.write_of(of, "assign", key, assignment, Vec::new()).await?;
                self.count_move(*cause, &effect);
                Ok(effect)
            }
            Action::Render { id, job, restart, cause } => {
                let progress = cluster::render_progress_key(&id.recording, id.composite.as_ref());
                let also = if *restart { vec![Change::Delete(progress)] } else { Vec::new() };
                let key = cluster::render_key(&id.recording, id.composite.as_ref());
                let effect = self.write_of(&id.recording, "render", key, job, also).await?;
                self.count_move(*cause, &effect);
                Ok(effect)
            }
            Action::Answer { request, outcome } => self.answer(request, outcome).await,
            Action::Finish { recording, renders } => self.finish(recording, renders).await,
            Action::Late { render, jobs, gone } => {
                let given = jobs.iter().map(|job| Change::Put(job.key(), to_json(job), None));
                let stale = jobs.iter().map(|job| Change::Delete(job.progress_key()));
                let also = given.chain(stale).chain(deletions(gone)).collect();
                self.write("late", late_key(render), render, also).await
            }
            Action::FinishLate { render, gone } => {
                self.within(BUCKET_LIMIT, late::record(&*self.ports.store, &render.fold, &render.render)).await??;
                let gone = deletions(gone).chain([Change::Delete(late_key(render))]).collect();
                self.transact("finish late", vec![self.guard(late_key(render))], gone).await
            }
            Action::Command { .. } | Action::Tick { .. } => Ok(Effect::None),
        }
    }

    /// The recording as the bucket has it, if it was begun before a coordination store that knows nothing of it: it goes on
    /// from there, with epochs above those of its windows. A bucket that does not answer delays no start; where both happen at
    /// once, `roomreel rebuild` raises the epochs.
    async fn taken_up(&self, recording: &Recording) -> Result<Option<ActiveRecording>, Error> {
        let (id, name) = (&recording.id, recording.name());
        let store = &*self.ports.store;
        match self.within(START_LIMIT, store.size(&name.keys().unfinished_json())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(Error::Silent { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
        let why = match self.within(BUCKET_LIMIT, rebuild::look_at(store, &name, self.shards)).await {
            Ok(Ok(None)) => return Ok(None),
            Ok(Ok(Some(Unfinished { active, epoch, windows }))) => {
                tracing::info!(recording = %id, epoch, windows, "the bucket knows this recording: it is taken up again");
                return Ok(Some(active));
            }
            Ok(Err(why)) => why.to_string(),
            Err(silent @ Error::Silent { .. }) => silent.to_string(),
            Err(error) => return Err(error),
        };
        tracing::warn!(recording = %id, why, "a recording of the bucket cannot be taken up; see roomreel rebuild");
        Ok(None)
    }

    /// What the log says was begun goes on as the bucket has it, or is final; without the bucket's word nothing is done.
    async fn take_up(&self, name: &RecordingName) -> Result<Effect, Error> {
        let store = &*self.ports.store;
        if let Some(finished) = self.within(BUCKET_LIMIT, final_state(store, &name.tenant, &name.recording)).await?? {
            return Ok(Effect::Finished(Box::new(finished)));
        }
        match self.within(BUCKET_LIMIT, rebuild::look_at(store, name, self.shards)).await? {
            Ok(Some(Unfinished { active, epoch, windows })) => {
                let recording = &name.recording;
                tracing::info!(%recording, epoch, windows, "the coordination store has lost this recording: it is taken up again");
                self.write("start", cluster::recording_key(recording), &active, Vec::new()).await
            }
            Ok(None) | Err(LookError::Nothing) => Ok(Effect::Unknown(name.recording.clone())),
            Err(LookError::Store(error)) => Err(error.into()),
            Err(LookError::Unclear(why)) => {
                let recording = &name.recording;
                tracing::warn!(%recording, why, "a recording of the bucket cannot be taken up; see roomreel rebuild");
                Ok(Effect::Unknown(recording.clone()))
            }
        }
    }

    fn count_move(&self, cause: Option<Cause>, effect: &Effect) {
        if let Some(cause) = cause
            && *effect == Effect::Changed
        {
            self.metrics.reassignments.add(1, &[KeyValue::new("cause", cause.name())]);
        }
    }

    async fn answer(&self, id: &str, outcome: &crate::request::Outcome) -> Result<Effect, Error> {
        let key = cluster::request_key(id);
        let Some(record) = self.bounded(self.ports.coordination.get(&key)).await?? else {
            return Ok(Effect::None);
        };
        let Ok(mut request) = crate::observed::json::<crate::request::Request>(&record) else {
            return Ok(Effect::None);
        };
        request.outcome = Some(outcome.clone());
        // The replica's lease no longer holds the record: a fresh one gives it time to read the outcome.
        let lease = self.bounded(self.ports.coordination.grant_lease(crate::api::REQUEST_LEASE)).await??;
        let put = Change::Put(key.clone(), to_json(&request), Some(lease));
        self.transact("answer", vec![Compare::Unchanged(key, record.mod_revision)], vec![put]).await
    }

    /// The bucket first, then the keys: killed in between, the next leader finishes again and finds the first final state.
    async fn finish(&self, recording: &Recording, renders: &[RenderId]) -> Result<Effect, Error> {
        let store = &*self.ports.store;
        let index = index_key(&recording.tenant, &recording.id);
        let keys = RecordingKeys::new(&recording.tenant, &recording.room, &recording.id);
        let body = to_json(recording);
        let (recording, body) = match self.within(BUCKET_LIMIT, store.create(&index, body.clone())).await? {
            Ok(()) => (recording.clone(), body),
            Err(StoreError::AlreadyExists { .. }) => {
                match self.within(BUCKET_LIMIT, final_state(store, &recording.tenant, &recording.id)).await?? {
                    Some(first) => {
                        let body = to_json(&first);
                        (first, body)
                    }
                    None => (recording.clone(), body),
                }
            }
            Err(error) => return Err(error.into()),
        };
        self.within(BUCKET_LIMIT, write_final(store, &keys, body)).await??;
        // One that comes back, written by a leader that was paused, is read by nobody (see `UnfinishedDocument`).
        self.within(BUCKET_LIMIT, store.delete(&keys.unfinished_json())).await??;
        let id = &recording.id;
        let mut gone = vec![cluster::recording_key(id), cluster::assignment_key(id), cluster::progress_key(id)];
        for RenderId { recording, composite } in renders {
            gone.push(cluster::render_key(recording, composite.as_ref()));
            gone.push(cluster::render_progress_key(recording, composite.as_ref()));
        }
        let guard = self.guard(cluster::recording_key(id));
        match self.transact("finish", vec![guard], gone.into_iter().map(Change::Delete).collect()).await? {
            Effect::Changed => Ok(Effect::Finished(Box::new(recording))),
            other => Ok(other),
        }
    }

    /// Brings the bucket's documents of a recording that is not final up to date.
    pub async fn document(&self, active: &ActiveRecording, first: bool) -> Result<(), Error> {
        let recording = &active.recording;
        let store = &*self.ports.store;
        let keys = RecordingKeys::new(&recording.tenant, &recording.room, &recording.id);
        if first {
            match self.within(BUCKET_LIMIT, store.create(&keys.policy_json(), to_json(&recording.policy))).await? {
                Ok(()) | Err(StoreError::AlreadyExists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let document = UnfinishedDocument { recording: recording.clone(), fold: Some(active.spec.clone()) };
        self.within(BUCKET_LIMIT, store.put(&keys.unfinished_json(), to_json(&document))).await??;
        Ok(())
    }

    async fn write(
        &self,
        what: &'static str,
        key: String,
        value: &impl Serialize,
        also: Vec<Change>,
    ) -> Result<Effect, Error> {
        let guard = self.guard(key.clone());
        self.transact(what, vec![guard], put(key, value, also)).await
    }

    /// Writes what belongs to a recording, while that is there: its end may have come between two lists of one observation, and
    /// nobody would remove what was written then.
    async fn write_of(
        &self,
        recording: &RecordingId,
        what: &'static str,
        key: String,
        value: &impl Serialize,
        also: Vec<Change>,
    ) -> Result<Effect, Error> {
        let of = cluster::recording_key(recording);
        let Some(seen) = self.revisions.get(&of) else { return Ok(Effect::None) };
        let guards = vec![Compare::Created(of, seen.created), self.guard(key.clone())];
        self.transact(what, guards, put(key, value, also)).await
    }

    /// The record is as it was observed.
    fn guard(&self, key: String) -> Compare {
        match self.revisions.get(&key) {
            Some(seen) => Compare::Unchanged(key, seen.changed),
            None => Compare::Absent(key),
        }
    }

    async fn transact(
        &self,
        what: &'static str,
        mut conditions: Vec<Compare>,
        changes: Vec<Change>,
    ) -> Result<Effect, Error> {
        conditions.push(Compare::Created(cluster::leader_key(), self.reign.fence));
        let span = tracing::info_span!("write", action = what);
        let written = self.bounded(self.ports.coordination.transact(conditions, changes)).instrument(span);
        match written.await?? {
            Outcome::Committed(_) => Ok(Effect::Changed),
            Outcome::Conflict => {
                self.metrics.conflicts.add(1, &[KeyValue::new("action", what)]);
                self.check_still_leading().await?;
                Ok(Effect::None)
            }
        }
    }

    /// After a refused write: was it the record, or are we deposed?
    async fn check_still_leading(&self) -> Result<(), Error> {
        let record = self.bounded(self.ports.coordination.get(&cluster::leader_key())).await??;
        if record.is_none_or(|record| record.create_revision != self.reign.fence) {
            self.reign.over.cancel();
            return Err(Error::Over);
        }
        Ok(())
    }

    /// Does not begin, and does not wait, past the tenure.
    async fn bounded<T>(&self, call: impl Future<Output = T>) -> Result<T, Error> {
        if !self.reign.may_act() {
            return Err(Error::Over);
        }
        tokio::select! {
            answer = call => Ok(answer),
            () = self.reign.ended() => Err(Error::Over),
        }
    }

    /// A call to the bucket, which does not wait for longer than `limit` either.
    async fn within<T>(&self, limit: Duration, call: impl Future<Output = T>) -> Result<T, Error> {
        self.bounded(timeout(limit, call)).await?.map_err(|_| Error::Silent { limit })
    }
}

fn put(key: String, value: &impl Serialize, also: Vec<Change>) -> Vec<Change> {
    std::iter::once(Change::Put(key, to_json(value), None)).chain(also).collect()
}

/// Writes `recording.json`, which is written once: what stands there may say more by now, of late renders.
async fn write_final(store: &dyn ObjectStore, keys: &RecordingKeys, body: Bytes) -> Result<(), StoreError> {
    let key = keys.recording_json();
    match store.create(&key, body.clone()).await {
        Err(StoreError::AlreadyExists { .. }) => {}
        written => return written,
    }
    let standing: Option<Recording> = serde_json::from_slice(&store.get(&key).await?).ok();
    match standing {
        Some(standing) if standing.state.is_final() => Ok(()),
        // Damaged, or none of ours: the recording is not held up by it.
        _ => store.put(&key, body).await,
    }
}

fn late_key(render: &ActiveRender) -> String {
    cluster::late_render_key(&render.fold.recording, &render.render.spec.composite.id)
}

fn deletions(jobs: &[RenderJob]) -> impl Iterator<Item = Change> {
    jobs.iter().flat_map(|job| [job.key(), job.progress_key()]).map(Change::Delete)
}

/// What is written to the coordination store and the bucket.
pub fn to_json(value: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("plain data with text keys always serializes"))
}

/// Where the final state of a recording is indexed: by the day (UTC) in its id, which is that on which its room opened.
pub fn index_key(tenant: &TenantId, recording: &RecordingId) -> Key {
    key::index(tenant, &date_path(recording_date(recording)), recording)
}

/// A date as the index spells it.
pub fn date_path(date: time::Date) -> String {
    format!("{:04}/{:02}/{:02}", date.year(), u8::from(date.month()), date.day())
}

/// The day in a recording's id (see [`RecordingId::generate`]); the first day of 1970 for an id that is not ours.
fn recording_date(recording: &RecordingId) -> time::Date {
    const DIGITS: &str = "0123456789abcdefghjkmnpqrstvwxyz";
    let mut digits = recording.as_str().chars().take(10).map(|c| DIGITS.find(c));
    let ms = digits.try_fold(0_i128, |ms, digit| Some(ms * 32 + i128::try_from(digit?).ok()?));
    let at = ms.and_then(|ms| OffsetDateTime::from_unix_timestamp_nanos(ms * 1_000_000).ok());
    at.unwrap_or(OffsetDateTime::UNIX_EPOCH).date()
}

/// The final state of a recording, if it has one and is this tenant's.
pub async fn final_state(
    store: &dyn ObjectStore,
    tenant: &TenantId,
    recording: &RecordingId,
) -> Result<Option<Recording>, StoreError> {
    let body = match store.get(&index_key(tenant, recording)).await {
        Ok(body) => body,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let parsed: Option<Recording> = serde_json::from_slice(&body).ok();
    Ok(parsed.filter(|found| found.tenant == *tenant && found.id == *recording && found.state.is_final()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_goes_by_the_day_in_the_id() {
        let tenant = TenantId::new("acme").expect("valid");
        for (created_ms, day) in [
            (0, "1970/01/01"),
            (1_700_000_000_000, "2023/11/14"),
            (1_735_689_599_999, "2024/12/31"),
            (1_735_689_600_000, "2025/01/01"),
        ] {
            let id = RecordingId::generate(created_ms, 7);
            assert_eq!(index_key(&tenant, &id).as_str(), format!("index/acme/{day}/{id}.json"));
        }
        for hostile in ["x", "../../etc", "zzzzzzzzzzzzzzzzzzzzzzzzzz", "会議会議会議会議会議"] {
            let id = RecordingId::new(hostile).expect("any text can be spelled");
            assert!(index_key(&tenant, &id).as_str().starts_with("index/acme/1970/01/01/"), "{hostile}");
        }
    }
}
