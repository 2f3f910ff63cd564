//! Which engines of many streams there are, and where the shard has their connections.
//!
//! Invariant: nothing here decides. Deliberately absent: how bytes or datagrams get into an engine and out of it, which is the
//! business of whoever has the socket.

use super::{Core, client::Client, streams::Streams};
use crate::proto::{
    h2::H2,
    h3::H3,
    stream::{Requests, Responses, StreamKey},
};

/// An engine of many streams.
pub(super) trait Engine: Requests + Responses + Sized {
    /// Where the shard has what belongs to a connection, as long as it serves.
    fn place(core: &mut Core, connection: usize) -> Option<&mut Option<Box<Streams<Self>>>>;
    /// How exchanges name a stream.
    fn client(connection: usize, stream: StreamKey) -> Client;
}

impl Engine for H2 {
    fn place(core: &mut Core, connection: usize) -> Option<&mut Option<Box<Streams<Self>>>> {
        core.connections.get_mut(connection).map(|connection| &mut connection.streams)
    }

    fn client(connection: usize, stream: StreamKey) -> Client {
        Client::Http2(connection, stream)
    }
}

impl Engine for H3 {
    fn place(core: &mut Core, connection: usize) -> Option<&mut Option<Box<Streams<Self>>>> {
        core.quic_connections.get_mut(connection).map(|connection| &mut connection.streams)
    }

    fn client(connection: usize, stream: StreamKey) -> Client {
        Client::Http3(connection, stream)
    }
}
