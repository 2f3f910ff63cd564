"""Options that people bring along from other servers: proxies that are believed, sockets passed down, variables, event loops."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Serve
from frames import Frame, upgrade
from server import APPS, BINARY, EXAMPLES, Server, environment
from wire import Connection, head

THROUGH_A_PROXY = {"x-forwarded-for": "6.6.6.6, 203.0.113.7, 127.0.0.1", "x-forwarded-proto": "https"}

PASSING_DOWN = """
import os, socket, sys
made = socket.socket()
made.bind(("127.0.0.1", 0))
made.listen()
os.dup2(made.fileno(), 9)
os.execv(sys.argv[1], sys.argv[1:])
"""


def asked(server: Server, path: str = "/", **fields: str) -> Any:
    response = server.get(path, **fields)
    assert response.status == 200, response
    return json.loads(response.body)


# --- names -------------------------------------------------------------------------------------------------------------


def tables_of_the_migration_page() -> list[tuple[str, str]]:
    """The other server's options, and ours, of each row."""
    lines = (EXAMPLES.parent / "docs/migration.md").read_text().splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:3] for line in lines if line.startswith("| ")]
    return [(theirs, ours) for theirs, ours in rows]


def test_the_migration_page_names_options_that_exist() -> None:
    said = subprocess.run([BINARY, "run", "--help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"--[a-z-]+", said))
    for theirs, ours in tables_of_the_migration_page():
        # `ctl` has none of its own here.
        same = set(re.findall(r"--[a-z-]+", theirs)) if ours.strip() == "the same" else set()
        for option in set(re.findall(r"--[a-z-]+", ours)) | {each for each in same if not each.startswith("--no-")}:
            assert option in known, f"{option}, for {theirs.strip()}"


def test_names_of_other_servers_are_understood() -> None:
    bold = {option for theirs, _ in tables_of_the_migration_page() for option in re.findall(r"\*\*`(--[a-z-]+)`\*\*", theirs)}
    assert {"--timeout-keep-alive", "--ssl-certfile", "--graceful-timeout", "--access-logfile"} <= bold
    for option in sorted(bold):
        done = subprocess.run([BINARY, "run", "x", option, "", "--unknown"], capture_output=True, text=True)
        assert f"unexpected argument '{option}'" not in done.stderr, option
    done = subprocess.run([BINARY, "run", "x", "--time-out-keep-alive"], capture_output=True, text=True)
    assert (done.returncode, "--timeout-keep-alive" in done.stderr) == (2, True), done.stderr


# --- proxies -----------------------------------------------------------------------------------------------------------


def test_a_proxy_on_the_same_machine_speaks_for_its_client(serve: Serve, tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    server = serve("origin:app", "--access-log", log).ready()
    found = asked(server, **THROUGH_A_PROXY)
    assert (found["client"], found["scheme"], found["tls"]) == (["203.0.113.7", 0], "https", None)
    found = asked(server)
    assert (found["client"][0], found["scheme"]) == ("127.0.0.1", "http")
    server.end(strictly=True)
    assert [line.split()[0].rpartition(":")[0] for line in log.read_text().splitlines()] == ["203.0.113.7", "127.0.0.1"]


def test_every_interface_is_told_the_same(serve: Serve) -> None:
    server = serve("origin:native").ready()
    assert asked(server, **THROUGH_A_PROXY) == {"client": "203.0.113.7", "scheme": "https"}
    server = serve("origin:wsgi", "--interface", "wsgi").ready()
    assert asked(server, **THROUGH_A_PROXY) == {"REMOTE_ADDR": "203.0.113.7", "wsgi.url_scheme": "https", "HTTPS": "on"}


@pytest.mark.parametrize("option", [("--no-proxy-headers",), ("--forwarded-allow-ips", "10.0.0.0/8,::1")])
def test_what_anybody_else_says_is_left_alone(serve: Serve, option: tuple[str, ...]) -> None:
    found = asked(serve("origin:app", *option).ready(), **THROUGH_A_PROXY)
    assert (found["client"][0], found["scheme"]) == ("127.0.0.1", "http")


def test_all_proxies_are_believed_if_the_operator_says_so(serve: Serve) -> None:
    server = serve("origin:app", env={"FORWARDED_ALLOW_IPS": "*"}).ready()
    assert asked(server, **THROUGH_A_PROXY)["client"] == ["6.6.6.6", 0]


def test_whoever_reaches_a_unix_socket_is_believed(serve: Serve, tmp_path: Path) -> None:
    serve("origin:app", uds=tmp_path / "socket").ready()
    with Connection(str(tmp_path / "socket")) as connection:
        assert json.loads(connection.request("GET", "/").body)["client"] is None
        found = json.loads(connection.request("GET", "/", THROUGH_A_PROXY).body)
    assert (found["client"], found["scheme"]) == (["203.0.113.7", 0], "https")


# --- where clients come in ---------------------------------------------------------------------------------------------


def sockets_of(pid: int) -> set[str]:
    links = (str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir())
    return {link for link in links if link.startswith("socket:")}


def test_a_socket_that_was_passed_down_is_listened_on(serve: Serve) -> None:
    server = serve("origin:app", "--fd", "9", shards=2, under=(sys.executable, "-c", PASSING_DOWN)).ready()
    passed_down = str(Path(f"/proc/{server.pid}/fd/9").readlink())
    for _ in range(8):
        assert asked(server)["client"][0] == "127.0.0.1"
    assert passed_down not in sockets_of(server.worker_pid()), "what clients connect to is the edge's alone"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--fd", "9"), "--fd 9: Bad file descriptor"),
        (("--fd", "1"), "--fd 1: that is a standard stream"),
        (("--env-file", "/nowhere/.env"), "--env-file /nowhere/.env: No such file or directory"),
    ],
)
def test_what_cannot_be_had_is_one_line(arguments: tuple[str, ...], said: str) -> None:
    command = [str(BINARY), "run", "origin:app", "--app-dir", str(APPS), "--control", "off", *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done
    assert done.stderr.startswith(f"fasterapi: {said}")


def test_a_unix_socket_can_be_named_as_gunicorn_does(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    command = [str(BINARY), "run", "origin:app", "--app-dir", str(APPS), "--control", "off", "-w", "1", "-b", f"unix:{path}"]
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = next(line for line in process.stderr if "listening on" in line)
            assert f"unix:{path}" in said
            with Connection(str(path)) as connection:
                assert connection.request("GET", "/").status == 200
        finally:
            process.terminate()
            process.communicate(timeout=60)


# --- surroundings ------------------------------------------------------------------------------------------------------


def test_variables_come_from_a_file_unless_they_are_set(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("# of the application\nexport ORIGIN_A='from the file'\nORIGIN_B=also\n")
    server = serve("origin:app", "--env-file", tmp_path / ".env", env={"ORIGIN_B": "set"}).ready()
    assert asked(server)["variables"] == {"ORIGIN_A": "from the file", "ORIGIN_B": "set"}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_both_event_loops_serve_everything(serve: Serve, loop: str) -> None:
    server = serve("origin:app", "--loop", loop).ready()
    assert asked(server)["loop"] == loop
    body = bytes(range(256)) * 4096
    with server.connect() as connection:
        connection.send(head("POST", "/upload", {"content-length": str(len(body))}) + body)
        assert connection.response().body == body
        connection.send(b"".join(head("GET", "/") for _ in range(20)))
        assert [connection.response().status for _ in range(20)] == [200] * 20
    with server.connect() as connection:
        socket = upgrade(connection, "/echo")
        for number in range(20):
            socket.text(str(number))
            assert socket.message().text == str(number)
        socket.send(Frame(8, b"\x03\xe8"))
    assert "ERROR" not in server.log.text
    server = serve("origin:native", "--loop", loop).ready()
    assert [asked(server, "/loop") for _ in range(3)] == [loop] * 3
    assert asked(server)["scheme"] == "http", "and answers at once"


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_both_event_loops_let_wsgi_threads_be(serve: Serve, loop: str) -> None:
    server = serve("origin:wsgi", "--interface", "wsgi", "--threads", "2", "--loop", loop).ready()
    assert asked(server)["wsgi.url_scheme"] == "http"


def test_an_event_loop_that_is_not_installed_is_said_in_one_line(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("raise ImportError('not here')\n")
    server = serve("origin:app", "--loop", "uvloop", env={"PYTHONPATH": str(tmp_path)})
    server.finish(1)
    errors = [line for line in server.log.text.splitlines() if "uvloop" in line]
    assert len(errors) == 1, server.log.text
    assert re.search(r"/python3? has no package uvloop; install it there, or use --loop asyncio", errors[0])
    assert "Traceback" not in server.log.text


# --- two extensions in one response ------------------------------------------------------------------------------------


def test_a_file_by_its_path_can_have_trailers(serve: Serve) -> None:
    server = serve("origin:app").ready()
    file = (APPS / "origin.py").read_bytes()
    with server.connect() as connection:
        connection.ask("GET", "/file-with-trailers", {"te": "trailers", "connection": "close"})
        answer = connection.rest()
    fields, _, rest = answer.partition(b"\r\n\r\n")
    assert b"trailer: x-late" in fields, "which is announced (RFC 9110 §6.6.2)"
    assert b"transfer-encoding: chunked" in fields, "trailers have no other place (RFC 9112 §7.1.2)"
    assert rest.endswith(b"\r\n0\r\nx-late: yes\r\n\r\n")
    with server.connect() as connection:
        assert connection.request("GET", "/file-with-trailers").body == file
