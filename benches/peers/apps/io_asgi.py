"""ASGI that waits: a timer, a task beside it, and bytes to and fro over a socket pair with asyncio's streams; JSON at the end."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

BODY = b'{"message":"Hello, World!"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
QUESTION = b"q" * 200
ANSWER = b"a" * 2000

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
idle: list[Streams] = []
backends: set["asyncio.Task[None]"] = set()


async def backend(end: socket.socket) -> None:
    """What a database is to an application."""
    reader, writer = await asyncio.open_connection(sock=end)
    while await reader.readexactly(len(QUESTION)):
        writer.write(ANSWER)


async def question() -> None:
    """On a connection of a pool that grows as it must."""
    if idle:
        reader, writer = idle.pop()
    else:
        ours, theirs = socket.socketpair()
        backends.add(asyncio.create_task(backend(theirs)))
        reader, writer = await asyncio.open_connection(sock=ours)
    writer.write(QUESTION)
    await reader.readexactly(len(ANSWER))
    idle.append((reader, writer))


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    assert scope["type"] == "http"
    if scope["path"] == "/sleep":
        await asyncio.sleep(0.001)
    elif scope["path"] == "/tasks":
        await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))
    elif scope["path"] == "/streams":
        await question()
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})
