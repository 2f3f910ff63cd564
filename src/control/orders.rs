//! What operators were promised an answer to, and have not got it yet.
//!
//! Invariant: whoever waits is answered once: by the event that they wait for, or because the server ends.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::{
    ctl::protocol::Answer,
    limits::CONTROL_ERROR_SIZE_MAX,
    pool::{WorkerId, fault::WorkerError},
};

/// The way to one of them.
pub(super) type Reply = oneshot::Sender<Answer>;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Orders {
    reloads: Vec<(u32, Reply)>,
    drains: Vec<(WorkerId, Reply)>,
    statuses: Vec<Reply>,
    /// When the status is given, whether or not every worker has answered.
    status_due: Option<Instant>,
}

impl Orders {
    pub(super) fn await_reload(&mut self, generation: u32, reply: Reply) {
        self.reloads.push((generation, reply));
    }

    pub(super) fn await_drain(&mut self, worker: WorkerId, reply: Reply) {
        self.drains.push((worker, reply));
    }

    /// True for the first one of a status: the workers are to be asked.
    pub(super) fn await_status(&mut self, reply: Reply, now: Instant, at_most: Duration) -> bool {
        self.statuses.push(reply);
        let first = self.status_due.is_none();
        self.status_due.get_or_insert(now + at_most);
        first
    }

    pub(super) fn status_due(&self) -> Option<Instant> {
        self.status_due
    }

    /// Those who wait for the status.
    pub(super) fn take_statuses(&mut self) -> Vec<Reply> {
        self.status_due = None;
        std::mem::take(&mut self.statuses)
    }

    pub(super) fn reloaded(&mut self, generation: u32, error: Option<&WorkerError>) {
        let (told, rest) =
            std::mem::take(&mut self.reloads).into_iter().partition(|(of, _)| *of == generation);
        self.reloads = rest;
        let told: Vec<(u32, Reply)> = told;
        for (_, reply) in told {
            answer(
                reply,
                match error {
                    None => Answer::Done { message: format!("generation {generation} serves") },
                    Some(error) => {
                        failure("the reload failed, and what served before still does", error)
                    }
                },
            );
        }
    }

    pub(super) fn recycled(&mut self, worker: WorkerId, error: Option<&WorkerError>) {
        let (told, rest) =
            std::mem::take(&mut self.drains).into_iter().partition(|(of, _)| *of == worker);
        self.drains = rest;
        let told: Vec<(WorkerId, Reply)> = told;
        for (_, reply) in told {
            answer(
                reply,
                match error {
                    None => Answer::Done { message: format!("worker {} was replaced", worker.0) },
                    Some(error) => failure(
                        "the successor failed; the worker goes on, and it is tried again",
                        error,
                    ),
                },
            );
        }
    }

    /// The server ends: what they wait for will not come.
    pub(super) fn give_up(&mut self) {
        let reloads = self.reloads.drain(..).map(|(_, reply)| reply);
        for reply in reloads.chain(self.drains.drain(..).map(|(_, reply)| reply)) {
            answer(reply, Answer::error("the server is stopping"));
        }
    }
}

/// Tells one.
pub(super) fn answer(reply: Reply, answer: Answer) {
    // Who has hung up needs no answer.
    drop(reply.send(answer));
}

fn failure(what: &str, error: &WorkerError) -> Answer {
    let mut traceback = match error {
        WorkerError::Application { traceback, .. } => traceback.clone(),
        _ => String::new(),
    };
    cut(&mut traceback);
    let mut error = error.to_string();
    cut(&mut error);
    Answer::Error { message: format!("{what}: {error}"), traceback }
}

/// At a character's end.
fn cut(text: &mut String) {
    let mut end = text.len().min(CONTROL_ERROR_SIZE_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> (Reply, oneshot::Receiver<Answer>) {
        oneshot::channel()
    }

    #[test]
    fn everybody_hears_of_their_own_reload_or_worker_once() {
        let mut orders = Orders::default();
        let mut heard = Vec::new();
        for generation in [2, 3, 2] {
            let (reply, answer) = asked();
            orders.await_reload(generation, reply);
            heard.push(answer);
        }
        let (reply, mut drained) = asked();
        orders.await_drain(WorkerId(0), reply);
        orders.recycled(WorkerId(1), None);
        orders.reloaded(2, None);
        assert!(heard[0].try_recv().is_ok() && heard[2].try_recv().is_ok());
        assert!(heard[1].try_recv().is_err() && drained.try_recv().is_err());
        orders.give_up();
        for answer in [heard[1].try_recv(), drained.try_recv()] {
            assert_eq!(answer, Ok(Answer::error("the server is stopping")));
        }
    }

    #[test]
    fn a_failure_brings_its_traceback_cut_to_measure() {
        let mut orders = Orders::default();
        let (reply, mut answer) = asked();
        orders.await_reload(2, reply);
        let error = WorkerError::Application {
            stage: "import".into(),
            error: "E".into(),
            traceback: "ä".repeat(CONTROL_ERROR_SIZE_MAX),
        };
        orders.reloaded(2, Some(&error));
        let Ok(Answer::Error { message, traceback }) = answer.try_recv() else { panic!() };
        assert!(message.ends_with("the application cannot be imported: E"), "{message}");
        assert_eq!(traceback.len(), CONTROL_ERROR_SIZE_MAX);
    }

    #[test]
    fn those_who_ask_for_the_status_together_get_it_together() {
        let mut orders = Orders::default();
        #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
        let now = Instant::now();
        assert!(orders.await_status(asked().0, now, Duration::from_millis(250)));
        let later = now + Duration::from_millis(100);
        assert!(!orders.await_status(asked().0, later, Duration::from_millis(250)));
        assert_eq!(orders.status_due(), Some(now + Duration::from_millis(250)));
        assert_eq!(orders.take_statuses().len(), 2);
        assert_eq!(orders.status_due(), None);
    }
}
