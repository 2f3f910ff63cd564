"""httpbin, a finished Flask application, over WSGI."""

import base64
import gzip
import zlib
from collections.abc import Iterator

import pytest
from frameworks.browser import Browser
from frameworks.conftest import Run
from server import Listening
from wire import chunked, head


@pytest.fixture(scope="module")
def server(run: Run) -> Iterator[Listening]:
    with run("httpbin:app", "wsgi") as server:
        yield server


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_methods(browser: Browser, method: str) -> None:
    body = b"" if method == "GET" else b"a=1&b=two"
    fields = {"content-type": "application/x-www-form-urlencoded", "host": "site.test"}
    found = browser.request(method, f"/{method.lower()}?q=%C5%BE", body, fields).json
    assert (found["args"], found["url"]) == ({"q": "ž"}, f"http://site.test/{method.lower()}?q=ž")
    assert found.get("form", {}) == ({"a": "1", "b": "two"} if body else {})


def test_anything(browser: Browser) -> None:
    found = browser.post_files(
        "/anything/x", {"name": "value"}, [("file", ("a.bin", "application/octet-stream", b"\0\xff"))]
    ).json
    assert (found["form"], found["method"]) == ({"name": "value"}, "POST")
    assert base64.b64decode(found["files"]["file"].partition(",")[2]) == b"\0\xff"
    assert browser.post_json("/anything", {"a": [1]}).json["json"] == {"a": [1]}


def test_a_chunked_body(server: Listening) -> None:
    with server.connect() as connection:
        connection.send(head("POST", "/post", {"transfer-encoding": "chunked"}) + chunked(b"one", b"two"))
        assert connection.response().json["data"] == "onetwo"


@pytest.mark.parametrize("status", [200, 204, 304, 400, 404, 418, 503])
def test_statuses(browser: Browser, status: int) -> None:
    assert browser.get(f"/status/{status}").status == status
    assert browser.get("/get").status == 200


def test_headers_and_clients(browser: Browser) -> None:
    assert browser.get("/headers", x_test="1").json["headers"]["X-Test"] == "1"
    assert browser.json("/ip") == {"origin": "127.0.0.1"}
    assert browser.get("/user-agent", user_agent="test/1").json == {"user-agent": "test/1"}
    assert browser.get("/response-headers?x-a=1&x-a=2").all("x-a") == ["1", "2"]


def test_encodings(browser: Browser) -> None:
    assert b'"gzipped": true' in gzip.decompress(browser.get("/gzip").body)
    assert b'"deflated": true' in zlib.decompress(browser.get("/deflate").body)
    assert browser.get("/brotli")["content-encoding"] == "br"
    assert "∮ E⋅da = Q" in browser.get("/encoding/utf8").body.decode()


def test_redirects(browser: Browser) -> None:
    target = "/redirect/3"
    for _ in range(3):
        response = browser.get(target)
        assert response.status == 302
        target = response["location"]
    assert target == "/get"


def test_cookies(browser: Browser) -> None:
    browser.get("/cookies/set?one=1&two=2")
    assert browser.json("/cookies") == {"cookies": {"one": "1", "two": "2"}}
    browser.get("/cookies/delete?one")
    assert browser.json("/cookies") == {"cookies": {"two": "2"}}


def test_authentication(browser: Browser) -> None:
    response = browser.get("/basic-auth/ann/secret")
    assert (response.status, response["www-authenticate"]) == (401, 'Basic realm="Fake Realm"')
    token = base64.b64encode(b"ann:secret").decode()
    assert browser.get("/basic-auth/ann/secret", authorization=f"Basic {token}").json == {"authenticated": True, "user": "ann"}


def test_streams(browser: Browser) -> None:
    assert len(browser.get("/stream/20").body.splitlines()) == 20
    first, again = browser.get("/stream-bytes/100000?seed=1&chunk_size=1000"), browser.get("/bytes/100000?seed=1")
    assert (len(first.body), len(again.body)) == (100_000, 100_000)
    assert browser.get("/drip?duration=0.2&numbytes=5&delay=0").body == b"*****"
    assert browser.get("/delay/0.1").status == 200


def test_ranges_and_caches(browser: Browser) -> None:
    part = browser.get("/range/1024", range="bytes=1000-")
    assert (part.status, part["content-range"], len(part.body)) == (206, "bytes 1000-1023/1024", 24)
    assert browser.get("/etag/x", if_none_match="x").status == 304
    assert browser.get("/cache", if_modified_since="x").status == 304


def test_pages_and_images(browser: Browser) -> None:
    assert browser.get("/image/png").body.startswith(b"\x89PNG")
    assert browser.get("/html").body.count(b"Moby-Dick") > 0
    assert browser.get("/")["content-type"].startswith("text/html")
    assert browser.request("HEAD", "/image/png").body == b""
