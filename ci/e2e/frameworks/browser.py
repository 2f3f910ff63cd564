"""A client that keeps what a browser keeps between requests: one connection and the cookies."""

import gzip
import json
import re
import uuid
from collections.abc import Mapping
from http.cookies import SimpleCookie
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

from server import Listening
from wire import Closed, Connection, Response

File = tuple[str, str, bytes]
"""Name, type, content."""


class Browser:
    def __init__(self, server: Listening) -> None:
        self.server = server
        self.cookies: dict[str, str] = {}
        self._connection: Connection | None = None

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None

    def request(self, method: str, target: str, body: bytes = b"", fields: Mapping[str, str] | None = None) -> Response:
        """On the kept connection, or on a new one if the server has closed that."""
        kept = self._connection is not None
        try:
            return self._request(method, target, body, fields or {})
        except (Closed, ConnectionResetError, BrokenPipeError):
            self.close()
            if not kept:
                raise
            return self._request(method, target, body, fields or {})

    def _request(self, method: str, target: str, body: bytes, fields: Mapping[str, str]) -> Response:
        if self._connection is None:
            self._connection = self.server.connect()
        sent = dict(fields)
        if self.cookies:
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if method in ("POST", "PUT") and not body:
            sent["content-length"] = "0"
        response = self._connection.request(method, target, sent, body)
        for line in response.all("set-cookie"):
            for name, cookie in SimpleCookie(line).items():
                if cookie["max-age"] == "0" or "1970" in cookie["expires"]:
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = cookie.coded_value
        if response.closes:
            self.close()
        return response

    def get(self, target: str, **fields: str) -> Response:
        return self.request("GET", target, fields={name.replace("_", "-"): value for name, value in fields.items()})

    def json(self, target: str) -> Any:
        response = self.get(target)
        assert response.status == 200, brief(response)
        return loads(response)

    def post_json(self, target: str, value: Any, method: str = "POST") -> Response:
        return self.request(method, target, json.dumps(value).encode(), {"content-type": "application/json"})

    def post_form(self, target: str, values: Mapping[str, str], **fields: str) -> Response:
        kind = {"content-type": "application/x-www-form-urlencoded"}
        return self.request("POST", target, urlencode(values).encode(), {**kind, **fields})

    def post_files(self, target: str, values: Mapping[str, str], files: list[tuple[str, File]], **fields: str) -> Response:
        boundary = uuid.uuid4().hex
        parts = [
            f'--{boundary}\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
            for name, value in values.items()
        ]
        for name, (filename, kind, content) in files:
            disposition = f'content-disposition: form-data; name="{name}"; filename="{filename}"'
            parts += [f"--{boundary}\r\n{disposition}\r\ncontent-type: {kind}\r\n\r\n".encode(), content, b"\r\n"]
        body = b"".join([*parts, f"--{boundary}--\r\n".encode()])
        return self.request("POST", target, body, {"content-type": f"multipart/form-data; boundary={boundary}", **fields})


def loads(response: Response) -> Any:
    assert response["content-type"].startswith("application/json"), brief(response)
    return json.loads(content(response))


def content(response: Response) -> bytes:
    return gzip.decompress(response.body) if response.all("content-encoding") == ["gzip"] else response.body


def brief(response: Response) -> str:
    """For an assertion: no megabytes."""
    return f"{response.status} {response.fields} {response.body[:500]!r}"


def hidden(page: str, name: str) -> str:
    """The value of a hidden input."""
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, page[:2000]
    return found[1]
