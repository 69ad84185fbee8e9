//! What was seen to be of nothing, since when, and what may go by now: pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::find::{Candidate, Left};

/// What a run writes down of something that it found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Its key.
    pub key: String,
    /// The upload's id, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
    /// Bytes.
    pub size: u64,
    /// The store's word for its content.
    pub version: String,
    /// What it was.
    pub left: Left,
    /// When it was first seen as it is now.
    #[serde(with = "time::serde::rfc3339")]
    pub first_seen: OffsetDateTime,
}

/// Something that is of nothing, since when, and whether it may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marked {
    /// What.
    pub candidate: Candidate,
    /// By the clocks of those who have looked.
    pub first_seen: OffsetDateTime,
    /// The grace is over.
    pub is_due: bool,
}

impl Marked {
    /// As the next run is to find it.
    #[must_use]
    pub fn mark(&self) -> Mark {
        let Candidate { left, key, upload, size, version, .. } = self.candidate.clone();
        Mark { key: key.to_string(), upload, size, version, left, first_seen: self.first_seen }
    }
}

/// Joins what is found now with what was marked `before`. A mark of another content, or from a time to come, says nothing; one of
/// something that is not found any more is dropped.
pub(super) fn settle(
    mut candidates: Vec<Candidate>,
    before: &[Mark],
    now: OffsetDateTime,
    grace: Duration,
) -> Vec<Marked> {
    let mut seen: BTreeMap<_, OffsetDateTime> = BTreeMap::new();
    for mark in before.iter().filter(|mark| mark.first_seen <= now) {
        let what = (mark.key.as_str(), mark.upload.as_deref(), mark.size, mark.version.as_str());
        let first = seen.entry(what).or_insert(mark.first_seen);
        *first = mark.first_seen.min(*first);
    }
    candidates.sort();
    let marked = candidates.into_iter().map(|candidate| {
        let what = (candidate.key.as_str(), candidate.upload.as_deref(), candidate.size, candidate.version.as_str());
        let known = seen.get(&what).copied();
        // Never in the run that found it, however short the grace.
        let is_due = known.is_some_and(|first| now - first >= grace);
        Marked { first_seen: known.unwrap_or(now), is_due, candidate }
    });
    marked.collect()
}
