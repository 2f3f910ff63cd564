"""The loop on fake lanes: what is seen, in which order, and what no busy lane may starve."""

import asyncio
import os
import selectors
import sys
import threading
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from fakes import FakeEndpoint, FakeExchange, FakeLanes, fast_arguments
from fasterapi import FastAPI, _json
from fasterapi._endpoint import compile_route
from fasterapi._loop import POLL_EVERY, LoopMissing, RingSelector, attend, new_loop, patch_current_task
from fasterapi._response import encode


@pytest.fixture
def lanes() -> Iterator[FakeLanes]:
    lanes = FakeLanes()
    yield lanes
    lanes.close()


@pytest.fixture
def selector(lanes: FakeLanes) -> Iterator[RingSelector]:
    selector = RingSelector(lanes)
    selector.register(lanes.fileno(), selectors.EVENT_READ, "doorbell")
    yield selector
    selector.close()


@pytest.fixture
def loop(lanes: FakeLanes) -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.SelectorEventLoop(RingSelector(lanes))
    asyncio.set_event_loop(loop)
    lanes.loop = loop
    loop.add_reader(lanes.fileno(), lanes.drain)
    undo = patch_current_task(lanes.current_task, loop)
    yield loop
    undo()
    asyncio.set_event_loop(None)
    loop.close()


def serve(lanes: FakeLanes, app: FastAPI) -> None:
    specs = [compile_route(route, app) for route in app.routes]
    endpoints = [
        FakeEndpoint(spec.slow, param_names=spec.param_names, fast=spec.fast, fast_args=spec.fast_args, status=spec.status)
        for spec in specs
    ]
    lanes.serve(
        endpoints,
        loop=lanes.loop,
        dumps=orjson.dumps,
        dumps_args=(_json.default, _json.OPTION),
        encode=encode,
        fail=lambda error, exchange: app.fail(error),
    )


def names(ready: Any) -> list[Any]:
    return [key.data for key, _ in ready]


def push(lanes: FakeLanes) -> None:
    lanes._records.append((0, FakeExchange(), None))  # type: ignore[arg-type]


def test_pending_records_need_no_system_call(lanes: FakeLanes, selector: RingSelector) -> None:
    push(lanes)
    assert names(selector.select(None)) == ["doorbell"]
    assert lanes.calls == ["flush", "pending"]


def test_a_busy_loop_does_not_arm(lanes: FakeLanes, selector: RingSelector) -> None:
    assert selector.select(0) == []
    assert lanes.calls == ["flush", "pending"]


def test_arms_before_it_blocks(lanes: FakeLanes, selector: RingSelector) -> None:
    assert selector.select(0.001) == []
    assert lanes.calls == ["flush", "pending", "before_block"]


def test_who_was_woken_by_the_flush_runs_before_any_sleep(
    lanes: FakeLanes, selector: RingSelector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "flush", lambda: True)
    assert selector.select(None) == [], "returns at once, though the loop had nothing to run"
    assert lanes.calls == ["pending"], "and has not armed"


def test_records_found_while_spinning(lanes: FakeLanes, selector: RingSelector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "before_block", lambda: True)
    assert names(selector.select(None)) == ["doorbell"]


def test_the_doorbell_wakes(lanes: FakeLanes, selector: RingSelector) -> None:
    lanes.ring()
    assert names(selector.select(None)) == ["doorbell"]


def test_other_descriptors_do_not_starve(lanes: FakeLanes, selector: RingSelector) -> None:
    read, write = os.pipe()
    selector.register(read, selectors.EVENT_READ, "other")
    os.write(write, b"x")
    lanes.ring()
    push(lanes)
    turns = [names(selector.select(None)) for _ in range(2 * POLL_EVERY)]
    assert all(turn[0] == "doorbell" for turn in turns)
    assert [turn.count("doorbell") for turn in turns] == [1] * len(turns)
    assert sum("other" in turn for turn in turns) == 2
    selector.unregister(read)
    os.close(read)
    os.close(write)


def test_without_a_doorbell_it_is_an_epoll_selector(lanes: FakeLanes, selector: RingSelector) -> None:
    selector.unregister(lanes.fileno())
    push(lanes)
    assert selector.select(0) == []


def test_requests_in_one_batch(lanes: FakeLanes, loop: asyncio.AbstractEventLoop) -> None:
    app = FastAPI()
    variable: list[Any] = []

    @app.get("/fast/{n}")
    async def fast(n: int) -> dict[str, int]:
        return {"n": n}

    @app.get("/task")
    async def with_task() -> Any:
        task = asyncio.current_task()
        assert task is not None
        variable.append(task)
        await asyncio.sleep(0)
        return asyncio.current_task() is task

    @app.get("/timeout/{n}")
    async def with_timeout(n: str) -> Any:
        return await asyncio.wait_for(asyncio.sleep(0, n), 5)

    @app.get("/sync")
    def sync() -> Any:
        try:
            asyncio.current_task()
        except RuntimeError:
            return threading.current_thread() is threading.main_thread()
        raise AssertionError("a thread without a loop has no task")

    @app.get("/big")
    async def big() -> Any:
        return 2**70

    serve(lanes, app)

    async def go() -> list[Any]:
        futures = [
            lanes.push(0, FakeExchange(path_params={"n": "4"})),
            lanes.push(0, FakeExchange(path_params={"n": "x"})),
            lanes.push(1, FakeExchange()),
            lanes.push(2, FakeExchange(path_params={"n": "a"})),
            lanes.push(3, FakeExchange()),
            lanes.push(4, FakeExchange()),
        ]
        assert asyncio.current_task() is not None
        answers = await asyncio.wait_for(asyncio.gather(*futures), 10)
        assert lanes.in_flight() == 0
        return [(status, body) for status, _, body in answers]

    answers = loop.run_until_complete(go())
    assert answers[0] == (200, b'{"n":4}')
    assert answers[1][0] == 422
    assert answers[2:] == [(200, b"true"), (200, b'"a"'), (200, b"false"), (200, b"1180591620717411303424")]
    assert fast_arguments(lanes.endpoints[0], FakeExchange(path_params={"n": "4"})) == [4]


def test_no_task_is_made_for_a_handler_that_does_not_wait(lanes: FakeLanes, loop: asyncio.AbstractEventLoop) -> None:
    app = FastAPI()

    @app.get("/")
    async def handler() -> Any:
        return len(asyncio.all_tasks())

    serve(lanes, app)

    async def go() -> bytes:
        return (await lanes.push(0, FakeExchange()))[2]

    assert loop.run_until_complete(go()) == b"1"


def test_current_task_elsewhere_is_as_before(lanes: FakeLanes, loop: asyncio.AbstractEventLoop) -> None:
    lanes.current_task = lambda: pytest.fail("asked for another loop")  # type: ignore[method-assign]
    with pytest.raises(RuntimeError):
        asyncio.current_task()
    assert asyncio.current_task(loop) is None

    async def own() -> bool:
        return asyncio.current_task() is asyncio.tasks.current_task() is not None

    other = asyncio.new_event_loop()
    assert other.run_until_complete(own())
    seen: list[Any] = []
    other.call_soon(lambda: seen.append(asyncio.current_task()))
    other.call_soon(other.stop)
    other.run_forever()
    other.close()
    assert seen == [None]


def test_the_loop_is_uvloop_where_it_is_installed(lanes: FakeLanes, monkeypatch: pytest.MonkeyPatch) -> None:
    uvloop = pytest.importorskip("uvloop")

    def kind(name: Any) -> type:
        loop = new_loop(name, lanes)
        loop.close()
        return type(loop)

    assert [kind("auto"), kind("uvloop"), kind("asyncio")] == [uvloop.Loop, uvloop.Loop, asyncio.SelectorEventLoop]
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert kind("auto") is asyncio.SelectorEventLoop
    with pytest.raises(LoopMissing, match=r"--loop uvloop: .* has no package uvloop"):
        kind("uvloop")


class Turns:
    """A uvloop that attends to fake lanes: `run` has it turn until there is nothing to do."""

    def __init__(self, lanes: FakeLanes) -> None:
        self.loop, self.lanes = new_loop("uvloop", lanes), lanes
        self.end = attend(self.loop, lanes)
        self.run()

    def run(self) -> list[str]:
        """What was called of the lanes."""
        del self.lanes.calls[:]
        self.loop.run_until_complete(asyncio.sleep(0.005))
        return self.lanes.calls


@pytest.fixture
def turns(lanes: FakeLanes) -> Iterator[Turns]:
    pytest.importorskip("uvloop")
    turns = Turns(lanes)
    yield turns
    turns.loop.close()


def test_a_loop_without_a_selector_flushes_and_arms_when_the_lanes_were_used(turns: Turns, lanes: FakeLanes) -> None:
    assert turns.run() == [], "armed: nothing is due"
    lanes.used()
    lanes.used()
    assert turns.run() == ["flush", "pending", "before_block"]


def test_the_doorbell_brings_a_drain_and_a_flush_behind_it(turns: Turns, lanes: FakeLanes) -> None:
    lanes.ring()
    assert turns.run() == ["drain", "flush", "pending", "before_block"]
    turns.end()
    lanes.ring()
    assert turns.run() == []


def test_records_that_wait_are_taken_without_the_doorbell(
    turns: Turns, lanes: FakeLanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [False, True, True]
    monkeypatch.setattr(lanes, "pending", lambda: left.pop() if left else False)
    lanes.used()
    assert turns.run() == ["flush", "drain", "flush", "drain", "flush", "before_block"]


def test_lanes_that_are_broken_end_a_loop_without_a_selector_too(
    turns: Turns, lanes: FakeLanes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> bool:
        raise RuntimeError("the edge broke the lane")

    monkeypatch.setattr(lanes, "flush", broken)
    lanes.used()
    with pytest.raises(SystemExit):
        turns.run()
