"""Starlette."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from frames import BINARY, Frame, close, upgrade
from frameworks.browser import Browser, content
from frameworks.conftest import Run
from server import Listening, until

LARGE = bytes(range(251)) * 50_000


@pytest.fixture(scope="module")
def server(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    files = tmp_path_factory.mktemp("files")
    (files / "large.bin").write_bytes(LARGE)
    (files / "style.css").write_text("p { margin: 0 }\n" * 100)
    (files / "index.html").write_text("<h1>static</h1>")
    (Path(files) / "empty.txt").touch()
    with run("on_starlette:app", "asgi", {"STATIC_FILES": str(files)}) as server:
        yield server


def test_static_files(browser: Browser) -> None:
    response = browser.get("/static/style.css")
    assert response["content-type"].startswith("text/css")
    assert response.body == b"p { margin: 0 }\n" * 100
    same = browser.get("/static/style.css", if_none_match=response["etag"])
    assert (same.status, same.body, same["etag"]) == (304, b"", response["etag"])
    assert browser.get("/static/style.css", if_modified_since=response["last-modified"]).status == 304
    assert browser.get("/static/").body == b"<h1>static</h1>"
    assert browser.get("/static/empty.txt").body == b""
    assert browser.get("/static/../on_starlette.py").status == 404


@pytest.mark.parametrize("target", ["/static/large.bin", "/download"])
def test_large_files_whole_and_in_parts(browser: Browser, target: str) -> None:
    whole = browser.get(target)
    assert (whole["content-length"], whole["accept-ranges"]) == (str(len(LARGE)), "bytes")
    assert whole.body == LARGE
    assert browser.request("HEAD", target)["content-length"] == str(len(LARGE))
    part = browser.get(target, range=f"bytes=1000000-{len(LARGE) - 2}")
    assert (part.status, part["content-range"]) == (206, f"bytes 1000000-{len(LARGE) - 2}/{len(LARGE)}")
    assert part.body == LARGE[1_000_000:-1]
    parts = browser.get(target, range="bytes=0-9, 100-109")
    assert parts.status == 206
    assert parts["content-type"].startswith("multipart/byteranges")
    assert browser.get(target, range=f"bytes={len(LARGE)}-").status == 416


def test_sessions(browser: Browser) -> None:
    assert browser.get("/home").status == 403
    response = browser.post_form("/login", {"user": "ann"}, host="site.test")
    assert (response.status, response["location"]) == (303, "http://site.test/home")
    assert [browser.json("/home")["visits"] for _ in range(3)] == [1, 2, 3]
    assert browser.json("/home") == {"user": "ann", "visits": 4, "seen": "by the middleware"}
    browser.get("/logout")
    assert browser.get("/home").status == 403


def test_middleware_and_compression(browser: Browser, maker: str) -> None:
    """A file that Starlette leaves to the server (http.response.pathsend) passes its compression by."""
    plain = browser.get("/static/style.css")
    packed = browser.get("/static/style.css", accept_encoding="gzip")
    assert packed["x-timing"] == "taken"
    assert packed.all("content-encoding") == (["gzip"] if maker == "reference" else [])
    assert content(packed) == plain.body
    streamed = browser.get("/numbers?count=2000", accept_encoding="gzip")
    assert (streamed["content-encoding"], streamed["x-timing"]) == ("gzip", "taken")
    assert "Accept-Encoding" in streamed["vary"]
    assert content(streamed) == browser.get("/numbers?count=2000").body


def test_templates(browser: Browser) -> None:
    page = browser.get("/").body.decode()
    assert "<title>&lt;Starlette&gt;</title>" in page
    assert "<li>one</li><li>two</li>" in page


def test_routing(browser: Browser) -> None:
    assert browser.get("/items/7").body == b"item 7"
    response = browser.post_json("/api/items/8", {"a": 1}, method="PUT")
    assert (response.status, response.json) == (201, {"id": 8, "body": {"a": 1}})
    assert browser.get("/items/x").body == b"a page of our own"
    assert browser.request("POST", "/items/7").status == 405


def test_urls_are_the_clients(browser: Browser) -> None:
    found = browser.get("/urls?a=%20", host="site.test:81").json
    assert found == {
        "url": "http://site.test:81/urls?a=%20",
        "base": "http://site.test:81/",
        "home": "http://site.test:81/home",
    }
    mounted = browser.get("/api/urls", host="site.test").json
    assert (mounted["url"], mounted["home"]) == ("http://site.test/api/urls", "http://site.test/home")


def test_uploads(browser: Browser) -> None:
    response = browser.post_files("/upload", {}, [("file", ("large.bin", "application/octet-stream", LARGE))])
    assert response.json == {"name": "large.bin", "size": len(LARGE), "sha256": hashlib.sha256(LARGE).hexdigest()}


def test_background_tasks(browser: Browser) -> None:
    assert browser.get("/task?name=one").body == b"accepted"
    until("it is done", lambda: "one" in browser.json("/tasks"))


def test_a_websocket(browser: Browser, server: Listening) -> None:
    with server.connect() as connection:
        socket = upgrade(connection, "/echo")
        socket.send(Frame(BINARY, b"abc"), Frame(BINARY, b"\0\1"))
        assert [socket.message().payload, socket.message().payload] == [b"cba", b"\1\0"]
        socket.text("not bytes")
        assert socket.frame().code == 1003
        socket.send(close(1003))
    until("it is told", lambda: "websocket 1011" in browser.json("/tasks"))
