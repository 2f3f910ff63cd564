//! Whatever clients, worker and kernel do, in whatever order: the books balance after every step, the shard goes to sleep,
//! and when all is over nothing is left.

use std::time::Duration;

use proptest::prelude::*;

use super::script::Stage;
use crate::{
    ipc::message::{Response, ToWorker},
    limits,
    span::{Field, Span},
    uring::Token,
};

#[derive(Clone, Copy, Debug)]
enum Step {
    Connect,
    Send { client: usize, what: usize },
    Finish { client: usize },
    Reset { client: usize },
    Respond { exchange: usize, length: Option<u64>, body: usize, end: bool, bad: bool },
    Body { exchange: usize, len: usize, end: bool },
    Abort { exchange: usize },
    Kernel { stuck: bool },
    Wait { ms: u64 },
    WorkerDies { with: Option<usize> },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let client = 0..4_usize;
    let step = prop_oneof![
        3 => Just(Step::Connect),
        8 => (client.clone(), 0..PIECES.len()).prop_map(|(client, what)| Step::Send { client, what }),
        1 => client.clone().prop_map(|client| Step::Finish { client }),
        1 => client.clone().prop_map(|client| Step::Reset { client }),
        6 => (client.clone(), prop::option::of(0..4_u64), 0..4_usize, any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(exchange, length, body, end, bad)| Step::Respond { exchange, length, body, end, bad }),
        4 => (client.clone(), 0..100_000_usize, any::<bool>())
            .prop_map(|(exchange, len, end)| Step::Body { exchange, len, end }),
        1 => client.clone().prop_map(|exchange| Step::Abort { exchange }),
        2 => any::<bool>().prop_map(|stuck| Step::Kernel { stuck }),
        1 => (0..40_000_u64).prop_map(|ms| Step::Wait { ms }),
        1 => prop::option::of(client).prop_map(|with| Step::WorkerDies { with }),
    ];
    prop::collection::vec(step, 1..60)
}

const PIECES: [&[u8]; 10] = [
    b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n",
    b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n",
    b"HEAD /hang HTTP/1.1\r\nhost: test\r\n\r\n",
    b"GET /nowhere HTTP/1.1\r\nhost: test\r\n\r\n",
    b"GET /hang HTTP/1.0\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 300000\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n\r\n",
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    &[b'x'; 60_000],
];

/// The worker's view of an exchange.
struct Open {
    id: u64,
    responded: bool,
    credit: usize,
}

struct Chaos {
    stage: Stage,
    clients: Vec<Token>,
    open: Vec<Open>,
}

impl Chaos {
    fn step(&mut self, step: Step) {
        match step {
            Step::Connect if self.clients.len() < 4 => self.clients.push(self.stage.connect()),
            Step::Connect => {}
            Step::Send { client, what } => {
                if let Some(client) = self.listening(client) {
                    self.stage.send(client, PIECES[what]);
                }
            }
            Step::Finish { client } => {
                if let Some(client) = self.listening(client) {
                    self.stage.finish(client);
                }
            }
            Step::Reset { client } => {
                if let Some(client) = self.listening(client) {
                    self.stage.reset(client);
                }
            }
            Step::Respond { exchange, length, body, end, bad } => {
                self.respond(exchange, length, body, end, bad);
            }
            Step::Body { exchange, len, end } => self.body(exchange, len, end),
            Step::Abort { exchange } => {
                if exchange < self.open.len() {
                    let open = self.open.swap_remove(exchange);
                    assert!(self.stage.lane.send_abort(open.id).unwrap());
                }
            }
            Step::Kernel { stuck } => self.stage.shard.driver.stuck = stuck,
            Step::Wait { ms } => self.stage.wait(Duration::from_millis(ms)),
            Step::WorkerDies { with } => {
                self.stage.worker_dies();
                match with.and_then(|client| self.listening(client)) {
                    Some(client) => self.stage.reset(client),
                    None => self.stage.settle(),
                }
                self.open.clear();
                self.stage.attach();
            }
        }
        self.work();
        self.stage.publish();
        self.work();
        self.stage.settle();
        self.check();
    }

    fn listening(&self, client: usize) -> Option<Token> {
        self.clients.get(client).copied().filter(|client| self.stage.is_receiving(*client))
    }

    fn respond(&mut self, at: usize, length: Option<u64>, body: usize, end: bool, bad: bool) {
        let Some(open) = self.open.get_mut(at).filter(|open| !open.responded) else { return };
        open.responded = true;
        open.credit -= body;
        let field = Field { name: Span::new(0, 1).unwrap(), value: Span::new(1, 1).unwrap() };
        let response = Response {
            status: 200,
            fields: &[field],
            blob: if bad { b"x\n" } else { b"xy" },
            content_length: length,
            body: &b"body"[..body],
            end,
        };
        assert!(self.stage.lane.send_response(open.id, &response).unwrap());
        if end {
            self.open.swap_remove(at);
        }
    }

    fn body(&mut self, at: usize, len: usize, end: bool) {
        let Some(open) = self.open.get_mut(at).filter(|open| open.responded) else { return };
        let data = vec![b'y'; len.min(open.credit)];
        let Some(taken) = self.stage.lane.send_body(open.id, &data, end).unwrap() else { return };
        open.credit -= taken;
        if end && taken == data.len() {
            self.open.swap_remove(at);
        }
    }

    /// What the worker does by itself: it takes in, gives credit, and ends what was cancelled.
    fn work(&mut self) {
        loop {
            let (credit, cancelled) = match self.stage.lane.receive().unwrap() {
                None => break,
                Some((id, ToWorker::Request(request))) => {
                    self.open.push(Open { id, responded: false, credit: limits::EXCHANGE_WINDOW });
                    ((id, request.body.len()), None)
                }
                Some((id, ToWorker::Body { data, .. })) => ((id, data.len()), None),
                Some((id, ToWorker::Credit(bytes))) => {
                    if let Some(open) = self.open.iter_mut().find(|open| open.id == id) {
                        open.credit += usize::try_from(bytes).unwrap();
                    }
                    continue;
                }
                Some((id, ToWorker::Cancel(_))) => ((id, 0), Some(id)),
            };
            if credit.1 > 0 {
                assert!(self.stage.lane.send_credit(credit.0, credit.1 as u64).unwrap());
            }
            if let Some(at) = self.open.iter().position(|open| Some(open.id) == cancelled) {
                let open = self.open.swap_remove(at);
                assert!(self.stage.lane.send_abort(open.id).unwrap());
            }
        }
        self.stage.lane.publish().unwrap();
    }

    /// Connections and exchanges name each other, and load is what is open.
    fn check(&mut self) {
        let core = &mut self.stage.shard.core;
        let mut named = 0;
        for (index, connection) in &core.connections {
            if let Some(exchange) = connection.exchange() {
                let entry = core.exchanges.get_mut(exchange).expect("an exchange that lives");
                assert_eq!(entry.connection, Some(index));
                named += 1;
            }
        }
        let all = core.exchanges.of_link(0);
        assert_eq!(all.len(), core.exchanges.len());
        let awaited = all
            .iter()
            .filter(|index| core.exchanges.get_mut(**index).unwrap().connection.is_some())
            .count();
        assert_eq!(awaited, named);
        assert_eq!(core.exchanges.len(), self.stage.load.get() as usize);
        while let Ok(report) = self.stage.reports.try_recv() {
            assert!(matches!(report, super::Report::AccessLog(_)), "{report:?}");
        }
    }

    /// Everybody goes; what is left?
    fn end(mut self) {
        self.stage.shard.driver.stuck = false;
        self.stage.settle();
        for client in std::mem::take(&mut self.clients) {
            if self.stage.is_receiving(client) {
                self.stage.reset(client);
            }
        }
        for _ in 0..8 {
            // A pipelined request may follow the one that ends here.
            for open in std::mem::take(&mut self.open) {
                assert!(self.stage.lane.send_abort(open.id).unwrap());
            }
            self.stage.publish();
            self.stage.wait(limits::KEEPALIVE_TIMEOUT + Duration::from_secs(1));
            self.work();
        }
        assert_eq!((self.stage.load.get(), self.stage.held()), (0, (0, 0)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_books_balance_after_every_step_and_nothing_is_left(steps in steps()) {
        let mut chaos = Chaos { stage: Stage::new(), clients: Vec::new(), open: Vec::new() };
        for step in steps {
            chaos.step(step);
        }
        chaos.end();
    }
}
