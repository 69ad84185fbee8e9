//! Who comes, goes, hides and speaks when. Pure: times are counted from the room's creation.

use std::time::Duration;

/// What happens in the room besides talking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Script {
    /// Participants after the first join within the first two seconds, rather than all at once.
    pub late_joins: bool,
    /// The last participant leaves at two thirds.
    pub leave: bool,
    /// One participant's camera is off for a fifth of the time, in the middle.
    pub mute: bool,
    /// The first participant shares a screen for a quarter of the time.
    pub screenshare: bool,
    /// The active speaker changes every five seconds.
    pub active_speaker: bool,
}

impl Default for Script {
    /// Late joins, one camera off for a while, changing speakers.
    fn default() -> Self {
        Self { late_joins: true, leave: false, mute: true, screenshare: false, active_speaker: true }
    }
}

/// From and to.
pub(super) type Span = (Duration, Duration);

/// How long everybody is there when all joined late.
const JOIN_WITHIN: Duration = Duration::from_secs(2);
const SPEAKER_EVERY: Duration = Duration::from_secs(5);

/// The script over a room of known length and size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) script: Script,
    pub(super) duration: Duration,
    pub(super) participants: usize,
}

impl Plan {
    /// When a participant is in the room.
    pub(super) fn presence(&self, participant: usize) -> Span {
        let all = JOIN_WITHIN.min(self.duration / 4);
        let last = self.participants.saturating_sub(1);
        let join = match self.script.late_joins && last > 0 {
            true => all.mul_f64(participant as f64 / last as f64),
            false => Duration::ZERO,
        };
        let leaves_early = self.script.leave && last > 0 && participant == last;
        (join, if leaves_early { self.duration * 2 / 3 } else { self.duration })
    }

    /// When the participant's camera is off.
    pub(super) fn camera_off(&self, participant: usize) -> Option<Span> {
        let is_meant = self.script.mute && participant == self.participants.saturating_sub(1).min(2);
        is_meant.then(|| (self.duration * 2 / 5, self.duration * 3 / 5))
    }

    /// When the first participant's screen is shared.
    pub(super) fn screenshare(&self) -> Option<Span> {
        self.script.screenshare.then(|| (self.duration / 2, self.duration * 3 / 4))
    }

    /// Who speaks from when on.
    pub(super) fn speakers(&self) -> Vec<(Duration, usize)> {
        let mut speakers = Vec::new();
        let mut at = SPEAKER_EVERY / 2;
        while self.script.active_speaker && at < self.duration {
            let present = |participant: &usize| {
                let (join, leave) = self.presence(*participant);
                join <= at && at < leave
            };
            let turn = speakers.len();
            speakers.extend(
                (0..self.participants).cycle().skip(turn).take(self.participants).find(present).map(|who| (at, who)),
            );
            at += SPEAKER_EVERY;
        }
        speakers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_there_after_two_seconds_and_takes_turns() {
        let script = Script { leave: true, screenshare: true, ..Script::default() };
        let plan = Plan { script, duration: Duration::from_secs(30), participants: 4 };
        assert_eq!(plan.presence(0), (Duration::ZERO, Duration::from_secs(30)));
        assert_eq!(plan.presence(3), (Duration::from_secs(2), Duration::from_secs(20)));
        assert_eq!(plan.camera_off(2), Some((Duration::from_secs(12), Duration::from_secs(18))));
        assert_eq!(plan.camera_off(1), None);
        let speakers: Vec<usize> = plan.speakers().into_iter().map(|(_, who)| who).collect();
        assert_eq!(speakers, [0, 1, 2, 3, 0, 1]);
    }
}
