//! What containers say about coded video: parameter sets and sequence headers, found in a key picture.

use roomreel_shared::event::Codec;

/// Parameter sets of H.264 and H.265 with start codes, the sequence header OBU of AV1; empty for what has none.
#[must_use]
pub fn parameters(codec: &Codec, key_picture: &[u8]) -> Vec<u8> {
    let is_parameter: fn(u8) -> bool = match codec {
        Codec::H264 => |header| matches!(header & 0x1f, 7 | 8),
        Codec::H265 => |header| (32..=34).contains(&(header >> 1 & 0x3f)),
        Codec::Av1 => return super::av1::sequence_header(key_picture).unwrap_or_default().to_vec(),
        _ => return Vec::new(),
    };
    let mut found = Vec::new();
    for unit in super::annex_b::units(key_picture) {
        if unit.first().is_some_and(|header| is_parameter(*header)) {
            found.extend([0, 0, 0, 1]);
            found.extend(unit);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found() {
        let h264 = [0, 0, 0, 1, 0x67, 1, 2, 0, 0, 1, 0x68, 3, 0, 0, 0, 1, 0x65, 0, 0, 4];
        assert_eq!(parameters(&Codec::H264, &h264), [0, 0, 0, 1, 0x67, 1, 2, 0, 0, 0, 1, 0x68, 3]);
        let h265 = [0, 0, 0, 1, 0x40, 1, 7, 0, 0, 0, 1, 0x26, 1, 5];
        assert_eq!(parameters(&Codec::H265, &h265), [0, 0, 0, 1, 0x40, 1, 7]);
        let av1 = [0x12, 0, 0x0a, 2, 1, 2, 0x32, 3, 0x10, 3, 4];
        assert_eq!(parameters(&Codec::Av1, &av1), [0x0a, 2, 1, 2]);
        assert_eq!(parameters(&Codec::Av1, &[0x12, 0, 0x0a, 9, 1]), [0; 0]);
        assert_eq!(parameters(&Codec::Vp8, &h264), [0; 0]);
    }
}
