"""Each application runs under our server and under the reference of its interface, in an environment that has the frameworks."""

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest
from frameworks.browser import Browser
from reference import Gunicorn, Uvicorn
from server import Listening, Server, lasting

APPS = Path(__file__).resolve().parent / "apps"
ENVIRONMENT = Path(__file__).resolve().parents[3] / "target/frameworks"
Interface = Literal["asgi", "wsgi"]


class Run(Protocol):
    """Serves an application for as long as the block lasts."""

    def __call__(
        self, app: str, interface: Interface, env: dict[str, str] | None = None
    ) -> AbstractContextManager[Listening]: ...


@pytest.fixture(scope="session")
def python() -> Path:
    found = ENVIRONMENT / "bin/python"
    assert found.exists(), f"{found} does not exist: make frameworks"
    return found


@pytest.fixture(scope="session", params=["fasterapi", "reference"])
def maker(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture(scope="session")
def run(maker: str, python: Path, shown_if_failed: list[Any]) -> Run:
    """Ours finds out by itself what kind of application it is."""

    @contextlib.contextmanager
    def serving(app: str, interface: Interface, env: dict[str, str] | None = None) -> Iterator[Listening]:
        server: Listening
        if maker == "fasterapi":
            threads = ("--threads", "4") if interface == "wsgi" else ()
            server = Server(app, "--python", python, *threads, env=env, app_dir=APPS)
        elif interface == "asgi":
            server = Uvicorn(app, app_dir=APPS, python=python, env=env)
        else:
            server = Gunicorn(app, app_dir=APPS, python=python, env=env)
        with lasting(server, shown_if_failed):
            yield server

    return serving


@pytest.fixture
def browser(server: Listening) -> Iterator[Browser]:
    """On the server of the test's module."""
    with Browser(server) as browser:
        yield browser
