"""A raw ASGI application for what the conformance cases, which uvicorn has to pass too, do not ask."""

import asyncio
import json
import os
from typing import Any

log: list[str] = []
FILE = os.path.join(os.path.dirname(__file__), "payload.py")  # noqa: PTH118, PTH120


SHOWN = ("http_version", "scheme", "path", "raw_path", "query_string", "client", "server", "headers")


def text(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    return [text(item) for item in value] if isinstance(value, (list, tuple)) else value


async def answer(send: Any, body: bytes, **more: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")], **more})
    await send({"type": "http.response.body", "body": body})


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    path = scope["path"]
    if path == "/scope ":
        found = {key: text(value) for key, value in scope.items() if key in SHOWN}
        await answer(send, json.dumps(found).encode(), headers=[(b"content-type", b"application/json")])
    elif path == "/log":
        await answer(send, ",".join(log).encode())
    elif path == "/file":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": FILE})
    elif path == "/no-file":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.pathsend", "path": "/nowhere"})
    elif path == "/hints":
        await send({"type": "http.response.early_hint", "links": [b"</style.css>; rel=preload; as=style"]})
        await answer(send, b"hinted")
    elif path == "/trailers":
        await answer(send, b"body", trailers=True)
        await send({"type": "http.response.trailers", "headers": [(b"x-checksum", b"abc")]})
    elif path == "/sleep":
        log.append("begun")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            log.append("cancelled")
            raise
    else:
        await answer(send, f"{scope['method']} {path}".encode())
