"""Quart: forms, sessions, streams, server-sent events, websockets."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

from quart import Quart, Response, abort, redirect, request, session, url_for, websocket
from quart.typing import ResponseReturnValue

app = Quart(__name__)
app.secret_key = "a test's"
app.config["MAX_CONTENT_LENGTH"] = 32 * 1024 * 1024
log: list[str] = []


@app.before_serving
async def start() -> None:
    log.append("serving")


@app.after_serving
async def stop() -> None:
    print("quart is over", flush=True)


@app.get("/hello/<name>")
async def hello(name: str) -> dict[str, Any]:
    return {"hello": name, "query": request.args.to_dict(flat=False), "agent": request.headers.get("user-agent")}


@app.post("/login")
async def login() -> ResponseReturnValue:
    session["user"] = (await request.form)["user"]
    return redirect(url_for("home"))


@app.get("/home")
async def home() -> str:
    return session.get("user") or abort(403)


@app.errorhandler(403)
async def forbidden(_: Exception) -> tuple[str, int]:
    return "log in first", 403


@app.post("/upload")
async def upload() -> dict[str, Any]:
    file = (await request.files)["file"]
    content = file.read()
    return {
        "name": file.filename,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "form": dict(await request.form),
    }


@app.post("/raw")
async def raw() -> dict[str, int]:
    size = 0
    async for piece in request.body:
        size += len(piece)
    return {"size": size}


@app.get("/stream/<int:count>")
async def stream(count: int) -> Response:
    async def pieces() -> AsyncIterator[str]:
        for number in range(count):
            yield f"{number}\n"

    return Response(pieces(), mimetype="text/plain")


@app.get("/events")
async def events() -> Response:
    async def pieces() -> AsyncIterator[str]:
        for number in range(3):
            yield f"data: {number}\n\n"
            await asyncio.sleep(0)

    return Response(pieces(), mimetype="text/event-stream")


@app.get("/thread")
def in_a_thread() -> dict[str, str]:
    return {"from": "a thread"}


@app.get("/task/<name>")
async def task(name: str) -> str:
    async def remember() -> None:
        log.append(f"task {name}")

    app.add_background_task(remember)
    return "accepted"


@app.get("/log")
async def read_log() -> list[str]:
    return log


@app.get("/fails")
async def fails() -> None:
    raise RuntimeError("broken on purpose")


@app.websocket("/ws")
async def echo() -> None:
    await websocket.accept(headers={"x-quart": "yes"})
    try:
        while True:
            data = await websocket.receive()
            await websocket.send(f"{websocket.args['who']}: {data}" if isinstance(data, str) else data)
    except asyncio.CancelledError:
        log.append("websocket over")
        raise


@app.websocket("/ws/refused")
async def refused() -> None:
    abort(401)
