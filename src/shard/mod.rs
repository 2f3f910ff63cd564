//! One thread, one uring, its own connections: the only place where the layers meet.

pub mod handle;

pub use handle::{Command, Handle, Options, Report};
