//! A shard on the real kernel, with real sockets, against a worker that is a thread of the test. Below, on a scripted
//! kernel with its own time: what is hard to bring about otherwise.

mod books;
mod chaos;
mod deadlines;
mod departure;
mod http2;
mod http3;
mod lingering;
mod overload;
mod progress;
mod rescue;
mod script;
mod tls;
mod websocket;
mod websocket2;
mod withdrawal;

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    process::{Child, Command as Process, Stdio},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{
    Command, Handle, HttpVersions, Limits, Listener, ListenerKind, Options, QuicOptions, Report,
    WebSocketOptions, run,
};
use crate::{
    ipc::{
        Doorbell, EdgeLane, Segment, WorkerLane,
        layout::Geometry,
        message::{Response, ToWorker},
        segment::Writer,
    },
    limits,
    pool::{Incarnation, Link, Load, WorkerId},
    proto::{
        forwarded::Trusted,
        h1,
        route::{RouteSpec, Routes, WEBSOCKET},
    },
    span::{Field, Span},
};

/// A shard on its thread, and everything that a test needs to talk to it.
struct World {
    address: SocketAddr,
    handle: Handle,
    reports: UnboundedReceiver<Report>,
    thread: JoinHandle<()>,
}

impl World {
    fn with(limits: Limits) -> Self {
        Self::speaking(limits, None)
    }

    fn speaking(limits: Limits, quic: Option<QuicOptions>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, reports) = unbounded_channel();
        let (handle, mailbox) = Handle::new(sender).unwrap();
        let options = Options {
            shard: 0,
            listeners: vec![Listener {
                socket: listener.into(),
                address: Some(address),
                kind: ListenerKind::Plain,
            }],
            tls: None,
            quic,
            http: HttpVersions::Auto,
            h1: h1::Options { body_size_max: limits::BODY_SIZE_MAX },
            limits,
            websocket: WebSocketOptions::default(),
            headers: Vec::new(),
            trusted: Trusted::default(),
            gauges: Arc::default(),
            spin_max: Duration::ZERO,
            access_log: true,
        };
        let thread = std::thread::spawn(move || run(options, mailbox));
        let mut world = Self { address, handle, reports, thread };
        assert!(matches!(world.report(), Report::Started { shard: 0, .. }));
        world
    }

    /// The next report that is not an access-log line.
    fn report(&mut self) -> Report {
        loop {
            match self.reports.blocking_recv().unwrap() {
                Report::AccessLog(_) => {}
                report => return report,
            }
        }
    }

    fn attach(&self, worker: u16, process: &Worker) -> WorkerLane {
        let (e, e_fd) = Segment::create("e", Geometry::PRODUCT, Writer::Creator).unwrap();
        let (w, w_fd) = Segment::create("w", Geometry::PRODUCT, Writer::Receiver).unwrap();
        let shard_bell = Doorbell::new().unwrap();
        let link = Link {
            worker: WorkerId(worker),
            incarnation: Incarnation(1),
            lane: EdgeLane::new(e, w, Arc::clone(&process.bell)),
            bell: shard_bell.try_clone().unwrap(),
            pidfd: process.pidfd(),
            load: Load::default(),
        };
        assert!(self.handle.send(Command::Attach(Box::new(link), routes())));
        let own = Segment::attach(w_fd.as_fd(), true).unwrap();
        WorkerLane::new(own, Segment::attach(e_fd.as_fd(), false).unwrap(), Arc::new(shard_bell))
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// One request on a connection of its own; everything that comes back until the shard closes.
    fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }

    fn drain(mut self) {
        assert!(self.handle.send(Command::Drain(Duration::from_secs(20))));
        assert!(matches!(self.report(), Report::Drained { shard: 0 }));
        self.thread.join().unwrap();
    }
}

fn routes() -> Arc<Routes> {
    let spec = |id, path: &str, method: &str| RouteSpec {
        id,
        path: path.into(),
        methods: vec![method.into()],
    };
    let routes = vec![
        spec(0, "/echo", "POST"),
        spec(1, "/user/{id}", "GET"),
        spec(2, "/big", "GET"),
        spec(3, "/hang", "GET"),
        spec(4, "/slash/", "GET"),
        spec(5, "/ws", WEBSOCKET),
    ];
    Arc::new(Routes::new(routes, true).unwrap())
}

/// A process that stands for the worker's life, and the doorbell of the thread that does its work.
struct Worker {
    process: Child,
    bell: Arc<Doorbell>,
}

impl Worker {
    fn new() -> Self {
        let process =
            Process::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        Self { process, bell: Arc::new(Doorbell::new().unwrap()) }
    }

    fn pidfd(&self) -> OwnedFd {
        pidfd_open(Pid::from_child(&self.process), PidfdFlags::empty()).unwrap()
    }

    fn end(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _: std::io::Result<()> = self.process.kill();
        let _: std::io::Result<std::process::ExitStatus> = self.process.wait();
    }
}

/// What the worker thread has still to send.
struct Due {
    exchange: u64,
    body: Vec<u8>,
    credit: usize,
    begun: bool,
}

/// Serves a lane until it was cancelled on `/hang` or the test is over (`stop`).
fn work(mut lane: WorkerLane, bell: &Doorbell, stop: &Doorbell) -> Vec<u64> {
    let (mut due, mut bodies, mut cancelled) =
        (Vec::<Due>::new(), Vec::<(u64, Vec<u8>, usize)>::new(), Vec::new());
    loop {
        loop {
            let mut answer = None;
            let mut credit = None;
            match lane.receive().unwrap() {
                None => break,
                Some((id, ToWorker::Request(request))) => match request.route {
                    0 => {
                        let window = limits::EXCHANGE_WINDOW >> request.halvings;
                        bodies.push((id, request.body.to_vec(), window));
                        credit = Some((id, request.body.len()));
                        answer = request.end.then_some(id);
                    }
                    1 => due.push(Due {
                        exchange: id,
                        body: request.params[0].of(request.blob).unwrap().to_vec(),
                        credit: limits::EXCHANGE_WINDOW >> request.halvings,
                        begun: false,
                    }),
                    2 => due.push(Due {
                        exchange: id,
                        body: (0..20_000_000_u32)
                            .map(|i| b'a' + u8::try_from(i % 26).unwrap())
                            .collect(),
                        credit: limits::EXCHANGE_WINDOW >> request.halvings,
                        begun: false,
                    }),
                    _ => {}
                },
                Some((id, ToWorker::Body { data, end })) => {
                    let body = bodies.iter_mut().find(|(exchange, ..)| *exchange == id).unwrap();
                    body.1.extend_from_slice(data);
                    credit = Some((id, data.len()));
                    answer = end.then_some(id);
                }
                Some((id, ToWorker::Credit(bytes))) => {
                    if let Some(due) = due.iter_mut().find(|due| due.exchange == id) {
                        due.credit += usize::try_from(bytes).unwrap();
                    }
                }
                Some((id, ToWorker::Cancel(_))) => {
                    cancelled.push(id);
                    due.retain(|due| due.exchange != id);
                    assert!(lane.send_abort(id).unwrap());
                }
                Some((_, ToWorker::Message(_) | ToWorker::Close(_))) => panic!("no WebSocket"),
            }
            // For no bytes too: the body is wanted, which its client may wait to hear.
            if let Some((id, bytes)) = credit {
                assert!(lane.send_credit(id, bytes as u64).unwrap());
            }
            if let Some(id) = answer {
                let at = bodies.iter().position(|(exchange, ..)| *exchange == id).unwrap();
                let (exchange, body, credit) = bodies.swap_remove(at);
                due.push(Due { exchange, body, credit, begun: false });
            }
        }
        pump(&mut lane, &mut due);
        due.retain(|due| !due.body.is_empty());
        lane.publish().unwrap();
        if lane.arm().unwrap() {
            continue;
        }
        let mut fds = [PollFd::new(bell, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        poll(&mut fds, None).unwrap();
        if !fds[1].revents().is_empty() {
            return cancelled;
        }
        bell.hush().unwrap();
        lane.disarm();
    }
}

/// Sends what there is credit and room for.
fn pump(lane: &mut WorkerLane, due: &mut [Due]) {
    for due in due {
        if !std::mem::replace(&mut due.begun, true) {
            begin(lane, due);
        }
        let take = due.credit.min(due.body.len());
        if take > 0 {
            let end = take == due.body.len();
            if let Some(taken) = lane.send_body(due.exchange, &due.body[..take], end).unwrap() {
                due.body.drain(..taken);
                due.credit -= taken;
            }
        }
    }
}

fn begin(lane: &mut WorkerLane, due: &mut Due) {
    let field = Field { name: Span::new(0, 12).unwrap(), value: Span::new(12, 10).unwrap() };
    let response = Response {
        status: 200,
        fields: &[field],
        blob: b"content-typetext/plain",
        content_length: Some(due.body.len() as u64),
        body: &due.body[..1],
        end: due.body.len() == 1,
    };
    assert!(lane.send_response(due.exchange, &response).unwrap());
    due.body.remove(0);
    due.credit -= 1;
}

struct Pool {
    world: World,
    worker: Worker,
    thread: JoinHandle<Vec<u64>>,
    stop: Arc<Doorbell>,
}

/// What a worker that died took with it is lost.
const ONCE: fn() -> Limits = || Limits { repeat: false, ..Limits::default() };

impl Pool {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        Self::of(World::with(limits))
    }

    fn of(world: World) -> Self {
        let worker = Worker::new();
        let lane = world.attach(0, &worker);
        let stop = Arc::new(Doorbell::new().unwrap());
        let (bell, stopped) = (Arc::clone(&worker.bell), Arc::clone(&stop));
        let thread = std::thread::spawn(move || work(lane, &bell, &stopped));
        Self { world, worker, thread, stop }
    }

    /// Ends everything; the exchanges that were cancelled at the worker.
    fn end(self) -> Vec<u64> {
        self.world.drain();
        self.stop.kick().unwrap();
        self.thread.join().unwrap()
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n")
}

#[test]
fn a_request_reaches_the_worker_and_its_answer_the_client() {
    let pool = Pool::new();
    let answer = pool.world.ask(&get("/user/4711"));
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain\r\n"), "{answer}");
    assert!(answer.contains("content-length: 4\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n4711"), "{answer}");
    assert!(pool.end().is_empty());
}

#[test]
fn the_edge_answers_by_itself_what_no_route_can() {
    let pool = Pool::new();
    let ask = |path: &str| pool.world.ask(&get(path));
    assert!(ask("/nowhere").starts_with("HTTP/1.1 404 Not Found\r\n"));
    let wrong = ask("/echo");
    assert!(
        wrong.starts_with("HTTP/1.1 405 ") && wrong.contains("allow: OPTIONS, POST\r\n"),
        "{wrong}"
    );
    let redirect = ask("/slash?a=1");
    assert!(redirect.starts_with("HTTP/1.1 307 "), "{redirect}");
    assert!(redirect.contains("location: /slash/?a=1\r\n"), "{redirect}");
    pool.end();
}

#[test]
fn clients_that_come_before_the_first_worker_wait_for_it() {
    let world = World::with(Limits::default());
    let mut stream = world.connect();
    stream.write_all(get("/user/5").as_bytes()).unwrap();
    let worker = Worker::new();
    let lane = world.attach(0, &worker);
    let stop = Arc::new(Doorbell::new().unwrap());
    let (bell, stopped) = (Arc::clone(&worker.bell), Arc::clone(&stop));
    let thread = std::thread::spawn(move || work(lane, &bell, &stopped));
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("\r\n\r\n5"), "{answer}");
    world.drain();
    stop.kick().unwrap();
    thread.join().unwrap();
}

#[test]
fn while_every_worker_is_gone_requests_wait_and_then_there_is_503_with_retry_after() {
    let queue_timeout = Duration::from_millis(100);
    let mut pool = Pool::with(Limits { queue_timeout, ..Limits::default() });
    let mut stream = pool.world.connect();
    stream.write_all(get("/hang").as_bytes()).unwrap();
    assert!(pool.world.ask(&get("/user/1")).ends_with('1'));
    pool.worker.end();
    // The one that the dead worker held waits for another as well.
    let mut first = String::new();
    stream.read_to_string(&mut first).unwrap();
    for answer in [first, pool.world.ask(&get("/user/1"))] {
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 1\r\n"),
            "{answer}"
        );
    }
    pool.end();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let pool = Pool::new();
    let mut stream = pool.world.connect();
    let mut requests = String::new();
    for id in 0..300 {
        requests += &format!("GET /user/{id} HTTP/1.1\r\nhost: test\r\n\r\n");
    }
    requests += &get("/user/last");
    stream.write_all(requests.as_bytes()).unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).unwrap();
    let bodies: Vec<&str> =
        answers.split("\r\n\r\n").skip(1).map(|part| part.split("HTTP").next().unwrap()).collect();
    let expected: Vec<String> = (0..300).map(|id| id.to_string()).chain(["last".into()]).collect();
    assert_eq!(bodies, expected);
    pool.end();
}

#[test]
fn twenty_megabytes_pass_in_both_directions() {
    let pool = Pool::new();
    let mut stream = pool.world.connect();
    let body: Vec<u8> = (0..20_000_000_u32).map(|i| u8::try_from(i % 253).unwrap()).collect();
    let head = format!(
        "POST /echo HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut reader = stream.try_clone().unwrap();
    let read = std::thread::spawn(move || {
        let mut answer = Vec::new();
        reader.read_to_end(&mut answer).map(|_| answer)
    });
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    let answer = read.join().unwrap().unwrap();
    let start = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(answer[start..] == body, "{} bytes of {} came back", answer.len() - start, body.len());

    let big = pool.world.ask(&get("/big"));
    assert!(big.contains("content-length: 20000000\r\n"));
    pool.end();
}

#[test]
fn a_chunked_body_arrives_without_its_framing() {
    let pool = Pool::new();
    let answer = pool.world.ask(
        "POST /echo HTTP/1.1\r\nhost: test\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n\
         5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n",
    );
    assert!(answer.ends_with("\r\n\r\nhello, world"), "{answer}");
    pool.end();
}

#[test]
fn the_largest_head_and_a_full_inline_body_fit_their_record_together() {
    let pool = Pool::new();
    let path = "%41".repeat(2_600);
    let mut fields = String::from("host: test\r\nconnection: close\r\n");
    for field in 0..11 {
        fields += &format!("x-{field}: {}\r\n", "v".repeat(2_000));
    }
    let body = "b".repeat(limits::INLINE_BODY_SIZE_MAX + 1);
    let length = body.len();
    let answer = pool.world.ask(&format!(
        "POST /echo?{path} HTTP/1.1\r\n{fields}content-length: {length}\r\n\r\n{body}"
    ));
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with(&body),
        "{}",
        &answer[..100]
    );
    // The path is in the blob twice, raw and decoded.
    let answer = pool.world.ask(&format!("GET /user/{path} HTTP/1.1\r\n{fields}\r\n"));
    assert!(answer.ends_with(&"A".repeat(2_600)), "{}", &answer[..100]);
    pool.end();
}

#[test]
fn an_expectation_is_met_before_the_body_is_sent() {
    let pool = Pool::new();
    let mut stream = pool.world.connect();
    stream
        .write_all(b"POST /echo HTTP/1.1\r\nhost: test\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        .unwrap();
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"ok").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok"),
        "{answer}"
    );
    pool.end();
}

#[test]
fn a_worker_that_dies_costs_its_exchanges_a_502_and_no_connection() {
    let mut pool = Pool::with(ONCE());
    let mut stream = pool.world.connect();
    stream.write_all(b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    // The next request of another connection is answered, so the one above is with the worker.
    assert!(pool.world.ask(&get("/user/1")).ends_with("1"));
    pool.worker.end();
    let expected = b"HTTP/1.1 502 Bad Gateway\r\n";
    let mut answer = vec![0; 1024];
    let mut filled = 0;
    while !answer[..filled].ends_with(b"{\"detail\":\"Bad Gateway\"}") {
        filled += stream.read(&mut answer[filled..]).unwrap();
    }
    assert!(answer.starts_with(expected));

    // The same connection goes on with the next worker.
    let next = Worker::new();
    let lane = pool.world.attach(0, &next);
    let (bell, stop) = (Arc::clone(&next.bell), Arc::clone(&pool.stop));
    let thread = std::thread::spawn(move || work(lane, &bell, &stop));
    stream.write_all(get("/user/2").as_bytes()).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.ends_with("\r\n\r\n2"), "{rest}");
    pool.end();
    thread.join().unwrap();
}

#[test]
fn a_client_that_goes_away_cancels_its_exchange() {
    let pool = Pool::new();
    let mut stream = pool.world.connect();
    // More than the kernel takes, so that the loss is noticed: /big is never read.
    stream.write_all(b"GET /big HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    let mut first = [0; 1];
    stream.read_exact(&mut first).unwrap();
    drop(stream);
    // Once another exchange got through and the shard drained, the cancel has been written.
    assert!(pool.world.ask(&get("/user/1")).ends_with("1"));
    assert_eq!(pool.end().len(), 1);
}

#[test]
fn draining_lets_idle_connections_go_and_ends_the_others_with_their_response() {
    let mut pool = Pool::new();
    let mut idle = pool.world.connect();
    idle.write_all(b"GET /user/1 HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    let mut answer = vec![0; 1024];
    let mut filled = 0;
    while !answer[..filled].ends_with(b"\r\n\r\n1") {
        filled += idle.read(&mut answer[filled..]).unwrap();
    }
    let mut upload = pool.world.connect();
    upload.write_all(b"POST /echo HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\no").unwrap();
    assert!(pool.world.ask(&get("/user/1")).ends_with("1"), "the upload has been taken in");
    assert!(pool.world.handle.send(Command::Drain(Duration::from_secs(20))));
    let mut nothing = Vec::new();
    assert_eq!(idle.read_to_end(&mut nothing).unwrap(), 0);
    upload.write_all(b"k").unwrap();
    let mut answer = String::new();
    upload.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("connection: close\r\n") && answer.ends_with("ok"), "{answer}");
    assert!(matches!(pool.world.report(), Report::Drained { shard: 0 }));
    pool.world.thread.join().unwrap();
    pool.stop.kick().unwrap();
    pool.thread.join().unwrap();
}

#[test]
fn a_worker_that_breaks_the_protocol_is_reported_and_its_exchanges_are_answered_502() {
    let (mut world, worker) = (World::with(ONCE()), Worker::new());
    let mut lane = world.attach(3, &worker);
    let mut stream = world.connect();
    stream.write_all(get("/user/1").as_bytes()).unwrap();
    let id = loop {
        if let Some((id, ToWorker::Request(_))) = lane.receive().unwrap() {
            break id;
        }
        std::thread::yield_now();
    };
    let response = Response {
        status: 200,
        fields: &[],
        blob: b"",
        content_length: None,
        body: b"",
        end: true,
    };
    assert!(lane.send_response(id ^ (1 << 40), &response).unwrap());
    lane.publish().unwrap();
    assert!(matches!(
        world.report(),
        Report::Faulty { worker: WorkerId(3), incarnation: Incarnation(1), .. }
    ));
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 "), "{answer}");
    world.drain();
}

#[test]
fn a_client_that_half_closes_while_its_exchange_is_with_a_worker_has_gone() {
    let pool = Pool::new();
    let mut stream = pool.world.connect();
    stream.write_all(b"GET /hang HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    assert!(pool.world.ask(&get("/user/1")).ends_with('1'), "the one above is with the worker");
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    assert_eq!(stream.read_to_end(&mut answer).unwrap(), 0, "closed at once, and in order");
    assert!(pool.world.ask(&get("/user/2")).ends_with('2'));
    assert_eq!(pool.end().len(), 1, "the exchange was cancelled");
}

#[test]
fn a_client_that_half_closes_behind_a_whole_response_gets_all_of_it() {
    let pool = Pool::new();
    let mut stream = pool.world.connect();
    stream.write_all(b"GET /nowhere HTTP/1.1\r\nhost: test\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.ends_with('}'), "{answer}");
    pool.end();
}

#[test]
fn a_short_body_that_nobody_wants_does_not_cost_the_connection() {
    let pool = Pool::new();
    let mut stream = pool.world.connect();
    stream
        .write_all(b"POST /nowhere HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\nhello")
        .unwrap();
    stream.write_all(get("/user/8").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.ends_with("\r\n\r\n8"), "{answer}");
    pool.end();
}
