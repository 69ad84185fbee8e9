//! The HLS media playlist of a composite (RFC 8216): growing while the room talks, on demand once it has ended.
//!
//! Owns the text. Does not own when slices come, nor where the playlist is stored.

use std::fmt::Write as _;
use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The slices of a composite so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Playlist {
    target: Duration,
    start: OffsetDateTime,
    slices: Vec<Duration>,
    ended: bool,
}

impl Playlist {
    /// Of a recording that began at `start`, with slices that are to be `target` long.
    #[must_use]
    pub fn new(start: OffsetDateTime, target: Duration) -> Self {
        Self { target, start, slices: Vec::new(), ended: false }
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
        if let Ok(start) = self.start.format(&Rfc3339)
            && !self.slices.is_empty()
        {
            let _ = writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:{start}");
        }
        for (number, duration) in self.slices.iter().enumerate() {
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
        let mut playlist = Playlist::new(OffsetDateTime::UNIX_EPOCH, Duration::from_millis(4000));
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
    fn a_growing_list_keeps_what_it_said() {
        let (one, two) = (playlist(&[4000], false), playlist(&[4000, 4000], false));
        assert!(two.starts_with(&one), "{two}");
        assert!(playlist(&[4500], false).contains("TARGETDURATION:5\n"));
    }
}
