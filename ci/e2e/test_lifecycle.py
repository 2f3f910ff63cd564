"""From the start to the end of a server: readiness, signals, what is in flight, what is left behind."""

import os
import signal
from pathlib import Path

import pytest
from conftest import Serve
from server import APPS, BINARY, Process, Server, until
from wire import Closed, Connection, chunked, head

STOPPING = r"stopping: finishing what is in flight"


def in_flight(server: Server, name: str) -> Connection:
    """A connection whose request a handler holds."""
    connection = server.connect()
    connection.ask("GET", f"/hold/{name}")
    until(f"{name} is held", lambda: name in server.get("/held").json)
    return connection


def is_given_up(connection: Connection) -> bool:
    """The request got no answer, or was told that its worker is gone."""
    try:
        return connection.response().status == 502
    except (Closed, ConnectionResetError):
        return True


def refuses(server: Server) -> bool:
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass
    return False


def listens(path: Path) -> bool:
    try:
        Connection(str(path)).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("shards", [1, 2])
def test_a_signal_lets_what_is_in_flight_finish(serve: Serve, number: signal.Signals, shards: int) -> None:
    server = serve("echo:app", shards=shards).ready()
    held = in_flight(server, "x")
    idle = server.connect()
    assert idle.request("GET", "/tag/x").status == 200
    release = server.connect()
    release.send(head("POST", "/release/x", {"transfer-encoding": "chunked"}) + b"5\r\nhel")
    until("both are in flight", lambda: server.exchanges() == 2)

    server.signal(number)
    server.log.wait(STOPPING)
    ready = server.admin("/readyz")
    assert (ready.status, ready.json["draining"]) == (503, True)
    assert server.admin("/healthz").status == 200
    until("nobody listens any more", lambda: refuses(server))
    assert idle.rest() == b"", "an idle connection is closed"

    release.send(b"lo\r\n" + chunked(b" world"))
    answer = release.response()
    assert (answer.status, answer.json, answer.closes) == (200, {"released": "x", "size": 11}, True)
    answer = held.response()
    assert (answer.status, answer.json, answer.closes) == (200, {"held": "x"}, True)
    assert held.rest() == release.rest() == b""
    server.finish(0)
    assert server.log.find(r" stopped\n")
    for connection in (held, idle, release):
        connection.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 128 + 15), (signal.SIGINT, 128 + 2)])
def test_a_second_signal_ends_it_at_once(serve: Serve, number: signal.Signals, code: int) -> None:
    server = serve("echo:app", shards=2).ready()
    with in_flight(server, "x") as held:
        server.signal(number)
        server.log.wait(STOPPING)
        server.signal(number)
        server.finish(code, at_most_s=10)
        assert is_given_up(held)


def test_a_signal_to_an_idle_server_ends_it_soon(serve: Serve) -> None:
    server = serve("echo:app", workers=3, shards=2).ready()
    assert len(server.family()) == 4
    server.signal(signal.SIGTERM)
    server.finish(0, at_most_s=10)


def test_workers_do_not_outlive_a_killed_server(serve: Serve) -> None:
    server = serve("echo:app", workers=2).ready()
    server.signal(signal.SIGKILL)
    server.finish(-signal.SIGKILL)


def test_ctrl_c_in_a_terminal_is_the_servers_business_alone(serve: Serve) -> None:
    """A terminal signals the whole foreground group; a worker that heeded it would lose what is in flight."""
    server = serve("echo:app").ready()
    with in_flight(server, "x") as held:
        os.killpg(server.pid, signal.SIGINT)
        os.kill(server.worker_pid(), signal.SIGINT)
        server.log.wait(STOPPING)
        os.killpg(server.pid, signal.SIGINT)
        server.finish(130, at_most_s=10)
        assert is_given_up(held)


def test_clients_that_come_while_the_application_starts_wait_for_it(serve: Serve, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    server = serve("life:app", env={"GATE": str(gate), "JOURNAL": str(tmp_path / "journal")}).listening()
    assert server.admin("/healthz").status == 200
    ready = server.admin("/readyz")
    assert (ready.status, ready.json) == (
        503,
        {"status": "not ready", "workers_ready": 0, "workers": 1, "draining": False},
    )
    with server.connect() as early:
        early.ask("GET", "/")
        gate.write_text("open")
        assert early.response().status == 200
    server.ready()
    assert server.admin("/readyz").json == {"status": "ready", "workers_ready": 1, "workers": 1, "draining": False}
    assert server.get("/").status == 200


def test_a_signal_while_the_application_starts_ends_it(serve: Serve, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    server = serve("life:app", env={"GATE": str(gate), "JOURNAL": str(tmp_path / "journal")}).listening()
    server.signal(signal.SIGTERM)
    server.log.wait(STOPPING)
    with gate.open("w"):  # A worker that waits in a thread cannot be interrupted by Python's means.
        server.finish(0, at_most_s=20)


def test_lifespan_and_hooks_run_in_order_around_the_requests(serve: Serve, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    server = serve("life:app", env={"JOURNAL": str(journal)}).ready()
    assert server.get("/").json == {"yielded": "from lifespan", "stored": 1}
    server.signal(signal.SIGTERM)
    server.finish(0)
    assert journal.read_text().split("\n")[:-1] == [
        "lifespan begins",
        "startup hook",
        "async startup hook",
        "request",
        "shutdown hook",
        "lifespan ends",
    ]


def test_a_task_that_a_handler_left_behind_may_finish(serve: Serve, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    server = serve("life:app", env={"JOURNAL": str(journal)}).ready()
    assert server.get("/later").status == 200
    server.signal(signal.SIGTERM)
    server.finish(0)
    assert "later\nshutdown hook\n" in journal.read_text()


def test_an_application_whose_startup_fails_ends_the_server(serve: Serve, tmp_path: Path) -> None:
    server = serve("life:app", workers=2, env={"JOURNAL": str(tmp_path / "journal"), "FAIL": "startup"})
    server.finish(1, at_most_s=30)
    assert len(server.log.find("RuntimeError: no database")) in (2, 3), server.log.text  # the line, and in the traceback
    assert len(server.log.find(r"Traceback \(most recent call last\)")) == 1
    assert server.log.find("the application's startup failed")


def test_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    server = serve("echo:app", uds=path, shards=2).ready()
    assert server.log.find(rf"listening on unix:{path}")
    with server.connect() as connection:
        for number in range(20):
            assert connection.request("GET", f"/tag/{number}").json == {"tag": str(number)}
        assert connection.request("GET", "/see").json["client"] is None

    second = Process(BINARY, "run", "echo:app", "--uds", path, "--app-dir", APPS)
    second.finish(1)
    assert f"{path} is in use by another process" in second.log.text
    server.signal(signal.SIGTERM)
    server.finish(0)
    assert not path.exists()


def test_the_socket_of_a_killed_server_is_replaced(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    server = serve("echo:app", uds=path).ready()
    server.signal(signal.SIGKILL)
    server.finish(-signal.SIGKILL)
    assert path.exists()
    # The kernel takes a killed process's uring, and the socket in it, apart in its own time.
    until("the socket is closed", lambda: not listens(path))
    assert serve("echo:app", uds=path).ready().get("/tag/x").status == 200


def test_an_access_log_line_is_written_soon_even_if_no_other_request_comes(serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    server = serve("echo:app", "--access-log", path).ready()
    server.get("/tag/only")
    until("the line is written", lambda: '"GET /tag/only HTTP/1.1" 200 ' in path.read_text())


def test_the_access_log_is_reopened_on_request(serve: Serve, tmp_path: Path) -> None:
    path, rotated = tmp_path / "access.log", tmp_path / "access.log.1"
    server = serve("echo:app", "--access-log", path).ready()
    server.get("/tag/one?q=%22x%22")
    until("the line is written", lambda: path.read_text().endswith("\n"))
    path.rename(rotated)
    server.signal(signal.SIGUSR1)
    server.log.wait("access log: reopened")
    server.get("/nowhere")
    server.signal(signal.SIGTERM)
    server.finish(0)
    assert '"GET /tag/one?q=%22x%22 HTTP/1.1" 200 13 0.0' in rotated.read_text()
    assert rotated.read_text().startswith("127.0.0.1:")
    (line,) = path.read_text().splitlines()
    assert '"GET /nowhere HTTP/1.1" 404 ' in line
