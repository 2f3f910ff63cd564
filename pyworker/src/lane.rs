//! One lane with its books: which exchanges are open on it, how far their bodies have come in both directions.
//!
//! Invariant: an exchange that was begun is in `open`, or its handler's first step is running, or its END or ABORT was
//! written; `in_flight` counts the first two. An output that can go on is in `ready` exactly once. Deliberately absent:
//! any call into Python, so that this can be used while borrowed.

use std::collections::{HashMap, VecDeque};

use fasterapi::{
    ipc::{Doorbell, Fault, Segment, WorkerLane, message::ToWorker},
    limits::{CHUNK_SIZE, EXCHANGE_WINDOW},
};
use pyo3::{prelude::*, types::PyBytes};

use crate::{
    answer::{Answer, Head},
    exchange::Arrived,
};

/// Received body bytes that are not reported at once: the window stays open meanwhile, and small parts cost no record each.
const CREDIT_HELD_BACK: u64 = (EXCHANGE_WINDOW / 4) as u64;

/// An exchange between two records.
#[derive(Debug)]
pub(crate) enum Open {
    /// Its body is still coming.
    Receiving(Box<Receiving>),
    /// Its handler was suspended; this is the task that runs the rest.
    Running(Py<PyAny>),
    /// Its answer is on the way out.
    Sending(Output),
}

#[derive(Debug)]
pub(crate) struct Receiving {
    request: Arrived,
    body: Vec<u8>,
    /// Bytes that were taken and not reported yet.
    credit_due: u64,
}

/// What is still to be written.
#[derive(Debug)]
pub(crate) enum Output {
    Abort,
    Answer {
        /// Not written yet.
        head: Option<Head>,
        body: Py<PyBytes>,
        /// Body bytes written.
        sent: usize,
        /// Body bytes that the edge has room for.
        credit: u64,
        /// True exactly while the exchange is in `ready`.
        ready: bool,
    },
}

/// What a record asks of the worker.
#[derive(Debug)]
pub(crate) enum Event {
    /// A request whose body is inside it, in the [`Arrived`] that was passed.
    Begin { id: u64 },
    /// A request whose body has come in parts, complete now.
    Whole { id: u64, request: Arrived, body: Vec<u8> },
    /// Cancel this task.
    Cancel(Py<PyAny>),
    /// The books were enough.
    Noted,
}

enum Progress {
    /// END or ABORT was written.
    Ended,
    /// Some bytes went, more could.
    More,
    /// All credit is used up.
    Starved,
    /// No room in the ring or the arena.
    Full,
}

#[derive(Debug)]
pub(crate) struct Lane {
    lane: WorkerLane,
    open: HashMap<u64, Open>,
    /// Exchanges with something to write, in the order of their turns.
    ready: VecDeque<u64>,
    /// Exchanges whose credit record found no room.
    owing: Vec<u64>,
    in_flight: usize,
}

impl Lane {
    pub(crate) fn new(own: Segment, peer: Segment, bell: Doorbell) -> Self {
        Self {
            lane: WorkerLane::new(own, peer, bell.into()),
            open: HashMap::new(),
            ready: VecDeque::new(),
            owing: Vec::new(),
            in_flight: 0,
        }
    }

    pub(crate) fn pending(&self) -> bool {
        self.lane.pending()
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(crate) fn disarm(&mut self) {
        self.lane.disarm();
    }

    /// True when there is something to do; else the next record, or the room that output waits for, brings a kick.
    pub(crate) fn arm(&mut self) -> Result<bool, Fault> {
        self.lane.arm()
    }

    /// Takes one record and enters it in the books; `None` when there is none.
    pub(crate) fn next(
        &mut self,
        py: Python<'_>,
        request: &mut Arrived,
    ) -> Result<Option<Event>, Fault> {
        let Some((id, message)) = self.lane.receive()? else { return Ok(None) };
        match message {
            ToWorker::Request(arrived) => {
                self.in_flight += 1;
                request.copy_from(&arrived);
                if arrived.end {
                    return Ok(Some(Event::Begin { id }));
                }
                let body = request.inline_body();
                let expected = request.content_length.map_or(0, |n| n.min(EXCHANGE_WINDOW as u64));
                let mut start = Vec::with_capacity(usize::try_from(expected).unwrap_or_default());
                start.extend_from_slice(body);
                let credit_due = body.len() as u64;
                let request = std::mem::take(request);
                let receiving = Receiving { request, body: start, credit_due };
                self.open.insert(id, Open::Receiving(Box::new(receiving)));
            }
            ToWorker::Body { data, end } => {
                // An exchange that is not receiving was cancelled while this was on its way.
                let Some(Open::Receiving(receiving)) = self.open.get_mut(&id) else {
                    return Ok(Some(Event::Noted));
                };
                receiving.body.extend_from_slice(data);
                receiving.credit_due += data.len() as u64;
                let much = receiving.credit_due >= CREDIT_HELD_BACK;
                if end && let Some(Open::Receiving(whole)) = self.open.remove(&id) {
                    let Receiving { request, body, .. } = *whole;
                    return Ok(Some(Event::Whole { id, request, body }));
                }
                if much {
                    self.give_credit(id)?;
                }
            }
            ToWorker::Credit(bytes) => {
                if let Some(Open::Sending(Output::Answer { credit, ready, .. })) =
                    self.open.get_mut(&id)
                {
                    *credit = credit.saturating_add(bytes);
                    if !std::mem::replace(ready, true) {
                        self.ready.push_back(id);
                    }
                }
            }
            ToWorker::Cancel(_) => return self.cancel(py, id).map(Some),
        }
        Ok(Some(Event::Noted))
    }

    fn cancel(&mut self, py: Python<'_>, id: u64) -> Result<Event, Fault> {
        match self.open.get_mut(&id) {
            // Its END or ABORT has crossed the cancellation.
            None => {}
            Some(Open::Running(task)) => {
                return Ok(Event::Cancel(task.clone_ref(py)));
            }
            Some(Open::Receiving(_)) => self.abort(id)?,
            Some(Open::Sending(Output::Abort)) => {}
            Some(Open::Sending(Output::Answer { .. })) => {
                self.ready.retain(|ready| *ready != id);
                self.abort(id)?;
            }
        }
        Ok(Event::Noted)
    }

    fn give_credit(&mut self, id: u64) -> Result<(), Fault> {
        let Some(Open::Receiving(receiving)) = self.open.get_mut(&id) else { return Ok(()) };
        if receiving.credit_due > 0 {
            if self.lane.send_credit(id, receiving.credit_due)? {
                receiving.credit_due = 0;
            } else if !self.owing.contains(&id) {
                self.owing.push(id);
            }
        }
        Ok(())
    }

    /// The handler was suspended: `task` runs the rest of it.
    pub(crate) fn suspended(&mut self, id: u64, task: Py<PyAny>) {
        self.open.insert(id, Open::Running(task));
    }

    /// Ends an exchange without a (complete) answer. Its task, if it has one, is running and lives on.
    pub(crate) fn abort(&mut self, id: u64) -> Result<(), Fault> {
        if self.ready.is_empty() && self.lane.send_abort(id)? {
            self.open.remove(&id);
            self.in_flight -= 1;
        } else {
            self.open.insert(id, Open::Sending(Output::Abort));
            self.ready.push_back(id);
        }
        Ok(())
    }

    /// Answers an exchange whose handler ended in its first step: the short way, for a whole answer that fits a record.
    /// False: there is no room now.
    pub(crate) fn answer_whole(
        &mut self,
        id: u64,
        head: &Head,
        body: &[u8],
    ) -> Result<bool, Fault> {
        let response = head.response(body);
        let written = response.end && self.lane.send_response(id, &response)?;
        if written {
            self.in_flight -= 1;
        }
        Ok(written)
    }

    /// Answers an exchange; what does not go at once goes with the next flushes. Returns the task that was running it.
    pub(crate) fn answer(
        &mut self,
        py: Python<'_>,
        id: u64,
        answer: Answer,
    ) -> Result<Option<Open>, Fault> {
        let was = self.open.remove(&id);
        let Answer { head, body } = answer;
        if !self.answer_whole(id, &head, body.as_bytes(py))? {
            let credit = EXCHANGE_WINDOW as u64;
            let output = Output::Answer { head: Some(head), body, sent: 0, credit, ready: true };
            self.open.insert(id, Open::Sending(output));
            self.ready.push_back(id);
            self.pump(py)?;
        }
        Ok(was)
    }

    /// Writes what waits, a chunk of each exchange at a time, until there is nothing left, no credit, or no room.
    fn pump(&mut self, py: Python<'_>) -> Result<(), Fault> {
        while let Some(id) = self.ready.pop_front() {
            match self.advance(py, id)? {
                Progress::Ended => {
                    self.open.remove(&id);
                    self.in_flight -= 1;
                }
                Progress::More => self.ready.push_back(id),
                Progress::Starved => {}
                Progress::Full => {
                    self.ready.push_front(id);
                    break;
                }
            }
        }
        Ok(())
    }

    fn advance(&mut self, py: Python<'_>, id: u64) -> Result<Progress, Fault> {
        let Some(Open::Sending(Output::Answer { head, body, sent, credit, ready })) =
            self.open.get_mut(&id)
        else {
            let written = self.lane.send_abort(id)?;
            return Ok(if written { Progress::Ended } else { Progress::Full });
        };
        let body = body.as_bytes(py);
        if let Some(unsent) = head {
            let response = unsent.response(body);
            if !self.lane.send_response(id, &response)? {
                return Ok(Progress::Full);
            }
            if response.end {
                return Ok(Progress::Ended);
            }
            *head = None;
        }
        let room = usize::try_from(*credit).unwrap_or(usize::MAX).min(CHUNK_SIZE);
        let rest = body.get(*sent..).unwrap_or_default();
        let part = rest.get(..room).unwrap_or(rest);
        let end = part.len() == rest.len();
        if part.is_empty() && !end {
            *ready = false;
            return Ok(Progress::Starved);
        }
        let Some(taken) = self.lane.send_body(id, part, end)? else { return Ok(Progress::Full) };
        *sent += taken;
        *credit -= taken as u64;
        Ok(if end && taken == part.len() { Progress::Ended } else { Progress::More })
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
