"""WebSocket clients that other people wrote, against the application under test."""

import json
from collections.abc import Callable

import pytest
from conformance.asking import new_tag, noted
from conformance.clients import Client, Denied, Ended, Websockets, Wsproto
from server import Listening

MIB = 1024 * 1024
Open = Callable[..., Client]


@pytest.fixture(params=["websockets", "websockets, compressed", "wsproto", "wsproto, compressed"])
def client(request: pytest.FixtureRequest, server: Listening) -> Open:
    """Opens one: `client(target, subprotocols)`."""
    assert not isinstance(server.address, str)
    library, _, compressed = request.param.partition(", ")
    make = Websockets if library == "websockets" else Wsproto
    host, port = server.address

    def connect(target: str, subprotocols: list[str] | None = None) -> Client:
        opened = make(host, port, target, subprotocols or [], compress=bool(compressed))
        assert opened.compressed == bool(compressed), "permessage-deflate if and only if it is offered (RFC 7692 §5)"
        return opened

    return connect


MESSAGES = {
    "text": "příliš žluťoučký kůň 🐎",
    "empty text": "",
    "empty bytes": b"",
    "bytes": bytes(range(256)),
    "long text": "0123456789" * 100_000,
    "a mebibyte of noise": bytes((number * number >> 7) & 0xFF for number in range(MIB)),
    "a mebibyte of nothing": bytes(MIB),
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES.keys())
def test_a_message_comes_back(client: Open, message: str | bytes) -> None:
    with client("/ws/echo") as socket:
        for _ in range(3):
            socket.send(message)
            received = socket.receive()
            assert type(received) is type(message)
            assert received == message


def test_many_messages_keep_their_order(client: Open) -> None:
    with client("/ws/echo") as socket:
        for number in range(300):
            socket.send(f"message {number}")
        assert [socket.receive() for _ in range(300)] == [f"message {number}" for number in range(300)]


@pytest.mark.parametrize("pieces", [("one", "two", "six"), (b"one", b"", b"six"), ("x" * 70_000, "y" * 70_000)])
def test_a_message_in_pieces(client: Open, pieces: tuple[str | bytes, ...]) -> None:
    with client("/ws/echo") as socket:
        socket.send_in_pieces(*pieces)
        whole = "".join(map(str, pieces)) if isinstance(pieces[0], str) else b"".join(map(bytes, pieces))  # type: ignore[arg-type]
        assert socket.receive() == whole


@pytest.mark.parametrize("payload", [b"", b"ping", bytes(125)])
def test_pings(client: Open, payload: bytes) -> None:
    with client("/ws/echo") as socket:
        socket.ping(payload)
        socket.send("still there")
        assert socket.receive() == "still there"


def test_subprotocols(client: Open) -> None:
    with client("/ws/subprotocol", ["one", "two"]) as socket:
        assert socket.subprotocol == "two"
        assert json.loads(socket.receive()) == ["one", "two"]


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "gone"), (4321, "ř" * 60)])
def test_closes_of_the_client(server: Listening, client: Open, code: int, reason: str) -> None:
    tag = new_tag()
    with client(f"/ws/echo?{tag}") as socket:
        assert socket.close(code, reason) == code
    noted(server, tag, ["websocket.disconnect", code, reason])


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1008, "no more"), (4999, "x" * 100)])
def test_closes_of_the_server(client: Open, code: int, reason: str) -> None:
    with client(f"/ws/closes?{new_tag()}&{code}&{reason.replace(' ', '_')}") as socket, pytest.raises(Ended) as ended:
        socket.receive()
    assert (ended.value.code, ended.value.reason) == (code, reason.replace(" ", "_"))


def test_denials(client: Open) -> None:
    with pytest.raises(Denied) as denied:
        client("/ws/denies")
    assert denied.value.status == 403
    with pytest.raises(Denied) as denied:
        client("/ws/denies-with-a-response")
    assert (denied.value.status, denied.value.body) == (401, b'{"a": "why"}')


def test_many_clients_at_once(client: Open) -> None:
    sockets = [client("/ws/echo") for _ in range(50)]
    try:
        for number, socket in enumerate(sockets):
            socket.send(f"to {number}")
        assert [socket.receive() for socket in sockets] == [f"to {number}" for number in range(50)]
    finally:
        for socket in sockets:
            socket.drop()
