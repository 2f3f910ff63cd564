//! The kernel's part of the world: sockets as byte queues, polled descriptors, and the operations in flight on them.
//!
//! Invariant: an operation that was started completes exactly once (a multishot one with `more` before that); when it does
//! is drawn, and so is whether a cancellation comes in time. A descriptor is only compared, never used.

use std::{
    collections::VecDeque,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    time::Instant,
};

use rustix::io::Errno;

use super::{
    book::Book,
    plan::{Profile, Sabotage},
    rng::Rng,
};
use crate::{
    ipc::Doorbell,
    uring::{Completion, Event, Lease, Token},
};

/// Bytes that lie in one direction of a socket.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    bytes: Vec<u8>,
    at: usize,
}

impl Pipe {
    pub(super) fn len(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn take(&mut self, len: usize) -> Vec<u8> {
        let taken = self.bytes[self.at..self.at + len].to_vec();
        self.at += len;
        if self.at == self.bytes.len() {
            (self.bytes, self.at) = (Vec::new(), 0);
        }
        taken
    }

    fn lose_last(&mut self) {
        self.bytes.truncate(self.bytes.len().max(self.at + 1) - 1);
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[derive(Clone, Copy, Debug)]
struct Op {
    token: Token,
    cancelled: bool,
}

#[derive(Debug)]
struct Sending {
    op: Op,
    data: Vec<u8>,
    at: usize,
}

/// One connection, seen from both ends.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) up: Pipe,
    /// The client sent its last byte.
    pub(super) up_fin: bool,
    pub(super) down: Pipe,
    pub(super) down_fin: bool,
    /// The client does not read any more: what is sent to it is answered with RST.
    client_gone: bool,
    reset_by_client: bool,
    pub(super) reset_by_server: bool,
    /// What `down` and `up` hold at most.
    capacity: usize,
    fd: Option<RawFd>,
    accepted: bool,
    recv: Option<Op>,
    send: Option<Sending>,
    hang_up: Option<Op>,
}

impl Socket {
    pub(super) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.up.len())
    }

    fn is_over(&self) -> bool {
        let in_flight = self.recv.is_some() || self.send.is_some() || self.hang_up.is_some();
        self.fd.is_none() && !in_flight && self.accepted
    }
}

/// A descriptor that is polled, edge-triggered.
#[derive(Debug)]
struct Watch {
    fd: RawFd,
    /// It was rung once; nobody ever reads it.
    ready: bool,
    /// Rung since its last completion.
    edge: bool,
    poll: Option<Op>,
    /// A completion said so.
    told: bool,
    /// It was polled once.
    known: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) now: Instant,
    rng: Rng,
    noise: usize,
    sabotage: Option<Sabotage>,
    recv_size: usize,
    pub(super) sockets: Vec<Socket>,
    /// Those that something may still happen to.
    live: Vec<usize>,
    backlog: VecDeque<usize>,
    listener: Option<RawFd>,
    accept: Option<Op>,
    watches: Vec<Watch>,
    pub(super) queue: Vec<Completion>,
    leases: Vec<Option<Vec<u8>>>,
}

impl Kernel {
    pub(super) fn new(now: Instant, rng: Rng, profile: &Profile) -> Self {
        let &Profile { noise, sabotage, recv_size, recv_buffers, .. } = profile;
        Self {
            now,
            rng,
            noise,
            sabotage,
            recv_size,
            sockets: Vec::new(),
            live: Vec::new(),
            backlog: VecDeque::new(),
            listener: None,
            accept: None,
            watches: Vec::new(),
            queue: Vec::new(),
            leases: (0..recv_buffers).map(|_| None).collect(),
        }
    }

    // --- what clients do ---

    pub(super) fn connect(&mut self, capacity: usize) -> usize {
        let id = self.sockets.len();
        self.sockets.push(Socket {
            up: Pipe::default(),
            up_fin: false,
            down: Pipe::default(),
            down_fin: false,
            client_gone: false,
            reset_by_client: false,
            reset_by_server: false,
            capacity,
            fd: None,
            accepted: false,
            recv: None,
            send: None,
            hang_up: None,
        });
        self.live.push(id);
        self.backlog.push_back(id);
        id
    }

    /// The client closes its end; unread bytes make that a reset.
    pub(super) fn close_client(&mut self, id: usize) {
        let socket = &mut self.sockets[id];
        socket.client_gone = true;
        socket.up_fin = true;
        socket.reset_by_client |= socket.down.len() > 0;
    }

    pub(super) fn reset_client(&mut self, id: usize) {
        let socket = &mut self.sockets[id];
        socket.client_gone = true;
        socket.reset_by_client = true;
    }

    /// Bytes from the client; to a closed socket they are answered with RST, which takes unread answers away.
    pub(super) fn upload(&mut self, id: usize, bytes: &[u8]) {
        let socket = &mut self.sockets[id];
        if socket.accepted && socket.fd.is_none() {
            socket.reset_by_server = true;
            socket.down.clear();
        } else {
            socket.up.push(bytes);
        }
    }

    // --- what is polled ---

    pub(super) fn listen(&mut self, fd: RawFd) {
        self.listener = Some(fd);
    }

    pub(super) fn watch(&mut self, fd: RawFd) -> usize {
        self.watches.push(Watch {
            fd,
            ready: false,
            edge: false,
            poll: None,
            told: false,
            known: false,
        });
        self.watches.len() - 1
    }

    /// The descriptor becomes readable.
    pub(super) fn ring(&mut self, watch: usize) {
        let watch = &mut self.watches[watch];
        watch.ready = true;
        watch.edge = true;
    }

    /// The shard has polled this once, so it has taken its owner in.
    pub(super) fn is_known(&self, watch: usize) -> bool {
        self.watches[watch].known
    }

    /// The shard would be woken by it.
    pub(super) fn is_polled(&self, watch: usize) -> bool {
        self.watches[watch].poll.is_some()
    }

    /// The shard was told.
    pub(super) fn was_told(&self, watch: usize) -> bool {
        self.watches[watch].told
    }

    // --- what the shard asks for ---

    pub(super) fn start_accept(&mut self, fd: RawFd, token: Token) {
        assert!(self.accept.is_none(), "one accept at a time");
        assert!(self.listener == Some(fd), "there is one listener");
        self.accept = Some(Op { token, cancelled: false });
    }

    fn socket_of(&mut self, fd: RawFd) -> &mut Socket {
        self.sockets.iter_mut().find(|socket| socket.fd == Some(fd)).expect("an open socket")
    }

    pub(super) fn start_recv(&mut self, fd: RawFd, token: Token) {
        let socket = self.socket_of(fd);
        assert!(socket.recv.is_none(), "one receive at a time");
        socket.recv = Some(Op { token, cancelled: false });
    }

    pub(super) fn start_send(&mut self, fd: RawFd, data: Vec<u8>, token: Token) {
        let socket = self.socket_of(fd);
        assert!(socket.send.is_none(), "one send at a time");
        assert!(!socket.down_fin, "nothing is sent behind FIN");
        assert!(!data.is_empty(), "a send has something to send");
        socket.send = Some(Sending { op: Op { token, cancelled: false }, data, at: 0 });
    }

    pub(super) fn start_hang_up(&mut self, fd: RawFd, token: Token) {
        let socket = self.socket_of(fd);
        assert!(socket.hang_up.is_none(), "one at a time");
        socket.hang_up = Some(Op { token, cancelled: false });
    }

    pub(super) fn start_poll(&mut self, fd: RawFd, token: Token) {
        let watch = self
            .watches
            .iter_mut()
            .rev()
            .find(|watch| watch.fd == fd)
            .expect("a descriptor that can be polled");
        assert!(watch.poll.is_none(), "one poll at a time");
        watch.poll = Some(Op { token, cancelled: false });
        watch.known = true;
        // poll(2) looks before it waits.
        watch.edge |= watch.ready;
    }

    pub(super) fn cancel(&mut self, token: Token) {
        let sockets = self.sockets.iter_mut().flat_map(|socket| {
            let send = socket.send.as_mut().map(|send| &mut send.op);
            [socket.recv.as_mut(), send, socket.hang_up.as_mut()]
        });
        let watches = self.watches.iter_mut().map(|watch| watch.poll.as_mut());
        let all = sockets.chain(watches).chain([self.accept.as_mut()]).flatten();
        // Not found: it has completed, and the completion is on its way.
        for op in all.filter(|op| op.token == token) {
            op.cancelled = true;
        }
    }

    pub(super) fn shutdown(&mut self, fd: RawFd, token: Token) {
        let socket = self.socket_of(fd);
        assert!(socket.send.is_none(), "no shutdown beside a send");
        socket.down_fin = true;
        self.complete(token, Event::Done, false);
    }

    pub(super) fn close(&mut self, fd: &OwnedFd) {
        let fd = fd.as_raw_fd();
        if self.listener == Some(fd) {
            assert!(self.accept.is_none(), "a listener is closed when nothing is in flight");
            self.listener = None;
            for id in std::mem::take(&mut self.backlog) {
                self.sockets[id].accepted = true;
                self.sockets[id].reset_by_server = true;
            }
        } else if let Some(watch) = self.watches.iter_mut().find(|watch| watch.fd == fd) {
            assert!(watch.poll.is_none(), "a descriptor is closed when nothing is in flight");
            // The number may be given out again.
            watch.fd = -1;
        } else {
            let socket = self.socket_of(fd);
            assert!(
                socket.recv.is_none() && socket.send.is_none() && socket.hang_up.is_none(),
                "a socket is closed when nothing is in flight"
            );
            socket.fd = None;
            socket.down_fin = true;
            if socket.up.len() > 0 {
                // tcp(7): closed with bytes unread, which is RST, and what the client has not read may be lost.
                socket.reset_by_server = true;
                socket.down.clear();
            }
        }
    }

    pub(super) fn bytes(&self, lease: &Lease) -> &[u8] {
        self.leases[usize::from(lease.id)].as_deref().expect("a lease that is out")
    }

    pub(super) fn recycle(&mut self, lease: &Lease) {
        if self.sabotage == Some(Sabotage::KeepLease) {
            return;
        }
        let was = self.leases[usize::from(lease.id)].take();
        assert!(was.is_some(), "a lease ends once");
    }

    /// Leases that are out, apart from those whose completions nobody has seen yet.
    pub(super) fn leased(&self) -> usize {
        let queued = self
            .queue
            .iter()
            .filter(|completion| matches!(completion.event, Event::Received(_)))
            .count();
        self.leases.iter().flatten().count() - queued
    }

    fn complete(&mut self, token: Token, event: Event, more: bool) {
        self.queue.push(Completion { token, event, more });
    }

    // --- what happens ---

    /// Something happens, somewhere; false when that place had nothing.
    pub(super) fn step(&mut self, book: &mut Book) -> bool {
        let at = self.rng.below(1 + self.live.len() + self.watches.len());
        self.progress(at, book)
    }

    /// Something happens, if anything can.
    pub(super) fn any_step(&mut self, book: &mut Book) -> bool {
        // From behind, because a socket that is over leaves the list.
        (0..1 + self.live.len() + self.watches.len()).rev().any(|at| self.progress(at, book))
    }

    fn progress(&mut self, at: usize, book: &mut Book) -> bool {
        if at == 0 {
            return self.progress_accept(book);
        }
        if let Some(&id) = self.live.get(at - 1) {
            let (first, second) = (self.rng.chance(500), self.rng.chance(500));
            let done = if first { self.progress_recv(id) } else { self.progress_send(id) };
            let done = done
                || (second && self.progress_recv(id))
                || self.progress_hang_up(id)
                || self.progress_send(id)
                || self.progress_recv(id);
            if !done && self.sockets[id].is_over() {
                self.live.retain(|other| *other != id);
            }
            return done;
        }
        self.progress_poll(at - 1 - self.live.len())
    }

    fn progress_accept(&mut self, book: &mut Book) -> bool {
        let Some(op) = self.accept else { return false };
        if op.cancelled {
            self.accept = None;
            self.complete(op.token, Event::Failed(Errno::CANCELED), false);
            return true;
        }
        if self.backlog.is_empty() {
            return false;
        }
        if self.rng.chance(self.noise / 2) {
            self.accept = None;
            let error =
                self.rng.pick(&[Errno::CONNABORTED, Errno::MFILE, Errno::NOMEM, Errno::INTR]);
            self.complete(op.token, Event::Failed(error), false);
            return true;
        }
        while let Some(id) = self.backlog.pop_front() {
            let more = !self.rng.chance(self.noise);
            let fd: OwnedFd = Doorbell::new().unwrap().into();
            let socket = &mut self.sockets[id];
            socket.accepted = true;
            socket.fd = Some(fd.as_raw_fd());
            book.trace(|| format!("accept socket {id}"));
            self.complete(op.token, Event::Accepted(fd), more);
            if !more {
                self.accept = None;
                break;
            }
            // A burst, or one at a time.
            if self.rng.chance(500) {
                break;
            }
        }
        true
    }

    fn progress_recv(&mut self, id: usize) -> bool {
        let socket = &mut self.sockets[id];
        let Some(op) = socket.recv else { return false };
        let in_time = op.cancelled && !self.rng.chance(300);
        let outcome = if socket.reset_by_client {
            Err(Event::Failed(Errno::CONNRESET))
        } else if in_time {
            Err(Event::Failed(Errno::CANCELED))
        } else if socket.up.len() > 0 {
            match self.leases.iter().position(Option::is_none) {
                None => Err(Event::Failed(Errno::NOBUFS)),
                Some(lease) => {
                    let most = socket.up.len().min(self.recv_size);
                    let len = if self.rng.chance(700) { most } else { self.rng.between(1, most) };
                    self.leases[lease] = Some(socket.up.take(len));
                    Ok(Lease {
                        id: u16::try_from(lease).unwrap(),
                        len: u32::try_from(len).unwrap(),
                    })
                }
            }
        } else if socket.up_fin {
            Err(Event::EndOfStream)
        } else if op.cancelled {
            Err(Event::Failed(Errno::CANCELED))
        } else {
            return false;
        };
        match outcome {
            Ok(lease) => {
                let more = !self.rng.chance(self.noise);
                if !more {
                    self.sockets[id].recv = None;
                }
                self.complete(op.token, Event::Received(lease), more);
            }
            Err(event) => {
                self.sockets[id].recv = None;
                self.complete(op.token, event, false);
            }
        }
        true
    }

    fn progress_send(&mut self, id: usize) -> bool {
        let socket = &mut self.sockets[id];
        let Some(send) = &mut socket.send else { return false };
        if socket.client_gone {
            socket.reset_by_client = true;
        }
        if socket.reset_by_client {
            let token = send.op.token;
            socket.send = None;
            self.complete(token, Event::Failed(Errno::PIPE), false);
            return true;
        }
        let room = socket.capacity.saturating_sub(socket.down.len());
        let most = room.min(send.data.len() - send.at);
        let in_time = send.op.cancelled && self.rng.chance(700);
        if most > 0 && !in_time {
            let len = if self.rng.chance(600) { most } else { self.rng.between(1, most) };
            socket.down.push(&send.data[send.at..send.at + len]);
            send.at += len;
            if send.at == send.data.len() {
                let Some(Sending { op, data, .. }) = socket.send.take() else { return false };
                match self.sabotage {
                    Some(Sabotage::LoseByte) => socket.down.lose_last(),
                    Some(Sabotage::RepeatByte) => socket.down.push(&data[data.len() - 1..]),
                    Some(Sabotage::LoseCompletion) => return true,
                    _ => {}
                }
                self.complete(op.token, Event::Sent(data), false);
            }
            return true;
        }
        if send.op.cancelled {
            let token = send.op.token;
            socket.send = None;
            self.complete(token, Event::Failed(Errno::CANCELED), false);
            return true;
        }
        false
    }

    fn progress_hang_up(&mut self, id: usize) -> bool {
        let socket = &mut self.sockets[id];
        let Some(op) = socket.hang_up else { return false };
        let event = if socket.reset_by_client {
            Event::HungUp
        } else if socket.up_fin {
            Event::EndOfStream
        } else if op.cancelled {
            Event::Failed(Errno::CANCELED)
        } else {
            return false;
        };
        socket.hang_up = None;
        self.complete(op.token, event, false);
        true
    }

    fn progress_poll(&mut self, at: usize) -> bool {
        let noise = self.rng.chance(self.noise);
        let Some(watch) = self.watches.get_mut(at) else { return false };
        let Some(op) = watch.poll else { return false };
        if op.cancelled {
            watch.poll = None;
            self.complete(op.token, Event::Failed(Errno::CANCELED), false);
            return true;
        }
        if !watch.edge {
            return false;
        }
        watch.edge = false;
        watch.told = true;
        if noise {
            watch.poll = None;
        }
        self.complete(op.token, Event::Readable, !noise);
        true
    }
}
