//! The `fasterapi` command: arguments in, exit code out.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use clap::Parser;
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use fasterapi::{
    config::{CommandLine, Config, Ctl, Decided, LogLevel},
    control::{self, Outcome},
    ctl::{self, CtlError},
};

fn main() -> ExitCode {
    // Ends the process by itself: 0 for --help and --version, 2 for what it does not understand.
    let command_line = CommandLine::parse();
    match command_line.resolve() {
        Ok(Decided::Run(config)) => run(&config),
        Ok(Decided::Ctl(ctl)) => order(&ctl),
        Err(error) => fail(&error),
    }
}

fn run(config: &Config) -> ExitCode {
    start_log(config.log_level);
    match control::run(config) {
        Ok(Outcome::Stopped) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted(signal)) => {
            ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
        }
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Err(error) => fail(&error),
    }
}

fn order(ctl: &Ctl) -> ExitCode {
    match ctl::run(ctl) {
        Ok(text) => match io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        Err(error) => {
            fail(&error);
            if let CtlError::Refused { traceback, .. } = &error {
                // As above all: nowhere is left to complain.
                let _ = io::stderr().write_all(traceback.as_bytes());
            }
            ExitCode::from(error.exit_code())
        }
    }
}

fn fail(error: &dyn Display) -> ExitCode {
    // Nowhere is left to complain that stderr is gone.
    let _ = writeln!(io::stderr(), "fasterapi: {error}");
    ExitCode::FAILURE
}

fn start_log(level: LogLevel) {
    let level = LevelFilter::from(level.of_tracing());
    // The library tells of every frame.
    let shown = Targets::new().with_default(level).with_target("h2", level.min(LevelFilter::WARN));
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_max_level(level)
        .with_target(false)
        .finish()
        .with(shown)
        .init();
}
