//! The first step of a handler's coroutine: made without a task, in a fresh copy of the worker's context.
//!
//! Invariant: while `Lanes::first` is set, exactly that coroutine's first step is on the stack. If it asks for its task, the
//! task is made there and then and entered until the step has ended; afterwards there is one only if the coroutine waits.

use std::sync::{Arc, atomic::Ordering};

use pyo3::{exceptions::PyRuntimeError, prelude::*, types::PyTuple};

use crate::{
    answer::{Answer, is_plain_json},
    endpoint::Target,
    exchange::{Arrived, Body, Exchange},
    fate::{Fate, Stage},
    ffi::{self, Step},
    handle::Handle,
    lanes::Lanes,
    serving::{Serving, TaskForm, is_exit},
    task::{Rest, State, clear_blocking},
};

/// Where an exchange belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) lane: usize,
    pub(crate) id: u64,
    pub(crate) route: usize,
    pub(crate) call: Call,
}

/// Which function handles an exchange: their results mean different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Fast,
    Slow,
    /// An ASGI application, which has no result.
    Asgi,
}

/// The request behind a first step: an `Exchange` only if somebody needed one.
#[derive(Debug)]
pub(crate) enum Source {
    /// Still in the buffer that the next request will use.
    Scratch(Arrived),
    Made(Py<Exchange>),
}

impl Source {
    pub(crate) fn request(&self) -> &Arrived {
        match self {
            Self::Scratch(request) => request,
            Self::Made(exchange) => exchange.get().request(),
        }
    }

    fn exchange(
        &mut self,
        lanes: &Bound<'_, Lanes>,
        serving: &Serving,
        place: Place,
    ) -> PyResult<Py<Exchange>> {
        let py = lanes.py();
        let made = match self {
            Self::Made(exchange) => return Ok(exchange.clone_ref(py)),
            Self::Scratch(request) => std::mem::take(request),
        };
        let names = serving.target(place.route)?.param_names().clone_ref(py);
        let handle = Handle::new(lanes.clone().unbind(), place.lane, place.id, Arc::default());
        let exchange = Py::new(py, Exchange::new(py, made, names, Body::Inside, handle))?;
        *self = Self::Made(exchange.clone_ref(py));
        Ok(exchange)
    }

    /// That of the exchange; one of its own where nobody has seen the exchange.
    pub(crate) fn fate(&self) -> Arc<Fate> {
        match self {
            Self::Scratch(_) => Arc::default(),
            Self::Made(exchange) => Arc::clone(exchange.get().handle().fate()),
        }
    }

    /// The answer has come this far.
    pub(crate) fn reach(&self, stage: Stage) {
        if let Self::Made(exchange) = self {
            exchange.get().fate().advance(stage);
        }
    }

    /// How far the answer has come. Only an `Exchange` could have begun one.
    fn stage(&self) -> Stage {
        match self {
            Self::Scratch(_) => Stage::Unanswered,
            Self::Made(exchange) => exchange.get().fate().stage(),
        }
    }
}

/// The first step that is on the stack.
#[derive(Debug)]
pub(crate) struct First {
    coroutine: Py<PyAny>,
    context: Py<PyAny>,
    source: Source,
    place: Place,
    /// The task that was made on demand, and what it runs.
    task: Option<(Py<PyAny>, Py<Rest>)>,
}

/// Marks what came back through `Context.run` as yielded rather than returned.
#[pyclass(frozen)]
pub(crate) struct Yielded(Py<PyAny>);

/// What runs inside `Context.run`.
#[pyfunction]
pub(crate) fn step<'py>(coroutine: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    match ffi::send(coroutine)? {
        Step::Returned(value) => Ok(value),
        Step::Yielded(value) => Ok(Bound::new(coroutine.py(), Yielded(value.unbind()))?.into_any()),
    }
}

/// A step of the coroutine inside that context.
pub(crate) fn step_in<'py>(
    serving: &Serving,
    context: &Bound<'py, PyAny>,
    coroutine: &Bound<'py, PyAny>,
) -> PyResult<Step<'py>> {
    let py = context.py();
    let result = ffi::call(py, &serving.run, [context, serving.step.bind(py), coroutine])?;
    Ok(match result.cast_exact::<Yielded>() {
        Ok(yielded) => Step::Yielded(yielded.get().0.bind(py).clone()),
        Err(_) => Step::Returned(result),
    })
}

/// Runs a request's handler as far as it goes. Returns the buffer if nobody has kept it.
///
/// An error is one that must end the worker.
pub(crate) fn begin(
    lanes: &Bound<'_, Lanes>,
    serving: &Serving,
    at: (usize, u64),
    mut source: Source,
) -> PyResult<Source> {
    let py = lanes.py();
    let own = lanes.get();
    let route = source.request().route as usize;
    let target = serving.target(route)?;
    let mut place = Place { lane: at.0, id: at.1, route, call: Call::Fast };
    let fast = match target {
        Target::Native(endpoint) => endpoint.get().call_fast(py, source.request()),
        Target::Asgi(_) => None,
    };
    let called = match (fast, target) {
        (Some(called), _) => called,
        (None, Target::Native(endpoint)) => {
            place.call = Call::Slow;
            let exchange = source.exchange(lanes, serving, place)?;
            endpoint.get().call_slow(py, exchange.bind(py).as_any())
        }
        (None, Target::Asgi(endpoint)) => {
            place.call = Call::Asgi;
            let exchange = source.exchange(lanes, serving, place)?;
            endpoint.get().call(py, &exchange)
        }
    };
    let coroutine = match called {
        Ok(coroutine) => coroutine,
        Err(error) => return raised(lanes, place, &mut source, error).map(|()| source),
    };
    let context = ffi::call0(py, &serving.copy_context)?;
    *own.first.borrow(py)? = Some(First {
        coroutine: coroutine.clone().unbind(),
        context: context.clone().unbind(),
        source,
        place,
        task: None,
    });
    let stepped = step_in(serving, &context, &coroutine);
    let Some(first) = own.first.borrow(py)?.take() else {
        unreachable!("set above, and only taken here")
    };
    let First { mut source, task, .. } = first;
    if let Some((task, rest)) = task {
        serving.leave_task.bind(py).call1((&serving.event_loop, &task))?;
        end_with_task(lanes, place, &mut source, stepped, (task, &rest))?;
        return Ok(source);
    }
    match stepped {
        Ok(Step::Returned(value)) => finish(lanes, place, &value, &mut source)?,
        Ok(Step::Yielded(value)) => {
            let exchange = source.exchange(lanes, serving, place)?;
            suspend(lanes, place, &exchange, &context, (&coroutine, &value))?;
        }
        Err(error) => raised(lanes, place, &mut source, error)?,
    }
    Ok(source)
}

/// The handler waits: a task is made for the rest of it.
fn suspend(
    lanes: &Bound<'_, Lanes>,
    place: Place,
    exchange: &Py<Exchange>,
    context: &Bound<'_, PyAny>,
    (coroutine, value): (&Bound<'_, PyAny>, &Bound<'_, PyAny>),
) -> PyResult<()> {
    let py = lanes.py();
    let serving = lanes.get().serving(py)?;
    let eager = serving.task_form == TaskForm::Eager;
    // An eager task takes the future over before anybody else could wait for it; a scheduled one does so a turn later.
    let blocking = !eager && clear_blocking(value)?;
    let state = State::Yielded { value: value.clone().unbind(), blocking };
    let rest = new_rest(lanes, place, exchange.clone_ref(py), context, coroutine, state)?;
    let task = serving.new_task(rest.bind(py).as_any(), context, eager)?;
    enter_task(lanes, place, exchange, task.unbind())
}

/// Enters the task of a suspended handler in the books.
fn enter_task(
    lanes: &Bound<'_, Lanes>,
    place: Place,
    exchange: &Py<Exchange>,
    task: Py<PyAny>,
) -> PyResult<()> {
    let (py, own) = (lanes.py(), lanes.get());
    let cancels = own.serving(py)?.target(place.route)?.cancels();
    own.tasks.fetch_add(1, Ordering::Relaxed);
    own.lane(py, place.lane, |lane| {
        let fate = exchange.get().handle().fate();
        lane.suspended(place.id, fate, task, cancels);
        Ok(())
    })
}

fn new_rest(
    lanes: &Bound<'_, Lanes>,
    place: Place,
    exchange: Py<Exchange>,
    context: &Bound<'_, PyAny>,
    coroutine: &Bound<'_, PyAny>,
    state: State,
) -> PyResult<Py<Rest>> {
    let by_step = lanes.get().serving(lanes.py())?.task_form == TaskForm::Bare;
    let context = by_step.then(|| context.clone().unbind());
    let (coroutine, own) = (coroutine.clone().unbind(), lanes.clone().unbind());
    Py::new(lanes.py(), Rest::new(coroutine, own, exchange, place, context, state))
}

/// As the end of a first step, when its task was made on demand and has yet to make its own first step.
fn end_with_task(
    lanes: &Bound<'_, Lanes>,
    place: Place,
    source: &mut Source,
    stepped: PyResult<Step<'_>>,
    (task, rest): (Py<PyAny>, &Py<Rest>),
) -> PyResult<()> {
    let py = lanes.py();
    let serving = lanes.get().serving(py)?;
    let state = match stepped {
        Ok(Step::Yielded(value)) => {
            let blocking = clear_blocking(&value)?;
            let exchange = source.exchange(lanes, serving, place)?;
            enter_task(lanes, place, &exchange, task)?;
            State::Yielded { value: value.unbind(), blocking }
        }
        Ok(Step::Returned(value)) => {
            finish(lanes, place, &value, source)?;
            State::Ended(Ok(value.unbind()))
        }
        Err(error) => {
            let cancelled = serving.is_cancelled(py, &error);
            let end = if cancelled { Err(error.clone_ref(py)) } else { Ok(py.None()) };
            // Ended in any case, so that the task cannot start the coroutine again.
            drop(rest.get().replace(py, State::Ended(end))?);
            return raised(lanes, place, source, error);
        }
    };
    drop(rest.get().replace(py, state)?);
    Ok(())
}

/// `Lanes.current_task`: the task of the first step that is on the stack, made and entered on demand.
pub(crate) fn current_task<'py>(lanes: &Bound<'py, Lanes>) -> PyResult<Option<Bound<'py, PyAny>>> {
    let (py, own) = (lanes.py(), lanes.get());
    let Some(serving) = own.serving.get(py) else { return Ok(None) };
    if std::thread::current().id() != serving.loop_thread {
        return Ok(None);
    }
    let (exchange, place, context, coroutine) = {
        let mut first = own.first.borrow(py)?;
        let Some(first) = first.as_mut() else { return Ok(None) };
        if let Some((task, _)) = &first.task {
            return Ok(Some(task.bind(py).clone()));
        }
        let exchange = first.source.exchange(lanes, serving, first.place)?;
        (exchange, first.place, first.context.bind(py).clone(), first.coroutine.bind(py).clone())
    };
    let rest = new_rest(lanes, place, exchange, &context, &coroutine, State::Stepping)?;
    let task = serving.new_task(rest.bind(py).as_any(), &context, false)?;
    serving.enter_task.bind(py).call1((&serving.event_loop, &task))?;
    if let Some(first) = own.first.borrow(py)?.as_mut() {
        first.task = Some((task.clone().unbind(), rest));
    }
    Ok(Some(task))
}

/// The coroutine has returned: answers, unless that is done.
pub(crate) fn finish(
    lanes: &Bound<'_, Lanes>,
    place: Place,
    value: &Bound<'_, PyAny>,
    source: &mut Source,
) -> PyResult<()> {
    let (py, own) = (lanes.py(), lanes.get());
    let serving = own.serving(py)?;
    let stage = source.stage();
    let made = match place.call {
        // Nobody waits for what it returned: its client went away, or has everything.
        _ if stage == Stage::Gone => return Ok(()),
        Call::Slow | Call::Asgi if stage == Stage::Ended && value.is_none() => return Ok(()),
        Call::Asgi => Err(incomplete(py, stage, value, source)?),
        Call::Slow if value.is_none() || stage != Stage::Unanswered => Err(unfinished(stage)),
        Call::Slow => Answer::parse(value),
        Call::Fast if is_plain_json(value) => match serving.dumps(value) {
            Ok(body) => return own.answer_json(serving, place, source, &body),
            Err(error) => Err(error),
        },
        Call::Fast => match serving.encode(value, serving.target(place.route)?.status()) {
            Ok(encoded) if encoded.is_instance_of::<PyTuple>() => Answer::parse(&encoded),
            Ok(live) => return deliver(lanes, place, &live, source),
            Err(error) => Err(error),
        },
    };
    match made {
        Ok(answer) => own.answer(py, place, source, answer),
        Err(error) => raised(lanes, place, source, error),
    }
}

/// A fast call's result turned out to be made while it is sent: a task of its own does that.
fn deliver(
    lanes: &Bound<'_, Lanes>,
    place: Place,
    live: &Bound<'_, PyAny>,
    source: &mut Source,
) -> PyResult<()> {
    let py = lanes.py();
    let serving = lanes.get().serving(py)?;
    let exchange = source.exchange(lanes, serving, place)?;
    let coroutine = match serving.deliver(live, &exchange) {
        Ok(coroutine) => coroutine,
        Err(error) => return raised(lanes, place, source, error),
    };
    let place = Place { call: Call::Slow, ..place };
    let context = ffi::call0(py, &serving.copy_context)?;
    let rest =
        new_rest(lanes, place, exchange.clone_ref(py), &context, &coroutine, State::Running)?;
    let task = serving.new_task(rest.bind(py).as_any(), &context, false)?;
    enter_task(lanes, place, &exchange, task.unbind())
}

/// What is wrong with what a handler returned, given how far its own answer has come.
fn unfinished(stage: Stage) -> PyErr {
    PyRuntimeError::new_err(match stage {
        Stage::Unanswered => "the handler returned None without having started a response",
        Stage::Started => "the handler returned without having ended its response",
        Stage::Ended | Stage::Gone => "the handler returned an answer after it had answered",
    })
}

/// The same for an ASGI application, in the words that are known from uvicorn.
fn incomplete(
    py: Python<'_>,
    stage: Stage,
    value: &Bound<'_, PyAny>,
    source: &Source,
) -> PyResult<PyErr> {
    let held = match source {
        Source::Made(exchange) => exchange.get().held.borrow(py)?.is_some(),
        Source::Scratch(_) => false,
    };
    Ok(PyRuntimeError::new_err(match stage {
        Stage::Ended | Stage::Gone => {
            format!("ASGI callable should return None, but returned '{}'.", value.repr()?)
        }
        Stage::Unanswered if !held => "ASGI callable returned without starting response.".into(),
        Stage::Unanswered | Stage::Started => {
            "ASGI callable returned without completing response.".into()
        }
    }))
}

/// The coroutine, or what encodes its result, has raised: answers or aborts.
///
/// An error is one that must end the worker: SystemExit and KeyboardInterrupt of a handler do, as they end any asyncio program.
/// A CancelledError of a handler aborts, whoever raised it: there is nobody left to answer, or nothing to say.
pub(crate) fn raised(
    lanes: &Bound<'_, Lanes>,
    place: Place,
    source: &mut Source,
    error: PyErr,
) -> PyResult<()> {
    let (py, own) = (lanes.py(), lanes.get());
    let serving = own.serving(py)?;
    let stage = source.stage();
    // An ASGI application is somebody else's: it neither ends the worker nor leaves its client without a word.
    let exits = place.call != Call::Asgi && is_exit(py, &error);
    let cancelled = serving.is_cancelled(py, &error);
    let nothing_to_say = match stage {
        _ if exits => true,
        Stage::Gone => cancelled || serving.is_disconnected(py, &error),
        _ => cancelled && place.call != Call::Asgi,
    };
    let answer = if nothing_to_say {
        None
    } else {
        // Also logs; the answer itself may come too late.
        let exchange = source.exchange(lanes, serving, place)?;
        Some(serving.fail(py, error.clone_ref(py), &exchange))
    };
    // A head that was accepted and not written yet gives way to an answer that says what happened.
    let early = match stage {
        Stage::Unanswered => true,
        Stage::Started => own.lane(py, place.lane, |lane| Ok(lane.retract(place.id)))?,
        Stage::Ended | Stage::Gone => return if exits { Err(error) } else { Ok(()) },
    };
    match answer {
        Some(answer) if early => own.answer(py, place, source, answer)?,
        _ => own.abort(py, place, source)?,
    }
    if exits { Err(error) } else { Ok(()) }
}
