//! Pictures and sounds of known content, and FFmpeg's command line to look at files with.

use std::path::Path;
use std::process::Command;

use roomreel_compositor::encode::{EncodedSlice, Encoder};
use roomreel_compositor::frame::Canvas;
use roomreel_shared::composite::CompositeSpec;

/// A small composite that encodes quickly.
pub fn spec() -> CompositeSpec {
    CompositeSpec { width: 320, height: 180, fps: 30, crf: 28, ..CompositeSpec::default() }
}

/// A moving gradient, `index` frames on.
pub fn paint(canvas: &mut Canvas, index: u64) {
    let (width, stride) = (canvas.width(), canvas.stride(0));
    for (row, line) in canvas.plane_mut(0).chunks_mut(stride).enumerate() {
        for (column, pixel) in line[..width].iter_mut().enumerate() {
            *pixel = 16 + ((column + 2 * row + 3 * index as usize) % 200) as u8;
        }
    }
}

/// Interleaved stereo of a 1 kHz tone at a quarter of full scale, from sample `from` on.
pub fn tone(from: u64, samples: u64) -> Vec<f32> {
    let value = |at: u64| (0.25 * (std::f64::consts::TAU * 1000.0 * at as f64 / 48_000.0).sin()) as f32;
    (from..from + samples).flat_map(|at| [value(at); 2]).collect()
}

/// Renders the slices from `first` to before `end` with one encoder, fed with [`paint`] and [`tone`]; `last` has `last_frames` frames.
pub fn encode(slice_ms: u64, first: u64, end: u64, last_frames: Option<u64>) -> (Vec<EncodedSlice>, Encoder) {
    let spec = spec();
    let mut encoder = Encoder::new(&spec, slice_ms, first).expect("an encoder");
    let fresh = Encoder::new(&spec, slice_ms, first).expect("an encoder");
    let grid = encoder.grid();
    let mut canvas = Canvas::new(320, 180);
    let mut slices = Vec::new();
    let mut sample = encoder.audio_from();
    for slice in first..end {
        let is_last = last_frames.is_some() && slice + 1 == end;
        let frames = grid.frames(slice);
        let frames = if is_last { frames.start..frames.start + last_frames.expect("set") } else { frames };
        for frame in frames.clone() {
            paint(&mut canvas, frame);
            encoder.push_video(&canvas).expect("a frame");
        }
        let samples = if is_last { frames.end * 48_000 / 30 } else { grid.first_sample(slice + 1) };
        encoder.push_audio(&tone(sample, samples - sample)).expect("sound");
        sample = samples;
        if is_last {
            slices.push(encoder.finish_last().expect("the last slice"));
            return (slices, fresh);
        }
        slices.push(encoder.finish_slice().expect("a slice"));
    }
    (slices, fresh)
}

/// Runs a tool; what it prints on standard output, after it succeeded.
pub fn run(tool: &str, arguments: &[&str], file: &Path) -> String {
    let mut command = Command::new(tool);
    for argument in arguments {
        if *argument == "FILE" {
            command.arg(file);
        } else {
            command.arg(argument);
        }
    }
    let output = command.output().unwrap_or_else(|error| panic!("{tool}: {error} (apt-get install ffmpeg)"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && errors.is_empty(), "{tool}: {}: {errors}", output.status);
    String::from_utf8(output.stdout).expect("text")
}

/// Decodes the whole file without a warning.
pub fn decode_cleanly(file: &Path) {
    run("ffmpeg", &["-nostdin", "-v", "warning", "-xerror", "-i", "FILE", "-f", "null", "-"], file);
}

/// The first channel of the file's sound as the player gives it, 48 kHz.
pub fn sound(file: &Path, to: &Path) -> Vec<f32> {
    let to = to.to_str().expect("a path in UTF-8");
    run("ffmpeg", &["-nostdin", "-y", "-v", "warning", "-i", "FILE", "-map", "0:a", "-f", "f32le", to], file);
    let bytes = std::fs::read(to).expect("the sound");
    bytes.chunks_exact(8).map(|pair| f32::from_le_bytes([pair[0], pair[1], pair[2], pair[3]])).collect()
}

/// `(pts, dts, size)` of every packet of a stream, in the order of the file.
pub fn packets(file: &Path, stream: &str) -> Vec<(i64, i64, u64)> {
    let entries =
        ["-v", "warning", "-select_streams", stream, "-show_entries", "packet=pts,dts,size", "-of", "csv=p=0", "FILE"];
    let text = run("ffprobe", &entries, file);
    let number = |field: Option<&str>| field.and_then(|field| field.parse::<i64>().ok()).expect("a number");
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            let mut fields = line.split(',');
            (number(fields.next()), number(fields.next()), number(fields.next()) as u64)
        })
        .collect()
}
