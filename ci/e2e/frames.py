"""A WebSocket client that shows what is on the wire (RFC 6455): each frame as it is told, right or wrong, and read strictly.

No state machine: what may follow what is the test's business.
"""

import base64
import hashlib
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from exchange import Client, Cut, Stream
from wire import Connection, Fields, Malformed, Response, head

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@dataclass
class Frame:
    opcode: int
    payload: bytes
    final: bool = True
    rsv: int = 0

    @property
    def code(self) -> int:
        """Of a close frame; 1005 stands for none (RFC 6455 §7.1.5)."""
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.payload[:2], "big") if self.payload else 1005

    @property
    def reason(self) -> str:
        assert self.opcode == CLOSE, self
        return self.payload[2:].decode()

    @property
    def text(self) -> str:
        assert self.opcode == TEXT, self
        return self.payload.decode()


def encoded(frame: Frame, *, masked: bool = True) -> bytes:
    size = len(frame.payload)
    first = (frame.final << 7) | (frame.rsv << 4) | frame.opcode
    mask_bit = masked << 7
    if size < 126:
        start = struct.pack("!BB", first, mask_bit | size)
    elif size < 1 << 16:
        start = struct.pack("!BBH", first, mask_bit | 126, size)
    else:
        start = struct.pack("!BBQ", first, mask_bit | 127, size)
    if not masked:
        return start + frame.payload
    mask = os.urandom(4)
    repeated = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return start + mask + (int.from_bytes(frame.payload, "big") ^ repeated).to_bytes(size, "big")


def close(code: int, reason: str = "") -> Frame:
    return Frame(CLOSE, struct.pack("!H", code) + reason.encode())


class Socket:
    """A stream behind its handshake."""

    def __init__(self, connection: Stream, response: Response) -> None:
        self.connection, self.response = connection, response

    def send(self, *frames: Frame) -> None:
        self.connection.send(b"".join(map(encoded, frames)))

    def text(self, text: str) -> None:
        self.send(Frame(TEXT, text.encode()))

    def frame(self) -> Frame:
        first, second = self.connection.exactly(2)
        if second & 0x80:
            raise Malformed("a server's frame is not masked (RFC 6455 §5.1)")
        size = second & 0x7F
        if size == 126:
            (size,) = struct.unpack("!H", self.connection.exactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self.connection.exactly(8))
        opcode = first & 0x0F
        if opcode & 8 and (size > 125 or not first & 0x80):
            raise Malformed("a control frame is short and whole (RFC 6455 §5.5)")
        return Frame(opcode, self.connection.exactly(size), bool(first & 0x80), first >> 4 & 7)

    def message(self) -> Frame:
        """The next one, put together; control frames between its pieces are an error here."""
        frame = self.frame()
        while not frame.final:
            piece = self.frame()
            if piece.opcode != CONTINUATION:
                raise Malformed(f"{piece} within a message")
            frame = Frame(frame.opcode, frame.payload + piece.payload, piece.final)
        return frame

    def at_end(self) -> bool:
        """Nothing follows but the end of the connection, an orderly one or not."""
        try:
            return self.connection.rest() == b""
        except (ConnectionResetError, Cut):
            return True


def handshake_fields(key: bytes, fields: Fields = ()) -> list[tuple[str, str]]:
    mine = fields.items() if isinstance(fields, Mapping) else fields
    pairs = [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-version", "13")]
    return [*pairs, ("sec-websocket-key", key.decode()), *mine]


def ask(connection: Connection, target: str, fields: Fields = (), behind: Iterable[Frame] = ()) -> tuple[bytes, Response]:
    """The handshake and what comes back, whatever its status; `behind` goes out in the same write."""
    key = base64.b64encode(os.urandom(16))
    connection.send(head("GET", target, handshake_fields(key, fields)) + b"".join(map(encoded, behind)))
    return key, connection.switched()


def upgrade(connection: Connection | Client, target: str, fields: Fields = (), behind: Iterable[Frame] = ()) -> Socket:
    """Over HTTP/2 and HTTP/3 it is an extended CONNECT, whose answer is 200 and has no key to prove (RFC 8441 §5)."""
    if isinstance(connection, Client):
        response, stream = connection.connect(target, fields, b"".join(map(encoded, behind)))
        assert response.status == (200 if connection.multiplexes else 101), response
        if connection.multiplexes:
            for name in ("upgrade", "connection", "sec-websocket-accept"):
                assert response.all(name) == [], response
        return Socket(stream, response)
    key, response = ask(connection, target, fields, behind)
    assert response.status == 101, response
    assert response["upgrade"].lower() == "websocket", response
    assert "upgrade" in response["connection"].lower(), response
    expected = base64.b64encode(hashlib.sha1(key + _GUID).digest()).decode()
    assert response["sec-websocket-accept"] == expected, response
    return Socket(connection, response)
