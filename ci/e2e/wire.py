"""A client that shows what is on the wire: it sends the bytes that it is given, and reads responses strictly.

Invariant: a response's end is found by its own framing alone, and a byte too few or too many is an error, never repaired.
"""

import json
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Address = tuple[str, int] | str
Fields = Mapping[str, str] | Iterable[tuple[str, str]]


class Malformed(AssertionError):
    """Not a response by RFC 9112."""


class Closed(ConnectionError):
    """The connection ended before a response began."""


@dataclass
class Response:
    status: int
    fields: list[tuple[str, str]]
    body: bytes = b""
    version: str = "HTTP/1.1"
    interim: list[int] = field(default_factory=list)

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


def _connected(address: tuple[str, int], timeout_s: float, receive_buffer: int | None) -> socket.socket:
    """With a receive buffer of its own size only if that is set before the handshake (tcp(7))."""
    if receive_buffer is None:
        return socket.create_connection(address, timeout_s)
    connected = socket.socket()
    try:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connected.settimeout(timeout_s)
        connected.connect(address)
    except OSError:
        connected.close()
        raise
    return connected


class Connection:
    """One socket."""

    def __init__(self, address: Address, timeout_s: float = 30.0, receive_buffer: int | None = None) -> None:
        self._address, self._timeout_s, self._receive_buffer = address, timeout_s, receive_buffer
        self._open()

    def _open(self) -> None:
        if isinstance(self._address, str):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(self._timeout_s)
            try:
                self.socket.connect(self._address)
            except OSError:
                self.socket.close()
                raise
        else:
            self.socket = _connected(self._address, self._timeout_s, self._receive_buffer)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unread = bytearray()

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
        interim = []
        while True:
            status, version, fields = self._head()
            if status >= 200:
                break
            interim.append(status)
        response = Response(status, fields, version=version, interim=interim)
        response.body = self._body(response, to)
        return response

    def switched(self) -> Response:
        """Reads what answers an upgrade: 101, behind which another protocol speaks, or an ordinary response."""
        status, version, fields = self._head()
        response = Response(status, fields, version=version)
        if status != 101:
            response.body = self._body(response, "GET")
        return response

    def _head(self) -> tuple[int, str, list[tuple[str, str]]]:
        text = self._line(first=True)
        version, _, rest = text.partition(" ")
        # The reason may be empty, the space before it not left out (RFC 9112 §4).
        status, space, _ = rest.partition(" ")
        if version not in ("HTTP/1.1", "HTTP/1.0") or len(status) != 3 or not status.isdecimal() or not space:
            raise Malformed(f"status line {text!r}")
        fields = []
        while line := self._line():
            name, colon, value = line.partition(": ")
            if not colon or not name or name != name.strip():
                raise Malformed(f"field line {line!r}")
            fields.append((name, value))
        return int(status), version, fields

    def _body(self, response: Response, to: str) -> bytes:
        lengths, codings = response.all("content-length"), response.all("transfer-encoding")
        if len(lengths) + len(codings) > 1:
            raise Malformed(f"framed twice: {response}")
        if to == "HEAD" or response.status in (204, 304):
            return b""
        if lengths:
            return self.exactly(int(lengths[0]))
        if codings == ["chunked"]:
            body = bytearray()
            while size := int(self._line(), 16):
                body += self.exactly(size)
                if self.exactly(2) != b"\r\n":
                    raise Malformed("a chunk's end")
            if self._line():
                raise Malformed("trailers")
            return bytes(body)
        if codings or not response.closes:
            raise Malformed(f"no framing: {response}")
        return self.rest()

    def _line(self, *, first: bool = False) -> str:
        while (end := self._unread.find(b"\n")) < 0:
            if not self._more():
                if first and not self._unread:
                    raise Closed("no response")
                raise Malformed(f"cut off in {bytes(self._unread)!r}")
        line = bytes(self._unread[: end + 1])
        del self._unread[: end + 1]
        if not line.endswith(b"\r\n"):
            raise Malformed(f"line end of {line!r}")
        return line[:-2].decode("latin-1")

    def exactly(self, size: int) -> bytes:
        while len(self._unread) < size:
            if not self._more():
                raise Malformed(f"cut off after {len(self._unread)} of {size} bytes")
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data

    def rest(self) -> bytes:
        """Everything up to the end of the connection, which must be an orderly one."""
        while self._more():
            pass
        data = bytes(self._unread)
        self._unread.clear()
        return data

    def _more(self) -> bool:
        data = self.socket.recv(256 * 1024)
        self._unread += data
        return bool(data)
