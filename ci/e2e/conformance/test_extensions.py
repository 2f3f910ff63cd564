"""The extensions of HTTP: early hints, trailers, files by their path. An application that uses them where they are offered runs anywhere."""

import pytest
from conformance.asking import APPS, Kind
from conformance.differences import side
from server import Listening
from wire import Malformed, Response, head

HINT = (
    b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload; as=style\r\nlink: </app.js>; rel=preload; as=script\r\n\r\n"
)
FILE = (APPS / "extensions.py").read_bytes()


def offers(kind: Kind, name: str) -> bool:
    return f"http.response.{name}" in (side(kind, "http extensions") or ())


def test_trailers_for_a_client_that_takes_them(server: Listening, kind: Kind) -> None:
    with server.connect() as connection:
        connection.ask("GET", "/extension/trailers", {"te": "trailers", "connection": "close"})
        answer = connection.rest()
    late = b"x-sum: 9\r\nx-late: yes\r\n" if offers(kind, "trailers") else b""
    assert answer.endswith(b"3\r\nsix\r\n0\r\n" + late + b"\r\n")


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_trailers_for_one_that_does_not(server: Listening, version: str) -> None:
    with server.connect() as connection:
        connection.send(head("GET", "/extension/trailers", version=version))
        assert connection.response().body == b"onetwosix"


def test_promised_trailers_that_never_come(server: Listening, kind: Kind) -> None:
    said = "without completing"
    before = len(server.log.find(said))
    try:
        response: Response | None = server.get("/extension/forgets-trailers")
    except (Malformed, ConnectionError):
        response = None
    if offers(kind, "trailers"):
        assert response is None or response.status == 502
        server.log.wait(said, before + 1)
    else:
        assert response is not None
        assert response.body == b"whole"


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_early_hints(server: Listening, kind: Kind, version: str) -> None:
    """Not for a 1.0 client, who knows no interim response (RFC 9110 §15.2)."""
    with server.connect() as connection:
        connection.send(head("GET", "/extension/early-hint", version=version))
        hinted = offers(kind, "early_hint") and version == "HTTP/1.1"
        if hinted:
            hint = connection.exactly(len(HINT))
            assert hint == HINT
        response = connection.response()
    assert (response.status, response.body, response.interim) == (200, b"whole", [])
    assert not response.all("link")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_file_by_its_path(server: Listening, method: str) -> None:
    with server.connect() as connection:
        response = connection.request(method, "/extension/path")
        assert (response.status, response["content-type"]) == (200, "text/x-python")
        assert response.body == (FILE if method == "GET" else b"")
        assert connection.request("GET", "/send/length").body == b"onetwosix"


def test_a_file_that_is_not_there(server: Listening, kind: Kind) -> None:
    before = len(server.log.find("/nowhere/at/all"))
    try:
        response: Response | None = server.get("/extension/path-of-nothing")
    except (Malformed, ConnectionError):
        response = None
    assert (response.status if response else None) == side(kind, "a head is sent with its first piece")
    server.log.wait("/nowhere/at/all", before + 1)
