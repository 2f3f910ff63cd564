"""What runs before the first request and after the last one."""

import inspect
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fasterapi._app import FastAPI


async def _run(hooks: Iterable[Callable[[], Any]]) -> None:
    for hook in hooks:
        result = hook()
        if inspect.isawaitable(result):
            await result


@asynccontextmanager
async def running(app: "FastAPI") -> AsyncIterator[None]:
    """The application's life within one worker: its lifespan around its startup and shutdown hooks."""
    if app.lifespan is None:
        await _run(app.on_startup)
        yield
        await _run(app.on_shutdown)
        return
    async with app.lifespan(app) as state:
        app.lifespan_state = dict(state or {})
        await _run(app.on_startup)
        yield
        await _run(app.on_shutdown)
