//! An eventfd that says "look at your lanes".
//!
//! Invariant: a kick never blocks (EFD_NONBLOCK) and is never lost (a saturated counter is readable already).
//! Whether to kick is decided by the rings; a doorbell may be shared by many lanes.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    io::{Errno, read, write},
};

/// See the module.
#[derive(Debug)]
pub struct Doorbell {
    fd: OwnedFd,
}

impl Doorbell {
    /// A new doorbell, not rung.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd })
    }

    /// One that the peer made.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// A second handle on the same doorbell.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    /// Rings. Errors other than "rung already" are the system's.
    pub fn kick(&self) -> io::Result<()> {
        match rustix::io::retry_on_intr(|| write(&self.fd, &1_u64.to_ne_bytes())) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes it quiet again: after the wake-up, before the lanes are looked at.
    ///
    /// An edge-triggered poll could do without, were all who ring honest. A peer that fills the counter makes everybody
    /// else's kicks bounce without an edge, until it is read.
    pub fn hush(&self) -> io::Result<()> {
        let mut count = [0; 8];
        match rustix::io::retry_on_intr(|| read(&self.fd, &mut count)) {
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(error) => Err(error.into()),
        }
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
}
