"""A worker process: takes its lanes from the edge, imports the application, answers until it is told to stop.

Invariant: after the attach message the edge hears exactly one of `ready` and `failed`, and `failed` is followed by exit code 3;
each of its pings is answered by one pong, from the event loop.
Nothing here restarts anything: that is the edge's business.
"""

import asyncio
import faulthandler
import json
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import orjson

from fasterapi import _json
from fasterapi._application import Application, FastAPIApplication
from fasterapi._asgi import AsgiApplication, LifespanMode
from fasterapi._control import Control, ControlClosed
from fasterapi._load import AnyInterface, load
from fasterapi._loop import LoopKind, LoopMissing, new_loop, patch_current_task
from fasterapi._response import encode
from fasterapi._wsgi import WsgiApplication

if TYPE_CHECKING:
    from fasterapi._native import Lanes

log = logging.getLogger("fasterapi.worker")

EXIT_FAILED = 3
DUMP_SIGNAL = 16
"""SIGSTKFLT, by which the edge asks for the stacks of all threads when the event loop is stuck. No kernel sends it and no
application is known to use it; `signal` names it since Python 3.11."""
_IN_FLIGHT_POLL_S = 0.002
_STRAY_TASKS_S = 5.0
"""How long tasks that handlers left behind may take after the last answer. The edge's own deadline stands above this."""


class Attach(TypedDict, total=False):
    """The part of the attach message that is not the lanes' own."""

    worker: int
    incarnation: int
    parent: int
    app: str
    app_dir: str | None
    debug: bool
    log_level: str
    server: tuple[str, int | None]
    interface: AnyInterface
    factory: bool
    root_path: str
    lifespan: LifespanMode
    threads: int
    loop: LoopKind


class _Failed(Exception):
    def __init__(self, stage: Literal["import", "startup"]) -> None:
        super().__init__(stage)
        self.stage = stage


def main() -> int:
    """Runs the worker on the control channel that stands on descriptor 0; returns the exit code."""
    # Ctrl-C reaches the whole foreground group: what it means for the workers is for the edge to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    # In C, at once: a loop that is stuck runs no Python handler. The application may have its own stderr, so it keeps this one.
    faulthandler.register(DUMP_SIGNAL, file=os.fdopen(os.dup(2), "w"), all_threads=True)
    control = Control.from_stdin()
    try:
        return _run(control)
    except ControlClosed:
        return 1


def _run(control: Control) -> int:
    line, fds = control.receive_attach()
    attach: Attach = json.loads(line)["attach"]
    _configure_logging(attach)
    undo: Callable[[], None] | None = None
    loop: asyncio.AbstractEventLoop | None = None
    try:
        try:
            from fasterapi import _native

            _native.die_with_parent(attach["parent"])
            lanes = _native.Lanes(line, fds)
        except Exception as error:
            raise _Failed("startup") from error
        try:
            loop = new_loop(attach.get("loop", "auto"), lanes)
        except LoopMissing as error:
            raise _Failed("startup") from error
        asyncio.set_event_loop(loop)
        undo = patch_current_task(lanes.current_task, loop)
        try:
            app = _load(attach)
        except (Exception, SystemExit) as error:
            raise _Failed("import") from error
        loop.run_until_complete(_Serving(control, lanes, app, attach["app"]).run())
        loop.run_until_complete(loop.shutdown_asyncgens())
        app.close()
        return 0
    except _Failed as failure:
        cause = failure.__cause__ or failure
        # Where it was found missing says nothing.
        said_all = isinstance(cause, LoopMissing)
        control.send(
            "failed",
            {
                "stage": failure.stage,
                "error": str(cause) if said_all else " ".join(traceback.format_exception_only(cause)[-1].split()),
                "traceback": "" if said_all else "".join(traceback.format_exception(cause)),
            },
        )
        return EXIT_FAILED
    finally:
        if undo is not None:
            undo()
        if loop is not None:
            asyncio.set_event_loop(None)
            _cancel_all(loop)
            loop.close()


def _load(attach: Attach) -> Application:
    interface, factory = attach.get("interface", "auto"), attach.get("factory", False)
    found = load(attach["app"], attach.get("app_dir"), interface=interface, factory=factory)
    if found.interface == "native":
        return FastAPIApplication(found.app, debug=attach.get("debug", False))
    if found.interface == "asgi":
        return AsgiApplication(
            found.app,
            server=attach.get("server"),
            root_path=attach.get("root_path", ""),
            lifespan=attach.get("lifespan", "auto"),
        )
    return WsgiApplication(
        found.app,
        server=attach.get("server"),
        root_path=attach.get("root_path", ""),
        threads=attach.get("threads", 1),
    )


def _configure_logging(attach: Attach) -> None:
    level = logging.getLevelName(str(attach.get("log_level") or "info").upper())
    logging.basicConfig(
        stream=sys.stderr,
        level=level if isinstance(level, int) else logging.INFO,
        format=f"%(asctime)s %(levelname)s worker-{attach.get('worker', 0)} %(name)s: %(message)s",
    )


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


class _Serving:
    """The time between import and exit."""

    def __init__(self, control: Control, lanes: "Lanes", app: Application, reference: str) -> None:
        self._control = control
        self._lanes = lanes
        self._app = app
        self._reference = reference
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        lanes, app = self._lanes, self._app
        loop.add_reader(self._control.fileno(), self._on_control)
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        life = app.life()
        unattend: Callable[[], None] | None = None
        try:
            await life.__aenter__()
        except (Exception, SystemExit) as error:
            raise _Failed("startup") from error
        try:
            residents = asyncio.all_tasks()
            lanes.serve(
                app.endpoints(),
                loop=loop,
                dumps=orjson.dumps,
                dumps_args=(_json.default, _json.OPTION),
                encode=encode,
                fail=app.fail,
                deliver=app.deliver,
            )
            unattend = app.attend(loop, lanes)
            self._control.send("ready", {**app.manifest(), "app": self._reference})
            await self._stopping.wait()
            await self._finish(residents)
        finally:
            await life.__aexit__(None, None, None)
            lanes.flush()
            if unattend is not None:
                unattend()
            loop.remove_signal_handler(signal.SIGTERM)
            loop.remove_reader(self._control.fileno())

    def _on_control(self) -> None:
        try:
            messages = self._control.receive()
        except ControlClosed:
            # The edge is gone, and with it everybody who could read an answer.
            logging.shutdown()
            os._exit(1)
        for message in messages:
            if "stop" in message:
                self._stopping.set()
            elif "ping" in message:
                self._control.send("pong", {"id": message["ping"]["id"], "tasks": len(asyncio.all_tasks())})
            else:
                log.warning("the edge sent a message that this worker does not know: %s", sorted(message))

    async def _finish(self, residents: "set[asyncio.Task[Any]]") -> None:
        """Waits for every exchange, and within reason for the tasks that handlers started. The application's own background
        tasks, which were there when serving began, are its lifespan's to end."""
        lanes = self._lanes
        while lanes.pending() or lanes.in_flight():  # noqa: ASYNC110  (the lanes have no event for it)
            await asyncio.sleep(_IN_FLIGHT_POLL_S)
        lanes.flush()
        strays = asyncio.all_tasks() - residents
        if strays:
            _, late = await asyncio.wait(strays, timeout=_STRAY_TASKS_S)
            if late:
                log.warning("%d task(s) that handlers started are cancelled: they did not end in time", len(late))
