//! Requests that wait for a worker: because all have as many as they may, because there is no room in their rings, or
//! because there is none.
//!
//! Invariant: first come, first served: while somebody waits nobody is dispatched past him. What waits is routed when
//! it is dispatched, so that it never meets the routes of another generation than its worker's. Deliberately absent: time; the
//! sweep says when somebody has waited too long.

use std::{collections::VecDeque, time::Instant};

use super::{
    Core, Settings,
    client::Client,
    conn::{Reading, Verdict},
    exchange::{Exchanges, Kept},
    links::Links,
    serve::{unavailable, verdict_of},
};
use crate::{
    ipc::message::Request,
    limits::REPEATABLE_SIZE_MAX,
    proto::{
        head::Method,
        route::{Found, Routes},
    },
    span::Span,
};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Exchanges, and since when they wait.
    entries: VecDeque<(usize, Instant)>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Gives a new request to a worker, or a place in the queue; false when there is neither.
    pub(super) fn admit(
        &mut self,
        links: &mut Links,
        exchanges: &mut Exchanges,
        options: &Settings,
        (exchange, now): (usize, Instant),
        request: &Request<'_>,
    ) -> bool {
        if self.is_empty() && place(links, exchanges, options, exchange, request) {
            return true;
        }
        if self.len() >= options.limits.queue_max {
            return false;
        }
        if let Some(entry) = exchanges.get_mut(exchange) {
            entry.request = Some(Kept { payload: request.to_payload(), end: request.end });
            self.entries.push_back((exchange, now));
        }
        true
    }

    /// Before all others: it was dispatched once already.
    pub(super) fn push_front(&mut self, exchange: usize, now: Instant) {
        self.entries.push_front((exchange, now));
    }

    fn front(&self) -> Option<usize> {
        self.entries.front().map(|(exchange, _)| *exchange)
    }

    fn pop_front(&mut self) {
        self.entries.pop_front();
    }

    /// It waits no longer.
    pub(super) fn remove(&mut self, exchange: usize) {
        self.entries.retain(|(other, _)| *other != exchange);
    }

    /// Those that wait since then or longer.
    pub(super) fn since(&self, then: Instant) -> Vec<usize> {
        let long = self.entries.iter().filter(|(_, since)| *since <= then);
        long.map(|(exchange, _)| *exchange).collect()
    }
}

/// What came of an attempt to dispatch.
enum Attempt {
    Dispatched,
    NoRoom,
    /// The routes of today have no worker for it.
    Answered(Verdict),
}

impl Core {
    /// Dispatches what waits, in order, as far as there is room.
    pub(super) fn dispatch_queued(&mut self) {
        while let Some(exchange) = self.queue.front() {
            if !self.links.have_capacity(&self.options.limits) {
                return;
            }
            let Some(routes) = self.routes.clone() else { return };
            let Some(kept) = self.exchanges.get_mut(exchange).and_then(|e| e.request.take()) else {
                debug_assert!(false, "what waits has its request with it");
                return self.queue.pop_front();
            };
            let attempt = self.attempt(exchange, &kept, &routes);
            if let Some(entry) = self.exchanges.get_mut(exchange) {
                let small = kept.payload.len() <= REPEATABLE_SIZE_MAX;
                let keep = entry.link.is_none() || (entry.repeatable && small);
                entry.request = keep.then_some(kept);
            }
            match attempt {
                Attempt::NoRoom => return,
                Attempt::Dispatched => {
                    self.queue.pop_front();
                    // What was received of its body meanwhile.
                    self.settle(exchange);
                    let client = self.exchanges.get_mut(exchange).and_then(|e| e.client);
                    if let Some(Client::Http1(connection)) = client
                        && self.connections.get(connection).is_some_and(|connection| {
                            matches!(connection.reading, Reading::Body(_))
                        })
                    {
                        self.resume(connection);
                    }
                }
                Attempt::Answered(verdict) => {
                    self.answer_instead(exchange, &verdict);
                    self.forget(exchange);
                }
            }
        }
    }

    fn attempt(&mut self, exchange: usize, kept: &Kept, routes: &Routes) -> Attempt {
        let request = Request::parse(&kept.payload, kept.end);
        let method = request.as_ref().and_then(|request| Method::from_number(request.method));
        let (Some(request), Some(method)) = (request, method) else {
            debug_assert!(false, "the edge wrote it");
            return Attempt::Answered(unavailable());
        };
        let bytes = |span: Span| span.of(request.blob).unwrap_or_default();
        let mut params = std::mem::take(&mut self.params);
        params.clear();
        let path = bytes(request.path);
        let found = if request.websocket {
            let found = routes.find_websocket(path, &mut params);
            found.map_or(Found::NotFound, |id| Found::Route { id })
        } else {
            routes.find(method, bytes(request.method_name), path, &mut params)
        };
        let attempt = match verdict_of(&found, bytes(request.raw_path), bytes(request.query)) {
            Err(verdict) => Attempt::Answered(verdict),
            Ok(route) => {
                shift(&mut params, request.path);
                let request = Request { route, params: &params, ..request };
                let Self { links, exchanges, options, .. } = self;
                if place(links, exchanges, options, exchange, &request) {
                    Attempt::Dispatched
                } else {
                    Attempt::NoRoom
                }
            }
        };
        self.params = params;
        attempt
    }

    /// True when what waits may be let in by the end of an exchange of another shard, of which this one does not hear.
    pub(super) fn waits_for_others(&self) -> bool {
        !self.queue.is_empty() && self.links.are_full_of_others(&self.options.limits)
    }

    /// Answers 503 to those that have waited too long.
    pub(super) fn expire_queue(&mut self) {
        let Some(then) = self.clock.now.checked_sub(self.options.limits.queue_timeout) else {
            return;
        };
        for exchange in self.queue.since(then) {
            self.tally.shed += 1;
            self.answer_instead(exchange, &unavailable());
            self.forget(exchange);
        }
    }
}

/// Routing gives parameters relative to the path; records hold them relative to the blob.
pub(super) fn shift(params: &mut [Span], path: Span) {
    for param in params {
        *param = Span::new(path.start() + param.start(), param.len()).unwrap_or_default();
    }
}

/// Writes the request to the least loaded worker that may have one more and has room; false when none has.
fn place(
    links: &mut Links,
    exchanges: &mut Exchanges,
    options: &Settings,
    exchange: usize,
    request: &Request<'_>,
) -> bool {
    let id = exchanges.id(exchange);
    let mut tried = Vec::new();
    while let Some(chosen) = links.choose(&options.limits, &tried) {
        if let Some(slot) = links.get_mut(chosen) {
            match slot.lane.send_request(id, request) {
                Ok(true) => {
                    slot.touched = true;
                    slot.begin();
                    if let Some(entry) = exchanges.get_mut(exchange) {
                        (entry.link, entry.position) = (Some(chosen), slot.lane.newest());
                    }
                    slot.keep_repeatable(chosen, exchanges);
                    return true;
                }
                Ok(false) => {}
                Err(fault) => slot.fault = Some(fault),
            }
        }
        tried.push(chosen);
    }
    false
}
