"""What the protocol tests ask for: tags, bytes in, bytes out, requests that stay in flight until told otherwise."""

import asyncio
import hashlib
import os
from typing import Any

from fasterapi import FastAPI, Request, Response
from payload import pattern

app = FastAPI()
BYTES = {size: pattern(size) for size in (0, 1, 256 * 1024, 16 * 1024 * 1024 + 1)}
held: dict[str, asyncio.Event] = {}


@app.get("/tag/{tag}")
async def tag(tag: str) -> dict[str, str]:
    return {"tag": tag}


@app.get("/thread/{tag}")
def thread(tag: str) -> dict[str, str]:
    return {"tag": tag}


@app.get("/pid")
async def pid() -> dict[str, int]:
    return {"pid": os.getpid()}


@app.get("/bytes/{size}")
async def give(size: int) -> Response:
    return Response(BYTES[size], media_type="application/octet-stream")


@app.post("/digest")
async def digest(request: Request) -> dict[str, Any]:
    body = await request.body()
    return {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}


@app.post("/echo")
@app.put("/echo")
async def echo(request: Request) -> Response:
    return Response(await request.body(), media_type="application/octet-stream")


@app.get("/slash/")
async def slash() -> str:
    return "with slash"


@app.get("/head")
async def head_of_get() -> dict[str, str]:
    return {"body": "dropped for HEAD"}


@app.get("/see")
async def see(request: Request) -> dict[str, Any]:
    """What the application is told."""
    return {
        "method": request.method,
        "url": str(request.url),
        "version": request.http_version,
        "client": request.client,
        "fields": request.headers.multi_items(),
        "query": request.query_params.multi_items(),
    }


@app.get("/hold/{name}")
async def hold(name: str) -> dict[str, str]:
    await held.setdefault(name, asyncio.Event()).wait()
    return {"held": name}


@app.get("/held")
async def which() -> list[str]:
    return sorted(held)


cancelled: list[str] = []


@app.get("/cancellable/{name}")
async def cancellable(name: str) -> None:
    held[name] = asyncio.Event()
    try:
        await held[name].wait()
    except asyncio.CancelledError:
        cancelled.append(name)
        raise


@app.get("/cancelled")
async def which_cancelled() -> list[str]:
    return cancelled


@app.post("/release/{name}")
async def release(name: str, request: Request) -> dict[str, Any]:
    size = len(await request.body())  # A handler may begin before it is there.
    held.setdefault(name, asyncio.Event()).set()
    return {"released": name, "size": size}


@app.get("/fields")
async def fields() -> Response:
    response = Response(b"x", headers={"connection": "upgrade", "content-length": "999", "transfer-encoding": "chunked"})
    response.set_cookie("a", "1")
    response.set_cookie("b", "2")
    return response


@app.get("/split")
async def split(value: str) -> Response:
    return Response(b"x", headers={"x-value": value})
