"""`receive`: the body in pieces, what comes behind it, and how the application learns that its client is gone."""

import hashlib
import socket
from typing import Any

import pytest
from conformance.asking import journal, new_tag, noted, open_gate, standing_still
from server import Listening, until
from wire import Connection, chunked, head

MIB = 1024 * 1024


def events(server: Listening, request: bytes) -> dict[str, Any]:
    with server.connect() as connection:
        connection.send(request)
        found: dict[str, Any] = connection.response().json
    return found


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("size", [1, 1000, 65536, 65537, 300_000, 5 * MIB])
def test_a_body_arrives_whole_and_its_last_piece_says_so(server: Listening, size: int, framing: str) -> None:
    body = bytes(range(251)) * (size // 251 + 1)
    body = body[:size]
    if framing == "length":
        request = head("POST", "/receive/events", {"content-length": str(size)}) + body
    else:
        pieces = [body[at : at + 40_000] for at in range(0, size, 40_000)]
        request = head("POST", "/receive/events", {"transfer-encoding": "chunked"}) + chunked(*pieces)
    found = events(server, request)
    assert (found["size"], found["sha256"]) == (size, hashlib.sha256(body).hexdigest())
    assert {(each["type"], each["body_type"]) for each in found["events"]} == {("http.request", "bytes")}
    assert [each["more_body"] for each in found["events"]] == [True] * (len(found["events"]) - 1) + [False]


@pytest.mark.parametrize(
    "request_",
    [
        head("GET", "/receive/events"),
        head("POST", "/receive/events", {"content-length": "0"}),
        head("POST", "/receive/events", {"transfer-encoding": "chunked"}) + chunked(),
        head("POST", "/receive/events"),
    ],
    ids=["none", "length 0", "no chunk", "POST without length"],
)
def test_no_body_is_one_empty_event(server: Listening, request_: bytes) -> None:
    (event,) = events(server, request_)["events"]
    assert event == {"type": "http.request", "body_type": "bytes", "size": 0, "more_body": False}


def test_chunks_trailers_and_extensions_of_chunks_are_framing(server: Listening) -> None:
    request = head("POST", "/receive/echo", {"transfer-encoding": "chunked"})
    body = b"3;ext=1\r\none\r\n3\r\ntwo\r\n0\r\nx-trailer: 1\r\n\r\n"
    with server.connect() as connection:
        connection.send(request + body)
        assert connection.response().body == b"onetwo"
        assert connection.request("GET", "/receive/unread").body == b"unread"


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_piece_is_there_before_the_next_one_is_sent(server: Listening, framing: str) -> None:
    tag = new_tag()
    field = {"content-length": "6"} if framing == "length" else {"transfer-encoding": "chunked"}
    one, two, end = (b"one", b"two", b"") if framing == "length" else (b"3\r\none\r\n", b"3\r\ntwo\r\n", b"0\r\n\r\n")
    with server.connect() as connection:
        connection.send(head("POST", f"/receive/pieces?{tag}", field) + one)
        noted(server, tag, "one")
        connection.send(two)
        until("the second piece", lambda: "two" in journal(server, tag))
        connection.send(end)
        assert connection.response().body == b"all"
    assert set(journal(server, tag)) <= {"http.request", "one", "two", ""}


def test_an_application_that_does_not_read_holds_its_client_back(server: Listening) -> None:
    """What lies between them is bounded, and nothing of it is lost."""
    tag, size = new_tag(), 64 * MIB
    with server.connect() as connection:
        connection.send(head("POST", f"/receive/slow?{tag}", {"content-length": str(size)}))
        connection.socket.setblocking(False)
        sent = 0
        piece = bytes(256 * 1024)

        def push() -> int:
            nonlocal sent
            try:
                while sent < size:
                    sent += connection.socket.send(piece[: size - sent])
            except BlockingIOError:
                pass
            return sent

        assert standing_still(push) < 32 * MIB
        connection.socket.setblocking(True)
        connection.socket.settimeout(30)
        open_gate(server, tag)
        while sent < size:
            sent += connection.socket.send(piece[: size - sent])
        assert connection.response().body == str(size).encode()


@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_behind_the_body_receive_waits_until_the_response_is_over(server: Listening, size: int) -> None:
    tag = new_tag()
    with server.connect() as connection:
        connection.ask("POST", f"/receive/after-body?{tag}", body=bytes(size))
        noted(server, tag, "waiting")
        open_gate(server, tag)
        assert connection.response().body == b"answered"
        assert noted(server, tag, "http.disconnect", "http.disconnect")[:2] == ["waiting", "still waiting"]
        assert connection.request("GET", "/receive/unread").status == 200, "the connection itself is not over"


def reset(connection: Connection) -> None:
    """Ends the connection with RST."""
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    connection.close()


@pytest.mark.parametrize("end", [Connection.close, reset], ids=["close", "reset"])
@pytest.mark.parametrize(
    "request_",
    [
        lambda target: head("GET", target),
        lambda target: head("POST", target, {"content-length": "5"}) + b"12345",
        lambda target: head("POST", target, {"content-length": "10"}) + b"12345",
        lambda target: head("POST", target, {"transfer-encoding": "chunked"}) + b"5\r\n12345\r\n",
        lambda target: head("POST", target, {"content-length": str(5 * MIB)}) + bytes(MIB),
    ],
    ids=["no body", "whole body", "half a body", "half a chunked body", "part of a large body"],
)
def test_a_client_that_leaves_is_one_disconnect_and_no_cancellation(server: Listening, request_: Any, end: Any) -> None:
    tag = new_tag()
    connection = server.connect()
    connection.send(request_(f"/receive/until-disconnect?{tag}"))
    until("it reads", lambda: "reading" in journal(server, tag))
    end(connection)
    found = noted(server, tag, "http.disconnect", "http.disconnect")
    assert found.count("http.disconnect") == 2, "the second is of a second receive"
    open_gate(server, tag)
    noted(server, tag, "went on")


def test_an_upload_cut_off_between_pieces_is_a_disconnect(server: Listening) -> None:
    tag = new_tag()
    with server.connect() as connection:
        connection.send(head("POST", f"/receive/pieces?{tag}", {"content-length": "10"}) + b"12345")
        noted(server, tag, "12345")
    noted(server, tag, "http.disconnect")


@pytest.mark.parametrize("size", [5, 200_000])
def test_a_body_that_nobody_reads_is_in_nobodys_way(server: Listening, size: int) -> None:
    with server.connect() as connection:
        response = connection.request("POST", "/receive/unread", body=bytes(size))
        assert response.body == b"unread"
        if not response.closes:
            assert connection.request("GET", "/receive/unread").status == 200


# --- Expect: 100-continue --------------------------------------------------------------------------------------------


def test_continue_is_sent_when_the_application_wants_the_body(server: Listening) -> None:
    with server.connect() as connection:
        connection.send(head("POST", "/receive/echo", {"content-length": "5", "expect": "100-continue"}))
        assert connection.exactly(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(b"12345")
        response = connection.response()
    assert (response.status, response.body, response.interim) == (200, b"12345", [])


def test_an_application_that_refuses_the_body_never_asks_for_it(server: Listening) -> None:
    with server.connect() as connection:
        connection.send(head("POST", "/receive/refused", {"content-length": "5", "expect": "100-continue"}))
        response = connection.response()
    assert (response.status, response.body, response.interim) == (413, b"refused", [])


def test_a_client_that_does_not_wait_for_the_100(server: Listening) -> None:
    with server.connect() as connection:
        connection.send(head("POST", "/receive/echo", {"content-length": "5", "expect": "100-continue"}) + b"12345")
        response = connection.response()
    assert (response.status, response.body) == (200, b"12345")
    assert response.interim in ([], [100])
