//! Where sound stands after half an hour of loss, jitter, a clock that drifts and a reconnect.

use super::*;
use crate::track::tests_support::{codec, producer, rtp};

/// A beep every five seconds, in packets of 20 ms.
const BEEP_EVERY: u64 = 250;
const PACKETS: u64 = 90_000;
/// The network's least delay.
const DELAY_US: i64 = 40_000;
/// A new connection, with other numbers, from this packet on.
const RECONNECT: u64 = 45_000;

#[test]
fn sound_stands_where_it_was_recorded() {
    let start = RoomTime::from_micros(1_000_000);
    let mut track = AudioTrack::new(producer(vec![codec(8, Codec::Pcma, 8000)]), start, 0);
    let mut participant = ParticipantClock::default();
    let mut random = 11_u64;
    let mut noise = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    // Loud, and as near to silence as A-law comes.
    let (beep, quiet) = (vec![0xaa_u8; 160], vec![0xd5_u8; 160]);
    let mut expected = VecDeque::new();
    let (mut at, mut heard, mut worst, mut missed) = (0_i64, 0, 0, 0);
    for index in 0..PACKETS {
        let captured = index as i64 * 20_000;
        let is_beep = index % BEEP_EVERY == 100;
        if noise(100) >= 2 {
            // Its clock is 100 ppm fast.
            let timestamp = (i128::from(captured) * 8000 * 1_000_100 / 1_000_000_000_000) as u32;
            let (ssrc, base) = if index < RECONNECT { (1, 0xffff_f000) } else { (2, 77_u32) };
            let payload = if is_beep { &beep } else { &quiet };
            let receive = start.as_micros() + captured + DELAY_US + noise(30_000) as i64;
            let packet = rtp(ssrc, 8, index as u16, base.wrapping_add(timestamp), false, payload, receive);
            track.receive(&packet, &mut participant);
            if is_beep {
                expected.push_back((captured + DELAY_US) * 48 / 1000);
            }
        }
        if index % 200 == 199 {
            track.place(&participant);
            if index == 199 {
                continue;
            }
            // Four seconds, four behind.
            let sound = track.take(192_000);
            while let Some(place) = expected.front().copied().filter(|place| *place + 4800 < at + 192_000) {
                expected.pop_front();
                let from = (place - at - 2400).max(0) as usize;
                match sound[from..].iter().take(4800).position(|sample| sample[0].abs() > 0.1) {
                    Some(found) => {
                        heard += 1;
                        worst = worst.max((at + (from + found) as i64 - place).abs());
                    }
                    None => missed += 1,
                }
            }
            at += 192_000;
        }
    }
    assert!(heard > 345 && missed <= 2, "{heard} of 360 beeps, {missed} not");
    eprintln!("the worst beep of {heard} is {:.1} ms off", worst as f64 / 48.0);
    assert!(worst < 960, "the worst one is {} ms off", worst as f64 / 48.0);
}
