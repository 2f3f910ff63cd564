"""How a test reads the application's journal and opens its gates, and the two kinds of server that it asks."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

from server import Listening, until

APPS = Path(__file__).resolve().parent / "apps"
APP = "application:app"
Kind = Literal["fasterapi", "uvicorn"]


class Start(Protocol):
    """Starts a server of the kind under test, with options that both kinds name alike; it ends with the test."""

    def __call__(self, app: str, *arguments: str | Path, uds: Path | None = None, wait: bool = True) -> Listening: ...


def new_tag() -> str:
    return uuid.uuid4().hex


def journal(server: Listening, tag: str) -> list[Any]:
    """What the requests with this tag have noted so far."""
    found: list[Any] = server.get(f"/journal?{tag}").json
    return found


def noted(server: Listening, tag: str, *what: Any) -> list[Any]:
    """Waits until the journal ends so, and gives all of it."""

    def ends() -> list[Any] | None:
        found = journal(server, tag)
        return found if found[len(found) - len(what) :] == list(what) else None

    return until(f"the journal of {tag} ends with {what}", ends)


def open_gate(server: Listening, tag: str) -> None:
    assert server.get(f"/open?{tag}").status == 200


def standing_still(progress: Callable[[], int], looks: int = 8) -> int:
    """The value at which something stopped. Only time can tell that nothing happens: `looks` in a row, 50 ms apart."""
    seen: list[int] = []

    def still() -> bool:
        seen.append(progress())
        return len(seen) >= looks and len(set(seen[-looks:])) == 1 and seen[-1] > 0

    until("it stands still", still, step_s=0.05)
    return seen[-1]
