//! The options that say what the application is, and how it is asked.
//!
//! Invariant: as of [`super`]: what comes out is final. What a worker makes of "auto" depends on the object that it finds, so that
//! word is final here.

use clap::{Args, ValueEnum, builder::BoolishValueParser};

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
}

/// How an application is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Interface {
    /// As the object suggests.
    Auto,
    /// A `fasterapi.FastAPI`.
    Native,
    /// ASGI 3, or 2.
    Asgi,
    /// WSGI (PEP 3333).
    Wsgi,
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
    pub(super) fn resolve(self) -> Application {
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
    fn a_root_path_is_absolute_and_has_no_slash_at_its_end() {
        for (text, expected) in [("", ""), ("/", ""), ("/api", "/api"), ("/a/b/", "/a/b")] {
            assert_eq!(application(&["--root-path", text]).root_path, expected);
        }
        for text in ["api", "/a?b", "/a\nb", "#"] {
            assert!(usage_error(&["main", "--root-path", text]).contains("--root-path"), "{text}");
        }
    }
}
