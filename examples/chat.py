"""A chat: whoever is in a room hears what is said there.

fasterapi run chat:app --app-dir examples

In two terminals, with the command of the package `websockets`:

websockets ws://localhost:8000/room/kitchen?name=Ada
websockets ws://localhost:8000/room/kitchen?name=Bob
"""

from collections import defaultdict
from contextlib import suppress

from fasterapi import FastAPI, WebSocket, WebSocketDisconnect

app = FastAPI(title="Chat")

# Of this worker: a chat over several of them needs something between them, Redis for instance.
rooms: defaultdict[str, set[WebSocket]] = defaultdict(set)


async def say(room: str, text: str) -> None:
    """To everybody there. A listener that is slower than the talk holds it up: `send_text` waits."""
    for listener in list(rooms[room]):
        # One that has gone meanwhile is taken out by its own handler.
        with suppress(WebSocketDisconnect):
            await listener.send_text(text)


# Path, query, headers and dependencies come from the signature, as for a request.


@app.websocket("/room/{room}")
async def talk(websocket: WebSocket, room: str, name: str = "") -> None:
    if not name:
        await websocket.close(1008)  # Not accepted yet, so the client is answered 403.
        return
    await websocket.accept()
    rooms[room].add(websocket)
    await say(room, f"{name} comes in")
    try:
        async for text in websocket.iter_text():
            await say(room, f"{name}: {text}")
    finally:
        rooms[room].discard(websocket)
        await say(room, f"{name} leaves")
        if not rooms[room]:
            del rooms[room]
