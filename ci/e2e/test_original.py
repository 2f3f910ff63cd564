"""What the original's note on its process pool promises, run as it is written there."""

import signal
import socket
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from server import BINARY, PYTHON, Process, until

# The document's own text; only the path in it is replaced, and the port by one that is free.
UNIT_TEST = """\
#!/usr/bin/env python3.13
import sys
import time
sys.path.insert(0, '/path/to/project')

from fasterapi.test_handlers import root, compute, get_user
from fasterapi.fastapi_compat import FastAPI
from fasterapi.http.server import Server
from fasterapi._fastapi_native import connect_route_registry_to_server

app = FastAPI()
app.get("/")(root)
app.get("/compute")(compute)
app.get("/user/{user_id}")(get_user)

connect_route_registry_to_server()
server = Server(port=9999, host="127.0.0.1", use_process_pool=True)
server.start()
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as response:
        assert response.status == 200
        return response.read()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_unit_test_script(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    script = tmp_path / "test_process_pool.py"
    script.write_text(UNIT_TEST.replace("/path/to/project", str(tmp_path)).replace("9999", str(port)))
    process = Process(PYTHON, script, env={"FASTERAPI_BIN": str(BINARY)})
    try:
        process.log.wait(r"serving fasterapi\._manifest:app", at_most_s=60)
        url = f"http://127.0.0.1:{port}"
        assert get(f"{url}/") == b'{"message":"Hello from FasterAPI"}'
        assert get(f"{url}/compute") == b'{"n":1000,"sum_of_squares":332833500}'
        assert get(f"{url}/compute?n=4") == b'{"n":4,"sum_of_squares":14}'
        assert get(f"{url}/user/42") == b'{"user_id":42,"name":"User 42"}'
        process.signal(number)
        process.finish(0)
    finally:
        process.end(strictly=False)


def test_the_seeds_environment_variables(tmp_path: Path) -> None:
    (tmp_path / "handlers_of_mine.py").write_text("def which():\n    import os\n    return os.getpid()\n")
    port = free_port()
    script = tmp_path / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text(
        "import os, sys\n"
        "sys.path.insert(0, os.environ['FASTERAPI_PROJECT_DIR'])\n"
        "from handlers_of_mine import which\n"
        "from fasterapi import FastAPI\n"
        "from fasterapi.http.server import Server\n"
        "app = FastAPI()\n"
        "app.get('/')(which)\n"
        f"Server(port={port}, host='127.0.0.1', app=app).start()\n"
    )
    env = {
        "FASTERAPI_BIN": str(BINARY),
        "FASTERAPI_WORKERS": "3",
        "FASTERAPI_PROJECT_DIR": str(tmp_path),
        "FASTERAPI_LOG_LEVEL": "DEBUG",
    }
    process = Process(PYTHON, script, env=env)
    try:
        process.log.wait(r"worker \d \(pid \d+, incarnation 1\) is ready", 3, 60)
        process.log.wait(r"listening on .* \(workers 3, ")
        assert process.log.find(r" DEBUG ")
        pids = until("each of three workers has answered", lambda: pids_of(port, 3))
        assert len(pids) == 3
        process.signal(signal.SIGINT)
        process.finish(0)
    finally:
        process.end(strictly=False)


def pids_of(port: int, count: int) -> set[bytes] | None:
    found = {get(f"http://127.0.0.1:{port}/") for _ in range(10)}
    return found if len(found) == count else None


def test_handlers_of_the_script_itself_are_refused_with_the_reason(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from fasterapi import FastAPI\n"
        "from fasterapi.http.server import Server\n"
        "app = FastAPI()\n"
        "@app.get('/')\n"
        "def mine():\n"
        "    return 1\n"
        "Server(port=0, host='127.0.0.1', app=app).start()\n"
    )
    process = Process(PYTHON, script, env={"FASTERAPI_BIN": str(BINARY)})
    process.finish(1)
    last = process.log.text.strip().splitlines()[-1]
    assert "handler 'mine' is defined in __main__, the script itself" in last
    assert "Move it into a module and import it from there." in last


def test_a_server_that_cannot_start_is_an_error_in_the_script(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        script.write_text(
            "from fasterapi import FastAPI\n"
            "from fasterapi.http.server import Server\n"
            "from fasterapi.test_handlers import root\n"
            "app = FastAPI()\n"
            "app.get('/')(root)\n"
            f"Server(port={port}, host='127.0.0.1', app=app).start()\n"
        )
        process = Process(PYTHON, script, env={"FASTERAPI_BIN": str(BINARY)})
        process.finish(1)
    assert f"127.0.0.1:{port} is in use by another process" in process.log.text
    assert "ServerError: the server ended with exit code 1" in process.log.text


def test_the_worker_pools_entry_alone_says_what_it_is(tmp_path: Path) -> None:
    process = Process(PYTHON, "-m", "fasterapi.core.worker_pool", cwd=tmp_path)
    process.finish(1)
    assert process.log.text.endswith("workers are started by `fasterapi run`, not by hand\n")
    assert len(process.log.text.splitlines()) == 1
