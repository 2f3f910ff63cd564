//! The worker processes that run: started, asked, signalled, looked at.
//!
//! Invariant: a process is here from its start until all that follows from its exit is done. At most one ping is under way to
//! each, so that its socket holds no more than three short lines whether or not it reads.

use std::{
    cell::Cell,
    collections::HashMap,
    io,
    os::fd::{AsFd, OwnedFd},
    rc::Rc,
    time::{Duration, Instant},
};

use rustix::net::{SendFlags, send};
use tokio::{
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::mpsc::UnboundedSender,
};

use super::attend::{Event, attend};
use crate::pool::{
    Link, Load,
    channel::{Pong, STOP_LINE, ping_line},
    lifecycle::Id,
    process::{self, Options},
};

/// One that runs.
struct Worker {
    pid: u32,
    pidfd: OwnedFd,
    channel: OwnedWriteHalf,
    load: Load,
    /// Until it is ready and the shards get them.
    links: Vec<Link>,
    /// Shards that have nothing in flight there any more.
    retired: usize,
    /// The ping that is under way; shared with whoever reads its channel.
    expected: Rc<Cell<Option<u64>>>,
    asked: Option<Instant>,
    answered: Option<(Duration, u64)>,
}

/// How a worker's event loop does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lag {
    /// It answered after this, with so many tasks.
    Answered(Duration, u64),
    /// It has not answered for this long.
    Silent(Duration),
    /// It was not asked.
    Unknown,
}

/// What can be seen of a worker from outside.
pub(super) struct Figures {
    pub(super) pid: u32,
    pub(super) in_flight: u32,
    pub(super) requests: u64,
    /// Bytes; `None` when it has just ended.
    pub(super) rss: Option<u64>,
    pub(super) lag: Lag,
}

/// See the module.
pub(super) struct Workers {
    options: Options,
    shards: usize,
    events: UnboundedSender<Event>,
    running: HashMap<Id, Worker>,
    pings: u64,
}

impl Workers {
    pub(super) fn new(options: Options, shards: usize, events: UnboundedSender<Event>) -> Self {
        Self { options, shards, events, running: HashMap::new(), pings: 0 }
    }

    /// The application, for the log.
    pub(super) fn app(&self) -> &str {
        &self.options.app
    }

    pub(super) fn start(&mut self, id: Id) -> io::Result<()> {
        let (command, worker) = process::prepare(&self.options, id.0, id.1, self.shards)?;
        // One that cannot be given its lanes, or is not reaped in time, must not stay behind.
        let child = tokio::process::Command::from(command).kill_on_drop(true).spawn()?;
        // It is not waited for yet, so it has an id, and the id is still its own.
        let pid = child.id().unwrap_or_else(|| unreachable!("see above"));
        let process::Process { pid, pidfd, channel, links } = worker.attach(pid)?;
        let (from, to) = UnixStream::from_std(channel)?.into_split();
        let expected = Rc::new(Cell::new(None));
        tokio_uring::spawn(attend(id, child, from, Rc::clone(&expected), self.events.clone()));
        let worker = Worker {
            pid,
            pidfd,
            channel: to,
            load: links.first().map(|link| link.load.clone()).unwrap_or_default(),
            links,
            retired: 0,
            expected,
            asked: None,
            answered: None,
        };
        self.running.insert(id, worker);
        Ok(())
    }

    pub(super) fn forget(&mut self, id: Id) {
        self.running.remove(&id);
    }

    /// Once: one link for each shard.
    pub(super) fn take_links(&mut self, id: Id) -> Vec<Link> {
        self.running
            .get_mut(&id)
            .map(|worker| std::mem::take(&mut worker.links))
            .unwrap_or_default()
    }

    /// A shard has nothing in flight there any more; true when that holds for all.
    pub(super) fn note_retired(&mut self, id: Id) -> bool {
        let Some(worker) = self.running.get_mut(&id) else { return false };
        worker.retired += 1;
        worker.retired >= self.shards
    }

    pub(super) fn send_stop(&self, id: Id) {
        if let Some(worker) = self.running.get(&id) {
            self.write(id, worker, STOP_LINE);
        }
    }

    pub(super) fn kill(&self, id: Id) {
        let Some(worker) = self.running.get(&id) else { return };
        if let Err(error) = process::kill(worker.pidfd.as_fd()) {
            tracing::error!("cannot kill {}: {error}", self.name(id));
        }
    }

    pub(super) fn dump_stacks(&self, id: Id) {
        let Some(worker) = self.running.get(&id) else { return };
        if let Err(error) = process::dump_stacks(worker.pidfd.as_fd()) {
            tracing::error!("cannot ask {} for its stacks: {error}", self.name(id));
        }
    }

    /// Asks its event loop for a sign of life, unless it owes one.
    pub(super) fn ping(&mut self, id: Id, now: Instant) {
        self.pings += 1;
        let number = self.pings;
        if let Some(worker) = self.running.get_mut(&id)
            && worker.expected.get().is_none()
        {
            worker.expected.set(Some(number));
            worker.asked = Some(now);
        } else {
            return;
        }
        if let Some(worker) = self.running.get(&id) {
            self.write(id, worker, &ping_line(number));
        }
    }

    /// It gave one; whoever read it has seen that it was asked for.
    pub(super) fn handle_pong(&mut self, id: Id, pong: Pong, now: Instant) {
        if let Some(worker) = self.running.get_mut(&id)
            && let Some(asked) = worker.asked.take()
        {
            worker.answered = Some((now.saturating_duration_since(asked), pong.tasks));
        }
    }

    /// True while it owes a sign of life.
    pub(super) fn is_silent(&self, id: Id) -> bool {
        self.running.get(&id).is_some_and(|worker| worker.asked.is_some())
    }

    pub(super) fn figures(&self, id: Id, now: Instant) -> Option<Figures> {
        let worker = self.running.get(&id)?;
        let lag = match (worker.asked, worker.answered) {
            (Some(asked), _) => Lag::Silent(now.saturating_duration_since(asked)),
            (None, Some((lag, tasks))) => Lag::Answered(lag, tasks),
            (None, None) => Lag::Unknown,
        };
        Some(Figures {
            pid: worker.pid,
            in_flight: worker.load.get(),
            requests: worker.load.ended(),
            rss: resident(worker.pid),
            lag,
        })
    }

    /// For the log.
    pub(super) fn name(&self, (place, incarnation): Id) -> String {
        let pid = self.running.get(&(place, incarnation)).map(|worker| worker.pid);
        let pid = pid.map_or_else(String::new, |pid| format!("pid {pid}, "));
        format!("worker {} ({pid}incarnation {})", place.0, incarnation.0)
    }

    /// A worker that is gone has no need of it; one that does not read is killed when its time is over.
    fn write(&self, id: Id, worker: &Worker, line: &[u8]) {
        match write_now(worker.channel.as_ref(), line) {
            Ok(count) if count == line.len() => {}
            Ok(count) => {
                tracing::error!("{}: control channel took {count} bytes of a line", self.name(id));
            }
            Err(error) => tracing::debug!("{}: control channel: {error}", self.name(id)),
        }
    }
}

/// See the module: there is room. The runtime's own `try_write` would refuse a stream that it has not polled yet, which a
/// process that is stopped as soon as it is started has.
fn write_now(channel: &UnixStream, line: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    Ok(rustix::io::retry_on_intr(|| send(channel, line, flags))?)
}

/// Bytes of memory that a process holds: the second figure of /proc/PID/statm, in pages (proc_pid_statm(5)).
fn resident(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * u64::try_from(rustix::param::page_size()).unwrap_or(4096))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn a_worker_can_be_told_something_the_moment_it_is_started() {
        let (mut theirs, ours) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        tokio_uring::start(async {
            let ours = UnixStream::from_std(ours).unwrap();
            assert_eq!(write_now(&ours, STOP_LINE).unwrap(), STOP_LINE.len());
        });
        let mut line = Vec::new();
        theirs.read_to_end(&mut line).unwrap();
        assert_eq!(line, STOP_LINE);
    }

    #[test]
    fn memory_is_read_from_proc_and_a_process_that_is_gone_has_none() {
        let own = resident(std::process::id()).unwrap();
        assert!((1 << 20..1 << 36).contains(&own), "{own}");
        assert_eq!(resident(u32::MAX), None);
    }
}
