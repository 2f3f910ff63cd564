"""RSGI (Granian's own interface) without a framework."""

from typing import Any

from orjson import dumps

PREFIX = "/user/"
HEADERS = [("content-type", "application/json")]


async def app(scope: Any, protocol: Any) -> None:
    path: str = scope.path
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
    protocol.response_bytes(status, HEADERS, body)
