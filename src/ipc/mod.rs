//! Memory shared with one worker: layout, segment, ring, doorbell, chunk, message, lane. The server and the Python
//! module link this same code, so there is one implementation of the protocol for both sides.
//!
//! ```text
//!          shard                     segment E (edge writes, worker maps read-only)
//!   ┌──────────────┐   records  ┌──────────────────────────────────────┐
//!   │ EdgeLane  tx ├───────────►│ TAIL HEAD EVENT │ ring │ chunks …     │
//!   │           rx │◄────────┐  └──────────────────────────────────────┘
//!   └──────────────┘         │       segment W (worker writes, edge maps read-only)
//!   ┌──────────────┐ records │  ┌──────────────────────────────────────┐
//!   │ WorkerLane tx├─────────┴─►│ TAIL HEAD EVENT │ ring │ chunks …     │
//!   └──────────────┘            └──────────────────────────────────────┘
//! ```
//!
//! Happens-before edges, each named at its store and at its load in [`ring`]: `record-published`, `slot-released`,
//! `armed`, `withdrawn`. A chunk's bytes ride on `record-published` (the record names them) and its reuse on the same edge of the
//! opposite ring (the RELEASE record).
//!
//! Invariants: every shared word has exactly one writer; each is loaded once and checked; every record is copied out
//! before it is parsed; a violation is a [`fault::Fault`] of the peer and never a panic. Nothing in here knows HTTP,
//! processes or the uring.

pub mod chunk;
pub mod doorbell;
pub mod fault;
#[cfg(all(any(test, fuzzing), not(loom)))]
#[doc(hidden)]
pub mod fuzzing;
pub mod lane;
#[cfg(test)]
#[cfg(loom)]
mod lane_loom;
pub mod layout;
pub mod message;
pub mod record;
pub mod ring;
#[cfg(test)]
#[cfg(loom)]
mod ring_loom;
#[cfg_attr(loom, path = "segment_loom.rs")]
pub mod segment;
#[cfg(test)]
#[cfg(not(any(loom, miri)))]
mod stress;
mod sync;

pub use doorbell::Doorbell;
pub use fault::Fault;
pub use lane::{EdgeLane, WorkerLane};
pub use ring::Withdrawal;
pub use segment::Segment;
