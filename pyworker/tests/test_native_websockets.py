"""`@app.websocket` on the native side: parameters, dependencies, the class's methods, and every way in which a handler ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import pytest

_native = pytest.importorskip("fasterapi._native")
if not hasattr(_native, "EdgeSide"):
    pytest.skip("built without the feature `testing`", allow_module_level=True)

from fasterapi import (  # noqa: E402
    APIRouter,
    BackgroundTasks,
    Depends,
    FastAPI,
    Header,
    HTTPConnection,
    HTTPException,
    JSONResponse,
    Query,
    Request,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
)
from fasterapi._application import FastAPIApplication  # noqa: E402
from fasterapi._manifest import build, describe_apps  # noqa: E402
from fasterapi.websockets import WebSocketState  # noqa: E402
from native_world import World, world  # noqa: E402
from test_native_sockets import said  # noqa: E402


@contextlib.contextmanager
def serving(app: FastAPI) -> Iterator[World]:
    made = FastAPIApplication(app)
    names = [route.path for route in app.routes]
    try:
        with world(dict(zip(names, made.endpoints(), strict=True)), deliver=made.deliver) as w:
            yield w
    finally:
        made.close()


def opened(w: World, path: str, *params: bytes, **fields: Any) -> int:
    ident = w.ask(path, *params, websocket=True, **{"path": path, **fields})
    w.until(lambda: ident in w.seen)
    return ident


def session(app: FastAPI, *messages: str | bytes, code: int = 1000, **fields: Any) -> list[Any]:
    """What is said in a session in which the client sends these and closes."""
    (route,) = app.routes
    with serving(app) as w:
        ident = opened(w, route.path, **fields)
        for message in messages:
            text = isinstance(message, str)
            w.edge.send_message(ident, message.encode() if isinstance(message, str) else message, text=text)
        for _ in range(2 * len(messages) + 2):
            w.turn()  # A client that has closed is sent nothing any more.
        w.edge.send_close(ident, code, b"bye")
        w.answer(ident)
        assert w.failures == []
        return said(w, ident)


def test_text_bytes_and_json_in_both_directions() -> None:
    app, ends = FastAPI(), []

    @app.websocket("/x")
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(await websocket.receive_text())
        await websocket.send_bytes(await websocket.receive_bytes())
        await websocket.send_json({"got": await websocket.receive_json()})
        await websocket.send_json([await websocket.receive_json("binary")], mode="binary")
        assert (await websocket.receive())["text"] == "raw"
        with pytest.raises(TypeError):
            await websocket.receive_text()
        with pytest.raises(WebSocketDisconnect) as caught:
            await websocket.receive_bytes()
        ends.append((caught.value.code, caught.value.reason, websocket.client_state))
        with pytest.raises(RuntimeError, match="disconnected"):
            await websocket.receive()
        with pytest.raises(WebSocketDisconnect):
            await websocket.send_text("late")

    heard = session(app, "grüße", b"\xff", '{"a": 1}', b"2", "raw", b"not text", code=4000)
    assert heard == ["grüße", b"\xff", '{"got":{"a":1}}', b"[2]", "abort"]
    assert ends == [(4000, "bye", WebSocketState.DISCONNECTED)]


def test_iterations_end_with_the_clients_close() -> None:
    app, seen = FastAPI(), []

    @app.websocket("/x")
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        async for value in websocket.iter_json():
            seen.append(value)
        seen.append("end")

    session(app, "1", '"two"')
    assert seen == [1, "two", "end"]


def test_a_disconnect_that_nobody_catches_is_no_failure() -> None:
    app = FastAPI()

    @app.websocket("/x")
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            await websocket.receive_text()

    assert session(app, "a", "b") == ["abort"]


def test_parameters_and_dependencies_are_those_of_requests() -> None:
    app, seen = FastAPI(), []

    async def token(connection: HTTPConnection, x_token: Annotated[str, Header()]) -> AsyncIterator[str]:
        seen.append(("enter", connection.url.scheme))
        yield x_token
        seen.append(("leave", ""))

    def limit(websocket: WebSocket, limit: Annotated[int, Query(gt=0)] = 7) -> int:
        return limit

    router = APIRouter(prefix="/room")

    @router.websocket("/{room}")
    async def handler(
        room: int, websocket: WebSocket, token: Annotated[str, Depends(token)], limit: Annotated[int, Depends(limit)]
    ) -> None:
        assert websocket.path_params == {"room": "5"}
        assert websocket.subprotocols == ["chat"]
        await websocket.accept("chat", headers={"x-room": str(room)})
        await websocket.send_json([room, token, limit, websocket.query_params["q"], websocket.cookies["c"]])
        await websocket.close(4001, "done")
        await websocket.close()
        with pytest.raises(RuntimeError, match="closed"):
            await websocket.send_text("late")

    app.include_router(router)
    with serving(app) as w:
        fields = [(b"x-token", b"t"), (b"sec-websocket-protocol", b"chat"), (b"cookie", b"c=1")]
        ident = opened(w, "/room/{room}", b"5", query=b"q=1", headers=fields)
        w.answer(ident)
        assert w.seen[ident][0][2:4] == (101, [(b"sec-websocket-protocol", b"chat"), (b"x-room", b"5")])
        assert said(w, ident) == ['[5,"t",7,"1","1"]', (4001, "done")]
        assert seen == [("enter", "ws"), ("leave", "")]
        # What does not fit is denied: RFC 6455 has no other word before the handshake.
        for params, query in ((b"five", b"q=1"), (b"5", b"limit=0")):
            denied = opened(w, "/room/{room}", params, query=query, headers=fields)
            assert w.answer(denied) == (403, b"")
        assert w.failures == []


async def denies(websocket: WebSocket) -> None:
    await websocket.close(1008)


async def denies_with_a_response(websocket: WebSocket) -> None:
    await websocket.send_denial_response(JSONResponse({"why": "no"}, 401))


async def raises_http(websocket: WebSocket) -> None:
    raise HTTPException(402)


async def raises_websocket(websocket: WebSocket) -> None:
    raise WebSocketException(1008, "no")


@pytest.mark.parametrize(
    ("handler", "answer"),
    [
        (denies, (403, b"")),
        (denies_with_a_response, (401, b'{"why":"no"}')),
        (raises_http, (402, b'{"detail":"Payment Required"}')),
        (raises_websocket, (403, b"")),
    ],
)
def test_a_handler_can_deny(handler: Callable[..., Any], answer: tuple[int, bytes]) -> None:
    app = FastAPI()
    app.add_api_websocket_route("/x", handler)
    with serving(app) as w:
        assert w.answer(opened(w, "/x")) == answer
        assert w.failures == []


def test_a_handler_that_fails_behind_the_accept() -> None:
    app = FastAPI()

    @app.websocket("/policy")
    async def policy(websocket: WebSocket) -> None:
        await websocket.accept()
        raise WebSocketException(1008, "no")

    @app.websocket("/fails")
    async def fails(websocket: WebSocket) -> None:
        await websocket.accept()
        raise LookupError("oops")

    @app.websocket("/early")
    async def early(websocket: WebSocket) -> None:
        await websocket.receive_text()

    with serving(app) as w:
        ident = opened(w, "/policy")
        w.answer(ident)
        assert said(w, ident) == [(1008, "no")]
        ident = opened(w, "/fails")
        w.answer(ident)
        assert said(w, ident) == ["abort"]
        assert w.answer(opened(w, "/early"))[0] == 500
        assert [str(failure) for failure in w.failures] == ["oops", "the WebSocket was not accepted: await accept() first"]


def test_two_tasks_of_one_handler_read_and_write_at_once() -> None:
    app = FastAPI()

    @app.websocket("/x")
    async def handler(websocket: WebSocket) -> None:
        await websocket.accept()

        async def tick() -> None:
            for number in range(3):
                await websocket.send_text(str(number))
                await asyncio.sleep(0)

        await asyncio.gather(tick(), websocket.receive_text())
        await websocket.send_text("both")

    with serving(app) as w:
        ident = opened(w, "/x")
        w.until(lambda: len(said(w, ident)) == 3)
        w.edge.send_message(ident, b"go", text=True)
        w.answer(ident)
        assert said(w, ident) == ["0", "1", "2", "both", (1000, "")]


def test_what_a_websocket_does_not_have_is_refused_when_it_is_declared() -> None:
    app = FastAPI()

    async def with_request(request: Request) -> None: ...

    async def with_body(item: dict[str, int]) -> None: ...

    async def with_background(tasks: BackgroundTasks) -> None: ...

    def not_async(websocket: WebSocket) -> None: ...

    async def with_websocket(websocket: WebSocket) -> None: ...

    for handler, text in (
        (with_request, "cannot be a Request: it is a WebSocket"),
        (with_body, "needs a body"),
        (with_background, "for a response"),
        (not_async, "async def"),
    ):
        with pytest.raises(TypeError, match=text):
            app.websocket("/x")(handler)
    with pytest.raises(TypeError, match="cannot be a WebSocket: it is a Request"):
        app.get("/x")(with_websocket)


def test_the_edge_is_told_which_routes_are_for_websockets() -> None:
    app = FastAPI()
    app.get("/x")(lambda: None)
    app.add_api_websocket_route("/x", denies)
    assert FastAPIApplication(app).manifest()["routes"] == [
        {"id": 0, "methods": ["GET"], "path": "/x"},
        {"id": 1, "methods": ["@WEBSOCKET"], "path": "/x"},
    ]


def test_a_manifest_carries_them() -> None:
    app = FastAPI()
    app.add_api_websocket_route("/x", denies, dependencies=[Depends(raises_http)])
    (route,) = build(describe_apps([app])).routes
    assert (route.path, route.endpoint, [marker.dependency for marker in route.dependencies]) == ("/x", denies, [raises_http])
