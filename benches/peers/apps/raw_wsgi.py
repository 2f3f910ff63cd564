"""WSGI without a framework: no coroutine at all, so its `user` case does less than the others' async handler."""

from collections.abc import Callable, Iterable
from typing import Any

from orjson import dumps

PREFIX = "/user/"


def app(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], Any]) -> Iterable[bytes]:
    path: str = environ["PATH_INFO"]
    status = "200 OK"
    if path.startswith(PREFIX):
        try:
            user_id = int(path[len(PREFIX) :])
            body = dumps({"user_id": user_id, "name": f"User {user_id}"})
        except ValueError:
            status, body = "422 Unprocessable Content", b'{"detail":"user_id: not an integer"}'
    elif path == "/hello":
        body = dumps({"message": "Hello, World!"})
    else:
        status, body = "404 Not Found", b'{"detail":"Not Found"}'
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
