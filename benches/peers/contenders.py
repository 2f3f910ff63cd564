"""Who is measured, and on what: two tables. A new server is a row of `contenders`, a new question a row of CASES."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

APPS = Path(__file__).parent / "apps"
OURS = "fasterapi"


@dataclass(frozen=True)
class Case:
    """One request, and the JSON that must come back with status 200."""

    name: str
    path: str
    answer: Any
    what: str


CASES = (
    Case("user", "/user/42", {"user_id": 42, "name": "User 42"}, "GET /user/42: an int out of the path, JSON back"),
    Case("hello", "/hello", {"message": "Hello, World!"}, "GET /hello: constant JSON"),
)


Family = Literal["native", "asgi", "wsgi", "fastapi"]
"""What the application is written for. Only servers of one family do the same work."""


@dataclass(frozen=True)
class Contender:
    """A server with its application. `command(port)` runs with APPS as working directory and stays in the foreground.

    `option` is one that our binary must know; empty for other servers."""

    name: str
    what: str
    family: Family
    command: Callable[[int], list[str]]
    packages: tuple[str, ...] = ()
    ours: bool = False
    option: str = ""


def tool(name: str) -> str:
    """A program that pip put beside the running interpreter."""
    return str(Path(sys.executable).parent / name)


def fasterapi(binary: Path, name: str, what: str, family: Family, app: str, *arguments: str, workers: int = 1) -> Contender:
    """One shard, whatever the number of workers. Its workers run the interpreter and the packages that the others have: these."""

    def command(port: int) -> list[str]:
        return [
            *(str(binary), "run", app, "--host", "127.0.0.1", "--port", str(port)),
            *("--workers", str(workers), "--shards", "1", "--app-dir", str(APPS), "--python", sys.executable, *arguments),
        ]

    return Contender(name, what, family, command, ours=True, option=arguments[0] if arguments else "")


def uvicorn(name: str, what: str, family: Family, app: str, loop: str, *packages: str, workers: int = 1) -> Contender:
    def command(port: int) -> list[str]:
        return [
            *(tool("uvicorn"), app, "--host", "127.0.0.1", "--port", str(port), "--workers", str(workers)),
            *("--http", "httptools", "--loop", loop, "--no-access-log", "--log-level", "warning"),
        ]

    return Contender(name, what, family, command, ("uvicorn", "httptools", "uvloop", *packages))


def gunicorn(name: str, what: str, family: Family, app: str, worker: str, *arguments: str, workers: int = 1) -> Contender:
    """`worker` is its worker class; uvicorn's is a package of its own."""

    def command(port: int) -> list[str]:
        return [
            *(tool("gunicorn"), app, "--bind", f"127.0.0.1:{port}", "--workers", str(workers), "--worker-class", worker),
            *("--backlog", "2048", "--log-level", "warning", "--no-control-socket", "--chdir", str(APPS), *arguments),
        ]

    packages = ("gunicorn", "uvicorn", "uvicorn-worker", "httptools", "uvloop") if "uvicorn" in worker else ("gunicorn",)
    return Contender(name, what, family, command, packages)


def granian(
    name: str, what: str, family: Family, app: str, interface: str, *packages: str, workers: int = 1, websockets: bool = False
) -> Contender:
    """As its own benchmarks run it: uvloop, one runtime thread and one blocking thread to a worker, no WebSocket, backlog 2048."""

    def command(port: int) -> list[str]:
        return [
            *(tool("granian"), app, "--interface", interface, "--host", "127.0.0.1", "--port", str(port)),
            *("--workers", str(workers), "--runtime-threads", "1", "--loop", "uvloop", "--http", "1"),
            "--ws" if websockets else "--no-ws",
            *(("--blocking-threads", "1") if interface == "wsgi" else ()),
            *("--backlog", "2048", "--log-level", "warning"),
        ]

    return Contender(name, what, family, command, ("granian", "uvloop", *packages))


def fastpysgi(name: str, what: str, family: Family, app: str) -> Contender:
    def command(port: int) -> list[str]:
        return [tool("fastpysgi"), app, "--host", "127.0.0.1", "--port", str(port)]

    return Contender(name, what, family, command, ("fastpysgi",))


UVICORN_WORKER = "uvicorn_worker.UvicornWorker"


def contenders(ours: Path) -> tuple[Contender, ...]:
    """Everybody, ours first; `ours` is the `fasterapi` binary."""
    fastapi = ("fastapi", "pydantic")
    return (
        fasterapi(ours, OURS, "ours, native handlers: 1 shard + 1 worker", "native", "edge_app:app"),
        fasterapi(ours, f"{OURS}-asgi", "ours, raw ASGI application", "asgi", "raw_asgi:app", "--interface", "asgi"),
        fasterapi(ours, f"{OURS}-wsgi", "ours, raw WSGI application", "wsgi", "raw_wsgi:app", "--interface", "wsgi"),
        fasterapi(
            *(ours, f"fastapi-{OURS}", "FastAPI on ours (ASGI)", "fastapi", "fastapi_app:app"),
            *("--interface", "asgi"),
        ),
        granian("granian-rsgi", "Granian, raw RSGI application", "native", "raw_rsgi:app", "rsgi"),
        granian("granian-asgi", "Granian, raw ASGI application", "asgi", "raw_asgi:app", "asgi"),
        granian("granian-wsgi", "Granian, raw WSGI application", "wsgi", "raw_wsgi:app", "wsgi"),
        fastpysgi("fastpysgi-asgi", "FastPySGI, raw ASGI application", "asgi", "raw_asgi:app"),
        fastpysgi("fastpysgi-wsgi", "FastPySGI, raw WSGI application (no coroutine)", "wsgi", "raw_wsgi:app"),
        uvicorn("uvicorn", "uvicorn with httptools and uvloop, raw ASGI application", "asgi", "raw_asgi:app", "uvloop"),
        uvicorn(
            "uvicorn-asyncio", "uvicorn with httptools on asyncio, raw ASGI application", "asgi", "raw_asgi:app", "asyncio"
        ),
        gunicorn(
            "gunicorn-uvicorn", "gunicorn with a uvicorn worker, raw ASGI application", "asgi", "raw_asgi:app", UVICORN_WORKER
        ),
        gunicorn(
            "gunicorn-sync",
            "gunicorn, sync worker (a connection per request), raw WSGI application",
            "wsgi",
            "raw_wsgi:app",
            "sync",
        ),
        gunicorn(
            *("gunicorn-gthread", "gunicorn, one thread (gthread, keep-alive), raw WSGI application", "wsgi", "raw_wsgi:app"),
            *("gthread", "--threads", "1"),
        ),
        granian("fastapi-granian", "FastAPI on Granian (ASGI)", "fastapi", "fastapi_app:app", "asgi", *fastapi),
        uvicorn(
            "fastapi-uvicorn", "FastAPI on uvicorn with httptools and uvloop", "fastapi", "fastapi_app:app", "uvloop", *fastapi
        ),
    )
