//! Proves a composite by watching it: frames and samples out of FFmpeg, flashes and beeps out of those.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

/// What `ffprobe` says of a file.
///
/// # Errors
/// When it cannot be run or finds no media.
pub fn probe(file: &Path) -> Result<Value> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-print_format", "json", "-show_streams", "-show_format"])
        .arg(file)
        .output()
        .context("run ffprobe (apt-get install ffmpeg)")?;
    ensure!(output.status.success(), "ffprobe {}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Decodes the whole file; what FFmpeg warns of is an error.
///
/// # Errors
/// With FFmpeg's warnings.
pub fn decode_without_warning(file: &Path) -> Result<()> {
    let output = Command::new("ffmpeg")
        .args(["-v", "warning", "-xerror", "-i"])
        .arg(file)
        .args(["-f", "null", "-"])
        .output()
        .context("run ffmpeg (apt-get install ffmpeg)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && said.trim().is_empty(), "ffmpeg on {}: {said}", file.display());
    Ok(())
}

/// A rectangle of the picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// Left edge.
    pub x: u32,
    /// Upper edge.
    pub y: u32,
    /// Width.
    pub width: u32,
    /// Height.
    pub height: u32,
}

/// Mean luma (0 to 255) of `area` in every frame, with the frame's time in seconds.
///
/// # Errors
/// When FFmpeg cannot decode the file.
pub fn luma(file: &Path, area: Area) -> Result<Vec<(f64, f64)>> {
    let Area { x, y, width, height } = area;
    let filter = format!("crop={width}:{height}:{x}:{y},signalstats,metadata=print:key=lavfi.signalstats.YAVG:file=-");
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(file)
        .args(["-an", "-vf", &filter, "-f", "null", "-"])
        .output()
        .context("run ffmpeg")?;
    ensure!(output.status.success(), "ffmpeg: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    let mut frames = Vec::new();
    let mut time = None;
    for line in text.lines() {
        if let Some((_, pts)) = line.split_once("pts_time:") {
            time = Some(pts.trim().parse::<f64>()?);
        } else if let Some((_, value)) = line.split_once("YAVG=") {
            frames.push((time.context("a value without a frame")?, value.parse()?));
        }
    }
    Ok(frames)
}

/// Samples a second that [`samples`] answers.
pub const SAMPLE_RATE: usize = 48_000;

/// The sound as mono samples at [`SAMPLE_RATE`], the first at time 0 of the file.
///
/// # Errors
/// When FFmpeg cannot decode the file.
pub fn samples(file: &Path) -> Result<Vec<f32>> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(file)
        // `async` with `first_pts` puts the first sample where the container says it belongs.
        .args(["-vn", "-af", "aresample=48000:async=1:first_pts=0", "-ac", "1", "-f", "f32le", "-"])
        .output()
        .context("run ffmpeg")?;
    ensure!(output.status.success(), "ffmpeg: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// Times in seconds at which a tone of `hertz` sets in.
///
/// Goertzel power in steps of 2.5 ms over 10 ms; an onset is where it comes over a quarter of its maximum, after at least
/// 200 ms below.
#[must_use]
pub fn tone_onsets(samples: &[f32], hertz: f64) -> Vec<f64> {
    const LENGTH: usize = SAMPLE_RATE / 100;
    const STEP: usize = SAMPLE_RATE / 400;
    let omega = std::f64::consts::TAU * hertz / SAMPLE_RATE as f64;
    let powers: Vec<f64> = samples.windows(LENGTH).step_by(STEP).map(|window| goertzel(window, omega)).collect();
    let threshold = powers.iter().copied().fold(0.0, f64::max) / 4.0;
    let mut onsets = Vec::new();
    let mut quiet = usize::MAX;
    for (index, power) in powers.iter().enumerate() {
        if *power < threshold || threshold == 0.0 {
            quiet = quiet.saturating_add(1);
        } else {
            if quiet >= 80 {
                // The window's middle is where half of it is tone.
                onsets.push((index * STEP + LENGTH / 2) as f64 / SAMPLE_RATE as f64);
            }
            quiet = 0;
        }
    }
    onsets
}

fn goertzel(window: &[f32], omega: f64) -> f64 {
    let coefficient = 2.0 * omega.cos();
    let (mut before, mut last) = (0.0, 0.0);
    for sample in window {
        (before, last) = (last, f64::from(*sample) + coefficient * last - before);
    }
    last * last + before * before - coefficient * last * before
}

/// Times in seconds at which the luma of `frames` jumps from its usual value: a flash begins.
#[must_use]
pub fn flash_onsets(frames: &[(f64, f64)]) -> Vec<f64> {
    let mut sorted: Vec<f64> = frames.iter().map(|(_, luma)| *luma).collect();
    sorted.sort_by(f64::total_cmp);
    let (Some(middle), Some(top)) = (sorted.get(sorted.len() / 2), sorted.last()) else { return Vec::new() };
    let threshold = middle + (top - middle) / 2.0;
    let mut onsets = Vec::new();
    let mut dark = true;
    for (time, luma) in frames {
        if *luma > threshold && dark {
            onsets.push(*time);
        }
        dark = *luma <= threshold;
    }
    onsets
}

/// For each flash, the distance in milliseconds to the nearest beep; positive when the beep is later.
#[must_use]
pub fn offsets_ms(flashes: &[f64], beeps: &[f64]) -> Vec<f64> {
    let nearest =
        |flash: &f64| beeps.iter().map(|beep| (beep - flash) * 1000.0).min_by(|a, b| a.abs().total_cmp(&b.abs()));
    flashes.iter().filter_map(nearest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tones_are_found_where_they_begin() {
        let sine = |i: usize, hertz: f64| (std::f64::consts::TAU * hertz * i as f64 / SAMPLE_RATE as f64).sin() as f32;
        let samples: Vec<f32> = (0..3 * SAMPLE_RATE)
            .map(|i| {
                let within = i % SAMPLE_RATE;
                let tone = if (12_000..14_400).contains(&within) { 0.5 * sine(i, 1000.0) } else { 0.0 };
                let other = if (30_000..32_400).contains(&within) { 0.5 * sine(i, 1500.0) } else { 0.0 };
                tone + other
            })
            .collect();
        let onsets = tone_onsets(&samples, 1000.0);
        assert_eq!(onsets.len(), 3);
        for (onset, expected) in onsets.iter().zip([0.25, 1.25, 2.25]) {
            assert!((onset - expected).abs() < 0.006, "{onset} is not {expected}");
        }
        assert!(tone_onsets(&[0.0; 4800], 1000.0).is_empty());
    }

    #[test]
    fn flashes_are_found_and_paired() {
        let frames: Vec<(f64, f64)> =
            (0..90).map(|i| (f64::from(i) / 30.0, if i % 30 < 2 { 200.0 } else { 80.0 })).collect();
        let flashes = flash_onsets(&frames);
        assert_eq!(flashes, [0.0, 1.0, 2.0]);
        let offsets = offsets_ms(&flashes, &[0.01, 0.98, 2.0]);
        assert!(offsets[0] > 9.9 && offsets[1] < -19.9 && offsets[2] == 0.0, "{offsets:?}");
    }
}
