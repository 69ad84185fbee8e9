//! Standard output, written so that a closed pipe ends the program quietly.

use std::io::{ErrorKind, IsTerminal as _, Write as _};

/// Writes `text` to standard output.
///
/// # Errors
/// If it cannot be written; a reader that has gone away is no error.
pub fn print(text: impl AsRef<str>) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_ref().as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Lines about what came from outside: names and ids that would move the cursor, or begin a line of their own, cannot.
#[derive(Debug, Default)]
pub struct Lines(String);

impl Lines {
    /// Appends one line. Control characters in it are spelled out.
    pub fn push(&mut self, line: impl AsRef<str>) {
        for char in line.as_ref().chars() {
            if char.is_control() {
                self.0.extend(char.escape_default());
            } else {
                self.0.push(char);
            }
        }
        self.0.push('\n');
    }

    /// All of them.
    #[must_use]
    pub fn into_text(self) -> String {
        self.0
    }
}

/// A line that says how far something has come: one that is rewritten on a terminal, new ones elsewhere.
#[derive(Debug)]
pub struct Progress {
    terminal: bool,
    open: bool,
}

impl Progress {
    /// On standard output, as it is.
    #[must_use]
    pub fn new() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), open: false }
    }

    /// Whether every update can be shown: lines that pile up are given seldom.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.terminal
    }

    /// Shows the newest state.
    ///
    /// # Errors
    /// As [`print`].
    pub fn show(&mut self, line: &str) -> std::io::Result<()> {
        self.open = self.terminal;
        if self.terminal { print(format!("\r\x1b[2K{line}")) } else { print(format!("{line}\n")) }
    }

    /// Leaves the line as it is; what follows begins below it.
    ///
    /// # Errors
    /// As [`print`].
    pub fn end(&mut self) -> std::io::Result<()> {
        if std::mem::take(&mut self.open) { print("\n") } else { Ok(()) }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_outside_stays_on_its_line() {
        let mut lines = Lines::default();
        lines.push("room stand\r\nstate COMPLETE\u{1b}[2J\u{9b}1m");
        lines.push("größe ×2");
        assert_eq!(lines.into_text(), "room stand\\r\\nstate COMPLETE\\u{1b}[2J\\u{9b}1m\ngröße ×2\n");
    }
}
