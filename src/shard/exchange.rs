//! The exchanges that wait for a worker or are with one, and the books of each: who asked, who answers, how much credit is
//! out.
//!
//! Invariant: an entry that was given to a worker lives until that worker's END or ABORT (or its death), even when nobody
//! waits for the answer any more; so an id that a worker names is either here, or never was that worker's, or has ended.
//! An exchange that is taken back from a dead worker gets a new id.
//! Credit never exceeds `EXCHANGE_WINDOW` in either direction.

use std::time::Instant;

use slab::Slab;

use super::{client::Client, websocket::Debt};
use crate::{
    ipc::{
        Fault,
        message::{Cancellation, Response},
    },
    limits::EXCHANGE_WINDOW,
};

/// One request and its response.
#[derive(Debug)]
pub(super) struct Exchange {
    serial: u32,
    /// Who waits for the answer; `None` once nobody does.
    pub(super) client: Option<Client>,
    /// The link that the request was written to; `None` exactly while it is in the queue.
    pub(super) link: Option<usize>,
    /// Where its REQUEST begins in that link's ring.
    pub(super) position: u64,
    /// The request, while it is in the queue, or because its place in the ring is about to be written again.
    pub(super) request: Option<Kept>,
    /// It may be given to another worker although one took it: idempotent, whole in its REQUEST, and not repeated before.
    pub(super) repeatable: bool,
    /// Its deadline has passed; the worker has not ended it yet.
    pub(super) overdue: bool,
    /// The worker has sent its RESPONSE record.
    pub(super) responded: bool,
    /// That was a 101: what follows are messages.
    pub(super) accepted: bool,
    /// Request-body bytes that the worker has room for.
    pub(super) upload_credit: usize,
    /// Request-body bytes that are to be written to the lane; at most what was granted.
    pub(super) backlog: Vec<u8>,
    /// The request's END is still to be written, after the backlog.
    pub(super) end_due: bool,
    /// The backlog is what was not written of a piece of a message.
    pub(super) debt: Option<Debt>,
    /// The CLOSE record is still to be written, after the backlog, with this code and reason.
    pub(super) close_due: Option<Box<(u16, Vec<u8>)>>,
    /// The CANCEL record is still to be written, for this reason.
    pub(super) cancel_due: Option<Cancellation>,
    /// Response-body bytes that may be under way, and at first were.
    limit: usize,
    first_limit: usize,
    /// Those that the worker may still send.
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

/// A request as the payload of its record.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) payload: Vec<u8>,
    /// It is the whole request.
    pub(super) end: bool,
}

impl Exchange {
    /// Takes note of the response, of which there is one.
    pub(super) fn respond(&mut self, response: &Response<'_>, id: u64) -> Result<(), Fault> {
        let is_first = !std::mem::replace(&mut self.responded, true);
        self.check_order(is_first, "response", id)?;
        self.receive(response.body.len())?;
        if let Some(line) = &mut self.line {
            (line.status, line.bytes) = (response.status, response.body.len() as u64);
        }
        Ok(())
    }

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
    pub(super) fn grant(&mut self, bytes: u64) -> Result<usize, Fault> {
        let granted = usize::try_from(bytes).map_err(|_| Fault::Credit { bytes })?;
        let credit = self.upload_credit.checked_add(granted);
        let credit = credit.filter(|credit| *credit <= EXCHANGE_WINDOW);
        self.upload_credit = credit.ok_or(Fault::Credit { bytes })?;
        Ok(granted)
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

    /// Adds to what the access log says.
    pub(super) fn log_bytes(&mut self, bytes: usize) {
        if let Some(line) = &mut self.line {
            line.bytes += bytes as u64;
        }
    }

    /// True while a response's body may come.
    pub(super) fn takes_body(&self) -> bool {
        self.responded && !self.accepted
    }

    /// The credit to return now that everything received has been sent on.
    pub(super) fn credit_due(&self) -> usize {
        self.unreturned
    }

    /// True when it is worth a record: small answers are not, and half a window keeps the worker going.
    pub(super) fn is_credit_worth_it(&self) -> bool {
        self.unreturned > 0 && self.unreturned >= self.limit / 2
    }

    /// Response-body bytes that may be under way.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// The credit record gave so many bytes more than were returned.
    pub(super) fn widened(&mut self, bytes: usize) {
        self.limit += bytes;
        self.window += bytes;
    }

    /// The credit record was written.
    pub(super) fn credit_returned(&mut self, bytes: usize) {
        self.unreturned -= bytes;
        self.window += bytes;
    }

    /// True when records are waiting to be written to the lane.
    pub(super) fn has_due(&self) -> bool {
        self.cancel_due.is_some()
            || self.end_due
            || !self.backlog.is_empty()
            || self.debt.is_some()
            || self.close_due.is_some()
    }
}

/// All exchanges of a shard.
#[derive(Debug, Default)]
pub(super) struct Exchanges {
    entries: Slab<Exchange>,
    serial: u32,
}

impl Exchanges {
    /// A new exchange, whose response has this window; its index here.
    pub(super) fn insert(&mut self, client: Client, limit: usize, now: Instant) -> usize {
        let serial = self.next_serial();
        self.entries.insert(Exchange {
            serial,
            client: Some(client),
            link: None,
            position: 0,
            request: None,
            repeatable: false,
            overdue: false,
            responded: false,
            accepted: false,
            upload_credit: EXCHANGE_WINDOW,
            backlog: Vec::new(),
            end_due: false,
            debt: None,
            close_due: None,
            cancel_due: None,
            limit,
            first_limit: limit,
            window: limit,
            unreturned: 0,
            listed: false,
            started: now,
            line: None,
        })
    }

    /// Zero is never a serial, so that no id is zero.
    fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.checked_add(1).unwrap_or(1);
        self.serial
    }

    /// Parts an exchange from its worker, which is gone: it has a new id, and the books of one that was never given away.
    pub(super) fn renew(&mut self, index: usize) {
        let serial = self.next_serial();
        let Some(exchange) = self.entries.get_mut(index) else { return };
        exchange.serial = serial;
        (exchange.link, exchange.position) = (None, 0);
        exchange.responded = false;
        exchange.limit = exchange.first_limit;
        (exchange.window, exchange.unreturned) = (exchange.limit, 0);
        if let Some(line) = &mut exchange.line {
            (line.status, line.bytes) = (0, 0);
        }
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
            Some(exchange) if exchange.serial == serial && exchange.link == Some(link) => {
                Ok(Some(index))
            }
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

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &Exchange)> {
        self.entries.iter()
    }

    /// Index, id and position of the exchanges whose requests lie in this link's ring below `position` and may have to be
    /// repeated.
    pub(super) fn to_keep(&self, link: usize, position: u64) -> Vec<(usize, u64, u64)> {
        let lies_there = |exchange: &Exchange| {
            let repeatable = exchange.repeatable && exchange.client.is_some();
            repeatable && exchange.link == Some(link) && exchange.request.is_none()
        };
        let found = self.entries.iter();
        let found =
            found.filter(|(_, exchange)| lies_there(exchange) && exchange.position < position);
        found.map(|(index, exchange)| (index, self.id(index), exchange.position)).collect()
    }

    /// Indices of the exchanges that are with this link, in the order in which they were begun.
    pub(super) fn of_link(&self, link: usize) -> Vec<usize> {
        let mut found: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, exchange)| exchange.link == Some(link))
            .map(|(index, exchange)| (exchange.started, exchange.serial, index))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, _, index)| index).collect()
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
        let mut give = |connection, link| {
            let index = exchanges.insert(Client::Http1(connection), EXCHANGE_WINDOW, now);
            exchanges.get_mut(index).unwrap().link = Some(link);
            index
        };
        let (first, second) = (give(0, 1), give(1, 2));
        let id = exchanges.id(first);
        assert_eq!(exchanges.find(id, 1), Ok(Some(first)));
        assert_eq!(exchanges.find(id, 2), Err(Fault::Exchange { exchange: id }));
        assert_eq!(exchanges.find(exchanges.id(second), 2), Ok(Some(second)));
        let never = (3 << 32) | 5;
        assert_eq!(exchanges.find(never, 1), Err(Fault::Exchange { exchange: never }));
        assert_eq!(exchanges.find(7, 1), Err(Fault::Exchange { exchange: 7 }));

        exchanges.remove(first);
        assert_eq!(exchanges.find(id, 1), Ok(None), "it has ended");
        let again = exchanges.insert(Client::Http1(0), EXCHANGE_WINDOW, now);
        assert_eq!(again, first);
        assert_eq!(exchanges.find(id, 1), Ok(None), "the slot's new tenant is another exchange");
    }

    #[test]
    fn a_worker_that_sends_beyond_its_credit_is_at_fault() {
        let mut exchanges = Exchanges::default();
        let index = exchanges.insert(Client::Http1(0), EXCHANGE_WINDOW, Instant::now());
        let exchange = exchanges.get_mut(index).unwrap();
        assert_eq!(exchange.receive(EXCHANGE_WINDOW), Ok(()));
        assert_eq!(exchange.receive(1), Err(Fault::Credit { bytes: 1 }));
        exchange.credit_returned(exchange.credit_due());
        assert_eq!(exchange.receive(EXCHANGE_WINDOW), Ok(()));
    }

    #[test]
    fn an_exchange_that_was_taken_back_is_out_of_its_old_workers_reach() {
        let mut exchanges = Exchanges::default();
        let index = exchanges.insert(Client::Http1(0), EXCHANGE_WINDOW, Instant::now());
        exchanges.get_mut(index).unwrap().link = Some(1);
        let id = exchanges.id(index);
        exchanges.renew(index);
        assert_eq!(exchanges.find(id, 1), Ok(None));
        // Even if the next worker gets the link of the first.
        exchanges.get_mut(index).unwrap().link = Some(1);
        assert_eq!(exchanges.find(id, 1), Ok(None));
        assert_eq!(exchanges.find(exchanges.id(index), 1), Ok(Some(index)));
    }
}
