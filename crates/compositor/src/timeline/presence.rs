//! Where somebody is: a participant who changes to another SFU joins there before, or after, the old one says that they left.
//!
//! Owns whether they are here. Does not own who they are.

use std::collections::BTreeMap;

use roomreel_shared::id::SfuId;

/// Most SFUs that one participant is at; a participant at more is an attack.
const MAX_SFUS: usize = 16;

/// The SFUs that a participant is at, and when they entered there last.
#[derive(Debug, Clone, Default)]
pub(crate) struct Presence {
    sfus: BTreeMap<SfuId, i64>,
}

impl Presence {
    /// They joined at `sfu`, or send from there, at `at`, whatever the caller counts in.
    pub(crate) fn enter(&mut self, sfu: &SfuId, at: i64) {
        if self.sfus.len() < MAX_SFUS || self.sfus.contains_key(sfu) {
            self.sfus.insert(sfu.clone(), at);
        }
    }

    /// They are at `sfu`, and entered there before `at` for the last time.
    pub(crate) fn entered_before(&self, sfu: &SfuId, at: i64) -> bool {
        self.sfus.get(sfu).is_some_and(|entered| *entered < at)
    }

    /// They left `sfu`.
    pub(crate) fn leave(&mut self, sfu: &SfuId) {
        self.sfus.remove(sfu);
    }

    /// They are at one of them.
    pub(crate) fn is_here(&self) -> bool {
        !self.sfus.is_empty()
    }
}
