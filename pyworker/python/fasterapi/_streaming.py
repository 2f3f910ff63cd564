"""Responses whose body is made while it is sent.

A client that reads slowly stops the content in its `yield`: at most one piece is waiting beyond what the lane took. However the
response ends, the content's clean-up (`finally`, `async with`) has run when `send` returns.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from fasterapi._background import BackgroundTask
from fasterapi._response import Response, has_body

if TYPE_CHECKING:
    from fasterapi._native import Exchange
    from fasterapi._threads import ThreadPool

T = TypeVar("T")
_END: Any = object()


async def _close(iterator: AsyncIterator[Any]) -> None:
    # Generators have it; plain iterators need not.
    if (close := getattr(iterator, "aclose", None)) is not None:
        await close()


async def in_threads(content: Iterable[T], threads: "ThreadPool") -> AsyncIterator[T]:
    """The items of a blocking iterable, each fetched in a thread when it is asked for."""
    iterator = iter(content)
    step: asyncio.Future[T] | None = None
    try:
        while True:
            step = threads.submit(next, iterator, _END)
            # The thread goes on whatever becomes of its waiter, and the generator cannot be closed meanwhile.
            item = await asyncio.shield(step)
            if item is _END:
                return
            yield item
    finally:
        if step is not None and not step.done():
            await asyncio.wait([step])
        if (close := getattr(iterator, "close", None)) is not None:
            await threads.run(close)


class StreamingResponse(Response):
    """A response over an iterable of `str` or bytes, blocking or asynchronous."""

    is_live = True

    def __init__(
        self,
        content: AsyncIterable[Any] | Iterable[Any],
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        background: BackgroundTask | None = None,
    ) -> None:
        super().__init__(None, status_code, headers, media_type, background)
        self.body_iterator = content

    def encode_piece(self, piece: Any) -> bytes:
        encoded: bytes = piece.encode(self.charset) if isinstance(piece, str) else piece
        return encoded

    async def send(self, exchange: "Exchange", threads: "ThreadPool") -> None:
        content = self.body_iterator
        pieces = content.__aiter__() if isinstance(content, AsyncIterable) else in_threads(content, threads)
        try:
            length = self.headers.get("content-length")
            status, fields, _ = self.answer()
            exchange.start(status, fields, length=None if length is None else int(length))
            if exchange.method != "HEAD" and has_body(status):
                await self.write_pieces(pieces, exchange)
            await exchange.write(b"", end=True)
        finally:
            await _close(pieces)

    async def write_pieces(self, pieces: AsyncIterator[Any], exchange: "Exchange") -> None:
        async for piece in pieces:
            await exchange.write(self.encode_piece(piece))
