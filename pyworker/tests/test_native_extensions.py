"""Extensions of ASGI's HTTP on the native side: early hints and trailers. (Files by name are in test_native_asgi.py.)"""

import asyncio
from typing import Any

import pytest

_native = pytest.importorskip("fasterapi._native")
if not hasattr(_native, "EdgeSide"):
    pytest.skip("built without the feature `testing`", allow_module_level=True)

from native_world import World, world  # noqa: E402

START = {"type": "http.response.start", "status": 200, "headers": []}
PROMISING = {**START, "trailers": True}
HINT = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload", b"</b.js>; rel=preload"]}


def body(data: bytes = b"", more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def trailers(*fields: tuple[bytes, bytes], more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.trailers", "headers": fields, "more_trailers": more}


def asked(w: World) -> list[tuple[Any, ...]]:
    """What the edge got for one request: kinds, and what distinguishes them."""
    ident = w.ask("x")
    w.answer(ident)
    return [(message[0], *message[2:]) for message in w.seen[ident]]


def sending(*messages: dict[str, Any], wait: bool = False) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)
            if wait:
                await asyncio.sleep(0)

    return _native.AsgiEndpoint(app)


@pytest.mark.parametrize("wait", [False, True])
def test_trailers_end_the_response(wait: bool) -> None:
    messages = (PROMISING, body(b"ab", more=True), body(b"c"), trailers((b"X-Sum", b"6"), more=True), trailers((b"x-b", b"2")))
    with world({"x": sending(*messages, wait=wait)}) as w:
        first, *middle, last = asked(w)
    assert first == ("response", 200, [], b"ab", None, False)
    assert middle == [("body", b"c", False)]
    assert last == ("trailers", 0, [(b"x-sum", b"6"), (b"x-b", b"2")], b"", None, True)


def test_trailers_wait_for_the_credit_that_the_body_needs() -> None:
    size = 3 * 1024 * 1024
    with world({"x": sending(PROMISING, body(bytes(size)), trailers((b"x-a", b"1")))}) as w:
        answers = asked(w)
        (ident,) = w.seen
        assert len(w.bodies[ident]) == size
    assert [answer[0] for answer in answers].count("trailers") == 1
    assert answers[-1][0] == "trailers"


def test_a_response_that_promised_trailers_is_not_whole_without_them() -> None:
    with world({"x": sending(PROMISING, body(b"a", more=True), body(), wait=True)}) as w:
        assert asked(w)[-1] == ("abort",)


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ((START, body(b"a", more=True), trailers()), "Expected ASGI message 'http.response.body'"),
        ((PROMISING, body(b"a"), body(b"b")), "Expected ASGI message 'http.response.trailers'"),
        ((PROMISING, body(b"a", more=True), trailers()), "Expected ASGI message 'http.response.body'"),
        ((PROMISING, body(b"a"), trailers((b"x", b"1\r\ny: 2"))), "line break"),
        ((START, body(b"a", more=True), HINT), "Expected ASGI message 'http.response.body'"),
        (({**HINT, "links": ["text"]},), "a link is a byte string"),
    ],
)
def test_mistakes_are_refused(messages: tuple[dict[str, Any], ...], error: str) -> None:
    refused: list[BaseException] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        *right, wrong = messages
        for message in right:
            await send(message)
        try:
            await send(wrong)
        except (RuntimeError, TypeError, ValueError) as raised:
            refused.append(raised)

    with world({"x": _native.AsgiEndpoint(app)}) as w:
        asked(w)
        w.errors.clear()
    assert error in str(refused[0])


@pytest.mark.parametrize("messages", [(HINT, START, body(b"a")), (START, HINT, body(b"a"))])
def test_hints_go_ahead_of_the_response(messages: tuple[dict[str, Any], ...]) -> None:
    with world({"x": sending(*messages)}) as w:
        hint, response = asked(w)
    links = [(b"link", b"</a.css>; rel=preload"), (b"link", b"</b.js>; rel=preload")]
    assert hint == ("informational", 103, links, b"", None, False)
    assert response == ("response", 200, [], b"a", 1, True)
