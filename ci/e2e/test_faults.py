"""The system refuses what the edge asks of it: it goes on serving, and nothing of the fault is left when it is over.

Faults come from strace(1), which makes the system calls of the edge's threads fail; from prlimit(2); and from a full file
system. Each system call that the edge makes while it serves is here with the errors that its man page knows, but for those of the
allocator (brk, mmap, munmap, mprotect, madvise: a Rust program without memory of its own ends by design), and for futex
and the clock, whose errors are the standard library's to handle.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Serve
from server import APPS, BINARY, Process, Server, descriptors, until
from wire import Response

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is missing: ci/system-packages test")

WHILE_SERVING = {
    "io_uring_enter": ["EINTR", "EAGAIN", "EBUSY", "ENOMEM", "ENOBUFS"],
    # Not EAGAIN: of a pipe it says that it is full, and a full doorbell has been rung.
    "write": ["EINTR", "ENOMEM", "ENOBUFS"],
    "getpeername": ["ENOBUFS", "ENOTCONN"],
    "epoll_wait": ["EINTR"],
}
WHILE_RESPAWNING = {
    "memfd_create": ["EMFILE", "ENFILE", "ENOMEM"],
    "ftruncate": ["EINTR"],
    "fallocate": ["EINTR", "ENOSPC"],
    "eventfd2": ["EMFILE", "ENFILE", "ENOMEM"],
    "pipe2": ["EMFILE", "ENFILE"],
    "socketpair": ["EMFILE", "ENFILE"],
    "clone3": ["EAGAIN", "ENOMEM"],
    "pidfd_open": ["EMFILE", "ENFILE", "ENOMEM"],
    "sendmsg": ["EINTR", "EAGAIN", "ENOMEM", "ENOBUFS"],
    # Not EAGAIN, which says that the socket was emptied: nobody listens any more for what came before.
    "recvfrom": ["EINTR"],
    "fcntl": ["EMFILE"],
    "epoll_ctl": ["ENOMEM", "ENOSPC"],
}
TIMES = 3
"""How often each call fails before it succeeds again."""


def cases(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(call, error) for call, errors in table.items() for error in errors]


@contextlib.contextmanager
def failing(server: Server, call: str, error: str, times: int = TIMES) -> Iterator[None]:
    """Makes the first `times` uses of a system call fail in each of the edge's threads that makes it."""
    tasks = sorted(int(task.name) for task in Path(f"/proc/{server.pid}/task").iterdir())
    where = [part for task in tasks for part in ("-p", str(task))]
    inject = f"inject={call}:error={error}:when=1..{times}"
    command = ["strace", "--quiet=exit", "-e", f"trace={call}", "-e", inject, *where]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        for _ in tasks:
            line = tracer.stderr.readline()
            assert "attached" in line, line
        reader = ThreadPoolExecutor(1)
        told = reader.submit(tracer.stderr.read)
        try:
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait()
            text = told.result()
            reader.shutdown()
    assert f"{error} (" in text and "(INJECTED)" in text, f"nothing was injected:\n{text[-2000:]}"


def get(server: Server, tag: str) -> Response:
    return server.get(f"/tag/{tag}")


@pytest.fixture(scope="module")
def steady() -> Iterator[Server]:
    server = Server("echo:app")
    try:
        yield server.ready()
    except BaseException:
        server.end(strictly=False)
        raise
    server.end(strictly=True)


@pytest.mark.parametrize(("call", "error"), cases(WHILE_SERVING))
def test_a_call_that_fails_while_requests_are_served_costs_none_of_them(steady: Server, call: str, error: str) -> None:
    with failing(steady, call, error):
        with steady.connect() as kept:
            for number in range(20):
                tag = f"{call}-{error}-{number}"
                assert kept.request("GET", f"/tag/{tag}").json == {"tag": tag}
        assert get(steady, "new").json == {"tag": "new"}
        if call == "epoll_wait":
            assert steady.admin("/readyz").status == 200


@pytest.mark.parametrize(("call", "error"), cases(WHILE_RESPAWNING))
def test_a_call_that_fails_while_a_worker_is_replaced_only_delays_it(serve: Serve, call: str, error: str) -> None:
    server = serve("echo:app").ready()
    assert get(server, "before").status == 200
    worker, before = server.worker_pid(), descriptors(server.pid)
    with failing(server, call, error):
        os.kill(worker, signal.SIGKILL)
        until("another worker serves", lambda: server.worker_pid() != worker and get(server, "next").status == 200)
    assert get(server, "after").json == {"tag": "after"}
    until("no descriptor was left behind", lambda: descriptors(server.pid) <= before)


def test_without_descriptors_clients_wait_and_a_dead_worker_is_replaced_once_there_are_some(serve: Serve) -> None:
    limit = 80
    server = serve("echo:app", under=["prlimit", f"--nofile={limit}:{limit}"]).ready()
    with server.connect() as kept, contextlib.ExitStack() as others:
        assert kept.request("GET", "/tag/kept").json == {"tag": "kept"}
        for _ in range(limit):
            others.enter_context(server.connect())
        server.log.wait(r"accept: Too many open files")
        assert kept.request("GET", "/tag/still").json == {"tag": "still"}
        worker = server.worker_pid()
        os.kill(worker, signal.SIGKILL)
        server.log.wait(r"cannot start the process: Too many open files")
        others.close()
        until("another worker", lambda: server.worker_pid() != worker)
        assert kept.request("GET", "/tag/again").json == {"tag": "again"}
        assert get(server, "new").json == {"tag": "new"}


@pytest.mark.skipif(os.geteuid() != 0, reason="mount(8) needs root")
def test_a_full_file_system_costs_log_lines_and_no_request(serve: Serve, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tmp_path], check=True)
    try:
        log, filler = tmp_path / "access.log", tmp_path / "filler"
        server = serve("echo:app", "--access-log", log).ready()
        assert get(server, "first").status == 200
        until("its line", lambda: b"/tag/first" in log.read_bytes())
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        with server.connect() as kept:
            for number in range(100):
                assert kept.request("GET", f"/tag/{number}?{'x' * 500}").status == 200
            server.log.wait(r"access log")
            filler.unlink()
            until("lines again", lambda: kept.request("GET", "/tag/last").status == 200 and b"/tag/last" in log.read_bytes())
        assert all(re.fullmatch(rb"[ -~]*", line) for line in log.read_bytes().splitlines()), "a line was torn"
        server.signal(signal.SIGTERM)
        server.finish()
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
def test_without_io_uring_one_line_names_what_forbids_it(error: str) -> None:
    """EPERM is what sysctl and seccomp profiles say, ENOSYS an old kernel."""
    tracer = ["strace", "--quiet=all", "--output=/dev/null", f"--inject=io_uring_setup:error={error}"]
    process = Process(*tracer, BINARY, "run", "echo:app", "--port", "0", "--app-dir", APPS)
    process.finish(code=1)
    (line,) = process.log.text.splitlines()
    assert "io_uring is not available" in line
    assert "kernel.io_uring_disabled" in line
    assert "seccomp" in line
