"""HTTP paths that use the interface as the specification allows: each does one thing with `receive` or `send`."""

import asyncio
import contextlib
import contextvars
import hashlib
import sys
from typing import Any

from contract import Application, Receive, Scope, Send, answer, answer_json, gate, note, shown, tag, whole

PIECE = bytes(range(256)) * 256
"""64 KiB."""
FLOOD_PIECES = 1024

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def describe(scope: Scope, receive: Receive, send: Send) -> None:
    """Any path that is not named below: the scope itself."""
    kinds = {key: type(value).__name__ for key, value in scope.items()}
    fields = [[type(part).__name__ for part in pair] for pair in scope["headers"]]
    await answer_json(send, {"scope": shown(scope), "types": kinds, "field_types": fields})


# --- receive ---------------------------------------------------------------------------------------------------------


async def events(scope: Scope, receive: Receive, send: Send) -> None:
    """What arrives until `more_body` is false."""
    seen: list[Any] = []
    digest = hashlib.sha256()
    more = True
    while more:
        message = await receive()
        body = message.get("body", b"")
        more = message.get("more_body", False)
        digest.update(body)
        seen.append({"type": message["type"], "body_type": type(body).__name__, "size": len(body), "more_body": more})
    await answer_json(send, {"events": seen, "sha256": digest.hexdigest(), "size": sum(each["size"] for each in seen)})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, await whole(receive), content_type=b"application/octet-stream")


async def pieces(scope: Scope, receive: Receive, send: Send) -> None:
    """Notes each piece as it comes, and waits to be let on before it takes the next."""
    more = True
    while more:
        message = await receive()
        note(scope, message["type"])
        if message["type"] == "http.disconnect":
            return
        note(scope, message.get("body", b"").decode("latin-1"))
        more = message.get("more_body", False)
    await answer(send, b"all")


async def slow_reader(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes one piece, then nothing until the gate opens."""
    message = await receive()
    note(scope, "first")
    await gate(tag(scope)).wait()
    size = len(message.get("body", b""))
    while message["type"] == "http.request" and message.get("more_body", False):
        message = await receive()
        size += len(message.get("body", b""))
    await answer(send, str(size).encode())


async def unread(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without a look at the body."""
    await answer(send, b"unread")


async def refused(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, b"refused", status=413)


async def after_body(scope: Scope, receive: Receive, send: Send) -> None:
    """Behind the body, `receive` has nothing to say until the response is over or the client gone."""
    await whole(receive)
    waiting = asyncio.ensure_future(receive())
    note(scope, "waiting")
    await gate(tag(scope)).wait()
    note(scope, "done" if waiting.done() else "still waiting")
    await answer(send, b"answered")
    note(scope, (await waiting)["type"], (await receive())["type"])


async def until_disconnect(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads on until the client is gone; the task itself goes on behind that."""
    size = 0
    while (message := await receive())["type"] == "http.request":
        size += len(message.get("body", b""))
        note(scope, "reading")
    note(scope, message["type"], (await receive())["type"])
    try:
        await gate(tag(scope)).wait()
    except asyncio.CancelledError:
        note(scope, "cancelled")
        raise
    note(scope, "went on")


# --- send ------------------------------------------------------------------------------------------------------------


async def length(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
    for piece in (b"one", b"two", b"six"):
        await send({"type": "http.response.body", "body": piece, "more_body": piece != b"six"})


async def chunks(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    for piece in (b"one", b"", b"two", b"six"):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """Every key that may be left out is."""
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body"})


async def status(scope: Scope, receive: Receive, send: Send) -> None:
    """The status that the query names, with fields and no body."""
    headers = [(b"x-status", b"seen"), (b"etag", b'"1"')]
    await send({"type": "http.response.start", "status": int(tag(scope)), "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def not_modified(scope: Scope, receive: Receive, send: Send) -> None:
    """The length of what a 200 would have carried (RFC 9110 §15.4.5)."""
    await send({"type": "http.response.start", "status": 304, "headers": [(b"content-length", b"10")]})
    await send({"type": "http.response.body", "body": b""})


async def fields(scope: Scope, receive: Receive, send: Send) -> None:
    pairs = ((b"set-cookie", b"b=2"), (b"x-a", b"1"), (b"set-cookie", b"a=1"), (b"x-latin", b"\xe9"), (b"x-empty", b""))
    await send({"type": "http.response.start", "status": 200, "headers": ([name, value] for name, value in pairs)})
    await send({"type": "http.response.body", "body": b"x"})


async def types(scope: Scope, receive: Receive, send: Send) -> None:
    """What Starlette passes on as a body: bytes, and memoryviews."""
    await send(START)
    await send({"type": "http.response.body", "body": memoryview(b"a view"), "more_body": True})
    await send({"type": "http.response.body", "body": b", bytes"})


async def big(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, PIECE * 512)


async def many(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    for number in range(2000):
        await send({"type": "http.response.body", "body": b"%d\n" % number, "more_body": True})
    await send({"type": "http.response.body", "body": b"end"})


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    """A piece that the client must see before the next one exists, as server-sent events need it."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    await send({"type": "http.response.body", "body": b"", "more_body": True})
    note(scope, "head")
    await gate(tag(scope)).wait()
    await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
    await gate(tag(scope) + "-2").wait()
    await send({"type": "http.response.body", "body": b"data: 2\n\n", "more_body": False})


async def flood(scope: Scope, receive: Receive, send: Send) -> None:
    """64 MiB in pieces; the journal says how many were taken off its hands."""
    note(scope, 0)
    await send(START)
    try:
        for number in range(1, FLOOD_PIECES + 1):
            await send({"type": "http.response.body", "body": PIECE, "more_body": number < FLOOD_PIECES})
            note(scope, number)
    except OSError:
        note(scope, "OSError")
        raise
    note(scope, "sent")


async def send_to_nobody(scope: Scope, receive: Receive, send: Send) -> None:
    """The client is gone before the response begins."""
    await whole(receive)
    note(scope, "begun")
    note(scope, (await receive())["type"])
    try:
        await send(START)
        await send({"type": "http.response.body", "body": b"for nobody"})
    except OSError:
        note(scope, "OSError")
        raise
    note(scope, "ignored")


async def work_on(scope: Scope, receive: Receive, send: Send) -> None:
    """A background task, as frameworks run it: in the same coroutine, behind the response."""
    await answer(send, b"answered")
    note(scope, "working")
    await gate(tag(scope)).wait()
    note(scope, "worked")


# --- where it runs ---------------------------------------------------------------------------------------------------


async def surroundings(scope: Scope, receive: Receive, send: Send) -> None:
    """A task of its own, in a running loop, with a context of its own."""
    before = variable.get()
    variable.set("set by a request")
    task = asyncio.current_task()
    running = asyncio.get_running_loop() is not None
    async with contextlib.AsyncExitStack():
        if sys.version_info >= (3, 11):
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(0))
    await answer_json(send, {"before": before, "task": task is not None and task is asyncio.current_task(), "running": running})


async def state(scope: Scope, receive: Receive, send: Send) -> None:
    """What lifespan left, and whether a request can change it for others: only inside the objects that it shares."""
    mine = scope["state"]
    mine["shared"].append("seen")
    found = {"started": mine.get("started"), "private": mine.get("private"), "shared": len(mine["shared"])}
    mine["private"] = "of one request"
    await answer_json(send, found)


PATHS: dict[str, Application] = {
    "/receive/events": events,
    "/receive/echo": echo,
    "/receive/pieces": pieces,
    "/receive/slow": slow_reader,
    "/receive/unread": unread,
    "/receive/refused": refused,
    "/receive/after-body": after_body,
    "/receive/until-disconnect": until_disconnect,
    "/send/length": length,
    "/send/chunks": chunks,
    "/send/bare": bare,
    "/send/status": status,
    "/send/not-modified": not_modified,
    "/send/fields": fields,
    "/send/types": types,
    "/send/big": big,
    "/send/many": many,
    "/send/stream": stream,
    "/send/flood": flood,
    "/send/to-nobody": send_to_nobody,
    "/send/work-on": work_on,
    "/surroundings": surroundings,
    "/state": state,
}
