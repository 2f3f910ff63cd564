"""The worker's end of its lanes, as Python sees it. Framing, memory and doorbells stay on the native side."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Final, Literal, TypeAlias

Headers: TypeAlias = list[tuple[bytes, bytes]]
Answer: TypeAlias = tuple[int, Headers, bytes]
"""Status, header fields (names in lower case, no framing fields), whole body."""

LAYOUT_HASH: Final[str]
"""What both sides of a lane must agree on, hexadecimal."""

def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the one that started it ends; raises RuntimeError if `parent` is gone already."""

class ClientDisconnected(OSError): ...

class Exchange:
    """One request and the way to answer it. Fields are made on first use. `receive`, `start`, `write` and `wait_disconnected`
    belong to the loop's thread and raise RuntimeError in any other; the rest may be used anywhere, and outlives the exchange.

    The awaitables end without suspending when there is nothing to wait for."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str:
        """Percent-decoded; undecodable bytes as surrogate escapes."""
    @property
    def raw_path(self) -> bytes: ...
    @property
    def query_string(self) -> bytes: ...
    @property
    def http_version(self) -> str:
        """`1.0`, `1.1`, `2` or `3`."""
    @property
    def scheme(self) -> str:
        """`http`, `https`, `ws` or `wss`."""
    @property
    def headers(self) -> Headers: ...
    def header(self, name: bytes) -> bytes | None:
        """The first field of this (lower-case) name."""
    @property
    def path_params(self) -> dict[str, str]: ...
    @property
    def client(self) -> tuple[str, int] | None: ...
    @property
    def server(self) -> tuple[str, int | None] | None: ...
    @property
    def body(self) -> bytes:
        """The whole body. RuntimeError where it is to be received piece by piece."""
    def receive(self) -> Awaitable[bytes]:
        """The next piece of the request's body (never empty), then b"" at its end, again and again.
        Credit goes back to the edge as pieces are taken. Raises ClientDisconnected when the exchange was over before the end."""
    @property
    def started(self) -> bool:
        """A response was begun, or there is nobody left for one."""
    @property
    def disconnected(self) -> bool:
        """Nobody waits for the answer any more."""
    def wait_disconnected(self) -> Awaitable[None]:
        """Ends when nobody waits any more, and when the response is complete."""
    def start(self, status: int, headers: Headers, *, length: int | None = None) -> None:
        """The response's head. Written with the first piece or at the next flush. `length`: of the whole body.
        RuntimeError the second time; ClientDisconnected."""
    def write(self, data: bytes | bytearray | memoryview, *, end: bool = False) -> Awaitable[None]:
        """A piece of the response's body, accepted by the call itself; the awaitable waits while the client is slower than the
        application. `bytes` are kept by reference until they are sent. The call, or the wait, raises ClientDisconnected when the
        client went away. RuntimeError before `start`, after the end, and where the body does not have the head's length."""

class Endpoint:
    """What the native side needs to know to answer one route."""

    def __init__(
        self,
        slow: Callable[[Exchange], Any],
        *,
        param_names: Sequence[str] = (),
        fast: Callable[..., Any] | None = None,
        fast_args: Sequence[tuple[int, Literal["str", "int", "float", "bool"]]] = (),
        status: int = 200,
        body: Literal["whole", "stream", "messages"] = "whole",
        cancels: Literal["always", "deadline"] = "always",
    ) -> None:
        """
        `slow(exchange)` returns a coroutine that ends in an `Answer`, or in None after it has answered through `start` and
        `write`; it can do everything. It is made once the whole body is there, or at once where `body` is "stream".
        When nobody waits for the answer any more, its task is cancelled; with `cancels` as "deadline", only because the request's
        deadline has passed. Where `body` is "messages" it serves WebSockets through a `SocketCycle`, ends in None, and is never
        cancelled because a client went away: it hears of that behind the messages that came before.

        `fast`, where given, is the user's own `async def` whose positional arguments are exactly path parameters
        (index into the path's parameters, and type) with plain annotations. It is called only when each conversion is beyond
        doubt; in any other case `slow` is. Its result goes straight to JSON when its type is exactly dict, list, str, int,
        float, bool or None, and through `encode` otherwise.
        """

class AsgiEndpoint:
    """An ASGI 3 application: called with a scope, `receive` and `send` that are made natively."""

    def __init__(
        self,
        app: Callable[[Any, Any, Any], Any],
        *,
        state: dict[str, Any] | None = None,
        root_path: str = "",
        server: tuple[Any, ...] | None = None,
        pathsend: Callable[["Cycle", Exchange, str], Awaitable[None]] | None = None,
    ) -> None:
        """`app(scope, receive, send)` returns a coroutine. Each scope has a shallow copy of `state`, as it is then. `pathsend`
        is called for a message `http.response.pathsend`, an extension that scopes announce where it is given. The task is cancelled
        only because the request's deadline has passed."""

class Cycle:
    """One request and its response, as an ASGI application's two callables see them."""

    def receive(self) -> Awaitable[dict[str, Any]]:
        """The next event: `http.request` until the body's end, then `http.disconnect` once the exchange is over."""
    def send(self, message: dict[str, Any]) -> Awaitable[None]:
        """Takes a message; awaiting it waits while the client is slower than the application. Awaiting it raises ClientDisconnected
        when the client went away, RuntimeError for a message out of place, TypeError, ValueError and KeyError for a wrong one."""
    def begin(self, length: int) -> bool:
        """Starts the response that is held, with this length unless the application has named another or announced trailers. True
        for trailers: `await_trailers` is to follow the body, which is not ended."""
    def await_trailers(self) -> None:
        """The body is written; the trailers may come."""

class SocketCycle:
    """One WebSocket, as an application sees it. `receive` and `send` are ASGI's; the rest is the native interface's, and
    shares their state. For the loop's thread."""

    def __init__(self, exchange: Exchange) -> None: ...
    def receive(self) -> Awaitable[dict[str, Any]]:
        """`websocket.connect`, then `websocket.receive` for each whole message, then `websocket.disconnect` again and again."""
    def send(self, message: dict[str, Any]) -> Awaitable[None]:
        """Takes a message; awaiting it waits while the client is slower than the application. Awaiting it raises ClientDisconnected
        when the client takes nothing any more, RuntimeError for a message out of place, TypeError, ValueError and KeyError for a
        wrong one: a code or reason that cannot be sent, a subprotocol that was not offered."""
    def next_message(self) -> Awaitable[str | bytes | tuple[int, str]]:
        """The next whole message, text or bytes; behind the last, the code and the reason of the close, again and again.
        1005 is a close without a code, 1006 a connection that was lost."""
    def accept(self, subprotocol: str | None = None, headers: Headers | None = None) -> None:
        """Answers 101. RuntimeError the second time; ClientDisconnected; ValueError as of `send`."""
    def send_message(self, data: str | bytes | bytearray | memoryview) -> Awaitable[None]:
        """Accepted by the call itself; awaiting waits while the client is slower than the application. The call raises
        ClientDisconnected when the client takes nothing any more, RuntimeError before `accept` and behind `close`."""
    def close(self, code: int = 1000, reason: str = "") -> None:
        """Closes behind what was sent; denies with 403 what was not accepted. Without effect the second time."""
    @property
    def subprotocols(self) -> list[str]:
        """What the client offers."""

class WsgiEndpoint:
    """A WSGI application: called with an environ and `start_response` that are made natively, by the threads in `Lanes.work`."""

    def __init__(
        self,
        app: Callable[[dict[str, Any], Any], Any],
        *,
        environ: dict[str, Any],
        report: Callable[[BaseException], None],
        root_path: str = "",
    ) -> None:
        """Each environ is a copy of `environ` with what belongs to the request. `report(error)` logs what the application raised,
        or did wrong. `root_path`: where requests come with it, it is taken off PATH_INFO."""

class FileWrapper:
    """`wsgi.file_wrapper`. As an iterable it yields blocks; the server reads the file itself, in blocks of its own size."""

    def __init__(self, file: Any, block_size: int = 8192, /) -> None: ...
    def __iter__(self) -> Iterator[bytes]: ...
    def __next__(self) -> bytes: ...
    def close(self) -> None: ...

class Lanes:
    """The worker's ends of its lanes, one to each shard, and its doorbell."""

    def __init__(self, attach: bytes, fds: Sequence[int]) -> None:
        """`attach`: the edge's attach message (JSON); `fds`: what came with it, owned from here on.
        Raises RuntimeError when the layouts differ."""

    def serve(
        self,
        endpoints: Sequence[Endpoint | AsgiEndpoint | WsgiEndpoint],
        *,
        loop: Any,
        dumps: Callable[..., bytes],
        dumps_args: tuple[Any, ...],
        encode: Callable[[Any, int], Any],
        fail: Callable[[BaseException, Exchange], Answer],
        deliver: Callable[[Any, Exchange], Any] | None = None,
    ) -> None:
        """Names what `drain` calls. `dumps(value, *dumps_args)` makes JSON; `encode(value, status)` turns any other result into
        an answer, or into something for which `deliver(it, exchange)` makes the coroutine that answers, as a slow call does;
        `fail(error, exchange)` turns what a handler raised into an answer, and reports it. A route's id is its place in `endpoints`."""

    def fileno(self) -> int:
        """The doorbell: readable when a shard wants attention and this side sleeps."""
    def drain(self) -> None:
        """Takes a batch of records from every lane, runs the handlers' first steps, publishes the answers. The doorbell's reader.
        SystemExit and KeyboardInterrupt of a handler end the worker: its exchange is aborted and they come out here (or of the
        handler's task). RuntimeError when the edge broke the lane; `flush` raises it again, so that the selector ends the loop.
        """
    def pending(self) -> bool:
        """True when records wait in some lane; no system call."""
    def before_block(self) -> bool:
        """Spins for a short while, then arms the doorbells. True when records turned up instead (nothing is armed then)."""
    def flush(self) -> bool:
        """Publishes what was written and rings where the edge sleeps. True when somebody was woken who waited for room: the
        loop has something to run."""
    def on_use(self, callback: Callable[[], Any]) -> None:
        """Has `callback` called when the lanes are used outside `drain` and `flush`, once until the next `flush`: what was written
        waits for that. For a loop that does not flush before it sleeps. On the loop's thread; once."""
    def work(self) -> None:
        """The life of one thread of a WSGI application: takes records and runs requests until `dismiss`. Any number of threads may
        be in here, instead of a loop in `drain`. RuntimeError when the edge broke the lane, as of `drain`."""
    def relieve(self) -> None:
        """Takes the records that no thread of `work` is about to take. For the event loop, now and then: while all threads are busy,
        nobody else hears that a deadline has passed."""
    def dismiss(self) -> None:
        """Lets the threads of `work` return. Nothing may be in flight."""
    def in_flight(self) -> int:
        """Exchanges taken and not answered yet."""
    def tasks(self) -> int:
        """Handlers that were suspended and have not ended, whether or not anybody waits for them."""
    def current_task(self) -> Any:
        """The asyncio.Task of the handler whose first step is running, made on demand; None outside one and
        in other threads. Everything else in this class belongs to the loop's thread."""

class Calls:
    """The worker's end of one lane, for a program that answers an executor's calls without an event loop. For one thread."""

    def __init__(self, attach: bytes, fds: Sequence[int]) -> None:
        """As of `Lanes`, with one lane."""

    def fileno(self) -> int:
        """The doorbell: readable when the executor wants attention, after `arm` said that there is nothing."""
    def poll(self) -> list[tuple[int, bytes, bytes, bytes]]:
        """The calls that have arrived, each with its id, module, function and keyword arguments (JSON); writes what waits."""
    def arm(self) -> bool:
        """Asks for a ring; True when there is something already."""
    def answer(self, id: int, status: int, body: bytes) -> None:
        """Answers a call with JSON. KeyError for one that does not wait."""
    def unwritten(self) -> int:
        """Answers that were given and not written to their end."""
