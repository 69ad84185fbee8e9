//! VP9 (RFC 9628). Spatial layers of one picture become a superframe (VP9 bitstream, annex B).

use bytes::Bytes;

use super::bits::BitReader;
use super::marks::{Count, Marks};
use super::{CodedPicture, Malformed, append};

const CODEC: &str = "VP9";
/// What a superframe index can hold.
const MAX_LAYERS: usize = 8;

const fn malformed(why: &'static str) -> Malformed {
    Malformed { codec: CODEC, why }
}

/// A payload descriptor (section 4.2) and the bytes behind it.
struct Part<'a> {
    starts_layer: bool,
    inter_predicted: bool,
    spatial_layer: u8,
    /// It builds on the layer below it in the same picture.
    inter_layer: bool,
    ends_layer: bool,
    /// Of the spatial layers, from the lowest on, where it tells them.
    sizes: Vec<(u32, u32)>,
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
    let has = |bit: u8| first & bit != 0;
    let (inter_predicted, flexible) = (has(0x40), has(0x10));
    let mut marks = Marks::default();
    if has(0x80) {
        marks.picture = Some(Count::of_picture(&mut take)?);
    }
    let (mut spatial_layer, mut inter_layer) = (0, false);
    if has(0x20) {
        let layer = take()?;
        (marks.temporal, marks.switches_up) = (layer >> 5, layer & 0x10 != 0);
        (spatial_layer, inter_layer) = (layer >> 1 & 7, layer & 1 != 0);
        if !flexible {
            marks.base = Some(Count { number: u32::from(take()?), modulus: 0x100 });
        }
    }
    if flexible {
        let mut references = Vec::new();
        let mut more = inter_predicted;
        while more {
            let reference = take()?;
            references.push(u32::from(reference >> 1));
            more = reference & 1 != 0;
            if more && references.len() == 3 {
                return None;
            }
        }
        marks.references = Some(references);
    }
    let mut sizes = Vec::new();
    if has(0x02) {
        let structure = take()?;
        if structure & 0x10 != 0 {
            for _ in 0..=structure >> 5 {
                let mut side = || Some(u32::from(take()?) << 8 | u32::from(take()?));
                sizes.push((side()?, side()?));
            }
        }
        if structure & 0x08 != 0 {
            for _ in 0..take()? {
                for _ in 0..take()? >> 2 & 3 {
                    take()?;
                }
            }
        }
    }
    let (starts_layer, ends_layer) = (has(0x08), has(0x04));
    Some(Part { starts_layer, inter_predicted, spatial_layer, inter_layer, ends_layer, sizes, marks, data: rest })
}

/// What a picture builds on is what its layers build on together.
pub(super) fn marks(payloads: &[Bytes]) -> Option<Marks> {
    let mut parts = payloads.iter().map(|payload| Some(part(payload)?.marks));
    let mut all = parts.next()??;
    for marks in parts {
        let (known, more) = (all.references.as_mut(), marks?.references);
        if let Some((known, more)) = known.zip(more) {
            known.extend(more);
            known.sort_unstable();
            known.dedup();
        }
    }
    Some(all)
}

/// Width and height in an uncompressed header of profile 0 (VP9 bitstream section 6.2) that begins a key frame.
fn key_size(data: &[u8]) -> Option<(u32, u32)> {
    const SYNC_CODE: u32 = 0x0049_8342;
    const RGB: u32 = 7;
    let mut header = BitReader::new(data);
    // Frame marker 2, profile 0, no existing frame shown, frame type key; then two flags and the sync code.
    if header.bits(6)? != 0b10_0000 {
        return None;
    }
    header.bits(2)?;
    if header.bits(24)? != SYNC_CODE {
        return None;
    }
    if header.bits(3)? != RGB {
        header.bit()?;
    }
    Some((header.bits(16)? + 1, header.bits(16)? + 1))
}

/// Where a payload belongs.
pub(super) struct InLayer {
    pub(super) spatial: usize,
    /// It ends its layer of the picture.
    pub(super) is_last: bool,
    /// The layer builds on no picture before this one.
    pub(super) begins_anew: bool,
}

/// To which spatial layer a payload belongs.
pub(super) fn layer(payload: &[u8]) -> Option<InLayer> {
    part(payload).map(|part| InLayer {
        spatial: usize::from(part.spatial_layer),
        is_last: part.ends_layer,
        begins_anew: !part.inter_predicted,
    })
}

pub(super) fn picture(payloads: &[Bytes]) -> Result<CodedPicture, Malformed> {
    let mut data = Vec::with_capacity(payloads.iter().map(Bytes::len).sum());
    let mut layer_starts = Vec::new();
    let mut is_key = false;
    let mut told_size = None;
    let mut sizes = Vec::new();
    for (index, payload) in payloads.iter().enumerate() {
        let part = part(payload).ok_or(malformed("the payload descriptor is cut off"))?;
        if index == 0 {
            if !part.starts_layer {
                return Err(malformed("the first packet does not start a layer"));
            }
            if part.inter_layer {
                return Err(malformed("the layer that the first one builds on is missing"));
            }
            is_key = !part.inter_predicted && part.spatial_layer == 0;
        }
        if part.starts_layer {
            layer_starts.push(data.len());
        }
        append(&mut data, part.data, CODEC)?;
        if !part.sizes.is_empty() {
            sizes = part.sizes;
        }
        // Layers above the lowest have no key frames of their own: their sizes are in the structure.
        told_size = sizes.get(usize::from(part.spatial_layer)).copied();
    }
    if data.is_empty() || layer_starts.len() > MAX_LAYERS {
        return Err(malformed("the picture is empty or has more layers than a superframe"));
    }
    let size = told_size.or_else(|| key_size(&data)).filter(|_| is_key);
    if layer_starts.len() > 1 {
        append_superframe_index(&mut data, &layer_starts);
    }
    Ok(CodedPicture { data: data.into(), is_key, size })
}

fn append_superframe_index(data: &mut Vec<u8>, starts: &[usize]) {
    const BYTES_PER_SIZE: u8 = 4;
    let marker = 0b1100_0000 | (BYTES_PER_SIZE - 1) << 3 | (starts.len() - 1) as u8;
    let ends = starts[1..].iter().copied().chain([data.len()]);
    let sizes: Vec<u32> = starts.iter().zip(ends).map(|(start, end)| (end - start) as u32).collect();
    data.push(marker);
    data.extend(sizes.into_iter().flat_map(u32::to_le_bytes));
    data.push(marker);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An uncompressed header of a 640x360 key frame.
    fn key_header() -> Vec<u8> {
        // 10 00 0 0 | show 1, error resilient 0 | sync | color space 001, range 0, width 639 ...
        let mut bits = String::from("10000010");
        for byte in [0x49_u8, 0x83, 0x42] {
            bits += &format!("{byte:08b}");
        }
        bits += &format!("0010{:016b}{:016b}0000", 639, 359);
        bits.as_bytes().chunks(8).map(|byte| byte.iter().fold(0_u8, |value, bit| value << 1 | (bit - b'0'))).collect()
    }

    #[test]
    fn a_key_picture_with_its_structure() {
        let header = key_header();
        // I, L, B, V; picture id 15 bits; layer indices; structure with one layer's size and one picture group.
        let descriptor = [0xaa, 0x80, 5, 0, 1, 0x18, 2, 128, 1, 104, 1, 0x04, 1];
        let picture = picture(&[[&descriptor[..], &header].concat().into()]).expect("well formed");
        assert_eq!(picture.data, header);
        assert!(picture.is_key);
        assert_eq!(picture.size, Some((640, 360)));
    }

    #[test]
    fn layers_become_a_superframe() {
        let base = Bytes::from_static(&[0x28, 0x00, 0, 1, 2, 3]);
        let upper = Bytes::from_static(&[0x68, 0x03, 0, 4, 5]);
        let upper_end = Bytes::from_static(&[0x64, 0x03, 0, 6]);
        let picture = picture(&[base, upper, upper_end]).expect("well formed");
        let marker = 0b1101_1001;
        assert_eq!(picture.data[..], [1, 2, 3, 4, 5, 6, marker, 3, 0, 0, 0, 3, 0, 0, 0, marker]);
        assert!(picture.is_key);
    }

    #[test]
    fn layers_and_references_are_told() {
        // I, P, L, F, B; picture 5; layer 1 that switches up; 2 and 4 pictures ago. Then the layer above: 2 ago.
        let base = Bytes::from_static(&[0xf8, 5, 0x30, 5, 8, 1]);
        let upper = Bytes::from_static(&[0xf8, 5, 0x33, 4, 1]);
        assert!(picture(std::slice::from_ref(&upper)).is_err(), "its base is missing");
        let told = marks(&[base, upper]).expect("well formed");
        assert_eq!((told.temporal, told.switches_up, told.references), (1, true, Some(vec![2, 4])));
        assert_eq!((told.picture, told.base), (Some(Count { number: 5, modulus: 128 }), None));
        let told = marks(&[Bytes::from_static(&[0xe8, 0x81, 0x02, 0x40, 9, 1])]).expect("well formed");
        assert_eq!((told.temporal, told.base), (2, Some(Count { number: 9, modulus: 256 })));
        assert_eq!((told.picture.map(|picture| picture.number), told.references), (Some(0x102), None));
    }

    #[test]
    fn inter_pictures_and_refusals() {
        assert!(!picture(&[Bytes::from_static(&[0x48, 1])]).expect("an inter frame").is_key);
        for payload in [&[][..], &[0x08], &[0x00, 1], &[0x58, 1, 1, 1, 1], &[0x8a, 0x80]] {
            assert!(picture(&[Bytes::copy_from_slice(payload)]).is_err(), "{payload:?}");
        }
    }
}
