"""HTTP/1.1 behind the interface of all versions: an exchange has a connection to itself, which the next one takes over.

What is about HTTP/1.1 itself is tested with wire.py alone.
"""

import base64
import os
import socket
import struct
from collections.abc import Callable, Iterable

from exchange import Client, Content, Cut, Exchange, pairs, sized
from wire import Body, Closed, Connection, CutOff, Fields, Response, chunked, head

_LOST = (CutOff, Closed, ConnectionResetError, BrokenPipeError)


class Http1Exchange(Exchange):
    def __init__(self, client: "Http1", connection: Connection, method: str, *, chunks: bool, trailers: bool) -> None:
        self.connection = connection
        self._client, self._method, self._chunks, self._trailers = client, method, chunks, trailers
        self._response: Response | None = None
        self._body: Body | None = None

    def send(self, data: bytes, *, end: bool = False) -> None:
        try:
            if self._chunks:
                self.connection.send((b"%x\r\n%b\r\n" % (len(data), data) if data else b"") + (chunked() if end else b""))
            else:
                self.connection.send(data)
        except _LOST as error:
            raise Cut(str(error)) from error

    def offer(self, data: bytes, patience_s: float) -> int:
        assert not self._chunks, "a chunk cut in two cannot be counted"
        return self.connection.offer(data, patience_s)

    def head(self) -> Response:
        if not self._response:
            try:
                self._response = self.connection.head()
            except _LOST as error:
                raise Cut(str(error)) from error
            self._body = Body(self.connection, self._response, self._method, trailers=self._trailers)
        return self._response

    def read(self) -> bytes:
        response = self.head()
        if not self._body:
            return b""
        try:
            if data := self._body.read():
                return data
        except _LOST as error:
            raise Cut(str(error)) from error
        self._body = None
        self._client.take_back(self.connection, keep=not response.closes)
        return b""

    def cancel(self) -> None:
        self._client.forget(self.connection)
        _reset(self.connection)

    def answered(self) -> bool:
        return self._response is not None or self.connection.readable()


class Http1(Client):
    multiplexes, version = False, "1.1"

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._all: list[Connection] = [connect()]
        self._idle = list(self._all)
        self.connections = 1

    def _free(self) -> Connection:
        if not self._idle:
            self._idle.append(self._connect())
            self._all.append(self._idle[0])
            self.connections += 1
        return self._idle.pop()

    def begin(self, method: str, target: str, fields: Fields = (), body: Content = b"", *, more: bool = False) -> Exchange:
        connection = self._free()
        found = sized(fields, body, more=more)
        names = [name.lower() for name, _ in found]
        chunks = "content-length" not in names and (more or not isinstance(body, bytes))
        if chunks:
            found.append(("transfer-encoding", "chunked"))
        trailers = ("te", "trailers") in found
        if trailers:
            found.append(("connection", "te"))
        exchange = Http1Exchange(self, connection, method, chunks=chunks, trailers=trailers)
        begin = head(method, target, found)
        if isinstance(body, bytes) and not chunks:
            connection.queue(begin + body)
            return exchange
        connection.send(begin)
        pieces: Iterable[bytes] = [body] if isinstance(body, bytes) else body
        for piece in pieces:
            exchange.send(piece)
        if not more:
            exchange.send(b"", end=True)
        return exchange

    def connect(self, target: str, fields: Fields = (), behind: bytes = b"") -> tuple[Response, Connection]:
        connection = self._free()
        key = base64.b64encode(os.urandom(16)).decode()
        mine = [("upgrade", "websocket"), ("connection", "Upgrade"), ("sec-websocket-version", "13")]
        connection.send(head("GET", target, [*mine, ("sec-websocket-key", key), *pairs(fields)]) + behind)
        return connection.switched(), connection

    def take_back(self, connection: Connection, *, keep: bool) -> None:
        if keep:
            self._idle.append(connection)
        else:
            self.forget(connection)
            connection.close()

    def forget(self, connection: Connection) -> None:
        self._all.remove(connection)

    def wait_end(self, at_most_s: float) -> Cut:
        (connection,) = self._all
        connection.socket.settimeout(at_most_s)
        assert connection.rest() == b""
        return Cut("the connection was closed")

    def close(self) -> None:
        for connection in self._all:
            connection.close()

    def reset(self) -> None:
        for connection in self._all:
            _reset(connection)
        self._all.clear()


def _reset(connection: Connection) -> None:
    """Without time to linger, a close is a reset (socket(7))."""
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
