"""WSGI over real connections: streams both ways, slow and vanished clients, and threads that are all busy."""

import hashlib
import threading
from pathlib import Path

import pytest
from conftest import Serve
from server import Server, resident_kib, until
from wire import Closed, Malformed, chunked, head

BLOCK = bytes(range(256)) * 256
MIB = 1024 * 1024


@pytest.fixture
def server(serve: Serve) -> Server:
    return serve("wsgi_plain:app", "--threads", "4").ready()


def test_it_is_found_out_and_has_its_root_path(serve: Serve) -> None:
    server = serve("wsgi_plain:app", "--root-path", "/api").ready()
    assert server.get("/x%20y").body == b"/api|/x y|False"
    assert server.get("/api/x").body == b"/api|/x|False"
    named = serve("wsgi_plain:app", "--interface", "wsgi", "--threads", "2").ready()
    assert named.get("/").body == b"|/|True"
    with named.connect() as connection:
        response = connection.request("HEAD", "/")
        assert (response.status, response.body) == (200, b"")


def test_bodies_stream_both_ways(server: Server) -> None:
    with server.connect() as connection:
        connection.send(head("POST", "/echo", {"transfer-encoding": "chunked"}))
        connection.send(chunked(*[BLOCK] * 40))
        assert connection.response().body == BLOCK * 40
        # The connection is as it was.
        assert connection.request("GET", "/").status == 200


def test_pieces_arrive_as_they_are_made(server: Server) -> None:
    with server.connect() as connection:
        connection.ask("GET", "/counting")
        received = b""
        for number in range(5):
            assert server.get("/go").status == 200
            while not received.endswith(b"2\r\n%d\n\r\n" % number):
                received += connection.exactly(1)
        assert connection.exactly(5) == b"0\r\n\r\n"


def test_a_large_upload_to_a_slow_reader_is_bounded(server: Server) -> None:
    pid = server.worker_pid()
    before = resident_kib(pid)
    size = 12 * MIB
    with server.connect() as connection:
        connection.send(head("POST", "/digest", {"content-length": str(size)}))
        for _ in range(size // len(BLOCK)):
            connection.send(BLOCK)
        expected = hashlib.sha256(BLOCK * (size // len(BLOCK))).hexdigest()
        assert connection.response().body == f"{size} {expected}".encode()
    assert resident_kib(pid) - before < 4 * 1024


def test_a_client_that_does_not_read_holds_the_iterable_and_its_going_closes_it(server: Server) -> None:
    with server.connect() as connection:
        connection.ask("GET", "/endless")
        until("it flows", lambda: int(server.get("/go").body) > 0)

        def still() -> bool:
            one = server.get("/go").body
            return all(server.get("/go").body == one for _ in range(200))

        until("it stands", still)
        assert int(server.get("/go").body) < 64 * MIB // len(BLOCK)
    server.log.wait("endless was closed")
    until("nothing is left", lambda: server.status()["workers"][0]["processes"][0]["in_flight"] == 0)
    assert "Exception" not in server.log.text


def test_an_upload_that_is_given_up_frees_its_thread(serve: Serve) -> None:
    server = serve("wsgi_plain:app").ready()
    for _ in range(20):
        with server.connect() as connection:
            connection.send(head("POST", "/digest", {"content-length": "1000"}) + b"some")
    assert server.get("/").status == 200
    assert "Exception" not in server.log.text


def test_a_file_goes_through_the_wrapper(server: Server, tmp_path: Path) -> None:
    data = BLOCK * 50 + b"tail"
    (tmp_path / "data").write_bytes(data)
    assert server.get(f"/file?{tmp_path / 'data'}").body == data


def test_an_exception_in_mid_body_cuts_the_connection_and_is_logged(server: Server) -> None:
    with server.connect() as connection, pytest.raises((Closed, Malformed)):
        connection.request("GET", "/fails")
    server.log.wait("RuntimeError: in mid-body")
    assert server.get("/").status == 200


@pytest.mark.parametrize("threads", ["1", "2"])
def test_threads_that_ignore_their_deadline_are_no_stuck_worker(serve: Serve, threads: str) -> None:
    server = serve("wsgi_plain:app", "--threads", threads, "--request-timeout", "3").ready()
    pid = server.worker_pid()
    statuses: list[int] = []
    asker = threading.Thread(target=lambda: statuses.append(server.get("/sleep?14").status))
    asker.start()
    if threads == "2":
        for _ in range(50):
            assert server.get("/").status == 200
    asker.join(30)
    assert statuses == [504]
    if threads == "1":
        # Waits in its turn, past its own deadline.
        assert server.get("/").status == 504
    server.log.wait("slept to the end")
    assert server.get("/").status == 200
    assert server.worker_pid() == pid
    assert server.status()["restarts"] == {}


def test_a_stop_waits_for_answers(serve: Serve) -> None:
    server = serve("wsgi_plain:app", "--threads", "2").ready()
    bodies: list[bytes] = []
    asker = threading.Thread(target=lambda: bodies.append(server.get("/sleep?1").body))
    asker.start()
    until("it sleeps", lambda: server.status()["workers"][0]["processes"][0]["in_flight"] == 1)
    server.end(strictly=True)
    asker.join(10)
    assert bodies == [b"slept"]


def test_a_stop_leaves_behind_a_thread_that_nobody_waits_for(serve: Serve) -> None:
    server = serve("wsgi_plain:app", "--request-timeout", "1").ready()
    assert server.get("/sleep?60").status == 504
    server.end(strictly=True)
    assert "1 thread(s) of the application are left behind" in server.log.text
