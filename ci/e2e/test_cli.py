"""The command line: help, options, environment, and one readable error for each mistake."""

import os
import re
import signal
import socket
from pathlib import Path

import pytest
from conftest import Serve
from server import APPS, BINARY, PYTHON, Process, Server, environment, until

OPTIONS = {
    "--host": "FASTERAPI_HOST",
    "--port": "FASTERAPI_PORT",
    "--http": "FASTERAPI_HTTP",
    "--uds": "FASTERAPI_UDS",
    "--workers": "FASTERAPI_WORKERS",
    "--shards": "FASTERAPI_SHARDS",
    "--app-dir": "FASTERAPI_PROJECT_DIR",
    "--python": "FASTERAPI_PYTHON",
    "--ws-max-size": "FASTERAPI_WS_MAX_SIZE",
    "--ws-ping-interval": "FASTERAPI_WS_PING_INTERVAL",
    "--ws-ping-timeout": "FASTERAPI_WS_PING_TIMEOUT",
    "--ws-per-message-deflate": "FASTERAPI_WS_PER_MESSAGE_DEFLATE",
    "--log-level": "FASTERAPI_LOG_LEVEL",
    "--access-log": "FASTERAPI_ACCESS_LOG",
    "--admin": "FASTERAPI_ADMIN",
    "--debug": "FASTERAPI_DEBUG",
    "--shutdown-timeout": "FASTERAPI_SHUTDOWN_TIMEOUT",
    "--start-timeout": "FASTERAPI_START_TIMEOUT",
    "--respawn-delay-max": "FASTERAPI_RESPAWN_DELAY_MAX",
    "--max-requests": "FASTERAPI_MAX_REQUESTS",
    "--max-requests-jitter": "FASTERAPI_MAX_REQUESTS_JITTER",
    "--max-lifetime": "FASTERAPI_MAX_LIFETIME",
    "--max-rss": "FASTERAPI_MAX_RSS",
    "--control": "FASTERAPI_CONTROL",
    "--reload": "FASTERAPI_RELOAD",
    "--reload-dir": "FASTERAPI_RELOAD_DIR",
    "--reload-include": "FASTERAPI_RELOAD_INCLUDE",
    "--reload-exclude": "FASTERAPI_RELOAD_EXCLUDE",
}


def fails(*arguments: str | Path, code: int = 1, env: dict[str, str] | None = None, cwd: Path = APPS) -> str:
    """What the command says on stderr before it ends, with this code and nothing on stdout."""
    process = Process(BINARY, *arguments, env=env, cwd=cwd)
    process.finish(code, at_most_s=30)
    assert process.out.text == ""
    return process.log.text


def test_help_names_every_option_and_its_variable() -> None:
    process = Process(BINARY, "run", "--help")
    process.finish(0)
    text = process.out.text
    for option, variable in OPTIONS.items():
        assert option in text
        assert variable in text
    assert "module:attribute" in text
    assert process.log.text == ""


@pytest.mark.parametrize(("arguments", "word"), [(["--help"], "run"), (["--version"], "fasterapi ")])
def test_what_the_command_says_of_itself(arguments: list[str], word: str) -> None:
    process = Process(BINARY, *arguments)
    process.finish(0)
    assert word in process.out.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Usage"),
        (["walk"], "walk"),
        (["run"], "<APP>"),
        (["run", "echo:app", "--prot", "1"], "--prot"),
        (["run", "echo:app", "--port", "70000"], "70000"),
        (["run", "echo:app", "--workers", "many"], "many"),
        (["run", "echo:app", "--workers", "-1"], "-1"),
        (["run", "echo:app", "--log-level", "loud"], "loud"),
        (["run", "echo:app", "--max-lifetime", "soon"], "expected seconds"),
        (["run", "echo:app", "--shutdown-timeout", "1e99"], "expected seconds"),
        (["run", "echo:app", "--max-rss", "1T"], "k, m or g"),
        (["run", "echo:app", "--reload-include", "***"], "***"),
        (["ctl"], "Usage"),
        (["ctl", "walk"], "walk"),
        (["ctl", "scale"], "<N>"),
        (["ctl", "scale", "0"], "1..=256"),
        (["run", "apps/echo.py:app"], "without path and `.py`"),
        (["run", "echo.py"], "without path and `.py`"),
        (["run", "echo:"], "not an attribute name after the colon"),
        (["run", ":app"], "not a module name before the colon"),
        (["run", "echo:app()"], "not an attribute name after the colon"),
        (["run", "echo app"], "not a module name before the colon"),
    ],
)
def test_a_mistake_on_the_command_line_is_exit_code_2(arguments: list[str], said: str) -> None:
    assert said in fails(*arguments, code=2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "257"], "--workers 257: at most 256"),
        (["--shards", "65"], "--shards 65: at most 64"),
        (["--app-dir", "/nowhere"], "--app-dir /nowhere: No such file or directory"),
        (["--python", "/nowhere/python"], "--python /nowhere/python: no such executable"),
        (["--python", "/bin/false"], "/bin/false is not a working Python: exited with status 1"),
        (["--admin", "nonsense"], "--admin nonsense: "),
        (["--control", "/nowhere/x.sock"], "cannot listen on /nowhere/x.sock: No such file or directory"),
        (["--reload", "--reload-dir", "/nowhere"], "--reload-dir /nowhere: No such file or directory"),
        (["--access-log", "/nowhere/log"], "cannot open the access log /nowhere/log: No such file or directory"),
        (["--uds", "/nowhere/app.sock"], "cannot listen on /nowhere/app.sock: No such file or directory"),
        (["--uds", "/etc/hostname"], "/etc/hostname exists and is not a socket"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1:"),
    ],
)
def test_what_the_system_does_not_have_is_one_line(arguments: list[str], said: str) -> None:
    text = fails("run", "echo:app", "--port", "0", *arguments)
    assert text.startswith("fasterapi: ")
    assert said in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("shards", ["1", "2"])
@pytest.mark.parametrize("option", ["--port", "--admin"])
def test_an_address_in_use_is_one_line(shards: str, option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        where = ["--port", str(port)] if option == "--port" else ["--port", "0", "--admin", f"127.0.0.1:{port}"]
        text = fails("run", "echo:app", *where, "--shards", shards)
    assert text == f"fasterapi: 127.0.0.1:{port} is in use by another process\n"


def test_two_servers_do_not_share_a_port(serve: Serve) -> None:
    """SO_REUSEPORT, by which shards share one, would let them."""
    server = serve("echo:app", shards=2).ready()
    assert isinstance(server.address, tuple)
    port = str(server.address[1])
    assert "in use by another process" in fails("run", "echo:app", "--port", port, "--shards", "2")


def test_an_interpreter_without_the_package_is_one_line() -> None:
    text = fails("run", "echo:app", "--port", "0", "--python", "/usr/bin/python3")
    assert text == (
        "fasterapi: /usr/bin/python3 has no package `fasterapi`; install it there or name another interpreter with --python\n"
    )


@pytest.mark.parametrize(
    ("app", "error", "times"),
    [
        ("broken:app", "RuntimeError: broken on purpose", 2),
        ("broken_syntax:app", "SyntaxError: ", 2),
        ("nowhere:app", "ModuleNotFoundError: No module named 'nowhere'", 2),
        ("echo:nothing", "AttributeError: module 'echo' has no attribute 'nothing'", 3),
        (
            "echo:tag",
            "is an object of type builtins.function: neither a fasterapi.FastAPI nor an ASGI nor a WSGI application",
            2,
        ),
        ("exits:app", "SystemExit: 3", 2),
    ],
)
@pytest.mark.parametrize("workers", ["1", "4"])
def test_an_application_that_does_not_import_is_one_traceback_and_the_end(
    tmp_path: Path, app: str, error: str, times: int, workers: str
) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('broken on purpose')\n")
    (tmp_path / "broken_syntax.py").write_text("def f(:\n")
    (tmp_path / "exits.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "echo.py").write_text("def tag(): ...\n")
    text = fails("run", app, "--port", "0", "--app-dir", tmp_path, "--workers", workers)
    assert "the application cannot be imported" in text
    assert "giving up, no worker was ever ready" in text
    assert "respawn" not in text
    # In the line that sums it up and in its traceback (twice for an error with a cause), however many workers failed alike.
    assert len(re.findall(re.escape(error), text)) == times, text


def test_a_bare_module_means_its_app(serve: Serve) -> None:
    assert serve("echo").ready().get("/tag/x").status == 200


def test_the_application_is_imported_from_the_current_directory(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from fasterapi import FastAPI\n"
        "import other_of_mine\n"
        "class Box:\n"
        "    app = FastAPI()\n"
        "Box.app.get('/')(other_of_mine.where)\n"
    )
    (tmp_path / "other_of_mine.py").write_text("import os\nasync def where():\n    return os.getcwd()\n")
    process = Process(BINARY, "run", "mine:Box.app", "--port", "0", cwd=tmp_path)
    try:
        process.log.wait("serving mine:Box.app")
        found = process.log.find(r"listening on http://127\.0\.0\.1:(\d+)")[0]
        with socket.create_connection(("127.0.0.1", int(found[1])), 10) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer.endswith(b'"%b"' % str(tmp_path).encode())
        process.signal(signal.SIGTERM)
        process.finish(0)
    finally:
        process.end(strictly=False)


def test_every_option_can_be_given_in_the_environment(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    values = {
        "FASTERAPI_APP": "handling:app",
        "FASTERAPI_HOST": "localhost",
        "FASTERAPI_PORT": "0",
        "FASTERAPI_WORKERS": "2",
        "FASTERAPI_SHARDS": "2",
        "FASTERAPI_PROJECT_DIR": str(APPS),
        "FASTERAPI_PYTHON": str(PYTHON),
        "FASTERAPI_DEBUG": "1",
        "FASTERAPI_LOG_LEVEL": "DEBUG",
        "FASTERAPI_ACCESS_LOG": str(log),
        "FASTERAPI_ADMIN": "127.0.0.1:0",
        "FASTERAPI_CONTROL": str(tmp_path / "c"),
        "FASTERAPI_SHUTDOWN_TIMEOUT": "10",
        "FASTERAPI_START_TIMEOUT": "60",
        "FASTERAPI_RESPAWN_DELAY_MAX": "1",
        "FASTERAPI_MAX_REQUESTS": "1000000",
        "FASTERAPI_MAX_REQUESTS_JITTER": "10",
        "FASTERAPI_MAX_LIFETIME": "86400",
        "FASTERAPI_MAX_RSS": "4G",
        "FASTERAPI_RELOAD": "1",
        "FASTERAPI_RELOAD_DIR": str(tmp_path),
        "FASTERAPI_RELOAD_INCLUDE": "*.py,*.toml",
        "FASTERAPI_RELOAD_EXCLUDE": "x",
    }
    process = Process(BINARY, "run", env=values)
    try:
        process.log.wait(r"worker \d \(pid \d+, incarnation 1\) is ready", 2, 60)
        process.log.wait(r"admin listener on http://127\.0\.0\.1:\d+ ")
        found = process.log.wait(r"listening on http://(?:127\.0\.0\.1|\[::1\]):(\d+) \(workers 2, shards 2, ")[0]
        assert process.log.find(" DEBUG ")
        with socket.create_connection(("localhost", int(found[1])), 10) as client:
            client.sendall(b"GET /fails HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert b"RuntimeError: not for the client" in answer
        process.signal(signal.SIGTERM)
        process.finish(0)
    finally:
        process.end(strictly=False)
    assert '"GET /fails HTTP/1.0" 500 ' in log.read_text()


def test_the_command_line_wins_over_the_environment(serve: Serve, tmp_path: Path) -> None:
    env = {"FASTERAPI_WORKERS": "7", "FASTERAPI_APP": "nowhere:app", "FASTERAPI_PROJECT_DIR": str(tmp_path)}
    server = serve("echo:app", env=env).ready()
    assert server.log.find(r"\(workers 1, shards 1, ")
    assert server.get("/tag/x").status == 200


def test_ctl_without_a_server_is_one_line_and_exit_code_3(tmp_path: Path) -> None:
    text = fails("ctl", "--control", tmp_path / "x.sock", "status", code=3)
    assert text.startswith(f"fasterapi: no server listens on {tmp_path}/x.sock")
    assert len(text.splitlines()) == 1


def test_ctl_finds_a_server_by_its_port(tmp_path: Path) -> None:
    """Root's is below /run, everybody else's below $XDG_RUNTIME_DIR."""
    env = {"XDG_RUNTIME_DIR": str(tmp_path)}
    server = Process(BINARY, "run", "echo:app", "--port", "0", "--app-dir", APPS, env=env)
    try:
        port = server.log.wait(r"listening on http://127\.0\.0\.1:(\d+)")[0][1]
        server.log.wait("is ready")
        status = Process(BINARY, "ctl", "--port", port, "status", env=env)
        status.finish(0)
        assert f"echo:app on http://127.0.0.1:{port}, pid {server.pid}, " in status.out.text
        stop = Process(BINARY, "ctl", "--port", port, "stop", env=env)
        stop.finish(0)
        server.finish(0)
    finally:
        server.end(strictly=False)
    fails("ctl", "--port", port, "status", env=env, code=3)


def test_a_unix_socket_in_the_environment(serve: Serve, tmp_path: Path) -> None:
    server = serve("echo:app", env={"FASTERAPI_UDS": str(tmp_path / "app.sock")}).ready()
    assert server.log.find(rf"listening on unix:{tmp_path}/app\.sock")


def test_zero_workers_are_one_per_cpu(serve: Serve) -> None:
    cpus = len(os.sched_getaffinity(0))
    server = serve("echo:app", workers=0)
    server.ready(cpus)
    assert server.log.find(rf"\(workers {cpus}, shards 1, ")
    assert server.admin("/readyz").json["workers"] == cpus
    pids = until("each has answered", lambda: all_pids(server, cpus))
    assert pids == {server.worker_pid(place) for place in range(cpus)}


def all_pids(server: Server, count: int) -> set[int] | None:
    pids = {server.get("/pid").json["pid"] for _ in range(4 * count)}
    return pids if len(pids) == count else None


def test_the_access_log_on_stdout(serve: Serve) -> None:
    server = serve("echo:app", "--access-log", "-").ready()
    server.get("/tag/x")
    line = server.out.wait(r"(?m)^(.*)\n$")[0][1]
    assert re.fullmatch(
        r'127\.0\.0\.1:\d+ \[\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT\] "GET /tag/x HTTP/1.1" 200 11 0\.\d{6}', line
    ), line


def test_no_access_log_unless_asked_for(serve: Serve) -> None:
    server = serve("echo:app").ready()
    server.get("/tag/x")
    server.signal(signal.SIGTERM)
    server.finish(0)
    assert server.out.text == ""


@pytest.mark.parametrize(("level", "shown"), [("error", False), ("info", True)])
def test_the_log_level_is_the_workers_too(tmp_path: Path, level: str, shown: bool) -> None:
    (tmp_path / "loud.py").write_text(
        "import logging\n"
        "from fasterapi import FastAPI\n"
        "logging.getLogger('mine').info('heard from the worker')\n"
        "app = FastAPI()\n"
    )
    text = ""
    process = Process(BINARY, "run", "loud:app", "--uds", tmp_path / "s", "--log-level", level, cwd=tmp_path)
    try:
        until("it serves", lambda: accepts(tmp_path / "s"))
        process.signal(signal.SIGTERM)
        process.finish(0)
        text = process.log.text
    finally:
        process.end(strictly=False)
    assert ("stopped" in text) == shown
    assert ("heard from the worker" in text) == shown


def accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        client.settimeout(10)
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return b" 404 " in client.recv(4096)


def test_the_admin_listener(serve: Serve) -> None:
    server = serve("echo:app").ready()
    healthy = {"workers_ready": 1, "workers": 1, "draining": False}
    assert server.admin("/healthz").json == {"status": "ok", **healthy}
    assert server.admin("/readyz").json == {"status": "ready", **healthy}
    assert server.admin("/other").status == 404
    assert server.get("/healthz").status == 404, "not on the application's port"


def test_the_environment_of_the_test_itself_configures_nothing() -> None:
    assert not [name for name in environment() if name.startswith("FASTERAPI_") and name != "FASTERAPI_PYTHON"]
