//! The pool of worker processes: which worker gets an exchange, and how a worker's life goes.
//!
//! Deliberately absent: sockets of clients, HTTP.

pub mod channel;
pub mod fault;
pub mod lifecycle;
pub mod link;
pub mod process;

pub use link::{Incarnation, Link, Load, WorkerId};
