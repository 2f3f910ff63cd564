"""One running server: started pinned, waited for, checked, and ended by its own process id."""

import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from peers.contenders import APPS, Case, Contender

START_S = 20.0
STOP_S = 10.0


class Unusable(Exception):
    """The server did not come up, or answered wrongly."""


@dataclass(frozen=True)
class Server:
    pid: int
    port: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def check(port: int, case: Case) -> None:
    """Raises Unusable unless the answer is 200 and the very JSON; OSError while nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", case.path)
        response = connection.getresponse()
        body = response.read()
    except http.client.HTTPException as error:
        raise Unusable(f"{case.path}: {error!r}") from error
    finally:
        connection.close()
    try:
        right = response.status == 200 and json.loads(body) == case.answer
    except ValueError:
        right = False
    if not right:
        raise Unusable(f"{case.path}: {response.status} {body[:200]!r}")


@contextmanager
def running(contender: Contender, cpus: frozenset[int], first: Case) -> Iterator[Server]:
    """The server, answering `first` rightly; it and its process group are gone when the block ends."""
    port = free_port()
    pinned = ["taskset", "--cpu-list", ",".join(map(str, sorted(cpus)))]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*pinned, *contender.command(port)],
            cwd=APPS,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            try:
                wait_for(process, port, first)
            except Unusable as error:
                raise Unusable(f"{error}\n{tail(log.fileno())}".rstrip()) from None
            yield Server(process.pid, port)
        finally:
            stop(process)


def wait_for(process: subprocess.Popen[bytes], port: int, first: Case) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            check(port, first)
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise Unusable(f"no answer within {START_S:.0f} s: {error}") from error
        try:
            code = process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
        raise Unusable(f"ended with code {code} before it answered")


def tail(fd: int) -> str:
    """The last of what a server said."""
    size = os.fstat(fd).st_size
    return os.pread(fd, 2000, max(0, size - 2000)).decode(errors="replace")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Asks the first process, then ends whatever is left of the group."""
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        print(f"  {process.args!r} ignored SIGTERM for {STOP_S:.0f} s: killed", flush=True)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
