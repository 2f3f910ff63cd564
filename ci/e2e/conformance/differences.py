"""Where our server and uvicorn differ on purpose: one table, each row asserted for both.

What is not here is alike. A case asks for its server's side with `side`; a row that no case asks for fails `test_differences.py`.
"""

from dataclasses import dataclass
from typing import Any

from conformance.asking import Kind


@dataclass(frozen=True)
class Difference:
    fasterapi: Any
    uvicorn: Any
    reason: str


DIFFERENCES = {
    "http spec_version": Difference(
        "2.5", "2.3", "uvicorn states an older revision of the HTTP specification; ours has early hints and OSError."
    ),
    "websocket spec_version": Difference("2.5", "2.4", "The same revision for both of our protocols."),
    "http extensions": Difference(
        ["http.response.early_hint", "http.response.pathsend", "http.response.trailers"],
        None,
        "uvicorn has no extensions of HTTP and leaves the key out.",
    ),
    "the scheme of a request whose proxy says wss": Difference(
        "https", "wss", "An HTTP scope's scheme is http or https; both words mean TLS."
    ),
    "a tab behind a value": Difference(
        "", " \t", "Space and tabs around a value are not part of it (RFC 9110 §5.5); httptools strips spaces alone."
    ),
    "a method of the client's own": Difference(200, 400, "Any token is a method (RFC 9110 §9.1); httptools knows a list."),
    "HTTP/1.0 framing": Difference(
        "close", "chunked", "A 1.0 client knows no chunked coding (RFC 9112 §6.1): the body ends with the connection."
    ),
    "HTTP/1.0 keep-alive": Difference(
        True, False, "A 1.0 client that asks for it is kept (RFC 9112 §9.3); uvicorn closes after each."
    ),
    "304 with the length of a 200": Difference(
        True, False, "RFC 9110 §15.4.5 allows it; uvicorn misses the body and closes the connection behind the head."
    ),
    "send when the client is gone": Difference(
        "OSError", "ignored", "`send` raises OSError since revision 2.4 of the HTTP specification."
    ),
    "flood when the client is gone": Difference("OSError", "sent", "As above: what nobody reads need not be made."),
    "a start of wrong types": Difference(
        500, None, "Checked before anything is sent, so a 500 can still be; uvicorn has counted it as started and closes."
    ),
    "a head is sent with its first piece": Difference(
        500,
        None,
        "Nothing is on the wire until a body event (ASGI HTTP: `http.response.start`); uvicorn sends the head at once and must cut.",
    ),
    "a mistake behind a piece that was not sent yet": Difference(
        502,
        None,
        "What has not left the server when the application breaks off is taken back for a whole answer; uvicorn has written it.",
    ),
    "connection behind a mistake": Difference(
        True, False, "The response was whole, so the client's connection is no part of the mistake; uvicorn closes it."
    ),
    "requests of a client that leaves": Difference(
        3,
        1,
        "So many may be pipelined by one that leaves: uvicorn tells only the last of them, and the first waits for ever.",
    ),
    "code of a lost WebSocket": Difference(
        1006, 1005, "RFC 6455 §7.1.5: without a close frame the code is 1006; 1005 is a close frame without code."
    ),
    "close behind an application that raised": Difference(
        1011, None, "RFC 6455 §7.4.1 has a code for it; uvicorn drops the connection without a close frame."
    ),
    "close behind an application that returned": Difference(1000, None, "As above, for an orderly end."),
    "exit code when lifespan fails": Difference(1, 3, "Ours is 1 for every error of start-up."),
}


def side(kind: Kind, name: str) -> Any:
    return getattr(DIFFERENCES[name], kind)
