"""Starlette: static files, sessions, middleware, templates, compression, mounted applications."""

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, BaseUser, SimpleUser, requires
from starlette.background import BackgroundTask
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates
from starlette.websockets import WebSocket

FILES = Path(os.environ["STATIC_FILES"])
templates = Jinja2Templates(directory=Path(__file__).parent / "templates")
done: list[str] = []


class Cookie(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        name = conn.session.get("user")
        return (AuthCredentials(["authenticated"]), SimpleUser(name)) if name else None


class Timing(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        request.state.seen = "by the middleware"
        response = await call_next(request)
        response.headers["x-timing"] = "taken"
        return response


async def page(request: Request) -> Response:
    return templates.TemplateResponse(request, "page.html", {"title": "<Starlette>", "items": ["one", "two"]})


async def login(request: Request) -> Response:
    async with request.form() as form:
        request.session["user"] = str(form["user"])
    return RedirectResponse(request.url_for("home"), status_code=303)


@requires("authenticated", status_code=403)
async def home(request: Request) -> Response:
    visits = request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse({"user": request.user.display_name, "visits": visits, "seen": request.state.seen})


async def logout(request: Request) -> Response:
    request.session.clear()
    return PlainTextResponse("bye")


async def upload(request: Request) -> Response:
    async with request.form(max_part_size=32 * 1024 * 1024) as form:
        file = form["file"]
        content = await file.read()
        return JSONResponse({"name": file.filename, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()})


async def numbers(request: Request) -> Response:
    async def pieces() -> AsyncIterator[str]:
        for number in range(int(request.query_params["count"])):
            yield f"{number}\n"

    return StreamingResponse(pieces(), media_type="text/plain")


async def download(request: Request) -> Response:
    return FileResponse(FILES / "large.bin", filename="large.bin")


async def task(request: Request) -> Response:
    return PlainTextResponse("accepted", background=BackgroundTask(done.append, request.query_params["name"]))


async def tasks(request: Request) -> Response:
    return JSONResponse(done)


async def urls(request: Request) -> Response:
    return JSONResponse({"url": str(request.url), "base": str(request.base_url), "home": str(request.url_for("home"))})


class Item(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse(f"item {request.path_params['id']}")

    async def put(self, request: Request) -> Response:
        return JSONResponse({"id": request.path_params["id"], "body": await request.json()}, status_code=201)


class Echo(WebSocketEndpoint):
    encoding = "bytes"

    async def on_receive(self, websocket: WebSocket, data: bytes) -> None:
        await websocket.send_bytes(data[::-1])

    async def on_disconnect(self, websocket: WebSocket, close_code: int) -> None:
        done.append(f"websocket {close_code}")


async def teapot(request: Request, error: Exception) -> Response:
    return PlainTextResponse("a page of our own", status_code=404)


app = Starlette(
    routes=[
        Route("/", page),
        Route("/login", login, methods=["POST"]),
        Route("/home", home),
        Route("/logout", logout),
        Route("/upload", upload, methods=["POST"]),
        Route("/numbers", numbers),
        Route("/download", download),
        Route("/task", task),
        Route("/tasks", tasks),
        Route("/urls", urls),
        Route("/items/{id:int}", Item),
        WebSocketRoute("/echo", Echo),
        Mount("/static", StaticFiles(directory=FILES, html=True), name="static"),
        Mount("/api", routes=[Route("/urls", urls), Route("/items/{id:int}", Item)]),
    ],
    middleware=[
        Middleware(GZipMiddleware, minimum_size=500),
        Middleware(SessionMiddleware, secret_key="a test's"),
        Middleware(AuthenticationMiddleware, backend=Cookie()),
        Middleware(Timing),
    ],
    exception_handlers={404: teapot},
)
