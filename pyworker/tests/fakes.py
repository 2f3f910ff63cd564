"""Stand-ins for the native module, written against `_native.pyi` and nothing else."""

import asyncio
import contextlib
import contextvars
import json
import os
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from fasterapi import ClientDisconnected, FastAPI, Response
from fasterapi._endpoint import EndpointSpec, compile_route
from fasterapi._response import encode
from fasterapi._routing import Route

Answer = tuple[int, list[tuple[bytes, bytes]], bytes]


@dataclass
class FakeExchange:
    method: str = "GET"
    path: str = "/"
    raw_path: bytes = b"/"
    query_string: bytes = b""
    http_version: str = "1.1"
    scheme: str = "http"
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    path_params: dict[str, str] = field(default_factory=dict)
    client: tuple[str, int] | None = ("testclient", 50000)
    server: tuple[str, int | None] | None = ("testserver", 80)
    body: bytes = b""
    pieces: list[bytes] | None = None
    """The body as it comes; None where it is there as a whole."""
    disconnected: bool = False
    head: tuple[int, list[tuple[bytes, bytes]], int | None] | None = None
    written: list[bytes] = field(default_factory=list)
    ended: bool = False

    def header(self, name: bytes) -> bytes | None:
        return next((value for key, value in self.headers if key == name), None)

    async def receive(self) -> bytes:
        if self.disconnected:
            raise ClientDisconnected
        if self.pieces is None:
            self.pieces = [self.body] if self.body else []
        return self.pieces.pop(0) if self.pieces else b""

    @property
    def started(self) -> bool:
        return self.head is not None or self.disconnected

    def start(self, status: int, headers: list[tuple[bytes, bytes]], *, length: int | None = None) -> None:
        assert self.head is None
        self.head = status, headers, length

    async def write(self, data: bytes, *, end: bool = False) -> None:
        assert self.head is not None
        assert not self.ended
        if self.disconnected:
            raise ClientDisconnected
        assert isinstance(data, bytes | bytearray | memoryview)
        self.written.append(bytes(data))
        self.ended = end

    def answer(self) -> Answer:
        """What was written, as the whole answer that it makes."""
        assert self.head is not None
        assert self.ended
        status, headers, length = self.head
        body = b"".join(self.written)
        assert length is None or length == len(body) or self.method == "HEAD"
        return status, headers, body


class FakeEndpoint:
    def __init__(
        self,
        slow: Callable[[Any], Any],
        *,
        param_names: Sequence[str] = (),
        fast: Callable[..., Any] | None = None,
        fast_args: Sequence[tuple[int, str]] = (),
        status: int = 200,
        body: str = "whole",
    ) -> None:
        self.slow = slow
        self.body = body
        self.param_names = tuple(param_names)
        self.fast = fast
        self.fast_args = tuple(fast_args)
        self.status = status


_BEYOND_DOUBT: dict[str, tuple[str, Callable[[str], Any]]] = {
    "str": (r".*", str),
    "int": (r"-?(0|[1-9][0-9]{0,17})", int),
    "float": (r"-?[0-9]{1,15}\.[0-9]{1,15}", float),
    "bool": (r"true|false", lambda text: text == "true"),
}
_PLAIN = (dict, list, str, int, float, bool, type(None))


class FakeLanes:
    """Lanes whose edge is the test: `push` is a request record, the returned future its response record."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        self._records: list[tuple[int, FakeExchange, asyncio.Future[Answer]]] = []
        self._in_flight = 0
        self._current: asyncio.Task[Any] | None = None
        self._step: Callable[[], asyncio.Task[Any]] | None = None
        self.calls: list[str] = []

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)

    def serve(
        self,
        endpoints: Sequence[FakeEndpoint],
        *,
        loop: asyncio.AbstractEventLoop,
        dumps: Callable[..., bytes],
        dumps_args: tuple[Any, ...],
        encode: Callable[[Any, int], Any],
        fail: Callable[[BaseException, Any], Answer],
        deliver: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self.endpoints, self.loop = list(endpoints), loop
        self._dumps, self._dumps_args, self._encode, self._fail = dumps, dumps_args, encode, fail

    def push(self, route: int, exchange: FakeExchange) -> "asyncio.Future[Answer]":
        future: asyncio.Future[Answer] = self.loop.create_future()
        self._records.append((route, exchange, future))
        return future

    def ring(self) -> None:
        os.write(self._write, b"!")

    def fileno(self) -> int:
        return self._read

    def pending(self) -> bool:
        self.calls.append("pending")
        return bool(self._records)

    def before_block(self) -> bool:
        self.calls.append("before_block")
        return bool(self._records)

    def on_use(self, callback: Callable[[], Any]) -> None:
        self.calls.append("on_use")
        self.used = callback

    def flush(self) -> bool:
        self.calls.append("flush")
        return False

    def in_flight(self) -> int:
        return self._in_flight

    def tasks(self) -> int:
        return self._in_flight

    def drain(self) -> None:
        self.calls.append("drain")
        with contextlib.suppress(BlockingIOError):
            os.read(self._read, 4096)
        self._take()

    def _take(self) -> None:
        records, self._records = self._records, []
        for route, exchange, future in records:
            self._in_flight += 1
            self._begin(self.endpoints[route], exchange, future)

    def current_task(self) -> "asyncio.Task[Any] | None":
        if self._current is None and self._step is not None:
            self._current = self._step()
        return self._current

    def _begin(self, endpoint: FakeEndpoint, exchange: FakeExchange, future: "asyncio.Future[Answer]") -> None:
        arguments = fast_arguments(endpoint, exchange)

        def settle(outcome: Callable[[], Any]) -> None:
            self._in_flight -= 1
            try:
                value = outcome()
                if arguments is not None:
                    answer: Answer = self._finish_fast(value, endpoint.status)
                else:
                    answer = exchange.answer() if value is None else value
            except BaseException as error:
                answer = self._fail(error, exchange)
            if not future.done():
                future.set_result(answer)

        if arguments is None:
            coroutine = endpoint.slow(exchange)
        else:
            assert endpoint.fast is not None
            coroutine = endpoint.fast(*arguments)
        context = contextvars.copy_context()
        rest = _Rest(coroutine)
        self._current, self._step = None, lambda: self.loop.create_task(rest.run())
        try:
            rest.waiting = context.run(coroutine.send, None)
        except StopIteration as end:
            value = end.value
            self._end_step(cancel=True)
            settle(lambda: value)
        except BaseException as error:
            raised = error
            self._end_step(cancel=True)
            settle(lambda: _raise(raised))
        else:
            task = context.run(self.current_task)
            assert task is not None
            self._end_step(cancel=False)
            task.add_done_callback(lambda done: settle(done.result))

    def _end_step(self, *, cancel: bool) -> None:
        if cancel and self._current is not None:
            self._current.cancel()
        self._current = self._step = None

    def _finish_fast(self, value: Any, status: int) -> Answer:
        encoded: Answer
        if type(value) in _PLAIN:
            with contextlib.suppress(TypeError):
                body = self._dumps(value, *self._dumps_args)
                return status, [(b"content-type", b"application/json")], body
        encoded = self._encode(value, status)
        return encoded


class _Rest:
    """What remains of a coroutine after its first step, for a real task to run."""

    def __init__(self, coroutine: Any) -> None:
        self._coroutine = coroutine
        self.waiting: Any = None

    async def run(self) -> Any:
        return await self

    def __await__(self) -> Generator[Any, Any, Any]:
        while True:
            try:
                value = yield self.waiting
            except BaseException as error:
                step = partial(self._coroutine.throw, error)
            else:
                step = partial(self._coroutine.send, value)
            try:
                self.waiting = step()
            except StopIteration as end:
                return end.value


def _raise(error: BaseException) -> None:
    raise error


def fast_arguments(endpoint: "FakeEndpoint | EndpointSpec", exchange: FakeExchange) -> list[Any] | None:
    """The positional arguments of the fast way, or None where a conversion is not beyond doubt."""
    if endpoint.fast is None:
        return None
    arguments = []
    for place, kind in endpoint.fast_args:
        pattern, convert = _BEYOND_DOUBT[kind]
        text = exchange.path_params[endpoint.param_names[place]]
        if re.fullmatch(pattern, text, re.DOTALL) is None:
            return None
        arguments.append(convert(text))
    return arguments


@dataclass
class Reply:
    status_code: int
    headers: list[tuple[str, str]]
    content: bytes

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def text(self) -> str:
        return self.content.decode()


_CONVERTERS = {"str": "[^/]+", "path": ".*", "int": "[0-9]+", "float": r"[0-9]+(?:\.[0-9]+)?", "uuid": "[0-9a-fA-F-]{36}"}


def _pattern(template: str) -> str:
    parts = re.split(r"{(\w+)(?::(\w+))?}", template)
    out = re.escape(parts[0])
    for name, converter, literal in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        out += f"(?P<{name}>{_CONVERTERS[converter or 'str']}){re.escape(literal)}"
    return out


class Edge:
    """Routes as the edge does, and drives the compiled endpoints; one loop for all requests of a test."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.endpoints = [(route, compile_route(route, app)) for route in app.routes if isinstance(route, Route)]

    def request(self, method: str, target: str, *, headers: Sequence[tuple[str, str]] = (), body: bytes = b"") -> Reply:
        answer = asyncio.run(self.exchange(method, target, headers, body))
        return Reply(answer[0], [(key.decode("latin-1"), value.decode("latin-1")) for key, value in answer[1]], answer[2])

    async def exchange(self, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes) -> Answer:
        parts = urlsplit(target)
        path = unquote(parts.path)
        fields = [(key.lower().encode("latin-1"), value.encode("latin-1")) for key, value in headers]
        for route, spec in self.endpoints:
            match = re.fullmatch(_pattern(route.path), path)
            if match is not None and method in route.methods:
                exchange = FakeExchange(
                    method=method,
                    path=path,
                    raw_path=quote(path).encode(),
                    query_string=parts.query.encode("latin-1"),
                    headers=[(b"host", b"testserver"), *fields],
                    path_params=match.groupdict(),
                    body=body,
                )
                return await self.answer(route, spec, exchange)
        raise LookupError(f"no route for {method} {path}")

    async def answer(self, route: Route, spec: EndpointSpec, exchange: FakeExchange) -> Answer:
        """The slow way; where there is a fast one, both, which must agree."""
        slow = await spec.slow(exchange) or exchange.answer()  # type: ignore[arg-type]
        arguments = fast_arguments(spec, exchange)
        if arguments is not None:
            assert spec.fast is not None
            try:
                fast = encode(await spec.fast(*arguments), spec.status)
            except Exception as error:
                fast = self.app.fail(error)
            assert fast == slow or self.app.debug or isinstance(fast, Response)  # Tracebacks differ; what is live was sent.
        return slow
