//! From a worker's lane to a client's bytes: responses, credit, and what becomes of exchanges whose worker or client
//! is gone.
//!
//! Invariant: every exchange that was begun for a connection gives it exactly one response or ends the connection;
//! never another exchange's response.

use super::{
    Core,
    conn::{Phase, Reading},
    links::Service,
};
use crate::{
    ipc::{
        Fault,
        message::{FromWorker, Response},
    },
    limits,
    pool::{Incarnation, WorkerId},
    proto::{
        h1::{BadResponse, Next},
        head::{BodyLength, ResponseHead},
    },
    shard::Report,
};

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
    fn read_record(&mut self, index: usize) -> bool {
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
                        let before = connection.output.len();
                        encoded = encode_response(connection, &response, &self.clock.date());
                        entry.answered = encoded.is_ok();
                        if encoded.is_err() {
                            connection.output.truncate(before);
                        }
                    }
                }
                FromWorker::Body { data, end } => {
                    if !entry.responded {
                        return Err(Fault::Order { what: "body", exchange: id });
                    }
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
                    let credit = usize::try_from(bytes)
                        .ok()
                        .and_then(|bytes| entry.upload_credit.checked_add(bytes));
                    match credit.filter(|credit| *credit <= limits::EXCHANGE_WINDOW) {
                        Some(credit) => entry.upload_credit = credit,
                        None => return Err(Fault::Credit { bytes }),
                    }
                    effect = Effect::Resume(entry.connection);
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
                    self.cancel(exchange);
                }
            }
        }
    }

    /// The worker has written the end of the response.
    fn end_exchange(&mut self, index: usize) {
        let Some(entry) = self.forget(index) else { return };
        let Some(connection_index) = entry.connection else { return };
        let Some(connection) = self.connections.get_mut(connection_index) else { return };
        let next = connection.h1.encode_end(&mut connection.output);
        if let Some(line) = entry.line {
            let took = self.clock.now.duration_since(entry.started);
            self.access_log.write(&line, &self.clock.date(), took);
        }
        self.response_ended(connection_index, next);
    }

    /// The worker will say no more of this exchange, and what it said is not a whole response.
    pub(super) fn fail_exchange(&mut self, index: usize) {
        self.fail_client(index);
        self.forget(index);
    }

    /// Gives the client what is left to give when its exchange cannot be completed: 502, or the end of the connection
    /// when a part of the response is out already.
    fn fail_client(&mut self, index: usize) {
        let Some(entry) = self.exchanges.get_mut(index) else { return };
        let Some(connection_index) = entry.connection.take() else { return };
        let Some(connection) = self.connections.get_mut(connection_index) else { return };
        if let Some(mut line) = entry.line.take() {
            line.status = if entry.answered { line.status } else { 502 };
            let took = self.clock.now.duration_since(entry.started);
            self.access_log.write(&line, &self.clock.date(), took);
        }
        if entry.answered {
            // What is encoded is sent: an earlier answer may be waiting before this one, and that one is whole.
            connection.reading = Reading::Head;
            connection.phase = Phase::LastSend;
            connection.input = Vec::new();
            self.touch(connection_index);
        } else {
            let out = &mut connection.output;
            let next =
                connection.h1.edge_answer(502, Some("Bad Gateway"), &[], &self.clock.date(), out);
            self.response_ended(connection_index, next);
        }
    }

    /// A response is encoded to its end.
    pub(super) fn response_ended(&mut self, index: usize, next: Result<Next, BadResponse>) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        connection.reading = Reading::Head;
        match next {
            // After the client's end too: requests that came before it may still be waiting.
            Ok(Next::KeepAlive) => {}
            Ok(Next::Close) => {
                // More may be on its way even behind a whole request, and a close before it has arrived resets.
                connection.phase = Phase::LastSend;
                connection.input = Vec::new();
            }
            Err(error) => {
                tracing::error!("the application's response cannot be completed: {error}");
                connection.begin_close();
            }
        }
        self.touch(index);
    }

    /// The connection goes away: nobody waits for its exchange any more.
    pub(super) fn abandon(&mut self, index: usize) {
        let Some(exchange) =
            self.connections.get(index).and_then(super::conn::Connection::exchange)
        else {
            return;
        };
        if let Some(entry) = self.exchanges.get_mut(exchange) {
            debug_assert_eq!(entry.connection, Some(index), "an exchange has one connection");
            entry.connection = None;
        }
        self.cancel(exchange);
    }

    /// Gives a connection up: no more is sent, its exchange is cancelled.
    pub(super) fn lose(&mut self, index: usize) {
        self.abandon(index);
        if let Some(connection) = self.connections.get_mut(index) {
            connection.begin_close();
            self.touch(index);
        }
    }

    fn cancel(&mut self, exchange: usize) {
        if let Some(entry) = self.exchanges.get_mut(exchange) {
            entry.cancel_due = true;
            self.settle(exchange);
        }
    }

    fn forget(&mut self, index: usize) -> Option<super::exchange::Exchange> {
        let entry = self.exchanges.remove(index)?;
        if let Some(slot) = self.links.get_mut(entry.link) {
            slot.load.remove();
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
        let Some(slot) = self.links.get_mut(entry.link).filter(|slot| slot.usable()) else {
            return;
        };
        slot.touched = true;
        match slot.lane.send_credit(id, due as u64) {
            Ok(true) => entry.credit_returned(due),
            Ok(false) => self.list(exchange),
            Err(fault) => slot.fault = Some(fault),
        }
    }

    /// The worker's process has ended: what it had published still counts, the rest is answered 502.
    pub(super) fn worker_died(&mut self, link: usize, generation: u32) {
        if self.links.get_mut(link).is_none_or(|slot| slot.generation != generation) {
            return;
        }
        // A child of the worker may have inherited its segment and go on writing: no more than a ring can hold.
        for _ in 0..limits::RING_SIZE / limits::RECORD_ALIGN {
            if !self.read_record(link) {
                break;
            }
        }
        if let Some(slot) = self.links.get_mut(link) {
            slot.dead = true;
        }
    }

    /// Takes out the links whose worker is dead or at fault, and ends their exchanges.
    pub(super) fn reap_links(&mut self) -> Vec<super::links::Slot> {
        let gone: Vec<usize> = self
            .links
            .iter_mut()
            .filter(|(_, slot)| !slot.usable())
            .map(|(index, _)| index)
            .collect();
        let mut slots = Vec::new();
        for index in gone {
            for exchange in self.exchanges.of_link(index) {
                self.fail_exchange(exchange);
            }
            let Some(slot) = self.links.remove(index) else { continue };
            if let Some(fault) = slot.fault {
                self.report_fault(slot.worker, slot.incarnation, fault);
            }
            slots.push(slot);
        }
        slots
    }

    /// Tells of the retired workers that have nothing in flight any more.
    pub(super) fn report_retired(&mut self, shard: usize) {
        let retiring: Vec<_> = self
            .links
            .iter_mut()
            .filter(|(_, slot)| slot.service == Service::Retiring)
            .map(|(index, slot)| (index, slot.worker, slot.incarnation))
            .collect();
        for (index, worker, incarnation) in retiring {
            if !self.exchanges.of_link(index).is_empty() {
                continue;
            }
            if let Some(slot) = self.links.get_mut(index) {
                slot.service = Service::Retired;
            }
            self.report(Report::Retired { shard, worker, incarnation });
        }
    }

    fn report_fault(&self, worker: WorkerId, incarnation: Incarnation, fault: Fault) {
        self.report(Report::Faulty { worker, incarnation, fault });
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
    connection: &mut super::conn::Connection,
    response: &Response<'_>,
    date: &[u8],
) -> Result<(), BadResponse> {
    let body = match response.content_length {
        Some(0) => BodyLength::Empty,
        Some(length) => BodyLength::Known(length),
        None => BodyLength::Unknown,
    };
    let head = ResponseHead {
        status: response.status,
        blob: response.blob,
        fields: response.fields,
        body,
    };
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
