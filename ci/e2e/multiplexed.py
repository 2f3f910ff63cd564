"""What HTTP/2 and HTTP/3 clients share: many exchanges on one connection, which a thread of its own keeps alive.

Invariant: all state is behind one lock; the thread and whoever calls a method take turns at it, and `changed` tells of every turn.
Credit for content goes back when a test has read it, and not before: `consumed` is called by `read` alone.
"""

import contextlib
import os
import select
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from exchange import Client, Content, Cut, Exchange, pairs, sized
from wire import Fields, Malformed, Response

T = TypeVar("T")
PIECE = 16 * 1024


class Streamed(Exchange):
    """An exchange on a stream. What `on_...` is told comes from the protocol, the rest is for tests."""

    def __init__(self, client: "Multiplexed", version: str, *, to: str) -> None:
        self.id = -1
        self._client, self._version, self._to = client, version, to
        self._outgoing, self._outgoing_ends = bytearray(), False
        self._interim: list[int] = []
        self._response: Response | None = None
        # Each piece with what it costs the window.
        self._arrived: deque[tuple[bytes, int]] = deque()
        self._unread = bytearray()
        self._complete = False
        self._cut: Cut | None = None
        self._unwanted: Cut | None = None
        self.held = 0
        """What lies here, unread."""

    # --- of the protocol ---------------------------------------------------------------------------------------------

    def on_head(self, fields: list[tuple[str, str]]) -> None:
        names = [name for name, _ in fields]
        if names[:1] != [":status"] or any(name.startswith(":") or name != name.lower() for name in names[1:]):
            raise Malformed(f"a response's head: {fields}")
        status = int(fields[0][1])
        if self._response:
            raise Malformed("a second head")
        if status < 200:
            self._interim.append(status)
        else:
            self._response = Response(status, fields[1:], version=self._version, interim=self._interim)

    def on_trailers(self, fields: list[tuple[str, str]]) -> None:
        assert self._response
        self._response.trailers = fields

    def on_data(self, data: bytes, cost: int) -> None:
        assert self._response, "content before a head"
        self._arrived.append((data, cost))
        self.held += cost

    def on_end(self) -> None:
        self._complete = True

    def on_cut(self, cut: Cut) -> None:
        # A server that has said all may well say that it wants no more (RFC 9113 §8.1, RFC 9114 §4.1).
        self._outgoing.clear()
        self._outgoing_ends = False
        if not self._complete and not self._cut:
            self._cut = cut

    def on_stop(self, cut: Cut) -> None:
        """The server wants no more content; its response is another matter."""
        self._unwanted = cut
        self._outgoing.clear()
        self._outgoing_ends = False

    def on_room(self) -> None:
        """Gives the protocol what it has room for."""
        while (self._outgoing or self._outgoing_ends) and not self._cut:
            room = self._client.room(self.id)
            if self._outgoing and room <= 0:
                return
            piece = bytes(self._outgoing[: min(room, PIECE)])
            del self._outgoing[: len(piece)]
            end = self._outgoing_ends and not self._outgoing
            if end:
                self._outgoing_ends = False
            self._client.write(self.id, piece, end=end)

    # --- of tests ----------------------------------------------------------------------------------------------------

    def send(self, data: bytes, *, end: bool = False) -> None:
        self.queue(data, end=end)
        self._client.wait(lambda: self._cut is not None or not self._outgoing, "room for content")
        if self._cut:
            raise self._cut

    def queue(self, data: bytes, *, end: bool) -> None:
        with self._client.turn():
            if over := self._cut or self._unwanted:
                raise over
            self._outgoing += data
            self._outgoing_ends = self._outgoing_ends or end

    def offer(self, data: bytes, patience_s: float) -> int:
        self.queue(data, end=False)
        left = len(data) + 1
        while left and (now := len(self._outgoing)) < left:
            left = now
            with contextlib.suppress(TimeoutError):
                self._client.wait(lambda: len(self._outgoing) < left, "room", patience_s)  # noqa: B023
        with self._client.turn():
            left = len(self._outgoing)
            self._outgoing.clear()
        return len(data) - left

    def head(self) -> Response:
        self._client.wait(lambda: self._response is not None or self._cut is not None, "a head")
        if not self._response:
            assert self._cut
            raise self._cut
        return self._response

    def read(self) -> bytes:
        self.head()
        self._client.wait(lambda: bool(self._arrived) or self._complete or self._cut is not None, "content")
        with self._client.turn():
            if not self._arrived:
                if self._cut:
                    raise self._cut
                self._check_length()
                return b""
            pieces, costs = zip(*self._arrived, strict=True)
            self._arrived.clear()
            self.held -= sum(costs)
            self._client.consumed(self.id, sum(costs))
        return b"".join(pieces) or self.read()

    def _check_length(self) -> None:
        # RFC 9113 §8.1.1, RFC 9114 §4.1.2: the libraries compare the length, a second one they may not see.
        assert self._response
        lengths = self._response.all("content-length")
        if len(lengths) > 1 or self._response.all("transfer-encoding") or self._response.all("connection"):
            raise Malformed(f"fields of another framing: {self._response.fields}")

    def cancel(self) -> None:
        with self._client.turn():
            self._cut = self._cut or Cut("cancelled here")
            self._client.abort(self.id)

    def answered(self) -> bool:
        return self._response is not None or self._cut is not None

    # --- as a stream of bytes ----------------------------------------------------------------------------------------

    def exactly(self, size: int) -> bytes:
        while len(self._unread) < size:
            piece = self.read()
            if not piece:
                raise Malformed(f"cut off after {len(self._unread)} of {size} bytes")
            self._unread += piece
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data

    def rest(self) -> bytes:
        found = bytes(self._unread) + b"".join(iter(self.read, b""))
        self._unread.clear()
        return found


class Multiplexed(Client):
    multiplexes, connections = True, 1

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._changed = threading.Condition(threading.RLock())
        self._exchanges: dict[int, Streamed] = {}
        self._ended: Cut | None = None
        self._stopped = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, daemon=True)

    # --- what a protocol brings --------------------------------------------------------------------------------------

    @abstractmethod
    def fileno(self) -> int: ...

    @abstractmethod
    def receive(self) -> None:
        """Takes what has come, without waiting."""

    @abstractmethod
    def transmit(self) -> None:
        """Sends what there is to send, without waiting."""

    @abstractmethod
    def deadline(self) -> float | None:
        """When `transmit` is wanted though nothing comes; on the monotonic clock."""

    @abstractmethod
    def wants_write(self) -> bool: ...

    @abstractmethod
    def open(self, fields: list[tuple[str, str]], *, end: bool) -> int:
        """Begins a stream; its id."""

    @abstractmethod
    def may_open(self) -> bool:
        """Whether the server lets another stream begin, as far as is known."""

    @abstractmethod
    def websockets(self) -> bool:
        """Whether the server has said that it takes extended CONNECT (RFC 8441 §3, RFC 9220 §3)."""

    @abstractmethod
    def room(self, stream: int) -> int: ...

    @abstractmethod
    def write(self, stream: int, data: bytes, *, end: bool) -> None: ...

    @abstractmethod
    def consumed(self, stream: int, cost: int) -> None: ...

    @abstractmethod
    def abort(self, stream: int) -> None: ...

    @abstractmethod
    def shut(self, *, orderly: bool) -> None:
        """Ends the connection and its socket."""

    # --- turns -------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """What is done in the block goes out at its end."""
        with self._changed:
            yield
            self._advance()
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)

    def _advance(self) -> None:
        if not self._ended:
            try:
                for exchange in list(self._exchanges.values()):
                    exchange.on_room()
                self.transmit()
            except OSError as error:
                self.end(Cut(f"the connection: {error}"))
        self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._stopped or self._ended:
                    return
                due, writes = self.deadline(), [self] if self.wants_write() else []
            wait_s = None if due is None else max(0.0, due - time.monotonic())
            wanted: list[Any] = [self, self._wake]
            try:
                ready = select.select(wanted, writes, [], wait_s)[0]
            except (OSError, ValueError):
                return  # It was closed here.
            with self._changed:
                if self._stopped:
                    return
                if self._wake in ready:
                    os.eventfd_read(self._wake)
                try:
                    if self in ready:
                        self.receive()
                except OSError as error:
                    self.end(Cut(f"the connection: {error}"))
                except Exception as error:
                    # The peer's mistake, or the test's: whoever waits shall see it.
                    self.end(Cut(f"the connection: {error!r}"))
                self._advance()

    def wait(self, condition: Callable[[], T], what: str, at_most_s: float | None = None) -> T:
        with self._changed:
            found = self._changed.wait_for(condition, self._timeout_s if at_most_s is None else at_most_s)
        if not found:
            raise TimeoutError(f"not within {at_most_s or self._timeout_s} s: {what}")
        return found

    def end(self, cut: Cut) -> None:
        """The connection is over for all of its exchanges."""
        self._ended = self._ended or cut
        for exchange in self._exchanges.values():
            exchange.on_cut(self._ended)

    @property
    def ended(self) -> Cut | None:
        """Why the connection is over, if it is."""
        return self._ended

    def wait_end(self, at_most_s: float) -> Cut:
        found = self.wait(lambda: self._ended, "the end of the connection", at_most_s)
        assert found
        return found

    # --- exchanges ---------------------------------------------------------------------------------------------------

    def begin(self, method: str, target: str, fields: Fields = (), body: Content = b"", *, more: bool = False) -> Streamed:
        found = [(name.lower(), value) for name, value in sized(fields, body, more=more)]
        pseudo = [(":method", method), (":scheme", self.scheme), (":authority", _host(found)), (":path", target)]
        fields = [*pseudo, *((n, v) for n, v in found if n != "host")]
        exchange = self._begin(fields, end=body == b"" and not more, to=method)
        if not isinstance(body, bytes):
            for piece in body:
                exchange.send(piece)
            body = b""
            if not more:
                exchange.send(b"", end=True)
        elif body:
            exchange.queue(body, end=not more)
        return exchange

    def _begin(self, fields: list[tuple[str, str]], *, end: bool, to: str) -> Streamed:
        exchange = Streamed(self, f"HTTP/{self.version}", to=to)
        self.wait(lambda: self._ended or self.may_open(), "leave for another stream")
        with self.turn():
            if self._ended:
                raise self._ended
            exchange.id = self.open(fields, end=end)
            self._exchanges[exchange.id] = exchange
        return exchange

    def connect(self, target: str, fields: Fields = (), behind: bytes = b"") -> tuple[Response, Streamed]:
        self.wait(lambda: self._ended or self.websockets(), "leave for extended CONNECT")
        found = [(name.lower(), value) for name, value in pairs(fields)]
        mine = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", self.scheme), (":path", target)]
        others = [("sec-websocket-version", "13"), *((n, v) for n, v in found if n != "host")]
        stream = self._begin([*mine, (":authority", _host(found)), *others], end=False, to="CONNECT")
        stream.queue(behind, end=False)
        response = stream.head()
        if response.status != 200:
            response.body = stream.rest()
        return response, stream

    scheme = "https"

    def close(self) -> None:
        self._stop(orderly=True)

    def reset(self) -> None:
        self._stop(orderly=False)

    def _stop(self, *, orderly: bool) -> None:
        with self._changed:
            if self._stopped:
                return
            self._stopped = True
            with contextlib.suppress(OSError):
                self.shut(orderly=orderly)
            self.end(Cut("closed here"))
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wake, 1)
        if self._thread.ident:
            self._thread.join()
        os.close(self._wake)


def _host(fields: list[tuple[str, str]]) -> str:
    return next((value for name, value in fields if name == "host"), "test")
