//! What must be true of every answer, every record and every turn.
//!
//! Invariant: a rule here is about what can be seen from outside (bytes, records, kicks), or about the numbers of
//! [`Audit`]; an exception needs a cause that is in the book.

use super::{
    book::{Book, Who},
    client::Answer,
    http::Head,
    plan::{Shape, Side, Tag, Target, Upload, is_body},
    worker::{State, Worker},
};
use crate::{
    limits,
    shard::probe::Audit,
    uring::Wait,
};

/// The head of an answer: the worker's with the tag of its request, or one of the edge's own.
pub(super) fn head(book: &mut Book, tag: Tag, head: &Head) {
    let Some(entry) = book.get(tag) else { return };
    if let Some(other) = head.tag {
        if other != tag {
            return book.fail(format!("tag {tag} was answered with tag {other}"));
        }
        if head.status != entry.plan.status && !was_with_fallen(book, tag) {
            book.fail(format!("tag {tag} was answered {} instead of {}", head.status, entry.plan.status));
        }
        return;
    }
    book.tally.by_edge += 1;
    let Some(entry) = book.get(tag) else { return };
    let forfeited = entry.forfeited;
    let expected = match (entry.ask.target, head.status) {
        (Target::Nowhere, 404) | (Target::Malformed, 400) => true,
        (_, 408) => {
            book.tally.too_slow += 1;
            forfeited
        }
        (Target::Worker, 502) => {
            book.tally.bad_gateway += 1;
            may_fail(book, tag)
        }
        (Target::Worker, 503) => {
            book.tally.unavailable += 1;
            book.shortage || book.draining
        }
        _ => false,
    };
    if !expected {
        book.fail(format!("tag {tag} was answered {} by the edge", head.status));
    }
}

/// Bytes of an answer's body.
pub(super) fn body(book: &mut Book, answer: &Answer, data: &[u8]) {
    let Answer { tag, at, tagged, .. } = *answer;
    if tagged && !is_body(tag, Side::Response, at, data) && !has_lied(book, tag) {
        book.fail(format!("bytes at {at} that are not of the answer to tag {tag}"));
    }
}

/// An answer that was read to its end.
pub(super) fn end(book: &mut Book, answer: &Answer) {
    let Answer { tag, at, tagged, .. } = *answer;
    let Some(entry) = book.get_mut(tag) else { return };
    entry.answers += 1;
    let (answers, ask, plan) = (entry.answers, entry.ask, entry.plan);
    let length = if ask.is_bodiless() { 0 } else { plan.length };
    if answers != 1 {
        return book.fail(format!("tag {tag} was answered {answers} times"));
    }
    if tagged {
        book.tally.answered += 1;
        // Where the end of the connection is the end of the body, a cut cannot be told.
        if at != length && !(ask.http10 && may_lose(book, tag)) && !has_lied(book, tag) {
            book.fail(format!("tag {tag} was answered {at} bytes of {length}"));
        }
    }
}

/// The connection ended before the answer did. An answer without a body may look whole to the client, and be given up by its
/// worker later, or the rest of its request not be read: then the connection ends behind it.
pub(super) fn cut(book: &mut Book, tag: Tag, previous: Option<Tag>, begun: bool) {
    book.tally.cut += 1;
    let spoilt = |previous: Tag| {
        let early = book.get(previous).is_some_and(|entry| entry.plan.early && entry.ask.upload != Upload::None);
        early || may_fail(book, previous)
    };
    if !may_lose(book, tag) && !previous.is_some_and(spoilt) {
        let what = if begun { "half of an answer" } else { "no answer" };
        book.fail(format!("tag {tag} got {what}, and the end of the connection"));
    }
}

/// A worker reads the request's record.
pub(super) fn taken(book: &mut Book, tag: Tag, who: Who) -> Result<(), String> {
    let Some(entry) = book.get_mut(tag) else { return Ok(()) };
    let before = entry.takers.clone();
    entry.takers.push(who);
    if before.is_empty() { Ok(()) } else { Err(format!("tag {tag} was with {before:?} before")) }
}

/// A worker is told to give an exchange up.
pub(super) fn cancel(book: &mut Book, tag: Tag, reason: u8) -> Result<(), String> {
    let Some(entry) = book.get_mut(tag) else { return Ok(()) };
    entry.cancelled = true;
    let gone = entry.forfeited || book.draining || has_lied(book, tag);
    match reason {
        0 if gone => Ok(()),
        0 => Err(format!("tag {tag} is cancelled, though its client waits")),
        _ => Err(format!("tag {tag} is cancelled for reason {reason}")),
    }
}

fn was_with_fallen(book: &Book, tag: Tag) -> bool {
    book.get(tag).is_some_and(|entry| entry.takers.iter().any(|who| book.has_fallen(*who)))
}

fn has_lied(book: &Book, tag: Tag) -> bool {
    was_with_fallen(book, tag)
}

/// A worker that took the request, or in whose ring it may have been, is gone; or it gives up.
fn may_fail(book: &Book, tag: Tag) -> bool {
    let Some(entry) = book.get(tag) else { return false };
    let untaken = entry.takers.is_empty() && book.anybody_fell();
    let aborted = matches!(entry.plan.shape, Shape::AbortedBefore | Shape::AbortedAfter);
    untaken || aborted || was_with_fallen(book, tag)
}

fn may_lose(book: &Book, tag: Tag) -> bool {
    may_fail(book, tag)
        || book.draining
        || book.get(tag).is_some_and(|entry| entry.forfeited)
}

/// After every turn: how the shard waited in it, whether that brought anything, and the receive buffers that it has.
pub(super) fn turn(
    book: &mut Book,
    audit: &Result<Audit, String>,
    (wait, completed): (Wait, bool),
    leased: usize,
) {
    let audit = match audit {
        Ok(audit) => audit,
        Err(what) => return book.fail(what.clone()),
    };
    if wait != Wait::Poll && !completed && audit.dirty > 0 {
        book.fail(format!("asleep beside {} dirty connections", audit.dirty));
    }
    if wait == Wait::Forever && !completed && audit.connections > 0 {
        book.fail(format!("asleep for ever beside {} connections", audit.connections));
    }
    if leased > 0 {
        book.fail(format!("{leased} receive buffers are kept beyond their turn"));
    }
    // A receive that is being cancelled may bring what the socket holds.
    let input_max = limits::INPUT_SIZE_MAX + 64 * 1024 + limits::HEAD_SIZE_MAX;
    if audit.input_max > input_max {
        book.fail(format!("a connection's input of {} bytes", audit.input_max));
    }
    // What may be unsent when a pipelined request is taken, an answer's window, and framing.
    let output_max = limits::UNSENT_SIZE_MAX + limits::EXCHANGE_WINDOW + limits::HEAD_SIZE_MAX;
    if audit.output_max > output_max && !book.anybody_fell() {
        book.fail(format!("a connection's output of {} bytes", audit.output_max));
    }
    if audit.backlog_max > limits::EXCHANGE_WINDOW {
        book.fail(format!("an exchange's backlog of {} bytes", audit.backlog_max));
    }
}

/// Load is what is in flight, at those that the shard knows and at those that it has let go.
pub(super) fn links(book: &mut Book, audit: &Audit, workers: &[Worker]) {
    for worker in workers {
        let link = audit.links.iter().find(|link| link.who == worker.who);
        let exchanges = link.map_or(0, |link| link.exchanges);
        let load = worker.load.get() as usize;
        if load != exchanges {
            book.fail(format!("{exchanges} exchanges with {:?}, whose load is {load}", worker.who));
        }
    }
}

/// When everybody has gone and nothing moves any more.
pub(super) fn quiet(book: &mut Book, audit: &Audit, workers: &[Worker]) {
    if audit.connections > 0 || audit.exchanges > 0 || audit.queued > 0 {
        book.fail(format!(
            "left over: {} connections, {} exchanges, {} in the queue",
            audit.connections, audit.exchanges, audit.queued
        ));
    }
    for link in audit.links.iter().filter(|link| link.leased_chunks > 0) {
        book.fail(format!("{} chunks never came back from {:?}", link.leased_chunks, link.who));
    }
    for worker in workers.iter().filter(|worker| worker.state != State::Dead && !worker.hung) {
        if !worker.is_clean() {
            book.fail(format!("worker {:?} is left with something", worker.who));
        }
    }
}
