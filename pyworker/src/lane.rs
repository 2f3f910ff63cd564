//! One lane with its books: which exchanges are open on it, how far their bodies have come in both directions.
//!
//! Invariant: an exchange that was begun is in `open`, or its handler's first step is running, or its END or ABORT was
//! written; `in_flight` counts the first two. An exchange with something to write, and credit for it, is in `ready` exactly
//! once. Deliberately absent: any call into Python, so that this can be used while borrowed; what has to be called, or
//! dropped, is left in `errands`.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
};

use fasterapi::{
    ipc::{
        Doorbell, Fault, Segment, WorkerLane,
        message::{Cancellation, Close, Piece, ToWorker},
    },
    limits::{CHUNK_SIZE, EXCHANGE_WINDOW, INLINE_BODY_SIZE_MAX},
};
use pyo3::{prelude::*, types::PyBytes};

use crate::{
    answer::{Answer, Head},
    exchange::Arrived,
    fate::{Cancels, Fate, Stage},
    open::{Due, Input, Open, WrongLength},
    socket::{self, Heard, Socket},
};

/// Received body bytes that are not reported at once: the window stays open meanwhile, and small parts cost no record each.
const CREDIT_HELD_BACK: u64 = (EXCHANGE_WINDOW / 4) as u64;

/// What a record asks of the worker.
#[derive(Debug)]
pub(crate) enum Event {
    /// A request whose body is inside it, in the [`Arrived`] that was passed.
    Begin { id: u64 },
    /// A request whose body is coming, for a handler that takes it piece by piece; or one for a WebSocket.
    Stream { id: u64, request: Box<Arrived>, fate: Arc<Fate> },
    /// A request whose body has come in parts, complete now.
    Whole { id: u64, request: Box<Arrived>, body: Vec<u8> },
    /// The books were enough.
    Noted,
}

/// What has to be done in Python once nothing is borrowed.
#[derive(Debug)]
pub(crate) enum Errand {
    /// A future whose waiter should look again.
    Wake(Py<PyAny>),
    /// A task whose exchange nobody waits for any more.
    Cancel(Py<PyAny>),
    /// Perhaps the last reference to something that runs code when it goes.
    Drop(Py<PyAny>),
}

/// What there is of a request's body.
#[derive(Debug)]
pub(crate) enum Taken {
    Piece {
        bytes: Py<PyBytes>,
        /// Nothing comes behind it.
        last: bool,
    },
    End,
    NotYet,
    Gone,
}

/// What a route's handler takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Takes {
    /// A body piece by piece, not only whole.
    pub(crate) pieces: bool,
    /// WebSockets.
    pub(crate) messages: bool,
}

impl Takes {
    /// Whole bodies and nothing else.
    pub(crate) const WHOLE: Self = Self { pieces: false, messages: false };
    /// Bodies piece by piece.
    pub(crate) const PIECES: Self = Self { pieces: true, messages: false };
}

enum Progress {
    /// END or ABORT was written.
    Ended,
    /// Some bytes went, more could.
    More,
    /// Nothing is left, or all credit is used up.
    Idle,
    /// No room in the ring or the arena.
    Full,
}

/// Exchange ids come from the edge, which is trusted: spreading them is enough.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

type Books = HashMap<u64, Open, BuildHasherDefault<IdHasher>>;
type Narrow = HashMap<u64, u64, BuildHasherDefault<IdHasher>>;

/// A new entry, with the window that its request came with.
fn opened(narrow: &Narrow, id: u64, fate: Arc<Fate>, input: Input, credit_due: u64) -> Open {
    let mut open = Open::new(fate, input, credit_due);
    if let Some(window) = narrow.get(&id) {
        open.output.credit = *window;
    }
    open
}

#[derive(Debug)]
pub(crate) struct Lane {
    lane: WorkerLane,
    open: Books,
    /// Exchanges with something to write, in the order of their turns.
    ready: VecDeque<u64>,
    /// The windows of those exchanges that began with less than a whole one.
    narrow: Narrow,
    /// Exchanges whose credit record found no room.
    owing: Vec<u64>,
    /// Exchanges that are to end with ABORT, and that this side never began.
    unbegun: Vec<u64>,
    in_flight: usize,
    errands: Vec<Errand>,
}

impl Lane {
    pub(crate) fn new(own: Segment, peer: Segment, bell: Doorbell) -> Self {
        Self {
            lane: WorkerLane::new(own, peer, bell.into()),
            open: Books::default(),
            narrow: Narrow::default(),
            ready: VecDeque::new(),
            owing: Vec::new(),
            unbegun: Vec::new(),
            in_flight: 0,
            errands: Vec::new(),
        }
    }

    pub(crate) fn pending(&self) -> bool {
        self.lane.pending()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Exchanges whose application has said the last word, and whose END or ABORT was not written.
    pub(crate) fn unwritten(&self) -> usize {
        self.open.values().filter(|open| open.output.ended || open.output.aborts).count()
    }

    pub(crate) fn disarm(&mut self) {
        self.lane.disarm();
    }

    /// True when there is something to do; else the next record, or the room that output waits for, brings a kick.
    pub(crate) fn arm(&mut self) -> Result<bool, Fault> {
        self.lane.arm()
    }

    /// What is to be done once this lane is not borrowed any more.
    pub(crate) fn take_errands(&mut self) -> Option<Vec<Errand>> {
        if self.errands.is_empty() { None } else { Some(std::mem::take(&mut self.errands)) }
    }

    /// Takes one record and enters it in the books; `None` when there is none. `takes`: what a route's handler takes.
    pub(crate) fn next(
        &mut self,
        request: &mut Arrived,
        takes: impl FnOnce(u32) -> Takes,
    ) -> Result<Option<Event>, Fault> {
        let Some((id, message)) = self.lane.receive()? else { return Ok(None) };
        match message {
            ToWorker::Request(arrived) => {
                self.in_flight += 1;
                if arrived.halvings > 0 {
                    self.narrow.insert(id, (EXCHANGE_WINDOW >> arrived.halvings) as u64);
                }
                request.copy_from(&arrived);
                let takes = takes(request.route);
                if request.websocket && takes.messages {
                    return Ok(Some(self.begin_socket(id, request)));
                }
                // As if there were no Upgrade (RFC 9110 §7.8).
                request.websocket = false;
                if arrived.end {
                    return Ok(Some(Event::Begin { id }));
                }
                let request = Box::new(std::mem::take(request));
                let event = self.begin_input(id, request, takes.pieces);
                if matches!(event, Event::Noted) {
                    self.ask(id)?;
                }
                return Ok(Some(event));
            }
            ToWorker::Body { data, end } => {
                let event = input(&mut self.open, &mut self.errands, (id, data, end));
                self.give_credit(id)?;
                return Ok(Some(event));
            }
            ToWorker::Message(piece) => {
                hear(&mut self.open, &mut self.errands, id, &piece);
                self.give_credit(id)?;
            }
            ToWorker::Close(Close { code, reason }) => {
                end_socket(&mut self.open, &mut self.errands, id, (code, reason));
            }
            ToWorker::Credit(bytes) => {
                // An exchange that is not here has ended while this was on its way.
                if let Some(open) = self.open.get_mut(&id) {
                    open.output.credit = open.output.credit.saturating_add(bytes);
                    self.make_ready(id);
                }
            }
            ToWorker::Cancel(why) => self.cancel(id, why)?,
        }
        Ok(Some(Event::Noted))
    }

    /// A request whose body comes in more records.
    fn begin_input(&mut self, id: u64, request: Box<Arrived>, streams: bool) -> Event {
        let fate = Arc::new(Fate::default());
        let (body, expects) = (request.inline_body(), request.expects_continue());
        if streams {
            let input = Input::Stream { waiting: body.to_vec(), ended: false };
            let open = opened(&self.narrow, id, Arc::clone(&fate), input, 0);
            let open = Open { expects, ..open };
            self.open.insert(id, open);
            return Event::Stream { id, request, fate };
        }
        let credit_due = body.len() as u64;
        let expected = request.content_length.map_or(0, |n| n.min(EXCHANGE_WINDOW as u64));
        let mut start = Vec::with_capacity(usize::try_from(expected).unwrap_or_default());
        start.extend_from_slice(body);
        let input = Input::Whole { request, body: start };
        let open = opened(&self.narrow, id, fate, input, credit_due);
        self.open.insert(id, Open { expects, ..open });
        Event::Noted
    }

    fn cancel(&mut self, id: u64, why: Cancellation) -> Result<(), Fault> {
        let Some(open) = self.open.get_mut(&id) else {
            // What is not here has written its END or ABORT while this was on its way; or it was passed over, and the edge
            // cannot know that. To an exchange that has ended one more ABORT is nothing.
            if why == Cancellation::WithdrawnLate {
                self.unbegun.push(id);
                self.give_up()?;
            }
            return Ok(());
        };
        if open.output.aborts {
            return Ok(());
        }
        if open.socket().is_some() && why != Cancellation::DeadlinePassed {
            // What came before is still to be heard; the handler ends the exchange.
            let leaves = why == Cancellation::ServerLeaves;
            let code = if leaves { socket::SERVICE_RESTART } else { socket::ABNORMAL };
            end_socket(&mut self.open, &mut self.errands, id, (code, b""));
            return Ok(());
        }
        if let Some((task, cancels)) = open.task.take() {
            let errand = if cancels.on(why) { Errand::Cancel } else { Errand::Drop };
            self.errands.push(errand(task));
        }
        self.abort(id)
    }

    /// Ends what was never begun, as far as there is room.
    fn give_up(&mut self) -> Result<(), Fault> {
        while let Some(id) = self.unbegun.last() {
            if !self.lane.send_abort(*id)? {
                break;
            }
            self.unbegun.pop();
        }
        Ok(())
    }

    /// Reports what was taken of a request's body, once it is worth a record.
    fn give_credit(&mut self, id: u64) -> Result<(), Fault> {
        match self.open.get(&id) {
            Some(open) if open.credit_due >= CREDIT_HELD_BACK => self.send_credit(id),
            _ => Ok(()),
        }
    }

    /// Asks for the body, if its client waits for that.
    fn ask(&mut self, id: u64) -> Result<(), Fault> {
        match self.open.get(&id) {
            Some(open) if open.expects => self.send_credit(id),
            _ => Ok(()),
        }
    }

    fn send_credit(&mut self, id: u64) -> Result<(), Fault> {
        let Some(open) = self.open.get_mut(&id) else { return Ok(()) };
        if self.lane.send_credit(id, open.credit_due)? {
            (open.credit_due, open.expects) = (0, false);
        } else if !self.owing.contains(&id) {
            self.owing.push(id);
        }
        Ok(())
    }

    /// Takes what has come of a request's body.
    pub(crate) fn take_input(&mut self, py: Python<'_>, id: u64) -> Result<Taken, Fault> {
        let Some(open) = self.open.get_mut(&id) else { return Ok(Taken::Gone) };
        let taken = match &mut open.input {
            _ if open.fate.is_gone() => Taken::Gone,
            Input::Stream { waiting, ended } if !waiting.is_empty() => {
                let bytes = PyBytes::new(py, waiting).unbind();
                open.credit_due += waiting.len() as u64;
                waiting.clear();
                Taken::Piece { bytes, last: *ended }
            }
            Input::Stream { ended: false, .. } => Taken::NotYet,
            Input::Stream { .. } | Input::Done | Input::Whole { .. } | Input::Socket(_) => {
                Taken::End
            }
        };
        let more = !matches!(open.input, Input::Stream { ended: true, .. } | Input::Done);
        if more {
            self.give_credit(id)?;
        }
        if matches!(taken, Taken::NotYet) {
            self.ask(id)?;
        }
        Ok(taken)
    }

    /// The entry of an exchange; made for one whose handler's first step is running.
    fn entry(&mut self, id: u64, fate: &Arc<Fate>) -> &mut Open {
        let Self { open, narrow, .. } = self;
        open.entry(id).or_insert_with(|| opened(narrow, id, Arc::clone(fate), Input::Done, 0))
    }

    /// Enters an exchange whose request has come whole, and whose handler begins later.
    pub(crate) fn begin(&mut self, id: u64, fate: &Arc<Fate>) {
        self.entry(id, fate);
    }

    /// Wakes `future` when there is input, or the exchange is over.
    pub(crate) fn await_input(&mut self, id: u64, fate: &Arc<Fate>, future: Py<PyAny>) {
        self.entry(id, fate).readers.push(future);
    }

    /// Wakes `future` when less output is queued, or the exchange is over.
    pub(crate) fn await_room(&mut self, id: u64, fate: &Arc<Fate>, future: Py<PyAny>) {
        self.entry(id, fate).writers.push(future);
    }

    /// Forgets a future that nobody waits for any more.
    pub(crate) fn forget_waiter(&mut self, id: u64, future: &Py<PyAny>) {
        let Some(open) = self.open.get_mut(&id) else { return };
        for waiters in [&mut open.readers, &mut open.writers] {
            if let Some(at) = waiters.iter().position(|waiter| waiter.is(future)) {
                self.errands.push(Errand::Drop(waiters.swap_remove(at)));
            }
        }
    }

    pub(crate) fn is_open(&self, id: u64) -> bool {
        self.open.contains_key(&id)
    }

    pub(crate) fn is_full(&self, id: u64) -> bool {
        let is_full = |open: &Open| match &open.input {
            Input::Socket(socket) if !socket.is_clear() => socket.is_full(),
            _ => open.output.is_full(),
        };
        self.open.get(&id).is_some_and(is_full)
    }

    /// The handler was suspended: `task` runs the rest of it.
    pub(crate) fn suspended(
        &mut self,
        id: u64,
        fate: &Arc<Fate>,
        task: Py<PyAny>,
        cancels: Cancels,
    ) {
        // The task of an exchange that is over concerns the edge no more.
        if !fate.is_over() || self.open.contains_key(&id) {
            self.entry(id, fate).task = Some((task, cancels));
        }
    }

    /// Ends an exchange without a (complete) answer. Its task, if it has one, lives on.
    pub(crate) fn abort(&mut self, id: u64) -> Result<(), Fault> {
        let has_its_turn = self.open.get(&id).is_some_and(|open| open.output.ready);
        if !has_its_turn && self.lane.send_abort(id)? {
            self.close(id, Stage::Gone);
            return Ok(());
        }
        let open = self.open.entry(id).or_insert_with(|| Open::new(Arc::default(), Input::Done, 0));
        open.output.abort();
        over(open, Stage::Gone, &mut self.errands);
        self.make_ready(id);
        Ok(())
    }

    /// END or ABORT was written.
    fn close(&mut self, id: u64, stage: Stage) {
        self.in_flight -= 1;
        if !self.narrow.is_empty() {
            self.narrow.remove(&id);
        }
        if self.open.is_empty() {
            return;
        }
        if let Some(mut open) = self.open.remove(&id) {
            over(&mut open, stage, &mut self.errands);
            if let Some((task, _)) = open.task {
                self.errands.push(Errand::Drop(task));
            }
        }
    }

    /// Answers with a whole answer that fits a record, the short way. False: it does not fit, or there is no room now.
    pub(crate) fn answer_whole(
        &mut self,
        id: u64,
        head: &Head,
        body: &[u8],
    ) -> Result<bool, Fault> {
        if self.narrow.get(&id).is_some_and(|window| *window < body.len() as u64) {
            return Ok(false);
        }
        let response = head.response(Some(body.len() as u64), body, true);
        let written = response.end && self.lane.send_response(id, &response)?;
        if written {
            self.close(id, Stage::Ended);
        }
        Ok(written)
    }

    /// Answers with a whole answer; what does not go at once goes with the next flushes.
    pub(crate) fn answer(
        &mut self,
        py: Python<'_>,
        id: u64,
        fate: &Arc<Fate>,
        answer: Answer,
    ) -> Result<(), Fault> {
        let Answer { head, body } = answer;
        if self.answer_whole(id, &head, body.as_bytes(py))? {
            fate.advance(Stage::Ended);
            return Ok(());
        }
        self.start(id, fate, head, None, false);
        let accepted = self.write(py, id, fate, body, true)?;
        accepted.unwrap_or_else(|_| unreachable!("no length was named"));
        Ok(())
    }

    /// Takes back what was accepted of a response of which nothing was written. False: it is too late.
    pub(crate) fn retract(&mut self, id: u64) -> bool {
        let Some(open) = self.open.get_mut(&id) else { return false };
        open.output.retract()
    }

    /// Accepts the head of a response.
    pub(crate) fn start(
        &mut self,
        id: u64,
        fate: &Arc<Fate>,
        head: Head,
        length: Option<u64>,
        is_head: bool,
    ) {
        let silent = is_head || head.has_no_body();
        self.entry(id, fate).output.start(head, length, silent);
        fate.advance(Stage::Started);
        self.make_ready(id);
    }

    /// Accepts a piece of the body of a response whose head was accepted, and writes as much as there is room for.
    pub(crate) fn write(
        &mut self,
        py: Python<'_>,
        id: u64,
        fate: &Arc<Fate>,
        bytes: Py<PyBytes>,
        end: bool,
    ) -> Result<Result<(), WrongLength>, Fault> {
        let open = self.entry(id, fate);
        if let Err(wrong) = open.output.push(py, bytes, end) {
            return Ok(Err(wrong));
        }
        if end && let Some(open) = self.open.get_mut(&id) {
            over(open, Stage::Ended, &mut self.errands);
        }
        self.make_ready(id);
        self.pump(py)?;
        Ok(Ok(()))
    }

    /// Accepts the fields behind the body of a response, which end it.
    pub(crate) fn trail(
        &mut self,
        py: Python<'_>,
        id: u64,
        fate: &Arc<Fate>,
        trailers: Head,
    ) -> Result<Result<(), WrongLength>, Fault> {
        let open = self.entry(id, fate);
        if let Err(wrong) = open.output.trail(trailers) {
            return Ok(Err(wrong));
        }
        if let Some(open) = self.open.get_mut(&id) {
            over(open, Stage::Ended, &mut self.errands);
        }
        self.make_ready(id);
        self.pump(py)?;
        Ok(Ok(()))
    }

    /// Sends a 1xx ahead of the answer. It is a hint: where there is no room now, it is left out.
    pub(crate) fn inform(&mut self, id: u64, head: &Head) -> Result<(), Fault> {
        self.lane.send_informational(id, &head.response(None, &[], false)).map(drop)
    }

    fn make_ready(&mut self, id: u64) {
        if let Some(open) = self.open.get_mut(&id)
            && !std::mem::replace(&mut open.output.ready, true)
        {
            self.ready.push_back(id);
        }
    }

    /// Writes what waits, a chunk of each exchange at a time, until there is nothing left, no credit, or no room.
    fn pump(&mut self, py: Python<'_>) -> Result<(), Fault> {
        while let Some(id) = self.ready.pop_front() {
            match self.advance(py, id)? {
                Progress::Ended => self.close(id, Stage::Ended),
                Progress::More => self.ready.push_back(id),
                Progress::Idle => {
                    if let Some(open) = self.open.get_mut(&id) {
                        open.output.ready = false;
                    }
                }
                Progress::Full => {
                    self.ready.push_front(id);
                    break;
                }
            }
        }
        Ok(())
    }

    fn advance(&mut self, py: Python<'_>, id: u64) -> Result<Progress, Fault> {
        let Some(open) = self.open.get_mut(&id) else { return Ok(Progress::Idle) };
        let (written, ended) = match open.output.due(py, CHUNK_SIZE) {
            Due::Nothing => return self.advance_socket(id),
            Due::Abort => {
                let written = self.lane.send_abort(id)?;
                return Ok(if written { Progress::Ended } else { Progress::Full });
            }
            Due::Head { head, length, body, end } => {
                let response = head.response(length, body, end);
                if !self.lane.send_response(id, &response)? {
                    return Ok(Progress::Full);
                }
                let written = (response.body.len(), response.end);
                open.output.head = None;
                written
            }
            Due::Trailers(trailers) => {
                if !self.lane.send_trailers(id, &trailers.response(None, &[], true))? {
                    return Ok(Progress::Full);
                }
                (0, true)
            }
            Due::Body { part, end } => match self.lane.send_body(id, part, end)? {
                Some(taken) => (taken, end && taken == part.len()),
                None => return Ok(Progress::Full),
            },
        };
        if open.output.wrote(py, written) {
            self.errands.extend(open.writers.drain(..).map(Errand::Wake));
        }
        Ok(if ended { Progress::Ended } else { Progress::More })
    }

    /// Writes what waits and makes everything written visible. Cheap when there is nothing.
    pub(crate) fn flush(&mut self, py: Python<'_>) -> Result<(), Fault> {
        if !self.owing.is_empty() {
            for id in std::mem::take(&mut self.owing) {
                self.send_credit(id)?;
            }
        }
        self.give_up()?;
        if !self.ready.is_empty() {
            self.pump(py)?;
        }
        self.lane.publish()?;
        Ok(())
    }

    /// A request for a WebSocket.
    fn begin_socket(&mut self, id: u64, request: &mut Arrived) -> Event {
        let fate = Arc::new(Fate::default());
        self.open.insert(id, Open::new(Arc::clone(&fate), Input::Socket(Box::default()), 0));
        Event::Stream { id, request: Box::new(std::mem::take(request)), fate }
    }

    fn socket(&mut self, id: u64) -> Option<&mut Socket> {
        self.open.get_mut(&id)?.socket()
    }

    /// Takes the next message of a WebSocket.
    pub(crate) fn take_message(&mut self, id: u64) -> Result<Heard, Fault> {
        let Some(open) = self.open.get_mut(&id) else {
            return Ok(Heard::Closed(socket::NO_CODE, String::new()));
        };
        let Some(socket) = open.socket() else { return Ok(Heard::NotYet) };
        let (heard, credit) = socket.hear();
        open.credit_due += credit;
        self.give_credit(id)?;
        Ok(heard)
    }

    /// True when the client of a WebSocket takes nothing any more.
    pub(crate) fn is_socket_closed(&mut self, id: u64) -> bool {
        self.socket(id).is_none_or(|socket| socket.is_closed())
    }

    pub(crate) fn is_accepted(&mut self, id: u64) -> bool {
        self.socket(id).is_some_and(|socket| socket.accepted)
    }

    /// Accepts a WebSocket, with the 101 that says so.
    pub(crate) fn accept(
        &mut self,
        py: Python<'_>,
        id: u64,
        fate: &Arc<Fate>,
        head: Head,
    ) -> Result<(), Fault> {
        self.start(id, fate, head, None, true);
        if let Some(socket) = self.socket(id) {
            socket.accepted = true;
        }
        // At once: what follows may be a long silence.
        self.pump(py)
    }

    /// Accepts a message of a WebSocket, and writes as much of it as there is room for.
    pub(crate) fn say(
        &mut self,
        py: Python<'_>,
        id: u64,
        data: &[u8],
        is_text: bool,
    ) -> Result<(), Fault> {
        let Some(open) = self.open.get_mut(&id) else { return Ok(()) };
        let Open { input: Input::Socket(socket), output, .. } = open else { return Ok(()) };
        let piece = Piece { data, is_text, more: false };
        let fits = data.len() <= INLINE_BODY_SIZE_MAX && piece.cost() as u64 <= output.credit;
        if fits
            && socket.is_clear()
            && output.head.is_none()
            && self.lane.send_message(id, piece)? == Some(data.len())
        {
            output.credit -= piece.cost() as u64;
            return Ok(());
        }
        socket.say(data, is_text);
        self.make_ready(id);
        self.pump(py)
    }

    /// Closes a WebSocket behind what was said.
    pub(crate) fn close_socket(
        &mut self,
        py: Python<'_>,
        id: u64,
        code: u16,
        reason: String,
    ) -> Result<(), Fault> {
        let Some(open) = self.open.get_mut(&id) else { return Ok(()) };
        let Some(socket) = open.socket().filter(|socket| !socket.is_closing()) else {
            return Ok(());
        };
        socket.close(code, reason);
        over(open, Stage::Ended, &mut self.errands);
        self.make_ready(id);
        self.pump(py)
    }

    /// Writes the next piece of a message, or the Close.
    fn advance_socket(&mut self, id: u64) -> Result<Progress, Fault> {
        let Some(open) = self.open.get_mut(&id) else { return Ok(Progress::Idle) };
        let Open { input: Input::Socket(socket), output, writers, .. } = open else {
            return Ok(Progress::Idle);
        };
        let written = match socket.due(output.credit) {
            socket::Due::Nothing => return Ok(Progress::Idle),
            socket::Due::Close(Close { code, reason }) => {
                let written = self.lane.send_close(id, Close { code, reason })?;
                return Ok(if written { Progress::Ended } else { Progress::Full });
            }
            socket::Due::Piece(piece) => match self.lane.send_message(id, piece)? {
                Some(taken) => taken,
                None => return Ok(Progress::Full),
            },
        };
        output.credit -= written.max(1) as u64;
        if socket.wrote(written) {
            self.errands.extend(writers.drain(..).map(Errand::Wake));
        }
        Ok(Progress::More)
    }

    /// Makes what was written visible in mid-batch.
    pub(crate) fn publish(&mut self) -> Result<(), Fault> {
        self.lane.publish()?;
        Ok(())
    }
}

/// More of a request's body. (An exchange that is not here has ended while this was on its way.)
fn input(
    books: &mut Books,
    errands: &mut Vec<Errand>,
    (id, data, end): (u64, &[u8], bool),
) -> Event {
    let Entry::Occupied(mut entry) = books.entry(id) else { return Event::Noted };
    let open = entry.get_mut();
    match &mut open.input {
        Input::Done | Input::Socket(_) => {}
        Input::Whole { body, .. } => {
            body.extend_from_slice(data);
            open.credit_due += data.len() as u64;
            if end && let Input::Whole { request, body } = entry.remove().input {
                return Event::Whole { id, request, body };
            }
        }
        Input::Stream { waiting, ended } => {
            waiting.extend_from_slice(data);
            *ended = end;
            errands.extend(open.readers.drain(..).map(Errand::Wake));
        }
    }
    Event::Noted
}

/// A piece of a message.
fn hear(books: &mut Books, errands: &mut Vec<Errand>, id: u64, piece: &Piece<'_>) {
    let Some(open) = books.get_mut(&id) else { return };
    let Some(socket) = open.socket() else { return };
    let credit = socket.arrive(piece);
    open.credit_due += credit;
    if !piece.more {
        errands.extend(open.readers.drain(..).map(Errand::Wake));
    }
}

/// Of a WebSocket nothing more comes or goes.
fn end_socket(books: &mut Books, errands: &mut Vec<Errand>, id: u64, (code, reason): (u16, &[u8])) {
    let Some(open) = books.get_mut(&id) else { return };
    let Some(socket) = open.socket() else { return };
    socket.end(code, reason);
    errands.extend(open.readers.drain(..).chain(open.writers.drain(..)).map(Errand::Wake));
}

/// Nothing more is expected of an exchange's application: whoever waits is told.
fn over(open: &mut Open, stage: Stage, errands: &mut Vec<Errand>) {
    open.fate.advance(stage);
    errands.extend(open.readers.drain(..).chain(open.writers.drain(..)).map(Errand::Wake));
}
