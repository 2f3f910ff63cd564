//! Sends between their start and their last completion: what the kernel is pointed to, and what is left to be done.
//!
//! Invariant: a send ends with its last byte, or its first error; datagrams end with the last of them, whatever became of the
//! others. Deliberately absent: the queue, and the promise that this memory outlives the operation (`ring.rs`).

use std::{mem, os::fd::RawFd, ptr};

use io_uring::{opcode, squeue, types::Fd};
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags},
};

use super::{
    DatagramBatch, Event,
    datagrams::{CONTROL_SIZE, Control, NAME_SIZE, name_of},
};
use crate::limits::{DATAGRAM_BATCH_SIZE_MAX, DATAGRAM_SEGMENTS_MAX};

/// Points nowhere.
pub(super) const NO_HEADER: libc::msghdr = libc::msghdr {
    msg_name: ptr::null_mut(),
    msg_namelen: 0,
    msg_iov: ptr::null_mut(),
    msg_iovlen: 0,
    msg_control: ptr::null_mut(),
    msg_controllen: 0,
    msg_flags: 0,
};

/// A send between its start and its last completion.
pub(super) struct Sending {
    /// Never touched while the kernel reads it: neither grown nor written.
    pub(super) data: Vec<u8>,
    /// How much of it the kernel has taken.
    pub(super) sent: usize,
    pub(super) socket: RawFd,
    /// A cancelled send reports what it managed to send as a success; it must not be continued.
    pub(super) cancelled: bool,
}

impl Sending {
    /// Sends what is left of the data, or the first `size_max` bytes of that.
    pub(super) fn entry(&self, user_data: u64, size_max: u32) -> squeue::Entry {
        let rest = &self.data[self.sent..];
        let len = u32::try_from(rest.len()).unwrap_or(size_max).min(size_max);
        let flags = SendFlags::NOSIGNAL.bits() | RecvFlags::WAITALL.bits();
        opcode::Send::new(Fd(self.socket), rest.as_ptr(), len)
            .flags(flags.cast_signed())
            .build()
            .user_data(user_data)
    }

    /// The kernel took some of the data, or failed. `None`: it takes the rest with the next entry.
    pub(super) fn took(&mut self, result: Result<u32, Errno>) -> Option<Event> {
        let len = match result {
            Ok(len) => len as usize,
            Err(errno) => return Some(Event::Failed(errno)),
        };
        self.sent += len;
        if self.sent == self.data.len() {
            Some(Event::Sent(mem::take(&mut self.data)))
        } else if self.cancelled {
            Some(Event::Failed(Errno::CANCELED))
        } else if len == 0 {
            // A stream socket never takes nothing without an error; going on would spin.
            Some(Event::Failed(Errno::IO))
        } else {
            None
        }
    }
}

/// Datagrams between their start and their last completion, with all that the kernel is pointed to. It stays where it is.
pub(super) struct SendingDatagrams {
    header: libc::msghdr,
    vector: libc::iovec,
    name: [u8; NAME_SIZE],
    control: [u8; CONTROL_SIZE],
    batch: DatagramBatch,
    /// How much of the data the kernel has taken, or refused.
    sent: usize,
    /// The kernel cuts; otherwise one datagram goes at a time.
    pub(super) segmented: bool,
    socket: RawFd,
    pub(super) cancelled: bool,
    /// The last refusal.
    refused: Option<Errno>,
}

impl SendingDatagrams {
    pub(super) fn new(batch: DatagramBatch, socket: RawFd, segmented: bool) -> Box<Self> {
        assert!((1..=DATAGRAM_BATCH_SIZE_MAX).contains(&batch.data.len()), "one IP packet");
        assert!(batch.segment > 0 && batch.count() <= DATAGRAM_SEGMENTS_MAX, "too many");
        Box::new(Self {
            header: NO_HEADER,
            vector: libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 },
            name: [0; NAME_SIZE],
            control: [0; CONTROL_SIZE],
            segmented: segmented && batch.count() > 1,
            batch,
            sent: 0,
            socket,
            cancelled: false,
            refused: None,
        })
    }

    /// Sends what is left, or its first datagram. Points into `self`.
    pub(super) fn entry(&mut self, user_data: u64) -> squeue::Entry {
        let (name, name_len) = name_of(self.batch.to);
        let control = Control::of(&self.batch, self.segmented);
        self.name = name;
        self.control = control.bytes;
        let rest = &self.batch.data[self.sent..];
        let len = if self.segmented { rest.len() } else { rest.len().min(self.batch.segment) };
        self.vector.iov_base = rest.as_ptr().cast_mut().cast();
        self.vector.iov_len = len;
        self.header.msg_name = self.name.as_mut_ptr().cast();
        self.header.msg_namelen = name_len.into();
        self.header.msg_iov = &raw mut self.vector;
        self.header.msg_iovlen = 1;
        if control.len > 0 {
            self.header.msg_control = self.control.as_mut_ptr().cast();
        }
        self.header.msg_controllen = control.len;
        opcode::SendMsg::new(Fd(self.socket), &raw const self.header)
            .flags(SendFlags::NOSIGNAL.bits())
            .build()
            .user_data(user_data)
    }

    /// The kernel took some of the data, or refused it. `None`: the next entry goes on.
    pub(super) fn took(&mut self, result: Result<u32, Errno>) -> Option<Event> {
        match result {
            Err(Errno::CANCELED) => return Some(Event::Failed(Errno::CANCELED)),
            // Without checksum offload the kernel cannot cut (EIO), and it does not cut what exceeds the path's MTU
            // (EINVAL, or EMSGSIZE); nothing was sent.
            Err(Errno::IO | Errno::INVAL | Errno::MSGSIZE) if self.segmented => {
                self.segmented = false;
                return (self.cancelled).then_some(Event::Failed(Errno::CANCELED));
            }
            // All or nothing, as datagrams are.
            Ok(_) => {}
            Err(errno) => self.refused = Some(errno),
        }
        self.sent += self.vector.iov_len;
        if self.sent < self.batch.data.len() {
            return self.cancelled.then_some(Event::Failed(Errno::CANCELED));
        }
        let data = mem::take(&mut self.batch.data);
        Some(self.refused.map_or(Event::Sent(data), Event::Failed))
    }
}
