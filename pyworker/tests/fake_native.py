"""A `fasterapi._native` for a worker process under test: one lane, which is a socket of JSON lines."""

import asyncio
import json
import os
import selectors
import socket
from collections.abc import Sequence
from typing import Any

from fakes import FakeEndpoint as Endpoint
from fakes import FakeExchange, FakeLanes

__all__ = ["LAYOUT_HASH", "Endpoint", "Lanes", "die_with_parent"]

LAYOUT_HASH = "0"


def die_with_parent(parent: int) -> None:
    if parent != os.getppid():
        raise RuntimeError("the parent is gone")


class Lanes(FakeLanes):
    def __init__(self, attach: bytes, fds: Sequence[int]) -> None:
        super().__init__()
        if json.loads(attach)["attach"].get("layout") == "wrong":
            raise RuntimeError("layouts differ")
        (lane,) = fds
        assert not os.get_inheritable(lane)
        self._lane = socket.socket(fileno=lane)
        self._unread = b""
        self._poll = selectors.DefaultSelector()
        self._poll.register(self._lane, selectors.EVENT_READ)

    def fileno(self) -> int:
        return self._lane.fileno()

    def pending(self) -> bool:
        return bool(self._poll.select(0))

    def before_block(self) -> bool:
        return self.pending()

    def drain(self) -> None:
        self._unread += self._lane.recv(65536, socket.MSG_DONTWAIT)
        *lines, self._unread = self._unread.split(b"\n")
        for line in lines:
            route, params = json.loads(line)
            self.push(route, FakeExchange(path_params=params)).add_done_callback(self._respond)
        self._take()

    def _respond(self, done: "asyncio.Future[Any]") -> None:
        status, _, body = done.result()
        self._lane.sendall(json.dumps([status, body.decode()]).encode() + b"\n")
