"""Workers that are replaced while the server serves: reloaded, recycled, more or fewer. No client notices."""

import itertools
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Serve
from server import Server, resident_kib, until
from test_crash import Load, kill

APP = """
import asyncio, os
from pathlib import Path
from fasterapi import FastAPI

app = FastAPI()
{routes}

@app.get("/tag/{{tag}}")
async def tag(tag: str):
    return {{"tag": tag}}

@app.get("/version")
async def version():
    return {{"version": {version}, "pid": os.getpid()}}

@app.get("/held")
async def held():
    while not Path(__file__).with_name("released").exists():
        await asyncio.sleep(0.01)
    return os.getpid()

kept = []

@app.get("/leak")
async def leak():
    kept.append(b"x" * (32 * 1024 * 1024))
"""


def write(folder: Path, version: int) -> None:
    """Every version numbers its routes differently: one generation's number means something else to another."""
    routes = "\n".join(f"app.get('/only-{version}/{n}')(lambda: {version})" for n in range(version))
    new = folder / "main.py.new"
    new.write_text(APP.format(version=version, routes=routes))
    # A second within which it changes twice has one time stamp, by which Python's bytecode cache goes.
    os.utime(new, (version, version))
    new.rename(folder / "main.py")


def version(server: Server) -> int:
    found: int = server.get("/version").json["version"]
    return found


@contextmanager
def nothing_fails(server: Server, clients: int = 8) -> Iterator[Load]:
    with Load(server, clients) as load:
        yield load
        load.until_more(200)
    assert set(load.statuses) == {200}, load.statuses


@pytest.mark.parametrize("how", ["signal", "ctl"])
def test_a_reload_under_load_fails_no_request(serve: Serve, tmp_path: Path, how: str) -> None:
    write(tmp_path, 1)
    server = serve("main:app", workers=2, shards=2, app_dir=tmp_path).ready()
    with nothing_fails(server):
        for generation in range(2, 6):
            write(tmp_path, generation)
            if how == "ctl":
                assert server.ctl("reload") == f"generation {generation} serves\n"
            else:
                server.signal(signal.SIGHUP)
                server.log.wait(rf"reloading the application as generation {generation}: SIGHUP")
                server.ready(2 * generation)
            assert version(server) == generation
            assert server.get(f"/only-{generation}/0").status == 200
            assert server.get(f"/only-{generation - 1}/0").status == 404
    until("the old ones are gone", lambda: len(server.family()) == 3)
    assert server.status()["restarts"] == {"reload": 8}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise RuntimeError('broken on purpose')", "RuntimeError: broken on purpose"),
        ("def f(:", "SyntaxError"),
        (
            "from fasterapi import FastAPI\ndef no(): raise ValueError('no database')\napp = FastAPI(on_startup=[no])",
            "ValueError: no database",
        ),
        ("import os; os._exit(4)", "exited with status 4"),
        ("import time; time.sleep(60)", "not ready after 15 s"),
    ],
)
def test_a_reload_that_fails_keeps_the_old_generation(serve: Serve, tmp_path: Path, source: str, said: str) -> None:
    write(tmp_path, 1)
    server = serve("main:app", "--start-timeout", "15", workers=2, app_dir=tmp_path).ready()
    pids = {server.worker_pid(place) for place in range(2)}
    with nothing_fails(server, 4):
        (tmp_path / "main.py").write_text(source)
        text = server.ctl("reload", code=1)
        assert said in text
        assert ("Traceback" in text or "^" in text) == ("Error" in said)
        server.log.wait("; generation 1 goes on")
        until("the new ones are gone", lambda: len(server.family()) == 3)
        assert version(server) == 1
        assert server.get("/version").json["pid"] in pids
    write(tmp_path, 2)
    server.ctl("reload")
    assert version(server) == 2


@pytest.mark.parametrize(
    ("cause", "arguments"),
    [
        ("max-requests", ["--max-requests", "300", "--max-requests-jitter", "200"]),
        ("max-lifetime", ["--max-lifetime", "2"]),
        ("max-rss", ["--max-rss", "1M"]),
        ("drain", []),
    ],
)
def test_recycling_under_load_fails_no_request(serve: Serve, tmp_path: Path, cause: str, arguments: list[str]) -> None:
    write(tmp_path, 1)
    server = serve("main:app", *arguments, workers=2, shards=2, app_dir=tmp_path).ready()
    with nothing_fails(server):
        if cause == "drain":
            for worker in itertools.islice(itertools.cycle("01"), 4):
                assert server.ctl("drain", worker) == f"worker {worker} was replaced\n"
        until(f"4 restarts by {cause}", lambda: server.status()["restarts"].get(cause, 0) >= 4)
    assert set(server.status()["restarts"]) == {cause}


def test_a_worker_that_grew_is_recycled_for_its_memory(serve: Serve, tmp_path: Path) -> None:
    write(tmp_path, 1)
    server = serve("main:app", "--max-rss", "200M", app_dir=tmp_path).ready()
    old = server.worker_pid()
    with server.connect() as connection:
        for _ in range(7):
            assert not server.log.find("is to be replaced") or resident_kib(old) > 200 * 1024
            assert connection.request("GET", "/leak").status == 200
    server.log.wait(r"is to be replaced: max-rss")
    until("it is gone", lambda: old not in server.family())
    assert resident_kib(server.worker_pid()) < 200 * 1024


def test_what_is_in_flight_at_a_recycled_worker_is_finished_there(serve: Serve, tmp_path: Path) -> None:
    write(tmp_path, 1)
    server = serve("main:app", app_dir=tmp_path).ready()
    old = server.worker_pid()
    with server.connect() as held:
        held.ask("GET", "/held")
        until("it is in flight", lambda: server.status()["workers"][0]["processes"][0]["in_flight"] == 1)
        drain = threading.Thread(target=server.ctl, args=("drain", "0"))
        drain.start()
        server.log.wait("finishes what it has")
        assert version(server) == 1, "by the successor"
        (tmp_path / "released").touch()
        assert held.response().json == old
        drain.join(30)
    assert server.worker_pid() != old


def test_a_successor_that_cannot_start_leaves_the_old_worker_in_service(serve: Serve, tmp_path: Path) -> None:
    write(tmp_path, 1)
    server = serve("main:app", app_dir=tmp_path).ready()
    with nothing_fails(server, 4):
        (tmp_path / "main.py").write_text("raise RuntimeError('trapped')")
        assert "RuntimeError: trapped" in server.ctl("drain", "0", code=1)
        server.log.wait(r"its predecessor goes on, and is to be replaced again in \d+ ms", 3)
        write(tmp_path, 1)
        until("it was replaced", lambda: server.status()["restarts"].get("drain") == 1)


def test_a_respawn_with_other_routes_does_not_join_and_a_reload_is_suggested(serve: Serve, tmp_path: Path) -> None:
    write(tmp_path, 1)
    server = serve("main:app", workers=2, app_dir=tmp_path).ready()
    write(tmp_path, 2)
    kill(server)
    server.log.wait("the application has changed on disk since it was loaded; reload")
    assert version(server) == 1
    server.ctl("reload")
    assert version(server) == 2
    assert server.admin("/readyz").json["workers_ready"] == 2


def test_workers_become_more_and_fewer_under_load(serve: Serve, tmp_path: Path) -> None:
    write(tmp_path, 1)
    server = serve("main:app", shards=2, app_dir=tmp_path).ready()
    with nothing_fails(server):
        assert server.ctl("scale", "3") == "3 workers from now on, 1 before\n"
        until("they serve", lambda: server.admin("/readyz").json["workers_ready"] == 3)
        server.signal(signal.SIGTTIN)
        until("one more serves", lambda: server.admin("/readyz").json["workers_ready"] == 4)
        server.signal(signal.SIGTTOU)
        until("one is gone", lambda: len(server.family()) == 4)
        server.ctl("scale", "1")
        until("one is left", lambda: len(server.family()) == 2)
    assert server.status()["restarts"] == {"scale": 3}


def test_the_status_has_what_an_operator_asks_for(serve: Serve, tmp_path: Path) -> None:
    write(tmp_path, 1)
    server = serve("main:app", workers=2, shards=2, app_dir=tmp_path).ready()
    for _ in range(10):
        assert version(server) == 1
    kill(server)
    server.ready(3)
    with server.connect() as held:
        held.ask("GET", "/held")
        found = until("it is in flight", lambda: in_flight(server))
        (tmp_path / "released").touch()
        assert held.response().status == 200
    assert found["server"]["pid"] == server.pid
    assert (found["server"]["workers_ready"], found["server"]["workers"], found["server"]["generation"]) == (2, 2, 1)
    assert [shard["shard"] for shard in found["shards"]] == [0, 1]
    assert found["restarts"] == {"killed": 1}
    first, second = (worker["processes"][0] for worker in found["workers"])
    assert (first["incarnation"], second["incarnation"]) == (2, 1)
    assert found["workers"][0]["restarts"] == {"killed": 1}
    for place, process in enumerate((first, second)):
        assert process["pid"] == server.worker_pid(place)
        assert process["state"] == "ready"
        assert 10 << 20 < process["rss_bytes"] < 1 << 30
        assert process["loop_silent"] or process["loop_lag_ms"] < 250
        assert process["uptime_s"] <= found["server"]["uptime_s"]
    assert sum(worker["processes"][0]["requests"] for worker in server.status()["workers"]) >= 1
    table = server.ctl("status")
    assert re.search(r"^ +0 +\d+ +2 +1  ready +\d+ +\d+ +\d+ MiB +.*killed 1$", table, re.MULTILINE), table


def in_flight(server: Server) -> Any:
    """The status, once some worker holds a request."""
    found = server.status()
    holds = any(worker["processes"][0]["in_flight"] for worker in found["workers"])
    return found if holds else None


def test_a_changed_file_reloads_the_application(serve: Serve, tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "part.py").write_text("NUMBER = 1\n")
    server = serve("main:app", "--reload", app_dir=tmp_path).ready()
    with nothing_fails(server, 4):
        write(tmp_path, 2)
        server.log.wait(r"reloading the application as generation 2: .*main\.py changed")
        until("it serves", lambda: version(server) == 2)
        (tmp_path / "main.py").write_text("raise RuntimeError('half saved')\n")
        server.log.wait("RuntimeError: half saved; generation 2 goes on")
        assert version(server) == 2
        write(tmp_path, 3)
        until("it serves", lambda: version(server) == 3)
        (tmp_path / "part.py").write_text("NUMBER = 2\n")
        server.log.wait(r"part\.py changed")


def test_with_reload_an_application_that_cannot_start_is_waited_for(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text("import nothing_of_that_name\n")
    server = serve("main:app", "--reload", workers=2, app_dir=tmp_path).listening()
    server.log.wait("No module named 'nothing_of_that_name'; waiting for a change")
    server.log.wait(r"Traceback \(most recent call last\)")
    assert server.admin("/healthz").status == 200
    assert server.admin("/readyz").status == 503
    with server.connect() as early:
        early.ask("GET", "/version")
        write(tmp_path, 1)
        assert early.response().json["version"] == 1, "it waited"
    assert len(server.log.find(r"Traceback \(most recent call last\)")) == 1, "two workers failed alike"
    assert server.admin("/readyz").json["workers_ready"] == 2


@pytest.mark.parametrize("seconds", ["0", "1"])
def test_the_time_to_stop_is_bounded(serve: Serve, tmp_path: Path, seconds: str) -> None:
    write(tmp_path, 1)
    server = serve("echo:app", "--shutdown-timeout", seconds).ready()
    with server.connect() as held:
        held.ask("GET", "/hold/x")
        until("it is held", lambda: "x" in server.get("/held").json)
        server.signal(signal.SIGTERM)
        server.finish(0, at_most_s=15)
