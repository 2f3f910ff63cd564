"""HTTP/1.1 and 1.0 on the wire: framing, persistence, order, and what a connection may cost."""

import contextlib
import hashlib
import selectors
import threading
import time
from collections.abc import Iterator

import pytest
from conftest import Serve
from payload import pattern
from server import Server, resident_kib, until
from wire import Closed, Connection, chunked, head

SCHEMES = {"h1": "http", "h1-tls": "https"}


@pytest.fixture
def connection(echo: Server) -> Iterator[Connection]:
    with echo.connect() as connection:
        yield connection


# --- persistence -----------------------------------------------------------------------------------------------------


def test_a_connection_is_kept(connection: Connection) -> None:
    for number in range(20):
        response = connection.request("GET", f"/tag/{number}")
        assert (response.status, response.json, response.closes) == (200, {"tag": str(number)}, False)
    connection.half_close()
    assert connection.rest() == b""


@pytest.mark.parametrize("field", ["close", "Close", "foo, close", "keep-alive, close"])
def test_connection_close(connection: Connection, field: str) -> None:
    response = connection.request("GET", "/tag/x", {"connection": field})
    assert (response.status, response.closes) == (200, True)
    assert connection.rest() == b""


def test_http_10_ends_with_its_response(connection: Connection) -> None:
    connection.send(b"GET /tag/x HTTP/1.0\r\n\r\n")
    response = connection.response()
    assert (response.status, response.json, response.closes) == (200, {"tag": "x"}, True)
    assert connection.rest() == b""


def test_http_10_can_ask_to_be_kept(connection: Connection) -> None:
    for number in range(3):
        connection.send(head("GET", f"/tag/{number}", {"connection": "Keep-Alive"}, "HTTP/1.0"))
        response = connection.response()
        assert response.json == {"tag": str(number)}
        assert [value.lower() for value in response.all("connection")] == ["keep-alive"]
        assert response.all("transfer-encoding") == []


def test_a_client_that_half_closes_while_it_waits_has_gone(echo: Server, connection: Connection) -> None:
    connection.ask("GET", "/cancellable/half")
    until("the request is in flight", lambda: "half" in echo.get("/held").json)
    connection.half_close()
    assert connection.rest() == b""
    until("the handler is cancelled", lambda: "half" in echo.get("/cancelled").json)


def test_a_client_that_half_closes_gets_all_the_answers_that_the_edge_has_for_it(connection: Connection) -> None:
    targets = ["/nowhere", "/slash", "/nowhere", "/slash"]
    connection.send(b"".join(head("GET", target) for target in targets))
    connection.half_close()
    assert [connection.response().status for _ in targets] == [404, 307, 404, 307]
    assert connection.rest() == b""


def test_a_client_that_half_closes_before_it_has_read_gets_the_rest_of_a_whole_response(
    echo: Server, connection: Connection
) -> None:
    connection.ask("GET", "/bytes/262144")
    begin = connection.exactly(1000)
    # No longer than the window of an exchange: nobody waits for the client to read on.
    until("the edge has all of it", lambda: echo.exchanges() == 0)
    connection.half_close()
    assert len(begin + connection.rest()) > 262144


def test_a_head_cut_off_by_the_clients_end_gets_no_answer(connection: Connection) -> None:
    connection.send(b"GET /tag/x HTTP/1.1\r\nhost: t")
    connection.half_close()
    assert connection.rest() == b""


def test_a_body_cut_off_by_the_clients_end_gets_no_answer(connection: Connection) -> None:
    connection.send(head("POST", "/echo", {"content-length": "10"}) + b"half")
    connection.half_close()
    assert connection.rest() == b""


def test_a_head_cut_off_behind_an_answer_ends_the_connection_without_delay(connection: Connection) -> None:
    connection.socket.settimeout(9)  # A head may take ten.
    connection.send(head("GET", "/nowhere") + b"GET /tag/y HTTP/1.1\r\nho")
    connection.half_close()
    assert connection.response().status == 404
    assert connection.rest() == b""


@pytest.mark.parametrize("size", [1_000, 300_000, 1_000_000])
@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_a_client_that_half_closes_behind_its_body_gets_its_answer_or_none(
    connection: Connection, size: int, framing: str
) -> None:
    """Whether the application is faster than the FIN is chance."""
    body = pattern(size)
    if framing == "chunked":
        connection.send(head("POST", "/digest", {"transfer-encoding": "chunked"}) + chunked(body[:100], body[100:]))
    else:
        connection.send(head("POST", "/digest", {"content-length": str(size)}) + body)
    connection.half_close()
    with contextlib.suppress(Closed, ConnectionResetError):
        assert connection.response().json == {"size": size, "sha256": hashlib.sha256(body).hexdigest()}
        assert connection.rest() == b""


@pytest.mark.parametrize("size", [1_000, 300_000, 1_000_000])
def test_a_large_body_cut_off_by_the_clients_end_gets_no_answer(connection: Connection, size: int) -> None:
    connection.socket.settimeout(9)  # At the minimum rate it ends after ten.
    connection.send(head("POST", "/digest", {"content-length": str(size + 1)}) + pattern(size))
    connection.half_close()
    assert connection.rest() == b""


def test_a_head_may_be_slow_only_for_as_long_as_the_option_says(serve: Serve, wire: str) -> None:
    server = serve("echo:app", "--header-timeout", "1", version=wire).ready()
    with server.connect() as connection:
        started = time.monotonic()
        connection.send(b"GET /tag/x HT")
        assert (connection.response().status, connection.rest()) == (408, b"")
        assert 0.9 < time.monotonic() - started < 10


# --- order -----------------------------------------------------------------------------------------------------------


def test_a_thousand_requests_in_one_write_are_answered_in_order(echo: Server) -> None:
    with echo.connect() as connection:
        requests = b"".join(head("GET", f"/tag/{number}") for number in range(1000))
        # Written from a thread: how much of it the server takes before it is read from is its own business.
        writer = threading.Thread(target=connection.send, args=(requests,))
        writer.start()
        assert [connection.response().json["tag"] for _ in range(1000)] == [str(number) for number in range(1000)]
        writer.join()
        assert connection.request("GET", "/tag/last").json == {"tag": "last"}


def test_mixed_pipelined_requests_are_answered_in_order(connection: Connection) -> None:
    requests = [
        (head("GET", "/thread/0"), "GET", 200, b'{"tag":"0"}'),
        (head("GET", "/nowhere"), "GET", 404, b'{"detail":"Not Found"}'),
        (head("POST", "/echo", {"content-length": "3"}) + b"abc", "POST", 200, b"abc"),
        (head("POST", "/nowhere", {"content-length": "3"}) + b"abc", "POST", 404, b'{"detail":"Not Found"}'),
        (head("POST", "/echo", {"transfer-encoding": "chunked"}) + chunked(b"ab", b"c" * 9), "POST", 200, b"ab" + b"c" * 9),
        (head("HEAD", "/head"), "HEAD", 200, b""),
        (head("GET", "/bytes/262144"), "GET", 200, pattern(262144)),
        (head("PUT", "/echo", {"content-length": "0"}), "PUT", 200, b""),
        (head("GET", "/tag/1"), "GET", 200, b'{"tag":"1"}'),
    ]
    connection.send(b"".join(request for request, *_ in requests))
    for request, method, status, body in requests:
        response = connection.response(to=method)
        assert (response.status, response.body) == (status, body), request
    assert connection.request("GET", "/tag/2").json == {"tag": "2"}


# --- framing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 7])
def test_requests_may_arrive_in_any_pieces(connection: Connection, step: int) -> None:
    request = (
        b"\r\n"
        + head("POST", "/echo", {"transfer-encoding": "chunked"})
        + chunked(b"hello ", b"world", trailers=b"x-sum: 1\r\n")
        + head("GET", "/tag/x")
    )
    for at in range(0, len(request), step):
        connection.send(request[at : at + step])
    assert connection.response().body == b"hello world"
    assert connection.response().json == {"tag": "x"}


# --- methods and semantics -------------------------------------------------------------------------------------------


def test_continue_is_sent_when_the_body_is_wanted(connection: Connection) -> None:
    fields = {"expect": "100-continue", "content-length": "5"}
    connection.send(head("POST", "/echo", fields))
    assert connection.exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.send(b"hello")
    assert connection.response().body == b"hello"

    connection.send(head("POST", "/echo", fields) + b"hello")
    response = connection.response()
    assert (response.body, response.interim) == (b"hello", []), "who sends at once is not told to go on"

    connection.send(head("POST", "/nowhere", fields))
    response = connection.response()
    assert (response.status, response.interim, response.closes) == (404, [], True)
    assert connection.rest() == b""


def test_an_absolute_target_names_the_host(wire: str, connection: Connection) -> None:
    seen = connection.request("GET", "http://other.example:81/see", {"host": "test"}).json
    assert seen["url"] == f"{SCHEMES[wire]}://other.example:81/see"
    assert dict(seen["fields"])["host"] == "other.example:81"


# --- what a connection may cost --------------------------------------------------------------------------------------


def test_clients_that_pipeline_and_never_read_cost_a_bounded_amount_of_memory(serve: Serve) -> None:
    server = serve("echo:app").ready()
    requests = head("GET", "/bytes/262144") * 100
    server.get("/bytes/262144")
    before = resident_kib(server.pid)
    hogs = [server.connect() for _ in range(100)]
    for hog in hogs:
        hog.socket.setblocking(False)
    # What fits into the sockets' own buffers is sent; the rest has to wait for the server.
    pending = {hog: memoryview(requests) for hog in hogs}
    with selectors.DefaultSelector() as selector:
        for hog in hogs:
            selector.register(hog.socket, selectors.EVENT_WRITE, hog)
        while pending and (ready := selector.select(2)):
            for key, _ in ready:
                rest = pending[key.data]
                rest = rest[key.data.socket.send(rest) :]
                pending[key.data] = rest
                if not rest:
                    selector.unregister(key.data.socket)
                    del pending[key.data]
    peak = 0
    with server.connect() as connection:
        for number in range(500):
            assert connection.request("GET", f"/tag/{number}").json == {"tag": str(number)}, "nobody else notices"
            peak = max(peak, resident_kib(server.pid))
    assert peak - before < 64 * 1024, f"{before} KiB before, {peak} KiB at the most"
    # They are served in full once they read.
    body = pattern(262144)
    for hog in hogs[:3]:
        hog.socket.settimeout(30)
        assert all(hog.response().body == body for _ in range(100))
    for hog in hogs:
        hog.close()
    assert server.get("/tag/x").status == 200
