"""Bodies piece by piece, in both directions: credit, backpressure, disconnects, and applications that get it wrong."""

import asyncio
import contextlib
import gc
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

_native = pytest.importorskip("fasterapi._native")
if not hasattr(_native, "EdgeSide"):
    pytest.skip("built without the feature `testing`", allow_module_level=True)

from fasterapi import ClientDisconnected  # noqa: E402
from native_world import WINDOW, Upload, World, fast, slow, stream, world  # noqa: E402

QUEUED_MAX = 64 * 1024
PIECE = bytes(range(256)) * 64  # 16 KiB
HEADERS = [(b"x-kind", b"stream")]


async def done(exchange: Any) -> Any:
    return 200, [], b"done"


def kinds(w: World, ident: int) -> list[str]:
    return [message[0] for message in w.seen.get(ident, [])]


# --- the request's body


def test_a_streaming_handler_begins_before_the_body_is_there() -> None:
    got: list[bytes] = []

    async def handler(exchange: Any) -> Any:
        got.append(b"began")
        while piece := await exchange.receive():
            got.append(piece)
        assert await exchange.receive() == b"", "again and again"
        return 200, [], b"".join(got)

    with world({"x": stream(handler)}) as w:
        ident = w.ask("x", body=b"one", end=False)
        w.turn()
        assert got == [b"began", b"one"]
        w.edge.send_body(ident, b"two")
        w.edge.send_body(ident, b"three")
        w.turn()
        w.turn()
        assert got == [b"began", b"one", b"twothree"]
        w.edge.send_body(ident, b"", end=True)
        assert w.answer(ident) == (200, b"beganonetwothree")


def test_a_body_that_is_there_already_is_taken_without_waiting() -> None:
    async def handler(exchange: Any) -> Any:
        pieces = [await exchange.receive() for _ in range(3)]
        assert exchange.body == pieces[0]
        return 200, [], b"|".join(pieces)

    with world({"whole": slow(handler), "stream": stream(handler)}) as w:
        for name in ("whole", "stream"):
            ident = w.ask(name, body=b"abc")
            w.turn()
            assert w.bodies[ident] == b"abc||", "in its first step"
        ident = w.ask("whole", body=b"abc", end=False)
        w.edge.send_body(ident, b"def", end=True)
        assert w.answer(ident) == (200, b"abcdef||")


def test_the_body_of_a_stream_is_not_there_as_a_whole() -> None:
    async def handler(exchange: Any) -> Any:
        return 200, [], exchange.body

    with world({"x": stream(handler)}) as w:
        ident = w.ask("x", body=b"abc", end=False)
        assert w.answer(ident) == (500, b"RuntimeError: the body comes in pieces: await receive() on /x")


def test_credit_comes_back_only_as_the_handler_takes() -> None:
    go = asyncio.Event()
    total = 0

    async def handler(exchange: Any) -> Any:
        nonlocal total
        await go.wait()
        while piece := await exchange.receive():
            total += len(piece)
        return 200, [], b"%d" % total

    with world({"x": stream(handler), "other": fast(one)}) as w:
        upload = Upload(w, w.ask("x", end=False))
        upload.all(bytes(WINDOW))
        for _ in range(5):
            w.turn()
        assert upload.some(b"x") == 0, "the window is used up, and stays so"
        assert w.get("other") == (200, b"1"), "a handler that does not read holds nobody else up"
        go.set()
        upload.all(bytes(5 * WINDOW), end=True)
        assert w.answer(upload.ident) == (200, b"%d" % (6 * WINDOW))


async def one() -> int:
    return 1


def test_several_tasks_may_wait_for_the_same_piece() -> None:
    ready: list[int] = []

    async def handler(exchange: Any) -> Any:
        first, second = (asyncio.create_task(exchange.receive()) for _ in range(2))
        third = asyncio.create_task(exchange.wait_disconnected())
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(exchange.receive(), 0.001)
        ready.append(1)
        results = await asyncio.gather(first, second)
        assert not third.done()
        third.cancel()
        return 200, [], b"".join(results)

    with world({"x": stream(handler)}) as w:
        ident = w.ask("x", end=False)
        w.until(lambda: bool(ready))
        w.edge.send_body(ident, b"abc")
        w.turn()
        w.edge.send_body(ident, b"", end=True)
        assert w.answer(ident) == (200, b"abc")


def test_a_wait_that_was_cancelled_takes_nothing() -> None:
    async def handler(exchange: Any) -> Any:
        for _ in range(50):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(exchange.receive(), 0)
            waiting = asyncio.ensure_future(exchange.receive())
            await asyncio.sleep(0)
            waiting.cancel()
        started.append(1)
        return 200, [], await exchange.receive()

    started: list[int] = []
    with world({"x": stream(handler)}) as w:
        ident = w.ask("x", end=False)
        w.until(lambda: bool(started))
        w.turn()
        w.edge.send_body(ident, b"abc")
        assert w.answer(ident) == (200, b"abc")


# --- the response's body


def test_a_small_answer_in_pieces_is_one_record() -> None:
    async def handler(exchange: Any) -> Any:
        exchange.start(201, HEADERS)
        await exchange.write(memoryview(b"whole"), end=True)

    with world({"x": slow(handler)}) as w:
        ident = w.ask("x")
        w.turn()
        assert w.seen[ident] == [("response", ident, 201, HEADERS, b"whole", 5, True)]


def test_an_answer_comes_as_it_is_written() -> None:
    step = asyncio.Event()

    async def handler(exchange: Any) -> Any:
        exchange.start(200, HEADERS)
        for piece in (b"one", b"two"):
            await step.wait()
            step.clear()
            await exchange.write(piece)
        await exchange.write(b"", end=True)

    with world({"x": slow(handler)}) as w:
        ident = w.ask("x")
        w.turn()
        assert w.seen[ident] == [("response", ident, 200, HEADERS, b"", None, False)], "the head does not wait for the body"
        for piece in (b"one", b"two"):
            step.set()
            w.turn()
            w.turn()
            assert w.seen[ident][-2 if piece == b"two" else -1] == ("body", ident, piece, False)
        assert w.answer(ident) == (200, b"onetwo")


def test_a_client_that_does_not_read_stops_the_handler_in_its_write() -> None:
    written = 0

    async def handler(exchange: Any) -> Any:
        nonlocal written
        exchange.start(200, HEADERS)
        for _ in range(200):
            await exchange.write(PIECE)
            written += len(PIECE)
        await exchange.write(b"", end=True)

    with world({"x": slow(handler), "other": fast(one)}) as w:
        ident = w.ask("x")
        for _ in range(10):
            w.turn(credit=False)
        assert len(w.bodies[ident]) == WINDOW
        assert WINDOW <= written <= WINDOW + QUEUED_MAX + len(PIECE)
        assert w.get("other") == (200, b"1"), "a client that does not read holds nobody else up"
        w.edge.send_credit(ident, WINDOW)
        assert w.answer(ident) == (200, PIECE * 200)


def test_a_full_ring_stops_the_handler_and_room_lets_it_go_on_without_a_record() -> None:
    rounds = 0

    async def handler(exchange: Any) -> Any:
        nonlocal rounds
        exchange.start(200, [])
        for _ in range(40):
            await exchange.write(PIECE)
            rounds += 1
        await exchange.write(b"", end=True)

    with world({"x": slow(handler)}, ring_size=128 * 1024, chunk_count=1, chunk_size=4096) as w:
        ident = w.ask("x")
        w.edge.publish()
        w.lanes.drain()
        assert rounds < 40
        assert not w.lanes.flush(), "nobody was woken"
        w.collect()
        assert w.lanes.flush(), "the edge made room, and the handler is ready"
        assert w.answer(ident) == (200, PIECE * 40)


def test_a_large_piece_is_kept_and_not_copied() -> None:
    piece = bytes(100_000_000)

    async def handler(exchange: Any) -> Any:
        exchange.start(200, [])
        before = sys.getrefcount(piece)
        waiting = exchange.write(piece, end=True)
        assert sys.getrefcount(piece) == before + 1
        await waiting

    before = sys.getrefcount(piece)
    with world({"x": slow(handler)}) as w:
        ident = w.ask("x")
        size = 0
        while not w.ended(ident):
            w.turn()
            size += len(w.bodies[ident])
            w.bodies[ident].clear()
            w.seen[ident] = w.seen[ident][-1:]
        assert size == len(piece)
        assert sys.getrefcount(piece) == before


@pytest.mark.parametrize("size", [0, 5, 20_000, WINDOW * 2])
def test_one_piece_gives_the_answer_its_length(size: int) -> None:
    async def handler(exchange: Any) -> Any:
        exchange.start(200, [])
        await exchange.write(bytes(size), end=True)

    with world({"x": slow(handler)}) as w:
        ident = w.ask("x")
        assert w.answer(ident) == (200, bytes(size))
        assert w.seen[ident][0][5] == size


def test_the_answer_to_head_has_the_length_and_no_body() -> None:
    async def handler(exchange: Any) -> Any:
        if exchange.path == "/named":
            exchange.start(200, [], length=77)
            await exchange.write(b"", end=True)
        elif exchange.path == "/written":
            exchange.start(200, [], length=6)
            await exchange.write(b"abc")
            await exchange.write(b"def", end=True)
        else:
            exchange.start(200, [])
            await exchange.write(b"abcd", end=True)

    with world({"x": slow(handler)}) as w:
        for path, length in (("/named", 77), ("/written", 6), ("/", 4)):
            ident = w.ask("x", method="HEAD", path=path)
            w.answer(ident)
            assert w.bodies[ident] == b""
            assert w.seen[ident][0][5] == length
            assert w.seen[ident][-1][-1] is True


def test_no_content_takes_no_body() -> None:
    async def handler(exchange: Any) -> Any:
        exchange.start(204, [])
        await exchange.write(b"dropped", end=True)

    with world({"x": slow(handler)}) as w:
        assert w.get("x") == (204, b"")


def test_bodies_both_ways_at_the_same_time() -> None:
    async def handler(exchange: Any) -> Any:
        exchange.start(200, [])
        while piece := await exchange.receive():
            await exchange.write(piece)
        await exchange.write(b"", end=True)

    body = PIECE * 80
    with world({"x": stream(handler)}) as w:
        upload = Upload(w, w.ask("x", end=False))
        upload.all(body, end=True)
        assert w.answer(upload.ident) == (200, body)


# --- disconnects


def states() -> dict[str, Callable[[Any], Any]]:
    async def receiving(exchange: Any) -> Any:
        while await exchange.receive():
            pass

    async def writing(exchange: Any) -> Any:
        exchange.start(200, [])
        while True:
            await exchange.write(PIECE)

    async def waiting(exchange: Any) -> Any:
        await exchange.wait_disconnected()

    async def sleeping(exchange: Any) -> Any:
        exchange.start(200, [])
        await asyncio.sleep(60)

    async def ending(exchange: Any) -> Any:
        exchange.start(200, [])
        await exchange.write(PIECE * 40, end=True)

    return {"receiving": receiving, "writing": writing, "waiting": waiting, "sleeping": sleeping, "ending": ending}


@pytest.mark.parametrize("why", ["gone", "deadline", "leaving"])
@pytest.mark.parametrize("turns", [0, 1, 3])
@pytest.mark.parametrize("state", states())
def test_cancel_at_every_state_cancels_the_task_and_aborts_at_once(state: str, turns: int, why: str) -> None:
    log: list[str] = []

    async def handler(exchange: Any) -> Any:
        try:
            await states()[state](exchange)
        except asyncio.CancelledError:
            log.append("cancelled")
            assert exchange.disconnected
            await exchange.wait_disconnected()
            with pytest.raises(ClientDisconnected):
                exchange.write(b"x")
            with pytest.raises(ClientDisconnected):
                exchange.start(200, [])
            with pytest.raises(ClientDisconnected):
                await exchange.receive()
            log.append("cleaned")
            raise

    with world({"x": stream(handler)}) as w:
        ident = w.ask("x", end=False)
        for _ in range(turns):
            w.turn(credit=False)
        w.edge.send_cancel(ident, why)
        w.turn(credit=False)
        w.turn(credit=False)
        assert kinds(w, ident)[-1] == "abort"
        assert w.lanes.in_flight() == 0
        w.until(lambda: w.lanes.tasks() == 0)
        if state == "ending":
            assert log in ([], ["cancelled"])
        else:
            assert log == ["cancelled", "cleaned"]


def test_a_handler_may_outlive_its_client() -> None:
    log: list[str] = []

    async def handler(exchange: Any) -> Any:
        try:
            await exchange.receive()
        except asyncio.CancelledError:
            await asyncio.sleep(0.005)
        log.append("ended")
        with pytest.raises(OSError, match="the client went away"):
            await exchange.receive()
        return 200, [], b"for nobody"

    with world({"x": stream(handler)}) as w:
        ident = w.ask("x", end=False)
        w.turn()
        w.edge.send_cancel(ident)
        w.turn()
        assert kinds(w, ident) == ["abort"]
        assert (w.lanes.in_flight(), w.lanes.tasks(), log) == (0, 1, [])
        w.edge.send_body(ident, b"late")
        w.edge.send_credit(ident, 10)
        w.edge.send_cancel(ident)
        w.until(lambda: log == ["ended"] and w.lanes.tasks() == 0)
        assert kinds(w, ident) == ["abort"]


def test_an_error_after_a_disconnect_is_reported_and_answers_nothing() -> None:
    async def handler(exchange: Any) -> Any:
        try:
            await exchange.receive()
        except asyncio.CancelledError:
            if exchange.path == "/quiet":
                await exchange.receive()
            raise ValueError("in the clean-up") from None

    with world({"x": stream(handler)}) as w:
        for path, reported in (("/", ["ValueError"]), ("/quiet", [])):
            ident = w.ask("x", end=False, path=path)
            w.turn()
            w.edge.send_cancel(ident)
            w.until(lambda: w.lanes.tasks() == 0)
            assert kinds(w, ident) == ["abort"]
            assert [type(error).__name__ for error in w.failures] == reported
            w.failures.clear()


def test_an_abort_waits_for_room_like_everything_else() -> None:
    async def big(exchange: Any) -> Any:
        exchange.start(200, [])
        await exchange.write(bytes(17))
        while True:
            await exchange.write(b"x")  # A record as long as two ABORTs, like half of the one before.

    with world({"x": slow(big)}, ring_size=128 * 1024) as w:
        ident = w.ask("x")
        w.edge.publish()
        w.lanes.drain()
        w.lanes.flush()
        w.edge.send_cancel(ident)
        w.edge.publish()
        w.lanes.drain()
        assert w.lanes.in_flight() == 1, "there was no room for the ABORT"
        w.until(lambda: w.ended(ident))
        assert kinds(w, ident)[-1] == "abort"
        w.until(lambda: w.lanes.tasks() == 0)


def test_waiting_for_a_disconnect_ends_with_the_response() -> None:
    log: list[str] = []

    async def handler(exchange: Any) -> Any:
        async def listen() -> None:
            await exchange.wait_disconnected()
            log.append("over")

        listener = asyncio.create_task(listen())
        await asyncio.sleep(0)
        exchange.start(200, [])
        await exchange.write(b"", end=True)
        await listener
        assert not exchange.disconnected
        log.append("after the response")

    with world({"x": slow(handler)}) as w:
        assert w.get("x") == (200, b"")
        w.until(lambda: w.lanes.tasks() == 0)
    assert log == ["over", "after the response"]


# --- mistakes


def mistakes() -> dict[str, tuple[Callable[[Any], Any], int, str]]:
    """Name, what the handler does, the status that comes of it (0: the exchange is aborted), what is reported."""

    async def nothing(exchange: Any) -> Any:
        pass

    async def no_end(exchange: Any) -> Any:
        exchange.start(200, [])
        await exchange.write(b"a")

    async def only_start(exchange: Any) -> Any:
        exchange.start(200, [])

    async def raises(exchange: Any) -> Any:
        exchange.start(200, [])
        await exchange.write(b"a")
        raise ValueError("half way")

    async def starts_twice(exchange: Any) -> Any:
        exchange.start(200, [])
        exchange.start(200, [])

    async def writes_first(exchange: Any) -> Any:
        await exchange.write(b"a")

    async def answers_too(exchange: Any) -> Any:
        exchange.start(200, [])
        return 200, [], b""

    async def too_long(exchange: Any) -> Any:
        exchange.start(200, [], length=3)
        await exchange.write(b"ab")
        await exchange.write(b"cd", end=True)

    async def too_short(exchange: Any) -> Any:
        exchange.start(200, [], length=3)
        await exchange.write(b"ab", end=True)

    async def text(exchange: Any) -> Any:
        exchange.start(200, [])
        await exchange.write("text")

    async def bad_header(exchange: Any) -> Any:
        exchange.start(200, [(b"a b", b"")])

    async def bad_status(exchange: Any) -> Any:
        exchange.start("200", [])

    async def bad_length(exchange: Any) -> Any:
        exchange.start(200, [], length=-1)

    async def other_thread(exchange: Any) -> Any:
        exchange.start(200, [])
        await asyncio.get_running_loop().run_in_executor(None, exchange.write, b"x")

    return {
        "nothing": (nothing, 500, "the handler returned None without having started a response"),
        "no_end": (no_end, 0, "the handler returned without having ended its response"),
        "only_start": (only_start, 500, "the handler returned without having ended its response"),
        "raises": (raises, 0, "half way"),
        "starts_twice": (starts_twice, 500, "the response was started already"),
        "writes_first": (writes_first, 500, "the response was not started"),
        "answers_too": (answers_too, 500, "the handler returned without having ended its response"),
        "too_long": (too_long, 0, "the response's body is longer than its content-length, 3"),
        "too_short": (too_short, 500, "the response's body ends after 2 bytes, short of its content-length, 3"),
        "text": (text, 500, "a body is bytes, bytearray or memoryview, not str"),
        "bad_header": (bad_header, 500, "a header name is not a token"),
        "bad_status": (bad_status, 500, "a status is an int, not str"),
        "bad_length": (bad_length, 500, "can't convert negative int to unsigned"),
        "other_thread": (other_thread, 0, "belongs to the event loop's thread"),
    }


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("name", mistakes())
def test_mistakes_are_reported_and_end_the_exchange(name: str, later: bool) -> None:
    do, status, text = mistakes()[name]

    async def handler(exchange: Any) -> Any:
        if later:
            await asyncio.sleep(0)
        return await do(exchange)

    with world({"x": slow(handler)}) as w:
        got, body = w.get("x")
        assert got == status
        (error,) = w.failures
        assert text in str(error)
        if status == 500:
            assert text in body.decode()
        w.loop.run_until_complete(w.loop.shutdown_default_executor())


@pytest.mark.parametrize("later", [False, True])
def test_what_goes_wrong_after_the_end_is_reported_alone(later: bool) -> None:
    async def handler(exchange: Any) -> Any:
        exchange.start(200, [])
        await exchange.write(b"ok", end=True)
        if later:
            await asyncio.sleep(0)
        if exchange.path == "/raise":
            raise ValueError("afterwards")
        if exchange.path == "/answer":
            return 200, [], b""
        if exchange.path == "/cancel":
            raise asyncio.CancelledError
        return await exchange.write(b"more")

    with world({"x": slow(handler)}) as w:
        for path, text in (
            ("/", "the response has ended already"),
            ("/raise", "afterwards"),
            ("/answer", "the handler returned an answer after it had answered"),
            ("/cancel", None),
        ):
            assert w.get("x", path=path) == (200, b"ok")
            w.until(lambda: w.lanes.tasks() == 0)
            assert [str(error) for error in w.failures] == ([] if text is None else [text])
            w.failures.clear()


@pytest.mark.parametrize("why", ["gone", "deadline", "leaving"])
def test_an_endpoint_may_have_its_handlers_cancelled_for_a_passed_deadline_alone(why: str) -> None:
    log: list[str] = []

    async def handler(exchange: Any) -> Any:
        try:
            await exchange.wait_disconnected()
            log.append("told")
        except asyncio.CancelledError:
            log.append("cancelled")

    with world({"x": _native.Endpoint(handler, cancels="deadline")}) as w:
        ident = w.ask("x")
        w.turn()
        w.edge.send_cancel(ident, why)
        w.until(lambda: w.lanes.tasks() == 0)
        assert kinds(w, ident) == ["abort"]
    assert log == ["cancelled" if why == "deadline" else "told"]


def test_a_fast_call_cannot_stream() -> None:
    with pytest.raises(ValueError, match="a fast call does not take the body"):
        _native.Endpoint(done, fast=done, body="stream")
    with pytest.raises(ValueError, match='no such way to take a body: "half"'):
        _native.Endpoint(done, body="half")
    with pytest.raises(ValueError, match='no such rule for cancelling: "never"'):
        _native.Endpoint(done, cancels="never")


# --- what is left behind


def test_fast_handlers_that_wait_leave_nothing_in_the_books() -> None:
    class Marker:
        pass

    alive: weakref.WeakSet[Marker] = weakref.WeakSet()

    async def waits(number: int) -> Any:
        marker = Marker()
        alive.add(marker)
        task = asyncio.current_task()
        task.marker = marker  # type: ignore[union-attr]
        await asyncio.sleep(0)
        return number

    with world({"x": fast(waits, "int")}) as w:
        for number in range(50):
            assert w.get("x", b"%d" % number) == (200, b"%d" % number)
        w.turn()
        gc.collect()
        assert len(alive) == 0, "a task that has answered is forgotten"


def test_streams_leave_nothing_behind() -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    async def handler(exchange: Any) -> Any:
        alive.add(asyncio.current_task())
        exchange.start(200, [])
        listener = asyncio.create_task(exchange.wait_disconnected())
        while piece := await exchange.receive():
            await exchange.write(piece)
        await exchange.write(b"", end=True)
        await listener

    with world({"x": stream(handler)}) as w:

        def round_(number: int) -> None:
            ident = w.ask("x", end=False)
            w.turn()
            w.edge.send_body(ident, PIECE, end=number % 3 != 0)
            w.turn()
            if number % 3 == 0:
                w.edge.send_cancel(ident)
            w.until(lambda: w.ended(ident) and w.lanes.tasks() == 0)
            w.seen.clear()
            w.bodies.clear()

        for number in range(30):
            round_(number)
        w.turn()
        gc.collect()
        before = len(gc.get_objects())
        for number in range(300):
            round_(number)
        w.turn()
        gc.collect()
        assert len(alive) == 0
        assert len(gc.get_objects()) - before < 50


def test_the_disconnect_can_be_asked_for_in_a_thread_while_the_loop_sleeps() -> None:
    exchanges: list[Any] = []

    async def handler(exchange: Any) -> Any:
        exchanges.append(exchange)
        await asyncio.sleep(0.01)
        return 200, [], b""

    with world({"x": slow(handler)}, spin_us=2000) as w:
        ident = w.ask("x")
        w.turn()
        found: list[bool] = []
        thread = threading.Thread(target=lambda: found.append(exchanges[0].disconnected))
        thread.start()
        w.lanes.before_block()
        thread.join()
        assert found == [False]
        assert w.answer(ident) == (200, b"")


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("asks", [False, True])
def test_a_fast_call_may_return_what_has_to_be_delivered(waits: bool, asks: bool) -> None:
    class Live:
        pass

    async def handler() -> Any:
        if asks:
            asyncio.current_task()
        if waits:
            await asyncio.sleep(0)
        return Live()

    async def deliver(live: Any, exchange: Any) -> None:
        assert isinstance(live, Live)
        exchange.start(200, HEADERS)
        await exchange.write(PIECE * 40)
        await exchange.write(b"", end=True)

    async def breaks(live: Any, exchange: Any) -> None:
        raise ValueError("on the way")

    for deliver_with, expected in ((deliver, (200, PIECE * 40)), (breaks, (500, b"ValueError: on the way on /x"))):
        with world({"x": fast(handler)}, deliver=deliver_with) as w:
            assert w.get("x") == expected
