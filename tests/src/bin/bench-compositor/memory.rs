//! What a track takes of memory, by the layer that is decoded of it.
//!
//! A track's share is what 25 of them have at most beyond one, by 24; what is left of one is the base. FFmpeg and ours are given the
//! same layer; rooms with all of them recorded stand beside it.

use std::path::Path;

use anyhow::Result;

use crate::clips::{Clips, LAYERS};
use crate::ours::Render;
use crate::peers::{self, CRF};
use crate::recording::{Recorded, Recording};
use crate::usage;

/// The rooms whose difference is told.
const FEW: usize = 1;
const MANY: usize = 25;
/// Of so many runs the one in the middle counts.
const ROUNDS: usize = 3;
/// So many clips follow each other: a process's memory grows for some windows.
const TIMES: usize = 4;
/// Megabytes that a track of each of the layers may take, and what is there without any.
const BARS: [f64; LAYERS.len()] = [6.0, 2.0, 0.8];
const BASE: f64 = 140.0;

/// Most megabytes of a process, with few and with many tracks.
struct Peaks {
    few: f64,
    many: f64,
}

impl Peaks {
    fn track(&self) -> f64 {
        (self.many - self.few) / (MANY - FEW) as f64
    }

    fn base(&self) -> f64 {
        self.few - self.track() * FEW as f64
    }
}

/// Prints the table; the answer is what is above the bar.
pub async fn measure(directory: &Path) -> Result<Vec<String>> {
    let clips = Clips::prepare(directory, MANY)?;
    let output = directory.join("output");
    std::fs::create_dir_all(&output)?;
    let mut failures = Vec::new();
    println!("\npeak memory, MB                  base   track    must   ffmpeg: base   track");
    for (lines, bar) in LAYERS.into_iter().zip(BARS) {
        let ours = ours(directory, &clips, Recorded::Layer(lines), &output).await?;
        let ffmpeg = |count| peak(peers::ffmpeg(&clips, count, lines, CRF, &output.join("memory.mp4")));
        let ffmpeg = Peaks { few: ffmpeg(FEW)?, many: ffmpeg(MANY)? };
        println!(
            "{lines:4} lines recorded           {:8.0}{:8.2}{bar:8.1}       {:8.0}{:8.2}",
            ours.base(),
            ours.track(),
            ffmpeg.base(),
            ffmpeg.track()
        );
        if ours.track() > bar {
            failures.push(format!("{:.2} MB for a track of {lines} lines instead of {bar}", ours.track()));
        }
        if ours.base() > BASE {
            failures.push(format!("{:.0} MB without tracks instead of {BASE}", ours.base()));
        }
    }
    let all = ours(directory, &clips, Recorded::AllLayers, &output).await?;
    println!("all layers, the least decoded    {:8.0}{:8.2}\n", all.base(), all.track());
    Ok(failures)
}

async fn ours(directory: &Path, clips: &Clips, recorded: Recorded, output: &Path) -> Result<Peaks> {
    let mut peaks = Vec::new();
    for count in [FEW, MANY] {
        let recording = Recording::prepare(directory, clips, count, recorded, TIMES).await?;
        let render = Render::new(&recording, count, &output.join("ours"), CRF)?;
        let rounds = (0..ROUNDS).map(|_| peak(render.command()?)).collect::<Result<_>>()?;
        peaks.push(usage::median(rounds));
    }
    Ok(Peaks { few: peaks[0], many: peaks[1] })
}

fn peak(command: std::process::Command) -> Result<f64> {
    Ok(usage::run(command)?.peak as f64 / f64::from(1 << 20))
}
