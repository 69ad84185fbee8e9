//! Measures composing: processor seconds per second of output for 1 to 25 participants, beside FFmpeg and GStreamer.
//!
//! All compose the same clips into the same places of a canvas of 1280x720 at 30 frames a second, H.264 and AAC in MP4; ours reads
//! recorded windows and writes HLS slices as well. They run in turn, round by round, and the median counts. Exits with an error if ours
//! takes more than the bar allows, of time or memory, or buys speed with pictures. Environment: `NS` (participants), `ROUNDS`,
//! `ONLY=memory`.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]

mod arrangement;
mod clips;
mod memory;
mod ours;
mod peers;
mod quality;
mod recording;
mod usage;
mod webcam;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use arrangement::tiles;
use clips::{Clips, LAYERS, SECONDS};
use ours::Render;
use peers::CRF;
use recording::{Recorded, Recording};
use usage::{Usage, median};

/// Participants, and how many times cheaper than the reference ours has to be: with all layers recorded, with the best alone.
const BARS: [(usize, f64, f64); 5] = [(1, 1.3, 1.2), (4, 2.0, 1.6), (9, 2.0, 1.5), (16, 4.0, 1.7), (25, 4.5, 1.7)];
/// How much worse than x264 with the reference's settings, on the same canvas, ours may be.
const MAX_LOSS_DB: f64 = 0.3;
const MAX_BITS: f64 = 1.15;

/// Who composes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    /// FFmpeg with the best layer: what all is measured by.
    Reference,
    /// FFmpeg if somebody gave it the layer that fits.
    FfmpegFitting,
    Gstreamer,
    OursBest,
    OursSingle,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Reference => "ffmpeg, 720p layer",
            Self::FfmpegFitting => "ffmpeg, fitting layer",
            Self::Gstreamer => "gstreamer, 720p layer",
            Self::OursBest => "roomreel, all layers",
            Self::OursSingle => "roomreel, 720p only",
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => measure(Path::new("target/bench/compositor")).await,
        [what, render] if what == "render" => serde_json::from_str::<Render>(render)?.perform().await,
        _ => bail!("bench-compositor takes no arguments; NS and ROUNDS are read from the environment"),
    }
}

async fn measure(directory: &Path) -> Result<()> {
    if std::env::var("ONLY").is_ok_and(|only| only == "memory") {
        let failures = memory::measure(directory).await?;
        return no_failures(&failures);
    }
    let rounds = setting("ROUNDS", &[3])?.first().copied().unwrap_or(3);
    let counts = setting("NS", &BARS.map(|(count, ..)| count))?;
    let most = counts.iter().copied().max().context("NS is empty")?;
    let clips = Clips::prepare(directory, most)?;
    let bench = Bench { clips, output: directory.join("output") };
    let has_gstreamer = peers::has_gstreamer();
    if !has_gstreamer {
        println!("GStreamer is not installed (scripts/setup bench): its row is left out");
    }
    let mut rooms = Vec::new();
    for count in counts {
        let simulcast = Recording::prepare(directory, &bench.clips, count, Recorded::AllLayers, 1).await?;
        let single = Recording::prepare(directory, &bench.clips, count, Recorded::Layer(LAYERS[0]), 1).await?;
        rooms.push(Room { count, simulcast, single });
    }

    let mut usages: BTreeMap<(usize, Who), Vec<Usage>> = BTreeMap::new();
    for round in 1..=rounds {
        for room in &rooms {
            for who in [Who::Reference, Who::OursBest, Who::FfmpegFitting, Who::OursSingle, Who::Gstreamer] {
                if who == Who::Gstreamer && !has_gstreamer {
                    continue;
                }
                let usage = usage::run(bench.command(room, who)?).with_context(|| who.name())?;
                eprintln!(
                    "round {round}: {} participants, {}: {:.2} CPU-s/s, {:.2} s/s, {} MB",
                    room.count,
                    who.name(),
                    usage.cpu / SECONDS as f64,
                    usage.wall / SECONDS as f64,
                    usage.peak >> 20
                );
                usages.entry((room.count, who)).or_default().push(usage);
            }
        }
    }
    let table = Table { usages };
    table.print(&rooms);
    let mut failures = table.failures(&rooms);
    for room in &rooms {
        failures.extend(bench.pictures(room)?);
    }
    failures.extend(memory::measure(directory).await?);
    no_failures(&failures)
}

fn no_failures(failures: &[String]) -> Result<()> {
    ensure!(failures.is_empty(), "below the bar: {}", failures.join("; "));
    Ok(())
}

/// A list of numbers from the environment.
fn setting(name: &str, default: &[usize]) -> Result<Vec<usize>> {
    match std::env::var(name) {
        Ok(text) => {
            text.split_whitespace().map(|word| word.parse().with_context(|| format!("{name}={text}"))).collect()
        }
        Err(_) => Ok(default.to_vec()),
    }
}

/// The layer that a tile of this many participants needs.
fn fitting_layer(count: usize) -> usize {
    let height = tiles(count).first().map_or(0, |tile| tile.height);
    LAYERS.into_iter().rev().find(|lines| *lines >= height).unwrap_or(LAYERS[0])
}

struct Room {
    count: usize,
    simulcast: Recording,
    single: Recording,
}

struct Bench {
    clips: Clips,
    output: PathBuf,
}

impl Bench {
    fn render(&self, room: &Room, who: Who, crf: u8, name: &str) -> Result<Render> {
        let recording = if who == Who::OursBest { &room.simulcast } else { &room.single };
        Render::new(recording, room.count, &self.output.join(name), crf)
    }

    fn command(&self, room: &Room, who: Who) -> Result<Command> {
        std::fs::create_dir_all(&self.output)?;
        let file = self.output.join(format!("{}-{who:?}.mp4", room.count));
        Ok(match who {
            Who::Reference => peers::ffmpeg(&self.clips, room.count, LAYERS[0], CRF, &file),
            Who::FfmpegFitting => peers::ffmpeg(&self.clips, room.count, fitting_layer(room.count), CRF, &file),
            Who::Gstreamer => peers::gstreamer(&self.clips, room.count, LAYERS[0], &file),
            Who::OursBest | Who::OursSingle => self.render(room, who, CRF, "ours")?.command()?,
        })
    }

    /// Compares pictures; the answer is what is worse than it may be.
    fn pictures(&self, room: &Room) -> Result<Vec<String>> {
        let places = tiles(room.count);
        let arranged = self.output.join("arranged.mp4");
        usage::run(peers::ffmpeg(&self.clips, room.count, LAYERS[0], 0, &arranged))?;
        let reference = self.output.join(format!("{}-{:?}.mp4", room.count, Who::Reference));
        let beside = quality::compare(&reference, &arranged, &places)?;
        println!(
            "pictures {}: ffmpeg beside its own canvas without loss: {:.2} dB, SSIM {:.4}, {} kbit/s",
            room.count,
            beside.psnr,
            beside.ssim,
            kbits(quality::video_bytes(&reference)?)
        );
        let mut failures = Vec::new();
        for who in [Who::OursBest, Who::OursSingle] {
            let ours = self.render(room, who, CRF, "ours")?.file();
            let lossless = self.render(room, who, 0, "lossless")?;
            usage::run(lossless.command()?)?;
            let again = self.output.join("again.mp4");
            usage::run(peers::ffmpeg_again(&lossless.file(), &again))?;
            let beside = quality::compare(&ours, &arranged, &places)?;
            let is = quality::compare(&ours, &lossless.file(), &places)?;
            let should = quality::compare(&again, &lossless.file(), &places)?;
            let (bytes, of) = (quality::video_bytes(&ours)?, quality::video_bytes(&again)?);
            let bits = bytes as f64 / of as f64;
            println!(
                "pictures {}: {}: {:+.2} dB, SSIM {:+.4} and {:+.1} % bits ({} kbit/s) against x264 {} on the same canvas \
                 ({:.2} dB, {:.4}, {} kbit/s); beside ffmpeg's canvas: {:.2} dB, SSIM {:.4}",
                room.count,
                who.name(),
                is.psnr - should.psnr,
                is.ssim - should.ssim,
                (bits - 1.0) * 100.0,
                kbits(bytes),
                peers::PRESET,
                should.psnr,
                should.ssim,
                kbits(of),
                beside.psnr,
                beside.ssim
            );
            if should.psnr - is.psnr > MAX_LOSS_DB || bits > MAX_BITS {
                let loss = should.psnr - is.psnr;
                failures.push(format!("{} {}: {loss:.2} dB lost, {bits:.2} times the bits", room.count, who.name()));
            }
        }
        Ok(failures)
    }
}

fn kbits(bytes: u64) -> u64 {
    bytes * 8 / 1000 / SECONDS as u64
}

struct Table {
    usages: BTreeMap<(usize, Who), Vec<Usage>>,
}

impl Table {
    /// CPU seconds per second of output.
    fn cost(&self, count: usize, who: Who) -> Option<f64> {
        let usages = self.usages.get(&(count, who))?;
        Some(median(usages.iter().map(|usage| usage.cpu).collect()) / SECONDS as f64)
    }

    fn peak(&self, count: usize, who: Who) -> Option<f64> {
        let usages = self.usages.get(&(count, who))?;
        Some(median(usages.iter().map(|usage| usage.peak as f64).collect()) / f64::from(1 << 20))
    }

    fn ratio(&self, count: usize, who: Who) -> f64 {
        let cost = self.cost(count, Who::Reference).zip(self.cost(count, who));
        cost.map_or(f64::NAN, |(reference, ours)| reference / ours)
    }

    fn print(&self, rooms: &[Room]) {
        let all = [Who::Reference, Who::FfmpegFitting, Who::Gstreamer, Who::OursBest, Who::OursSingle];
        type Value<'a> = &'a dyn Fn(usize, Who) -> Option<f64>;
        let tables: [(&str, usize, Value<'_>); 2] = [
            ("CPU seconds per second of output", 2, &|count, who| self.cost(count, who)),
            ("peak memory, MB", 0, &|count, who| self.peak(count, who)),
        ];
        for (title, digits, value) in tables {
            println!("\n{title:34}{}", rooms.iter().map(|room| format!("{:>8}", room.count)).collect::<String>());
            for who in all {
                let cells = rooms.iter().map(|room| {
                    value(room.count, who).map_or("       -".to_owned(), |value| format!("{value:8.digits$}"))
                });
                println!("{:34}{}", who.name(), cells.collect::<String>());
            }
        }
        println!();
        for Room { count, .. } in rooms {
            println!(
                "ratio {count} best {:.2} single {:.2}",
                self.ratio(*count, Who::OursBest),
                self.ratio(*count, Who::OursSingle)
            );
        }
        println!();
    }

    fn failures(&self, rooms: &[Room]) -> Vec<String> {
        let mut failures = Vec::new();
        for (count, best, single) in BARS.into_iter().filter(|bar| rooms.iter().any(|room| room.count == bar.0)) {
            for (who, least) in [(Who::OursBest, best), (Who::OursSingle, single)] {
                let ratio = self.ratio(count, who);
                if ratio.is_nan() || ratio < least {
                    failures.push(format!("{count} {}: {ratio:.2} instead of {least}", who.name()));
                }
            }
        }
        failures
    }
}
