//! What a run took: processor time of this process and of others, memory.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// What one run of a role did, and what it took.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Sample {
    pub packets: u64,
    /// Bytes of the messages.
    pub bytes: u64,
    /// User and system time of the role's process.
    pub cpu: f64,
    pub wall: f64,
    /// Objects created.
    pub puts: u64,
    /// Bytes of the process above those before the first room: at most, and on average.
    pub memory: (u64, u64),
    /// Send to receive, microseconds, ascending.
    pub latencies: Vec<u64>,
}

impl Sample {
    pub fn packets_per_core(&self) -> f64 {
        self.packets as f64 / self.cpu
    }

    pub fn megabytes_per_core(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.cpu
    }
}

/// Measures from its making on.
pub struct Stopwatch {
    cpu: Duration,
    begun: Instant,
}

impl Stopwatch {
    pub fn start() -> Self {
        Self { cpu: process_time(), begun: Instant::now() }
    }

    /// Seconds of processor and wall time since.
    pub fn read(&self) -> (f64, f64) {
        ((process_time() - self.cpu).as_secs_f64(), self.begun.elapsed().as_secs_f64())
    }
}

/// User and system time of this process, all threads: what getrusage gives, to the nanosecond.
fn process_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// User and system time of another process so far, seconds.
pub fn time_of(process: u32) -> Result<f64> {
    /// Linux gives them in hundredths (USER_HZ), on every architecture.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).context("/proc/…/stat");
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// Bytes of this process in memory.
pub fn memory() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
