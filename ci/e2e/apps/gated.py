"""Handlers that wait until a file appears, and write down what happened to them: nothing has to be asked of a busy worker."""

import asyncio
import os
import time
from pathlib import Path

from fasterapi import FastAPI, Request

app = FastAPI()
_room = Path(os.environ["ROOM"])


def note(event: str) -> None:
    with (_room / "journal").open("a") as journal:
        journal.write(f"{event} {os.getpid()}\n")


@app.get("/wait/{name}")
@app.post("/wait/{name}")
async def wait(name: str) -> dict[str, str]:
    note(f"begin {name}")
    try:
        while not (_room / name).exists():
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        note(f"cancelled {name}")
        raise
    return {"waited": name}


@app.get("/tag/{tag}")
async def tag(tag: str) -> dict[str, str]:
    return {"tag": tag}


@app.post("/size")
async def size(request: Request) -> int:
    return len(await request.body())


@app.get("/block/{name}")
async def block(name: str) -> None:
    """Holds up the event loop, as no handler should."""
    note(f"begin {name}")
    time.sleep(3600)


@app.get("/stall/{name}")
async def stall(name: str) -> dict[str, str]:
    """Holds it up until the file is there."""
    note(f"begin {name}")
    while not (_room / name).exists():
        time.sleep(0.01)
    return {"stalled": name}


@app.get("/die/{name}")
async def die(name: str) -> None:
    note(f"begin {name}")
    os._exit(7)
