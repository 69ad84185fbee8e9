//! Slices, playlist and file of a composite, as far as their names, sizes and outermost boxes tell.

use std::collections::BTreeMap;

/// What the bucket holds of a composite.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Composite {
    /// Its id, as spelled in keys.
    pub name: String,
    /// Slices by number: bytes of media in each, `None` if it is no slice.
    pub slices: BTreeMap<u64, Option<u64>>,
    /// The header of the slices is there.
    pub has_init: bool,
    /// `live.m3u8`, if it is there.
    pub playlist: Option<String>,
    /// The whole file, if it is there: bytes of media in it, `Err` with what is wrong with its boxes.
    pub file: Option<Result<u64, String>>,
}

impl Composite {
    /// What is wrong; the recording may say that a playlist that has ended, and the file, are there.
    #[must_use]
    pub fn check(&self, has_playlist: bool, has_file: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut expected = 0;
        for (&number, media) in &self.slices {
            if number > expected {
                wrong
                    .push(format!("slices {expected} to {} are missing, and slice {number} is there (I5)", number - 1));
            }
            if media.is_none() {
                wrong.push(format!("slice {number} is not a CMAF slice"));
            }
            expected = number.saturating_add(1);
        }
        if !self.slices.is_empty() && !self.has_init {
            wrong.push("init.mp4 is missing, and there are slices".to_owned());
        }
        let ended = self.playlist.as_deref().is_some_and(|playlist| self.check_playlist(playlist, &mut wrong));
        if has_playlist && !ended {
            wrong.push("the recording is complete and live.m3u8 has no end".to_owned());
        }
        if has_file && self.file.is_none() {
            wrong.push("the recording is complete and composite.mp4 is missing".to_owned());
        }
        match &self.file {
            Some(Err(why)) => wrong.push(format!("composite.mp4: {why}")),
            Some(Ok(media)) => {
                let in_slices = self.slices.values().flatten().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
                if *media != in_slices {
                    wrong.push(format!("composite.mp4 holds {media} bytes of media and its slices {in_slices}"));
                }
            }
            None => {}
        }
        wrong
    }

    /// Answers whether the playlist has ended.
    fn check_playlist(&self, playlist: &str, wrong: &mut Vec<String>) -> bool {
        if !playlist.starts_with("#EXTM3U") {
            wrong.push("live.m3u8 is not a playlist".to_owned());
            return false;
        }
        let mut named = 0;
        for line in playlist.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
            if line != format!("{named:08}.m4s") {
                let line: String = line.chars().take(64).collect();
                wrong.push(format!("live.m3u8 names {line:?} where slice {named} was to come"));
                break;
            }
            if !self.slices.contains_key(&named) {
                wrong.push(format!("live.m3u8 names slice {named}, which is not in the bucket"));
            }
            named += 1;
        }
        let ended = playlist.lines().any(|line| line == "#EXT-X-ENDLIST");
        let slices = self.slices.len() as u64;
        if ended && named < slices {
            wrong.push(format!("live.m3u8 has ended with {named} slices and {slices} are in the bucket"));
        }
        ended
    }
}

/// The header of a box (ISO/IEC 14496-12 section 4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoxHeader {
    /// Four characters.
    pub kind: [u8; 4],
    /// Bytes of the header.
    pub header_bytes: u64,
    /// Bytes of header and content; `None`: up to the end of the file.
    pub bytes: Option<u64>,
}

/// Reads the header that `start` begins with; 16 bytes are enough for any. `None` if it is none.
#[must_use]
pub fn box_header(start: &[u8]) -> Option<BoxHeader> {
    let size = u32::from_be_bytes(start.get(..4)?.try_into().ok()?);
    let kind = start.get(4..8)?.try_into().ok()?;
    let (header_bytes, bytes) = match size {
        0 => (8, None),
        1 => (16, Some(u64::from_be_bytes(start.get(8..16)?.try_into().ok()?))),
        size => (8, Some(u64::from(size))),
    };
    bytes.is_none_or(|bytes| bytes >= header_bytes).then_some(BoxHeader { kind, header_bytes, bytes })
}

/// Bytes of media in a slice: the content of its `mdat` boxes. `None` if its boxes do not fill it or hold no `moof`.
#[must_use]
pub fn media_bytes(slice: &[u8]) -> Option<u64> {
    let (mut rest, mut media, mut has_moof) = (slice, 0, false);
    while !rest.is_empty() {
        let header = box_header(rest)?;
        let length = header.bytes.unwrap_or(rest.len() as u64);
        let content = length - header.header_bytes;
        match &header.kind {
            b"mdat" => media += content,
            b"moof" => has_moof = true,
            _ => {}
        }
        rest = rest.get(usize::try_from(length).ok()?..)?;
    }
    has_moof.then_some(media)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boxed(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        [&(content.len() as u32 + 8).to_be_bytes()[..], kind, content].concat()
    }

    fn sound() -> Composite {
        Composite {
            name: "grid".to_owned(),
            slices: [(0, Some(5)), (1, Some(7))].into(),
            has_init: true,
            playlist: Some("#EXTM3U\n#EXTINF:4,\n00000000.m4s\n#EXTINF:1,\n00000001.m4s\n#EXT-X-ENDLIST\n".to_owned()),
            file: Some(Ok(12)),
        }
    }

    #[test]
    fn media_is_what_stands_in_mdat() {
        let slice = [boxed(b"styp", b"msdh"), boxed(b"moof", b"-"), boxed(b"mdat", b"media")].concat();
        assert_eq!(media_bytes(&slice), Some(5));
        assert_eq!(media_bytes(&slice[..slice.len() - 1]), None, "cut off");
        assert_eq!(media_bytes(&boxed(b"mdat", b"media")), None, "no moof");
        assert_eq!(media_bytes(&[0, 0, 0, 7, b'm', b'd', b'a', b't']), None);
        assert_eq!(box_header(&[0, 0, 0, 1, b'm', b'd', b'a', b't', 0, 0, 0, 0, 0, 0, 0, 15]), None);
    }

    #[test]
    fn a_composite_is_looked_at_from_all_sides() {
        assert_eq!(sound().check(true, true), Vec::<String>::new());
        assert_eq!(Composite { playlist: None, file: None, ..sound() }.check(false, false), Vec::<String>::new());
        let said = |edit: &dyn Fn(&mut Composite)| {
            let mut composite = sound();
            edit(&mut composite);
            composite.check(true, true).join("; ")
        };
        assert!(said(&|c| c.slices = [(1, Some(12))].into()).contains("slices 0 to 0 are missing"));
        assert!(said(&|c| c.slices = [(0, Some(12))].into()).contains("names slice 1, which is not"));
        assert!(said(&|c| c.slices.extend([(2, Some(0))])).contains("ended with 2 slices and 3"));
        assert!(said(&|c| c.slices.extend([(1, None)])).contains("slice 1 is not a CMAF slice"));
        assert!(said(&|c| c.has_init = false).contains("init.mp4"));
        assert!(said(&|c| c.file = Some(Ok(11))).contains("11 bytes of media and its slices 12"));
        assert!(said(&|c| c.file = Some(Err("cut off".to_owned()))).contains("composite.mp4: cut off"));
        assert!(said(&|c| c.file = None).contains("composite.mp4 is missing"));
        assert!(said(&|c| c.playlist = None).contains("live.m3u8 has no end"));
        assert!(said(&|c| c.playlist = Some("#EXTM3U\n../x\n".to_owned())).contains("where slice 0 was to come"));
    }
}
