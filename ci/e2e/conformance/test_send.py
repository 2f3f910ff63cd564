"""`send`: what becomes of each event on the wire, and who waits for whom."""

import socket
import struct

import pytest
from conformance.asking import Kind, journal, new_tag, noted, open_gate, standing_still
from conformance.differences import side
from server import Listening, until
from wire import Connection, Response, chunked, head

PIECE = 64 * 1024
FLOOD_PIECES = 1024
BIG = PIECE * 512


def get(server: Listening, target: str, method: str = "GET") -> Response:
    with server.connect() as connection:
        return connection.request(method, target)


@pytest.fixture
def slow(server: Listening) -> Connection:
    """One whose receive buffer is small, so that little is under way when it does not read."""
    return Connection(server.address, receive_buffer=PIECE)


# --- framing ---------------------------------------------------------------------------------------------------------


def test_a_length_that_the_application_gives(server: Listening) -> None:
    response = get(server, "/send/length")
    assert (response.status, response.body, response["content-length"]) == (200, b"onetwosix", "9")
    assert not response.all("transfer-encoding")


def test_without_a_length_the_body_is_chunked(server: Listening) -> None:
    response = get(server, "/send/chunks")
    assert (response.status, response.body, response["transfer-encoding"]) == (200, b"onetwosix", "chunked")


def test_what_may_be_left_out(server: Listening) -> None:
    with server.connect() as connection:
        response = connection.request("GET", "/send/bare")
        assert (response.status, response.body) == (200, b"")
        assert connection.request("GET", "/send/bare").status == 200


@pytest.mark.parametrize("status", [200, 201, 301, 400, 404, 418, 500, 503, 599])
def test_statuses(server: Listening, status: int) -> None:
    response = get(server, f"/send/status?{status}")
    assert (response.status, response.body, response["x-status"]) == (status, b"", "seen")


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_that_have_no_body_have_no_framing(server: Listening, status: int) -> None:
    with server.connect() as connection:
        response = connection.request("GET", f"/send/status?{status}")
        assert (response.status, response["etag"]) == (status, '"1"')
        assert not response.all("transfer-encoding")
        assert not response.all("content-length")
        assert connection.request("GET", "/send/length").body == b"onetwosix"


def test_a_304_may_have_the_length_of_a_200(server: Listening, kind: Kind) -> None:
    with server.connect() as connection:
        response = connection.request("GET", "/send/not-modified")
        assert (response.status, response["content-length"]) == (304, "10")
        stays = side(kind, "304 with the length of a 200")
        assert not stays or connection.request("GET", "/send/length").body == b"onetwosix"
        if not stays:
            assert connection.rest() == b""


@pytest.mark.parametrize("target", ["/send/length", "/send/chunks", "/send/big", "/send/many", "/send/types"])
def test_head_has_the_head_of_a_get(server: Listening, target: str) -> None:
    with server.connect() as connection:
        response = connection.request("HEAD", target)
        assert (response.status, response.body) == (200, b"")
        assert connection.request("GET", "/send/length").body == b"onetwosix", "nothing of the body is in between"
        whole = connection.request("GET", target)
    assert response.all("content-length") in (whole.all("content-length"), [])


def test_fields_keep_their_order_and_number(server: Listening) -> None:
    response = get(server, "/send/fields")
    mine = [(name.lower(), value.strip()) for name, value in response.fields if name.lower().startswith(("x-", "set-"))]
    assert mine == [("set-cookie", "b=2"), ("x-a", "1"), ("set-cookie", "a=1"), ("x-latin", "\xe9"), ("x-empty", "")]


def test_bodies_may_be_memoryviews(server: Listening) -> None:
    assert get(server, "/send/types").body == b"a view, bytes"


def test_a_big_body_in_one_event(server: Listening) -> None:
    response = get(server, "/send/big")
    assert (len(response.body), response["content-length"]) == (BIG, str(BIG))
    assert response.body == bytes(range(256)) * (BIG // 256)


def test_many_small_pieces(server: Listening) -> None:
    assert get(server, "/send/many").body == b"".join(b"%d\n" % number for number in range(2000)) + b"end"


# --- when it goes out ------------------------------------------------------------------------------------------------


def test_each_piece_is_with_the_client_before_the_next_one_is_made(server: Listening) -> None:
    tag = new_tag()
    with server.connect() as connection:
        connection.ask("GET", f"/send/stream?{tag}")
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.exactly(1)
        assert b"text/event-stream" in received
        assert journal(server, tag) == ["head"]
        open_gate(server, tag)
        assert connection.exactly(14) == b"9\r\ndata: 1\n\n\r\n"
        open_gate(server, f"{tag}-2")
        assert connection.exactly(14 + 5) == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"


def test_work_behind_the_response_holds_nobody_up(server: Listening) -> None:
    tag = new_tag()
    with server.connect() as connection:
        assert connection.request("GET", f"/send/work-on?{tag}").body == b"answered"
        assert connection.request("GET", "/send/length").body == b"onetwosix"
        noted(server, tag, "working")
    open_gate(server, tag)
    noted(server, tag, "working", "worked")


def test_a_client_that_does_not_read_stops_the_application(server: Listening, slow: Connection) -> None:
    """And everybody else is served meanwhile."""
    tag = new_tag()
    with slow as connection:
        connection.ask("GET", f"/send/flood?{tag}")
        made = standing_still(lambda: next(reversed(journal(server, tag)), 0))
        assert made * PIECE < 16 * 1024 * 1024
        assert get(server, "/send/length").body == b"onetwosix"
        response = connection.response()
        assert len(response.body) == FLOOD_PIECES * PIECE
        noted(server, tag, "sent")


def test_a_slow_client_that_leaves_ends_the_wait(server: Listening, kind: Kind, slow: Connection) -> None:
    tag = new_tag()
    with slow as connection:
        connection.ask("GET", f"/send/flood?{tag}")
        standing_still(lambda: next(reversed(journal(server, tag)), 0))
        connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    noted(server, tag, side(kind, "flood when the client is gone"))


def test_send_to_a_client_that_is_gone(server: Listening, kind: Kind) -> None:
    """Raised and not caught, it is no mistake: nothing is logged as one."""
    tag = new_tag()
    with server.connect() as connection:
        connection.ask("GET", f"/send/to-nobody?{tag}")
        # A request that no worker has taken may be withdrawn.
        noted(server, tag, "begun")
    before = len(server.log.find("Traceback"))
    noted(server, tag, "http.disconnect", side(kind, "send when the client is gone"))
    assert get(server, "/send/length").body == b"onetwosix"
    assert len(server.log.find("Traceback")) == before


# --- other clients ---------------------------------------------------------------------------------------------------


def test_a_10_client_is_framed_as_it_understands(server: Listening, kind: Kind) -> None:
    with server.connect() as connection:
        connection.send(head("GET", "/send/chunks", version="HTTP/1.0"))
        response = connection.response()
        assert response.body == b"onetwosix"
        how = "chunked" if response.all("transfer-encoding") else "close" if response.closes else "length"
        assert how == side(kind, "HTTP/1.0 framing")
        assert connection.rest() == b""


def test_a_10_client_that_asks_to_be_kept(server: Listening, kind: Kind) -> None:
    with server.connect() as connection:
        connection.send(head("GET", "/send/length", {"connection": "keep-alive"}, version="HTTP/1.0"))
        response = connection.response()
        assert (response.body, not response.closes) == (b"onetwosix", side(kind, "HTTP/1.0 keep-alive"))


def test_a_client_that_asks_for_the_end_gets_it(server: Listening) -> None:
    with server.connect() as connection:
        response = connection.request("GET", "/send/length", {"connection": "close"})
        assert (response.body, response.closes) == (b"onetwosix", True)
        assert connection.rest() == b""


def test_a_client_that_ends_its_side_behind_its_request_counts_as_gone(server: Listening) -> None:
    """Nobody can tell it from one that left in order."""
    tag = new_tag()
    with server.connect() as connection:
        connection.ask("GET", f"/receive/until-disconnect?{tag}")
        noted(server, tag, "reading")
        connection.half_close()
        noted(server, tag, "http.disconnect", "http.disconnect")
        open_gate(server, tag)
        assert connection.rest() == b""


@pytest.mark.parametrize("step", [1 << 20, 7])
def test_pipelined_requests_are_answered_in_order(server: Listening, step: int) -> None:
    requests = [
        head("GET", "/send/length"),
        head("POST", "/receive/echo", {"content-length": "5"}) + b"first",
        head("POST", "/receive/echo", {"transfer-encoding": "chunked"}) + chunked(b"sec", b"ond"),
        head("HEAD", "/send/length"),
        head("GET", "/send/chunks"),
        head("GET", "/send/status?204"),
        head("POST", "/receive/echo", {"content-length": "4"}) + b"last",
    ]
    together = b"".join(requests)
    with server.connect() as connection:
        for at in range(0, len(together), step):
            connection.send(together[at : at + step])
        bodies = [connection.response("HEAD" if request.startswith(b"HEAD") else "GET").body for request in requests]
    assert bodies == [b"onetwosix", b"first", b"second", b"", b"onetwosix", b"", b"last"]


def test_a_request_behind_one_that_waits_is_answered_behind_it(server: Listening) -> None:
    tag = new_tag()
    with server.connect() as connection:
        connection.send(head("GET", f"/receive/after-body?{tag}") + head("GET", "/send/length"))
        noted(server, tag, "waiting")
        open_gate(server, tag)
        assert [connection.response().body, connection.response().body] == [b"answered", b"onetwosix"]


def test_many_connections_at_once(server: Listening) -> None:
    tag = new_tag()
    connections = [server.connect() for _ in range(100)]
    for number, connection in enumerate(connections):
        connection.ask("POST", f"/receive/after-body?{tag}", body=b"%d" % number)
    until("all are in", lambda: len(journal(server, tag)) == 100)
    open_gate(server, tag)
    for connection in connections:
        assert connection.response().body == b"answered"
        connection.close()
