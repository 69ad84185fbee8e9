//! H.264 (RFC 6184): single units, STAP-A, FU-A; packetization modes 0 and 1.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::annex_b::{self, AnnexB};
use super::bits::BitReader;
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
#[derive(Debug, Default)]
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

struct SequenceParameters {
    id: u32,
    size: (u32, u32),
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
        bits.exp_golomb()?;
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
        Some(Self { id, size })
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
