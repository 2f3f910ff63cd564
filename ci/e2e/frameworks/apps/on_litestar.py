"""Litestar: controllers, injected dependencies, data classes, uploads, streams, websockets."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from litestar import Controller, Litestar, MediaType, Request, Response, WebSocket, get, post, put, websocket
from litestar.background_tasks import BackgroundTask
from litestar.datastructures import State, UploadFile
from litestar.di import Provide
from litestar.enums import RequestEncodingType
from litestar.exceptions import HTTPException, WebSocketDisconnect
from litestar.handlers import websocket_listener
from litestar.logging import LoggingConfig
from litestar.params import Body
from litestar.response import ServerSentEvent, Stream

log: list[str] = []


@dataclass
class Book:
    title: str
    pages: int


async def connection() -> AsyncGenerator[str, None]:
    log.append("open")
    try:
        yield "connection"
    finally:
        log.append("close")


class Books(Controller):
    path = "/books"
    dependencies = {"connection": Provide(connection)}

    @get()
    async def listed(self, connection: str, state: State, page: int = 1) -> dict[str, Any]:
        return {"connection": connection, "page": page, "started": state.started}

    @post()
    async def add(self, data: Book) -> Book:
        return Book(data.title.title(), data.pages)

    @put("/{book_id:int}")
    async def change(self, book_id: int, data: Book) -> dict[str, Any]:
        if book_id == 0:
            raise HTTPException(status_code=409, detail="zero is taken")
        return {"id": book_id, "title": data.title}


@post("/upload")
async def upload(data: Annotated[dict[str, UploadFile], Body(media_type=RequestEncodingType.MULTI_PART)]) -> dict[str, Any]:
    found = {}
    for name, file in data.items():
        content = await file.read()
        found[name] = {"name": file.filename, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return found


@post("/raw")
async def raw(request: Request[Any, Any, Any]) -> dict[str, int]:
    return {"size": sum([len(piece) async for piece in request.stream()])}


@get("/stream", media_type=MediaType.TEXT)
async def stream(count: int) -> Stream:
    async def pieces() -> AsyncIterator[str]:
        for number in range(count):
            yield f"{number}\n"

    return Stream(pieces())


@get("/events")
async def events() -> ServerSentEvent:
    async def pieces() -> AsyncIterator[str]:
        for name in ("one", "two"):
            yield name
            await asyncio.sleep(0)

    return ServerSentEvent(pieces())


@get("/thread", sync_to_thread=True)
def in_a_thread() -> dict[str, str]:
    return {"from": "a thread"}


@get("/task")
async def task(name: str) -> Response[str]:
    return Response("accepted", background=BackgroundTask(remember, name))


async def remember(name: str) -> None:
    log.append(f"task {name}")


@get("/log")
async def read_log() -> list[str]:
    return log


@get("/fails")
async def fails() -> None:
    raise RuntimeError("broken on purpose")


@websocket_listener("/shout")
async def shout(data: dict[str, str]) -> dict[str, str]:
    return {"shouted": data["text"].upper()}


@websocket("/count")
async def count(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept(subprotocols="count")
    try:
        while True:
            await socket.send_bytes(len(await socket.receive_bytes()).to_bytes(4, "big"))
    except WebSocketDisconnect as error:
        log.append(f"websocket {error.code}")


@asynccontextmanager
async def lifespan(app: Litestar) -> AsyncIterator[None]:
    app.state.started = True
    yield
    print("litestar is over", flush=True)


app = Litestar(
    [Books, upload, raw, stream, events, in_a_thread, task, read_log, fails, shout, count],
    lifespan=[lifespan],
    logging_config=LoggingConfig(log_exceptions="always"),
)
