//! Renders in processes of their own: the setting, and the process.
//!
//! Owns how a compositor runs this program for a render. Does not own what such a process does (the compositor's engine).

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use roomreel_compositor::engine::{self, Isolation, Jail};

/// The subcommand that serves a render.
const SUBCOMMAND: &str = "render-child";

/// Whether renders are isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "kebab-case")]
enum Sandbox {
    /// Nothing is rendered where the system lacks a part of it; Landlock of any version is one.
    Required,
    /// As far as the system offers it; what it lacks is told at start.
    BestEffort,
    /// Renders in the compositor's own process.
    Off,
}

/// Settings of the isolation.
#[derive(Debug, Args)]
#[command(next_help_heading = "Compositor")]
pub struct SandboxSettings {
    /// Decode and encode each render in a process of its own that has no credentials, files or network.
    #[arg(long, value_name = "WHEN", default_value = "best-effort")]
    sandbox: Sandbox,
}

impl SandboxSettings {
    /// How renders have processes of their own, if they have.
    ///
    /// # Errors
    /// If this program cannot be found.
    pub fn isolation(&self) -> anyhow::Result<Option<Arc<Isolation>>> {
        if self.sandbox == Sandbox::Off {
            return Ok(None);
        }
        let is_required = self.sandbox == Sandbox::Required;
        Ok(Some(Arc::new(Isolation::new(this_program()?, vec![SUBCOMMAND.into()], is_required))))
    }
}

/// The program that runs, even if another one has been put in its place meanwhile.
fn this_program() -> anyhow::Result<PathBuf> {
    if cfg!(target_os = "linux") {
        return Ok(PathBuf::from("/proc/self/exe"));
    }
    std::env::current_exe().context("find this program")
}

/// What the process of a render is told, if this is one: `render-child --memory-bytes COUNT [--page NUMBER]`.
pub fn jail(arguments: &[OsString]) -> Option<Jail> {
    let [_, first, rest @ ..] = arguments else { return None };
    if first != SUBCOMMAND {
        return None;
    }
    let told = |name: &str| {
        let at = rest.iter().position(|argument| argument == name)?;
        rest.get(at + 1)?.to_str()
    };
    let memory_bytes = told("--memory-bytes")?.parse().ok()?;
    Some(Jail {
        memory_bytes,
        page: told("--page").and_then(|page| page.parse().ok()),
        #[cfg(debug_assertions)]
        is_tried: rest.iter().any(|argument| argument == "--try"),
    })
}

/// Serves a render until standard input ends.
///
/// # Errors
/// If it is told nonsense or cannot answer.
pub fn serve(jail: &Jail) -> anyhow::Result<()> {
    engine::serve(jail).context("serve a render")
}
