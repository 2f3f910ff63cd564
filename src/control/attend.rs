//! One task per worker process: what it says, and its end.
//!
//! Invariant: the exit is the last event of a process, after every whole line that it had sent; and a process that was
//! started is reaped here and nowhere else. What a worker must not say is not passed on: a second `ready`, a pong without ping;
//! so that however fast it talks, the events that wait are few.

use std::{cell::Cell, io, process::ExitStatus, rc::Rc};

use tokio::{net::unix::OwnedReadHalf, process::Child, sync::mpsc::UnboundedSender};

use crate::pool::{
    channel::{Replies, Reply, UNASKED},
    fault::WorkerError,
    lifecycle::Id,
};

/// What happened to one process.
#[derive(Debug)]
pub(super) enum Event {
    /// It said something.
    Reply(Id, Reply),
    /// It said something that it must not say; nothing that follows is listened to.
    Broken(Id, WorkerError),
    /// It has ended.
    Exited(Id, ExitStatus),
}

pub(super) async fn attend(
    id: Id,
    mut child: Child,
    channel: OwnedReadHalf,
    expected: Rc<Cell<Option<u64>>>,
    events: UnboundedSender<Event>,
) {
    let replies = Replies::default();
    let mut listening = Listening { id, replies, replied: false, open: true, expected, events };
    let status = loop {
        tokio::select! {
            status = child.wait() => break status,
            ready = channel.readable(), if listening.open => match ready {
                Ok(()) => listening.read(&channel),
                Err(error) => listening.broken(&error),
            }
        }
    };
    // What it said before it ended. Not until the end of the stream: a child of its own may still hold the other side.
    listening.read(&channel);
    match status {
        Ok(status) => listening.send(Event::Exited(id, status)),
        Err(error) => unreachable!("waiting for a child that nobody else waits for: {error}"),
    }
}

/// Of 16 KiB each: together more than the 208 KiB that a socket holds by default.
const READS_MAX: usize = 32;

struct Listening {
    id: Id,
    replies: Replies,
    /// A worker has one thing to say unasked: ready, or failed.
    replied: bool,
    /// The ping that is under way.
    expected: Rc<Cell<Option<u64>>>,
    /// False after the end of the stream, or of its sense.
    open: bool,
    events: UnboundedSender<Event>,
}

impl Listening {
    /// Reads what is there, up to more than a socket holds: a worker that never stops talking must not keep the thread.
    fn read(&mut self, channel: &OwnedReadHalf) {
        let mut buffer = [0; 16 * 1024];
        for _ in 0..READS_MAX {
            if !self.open {
                return;
            }
            match channel.try_read(&mut buffer) {
                Ok(0) => self.open = false,
                Ok(count) => {
                    self.replies.handle(buffer.get(..count).unwrap_or_default());
                    self.pass_on();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.broken(&error),
            }
        }
    }

    fn pass_on(&mut self) {
        while self.open {
            match self.replies.poll() {
                Ok(Some(Reply::Pong(pong))) if self.expected.get() == Some(pong.id) => {
                    self.expected.set(None);
                    self.send(Event::Reply(self.id, Reply::Pong(pong)));
                }
                Ok(Some(Reply::Pong(_))) => {
                    self.refuse(WorkerError::Channel(UNASKED.to_owned()));
                }
                Ok(Some(reply)) if !self.replied => {
                    self.replied = true;
                    self.send(Event::Reply(self.id, reply));
                }
                Ok(Some(_)) => {
                    let error = WorkerError::Channel("more than one message".to_owned());
                    self.refuse(error);
                }
                Ok(None) => return,
                Err(error) => self.refuse(error),
            }
        }
    }

    fn refuse(&mut self, error: WorkerError) {
        self.open = false;
        self.send(Event::Broken(self.id, error));
    }

    /// A reset says that the process is gone; its exit will say more.
    fn broken(&mut self, error: &io::Error) {
        self.open = false;
        tracing::debug!("worker {}: control channel: {error}", self.id.0.0);
    }

    fn send(&self, event: Event) {
        // The supervisor may have finished without this process (see `REAP_MAX`).
        let _ = self.events.send(event);
    }
}
