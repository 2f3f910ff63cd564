"""What all paths of the application under test share: the ASGI types, the journal of what they saw, and the gates that hold them.

A journal and a gate belong to the tag that a request brings as its query; tests read the one and open the other through `application`.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

Message = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

journal: dict[str, list[Any]] = {}
_gates: dict[str, asyncio.Event] = {}


def tag(scope: Scope) -> str:
    """The query up to its first `&`."""
    name: str = scope["query_string"].decode().partition("&")[0]
    return name


def note(scope: Scope, *what: Any) -> None:
    journal.setdefault(tag(scope), []).extend(what)


def gate(name: str) -> asyncio.Event:
    return _gates.setdefault(name, asyncio.Event())


def shown(value: Any) -> Any:
    """In JSON, with the types that JSON has not: bytes become {"bytes": text in Latin-1}."""
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if isinstance(value, dict):
        return {str(key): shown(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(each) for each in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return {"type": type(value).__qualname__}


async def answer(send: Send, body: bytes, status: int = 200, content_type: bytes = b"text/plain") -> None:
    headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def answer_json(send: Send, value: Any) -> None:
    await answer(send, json.dumps(value).encode(), content_type=b"application/json")


async def whole(receive: Receive) -> bytes:
    """The request's body; it must be all there is before the client leaves."""
    body = bytearray()
    while True:
        message = await receive()
        assert message["type"] == "http.request", message
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)
