"""ASGI applications: their lifespan, and what the native side does not do itself.

Source: https://asgi.readthedocs.io/en/latest/specs/. Log lines are worded as uvicorn's, which people know.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

from fasterapi._files import copy_file, open_file
from fasterapi._load import is_coroutine_callable, is_double_callable
from fasterapi._loop import attend
from fasterapi._threads import ThreadPool

if TYPE_CHECKING:
    from fasterapi._native import Answer, AsgiEndpoint, Cycle, Exchange, Lanes
    from fasterapi._response import Response

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi3 = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]
LifespanMode = Literal["auto", "on", "off"]

log = logging.getLogger("fasterapi.asgi")

_THREADS = 8
"""For files that are sent by name; an application brings threads of its own."""


class LifespanFailed(Exception):
    """The application has reported that it cannot start, with this message."""


def as_asgi3(app: Any) -> Asgi3:
    """The application as one coroutine function."""
    if is_double_callable(app):

        async def from_two(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope)(receive, send)

        return from_two
    if is_coroutine_callable(app):
        function: Asgi3 = app
        return function

    async def from_awaitable(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)

    return from_awaitable


class Lifespan:
    """One call of the application that lasts from startup to shutdown."""

    def __init__(self, app: Asgi3, mode: LifespanMode, state: dict[str, Any]) -> None:
        self._app, self._mode, self._state = app, mode, state
        self._events: asyncio.Queue[Message] = asyncio.Queue()
        self._started, self._stopped = asyncio.Event(), asyncio.Event()
        self._startup_failure: str | None = None
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Raises LifespanFailed when the application says that it failed, and what it raised if it has to take part."""
        if self._mode == "off":
            return
        self._events.put_nowait({"type": "lifespan.startup"})
        self._task = asyncio.ensure_future(self._run())
        await self._started.wait()
        if self._startup_failure is not None:
            raise LifespanFailed(self._startup_failure or "Application startup failed.")
        if self._error is not None and self._mode == "on":
            raise self._error

    async def shutdown(self) -> None:
        if self._task is None or self._task.done():
            return
        self._events.put_nowait({"type": "lifespan.shutdown"})
        await self._stopped.wait()
        # What it does behind its last message is its own business, within the worker's time.
        await asyncio.sleep(0)

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": self._state}
        try:
            await self._app(scope, self._receive, self._send)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._error = error
            if self._started.is_set() and self._startup_failure is None:
                log.error("Exception in 'lifespan' protocol", exc_info=error)
            elif self._startup_failure is None and self._mode == "auto":
                log.info("ASGI 'lifespan' protocol appears unsupported.")
        finally:
            self._started.set()
            self._stopped.set()

    async def _receive(self) -> Message:
        return await self._events.get()

    async def _send(self, message: Message) -> None:
        kind = message["type"]
        expected = "lifespan.shutdown" if self._started.is_set() else "lifespan.startup"
        if kind not in (f"{expected}.complete", f"{expected}.failed"):
            raise RuntimeError(f"Expected ASGI message '{expected}.complete', but got '{kind}'.")
        if kind == "lifespan.startup.failed":
            self._startup_failure = message.get("message", "")
        elif kind == "lifespan.shutdown.failed":
            log.error("Application shutdown failed. %s", message.get("message", ""))
        (self._stopped if self._started.is_set() else self._started).set()


class AsgiApplication:
    """An application of any ASGI framework."""

    def __init__(
        self, app: Any, *, server: Sequence[Any] | None = None, root_path: str = "", lifespan: LifespanMode = "auto"
    ) -> None:
        self._app = as_asgi3(app)
        self._server = None if server is None else tuple(server)
        self._root_path = root_path
        self._lifespan = lifespan
        self._state: dict[str, Any] = {}
        self._threads = ThreadPool(_THREADS)

    def life(self) -> AbstractAsyncContextManager[None]:
        return self._life()

    @asynccontextmanager
    async def _life(self) -> AsyncIterator[None]:
        lifespan = Lifespan(self._app, self._lifespan, self._state)
        await lifespan.startup()
        yield
        await lifespan.shutdown()

    def endpoints(self) -> "Sequence[AsgiEndpoint]":
        from fasterapi._native import AsgiEndpoint

        return [
            AsgiEndpoint(self._app, state=self._state, root_path=self._root_path, server=self._server, pathsend=self._send_path)
        ]

    def manifest(self) -> dict[str, Any]:
        return {"routes": [], "catch_all": True}

    def attend(self, loop: asyncio.AbstractEventLoop, lanes: "Lanes") -> Callable[[], None]:
        return attend(loop, lanes)

    def fail(self, error: BaseException, exchange: "Exchange") -> "Answer":
        if error.__traceback__ is None:
            log.error("%s", error)  # Of the native side, about what the application did not do.
        else:
            log.error("Exception in ASGI application", exc_info=error)
        return 500, [(b"content-type", b"text/plain; charset=utf-8")], b"Internal Server Error"

    async def deliver(self, response: "Response", exchange: "Exchange") -> None:
        raise TypeError("an ASGI application has no results")

    def close(self) -> None:
        self._threads.close()

    async def _send_path(self, cycle: "Cycle", exchange: "Exchange", path: str) -> None:
        """The extension http.response.pathsend."""
        file = await self._threads.run(open_file, path)
        with contextlib.closing(file):
            size = (await self._threads.run(file.seek, 0, 2)) or 0
            trails = cycle.begin(size)
            if exchange.method == "HEAD":
                await exchange.write(b"", end=not trails)
            else:
                await copy_file(file, range(size), exchange, self._threads, end=not trails)
            if trails:
                cycle.await_trailers()
