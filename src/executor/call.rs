//! One call: from the caller's arguments to a request record, and from a worker's answer to the caller's result.
//!
//! Invariant: both conversions run on the caller's thread, in `submit` and in the future's last poll; in between the
//! driver moves bytes. A call that is dropped is cancelled. Deliberately absent: lanes, and any runtime.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, ready},
};

use serde::Serialize;
use sonic_rs::Value;
use tokio::sync::oneshot;

use super::error::{CallError, PythonException};
use crate::{
    ipc::{Doorbell, message::Request},
    limits::{CALL_NAME_SIZE_MAX, INLINE_BODY_SIZE_MAX},
    span::Span,
};

const METHOD: &[u8] = b"POST";
/// `proto::head::Method::Post`, by the lane's numbers.
const METHOD_NUMBER: u8 = 2;
/// HTTP/1.1, by the lane's numbers.
const VERSION_NUMBER: u8 = 11;

/// What the driver is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    /// Have this call answered.
    Submit(Submission),
    /// Nobody waits for this call any more.
    Cancel(u64),
    /// Finish what is in flight, then end; the sender goes when that is done.
    Drain(oneshot::Sender<()>),
    /// End now.
    Kill,
}

/// Where callers hand in what the driver is to do.
#[derive(Debug)]
pub(super) struct Desk {
    commands: mpsc::Sender<Command>,
    bell: Doorbell,
    /// Calls that the driver holds.
    calls: AtomicUsize,
    next_id: AtomicU64,
}

impl Desk {
    pub(super) fn new(commands: mpsc::Sender<Command>, bell: Doorbell) -> Self {
        Self { commands, bell, calls: AtomicUsize::new(0), next_id: AtomicU64::new(1) }
    }

    /// What becomes readable when there are commands.
    pub(super) fn bell(&self) -> &Doorbell {
        &self.bell
    }

    /// False when there is no driver any more.
    pub(super) fn send(&self, command: Command) -> bool {
        let sent = self.commands.send(command).is_ok();
        // An eventfd needs no memory to be rung, and its write fails only for a descriptor that is none.
        self.bell.kick().unwrap_or_else(|error| panic!("kicking a doorbell: {error}"));
        sent
    }
}

/// A place among the calls that an executor holds.
#[derive(Debug)]
pub(super) struct Place(Arc<Desk>);

impl Place {
    fn take(desk: &Arc<Desk>, max: usize) -> Result<Self, CallError> {
        if desk.calls.fetch_add(1, Ordering::Relaxed) >= max {
            desk.calls.fetch_sub(1, Ordering::Relaxed);
            return Err(CallError::Overloaded(max));
        }
        Ok(Self(Arc::clone(desk)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A worker's answer, not looked into.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Who waits for a call.
pub(super) type Reply = oneshot::Sender<Result<Answer, CallError>>;

/// A call on its way to a worker.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) id: u64,
    /// Method and path.
    blob: Vec<u8>,
    /// Of the blob: path, module, function.
    path: Span,
    params: [Span; 2],
    /// The arguments.
    pub(super) body: Vec<u8>,
    pub(super) reply: Reply,
    pub(super) place: Place,
}

impl Submission {
    /// The record that begins it: with its arguments if they are short, else they have to follow.
    pub(super) fn request(&self) -> Request<'_> {
        let whole = self.body.len() <= INLINE_BODY_SIZE_MAX;
        Request {
            route: 0,
            method: METHOD_NUMBER,
            version: VERSION_NUMBER,
            method_name: Span::new(0, METHOD.len()).unwrap_or_default(),
            raw_path: self.path,
            path: self.path,
            query: Span::default(),
            authority: Span::default(),
            fields: &[],
            params: &self.params,
            blob: &self.blob,
            content_length: Some(self.body.len() as u64),
            peer: None,
            secure: false,
            tls: None,
            websocket: false,
            halvings: 0,
            body: if whole { &self.body } else { &[] },
            end: whole,
        }
    }
}

/// A call in progress: the future of its result. Dropping it cancels the call (a coroutine is cancelled, a plain
/// function in its thread cannot be, and its result is dropped).
#[derive(Debug)]
#[must_use = "a call that is dropped is cancelled"]
pub struct Call {
    state: State,
}

#[derive(Debug)]
enum State {
    Refused(CallError),
    Waiting { desk: Arc<Desk>, id: u64, reply: oneshot::Receiver<Result<Answer, CallError>> },
    Done,
}

/// What a caller may ask for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) calls_max: usize,
    pub(super) size_max: usize,
}

impl Call {
    pub(super) fn submit(
        desk: &Arc<Desk>,
        bounds: Bounds,
        (module, function): (&str, &str),
        kwargs: &(impl Serialize + ?Sized),
    ) -> Self {
        let state = Self::try_submit(desk, bounds, (module, function), kwargs);
        Self { state: state.unwrap_or_else(State::Refused) }
    }

    fn try_submit(
        desk: &Arc<Desk>,
        bounds: Bounds,
        (module, function): (&str, &str),
        kwargs: &(impl Serialize + ?Sized),
    ) -> Result<State, CallError> {
        let blob = [METHOD, b"/", module.as_bytes(), b"/", function.as_bytes()].concat();
        let names = CallError::TooLarge { what: "names", max: CALL_NAME_SIZE_MAX };
        if module.len() + function.len() > CALL_NAME_SIZE_MAX {
            return Err(names);
        }
        let (module_at, function_at) = (METHOD.len() + 1, METHOD.len() + 2 + module.len());
        let spans = [
            Span::new(METHOD.len(), blob.len() - METHOD.len()),
            Span::new(module_at, module.len()),
            Span::new(function_at, function.len()),
        ];
        let [Some(path), Some(module), Some(function)] = spans else { return Err(names) };
        let body = sonic_rs::to_vec(kwargs)
            .map_err(|error| CallError::ArgumentsNotJson(first_line(&error)))?;
        if body.first() != Some(&b'{') {
            return Err(CallError::ArgumentsNotJson("another value".to_owned()));
        }
        if body.len() > bounds.size_max {
            return Err(CallError::TooLarge { what: "arguments", max: bounds.size_max });
        }
        let place = Place::take(desk, bounds.calls_max)?;
        let id = desk.next_id.fetch_add(1, Ordering::Relaxed);
        let (reply, result) = oneshot::channel();
        let params = [module, function];
        if !desk.send(Command::Submit(Submission { id, blob, path, params, body, reply, place })) {
            return Err(CallError::ShutDown);
        }
        Ok(State::Waiting { desk: Arc::clone(desk), id, reply: result })
    }
}

impl Future for Call {
    type Output = Result<Value, CallError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match &mut self.state {
            State::Waiting { reply, .. } => {
                // Without a word, the driver is gone, and the executor with it.
                ready!(Pin::new(reply).poll(context)).unwrap_or(Err(CallError::ShutDown))
            }
            State::Refused(error) => Err(error.clone()),
            State::Done => panic!("a call was polled after it had ended"),
        };
        self.state = State::Done;
        Poll::Ready(outcome.and_then(|answer| result_of(&answer)))
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let State::Waiting { desk, id, .. } = &self.state {
            // False: it has been cut off already.
            desk.send(Command::Cancel(*id));
        }
    }
}

fn result_of(answer: &Answer) -> Result<Value, CallError> {
    if answer.status == 200 {
        return sonic_rs::from_slice(&answer.body)
            .map_err(|error| CallError::ResultNotJson(first_line(&error)));
    }
    let exception: PythonException =
        sonic_rs::from_slice(&answer.body).unwrap_or_else(|_| PythonException {
            kind: "RuntimeError".to_owned(),
            message: format!("the worker answered with status {}", answer.status),
            traceback: String::from_utf8_lossy(&answer.body).into_owned(),
        });
    Err(match answer.status {
        404 => CallError::NoSuchFunction(exception.message),
        422 => CallError::ResultNotJson(exception.message),
        _ => CallError::Exception(exception),
    })
}

/// sonic-rs adds an excerpt.
fn first_line(error: &sonic_rs::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
