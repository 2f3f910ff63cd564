"""The handlers of stream_asgi, natively."""

import asyncio
import time
from collections.abc import AsyncIterator

from fasterapi import FastAPI, Request
from fasterapi.responses import StreamingResponse

app = FastAPI()
# Digits, so that one of them is an answer in JSON.
PIECE = b"1" * 65536


@app.get("/down/{size}")
async def down(size: int) -> StreamingResponse:
    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, size, len(PIECE)):
            yield PIECE[: size - at]

    return StreamingResponse(pieces(), headers={"content-length": str(size)})


@app.post("/up/{rate}")
async def up(rate: int, request: Request) -> int:
    size, started = 0, time.monotonic()
    async for piece in request.stream():
        size += len(piece)
        if (wait := started + size / rate - time.monotonic()) > 0:
            await asyncio.sleep(wait)
    return size
