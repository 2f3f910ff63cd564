"""WebSockets as an ASGI application sees them: scope, handshake, messages, closes, mistakes."""

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from conformance.asking import APP, Kind, Start, journal, new_tag, noted, open_gate, standing_still
from conformance.differences import side
from frames import BINARY, CLOSE, PING, PONG, TEXT, Frame, Socket, ask, close, encoded, upgrade
from server import Listening, until
from wire import Connection, Malformed, Response

MIB = 1024 * 1024


@pytest.fixture
def connection(server: Listening) -> Iterator[Connection]:
    with server.connect() as connection:
        yield connection


def denied(server: Listening, target: str) -> Response | None:
    """None: the connection was closed without a response."""
    with server.connect() as connection:
        try:
            return ask(connection, target)[1]
        except (Malformed, ConnectionError):
            return None


# --- scope and handshake ---------------------------------------------------------------------------------------------


def test_the_scope(connection: Connection, kind: Kind) -> None:
    fields = [("Sec-WebSocket-Protocol", "one, two"), ("Cookie", "a=1"), ("Cookie", "b=2"), ("Origin", "http://test")]
    found = json.loads(upgrade(connection, "/ws/any%20where?a=%20", fields).message().text)
    scope, types = found["scope"], found["types"]
    here, there = connection.socket.getsockname(), connection.socket.getpeername()
    assert types["raw_path"] == types["query_string"] == "bytes"
    assert scope["asgi"] == {"version": "3.0", "spec_version": side(kind, "websocket spec_version")}
    expected: dict[str, Any] = {
        "type": "websocket",
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/ws/any where",
        "raw_path": {"bytes": "/ws/any%20where"},
        "query_string": {"bytes": "a=%20"},
        "root_path": "",
        "client": list(here),
        "server": list(there),
        "subprotocols": ["one", "two"],
    }
    assert {key: scope[key] for key in expected} == expected
    assert scope["state"]["started"]["version"] == "3.0"
    assert "websocket.http.response" in scope["extensions"]
    mine = [[name["bytes"], value["bytes"]] for name, value in scope["headers"]]
    assert [pair for pair in mine if pair[0] in ("cookie", "origin")] == [
        ["cookie", "a=1"],
        ["cookie", "b=2"],
        ["origin", "http://test"],
    ]
    assert ["sec-websocket-version", "13"] in mine


def test_the_root_path(start: Start) -> None:
    server = start(APP, "--root-path", "/api")
    with server.connect() as connection:
        scope = json.loads(upgrade(connection, "/ws/x").message().text)["scope"]
    assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/api", "/api/ws/x", {"bytes": "/api/ws/x"})


def test_the_application_chooses_a_subprotocol(connection: Connection) -> None:
    fields = [("Sec-WebSocket-Protocol", "one, two"), ("Sec-WebSocket-Protocol", "three")]
    socket = upgrade(connection, "/ws/subprotocol", fields)
    assert socket.response["sec-websocket-protocol"] == "three"
    assert json.loads(socket.message().text) == ["one", "two", "three"]


def test_no_subprotocol_unless_chosen(connection: Connection) -> None:
    assert not upgrade(connection, "/ws/echo", {"sec-websocket-protocol": "one"}).response.all("sec-websocket-protocol")


def test_fields_of_the_accept(connection: Connection) -> None:
    response = upgrade(connection, "/ws/fields").response
    assert (response["x-a"], response.all("set-cookie")) == ("1", ["a=1", "b=2"])


def test_a_close_before_the_accept_is_403(server: Listening) -> None:
    tag = new_tag()
    response = denied(server, f"/ws/denies?{tag}")
    assert response is not None
    assert response.status == 403
    noted(server, tag, "websocket.disconnect")


def test_a_denial_of_the_applications_own(server: Listening) -> None:
    response = denied(server, "/ws/denies-with-a-response")
    assert response is not None
    assert (response.status, response["www-authenticate"], response.json) == (401, "Basic", {"a": "why"})


def test_a_client_that_leaves_before_the_accept(server: Listening) -> None:
    tag = new_tag()
    with server.connect() as connection:
        connection.ask("GET", f"/ws/hesitates?{tag}", HANDSHAKE)
        noted(server, tag, "connecting")
    noted(server, tag, ["websocket.disconnect", 1006, ""], "OSError")


HANDSHAKE = {
    "upgrade": "websocket",
    "connection": "keep-alive, Upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def test_the_key_of_the_rfc(connection: Connection) -> None:
    """RFC 6455 §1.3."""
    connection.ask("GET", "/ws/echo", HANDSHAKE)
    assert connection.switched()["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@pytest.mark.parametrize(
    ("change", "statuses"),
    [
        ({"sec-websocket-key": None}, {400}),
        ({"sec-websocket-key": "short"}, {400}),
        ({"sec-websocket-version": None}, {400, 426}),
        ({"sec-websocket-version": "8"}, {400, 426}),
    ],
)
def test_a_handshake_that_is_none(server: Listening, change: dict[str, str | None], statuses: set[int]) -> None:
    fields = {name: value for name, value in {**HANDSHAKE, **change}.items() if value is not None}
    with server.connect() as connection:
        connection.ask("GET", "/ws/echo", fields)
        response = connection.switched()
    assert response.status in statuses
    assert response.status != 426 or response["sec-websocket-version"] == "13"


def test_an_upgrade_to_something_else_is_an_ordinary_request(server: Listening) -> None:
    with server.connect() as connection:
        response = connection.request("GET", "/send/length", {"upgrade": "h2c", "connection": "Upgrade, HTTP2-Settings"})
    assert (response.status, response.body) == (200, b"onetwosix")


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 300_000, 5 * MIB])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_messages_of_every_size_come_back(connection: Connection, opcode: int, size: int) -> None:
    payload = (b"0123456789" * (size // 10 + 1))[:size]
    socket = upgrade(connection, "/ws/echo")
    socket.send(Frame(opcode, payload))
    assert socket.message() == Frame(opcode, payload)


def test_text_is_text_and_bytes_are_bytes(server: Listening, connection: Connection) -> None:
    tag = new_tag()
    socket = upgrade(connection, f"/ws/echo?{tag}")
    socket.send(Frame(TEXT, "žluť".encode()), Frame(BINARY, b"\0\xff"))
    assert [socket.message(), socket.message()] == [Frame(TEXT, "žluť".encode()), Frame(BINARY, b"\0\xff")]
    assert journal(server, tag) == [{"text": 4}, {"bytes": 2}]


def test_many_messages_in_one_write_keep_their_order(connection: Connection) -> None:
    socket = upgrade(connection, "/ws/echo")
    socket.send(*(Frame(TEXT, str(number).encode()) for number in range(500)))
    assert [socket.message().text for _ in range(500)] == [str(number) for number in range(500)]


def test_an_application_that_does_not_receive_holds_its_client_back(server: Listening, connection: Connection) -> None:
    tag = new_tag()
    socket = upgrade(connection, f"/ws/gated?{tag}")
    socket.text("first")
    noted(server, tag, "first")
    frame = encoded(Frame(BINARY, bytes(65536)))
    whole, sent = 1024, 0

    def push() -> int:
        nonlocal sent
        connection.socket.setblocking(False)
        try:
            while sent < whole * len(frame):
                sent += connection.socket.send(frame[sent % len(frame) :])
        except BlockingIOError:
            pass
        return sent

    assert standing_still(push) < 512 * len(frame)
    connection.socket.settimeout(30)
    open_gate(server, tag)
    while sent % len(frame):
        sent += connection.socket.send(frame[sent % len(frame) :])
    socket.text("last")
    assert socket.message().text == str(1 + sent // len(frame))


def test_a_client_that_does_not_read_stops_the_application(server: Listening) -> None:
    tag = new_tag()
    assert not isinstance(server.address, str)
    with Connection(server.address, receive_buffer=65536) as connection:
        socket = upgrade(connection, f"/ws/flood?{tag}")
        made = standing_still(lambda: next(reversed(journal(server, tag)), 0))
        assert made * 65536 < 16 * MIB
        for _ in range(1024):
            assert len(socket.message().payload) == 65536
        assert socket.frame().code == 1000


# --- closes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "going"), (3000, ""), (4999, "x" * 123), (1011, "ů")])
def test_a_close_of_the_client(server: Listening, connection: Connection, code: int, reason: str) -> None:
    """Echoed, told to the application, and the server ends the connection first (RFC 6455 §7.1.1)."""
    tag = new_tag()
    socket = upgrade(connection, f"/ws/echo?{tag}")
    socket.send(close(code, reason))
    assert socket.frame().code == code
    assert socket.at_end()
    noted(server, tag, ["websocket.disconnect", code, reason])


def test_a_close_without_a_code_is_1005(server: Listening, connection: Connection) -> None:
    tag = new_tag()
    socket = upgrade(connection, f"/ws/echo?{tag}")
    socket.send(Frame(CLOSE, b""))
    assert socket.frame().code in (1005, 1000)
    noted(server, tag, ["websocket.disconnect", 1005, ""])


def test_a_connection_that_is_lost(server: Listening, kind: Kind) -> None:
    tag = new_tag()
    with server.connect() as connection:
        socket = upgrade(connection, f"/ws/echo?{tag}")
        socket.text("x")
        assert socket.message().text == "x"
    noted(server, tag, ["websocket.disconnect", side(kind, "code of a lost WebSocket"), ""])


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "moved"), (4321, "x" * 100)])
def test_a_close_of_the_application(server: Listening, connection: Connection, code: int, reason: str) -> None:
    tag = new_tag()
    socket = upgrade(connection, f"/ws/closes?{tag}&{code}&{reason}")
    frame = socket.frame()
    assert (frame.code, frame.reason) == (code, reason)
    socket.send(close(code))
    assert socket.at_end()
    noted(server, tag, ["websocket.disconnect", code, reason])


def test_send_behind_the_clients_end_is_an_oserror_and_no_mistake(server: Listening) -> None:
    tag = new_tag()
    before = len(server.log.find("Traceback"))
    with server.connect() as connection:
        socket = upgrade(connection, f"/ws/to-nobody?{tag}")
        socket.send(close(1000))
        assert socket.frame().code == 1000
    noted(server, tag, "OSError")
    assert server.get("/send/length").status == 200
    assert len(server.log.find("Traceback")) == before


def test_the_servers_end_is_told_to_both_sides(start: Start) -> None:
    server = start(APP)
    with server.connect() as connection:
        socket = upgrade(connection, "/ws/held?x")
        noted(server, "x", "held")
        server.signal(signal.SIGTERM)
        assert socket.frame().code in (1001, 1012)
        socket.send(close(1001))
        assert socket.at_end()
    server.finish()
    assert "websocket left: websocket.disconnect 10" in server.out.text


# --- control frames --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"ping", bytes(125)])
def test_a_ping_is_answered_with_its_payload(connection: Connection, payload: bytes) -> None:
    socket = upgrade(connection, "/ws/echo")
    socket.send(Frame(PING, payload))
    assert socket.frame() == Frame(PONG, payload)


def test_a_pong_that_nobody_asked_for_is_nothing(connection: Connection) -> None:
    socket = upgrade(connection, "/ws/echo")
    socket.send(Frame(PONG, b"hello"), Frame(TEXT, b"x"))
    assert socket.frame() == Frame(TEXT, b"x")


def test_a_ping_of_the_server_that_is_answered_keeps_the_connection(start: Start) -> None:
    server = start(APP, "--ws-ping-interval", "0.2", "--ws-ping-timeout", "5")
    with server.connect() as connection:
        socket = upgrade(connection, "/ws/echo")
        for _ in range(3):
            frame = socket.frame()
            assert frame.opcode == PING
            socket.send(Frame(PONG, frame.payload))
        socket.text("x")
        assert past_pings(socket).text == "x"


def test_a_client_that_answers_no_ping_is_gone(start: Start) -> None:
    server = start(APP, "--ws-ping-interval", "0.2", "--ws-ping-timeout", "0.2")
    with server.connect() as connection:
        socket = upgrade(connection, "/ws/echo?silent")
        assert socket.frame().opcode == PING
        assert past_pings(socket).code == 1011
        assert socket.at_end()
    until("the application learns of it", lambda: journal(server, "silent"))


def past_pings(socket: Socket) -> Frame:
    while (frame := socket.frame()).opcode == PING:
        pass
    return frame


# --- mistakes --------------------------------------------------------------------------------------------------------

BEFORE_THE_HANDSHAKE = {
    "returns-at-once": r"without completing handshake|without accepting",
    "raises-at-once": r"RuntimeError: before the handshake, on purpose",
    "sends-first": r"websocket\.send",
    "http-message": r"http\.response\.start",
}


@pytest.mark.parametrize(("name", "said"), BEFORE_THE_HANDSHAKE.items())
def test_a_mistake_before_the_handshake_is_500(server: Listening, name: str, said: str) -> None:
    before = len(server.log.find(said))
    response = denied(server, f"/ws/mistake/{name}")
    assert response is not None
    assert response.status == 500
    server.log.wait(said, before + 1)


def final(socket: Socket) -> int | None:
    """The code with which the server closes; None: without a close frame."""
    try:
        code = socket.frame().code
    except (Malformed, ConnectionError):
        return None
    socket.send(close(code))
    assert socket.at_end()
    return code


def test_an_application_that_raises(server: Listening, kind: Kind, connection: Connection) -> None:
    said = "RuntimeError: behind the handshake, on purpose"
    before = len(server.log.find(said))
    socket = upgrade(connection, "/ws/mistake/raises-when-accepted")
    socket.text("x")
    assert final(socket) == side(kind, "close behind an application that raised")
    server.log.wait(said, before + 1)


def test_an_application_that_returns(connection: Connection, kind: Kind) -> None:
    socket = upgrade(connection, "/ws/mistake/returns-when-accepted")
    assert final(socket) == side(kind, "close behind an application that returned")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("accepts-twice", r"websocket\.accept"),
        ("unknown-type", r"websocket\.dance"),
    ],
)
def test_a_message_that_is_not_due(server: Listening, kind: Kind, connection: Connection, name: str, said: str) -> None:
    tag = new_tag()
    before = len(server.log.find(said))
    socket = upgrade(connection, f"/ws/mistake/{name}?{tag}")
    assert final(socket) == side(kind, "close behind an application that raised")
    noted(server, tag, "refused")
    server.log.wait(said, before + 1)


def test_a_message_behind_the_close(server: Listening, connection: Connection) -> None:
    tag = new_tag()
    socket = upgrade(connection, f"/ws/mistake/sends-behind-the-close?{tag}")
    assert socket.frame().code == 1000
    found = until("it learns of it", lambda: journal(server, tag))
    assert found in (["refused"], ["OSError"])
