"""The handlers of fair_asgi, natively."""

import asyncio
import os
import time

from fasterapi import FastAPI

app = FastAPI()


@app.get("/block/{duration_ms}")
async def block(duration_ms: int) -> int:
    time.sleep(duration_ms / 1000)
    return os.getpid()


@app.get("/await/{duration_ms}")
async def wait(duration_ms: int) -> int:
    await asyncio.sleep(duration_ms / 1000)
    return os.getpid()
