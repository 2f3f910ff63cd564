"""Quart."""

import hashlib
from collections.abc import Iterator

import pytest
from frames import BINARY, Frame, ask, close, upgrade
from frameworks.browser import Browser
from frameworks.conftest import Run
from server import Listening, until

PAYLOAD = bytes(range(256)) * 8192


@pytest.fixture(scope="module")
def server(run: Run) -> Iterator[Listening]:
    with run("on_quart:app", "asgi") as server:
        yield server
    assert "quart is over" in server.out.text


def test_routes(browser: Browser) -> None:
    found = browser.get("/hello/%C5%BEofie?a=1&a=2", user_agent="test/1").json
    assert found == {"hello": "žofie", "query": {"a": ["1", "2"]}, "agent": "test/1"}
    assert browser.get("/nowhere").status == 404
    assert browser.json("/log")[0] == "serving"


def test_sessions(browser: Browser) -> None:
    assert (browser.get("/home").status, browser.get("/home").body) == (403, b"log in first")
    response = browser.post_form("/login", {"user": "ann"})
    assert (response.status, response["location"]) == (302, "/home")
    assert browser.get("/home").body == b"ann"


def test_uploads_and_streamed_requests(browser: Browser) -> None:
    response = browser.post_files("/upload", {"title": "one"}, [("file", ("a.bin", "application/octet-stream", PAYLOAD))])
    expected = {"name": "a.bin", "size": len(PAYLOAD), "sha256": hashlib.sha256(PAYLOAD).hexdigest(), "form": {"title": "one"}}
    assert response.json == expected
    assert browser.request("POST", "/raw", PAYLOAD).json == {"size": len(PAYLOAD)}


def test_streams(browser: Browser) -> None:
    assert browser.get("/stream/3000").body == b"".join(b"%d\n" % number for number in range(3000))
    assert browser.get("/events").body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


def test_threads_tasks_and_errors(browser: Browser) -> None:
    assert browser.json("/thread") == {"from": "a thread"}
    browser.get("/task/one")
    until("it is done", lambda: "task one" in browser.json("/log"))
    assert browser.get("/fails").status == 500
    browser.server.log.wait("RuntimeError: broken on purpose")


def test_a_websocket(browser: Browser, server: Listening) -> None:
    with server.connect() as connection:
        socket = upgrade(connection, "/ws?who=ann")
        assert socket.response["x-quart"] == "yes"
        socket.text("hello")
        assert socket.message().text == "ann: hello"
        socket.send(Frame(BINARY, bytes(100_000)))
        assert socket.message() == Frame(BINARY, bytes(100_000))
        socket.send(close(1000))
        assert socket.frame().code == 1000
    until("its task is cancelled", lambda: "websocket over" in browser.json("/log"))


def test_a_websocket_that_is_refused(server: Listening) -> None:
    with server.connect() as connection:
        _, response = ask(connection, "/ws/refused")
    assert response.status == 401
