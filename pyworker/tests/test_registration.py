"""What is refused where it is written, rather than ignored where it runs."""

import functools
from typing import Annotated, Any

import fastapi
import pytest
from pydantic import BaseModel

import fasterapi
import future_annotations
from fakes import Edge
from fasterapi import APIRouter, App, Body, Depends, FastAPI, Path, Query
from fasterapi._endpoint import compile_route
from fasterapi.fastapi_compat import FastAPI as CompatFastAPI


def test_one_class_under_three_names() -> None:
    assert App is FastAPI is CompatFastAPI
    assert all(hasattr(fasterapi, name) for name in fasterapi.__all__)


def test_names_where_fastapi_has_them() -> None:
    import fasterapi.exceptions
    import fasterapi.requests
    import fasterapi.responses

    assert fasterapi.exceptions.HTTPException is fasterapi.HTTPException
    assert fasterapi.requests.Request is fasterapi.Request
    assert fasterapi.responses.Response is fasterapi.Response
    theirs = {name: value for name, value in vars(fastapi.status).items() if name.startswith("HTTP_")}
    ours = vars(fasterapi.status)
    assert {name: ours.get(name) for name in theirs} == theirs


def test_decorator_returns_the_function() -> None:
    app = FastAPI()

    async def handler() -> None: ...

    assert app.get("/")(handler) is handler
    assert app.routes[0].endpoint is handler
    assert app.routes[0].name == "handler"


def test_unknown_keywords() -> None:
    with pytest.raises(TypeError, match="colour"):
        FastAPI(colour="red")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="colour"):
        FastAPI().get("/", colour="red")(lambda: None)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Query\(\).*colour"):
        Query(colour="red")  # type: ignore[call-arg]


class Marker:
    pass


def foreign_default(q: int = fastapi.Query(3)) -> None: ...
def foreign_annotated(q: Annotated[int, fastapi.Query()]) -> None: ...
def foreign_depends(q: int = fastapi.Depends(foreign_annotated)) -> None: ...
def unknown_marker(q: int = Marker()) -> None: ...  # type: ignore[assignment]
def two_markers(q: Annotated[int, Query()] = Query(3)) -> None: ...
def default_inside(q: Annotated[int, Query(3)]) -> None: ...
def not_in_query(q: Annotated[dict[str, int], Query()]) -> None: ...
def star(*args: int) -> None: ...
def stars(**kwargs: int) -> None: ...
def unresolvable(q: "NoSuchName") -> None: ...  # type: ignore[name-defined]  # noqa: F821
def unresolvable_result() -> "NoSuchName": ...  # type: ignore[name-defined]  # noqa: F821
def not_for_pydantic(q: Marker) -> None: ...
def path_from_query(name: int = Query()) -> None: ...
def yields() -> Any:
    yield 1


def cyclic(q: int) -> int: ...  # type: ignore[empty-body]


cyclic.__annotations__["q"] = Annotated[int, Depends(cyclic)]


@pytest.mark.parametrize(
    ("handler", "message"),
    [
        (foreign_default, r"foreign_default: parameter 'q' is marked with fastapi\.params\.Query"),
        (foreign_annotated, r"import Query from fasterapi"),
        (foreign_depends, r"fastapi\.params\.Depends"),
        (unknown_marker, r"test_registration\.Marker, is neither a value .* nor a marker"),
        (two_markers, "one marker in Annotated and another"),
        (default_inside, "with `=`"),
        (not_in_query, "cannot be read from the query"),
        (star, "functools.wraps"),
        (stars, "functools.wraps"),
        (unresolvable, "'NoSuchName' cannot be resolved"),
        (not_for_pydantic, "pydantic refuses"),
        (path_from_query, "'name' is part of the path"),
        (unresolvable_result, "response_model=None"),
        (yields, "not supported yet"),
        (cyclic, "cyclic depends on itself"),
    ],
)
def test_refused_handlers(handler: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        FastAPI().get("/{name}")(handler)


@pytest.mark.parametrize("path", ["no-slash", "/{a}/{a}", "/{a", "/{a:regex}", "/{1}"])
def test_refused_paths(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        FastAPI().get(path)(lambda: None)


def test_refused_routers() -> None:
    with pytest.raises(ValueError, match="prefix"):
        APIRouter(prefix="x/")
    router = APIRouter()
    router.get("")(lambda: None)
    with pytest.raises(ValueError, match="no path"):
        FastAPI().include_router(router)
    with pytest.raises(ValueError, match="itself"):
        router.include_router(router)
    with pytest.raises(TypeError, match="path parameter cannot have a default"):
        Path(3)


def test_future_annotations() -> None:
    edge = Edge(future_annotations.app)
    assert edge.request("GET", "/thing/3?q=x").json() == {"id": 3, "q": "x"}
    assert edge.request("GET", "/thing/x").status_code == 422
    body = b'{"name": "n"}'
    reply = edge.request("POST", "/thing", headers=[("content-type", "application/json")], body=body)
    assert reply.json() == {"name": "n"}


def test_wrapped_handlers_keep_their_signature() -> None:
    def traced(call: Any) -> Any:
        @functools.wraps(call)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return ["traced", await call(*args, **kwargs)]

        return wrapper

    app = FastAPI()

    @app.get("/{value}")
    @traced
    async def handler(value: int) -> int:
        return value

    assert Edge(app).request("GET", "/3").json() == ["traced", 3]


class Model(BaseModel):
    name: str


async def nothing() -> None: ...
async def two(b: int, a: str) -> None: ...
async def every(a: bool, b: float) -> None: ...
async def bare(a, b) -> None: ...  # type: ignore[no-untyped-def]
async def limited(a: Annotated[int, Path(ge=1)], b: int) -> None: ...
async def query(a: int, b: int, q: int = 1) -> None: ...
async def keyword(a: int, *, b: int) -> None: ...
async def request(a: int, b: int, r: fasterapi.Request) -> None: ...
async def body(a: int, b: int, m: Any = Body()) -> None: ...
async def depends(a: int, b: int, d: Any = Depends(nothing)) -> None: ...
async def optional(a: int | None, b: int) -> None: ...
async def model(a: int, b: int) -> Model: ...  # type: ignore[empty-body]
async def builtin(a: int, b: int) -> dict[str, Any]: ...  # type: ignore[empty-body]
def sync(a: int, b: int) -> None: ...


@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        (nothing, ()),
        (two, ((1, "int"), (0, "str"))),
        (every, ((0, "bool"), (1, "float"))),
        (bare, ((0, "str"), (1, "str"))),
        (builtin, ((0, "int"), (1, "int"))),
        *((handler, None) for handler in (limited, query, keyword, request, body, depends, optional, model, sync)),
    ],
)
def test_the_fast_way_is_for_the_plainest(handler: Any, expected: Any) -> None:
    app = FastAPI()
    app.get("/{a}/{b}")(handler)
    spec = compile_route(app.routes[0], app)
    assert (spec.fast_args if spec.fast else None) == expected
    assert spec.param_names == ("a", "b")


def test_the_fast_way_ends_where_something_happens_around_the_call() -> None:
    app = FastAPI()
    app.get("/", status_code=204)(nothing)
    app.get("/", response_class=fasterapi.PlainTextResponse)(nothing)
    assert [compile_route(route, app).fast for route in app.routes] == [None, None]
    app = FastAPI(exception_handlers={KeyError: lambda request, error: None})
    app.get("/")(nothing)
    assert compile_route(app.routes[0], app).fast is None
