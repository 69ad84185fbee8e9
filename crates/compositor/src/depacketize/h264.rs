//! H.264 (RFC 6184): single units, STAP-A, FU-A; packetization modes 0 and 1.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::annex_b::{self, AnnexB};
use super::bits::BitReader;
use super::marks::{Count, Marks};
use super::{CodedPicture, Malformed};

const CODEC: &str = "H.264";
const IDR: u8 = 5;
const SPS: u8 = 7;
const PPS: u8 = 8;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;
/// Longest parameter set that is kept; real ones have tens of bytes.
const MAX_PARAMETER_SET_BYTES: usize = 4096;

/// The parameter sets that were sent last, by id: some senders send them once and not with each key picture.
#[derive(Debug, Clone, Default)]
pub struct ParameterSets {
    sequence: BTreeMap<u32, Vec<u8>>,
    picture: BTreeMap<u32, Vec<u8>>,
    /// The size that the newest sequence parameter set says.
    size: Option<(u32, u32)>,
}

/// What was seen in one picture.
#[derive(Default)]
struct Seen {
    idr: bool,
    sequence_parameters: bool,
}

const fn malformed(why: &'static str) -> Malformed {
    Malformed { codec: CODEC, why }
}

impl ParameterSets {
    fn see(&mut self, unit: &[u8], seen: &mut Seen) {
        let Some(&header) = unit.first() else { return };
        let keep = |sets: &mut BTreeMap<u32, Vec<u8>>, id: Option<u32>, limit: u32| {
            if let Some(id) = id.filter(|id| *id < limit && unit.len() <= MAX_PARAMETER_SET_BYTES) {
                sets.insert(id, unit.to_vec());
            }
        };
        match header & 0x1f {
            IDR => seen.idr = true,
            SPS => {
                seen.sequence_parameters = true;
                let parameters = SequenceParameters::parse(unit);
                self.size = parameters.as_ref().map(|parameters| parameters.size).or(self.size);
                keep(&mut self.sequence, parameters.map(|parameters| parameters.id), 32);
            }
            PPS => keep(&mut self.picture, BitReader::new(&unit[1..]).exp_golomb(), 256),
            _ => {}
        }
    }

    pub(super) fn picture(&mut self, payloads: &[Bytes]) -> Result<CodedPicture, Malformed> {
        let mut picture = AnnexB::new(CODEC);
        let mut seen = Seen::default();
        for payload in payloads {
            let (&indicator, rest) = payload.split_first().ok_or(malformed("a payload is empty"))?;
            match indicator & 0x1f {
                1..=23 => {
                    self.see(payload, &mut seen);
                    picture.unit(payload)?;
                }
                STAP_A => {
                    for unit in annex_b::aggregated(rest).ok_or(malformed("an aggregate is cut off"))? {
                        self.see(unit, &mut seen);
                        picture.unit(unit)?;
                    }
                }
                FU_A => {
                    let (&fragment, part) = rest.split_first().ok_or(malformed("a fragment has no header"))?;
                    let header = indicator & 0xe0 | fragment & 0x1f;
                    seen.idr |= header & 0x1f == IDR;
                    picture.fragment(&[header], fragment & 0x80 != 0, fragment & 0x40 != 0, part)?;
                }
                _ => return Err(malformed("a packet type of packetization mode 2, or none")),
            }
        }
        let add_kept = seen.idr && !seen.sequence_parameters;
        let kept = self.sequence.values().chain(self.picture.values()).map(Vec::as_slice);
        let data = picture.finish(kept.filter(|_| add_kept))?;
        let is_key = seen.idr && !self.sequence.is_empty();
        Ok(CodedPicture { data: data.into(), is_key, size: self.size.filter(|_| is_key) })
    }
}

impl ParameterSets {
    /// Reference pictures are counted (section 7.4.3, frame_num): whoever is none builds on the newest of them, and nothing on it.
    pub(super) fn marks(&self, payloads: &[Bytes]) -> Option<Marks> {
        let discardable = payloads.first()?.first()? & 0x60 == 0;
        let alone = Marks { discardable, temporal: u8::from(discardable), sync: discardable, ..Marks::default() };
        let mut sets = self.sequence.values();
        let (Some(set), None) = (sets.next(), sets.next()) else { return Some(alone).filter(|_| discardable) };
        let base = SequenceParameters::parse(set).and_then(|set| set.frame_number_bits).and_then(|length| {
            let modulus = 1 << length;
            let number = payloads.iter().find_map(|payload| frame_number(payload, length))?;
            let number = if discardable { (number + modulus - 1) % modulus } else { number };
            Some(Count { number, modulus })
        });
        (base.is_some() || discardable).then_some(Marks { base, ..alone })
    }
}

/// The number in the header of the slice that a picture begins with (section 7.3.3), if it is in this payload.
fn frame_number(payload: &[u8], length: u32) -> Option<u32> {
    let (&indicator, rest) = payload.split_first()?;
    let slice = match indicator & 0x1f {
        1 | IDR => rest,
        STAP_A => annex_b::aggregated(rest)?.into_iter().find(|unit| matches!(unit[0] & 0x1f, 1 | IDR))?.get(1..)?,
        FU_A if rest.first()? & 0x80 != 0 => &rest[1..],
        _ => return None,
    };
    let raw = annex_b::unescaped(slice, 32);
    let mut bits = BitReader::new(&raw);
    // The first macroblock: any other begins a slice further down.
    if bits.exp_golomb()? != 0 {
        return None;
    }
    bits.exp_golomb()?;
    bits.exp_golomb()?;
    bits.bits(length)
}

struct SequenceParameters {
    id: u32,
    size: (u32, u32),
    /// Bits of the number that counts reference pictures; `None` if slices have something unusual before it.
    frame_number_bits: Option<u32>,
}

impl SequenceParameters {
    /// Id and picture size of a unit (H.264 section 7.3.2.1.1).
    fn parse(unit: &[u8]) -> Option<Self> {
        let raw = annex_b::unescaped(unit, 128);
        let mut bits = BitReader::new(raw.get(1..)?);
        let profile = bits.bits(8)?;
        bits.bits(16)?;
        let id = bits.exp_golomb()?;
        let mut chroma_format = 1;
        if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
            chroma_format = bits.exp_golomb()?;
            if chroma_format == 3 {
                bits.bit()?;
            }
            bits.exp_golomb()?;
            bits.exp_golomb()?;
            bits.bit()?;
            if bits.bit()? {
                for list in 0..if chroma_format == 3 { 12 } else { 8 } {
                    if bits.bit()? {
                        skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        let frame_number_bits = bits.exp_golomb()?.checked_add(4).filter(|bits| *bits <= 16 && chroma_format != 3);
        match bits.exp_golomb()? {
            0 => {
                bits.exp_golomb()?;
            }
            1 => {
                bits.bit()?;
                bits.signed_exp_golomb()?;
                bits.signed_exp_golomb()?;
                for _ in 0..bits.exp_golomb()?.min(255) {
                    bits.signed_exp_golomb()?;
                }
            }
            _ => {}
        }
        bits.exp_golomb()?;
        bits.bit()?;
        let macroblocks_wide = bits.exp_golomb()?.checked_add(1)?;
        let map_units_high = bits.exp_golomb()?.checked_add(1)?;
        let fields = 2 - u32::from(bits.bit()?);
        if fields == 2 {
            bits.bit()?;
        }
        bits.bit()?;
        let mut size = (macroblocks_wide.checked_mul(16)?, map_units_high.checked_mul(16)?.checked_mul(fields)?);
        if bits.bit()? {
            let (unit_x, unit_y) = match chroma_format {
                1 => (2, 2),
                2 => (2, 1),
                _ => (1, 1),
            };
            let mut crop = || bits.exp_golomb();
            let (left, right, top, bottom) = (crop()?, crop()?, crop()?, crop()?);
            size.0 = size.0.checked_sub(left.checked_add(right)?.checked_mul(unit_x)?)?;
            size.1 = size.1.checked_sub(top.checked_add(bottom)?.checked_mul(unit_y)?.checked_mul(fields)?)?;
        }
        Some(Self { id, size, frame_number_bits })
    }
}

fn skip_scaling_list(bits: &mut BitReader<'_>, entries: u32) -> Option<()> {
    let (mut last, mut next) = (8_i64, 8_i64);
    for _ in 0..entries {
        if next != 0 {
            next = (last + bits.signed_exp_golomb()?).rem_euclid(256);
        }
        if next != 0 {
            last = next;
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Baseline 640x360: 40 x 23 macroblocks, 8 rows cropped.
    const SPS_640_360: [u8; 10] = [0x67, 0x42, 0xc0, 0x1f, 0xda, 0x02, 0x80, 0xbf, 0xe5, 0xc0];

    fn bytes(parts: &[&[u8]]) -> Bytes {
        parts.concat().into()
    }

    #[test]
    fn aggregates_and_fragments_become_annex_b() {
        let mut kept = ParameterSets::default();
        let pps = [0x68, 0xce, 0x3c, 0x80];
        let stap = bytes(&[&[0x78, 0, 10], &SPS_640_360, &[0, 4], &pps]);
        let start = Bytes::from_static(&[0x7c, 0x85, 1, 2]);
        let end = Bytes::from_static(&[0x7c, 0x45, 3]);
        let picture = kept.picture(&[stap, start, end]).expect("well formed");
        let code = [0, 0, 0, 1];
        assert_eq!(picture.data, [&code[..], &SPS_640_360, &code, &pps, &code, &[0x65, 1, 2, 3]].concat());
        assert!(picture.is_key);
        assert_eq!(picture.size, Some((640, 360)));

        let alone = kept.picture(&[Bytes::from_static(&[0x65, 9])]).expect("well formed");
        assert_eq!(alone.data, [&code[..], &SPS_640_360, &code, &pps, &code, &[0x65, 9]].concat());
        assert!(alone.is_key, "the kept parameter sets make it decodable");
        assert_eq!(alone.size, Some((640, 360)));
        assert!(!kept.picture(&[Bytes::from_static(&[0x41, 9])]).expect("well formed").is_key);
    }

    #[test]
    fn reference_pictures_are_counted() {
        let mut kept = ParameterSets::default();
        let pps = [0x68, 0xce, 0x3c, 0x80];
        let stap = bytes(&[&[0x78, 0, 10], &SPS_640_360, &[0, 4], &pps, &[0, 2, 0x65, 0x88]]);
        kept.picture(&[stap]).expect("well formed");
        let length = SequenceParameters::parse(&SPS_640_360).and_then(|set| set.frame_number_bits);
        let Some(length @ 4..=16) = length else { panic!("{length:?}") };
        // First macroblock 0, slice type 5 (00110), picture parameters 0, then the number 3.
        let slice = |header: u8, number: u32| {
            let bits = format!("100110{}{number:0width$b}10000000000000000", 1, width = length as usize);
            let coded = bits
                .as_bytes()
                .chunks_exact(8)
                .map(|byte| byte.iter().fold(0_u8, |value, bit| value << 1 | (bit - b'0')));
            Bytes::from_iter([header].into_iter().chain(coded))
        };
        let marks = kept.marks(&[slice(0x41, 3)]).expect("told");
        assert_eq!((marks.discardable, marks.base), (false, Some(Count { number: 3, modulus: 1 << length })));
        let marks = kept.marks(&[slice(0x01, 3)]).expect("told");
        assert_eq!((marks.discardable, marks.sync, marks.base.map(|base| base.number)), (true, true, Some(2)));
        assert_eq!(kept.marks(&[Bytes::from_static(&[0x41, 0x40])]), None, "not its first slice");
        assert_eq!(ParameterSets::default().marks(&[slice(0x41, 3)]), None);
    }

    #[test]
    fn without_parameter_sets_nothing_is_a_key() {
        assert!(!ParameterSets::default().picture(&[Bytes::from_static(&[0x65, 9])]).expect("well formed").is_key);
    }

    #[test]
    fn refusals() {
        for payloads in [
            vec![],
            vec![Bytes::new()],
            vec![Bytes::from_static(&[0x78])],
            vec![Bytes::from_static(&[0x78, 0, 9, 1])],
            vec![Bytes::from_static(&[0x7c, 0x05, 1])],
            vec![Bytes::from_static(&[0x7c, 0x85, 1])],
            vec![Bytes::from_static(&[0x7c, 0x85, 1]), Bytes::from_static(&[0x41, 1])],
            vec![Bytes::from_static(&[0x7d, 1, 1])],
        ] {
            assert!(ParameterSets::default().picture(&payloads).is_err(), "{payloads:?}");
        }
    }
}
