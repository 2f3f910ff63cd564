//! The driver against the real kernel: loopback sockets, socket pairs, eventfds and a child process.
//!
//! Invariant: a test waits only for completions, never for time to pass, so a loaded machine makes it slow, not red.

use std::{
    collections::HashSet,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::{fd::AsFd, unix::net::UnixStream},
    process::Command,
    thread,
};

use rustix::{
    event::{EventfdFlags, eventfd},
    net::{AddressFamily, SocketType},
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::*;

mod datagrams;

const ACCEPT: u8 = 1;
const RECV: u8 = 2;
const SEND: u8 = 3;
const POLL: u8 = 4;
const SHUTDOWN: u8 = 5;
const HANG_UP: u8 = 6;

/// Longer than any of this takes; only a lost completion runs into it.
const PATIENCE: Duration = Duration::from_secs(20);

fn token(kind: u8, index: u32) -> Token {
    Token { kind, generation: 7, index }
}

fn uring() -> Uring {
    small(8, 64, 16)
}

fn small(submissions: u32, completions: u32, buffer_count: u16) -> Uring {
    let options =
        Options { submissions, completions, buffer_count, buffer_size: 4096, datagram_buffers: 4 };
    Uring::new(options).unwrap()
}

/// Turns until `count` completions have arrived, and not one more turn.
fn take(uring: &mut Uring, count: usize) -> Vec<Completion> {
    let deadline = uring.now() + PATIENCE;
    let mut completions = Vec::new();
    while completions.len() < count {
        assert!(uring.now() < deadline, "of {count} completions only these: {completions:?}");
        uring.turn(Wait::AtMost(PATIENCE), &mut completions).unwrap();
    }
    completions
}

fn take_one(uring: &mut Uring) -> Completion {
    let mut completions = take(uring, 1);
    assert_eq!(completions.len(), 1, "{completions:?}");
    completions.remove(0)
}

/// What has completed without waiting.
fn poll(uring: &mut Uring) -> Vec<Completion> {
    let mut completions = Vec::new();
    uring.turn(Wait::Poll, &mut completions).unwrap();
    completions
}

/// The bytes of a received completion, which must be one; its buffer goes back.
fn consume(uring: &mut Uring, completion: Completion) -> Vec<u8> {
    let Event::Received(lease) = completion.event else { panic!("{completion:?}") };
    let bytes = uring.bytes(&lease).to_vec();
    uring.recycle(lease);
    bytes
}

/// Bytes in which a gap or a swap shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

fn doorbell() -> OwnedFd {
    eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap()
}

fn ring_bell(bell: &OwnedFd) {
    rustix::io::write(bell, &1u64.to_ne_bytes()).unwrap();
}

#[test]
fn echo_over_tcp() {
    let mut uring = uring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    uring.accept(listener.as_fd(), token(ACCEPT, 1));
    assert!(poll(&mut uring).is_empty());

    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let accepted = take_one(&mut uring);
    assert_eq!((accepted.token, accepted.more), (token(ACCEPT, 1), true));
    let Event::Accepted(socket) = accepted.event else { panic!("{accepted:?}") };
    let flags = rustix::io::fcntl_getfd(&socket).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    let flags = rustix::fs::fcntl_getfl(&socket).unwrap();
    assert!(flags.contains(rustix::fs::OFlags::NONBLOCK));

    uring.recv(socket.as_fd(), token(RECV, 2));
    client.write_all(b"hello").unwrap();
    let received = take_one(&mut uring);
    assert_eq!((received.token, received.more), (token(RECV, 2), true));
    let data = consume(&mut uring, received);
    assert_eq!(data, b"hello");

    uring.send(socket.as_fd(), data, token(SEND, 3));
    let sent = take_one(&mut uring);
    assert_eq!((sent.token, sent.more), (token(SEND, 3), false));
    assert!(matches!(sent.event, Event::Sent(data) if data == b"hello"));
    let mut reply = [0; 5];
    client.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"hello");

    uring.shutdown_write(socket.as_fd(), token(SHUTDOWN, 4));
    let done = take_one(&mut uring);
    assert!(matches!(done.event, Event::Done) && done.token == token(SHUTDOWN, 4));
    assert_eq!(client.read(&mut reply).unwrap(), 0, "the client sees the end of the stream");

    client.shutdown(std::net::Shutdown::Write).unwrap();
    let end = take_one(&mut uring);
    assert!(matches!(end.event, Event::EndOfStream) && !end.more, "{end:?}");
    uring.close(socket);
    assert!(poll(&mut uring).is_empty(), "a close reports nothing");
    assert_eq!(uring.armed, 1, "only the accept is left");
}

#[test]
fn a_shutdown_is_reported_by_the_next_turn() {
    let mut uring = uring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    assert!(!uring.completions_visible());
    uring.shutdown_write(ours.as_fd(), token(SHUTDOWN, 1));
    assert!(uring.completions_visible());
    let done = take_one(&mut uring);
    assert!(matches!(done.event, Event::Done) && done.token == token(SHUTDOWN, 1));
    assert!(!uring.completions_visible());
    assert_eq!(uring.stats().enters, 0);
    assert_eq!(theirs.read(&mut [0]).unwrap(), 0);

    let unconnected = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    uring.shutdown_write(unconnected.as_fd(), token(SHUTDOWN, 2));
    assert!(matches!(take_one(&mut uring).event, Event::Failed(Errno::NOTCONN)));
}

#[test]
fn closing_gives_the_descriptor_back() {
    let mut uring = uring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    uring.close(ours.into());
    assert!(poll(&mut uring).is_empty());
    assert_eq!(theirs.read(&mut [0]).unwrap(), 0);
}

#[test]
fn one_recv_yields_many_completions() {
    let mut uring = uring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    uring.recv(ours.as_fd(), token(RECV, 1));
    for round in 0..50u8 {
        theirs.write_all(&[round; 10]).unwrap();
        let received = take_one(&mut uring);
        assert!(received.more);
        assert_eq!(consume(&mut uring, received), [round; 10]);
    }
    assert_eq!(uring.stats().submissions, 1);
}

#[test]
fn a_reset_is_told_behind_data_that_nobody_has_received() {
    let mut uring = uring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    client.write_all(b"unread").unwrap();
    uring.hang_up(ours.as_fd(), token(HANG_UP, 1));
    assert!(poll(&mut uring).is_empty(), "data is no hang-up");
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
    drop(client);
    let told = take_one(&mut uring);
    assert_eq!((told.token, told.more), (token(HANG_UP, 1), false));
    assert!(matches!(told.event, Event::HungUp), "{told:?}");
}

#[test]
fn an_ended_half_is_told_as_such_behind_data_that_nobody_has_received() {
    let mut uring = uring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (ours, _) = listener.accept().unwrap();
    client.write_all(b"unread").unwrap();
    uring.hang_up(ours.as_fd(), token(HANG_UP, 1));
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let told = take_one(&mut uring);
    assert_eq!((told.token, told.more), (token(HANG_UP, 1), false));
    assert!(matches!(told.event, Event::EndOfStream), "{told:?}");
}

#[test]
fn recv_goes_on_after_the_buffers_ran_out() {
    let mut uring = small(8, 64, 4);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let data = pattern(6 * 4096);
    theirs.write_all(&data).unwrap();

    uring.recv(ours.as_fd(), token(RECV, 1));
    let mut completions = take(&mut uring, 5);
    let last = completions.pop().unwrap();
    assert!(matches!(last.event, Event::Failed(Errno::NOBUFS)) && !last.more, "{last:?}");
    let mut received = Vec::new();
    for completion in completions {
        received.extend(consume(&mut uring, completion));
    }
    assert_eq!(received.len(), 4 * 4096);

    uring.recv(ours.as_fd(), token(RECV, 1));
    for completion in take(&mut uring, 2) {
        assert!(completion.more);
        received.extend(consume(&mut uring, completion));
    }
    assert!(received == data);
}

#[test]
fn a_doorbell_is_armed_once_and_never_read() {
    let mut uring = uring();
    let bell = doorbell();
    uring.poll(bell.as_fd(), token(POLL, 1));
    assert!(poll(&mut uring).is_empty());
    for _ in 0..3 {
        for _ in 0..5 {
            ring_bell(&bell);
        }
        let rung = take_one(&mut uring);
        assert!(matches!(rung.event, Event::Readable) && rung.more, "{rung:?}");
        assert!(poll(&mut uring).is_empty());
    }
    assert_eq!(uring.stats().submissions, 1);
}

#[test]
fn task_work_is_visible_without_a_system_call() {
    let mut uring = uring();
    let bell = doorbell();
    uring.poll(bell.as_fd(), token(POLL, 1));
    assert!(poll(&mut uring).is_empty());
    assert!(!uring.completions_visible());
    let enters = uring.stats().enters;
    assert!(poll(&mut uring).is_empty());
    assert_eq!(uring.stats().enters, enters, "an idle poll costs no system call");

    ring_bell(&bell);
    assert!(uring.completions_visible());
    assert_eq!(uring.stats().enters, enters);
    assert_eq!(poll(&mut uring).len(), 1);
    assert!(!uring.completions_visible());
}

#[test]
fn the_death_of_a_child_is_seen() {
    let mut uring = uring();
    let mut child = Command::new("true").spawn().unwrap();
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
    uring.poll(pidfd.as_fd(), token(POLL, 9));
    let dead = take_one(&mut uring);
    assert!(matches!(dead.event, Event::Readable) && dead.token == token(POLL, 9));
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_cancelled_operation_ends() {
    let mut uring = uring();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let bell = doorbell();
    uring.recv(ours.as_fd(), token(RECV, 1));
    uring.accept(listener.as_fd(), token(ACCEPT, 2));
    uring.poll(bell.as_fd(), token(POLL, 3));
    assert!(poll(&mut uring).is_empty());
    for token in [token(RECV, 1), token(ACCEPT, 2), token(POLL, 3)] {
        uring.cancel(token);
        let cancelled = take_one(&mut uring);
        assert_eq!((cancelled.token, cancelled.more), (token, false));
        assert!(matches!(cancelled.event, Event::Failed(Errno::CANCELED)), "{cancelled:?}");
    }
    assert_eq!(uring.armed, 0);
    uring.cancel(token(RECV, 1));
    assert!(poll(&mut uring).is_empty(), "cancelling what is gone reports nothing");
}

#[test]
fn a_cancel_finds_what_was_queued_in_the_same_turn() {
    let mut uring = uring();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    uring.recv(ours.as_fd(), token(RECV, 1));
    uring.cancel(token(RECV, 1));
    assert!(matches!(take_one(&mut uring).event, Event::Failed(Errno::CANCELED)));
}

#[test]
fn a_cancelled_send_is_not_continued() {
    let mut uring = uring();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    uring.send(ours.as_fd(), vec![1; 8 << 20], token(SEND, 1));
    assert!(poll(&mut uring).is_empty(), "the socket does not hold 8 MiB");
    theirs.read_exact(&mut [0; 4096]).unwrap();
    uring.cancel(token(SEND, 1));
    let cancelled = take_one(&mut uring);
    assert!(matches!(cancelled.event, Event::Failed(Errno::CANCELED)), "{cancelled:?}");
    assert!(!cancelled.more && uring.armed == 0 && uring.sends.is_empty());
    // Nothing more comes, now that the socket has room again.
    theirs.set_nonblocking(true).unwrap();
    while theirs.read(&mut [0; 65536]).is_ok() {}
    assert!(poll(&mut uring).is_empty());
    assert!(theirs.read(&mut [0]).is_err());
}

#[test]
fn tokens_are_handed_back_untouched() {
    let mut uring = uring();
    for (generation, index) in [(0, 0), (Token::GENERATION_MAX, u32::MAX), (1, 1 << 31)] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        for kind in [0, RECV, 0xfe] {
            // Three kinds for one operation; the driver does not mind, nor does it know what is stale.
            let token = Token { kind, generation, index };
            uring.recv(ours.as_fd(), token);
            theirs.write_all(b"x").unwrap();
            let received = take_one(&mut uring);
            assert_eq!(received.token, token);
            consume(&mut uring, received);
            uring.cancel(token);
            assert_eq!(take_one(&mut uring).token, token);
        }
    }
}

#[test]
#[should_panic(expected = "already stands for")]
fn a_kind_stands_for_one_operation() {
    let mut uring = uring();
    let (ours, _theirs) = UnixStream::pair().unwrap();
    uring.recv(ours.as_fd(), token(RECV, 1));
    uring.send(ours.as_fd(), vec![0], token(RECV, 2));
}

#[test]
fn a_large_send_to_a_slow_reader_arrives_whole() {
    let mut uring = uring();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let data = pattern(8 << 20);

    uring.send(server.as_fd(), data.clone(), token(SEND, 1));
    assert!(poll(&mut uring).is_empty(), "loopback does not hold 8 MiB");
    let reader = thread::spawn(move || {
        let mut received = Vec::new();
        let mut piece = [0; 4096];
        while received.len() < 8 << 20 {
            let len = client.read(&mut piece).unwrap();
            assert!(len > 0, "the stream ended early");
            received.extend_from_slice(&piece[..len]);
        }
        received
    });
    let sent = take_one(&mut uring);
    assert!(matches!(sent.event, Event::Sent(returned) if returned == data));
    assert!(reader.join().unwrap() == data);
}

#[test]
fn a_short_send_is_continued() {
    let mut uring = uring();
    uring.send_size_max = 1000;
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let data = pattern(10_500);
    uring.send(ours.as_fd(), data.clone(), token(SEND, 1));
    assert!(matches!(take_one(&mut uring).event, Event::Sent(returned) if returned == data));
    assert_eq!(uring.stats().submissions, 11);
    let mut received = vec![0; data.len()];
    theirs.read_exact(&mut received).unwrap();
    assert_eq!(received, data);
}

#[test]
fn a_send_ends_with_its_last_byte_or_an_error() {
    let data = vec![5; 10];
    let mut sending = Sending { data, sent: 0, socket: 0, cancelled: false };
    assert!(sending.took(Ok(4)).is_none());
    assert!(sending.took(Ok(5)).is_none());
    assert!(matches!(sending.took(Ok(1)), Some(Event::Sent(data)) if data.len() == 10));

    let mut sending = Sending { data: vec![5; 10], sent: 9, socket: 0, cancelled: false };
    assert!(matches!(sending.took(Ok(0)), Some(Event::Failed(Errno::IO))));
    sending.cancelled = true;
    assert!(matches!(sending.took(Ok(0)), Some(Event::Failed(Errno::CANCELED))));
}

#[test]
fn a_send_to_a_closed_peer_fails_without_a_signal() {
    let mut uring = uring();
    let (ours, theirs) = UnixStream::pair().unwrap();
    drop(theirs);
    uring.send(ours.as_fd(), vec![0; 10], token(SEND, 1));
    assert!(matches!(take_one(&mut uring).event, Event::Failed(Errno::PIPE)));
    uring.send(ours.as_fd(), Vec::new(), token(SEND, 1));
    assert_eq!(take(&mut uring, 1).len(), 1, "an empty send completes too");
}

#[test]
fn a_full_submission_queue_loses_nothing() {
    let mut uring = small(4, 512, 4);
    let pairs: Vec<_> = (0..100).map(|_| UnixStream::pair().unwrap()).collect();
    for (index, (ours, _)) in (0u8..).zip(&pairs) {
        uring.send(ours.as_fd(), vec![index; 3], token(SEND, index.into()));
    }
    let completions = take(&mut uring, 100);
    let tokens: HashSet<_> = completions.iter().map(|completion| completion.token).collect();
    assert_eq!(tokens.len(), 100);
    assert!(completions.iter().all(|completion| matches!(completion.event, Event::Sent(_))));
    for (index, (_, mut theirs)) in (0u8..).zip(pairs) {
        let mut data = [0; 3];
        theirs.read_exact(&mut data).unwrap();
        assert_eq!(data, [index; 3]);
    }
    assert!(uring.stats().sq_full >= 24, "{:?}", uring.stats());
    assert_eq!(uring.armed, 0);
}

#[test]
fn an_overflown_completion_queue_loses_nothing() {
    let mut uring = small(4, 8, 4);
    let bells: Vec<_> = (0..100).map(|_| doorbell()).collect();
    for (index, bell) in (0..).zip(&bells) {
        uring.poll(bell.as_fd(), token(POLL, index));
    }
    assert!(poll(&mut uring).is_empty());
    bells.iter().for_each(ring_bell);
    // A multishot operation whose completion overflows may end with it; either way each bell is heard.
    let mut heard = HashSet::new();
    while heard.len() < 100 {
        for completion in take(&mut uring, 1) {
            assert!(matches!(completion.event, Event::Readable), "{completion:?}");
            heard.insert(completion.token.index);
        }
    }
    let (ours, _theirs) = UnixStream::pair().unwrap();
    for index in 0..100 {
        uring.send(ours.as_fd(), vec![0], token(SEND, index));
    }
    let mut done = HashSet::new();
    while done.len() < 100 {
        for completion in take(&mut uring, 1) {
            assert!(matches!(completion.event, Event::Sent(_)), "{completion:?}");
            assert!(done.insert(completion.token.index));
        }
    }
    assert!(uring.stats().cq_overflow > 0, "{:?}", uring.stats());
}

#[test]
fn polling_alone_empties_an_overflown_completion_queue() {
    let mut uring = small(4, 8, 4);
    let (ours, _theirs) = UnixStream::pair().unwrap();
    for index in 0..100 {
        uring.send(ours.as_fd(), vec![0], token(SEND, index));
    }
    let mut done = 0;
    while done < 100 {
        let completed = poll(&mut uring).len();
        assert!(completed > 0, "{done} completions, then silence");
        done += completed;
        assert_eq!(uring.completions_visible(), done < 100);
    }
    assert!(uring.stats().cq_overflow > 0, "{:?}", uring.stats());
}

#[test]
fn only_lost_completions_and_misuse_are_errors() {
    let mut uring = uring();
    for errno in [Errno::TIME, Errno::INTR, Errno::AGAIN, Errno::BUSY] {
        assert_eq!(uring.entered(Err(errno.into())).unwrap(), 0);
    }
    for errno in [Errno::BADR, Errno::EXIST, Errno::BADF] {
        assert!(uring.entered(Err(errno.into())).is_err());
    }
    uring.fault = Some(Errno::BADR.into());
    assert!(uring.turn(Wait::Poll, &mut Vec::new()).is_err(), "the next turn reports it");
    assert!(uring.turn(Wait::Poll, &mut Vec::new()).is_ok());
}

#[test]
fn a_turn_waits_until_its_deadline() {
    let mut uring = uring();
    let mut completions = Vec::new();
    for deadline in [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(30)] {
        let start = uring.now();
        uring.turn(Wait::AtMost(deadline), &mut completions).unwrap();
        assert!(uring.now() - start >= deadline);
        assert!(completions.is_empty());
    }
}

#[test]
fn waiting_forever_ends_with_a_completion() {
    let mut uring = uring();
    let bell = doorbell();
    uring.poll(bell.as_fd(), token(POLL, 1));
    assert!(poll(&mut uring).is_empty());
    let ringer = thread::spawn(move || {
        ring_bell(&bell);
        bell
    });
    let mut completions = Vec::new();
    while completions.is_empty() {
        uring.turn(Wait::Forever, &mut completions).unwrap();
    }
    ringer.join().unwrap();
    assert!(matches!(completions[0].event, Event::Readable));
}

#[test]
fn other_operations_are_refused() {
    let mut uring = uring();
    assert!(uring.features().restricted);
    let user_data = uring.arm(Operation::Poll, token(POLL, 1));
    uring.push(opcode::Nop::new().build().user_data(user_data));
    assert!(matches!(take_one(&mut uring).event, Event::Failed(Errno::ACCESS)));
    assert!(uring.ring.submitter().unregister_buf_ring(STREAM_BUFFERS).is_err());
}

#[test]
fn dropping_waits_for_what_is_in_flight() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (stuck, mut reader) = UnixStream::pair().unwrap();
    let (quiet, _peer) = UnixStream::pair().unwrap();
    let (closing, mut closed) = UnixStream::pair().unwrap();
    let bell = doorbell();
    let mut uring = uring();
    uring.accept(listener.as_fd(), token(ACCEPT, 1));
    uring.recv(quiet.as_fd(), token(RECV, 2));
    uring.poll(bell.as_fd(), token(POLL, 3));
    uring.send(stuck.as_fd(), vec![0x5a; 8 << 20], token(SEND, 4));
    assert!(poll(&mut uring).is_empty());
    uring.close(closing.into());
    assert!(uring.tear_down(), "{} operations were not let go of", uring.armed);
    drop(uring);

    assert_eq!(closed.read(&mut [0]).unwrap(), 0, "a queued close is carried out");
    // Memory of the send that went back to the allocator and was written again must not appear on the wire.
    let _reuse = vec![0xa5_u8; 8 << 20];
    drop(stuck);
    let mut received = Vec::new();
    reader.read_to_end(&mut received).unwrap();
    assert!(!received.is_empty() && received.len() < 8 << 20);
    assert!(received.iter().all(|&byte| byte == 0x5a));
}

#[test]
fn what_the_kernel_may_still_touch_is_leaked() {
    let (stuck, mut reader) = UnixStream::pair().unwrap();
    let mut uring = uring();
    uring.send(stuck.as_fd(), vec![0x5a; 8 << 20], token(SEND, 1));
    assert!(poll(&mut uring).is_empty());
    // One operation more than there is: teardown gives up waiting for it and leaks.
    uring.armed += 1;
    drop(uring);
    drop(stuck);
    let mut received = Vec::new();
    reader.read_to_end(&mut received).unwrap();
    assert!(received.iter().all(|&byte| byte == 0x5a));
}

#[test]
fn every_rung_echoes() {
    for rung in [Rung::DeferNoArray, Rung::Defer, Rung::Cooperative, Rung::Plain] {
        let options = Options {
            submissions: 8,
            completions: 32,
            buffer_count: 4,
            buffer_size: 64,
            datagram_buffers: 0,
        };
        let Ok(ring) = setup::build(&options, rung) else { continue };
        let mut uring = Uring::with_ring(ring, rung, options).unwrap();
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        uring.recv(ours.as_fd(), token(RECV, 1));
        for _ in 0..20 {
            theirs.write_all(b"ping").unwrap();
            let received = take_one(&mut uring);
            let data = consume(&mut uring, received);
            uring.send(ours.as_fd(), data, token(SEND, 1));
            assert!(matches!(take_one(&mut uring).event, Event::Sent(_)), "{rung:?}");
            let mut reply = [0; 4];
            theirs.read_exact(&mut reply).unwrap();
            assert_eq!(&reply, b"ping");
        }
    }
}
