//! The exchanges that are with a worker, and the books of each: who asked, who answers, how much credit is out.
//!
//! Invariant: an entry lives from the REQUEST record to the worker's END or ABORT (or its death), even when nobody waits
//! for the answer any more; so an id that a worker names is either here, or never was that worker's, or has ended.
//! Credit never exceeds `EXCHANGE_WINDOW` in either direction.

use std::time::Instant;

use slab::Slab;

use crate::{ipc::Fault, limits::EXCHANGE_WINDOW};

/// One request and its response.
#[derive(Debug)]
pub(super) struct Exchange {
    serial: u32,
    /// The connection that waits for the answer; `None` once it went away.
    pub(super) connection: Option<usize>,
    /// The link that the request was written to.
    pub(super) link: usize,
    /// The worker has sent its RESPONSE record.
    pub(super) responded: bool,
    /// The response's head was encoded for the client.
    pub(super) answered: bool,
    /// Request-body bytes that the worker has room for.
    pub(super) upload_credit: usize,
    /// Request-body bytes that found no room in the lane; at most one feed of the engine.
    pub(super) backlog: Vec<u8>,
    /// The request's END is still to be written, after the backlog.
    pub(super) end_due: bool,
    /// The CANCEL record is still to be written.
    pub(super) cancel_due: bool,
    /// Response-body bytes that the worker may still send.
    window: usize,
    /// Response-body bytes that arrived and for which no credit was returned yet.
    unreturned: usize,
    /// True exactly while the exchange is on the shard's list of exchanges with records to write.
    pub(super) listed: bool,
    /// When the request's head was complete.
    pub(super) started: Instant,
    /// For the access log.
    pub(super) line: Option<Box<super::access_log::Line>>,
}

impl Exchange {
    /// Counts response-body bytes that the worker sent.
    pub(super) fn receive(&mut self, bytes: usize) -> Result<(), Fault> {
        let Some(window) = self.window.checked_sub(bytes) else {
            return Err(Fault::Credit { bytes: (bytes - self.window) as u64 });
        };
        self.window = window;
        self.unreturned += bytes;
        Ok(())
    }

    /// Takes the worker's word that it has room for more of the request's body.
    pub(super) fn grant(&mut self, bytes: u64) -> Result<(), Fault> {
        let grant = usize::try_from(bytes).ok();
        let credit = grant.and_then(|grant| self.upload_credit.checked_add(grant));
        match credit.filter(|credit| *credit <= EXCHANGE_WINDOW) {
            Some(credit) => self.upload_credit = credit,
            None => return Err(Fault::Credit { bytes }),
        }
        Ok(())
    }

    /// A record that came where none of its kind may come is the worker's fault.
    pub(super) fn check_order(
        &self,
        in_order: bool,
        what: &'static str,
        exchange: u64,
    ) -> Result<(), Fault> {
        if in_order { Ok(()) } else { Err(Fault::Order { what, exchange }) }
    }

    /// The credit to return now that everything received has been sent on.
    pub(super) fn credit_due(&self) -> usize {
        self.unreturned
    }

    /// The credit record was written.
    pub(super) fn credit_returned(&mut self, bytes: usize) {
        self.unreturned -= bytes;
        self.window += bytes;
    }

    /// True when records are waiting to be written to the lane.
    pub(super) fn has_due(&self) -> bool {
        self.cancel_due || self.end_due || !self.backlog.is_empty()
    }
}

/// All exchanges of a shard.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    entries: Slab<Exchange>,
    serial: u32,
    count: u64,
}

impl Exchanges {
    /// A new exchange; its index here.
    pub(super) fn insert(&mut self, connection: usize, link: usize, now: Instant) -> usize {
        // Zero is never a serial, so that no id is zero.
        self.serial = self.serial.checked_add(1).unwrap_or(1);
        self.count += 1;
        self.entries.insert(Exchange {
            serial: self.serial,
            connection: Some(connection),
            link,
            responded: false,
            answered: false,
            upload_credit: EXCHANGE_WINDOW,
            backlog: Vec::new(),
            end_due: false,
            cancel_due: false,
            window: EXCHANGE_WINDOW,
            unreturned: 0,
            listed: false,
            started: now,
            line: None,
        })
    }

    /// The id that travels in the records: serial, then index.
    pub(super) fn id(&self, index: usize) -> u64 {
        let serial = self.entries.get(index).map_or(0, |exchange| exchange.serial);
        (u64::from(serial) << 32) | index as u64
    }

    /// The index behind an id that came from the worker on `link`. `None`: the exchange has ended.
    pub(super) fn find(&self, id: u64, link: usize) -> Result<Option<usize>, Fault> {
        let serial = u32::try_from(id >> 32).unwrap_or_default();
        let index = usize::try_from(id & u64::from(u32::MAX)).unwrap_or(usize::MAX);
        match self.entries.get(index) {
            Some(exchange) if exchange.serial == serial && exchange.link == link => Ok(Some(index)),
            Some(exchange) if exchange.serial == serial => Err(Fault::Exchange { exchange: id }),
            // Serials are given out in order: one from the future was never given out.
            _ if serial == 0 || serial.wrapping_sub(self.serial).wrapping_sub(1) < u32::MAX / 2 => {
                Err(Fault::Exchange { exchange: id })
            }
            _ => Ok(None),
        }
    }

    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Exchange> {
        self.entries.get_mut(index)
    }

    pub(super) fn remove(&mut self, index: usize) -> Option<Exchange> {
        self.entries.try_remove(index)
    }

    /// Exchanges that were ever begun.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Indices of the exchanges that are with this link.
    pub(super) fn of_link(&self, link: usize) -> Vec<usize> {
        self.entries
            .iter()
            .filter(|(_, exchange)| exchange.link == link)
            .map(|(index, _)| index)
            .collect()
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test has no shard to give it the time")]
mod tests {
    use super::*;

    #[test]
    fn a_worker_can_name_only_its_own_exchanges() {
        let mut exchanges = Exchanges::default();
        let now = Instant::now();
        let (first, second) = (exchanges.insert(0, 1, now), exchanges.insert(1, 2, now));
        let id = exchanges.id(first);
        assert_eq!(exchanges.find(id, 1), Ok(Some(first)));
        assert_eq!(exchanges.find(id, 2), Err(Fault::Exchange { exchange: id }));
        assert_eq!(exchanges.find(exchanges.id(second), 2), Ok(Some(second)));
        let never = (3 << 32) | 5;
        assert_eq!(exchanges.find(never, 1), Err(Fault::Exchange { exchange: never }));
        assert_eq!(exchanges.find(7, 1), Err(Fault::Exchange { exchange: 7 }));

        exchanges.remove(first);
        assert_eq!(exchanges.find(id, 1), Ok(None), "it has ended");
        let again = exchanges.insert(0, 1, now);
        assert_eq!(again, first);
        assert_eq!(exchanges.find(id, 1), Ok(None), "the slot's new tenant is another exchange");
    }

    #[test]
    fn a_worker_that_sends_beyond_its_credit_is_at_fault() {
        let mut exchanges = Exchanges::default();
        let index = exchanges.insert(0, 0, Instant::now());
        let exchange = exchanges.get_mut(index).unwrap();
        assert_eq!(exchange.receive(EXCHANGE_WINDOW), Ok(()));
        assert_eq!(exchange.receive(1), Err(Fault::Credit { bytes: 1 }));
        exchange.credit_returned(exchange.credit_due());
        assert_eq!(exchange.receive(EXCHANGE_WINDOW), Ok(()));
    }
}
