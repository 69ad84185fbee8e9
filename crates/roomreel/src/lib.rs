//! The `roomreel` binary: settings → telemetry → the outside → a role → drain.
//!
//! Owns the command line and the order in which a process starts and ends. Does not own what a role does.

mod api;
mod clean;
mod client;
pub mod config;
mod demo;
mod dev;
mod exporter;
mod health;
mod inspect;
mod output;
mod outside;
mod publish;
mod rebuild;
mod recording_export;
mod recording_files;
mod render;
mod roles;
mod sandbox;
mod settings;
mod shutdown;
mod telemetry;
mod trace_parent;
mod verify;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

/// Usage that makes no sense, as shells and clap have it.
const EXIT_USAGE: u8 = 2;

/// Records rooms of WebRTC SFUs: room log in NATS JetStream, recordings in S3, composites ready when the room closes.
#[derive(Debug, Parser)]
#[command(
    name = "roomreel",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Examples:
  roomreel demo --out out/demo                     record a made-up room, no server needed
  roomreel dev --data data                         every role in one process, API on 127.0.0.1:8080
  roomreel status                                  what is being recorded

Every --flag of a command is also the environment variable ROOMREEL_FLAG and the key `flag` of the TOML file \
that --config names. Flags win over the environment, the environment over the file.
`roomreel COMMAND --help` says what a command does and knows."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fold rooms of the log into window objects in the bucket (a service).
    Ingest(Box<roles::IngestArgs>),
    /// Plan recordings, assign rooms and renders, serve the API (a service).
    Coordinator(Box<roles::CoordinatorArgs>),
    /// Render composites as windows land (a service).
    Compositor(Box<roles::CompositorArgs>),
    /// Run all roles in one process, with the log in memory and recordings in a directory.
    Dev(Box<dev::DevArgs>),
    /// Publish a room into the log as an SFU would: a capture, or a made-up room.
    Publish(Box<publish::PublishArgs>),
    /// Start a recording of a room, by the API of a running cluster.
    Record(client::RecordArgs),
    /// Stop a recording, by the API of a running cluster.
    Stop(client::StopArgs),
    /// Show a recording, or those of a day, by the API of a running cluster.
    Status(client::StatusArgs),
    /// Render a recording that has ended again: in another layout, or a part of it.
    Render(Box<render::RenderArgs>),
    /// Make a bearer token for the API, signed with the shared secret of development.
    Token(api::TokenArgs),
    /// Show what is in a window object or in all windows of a recording.
    Inspect(Box<inspect::InspectArgs>),
    /// Write the tracks of a recording, or its captions, to files.
    Export(Box<recording_export::ExportArgs>),
    /// Read everything of a recording again and say what is wrong with it.
    Verify(Box<verify::VerifyArgs>),
    /// Restore from the bucket what a lost etcd held of unfinished recordings.
    Rebuild(Box<rebuild::RebuildArgs>),
    /// Find and delete what in the bucket is part of no recording.
    Clean(Box<clean::CleanArgs>),
    /// Record a room from beginning to end in this process and show what came of it.
    Demo(Box<demo::DemoArgs>),
}

/// The command line's grammar, with all settings.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the program and says how it ended; errors are told on standard error, in one line.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.into_iter().collect();
    // Not a command for people, and not one that has settings.
    if let Some(jail) = sandbox::jail(&arguments) {
        return sandbox::serve(&jail).map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS);
    }
    let parsed = config::matches(command(), arguments).and_then(|(matches, mut command)| {
        Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command).into())
    });
    let cli = match parsed {
        Ok(cli) => cli,
        Err(config::MatchError::Usage(error)) => {
            // Nobody is left to tell if this cannot be printed.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
        Err(config::MatchError::Config(error)) => return fail(&error.into()),
    };
    match execute(cli.command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => fail(&error),
    }
}

#[allow(clippy::print_stderr, reason = "the one place where a command's error is told")]
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("roomreel: {}", one_line(error));
    ExitCode::FAILURE
}

/// The error and its causes, each once: a cause that its effect quotes already is left out.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text.replace('\n', " ").trim_end().to_owned()
}

/// `false`: the command did its work and what it looked at is not as it should be.
fn execute(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Record(args) => client::record(&args),
        Command::Stop(args) => client::stop(&args),
        Command::Status(args) => client::status(&args),
        Command::Render(args) => on_runtime(render::run(&args)),
        Command::Token(args) => api::token(&args).map(|()| true),
        Command::Inspect(args) => on_runtime(inspect::run(&args)),
        Command::Export(args) => on_runtime(recording_export::run(&args)),
        Command::Verify(args) => on_runtime(verify::run(&args)),
        Command::Rebuild(args) => on_runtime(rebuild::run(&args)),
        Command::Clean(args) => on_runtime(clean::run(&args)),
        Command::Publish(args) => on_runtime(publish::run(&args)).map(|()| true),
        Command::Ingest(args) => on_runtime(roles::ingest(&args)).map(|()| true),
        Command::Coordinator(args) => on_runtime(roles::coordinator(&args)).map(|()| true),
        Command::Compositor(args) => on_runtime(roles::compositor(&args)).map(|()| true),
        Command::Dev(args) => on_runtime(dev::run(&args)).map(|()| true),
        Command::Demo(args) => on_runtime(demo::run(&args)).map(|()| true),
    }
}

fn on_runtime<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(future);
    // A blocking call that hangs does not hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn errors_are_one_line_and_say_each_cause_once() {
        let error =
            anyhow::anyhow!("no such host").context("connect to nats://x: no such host").context("start ingest");
        assert_eq!(one_line(&error), "start ingest: connect to nats://x: no such host");
    }
}
