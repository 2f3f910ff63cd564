"""Messages that two parsers could read differently: each is refused with one answer and the end of the connection.

Behind every one of them lies a complete request; an answer to it would be the smuggler's.
"""

import pytest
from server import Server
from wire import Malformed, head

HIDDEN = head("GET", "/tag/smuggled")
POST = b"POST /echo HTTP/1.1\r\nhost: t\r\n"
GET = b"GET /tag/x HTTP/1.1\r\n"
TE = POST + b"transfer-encoding: chunked\r\n\r\n"

REFUSED: dict[str, tuple[bytes, int]] = {
    # RFC 9112 §6.1, §6.3
    "CL.TE": (POST + b"content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "TE.CL": (POST + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n0\r\n\r\n", 400),
    "CL.TE of zero": (POST + b"content-length: 0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc", 400),
    "two equal lengths": (POST + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc", 400),
    "a list of lengths": (POST + b"content-length: 3, 3\r\n\r\nabc", 400),
    "length with sign": (POST + b"content-length: +3\r\n\r\nabc", 400),
    "negative length": (POST + b"content-length: -3\r\n\r\nabc", 400),
    "hexadecimal length": (POST + b"content-length: 0x3\r\n\r\nabc", 400),
    "length with a space inside": (POST + b"content-length: 3 4\r\n\r\nabc", 400),
    "empty length": (POST + b"content-length:\r\n\r\nabc", 400),
    "length beyond 64 bits": (POST + b"content-length: 18446744073709551616\r\n\r\nabc", 400),
    "fraction": (POST + b"content-length: 3.0\r\n\r\nabc", 400),
    # RFC 9112 §6.1, §7
    "chunked not last": (POST + b"transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (POST + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked in two fields": (POST + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked and identity in two fields": (
        POST + b"transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n0\r\n\r\n",
        400,
    ),
    "coding misspelt": (POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "coding in quotes": (POST + b'transfer-encoding: "chunked"\r\n\r\n0\r\n\r\n', 400),
    "coding with vertical tab": (POST + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "coding with parameter": (POST + b"transfer-encoding: chunked;a=b\r\n\r\n0\r\n\r\n", 400),
    "empty coding": (POST + b"transfer-encoding:\r\n\r\n0\r\n\r\n", 400),
    "coding in HTTP/1.0": (b"POST /echo HTTP/1.0\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    # RFC 9112 §7.1
    "chunk size empty": (TE + b"\r\nabc\r\n0\r\n\r\n", 400),
    "chunk size with 0x": (TE + b"0x3\r\nabc\r\n0\r\n\r\n", 400),
    "chunk size with sign": (TE + b"+3\r\nabc\r\n0\r\n\r\n", 400),
    "chunk size negative": (TE + b"-1\r\nabc\r\n0\r\n\r\n", 400),
    "chunk size with space before": (TE + b" 3\r\nabc\r\n0\r\n\r\n", 400),
    "chunk size with space behind": (TE + b"3 \r\nabc\r\n0\r\n\r\n", 400),
    "chunk size with underscore": (TE + b"1_0\r\nabc\r\n0\r\n\r\n", 400),
    "chunk size of 17 digits": (TE + b"10000000000000003\r\nabc\r\n0\r\n\r\n", 400),
    "chunk size with bare LF": (TE + b"3\nabc\r\n0\r\n\r\n", 400),
    "chunk size with bare CR": (TE + b"3\rabc\r\n0\r\n\r\n", 400),
    "chunk end missing": (TE + b"3\r\nabcdef\r\n0\r\n\r\n", 400),
    "chunk end with bare LF": (TE + b"3\r\nabc\n0\r\n\r\n", 400),
    "chunk extension with LF (CVE-2025-55315)": (TE + b"3;x\nabc\r\n0\r\n\r\n", 400),
    "chunk extension with NUL": (TE + b"3;x\0\r\nabc\r\n0\r\n\r\n", 400),
    "last chunk with bare LF": (TE + b"0\n\n", 400),
    "trailer folded": (TE + b"0\r\n x: y\r\n\r\n", 400),
    "trailer without colon": (TE + b"0\r\nx\r\n\r\n", 400),
    "trailer with bare LF": (TE + b"0\r\nx: y\n\r\n", 400),
    # RFC 9112 §2.2, §5
    "bare LF": (b"GET /tag/x HTTP/1.1\nhost: t\n\n", 400),
    "bare LF in a field": (GET + b"host: t\nx: y\r\n\r\n", 400),
    "bare CR in a value": (GET + b"host: t\r\nx: a\rb\r\n\r\n", 400),
    "bare CR before the end": (GET + b"host: t\r\r\n\r\n", 400),
    "folded line": (GET + b"host: t\r\nx: a\r\n b\r\n\r\n", 400),
    "folded first line": (GET + b" host: t\r\n\r\n", 400),
    "space before the colon": (GET + b"host : t\r\n\r\n", 400),
    "space before the colon of a length": (POST + b"content-length : 3\r\n\r\nabc", 400),
    "tab before the colon": (GET + b"host\t: t\r\n\r\n", 400),
    "empty name": (GET + b"host: t\r\n: x\r\n\r\n", 400),
    "no colon": (GET + b"host: t\r\nx\r\n\r\n", 400),
    "NUL in a value": (GET + b"host: t\r\nx: a\0b\r\n\r\n", 400),
    "NUL in a name": (GET + b"host: t\r\nx\0y: a\r\n\r\n", 400),
    "non-ASCII in a name": (GET + b"host: t\r\nx\xe9: a\r\n\r\n", 400),
    "DEL in a value": (GET + b"host: t\r\nx: \x7f\r\n\r\n", 400),
    # RFC 9112 §3.2
    "no Host": (GET + b"x: y\r\n\r\n", 400),
    "two Hosts": (GET + b"host: t\r\nhost: t\r\n\r\n", 400),
    "empty Host": (GET + b"host:\r\n\r\n", 400),
    "Host with user": (GET + b"host: u@t\r\n\r\n", 400),
    "Host with path": (GET + b"host: t/x\r\n\r\n", 400),
    "Host with list": (GET + b"host: a, b\r\n\r\n", 400),
    "Host with bad port": (GET + b"host: t:99999\r\n\r\n", 400),
    # RFC 9112 §3
    "no version": (b"GET /tag/x\r\nhost: t\r\n\r\n", 400),
    "lower-case version": (b"GET /tag/x http/1.1\r\nhost: t\r\n\r\n", 400),
    "space in the target": (b"GET /tag/x y HTTP/1.1\r\nhost: t\r\n\r\n", 400),
    "two spaces": (b"GET  /tag/x HTTP/1.1\r\nhost: t\r\n\r\n", 400),
    "tab for space": (b"GET\t/tag/x\tHTTP/1.1\r\nhost: t\r\n\r\n", 400),
    "space before the method": (b" GET /tag/x HTTP/1.1\r\nhost: t\r\n\r\n", 400),
    "space behind the version": (b"GET /tag/x HTTP/1.1 \r\nhost: t\r\n\r\n", 400),
    "method that is no token": (b"G@T /tag/x HTTP/1.1\r\nhost: t\r\n\r\n", 400),
    "target without slash": (b"GET tag/x HTTP/1.1\r\nhost: t\r\n\r\n", 400),
    "target with fragment": (b"GET /tag/x#y HTTP/1.1\r\nhost: t\r\n\r\n", 400),
    "asterisk for GET": (b"GET * HTTP/1.1\r\nhost: t\r\n\r\n", 400),
    "raw non-ASCII in the target": (b"GET /tag/\xe9 HTTP/1.1\r\nhost: t\r\n\r\n", 400),
    "control character in the target": (b"GET /tag/\x01 HTTP/1.1\r\nhost: t\r\n\r\n", 400),
    "foreign scheme": (b"GET ftp://t/tag/x HTTP/1.1\r\nhost: t\r\n\r\n", 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "the HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "line noise": (b"\0" * 64 + b"\r\n\r\n", 400),
    "empty lines without end": (b"\r\n" * 64, 400),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_and_what_lies_behind_it_is_not_read(echo: Server, name: str) -> None:
    if name == "the HTTP/2 preface" and echo.version.scheme == "http":
        pytest.skip("in clear it begins HTTP/2; over TLS the client has agreed on HTTP/1.1")
    request, status = REFUSED[name]
    with echo.connect(10) as connection:
        connection.send(request + HIDDEN)
        response = connection.response()
        assert (response.status, response.closes) == (status, True), response
        assert connection.rest() == b"", "nothing behind the refusal is answered"


@pytest.mark.parametrize(
    "name", ["CL.TE", "two lengths", "chunk extension with LF (CVE-2025-55315)", "bare LF in a field", "no Host"]
)
def test_it_is_refused_in_any_pieces(echo: Server, name: str) -> None:
    request, status = REFUSED[name]
    with echo.connect(10) as connection:
        try:
            for byte in request + HIDDEN:
                connection.send(bytes([byte]))
        except (BrokenPipeError, ConnectionResetError):
            pass  # It has been refused before all of it was sent.
        response = connection.response()
        assert (response.status, response.closes) == (status, True), response
        assert connection.rest() == b""


def test_requests_before_a_bad_one_are_answered(echo: Server) -> None:
    with echo.connect() as connection:
        connection.send(head("GET", "/tag/1") + head("GET", "/thread/2") + b"GET /tag/3 HTTP/1.1\r\n\r\n" + HIDDEN)
        assert connection.response().json == {"tag": "1"}
        assert connection.response().json == {"tag": "2"}
        assert connection.response().status == 400
        assert connection.rest() == b""


def test_a_body_is_never_read_as_a_request(echo: Server) -> None:
    with echo.connect() as connection:
        for target, status in (("/echo", 200), ("/nowhere", 404), ("/tag/x", 405)):
            response = connection.request("POST", target, body=HIDDEN)
            assert response.status == status
        assert connection.request("GET", "/tag/last").json == {"tag": "last"}
        response = connection.request("GET", "/tag/with-body", body=HIDDEN)
        assert response.json == {"tag": "with-body"}
        assert connection.request("GET", "/tag/last").json == {"tag": "last"}


@pytest.mark.parametrize("value", ["a%0d%0ax-evil:%201", "a%0a%0a<p>", "a%00", "%0d%0a%0d%0aHTTP/1.1 200 OK"])
def test_an_application_cannot_be_made_to_split_its_response(echo: Server, value: str) -> None:
    with echo.connect() as connection:
        try:
            response = connection.request("GET", f"/split?value={value.replace(' ', '%20')}")
        except Malformed as error:
            raise AssertionError("the response was split") from error
        assert response.status == 500
        assert response.all("x-evil") == []
        assert connection.request("GET", "/tag/x").json == {"tag": "x"}
