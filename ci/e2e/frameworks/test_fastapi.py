"""FastAPI."""

import hashlib
import json
from collections.abc import Iterator

import pytest
from frames import Socket, ask, close, upgrade
from frameworks.browser import Browser, brief, content, loads
from frameworks.conftest import Run
from server import Listening, until
from wire import chunked, head

PAYLOAD = bytes(range(256)) * 4096 * 8
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()


@pytest.fixture(scope="module")
def server(run: Run) -> Iterator[Listening]:
    with run("on_fastapi:app", "asgi") as server:
        yield server
    assert "the shop is closed" in server.out.text


def test_models_paths_and_queries(browser: Browser) -> None:
    made = browser.post_json("/items", {"name": "tea", "price": 2.5, "tags": ["hot", "hot"]})
    assert made.status == 201
    stored = made.json
    assert stored == {"id": stored["id"], "name": "tea", "price": 2.5, "tags": ["hot"]}
    assert browser.json(f"/items/{stored['id']}") == stored
    assert browser.json(f"/items/{stored['id']}?fields=name&fields=price") == {"name": "tea", "price": 2.5}


def test_validation(browser: Browser) -> None:
    response = browser.post_json("/items", {"name": "", "price": -1})
    assert response.status == 422
    assert [error["loc"] for error in response.json["detail"]] == [["body", "name"], ["body", "price"]]
    assert browser.get("/items/many").status == 422


def test_exception_handlers(browser: Browser) -> None:
    response = browser.get("/items/999")
    assert (response.status, response.json) == (418, {"out_of_stock": 999, "path": "/items/999"})
    assert browser.get("/nowhere").json == {"detail": "Not Found"}
    response = browser.request("DELETE", "/items/1")
    assert (response.status, response["allow"]) == (405, "GET")


def test_an_unhandled_exception_is_500_and_a_traceback(browser: Browser) -> None:
    response = browser.get("/fails")
    assert (response.status, response.body) == (500, b"Internal Server Error")
    browser.server.log.wait("RuntimeError: broken on purpose")
    assert browser.get("/sync/1").status == 200


def test_dependencies_with_yield(browser: Browser) -> None:
    assert browser.json("/session") == {"session": "session in a thread"}
    until("it is closed", lambda: browser.json("/events")[-2:] == ["open", "close"])
    assert browser.get("/session/fails").json == {"detail": "session failed"}
    until("it is closed", lambda: browser.json("/events")[-3:] == ["open", "rolled back: 409", "close"])


def test_security_and_cookies(browser: Browser) -> None:
    response = browser.get("/me")
    assert (response.status, response["www-authenticate"]) == (401, "Bearer")
    for visits in range(3):
        assert browser.get("/me", authorization="Bearer secret").json == {"name": "admin", "visits": visits}


def test_synchronous_handlers_run_in_threads(browser: Browser) -> None:
    assert browser.json("/sync/7") == {"number": 7, "main": False}


def test_background_tasks(browser: Browser) -> None:
    assert browser.post_form("/signup", {"mail": "a@test"}).json == {"mail": "a@test"}
    until("both are sent", lambda: browser.json("/outbox")[-2:] == ["welcome a@test", "bill for a@test"])


def test_uploads(browser: Browser) -> None:
    files = [("files", ("a.bin", "application/octet-stream", PAYLOAD)), ("files", ("ž.txt", "text/plain", b"small"))]
    found = loads(browser.post_files("/upload", {"title": "two", "note": "ů"}, files))
    assert (found["title"], found["note"]) == ("two", "ů")
    first, second = found["files"]
    assert first == {"name": "a.bin", "type": "application/octet-stream", "size": len(PAYLOAD), "sha256": SHA256}
    assert (second["name"], second["size"]) == ("ž.txt", 5)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_streamed_request(server: Listening, framing: str) -> None:
    with server.connect() as connection:
        if framing == "length":
            connection.send(head("POST", "/digest", {"content-length": str(len(PAYLOAD))}) + PAYLOAD)
        else:
            pieces = [PAYLOAD[at : at + 100_000] for at in range(0, len(PAYLOAD), 100_000)]
            connection.send(head("POST", "/digest", {"transfer-encoding": "chunked"}) + chunked(*pieces))
        assert connection.response().json == {"size": len(PAYLOAD), "sha256": SHA256}


def test_streamed_responses(browser: Browser) -> None:
    response = browser.get("/export?rows=1000")
    assert response["content-disposition"] == 'attachment; filename="items.csv"'
    assert response.body.splitlines() == [b"id,name", *(b"%d,item %d" % (row, row) for row in range(1000))]
    response = browser.get("/ticks")
    assert response["content-type"].startswith("text/event-stream")
    assert response.body.count(b"data: tick\n\n") == 3


def test_files(browser: Browser) -> None:
    response = browser.get("/source")
    assert response["content-length"] == str(len(response.body))
    assert response.body.startswith(b'"""FastAPI: a shop')
    part = browser.get("/source", range="bytes=3-9")
    assert (part.status, part.body) == (206, b"FastAPI")
    again = browser.get("/source", if_range=response["etag"], range="bytes=0-2")
    assert (again.status, again.body) == (206, b'"""')


def test_middleware(browser: Browser) -> None:
    response = browser.get("/large", accept_encoding="gzip", origin="https://shop.test")
    assert response["content-encoding"] == "gzip"
    assert json.loads(content(response))["numbers"][-1] == 1999
    assert response["x-seen-by"] == "middleware of shop"
    assert response["access-control-allow-origin"] == "https://shop.test"
    fields = {"origin": "https://shop.test", "access-control-request-method": "POST"}
    assert browser.request("OPTIONS", "/items", fields=fields).status == 200


def test_openapi_and_docs(browser: Browser) -> None:
    schema = browser.json("/openapi.json")
    assert schema["info"] == {"title": "Shop", "version": "1.2.3"}
    assert {"/items", "/items/{item_id}", "/upload", "/signup"} <= set(schema["paths"])
    for page in ("/docs", "/redoc"):
        response = browser.get(page)
        assert response["content-type"].startswith("text/html")
        assert b"Shop" in response.body


def test_a_slash_too_many_is_redirected(browser: Browser) -> None:
    response = browser.get("/items/1/", host="shop.test")
    assert (response.status, response["location"]) == (307, "http://shop.test/items/1")


def receive(socket: Socket) -> object:
    return json.loads(socket.message().text)


def test_a_chat(browser: Browser, server: Listening) -> None:
    with server.connect() as one, server.connect() as two:
        ann = upgrade(one, "/chat/kitchen?name=ann", {"sec-websocket-protocol": "chat, other"})
        bob = upgrade(two, "/chat/kitchen?name=bob")
        assert (ann.response["sec-websocket-protocol"], bob.response.all("sec-websocket-protocol")) == ("chat", [])
        bob.text('{"ping": 1}')
        assert receive(bob) == {"from": "bob", "room": "kitchen", "ping": 1}
        assert receive(ann) == {"from": "bob", "room": "kitchen", "ping": 1}
        bob.send(close(1001))
        assert bob.frame().code == 1001
        until("bob has left", lambda: "bob left with 1001" in browser.json("/events"))
        ann.text('{"alone": true}')
        assert receive(ann) == {"from": "ann", "room": "kitchen", "alone": True}


def test_a_socket_that_is_refused(server: Listening) -> None:
    with server.connect() as connection:
        _, response = ask(connection, "/chat/kitchen")
    assert response.status == 403, brief(response)
