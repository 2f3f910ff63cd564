"""Work that a handler leaves behind its response."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from typing_extensions import ParamSpec

from fasterapi._threads import is_async

if TYPE_CHECKING:
    from fasterapi._threads import ThreadPool

P = ParamSpec("P")


class BackgroundTask:
    """One call: awaited where it gives a coroutine, in a thread otherwise."""

    def __init__(self, func: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        self.func = func
        self.args = args
        self.kwargs = kwargs
        self.is_async = is_async(func)

    async def __call__(self, threads: "ThreadPool | None" = None) -> None:
        if self.is_async:
            await self.func(*self.args, **self.kwargs)
        elif threads is None:
            await asyncio.to_thread(self.func, *self.args, **self.kwargs)
        else:
            await threads.run(self.func, *self.args, **self.kwargs)


class BackgroundTasks(BackgroundTask):
    """Calls in the order in which they were added; one that raises is the last one."""

    def __init__(self, tasks: Sequence[BackgroundTask] | None = None) -> None:
        self.tasks = list(tasks or ())

    def add_task(self, func: Callable[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
        self.tasks.append(BackgroundTask(func, *args, **kwargs))

    async def __call__(self, threads: "ThreadPool | None" = None) -> None:
        for task in self.tasks:
            await task(threads)
