"""One application's source for two frameworks: `make(fastapi)` and `make(fasterapi)` must behave the same."""

import collections
import dataclasses
import datetime
import decimal
import enum
import ipaddress
import pathlib
import re
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, SecretStr, field_validator


class Color(str, enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Tag(BaseModel):
    name: str
    weight: float = 1.0


class Item(BaseModel):
    name: str = Field(min_length=2)
    price: decimal.Decimal
    tags: list[Tag] = []
    note: str | None = Field(None, alias="theNote")

    @field_validator("name")
    @classmethod
    def no_bad_names(cls, value: str) -> str:
        if value == "bad":
            raise ValueError("bad name")
        return value


class Public(BaseModel):
    name: str


class Private(Public):
    secret: str = "s3cret"


@dataclasses.dataclass
class Point:
    x: int
    y: int = 0
    _hidden: int = 7


class Pair(collections.namedtuple("Pair", "left right")):
    pass


class Opaque:
    def __init__(self) -> None:
        self.a = 1


class Teapot(Exception):
    pass


def make(api: Any) -> Any:
    app = api.FastAPI(title="parity", version="1", docs_url=None, redoc_url=None, openapi_url=None)
    Query, Path, Header, Cookie, Body, Depends = (
        api.Query,
        api.Path,
        api.Header,
        api.Cookie,
        api.Body,
        api.Depends,
    )
    Request, Response = api.Request, api.Response

    @app.exception_handler(Teapot)
    async def teapot(request: Request, error: Teapot) -> Any:
        return JSONResponse({"teapot": str(error), "path": request.url.path}, status_code=418)

    from importlib import import_module

    responses = import_module(f"{api.__name__}.responses")
    JSONResponse, HTMLResponse = responses.JSONResponse, responses.HTMLResponse
    PlainTextResponse, RedirectResponse = responses.PlainTextResponse, responses.RedirectResponse

    # Path parameters
    @app.get("/path/int/{value}")
    async def path_int(value: int) -> Any:
        return {"value": value}

    @app.get("/path/float/{value}")
    async def path_float(value: float) -> Any:
        return {"value": value}

    @app.get("/path/bool/{value}")
    async def path_bool(value: bool) -> Any:
        return value

    @app.get("/path/str/{value}")
    async def path_str(value: str) -> Any:
        return value

    @app.get("/path/bare/{value}")
    async def path_bare(value) -> Any:  # type: ignore[no-untyped-def]
        return [value]

    @app.get("/path/rest/{value:path}")
    async def path_rest(value: str) -> Any:
        return value

    @app.get("/path/enum/{value}")
    def path_enum(value: Color) -> Any:
        return {"value": value, "is": value is Color.RED}

    @app.get("/path/uuid/{value}")
    async def path_uuid(value: uuid.UUID) -> Any:
        return value

    @app.get("/path/date/{value}")
    async def path_date(value: datetime.date) -> Any:
        return value

    @app.get("/path/literal/{value}")
    async def path_literal(value: Literal["a", "b"]) -> Any:
        return value

    @app.get("/path/limited/{value}")
    async def path_limited(value: int = Path(ge=1, le=10, title="a title")) -> Any:
        return value

    @app.get("/path/annotated/{value}")
    async def path_annotated(value: Annotated[int, Path(gt=0), Field(lt=100)]) -> Any:
        return value

    @app.get("/path/alias/{id}")
    async def path_alias(value: Annotated[int, Path(alias="id")]) -> Any:
        return value

    @app.get("/path/two/{a}/{b}")
    async def path_two(b: int, a: str) -> Any:
        return {"a": a, "b": b}

    # Query parameters
    @app.get("/query/int")
    async def query_int(value: int) -> Any:
        return value

    @app.get("/query/default")
    async def query_default(value: int = 7, flag: bool = False, name: str = "x") -> Any:
        return [value, flag, name]

    @app.get("/query/optional")
    async def query_optional(value: int | None = None, other: int | str | None = None) -> Any:
        return [value, other]

    @app.get("/query/required-optional")
    async def query_required_optional(value: int | None) -> Any:
        return value

    @app.get("/query/new-union")
    async def query_new_union(value: int | None = None) -> Any:
        return value

    @app.get("/query/list")
    async def query_list(value: list[int] = Query()) -> Any:
        return value

    @app.get("/query/list-default")
    async def query_list_default(value: Annotated[list[str], Query()] = ["a"]) -> Any:  # noqa: B006
        value.append("mutated")
        return value

    @app.get("/query/list-optional")
    async def query_list_optional(value: Annotated[list[int] | None, Query()] = None) -> Any:
        return value

    @app.get("/query/set")
    async def query_set(value: Annotated[set[int], Query()]) -> Any:
        return sorted(value)

    @app.get("/query/constraints")
    async def query_constraints(
        number: Annotated[int, Query(ge=1, lt=100, multiple_of=3)],
        text: str = Query("abc", min_length=2, max_length=5, pattern="^[a-z]+$", description="d", deprecated=True),
    ) -> Any:
        return [number, text]

    @app.get("/query/alias")
    async def query_alias(value: Annotated[str, Query(alias="item-query")] = "none") -> Any:
        return value

    @app.get("/query/factory")
    async def query_factory(value: Annotated[list[int], Query(default_factory=lambda: [1, 2])]) -> Any:
        return value

    @app.get("/query/types")
    async def query_types(
        when: datetime.datetime, span: datetime.timedelta, amount: decimal.Decimal, level: Level, ident: uuid.UUID
    ):  # type: ignore[no-untyped-def]
        return {"when": when, "span": span, "amount": amount, "level": level, "ident": ident}

    @app.get("/query/ellipsis")
    async def query_ellipsis(value: str = Query(...)) -> Any:
        return value

    @app.get("/query/none-default")
    async def query_none_default(value: str = Query(None)) -> Any:
        return value

    # Headers and cookies
    @app.get("/header/simple")
    async def header_simple(user_agent: str = Header(), x_token: str | None = Header(None)) -> Any:
        return [user_agent != "", x_token]

    @app.get("/header/int")
    async def header_int(x_count: Annotated[int, Header(ge=1)]) -> Any:
        return x_count

    @app.get("/header/list")
    async def header_list(x_many: Annotated[list[str] | None, Header()] = None) -> Any:
        return x_many

    @app.get("/header/raw")
    async def header_raw(x_raw: Annotated[str | None, Header(convert_underscores=False)] = None) -> Any:
        return x_raw

    @app.get("/header/alias")
    async def header_alias(value: Annotated[str, Header(alias="X-Alias")]) -> Any:
        return value

    @app.get("/cookie")
    async def cookie(session: Annotated[str, Cookie()], count: Annotated[int, Cookie()] = 0) -> Any:
        return [session, count]

    # Bodies
    @app.post("/body/model")
    async def body_model(item: Item) -> Any:
        return item

    @app.post("/body/model-optional")
    async def body_model_optional(item: Item | None = None) -> Any:
        return item

    @app.post("/body/dataclass")
    async def body_dataclass(point: Point) -> Any:
        return point

    @app.post("/body/dict")
    async def body_dict(value: dict[str, int]) -> Any:
        return value

    @app.post("/body/any-dict")
    def body_any_dict(value: dict) -> Any:  # type: ignore[type-arg]
        return value

    @app.post("/body/list")
    async def body_list(value: list[Tag]) -> Any:
        return value

    @app.post("/body/scalar")
    async def body_scalar(value: int = Body()) -> Any:
        return value

    @app.post("/body/scalar-embed")
    async def body_scalar_embed(value: Annotated[int, Body(embed=True, ge=3)]) -> Any:
        return value

    @app.post("/body/any")
    async def body_any(value: Any = Body(None)) -> Any:
        return value

    @app.post("/body/bytes")
    async def body_bytes(value: bytes = Body()) -> Any:
        return value

    @app.post("/body/two")
    async def body_two(item: Item, tag: Tag, factor: Annotated[int, Body()] = 2) -> Any:
        return {"item": item, "tag": tag, "factor": factor}

    @app.put("/body/all/{item_id}")
    async def body_all(item_id: int, item: Item, q: str | None = None, x_token: str = Header()) -> Any:
        return {"id": item_id, "item": item, "q": q, "token": x_token}

    @app.post("/body/union")
    async def body_union(value: Tag | list[int]) -> Any:
        return value

    @app.post("/body/int-list")
    async def body_int_list(value: list[int]) -> Any:
        return value

    # Results
    def result(path: str, value: Any, **options: Any) -> None:
        @app.get(f"/result/{path}", **options)
        async def handler():  # type: ignore[no-untyped-def]
            return value

    result("none", None)
    result("str", "text é \u2028")
    result("bool", True)
    result("float", 1.5)
    result("tuple", (1, "a"))
    result("set", {1})
    result("bytes", b"abc")
    result("decimal", [decimal.Decimal("1.50"), decimal.Decimal("3"), decimal.Decimal("1E+2")])
    result("enum", {"c": Color.RED, "l": Level.HIGH})
    result("enum-keys", {Color.RED: 1})
    result("int-keys", {1: "a", 2: "b"})
    result("other-keys", {None: 1, 1.5: 2, False: 3})
    result("uuid", uuid.UUID(int=5))
    result("times", [datetime.datetime(2020, 1, 2, 3, 4, 5, 6), datetime.date(2020, 1, 2), datetime.time(1, 2, 3)])
    result("zoned", datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=2))))
    result("zoned-time", datetime.time(1, 2, tzinfo=datetime.timezone.utc))
    result("timedelta", datetime.timedelta(hours=1, milliseconds=5))
    result("paths", [pathlib.PurePosixPath("/a/b"), re.compile("a+"), ipaddress.ip_address("::1")])
    result("model", Item(name="it", price=decimal.Decimal("1.10"), theNote="n"))
    result("models", {"items": [Tag(name="a"), Tag(name="b")]})
    result("dataclass", Point(1, 2))
    result("namedtuple", Pair(1, 2))
    result("deque", collections.deque([1, 2]))
    result("frozenset", frozenset({1}))
    result("secret", SecretStr("x"))
    result("big", 2**70)
    result("opaque", Opaque())
    result("created", {"a": 1}, status_code=201)
    result("no-content", None, status_code=204)
    result("html", "<p>hi</p>", response_class=HTMLResponse)
    result("plain", "hi", response_class=PlainTextResponse, status_code=202)
    result("redirect-class", "/elsewhere", response_class=RedirectResponse)
    result("json-response", JSONResponse({"a": [1, "é"]}, status_code=202, headers={"X-A": "b"}))
    result("html-response", HTMLResponse("<p>"))
    result("plain-response", PlainTextResponse("plain"))
    result("redirect", RedirectResponse("/some where?x=é#f"))
    result("redirect-303", RedirectResponse("/x", status_code=303))
    result("response", Response(b"\x00\xff", media_type="application/octet-stream"))
    result("response-204", Response(status_code=204))
    result("response-media", Response("a,b", media_type="text/csv"))
    result("filtered", Private(name="n"), response_model=Public)
    result("filtered-list", [{"name": "n", "x": 1}], response_model=list[Public])
    result("unset", Tag(name="n"), response_model=Tag, response_model_exclude_unset=True)
    result("excluded", Tag(name="n"), response_model=Tag, response_model_exclude={"weight"})
    result("bad-model", {"nope": 1}, response_model=Public)

    @app.get("/result/annotated")
    async def result_annotated() -> Public:
        return Private(name="n")

    @app.get("/result/annotated-builtin")
    async def result_annotated_builtin() -> dict[str, Any]:
        return {"a": 1}

    @app.get("/result/annotated-response")
    async def result_annotated_response() -> Response:
        return PlainTextResponse("r")

    @app.get("/result/cookies")
    async def result_cookies() -> Any:
        response = JSONResponse({})
        response.set_cookie("a", "b c;d", max_age=3, httponly=True, secure=True, domain="x.org", samesite="strict")
        response.set_cookie("e", "f", expires=datetime.datetime(2030, 1, 2, tzinfo=datetime.timezone.utc), path=None)
        response.set_cookie("g", "h", samesite=None)
        return response

    @app.get("/result/injected")
    async def result_injected(response: Response) -> Any:
        response.headers["X-Injected"] = "1"
        response.status_code = 206
        response.set_cookie("k", "v")
        return {"a": 1}

    # Errors
    @app.get("/error/http")
    async def error_http() -> Any:
        raise api.HTTPException(404, detail={"what": "gone"}, headers={"X-Why": "because"})

    @app.get("/error/http-default")
    async def error_http_default() -> Any:
        raise api.HTTPException(status_code=403)

    @app.get("/error/http-304")
    def error_http_304() -> Any:
        raise api.HTTPException(304)

    @app.get("/error/teapot")
    async def error_teapot() -> Any:
        raise Teapot("short")

    @app.get("/error/teapot-sync")
    def error_teapot_sync() -> Any:
        raise Teapot("stout")

    # The request
    @app.post("/request/{name}")
    async def request(request: Request, name: str) -> Any:
        return {
            "method": request.method,
            "path": request.url.path,
            "query": request.url.query,
            "scheme": request.url.scheme,
            "hostname": request.url.hostname,
            "url": str(request.url),
            "host": request.headers["HOST"],
            "x": request.headers.getlist("x-x"),
            "missing": request.headers.get("nope"),
            "q": request.query_params.get("q"),
            "qs": request.query_params.getlist("q"),
            "multi": request.query_params.multi_items(),
            "params": request.path_params,
            "cookies": request.cookies,
            "body": (await request.body()).decode(),
            "json": await request.json(),
            "client": request.client.host,
            "base": str(request.base_url),
        }

    # Dependencies
    log: list[str] = []

    async def pager(skip: int = 0, limit: Annotated[int, Query(le=50)] = 10) -> Any:
        return [skip, limit]

    def token(x_token: Annotated[str, Header()]) -> str:
        if x_token == "wrong":
            raise api.HTTPException(401, "no")
        return x_token

    def user(token: Annotated[str, Depends(token)], response: Response) -> Any:
        response.headers["X-User"] = token
        return {"user": token}

    async def session() -> Any:
        log.append("open")
        try:
            yield len(log)
        except Teapot:
            log.append("teapot")
            raise
        finally:
            log.append("close")

    def sync_session(outer: Annotated[int, Depends(session)]) -> Any:
        log.append("sync-open")
        yield outer
        log.append("sync-close")

    class Options:
        def __init__(self, verbose: bool = False) -> None:
            self.verbose = verbose

    @app.get("/depends/pager")
    async def depends_pager(page: Annotated[Any, Depends(pager)], again: Any = Depends(pager)) -> Any:
        return [page, page is again]

    @app.get("/depends/user")
    async def depends_user(n: int, who: Annotated[Any, Depends(user)], same: Annotated[str, Depends(token)]) -> Any:
        return [who, same, n]

    @app.get("/depends/class")
    async def depends_class(options: Annotated[Options, Depends()]) -> Any:
        return options.verbose

    @app.get("/depends/session")
    async def depends_session(fail: bool = False, value: int = Depends(sync_session)) -> Any:
        if fail:
            raise Teapot("in handler")
        log.append("handler")
        return value

    @app.get("/depends/log")
    async def depends_log() -> Any:
        taken = log[:]
        log.clear()
        return taken

    @app.get("/depends/guarded", dependencies=[Depends(token)])
    async def depends_guarded() -> Any:
        return "in"

    # Routers
    inner = api.APIRouter(prefix="/inner", tags=["inner"])

    @inner.get("/{tenant}/thing")
    async def inner_thing(tenant: str, shop: int) -> Any:
        return [tenant, shop]

    @inner.get("")
    async def inner_root() -> Any:
        return "root"

    outer = api.APIRouter(prefix="/outer/{shop}", dependencies=[Depends(token)])
    outer.include_router(inner, prefix="/mid")
    app.include_router(outer, prefix="/api")
    app.include_router(inner, prefix="/free")

    @app.api_route("/methods", methods=["GET", "DELETE"], tags=["t"], summary="s", name="n")
    async def methods(request: Request) -> Any:
        return request.method

    @app.get("/differs/any")
    async def differs_any(amount: decimal.Decimal) -> Any:
        return amount

    @app.get("/differs/nan")
    async def differs_nan():  # type: ignore[no-untyped-def]
        return [float("nan"), float("inf")]

    app.add_api_route("/added", query_int, methods=["PATCH"])
    app.get("/plain-call")(query_default)
    return app
