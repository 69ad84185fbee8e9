//! Which pictures can be decoded although packets are missing.
//!
//! A picture that is lost takes those with it that build on it, and no others. Owns what is known to be missing; the payloads' own
//! words ([`Marks`]) say who builds on what. Where they say nothing, everything behind a loss builds on it, up to the next key picture. Pure.

use std::collections::VecDeque;

use crate::depacketize::marks::{Count, Marks};

/// Nothing is missing in any temporal layer.
const WHOLE: u8 = u8::MAX;
/// How far back a picture can point (RFC 9628 section 4.2: 7 bits).
const MAX_REFERENCE_AGE: usize = 128;

/// What of one RTP stream's pictures is missing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Continuity {
    /// Temporal layers from this one on lack a picture: from 0 on, nothing can be decoded before the next key picture.
    broken_from: u8,
    /// Number of the newest picture of the base layer that was given to the decoder.
    base: Option<u32>,
    /// Number of the newest picture that was seen, whole or not.
    newest: Option<u32>,
    /// The newest pictures that were given to the decoder, where pictures say which ones they build on.
    given: VecDeque<u32>,
    /// Where they say so, one that was not given: what does not say so may build on it.
    is_torn: bool,
}

impl Continuity {
    /// Nothing can be decoded before the next key picture.
    pub(crate) fn awaits_key(&self) -> bool {
        self.broken_from == 0
    }

    /// Nothing is to be decoded before the next key picture.
    pub(crate) fn break_off(&mut self) {
        *self = Self { newest: self.newest, ..Self::default() };
    }

    /// The picture with these marks comes behind so many missing packets.
    pub(crate) fn see(&mut self, marks: Option<&Marks>, missing: u64) {
        let picture = marks.and_then(|marks| marks.picture);
        let newest = std::mem::replace(&mut self.newest, picture.map(|picture| picture.number));
        if missing == 0 {
            return;
        }
        let Some(marks) = marks else { return self.break_off() };
        let within = |count: Count| missing < u64::from(count.modulus);
        if marks.references.is_some() {
            // A key picture may be among what is missing, with which H.265 counts from 0 again: the numbers would name what was before it.
            if marks.keeps.is_some() || !picture.is_some_and(within) {
                self.break_off();
            }
            return;
        }
        if picture.filter(|count| within(*count)).zip(newest).is_some_and(|(picture, newest)| picture.follows(newest)) {
            // No picture lies between: the end of the one before is missing, which is known, or probes are.
            return;
        }
        let base_is_whole =
            marks.base.filter(|count| within(*count)).zip(self.base).is_some_and(|(base, known)| {
                if marks.temporal == 0 { base.follows(known) } else { base.number == known }
            });
        if base_is_whole {
            self.broken_from = self.broken_from.min(1);
        } else {
            self.break_off();
        }
    }

    /// Lets go of what a picture does not name among those that are kept.
    fn keep(&mut self, picture: Count, keeps: Option<&[u32]>) {
        if let Some(keeps) = keeps {
            let kept: Vec<u32> = keeps.iter().map(|age| picture.ago(*age)).collect();
            self.given.retain(|number| kept.contains(number));
        }
    }

    /// The picture with these marks is not whole.
    pub(crate) fn lose(&mut self, marks: Option<&Marks>) {
        match marks {
            Some(Marks { references: Some(_), picture: Some(picture), keeps, .. }) => {
                self.keep(*picture, keeps.as_deref());
                self.given.retain(|number| *number != picture.number);
                self.is_torn = true;
            }
            Some(marks) if marks.references.is_none() && marks.discardable => {}
            Some(Marks { temporal: 1.., references: None, .. }) => {
                self.broken_from = self.broken_from.min(marks.map_or(0, |marks| marks.temporal));
            }
            _ => self.break_off(),
        }
    }

    /// Whether a whole picture can be given to the decoder; it is taken to be.
    pub(crate) fn admit(&mut self, marks: Option<&Marks>, is_key: bool) -> bool {
        let unmarked = Marks::default();
        let marks = marks.unwrap_or(&unmarked);
        let picture = marks.picture;
        let base = marks.base.map(|base| base.number);
        if let Some((references, picture)) = marks.references.as_ref().zip(picture) {
            let ago = |age: &u32| picture.ago(*age);
            self.keep(picture, marks.keeps.as_deref());
            let has_all = references.iter().map(ago).all(|reference| self.given.contains(&reference));
            let is_admitted = is_key || (has_all && (!references.is_empty() || !self.awaits_key()));
            if is_key {
                self.given.clear();
                self.is_torn = false;
            }
            self.is_torn |= !is_admitted;
            self.broken_from = if is_admitted { WHOLE } else { 0 };
            if is_admitted {
                self.given.push_back(picture.number);
                if self.given.len() > MAX_REFERENCE_AGE {
                    self.given.pop_front();
                }
            }
            return is_admitted;
        }
        if marks.references.is_some() && self.is_torn && !is_key {
            self.break_off();
            return false;
        }
        if is_key {
            self.given.clear();
            self.is_torn = false;
            self.broken_from = WHOLE;
            self.base = base;
            return true;
        }
        if marks.temporal >= self.broken_from {
            if self.awaits_key() || !marks.sync || base.is_none() || base != self.base {
                return false;
            }
            self.broken_from = marks.temporal + 1;
        }
        if marks.temporal == 0 {
            self.base = base;
        }
        if marks.switches_up {
            self.broken_from = WHOLE;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture of a layer, with the base's number.
    fn layered(temporal: u8, base: u32, picture: u32) -> Marks {
        Marks {
            temporal,
            base: Some(Count { number: base, modulus: 256 }),
            picture: Some(Count { number: picture, modulus: 128 }),
            ..Marks::default()
        }
    }

    fn take(state: &mut Continuity, marks: &Marks, missing: u64) -> bool {
        state.see(Some(marks), missing);
        state.admit(Some(marks), false)
    }

    fn begun() -> Continuity {
        let mut state = Continuity::default();
        let key = layered(0, 255, 126);
        state.see(Some(&key), 0);
        assert!(state.admit(Some(&key), true));
        state
    }

    #[test]
    fn an_upper_layer_that_is_lost_takes_what_is_above_it() {
        let mut state = begun();
        // Picture 127, of layer 2, is missing: the base goes on, the layers wait for a sync.
        assert!(take(&mut state, &layered(0, 0, 0), 3));
        assert!(!take(&mut state, &layered(2, 0, 1), 0));
        assert!(take(&mut state, &layered(0, 1, 2), 0));
        assert!(take(&mut state, &Marks { sync: true, ..layered(1, 1, 3) }, 0));
        assert!(!take(&mut state, &layered(2, 1, 4), 0));
        assert!(take(&mut state, &layered(1, 1, 5), 0));
        assert!(take(&mut state, &Marks { sync: true, ..layered(2, 1, 6) }, 0));
        assert!(take(&mut state, &layered(2, 1, 7), 0) && !state.awaits_key());
    }

    #[test]
    fn the_base_that_is_lost_takes_all() {
        let mut state = begun();
        assert!(!take(&mut state, &layered(0, 1, 1), 2));
        assert!(state.awaits_key() && !take(&mut state, &layered(0, 2, 2), 0));
        let mut behind_its_base = begun();
        assert!(!take(&mut behind_its_base, &Marks { sync: true, ..layered(1, 0, 0) }, 1));
        let mut unmarked = begun();
        unmarked.see(None, 1);
        assert!(unmarked.awaits_key());
        // So much is missing that the numbers may have come round.
        let mut long = begun();
        assert!(!take(&mut long, &layered(0, 0, 127), 300));
    }

    #[test]
    fn a_picture_that_is_not_whole_is_known_by_what_is_there() {
        let mut state = begun();
        let upper = layered(2, 255, 127);
        state.see(Some(&upper), 0);
        state.lose(Some(&upper));
        assert!(take(&mut state, &layered(1, 255, 0), 1), "its last packet was missing, and no other picture");
        assert!(!take(&mut state, &layered(2, 255, 1), 0));
        assert!(take(&mut state, &Marks { switches_up: true, ..layered(0, 0, 2) }, 0));
        assert!(take(&mut state, &layered(2, 0, 3), 0), "nothing behind it builds on what is before it");
        state.lose(Some(&Marks { discardable: true, ..layered(0, 0, 4) }));
        assert!(!state.awaits_key());
        state.lose(Some(&layered(0, 1, 4)));
        assert!(state.awaits_key());
    }

    #[test]
    fn pictures_that_name_what_they_build_on_are_believed() {
        let mut state = Continuity::default();
        let picture = |number, references: &[u32]| Marks {
            picture: Some(Count { number, modulus: 128 }),
            references: Some(references.to_vec()),
            ..Marks::default()
        };
        assert!(!take(&mut state, &picture(126, &[1]), 0));
        assert!(state.admit(Some(&picture(127, &[])), true));
        assert!(!take(&mut state, &picture(1, &[1]), 4), "0 is missing");
        assert!(take(&mut state, &picture(2, &[3]), 0));
        assert!(!take(&mut state, &picture(3, &[1, 2]), 0));
        assert!(take(&mut state, &picture(4, &[2]), 0));
        state.break_off();
        assert!(!take(&mut state, &picture(5, &[1]), 0));
        // Numbers come round: what is not named any more is not there any more.
        let mut state = Continuity::default();
        let keeping = |number, age| Marks { keeps: Some(vec![age]), ..picture(number, &[age]) };
        assert!(state.admit(Some(&picture(5, &[])), true) && take(&mut state, &keeping(6, 1), 0));
        assert!(!take(&mut state, &keeping(20, 1), 13) && !take(&mut state, &keeping(7, 1), 114));
    }

    /// A picture of H.265, which names what it builds on and what is kept.
    fn named(number: u32, modulus: u32, references: &[u32], keeps: &[u32]) -> Marks {
        Marks {
            picture: Some(Count { number, modulus }),
            references: Some(references.to_vec()),
            keeps: Some(keeps.to_vec()),
            ..Marks::default()
        }
    }

    fn key(state: &mut Continuity, modulus: u32) {
        let key = named(0, modulus, &[], &[]);
        state.see(Some(&key), 0);
        assert!(state.admit(Some(&key), true));
    }

    #[test]
    fn counts_that_may_have_come_round_name_nothing() {
        for lost in [16, 17] {
            let mut state = Continuity::default();
            key(&mut state, 16);
            // The one behind the key picture is lost, and 15 or 16 more.
            assert!(!take(&mut state, &named((lost + 1) % 16, 16, &[1], &[1]), u64::from(lost)), "{lost}");
            assert!(state.awaits_key());
        }
    }

    #[test]
    fn a_key_picture_lost_in_part_leaves_nothing_to_build_on() {
        let mut state = Continuity::default();
        key(&mut state, 256);
        assert!(take(&mut state, &named(1, 256, &[1], &[1]), 0));
        let again = named(0, 256, &[], &[]);
        state.see(Some(&again), 0);
        state.lose(Some(&again));
        assert!(!take(&mut state, &named(1, 256, &[1], &[1]), 0));
        // The lost one's own number is nobody's.
        let mut state = Continuity::default();
        key(&mut state, 256);
        let lost = named(1, 256, &[1], &[1]);
        state.see(Some(&lost), 0);
        state.lose(Some(&lost));
        assert!(take(&mut state, &named(2, 256, &[2], &[2]), 0) && !take(&mut state, &named(3, 256, &[2], &[2]), 0));
    }

    #[test]
    fn a_key_picture_that_never_came_leaves_nothing_to_build_on() {
        let mut state = Continuity::default();
        key(&mut state, 256);
        for number in 1..=3 {
            assert!(take(&mut state, &named(number, 256, &[1, number], &[1, number]), 0));
        }
        assert!(!take(&mut state, &named(1, 256, &[1], &[1]), 1));
    }

    #[test]
    fn a_key_picture_that_never_came_right_behind_another() {
        // 1 of the old sequence and the new key picture are lost: the new 1 names the new 0, and is counted higher than the old 0.
        let mut state = Continuity::default();
        key(&mut state, 256);
        assert!(!take(&mut state, &named(1, 256, &[1], &[1]), 2));
    }

    #[test]
    fn a_picture_that_cannot_be_read_builds_on_everything() {
        let unread = Marks { references: Some(Vec::new()), ..Marks::default() };
        let mut state = Continuity::default();
        key(&mut state, 256);
        assert!(!take(&mut state, &unread, 3), "behind a loss");
        let mut state = Continuity::default();
        key(&mut state, 256);
        let lost = named(1, 256, &[1], &[1]);
        state.see(Some(&lost), 0);
        state.lose(Some(&lost));
        assert!(!take(&mut state, &unread, 0), "behind one that was not whole");
        let mut state = Continuity::default();
        key(&mut state, 256);
        assert!(take(&mut state, &unread, 0), "nothing is lost");
    }
}
