"""HTTP paths that break the interface's rules, one each. What `send` raised is in the journal, and goes on to the server."""

import asyncio
from collections.abc import Awaitable
from typing import Any

from contract import Application, Receive, Scope, Send, note

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
END = {"type": "http.response.body", "body": b"end"}
PIECE = {"type": "http.response.body", "body": b"piece", "more_body": True}


class OnPurpose(Exception):
    """Raised by the application itself."""


async def noted(scope: Scope, sending: Awaitable[None]) -> None:
    """The journal tells a refusal in the name of the client, who is gone, from one in the name of the rules."""
    try:
        await sending
    except Exception as error:
        note(scope, "OSError" if isinstance(error, OSError) else "refused")
        raise


def sending(*messages: dict[str, Any]) -> Application:
    """Only the last message is a mistake, or the end behind it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await noted(scope, send(message))

    return app


def started(status: Any = 200, headers: Any = ()) -> dict[str, Any]:
    return {"type": "http.response.start", "status": status, "headers": headers}


async def returns_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def raises_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    raise OnPurpose("before the start")


async def raises_when_started(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    raise OnPurpose("behind the start")


async def raises_in_the_body(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    await send(PIECE)
    raise OnPurpose("in the body")


async def raises_behind_the_end(scope: Scope, receive: Receive, send: Send) -> None:
    await send(started(headers=[(b"content-length", b"3")]))
    await send(END)
    raise OnPurpose("behind the end")


async def exits(scope: Scope, receive: Receive, send: Send) -> None:
    raise SystemExit("a request does not end the server")


async def is_cancelled(scope: Scope, receive: Receive, send: Send) -> None:
    raise asyncio.CancelledError


async def starts_twice_and_goes_on(scope: Scope, receive: Receive, send: Send) -> None:
    """An error handler that answers an answered request, caught: the first response is whole."""
    await send(started(headers=[(b"x-which", b"first")]))
    try:
        await noted(scope, send(started(status=500, headers=[(b"x-which", b"second")])))
    except Exception:
        await send(END)


LENGTH_5 = started(headers=[(b"content-length", b"5")])

PATHS: dict[str, Application] = {
    "/mistake/returns-at-once": returns_at_once,
    "/mistake/raises-at-once": raises_at_once,
    "/mistake/raises-when-started": raises_when_started,
    "/mistake/raises-in-the-body": raises_in_the_body,
    "/mistake/raises-behind-the-end": raises_behind_the_end,
    "/mistake/exits": exits,
    "/mistake/is-cancelled": is_cancelled,
    "/mistake/starts-twice-and-goes-on": starts_twice_and_goes_on,
    "/mistake/body-without-start": sending(END),
    "/mistake/starts-twice": sending(START, START),
    "/mistake/starts-in-the-body": sending(START, PIECE, START),
    "/mistake/never-ends": sending(START, PIECE),
    "/mistake/starts-only": sending(START),
    "/mistake/body-behind-the-end": sending(started(headers=[(b"content-length", b"3")]), END, END),
    "/mistake/unknown-type": sending({"type": "http.response.dance"}),
    "/mistake/websocket-message": sending({"type": "websocket.accept"}),
    "/mistake/unknown-type-in-the-body": sending(START, PIECE, {"type": "http.response.dance"}),
    "/mistake/too-long": sending(LENGTH_5, {"type": "http.response.body", "body": b"123456789"}),
    "/mistake/too-short": sending(LENGTH_5, {"type": "http.response.body", "body": b"123"}),
    "/mistake/too-long-in-pieces": sending(LENGTH_5, PIECE, END),
    "/mistake/text-body": sending(START, {"type": "http.response.body", "body": "text"}),
    "/mistake/text-status": sending(started(status="200")),
    "/mistake/status-out-of-range": sending(started(status=1000)),
    "/mistake/text-field": sending(started(headers=[("content-type", "text/plain")])),
    "/mistake/split-field": sending(started(headers=[(b"x-a", b"1\r\nx-b: 2")])),
    "/mistake/split-name": sending(started(headers=[(b"x-a: 1\r\nx-b", b"2")])),
    "/mistake/not-a-message": sending([("type", "http.response.start")]),  # type: ignore[arg-type]
}
