//! HTTP/2 on a socket: how a connection comes to speak it, and how its bytes get from the socket to the engine and back.
//!
//! Invariant: the engine gives output only when all before it was taken by the kernel, so its own bound on what is unsent is
//! the connection's. A connection that closes has no streams any more. Deliberately absent: exchanges, which are
//! [`super::streams`]' business.

use super::{
    Core, HttpVersions,
    conn::{Connection, Phase},
    streams::{Access, Streams},
};
use crate::proto::h2::{H2, Preface, preface};

impl Core {
    /// Takes bytes for an HTTP/2 connection, or for one that has not said what it speaks; how many. `None`: it speaks HTTP/1.
    pub(super) fn feed(&mut self, index: usize, data: &[u8]) -> Option<usize> {
        if let Some(connection) = self.connections.get_mut(index)
            && connection.fresh
        {
            match (self.options.http, preface(data)) {
                // The rest of it is awaited like that of a head.
                (HttpVersions::Auto, Preface::Partial) => return Some(0),
                (HttpVersions::Auto, Preface::Whole) => self.begin_http2(index),
                (HttpVersions::Auto, Preface::No) | (HttpVersions::Http1, _) => {
                    connection.fresh = false;
                    return None;
                }
            }
        }
        let mut at = 0;
        loop {
            let streams = self.connections.get_mut(index).and_then(|c| c.streams.as_mut());
            let Some(streams) = streams else { return Some(data.len()) };
            let rest = data.get(at..).unwrap_or_default();
            let taken = streams.engine.handle(rest, self.clock.now);
            at += taken;
            if self.pump::<H2>(index) {
                self.postponed.push(index);
                return Some(at);
            }
            if taken == 0 {
                return Some(at);
            }
        }
    }

    /// The connection speaks HTTP/2 from its first byte on.
    pub(super) fn begin_http2(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let (direct, redirects) = (connection.origin(), connection.redirects);
        let access = Access { direct, redirects, http3: false };
        connection.fresh = false;
        connection.streams =
            Some(Box::new(Streams::new(H2::new(self.options.streams, self.clock.now), access)));
        self.touch(index);
    }

    /// What the client chose by ALPN (RFC 7301); without a choice it is HTTP/1 (RFC 9113 §3.2).
    pub(super) fn begin_agreed(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let agreed = connection.tls.as_ref().and_then(|tls| tls.session.alpn());
        match agreed {
            Some(b"h2") => self.begin_http2(index),
            _ => connection.fresh = false,
        }
    }

    /// Does what is to be done for an HTTP/2 connection before it is flushed.
    pub(super) fn attend(&mut self, index: usize, draining: bool) {
        // Also without input: there may be room for a response, or a request that was not looked at yet.
        self.resume(index);
        let now = self.clock.now;
        let Some(connection) = self.connections.get_mut(index) else { return };
        let all_read = connection.at_end && connection.input.is_empty();
        let Some(streams) = &mut connection.streams else { return };
        if draining {
            streams.leave(now);
        }
        if all_read && !streams.engine.has_news() {
            self.attend_end(index);
        }
        let Some(connection) = self.connections.get_mut(index) else { return };
        let may_send = connection.unsent() == 0;
        let Connection { streams, output, .. } = connection;
        let Some(streams) = streams else { return };
        if may_send {
            streams.engine.output(output, now);
        }
        let over = streams.engine.is_closed();
        if streams.engine.has_news() && (over || output.is_empty()) {
            self.postponed.push(index);
        } else if over && streams.len() == 0 && may_send {
            connection.begin_last_send();
        }
    }

    /// The client has sent its last byte. What it asked for is answered first.
    fn attend_end(&mut self, index: usize) {
        let streams = self.connections.get_mut(index).and_then(|c| c.streams.as_mut());
        let Some(streams) = streams else { return };
        let unfinished = streams.unfinished();
        if streams.len() == 0 && !streams.engine.is_closed() {
            streams.engine.handle_end();
        }
        for stream in unfinished {
            self.lose_stream::<H2>(index, stream);
        }
    }

    /// Looks whether clients that have sent FIN, and are owed a response, are still there: whether it was a close or a half of
    /// one shows only in what becomes of bytes that are sent to them.
    pub(super) fn probe_half_closed(&mut self) {
        let owed = self.connections.iter_mut().filter(|(_, connection)| {
            connection.at_end && connection.has_streams() && connection.sending == 0
        });
        let mut probed = Vec::new();
        for (index, connection) in owed {
            if let Some(streams) = &mut connection.streams {
                streams.engine.probe();
                probed.push(index);
            }
        }
        for index in probed {
            self.touch(index);
        }
    }

    /// Ends what an HTTP/2 client was waited for too long.
    pub(super) fn time_out(&mut self, index: usize) {
        let now = self.clock.now;
        let streams = self.connections.get_mut(index).and_then(|c| c.streams.as_mut());
        if let Some(streams) = streams {
            streams.engine.handle_timeout(now);
            self.touch(index);
        }
    }
}

impl Connection {
    /// True while HTTP/2 is spoken.
    pub(super) fn has_streams(&self) -> bool {
        self.phase == Phase::Open && self.streams.is_some()
    }

    /// True when the engine has something to do that nobody else will remind it of.
    pub(super) fn is_engine_due(&self, now: std::time::Instant) -> bool {
        self.has_streams()
            && self
                .streams
                .as_ref()
                .is_some_and(|streams| streams.engine.timeout().is_some_and(|at| at <= now))
    }
}

impl Streams<H2> {
    /// Asks the client for no more requests, once.
    fn leave(&mut self, now: std::time::Instant) {
        if !std::mem::replace(&mut self.leaving, true) {
            self.engine.graceful_goaway(now);
        }
    }
}
