"""ASGI applications on the native side: scope, events, messages, and the task that a coroutine which never waits does not get."""

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

_native = pytest.importorskip("fasterapi._native")
if not hasattr(_native, "EdgeSide"):
    pytest.skip("built without the feature `testing`", allow_module_level=True)

from fasterapi import ClientDisconnected  # noqa: E402
from native_world import WINDOW, Upload, World, world  # noqa: E402

PIECE = bytes(range(256)) * 64  # 16 KiB
START = {"type": "http.response.start", "status": 200, "headers": [(b"X-Kind", b"asgi")]}

App = Callable[[Any, Any, Any], Awaitable[None]]


def asgi(app: App, **options: Any) -> Any:
    return _native.AsgiEndpoint(app, **options)


def start(status: Any = 200, headers: Any = (), **more: Any) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers, **more}


def body(data: Any = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send({"type": "http.response.body", "body": b"hello"})


def kinds(w: World, ident: int) -> list[str]:
    return [message[0] for message in w.seen.get(ident, [])]


def test_a_small_answer_is_one_record_and_needs_no_task() -> None:
    tasks: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await hello(scope, receive, send)
        tasks.extend(asyncio.all_tasks())

    with world({"x": asgi(app)}) as w:
        ident = w.ask("x")
        w.turn()
        assert w.seen[ident] == [("response", ident, 200, [(b"x-kind", b"asgi")], b"hello", 5, True)]
        assert tasks == []


def test_the_scope_has_everything() -> None:
    scopes: list[Any] = []
    state = {"pool": object()}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await hello(scope, receive, send)

    async def pathsend(cycle: Any, exchange: Any, path: str) -> None: ...

    endpoints = {
        "x": asgi(app, state=state, server=("0.0.0.0", 80), pathsend=pathsend),
        "root": asgi(app, root_path="/api", server=("/run/x", None)),
    }
    fields = [(b"accept", b"a"), (b"x", b"1"), (b"x", b"2")]
    with world(endpoints) as w:
        w.get("x", path="/a b/é", query=b"q=%20", headers=fields, client="[::1]:99", method="BREW", authority="example.org")
        w.get("root", path="/p", version=10)
        w.get("x")
        w.edge.send_request(99, route=0, raw_path=b"/bad-%ff", decoded_path=b"/bad-\xff")
        w.answer(99)
    first, second, third, fourth = scopes
    assert first == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "server": ("0.0.0.0", 80),
        "client": ("::1", 99),
        "scheme": "http",
        "method": "BREW",
        "root_path": "",
        "path": "/a b/é",
        "raw_path": "/a b/é".encode(),
        "query_string": b"q=%20",
        "headers": fields,
        "state": state,
        "extensions": {"http.response.trailers": {}, "http.response.early_hint": {}, "http.response.pathsend": {}},
    }
    assert (second["http_version"], second["server"], second["client"]) == ("1.0", ("/run/x", None), None)
    assert (second["root_path"], second["path"], second["raw_path"]) == ("/api", "/api/p", b"/api/p")
    assert "state" not in second
    assert sorted(second["extensions"]) == ["http.response.early_hint", "http.response.trailers"]
    assert first["state"] is not third["state"] is not state
    assert first["state"]["pool"] is third["state"]["pool"]
    assert first["extensions"] is not third["extensions"]
    assert (fourth["path"], fourth["raw_path"]) == ("/bad-\ufffd", b"/bad-%ff")


def test_each_session_is_described_as_it_is_and_to_each_request_anew() -> None:
    found: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(scope["extensions"].get("tls"))
        await hello(scope, receive, send)

    one, two = b"\x30\x03\x01\x02\x03", b"\x30\x81\x80" + bytes(128)
    anna = (0x0304, 0x1301, ("CN=anna", "CN=ca", one + two))
    sessions = [None, anna, anna, (0x0304, 0x1301, ("CN=bert", "CN=ca", two)), anna, (0x0303, 0xC02B, None)]
    with world({"x": asgi(app)}) as w:
        for session in sessions:
            assert w.get("x", tls=session) == (200, b"hello")
    assert [tls and tls["client_cert_name"] for tls in found] == [None, "CN=anna", "CN=anna", "CN=bert", "CN=anna", None]
    assert found[1] == found[2] == found[4]
    assert found[1] is not found[2]
    assert found[1]["client_cert_chain"] == [ssl.DER_cert_to_PEM_cert(one), ssl.DER_cert_to_PEM_cert(two)]
    assert found[5] == {
        "server_cert": None,
        "client_cert_chain": [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": 0x0303,
        "cipher_suite": 0xC02B,
    }


@pytest.mark.parametrize("data", [b"", b"abc"])
def test_a_body_that_is_there_is_one_event(data: bytes) -> None:
    events: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        events.append(await receive())
        await hello(scope, receive, send)
        events.append(await receive())
        events.append(await receive())

    with world({"x": asgi(app)}) as w:
        w.get("x", body=data)
    disconnect = {"type": "http.disconnect"}
    assert events == [{"type": "http.request", "body": data, "more_body": False}, disconnect, disconnect]


def test_a_body_in_pieces_says_which_is_the_last() -> None:
    events: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while not events or events[-1]["more_body"]:
            events.append(await receive())
        await hello(scope, receive, send)

    with world({"x": asgi(app)}) as w:
        ident = w.ask("x", body=b"one", end=False)
        w.turn()
        w.edge.send_body(ident, b"two", end=True)
        w.answer(ident)
        assert [(event["body"], event["more_body"]) for event in events] == [(b"one", True), (b"two", False)]
        events.clear()
        ident = w.ask("x", body=b"one", end=False)
        w.turn()
        w.edge.send_body(ident, b"", end=True)
        w.answer(ident)
        assert [(event["body"], event["more_body"]) for event in events] == [(b"one", True), (b"", False)]


def test_bodies_of_any_size_pass_both_ways_with_their_credit() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        more = True
        while more:
            event = await receive()
            more = event["more_body"]
            await send(body(event["body"], more))

    data = PIECE * 80
    with world({"x": asgi(app)}) as w:
        upload = Upload(w, w.ask("x", end=False))
        upload.all(data, end=True)
        assert w.answer(upload.ident) == (200, data)
        assert w.seen[upload.ident][0][5] is None


def test_a_client_that_does_not_read_stops_the_application_in_its_send() -> None:
    sent = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send(START)
        for _ in range(200):
            await send(body(PIECE, more=True))
            sent += len(PIECE)
        await send(body())

    with world({"x": asgi(app), "other": asgi(hello)}) as w:
        ident = w.ask("x")
        for _ in range(10):
            w.turn(credit=False)
        assert len(w.bodies[ident]) == WINDOW
        assert sent <= WINDOW + 64 * 1024 + len(PIECE)
        assert w.get("other") == (200, b"hello")
        w.edge.send_credit(ident, WINDOW)
        assert w.answer(ident) == (200, PIECE * 200)


def test_the_start_waits_for_the_body() -> None:
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await go.wait()
        await send(body(b"a", more=True))
        await go.wait()
        await send(body())

    with world({"x": asgi(app)}) as w:
        ident = w.ask("x")
        for _ in range(3):
            w.turn()
        assert kinds(w, ident) == []
        go.set()
        assert w.answer(ident) == (200, b"a")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_length_that_the_application_names(method: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(headers=[[b"Content-Length", b"6"]]))
        await send(body(b"abc", more=True))
        await send(body(b"def"))

    with world({"x": asgi(app)}) as w:
        ident = w.ask("x", method=method)
        assert w.answer(ident) == (200, b"abcdef" if method == "GET" else b"")
        assert w.seen[ident][0][5] == 6
        assert w.seen[ident][0][3] == [(b"content-length", b"6")]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"a", b"1"), [b"B", b"2"]],
        ((b"a", b"1"), (b"b", b"2")),
        iter([iter([b"a", b"1"]), (b"b", b"2")]),
        {b"a": b"1", b"B": b"2"}.items(),
    ],
    ids=["list", "tuple", "iterators", "view"],
)
def test_headers_may_come_in_any_iterable(headers: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(headers=headers))
        await send(body())

    with world({"x": asgi(app)}) as w:
        ident = w.ask("x")
        w.answer(ident)
        assert w.seen[ident][0][3] == [(b"a", b"1"), (b"b", b"2")]


@pytest.mark.parametrize("data", [b"x", bytearray(b"x"), memoryview(b"x")])
def test_bodies_may_be_any_bytes(data: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 201})
        await send(body(data))

    with world({"x": asgi(app)}) as w:
        assert w.get("x") == (201, b"x")


def test_work_behind_the_response_goes_on() -> None:
    log: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await hello(scope, receive, send)
        log.append("answered")
        await asyncio.sleep(0.01)
        log.append("worked")

    with world({"x": asgi(app)}) as w:
        assert w.get("x") == (200, b"hello")
        assert (log, w.lanes.in_flight(), w.lanes.tasks()) == (["answered"], 0, 1)
    assert log == ["answered", "worked"]


@pytest.mark.parametrize("why", ["gone", "deadline", "leaving"])
@pytest.mark.parametrize("state", ["receiving", "behind the body", "sending", "sleeping"])
def test_of_a_disconnect_the_application_is_told(state: str, why: str) -> None:
    log: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            if state == "behind the body":
                assert (await receive())["type"] == "http.request"
            if state in ("receiving", "behind the body"):
                log.append((await receive())["type"])
            elif state == "sending":
                await send(START)
                with contextlib.suppress(ClientDisconnected):
                    while True:
                        await send(body(PIECE, more=True))
                log.append("OSError")
            else:
                await gate.wait()
                log.append("went on")
            with pytest.raises(OSError, match="the client went away"):
                await send(START)
            assert await receive() == {"type": "http.disconnect"}
        except asyncio.CancelledError:
            log.append("cancelled")
            raise

    gate = asyncio.Event()
    with world({"x": asgi(app)}) as w:
        ident = w.ask("x", end=state != "receiving")
        for _ in range(5):
            w.turn(credit=False)
        w.edge.send_cancel(ident, why)
        w.turn(credit=False)
        assert kinds(w, ident)[-1] == "abort"
        assert w.lanes.in_flight() == 0
        w.turn()
        gate.set()
        w.until(lambda: w.lanes.tasks() == 0)
        told = {"receiving": "http.disconnect", "behind the body": "http.disconnect", "sending": "OSError", "sleeping": "went on"}
        assert log == ["cancelled" if why == "deadline" else told[state]]
        assert w.failures == []


def test_what_is_raised_because_of_a_disconnect_is_no_mistake() -> None:
    class FrameworksOwn(Exception):
        pass

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()
        try:
            await send(START)
        except OSError:
            raise FrameworksOwn from None

    with world({"x": asgi(app)}) as w:
        ident = w.ask("x")
        w.turn()
        w.edge.send_cancel(ident)
        w.until(lambda: w.lanes.tasks() == 0)
        assert w.failures == []


def mistakes() -> dict[str, tuple[list[Any], int, str]]:
    """The messages, the status that comes of them (0: aborted), what is reported."""
    length = start(headers=[(b"content-length", b"3")])
    expected_start = "Expected ASGI message 'http.response.start', but got '{}'."
    expected_body = "Expected ASGI message 'http.response.body', but got '{}'."
    return {
        "nothing": ([], 500, "ASGI callable returned without starting response."),
        "start alone": ([START], 500, "ASGI callable returned without completing response."),
        "no end": ([START, body(b"a", more=True)], 0, "ASGI callable returned without completing response."),
        "body first": ([body()], 500, expected_start.format("http.response.body")),
        "two starts": ([START, START], 500, expected_body.format("http.response.start")),
        "start in the body": ([START, body(b"a", more=True), START], 0, expected_body.format("http.response.start")),
        "unknown": ([{"type": "http.dance"}], 500, expected_start.format("http.dance")),
        "no pathsend": ([START, {"type": "http.response.pathsend", "path": "/x"}], 500, "but got 'http.response.pathsend'"),
        "no type": ([{}], 500, "type"),
        "no status": ([{"type": "http.response.start"}], 500, "status"),
        "type": ([{"type": 1}], 500, "a type is a str"),
        "not a dict": ([["type"]], 500, "an ASGI message is a dict, not list"),
        "text status": ([start("200")], 500, "a status is an int, not str"),
        "interim status": ([start(103)], 500, "103 is not the status of a final response"),
        "high status": ([start(600)], 500, "600 is not the status of a final response"),
        "text header": ([start(headers=[("a", "b")])], 500, "a header is a pair of byte strings"),
        "three": ([start(headers=[(b"a", b"b", b"c")])], 500, "a header is a pair of byte strings"),
        "split": ([start(headers=[(b"a", b"b\r\nc: d")])], 500, "a header value contains a line break or NUL"),
        "no headers": ([start(headers=1)], 500, "not iterable"),
        "bad length": ([start(headers=[(b"content-length", b"x")])], 500, 'content-length is no length: "x"'),
        "text body": ([START, body("text")], 500, "a body is bytes, bytearray or memoryview, not str"),
        "longer": ([length, body(b"abcd")], 500, "longer than its content-length, 3"),
        "shorter": ([length, body(b"ab")], 500, "ends after 2 bytes, short of its content-length, 3"),
        "longer in pieces": ([length, body(b"ab", more=True), body(b"cd")], 0, "longer than its content-length, 3"),
    }


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("name", mistakes())
def test_mistakes_are_reported_and_end_the_exchange(name: str, later: bool) -> None:
    messages, status, text = mistakes()[name]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if later:
            await asyncio.sleep(0)
        for message in messages:
            sending = send(message)  # What is wrong is raised by `await`, as by a coroutine.
            await sending

    with world({"x": asgi(app)}) as w:
        got, _ = w.get("x")
        assert got == status
        (error,) = w.failures
        assert text in str(error)
        assert (error.__traceback__ is None) == text.startswith("ASGI callable")


@pytest.mark.parametrize("what", [ValueError("x"), SystemExit("x"), KeyboardInterrupt("x"), asyncio.CancelledError("x")])
@pytest.mark.parametrize("where", ["call", "first", "later", "held", "body", "end"])
def test_whatever_is_raised_ends_the_exchange_and_not_the_worker(what: BaseException, where: str) -> None:
    def call(scope: Any, receive: Any, send: Any) -> Any:
        if where == "call":
            raise what
        return run(send)

    async def run(send: Any) -> None:
        if where == "later":
            await asyncio.sleep(0)
        if where in ("held", "body", "end"):
            await send(START)
        if where in ("body", "end"):
            await send(body(b"a", more=where == "body"))
        raise what

    with world({"x": asgi(call)}) as w:
        status, got = w.get("x")
        assert status == {"body": 0, "end": 200}.get(where, 500)
        assert got == b"a" if where == "end" else got != b"a"
        assert w.failures == [what]


def test_results_and_messages_behind_the_end_are_reported_alone() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> Any:
        await hello(scope, receive, send)
        if scope["path"] == "/result":
            return 5
        await send(body())
        return None

    with world({"x": asgi(app)}) as w:
        assert w.get("x", path="/result") == (200, b"hello")
        assert w.get("x", path="/body") == (200, b"hello")
        assert [str(error) for error in w.failures] == [
            "ASGI callable should return None, but returned '5'.",
            "Unexpected ASGI message 'http.response.body' sent, after response already completed.",
        ]


def test_a_refused_message_can_be_made_good() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(TypeError):
            await send(start("200"))
        await send(START)
        with pytest.raises(RuntimeError):
            await send(START)
        with pytest.raises(TypeError):
            await send(body("text"))
        await send(body(b"fine"))

    with world({"x": asgi(app)}) as w:
        assert w.get("x") == (200, b"fine")
        assert w.failures == []


def test_awaitables_pass_for_coroutines() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        event = await asyncio.create_task(receive())
        assert event["type"] == "http.request"
        waiting = asyncio.create_task(receive())
        await asyncio.gather(send(START), asyncio.sleep(0))
        await asyncio.wait_for(send(body(b"x")), 1)
        assert await waiting == {"type": "http.disconnect"}

    with world({"x": asgi(app)}) as w:
        assert w.get("x") == (200, b"x")


def test_files_are_left_to_python() -> None:
    async def pathsend(cycle: Any, exchange: Any, path: str) -> None:
        await asyncio.sleep(0)
        assert not exchange.started
        cycle.begin(4)
        await exchange.write(path.encode()[:4], end=True)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)
        await send({"type": "http.response.pathsend", "path": "/file"})

    with world({"x": asgi(app, pathsend=pathsend)}) as w:
        ident = w.ask("x")
        assert w.answer(ident) == (200, b"/fil")
        assert w.seen[ident][0][5] == 4


def test_early_hints_go_ahead_of_the_response() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.early_hint", "links": [b"</a>; rel=preload", b"</b>"]})
        await asyncio.sleep(0)
        await send({"type": "http.response.early_hint", "links": ()})
        await hello(scope, receive, send)

    with world({"x": asgi(app)}) as w:
        ident = w.ask("x")
        w.turn()
        links = [(b"link", b"</a>; rel=preload"), (b"link", b"</b>")]
        assert [message[:4] for message in w.seen[ident]] == [("informational", ident, 103, links)]
        assert w.answer(ident) == (200, b"hello")
        assert kinds(w, ident) == ["informational", "informational", "response"]


@pytest.mark.parametrize("pieces", [[b""], [b"abc"], [b"abc", b"def"], [PIECE] * 40])
@pytest.mark.parametrize("later", [False, True])
def test_trailers_end_the_body(pieces: list[bytes], later: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(trailers=True))
        for place, piece in enumerate(pieces):
            if later:
                await asyncio.sleep(0)
            await send(body(piece, more=place < len(pieces) - 1))
        await send({"type": "http.response.trailers", "headers": [(b"X-Sum", b"1")], "more_trailers": True})
        await send({"type": "http.response.trailers", "headers": [[b"x-more", b"2"]]})

    with world({"x": asgi(app)}) as w:
        ident = w.ask("x")
        w.until(lambda: "trailers" in kinds(w, ident))
        assert bytes(w.bodies[ident]) == b"".join(pieces)
        assert w.seen[ident][-1][3] == [(b"x-sum", b"1"), (b"x-more", b"2")]
        assert w.seen[ident][0][6] is False
        assert kinds(w, ident)[1:-1] == ["body"] * (len(kinds(w, ident)) - 2)
        assert w.lanes.in_flight() == 0


def test_trailers_that_were_announced_have_to_come() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(start(trailers=True))
        await send(body(b"a"))
        if scope["path"] == "/body":
            await send(body(b"b"))
        if scope["path"] == "/wrong":
            await send({"type": "http.response.trailers", "headers": [(b"a b", b"")]})

    async def early(scope: Any, receive: Any, send: Any) -> None:
        await send(start())
        await send({"type": "http.response.trailers", "headers": []})

    with world({"x": asgi(app), "early": asgi(early)}) as w:
        assert [w.get("x", path=path)[0] for path in ("/", "/body", "/wrong")] == [0, 0, 0]
        assert w.get("early")[0] == 500
        assert [str(error) for error in w.failures] == [
            "ASGI callable returned without completing response.",
            "Expected ASGI message 'http.response.trailers', but got 'http.response.body'.",
            "a header name is not a token",
            "Expected ASGI message 'http.response.body', but got 'http.response.trailers'.",
        ]
