"""The worker's end of its control channel: JSON lines over the Unix socket that the edge left on descriptor 0."""

import fcntl
import json
import os
import socket
import stat
import sys
from typing import Any

_HIGH_FD = 64
_FDS_MAX = 253  # SCM_MAX_FD: the kernel passes no more in one message.
_READ_SIZE = 64 * 1024


class ControlClosed(Exception):
    """The edge closed its end, or died."""


class Control:
    """Whole messages in both directions; each is an object with one key, which names it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._unread = b""

    @classmethod
    def from_stdin(cls) -> "Control":
        """Takes the socket away from descriptor 0, where the application could read from it, or hand it to a child."""
        if not stat.S_ISSOCK(os.fstat(0).st_mode):
            sys.exit("descriptor 0 is not a control channel: workers are started by `fasterapi run`, not by hand")
        moved = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD)
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.close(empty)
        return cls(socket.socket(fileno=moved))

    def fileno(self) -> int:
        return self._channel.fileno()

    def receive_attach(self) -> tuple[bytes, list[int]]:
        """The first line, as it came, and the descriptors that came with it."""
        fds: list[int] = []
        while b"\n" not in self._unread:
            data, more, flags, _ = socket.recv_fds(self._channel, _READ_SIZE, _FDS_MAX)
            for fd in more:  # recv_fds() drops its flags argument, so MSG_CMSG_CLOEXEC is out of reach.
                os.set_inheritable(fd, False)
            fds += more
            if flags & socket.MSG_CTRUNC:
                raise RuntimeError("descriptors were lost on the way from the edge: is RLIMIT_NOFILE too low?")
            if not data:
                raise ControlClosed
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        return line, fds

    def receive(self) -> list[dict[str, Any]]:
        """The messages that have arrived; does not wait. Raises ControlClosed at the end."""
        try:
            data = self._channel.recv(_READ_SIZE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            data = None
        except ConnectionError:
            raise ControlClosed from None
        if data == b"":
            raise ControlClosed
        *lines, self._unread = (self._unread + (data or b"")).split(b"\n")
        return [json.loads(line) for line in lines]

    def send(self, name: str, content: dict[str, Any]) -> None:
        try:
            self._channel.sendall(json.dumps({name: content}).encode() + b"\n")
        except ConnectionError:
            raise ControlClosed from None
