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
        message::{Cancellation, ToWorker},
    },
    limits::{CHUNK_SIZE, EXCHANGE_WINDOW},
};
use pyo3::{prelude::*, types::PyBytes};

use crate::{
    answer::{Answer, Head},
    exchange::Arrived,
    fate::{Cancels, Fate, Stage},
    open::{Due, Input, Open, WrongLength},
};

/// Received body bytes that are not reported at once: the window stays open meanwhile, and small parts cost no record each.
const CREDIT_HELD_BACK: u64 = (EXCHANGE_WINDOW / 4) as u64;

/// What a record asks of the worker.
#[derive(Debug)]
pub(crate) enum Event {
    /// A request whose body is inside it, in the [`Arrived`] that was passed.
    Begin { id: u64 },
    /// A request whose body is coming, for a handler that takes it piece by piece.
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

#[derive(Debug)]
pub(crate) struct Lane {
    lane: WorkerLane,
    open: Books,
    /// Exchanges with something to write, in the order of their turns.
    ready: VecDeque<u64>,
    /// Exchanges whose credit record found no room.
    owing: Vec<u64>,
    in_flight: usize,
    errands: Vec<Errand>,
}

impl Lane {
    pub(crate) fn new(own: Segment, peer: Segment, bell: Doorbell) -> Self {
        Self {
            lane: WorkerLane::new(own, peer, bell.into()),
            open: Books::default(),
            ready: VecDeque::new(),
            owing: Vec::new(),
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

    /// Takes one record and enters it in the books; `None` when there is none. `streams`: whether a route's handler takes its
    /// requests' bodies piece by piece.
    pub(crate) fn next(
        &mut self,
        request: &mut Arrived,
        streams: impl FnOnce(u32) -> bool,
    ) -> Result<Option<Event>, Fault> {
        let Some((id, message)) = self.lane.receive()? else { return Ok(None) };
        match message {
            ToWorker::Request(arrived) => {
                self.in_flight += 1;
                request.copy_from(&arrived);
                if arrived.end {
                    return Ok(Some(Event::Begin { id }));
                }
                let request = Box::new(std::mem::take(request));
                return Ok(Some(self.begin_input(id, request, streams)));
            }
            ToWorker::Body { data, end } => {
                let event = input(&mut self.open, &mut self.errands, (id, data, end));
                self.give_credit(id)?;
                return Ok(Some(event));
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
    fn begin_input(
        &mut self,
        id: u64,
        request: Box<Arrived>,
        streams: impl FnOnce(u32) -> bool,
    ) -> Event {
        let fate = Arc::new(Fate::default());
        let body = request.inline_body();
        if streams(request.route) {
            let input = Input::Stream { waiting: body.to_vec(), ended: false };
            self.open.insert(id, Open::new(Arc::clone(&fate), input, 0));
            return Event::Stream { id, request, fate };
        }
        let credit_due = body.len() as u64;
        let expected = request.content_length.map_or(0, |n| n.min(EXCHANGE_WINDOW as u64));
        let mut start = Vec::with_capacity(usize::try_from(expected).unwrap_or_default());
        start.extend_from_slice(body);
        let input = Input::Whole { request, body: start };
        self.open.insert(id, Open::new(fate, input, credit_due));
        Event::Noted
    }

    fn cancel(&mut self, id: u64, why: Cancellation) -> Result<(), Fault> {
        // What is not here has written its END or ABORT while this was on its way.
        let Some(open) = self.open.get_mut(&id) else { return Ok(()) };
        if open.output.aborts {
            return Ok(());
        }
        if let Some((task, cancels)) = open.task.take() {
            let errand = if cancels.on(why) { Errand::Cancel } else { Errand::Drop };
            self.errands.push(errand(task));
        }
        self.abort(id)
    }

    /// Reports what was taken of a request's body, once it is worth a record.
    fn give_credit(&mut self, id: u64) -> Result<(), Fault> {
        let Some(open) = self.open.get_mut(&id) else { return Ok(()) };
        if open.credit_due >= CREDIT_HELD_BACK {
            if self.lane.send_credit(id, open.credit_due)? {
                open.credit_due = 0;
            } else if !self.owing.contains(&id) {
                self.owing.push(id);
            }
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
            Input::Stream { .. } | Input::Done | Input::Whole { .. } => Taken::End,
        };
        let more = !matches!(open.input, Input::Stream { ended: true, .. } | Input::Done);
        if more {
            self.give_credit(id)?;
        }
        Ok(taken)
    }

    /// The entry of an exchange; made for one whose handler's first step is running.
    fn entry(&mut self, id: u64, fate: &Arc<Fate>) -> &mut Open {
        self.open.entry(id).or_insert_with(|| Open::new(Arc::clone(fate), Input::Done, 0))
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

    pub(crate) fn is_full(&self, id: u64) -> bool {
        self.open.get(&id).is_some_and(|open| open.output.is_full())
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
            Due::Nothing => return Ok(Progress::Idle),
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
                self.give_credit(id)?;
            }
        }
        if !self.ready.is_empty() {
            self.pump(py)?;
        }
        self.lane.publish()?;
        Ok(())
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
        Input::Done => {}
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

/// Nothing more is expected of an exchange's application: whoever waits is told.
fn over(open: &mut Open, stage: Stage, errands: &mut Vec<Errand>) {
    open.fate.advance(stage);
    errands.extend(open.readers.drain(..).chain(open.writers.drain(..)).map(Errand::Wake));
}
