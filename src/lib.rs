//! FasterAPI edge: one native server in place of nginx + gunicorn + uvicorn.
//!
//! ```text
//!                  main
//!                   │
//!                 shard ──────────────┐          pyworker (PyO3 shell → Python package `fasterapi`)
//!           ┌───────┼────────┐        │              │
//!         proto   uring     pool ──► ipc ◄───────────┘
//!           └───────┴────┬───┴────────┘
//!                  limits, span                control (tokio-uring) drives pool and shard from its own thread;
//!                                              executor drives pool for Rust callers, outside any HTTP server
//! ```
//!
//! ARCHITECTURE.md has the code map, the invariants and the reason for each decision.

pub mod ipc;
pub mod limits;
pub mod span;

#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod control;
#[cfg(feature = "server")]
pub mod ctl;
#[cfg(feature = "executor")]
pub mod executor;
#[cfg(any(feature = "server", feature = "executor"))]
pub mod pool;
#[cfg(feature = "server")]
pub mod proto;
#[cfg(feature = "server")]
pub mod shard;
#[cfg(feature = "server")]
pub mod uring;

#[cfg(test)]
#[cfg(feature = "server")]
mod sim;
#[cfg(all(test, feature = "server"))]
mod tidy;
