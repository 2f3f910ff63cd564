//! The kernel, as the shard sees it: [`Driver`], about a dozen typed operations.
//!
//! Invariant: every operation that was started completes exactly once (a multishot one: any number of times with
//! `more`, then once without), and what it owned (buffer, descriptor) comes back with that completion or is closed.
//! Deliberately absent: any knowledge of HTTP or workers.
//!
//! `ring.rs` is the driver on the real kernel, `buffers.rs` the memory that its receives land in, `datagrams.rs` how
//! datagrams and what is said of them are laid out, `send.rs` a send under way, `setup.rs` how a ring comes to be (or why it cannot), `token.rs` what a
//! completion belongs to.

mod buffers;
mod datagrams;
mod ring;
mod send;
mod setup;
mod token;

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    time::{Duration, Instant, SystemTime},
};

pub use datagrams::{Arrived, DatagramBatch, Instruction, prepare, steer};
pub use ring::{Stats, Uring};
pub use setup::{Features, Options, Rung, Unavailable};
pub use token::Token;

/// A provided buffer that the kernel filled; give it back with [`Driver::recycle`]. One that is dropped instead is
/// lost to its driver for good.
#[derive(Debug)]
pub struct Lease {
    pub(crate) id: u16,
    pub(crate) len: u32,
}

/// The same for datagrams; give it back with [`Driver::recycle_datagrams`].
#[derive(Debug)]
pub struct DatagramLease(pub(crate) Lease);

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A connection was accepted (non-blocking, close-on-exec).
    Accepted(OwnedFd),
    /// Bytes arrived.
    Received(Lease),
    /// Datagrams arrived, all from one address; [`Driver::datagrams`] shows them.
    Datagrams(DatagramLease),
    /// The peer sent its last byte.
    EndOfStream,
    /// All of the buffer was sent; here it is back, for reuse.
    Sent(Vec<u8>),
    /// A polled descriptor became readable.
    Readable,
    /// Nothing comes on this socket any more and nothing gets away: its peer has reset it, or both sides have ended.
    HungUp,
    /// A shutdown is done.
    Done,
    /// The operation failed. A send's buffer is dropped.
    Failed(rustix::io::Errno),
}

/// One completion.
#[derive(Debug)]
pub struct Completion {
    /// The token that the operation was started with.
    pub token: Token,
    /// What happened.
    pub event: Event,
    /// True while a multishot operation is still armed in the kernel.
    pub more: bool,
}

/// Until when a turn may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Submit, take what has completed, come back at once.
    Poll,
    /// Block until something completes.
    Forever,
    /// Block until something completes, at most this long.
    AtMost(Duration),
}

/// The operations of a shard. Operations are queued; [`Driver::turn`] submits them all and reaps in one system call.
/// No operation fails when it is queued: a full submission queue is submitted and then continued.
///
/// A token names one operation in flight, and a token's kind always the same method of this trait: that is how a
/// completion is read. A descriptor must stay open until its last operation has completed; [`Driver::close`] is the way
/// to part with it. A multishot operation may end by itself at any time (`more` is false): start it again if it is
/// still wanted.
pub trait Driver {
    /// Accepts connections until cancelled (multishot).
    fn accept(&mut self, listener: BorrowedFd<'_>, token: Token);
    /// Receives into provided buffers until cancelled (multishot). When the buffers ran out it ends with
    /// `Failed(NOBUFS)`; start it again once leases were recycled.
    fn recv(&mut self, socket: BorrowedFd<'_>, token: Token);
    /// Sends all of `data` (MSG_NOSIGNAL | MSG_WAITALL). At most one at a time per socket.
    fn send(&mut self, socket: BorrowedFd<'_>, data: Vec<u8>, token: Token);
    /// Receives datagrams into provided buffers of their own until cancelled (multishot). When the buffers ran out it ends
    /// with `Failed(NOBUFS)`; start it again once leases were recycled. An empty datagram ends it as well. For a socket that
    /// went through [`prepare`], and a driver that was made with buffers for datagrams.
    fn recv_datagrams(&mut self, socket: BorrowedFd<'_>, token: Token);
    /// Sends datagrams, in one go where the kernel can cut them up itself (udp(7), `UDP_SEGMENT`), else one after the other.
    /// Completes as `Sent` when the kernel has taken them all, which says nothing of the network, and as `Failed` with what
    /// became of the last one that it did not take: that one, and perhaps others, are lost. Any number at a time.
    fn send_datagrams(&mut self, socket: BorrowedFd<'_>, batch: DatagramBatch, token: Token);
    /// Reports readability until cancelled (multishot, edge-triggered); never reads.
    fn poll(&mut self, fd: BorrowedFd<'_>, token: Token);
    /// Reports, once, that a socket has hung up (`HungUp`), or that its peer has sent FIN behind bytes that may not have been
    /// received (`EndOfStream`); also while nothing is received from it.
    /// (A multishot receive is not woken again for a reset that came before it had taken the last byte.)
    fn hang_up(&mut self, socket: BorrowedFd<'_>, token: Token);
    /// Asks for the operation of this token to end; it completes without `more`, as `Failed(CANCELED)` if it had to be cut off.
    /// The cancel itself reports nothing.
    fn cancel(&mut self, token: Token);
    /// Sends FIN: `shutdown(SHUT_WR)`, at once, so only when no send is in flight on the socket. Completes as `Done` or
    /// `Failed`.
    fn shutdown_write(&mut self, socket: BorrowedFd<'_>, token: Token);
    /// Closes a descriptor on which nothing is in flight any more. The close reports nothing.
    fn close(&mut self, fd: OwnedFd);
    /// Submits everything queued, waits as told, and appends what completed. It may come back with nothing: at the
    /// deadline, after a signal, or when what completed was of no interest to the caller.
    fn turn(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()>;
    /// True when a turn would find a completion without waiting; no system call.
    fn completions_visible(&mut self) -> bool;
    /// The bytes of a lease.
    fn bytes(&self, lease: &Lease) -> &[u8];
    /// Gives a leased buffer back to the kernel.
    fn recycle(&mut self, lease: Lease);
    /// The datagrams of a lease; `None` if what the kernel wrote is not what was asked for.
    fn datagrams(&mut self, lease: &DatagramLease) -> Option<Arrived<'_>>;
    /// Gives a leased buffer back to the kernel.
    fn recycle_datagrams(&mut self, lease: DatagramLease);
    /// What it took so far.
    fn stats(&self) -> Stats;
    /// Monotonic time.
    fn now(&self) -> Instant;
    /// The time of day, for what people read.
    fn wall_clock(&self) -> SystemTime;
}
