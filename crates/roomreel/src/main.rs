//! The `roomreel` binary; everything is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    roomreel::run(std::env::args_os())
}
