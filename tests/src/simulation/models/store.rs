//! An object store: linearizable conditional creates, answers that say nothing, and a memory of every mutation.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use rand::Rng as _;
use rand::rngs::StdRng;
use roomreel_shared::ports::StoreError;

use crate::simulation::faults::{Fault, Plan};

/// See the module.
#[derive(Debug, Default)]
pub struct StoreModel {
    objects: BTreeMap<String, Bytes>,
    /// Requests that are carried out after their caller gave up.
    hanging: Vec<(Duration, String, Bytes)>,
    away_until: Duration,
    /// Writes over an object that was there.
    pub overwritten: Vec<String>,
}

impl StoreModel {
    /// Time passes, and faults strike.
    pub fn step(&mut self, now: Duration, plan: &Plan, rng: &mut StdRng) -> Option<String> {
        let due = |(at, ..): &mut (Duration, String, Bytes)| *at <= now;
        for (_, key, body) in self.hanging.extract_if(.., due).collect::<Vec<_>>() {
            self.objects.entry(key).or_insert(body);
        }
        if plan.strikes(Fault::StoreIsAway, rng) {
            self.away_until = now + Duration::from_millis(rng.random_range(500..8000));
            return Some("the store cannot be reached".to_owned());
        }
        None
    }

    /// Nothing goes wrong any more; what hangs still comes.
    pub fn heal(&mut self) {
        self.away_until = Duration::ZERO;
    }

    /// `PUT` with `If-None-Match: *`.
    ///
    /// # Errors
    /// As a store answers.
    pub fn create(
        &mut self,
        now: Duration,
        key: &str,
        body: &Bytes,
        plan: &Plan,
        rng: &mut StdRng,
    ) -> Result<(), StoreError> {
        if now < self.away_until || plan.strikes(Fault::StoreLosesRequests, rng) {
            return Err(unavailable(key, "timed out"));
        }
        if plan.strikes(Fault::StoreIsBusy, rng) {
            return Err(unavailable(key, "503"));
        }
        if plan.strikes(Fault::StoreConflicts, rng) {
            return Err(StoreError::Conflict { key: key.to_owned() });
        }
        if plan.strikes(Fault::StoreHangs, rng) {
            let later = now + Duration::from_millis(rng.random_range(100..6000));
            self.hanging.push((later, key.to_owned(), body.clone()));
            return Err(unavailable(key, "timed out"));
        }
        if self.objects.contains_key(key) {
            return Err(StoreError::AlreadyExists { key: key.to_owned() });
        }
        self.objects.insert(key.to_owned(), body.clone());
        if plan.strikes(Fault::StoreLosesAnswers, rng) {
            return Err(unavailable(key, "connection reset"));
        }
        Ok(())
    }

    /// `PUT` without a condition: only a planted bug does it.
    pub fn put(&mut self, key: &str, body: &Bytes) {
        if self.objects.insert(key.to_owned(), body.clone()).is_some() {
            self.overwritten.push(key.to_owned());
        }
    }

    /// Reads an object.
    ///
    /// # Errors
    /// As a store answers.
    pub fn get(&self, now: Duration, key: &str, plan: &Plan, rng: &mut StdRng) -> Result<Bytes, StoreError> {
        if now < self.away_until || plan.strikes(Fault::StoreIsBusy, rng) {
            return Err(unavailable(key, "timed out"));
        }
        let object = self.objects.get(key).ok_or_else(|| StoreError::NotFound { key: key.to_owned() })?;
        if plan.strikes(Fault::StoreReadsTorn, rng) {
            return Ok(object.slice(..object.len() / 2));
        }
        Ok(object.clone())
    }

    /// Keys that begin with `prefix`.
    ///
    /// # Errors
    /// As a store answers.
    pub fn list(&self, now: Duration, prefix: &str, plan: &Plan, rng: &mut StdRng) -> Result<Vec<String>, StoreError> {
        if now < self.away_until || plan.strikes(Fault::StoreIsBusy, rng) {
            return Err(unavailable(prefix, "timed out"));
        }
        Ok(self.objects.keys().filter(|key| key.starts_with(prefix)).cloned().collect())
    }

    /// Everything, for oracles.
    #[must_use]
    pub fn objects(&self) -> &BTreeMap<String, Bytes> {
        &self.objects
    }
}

fn unavailable(key: &str, reason: &str) -> StoreError {
    StoreError::Unavailable { store: "model".to_owned(), key: key.to_owned(), reason: reason.to_owned() }
}
