"""Who is measured, and on what: two tables. A new server is a row of CONTENDERS, a new question a row of CASES."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Contender:
    """A server with its application. `command(port)` runs with APPS as working directory and stays in the foreground."""

    name: str
    what: str
    command: Callable[[int], list[str]]
    packages: tuple[str, ...] = ()


def tool(name: str) -> str:
    """A program that pip put beside the running interpreter."""
    return str(Path(sys.executable).parent / name)


def uvicorn(name: str, what: str, app: str, loop: str, *packages: str) -> Contender:
    def command(port: int) -> list[str]:
        return [
            *(tool("uvicorn"), app, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
            *("--http", "httptools", "--loop", loop, "--no-access-log", "--log-level", "warning"),
        ]

    return Contender(name, what, command, ("uvicorn", "httptools", "uvloop", *packages))


def granian(name: str, what: str, app: str, interface: str, *packages: str) -> Contender:
    """One worker process, as its own benchmarks run it: uvloop, no WebSocket, backlog 2048."""

    def command(port: int) -> list[str]:
        return [
            *(tool("granian"), app, "--interface", interface, "--host", "127.0.0.1", "--port", str(port)),
            *("--workers", "1", "--runtime-threads", "1", "--loop", "uvloop", "--http", "1", "--no-ws"),
            *("--backlog", "2048", "--log-level", "warning"),
        ]

    return Contender(name, what, command, ("granian", "uvloop", *packages))


def fastpysgi(name: str, what: str, app: str) -> Contender:
    def command(port: int) -> list[str]:
        return [tool("fastpysgi"), app, "--host", "127.0.0.1", "--port", str(port)]

    return Contender(name, what, command, ("fastpysgi",))


def contenders(ours: Path) -> tuple[Contender, ...]:
    """Everybody, ours first; `ours` is the `fasterapi` binary."""

    def command(port: int) -> list[str]:
        return [
            *(str(ours), "run", "edge_app:app", "--host", "127.0.0.1", "--port", str(port)),
            *("--workers", "1", "--shards", "1", "--app-dir", str(APPS)),
        ]

    return (
        Contender(OURS, "ours, native handlers: 1 shard + 1 worker", command),
        granian("granian-rsgi", "Granian, raw RSGI application", "raw_rsgi:app", "rsgi"),
        granian("granian-asgi", "Granian, raw ASGI application", "raw_asgi:app", "asgi"),
        fastpysgi("fastpysgi-asgi", "FastPySGI, raw ASGI application", "raw_asgi:app"),
        fastpysgi("fastpysgi-wsgi", "FastPySGI, raw WSGI application (no coroutine)", "raw_wsgi:app"),
        uvicorn("uvicorn", "uvicorn with httptools and uvloop, raw ASGI application", "raw_asgi:app", "uvloop"),
        uvicorn("uvicorn-asyncio", "uvicorn with httptools on asyncio, raw ASGI application", "raw_asgi:app", "asyncio"),
        granian("fastapi-granian", "FastAPI on Granian (ASGI)", "fastapi_app:app", "asgi", "fastapi", "pydantic"),
        uvicorn(
            *("fastapi-uvicorn", "FastAPI on uvicorn with httptools and uvloop", "fastapi_app:app", "uvloop"),
            *("fastapi", "pydantic"),
        ),
    )
