"""The worker's event loop: asyncio's own, with the lanes in its selector.

Records that arrive while the loop is awake are seen without a system call, and before it sleeps the loop spins for a moment
on the lanes' memory. The native side runs a handler's first step outside any task, so `asyncio.current_task` asks it too.
"""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any, Protocol


class Doorbell(Protocol):
    """What the selector needs of `_native.Lanes`."""

    def fileno(self) -> int: ...
    def pending(self) -> bool: ...
    def before_block(self) -> bool: ...
    def flush(self) -> bool: ...


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
