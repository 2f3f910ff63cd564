"""The scope of an HTTP request: every key, its type, and how the bytes of the request become it."""

from pathlib import Path
from typing import Any

import pytest
from conformance.asking import APP, Kind, Start
from conformance.differences import side
from server import Listening
from wire import head


def described(server: Listening, target: str, **fields: str) -> dict[str, Any]:
    response = server.get(target, **fields)
    assert response.status == 200, response
    found: dict[str, Any] = response.json
    return found


def scope(server: Listening, target: str, **fields: str) -> dict[str, Any]:
    found: dict[str, Any] = described(server, target, **fields)["scope"]
    return found


def raw(text: str) -> dict[str, str]:
    """Bytes, as the application shows them."""
    return {"bytes": text}


REQUIRED = {
    "type": "str",
    "asgi": "dict",
    "http_version": "str",
    "method": "str",
    "scheme": "str",
    "path": "str",
    "raw_path": "bytes",
    "query_string": "bytes",
    "root_path": "str",
    "state": "dict",
}


def test_every_key_and_its_type(server: Listening) -> None:
    types = described(server, "/anywhere")["types"]
    assert {key: types.get(key) for key in REQUIRED} == REQUIRED
    assert types["headers"] in ("list", "tuple")
    assert types["client"] in ("list", "tuple")
    assert types["server"] in ("list", "tuple")
    assert set(types) <= {*REQUIRED, "headers", "client", "server", "extensions"}


def test_the_plain_ones(server: Listening) -> None:
    found = scope(server, "/anywhere")
    plain = {key: found[key] for key in ("type", "http_version", "method", "scheme", "root_path")}
    assert plain == {"type": "http", "http_version": "1.1", "method": "GET", "scheme": "http", "root_path": ""}
    assert found["asgi"]["version"] == "3.0"


def test_the_revision_and_its_extensions(server: Listening, kind: Kind) -> None:
    found = scope(server, "/anywhere")
    assert found["asgi"]["spec_version"] == side(kind, "http spec_version")
    extensions = found.get("extensions")
    assert (sorted(extensions) if extensions is not None else None) == side(kind, "http extensions")


def test_client_and_server_are_the_two_ends(server: Listening) -> None:
    with server.connect() as connection:
        response = connection.request("GET", "/anywhere")
        here, there = connection.socket.getsockname(), connection.socket.getpeername()
    found = response.json["scope"]
    assert (found["client"], found["server"]) == (list(here), list(there))


@pytest.mark.parametrize(
    ("forwarded_for", "proto", "client", "scheme"),
    [
        ("203.0.113.7", "https", ["203.0.113.7", 0], "https"),
        ("6.6.6.6, 203.0.113.7, 127.0.0.1", "http", ["203.0.113.7", 0], "http"),
        ("127.0.0.1", "https", ["127.0.0.1", 0], "https"),
        ("203.0.113.7:8080", "gopher", ["203.0.113.7", 8080], "http"),
        ("[2001:db8::1]:443", "https, http", ["2001:db8::1", 443], "http"),
        ("2001:db8::1", "", ["2001:db8::1", 0], "http"),
    ],
)
def test_a_proxy_on_the_same_machine_speaks_for_its_client(
    server: Listening, forwarded_for: str, proto: str, client: list[Any], scheme: str
) -> None:
    found = scope(server, "/anywhere", **{"x-forwarded-for": forwarded_for, "x-forwarded-proto": proto})
    assert (found["client"], found["scheme"]) == (client, scheme)


def test_a_proxy_may_call_tls_by_the_name_that_it_has_for_websockets(server: Listening, kind: Kind) -> None:
    found = scope(server, "/anywhere", **{"x-forwarded-proto": "wss"})
    assert found["scheme"] == side(kind, "the scheme of a request whose proxy says wss")


def test_a_unix_socket_has_no_client(start: Start, tmp_path: Path) -> None:
    server = start(APP, uds=tmp_path / "socket")
    found = scope(server, "/anywhere")
    assert found.get("client") is None
    assert found["server"] == [str(tmp_path / "socket"), None]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_methods(server: Listening, method: str) -> None:
    with server.connect() as connection:
        assert connection.request(method, "/anywhere").json["scope"]["method"] == method


def test_a_method_of_the_clients_own(server: Listening, kind: Kind) -> None:
    with server.connect() as connection:
        response = connection.request("BREW", "/anywhere")
    assert response.status == side(kind, "a method of the client's own")
    assert response.status != 200 or response.json["scope"]["method"] == "BREW"


@pytest.mark.parametrize(
    ("target", "path", "raw_path", "query"),
    [
        ("/", "/", "/", ""),
        ("/a/b", "/a/b", "/a/b", ""),
        ("/a%20b", "/a b", "/a%20b", ""),
        ("/a%2Fb%2fc", "/a/b/c", "/a%2Fb%2fc", ""),
        ("/%E2%82%AC", "/€", "/%E2%82%AC", ""),
        ("/%25%32%30", "/%20", "/%25%32%30", ""),
        ("/100%", "/100%", "/100%", ""),
        ("/%zz", "/%zz", "/%zz", ""),
        ("/bad-%ff-utf8", "/bad-\ufffd-utf8", "/bad-%ff-utf8", ""),
        ("//double//", "//double//", "//double//", ""),
        ("/a/../b/./c", "/a/../b/./c", "/a/../b/./c", ""),
        ("/semi;colon=1", "/semi;colon=1", "/semi;colon=1", ""),
        ("/plus+sign", "/plus+sign", "/plus+sign", ""),
        ("/p?", "/p", "/p", ""),
        ("/p?q", "/p", "/p", "q"),
        ("/p?a=1&a=2&b=%20+x", "/p", "/p", "a=1&a=2&b=%20+x"),
        ("/p?a=b?c=d", "/p", "/p", "a=b?c=d"),
        ("/p?%E2%82%AC", "/p", "/p", "%E2%82%AC"),
        ("/p%3Fq?r", "/p?q", "/p%3Fq", "r"),
        ("http://other.test/abs?q", "/abs", "/abs", "q"),
    ],
)
def test_the_target(server: Listening, target: str, path: str, raw_path: str, query: str) -> None:
    found = scope(server, target)
    assert (found["path"], found["raw_path"], found["query_string"]) == (path, raw(raw_path), raw(query))


def test_a_long_target(server: Listening) -> None:
    query = "q" * 6000
    assert scope(server, f"/p?{query}")["query_string"] == raw(query)


def test_fields_keep_their_order_and_number(server: Listening) -> None:
    fields = [
        ("B", "1"),
        ("A", "2"),
        ("Host", "in.the.middle"),
        ("b", "3"),
        ("X-Case", "KEPT"),
        ("B", "1"),
        ("Cookie", "a=1; b=2"),
    ]
    with server.connect() as connection:
        found = connection.request("GET", "/anywhere", fields).json
    assert found["scope"]["headers"] == [[raw(name.lower()), raw(value)] for name, value in fields]
    assert {kind for pair in found["field_types"] for kind in pair} == {"bytes"}


def test_values_of_fields_are_bytes_without_the_space_around_them(server: Listening, kind: Kind) -> None:
    with server.connect() as connection:
        connection.send(b"GET /anywhere HTTP/1.1\r\nHost: test\r\nX-Space: \t a  b \t\r\nX-Empty:\r\nX-Latin: \xe9\xff\r\n\r\n")
        headers = connection.response().json["scope"]["headers"]
    assert headers[1:] == [
        [raw("x-space"), raw("a  b" + side(kind, "a tab behind a value"))],
        [raw("x-empty"), raw("")],
        [raw("x-latin"), raw("\xe9\xff")],
    ]


def test_many_fields(server: Listening) -> None:
    fields = [(f"x-{number}", str(number)) for number in range(80)]
    with server.connect() as connection:
        headers = connection.request("GET", "/anywhere", fields).json["scope"]["headers"]
    assert headers[1:] == [[raw(name), raw(value)] for name, value in fields]


def test_what_frames_the_body_is_told_too(server: Listening) -> None:
    with server.connect() as connection:
        headers = connection.request("POST", "/anywhere", body=b"12345").json["scope"]["headers"]
        assert headers[-1] == [raw("content-length"), raw("5")]
        connection.send(head("POST", "/anywhere", {"transfer-encoding": "chunked"}) + b"0\r\n\r\n")
        assert connection.response().json["scope"]["headers"][-1] == [raw("transfer-encoding"), raw("chunked")]


def test_http_10(server: Listening) -> None:
    with server.connect() as connection:
        connection.send(head("GET", "/receive/unread", version="HTTP/1.0"))
        assert connection.response().status == 200
    with server.connect() as connection:
        connection.send(head("GET", "/anywhere", version="HTTP/1.0"))
        assert connection.response().json["scope"]["http_version"] == "1.0"


def test_root_path_stands_before_the_path(start: Start) -> None:
    server = start(APP, "--root-path", "/api")
    found = scope(server, "/v1/a%20b?q")
    assert (found["root_path"], found["path"], found["raw_path"]) == ("/api", "/api/v1/a b", raw("/api/v1/a%20b"))
    assert found["query_string"] == raw("q")


def test_requests_share_what_is_in_the_state_and_not_the_state(server: Listening) -> None:
    first = server.get("/state").json
    second = server.get("/state").json
    assert second == {**first, "shared": first["shared"] + 1}
    assert first["private"] is None
    assert first["started"]["version"] == "3.0"


def test_every_request_has_a_task_and_a_context_of_its_own(server: Listening) -> None:
    for _ in range(3):
        assert server.get("/surroundings").json == {"before": "unset", "task": True, "running": True}


@pytest.mark.parametrize(("app", "arguments"), [("application:factory", ["--factory"]), ("application:instance", [])])
def test_factories_and_instances(start: Start, app: str, arguments: list[str]) -> None:
    server = start(app, *arguments)
    assert scope(server, "/anywhere")["type"] == "http"
