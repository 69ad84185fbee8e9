//! What was said, as captions: WebVTT and SubRip of the transcript cues in the windows.
//!
//! Owns the text of the files. Does not own speech recognition: an SFU or a service beside it sends cues.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use roomreel_shared::event::EventKind;
use roomreel_shared::id::PeerId;
use roomreel_shared::late::LateJob;
use roomreel_shared::time::RoomTime;
use roomreel_shared::window::Window;

/// Most bytes of text that are held; a day of talking has a tenth of it.
const MAX_BYTES: usize = 32 << 20;
/// What one cue costs besides its text.
const CUE_BYTES: usize = 64;
/// A cue is shown for at least this long, microseconds.
const MIN_DURATION_US: i64 = 500_000;

#[derive(Clone)]
struct Cue {
    start_us: i64,
    end_us: i64,
    peer: PeerId,
    text: String,
}

/// The cues of a recording.
#[derive(Clone, Default)]
pub struct Captions {
    start: Option<RoomTime>,
    names: BTreeMap<PeerId, String>,
    cues: Vec<Cue>,
    bytes: usize,
    refused: u64,
}

impl Captions {
    /// Takes the next window of the chain.
    pub fn push_window(&mut self, window: &Window) {
        let start = *self.start.get_or_insert(window.header.room_start);
        for participant in &window.header.carry_over.participants {
            if let Ok(peer) = PeerId::new(participant.peer_id.clone()) {
                self.names.insert(peer, line(&participant.display_name));
            }
        }
        for stored in &window.events {
            match &stored.event.kind {
                EventKind::PeerJoined { peer, display_name, .. } => {
                    self.names.insert(peer.clone(), line(display_name));
                }
                EventKind::TranscriptCue { peer, text, start: from, end, .. } => {
                    let (start_us, end_us) = (from.micros_since(start).max(0), end.micros_since(start));
                    let text = line(text);
                    if text.is_empty() || end_us <= 0 {
                        continue;
                    }
                    if self.bytes + text.len() + CUE_BYTES > MAX_BYTES {
                        self.refused += 1;
                        continue;
                    }
                    self.bytes += text.len() + CUE_BYTES;
                    let end_us = end_us.max(start_us.saturating_add(MIN_DURATION_US));
                    self.cues.push(Cue { start_us, end_us, peer: peer.clone(), text });
                }
                _ => {}
            }
        }
        self.cues.sort_by_key(|cue| cue.start_us);
    }

    /// What is said in what a late render shows, on its clock.
    #[must_use]
    pub fn cut(&self, late: &LateJob) -> Self {
        let shown = |at_us: i64| {
            let behind = at_us.max(0).unsigned_abs().clamp(late.from_us, late.to_us.max(late.from_us)) - late.from_us;
            late.cuts.shown(behind, 1_000_000).cast_signed()
        };
        let mut cut = self.clone();
        cut.cues.retain_mut(|cue| {
            (cue.start_us, cue.end_us) = (shown(cue.start_us), shown(cue.end_us));
            // As they are written: one that ends where it begins is none.
            cue.start_us / 1000 < cue.end_us / 1000
        });
        cut
    }

    /// Number of cues that there are, and of those that found no room.
    #[must_use]
    pub fn count(&self) -> (usize, u64) {
        (self.cues.len(), self.refused)
    }

    fn name<'a>(&'a self, cue: &'a Cue) -> &'a str {
        self.names.get(&cue.peer).map(String::as_str).filter(|name| !name.is_empty()).unwrap_or(cue.peer.as_str())
    }

    /// WebVTT, with the speaker as voice.
    #[must_use]
    pub fn webvtt(&self) -> String {
        let mut out = "WEBVTT\n".to_owned();
        for cue in &self.cues {
            let (from, to) = (timestamp(cue.start_us, '.'), timestamp(cue.end_us, '.'));
            let (name, text) = (escaped(self.name(cue)), escaped(&cue.text));
            writeln!(out, "\n{from} --> {to}\n<v {name}>{text}</v>").expect("writing to a String cannot fail");
        }
        out
    }

    /// SubRip, with the speaker before the text.
    #[must_use]
    pub fn srt(&self) -> String {
        let mut out = String::new();
        for (index, cue) in self.cues.iter().enumerate() {
            let (from, to) = (timestamp(cue.start_us, ','), timestamp(cue.end_us, ','));
            writeln!(out, "{}\n{from} --> {to}\n{}: {}\n", index + 1, plain(self.name(cue)), plain(&cue.text))
                .expect("writing to a String cannot fail");
        }
        out
    }
}

/// In one line: an empty one would end the cue.
fn line(text: &str) -> String {
    text.split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// SubRip knows no escapes: what players take for markup is spelled with signs that look like it.
fn plain(text: &str) -> String {
    text.replace('<', "‹").replace('>', "›").replace("{\\", "(\\")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

pub(crate) fn timestamp(micros: i64, point: char) -> String {
    let ms = micros.max(0) / 1000;
    format!("{:02}:{:02}:{:02}{point}{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

#[cfg(test)]
mod tests {
    use roomreel_shared::late::{Cuts, Division, Piece};

    use super::*;
    use crate::render::tests::windows;

    fn late(from_us: u64, to_us: u64, cuts: &[(u32, u32)]) -> LateJob {
        let cuts = Cuts::try_from(cuts.to_vec()).expect("in order");
        let division = Division { slices: 3, span: 3 };
        LateJob { from_us, to_us, cuts, hidden: None, division, piece: Piece::Join }
    }

    #[test]
    fn cues_are_told_in_order_and_cannot_break_out() {
        let mut windows = windows();
        let begin = windows[0].header.room_start;
        let said = |peer: &str, text: &str, from: i64, to: i64| EventKind::TranscriptCue {
            peer: PeerId::new(peer).expect("valid"),
            text: text.to_owned(),
            start: begin.offset_micros(from),
            end: begin.offset_micros(to),
            language: "en".to_owned(),
        };
        let like = windows[0].events[0].clone();
        for kind in [
            said("amara", "second\n\n00:00 --> 00:01 <b>", 2_000_000, 3_661_500_000),
            said("bjorn", "first & best", -5, 100_000),
            said("bjorn", " \n ", 0, 1_000_000),
            said("bjorn", "before it began", -9, -1),
        ] {
            let mut stored = like.clone();
            stored.event.kind = kind;
            windows[0].events.push(stored);
        }
        let mut captions = Captions::default();
        windows.iter().for_each(|window| captions.push_window(window));
        assert_eq!(captions.count(), (2, 0));
        let cut = captions.cut(&late(3_000_000, 9_000_000, &[(2, 4)]));
        assert!(cut.webvtt().contains("00:00:00.000 --> 00:00:04.000\n<v Amara>second"), "{}", cut.webvtt());
        assert_eq!(cut.count(), (1, 0));
        let silent = captions.cut(&late(0, 9_000_000, &[(0, 1), (3, 9)]));
        assert!(silent.webvtt().contains("00:00:01.000 --> 00:00:02.000\n<v Amara>second"), "{}", silent.webvtt());
        assert_eq!(silent.count(), (1, 0), "who speaks in what is left out is not told of");
        assert_eq!(captions.cut(&late(499_500, 1_000_000, &[])).count(), (0, 0), "half a millisecond is none");
        assert_eq!(captions.cut(&late(498_500, 1_000_000, &[])).count(), (1, 0));
        assert_eq!(
            captions.webvtt(),
            "WEBVTT\n\n00:00:00.000 --> 00:00:00.500\n<v bjorn>first &amp; best</v>\n\n\
             00:00:02.000 --> 01:01:01.500\n<v Amara>second 00:00 --&gt; 00:01 &lt;b&gt;</v>\n"
        );
        assert_eq!(
            captions.srt(),
            "1\n00:00:00,000 --> 00:00:00,500\nbjorn: first & best\n\n\
             2\n00:00:02,000 --> 01:01:01,500\nAmara: second 00:00 --› 00:01 ‹b›\n\n"
        );
    }
}
