//! What others would use for the same: FFmpeg's command line and GStreamer's compositor.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::arrangement::{HEIGHT, WIDTH, tiles};
use crate::clips::{Clips, SECONDS};
use crate::webcam::FRAME_RATE;

/// FFmpeg's settings for the picture, and ours: a composite's defaults.
pub const PRESET: &str = "veryfast";
pub const CRF: u8 = 23;

/// `scale` and `xstack`, `amix`, x264 and AAC, as one would write it; `crf` of 0 is without loss.
pub fn ffmpeg(clips: &Clips, count: usize, lines: usize, crf: u8, output: &Path) -> Command {
    let mut command = quiet_ffmpeg();
    let (mut graph, mut video, mut audio, mut places) = (String::new(), String::new(), String::new(), Vec::new());
    for (at, tile) in tiles(count).into_iter().enumerate() {
        command.arg("-i").arg(clips.path(at, lines));
        let (width, height) = kept(lines, tile.width, tile.height);
        let crop = format!("crop={width}:{height}:0:0");
        let _ = write!(graph, "[{at}:v]fps={FRAME_RATE},{crop},scale={}:{},setsar=1[v{at}];", tile.width, tile.height);
        let _ = write!(video, "[v{at}]");
        let _ = write!(audio, "[{at}:a]");
        places.push(format!("{}_{}", tile.x, tile.y));
    }
    let stack = match count {
        1 => format!("{video}null[v];"),
        _ => format!("{video}xstack=inputs={count}:layout={},pad={WIDTH}:{HEIGHT}[v];", places.join("|")),
    };
    let _ = write!(graph, "{stack}{audio}amix=inputs={count}:normalize=0[a]");
    command.args(["-filter_complex", &graph, "-map", "[v]", "-map", "[a]", "-t", &SECONDS.to_string()]);
    command.args(["-r", &FRAME_RATE.to_string(), "-pix_fmt", "yuv420p"]);
    command.args(["-c:v", "libx264", "-preset", PRESET, "-crf", &crf.to_string()]);
    command.args(["-c:a", "aac", "-b:a", "128k", "-ac", "2", "-movflags", "+faststart"]).arg(output);
    command
}

/// The part of a layer's picture that has the form of a tile: `scale` alone would stretch three in a row by 0.16 %, which no eye sees, but
/// which costs 10 dB beside a picture that is not.
fn kept(lines: usize, width: usize, height: usize) -> (usize, usize) {
    let columns = lines * WIDTH / HEIGHT;
    let (by_height, by_width) = (lines * width / height, columns * height / width);
    if by_height <= columns { (by_height & !1, lines) } else { (columns, by_width & !1) }
}

/// Encodes another picture with the reference's settings.
pub fn ffmpeg_again(input: &Path, output: &Path) -> Command {
    let mut command = quiet_ffmpeg();
    command.arg("-i").arg(input).args(["-an", "-c:v", "libx264", "-preset", PRESET, "-crf", &CRF.to_string()]);
    command.args(["-pix_fmt", "yuv420p"]).arg(output);
    command
}

fn quiet_ffmpeg() -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-y"]);
    command
}

/// Whether GStreamer and the elements of [`gstreamer`] are installed.
pub fn has_gstreamer() -> bool {
    let elements = ["compositor", "vp8dec", "opusdec", "x264enc", "avenc_aac", "matroskademux", "mp4mux"];
    elements.iter().all(|element| {
        let inspected = Command::new("gst-inspect-1.0").args(["--exists", element]).stderr(Stdio::null()).status();
        inspected.is_ok_and(|status| status.success())
    })
}

/// `videoscale` before `compositor`, `audiomixer`, x264 and AAC.
pub fn gstreamer(clips: &Clips, count: usize, lines: usize, output: &Path) -> Command {
    let mut line = "compositor name=c background=black".to_owned();
    for (at, tile) in tiles(count).into_iter().enumerate() {
        let _ = write!(line, " sink_{at}::xpos={} sink_{at}::ypos={}", tile.x, tile.y);
    }
    let _ = write!(
        line,
        " ! video/x-raw,format=I420,width={WIDTH},height={HEIGHT},framerate={FRAME_RATE}/1 ! queue \
         ! x264enc speed-preset={PRESET} pass=qual quantizer={CRF} threads=0 key-int-max=250 ! h264parse ! queue ! mux. \
         audiomixer name=m ! audioconvert ! audio/x-raw,channels=2 ! avenc_aac bitrate=128000 ! queue ! mux. \
         mp4mux name=mux ! filesink location={}",
        output.display()
    );
    for (at, tile) in tiles(count).into_iter().enumerate() {
        let _ = write!(
            line,
            " filesrc location={} ! matroskademux name=d{at} d{at}. ! queue ! vp8dec threads=0 ! videoscale ! videoconvert \
             ! video/x-raw,format=I420,width={},height={} ! queue ! c.sink_{at} d{at}. ! queue ! opusdec ! audioconvert \
             ! audioresample ! audio/x-raw,rate=48000,channels=2 ! queue ! m.",
            clips.path(at, lines).display(),
            tile.width,
            tile.height
        );
    }
    let mut command = Command::new("gst-launch-1.0");
    command.args(["-q", "-e"]).args(line.split_whitespace());
    command
}
