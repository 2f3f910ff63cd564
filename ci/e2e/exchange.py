"""What a client of any HTTP version can do: begin exchanges on one connection, write and read them piece by piece, give one up.

Invariant: what a test does not read is not asked for: HTTP/1.1 leaves it in the socket, HTTP/2 and HTTP/3 grant no more credit.
HTTP/1.1 has one exchange to a connection: its client opens another where the others multiplex, which `connections` tells.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Protocol

from typing_extensions import Self
from wire import Fields, Response

Content = bytes | Iterable[bytes]


class Cut(ConnectionError):
    """The exchange ended before its response did. `code` is the one that the other side gave, if the protocol has any."""

    def __init__(self, what: str, code: int | None = None) -> None:
        super().__init__(what if code is None else f"{what}, code {code:#x}")
        self.code = code


class Stream(Protocol):
    """Bytes in both directions, as a WebSocket has them below its frames."""

    def send(self, data: bytes) -> None: ...

    def exactly(self, size: int) -> bytes:
        """Raises an error if there are fewer."""
        ...

    def rest(self) -> bytes:
        """Everything up to an orderly end."""
        ...


class Exchange(ABC):
    """One request and its response."""

    @abstractmethod
    def send(self, data: bytes, *, end: bool = False) -> None:
        """The next piece of the request's content; returns when the other side has given room for it."""

    @abstractmethod
    def offer(self, data: bytes, patience_s: float) -> int:
        """How much of a piece of content there was room for, until there was none for so long."""

    @abstractmethod
    def head(self) -> Response:
        """Waits for the final response's head."""

    @abstractmethod
    def read(self) -> bytes:
        """The next piece of the response's content, b"" at its end. Raises Cut."""

    @abstractmethod
    def cancel(self) -> None:
        """Tells the server that nobody waits any more."""

    @abstractmethod
    def answered(self) -> bool:
        """Whether something of the response is here."""

    def response(self) -> Response:
        """Waits for all of it."""
        response = self.head()
        response.body = b"".join(iter(self.read, b""))
        return response

    def until(self, end: bytes) -> bytes:
        """Reads until the content ends so."""
        found = b""
        while not found.endswith(end):
            piece = self.read()
            assert piece, f"the end of the content, after {found[-200:]!r}"
            found += piece
        return found


class Client(ABC):
    """Exchanges with one server."""

    multiplexes: bool
    """Whether exchanges share a connection."""
    version: str
    """As the application is told it."""
    connections: int
    """How many were opened so far."""

    @abstractmethod
    def begin(self, method: str, target: str, fields: Fields = (), body: Content = b"", *, more: bool = False) -> Exchange:
        """Sends a request and does not wait for its response, nor for room for its content; with `more`, content is to follow."""

    @abstractmethod
    def connect(self, target: str, fields: Fields = (), behind: bytes = b"") -> "tuple[Response, Stream]":
        """Asks for a WebSocket: what answers, and the stream behind it. `behind` is sent without waiting for the answer."""

    @abstractmethod
    def wait_end(self, at_most_s: float) -> Cut:
        """Waits until the server has closed the connection in order, with no exchange on it; what it said."""

    @abstractmethod
    def close(self) -> None:
        """Leaves in order."""

    @abstractmethod
    def reset(self) -> None:
        """Leaves as a client that crashed, so that the server hears of it at once."""

    def request(self, method: str, target: str, fields: Fields = (), body: Content = b"") -> Response:
        return self.begin(method, target, fields, body).response()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def pairs(fields: Fields) -> list[tuple[str, str]]:
    return list(fields.items() if isinstance(fields, Mapping) else fields)


def sized(fields: Fields, body: Content, *, more: bool) -> list[tuple[str, str]]:
    """The fields, and the length of a body that is all there."""
    found = pairs(fields)
    if isinstance(body, bytes) and body and not more:
        found.append(("content-length", str(len(body))))
    return found
