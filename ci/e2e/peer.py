"""An HTTP/2 client without rules: it sends whatever frames it is told (RFC 9113 §4), and watches what becomes of its connection.

Invariant: it never waits for the server without a bound, neither to send nor to read.
"""

import select
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import hpack
from tls import TlsSocket
from versions import Version
from wire import Address, connected

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS, ACK, PADDED = 1, 4, 1, 8
NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, STREAM_CLOSED, ENHANCE_YOUR_CALM = 0, 1, 3, 5, 11
QUIET_MAX_S = 20.0


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def block(method: str, path: str, *fields: tuple[str, str]) -> bytes:
    """A header block that needs no table."""
    pseudo = [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)]
    return bytes(hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*field) for field in [*pseudo, *fields]]))


def headers(stream: int, path: str, method: str = "GET", *, end: bool = True) -> bytes:
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block(method, path))


def reset(stream: int, code: int = 8) -> bytes:
    return frame(RST_STREAM, 0, stream, struct.pack("!I", code))


def settings(*pairs: tuple[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack("!HI", *pair) for pair in pairs))


def window(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, struct.pack("!I", size))


def in_sockets() -> int:
    """What the kernel may have taken from a client and not given to a server (tcp(7))."""
    sysctls = (Path("/proc/sys/net/ipv4") / name for name in ("tcp_rmem", "tcp_wmem"))
    return sum(int(sysctl.read_text().split()[2]) for sysctl in sysctls)


class Peer:
    def __init__(
        self, address: Address, version: Version, *, reads: bool = True, setting: Iterable[tuple[int, int]] = ()
    ) -> None:
        raw = connected(address, QUIET_MAX_S, None if reads else 4096)
        self.socket = TlsSocket(raw, version.tls, "localhost") if version.tls else raw
        self._reads, self._unread, self._sent = reads, bytearray(), 0
        self.closed = False
        self.resets: list[tuple[int, int]] = []
        """Streams that the server reset, and why."""
        self.socket.sendall(PREFACE + settings(*setting) + frame(SETTINGS, ACK, 0))
        self.socket.setblocking(False)
        self.code: int | None = None

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _read(self) -> None:
        """Takes what has come, and throws all of it away but what tells of ends."""
        try:
            while not self.closed:
                data = self.socket.recv(64 * 1024)
                self._unread += data
                self.closed = not data
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True
        while len(self._unread) >= 9 and len(self._unread) >= 9 + (size := int.from_bytes(self._unread[:3], "big")):
            kind, stream, payload = self._unread[3], int.from_bytes(self._unread[5:9], "big"), bytes(self._unread[9 : 9 + size])
            if kind == GOAWAY:
                self.code = int.from_bytes(payload[4:8], "big")
            elif kind == RST_STREAM:
                self.resets.append((stream, int.from_bytes(payload, "big")))
            del self._unread[: 9 + size]

    def send(self, data: bytes) -> bool:
        """Sends all of it unless the connection ends or the server takes nothing for long; whether it did."""
        view = memoryview(data)
        while view and not self.closed:
            try:
                sent = self.socket.send(view[: 64 * 1024])
                view, self._sent = view[sent:], self._sent + sent
            except BlockingIOError:
                reading = [self.socket] if self._reads else []
                if not any(select.select(reading, [self.socket], [], QUIET_MAX_S)[:2]):
                    return False
            except OSError:
                self.closed = True
            if self._reads:
                self._read()
        return not view

    def flood(self, piece: Callable[[int], bytes], enough: int) -> int | None:
        """Sends pieces until the connection has ended; the code of the GOAWAY, if one came. An error if so many bytes do not
        end it, in the server's hands: what lies in sockets on the way comes on top."""
        sent_max = self._sent + enough + in_sockets()
        number = 0
        while self._sent < sent_max and self.send(piece(number)):
            number += 1
        self._reads = True
        assert self.wait_end(), f"{self._sent} bytes did not end the connection"
        return self.code

    def wait_end(self, at_most_s: float = QUIET_MAX_S) -> bool:
        deadline = time.monotonic() + at_most_s
        while not self.closed and (left := deadline - time.monotonic()) > 0:
            select.select([self.socket], [], [], left)
            self._read()
        return self.closed
