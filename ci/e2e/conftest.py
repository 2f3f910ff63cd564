"""Servers for tests: started for one test or shared by a module, always ended, and shown when something failed."""

from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest
from server import BINARY, Process, Server, serving
from versions import VERSIONS

_LOG_SHOWN = 200  # lines
_running: list[Process] = []


class Serve(Protocol):
    """Starts a server that ends with the test."""

    def __call__(
        self,
        app: str,
        *arguments: str | Path,
        workers: int = 1,
        shards: int = 1,
        uds: Path | None = None,
        env: dict[str, str] | None = None,
        app_dir: Path = ...,
        under: Sequence[str] = ...,
        version: str = ...,
    ) -> Server: ...


def pytest_sessionstart() -> None:
    if not BINARY.is_file():
        pytest.exit(f"{BINARY} does not exist: make build", returncode=2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    setattr(item, f"failed_{report.when}", report.failed)
    if report.failed:
        for process in _running:
            lines = process.log.text.splitlines()[-_LOG_SHOWN:]
            report.sections.append((f"stderr of process {process.pid}", "\n".join(lines)))
    return report


@pytest.fixture(scope="session")
def shown_if_failed() -> list[Process]:
    """Whose stderr stands beside a failure."""
    return _running


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Iterator[Serve]:
    mine: list[Server] = []

    def start(*args: Any, **kwargs: Any) -> Server:
        server = Server(*args, **kwargs)
        mine.append(server)
        _running.append(server)
        return server

    yield start
    failed = getattr(request.node, "failed_call", False)
    problems = []
    for server in mine:
        try:
            server.end(strictly=not failed)
        except AssertionError as error:
            problems.append(error)
    for server in mine:
        _running.remove(server)
    if problems:
        raise problems[0]


def _shared(app: str, *arguments: str, workers: int = 1, shards: int = 1, version: str = "h1") -> Iterator[Server]:
    with serving(app, *arguments, workers=workers, shards=shards, version=version) as server:
        _running.append(server)
        try:
            yield server
        finally:
            _running.remove(server)


@pytest.fixture(scope="module", params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """What is not about one version of HTTP is tested over all of them."""
    return str(request.param)


@pytest.fixture(scope="module", params=["h1", "h1-tls"])
def wire(request: pytest.FixtureRequest) -> str:
    """What is about HTTP/1.1 is tested in clear and over TLS."""
    return str(request.param)


@pytest.fixture(scope="module")
def echo(wire: str) -> Iterator[Server]:
    """One worker and one shard of apps/echo.py, for HTTP/1.1."""
    yield from _shared("echo:app", version=wire)


@pytest.fixture(scope="module")
def secure() -> Iterator[Server]:
    """As `echo`, over TLS only."""
    yield from _shared("echo:app", version="h1-tls")


@pytest.fixture(scope="module")
def tags(version: str) -> Iterator[Server]:
    """One worker and one shard of apps/echo.py, for any version."""
    yield from _shared("echo:app", version=version)


@pytest.fixture(scope="module")
def handlers(version: str) -> Iterator[Server]:
    """One worker and one shard of apps/handling.py, for any version."""
    yield from _shared("handling:app", version=version)
