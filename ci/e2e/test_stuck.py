"""A handler that blocks its worker's event loop: the worker says where it hangs, is ended, and is replaced."""

import threading
from pathlib import Path

from conftest import Serve
from server import until

APP = """
import time
from fasterapi import FastAPI

app = FastAPI()

@app.get("/")
async def root():
    return "alive"

@app.get("/stuck")
async def hangs_here():
    time.sleep(3600)

@app.get("/thread")
def in_a_thread():
    time.sleep(8)
    return "slept"
"""


def test_a_stuck_loop_is_dumped_killed_and_replaced(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(APP)
    server = serve("main:app", "--request-timeout", "3", app_dir=tmp_path).ready()
    old = server.worker_pid()
    with server.connect() as connection:
        assert connection.request("GET", "/stuck").status == 504
    server.log.wait(r"its event loop has been stuck for \d+ ms")
    server.log.wait(r"in hangs_here")
    server.ready(2)
    assert server.worker_pid() != old
    assert server.get("/").status == 200
    assert server.status()["restarts"] == {"stuck": 1}


def test_a_thread_that_ignores_its_deadline_is_not_a_stuck_loop(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(APP)
    server = serve("main:app", "--request-timeout", "3", app_dir=tmp_path).ready()
    pid = server.worker_pid()
    statuses: list[int] = []
    asker = threading.Thread(target=lambda: statuses.append(server.get("/thread").status))
    asker.start()
    asker.join(30)
    assert statuses == [504]
    until("the thread has ended", lambda: server.status()["workers"][0]["processes"][0]["in_flight"] == 0)
    assert server.get("/").status == 200
    assert server.worker_pid() == pid
    assert server.status()["restarts"] == {}
