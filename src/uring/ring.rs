//! [`Uring`]: the driver on the real kernel. One ring, one thread, one system call per turn.
//!
//! Invariant: memory that an operation points into (a send's data, the receive buffers) is not freed before the
//! operation's last completion was reaped; `armed` counts the operations of which that is not yet true.
//! Deliberately absent: readiness, locks, retries of failed operations, and registered files and ring descriptors
//! (each saves some 20 ns per use, and an enter serves a dozen requests).
//!
//! # Teardown
//!
//! [`Uring::drop`] first cancels everything and reaps until `armed` is zero, for a bounded time. Then the fields are
//! dropped in the order of their declaration: the ring is closed, and only then are sends and buffers freed. What the
//! kernel did not let go of in time is leaked instead: lost memory is harmless, a late write into reused memory is not.

#![expect(
    unsafe_code,
    reason = "submission entries carry addresses; completions carry descriptors"
)]

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    hash::{BuildHasherDefault, Hasher},
    io,
    marker::PhantomData,
    mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd},
    time::{Duration, Instant, SystemTime},
};

use io_uring::{
    IoUring, cqueue, opcode, squeue,
    types::{CancelBuilder, Fd, RecvMsgOut, SubmitArgs, Timespec},
};
use rustix::{
    event::epoll,
    io::Errno,
    net::{Shutdown, SocketFlags},
};

use super::{
    Arrived, Completion, DatagramBatch, DatagramLease, Driver, Event, Features, Lease, Options,
    Rung, Token, Unavailable, Wait,
    buffers::{BufRing, DATAGRAM_BUFFERS, STREAM_BUFFERS},
    datagrams::{CONTROL_SIZE, Envelope, NAME_SIZE},
    send::{NO_HEADER, Sending, SendingDatagrams},
    setup,
    token::DRIVER_KIND,
};
use crate::limits::{DATAGRAM_BUFFER_SIZE, SEND_SIZE_MAX, TEARDOWN_TURN_MS, TEARDOWN_TURNS_MAX};

/// What one ring has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// System calls.
    pub enters: u64,
    /// Operations that the kernel took, the driver's own included.
    pub submissions: u64,
    /// Completions reaped, the driver's own included.
    pub completions: u64,
    /// Operations that found the submission queue full.
    pub sq_full: u64,
    /// Turns that found the completion queue overflown.
    pub cq_overflow: u64,
}

/// How to read a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Accept,
    Receive,
    ReceiveDatagrams,
    Send,
    SendDatagrams,
    Poll,
    HangUp,
}

/// Tokens are ours and mostly dense: one multiplication spreads them well enough.
#[derive(Default)]
struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0 ^ u64::from(byte));
        }
    }

    fn write_u64(&mut self, n: u64) {
        self.0 = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

/// The driver on the real kernel. It stays on the thread that made it: the kernel takes submissions from no other.
pub struct Uring {
    /// Declared first, so that it is closed before the memory below is freed.
    ring: IoUring,
    buffers: BufRing,
    /// By `user_data`; holds exactly the sends whose last completion was not reaped.
    sends: HashMap<u64, Sending, BuildHasherDefault<TokenHasher>>,
    /// The same for datagrams.
    datagram_sends: HashMap<u64, Box<SendingDatagrams>, BuildHasherDefault<TokenHasher>>,
    /// What receives of datagrams ask for. The kernel looks at it while one is armed.
    datagram_header: Box<libc::msghdr>,
    datagram_buffers: Option<BufRing>,
    /// False once the kernel has said that it cannot cut batches up.
    segments: bool,
    /// Queued operations for which the submission queue had no room; they go before any newer one.
    backlog: VecDeque<squeue::Entry>,
    /// Sends to go on with; empty outside of a turn.
    unfinished: Vec<squeue::Entry>,
    /// Completions of what was done without the uring; the next turn reports them.
    finished: Vec<Completion>,
    /// What each kind of token stands for, learnt from its first use.
    operations: [Option<Operation>; 256],
    /// Operations queued or in the kernel whose last completion was not reaped; the driver's own are not counted.
    armed: usize,
    /// The first error of a system call that was made outside of a turn; the next turn reports it.
    fault: Option<io::Error>,
    /// `SEND_SIZE_MAX`, except in the tests of short sends.
    send_size_max: u32,
    features: Features,
    stats: Stats,
    /// Neither `Send` nor `Sync`.
    thread: PhantomData<*const ()>,
}

impl Uring {
    /// A ring for the calling thread.
    pub fn new(options: Options) -> Result<Self, Unavailable> {
        let (ring, rung) = setup::create(&options)?;
        Self::with_ring(ring, rung, options)
    }

    fn with_ring(ring: IoUring, rung: Rung, options: Options) -> Result<Self, Unavailable> {
        let buffers = BufRing::new(options.buffer_count, options.buffer_size)?;
        // SAFETY: `Uring` owns both, and frees `buffers` only when no operation is armed, or leaks them (`drop`).
        unsafe { buffers.register(&ring.submitter(), STREAM_BUFFERS) }?;
        let datagram_buffers = match options.datagram_buffers {
            0 => None,
            count => {
                let buffers = BufRing::new(count, DATAGRAM_BUFFER_SIZE)?;
                // SAFETY: as above.
                unsafe { buffers.register(&ring.submitter(), DATAGRAM_BUFFERS) }?;
                Some(buffers)
            }
        };
        let datagram_header = libc::msghdr {
            msg_namelen: libc::socklen_t::try_from(NAME_SIZE).unwrap_or_default(),
            msg_controllen: CONTROL_SIZE,
            ..NO_HEADER
        };
        let restricted = setup::enable(&ring)?;
        Ok(Self {
            ring,
            buffers,
            sends: HashMap::default(),
            datagram_sends: HashMap::default(),
            datagram_header: Box::new(datagram_header),
            datagram_buffers,
            segments: true,
            backlog: VecDeque::new(),
            unfinished: Vec::new(),
            finished: Vec::new(),
            operations: [None; 256],
            armed: 0,
            fault: None,
            send_size_max: SEND_SIZE_MAX,
            features: Features { rung, restricted },
            stats: Stats::default(),
            thread: PhantomData,
        })
    }

    /// What the kernel granted.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Notes that an operation begins; returns its `user_data`.
    fn arm(&mut self, operation: Operation, token: Token) -> u64 {
        assert!(token.kind != DRIVER_KIND, "kind 0xff is the driver's own");
        let known = self.operations[usize::from(token.kind)].get_or_insert(operation);
        assert!(*known == operation, "kind {} already stands for {known:?}", token.kind);
        self.armed += 1;
        token.to_bits()
    }

    /// Queues an operation of the driver's own; only its failure completes, and is swallowed.
    fn push_own(&mut self, entry: squeue::Entry) {
        let own = Token { kind: DRIVER_KIND, generation: 0, index: 0 };
        self.push(entry.flags(squeue::Flags::SKIP_SUCCESS).user_data(own.to_bits()));
    }

    fn push(&mut self, entry: squeue::Entry) {
        if self.backlog.is_empty() && self.try_push(&entry) {
            return;
        }
        self.stats.sq_full += 1;
        self.backlog.push_back(entry);
        self.drain_backlog();
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        let mut queue = self.ring.submission();
        // SAFETY: of the entries made in this file those of sends have addresses, in `Sending::data` and in a boxed
        // `SendingDatagrams`. `reap` takes them out of their maps only with the last completion, and `drop` frees them, and
        // `datagram_header`, only when nothing is armed.
        unsafe { queue.push(entry) }.is_ok()
    }

    /// Moves the backlog into the submission queue, submitting whenever that is full, until the kernel takes no more.
    fn drain_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if self.try_push(&entry) {
                continue;
            }
            self.backlog.push_front(entry);
            let submitted = self.ring.submit();
            match self.entered(submitted) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => {
                    self.fault.get_or_insert(error);
                    return;
                }
            }
        }
    }

    /// Submits and waits, in one system call or, when that could not do anything, in none.
    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        let (submitter, submissions, completions) = self.ring.split();
        let overflow = submissions.cq_overflow();
        self.stats.cq_overflow += u64::from(overflow);
        let has_work = !submissions.is_empty() || submissions.taskrun() || overflow;
        // Nothing to wait for if something is here already. A backlog means that the kernel wants us to reap first.
        let ready =
            !completions.is_empty() || !self.finished.is_empty() || !self.backlog.is_empty();
        drop(completions);
        // The queue publishes its tail when it is dropped; the submitter reads it from there.
        drop(submissions);
        let result = match wait {
            Wait::Forever if !ready => submitter.submit_and_wait(1),
            Wait::AtMost(limit) if !ready => {
                let limit = Timespec::from(limit);
                submitter.submit_with_args(1, &SubmitArgs::new().timespec(&limit))
            }
            _ if has_work => submitter.submit(),
            _ => return Ok(()),
        };
        self.entered(result).map(drop)
    }

    /// Counts a system call, and tells what went wrong from what only means "nothing yet".
    fn entered(&mut self, result: io::Result<usize>) -> io::Result<usize> {
        self.stats.enters += 1;
        match result {
            Ok(submitted) => {
                self.stats.submissions += submitted as u64;
                Ok(submitted)
            }
            Err(error) => match Errno::from_io_error(&error) {
                // The deadline, a signal; too little memory or too many completions right now. What was not taken
                // is still in the submission queue, and goes with the next turn, after this one has reaped.
                Some(
                    Errno::TIME
                    | Errno::INTR
                    | Errno::AGAIN
                    | Errno::BUSY
                    | Errno::NOMEM
                    | Errno::NOBUFS,
                ) => Ok(0),
                _ => Err(error),
            },
        }
    }

    /// Cancels everything and waits for the last completions. False if the kernel keeps some back.
    fn tear_down(&mut self) -> bool {
        self.sends.values_mut().for_each(|sending| sending.cancelled = true);
        self.datagram_sends.values_mut().for_each(|sending| sending.cancelled = true);
        self.push_own(opcode::AsyncCancel2::new(CancelBuilder::any()).build());
        let mut completions = Vec::new();
        let limit = Wait::AtMost(Duration::from_millis(TEARDOWN_TURN_MS));
        for _ in 0..TEARDOWN_TURNS_MAX {
            // With nothing armed there may still be closes to submit.
            let wait = if self.armed == 0 { Wait::Poll } else { limit };
            let turned = self.turn(wait, &mut completions);
            completions.clear();
            if turned.is_err() || self.armed == 0 && self.backlog.is_empty() {
                break;
            }
        }
        self.armed == 0
    }

    fn reap(&mut self, completions: &mut Vec<Completion>) {
        let Self {
            ring,
            buffers,
            sends,
            datagram_sends,
            datagram_buffers,
            segments,
            operations,
            armed,
            unfinished,
            send_size_max,
            stats,
            ..
        } = self;
        for entry in ring.completion() {
            stats.completions += 1;
            let token = Token::from_bits(entry.user_data());
            if token.kind == DRIVER_KIND {
                continue;
            }
            let result = result_of(&entry);
            let more = cqueue::more(entry.flags());
            let operation =
                operations[usize::from(token.kind)].expect("only what was started completes");
            let event = match operation {
                Operation::Accept => result.map_or_else(Event::Failed, |fd| {
                    // SAFETY: the kernel has just opened this descriptor for us; nobody else knows of it.
                    Event::Accepted(unsafe { OwnedFd::from_raw_fd(fd.cast_signed()) })
                }),
                Operation::Receive => received(buffers, &entry, result),
                Operation::Send => {
                    let user_data = entry.user_data();
                    let sending = sends.get_mut(&user_data).expect("a send completes once");
                    let Some(event) = sending.took(result) else {
                        unfinished.push(sending.entry(user_data, *send_size_max));
                        continue;
                    };
                    sends.remove(&user_data);
                    event
                }
                Operation::ReceiveDatagrams => {
                    datagrams_of(datagram_buffers.as_mut(), &entry, result)
                }
                Operation::SendDatagrams => {
                    let user_data = entry.user_data();
                    let sending =
                        datagram_sends.get_mut(&user_data).expect("a send completes once");
                    *segments &= !(sending.segmented && result == Err(Errno::IO));
                    let Some(event) = sending.took(result) else {
                        unfinished.push(sending.entry(user_data));
                        continue;
                    };
                    datagram_sends.remove(&user_data);
                    event
                }
                Operation::Poll => result.map_or_else(Event::Failed, |_| Event::Readable),
                Operation::HangUp => result.map_or_else(Event::Failed, hung_up),
            };
            *armed -= usize::from(!more);
            completions.push(Completion { token, event, more });
        }
        for entry in mem::take(unfinished) {
            self.push(entry);
        }
    }
}

/// What a hang-up's poll found: the kernel also reports, unasked, that the peer has ended its half alone.
fn hung_up(found: u32) -> Event {
    let gone = epoll::EventFlags::HUP | epoll::EventFlags::ERR;
    if epoll::EventFlags::from_bits_retain(found).intersects(gone) {
        Event::HungUp
    } else {
        Event::EndOfStream
    }
}

/// A completion of a receive of bytes; an error that filled a buffer gives it back.
fn received(buffers: &mut BufRing, entry: &cqueue::Entry, result: Result<u32, Errno>) -> Event {
    let id = cqueue::buffer_select(entry.flags());
    let lease = id.map(|id| buffers.lend(id, result.unwrap_or(0)));
    match (result, lease) {
        (Ok(1..), Some(lease)) => Event::Received(lease),
        (result, unused) => {
            if let Some(lease) = unused {
                buffers.recycle(lease.id);
            }
            result.map_or_else(Event::Failed, |_| Event::EndOfStream)
        }
    }
}

/// The same of datagrams, of which even an empty one has an envelope.
fn datagrams_of(
    buffers: Option<&mut BufRing>,
    entry: &cqueue::Entry,
    result: Result<u32, Errno>,
) -> Event {
    let filled = cqueue::buffer_select(entry.flags()).zip(buffers);
    let Some((id, buffers)) = filled else {
        return Event::Failed(result.err().unwrap_or(Errno::NOBUFS));
    };
    let lease = buffers.lend(id, result.unwrap_or(0));
    match result {
        Ok(_) => Event::Datagrams(DatagramLease(lease)),
        Err(errno) => {
            buffers.recycle(lease.id);
            Event::Failed(errno)
        }
    }
}

fn result_of(entry: &cqueue::Entry) -> Result<u32, Errno> {
    u32::try_from(entry.result()).map_err(|_| Errno::from_raw_os_error(-entry.result()))
}

impl Driver for Uring {
    fn accept(&mut self, listener: BorrowedFd<'_>, token: Token) {
        let user_data = self.arm(Operation::Accept, token);
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd()))
            .flags(flags.bits().cast_signed())
            .build();
        self.push(entry.user_data(user_data));
    }

    fn recv(&mut self, socket: BorrowedFd<'_>, token: Token) {
        let user_data = self.arm(Operation::Receive, token);
        let entry = opcode::RecvMulti::new(Fd(socket.as_raw_fd()), STREAM_BUFFERS).build();
        self.push(entry.user_data(user_data));
    }

    fn send(&mut self, socket: BorrowedFd<'_>, data: Vec<u8>, token: Token) {
        let user_data = self.arm(Operation::Send, token);
        let sending = Sending { data, sent: 0, socket: socket.as_raw_fd(), cancelled: false };
        let entry = sending.entry(user_data, self.send_size_max);
        // Moving the `Vec` into the map does not move the bytes that the entry points to.
        let earlier = self.sends.insert(user_data, sending);
        assert!(earlier.is_none(), "a send with this token is in flight");
        self.push(entry);
    }

    fn recv_datagrams(&mut self, socket: BorrowedFd<'_>, token: Token) {
        assert!(self.datagram_buffers.is_some(), "a driver with buffers for datagrams");
        let user_data = self.arm(Operation::ReceiveDatagrams, token);
        let header = &raw const *self.datagram_header;
        let socket = Fd(socket.as_raw_fd());
        let entry = opcode::RecvMsgMulti::new(socket, header, DATAGRAM_BUFFERS).build();
        self.push(entry.user_data(user_data));
    }

    fn send_datagrams(&mut self, socket: BorrowedFd<'_>, batch: DatagramBatch, token: Token) {
        let user_data = self.arm(Operation::SendDatagrams, token);
        let mut sending = SendingDatagrams::new(batch, socket.as_raw_fd(), self.segments);
        let entry = sending.entry(user_data);
        // Moving the box into the map does not move what the entry points to.
        let earlier = self.datagram_sends.insert(user_data, sending);
        assert!(earlier.is_none(), "a send with this token is in flight");
        self.push(entry);
    }

    fn poll(&mut self, fd: BorrowedFd<'_>, token: Token) {
        let user_data = self.arm(Operation::Poll, token);
        let events = epoll::EventFlags::IN | epoll::EventFlags::ET;
        let entry = opcode::PollAdd::new(Fd(fd.as_raw_fd()), events.bits()).multi(true).build();
        self.push(entry.user_data(user_data));
    }

    fn hang_up(&mut self, socket: BorrowedFd<'_>, token: Token) {
        let user_data = self.arm(Operation::HangUp, token);
        // No event is asked for: errors, hang-ups and FIN are reported unasked.
        let entry = opcode::PollAdd::new(Fd(socket.as_raw_fd()), 0).build();
        self.push(entry.user_data(user_data));
    }

    fn cancel(&mut self, token: Token) {
        let user_data = token.to_bits();
        if let Some(sending) = self.sends.get_mut(&user_data) {
            sending.cancelled = true;
        }
        if let Some(sending) = self.datagram_sends.get_mut(&user_data) {
            sending.cancelled = true;
        }
        self.push_own(opcode::AsyncCancel::new(user_data).build());
    }

    fn shutdown_write(&mut self, socket: BorrowedFd<'_>, token: Token) {
        // Not an operation of the uring: the kernel hands that to a worker thread of its own, which makes it three to
        // fifteen times as dear as the call, and the call does not block.
        let event = rustix::net::shutdown(socket, Shutdown::Write)
            .map_or_else(Event::Failed, |()| Event::Done);
        self.finished.push(Completion { token, event, more: false });
    }

    fn close(&mut self, fd: OwnedFd) {
        self.push_own(opcode::Close::new(Fd(fd.into_raw_fd())).build());
    }

    fn turn(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.buffers.publish();
        if let Some(buffers) = &mut self.datagram_buffers {
            buffers.publish();
        }
        self.drain_backlog();
        let entered = self.enter(wait);
        completions.append(&mut self.finished);
        self.reap(completions);
        self.fault.take().map_or(entered, Err)
    }

    fn completions_visible(&mut self) -> bool {
        let (_, submissions, completions) = self.ring.split();
        !self.finished.is_empty()
            || !completions.is_empty()
            || submissions.taskrun()
            || submissions.cq_overflow()
    }

    fn bytes(&self, lease: &Lease) -> &[u8] {
        self.buffers.bytes(lease)
    }

    fn recycle(&mut self, lease: Lease) {
        self.buffers.recycle(lease.id);
    }

    fn datagrams(&mut self, lease: &DatagramLease) -> Option<Arrived<'_>> {
        let buffers = self.datagram_buffers.as_mut()?;
        let out = RecvMsgOut::parse(buffers.bytes(&lease.0), &self.datagram_header).ok()?;
        let Envelope { from, to, segment, ecn } =
            Envelope::parse(out.name_data(), out.control_data())?;
        let len = out.payload_data().len();
        if out.is_payload_truncated() || len == 0 {
            return None;
        }
        let bytes = buffers.bytes_mut(&lease.0);
        // The payload is what the buffer ends with.
        let (_, data) = bytes.split_at_mut_checked(bytes.len().checked_sub(len)?)?;
        let segment = segment.filter(|size| (1..len).contains(size)).unwrap_or(len);
        Some(Arrived { from, to, segment, ecn, data })
    }

    fn recycle_datagrams(&mut self, lease: DatagramLease) {
        if let Some(buffers) = &mut self.datagram_buffers {
            buffers.recycle(lease.0.id);
        }
    }

    fn stats(&self) -> Stats {
        self.stats
    }

    #[expect(clippy::disallowed_methods, reason = "the one place where time enters a shard")]
    fn now(&self) -> Instant {
        Instant::now()
    }

    #[expect(clippy::disallowed_methods, reason = "the one place where time enters a shard")]
    fn wall_clock(&self) -> SystemTime {
        SystemTime::now()
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if !self.tear_down() {
            mem::forget(mem::take(&mut self.sends));
            mem::forget(mem::take(&mut self.datagram_sends));
            mem::forget(mem::replace(&mut self.datagram_header, Box::new(NO_HEADER)));
            self.buffers.leak();
            if let Some(buffers) = &mut self.datagram_buffers {
                buffers.leak();
            }
        }
    }
}

impl fmt::Debug for Uring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uring")
            .field("features", &self.features)
            .field("armed", &self.armed)
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
