//! From a client's bytes to a worker's lane: decoding, routing, dispatch, upload.
//!
//! Invariant: what the engine consumed is with a worker (in its lane or in the exchange's backlog) or was refused; what
//! cannot go anywhere yet stays unconsumed in the connection's input, and receiving stops when that has grown enough.

use super::{
    Core,
    client::Client,
    conn::{Phase, Reading, Verdict},
    queue::shift,
    websocket::WebSocket,
};
use crate::{
    ipc::message::{Cancellation, Request},
    limits,
    proto::{
        answer,
        forwarded::Origin,
        h1::{Refusal, Step},
        head::{BodyLength, RequestHead},
        route::{Found, redirect_location},
    },
};

impl Core {
    /// Takes bytes that arrived for a connection.
    pub(super) fn receive(&mut self, index: usize, fresh: &[u8]) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if connection.drops(fresh.len()) {
            return self.touch(index);
        }
        connection.received(fresh.len(), self.clock.now);
        if connection.input.is_empty() {
            let consumed = self.advance(index, fresh);
            let rest = fresh.get(consumed..).unwrap_or_default();
            if !rest.is_empty()
                && self.connections.get(index).is_some_and(|c| c.phase == Phase::Open)
            {
                let mut input = self.spare.take();
                input.extend_from_slice(rest);
                self.put_back(index, input);
            }
        } else {
            connection.input.extend_from_slice(fresh);
            self.resume(index);
        }
        self.touch(index);
    }

    /// Goes on with what was received before.
    pub(super) fn resume(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let mut input = std::mem::take(&mut connection.input);
        let consumed = self.advance(index, &input);
        let keep = self.connections.get(index).is_some_and(|c| c.phase == Phase::Open);
        if keep && consumed < input.len() {
            input.drain(..consumed);
            self.put_back(index, input);
        } else {
            self.spare.give(input);
        }
        self.touch(index);
    }

    /// Notes whether the rest of the input waits for the worker or for the client.
    fn note_hold(&mut self, index: usize, rest: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        connection.held_back = match connection.reading {
            Reading::Body(exchange) => self.exchanges.get_mut(exchange).is_some_and(|exchange| {
                !exchange.backlog.is_empty() || exchange.upload_credit < rest
            }),
            Reading::Head | Reading::Answering(_) | Reading::Discarding(_) | Reading::Parting => {
                false
            }
            Reading::WebSocket(exchange) => {
                self.exchanges.get_mut(exchange).is_some_and(|exchange| !exchange.takes_message())
            }
        };
    }

    fn put_back(&mut self, index: usize, input: Vec<u8>) {
        if let Some(connection) = self.connections.get_mut(index) {
            connection.input = input;
        }
    }

    /// Decodes as much of `data` as can go somewhere; the number of bytes consumed.
    fn advance(&mut self, index: usize, data: &[u8]) -> usize {
        let Some(connection) = self.connections.get_mut(index) else { return 0 };
        if (connection.fresh || connection.streams.is_some())
            && let Some(taken) = self.feed(index, data)
        {
            return taken;
        }
        let mut at = 0;
        if self.connections.get_mut(index).is_some_and(|connection| connection.has_websocket()) {
            at = self.listen(Client::Http1(index), data);
        }
        while let Some(budget) = self.budget(index) {
            let rest = data.get(at..).unwrap_or_default();
            let rest = rest.get(..budget.min(rest.len())).unwrap_or_default();
            let Some(connection) = self.connections.get_mut(index) else { break };
            match connection.h1.decode(rest, &self.options.h1, &mut self.head) {
                Ok(Step::NeedMore) => break,
                Ok(Step::Head { consumed }) => {
                    at += consumed;
                    at += self.begin(index, data.get(at..).unwrap_or_default());
                }
                Ok(Step::Body { consumed, data }) => {
                    at += consumed;
                    if let Reading::Body(exchange) = connection.reading {
                        self.upload(exchange, rest.get(data).unwrap_or_default());
                    }
                }
                Ok(Step::End { consumed }) => {
                    at += consumed;
                    self.end_request(index);
                }
                Err(refusal) => {
                    self.refuse(index, refusal);
                    return data.len();
                }
            }
        }
        self.note_hold(index, data.len() - at);
        at
    }

    /// How many bytes the engine may see now; `None` when it has to wait.
    fn budget(&mut self, index: usize) -> Option<usize> {
        let connection = self.connections.get(index)?;
        // Requests in front of the client's end are dropped with it.
        if connection.phase != Phase::Open || connection.at_end {
            return None;
        }
        match connection.reading {
            Reading::Head if connection.unsent() <= limits::UNSENT_SIZE_MAX => Some(usize::MAX),
            Reading::Discarding(_) => Some(usize::MAX),
            Reading::Head | Reading::Answering(_) | Reading::WebSocket(_) | Reading::Parting => {
                None
            }
            Reading::Body(exchange) => {
                let exchange = self.exchanges.get_mut(exchange)?;
                // Framing may pass without credit: the end of the body costs none.
                exchange.backlog.is_empty().then_some(exchange.upload_credit)
            }
        }
    }

    /// A head is complete: finds its route and its worker. Returns how much of `rest` was consumed with it.
    fn begin(&mut self, index: usize, rest: &[u8]) -> usize {
        let Some(connection) = self.connections.get(index) else { return 0 };
        match self.route(connection.redirects) {
            Ok((route, websocket)) => self.dispatch(index, route, rest, websocket),
            Err(verdict) => {
                self.answer(index, verdict);
                0
            }
        }
    }

    /// Where the request in `head` goes, with its path parameters in `params`; or what the edge answers.
    pub(super) fn route(&mut self, redirects: bool) -> Result<(u32, Option<WebSocket>), Verdict> {
        if redirects {
            return Err(self.https_redirect());
        }
        if self.head.has_upgrade
            && let Some((route, websocket)) = self.find_websocket()?
        {
            return Ok((route, Some(websocket)));
        }
        // Taken out for the while: cloning would have all shards write to one counter for every request.
        let routes = self.routes.take().ok_or_else(unavailable)?;
        let mut params = std::mem::take(&mut self.params);
        params.clear();
        let path = self.head.bytes(self.head.path);
        let method_name = self.head.bytes(self.head.method_name);
        let found = routes.find(self.head.method, method_name, path, &mut params);
        let (raw_path, query) =
            (self.head.bytes(self.head.raw_path), self.head.bytes(self.head.query));
        let outcome = verdict_of(&found, raw_path, query);
        (self.routes, self.params) = (Some(routes), params);
        Ok((outcome?, None))
    }

    /// Begins the exchange, with as much of the body as is here and fits its record.
    fn dispatch(
        &mut self,
        index: usize,
        route: u32,
        rest: &[u8],
        websocket: Option<WebSocket>,
    ) -> usize {
        let Some(connection) = self.connections.get_mut(index) else { return 0 };
        let (mut consumed, mut body, mut end) =
            (0, &rest[..0], self.head.body == BodyLength::Empty);
        if !end {
            let window =
                rest.get(..limits::INLINE_BODY_SIZE_MAX.min(rest.len())).unwrap_or_default();
            match take_body(&mut connection.h1, window, &self.options.h1) {
                Ok(taken) => {
                    consumed = taken.consumed;
                    body = window.get(taken.data).unwrap_or_default();
                    end = taken.end;
                }
                Err(refusal) => {
                    self.refuse(index, refusal);
                    return rest.len();
                }
            }
        }
        let asked = Asked {
            client: Client::Http1(index),
            direct: connection.origin(),
            route,
            websocket: websocket.is_some(),
            halvings: 0,
            body,
            end,
        };
        let Some(exchange) = self.admit(&asked) else {
            self.answer(index, unavailable());
            return consumed;
        };
        if let Some(connection) = self.connections.get_mut(index) {
            connection.websocket = websocket;
            connection.reading =
                if end { Reading::Answering(exchange) } else { Reading::Body(exchange) };
        }
        consumed
    }

    /// Gives the request in `head` to a worker, or a place in the queue; `None` when there is neither.
    pub(super) fn admit(&mut self, asked: &Asked<'_>) -> Option<usize> {
        let &Asked { client, direct, route, websocket, halvings, body, end } = asked;
        shift(&mut self.params, self.head.path);
        let head = &self.head;
        let origin = self.trusted.origin(head, direct);
        let request = Request {
            route,
            method: head.method as u8,
            version: head.version as u8,
            method_name: head.method_name,
            raw_path: head.raw_path,
            path: head.path,
            query: head.query,
            authority: head.authority,
            fields: &head.fields,
            params: &self.params,
            blob: &head.blob,
            content_length: match head.body {
                BodyLength::Empty => Some(0),
                BodyLength::Known(length) => Some(length),
                BodyLength::Unknown => None,
            },
            peer: origin.peer,
            secure: origin.secure,
            tls: client.tls(&mut self.connections, &self.quic_connections),
            websocket,
            halvings,
            body,
            end,
        };
        let now = self.clock.now;
        let exchange = self.exchanges.insert(client, limits::EXCHANGE_WINDOW >> halvings, now);
        let Self { links, exchanges, .. } = self;
        if !self.queue.admit(links, exchanges, &self.options, (exchange, now), &request) {
            self.exchanges.remove(exchange);
            self.tally.shed += 1;
            return None;
        }
        self.tally.begun += 1;
        let line = self.line(direct);
        if let Some(entry) = self.exchanges.get_mut(exchange) {
            entry.upload_credit -= body.len();
            entry.repeatable = end && self.head.method.is_idempotent();
            entry.line = line;
        }
        Some(exchange)
    }

    /// A piece of a body that is under way.
    pub(super) fn upload(&mut self, exchange: usize, data: &[u8]) {
        let id = self.exchanges.id(exchange);
        let Some(entry) = self.exchanges.get_mut(exchange) else { return };
        entry.upload_credit = entry.upload_credit.saturating_sub(data.len());
        let link = entry.link;
        // What waits comes first.
        let slot = link.filter(|_| entry.backlog.is_empty());
        let sent = slot.and_then(|link| self.links.get_mut(link)).map(|slot| {
            slot.touched = true;
            slot.lane.send_body(id, data, false).map_err(|fault| slot.fault = Some(fault))
        });
        let taken = sent.and_then(Result::ok).flatten().unwrap_or(0);
        if let Some(rest) = data.get(taken..).filter(|rest| !rest.is_empty()) {
            entry.backlog.extend_from_slice(rest);
            self.list(exchange);
        }
        self.keep_repeatable(link);
    }

    /// The body has ended.
    fn end_request(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        match std::mem::take(&mut connection.reading) {
            Reading::Body(exchange) => {
                connection.reading = Reading::Answering(exchange);
                self.end_upload(exchange);
            }
            Reading::Discarding(verdict) => self.answer_now(index, *verdict),
            other => connection.reading = other,
        }
    }

    /// All of a request's body is here.
    pub(super) fn end_upload(&mut self, exchange: usize) {
        if let Some(entry) = self.exchanges.get_mut(exchange) {
            entry.end_due = true;
            self.settle(exchange);
        }
    }

    /// Writes what an exchange still owes its worker, as far as there is room.
    pub(super) fn settle(&mut self, exchange: usize) {
        let id = self.exchanges.id(exchange);
        let Some(entry) = self.exchanges.get_mut(exchange) else { return };
        // What waits in the queue owes nobody anything yet.
        let slot = entry.link.and_then(|link| self.links.get_mut(link));
        let Some(slot) = slot.filter(|slot| slot.usable()) else { return };
        slot.touched = true;
        let lane = &mut slot.lane;
        let outcome = (|| {
            if let Some(why) = entry.cancel_due {
                if lane.send_cancel(id, why)? {
                    entry.cancel_due = None;
                    (entry.end_due, entry.backlog) = (false, Vec::new());
                    (entry.debt, entry.close_due) = (None, None);
                }
            } else if entry.accepted {
                entry.pass_on(lane, id)?;
            } else if (entry.end_due || !entry.backlog.is_empty())
                && let Some(taken) = lane.send_body(id, &entry.backlog, entry.end_due)?
            {
                entry.end_due &= taken < entry.backlog.len();
                entry.backlog.drain(..taken);
            }
            Ok(())
        })();
        if let Err(fault) = outcome {
            slot.fault = Some(fault);
        }
        let link = entry.link;
        if entry.has_due() {
            self.list(exchange);
        }
        self.keep_repeatable(link);
    }

    /// After each body record, and not once a turn: the bodies of one turn can fill a ring.
    fn keep_repeatable(&mut self, link: Option<usize>) {
        if let Some(link) = link
            && let Some(slot) = self.links.get_mut(link)
        {
            slot.keep_repeatable(link, &mut self.exchanges);
        }
    }

    /// The request breaks the protocol: says why and closes.
    pub(super) fn refuse(&mut self, index: usize, refusal: Refusal) {
        self.abandon(index, Cancellation::ClientGone, refusal.status());
        let date = self.clock.date();
        let Some(connection) = self.connections.get_mut(index) else { return };
        connection.h1.refuse(refusal, &date, &mut connection.output);
        connection.begin_last_send();
        self.touch(index);
    }

    /// Answers without a worker; reads a short body to its end first, so that the connection can be kept.
    pub(super) fn answer(&mut self, index: usize, mut verdict: Verdict) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let (direct, done) = (connection.origin(), connection.h1.request_done());
        verdict.line = self.line(direct);
        let short = matches!(self.head.body, BodyLength::Known(length) if length <= limits::DISCARD_SIZE_MAX);
        if short && !done && !self.head.expects_continue {
            if let Some(connection) = self.connections.get_mut(index) {
                connection.reading = Reading::Discarding(Box::new(verdict));
            }
        } else {
            self.answer_now(index, verdict);
        }
    }

    fn answer_now(&mut self, index: usize, mut verdict: Verdict) {
        if let Some(mut line) = verdict.line.take() {
            line.status = verdict.status;
            self.access_log.write(&line, &self.clock.date(), std::time::Duration::ZERO);
        }
        self.answer_plainly(index, &verdict);
    }
}

/// A request that is to be given to a worker: what is not in its head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) client: Client,
    /// Whose connection it came on.
    pub(super) direct: Origin,
    pub(super) route: u32,
    pub(super) websocket: bool,
    /// See [`Request::halvings`].
    pub(super) halvings: u8,
    /// The first bytes of its body.
    pub(super) body: &'a [u8],
    /// That is the whole request.
    pub(super) end: bool,
}

/// The first piece of a body.
struct Taken {
    consumed: usize,
    data: std::ops::Range<usize>,
    end: bool,
}

/// Takes the first piece of a body, and its end if that follows at once: then one record carries the whole request.
fn take_body(
    h1: &mut crate::proto::h1::H1,
    window: &[u8],
    options: &crate::proto::h1::Options,
) -> Result<Taken, Refusal> {
    let mut unused = RequestHead::default();
    let (mut consumed, mut piece) = (0, 0..0);
    match h1.decode(window, options, &mut unused)? {
        Step::Body { consumed: taken, data } => (consumed, piece) = (taken, data),
        Step::End { consumed } => return Ok(Taken { consumed, data: piece, end: true }),
        Step::NeedMore | Step::Head { .. } => {
            return Ok(Taken { consumed, data: piece, end: false });
        }
    }
    // Only the end is wanted: a second piece would not be contiguous with the first. So the engine is shown no more
    // than an end could be: nothing after a counted body, the last chunk after a chunked one.
    let rest = window.get(consumed..).unwrap_or_default();
    let end = [&b"\r\n0\r\n\r\n"[..], b"0\r\n\r\n"]
        .into_iter()
        .find(|end| rest.starts_with(end))
        .unwrap_or_default();
    let end = match h1.decode(end, options, &mut unused)? {
        Step::End { consumed: framing } => {
            consumed += framing;
            true
        }
        _ => false,
    };
    Ok(Taken { consumed, data: piece, end })
}

/// The route, or what the edge answers where there is none.
pub(super) fn verdict_of(found: &Found, raw_path: &[u8], query: &[u8]) -> Result<u32, Verdict> {
    Err(match found {
        Found::Route { id } => return Ok(*id),
        Found::NotFound => Verdict::new(404, Some(answer::NOT_FOUND)),
        Found::MethodNotAllowed { allow } => {
            Verdict::new(405, Some(answer::METHOD_NOT_ALLOWED)).with("allow", allow.as_bytes())
        }
        Found::Options { allow } => Verdict::new(200, None).with("allow", allow.as_bytes()),
        Found::Redirect => {
            let mut location = Vec::new();
            redirect_location(raw_path, query, &mut location);
            Verdict::new(307, None).with("location", &location)
        }
    })
}

/// No worker has room, or there is none.
pub(super) fn unavailable() -> Verdict {
    Verdict::new(503, Some("Service Unavailable")).with("retry-after", b"1")
}

/// The worker that had the request is gone, or gave it up.
pub(super) fn bad_gateway() -> Verdict {
    Verdict::new(502, Some("Bad Gateway"))
}

impl Verdict {
    pub(super) fn new(status: u16, detail: Option<&'static str>) -> Self {
        Self { status, detail, extra: Vec::new(), line: None }
    }

    pub(super) fn with(mut self, name: &'static str, value: &[u8]) -> Self {
        self.extra.push((name, value.to_vec()));
        self
    }

    /// The fields that it brings.
    pub(super) fn fields(&self) -> Vec<(&str, &[u8])> {
        self.extra.iter().map(|(name, value)| (*name, value.as_slice())).collect()
    }
}
