//! NAL units with start codes (H.264 and H.265 annex B), and the aggregation that both payload formats share.

use super::{MAX_PICTURE_BYTES, Malformed, append};

const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// NAL units of one picture, each behind a start code.
pub(super) struct AnnexB {
    codec: &'static str,
    bytes: Vec<u8>,
    in_fragment: bool,
}

impl AnnexB {
    pub(super) fn new(codec: &'static str) -> Self {
        Self { codec, bytes: Vec::new(), in_fragment: false }
    }

    fn malformed(&self, why: &'static str) -> Malformed {
        Malformed { codec: self.codec, why }
    }

    /// Appends a whole unit.
    pub(super) fn unit(&mut self, unit: &[u8]) -> Result<(), Malformed> {
        if self.in_fragment {
            return Err(self.malformed("a fragmented unit has no end"));
        }
        append(&mut self.bytes, &START_CODE, self.codec)?;
        append(&mut self.bytes, unit, self.codec)
    }

    /// Appends a fragment of a unit; `header` is the unit's, rebuilt.
    pub(super) fn fragment(&mut self, header: &[u8], start: bool, end: bool, part: &[u8]) -> Result<(), Malformed> {
        if start == self.in_fragment || (start && end) {
            return Err(self.malformed("fragments of a unit are not start, middle, end"));
        }
        if start {
            append(&mut self.bytes, &START_CODE, self.codec)?;
            append(&mut self.bytes, header, self.codec)?;
        }
        self.in_fragment = !end;
        append(&mut self.bytes, part, self.codec)
    }

    /// The picture, behind the units in `before`.
    pub(super) fn finish<'a>(self, before: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, Malformed> {
        if self.in_fragment {
            return Err(self.malformed("a fragmented unit has no end"));
        }
        if self.bytes.is_empty() {
            return Err(self.malformed("the picture has no units"));
        }
        let mut picture: Vec<u8> = before.flat_map(|unit| START_CODE.iter().chain(unit)).copied().collect();
        if picture.is_empty() {
            return Ok(self.bytes);
        }
        debug_assert!(picture.len() < MAX_PICTURE_BYTES, "parameter sets are bounded");
        picture.extend(self.bytes);
        Ok(picture)
    }
}

/// The units of an aggregation packet: 16 bits of length before each. `None` if one is empty or cut off.
pub(super) fn aggregated(mut units: &[u8]) -> Option<Vec<&[u8]>> {
    let mut found = Vec::new();
    while !units.is_empty() {
        let (length, rest) = units.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        if length == 0 {
            return None;
        }
        found.push(rest.get(..length)?);
        units = &rest[length..];
    }
    (!found.is_empty()).then_some(found)
}

/// The units of a picture with start codes.
pub(super) fn units(picture: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = picture;
    std::iter::from_fn(move || {
        let begin = rest.windows(3).position(|bytes| bytes == [0, 0, 1])? + 3;
        let unit = &rest[begin..];
        let end = unit.windows(3).position(|bytes| bytes == [0, 0, 1]).unwrap_or(unit.len());
        rest = &unit[end..];
        // A unit does not end with a zero byte: what does is the longer form of the next start code.
        Some(&unit[..end - unit[..end].iter().rev().take_while(|byte| **byte == 0).count()])
    })
}

/// A unit without its emulation prevention bytes, as far as `limit` bytes.
pub(super) fn unescaped(unit: &[u8], limit: usize) -> Vec<u8> {
    let mut raw = Vec::with_capacity(unit.len().min(limit));
    for &byte in unit.iter().take(limit) {
        if !(byte == 3 && raw.ends_with(&[0, 0])) {
            raw.push(byte);
        }
    }
    raw
}
