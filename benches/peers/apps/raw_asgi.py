"""ASGI without a framework: the least Python that answers the cases correctly."""

from collections.abc import Awaitable, Callable
from typing import Any

from orjson import dumps

PREFIX = "/user/"


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    path: str = scope["path"]
    status = 200
    if path.startswith(PREFIX):
        try:
            user_id = int(path[len(PREFIX) :])
            body = dumps({"user_id": user_id, "name": f"User {user_id}"})
        except ValueError:
            status, body = 422, b'{"detail":"user_id: not an integer"}'
    elif path == "/hello":
        body = dumps({"message": "Hello, World!"})
    else:
        status, body = 404, b'{"detail":"Not Found"}'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
