//! H.265 (RFC 7798) as WebRTC sends it: single units, aggregation and fragmentation, no decoding order numbers.

mod references;

use bytes::Bytes;

use super::annex_b::{self, AnnexB};
use super::marks::Marks;
use super::{CodedPicture, Malformed};
use references::{Picture, Sequence};

const CODEC: &str = "H.265";
const INTRA_RANDOM_ACCESS: std::ops::RangeInclusive<u8> = 16..=23;
const SLICES: std::ops::RangeInclusive<u8> = 0..=31;
const PARAMETER_SETS: std::ops::RangeInclusive<u8> = 32..=34;
const SEQUENCE: u8 = 33;
const PICTURE: u8 = 34;
const AGGREGATION: u8 = 48;
const FRAGMENTATION: u8 = 49;
const MAX_PARAMETER_SET_BYTES: usize = 4096;

/// The video, sequence and picture parameter sets that were sent last.
#[derive(Debug, Clone, Default)]
pub struct ParameterSets {
    kept: [Option<Vec<u8>>; 3],
    /// What slice headers are read by.
    sequence: Option<Sequence>,
    picture: Option<Picture>,
    /// Several of a kind are in use, and only the newest is known: slices cannot be read.
    has_several: bool,
}

const fn malformed(why: &'static str) -> Malformed {
    Malformed { codec: CODEC, why }
}

const fn unit_type(header: u8) -> u8 {
    header >> 1 & 0x3f
}

/// Type of the unit and what stands behind its header, of the first slice that begins in a payload.
fn first_slice(payload: &[u8]) -> Option<(u8, &[u8])> {
    let (&[first, _], rest) = payload.split_first_chunk()?;
    let (found, slice) = match unit_type(first) {
        AGGREGATION => {
            let units = annex_b::aggregated(rest)?;
            let unit = units.into_iter().find(|unit| SLICES.contains(&unit_type(unit[0])))?;
            (unit_type(unit[0]), unit.get(2..)?)
        }
        FRAGMENTATION if rest.first()? & 0x80 != 0 => (rest[0] & 0x3f, &rest[1..]),
        other => (other, rest),
    };
    SLICES.contains(&found).then_some((found, slice))
}

/// Whether a slice is the first of its picture (first_slice_segment_in_pic_flag).
fn begins_picture(slice: &[u8]) -> bool {
    slice.first().is_some_and(|byte| byte & 0x80 != 0)
}

impl ParameterSets {
    /// Keeps a whole unit, if it is a parameter set.
    fn keep(&mut self, unit: &[u8]) {
        let set = unit.first().map(|header| unit_type(*header)).filter(|found| PARAMETER_SETS.contains(found));
        let is_short = unit.len() <= MAX_PARAMETER_SET_BYTES;
        if let Some(set) = set.filter(|_| is_short) {
            self.kept[usize::from(set - PARAMETER_SETS.start())] = Some(unit.to_vec());
        }
        match set {
            Some(SEQUENCE) => {
                let read = Sequence::parse(unit).filter(|_| is_short);
                let before = std::mem::replace(&mut self.sequence, read);
                self.has_several |= before.zip(self.sequence.as_ref()).is_some_and(|(before, now)| before.id != now.id);
            }
            Some(PICTURE) => {
                let read = Picture::parse(unit).filter(|_| is_short);
                let before = std::mem::replace(&mut self.picture, read);
                self.has_several |= before.zip(self.picture).is_some_and(|(before, now)| before.id != now.id);
            }
            _ => {}
        }
    }

    /// Which pictures it builds on, and which are kept at all. Of a picture whose beginning is missing nothing but that there is such a list.
    pub(super) fn marks(&self, payloads: &[Bytes]) -> Option<Marks> {
        let (sequence, picture) = self.sequence.as_ref().zip(self.picture.as_ref()).filter(|_| !self.has_several)?;
        let slice = payloads.iter().find_map(|payload| first_slice(payload));
        let told = slice.and_then(|(unit_type, slice)| picture.marks(sequence, unit_type, slice));
        Some(told.unwrap_or_else(|| Marks { references: Some(Vec::new()), ..Marks::default() }))
    }

    pub(super) fn picture(&mut self, payloads: &[Bytes]) -> Result<CodedPicture, Malformed> {
        let mut picture = AnnexB::new(CODEC);
        let (mut random_access, mut own_parameters, mut in_fragments) = (false, false, false);
        let begins =
            payloads.iter().find_map(|payload| first_slice(payload)).is_none_or(|(_, slice)| begins_picture(slice));
        if !begins {
            return Err(malformed("its first slice is missing"));
        }
        let mut see = |header: u8| {
            random_access |= INTRA_RANDOM_ACCESS.contains(&unit_type(header));
            own_parameters |= PARAMETER_SETS.contains(&unit_type(header));
        };
        for payload in payloads {
            let (&[first, second], rest) = payload.split_first_chunk().ok_or(malformed("a payload has no header"))?;
            match unit_type(first) {
                AGGREGATION => {
                    for unit in annex_b::aggregated(rest).ok_or(malformed("an aggregate is cut off"))? {
                        see(unit[0]);
                        self.keep(unit);
                        picture.unit(unit)?;
                    }
                }
                FRAGMENTATION => {
                    let (&fragment, part) = rest.split_first().ok_or(malformed("a fragment has no header"))?;
                    let header = [first & 0x81 | (fragment & 0x3f) << 1, second];
                    see(header[0]);
                    in_fragments |= PARAMETER_SETS.contains(&unit_type(header[0]));
                    picture.fragment(&header, fragment & 0x80 != 0, fragment & 0x40 != 0, part)?;
                }
                0..=47 => {
                    see(first);
                    self.keep(payload);
                    picture.unit(payload)?;
                }
                _ => return Err(malformed("a packet type that WebRTC does not use")),
            }
        }
        let add_kept = random_access && !own_parameters;
        let data = picture.finish(self.kept.iter().flatten().map(Vec::as_slice).filter(|_| add_kept))?;
        if in_fragments {
            annex_b::units(&data).for_each(|unit| self.keep(unit));
        }
        let is_key = random_access && self.kept.iter().all(Option::is_some);
        Ok(CodedPicture { data: data.into(), is_key, size: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_picture() {
        let mut kept = ParameterSets::default();
        // An aggregate of VPS, SPS and PPS, and an IDR_W_RADL in two fragments.
        let aggregate = Bytes::from_static(&[0x60, 1, 0, 3, 0x40, 1, 7, 0, 3, 0x42, 1, 8, 0, 3, 0x44, 1, 9]);
        let start = Bytes::from_static(&[0x62, 1, 0x93, 0x81]);
        let end = Bytes::from_static(&[0x62, 1, 0x53, 2]);
        let picture = kept.picture(&[aggregate, start, end]).expect("well formed");
        assert!(picture.is_key);
        let sets = [0, 0, 0, 1, 0x40, 1, 7, 0, 0, 0, 1, 0x42, 1, 8, 0, 0, 0, 1, 0x44, 1, 9];
        assert_eq!(picture.data, [&sets[..], &[0, 0, 0, 1, 0x26, 1, 0x81, 2]].concat());
        let alone = kept.picture(&[Bytes::from_static(&[0x26, 1, 0x85])]).expect("well formed");
        assert_eq!(alone.data, [&sets[..], &[0, 0, 0, 1, 0x26, 1, 0x85]].concat());
        assert!(!kept.picture(&[Bytes::from_static(&[0x02, 1, 0x85])]).expect("well formed").is_key);
    }

    #[test]
    fn parameter_sets_in_fragments_are_kept_whole() {
        let mut kept = ParameterSets::default();
        let fragments = |set: u8| {
            [0x80, 0x40]
                .map(|place| Bytes::copy_from_slice(&[0x62, 1, place | set, if place == 0x80 { set } else { 7 }]))
        };
        let sets = [32, 33, 34].into_iter().flat_map(fragments);
        let idr = Bytes::from_static(&[0x26, 1, 0x85]);
        let picture = kept.picture(&sets.chain([idr.clone()]).collect::<Vec<_>>()).expect("well formed");
        assert!(picture.is_key);
        let alone = kept.picture(&[idr]).expect("well formed");
        assert_eq!(alone.data, picture.data, "what was sent in fragments");
        assert!(alone.is_key && alone.data.starts_with(&[0, 0, 0, 1, 0x40, 1, 32, 7, 0, 0, 0, 1, 0x42]));
    }

    #[test]
    fn refusals() {
        for payload in [
            &[][..],
            &[0x26],
            &[0x26, 1, 0x05],
            &[0x60, 1],
            &[0x60, 1, 0, 9, 1],
            &[0x62, 1],
            &[0x62, 1, 0x13, 1],
            &[0x64, 1, 1],
        ] {
            assert!(ParameterSets::default().picture(&[Bytes::copy_from_slice(payload)]).is_err(), "{payload:?}");
        }
    }
}
