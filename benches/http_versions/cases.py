"""What is asked of whom, and what the answers have to come to: two tables. A new question is a row of CASES, a new promise one of TARGETS."""

from dataclasses import dataclass
from typing import Literal

from http_versions.servers import (
    CADDY,
    GRANIAN,
    H2O,
    HYPERCORN,
    NATIVE,
    NGINX,
    NGINX_H3,
    OURS_ASGI,
    Ask,
    Contender,
)

HELLO = Ask("/hello")


@dataclass(frozen=True)
class Case:
    name: str
    what: str
    load: Literal["h2", "h3", "full", "resumed"]
    """Which client, and how it asks."""
    ask: Ask | None
    """None: each server's fixed answer."""
    contenders: tuple[Contender, ...]


CASES = (
    Case(
        *("h2-fixed", "HTTP/2 over TLS, 32 connections x 10 streams, a fixed answer", "h2", None),
        (NATIVE, NGINX, NGINX_H3, H2O, CADDY),
    ),
    Case(
        *("h2-hello", "HTTP/2 over TLS, 32 connections x 10 streams, hello of a worker", "h2", HELLO),
        (NATIVE, OURS_ASGI, GRANIAN, HYPERCORN),
    ),
    Case("h3-fixed", "HTTP/3, 32 connections x 4 streams, a fixed answer", "h3", None, (NATIVE, NGINX_H3, CADDY)),
    Case(
        *("h3-hello", "HTTP/3, 32 connections x 4 streams, hello of a worker", "h3", HELLO),
        (NATIVE, OURS_ASGI, HYPERCORN),
    ),
    Case(
        *("tls-full", "TLS 1.3 over TCP, 16 full handshakes at a time, each for one small answer", "full", None),
        (NATIVE, NGINX, NGINX_H3, H2O, CADDY),
    ),
    Case(
        *("tls-resumed", "TLS 1.3 over TCP, 16 resumed handshakes at a time, each for one small answer", "resumed", None),
        (NATIVE, NGINX, NGINX_H3, H2O, CADDY),
    ),
)


@dataclass(frozen=True)
class Target:
    """`ours` costs at most `most` of the CPU that the best of `peers` does, and answers at least `least` times as many a second."""

    case: str
    asked: str
    ours: str
    peers: tuple[str, ...]
    most: float
    least: float = 0.0


TARGETS = (
    Target("h2-fixed", "CPU per request at most 1.2 x nginx's", "fasterapi", ("nginx", "nginx-quic"), 1.2),
    *(
        Target("h2-hello", asked, ours, (peer,), 1 / times, times)
        for peer, times, asked in (
            ("hypercorn", 3.0, "at least 3 x Hypercorn: CPU at most 1/3, requests/s at least 3 x"),
            ("granian", 1.5, "at least 1.5 x Granian: CPU at most 1/1.5, requests/s at least 1.5 x"),
        )
        for ours in ("fasterapi", "fasterapi-asgi")
    ),
    Target("h3-fixed", "CPU per request at most 1/5 of Caddy's", "fasterapi", ("caddy",), 1 / 5),
    Target("h3-fixed", "CPU per request at most 2 x nginx's", "fasterapi", ("nginx-quic",), 2.0),
    *(
        Target("h3-hello", "CPU per request at most 1/20 of Hypercorn's", ours, ("hypercorn",), 1 / 20)
        for ours in ("fasterapi", "fasterapi-asgi")
    ),
    Target("tls-full", "handshakes per second of CPU at least nginx's", "fasterapi", ("nginx", "nginx-quic"), 1.0),
    Target("tls-resumed", "handshakes per second of CPU at least nginx's", "fasterapi", ("nginx", "nginx-quic"), 1.0),
)

RESUMED_LEAST = 0.99
"""Below this share a row of resumed handshakes is not one."""
RSS_GROWTH_MAX_MIB = 32.0
"""What the edge may grow by while 1 GB passes for its memory to be called flat."""
