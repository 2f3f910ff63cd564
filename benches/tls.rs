//! What TLS costs the edge: handshakes, records, and the memory of a session that waits. Only the server's side is timed,
//! by the CPU time that it takes (but for `encrypt`, which is too short for that).
//!
//! `cargo bench --bench tls`. Handshakes per second on one core are the inverse of the times.
#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]
#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a stopwatch that prints what it saw"
)]

use std::{
    hint::black_box,
    io::{self, Read, Write},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant, SystemTime},
};

use boring::ssl::{
    ErrorCode, Ssl, SslContext, SslContextBuilder, SslMethod, SslSession, SslSessionCacheMode,
    SslStream, SslVersion,
};
use criterion::{Criterion, Throughput, criterion_group};
use fasterapi::proto::tls::{
    Options, Progress, ServerConfig, Session, TicketKeys, Version,
    dev::{KeyKind, self_signed},
};
use rustix::time::{ClockId, clock_gettime};

#[derive(Default)]
struct Pipe {
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let taken = self.input.len().min(buffer.len());
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        buffer[..taken].copy_from_slice(&self.input[..taken]);
        self.input.drain(..taken);
        Ok(taken)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Clients {
    context: SslContext,
    tickets: Receiver<SslSession>,
}

impl Clients {
    fn new(version: SslVersion, groups: &str) -> Self {
        let mut context = SslContextBuilder::new(SslMethod::tls()).expect("a context");
        context.set_min_proto_version(Some(version)).expect("a version");
        context.set_max_proto_version(Some(version)).expect("a version");
        context.set_curves_list(groups).expect("groups");
        context
            .set_session_cache_mode(SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL);
        let (sender, tickets) = channel();
        context.set_new_session_callback(move |_, session| drop(sender.send(session)));
        Self { context: context.build(), tickets }
    }

    fn connect(&self, ticket: Option<&SslSession>) -> SslStream<Pipe> {
        let mut ssl = Ssl::new(&self.context).expect("memory");
        if let Some(ticket) = ticket {
            // SAFETY: the only tickets that there are come from this context.
            #[expect(unsafe_code, reason = "the binding has no other way to resume")]
            unsafe {
                ssl.set_session(ticket).expect("a ticket of this context");
            }
        }
        SslStream::new(ssl, Pipe::default()).expect("memory")
    }
}

struct Connection {
    session: Session,
    client: SslStream<Pipe>,
    /// What the session's calls took.
    spent: Duration,
}

/// Connects and sends one record each way, as a request does, so that tickets are delivered as well.
fn connect(config: &ServerConfig, clients: &Clients, ticket: Option<&SslSession>) -> Connection {
    let mut client = clients.connect(ticket);
    let (mut plain, mut out) = (Vec::new(), Vec::new());
    let start = cpu_time();
    let mut session = config.session().expect("memory");
    let mut spent = cpu_time().saturating_sub(start);
    while session.is_handshaking() {
        let done = client.connect();
        assert!(done.is_ok() || done.is_err_and(|error| error.code() == ErrorCode::WANT_READ));
        let flight = std::mem::take(&mut client.get_mut().output);
        let start = cpu_time();
        let progress = session.handle(&flight, &mut plain, &mut out).expect("a good client");
        if progress == Progress::Open {
            session.encrypt(b"x", &mut out).expect("an open session");
        }
        spent += cpu_time().saturating_sub(start);
        client.get_mut().input.append(&mut out);
    }
    client.connect().expect("a good server");
    let mut byte = [0];
    assert_eq!(client.ssl_read(&mut byte).expect("a byte"), 1);
    assert_eq!(session.resumed(), ticket.is_some());
    Connection { session, client, spent }
}

fn config(kind: KeyKind) -> ServerConfig {
    let identity = self_signed(kind, &["localhost"], SystemTime::now()).expect("a certificate");
    let tickets = TicketKeys::new(Instant::now()).expect("randomness");
    let options = Options { version_min: Version::Tls12, http2: true, client_ca: None };
    ServerConfig::new(&[identity], &options, &tickets).expect("a configuration")
}

fn handshakes(c: &mut Criterion) {
    let (new, old) = (SslVersion::TLS1_3, SslVersion::TLS1_2);
    for (kind, name) in [(KeyKind::EcdsaP256, "ECDSA P-256"), (KeyKind::Rsa2048, "RSA 2048")] {
        let config = config(kind);
        for (version, groups, client) in [
            (new, "X25519MLKEM768:X25519:P-256", "TLS 1.3, X25519MLKEM768"),
            (new, "X25519:P-256", "TLS 1.3, X25519"),
            (old, "X25519:P-256", "TLS 1.2, X25519"),
        ] {
            let clients = Clients::new(version, groups);
            c.bench_function(&format!("full handshake, {name}, {client}"), |b| {
                b.iter_custom(|n| (0..n).map(|_| connect(&config, &clients, None).spent).sum());
            });
            let ticket = clients.tickets.try_iter().last();
            c.bench_function(&format!("resumed handshake, {name}, {client}"), |b| {
                b.iter_custom(|n| {
                    (0..n).map(|_| connect(&config, &clients, ticket.as_ref()).spent).sum()
                });
            });
        }
    }
}

fn records(c: &mut Criterion) {
    let config = config(KeyKind::EcdsaP256);
    let clients = Clients::new(SslVersion::TLS1_3, "X25519:P-256");
    let Connection { mut session, mut client, .. } = connect(&config, &clients, None);
    let mut group = c.benchmark_group("records");
    for size in [200, 1024, 16 * 1024, 256 * 1024] {
        group.throughput(Throughput::Bytes(size as u64));
        let data = vec![7; size];
        let mut out = Vec::new();
        group.bench_function(format!("encrypt {size} bytes"), |b| {
            b.iter(|| {
                out.clear();
                session.encrypt(black_box(&data), &mut out).expect("an open session");
            });
        });
        // The session sees what a shard would hand it: pieces of a receive buffer's size.
        let mut plain = Vec::new();
        group.bench_function(format!("decrypt {size} bytes"), |b| {
            b.iter_custom(|n| {
                (0..n).map(|_| decrypt(&mut session, &mut client, &data, &mut plain)).sum()
            });
        });
    }
}

fn decrypt(
    session: &mut Session,
    client: &mut SslStream<Pipe>,
    data: &[u8],
    plain: &mut Vec<u8>,
) -> Duration {
    let mut rest = data;
    while !rest.is_empty() {
        rest = &rest[client.ssl_write(rest).expect("an open session")..];
    }
    let ciphertext = std::mem::take(&mut client.get_mut().output);
    let mut out = Vec::new();
    let start = cpu_time();
    for piece in ciphertext.chunks(4096) {
        session.handle(black_box(piece), plain, &mut out).expect("genuine records");
    }
    let spent = cpu_time().saturating_sub(start);
    assert_eq!(plain.len(), data.len());
    plain.clear();
    spent
}

/// Of this thread. On a machine with other work it says more than the time of day.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Resident memory of the process.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("pages");
    pages * 4096
}

/// What one waiting session adds, over so many that the allocator's granularity does not show.
fn memory() {
    const SESSIONS: usize = 10_000;
    let config = config(KeyKind::EcdsaP256);
    // All are kept: memory that was given back would be used for the next ones.
    let mut kept = Vec::new();
    for (version, name) in [(SslVersion::TLS1_3, "TLS 1.3"), (SslVersion::TLS1_2, "TLS 1.2")] {
        let clients = Clients::new(version, "X25519:P-256");
        let warm: Vec<_> = (0..10).map(|_| connect(&config, &clients, None)).collect();
        drop(warm);
        let before = resident();
        // Its client ends, and leaves its memory to the next one.
        let sessions: Vec<_> =
            (0..SESSIONS).map(|_| connect(&config, &clients, None).session).collect();
        assert!(clients.tickets.try_iter().next().is_some());
        clients.tickets.try_iter().for_each(drop);
        let each = resident().saturating_sub(before) / sessions.len();
        kept.push(sessions);
        println!("memory of a waiting session, {name}: {each} bytes");
    }
}

criterion_group!(benches, handshakes, records);

fn main() {
    memory();
    benches();
    Criterion::default().configure_from_args().final_summary();
}
