"""WSGI applications on the native side: environ, input, what becomes of iterables and mistakes, and the threads that run them."""

import contextlib
import io
import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.validate import validator

import pytest

_native = pytest.importorskip("fasterapi._native")
if not hasattr(_native, "EdgeSide"):
    pytest.skip("built without the feature `testing`", allow_module_level=True)

from fasterapi._wsgi import WsgiApplication  # noqa: E402

WINDOW = 256 * 1024
PIECE = bytes(range(256)) * 64  # 16 KiB
AT_MOST_S = 20.0

App = Callable[[dict[str, Any], Any], Any]


class Threads:
    """An application on threads of its own, with the edge's side played by the test; ends with the block."""

    def __init__(self, app: App, *, count: int = 1, **options: Any) -> None:
        self.edge = _native.EdgeSide(**{k: options.pop(k) for k in ("chunk_count", "ring_size") if k in options})
        self.lanes = _native.Lanes(self.edge.attach(), self.edge.fds())
        self.reported: list[BaseException] = []
        made = WsgiApplication(app, threads=count, **{"server": ("127.0.0.1", 8000), **options})
        made.report = self.reported.append  # type: ignore[method-assign, assignment]
        loop = type("Loop", (), {"create_future": staticmethod(lambda: None)})()
        unused: Any = None
        self.lanes.serve(made.endpoints(), loop=loop, dumps=unused, dumps_args=(), encode=unused, fail=unused)
        self.died: list[BaseException] = []
        self.threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()
        self.seen: dict[int, list[Any]] = {}
        self.bodies: dict[int, bytearray] = {}
        self.windows: dict[int, int] = {}
        self.next_id = 0

    def _work(self) -> None:
        try:
            self.lanes.work()
        except BaseException as error:
            self.died.append(error)

    def ask(self, path: str = "/", **fields: Any) -> int:
        self.next_id += 1
        fields.setdefault("path", path)
        self.windows[self.next_id] = WINDOW - len(fields.get("body", b""))
        assert self.edge.send_request(self.next_id, **fields)
        self.edge.publish()
        return self.next_id

    def collect(self, *, credit: bool = True) -> None:
        """Takes what has come; sleeps a moment on the doorbell if that is nothing."""
        messages = self.edge.receive()
        if not messages and not self.edge.arm():
            select.select([self.edge.doorbell(0)], [], [], 0.005)
        for message in messages:
            kind, ident, *rest = message
            if kind == "credit":
                self.windows[ident] += rest[0]
            self.seen.setdefault(ident, []).append(message)
            if kind == "response":
                self.bodies[ident] = bytearray(rest[2])
            elif kind == "body":
                self.bodies[ident] += rest[0]
                if credit and rest[0]:
                    self.edge.send_credit(ident, len(rest[0]))
        self.edge.publish()

    def ended(self, ident: int) -> bool:
        return any(m[0] == "abort" or (m[0] in ("response", "body") and m[-1]) for m in self.seen.get(ident, []))

    def until(self, done: Callable[[], Any], *, credit: bool = True) -> None:
        deadline = time.monotonic() + AT_MOST_S
        while not done():
            assert time.monotonic() < deadline, "timed out"
            self.collect(credit=credit)

    def answer(self, ident: int) -> tuple[int, bytes]:
        """Status and whole body; status 0 for an exchange that was aborted."""
        self.until(lambda: self.ended(ident))
        messages = self.seen[ident]
        if any(message[0] == "abort" for message in messages):
            return 0, b""
        return next(message[2] for message in messages if message[0] == "response"), bytes(self.bodies[ident])

    def get(self, path: str = "/", **fields: Any) -> tuple[int, bytes]:
        return self.answer(self.ask(path, **fields))

    def send(self, ident: int, data: bytes, *, end: bool = False) -> None:
        """Sends a body within its credit."""
        deadline = time.monotonic() + AT_MOST_S
        while data or end:
            assert time.monotonic() < deadline, "timed out"
            part = data[: self.windows[ident]]
            last = end and len(part) == len(data)
            taken = self.edge.send_body(ident, part, end=last) if part or last else None
            if taken is not None:
                self.windows[ident] -= taken
                end = end and not (last and taken == len(part))
                data = data[taken:]
            self.edge.publish()
            self.collect()


@contextlib.contextmanager
def serving(app: App, **options: Any) -> Iterator[Threads]:
    made = Threads(app, **options)
    try:
        yield made
        made.until(lambda: made.lanes.in_flight() == 0)
    finally:
        made.lanes.dismiss()
        for thread in made.threads:
            thread.join(AT_MOST_S)
    assert not any(thread.is_alive() for thread in made.threads)
    assert made.died == []


def hello(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def test_a_list_of_one_is_one_record_with_its_length() -> None:
    with serving(hello) as w:
        ident = w.ask()
        assert w.answer(ident) == (200, b"hello")
        assert w.seen[ident] == [("response", ident, 200, [(b"content-type", b"text/plain")], b"hello", 5, True)]
        for _ in range(300):
            assert w.get() == (200, b"hello")


def test_the_environ() -> None:
    seen: list[dict[str, Any]] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        seen.append(environ)
        return hello(environ, start_response)

    fields = [
        (b"host", b"example.org"),
        (b"x-two-words", b"1"),
        (b"x-two-words", b"caf\xe9"),
        (b"x_two_words", b"evil"),
        (b"cookie", b"a=1"),
        (b"cookie", b"b=2"),
        (b"content-type", b"text/plain"),
        (b"content-length", b"3"),
    ]
    with serving(app) as w:
        path: dict[str, Any] = {"raw_path": b"/bad-%ff/%E2%82%AC", "decoded_path": b"/bad-\xff/\xe2\x82\xac"}
        w.get(query=b"q=%20", headers=fields, client="[::1]:99", method="BREW", body=b"abc", content_length=3, **path)
        w.get("/p", version=10)
    first, second = seen
    expected = {
        "REQUEST_METHOD": "BREW",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/bad-\xff/\xe2\x82\xac",
        "QUERY_STRING": "q=%20",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "::1",
        "REMOTE_PORT": "99",
        "HTTP_HOST": "example.org",
        "HTTP_X_TWO_WORDS": "1,café",
        "HTTP_COOKIE": "a=1; b=2",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "3",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }
    assert {key: first[key] for key in expected} == expected
    assert set(first) - set(expected) == {"wsgi.input", "wsgi.errors", "wsgi.file_wrapper"}
    assert (second["SERVER_PROTOCOL"], second["PATH_INFO"], second["QUERY_STRING"]) == ("HTTP/1.0", "/p", "")
    assert second["REMOTE_ADDR"] == ""


@pytest.mark.parametrize(("path", "below"), [("/api/x", "/x"), ("/api", ""), ("/apiary", "/apiary"), ("/x", "/x")])
def test_the_root_path_is_the_script_name(path: str, below: str) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return [f"{environ['SCRIPT_NAME']} {environ['PATH_INFO']}".encode()]

    with serving(app, root_path="/api") as w:
        assert w.get(path) == (200, f"/api {below}".encode())


def test_a_strict_validator_is_content() -> None:
    @validator
    def app(environ: Any, start_response: Any) -> Any:
        body = environ["wsgi.input"].read(3) + environ["wsgi.input"].readline() + b"".join(environ["wsgi.input"])
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return iter([body])

    with serving(app) as w:
        body = b"one\ntwo\nthree"
        fields = [(b"host", b"x"), (b"content-length", str(len(body)).encode())]
        assert w.get(method="POST", headers=fields, body=body, content_length=len(body)) == (200, body)
        assert w.reported == []


def test_the_input_reads_like_a_file() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        file = environ["wsgi.input"]
        got = [file.read(0), file.read(2), file.readline(), file.readline(3), file.readline(), file.read1(2)]
        got += [b"|".join(file.readlines(1)), next(file), *file.readlines(), file.read(), file.readline(), file.read(5)]
        start_response("200 OK", [])
        return [repr(got).encode()]

    text = b"ab1\nlonger line\nxyz\nfour\nfive\nsix"
    expected = [b"", b"ab", b"1\n", b"lon", b"ger line\n", b"xy", b"z\n", b"four\n", b"five\n", b"six", b"", b"", b""]
    with serving(app) as w:
        assert w.get(body=text) == (200, repr(expected).encode())
        for cut in range(len(text)):
            ident = w.ask(body=text[:cut], end=False)
            w.collect()
            w.send(ident, text[cut:], end=True)
            status, body = w.answer(ident)
            assert status == 200
            if text[cut - 1 : cut + 1] != b"xy" and cut != 17:
                assert body == repr(expected).encode(), cut


def test_a_large_upload_is_taken_as_it_is_read_and_echoed_as_it_comes() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return iter(lambda: environ["wsgi.input"].read(10_000), b"")

    with serving(app) as w:
        ident = w.ask(body=b"first", end=False)
        w.send(ident, PIECE * 100, end=True)
        status, body = w.answer(ident)
        assert (status, len(body), body == b"first" + PIECE * 100) == (200, 5 + 100 * len(PIECE), True)


def test_nobody_sends_more_than_a_window_to_an_application_that_does_not_read() -> None:
    gate = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        gate.wait(AT_MOST_S)
        start_response("200 OK", [])
        return [str(len(environ["wsgi.input"].read())).encode()]

    with serving(app) as w:
        ident = w.ask(end=False)
        assert w.edge.send_body(ident, bytes(WINDOW)) is not None
        w.edge.publish()
        deadline = time.monotonic() + 0.2
        w.until(lambda: time.monotonic() > deadline)
        assert w.seen.get(ident, []) == []
        gate.set()
        w.until(lambda: any(m[0] == "credit" for m in w.seen.get(ident, [])))
        assert w.edge.send_body(ident, b"!", end=True) == 1
        w.edge.publish()
        assert w.answer(ident)[0] == 200


def test_an_upload_whose_client_goes_away_raises() -> None:
    caught: list[BaseException] = []

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        try:
            environ["wsgi.input"].read()
        except OSError as error:
            caught.append(error)
            raise
        return []

    with serving(app) as w:
        ident = w.ask(body=b"some", end=False)
        w.collect()
        w.edge.send_cancel(ident)
        assert w.answer(ident) == (0, b"")
        w.until(lambda: caught)
        assert isinstance(caught[0], _native.ClientDisconnected)
        assert w.get(body=b"x")[0] == 500  # start_response was not called.
    assert [str(error) for error in w.reported] == ["the application has not called start_response()"]


def test_pieces_go_as_they_are_made() -> None:
    gate = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b""
        yield b"one"
        gate.wait(AT_MOST_S)
        yield b"two"

    with serving(app) as w:
        ident = w.ask()
        w.until(lambda: bytes(w.bodies.get(ident, b"")) == b"one")
        assert not w.ended(ident)
        gate.set()
        assert w.answer(ident) == (200, b"onetwo")


class Closing:
    """An iterable that says whether it was closed."""

    def __init__(self, *items: Any) -> None:
        self.items, self.taken, self.closed = iter(items), 0, threading.Event()

    def __iter__(self) -> "Closing":
        return self

    def __next__(self) -> Any:
        item = next(self.items)
        self.taken += 1
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self.closed.set()


def test_an_iterable_is_closed_however_it_ends() -> None:
    results = {
        "/whole": Closing(b"a", b"b"),
        "/early": Closing(ValueError("early")),
        "/late": Closing(b"a" * 100, ValueError("late")),
        "/text": Closing("text"),
        "/short": Closing(b"a"),
    }

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        start_response("200 OK", [("Content-Length", "7")] if path == "/short" else [])
        return results[path]

    with serving(app) as w:
        found = {path: w.get(path) for path in results}
        for result in results.values():
            assert result.closed.wait(AT_MOST_S)
    error = (500, b"Internal Server Error")
    assert found == {"/whole": (200, b"ab"), "/early": error, "/late": (0, b""), "/text": error, "/short": (0, b"")}
    assert [type(error) for error in w.reported] == [ValueError, ValueError, TypeError, RuntimeError]


def test_a_known_length_ends_with_its_last_piece() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "5")])
        return iter([b"hello"])

    with serving(app) as w:
        ident = w.ask()
        assert w.answer(ident) == (200, b"hello")
        assert len(w.seen[ident]) == 1
        assert w.get(method="HEAD")[0] == 200
    assert w.reported == []


def test_a_client_that_does_not_read_holds_the_application_and_its_going_ends_it() -> None:
    endless = Closing(*[PIECE] * 1000)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return endless

    with serving(app) as w:
        ident = w.ask()
        w.until(lambda: len(w.bodies.get(ident, b"")) >= WINDOW, credit=False)
        deadline = time.monotonic() + 0.2
        w.until(lambda: time.monotonic() > deadline, credit=False)
        assert len(w.bodies[ident]) == WINDOW
        assert endless.taken <= (WINDOW + 2 * 64 * 1024) // len(PIECE) + 1
        w.edge.send_cancel(ident)
        w.edge.publish()
        assert endless.closed.wait(AT_MOST_S)
        w.until(lambda: w.ended(ident))
    assert w.reported == []


def test_write_and_replaced_heads() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        write = start_response("200 OK", [("X-First", "1")])
        if path == "/write":
            write(b"one ")
            write(b"two ")
            return [b"three"]
        if path == "/twice":
            start_response("201 Created", [])
        try:
            if path == "/late":
                write(b"out")
            raise ValueError("of the application")
        except ValueError:
            import sys

            start_response("503 Sorry", [], sys.exc_info())
            return [b"sorry"]

    with serving(app) as w:
        assert w.get("/write") == (200, b"one two three")
        assert w.get("/replaced") == (503, b"sorry")
        assert w.get("/twice") == (500, b"Internal Server Error")
        assert w.get("/late") == (0, b"")
    assert [str(error) for error in w.reported] == ["start_response() was called already", "of the application"]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200OK", []),
        ("2000 OK", []),
        ("99 Low", []),
        ("100 Continue", []),
        ("", []),
        (200, []),
        ("200 OK", {}),
        ("200 OK", [("a", b"b")]),
        ("200 OK", [("a",)]),
        ("200 OK", [("a b", "c")]),
        ("200 OK", [("a", "c\r\nd: e")]),
        ("200 OK", [("a", "\u20ac")]),
        ("200 OK", [("content-length", "many")]),
        ("200 OK", [("a", "\ud800")]),
    ],
)
def test_a_wrong_head_is_the_applications_mistake(status: Any, headers: Any) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, headers)
        return [b""]

    with serving(app) as w:
        assert w.get() == (500, b"Internal Server Error")
    assert len(w.reported) == 1


def test_headers_are_latin_1() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("404 Nobody Knows", [("X-Name", "café")])
        return ()

    with serving(app) as w:
        ident = w.ask()
        assert w.answer(ident) == (404, b"")
        assert w.seen[ident][0][3] == [(b"x-name", b"caf\xe9")]


def test_a_file_is_sent_in_large_blocks_and_closed() -> None:
    sizes: list[int] = []

    class File(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            sizes.append(size or 0)
            return super().read(size)

    file = File(PIECE * 20)

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](file, 4096)

    with serving(app) as w:
        assert w.get() == (200, PIECE * 20)
    assert set(sizes) == {64 * 1024}
    assert file.closed
    assert list(_native.FileWrapper(io.BytesIO(b"abcde"), 2)) == [b"ab", b"cd", b"e"]


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), ValueError("x")])
def test_no_exception_ends_a_thread(error: BaseException) -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        raise error

    with serving(app) as w:
        assert w.get() == (500, b"Internal Server Error")
        assert w.get() == (500, b"Internal Server Error")
    assert w.reported == [error, error]


def test_busy_threads_do_not_hold_up_the_others() -> None:
    gates = [threading.Event() for _ in range(3)]

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] != "/":
            gates[int(environ["PATH_INFO"][1:])].wait(AT_MOST_S)
        return hello(environ, start_response)

    with serving(app, count=4) as w:
        slow = [w.ask(f"/{place}") for place in range(3)]
        for _ in range(200):
            assert w.get() == (200, b"hello")
        assert not any(w.ended(ident) for ident in slow)
        for gate in gates:
            gate.set()
        assert [w.answer(ident) for ident in slow] == [(200, b"hello")] * 3


def test_while_all_threads_are_busy_the_loop_takes_what_arrives() -> None:
    gate = threading.Event()

    def app(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/slow":
            gate.wait(AT_MOST_S)
        return hello(environ, start_response)

    with serving(app) as w:
        slow = w.ask("/slow")
        w.until(lambda: w.lanes.in_flight() == 1)
        next_one, gone = w.ask(), w.ask()
        w.edge.send_cancel(slow, "deadline")
        w.edge.send_cancel(gone)
        w.edge.publish()
        w.lanes.relieve()
        assert not w.lanes.pending()
        assert w.answer(slow) == (0, b"")
        assert w.answer(gone) == (0, b"")
        assert not w.ended(next_one)
        gate.set()
        assert w.answer(next_one) == (200, b"hello")
    assert w.reported == []


def test_many_threads_stream_both_ways_at_once_through_a_small_lane() -> None:
    def app(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return iter(lambda: environ["wsgi.input"].read(5000), b"")

    with serving(app, count=4, chunk_count=8, ring_size=65_536) as w:
        idents = [w.ask(body=b"x", end=False) for _ in range(12)]
        for turn in range(4):
            for ident in idents:
                w.send(ident, PIECE, end=turn == 3)
        for ident in idents:
            status, body = w.answer(ident)
            assert (status, body == b"x" + PIECE * 4) == (200, True)
