"""Workers that die, hang or cannot come back: what the clients see of it, and how the pool recovers."""

import os
import signal
import threading
from collections import Counter
from pathlib import Path

import pytest
from conftest import Serve
from exchange import Cut
from payload import pattern
from server import START_MAX_S, Server, descriptors, until
from versions import VERSIONS


class Load:
    """Clients on kept connections that ask until they are told to stop, and write down what they got.

    Where exchanges share a connection, a client has several under way."""

    def __init__(self, server: Server, clients: int, target: str = "/tag/{}") -> None:
        self._server, self._target = server, target
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._statuses: Counter[int] = Counter()
        self._errors: list[str] = []
        self._threads = [threading.Thread(target=self._client, args=(number,), daemon=True) for number in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        self.until_more(100)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a request without an answer"

    def _client(self, number: int) -> None:
        try:
            with self._server.client() as client:
                turn = 0
                while not self._stop.is_set():
                    turn += 1
                    tags = [f"{number}-{turn}-{place}" for place in range(4 if client.multiplexes else 1)]
                    for tag, exchange in [(tag, client.begin("GET", self._target.format(tag))) for tag in tags]:
                        response = exchange.response()
                        assert response.status != 200 or response.json == {"tag": tag}, "another request's answer"
                        with self._lock:
                            self._statuses[response.status] += 1
                assert client.connections == 1
        except Exception as error:
            with self._lock:
                self._errors.append(repr(error))

    @property
    def statuses(self) -> Counter[int]:
        with self._lock:
            assert not self._errors, self._errors
            return Counter(self._statuses)

    def until_more(self, requests: int, status: int = 200) -> None:
        goal = self.statuses[status] + requests
        until(f"{requests} more answers {status}", lambda: self.statuses[status] >= goal)


def kill(server: Server, place: int = 0, number: signal.Signals = signal.SIGKILL) -> int:
    pid = server.worker_pid(place)
    os.kill(pid, number)
    return pid


@pytest.mark.parametrize("target", ["/tag/{}", "/thread/{}"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_resets_no_connection_and_is_replaced(serve: Serve, version: str, workers: int, target: str) -> None:
    server = serve("echo:app", workers=workers, version=version).ready()
    deaths = 3 if version == "h1" else 1
    with Load(server, 4 if server.version.multiplexes else 16, target) as load:
        for round_ in range(1, deaths + 1):
            old = kill(server)
            server.ready(workers + round_)
            assert server.worker_pid() != old
            load.until_more(200)
        assert set(load.statuses) == {200}, "a GET survives its worker"
        before = load.statuses
        load.until_more(500)
        assert load.statuses - before == Counter({200: load.statuses[200] - before[200]}), "afterwards all is well"
    assert len(server.log.find(r"killed by SIGKILL; respawn in \d+ ms")) == deaths
    assert server.admin("/readyz").json["workers_ready"] == workers


@pytest.mark.parametrize(
    ("how", "log"),
    [
        ("exit", "exited with status 7"),
        ("abort", "killed by SIGABRT"),
        ("segfault", "killed by SIGSEGV"),
        ("kill", "killed by SIGKILL"),
        ("thread", "exited with status 7"),
    ],
)
def test_a_handler_that_ends_its_process_costs_its_own_request(serve: Serve, version: str, how: str, log: str) -> None:
    server = serve("crash:app", version=version).ready()
    with server.client() as client, server.client() as bystander:
        assert bystander.request("GET", "/").status == 200
        response = client.request("GET", f"/end/{how}")
        assert (response.status, response.json) == (502, {"detail": "Bad Gateway"})
        server.log.wait(log, 2)
        server.ready(3)
        for kept in (client, bystander):
            assert kept.request("GET", "/").status == 200
            assert kept.connections == 1, "the same connection"


def test_everything_that_a_dead_worker_held_is_answered_502(serve: Serve, version: str) -> None:
    server = serve("echo:app", "--retry", "never", version=version).ready()
    with server.client() as client:
        holding = [client.begin("GET", f"/hold/{number}") for number in range(20)]
        until("all are held", lambda: len(server.get("/held").json) == 20)
        kill(server)
        for exchange in holding:
            assert exchange.response().status == 502
        server.ready(2)
        for number in range(20):
            assert client.request("GET", f"/tag/{number}").json == {"tag": str(number)}
        assert client.connections == (1 if client.multiplexes else 20)


def test_a_worker_that_dies_inside_an_upload(serve: Serve, version: str) -> None:
    server = serve("echo:app", version=version).ready()
    with server.client() as client:
        exchange = client.begin("POST", "/echo", {"content-length": "1000000"}, more=True)
        exchange.send(bytes(100_000))
        assert server.get("/tag/x").status == 200
        kill(server)
        response = exchange.response()
        assert (response.status, response.closes) == (502, not client.multiplexes)
        server.ready(2)
        assert client.request("GET", "/tag/x").status == 200
        assert client.connections == (1 if client.multiplexes else 2)


def test_a_response_that_a_death_cut_off_is_not_completed(serve: Serve, version: str) -> None:
    size = 16 * 1024 * 1024 + 1
    server = serve("echo:app", version=version).ready()
    with server.client() as client:
        exchange = client.begin("GET", f"/bytes/{size}")
        found = exchange.read()
        kill(server)
        server.ready(2)
        with pytest.raises(Cut):
            while piece := exchange.read():
                found += piece
        assert len(found) < size
        assert pattern(size).startswith(found)
        assert client.request("GET", "/tag/x").status == 200


@pytest.mark.parametrize("version", [name for name, version in VERSIONS.items() if version.multiplexes], indirect=True)
def test_a_worker_killed_in_mid_stream_resets_that_stream_only(serve: Serve, version: str) -> None:
    """Two workers have three exchanges each of one connection; whose worker lives is answered to the end."""
    server = serve("streams:app", workers=2, version=version).ready()
    with server.client() as client:
        exchanges = [client.begin("GET", f"/download/async/sibling-{number}/40") for number in range(6)]
        begun = [exchange.read() for exchange in exchanges]
        kill(server)
        whole, cut = 0, 0
        for first, exchange in zip(begun, exchanges, strict=True):
            found = bytearray(first)
            try:
                while piece := exchange.read():
                    found += piece
                assert bytes(found) == pattern(64 * 1024) * 40, "a sibling is what it would have been"
                whole += 1
            except Cut:
                assert len(found) < 40 * 64 * 1024
                cut += 1
        assert (whole, cut) == (3, 3)
        server.ready(3)
        assert client.request("GET", "/counter/none").json == 0
        assert client.connections == 1


def test_a_worker_that_cannot_come_back_is_tried_with_growing_pauses(serve: Serve, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    server = serve("crash:app", "--queue-timeout", "0.5", env={"TRAP": str(trap)}).ready()
    trap.touch()
    kill(server)
    found = server.log.wait(r"respawn in (\d+) ms", 6, START_MAX_S)
    assert [int(pause[1]) for pause in found][:6] == [50, 100, 200, 400, 800, 1600]
    assert server.log.find("the application cannot be imported: RuntimeError: trapped")
    ready = server.admin("/readyz")
    assert (ready.status, ready.json["workers_ready"]) == (503, 0)
    assert server.admin("/healthz").status == 200
    with server.client() as client:
        response = client.request("GET", "/")
        assert (response.status, response["retry-after"], response.closes) == (503, "1", False)
        trap.unlink()
        server.ready(2)
        assert client.request("GET", "/").status == 200


def test_a_worker_that_exits_while_it_is_imported_is_tried_again(serve: Serve, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    server = serve("crash:app", env={"TRAP": str(trap)}).ready()
    trap.write_text("exit")
    kill(server)
    server.log.wait(r"exited with status 9; respawn in \d+ ms", 2)
    trap.unlink()
    server.ready(2)
    assert server.get("/").status == 200


def test_a_stopped_worker_is_avoided(serve: Serve, version: str) -> None:
    server = serve("echo:app", workers=2, version=version).ready()
    stopped = kill(server, 0, signal.SIGSTOP)
    with server.client(60) as client:
        # Equally loaded workers take turns: of two requests one is with the worker that does not answer.
        exchanges = [client.begin("GET", "/pid") for _ in range(2)]
        until("one is answered", lambda: any(exchange.answered() for exchange in exchanges))
        with server.client(10) as other:
            for number in range(100):
                assert other.request("GET", "/pid").json == {"pid": server.worker_pid(1)}, number
        os.kill(stopped, signal.SIGCONT)
        assert stopped in [exchange.response().json["pid"] for exchange in exchanges]


def test_a_stopped_worker_does_not_keep_the_server_from_ending(serve: Serve) -> None:
    server = serve("echo:app", workers=2).ready()
    kill(server, 0, signal.SIGSTOP)
    server.signal(signal.SIGTERM)
    server.log.wait("stopping")
    server.signal(signal.SIGTERM)
    server.finish(143, at_most_s=10)


def test_deaths_leave_no_descriptors_behind(serve: Serve) -> None:
    server = serve("echo:app", shards=2).ready()

    def usage() -> int:
        server.get("/pid")
        return descriptors(server.pid)

    before = usage()
    for death in range(1, 6):
        kill(server)
        server.ready(1 + death)
    until("the descriptors of dead workers are closed", lambda: usage() <= before)
