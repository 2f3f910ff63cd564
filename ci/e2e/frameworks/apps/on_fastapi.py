"""FastAPI: a shop with most of what such an application uses."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import (
    BackgroundTasks,
    Cookie,
    Depends,
    FastAPI,
    File,
    Form,
    Header,
    HTTPException,
    Query,
    Request,
    Response,
    UploadFile,
    WebSocket,
    WebSocketDisconnect,
    WebSocketException,
)
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

events: list[str] = []
outbox: list[str] = []
rooms: dict[str, set[WebSocket]] = {}


class Store:
    def __init__(self) -> None:
        self.items: dict[int, Item] = {}


class Item(BaseModel):
    name: str = Field(min_length=1, max_length=50)
    price: float = Field(gt=0)
    tags: set[str] = set()


class StoredItem(Item):
    id: int


class OutOfStock(Exception):
    def __init__(self, item_id: int) -> None:
        self.item_id = item_id


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    app.state.title = "shop"
    yield {"store": Store(), "loop": id(asyncio.get_running_loop())}
    print("the shop is closed", flush=True)


app = FastAPI(title="Shop", version="1.2.3", lifespan=lifespan)
app.add_middleware(GZipMiddleware, minimum_size=2000)
app.add_middleware(CORSMiddleware, allow_origins=["https://shop.test"], allow_methods=["GET", "POST"], allow_credentials=True)


@app.middleware("http")
async def number(request: Request, call_next: Any) -> Response:
    response: Response = await call_next(request)
    response.headers["x-seen-by"] = f"middleware of {request.app.state.title}"
    return response


@app.exception_handler(OutOfStock)
async def out_of_stock(request: Request, error: OutOfStock) -> JSONResponse:
    return JSONResponse({"out_of_stock": error.item_id, "path": request.url.path}, status_code=418)


# --- dependencies ----------------------------------------------------------------------------------------------------


async def session() -> AsyncIterator[str]:
    events.append("open")
    try:
        yield "session"
    except HTTPException as error:
        events.append(f"rolled back: {error.status_code}")
        raise
    finally:
        events.append("close")


def thread_bound(value: Annotated[str, Depends(session)]) -> Iterator[str]:
    """A synchronous one runs in a thread of the pool."""
    yield f"{value} in {'a thread' if threading.current_thread() is not threading.main_thread() else 'the loop'}"


def user(authorization: Annotated[str | None, Header()] = None) -> str:
    if authorization != "Bearer secret":
        raise HTTPException(401, "who are you?", headers={"www-authenticate": "Bearer"})
    return "admin"


@app.get("/session")
async def use_session(value: Annotated[str, Depends(thread_bound)]) -> dict[str, str]:
    return {"session": value}


@app.get("/session/fails")
async def fail_session(value: Annotated[str, Depends(session)]) -> None:
    raise HTTPException(409, f"{value} failed")


@app.get("/events")
async def what_happened() -> list[str]:
    return events


@app.get("/me")
async def me(name: Annotated[str, Depends(user)], visits: Annotated[int, Cookie()] = 0) -> JSONResponse:
    response = JSONResponse({"name": name, "visits": visits})
    response.set_cookie("visits", str(visits + 1), httponly=True)
    return response


# --- data ------------------------------------------------------------------------------------------------------------


@app.post("/items", status_code=201)
async def create(item: Item, request: Request) -> StoredItem:
    store: Store = request.state.store
    stored = StoredItem(id=len(store.items) + 1, **item.model_dump())
    store.items[stored.id] = stored
    return stored


@app.get("/items/{item_id}")
async def read(item_id: int, request: Request, fields: Annotated[list[str] | None, Query()] = None) -> dict[str, Any]:
    if item_id not in request.state.store.items:
        raise OutOfStock(item_id)
    found: dict[str, Any] = request.state.store.items[item_id].model_dump(mode="json")
    return {key: value for key, value in found.items() if not fields or key in fields}


@app.get("/sync/{number}")
def in_a_thread(number: int) -> dict[str, Any]:
    return {"number": number, "main": threading.current_thread() is threading.main_thread()}


@app.get("/fails")
async def fails() -> None:
    raise RuntimeError("broken on purpose")


@app.post("/signup")
async def sign_up(mail: Annotated[str, Form()], tasks: BackgroundTasks) -> dict[str, str]:
    async def send() -> None:
        await asyncio.sleep(0)
        outbox.append(f"welcome {mail}")

    tasks.add_task(send)
    tasks.add_task(outbox.append, f"bill for {mail}")
    return {"mail": mail}


@app.get("/outbox")
async def sent() -> list[str]:
    return outbox


# --- bodies ----------------------------------------------------------------------------------------------------------


@app.post("/upload")
async def upload(
    files: Annotated[list[UploadFile], File()], title: Annotated[str, Form()], note: Annotated[str, Form()] = ""
) -> dict[str, Any]:
    found = []
    for file in files:
        digest, size = hashlib.sha256(), 0
        while piece := await file.read(64 * 1024):
            digest.update(piece)
            size += len(piece)
        found.append({"name": file.filename, "type": file.content_type, "size": size, "sha256": digest.hexdigest()})
    return {"title": title, "note": note, "files": found}


@app.post("/digest")
async def digest(request: Request) -> dict[str, Any]:
    found, size = hashlib.sha256(), 0
    async for piece in request.stream():
        found.update(piece)
        size += len(piece)
    return {"size": size, "sha256": found.hexdigest()}


@app.get("/export")
def export(rows: int) -> StreamingResponse:
    def lines() -> Iterator[str]:
        yield "id,name\n"
        for row in range(rows):
            yield f"{row},item {row}\n"

    return StreamingResponse(
        lines(), media_type="text/csv", headers={"content-disposition": 'attachment; filename="items.csv"'}
    )


@app.get("/ticks")
async def ticks() -> StreamingResponse:
    async def messages() -> AsyncIterator[bytes]:
        for tick in range(3):
            yield f"id: {tick}\ndata: tick\n\n".encode()
            await asyncio.sleep(0.01)

    return StreamingResponse(messages(), media_type="text/event-stream")


@app.get("/source")
async def source() -> FileResponse:
    return FileResponse(__file__, filename="shop.py")


@app.get("/large")
async def large() -> dict[str, list[int]]:
    return {"numbers": list(range(2000))}


# --- websockets ------------------------------------------------------------------------------------------------------


@app.websocket("/chat/{room}")
async def chat(socket: WebSocket, room: str, name: str = "nobody") -> None:
    if name == "nobody":
        raise WebSocketException(1008, "a name, please")
    await socket.accept(subprotocol="chat" if "chat" in socket.scope["subprotocols"] else None)
    members = rooms.setdefault(room, set())
    members.add(socket)
    try:
        while True:
            message = await socket.receive_json()
            for member in members:
                await member.send_json({"from": name, "room": room, **message})
    except WebSocketDisconnect as error:
        events.append(f"{name} left with {error.code}")
    finally:
        members.discard(socket)
