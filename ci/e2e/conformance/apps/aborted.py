"""Paths for clients that leave at any moment. Each counts itself in and out, whatever becomes of it."""

import asyncio
import contextlib
from collections.abc import Iterator

from contract import Application, Receive, Scope, Send, answer_json

PIECE = bytes(range(256)) * 128
PIECES = 64

begun = ended = 0


@contextlib.contextmanager
def counted() -> Iterator[None]:
    global begun, ended
    begun += 1
    try:
        yield
    finally:
        ended += 1


async def start(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/octet-stream")]})


async def both_ways(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes the whole body, then gives 2 MiB; stops when it learns that the client has gone."""
    with counted():
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message.get("more_body", False)
        await start(send)
        for number in range(PIECES):
            await send({"type": "http.response.body", "body": PIECE, "more_body": number < PIECES - 1})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Gives each piece back as it comes."""
    with counted():
        await start(send)
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            more = message.get("more_body", False)
            await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": more})


async def deaf(scope: Scope, receive: Receive, send: Send) -> None:
    """Never looks at what the client sends or whether it is there."""
    with counted():
        await start(send)
        for number in range(PIECES):
            await send({"type": "http.response.body", "body": PIECE, "more_body": number < PIECES - 1})
            await asyncio.sleep(0)


async def listens_while_it_sends(scope: Scope, receive: Receive, send: Send) -> None:
    """As Starlette does: a task that waits for the end of the client beside one that sends."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def give() -> None:
        await start(send)
        for _ in range(PIECES):
            await send({"type": "http.response.body", "body": PIECE, "more_body": True})
            await asyncio.sleep(0.001)
        await send({"type": "http.response.body"})

    with counted():
        tasks = {asyncio.create_task(watch()), asyncio.create_task(give())}
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def waits(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers never; only the client can end it."""
    with counted():
        while (await receive())["type"] != "http.disconnect":
            pass


async def counts(scope: Scope, receive: Receive, send: Send) -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await answer_json(send, {"begun": begun, "ended": ended, "tasks": len(others)})


PATHS: dict[str, Application] = {
    "/aborted/both-ways": both_ways,
    "/aborted/echo": echo,
    "/aborted/deaf": deaf,
    "/aborted/listens": listens_while_it_sends,
    "/aborted/waits": waits,
    "/aborted/counts": counts,
}
