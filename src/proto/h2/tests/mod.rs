//! What the HTTP/2 engine accepts, what it refuses, what it sends, and what it does not let a client do.
//!
//! Honest clients are the library's own client half; attacks are frames written by hand.
#![expect(clippy::disallowed_methods, reason = "a test has no shard to give it the time")]

mod attacks;
mod client;
mod flow;
mod lifecycle;
mod raw;
mod requests;
mod responses;
mod splits;
mod timeouts;

use super::H2;
use crate::proto::stream::tests::{DATE, Head, OPTIONS, answer, options};
