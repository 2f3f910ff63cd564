"""Applications that break the rules: what their client sees, what the log says, and that nobody else notices."""

import contextlib

import pytest
from conformance.asking import Kind, new_tag, noted, open_gate
from conformance.differences import side
from server import Listening
from wire import Malformed, Response


def outcome(server: Listening, target: str) -> Response | None:
    """None: the client saw that it has no whole response, if it saw anything."""
    try:
        return server.get(target)
    except (Malformed, ConnectionError):
        return None


@pytest.fixture(autouse=True)
def nobody_else_notices(server: Listening) -> None:
    """Looks at the server itself, once it has had to do with the mistake of the test before."""
    assert server.get("/send/length").body == b"onetwosix"


BEFORE_THE_START = {
    "returns-at-once": r"without starting",
    "raises-at-once": r"OnPurpose: before the start",
    "exits": r"SystemExit: a request does not end the server",
    "is-cancelled": r"CancelledError",
    "body-without-start": r"http\.response\.body",
    "unknown-type": r"http\.response\.dance",
    "websocket-message": r"websocket\.accept",
    "not-a-message": r"TypeError|list",
}


@pytest.mark.parametrize(("name", "said"), BEFORE_THE_START.items())
def test_before_the_start_it_is_500_and_a_line_that_says_why(server: Listening, name: str, said: str) -> None:
    before = len(server.log.find(said))
    response = outcome(server, f"/mistake/{name}")
    assert response is not None
    assert (response.status, response.body) == (500, b"Internal Server Error")
    server.log.wait(said, before + 1)


WRONG_STARTS = ("text-status", "status-out-of-range", "text-field", "split-field", "split-name")


@pytest.mark.parametrize("name", WRONG_STARTS)
def test_a_start_that_cannot_be_sent(server: Listening, kind: Kind, name: str) -> None:
    """And never a part of it: what splits a field would be a response of the client's making."""
    tag = new_tag()
    before = len(server.log.find("Traceback"))
    response = outcome(server, f"/mistake/{name}?{tag}")
    assert (response.status if response else None) == side(kind, "a start of wrong types")
    noted(server, tag, "refused")
    server.log.wait("Traceback", before + 1)


STARTED_ONLY = {
    "raises-when-started": r"OnPurpose: behind the start",
    "starts-only": r"without completing",
    "starts-twice": r"http\.response\.start",
}


@pytest.mark.parametrize(("name", "said"), STARTED_ONLY.items())
def test_behind_a_start_that_was_not_sent_yet(server: Listening, kind: Kind, name: str, said: str) -> None:
    before = len(server.log.find(said))
    response = outcome(server, f"/mistake/{name}")
    assert (response.status if response else None) == side(kind, "a head is sent with its first piece")
    server.log.wait(said, before + 1)


IN_THE_BODY = {
    "raises-in-the-body": r"OnPurpose: in the body",
    "starts-in-the-body": r"http\.response\.start",
    "never-ends": r"without completing",
    "unknown-type-in-the-body": r"http\.response\.dance",
}


@pytest.mark.parametrize(("name", "said"), IN_THE_BODY.items())
def test_in_the_body_the_client_sees_that_it_is_not_whole(server: Listening, name: str, said: str) -> None:
    before = len(server.log.find(said))
    tag, seen = new_tag(), b""
    with server.connect() as connection:
        connection.ask("GET", f"/mistake/{name}?{tag}&seen")
        while not seen.endswith(b"5\r\npiece\r\n"):
            seen += connection.exactly(1)
        open_gate(server, tag)
        with contextlib.suppress(ConnectionResetError):
            assert connection.rest() == b""
    server.log.wait(said, before + 1)


@pytest.mark.parametrize(("name", "said"), IN_THE_BODY.items())
def test_in_a_body_of_which_nothing_was_seen(server: Listening, kind: Kind, name: str, said: str) -> None:
    before = len(server.log.find(said))
    response = outcome(server, f"/mistake/{name}")
    assert (response.status if response else None) == side(kind, "a mistake behind a piece that was not sent yet")
    server.log.wait(said, before + 1)


@pytest.mark.parametrize("name", ["too-long", "too-short", "text-body"])
def test_a_body_that_does_not_fit_its_head_is_never_passed_off_as_whole(server: Listening, name: str) -> None:
    tag = new_tag()
    response = outcome(server, f"/mistake/{name}?{tag}")
    assert response is None or response.status in (500, 502), response
    noted(server, tag, "refused")


def test_what_is_too_much_is_not_sent(server: Listening) -> None:
    """The client may have all of the promised length by then."""
    tag = new_tag()
    with server.connect() as connection:
        response = connection.request("GET", f"/mistake/too-long-in-pieces?{tag}&seen")
        assert (response.status, response.body) == (200, b"piece")
        open_gate(server, tag)
        noted(server, tag, "refused")
        assert connection.rest() == b""


BEHIND_THE_END = {
    "raises-behind-the-end": r"OnPurpose: behind the end",
    "body-behind-the-end": r"http\.response\.body.*complete",
}


@pytest.mark.parametrize(("name", "said"), BEHIND_THE_END.items())
def test_behind_the_end_the_response_stands(server: Listening, kind: Kind, name: str, said: str) -> None:
    before = len(server.log.find(said))
    with server.connect() as connection:
        response = connection.request("GET", f"/mistake/{name}")
        assert (response.status, response.body) == (200, b"end")
        server.log.wait(said, before + 1)
        if side(kind, "connection behind a mistake"):
            assert connection.request("GET", "/send/length").body == b"onetwosix"
        else:
            assert connection.rest() == b""


def test_a_second_start_that_is_refused_and_caught(server: Listening) -> None:
    tag = new_tag()
    response = outcome(server, f"/mistake/starts-twice-and-goes-on?{tag}")
    assert response is not None
    assert (response.status, response["x-which"], response.body) == (200, "first", b"end")
    noted(server, tag, "refused")


REFUSED = (
    *("body-without-start", "starts-twice", "starts-in-the-body", "body-behind-the-end", "unknown-type"),
    *("websocket-message", "unknown-type-in-the-body", "not-a-message"),
)


@pytest.mark.parametrize("name", REFUSED)
def test_the_application_itself_learns_of_it(server: Listening, name: str) -> None:
    """In `send`, and not as if its client were gone."""
    tag = new_tag()
    outcome(server, f"/mistake/{name}?{tag}")
    noted(server, tag, "refused")


def test_the_client_is_told_nothing_of_the_application(server: Listening) -> None:
    response = outcome(server, "/mistake/raises-at-once")
    assert response is not None
    assert b"OnPurpose" not in response.body
    assert not [value for _, value in response.fields if "OnPurpose" in value]
