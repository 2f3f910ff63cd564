"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fasterapi import _json
from fasterapi._background import BackgroundTask
from fasterapi._errors import ClientDisconnected
from fasterapi._streaming import StreamingResponse

if TYPE_CHECKING:
    from fasterapi._native import Exchange

PING = b": ping\n\n"
PING_S = 15.0


def _lines(text: str) -> list[str]:
    """The stream's own line ends: CR LF, LF and CR."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


@dataclass(frozen=True)
class ServerSentEvent:
    """One event. `data` is sent as JSON, `raw_data` as it is; both may have any number of lines. `retry`: in milliseconds."""

    data: Any = None
    event: str | None = None
    id: str | None = None
    retry: int | None = None
    comment: str | None = None
    raw_data: str | None = None

    def __post_init__(self) -> None:
        if self.data is not None and self.raw_data is not None:
            raise ValueError("an event has data or raw_data, not both")
        for name in ("event", "id"):
            value = getattr(self, name)
            if value is not None and len(_lines(value)) > 1:
                raise ValueError(f"an event's {name} is a single line")
        if self.id is not None and "\0" in self.id:
            raise ValueError("an event's id has no NUL")
        if self.retry is not None and self.retry < 0:
            raise ValueError("retry is a number of milliseconds")

    def encode(self) -> bytes:
        text = self.raw_data if self.data is None else _json.dumps(self.data).decode()
        lines = [f": {line}" for line in _lines(self.comment)] if self.comment is not None else []
        if self.event is not None:
            lines.append(f"event: {self.event}")
        if text is not None:
            lines += [f"data: {line}" for line in _lines(text)]
        if self.id is not None:
            lines.append(f"id: {self.id}")
        if self.retry is not None:
            lines.append(f"retry: {self.retry}")
        return "\n".join([*lines, "", ""]).encode()


class EventSourceResponse(StreamingResponse):
    """A stream of events. Items are `ServerSentEvent`s, or bytes that are events already; anything else becomes the data of one,
    as JSON. Where there is none for `ping` seconds, a comment keeps the connection from looking dead."""

    media_type = "text/event-stream"

    def __init__(
        self,
        content: AsyncIterable[Any] | Iterable[Any],
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        background: BackgroundTask | None = None,
        *,
        ping: float | None = PING_S,
    ) -> None:
        super().__init__(content, status_code, headers, media_type, background)
        self.headers.setdefault("cache-control", "no-cache")
        self.headers.setdefault("x-accel-buffering", "no")
        self.ping = ping
        self._written_at = 0.0

    def encode_piece(self, piece: Any) -> bytes:
        self._written_at = asyncio.get_running_loop().time()
        if isinstance(piece, bytes | bytearray | memoryview):
            return bytes(piece)
        event = piece if isinstance(piece, ServerSentEvent) else ServerSentEvent(piece)
        return event.encode()

    async def write_pieces(self, pieces: AsyncIterator[Any], exchange: "Exchange") -> None:
        if not self.ping:
            await super().write_pieces(pieces, exchange)
            return
        pinging = asyncio.ensure_future(self._write_pings(self.ping, exchange))
        try:
            await super().write_pieces(pieces, exchange)
        finally:
            pinging.cancel()
            await asyncio.wait([pinging])

    async def _write_pings(self, every_s: float, exchange: "Exchange") -> None:
        loop = asyncio.get_running_loop()
        self._written_at = loop.time()
        # The task that writes the events hears of a disconnect by itself.
        with contextlib.suppress(ClientDisconnected):
            while True:
                left = self._written_at + every_s - loop.time()
                if left <= 0:
                    self._written_at = loop.time()
                    await exchange.write(PING)
                else:
                    await asyncio.sleep(left)
