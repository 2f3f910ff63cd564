//! Whatever clients, worker and kernel do, in whatever order: the books balance after every step, the shard goes to sleep,
//! and when all is over nothing is left.

use std::{collections::HashMap, time::Duration};

use proptest::prelude::*;

use super::{super::client::Client, script::Stage};
use crate::{
    ipc::{
        WorkerLane,
        message::{Response, ToWorker},
    },
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
                Some((_, ToWorker::Message(_) | ToWorker::Close(_))) => panic!("no WebSocket"),
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
                assert_eq!(entry.client, Some(Client::Http1(index)));
                named += 1;
            }
        }
        let all = core.exchanges.of_link(0);
        assert_eq!(all.len(), core.exchanges.len());
        let awaited = all
            .iter()
            .filter(|index| core.exchanges.get_mut(**index).unwrap().client.is_some())
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

/// What happens to requests that are told apart, while workers die over them.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Ask { client: usize, post: bool, split: bool },
    Take { worker: usize, count: usize },
    Answer { worker: usize, which: usize, whole: bool },
    Die { worker: usize, publish: bool },
    Come,
    Kernel { stuck: bool },
}

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let small = 0..4_usize;
    let turn = prop_oneof![
        6 => (small.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(client, post, split)| Turn::Ask { client, post, split }),
        4 => (small.clone(), 1..4_usize).prop_map(|(worker, count)| Turn::Take { worker, count }),
        5 => (small.clone(), small.clone(), prop::bool::weighted(0.8))
            .prop_map(|(worker, which, whole)| Turn::Answer { worker, which, whole }),
        2 => (small, any::<bool>()).prop_map(|(worker, publish)| Turn::Die { worker, publish }),
        1 => Just(Turn::Come),
        1 => any::<bool>().prop_map(|stuck| Turn::Kernel { stuck }),
    ];
    prop::collection::vec(turn, 1..80)
}

struct Asked {
    tag: String,
    post: bool,
}

/// A request in a worker's hands.
struct Taken {
    id: u64,
    tag: String,
    body: Vec<u8>,
    complete: bool,
    begun: bool,
}

struct Worker {
    number: u16,
    lane: WorkerLane,
    taken: Vec<Taken>,
}

struct Deaths {
    stage: Stage,
    workers: Vec<Worker>,
    came: u16,
    clients: Vec<(Token, Vec<Asked>)>,
    /// How many workers took the request with this tag.
    takers: HashMap<String, u32>,
    tags: u32,
}

impl Deaths {
    fn new() -> Self {
        let mut stage = Stage::new();
        let clients = (0..4).map(|_| (stage.connect(), Vec::new())).collect();
        // The stage keeps the lane of the newest worker; each is handed over when the next one comes.
        let mut deaths =
            Self { stage, workers: Vec::new(), came: 0, clients, takers: HashMap::new(), tags: 0 };
        deaths.come();
        deaths
    }

    fn come(&mut self) {
        let lane = self.stage.attach();
        self.workers.push(Worker { number: self.came, lane, taken: Vec::new() });
        self.came += 1;
    }

    fn turn(&mut self, turn: Turn) {
        match turn {
            Turn::Ask { client, post, split } => self.ask(client, post, split),
            Turn::Take { worker, count } => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    for _ in 0..count {
                        worker.take(&mut self.takers);
                    }
                }
            }
            Turn::Answer { worker, which, whole } => {
                if let Some(worker) = self.workers.get_mut(worker) {
                    worker.answer(which, whole);
                    worker.lane.publish().unwrap();
                }
            }
            Turn::Die { worker, publish } if worker < self.workers.len() => {
                let mut worker = self.workers.swap_remove(worker);
                if publish {
                    worker.lane.publish().unwrap();
                }
                self.stage.dies(worker.number);
            }
            Turn::Come if self.workers.len() < 4 && self.came < 50 => self.come(),
            Turn::Die { .. } | Turn::Come => {}
            Turn::Kernel { stuck } => self.stage.shard.driver.stuck = stuck,
        }
        self.stage.settle();
    }

    fn ask(&mut self, client: usize, post: bool, split: bool) {
        let (token, asked) = &mut self.clients[client];
        if !self.stage.is_receiving(*token) || asked.len() > 20 {
            return;
        }
        self.tags += 1;
        let tag = format!("tag-{}", self.tags);
        let request = if post {
            let length = tag.len();
            format!(
                "POST /echo?{tag} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n{tag}"
            )
        } else {
            format!("GET /hang?{tag} HTTP/1.1\r\nhost: test\r\n\r\n")
        };
        asked.push(Asked { tag, post });
        let cut = if split { request.len() - 3 } else { request.len() };
        self.stage.send(*token, &request.as_bytes()[..cut]);
        if split {
            self.stage.send(*token, &request.as_bytes()[cut..]);
        }
    }

    /// The last of the workers answers everything, and everything is compared.
    fn end(mut self) {
        self.stage.unstick();
        self.come();
        // The newest, whose lane the stage has, is nobody's here: it would leave what it got.
        self.stage.dies(self.came);
        self.stage.settle();
        for _ in 0..200 {
            for worker in &mut self.workers {
                while worker.take(&mut self.takers) {}
                while worker.answer(0, true) {}
                worker.lane.publish().unwrap();
            }
            self.stage.settle();
        }
        // Behind an answer that was cut off the connection lingers.
        self.stage.wait(limits::LINGER_TIMEOUT + limits::SWEEP_INTERVAL);
        for (token, asked) in &self.clients {
            let sent = self.stage.sent(*token);
            let open = self.stage.is_receiving(*token);
            let answers = answers(&sent);
            assert!(answers.len() <= asked.len() && (answers.len() == asked.len() || !open));
            for ((status, body), Asked { tag, post }) in answers.iter().zip(asked) {
                let takers = self.takers.get(tag).copied().unwrap_or_default();
                match status {
                    200 => assert_eq!(body, tag),
                    502 => assert!(takers >= if *post { 1 } else { 2 }, "{tag} was not begun"),
                    other => panic!("{other}"),
                }
                assert!(takers <= if *post { 1 } else { 2 }, "{tag} was begun {takers} times");
            }
        }
        assert_eq!(self.stage.held().1, 0);
        assert_eq!(self.stage.gauge(|g| &g.queued), 0);
    }
}

impl Worker {
    fn take(&mut self, takers: &mut HashMap<String, u32>) -> bool {
        match self.lane.receive().unwrap() {
            None => return false,
            Some((id, ToWorker::Request(request))) => {
                let tag = request.query.of(request.blob).unwrap();
                let tag = String::from_utf8(tag.to_vec()).unwrap();
                *takers.entry(tag.clone()).or_default() += 1;
                let body = request.body.to_vec();
                self.taken.push(Taken { id, tag, body, complete: request.end, begun: false });
            }
            Some((id, ToWorker::Body { data, end })) => {
                let taken = self.taken.iter_mut().find(|taken| taken.id == id).unwrap();
                taken.body.extend_from_slice(data);
                taken.complete = end;
            }
            Some((id, ToWorker::Cancel(_))) => {
                self.taken.retain(|taken| taken.id != id);
                assert!(self.lane.send_abort(id).unwrap());
            }
            Some((_, ToWorker::Credit(_))) => {}
            Some((_, ToWorker::Message(_) | ToWorker::Close(_))) => panic!("no WebSocket"),
        }
        true
    }

    fn answer(&mut self, which: usize, whole: bool) -> bool {
        let ready = self.taken.iter().enumerate().filter(|(_, taken)| taken.complete);
        let Some(at) = ready.map(|(at, _)| at).nth(which) else { return false };
        let taken = &mut self.taken[at];
        let tag = taken.tag.as_bytes();
        assert!(taken.body.is_empty() || taken.body == tag, "another request's body");
        if taken.begun {
            assert!(self.lane.send_body(taken.id, &tag[1..], true).unwrap().is_some());
            self.taken.remove(at);
            return true;
        }
        let response = Response {
            status: 200,
            fields: &[],
            blob: b"",
            content_length: Some(tag.len() as u64),
            body: if whole { tag } else { &tag[..1] },
            end: whole,
        };
        assert!(self.lane.send_response(taken.id, &response).unwrap());
        taken.begun = true;
        if whole {
            self.taken.remove(at);
        }
        true
    }
}

/// Status and body of each whole response.
fn answers(sent: &str) -> Vec<(u16, String)> {
    let (mut found, mut rest) = (Vec::new(), sent);
    while let Some((head, behind)) = rest.split_once("\r\n\r\n") {
        let length = head.split_once("content-length: ").unwrap().1;
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        let Some(body) = behind.get(..length) else { break };
        found.push((head[9..12].parse().unwrap(), body.to_owned()));
        rest = &behind[length..];
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_is_answered_once_with_its_own_tag_whatever_workers_die_over_it(turns in turns()) {
        let mut deaths = Deaths::new();
        for turn in turns {
            deaths.turn(turn);
        }
        deaths.end();
    }
}
