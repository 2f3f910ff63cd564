"""What could bring an HTTP/3 server down, over the wire: the offender's connection ends, memory is bounded, others are answered.

The bounds on how much it takes are those of src/limits.rs. Each test has an honest client beside it (`Watch`).
"""

import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from conftest import Serve
from quic_peer import (
    CANCEL_PUSH,
    CLOSED_CRITICAL_STREAM,
    CONNECTION_ID_LIMIT_ERROR,
    DATA,
    EXCESSIVE_LOAD,
    FRAME_UNEXPECTED,
    GOAWAY,
    HEADERS,
    ID_ERROR,
    MAX_PUSH_ID,
    PRIORITY_UPDATE,
    PROTOCOL_VIOLATION,
    SETTINGS,
    SETTINGS_ERROR,
    STREAM_LIMIT_ERROR,
    QuicPeer,
    crypto,
    frame,
    head,
    literal,
    prefixed,
    reset,
    section,
    stop,
    stream,
    varint,
)
from server import Server, resident_kib, serving, until
from watch import Watch, warm

KIB = 1024
MIB = 1024 * KIB
FLOOD_MAX = 16 * MIB
"""More than any budget of a connection, with what was on its way when it ended."""
STREAMS_MAX = 128
MESSAGE_ERROR, STREAM_CREATION_ERROR = 0x10E, 0x103


@pytest.fixture(scope="module")
def target() -> Iterator[Server]:
    with serving("echo:app", version="h3") as server:
        yield warm(server)


def nothing_is_left(server: Server) -> None:
    until("nothing is left in flight", lambda: server.exchanges() == 0)


# --- requests that are given up --------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 10, STREAMS_MAX // 2])
def test_rapid_reset(target: Server, at_once: int) -> None:
    """CVE-2023-44487: each request is cancelled as soon as it has begun."""
    request = head("/cancellable/rapid")

    def burst(_: int) -> Iterable[bytes]:
        for number in [attacker.next_stream() for _ in range(at_once)]:
            yield stream(number, request) + reset(number, len(request)) + stop(number)

    with Watch(target), QuicPeer(target.address) as attacker:
        end = attacker.flood(burst, 20_000 // at_once)
        assert end.code == EXCESSIVE_LOAD
        assert end.sent < MIB
    nothing_is_left(target)


@pytest.mark.parametrize("fin", [False, True], ids=["reset", "only not wanted any more"])
def test_requests_that_reach_a_worker_before_they_are_cancelled(target: Server, fin: bool) -> None:
    before = len(target.get("/cancelled").json)
    request = head("/cancellable/slow-rapid")
    with Watch(target), QuicPeer(target.address) as attacker:
        for turn in range(5000):
            number = attacker.next_stream()
            attacker.packet(stream(number, request, fin=fin))
            if turn % 20 == 0:
                # Time enough for the worker to take them.
                target.get("/tag/x")
            attacker.packet(stop(number) + (b"" if fin else reset(number, len(request))))
            attacker.turn()
            if attacker.closed:
                break
        assert attacker.end().code == EXCESSIVE_LOAD
    assert turn < 3000
    nothing_is_left(target)
    assert len(target.get("/cancelled").json) - before < 3000


MALFORMED = {
    "more content than announced": head("/echo", "POST", ("content-length", "1")) + frame(DATA, b"ab"),
    "a field about the connection": head("/tag/x", "GET", ("connection", "x")),
    "an upper-case name": head("/tag/x", "GET", ("X-Upper", "x")),
    "no end to what was announced": head("/echo", "POST", ("content-length", "1")),
    "a pseudo-header in the trailers": head("/echo", "POST") + frame(HEADERS, b"\0\0" + literal(b":path", b"/")),
    "a target that is none": head("/tag/#x"),
    "a target with a space": head("/tag/ x"),
    "a target beyond ASCII": head("/tag/\xe9"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_made_you_reset(target: Server, name: str) -> None:
    """CVE-2025-8671: the client breaks a rule, so that the server does the resetting, or the refusing."""
    with Watch(target), QuicPeer(target.address) as attacker:
        end = attacker.flood(lambda _: [stream(attacker.next_stream(), MALFORMED[name], fin=True)], 5000)
        assert end.code == EXCESSIVE_LOAD
        assert end.sent < MIB
    nothing_is_left(target)


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_request_is_its_own_streams_error(target: Server, name: str) -> None:
    with QuicPeer(target.address) as client:
        number, sibling = client.next_stream(), client.next_stream()
        client.packets([stream(number, MALFORMED[name], fin=True), stream(sibling, head("/tag/sibling"), fin=True)])
        assert client.wait(lambda: b"sibling" in client.answers.get(sibling, b""))
        assert client.wait(lambda: number in client.resets or client.answers.get(number))
        if name.startswith("a target"):
            # The status 400 is an entry of QPACK's static table, 67 (RFC 9204 §A).
            assert b"\xff\x04" in client.answers[number][:8]
        else:
            assert client.resets[number] == MESSAGE_ERROR
        assert not client.closed


# --- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", [head("/cancellable/many"), head("/tag/x")[:-1], b""], ids=["whole", "cut off", "empty"])
def test_all_streams_of_a_connection(target: Server, request_: bytes) -> None:
    with Watch(target) as watch, QuicPeer(target.address) as attacker:
        attacker.packets(stream(attacker.next_stream(), request_) for _ in range(STREAMS_MAX))
        goal = watch.answers + 50
        until("honest answers", lambda: watch.answers > goal)
        attacker.turn()
        assert not attacker.closed
        attacker.packet(stream(4 * STREAMS_MAX, head("/tag/x"), fin=True))
        assert attacker.end().code == STREAM_LIMIT_ERROR
    nothing_is_left(target)


def test_streams_without_a_meaning(target: Server) -> None:
    """RFC 9114 §6.2.3: they are to be ignored; not for ever."""

    def unknown(number: int) -> Iterable[bytes]:
        attacker.wait(lambda: number + 2 < attacker.quic._remote_max_streams_uni)
        yield stream(4 * number + 6, varint(0x21) + b"x", fin=True)

    with Watch(target), QuicPeer(target.address) as attacker:
        end = attacker.flood(unknown, 100_000)
        assert end.code == EXCESSIVE_LOAD
        assert end.sent < FLOOD_MAX


# --- frames of HTTP/3 without end ------------------------------------------------------------------------------------

CONTROL = {
    "unknown frames": frame(0x21),
    "large unknown frames": frame(0x21, bytes(8000)),
    "GOAWAY": frame(GOAWAY, b"\0"),
    "MAX_PUSH_ID": frame(MAX_PUSH_ID, b"\x09"),
    "PRIORITY_UPDATE": frame(PRIORITY_UPDATE, b"\0u=1"),
}
FLOODS: dict[str, tuple[int, bytes, bytes]] = {
    **{f"{name} on the control stream": (2, b"", piece) for name, piece in CONTROL.items()},
    "QPACK: the capacity set again and again": (6, b"\x02", b"\x20"),
    "QPACK: streams cancelled that were not": (6, b"\x03", b"\x40"),
    "a stream of no known type": (6, varint(0x54), bytes(1000)),
    "empty DATA": (0, head("/echo", "POST"), frame(DATA)),
    "unknown frames on a request": (0, head("/echo", "POST"), frame(0x21)),
    "large unknown frames on a request": (0, head("/echo", "POST"), frame(0x21, bytes(8000))),
    "unknown frames before a head": (0, b"", frame(0x21)),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_frames(target: Server, name: str) -> None:
    number, before, piece = FLOODS[name]
    many = piece * max(1, 32 * KIB // len(piece))
    with Watch(target), QuicPeer(target.address) as attacker:
        end = attacker.flood_stream(number, before, many, 4 * FLOOD_MAX)
        assert end.code == EXCESSIVE_LOAD
        assert end.sent < FLOOD_MAX
    nothing_is_left(target)


BROKEN: dict[str, tuple[bytes, int]] = {
    "SETTINGS twice": (stream(2, frame(SETTINGS), 3), FRAME_UNEXPECTED),
    "CANCEL_PUSH": (stream(2, frame(CANCEL_PUSH, b"\0"), 3), ID_ERROR),
    "MAX_PUSH_ID that shrinks": (stream(2, frame(MAX_PUSH_ID, b"\x09") + frame(MAX_PUSH_ID, b"\x08"), 3), ID_ERROR),
    "GOAWAY that grows": (stream(2, frame(GOAWAY, b"\x04") + frame(GOAWAY, b"\x08"), 3), ID_ERROR),
    "DATA on the control stream": (stream(2, frame(DATA, b"x"), 3), FRAME_UNEXPECTED),
    "HTTP/2's PING": (stream(2, frame(6, bytes(8)), 3), FRAME_UNEXPECTED),
    "the control stream reset": (reset(2, 3), CLOSED_CRITICAL_STREAM),
    "the control stream ended": (stream(2, b"", 3, fin=True), CLOSED_CRITICAL_STREAM),
    "the server's control stream not wanted": (stop(3), CLOSED_CRITICAL_STREAM),
    "QPACK's encoder stream ended": (stream(6, b"\x02", fin=True), CLOSED_CRITICAL_STREAM),
    "a second control stream": (stream(6, b"\0"), STREAM_CREATION_ERROR),
    "a push stream": (stream(6, b"\x01\0"), STREAM_CREATION_ERROR),
    "QPACK's table enlarged": (stream(6, b"\x02\x3f\x81\x01"), 0x201),
    "an insertion acknowledged that there was not": (stream(6, b"\x03\x01"), 0x202),
    "an entry of a table that is empty": (stream(0, frame(HEADERS, b"\x02\0\x80")), 0x200),
    "a new connection token": (b"\x07\x01x", PROTOCOL_VIOLATION),
    "an id retired that was never given": (b"\x19\x3f", PROTOCOL_VIOLATION),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_ends_the_connection(target: Server, name: str) -> None:
    frames, code = BROKEN[name]
    with Watch(target), QuicPeer(target.address) as attacker:
        attacker.wait(lambda: attacker.unsaid(2) == 0)
        attacker.packet(frames)
        assert attacker.end().code == code


@pytest.mark.parametrize("settings", [b"\x02\0", b"\x06\x01\x06\x01", b"\x08\x02"], ids=["HTTP/2's", "twice", "no flag"])
def test_settings_that_are_none(target: Server, settings: bytes) -> None:
    with Watch(target), QuicPeer(target.address, opens=False) as attacker:
        attacker.say(2, b"\0" + frame(SETTINGS, settings))
        assert attacker.end().code == SETTINGS_ERROR


# --- heads -----------------------------------------------------------------------------------------------------------

BOMBS = {
    "an index at a byte each": frame(HEADERS, b"\0\0" + b"\xd1" * 30_000),
    "many small fields": frame(HEADERS, section("GET", "/tag/x") + b"\x21a\0" * 8000),
    # `0` takes five bits (RFC 7541 §B): what is sent is five eighths of what it says.
    "Huffman": frame(HEADERS, section("GET", "/tag/x") + b"\x21a" + prefixed(0x80, 7, 25_000) + bytes(25_000)),
    "one large field": frame(HEADERS, section("GET", "/tag/x", ("x", "y" * 33_000))),
    "a length that nothing could have": varint(HEADERS) + varint(1 << 40) + bytes(60_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_header_bombs(target: Server, name: str) -> None:
    """Refused one by one, and in the end with the connection. None of them makes more of itself than it is."""
    with Watch(target), QuicPeer(target.address) as attacker:
        for _ in range(1000):
            number = attacker.next_stream()
            if attacker.closed:
                break
            attacker.say(number, BOMBS[name], fin=True)
            attacker.wait(lambda: number in attacker.resets or number in attacker.answers)  # noqa: B023
        assert attacker.end().code == EXCESSIVE_LOAD
        assert attacker.sent < 3 * FLOOD_MAX


# --- frames of QUIC without end --------------------------------------------------------------------------------------

TRANSPORT: dict[str, Callable[[int], bytes]] = {
    "PING": lambda _: b"\x01",
    "a packet full of PING": lambda _: b"\x01" * 1100,
    "PADDING": lambda _: bytes(1100),
    "ACK": lambda n: b"\x02\0\0\0\0" + b"\x01" * (n % 2),
    "PATH_CHALLENGE": lambda _: b"\x1a" + os.urandom(8),
    "a packet full of PATH_CHALLENGE": lambda _: b"".join(b"\x1a" + os.urandom(8) for _ in range(100)),
    "PATH_RESPONSE": lambda _: b"\x1b" + os.urandom(8),
    "MAX_DATA": lambda n: b"\x10" + varint((1 << 24) + n),
    "MAX_STREAM_DATA": lambda n: b"\x11\0" + varint((1 << 24) + n),
    "MAX_STREAMS": lambda n: b"\x13" + varint(1000 + n),
    "DATA_BLOCKED": lambda n: b"\x14" + varint(n),
    "STREAM_DATA_BLOCKED": lambda n: b"\x15\0" + varint(n),
    "STREAMS_BLOCKED": lambda n: b"\x16" + varint(n),
    "STOP_SENDING": lambda _: stop(0),
    "RESET_STREAM": lambda _: reset(0, 1000),
    "empty STREAM frames": lambda _: stream(0, b"", 1000),
    "the same byte": lambda _: stream(0, b"x", 1000),
    "CRYPTO": lambda _: crypto(1000, b"x"),
    "NEW_CONNECTION_ID": lambda n: (
        b"\x18" + varint(10 + n) + varint(9 + n) + b"\x08" + (1 << 60 | n).to_bytes(8, "big") + os.urandom(16)
    ),
    "NEW_CONNECTION_ID without end": lambda n: (
        b"\x18" + varint(10 + n) + b"\0" + b"\x08" + (1 << 60 | n).to_bytes(8, "big") + os.urandom(16)
    ),
}


@pytest.mark.parametrize("name", TRANSPORT)
def test_a_flood_of_transport_frames(target: Server, name: str) -> None:
    with Watch(target), QuicPeer(target.address) as attacker:
        attacker.packet(stream(attacker.next_stream(), head("/echo", "POST")))
        end = attacker.flood(lambda n: [TRANSPORT[name](n)], 100_000)
        # Where there is a rule, it is broken; where there is none, it is too much.
        assert end.code in (EXCESSIVE_LOAD, CONNECTION_ID_LIMIT_ERROR, PROTOCOL_VIOLATION)
        # Sent without regard to the network, so that much of it is lost in the socket.
        assert end.sent < 4 * FLOOD_MAX
    nothing_is_left(target)


def test_a_client_that_uses_its_connection_ids_up_over_and_over(target: Server) -> None:
    with Watch(target), QuicPeer(target.address) as attacker:
        for _ in range(100_000):
            attacker.wait(lambda: attacker.quic._peer_cid_available)
            if attacker.closed:
                break
            attacker.quic.change_connection_id()
            attacker.quic.send_ping(1)
            attacker.turn()
        assert attacker.end().code == EXCESSIVE_LOAD
        assert attacker.sent < FLOOD_MAX


# --- memory ----------------------------------------------------------------------------------------------------------

HOSTILE_MAX_KIB = 4 * KIB
"""Of one connection, whatever its client sends: the window, and the pieces that it comes in (src/limits.rs)."""


@pytest.mark.parametrize("size", [1, 180], ids=["bytes", "pieces that fill the window"])
def test_what_cannot_be_read_yet_is_bounded(serve: Serve, size: int) -> None:
    """The first byte of each stream is missing, and all that follows waits for it, in as many pieces as may be."""
    server = warm(serve("echo:app", version="h3").ready())
    number = 12
    with ExitStack() as stack:
        before = resident_kib(server.pid)
        attackers = [stack.enter_context(QuicPeer(server.address)) for _ in range(number)]
        for attacker in attackers:
            streams = [attacker.next_stream() for _ in range(40)]
            pieces = ((of, at) for at in range(1, 63 * KIB, size) for of in streams)
            attacker.packets(stream(of, b"x" * size, at) for _, (of, at) in zip(range(11_000), pieces, strict=False))
            attacker.wait(lambda: False, 0.05)
        assert not any(attacker.closed for attacker in attackers)
        held = resident_kib(server.pid) - before
        with Watch(server):
            # One connection that goes further ends, before it has cost what so many pieces would.
            streams = [attackers[0].next_stream() for _ in range(40)]
            spread = range(1, 300, 2)
            end = attackers[0].flood(lambda n: [stream(streams[n % 40], b"x", n // 40 * 300 + at) for at in spread], 8000)
            assert end.code == EXCESSIVE_LOAD
    assert held < number * HOSTILE_MAX_KIB, f"{held} KiB of {number} connections"


def test_a_handshake_in_pieces_is_bounded(target: Server) -> None:
    with Watch(target), QuicPeer(target.address) as attacker:
        end = attacker.flood(lambda n: [crypto(1 + 2 * (n * 100 + k), b"x") for k in range(100)], 320)
        assert end.code == EXCESSIVE_LOAD
        assert end.sent < MIB


# --- clients that are slow -------------------------------------------------------------------------------------------


def test_windows_that_stay_shut(target: Server) -> None:
    """Each client has as many responses as it may, and takes nothing of any. After half a minute they are given up."""
    with Watch(target), ExitStack() as stack:
        attackers = [stack.enter_context(QuicPeer(target.address, max_stream_data=0)) for _ in range(4)]
        for attacker in attackers:
            attacker.packets(stream(attacker.next_stream(), head("/bytes/16777217"), fin=True) for _ in range(STREAMS_MAX))

        def all_given_up() -> bool:
            for attacker in attackers:
                attacker.turn()
            return all(attacker.closed or attacker.resets for attacker in attackers)

        until("the first are given up", all_given_up, 60, 0.1)
    nothing_is_left(target)


def test_clients_that_acknowledge_nothing(target: Server) -> None:
    """Six connections with all their windows open, whose responses nobody takes."""
    with Watch(target) as watch, ExitStack() as stack:
        for _ in range(6):
            attacker = stack.enter_context(QuicPeer(target.address, max_stream_data=1 << 30, max_data=1 << 30))
            attacker.packets(stream(attacker.next_stream(), head("/bytes/262144"), fin=True) for _ in range(STREAMS_MAX))
        goal = watch.answers + 200
        until("honest answers", lambda: watch.answers > goal)
    nothing_is_left(target)


def test_heads_and_contents_that_come_byte_by_byte(serve: Serve) -> None:
    server = warm(serve("echo:app", "--header-timeout", "2", "--body-timeout", "2", version="h3").ready())
    with Watch(server), QuicPeer(server.address) as attacker:
        slow, late = attacker.next_stream(), attacker.next_stream()
        request, begun = head("/tag/x"), head("/echo", "POST")
        attacker.packet(stream(late, begun))
        for at in range(len(request)):
            attacker.packet(stream(slow, request[at : at + 1], at))
            if attacker.wait(lambda: slow in attacker.resets and (late in attacker.resets or late in attacker.answers), 0.2):
                break
        assert slow in attacker.resets
        assert late in attacker.resets or late in attacker.answers
    nothing_is_left(server)


# --- first packets ---------------------------------------------------------------------------------------------------


def first_flight(address: tuple[str, int]) -> tuple[QuicConnection, list[bytes]]:
    configuration = QuicConfiguration(alpn_protocols=["h3"], server_name="localhost")
    quic = QuicConnection(configuration=configuration)
    quic.connect(address, time.monotonic())
    return quic, [data for data, _ in quic.datagrams_to_send(time.monotonic())]


def stranger(address: tuple[str, int], source: str = "127.0.0.2") -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * MIB)
    found.bind((source, 0))
    found.connect(address)
    found.setblocking(False)
    return found


def answers(stranger: socket.socket, within_s: float) -> list[bytes]:
    found, deadline = [], time.monotonic() + within_s
    while (left := deadline - time.monotonic()) > 0 and select.select([stranger], [], [], left)[0]:
        found.append(stranger.recv(65536))
    return found


OTHERS = 4
"""Connections of honest clients, some of which have ended just now."""


def connections(server: Server) -> int:
    return sum(int(shard["quic_connections"]) for shard in server.status()["shards"])


@pytest.mark.parametrize("retry", ["auto", "always", "never"])
def test_a_flood_of_first_packets(serve: Serve, retry: str) -> None:
    """From clients that never answer; as from addresses that are not theirs."""
    server = warm(serve("echo:app", "--quic-retry", retry, version="h3").ready())
    assert not isinstance(server.address, str)
    with Watch(server) as watch, stranger(server.address) as attacker:
        sent, got = 0, []
        for _ in range(600):
            for datagram in first_flight(server.address)[1]:
                attacker.send(datagram)
                sent += len(datagram)
            got += answers(attacker, 0.001)
        assert connections(server) <= {"auto": 32, "always": 0, "never": 256}[retry] + OTHERS
        got += answers(attacker, 3)
        # RFC 9000 §8.1.
        assert sum(map(len, got)) <= 3 * sent
        retries = sum(found[0] & 0xF0 == 0xF0 for found in got)
        assert (retries > 500) == (retry != "never")
        assert watch.answers


def test_what_goes_to_an_address_that_was_not_shown_is_limited(target: Server) -> None:
    """RFC 9000 §8.1: three times what came from there, over all repetitions."""
    assert not isinstance(target.address, str)
    with stranger(target.address) as victim:
        flight = first_flight(target.address)[1][:1]
        for datagram in flight:
            victim.send(datagram)
        got = answers(victim, 5)
    assert got
    assert sum(map(len, got)) <= 3 * sum(map(len, flight))


def test_handshakes_that_are_never_finished(serve: Serve) -> None:
    """Of a client that shows its address and goes no further: so many, and others are not kept out."""
    server = warm(serve("echo:app", version="h3").ready())
    assert not isinstance(server.address, str)
    with Watch(server):
        for _ in range(300):
            with stranger(server.address) as attacker:
                quic, flight = first_flight(server.address)
                for _ in range(2):
                    for datagram in flight:
                        attacker.send(datagram)
                    answer = next(iter(answers(attacker, 0.02)), b"\0")
                    if answer[0] & 0xF0 != 0xF0:
                        break
                    quic.receive_datagram(answer, server.address, time.monotonic())
                    flight = [data for data, _ in quic.datagrams_to_send(time.monotonic())]
        assert connections(server) <= 256 + OTHERS
        assert server.get("/tag/x").status == 200


# --- stateless resets ------------------------------------------------------------------------------------------------


def test_stateless_resets_tell_nothing_to_strangers(target: Server) -> None:
    """RFC 9000 §10.3, §21.11: for an id that was given and forgotten; not for one in use, nor for an invented one; and not without end."""
    assert not isinstance(target.address, str)
    with Watch(target), QuicPeer(target.address) as client:
        in_use = client.quic._peer_cid.cid
        other = QuicPeer(target.address)
        given, token = other.quic._peer_cid.cid, other.quic._peer_cid.stateless_reset_token
        with stranger(target.address) as probe:
            for id_ in (in_use, os.urandom(len(in_use)), in_use[:-1] + bytes([in_use[-1] ^ 1])):
                probe.send(b"\x40" + id_ + os.urandom(100))
            assert not answers(probe, 0.5)
            with other:
                pass

            def forgotten() -> list[bytes]:
                probe.send(b"\x40" + given + os.urandom(40))
                return answers(probe, 0.1)

            (reset_,) = until("it is forgotten", forgotten)
            assert len(reset_) < 1 + len(given) + 40
            assert token is None or reset_.endswith(token)
            # Shorter than what it answers, until there is no shorter one: two servers cannot keep each other busy.
            probe.send(b"\x40" + given + b"1234")
            assert not answers(probe, 0.3)
            for _ in range(1000):
                probe.send(b"\x40" + given + os.urandom(40))
            assert len(answers(probe, 1)) <= 200
        assert not client.closed
