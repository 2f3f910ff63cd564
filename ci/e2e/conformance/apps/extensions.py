"""HTTP paths that use the extensions of the interface which the server offers, and do without those that it does not."""

from pathlib import Path
from typing import Any

from contract import Application, Message, Receive, Scope, Send

FILE = Path(__file__)
TRAILERS = [(b"x-sum", b"9"), (b"x-late", b"yes")]
LINKS = [b"</style.css>; rel=preload; as=style", b"</app.js>; rel=preload; as=script"]


def has(scope: Scope, name: str) -> bool:
    return f"http.response.{name}" in scope.get("extensions", {})


def start(headers: Any = (), **more: Any) -> Message:
    return {"type": "http.response.start", "status": 200, "headers": headers, **more}


async def trailers(scope: Scope, receive: Receive, send: Send) -> None:
    promised = has(scope, "trailers")
    await send(start(trailers=promised))
    for piece in (b"one", b"two", b"six"):
        await send({"type": "http.response.body", "body": piece, "more_body": piece != b"six"})
    if promised:
        for field in TRAILERS:
            await send({"type": "http.response.trailers", "headers": [field], "more_trailers": field != TRAILERS[-1]})


async def forgets_trailers(scope: Scope, receive: Receive, send: Send) -> None:
    """Promised where they can be, and never sent."""
    await send(start(trailers=True))
    await send({"type": "http.response.body", "body": b"whole"})


async def early_hint(scope: Scope, receive: Receive, send: Send) -> None:
    if has(scope, "early_hint"):
        await send({"type": "http.response.early_hint", "links": LINKS})
    await send(start([(b"content-length", b"5")]))
    await send({"type": "http.response.body", "body": b"whole"})


async def path_send(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start([(b"content-type", b"text/x-python")]))
    if has(scope, "pathsend"):
        await send({"type": "http.response.pathsend", "path": str(FILE)})
    else:
        await send({"type": "http.response.body", "body": FILE.read_bytes()})


async def path_of_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start())
    if not has(scope, "pathsend"):
        raise FileNotFoundError("/nowhere/at/all")
    await send({"type": "http.response.pathsend", "path": "/nowhere/at/all"})


PATHS: dict[str, Application] = {
    "/extension/trailers": trailers,
    "/extension/forgets-trailers": forgets_trailers,
    "/extension/early-hint": early_hint,
    "/extension/path": path_send,
    "/extension/path-of-nothing": path_of_nothing,
}
