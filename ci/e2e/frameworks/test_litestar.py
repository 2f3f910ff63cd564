"""Litestar."""

import hashlib
import json
from collections.abc import Iterator

import pytest
from frames import BINARY, Frame, close, upgrade
from frameworks.browser import Browser
from frameworks.conftest import Run
from server import Listening, until

PAYLOAD = bytes(range(256)) * 8192


@pytest.fixture(scope="module")
def server(run: Run) -> Iterator[Listening]:
    with run("on_litestar:app", "asgi") as server:
        yield server
    assert "litestar is over" in server.out.text


def test_controllers_and_dependencies(browser: Browser) -> None:
    assert browser.json("/books?page=3") == {"connection": "connection", "page": 3, "started": True}
    until("the dependency is over", lambda: browser.json("/log")[-2:] == ["open", "close"])
    response = browser.post_json("/books", {"title": "the hobbit", "pages": 310})
    assert (response.status, response.json) == (201, {"title": "The Hobbit", "pages": 310})
    assert browser.post_json("/books/4", {"title": "x", "pages": 1}, method="PUT").json == {"id": 4, "title": "x"}


def test_errors(browser: Browser) -> None:
    response = browser.post_json("/books", {"title": "x", "pages": "many"})
    assert (response.status, response.json["extra"][0]["key"]) == (400, "pages")
    response = browser.post_json("/books/0", {"title": "x", "pages": 1}, method="PUT")
    assert (response.status, response.json["detail"]) == (409, "zero is taken")
    assert browser.get("/nowhere").status == 404
    assert browser.get("/fails").status == 500
    browser.server.log.wait("RuntimeError: broken on purpose")


def test_uploads_and_streamed_requests(browser: Browser) -> None:
    files = [("one", ("a.bin", "application/octet-stream", PAYLOAD)), ("two", ("b.txt", "text/plain", b"small"))]
    response = browser.post_files("/upload", {}, files)
    assert response.status == 201
    assert response.json["one"] == {"name": "a.bin", "size": len(PAYLOAD), "sha256": hashlib.sha256(PAYLOAD).hexdigest()}
    assert response.json["two"]["size"] == 5
    assert browser.request("POST", "/raw", PAYLOAD).json == {"size": len(PAYLOAD)}


def test_streams(browser: Browser) -> None:
    assert browser.get("/stream?count=3000").body == b"".join(b"%d\n" % number for number in range(3000))
    response = browser.get("/events")
    assert response["content-type"].startswith("text/event-stream")
    assert b"data: one" in response.body
    assert b"data: two" in response.body


def test_threads_and_tasks(browser: Browser) -> None:
    assert browser.json("/thread") == {"from": "a thread"}
    assert browser.get("/task?name=one").status == 200
    until("it is done", lambda: "task one" in browser.json("/log"))


def test_the_schema(browser: Browser) -> None:
    schema = json.loads(browser.get("/schema/openapi.json").body)
    assert {"/books", "/books/{book_id}", "/upload"} <= set(schema["paths"])


def test_websockets(browser: Browser, server: Listening) -> None:
    with server.connect() as one, server.connect() as two:
        shout, count = upgrade(one, "/shout"), upgrade(two, "/count", {"sec-websocket-protocol": "count"})
        assert count.response["sec-websocket-protocol"] == "count"
        shout.text('{"text": "hey"}')
        assert json.loads(shout.message().text) == {"shouted": "HEY"}
        count.send(Frame(BINARY, bytes(70_000)))
        assert count.message().payload == (70_000).to_bytes(4, "big")
        count.send(close(4000))
        assert count.frame().code == 4000
    until("it is told", lambda: "websocket 4000" in browser.json("/log"))
