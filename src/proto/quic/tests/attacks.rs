//! What is sent by nobody who means well.

use proptest::prelude::*;

use super::*;
use crate::{limits, proto::quic::Retry};

/// A first packet from that client, as it would be.
fn initial(from: &str) -> Vec<u8> {
    Client::new(from).output().remove(0)
}

#[test]
fn an_unknown_version_is_asked_about_before_its_packet_type_is_looked_at() {
    let mut server = Server::new(Options::default());
    for version in [0x6b33_43cf_u32, 0x1a2a_3a4a, 0xff00_001d, u32::MAX] {
        for first in [0xc0_u8, 0xd0, 0xe0, 0xf0, 0x80] {
            let mut packet = vec![0; 1200];
            packet[0] = first;
            packet[1..5].copy_from_slice(&version.to_be_bytes());
            packet[5..9].copy_from_slice(&[2, 0xaa, 0xbb, 3]);
            packet[9..12].copy_from_slice(&[1, 2, 3]);
            let Arrival::Reply(reply) = server.classify(&packet, address(CLIENT)) else {
                panic!("version {version:x}, first byte {first:x}")
            };
            // No version, the two ids the other way round, and version 1 among those offered.
            assert!(reply[0] & 0x80 != 0 && reply[1..5] == [0; 4]);
            assert_eq!(reply[5..12], [3, 1, 2, 3, 2, 0xaa, 0xbb]);
            assert!(reply[12..].chunks(4).any(|offered| offered == [0, 0, 0, 1]));
            assert!(reply.len() < packet.len());
            packet.truncate(1199);
            let short = server.classify(&packet, address(CLIENT));
            assert!(matches!(short, Arrival::Dropped(Why::Short)));
        }
    }
    assert_eq!(server.endpoint.connections(), 0);
}

#[test]
fn version_negotiation_and_retry_from_a_client_are_dropped() {
    let mut server = Server::new(Options::default());
    let mut packet = initial(CLIENT);
    packet[1..5].copy_from_slice(&[0; 4]);
    assert!(matches!(server.classify(&packet, address(CLIENT)), Arrival::Dropped(Why::Malformed)));
    for kind in [0x10, 0x20, 0x30] {
        let mut packet = initial(CLIENT);
        packet[0] |= kind;
        let arrival = server.classify(&packet, address(CLIENT));
        assert!(matches!(arrival, Arrival::Dropped(Why::Unknown)), "{arrival:?}");
    }
}

#[test]
fn an_initial_in_a_small_datagram_is_dropped() {
    let mut server = Server::new(Options::default());
    let mut packet = initial(CLIENT);
    packet.truncate(1199);
    assert!(matches!(server.classify(&packet, address(CLIENT)), Arrival::Dropped(Why::Short)));
    // Of a connection that is there already, too.
    let mut client = Client::new(CLIENT);
    let mut first = client.output().remove(0);
    server.receive(&mut first.clone(), address(CLIENT)).unwrap();
    first.truncate(1199);
    assert_eq!(server.receive(&mut first, address(CLIENT)), Err(Why::Short));
}

#[test]
fn no_more_than_three_times_the_bytes_go_to_a_client_that_has_not_shown_its_address() {
    let tickets = TicketKeys::new(now()).unwrap();
    // A chain that does not fit into three datagrams.
    let names: Vec<String> = (0..200).map(|n| format!("host{n}.a-long-name.example")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let identity = self_signed(KeyKind::Rsa2048, &names, today()).unwrap();
    let options = tls::Options { version_min: Version::Tls12, http2: false, client_ca: None };
    let tls = ServerConfig::new(&[identity], &options, &tickets).unwrap();
    let mut server = Server::new(Options::default());
    server.endpoint.reload(&tls).unwrap();
    let mut client = Client::new(CLIENT);
    let (mut received, mut sent) = (0, 0);
    for mut datagram in client.output() {
        received += datagram.len();
        server.receive(&mut datagram, client.address).unwrap();
        sent += server.output().iter().map(|(_, datagram)| datagram.len()).sum::<usize>();
        assert!(sent <= 3 * received, "{sent} bytes for {received}");
    }
    // Nor later, however often its timer expires.
    for _ in 0..10 {
        let quic = server.connections[0].as_mut().unwrap();
        quic.on_timeout();
        sent += server.output().iter().map(|(_, datagram)| datagram.len()).sum::<usize>();
    }
    assert!(sent <= 3 * received && sent > received, "{sent} bytes for {received}");
}

#[test]
fn a_flood_of_first_packets_meets_retry_and_then_keeps_nothing() {
    let options = Options { handshakes_max: 40, ..Options::default() };
    let mut server = Server::new(options);
    let mut retries = 0;
    for n in 0..200_u8 {
        let from = format!("198.51.{n}.1:5000");
        match server.receive(&mut initial(&from), address(&from)) {
            Ok(Some(reply)) => {
                assert!(reply.len() < 400);
                retries += 1;
            }
            other => assert_eq!(other, Ok(None)),
        }
    }
    assert_eq!((server.endpoint.connections(), retries), (20, 180));
    // Who shows its address is let in, to the last place.
    let mut honest = 0;
    for n in 0..30_u8 {
        let from = format!("203.0.{n}.1:5000");
        let mut client = Client::new(&from);
        let retry = server.receive(&mut client.output()[0], client.address).unwrap().unwrap();
        client.input(retry);
        honest += usize::from(server.receive(&mut client.output()[0], client.address).is_ok());
    }
    assert_eq!((server.endpoint.handshaking(), honest), (40, 20));
}

#[test]
fn one_address_cannot_take_all_handshakes() {
    let mut server = Server::new(Options::default());
    let mut begun = 0;
    for port in 1..200_u16 {
        let from = format!("[2001:db8::{port:x}]:{port}");
        let kept = server.receive(&mut initial(&from), address(&from)).unwrap().is_none();
        begun += usize::from(kept);
    }
    assert_eq!(begun, limits::QUIC_RETRY_PER_ADDRESS_FROM);
    let from = "[2001:db9::1]:1";
    assert_eq!(server.receive(&mut initial(from), address(from)), Ok(None));

    let never = Options { retry: Retry::Never, ..Options::default() };
    let mut server = Server::new(never);
    let packets = (1..=300_u16).map(|port| format!("198.51.100.1:{port}"));
    let taken =
        packets.filter(|from| server.receive(&mut initial(from), address(from)) == Ok(None));
    assert_eq!(taken.count(), limits::QUIC_HANDSHAKES_PER_ADDRESS_MAX);
}

#[test]
fn a_token_is_good_for_nobody_else_and_no_other_connection() {
    let mut server = Server::new(Options { retry: Retry::Always, ..Options::default() });
    let mut client = Client::new(CLIENT);
    let retry = server.receive(&mut client.output()[0], client.address).unwrap().unwrap();
    client.input(retry);
    let initial = client.output().remove(0);
    for thief in ["198.51.100.8:5000", "198.51.100.7:5001"] {
        assert!(matches!(server.classify(&initial, address(thief)), Arrival::Reply(_)));
    }
    for at in [6, 21, 40, 60] {
        // Another connection id, or a changed token.
        let mut forged = initial.clone();
        forged[at] ^= 1;
        let arrival = server.classify(&forged, client.address);
        assert!(!matches!(arrival, Arrival::New(..)), "byte {at}: {arrival:?}");
    }
    assert!(matches!(server.classify(&initial, client.address), Arrival::New(..)));
}

#[test]
fn a_forgotten_connection_is_reset_and_others_are_not_answered() {
    let mut server = Server::new(Options::default());
    let mut client = Client::new(CLIENT);
    client.talk(&mut server);
    client.quic.stream_send(0, &[7; 100], false).unwrap();
    let packet = client.output().remove(0);
    // Bytes that look like a packet, with an id that we never issued.
    for at in 1..17 {
        let mut spoofed = packet.clone();
        spoofed[at] ^= 0x10;
        let arrival = server.classify(&spoofed, address(CLIENT));
        assert!(matches!(arrival, Arrival::Dropped(Why::Unknown)), "byte {at}: {arrival:?}");
    }
    server.endpoint.remove(0);
    server.connections.clear();
    let Arrival::Reply(reset) = server.classify(&packet, address(CLIENT)) else {
        panic!("a reset")
    };
    assert!(reset.len() < packet.len());
    client.input(reset);
    assert!(client.quic.is_closed(), "the client believes it");
    // No echo chamber, and no flood.
    assert!(matches!(server.classify(&packet[..21], address(CLIENT)), Arrival::Dropped(_)));
    let flood = (0..1000)
        .filter(|_| matches!(server.classify(&packet, address(CLIENT)), Arrival::Reply(_)));
    assert!(flood.count() <= usize::try_from(limits::QUIC_RESETS_PER_S).unwrap());
    server.now += Duration::from_secs(2);
    assert!(matches!(server.classify(&packet, address(CLIENT)), Arrival::Reply(_)));
}

#[test]
fn a_first_packet_that_does_not_decrypt_leaves_nothing_behind() {
    let mut server = Server::new(Options::default());
    for at in [100, 500, 1000] {
        let mut packet = initial(CLIENT);
        packet[at] ^= 1;
        assert_eq!(server.receive(&mut packet, address(CLIENT)), Ok(None));
        assert_eq!(server.endpoint.connections(), 0);
    }
}

#[test]
fn ids_of_one_connection_do_not_look_alike() {
    let keys = Keys::new(now()).unwrap();
    let ids: Vec<_> = (0..64).map(|_| keys.issue(5).unwrap()).collect();
    assert!(ids.iter().all(|id| keys.shard_of(id) == Some(5)));
    let first: std::collections::HashSet<_> = ids.iter().map(|id| id[0]).collect();
    assert!(first.len() > 20, "{first:?}");
    let others = Keys::new(now()).unwrap();
    assert!(ids.iter().all(|id| others.shard_of(id).is_none()));
}

/// What the kernel makes of the program.
fn steer(keys: &Keys, packet: &[u8]) -> u32 {
    let (mut a, mut x) = (0_u32, 0_u32);
    let program = keys.steering();
    let mut at = 0;
    loop {
        let (code, jt, jf, k) = program[at];
        let from = usize::try_from(k).unwrap_or(usize::MAX);
        at += 1;
        match code {
            0x30 => a = packet[from].into(),
            0x20 => a = u32::from_be_bytes(packet[from..from + 4].try_into().unwrap()),
            0x45 => at += usize::from(if a & k != 0 { jt } else { jf }),
            0xa4 => a ^= k,
            0xac => a ^= x,
            0x24 => a = a.wrapping_mul(k),
            0x74 => a >>= k,
            0x07 => x = a,
            0x06 => return k,
            0x16 => return a,
            other => panic!("{other:x}"),
        }
    }
}

proptest! {
    #[test]
    fn the_kernel_finds_the_shard_of_each_id(shard: u8, first: u8) {
        let keys = Keys::new(now()).unwrap();
        let mut packet = vec![first];
        packet.extend(keys.issue(shard).unwrap());
        let expected = if first & 0x80 == 0 { shard.into() } else { u32::MAX };
        prop_assert_eq!(steer(&keys, &packet), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn garbage_is_dropped_or_answered_in_brief(
        packets in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..1500), any::<bool>()), 30),
    ) {
        let mut server = Server::new(Options::default());
        for (mut bytes, long) in packets {
            if long && bytes.len() > 5 {
                bytes[0] |= 0xc0;
                bytes[1..5].copy_from_slice(&[0, 0, 0, 1]);
            }
            let len = bytes.len();
            if let Ok(Some(reply)) = server.receive(&mut bytes, address(CLIENT)) {
                prop_assert!(reply.len() < len);
            }
            prop_assert_eq!(server.endpoint.connections(), 0);
        }
    }
}
