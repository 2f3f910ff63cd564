//! What becomes of the exchanges of a worker that has died or broken the lane's protocol.
//!
//! Invariant: a request that its worker took is given to another one only if its method is idempotent, no byte of a
//! response was submitted, and that has not been done before. One that was not taken was never begun, whatever its method: it
//! is given to another worker with as much of its body as had been written. An exchange that is taken back has a new id.

use super::{
    Core,
    exchange::Kept,
    links::{Service, Slot},
    serve::bad_gateway,
    websocket::{INTERNAL_ERROR, SERVICE_RESTART},
};
use crate::{ipc::message::Request, limits, shard::Report};

impl Core {
    /// The worker's process has ended: what it had published still counts.
    pub(super) fn worker_died(&mut self, link: usize, generation: u32) {
        if self.links.get_mut(link).is_none_or(|slot| slot.generation != generation) {
            return;
        }
        // A child of the worker may have inherited its segment and go on writing: no more than a ring can hold.
        for _ in 0..limits::RING_SIZE / limits::RECORD_ALIGN {
            if !self.read_record(link) {
                break;
            }
        }
        if let Some(slot) = self.links.get_mut(link) {
            slot.dead = true;
        }
    }

    /// Takes out the links whose worker is dead or at fault. Their exchanges wait for another worker, or end.
    pub(super) fn reap_links(&mut self) -> Vec<Slot> {
        let lost = self.links.iter_mut().filter(|(_, slot)| !slot.usable());
        let lost: Vec<usize> = lost.map(|(index, _)| index).collect();
        let mut slots = Vec::new();
        for index in lost {
            let orphans = self.exchanges.of_link(index);
            let Some(mut slot) = self.links.remove(index) else { continue };
            let mut rescued = Vec::new();
            for exchange in orphans {
                slot.end();
                let saved = self.rescue(exchange, &mut slot);
                if let Some(entry) = self.exchanges.get_mut(exchange) {
                    entry.link = None;
                }
                if saved {
                    rescued.push(exchange);
                } else {
                    self.orphan(exchange, SERVICE_RESTART, "Service Restart");
                    self.fail_exchange(exchange);
                }
            }
            self.tally.redispatched += rescued.len() as u64;
            for exchange in rescued.into_iter().rev() {
                self.queue.push_front(exchange, self.clock.now);
            }
            if let Some(fault) = slot.fault {
                let Slot { worker, incarnation, .. } = slot;
                self.report(Report::Faulty { worker, incarnation, fault });
            }
            slots.push(slot);
        }
        slots
    }

    /// Makes an exchange ready for another worker; false when it has to end.
    fn rescue(&mut self, index: usize, slot: &mut Slot) -> bool {
        let id = self.exchanges.id(index);
        let Some(entry) = self.exchanges.get_mut(index) else { return false };
        let Some(client) = entry.client.filter(|_| !entry.accepted) else { return false };
        // A worker at fault may be alive, and take what it has not taken yet.
        let alive = !slot.dead || slot.fault.is_some();
        let taken = alive
            || entry.responded
            || slot.lane.taken().map_or(true, |taken| taken > entry.position);
        if taken && !(self.options.limits.repeat && entry.repeatable) {
            return false;
        }
        let request = entry.request.take().or_else(|| {
            let (payload, end) = slot.lane.recall_request(entry.position, id)?;
            Some(Kept { payload, end })
        });
        let Some(request) = request else { return false };
        if !request.end {
            let Some((mut body, ended)) = slot.lane.recall_body(entry.position, id) else {
                return false;
            };
            let inline = Request::parse(&request.payload, false).map_or(0, |head| head.body.len());
            // Nobody took a byte, so nobody can have granted more.
            let granted = inline + body.len() + entry.backlog.len() + entry.upload_credit;
            if granted != limits::EXCHANGE_WINDOW {
                return false;
            }
            body.append(&mut entry.backlog);
            entry.backlog = body;
            entry.end_due |= ended;
        }
        if !self.retract(client) {
            return false;
        }
        if let Some(entry) = self.exchanges.get_mut(index) {
            entry.request = Some(request);
            entry.repeatable &= !taken;
        }
        self.exchanges.renew(index);
        true
    }

    /// The worker will say no more of this exchange, and what it said is not a whole response.
    pub(super) fn fail_exchange(&mut self, index: usize) {
        self.fail_client(index);
        self.forget(index);
    }

    /// Gives the client what is left to give when its exchange cannot be completed: 502, or the end of the connection
    /// when a part of the response is out already.
    pub(super) fn fail_client(&mut self, index: usize) {
        let told = self.orphan(index, INTERNAL_ERROR, "Internal Error");
        if told || self.answer_instead(index, &bad_gateway()) {
            self.tally.failed += 1;
        }
    }

    /// Tells of the retired workers that have nothing in flight any more.
    pub(super) fn report_retired(&mut self, shard: usize) {
        let done = |slot: &Slot| slot.service == Service::Retiring && slot.in_flight == 0;
        for (_, slot) in self.links.iter_mut().filter(|(_, slot)| done(slot)) {
            slot.service = Service::Retired;
            let Slot { worker, incarnation, .. } = *slot;
            if self.reports.send(Report::Retired { shard, worker, incarnation }).is_err() {
                tracing::debug!("nobody listens to this shard any more");
            }
        }
    }
}
