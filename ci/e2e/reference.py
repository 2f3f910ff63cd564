"""Other people's servers, started and judged like ours: what an application does under them is what it may expect of us.

Only what the tests compare is here; who is faster is asked in benches/.
"""

import signal
from collections.abc import Mapping
from pathlib import Path

from server import START_MAX_S, Listening
from tls import Pair
from versions import Version
from wire import Address

PYTHON = Path(__file__).resolve().parents[2] / ".venv/bin/python"


class Reference(Listening):
    """`python -m MODULE` on a port of the system's choice; `listening` is what it logs then, `exit_code` how it leaves on SIGTERM."""

    listening_pattern: str
    exit_code = 0

    def ready(self) -> "Reference":
        self.log.wait(self.listening_pattern, at_most_s=START_MAX_S)
        return self

    @property
    def address(self) -> Address:
        if self._uds:
            return str(self._uds)
        found = self.log.find(self.listening_pattern)[-1]
        return "127.0.0.1", int(found[1])

    def __init__(
        self,
        module: str,
        *arguments: str | Path,
        python: Path,
        uds: Path | None,
        env: Mapping[str, str] | None,
        cwd: Path | None,
    ) -> None:
        self._uds = uds
        super().__init__(python, "-m", module, *arguments, env={"PYTHONUNBUFFERED": "1", **(env or {})}, cwd=cwd)

    def finish(self, code: int | None = None, at_most_s: float = 45.0) -> None:
        super().finish(self.exit_code if code is None else code, at_most_s)


class Uvicorn(Reference):
    """The reference for ASGI: httptools and websockets, on asyncio."""

    # It ends its clean-up by raising again the signal that it caught.
    exit_code = -signal.SIGTERM

    def __init__(
        self,
        app: str,
        *arguments: str | Path,
        app_dir: Path,
        python: Path = PYTHON,
        uds: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.listening_pattern = r"running on unix socket" if uds else r"running on http://127\.0\.0\.1:(\d+)"
        where = ("--uds", uds) if uds else ("--host", "127.0.0.1", "--port", "0")
        how = ("--http", "httptools", "--ws", "websockets-sansio", "--loop", "asyncio", "--no-access-log", "--no-use-colors")
        super().__init__(
            "uvicorn", app, *where, *how, "--app-dir", app_dir, *arguments, python=python, uds=uds, env=env, cwd=None
        )


class Gunicorn(Reference):
    """The reference for WSGI: one process with threads."""

    listening_pattern = r"Listening at: http://127\.0\.0\.1:(\d+)"

    def __init__(
        self, app: str, *arguments: str | Path, app_dir: Path, python: Path = PYTHON, env: Mapping[str, str] | None = None
    ) -> None:
        how = ("--bind", "127.0.0.1:0", "--workers", "1", "--worker-class", "gthread", "--threads", "4", "--no-control-socket")
        super().__init__("gunicorn", app, *how, *arguments, python=python, uds=None, env=env, cwd=app_dir)


class Hypercorn(Reference):
    """Speaks every version; the clients of these tests are tried out on it."""

    def __init__(self, app: str, version: Version, *, app_dir: Path, pair: Pair, python: Path = PYTHON) -> None:
        self.version = version
        self.listening_pattern = r"Running on http://127\.0\.0\.1:(\d+)"
        where: tuple[str | Path, ...] = ("--bind", "127.0.0.1:0")
        if version.scheme == "https":
            self.listening_pattern = r"Running on https://127\.0\.0\.1:(\d+) \(CTRL"
            where = (*where, "--certfile", pair.certificate, "--keyfile", pair.key)
        if version.http == "3":
            self.listening_pattern = r"Running on https://127\.0\.0\.1:(\d+) \(QUIC\)"
            where = (*where, "--quic-bind", "127.0.0.1:0")
        super().__init__("hypercorn", app, *where, "--graceful-timeout", "1", python=python, uds=None, env=None, cwd=app_dir)
