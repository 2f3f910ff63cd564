//! What wakes a sleeper: "look at your lanes".
//!
//! Invariant: a kick never blocks and is never lost, whatever the other process does to its descriptor. O_NONBLOCK
//! belongs to the open file description, and an eventfd has one for both sides: a worker could clear the flag and fill
//! the counter, and the edge's next write would block. So the edge rings a worker through a pipe, whose ends are two
//! descriptions; and each lane has an eventfd of its own towards its shard, which the shard polls edge-triggered and
//! neither reads nor writes. Whether to kick is decided by the rings.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    io::{Errno, read, write},
    pipe::{PipeFlags, pipe_with},
};

/// See the module.
#[derive(Debug)]
pub struct Doorbell {
    fd: OwnedFd,
}

impl Doorbell {
    /// An eventfd, not rung: for a ringing side that the listening side need not fear, or the other way round.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd })
    }

    /// A pipe: the end to ring, and the end to listen on. Neither side can change how the other's end behaves.
    pub fn pipe() -> io::Result<(Self, Self)> {
        let (listen, ring) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok((Self { fd: ring }, Self { fd: listen }))
    }

    /// One that the peer made.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// A second handle on the same doorbell.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    /// Rings. One that is rung already, or that nobody listens to any more (pipe(7), EPIPE), is left as it is.
    ///
    /// False when the system has no memory for it now (a pipe's first byte takes a page): to be tried again.
    pub fn kick(&self) -> io::Result<bool> {
        match rustix::io::retry_on_intr(|| write(&self.fd, &1_u64.to_ne_bytes())) {
            Ok(_) | Err(Errno::AGAIN | Errno::PIPE) => Ok(true),
            Err(Errno::NOMEM | Errno::NOBUFS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes it quiet again: after the wake-up, before the lanes are looked at. A pipe with more kicks than one read
    /// takes stays readable, and is read again.
    pub fn hush(&self) -> io::Result<()> {
        let mut kicks = [0; 512];
        match rustix::io::retry_on_intr(|| read(&self.fd, &mut kicks)) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl From<Doorbell> for OwnedFd {
    fn from(bell: Doorbell) -> Self {
        bell.fd
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn a_kick_on_a_saturated_doorbell_neither_blocks_nor_fails() {
        let bell = Doorbell::new().unwrap();
        write(&bell, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        bell.kick().unwrap();
        bell.hush().unwrap();
        bell.hush().unwrap();
        bell.kick().unwrap();
    }

    #[test]
    fn nothing_that_the_listener_does_to_its_end_makes_a_kick_block_or_fail() {
        use rustix::fs::{OFlags, fcntl_setfl};
        let (ring, listen) = Doorbell::pipe().unwrap();
        fcntl_setfl(&listen, OFlags::empty()).unwrap();
        for _ in 0..100_000 {
            ring.kick().unwrap();
        }
        listen.hush().unwrap();
        drop(listen);
        ring.kick().unwrap();
    }
}
