"""What happens when requests last, workers are full, dead or stuck, and clients lose patience."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Serve
from exchange import Client, Cut, Exchange
from multiplexed import Multiplexed
from payload import pattern
from server import Server, until

Start = Callable[..., Server]
LOGGED = {"h1": "HTTP/1.1", "h1-tls": "HTTP/1.1", "h2c": "HTTP/2.0", "h2-tls": "HTTP/2.0", "h3": "HTTP/3.0"}
"""As the access log writes them."""


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
def gated(serve: Serve, version: str, room: Room, tmp_path: Path) -> Start:
    def start(*arguments: str, workers: int = 1, shards: int = 1) -> Server:
        log = ("--access-log", tmp_path / "access.log")
        env = {"ROOM": str(room.path)}
        return serve("gated:app", *log, *arguments, workers=workers, shards=shards, env=env, version=version).ready()

    return start


def logged(tmp_path: Path, *parts: str) -> None:
    path = tmp_path / "access.log"
    until(f"the access log has {parts}", lambda: all(part in path.read_text() for part in parts))


# --- limits ----------------------------------------------------------------------------------------------------------


def test_the_largest_body_is_an_option(gated: Start) -> None:
    size = 100 * 1024
    with gated("--body-max", "100k").client() as client:
        assert client.request("POST", "/size", body=pattern(size)).json == size
        assert client.begin("POST", "/size", {"content-length": str(size + 1)}, more=True).response().status == 413
        # Of no known length, it is too large when it is.
        exchange = client.begin("POST", "/size", more=True)
        exchange.send(bytes(size))
        exchange.send(b"x")
        assert exchange.response().status == 413


def test_without_a_largest_body_there_is_none(gated: Start) -> None:
    server = gated("--body-max", "0")
    size = 33 * 1024 * 1024
    with server.client() as client:
        assert client.request("POST", "/size", body=bytes(size)).json == size
        if not client.multiplexes:
            assert client.request("POST", "/size", body=[bytes(size)]).json == size


def test_content_may_be_slow_only_for_as_long_as_the_options_say(gated: Start) -> None:
    server = gated("--body-timeout", "1.5")
    with server.client() as client:
        sibling = client.begin("GET", "/wait/sibling")
        started = time.monotonic()
        exchange = client.begin("POST", "/size", {"content-length": "10"}, more=True)
        exchange.send(b"half")
        assert exchange.response().status == 408
        assert 1.4 < time.monotonic() - started < 10
        assert client.request("GET", "/tag/x").json == {"tag": "x"}
        assert not sibling.answered(), "who is silent because it waits for an answer is not slow"


def test_an_idle_connection_is_closed_in_order(gated: Start) -> None:
    server = gated("--keepalive-timeout", "1")
    with server.client() as client:
        assert client.request("GET", "/tag/x").status == 200
        client.wait_end(10)


def test_a_request_that_lasts_too_long_is_answered_504_and_cancelled(
    gated: Start, version: str, room: Room, tmp_path: Path
) -> None:
    # Time enough for what is not late.
    server = gated("--request-timeout", "2")
    with server.client() as client:
        response = client.request("GET", "/wait/late")
        assert (response.status, response.json) == (504, {"detail": "Gateway Timeout"})
        room.wait("cancelled", ["late"])
        assert client.request("GET", "/tag/next").json == {"tag": "next"}
        assert client.connections == 1, "the same connection"
    logged(tmp_path, f'"GET /wait/late {LOGGED[version]}" 504 0 ')


def test_a_stuck_event_loop_costs_its_worker_its_life(gated: Start, room: Room) -> None:
    server = gated("--request-timeout", "2", "--stuck-timeout", "3", workers=2)
    with server.client() as client:
        stuck = client.begin("GET", "/block/stuck")
        room.wait("begin", ["stuck"])
        assert client.request("GET", "/tag/x").status == 200, "the other worker serves on"
        assert stuck.response().status == 504
        server.log.wait(r"its event loop has been stuck for \d+ ms")
        server.ready(3)
        assert client.request("GET", "/tag/y").status == 200


def gauge(server: Server, name: str) -> int:
    return sum(int(shard[name]) for shard in server.status()["shards"])


# --- queue -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shards", [1, 2])
def test_requests_beyond_the_cap_wait_and_are_served_in_order(gated: Start, room: Room, shards: int) -> None:
    server = gated("--inflight-max", "1", "--queue-max", "20", "--queue-timeout", "60", shards=shards)
    with server.client() as client:
        first = client.begin("GET", "/wait/a")
        room.wait("begin", ["a"])
        # Their order is known only if one shard has them all.
        names = ["b", "c", "d", "e"]
        waiting = []
        for name in names:
            waiting.append(client.begin("GET", f"/wait/{name}"))
            until("it waits behind the others", lambda: gauge(server, "queued") == len(waiting))
            room.open(name)
        assert room.events("begin") == ["a"]
        room.open("a")
        for name, exchange in zip(["a", *names], [first, *waiting], strict=True):
            assert exchange.response().json == {"waited": name}
    begun = room.events("begin")
    assert begun == ["a", *names] if shards == 1 else sorted(begun) == ["a", *names]


def test_beyond_the_queue_there_is_503_at_once(gated: Start, room: Room, tmp_path: Path) -> None:
    server = gated("--inflight-max", "1", "--queue-max", "1", "--queue-timeout", "60")
    with server.client() as client:
        first = client.begin("GET", "/wait/a")
        room.wait("begin", ["a"])
        second = client.begin("GET", "/wait/b")
        third = client.begin("GET", "/wait/c")
        # Whichever of the two came first waits, for longer than is waited for here.
        until("one is shed", lambda: second.answered() or third.answered())
        (shed, waits, name) = (third, second, "b") if third.answered() else (second, third, "c")
        response = shed.response()
        assert (response.status, response["retry-after"]) == (503, "1")
        room.open("a")
        room.open(name)
        assert first.response().json == {"waited": "a"}
        assert waits.response().json == {"waited": name}
    logged(tmp_path, '" 503 0 ')


def test_who_waits_too_long_is_answered_503_and_the_stuck_one_holds_up_nobody_else(gated: Start, room: Room) -> None:
    server = gated("--inflight-max", "1", "--queue-timeout", "0.5")
    with server.client() as client:
        first = client.begin("GET", "/wait/a")
        room.wait("begin", ["a"])
        response = client.request("GET", "/wait/b")
        assert (response.status, response["retry-after"]) == (503, "1")
        room.open("a")
        assert first.response().json == {"waited": "a"}
        assert client.request("GET", "/tag/x").status == 200
    assert room.events("begin") == ["a"]


def test_what_no_worker_has_taken_is_withdrawn_when_its_client_gives_it_up(gated: Start, room: Room) -> None:
    server = gated()
    with server.client() as stalled, server.client() as client:
        first = stalled.begin("GET", "/stall/gate")
        room.wait("begin", ["gate"])
        given_up = [client.begin("GET", f"/wait/w{number}") for number in range(30)]
        given_up += [client.begin("POST", f"/wait/u{number}", body=pattern(70_000), more=True) for number in range(2)]
        until("all are in the ring", lambda: gauge(server, "exchanges") == 33)
        for exchange in given_up:
            exchange.cancel()
        # The worker does nothing, and nothing is left with it.
        until("they are withdrawn", lambda: gauge(server, "exchanges") == 1)
        assert (gauge(server, "withdrawn"), gauge(server, "abandoned")) == (32, 32)
        kept = client.begin("GET", "/tag/kept")
        until("one more is in the ring", lambda: gauge(server, "exchanges") == 2)
        room.open("gate")
        assert first.response().json == {"stalled": "gate"}
        assert kept.response().json == {"tag": "kept"}
    assert room.events("begin") == ["gate"]
    until("nothing is left", lambda: gauge(server, "exchanges") == gauge(server, "chunks") == 0)


def test_requests_that_are_withdrawn_cost_their_connection_as_others_do(gated: Start, room: Room) -> None:
    """CVE-2023-44487, with a worker that takes nothing meanwhile."""
    server = gated()
    with server.client() as stalled, server.client() as client:
        if not isinstance(client, Multiplexed):
            return  # Each request has a connection of its own.
        first = stalled.begin("GET", "/stall/gate")
        room.wait("begin", ["gate"])
        begun = 0
        while not client.ended and begun < 1000:
            with contextlib.suppress(Cut):
                asked = [client.begin("GET", f"/wait/w{begun + number}") for number in range(60)]
                begun += len(asked)
                until("they are in the ring", lambda: gauge(server, "exchanges") == 61 or client.ended)
                for exchange in asked:
                    exchange.cancel()
                until("they are withdrawn", lambda: gauge(server, "exchanges") == 1)
        assert 180 <= begun < 1000
        until("nothing but the first is left", lambda: gauge(server, "exchanges") == 1)
        room.open("gate")
        assert first.response().json == {"stalled": "gate"}
        assert server.get("/tag/after").json == {"tag": "after"}
    assert room.events("begin") == ["gate"]
    assert gauge(server, "withdrawn") > 100


@pytest.mark.parametrize("leave", ["cancel", "reset"])
def test_a_client_that_goes_while_its_request_waits_is_forgotten(
    gated: Start, version: str, room: Room, tmp_path: Path, leave: str
) -> None:
    server = gated("--inflight-max", "1", "--queue-timeout", "60")
    with server.client() as client, server.client() as other:
        first = client.begin("GET", "/wait/a")
        room.wait("begin", ["a"])
        gone = other.begin("GET", "/wait/gone")
        until("it waits", lambda: gauge(server, "queued") == 1)
        depart(other, gone, leave)
        until("it is forgotten", lambda: gauge(server, "queued") == 0)
        room.open("a")
        assert first.response().json == {"waited": "a"}
        assert client.request("GET", "/tag/x").status == 200
    assert room.events("begin") == ["a"]
    logged(tmp_path, f'"GET /wait/gone {LOGGED[version]}" 499 0 ')


def depart(client: Client, exchange: Exchange, how: str) -> None:
    if how == "cancel":
        exchange.cancel()
    else:
        client.reset()


# --- deaths ----------------------------------------------------------------------------------------------------------


def kill(server: Server, place: int = 0) -> None:
    os.kill(server.worker_pid(place), signal.SIGKILL)


def test_what_a_dead_worker_held_is_repeated_if_its_method_allows_that(gated: Start, room: Room) -> None:
    server = gated()
    with server.client() as client:
        get, post = client.begin("GET", "/wait/get"), client.begin("POST", "/wait/post")
        until("both are held", lambda: sorted(room.events("begin")) == ["get", "post"])
        kill(server)
        assert post.response().status == 502
        until("one is repeated", lambda: sorted(room.events("begin")) == ["get", "get", "post"])
        room.open("get")
        assert get.response().json == {"waited": "get"}
        assert client.connections == (1 if client.multiplexes else 2)


def test_nothing_is_repeated_where_the_operator_says_so(gated: Start, room: Room) -> None:
    server = gated("--retry", "never")
    with server.client() as client:
        get = client.begin("GET", "/wait/get")
        room.wait("begin", ["get"])
        kill(server)
        assert get.response().status == 502
    assert room.events("begin") == ["get"]


def test_a_request_that_kills_its_worker_is_given_to_one_more_and_then_answered_502(gated: Start, room: Room) -> None:
    with gated().client() as client:
        response = client.request("GET", "/die/deadly")
        assert (response.status, response.json, response.closes) == (502, {"detail": "Bad Gateway"}, False)
    assert room.events("begin") == ["deadly", "deadly"]


def test_what_a_worker_had_not_taken_when_it_died_goes_to_another_whatever_its_method(gated: Start) -> None:
    server = gated("--retry", "never")
    stopped = server.worker_pid()
    os.kill(stopped, signal.SIGSTOP)
    body = pattern(150_000)
    with server.client() as client:
        small, large = client.begin("POST", "/size", body=b"12345"), client.begin("POST", "/size", body=body)
        get = client.begin("GET", "/tag/x")
        until("all are in its ring", lambda: gauge(server, "exchanges") == 3)
        os.kill(stopped, signal.SIGKILL)
        assert small.response().json == 5
        assert large.response().json == len(body)
        assert get.response().json == {"tag": "x"}


@pytest.mark.parametrize("leave", ["cancel", "reset"])
def test_a_client_that_goes_away_is_written_down_and_its_handler_cancelled(
    gated: Start, version: str, room: Room, tmp_path: Path, leave: str
) -> None:
    with gated().client() as client:
        exchange = client.begin("GET", "/wait/left")
        room.wait("begin", ["left"])
        depart(client, exchange, leave)
        room.wait("cancelled", ["left"])
    logged(tmp_path, f'"GET /wait/left {LOGGED[version]}" 499 0 ')
