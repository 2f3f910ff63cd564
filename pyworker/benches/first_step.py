"""Nanoseconds per request in the worker, with both ends of the lane in one process.

Build the module with the feature `testing` first. The edge's side of the work (writing requests, discarding answers) is
outside the measured time.

    python first_step.py [--rounds N] [--only NAME]
"""

# ruff: noqa: T201
import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

import orjson

from fasterapi._native import AsgiEndpoint, EdgeSide, Endpoint, Exchange, Lanes  # type: ignore[attr-defined]

HEADERS = [
    (b"host", b"localhost:8000"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate, br"),
    (b"x-request-id", b"0123456789abcdef"),
]


async def get_user(user_id: int) -> dict[str, Any]:
    return {"user_id": user_id, "name": "somebody"}


async def get_user_later(user_id: int) -> dict[str, Any]:
    await asyncio.sleep(0)
    return {"user_id": user_id, "name": "somebody"}


async def get_user_in_time(user_id: int) -> dict[str, Any]:
    asyncio.current_task()
    return {"user_id": user_id, "name": "somebody"}


async def get_user_slowly(exchange: Exchange) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    user_id = int(exchange.path_params["user_id"])
    return 200, [(b"content-type", b"application/json")], orjson.dumps({"user_id": user_id, "name": "somebody"})


START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/plain"), (b"content-length", b"13")],
}
BODY = {"type": "http.response.body", "body": b"Hello, world!"}


async def get_hello(scope: Any, receive: Any, send: Any) -> None:
    await send(START)
    await send(BODY)


def endpoint(fast: Callable[..., Any] | None) -> Endpoint:
    return Endpoint(get_user_slowly, param_names=("user_id",), fast=fast, fast_args=[(0, "int")] if fast else [])


CASES = {"fast": (0, 1), "slow": (1, 1), "task": (2, 2), "sleep0": (3, 4), "asgi": (4, 1)}
"""Route, and how many turns of the loop a request takes at most."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--only")
    options = parser.parse_args()
    edge = EdgeSide()
    lanes = Lanes(edge.attach(), edge.fds())
    loop = asyncio.new_event_loop()
    original = asyncio.current_task
    asyncio.current_task = asyncio.tasks.current_task = lambda loop=None: original(loop) or lanes.current_task()
    asgi = AsgiEndpoint(get_hello, state={}, server=("127.0.0.1", 8000))
    lanes.serve(
        [endpoint(get_user), endpoint(None), endpoint(get_user_in_time), endpoint(get_user_later), asgi],
        loop=loop,
        dumps=orjson.dumps,
        dumps_args=(None, 0),
        encode=lambda value, status: (status, [], bytes(value)),
        fail=lambda error, exchange: (500, [], repr(error).encode()),
    )
    edge.send_request(1, route=0, params=[b"42"], headers=HEADERS)
    edge.publish()
    asyncio.set_event_loop(loop)
    loop.call_soon(lanes.drain)
    loop.call_soon(loop.stop)
    loop.run_forever()
    print(edge.receive())
    for name, (route, turns) in CASES.items():
        if options.only and name != options.only:
            continue
        for batch in (1, 8, 32):
            times = [measure(edge, lanes, loop, route, turns, batch) for _ in range(options.rounds)]
            best, middle = min(times), statistics.median(times)
            print(f"{name:8} batch {batch:3}: best {best:6.0f} ns, median {middle:6.0f} ns per request")


def measure(edge: Any, lanes: Lanes, loop: asyncio.AbstractEventLoop, route: int, turns: int, batch: int) -> float:
    repeat = 960 // batch
    total = 0
    ident = 0
    clock = time.perf_counter_ns

    def turn() -> None:
        nonlocal total, ident
        for _ in range(repeat):
            for _ in range(batch):
                ident += 1
                edge.send_request(ident, route=route, params=[b"42"], headers=HEADERS, client="127.0.0.1:40000")
            edge.publish()
            start = clock()
            lanes.drain()
            total += clock() - start
            edge.discard()

    async def turns_of_the_loop() -> None:
        """Suspended handlers need the loop: its turns are part of the measured time."""
        nonlocal total, ident
        for _ in range(repeat):
            for _ in range(batch):
                ident += 1
                edge.send_request(ident, route=route, params=[b"42"], headers=HEADERS)
            edge.publish()
            start = clock()
            loop.call_soon(lanes.drain)
            for _ in range(turns):
                await asyncio.sleep(0)
            lanes.flush()
            total += clock() - start
            count = edge.discard()
            while count < batch:
                await asyncio.sleep(0)
                lanes.flush()
                count += edge.discard()

    if turns == 1:
        loop.call_soon(turn)
        loop.call_soon(loop.stop)
        loop.run_forever()
    else:
        loop.run_until_complete(turns_of_the_loop())
    return total / (repeat * batch)


if __name__ == "__main__":
    main()
