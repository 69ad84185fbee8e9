//! Where somebody is: a participant who changes to another SFU joins there before, or after, the old one says that they left.
//!
//! Owns whether they are here. Does not own who they are.

use std::collections::BTreeSet;

use roomreel_shared::id::SfuId;

/// Most SFUs that one participant is at; a participant at more is an attack.
const MAX_SFUS: usize = 16;

/// The SFUs that a participant is at.
#[derive(Debug, Clone, Default)]
pub(crate) struct Presence {
    sfus: BTreeSet<SfuId>,
}

impl Presence {
    /// They joined at `sfu`, or send from there.
    pub(crate) fn enter(&mut self, sfu: &SfuId) {
        if self.sfus.len() < MAX_SFUS {
            self.sfus.insert(sfu.clone());
        }
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
