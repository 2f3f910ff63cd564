//! What honest clients do.

use super::*;
use crate::{limits, proto::quic::Retry};

#[test]
fn a_handshake_leads_to_a_connection_with_ids_to_spare() {
    let mut server = Server::new(Options::default());
    let mut client = Client::new(CLIENT);
    client.talk(&mut server);
    assert!(client.quic.is_established() && client.quic.application_proto() == b"h3");
    assert_eq!((server.endpoint.connections(), server.endpoint.handshaking()), (1, 0));
    assert_eq!(client.quic.available_dcids(), limits::QUIC_IDS_MAX - 1);
    server.endpoint.remove(0);
    server.endpoint.check();
    assert_eq!(server.endpoint.connections(), 0);
}

#[test]
fn a_client_that_changes_its_address_keeps_its_connection() {
    let mut server = Server::new(Options::default());
    let mut client = Client::new(CLIENT);
    client.talk(&mut server);
    let spare = ConnectionId::from_ref(&[7; 8]);
    client.quic.new_scid(&spare, 7, false).unwrap();
    client.talk(&mut server);
    let elsewhere = address("203.0.113.9:6000");
    client.quic.migrate(elsewhere, address(SERVER)).unwrap();
    client.address = elsewhere;
    client.quic.stream_send(0, b"hello", false).unwrap();
    client.talk(&mut server);
    assert_eq!(server.endpoint.connections(), 1);
    let quic = server.connections[0].as_ref().unwrap();
    assert!(quic.is_path_validated(address(SERVER), elsewhere).unwrap());
    server.endpoint.check();
}

#[test]
fn a_rebound_port_is_followed() {
    let mut server = Server::new(Options::default());
    let mut client = Client::new(CLIENT);
    client.talk(&mut server);
    // The client does not know: only what the server sees has changed.
    for port in 6000..6010 {
        client.quic.stream_send(0, b"hello", false).unwrap();
        let rebound = address(&format!("198.51.100.7:{port}"));
        for mut datagram in client.output() {
            server.receive(&mut datagram, rebound).unwrap();
        }
        let sent = server.output();
        assert!(sent.iter().any(|(to, _)| *to == rebound), "port {port}: {} sent", sent.len());
        for (_, datagram) in sent {
            client.input(datagram);
        }
    }
    assert_eq!(server.endpoint.connections(), 1);
}

#[test]
fn retry_costs_a_round_trip_and_nothing_is_kept_before() {
    let mut server = Server::new(Options { retry: Retry::Always, ..Options::default() });
    let mut client = Client::new(CLIENT);
    let mut first = client.output();
    let retry = server.receive(&mut first[0], client.address).unwrap().unwrap();
    assert!(retry.len() < first[0].len() / 3);
    assert_eq!(server.endpoint.connections(), 0);
    client.input(retry);
    client.talk(&mut server);
    assert!(client.quic.is_established());
    assert_eq!(server.endpoint.connections(), 1);
}

#[test]
fn any_shard_takes_a_token_but_only_its_own_packets() {
    let keys = Arc::new(Keys::new(now()).unwrap());
    let options = Options { retry: Retry::Always, ..Options::default() };
    let mut first = Server::with(options, 0, Arc::clone(&keys));
    let mut second = Server::with(options, 1, keys);
    let mut client = Client::new(CLIENT);
    let retry = first.receive(&mut client.output()[0], client.address).unwrap().unwrap();
    client.input(retry);
    let initial = &client.output()[0];
    assert!(matches!(second.classify(initial, client.address), Arrival::Elsewhere(0)));
    assert!(matches!(first.classify(initial, client.address), Arrival::New(..)));

    let mut client = Client::new(CLIENT);
    client.talk(&mut second);
    client.quic.stream_send(0, b"hello", false).unwrap();
    let short = &client.output()[0];
    assert!(short[0] & 0x80 == 0);
    assert!(matches!(first.classify(short, client.address), Arrival::Elsewhere(1)));
    assert!(matches!(second.classify(short, client.address), Arrival::Known(0)));
}

#[test]
fn certificates_go_by_name_and_are_replaced_without_losing_anybody() {
    let tickets = TicketKeys::new(now()).unwrap();
    let tls = certificates(&["first.example", "second.example"], &tickets);
    let mut server = Server::new(Options::default());
    server.endpoint.reload(&tls).unwrap();
    let mut seen = Vec::new();
    for name in ["first.example", "second.example", "third.example"] {
        let mut client = Client::with(CLIENT, &mut client_config(), name);
        client.talk(&mut server);
        assert!(client.quic.is_established(), "{name}");
        seen.push(client.quic.peer_cert().unwrap().to_vec());
    }
    assert!(seen[0] != seen[1] && seen[0] == seen[2]);

    let mut early = Client::with(CLIENT, &mut client_config(), "first.example");
    early.talk(&mut server);
    server.endpoint.reload(&certificates(&["first.example"], &tickets)).unwrap();
    let mut late = Client::with(CLIENT, &mut client_config(), "first.example");
    late.talk(&mut server);
    assert!(late.quic.peer_cert().unwrap() != seen[0]);
    early.quic.stream_send(0, b"still here", false).unwrap();
    early.talk(&mut server);
    let slot = server.connections.len() - 2;
    let quic = server.connections[slot].as_mut().unwrap();
    assert_eq!(quic.stream_recv(0, &mut [0; 20]), Ok((10, false)));
}

#[test]
fn a_session_is_resumed_by_another_shard() {
    let keys = Arc::new(Keys::new(now()).unwrap());
    let tickets = TicketKeys::new(now()).unwrap();
    let tls = certificates(&["localhost"], &tickets);
    let shard = |number| {
        let mut server = Server::with(Options::default(), number, Arc::clone(&keys));
        server.endpoint.reload(&tls).unwrap();
        server
    };
    let (mut first, mut second) = (shard(0), shard(1));
    let mut client = Client::new(CLIENT);
    client.talk(&mut first);
    let session = client.quic.session().unwrap().to_vec();
    let mut client = Client::new(CLIENT);
    client.quic.set_session(&session).unwrap();
    client.talk(&mut second);
    assert!(client.quic.is_established() && client.quic.is_resumed());
}

#[test]
fn early_data_is_taken_only_when_asked_for() {
    for early_data in [false, true] {
        let mut server = Server::new(Options { early_data, ..Options::default() });
        let mut config = client_config();
        config.enable_early_data();
        let mut client = Client::with(CLIENT, &mut config, "localhost");
        client.talk(&mut server);
        let session = client.quic.session().unwrap().to_vec();
        let mut client = Client::with(CLIENT, &mut config, "localhost");
        client.quic.set_session(&session).unwrap();
        let mut first = client.output();
        assert_eq!(client.quic.is_in_early_data(), early_data);
        if early_data {
            client.quic.stream_send(0, b"early", false).unwrap();
            first.extend(client.output());
        }
        for mut datagram in first {
            server.receive(&mut datagram, client.address).unwrap();
        }
        let quic = server.connections[1].as_mut().unwrap();
        assert_eq!(quic.stream_recv(0, &mut [0; 20]).is_ok(), early_data);
        client.talk(&mut server);
        assert!(client.quic.is_established() && client.quic.is_resumed());
    }
}

#[test]
fn early_data_in_front_of_a_retry_comes_once_more_behind_it() {
    // RFC 9000 §17.2.5.3: packets of 0-RTT that were sent beside the first Initial are lost with it, and the client sends what
    // was in them again.
    let options = Options { retry: Retry::Always, early_data: true, ..Options::default() };
    let mut server = Server::new(options);
    let mut config = client_config();
    config.enable_early_data();
    let mut client = Client::with(CLIENT, &mut config, "localhost");
    client.talk(&mut server);
    let session = client.quic.session().unwrap().to_vec();
    let mut client = Client::with(CLIENT, &mut config, "localhost");
    client.quic.set_session(&session).unwrap();
    let mut first = client.output();
    assert!(client.quic.is_in_early_data());
    client.quic.stream_send(0, b"early", false).unwrap();
    first.extend(client.output());
    let replies: Vec<_> =
        first.iter_mut().map(|datagram| server.receive(datagram, client.address)).collect();
    let [Ok(Some(retry)), .., Err(Why::Unknown)] = &replies[..] else { panic!("{replies:?}") };
    client.input(retry.clone());
    client.talk(&mut server);
    assert!(client.quic.is_established() && client.quic.is_resumed());
    // Packets behind it that arrive are what tells that it was lost (RFC 9002 §6.1.1).
    for _ in 0..4 {
        client.quic.stream_send(4, b"late", false).unwrap();
        client.talk(&mut server);
    }
    let quic = server.connections[1].as_mut().unwrap();
    assert_eq!(quic.stream_recv(0, &mut [0; 20]), Ok((5, false)));
}

#[test]
fn both_ways_to_find_the_rate_work() {
    use crate::proto::quic::Congestion;
    for congestion in [Congestion::Cubic, Congestion::Bbr2] {
        let mut server = Server::new(Options { congestion, ..Options::default() });
        let mut client = Client::new(CLIENT);
        client.talk(&mut server);
        assert!(client.quic.is_established());
    }
}

#[test]
fn a_token_is_not_taken_after_its_time() {
    let mut server = Server::new(Options { retry: Retry::Always, ..Options::default() });
    let mut client = Client::new(CLIENT);
    let retry = server.receive(&mut client.output()[0], client.address).unwrap().unwrap();
    client.input(retry);
    let initial = client.output().remove(0);
    server.now += limits::QUIC_TOKEN_LIFETIME + Duration::from_secs(2);
    assert!(matches!(server.classify(&initial, client.address), Arrival::Reply(_)));
}
