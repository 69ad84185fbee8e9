//! The inputs, made once and kept: for each participant three layers of VP8 and Opus, as an SFU would have them.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::webcam::{FRAME_RATE, HEIGHT, WIDTH, Webcam};

/// Length of every clip, seconds.
pub const SECONDS: usize = 8;
/// Lines of the simulcast layers, the best first.
pub const LAYERS: [usize; 3] = [720, 360, 180];
/// Kilobits a second of each.
const KBITS: [usize; 3] = [1000, 500, 150];
/// Counts up when clips are to be made anew.
const VERSION: u32 = 1;

/// Where the clips are.
#[derive(Debug, Clone)]
pub struct Clips {
    directory: PathBuf,
}

impl Clips {
    /// Clips below `directory`; those of the first `count` participants are made if they are not there.
    pub fn prepare(directory: &Path, count: usize) -> Result<Self> {
        let clips = Self { directory: directory.join(format!("clips-{VERSION}")) };
        std::fs::create_dir_all(&clips.directory)?;
        for participant in 0..count {
            if LAYERS.iter().all(|lines| clips.path(participant, *lines).exists()) {
                continue;
            }
            eprintln!("making the clips of participant {} of {count}", participant + 1);
            clips.make(participant).with_context(|| format!("the clips of participant {participant}"))?;
        }
        Ok(clips)
    }

    /// One layer of a participant, with its sound.
    pub fn path(&self, participant: usize, lines: usize) -> PathBuf {
        self.directory.join(format!("p{participant:02}-{lines}.webm"))
    }

    /// Encodes as browsers do: no look-ahead, a constant bit rate, a key frame every 3 to 5 s.
    fn make(&self, participant: usize) -> Result<()> {
        let seconds = SECONDS.to_string();
        let pitch = 95 + participant * 7 % 120;
        let voice = format!(
            "aevalsrc=0.28*(sin(2*PI*{pitch}*t)+0.5*sin(4*PI*{pitch}*t)+0.3*sin(6*PI*{pitch}*t)+0.2*sin(10*PI*{pitch}*t))\
             *max(0\\,sin(2*PI*3.3*t+{participant}))*gt(sin(2*PI*0.11*t+{participant})\\,-0.3)+0.01*(random(0)-0.5):s=48000"
        );
        let split = LAYERS.iter().skip(1).enumerate().fold(
            format!(
                "[0:v]split={}[v0]{}",
                LAYERS.len(),
                (1..LAYERS.len()).map(|at| format!("[s{at}]")).collect::<String>()
            ),
            |text, (index, lines)| {
                let at = index + 1;
                format!("{text};[s{at}]scale={}:{lines}:flags=area[v{at}]", lines * 16 / 9)
            },
        );
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "yuv420p"]);
        command.args(["-s", &format!("{WIDTH}x{HEIGHT}"), "-r", &FRAME_RATE.to_string(), "-i", "pipe:0"]);
        command.args(["-f", "lavfi", "-t", &seconds, "-i", &voice, "-filter_complex", &split]);
        let temporary = |lines: usize| self.path(participant, lines).with_extension("tmp");
        for (at, (lines, kbits)) in LAYERS.into_iter().zip(KBITS).enumerate() {
            let (rate, distance) = (format!("{kbits}k"), (90 + participant % 3 * 30).to_string());
            command.args(["-map", &format!("[v{at}]"), "-map", "1:a", "-c:v", "libvpx", "-deadline", "realtime"]);
            command.args(["-cpu-used", "6", "-lag-in-frames", "0", "-auto-alt-ref", "0", "-error-resilient", "1"]);
            command.args(["-static-thresh", "1", "-undershoot-pct", "100", "-overshoot-pct", "15", "-threads", "1"]);
            command.args(["-g", &distance, "-b:v", &rate, "-minrate", &rate, "-maxrate", &rate, "-bufsize", &rate]);
            command.args([
                "-c:a",
                "libopus",
                "-b:a",
                "32k",
                "-application",
                "voip",
                "-frame_duration",
                "20",
                "-ac",
                "1",
            ]);
            command.args(["-f", "webm"]).arg(temporary(lines));
        }
        let mut child = command.stdin(Stdio::piped()).spawn().context("ffmpeg (apt-get install ffmpeg)")?;
        let mut input = child.stdin.take().context("its standard input")?;
        let mut webcam = Webcam::new(participant as u64);
        let mut picture = Vec::with_capacity(WIDTH * HEIGHT * 3 / 2);
        for _ in 0..SECONDS * FRAME_RATE {
            picture.clear();
            webcam.draw(&mut picture);
            input.write_all(&picture)?;
        }
        drop(input);
        ensure!(child.wait()?.success(), "ffmpeg did not encode");
        for lines in LAYERS {
            std::fs::rename(temporary(lines), self.path(participant, lines))?;
        }
        Ok(())
    }
}
