"""Applications that differ in how they take part in lifespan; each answers HTTP with what it saw."""

from contract import Receive, Scope, Send, answer

seen: list[str] = []


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send, ",".join(seen).encode() or b"nothing")


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    """Says that it cannot start."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the database is away, on purpose"})
    else:
        await serve(scope, receive, send)


async def raises(scope: Scope, receive: Receive, send: Send) -> None:
    """Knows nothing of lifespan."""
    seen.append(scope["type"])
    if scope["type"] != "http":
        raise NotImplementedError(f"no {scope['type']} here, on purpose")
    await serve(scope, receive, send)


async def raises_when_asked(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes part, and breaks."""
    if scope["type"] == "lifespan":
        await receive()
        seen.append("startup")
        raise RuntimeError("broken at startup, on purpose")
    await serve(scope, receive, send)


async def returns(scope: Scope, receive: Receive, send: Send) -> None:
    """Leaves at once."""
    seen.append(scope["type"])
    if scope["type"] == "http":
        await serve(scope, receive, send)


async def fails_at_the_end(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "the last page is lost, on purpose"})
    else:
        await serve(scope, receive, send)
