"""ASGI through the whole server, beside what the conformance cases ask of us and of uvicorn: extensions, routing, deadlines."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Serve
from server import APPS, Server, serving, until
from wire import Connection, head


@pytest.fixture(scope="module")
def asgi() -> Iterator[Server]:
    with serving("asgi_app:app") as server:
        yield server


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "PROPFIND", "BREW"])
def test_every_request_is_the_applications_own(asgi: Server, method: str) -> None:
    with asgi.connect() as connection:
        for target in ("/", "/any/where/", "//x"):
            assert connection.request(method, target).body == f"{method} {target}".encode()


def test_the_asterisk_too(asgi: Server) -> None:
    with asgi.connect() as connection:
        assert connection.request("OPTIONS", "*").body == b"OPTIONS *"


def test_a_file_is_sent_by_its_name(asgi: Server) -> None:
    whole = (APPS / "payload.py").read_bytes()
    with asgi.connect() as connection:
        response = connection.request("GET", "/file")
        assert (response.body, response["content-length"]) == (whole, str(len(whole)))
        assert connection.request("HEAD", "/file")["content-length"] == str(len(whole))
        assert connection.request("GET", "/no-file").status == 500


def test_early_hints_go_ahead(asgi: Server) -> None:
    with asgi.connect() as connection:
        response = connection.request("GET", "/hints")
        assert (response.interim, response.body) == ([103], b"hinted")


def test_trailers_reach_a_client_that_takes_them(asgi: Server) -> None:
    with asgi.connect() as connection:
        connection.send(head("GET", "/trailers", {"te": "trailers", "connection": "te"}))
        received = b""
        while not received.endswith(b"x-checksum: abc\r\n\r\n"):
            received += connection.exactly(1)
        assert received.endswith(b"4\r\nbody\r\n0\r\nx-checksum: abc\r\n\r\n")
        assert connection.request("GET", "/trailers").body == b"body", "and nobody else"


def test_a_deadline_cancels_the_task(serve: Serve) -> None:
    server = serve("asgi_app:app", "--request-timeout", "1").ready()
    assert server.get("/sleep").status == 504
    until("the task is cancelled", lambda: server.get("/log").body == b"begun,cancelled")


def test_a_proxy_may_have_put_it_elsewhere(serve: Serve) -> None:
    assert serve("asgi_app:app", "--root-path", "/api/").ready().get("/x").body == b"GET /api/x"


def test_what_is_not_an_application_is_said_at_the_start(serve: Serve) -> None:
    server = serve("asgi_app:log", "--interface", "asgi")
    server.finish(1)
    assert "not ASGI's kind of application" in server.log.text


def test_a_unix_socket(serve: Serve, tmp_path: Path) -> None:
    server = serve("asgi_app:app", uds=tmp_path / "socket").ready()
    with Connection(str(tmp_path / "socket")) as connection:
        assert connection.request("GET", "/x").body == b"GET /x"
    assert server.process.poll() is None
