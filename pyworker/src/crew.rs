//! The application threads of a WSGI worker, which take the lanes' records themselves: leader and followers.
//!
//! Invariant: at most one thread leads, that is, looks at the lanes with the GIL released or sleeps on the doorbell; it never
//! calls into Python meanwhile. Records may be taken by any thread that holds the GIL. A thread that runs the application
//! leads no more; whoever has nothing to do then leads, also one that waits in the middle of a body. While all of them are
//! busy, the event loop's tick (`relieve`) takes what arrives, so that only a loop that is stuck looks like one.
//! No lock is held across a wait or a call into Python. Deliberately absent: what a request becomes (`wsgi`).
#![expect(
    clippy::disallowed_types,
    reason = "threads of one worker wait for each other; no shard waits with them"
)]

use std::{
    collections::VecDeque,
    os::fd::AsFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fasterapi::{ipc::Doorbell, limits::DRAIN_RECORDS_MAX};
use pyo3::prelude::*;
use rustix::event::{PollFd, PollFlags, poll};

use crate::{
    exchange::{Arrived, Body},
    fate::Fate,
    ffi::GilCell,
    lane::{Event, Takes},
    lanes::Lanes,
    wsgi,
};

/// How long a leader looks with the GIL released before it looks with it.
const SPIN_SLICE: Duration = Duration::from_micros(2);

/// A request that waits for a thread.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) lane: usize,
    pub(crate) id: u64,
    pub(crate) request: Arrived,
    pub(crate) body: Body,
    pub(crate) fate: Arc<Fate>,
}

/// What threads sleep by. Changed with the GIL held, except by a sleeper that wakes.
#[derive(Debug, Default)]
struct Sleep {
    /// Threads that wait for a job, or for the lead.
    idle: usize,
    /// Of those, how many were called and do not know it yet.
    calls: usize,
    /// How many woke up and do not hold the GIL yet.
    waking: usize,
    /// Grows whenever something has changed that an exchange may wait for.
    epoch: u64,
    /// Threads that wait for that.
    waiters: usize,
    stopping: bool,
}

#[derive(Debug)]
pub(crate) struct Crew {
    jobs: GilCell<VecDeque<Job>>,
    leads: AtomicBool,
    /// Threads that run the application.
    busy: AtomicUsize,
    sleep: Mutex<Sleep>,
    called: Condvar,
    changed: Condvar,
    /// Ends the leader's sleep.
    nudge: Doorbell,
}

impl Crew {
    pub(crate) fn new() -> std::io::Result<Self> {
        Ok(Self {
            jobs: GilCell::new(VecDeque::new()),
            leads: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            sleep: Mutex::new(Sleep::default()),
            called: Condvar::new(),
            changed: Condvar::new(),
            nudge: Doorbell::new()?,
        })
    }

    fn sleep(&self) -> MutexGuard<'_, Sleep> {
        // Nothing in its sections can panic half-way.
        self.sleep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    /// Takes the lead if nobody has it. Only with the GIL.
    fn take_lead(&self) -> bool {
        !self.leads.swap(true, Ordering::Relaxed)
    }

    fn leave_lead(&self, leads: &mut bool) {
        if std::mem::take(leads) {
            self.leads.store(false, Ordering::Relaxed);
        }
    }

    /// Calls as many threads as there is work for, the lead included, and tells those who wait in an exchange.
    fn hand_on(&self, py: Python<'_>, changed: bool) -> PyResult<()> {
        let jobs = self.jobs.borrow(py)?.len();
        let vacant = !self.leads();
        let mut sleep = self.sleep();
        let wanted = (jobs + usize::from(vacant)).min(sleep.idle);
        let missing = wanted.saturating_sub(sleep.calls + sleep.waking);
        sleep.calls += missing;
        let tell = sleep.waiters > 0 && (changed || vacant);
        sleep.epoch += u64::from(tell);
        drop(sleep);
        (0..missing).for_each(|_| self.called.notify_one());
        if tell {
            self.changed.notify_all();
        }
        Ok(())
    }

    /// Sleeps until it is called. Somebody else leads, and there is no job.
    fn rest(&self, py: Python<'_>) {
        self.sleep().idle += 1;
        py.detach(|| {
            let mut sleep = self.sleep();
            while sleep.calls == 0 && !sleep.stopping {
                sleep = self.called.wait(sleep).unwrap_or_else(PoisonError::into_inner);
            }
            sleep.idle -= 1;
            sleep.calls = sleep.calls.saturating_sub(1);
            sleep.waking += 1;
        });
        self.sleep().waking -= 1;
    }

    /// Sleeps until something has changed since `epoch`. Somebody else leads.
    fn await_change(&self, py: Python<'_>, epoch: u64) {
        self.sleep().waiters += 1;
        py.detach(|| {
            let mut sleep = self.sleep();
            while sleep.epoch == epoch && !sleep.stopping {
                sleep = self.changed.wait(sleep).unwrap_or_else(PoisonError::into_inner);
            }
        });
        self.sleep().waiters -= 1;
    }

    /// Lets every thread go once it has nothing to do.
    pub(crate) fn stop(&self) -> PyResult<()> {
        self.sleep().stopping = true;
        self.called.notify_all();
        self.changed.notify_all();
        self.nudge.kick()?;
        Ok(())
    }
}

/// A thread's life.
pub(crate) fn work(lanes: &Bound<'_, Lanes>) -> PyResult<()> {
    let (py, own) = (lanes.py(), lanes.get());
    let crew = &own.crew;
    let mut leads = false;
    loop {
        let job = crew.jobs.borrow(py)?.pop_front();
        if let Some(job) = job {
            crew.leave_lead(&mut leads);
            crew.hand_on(py, false)?;
            crew.busy.fetch_add(1, Ordering::Relaxed);
            let done = wsgi::run(lanes, job);
            crew.busy.fetch_sub(1, Ordering::Relaxed);
            done?;
        } else if crew.sleep().stopping {
            return Ok(());
        } else if leads || crew.take_lead() {
            leads = true;
            own.lead(py).inspect_err(|_| crew.leave_lead(&mut true))?;
        } else {
            crew.rest(py);
        }
    }
}

impl Lanes {
    /// Looks for records, sleeps until there is something, and takes it.
    fn lead(&self, py: Python<'_>) -> PyResult<()> {
        let slept = self.watch(py)?;
        self.take_records(py, slept)
    }

    /// True after a sleep.
    fn watch(&self, py: Python<'_>) -> PyResult<bool> {
        self.flush_all(py)?;
        if self.pending(py)? || self.spin_in_slices(py)? {
            return Ok(false);
        }
        let sleeps = !self.arm(py)?;
        if sleeps {
            py.detach(|| {
                let mut bells = [&self.bell, &self.crew.nudge]
                    .map(|bell| PollFd::from_borrowed_fd(bell.as_fd(), PollFlags::IN));
                rustix::io::retry_on_intr(|| poll(&mut bells, None))
            })
            .map_err(std::io::Error::from)?;
            self.crew.nudge.hush()?;
            self.awake(py)?;
        }
        Ok(sleeps)
    }

    /// As `spin`, but nothing is borrowed while other threads may run.
    #[expect(clippy::disallowed_methods, reason = "a spin is a wait, and waits on the real clock")]
    fn spin_in_slices(&self, py: Python<'_>) -> PyResult<bool> {
        let limit = self.spin_limit(py)?;
        // Who runs the application wants the GIL and perhaps the processor.
        if limit.is_zero() || self.crew.busy.load(Ordering::Relaxed) > 0 {
            return Ok(false);
        }
        let start = Instant::now();
        let mut hit = false;
        while !hit && start.elapsed() < limit {
            py.detach(|| {
                let slice = Instant::now();
                while slice.elapsed() < SPIN_SLICE {
                    std::hint::spin_loop();
                }
            });
            hit = self.pending(py)?;
        }
        self.spun(py, hit)?;
        Ok(hit)
    }

    /// Takes what has arrived: requests become jobs, everything else goes to the books. `changed`: as if there were news.
    fn take_records(&self, py: Python<'_>, changed: bool) -> PyResult<()> {
        let mut scratch = self.scratch.borrow(py)?.take().unwrap_or_default();
        let mut noted = changed;
        for lane in 0..self.lane_count(py)? {
            for _ in 0..DRAIN_RECORDS_MAX {
                let Some(event) =
                    self.lane(py, lane, |lane| lane.next(&mut scratch, |_| Takes::PIECES))?
                else {
                    break;
                };
                let job = match event {
                    Event::Begin { id } => {
                        let fate = Arc::<Fate>::default();
                        let request = std::mem::take(&mut scratch);
                        // In the books at once: its client may go away while it waits.
                        self.lane(py, lane, |lane| {
                            lane.begin(id, &fate);
                            Ok(())
                        })?;
                        Job { lane, id, request, body: Body::Inside, fate }
                    }
                    Event::Stream { id, request, fate } => {
                        Job { lane, id, request: *request, body: Body::Coming, fate }
                    }
                    Event::Whole { .. } => unreachable!("every body is streamed here"),
                    Event::Noted => {
                        noted = true;
                        continue;
                    }
                };
                self.crew.jobs.borrow(py)?.push_back(job);
            }
        }
        self.recycle(py, scratch)?;
        // What credit or room was for, and the credit that is due.
        self.flush_all(py)?;
        self.crew.hand_on(py, noted)
    }

    /// Keeps a buffer for the next request.
    pub(crate) fn recycle(&self, py: Python<'_>, request: Arrived) -> PyResult<()> {
        *self.scratch.borrow(py)? = Some(request);
        Ok(())
    }

    /// For a thread that does not wait: takes what has arrived, if nobody else is about to.
    pub(crate) fn glance(&self, py: Python<'_>) -> PyResult<()> {
        if self.pending(py)? { self.take_records(py, false) } else { Ok(()) }
    }

    /// Of the event loop: while every thread is busy, nobody else takes what arrives.
    pub(crate) fn relieve_crew(&self, py: Python<'_>) -> PyResult<()> {
        if self.crew.leads() { Ok(()) } else { self.take_records(py, true) }
    }

    /// Blocks the thread until `look` has found something, and takes what arrives meanwhile unless somebody else does.
    pub(crate) fn wait_for<T>(
        &self,
        py: Python<'_>,
        mut look: impl FnMut() -> PyResult<Option<T>>,
    ) -> PyResult<T> {
        self.glance(py)?;
        if let Some(found) = look()? {
            return Ok(found);
        }
        let crew = &self.crew;
        let (mut leads, mut nudged) = (false, false);
        let found = loop {
            let epoch = crew.sleep().epoch;
            match look() {
                Ok(None) => {}
                Ok(Some(found)) => break Ok(found),
                Err(error) => break Err(error),
            }
            if leads || crew.take_lead() {
                leads = true;
                if let Err(error) = self.lead(py) {
                    break Err(error);
                }
                continue;
            }
            if !std::mem::replace(&mut nudged, true) {
                // Who leads may have gone to sleep without asking for the room that is awaited here.
                crew.nudge.kick()?;
            }
            crew.await_change(py, epoch);
        };
        crew.leave_lead(&mut leads);
        crew.hand_on(py, false)?;
        found
    }

    fn flush_all(&self, py: Python<'_>) -> PyResult<()> {
        for index in 0..self.lane_count(py)? {
            self.lane(py, index, |lane| lane.flush(py))?;
        }
        Ok(())
    }
}
