"""WebSocket paths: what the interface allows, and the mistakes."""

import asyncio
import json
from typing import Any

from contract import Application, Message, Receive, Scope, Send, gate, note, shown, tag

ACCEPT = {"type": "websocket.accept"}
PIECE = "x" * 65536
FLOOD_PIECES = 1024


async def connected(receive: Receive) -> None:
    message = await receive()
    assert message == {"type": "websocket.connect"}, message


async def say(send: Send, value: Any) -> None:
    await send({"type": "websocket.send", "text": json.dumps(value)})


async def describe(scope: Scope, receive: Receive, send: Send) -> None:
    await connected(receive)
    await send(ACCEPT)
    kinds = {key: type(value).__name__ for key, value in scope.items()}
    await say(send, {"scope": shown(scope), "types": kinds})
    await send({"type": "websocket.close"})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Each message as it came; the journal has what it was, and how the client left."""
    await connected(receive)
    await send(ACCEPT)
    while (message := await receive())["type"] == "websocket.receive":
        content = {key: message[key] for key in ("text", "bytes") if message.get(key) is not None}
        note(scope, {key: len(value) for key, value in content.items()})
        await send({"type": "websocket.send", **content})
    note(scope, left(message))


def left(message: Message) -> Any:
    return [message["type"], message.get("code"), message.get("reason") or ""]


async def gated(scope: Scope, receive: Receive, send: Send) -> None:
    """Takes one message, then nothing until the gate opens."""
    await connected(receive)
    await send(ACCEPT)
    await receive()
    note(scope, "first")
    await gate(tag(scope)).wait()
    count = 1
    while (message := await receive())["type"] == "websocket.receive" and message.get("text") != "last":
        count += 1
    await say(send, count)
    await send({"type": "websocket.close"})


async def flood(scope: Scope, receive: Receive, send: Send) -> None:
    await connected(receive)
    await send(ACCEPT)
    try:
        for number in range(1, FLOOD_PIECES + 1):
            await send({"type": "websocket.send", "text": PIECE})
            note(scope, number)
    except OSError:
        note(scope, "OSError")
        raise
    note(scope, "sent")
    await send({"type": "websocket.close"})


async def hesitates(scope: Scope, receive: Receive, send: Send) -> None:
    """Accepts a client that is gone."""
    await connected(receive)
    note(scope, "connecting")
    note(scope, left(await receive()))
    try:
        await send(ACCEPT)
    except OSError:
        note(scope, "OSError")
        raise


async def send_to_nobody(scope: Scope, receive: Receive, send: Send) -> None:
    await connected(receive)
    await send(ACCEPT)
    note(scope, left(await receive()))
    try:
        await send({"type": "websocket.send", "text": "for nobody"})
    except OSError:
        note(scope, "OSError")
        raise
    note(scope, "ignored")


async def subprotocol(scope: Scope, receive: Receive, send: Send) -> None:
    """The last one that the client offers."""
    await connected(receive)
    await send({**ACCEPT, "subprotocol": scope["subprotocols"][-1]})
    await say(send, scope["subprotocols"])
    await send({"type": "websocket.close"})


async def fields(scope: Scope, receive: Receive, send: Send) -> None:
    await connected(receive)
    await send({**ACCEPT, "headers": [(b"x-a", b"1"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]})
    await send({"type": "websocket.close"})


async def closes(scope: Scope, receive: Receive, send: Send) -> None:
    """With the code and reason of the query: tag&code&reason."""
    await connected(receive)
    await send(ACCEPT)
    _, code, reason = scope["query_string"].decode().split("&")
    await send({"type": "websocket.close", "code": int(code), "reason": reason})
    note(scope, left(await receive()))


async def denies(scope: Scope, receive: Receive, send: Send) -> None:
    await connected(receive)
    await send({"type": "websocket.close", "code": 4003})
    note(scope, (await receive())["type"])


async def denies_with_a_response(scope: Scope, receive: Receive, send: Send) -> None:
    await connected(receive)
    assert "websocket.http.response" in scope["extensions"]
    headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Basic"), (b"content-length", b"12")]
    await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b'{"a": ', "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b'"why"}'})


async def returns_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def raises_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("before the handshake, on purpose")


async def raises_when_accepted(scope: Scope, receive: Receive, send: Send) -> None:
    await connected(receive)
    await send(ACCEPT)
    await receive()
    raise RuntimeError("behind the handshake, on purpose")


async def returns_when_accepted(scope: Scope, receive: Receive, send: Send) -> None:
    await connected(receive)
    await send(ACCEPT)


def sending(*messages: Message) -> Application:
    """Notes the refusal of the last one, and lets it pass on to the server."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await connected(receive)
        try:
            for message in messages:
                await send(message)
        except Exception as error:
            note(scope, "OSError" if isinstance(error, OSError) else "refused")
            raise
        note(scope, "accepted")

    return app


async def held(scope: Scope, receive: Receive, send: Send) -> None:
    """Accepted, silent, until the server or the client ends it; prints how, for tests that end the server."""
    await connected(receive)
    await send(ACCEPT)
    note(scope, "held")
    message = await receive()
    print("websocket left:", *left(message)[:2], flush=True)
    note(scope, left(message))
    await asyncio.sleep(0)


PATHS: dict[str, Application] = {
    "/ws/echo": echo,
    "/ws/gated": gated,
    "/ws/flood": flood,
    "/ws/hesitates": hesitates,
    "/ws/to-nobody": send_to_nobody,
    "/ws/subprotocol": subprotocol,
    "/ws/fields": fields,
    "/ws/closes": closes,
    "/ws/denies": denies,
    "/ws/denies-with-a-response": denies_with_a_response,
    "/ws/held": held,
    "/ws/mistake/returns-at-once": returns_at_once,
    "/ws/mistake/raises-at-once": raises_at_once,
    "/ws/mistake/raises-when-accepted": raises_when_accepted,
    "/ws/mistake/returns-when-accepted": returns_when_accepted,
    "/ws/mistake/sends-first": sending({"type": "websocket.send", "text": "too early"}),
    "/ws/mistake/accepts-twice": sending(ACCEPT, ACCEPT),
    "/ws/mistake/sends-behind-the-close": sending(
        ACCEPT, {"type": "websocket.close"}, {"type": "websocket.send", "text": "late"}
    ),
    "/ws/mistake/unknown-type": sending(ACCEPT, {"type": "websocket.dance"}),
    "/ws/mistake/http-message": sending({"type": "http.response.start", "status": 200}),
}
