"""What is known to bring HTTP/2 servers down, over the wire: the offender's connection ends, memory is bounded, others are answered.

The bounds on how much that takes are those of src/limits.rs.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from peer import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    SETTINGS,
    STREAM_CLOSED,
    Peer,
    block,
    frame,
    headers,
    reset,
    settings,
    window,
)
from server import Server, serving, until
from watch import Watch, warm

KIB = 1024


@pytest.fixture(scope="module", params=["h2c", "h2-tls"])
def target(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving("echo:app", version=request.param) as server:
        yield warm(server)


def odd(number: int) -> int:
    return 2 * number + 1


def peer(server: Server, **how: object) -> Peer:
    return Peer(server.address, server.version, **how)  # type: ignore[arg-type]


# --- requests that are given up --------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 10, 1000])
def test_rapid_reset(target: Server, at_once: int) -> None:
    """CVE-2023-44487: each request is cancelled as soon as it has begun."""

    def burst(turn: int) -> bytes:
        streams = [odd(turn * at_once + number) for number in range(at_once)]
        return b"".join(headers(stream, "/cancellable/rapid") + reset(stream) for stream in streams)

    with Watch(target), peer(target) as attacker:
        assert attacker.flood(burst, 5000 * len(burst(0)) // at_once) in (ENHANCE_YOUR_CALM, None)
    until("nothing is left in flight", lambda: target.exchanges() == 0)


def test_requests_that_reach_a_worker_before_they_are_cancelled(target: Server) -> None:
    before = len(target.get("/cancelled").json)
    with Watch(target), peer(target) as attacker:
        number = 0
        while attacker.send(headers(odd(number), "/cancellable/slow-rapid")):
            attacker.send(reset(odd(number)))
            number += 1
            assert number < 20_000
            if number % 20 == 0:
                # Time enough for the worker to take them.
                target.get("/tag/x")
        assert attacker.wait_end()
    assert number < 3000
    until("nothing is left in flight", lambda: target.exchanges() == 0)
    assert len(target.get("/cancelled").json) - before < 3000


@pytest.mark.parametrize(
    ("trick", "codes"),
    [
        (lambda stream: window(stream, 0x7FFF_FFFF), {FLOW_CONTROL_ERROR}),
        (lambda stream: window(stream, 0), {PROTOCOL_ERROR}),
        (lambda stream: frame(DATA, 0, stream, b"x"), {STREAM_CLOSED}),
        (
            lambda stream: frame(HEADERS, END_STREAM | END_HEADERS, stream, block("GET", "/tag/again")),
            {STREAM_CLOSED, PROTOCOL_ERROR},
        ),
        (lambda stream: frame(PRIORITY, 0, stream, stream.to_bytes(4, "big") + b"\x10"), {PROTOCOL_ERROR}),
    ],
    ids=["window overflow", "no increment", "content behind the end", "another head", "a stream that waits for itself"],
)
def test_made_you_reset(target: Server, trick: object, codes: set[int]) -> None:
    """CVE-2025-8671: the client breaks a rule, so that the server does the resetting."""
    assert callable(trick)
    with Watch(target), peer(target) as attacker:
        piece = len(headers(1, "/cancellable/made") + trick(1))
        code = attacker.flood(lambda n: headers(odd(n), "/cancellable/made") + trick(odd(n)), 5000 * piece)
        # A broken rule may be the whole connection's error, even where the RFC leaves it at the stream's (§5.4.1).
        assert code in {ENHANCE_YOUR_CALM, PROTOCOL_ERROR, *codes, None}
    until("nothing is left in flight", lambda: target.exchanges() == 0)


def test_malformed_requests_on_purpose(target: Server) -> None:
    bad = block("GET", "/tag/x", ("connection", "x"))
    with Watch(target), peer(target) as attacker:
        attacker.flood(lambda n: frame(HEADERS, END_STREAM | END_HEADERS, odd(n), bad), 3000 * len(bad))


def test_more_streams_than_were_announced(target: Server) -> None:
    with Watch(target), peer(target) as attacker:
        attacker.flood(lambda n: headers(odd(n), "/cancellable/many"), 3000 * len(headers(1, "/cancellable/many")))
    until("nothing is left in flight", lambda: target.exchanges() == 0)


# --- frames without end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("piece", [b"", b"\x82" * 1000, b"\x82" * 16_000], ids=["empty", "1 kB", "full"])
def test_a_flood_of_continuations(target: Server, piece: bytes) -> None:
    """VU#421644: a header block that never ends."""
    with Watch(target), peer(target) as attacker:
        assert attacker.send(frame(HEADERS, END_STREAM, 1, block("GET", "/tag/x")))
        code = attacker.flood(lambda _: frame(CONTINUATION, 0, 1, piece), KIB * KIB)
        assert code in (ENHANCE_YOUR_CALM, PROTOCOL_ERROR, None)


FLOODS = {
    "PING": frame(PING, 0, 0, bytes(8)),
    "PING acknowledgements": frame(PING, ACK, 0, bytes(8)),
    "SETTINGS": settings(),
    "SETTINGS acknowledgements": frame(SETTINGS, ACK, 0),
    "SETTINGS that change windows": settings((4, 1)) + settings((4, 65_535)),
    "SETTINGS that change the table": settings((1, 0)) + settings((1, 4096)),
    "PRIORITY": frame(PRIORITY, 0, 1, b"\0\0\0\5\x10"),
    "WINDOW_UPDATE of the connection": window(0, 1),
    "WINDOW_UPDATE of a stream": window(1, 1),
    "unknown frames": frame(0xBB, 0, 1, b"x"),
    "large unknown frames": frame(0xBB, 0, 0, bytes(16_000)),
    "empty content": frame(DATA, 0, 1),
    "padded content": frame(DATA, PADDED, 1, b"\x14" + bytes(20)),
    "RST_STREAM of no stream": reset(1),
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_frames(target: Server, name: str) -> None:
    many = FLOODS[name] * max(1, 32 * KIB // len(FLOODS[name]))
    with Watch(target), peer(target) as attacker:
        assert attacker.send(headers(1, "/echo", "POST", end=False))
        attacker.flood(lambda _: many, 12 * KIB * KIB)
    until("nothing is left in flight", lambda: target.exchanges() == 0)


def test_pings_of_a_client_that_does_not_read(target: Server) -> None:
    pings = FLOODS["PING"] * 500
    with Watch(target), peer(target, reads=False) as attacker:
        # What it still sends is read for a moment, and dropped: it has not seen the end.
        assert attacker.flood(lambda _: pings, 1024 * KIB * KIB) in (ENHANCE_YOUR_CALM, None)


# --- memory ----------------------------------------------------------------------------------------------------------


def test_an_hpack_bomb(target: Server) -> None:
    """An entry of 4 kB in the table, and blocks that name it over and over, at a byte each."""
    entry = b"\x40\x01x\x7f\xa1\x1e" + b"y" * 4000
    bomb = block("GET", "/tag/x") + b"\xbe" * 15_000
    with Watch(target), peer(target) as attacker:
        assert attacker.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, block("GET", "/tag/x") + entry))
        attacker.flood(lambda n: frame(HEADERS, END_STREAM | END_HEADERS, odd(n + 1), bomb), 12 * KIB * KIB)


def test_many_small_fields(target: Server) -> None:
    """30,000 fields in a block of no size, and again and again."""
    small = block("GET", "/tag/x") + b"\x00\x01a\x00" * 4000
    with Watch(target), ExitStack() as stack:
        for _ in range(4):
            attacker = stack.enter_context(peer(target))
            attacker.flood(lambda n: frame(HEADERS, END_STREAM | END_HEADERS, odd(n), small), 12 * KIB * KIB)


def test_requests_of_clients_that_read_nothing(target: Server) -> None:
    """As many responses of 256 KiB as a connection may have, on ten connections whose sockets are full.

    Together they ask for more than one worker has in flight (--inflight-max)."""
    many = b"".join(headers(odd(number), "/bytes/262144") for number in range(128))
    with Watch(target) as watch, ExitStack() as stack:
        for _ in range(10):
            attacker = stack.enter_context(peer(target, reads=False, setting=[(4, 0x7FFF_FFFF)]))
            assert attacker.send(window(0, 0x7FFF_0000 - 65_535) + many)
        # They stand still; meanwhile:
        goal = watch.answers + 200
        until("honest answers", lambda: watch.answers > goal)


def test_windows_that_stay_shut(target: Server) -> None:
    """Each client has as many responses as it may, and takes nothing of any. After half a minute they are given up."""
    many = b"".join(headers(odd(number), "/bytes/16777217") for number in range(128))
    with Watch(target), ExitStack() as stack:
        attackers = [stack.enter_context(peer(target, setting=[(4, 0)])) for _ in range(4)]
        for attacker in attackers:
            assert attacker.send(many)
        if target.version.name == "h2c":
            # Those that wait for memory of the others begin only then.
            until("the first are given up", lambda: all(given_up(attacker) for attacker in attackers), 60, 0.5)
    until("nothing is left in flight", lambda: target.exchanges() == 0)


def given_up(attacker: Peer) -> bool:
    attacker.wait_end(0.01)
    return attacker.closed or bool(attacker.resets)
