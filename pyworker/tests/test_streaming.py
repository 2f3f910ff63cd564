"""Bodies piece by piece, as handlers see them: requests that stream, responses that are made while they are sent."""

import asyncio
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from starlette.responses import FileResponse as StarlettesFileResponse

from fakes import Edge, FakeExchange
from fasterapi import (
    BackgroundTask,
    BackgroundTasks,
    ClientDisconnected,
    Depends,
    EventSourceResponse,
    FastAPI,
    FileResponse,
    JSONResponse,
    Request,
    Response,
    ServerSentEvent,
    StreamingResponse,
)
from fasterapi._endpoint import compile_route
from fasterapi._files import parse_range
from fasterapi._threads import ThreadPool


def made(app: FastAPI, exchange: FakeExchange) -> FakeExchange:
    """The exchange after the application's first route has answered it."""
    answer = asyncio.run(compile_route(app.routes[0], app).slow(exchange))  # type: ignore[arg-type]
    if answer is not None:
        exchange.start(*answer[:2])
        asyncio.run(exchange.write(answer[2], end=True))
    return exchange


def sent(response: Response, **fields: Any) -> FakeExchange:
    exchange = FakeExchange(**fields)
    threads = ThreadPool(2)
    asyncio.run(response.send(exchange, threads))  # type: ignore[arg-type]
    threads.close()
    return exchange


def request_of(*pieces: bytes) -> Request:
    return Request(FakeExchange(pieces=list(pieces)), FastAPI())  # type: ignore[arg-type]


# --- requests


def test_a_request_is_read_as_a_whole_or_in_pieces() -> None:
    async def run() -> None:
        request = request_of(b"one", b"two")
        assert await request.body() == b"onetwo"
        assert await request.body() == b"onetwo"
        assert [piece async for piece in request.stream()] == [b"onetwo", b""], "a body that was read is kept"
        assert await request_of(b"[1,", b"2]").json() == [1, 2]
        assert [piece async for piece in request_of(b"one", b"two").stream()] == [b"one", b"two", b""]
        assert [piece async for piece in request_of().stream()] == [b""]

    asyncio.run(run())


def test_pieces_are_there_once() -> None:
    async def run() -> None:
        request = request_of(b"one", b"two")
        async for piece in request.stream():
            assert piece == b"one"
            break
        with pytest.raises(RuntimeError, match=r"pieces of it were taken from stream\(\) already"):
            await request.body()
        assert [piece async for piece in request.stream()] == [b"two", b""], "the rest is still to be had"
        with pytest.raises(RuntimeError, match="read to its end already"):
            await request.stream().__anext__()

    asyncio.run(run())


def test_a_client_that_went_away_is_seen() -> None:
    async def run() -> None:
        exchange = FakeExchange(pieces=[])
        request = Request(exchange, FastAPI())  # type: ignore[arg-type]
        assert not await request.is_disconnected()
        exchange.disconnected = True
        assert await request.is_disconnected()
        with pytest.raises(ClientDisconnected):
            await request.body()

    asyncio.run(run())


def test_only_handlers_that_may_want_pieces_get_them() -> None:
    app = FastAPI()

    def inner(request: Request) -> None: ...

    @app.post("/plain")
    async def plain(value: int = 0) -> None: ...

    @app.post("/request")
    async def with_request(request: Request) -> None: ...

    @app.post("/dependency")
    async def with_dependency(value: Annotated[None, Depends(inner)]) -> None: ...

    @app.post("/both")
    async def both(request: Request, item: dict[str, int]) -> Any:
        return [item, (await request.body()).decode(), [piece.decode() async for piece in request.stream()]]

    specs = [compile_route(route, app) for route in app.routes]
    assert [spec.body for spec in specs] == ["whole", "stream", "stream", "whole"]
    reply = Edge(app).request("POST", "/both", headers=[("content-type", "application/json")], body=b'{"a":1}')
    assert reply.json() == [{"a": 1}, '{"a":1}', ['{"a":1}', ""]]


# --- streams


def test_a_stream_over_any_iterable() -> None:
    async def asynchronous() -> AsyncIterator[str | bytes]:
        for piece in ("é", b"b", b"", bytearray(b"c"), memoryview(b"d")):
            await asyncio.sleep(0)
            yield piece  # type: ignore[misc]

    def blocking() -> Iterator[str | bytes]:
        assert threading.current_thread() is not threading.main_thread()
        yield from ("é", b"b", b"c", b"d")

    for content in (asynchronous(), blocking(), ["é", b"b", b"cd"]):
        exchange = sent(StreamingResponse(content, 201, {"X-A": "b"}, "text/plain"))
        assert exchange.answer() == (201, [(b"x-a", b"b"), (b"content-type", b"text/plain; charset=utf-8")], "ébcd".encode())
        assert exchange.head is not None
        assert exchange.head[2] is None


def test_a_stream_may_name_its_length() -> None:
    exchange = sent(StreamingResponse([b"abc"], headers={"content-length": "3"}))
    assert exchange.head == (200, [], 3)


def test_a_stream_that_nobody_reads_is_closed_unread() -> None:
    log: list[str] = []

    async def content() -> AsyncIterator[bytes]:
        log.append("began")
        yield b"x"

    exchange = sent(StreamingResponse(content()), method="HEAD")
    assert (exchange.written, exchange.ended, log) == ([b""], True, [])
    assert sent(StreamingResponse(content(), 204)).answer() == (204, [], b"")


class Gone(FakeExchange):
    """Its client goes away with the second piece."""

    async def write(self, data: bytes, *, end: bool = False) -> None:
        await asyncio.sleep(0)
        if self.written:
            self.disconnected = True
        await super().write(data, end=end)


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize("how", ["write", "cancel", "error"])
def test_whatever_ends_a_stream_its_clean_up_has_run(kind: str, how: str) -> None:
    log: list[str] = []
    go = threading.Event()
    halfway = asyncio.Event()

    async def asynchronous() -> AsyncIterator[bytes]:
        try:
            for number in range(100):
                log.append(str(number))
                if how == "error" and number == 1:
                    raise ValueError("in the content")
                if how == "cancel" and number == 1:
                    halfway.set()
                    await asyncio.sleep(60)
                yield b"x"
        finally:
            await asyncio.sleep(0)
            log.append("clean")

    def blocking() -> Iterator[bytes]:
        try:
            for number in range(100):
                log.append(str(number))
                if how == "error" and number == 1:
                    raise ValueError("in the content")
                if how == "cancel" and number == 1:
                    loop[0].call_soon_threadsafe(halfway.set)
                    go.wait(10)
                yield b"x"
        finally:
            log.append("clean")

    loop: list[asyncio.AbstractEventLoop] = []

    async def run() -> None:
        loop.append(asyncio.get_running_loop())
        exchange = FakeExchange() if how != "write" else Gone()
        threads = ThreadPool(2)
        content: Any = asynchronous() if kind == "async" else blocking()
        task = asyncio.ensure_future(StreamingResponse(content).send(exchange, threads))  # type: ignore[arg-type]
        if how == "cancel":
            await halfway.wait()
            task.cancel()
            loop[0].call_later(0.01, go.set)
        expected = {"write": ClientDisconnected, "cancel": asyncio.CancelledError, "error": ValueError}[how]
        with pytest.raises(expected):
            await task
        threads.close()

    asyncio.run(run())
    assert log == ["0", "1", "clean"]


def test_an_error_before_the_first_piece_is_still_answered_and_a_later_one_is_not() -> None:
    app = FastAPI()

    @app.get("/missing")
    async def missing() -> FileResponse:
        return FileResponse("/nowhere/at/all")

    assert made(app, FakeExchange()).answer()[0] == 500

    app = FastAPI()

    async def breaks() -> AsyncIterator[bytes]:
        yield b"x"
        raise ValueError("in the content")

    @app.get("/breaks")
    async def breaking() -> StreamingResponse:
        return StreamingResponse(breaks())

    exchange = FakeExchange()
    with pytest.raises(ValueError, match="in the content"):
        made(app, exchange)
    assert (exchange.written, exchange.ended) == ([b"x"], False)


def test_a_dependency_lives_as_long_as_the_stream() -> None:
    log: list[str] = []
    app = FastAPI()

    async def session() -> AsyncIterator[str]:
        yield "session"
        log.append("closed")

    async def rows() -> AsyncIterator[bytes]:
        for number in range(2):
            await asyncio.sleep(0)
            log.append(str(number))
            yield b"x"

    @app.get("/")
    async def handler(value: Annotated[str, Depends(session)]) -> StreamingResponse:
        return StreamingResponse(rows(), background=BackgroundTask(log.append, "background"))

    assert made(app, FakeExchange()).answer() == (200, [], b"xx")
    assert log == ["0", "1", "background", "closed"]


def test_an_exception_handler_may_stream() -> None:
    app = FastAPI()

    @app.exception_handler(KeyError)
    async def answer(request: Request, error: KeyError) -> Response:
        return StreamingResponse([b"a", b"b"], 418)

    @app.get("/")
    async def handler() -> None:
        raise KeyError

    assert made(app, FakeExchange()).answer() == (418, [], b"ab")


# --- background


def test_background_tasks_run_behind_the_response() -> None:
    log: list[Any] = []
    app = FastAPI()

    async def later(number: int) -> None:
        log.append((number, exchange.ended))

    def in_thread(number: int, *, name: str) -> None:
        log.append((number, exchange.ended, threading.current_thread() is threading.main_thread(), name))

    async def dependency(background: BackgroundTasks) -> None:
        background.add_task(later, 1)

    @app.get("/")
    async def handler(background: BackgroundTasks, value: Annotated[None, Depends(dependency)]) -> dict[str, int]:
        background.add_task(in_thread, 2, name="x")
        return {"a": 1}

    exchange = FakeExchange()
    assert made(app, exchange).answer() == (200, [(b"content-type", b"application/json")], b'{"a":1}')
    assert log == [(1, True), (2, True, False, "x")]


def test_a_response_may_bring_its_own() -> None:
    log: list[str] = []
    app = FastAPI()

    @app.get("/")
    def handler(background: BackgroundTasks) -> Response:
        background.add_task(log.append, "the parameter's")
        return JSONResponse(1, background=BackgroundTask(log.append, "the response's"))

    assert made(app, FakeExchange()).answer()[2] == b"1"
    assert log == ["the response's"], "as in FastAPI"
    asyncio.run(BackgroundTasks([BackgroundTask(log.append, "by hand")])())
    assert log[1:] == ["by hand"]


# --- events


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (ServerSentEvent("a"), 'data: "a"\n\n'),
        (ServerSentEvent({"a": [1, "é"]}), 'data: {"a":[1,"é"]}\n\n'),
        (ServerSentEvent(raw_data="a\nb\r\nc\rd\n"), "data: a\ndata: b\ndata: c\ndata: d\ndata: \n\n"),
        (ServerSentEvent(raw_data=""), "data: \n\n"),
        (ServerSentEvent(raw_data="a\u2028b\x0bc"), "data: a\u2028b\x0bc\n\n"),
        (ServerSentEvent(comment="one\ntwo"), ": one\n: two\n\n"),
        (
            ServerSentEvent(1, event="tick", id="7", retry=500, comment="c"),
            ": c\nevent: tick\ndata: 1\nid: 7\nretry: 500\n\n",
        ),
        (ServerSentEvent(id=""), "id: \n\n"),
    ],
)
def test_events_are_framed(event: ServerSentEvent, text: str) -> None:
    assert event.encode() == text.encode()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"event": "a\nb"}, "an event's event is a single line"),
        ({"id": "a\rb"}, "an event's id is a single line"),
        ({"id": "a\0"}, "an event's id has no NUL"),
        ({"retry": -1}, "retry is a number of milliseconds"),
        ({"data": 1, "raw_data": "1"}, "an event has data or raw_data, not both"),
    ],
)
def test_fields_that_would_break_the_framing_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerSentEvent(**fields)


def test_an_event_stream() -> None:
    async def events() -> AsyncIterator[Any]:
        yield ServerSentEvent(raw_data="a")
        yield {"b": 1}
        yield b": framed already\n\n"

    exchange = sent(EventSourceResponse(events()))
    fields = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),
    ]
    assert exchange.answer() == (200, fields, b'data: a\n\ndata: {"b":1}\n\n: framed already\n\n')
    assert len(exchange.written) == 4, "each event by itself, and the end"


def test_a_quiet_event_stream_is_kept_alive() -> None:
    async def events() -> AsyncIterator[Any]:
        await asyncio.sleep(0.05)
        yield 1
        await asyncio.sleep(0.05)
        yield 2

    async def run() -> None:
        threads = ThreadPool(1)
        await EventSourceResponse(events(), ping=0.01).send(exchange, threads)  # type: ignore[arg-type]
        threads.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}, "the pinging task has ended with the stream"

    exchange = FakeExchange()
    asyncio.run(run())
    written = [piece for piece in exchange.written if piece != b": ping\n\n"]
    assert written == [b"data: 1\n\n", b"data: 2\n\n", b""]
    assert exchange.written[0] == b": ping\n\n"


# --- files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.txt"
    path.write_bytes(bytes(range(256)) * 4096)
    return path


def fields_of(exchange: FakeExchange) -> dict[str, str]:
    assert exchange.head is not None
    return {name.decode(): value.decode() for name, value in exchange.head[1]}


def test_a_file_has_the_fields_that_starlette_gives_it(file: Path) -> None:
    variants: list[dict[str, Any]] = [{}, {"filename": "näm e.txt"}, {"filename": "a.bin", "content_disposition_type": "inline"}]
    for arguments in variants:
        exchange = sent(FileResponse(file, **arguments))
        assert exchange.answer()[0] == 200
        assert exchange.answer()[2] == file.read_bytes()
        assert exchange.head is not None
        assert exchange.head[2] == file.stat().st_size
        theirs = dict(StarlettesFileResponse(file, stat_result=file.stat(), **arguments).headers)
        assert theirs.pop("content-length") == str(file.stat().st_size)
        assert fields_of(exchange) == theirs
    assert max(map(len, exchange.written)) <= 256 * 1024


def test_a_file_for_head_is_not_read(file: Path) -> None:
    exchange = sent(FileResponse(file), method="HEAD")
    assert exchange.head is not None
    assert exchange.head[2] == file.stat().st_size
    assert exchange.written == [b""]


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert sent(FileResponse(tmp_path / "empty")).answer()[2] == b""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("bytes=0-0", range(1)),
        ("bytes=2-5", range(2, 6)),
        ("bytes=5-", range(5, 10)),
        ("bytes=-3", range(7, 10)),
        ("bytes=-30", range(10)),
        ("BYTES = 9-99", range(9, 10)),
        ("bytes=10-", "unsatisfiable"),
        ("bytes=-0", "unsatisfiable"),
        ("bytes=5-2", None),
        ("bytes=-", None),
        ("bytes", None),
        ("lines=0-1", None),
        ("bytes=a-b", None),
        ("bytes=0-1,3-4", None),
        ("bytes=٣-", None),
    ],
)
def test_ranges(text: str, found: Any) -> None:
    assert parse_range(text, 10) == found


def test_a_range_of_a_file(file: Path) -> None:
    exchange = sent(FileResponse(file), headers=[(b"range", b"bytes=1000-600999")])
    size = file.stat().st_size
    assert exchange.answer()[0] == 206
    assert exchange.answer()[2] == file.read_bytes()[1000:601_000]
    assert fields_of(exchange)["content-range"] == f"bytes 1000-600999/{size}"
    exchange = sent(FileResponse(file), headers=[(b"range", b"bytes=9999999-")])
    assert exchange.answer() == (416, [(b"content-range", f"bytes */{size}".encode())], b"")


@pytest.mark.parametrize("fits", [False, True])
def test_a_range_of_another_version_gives_the_whole_file(file: Path, fits: bool) -> None:
    response = FileResponse(file, stat_result=file.stat())
    tag = response.headers["etag"] if fits else '"other"'
    exchange = sent(response, headers=[(b"range", b"bytes=0-0"), (b"if-range", tag.encode())])
    assert exchange.answer()[0] == (206 if fits else 200)


def test_what_is_not_a_file_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    holder = os.open(tmp_path / "fifo", os.O_RDWR)
    with contextlib.closing(os.fdopen(holder)):
        for name, message in (("", "is a directory"), ("none", "there is no file at"), ("fifo", "is not a regular file")):
            with pytest.raises(RuntimeError, match=message):
                sent(FileResponse(tmp_path / name))
