"""The worker's end of its lanes, as Python sees it. Framing, memory and doorbells stay on the native side."""

from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, TypeAlias

Headers: TypeAlias = list[tuple[bytes, bytes]]
Answer: TypeAlias = tuple[int, Headers, bytes]
"""Status, header fields (names in lower case, no framing fields), whole body."""

LAYOUT_HASH: Final[str]
"""What both sides of a lane must agree on, hexadecimal."""

def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the one that started it ends; raises RuntimeError if `parent` is gone already."""

class Exchange:
    """One request, with its whole body, until it is answered. Fields are made on first use."""

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
    def body(self) -> bytes: ...

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
    ) -> None:
        """
        `slow(exchange)` returns a coroutine that ends in an `Answer`; it can do everything.

        `fast`, where given, is the user's own `async def` whose positional arguments are exactly path parameters
        (index into the path's parameters, and type) with plain annotations. It is called only when each conversion is beyond
        doubt; in any other case `slow` is. Its result goes straight to JSON when its type is exactly dict, list, str, int,
        float, bool or None, and through `encode` otherwise.
        """

class Lanes:
    """The worker's ends of its lanes, one to each shard, and its doorbell."""

    def __init__(self, attach: bytes, fds: Sequence[int]) -> None:
        """`attach`: the edge's attach message (JSON); `fds`: what came with it, owned from here on.
        Raises RuntimeError when the layouts differ."""

    def serve(
        self,
        endpoints: Sequence[Endpoint],
        *,
        loop: Any,
        dumps: Callable[..., bytes],
        dumps_args: tuple[Any, ...],
        encode: Callable[[Any, int], Answer],
        fail: Callable[[BaseException, Exchange], Answer],
    ) -> None:
        """Names what `drain` calls. `dumps(value, *dumps_args)` makes JSON; `encode(value, status)` turns any other result into
        an answer; `fail(error, exchange)` turns what a handler raised into one. A route's id is its place in `endpoints`."""

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
    def flush(self) -> None:
        """Publishes what was written and rings where the edge sleeps."""
    def in_flight(self) -> int:
        """Exchanges taken and not answered yet."""
    def current_task(self) -> Any:
        """The asyncio.Task of the handler whose first step is running, made on demand; None outside one and
        in other threads. Everything else in this class belongs to the loop's thread."""
