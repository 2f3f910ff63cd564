//! The first step of a handler's coroutine: made without a task, in a fresh copy of the worker's context.
//!
//! Invariant: while `Lanes::first` is set, exactly that coroutine's first step is on the stack. If it asks for its task, the
//! task is made there and then and entered until the step has ended; afterwards there is one only if the coroutine waits.

use pyo3::prelude::*;

use crate::{
    answer::{Answer, is_plain_json},
    exchange::{Arrived, Exchange},
    ffi::{self, Step},
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

/// Which of its endpoint's two functions handles an exchange: their results mean different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Fast,
    Slow,
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
        py: Python<'_>,
        serving: &Serving,
        route: usize,
    ) -> PyResult<Py<Exchange>> {
        let endpoint = serving.endpoint(route)?;
        let made = match self {
            Self::Made(exchange) => return Ok(exchange.clone_ref(py)),
            Self::Scratch(request) => std::mem::take(request),
        };
        let exchange = Py::new(py, Exchange::new(py, made, endpoint, None))?;
        *self = Self::Made(exchange.clone_ref(py));
        Ok(exchange)
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
    let endpoint = serving.endpoint(route)?;
    let (called, call) = match endpoint.call_fast(py, source.request()) {
        Some(called) => (called, Call::Fast),
        None => {
            let exchange = source.exchange(py, serving, route)?;
            (endpoint.call_slow(py, exchange.bind(py).as_any()), Call::Slow)
        }
    };
    let place = Place { lane: at.0, id: at.1, route, call };
    let coroutine = match called {
        Ok(coroutine) => coroutine,
        Err(error) => return raised(own, py, place, &mut source, error).map(|()| source),
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
        end_with_task(own, py, place, &mut source, stepped, (task, &rest))?;
        return Ok(source);
    }
    match stepped {
        Ok(Step::Returned(value)) => finish(own, place, &value, &mut source)?,
        Ok(Step::Yielded(value)) => {
            let exchange = source.exchange(py, serving, route)?;
            suspend(lanes, place, exchange, &context, (&coroutine, &value))?;
        }
        Err(error) => raised(own, py, place, &mut source, error)?,
    }
    Ok(source)
}

/// The handler waits: a task is made for the rest of it.
fn suspend(
    lanes: &Bound<'_, Lanes>,
    place: Place,
    exchange: Py<Exchange>,
    context: &Bound<'_, PyAny>,
    (coroutine, value): (&Bound<'_, PyAny>, &Bound<'_, PyAny>),
) -> PyResult<()> {
    let py = lanes.py();
    let serving = lanes.get().serving(py)?;
    let eager = serving.task_form == TaskForm::Eager;
    // An eager task takes the future over before anybody else could wait for it; a scheduled one does so a turn later.
    let blocking = !eager && clear_blocking(value)?;
    let state = State::Yielded { value: value.clone().unbind(), blocking };
    let rest = new_rest(lanes, place, exchange, context, coroutine, state)?;
    let task = serving.new_task(rest.bind(py).as_any(), context, eager)?;
    lanes.get().lane(py, place, |lane| {
        lane.suspended(place.id, task.unbind());
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
    lanes: &Lanes,
    py: Python<'_>,
    place: Place,
    source: &mut Source,
    stepped: PyResult<Step<'_>>,
    (task, rest): (Py<PyAny>, &Py<Rest>),
) -> PyResult<()> {
    let state = match stepped {
        Ok(Step::Yielded(value)) => {
            let blocking = clear_blocking(&value)?;
            lanes.lane(py, place, |lane| {
                lane.suspended(place.id, task);
                Ok(())
            })?;
            State::Yielded { value: value.unbind(), blocking }
        }
        Ok(Step::Returned(value)) => {
            finish(lanes, place, &value, source)?;
            State::Ended(Ok(value.unbind()))
        }
        Err(error) => {
            let cancelled = lanes.serving(py)?.is_cancelled(py, &error);
            let end = if cancelled { Err(error.clone_ref(py)) } else { Ok(py.None()) };
            // Ended in any case, so that the task cannot start the coroutine again.
            drop(rest.get().replace(py, State::Ended(end))?);
            return raised(lanes, py, place, source, error);
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
        let exchange = first.source.exchange(py, serving, first.place.route)?;
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

/// The coroutine has returned: answers.
pub(crate) fn finish(
    lanes: &Lanes,
    place: Place,
    value: &Bound<'_, PyAny>,
    source: &mut Source,
) -> PyResult<()> {
    let py = value.py();
    let serving = lanes.serving(py)?;
    let made = match place.call {
        Call::Fast if is_plain_json(value) => match serving.dumps(value) {
            Ok(body) => return lanes.answer_json(serving, place, &body),
            Err(error) => Err(error),
        },
        Call::Fast => serving.encode(value, serving.endpoint(place.route)?.status),
        Call::Slow => Answer::parse(value),
    };
    match made {
        Ok(answer) => lanes.answer(py, place, answer),
        Err(error) => raised(lanes, py, place, source, error),
    }
}

/// The coroutine, or what encodes its result, has raised: answers or aborts.
///
/// An error is one that must end the worker: SystemExit and KeyboardInterrupt do, as they end any asyncio program.
/// A CancelledError aborts, whoever raised it: there is nobody left to answer, or nothing to say.
pub(crate) fn raised(
    lanes: &Lanes,
    py: Python<'_>,
    place: Place,
    source: &mut Source,
    error: PyErr,
) -> PyResult<()> {
    let serving = lanes.serving(py)?;
    if is_exit(py, &error) {
        lanes.lane(py, place, |lane| lane.abort(place.id))?;
        return Err(error);
    }
    if serving.is_cancelled(py, &error) {
        return lanes.lane(py, place, |lane| lane.abort(place.id));
    }
    let exchange = source.exchange(py, serving, place.route)?;
    lanes.answer(py, place, serving.fail(py, error, &exchange))
}
