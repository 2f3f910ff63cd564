//! The buffers that QUIC keeps what we send in, counted: how many bytes were not acknowledged, or not even sent.
//!
//! Invariant: a [`Held`] says how many bytes of its connection's pieces are alive; a piece lives until its last byte was
//! acknowledged or its stream was reset. Deliberately absent: a bound, to which the engine keeps; what is received, for
//! which quiche has buffers of its own, counted by [`super::pieces`].

use std::{
    cell::Cell,
    rc::{Rc, Weak},
};

use quiche::{BufFactory, BufSplit};

/// The connections that the engine runs on.
pub type Quic = quiche::Connection<Buffers>;

/// Makes what quiche stores sent data in; accept connections with it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Buffers;

impl BufFactory for Buffers {
    type Buf = Piece;
    type DgramBuf = Vec<u8>;

    fn buf_from_slice(bytes: &[u8]) -> Piece {
        Piece { data: Data::Copied(Rc::from(bytes)), start: 0, end: bytes.len() }
    }

    fn dgram_buf_from_slice(bytes: &[u8]) -> Vec<u8> {
        bytes.to_vec()
    }
}

/// A piece of stream data.
#[derive(Clone, Debug)]
pub struct Piece {
    data: Data,
    start: usize,
    end: usize,
}

#[derive(Clone, Debug)]
enum Data {
    /// Made by quiche itself: short, and not of responses.
    Copied(Rc<[u8]>),
    Counted(Rc<Sent>),
}

/// Bytes that count until they are dropped.
#[derive(Debug)]
pub(super) struct Sent {
    bytes: Vec<u8>,
    held: Held,
}

impl Drop for Sent {
    fn drop(&mut self) {
        let Held(books) = &self.held;
        books.held.set(books.held.get() - self.bytes.len());
        books.released.set(books.released.get() + self.bytes.len() as u64);
    }
}

impl Piece {
    /// Made of these bytes, which count from now on.
    pub(super) fn new(bytes: Vec<u8>, held: &Held) -> Self {
        held.0.held.set(held.0.held.get() + bytes.len());
        let end = bytes.len();
        Self { data: Data::Counted(Rc::new(Sent { bytes, held: held.clone() })), start: 0, end }
    }

    /// What tells whether it is still held.
    pub(super) fn watch(&self) -> Weak<Sent> {
        match &self.data {
            Data::Copied(_) => Weak::new(),
            Data::Counted(sent) => Rc::downgrade(sent),
        }
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        let bytes: &[u8] = match &self.data {
            Data::Copied(bytes) => bytes,
            Data::Counted(sent) => &sent.bytes,
        };
        bytes.get(self.start..self.end).unwrap_or_default()
    }
}

impl BufSplit for Piece {
    fn split_at(&mut self, at: usize) -> Self {
        let middle = self.end.min(self.start + at);
        let rest = Self { data: self.data.clone(), start: middle, end: self.end };
        self.end = middle;
        rest
    }
}

/// What one connection holds of pieces.
#[derive(Clone, Debug, Default)]
pub(super) struct Held(Rc<Books>);

#[derive(Debug, Default)]
struct Books {
    held: Cell<usize>,
    released: Cell<u64>,
}

impl Held {
    /// Bytes of pieces that are alive.
    pub(super) fn bytes(&self) -> usize {
        self.0.held.get()
    }

    /// Bytes of all pieces that were.
    pub(super) fn released(&self) -> u64 {
        self.0.released.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_until_the_last_part_of_their_piece_is_gone() {
        let held = Held::default();
        let mut front = Piece::new(b"abcdef".to_vec(), &held);
        let mut back = front.split_at(2);
        let rest = back.split_at(3);
        assert_eq!([front.as_ref(), back.as_ref(), rest.as_ref()], [&b"ab"[..], b"cde", b"f"]);
        assert_eq!(held.bytes(), 6);
        let watch = rest.watch();
        drop((front, back));
        assert_eq!((held.bytes(), watch.strong_count()), (6, 1));
        drop(rest);
        assert_eq!((held.bytes(), held.released(), watch.strong_count()), (0, 6, 0));
    }

    #[test]
    fn what_quiche_copies_is_not_counted_and_splits_alike() {
        let mut front = Buffers::buf_from_slice(b"abc");
        let rest = front.split_at(5);
        assert_eq!((front.as_ref(), rest.as_ref()), (&b"abc"[..], &b""[..]));
        assert_eq!(front.watch().strong_count(), 0);
    }
}
