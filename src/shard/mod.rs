//! One thread, one uring, its own connections: the only place where the layers meet.

pub mod handle;

pub use handle::{Command, Handle, Options, Report};

/// Temporary stand-in for the loop, being written on its own branch.
#[expect(clippy::needless_pass_by_value, reason = "the signature of the real one")]
pub fn run(options: Options, mailbox: handle::Mailbox) {
    let shard = options.shard;
    let handle::Mailbox { commands, doorbell, reports } = mailbox;
    let _ = reports.send(Report::Started { shard, features: "none".to_owned() });
    let mut links = Vec::new();
    for command in commands {
        let _ = doorbell.hush();
        match command {
            Command::Attach(link, routes) => links.push((link, routes)),
            Command::Drain(_) => break,
        }
    }
    let _ = reports.send(Report::Drained { shard });
}
