//! What a synthetic room costs to make: CPU seconds per second of room, and how much it sends.
//!
//! `cargo run -p roomreel-sfu --example synthetic_cost -- [PARTICIPANTS [SECONDS]]`
#![expect(clippy::print_stdout, reason = "it is a measurement for a person")]

use std::time::{Duration, Instant};

use roomreel_sfu::source::SourceItem;
use roomreel_sfu::synthetic::{SyntheticRoom, SyntheticSpec};
use roomreel_shared::id::RoomId;
use roomreel_shared::time::RoomTime;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let participants = arguments.next().map_or(Ok(4), |count| count.parse())?;
    let seconds = arguments.next().map_or(Ok(30), |count| count.parse())?;
    let mut spec = SyntheticSpec::new(RoomId::new("cost")?, RoomTime::default());
    (spec.participants, spec.duration) = (participants, Duration::from_secs(seconds));
    let begun = Instant::now();
    let room = SyntheticRoom::new(spec)?;
    let prepared = begun.elapsed();
    let begun = Instant::now();
    let (mut packets, mut bytes) = (0_u64, 0);
    for item in room {
        if let (_, SourceItem::Packet { data, .. }) = item? {
            packets += 1;
            bytes += data.bytes().len();
        }
    }
    let took = begun.elapsed().as_secs_f64();
    let rate = bytes as f64 * 8.0 / 1e6 / seconds as f64;
    println!("prepared in {prepared:?}; {packets} packets, {rate:.2} Mbit/s");
    println!("{:.3} s of one core per second of a room of {participants}", took / seconds as f64);
    Ok(())
}
