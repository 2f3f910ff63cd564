"""The handler model, one route for each of its promises."""

import asyncio
import contextvars
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fasterapi import (
    APIRouter,
    Cookie,
    FastAPI,
    Header,
    HTMLResponse,
    HTTPException,
    JSONResponse,
    PlainTextResponse,
    Query,
    RedirectResponse,
    Request,
    Response,
)
from fasterapi.fastapi_compat import FastAPI as CompatibleFastAPI
from fasterapi.test_handlers import root
from pydantic import BaseModel, Field

assert CompatibleFastAPI is FastAPI

RENDEZVOUS = 128

app = FastAPI()
app.get("/")(root)


class Item(BaseModel):
    name: str = Field(min_length=2)
    price: float = Field(gt=0)
    tags: list[str] = []


@dataclass
class Point:
    x: int
    y: int = 0


@app.get("/path/{number}/{rest:path}")
async def path(number: int, rest: str) -> dict[str, Any]:
    return {"number": number, "rest": rest}


@app.get("/text/{text}")
async def text(text: str) -> str:
    return text


@app.get("/query")
async def query(
    needed: int, flag: bool = False, name: str | None = None, many: Annotated[list[int] | None, Query()] = None
) -> dict[str, Any]:
    return {"needed": needed, "flag": flag, "name": name, "many": many}


@app.get("/fields")
async def fields(
    x_token: Annotated[str, Header()],
    x_many: Annotated[list[str] | None, Header()] = None,
    session: Annotated[str | None, Cookie()] = None,
) -> dict[str, Any]:
    return {"token": x_token, "many": x_many, "session": session}


@app.post("/item", status_code=201)
async def add_item(item: Item) -> Item:
    return item


@app.put("/point")
def put_point(point: Point) -> Point:
    return Point(point.y, point.x)


@app.patch("/dict")
async def patch_dict(body: dict[str, int]) -> dict[str, int]:
    return {key: value + 1 for key, value in body.items()}


@app.post("/list")
async def post_list(body: list[Item]) -> int:
    return len(body)


@app.delete("/item/{name}", status_code=204)
async def delete_item(name: str) -> None:
    assert name


@app.head("/only-head")
async def only_head() -> Response:
    return Response(headers={"x-seen": "yes"})


@app.options("/own-options")
async def own_options() -> dict[str, str]:
    return {"own": "options"}


RESULTS: dict[str, Any] = {
    "dict": {"a": [1, 2.5, None, True]},
    "list": [1, "zwei"],
    "str": "grün",
    "int": 7,
    "float": 0.5,
    "bool": False,
    "none": None,
    "model": Item(name="lamp", price=1),
}


@app.get("/result/{kind}")
async def result(kind: str) -> Any:
    return RESULTS[kind]


RESPONSES: dict[str, Callable[[], Response]] = {
    "json": lambda: JSONResponse({"a": 1}, 202, {"x-kind": "json"}),
    "html": lambda: HTMLResponse("<p>ü</p>"),
    "text": lambda: PlainTextResponse("ü"),
    "redirect": lambda: RedirectResponse("/text/x y"),
    "bytes": lambda: Response(b"\0\xff", media_type="application/octet-stream"),
    "empty": lambda: Response(status_code=204),
}


@app.get("/response/{kind}")
def response(kind: str) -> Response:
    return RESPONSES[kind]()


@app.get("/refused")
async def refused() -> None:
    raise HTTPException(418, {"why": "teapot"}, {"x-pot": "tea"})


@app.get("/fails")
async def fails() -> None:
    raise RuntimeError("not for the client")


@app.get("/fails-in-thread")
def fails_in_thread() -> None:
    raise RuntimeError("not for the client")


class Teapot(Exception):
    pass


@app.exception_handler(Teapot)
async def teapot(request: Request, _error: Teapot) -> JSONResponse:
    return JSONResponse({"handled": request.url.path}, 418)


@app.get("/teapot")
async def raises_teapot() -> None:
    raise Teapot


@app.get("/unsendable/{kind}")
async def unsendable(kind: str) -> Any:
    return {"object": object, "status": Response(b"x", 999), "field": Response(b"x", headers={"x-bad": "a\r\nx-evil: 1"})}[kind]


router = APIRouter(prefix="/inner")


@router.get("/leaf")
async def leaf() -> str:
    return "leaf"


app.include_router(router, prefix="/outer")


# --- many at once --------------------------------------------------------------------------------------------------

barrier = threading.Barrier(2, timeout=20)
arrived = 0
all_arrived = asyncio.Event()


@app.get("/meet-in-threads")
def meet_in_threads() -> str:
    barrier.wait()
    return threading.current_thread().name


@app.get("/meet/{number}")
async def meet(number: int) -> dict[str, int]:
    global arrived
    arrived += 1
    if arrived == RENDEZVOUS:
        all_arrived.set()
    await all_arrived.wait()
    return {"number": number, "arrived": arrived}


variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


async def _set(value: str) -> None:
    await asyncio.sleep(0)
    variable.set(value)


@app.get("/context/{value}")
async def context(value: str, wait: bool = True) -> dict[str, Any]:
    """What is set in one request is seen to its end, and in no other one."""
    before = variable.get()
    variable.set(value)
    if wait:
        await asyncio.sleep(0)
        await _set(value + "!")
        await asyncio.create_task(_set("lost with the task"))
    return {"before": before, "after": variable.get()}


@app.get("/task")
async def task(wait: bool = False) -> dict[str, Any]:
    first = asyncio.current_task()
    assert first is not None
    if wait:
        await asyncio.sleep(0)
    async with asyncio.timeout(20) if hasattr(asyncio, "timeout") else _nothing():
        same = asyncio.current_task() is first
    return {"same": same, "is_task": isinstance(first, asyncio.Task), "name": bool(first.get_name())}


class _nothing:  # noqa: N801
    async def __aenter__(self) -> None: ...
    async def __aexit__(self, *_: object) -> None: ...
