//! What the shard asks of an engine whose connections carry many streams, and which engines there are.
//!
//! Invariant: nothing here decides; a method is the engine's own of the same name. Deliberately absent: how bytes or datagrams
//! get into an engine and out of it, which is the business of whoever has the socket.

use std::time::Instant;

use super::{Core, client::Client, streams::Streams};
use crate::proto::{
    answer::EdgeAnswer,
    error::{BadResponse, Refusal},
    h2::H2,
    h3::H3,
    head::{RequestHead, ResponseHead},
    stream::{Cut, Event, StreamKey},
};

/// What an engine of many streams can do; each method is the engine's own of this name.
pub(super) trait Engine: Sized {
    /// Where the shard has what belongs to a connection, as long as it serves.
    fn place(core: &mut Core, connection: usize) -> Option<&mut Option<Box<Streams<Self>>>>;
    /// How exchanges name a stream.
    fn client(connection: usize, stream: StreamKey) -> Client;

    fn poll_event(&mut self, head: &mut RequestHead, now: Instant) -> Option<Event>;
    fn poll_stream_event(&mut self, stream: StreamKey, now: Instant) -> Option<Event>;
    fn respond(
        &mut self,
        stream: StreamKey,
        head: &ResponseHead<'_>,
        date: &[u8],
        end: bool,
    ) -> Result<(), BadResponse>;
    fn body(
        &mut self,
        stream: StreamKey,
        data: &[u8],
        end: bool,
        now: Instant,
    ) -> Result<usize, BadResponse>;
    fn trailers(
        &mut self,
        stream: StreamKey,
        trailers: &ResponseHead<'_>,
    ) -> Result<(), BadResponse>;
    fn informational(
        &mut self,
        stream: StreamKey,
        head: &ResponseHead<'_>,
    ) -> Result<(), BadResponse>;
    fn go_on(&mut self, stream: StreamKey);
    fn answer(
        &mut self,
        stream: StreamKey,
        answer: &EdgeAnswer,
        date: &[u8],
    ) -> Result<(), BadResponse>;
    fn refuse(&mut self, stream: StreamKey, refusal: Refusal, date: &[u8], now: Instant);
    fn credit(&mut self, stream: StreamKey, bytes: usize, now: Instant);
    fn reset(&mut self, stream: StreamKey, why: Cut);
    fn response_waits(&self, stream: StreamKey) -> bool;
    fn hold_requests(&mut self, hold: bool);
}

/// Implements [`Engine`] by the engine's own methods; the field `$connections` of [`Core`] has the connections.
macro_rules! engine {
    ($engine:ty, $client:path, $connections:ident) => {
        impl Engine for $engine {
            fn place(
                core: &mut Core,
                connection: usize,
            ) -> Option<&mut Option<Box<Streams<Self>>>> {
                let connection = core.$connections.get_mut(connection)?;
                Some(&mut connection.streams)
            }
            fn client(connection: usize, stream: StreamKey) -> Client {
                $client(connection, stream)
            }
            fn poll_event(&mut self, head: &mut RequestHead, now: Instant) -> Option<Event> {
                self.poll_event(head, now)
            }
            fn poll_stream_event(&mut self, stream: StreamKey, now: Instant) -> Option<Event> {
                self.poll_stream_event(stream, now)
            }
            fn respond(
                &mut self,
                stream: StreamKey,
                head: &ResponseHead<'_>,
                date: &[u8],
                end: bool,
            ) -> Result<(), BadResponse> {
                self.respond(stream, head, date, end)
            }
            fn body(
                &mut self,
                stream: StreamKey,
                data: &[u8],
                end: bool,
                now: Instant,
            ) -> Result<usize, BadResponse> {
                self.body(stream, data, end, now)
            }
            fn trailers(
                &mut self,
                stream: StreamKey,
                trailers: &ResponseHead<'_>,
            ) -> Result<(), BadResponse> {
                self.trailers(stream, trailers)
            }
            fn informational(
                &mut self,
                stream: StreamKey,
                head: &ResponseHead<'_>,
            ) -> Result<(), BadResponse> {
                self.informational(stream, head)
            }
            fn go_on(&mut self, stream: StreamKey) {
                self.go_on(stream);
            }
            fn answer(
                &mut self,
                stream: StreamKey,
                answer: &EdgeAnswer,
                date: &[u8],
            ) -> Result<(), BadResponse> {
                self.answer(stream, answer, date)
            }
            fn refuse(&mut self, stream: StreamKey, refusal: Refusal, date: &[u8], now: Instant) {
                self.refuse(stream, refusal, date, now);
            }
            fn credit(&mut self, stream: StreamKey, bytes: usize, now: Instant) {
                self.credit(stream, bytes, now);
            }
            fn reset(&mut self, stream: StreamKey, why: Cut) {
                self.reset(stream, why);
            }
            fn response_waits(&self, stream: StreamKey) -> bool {
                self.response_waits(stream)
            }
            fn hold_requests(&mut self, hold: bool) {
                self.hold_requests(hold);
            }
        }
    };
}

engine!(H2, Client::Http2, connections);
engine!(H3, Client::Http3, quic_connections);
