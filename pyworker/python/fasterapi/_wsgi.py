"""WSGI applications: their threads, and what all their environs have in common.

Invariant: once serving has begun, the lanes' records are taken by the application's threads (natively), and the event loop only
looks after those that nobody takes because every thread is busy. A thread cannot be cancelled: one that has not ended when the
worker has to leave is left behind, with a line in the log.

Source: https://peps.python.org/pep-3333/
"""

import asyncio
import atexit
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fasterapi._native import Answer, Exchange, Lanes, WsgiEndpoint
    from fasterapi._response import Response

log = logging.getLogger("fasterapi.wsgi")

_RELIEF_S = 1.0
"""How often the loop looks for records that no thread takes; the edge waits ten times as long before it calls a worker stuck."""
_JOIN_S = 5.0
"""How long threads may take after the last answer."""


class WsgiApplication:
    """An application of any WSGI framework."""

    def __init__(
        self, app: Callable[..., Any], *, server: Sequence[Any] | None = None, root_path: str = "", threads: int = 1
    ) -> None:
        self._app = app
        self._server = server
        self._root_path = root_path
        self._count = threads
        self._threads: list[threading.Thread] = []

    def life(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    def environ(self) -> dict[str, Any]:
        """What every request's environ begins as."""
        from fasterapi._native import FileWrapper

        host, port = self._server or ("", None)
        return {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": self._root_path.encode().decode("latin-1"),
            "PATH_INFO": "",
            "QUERY_STRING": "",
            # Of a Unix socket there is neither.
            "SERVER_NAME": "localhost" if port is None else host,
            "SERVER_PORT": "80" if port is None else str(port),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": None,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": self._count > 1,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            "wsgi.file_wrapper": FileWrapper,
            "wsgi.input_terminated": True,
        }

    def endpoints(self) -> "Sequence[WsgiEndpoint]":
        from fasterapi._native import WsgiEndpoint

        return [WsgiEndpoint(self._app, environ=self.environ(), report=self.report, root_path=self._root_path)]

    def manifest(self) -> dict[str, Any]:
        return {"routes": [], "catch_all": True}

    def attend(self, loop: asyncio.AbstractEventLoop, lanes: "Lanes") -> Callable[[], None]:
        self._threads = [threading.Thread(target=lanes.work, name=f"wsgi-{place}", daemon=True) for place in range(self._count)]
        for thread in self._threads:
            thread.start()
        timer: asyncio.TimerHandle

        def relieve() -> None:
            nonlocal timer
            timer = loop.call_later(_RELIEF_S, relieve)
            lanes.relieve()

        timer = loop.call_later(_RELIEF_S, relieve)

        def end() -> None:
            timer.cancel()
            lanes.dismiss()

        return end

    def report(self, error: BaseException) -> None:
        """What the application raised, or did wrong."""
        if error.__traceback__ is None:
            log.error("%s", error)
        else:
            log.error("Exception in WSGI application", exc_info=error)

    def fail(self, error: BaseException, exchange: "Exchange") -> "Answer":
        raise TypeError("a WSGI application's failures are answered natively")

    async def deliver(self, response: "Response", exchange: "Exchange") -> None:
        raise TypeError("a WSGI application's results are delivered natively")

    def close(self) -> None:
        """Waits for the threads. Where one does not end, the process does: finalizing would end the thread in mid-call."""
        deadline = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        late = sum(thread.is_alive() for thread in self._threads)
        if late:
            log.warning("%d thread(s) of the application are left behind: they did not end in time", late)
            atexit._run_exitfuncs()
            logging.shutdown()
            os._exit(0)
