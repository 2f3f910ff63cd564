"""Flask, as the WSGI application that it is."""

import hashlib
import threading
from collections.abc import Iterator

import pytest
from frameworks.browser import Browser
from frameworks.conftest import Run
from server import Listening, until
from wire import Malformed, chunked, head

PAYLOAD = bytes(range(256)) * 8192 * 4


@pytest.fixture(scope="module")
def server(run: Run) -> Iterator[Listening]:
    with run("on_flask:app", "wsgi") as server:
        yield server


def test_the_environ(browser: Browser) -> None:
    """PEP 3333 and the CGI variables that it wants."""
    response = browser.post_form("/environ", {})
    assert response.status == 405
    found = browser.get("/environ?a=%20b", x_two_words="1, 2", host="site.test:81").json
    expected = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/environ",
        "QUERY_STRING": "a=%20b",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "site.test:81",
        "HTTP_X_TWO_WORDS": "1, 2",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.url_scheme": "http",
        "wsgi.version": [1, 0],
        "wsgi.multithread": True,
        "wsgi.run_once": False,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert {"SERVER_NAME", "SERVER_PORT", "wsgi.input", "wsgi.errors", "wsgi.multiprocess"} <= set(found)


def test_blueprints_and_urls(browser: Browser) -> None:
    found = browser.get("/shop/items/7", host="site.test").json
    assert found == {"item": 7, "url": "/shop/items/7", "external": "http://site.test/shop/items/7"}
    response = browser.get("/shop/items/700")
    assert (response.status, response.json) == (404, {"missing": "/shop/items/700"})
    assert browser.get("/%E2%82%AC").json == {"missing": "/€"}
    assert response["x-seen"] == "before,after"


def test_sessions(browser: Browser) -> None:
    assert browser.get("/home").status == 401
    response = browser.post_form("/login", {"user": "ann ž"})
    assert (response.status, response["location"]) == (302, "/home")
    assert browser.json("/home") == {"user": "ann ž", "messages": ["welcome ann ž"]}
    assert browser.json("/home")["messages"] == []


def test_uploads(browser: Browser) -> None:
    files = [("file", ("a.bin", "application/octet-stream", PAYLOAD)), ("file", ("b.txt", "text/plain", b"small"))]
    found = browser.post_files("/upload", {"title": "two"}, files).json
    assert found["title"] == "two"
    assert found["files"][0] == {"name": "a.bin", "size": len(PAYLOAD), "sha256": hashlib.sha256(PAYLOAD).hexdigest()}
    assert found["files"][1]["size"] == 5


def test_a_body_that_is_too_large_is_413(browser: Browser) -> None:
    with browser.server.connect() as connection:
        connection.send(head("POST", "/raw", {"content-length": str(64 * 1024 * 1024), "expect": "100-continue"}))
        assert connection.response().status == 413


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_streamed_request(server: Listening, framing: str) -> None:
    with server.connect() as connection:
        if framing == "length":
            connection.send(head("POST", "/raw", {"content-length": str(len(PAYLOAD))}) + PAYLOAD)
        else:
            pieces = [PAYLOAD[at : at + 100_000] for at in range(0, len(PAYLOAD), 100_000)]
            connection.send(head("POST", "/raw", {"transfer-encoding": "chunked"}) + chunked(*pieces))
        assert connection.response().json == {"size": len(PAYLOAD), "sha256": hashlib.sha256(PAYLOAD).hexdigest()}
        assert connection.request("POST", "/lines", body=b"one\ntwo\nend").json == ["one\n", "two\n", "end"]


def test_streamed_responses(browser: Browser) -> None:
    response = browser.get("/stream/3000")
    assert response.body == b"".join(b"%d of /stream/3000\n" % number for number in range(3000))
    assert len(browser.get("/large").body) == 10_000_000


def test_a_response_that_breaks_is_not_passed_off_as_whole(server: Listening) -> None:
    with server.connect() as connection:
        connection.ask("GET", "/breaks")
        with pytest.raises(Malformed):
            connection.response()
    server.log.wait("broken in the body, on purpose")


def test_files(browser: Browser) -> None:
    response = browser.get("/file")
    assert response.body.startswith(b'"""Flask: blueprints')
    assert response["content-disposition"] == "attachment; filename=app.py"
    assert browser.get("/file", if_none_match=response["etag"]).status == 304
    part = browser.get("/file", range="bytes=3-7")
    assert (part.status, part.body) == (206, b"Flask")
    assert browser.get("/memory-file").body == bytes(range(256)) * 4096
    assert browser.request("HEAD", "/file")["content-length"] == response["content-length"]


def test_errors(browser: Browser) -> None:
    assert browser.get("/fails").status == 500
    browser.server.log.wait("RuntimeError: broken on purpose")
    assert any(line.startswith("torn down /fails broken on purpose") for line in browser.json("/log"))


def test_threads_run_side_by_side(server: Listening) -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda: found.append(server.get("/together").json["place"])) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [0, 1]


def test_an_iterable_is_closed_when_its_client_leaves(browser: Browser) -> None:
    with browser.server.connect() as connection:
        connection.ask("GET", "/closes")
        connection.exactly(100_000)
    until("it is closed", lambda: "closed" in browser.json("/log"))
