//! Whether an RTP payload starts a picture that a decoder can start from.
//!
//! Owns the few bytes of each payload format that say so. Does not own depacketization (the compositor does).

use roomreel_shared::event::Codec;

/// Whether `payload` begins a key frame of `codec`, or brings the parameter sets right before one.
///
/// Malformed payloads start nothing. Audio has no key frames.
#[must_use]
pub fn starts_keyframe(codec: &Codec, payload: &[u8]) -> bool {
    match codec {
        Codec::Vp8 => vp8(payload),
        Codec::Vp9 => vp9(payload),
        Codec::H264 => h264(payload),
        Codec::H265 => h265(payload),
        Codec::Av1 => av1(payload),
        _ => None,
    }
    .unwrap_or(false)
}

/// Whether a decoder of `codec` needs a key frame to begin.
#[must_use]
pub fn has_keyframes(codec: &Codec) -> bool {
    matches!(codec, Codec::Vp8 | Codec::Vp9 | Codec::H264 | Codec::H265 | Codec::Av1)
}

/// RFC 7741 sections 4.2 and 4.3: first packet of the first partition, and the inverse key frame flag of the frame header.
fn vp8(payload: &[u8]) -> Option<bool> {
    let first = *payload.first()?;
    let starts_partition_0 = first & 0x10 != 0 && first & 0x07 == 0;
    let mut at = 1;
    if first & 0x80 != 0 {
        let extension = *payload.get(at)?;
        at += 1;
        if extension & 0x80 != 0 {
            at += if payload.get(at)? & 0x80 != 0 { 2 } else { 1 };
        }
        at += usize::from(extension & 0x40 != 0);
        at += usize::from(extension & 0x30 != 0);
    }
    Some(starts_partition_0 && payload.get(at)? & 0x01 == 0)
}

/// RFC 9628 section 4.2: start of a frame (B), not inter-picture predicted (P), of the base spatial layer.
fn vp9(payload: &[u8]) -> Option<bool> {
    let first = *payload.first()?;
    if first & 0x08 == 0 || first & 0x40 != 0 {
        return Some(false);
    }
    if first & 0x20 == 0 {
        return Some(true);
    }
    let mut at = 1;
    if first & 0x80 != 0 {
        at += if payload.get(at)? & 0x80 != 0 { 2 } else { 1 };
    }
    // Spatial layer id and inter-layer dependency: an upper layer alone starts nothing.
    Some(payload.get(at)? & 0x0e == 0)
}

/// RFC 6184 section 5: SPS (7) or IDR slice (5), alone, in a STAP-A (24), or as the first fragment of a FU-A (28).
fn h264(payload: &[u8]) -> Option<bool> {
    let starts = |header: u8| matches!(header & 0x1f, 5 | 7);
    match payload.first()? & 0x1f {
        24 => Some(aggregated(&payload[1..], starts)),
        28 => {
            let fragment = *payload.get(1)?;
            Some(fragment & 0x80 != 0 && starts(fragment))
        }
        _ => Some(payload.len() > 1 && starts(payload[0])),
    }
}

/// RFC 7798 section 4.4: VPS, SPS or an IRAP slice (16 to 23), alone, aggregated (48) or as a first fragment (49).
fn h265(payload: &[u8]) -> Option<bool> {
    let starts = |kind: u8| matches!(kind, 16..=23 | 32 | 33);
    match (payload.first()? >> 1) & 0x3f {
        48 => Some(aggregated(payload.get(2..)?, |header| starts((header >> 1) & 0x3f))),
        49 => {
            let fragment = *payload.get(2)?;
            Some(fragment & 0x80 != 0 && starts(fragment & 0x3f))
        }
        kind => Some(payload.len() > 2 && starts(kind)),
    }
}

/// Units of 16-bit length and body: whether `starts` holds for the first byte of one of them.
fn aggregated(mut units: &[u8], starts: impl Fn(u8) -> bool) -> bool {
    while let [high, low, rest @ ..] = units {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some(unit) = rest.get(..length) else { return false };
        if unit.first().is_some_and(|header| starts(*header)) {
            return true;
        }
        units = &rest[length..];
    }
    false
}

/// AV1 RTP payload section 4.4: the N bit begins a coded video sequence; else a sequence header OBU (1) as first element.
fn av1(payload: &[u8]) -> Option<bool> {
    let aggregation = *payload.first()?;
    if aggregation & 0x80 != 0 {
        // Continues an OBU of the packet before.
        return Some(false);
    }
    if aggregation & 0x08 != 0 {
        return Some(true);
    }
    let mut at = 1;
    if (aggregation >> 4) & 0x03 != 1 {
        // The element's length, LEB128.
        while payload.get(at)? & 0x80 != 0 {
            at += 1;
        }
        at += 1;
    }
    Some((payload.get(at)? >> 3) & 0x0f == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn payloads_of_every_format() {
        for (codec, payload, expected, what) in [
            (Codec::Vp8, &[0x10, 0x00][..], true, "key frame, short descriptor"),
            (Codec::Vp8, &[0x10, 0x01], false, "inter frame"),
            (Codec::Vp8, &[0x00, 0x00], false, "continuation"),
            (Codec::Vp8, &[0x11, 0x00], false, "second partition"),
            (Codec::Vp8, &[0x90, 0xe0, 0x92, 0x34, 0x05, 0x20, 0x00], true, "16-bit picture id, TL0PICIDX and TID"),
            (Codec::Vp8, &[0x90, 0x80, 0x12, 0x00], true, "7-bit picture id"),
            (Codec::Vp8, &[0x90, 0x80], false, "cut off"),
            (Codec::Vp9, &[0x88, 0x12, 0x00], true, "no layers"),
            (Codec::Vp9, &[0xc8, 0x12], false, "predicted"),
            (Codec::Vp9, &[0x80, 0x12], false, "not the start of a frame"),
            (Codec::Vp9, &[0xa8, 0x92, 0x34, 0x00], true, "base spatial layer"),
            (Codec::Vp9, &[0xa8, 0x92, 0x34, 0x03], false, "upper spatial layer"),
            (Codec::H264, &[0x65, 0x88], true, "IDR"),
            (Codec::H264, &[0x67, 0x42], true, "SPS"),
            (Codec::H264, &[0x41, 0x9a], false, "non-IDR"),
            (Codec::H264, &[24, 0, 1, 0x68, 0, 2, 0x65, 1], true, "STAP-A with IDR after PPS"),
            (Codec::H264, &[24, 0, 9, 0x65], false, "STAP-A cut off"),
            (Codec::H264, &[0x7c, 0x85, 1], true, "FU-A start of IDR"),
            (Codec::H264, &[0x7c, 0x05, 1], false, "FU-A middle of IDR"),
            (Codec::H265, &[0x40, 1, 2], true, "VPS"),
            (Codec::H265, &[0x26, 1, 2], true, "IDR_W_RADL"),
            (Codec::H265, &[0x02, 1, 2], false, "TRAIL_R"),
            (Codec::H265, &[0x62, 1, 0x93, 0], true, "FU start of IDR"),
            (Codec::H265, &[0x60, 1, 0, 2, 0x42, 1], true, "AP with SPS"),
            (Codec::Av1, &[0x08, 0], true, "N bit"),
            (Codec::Av1, &[0x10, 0x0a, 0], true, "one element, a sequence header"),
            (Codec::Av1, &[0x20, 0x81, 0x01, 0x0a], true, "two-byte length before a sequence header"),
            (Codec::Av1, &[0x10, 0x32, 0], false, "frame OBU"),
            (Codec::Av1, &[0x98, 0x0a], false, "continuation"),
            (Codec::Opus, &[0x10, 0x00], false, "audio"),
        ] {
            assert_eq!(starts_keyframe(&codec, payload), expected, "{codec:?}: {what}");
        }
    }

    proptest! {
        #[test]
        fn no_payload_makes_it_panic(payload in proptest::collection::vec(any::<u8>(), 0..40)) {
            for codec in [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::H265, Codec::Av1] {
                let _ = starts_keyframe(&codec, &payload);
            }
        }
    }
}
