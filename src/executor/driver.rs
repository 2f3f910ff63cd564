//! The thread that owns the workers: commands, lanes, control channels and exits, one epoll for all of them.
//!
//! Invariant: when to start and when to end a process is the pool's [`Lifecycle`]'s to decide; here is only how. Before
//! the thread sleeps, every lane is published and armed, and every action is done.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, Read},
    os::{fd::AsFd, unix::process::ExitStatusExt},
    process::ExitStatus,
    sync::{
        Arc,
        mpsc::{Receiver, Sender},
    },
    time::Instant,
};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use tokio::sync::oneshot;

use super::{
    call::{Command, Desk, Submission},
    error::CallError,
    events::{Events, Source},
    worker::Worker,
};
use crate::{
    ipc::Fault,
    limits::{DRAIN_RECORDS_MAX, RECORD_ALIGN, RING_SIZE},
    pool::{
        channel::{Reply, STOP_LINE, UNASKED},
        fault::{WorkerError, describe_exit},
        lifecycle::{Action, Id, Lifecycle, Settings},
        process,
    },
};

const SIGKILL: i32 = 9;
/// Bytes that are taken from a control channel at a time.
const READ_SIZE: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(super) struct Driver {
    options: process::Options,
    size_max: usize,
    desk: Arc<Desk>,
    commands: Receiver<Command>,
    events: Events,
    /// A place has at most one process.
    workers: BTreeMap<u16, (Id, Worker)>,
    /// Calls for which there was no room, or no worker.
    waiting: VecDeque<Submission>,
    /// Told of the first worker that is ready, or why there is none.
    started: Option<Sender<Result<(), WorkerError>>>,
    /// While calls are finished before the workers are stopped: when that ends.
    draining: Option<Instant>,
    /// Those who wait for the end.
    done: Vec<oneshot::Sender<()>>,
}

impl Driver {
    pub(super) fn new(
        options: process::Options,
        (desk, commands): (Arc<Desk>, Receiver<Command>),
        started: Sender<Result<(), WorkerError>>,
        size_max: usize,
    ) -> io::Result<Self> {
        let events = Events::new(desk.bell())?;
        Ok(Self {
            options,
            size_max,
            desk,
            commands,
            events,
            workers: BTreeMap::new(),
            waiting: VecDeque::new(),
            started: Some(started),
            draining: None,
            done: Vec::new(),
        })
    }

    pub(super) fn run(&mut self, workers: u16, pin_to_cores: bool) {
        let cpus = if pin_to_cores { own_cpus() } else { Vec::new() };
        let mut pool = Lifecycle::new(Settings::default(), workers, now());
        loop {
            self.take_commands(&mut pool);
            self.finish_drain(&mut pool);
            // Before the lanes, so that a worker that became ready gets its calls in this turn; and after them, because
            // they tell of faults.
            if self.act(&mut pool, &cpus) {
                break;
            }
            let more = self.turn(&mut pool);
            let busy = self.arm(&mut pool) || more || self.has_drained(&pool);
            if self.act(&mut pool, &cpus) {
                break;
            }
            let until = if busy { Some(now()) } else { self.deadline(&pool) };
            let events =
                self.events.wait(until.map(|until| until.saturating_duration_since(now())));
            for (_, worker) in self.workers.values_mut() {
                worker.disarm();
            }
            for source in events {
                self.handle_event(source, &mut pool);
            }
            pool.handle_timeout(now());
        }
        // With these go the callers' ends: they hear `ShutDown`, and that all is done.
        self.waiting.clear();
        for (_, worker) in self.workers.values_mut() {
            worker.fail_all(&CallError::ShutDown);
        }
    }

    fn take_commands(&mut self, pool: &mut Lifecycle) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Submit(submission) => self.waiting.push_back(submission),
                Command::Cancel(id) => {
                    self.waiting.retain(|submission| submission.id != id);
                    for (_, worker) in self.workers.values_mut() {
                        worker.cancel(id);
                    }
                }
                Command::Drain(done) => {
                    self.done.push(done);
                    pool.handle_stop(now());
                }
                Command::Kill => {
                    self.cut_off();
                    pool.handle_interrupt(SIGKILL, now());
                }
            }
        }
    }

    /// Reads and writes all lanes; true when some of them may have more.
    fn turn(&mut self, pool: &mut Lifecycle) -> bool {
        let mut more = false;
        for (id, worker) in self.workers.values_mut().filter(|(_, worker)| worker.usable()) {
            match worker.receive() {
                Ok(rest) => more |= rest,
                Err(fault) => break_off(*id, worker, fault, pool),
            }
        }
        self.dispatch(pool);
        for (id, worker) in self.workers.values_mut().filter(|(_, worker)| worker.usable()) {
            if let Err(fault) = worker.flush() {
                break_off(*id, worker, fault, pool);
            }
        }
        more
    }

    /// Gives the calls that wait to the workers with least to do, as long as there is room.
    fn dispatch(&mut self, pool: &mut Lifecycle) {
        while let Some(submission) = self.waiting.pop_front() {
            let usable = self.workers.values_mut().filter(|(_, worker)| worker.usable());
            let roomy = usable.filter_map(|(id, worker)| match worker.has_room() {
                Ok(room) => room.then_some((id, worker)),
                Err(fault) => {
                    break_off(*id, worker, fault, pool);
                    None
                }
            });
            let Some((id, worker)) = roomy.min_by_key(|(_, worker)| worker.load()) else {
                self.waiting.push_front(submission);
                return;
            };
            match worker.begin(submission) {
                Ok(None) => {}
                Ok(Some(back)) => {
                    self.waiting.push_front(back);
                    return;
                }
                Err(fault) => break_off(*id, worker, fault, pool),
            }
        }
    }

    /// True when some lane has something to do instead of being slept on.
    fn arm(&mut self, pool: &mut Lifecycle) -> bool {
        let mut busy = false;
        for (id, worker) in self.workers.values_mut().filter(|(_, worker)| worker.usable()) {
            match worker.arm() {
                Ok(found) => busy |= found,
                Err(fault) => break_off(*id, worker, fault, pool),
            }
        }
        busy
    }

    fn deadline(&self, pool: &Lifecycle) -> Option<Instant> {
        [pool.poll_timeout(), self.draining].into_iter().flatten().min()
    }

    fn handle_event(&mut self, source: Source, pool: &mut Lifecycle) {
        match source {
            Source::Desk => {
                let hushed = self.desk.bell().hush();
                hushed.unwrap_or_else(|error| panic!("reading a doorbell: {error}"));
            }
            // All lanes are looked at in each turn.
            Source::Lane => {}
            Source::Channel(place) => {
                if let Some((id, worker)) = self.workers.get_mut(&place)
                    && !listen(*id, worker, pool)
                {
                    // The stream has ended: only the exit can follow.
                    self.events.forget(&worker.channel);
                }
            }
            Source::Exit(place) => self.reap(place, pool),
        }
    }

    /// The process has ended: reads what it left behind, and forgets it.
    fn reap(&mut self, place: u16, pool: &mut Lifecycle) {
        let Some((_, worker)) = self.workers.get_mut(&place) else { return };
        let status = match worker.child.try_wait() {
            Ok(Some(status)) => status,
            // An event of a former tenant.
            Ok(None) => return,
            Err(error) => {
                tracing::error!("worker {place}: cannot be waited for: {error}");
                ExitStatus::from_raw(SIGKILL)
            }
        };
        let Some((id, mut worker)) = self.workers.remove(&place) else { return };
        if worker.usable() {
            // What was published whole is as good as ever. A ring holds no more than this, whatever a child that it left
            // behind still writes.
            for _ in 0..RING_SIZE / RECORD_ALIGN / DRAIN_RECORDS_MAX {
                if worker.receive() != Ok(true) {
                    break;
                }
            }
        }
        listen(id, &mut worker, pool);
        worker.fail_all(&CallError::WorkerDied(describe_exit(status)));
        pool.handle_exited(id, status, now());
    }

    /// Does what the pool wants; true when the pool has ended.
    fn act(&mut self, pool: &mut Lifecycle, cpus: &[usize]) -> bool {
        while let Some(action) = pool.poll_action() {
            match action {
                Action::Spawn(id) => match self.spawn(id, cpus) {
                    Ok(worker) => {
                        self.workers.insert(id.0.0, (id, worker));
                    }
                    Err(error) => pool.handle_spawn_failed(id, error.to_string(), now()),
                },
                // Nothing is recycled here, reloaded or scaled, and nothing of a call tells that a worker is stuck: a place
                // has one process, and none is retired.
                Action::Switch { attach, .. } => {
                    for id in attach {
                        if let Some(worker) = self.worker(id) {
                            worker.ready = true;
                            tracing::debug!("worker {} is ready", id.0.0);
                        }
                    }
                    if let Some(started) = self.started.take() {
                        // `new` waits for it.
                        let _ = started.send(Ok(()));
                    }
                }
                Action::SendStop(id) => {
                    if let Some(worker) = self.worker(id) {
                        // One that is gone has no need of it; one that does not read is killed when its time is over.
                        let _ = io::Write::write(&mut &worker.channel, STOP_LINE);
                    }
                }
                Action::Kill(id) => {
                    if let Some(worker) = self.worker(id)
                        && let Err(error) = process::kill(worker.pidfd.as_fd())
                    {
                        tracing::error!("cannot kill worker {}: {error}", id.0.0);
                    }
                }
                Action::Report { id, error, .. } => {
                    tracing::error!("worker {}, incarnation {}: {error}", id.0.0, id.1.0);
                    if let Some(started) = self.started.take() {
                        let _ = started.send(Err(error));
                    }
                }
                Action::DumpStacks(_)
                | Action::Reloaded { .. }
                | Action::Recycle { .. }
                | Action::Recycled { .. } => {}
                Action::DrainShards(at_most) => self.draining = Some(now() + at_most),
                Action::Finish(_) => return true,
            }
        }
        false
    }

    fn spawn(&self, id: Id, cpus: &[usize]) -> io::Result<Worker> {
        let (mut command, unattached) = process::prepare(&self.options, id.0, id.1, 1)?;
        let mut child = command.spawn()?;
        drop(command);
        // Before it is attached: it has no other thread yet that would keep the wider set.
        if let Some(cpu) = cpus.get(usize::from(id.0.0) % cpus.len().max(1))
            && let Err(error) = pin(child.id(), *cpu)
        {
            tracing::warn!("worker {} is not kept on CPU {cpu}: {error}", id.0.0);
        }
        let made = unattached.attach(child.id()).and_then(|process| {
            let process::Process { pidfd, channel, links, .. } = process;
            let Some(link) = links.into_iter().next() else { unreachable!("one shard, one link") };
            self.events.add(id.0.0, &link.bell, &channel, &pidfd)?;
            Ok((pidfd, channel, (link.lane, link.bell)))
        });
        match made {
            Ok((pidfd, channel, lane)) => {
                Ok(Worker::new((child, pidfd, channel), lane, self.size_max))
            }
            Err(error) => {
                // It cannot be given its lanes, and must not stay behind.
                child.kill()?;
                child.wait()?;
                Err(error)
            }
        }
    }

    fn worker(&mut self, id: Id) -> Option<&mut Worker> {
        let (found, worker) = self.workers.get_mut(&id.0.0)?;
        (*found == id).then_some(worker)
    }

    /// True when calls are being finished, and all are, or cannot be, or have had their time.
    fn has_drained(&self, pool: &Lifecycle) -> bool {
        let awaited = || self.workers.values().any(|(_, worker)| worker.is_awaited());
        self.draining.is_some_and(|until| {
            pool.ready_count() == 0 || (self.waiting.is_empty() && !awaited()) || now() >= until
        })
    }

    fn finish_drain(&mut self, pool: &mut Lifecycle) {
        if self.has_drained(pool) {
            self.draining = None;
            self.cut_off();
            pool.handle_shards_drained();
        }
    }

    /// No caller waits any longer.
    fn cut_off(&mut self) {
        self.waiting.clear();
        for (_, worker) in self.workers.values_mut() {
            worker.fail_all(&CallError::ShutDown);
        }
    }
}

/// Takes what a worker says; false when it will say no more.
fn listen(id: Id, worker: &mut Worker, pool: &mut Lifecycle) -> bool {
    let mut buffer = [0; READ_SIZE];
    loop {
        match (&worker.channel).read(&mut buffer) {
            Ok(0) => return false,
            Ok(count) => worker.replies.handle(buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return false,
        }
        loop {
            match worker.replies.poll() {
                Ok(None) => break,
                Ok(Some(Reply::Ready(manifest))) => pool.handle_ready(id, manifest, now()),
                Ok(Some(Reply::Failed(error))) => pool.handle_failed(id, error, now()),
                Ok(Some(Reply::Pong(_))) => {
                    return give_up(id, worker, WorkerError::Channel(UNASKED.to_owned()), pool);
                }
                Err(error) => return give_up(id, worker, error, pool),
            }
        }
    }
}

/// What it says is not to be believed any more.
fn give_up(id: Id, worker: &mut Worker, error: WorkerError, pool: &mut Lifecycle) -> bool {
    worker.faulty = true;
    pool.handle_failed(id, error, now());
    false
}

/// A worker that broke its lane's protocol is not to be believed any more.
fn break_off(id: Id, worker: &mut Worker, fault: Fault, pool: &mut Lifecycle) {
    worker.faulty = true;
    pool.handle_failed(id, fault.into(), now());
}

fn pin(pid: u32, cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(Some(process::raw_pid(pid)?), &set)?)
}

/// The CPUs that this process may use.
fn own_cpus() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

#[expect(clippy::disallowed_methods, reason = "the driver's clock: there is no other one below it")]
fn now() -> Instant {
    Instant::now()
}
