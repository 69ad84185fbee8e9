//! AV1 (RTP Payload Format For AV1, version 1.0): OBU elements to a temporal unit in the low-overhead format.

use bytes::Bytes;

use super::{CodedPicture, Malformed, append};

const CODEC: &str = "AV1";
const SEQUENCE_HEADER: u8 = 1;
const TEMPORAL_DELIMITER: u8 = 2;
const FRAME_HEADER: u8 = 3;
const FRAME: u8 = 6;
const TILE_LIST: u8 = 8;
const HAS_EXTENSION: u8 = 0x04;
const HAS_SIZE: u8 = 0x02;

const fn malformed(why: &'static str) -> Malformed {
    Malformed { codec: CODEC, why }
}

/// A leb128 number (AV1 bitstream section 4.10.5) and what follows it.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0_u64;
    for (index, &byte) in bytes.iter().take(8).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((usize::try_from(value).ok()?, &bytes[index + 1..]));
        }
    }
    None
}

fn push_leb128(bytes: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// The OBU elements of a payload behind its aggregation header (section 4.4).
fn elements(payload: &[u8]) -> Option<Vec<&[u8]>> {
    let (&header, mut rest) = payload.split_first()?;
    let count = header >> 4 & 3;
    let mut elements = Vec::new();
    while !rest.is_empty() {
        let is_last = elements.len() + 1 == usize::from(count);
        let (length, tail) = if is_last { (rest.len(), rest) } else { leb128(rest)? };
        elements.push(tail.get(..length)?);
        rest = &tail[length..];
    }
    (count == 0 || elements.len() == usize::from(count)).then_some(elements)
}

pub(super) fn picture(payloads: &[Bytes]) -> Result<CodedPicture, Malformed> {
    let mut unit = vec![TEMPORAL_DELIMITER << 3 | HAS_SIZE, 0];
    let mut open = Vec::new();
    let mut continues = false;
    let mut seen = Seen::default();
    for payload in payloads {
        let header = *payload.first().ok_or(malformed("a payload is empty"))?;
        if (header & 0x80 != 0) != continues {
            return Err(malformed("a fragment does not continue what was begun"));
        }
        continues = header & 0x40 != 0;
        let elements = elements(payload).ok_or(malformed("an OBU element is cut off"))?;
        let last = elements.len().saturating_sub(1);
        for (index, element) in elements.into_iter().enumerate() {
            append(&mut open, element, CODEC)?;
            if index != last || !continues {
                push_obu(&mut unit, &open, &mut seen)?;
                open.clear();
            }
        }
    }
    if continues || unit.len() == 2 {
        return Err(malformed("the temporal unit is empty or not at its end"));
    }
    Ok(CodedPicture { data: unit.into(), is_key: seen.sequence_header && seen.key_frame, size: None })
}

/// The sequence header of a temporal unit as [`picture`] makes it, with its header and size.
pub(super) fn sequence_header(mut unit: &[u8]) -> Option<&[u8]> {
    loop {
        let &header = unit.first()?;
        let (length, body) = leb128(unit.get(1 + usize::from(header & HAS_EXTENSION != 0)..)?)?;
        let end = (unit.len() - body.len()).checked_add(length).filter(|end| *end <= unit.len())?;
        let (obu, rest) = unit.split_at(end);
        if header >> 3 & 0x0f == SEQUENCE_HEADER {
            return Some(obu);
        }
        unit = rest;
    }
}

#[derive(Default)]
struct Seen {
    sequence_header: bool,
    key_frame: bool,
}

/// Appends an OBU with a size field, which elements usually lack.
fn push_obu(unit: &mut Vec<u8>, obu: &[u8], seen: &mut Seen) -> Result<(), Malformed> {
    let Some((&header, mut rest)) = obu.split_first() else { return Ok(()) };
    let obu_type = header >> 3 & 0x0f;
    if matches!(obu_type, TEMPORAL_DELIMITER | TILE_LIST) {
        return Ok(());
    }
    let mut head = vec![header | HAS_SIZE];
    if header & HAS_EXTENSION != 0 {
        let (&extension, tail) = rest.split_first().ok_or(malformed("an OBU header is cut off"))?;
        head.push(extension);
        rest = tail;
    }
    if header & HAS_SIZE != 0 {
        let (length, tail) = leb128(rest).ok_or(malformed("an OBU size is cut off"))?;
        rest = tail.get(..length).ok_or(malformed("an OBU is shorter than it says"))?;
    }
    match obu_type {
        SEQUENCE_HEADER => seen.sequence_header = true,
        // show_existing_frame 0, frame_type 0: a key frame (section 5.9.2).
        FRAME | FRAME_HEADER => seen.key_frame |= rest.first().is_some_and(|byte| byte >> 5 == 0),
        _ => {}
    }
    push_leb128(&mut head, rest.len());
    append(unit, &head, CODEC)?;
    append(unit, rest, CODEC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_unit_over_two_packets() {
        // Two elements, the second continued: sequence header [0x08, 1, 2], frame [0x30, 0x10, 3 | 4].
        let first = Bytes::from_static(&[0x68, 3, 0x08, 1, 2, 0x30, 0x10, 3]);
        let second = Bytes::from_static(&[0x90, 4]);
        let picture = picture(&[first, second]).expect("well formed");
        assert_eq!(picture.data[..], [0x12, 0, 0x0a, 2, 1, 2, 0x32, 3, 0x10, 3, 4]);
        assert!(picture.is_key);
    }

    #[test]
    fn lengths_everywhere_and_sizes_inside() {
        // W = 0; an OBU that has a size field already and one with an extension.
        let payload = Bytes::from_static(&[0x00, 4, 0x32, 2, 0x30, 9, 3, 0x34, 0x08, 0x20]);
        let picture = picture(&[payload]).expect("well formed");
        assert_eq!(picture.data[..], [0x12, 0, 0x32, 2, 0x30, 9, 0x36, 0x08, 1, 0x20]);
        assert!(!picture.is_key);
    }

    #[test]
    fn refusals() {
        for payload in
            [&[][..], &[0x00], &[0x80, 1, 1], &[0x50, 0x30, 1], &[0x00, 9, 1], &[0x20, 1, 0x30], &[0x10, 0x32, 9]]
        {
            assert!(picture(&[Bytes::copy_from_slice(payload)]).is_err(), "{payload:?}");
        }
    }
}
