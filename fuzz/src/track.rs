//! A track from its packets to what a decoder is given.

#[path = "../../crates/compositor/src/track/assemble.rs"]
#[allow(dead_code)]
mod assemble;
#[path = "../../crates/compositor/src/track/continuity.rs"]
mod continuity;
#[path = "../../crates/compositor/src/track/intake.rs"]
#[allow(dead_code)]
mod intake;

use roomreel_shared::batch::Packet;
use roomreel_shared::event::Producer;
use roomreel_shared::time::RoomTime;

use crate::depacketize::audio::duration_samples;
use crate::timeline::clock::ParticipantClock;

pub use intake::IntakeQuality;

/// Takes windows of packets, and everything out again up to the end of each; answers what was said of their quality, how many
/// pictures were given to a decoder and how many packets came out.
pub fn run(producer: &Producer, windows: &[Vec<Packet>]) -> (IntakeQuality, u64, u64) {
    let mut intake = intake::Intake::new(producer.clone());
    let mut clock = ParticipantClock::default();
    let mut assembler = assemble::Assembler::default();
    let (mut pictures, mut packets) = (0, 0);
    for window in windows {
        for packet in window {
            intake.receive(packet, &mut clock);
        }
        intake.place(&clock);
        let end = window.iter().map(|packet| packet.time).max().unwrap_or_default();
        if producer.is_audio {
            for (_, popped) in intake.pop_before(end) {
                let codec = intake.codec(popped.packet.payload_type);
                let _ = codec.map(|codec| duration_samples(&codec.codec, &popped.packet.payload));
                packets += 1;
            }
        } else {
            let mut whole = Vec::new();
            for (_, stream) in intake.streams() {
                whole.extend(std::iter::from_fn(|| stream.order.pop_picture_before(end)));
            }
            for picture in whole {
                packets += picture.payloads.len() as u64;
                pictures += u64::from(assembler.picture(&picture, producer).is_ok());
            }
        }
    }
    let end = RoomTime::from_micros(i64::MAX);
    packets += intake.pop_before(end).len() as u64;
    (intake.quality(), pictures, packets)
}
