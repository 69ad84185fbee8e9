//! What happened, for the one who has to understand a failure; and its hash, which two runs of a seed must share.

use std::time::Duration;

/// Most lines that are kept.
const MAX_LINES: usize = 20_000;

/// The story of a run.
#[derive(Debug, Default)]
pub struct Story {
    lines: Vec<(Duration, String)>,
    trace: blake3::Hasher,
}

impl Story {
    /// Notes what happened.
    pub(super) fn tell(&mut self, now: Duration, line: String) {
        self.trace(now, line.as_bytes());
        if self.lines.len() < MAX_LINES {
            self.lines.push((now, line));
        }
    }

    /// Counts something towards the hash alone.
    pub(super) fn trace(&mut self, now: Duration, what: &[u8]) {
        self.trace.update(&now.as_micros().to_le_bytes()).update(what);
    }

    /// The hash of everything that happened.
    #[must_use]
    pub fn hash(&self) -> blake3::Hash {
        self.trace.finalize()
    }

    /// The last lines, and before them those that name one of `words`.
    #[must_use]
    pub fn excerpt(&self, words: &[&str], last: usize) -> String {
        let from = self.lines.len().saturating_sub(last);
        let chosen = self.lines.iter().enumerate();
        let chosen = chosen.filter(|(at, (_, line))| *at >= from || words.iter().any(|word| line.contains(word)));
        chosen.map(|(_, (now, line))| format!("{:>8.2}s  {line}\n", now.as_secs_f64())).collect()
    }
}
