"""The pool of threads in which plain `def` handlers run, so that they do not hold up the event loop."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from contextvars import copy_context
from functools import partial
from typing import Any

from typing_extensions import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def _without_stop_iteration(call: Callable[[], T]) -> T:
    try:
        return call()
    except StopIteration as error:
        # A future refuses to carry StopIteration, and whoever awaits it would then wait for ever.
        raise RuntimeError("a function raised StopIteration") from error


def is_async(call: Any) -> bool:
    """Whether calling gives a coroutine."""
    while isinstance(call, partial):
        call = call.func
    return inspect.iscoroutinefunction(call) or (
        not inspect.isfunction(call) and inspect.iscoroutinefunction(getattr(call, "__call__", None))  # noqa: B004
    )


class ThreadPool:
    """At most `size` threads, started as they are needed."""

    def __init__(self, size: int) -> None:
        self._executor = ThreadPoolExecutor(size, thread_name_prefix="fasterapi")

    def submit(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> "asyncio.Future[T]":
        """Calls in a thread that sees the caller's context variables; what it sets in them stays its own."""
        task = partial(copy_context().run, _without_stop_iteration, partial(call, *args, **kwargs))
        return asyncio.get_running_loop().run_in_executor(self._executor, task)

    async def run(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`submit`, and its result."""
        return await self.submit(call, *args, **kwargs)

    @asynccontextmanager
    async def entered(self, manager: AbstractContextManager[T]) -> AsyncIterator[T]:
        """A blocking context manager, entered and left in threads."""
        value = await self.run(manager.__enter__)
        try:
            yield value
        except BaseException as error:
            if not await self.run(manager.__exit__, type(error), error, error.__traceback__):
                raise
        else:
            await self.run(manager.__exit__, None, None, None)

    def close(self) -> None:
        self._executor.shutdown(wait=False, cancel_futures=True)
