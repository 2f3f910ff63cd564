"""The versions of HTTP over which the same tests run: how a server is told to speak one, and who asks in it."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass

from exchange import Client
from http1 import Http1
from http2 import Http2
from http3 import Http3
from tls import UNVERIFIED, UNVERIFIED_H2
from wire import Address, Connection

MIB = 1024 * 1024


@dataclass(frozen=True)
class Version:
    name: str
    scheme: str
    http: str
    """As the application is told it."""
    tls: ssl.SSLContext | None
    """Of its own connections; for QUIC there is none that `ssl` could know."""
    options: tuple[str, ...]
    client: Callable[[Address, float], Client]
    large: int
    """Bytes of a content that is large, and that a client in Python takes a second for at most."""
    under_way_max: int
    """What may be on its way to somebody who does not read: two windows of credit, and what lies in sockets or streams."""

    @property
    def multiplexes(self) -> bool:
        return self.http in ("2", "3")


def _http3(address: Address, timeout_s: float) -> Client:
    assert not isinstance(address, str)
    return Http3(address, timeout_s)


def _table() -> tuple[Version, ...]:
    dev = ("--tls-dev",)
    return (
        # A send buffer has 4 MiB at most (tcp_wmem), and a receive buffer grows only as its owner reads (tcp(7)).
        Version("h1", "http", "1.1", None, (), lambda a, t: Http1(lambda: Connection(a, t)), 20 * MIB, 12 * MIB),
        Version(
            *("h1-tls", "https", "1.1", UNVERIFIED, dev),
            *(lambda a, t: Http1(lambda: Connection(a, t, tls=UNVERIFIED)), 20 * MIB, 12 * MIB),
        ),
        Version("h2c", "http", "2", None, (), lambda a, t: Http2(a, t, None), 10 * MIB, 3 * MIB),
        Version("h2-tls", "https", "2", UNVERIFIED_H2, dev, lambda a, t: Http2(a, t, UNVERIFIED_H2), 10 * MIB, 3 * MIB),
        Version("h3", "https", "3", None, (*dev, "--http3"), _http3, 5 * MIB, 3 * MIB),
    )


VERSIONS = {version.name: version for version in _table()}
