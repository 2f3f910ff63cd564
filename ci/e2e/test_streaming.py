"""Bodies piece by piece, end to end: what is slow at one end stops the other, and nothing is left behind."""

import hashlib
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from payload import pattern
from server import Server, resident_kib, serving, until
from wire import Connection, Malformed, chunked, head

MIB = 1024 * 1024
PIECE = pattern(64 * 1024)
# Two windows of credit, what both ends hold beside them, and the sockets' own buffers (tcp_wmem and tcp_rmem at their largest).
UNDER_WAY_MAX = 12 * MIB


@pytest.fixture(scope="module")
def streams() -> Iterator[Server]:
    with serving("streams:app") as server:
        yield server


def number(server: Server, path: str) -> int:
    value = server.get(path).json
    assert isinstance(value, int)
    return value


def settled(server: Server, path: str) -> int:
    """A counter, once it stands still."""
    values = [-1]

    def still() -> bool:
        values.append(number(server, path))
        return len(values) > 40 and len(set(values[-40:])) == 1

    until("the counter stands still", still)
    return values[-1]


def log_has(server: Server, line: str) -> None:
    until(line, lambda: line in server.get("/log").json)


def reset(connection: Connection) -> None:
    """Ends a connection so that the other side hears of it at once."""
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_an_upload_is_echoed_while_it_arrives(streams: Server) -> None:
    body = pattern(20 * MIB)
    with streams.connect() as connection:
        sender = threading.Thread(
            target=lambda: connection.send(head("POST", "/echo", {"content-length": str(len(body))}) + body)
        )
        sender.start()
        response = connection.response()
        sender.join()
        assert response.all("transfer-encoding") == ["chunked"]
        assert hashlib.sha256(response.body).digest() == hashlib.sha256(body).digest()
        assert connection.request("GET", "/counter/none").json == 0, "the connection lives on"


@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_an_upload_is_taken_in_pieces(streams: Server, framing: str) -> None:
    body = pattern(20 * MIB)
    if framing == "sized":
        request = head("POST", "/digest", {"content-length": str(len(body))}) + body
    else:
        parts = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
        request = head("POST", "/digest", {"transfer-encoding": "chunked"}) + chunked(*parts)
    with streams.connect() as connection:
        connection.send(request)
        assert connection.response().json == {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def test_small_bodies_need_no_second_record(streams: Server) -> None:
    with streams.connect() as connection:
        for body in (b"", b"x", b"y" * 1000):
            assert connection.request("POST", "/echo", body=body).body == body


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_client_that_reads_slowly_stops_the_content(streams: Server, kind: str) -> None:
    count = 800  # 50 MiB
    with streams.connect() as connection:
        connection.ask("GET", f"/download/{kind}/slow-{kind}/{count}")
        assert settled(streams, f"/counter/slow-{kind}") <= UNDER_WAY_MAX
        assert streams.get("/counter/none").json == 0, "others are answered meanwhile"
        response = connection.response()
        assert response.body == PIECE * count
    assert number(streams, f"/counter/slow-{kind}") == count * len(PIECE)
    log_has(streams, f"slow-{kind}: clean")


def test_a_handler_that_reads_slowly_stops_the_upload(streams: Server) -> None:
    size = 30 * MIB
    sent = 0
    with streams.connect() as connection:
        connection.send(head("POST", "/slow-upload/slow", {"content-length": str(size)}))
        connection.socket.settimeout(1)
        data = pattern(size)
        with pytest.raises(TimeoutError):
            while sent < size:
                sent += connection.socket.send(data[sent : sent + 64 * 1024])
        assert sent <= UNDER_WAY_MAX
        assert streams.get("/counter/none").json == 0, "others are answered meanwhile"
        with streams.connect() as other:
            assert other.request("POST", "/open/slow", {"content-length": "0"}).status == 200
        connection.socket.settimeout(30)
        connection.send(data[sent:])
        assert connection.response().json == size


def test_fifty_slow_clients_cost_little_memory(streams: Server) -> None:
    """50 responses of 100 MB that nobody reads. A figure for what a worker and the edge hold of them."""
    connections = [streams.connect() for _ in range(50)]
    try:
        for place, connection in enumerate(connections):
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
            connection.ask("GET", f"/download/async/many-{place}/1600")
        for place in range(50):
            settled(streams, f"/counter/many-{place}")
        assert resident_kib(streams.pid) < 150 * 1024
        assert resident_kib(streams.worker_pid()) < 150 * 1024
    finally:
        for connection in connections:
            reset(connection)
    for place in range(50):
        log_has(streams, f"many-{place}: clean")


def test_events_arrive_one_by_one(streams: Server) -> None:
    with streams.connect() as connection, streams.connect() as other:
        connection.ask("GET", "/events/ticks")
        received = b""
        for event in range(3):
            text = f"event: tick\ndata: {event}\nid: {event}\n\n".encode()
            while not received.replace(b": ping\n\n", b"").rpartition(b"\r\n\r\n")[2].replace(b"\r\n", b"").endswith(text):
                received += connection.socket.recv(4096)
            assert f"data: {event + 1}".encode() not in received
            assert other.request("POST", f"/open/ticks-{event}", {"content-length": "0"}).status == 200
        while b": ping\n\n" not in received:
            received += connection.socket.recv(4096)
        head_, _, _ = received.partition(b"\r\n\r\n")
        assert b"content-type: text/event-stream; charset=utf-8" in head_
        reset(connection)
    log_has(streams, "ticks: clean")


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_client_that_goes_away_ends_the_content(streams: Server, kind: str) -> None:
    with streams.connect() as connection:
        connection.ask("GET", f"/download/{kind}/gone-{kind}/100000")
        assert connection.socket.recv(1000)
        reset(connection)
    log_has(streams, f"gone-{kind}: clean")


def test_a_client_that_goes_away_ends_the_upload(streams: Server) -> None:
    with streams.connect() as connection:
        connection.send(head("POST", "/upload/abandoned", {"content-length": str(10 * MIB)}) + bytes(MIB))
        until("a part arrived", lambda: number(streams, "/counter/abandoned") == MIB)
        reset(connection)
    log_has(streams, "abandoned: clean")
    assert number(streams, "/counter/abandoned") == MIB


def test_content_that_fails_half_way_ends_the_connection(streams: Server) -> None:
    with streams.connect() as connection, streams.connect() as other:
        connection.ask("GET", "/breaks/3")
        assert connection.exactly(12) == b"HTTP/1.1 200"
        assert other.request("POST", "/open/break", {"content-length": "0"}).status == 200
        with pytest.raises(Malformed, match="cut off"):
            connection.exactly(10**6)
    assert streams.get("/breaks/0").status == 500, "nothing was out yet"
    assert streams.log.wait("ValueError: half way through", 2)


def test_files(streams: Server, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(pattern(3 * MIB + 1))
    with streams.connect() as connection:
        target = f"/file?path={path}"
        whole = connection.request("GET", target)
        assert whole.body == path.read_bytes()
        assert whole["content-length"] == str(3 * MIB + 1)
        assert whole["content-type"] == "text/plain; charset=utf-8"
        part = connection.request("GET", target, {"range": "bytes=1000000-2999999"})
        assert (part.status, part.body) == (206, path.read_bytes()[1_000_000:3_000_000])
        assert part["content-range"] == f"bytes 1000000-2999999/{3 * MIB + 1}"
        assert connection.request("HEAD", target)["content-length"] == str(3 * MIB + 1)
        assert connection.request("GET", target, {"range": "bytes=9999999-"}).status == 416
        assert connection.request("GET", "/file?path=/nowhere").status == 500


def test_background_work_does_not_hold_the_answer_up(streams: Server) -> None:
    assert streams.get("/background/work").json == "at once"
    assert "work: done" not in streams.get("/log").json
    with streams.connect() as connection:
        assert connection.request("POST", "/open/work", {"content-length": "0"}).status == 200
    log_has(streams, "work: done")


def test_no_task_is_left_behind(streams: Server) -> None:
    quiet = number(streams, "/tasks")
    for stage in range(30):
        with streams.connect() as connection:
            if stage % 3 == 0:
                connection.ask("GET", f"/download/async/left-{stage}/1000")
                connection.socket.recv(1 + stage * 1000)
            elif stage % 3 == 1:
                connection.send(head("POST", f"/upload/left-{stage}", {"content-length": "1000000"}) + bytes(stage * 1000))
            else:
                connection.ask("GET", f"/events/left-{stage}")
                connection.socket.recv(100)
            reset(connection)
    until("the tasks have ended", lambda: number(streams, "/tasks") <= quiet)
