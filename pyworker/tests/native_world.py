"""A real loop and a real `Lanes`, with the edge's side played by the test."""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fasterapi import _native

WINDOW = 256 * 1024
JSON = (b"content-type", b"application/json")

Message = tuple[Any, ...]


def dumps(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def encode(value: Any, status: int) -> Any:
    if type(value).__name__ == "Live":
        return value
    return status, [(b"content-type", b"text/plain")], str(value).encode()


class World:
    """`endpoints` by name; `ask` sends a request to one of them, `answer` waits for what came back."""

    def __init__(self, endpoints: dict[str, "_native.Endpoint"], *, deliver: Any = None, **geometry: int) -> None:
        self.edge = _native.EdgeSide(**geometry)  # type: ignore[attr-defined]
        self.lanes = _native.Lanes(self.edge.attach(), self.edge.fds())
        self.routes = {name: place for place, name in enumerate(endpoints)}
        self.loop = asyncio.SelectorEventLoop()
        self.errors: list[dict[str, Any]] = []
        self.failures: list[BaseException] = []
        # Nothing that the lanes hold leads back to them: the collector does not look inside.
        errors, failures = self.errors, self.failures
        self.loop.set_exception_handler(lambda loop, context: errors.append(context))

        def fail(error: BaseException, exchange: "_native.Exchange") -> "_native.Answer":
            failures.append(error)
            return 500, [], f"{type(error).__name__}: {error} on {exchange.path}".encode()

        self.lanes.serve(
            list(endpoints.values()), loop=self.loop, dumps=dumps, dumps_args=(), encode=encode, fail=fail, deliver=deliver
        )
        self.loop.add_reader(self.lanes.fileno(), self.lanes.drain)
        self.seen: dict[int, list[Message]] = {}
        self.bodies: dict[int, bytearray] = {}
        self.next_id = 0

    def ask(self, name: str, *params: bytes, **fields: Any) -> int:
        self.next_id += 1
        fields.setdefault("path", "/" + name)
        assert self.edge.send_request(self.next_id, route=self.routes[name], params=list(params), **fields)
        return self.next_id

    def turn(self, *, credit: bool = True) -> None:
        """One drain, one turn of the loop, and whatever it brought."""
        self.edge.publish()
        self.loop.call_soon(self.lanes.drain)
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()
        self.lanes.flush()
        self.collect(credit=credit)

    def collect(self, *, credit: bool = True) -> None:
        for message in self.edge.receive():
            kind, ident, *rest = message
            self.seen.setdefault(ident, []).append(message)
            if kind == "response":
                self.bodies[ident] = bytearray(rest[2])
            elif kind == "body":
                self.bodies[ident] += rest[0]
                if credit and rest[0]:
                    self.edge.send_credit(ident, len(rest[0]))
        self.edge.publish()

    def ended(self, ident: int) -> bool:
        messages = self.seen.get(ident, [])
        return any(message[0] == "abort" or (message[0] in ("response", "body") and message[-1]) for message in messages)

    def until(self, done: Callable[[], bool], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, "timed out"
            self.turn()

    def answer(self, ident: int) -> tuple[int, bytes]:
        """Status and whole body; status 0 for an exchange that was aborted."""
        self.until(lambda: self.ended(ident))
        messages = self.seen[ident]
        if any(message[0] == "abort" for message in messages):
            return 0, b""
        return next(message[2] for message in messages if message[0] == "response"), bytes(self.bodies[ident])

    def get(self, name: str, *params: bytes, **fields: Any) -> tuple[int, bytes]:
        return self.answer(self.ask(name, *params, **fields))


class Upload:
    """A request's body on its way, within its credit."""

    def __init__(self, world: World, ident: int) -> None:
        self.world, self.ident, self.sent, self.window = world, ident, 0, WINDOW

    def some(self, data: bytes, *, end: bool = False) -> int:
        """Sends what credit and ring have room for, after a look for new credit."""
        seen = self.world.seen.get(self.ident, [])
        self.window += sum(message[2] for message in seen if message[0] == "credit")
        self.world.seen[self.ident] = [message for message in seen if message[0] != "credit"]
        assert 0 <= self.window <= WINDOW
        if not (part := data[: self.window]) and data:
            return 0
        taken = self.world.edge.send_body(self.ident, part, end=end and len(part) == len(data)) or 0
        self.sent, self.window = self.sent + taken, self.window - taken
        return taken

    def all(self, data: bytes, *, end: bool = False) -> None:
        """Sends everything."""
        deadline = time.monotonic() + 10
        while data:
            data = data[self.some(data, end=end) :]
            self.world.turn()
            assert time.monotonic() < deadline, "timed out"


@contextlib.contextmanager
def world(endpoints: dict[str, "_native.Endpoint"], *, deliver: Any = None, **geometry: int) -> Iterator[World]:
    """Also sees to it that `asyncio.current_task` asks the lanes, as the worker does."""
    made = World(endpoints, deliver=deliver, **geometry)
    original = asyncio.current_task

    def current_task(loop: Any = None) -> Any:
        return original(loop) or made.lanes.current_task()

    asyncio.current_task = asyncio.tasks.current_task = current_task
    with_timeouts = getattr(asyncio, "timeouts", None)
    try:
        yield made
        assert with_timeouts is None or with_timeouts.tasks is asyncio.tasks
        assert made.lanes.in_flight() == 0
        made.until(lambda: made.lanes.tasks() == 0, 2)
        assert made.errors == []
    finally:
        asyncio.current_task = asyncio.tasks.current_task = original
        made.loop.close()


def fast(function: Callable[..., Any], *kinds: str, status: int = 200) -> "_native.Endpoint":
    """An endpoint whose slow call says so."""

    async def slow(exchange: "_native.Exchange") -> "_native.Answer":
        return 422, [], b"slow " + repr(exchange.path_params).encode()

    names = [f"p{index}" for index in range(len(kinds))]
    return _native.Endpoint(slow, param_names=names, fast=function, fast_args=list(enumerate(kinds)), status=status)  # type: ignore[arg-type]


def slow(function: Callable[["_native.Exchange"], Any], names: Sequence[str] = ()) -> "_native.Endpoint":
    return _native.Endpoint(function, param_names=names)


def stream(function: Callable[["_native.Exchange"], Any]) -> "_native.Endpoint":
    """An endpoint that takes the body piece by piece."""
    return _native.Endpoint(function, body="stream")
