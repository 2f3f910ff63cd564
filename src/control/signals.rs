//! What an operator says by signals.
//!
//! Invariant: every signal that is listened to has a meaning here; which one, README's table says too.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// SIGTERM, SIGINT: finish and end; the second one: at once. With its number.
    Stop(i32),
    /// SIGHUP: load the application anew.
    Reload,
    /// SIGUSR1: the access log was moved away.
    ReopenLog,
    /// SIGTTIN: one worker more.
    More,
    /// SIGTTOU: one worker less.
    Fewer,
}

/// What the control thread listens to.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user1: Signal,
    more: Signal,
    fewer: Signal,
}

impl Signals {
    /// Inside the runtime.
    pub(super) fn new() -> io::Result<Self> {
        let raw = |signal: rustix::process::Signal| SignalKind::from_raw(signal.as_raw());
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            more: signal(raw(rustix::process::Signal::TTIN))?,
            fewer: signal(raw(rustix::process::Signal::TTOU))?,
        })
    }

    pub(super) async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.terminate.recv() => Order::Stop(SignalKind::terminate().as_raw_value()),
            _ = self.interrupt.recv() => Order::Stop(SignalKind::interrupt().as_raw_value()),
            _ = self.hang_up.recv() => Order::Reload,
            _ = self.user1.recv() => Order::ReopenLog,
            _ = self.more.recv() => Order::More,
            _ = self.fewer.recv() => Order::Fewer,
        }
    }
}
