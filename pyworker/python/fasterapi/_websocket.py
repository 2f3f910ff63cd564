"""A WebSocket as its handler sees it: Starlette's interface, without its events in between.

Invariant: `WebSocketDisconnect` is raised for what the client did and nothing else; what the handler does out of turn is a
RuntimeError.
"""

import enum
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from fasterapi import _json
from fasterapi._errors import ClientDisconnected, WebSocketDisconnect
from fasterapi._request import HTTPConnection

if TYPE_CHECKING:
    from fasterapi._app import FastAPI
    from fasterapi._native import Exchange
    from fasterapi._response import Response

POLICY_VIOLATION = 1008
"""RFC 6455 §7.4.1: the code for what no other is made for."""
_LOST = 1006

HeaderPairs = Mapping[str, str] | Iterable[tuple[bytes, bytes]]


class WebSocketState(enum.Enum):
    """How far one side has come."""

    CONNECTING = 0
    CONNECTED = 1
    DISCONNECTED = 2


class WebSocket(HTTPConnection):
    """One WebSocket, from the request for it to its end. Messages are whole, whatever pieces they came in; a client that sends
    faster than they are taken has to wait."""

    def __init__(self, exchange: "Exchange", app: "FastAPI") -> None:
        from fasterapi._native import SocketCycle

        super().__init__(exchange, app)
        self._cycle = SocketCycle(exchange)
        self.application_state = WebSocketState.CONNECTING
        self.client_state = WebSocketState.CONNECTING

    @cached_property
    def subprotocols(self) -> list[str]:
        """What the client offers."""
        return self._cycle.subprotocols

    async def accept(self, subprotocol: str | None = None, headers: HeaderPairs | None = None) -> None:
        """Answers the request. ValueError for a subprotocol that was not offered; WebSocketDisconnect."""
        if isinstance(headers, Mapping):
            headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        try:
            self._cycle.accept(subprotocol, None if headers is None else list(headers))
        except ClientDisconnected:
            raise self._lost() from None
        self.application_state = self.client_state = WebSocketState.CONNECTED

    async def close(self, code: int = 1000, reason: str | None = None) -> None:
        """Closes behind what was sent; denies with 403 what was not accepted. Without effect on what the client has closed.
        ValueError for a code or reason that cannot be sent."""
        self._cycle.close(code, reason or "")
        self.application_state = WebSocketState.DISCONNECTED

    async def send_denial_response(self, response: "Response") -> None:
        """Answers the request with something else than a WebSocket."""
        if self.application_state is not WebSocketState.CONNECTING:
            raise RuntimeError("the WebSocket was accepted or denied already")
        self.application_state = WebSocketState.DISCONNECTED
        await response.send(self._exchange, self.app.threads)

    async def receive(self) -> dict[str, Any]:
        """The next message as ASGI's event: `websocket.receive` with `text` or `bytes`, `websocket.disconnect` with `code` and
        `reason`. RuntimeError before `accept`, and behind the disconnect."""
        found = await self._waiting()
        if isinstance(found, str):
            return {"type": "websocket.receive", "text": found}
        if isinstance(found, bytes):
            return {"type": "websocket.receive", "bytes": found}
        self.client_state = WebSocketState.DISCONNECTED
        return {"type": "websocket.disconnect", "code": found[0], "reason": found[1]}

    def _waiting(self) -> Awaitable[str | bytes | tuple[int, str]]:
        if self.application_state is WebSocketState.CONNECTING:
            raise RuntimeError("the WebSocket was not accepted: await accept() first")
        if self.client_state is WebSocketState.DISCONNECTED:
            raise RuntimeError("the client has disconnected: nothing more comes")
        return self._cycle.next_message()

    def _refuse(self, found: str | bytes | tuple[int, str]) -> Exception:
        """What to raise for what was not asked for."""
        if isinstance(found, tuple):
            self.client_state = WebSocketState.DISCONNECTED
            return WebSocketDisconnect(*found)
        return TypeError(f"the client has sent {'text' if isinstance(found, str) else 'bytes'}")

    async def receive_text(self) -> str:
        """The next message. WebSocketDisconnect; TypeError when it is bytes."""
        found = await self._waiting()
        if isinstance(found, str):
            return found
        raise self._refuse(found)

    async def receive_bytes(self) -> bytes:
        """The next message. WebSocketDisconnect; TypeError when it is text."""
        found = await self._waiting()
        if isinstance(found, bytes):
            return found
        raise self._refuse(found)

    async def receive_json(self, mode: Literal["text", "binary"] = "text") -> Any:
        """The value of the next message. Raises json.JSONDecodeError."""
        return _json.loads((await self.receive_text()).encode() if _is_text(mode) else await self.receive_bytes())

    async def iter_text(self) -> AsyncIterator[str]:
        """Messages until the client closes."""
        try:
            while True:
                yield await self.receive_text()
        except WebSocketDisconnect:
            pass

    async def iter_bytes(self) -> AsyncIterator[bytes]:
        """Messages until the client closes."""
        try:
            while True:
                yield await self.receive_bytes()
        except WebSocketDisconnect:
            pass

    async def iter_json(self) -> AsyncIterator[Any]:
        """The values of messages until the client closes."""
        try:
            while True:
                yield await self.receive_json()
        except WebSocketDisconnect:
            pass

    async def send_text(self, data: str) -> None:
        """Waits while the client is slower than the handler. WebSocketDisconnect when it takes nothing any more."""
        if not isinstance(data, str):
            raise TypeError(f"text is a str, not {type(data).__name__}")
        await self._send(data)

    async def send_bytes(self, data: bytes | bytearray | memoryview) -> None:
        """As `send_text`."""
        if isinstance(data, str):
            raise TypeError("bytes are not a str")
        await self._send(data)

    async def send_json(self, data: Any, mode: Literal["text", "binary"] = "text") -> None:
        """As `send_text`, with the value's JSON."""
        made = _json.dumps(_json.plain(data))
        await self._send(made.decode() if _is_text(mode) else made)

    async def _send(self, data: str | bytes | bytearray | memoryview) -> None:
        try:
            await self._cycle.send_message(data)
        except ClientDisconnected:
            raise self._lost() from None

    def _lost(self) -> WebSocketDisconnect:
        self.application_state = WebSocketState.DISCONNECTED
        return WebSocketDisconnect(_LOST)


def _is_text(mode: str) -> bool:
    if mode not in ("text", "binary"):
        raise RuntimeError("the mode is 'text' or 'binary'")
    return mode == "text"
