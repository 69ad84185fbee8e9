//! VP8 (RFC 7741).

use bytes::Bytes;

use super::marks::{Count, Marks};
use super::{CodedPicture, Malformed, append};

const CODEC: &str = "VP8";

const fn malformed(why: &'static str) -> Malformed {
    Malformed { codec: CODEC, why }
}

/// A payload descriptor (section 4.2) and the bytes behind it.
struct Part<'a> {
    starts_picture: bool,
    marks: Marks,
    data: &'a [u8],
}

fn part(payload: &[u8]) -> Option<Part<'_>> {
    let (&first, mut rest) = payload.split_first()?;
    let mut take = || {
        let (&byte, tail) = rest.split_first()?;
        rest = tail;
        Some(byte)
    };
    let mut marks = Marks { discardable: first & 0x20 != 0, ..Marks::default() };
    if first & 0x80 != 0 {
        let extended = take()?;
        if extended & 0x80 != 0 {
            marks.picture = Some(Count::of_picture(&mut take)?);
        }
        if extended & 0x40 != 0 {
            marks.base = Some(Count { number: u32::from(take()?), modulus: 0x100 });
        }
        if extended & 0x30 != 0 {
            let layer = take()?;
            if extended & 0x20 != 0 {
                (marks.temporal, marks.sync) = (layer >> 6, layer & 0x20 != 0);
            }
        }
    }
    Some(Part { starts_picture: first & 0x10 != 0 && first & 0x0f == 0, marks, data: rest })
}

/// Every packet of a picture says the same of it.
pub(super) fn marks(payloads: &[Bytes]) -> Option<Marks> {
    Some(part(payloads.first()?)?.marks)
}

pub(super) fn picture(payloads: &[Bytes]) -> Result<CodedPicture, Malformed> {
    let mut data = Vec::with_capacity(payloads.iter().map(Bytes::len).sum());
    for (index, payload) in payloads.iter().enumerate() {
        let part = part(payload).ok_or(malformed("the payload descriptor is cut off"))?;
        if part.starts_picture != (index == 0) {
            return Err(malformed("the start of a partition 0 is not where a picture begins"));
        }
        append(&mut data, part.data, CODEC)?;
    }
    // The frame tag (RFC 6386 section 9.1): an even first byte says key frame; start code and size follow it.
    let is_key = data.first().ok_or(malformed("the picture is empty"))? & 1 == 0;
    let size = match data.get(3..10) {
        Some(&[0x9d, 0x01, 0x2a, w0, w1, h0, h1]) if is_key => {
            let pixels = |low, high| u32::from(u16::from_le_bytes([low, high]) & 0x3fff);
            Some((pixels(w0, w1), pixels(h0, h1)))
        }
        _ if is_key => return Err(malformed("a key frame has no start code")),
        _ => None,
    };
    Ok(CodedPicture { data: data.into(), is_key, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_picture_of_two_packets() {
        let key = [0x10, 0, 0, 0x9d, 0x01, 0x2a, 0x80, 0x02, 0x68, 0x01];
        let first = [&[0x90, 0x80, 0x81, 0x02][..], &key].concat();
        let second = vec![0x80, 0x80, 0x81, 0x02, 7, 8];
        let picture = picture(&[first.into(), second.into()]).expect("well formed");
        assert_eq!(picture.data, [&key[..], &[7, 8]].concat());
        assert!(picture.is_key);
        assert_eq!(picture.size, Some((640, 360)));
    }

    #[test]
    fn layers_are_told() {
        // X, not a reference, start; picture 0x1234, base 7, layer 2 and sync.
        let payload = Bytes::from_static(&[0xb0, 0xe0, 0x92, 0x34, 7, 0xa0, 1, 2]);
        let marks = marks(&[payload]).expect("well formed");
        assert_eq!((marks.discardable, marks.temporal, marks.sync), (true, 2, true));
        assert_eq!(marks.picture, Some(Count { number: 0x1234, modulus: 0x8000 }));
        assert_eq!(marks.base, Some(Count { number: 7, modulus: 256 }));
        assert_eq!(super::marks(&[Bytes::from_static(&[0x10, 1])]), Some(Marks::default()));
    }

    #[test]
    fn refusals() {
        for payloads in [
            vec![],
            vec![Bytes::new()],
            vec![Bytes::from_static(&[0x90, 0x80])],
            vec![Bytes::from_static(&[0x00, 1, 2])],
            vec![Bytes::from_static(&[0x10, 1, 2]), Bytes::from_static(&[0x10, 1, 2])],
            vec![Bytes::from_static(&[0x10, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7])],
        ] {
            assert!(picture(&payloads).is_err(), "{payloads:?}");
        }
        assert!(!picture(&[Bytes::from_static(&[0x10, 1, 2])]).expect("an inter frame").is_key);
    }
}
