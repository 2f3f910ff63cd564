"""The application under test: one ASGI application with a path for each question, the same under every server.

`/journal?TAG` gives what the requests with that tag noted, `/open?TAG` opens the gate that holds them.
"""

import aborted
import http_paths
import mistakes
import websocket_paths
from contract import Application, Receive, Scope, Send, answer_json, gate, journal, tag


async def lifespan(scope: Scope, receive: Receive, send: Send) -> None:
    assert (await receive())["type"] == "lifespan.startup"
    scope["state"].update(started=scope["asgi"], shared=[])
    await send({"type": "lifespan.startup.complete"})
    assert (await receive())["type"] == "lifespan.shutdown"
    print("lifespan: shut down", flush=True)
    await send({"type": "lifespan.shutdown.complete"})


async def read_journal(scope: Scope, receive: Receive, send: Send) -> None:
    await answer_json(send, journal.get(tag(scope), []))


async def open_gate(scope: Scope, receive: Receive, send: Send) -> None:
    gate(tag(scope)).set()
    await answer_json(send, "open")


HTTP: dict[str, Application] = {
    **http_paths.PATHS,
    **mistakes.PATHS,
    **aborted.PATHS,
    "/journal": read_journal,
    "/open": open_gate,
}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
    elif scope["type"] == "http":
        await HTTP.get(scope["path"], http_paths.describe)(scope, receive, send)
    else:
        assert scope["type"] == "websocket", scope["type"]
        await websocket_paths.PATHS.get(scope["path"], websocket_paths.describe)(scope, receive, send)


def factory() -> Application:
    return app


class Callable3:
    """An instance with an asynchronous `__call__`, which is what most frameworks are."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)


instance = Callable3()
