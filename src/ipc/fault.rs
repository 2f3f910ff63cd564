//! What the other side of a lane can do wrong.
//!
//! Invariant: a [`Fault`] is always the peer's. On the edge it means a faulty worker (killed, counted, respawned);
//! it never panics the edge. "Full" and "nothing there" are not faults.

use thiserror::Error;

/// A violation of the lane's protocol by the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// The tail went backwards, off its alignment, or further ahead than the ring is long.
    #[error("ring tail {tail} is not a possible successor of head {head}")]
    Tail {
        /// What the peer published.
        tail: u64,
        /// How far this side has read.
        head: u64,
    },
    /// The head went backwards, or past what was written.
    #[error("ring head {head} is not between {floor} and {tail}")]
    Head {
        /// What the peer published.
        head: u64,
        /// What it had published before.
        floor: u64,
        /// How far this side has written.
        tail: u64,
    },
    /// A record's length is below its header, above the bound, or reaches past what was published.
    #[error("record length {len} at a place with {available} bytes")]
    RecordLength {
        /// The record's own length field.
        len: u32,
        /// Bytes that were published from there on, without wrapping.
        available: u64,
    },
    /// A PAD that does not fill the ring to its end, or with no record behind it.
    #[error("misplaced padding of {len} bytes at a place with {available}")]
    Pad {
        /// The padding's own length field.
        len: u32,
        /// Bytes that were published from there on, without wrapping.
        available: u64,
    },
    /// A record kind that this direction does not have.
    #[error("unknown record kind {kind}")]
    Kind {
        /// The record's kind field.
        kind: u16,
    },
    /// The payload does not have the form of its kind.
    #[error("malformed {what} record")]
    Payload {
        /// Which kind.
        what: &'static str,
    },
    /// A chunk index outside the arena, or a length above the chunk size.
    #[error("chunk {index} with {len} bytes does not exist")]
    Chunk {
        /// The chunk's index.
        index: u32,
        /// The length that was claimed.
        len: u32,
    },
    /// A chunk was given back that was not out.
    #[error("chunk {index} was given back but is not leased")]
    Release {
        /// The chunk's index.
        index: u32,
    },
    /// More body bytes than there was credit for.
    #[error("{bytes} body bytes beyond the credit of the exchange")]
    Credit {
        /// By how much.
        bytes: u64,
    },
    /// An exchange that was never given to this peer.
    #[error("exchange {exchange:#x} does not belong to this peer")]
    Exchange {
        /// The id in the record.
        exchange: u64,
    },
    /// A record that its exchange cannot be followed by.
    #[error("{what} record out of order on exchange {exchange:#x}")]
    Order {
        /// Which kind.
        what: &'static str,
        /// The id in the record.
        exchange: u64,
    },
}
