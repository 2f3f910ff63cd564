"""ASGI handlers that take a given time, holding the event loop (`/block/MS`) or not (`/await/MS`); each answer names its process."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any

PID = b"%d" % os.getpid()
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(PID))]


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    _, kind, duration_ms = scope["path"].split("/")
    if kind == "block":
        time.sleep(int(duration_ms) / 1000)
    else:
        await asyncio.sleep(int(duration_ms) / 1000)
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": PID})
