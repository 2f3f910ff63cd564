"""WebSockets on the native side: ASGI's scope, events and messages, the plainer native interface, credit, and every end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

_native = pytest.importorskip("fasterapi._native")
if not hasattr(_native, "EdgeSide"):
    pytest.skip("built without the feature `testing`", allow_module_level=True)

from fasterapi import ClientDisconnected  # noqa: E402
from native_world import WINDOW, World, world  # noqa: E402

ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close"}
OFFER = [(b"sec-websocket-protocol", b"a, b"), (b"sec-websocket-protocol", b"c")]

App = Callable[[Any, Any, Any], Awaitable[None]]


def asgi(app: App, **options: Any) -> Any:
    return _native.AsgiEndpoint(app, **options)


def native(function: Callable[[Any], Awaitable[None]]) -> Any:
    async def slow(exchange: Any) -> None:
        await function(_native.SocketCycle(exchange))

    return _native.Endpoint(slow, body="messages")


def opened(w: World, name: str = "x", **fields: Any) -> int:
    ident = w.ask(name, websocket=True, **fields)
    w.until(lambda: ident in w.seen)
    return ident


def said(w: World, ident: int) -> list[Any]:
    """What was said of an exchange since the 101: messages as str or bytes, the close as (code, reason)."""
    made: list[Any] = []
    open_message = b""
    for kind, _, *rest in w.seen.get(ident, []):
        if kind == "message":
            data, text, more = rest
            open_message += data
            if not more:
                made.append(open_message.decode() if text else open_message)
                open_message = b""
        elif kind == "close":
            made.append((rest[0], rest[1].decode()))
        elif kind == "abort":
            made.append("abort")
    return made


async def echo(scope: Any, receive: Any, send: Any) -> None:
    assert (await receive())["type"] == "websocket.connect"
    await send(ACCEPT)
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", **{key: event[key] for key in ("text", "bytes") if key in event}})


def test_messages_pass_both_ways_and_keep_their_kind() -> None:
    with world({"x": asgi(echo)}) as w:
        ident = opened(w)
        assert w.seen[ident] == [("response", ident, 101, [], b"", None, False)]
        w.edge.send_message(ident, "grüße".encode(), text=True)
        w.edge.send_message(ident, b"\x00\xff")
        w.edge.send_message(ident, b"", text=True)
        w.edge.send_message(ident, b"in ", text=True, more=True)
        w.edge.send_message(ident, b"pieces", text=True)
        w.until(lambda: len(said(w, ident)) == 4)
        assert said(w, ident) == ["grüße", b"\x00\xff", "", "in pieces"]
        w.edge.send_close(ident, 1000)
        w.answer(ident)
        assert said(w, ident)[4:] == ["abort"], "the client has closed already"


def test_the_scope_is_that_of_a_websocket() -> None:
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await send(CLOSE)

    with world({"x": asgi(app, state={"a": 1}, root_path="/r", server=("h", 80))}) as w:
        fields = {"path": "/p", "query": b"q=1", "headers": OFFER, "client": "127.0.0.1:9", "websocket": True}
        assert w.get("x", **fields) == (403, b"")
    assert scopes == [
        {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.5"},
            "http_version": "1.1",
            "server": ("h", 80),
            "client": ("127.0.0.1", 9),
            "scheme": "ws",
            "root_path": "/r",
            "path": "/r/p",
            "raw_path": b"/r/p",
            "query_string": b"q=1",
            "headers": OFFER,
            "subprotocols": ["a", "b", "c"],
            "state": {"a": 1},
            "extensions": {"websocket.http.response": {}},
        }
    ]


def test_the_application_accepts_with_a_subprotocol_and_fields_and_closes_with_a_code() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**ACCEPT, "subprotocol": "b", "headers": [(b"X-Own", b"1")]})
        await send({**CLOSE, "code": 4001, "reason": "enough"})

    with world({"x": asgi(app)}) as w:
        ident = w.ask("x", websocket=True, headers=OFFER)
        w.answer(ident)
        assert w.seen[ident][0][2:4] == (101, [(b"sec-websocket-protocol", b"b"), (b"x-own", b"1")])
        assert said(w, ident) == [(4001, "enough")]


def test_a_denial_is_a_response_of_the_applications_own() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 401, "headers": [(b"a", b"b")]})
        await send({"type": "websocket.http.response.body", "body": b"not ", "more_body": True})
        await send({"type": "websocket.http.response.body", "body": b"you"})

    with world({"x": asgi(app)}) as w:
        assert w.get("x", websocket=True) == (401, b"not you")


def test_a_request_that_is_none_for_a_websocket_is_served_as_ever() -> None:
    async def slow(exchange: Any) -> Any:
        return 200, [], exchange.scheme.encode()

    with world({"x": _native.Endpoint(slow)}) as w:
        assert w.get("x", websocket=True) == (200, b"http")


@pytest.mark.parametrize("why", ["gone", "leaving"])
def test_a_client_that_is_lost_is_heard_of_behind_its_messages_and_its_handler_lives_on(why: str) -> None:
    events: list[Any] = []
    wrong: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await asyncio.sleep(0.01)
        events.extend([await receive(), await receive(), await receive()])
        for _ in range(2):
            try:
                await send({"type": "websocket.send", "text": "?"})
            except ClientDisconnected as error:
                wrong.append(error)

    with world({"x": asgi(app)}) as w:
        ident = opened(w)
        w.edge.send_message(ident, b"last", text=True)
        w.edge.send_cancel(ident, why)
        assert w.answer(ident) == (0, b"")
        assert w.failures == []
    end = {"type": "websocket.disconnect", "code": 1006 if why == "gone" else 1012, "reason": ""}
    assert events == [{"type": "websocket.receive", "text": "last"}, end, end]
    assert len(wrong) == 2


def test_the_clients_close_names_its_code_and_reason() -> None:
    events: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        events.append(await receive())
        await send(CLOSE)  # As many applications do, in a `finally`.

    with world({"x": asgi(app)}) as w:
        ident = opened(w)
        w.edge.send_close(ident, 4002, "grüße".encode())
        w.answer(ident)
    assert events == [{"type": "websocket.disconnect", "code": 4002, "reason": "grüße"}]


def test_behind_a_close_of_its_own_the_application_hears_that_it_was_one() -> None:
    events: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await send({**CLOSE, "code": 4003, "reason": "mine"})
        events.append(await receive())

    with world({"x": asgi(app)}) as w:
        w.answer(w.ask("x", websocket=True))
    assert events == [{"type": "websocket.disconnect", "code": 4003, "reason": "mine"}]


def test_a_handler_that_raises_what_a_lost_client_raised_is_not_reported() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await receive()
        await send({"type": "websocket.send", "text": "too late"})

    with world({"x": asgi(app)}) as w:
        ident = opened(w)
        w.edge.send_close(ident, 1001)
        w.answer(ident)
        assert (said(w, ident), w.failures) == (["abort"], [])


def test_what_returns_without_a_close_closes_with_1000_and_what_raises_is_aborted() -> None:
    async def returns(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await send({"type": "websocket.send", "text": "hello"})

    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        raise LookupError("oops")

    async def fails_early(scope: Any, receive: Any, send: Any) -> None:
        raise LookupError("oops")

    async def says_nothing(scope: Any, receive: Any, send: Any) -> None: ...

    async def gives_up(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 401})

    endpoints = {name: asgi(app) for name, app in locals().items()}
    with world(endpoints) as w:
        ident = w.ask("returns", websocket=True)
        w.answer(ident)
        assert said(w, ident) == ["hello", (1000, "")]
        assert w.get("fails", websocket=True) == (0, b"")
        assert w.get("fails_early", websocket=True)[0] == 500
        assert w.get("says_nothing", websocket=True)[0] == 500
        assert w.get("gives_up", websocket=True)[0] == 500
        assert [str(failure) for failure in w.failures] == [
            "oops",
            "oops",
            "ASGI callable returned without completing handshake.",
            "ASGI callable returned without completing response.",
        ]


@pytest.mark.parametrize(
    ("messages", "error", "text"),
    [
        ([{"type": "websocket.send", "text": "early"}], RuntimeError, "Expected ASGI message 'websocket.accept'"),
        ([ACCEPT, ACCEPT], RuntimeError, "Expected ASGI message 'websocket.send' or 'websocket.close'"),
        ([ACCEPT, {"type": "http.response.start", "status": 200}], RuntimeError, "Expected ASGI message"),
        ([ACCEPT, CLOSE, {"type": "websocket.send", "text": "late"}], RuntimeError, "after sending 'websocket.close'"),
        ([CLOSE, ACCEPT], RuntimeError, "response already completed"),
        ([ACCEPT, {"type": "websocket.send"}], ValueError, "bytes or text"),
        ([ACCEPT, {"type": "websocket.send", "bytes": 7}], TypeError, ""),
        ([ACCEPT, {"type": "websocket.send", "text": "\ud800"}], UnicodeEncodeError, ""),
        ([ACCEPT, {**CLOSE, "code": 1006}], ValueError, "1006"),
        ([ACCEPT, {**CLOSE, "reason": "x" * 124}], ValueError, "123"),
        ([{**ACCEPT, "subprotocol": "d"}], ValueError, "does not offer"),
        ([{**ACCEPT, "headers": [(b"a", b"b\r\nc: d")]}], ValueError, "line break"),
        (["websocket.accept"], TypeError, "dict"),
        ([{}], KeyError, "type"),
    ],
)
def test_mistakes_of_the_application_are_raised_where_it_makes_them(messages: list[Any], error: Any, text: str) -> None:
    raised: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            for message in messages:
                await send(message)
        except Exception as found:
            raised.append(found)
            if len(messages) == 1:
                await send(CLOSE)

    with world({"x": asgi(app)}) as w:
        w.answer(w.ask("x", websocket=True, headers=OFFER))
    assert len(raised) == 1
    assert isinstance(raised[0], error)
    assert text in str(raised[0])


def test_a_large_message_goes_in_pieces_within_its_credit_and_the_application_waits() -> None:
    sent: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        for _ in range(5):
            await send({"type": "websocket.send", "bytes": bytes(200_000)})
            sent.append(1)
        await send(CLOSE)

    with world({"x": asgi(app)}) as w:
        ident = w.ask("x", websocket=True)
        for _ in range(20):
            w.turn()
        pieces = [message for message in w.seen[ident] if message[0] == "message"]
        assert sum(len(piece[2]) for piece in pieces) == WINDOW
        assert all(len(piece[2]) <= 64 * 1024 for piece in pieces)
        assert len(sent) < 4
        w.edge.send_credit(ident, WINDOW)
        w.edge.send_credit(ident, WINDOW)
        w.edge.send_credit(ident, WINDOW)
        w.edge.send_credit(ident, WINDOW)
        w.answer(ident)
        assert said(w, ident) == [bytes(200_000)] * 5 + [(1000, "")]


def test_credit_comes_back_as_messages_are_taken_and_at_once_for_one_that_is_arriving() -> None:
    go = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send(ACCEPT)
        await go.wait()
        while (event := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": str(len(event["bytes"]))})

    def granted(w: World, ident: int) -> int:
        return sum(message[2] for message in w.seen[ident] if message[0] == "credit")

    with world({"x": asgi(app)}) as w:
        ident = opened(w)
        piece = bytes(64 * 1024)
        for _ in range(4):
            w.edge.send_message(ident, piece, more=True)
        w.turn()
        assert granted(w, ident) == WINDOW, "nothing else waits: the application could take no less"
        w.edge.send_message(ident, piece)
        for _ in range(3):
            w.edge.send_message(ident, piece, more=True)
        for _ in range(5):
            w.turn()
        assert granted(w, ident) == WINDOW, "a whole message waits"
        w.loop.call_soon(go.set)
        w.until(lambda: granted(w, ident) == 2 * WINDOW)
        assert said(w, ident) == [str(5 * len(piece))]
        w.edge.send_close(ident, 1000)
        w.answer(ident)


def test_the_native_interface_gives_messages_as_they_are() -> None:
    got: list[Any] = []

    async def handler(socket: Any) -> None:
        assert socket.subprotocols == ["a", "b", "c"]
        with pytest.raises(RuntimeError, match="not accepted"):
            socket.send_message("early")
        socket.accept("a", [(b"x", b"y")])
        with pytest.raises(RuntimeError, match="already"):
            socket.accept()
        got.extend([await socket.next_message(), await socket.next_message()])
        await socket.send_message("text")
        await socket.send_message(memoryview(b"bytes"))
        got.extend([await socket.next_message(), await socket.next_message()])
        with pytest.raises(ClientDisconnected):
            socket.send_message("late")
        socket.close()

    with world({"x": native(handler)}) as w:
        ident = opened(w, headers=OFFER)
        w.edge.send_message(ident, b"one", text=True)
        w.edge.send_message(ident, b"two")
        w.until(lambda: len(said(w, ident)) == 2)
        assert said(w, ident) == ["text", b"bytes"]
        w.edge.send_close(ident, 1001, b"bye")
        w.answer(ident)
    assert got == ["one", b"two", (1001, "bye"), (1001, "bye")]


def test_a_native_handler_that_does_not_accept_denies_or_is_told() -> None:
    async def denies(socket: Any) -> None:
        socket.close()

    async def forgets(socket: Any) -> None: ...

    with world({"denies": native(denies), "forgets": native(forgets)}) as w:
        assert w.get("denies", websocket=True) == (403, b"")
        assert w.get("forgets", websocket=True)[0] == 500
        assert "without having accepted" in str(w.failures)


def test_a_client_that_closes_ends_a_wait_for_room() -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        try:
            while True:
                await send({"type": "websocket.send", "bytes": bytes(200_000)})
        except ClientDisconnected:
            ended.append("told")

    with world({"x": asgi(app)}) as w:
        ident = opened(w)
        for _ in range(5):
            w.turn()
        w.edge.send_close(ident, 1000)
        w.answer(ident)
    assert ended == ["told"]


def test_a_task_that_is_cancelled_while_it_waits_for_a_message_loses_none() -> None:
    async def handler(socket: Any) -> None:
        socket.accept()
        task = asyncio.ensure_future(socket.next_message())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        await socket.send_message("ready")
        await socket.send_message(await socket.next_message())

    with world({"x": native(handler)}) as w:
        ident = opened(w)
        w.until(lambda: said(w, ident) == ["ready"])
        w.edge.send_message(ident, b"kept", text=True)
        w.answer(ident)
        assert said(w, ident) == ["ready", "kept", (1000, "")]
