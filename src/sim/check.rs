//! What must be true of every answer, every record and every turn.
//!
//! Invariant: a rule here is about what can be seen from outside (bytes, records, kicks), or about the numbers of
//! [`Audit`]; an exception needs a cause that is in the book.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    book::{Book, Who},
    client::Answer,
    http::Head,
    plan::{Shape, Side, Tag, Target, Upload, is_body},
    worker::{State, Worker},
};
use crate::{
    limits,
    shard::{Gauges, probe::Audit},
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
            book.fail(format!(
                "tag {tag} was answered {} instead of {}",
                head.status, entry.plan.status
            ));
        }
        return;
    }
    book.tally.by_edge += 1;
    let Some(entry) = book.get(tag) else { return };
    let (target, forfeited) = (entry.ask.target, entry.forfeited);
    let expected = match (target, head.status) {
        (Target::Nowhere, 404) | (Target::Malformed, 400) => true,
        (_, 408) => forfeited,
        (Target::Worker, 502) => {
            book.tally.bad_gateway += 1;
            may_fail(book, tag)
        }
        (Target::Worker, 503) => {
            book.tally.unavailable += 1;
            book.shortage || book.draining || book.profile.tight
        }
        (Target::Worker, 504) => {
            book.tally.overdue += 1;
            book.may_be_overdue(tag)
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
    if tagged && !is_body(tag, Side::Response, at, data) && !was_with_fallen(book, tag) {
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
        if at != length && !(ask.http10 && may_lose(book, tag)) && !was_with_fallen(book, tag) {
            book.fail(format!("tag {tag} was answered {at} bytes of {length}"));
        }
    }
}

/// The connection ended before the answer did. An answer without a body may look whole to the client, and be given up by its
/// worker later, or the rest of its request not be read: then the connection ends behind it.
pub(super) fn cut(book: &mut Book, tag: Tag, previous: Option<Tag>, begun: bool) {
    book.tally.cut += 1;
    let spoilt = |previous: Tag| {
        let early = book
            .get(previous)
            .is_some_and(|entry| entry.plan.early && entry.ask.upload != Upload::None);
        early || may_fail(book, previous)
    };
    if !may_lose(book, tag) && !previous.is_some_and(spoilt) {
        let what = if begun { "half of an answer" } else { "no answer" };
        book.fail(format!("tag {tag} got {what}, and the end of the connection"));
    }
}

/// A worker has acknowledged the request's record: a second one only when the first is gone and the method allows it.
pub(super) fn taken(book: &mut Book, tag: Tag, who: Who) -> Result<(), String> {
    let repeat = book.profile.limits.repeat;
    let Some(entry) = book.get_mut(tag) else { return Ok(()) };
    let (before, ask) = (entry.takers.clone(), entry.ask);
    entry.takers.push(who);
    if entry.withdrawn {
        return Err(format!("tag {tag} was withdrawn before"));
    }
    let gone = before.iter().all(|who| book.has_fallen(*who));
    match before.len() {
        0 => Ok(()),
        1 if gone && repeat && ask.is_idempotent() => Ok(()),
        _ => Err(format!("tag {tag} was with {before:?} before, and it is {}", ask.method)),
    }
}

/// A worker finds a request withdrawn: its client has gone, and nobody has begun it, nor will.
pub(super) fn withdrawn(book: &mut Book, tag: Tag) -> Result<(), String> {
    book.tally.withdrawn += 1;
    let Some(entry) = book.get_mut(tag) else { return Ok(()) };
    let again = std::mem::replace(&mut entry.withdrawn, true);
    let (forfeited, takers) = (entry.forfeited || entry.answers > 0, entry.takers.clone());
    if again || takers.iter().any(|who| !book.has_fallen(*who)) {
        return Err(format!("tag {tag} is withdrawn, and was with {takers:?}"));
    }
    if !forfeited && !book.draining && takers.is_empty() {
        return Err(format!("tag {tag} is withdrawn, though its client waits"));
    }
    Ok(())
}

/// A worker is told to give an exchange up.
pub(super) fn cancel(book: &mut Book, tag: Tag, reason: u8) -> Result<(), String> {
    let Some(entry) = book.get(tag) else { return Ok(()) };
    // An answer without a body may be whole for its client before it is for its worker.
    let gone = entry.forfeited || entry.answers > 0 || book.draining || was_with_fallen(book, tag);
    match reason {
        0 if gone => Ok(()),
        1 if book.may_be_overdue(tag) => Ok(()),
        2 if book.draining => Ok(()),
        0 => Err(format!("tag {tag} is cancelled, though its client waits")),
        _ => Err(format!("tag {tag} is cancelled for reason {reason}")),
    }
}

fn was_with_fallen(book: &Book, tag: Tag) -> bool {
    book.get(tag).is_some_and(|entry| entry.takers.iter().any(|who| book.has_fallen(*who)))
}

/// The request may be lost: its worker gives it up, lies, or is gone and nobody else may do it.
fn may_fail(book: &Book, tag: Tag) -> bool {
    let Some(entry) = book.get(tag) else { return false };
    let aborted = matches!(entry.plan.shape, Shape::AbortedBefore | Shape::AbortedAfter);
    let lied = entry.takers.iter().any(|who| book.has_lied(*who));
    // What lies in a liar's ring counts as taken.
    let untaken = entry.takers.is_empty() && !book.liars.is_empty();
    let survives = entry.takers.len() == 1
        && !entry.begun
        && book.profile.limits.repeat
        && entry.ask.is_idempotent()
        && entry.ask.upload == Upload::None
        && book.liars.is_empty();
    aborted || lied || untaken || was_with_fallen(book, tag) && !survives
}

fn may_lose(book: &Book, tag: Tag) -> bool {
    may_fail(book, tag)
        || book.draining
        || book.may_be_overdue(tag)
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
    if wait == Wait::Forever && !completed && audit.connections + audit.exchanges > 0 {
        let (connections, exchanges) = (audit.connections, audit.exchanges);
        book.fail(format!(
            "asleep for ever beside {connections} connections, {exchanges} exchanges"
        ));
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

/// The gauges against what was seen outside, once everything is quiet.
pub(super) fn gauges(book: &mut Book, gauges: &Gauges) {
    let load = |gauge: &AtomicU64| gauge.load(Ordering::Relaxed);
    for (name, gauge) in [
        ("connections", &gauges.connections),
        ("exchanges", &gauges.exchanges),
        ("queued", &gauges.queued),
        ("chunks", &gauges.chunks),
    ] {
        if load(gauge) != 0 {
            book.fail(format!("the gauge of {name} says {} when all are gone", load(gauge)));
        }
    }
    let tally = book.tally;
    let to_workers = || book.entries().filter(|entry| entry.ask.target == Target::Worker);
    let waited_for = to_workers().filter(|entry| !entry.forfeited).count() as u64;
    let taken = book.entries().filter(|entry| !entry.takers.is_empty()).count() as u64;
    let again = book.entries().filter(|entry| entry.takers.len() > 1).count() as u64;
    let asked = to_workers().count() as u64;
    let clean = book.profile.rudeness == 0 && !book.draining;
    let fell = book.anybody_fell();
    let aborts = book.profile.aborts;
    let most = |possible: bool| if possible { asked } else { 0 };
    for (name, gauge, least, most) in [
        // Every one that came to its end was begun; without rude clients all were.
        (
            "begun",
            &gauges.begun,
            if clean { waited_for.saturating_sub(tally.unavailable) } else { taken },
            asked,
        ),
        ("redispatched", &gauges.redispatched, again, most(fell) * 2),
        ("failed", &gauges.failed, tally.bad_gateway, most(fell || aborts)),
        (
            "overdue",
            &gauges.overdue,
            tally.overdue,
            most(book.profile.limits.request_timeout != limits::NEVER),
        ),
        ("shed", &gauges.shed, tally.unavailable, most(book.shortage || book.profile.tight)),
        ("abandoned", &gauges.abandoned, tally.cancels + tally.withdrawn, asked),
        // Who fell or left may have had some before it that it never came to.
        (
            "withdrawn",
            &gauges.withdrawn,
            tally.withdrawn,
            if fell || book.profile.retires || book.draining { asked } else { tally.withdrawn },
        ),
    ] {
        let value = load(gauge);
        if value < least || value > most {
            book.fail(format!("the gauge of {name} says {value}, and it was {least} to {most}"));
        }
    }
}
