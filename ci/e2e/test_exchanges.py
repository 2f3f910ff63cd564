"""Requests and responses, the same over every version of HTTP: content of every size, whose answer is whose, what a client may cost."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import Serve
from exchange import Client, Content, Cut
from payload import pattern
from server import Server, descriptors, resident_kib, until

BIG = 16 * 1024 * 1024 + 1


@pytest.fixture
def client(tags: Server) -> Iterator[Client]:
    with tags.client() as client:
        yield client


# --- what the operator adds ------------------------------------------------------------------------------------------------


def test_the_operators_fields_are_in_every_response_that_does_not_have_them(serve: Serve, version: str) -> None:
    fields = ("--header", "X-Frame-Options: DENY", "--header", "x-value:of the operator")
    with serve("echo:app", *fields, version=version).ready().client() as client:
        for path, status, value in [
            ("/tag/x", 200, "of the operator"),
            ("/nowhere", 404, "of the operator"),
            ("/split?value=its+own", 200, "its own"),
        ]:
            response = client.request("GET", path)
            assert (response.status, response["x-frame-options"], response["x-value"]) == (status, "DENY", value)


# --- whose answer is whose -------------------------------------------------------------------------------------------


def test_a_connection_is_kept(client: Client) -> None:
    for number in range(20):
        response = client.request("GET", f"/tag/{number}")
        assert (response.status, response.json) == (200, {"tag": str(number)})
    assert client.connections == 1


@pytest.mark.parametrize("place", ["/tag/{}", "/thread/{}"])
def test_exchanges_at_once_each_get_their_own_answers(tags: Server, place: str) -> None:
    clients = [tags.client() for _ in range(10 if tags.version.multiplexes else 1)]
    for turn in range(3):
        exchanges = [
            (f"{at}-{number}-{turn}", client.begin("GET", place.format(f"{at}-{number}-{turn}")))
            for number in range(500 // len(clients))
            for at, client in enumerate(clients)
        ]
        for tag, exchange in exchanges:
            assert exchange.response().json == {"tag": tag}
    for client in clients:
        client.close()


def test_several_shards_and_workers_mix_nothing_up(serve: Serve, version: str) -> None:
    server = serve("echo:app", shards=2, workers=3, version=version).ready()
    clients = 64 if version.startswith("h1") else 16

    def ask(number: int) -> set[int]:
        with server.client() as client:
            for turn in range(20):
                body = pattern(1000 + turn * 997, f"{number}")
                echo = client.begin("POST", "/echo", body=body)
                assert client.request("GET", f"/tag/{number}-{turn}").json == {"tag": f"{number}-{turn}"}
                assert echo.response().body == body
            return {client.request("GET", "/pid").json["pid"] for _ in range(10)}

    with ThreadPoolExecutor(16) as pool:
        pids = set[int]().union(*pool.map(ask, range(clients)))
    assert pids == {server.worker_pid(place) for place in range(3)}


# --- content ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [0, 1, 16 * 1024 - 1, 16 * 1024, 16 * 1024 + 1, 64 * 1024, 256 * 1024, 256 * 1024 + 1, 1_000_003]
)
@pytest.mark.parametrize("how", ["sized", "in pieces", "in small pieces"])
def test_bodies_of_every_size_come_back(client: Client, size: int, how: str) -> None:
    body = pattern(size)
    content: Content = body
    if how != "sized":
        step = 64 * 1024 if how == "in pieces" else max(1, size // 300)
        content = [body[at : at + step] for at in range(0, size, step)]
    response = client.request("POST", "/echo", body=content)
    assert response.status == 200
    assert response.body == body
    assert client.request("GET", "/tag/x").json == {"tag": "x"}


def test_sixteen_mebibytes_up(client: Client) -> None:
    body = pattern(BIG)
    response = client.request("POST", "/digest", body=body)
    assert response.json == {"size": BIG, "sha256": hashlib.sha256(body).hexdigest()}
    assert client.request("GET", "/tag/x").status == 200


def test_sixteen_mebibytes_down(client: Client) -> None:
    response = client.request("GET", f"/bytes/{BIG}")
    assert len(response.body) == BIG
    assert hashlib.sha256(response.body).digest() == hashlib.sha256(pattern(BIG)).digest()
    assert client.request("GET", "/tag/x").status == 200


def test_large_bodies_both_ways_at_once(tags: Server) -> None:
    """Echoed for four clients: over HTTP/1.1, as much as a body may be."""
    body = pattern(32 * 1024 * 1024 if not tags.version.multiplexes else tags.version.large)

    def ask(_: int) -> bool:
        with tags.client() as client:
            return client.request("POST", "/echo", body=body).body == body

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(4)))


def test_uploads_that_fill_a_lane_delay_other_requests_and_refuse_none(tags: Server) -> None:
    body = bytes(tags.version.large // 5)
    times = 4 if not tags.version.multiplexes else 2

    def upload(_: int) -> set[int]:
        with tags.client() as client:
            return {client.request("POST", "/digest", body=body).status for _ in range(times)}

    def small(number: int) -> set[int]:
        with tags.client() as client:
            return {client.request("GET", f"/tag/{number}-{turn}").status for turn in range(25 * times)}

    with ThreadPoolExecutor(16) as pool:
        uploads, others = [pool.submit(upload, n) for n in range(8)], [pool.submit(small, n) for n in range(8)]
        assert {status for future in (*uploads, *others) for status in future.result()} == {200}


def test_an_unwanted_body_is_in_nobodys_way(client: Client) -> None:
    for size in (5, 64 * 1024, 2 * 1024 * 1024):
        assert client.request("POST", "/nowhere", body=bytes(size)).status == 404
    assert client.request("GET", "/tag/x").json == {"tag": "x"}


def test_a_body_too_large_is_refused(client: Client) -> None:
    assert client.begin("POST", "/echo", {"content-length": str(32 * 1024 * 1024 + 1)}, more=True).response().status == 413
    assert client.request("GET", "/tag/x").json == {"tag": "x"}


# --- methods, routes, fields -----------------------------------------------------------------------------------------


def test_the_framing_is_the_edges(client: Client) -> None:
    response = client.request("GET", "/fields")
    assert (response["content-length"], response.body) == ("1", b"x")
    assert response.all("transfer-encoding") == response.all("connection") == []
    assert [value.partition(";")[0] for value in response.all("set-cookie")] == ["a=1", "b=2"]
    assert response["server"] == "fasterapi"
    assert response["date"].endswith(" GMT")


def test_head_is_a_get_without_its_body(client: Client) -> None:
    get = client.request("GET", "/head")
    response = client.request("HEAD", "/head")
    assert (response.status, response["content-length"], response.body) == (200, str(len(get.body)), b"")
    assert response["content-type"] == "application/json"
    assert client.request("HEAD", "/nowhere").status == 404
    assert client.request("HEAD", "/slash").status == 307
    assert client.request("GET", "/tag/x").status == 200


def test_options_and_405_say_what_is_allowed(client: Client) -> None:
    response = client.request("OPTIONS", "/echo")
    assert response.status == 200
    assert set(response["allow"].split(", ")) == {"OPTIONS", "POST", "PUT"}
    response = client.request("GET", "/echo")
    assert response.status == 405
    assert set(response["allow"].split(", ")) == {"OPTIONS", "POST", "PUT"}
    assert set(client.request("DELETE", "/head")["allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
    assert client.request("BREW", "/head").status == 405
    assert client.request("OPTIONS", "*").status == 200


def test_a_slash_too_few_or_too_many_is_redirected(client: Client) -> None:
    response = client.request("GET", "/slash?a=1&b=%20")
    assert (response.status, response["location"]) == (307, "/slash/?a=1&b=%20")
    assert client.request("GET", "/slash/").json == "with slash"
    assert client.request("GET", "/head/")["location"] == "/head"
    assert client.request("GET", "//evil.example/head/").status == 404


def test_what_the_application_is_told(tags: Server, client: Client) -> None:
    fields = [("Host", "example.org"), ("X-A", "1"), ("x-a", "2"), ("cookie", "a=1; b=2")]
    seen = client.request("GET", "/see?a=1&b=%20&a=2", fields).json
    assert seen["method"] == "GET"
    assert seen["url"] == f"{tags.version.scheme}://example.org/see?a=1&b=%20&a=2"
    assert seen["version"] == tags.version.http
    assert seen["client"][0] == "127.0.0.1"
    assert seen["query"] == [["a", "1"], ["b", " "], ["a", "2"]]
    # A request has a host in every version (RFC 9113 §8.3.1); where it stands among the fields is not said.
    assert sorted(tuple(pair) for pair in seen["fields"]) == sorted((name.lower(), value) for name, value in fields)


def test_crumbs_of_a_cookie_are_one_to_the_application(tags: Server, client: Client) -> None:
    if not tags.version.multiplexes:
        pytest.skip("in HTTP/1.1 there is one Cookie field")
    seen = client.request("GET", "/see", [("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2")]).json
    # RFC 9113 §8.2.3, RFC 9114 §4.2.1
    assert [value for name, value in seen["fields"] if name == "cookie"] == ["a=1; b=2"]


# --- clients that read slowly, or leave ------------------------------------------------------------------------------


def test_a_slow_reader_of_a_large_response_stalls_nobody(tags: Server, client: Client) -> None:
    readers = [client.begin("GET", f"/bytes/{BIG}") for _ in range(8 if not tags.version.multiplexes else 3)]
    for number in range(200):
        assert client.request("GET", f"/tag/{number}").json == {"tag": str(number)}
    whole = pattern(BIG)
    for reader in readers[: 8 if tags.version.http != "3" else 1]:
        assert reader.response().body == whole


def test_an_exchange_that_is_cancelled_cancels_its_handler_and_no_other(tags: Server, client: Client) -> None:
    name = "cancelled"
    gone, stays = client.begin("GET", f"/cancellable/{name}"), client.begin("GET", "/hold/stays")
    until("both are in flight", lambda: {name, "stays"} <= set(tags.get("/held").json))
    gone.cancel()
    until("the handler is cancelled", lambda: name in tags.get("/cancelled").json)
    assert not stays.answered()
    assert tags.get("/tag/x").status == 200
    assert client.request("POST", "/release/stays", {"content-length": "0"}).json["released"] == "stays"
    assert stays.response().json == {"held": "stays"}


def test_the_handler_of_a_client_that_went_away_is_cancelled(tags: Server) -> None:
    gone = tags.client()
    gone.begin("GET", "/cancellable/reset")
    until("the request is in flight", lambda: "reset" in tags.get("/held").json)
    gone.reset()
    until("the handler is cancelled", lambda: "reset" in tags.get("/cancelled").json)


def test_a_client_that_goes_away_in_the_middle_takes_nothing_with_it(tags: Server) -> None:
    for target in (f"/bytes/{BIG}", "/thread/x"):
        for _ in range(20):
            with tags.client() as client:
                client.begin("GET", target)
    with tags.client() as client:
        client.begin("POST", "/echo", {"content-length": "1000000"}, more=True).offer(bytes(300_000), 1)
    assert tags.get("/tag/x").json == {"tag": "x"}


def test_a_cut_upload_gets_no_answer(client: Client) -> None:
    exchange = client.begin("POST", "/echo", {"content-length": "10"}, more=True)
    exchange.send(b"half")
    exchange.cancel()
    if client.multiplexes:
        with pytest.raises(Cut):
            exchange.response()
    assert client.request("GET", "/tag/x").status == 200


def test_thousands_of_requests_leave_nothing_behind(serve: Serve, version: str) -> None:
    server = serve("echo:app", version=version).ready()
    worker = server.worker_pid()
    rounds = 25 if version.startswith("h1") else 5

    def load(rounds: int) -> None:
        def ask(number: int) -> None:
            for turn in range(rounds):
                with server.client() as client:
                    exchanges = [client.begin("GET", f"/tag/{n}") for n in range(46 if client.multiplexes else 1)]
                    assert {exchange.response().status for exchange in exchanges} == {200}
                    for n in range(46 - len(exchanges)):
                        assert client.request("GET", f"/tag/{n}").status == 200
                    assert client.request("GET", "/nowhere").status == 404
                    assert client.request("GET", f"/thread/{turn}-{number}").status == 200
                    assert len(client.request("GET", "/bytes/262144").body) == 262144
                    assert len(client.request("POST", "/echo", body=bytes(100_000)).body) == 100_000
                    client.begin("GET", "/cancellable/x").cancel()

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(8)))

    def usage() -> tuple[int, int, int, int]:
        # An answer on a new connection: the closes before it are through.
        server.get("/pid")
        return descriptors(server.pid), descriptors(worker), resident_kib(server.pid), resident_kib(worker)

    load(max(2, rounds // 2))
    until("what is over is closed", lambda: not sum(shard["exchanges"] for shard in server.status()["shards"]))
    before = usage()
    load(rounds)
    until("what is over is closed", lambda: not sum(shard["exchanges"] for shard in server.status()["shards"]))
    until("no descriptor of the edge is left", lambda: usage()[0] <= before[0] + 1)
    after = usage()
    assert after[1] <= before[1], "descriptors of the worker"
    assert after[2] <= before[2] + 4 * 1024, f"memory of the edge: {before[2]} KiB, then {after[2]}"
    assert after[3] <= before[3] + 4 * 1024, f"memory of the worker: {before[3]} KiB, then {after[3]}"
