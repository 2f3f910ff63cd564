"""The handler model as a client sees it, the same over every version of HTTP that the edge speaks."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Serve
from exchange import Client
from handling import RENDEZVOUS
from server import Server


@pytest.fixture
def client(handlers: Server) -> Iterator[Client]:
    with handlers.client() as client:
        yield client


def test_the_seeds_handler_is_registered_by_a_call(client: Client) -> None:
    assert client.request("GET", "/").json == {"message": "Hello from FasterAPI"}


def test_path_parameters(client: Client) -> None:
    assert client.request("GET", "/path/7/a/b%20c").json == {"number": 7, "rest": "a/b c"}
    assert client.request("GET", "/text/gr%C3%BCn").json == "grün"


def test_query_parameters(client: Client) -> None:
    assert client.request("GET", "/query?needed=1").json == {"needed": 1, "flag": False, "name": None, "many": None}
    found = client.request("GET", "/query?many=1&needed=2&flag=on&name=a+b%26&many=3").json
    assert found == {"needed": 2, "flag": True, "name": "a b&", "many": [1, 3]}


def test_header_and_cookie_parameters(client: Client) -> None:
    fields = [("X-Token", "t"), ("x-many", "1"), ("X-Many", "2"), ("cookie", 'other=1; session="a b"')]
    assert client.request("GET", "/fields", fields).json == {"token": "t", "many": ["1", "2"], "session": "a b"}


@pytest.mark.parametrize(
    ("target", "entry"),
    [
        (
            "/query?needed=x",
            {
                "type": "int_parsing",
                "loc": ["query", "needed"],
                "msg": "Input should be a valid integer, unable to parse string as an integer",
                "input": "x",
            },
        ),
        ("/query", {"type": "missing", "loc": ["query", "needed"], "msg": "Field required", "input": None}),
        (
            "/path/x/y",
            {
                "type": "int_parsing",
                "loc": ["path", "number"],
                "msg": "Input should be a valid integer, unable to parse string as an integer",
                "input": "x",
            },
        ),
        ("/fields", {"type": "missing", "loc": ["header", "x-token"], "msg": "Field required", "input": None}),
    ],
)
def test_a_parameter_that_does_not_fit_is_answered_in_fastapis_shape(client: Client, target: str, entry: Any) -> None:
    response = client.request("GET", target)
    assert (response.status, response.json) == (422, {"detail": [entry]})


JSON = {"content-type": "application/json"}


def test_bodies_are_read_into_models_dataclasses_and_plain_types(client: Client) -> None:
    response = client.request("POST", "/item", JSON, b'{"name": "lamp", "price": "2"}')
    assert (response.status, response.json) == (201, {"name": "lamp", "price": 2.0, "tags": []})
    assert client.request("PUT", "/point", JSON, b'{"x": 1}').json == {"x": 0, "y": 1}
    assert client.request("PATCH", "/dict", JSON, b'{"a": 1}').json == {"a": 2}
    assert client.request("POST", "/list", JSON, b'[{"name": "ab", "price": 1}]').json == 1


def test_a_body_that_does_not_fit_is_answered_422(client: Client) -> None:
    response = client.request("POST", "/item", JSON, b'{"name": "x", "price": 0}')
    assert response.status == 422
    assert [(entry["loc"], entry["type"]) for entry in response.json["detail"]] == [
        (["body", "name"], "string_too_short"),
        (["body", "price"], "greater_than"),
    ]
    broken = client.request("POST", "/item", JSON, b'{"name":')
    assert (broken.status, broken.json["detail"][0]["type"]) == (422, "json_invalid")
    assert client.request("POST", "/item", JSON).status == 422


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("dict", b'{"a":[1,2.5,null,true]}'),
        ("list", b'[1,"zwei"]'),
        ("str", '"grün"'.encode()),
        ("int", b"7"),
        ("float", b"0.5"),
        ("bool", b"false"),
        ("none", b"null"),
        ("model", b'{"name":"lamp","price":1.0,"tags":[]}'),
    ],
)
def test_results_become_json(client: Client, kind: str, body: bytes) -> None:
    response = client.request("GET", f"/result/{kind}")
    assert (response.status, response["content-type"], response.body) == (200, "application/json", body)


@pytest.mark.parametrize(
    ("kind", "status", "content_type", "body"),
    [
        ("json", 202, "application/json", b'{"a":1}'),
        ("html", 200, "text/html; charset=utf-8", "<p>ü</p>".encode()),
        ("text", 200, "text/plain; charset=utf-8", "ü".encode()),
        ("bytes", 200, "application/octet-stream", b"\0\xff"),
        ("redirect", 307, None, b""),
        ("empty", 204, None, b""),
    ],
)
def test_response_kinds(client: Client, kind: str, status: int, content_type: str | None, body: bytes) -> None:
    response = client.request("GET", f"/response/{kind}")
    assert (response.status, response.body) == (status, body)
    assert response.all("content-type") == ([content_type] if content_type else [])
    if kind == "redirect":
        assert response["location"] == "/text/x%20y"
    if kind == "json":
        assert response["x-kind"] == "json"
    assert client.request("GET", "/").status == 200, "the connection is still in step"


def test_a_status_of_its_own_and_no_body(client: Client) -> None:
    response = client.request("DELETE", "/item/x")
    assert (response.status, response.body, response.all("content-length")) == (204, b"", [])


def test_methods_that_handlers_may_claim(client: Client) -> None:
    assert client.request("HEAD", "/only-head")["x-seen"] == "yes"
    assert client.request("OPTIONS", "/own-options").json == {"own": "options"}


def test_http_exception(client: Client) -> None:
    response = client.request("GET", "/refused")
    assert (response.status, response.json, response["x-pot"]) == (418, {"detail": {"why": "teapot"}}, "tea")


def test_an_exception_handler_of_the_application(client: Client) -> None:
    response = client.request("GET", "/teapot")
    assert (response.status, response.json) == (418, {"handled": "/teapot"})


@pytest.mark.parametrize("target", ["/fails", "/fails-in-thread"])
def test_an_unhandled_exception_is_generic_for_the_client_and_complete_in_the_log(
    client: Client, handlers: Server, target: str
) -> None:
    before = len(handlers.log.find("RuntimeError: not for the client"))
    response = client.request("GET", target)
    assert (response.status, response.json) == (500, {"detail": "Internal Server Error"})
    handlers.log.wait("RuntimeError: not for the client", before + 1)
    handlers.log.wait(r"Traceback \(most recent call last\)")


def test_debug_puts_the_traceback_into_the_body(serve: Serve) -> None:
    response = serve("handling:app", "--debug").ready().get("/fails")
    assert response.status == 500
    assert response["content-type"].startswith("text/plain")
    assert b"RuntimeError: not for the client" in response.body
    assert b"handling.py" in response.body


@pytest.mark.parametrize(("kind", "status"), [("object", 500), ("status", 502), ("field", 502)])
def test_a_result_that_cannot_be_sent_is_an_error_and_splits_no_response(client: Client, kind: str, status: int) -> None:
    response = client.request("GET", f"/unsendable/{kind}")
    assert response.status in {status, 500}
    assert response.all("x-evil") == []
    assert client.request("GET", "/").status == 200


def test_routers_are_included_under_their_prefixes(client: Client) -> None:
    assert client.request("GET", "/outer/inner/leaf").json == "leaf"


def test_what_no_route_matches(client: Client) -> None:
    response = client.request("GET", "/nowhere")
    assert (response.status, response.json) == (404, {"detail": "Not Found"})
    response = client.request("POST", "/query")
    assert (response.status, response.json) == (405, {"detail": "Method Not Allowed"})
    assert set(response["allow"].split(", ")) >= {"GET"}


# --- many at once ----------------------------------------------------------------------------------------------------


def test_sync_handlers_run_at_the_same_time(handlers: Server) -> None:
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(handlers.get, ["/meet-in-threads"] * 2))
    assert [response.status for response in found] == [200, 200]
    assert found[0].json != found[1].json, "two threads"
    assert all(response.json.startswith("fasterapi") for response in found)


def test_one_worker_holds_more_than_a_hundred_requests_at_once(client: Client) -> None:
    assert RENDEZVOUS >= 100
    exchanges = [client.begin("GET", f"/meet/{number}") for number in range(RENDEZVOUS)]
    for number, exchange in enumerate(exchanges):
        assert exchange.response().json == {"number": number, "arrived": RENDEZVOUS}
    assert client.connections == (1 if client.multiplexes else RENDEZVOUS)


@pytest.mark.parametrize("wait", ["true", "false"])
def test_context_variables_do_not_leak_between_requests(client: Client, wait: str) -> None:
    after = "!" if wait == "true" else ""
    for number in range(50):
        names = [f"{number}-{place}" for place in range(2)]
        for name, exchange in [(name, client.begin("GET", f"/context/{name}?wait={wait}")) for name in names]:
            assert exchange.response().json == {"before": "unset", "after": f"{name}{after}"}


@pytest.mark.parametrize("wait", ["true", "false"])
def test_the_current_task_is_one_and_the_same_throughout_a_handler(client: Client, wait: str) -> None:
    assert client.request("GET", f"/task?wait={wait}").json == {"same": True, "is_task": True, "name": True}


def test_a_sync_handler_that_waits_holds_up_nobody(client: Client) -> None:
    first = client.begin("GET", "/meet-in-threads")
    for _ in range(20):
        assert client.request("GET", "/").status == 200
    assert client.request("GET", "/meet-in-threads").status == 200
    assert first.response().status == 200
