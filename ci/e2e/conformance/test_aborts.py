"""Clients that leave at any moment, hundreds of them, and what is left of them afterwards: nothing."""

import random
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

from conformance.asking import APP, Kind, Start
from conformance.differences import side
from frames import TEXT, Frame, encoded, upgrade
from server import Listening, Server, descriptors, until
from wire import Closed, Connection, Malformed, chunked, head

ABORTS = 400
AT_ONCE = 16
SIZE = 3_000_000
PATHS = ("/aborted/both-ways", "/aborted/echo", "/aborted/deaf", "/aborted/listens", "/aborted/waits")


class Client(Protocol):
    def __call__(self, server: Listening, *, seed: int) -> None: ...


def leave(connection: Connection, draw: random.Random) -> None:
    """In order, with RST, or by halves."""
    how = draw.randrange(3)
    if how == 0:
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    elif how == 1:
        connection.socket.shutdown(socket.SHUT_WR)
    connection.close()


def one(server: Listening, pipelined: int, seed: int) -> None:
    """One client, that may have asked more than once: how far it gets is drawn. It must not be waited for: whatever the server does to it is right."""
    draw = random.Random(seed)
    path = draw.choice(PATHS)
    if draw.random() < 0.5:
        request = head("POST", path, {"content-length": str(SIZE)}) + bytes(SIZE)
    elif draw.random() < 0.5:
        request = head("POST", path, {"transfer-encoding": "chunked"}) + chunked(*[bytes(50_000)] * 20)
    else:
        request = head("GET", path) * draw.choice([1, 1, pipelined])
    sent = request[: draw.choice([draw.randrange(200), draw.randrange(len(request)), len(request)])]
    connection = server.connect(timeout_s=draw.choice([0.01, 0.1, 1.0]))
    try:
        connection.send(sent)
        connection.exactly(draw.choice([1, 100, draw.randrange(1, 100_000), draw.randrange(1, 4_000_000)]))
    except (Malformed, Closed, OSError):
        # Nothing that it waited for, or nothing that it could wait for.
        pass
    finally:
        try:
            leave(connection, draw)
        except OSError:
            connection.close()


def one_websocket(server: Listening, seed: int) -> None:
    draw = random.Random(seed)
    connection = server.connect(timeout_s=draw.choice([0.01, 0.1, 1.0]))
    try:
        opened = upgrade(connection, draw.choice(["/ws/echo?aborted", "/ws/flood?aborted", "/ws/held?aborted"]))
        frame = encoded(Frame(TEXT, b"x" * draw.randrange(200_000)))
        opened.connection.send(frame[: draw.choice([len(frame), draw.randrange(len(frame))])])
        connection.exactly(draw.randrange(1, 200_000))
    except (AssertionError, Closed, OSError):
        pass
    finally:
        try:
            leave(connection, draw)
        except OSError:
            connection.close()


def counts(server: Listening) -> dict[str, int]:
    found: dict[str, int] = server.get("/aborted/counts").json
    return found


def left_over(server: Server) -> tuple[dict[str, int], int | None]:
    """By the server's own books: what belongs to clients and requests, and the worker's tasks, unknown until it was asked for them."""
    found = server.status()
    (process,) = found["workers"][0]["processes"]
    shards = {name: sum(shard[name] for shard in found["shards"]) for name in ("connections", "exchanges", "queued", "chunks")}
    return {**shards, "in_flight": process["in_flight"]}, process["tasks"]


def settled(server: Server, tasks: int) -> bool:
    """The books are empty but for the tasks that an idle worker has."""
    found, running = left_over(server)
    return not any(found.values()) and running is not None and running <= tasks


def nothing_is_left(start: Start, client: Client) -> int:
    """Lets them come and go; how many of them got as far as the counting paths."""
    server = start(APP)
    assert server.get("/aborted/deaf").status == 200
    before, open_before = counts(server), descriptors(server.pid)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(lambda seed: client(server, seed=seed), range(ABORTS)):
            pass

    def over() -> dict[str, int] | None:
        found = counts(server)
        return found if found["begun"] == found["ended"] and found["tasks"] <= before["tasks"] else None

    after = until("every request that began has ended, and no task is left", over)
    until("no descriptor is left", lambda: descriptors(server.pid) <= open_before)
    if isinstance(server, Server):
        # Its books count the worker's own tasks too, which `counts` does not tell apart: one more at the most, the one that counted.
        until("no exchange, chunk or connection is left", lambda: settled(server, before["tasks"] + 1))
    assert server.get("/send/length").body == b"onetwosix"
    return after["begun"] - before["begun"]


def test_nothing_is_left_of_clients_that_leave(start: Start, kind: Kind) -> None:
    client = partial(one, pipelined=side(kind, "requests of a client that leaves"))
    assert nothing_is_left(start, client) > ABORTS // 2, "most of them got as far as the application"


def test_nothing_is_left_of_websockets_whose_clients_leave(start: Start) -> None:
    nothing_is_left(start, one_websocket)
