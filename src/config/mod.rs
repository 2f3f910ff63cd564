//! What the operator asked for: command line and environment in, one [`Config`] out.
//!
//! Invariant: the environment is read here and nowhere else, and every field of [`Config`] is final: "one per CPU" is a
//! number, a default is its value, a path is absolute or found. Deliberately absent: sockets, processes, files being opened.
#![forbid(unsafe_code)]

pub mod application;
pub mod headers;
pub mod http3;
mod lifecycle;
pub mod limits;
pub mod listening;
pub mod tls;
pub mod websocket;

use std::{
    env, fmt, io,
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    str::FromStr,
    thread,
};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::BoolishValueParser};
use rustix::{
    fs::{Access, access},
    process::geteuid,
};
use thiserror::Error;

pub use self::lifecycle::{Control, Ctl, Lifecycle, Order, Watch, control_file};
use self::lifecycle::{CtlArgs, LifecycleArgs};
pub use self::listening::{Bind, Listening};
use crate::limits::{SHARDS_MAX, WORKERS_MAX};

/// What the operator got wrong. `main` prints it in one line.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// APP is not `module:attribute`.
    #[error(
        "{0:?} is not an application: {1}; expected `module:attribute`, for example `main:app`"
    )]
    App(String, &'static str),
    /// A directory that is none.
    #[error("{option} {}: {error}", .dir.display())]
    Dir {
        /// Of which option.
        option: &'static str,
        /// As asked.
        dir: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A path that cannot be passed on as text.
    #[error("{}: not valid UTF-8", .0.display())]
    Encoding(PathBuf),
    /// The interpreter that was named does not exist.
    #[error("--python {}: no such executable", .0.display())]
    Python(PathBuf),
    /// None was named and none was found.
    #[error(
        "no python3 beside this program, in $VIRTUAL_ENV or on PATH; name one with --python PATH"
    )]
    NoPython,
    /// A number outside its bounds.
    #[error("--{name} {value}: at most {max}")]
    TooMany {
        /// Of what.
        name: &'static str,
        /// What was asked for.
        value: usize,
        /// The bound.
        max: usize,
    },
    /// The environment's number of workers is none.
    #[error("WEB_CONCURRENCY={0:?}: not a number of workers")]
    WebConcurrency(String),
    /// Of the proxies that are believed.
    #[error("FORWARDED_ALLOW_IPS: {0}")]
    Listening(#[from] listening::ListeningError),
    /// Options about TLS that contradict each other.
    #[error(transparent)]
    Tls(#[from] tls::TlsConfigError),
    /// Options about HTTP/3 that contradict each other.
    #[error(transparent)]
    Http3(#[from] http3::Http3ConfigError),
    /// `ctl` was not told which server.
    #[error(
        "where is the server's control socket? name it with --control PATH, here and in `fasterapi run`"
    )]
    NoControl,
    /// The admin address does not resolve.
    #[error("--admin {0}: {1}")]
    Admin(String, io::Error),
}

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "fasterapi",
    version,
    about = "HTTP on io_uring in front of Python workers: one server in place of nginx + gunicorn + uvicorn",
    after_help = "Every option can be given as an environment variable; the command line wins.",
    disable_help_subcommand = true
)]
pub struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve an application
    Run(Box<RunArgs>),
    /// Ask something of a server that runs
    Ctl(CtlArgs),
}

/// What the command line comes to.
#[derive(Clone, Debug)]
pub enum Decided {
    /// Serve.
    Run(Box<Config>),
    /// Ask a server.
    Ctl(Ctl),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The application: `module:attribute`; a bare `module` means `module:app`
    #[arg(env = "FASTERAPI_APP")]
    app: AppSpec,
    /// Directory that the application is imported from [default: the current one]
    #[arg(long, value_name = "DIR", env = "FASTERAPI_PROJECT_DIR", help_heading = "Application")]
    app_dir: Option<PathBuf>,
    /// Python interpreter [default: python3 beside this program, then in $VIRTUAL_ENV, then on PATH]
    #[arg(long, value_name = "PATH", env = "FASTERAPI_PYTHON", help_heading = "Application")]
    python: Option<PathBuf>,
    /// Debug mode of the application: tracebacks in error responses
    #[arg(long, env = "FASTERAPI_DEBUG", value_parser = BoolishValueParser::new(), help_heading = "Application")]
    debug: bool,

    #[command(flatten)]
    listening: listening::ListeningArgs,

    /// Versions of HTTP to speak: auto (HTTP/1.1 and HTTP/2, by ALPN or the first bytes) or 1 (HTTP/1.1 only)
    #[arg(
        long,
        value_enum,
        value_name = "VERSIONS",
        default_value = "auto",
        env = "FASTERAPI_HTTP",
        help_heading = "Listening"
    )]
    http: HttpVersions,

    /// Python worker processes; 0: one per CPU [default: $WEB_CONCURRENCY, else 1]
    #[arg(short, long, value_name = "N", env = "FASTERAPI_WORKERS", help_heading = "Processes")]
    workers: Option<usize>,
    /// Threads that serve the network; 0: one per four CPUs
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        env = "FASTERAPI_SHARDS",
        help_heading = "Processes"
    )]
    shards: usize,

    #[command(flatten)]
    headers: headers::Headers,

    #[command(flatten)]
    tls: tls::TlsArgs,

    #[command(flatten)]
    http3: http3::Http3Args,

    #[command(flatten)]
    application: application::ApplicationArgs,

    #[command(flatten)]
    limits: limits::Limits,

    #[command(flatten)]
    websockets: websocket::WebSockets,

    /// How much to log to stderr: critical, error, warning, info, debug or trace
    #[arg(
        long,
        value_enum,
        value_name = "LEVEL",
        hide_possible_values = true,
        ignore_case = true,
        default_value = "info",
        env = "FASTERAPI_LOG_LEVEL",
        help_heading = "Observing"
    )]
    log_level: LogLevel,
    /// Write an access log to a file (reopened on SIGUSR1), to stdout (`-`, or no value), or not (`off`)
    #[arg(
        long,
        alias = "access-logfile",
        value_name = "PATH|-|off",
        num_args = 0..=1,
        default_missing_value = "-",
        default_value = "off",
        hide_default_value = true,
        env = "FASTERAPI_ACCESS_LOG",
        help_heading = "Observing"
    )]
    access_log: AccessLog,
    #[arg(long, hide = true, overrides_with = "access_log")]
    no_access_log: bool,
    /// Answer /healthz and /readyz on this address
    #[arg(long, value_name = "HOST:PORT", env = "FASTERAPI_ADMIN", help_heading = "Observing")]
    admin: Option<String>,

    #[command(flatten)]
    lifecycle: LifecycleArgs,
}

/// Where the application is: a module and an attribute of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppSpec {
    module: String,
    attribute: String,
}

impl FromStr for AppSpec {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = |why| ConfigError::App(text.to_owned(), why);
        let (module, attribute) = text.split_once(':').unwrap_or((text, "app"));
        let is_file =
            module.contains('/') || Path::new(module).extension().is_some_and(|e| e == "py");
        if is_file {
            return Err(wrong("a module is named as in `import`, without path and `.py`"));
        }
        if !is_dotted_name(module) {
            return Err(wrong("not a module name before the colon"));
        }
        if !is_dotted_name(attribute) {
            return Err(wrong("not an attribute name after the colon"));
        }
        Ok(Self { module: module.to_owned(), attribute: attribute.to_owned() })
    }
}

fn is_dotted_name(text: &str) -> bool {
    text.split('.').all(|part| {
        !part.starts_with(|c: char| c.is_numeric())
            && !part.is_empty()
            && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    })
}

impl fmt::Display for AppSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.module, self.attribute)
    }
}

/// Python's levels, since the workers log by them too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// The edge has nothing above `error`: as that.
    Critical,
    /// Something failed.
    Error,
    /// Something may fail soon.
    Warning,
    /// What an operator wants to know.
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// As Python and the command line spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }

    /// The edge's own.
    pub fn of_tracing(self) -> tracing::Level {
        match self {
            Self::Critical | Self::Error => tracing::Level::ERROR,
            Self::Warning => tracing::Level::WARN,
            Self::Info => tracing::Level::INFO,
            Self::Debug => tracing::Level::DEBUG,
            Self::Trace => tracing::Level::TRACE,
        }
    }
}

/// Where access-log lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Standard output.
    Stdout,
    /// Onto the end of a file.
    File(PathBuf),
}

impl FromStr for AccessLog {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "off" | "" => Self::Off,
            "-" => Self::Stdout,
            path => Self::File(path.into()),
        })
    }
}

/// Versions of HTTP over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HttpVersions {
    /// What the client asks for.
    #[value(name = "auto")]
    Auto,
    /// HTTP/1.1 and 1.0.
    #[value(name = "1")]
    Http1,
}

/// Everything, decided.
#[derive(Clone, Debug)]
pub struct Config {
    /// The application.
    pub app: AppSpec,
    /// What it is, and how it is asked.
    pub application: application::Application,
    /// Where it is imported from; absolute.
    pub app_dir: String,
    /// The interpreter; exists and is executable.
    pub python: PathBuf,
    /// Debug mode of the application.
    pub debug: bool,
    /// What is spoken there.
    pub http: HttpVersions,
    /// Where to listen, and behind which proxies.
    pub listening: Listening,
    /// Fields of every response.
    pub headers: headers::Headers,
    /// TLS, if it is to be spoken.
    pub tls: Option<tls::Tls>,
    /// HTTP/3, if it is to be spoken.
    pub http3: Option<http3::Http3>,
    /// Worker processes, `1..=WORKERS_MAX`.
    pub workers: u16,
    /// Shards, `1..=SHARDS_MAX`.
    pub shards: usize,
    /// True when each shard and each worker can have a CPU of its own.
    pub cpus_suffice: bool,
    /// What a request, a connection and a worker may take.
    pub limits: limits::Limits,
    /// How WebSockets are run.
    pub websockets: websocket::WebSockets,
    /// How much to log.
    pub log_level: LogLevel,
    /// The access log.
    pub access_log: AccessLog,
    /// The admin listener's address.
    pub admin: Option<SocketAddr>,
    /// How workers come and go.
    pub lifecycle: Lifecycle,
}

/// What the decisions depend on besides the command line.
#[derive(Clone, Debug)]
struct Surroundings {
    cpus: usize,
    current_dir: PathBuf,
    program_dir: Option<PathBuf>,
    virtual_env: Option<PathBuf>,
    path: Vec<PathBuf>,
    is_root: bool,
    runtime_dir: Option<PathBuf>,
    /// What platforms say to all servers of Python applications.
    web_concurrency: Option<String>,
    forwarded_allow_ips: Option<String>,
}

impl Surroundings {
    fn look() -> Self {
        let path = env::var_os("PATH").unwrap_or_default();
        let variable = |name| env::var_os(name).map(|text| text.to_string_lossy().into_owned());
        Self {
            // Counts the affinity mask and a cgroup's CPU quota.
            cpus: thread::available_parallelism().map_or(1, usize::from),
            current_dir: env::current_dir().unwrap_or_default(),
            program_dir: env::current_exe().ok().and_then(|exe| Some(exe.parent()?.to_owned())),
            virtual_env: env::var_os("VIRTUAL_ENV").filter(|v| !v.is_empty()).map(PathBuf::from),
            path: env::split_paths(&path).filter(|dir| !dir.as_os_str().is_empty()).collect(),
            is_root: geteuid().is_root(),
            runtime_dir: env::var_os("XDG_RUNTIME_DIR")
                .map(PathBuf::from)
                .filter(|d| d.is_absolute()),
            web_concurrency: variable("WEB_CONCURRENCY"),
            forwarded_allow_ips: variable("FORWARDED_ALLOW_IPS"),
        }
    }
}

impl CommandLine {
    /// Decides everything that was left open.
    pub fn resolve(self) -> Result<Decided, ConfigError> {
        let surroundings = Surroundings::look();
        Ok(match self.command {
            Command::Run(args) => Decided::Run(Box::new(args.resolve(&surroundings)?)),
            Command::Ctl(args) => Decided::Ctl(args.resolve(&surroundings)?),
        })
    }
}

impl RunArgs {
    fn resolve(self, surroundings: &Surroundings) -> Result<Config, ConfigError> {
        let args = self;
        let cpus = surroundings.cpus;
        let shards = count("shards", args.shards, cpus.div_ceil(4), SHARDS_MAX)?;
        let suggested = surroundings.web_concurrency.as_deref().filter(|text| !text.is_empty());
        let workers = match (args.workers, suggested) {
            (Some(asked), _) => asked,
            (None, Some(text)) => {
                text.parse().map_err(|_| ConfigError::WebConcurrency(text.to_owned()))?
            }
            (None, None) => 1,
        };
        let workers = count("workers", workers, cpus, WORKERS_MAX)?;
        let listening = args.listening.resolve(surroundings.forwarded_allow_ips.as_deref())?;
        let host = match &listening.bind {
            Bind::Tcp(host, _) => Some(host.as_str()),
            Bind::Unix(_) | Bind::Inherited(_) => None,
        };
        let app_dir = find_app_dir("--app-dir", args.app_dir, &surroundings.current_dir)?;
        let unix = matches!(listening.bind, Bind::Unix(_));
        let lifecycle = args.lifecycle.resolve(&app_dir, !unix, surroundings)?;
        let here = &surroundings.current_dir;
        let tls = args.tls.resolve(here, host)?;
        Ok(Config {
            app_dir,
            lifecycle,
            python: find_python(args.python, surroundings)?,
            app: args.app,
            http3: args.http3.resolve(here, tls.is_some(), host.is_none())?,
            tls,
            application: args.application.resolve(here),
            debug: args.debug,
            http: args.http,
            headers: args.headers,
            listening,
            workers: u16::try_from(workers).unwrap_or_else(|_| unreachable!("WORKERS_MAX")),
            shards,
            cpus_suffice: cpus >= shards + workers,
            limits: args.limits,
            websockets: args.websockets,
            log_level: args.log_level,
            access_log: if args.no_access_log { AccessLog::Off } else { args.access_log },
            admin: args.admin.map(find_admin).transpose()?,
        })
    }
}

fn count(
    name: &'static str,
    value: usize,
    automatic: usize,
    max: usize,
) -> Result<usize, ConfigError> {
    match value {
        0 => Ok(automatic.clamp(1, max)),
        value if value > max => Err(ConfigError::TooMany { name, value, max }),
        value => Ok(value),
    }
}

fn find_app_dir(
    option: &'static str,
    asked: Option<PathBuf>,
    current_dir: &Path,
) -> Result<String, ConfigError> {
    let dir = current_dir.join(asked.unwrap_or_default());
    let found = dir.canonicalize().and_then(|dir| dir.read_dir().map(|_| dir));
    let dir = found.map_err(|error| ConfigError::Dir { option, dir, error })?;
    dir.into_os_string().into_string().map_err(|dir| ConfigError::Encoding(dir.into()))
}

/// A symbolic link is kept as it is: following it would lead out of the virtual environment.
fn find_python(
    asked: Option<PathBuf>,
    surroundings: &Surroundings,
) -> Result<PathBuf, ConfigError> {
    let on_path = |name: &Path| {
        let candidates = surroundings.path.iter().map(|dir| dir.join(name));
        candidates.into_iter().find(|file| is_executable(file))
    };
    if let Some(asked) = asked {
        // As a shell does: a name without a slash is looked for on PATH.
        let is_name = asked.components().count() == 1 && !asked.has_root();
        let found = if is_name { on_path(&asked) } else { None };
        let file = found.unwrap_or_else(|| surroundings.current_dir.join(&asked));
        return is_executable(&file).then_some(file).ok_or(ConfigError::Python(asked));
    }
    let beside = surroundings.program_dir.as_ref().map(|dir| dir.join("python3"));
    let in_venv = surroundings.virtual_env.as_ref().map(|dir| dir.join("bin/python3"));
    let near = beside.into_iter().chain(in_venv).find(|file| is_executable(file));
    near.or_else(|| on_path(Path::new("python3"))).ok_or(ConfigError::NoPython)
}

fn is_executable(file: &Path) -> bool {
    file.is_file() && access(file, Access::EXEC_OK).is_ok()
}

fn find_admin(text: String) -> Result<SocketAddr, ConfigError> {
    let nothing = || io::Error::other("no address of that name");
    let found = text.to_socket_addrs().and_then(|mut all| all.next().ok_or_else(nothing));
    found.map_err(|error| ConfigError::Admin(text, error))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    pub(super) fn bare() -> Surroundings {
        Surroundings {
            cpus: 6,
            current_dir: "/".into(),
            program_dir: None,
            virtual_env: None,
            path: Vec::new(),
            is_root: false,
            runtime_dir: None,
            web_concurrency: None,
            forwarded_allow_ips: None,
        }
    }

    pub(super) fn resolve(args: &[&str]) -> Result<Config, ConfigError> {
        let args = ["fasterapi", "run", "--python", "/bin/sh"].iter().chain(args);
        match CommandLine::try_parse_from(args).unwrap().command {
            Command::Run(args) => args.resolve(&bare()),
            Command::Ctl(_) => unreachable!("`run`"),
        }
    }

    pub(super) fn usage_error(args: &[&str]) -> String {
        let args = ["fasterapi", "run"].iter().chain(args);
        CommandLine::try_parse_from(args).unwrap_err().to_string()
    }

    #[test]
    fn an_application_is_a_module_and_an_attribute() {
        for (text, expected) in [
            ("main", "main:app"),
            ("main:app", "main:app"),
            ("pkg.sub:api.v1", "pkg.sub:api.v1"),
            ("größe:_x", "größe:_x"),
        ] {
            assert_eq!(text.parse::<AppSpec>().unwrap().to_string(), expected);
        }
        for (text, reason) in [
            ("main.py", "`.py`"),
            ("main.py:app", "`.py`"),
            ("./main", "path"),
            ("src/main:app", "path"),
            ("", "module name"),
            (":app", "module name"),
            ("a..b", "module name"),
            ("1st:app", "module name"),
            ("main:", "attribute name"),
            ("main:app()", "attribute name"),
            ("main:app:x", "attribute name"),
            ("ma in:app", "module name"),
        ] {
            let error = text.parse::<AppSpec>().unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("main:app"), "{text:?}: {error}");
        }
    }

    #[test]
    fn defaults_are_one_worker_and_one_shard_on_localhost() {
        let config = resolve(&["main"]).unwrap();
        assert_eq!((config.workers, config.shards), (1, 1));
        assert_eq!(config.listening.bind, Bind::Tcp("127.0.0.1".into(), 8000));
        assert_eq!((config.access_log, config.log_level), (AccessLog::Off, LogLevel::Info));
        assert_eq!((config.app_dir.as_str(), config.admin), ("/", None));
        assert!(config.cpus_suffice && !config.debug);
    }

    #[test]
    fn zero_means_as_many_as_the_cpus_suggest() {
        let config = resolve(&["main", "--workers", "0", "--shards", "0"]).unwrap();
        assert_eq!((config.workers, config.shards, config.cpus_suffice), (6, 2, false));
        assert!(resolve(&["main", "--shards", "2", "--workers", "4"]).unwrap().cpus_suffice);
    }

    #[test]
    fn what_platforms_say_to_all_servers_counts_unless_we_are_told_otherwise() {
        let run = |args: &[&str], suggested: &str| {
            let args = ["fasterapi", "run", "main", "--python", "/bin/sh"].iter().chain(args);
            let found = Surroundings {
                web_concurrency: Some(suggested.to_owned()),
                forwarded_allow_ips: Some("10.0.0.1".to_owned()),
                ..bare()
            };
            match CommandLine::try_parse_from(args).unwrap().command {
                Command::Run(args) => args.resolve(&found),
                Command::Ctl(_) => unreachable!("`run`"),
            }
        };
        let networks = |config: Config| config.listening.proxies.unwrap().0;
        assert_eq!(run(&[], "3").unwrap().workers, 3);
        assert_eq!(run(&[], "").unwrap().workers, 1);
        assert_eq!(run(&["-w", "2"], "3").unwrap().workers, 2);
        assert_eq!(networks(run(&[], "3").unwrap()), [("10.0.0.1".parse().unwrap(), 32)]);
        let named = run(&["--forwarded-allow-ips", "::1"], "3").unwrap();
        assert_eq!(networks(named), [("::1".parse().unwrap(), 128)]);
        let error = run(&[], "many").unwrap_err().to_string();
        assert_eq!(error, "WEB_CONCURRENCY=\"many\": not a number of workers");
    }

    #[test]
    fn too_many_are_refused() {
        let error = resolve(&["main", "--shards", "65"]).unwrap_err().to_string();
        assert_eq!(error, "--shards 65: at most 64");
        let error = resolve(&["main", "--workers", "257"]).unwrap_err().to_string();
        assert_eq!(error, "--workers 257: at most 256");
    }

    #[test]
    fn the_access_log_flag_takes_a_file_a_dash_off_or_nothing() {
        let log = |args: &[&str]| resolve(&[&["main"], args].concat()).unwrap().access_log;
        assert_eq!(log(&["--access-log"]), AccessLog::Stdout);
        assert_eq!(log(&["--access-log", "-"]), AccessLog::Stdout);
        assert_eq!(log(&["--access-log", "--no-access-log"]), AccessLog::Off);
        assert_eq!(log(&["--access-log", "off"]), AccessLog::Off);
        assert_eq!(log(&["--access-log", "/tmp/a.log"]), AccessLog::File("/tmp/a.log".into()));
    }

    #[test]
    fn log_levels_are_read_in_any_case() {
        let config = resolve(&["main", "--log-level", "WARNING"]).unwrap();
        assert_eq!(config.log_level, LogLevel::Warning);
        assert!(usage_error(&["main", "--log-level", "loud"]).contains("critical"));
    }

    #[test]
    fn mistakes_on_the_command_line_are_named() {
        assert!(usage_error(&["main", "--wrokers", "2"]).contains("--workers"));
        assert!(usage_error(&["main.py"]).contains("`main:app`"));
        assert!(usage_error(&["main", "--port", "70000"]).contains("70000"));
    }

    #[test]
    fn an_app_dir_must_be_a_directory() {
        let error = resolve(&["main", "--app-dir", "/nowhere/at/all"]).unwrap_err().to_string();
        assert!(error.starts_with("--app-dir /nowhere/at/all: No such file"), "{error}");
        assert!(resolve(&["main", "--app-dir", "/bin/sh"]).is_err());
    }

    #[test]
    fn an_admin_address_must_resolve() {
        let admin = resolve(&["main", "--admin", "[::1]:0"]).unwrap().admin;
        assert_eq!(admin, Some("[::1]:0".parse().unwrap()));
        assert!(matches!(resolve(&["main", "--admin", "9000"]), Err(ConfigError::Admin(..))));
    }

    #[test]
    fn python_is_looked_for_nearest_first() {
        let root = env::temp_dir().join(format!("fasterapi-config-{}", std::process::id()));
        let make = |name: &str| {
            let file = root.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "").unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
            file
        };
        let on_path = make("path/python3");
        let mut surroundings = bare();
        assert!(matches!(find_python(None, &surroundings), Err(ConfigError::NoPython)));
        surroundings.path = vec![root.join("path")];
        surroundings.virtual_env = Some(root.join("venv"));
        surroundings.program_dir = Some(root.join("program"));
        assert_eq!(find_python(None, &surroundings).unwrap(), on_path);
        let in_venv = make("venv/bin/python3");
        assert_eq!(find_python(None, &surroundings).unwrap(), in_venv);
        let beside = make("program/python3");
        assert_eq!(find_python(None, &surroundings).unwrap(), beside);

        let asked = |text: &str| find_python(Some(text.into()), &surroundings);
        assert_eq!(asked("python3").unwrap(), on_path);
        assert_eq!(asked(in_venv.to_str().unwrap()).unwrap(), in_venv);
        let error = asked("python9").unwrap_err().to_string();
        assert_eq!(error, "--python python9: no such executable");
        fs::remove_dir_all(root).unwrap();
    }
}
