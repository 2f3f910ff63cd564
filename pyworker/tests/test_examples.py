"""The examples answer as their own text says."""

import sys
from pathlib import Path
from typing import Any

import pytest

from fakes import Edge
from fasterapi._lifespan import running
from fasterapi._load import load_app

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def test_hello(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    monkeypatch.setattr(sys, "path", sys.path[:])
    app = load_app("hello:app", str(EXAMPLES))
    edge = Edge(app)

    async def go() -> list[Any]:
        json = [("content-type", "application/json")]
        async with running(app):
            return [
                await edge.exchange("GET", "/", [], b""),
                await edge.exchange("GET", "/user/7", [], b""),
                await edge.exchange("GET", "/items?limit=2&tag=red", [], b""),
                await edge.exchange("POST", "/items", json, b'{"name": "lamp", "price": 19.5}'),
                await edge.exchange("POST", "/items", json, b'{"name": "chair", "price": 3}'),
                await edge.exchange("GET", "/primes/100", [], b""),
            ]

    assert [(status, body) for status, _, body in asyncio.run(go())] == [
        (200, b'{"message":"Hello from FasterAPI"}'),
        (200, b'{"user_id":7,"name":"User 7"}'),
        (200, b'[{"name":"lamp","price":19.5,"tags":["red"]}]'),
        (409, b'{"detail":"there is a lamp already"}'),
        (201, b'{"name":"chair","price":3.0,"tags":[]}'),
        (200, b'{"below":100,"count":25}'),
    ]
