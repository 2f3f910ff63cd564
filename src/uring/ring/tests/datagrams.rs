//! Datagrams over loopback UDP.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::*;
use crate::uring::{Instruction, prepare, steer};

const RECV_DATAGRAMS: u8 = 6;
const SEND_DATAGRAMS: u8 = 7;

fn socket(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    prepare(&socket).unwrap();
    socket
}

fn batch(data: Vec<u8>, segment: usize, to: SocketAddr) -> DatagramBatch {
    DatagramBatch { data, segment, from: IpAddr::from([0, 0, 0, 0]), to, ecn: 0 }
}

/// A received lease, read and given back: from, to, segment, ECN, data.
fn consume_datagrams(
    uring: &mut Uring,
    completion: Completion,
) -> (SocketAddr, IpAddr, usize, u8, Vec<u8>) {
    let Event::Datagrams(lease) = completion.event else { panic!("{completion:?}") };
    let arrived = uring.datagrams(&lease).unwrap();
    let read = (arrived.from, arrived.to, arrived.segment, arrived.ecn, arrived.data.to_vec());
    uring.recycle_datagrams(lease);
    read
}

#[test]
fn a_datagram_comes_with_its_addresses() {
    for (bound, reached) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("0.0.0.0:0", "127.0.0.2"),
        ("[::1]:0", "::1"),
        ("[::]:0", "::1"),
        ("[::]:0", "::ffff:127.0.0.3"),
    ] {
        let mut uring = uring();
        let ours = socket(bound);
        let reached: IpAddr = reached.parse().unwrap();
        uring.recv_datagrams(ours.as_fd(), token(RECV_DATAGRAMS, 1));
        let client = UdpSocket::bind(if reached.is_ipv4() { "127.0.0.1:0" } else { "[::]:0" });
        let client = client.unwrap();
        client.send_to(b"ping", (reached, ours.local_addr().unwrap().port())).unwrap();

        let completion = take_one(&mut uring);
        assert!(completion.more);
        let (from, to, segment, ecn, data) = consume_datagrams(&mut uring, completion);
        assert_eq!((to, segment, ecn, &*data), (reached, 4, 0, &b"ping"[..]));
        assert_eq!(from.port(), client.local_addr().unwrap().port());

        // The answer leaves from the address that was asked.
        let answer = DatagramBatch { data, segment: 4, from: to, to: from, ecn: 0 };
        uring.send_datagrams(ours.as_fd(), answer, token(SEND_DATAGRAMS, 1));
        assert!(matches!(take_one(&mut uring).event, Event::Sent(data) if data == b"ping"));
        let mut reply = [0; 16];
        let (len, sender) = client.recv_from(&mut reply).unwrap();
        assert_eq!((&reply[..len], sender.ip()), (&b"ping"[..], reached), "{bound}");
    }
}

#[test]
fn datagrams_of_one_send_keep_their_boundaries() {
    let mut uring = uring();
    let (ours, theirs) = (socket("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0").unwrap());
    let data = pattern(10 * 1200 + 77);
    let to = theirs.local_addr().unwrap();
    uring.send_datagrams(ours.as_fd(), batch(data.clone(), 1200, to), token(SEND_DATAGRAMS, 1));
    let sent = take_one(&mut uring);
    assert!(matches!(sent.event, Event::Sent(returned) if returned == data));
    assert_eq!(uring.stats().submissions, 1);
    let mut buffer = [0; 2000];
    for piece in data.chunks(1200) {
        let (len, _) = theirs.recv_from(&mut buffer).unwrap();
        assert!(&buffer[..len] == piece);
    }
}

#[test]
fn datagrams_that_are_sent_together_arrive_together() {
    let mut uring = uring();
    let (ours, theirs) = (socket("127.0.0.1:0"), socket("127.0.0.1:0"));
    uring.recv_datagrams(ours.as_fd(), token(RECV_DATAGRAMS, 1));
    let data = pattern(20 * 1200 + 5);
    let together = batch(data.clone(), 1200, ours.local_addr().unwrap());
    let together = DatagramBatch { ecn: 2, ..together };
    uring.send_datagrams(theirs.as_fd(), together, token(SEND_DATAGRAMS, 1));
    let mut received = Vec::new();
    let mut receives = 0;
    while received.len() < data.len() {
        for completion in take(&mut uring, 1) {
            if matches!(completion.event, Event::Sent(_)) {
                continue;
            }
            let (_, _, segment, ecn, piece) = consume_datagrams(&mut uring, completion);
            assert!((segment, ecn) == (1200, 2) || piece.len() == 5, "{segment} {ecn}");
            receives += 1;
            received.extend(piece);
        }
    }
    assert!(received == data);
    assert!(receives < 21, "some came together: {receives}");
}

#[test]
fn a_kernel_that_does_not_cut_gets_datagrams_one_by_one() {
    let mut uring = uring();
    uring.segments = false;
    let (ours, theirs) = (socket("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0").unwrap());
    let data = pattern(3 * 1000 + 1);
    let to = theirs.local_addr().unwrap();
    uring.send_datagrams(ours.as_fd(), batch(data.clone(), 1000, to), token(SEND_DATAGRAMS, 1));
    assert!(matches!(take_one(&mut uring).event, Event::Sent(_)));
    assert_eq!(uring.stats().submissions, 4);
    let mut buffer = [0; 2000];
    for piece in data.chunks(1000) {
        let (len, _) = theirs.recv_from(&mut buffer).unwrap();
        assert!(&buffer[..len] == piece);
    }
}

#[test]
fn what_the_kernel_will_not_cut_is_sent_one_by_one() {
    let to = "127.0.0.1:9".parse().unwrap();
    for error in [Errno::IO, Errno::INVAL, Errno::MSGSIZE] {
        let mut sending = SendingDatagrams::new(batch(vec![1; 2500], 1000, to), 0, true);
        sending.entry(1);
        assert!(sending.took(Err(error)).is_none() && !sending.segmented);
        sending.entry(1);
        assert!(sending.took(Ok(1000)).is_none());
        sending.entry(1);
        // One that does not fit the path is lost; the others are not.
        assert!(sending.took(Err(Errno::MSGSIZE)).is_none());
        sending.entry(1);
        assert!(matches!(sending.took(Ok(500)), Some(Event::Failed(Errno::MSGSIZE))));
    }
}

#[test]
fn a_cancelled_batch_is_not_continued() {
    let to = "127.0.0.1:9".parse().unwrap();
    let mut sending = SendingDatagrams::new(batch(vec![1; 2500], 1000, to), 0, false);
    sending.entry(1);
    sending.cancelled = true;
    assert!(matches!(sending.took(Ok(1000)), Some(Event::Failed(Errno::CANCELED))));
}

#[test]
fn the_largest_batch_is_taken_and_nobody_need_be_there() {
    let mut uring = uring();
    let ours = socket("127.0.0.1:0");
    let closed = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (len, segment) in [(65_507, 65_507), (64 * 1000, 1000), (1, 1200)] {
        let batch = batch(vec![0; len], segment, closed);
        uring.send_datagrams(ours.as_fd(), batch, token(SEND_DATAGRAMS, 2));
        let sent = take_one(&mut uring);
        assert!(matches!(sent.event, Event::Sent(_)), "{sent:?}");
    }
}

#[test]
fn receiving_datagrams_stops_without_buffers_and_can_go_on() {
    let mut uring = uring();
    let (ours, theirs) = (socket("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0").unwrap());
    uring.recv_datagrams(ours.as_fd(), token(RECV_DATAGRAMS, 1));
    assert!(poll(&mut uring).is_empty());
    let to = ours.local_addr().unwrap();
    for size in 1..=6 {
        theirs.send_to(&vec![7; size * 10], to).unwrap();
    }
    let mut held = take(&mut uring, 5);
    let last = held.pop().unwrap();
    assert!(matches!(last.event, Event::Failed(Errno::NOBUFS)) && !last.more, "{last:?}");
    for completion in held {
        consume_datagrams(&mut uring, completion);
    }
    uring.recv_datagrams(ours.as_fd(), token(RECV_DATAGRAMS, 1));
    for completion in take(&mut uring, 2) {
        assert!(completion.more);
        consume_datagrams(&mut uring, completion);
    }
    uring.cancel(token(RECV_DATAGRAMS, 1));
    assert!(matches!(take_one(&mut uring).event, Event::Failed(Errno::CANCELED)));
    assert_eq!(uring.armed, 0);
}

#[test]
fn an_empty_datagram_is_none_and_ends_the_receive() {
    let mut uring = uring();
    let (ours, theirs) = (socket("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0").unwrap());
    uring.recv_datagrams(ours.as_fd(), token(RECV_DATAGRAMS, 1));
    theirs.send_to(&[], ours.local_addr().unwrap()).unwrap();
    let completion = take_one(&mut uring);
    assert!(!completion.more, "the kernel takes nothing for the end of a stream");
    let Event::Datagrams(lease) = completion.event else { panic!("{completion:?}") };
    assert!(uring.datagrams(&lease).is_none());
    uring.recycle_datagrams(lease);
    uring.recv_datagrams(ours.as_fd(), token(RECV_DATAGRAMS, 1));
    theirs.send_to(b"x", ours.local_addr().unwrap()).unwrap();
    let next = take_one(&mut uring);
    assert_eq!(consume_datagrams(&mut uring, next).4, b"x");
}

#[test]
fn a_program_chooses_the_socket() {
    // The first byte of the payload is the number of the socket.
    const LOAD_BYTE: u16 = 0x30;
    const RETURN_A: u16 = 0x16;
    let program: [Instruction; 2] = [(LOAD_BYTE, 0, 0, 0), (RETURN_A, 0, 0, 0)];
    let first = socket("127.0.0.1:0");
    rustix::net::sockopt::set_socket_reuseport(&first, true).unwrap();
    let address = first.local_addr().unwrap();
    let mut sockets = vec![first];
    for _ in 0..2 {
        let family = AddressFamily::INET;
        let sibling = rustix::net::socket(family, SocketType::DGRAM, None).unwrap();
        rustix::net::sockopt::set_socket_reuseport(&sibling, true).unwrap();
        rustix::net::bind(&sibling, &address).unwrap();
        sockets.push(sibling.into());
    }
    steer(&sockets[0], &program).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (number, socket) in (0..).zip(&sockets) {
        client.send_to(&[number; 20], address).unwrap();
        let mut buffer = [0; 30];
        let (len, _) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], &[number; 20]);
    }
}
