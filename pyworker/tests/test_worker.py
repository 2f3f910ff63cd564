"""The worker against a socketpair and a native module made of fakes: what it says, in which order, and how it ends."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fasterapi._worker import DUMP_SIGNAL

HERE = Path(__file__).parent
TIMEOUT_S = 30.0

# Runs in the worker process before its entry: a native module whose one lane is a socket of JSON lines.
BOOT = """
import sys, runpy
sys.path[:0] = [{package!r}, {tests!r}]
import fake_native
sys.modules["fasterapi._native"] = fake_native
runpy.run_module("fasterapi.core.worker_pool", run_name="__main__")
"""


class Worker:
    """The edge's side: the control channel and the fake lane."""

    def __init__(self, app_dir: Path, app: str, **attach: Any) -> None:
        self.control, theirs = socket.socketpair()
        self.lane, lane = socket.socketpair()
        code = BOOT.format(package=str(HERE.parent / "python"), tests=str(HERE))
        self.process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-c", code], stdin=theirs.fileno(), stderr=subprocess.PIPE, cwd=app_dir
        )
        theirs.close()
        message = {
            "worker": 0,
            "incarnation": 1,
            "parent": os.getpid(),
            "shards": 1,
            "app": app,
            "app_dir": str(app_dir),
            "debug": False,
            "log_level": "info",
            **attach,
        }
        socket.send_fds(self.control, [json.dumps({"attach": message}).encode() + b"\n"], [lane.fileno()])
        lane.close()
        self.control.settimeout(TIMEOUT_S)
        self.lane.settimeout(TIMEOUT_S)
        self._lines = self.control.makefile("rb")
        self._answers = self.lane.makefile("rb")

    def hear(self) -> dict[str, Any]:
        line = self._lines.readline()
        assert line, self.process.communicate(timeout=TIMEOUT_S)[1].decode()
        message: dict[str, Any] = json.loads(line)
        assert len(message) == 1
        return message

    def say(self, name: str, **content: Any) -> None:
        self.control.sendall(json.dumps({name: content}).encode() + b"\n")

    def request(self, route: int, **params: str) -> None:
        self.lane.sendall(json.dumps([route, params]).encode() + b"\n")

    def answer(self) -> tuple[int, str]:
        status, body = json.loads(self._answers.readline())
        return status, body

    def end(self) -> int:
        code: int = self.process.wait(TIMEOUT_S)
        return code

    def log(self) -> str:
        assert self.process.stderr is not None
        text: bytes = self.process.stderr.read()
        return text.decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for thing in (self._lines, self._answers, self.control, self.lane, self.process.stderr):
            assert thing is not None
            thing.close()


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    workers: list[Worker] = []
    yield workers
    for worker in workers:
        worker.close()


@pytest.fixture
def start(workers: list[Worker], tmp_path: Path) -> Any:
    def start(source: str, app: str = "served:app", **attach: Any) -> Worker:
        (tmp_path / "served.py").write_text(textwrap.dedent(source))
        workers.append(Worker(tmp_path, app, **attach))
        return workers[-1]

    return start


APP = """
    import asyncio, os, sys
    from contextlib import asynccontextmanager
    from fasterapi import FastAPI

    def note(text):
        print("NOTE", text, file=sys.stderr, flush=True)

    @asynccontextmanager
    async def lifespan(app):
        note("lifespan in")
        background = asyncio.create_task(asyncio.sleep(3600))
        yield {"from": "lifespan"}
        background.cancel()
        note("lifespan out")

    app = FastAPI(lifespan=lifespan)
    app.add_event_handler("startup", lambda: note("startup"))

    @app.on_event("shutdown")
    async def shutdown():
        note("shutdown")

    @app.get("/user/{user_id}")
    async def user(user_id: int):
        return {"user_id": user_id}

    gate = asyncio.Event()

    @app.get("/wait")
    async def wait():
        await gate.wait()
        asyncio.create_task(late())
        return "waited"

    async def late():
        await asyncio.sleep(0)
        note("late task")

    @app.post("/open")
    async def open_gate():
        gate.set()

    @app.get("/stdin")
    def stdin():
        return sys.stdin.read() + os.readlink("/proc/self/fd/0")
"""


def notes(worker: Worker) -> list[str]:
    return [line.removeprefix("NOTE ") for line in worker.log().splitlines() if line.startswith("NOTE ")]


def test_a_whole_life(start: Any) -> None:
    worker = start(APP)
    assert worker.hear() == {
        "ready": {
            "routes": [
                {"id": 0, "methods": ["GET"], "path": "/user/{user_id}"},
                {"id": 1, "methods": ["GET"], "path": "/wait"},
                {"id": 2, "methods": ["POST"], "path": "/open"},
                {"id": 3, "methods": ["GET"], "path": "/stdin"},
            ],
            "redirect_slashes": True,
            "app": "served:app",
        }
    }
    worker.request(0, user_id="7")
    assert worker.answer() == (200, '{"user_id":7}')
    worker.request(0, user_id="x")
    assert worker.answer()[0] == 422
    worker.request(3)
    assert worker.answer() == (200, '"/dev/null"')
    worker.process.send_signal(signal.SIGINT)  # The edge's to interpret.
    worker.request(0, user_id="8")
    assert worker.answer() == (200, '{"user_id":8}')
    worker.say("unheard-of")
    worker.request(1)
    worker.say("stop")
    worker.request(2)  # Still taken: the edge decides what it sends.
    assert sorted([worker.answer(), worker.answer()]) == [(200, '"waited"'), (200, "null")]
    assert worker.end() == 0
    assert worker._lines.read() == b""
    assert notes(worker) == ["lifespan in", "startup", "late task", "shutdown", "lifespan out"]


def test_a_ping_is_answered_by_the_loop_with_its_tasks(start: Any) -> None:
    worker = start(APP)
    worker.hear()
    worker.say("ping", id=7)
    first = worker.hear()["pong"]
    assert first["id"] == 7
    worker.request(1)  # One task that waits.
    worker.request(0, user_id="7")
    assert worker.answer() == (200, '{"user_id":7}')
    worker.say("ping", id=2**53)
    assert worker.hear() == {"pong": {"id": 2**53, "tasks": first["tasks"] + 1}}
    worker.request(2)
    worker.say("stop")
    assert worker.end() == 0


def test_a_stuck_loop_tells_where_it_stands(start: Any) -> None:
    worker = start(
        """
        import os, sys, time
        from fasterapi import FastAPI

        app = FastAPI()

        @app.get("/stuck")
        async def stuck():
            os.write(2, b"here\\n")
            sys.stderr.close()
            time.sleep(60)
        """
    )
    worker.hear()
    worker.request(0)
    assert worker.process.stderr is not None
    while b"here" not in (line := worker.process.stderr.readline()):
        assert line
    worker.process.send_signal(DUMP_SIGNAL)
    lines = iter(worker.process.stderr.readline, b"")
    assert any(b"in stuck" in line for line in lines)
    worker.process.kill()


def test_sigterm_is_stop(start: Any) -> None:
    worker = start(APP)
    worker.hear()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.end() == 0
    assert notes(worker)[-1] == "lifespan out"


def test_the_edge_dies(start: Any) -> None:
    worker = start(APP)
    worker.hear()
    worker.request(1)
    worker.control.shutdown(socket.SHUT_RDWR)
    assert worker.end() == 1
    assert "lifespan out" not in notes(worker)


@pytest.mark.parametrize(
    ("source", "app", "stage", "error"),
    [
        ("import nowhere_to_be_found", "served:app", "import", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("x = 1 +", "served:app", "import", "SyntaxError: invalid syntax"),
        ("app = 3", "served:app", "import", "'served:app' is an object of type builtins.int: neither a fasterapi.FastAPI"),
        ("async def app(scope, receive, send): ...", "served:app", "import", "an object of type builtins.function"),
        ("class App: ...", "served:App", "import", "is the class App"),
        ("", "served:app", "import", "module 'served' has no attribute 'app'"),
        ("", "served:", "import", "not of the form module:attribute"),
        ("import sys; sys.exit('bye')", "served:app", "import", "SystemExit: bye"),
        ("from fasterapi import FastAPI\napp = FastAPI(on_startup=[lambda: 1 / 0])", "served", "startup", "ZeroDivisionError"),
        ("", "fasterapi._manifest:app", "import", "FASTERAPI_MANIFEST"),
    ],
)
def test_failures_are_reported(start: Any, source: str, app: str, stage: str, error: str) -> None:
    worker = start(source, app)
    failed = worker.hear()["failed"]
    assert failed["stage"] == stage
    assert error in failed["error"]
    assert "\n" not in failed["error"]
    assert "Traceback" in failed["traceback"] or "SyntaxError" in failed["traceback"]
    assert worker.end() == 3


def test_layouts_that_differ(start: Any) -> None:
    worker = start("", layout="wrong")
    failed = worker.hear()["failed"]
    assert (failed["stage"], failed["error"]) == ("startup", "RuntimeError: layouts differ")
    assert worker.end() == 3


def test_debug_comes_from_the_edge(start: Any) -> None:
    worker = start(APP.replace('return {"user_id": user_id}', "raise KeyError(user_id)"), debug=True)
    worker.hear()
    worker.request(0, user_id="7")
    status, body = worker.answer()
    assert status == 500
    assert "KeyError: 7" in body
    worker.say("stop")
    assert worker.end() == 0
    assert "worker-0 fasterapi: a handler failed" in worker.log()


def test_nothing_native_is_needed_to_import() -> None:
    code = "import fasterapi, sys; sys.exit('fasterapi._native' in sys.modules or 'asyncio.runners' not in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "python")}
    assert subprocess.run([sys.executable, "-c", code], env=environment, timeout=TIMEOUT_S).returncode == 0


def test_a_worker_by_hand() -> None:
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "python")}
    command = [sys.executable, "-m", "fasterapi.core.worker_pool"]
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S)
    assert done.returncode == 1
    assert b"not by hand" in done.stderr


def test_asyncio_is_left_as_it_was() -> None:
    assert asyncio.current_task.__module__ in ("_asyncio", "asyncio.tasks")
