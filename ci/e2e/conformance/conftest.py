"""Each case runs under our server and under uvicorn: `kind` is which, `server` a shared one, `start` one of the test's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance.asking import APP, APPS, Kind, Start
from reference import Uvicorn
from server import Listening, Server, lasting


@pytest.fixture(scope="session", params=["fasterapi", "uvicorn"])
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


def _start(kind: Kind, app: str, *arguments: str | Path, uds: Path | None = None) -> Listening:
    if kind == "uvicorn":
        return Uvicorn(app, *arguments, app_dir=APPS, uds=uds)
    return Server(app, "--interface", "asgi", "--body-max", "0", *arguments, uds=uds, app_dir=APPS)


@pytest.fixture(scope="session")
def server(kind: Kind, shown_if_failed: list[Any]) -> Iterator[Listening]:
    """One worker of the application under test, for all cases."""
    with lasting(_start(kind, APP), shown_if_failed) as started:
        yield started


@pytest.fixture
def start(request: pytest.FixtureRequest, kind: Kind, shown_if_failed: list[Any]) -> Iterator[Start]:
    mine: list[Listening] = []

    def one(app: str, *arguments: str | Path, uds: Path | None = None, wait: bool = True) -> Listening:
        started = _start(kind, app, *arguments, uds=uds)
        mine.append(started)
        shown_if_failed.append(started)
        return started.ready() if wait else started

    yield one
    failed = getattr(request.node, "failed_call", False)
    for started in mine:
        shown_if_failed.remove(started)
        started.end(strictly=not failed)
