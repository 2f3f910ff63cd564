"""Writes down what happens around the requests of one worker."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fasterapi import FastAPI, Request

_tasks: set[asyncio.Task[None]] = set()


def note(what: str) -> None:
    with Path(os.environ["JOURNAL"]).open("a") as journal:
        journal.write(what + "\n")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    if gate := os.environ.get("GATE"):
        await asyncio.to_thread(Path(gate).read_text)
    if os.environ.get("FAIL") == "startup":
        raise RuntimeError("no database")
    note("lifespan begins")
    app.state.stored = 1
    yield {"yielded": "from lifespan"}
    note("lifespan ends")


async def async_hook() -> None:
    await asyncio.sleep(0)
    note("async startup hook")


app = FastAPI(
    lifespan=lifespan,
    on_startup=[lambda: note("startup hook"), async_hook],
    on_shutdown=[lambda: note("shutdown hook")],
)


@app.get("/")
async def root(request: Request) -> dict[str, Any]:
    note("request")
    return {"yielded": request.state.yielded, "stored": request.app.state.stored}


@app.get("/later")
async def later() -> None:
    async def write() -> None:
        await asyncio.sleep(0.3)
        note("later")

    task = asyncio.create_task(write())
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
