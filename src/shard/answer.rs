//! From a worker's lane to a client's bytes: responses, credit, and what becomes of exchanges whose worker or client
//! is gone.
//!
//! Invariant: every exchange that was begun for a client gives it exactly one response or ends its connection or stream;
//! never another exchange's response.

use super::{
    Core, Settings,
    client::{Client, Respond, Saying, head_of},
    conn::{Connection, Reading},
    exchange::Exchange,
    websocket::{self, SWITCHING},
};
use crate::{
    ipc::{
        Fault, Withdrawal,
        message::{Cancellation, FromWorker, Response},
    },
    limits,
    proto::{
        error::BadResponse,
        h1::Next,
        h2::H2,
        ws::{BadMessage, Workspace},
    },
};

/// What the access log says of a client that went away before a response began; nginx's number.
pub(super) const CLIENT_GONE: u16 = 499;

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
            let saying =
                Saying { date: self.clock.date(), own: &self.own_fields, now: self.clock.now };
            let books = (exchange, id, entry);
            let shard = (&self.options, &mut self.workspace, saying);
            let effect = match books.2.client {
                None => take_record(books, &message, None::<&mut Connection>, shard)?,
                Some(Client::Http1(at)) => {
                    take_record(books, &message, connections.get_mut(at), shard)?
                }
                Some(Client::Http2(at, stream)) => {
                    let streams = connections.get_mut(at).and_then(|c| c.streams.as_mut());
                    let stream = streams.and_then(|streams| streams.stream(stream));
                    take_record(books, &message, stream, shard)?
                }
                Some(Client::Http3(at, stream)) => {
                    let connection = self.quic_connections.get_mut(at);
                    let streams = connection.and_then(|c| c.streams.as_mut());
                    let stream = streams.and_then(|streams| streams.stream(stream));
                    take_record(books, &message, stream, shard)?
                }
            };
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
            Effect::None => {}
            Effect::Output(exchange) => self.output_came(*exchange),
            Effect::Resume(client) => self.resume_client(*client),
            Effect::Accepted(client) => self.accepted(*client),
            Effect::Unsendable { exchange, error } => self.unsendable(*exchange, *error),
            Effect::Closed(exchange) => self.closed_by_worker(*exchange),
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

    /// There is something to send.
    fn output_came(&mut self, exchange: usize) {
        let Some(client) = self.exchanges.get_mut(exchange).and_then(|entry| entry.client) else {
            return;
        };
        self.touch_client(client);
        match client {
            // When it has been sent.
            Client::Http1(_) => {}
            // An engine takes no more than it may hold.
            Client::Http2(..) | Client::Http3(..) if self.has_sent_all(client) => {
                self.return_credit(exchange);
            }
            Client::Http2(..) | Client::Http3(..) => {}
        }
    }

    /// The worker has written the end of the response.
    fn end_exchange(&mut self, index: usize) {
        let client = self.exchanges.get_mut(index).and_then(|entry| entry.client);
        let mut next = Ok(Next::KeepAlive);
        if let Some(Client::Http1(at)) = client
            && let Some(connection) = self.connections.get_mut(at)
        {
            next = connection.h1.encode_end(&mut connection.output);
        }
        let next = match next {
            Ok(next) => next,
            Err(error) => {
                tracing::error!("the application's response cannot be completed: {error}");
                return self.fail_exchange(index);
            }
        };
        let Some(entry) = self.forget(index) else { return };
        if let Some(line) = entry.line {
            let took = self.clock.now.duration_since(entry.started);
            self.access_log.write(&line, &self.clock.date(), took);
        }
        match client {
            None => {}
            Some(Client::Http1(at)) => self.response_ended(at, Ok(next)),
            Some(client @ (Client::Http2(..) | Client::Http3(..))) => {
                if let Some((streams, key)) = self.streams(client) {
                    streams.part(key);
                }
                self.touch_client(client);
            }
        }
    }

    /// A response is encoded to its end.
    pub(super) fn response_ended(&mut self, index: usize, next: Result<Next, BadResponse>) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        connection.reading = Reading::Head;
        connection.response_at = None;
        connection.websocket = None;
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

    /// The connection goes away: nobody waits for its exchanges any more. `status` is what the access log says of those whose
    /// response had not begun.
    pub(super) fn abandon(&mut self, index: usize, why: Cancellation, status: u16) {
        self.abandon_streams::<H2>(index, why, status);
        let Some(exchange) = self.connections.get(index).and_then(Connection::exchange) else {
            return;
        };
        self.abandon_exchange(exchange, why, status);
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
        if deliver && (connection.unsent() > 0 || connection.owes_end()) {
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

    /// Nobody waits for an exchange any more: its worker is told; one that no worker has taken is forgotten.
    pub(super) fn cancel(&mut self, exchange: usize, why: Cancellation) {
        let Some(entry) = self.exchanges.get_mut(exchange) else { return };
        if entry.link.is_none() {
            self.forget(exchange);
            return;
        }
        // A request whose deadline has passed stays: that it is not taken shows that its worker is stuck.
        let why = match why {
            Cancellation::ClientGone => match self.withdraw(exchange) {
                Some(Withdrawal::Done) => return,
                Some(Withdrawal::Unsure) => Cancellation::WithdrawnLate,
                Some(Withdrawal::TooLate) | None => why,
            },
            _ => why,
        };
        let Some(entry) = self.exchanges.get_mut(exchange) else { return };
        entry.cancel_due = Some(why);
        self.settle(exchange);
    }

    /// Takes a request back, and forgets its exchange, if its worker has not taken it. `None`: there is nothing to be taken back.
    fn withdraw(&mut self, exchange: usize) -> Option<Withdrawal> {
        let id = self.exchanges.id(exchange);
        let entry = self.exchanges.get_mut(exchange)?;
        let position = entry.position;
        let slot = entry.link.and_then(|link| self.links.get_mut(link))?;
        if entry.responded || entry.cancel_due.is_some() || !slot.usable() {
            return None;
        }
        match slot.lane.withdraw_request(position, id) {
            Ok(withdrawal) => {
                if withdrawal == Withdrawal::Done {
                    self.tally.withdrawn += 1;
                    self.forget(exchange);
                }
                Some(withdrawal)
            }
            Err(fault) => {
                slot.fault = Some(fault);
                None
            }
        }
    }

    /// Takes an exchange out of all books.
    pub(super) fn forget(&mut self, index: usize) -> Option<Exchange> {
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
        let Some(entry) = self.exchanges.get_mut(exchange) else { return };
        if !entry.is_credit_worth_it() {
            return;
        }
        let (due, limit, client) = (entry.credit_due(), entry.limit(), entry.client);
        let more = client.map_or(0, |client| self.headroom(client, limit));
        let id = self.exchanges.id(exchange);
        let Some(entry) = self.exchanges.get_mut(exchange) else { return };
        let slot = entry.link.and_then(|link| self.links.get_mut(link));
        let Some(slot) = slot.filter(|slot| slot.usable()) else { return };
        slot.touched = true;
        match slot.lane.send_credit(id, (due + more) as u64) {
            Ok(true) => {
                entry.credit_returned(due);
                entry.widened(more);
                if let Some(client) = client {
                    self.widen(client, more);
                }
            }
            Ok(false) => self.list(exchange),
            Err(fault) => slot.fault = Some(fault),
        }
    }
}

/// What a record leads to, once the lane is not borrowed any more.
pub(super) enum Effect {
    None,
    Output(usize),
    Resume(Client),
    Accepted(Client),
    Unsendable { exchange: usize, error: BadMessage },
    Closed(usize),
    Ended(usize),
    Aborted(usize),
    Bad { exchange: usize, ended: bool, error: BadResponse },
}

/// Takes a record about an exchange (index, id, entry); what it says for the client goes `to` it, if it still waits.
fn take_record<R: Respond>(
    (exchange, id, entry): (usize, u64, &mut Exchange),
    record: &FromWorker<'_>,
    mut to: Option<R>,
    (settings, workspace, saying): (&Settings, &mut Workspace, Saying<'_>),
) -> Result<Effect, Fault> {
    let mut ended = false;
    let mut encoded: Result<(), BadResponse> = Ok(());
    match record {
        FromWorker::Response(Response { status: SWITCHING, .. })
        | FromWorker::Message(_)
        | FromWorker::Close(_) => {
            let books = (exchange, id, entry);
            return websocket::take(books, record, to, (settings, workspace, saying));
        }
        FromWorker::Response(response) => {
            entry.respond(response, id)?;
            ended = response.end;
            if let Some(to) = &mut to {
                encoded = to.respond(response, saying);
            }
        }
        &FromWorker::Body { data, end } => {
            entry.check_order(entry.takes_body(), "body", id)?;
            entry.receive(data.len())?;
            entry.log_bytes(data.len());
            ended = end;
            if let Some(to) = &mut to {
                encoded = to.body(data, end, saying.now);
            }
        }
        &FromWorker::Credit(bytes) => {
            let granted = entry.grant(bytes)?;
            let (Some(to), Some(client)) = (&mut to, entry.client) else { return Ok(Effect::None) };
            to.grant(granted, saying.now);
            return Ok(Effect::Resume(client));
        }
        FromWorker::Informational(response) => {
            entry.check_order(!entry.responded, "informational response", id)?;
            if let Some(to) = &mut to
                && let Err(error) = to.inform(&head_of(response))
            {
                tracing::error!("the application's informational response is left out: {error}");
            }
        }
        FromWorker::Trailers(trailers) => {
            entry.check_order(entry.takes_body(), "trailers", id)?;
            ended = true;
            if let Some(to) = &mut to {
                encoded = to.trail(&head_of(trailers), saying.now);
            }
        }
        FromWorker::Abort => return Ok(Effect::Aborted(exchange)),
    }
    Ok(match encoded {
        Err(error) => Effect::Bad { exchange, ended, error },
        Ok(()) if ended => Effect::Ended(exchange),
        Ok(()) if to.is_some() => Effect::Output(exchange),
        Ok(()) => Effect::None,
    })
}
