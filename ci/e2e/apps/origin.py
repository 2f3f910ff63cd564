"""Tells where a request comes from and what surrounds the application: once as ASGI, once as WSGI, once as our own."""

import asyncio
import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from fasterapi import FastAPI, Request, WebSocket


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] != "lifespan"
    if scope["type"] == "websocket":
        await echo(receive, send)
    elif scope["path"] == "/upload":
        await upload(receive, send)
    elif scope["path"] == "/file-with-trailers":
        await file_with_trailers(scope["headers"], send)
    else:
        await tell(scope, send)


async def tell(scope: Any, send: Any) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0.001)
    found = {
        "client": scope["client"],
        "scheme": scope["scheme"],
        "tls": scope["extensions"].get("tls"),
        "variables": {k: v for k, v in os.environ.items() if k.startswith("ORIGIN_")},
        "loop": type(loop).__module__.partition(".")[0],
    }
    await answer(send, json.dumps(found).encode())


async def answer(send: Any, body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


async def upload(receive: Any, send: Any) -> None:
    """Sends the body back as it comes."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        event = await receive()
        more = event["more_body"]
        await send({"type": "http.response.body", "body": event["body"], "more_body": more})


async def echo(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await asyncio.sleep(0)
        await send({"type": "websocket.send", "text": event["text"]})


async def file_with_trailers(headers: Iterable[tuple[bytes, bytes]], send: Any) -> None:
    fields = [(b"trailer", b"x-late")] if any(name == b"te" for name, _ in headers) else []
    await send({"type": "http.response.start", "status": 200, "headers": fields, "trailers": True})
    await send({"type": "http.response.pathsend", "path": __file__})
    await send({"type": "http.response.trailers", "headers": [(b"x-late", b"yes")]})


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    kept = ("REMOTE_ADDR", "wsgi.url_scheme", "HTTPS")
    found = {k: v for k, v in environ.items() if k in kept or k.startswith("SSL_")}
    start_response("200 OK", [("content-type", "application/json")])
    return [json.dumps(found).encode()]


native = FastAPI()


@native.get("/")
async def origin(request: Request) -> dict[str, Any]:
    return {"client": request.client and request.client.host, "scheme": request.url.scheme}


@native.get("/loop")
async def loop() -> str:
    await asyncio.sleep(0.001)
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


@native.websocket("/echo")
async def native_echo(websocket: WebSocket) -> None:
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)
