//! The options that say how workers come and go, and where the server is controlled from.
//!
//! Invariant: as of [`super`]: what comes out is final. A time of zero means what it says, except where an option is a limit:
//! there zero is "none".

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{ArgAction, Args, Subcommand, builder::BoolishValueParser};
use glob::Pattern;

use super::{
    ConfigError, Surroundings, find_app_dir,
    limits::{Seconds, Size},
};
use crate::limits::{RESPAWN_DELAY_MAX, SHUTDOWN_MAX, WORKER_START_MAX, WORKERS_MAX};

/// Where root's control sockets are.
const ROOT_CONTROL_DIR: &str = "/run/fasterapi";

#[derive(Debug, Args)]
pub(super) struct LifecycleArgs {
    /// From the request to stop until everything is ended that has not ended; 0: at once
    #[arg(
        long,
        aliases = ["timeout-graceful-shutdown", "graceful-timeout"],
        value_name = "SECONDS",
        default_value_t = Seconds(SHUTDOWN_MAX),
        env = "FASTERAPI_SHUTDOWN_TIMEOUT",
        help_heading = "Lifecycle"
    )]
    shutdown_timeout: Seconds,
    /// For a worker to import the application and be ready; 0: no limit
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = Seconds(WORKER_START_MAX),
        env = "FASTERAPI_START_TIMEOUT",
        help_heading = "Lifecycle"
    )]
    start_timeout: Seconds,
    /// What the growing pause before a failed worker is replaced ends at
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = Seconds(RESPAWN_DELAY_MAX),
        env = "FASTERAPI_RESPAWN_DELAY_MAX",
        help_heading = "Lifecycle"
    )]
    respawn_delay_max: Seconds,
    /// Replace a worker that has served so many requests; 0: never
    #[arg(
        long,
        alias = "limit-max-requests",
        value_name = "N",
        default_value_t = 0,
        env = "FASTERAPI_MAX_REQUESTS",
        help_heading = "Lifecycle"
    )]
    max_requests: u64,
    /// Up to so many requests more, each worker its own number
    #[arg(
        long,
        alias = "limit-max-requests-jitter",
        value_name = "N",
        default_value_t = 0,
        env = "FASTERAPI_MAX_REQUESTS_JITTER",
        help_heading = "Lifecycle"
    )]
    max_requests_jitter: u64,
    /// Replace a worker that has served that long, or up to a tenth less; 0: never
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = Seconds(Duration::ZERO),
        env = "FASTERAPI_MAX_LIFETIME",
        help_heading = "Lifecycle"
    )]
    max_lifetime: Seconds,
    /// Replace a worker that holds more memory (512m, 2g); 0: never
    #[arg(
        long,
        value_name = "SIZE",
        default_value_t = Size(0),
        env = "FASTERAPI_MAX_RSS",
        help_heading = "Lifecycle"
    )]
    max_rss: Size,
    /// Socket for `fasterapi ctl`, or `off` [default: /run/fasterapi/PORT.sock for root, else
    /// $XDG_RUNTIME_DIR/fasterapi/PORT.sock if that is set]
    #[arg(long, value_name = "PATH|off", env = "FASTERAPI_CONTROL", help_heading = "Lifecycle")]
    control: Option<PathBuf>,

    /// Load the application anew whenever a file of it changes
    #[arg(long, env = "FASTERAPI_RELOAD", value_parser = BoolishValueParser::new(), help_heading = "Development")]
    reload: bool,
    /// Watch this directory, with all below it; may be repeated [default: that of the application]
    #[arg(
        long,
        value_name = "DIR",
        value_delimiter = ',',
        action = ArgAction::Append,
        env = "FASTERAPI_RELOAD_DIR",
        help_heading = "Development"
    )]
    reload_dir: Vec<PathBuf>,
    /// Files that count; a pattern with a slash is of the whole path below the directory; may be repeated
    #[arg(
        long,
        value_name = "GLOB",
        value_delimiter = ',',
        action = ArgAction::Append,
        default_value = "*.py",
        env = "FASTERAPI_RELOAD_INCLUDE",
        help_heading = "Development"
    )]
    reload_include: Vec<Pattern>,
    /// Files and directories that do not; may be repeated
    #[arg(
        long,
        value_name = "GLOB",
        value_delimiter = ',',
        action = ArgAction::Append,
        default_value = ".*,__pycache__,node_modules",
        env = "FASTERAPI_RELOAD_EXCLUDE",
        help_heading = "Development"
    )]
    reload_exclude: Vec<Pattern>,
}

/// How workers come and go.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    /// From the request to stop until everything is ended.
    pub shutdown_max: Duration,
    /// From the start of a worker until it is ready.
    pub start_max: Duration,
    /// What the growing pause before a respawn ends at.
    pub respawn_delay_max: Duration,
    /// A worker is replaced after so many requests...
    pub requests_max: Option<u64>,
    /// ...and up to so many more.
    pub requests_jitter: u64,
    /// A worker is replaced after that long.
    pub lifetime_max: Option<Duration>,
    /// A worker is replaced above so many bytes.
    pub rss_max: Option<u64>,
    /// The socket that it is controlled by.
    pub control: Control,
    /// What to watch, if anything.
    pub watch: Option<Watch>,
}

/// Where the control socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Nowhere.
    Off,
    /// There, or the server does not start.
    At(PathBuf),
    /// In this directory, named by the port, if that can be.
    ByPort(PathBuf),
}

/// Which changes of files bring a reload.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Absolute directories.
    pub dirs: Vec<PathBuf>,
    /// Files that count...
    pub include: Vec<Pattern>,
    /// ...unless they, or a directory above them, are among these.
    pub exclude: Vec<Pattern>,
}

impl LifecycleArgs {
    /// `by_port`: it listens on a port, by which a control socket can be found.
    pub(super) fn resolve(
        self,
        app_dir: &str,
        by_port: bool,
        surroundings: &Surroundings,
    ) -> Result<Lifecycle, ConfigError> {
        let control = match self.control {
            Some(path) if path.as_os_str() == "off" => Control::Off,
            Some(path) => Control::At(surroundings.current_dir.join(path)),
            None => match surroundings.control_dir() {
                Some(dir) if by_port => Control::ByPort(dir),
                _ => Control::Off,
            },
        };
        let dirs = match self.reload_dir.is_empty() {
            true => vec![PathBuf::from(app_dir)],
            false => self
                .reload_dir
                .into_iter()
                .map(|dir| find_app_dir("--reload-dir", Some(dir), &surroundings.current_dir))
                .map(|found| found.map(PathBuf::from))
                .collect::<Result<_, _>>()?,
        };
        let (include, exclude) = (self.reload_include, self.reload_exclude);
        Ok(Lifecycle {
            shutdown_max: self.shutdown_timeout.exactly(),
            start_max: self.start_timeout.duration(),
            respawn_delay_max: self.respawn_delay_max.exactly(),
            requests_max: Some(self.max_requests).filter(|max| *max > 0),
            requests_jitter: self.max_requests_jitter,
            lifetime_max: self.max_lifetime.limit(),
            rss_max: self.max_rss.limit(),
            control,
            watch: self.reload.then_some(Watch { dirs, include, exclude }),
        })
    }
}

impl Surroundings {
    /// Where a server's control socket is found without being told.
    fn control_dir(&self) -> Option<PathBuf> {
        match self.is_root {
            true => Some(ROOT_CONTROL_DIR.into()),
            false => self.runtime_dir.as_ref().map(|dir| dir.join("fasterapi")),
        }
    }
}

/// The name of a control socket in its directory.
pub fn control_file(dir: &Path, port: u16) -> PathBuf {
    dir.join(format!("{port}.sock"))
}

#[derive(Debug, Args)]
pub(super) struct CtlArgs {
    /// The server's control socket [default: by the port, where `run` puts it]
    #[arg(long, value_name = "PATH", env = "FASTERAPI_CONTROL")]
    control: Option<PathBuf>,
    /// The port that the server listens on
    #[arg(long, default_value_t = 8000, env = "FASTERAPI_PORT")]
    port: u16,
    /// Say it in JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    order: Order,
}

/// What `fasterapi ctl` is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Order {
    /// Show the server, its shards and its workers
    Status,
    /// Load the application anew, and wait until that has succeeded or failed
    Reload,
    /// Change the number of workers
    Scale {
        /// So many from now on
        #[arg(value_name = "N", value_parser = clap::value_parser!(u64).range(1..=WORKERS_MAX as u64))]
        workers: u64,
    },
    /// Replace one worker without dropping a request, and wait until it is gone
    Drain {
        /// Its place, as `status` shows it
        #[arg(value_name = "W")]
        worker: u16,
    },
    /// Finish what is in flight, then end the server
    Stop,
}

/// An order to a running server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ctl {
    /// Its control socket.
    pub socket: PathBuf,
    /// Answer in JSON.
    pub json: bool,
    /// What to do.
    pub order: Order,
}

impl CtlArgs {
    pub(super) fn resolve(self, surroundings: &Surroundings) -> Result<Ctl, ConfigError> {
        let socket = match self.control {
            Some(path) if path.as_os_str() == "off" => return Err(ConfigError::NoControl),
            Some(path) => surroundings.current_dir.join(path),
            None => match surroundings.control_dir() {
                Some(dir) => control_file(&dir, self.port),
                None => return Err(ConfigError::NoControl),
            },
        };
        Ok(Ctl { socket, json: self.json, order: self.order })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{
        config::{Command, CommandLine, tests::bare},
        limits::NEVER,
    };

    fn run(args: &[&str], surroundings: &Surroundings) -> Result<Lifecycle, ConfigError> {
        let args = ["fasterapi", "run", "main", "--python", "/bin/sh"].iter().chain(args);
        match CommandLine::try_parse_from(args).unwrap().command {
            Command::Run(args) => args.resolve(surroundings).map(|config| config.lifecycle),
            Command::Ctl(_) => unreachable!(),
        }
    }

    fn ctl(args: &[&str], surroundings: &Surroundings) -> Result<Ctl, ConfigError> {
        let args = ["fasterapi", "ctl"].iter().chain(args);
        match CommandLine::try_parse_from(args).unwrap().command {
            Command::Ctl(args) => args.resolve(surroundings),
            Command::Run(_) => unreachable!(),
        }
    }

    fn user() -> Surroundings {
        Surroundings { runtime_dir: Some("/run/user/7".into()), ..bare() }
    }

    #[test]
    fn nothing_is_limited_unless_asked_for() {
        let found = run(&[], &bare()).unwrap();
        assert_eq!(found.shutdown_max, Duration::from_secs(30));
        assert_eq!(found.start_max, Duration::from_secs(120));
        assert_eq!(found.respawn_delay_max, Duration::from_secs(5));
        assert_eq!((found.requests_max, found.lifetime_max, found.rss_max), (None, None, None));
        assert!(found.watch.is_none() && found.control == Control::Off);
    }

    #[test]
    fn limits_are_read_with_their_units() {
        let args = ["--max-requests", "9", "--max-requests-jitter", "3", "--max-lifetime", "0.5"];
        let more = ["--max-rss", "512M", "--shutdown-timeout", "0", "--respawn-delay-max", "1"];
        let found = run(&[args, more].concat(), &bare()).unwrap();
        assert_eq!((found.requests_max, found.requests_jitter), (Some(9), 3));
        assert_eq!(found.lifetime_max, Some(Duration::from_millis(500)));
        assert_eq!(found.rss_max, Some(512 << 20));
        assert_eq!(found.shutdown_max, Duration::ZERO);
        let unlimited = run(&["--start-timeout", "0", "--max-lifetime", "0"], &bare()).unwrap();
        assert_eq!((unlimited.start_max, unlimited.lifetime_max), (NEVER, None));
    }

    #[test]
    fn the_application_is_watched_unless_other_directories_are_named() {
        let watch = run(&["--reload", "--app-dir", "/proc"], &bare()).unwrap().watch.unwrap();
        assert_eq!(watch.dirs, [Path::new("/proc")]);
        assert!(watch.include.iter().any(|glob| glob.matches("x.py")));
        assert!(watch.exclude.iter().any(|glob| glob.matches(".git")));
        let args = ["--reload", "--reload-dir", "/sys", "--reload-dir", "/proc"];
        let watch = run(&args, &bare()).unwrap().watch.unwrap();
        assert_eq!(watch.dirs, [Path::new("/sys"), Path::new("/proc")]);
        let error = run(&["--reload-dir", "/nowhere"], &bare()).unwrap_err().to_string();
        assert!(error.starts_with("--reload-dir /nowhere: No such file"), "{error}");
    }

    #[test]
    fn run_and_ctl_agree_where_the_socket_is() {
        for (surroundings, expected) in [
            (user(), "/run/user/7/fasterapi"),
            (Surroundings { is_root: true, ..user() }, "/run/fasterapi"),
        ] {
            let Control::ByPort(dir) = run(&[], &surroundings).unwrap().control else { panic!() };
            assert_eq!(dir, Path::new(expected));
            let found = ctl(&["--port", "81", "status"], &surroundings).unwrap();
            assert_eq!(found.socket, control_file(&dir, 81));
            assert_eq!(run(&["--control", "off"], &surroundings).unwrap().control, Control::Off);
            assert_eq!(run(&["--uds", "/x"], &surroundings).unwrap().control, Control::Off);
        }
        let at = run(&["--control", "x.sock"], &bare()).unwrap().control;
        assert_eq!(at, Control::At("/x.sock".into()));
        let found = ctl(&["--control", "x.sock", "scale", "3", "--json"], &bare()).unwrap();
        let order = Order::Scale { workers: 3 };
        assert_eq!(found, Ctl { socket: "/x.sock".into(), json: true, order });
        let error = ctl(&["status"], &bare()).unwrap_err().to_string();
        assert!(error.contains("--control PATH"), "{error}");
    }
}
