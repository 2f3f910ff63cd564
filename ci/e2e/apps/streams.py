"""What the streaming tests ask for: bodies both ways, piece by piece, with counters of how far they came."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from fasterapi import BackgroundTasks, EventSourceResponse, FastAPI, FileResponse, Request, ServerSentEvent, StreamingResponse
from payload import pattern

app = FastAPI()
PIECE = pattern(64 * 1024)
counters: dict[str, int] = {}
log: list[str] = []
gates: dict[str, asyncio.Event] = {}


def gate(name: str) -> asyncio.Event:
    return gates.setdefault(name, asyncio.Event())


@app.get("/counter/{name}")
async def counter(name: str) -> int:
    return counters.get(name, 0)


@app.get("/log")
async def read_log() -> list[str]:
    return log


@app.post("/open/{name}")
async def open_gate(name: str) -> None:
    gate(name).set()


@app.post("/echo")
async def echo(request: Request) -> StreamingResponse:
    return StreamingResponse(request.stream())


@app.post("/digest")
async def digest(request: Request) -> dict[str, Any]:
    size, sum_ = 0, hashlib.sha256()
    async for piece in request.stream():
        size += len(piece)
        sum_.update(piece)
    return {"size": size, "sha256": sum_.hexdigest()}


@app.post("/slow-upload/{name}")
async def slow_upload(name: str, request: Request) -> int:
    stream = request.stream()
    counters[name] = len(await stream.__anext__())
    await gate(name).wait()
    async for piece in stream:
        counters[name] += len(piece)
    return counters[name]


@app.post("/upload/{name}")
async def upload(name: str, request: Request) -> None:
    try:
        async for piece in request.stream():
            counters[name] = counters.get(name, 0) + len(piece)
    finally:
        log.append(f"{name}: clean")


async def pieces(name: str, count: int) -> AsyncIterator[bytes]:
    try:
        for _ in range(count):
            yield PIECE
            counters[name] = counters.get(name, 0) + len(PIECE)
    finally:
        await asyncio.sleep(0)
        log.append(f"{name}: clean")


def blocking_pieces(name: str, count: int) -> Iterator[bytes]:
    try:
        for _ in range(count):
            yield PIECE
            counters[name] = counters.get(name, 0) + len(PIECE)
    finally:
        log.append(f"{name}: clean")


@app.get("/download/{kind}/{name}/{count}")
async def download(kind: str, name: str, count: int) -> StreamingResponse:
    content = pieces(name, count) if kind == "async" else blocking_pieces(name, count)
    return StreamingResponse(content, media_type="application/octet-stream")


@app.get("/breaks/{after}")
async def breaks(after: int) -> StreamingResponse:
    async def content() -> AsyncIterator[bytes]:
        for _ in range(after):
            yield PIECE
            await gate("break").wait()
        raise ValueError("half way through")

    return StreamingResponse(content())


@app.get("/events/{name}")
async def events(name: str) -> EventSourceResponse:
    async def content() -> AsyncIterator[ServerSentEvent]:
        try:
            for number in range(1000):
                yield ServerSentEvent(number, event="tick", id=str(number))
                await gate(f"{name}-{number}").wait()
        finally:
            log.append(f"{name}: clean")

    return EventSourceResponse(content(), ping=0.2)


@app.get("/file")
async def file(path: str) -> FileResponse:
    return FileResponse(Path(path))


@app.get("/background/{name}")
async def background(name: str, tasks: BackgroundTasks) -> str:
    def work() -> None:
        while not gate(name).is_set():
            time.sleep(0.001)
        log.append(f"{name}: done")

    tasks.add_task(work)
    return "at once"


@app.get("/tasks")
async def tasks() -> int:
    return len(asyncio.all_tasks())
