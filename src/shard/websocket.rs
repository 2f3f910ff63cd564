//! WebSockets: from the request for one to the end of both its sides.
//!
//! ```text
//!   Answering ──101──► WebSocket(exchange) ──► Parting ──► last send, FIN, linger
//!       └─ any other status: an ordinary response       (no exchange; the client's Close is awaited, or ours is on its way)
//! ```
//!
//! Invariant: a connection in `WebSocket` or `Parting` has an engine, and what it sends is no HTTP any more. A message is decoded
//! only when its exchange owes its worker nothing and has credit for a whole piece, so an exchange's backlog never holds more
//! than one. The worker of a WebSocket that has ended is told once: by a CLOSE if the client or the edge closed, by a CANCEL if
//! the client was lost or broke the protocol.

use std::time::Instant;

use super::{
    Core, Settings,
    answer::Effect,
    client::{Client, head_of},
    clock::Clock,
    conn::{Connection, Phase, Reading, Verdict},
    exchange::Exchange,
};
use crate::{
    ipc::{
        EdgeLane, Fault,
        message::{Cancellation, Close, FromWorker, Piece, Response},
    },
    limits,
    proto::{
        h1::BadResponse,
        ws::{
            self, BadMessage, BadUpgrade, DeflatePolicy, Kind, Step, Upgrade, Violation, Workspace,
            Ws, handshake,
        },
    },
};

/// Uvicorn's code when it stops or restarts (RFC 6455's registry: Service Restart).
pub(super) const SERVICE_RESTART: u16 = 1012;
/// RFC 6455 §7.4.1: the server cannot go on.
pub(super) const INTERNAL_ERROR: u16 = 1011;
/// RFC 6455 §7.1.5: there is no code.
const NO_CODE: u16 = 1005;

/// RFC 9110 §15.2.2: the worker accepts.
pub(super) const SWITCHING: u16 = 101;

/// How WebSockets are run.
#[derive(Clone, Copy, Debug)]
pub struct WebSocketOptions {
    /// Limits and times of each; what is negotiated takes the place of `deflate`.
    pub engine: ws::Options,
    /// Whether and how messages may be compressed.
    pub deflate: Option<DeflatePolicy>,
}

impl Default for WebSocketOptions {
    fn default() -> Self {
        Self { engine: ws::Options::default(), deflate: Some(DeflatePolicy::default()) }
    }
}

/// What a connection that asked for a WebSocket has more than others.
#[derive(Debug)]
pub(super) enum WebSocket {
    /// The worker has not answered.
    Asked(Box<Upgrade>),
    /// It has answered 101.
    Open(Box<Ws>),
}

/// What of a worker's messages could not be written to its lane; the bytes are in the exchange's backlog.
#[derive(Debug)]
pub(super) struct Debt {
    pub(super) is_text: bool,
    pub(super) more: bool,
}

impl Core {
    /// The route of a request with an Upgrade field, and what its 101 would say; `None` if it is to be served as if it had
    /// none (RFC 9110 §7.8).
    pub(super) fn find_websocket(&mut self) -> Result<Option<(u32, WebSocket)>, BadUpgrade> {
        let Some(routes) = &self.routes else { return Ok(None) };
        let path = self.head.bytes(self.head.path);
        let Some(route) = routes.find_websocket(path, &mut self.params) else { return Ok(None) };
        let upgrade = handshake(&self.head, self.options.websocket.deflate)?;
        Ok(upgrade.map(|upgrade| (route, WebSocket::Asked(Box::new(upgrade)))))
    }

    /// The worker has accepted.
    pub(super) fn accepted(&mut self, index: usize) {
        let Some(connection) = self.connections.get(index) else { return };
        let link =
            connection.exchange().and_then(|exchange| self.exchanges.get_mut(exchange)?.link);
        let leaves =
            link.and_then(|link| self.links.get_mut(link)).is_none_or(|s| !s.takes_requests());
        if leaves || connection.h1.closes() {
            // Too late: who is to be gone has told the others already.
            self.depart(index);
        } else {
            self.resume(index);
        }
        self.touch(index);
    }

    /// True when the engine may be shown input.
    pub(super) fn may_listen(&mut self, index: usize) -> bool {
        let Some(connection) = self.connections.get(index) else { return false };
        connection.phase == Phase::Open
            && match connection.reading {
                Reading::WebSocket(exchange) => {
                    self.exchanges.get_mut(exchange).is_some_and(|entry| entry.takes_message())
                }
                Reading::Parting => true,
                _ => false,
            }
    }

    /// Goes through what a WebSocket's client sent; how much of it was consumed.
    pub(super) fn listen(&mut self, index: usize, data: &[u8]) -> usize {
        let mut at = 0;
        while self.may_listen(index) {
            let Self { connections, exchanges, links, workspace, .. } = self;
            let Some(connection) = connections.get_mut(index) else { break };
            let exchange = connection.exchange();
            let Some(engine) = connection.engine() else { break };
            match engine.decode(data.get(at..).unwrap_or_default(), workspace) {
                Ok(Step::NeedMore { consumed }) => {
                    at += consumed;
                    break;
                }
                Ok(Step::Piece { consumed, data, kind, more }) => {
                    at += consumed;
                    let Some(exchange) = exchange else { continue };
                    let id = exchanges.id(exchange);
                    let Some(entry) = exchanges.get_mut(exchange) else { continue };
                    let piece = Piece { data, is_text: kind == Kind::Text, more };
                    let slot = entry.link.and_then(|link| links.get_mut(link));
                    if let Some(slot) = slot.filter(|slot| slot.usable()) {
                        slot.touched = true;
                        if let Err(fault) = entry.pass(&mut slot.lane, id, piece) {
                            slot.fault = Some(fault);
                        }
                    }
                    if entry.has_due() {
                        self.list(exchange);
                    }
                }
                Ok(Step::Close { consumed, code, reason }) => {
                    at += consumed;
                    let close = Some(Box::new((code, reason.to_vec())));
                    self.part_with(index, close);
                }
                Err(violation) => {
                    self.violated(index, violation);
                    at = data.len();
                }
            }
        }
        self.speak(index);
        at
    }

    /// Parts a connection from its exchange, whose worker is told of the Close.
    fn part_with(&mut self, index: usize, close: Option<Box<(u16, Vec<u8>)>>) {
        let Some(exchange) = self.part(index, 0) else { return };
        if let Some(connection) = self.connections.get_mut(index) {
            connection.reading = Reading::Parting;
        }
        if let Some(entry) = self.exchanges.get_mut(exchange) {
            entry.close_due = close;
        }
        self.settle(exchange);
    }

    /// The client broke the protocol, or was silent for too long.
    fn violated(&mut self, index: usize, violation: Violation) {
        tracing::debug!("a WebSocket's client is given up: {violation}");
        self.abandon(index, Cancellation::ClientGone, 0);
        if let Some(connection) = self.connections.get_mut(index) {
            connection.reading = Reading::Parting;
        }
    }

    /// Appends what the engine has to say unasked, and ends the connection when there is nothing more to come.
    pub(super) fn speak(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if connection.phase != Phase::Open {
            return;
        }
        let has_room = connection.unsent() <= limits::UNSENT_SIZE_MAX;
        let Connection { websocket, output, .. } = connection;
        let Some(WebSocket::Open(engine)) = websocket else { return };
        if has_room {
            engine.poll_output(output);
        }
        if engine.phase() == ws::Phase::Over && !engine.has_output() {
            connection.begin_last_send();
        }
    }

    /// The edge closes a WebSocket whose exchange is nobody's any more.
    pub(super) fn leave(&mut self, index: usize, code: u16, reason: &str) {
        let now = self.clock.now;
        let Some(connection) = self.connections.get_mut(index) else { return };
        connection.reading = Reading::Parting;
        shut(connection, Close { code, reason: reason.as_bytes() }, now);
        self.touch(index);
    }

    /// The connection that has this exchange for its only one.
    fn connection_of(&mut self, exchange: usize) -> Option<usize> {
        self.exchanges.get_mut(exchange).and_then(|entry| entry.client).and_then(plain)
    }

    /// True while messages go both ways.
    fn is_websocket(&self, index: usize) -> bool {
        let connection = self.connections.get(index);
        connection.is_some_and(|connection| matches!(connection.reading, Reading::WebSocket(_)))
    }

    /// The server, or the worker of this WebSocket, is about to go.
    pub(super) fn depart(&mut self, index: usize) {
        let reason = "Service Restart";
        if self.is_websocket(index) {
            self.part_with(index, Some(Box::new((SERVICE_RESTART, reason.as_bytes().to_vec()))));
            self.leave(index, SERVICE_RESTART, reason);
        }
    }

    /// The server is about to go.
    pub(super) fn depart_all(&mut self) {
        let all: Vec<usize> = self.connections.iter().map(|(index, _)| index).collect();
        for index in all {
            self.depart(index);
        }
    }

    /// A worker is about to go.
    pub(super) fn depart_from(&mut self, link: usize) {
        for exchange in self.exchanges.of_link(link) {
            let connection = self.connection_of(exchange);
            if let Some(connection) = connection {
                self.depart(connection);
            }
        }
    }

    /// The worker of a WebSocket has died, or says no more of it: its client is told by this code. False for what is none.
    pub(super) fn orphan(&mut self, exchange: usize, code: u16, reason: &str) -> bool {
        let connection = self.connection_of(exchange);
        let Some(connection) = connection.filter(|index| self.is_websocket(*index)) else {
            return false;
        };
        self.part(connection, 0);
        self.leave(connection, code, reason);
        true
    }

    /// The worker has closed: the client's answer is awaited without it.
    pub(super) fn closed_by_worker(&mut self, exchange: usize) {
        let connection = self.connection_of(exchange);
        if let Some(connection) = connection {
            self.part(connection, 0);
            if let Some(connection) = self.connections.get_mut(connection) {
                connection.reading = Reading::Parting;
            }
            self.touch(connection);
        }
        self.forget(exchange);
    }

    /// The worker's message cannot be sent: it is told by a CANCEL, the client by a Close.
    pub(super) fn unsendable(&mut self, exchange: usize, error: BadMessage) {
        tracing::error!("the application's message cannot be sent: {error}");
        self.orphan(exchange, INTERNAL_ERROR, "Internal Error");
        self.cancel(exchange, Cancellation::ClientGone);
    }

    /// Pings, and what becomes of clients that do not answer them.
    pub(super) fn sweep_websockets(&mut self, now: Instant) {
        let due = self.connections.iter().filter(|(_, connection)| {
            let Some(WebSocket::Open(engine)) = &connection.websocket else { return false };
            engine.poll_timeout().is_some_and(|at| at <= now)
        });
        let due: Vec<usize> = due.map(|(index, _)| index).collect();
        for index in due {
            let Some(connection) = self.connections.get_mut(index) else { continue };
            let listens = !connection.held_back;
            let Some(engine) = connection.engine() else { continue };
            if let Err(violation) = engine.handle_timeout(now, listens) {
                self.violated(index, violation);
            }
            self.speak(index);
            self.touch(index);
        }
    }
}

impl Connection {
    /// The engine of an accepted WebSocket.
    pub(super) fn engine(&mut self) -> Option<&mut Ws> {
        match &mut self.websocket {
            Some(WebSocket::Open(engine)) => Some(engine),
            Some(WebSocket::Asked(_)) | None => None,
        }
    }
}

impl Exchange {
    /// True when the worker has room for a whole piece, and all before it.
    pub(super) fn takes_message(&self) -> bool {
        !self.has_due() && self.upload_credit >= limits::WS_PIECE_SIZE_MAX
    }

    /// Hands a piece of a message to the worker, and keeps what finds no room.
    fn pass(&mut self, lane: &mut EdgeLane, id: u64, piece: Piece<'_>) -> Result<(), Fault> {
        self.upload_credit = self.upload_credit.saturating_sub(piece.cost());
        let taken = lane.send_message(id, piece)?;
        if taken != Some(piece.data.len()) {
            let rest = piece.data.get(taken.unwrap_or(0)..).unwrap_or_default();
            self.backlog.extend_from_slice(rest);
            self.debt = Some(Debt { is_text: piece.is_text, more: piece.more });
        }
        Ok(())
    }

    /// Writes what is left of a piece, and then the Close, as far as there is room.
    pub(super) fn pass_on(&mut self, lane: &mut EdgeLane, id: u64) -> Result<(), Fault> {
        if let Some(Debt { is_text, more }) = self.debt {
            let piece = Piece { data: &self.backlog, is_text, more };
            let Some(taken) = lane.send_message(id, piece)? else { return Ok(()) };
            if taken < self.backlog.len() {
                self.backlog.drain(..taken);
                return Ok(());
            }
            (self.debt, self.backlog) = (None, Vec::new());
        }
        if let Some(close) = &self.close_due
            && lane.send_close(id, Close { code: close.0, reason: &close.1 })?
        {
            self.close_due = None;
        }
        Ok(())
    }
}

/// An exchange that a record of its worker is about, and who waits for it.
pub(super) struct Books<'a> {
    pub(super) exchange: usize,
    pub(super) id: u64,
    pub(super) entry: &'a mut Exchange,
    pub(super) connection: Option<&'a mut Connection>,
}

impl Books<'_> {
    /// Takes a 101, a message or a Close.
    pub(super) fn take(
        self,
        record: &FromWorker<'_>,
        (settings, workspace, clock): (&Settings, &mut Workspace, &Clock),
    ) -> Result<Effect, Fault> {
        match record {
            FromWorker::Response(response) => self.accept(response, settings, clock),
            FromWorker::Message(piece) => self.message(piece, workspace),
            FromWorker::Close(close) => self.close(*close, clock.now),
            _ => Ok(Effect::None),
        }
    }

    /// The connection speaks WebSocket from then on.
    fn accept(
        self,
        response: &Response<'_>,
        settings: &Settings,
        clock: &Clock,
    ) -> Result<Effect, Fault> {
        let Self { exchange, id, entry, connection } = self;
        entry.respond(response, id)?;
        entry.check_order(!response.end && response.body.is_empty(), "101", id)?;
        (entry.accepted, entry.repeatable) = (true, false);
        let (Some(index), Some(connection)) = (entry.client.and_then(plain), connection) else {
            return Ok(Effect::None);
        };
        Ok(match switch(connection, exchange, response, settings, clock) {
            Ok(()) => Effect::Accepted(index),
            Err(error) => Effect::Bad { exchange, ended: false, error },
        })
    }

    fn message(self, piece: &Piece<'_>, workspace: &mut Workspace) -> Result<Effect, Fault> {
        let Self { exchange, id, entry, connection } = self;
        entry.check_order(entry.accepted, "message", id)?;
        entry.receive(piece.cost())?;
        entry.log_bytes(piece.data.len());
        let Some(connection) = connection else { return Ok(Effect::None) };
        Ok(match say(connection, piece, workspace) {
            Ok(()) => Effect::Output(exchange),
            Err(error) => Effect::Unsendable { exchange, error },
        })
    }

    fn close(self, close: Close<'_>, now: Instant) -> Result<Effect, Fault> {
        let Self { exchange, id, entry, connection } = self;
        entry.check_order(entry.accepted, "close", id)?;
        if let Some(connection) = connection {
            shut(connection, close, now);
        }
        Ok(Effect::Closed(exchange))
    }
}

fn switch(
    connection: &mut Connection,
    exchange: usize,
    response: &Response<'_>,
    settings: &Settings,
    clock: &Clock,
) -> Result<(), BadResponse> {
    let Some(WebSocket::Asked(upgrade)) = &connection.websocket else {
        return Err(BadResponse::Status);
    };
    let head = head_of(response);
    let ours = upgrade.accept(&head)?;
    let engine = ws::Options { deflate: upgrade.deflate(), ..settings.websocket.engine };
    connection.h1.encode_switch(&head, &ours, &clock.date(), &mut connection.output)?;
    connection.websocket = Some(WebSocket::Open(Box::new(Ws::new(engine, clock.now))));
    connection.reading = Reading::WebSocket(exchange);
    Ok(())
}

/// Encodes a piece of a worker's message. What comes behind a Close is dropped.
fn say(
    connection: &mut Connection,
    piece: &Piece<'_>,
    workspace: &mut Workspace,
) -> Result<(), BadMessage> {
    let kind = if piece.is_text { Kind::Text } else { Kind::Binary };
    let piece = ws::Piece { data: piece.data, kind, more: piece.more };
    let Connection { websocket, output, .. } = connection;
    let Some(WebSocket::Open(engine)) = websocket else { return Ok(()) };
    match engine.encode_piece(piece, workspace, output) {
        Err(BadMessage::Closing) => Ok(()),
        other => other,
    }
}

/// Encodes a Close, unless there was one; one that may not be sent is the application's mistake, and becomes another.
fn shut(connection: &mut Connection, close: Close<'_>, now: Instant) {
    let Connection { websocket, output, .. } = connection;
    let Some(WebSocket::Open(engine)) = websocket else { return };
    let asked = (close.code != NO_CODE).then_some((close.code, close.reason));
    let mut closed = engine.encode_close(asked, now, output);
    if let Err(error @ (BadMessage::CloseCode | BadMessage::CloseReason)) = closed {
        tracing::error!("the application's close {} cannot be sent: {error}", close.code);
        closed = engine.encode_close(Some((INTERNAL_ERROR, b"")), now, output);
    }
    if let Err(error) = closed {
        tracing::debug!("no second Close is sent: {error}");
    }
}

/// The connection of a client that has one for itself.
fn plain(client: Client) -> Option<usize> {
    match client {
        Client::Http1(connection) => Some(connection),
        Client::Http2(..) => None,
    }
}

/// What the edge answers to a request for a WebSocket that is none.
pub(super) fn refused(bad: BadUpgrade) -> Verdict {
    let (status, detail, extra) = bad.answer();
    let mut verdict = Verdict::new(status, Some(detail));
    verdict.extra.extend(extra.iter().map(|(name, value)| (*name, value.to_vec())));
    verdict
}
