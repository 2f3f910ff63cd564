"""The native half against a real asyncio loop: requests, answers, bodies, credit, cancellation.

Needs the module built with its feature `testing`, which adds the edge's end.
"""

import asyncio
import gc
import os
import select
import threading
import time
import tracemalloc
import weakref
from random import Random
from typing import Any

import pytest

_native = pytest.importorskip("fasterapi._native")
if not hasattr(_native, "EdgeSide"):
    pytest.skip("built without the feature `testing`", allow_module_level=True)

from native_world import JSON, WINDOW, World, fast, slow, stream, world  # noqa: E402

PATTERN = bytes(range(251))


def body_of(size: int) -> bytes:
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


async def echo(exchange: Any) -> Any:
    return 200, [(b"X-Echo", b"yes")], exchange.body


async def upper(exchange: Any) -> Any:
    await asyncio.sleep(0)
    return 201, [], exchange.body.upper()


def test_fast_results_become_json() -> None:
    async def user(user_id: int) -> Any:
        return {"user_id": user_id, "name": "x"}

    async def nothing() -> Any:
        return None

    async def listing(a: str, b: float, c: bool, d: int) -> Any:
        return [a, b, c, d]

    endpoints = {
        "user": fast(user, "int"),
        "nothing": fast(nothing, status=201),
        "list": fast(listing, "str", "float", "bool", "int"),
    }
    with world(endpoints) as w:
        first = w.ask("user", b"42")
        assert w.answer(first) == (200, b'{"user_id":42,"name":"x"}')
        assert w.seen[first] == [("response", first, 200, [JSON], b'{"user_id":42,"name":"x"}', 25, True)]
        assert w.get("nothing") == (201, b"null")
        assert w.get("list", "é".encode(), b"1.5", b"true", b"-7") == (200, b'["\\u00e9",1.5,true,-7]')


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("int", b"0", 0),
        ("int", b"-1", -1),
        ("int", b"999999999999999999", 999999999999999999),
        ("float", b"1", 1.0),
        ("float", b"-0.25", -0.25),
        ("float", b"-0", -0.0),
        ("float", b"0.1", 0.1),
        ("float", b"123456789012345678901234567890", 123456789012345678901234567890.0),
        ("bool", b"1", True),
        ("bool", b"false", False),
        ("str", b"", ""),
        ("str", b"a b", "a b"),
    ],
)
def test_usual_spellings_are_converted(kind: str, text: bytes, value: Any) -> None:
    got: list[Any] = []

    async def handler(argument: Any) -> Any:
        got.append(argument)

    with world({"x": fast(handler, kind)}) as w:
        assert w.get("x", text)[0] == 200
    assert got == [value]
    assert type(got[0]) is type(value)
    assert repr(got[0]) == repr(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *(("int", t) for t in (b"", b"-", b"+1", b" 1", b"1 ", b"1_0", b"1.0", b"007", b"-0", b"1e3", b"0x1", b"1" * 19)),
        ("int", "٣".encode()),
        *(("float", t) for t in (b"", b".5", b"1.", b"1e5", b"nan", b"inf", b"+1.0", b"1_0.0", b"01.5", b"1.2.3", b" 1")),
        *(("bool", t) for t in (b"", b"True", b"yes", b"on", b"2", b"TRUE")),
        ("str", b"\xff"),
    ],
)
def test_unusual_spellings_take_the_slow_way(kind: str, text: bytes) -> None:
    async def handler(argument: Any) -> Any:
        raise AssertionError

    with world({"x": fast(handler, kind)}) as w:
        status, body = w.get("x", text)
    assert status == 422
    assert body == b"slow " + repr({"p0": text.decode("utf-8", "surrogateescape")}).encode("utf-8", "replace")


def test_other_results_of_the_fast_call_go_through_encode() -> None:
    class Sub(dict[str, int]):
        def __str__(self) -> str:
            return "a subclass"

    async def handler() -> Any:
        return Sub(a=1)

    with world({"x": fast(handler, status=203)}) as w:
        assert w.get("x") == (203, b"a subclass")


def test_an_exchange_has_all_of_its_request() -> None:
    seen: list[Any] = []

    async def handler(exchange: Any) -> Any:
        seen.append(exchange)
        return 204, [], b""

    fields = [(b"accept", b"a"), (b"x-y", b"1"), (b"x-y", b"2")]
    with world({"x": slow(handler, ["one", "two"])}) as w:
        w.get(
            "x",
            b"1",
            "ü".encode(),
            path="/x/1/ü",
            method="POST",
            query=b"q=%20",
            headers=fields,
            body=b"abc",
            client="127.0.0.1:99",
            authority="[::1]:8000",
            version=20,
        )
        w.get("x", method="LINK", authority="example.org")
    first, second = seen
    assert (first.method, first.path, first.raw_path) == ("POST", "/x/1/ü", "/x/1/ü".encode())
    assert (first.query_string, first.http_version, first.body) == (b"q=%20", "2", b"abc")
    assert first.headers == fields
    assert first.header(b"x-y") == b"1"
    assert first.header(b"none") is None
    assert first.path_params == {"one": "1", "two": "ü"}
    assert (first.client, first.server) == (("127.0.0.1", 99), ("::1", 8000))
    assert first.headers is first.headers
    assert first.body is first.body
    assert (second.method, second.http_version, second.client) == ("LINK", "1.1", None)
    assert second.server == ("example.org", None)


def test_a_batch_is_answered_in_one_drain() -> None:
    async def user(user_id: int) -> Any:
        return user_id

    with world({"x": fast(user, "int")}) as w:
        idents = [w.ask("x", str(i).encode()) for i in range(200)]
        w.turn()
        assert [w.seen[ident][0][4] for ident in idents] == [str(i).encode() for i in range(200)]


def test_lanes_take_turns() -> None:
    async def user(user_id: int) -> Any:
        return user_id

    with world({"x": fast(user, "int")}, shards=3) as w:
        for shard in range(3):
            w.edge.send_request(7, route=0, params=[b"%d" % shard], shard=shard)
            w.edge.publish(shard=shard)
        w.lanes.in_flight()
        w.turn()
        assert w.seen[7][0][4] == b"0"
        for shard in (1, 2):
            assert w.edge.receive(shard=shard)[0][4] == b"%d" % shard


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("text", "an answer is (status, headers, body), not str"),
        ((200, [], "text"), "a body is bytes, bytearray or memoryview, not str"),
        ((200, {}, b""), "headers are a list of (bytes, bytes), not dict"),
        ((200, [("a", b"b")], b""), "a header is (bytes, bytes), not tuple"),
        ((200, [(b"a b", b"")], b""), "a header name is not a token"),
        ((200, [(b"a", b"b\r\nc: d")], b""), "a header value contains a line break or NUL"),
        ((200, [(b"a", b"b" * 70_000)], b""), "the response has too many or too long header fields"),
        ((200, [(b"a", b"b")] * 101, b""), "the response has too many or too long header fields"),
        ((99, [], b""), "99 is not the status of a final response"),
        ((600, [], b""), "600 is not the status of a final response"),
        (("200", [], b""), "a status is an int, not str"),
    ],
)
def test_wrong_answers_fail_with_a_reason(answer: Any, expected: str) -> None:
    async def handler(exchange: Any) -> Any:
        return answer

    with world({"x": slow(handler)}) as w:
        status, body = w.get("x")
    assert status == 500
    assert expected in body.decode()


def test_header_names_are_lowered_and_bodies_may_be_any_bytes() -> None:
    async def handler(exchange: Any) -> Any:
        return 200, [(b"X-Name", b"V")], memoryview(bytearray(b"abc"))

    with world({"x": slow(handler)}) as w:
        ident = w.ask("x")
        assert w.answer(ident) == (200, b"abc")
        assert w.seen[ident][0][3] == [(b"x-name", b"V")]


@pytest.mark.parametrize("where", ["call", "first", "later"])
def test_exceptions_become_answers(where: str) -> None:
    def call(exchange: Any) -> Any:
        if where == "call":
            raise ValueError("call")
        return run()

    async def run() -> Any:
        if where == "later":
            await asyncio.sleep(0)
        raise ValueError(where)

    with world({"x": slow(call)}) as w:
        assert w.get("x") == (500, f"ValueError: {where} on /x".encode())


def test_what_dumps_raises_becomes_an_answer() -> None:
    async def handler() -> Any:
        return {"x": object()}

    with world({"x": fast(handler)}) as w:
        status, body = w.get("x")
    assert status == 500
    assert b"not JSON serializable on /x" in body


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_when_fail_fails_the_plainest_answer_goes_out() -> None:
    async def handler(exchange: Any) -> Any:
        class Silent(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no")

        raise Silent

    with world({"x": slow(handler)}) as w:
        assert w.get("x") == (500, b"Internal Server Error")


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_exit_in_a_handler_ends_the_loop_and_aborts_the_exchange(kind: type[BaseException], later: bool) -> None:
    async def handler(exchange: Any) -> Any:
        if later:
            await asyncio.sleep(0)
        raise kind

    with world({"x": slow(handler)}) as w:
        ident = w.ask("x")
        with pytest.raises(kind):
            w.until(lambda: False)
        w.lanes.flush()
        w.collect()
        assert w.seen[ident] == [("abort", ident)]


@pytest.mark.parametrize("size", [1, 16 * 1024, 16 * 1024 + 1, WINDOW + 1, 16 * 1024 * 1024])
def test_bodies_of_any_size_pass_both_ways(size: int) -> None:
    body = body_of(size)
    with world({"echo": slow(echo)}) as w:
        inline = body[: 16 * 1024]
        ident = w.ask("echo", body=inline, end=len(inline) == size, content_length=size)
        sent, window = len(inline), WINDOW - len(inline)
        while sent < size:
            part = body[sent : sent + min(window, 60_000)]
            taken = (w.edge.send_body(ident, part, end=sent + len(part) == size) or 0) if part else 0
            sent, window = sent + taken, window - taken
            if taken < len(part) or not part:
                w.turn()
                window += sum(message[2] for message in w.seen.pop(ident, []) if message[0] == "credit")
        status, got = w.answer(ident)
        assert status == 200
        assert got == body
        head = next(message for message in w.seen[ident] if message[0] == "response")
        assert head[5] == size


def test_a_response_stays_within_its_credit() -> None:
    async def big(exchange: Any) -> Any:
        return 200, [], body_of(WINDOW * 2)

    async def small() -> Any:
        return 1

    with world({"big": slow(big), "small": fast(small)}) as w:
        ident = w.ask("big")
        for _ in range(5):
            w.turn(credit=False)
        assert len(w.bodies[ident]) == WINDOW
        assert w.lanes.in_flight() == 1
        assert w.get("small") == (200, b"1"), "a reader that stands still holds nobody else up"
        w.edge.send_credit(ident, 10)
        w.turn(credit=False)
        assert len(w.bodies[ident]) == WINDOW + 10
        w.edge.send_credit(ident, WINDOW)
        assert w.answer(ident) == (200, body_of(WINDOW * 2))


def test_many_answers_pass_a_small_ring_in_fair_turns() -> None:
    async def big(exchange: Any) -> Any:
        return 200, [], body_of(100_000)

    with world({"big": slow(big)}, ring_size=128 * 1024, chunk_size=8192, chunk_count=4) as w:
        idents = [w.ask("big") for _ in range(20)]
        assert all(w.answer(ident) == (200, body_of(100_000)) for ident in idents)
        assert w.edge.kicks() == 0


def test_full_ring_is_waited_for_with_a_kick() -> None:
    async def handler(exchange: Any) -> Any:
        return 200, [], body_of(16_000)

    with world({"x": slow(handler)}) as w:
        idents = [w.ask("x") for _ in range(40)]
        w.edge.publish()
        w.lanes.drain()
        assert w.lanes.in_flight() > 0
        assert not w.lanes.before_block()
        assert not readable(w.lanes.fileno())
        w.collect()
        assert readable(w.lanes.fileno()), "the edge made room"
        assert all(w.answer(ident) == (200, body_of(16_000)) for ident in idents)


def test_arena_without_chunks_sleeps_instead_of_spinning() -> None:
    async def handler(exchange: Any) -> Any:
        return 200, [], body_of(100_000)

    with world({"x": slow(handler)}, chunk_count=1) as w:
        ident = w.ask("x")
        w.edge.publish()
        w.lanes.drain()
        assert not w.lanes.before_block()
        w.collect()
        assert readable(w.lanes.fileno())
        assert w.answer(ident) == (200, body_of(100_000))


def readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


@pytest.mark.parametrize("spin_us", [0, 50])
def test_the_doorbell_rings_only_for_a_sleeper_and_is_hushed(spin_us: int) -> None:
    async def one() -> Any:
        return 1

    with world({"x": fast(one)}, spin_us=spin_us) as w:
        w.ask("x")
        assert not w.edge.publish(), "awake"
        assert w.lanes.pending()
        assert w.lanes.before_block(), "there is work"
        w.lanes.drain()
        assert not w.lanes.pending()
        assert not w.lanes.before_block()
        w.ask("x")
        assert w.edge.publish(), "asleep"
        assert readable(w.lanes.fileno())
        w.lanes.drain()
        assert not readable(w.lanes.fileno())
        w.ask("x")
        assert not w.edge.publish(), "awake again"
        w.turn()


def test_a_record_that_comes_while_spinning_ends_the_spin() -> None:
    async def one() -> Any:
        return 1

    with world({"x": fast(one)}, spin_us=5_000_000) as w:

        def later() -> None:
            w.ask("x")
            assert not w.edge.publish(), "a spinning worker wants no kick"

        timer = threading.Timer(0.02, later)
        timer.start()
        start = time.monotonic()
        assert w.lanes.before_block()
        assert time.monotonic() - start < 4
        timer.join()
        w.turn()
        assert w.answer(1) == (200, b"1")


def test_cancel_while_the_body_is_coming() -> None:
    with world({"echo": slow(echo)}) as w:
        ident = w.ask("echo", body=b"abc", end=False)
        w.turn()
        assert w.lanes.in_flight() == 1
        w.edge.send_cancel(ident)
        assert w.answer(ident) == (0, b"")
        w.edge.send_body(ident, b"late", end=True)
        w.turn()
        assert w.seen[ident] == [("abort", ident)]


@pytest.mark.parametrize("what", ["raise", "swallow", "finally"])
def test_cancel_while_the_handler_waits(what: str) -> None:
    log: list[str] = []

    async def handler(exchange: Any) -> Any:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            log.append("cancelled")
            if what == "swallow":
                return 200, [], b"anyway"
            if what == "finally":
                await asyncio.sleep(0)
                log.append("cleaned")
            raise

    with world({"x": slow(handler)}) as w:
        ident = w.ask("x")
        w.turn()
        w.edge.send_cancel(ident)
        assert w.answer(ident) == (0, b""), "at once, whatever the handler makes of it"
        assert (w.lanes.in_flight(), w.lanes.tasks()) == (0, 1)
        w.until(lambda: w.lanes.tasks() == 0)
        assert w.seen[ident] == [("abort", ident)]
    assert log == (["cancelled", "cleaned"] if what == "finally" else ["cancelled"])


def test_cancel_right_behind_the_request() -> None:
    async def handler(exchange: Any) -> Any:
        await asyncio.sleep(60)

    with world({"x": slow(handler)}) as w:
        ident = w.ask("x")
        w.edge.send_cancel(ident)
        assert w.answer(ident) == (0, b"")


def test_cancel_while_the_answer_is_on_its_way_and_after_it() -> None:
    async def big(exchange: Any) -> Any:
        return 200, [], body_of(WINDOW * 2)

    with world({"x": slow(big)}) as w:
        ident = w.ask("x")
        w.turn(credit=False)
        w.edge.send_cancel(ident)
        assert w.answer(ident) == (0, b"")
        w.edge.send_cancel(ident)
        w.edge.send_credit(ident, 100)
        w.edge.send_cancel(99)
        w.turn()
        assert w.seen[ident][-1] == ("abort", ident)


@pytest.mark.parametrize("kind", ["whole", "uploading", "streamed"])
def test_a_request_that_was_withdrawn_never_reaches_the_application(kind: str) -> None:
    begun: list[str] = []

    async def handler(exchange: Any) -> Any:
        begun.append(exchange.path)
        return 200, [], b"done"

    with world({"x": stream(handler) if kind == "streamed" else slow(handler)}) as w:
        how: dict[str, Any] = {"end": True} if kind == "whole" else {"end": False, "body": b"some"}
        first = w.ask("x", path="/first")
        second = w.ask("x", path="/second", **how)
        position = w.edge.newest()
        if kind != "whole":
            w.edge.send_body(second, body_of(100_000))
        w.edge.publish()
        third = w.ask("x", path="/third")
        assert w.edge.withdraw(second, position)
        assert w.answer(first) == w.answer(third) == (200, b"done")
        assert begun == ["/first", "/third"]
        assert second not in w.seen
        assert (w.lanes.in_flight(), w.lanes.tasks()) == (0, 0)


def test_a_request_that_was_taken_is_not_withdrawn() -> None:
    with world({"x": slow(echo)}) as w:
        ident = w.ask("x", body=b"abc")
        position = w.edge.newest()
        w.edge.publish()
        w.lanes.drain()
        assert not w.edge.withdraw(ident, position)
        assert w.answer(ident) == (200, b"abc")


def test_what_may_have_been_withdrawn_too_late_is_ended_in_any_case() -> None:
    """The edge does not know whether its mark was seen: whoever saw it says ABORT, more often than there is room at once."""
    with world({"echo": slow(echo)}, ring_size=1024) as w:
        idents = []
        for _ in range(100):
            ident = w.ask("echo")
            assert w.edge.withdraw(ident, w.edge.newest())
            assert w.edge.send_cancel(ident, "late")
            w.edge.publish()
            w.lanes.drain()
            w.lanes.flush()
            idents.append(ident)
        w.until(lambda: all(w.seen.get(ident) == [("abort", ident)] for ident in idents))
        begun = w.ask("echo", body=b"x", end=False)
        w.turn()
        w.edge.send_cancel(begun, "late")
        assert w.answer(begun) == (0, b"")
        w.turn()
        assert w.seen[begun] == [("abort", begun)]


def test_cancelled_error_of_the_handlers_own_aborts() -> None:
    async def handler(exchange: Any) -> Any:
        raise asyncio.CancelledError

    with world({"x": slow(handler)}) as w:
        assert w.get("x") == (0, b"")


def test_a_route_that_was_not_announced_is_the_edges_fault() -> None:
    w = World({"x": slow(echo)})
    w.edge.send_request(1, route=5)
    w.edge.publish()
    with pytest.raises(RuntimeError, match="route 5 was not announced"):
        w.lanes.drain()
    with pytest.raises(RuntimeError, match="route 5 was not announced"):
        w.lanes.flush()  # From the selector, where it ends the loop.
    w.loop.close()


def test_a_drain_inside_a_handler_is_refused() -> None:
    async def handler(exchange: Any) -> Any:
        w.lanes.drain()

    with world({"x": slow(handler)}) as w:
        assert w.get("x")[1].startswith(b"RuntimeError: drain() was called by a handler")


def test_another_layout_is_refused() -> None:
    edge = _native.EdgeSide()
    fds = edge.fds()
    other = os.memfd_create("other")
    os.ftruncate(other, 8192)
    os.dup2(other, fds[1])
    os.close(other)
    with pytest.raises(RuntimeError, match="different builds"):
        _native.Lanes(edge.attach(), fds)
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_the_wrong_number_of_descriptors_is_refused() -> None:
    edge = _native.EdgeSide(2)
    with pytest.raises(ValueError, match="do not belong to 2 shards"):
        _native.Lanes(edge.attach(), edge.fds()[:4])


def test_die_with_parent_checks_who_the_parent_is() -> None:
    if (child := os.fork()) == 0:
        try:
            _native.die_with_parent(os.getppid())
            try:
                _native.die_with_parent(1 << 22)
            except RuntimeError:
                os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_threads_can_hold_an_exchange() -> None:
    async def handler(exchange: Any) -> Any:
        return await asyncio.to_thread(lambda: (200, [], exchange.body + exchange.header(b"a") + exchange.method.encode()))

    with world({"x": slow(handler)}) as w:
        idents = [w.ask("x", body=b"%d " % i, headers=[(b"a", b"b ")]) for i in range(20)]
        assert [w.answer(ident)[1] for ident in idents] == [b"%d b GET" % i for i in range(20)]
        w.loop.run_until_complete(w.loop.shutdown_default_executor())


@pytest.mark.parametrize("seed", range(8))
def test_any_mix_of_everything_ends_every_exchange_once(seed: int) -> None:
    random = Random(seed)
    sizes = (0, 10, 3000, 16_384, 40_000, 300_000)

    async def quick(number: int) -> Any:
        return number

    async def any_way(exchange: Any) -> Any:
        for _ in range(random.randrange(3)):
            if random.random() < 0.5:
                await asyncio.sleep(random.choice([0, 0.0005]))
            else:
                await asyncio.wait_for(asyncio.sleep(0), 1)
        if random.random() < 0.1:
            raise ValueError("x")
        size = random.choice(sizes)
        return 200, [(b"x-size", b"%d" % size)], exchange.body[:0] + body_of(size)

    geometry = {"ring_size": 128 * 1024, "chunk_size": random.choice([4096, 65_536]), "chunk_count": random.choice([1, 8])}
    with world({"quick": fast(quick, "int"), "any": slow(any_way)}, **geometry) as w:
        sending: dict[int, list[int]] = {}  # What is left to send, and the window.
        owed: dict[int, int] = {}
        idents: list[int] = []
        for _ in range(400):
            for _ in range(random.randrange(4)):
                if random.random() < 0.4:
                    idents.append(w.ask("quick", b"%d" % random.randrange(1000)))
                elif random.random() < 0.5:
                    idents.append(w.ask("any", body=body_of(random.randrange(5000))))
                else:
                    idents.append(w.ask("any", end=False))
                    sending[idents[-1]] = [random.choice(sizes), WINDOW]
            for ident in list(sending):
                left, window = sending[ident]
                taken = w.edge.send_body(ident, body_of(min(left, window)), end=left <= window)
                if taken is not None:
                    sending[ident] = [left - taken, window - taken]
                    if left == taken:
                        del sending[ident]
            if idents and random.random() < 0.3:
                w.edge.send_cancel(random.choice(idents[-20:]))
            w.turn(credit=False)
            for ident in idents[-200:]:
                for message in w.seen.get(ident, []):
                    if message[0] == "credit" and ident in sending:
                        sending[ident][1] += message[2]
                    if message[0] == "body":
                        owed[ident] = owed.get(ident, 0) + len(message[2])
                    if message[0] == "abort":
                        sending.pop(ident, None)
                w.seen[ident] = [m for m in w.seen.get(ident, []) if m[0] == "response" or w.ended(ident)]
            for ident in [ident for ident in owed if random.random() < 0.5]:
                # An ended exchange's bodies are counted again each time: late credit, but never more than a window.
                w.edge.send_credit(ident, min(owed.pop(ident), WINDOW))
        for ident in idents:
            w.edge.send_cancel(ident)
            w.turn()
        w.until(lambda: w.lanes.in_flight() == 0)
        ends = [sum(m[0] == "abort" or (m[0] in ("response", "body") and m[-1]) for m in w.seen[i]) for i in idents]
        assert ends == [1] * len(idents)
        for ident in idents:
            heads = [message for message in w.seen[ident] if message[0] == "response"]
            if heads and heads[0][3][:1] and heads[0][3][0][0] == b"x-size" and w.seen[ident][-1][0] != "abort":
                assert bytes(w.bodies[ident]) == body_of(int(heads[0][3][0][1]))


def test_ten_thousand_requests_leave_nothing_behind() -> None:
    class Marker:
        pass

    alive: weakref.WeakSet[Marker] = weakref.WeakSet()

    async def quick(user_id: int) -> Any:
        marker = Marker()
        alive.add(marker)
        return {"user_id": user_id}

    async def waits(exchange: Any) -> Any:
        marker = Marker()
        alive.add(marker)
        task = asyncio.current_task()
        await asyncio.sleep(0)
        assert task is asyncio.current_task()
        return 200, [], exchange.body

    async def raises() -> Any:
        marker = Marker()
        alive.add(marker)
        raise ValueError("x")

    with world({"quick": fast(quick, "int"), "waits": slow(waits), "raises": fast(raises)}) as w:

        def rounds(count: int) -> None:
            for i in range(count):
                idents = [w.ask("quick", b"%d" % i), w.ask("waits", body=b"x" * 100), w.ask("raises")]
                w.until(lambda idents=idents: all(w.ended(ident) for ident in idents))  # type: ignore[misc]
                w.seen.clear()
                w.bodies.clear()
                w.failures.clear()
            w.turn()
            w.turn()
            gc.collect()

        rounds(200)
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        objects = len(gc.get_objects())
        rounds(3400)
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert len(alive) == 0
        assert len(asyncio.all_tasks(w.loop)) == 0
        assert len(gc.get_objects()) - objects < 50
        assert grown < 50_000


def test_a_loop_is_told_of_what_is_written_outside_a_drain_once_until_it_flushes() -> None:
    told: list[str] = []

    async def handler(exchange: Any) -> Any:
        await asyncio.sleep(0.001)
        return 200, [], b"late"

    with world({"x": slow(handler)}) as w:
        w.lanes.on_use(lambda: told.append("used"))
        with pytest.raises(RuntimeError, match="called already"):
            w.lanes.on_use(print)
        idents = [w.ask("x") for _ in range(3)]
        w.turn()
        assert told == [], "a drain, and the flush behind it, are the loop's own doing"
        w.loop.run_until_complete(asyncio.sleep(0.05))
        assert told == ["used"]
        assert w.edge.receive() == [], "what they wrote waits for the flush"
        w.lanes.flush()
        w.collect()
        assert all(w.ended(ident) for ident in idents)
        assert w.get("x") == (200, b"late")
        assert len(told) == 2
