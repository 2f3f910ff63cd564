"""HTTP/3 on networks as they are, and what QUIC itself promises: loss, another address, other versions, resumption."""

import contextlib
import hashlib
import os
import select
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from aioquic.h3.connection import H3_ALPN
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet_builder import QuicDeliveryState
from conftest import Serve
from http3 import Http3
from payload import pattern
from quic_peer import QuicPeer, head
from relay import Network, Relay
from server import WAIT_MAX_S, Server, resident_kib, serving, until
from versions import VERSIONS

MIB = 1024 * 1024
LOSSY = Network(loss=0.02, delay_s=0.05, reordered=0.02, bytes_per_s=125_000)
"""2 % lost, 2 % out of order, 50 ms one way, 1 Mbit/s."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("echo:app", version="h3", shards=2) as server:
        yield server


def through(relay: Relay, timeout_s: float = 60.0, **how: object) -> Http3:
    return Http3(relay.address, timeout_s, **how)  # type: ignore[arg-type]


# --- bad networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_transfers_over_a_lossy_network_finish_intact(server: Server, seed: int) -> None:
    """In both directions at once, beside small requests."""
    network = Network(**{**LOSSY.__dict__, "seed": seed})
    body = pattern(300_000)
    with Relay(server.address, network) as relay, through(relay) as client:
        down = client.begin("GET", "/bytes/262144")
        up = client.begin("POST", "/digest", body=body)
        for number in range(10):
            assert client.request("GET", f"/tag/{number}").json == {"tag": str(number)}
        assert down.response().body == pattern(262_144)
        assert up.response().json == {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        assert client.connections == 1
        assert relay.lost > 5
        assert relay.reordered > 5


def test_many_clients_over_a_network_that_loses_a_tenth(server: Server) -> None:
    def ask(seed: int) -> None:
        network = Network(loss=0.1, delay_s=0.01, reordered=0.05, seed=seed)
        with Relay(server.address, network) as relay, through(relay) as client:
            exchanges = [client.begin("POST", "/echo", body=pattern(20_000, f"{seed}-{n}")) for n in range(5)]
            for number, exchange in enumerate(exchanges):
                assert exchange.response().body == pattern(20_000, f"{seed}-{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))


# --- another address -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["between requests", "in an upload", "in a download"])
def test_a_client_whose_port_changes_goes_on(server: Server, where: str) -> None:
    """As behind a NAT that has forgotten its binding; with two shards the packets of a new port may land on the other one."""
    network = Network(delay_s=0.005, bytes_per_s=2_000_000)
    with Relay(server.address, network) as relay, through(relay) as client:
        assert client.request("GET", "/tag/first").status == 200
        for turn in range(4):
            if where == "between requests":
                relay.rebind()
                assert client.request("GET", f"/tag/{turn}").json == {"tag": str(turn)}
            elif where == "in an upload":
                body = pattern(500_000)
                exchange = client.begin("POST", "/digest", {"content-length": str(len(body))}, more=True)
                exchange.send(body[:200_000])
                relay.rebind()
                exchange.send(body[200_000:], end=True)
                assert exchange.response().json["sha256"] == hashlib.sha256(body).hexdigest()
            else:
                exchange = client.begin("GET", "/bytes/262144")
                found = exchange.read()
                relay.rebind()
                # What the server sends to the old port is lost, acknowledgements and all: the client has to speak first.
                assert client.request("GET", f"/tag/{turn}").json == {"tag": str(turn)}
                while piece := exchange.read():
                    found += piece
                assert found == pattern(262_144)
        assert client.connections == 1


def test_a_client_that_migrates_on_purpose_goes_on(server: Server) -> None:
    with server.client() as client:
        assert isinstance(client, Http3)
        for turn in range(4):
            assert client.request("GET", f"/tag/{turn}").json == {"tag": str(turn)}
            client.migrate()


# --- first packets ---------------------------------------------------------------------------------------------------


def answers_to(server: Server, datagram: bytes, within_s: float) -> list[bytes]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(server.address)
        probe.send(datagram)
        found = []
        while select.select([probe], [], [], within_s)[0]:
            found.append(probe.recv(65536))
            within_s = 0.1
        return found


def initial(version: int, size: int) -> bytes:
    """A long header with ids and nothing that decrypts."""
    head = b"\xc3" + version.to_bytes(4, "big") + b"\x08" + os.urandom(8) + b"\x08" + b"sourceid" + b"\0" + b"\x44\xb0"
    return head + os.urandom(max(0, size - len(head)))


def test_an_unknown_version_is_answered_with_those_that_are_known(server: Server) -> None:
    (answer,) = answers_to(server, initial(0x1A2A3A4A, 1200), WAIT_MAX_S)
    assert answer[0] & 0x80
    assert answer[1:5] == bytes(4)
    assert answer[5:14] == b"\x08sourceid"
    versions = [answer[at : at + 4] for at in range(14 + 1 + 8, len(answer), 4)]
    assert b"\0\0\0\1" in versions


@pytest.mark.parametrize(
    "datagram",
    [initial(0x1A2A3A4A, 1199), initial(1, 1199), b"", b"\x40", os.urandom(20), b"\xff" * 1500, initial(1, 1200)],
    ids=["short, other version", "short Initial", "empty", "one byte", "noise", "ones", "an Initial that does not decrypt"],
)
def test_what_is_no_first_packet_is_not_amplified(server: Server, datagram: bytes) -> None:
    answers = answers_to(server, datagram, 0.3)
    # A stateless reset is shorter than what it answers (RFC 9000 §10.3).
    assert sum(map(len, answers)) <= len(datagram)
    assert server.get("/tag/x").status == 200


def test_noise_costs_no_memory_and_nobody_else(serve: Serve) -> None:
    server = serve("echo:app", version="h3").ready()
    with server.client() as client:
        assert client.request("GET", "/tag/x").status == 200
        before = resident_kib(server.pid)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
            noise.connect(server.address)
            for number in range(20_000):
                with contextlib.suppress(ConnectionRefusedError, BlockingIOError):
                    noise.send(initial(1, 1200) if number % 2 else os.urandom(100))
                if number % 500 == 0:
                    assert client.request("GET", f"/tag/{number}").status == 200
        assert resident_kib(server.pid) - before < 32 * 1024


def test_clients_that_begin_a_handshake_and_leave_are_forgotten(serve: Serve) -> None:
    server = serve("echo:app", version="h3").ready()
    server.get("/tag/x")
    before = resident_kib(server.pid)
    for _ in range(300):
        # Nobody answers at the address that it comes from.
        half_open(server)
    assert server.get("/tag/x").status == 200
    assert resident_kib(server.pid) - before < 64 * 1024


def half_open(server: Server) -> None:
    """Sends a client's first flight and never listens."""
    assert not isinstance(server.address, str)
    quic = QuicConnection(configuration=QuicConfiguration(alpn_protocols=H3_ALPN, server_name="localhost"))
    quic.connect(server.address, time.monotonic())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for data, address in quic.datagrams_to_send(time.monotonic()):
            sender.sendto(data, address)


def test_retry_is_understood(serve: Serve) -> None:
    server = serve("echo:app", "--quic-retry", "always", version="h3", shards=2).ready()
    for number in range(6):
        with server.client() as client:
            assert client.request("GET", f"/tag/{number}").json == {"tag": str(number)}
            assert isinstance(client, Http3)
            assert client.quic._retry_count == 1


# --- resumption, versions, other ways there --------------------------------------------------------------------------


def test_a_ticket_is_taken_by_every_shard_and_early_data_is_not(server: Server) -> None:
    assert not isinstance(server.address, str)
    with Http3(server.address, WAIT_MAX_S) as first:
        assert first.request("GET", "/tag/x").status == 200
        until("a ticket", lambda: first.tickets)
        ticket = first.tickets[-1]
    for _ in range(6):
        with Http3(server.address, WAIT_MAX_S, ticket=ticket) as again:
            assert again.request("GET", "/tag/x").status == 200
            assert again.handshake is not None
            assert again.handshake.session_resumed
            assert not again.handshake.early_data_accepted, "not unless the operator says so"


@pytest.mark.parametrize("retry", ["never", "always"])
def test_early_data_in_front_of_a_retry_is_the_clients_to_send_again(serve: Serve, retry: str) -> None:
    """RFC 9000 §17.2.5.3. The server keeps nothing for a client that has not shown its address, so what was sent in 0-RTT beside the first
    Initial is gone. aioquic 1.7 forgets with the Retry that it has sent it, and waits for ever; told that it was lost, it sends it again."""
    server = serve("echo:app", "--quic-0rtt", "--quic-retry", retry, version="h3").ready()
    assert not isinstance(server.address, str)
    with Http3(server.address, WAIT_MAX_S) as first:
        until("a ticket", lambda: first.tickets)
    early = head("/tag/early")
    with QuicPeer(server.address, early=early, session_ticket=first.tickets[-1]) as client:
        assert client.quic.tls.early_data_accepted
        late = client.next_stream()
        client.say(late, head("/tag/late"), fin=True)
        assert client.wait(lambda: b"late" in client.answers.get(late, b""))
        if retry == "always":
            assert client.quic._retry_count == 1
            assert 0 not in client.answers
            sender = client.quic._streams[0].sender
            sender.on_data_delivery(QuicDeliveryState.LOST, 0, len(early), True)
        assert client.wait(lambda: b"early" in client.answers.get(0, b""))


# --- the end ---------------------------------------------------------------------------------------------------------


def connections(server: Server) -> int:
    return sum(int(shard["quic_connections"]) for shard in server.status()["shards"])


def test_a_close_right_behind_the_handshake_is_heard(serve: Serve) -> None:
    """In a Handshake packet, whose keys the server has given up, and behind it in the datagram in one that it can open."""
    server = serve("echo:app", version="h3").ready()
    assert not isinstance(server.address, str)
    for number in range(5):
        quic = QuicConnection(
            configuration=QuicConfiguration(alpn_protocols=H3_ALPN, server_name="localhost", verify_mode=ssl.CERT_NONE)
        )
        quic.connect(server.address, time.monotonic())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(server.address)
            client.settimeout(WAIT_MAX_S)
            while not quic._handshake_complete:
                for data, _ in quic.datagrams_to_send(time.monotonic()):
                    client.send(data)
                quic.receive_datagram(client.recv(65536), server.address, time.monotonic())
            quic.send_stream_data(0, head(f"/cancellable/early-{number}"), end_stream=True)
            for data, _ in quic.datagrams_to_send(time.monotonic()):
                client.send(data)
            until("it has begun", lambda: server.exchanges())
            assert not quic._handshake_confirmed
            quic.close(error_code=0x100)
            (last,) = (data for data, _ in quic.datagrams_to_send(time.monotonic()))
            assert last[0] & 0xF0 == 0xE0, "a Handshake packet first"
            client.send(last)
        until("its request is cancelled", lambda: server.exchanges() == 0, 5)
    until("they are forgotten", lambda: connections(server) == 0, 10)
    assert sorted(server.get("/cancelled").json) == [f"early-{number}" for number in range(5)]


def test_a_client_that_vanished_does_not_hold_up_the_end(serve: Serve) -> None:
    """Without CONNECTION_CLOSE, as behind a network that is gone."""
    server = serve("echo:app", version="h3").ready()
    with Relay(server.address, Network()) as relay, through(relay) as client:
        client.begin("GET", "/hold/x")
        with server.client() as other:
            until("it is held", lambda: "x" in other.request("GET", "/held").json)
            # What it is answered arrives; what says so does not.
            relay.is_deaf = True
            other.request("POST", "/release/x")
        until("nothing is under way", lambda: server.exchanges() == 0)
        started = time.monotonic()
        server.process.terminate()
        server.finish()
        assert time.monotonic() - started < 8


def test_alt_svc_tells_of_it(server: Server) -> None:
    assert not isinstance(server.address, str)
    with VERSIONS["h1-tls"].client(server.address, WAIT_MAX_S) as client:
        assert client.request("GET", "/tag/x")["alt-svc"].startswith(f'h3=":{server.address[1]}"')
    with VERSIONS["h2-tls"].client(server.address, WAIT_MAX_S) as client:
        assert client.request("GET", "/tag/x")["alt-svc"].startswith(f'h3=":{server.address[1]}"')


def test_a_stop_lets_exchanges_finish(serve: Serve) -> None:
    server = serve("echo:app", version="h3").ready()
    with server.client() as client, server.client() as other:
        held = client.begin("GET", "/hold/x")
        until("it is held", lambda: "x" in other.request("GET", "/held").json)
        release = other.begin("POST", "/release/x", {"content-length": "1"}, more=True)
        until("both are in flight", lambda: server.exchanges() == 2)
        server.process.terminate()
        server.log.wait("stopping")
        release.send(b"x", end=True)
        assert release.response().status == 200
        assert held.response().json == {"held": "x"}
    server.finish()
