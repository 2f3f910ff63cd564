"""What happens when requests last, workers are full, dead or stuck, and clients lose patience."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Serve
from payload import pattern
from server import Server, until
from wire import Connection, chunked, head

Start = Callable[..., Server]


class Room:
    """Where apps/gated.py writes its journal and looks for its gates."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "journal").touch()

    def open(self, name: str) -> None:
        (self.path / name).touch()

    def events(self, kind: str) -> list[str]:
        """The names that had this event, in order."""
        lines = (self.path / "journal").read_text().splitlines()
        return [line.split()[1] for line in lines if line.startswith(f"{kind} ")]

    def wait(self, kind: str, names: list[str]) -> None:
        until(f"{kind} {names}", lambda: self.events(kind) == names)


@pytest.fixture
def room(tmp_path: Path) -> Room:
    path = tmp_path / "room"
    path.mkdir()
    return Room(path)


@pytest.fixture
def gated(serve: Serve, room: Room, tmp_path: Path) -> Start:
    def start(*arguments: str, workers: int = 1, shards: int = 1) -> Server:
        log = ("--access-log", tmp_path / "access.log")
        return serve("gated:app", *log, *arguments, workers=workers, shards=shards, env={"ROOM": str(room.path)}).ready()

    return start


def asking(server: Server, name: str, method: str = "GET", target: str = "/wait/{}") -> Connection:
    connection = server.connect()
    connection.ask(method, target.format(name))
    return connection


def logged(tmp_path: Path, *parts: str) -> None:
    path = tmp_path / "access.log"
    until(f"the access log has {parts}", lambda: all(part in path.read_text() for part in parts))


# --- limits ----------------------------------------------------------------------------------------------------------


def test_the_largest_body_is_an_option(gated: Start) -> None:
    server = gated("--body-max", "100k")
    with server.connect() as connection:
        assert connection.request("POST", "/size", body=pattern(100 * 1024)).json == 100 * 1024
        connection.send(head("POST", "/size", {"content-length": str(100 * 1024 + 1)}))
        assert connection.response().status == 413
    with server.connect() as connection:
        connection.send(head("POST", "/size", {"transfer-encoding": "chunked"}))
        connection.send(b"%x\r\n" % (100 * 1024 + 1))
        assert connection.response().status == 413


def test_without_a_largest_body_there_is_none(gated: Start) -> None:
    server = gated("--body-max", "0")
    size = 33 * 1024 * 1024
    with server.connect() as connection:
        assert connection.request("POST", "/size", body=bytes(size)).json == size
        connection.send(head("POST", "/size", {"transfer-encoding": "chunked"}) + chunked(bytes(size)))
        assert connection.response().json == size


def test_a_connection_may_be_slow_only_for_as_long_as_the_options_say(gated: Start) -> None:
    server = gated("--header-timeout", "1", "--body-timeout", "1.5", "--keepalive-timeout", "2")
    with server.connect() as header, server.connect() as body, server.connect() as idle:
        started = time.monotonic()
        header.send(b"GET /tag/x HT")
        body.send(head("POST", "/size", {"content-length": "10"}) + b"half")
        assert (header.response().status, header.rest()) == (408, b"")
        assert (body.response().status, body.rest()) == (408, b"")
        assert idle.rest() == b""
        assert 1.9 < time.monotonic() - started < 10


def test_a_request_that_lasts_too_long_is_answered_504_and_cancelled(gated: Start, room: Room, tmp_path: Path) -> None:
    server = gated("--request-timeout", "0.5")
    with asking(server, "late") as connection:
        response = connection.response()
        assert (response.status, response.json, response.closes) == (504, {"detail": "Gateway Timeout"}, False)
        room.wait("cancelled", ["late"])
        assert connection.request("GET", "/tag/next").json == {"tag": "next"}, "the same connection"
    logged(tmp_path, '"GET /wait/late HTTP/1.1" 504 0 ')


def test_a_stuck_event_loop_costs_its_worker_its_life(gated: Start, room: Room) -> None:
    server = gated("--request-timeout", "0.5", "--stuck-timeout", "1", workers=2)
    with asking(server, "stuck", target="/block/{}") as connection:
        room.wait("begin", ["stuck"])
        with server.connect() as other:
            assert other.request("GET", "/tag/x").status == 200, "the other worker serves on"
        assert connection.response().status == 504
        server.log.wait(r"its event loop has been stuck for \d+ ms")
        server.ready(3)
        assert connection.request("GET", "/tag/y").status == 200


def gauge(server: Server, name: str) -> int:
    return sum(int(shard[name]) for shard in server.status()["shards"])


# --- queue -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 2])
def test_requests_beyond_the_cap_wait_and_are_served_in_order(gated: Start, room: Room, shards: int) -> None:
    server = gated("--inflight-max", "1", "--queue-max", "20", shards=shards)
    first = asking(server, "a")
    room.wait("begin", ["a"])
    # On one connection each, but in an order that is known only if one shard has them all.
    names = ["b", "c", "d", "e"]
    waiting = []
    for name in names:
        waiting.append(asking(server, name))
        until("it waits behind the others", lambda: gauge(server, "queued") == len(waiting))
        room.open(name)
    assert room.events("begin") == ["a"]
    room.open("a")
    assert first.response().json == {"waited": "a"}
    for name, connection in zip(names, waiting, strict=True):
        assert connection.response().json == {"waited": name}
        connection.close()
    first.close()
    begun = room.events("begin")
    assert begun == ["a", *names] if shards == 1 else sorted(begun) == ["a", *names]


def test_beyond_the_queue_there_is_503_at_once(gated: Start, room: Room, tmp_path: Path) -> None:
    server = gated("--inflight-max", "1", "--queue-max", "1")
    with asking(server, "a") as first, server.connect() as second, server.connect() as third:
        room.wait("begin", ["a"])
        second.ask("GET", "/wait/b")
        started = time.monotonic()
        third.ask("GET", "/wait/c")
        # Whichever of the two came first waits.
        shed = third if (until("one is shed", lambda: readable(second, third)) is third) else second
        waits, name = (second, "b") if shed is third else (third, "c")
        response = shed.response()
        assert (response.status, response["retry-after"], response.closes) == (503, "1", False)
        assert time.monotonic() - started < 5
        room.open("a")
        room.open(name)
        assert first.response().json == {"waited": "a"}
        assert waits.response().json == {"waited": name}
    logged(tmp_path, '" 503 0 ')


def readable(*connections: Connection) -> Connection | None:
    import select

    found = select.select([connection.socket for connection in connections], [], [], 0)[0]
    return next((connection for connection in connections if connection.socket in found), None)


def test_who_waits_too_long_is_answered_503_and_the_stuck_one_holds_up_nobody_else(gated: Start, room: Room) -> None:
    server = gated("--inflight-max", "1", "--queue-timeout", "0.5")
    with asking(server, "a") as first, server.connect() as second:
        room.wait("begin", ["a"])
        response = second.request("GET", "/wait/b")
        assert (response.status, response["retry-after"], response.closes) == (503, "1", False)
        room.open("a")
        assert first.response().json == {"waited": "a"}
        assert second.request("GET", "/tag/x").status == 200
    assert room.events("begin") == ["a"]


def test_a_client_that_goes_while_its_request_waits_is_forgotten(gated: Start, room: Room, tmp_path: Path) -> None:
    server = gated("--inflight-max", "1")
    with asking(server, "a") as first:
        room.wait("begin", ["a"])
        gone = asking(server, "gone")
        gone.half_close()
        assert gone.rest() == b""
        gone.close()
        room.open("a")
        assert first.response().json == {"waited": "a"}
        assert first.request("GET", "/tag/x").status == 200
    assert room.events("begin") == ["a"]
    logged(tmp_path, '"GET /wait/gone HTTP/1.1" 499 0 ')


# --- deaths ----------------------------------------------------------------------------------------------------------


def kill(server: Server, place: int = 0) -> None:
    os.kill(server.worker_pid(place), signal.SIGKILL)


def test_what_a_dead_worker_held_is_repeated_if_its_method_allows_that(gated: Start, room: Room) -> None:
    server = gated()
    with asking(server, "get") as get, asking(server, "post", "POST") as post:
        until("both are held", lambda: sorted(room.events("begin")) == ["get", "post"])
        kill(server)
        response = post.response()
        assert (response.status, response.closes) == (502, False)
        until("one is repeated", lambda: sorted(room.events("begin")) == ["get", "get", "post"])
        room.open("get")
        assert get.response().json == {"waited": "get"}


def test_nothing_is_repeated_where_the_operator_says_so(gated: Start, room: Room) -> None:
    server = gated("--retry", "never")
    with asking(server, "get") as get:
        room.wait("begin", ["get"])
        kill(server)
        assert get.response().status == 502
    assert room.events("begin") == ["get"]


def test_a_request_that_kills_its_worker_is_given_to_one_more_and_then_answered_502(gated: Start, room: Room) -> None:
    server = gated()
    with asking(server, "deadly", target="/die/{}") as connection:
        response = connection.response()
        assert (response.status, response.json, response.closes) == (502, {"detail": "Bad Gateway"}, False)
    assert room.events("begin") == ["deadly", "deadly"]


def test_what_a_worker_had_not_taken_when_it_died_goes_to_another_whatever_its_method(gated: Start) -> None:
    server = gated("--retry", "never")
    stopped = server.worker_pid()
    os.kill(stopped, signal.SIGSTOP)
    body = pattern(150_000)
    with server.connect() as small, server.connect() as large, server.connect() as get:
        small.ask("POST", "/size", body=b"12345")
        large.ask("POST", "/size", body=body)
        get.ask("GET", "/tag/x")
        until("all are in its ring", lambda: gauge(server, "exchanges") == 3)
        os.kill(stopped, signal.SIGKILL)
        assert small.response().json == 5
        assert large.response().json == len(body)
        assert get.response().json == {"tag": "x"}


def test_a_client_that_goes_away_is_written_down_and_its_handler_cancelled(gated: Start, room: Room, tmp_path: Path) -> None:
    server = gated()
    with asking(server, "left") as connection:
        room.wait("begin", ["left"])
        connection.half_close()
        assert connection.rest() == b""
        room.wait("cancelled", ["left"])
    logged(tmp_path, '"GET /wait/left HTTP/1.1" 499 0 ')
