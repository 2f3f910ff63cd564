//! The worker's ends of its lanes, one to each shard, and its doorbell.
//!
//! Invariant: `armed` is true from the moment a sleep may begin until the next drain, which then reads the doorbell; it is
//! never left readable for more than one sleep. No cell is borrowed across a call into Python. Deliberately absent: the event loop (it
//! calls in here), what an exchange needs (`lane`), how handlers run (`drive`).

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fasterapi::{
    ipc::{Doorbell, Fault, Segment},
    limits::{DRAIN_RECORDS_MAX, SHARDS_MAX},
};
use pyo3::{
    exceptions::{PyRuntimeError, PyValueError},
    prelude::*,
    sync::PyOnceLock,
    types::{PyBytes, PyTuple},
};

use crate::{
    answer::Answer,
    crew::{self, Crew},
    drive::{self, First, Place, Source},
    endpoint::Target,
    exchange::{Arrived, Body, Exchange},
    fate::{Fate, Stage},
    ffi::{self, GilCell},
    handle::Handle,
    lane::{Errand, Event, Lane, Takes},
    serving::{Callbacks, Serving, is_exit},
};

/// Records after which a batch's answers become visible even though it goes on: a slow handler delays no more than these.
const PUBLISH_EVERY: usize = 16;
/// Looks at the lanes between two looks at the clock.
const SPINS_PER_CLOCK: usize = 32;

/// How long to look for records before sleeping.
#[derive(Debug)]
struct Spin {
    now: Duration,
    max: Duration,
}

impl Spin {
    fn adapt(&mut self, hit: bool) {
        self.now = if hit { self.now * 2 } else { self.now / 2 };
        self.now = self.now.clamp(Duration::from_micros(1), self.max);
    }
}

#[pyclass(frozen, module = "fasterapi._native")]
pub(crate) struct Lanes {
    pub(crate) bell: Doorbell,
    lanes: GilCell<Vec<Lane>>,
    pub(crate) serving: PyOnceLock<Serving>,
    pub(crate) first: GilCell<Option<First>>,
    /// The buffer of the next request; missing while a drain has it.
    pub(crate) scratch: GilCell<Option<Arrived>>,
    spin: GilCell<Spin>,
    pub(crate) armed: AtomicBool,
    /// The application's threads, where it has any.
    pub(crate) crew: Crew,
    /// Handlers that were suspended and have not ended.
    pub(crate) tasks: AtomicUsize,
    /// Called when the lanes were used outside `drain` and `flush`: a loop that is not asked before it sleeps has to be told that
    /// there may be something to flush.
    on_use: PyOnceLock<Py<PyAny>>,
    /// True while no such call is due: one was made since the last `flush`, or the caller of `drain` flushes anyway.
    told: AtomicBool,
    /// Set for good once a drain has failed: what it then says, every later call says too.
    failure: PyOnceLock<String>,
}

impl Lanes {
    pub(crate) fn serving<'a>(&'a self, py: Python<'a>) -> PyResult<&'a Serving> {
        self.serving.get(py).ok_or_else(|| PyRuntimeError::new_err("serve() was not called"))
    }

    /// Uses one lane's books.
    pub(crate) fn lane<T>(
        &self,
        py: Python<'_>,
        index: usize,
        action: impl FnOnce(&mut Lane) -> Result<T, Fault>,
    ) -> PyResult<T> {
        Ok(self.with_lane(py, index, action)?.0)
    }

    /// Also says whether somebody was woken.
    fn with_lane<T>(
        &self,
        py: Python<'_>,
        index: usize,
        action: impl FnOnce(&mut Lane) -> Result<T, Fault>,
    ) -> PyResult<(T, bool)> {
        let mut lanes = self.lanes.borrow(py)?;
        let Some(lane) = lanes.get_mut(index) else { unreachable!("lanes are never removed") };
        let result = action(lane).map_err(broken);
        let errands = lane.take_errands();
        drop(lanes);
        if let Some(on_use) = self.on_use.get(py)
            && !self.told.swap(true, Ordering::Relaxed)
        {
            ffi::call0(py, on_use)?;
        }
        let Some(errands) = errands else { return Ok((result?, false)) };
        errands.into_iter().try_for_each(|errand| run(py, errand))?;
        Ok((result?, true))
    }

    /// Answers with JSON, in place if there is room.
    pub(crate) fn answer_json(
        &self,
        serving: &Serving,
        place: Place,
        source: &Source,
        body: &Bound<'_, PyBytes>,
    ) -> PyResult<()> {
        let py = body.py();
        let Some(head) = serving.json_heads.get(place.route) else {
            unreachable!("one head for each endpoint")
        };
        let written =
            self.lane(py, place.lane, |lane| lane.answer_whole(place.id, head, body.as_bytes()))?;
        if written {
            source.reach(Stage::Ended);
            return Ok(());
        }
        let answer = Answer { head: head.clone(), body: body.clone().unbind() };
        self.answer(py, place, source, answer)
    }

    pub(crate) fn answer(
        &self,
        py: Python<'_>,
        place: Place,
        source: &Source,
        answer: Answer,
    ) -> PyResult<()> {
        let fate = source.fate();
        self.lane(py, place.lane, |lane| lane.answer(py, place.id, &fate, answer))
    }

    /// Ends an exchange without a (complete) answer.
    pub(crate) fn abort(&self, py: Python<'_>, place: Place, source: &Source) -> PyResult<()> {
        source.reach(Stage::Gone);
        self.lane(py, place.lane, |lane| lane.abort(place.id))
    }

    pub(crate) fn lane_count(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.lanes.borrow(py)?.len())
    }

    /// Any of them; stops at the first that says yes.
    pub(crate) fn any(
        &self,
        py: Python<'_>,
        ask: impl FnMut(&mut Lane) -> Result<bool, Fault>,
    ) -> PyResult<bool> {
        let mut lanes = self.lanes.borrow(py)?;
        let mut answers = lanes.iter_mut().map(ask);
        answers
            .find_map(|answer| match answer {
                Ok(false) => None,
                Ok(true) => Some(Ok(true)),
                Err(fault) => Some(Err(broken(fault))),
            })
            .unwrap_or(Ok(false))
    }

    pub(crate) fn each(
        &self,
        py: Python<'_>,
        action: impl Fn(&mut Lane) -> Result<(), Fault>,
    ) -> PyResult<()> {
        self.any(py, |lane| action(lane).map(|()| false)).map(drop)
    }

    /// Takes back what `before_block` asked for, once the sleep is over.
    pub(crate) fn awake(&self, py: Python<'_>) -> PyResult<()> {
        if self.armed.swap(false, Ordering::Relaxed) {
            self.each(py, |lane| {
                lane.disarm();
                Ok(())
            })?;
            // After disarming: a kick that was on its way is seen by the next sleep, which it ends at once.
            self.bell.hush()?;
        }
        Ok(())
    }

    /// Looks at the lanes without the GIL. True when there is something.
    fn spin(&self, py: Python<'_>) -> PyResult<bool> {
        let mut spin = self.spin.borrow(py)?;
        if spin.max.is_zero() {
            return Ok(false);
        }
        let lanes = self.lanes.borrow(py)?;
        let (lanes, limit) = (&*lanes, spin.now);
        let hit = py.detach(|| wait_for_records(lanes, limit));
        spin.adapt(hit);
        Ok(hit)
    }

    /// Asks to be rung, so that a sleep may begin; true when there is something to be done instead.
    pub(crate) fn arm(&self, py: Python<'_>) -> PyResult<bool> {
        let found = self.any(py, Lane::arm)?;
        if found {
            self.each(py, |lane| {
                lane.disarm();
                Ok(())
            })?;
            // A shard that rang in between ends the next sleep at once: rarer than the read that would look for it.
        } else {
            self.armed.store(true, Ordering::Relaxed);
        }
        Ok(found)
    }

    /// How long to look at the lanes before sleeping.
    pub(crate) fn spin_limit(&self, py: Python<'_>) -> PyResult<Duration> {
        let spin = self.spin.borrow(py)?;
        Ok(spin.now.min(spin.max))
    }

    /// What came of that look.
    pub(crate) fn spun(&self, py: Python<'_>, hit: bool) -> PyResult<()> {
        self.spin.borrow(py)?.adapt(hit);
        Ok(())
    }
}

fn run(py: Python<'_>, errand: Errand) -> PyResult<()> {
    match errand {
        Errand::Wake(future) => {
            // Whoever waited may have been cancelled meanwhile.
            if !future.call_method0(py, pyo3::intern!(py, "done"))?.is_truthy(py)? {
                future.call_method1(py, pyo3::intern!(py, "set_result"), (py.None(),))?;
            }
        }
        Errand::Cancel(task) => drop(task.call_method0(py, pyo3::intern!(py, "cancel"))?),
        Errand::Drop(object) => drop(object),
    }
    Ok(())
}

/// The edge is trusted: what it breaks ends the worker.
pub(crate) fn broken(fault: Fault) -> PyErr {
    PyRuntimeError::new_err(format!("the edge broke the lane: {fault}"))
}

#[expect(clippy::disallowed_methods, reason = "a spin is a wait, and waits on the real clock")]
fn wait_for_records(lanes: &[Lane], limit: Duration) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..SPINS_PER_CLOCK {
            if lanes.iter().any(Lane::pending) {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() >= limit {
            return false;
        }
    }
}

/// What the attach message says that matters here.
pub(crate) fn parse_attach(attach: &Bound<'_, PyBytes>) -> PyResult<(usize, u64)> {
    let message = attach.py().import("json")?.call_method1("loads", (attach,))?;
    // The control channel wraps each message in its name.
    let message = message.call_method1("get", ("attach", &message))?;
    let shards = message.get_item("shards")?.extract::<usize>()?;
    let spin_us = message.get_item("spin_us")?.extract::<u64>()?;
    Ok((shards, spin_us))
}

pub(crate) fn attach_lane(fds: [OwnedFd; 3]) -> PyResult<Lane> {
    let [e, w, bell] = fds;
    let refused =
        |error: fasterapi::ipc::segment::AttachError| PyRuntimeError::new_err(error.to_string());
    let peer = Segment::attach(e.as_fd(), false).map_err(refused)?;
    let own = Segment::attach(w.as_fd(), true).map_err(refused)?;
    Ok(Lane::new(own, peer, Doorbell::from_fd(bell)))
}

#[pymethods]
impl Lanes {
    #[new]
    #[expect(clippy::needless_pass_by_value, reason = "arguments that PyO3 extracts are owned")]
    fn new(attach: &Bound<'_, PyBytes>, fds: Vec<RawFd>) -> PyResult<Self> {
        let mut fds = ffi::own_fds(&fds).into_iter();
        let (shards, spin_us) = parse_attach(attach)?;
        if shards == 0 || shards > SHARDS_MAX || fds.len() != 1 + 3 * shards {
            let text = format!("{} descriptors do not belong to {shards} shards", fds.len());
            return Err(PyValueError::new_err(text));
        }
        let bell = fds.next().map(Doorbell::from_fd);
        let mut lanes = Vec::with_capacity(shards);
        while let (Some(e), Some(w), Some(bell)) = (fds.next(), fds.next(), fds.next()) {
            lanes.push(attach_lane([e, w, bell])?);
        }
        let Some(bell) = bell else { unreachable!("counted above") };
        let max = Duration::from_micros(spin_us);
        Ok(Self {
            bell,
            lanes: GilCell::new(lanes),
            serving: PyOnceLock::new(),
            first: GilCell::new(None),
            scratch: GilCell::new(Some(Arrived::default())),
            spin: GilCell::new(Spin { now: max, max }),
            armed: AtomicBool::new(false),
            crew: Crew::new()?,
            tasks: AtomicUsize::new(0),
            on_use: PyOnceLock::new(),
            told: AtomicBool::new(false),
            failure: PyOnceLock::new(),
        })
    }

    #[pyo3(signature = (endpoints, *, r#loop, dumps, dumps_args, encode, fail, deliver = None))]
    #[expect(clippy::too_many_arguments, reason = "keyword arguments of the Python interface")]
    fn serve<'py>(
        &self,
        py: Python<'py>,
        endpoints: Vec<Target>,
        r#loop: Bound<'py, PyAny>,
        dumps: Bound<'py, PyAny>,
        dumps_args: Bound<'py, PyTuple>,
        encode: Bound<'py, PyAny>,
        fail: Bound<'py, PyAny>,
        deliver: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let callbacks = Callbacks { event_loop: r#loop, dumps, dumps_args, encode, fail, deliver };
        let serving = Serving::new(py, endpoints, callbacks)?;
        self.serving
            .set(py, serving)
            .map_err(|_| PyRuntimeError::new_err("serve() was called already"))
    }

    fn fileno(&self) -> RawFd {
        self.bell.as_fd().as_raw_fd()
    }

    fn drain(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, own) = (slf.py(), slf.get());
        let serving = own.serving(py)?;
        own.awake(py)?;
        own.told.store(true, Ordering::Relaxed);
        let Some(mut scratch) = own.scratch.borrow(py)?.take() else {
            return Err(PyRuntimeError::new_err("drain() was called by a handler"));
        };
        let mut result = Ok(());
        for index in 0..own.lane_count(py)? {
            result = drain_lane(slf, serving, index, &mut scratch);
            if result.is_err() {
                break;
            }
        }
        *own.scratch.borrow(py)? = Some(scratch);
        if let Err(error) = &result
            && !is_exit(py, error)
        {
            own.failure.get_or_init(py, || error.value(py).to_string());
        }
        result
    }

    pub(crate) fn pending(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.lanes.borrow(py)?.iter().any(Lane::pending))
    }

    fn before_block(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.spin(py)? || self.arm(py)?)
    }

    fn flush(&self, py: Python<'_>) -> PyResult<bool> {
        if let Some(failure) = self.failure.get(py) {
            // The loop only logs what its callbacks raise; from its selector this ends it.
            return Err(PyRuntimeError::new_err(failure.clone()));
        }
        let mut woken = false;
        self.told.store(true, Ordering::Relaxed);
        for index in 0..self.lane_count(py)? {
            woken |= self.with_lane(py, index, |lane| lane.flush(py))?.1;
        }
        self.told.store(false, Ordering::Relaxed);
        Ok(woken)
    }

    fn on_use(&self, py: Python<'_>, callback: Py<PyAny>) -> PyResult<()> {
        self.on_use
            .set(py, callback)
            .map_err(|_| PyRuntimeError::new_err("on_use() was called already"))
    }

    fn in_flight(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.lanes.borrow(py)?.iter().map(Lane::in_flight).sum())
    }

    fn tasks(&self) -> usize {
        self.tasks.load(Ordering::Relaxed)
    }

    fn work(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, own) = (slf.py(), slf.get());
        own.serving(py)?;
        let result = crew::work(slf);
        if let Err(error) = &result {
            own.failure.get_or_init(py, || error.value(py).to_string());
        }
        result
    }

    fn relieve(&self, py: Python<'_>) -> PyResult<()> {
        self.relieve_crew(py)
    }

    fn dismiss(&self) -> PyResult<()> {
        self.crew.stop()
    }

    fn current_task<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        drive::current_task(slf)
    }
}

/// One lane's turn. What was answered is published even when a handler ends the worker.
fn drain_lane(
    lanes: &Bound<'_, Lanes>,
    serving: &Serving,
    index: usize,
    scratch: &mut Arrived,
) -> PyResult<()> {
    let (py, own) = (lanes.py(), lanes.get());
    for taken in 1..=DRAIN_RECORDS_MAX {
        let takes = |route: u32| serving.target(route as usize).map_or(Takes::WHOLE, Target::takes);
        let next = own.lane(py, index, |lane| lane.next(scratch, takes))?;
        let Some(event) = next else { break };
        let begun = match event {
            Event::Noted => Ok(()),
            Event::Begin { id } => {
                let source = Source::Scratch(std::mem::take(scratch));
                drive::begin(lanes, serving, (index, id), source).map(|source| {
                    if let Source::Scratch(buffer) = source {
                        *scratch = buffer;
                    }
                })
            }
            Event::Stream { id, request, fate } => {
                let made = Made { id, request, body: Body::Coming, fate };
                begin_made(lanes, serving, index, made)
            }
            Event::Whole { id, request, body } => {
                let whole = PyBytes::new(py, &body).unbind();
                drop(body);
                let made = Made { id, request, body: Body::Whole(whole), fate: Arc::default() };
                begin_made(lanes, serving, index, made)
            }
        };
        if begun.is_err() || taken % PUBLISH_EVERY == 0 {
            own.lane(py, index, Lane::publish)?;
        }
        begun?;
    }
    own.lane(py, index, |lane| lane.flush(py))
}

/// A request that did not come in one record.
struct Made {
    id: u64,
    request: Box<Arrived>,
    body: Body,
    fate: Arc<Fate>,
}

fn begin_made(
    lanes: &Bound<'_, Lanes>,
    serving: &Serving,
    lane: usize,
    made: Made,
) -> PyResult<()> {
    let Made { id, request, body, fate } = made;
    let names = serving.target(request.route as usize)?.param_names().clone_ref(lanes.py());
    let handle = Handle::new(lanes.clone().unbind(), lane, id, fate);
    let exchange = Py::new(lanes.py(), Exchange::new(lanes.py(), *request, names, body, handle))?;
    drive::begin(lanes, serving, (lane, id), Source::Made(exchange)).map(drop)
}
