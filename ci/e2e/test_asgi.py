"""ASGI through the whole server, beside what the conformance cases ask of us and of uvicorn: extensions, routing, deadlines."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Serve
from exchange import Client
from server import APPS, Server, serving, until
from wire import Connection


@pytest.fixture(scope="module")
def asgi(version: str) -> Iterator[Server]:
    with serving("asgi_app:app", version=version) as server:
        yield server


@pytest.fixture
def client(asgi: Server) -> Iterator[Client]:
    with asgi.client() as client:
        yield client


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "PROPFIND", "BREW"])
def test_every_request_is_the_applications_own(client: Client, method: str) -> None:
    for target in ("/", "/any/where/", "//x"):
        assert client.request(method, target).body == f"{method} {target}".encode()


def test_the_asterisk_too(client: Client) -> None:
    assert client.request("OPTIONS", "*").body == b"OPTIONS *"


def test_the_scope_says_which_version_it_is(asgi: Server, client: Client) -> None:
    scope = client.request("GET", "/scope%20?a=b%20c", {"host": "example.org", "x-a": "1"}).json
    assert scope["http_version"] == asgi.version.http
    assert scope["scheme"] == asgi.version.scheme
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/scope ", "/scope%20", "a=b%20c")
    assert scope["client"][0] == "127.0.0.1"
    assert scope["server"] == list(asgi.address)
    assert [pair for pair in scope["headers"] if pair[0] in ("host", "x-a")] == [["host", "example.org"], ["x-a", "1"]]
    assert not [name for name, _ in scope["headers"] if name.startswith(":")]


def test_a_file_is_sent_by_its_name(client: Client) -> None:
    whole = (APPS / "payload.py").read_bytes()
    response = client.request("GET", "/file")
    assert (response.body, response["content-length"]) == (whole, str(len(whole)))
    assert client.request("HEAD", "/file")["content-length"] == str(len(whole))
    assert client.request("GET", "/no-file").status == 500


def test_early_hints_go_ahead(client: Client) -> None:
    response = client.request("GET", "/hints")
    assert (response.interim, response.body) == ([103], b"hinted")


def test_trailers_reach_a_client_that_takes_them(client: Client) -> None:
    response = client.request("GET", "/trailers", {"te": "trailers"})
    assert (response.body, response.trailers) == (b"body", [("x-checksum", "abc")])
    response = client.request("GET", "/trailers")
    assert response.body == b"body"
    assert client.multiplexes or response.trailers == [], "over HTTP/1.1 nobody else"


def test_a_deadline_cancels_the_task(serve: Serve, version: str) -> None:
    server = serve("asgi_app:app", "--request-timeout", "1", version=version).ready()
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
