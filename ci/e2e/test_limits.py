"""Every bound on what a client may send, and the answer to what goes beyond it. The numbers are those of src/limits.rs."""

import contextlib
import threading
import time

import pytest
from payload import pattern
from server import Server
from wire import Connection, Response, head

HEAD = 32 * 1024
FIELDS = 100
START_LINE = 8 * 1024
BODY = 32 * 1024 * 1024
TRAILERS = 8 * 1024
EXTENSIONS = 4 * 1024

CHUNKED = head("POST", "/echo", {"transfer-encoding": "chunked"})


def refused(server: Server, request: bytes) -> Response:
    """The one answer to a request that ends its connection."""
    with server.connect() as connection:
        connection.send(request)
        response = connection.response()
        assert response.closes, response
        assert list(response.json) == ["detail"]
        assert connection.rest() == b"", "no second response"
    return response


def of_size(size: int) -> bytes:
    """A request whose head has exactly so many bytes, in fields that are no longer than a line may be."""
    empty = len(head("GET", "/tag/x", {"a": "", "b": "", "c": ""}))
    length, rest = divmod(size - empty, 3)
    request = head("GET", "/tag/x", {"a": "a" * length, "b": "b" * length, "c": "c" * (length + rest)})
    assert len(request) == size
    return request


def test_a_head_may_have_32_kib(echo: Server) -> None:
    with echo.connect() as connection:
        connection.send(of_size(HEAD))
        assert connection.response().json == {"tag": "x"}
    assert refused(echo, of_size(HEAD + 1)).status == 431


def test_a_head_may_have_100_fields(echo: Server) -> None:
    fields = [("host", "test"), *((f"x-{n}", str(n)) for n in range(FIELDS - 1))]
    with echo.connect() as connection:
        assert connection.request("GET", "/tag/x", fields).status == 200
    assert refused(echo, head("GET", "/tag/x", [*fields, ("one-too", "many")])).status == 431


def test_a_start_line_may_have_8_kib(echo: Server) -> None:
    frame = len("GET /tag/x? HTTP/1.1")
    with echo.connect() as connection:
        assert connection.request("GET", "/tag/x?" + "q" * (START_LINE - frame)).status == 200
    assert refused(echo, head("GET", "/tag/x?" + "q" * (START_LINE - frame + 1))).status == 414
    assert refused(echo, b"GET /" + b"a" * (START_LINE + 8)).status == 414, "before its end is seen"


def test_a_declared_body_may_have_32_mib(echo: Server) -> None:
    body = pattern(BODY)
    with echo.connect() as connection:
        assert connection.request("POST", "/digest", body=body).json["size"] == BODY
    assert refused(echo, head("POST", "/echo", {"content-length": str(BODY + 1)})).status == 413
    assert refused(echo, head("POST", "/echo", {"content-length": str(2**64 - 1)})).status == 413


def test_a_body_too_large_is_refused_before_it_is_asked_for(echo: Server) -> None:
    response = refused(echo, head("POST", "/echo", {"content-length": str(BODY + 1), "expect": "100-continue"}))
    assert (response.status, response.interim) == (413, [])


def test_a_chunked_body_is_refused_with_the_chunk_that_makes_it_too_large(echo: Server) -> None:
    assert refused(echo, CHUNKED + b"%x\r\n" % (BODY + 1)).status == 413
    piece = b"%x\r\n" % (BODY // 2) + bytes(BODY // 2) + b"\r\n"
    assert refused(echo, CHUNKED + piece + piece + b"1\r\n").status == 413


def test_chunk_extensions_and_trailers_are_bounded(echo: Server) -> None:
    with echo.connect() as connection:
        connection.send(
            CHUNKED + b"1;" + b"e" * (EXTENSIONS - 1) + b"\r\nx\r\n0\r\n" + b"t: " + b"t" * (TRAILERS - 100) + b"\r\n\r\n"
        )
        assert connection.response().body == b"x"
    assert refused(echo, CHUNKED + b"1;" + b"e" * EXTENSIONS + b"\r\n").status == 400
    assert refused(echo, CHUNKED + b"0\r\n" + b"t: " + b"t" * TRAILERS).status == 431


def test_an_unwanted_body_is_not_read_for_ever(echo: Server) -> None:
    with echo.connect() as connection:
        short = connection.request("POST", "/nowhere", body=bytes(64 * 1024))
        assert (short.status, short.closes) == (404, False)
        connection.ask("POST", "/nowhere", {"content-length": str(BODY)})
        long = connection.response()
        assert (long.status, long.closes) == (404, True)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (head("POST", "/echo", {"transfer-encoding": "gzip, chunked"}), 501),
        (head("POST", "/echo", {"transfer-encoding": "identity"}), 501),
        (b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org:443\r\n\r\n", 501),
        (head("GET", "/tag/x", version="HTTP/2.0"), 505),
        (head("GET", "/tag/x", version="HTTP/1.2"), 505),
        (head("GET", "/tag/x", version="HTTP/0.9"), 505),
        (head("POST", "/echo", {"expect": "a-pony", "content-length": "1"}), 417),
    ],
)
def test_what_this_server_does_not_do(echo: Server, request_: bytes, status: int) -> None:
    assert refused(echo, request_).status == status


# --- time ------------------------------------------------------------------------------------------------------------


class Trickle(threading.Thread):
    """A client that sends one byte a second until it is answered."""

    def __init__(self, connection: Connection, begin: bytes, byte: bytes) -> None:
        super().__init__(daemon=True)
        self.connection, self.begin, self.byte = connection, begin, byte
        self.response: Response | None = None
        self.took_s = 0.0
        self._answered = threading.Event()

    def run(self) -> None:
        started = time.monotonic()
        self.connection.send(self.begin)
        sender = threading.Thread(target=self._send, daemon=True)
        sender.start()
        try:
            self.response = self.connection.response()
            assert self.connection.rest() == b""
        finally:
            self.took_s = time.monotonic() - started
            self._answered.set()
            sender.join()

    def _send(self) -> None:
        with contextlib.suppress(ConnectionError):  # It was answered just now.
            while self.byte and not self._answered.wait(1):
                self.connection.send(self.byte)


def test_clients_that_take_their_time_are_cut_off_with_408(echo: Server) -> None:
    """All at once, since each takes its 10 seconds."""
    begin: dict[str, tuple[bytes, bytes]] = {
        "nothing after the first byte": (b"G", b""),
        "a head without its end": (head("GET", "/tag/x")[:-2], b""),
        "a head at a byte a second": (b"GET /tag/x HTTP/1.1\r\nhost: t\r\nx: ", b"x"),
        "a body at a byte a second": (head("POST", "/echo", {"content-length": "1000"}), b"x"),
        "a chunked body at a byte a second": (CHUNKED + b"3e8\r\n", b"x"),
        "chunk framing at a byte a second": (CHUNKED + b"1;", b"x"),
        "an unwanted body at a byte a second": (head("POST", "/nowhere", {"content-length": "1000"}), b"x"),
    }
    slow = {name: Trickle(echo.connect(40), *how) for name, how in begin.items()}
    pipelined = echo.connect(40)
    assert pipelined.request("GET", "/tag/first").status == 200
    slow["a second head without its end"] = Trickle(pipelined, b"GET ", b"")
    for thread in slow.values():
        thread.start()
    with echo.connect() as connection:
        while any(thread.is_alive() for thread in slow.values()):
            assert connection.request("GET", "/tag/x").status == 200, "nobody else notices"
            for thread in slow.values():
                thread.join(0.02)
    for name, thread in slow.items():
        thread.connection.close()
        assert thread.response is not None, name
        assert (thread.response.status, thread.response.closes) == (408, True), name
        # A body may pause for 30.
        assert 9.5 < thread.took_s < 25, (name, thread.took_s)
