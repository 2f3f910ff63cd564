"""The applications of this process, for a server that is started without naming one."""

import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fasterapi._app import FastAPI

_recorded: list["weakref.ref[FastAPI]"] = []
_connected = False


def record(app: "FastAPI") -> None:
    _recorded.append(weakref.ref(app))


def applications() -> list["FastAPI"]:
    """In the order in which they were made; those that nobody holds any more are gone."""
    _recorded[:] = [reference for reference in _recorded if reference() is not None]
    return [app for reference in _recorded if (app := reference()) is not None]


def connect() -> None:
    """From here on a server may serve these applications."""
    global _connected
    _connected = True


def connected() -> bool:
    return _connected
