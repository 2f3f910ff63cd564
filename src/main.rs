//! The `fasterapi` command: arguments in, exit code out.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::Parser;
use fasterapi::{
    config::{CommandLine, LogLevel},
    control::{self, Outcome},
};

fn main() -> ExitCode {
    // Ends the process by itself: 0 for --help and --version, 2 for what it does not understand.
    let command_line = CommandLine::parse();
    let config = match command_line.resolve() {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    start_log(config.log_level);
    match control::run(&config) {
        Ok(Outcome::Stopped) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted(signal)) => {
            ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
        }
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Err(error) => fail(&error),
    }
}

fn fail(error: &dyn Display) -> ExitCode {
    // Nowhere is left to complain that stderr is gone.
    let _ = writeln!(io::stderr(), "fasterapi: {error}");
    ExitCode::FAILURE
}

fn start_log(level: LogLevel) {
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_max_level(level.of_tracing())
        .with_target(false)
        .init();
}
