//! The loop of the control thread: events into the pool's [`Lifecycle`], its actions out to processes and shards.
//!
//! Invariant: every decision is the lifecycle's; here is only how. One event at a time, and all actions that it led to
//! before the next.

use std::{
    cell::Cell,
    collections::HashMap,
    future::pending,
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::{
    net::{UnixStream, unix::OwnedWriteHalf},
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

use super::{
    access_log::AccessLog,
    admin::Health,
    attend::{Event, attend},
};
use crate::{
    limits::REAP_MAX,
    pool::{
        Link,
        channel::{Manifest, Reply, STOP_LINE},
        fault::{WorkerError, describe_exit},
        lifecycle::{Action, Id, Lifecycle, Outcome},
        process::{self, Options},
    },
    proto::route::{RouteSpec, Routes},
    shard::{Command, Handle, Report},
};

/// What the control thread listens to.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user1: Signal,
}

impl Signals {
    /// Inside the runtime.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.hang_up.recv() => SignalKind::hangup(),
            _ = self.user1.recv() => SignalKind::user_defined1(),
        }
    }
}

/// A shard's thread and the way to it.
pub(super) struct Shard {
    handle: Handle,
    thread: JoinHandle<()>,
    progress: Progress,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Starting,
    Serving,
    Ended,
}

impl Shard {
    pub(super) fn new(handle: Handle, thread: JoinHandle<()>) -> Self {
        Self { handle, thread, progress: Progress::Starting }
    }

    pub(super) fn handle(&self) -> Handle {
        self.handle.clone()
    }
}

/// A worker process that runs.
struct Worker {
    pid: u32,
    pidfd: OwnedFd,
    channel: OwnedWriteHalf,
    /// Until it is ready and the shards get them.
    links: Vec<Link>,
}

pub(super) struct Supervisor {
    options: Options,
    lifecycle: Lifecycle,
    shards: Vec<Shard>,
    workers: HashMap<Id, Worker>,
    /// Processes that are reaped; forgotten once all that follows from it is done.
    ended: Vec<Id>,
    /// Made from the first manifest, which all later ones equal.
    /// Of the manifest that the pool agreed on; there before the first worker is attached.
    routes: Option<Arc<Routes>>,
    access_log: Option<AccessLog>,
    health: Rc<Cell<Health>>,
    events: UnboundedSender<Event>,
    happened: UnboundedReceiver<Event>,
    was_ready: bool,
}

impl Supervisor {
    pub(super) fn new(
        options: Options,
        workers: u16,
        shards: Vec<Shard>,
        access_log: Option<AccessLog>,
        health: Rc<Cell<Health>>,
    ) -> Self {
        let (events, happened) = unbounded_channel();
        Self {
            options,
            lifecycle: Lifecycle::new(workers, now()),
            shards,
            workers: HashMap::new(),
            ended: Vec::new(),
            routes: None,
            access_log,
            health,
            events,
            happened,
            was_ready: false,
        }
    }

    pub(super) async fn run(
        mut self,
        url: &str,
        mut reports: UnboundedReceiver<Report>,
        mut signals: Signals,
    ) -> Outcome {
        let outcome = loop {
            if let Some(outcome) = self.act() {
                break outcome;
            }
            for id in self.ended.drain(..) {
                self.workers.remove(&id);
            }
            self.publish_health();
            let deadline = self.lifecycle.poll_timeout();
            tokio::select! {
                Some(event) = self.happened.recv() => self.handle_event(event),
                Some(report) = reports.recv() => self.handle_report(report, url),
                signal = signals.next() => self.handle_signal(signal),
                () = sleep_until(deadline) => self.lifecycle.handle_timeout(now()),
            }
        };
        // What the shards wrote before they ended.
        while let Ok(report) = reports.try_recv() {
            self.handle_report(report, url);
        }
        self.join_shards();
        if let Some(log) = self.access_log.take() {
            log.finish(REAP_MAX).await;
        }
        if outcome == Outcome::Stopped {
            tracing::info!("stopped");
        }
        outcome
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Reply(id, Reply::Ready(manifest)) => self.handle_ready(id, manifest),
            Event::Reply(id, Reply::Failed(error)) | Event::Broken(id, error) => {
                self.lifecycle.handle_failed(id, error, now());
            }
            Event::Exited(id, status) => {
                if self.lifecycle.is_leaving(id) {
                    tracing::info!("{} {}", self.name(id), describe_exit(status));
                }
                self.ended.push(id);
                self.lifecycle.handle_exited(id, status, now());
            }
        }
    }

    fn handle_ready(&mut self, id: Id, manifest: Manifest) {
        if self.lifecycle.manifest().is_none() {
            match routes_of(&manifest) {
                Ok(routes) => self.routes = Some(Arc::new(routes)),
                Err(error) => return self.lifecycle.handle_failed(id, error, now()),
            }
        }
        self.lifecycle.handle_ready(id, manifest, now());
    }

    fn handle_report(&mut self, report: Report, url: &str) {
        match report {
            Report::Started { shard, features } => {
                tracing::debug!("shard {shard} serves: {features}");
                self.progress(shard, Progress::Serving);
                if self.shards.iter().all(|shard| shard.progress == Progress::Serving) {
                    tracing::info!(
                        "listening on {url} (workers {}, shards {}, pid {})",
                        self.health.get().workers,
                        self.shards.len(),
                        std::process::id()
                    );
                }
            }
            Report::Faulty { worker, incarnation, fault } => {
                self.lifecycle.handle_failed((worker, incarnation), fault.into(), now());
            }
            Report::Stuck { worker, incarnation, standing } => {
                let error = WorkerError::Stuck(standing);
                self.lifecycle.handle_failed((worker, incarnation), error, now());
            }
            Report::Retired { shard, worker, incarnation } => {
                let name = self.name((worker, incarnation));
                tracing::debug!("{name} has nothing of shard {shard} in flight any more");
            }
            Report::AccessLog(lines) => {
                if let Some(log) = &mut self.access_log {
                    log.put(lines);
                }
            }
            Report::Drained { shard } => {
                tracing::debug!("shard {shard} has drained");
                self.end_shard(shard);
            }
            Report::Failed { shard, error } => {
                tracing::error!("shard {shard} cannot go on: {error}");
                self.lifecycle.handle_server_failed(now());
                self.end_shard(shard);
            }
        }
    }

    fn handle_signal(&mut self, signal: SignalKind) {
        if signal == SignalKind::hangup() {
            tracing::info!("SIGHUP ignored: there is no reload yet; restart the server instead");
        } else if signal == SignalKind::user_defined1() {
            if let Some(log) = &self.access_log {
                log.reopen();
            }
        } else if self.lifecycle.is_serving() {
            tracing::info!("stopping: finishing what is in flight (once more to stop at once)");
            self.lifecycle.handle_stop(now());
        } else {
            tracing::warn!("stopping at once");
            self.lifecycle.handle_interrupt(signal.as_raw_value(), now());
        }
    }

    fn act(&mut self) -> Option<Outcome> {
        while let Some(action) = self.lifecycle.poll_action() {
            match action {
                Action::Spawn(id) => self.spawn(id),
                Action::Attach(id) => self.attach(id),
                Action::SendStop(id) => self.send_stop(id),
                Action::Kill(id) => self.kill(id),
                Action::Report { id, error, retry } => self.report(id, &error, retry),
                Action::DrainShards(at_most) => {
                    for shard in &self.shards {
                        // One that has ended has nothing left to drain.
                        shard.handle.send(Command::Drain(at_most));
                    }
                    self.note_if_drained();
                }
                Action::Finish(outcome) => return Some(outcome),
            }
        }
        None
    }

    fn spawn(&mut self, id: Id) {
        let started = self.start(id);
        match started {
            Ok(worker) => {
                self.workers.insert(id, worker);
                tracing::debug!("{} started", self.name(id));
            }
            Err(error) => self.lifecycle.handle_spawn_failed(id, error.to_string(), now()),
        }
    }

    fn start(&self, id: Id) -> io::Result<Worker> {
        let (command, worker) = process::prepare(&self.options, id.0, id.1, self.shards.len())?;
        // One that cannot be given its lanes, or is not reaped in time, must not stay behind.
        let child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
        // It is not waited for yet, so it has an id, and the id is still its own.
        let pid = child.id().unwrap_or_else(|| unreachable!("see above"));
        let process::Process { pid, pidfd, channel, links } = worker.attach(pid)?;
        let (from, to) = UnixStream::from_std(channel)?.into_split();
        tokio_uring::spawn(attend(id, child, from, self.events.clone()));
        Ok(Worker { pid, pidfd, channel: to, links })
    }

    fn attach(&mut self, id: Id) {
        let (Some(worker), Some(routes)) = (self.workers.get_mut(&id), &self.routes) else {
            return;
        };
        for (shard, link) in self.shards.iter().zip(worker.links.drain(..)) {
            // False: the shard has ended, and the server is about to.
            shard.handle.send(Command::Attach(Box::new(link), Arc::clone(routes)));
        }
        tracing::info!("{} is ready", self.name(id));
        if !self.was_ready {
            self.was_ready = true;
            tracing::info!("serving {}", self.options.app);
        }
    }

    fn send_stop(&self, id: Id) {
        let Some(worker) = self.workers.get(&id) else { return };
        // The socket is empty but for the attach message. A worker that is gone has no need of it; one that does not
        // read is killed when its time is over.
        if let Err(error) = worker.channel.try_write(STOP_LINE) {
            tracing::debug!("{}: control channel: {error}", self.name(id));
        }
    }

    fn kill(&self, id: Id) {
        let Some(worker) = self.workers.get(&id) else { return };
        if let Err(error) = process::kill(worker.pidfd.as_fd()) {
            tracing::error!("cannot kill {}: {error}", self.name(id));
        }
    }

    fn report(&self, id: Id, error: &WorkerError, retry: Option<Duration>) {
        let next = match retry {
            Some(delay) => format!("; respawn in {} ms", delay.as_millis()),
            None if self.lifecycle.manifest().is_none() => {
                "; giving up, no worker was ever ready".to_owned()
            }
            None => String::new(),
        };
        tracing::error!("{}: {error}{next}", self.name(id));
        if let WorkerError::Application { traceback, .. } = error
            && !traceback.is_empty()
        {
            tracing::error!("{}", traceback.trim_end());
        }
    }

    /// For the log.
    fn name(&self, (place, incarnation): Id) -> String {
        let pid = self.workers.get(&(place, incarnation)).map(|worker| worker.pid);
        let pid = pid.map_or_else(String::new, |pid| format!("pid {pid}, "));
        format!("worker {} ({pid}incarnation {})", place.0, incarnation.0)
    }

    fn progress(&mut self, shard: usize, progress: Progress) {
        if let Some(shard) = self.shards.get_mut(shard) {
            shard.progress = progress;
        }
    }

    fn end_shard(&mut self, shard: usize) {
        self.progress(shard, Progress::Ended);
        self.note_if_drained();
    }

    fn note_if_drained(&mut self) {
        if self.shards.iter().all(|shard| shard.progress == Progress::Ended) {
            self.lifecycle.handle_shards_drained();
        }
    }

    fn publish_health(&self) {
        self.health.set(Health {
            workers_ready: self.lifecycle.ready_count(),
            draining: !self.lifecycle.is_serving(),
            ..self.health.get()
        });
    }

    /// One that has reported its end is about to return; any other is left to the end of the process.
    fn join_shards(&mut self) {
        for shard in self.shards.drain(..) {
            if shard.progress == Progress::Ended && shard.thread.join().is_err() {
                tracing::error!("a shard panicked at its end");
            }
        }
    }
}

fn routes_of(manifest: &Manifest) -> Result<Routes, WorkerError> {
    let spec = |route: &crate::pool::channel::Route| RouteSpec {
        id: route.id,
        path: route.path.clone(),
        methods: route.methods.clone(),
    };
    let specs = manifest.routes.iter().map(spec).collect();
    Routes::new(specs, manifest.redirect_slashes)
        .map_err(|error| WorkerError::Routes(error.to_string()))
}

/// The runtime's clock.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => pending().await,
    }
}
