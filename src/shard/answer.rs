//! From a worker's lane to a client's bytes: responses, credit, and what becomes of exchanges whose worker or client
//! is gone.
//!
//! Invariant: every exchange that was begun for a connection gives it exactly one response or ends the connection;
//! never another exchange's response.

use super::{
    Core,
    conn::{Connection, Reading, Verdict},
};
use crate::{
    ipc::{
        Fault,
        message::{Cancellation, FromWorker, Response},
    },
    limits,
    proto::{
        h1::{BadResponse, Next},
        head::{BodyLength, ResponseHead},
    },
};

/// What the access log says of a client that went away before a response began; nginx's number.
const CLIENT_GONE: u16 = 499;

impl Core {
    /// Reads what every worker has published, at most a bounded number of records from each.
    pub(super) fn read_lanes(&mut self) {
        for index in 0..self.links.bound() {
            for _ in 0..limits::DRAIN_RECORDS_MAX {
                if !self.read_record(index) {
                    break;
                }
            }
        }
    }

    /// Takes one record from a link's lane; false when there is none.
    pub(super) fn read_record(&mut self, index: usize) -> bool {
        let Some(slot) = self.links.get_mut(index).filter(|slot| slot.usable()) else {
            return false;
        };
        if !slot.lane.pending() {
            return false;
        }
        // Also by what concerns no exchange, such as chunks that come back: until that is published, arming finds work.
        slot.touched = true;
        let (exchanges, connections) = (&mut self.exchanges, &mut self.connections);
        let outcome = slot.lane.receive().and_then(|received| {
            let Some((id, message)) = received else { return Ok(None) };
            let Some(exchange) = exchanges.find(id, index)? else { return Ok(Some(Effect::None)) };
            let Some(entry) = exchanges.get_mut(exchange) else { return Ok(Some(Effect::None)) };
            let connection =
                entry.connection.and_then(|connection| connections.get_mut(connection));
            let mut effect = Effect::None;
            let mut ended = false;
            let mut encoded: Result<(), BadResponse> = Ok(());
            match message {
                FromWorker::Response(response) => {
                    if std::mem::replace(&mut entry.responded, true) {
                        return Err(Fault::Order { what: "response", exchange: id });
                    }
                    entry.receive(response.body.len())?;
                    ended = response.end;
                    if let Some(line) = &mut entry.line {
                        (line.status, line.bytes) = (response.status, response.body.len() as u64);
                    }
                    if let Some(connection) = connection {
                        connection.response_at = Some(connection.output.len());
                        encoded = encode_response(connection, &response, &self.clock.date());
                    }
                }
                FromWorker::Body { data, end } => {
                    entry.check_order(entry.responded, "body", id)?;
                    entry.receive(data.len())?;
                    ended = end;
                    if let Some(line) = &mut entry.line {
                        line.bytes += data.len() as u64;
                    }
                    if let Some(connection) = connection {
                        encoded = connection.h1.encode_body(data, &mut connection.output);
                    }
                }
                FromWorker::Credit(bytes) => {
                    entry.grant(bytes)?;
                    effect = Effect::Resume(entry.connection);
                }
                FromWorker::Informational(response) => {
                    entry.check_order(!entry.responded, "informational response", id)?;
                    inform(connection, &response);
                }
                FromWorker::Trailers(trailers) => {
                    entry.check_order(entry.responded, "trailers", id)?;
                    (encoded, ended) = (trail(connection, &trailers), true);
                }
                FromWorker::Abort => effect = Effect::Aborted(exchange),
            }
            if let Err(error) = encoded {
                effect = Effect::Bad { exchange, ended, error };
            } else if ended {
                effect = Effect::Ended(exchange);
            } else if let (Effect::None, Some(connection)) = (&effect, entry.connection) {
                effect = Effect::Output(connection);
            }
            Ok(Some(effect))
        });
        match outcome {
            Ok(None) => return false,
            Ok(Some(effect)) => self.take_effect(&effect),
            Err(fault) => {
                slot.fault = Some(fault);
                return false;
            }
        }
        true
    }

    fn take_effect(&mut self, effect: &Effect) {
        match effect {
            Effect::None | Effect::Resume(None) => {}
            Effect::Output(connection) => self.touch(*connection),
            Effect::Resume(Some(connection)) => self.resume(*connection),
            Effect::Ended(exchange) => self.end_exchange(*exchange),
            Effect::Aborted(exchange) => self.fail_exchange(*exchange),
            &Effect::Bad { exchange, ended, error } => {
                tracing::error!("the application's response cannot be sent: {error}");
                if ended {
                    self.fail_exchange(exchange);
                } else {
                    self.fail_client(exchange);
                    self.cancel(exchange, Cancellation::ClientGone);
                }
            }
        }
    }

    /// The worker has written the end of the response.
    fn end_exchange(&mut self, index: usize) {
        let Some(entry) = self.exchanges.get_mut(index) else { return };
        let connection = entry.connection.and_then(|index| self.connections.get_mut(index));
        let Some(connection) = connection else {
            self.forget(index);
            return;
        };
        match connection.h1.encode_end(&mut connection.output) {
            Ok(next) => {
                let Some(entry) = self.forget(index) else { return };
                if let Some(line) = entry.line {
                    let took = self.clock.now.duration_since(entry.started);
                    self.access_log.write(&line, &self.clock.date(), took);
                }
                if let Some(connection) = entry.connection {
                    self.response_ended(connection, Ok(next));
                }
            }
            Err(error) => {
                tracing::error!("the application's response cannot be completed: {error}");
                self.fail_exchange(index);
            }
        }
    }

    /// Answers a client in its worker's place, or ends the connection when a part of the worker's response is out already.
    /// The exchange is nobody's from then on. False when it was before.
    pub(super) fn answer_instead(&mut self, index: usize, verdict: &Verdict) -> bool {
        let Some(entry) = self.exchanges.get_mut(index) else { return false };
        let Some(connection_index) = entry.connection.take() else { return false };
        let Some(connection) = self.connections.get_mut(connection_index) else { return false };
        let date = self.clock.date();
        let clear = connection.retract();
        if let Some(mut line) = entry.line.take() {
            if clear {
                (line.status, line.bytes) = (verdict.status, 0);
            }
            let took = self.clock.now.duration_since(entry.started);
            self.access_log.write(&line, &date, took);
        }
        if clear {
            let out = &mut connection.output;
            let (status, detail) = (verdict.status, verdict.detail);
            let next = connection.h1.edge_answer(status, detail, &verdict.fields(), &date, out);
            self.response_ended(connection_index, next);
        } else {
            // What is encoded is sent: an earlier answer may be waiting before this one, and that one is whole.
            connection.begin_last_send();
            self.touch(connection_index);
        }
        true
    }

    /// A response is encoded to its end.
    pub(super) fn response_ended(&mut self, index: usize, next: Result<Next, BadResponse>) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        connection.reading = Reading::Head;
        connection.response_at = None;
        match next {
            Ok(Next::KeepAlive) => {}
            // More may be on its way even behind a whole request, and a close before it has arrived resets.
            Ok(Next::Close) => connection.begin_last_send(),
            Err(error) => {
                tracing::error!("the application's response cannot be completed: {error}");
                connection.begin_close();
            }
        }
        self.touch(index);
    }

    /// The connection goes away: nobody waits for its exchange any more. `status` is what the access log says if no
    /// response had begun.
    pub(super) fn abandon(&mut self, index: usize, why: Cancellation, status: u16) {
        let Some(connection) = self.connections.get(index) else { return };
        let Some(exchange) = connection.exchange() else { return };
        let begun = !connection.h1.response_waits();
        let Some(entry) = self.exchanges.get_mut(exchange) else { return };
        debug_assert_eq!(entry.connection, Some(index), "an exchange has one connection");
        entry.connection = None;
        if let Some(mut line) = entry.line.take() {
            if !begun {
                line.status = status;
            }
            let took = self.clock.now.duration_since(entry.started);
            self.access_log.write(&line, &self.clock.date(), took);
        }
        self.tally.abandoned += u64::from(why == Cancellation::ClientGone);
        self.cancel(exchange, why);
    }

    /// The client has gone: no more is sent, its exchange is cancelled.
    pub(super) fn lose(&mut self, index: usize) {
        self.abandon(index, Cancellation::ClientGone, CLIENT_GONE);
        self.close(index);
    }

    /// The client has sent its FIN: as [`Self::lose`], but whole responses that it was given before are delivered.
    pub(super) fn finish(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let begun = !connection.h1.response_waits();
        self.abandon(index, Cancellation::ClientGone, CLIENT_GONE);
        let Some(connection) = self.connections.get_mut(index) else { return };
        let deliver = if begun { connection.retract() } else { true };
        if deliver && connection.unsent() > 0 {
            connection.begin_last_send();
            self.touch(index);
        } else {
            self.close(index);
        }
    }

    /// First step of closing a connection that has no exchange any more.
    pub(super) fn close(&mut self, index: usize) {
        if let Some(connection) = self.connections.get_mut(index) {
            connection.begin_close();
            self.touch(index);
        }
    }

    /// Nobody waits for an exchange any more: its worker is told; one that waits for a worker is forgotten.
    pub(super) fn cancel(&mut self, exchange: usize, why: Cancellation) {
        let Some(entry) = self.exchanges.get_mut(exchange) else { return };
        if entry.link.is_none() {
            self.forget(exchange);
            return;
        }
        entry.cancel_due = Some(why);
        self.settle(exchange);
    }

    /// Takes an exchange out of all books.
    pub(super) fn forget(&mut self, index: usize) -> Option<super::exchange::Exchange> {
        let entry = self.exchanges.remove(index)?;
        match entry.link {
            Some(link) => {
                if let Some(slot) = self.links.get_mut(link) {
                    slot.end();
                }
            }
            None => self.queue.remove(index),
        }
        Some(entry)
    }

    /// Everything that was received of a response has been sent: the worker may send as much again.
    pub(super) fn return_credit(&mut self, exchange: usize) {
        // Small answers are not worth a record; half a window keeps the worker going.
        let due = self.exchanges.get_mut(exchange).map_or(0, |entry| entry.credit_due());
        if due < limits::EXCHANGE_WINDOW / 2 {
            return;
        }
        let id = self.exchanges.id(exchange);
        let Some(entry) = self.exchanges.get_mut(exchange) else { return };
        let slot = entry.link.and_then(|link| self.links.get_mut(link));
        let Some(slot) = slot.filter(|slot| slot.usable()) else { return };
        slot.touched = true;
        match slot.lane.send_credit(id, due as u64) {
            Ok(true) => entry.credit_returned(due),
            Ok(false) => self.list(exchange),
            Err(fault) => slot.fault = Some(fault),
        }
    }
}

/// What a record leads to, once the lane is not borrowed any more.
enum Effect {
    None,
    Output(usize),
    Resume(Option<usize>),
    Ended(usize),
    Aborted(usize),
    Bad { exchange: usize, ended: bool, error: BadResponse },
}

fn encode_response(
    connection: &mut Connection,
    response: &Response<'_>,
    date: &[u8],
) -> Result<(), BadResponse> {
    let head = head_of(response);
    // Before the head is encoded: then there is still something to be said to the client.
    if response.content_length.is_some_and(|length| length < response.body.len() as u64) {
        return Err(BadResponse::BodyTooLong);
    }
    if response.end && !connection.h1.request_done() {
        // The rest of the request will not be read; RFC 9112 §9.6 wants that said.
        connection.h1.close_after_response();
    }
    connection.h1.encode_head(&head, date, &mut connection.output)?;
    connection.h1.encode_body(response.body, &mut connection.output)
}

fn inform(connection: Option<&mut Connection>, response: &Response<'_>) {
    let Some(connection) = connection else { return };
    let out = &mut connection.output;
    if let Err(error) = connection.h1.encode_informational(&head_of(response), out) {
        tracing::error!("the application's informational response is left out: {error}");
    }
}

fn trail(connection: Option<&mut Connection>, trailers: &Response<'_>) -> Result<(), BadResponse> {
    let Some(connection) = connection else { return Ok(()) };
    connection.h1.encode_trailers(&head_of(trailers), &mut connection.output)
}

fn head_of<'a>(response: &Response<'a>) -> ResponseHead<'a> {
    let body = match response.content_length {
        Some(0) => BodyLength::Empty,
        Some(length) => BodyLength::Known(length),
        None => BodyLength::Unknown,
    };
    ResponseHead { status: response.status, blob: response.blob, fields: response.fields, body }
}
