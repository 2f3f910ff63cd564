//! The pool of worker processes: which worker gets an exchange, and how a worker's life goes.
//!
//! Deliberately absent: sockets of clients, HTTP.

pub mod link;

pub use link::{Incarnation, Link, Load, WorkerId};
