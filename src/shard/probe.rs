//! The shard as the simulation sees it: made on any driver, turned by hand, counted from outside.
//!
//! Invariant: looks and never touches. The only door for tests outside of this module, so that what is inside can change.

use std::{collections::BTreeMap, io};

use super::{Mailbox, Options, client::Client, turn::Shard};
use crate::{limits::EXCHANGE_WINDOW, uring::Driver};

/// See the module.
pub(crate) struct Probe<D>(Shard<D>);

/// The numbers of one moment.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    pub(crate) connections: usize,
    pub(crate) exchanges: usize,
    /// Requests that wait for a worker.
    pub(crate) queued: usize,
    /// Connections whose state changed since they were flushed.
    pub(crate) dirty: usize,
    /// The most that one connection has received and not consumed.
    pub(crate) input_max: usize,
    /// The most that one connection has to send.
    pub(crate) output_max: usize,
    /// The most that one exchange has for its worker and found no room for.
    pub(crate) backlog_max: usize,
    pub(crate) links: Vec<LinkAudit>,
}

/// What the shard holds of one worker.
#[derive(Debug)]
pub(crate) struct LinkAudit {
    pub(crate) who: (u16, u32),
    pub(crate) exchanges: usize,
    pub(crate) leased_chunks: usize,
}

impl<D: Driver> Probe<D> {
    pub(crate) fn new(driver: D, options: Options, mailbox: Mailbox) -> Self {
        let mut shard = Shard::new(driver, options, mailbox);
        shard.begin();
        Self(shard)
    }

    pub(crate) fn driver(&mut self) -> &mut D {
        &mut self.0.driver
    }

    /// One turn; false when the shard has drained.
    pub(crate) fn turn(&mut self) -> io::Result<bool> {
        self.0.turn()
    }

    /// Counts; an error names two books that contradict each other.
    pub(crate) fn audit(&mut self) -> Result<Audit, String> {
        let core = &mut self.0.core;
        let mut audit = Audit {
            connections: core.connections.len(),
            exchanges: core.exchanges.len(),
            queued: core.queue.len(),
            dirty: core.dirty.len(),
            ..Audit::default()
        };
        let mut owners = BTreeMap::new();
        for (index, connection) in &core.connections {
            audit.input_max = audit.input_max.max(connection.input.len());
            audit.output_max = audit.output_max.max(connection.unsent());
            let unsent = connection.streams.as_ref().map(|streams| streams.unsent_max());
            audit.output_max = audit.output_max.max(unsent.unwrap_or_default());
            let own = connection.exchange().map(|exchange| (exchange, Client::Http1(index)));
            let streams = connection.streams.iter().flat_map(|streams| streams.exchanges());
            let streams = streams.map(|(key, exchange)| (exchange, Client::Http2(index, key)));
            for (exchange, client) in own.into_iter().chain(streams) {
                if let Some(other) = owners.insert(exchange, client) {
                    return Err(format!("{other:?} and {client:?} share exchange {exchange}"));
                }
            }
        }
        for (index, connection) in &core.quic_connections {
            let streams = connection.streams.iter().flat_map(|streams| streams.exchanges());
            for (key, exchange) in streams {
                let client = Client::Http3(index, key);
                if let Some(other) = owners.insert(exchange, client) {
                    return Err(format!("{other:?} and {client:?} share exchange {exchange}"));
                }
            }
        }
        let links: Vec<_> = core
            .links
            .iter_mut()
            .map(|(index, slot)| {
                let who = (slot.worker.0, slot.incarnation.0);
                (index, who, slot.lane.leased_chunks())
            })
            .collect();
        let mut with_workers = 0;
        for (link, who, leased_chunks) in links {
            let exchanges = core.exchanges.of_link(link).len();
            with_workers += exchanges;
            audit.links.push(LinkAudit { who, exchanges, leased_chunks });
        }
        for (index, exchange) in core.exchanges.iter() {
            audit.backlog_max = audit.backlog_max.max(exchange.backlog.len());
            if exchange.upload_credit > EXCHANGE_WINDOW || exchange.credit_due() > EXCHANGE_WINDOW {
                return Err(format!("exchange {index} has more credit than there is"));
            }
            if exchange.link.is_none() && exchange.client.is_none() {
                return Err(format!("exchange {index} waits for a worker, and nobody for it"));
            }
            if exchange.client != owners.remove(&index) {
                return Err(format!("exchange {index} and its connection disagree"));
            }
        }
        if let Some((exchange, client)) = owners.pop_first() {
            return Err(format!("{client:?} waits for exchange {exchange}, which is not there"));
        }
        let all = core.exchanges.len();
        if with_workers + audit.queued != all {
            return Err(format!(
                "{all} exchanges, {with_workers} with workers, {} in the queue",
                audit.queued
            ));
        }
        Ok(audit)
    }
}
