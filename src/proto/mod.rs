//! Bytes ⇄ exchanges, without I/O: no file descriptor, no clock, no unsafe, no runtime.
//!
//! An engine is fed what the peer sent and says what it means; it is told what to answer and says which
//! bytes that makes. The caller owns the buffers, the sockets and the time.

pub mod answer;
mod budget;
pub mod error;
pub mod field;
pub mod forwarded;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod h1;
pub mod h2;
pub mod h3;
pub mod head;
pub mod quic;
pub mod rate;
mod request;
mod response;
pub mod route;
pub mod stream;
pub mod target;
pub mod tls;
pub mod ws;
