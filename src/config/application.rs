//! The options that say what the application is, and how it is asked.
//!
//! Invariant: as of [`super`]: what comes out is final. What a worker makes of "auto" depends on the object that it finds, so that
//! word is final here.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum, builder::BoolishValueParser};

use crate::limits::WSGI_THREADS_MAX;

#[derive(Clone, Debug, Args)]
pub(super) struct ApplicationArgs {
    /// How the application is called; auto looks at the object
    #[arg(
        long,
        value_enum,
        value_name = "KIND",
        default_value = "auto",
        env = "FASTERAPI_INTERFACE",
        help_heading = "Application"
    )]
    interface: Interface,
    /// The name is that of a function that returns the application
    #[arg(long, env = "FASTERAPI_FACTORY", value_parser = BoolishValueParser::new(), help_heading = "Application")]
    factory: bool,
    /// Path below which a proxy has put the application
    #[arg(
        long,
        value_name = "PATH",
        value_parser = root_path,
        default_value = "",
        hide_default_value = true,
        env = "FASTERAPI_ROOT_PATH",
        help_heading = "Application"
    )]
    root_path: RootPath,
    /// ASGI lifespan: auto lets an application be that does not know it
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value = "auto",
        env = "FASTERAPI_LIFESPAN",
        help_heading = "Application"
    )]
    lifespan: Lifespan,
    /// Threads that each worker runs a WSGI application with
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=WSGI_THREADS_MAX),
        default_value = "1",
        env = "FASTERAPI_THREADS",
        help_heading = "Application"
    )]
    threads: u16,
    /// Event loop of the workers: auto is uvloop where it is installed
    #[arg(
        long = "loop",
        value_enum,
        value_name = "KIND",
        default_value = "auto",
        env = "FASTERAPI_LOOP",
        help_heading = "Application"
    )]
    event_loop: EventLoop,
    /// Variables for the application's environment, NAME=VALUE each; what is set already stays
    #[arg(long, value_name = "PATH", env = "FASTERAPI_ENV_FILE", help_heading = "Application")]
    env_file: Option<PathBuf>,
}

/// How an application is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Interface {
    /// As the object suggests.
    Auto,
    /// A `fasterapi.FastAPI`.
    Native,
    /// ASGI 3, or 2.
    #[value(aliases = ["asgi3", "asgi2"])]
    Asgi,
    /// WSGI (PEP 3333).
    Wsgi,
}

/// Which event loop a worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EventLoop {
    /// uvloop where it is installed.
    Auto,
    /// The standard library's.
    Asyncio,
    /// From the package of that name.
    Uvloop,
}

/// Whether an ASGI application's lifespan is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lifespan {
    /// If it takes part.
    Auto,
    /// And it has to succeed.
    On,
    /// Not at all.
    Off,
}

/// The application, beside its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Application {
    /// As a worker spells it.
    pub interface: &'static str,
    /// The name is a function's that returns it.
    pub factory: bool,
    /// Empty, or an absolute path without a slash at its end.
    pub root_path: String,
    /// As a worker spells it.
    pub lifespan: &'static str,
    /// Of each worker, for a WSGI application.
    pub threads: u16,
    /// As a worker spells it.
    pub event_loop: &'static str,
    /// Absolute.
    pub env_file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
struct RootPath(String);

fn root_path(text: &str) -> Result<RootPath, String> {
    let path = text.trim_end_matches('/');
    if !path.is_empty() && !path.starts_with('/') {
        return Err("a path begins with a slash".to_owned());
    }
    if path.contains(|c: char| c.is_ascii_control() || matches!(c, '?' | '#')) {
        return Err("not a path".to_owned());
    }
    Ok(RootPath(path.to_owned()))
}

impl ApplicationArgs {
    pub(super) fn resolve(self, current_dir: &Path) -> Application {
        Application {
            interface: match self.interface {
                Interface::Auto => "auto",
                Interface::Native => "native",
                Interface::Asgi => "asgi",
                Interface::Wsgi => "wsgi",
            },
            factory: self.factory,
            root_path: self.root_path.0,
            lifespan: match self.lifespan {
                Lifespan::Auto => "auto",
                Lifespan::On => "on",
                Lifespan::Off => "off",
            },
            threads: self.threads,
            event_loop: match self.event_loop {
                EventLoop::Auto => "auto",
                EventLoop::Asyncio => "asyncio",
                EventLoop::Uvloop => "uvloop",
            },
            env_file: self.env_file.map(|path| current_dir.join(path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::{resolve, usage_error};

    fn application(args: &[&str]) -> Application {
        resolve(&[&["main"], args].concat()).unwrap().application
    }

    #[test]
    fn everything_is_found_out_unless_it_is_named() {
        let found = application(&[]);
        assert_eq!((found.interface, found.factory, found.lifespan), ("auto", false, "auto"));
        let args = ["--interface", "asgi", "--factory", "--lifespan", "off"];
        let found = application(&args);
        assert_eq!((found.interface, found.factory, found.lifespan), ("asgi", true, "off"));
        assert!(usage_error(&["main", "--interface", "rsgi"]).contains("native"));
    }

    #[test]
    fn what_uvicorn_calls_asgi_3_is_asgi() {
        for name in ["asgi", "asgi3", "asgi2"] {
            assert_eq!(application(&["--interface", name]).interface, "asgi");
        }
    }

    #[test]
    fn an_environment_file_is_found_from_the_current_directory() {
        assert_eq!(application(&[]).env_file, None);
        let found = application(&["--env-file", ".env"]).env_file;
        assert_eq!(found, Some("/.env".into()));
    }

    #[test]
    fn the_event_loop_is_found_out_unless_it_is_named() {
        assert_eq!(application(&[]).event_loop, "auto");
        assert_eq!(application(&["--loop", "uvloop"]).event_loop, "uvloop");
        assert!(usage_error(&["main", "--loop", "trio"]).contains("asyncio"));
    }

    #[test]
    fn a_worker_has_one_application_thread_unless_it_is_told() {
        assert_eq!(application(&[]).threads, 1);
        assert_eq!(application(&["--interface", "wsgi", "--threads", "4"]).threads, 4);
        for count in ["0", "257", "many"] {
            assert!(usage_error(&["main", "--threads", count]).contains("--threads"), "{count}");
        }
    }

    #[test]
    fn a_root_path_is_absolute_and_has_no_slash_at_its_end() {
        for (text, expected) in [("", ""), ("/", ""), ("/api", "/api"), ("/a/b/", "/a/b")] {
            assert_eq!(application(&["--root-path", text]).root_path, expected);
        }
        for text in ["api", "/a?b", "/a\nb", "#"] {
            assert!(usage_error(&["main", "--root-path", text]).contains("--root-path"), "{text}");
        }
    }
}
