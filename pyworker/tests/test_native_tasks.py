"""A handler cannot tell that its first step was made without a task: contexts, identity, timeouts, cancellation."""

import asyncio
import contextvars
import sys
from typing import Any

import pytest

_native = pytest.importorskip("fasterapi._native")
if not hasattr(_native, "EdgeSide"):
    pytest.skip("built without the feature `testing`", allow_module_level=True)

from native_world import slow, world  # noqa: E402

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="base")
from_3_11 = pytest.mark.skipif(sys.version_info < (3, 11), reason="new in 3.11")


def answer(value: Any) -> Any:
    return 200, [], repr(value).encode()


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_each_exchange_has_its_own_context(waits: bool, asks: bool) -> None:
    async def handler(exchange: Any) -> Any:
        before = variable.get()
        token = variable.set(exchange.path)
        if asks:
            asyncio.current_task()
        if waits:
            await asyncio.sleep(0)
            assert variable.get() == exchange.path
            await asyncio.sleep(0.001)
            child = asyncio.get_running_loop().create_task(read())
            assert await child == exchange.path
        assert variable.get() == exchange.path
        variable.reset(token)
        return answer((before, variable.get()))

    async def read() -> str:
        return variable.get()

    with world({"x": slow(handler)}) as w:
        idents = [w.ask("x", path=f"/{i}") for i in range(5)]
        assert {w.answer(ident) for ident in idents} == {(200, b"('base', 'base')")}
    assert variable.get() == "base"


def test_what_was_set_when_serving_began_is_seen() -> None:
    async def handler(exchange: Any) -> Any:
        return answer(variable.get())

    def run() -> None:
        variable.set("worker")
        with world({"x": slow(handler)}) as w:
            assert w.get("x") == (200, b"'worker'")

    contextvars.copy_context().run(run)


def test_the_task_is_one_and_the_same_all_along() -> None:
    async def handler(exchange: Any) -> Any:
        first = asyncio.current_task()
        assert isinstance(first, asyncio.Task)
        assert asyncio.iscoroutine(first.get_coro())
        assert first in asyncio.all_tasks()
        assert "handler" in repr(first)
        assert asyncio.current_task() is first
        await asyncio.sleep(0)
        assert asyncio.current_task() is first
        await asyncio.sleep(0.001)
        assert first.get_coro().cr_frame is not None  # type: ignore[union-attr]
        assert first.get_stack()
        return answer(asyncio.current_task() is first)

    with world({"x": slow(handler)}) as w:
        assert w.get("x") == (200, b"True")
        assert w.lanes.current_task() is None


def test_a_task_that_was_asked_for_ends_with_the_result() -> None:
    tasks: list[Any] = []

    async def handler(exchange: Any) -> Any:
        tasks.append(asyncio.current_task())
        if exchange.path == "/raise":
            raise ValueError("x")
        if exchange.path == "/cancelled":
            raise asyncio.CancelledError
        if exchange.path == "/cancel":
            tasks[-1].cancel()
        return answer(1)

    with world({"x": slow(handler)}) as w:
        idents = [w.ask("x", path=path) for path in ("/", "/raise", "/cancelled", "/cancel")]
        assert [w.answer(ident)[0] for ident in idents] == [200, 500, 0, 200]
        w.turn()
        returned, raised, cancelled, cancel = tasks
        assert returned.result() == answer(1)
        assert raised.result() is None
        assert cancelled.cancelled()
        assert cancel.cancelled(), "as with any task: the request to cancel wins over the result"


@pytest.mark.parametrize("asks", [False, True])
def test_without_being_asked_there_is_a_task_after_the_first_step(asks: bool) -> None:
    async def handler(exchange: Any) -> Any:
        if asks:
            asyncio.current_task()
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert isinstance(task, asyncio.Task)
        await asyncio.sleep(0)
        return answer(task is asyncio.current_task())

    with world({"x": slow(handler)}) as w:
        assert w.get("x") == (200, b"True")


@pytest.mark.parametrize("on", ["future", "sleep0", "sleep", "done"])
def test_cancelling_oneself_in_the_first_step_comes_at_the_await(on: str) -> None:
    log: list[str] = []

    async def handler(exchange: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        task.cancel("why")
        log.append("goes on")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def finish() -> None:
            if not future.done():
                future.set_result(None)

        if on == "done":
            asyncio.get_running_loop().call_soon(finish)
        try:
            await (future if on in ("future", "done") else asyncio.sleep(0 if on == "sleep0" else 60))
        except asyncio.CancelledError:
            log.append("cancelled")
            if on == "future":
                assert future.cancelled()
            await asyncio.sleep(0)
            return answer("survived")
        raise AssertionError

    with world({"x": slow(handler)}) as w:
        assert w.get("x") == (200, b"'survived'")
    assert log == ["goes on", "cancelled"]


def test_a_future_that_others_wait_for_too() -> None:
    shared: list[asyncio.Future[int]] = []

    async def handler(exchange: Any) -> Any:
        if exchange.path == "/asks":
            asyncio.current_task()
        if not shared:
            shared.append(asyncio.get_running_loop().create_future())
            asyncio.get_running_loop().call_later(0.01, shared[0].set_result, 7)
        return answer(await shared[0])

    with world({"x": slow(handler)}) as w:
        idents = [w.ask("x", path=path) for path in ("/asks", "/", "/asks", "/")]
        assert [w.answer(ident) for ident in idents] == [(200, b"7")] * 4


def test_a_future_that_is_done_before_the_task_sees_it() -> None:
    async def handler(exchange: Any) -> Any:
        asyncio.current_task()
        future = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, 5)
        return answer(await future)

    with world({"x": slow(handler)}) as w:
        assert w.get("x") == (200, b"5")


@pytest.mark.parametrize("later", [False, True])
def test_wait_for_gather_shield(later: bool) -> None:
    async def value(number: int) -> int:
        await asyncio.sleep(0.001)
        return number

    async def handler(exchange: Any) -> Any:
        if later:
            await asyncio.sleep(0)
        waited = await asyncio.wait_for(value(1), 5)
        gathered = await asyncio.gather(value(2), value(3))
        shielded = await asyncio.shield(value(4))
        try:
            await asyncio.wait_for(asyncio.sleep(60), 0.01)
        except asyncio.TimeoutError:
            return answer((waited, gathered, shielded))

    with world({"x": slow(handler)}) as w:
        assert w.get("x") == (200, b"(1, [2, 3], 4)")


@from_3_11
@pytest.mark.parametrize("later", [False, True])
def test_timeout_and_task_group(later: bool) -> None:
    async def value(number: int) -> int:
        await asyncio.sleep(0.001)
        return number

    async def breaks() -> None:
        raise ValueError("inside")

    async def handler(exchange: Any) -> Any:
        if later:
            await asyncio.sleep(0)
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            tasks = [group.create_task(value(i)) for i in range(3)]
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            pass
        try:
            async with asyncio.timeout(0):
                await asyncio.sleep(60)
        except TimeoutError:
            pass
        groups: list[Any] = []
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(breaks())
                await asyncio.sleep(60)
        except Exception as error:
            groups.append(error)
        task = asyncio.current_task()
        assert task is not None
        return answer(([task.result() for task in tasks], len(groups[0].exceptions), task.cancelling()))

    with world({"x": slow(handler)}) as w:
        assert w.get("x") == (200, b"([0, 1, 2], 1, 0)")


@from_3_11
def test_a_timeout_in_the_first_step_of_many_at_once() -> None:
    async def handler(exchange: Any) -> Any:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60 if exchange.path == "/slow" else 0)
        except TimeoutError:
            return answer("late")
        return answer("in time")

    with world({"x": slow(handler)}) as w:
        idents = [w.ask("x", path=path) for path in ("/slow", "/", "/slow")]
        assert [w.answer(ident)[1] for ident in idents] == [b"'late'", b"'in time'", b"'late'"]


def test_what_is_not_awaitable_by_a_task_fails_as_it_does_there() -> None:
    class Odd:
        def __await__(self) -> Any:
            yield 5

    async def handler(exchange: Any) -> Any:
        await Odd()

    with world({"x": slow(handler)}) as w:
        status, body = w.get("x")
    assert status == 500
    assert b"Task got bad yield: 5" in body


def test_a_nested_task_in_the_first_step_is_its_own() -> None:
    async def inner() -> Any:
        return asyncio.current_task()

    async def handler(exchange: Any) -> Any:
        mine = asyncio.current_task()
        if sys.version_info >= (3, 12):
            eager = asyncio.Task(inner(), loop=asyncio.get_running_loop(), eager_start=True)
            assert eager.done()
            assert eager.result() is eager
        other = asyncio.get_running_loop().create_task(inner())
        assert await other is other
        return answer(asyncio.current_task() is mine)

    with world({"x": slow(handler)}) as w:
        assert w.get("x") == (200, b"True")


def test_asynchronous_generators_and_locks() -> None:
    lock: list[asyncio.Lock] = []

    async def numbers() -> Any:
        for i in range(3):
            await asyncio.sleep(0)
            yield i

    async def handler(exchange: Any) -> Any:
        if not lock:
            lock.append(asyncio.Lock())
        async with lock[0]:
            return answer([number async for number in numbers()])

    with world({"x": slow(handler)}) as w:
        idents = [w.ask("x") for _ in range(4)]
        assert [w.answer(ident) for ident in idents] == [(200, b"[0, 1, 2]")] * 4


def test_current_task_from_another_thread_is_none() -> None:
    async def handler(exchange: Any) -> Any:
        import threading

        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(w.lanes.current_task()))
        thread.start()
        thread.join()
        return answer(found)

    with world({"x": slow(handler)}) as w:
        assert w.get("x") == (200, b"[None]")
