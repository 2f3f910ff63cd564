"""Ends its own process in every way that one can, and refuses to be imported while there is a trap."""

import ctypes
import os
import signal
import threading
from pathlib import Path

from fasterapi import FastAPI

_trap = Path(os.environ.get("TRAP", "/nonexistent/trap"))
if _trap.exists():
    if _trap.read_text() == "exit":
        os._exit(9)
    raise RuntimeError("trapped")

app = FastAPI()


@app.get("/")
async def root() -> str:
    return "alive"


@app.get("/end/{how}")
async def end(how: str) -> None:
    if how == "exit":
        os._exit(7)
    if how == "abort":
        os.abort()
    if how == "segfault":
        ctypes.string_at(8)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=os._exit, args=(7,)).start()
    threading.Event().wait()
