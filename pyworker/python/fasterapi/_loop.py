"""The worker's event loop: asyncio's own with the lanes in its selector, or uvloop.

Records that arrive while the loop is awake are seen without a system call, and before it sleeps the loop spins for a moment
on the lanes' memory. The native side runs a handler's first step outside any task, so `asyncio.current_task` asks it too.
"""

import asyncio
import logging
import selectors
import sys
from collections.abc import Callable
from typing import Any, Literal, Protocol

log = logging.getLogger("fasterapi.worker")

LoopKind = Literal["auto", "asyncio", "uvloop"]


class Doorbell(Protocol):
    """What the selector needs of `_native.Lanes`."""

    def fileno(self) -> int: ...
    def pending(self) -> bool: ...
    def before_block(self) -> bool: ...
    def flush(self) -> bool: ...


class Records(Doorbell, Protocol):
    """What `attend` needs of them."""

    def drain(self) -> None: ...
    def on_use(self, callback: Callable[[], Any]) -> None: ...


Ready = list[tuple[selectors.SelectorKey, int]]

POLL_EVERY = 8
"""While records keep coming, every this many turns also look at the other file descriptors, so that none starves."""


class RingSelector(selectors.EpollSelector):
    """Reports the lanes' doorbell as readable whenever records wait, whether or not it was rung."""

    def __init__(self, lanes: Doorbell) -> None:
        super().__init__()
        self._lanes = lanes
        self._busy_turns = 0
        # What `select` answers while records wait; None as long as nobody reads the doorbell.
        self._rung: Ready | None = None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._notice(super().register(fileobj, events, data))

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._notice(super().modify(fileobj, events, data))

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        key = super().unregister(fileobj)
        if key.fd == self._lanes.fileno():
            self._rung = None
        return key

    def _notice(self, key: selectors.SelectorKey) -> selectors.SelectorKey:
        if key.fd == self._lanes.fileno():
            self._rung = [(key, selectors.EVENT_READ)]
        return key

    def select(self, timeout: float | None = None) -> Ready:
        lanes, rung = self._lanes, self._rung
        # What tasks answered since the last drain. A handler that waited for room may be ready now.
        if lanes.flush():
            timeout = 0
        if rung is None:
            return super().select(timeout)
        if lanes.pending():
            return self._with_others(rung)
        self._busy_turns = 0
        if timeout is not None and timeout <= 0:
            return super().select(0)
        # Armed from here until the doorbell is rung. A timer may end the sleep first: then the ring comes late, and is harmless.
        if lanes.before_block():
            return self._with_others(rung)
        return super().select(timeout)

    def _with_others(self, rung: Ready) -> Ready:
        self._busy_turns += 1
        if self._busy_turns < POLL_EVERY:
            return rung
        self._busy_turns = 0
        doorbell = rung[0][0]
        return rung + [entry for entry in super().select(0) if entry[0].fd != doorbell.fd]


class LoopMissing(Exception):
    """The event loop that was asked for is not installed."""


def new_loop(kind: LoopKind, lanes: Doorbell) -> asyncio.AbstractEventLoop:
    """The loop of this kind; `auto` is uvloop where it is installed: as fast with handlers that do not wait, and much faster with
    those that wait for sockets."""
    if kind == "asyncio":
        return asyncio.SelectorEventLoop(RingSelector(lanes))
    try:
        import uvloop
    except ImportError as error:
        if kind == "auto":
            return asyncio.SelectorEventLoop(RingSelector(lanes))
        raise LoopMissing(
            f"--loop uvloop: {sys.executable} has no package uvloop; install it there, or use --loop asyncio"
        ) from error
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def attend(loop: asyncio.AbstractEventLoop, lanes: Records) -> Callable[[], None]:
    """Has the loop take what arrives in the lanes; returns what ends that."""
    fd = lanes.fileno()
    take = lanes.drain if isinstance(loop, asyncio.SelectorEventLoop) else _Turns(loop, lanes).take
    loop.add_reader(fd, take)

    def end() -> None:
        loop.remove_reader(fd)

    return end


class _Turns:
    """What RingSelector does, for a loop that has no place for a selector: a callback behind those that are ready.

    Invariant: the doorbell is armed, or a turn is due.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, lanes: Records) -> None:
        self._loop, self._lanes = loop, lanes
        self._due = False
        lanes.on_use(self._plan)
        self._plan()

    def take(self) -> None:
        """The doorbell was rung."""
        self._plan()
        self._lanes.drain()

    def _plan(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._due = False
        lanes = self._lanes
        try:
            woken = lanes.flush()
            if lanes.pending():
                self.take()
            elif woken or lanes.before_block():
                self._plan()
        except RuntimeError as error:
            # The loop would only log it, and the worker live on without its lanes.
            log.critical("%s", error)
            raise SystemExit(1) from error


def patch_current_task(current: Callable[[], Any], serving: asyncio.AbstractEventLoop) -> Callable[[], None]:
    """Lets `asyncio.current_task()` fall back on `current` within the serving loop; returns what undoes it.

    Has to run before the application is imported: libraries keep their own reference to the function.
    """
    original = asyncio.current_task

    def current_task(loop: asyncio.AbstractEventLoop | None = None) -> "asyncio.Task[Any] | None":
        task = original(loop)
        if task is None and loop in (None, serving) and asyncio._get_running_loop() is serving:
            found: asyncio.Task[Any] | None = current()
            return found
        return task

    def undo() -> None:
        asyncio.current_task = asyncio.tasks.current_task = original

    asyncio.current_task = asyncio.tasks.current_task = current_task
    return undo
