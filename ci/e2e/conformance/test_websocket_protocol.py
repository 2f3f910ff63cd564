"""The frames of RFC 6455 as they may and may not come: fragmentation, control frames in between, and what is a protocol error."""

import pytest
from conformance.asking import APP, Start, journal, new_tag
from frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, Socket, close, encoded, upgrade
from server import Listening, until
from wire import Malformed


def pieces(opcode: int, *payloads: bytes) -> list[Frame]:
    last = len(payloads) - 1
    return [Frame(CONTINUATION if at else opcode, payload, at == last) for at, payload in enumerate(payloads)]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("payloads", [(b"one", b"two", b"six"), (b"", b"x", b""), (b"", b""), (b"x" * 70_000, b"y" * 70_000)])
def test_the_pieces_of_a_message_are_one(server: Listening, opcode: int, payloads: tuple[bytes, ...]) -> None:
    with server.connect() as connection:
        socket = upgrade(connection, "/ws/echo")
        socket.send(*pieces(opcode, *payloads))
        assert socket.message() == Frame(opcode, b"".join(payloads))


def test_a_thousand_pieces(server: Listening) -> None:
    tag = new_tag()
    with server.connect() as connection:
        socket = upgrade(connection, f"/ws/echo?{tag}")
        socket.send(*pieces(TEXT, *[b"x"] * 1000))
        assert socket.message() == Frame(TEXT, b"x" * 1000)
        assert journal(server, tag) == [{"text": 1000}]


def test_control_frames_between_the_pieces(server: Listening) -> None:
    with server.connect() as connection:
        socket = upgrade(connection, "/ws/echo")
        first, second, last = pieces(TEXT, b"one", b"two", b"six")
        socket.send(first, Frame(PING, b"1"), second, Frame(PONG, b"2"), Frame(PING, b"3"), last)
        assert [socket.frame(), socket.frame(), socket.message()] == [
            Frame(PONG, b"1"),
            Frame(PONG, b"3"),
            Frame(TEXT, b"onetwosix"),
        ]


def test_a_character_may_be_split(server: Listening) -> None:
    with server.connect() as connection:
        socket = upgrade(connection, "/ws/echo")
        socket.send(*pieces(TEXT, *(bytes([byte]) for byte in "€𝄞".encode())))
        assert socket.message().text == "€𝄞"


@pytest.mark.parametrize("step", [1, 3, 1000])
def test_frames_may_arrive_in_any_pieces(server: Listening, step: int) -> None:
    together = b"".join(map(encoded, [Frame(TEXT, b"a" * 300), Frame(PING, b"p"), *pieces(BINARY, b"b" * 200, b"c")]))
    with server.connect() as connection:
        socket = upgrade(connection, "/ws/echo")
        for at in range(0, len(together), step):
            connection.send(together[at : at + step])
        found = {frame.opcode: frame.payload for frame in (socket.message() for _ in range(3))}
        end = encoded(close(1000))
        for at in range(0, len(end), step):
            connection.send(end[at : at + step])
        assert socket.frame() == close(1000)
    assert found == {TEXT: b"a" * 300, PONG: b"p", BINARY: b"b" * 200 + b"c"}


def code(socket: Socket) -> int:
    """With which the server gives the connection up."""
    while True:
        try:
            frame = socket.frame()
        except (Malformed, ConnectionError) as error:
            raise AssertionError("closed without a close frame") from error
        if frame.opcode == CLOSE:
            break
    assert socket.at_end()
    return frame.code


PROTOCOL_ERRORS = {
    "not masked": encoded(Frame(TEXT, b"x"), masked=False),
    "RSV1 without an extension": encoded(Frame(TEXT, b"x", rsv=4)),
    "RSV2": encoded(Frame(TEXT, b"x", rsv=2)),
    "RSV3": encoded(Frame(TEXT, b"x", rsv=1)),
    "opcode 3": encoded(Frame(3, b"x")),
    "opcode 11": encoded(Frame(11, b"")),
    "a ping in pieces": encoded(Frame(PING, b"x", final=False)),
    "a long ping": encoded(Frame(PING, bytes(126))),
    "a continuation of nothing": encoded(Frame(CONTINUATION, b"x")),
    "a message within a message": encoded(Frame(TEXT, b"x", final=False)) + encoded(Frame(TEXT, b"y")),
    "a close of one byte": encoded(Frame(CLOSE, b"\x03")),
    "close 999": encoded(close(999)),
    "close 1004": encoded(close(1004)),
    "close 1005": encoded(close(1005)),
    "close 1006": encoded(close(1006)),
    "close 1015": encoded(close(1015)),
    "close 5000": encoded(close(5000)),
}


@pytest.mark.parametrize("data", PROTOCOL_ERRORS.values(), ids=PROTOCOL_ERRORS.keys())
def test_a_protocol_error_is_1002(server: Listening, data: bytes) -> None:
    tag = new_tag()
    with server.connect() as connection:
        socket = upgrade(connection, f"/ws/echo?{tag}")
        connection.send(data)
        assert code(socket) == 1002
    (left,) = until("the application is told", lambda: journal(server, tag))
    assert left[0] == "websocket.disconnect"


INVALID_UTF_8 = {
    "a message": encoded(Frame(TEXT, b"\xff")),
    "half a character": encoded(Frame(TEXT, "€".encode()[:2])),
    "in the second piece": b"".join(map(encoded, pieces(TEXT, b"a", b"\xc0\x80"))),
    "a surrogate": encoded(Frame(TEXT, b"\xed\xa0\x80")),
}


@pytest.mark.parametrize("data", INVALID_UTF_8.values(), ids=INVALID_UTF_8.keys())
def test_text_that_is_not_utf_8_is_1007(server: Listening, data: bytes) -> None:
    with server.connect() as connection:
        socket = upgrade(connection, "/ws/echo")
        connection.send(data)
        assert code(socket) == 1007


def test_a_reason_that_is_not_utf_8(server: Listening) -> None:
    with server.connect() as connection:
        socket = upgrade(connection, "/ws/echo")
        socket.send(Frame(CLOSE, b"\x03\xe8\xff"))
        assert code(socket) in (1002, 1007)


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_the_limit_of_a_message(start: Start, opcode: int) -> None:
    server = start(APP, "--ws-max-size", "10000")
    with server.connect() as connection:
        socket = upgrade(connection, "/ws/echo")
        socket.send(Frame(opcode, b"x" * 10_000))
        assert len(socket.message().payload) == 10_000
        socket.send(Frame(opcode, b"x" * 10_001))
        assert code(socket) == 1009
    with server.connect() as connection:
        socket = upgrade(connection, "/ws/echo")
        socket.send(*pieces(opcode, b"x" * 6_000, b"x" * 6_000))
        assert code(socket) == 1009


def test_a_length_that_nothing_can_have(server: Listening) -> None:
    """RFC 6455 §5.2: the most significant bit is 0. And no memory is set aside for what is only announced."""
    for size in (1 << 63, (1 << 63) - 1):
        with server.connect() as connection:
            socket = upgrade(connection, "/ws/echo")
            connection.send(b"\x82\xff" + size.to_bytes(8, "big") + bytes(4))
            assert code(socket) in (1002, 1009)
