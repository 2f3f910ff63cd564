"""The echo of ws_asgi, natively."""

from fasterapi import FastAPI, WebSocket, WebSocketDisconnect

app = FastAPI()


@app.get("/ready")
async def ready() -> int:
    return 1


@app.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        return
