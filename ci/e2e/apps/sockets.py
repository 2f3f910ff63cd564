"""WebSockets of the native interface."""

import asyncio
import os

from fasterapi import FastAPI, WebSocket, WebSocketDisconnect

app = FastAPI()
ended: list[tuple[int, str]] = []
open_now: set[WebSocket] = set()


@app.get("/ended")
async def get_ended() -> list[tuple[int, str]]:
    return ended


@app.get("/open")
async def get_open() -> int:
    return len(open_now)


@app.get("/echo")
async def get_echo() -> str:
    return "an ordinary request"


@app.websocket("/echo")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    open_now.add(websocket)
    try:
        while True:
            event = await websocket.receive()
            if event["type"] == "websocket.disconnect":
                ended.append((event["code"], event["reason"]))
                return
            if "text" in event:
                await websocket.send_text(event["text"])
            else:
                await websocket.send_bytes(event["bytes"])
    except WebSocketDisconnect as error:
        ended.append((error.code, error.reason))
    finally:
        open_now.discard(websocket)


@app.websocket("/room/{number}")
async def room(websocket: WebSocket, number: int, name: str = "nobody") -> None:
    await websocket.accept()
    await websocket.send_json({"number": number, "name": name, "worker": os.getpid()})
    await websocket.close(4000, "bye")


@app.websocket("/dies")
async def dies(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.receive_text()
    os._exit(1)


@app.websocket("/slow")
async def slow(websocket: WebSocket) -> None:
    """Takes messages one at a time, on demand of /take."""
    await websocket.accept()
    while True:
        await turn.wait()
        await websocket.send_json(len(await websocket.receive_bytes()))


turn = asyncio.Event()


@app.get("/take")
async def take() -> None:
    turn.set()


@app.websocket("/fails")
async def fails(websocket: WebSocket) -> None:
    await websocket.accept()
    raise LookupError("oops")
