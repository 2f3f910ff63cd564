"""The WebSocket class, where code written for FastAPI looks for it."""

from fasterapi._errors import WebSocketDisconnect
from fasterapi._websocket import WebSocket, WebSocketState

__all__ = ["WebSocket", "WebSocketDisconnect", "WebSocketState"]
