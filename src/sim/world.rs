//! The fake driver: behind it the kernel, the clients, the workers and the control thread, all drawn from one seed.
//!
//! Invariant: nothing happens but in [`Driver::turn`] and [`Driver::completions_visible`], which is between the shard's last
//! look at its lanes and the moment when it arms: exactly where another process could get in between. Time moves on with
//! each step, and leaps only when nobody can do anything.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::mpsc::UnboundedReceiver;

use super::{
    book::Book,
    client::Client,
    hostile::Evil,
    kernel::Kernel,
    plan::{Profile, Sabotage},
    rng::Rng,
    wire::Wire,
    worker::{Made, State, Worker},
};
use crate::{
    ipc::{Doorbell, EdgeLane, Segment, layout::Word},
    pool::{Incarnation, Link, Load, WorkerId},
    proto::route::{RouteSpec, Routes},
    shard::{Command, Handle, Report},
    uring::{Arrived, Completion, DatagramBatch, DatagramLease, Driver, Lease, Stats, Token, Wait},
};

/// What the control thread does at its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Attach(u16),
    /// Replace the worker of this place while it lives.
    Retire(u16),
    /// SIGKILL.
    Kill(usize),
    Drain,
}

/// See the module.
pub(super) struct World {
    pub(super) kernel: Kernel,
    pub(super) book: Book,
    clients: Vec<Client>,
    /// Every incarnation that ever was.
    pub(super) workers: Vec<Worker>,
    rng: Rng,
    handle: Handle,
    reports: UnboundedReceiver<Report>,
    mailbox_watch: usize,
    routes: Arc<Routes>,
    events: Vec<(Instant, Event)>,
    incarnations: Vec<u32>,
    /// How the shard waited last, and whether that brought something.
    pub(super) wait: Wait,
    pub(super) completed: bool,
    /// Nobody can do anything, now or later.
    pub(super) quiet: bool,
    pub(super) turns: u64,
}

impl World {
    pub(super) fn new(
        book: Book,
        mut rng: Rng,
        now: Instant,
        (handle, reports): (Handle, UnboundedReceiver<Report>),
        mailbox: BorrowedFd<'_>,
    ) -> Self {
        let profile = book.profile.clone();
        let mut kernel = Kernel::new(now, rng.fork(), &profile);
        let mailbox_watch = kernel.watch(mailbox.as_raw_fd());
        let clients = (0..profile.clients)
            .map(|_| Client::new(rng.fork(), profile.requests, profile.rudeness, now))
            .collect();
        let mut world = Self {
            kernel,
            book,
            clients,
            workers: Vec::new(),
            rng,
            handle,
            reports,
            mailbox_watch,
            routes: routes(),
            events: Vec::new(),
            incarnations: vec![0; profile.workers],
            wait: Wait::Poll,
            completed: false,
            quiet: false,
            turns: 0,
        };
        world.schedule_all(&profile);
        world
    }

    fn schedule_all(&mut self, profile: &Profile) {
        for place in 0..u16::try_from(profile.workers).unwrap() {
            self.schedule(1000, Event::Attach(place));
            if profile.retires {
                self.schedule(50_000, Event::Retire(place));
            }
        }
        if profile.drains_early {
            self.schedule(50_000, Event::Drain);
        }
    }

    fn schedule(&mut self, within_us: u64, event: Event) {
        let at = self.kernel.now + Duration::from_micros(self.rng.next() % within_us);
        self.events.push((at, event));
    }

    pub(super) fn clients_done(&self) -> bool {
        self.clients.iter().all(|client| client.done)
    }

    pub(super) fn drain(&mut self) {
        self.book.draining = true;
        self.book.trace(|| "drain".into());
        self.tell(Command::Drain(Duration::from_secs(5)));
    }

    fn tell(&mut self, command: Command) {
        self.handle.send(command);
        self.kernel.ring(self.mailbox_watch);
    }

    // --- the control thread ---

    fn control(&mut self) -> bool {
        self.hear();
        let due = self.events.iter().position(|(at, _)| *at <= self.kernel.now);
        let Some(due) = due else { return false };
        let (_, event) = self.events.swap_remove(due);
        match event {
            Event::Drain => self.drain(),
            _ if self.book.draining => {}
            Event::Attach(place) => self.attach(place),
            Event::Retire(place) => {
                let old = self.workers.iter().position(|worker| {
                    worker.who.0 == place && worker.state != State::Dead && !worker.retiring
                });
                if let Some(old) = old {
                    self.attach(place);
                    let worker = &mut self.workers[old];
                    worker.retiring = true;
                    let (worker, incarnation) = worker.who;
                    self.tell(Command::Retire {
                        worker: WorkerId(worker),
                        incarnation: Incarnation(incarnation),
                    });
                }
            }
            Event::Kill(at) => {
                let worker = &mut self.workers[at];
                if worker.state != State::Dead {
                    let unnoticed = worker
                        .evil
                        .as_ref()
                        .filter(|evil| evil.should_have_been_noticed() && !worker.reported);
                    if let Some(evil) = unnoticed {
                        self.book.fail(format!("a lie went unnoticed: {:?}", evil.lie()));
                    }
                    self.book.trace(|| format!("worker {:?} is killed", worker.who));
                    worker.die(&mut self.kernel);
                }
            }
        }
        self.count_workers();
        true
    }

    /// Takes in what the shard reports.
    pub(super) fn hear(&mut self) {
        while let Ok(report) = self.reports.try_recv() {
            match report {
                Report::AccessLog(_) | Report::Started { .. } | Report::Drained { .. } => {}
                Report::Failed { error, .. } => {
                    self.book.fail(format!("the shard failed: {error}"));
                }
                Report::Faulty { worker, incarnation, fault } => {
                    let who = (worker.0, incarnation.0);
                    self.book.trace(|| format!("worker {who:?} is reported: {fault}"));
                    self.condemn(who, &fault.to_string());
                }
                Report::Retired { worker, incarnation, .. } => {
                    let who = (worker.0, incarnation.0);
                    let found = self.workers.iter_mut().find(|worker| worker.who == who);
                    match found {
                        Some(worker) if worker.retiring && worker.load.get() == 0 => {
                            self.book.trace(|| format!("worker {who:?} has retired"));
                            worker.die(&mut self.kernel);
                        }
                        _ => self.book.fail(format!("worker {who:?} retired out of turn")),
                    }
                }
                Report::Stuck { worker, incarnation, standing } => {
                    let who = (worker.0, incarnation.0);
                    self.stuck(who, standing);
                }
            }
        }
        self.bury();
        self.count_workers();
    }

    fn condemn(&mut self, who: (u16, u32), fault: &str) {
        let Some(worker) = self.workers.iter_mut().find(|worker| worker.who == who) else {
            return self.book.fail(format!("worker {who:?} is at fault, and never was"));
        };
        let lied = worker.evil.as_ref().is_some_and(Evil::was_told);
        if !lied {
            return self.book.fail(format!("an honest worker is reported: {who:?}, {fault}"));
        }
        if std::mem::replace(&mut worker.reported, true) {
            return self.book.fail(format!("worker {who:?} is reported twice"));
        }
        self.book.tally.noticed += 1;
        worker.die(&mut self.kernel);
    }

    fn stuck(&mut self, who: (u16, u32), standing: Duration) {
        let found = self.workers.iter_mut().find(|worker| worker.who == who);
        match found {
            Some(worker) if worker.hung => worker.die(&mut self.kernel),
            _ => self.book.fail(format!("worker {who:?} is called stuck after {standing:?}")),
        }
    }

    /// Every death has a successor; every liar is killed in the end.
    fn bury(&mut self) {
        for at in 0..self.workers.len() {
            let worker = &mut self.workers[at];
            if worker.state == State::Dead && !worker.buried {
                worker.buried = true;
                if !worker.retiring {
                    let place = worker.who.0;
                    self.schedule(100_000, Event::Attach(place));
                }
            } else if worker.evil.as_ref().is_some_and(Evil::was_told) && !worker.sentenced {
                worker.sentenced = true;
                let at_time = self.kernel.now + Duration::from_secs(8);
                self.events.push((at_time, Event::Kill(at)));
            }
        }
    }

    fn count_workers(&mut self) {
        let active = |worker: &&Worker| {
            worker.state != State::Dead && !worker.reported && !worker.retiring && !worker.hung
        };
        if !self.workers.is_empty() && self.workers.iter().find(active).is_none() {
            self.book.shortage = true;
        }
    }

    fn attach(&mut self, place: u16) {
        let incarnation = &mut self.incarnations[usize::from(place)];
        *incarnation += 1;
        let who = (place, *incarnation);
        let profile = &self.book.profile;
        let fuse = match profile.crash_after {
            Some(stores) if who == (0, 1) => Some(stores),
            _ if self.rng.chance(profile.crashes) => {
                let most = self.rng.pick(&[20, 100, 500, 3000]);
                Some(self.rng.below(most) as u64)
            }
            _ => None,
        };
        let evil = self.rng.chance(profile.lies).then(|| Evil::draw(&mut self.rng, profile.lie));
        let heap = || Arc::new(Segment::heap(profile.geometry));
        let (e, w) = (heap(), heap());
        let (bell, lane_bell) = (Doorbell::new().unwrap(), Doorbell::new().unwrap());
        let pidfd: OwnedFd = Doorbell::new().unwrap().into();
        let load = Load::default();
        let made = Made {
            who,
            wire: Wire::new(Arc::clone(&w), Arc::clone(&e), fuse),
            bell: bell.try_clone().unwrap().into(),
            bell_watch: self.kernel.watch(lane_bell.as_fd().as_raw_fd()),
            pid_watch: self.kernel.watch(pidfd.as_raw_fd()),
            load: load.clone(),
            evil,
            rng: self.rng.fork(),
        };
        self.book.trace(|| format!("worker {who:?} attaches"));
        self.workers.push(Worker::new(made));
        let link = Link {
            worker: WorkerId(who.0),
            incarnation: Incarnation(who.1),
            lane: EdgeLane::new(e, w, Arc::new(bell)),
            bell: lane_bell,
            pidfd,
            load,
        };
        self.tell(Command::Attach(Box::new(link), Arc::clone(&self.routes)));
    }

    // --- what goes on ---

    /// Somebody does something; false when whoever was drawn had nothing to do.
    fn step(&mut self) -> bool {
        self.book.tick(self.kernel.now);
        let acted = match self.rng.below(100) {
            0..40 => self.kernel.step(&mut self.book),
            40..65 => {
                let at = self.rng.below(self.clients.len());
                self.clients[at].act(&mut self.kernel, &mut self.book)
            }
            65..97 if !self.workers.is_empty() => {
                // The living are mostly the last ones.
                let newest = self.workers.len().min(4);
                let at = self.workers.len() - 1 - self.rng.below(newest);
                self.act(at)
            }
            _ => self.control(),
        };
        self.kernel.now += Duration::from_micros(u64::from(acted));
        acted
    }

    fn act(&mut self, at: usize) -> bool {
        self.publish_jobs();
        self.workers[at].act(&mut self.kernel, &mut self.book)
    }

    /// For those who lie about others' exchanges.
    fn publish_jobs(&mut self) {
        if self.book.profile.lies > 0 {
            let jobs = self.workers.iter().filter(|worker| worker.state != State::Dead);
            let jobs = jobs.flat_map(|worker| worker.jobs.keys().map(|id| (worker.who, *id)));
            self.book.open = jobs.collect();
        }
    }

    /// Somebody does something, if anybody can.
    fn any_step(&mut self) -> bool {
        for _ in 0..6 {
            if self.step() {
                return true;
            }
        }
        self.book.tick(self.kernel.now);
        let acted = self.kernel.any_step(&mut self.book)
            || (0..self.clients.len())
                .any(|at| self.clients[at].act(&mut self.kernel, &mut self.book))
            || (0..self.workers.len()).any(|at| self.act(at))
            || self.control();
        self.kernel.now += Duration::from_micros(u64::from(acted));
        acted
    }

    fn next_time(&self) -> Option<Instant> {
        let now = self.kernel.now;
        let clients = self.clients.iter().filter_map(Client::wakes_at).filter(|at| *at > now);
        let workers = self.workers.iter().filter_map(|worker| worker.wakes_at(now));
        let events = self.events.iter().map(|(at, _)| *at);
        clients.chain(workers).chain(events).min()
    }

    /// Lets things happen until one of them concerns the shard, or its time is up.
    fn block(&mut self, until: Option<Instant>) {
        while self.kernel.queue.is_empty() && self.book.violation().is_none() {
            if until.is_some_and(|until| self.kernel.now >= until) {
                return;
            }
            if self.any_step() {
                continue;
            }
            let next = self.next_time().into_iter().chain(until).min();
            let Some(next) = next else {
                self.quiet = true;
                return;
            };
            self.kernel.now = self.kernel.now.max(next);
        }
    }

    /// What the shard must not sleep beside.
    fn check_sleep(&mut self) {
        let sabotage = self.book.profile.sabotage;
        for worker in &mut self.workers {
            if sabotage == Some(Sabotage::HideRecord) && worker.state != State::Dead {
                worker.hide_a_record();
            }
            let known = self.kernel.is_known(worker.bell_watch);
            if !known || worker.reported || self.kernel.was_told(worker.pid_watch) {
                continue;
            }
            let watches = [worker.bell_watch, worker.pid_watch];
            if !watches.iter().all(|watch| self.kernel.is_polled(*watch)) {
                self.book.fail(format!("asleep, and deaf to worker {:?}", worker.who));
            }
            let (tail, head) = (worker.wire.ours(Word::Tail), worker.wire.theirs(Word::Head));
            if tail != head {
                self.book.fail(format!(
                    "asleep beside {} unread bytes of {:?}",
                    tail - head,
                    worker.who
                ));
            }
            // A liar's wishes are not its own.
            let honest = !worker.evil.as_ref().is_some_and(Evil::was_told);
            if honest
                && worker.state == State::Asleep
                && worker.wire.is_owed_a_kick()
                && !worker.look(sabotage)
            {
                self.book.fail(format!("worker {:?} sleeps, and was not kicked", worker.who));
            }
        }
    }
}

impl Driver for World {
    fn accept(&mut self, listener: BorrowedFd<'_>, token: Token) {
        self.kernel.start_accept(listener.as_raw_fd(), token);
    }

    fn recv(&mut self, socket: BorrowedFd<'_>, token: Token) {
        self.kernel.start_recv(socket.as_raw_fd(), token);
    }

    fn send(&mut self, socket: BorrowedFd<'_>, data: Vec<u8>, token: Token) {
        self.kernel.start_send(socket.as_raw_fd(), data, token);
    }

    fn recv_datagrams(&mut self, _: BorrowedFd<'_>, _: Token) {
        unreachable!("this world has no UDP: quiche reads the real clock");
    }

    fn send_datagrams(&mut self, _: BorrowedFd<'_>, _: DatagramBatch, _: Token) {
        unreachable!("this world has no UDP");
    }

    fn poll(&mut self, fd: BorrowedFd<'_>, token: Token) {
        self.kernel.start_poll(fd.as_raw_fd(), token);
    }

    fn hang_up(&mut self, socket: BorrowedFd<'_>, token: Token) {
        self.kernel.start_hang_up(socket.as_raw_fd(), token);
    }

    fn cancel(&mut self, token: Token) {
        self.kernel.cancel(token);
    }

    fn shutdown_write(&mut self, socket: BorrowedFd<'_>, token: Token) {
        self.kernel.shutdown(socket.as_raw_fd(), token);
    }

    fn close(&mut self, fd: OwnedFd) {
        self.kernel.close(&fd);
    }

    fn turn(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.turns += 1;
        self.wait = wait;
        self.hear();
        let now = self.kernel.now;
        if wait == Wait::Poll {
            for _ in 0..self.rng.below(8) {
                self.step();
            }
        } else {
            self.check_sleep();
            // Now and then it comes back with nothing, as after a signal: then nothing can hide what was left undone.
            if self.rng.chance(700) {
                self.block(match wait {
                    Wait::AtMost(time) => Some(now + time),
                    _ => None,
                });
            }
        }
        self.completed = !self.kernel.queue.is_empty() || self.kernel.now > now;
        completions.append(&mut self.kernel.queue);
        Ok(())
    }

    fn completions_visible(&mut self) -> bool {
        self.kernel.now += Duration::from_micros(2);
        if self.rng.chance(300) {
            for _ in 0..self.rng.between(1, 4) {
                self.step();
            }
        }
        !self.kernel.queue.is_empty()
    }

    fn bytes(&self, lease: &Lease) -> &[u8] {
        self.kernel.bytes(lease)
    }

    fn recycle(&mut self, lease: Lease) {
        self.kernel.recycle(&lease);
    }

    fn datagrams(&mut self, _: &DatagramLease) -> Option<Arrived<'_>> {
        unreachable!("this world has no UDP");
    }

    fn recycle_datagrams(&mut self, _: DatagramLease) {
        unreachable!("this world has no UDP");
    }

    fn stats(&self) -> Stats {
        Stats::default()
    }

    fn now(&self) -> Instant {
        self.kernel.now
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
}

fn routes() -> Arc<Routes> {
    let methods = ["GET", "HEAD", "POST", "PUT", "DELETE"].map(String::from).to_vec();
    let route = RouteSpec { id: 0, path: "/t/{tag}".into(), methods };
    Arc::new(Routes::new(vec![route], true).unwrap())
}
