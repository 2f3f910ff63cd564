//! A worker: takes requests out of its lane, thinks, answers, keeps to credit and chunks, and sleeps when there is nothing.
//!
//! Invariant: it is honest (`hostile` makes it lie), so every fault that the shard reports of it is the shard's own; and it
//! trusts the edge with nothing: each record is checked against what this worker knows of its exchange.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    time::Instant,
};

use super::{
    book::{Book, Who},
    check,
    hostile::Evil,
    kernel::Kernel,
    plan::{Plan, Sabotage, Side, Tag, is_body},
    rng::Rng,
    wire::{CHUNK, Crash, END, Raw, Wire, kind},
};
use crate::{limits::EXCHANGE_WINDOW, pool::Load};

/// An exchange that this worker works on.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) tag: Tag,
    pub(super) plan: Plan,
    pub(super) ready_at: Instant,
    pub(super) expected: usize,
    pub(super) received: usize,
    pub(super) request_ended: bool,
    /// Bytes that were received and not credited.
    pub(super) owed: usize,
    pub(super) head_sent: bool,
    pub(super) sent: usize,
    /// Bytes that the edge has room for.
    pub(super) credit: usize,
    pub(super) cancelled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Awake,
    Asleep,
    Dead,
}

/// What the worker was made with.
pub(super) struct Made {
    pub(super) who: Who,
    pub(super) wire: Wire,
    /// What the edge rings, to look at.
    pub(super) bell: OwnedFd,
    pub(super) bell_watch: usize,
    pub(super) pid_watch: usize,
    pub(super) load: Load,
    pub(super) evil: Option<Evil>,
    pub(super) rng: Rng,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) who: Who,
    pub(super) wire: Wire,
    bell: OwnedFd,
    pub(super) bell_watch: usize,
    pub(super) pid_watch: usize,
    pub(super) load: Load,
    pub(super) evil: Option<Evil>,
    pub(super) rng: Rng,
    pub(super) state: State,
    pub(super) jobs: BTreeMap<u64, Job>,
    /// Exchanges that it ended.
    pub(super) ended: BTreeSet<u64>,
    /// Exchanges whose request was withdrawn.
    passed_over: BTreeSet<u64>,
    /// Its own chunks.
    pub(super) free: Vec<u32>,
    pub(super) leased: BTreeSet<u32>,
    /// The edge's chunks that it has.
    pub(super) held: Vec<u32>,
    /// The shortest payload that found no room.
    starved: Option<usize>,
    pub(super) retiring: bool,
    pub(super) reported: bool,
    /// It does nothing any more, and is not dead.
    pub(super) hung: bool,
    /// Its doorbell was rung, and it has not woken yet.
    rung: bool,
    /// The control thread has seen to its death.
    pub(super) buried: bool,
    /// It will be killed.
    pub(super) sentenced: bool,
}

impl Worker {
    pub(super) fn new(made: Made) -> Self {
        let Made { who, wire, bell, bell_watch, pid_watch, load, evil, rng } = made;
        let count = u32::try_from(wire.geometry().chunk_count()).unwrap();
        Self {
            who,
            wire,
            bell,
            bell_watch,
            pid_watch,
            load,
            evil,
            rng,
            state: State::Awake,
            jobs: BTreeMap::new(),
            ended: BTreeSet::new(),
            passed_over: BTreeSet::new(),
            free: (0..count).collect(),
            leased: BTreeSet::new(),
            held: Vec::new(),
            starved: None,
            retiring: false,
            reported: false,
            hung: false,
            rung: false,
            buried: false,
            sentenced: false,
        }
    }

    /// When it goes on by itself.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        if self.state == State::Dead || self.hung {
            return None;
        }
        let thinking = self.jobs.values().map(|job| job.ready_at).filter(|at| *at > now);
        thinking.min()
    }

    /// Nothing in flight, nothing held.
    pub(super) fn is_clean(&self) -> bool {
        self.jobs.is_empty() && self.leased.is_empty() && self.held.is_empty()
    }

    pub(super) fn die(&mut self, kernel: &mut Kernel) {
        if self.state != State::Dead {
            self.state = State::Dead;
            kernel.ring(self.pid_watch);
        }
    }

    /// True when the edge has rung since the worker went to sleep.
    pub(super) fn look(&mut self, sabotage: Option<Sabotage>) -> bool {
        self.rung |= rustix::io::read(&self.bell, &mut [0; 8]).is_ok();
        self.rung &= sabotage != Some(Sabotage::LoseKick);
        self.rung
    }

    /// Publishes without looking whether the edge wants a kick.
    pub(super) fn hide_a_record(&mut self) {
        let hidden = self.wire.put(kind::ABORT, 0, 1 << 32, &[]).and_then(|()| self.wire.publish());
        assert!(hidden.is_ok(), "this worker does not crash");
    }

    pub(super) fn act(&mut self, kernel: &mut Kernel, book: &mut Book) -> bool {
        if self.state == State::Dead || self.hung {
            return false;
        }
        match self.work(kernel, book) {
            Ok(progress) => progress,
            Err(Crash) => {
                book.trace(|| {
                    format!("worker {:?} crashes after {} stores", self.who, self.wire.stores)
                });
                book.tally.crashes += 1;
                book.fell(self.who);
                for job in self.jobs.values().filter(|job| job.head_sent) {
                    book.begun_by_fallen(job.tag);
                }
                self.die(kernel);
                true
            }
        }
    }

    fn work(&mut self, kernel: &mut Kernel, book: &mut Book) -> Result<bool, Crash> {
        if self.state == State::Asleep {
            let due = self.jobs.values().any(|job| self.has_something(job, kernel.now));
            if !self.look(book.profile.sabotage) && !due {
                return Ok(false);
            }
            self.wire.disarm()?;
            self.state = State::Awake;
        }
        book.progress();
        if self.evil.is_some() && self.lie(kernel, book)? {
            return Ok(true);
        }
        let mut acted = false;
        if self.rng.chance(700) {
            let most = self.rng.between(1, 8);
            acted |= self.take(most, kernel.now, book)?;
        }
        if self.rng.chance(700) {
            let most = self.rng.between(1, 8);
            acted |= self.produce(most, kernel.now, book)?;
        }
        if self.rng.chance(500) {
            acted |= self.publish(kernel, book)?;
        }
        if !acted {
            self.go_to_sleep(kernel, book)?;
        }
        Ok(true)
    }

    fn has_something(&self, job: &Job, now: Instant) -> bool {
        self.starved.is_none() && now >= job.ready_at && job.can_write()
    }

    /// Everything that there is to do is done, in the order that arming wants.
    fn go_to_sleep(&mut self, kernel: &mut Kernel, book: &mut Book) -> Result<(), Crash> {
        while self.take(64, kernel.now, book)? {}
        self.starved = None;
        while self.produce(64, kernel.now, book)? {}
        self.publish(kernel, book)?;
        if self.wire.unpublished() || !self.held.is_empty() && self.starved.is_none() {
            return Ok(());
        }
        // A kick that came meanwhile was for something that is done.
        self.look(book.profile.sabotage);
        self.rung = false;
        if !self.wire.arm(self.starved)? {
            self.state = State::Asleep;
        }
        Ok(())
    }

    pub(super) fn publish(&mut self, kernel: &mut Kernel, book: &mut Book) -> Result<bool, Crash> {
        if book.profile.sabotage == Some(Sabotage::KeepChunk) {
            self.held.clear();
        }
        while !self.held.is_empty() {
            let count = self.held.len().min(16);
            if !self.room(4 * count) {
                break;
            }
            let bytes: Vec<u8> = self.held.drain(..count).flat_map(u32::to_ne_bytes).collect();
            self.wire.put(kind::RELEASE, 0, 0, &[&bytes])?;
        }
        let fresh = self.wire.unpublished();
        let wanted = self.wire.publish()?;
        if wanted && !self.rng.chance(book.profile.lost_kicks)
            || self.rng.chance(book.profile.kick_storms)
        {
            kernel.ring(self.bell_watch);
        }
        Ok(fresh)
    }

    pub(super) fn room(&mut self, payload: usize) -> bool {
        let room = self.wire.has_room(payload);
        if !room {
            self.starved = Some(self.starved.map_or(payload, |least| least.min(payload)));
        }
        room
    }

    // --- what arrives ---

    fn take(&mut self, most: usize, now: Instant, book: &mut Book) -> Result<bool, Crash> {
        let mut acted = false;
        for _ in 0..most {
            match self.wire.take() {
                Ok(None) => break,
                Ok(Some(record)) => {
                    acted = true;
                    // Who dies before this has not begun it.
                    let stands =
                        record.kind != kind::REQUEST || self.wire.keep(record.payload.len())?;
                    let ignored = book.profile.sabotage == Some(Sabotage::IgnoreMark);
                    let understood = if stands || ignored {
                        self.understand(&record, now, book)
                    } else {
                        self.pass_over(&record, book)
                    };
                    if let Err(what) = understood {
                        let Raw { kind, flags, exchange, .. } = record;
                        book.fail(format!(
                            "worker {:?}, record of kind {kind}, flags {flags}, exchange {exchange:#x}: {what}",
                            self.who
                        ));
                    }
                }
                Err(what) => {
                    book.fail(format!("worker {:?} finds {what}", self.who));
                    break;
                }
            }
        }
        Ok(acted)
    }

    fn understand(&mut self, record: &Raw, now: Instant, book: &mut Book) -> Result<(), String> {
        let Raw { kind, flags, exchange, payload } = record;
        let end = flags & END != 0;
        match *kind {
            kind::REQUEST => self.begin(*exchange, payload, end, now, book),
            kind::BODY if flags & CHUNK != 0 => {
                let words: [u32; 2] = words(payload).ok_or("a chunk reference of another size")?;
                let [index, len] = words.map(|word| word as usize);
                let geometry = self.wire.geometry();
                if index >= geometry.chunk_count() || len > geometry.chunk_size() {
                    return Err(format!("chunk {index} of {len} bytes"));
                }
                if self.held.contains(&words[0]) {
                    return Err(format!("chunk {index} is leased twice"));
                }
                let data = self.wire.chunk(index, len);
                self.held.push(words[0]);
                self.upload(*exchange, &data, end, book)
            }
            kind::BODY => self.upload(*exchange, payload, end, book),
            kind::WITHDRAWN if self.ended.contains(exchange) => Ok(()),
            kind::WITHDRAWN => Err("a part of what was not withdrawn".into()),
            kind::CREDIT => {
                let bytes = u64::from_ne_bytes(payload[..].try_into().map_err(|_| "its size")?);
                let Some(job) = self.job(*exchange)? else { return Ok(()) };
                job.credit += usize::try_from(bytes).unwrap_or(usize::MAX / 2);
                if job.credit > EXCHANGE_WINDOW {
                    return Err(format!("credit of {} bytes", job.credit));
                }
                Ok(())
            }
            kind::RELEASE => {
                for index in payload.chunks_exact(4) {
                    let index = u32::from_ne_bytes(index.try_into().unwrap());
                    if !self.leased.remove(&index) {
                        return Err(format!("chunk {index} comes back twice"));
                    }
                    self.free.push(index);
                }
                Ok(())
            }
            kind::CANCEL => {
                if payload.len() != 1 || payload[0] > 2 {
                    return Err(format!("a reason of {payload:?}"));
                }
                if self.passed_over.contains(exchange) {
                    return Err("cancelled, though it was withdrawn".into());
                }
                let Some(job) = self.job(*exchange)? else { return Ok(()) };
                let (again, tag) = (std::mem::replace(&mut job.cancelled, true), job.tag);
                book.trace(|| {
                    format!("worker {:?}: tag {tag} is cancelled, {}", self.who, payload[0])
                });
                if again {
                    return Err("cancelled twice".into());
                }
                book.tally.cancels += u64::from(payload[0] == 0);
                check::cancel(book, tag, payload[0])
            }
            _ => Err("no such kind".into()),
        }
    }

    /// A request that was withdrawn: it might as well have ended.
    fn pass_over(&mut self, record: &Raw, book: &mut Book) -> Result<(), String> {
        let exchange = record.exchange;
        book.trace(|| format!("worker {:?} passes over {exchange:#x}", self.who));
        if self.jobs.contains_key(&exchange) || !self.ended.insert(exchange) {
            return Err("withdrawn, and begun before".into());
        }
        self.passed_over.insert(exchange);
        let request = Request::parse_withdrawn(&record.payload);
        let tag = request.and_then(|request| request.tag).ok_or("a request without its tag")?;
        check::withdrawn(book, tag)
    }

    /// The job of a record; `None` when it has ended, and the edge could not know.
    fn job(&mut self, exchange: u64) -> Result<Option<&mut Job>, String> {
        match self.jobs.get_mut(&exchange) {
            None if self.ended.contains(&exchange) => Ok(None),
            None => Err("an exchange that was never begun".into()),
            Some(job) => Ok(Some(job)),
        }
    }

    fn begin(
        &mut self,
        exchange: u64,
        payload: &[u8],
        end: bool,
        now: Instant,
        book: &mut Book,
    ) -> Result<(), String> {
        let request = Request::parse(payload).ok_or("a request that does not hold together")?;
        let tag = request.tag.ok_or("a request without its tag")?;
        let entry = book.get(tag).ok_or("a tag that nobody sent")?;
        let (ask, plan) = (entry.ask, entry.plan);
        if request.method != ask.method.as_bytes() {
            return Err(format!("tag {tag} as {:?}", String::from_utf8_lossy(&request.method)));
        }
        if self.jobs.contains_key(&exchange)
            || !self.ended.is_empty() && self.ended.contains(&exchange)
        {
            return Err("an exchange that was begun before".into());
        }
        book.trace(|| format!("worker {:?} takes tag {tag} as {exchange:#x}", self.who));
        check::taken(book, tag, self.who)?;
        if book.profile.sabotage == Some(Sabotage::RepeatRequest) {
            check::taken(book, tag, self.who)?;
        }
        let job = Job {
            tag,
            plan,
            ready_at: now + plan.think,
            expected: ask.upload.len(),
            received: 0,
            request_ended: false,
            owed: 0,
            head_sent: false,
            sent: 0,
            credit: EXCHANGE_WINDOW,
            cancelled: false,
        };
        self.jobs.insert(exchange, job);
        self.upload(exchange, &request.body, end, book)
    }

    fn upload(
        &mut self,
        exchange: u64,
        data: &[u8],
        end: bool,
        book: &mut Book,
    ) -> Result<(), String> {
        let Some(job) = self.job(exchange)? else { return Ok(()) };
        if job.cancelled {
            return Err("more of a body behind its cancellation".into());
        }
        if job.request_ended {
            return Err("more of a body behind its end".into());
        }
        if !is_body(job.tag, Side::Request, job.received, data) {
            return Err(format!("bytes at {} that tag {} did not send", job.received, job.tag));
        }
        job.received += data.len();
        job.owed += data.len();
        job.request_ended = end;
        if job.owed > EXCHANGE_WINDOW {
            return Err(format!("{} bytes beyond the credit", job.owed - EXCHANGE_WINDOW));
        }
        if job.received > job.expected || end && job.received != job.expected {
            return Err(format!("{} bytes of {}, end {end}", job.received, job.expected));
        }
        book.trace(|| format!("{} bytes for {exchange:#x}, end {end}", data.len()));
        Ok(())
    }
}

impl Job {
    pub(super) fn can_answer(&self) -> bool {
        self.request_ended || self.plan.early
    }

    /// There is a record that it could write, given room.
    fn can_write(&self) -> bool {
        let stuck = self.head_sent && self.credit == 0 && self.sent < self.plan.length;
        self.cancelled || self.can_answer() && !stuck
    }
}

fn words(payload: &[u8]) -> Option<[u32; 2]> {
    let (first, second) = payload.split_at_checked(4)?;
    Some([u32::from_ne_bytes(first.try_into().ok()?), u32::from_ne_bytes(second.try_into().ok()?)])
}

/// What a worker wants to know of a request record.
struct Request {
    method: Vec<u8>,
    tag: Option<Tag>,
    body: Vec<u8>,
}

impl Request {
    /// With the mark over the blob's length; blob and body are taken for one.
    fn parse_withdrawn(payload: &[u8]) -> Option<Self> {
        let fields = usize::from(u16::from_ne_bytes(payload.get(34..36)?.try_into().ok()?));
        let before = 64 + 8 * fields + 4 * usize::from(*payload.get(36)?);
        let mut payload = payload.to_vec();
        let blob_len = u32::try_from(payload.len().checked_sub(before)?).ok()?;
        payload[..4].copy_from_slice(&blob_len.to_ne_bytes());
        Self::parse(&payload)
    }

    fn parse(payload: &[u8]) -> Option<Self> {
        let half = |at: usize| {
            Some(usize::from(u16::from_le_bytes(payload.get(at..at + 2)?.try_into().ok()?)))
        };
        let blob_len = u32::from_ne_bytes(payload.get(..4)?.try_into().ok()?) as usize;
        let fields = usize::from(u16::from_ne_bytes(payload.get(34..36)?.try_into().ok()?));
        let params = usize::from(*payload.get(36)?);
        let params_at = 64 + 8 * fields;
        let blob_at = params_at + 4 * params;
        let blob = payload.get(blob_at..blob_at + blob_len)?;
        let span = |at: usize| {
            let start = half(at)?;
            blob.get(start..start + half(at + 2)?)
        };
        let tag = (params == 1).then(|| span(params_at)).flatten();
        let tag = tag.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        Some(Self { method: span(40)?.to_vec(), tag, body: payload[blob_at + blob_len..].to_vec() })
    }
}
