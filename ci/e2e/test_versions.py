"""The clients of these tests, tried out on somebody else's server: what they report of ours is then ours.

Hypercorn speaks every version, in Python, so sizes here are small.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from exchange import Client, Cut
from frames import upgrade
from payload import pattern
from reference import Hypercorn
from server import APPS, Listening, until
from tls import Authority
from versions import VERSIONS


@pytest.fixture(scope="module", params=VERSIONS)
def reference(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    pair = Authority(tmp_path_factory.mktemp("ca")).issue("localhost", "localhost")
    server = Hypercorn("plain_asgi:app", VERSIONS[request.param], app_dir=APPS, pair=pair)
    try:
        yield server.ready()
    finally:
        server.end(strictly=False)


@pytest.fixture
def client(reference: Listening) -> Iterator[Client]:
    with reference.client() as client:
        yield client


def test_the_version_is_the_one_that_was_asked_for(reference: Listening, client: Client) -> None:
    response = client.request("GET", "/version")
    assert (response.status, response.body.decode()) == (200, reference.version.http)
    assert response["x-scheme"] == reference.version.scheme
    assert client.request("GET", "/nowhere").status == 404
    assert client.connections == 1


@pytest.mark.parametrize("size", [0, 1, 100_000, 1_000_000])
def test_content_goes_both_ways_at_once(client: Client, size: int) -> None:
    body = pattern(size)
    assert client.request("POST", "/echo", body=body).body == body
    pieces = [body[at : at + 30_000] for at in range(0, size, 30_000)]
    assert client.request("POST", "/size", body=iter(pieces)).body == str(size).encode()


def test_exchanges_at_once(client: Client) -> None:
    exchanges = [client.begin("POST", "/echo", more=True) for _ in range(5)]
    for number, exchange in reversed(list(enumerate(exchanges))):
        exchange.send(b"%d" % number, end=True)
    assert [exchange.response().body for exchange in exchanges] == [b"%d" % number for number in range(5)]
    assert client.connections == (1 if client.multiplexes else 5)


def test_pieces_arrive_one_by_one(client: Client) -> None:
    exchange = client.begin("POST", "/echo", more=True)
    exchange.send(b"one")
    assert exchange.until(b"one") == b"one"
    assert exchange.answered()
    exchange.send(b"two", end=True)
    assert exchange.until(b"two") == b"two"
    assert exchange.read() == b""


def test_what_is_not_read_is_not_asked_for(client: Client) -> None:
    exchange = client.begin("GET", "/flood")
    exchange.head()
    if client.multiplexes:
        assert client.request("GET", "/version").status == 200, "on the same connection"
    read = 0
    while read < 1024 * 1024:
        read += len(exchange.read())
    exchange.cancel()
    if client.multiplexes:
        assert client.request("GET", "/version").status == 200, "on the same connection"


def test_what_nobody_takes_is_not_sent(reference: Listening, client: Client) -> None:
    if reference.version.http == "3":
        pytest.skip("Hypercorn stops serving QUIC altogether when one application does not read")
    data = pattern(20 * 1024 * 1024)
    exchange = client.begin("POST", "/deaf", {"content-length": str(len(data))}, more=True)
    assert exchange.offer(data, 0.3) <= reference.version.under_way_max
    exchange.cancel()


def noted(client: Client, name: str) -> None:
    until(name, lambda: name in client.request("GET", "/noted").body.decode().split(","))


@pytest.mark.parametrize("how", ["cancelled", "reset"])
def test_who_leaves_is_heard_of(reference: Listening, client: Client, how: str) -> None:
    with reference.client() as other:
        exchange = other.begin("GET", f"/waits?{how}")
        noted(client, f"begun {how}")
        if how == "reset":
            other.reset()
        else:
            exchange.cancel()
            assert other.request("GET", "/version").status == 200
            assert other.connections == 1 or not other.multiplexes
            if other.multiplexes:
                with pytest.raises(Cut):
                    exchange.response()
    # Hypercorn passes no reset of QUIC on to its application.
    if reference.version.http != "3":
        noted(client, f"ended {how}")


def test_the_end_of_the_server_is_the_end_of_the_exchange(tmp_path: Path, reference: Listening) -> None:
    pair = Authority(tmp_path).issue("localhost", "localhost")
    server = Hypercorn("plain_asgi:app", reference.version, app_dir=APPS, pair=pair)
    try:
        with server.ready().client(3) as client:
            exchange = client.begin("GET", "/flood")
            exchange.head()
            server.process.terminate()
            with pytest.raises((Cut, TimeoutError)):
                while exchange.read():
                    pass
    finally:
        server.end(strictly=False)


def test_websockets(client: Client) -> None:
    socket = upgrade(client, "/ws")
    socket.text("grüße")
    assert socket.message().text == "grüße"
