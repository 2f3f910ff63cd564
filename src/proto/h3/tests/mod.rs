//! What the HTTP/3 engine accepts, what it refuses, what it sends, and what it does not let a client do.
//!
//! Honest clients are `quiche::h3`, whose frames and field sections are not ours; attacks are frames written by hand.

mod attacks;
mod client;
mod flow;
mod lifecycle;
mod loss;
mod raw;
mod requests;
mod responses;
mod timeouts;

use crate::proto::stream::{
    Options,
    tests::{DATE, Head, OPTIONS, answer, options},
};
