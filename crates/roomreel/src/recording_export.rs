//! `roomreel export`: what can be made of a recording without rendering it again.
//!
//! Owns the command. Does not own formats, nor which packet goes where: the compositor does.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use futures::StreamExt as _;
use roomreel_compositor::captions::Captions;
use roomreel_compositor::export::{ExportedFile, Exporter, Format};
use roomreel_shared::window::Window;
use tokio::task::block_in_place;

use crate::output::{self, Lines};
use crate::recording_files::RecordingFiles;
use crate::settings::StoreArgs;

/// Arguments of `roomreel export`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  roomreel export out/demo/default/rooms/demo/recordings/01kaj0… --out tracks
  roomreel export 01kaj0v6zq3w8n5x2r7m4c9d1e --store s3://recordings --format mjr --out mjr
  roomreel export out/demo/default/rooms/demo/recordings/01kaj0… --what captions --out captions

A recording that is not finished is exported as far as it goes. \
Exits with 1 if a window is damaged or missing; what can be read is written all the same.")]
pub struct ExportArgs {
    /// A directory of a recording; or (with --store) its prefix in the bucket, or its id.
    #[arg(value_name = "RECORDING")]
    target: String,
    /// Directory for the files; it may exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What is exported.
    #[arg(long, value_enum, default_value_t = What::Tracks)]
    what: What,
    /// What is made of each track.
    #[arg(long, value_enum, default_value_t = TrackFormat::Playable)]
    format: TrackFormat,
    /// TOML file with settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    store: StoreArgs,
}

/// What is made of a track.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum TrackFormat {
    /// WebM, MP4 or MKA by the codec, on the recording's clock; nothing is transcoded.
    Playable,
    /// Every packet as the SFU received it, for rtptools and Wireshark.
    Rtpdump,
    /// RTP for janus-pp-rec.
    Mjr,
}

/// What is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// A file, or several, of each track.
    Tracks,
    /// captions.vtt and captions.srt of the transcript cues.
    Captions,
}

/// Runs the command; `false` if windows are damaged or missing.
///
/// # Errors
/// If there is no recording, or a file cannot be written.
pub async fn run(args: &ExportArgs) -> anyhow::Result<bool> {
    let recording = RecordingFiles::open(&args.target, &args.store).await?;
    let mut windows = recording.windows().await?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("create {}", args.out.display()))?;
    let format = match args.format {
        TrackFormat::Playable => Format::Playable,
        TrackFormat::Rtpdump => Format::Rtpdump,
        TrackFormat::Mjr => Format::Mjr,
    };
    let mut exporter = Exporter::new(&args.out, format);
    let mut captions = Captions::default();
    let mut problems = Vec::new();
    let mut expected = 0;
    while let Some((key, object)) = windows.next().await {
        let object = object.with_context(|| format!("read {key}"))?;
        match Window::parse(object) {
            Ok(window) => {
                if window.header.window != expected {
                    problems.push(format!("{key}: it is window {}, not {expected}", window.header.window));
                }
                expected = window.header.window + 1;
                match args.what {
                    What::Tracks => block_in_place(|| exporter.push_window(&window))?,
                    What::Captions => captions.push_window(&window),
                }
            }
            Err(error) => problems.push(format!("{key}: {error}")),
        }
    }
    let mut told = match args.what {
        What::Tracks => {
            let (files, notes) = block_in_place(|| exporter.finish())?;
            problems.extend(notes);
            text(&files)
        }
        What::Captions => write_captions(&captions, &args.out)?,
    };
    for problem in &problems {
        writeln!(told, "problem: {problem}").expect("writing to a String cannot fail");
    }
    output::print(told)?;
    Ok(problems.is_empty())
}

fn write_captions(captions: &Captions, directory: &Path) -> anyhow::Result<String> {
    for (name, text) in [("captions.vtt", captions.webvtt()), ("captions.srt", captions.srt())] {
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    let (cues, refused) = captions.count();
    let left_out = if refused > 0 { format!(", {refused} left out: too much text") } else { String::new() };
    Ok(format!("{cues} cues in captions.vtt and captions.srt{left_out}\n"))
}

fn text(files: &[ExportedFile]) -> String {
    let mut out = Lines::default();
    let mut line = |text: String| out.push(text);
    line("file                                     codec      from s      to s     count".to_owned());
    for file in files {
        let (from, to) = (file.span_us.0 as f64 / 1e6, file.span_us.1 as f64 / 1e6);
        let turned = if file.is_turned { "  the camera was turned: shown as it was held first" } else { "" };
        line(format!("{:<40} {:<6} {from:>10.3} {to:>9.3} {:>9}{turned}", file.name, file.codec, file.count));
    }
    out.into_text()
}
