"""Bodies piece by piece, end to end: what is slow at one end stops the other, and nothing is left behind."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from exchange import Client, Content, Cut
from payload import pattern
from server import Server, resident_kib, serving, until

MIB = 1024 * 1024
PIECE = pattern(64 * 1024)


@pytest.fixture(scope="module")
def streams(version: str) -> Iterator[Server]:
    with serving("streams:app", version=version) as server:
        yield server


@pytest.fixture
def client(streams: Server) -> Iterator[Client]:
    with streams.client() as client:
        yield client


@pytest.fixture
def asker(streams: Server) -> Iterator[Client]:
    """A second client, which looks on."""
    with streams.client() as client:
        yield client


def number(asker: Client, path: str) -> int:
    value = asker.request("GET", path).json
    assert isinstance(value, int)
    return value


def settled(asker: Client, *paths: str) -> int:
    """The sum of counters, once it stands still: only time can tell that nothing happens."""
    values = [-1]

    def still() -> bool:
        values.append(sum(number(asker, path) for path in paths))
        return len(values) > 8 and len(set(values[-8:])) == 1

    until("the counters stand still", still, step_s=0.02)
    return values[-1]


def log_has(asker: Client, *lines: str) -> None:
    until(str(lines[:3]), lambda: set(lines) <= set(asker.request("GET", "/log").json))


def test_an_upload_is_echoed_while_it_arrives(streams: Server, client: Client) -> None:
    body = pattern(streams.version.large)
    response = client.request("POST", "/echo", body=body)
    assert response.all("transfer-encoding") == ([] if client.multiplexes else ["chunked"])
    assert hashlib.sha256(response.body).digest() == hashlib.sha256(body).digest()
    assert client.request("GET", "/counter/none").json == 0, "the connection lives on"
    assert client.connections == 1


@pytest.mark.parametrize("how", ["sized", "in pieces"])
def test_an_upload_is_taken_in_pieces(streams: Server, client: Client, how: str) -> None:
    body = pattern(streams.version.large)
    content: Content = body
    if how == "in pieces":
        content = [body[at : at + 100_000] for at in range(0, len(body), 100_000)]
    response = client.request("POST", "/digest", body=content)
    assert response.json == {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def test_small_bodies_need_no_second_record(client: Client) -> None:
    for body in (b"", b"x", b"y" * 1000):
        assert client.request("POST", "/echo", body=body).body == body


@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_client_that_reads_slowly_stops_the_content(streams: Server, client: Client, kind: str, asker: Client) -> None:
    count = streams.version.large * 5 // 2 // len(PIECE)
    exchange = client.begin("GET", f"/download/{kind}/slow-{kind}/{count}")
    assert settled(asker, f"/counter/slow-{kind}") <= streams.version.under_way_max
    assert client.request("GET", "/counter/none").json == 0, "others are answered meanwhile, on the same connection if may be"
    assert exchange.response().body == PIECE * count
    assert number(asker, f"/counter/slow-{kind}") == count * len(PIECE)
    log_has(asker, f"slow-{kind}: clean")


def test_a_handler_that_reads_slowly_stops_the_upload(streams: Server, client: Client) -> None:
    size = 30 * MIB if not client.multiplexes else streams.version.large
    data = pattern(size)
    exchange = client.begin("POST", "/slow-upload/slow", {"content-length": str(size)}, more=True)
    sent = exchange.offer(data, 1)
    assert sent <= streams.version.under_way_max
    assert client.request("GET", "/counter/none").json == 0, "others are answered meanwhile"
    assert client.request("POST", "/open/slow", {"content-length": "0"}).status == 200
    exchange.send(data[sent:], end=True)
    assert exchange.response().json == size


def test_fifty_slow_clients_cost_little_memory(streams: Server, client: Client, asker: Client) -> None:
    """50 responses of 100 MB that nobody reads. A figure for what a worker and the edge hold of them."""
    exchanges = [client.begin("GET", f"/download/async/many-{place}/1600") for place in range(50)]
    settled(asker, *(f"/counter/many-{place}" for place in range(50)))
    # Where they share a connection, some may wait for the memory of others.
    begun = [place for place in range(50) if number(asker, f"/counter/many-{place}")]
    assert len(begun) == 50 or client.multiplexes
    assert len(begun) > 3
    assert resident_kib(streams.pid) < 150 * 1024
    assert resident_kib(streams.worker_pid()) < 150 * 1024
    for exchange in exchanges:
        exchange.cancel()
    log_has(asker, *(f"many-{place}: clean" for place in begun))


def test_fifty_slow_uploads_cost_little_memory(streams: Server, client: Client, asker: Client) -> None:
    """50 bodies to handlers that read one piece of each, and the rest in the end."""
    data = bytes(streams.version.large // 20)
    exchanges = []
    for place in range(50):
        exchange = client.begin("POST", f"/slow-upload/fills-{place}", {"content-length": str(len(data))}, more=True)
        exchanges.append((exchange, exchange.offer(data, 0.02)))
    assert resident_kib(streams.pid) < 150 * 1024
    assert resident_kib(streams.worker_pid()) < 150 * 1024
    for place in range(50):
        assert asker.request("POST", f"/open/fills-{place}", {"content-length": "0"}).status == 200
    for exchange, sent in exchanges:
        exchange.send(data[sent:], end=True)
        assert exchange.response().json == len(data)


def test_events_arrive_one_by_one(client: Client, asker: Client) -> None:
    exchange = client.begin("GET", "/events/ticks")
    assert exchange.head()["content-type"] == "text/event-stream; charset=utf-8"
    received = b""
    for event in range(3):
        text = f"event: tick\ndata: {event}\nid: {event}\n\n".encode()
        while not received.replace(b": ping\n\n", b"").endswith(text):
            received += exchange.read()
        assert f"data: {event + 1}".encode() not in received
        assert client.request("POST", f"/open/ticks-{event}", {"content-length": "0"}).status == 200
    while b": ping\n\n" not in received:
        received += exchange.read()
    exchange.cancel()
    log_has(asker, "ticks: clean")


@pytest.mark.parametrize("leave", ["cancel", "reset"])
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_a_client_that_goes_away_ends_the_content(client: Client, kind: str, leave: str, asker: Client) -> None:
    exchange = client.begin("GET", f"/download/{kind}/gone-{kind}-{leave}/100000")
    assert exchange.read()
    if leave == "cancel":
        exchange.cancel()
    else:
        client.reset()
    log_has(asker, f"gone-{kind}-{leave}: clean")


@pytest.mark.parametrize("leave", ["cancel", "reset"])
def test_a_client_that_goes_away_ends_the_upload(client: Client, leave: str, asker: Client) -> None:
    name = f"abandoned-{leave}"
    exchange = client.begin("POST", f"/upload/{name}", {"content-length": str(10 * MIB)}, more=True)
    exchange.send(bytes(MIB))
    until("a part arrived", lambda: number(asker, f"/counter/{name}") == MIB)
    if leave == "cancel":
        exchange.cancel()
    else:
        client.reset()
    log_has(asker, f"{name}: clean")
    assert number(asker, f"/counter/{name}") == MIB


def test_content_that_fails_half_way_cuts_its_own_exchange(streams: Server, client: Client) -> None:
    failures = len(streams.log.find("ValueError: half way through"))
    exchange, sibling = client.begin("GET", "/breaks/3"), client.begin("GET", "/events/sibling")
    assert exchange.head().status == sibling.head().status == 200
    assert client.request("POST", "/open/break", {"content-length": "0"}).status == 200
    with pytest.raises(Cut):
        exchange.response()
    assert sibling.read(), "it goes on"
    sibling.cancel()
    assert client.request("GET", "/breaks/0").status == 500, "nothing was out yet"
    assert client.connections == 1 or not client.multiplexes
    assert streams.log.wait("ValueError: half way through", failures + 2)


def test_files(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_bytes(pattern(3 * MIB + 1))
    target = f"/file?path={path}"
    whole = client.request("GET", target)
    assert whole.body == path.read_bytes()
    assert whole["content-length"] == str(3 * MIB + 1)
    assert whole["content-type"] == "text/plain; charset=utf-8"
    part = client.request("GET", target, {"range": "bytes=1000000-2999999"})
    assert (part.status, part.body) == (206, path.read_bytes()[1_000_000:3_000_000])
    assert part["content-range"] == f"bytes 1000000-2999999/{3 * MIB + 1}"
    assert client.request("HEAD", target)["content-length"] == str(3 * MIB + 1)
    assert client.request("GET", target, {"range": "bytes=9999999-"}).status == 416
    assert client.request("GET", "/file?path=/nowhere").status == 500


def test_background_work_does_not_hold_the_answer_up(client: Client, asker: Client) -> None:
    assert client.request("GET", "/background/work").json == "at once"
    assert "work: done" not in client.request("GET", "/log").json
    assert client.request("POST", "/open/work", {"content-length": "0"}).status == 200
    log_has(asker, "work: done")


def test_no_task_is_left_behind(streams: Server, asker: Client) -> None:
    quiet = number(asker, "/tasks")
    for stage in range(30):
        with streams.client() as client:
            if stage % 3 == 0:
                exchange = client.begin("GET", f"/download/async/left-{stage}/1000")
                if stage % 2:
                    exchange.read()
            elif stage % 3 == 1:
                exchange = client.begin("POST", f"/upload/left-{stage}", {"content-length": "1000000"}, more=True)
                exchange.offer(bytes(stage * 1000), 0.01)
            else:
                exchange = client.begin("GET", f"/events/left-{stage}")
                exchange.read()
            if stage < 15:
                exchange.cancel()
            else:
                client.reset()
    until("the tasks have ended", lambda: number(asker, "/tasks") <= quiet)
