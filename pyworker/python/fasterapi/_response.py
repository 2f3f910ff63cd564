"""Responses, and how any result becomes an `Answer` for the native side."""

import datetime
import http.cookies
from collections.abc import Mapping
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import quote

from fasterapi import _json
from fasterapi._background import BackgroundTask
from fasterapi._mappings import MutableHeaders

if TYPE_CHECKING:
    from fasterapi._native import Answer, Exchange
    from fasterapi._threads import ThreadPool

JSON_HEADER = (b"content-type", b"application/json")

# The edge frames each body and owns the connection, whatever the HTTP version is.
_EDGE_FIELDS = frozenset(
    (b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade")
)


def has_body(status: int) -> bool:
    """RFC 9110 §6.4.1: 1xx, 204 and 304 never carry content."""
    return status >= 200 and status not in (204, 304)


class Response:
    """A complete response: status, header fields, body."""

    media_type: ClassVar[str | None] = None
    charset: ClassVar[str] = "utf-8"
    is_live: ClassVar[bool] = False
    """It writes its body by itself, while it is made."""

    def __init__(
        self,
        content: Any = None,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        background: BackgroundTask | None = None,
    ) -> None:
        self.status_code = int(status_code)
        self.background = background
        self.body = self.render(content)
        self.headers = MutableHeaders(headers)
        kind = media_type or self.media_type
        if kind is not None:
            if kind.startswith("text/") and "charset=" not in kind:
                kind = f"{kind}; charset={self.charset}"
            self.headers.setdefault("content-type", kind)

    def render(self, content: Any) -> bytes:
        if content is None:
            return b""
        if isinstance(content, str):
            return content.encode(self.charset)
        if isinstance(content, bytes | bytearray | memoryview):
            return bytes(content)
        raise TypeError(f"{type(self).__name__} takes str or bytes as content, not {type(content).__name__}")

    def set_cookie(
        self,
        key: str,
        value: str = "",
        max_age: int | None = None,
        expires: datetime.datetime | str | int | None = None,
        path: str | None = "/",
        domain: str | None = None,
        secure: bool = False,
        httponly: bool = False,
        samesite: Literal["lax", "strict", "none"] | None = "lax",
    ) -> None:
        cookie: http.cookies.SimpleCookie = http.cookies.SimpleCookie()
        cookie[key] = value
        morsel = cookie[key]
        if max_age is not None:
            morsel["max-age"] = max_age
        if isinstance(expires, datetime.datetime):
            morsel["expires"] = format_datetime(expires, usegmt=True)
        elif expires is not None:
            morsel["expires"] = expires
        if path is not None:
            morsel["path"] = path
        if domain is not None:
            morsel["domain"] = domain
        if secure:
            morsel["secure"] = True
        if httponly:
            morsel["httponly"] = True
        if samesite is not None:
            if samesite.lower() not in ("strict", "lax", "none"):
                raise ValueError(f"samesite must be 'strict', 'lax' or 'none', not {samesite!r}")
            morsel["samesite"] = samesite
        self.headers.append("set-cookie", morsel.OutputString())

    def delete_cookie(
        self,
        key: str,
        path: str = "/",
        domain: str | None = None,
        secure: bool = False,
        httponly: bool = False,
        samesite: Literal["lax", "strict", "none"] | None = "lax",
    ) -> None:
        self.set_cookie(
            key,
            max_age=0,
            expires=0,
            path=path,
            domain=domain,
            secure=secure,
            httponly=httponly,
            samesite=samesite,
        )

    async def send(self, exchange: "Exchange", threads: "ThreadPool") -> None:
        """Answers. What it leaves for the background is for the caller to run."""
        status, fields, body = self.answer()
        exchange.start(status, fields)
        await exchange.write(body, end=True)

    def outcome(self) -> "Answer | Response":
        """The answer where that is all there is to do; else the response itself, which has to be sent."""
        return self if self.is_live or self.background is not None else self.answer()

    def answer(self) -> "Answer":
        fields = [field for field in self.headers.raw if field[0] not in _EDGE_FIELDS]
        return self.status_code, fields, self.body if has_body(self.status_code) else b""


class JSONResponse(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return _json.dumps(content)


class HTMLResponse(Response):
    media_type = "text/html"


class PlainTextResponse(Response):
    media_type = "text/plain"


class RedirectResponse(Response):
    def __init__(
        self,
        url: object,
        status_code: int = 307,
        headers: Mapping[str, str] | None = None,
        background: BackgroundTask | None = None,
    ) -> None:
        super().__init__(status_code=status_code, headers=headers, background=background)
        # Reserved characters and existing escapes pass: the target is a URL already, only not a clean one perhaps.
        self.headers["location"] = quote(str(url), safe=":/%#?=@[]!$&'()*+,;")


def encode(value: Any, status: int) -> "Answer | Response":
    """The answer that a handler's result stands for, or the response that has to be sent."""
    return value.outcome() if isinstance(value, Response) else encode_plain(value, status)


def encode_plain(value: Any, status: int) -> "Answer":
    """The answer of a result that is no response."""
    if not has_body(status):
        return status, [], b""
    return status, [JSON_HEADER], _json.dumps(value)
