//! The HLS media playlist of a composite (RFC 8216): growing while the room talks, on demand once it has ended.
//!
//! Owns the text. Does not own when slices come, nor where the playlist is stored.

use std::fmt::Write as _;
use std::time::Duration;

use roomreel_shared::late::Cuts;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The slices of a composite so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Playlist {
    target: Duration,
    start: OffsetDateTime,
    cuts: Cuts,
    slices: Vec<Duration>,
    ended: bool,
}

impl Playlist {
    /// Of what began at `start`, with slices that are to be `target` long and lack what `cuts` leave out.
    #[must_use]
    pub fn new(start: OffsetDateTime, target: Duration, cuts: Cuts) -> Self {
        Self { target, start, cuts, slices: Vec::new(), ended: false }
    }

    /// Adds the next slice.
    pub fn push(&mut self, duration: Duration) {
        self.slices.push(duration);
    }

    /// No slice follows.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Slices so far.
    #[must_use]
    pub fn slices(&self) -> u64 {
        self.slices.len() as u64
    }

    /// The playlist's text. Names are relative to it: it lies beside the slices.
    #[must_use]
    pub fn render(&self) -> String {
        // No duration may round to more than the target (§4.3.3.1), which may not change while the list grows.
        let longest = self.slices.iter().copied().max().unwrap_or_default().max(self.target);
        let target_s = longest.as_secs_f64().ceil() as u64;
        let mut text = String::with_capacity(256 + 40 * self.slices.len());
        let kind = if self.ended { "VOD" } else { "EVENT" };
        let _ = write!(
            text,
            "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:{target_s}\n#EXT-X-MEDIA-SEQUENCE:0\n#EXT-X-PLAYLIST-TYPE:{kind}\n\
             #EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-MAP:URI=\"init.mp4\"\n"
        );
        let (mut shown, mut told) = (Duration::ZERO, None);
        for (number, duration) in self.slices.iter().enumerate() {
            // Once, and again behind what is left out.
            let left_out = self.cuts.source_at(shown).saturating_sub(shown);
            let left_out = Duration::from_secs(left_out.as_secs_f64().round() as u64);
            let date = time::Duration::try_from(shown + left_out).ok().and_then(|at| self.start.checked_add(at));
            if told.replace(left_out) != Some(left_out)
                && let Some(Ok(date)) = date.map(|date| date.format(&Rfc3339))
            {
                let _ = writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:{date}");
            }
            shown += *duration;
            let _ = write!(text, "#EXTINF:{:.6},\n{number:08}.m4s\n", duration.as_secs_f64());
        }
        if self.ended {
            text.push_str("#EXT-X-ENDLIST\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn playlist(slices_ms: &[u64], ended: bool) -> String {
        let mut playlist = Playlist::new(OffsetDateTime::UNIX_EPOCH, Duration::from_millis(4000), Cuts::default());
        slices_ms.iter().for_each(|&ms| playlist.push(Duration::from_millis(ms)));
        if ended {
            playlist.end();
        }
        playlist.render()
    }

    #[test]
    fn grows_and_ends() {
        const HEAD: &str = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:4\n#EXT-X-MEDIA-SEQUENCE:0\n";
        const MAP: &str = "#EXT-X-INDEPENDENT-SEGMENTS\n#EXT-X-MAP:URI=\"init.mp4\"\n";
        const DATE: &str = "#EXT-X-PROGRAM-DATE-TIME:1970-01-01T00:00:00Z\n";
        for (slices_ms, ended, tail) in [
            (&[][..], false, String::new()),
            (&[4000], false, format!("{DATE}#EXTINF:4.000000,\n00000000.m4s\n")),
            (
                &[4000, 1234],
                true,
                format!("{DATE}#EXTINF:4.000000,\n00000000.m4s\n#EXTINF:1.234000,\n00000001.m4s\n#EXT-X-ENDLIST\n"),
            ),
        ] {
            let kind = if ended { "VOD" } else { "EVENT" };
            assert_eq!(playlist(slices_ms, ended), format!("{HEAD}#EXT-X-PLAYLIST-TYPE:{kind}\n{MAP}{tail}"));
        }
    }

    #[test]
    fn what_is_left_out_has_passed_on_the_wall() {
        let cuts = Cuts::try_from(vec![(5, 65), (100, 3600)]).expect("in order");
        let mut playlist = Playlist::new(OffsetDateTime::UNIX_EPOCH, Duration::from_millis(4000), cuts);
        // As long as frames make them.
        [4_000_000, 4_033_333, 4_000_000].iter().for_each(|&us| playlist.push(Duration::from_micros(us)));
        let text = playlist.render();
        let dates: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("#EXT-X-PROGRAM-DATE-TIME:")).collect();
        assert_eq!(dates, ["1970-01-01T00:00:00Z", "1970-01-01T00:01:08.033333Z"], "{text}");
    }

    #[test]
    fn a_growing_list_keeps_what_it_said() {
        let (one, two) = (playlist(&[4000], false), playlist(&[4000, 4000], false));
        assert!(two.starts_with(&one), "{two}");
        assert!(playlist(&[4500], false).contains("TARGETDURATION:5\n"));
    }
}
