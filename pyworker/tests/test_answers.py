"""Results, failures and responses beyond what the comparison with FastAPI covers."""

import asyncio
import contextlib
import contextvars
import json
import threading
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

import pytest

from fakes import Edge, FakeExchange
from fasterapi import Depends, FastAPI, HTTPException, JSONResponse, Request, RequestValidationError, Response, _json
from fasterapi._endpoint import compile_route
from fasterapi._mappings import Headers, MutableHeaders, QueryParams
from fasterapi._request import URL, State, parse_cookies


class Boom(Exception):
    pass


def failing_app(**options: Any) -> FastAPI:
    app = FastAPI(**options)

    @app.get("/async")
    async def fail_async() -> None:
        raise Boom("secret detail")

    @app.get("/sync")
    def fail_sync() -> None:
        raise Boom("secret detail")

    @app.get("/stop")
    def stop_iteration() -> None:
        next(iter(()))

    @app.get("/unencodable")
    async def unencodable() -> Any:
        return object()

    return app


@pytest.mark.parametrize("path", ["/async", "/sync", "/stop", "/unencodable"])
def test_unhandled_exceptions_stay_inside(path: str, caplog: pytest.LogCaptureFixture) -> None:
    reply = Edge(failing_app()).request("GET", path)
    assert (reply.status_code, reply.json()) == (500, {"detail": "Internal Server Error"})
    assert any(record.name == "fasterapi" and record.exc_info for record in caplog.records)
    if path in ("/async", "/sync"):
        assert "secret detail" in caplog.text


def test_debug_shows_the_traceback(caplog: pytest.LogCaptureFixture) -> None:
    reply = Edge(failing_app(debug=True)).request("GET", "/async")
    assert reply.status_code == 500
    assert reply.header("content-type") == "text/plain; charset=utf-8"
    assert "secret detail" in reply.text
    assert "Traceback" in reply.text


def test_exception_handlers(caplog: pytest.LogCaptureFixture) -> None:
    app = failing_app()

    @app.exception_handler(404)
    def missing(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"missing": error.detail}, 404)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return JSONResponse({"count": len(error.errors()), "body": error.body}, 400)

    @app.exception_handler(Exception)
    async def anything(request: Request, error: Exception) -> Response:
        return JSONResponse({"anything": type(error).__name__}, 500)

    @app.exception_handler(ZeroDivisionError)
    async def broken(request: Request, error: Exception) -> Any:
        return "not a response"

    @app.get("/404")
    async def raise_404() -> None:
        raise HTTPException(404, "it")

    @app.get("/403")
    async def raise_403() -> None:
        raise HTTPException(403, "it")

    @app.get("/zero")
    async def zero() -> None:
        raise ZeroDivisionError

    @app.post("/int")
    async def number(value: list[int]) -> None: ...

    edge = Edge(app)
    assert edge.request("GET", "/404").json() == {"missing": "it"}
    assert edge.request("GET", "/403").json() == {"detail": "it"}
    assert edge.request("GET", "/sync").json() == {"anything": "Boom"}
    assert edge.request("GET", "/zero").json() == {"detail": "Internal Server Error"}
    headers = [("content-type", "application/json")]
    reply = edge.request("POST", "/int", headers=headers, body=b'["a", "b"]')
    assert (reply.status_code, reply.json()) == (400, {"count": 2, "body": ["a", "b"]})
    assert "returned str, not a Response" in caplog.text


def test_hostile_bodies_are_the_clients_mistake() -> None:
    app = FastAPI()

    @app.post("/")
    async def take(value: dict[str, int]) -> None: ...

    edge = Edge(app)
    assert edge.request("POST", "/", body=b"\xff\xfe").status_code == 422
    headers = [("content-type", "application/json")]
    assert edge.request("POST", "/", headers=headers, body=b"[" * 100_000).status_code in (400, 422)
    assert edge.request("POST", "/", headers=headers, body=b'{"a": "\\ud800"}').status_code == 422
    assert edge.request("POST", "/", headers=headers, body=b'{"a": NaN}').status_code == 422


def test_sync_handlers_see_context_and_run_elsewhere() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    app = FastAPI(thread_pool_size=1)

    def set_it() -> None:
        variable.set("set in a thread")

    @app.get("/")
    def handler() -> Any:
        return [variable.get(), threading.current_thread().name]

    async def go() -> Any:
        variable.set("set")
        return await Edge(app).exchange("GET", "/", [], b"")

    _, _, body = asyncio.run(go())
    value, thread = json.loads(body)
    assert value == "set"
    assert thread.startswith("fasterapi")


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "a\0b"])
def test_header_values_cannot_break_out(value: str) -> None:
    with pytest.raises(ValueError, match="line break or NUL"):
        Response(headers={"x": value})
    with pytest.raises(ValueError, match="not a header name"):
        MutableHeaders({"a b": "x"})


def test_statuses_are_plain_numbers() -> None:
    app = FastAPI()

    @app.get("/", status_code=HTTPStatus.CREATED)
    async def handler() -> None: ...

    assert type(compile_route(app.routes[0], app).status) is int
    assert type(Response(status_code=HTTPStatus.ACCEPTED).answer()[0]) is int


def test_framing_is_the_edges() -> None:
    headers = {"Content-Length": "3", "Transfer-Encoding": "chunked", "Connection": "close", "X": "y"}
    assert Response("abc", headers=headers).answer() == (200, [(b"x", b"y")], b"abc")
    assert Response("abc", status_code=304, headers={"ETag": "1"}).answer() == (304, [(b"etag", b"1")], b"")


def test_delete_cookie_and_samesite() -> None:
    response = Response()
    response.delete_cookie("a", domain="x.org")
    assert "Max-Age=0" in response.headers["set-cookie"]
    with pytest.raises(ValueError, match="samesite"):
        response.set_cookie("a", samesite="maybe")  # type: ignore[arg-type]


def test_json_second_way_agrees_with_the_first() -> None:
    value = {"a": [1, 1.5, None, True, "é", {"b": (1, 2)}], "c": float("nan")}
    assert json.loads(_json.dumps({**value, 1: 2**64})) == {**json.loads(_json.dumps(value)), "1": 2**64}
    assert _json.dumps("\ud800") == b'"\\ud800"'
    with pytest.raises(TypeError, match="object is not JSON serializable"):
        _json.plain(object())


def test_json_keeps_long_integers() -> None:
    assert _json.loads(b"123456789012345678901234567890") == 123456789012345678901234567890


def test_mappings() -> None:
    headers = Headers([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")])
    assert headers["A"] == "1"
    assert headers.getlist("a") == ["1", "3"]
    assert list(headers) == ["a", "b"]
    assert len(headers) == 2
    assert "\u20ac" not in headers
    assert headers.items() == [("a", "1"), ("b", "2"), ("a", "3")]
    mutable = MutableHeaders({"A": "1"})
    mutable.append("a", "2")
    mutable["a"] = "3"
    assert mutable.multi_items() == [("a", "3")]
    del mutable["a"]
    with pytest.raises(KeyError):
        del mutable["a"]
    for text in (b"", b"&&a=b=c&=d&e&f=", b"a+b=%26%3D&c=%C3%A9&d=%ff", b"\xc3\xa9=1"):
        assert QueryParams.parse(text).multi_items() == parse_qsl(text.decode("latin-1"), keep_blank_values=True)
    query = QueryParams.parse(b"a=1&a=2&b=")
    assert (query["a"], query.getlist("a"), dict(query)) == ("2", ["1", "2"], {"a": "2", "b": ""})


def test_url_and_state_and_cookies() -> None:
    url = URL("https://u:p@h.org:81/a?b=c#d")
    assert (url.scheme, url.hostname, url.port, url.path, url.query, url.fragment) == ("https", "h.org", 81, "/a", "b=c", "d")
    assert url.replace(path="/z") == "https://u:p@h.org:81/z?b=c#d"
    assert url.is_secure
    state = State({"a": 1})
    state.b = 2
    assert (state.a, state.b) == (1, 2)
    with pytest.raises(AttributeError, match="'c'"):
        _ = state.c
    assert parse_cookies(['a=1; b="x\\073y"', "c=3"]) == {"a": "1", "b": "x;y", "c": "3"}


def test_url_without_a_host_field() -> None:
    request = Request(FakeExchange(server=("::1", 8000), query_string=b"q"), FastAPI())  # type: ignore[arg-type]
    assert request.url == "http://[::1]:8000/?q"
    assert request.client == ("testclient", 50000)


def test_a_dependency_may_not_swallow() -> None:
    async def swallow() -> Any:
        with contextlib.suppress(Boom):
            yield 1

    app = FastAPI()

    @app.get("/")
    async def handler(value: int = Depends(swallow)) -> None:
        raise Boom

    assert Edge(app).request("GET", "/").status_code == 500
