//! WebSockets: from the request for one to the end of both its sides.
//!
//! ```text
//!   asked ──101──► Talk::Both(exchange) ──► Talk::Parting ──► last send, FIN, linger; or the end of the stream
//!     └─ any other status: an ordinary response     (no exchange; the client's Close is awaited, or ours is on its way)
//! ```
//!
//! A WebSocket has an HTTP/1 connection for itself, or a stream (RFC 8441, RFC 9220); [`Site`] is what both have in common.
//!
//! Invariant: in `Both` and `Parting` there is an engine, and what is sent is no HTTP any more. A message is decoded
//! only when its exchange owes its worker nothing and has credit for a whole piece, so an exchange's backlog never holds more
//! than one. The worker of a WebSocket that has ended is told once: by a CLOSE if the client or the edge closed, by a CANCEL if
//! the client was lost or broke the protocol.

use std::time::Instant;

use slab::Slab;

use super::{
    Core, Settings,
    answer::Effect,
    client::{Client, Respond, Saying, head_of},
    conn::{Connection, Phase, Reading, Verdict},
    exchange::Exchange,
    quic::QuicConnection,
};
use crate::{
    ipc::{
        EdgeLane, Fault,
        message::{Cancellation, Close, FromWorker, Piece, Response},
    },
    limits,
    proto::{
        answer,
        error::BadResponse,
        h2::H2,
        h3::H3,
        ws::{
            self, BadMessage, DeflatePolicy, Kind, Step, Upgrade, Violation, Workspace, Ws,
            extended_handshake, handshake,
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

/// What a connection or stream that asked for a WebSocket has more than others.
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

/// How far a WebSocket is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Talk {
    /// There is none, or its worker has not answered.
    Silent,
    /// Messages go both ways, for this exchange.
    Both(usize),
    /// One side has closed, and the exchange is nobody's any more.
    Parting,
}

/// What has a WebSocket.
pub(super) struct Site<'a> {
    pub(super) websocket: &'a mut Option<WebSocket>,
    /// Where its frames go.
    pub(super) output: &'a mut Vec<u8>,
    pub(super) talk: Talk,
    /// So little is unsent that Pings and Pongs may be added.
    pub(super) has_room: bool,
}

impl Site<'_> {
    fn engine(&mut self) -> Option<&mut Ws> {
        match self.websocket {
            Some(WebSocket::Open(engine)) => Some(engine),
            Some(WebSocket::Asked(_)) | None => None,
        }
    }
}

/// The place of a client's WebSocket, as long as its connection serves.
fn site<'a>(
    connections: &'a mut Slab<Connection>,
    quic_connections: &'a mut Slab<QuicConnection>,
    client: Client,
) -> Option<Site<'a>> {
    match client {
        Client::Http1(at) => {
            let connection = connections.get_mut(at)?;
            (connection.phase == Phase::Open).then(|| connection.site())
        }
        Client::Http2(..) | Client::Http3(..) => {
            let (streams, key) = client.streams(connections, quic_connections)?;
            streams.site(key)
        }
    }
}

impl Core {
    /// The route of a request with an Upgrade field, and what its 101 would say; `None` if it is to be served as if it had
    /// none (RFC 9110 §7.8).
    pub(super) fn find_websocket(&mut self) -> Result<Option<(u32, WebSocket)>, Verdict> {
        let Some(route) = self.find_websocket_route() else { return Ok(None) };
        let upgrade = handshake(&self.head, self.options.websocket.deflate);
        let upgrade = upgrade.map_err(|bad| refused(bad.answer()))?;
        Ok(upgrade.map(|upgrade| (route, WebSocket::Asked(Box::new(upgrade)))))
    }

    /// As [`Self::find_websocket`], for extended CONNECT (RFC 8441), which asks for nothing else.
    pub(super) fn find_extended(&mut self) -> Result<(u32, WebSocket), Verdict> {
        let Some(route) = self.find_websocket_route() else {
            return Err(Verdict::new(404, Some(answer::NOT_FOUND)));
        };
        let upgrade = extended_handshake(&self.head, self.options.websocket.deflate);
        let upgrade = upgrade.map_err(|bad| refused(bad.extended_answer()))?;
        Ok((route, WebSocket::Asked(Box::new(upgrade))))
    }

    fn find_websocket_route(&mut self) -> Option<u32> {
        let routes = self.routes.as_ref()?;
        self.params.clear();
        routes.find_websocket(self.head.bytes(self.head.path), &mut self.params)
    }

    /// The worker has accepted.
    pub(super) fn accepted(&mut self, client: Client) {
        let Talk::Both(exchange) = self.talk(client) else { return };
        let link = self.exchanges.get_mut(exchange).and_then(|entry| entry.link);
        let leaves =
            link.and_then(|link| self.links.get_mut(link)).is_none_or(|s| !s.takes_requests());
        if leaves || self.is_leaving(client) {
            // Too late: who is to be gone has told the others already.
            self.depart(client);
        } else {
            self.resume_client(client);
        }
        self.touch_client(client);
    }

    /// How far a client's WebSocket is.
    fn talk(&mut self, client: Client) -> Talk {
        site(&mut self.connections, &mut self.quic_connections, client)
            .map_or(Talk::Silent, |site| site.talk)
    }

    /// True when the engine may be shown input.
    pub(super) fn may_listen(&mut self, client: Client) -> bool {
        match self.talk(client) {
            Talk::Silent => false,
            Talk::Both(exchange) => {
                self.exchanges.get_mut(exchange).is_some_and(|entry| entry.takes_message())
            }
            Talk::Parting => true,
        }
    }

    /// Goes through what a WebSocket's client sent; how much of it was consumed.
    pub(super) fn listen(&mut self, client: Client, data: &[u8]) -> usize {
        let mut at = 0;
        while self.may_listen(client) {
            let Self { connections, quic_connections, exchanges, links, workspace, .. } = self;
            let Some(mut site) = site(connections, quic_connections, client) else { break };
            let talk = site.talk;
            let Some(engine) = site.engine() else { break };
            match engine.decode(data.get(at..).unwrap_or_default(), workspace) {
                Ok(Step::NeedMore { consumed }) => {
                    at += consumed;
                    break;
                }
                Ok(Step::Piece { consumed, data, kind, more }) => {
                    at += consumed;
                    let Talk::Both(exchange) = talk else { continue };
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
                    self.part_with(client, close);
                }
                Err(violation) => {
                    self.violated(client, violation);
                    at = data.len();
                }
            }
        }
        self.speak(client);
        at
    }

    /// Parts a WebSocket from its exchange, which is nobody's from then on.
    fn part_websocket(&mut self, client: Client) -> Option<usize> {
        let Talk::Both(exchange) = self.talk(client) else { return None };
        match client {
            Client::Http1(at) => self.connections.get_mut(at)?.reading = Reading::Parting,
            Client::Http2(..) | Client::Http3(..) => {
                let (streams, key) = self.streams(client)?;
                streams.part_websocket(key);
            }
        }
        self.part_exchange(exchange, 0);
        Some(exchange)
    }

    /// As [`Self::part_websocket`]; the worker is told of the Close.
    fn part_with(&mut self, client: Client, close: Option<Box<(u16, Vec<u8>)>>) {
        let Some(exchange) = self.part_websocket(client) else { return };
        if let Some(entry) = self.exchanges.get_mut(exchange) {
            entry.close_due = close;
        }
        self.settle(exchange);
    }

    /// The client broke the protocol, or was silent for too long.
    fn violated(&mut self, client: Client, violation: Violation) {
        tracing::debug!("a WebSocket's client is given up: {violation}");
        if let Some(exchange) = self.part_websocket(client) {
            self.tally.abandoned += 1;
            self.cancel(exchange, Cancellation::ClientGone);
        }
    }

    /// Appends what the engine has to say unasked, and ends the connection or stream when there is nothing more to come.
    pub(super) fn speak(&mut self, client: Client) {
        let Some(mut site) = site(&mut self.connections, &mut self.quic_connections, client) else {
            return;
        };
        let has_room = site.has_room;
        let Some(WebSocket::Open(engine)) = &mut site.websocket else { return };
        if has_room {
            engine.poll_output(site.output);
        }
        let over = engine.phase() == ws::Phase::Over && !engine.has_output();
        match client {
            Client::Http1(at) => {
                if over && let Some(connection) = self.connections.get_mut(at) {
                    connection.begin_last_send();
                }
            }
            Client::Http2(at, stream) => self.speak_stream::<H2>(at, stream, over),
            Client::Http3(at, stream) => self.speak_stream::<H3>(at, stream, over),
        }
    }

    /// The edge closes a WebSocket whose exchange is nobody's any more.
    pub(super) fn leave(&mut self, client: Client, code: u16, reason: &str) {
        let now = self.clock.now;
        if let Some(mut site) = site(&mut self.connections, &mut self.quic_connections, client) {
            shut(&mut site, Close { code, reason: reason.as_bytes() }, now);
        }
        self.speak(client);
        self.touch_client(client);
    }

    /// The server, or the worker of this WebSocket, is about to go.
    pub(super) fn depart(&mut self, client: Client) {
        let reason = "Service Restart";
        if let Talk::Both(_) = self.talk(client) {
            self.part_with(client, Some(Box::new((SERVICE_RESTART, reason.as_bytes().to_vec()))));
            self.leave(client, SERVICE_RESTART, reason);
        }
    }

    /// The server is about to go.
    pub(super) fn depart_all(&mut self) {
        let accepted = self.exchanges.iter().filter(|(_, exchange)| exchange.accepted);
        let clients: Vec<_> = accepted.filter_map(|(_, exchange)| exchange.client).collect();
        for client in clients {
            self.depart(client);
        }
    }

    /// A worker is about to go.
    pub(super) fn depart_from(&mut self, link: usize) {
        for exchange in self.exchanges.of_link(link) {
            if let Some(client) = self.client_of(exchange) {
                self.depart(client);
            }
        }
    }

    fn client_of(&mut self, exchange: usize) -> Option<Client> {
        self.exchanges.get_mut(exchange)?.client
    }

    /// The worker of a WebSocket has died, or says no more of it: its client is told by this code. False for what is none.
    pub(super) fn orphan(&mut self, exchange: usize, code: u16, reason: &str) -> bool {
        let Some(client) = self.client_of(exchange) else { return false };
        if self.part_websocket(client).is_none() {
            return false;
        }
        self.leave(client, code, reason);
        true
    }

    /// The worker has closed: the client's answer is awaited without it.
    pub(super) fn closed_by_worker(&mut self, exchange: usize) {
        if let Some(client) = self.client_of(exchange) {
            self.part_websocket(client);
            self.speak(client);
            self.touch_client(client);
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
        let mut due = Vec::new();
        for (index, connection) in &self.connections {
            if connection.websocket.as_ref().is_some_and(|websocket| websocket.is_due(now)) {
                due.push(Client::Http1(index));
            }
            let streams = connection.streams.iter().flat_map(|streams| streams.websockets());
            let streams = streams.filter(|(_, websocket)| websocket.is_due(now));
            due.extend(streams.map(|(stream, _)| Client::Http2(index, stream)));
        }
        for (index, connection) in &self.quic_connections {
            let streams = connection.streams.iter().flat_map(|streams| streams.websockets());
            let streams = streams.filter(|(_, websocket)| websocket.is_due(now));
            due.extend(streams.map(|(stream, _)| Client::Http3(index, stream)));
        }
        for client in due {
            let listens = self.may_listen(client);
            let Some(mut site) = site(&mut self.connections, &mut self.quic_connections, client)
            else {
                continue;
            };
            let Some(engine) = site.engine() else { continue };
            if let Err(violation) = engine.handle_timeout(now, listens) {
                self.violated(client, violation);
            }
            self.speak(client);
            self.touch_client(client);
        }
    }
}

impl WebSocket {
    /// True when its engine awaits this moment.
    fn is_due(&self, now: Instant) -> bool {
        match self {
            Self::Open(engine) => engine.poll_timeout().is_some_and(|at| at <= now),
            Self::Asked(_) => false,
        }
    }
}

impl Connection {
    /// See [`Site`].
    pub(super) fn site(&mut self) -> Site<'_> {
        let talk = match self.reading {
            Reading::WebSocket(exchange) => Talk::Both(exchange),
            Reading::Parting => Talk::Parting,
            Reading::Head | Reading::Body(_) | Reading::Answering(_) | Reading::Discarding(_) => {
                Talk::Silent
            }
        };
        let has_room = self.unsent() <= limits::UNSENT_SIZE_MAX;
        let Self { websocket, output, .. } = self;
        Site { websocket, output, talk, has_room }
    }

    /// Its WebSocket was accepted.
    pub(super) fn has_websocket(&self) -> bool {
        matches!(self.websocket, Some(WebSocket::Open(_)))
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

/// Takes a 101, a message or a Close of an exchange (index, id, entry); what it says for the client goes `to` it.
pub(super) fn take<R: Respond>(
    (exchange, id, entry): (usize, u64, &mut Exchange),
    record: &FromWorker<'_>,
    to: Option<R>,
    (settings, workspace, saying): (&Settings, &mut Workspace, Saying<'_>),
) -> Result<Effect, Fault> {
    match record {
        // The connection or stream speaks WebSocket from then on.
        FromWorker::Response(response) => {
            entry.respond(response, id)?;
            entry.check_order(!response.end && response.body.is_empty(), "101", id)?;
            (entry.accepted, entry.repeatable) = (true, false);
            let (Some(client), Some(mut to)) = (entry.client, to) else { return Ok(Effect::None) };
            Ok(match switch(&mut to, exchange, response, settings, saying) {
                Ok(()) => Effect::Accepted(client),
                Err(error) => Effect::Bad { exchange, ended: false, error },
            })
        }
        FromWorker::Message(piece) => {
            entry.check_order(entry.accepted, "message", id)?;
            entry.receive(piece.cost())?;
            entry.log_bytes(piece.data.len());
            let Some(mut to) = to else { return Ok(Effect::None) };
            let said = say(&mut to.site(), piece, workspace);
            to.said(saying.now);
            Ok(match said {
                Ok(()) => Effect::Output(exchange),
                Err(error) => Effect::Unsendable { exchange, error },
            })
        }
        FromWorker::Close(close) => {
            entry.check_order(entry.accepted, "close", id)?;
            if let Some(mut to) = to {
                shut(&mut to.site(), *close, saying.now);
            }
            Ok(Effect::Closed(exchange))
        }
        _ => Err(Fault::Order { what: "message", exchange: id }),
    }
}

fn switch<R: Respond>(
    to: &mut R,
    exchange: usize,
    response: &Response<'_>,
    settings: &Settings,
    saying: Saying<'_>,
) -> Result<(), BadResponse> {
    let Some(WebSocket::Asked(upgrade)) = to.site().websocket else {
        return Err(BadResponse::Status);
    };
    let head = head_of(response);
    let ours = upgrade.accept(&head)?;
    let engine = ws::Options { deflate: upgrade.deflate(), ..settings.websocket.engine };
    to.switch(exchange, &head, &ours, saying)?;
    *to.site().websocket = Some(WebSocket::Open(Box::new(Ws::new(engine, saying.now))));
    Ok(())
}

/// Encodes a piece of a worker's message. What comes behind a Close is dropped.
fn say(
    site: &mut Site<'_>,
    piece: &Piece<'_>,
    workspace: &mut Workspace,
) -> Result<(), BadMessage> {
    let kind = if piece.is_text { Kind::Text } else { Kind::Binary };
    let piece = ws::Piece { data: piece.data, kind, more: piece.more };
    let Some(WebSocket::Open(engine)) = site.websocket else { return Ok(()) };
    match engine.encode_piece(piece, workspace, site.output) {
        Err(BadMessage::Closing) => Ok(()),
        other => other,
    }
}

/// Encodes a Close, unless there was one; one that may not be sent is the application's mistake, and becomes another.
fn shut(site: &mut Site<'_>, close: Close<'_>, now: Instant) {
    let Some(WebSocket::Open(engine)) = site.websocket else { return };
    let asked = (close.code != NO_CODE).then_some((close.code, close.reason));
    let mut closed = engine.encode_close(asked, now, site.output);
    if let Err(error @ (BadMessage::CloseCode | BadMessage::CloseReason)) = closed {
        tracing::error!("the application's close {} cannot be sent: {error}", close.code);
        closed = engine.encode_close(Some((INTERNAL_ERROR, b"")), now, site.output);
    }
    if let Err(error) = closed {
        tracing::debug!("no second Close is sent: {error}");
    }
}

/// What the edge answers to a request for a WebSocket that is none.
fn refused((status, detail, extra): (u16, &'static str, ws::Extra)) -> Verdict {
    let mut verdict = Verdict::new(status, Some(detail));
    verdict.extra.extend(extra.iter().map(|(name, value)| (*name, value.to_vec())));
    verdict
}
