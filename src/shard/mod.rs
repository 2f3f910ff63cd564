//! One thread, one uring, its own connections: the only place where the layers meet.
//!
//! A turn: submit and wait → take completions → serve what arrived → publish to the workers → read what they
//! answered → queue the sends. Invariant: `Core` decides and never touches the driver; `Shard` performs and decides nothing;
//! a connection whose state changed is on the dirty list and is flushed before the shard sleeps.

mod accept;
mod access_log;
mod answer;
mod client;
mod clock;
mod conn;
mod deadlines;
mod engine;
mod exchange;
mod fields;
mod h2;
pub mod handle;
mod links;
mod paths;
#[cfg(test)]
pub(crate) mod probe;
mod queue;
mod quic;
mod rescue;
mod serve;
mod spin;
mod streams;
mod tally;
#[cfg(test)]
mod tests;
mod tls;
mod turn;
mod udp;
mod watch;
mod websocket;

use std::sync::Arc;

use slab::Slab;

pub use handle::{
    Command, Gauges, Handle, HttpVersions, Limits, Listener, ListenerKind, Mailbox, Neighbour,
    Options, QuicOptions, Report, TlsOptions,
};
pub use turn::run;
pub use websocket::WebSocketOptions;

use crate::{
    limits,
    proto::{forwarded::Trusted, head::RequestHead, route::Routes, ws::Workspace},
    span::Span,
};
use access_log::AccessLog;
use clock::Clock;
use conn::Connection;
use exchange::Exchanges;
use fields::OwnFields;
use links::Links;
use queue::Queue;
use quic::{Quic, QuicConnection};
use tally::Tally;
use tls::Secure;

/// Everything that a shard knows; nothing that it has in the kernel.
#[derive(Debug)]
struct Core {
    options: Settings,
    clock: Clock,
    connections: Slab<Connection>,
    /// Those of HTTP/3.
    quic_connections: Slab<QuicConnection>,
    /// `None` without HTTP/3.
    quic: Option<Box<Quic>>,
    exchanges: Exchanges,
    links: Links,
    routes: Option<Arc<Routes>>,
    access_log: AccessLog,
    reports: tokio::sync::mpsc::UnboundedSender<Report>,
    /// Connections whose state changed since they were flushed; each at most once.
    dirty: Vec<usize>,
    /// Connections that are to be flushed again in the next turn, so that others get theirs.
    postponed: Vec<usize>,
    /// Exchanges with records that found no room; each at most once.
    owing: Vec<usize>,
    /// Exchanges that wait for a worker.
    queue: Queue,
    secure: Secure,
    own_fields: OwnFields,
    /// Proxies that speak for their clients.
    trusted: Trusted,
    tally: Tally,
    /// What the gauges say.
    told: Tally,
    gauges: Arc<Gauges>,
    spare: Spare,
    /// True exactly while lanes may hold a wish for a kick.
    armed: bool,
    /// Kicks sent to workers.
    kicks: u64,
    /// The head under way, and its path parameters: kept for their buffers.
    head: RequestHead,
    params: Vec<Span>,
    /// Scratch memory of all WebSockets.
    workspace: Workspace,
}

/// The part of [`Options`] that is looked at while serving.
#[derive(Clone, Copy, Debug)]
struct Settings {
    http: HttpVersions,
    h1: crate::proto::h1::Options,
    streams: crate::proto::stream::Options,
    access_log: bool,
    limits: Limits,
    websocket: WebSocketOptions,
}

impl Core {
    /// Puts a connection on the dirty list.
    fn touch(&mut self, index: usize) {
        if let Some(connection) = self.connections.get_mut(index)
            && !std::mem::replace(&mut connection.dirty, true)
        {
            self.dirty.push(index);
        }
    }

    /// Puts an exchange on the list of those that owe their worker something.
    fn list(&mut self, index: usize) {
        if let Some(exchange) = self.exchanges.get_mut(index)
            && !std::mem::replace(&mut exchange.listed, true)
        {
            self.owing.push(index);
        }
    }

    /// Tries again to write what found no room; requests first, or uploads would take all the room that there is.
    fn settle_debts(&mut self) {
        self.dispatch_queued();
        self.links.want(!self.queue.is_empty());
        let mut owing = std::mem::take(&mut self.owing);
        // Some may be a former tenant's: of those with one index only the first counts.
        owing.retain(|index| {
            let exchange = self.exchanges.get_mut(*index);
            exchange.is_some_and(|exchange| std::mem::take(&mut exchange.listed))
        });
        for index in owing {
            let Some(exchange) = self.exchanges.get_mut(index) else { continue };
            let client = exchange.client;
            self.settle(index);
            if let Some(client) = client {
                if self.has_sent_all(client) {
                    self.return_credit(index);
                }
                // An empty backlog lets the upload go on.
                self.resume_client(client);
            }
        }
    }

    /// Makes everything written to the lanes visible, and kicks who sleeps.
    fn publish_lanes(&mut self) {
        for (index, slot) in self.links.iter_mut() {
            if std::mem::take(&mut slot.touched) && slot.usable() {
                slot.keep_repeatable(index, &mut self.exchanges);
                match slot.lane.publish() {
                    Ok(kicked) => self.kicks += u64::from(kicked),
                    Err(fault) => slot.fault = Some(fault),
                }
            }
        }
    }

    /// Asks every lane for a kick; true when there is something to do instead of sleeping.
    fn arm_lanes(&mut self) -> bool {
        let mut work = false;
        self.armed = true;
        for (_, slot) in self.links.iter_mut() {
            if slot.usable() {
                match slot.lane.arm() {
                    Ok(found) => work |= found,
                    Err(fault) => slot.fault = Some(fault),
                }
            }
            // Found at fault since links were reaped last.
            work |= !slot.usable();
        }
        work
    }

    /// Awake again: nobody needs to kick. A store that the workers read, so only after a real wish.
    fn disarm_lanes(&mut self) {
        if !std::mem::take(&mut self.armed) {
            return;
        }
        for (_, slot) in self.links.iter_mut() {
            slot.lane.disarm();
        }
    }

    fn report(&self, report: Report) {
        if self.reports.send(report).is_err() {
            tracing::debug!("nobody listens to this shard any more");
        }
    }
}

/// Buffers for reuse.
#[derive(Debug, Default)]
struct Spare {
    buffers: Vec<Vec<u8>>,
}

impl Spare {
    fn take(&mut self) -> Vec<u8> {
        self.buffers.pop().unwrap_or_default()
    }

    /// Keeps a buffer unless it has grown large or there are enough.
    fn give(&mut self, mut buffer: Vec<u8>) {
        let worth = (1..=limits::SPARE_BUFFER_SIZE_MAX).contains(&buffer.capacity());
        if worth && self.buffers.len() < limits::SPARE_BUFFERS_MAX {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }
}
