"""ASGI: `/down/BYTES` gives so many as fast as they are taken, `/up/BYTES_PER_SECOND` takes a body no faster than that and says how long it was."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

# Digits, so that one of them is an answer in JSON.
PIECE = b"1" * 65536


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
    _, way, number = scope["path"].split("/")
    if way == "down":
        left = int(number)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % left)]})
        while left > 0:
            piece = PIECE[:left]
            left -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
        return
    size, started, more = 0, time.monotonic(), True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
        if (wait := started + size / int(number) - time.monotonic()) > 0:
            await asyncio.sleep(wait)
    body = b"%d" % size
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})
