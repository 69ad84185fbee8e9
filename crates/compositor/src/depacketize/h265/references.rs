//! What a picture of H.265 builds on: each names all of those that it and later ones may still use (ITU-T H.265 section 8.3.2).
//!
//! Owns as much of the parameter sets and of slice headers as comes before those names. Does not own what follows from them. What it does
//! not understand tells nothing.

use crate::depacketize::annex_b;
use crate::depacketize::bits::BitReader;
use crate::depacketize::marks::{Count, Marks};

/// Bytes of a slice header that are read: what is read of it is shorter.
const MAX_HEADER_BYTES: usize = 512;
/// A decoder keeps no more pictures than this (section A.4.2).
const MAX_PICTURES: u32 = 16;
const MAX_SETS: u32 = 64;
const MAX_LONG_TERM: u32 = 32;
/// Furthest that one picture is counted from another.
const MAX_DISTANCE: i64 = 1 << 15;

/// A picture that is kept: how much further it is counted than the one that names it, and whether that one builds on it.
type Kept = (i64, bool);

/// Pictures that are kept: those counted lower, nearest first, and those counted higher.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Set {
    lower: Vec<Kept>,
    higher: Vec<Kept>,
}

/// What slice headers are read by, of a sequence parameter set (section 7.3.2.2).
#[derive(Debug, Clone)]
pub(super) struct Sequence {
    pub(super) id: u32,
    has_separate_planes: bool,
    count_bits: u32,
    sets: Vec<Set>,
    /// Where pictures may be kept for long: those that the sequence names, by the low bits of their count.
    long_term: Option<Vec<(u32, bool)>>,
}

/// The same of a picture parameter set (section 7.3.2.3).
#[derive(Debug, Clone, Copy)]
pub(super) struct Picture {
    pub(super) id: u32,
    sequence: u32,
    has_output_flag: bool,
    extra_bits: u32,
}

/// Bits of a number below `count`.
fn bits_below(count: usize) -> u32 {
    count.next_power_of_two().trailing_zeros()
}

fn bounded(value: u32, limit: u32) -> Option<u32> {
    Some(value).filter(|value| *value <= limit)
}

impl Set {
    /// Section 7.3.7; `before` are those of the sequence that stand before it, and in a slice all of them.
    fn read(bits: &mut BitReader<'_>, before: &[Self], is_in_slice: bool) -> Option<Self> {
        if !before.is_empty() && bits.bit()? {
            return Self::read_from_another(bits, before, is_in_slice);
        }
        let (lower, higher) = (bounded(bits.exp_golomb()?, MAX_PICTURES)?, bounded(bits.exp_golomb()?, MAX_PICTURES)?);
        let mut side = |count: u32, sign: i64| {
            let mut distance = 0;
            (0..count)
                .map(|_| {
                    distance += sign * (i64::from(bits.exp_golomb()?) + 1);
                    Some((distance, bits.bit()?)).filter(|_| distance.abs() <= MAX_DISTANCE)
                })
                .collect::<Option<Vec<Kept>>>()
        };
        let set = Self { lower: side(lower, -1)?, higher: side(higher, 1)? };
        bounded((set.lower.len() + set.higher.len()) as u32, MAX_PICTURES)?;
        Some(set)
    }

    /// As one of those before it, moved (formulas 7-61 and 7-62).
    fn read_from_another(bits: &mut BitReader<'_>, before: &[Self], is_in_slice: bool) -> Option<Self> {
        let back = if is_in_slice { bits.exp_golomb()? as usize + 1 } else { 1 };
        let other = &before[before.len().checked_sub(back)?];
        let is_negative = bits.bit()?;
        let moved = i64::from(bits.exp_golomb()?) + 1;
        let moved = if is_negative { -moved } else { moved };
        // In the order of the other one, and at last itself: whether the new picture builds on it, and else whether it is kept at all.
        let mut flags = || {
            let is_used = bits.bit()?;
            Some((is_used, is_used || bits.bit()?))
        };
        let mut kept = |distance: i64| {
            let (is_used, is_kept) = flags()?;
            Some(((distance + moved, is_used), is_kept && (distance + moved).abs() <= MAX_DISTANCE))
        };
        let mut all = Vec::new();
        for (distance, _) in other.lower.iter().chain(&other.higher).copied().chain([(0, false)]) {
            let (picture, is_kept) = kept(distance)?;
            all.extend(Some(picture).filter(|_| is_kept));
        }
        let side = |is_of: fn(&i64) -> bool| {
            let mut side: Vec<Kept> = all.iter().copied().filter(|(distance, _)| is_of(distance)).collect();
            side.sort_by_key(|(distance, _)| distance.abs());
            side
        };
        let set = Self { lower: side(|distance| *distance < 0), higher: side(|distance| *distance > 0) };
        bounded((set.lower.len() + set.higher.len()) as u32, MAX_PICTURES)?;
        Some(set)
    }
}

impl Sequence {
    /// Of a unit with its header.
    pub(super) fn parse(unit: &[u8]) -> Option<Self> {
        let raw = annex_b::unescaped(unit.get(2..)?, unit.len());
        let mut bits = BitReader::new(&raw);
        bits.bits(4)?;
        let sub_layers = bits.bits(3)?;
        bits.bit()?;
        skip_profile(&mut bits, sub_layers)?;
        let id = bounded(bits.exp_golomb()?, 15)?;
        let has_separate_planes = bits.exp_golomb()? == 3 && bits.bit()?;
        // Width and height.
        skip_numbers(&mut bits, 2)?;
        if bits.bit()? {
            skip_numbers(&mut bits, 4)?;
        }
        // Depths of luma and chroma.
        skip_numbers(&mut bits, 2)?;
        let count_bits = bounded(bits.exp_golomb()?, 12)? + 4;
        let is_of_each = bits.bit()?;
        skip_numbers(&mut bits, if is_of_each { 3 * (sub_layers + 1) } else { 3 })?;
        // Sizes and depths of blocks and transforms.
        skip_numbers(&mut bits, 6)?;
        let has_scaling_lists = bits.bit()? && bits.bit()?;
        if has_scaling_lists {
            return None;
        }
        bits.bits(2)?;
        if bits.bit()? {
            bits.bits(8)?;
            skip_numbers(&mut bits, 2)?;
            bits.bit()?;
        }
        let mut sets = Vec::new();
        for _ in 0..bounded(bits.exp_golomb()?, MAX_SETS)? {
            let set = Set::read(&mut bits, &sets, false)?;
            sets.push(set);
        }
        let long_term = match bits.bit()? {
            true => {
                let count = bounded(bits.exp_golomb()?, MAX_LONG_TERM)?;
                Some((0..count).map(|_| Some((bits.bits(count_bits)?, bits.bit()?))).collect::<Option<_>>()?)
            }
            false => None,
        };
        Some(Self { id, has_separate_planes, count_bits, sets, long_term })
    }
}

fn skip_numbers(bits: &mut BitReader<'_>, count: u32) -> Option<()> {
    (0..count).try_for_each(|_| bits.exp_golomb().map(drop))
}

/// Section 7.3.3.
fn skip_profile(bits: &mut BitReader<'_>, sub_layers: u32) -> Option<()> {
    const PROFILE: [u32; 3] = [32, 32, 24];
    let mut skip = |counts: &[u32]| counts.iter().try_for_each(|count| bits.bits(*count).map(drop));
    skip(&PROFILE)?;
    skip(&[8])?;
    if sub_layers == 0 {
        return Some(());
    }
    let present: Vec<_> = (0..8).map(|_| bits.bits(2)).collect::<Option<_>>()?;
    let mut skip = |counts: &[u32]| counts.iter().try_for_each(|count| bits.bits(*count).map(drop));
    for flags in present.into_iter().take(sub_layers as usize) {
        if flags & 2 != 0 {
            skip(&PROFILE)?;
        }
        if flags & 1 != 0 {
            skip(&[8])?;
        }
    }
    Some(())
}

impl Picture {
    /// Of a unit with its header.
    pub(super) fn parse(unit: &[u8]) -> Option<Self> {
        let raw = annex_b::unescaped(unit.get(2..)?, MAX_HEADER_BYTES);
        let mut bits = BitReader::new(&raw);
        let (id, sequence) = (bounded(bits.exp_golomb()?, 63)?, bounded(bits.exp_golomb()?, 15)?);
        bits.bit()?;
        Some(Self { id, sequence, has_output_flag: bits.bit()?, extra_bits: bits.bits(3)? })
    }

    /// What a picture says in the header of the slice that it begins with (section 7.3.6.1), which stands behind the unit's header.
    pub(super) fn marks(&self, sequence: &Sequence, unit_type: u8, slice: &[u8]) -> Option<Marks> {
        const INSTANT_REFRESH: std::ops::RangeInclusive<u8> = 19..=20;
        let raw = annex_b::unescaped(slice, MAX_HEADER_BYTES);
        let mut bits = BitReader::new(&raw);
        if !bits.bit()? {
            return None;
        }
        if super::INTRA_RANDOM_ACCESS.contains(&unit_type) {
            bits.bit()?;
        }
        if bits.exp_golomb()? != self.id || self.sequence != sequence.id {
            return None;
        }
        bits.bits(self.extra_bits)?;
        bits.exp_golomb()?;
        if self.has_output_flag {
            bits.bit()?;
        }
        if sequence.has_separate_planes {
            bits.bits(2)?;
        }
        let modulus = 1_u32 << sequence.count_bits;
        let told = |number: u32, kept: Vec<(u32, bool)>| {
            let used = kept.iter().filter(|(_, is_used)| *is_used).map(|(age, _)| *age).collect();
            let keeps = kept.iter().map(|(age, _)| *age).collect();
            let picture = Some(Count { number, modulus });
            Marks { picture, references: Some(used), keeps: Some(keeps), ..Marks::default() }
        };
        if INSTANT_REFRESH.contains(&unit_type) {
            return Some(told(0, Vec::new()));
        }
        let number = bits.bits(sequence.count_bits)?;
        let own;
        let set = match bits.bit()? {
            true => sequence.sets.get(bits.bits(bits_below(sequence.sets.len()))? as usize)?,
            false => {
                own = Set::read(&mut bits, &sequence.sets, true)?;
                &own
            }
        };
        let age = |further: i64| (-further).rem_euclid(i64::from(modulus)) as u32;
        let mut kept: Vec<_> =
            set.lower.iter().chain(&set.higher).map(|(distance, is_used)| (age(*distance), *is_used)).collect();
        if let Some(named) = &sequence.long_term {
            let of_sequence = if named.is_empty() { 0 } else { bounded(bits.exp_golomb()?, MAX_LONG_TERM)? };
            let of_slice = bounded(bits.exp_golomb()?, MAX_LONG_TERM)?;
            for index in 0..of_sequence + of_slice {
                let (low, is_used) = match index < of_sequence {
                    true => *named.get(bits.bits(bits_below(named.len()))? as usize)?,
                    false => (bits.bits(sequence.count_bits)?, bits.bit()?),
                };
                if bits.bit()? {
                    bits.exp_golomb()?;
                }
                kept.push((age(i64::from(low) - i64::from(number)), is_used));
            }
        }
        Some(told(number, kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(text: &str) -> Vec<u8> {
        let bits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        bits.chunks(8)
            .map(|byte| (0..8).fold(0, |value, at| value << 1 | (byte.get(at).unwrap_or(&b'0') - b'0')))
            .collect()
    }

    #[test]
    fn a_set_is_told_by_itself_or_by_another() {
        // Two lower ones, 1 (used) and 3 before; one higher, 2 behind (used).
        let plain = bits("011 010  1 1 010 0  010 1");
        let one = Set::read(&mut BitReader::new(&plain), &[], false).expect("whole");
        let expected = Set { lower: vec![(-1, true), (-3, false)], higher: vec![(2, true)] };
        assert_eq!(one, expected);
        // A picture later: -1 becomes -2 and is used, -3 is dropped, 2 becomes 1 and is kept, the other itself is used.
        let moved = bits("1  1 1  1  00  01  1");
        let next = Set::read(&mut BitReader::new(&moved), std::slice::from_ref(&one), false).expect("whole");
        assert_eq!(next, Set { lower: vec![(-1, true), (-2, true)], higher: vec![(1, false)] });
        // In a slice, from the one before the last.
        let before = [one, next];
        let in_slice = bits("1 010  1 1  1  00  01  1");
        assert_eq!(Set::read(&mut BitReader::new(&in_slice), &before, true).as_ref(), Some(&before[1]));
        for nonsense in ["1 00100 1 1 1 1 1 1 1", "0 000010001 1", "0"] {
            assert_eq!(Set::read(&mut BitReader::new(&bits(nonsense)), &before, true), None, "{nonsense}");
        }
    }
}
