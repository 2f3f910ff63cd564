"""The server under test: the real command with real workers, watched from outside.

A server is ended by its own id and judged when it is: exit code, no panic in its log, no process left of all that it started.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from exchange import Client
from versions import VERSIONS
from wire import Address, Connection, Response

HERE = Path(__file__).resolve().parent
APPS = HERE / "apps"
EXAMPLES = HERE.parents[1] / "examples"
BINARY = Path(os.environ.get("FASTERAPI_BIN", HERE.parents[1] / ".venv/bin/fasterapi")).absolute()
PYTHON = HERE.parents[1] / ".venv/bin/python"

START_MAX_S = 60.0
STOP_MAX_S = 45.0
WAIT_MAX_S = 30.0
"""For a condition that is due soon on an idle machine; this one may be busy."""

MARK = "FASTERAPI_E2E_MARK"
T = TypeVar("T")
AnyServer = TypeVar("AnyServer", bound="Listening")


def until(what: str, condition: Callable[[], T | None], at_most_s: float = WAIT_MAX_S, step_s: float = 0.005) -> T:
    """Looks until there is something; the one place that polls."""
    deadline = time.monotonic() + at_most_s
    while True:
        if found := condition():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {at_most_s} s: {what}")
        time.sleep(step_s)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's, without what would configure a server."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("FASTERAPI_", "PYTHON", "VIRTUAL_ENV"))}
    # A development build does not stand beside the interpreter that has the package.
    python = {} if BINARY.parent == PYTHON.parent else {"FASTERAPI_PYTHON": str(PYTHON)}
    return {**kept, **python, **(extra or {})}


class Log:
    """What a process writes to a pipe, as it comes."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for line in self._pipe:
            with self._changed:
                self._lines.append(line.decode("utf-8", "replace"))
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    @property
    def text(self) -> str:
        with self._changed:
            return "".join(self._lines)

    def find(self, pattern: str) -> list[re.Match[str]]:
        return list(re.finditer(pattern, self.text))

    def wait(self, pattern: str, count: int = 1, at_most_s: float = WAIT_MAX_S) -> list[re.Match[str]]:
        """Returns once the pattern is there so many times; fails at once when the process can write it no more."""
        deadline = time.monotonic() + at_most_s
        with self._changed:
            while True:
                found = list(re.finditer(pattern, "".join(self._lines)))
                if len(found) >= count:
                    return found
                left = deadline - time.monotonic()
                if self._ended or left <= 0:
                    how = "the process ended" if self._ended else f"not within {at_most_s} s"
                    raise AssertionError(f"{how}: {pattern!r} stands {len(found)} of {count} times in\n{''.join(self._lines)}")
                self._changed.wait(left)

    def close(self) -> None:
        self._thread.join(WAIT_MAX_S)
        self._pipe.close()


class Process:
    """A program that may start others; none of them outlives `finish`."""

    def __init__(self, *command: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> None:
        self._mark = uuid.uuid4().hex
        self.process = subprocess.Popen(
            [str(part) for part in command],
            env={**environment(env), MARK: self._mark},
            cwd=cwd or "/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.out, self.log = Log(self.process.stdout), Log(self.process.stderr)
        self._judged = False

    @property
    def pid(self) -> int:
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def family(self) -> list[int]:
        """Every process that inherited the mark and is alive, wherever it was reparented to."""
        mark = f"{MARK}={self._mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0") and state(int(entry.name)) not in ("Z", "X", None):
                        found.append(int(entry.name))
        return sorted(found)

    def finish(self, code: int = 0, at_most_s: float = STOP_MAX_S) -> None:
        """Waits for the end, which somebody has brought about, and judges it."""
        self._judged = True
        try:
            actual = self.process.wait(at_most_s)
        except subprocess.TimeoutExpired:
            self._kill()
            raise AssertionError(f"still running after {at_most_s} s:\n{self.log.text}") from None
        # A killed worker is reaped by whoever it was left to: that may take a moment.
        with contextlib.suppress(AssertionError):
            until("every process ended", lambda: not self.family())
        left = self.family()
        self._kill()
        self.out.close()
        self.log.close()
        assert actual == code, f"exit code {actual}, not {code}:\n{self.log.text}"
        assert not left, f"processes were left behind: {left}\n{self.log.text}"
        assert "panicked" not in self.log.text, self.log.text

    def _kill(self) -> None:
        for pid in self.family():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(WAIT_MAX_S)

    def end(self, *, strictly: bool) -> None:
        """The fixture's last word. A test that did not end its server by itself gets an orderly end, or a failure."""
        if self._judged:
            return
        alive = self.process.poll() is None
        if alive:
            self.process.terminate()
        if strictly:
            self.finish()
            assert alive, f"the server ended by itself:\n{self.log.text}"
        else:
            self._judged = True
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
            self._kill()
            self.out.close()
            self.log.close()


class Listening(Process):
    """A server of whatever make that answers at an address."""

    version = VERSIONS["h1"]
    """In which it is asked."""

    @property
    def address(self) -> Address:
        raise NotImplementedError

    def ready(self) -> "Listening":
        """Waits until it can answer."""
        raise NotImplementedError

    def connect(self, timeout_s: float = WAIT_MAX_S) -> Connection:
        """For HTTP/1.1, as it is on the wire."""
        assert self.version.http == "1.1", self.version
        return Connection(self.address, timeout_s, tls=self.version.tls)

    def client(self, timeout_s: float = WAIT_MAX_S) -> Client:
        return self.version.client(self.address, timeout_s)

    def get(self, path: str, **fields: str) -> Response:
        """One request on a connection of its own."""
        with self.client() as client:
            return client.request("GET", path, fields)


class Server(Listening):
    """`fasterapi run`, listening on a port of the system's choice."""

    def __init__(
        self,
        app: str,
        *arguments: str | Path,
        workers: int = 1,
        shards: int = 1,
        uds: Path | None = None,
        env: Mapping[str, str] | None = None,
        app_dir: Path = APPS,
        under: Sequence[str] = (),
        version: str = "h1",
    ) -> None:
        self.app, self.workers, self._uds, self.version = app, workers, uds, VERSIONS[version]
        where: tuple[str | Path, ...] = (*(("--uds", uds) if uds else ("--port", "0")), *self.version.options)
        how = ("--workers", str(workers), "--shards", str(shards), "--admin", "127.0.0.1:0", "--app-dir", app_dir)
        # A socket's path is short, a test's own folder need not be.
        self._folder = tempfile.TemporaryDirectory(prefix="fasterapi-")
        self.control = Path(self._folder.name) / "control.sock"
        super().__init__(*under, BINARY, "run", app, *where, *how, "--control", self.control, *arguments, env=env)

    def end(self, *, strictly: bool) -> None:
        try:
            super().end(strictly=strictly)
        finally:
            self._folder.cleanup()

    def listening(self) -> "Server":
        """Waits until it listens, whether or not a worker is there to answer."""
        self.log.wait(r"listening on ", at_most_s=START_MAX_S)
        return self

    def ready(self, count: int | None = None) -> "Server":
        """Waits until it listens and so many workers in all have become ready."""
        self.listening()
        self.log.wait(r"worker \d+ \(pid \d+, incarnation \d+\) is ready", count or self.workers, START_MAX_S)
        return self

    @property
    def address(self) -> Address:
        if self._uds:
            return str(self._uds)
        found = self.log.find(r"listening on https?://([\d.]+):(\d+) ")[-1]
        return found[1], int(found[2])

    @property
    def admin_address(self) -> Address:
        found = self.log.wait(r"admin listener on http://([\d.]+):(\d+) ")[-1]
        return found[1], int(found[2])

    def worker_pid(self, place: int = 0) -> int:
        """Of the latest incarnation that became ready."""
        return int(self.log.find(rf"worker {place} \(pid (\d+), incarnation \d+\) is ready")[-1][1])

    def ctl(self, *arguments: str, code: int = 0) -> str:
        """What `fasterapi ctl` says: on stdout when all is well, else on stderr."""
        command = [str(BINARY), "ctl", "--control", str(self.control), *arguments]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=START_MAX_S * 2)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert (done.stdout == "") == (code != 0), done
        return done.stderr if code else done.stdout

    def status(self) -> Any:
        return json.loads(self.ctl("status", "--json"))

    def exchanges(self) -> int:
        """Requests that the edge has and whose responses it does not have to the end."""
        return sum(int(shard["exchanges"]) for shard in self.status()["shards"])

    def admin(self, path: str) -> Response:
        with Connection(self.admin_address, WAIT_MAX_S) as connection:
            return connection.request("GET", path)


def state(pid: int) -> str | None:
    """The letter of /proc/pid/stat; None when there is no such process."""
    try:
        return (Path(f"/proc/{pid}/stat")).read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


def resident_kib(pid: int) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@contextlib.contextmanager
def lasting(server: AnyServer, shown: list[Any]) -> Iterator[AnyServer]:
    """Ready for as long as the block lasts, and among `shown` from its start to its end; judged at its end unless the block failed."""
    shown.append(server)
    try:
        server.ready()
        yield server
    except BaseException:
        server.end(strictly=False)
        raise
    finally:
        shown.remove(server)
    server.end(strictly=True)


@contextlib.contextmanager
def serving(app: str, *arguments: str | Path, workers: int = 1, shards: int = 1, version: str = "h1") -> Iterator[Server]:
    """One that is ready, to be shared by the tests of a module."""
    with lasting(Server(app, *arguments, workers=workers, shards=shards, version=version), []) as server:
        yield server
