"""ASGI applications on the Python side: which objects are taken for one, their lifespan, files that are sent by name."""

import asyncio
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes import FakeExchange
from fasterapi import FastAPI
from fasterapi._asgi import AsgiApplication, Lifespan, LifespanFailed, as_asgi3
from fasterapi._load import Found, interface_of, load

# --- detection


async def asgi3(scope: Any, receive: Any, send: Any) -> None: ...


async def asgi3_with_options(scope: Any, receive: Any, send: Any, option: int = 0) -> None: ...


def asgi3_by_awaitable(scope: Any, receive: Any, send: Any) -> Any:
    return asgi3(scope, receive, send)


def asgi2(scope: Any) -> Any:
    async def instance(receive: Any, send: Any) -> None:
        await send({"scope": scope, "received": await receive()})

    return instance


async def handler(user_id: int) -> None: ...


async def takes_anything(*args: Any) -> None: ...


def wsgi(environ: Any, start_response: Any) -> Any: ...


def factory() -> Any:
    return asgi3


class Asgi3:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class Asgi2:
    def __init__(self, scope: Any) -> None: ...

    async def __call__(self, receive: Any, send: Any) -> None: ...


class Wsgi:
    def __call__(self, environ: Any, start_response: Any) -> Any: ...


class WsgiByInstance:
    def __init__(self, environ: Any, start_response: Any) -> None: ...

    def __iter__(self) -> Iterator[bytes]:
        return iter(())


class Asgi3ByInstance:
    def __init__(self, scope: Any, receive: Any, send: Any) -> None: ...

    def __await__(self) -> Any: ...


@pytest.mark.parametrize(
    ("app", "interface"),
    [
        (asgi3, "asgi"),
        (asgi3_with_options, "asgi"),
        (asgi3_by_awaitable, "asgi"),
        (functools.partial(asgi3_with_options, option=1), "asgi"),
        (Asgi3(), "asgi"),
        (Asgi3().__call__, "asgi"),
        (Asgi3ByInstance, "asgi"),
        (asgi2, "asgi"),
        (Asgi2, "asgi"),
        (wsgi, "wsgi"),
        (Wsgi(), "wsgi"),
        (Wsgi().__call__, "wsgi"),
        (WsgiByInstance, "wsgi"),
        (takes_anything, "asgi"),
        (handler, None),
        (factory, None),
        (Asgi3, None),
        (3, None),
        (dict, None),
    ],
)
def test_the_kind_of_an_application_shows(app: Any, interface: str | None) -> None:
    assert interface_of(app) == interface


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Found]:
    """Loads from a module that has this file's applications."""
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent), *sys.path])

    def run(attribute: str, **options: Any) -> Found:
        return load(f"{__name__.rpartition('.')[2]}:{attribute}", str(Path(__file__).parent), **options)

    return run


native = FastAPI()
number = 3


def test_what_is_named_is_loaded(module: Callable[..., Found]) -> None:
    assert module("native").interface == "native"
    assert module("Wsgi", factory=True).interface == "wsgi"
    assert module("factory", factory=True).interface == "asgi"
    assert module("asgi3", interface="wsgi").interface == "wsgi", "whoever names it knows it"


@pytest.mark.parametrize(
    ("attribute", "options", "message"),
    [
        ("factory", {}, "if it is a function that makes one, say --factory"),
        ("Asgi3", {}, "is the class Asgi3: neither a fasterapi.FastAPI nor"),
        ("number", {"factory": True}, "it is no factory"),
        ("number", {"interface": "asgi"}, "not ASGI's kind of application"),
        ("native", {"interface": "asgi"}, "not ASGI's kind of application"),
        ("asgi3", {"interface": "native"}, "not a fasterapi.FastAPI application"),
    ],
)
def test_what_is_not_an_application_is_described(
    module: Callable[..., Found], attribute: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        module(attribute, **options)


def test_an_older_application_is_called_twice() -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return "event"

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(as_asgi3(asgi2)({"type": "http"}, receive, send))
    assert sent == [{"scope": {"type": "http"}, "received": "event"}]
    assert as_asgi3(asgi3) is asgi3
    asyncio.run(as_asgi3(asgi3_by_awaitable)({}, receive, send))


# --- lifespan


def live(app: Any, mode: Any = "auto") -> tuple[list[Any], dict[str, Any]]:
    """Starts and stops it; what was noted in between, and the state."""
    notes: list[Any] = []
    state: dict[str, Any] = {"notes": notes}

    async def run() -> None:
        lifespan = Lifespan(app, mode, state)
        await lifespan.startup()
        notes.append("serving")
        await lifespan.shutdown()
        notes.append("over")
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())
    return notes, state


async def whole(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "lifespan"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
    scope["state"]["notes"].append((await receive())["type"])
    scope["state"]["pool"] = 7
    await send({"type": "lifespan.startup.complete"})
    scope["state"]["notes"].append((await receive())["type"])
    await send({"type": "lifespan.shutdown.complete"})


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_an_application_lives_from_startup_to_shutdown(mode: str) -> None:
    notes, state = live(whole, mode)
    assert notes == ["lifespan.startup", "serving", "lifespan.shutdown", "over"]
    assert state["pool"] == 7


def test_off_is_off() -> None:
    assert live(whole, "off")[0] == ["serving", "over"]


async def knows_nothing(scope: Any, receive: Any, send: Any) -> None:
    raise NotImplementedError(scope["type"])


async def returns(scope: Any, receive: Any, send: Any) -> None: ...


async def exits(scope: Any, receive: Any, send: Any) -> None:
    raise SystemExit("no")


@pytest.mark.parametrize("app", [knows_nothing, exits])
def test_auto_lets_one_be_that_knows_nothing_of_it(app: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert live(app, "auto")[0] == ["serving", "over"]
    assert caplog.messages == ["ASGI 'lifespan' protocol appears unsupported."]


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_one_that_returns_at_once_is_let_be(mode: str) -> None:
    assert live(returns, mode)[0] == ["serving", "over"]


def test_on_means_that_it_must_work() -> None:
    with pytest.raises(NotImplementedError):
        live(knows_nothing, "on")


@pytest.mark.parametrize("mode", ["auto", "on"])
def test_a_failure_that_is_reported_is_one(mode: str) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise RuntimeError("which says the same")

    with pytest.raises(LifespanFailed, match="no database"):
        live(fails, mode)


def test_messages_out_of_place_are_refused() -> None:
    async def wrong(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(
            RuntimeError, match=r"Expected ASGI message 'lifespan.startup.complete', but got 'http.response.start'"
        ):
            await send({"type": "http.response.start"})
        await send({"type": "lifespan.startup.complete"})
        with pytest.raises(RuntimeError, match=r"Expected ASGI message 'lifespan.shutdown.complete'"):
            await send({"type": "lifespan.startup.complete"})
        await receive()
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    assert live(wrong)[0] == ["serving", "over"]


@pytest.mark.parametrize("how", ["message", "raise"])
def test_a_failure_at_the_end_is_logged(how: str, caplog: pytest.LogCaptureFixture) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        if how == "raise":
            raise ValueError("the last page is lost")
        await send({"type": "lifespan.shutdown.failed", "message": "the last page is lost"})

    assert live(fails)[0] == ["serving", "over"]
    assert "the last page is lost" in caplog.text


# --- what is left to this side


class FakeCycle:
    def __init__(self, exchange: FakeExchange) -> None:
        self.exchange = exchange

    def begin(self, length: int) -> None:
        self.exchange.start(200, [], length=length)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_file_is_sent_by_its_name(tmp_path: Path, method: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4096)
    application = AsgiApplication(asgi3)
    exchange = FakeExchange(method=method)
    asyncio.run(application._send_path(FakeCycle(exchange), exchange, str(path)))  # type: ignore[arg-type]
    assert exchange.head == (200, [], 1024 * 1024)
    assert exchange.answer()[2] == (path.read_bytes() if method == "GET" else b"")
    with pytest.raises(RuntimeError, match="there is no file at"):
        asyncio.run(application._send_path(FakeCycle(exchange), exchange, "/nowhere"))  # type: ignore[arg-type]
    application.close()


def test_mistakes_are_one_line_and_errors_have_their_traceback(caplog: pytest.LogCaptureFixture) -> None:
    application = AsgiApplication(asgi3)
    exchange: Any = FakeExchange()
    assert application.fail(RuntimeError("ASGI callable returned without starting response."), exchange)[0] == 500
    assert caplog.text.count("\n") == 1
    caplog.clear()
    try:
        raise ValueError("on purpose")
    except ValueError as error:
        status, _, body = application.fail(error, exchange)
    assert (status, body) == (500, b"Internal Server Error")
    assert "Traceback" in caplog.text
    assert "on purpose" in caplog.text
