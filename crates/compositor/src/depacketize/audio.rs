//! Audio payloads: how long one lasts, and what it says of those before it.

use bytes::Bytes;
use roomreel_shared::event::Codec;
use roomreel_shared::rtp::PayloadType;

/// Longest payload of Opus (RFC 6716 section 2.1.4), at 48 kHz.
pub const MAX_SAMPLES: u32 = 5760;
/// Opus is asked for what was lost in steps of this: 2.5 ms, its shortest frame, at 48 kHz.
pub const GRAIN: usize = 120;

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

/// Samples at 48 kHz before an Opus packet that it holds a second coding of (in-band FEC: the LBRR frames of RFC 6716 section 4.2.4).
#[must_use]
pub fn opus_redundancy(packet: &[u8]) -> Option<u32> {
    let toc = *packet.first()?;
    let frame = match toc >> 3 {
        config @ 0..12 => [480, 960, 1920, 2880][usize::from(config & 3)],
        config @ 12..16 => [480, 960][usize::from(config & 1)],
        // CELT alone has none.
        _ => return None,
    };
    // The first bits of SILK (section 4.2.3): for each channel an activity flag a 20 ms and then the flag that is sought.
    let flags = *first_opus_frame(packet)?.first()?;
    let parts = (frame / 960_u32).max(1);
    let is_stereo = toc & 0b100 != 0;
    let middle = flags >> (7 - parts) & 1 != 0;
    let side = is_stereo && flags >> (6 - 2 * parts) & 1 != 0;
    (middle || side).then_some(frame)
}

/// The first frame in a packet (RFC 6716 section 3.2).
fn first_opus_frame(packet: &[u8]) -> Option<&[u8]> {
    /// A length of one or two bytes (section 3.2.1).
    fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
        match *bytes {
            [short @ 0..252, ref rest @ ..] => Some((usize::from(short), rest)),
            [low, high, ref rest @ ..] => Some((4 * usize::from(high) + usize::from(low), rest)),
            _ => None,
        }
    }
    let (&toc, mut rest) = packet.split_first()?;
    match toc & 3 {
        0 => Some(rest),
        1 => rest.get(..rest.len() / 2),
        2 => length(rest).and_then(|(length, rest)| rest.get(..length)),
        _ => {
            let (&count, tail) = rest.split_first()?;
            rest = tail;
            let frames = usize::from(count & 0x3f);
            if count & 0x40 != 0 {
                let mut padding = 0;
                loop {
                    let (&more, tail) = rest.split_first()?;
                    rest = tail;
                    padding += usize::from(more).min(254);
                    if more != 255 {
                        break;
                    }
                }
                rest = rest.get(..rest.len().checked_sub(padding)?)?;
            }
            if count & 0x80 == 0 {
                return rest.get(..rest.len().checked_div(frames)?);
            }
            let (first, mut rest) = length(rest)?;
            for _ in 2..frames {
                rest = length(rest)?.1;
            }
            rest.get(..first)
        }
    }
}

/// A block of redundant audio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedBlock {
    /// What it is.
    pub payload_type: PayloadType,
    /// How much older than the packet's own timestamp; 14 bits.
    pub age: u32,
    /// Its payload.
    pub payload: Bytes,
}

/// The blocks of redundant audio (RFC 2198 section 3), oldest first; the last one is the packet's own, of age 0. `None` if they do not
/// fit the payload.
#[must_use]
pub fn blocks_of_red(payload: &Bytes) -> Option<Vec<RedBlock>> {
    let mut headers = Vec::new();
    let mut at = 0;
    loop {
        let first = *payload.get(at)?;
        if first & 0x80 == 0 {
            at += 1;
            break headers.push((PayloadType(first), 0, None));
        }
        let &[high, middle, low] = payload.get(at + 1..at + 4)?.first_chunk()?;
        let bits = u32::from_be_bytes([0, high, middle, low]);
        headers.push((PayloadType(first & 0x7f), bits >> 10, Some((bits & 0x3ff) as usize)));
        at += 4;
    }
    let mut blocks = Vec::with_capacity(headers.len());
    for (payload_type, age, length) in headers {
        let end = length.map_or(payload.len(), |length| at + length);
        if end > payload.len() {
            return None;
        }
        blocks.push(RedBlock { payload_type, age, payload: payload.slice(at..end) });
        at = end;
    }
    blocks.last().is_some_and(|own| !own.payload.is_empty()).then_some(blocks)
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
        let red = Bytes::from_static(&[0xef, 0x0f, 0x00, 2, 0x6f, 1, 2, 3, 4]);
        let block =
            |age, payload| RedBlock { payload_type: PayloadType(111), age, payload: Bytes::from_static(payload) };
        assert_eq!(blocks_of_red(&red), Some(vec![block(960, &[1, 2]), block(0, &[3, 4])]));
        assert_eq!(blocks_of_red(&Bytes::from_static(&[0x6f, 5])), Some(vec![block(0, &[5])]));
        for refused in [&[][..], &[0x6f], &[0xef, 0, 0], &[0xef, 0, 0, 9, 0x6f, 1], &[0xef, 0, 0, 1, 0x6f, 1]] {
            assert_eq!(blocks_of_red(&Bytes::from_static(refused)), None, "{refused:?}");
        }
    }

    #[test]
    fn the_first_frame_of_a_packet_is_found() {
        for (packet, frame) in [
            (&[0x08, 1, 2, 3][..], Some(&[1, 2, 3][..])),
            (&[0x09, 1, 2, 3, 4], Some(&[1, 2])),
            (&[0x0a, 1, 2, 3, 4], Some(&[2])),
            (&[0x0a, 9, 2], None),
            (&[0x0b, 0x03, 1, 2, 3], Some(&[1])),
            (&[0x0b, 0x43, 2, 1, 2, 3, 0, 0], Some(&[1])),
            (&[0x0b, 0x83, 1, 2, 7, 8, 8, 9], Some(&[7])),
            (&[0x0b, 0x00, 1], None),
            (&[0x0b, 0x43, 255], None),
            (&[0x0b], None),
            (&[], None),
        ] {
            assert_eq!(first_opus_frame(packet), frame, "{packet:?}");
        }
    }

    #[test]
    fn redundancy_inside_of_opus_is_told() {
        for (packet, samples) in [
            // 20 ms of SILK: activity, then the flag; 60 ms: three activities before it; two channels: those of the second behind.
            (&[0x48, 0x80][..], None),
            (&[0x48, 0x40], Some(960)),
            (&[0x58, 0x70], Some(2880)),
            (&[0x58, 0xe0], None),
            (&[0x4c, 0x10], Some(960)),
            (&[0x78, 0x40], Some(960)),
            (&[0xf8, 0xff], None),
            (&[0x48], None),
        ] {
            assert_eq!(opus_redundancy(packet), samples, "{packet:?}");
        }
    }

    proptest! {
        #[test]
        fn no_payload_makes_it_panic(payload in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = opus_samples(&payload);
            let _ = opus_redundancy(&payload);
            let _ = blocks_of_red(&payload.into());
        }
    }
}
