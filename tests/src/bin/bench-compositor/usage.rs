//! What a process took, with all it started: the same yardstick for everybody.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// Linux gives processor times in hundredths (USER_HZ), on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;
/// How often memory is looked at; a process's own peak cannot be missed but in its last moments.
const LOOK: Duration = Duration::from_millis(20);

/// Of one run.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// User and system time, seconds.
    pub cpu: f64,
    pub wall: f64,
    /// Most memory in use, bytes.
    pub peak: u64,
}

/// Runs a command to its end, alone.
pub fn run(mut command: Command) -> Result<Usage> {
    let name = command.get_program().to_string_lossy().into_owned();
    let before = children_cpu()?;
    let begun = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().with_context(|| name.clone())?;
    let mut peak = 0;
    let status = loop {
        peak = peak.max(peak_of(child.id()).unwrap_or(0));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(LOOK);
    };
    let wall = begun.elapsed().as_secs_f64();
    ensure!(status.success(), "{name}: {status}");
    Ok(Usage { cpu: children_cpu()? - before, wall, peak })
}

/// User and system time of all children that were waited for, and of theirs.
fn children_cpu() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is a name in brackets and may hold anything.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).context("/proc/self/stat");
    Ok((ticks(13)? + ticks(14)?) / TICKS_PER_SECOND)
}

fn peak_of(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

/// The one in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
