"""What the clients of these tests are tried out on, under a server that is not ours: every way to read and to write."""

import asyncio
from typing import Any

noted: list[str] = []


async def answer(send: Any, body: bytes, status: int = 200, fields: Any = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": list(fields)})
    await send({"type": "http.response.body", "body": body})


async def websocket(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (event := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{event['type']}.complete"})
        return
    if scope["type"] == "websocket":
        await websocket(receive, send)
        return
    path: str = scope["path"]
    if path == "/version":
        await answer(send, scope["http_version"].encode(), fields=[(b"x-scheme", scope["scheme"].encode())])
    elif path == "/echo":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        more = True
        while more:
            event = await receive()
            more = event.get("more_body", False)
            await send({"type": "http.response.body", "body": event.get("body", b""), "more_body": more})
    elif path == "/size":
        size, more = 0, True
        while more:
            event = await receive()
            size, more = size + len(event.get("body", b"")), event.get("more_body", False)
        await answer(send, str(size).encode())
    elif path == "/flood":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1000):
            await send({"type": "http.response.body", "body": bytes(64 * 1024), "more_body": True})
    elif path == "/waits":
        noted.append(f"begun {scope['query_string'].decode()}")
        while (await receive())["type"] != "http.disconnect":
            pass
        noted.append(f"ended {scope['query_string'].decode()}")
    elif path == "/deaf":
        await asyncio.sleep(2)
        await answer(send, b"")
    elif path == "/noted":
        await answer(send, ",".join(noted).encode())
    else:
        await answer(send, b"nowhere", 404)
