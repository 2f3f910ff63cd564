//! The control thread: starts the shards and the workers, keeps the workers alive, ends both in order; signals, the control
//! socket, the admin listener, the access log, the watch over the application's files. Runs on tokio-uring, on the thread that calls [`run`].
//!
//! Invariant: nothing here is on the path of a request. What can fail for the operator's reasons (addresses, files, the
//! interpreter) fails before the first thread or process is started.
#![deny(unsafe_code)]

mod access_log;
mod admin;
mod attend;
mod certificates;
mod environment;
mod error;
mod http3;
mod inherit;
mod listen;
mod orders;
mod signals;
mod socket;
mod status;
mod supervisor;
mod watch;
mod workers;

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use tokio::sync::mpsc;

pub use certificates::LoadError;
pub use error::SystemError;

use self::{
    access_log::{AccessLog, Destination},
    admin::Health,
    certificates::Certificates,
    listen::Listeners,
    signals::Signals,
    socket::Socket,
    supervisor::{Shard, Sources, Supervisor},
};
pub use crate::pool::lifecycle::Outcome;
use crate::{
    config::{
        self, Bind, Config, HttpVersions, Listening, control_file,
        headers::{Header, Headers},
        http3::Http3,
        limits::Retry,
        tls::Tls,
        websocket::WebSockets,
    },
    limits::{CONTROL_CONNECTIONS_MAX, NEVER, RETIRE_MAX_WHILE_DEVELOPING, SPIN_MAX, drain_part},
    pool::{lifecycle::Settings, process},
    proto::{forwarded::Trusted, h1, tls::ServerConfig, ws},
    shard::{self, Handle, Listener, ListenerKind, Mailbox, TlsOptions},
};

/// Serves until told to stop, or until that is impossible; what a worker or a shard did wrong has been logged by then.
pub fn run(config: &Config) -> Result<Outcome, SystemError> {
    raise_descriptor_limit();
    let (listeners, redirect) = open_listeners(config)?;
    let http3 = config.http3.as_ref().zip(config.tls.as_ref());
    let http3 = http3.map(|(http3, tls)| http3::open(http3, tls.handshakes_max, &listeners));
    let http3 = http3.transpose()?;
    let admin = config.admin.map(listen::open_admin).transpose()?;
    let control = open_control(&config.lifecycle.control, &listeners)?;
    let watch = config.lifecycle.watch.as_ref().map(watch::open).transpose();
    let watch = watch.map_err(SystemError::other("inotify"))?;
    let access_log = Destination::open(&config.access_log)?;
    process::check_python(&config.python)?;
    let variables = config.application.env_file.as_deref().map(environment::read).transpose()?;
    let variables = variables.unwrap_or_default();
    let runtime = tokio_uring::Runtime::new(&tokio_uring::builder()).map_err(SystemError::Uring)?;

    let workers = workers_of(config, listeners.server.clone(), spin_of(config), variables);
    runtime.block_on(async {
        let signals = Signals::new().map_err(SystemError::other("signals"))?;
        let health = Rc::new(Cell::new(Health::default()));
        if let Some(listener) = admin {
            tokio_uring::spawn(admin::serve(listener, Rc::clone(&health)));
        }
        let certificates = Certificates::load(config)?;
        let tls = certificates.as_ref().zip(config.tls.as_ref());
        let told = config.http3.as_ref();
        let tls = tls.map(|((_, loaded), tls)| tls_options(tls, told, loaded, &listeners));
        if let Some(redirect) = &redirect {
            tracing::info!("redirecting {} to {}", redirect.url, listeners.url);
        }
        let (report, reports) = mpsc::unbounded_channel();
        let url = listeners.url.clone();
        // What is left of them removes its socket file at the end of all.
        let redirects = redirect.map(|redirect| redirect.sockets).unwrap_or_default();
        let listening = (listeners.sockets, redirects, http3);
        let shards = start_shards(config, listening, tls.as_ref(), access_log.is_some(), &report)?;
        drop(report);
        if let Some((certificates, _)) = certificates {
            let handles = shards.iter().map(Shard::handle).collect();
            tokio_uring::spawn(certificates.watch(handles));
        }
        let access_log = access_log.map(AccessLog::start);
        let (ask, asked) = mpsc::channel(CONTROL_CONNECTIONS_MAX);
        if let Some(socket) = control {
            tokio_uring::spawn(socket::serve(socket, ask));
        }
        let (change, changed) = mpsc::channel(1);
        if let Some(watch) = watch {
            watch.start(change);
        }
        let settings = settings(&config.lifecycle);
        let supervisor =
            Supervisor::new((workers, settings), config.workers, shards, access_log, health, url);
        Ok(supervisor.run(Sources { reports, signals, asked, changed }).await)
    })
}

/// A shard for each socket, with what comes in by UDP.
fn start_shards(
    config: &Config,
    (sockets, redirects, mut http3): (Vec<Listener>, Vec<Listener>, Option<http3::Sockets>),
    tls: Option<&TlsOptions>,
    access_log: bool,
    report: &mpsc::UnboundedSender<shard::Report>,
) -> Result<Vec<Shard>, SystemError> {
    let mut shards = Vec::with_capacity(config.shards);
    let mut redirects = redirects.into_iter();
    let mailboxes = sockets.iter().map(|_| Handle::new(report.clone()));
    let mailboxes: Vec<_> =
        mailboxes.collect::<Result<_, _>>().map_err(SystemError::other("a shard's doorbell"))?;
    let neighbours: Vec<_> = mailboxes.iter().map(|(handle, _)| handle.neighbour()).collect();
    let each = sockets.into_iter().zip(mailboxes);
    for (index, (listener, mailbox)) in each.enumerate() {
        let quic = http3.as_mut().zip(tls);
        let quic = quic.map(|(http3, tls)| http3.next(index, &tls.config, neighbours.clone()));
        let options = shard::Options {
            shard: index,
            listeners: [listener].into_iter().chain(redirects.next()).collect(),
            tls: tls.cloned(),
            quic: quic.transpose()?.flatten(),
            http: versions_of(config.http),
            h1: h1::Options { body_size_max: config.limits.body_max.bytes() },
            limits: limits_of(config),
            websocket: websockets_of(&config.websockets),
            headers: headers_of(&config.headers),
            trusted: trusted_of(&config.listening),
            gauges: Arc::default(),
            spin_max: spin_of(config),
            access_log,
        };
        shards.push(start_shard(options, mailbox)?);
    }
    Ok(shards)
}

fn headers_of(config: &Headers) -> Vec<(String, String)> {
    let fields = config.headers.iter();
    fields.map(|Header { name, value }| (name.clone(), value.clone())).collect()
}

fn spin_of(config: &Config) -> Duration {
    if config.cpus_suffice { SPIN_MAX } else { Duration::ZERO }
}

/// What the workers have in common.
fn workers_of(
    config: &Config,
    server: (String, Option<u16>),
    spin: Duration,
    variables: Vec<(String, String)>,
) -> process::Options {
    process::Options {
        worker_module: None,
        python: config.python.clone(),
        app: config.app.to_string(),
        app_dir: config.app_dir.clone(),
        debug: config.debug,
        log_level: config.log_level.name(),
        spin_us: u64::try_from(spin.as_micros()).unwrap_or_else(|_| unreachable!("SPIN_MAX")),
        server,
        interface: config.application.interface,
        factory: config.application.factory,
        root_path: config.application.root_path.clone(),
        lifespan: config.application.lifespan,
        threads: config.application.threads,
        event_loop: config.application.event_loop,
        variables,
    }
}

fn websockets_of(asked: &WebSockets) -> shard::WebSocketOptions {
    let engine = ws::Options {
        message_size_max: asked.ws_max_size.bytes(),
        ping_interval: asked.ws_ping_interval.limit(),
        ping_timeout: asked.ws_ping_timeout.limit(),
        ..ws::Options::default()
    };
    let deflate = asked.ws_per_message_deflate.then(ws::DeflatePolicy::default);
    shard::WebSocketOptions { engine, deflate }
}

fn trusted_of(listening: &Listening) -> Trusted {
    let proxies = listening.proxies.as_ref();
    Trusted {
        networks: proxies.map_or_else(Vec::new, |proxies| proxies.0.clone()),
        unix: proxies.is_some(),
    }
}

/// The one that serves, and the one that sends clients there.
fn open_listeners(config: &Config) -> Result<(Listeners, Option<Listeners>), SystemError> {
    let kind = if config.tls.is_some() { ListenerKind::Tls } else { ListenerKind::Plain };
    let listening = &config.listening;
    let listeners = listen::open(&listening.bind, kind, config.shards, listening.backlog)?;
    let redirect = config.tls.as_ref().and_then(|tls| tls.redirect.clone());
    let redirect = redirect.map(|(host, port)| {
        let bind = Bind::Tcp(host, port);
        listen::open(&bind, ListenerKind::Redirect, config.shards, listening.backlog)
    });
    Ok((listeners, redirect.transpose()?))
}

/// What each shard is to keep to. The queue is divided among them: they do not know each other's.
fn limits_of(config: &Config) -> shard::Limits {
    let (limits, tls) = (&config.limits, config.tls.as_ref());
    let shards = u32::try_from(config.shards).unwrap_or(u32::MAX);
    let inflight_max = if limits.inflight_max == 0 { u32::MAX } else { limits.inflight_max };
    shard::Limits {
        request_timeout: limits.request_timeout.duration(),
        header_timeout: limits.header_timeout.duration(),
        body_timeout: limits.body_timeout.duration(),
        keepalive_timeout: limits.keepalive_timeout.duration(),
        inflight_max,
        inflight_share: (inflight_max / shards).max(1),
        queue_max: limits.queue_max.div_ceil(config.shards),
        queue_timeout: limits.queue_timeout.duration(),
        repeat: limits.retry == Retry::Idempotent,
        handshake_timeout: tls.map_or(NEVER, |tls| tls.handshake_timeout),
        handshakes_max: tls.map_or(0, |tls| tls.handshakes_max.div_ceil(config.shards)),
        stuck_timeout: limits.stuck_timeout.duration(),
    }
}

fn tls_options(
    config: &Tls,
    http3: Option<&Http3>,
    loaded: &Arc<ServerConfig>,
    listeners: &Listeners,
) -> TlsOptions {
    let listened = listeners.server.1.unwrap_or_default();
    let https_port = config.https_port.unwrap_or(listened);
    TlsOptions {
        config: Arc::clone(loaded),
        hsts_max_age: config.hsts_max_age,
        https_port,
        alt_svc: http3.and_then(|http3| http3::alt_svc(http3, https_port)),
    }
}

fn versions_of(config: HttpVersions) -> shard::HttpVersions {
    match config {
        HttpVersions::Auto => shard::HttpVersions::Auto,
        HttpVersions::Http1 => shard::HttpVersions::Http1,
    }
}

fn settings(of: &config::Lifecycle) -> Settings {
    let drain = drain_part(of.shutdown_max);
    let developing = of.watch.is_some();
    Settings {
        start_max: of.start_max,
        shutdown_max: of.shutdown_max,
        retire_max: if developing { drain.min(RETIRE_MAX_WHILE_DEVELOPING) } else { drain },
        respawn_delay_max: of.respawn_delay_max,
        requests_max: of.requests_max,
        requests_jitter: of.requests_jitter,
        lifetime_max: of.lifetime_max,
        rss_max: of.rss_max,
        patient: developing,
        seed: RandomState::new().hash_one(0),
    }
}

/// One that was asked for has to be; the one that is there unless switched off is nothing to fail for.
fn open_control(
    to: &config::Control,
    listeners: &Listeners,
) -> Result<Option<Socket>, SystemError> {
    let (dir, port) = match (to, listeners.server.1) {
        (config::Control::At(path), _) => return socket::open(path).map(Some),
        (config::Control::ByPort(dir), Some(port)) => (dir, port),
        (config::Control::Off, _) | (_, None) => return Ok(None),
    };
    let path = control_file(dir, port);
    let error = |error| SystemError::ListenUnix { path: path.clone(), error };
    match socket::make_private_dir(dir).map_err(error).and_then(|()| socket::open(&path)) {
        Ok(socket) => Ok(Some(socket)),
        Err(error) => {
            tracing::info!("no control socket: {error}");
            Ok(None)
        }
    }
}

fn start_shard(
    options: shard::Options,
    (handle, mailbox): (Handle, Mailbox),
) -> Result<Shard, SystemError> {
    let gauges = Arc::clone(&options.gauges);
    let thread = thread::Builder::new()
        .name(format!("shard-{}", options.shard))
        .spawn(move || shard::run(options, mailbox))
        .map_err(SystemError::other("a shard's thread"))?;
    Ok(Shard::new(handle, thread, gauges))
}

/// A connection is a descriptor, and the soft limit is for programs that use `select`.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}
