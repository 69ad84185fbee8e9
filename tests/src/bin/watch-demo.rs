//! Watches the composite of `roomreel demo` and prints how far each participant's beeps are from its flashes.
//!
//! `watch-demo FILE`; ends with an error if one is more than 40 ms away.
#![allow(clippy::print_stdout, reason = "a tool prints")]

use anyhow::{Context as _, Result, ensure};
use roomreel_sfu::synthetic::SyntheticSpec;
use roomreel_shared::composite::CompositeSpec;
use roomreel_shared::time::RoomTime;
use roomreel_tests::room;

fn main() -> Result<()> {
    let file = std::env::args_os().nth(1).context("usage: watch-demo FILE")?;
    let spec = SyntheticSpec::new(room::room("demo"), RoomTime::default());
    for (peer, offsets) in room::beep_flash_offsets(file.as_ref(), &spec, &CompositeSpec::default())? {
        let least = offsets.iter().copied().fold(f64::INFINITY, f64::min);
        let most = offsets.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        println!("{peer}: {} flashes, beeps {least:.1} to {most:.1} ms after them", offsets.len());
        ensure!(least >= -40.0 && most <= 40.0, "{peer} is out of sync");
    }
    Ok(())
}
