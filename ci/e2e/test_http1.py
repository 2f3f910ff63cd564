"""HTTP/1.1 and 1.0 on the wire: framing, persistence, order, and what a connection may cost."""

import contextlib
import hashlib
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Serve
from payload import pattern
from server import Server, descriptors, resident_kib, until
from wire import Closed, Connection, chunked, head

BIG = 16 * 1024 * 1024 + 1


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


def test_a_client_that_half_closes_before_it_has_read_gets_the_rest_of_a_whole_response(connection: Connection) -> None:
    connection.ask("GET", "/bytes/262144")
    begin = connection.exactly(1000)
    # Shorter than the window of an exchange: the edge has all of it long before the client reads on.
    time.sleep(0.2)
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
    connection.socket.settimeout(5)
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
    connection.socket.settimeout(5)
    connection.send(head("POST", "/digest", {"content-length": str(size + 1)}) + pattern(size))
    connection.half_close()
    assert connection.rest() == b""


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


@pytest.mark.parametrize("place", ["/tag/{}", "/thread/{}"])
def test_five_hundred_connections_each_get_their_own_answers(echo: Server, place: str) -> None:
    connections = [echo.connect() for _ in range(500)]
    for turn in range(3):
        for number, connection in enumerate(connections):
            connection.ask("GET", place.format(f"{number}-{turn}"))
        for number, connection in enumerate(connections):
            assert connection.response().json == {"tag": f"{number}-{turn}"}
    for connection in connections:
        connection.close()


def test_several_shards_and_workers_mix_nothing_up(serve: Serve) -> None:
    server = serve("echo:app", shards=2, workers=3).ready()

    def client(number: int) -> set[int]:
        with server.connect() as connection:
            for turn in range(40):
                assert connection.request("GET", f"/tag/{number}-{turn}").json == {"tag": f"{number}-{turn}"}
                body = pattern(1000 + turn * 997, f"{number}")
                assert connection.request("POST", "/echo", body=body).body == body
            return {connection.request("GET", "/pid").json["pid"] for _ in range(10)}

    with ThreadPoolExecutor(16) as pool:
        pids = set[int]().union(*pool.map(client, range(64)))
    assert pids == {server.worker_pid(place) for place in range(3)}


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


@pytest.mark.parametrize(
    "size", [0, 1, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 64 * 1024, 256 * 1024, 256 * 1024 + 1, 1_000_003]
)
@pytest.mark.parametrize("framing", ["content-length", "chunked", "small chunks"])
def test_bodies_of_every_size_come_back(connection: Connection, size: int, framing: str) -> None:
    body = pattern(size)
    if framing == "content-length":
        request = head("POST", "/echo", {"content-length": str(size)}) + body
    else:
        step = 64 * 1024 if framing == "chunked" else max(1, size // 300)
        pieces = [body[at : at + step] for at in range(0, size, step)]
        request = head("POST", "/echo", {"Transfer-Encoding": "Chunked"}) + chunked(*pieces)
    connection.send(request)
    response = connection.response()
    assert response.status == 200
    assert response.body == body
    assert connection.request("GET", "/tag/x").json == {"tag": "x"}


def test_sixteen_mebibytes_up(connection: Connection) -> None:
    body = pattern(BIG)
    response = connection.request("POST", "/digest", body=body)
    assert response.json == {"size": BIG, "sha256": hashlib.sha256(body).hexdigest()}
    assert connection.request("GET", "/tag/x").status == 200


def test_sixteen_mebibytes_down(connection: Connection) -> None:
    response = connection.request("GET", f"/bytes/{BIG}")
    assert len(response.body) == BIG
    assert hashlib.sha256(response.body).digest() == hashlib.sha256(pattern(BIG)).digest()
    assert connection.request("GET", "/tag/x").status == 200


def test_thirty_two_mebibytes_both_ways_at_once(echo: Server) -> None:
    """As much as a body may be, echoed for four clients."""
    body = pattern(32 * 1024 * 1024)

    def client(_: int) -> bool:
        with echo.connect() as connection:
            return connection.request("POST", "/echo", body=body).body == body

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(client, range(4)))


def test_uploads_that_fill_a_lane_delay_other_requests_and_refuse_none(echo: Server) -> None:
    body = bytes(4 * 1024 * 1024)

    def upload(_: int) -> set[int]:
        with echo.connect() as connection:
            return {connection.request("POST", "/digest", body=body).status for _ in range(4)}

    def small(number: int) -> set[int]:
        with echo.connect() as connection:
            return {connection.request("GET", f"/tag/{number}-{turn}").status for turn in range(100)}

    with ThreadPoolExecutor(16) as pool:
        uploads, others = [pool.submit(upload, n) for n in range(8)], [pool.submit(small, n) for n in range(8)]
        assert {status for future in (*uploads, *others) for status in future.result()} == {200}


def test_the_framing_is_the_edges(connection: Connection) -> None:
    response = connection.request("GET", "/fields")
    assert (response["content-length"], response.body) == ("1", b"x")
    assert response.all("transfer-encoding") == response.all("connection") == []
    assert [value.partition(";")[0] for value in response.all("set-cookie")] == ["a=1", "b=2"]
    assert response["server"] == "fasterapi"
    assert response["date"].endswith(" GMT")


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


def test_head_is_a_get_without_its_body(connection: Connection) -> None:
    get = connection.request("GET", "/head")
    response = connection.request("HEAD", "/head")
    assert (response.status, response["content-length"]) == (200, str(len(get.body)))
    assert response["content-type"] == "application/json"
    assert connection.request("HEAD", "/nowhere").status == 404
    assert connection.request("HEAD", "/slash").status == 307
    assert connection.request("GET", "/tag/x").status == 200


def test_options_and_405_say_what_is_allowed(connection: Connection) -> None:
    response = connection.request("OPTIONS", "/echo")
    assert response.status == 200
    assert set(response["allow"].split(", ")) == {"OPTIONS", "POST", "PUT"}
    response = connection.request("GET", "/echo")
    assert response.status == 405
    assert set(response["allow"].split(", ")) == {"OPTIONS", "POST", "PUT"}
    assert set(connection.request("DELETE", "/head")["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
    assert connection.request("BREW", "/head").status == 405
    assert connection.request("OPTIONS", "*").status == 200


def test_a_slash_too_few_or_too_many_is_redirected(connection: Connection) -> None:
    response = connection.request("GET", "/slash?a=1&b=%20")
    assert (response.status, response["location"]) == (307, "/slash/?a=1&b=%20")
    assert connection.request("GET", "/slash/").json == "with slash"
    assert connection.request("GET", "/head/")["location"] == "/head"
    assert connection.request("GET", "//evil.example/head/").status == 404


def test_what_the_application_is_told(wire: str, connection: Connection) -> None:
    host, port = connection.socket.getsockname()
    seen = connection.request("GET", "/see?a=1&b=%20&a=2", [("Host", "example.org"), ("X-A", "1"), ("x-a", "2")]).json
    assert seen["method"] == "GET"
    assert seen["url"] == f"{SCHEMES[wire]}://example.org/see?a=1&b=%20&a=2"
    assert seen["version"] == "1.1"
    assert seen["client"] == [host, port]
    assert seen["query"] == [["a", "1"], ["b", " "], ["a", "2"]]
    assert [tuple(pair) for pair in seen["fields"]] == [("host", "example.org"), ("x-a", "1"), ("x-a", "2")]


def test_an_absolute_target_names_the_host(wire: str, connection: Connection) -> None:
    seen = connection.request("GET", "http://other.example:81/see", {"host": "test"}).json
    assert seen["url"] == f"{SCHEMES[wire]}://other.example:81/see"
    assert dict(seen["fields"])["host"] == "other.example:81"


# --- what a connection may cost --------------------------------------------------------------------------------------


def test_a_slow_reader_of_a_large_response_stalls_nobody(echo: Server) -> None:
    readers = [echo.connect() for _ in range(8)]
    for reader in readers:
        reader.ask("GET", f"/bytes/{BIG}")
    with echo.connect() as connection:
        for number in range(200):
            assert connection.request("GET", f"/tag/{number}").json == {"tag": str(number)}
    for reader in readers:
        assert hashlib.sha256(reader.response().body).digest() == hashlib.sha256(pattern(BIG)).digest()
        reader.close()


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
            started = time.monotonic()
            assert connection.request("GET", f"/tag/{number}").json == {"tag": str(number)}
            assert time.monotonic() - started < 5
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


def test_ten_thousand_requests_leave_nothing_behind(serve: Serve) -> None:
    server = serve("echo:app").ready()
    worker = server.worker_pid()

    def load(requests: int) -> None:
        def client(number: int) -> None:
            for turn in range(requests // 8 // 50):
                with server.connect() as connection:
                    for n in range(46):
                        assert connection.request("GET", f"/tag/{n}").status == 200
                    assert connection.request("GET", "/nowhere").status == 404
                    assert connection.request("GET", f"/thread/{turn}-{number}").status == 200
                    assert len(connection.request("GET", "/bytes/262144").body) == 262144
                    assert len(connection.request("POST", "/echo", body=bytes(100_000)).body) == 100_000

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(client, range(8)))

    def usage() -> tuple[int, int, int, int]:
        # An answer on a new connection: the closes before it are through.
        server.get("/pid")
        return descriptors(server.pid), descriptors(worker), resident_kib(server.pid), resident_kib(worker)

    load(4_000)
    before = usage()
    load(10_000)
    after = usage()
    assert after[0] <= before[0] + 1, "descriptors of the edge"
    assert after[1] <= before[1], "descriptors of the worker"
    assert after[2] <= before[2] + 4 * 1024, f"memory of the edge: {before[2]} KiB, then {after[2]}"
    assert after[3] <= before[3] + 4 * 1024, f"memory of the worker: {before[3]} KiB, then {after[3]}"


def test_the_handler_of_a_client_that_went_away_is_cancelled(echo: Server) -> None:
    gone = echo.connect()
    gone.ask("GET", "/cancellable/reset")
    until("the request is in flight", lambda: "reset" in echo.get("/held").json)
    # No linger time: the close is a reset, as of a client that crashed.
    gone.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    gone.close()
    until("the handler is cancelled", lambda: "reset" in echo.get("/cancelled").json)


def test_a_client_that_goes_away_in_the_middle_takes_nothing_with_it(echo: Server) -> None:
    for target in (f"/bytes/{BIG}", "/thread/x"):
        for _ in range(20):
            connection = echo.connect()
            connection.ask("GET", target)
            connection.close()
    upload = echo.connect()
    upload.send(head("POST", "/echo", {"content-length": "1000000"}) + bytes(300_000))
    upload.close()
    assert echo.get("/tag/x").json == {"tag": "x"}
    with pytest.raises(Closed), echo.connect() as connection:
        connection.half_close()
        connection.response()
