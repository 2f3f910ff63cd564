//! The in-memory duplex that the HTTP/2 library reads and writes in place of a socket.
//!
//! Invariant: a write is always taken whole, so that whatever the library has ready is in `output` when it returns; what
//! grows in answer to the client is bounded by not letting the library read while `output` is full. Deliberately absent:
//! wakers. Whoever changes something polls the library afterwards.

use std::{
    cell::RefCell,
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits::{H2_INPUT_SIZE_MAX, H2_UNSENT_SIZE_MAX};

/// What both ends share.
#[derive(Debug, Default)]
pub(super) struct Queues {
    /// Received, and from `at` on not read by the library.
    input: Vec<u8>,
    at: usize,
    /// Written by the library and not taken by the caller.
    pub(super) output: Vec<u8>,
    /// Nothing is received any more.
    pub(super) at_end: bool,
}

impl Queues {
    /// How many more bytes are taken now.
    pub(super) fn room(&self) -> usize {
        H2_INPUT_SIZE_MAX - self.waiting()
    }

    /// Received bytes that the library has not read.
    pub(super) fn waiting(&self) -> usize {
        self.input.len() - self.at
    }

    /// Takes received bytes; the caller keeps to [`Self::room`].
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.input.drain(..self.at);
        self.at = 0;
        self.input.extend_from_slice(bytes);
    }

    /// Drops what was received.
    pub(super) fn discard(&mut self) {
        (self.input, self.at) = (Vec::new(), 0);
    }

    fn read(&mut self, buffer: &mut ReadBuf<'_>) {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let taken = rest.get(..buffer.remaining()).unwrap_or(rest);
        buffer.put_slice(taken);
        self.at += taken.len();
        if self.at == self.input.len() {
            self.input.clear();
            self.at = 0;
        }
    }
}

/// The library's end.
#[derive(Debug)]
pub(super) struct Pipe(pub(super) Rc<RefCell<Queues>>);

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut queues = self.0.borrow_mut();
        if queues.output.len() > H2_UNSENT_SIZE_MAX || (queues.waiting() == 0 && !queues.at_end) {
            return Poll::Pending;
        }
        queues.read(buffer);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().output.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let output = &mut self.0.borrow_mut().output;
        let before = output.len();
        for slice in slices {
            output.extend_from_slice(slice);
        }
        Poll::Ready(Ok(output.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
