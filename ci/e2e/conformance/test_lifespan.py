"""Lifespan: what an application does before the first request and behind the last, and what its failure means."""

import signal
import socket

import pytest
from conformance.asking import APP, Kind, Start
from conformance.differences import side
from server import Listening, until
from wire import Address, head


def ends(server: Listening, code: int | None = None) -> str:
    """Of itself, or asked to; all that it has written. None: the code of an orderly end."""
    if code is None:
        server.signal(signal.SIGTERM)
        server.finish()
    else:
        server.finish(code)
    return server.out.text + server.log.text


@pytest.mark.parametrize("lifespan", ["auto", "on"])
def test_an_application_starts_before_the_first_request_and_stops_behind_the_last(start: Start, lifespan: str) -> None:
    server = start(APP, "--lifespan", lifespan)
    assert server.get("/state").json["started"] is not None
    assert "lifespan: shut down" not in server.out.text
    assert "lifespan: shut down" in ends(server)


def test_off_is_off(start: Start) -> None:
    server = start("lifespans:raises", "--lifespan", "off")
    assert server.get("/").body == b"http"
    ends(server)


def test_auto_lets_an_application_that_knows_nothing_of_it_be(start: Start) -> None:
    server = start("lifespans:raises", "--lifespan", "auto")
    assert server.get("/").body == b"lifespan,http"
    assert "Traceback" not in ends(server)


def test_auto_lets_one_that_breaks_be(start: Start) -> None:
    """There is no telling it from one that knows nothing of lifespan."""
    server = start("lifespans:raises_when_asked", "--lifespan", "auto")
    assert server.get("/").body == b"startup"


@pytest.mark.parametrize("lifespan", ["auto", "on"])
def test_one_that_returns_without_a_word_is_let_be(start: Start, lifespan: str) -> None:
    server = start("lifespans:returns", "--lifespan", lifespan)
    assert server.get("/").body == b"lifespan,http"


@pytest.mark.parametrize("app", ["lifespans:raises", "lifespans:raises_when_asked"])
def test_on_means_that_it_must_work(start: Start, kind: Kind, app: str) -> None:
    server = start(app, "--lifespan", "on", wait=False)
    text = ends(server, side(kind, "exit code when lifespan fails"))
    assert "on purpose" in text
    assert "Traceback" in text


@pytest.mark.parametrize("lifespan", ["auto", "on"])
def test_a_failure_that_is_reported_is_the_end_and_its_message_is_shown(start: Start, kind: Kind, lifespan: str) -> None:
    server = start("lifespans:fails", "--lifespan", lifespan, wait=False)
    text = ends(server, side(kind, "exit code when lifespan fails"))
    assert "the database is away, on purpose" in text


def test_a_failure_at_the_end_is_shown(start: Start) -> None:
    server = start("lifespans:fails_at_the_end", "--lifespan", "on")
    assert server.get("/").status == 200
    assert "the last page is lost, on purpose" in ends(server)


def test_requests_that_are_under_way_end_before_lifespan_does(start: Start) -> None:
    server = start(APP)
    with server.connect() as slow, server.connect() as other:
        slow.send(head("POST", "/receive/pieces?under-way", {"content-length": "6"}) + b"one")
        until("it is in", lambda: "one" in other.request("GET", "/journal?under-way").json)
        server.signal(signal.SIGTERM)
        until("it takes nobody new", lambda: not accepts(server.address))
        assert "lifespan: shut down" not in server.out.text
        slow.send(b"two")
        assert slow.response().body == b"all"
    server.finish()
    assert "lifespan: shut down" in server.out.text


def accepts(address: Address) -> bool:
    assert not isinstance(address, str)
    try:
        socket.create_connection(address, 5).close()
    except ConnectionError:
        # Refused; or reset, by a listener that was closed meanwhile.
        return False
    return True
