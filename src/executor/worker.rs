//! One worker process as the driver holds it: its end of the lane, and the books of the calls that are with it.
//!
//! Invariant: a call is in `calls` from its REQUEST record to its END or ABORT, to the worker's death or the executor's end,
//! even when nobody waits for it any more; it is in `due` exactly while `listed`. Credit never exceeds `EXCHANGE_WINDOW` in either direction.

use std::{
    collections::{HashMap, VecDeque},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::Child,
};

use super::{
    call::{Answer, Place, Reply, Submission},
    error::CallError,
};
use crate::{
    ipc::{
        Doorbell, EdgeLane, Fault,
        message::{Cancellation, FromWorker},
    },
    limits::{CHUNK_SIZE, DRAIN_RECORDS_MAX, EXCHANGE_WINDOW},
    pool::channel::Replies,
};

/// Received bytes that are not reported at once.
const CREDIT_HELD_BACK: usize = EXCHANGE_WINDOW / 4;

#[derive(Debug)]
struct Running {
    /// Taken once the caller has an outcome, or is gone.
    reply: Option<Reply>,
    /// Given up before the caller hears of the end, so that it may submit the next call at once.
    place: Place,
    /// Arguments that follow the request record, and how many of their bytes were written.
    upload: Vec<u8>,
    sent: usize,
    /// Bytes of them that the worker has room for.
    credit: usize,
    cancel_due: bool,
    /// Of the answer, once its head is here.
    status: Option<u16>,
    answer: Vec<u8>,
    /// Answer bytes that the worker may still send.
    window: usize,
    /// Those that arrived since credit was last given.
    unreturned: usize,
    listed: bool,
}

enum Progress {
    Idle,
    More,
    Full,
}

impl Running {
    /// Takes a part of the answer in; an answer that grows too long has its caller told, and is cancelled.
    fn receive(&mut self, data: &[u8], announced: u64, size_max: usize) -> Result<(), Fault> {
        let Some(window) = self.window.checked_sub(data.len()) else {
            return Err(Fault::Credit { bytes: (data.len() - self.window) as u64 });
        };
        self.window = window;
        self.unreturned += data.len();
        if self.reply.is_none() {
            return Ok(());
        }
        if announced > size_max as u64 || self.answer.len() + data.len() > size_max {
            self.refuse(CallError::TooLarge { what: "a result", max: size_max });
            self.cancel_due = true;
        } else {
            self.answer.extend_from_slice(data);
        }
        Ok(())
    }

    /// Tells the caller, if there is one, while the worker still has the call.
    fn refuse(&mut self, error: CallError) {
        self.answer = Vec::new();
        tell(self.reply.take(), Err(error));
    }

    /// The worker will say no more of it.
    fn conclude(self, ended: Result<(), CallError>) {
        let Self { reply, place, status, answer: body, .. } = self;
        drop(place);
        tell(reply, ended.map(|()| Answer { status: status.unwrap_or_default(), body }));
    }

    fn advance(&mut self, id: u64, lane: &mut EdgeLane) -> Result<Progress, Fault> {
        if self.cancel_due {
            if !lane.send_cancel(id, Cancellation::ClientGone)? {
                return Ok(Progress::Full);
            }
            self.cancel_due = false;
            self.upload = Vec::new();
            self.sent = 0;
        }
        if self.unreturned >= CREDIT_HELD_BACK {
            if !lane.send_credit(id, self.unreturned as u64)? {
                return Ok(Progress::Full);
            }
            self.window += std::mem::take(&mut self.unreturned);
        }
        let rest = self.upload.get(self.sent..).unwrap_or_default();
        let part = rest.get(..self.credit.min(CHUNK_SIZE)).unwrap_or(rest);
        if part.is_empty() {
            return Ok(Progress::Idle);
        }
        let end = part.len() == rest.len();
        let Some(taken) = lane.send_body(id, part, end)? else { return Ok(Progress::Full) };
        self.sent += taken;
        self.credit -= taken;
        if self.sent == self.upload.len() {
            self.upload = Vec::new();
            self.sent = 0;
            return Ok(Progress::Idle);
        }
        Ok(Progress::More)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) child: Child,
    pub(super) pidfd: OwnedFd,
    pub(super) channel: UnixStream,
    pub(super) replies: Replies,
    /// It was accepted, and is given calls from then on.
    pub(super) ready: bool,
    /// It broke a protocol: it is given nothing, and nothing of it is read.
    pub(super) faulty: bool,
    lane: EdgeLane,
    /// Kept open for the epoll that listens to it.
    _bell: Doorbell,
    calls: HashMap<u64, Running>,
    due: VecDeque<u64>,
    /// The largest id that it was given.
    newest: u64,
    size_max: usize,
}

impl Worker {
    pub(super) fn new(
        (child, pidfd, channel): (Child, OwnedFd, UnixStream),
        (lane, bell): (EdgeLane, Doorbell),
        size_max: usize,
    ) -> Self {
        Self {
            child,
            pidfd,
            channel,
            replies: Replies::default(),
            ready: false,
            faulty: false,
            lane,
            _bell: bell,
            calls: HashMap::new(),
            due: VecDeque::new(),
            newest: 0,
            size_max,
        }
    }

    pub(super) fn usable(&self) -> bool {
        self.ready && !self.faulty
    }

    pub(super) fn load(&self) -> usize {
        self.calls.len()
    }

    /// True while some caller waits for it.
    pub(super) fn is_awaited(&self) -> bool {
        self.calls.values().any(|call| call.reply.is_some())
    }

    pub(super) fn has_room(&mut self) -> Result<bool, Fault> {
        self.lane.has_room()
    }

    /// Begins a call; hands it back when there is no room.
    pub(super) fn begin(&mut self, submission: Submission) -> Result<Option<Submission>, Fault> {
        let request = submission.request();
        let whole = request.end;
        if !self.lane.send_request(submission.id, &request)? {
            return Ok(Some(submission));
        }
        let Submission { id, body, reply, place, .. } = submission;
        self.newest = self.newest.max(id);
        let call = Running {
            reply: Some(reply),
            place,
            upload: if whole { Vec::new() } else { body },
            sent: 0,
            credit: EXCHANGE_WINDOW,
            cancel_due: false,
            status: None,
            answer: Vec::new(),
            window: EXCHANGE_WINDOW,
            unreturned: 0,
            listed: !whole,
        };
        self.calls.insert(id, call);
        if !whole {
            self.due.push_back(id);
        }
        Ok(None)
    }

    /// Nobody waits for this call any more.
    pub(super) fn cancel(&mut self, id: u64) {
        if let Some(call) = self.calls.get_mut(&id)
            && call.reply.take().is_some()
        {
            call.answer = Vec::new();
            call.cancel_due = true;
            list(&mut self.due, call, id);
        }
    }

    /// Ends all calls, as far as their callers are concerned.
    pub(super) fn fail_all(&mut self, error: &CallError) {
        for (_, call) in self.calls.drain() {
            call.conclude(Err(error.clone()));
        }
    }

    /// Reads what was published, at most a bounded number of records; true when there may be more.
    pub(super) fn receive(&mut self) -> Result<bool, Fault> {
        for _ in 0..DRAIN_RECORDS_MAX {
            if !self.receive_record()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn receive_record(&mut self) -> Result<bool, Fault> {
        let Some((id, message)) = self.lane.receive()? else { return Ok(false) };
        if id == 0 || id > self.newest {
            return Err(Fault::Exchange { exchange: id });
        }
        // It may have ended meanwhile, and credit may cross its end.
        let Some(call) = self.calls.get_mut(&id) else { return Ok(true) };
        let mut ended = None;
        match message {
            FromWorker::Response(response) => {
                if call.status.replace(response.status).is_some() {
                    return Err(Fault::Order { what: "response", exchange: id });
                }
                let announced = response.content_length.unwrap_or_default();
                call.receive(response.body, announced, self.size_max)?;
                ended = response.end.then_some(Ok(()));
            }
            FromWorker::Body { data, end } => {
                if call.status.is_none() {
                    return Err(Fault::Order { what: "body", exchange: id });
                }
                call.receive(data, 0, self.size_max)?;
                ended = end.then_some(Ok(()));
            }
            FromWorker::Credit(bytes) => {
                let credit =
                    usize::try_from(bytes).ok().and_then(|bytes| call.credit.checked_add(bytes));
                match credit.filter(|credit| *credit <= EXCHANGE_WINDOW) {
                    Some(credit) => call.credit = credit,
                    None => return Err(Fault::Credit { bytes }),
                }
            }
            FromWorker::Abort => ended = Some(Err(CallError::Cancelled)),
            FromWorker::Informational(_) => {}
            FromWorker::Trailers(_) if call.status.is_none() => {
                return Err(Fault::Order { what: "trailers", exchange: id });
            }
            FromWorker::Trailers(_) => ended = Some(Ok(())),
        }
        match ended {
            None => list(&mut self.due, call, id),
            Some(ended) => {
                if let Some(call) = self.calls.remove(&id) {
                    call.conclude(ended);
                }
            }
        }
        Ok(true)
    }

    /// Writes what is due, a chunk of each call at a time, until there is nothing left, no credit, or no room; and makes
    /// it visible.
    pub(super) fn flush(&mut self) -> Result<(), Fault> {
        while let Some(id) = self.due.pop_front() {
            let Some(call) = self.calls.get_mut(&id) else { continue };
            call.listed = false;
            match call.advance(id, &mut self.lane)? {
                Progress::Idle => {}
                Progress::More => list(&mut self.due, call, id),
                Progress::Full => {
                    call.listed = true;
                    self.due.push_front(id);
                    break;
                }
            }
        }
        self.lane.publish()?;
        Ok(())
    }

    /// Asks for a kick; true when there is something to do already.
    pub(super) fn arm(&mut self) -> Result<bool, Fault> {
        self.lane.arm()
    }

    pub(super) fn disarm(&mut self) {
        self.lane.disarm();
    }
}

fn tell(reply: Option<Reply>, outcome: Result<Answer, CallError>) {
    if let Some(reply) = reply {
        // A caller that has gone in this moment needs no answer.
        drop(reply.send(outcome));
    }
}

fn list(due: &mut VecDeque<u64>, call: &mut Running, id: u64) {
    if !std::mem::replace(&mut call.listed, true) {
        due.push_back(id);
    }
}
