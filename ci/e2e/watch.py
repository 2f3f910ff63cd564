"""What attacks must not touch: an honest client beside them, whose every request is answered in time, and the edge's memory."""

import threading
import time

from server import Server, resident_kib, until

GROWTH_MAX_KIB = 24 * 1024
"""Of the edge's memory under any one attack. A connection may hold a few MiB, and an allocator keeps some."""
ANSWER_MAX_S = 10.0
"""For an honest request meanwhile, on a machine that is busy with the attack itself, and with others."""


class Watch:
    """An honest client beside the attack, and the edge's memory."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.answers, self.slowest_s, self.grown_kib = 0, 0.0, 0
        self._error: str | None = None
        self._stop = threading.Event()
        self._before = resident_kib(server.pid)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            with self._server.client() as client:
                while not self._stop.is_set():
                    started = time.monotonic()
                    tag = str(self.answers)
                    assert client.request("GET", f"/tag/{tag}").json == {"tag": tag}
                    self.answers += 1
                    self.slowest_s = max(self.slowest_s, time.monotonic() - started)
                    self.grown_kib = max(self.grown_kib, resident_kib(self._server.pid) - self._before)
                assert client.connections == 1
        except Exception as error:
            self._error = repr(error)

    def __enter__(self) -> "Watch":
        self._thread.start()
        until("an honest answer", lambda: self.answers)
        return self

    def __exit__(self, *_: object) -> None:
        before = self.answers
        until("honest answers", lambda: self.answers > before or self._error)
        self._stop.set()
        self._thread.join(60)
        assert not self._error, self._error
        assert self.slowest_s < ANSWER_MAX_S
        assert self.grown_kib < GROWTH_MAX_KIB, f"{self.grown_kib} KiB"


def warm(server: Server) -> Server:
    """Whatever it is that grows with the first requests has grown."""
    with server.client() as client:
        for exchange in [client.begin("GET", "/bytes/262144") for _ in range(50)]:
            exchange.response()
    return server
