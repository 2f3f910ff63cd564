//! Who waits for an exchange: the whole of an HTTP/1 connection, or one stream of a connection that has many.
//!
//! Invariant: a client is named by the exchange exactly as long as it waits, and names that exchange in turn
//! ([`Connection::exchange`], [`Streams`]). What differs between the versions is decided here or behind [`Respond`], by one
//! `match`; the shard is not told elsewhere.

use std::time::Instant;

use slab::Slab;

use super::{
    Core,
    access_log::Line,
    conn::{Connection, Reading, Verdict},
    fields::{OwnFields, add_field},
    quic::QuicConnection,
    websocket::Site,
};
use crate::{
    ipc::message::{Cancellation, Response, Tls},
    proto::{
        error::BadResponse,
        forwarded::Origin,
        h2::H2,
        h3::H3,
        head::{BodyLength, ResponseHead},
        stream::StreamKey,
    },
};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// An HTTP/1 connection, which has one exchange at a time.
    Http1(usize),
    /// A stream of an HTTP/2 connection.
    Http2(usize, StreamKey),
    /// A stream of an HTTP/3 connection.
    Http3(usize, StreamKey),
}

impl Client {
    /// What is known of the client's TLS session; `None` when there is none.
    pub(super) fn tls<'a>(
        self,
        connections: &'a mut Slab<Connection>,
        quic_connections: &'a Slab<QuicConnection>,
    ) -> Option<Tls<'a>> {
        match self {
            Self::Http1(at) | Self::Http2(at, _) => {
                Some(connections.get_mut(at)?.tls.as_mut()?.about())
            }
            Self::Http3(at, _) => Some(quic_connections.get(at)?.told.as_ref()?.about()),
        }
    }
}

/// What is said with every response beside what its worker says.
#[derive(Clone, Copy)]
pub(super) struct Saying<'a> {
    pub(super) date: [u8; 29],
    pub(super) own: &'a OwnFields,
    pub(super) now: Instant,
}

/// Where a worker's response goes. All that is given is encoded, or kept until it can be.
pub(super) trait Respond {
    /// The head and the first piece of the body, which may be all of it.
    fn respond(&mut self, response: &Response<'_>, saying: Saying<'_>) -> Result<(), BadResponse>;
    /// A piece of the body, which may be the last.
    fn body(&mut self, data: &[u8], end: bool, now: Instant) -> Result<(), BadResponse>;
    /// The trailer fields, and with them the end.
    fn trail(&mut self, trailers: &ResponseHead<'_>, now: Instant) -> Result<(), BadResponse>;
    /// An informational response.
    fn inform(&mut self, head: &ResponseHead<'_>) -> Result<(), BadResponse>;
    /// The worker has room for so many more bytes of the request's body, and wants it.
    fn grant(&mut self, bytes: usize, now: Instant);

    /// The head that accepts a WebSocket: the worker's 101, and the handshake's own fields.
    fn switch(
        &mut self,
        exchange: usize,
        head: &ResponseHead<'_>,
        ours: &[(&'static str, String)],
        saying: Saying<'_>,
    ) -> Result<(), BadResponse>;
    /// Where its WebSocket is.
    fn site(&mut self) -> Site<'_>;
    /// Something was added to the output of the site.
    fn said(&mut self, now: Instant);
}

impl Respond for &mut Connection {
    fn respond(&mut self, response: &Response<'_>, saying: Saying<'_>) -> Result<(), BadResponse> {
        self.response_at = Some(self.output.len());
        let head = head_of(response);
        if exceeds(response) {
            return Err(BadResponse::BodyTooLong);
        }
        if response.end && !self.h1.request_done() {
            // The rest of the request will not be read; RFC 9112 §9.6 wants that said.
            self.h1.close_after_response();
        }
        self.h1.encode_head(&head, &saying.date, &mut self.output)?;
        for field in saying.own.of(self.tls.is_some(), false) {
            add_field(&head, field, &mut self.output);
        }
        self.h1.encode_body(response.body, &mut self.output)
    }

    fn body(&mut self, data: &[u8], _: bool, _: Instant) -> Result<(), BadResponse> {
        // Its end is encoded when the exchange ends.
        self.h1.encode_body(data, &mut self.output)
    }

    fn trail(&mut self, trailers: &ResponseHead<'_>, _: Instant) -> Result<(), BadResponse> {
        self.h1.encode_trailers(trailers, &mut self.output)
    }

    fn inform(&mut self, head: &ResponseHead<'_>) -> Result<(), BadResponse> {
        self.h1.encode_informational(head, &mut self.output)
    }

    fn grant(&mut self, _: usize, _: Instant) {
        // RFC 9110 §10.1.1: an application that refuses the body never asks for it.
        self.h1.encode_continue(&mut self.output);
    }

    fn switch(
        &mut self,
        exchange: usize,
        head: &ResponseHead<'_>,
        ours: &[(&'static str, String)],
        saying: Saying<'_>,
    ) -> Result<(), BadResponse> {
        self.h1.encode_switch(head, ours, &saying.date, &mut self.output)?;
        self.reading = Reading::WebSocket(exchange);
        Ok(())
    }

    fn site(&mut self) -> Site<'_> {
        Connection::site(self)
    }

    fn said(&mut self, _: Instant) {}
}

/// True when the first piece of the body is longer than the whole is said to be. Looked at before the head is encoded: then
/// there is still something to be said to the client.
pub(super) fn exceeds(response: &Response<'_>) -> bool {
    response.content_length.is_some_and(|length| length < response.body.len() as u64)
}

/// A worker's head, as the engines take it.
pub(super) fn head_of<'a>(response: &Response<'a>) -> ResponseHead<'a> {
    let body = match response.content_length {
        Some(0) => BodyLength::Empty,
        Some(length) => BodyLength::Known(length),
        None => BodyLength::Unknown,
    };
    ResponseHead { status: response.status, blob: response.blob, fields: response.fields, body }
}

impl Core {
    /// Notes that something is to be done for, or sent to, a client.
    pub(super) fn touch_client(&mut self, client: Client) {
        match client {
            Client::Http1(connection) | Client::Http2(connection, _) => self.touch(connection),
            Client::Http3(connection, _) => self.touch_quic(connection),
        }
    }

    /// A worker has made room for more of what a client sends.
    pub(super) fn resume_client(&mut self, client: Client) {
        match client {
            Client::Http1(connection) => self.resume(connection),
            // Its uploads are never held back: what a stream may send is what the worker has room for.
            Client::Http2(connection, stream) => {
                self.listen_stream::<H2>(connection, stream);
                self.touch(connection);
            }
            Client::Http3(connection, stream) => {
                self.listen_stream::<H3>(connection, stream);
                self.touch_quic(connection);
            }
        }
    }

    /// True when a client is served to the end of this exchange and not further.
    pub(super) fn is_leaving(&self, client: Client) -> bool {
        match client {
            Client::Http1(at) => self.connections.get(at).is_none_or(|c| c.h1.closes()),
            Client::Http2(at, _) => {
                let streams = self.connections.get(at).and_then(|c| c.streams.as_ref());
                streams.is_none_or(|streams| streams.leaving)
            }
            Client::Http3(at, _) => {
                let streams = self.quic_connections.get(at).and_then(|c| c.streams.as_ref());
                streams.is_none_or(|streams| streams.leaving)
            }
        }
    }

    /// How much wider than `limit` the window of a client's response may become.
    pub(super) fn headroom(&self, client: Client, limit: usize) -> usize {
        match client {
            Client::Http1(_) => 0,
            Client::Http2(at, _) => {
                let streams = self.connections.get(at).and_then(|c| c.streams.as_ref());
                streams.map_or(0, |streams| streams.headroom(limit))
            }
            Client::Http3(at, _) => {
                let streams = self.quic_connections.get(at).and_then(|c| c.streams.as_ref());
                streams.map_or(0, |streams| streams.headroom(limit))
            }
        }
    }

    /// The window of a client's response has become wider.
    pub(super) fn widen(&mut self, client: Client, bytes: usize) {
        match client {
            Client::Http1(_) => {}
            Client::Http2(at, stream) => {
                let streams = self.connections.get_mut(at).and_then(|c| c.streams.as_mut());
                if let Some(streams) = streams {
                    streams.widen(stream, bytes);
                }
            }
            Client::Http3(at, stream) => {
                let streams = self.quic_connections.get_mut(at).and_then(|c| c.streams.as_mut());
                if let Some(streams) = streams {
                    streams.widen(stream, bytes);
                }
            }
        }
    }

    /// True when everything that a worker has sent to a client is on its way.
    pub(super) fn has_sent_all(&self, client: Client) -> bool {
        match client {
            Client::Http1(connection) => {
                self.connections.get(connection).is_some_and(|connection| connection.unsent() == 0)
            }
            Client::Http2(connection, stream) => {
                let streams = self.connections.get(connection).and_then(|c| c.streams.as_ref());
                streams.is_some_and(|streams| streams.has_sent_all(stream))
            }
            Client::Http3(connection, stream) => {
                let connection = self.quic_connections.get(connection);
                let streams = connection.and_then(|c| c.streams.as_ref());
                streams.is_some_and(|streams| streams.has_sent_all(stream))
            }
        }
    }

    /// Takes back what was encoded of a client's response; false when some of it may be on its way.
    pub(super) fn retract(&mut self, client: Client) -> bool {
        match client {
            Client::Http1(connection) => {
                self.connections.get_mut(connection).is_some_and(Connection::retract)
            }
            // What an engine was given is not taken back.
            Client::Http2(connection, stream) => {
                let streams = self.connections.get(connection).and_then(|c| c.streams.as_ref());
                streams.is_some_and(|streams| streams.response_waits(stream))
            }
            Client::Http3(connection, stream) => {
                let connection = self.quic_connections.get(connection);
                let streams = connection.and_then(|c| c.streams.as_ref());
                streams.is_some_and(|streams| streams.response_waits(stream))
            }
        }
    }

    /// Answers a client in its worker's place, or ends its connection or stream when a part of the worker's response is out
    /// already. The exchange is nobody's from then on. False when it was before.
    pub(super) fn answer_instead(&mut self, index: usize, verdict: &Verdict) -> bool {
        let client = self.exchanges.get_mut(index).and_then(|entry| entry.client.take());
        let Some(client) = client else { return false };
        let clear = self.retract(client);
        let date = self.clock.date();
        if let Some(entry) = self.exchanges.get_mut(index)
            && let Some(mut line) = entry.line.take()
        {
            if clear {
                (line.status, line.bytes) = (verdict.status, 0);
            }
            let took = self.clock.now.duration_since(entry.started);
            self.access_log.write(&line, &date, took);
        }
        match client {
            Client::Http1(at) if clear => self.answer_plainly(at, verdict),
            Client::Http1(at) => {
                // What is encoded is sent: an earlier answer may be waiting before this one, and that one is whole.
                if let Some(connection) = self.connections.get_mut(at) {
                    connection.begin_last_send();
                }
                self.touch(at);
            }
            Client::Http2(at, stream) => {
                let streams = self.connections.get_mut(at).and_then(|c| c.streams.as_mut());
                if let Some(streams) = streams {
                    streams.answer(stream, verdict, &self.own_fields, &date);
                }
                self.touch(at);
            }
            Client::Http3(at, stream) => {
                let streams = self.quic_connections.get_mut(at).and_then(|c| c.streams.as_mut());
                if let Some(streams) = streams {
                    streams.answer(stream, verdict, &self.own_fields, &date);
                }
                self.touch_quic(at);
            }
        }
        true
    }

    /// Encodes an answer of the edge's own for an HTTP/1 connection.
    pub(super) fn answer_plainly(&mut self, index: usize, verdict: &Verdict) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let mut fields = verdict.fields();
        fields.extend(self.own_fields.of(connection.tls.is_some(), false));
        let (status, detail, out) = (verdict.status, verdict.detail, &mut connection.output);
        let next = connection.h1.edge_answer(status, detail, &fields, &self.clock.date(), out);
        self.response_ended(index, next);
    }

    /// Parts an exchange from its client: it is nobody's from then on. `status` is what the access log says if no response
    /// had begun.
    pub(super) fn part_exchange(&mut self, exchange: usize, status: u16) {
        let Some(entry) = self.exchanges.get_mut(exchange) else { return };
        entry.client = None;
        if let Some(mut line) = entry.line.take() {
            if !entry.responded {
                line.status = status;
            }
            let took = self.clock.now.duration_since(entry.started);
            self.access_log.write(&line, &self.clock.date(), took);
        }
    }

    /// Nobody waits for an exchange any more: its client has gone, or breaks the protocol, or the server ends.
    pub(super) fn abandon_exchange(&mut self, exchange: usize, why: Cancellation, status: u16) {
        self.part_exchange(exchange, status);
        self.tally.abandoned += u64::from(why == Cancellation::ClientGone);
        self.cancel(exchange, why);
    }

    /// The access log's line for the request in `head`, if there is to be one.
    pub(super) fn line(&self, direct: Origin) -> Option<Box<Line>> {
        self.options.access_log.then(|| {
            let origin = self.trusted.origin(&self.head, direct);
            Box::new(Line::new(origin.peer, &self.head))
        })
    }
}
