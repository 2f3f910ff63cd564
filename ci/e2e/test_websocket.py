"""WebSockets end to end, with the native interface: messages of every size, pressure, compression, and every way of ending."""

import json
import signal
import zlib
from collections.abc import Iterator

import pytest
from conftest import Serve
from exchange import Client
from frames import BINARY, CLOSE, PING, PONG, TEXT, Frame, Socket, ask, close, encoded, upgrade
from multiplexed import Streamed
from payload import pattern
from server import EXAMPLES, Server, resident_kib, serving, until
from wire import Connection

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def sockets(version: str) -> Iterator[Server]:
    limits = ("--ws-max-size", "2m", "--ws-ping-interval", "1", "--ws-ping-timeout", "1")
    with serving("sockets:app", *limits, version=version) as server:
        yield server


@pytest.fixture
def client(sockets: Server) -> Iterator[Client]:
    with sockets.client() as client:
        yield client


def message(socket: Socket) -> Frame:
    """The next one; pings of the server are answered on the way."""
    while (frame := socket.frame()).opcode == PING:
        socket.send(Frame(PONG, frame.payload))
    while not frame.final:
        piece = socket.frame()
        if piece.opcode == PING:
            socket.send(Frame(PONG, piece.payload))
            continue
        frame = Frame(frame.opcode, frame.payload + piece.payload, piece.final, frame.rsv)
    return frame


def test_messages_of_every_size_come_back(client: Client) -> None:
    socket = upgrade(client, "/echo", behind=[Frame(TEXT, b"behind the head")])
    assert message(socket).text == "behind the head"
    for size in (0, 1, 125, 126, 65_535, 65_536, 200_000, 2 * MIB):
        data = pattern(size)
        socket.send(Frame(BINARY, data))
        assert message(socket) == Frame(BINARY, data)
    socket.send(Frame(TEXT, b"gr\xc3", final=False), Frame(PING, b"between"), Frame(0, b"\xbc\xc3\x9fe"))
    found = [socket.frame() for _ in range(2)]
    assert Frame(PONG, b"between") in found
    assert next(frame for frame in found if frame.opcode == TEXT).text == "grüße"


def test_the_example_lets_everybody_in_a_room_hear_what_is_said_there(serve: Serve) -> None:
    server = serve("chat:app", app_dir=EXAMPLES).ready()
    with server.connect() as one, server.connect() as two, server.connect() as elsewhere, server.connect() as nameless:
        ada, other = upgrade(one, "/room/kitchen?name=Ada"), upgrade(elsewhere, "/room/hall?name=Eve")
        assert ada.message().text == "Ada comes in"
        assert other.message().text == "Eve comes in"
        bob = upgrade(two, "/room/kitchen?name=Bob")
        assert [ada.message().text, bob.message().text] == ["Bob comes in"] * 2
        bob.text("hello")
        assert [ada.message().text, bob.message().text] == ["Bob: hello"] * 2
        bob.send(close(1000))
        assert bob.frame().code == 1000
        assert ada.message().text == "Bob leaves"
        other.text("alone")
        assert other.message().text == "Eve: alone", "and nothing of the kitchen"
        assert ask(nameless, "/room/kitchen")[1].status == 403


def test_a_request_without_an_upgrade_has_a_route_of_its_own(sockets: Server, client: Client) -> None:
    assert client.request("GET", "/echo").json == "an ordinary request"
    assert client.request("GET", "/room/1").status == 404
    if not client.multiplexes:
        with sockets.connect() as connection:
            _, response = ask(connection, "/ended")
            assert response.status == 200, "an upgrade that nobody takes is passed over"


def test_it_is_one_exchange_among_others(client: Client) -> None:
    if not client.multiplexes:
        pytest.skip("in HTTP/1.1 it takes the connection over")
    sockets_ = [upgrade(client, "/echo") for _ in range(3)]
    for number, socket in enumerate(sockets_):
        socket.text(str(number))
        assert client.request("GET", "/open").json == 3
    assert [message(socket).text for socket in sockets_] == ["0", "1", "2"]
    for socket in sockets_:
        socket.send(close(1000))
        assert socket.frame().code == 1000
        assert socket.at_end()
    # The handshake is the edge's; the handlers hear of it a moment later.
    until("all have ended", lambda: client.request("GET", "/open").json == 0)


def test_parameters_and_a_close_of_the_applications_own(client: Client) -> None:
    socket = upgrade(client, "/room/5?name=x")
    found = json.loads(message(socket).text)
    assert (found["number"], found["name"]) == (5, "x")
    closed = socket.frame()
    assert (closed.code, closed.reason) == (4000, "bye")
    socket.send(close(4000))
    assert socket.at_end()


def test_what_does_not_fit_the_parameters_is_denied(client: Client) -> None:
    assert client.connect("/room/five")[0].status == 403
    assert client.request("GET", "/open").status == 200


def test_the_clients_close_is_answered_and_heard_of(sockets: Server, client: Client) -> None:
    socket = upgrade(client, "/echo")
    socket.send(close(4321, "grüße"))
    assert socket.frame().code == 4321
    assert socket.at_end()
    until("the handler hears of it", lambda: [4321, "grüße"] in sockets.get("/ended").json)


def test_a_client_that_is_lost_is_heard_of(sockets: Server) -> None:
    before = len(sockets.get("/ended").json)
    with sockets.client() as client:
        upgrade(client, "/echo")
        client.reset()
    until("the handler hears of it", lambda: sockets.get("/ended").json[before:] == [[1006, ""]])


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([Frame(3, b"")], 1002),
        ([Frame(TEXT, b"\xff")], 1007),
        ([Frame(TEXT, b"a", rsv=4)], 1002),
        ([Frame(BINARY, bytes(2 * MIB + 1))], 1009),
    ],
)
def test_a_client_that_breaks_the_protocol_is_told(client: Client, frames: list[Frame], code: int) -> None:
    socket = upgrade(client, "/echo")
    socket.send(*frames)
    assert socket.frame().code == code


def test_messages_are_compressed_for_a_client_that_asks(client: Client) -> None:
    socket = upgrade(client, "/echo", {"sec-websocket-extensions": "permessage-deflate; client_max_window_bits"})
    assert socket.response["sec-websocket-extensions"].startswith("permessage-deflate")
    data = pattern(1000) * 300
    squeeze = zlib.compressobj(wbits=-15)
    packed = (squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4]
    socket.send(Frame(BINARY, packed, rsv=4))
    back = message(socket)
    assert back.rsv == 4
    assert len(back.payload) < len(data) // 10
    assert zlib.decompressobj(wbits=-15).decompress(back.payload + b"\0\0\xff\xff") == data


def test_a_client_that_does_not_answer_pings_is_given_up(client: Client) -> None:
    socket = upgrade(client, "/echo")
    assert socket.frame().opcode == PING
    closed = socket.frame()
    assert (closed.code, closed.reason) == (1011, "keepalive ping timeout")
    assert socket.at_end()


def test_a_handler_that_fails_closes_with_1011(client: Client) -> None:
    socket = upgrade(client, "/fails")
    assert socket.frame().code == 1011


def test_a_client_that_sends_faster_than_its_handler_takes_is_stopped(sockets: Server, client: Client) -> None:
    socket = upgrade(client, "/slow")
    assert isinstance(socket.connection, (Connection, Streamed))
    count, piece = 30, encoded(Frame(BINARY, bytes(MIB)))
    resident = resident_kib(sockets.pid)
    sent = socket.connection.offer(piece * count, 1)
    assert sent < 20 * MIB
    assert resident_kib(sockets.pid) - resident < 20 * 1024
    assert client.request("GET", "/take").status == 200
    # What was cut off in the middle is the last.
    whole = sent // len(piece)
    assert [message(socket).text for _ in range(whole)] == [str(MIB)] * whole


def test_a_worker_that_dies_and_a_server_that_stops_close_with_1012(serve: Serve, version: str) -> None:
    server = serve("sockets:app", workers=2, version=version)
    server.ready()
    with server.client() as client:
        dying, staying = upgrade(client, "/dies"), upgrade(client, "/echo")
        staying.text("hello")
        assert message(staying).text == "hello"
        dying.text("now")
        assert dying.frame().code == 1012
        if client.request("GET", "/open").status == 200:
            staying.text("still here")
            assert message(staying).opcode in (TEXT, CLOSE)
        server.signal(signal.SIGTERM)
        closed = message(staying)
        assert (closed.code, closed.reason) == (1012, "Service Restart")
        staying.send(close(1012))
        assert staying.at_end()
    server.finish()


def test_a_reload_moves_no_websocket_and_closes_it(serve: Serve, version: str) -> None:
    server = serve("sockets:app", version=version)
    server.ready()
    with server.client() as client:
        socket = upgrade(client, "/echo")
        server.signal(signal.SIGHUP)
        assert message(socket).code == 1012
    until("the next generation serves", lambda: server.get("/open").json == 0)
