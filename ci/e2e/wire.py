"""A client that shows what is on the wire: it sends the bytes that it is given, and reads responses strictly.

Invariant: a response's end is found by its own framing alone, and a byte too few or too many is an error, never repaired.
"""

import json
import select
import socket
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tls import TlsSocket

Address = tuple[str, int] | str
Fields = Mapping[str, str] | Iterable[tuple[str, str]]


class Malformed(AssertionError):
    """Not a response by RFC 9112."""


class CutOff(Malformed):
    """The connection ended within a response."""


class Closed(ConnectionError):
    """The connection ended before a response began."""


@dataclass
class Response:
    status: int
    fields: list[tuple[str, str]]
    body: bytes = b""
    version: str = "HTTP/1.1"
    interim: list[int] = field(default_factory=list)
    trailers: list[tuple[str, str]] = field(default_factory=list)

    def __getitem__(self, name: str) -> str:
        """The one value of a field."""
        (value,) = self.all(name)
        return value

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name]

    @property
    def json(self) -> Any:
        assert self["content-type"] == "application/json", self
        return json.loads(self.body)

    @property
    def closes(self) -> bool:
        return self.all("connection") == ["close"]


def head(method: str, target: str, fields: Fields = (), version: str = "HTTP/1.1") -> bytes:
    pairs = fields.items() if isinstance(fields, Mapping) else fields
    lines = [f"{method} {target} {version}", *(f"{name}: {value}" for name, value in pairs)]
    if "host" not in (line.partition(":")[0].lower() for line in lines):
        lines.insert(1, "host: test")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailers + b"\r\n"


def connected(address: Address, timeout_s: float, receive_buffer: int | None = None) -> socket.socket:
    """A stream socket. A receive buffer has a size of its own only if that is set before the handshake (tcp(7))."""
    found = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    try:
        found.settimeout(timeout_s)
        if receive_buffer is not None:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        found.connect(address)
        if not isinstance(address, str):
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError:
        found.close()
        raise
    return found


class Body:
    """What is left of a response's content, found by its own framing (RFC 9112 §6.3)."""

    def __init__(self, connection: "Connection", response: Response, to: str, *, trailers: bool) -> None:
        self._connection, self._response, self._trailers = connection, response, trailers
        lengths, codings = response.all("content-length"), response.all("transfer-encoding")
        if len(lengths) + len(codings) > 1:
            raise Malformed(f"framed twice: {response}")
        self._chunked, self._to_end, self._left = False, False, 0
        if to == "HEAD" or response.status in (204, 304):
            return
        if lengths:
            self._left = int(lengths[0])
        elif codings == ["chunked"]:
            self._chunked = True
        elif codings or not response.closes:
            raise Malformed(f"no framing: {response}")
        else:
            self._to_end = True

    def read(self) -> bytes:
        """The next piece; b"" at the end."""
        if self._to_end:
            return self._connection.rest()
        if self._chunked and not self._left:
            self._left = int(self._connection.line(), 16)
            if not self._left:
                self._chunked = False
                self._response.trailers = self._connection.fields()
                if self._response.trailers and not self._trailers:
                    raise Malformed("trailers")
        if not self._left:
            return b""
        data = self._connection.some(self._left)
        self._left -= len(data)
        if self._chunked and not self._left and self._connection.exactly(2) != b"\r\n":
            raise Malformed("a chunk's end")
        return data


class Connection:
    """One socket."""

    def __init__(
        self,
        address: Address,
        timeout_s: float = 30.0,
        receive_buffer: int | None = None,
        tls: ssl.SSLContext | None = None,
        name: str = "localhost",
        session: ssl.SSLSession | None = None,
    ) -> None:
        self._address, self._timeout_s, self._receive_buffer = address, timeout_s, receive_buffer
        self._tls, self._name, self._session = tls, name, session
        self._open()

    def _open(self) -> None:
        raw = connected(self._address, self._timeout_s, self._receive_buffer)
        self.socket: socket.socket | TlsSocket = raw
        if self._tls:
            self.socket = TlsSocket(raw, self._tls, self._name, self._session)
        self._unread, self._queued = bytearray(), memoryview(b"")

    @property
    def session(self) -> ssl.SSLSession | None:
        """What the connection can be resumed with; with TLS 1.3 only after something was read."""
        assert isinstance(self.socket, TlsSocket)
        return self.socket.tls.session

    @property
    def resumed(self) -> bool:
        assert isinstance(self.socket, TlsSocket)
        return bool(self.socket.tls.session_reused)

    def reconnect(self) -> None:
        """After a response that announced the end of the connection."""
        assert self.rest() == b"", "bytes behind the last response"
        self.close()
        self._open()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def offer(self, data: bytes | memoryview, patience_s: float) -> int:
        """Sends until the other side has taken nothing for so long; how much that is."""
        view, sent = memoryview(data), 0
        self.socket.setblocking(False)
        try:
            while sent < len(view):
                try:
                    sent += self.socket.send(view[sent : sent + 64 * 1024])
                except BlockingIOError:
                    if not select.select([], [self.socket], [], patience_s)[1]:
                        break
        finally:
            self.socket.settimeout(self._timeout_s)
        return sent

    def queue(self, data: bytes) -> None:
        """Sends what is taken at once; the rest goes out while a response is waited for."""
        assert not self._queued
        self._queued = memoryview(data)[self.offer(data, 0) :]

    def readable(self) -> bool:
        return bool(self._unread or select.select([self.socket], [], [], 0)[0])

    def half_close(self) -> None:
        self.socket.shutdown(socket.SHUT_WR)

    def ask(self, method: str, target: str, fields: Fields = (), body: bytes = b"") -> None:
        pairs = list(fields.items() if isinstance(fields, Mapping) else fields)
        if body:
            pairs.append(("content-length", str(len(body))))
        self.send(head(method, target, pairs) + body)

    def request(self, method: str, target: str, fields: Fields = (), body: bytes = b"") -> Response:
        self.ask(method, target, fields, body)
        return self.response(to=method)

    def response(self, to: str = "GET") -> Response:
        """Reads one response, and the interim ones before it."""
        response = self.head()
        response.body = b"".join(iter(Body(self, response, to, trailers=False).read, b""))
        return response

    def head(self) -> Response:
        """Reads as far as the end of a final response's head."""
        interim: list[int] = []
        while True:
            status, version, fields = self._head()
            if status >= 200:
                return Response(status, fields, version=version, interim=interim)
            interim.append(status)

    def switched(self) -> Response:
        """Reads what answers an upgrade: 101, behind which another protocol speaks, or an ordinary response."""
        status, version, fields = self._head()
        response = Response(status, fields, version=version)
        if status != 101:
            response.body = b"".join(iter(Body(self, response, "GET", trailers=False).read, b""))
        return response

    def _head(self) -> tuple[int, str, list[tuple[str, str]]]:
        text = self.line(first=True)
        version, _, rest = text.partition(" ")
        # The reason may be empty, the space before it not left out (RFC 9112 §4).
        status, space, _ = rest.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or len(status) != 3 or not status.isdecimal() or not space:
            raise Malformed(f"status line {text!r}")
        return int(status), version, self.fields()

    def fields(self) -> list[tuple[str, str]]:
        """Reads field lines up to the empty one."""
        fields = []
        while line := self.line():
            name, colon, value = line.partition(": ")
            if not colon or not name or name != name.strip():
                raise Malformed(f"field line {line!r}")
            fields.append((name, value))
        return fields

    def line(self, *, first: bool = False) -> str:
        while (end := self._unread.find(b"\n")) < 0:
            if not self._more():
                if first and not self._unread:
                    raise Closed("no response")
                raise CutOff(f"cut off in {bytes(self._unread)!r}")
        line = bytes(self._unread[: end + 1])
        del self._unread[: end + 1]
        if not line.endswith(b"\r\n"):
            raise Malformed(f"line end of {line!r}")
        return line[:-2].decode("latin-1")

    def exactly(self, size: int) -> bytes:
        while len(self._unread) < size:
            if not self._more():
                raise CutOff(f"cut off after {len(self._unread)} of {size} bytes")
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data

    def some(self, size_max: int) -> bytes:
        """What is here, and something at least."""
        if not self._unread and not self._more():
            raise CutOff(f"cut off with {size_max} bytes to come")
        data = bytes(self._unread[:size_max])
        del self._unread[:size_max]
        return data

    def rest(self) -> bytes:
        """Everything up to the end of the connection, which must be an orderly one."""
        while self._more():
            pass
        if isinstance(self.socket, TlsSocket) and self.socket.truncated:
            raise Malformed("the end of the connection was not announced: no close_notify")
        data = bytes(self._unread)
        self._unread.clear()
        return data

    def _more(self) -> bool:
        data = self._exchange_bytes() if self._queued else self.socket.recv(256 * 1024)
        self._unread += data
        return bool(data)

    def _exchange_bytes(self) -> bytes:
        """Sends what is queued until something comes back."""
        self.socket.setblocking(False)
        try:
            while True:
                sent = None
                try:
                    sent = self.socket.send(self._queued[: 64 * 1024])
                    self._queued = self._queued[sent:]
                except BlockingIOError:
                    pass
                try:
                    return self.socket.recv(256 * 1024)
                except BlockingIOError:
                    pass
                if sent is None:
                    ready = select.select([self.socket], [self.socket], [], self._timeout_s)
                    if not any(ready):
                        raise TimeoutError("nothing was taken, and nothing came back")
        finally:
            self.socket.settimeout(self._timeout_s)
