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


def encode(value: Any, status: int) -> "_native.Answer":
    return status, [(b"content-type", b"text/plain")], str(value).encode()


def fail(error: BaseException, exchange: "_native.Exchange") -> "_native.Answer":
    return 500, [], f"{type(error).__name__}: {error} on {exchange.path}".encode()


class World:
    """`endpoints` by name; `ask` sends a request to one of them, `answer` waits for what came back."""

    def __init__(self, endpoints: dict[str, "_native.Endpoint"], **geometry: int) -> None:
        self.edge = _native.EdgeSide(**geometry)  # type: ignore[attr-defined]
        self.lanes = _native.Lanes(self.edge.attach(), self.edge.fds())
        self.routes = {name: place for place, name in enumerate(endpoints)}
        self.loop = asyncio.SelectorEventLoop()
        self.errors: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda loop, context: self.errors.append(context))
        self.lanes.serve(list(endpoints.values()), loop=self.loop, dumps=dumps, dumps_args=(), encode=encode, fail=fail)
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


@contextlib.contextmanager
def world(endpoints: dict[str, "_native.Endpoint"], **geometry: int) -> Iterator[World]:
    """Also sees to it that `asyncio.current_task` asks the lanes, as the worker does."""
    made = World(endpoints, **geometry)
    original = asyncio.current_task

    def current_task(loop: Any = None) -> Any:
        return original(loop) or made.lanes.current_task()

    asyncio.current_task = asyncio.tasks.current_task = current_task
    with_timeouts = getattr(asyncio, "timeouts", None)
    try:
        yield made
        assert with_timeouts is None or with_timeouts.tasks is asyncio.tasks
        assert made.lanes.in_flight() == 0
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
