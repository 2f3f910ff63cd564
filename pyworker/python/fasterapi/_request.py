"""A handler's view of one exchange. Everything is made on first use: most handlers look at very little."""

import re
from collections.abc import AsyncIterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

from fasterapi import _json
from fasterapi._mappings import Headers, QueryParams

if TYPE_CHECKING:
    from fasterapi._app import FastAPI
    from fasterapi._native import Exchange


class Address(NamedTuple):
    host: str
    port: int


class State:
    """An open bag of attributes."""

    def __init__(self, initial: Mapping[str, Any] | None = None) -> None:
        self.__dict__.update(initial or {})

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"nothing was stored in state under the name {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value


class URL(str):
    """An absolute URL that is also a string."""

    __slots__ = ("__dict__",)

    @cached_property
    def components(self) -> SplitResult:
        return urlsplit(self)

    @property
    def scheme(self) -> str:
        return self.components.scheme

    @property
    def netloc(self) -> str:
        return self.components.netloc

    @property
    def path(self) -> str:
        return self.components.path

    @property
    def query(self) -> str:
        return self.components.query

    @property
    def fragment(self) -> str:
        return self.components.fragment

    @property
    def username(self) -> str | None:
        return self.components.username

    @property
    def password(self) -> str | None:
        return self.components.password

    @property
    def hostname(self) -> str | None:
        return self.components.hostname

    @property
    def port(self) -> int | None:
        return self.components.port

    @property
    def is_secure(self) -> bool:
        return self.scheme == "https"

    def replace(self, *args: Any, **parts: Any) -> "URL":
        """With names of parts (`path=`, `query=`, …) a URL in which they differ; else as `str.replace`."""
        if args:
            return URL(super().replace(*args, **parts))
        return URL(self.components._replace(**parts).geturl())


_QUOTED = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))")


def _unquote_cookie(value: str) -> str:
    """Undoes the quoting that `http.cookies` gives to values with reserved characters."""
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    return _QUOTED.sub(lambda match: chr(int(match[1], 8)) if match[1] else match[2], value[1:-1])


def parse_cookies(fields: list[str]) -> dict[str, str]:
    """RFC 6265 §5.4, leniently: what has no `=` is a value without a name."""
    cookies: dict[str, str] = {}
    for pair in ";".join(fields).split(";"):
        name, equals, value = pair.partition("=")
        if not equals:
            name, value = "", name
        name, value = name.strip(), value.strip()
        if name or value:
            cookies[name] = _unquote_cookie(value)
    return cookies


class Request:
    """One HTTP request. Its body is read when it is asked for, once, as a whole or piece by piece."""

    def __init__(self, exchange: "Exchange", app: "FastAPI", body: bytes | None = None) -> None:
        """`body`: the whole body, where somebody has read it already."""
        self._exchange = exchange
        self.app = app
        self._body = body
        self._pieces_taken = False
        self._exhausted = False

    @property
    def method(self) -> str:
        return self._exchange.method

    @cached_property
    def headers(self) -> Headers:
        return Headers(self._exchange.headers)

    @cached_property
    def query_params(self) -> QueryParams:
        return QueryParams.parse(self._exchange.query_string)

    @cached_property
    def path_params(self) -> dict[str, str]:
        return self._exchange.path_params

    @cached_property
    def cookies(self) -> dict[str, str]:
        return parse_cookies(self.headers.getlist("cookie"))

    @cached_property
    def state(self) -> State:
        """The request's own; starts with what the application's lifespan yielded."""
        return State(self.app.lifespan_state)

    @property
    def client(self) -> Address | None:
        client = self._exchange.client
        return None if client is None else Address(*client)

    @property
    def http_version(self) -> str:
        return self._exchange.http_version

    @cached_property
    def url(self) -> URL:
        exchange = self._exchange
        scheme = exchange.scheme
        host = self.headers.get("host")
        if host is None:
            name, port = exchange.server or ("localhost", None)
            bracketed = f"[{name}]" if ":" in name else name
            host = bracketed if port in (None, {"http": 80, "https": 443}.get(scheme)) else f"{bracketed}:{port}"
        path = exchange.raw_path.decode("latin-1")
        query = exchange.query_string.decode("latin-1")
        return URL(f"{scheme}://{host}{path}{'?' if query else ''}{query}")

    @cached_property
    def base_url(self) -> URL:
        return self.url.replace(path="/", query="", fragment="")

    async def body(self) -> bytes:
        """The whole body, collected. RuntimeError when pieces of it were taken already; ClientDisconnected."""
        if self._body is None:
            if self._pieces_taken:
                raise RuntimeError("the body cannot be read as a whole: pieces of it were taken from stream() already")
            self._body = b"".join([piece async for piece in self.stream()])
        return self._body

    async def stream(self) -> AsyncIterator[bytes]:
        """The body's pieces as they come, then an empty one. A client that sends faster than they are taken has to wait.
        RuntimeError when it was read to its end before; ClientDisconnected when the client went away before that."""
        if self._body is not None:
            yield self._body
        else:
            if self._exhausted:
                raise RuntimeError("the body was read to its end already")
            while piece := await self._exchange.receive():
                self._pieces_taken = True
                yield piece
            self._exhausted = True
        yield b""

    async def is_disconnected(self) -> bool:
        """Whether the client went away."""
        return self._exchange.disconnected

    async def json(self) -> Any:
        """Raises json.JSONDecodeError."""
        return _json.loads(await self.body())
