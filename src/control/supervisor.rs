//! The loop of the control thread: events into the pool's [`Lifecycle`], its actions out to processes and shards.
//!
//! Invariant: every decision is the lifecycle's; here is only how. One event at a time, and all actions that it led to
//! before the next.

use std::{
    cell::Cell, collections::BTreeMap, future::pending, path::PathBuf, rc::Rc, sync::Arc,
    thread::JoinHandle, time::Instant,
};

use tokio::sync::mpsc::{Receiver, UnboundedReceiver, unbounded_channel};

use super::{
    access_log::AccessLog,
    admin::Health,
    attend::Event,
    orders::{Orders, Reply, answer},
    signals::{Order, Signals},
    socket::Asked,
    status::{Identity, status},
    workers::Workers,
};
use crate::{
    ctl::protocol::{Answer, Request},
    limits::{PONG_MAX, REAP_MAX, USAGE_INTERVAL, WORKERS_MAX},
    pool::{
        WorkerId,
        channel::{Manifest, Reply as Said},
        fault::{WorkerError, describe_exit},
        lifecycle::{Action, Id, Lifecycle, Next, Outcome, Settings, State},
        process::Options,
    },
    proto::route::{RouteSpec, Routes},
    shard::{Command, Handle, Report, handle::Gauges},
};

/// Everything that tells the control thread what to do.
pub(super) struct Sources {
    pub(super) reports: UnboundedReceiver<Report>,
    pub(super) signals: Signals,
    /// From the control socket.
    pub(super) asked: Receiver<Asked>,
    /// Files of the application, from `--reload`.
    pub(super) changed: Receiver<Vec<PathBuf>>,
}

/// A shard's thread and the way to it.
pub(super) struct Shard {
    handle: Handle,
    thread: JoinHandle<()>,
    gauges: Arc<Gauges>,
    progress: Progress,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Starting,
    Serving,
    Ended,
}

impl Shard {
    pub(super) fn new(handle: Handle, thread: JoinHandle<()>, gauges: Arc<Gauges>) -> Self {
        Self { handle, thread, gauges, progress: Progress::Starting }
    }
}

/// See the module.
pub(super) struct Supervisor {
    lifecycle: Lifecycle,
    workers: Workers,
    shards: Vec<Shard>,
    /// Processes that are reaped; forgotten once all that follows from it is done.
    ended: Vec<Id>,
    /// Of each generation that has a manifest, and serves or is to.
    routes: BTreeMap<u32, Arc<Routes>>,
    access_log: Option<AccessLog>,
    health: Rc<Cell<Health>>,
    orders: Orders,
    identity: Identity,
    /// Changed files bring a reload.
    watching: bool,
    /// When the workers' usage is looked at next.
    usage_due: Option<Instant>,
    happened: UnboundedReceiver<Event>,
    was_ready: bool,
}

impl Supervisor {
    pub(super) fn new(
        (options, settings): (Options, Settings),
        workers: u16,
        shards: Vec<Shard>,
        access_log: Option<AccessLog>,
        health: Rc<Cell<Health>>,
        url: String,
    ) -> Self {
        let (events, happened) = unbounded_channel();
        let now = now();
        let lifecycle = Lifecycle::new(settings, workers, now);
        Self {
            usage_due: lifecycle.wants_usage().then_some(now + USAGE_INTERVAL),
            workers: Workers::new(options, shards.len(), events),
            lifecycle,
            shards,
            ended: Vec::new(),
            routes: BTreeMap::new(),
            access_log,
            health,
            orders: Orders::default(),
            identity: Identity { url, started: now },
            watching: settings.patient,
            happened,
            was_ready: false,
        }
    }

    pub(super) async fn run(mut self, mut sources: Sources) -> Outcome {
        let outcome = loop {
            if let Some(outcome) = self.act() {
                break outcome;
            }
            for id in self.ended.drain(..) {
                self.workers.forget(id);
            }
            self.publish_health();
            if !self.lifecycle.is_serving() {
                self.orders.give_up();
            }
            self.answer_status();
            let deadlines = [self.orders.status_due(), self.usage_due];
            let deadline =
                deadlines.into_iter().flatten().chain(self.lifecycle.poll_timeout()).min();
            tokio::select! {
                Some(event) = self.happened.recv() => self.handle_event(event),
                Some(report) = sources.reports.recv() => self.handle_report(report),
                order = sources.signals.next() => self.handle_signal(order),
                Some((request, reply)) = sources.asked.recv() => self.handle_request(request, reply),
                Some(files) = sources.changed.recv() => self.handle_change(&files),
                () = sleep_until(deadline) => self.handle_timeout(),
            }
        };
        self.orders.give_up();
        // What the shards wrote before they ended.
        while let Ok(report) = sources.reports.try_recv() {
            self.handle_report(report);
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
            Event::Reply(id, Said::Ready(manifest)) => self.handle_ready(id, manifest),
            Event::Reply(id, Said::Pong(pong)) => self.workers.handle_pong(id, pong, now()),
            Event::Reply(id, Said::Failed(error)) | Event::Broken(id, error) => {
                self.lifecycle.handle_failed(id, error, now());
            }
            Event::Exited(id, status) => {
                if self.lifecycle.is_leaving(id) {
                    tracing::info!("{} {}", self.workers.name(id), describe_exit(status));
                }
                self.ended.push(id);
                self.lifecycle.handle_exited(id, status, now());
            }
        }
    }

    fn handle_ready(&mut self, id: Id, manifest: Manifest) {
        if let Some((generation, None)) = self.lifecycle.generation_of(id) {
            match routes_of(&manifest) {
                Ok(routes) => {
                    self.routes.insert(generation, Arc::new(routes));
                }
                Err(error) => return self.lifecycle.handle_failed(id, error, now()),
            }
        }
        self.lifecycle.handle_ready(id, manifest, now());
    }

    fn handle_report(&mut self, report: Report) {
        match report {
            Report::Started { shard, features } => {
                tracing::debug!("shard {shard} serves: {features}");
                self.progress(shard, Progress::Serving);
                if self.shards.iter().all(|shard| shard.progress == Progress::Serving) {
                    tracing::info!(
                        "listening on {} (workers {}, shards {}, pid {})",
                        self.identity.url,
                        self.lifecycle.wanted_count(),
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
            Report::Retired { worker, incarnation, .. } => {
                let id = (worker, incarnation);
                if self.workers.note_retired(id) {
                    tracing::debug!("{} has nothing in flight any more", self.workers.name(id));
                    self.lifecycle.handle_retired(id);
                }
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

    fn handle_signal(&mut self, order: Order) {
        match order {
            Order::Reload => {
                self.reload("SIGHUP");
            }
            Order::ReopenLog => {
                if let Some(log) = &self.access_log {
                    log.reopen();
                }
            }
            Order::More => {
                let _ = self.scale(self.lifecycle.wanted_count().saturating_add(1));
            }
            Order::Fewer => {
                let _ = self.scale(self.lifecycle.wanted_count().saturating_sub(1));
            }
            Order::Stop(_) if self.lifecycle.is_serving() => self.stop(),
            Order::Stop(signal) => {
                tracing::warn!("stopping at once");
                self.lifecycle.handle_interrupt(signal, now());
            }
        }
    }

    fn handle_request(&mut self, request: Request, reply: Reply) {
        match request {
            Request::Status {} => {
                if self.orders.await_status(reply, now(), PONG_MAX) {
                    self.ping_all();
                }
            }
            Request::Reload {} => match self.reload("fasterapi ctl") {
                Some(generation) => self.orders.await_reload(generation, reply),
                None => answer(reply, Answer::error("the server is stopping")),
            },
            Request::Scale { workers } => {
                let outcome = self.scale(usize::try_from(workers).unwrap_or(usize::MAX));
                answer(reply, outcome);
            }
            Request::Drain { worker } if self.lifecycle.handle_drain(WorkerId(worker), now()) => {
                self.orders.await_drain(WorkerId(worker), reply);
            }
            Request::Drain { worker } => {
                answer(reply, Answer::error(format!("worker {worker} does not serve")));
            }
            Request::Stop {} => {
                self.stop();
                answer(reply, Answer::Done { message: "stopping".to_owned() });
            }
        }
    }

    fn handle_change(&mut self, files: &[PathBuf]) {
        let names: Vec<_> = files.iter().take(3).map(|file| file.to_string_lossy()).collect();
        let more = if files.len() > names.len() { ", …" } else { "" };
        self.reload(&format!("{}{more} changed", names.join(", ")));
    }

    fn handle_timeout(&mut self) {
        let now = now();
        if self.usage_due.is_some_and(|due| due <= now) {
            self.usage_due = Some(now + USAGE_INTERVAL);
            let ids: Vec<Id> = self.lifecycle.views().map(|view| view.id).collect();
            for id in ids {
                if let Some(figures) = self.workers.figures(id, now) {
                    self.lifecycle.handle_usage(id, figures.requests, figures.rss, now);
                }
            }
        }
        self.lifecycle.handle_timeout(now);
    }

    fn stop(&mut self) {
        if self.lifecycle.is_serving() {
            tracing::info!("stopping: finishing what is in flight (once more to stop at once)");
            self.lifecycle.handle_stop(now());
        }
    }

    fn reload(&mut self, why: &str) -> Option<u32> {
        let generation = self.lifecycle.handle_reload(now())?;
        tracing::info!("reloading the application as generation {generation}: {why}");
        Some(generation)
    }

    fn scale(&mut self, workers: usize) -> Answer {
        let before = self.lifecycle.wanted_count();
        if !(1..=WORKERS_MAX).contains(&workers) {
            let message = format!("{workers} workers: at least 1, at most {WORKERS_MAX}");
            tracing::warn!("{message}");
            return Answer::error(message);
        }
        if !self.lifecycle.handle_scale(workers, now()) {
            return Answer::error("the server is stopping");
        }
        let message = format!("{workers} workers from now on, {before} before");
        tracing::info!("{message}");
        Answer::Done { message }
    }

    fn ping_all(&mut self) {
        let now = now();
        let answers =
            |state| matches!(state, State::Ready { .. } | State::Retiring { .. } | State::Standby);
        let asked = self.lifecycle.views().filter(|view| answers(view.state));
        for id in asked.map(|view| view.id).collect::<Vec<Id>>() {
            self.workers.ping(id, now);
        }
    }

    /// To those who wait for it, once all workers have answered or had their time.
    fn answer_status(&mut self) {
        let Some(due) = self.orders.status_due() else { return };
        let now = now();
        if now < due && self.lifecycle.views().any(|view| self.workers.is_silent(view.id)) {
            return;
        }
        let gauges = self.shards.iter().map(|shard| &*shard.gauges);
        let status = status(&self.identity, &self.lifecycle, &self.workers, gauges, now);
        for reply in self.orders.take_statuses() {
            answer(reply, Answer::Status(Box::new(status.clone())));
        }
    }

    fn act(&mut self) -> Option<Outcome> {
        while let Some(action) = self.lifecycle.poll_action() {
            match action {
                Action::Spawn(id) => match self.workers.start(id) {
                    Ok(()) => tracing::debug!("{} started", self.workers.name(id)),
                    Err(error) => {
                        self.lifecycle.handle_spawn_failed(id, error.to_string(), now());
                    }
                },
                Action::Switch { attach, retire } => self.switch(&attach, &retire),
                Action::DumpStacks(id) => self.workers.dump_stacks(id),
                Action::SendStop(id) => self.workers.send_stop(id),
                Action::Kill(id) => self.workers.kill(id),
                Action::Report { id, error, next } => self.report(id, &error, next),
                Action::Reloaded { generation, error } => {
                    self.orders.reloaded(generation, error.as_ref());
                    match error {
                        None => self.routes.retain(|of, _| *of >= generation),
                        Some(_) => drop(self.routes.remove(&generation)),
                    }
                }
                Action::Recycle { id, cause } => {
                    tracing::info!("{} is to be replaced: {}", self.workers.name(id), cause.name());
                }
                Action::Recycled { worker, error } => self.orders.recycled(worker, error.as_ref()),
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

    fn switch(&mut self, attach: &[Id], retire: &[Id]) {
        let mut batches: Vec<Vec<Command>> = self.shards.iter().map(|_| Vec::new()).collect();
        for id in attach {
            let generation = self.lifecycle.generation_of(*id).map(|(generation, _)| generation);
            let Some(routes) = generation.and_then(|generation| self.routes.get(&generation))
            else {
                unreachable!("a generation that serves has routes");
            };
            for (batch, link) in batches.iter_mut().zip(self.workers.take_links(*id)) {
                batch.push(Command::Attach(Box::new(link), Arc::clone(routes)));
            }
        }
        for (worker, incarnation) in retire.iter().copied() {
            for batch in &mut batches {
                batch.push(Command::Retire { worker, incarnation });
            }
        }
        for (shard, batch) in self.shards.iter().zip(batches) {
            // False: the shard has ended, and the server is about to.
            shard.handle.send(Command::Batch(batch));
        }
        for id in attach {
            tracing::info!("{} is ready", self.workers.name(*id));
        }
        for id in retire {
            tracing::info!("{} finishes what it has", self.workers.name(*id));
        }
        if !self.was_ready && !attach.is_empty() {
            self.was_ready = true;
            tracing::info!("serving {}", self.workers.app());
        }
    }

    fn report(&mut self, id: Id, error: &WorkerError, next: Next) {
        let next = match next {
            Next::Respawn(delay) => format!("; respawn in {} ms", delay.as_millis()),
            Next::Succeeded => "; its successor is on its way".to_owned(),
            Next::Retry(delay) => format!(
                "; its predecessor goes on, and is to be replaced again in {} ms",
                delay.as_millis()
            ),
            Next::KeepOld => format!("; generation {} goes on", self.lifecycle.generation()),
            Next::AwaitReload => "; waiting for a change".to_owned(),
            Next::GiveUp => "; giving up, no worker was ever ready".to_owned(),
            Next::Nothing => String::new(),
        };
        tracing::error!("{}: {error}{next}", self.workers.name(id));
        if let WorkerError::Application { traceback, .. } = error
            && !traceback.is_empty()
        {
            tracing::error!("{}", traceback.trim_end());
        }
        if *error == WorkerError::Changed && self.watching {
            self.reload("the application has changed");
        }
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
            workers: self.lifecycle.wanted_count(),
            draining: !self.lifecycle.is_serving(),
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
    let routes = Routes::new(specs, manifest.redirect_slashes)
        .map_err(|error| WorkerError::Routes(error.to_string()))?;
    Ok(if manifest.catch_all { routes.catching_all(0) } else { routes })
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
