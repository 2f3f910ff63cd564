"""What an idle keep-alive connection costs: opens many, one request each, and weighs the edge before and after.

Resident memory of the edge process alone; what the kernel holds for a socket is in no process. Exit code 1 over the bound.
"""

import argparse
import os
import resource
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

from peers.contenders import CASES, contenders
from peers.server import Unusable, running

BOUND = 2048
REQUEST = b"GET /user/42 HTTP/1.1\r\nHost: idle\r\n\r\n"
# Well below the ports that one source address has to give (net.ipv4.ip_local_port_range: 28 k by default).
CONNECTIONS_PER_ADDRESS = 20_000
# To notice that the server closed what should have stayed open.
SAMPLE = 100
WARM_UP = 256


def rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("error: the edge has ended")


def allow_descriptors(count: int) -> None:
    """For this process and, inherited, for the server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        try:
            enough = hard == resource.RLIM_INFINITY or hard >= count
            resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard if enough else count))
        except (ValueError, OSError) as error:
            raise SystemExit(f"error: {count} descriptors needed, the limit is {hard} (ulimit -Hn): {error}") from None


def request(connection: socket.socket) -> None:
    """One request and its whole answer."""
    connection.sendall(REQUEST)
    received = b""
    while b"\r\n\r\n" not in received:
        received += receive(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    status, *fields = head.lower().split(b"\r\n")
    if status.split()[1] != b"200":
        raise SystemExit(f"error: {status!r}")
    length = next(int(field.split(b":")[1]) for field in fields if field.startswith(b"content-length:"))
    while len(body) < length:
        body += receive(connection)


def receive(connection: socket.socket) -> bytes:
    if not (received := connection.recv(65536)):
        raise SystemExit("error: the server closed a connection that should have stayed open")
    return received


def connect(port: int, number: int) -> socket.socket:
    connection = socket.socket()
    connection.settimeout(10)
    connection.bind((f"127.0.0.{1 + number // CONNECTIONS_PER_ADDRESS}", 0))
    connection.connect(("127.0.0.1", port))
    return connection


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=os.environ.get("CONNECTIONS", "10000"))
    parser.add_argument("--fasterapi", type=Path, default=Path(".venv/bin/fasterapi"), help="our binary")
    options = parser.parse_args()
    count: int = options.connections
    allow_descriptors(count + WARM_UP + 256)

    ours, *_ = contenders(options.fasterapi.absolute())
    everywhere = frozenset(os.sched_getaffinity(0))
    with running(ours, everywhere, CASES[0]) as server, ExitStack() as open_ones:
        # What the first requests allocate once belongs to no connection.
        with ExitStack() as first:
            for number in range(WARM_UP):
                request(first.enter_context(connect(server.port, number)))
        before = rss(server.pid)
        connections = []
        for number in range(count):
            connection = open_ones.enter_context(connect(server.port, number))
            request(connection)
            connections.append(connection)
        after = rss(server.pid)
        for connection in connections[::SAMPLE]:
            request(connection)

    each = (after - before) / count
    print(f"edge RSS: {before / 2**20:.1f} MiB before, {after / 2**20:.1f} MiB with {count} idle keep-alive connections")
    print(f"bytes per idle connection: {each:.0f} (at most {BOUND})")
    return 1 if each > BOUND else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Unusable, OSError) as error:
        raise SystemExit(f"error: {error}") from None
