//! What follows when a render's process dies: pure.
//!
//! A death that names a track is that track's until shown otherwise: the second one at the same slice bans it. One that names nobody is
//! tried again, a few times. Whoever is killed from outside names somebody too, but hardly three times the same moment of the same track.
//!
//! Owns the count of deaths. Does not own how a death is noticed, nor what a ban means for the picture.

use std::collections::{BTreeMap, BTreeSet};

use roomreel_shared::time::RoomTime;
use roomreel_shared::window::TrackKey;

/// Deaths at one slice that nobody is to blame for, after which the render is given up.
const MAX_UNEXPLAINED: u32 = 3;
/// Deaths by one track at one slice that ban it.
const MAX_AT_SLICE: u32 = 2;
/// Deaths by one track that ban it, wherever they are.
const MAX_IN_ALL: u32 = 5;
/// Kills from outside at the same moment of the same track that ban it: the kernel does so when memory is short.
const MAX_KILLS: u32 = 3;

/// Deaths at one slice, whoever is named, after which nobody is believed any more, unless a track is banned meanwhile.
const MAX_IN_A_ROW: u32 = 16;

/// What was being worked on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) track: TrackKey,
    /// Of the room's clock.
    pub(crate) time: RoomTime,
}

/// How a process ended, as far as it matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// By what it did, or by what it did not get done in time.
    Own,
    /// By a signal that nobody sends to himself.
    Outside,
}

/// What to do after a death.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The same again.
    Again,
    /// The same again, without this track.
    Ban(TrackKey),
    /// Nothing more will come of it.
    GiveUp,
}

/// The deaths of one render's processes.
#[derive(Debug, Default)]
pub(crate) struct Crashes {
    /// The slice that was to come at the newest death.
    slice: u64,
    /// At that slice, by nobody.
    unexplained: u32,
    /// At that slice, since a track was banned.
    in_a_row: u32,
    at_slice: BTreeMap<TrackKey, u32>,
    kills: BTreeMap<Place, u32>,
    in_all: BTreeMap<TrackKey, u32>,
    banned: BTreeSet<TrackKey>,
}

impl Crashes {
    /// Tracks that are left out.
    pub(crate) fn banned(&self) -> &BTreeSet<TrackKey> {
        &self.banned
    }

    /// Leaves a track out that others have found guilty.
    pub(crate) fn ban(&mut self, track: TrackKey) {
        self.banned.insert(track);
    }

    /// Takes a death on the way to `slice`. `place` names a track of the recording.
    pub(crate) fn on_death(&mut self, slice: u64, cause: Cause, place: Option<Place>) -> Verdict {
        if self.slice != slice {
            self.slice = slice;
            self.unexplained = 0;
            self.in_a_row = 0;
            self.at_slice.clear();
            self.kills.clear();
        }
        // A banned track is not touched any more: whoever names it lies.
        let place = place.filter(|place| !self.banned.contains(&place.track));
        let is_guilty = match (&place, cause) {
            (Some(place), Cause::Own) => {
                let at_slice = counted(&mut self.at_slice, &place.track);
                counted(&mut self.in_all, &place.track) >= MAX_IN_ALL || at_slice >= MAX_AT_SLICE
            }
            (Some(place), Cause::Outside) => counted(&mut self.kills, place) >= MAX_KILLS,
            (None, _) => false,
        };
        if let Some(place) = place.clone().filter(|_| is_guilty) {
            self.banned.insert(place.track.clone());
            self.unexplained = 0;
            self.in_a_row = 0;
            return Verdict::Ban(place.track);
        }
        if place.is_none() || cause == Cause::Outside {
            self.unexplained += 1;
        }
        self.in_a_row += 1;
        let is_over = self.unexplained >= MAX_UNEXPLAINED || self.in_a_row >= MAX_IN_A_ROW;
        if is_over { Verdict::GiveUp } else { Verdict::Again }
    }
}

fn counted<K: Ord + Clone>(counts: &mut BTreeMap<K, u32>, key: &K) -> u32 {
    let count = counts.entry(key.clone()).or_default();
    *count += 1;
    *count
}

#[cfg(test)]
mod tests {
    use roomreel_shared::id::{SfuId, TrackId};

    use super::*;

    fn track(name: &str) -> TrackKey {
        TrackKey { sfu: SfuId::new("sfu").expect("valid"), track: TrackId::new(name).expect("valid") }
    }

    fn at(name: &str, time: i64) -> Option<Place> {
        Some(Place { track: track(name), time: RoomTime::from_micros(time) })
    }

    fn verdicts(deaths: &[(u64, Cause, Option<Place>)]) -> Vec<Verdict> {
        let mut crashes = Crashes::default();
        deaths.iter().map(|(slice, cause, place)| crashes.on_death(*slice, *cause, place.clone())).collect()
    }

    #[test]
    fn deaths_have_consequences() {
        use Cause::{Outside, Own};
        use Verdict::{Again, GiveUp};
        let ban = |name| Verdict::Ban(track(name));
        for (story, deaths, expected) in [
            ("a track twice at a slice", vec![(3, Own, at("a", 7)), (3, Own, at("a", 8))], vec![Again, ban("a")]),
            (
                "two tracks, each on its own account",
                vec![(3, Own, at("a", 7)), (3, Own, at("b", 7)), (3, Own, at("b", 7)), (3, Own, at("a", 7))],
                vec![Again, Again, ban("b"), ban("a")],
            ),
            (
                "a track here and there",
                (0..5).map(|slice| (slice, Own, at("a", 0))).collect(),
                vec![Again, Again, Again, Again, ban("a")],
            ),
            (
                "nobody three times at a slice",
                vec![(3, Own, None), (4, Own, None), (4, Own, None), (4, Own, None)],
                vec![Again, Again, Again, GiveUp],
            ),
            (
                "killed at whatever it did",
                vec![(3, Outside, at("a", 1)), (3, Outside, at("a", 2)), (3, Outside, at("a", 3))],
                vec![Again, Again, GiveUp],
            ),
            (
                "killed at the same each time",
                vec![(3, Outside, at("a", 1)), (3, Outside, at("a", 1)), (3, Outside, at("a", 1))],
                vec![Again, Again, ban("a")],
            ),
            (
                "a liar names who is banned",
                (0..5).map(|_| (3, Own, at("a", 0))).collect(),
                vec![Again, ban("a"), Again, Again, GiveUp],
            ),
            (
                "a liar names another one each time",
                (0..16).map(|number| (3, Own, at(&format!("t{number}"), 0))).collect(),
                [vec![Again; 15], vec![GiveUp]].concat(),
            ),
        ] {
            assert_eq!(verdicts(&deaths), expected, "{story}");
        }
    }
}
