//! Clean-up of what is part of no recording, in two phases: what is found is marked, and goes a grace later if it is found again.
//!
//! `find` decides what is part of no recording and `mark` what may go, without a clock or a client; [`Cleaner`] lists, asks and
//! deletes. Windows are never touched, nor what is alive, nor what has a name that roomreel does not give.
//!
//! An object goes only if it was seen to be of nothing a grace ago, is unchanged since, and is of nothing still when everything that
//! speaks for it has been read again right before. So a recording that ends, a render that is asked for, or a leader that takes a
//! recording up meanwhile loses nothing.

mod find;
mod mark;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{StreamExt as _, stream};
use roomreel_shared::cluster;
use roomreel_shared::id::RecordingId;
use roomreel_shared::key::{self, Key, RecordingName};
use roomreel_shared::ports::{Coordination, CoordinationError, ObjectStore, StoreError, Upload};
use roomreel_shared::recording::Recording;
use time::OffsetDateTime;

pub use self::find::{Candidate, Found, Left, Place};
use self::find::{Contents, of_probes, of_recording, of_uploads};
pub use self::mark::{Mark, Marked};
use crate::bucket;
use crate::late::{Source, SourceError};
use crate::perform::{final_state, to_json};

/// Recordings that are looked at at once.
const CONCURRENCY: usize = 8;

/// Why nothing was cleaned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Without a leader nobody can say which recordings are alive.
    #[error("no coordinator leads, so what is alive cannot be told and nothing is cleaned")]
    NoLeader,
    /// The coordination store.
    #[error(transparent)]
    Coordination(#[from] CoordinationError),
    /// The bucket.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What came of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Recordings that were looked at.
    pub recordings: u64,
    /// What is part of no recording, in order.
    pub marked: Vec<Marked>,
    /// Of these, what was deleted.
    pub deleted: BTreeSet<Candidate>,
    /// What could not be looked at or deleted, and why.
    pub troubles: Vec<String>,
    /// Names that roomreel does not give, which were left alone.
    pub foreign: u64,
    /// The store cannot tell which uploads are open.
    pub uploads_unknown: bool,
}

/// Looks for what is part of no recording.
pub struct Cleaner<'a> {
    /// The bucket.
    pub store: &'a dyn ObjectStore,
    /// Where what is alive is written down.
    pub coordination: &'a dyn Coordination,
    /// How long something must have been marked before it goes.
    pub grace: Duration,
}

impl Cleaner<'_> {
    /// Looks at the whole bucket, marks what it finds, and with `delete` deletes what may go. `nonce` is new each time.
    ///
    /// # Errors
    /// Nobody leads, or a store does not answer; what was marked before stays marked.
    pub async fn run(&self, now: OffsetDateTime, nonce: u64, delete: bool) -> Result<Report, Error> {
        let alive = self.alive().await?;
        let (before, read) = self.marks().await?;
        let mut report = Report::default();
        let found = self.find(&alive, &mut report).await?;
        report.foreign += found.foreign;
        report.marked = mark::settle(found.candidates, &before, now, self.grace);
        if delete {
            self.delete_due(&mut report).await;
        }
        let left = report.marked.iter().filter(|marked| !report.deleted.contains(&marked.candidate));
        let marks: Vec<Mark> = left.map(Marked::mark).collect();
        if !marks.is_empty() {
            let ms = u64::try_from(now.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
            self.store.create(&key::clean_marks(ms, nonce), to_json(&marks)).await?;
        }
        // What they say has been taken over.
        for key in read {
            self.store.delete(&key).await?;
        }
        Ok(report)
    }

    /// Recordings that are under way or are being rendered again.
    async fn alive(&self) -> Result<BTreeSet<RecordingId>, Error> {
        if self.coordination.get(&cluster::leader_key()).await?.is_none() {
            return Err(Error::NoLeader);
        }
        let mut alive = BTreeSet::new();
        for prefix in [cluster::recordings_prefix(), cluster::late_renders_prefix()] {
            for record in self.coordination.list(&prefix).await?.records {
                let below = record.key.strip_prefix(&prefix).unwrap_or_default();
                let token = below.split('/').next().unwrap_or_default();
                alive.extend(RecordingId::from_token(token));
            }
        }
        Ok(alive)
    }

    /// What former runs have marked, and the objects that say so. One that cannot be read says nothing, and is told of.
    async fn marks(&self) -> Result<(Vec<Mark>, Vec<Key>), Error> {
        let (mut marks, mut read) = (Vec::new(), Vec::new());
        for object in self.store.list(key::CLEAN_PREFIX).await? {
            let body = self.store.get(&object.key).await?;
            match serde_json::from_slice::<Vec<Mark>>(&body) {
                Ok(said) => {
                    marks.extend(said);
                    read.push(object.key);
                }
                Err(error) => tracing::warn!(key = %object.key, %error, "marks of an earlier clean-up cannot be read"),
            }
        }
        Ok((marks, read))
    }

    /// Everything in the bucket that is of nothing.
    async fn find(&self, alive: &BTreeSet<RecordingId>, report: &mut Report) -> Result<Found, Error> {
        let names = bucket::names(self.store).await?;
        let mut found = Found { candidates: Vec::new(), foreign: names.foreign };
        report.recordings = names.recordings.len() as u64;
        let places = names.recordings.into_iter().map(Place::Recording).chain([Place::Probes, Place::Uploads]);
        let looks = places.map(|place| async move { (self.look_at(&place, alive).await, place) });
        let mut looks = stream::iter(looks.collect::<Vec<_>>()).buffered(CONCURRENCY);
        while let Some((look, place)) = looks.next().await {
            match look {
                Ok(Some(more)) => {
                    found.candidates.extend(more.candidates);
                    found.foreign += more.foreign;
                }
                Ok(None) => report.uploads_unknown = true,
                Err(error) => report.troubles.push(format!("{place} could not be looked at: {error}")),
            }
        }
        Ok(found)
    }

    /// What there is of nothing in one place; `None` if the store cannot tell.
    async fn look_at(&self, place: &Place, alive: &BTreeSet<RecordingId>) -> Result<Option<Found>, StoreError> {
        match place {
            Place::Recording(name) if alive.contains(&name.recording) => Ok(Some(Found::default())),
            Place::Recording(name) => self.look_at_recording(name).await.map(Some),
            Place::Probes => Ok(Some(of_probes(&self.store.list(key::PROBE_PREFIX).await?))),
            Place::Uploads => Ok(self.store.list_uploads().await?.map(|open| of_uploads(&open, alive))),
        }
    }

    async fn look_at_recording(&self, name: &RecordingName) -> Result<Found, StoreError> {
        let keys = name.keys();
        let objects = self.store.list(keys.prefix()).await?;
        // After the objects: whoever has written the last document by now has written everything that it names.
        let is_indexed = final_state(self.store, &name.tenant, &name.recording).await?.is_some();
        let recording = match self.store.get(&keys.recording_json()).await {
            Ok(body) => serde_json::from_slice::<Recording>(&body).ok(),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(error),
        };
        let recording = recording.filter(|found| found.state.is_final() && found.name() == *name);
        let slices = match &recording {
            Some(_) => match Source::of_listed(self.store, name, &objects).await {
                Ok(source) => Some(source.slices()),
                Err(SourceError::NotRenderable(_)) => None,
                Err(SourceError::Store(error)) => return Err(error),
            },
            None => None,
        };
        Ok(of_recording(&Contents { name, objects: &objects, recording: recording.as_ref(), is_indexed, slices }))
    }

    /// Deletes what may go, place by place, after everything that speaks for it was read again.
    async fn delete_due(&self, report: &mut Report) {
        let mut due: BTreeMap<Place, Vec<Candidate>> = BTreeMap::new();
        for marked in report.marked.iter().filter(|marked| marked.is_due) {
            due.entry(marked.candidate.place.clone()).or_default().push(marked.candidate.clone());
        }
        for (place, candidates) in due {
            match self.delete_of(&place, candidates, &mut report.deleted).await {
                Ok(()) => {}
                Err(error) => report.troubles.push(format!("not everything of {place} was deleted: {error}")),
            }
        }
    }

    async fn delete_of(
        &self,
        place: &Place,
        candidates: Vec<Candidate>,
        deleted: &mut BTreeSet<Candidate>,
    ) -> Result<(), Error> {
        let alive = self.alive().await?;
        let still = self.look_at(place, &alive).await?.unwrap_or_default().candidates;
        for candidate in candidates.into_iter().filter(|candidate| still.contains(candidate)) {
            match &candidate.upload {
                Some(id) => {
                    let upload = Upload { key: candidate.key.clone(), id: id.clone() };
                    self.store.abort_upload(&upload).await?;
                }
                None => self.store.delete(&candidate.key).await?,
            }
            deleted.insert(candidate);
        }
        Ok(())
    }
}
