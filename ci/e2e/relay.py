"""A UDP relay that is a bad network: it loses, delays and reorders datagrams, and lets through so many bytes in a second.

Invariant: one random number generator with a given seed decides on each datagram, in the order of arrival; nothing is altered.
What is under way when the relay ends still arrives: the last of it is the client's goodbye.
"""

import heapq
import random
import select
import socket
import threading
import time
from dataclasses import dataclass

from wire import Address


@dataclass(frozen=True)
class Network:
    loss: float = 0.0
    delay_s: float = 0.0
    """One way."""
    reordered: float = 0.0
    """The share of datagrams that are delayed once more."""
    bytes_per_s: float = float("inf")
    """In each direction."""
    queue_s: float = 0.3
    """What does not fit behind the bottleneck for so long is dropped."""
    seed: int = 1


class Relay:
    """One client at one time, between `address` and a server. Counts what it dropped and reordered."""

    def __init__(self, server: Address, network: Network) -> None:
        assert not isinstance(server, str)
        self._network, self._random = network, random.Random(network.seed)
        self._server = server
        self._near = self._socket()
        self._near.bind(("127.0.0.1", 0))
        self._far = self._socket()
        self._far.connect(server)
        self._client: tuple[str, int] | None = None
        self._due: list[tuple[float, int, bool, bytes]] = []
        self._free = {True: 0.0, False: 0.0}
        self._number = 0
        self.passed, self.lost, self.reordered = 0, 0, 0
        self._rebinds = 0
        self.is_deaf = False
        """True: nothing of the client's arrives any more."""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @staticmethod
    def _socket() -> socket.socket:
        found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        found.setblocking(False)
        return found

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._near.getsockname()
        return str(host), int(port)

    def rebind(self) -> None:
        """To the server, the client comes from another port from now on; what is sent to the old one is lost."""
        self._rebinds += 1

    def __enter__(self) -> "Relay":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._near.close()
        self._far.close()

    def _run(self) -> None:
        rebinds = 0
        while True:
            stops = self._stop.is_set()
            if rebinds != self._rebinds:
                rebinds = self._rebinds
                self._far.close()
                self._far = self._socket()
                self._far.connect(self._server)
            wait_s = 0.05 if not self._due else max(0.0, min(0.05, self._due[0][0] - time.monotonic()))
            ready = select.select([self._near, self._far], [], [], wait_s)[0]
            for found in ready:
                self._take(found, to_server=found is self._near)
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                _, _, to_server, data = heapq.heappop(self._due)
                self._give(data, to_server=to_server)
            if stops and not ready and not self._due:
                return

    def _take(self, found: socket.socket, *, to_server: bool) -> None:
        for _ in range(64):
            try:
                data, source = found.recvfrom(65536)
            except (BlockingIOError, ConnectionRefusedError):
                return
            if to_server:
                self._client = source
            network, now = self._network, time.monotonic()
            chance = self._random.random()
            begins = max(now, self._free[to_server])
            if (to_server and self.is_deaf) or chance < network.loss or begins - now > network.queue_s:
                self.lost += 1
                continue
            self._free[to_server] = begins + len(data) / network.bytes_per_s
            due = self._free[to_server] + network.delay_s
            if self._random.random() < network.reordered:
                due += network.delay_s / 2 + 0.002
                self.reordered += 1
            self._number += 1
            heapq.heappush(self._due, (due, self._number, to_server, data))

    def _give(self, data: bytes, *, to_server: bool) -> None:
        self.passed += 1
        try:
            if to_server:
                self._far.send(data)
            elif self._client:
                self._near.sendto(data, self._client)
        except (BlockingIOError, ConnectionRefusedError):
            self.lost += 1
