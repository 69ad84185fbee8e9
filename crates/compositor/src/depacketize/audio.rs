//! Audio payloads: how long one lasts, and what is inside redundant audio.

use bytes::Bytes;
use roomreel_shared::event::Codec;
use roomreel_shared::rtp::PayloadType;

/// Longest payload of Opus (RFC 6716 section 2.1.4), at 48 kHz.
pub const MAX_SAMPLES: u32 = 5760;

/// Duration of a payload in samples at 48 kHz; `None` if it is not one, or not of a codec that is rendered.
#[must_use]
pub fn duration_samples(codec: &Codec, payload: &[u8]) -> Option<u32> {
    match codec {
        Codec::Opus => opus_samples(payload),
        // One octet per 1/8,000 s: G.711 by its sampling rate, G.722 by its RTP clock (RFC 3551 section 4.5.2).
        Codec::Pcmu | Codec::Pcma | Codec::G722 => u32::try_from(payload.len())
            .ok()
            .map(|octets| octets.saturating_mul(6))
            .filter(|n| (1..=48_000).contains(n)),
        _ => None,
    }
}

/// RFC 6716 section 3.1.
fn opus_samples(payload: &[u8]) -> Option<u32> {
    let toc = *payload.first()?;
    let config = usize::from(toc >> 3);
    let frame = match config {
        0..12 => [480, 960, 1920, 2880][config & 3],
        12..16 => [480, 960][config & 1],
        _ => [120, 240, 480, 960][config & 3],
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(payload.get(1)? & 0x3f),
    };
    Some(frames * frame).filter(|samples| (1..=MAX_SAMPLES).contains(samples))
}

/// The primary block of redundant audio (RFC 2198 section 3) and its payload type.
#[must_use]
pub fn primary_of_red(payload: &Bytes) -> Option<(PayloadType, Bytes)> {
    let mut at = 0;
    let mut redundant = 0;
    loop {
        let header = *payload.get(at)?;
        if header & 0x80 == 0 {
            let start = at + 1 + redundant;
            return (start < payload.len()).then(|| (PayloadType(header), payload.slice(start..)));
        }
        redundant += usize::from(u16::from_be_bytes([payload.get(at + 2)? & 0x03, *payload.get(at + 3)?]));
        at += 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations() {
        for (codec, payload, samples) in [
            (Codec::Opus, &[0x78, 0][..], Some(960)),
            (Codec::Opus, &[0x79, 0], Some(1920)),
            (Codec::Opus, &[0x08, 0], Some(960)),
            (Codec::Opus, &[0x7b, 6], Some(5760)),
            (Codec::Opus, &[0x7b, 7], None),
            (Codec::Opus, &[0x7b], None),
            (Codec::Opus, &[], None),
            (Codec::Pcmu, &[0; 160], Some(960)),
            (Codec::G722, &[0; 160], Some(960)),
            (Codec::TelephoneEvent, &[0; 4], None),
        ] {
            assert_eq!(duration_samples(&codec, payload), samples, "{codec:?} {payload:?}");
        }
    }

    #[test]
    fn redundant_audio_is_unwrapped() {
        let red = Bytes::from_static(&[0xef, 0, 0, 2, 0x6f, 1, 2, 3, 4]);
        assert_eq!(primary_of_red(&red), Some((PayloadType(111), Bytes::from_static(&[3, 4]))));
        assert_eq!(primary_of_red(&Bytes::from_static(&[0xef, 0, 0, 9, 0x6f, 1])), None);
    }

    proptest! {
        #[test]
        fn no_payload_makes_it_panic(payload in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = opus_samples(&payload);
            let _ = primary_of_red(&payload.into());
        }
    }
}
