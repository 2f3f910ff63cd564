"""The native server as a child process of a script.

This is for scripts that make their application themselves. Where the application lives in a module,
`fasterapi run module:app` does the same without a script.
"""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from fasterapi import _manifest, _registry
from fasterapi._app import FastAPI

__all__ = ["Server", "ServerError"]

_STOP_TIMEOUT_S = 40.0


class ServerError(RuntimeError):
    """The server could not be started, or ended by itself with an error."""


def find_binary() -> Path:
    """The native `fasterapi`: where FASTERAPI_BIN says, else beside the interpreter, else on PATH."""
    if named := os.environ.get("FASTERAPI_BIN"):
        if shutil.which(named) is None:
            raise ServerError(f"FASTERAPI_BIN names {named!r}, which is no executable file")
        return Path(named)
    beside = Path(sys.executable).parent / "fasterapi"
    if os.access(beside, os.X_OK) and beside.is_file():
        return beside
    if found := shutil.which("fasterapi"):
        return Path(found)
    raise ServerError(
        f"the native server `fasterapi` was found neither beside {sys.executable} nor on PATH; "
        "install it there, or let FASTERAPI_BIN name it"
    )


def _script_dir() -> str:
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    return str(Path(script).resolve().parent if script else Path.cwd())


def _own_import_path() -> list[str]:
    """What this process has on its path beyond its interpreter's own: fasterapi or the handlers may have been found there."""
    paths = sysconfig.get_paths()
    interpreters = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    return [
        entry
        for entry in dict.fromkeys(sys.path)
        if entry and entry not in interpreters and not entry.endswith((".zip", "lib-dynload"))
    ]


class Server:
    """One native server with its worker processes.

    Serves `app` if given, else every FastAPI object of this process once `connect_route_registry_to_server()` was called.
    Handlers have to be importable by name: they run in worker processes, not in this one.
    """

    def __init__(
        self,
        port: int = 8000,
        host: str = "0.0.0.0",
        *,
        use_process_pool: bool = True,
        num_workers: int | None = None,
        python_executable: str | None = None,
        project_dir: str | None = None,
        app: FastAPI | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        """
        `num_workers`: None or 0 leaves the number to the server (FASTERAPI_WORKERS, else one per CPU).
        `project_dir`: first on the workers' import path; FASTERAPI_PROJECT_DIR, else the folder of the script.
        `arguments`: more of them for `fasterapi run`, as its --help shows.
        """
        if not use_process_pool:
            raise ValueError("use_process_pool=False: handlers always run in worker processes, there is nothing else")
        self.port = port
        self.host = host
        self.num_workers = num_workers
        self.python_executable = python_executable or sys.executable
        self.project_dir = project_dir or os.environ.get("FASTERAPI_PROJECT_DIR") or _script_dir()
        self._app = app
        self._arguments = tuple(arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def start(self, block: bool = True) -> None:
        """Starts serving; with `block`, returns when the server has ended. SIGINT and SIGTERM are passed on to it."""
        if self.is_running():
            raise ServerError("this server is running already")
        command, environment = self.command(), self._environment()
        self._stopped = False
        self._process = None
        if not block:
            self._process = self._spawn(command, environment)
            return
        with self._forwarding_signals():
            self._process = self._spawn(command, environment)
            if self._stopped:
                self._process.terminate()
            code = self._process.wait()
        if code != 0 and not self._stopped:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise ServerError(f"the server {how}")

    def stop(self, timeout: float = _STOP_TIMEOUT_S) -> None:
        """Lets the server finish what is in flight; kills it after `timeout` seconds."""
        self._stopped = True
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def command(self) -> list[str]:
        """The command line that `start` runs."""
        command = [str(find_binary()), "run", _manifest.REFERENCE, "--host", self.host, "--port", str(self.port)]
        if self.num_workers:
            command += ["--workers", str(self.num_workers)]
        return [*command, "--app-dir", self.project_dir, *self._arguments]

    def _environment(self) -> dict[str, str]:
        if self._app is not None:
            apps = [self._app]
        elif _registry.connected():
            apps = _registry.applications()
        else:
            raise ServerError("no application: pass Server(app=…), or call connect_route_registry_to_server() first")
        manifest = _manifest.dump(apps)
        return {
            **os.environ,
            _manifest.VARIABLE: manifest,
            "FASTERAPI_PYTHON": self.python_executable,
            "PYTHONPATH": os.pathsep.join(_own_import_path()),
        }

    @staticmethod
    def _spawn(command: list[str], environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        # In a session of its own a Ctrl-C reaches the server once, through us, and not twice: the second would mean "at once".
        return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)

    @contextmanager
    def _forwarding_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # Only the main thread may set handlers; stop() still works.
            return

        def forward(number: int, frame: FrameType | None) -> None:
            self._stopped = True
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(number)

        previous = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
