"""A QUIC client without rules: packets whose frames are written by hand, sealed with the keys of aioquic's handshake.

Invariant: what the server sends is read and acknowledged by the library whenever there is a turn, so the server sees a client that is
there. What is written by hand is sent once, as if there were neither windows nor congestion.
"""

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionId
from aioquic.quic.events import ConnectionTerminated, StopSendingReceived, StreamDataReceived, StreamReset
from wire import Address

NO_ERROR, CLOSED_CRITICAL_STREAM, FRAME_UNEXPECTED, EXCESSIVE_LOAD, ID_ERROR = 0x100, 0x104, 0x105, 0x107, 0x108
SETTINGS_ERROR, REQUEST_CANCELLED = 0x109, 0x10C
"""RFC 9114 §8.1."""
STREAM_LIMIT_ERROR, CONNECTION_ID_LIMIT_ERROR, PROTOCOL_VIOLATION, CRYPTO_BUFFER_EXCEEDED = 0x4, 0x9, 0xA, 0xD
"""RFC 9000 §20.1."""

DATA, HEADERS, CANCEL_PUSH, SETTINGS, GOAWAY, MAX_PUSH_ID, PRIORITY_UPDATE = 0, 1, 3, 4, 7, 13, 0xF0700
QUIET_MAX_S = 10.0
PACKET_MAX = 1200
TURN_EVERY = 8
"""Packets that are sent between two looks at what has come."""


def varint(value: int) -> bytes:
    """RFC 9000 §16."""
    for mark, size in enumerate((1, 2, 4, 8)):
        if value < 1 << (8 * size - 2):
            return (value | mark << (8 * size - 2)).to_bytes(size, "big")
    raise ValueError(value)


def frame(kind: int, payload: bytes = b"") -> bytes:
    """Of HTTP/3 (RFC 9114 §7.1)."""
    return varint(kind) + varint(len(payload)) + payload


def prefixed(mark: int, bits: int, value: int) -> bytes:
    """RFC 9204 §4.1.1."""
    most = (1 << bits) - 1
    if value < most:
        return bytes([mark | value])
    value -= most
    found = bytearray([mark | most])
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def literal(name: bytes, value: bytes) -> bytes:
    """A field, as long as it is (RFC 9204 §4.5.6)."""
    return prefixed(0x20, 3, len(name)) + name + prefixed(0, 7, len(value)) + value


def section(method: str, path: str, *more: tuple[str, str]) -> bytes:
    fields = [(":method", method), (":scheme", "https"), (":authority", "test"), (":path", path), *more]
    return b"\0\0" + b"".join(literal(name.encode(), value.encode("latin-1")) for name, value in fields)


def head(path: str, method: str = "GET", *more: tuple[str, str]) -> bytes:
    return frame(HEADERS, section(method, path, *more))


# --- frames of QUIC (RFC 9000 §19) -----------------------------------------------------------------------------------


def stream(number: int, data: bytes, offset: int = 0, *, fin: bool = False) -> bytes:
    return bytes([0x0E | fin]) + varint(number) + varint(offset) + varint(len(data)) + data


def reset(number: int, final_size: int) -> bytes:
    return b"\x04" + varint(number) + varint(REQUEST_CANCELLED) + varint(final_size)


def stop(number: int) -> bytes:
    return b"\x05" + varint(number) + varint(REQUEST_CANCELLED)


def crypto(offset: int, data: bytes) -> bytes:
    return b"\x06" + varint(offset) + varint(len(data)) + data


class _Any(bytes):
    """Equal to every connection id."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = bytes.__hash__


class End(NamedTuple):
    sent: int
    """Bytes of datagrams."""
    code: int | None


class QuicPeer:
    """After the handshake, with a control stream that has said its settings unless `opens` is false. `early`: on the first stream, with
    the first packet."""

    def __init__(self, address: Address, *, opens: bool = True, early: bytes = b"", **configuration: Any) -> None:
        assert not isinstance(address, str)
        self._address = address
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(address)
        self._socket.setblocking(False)
        options = {"max_data": 1 << 24, "max_stream_data": 1 << 20, **configuration}
        self.quic = QuicConnection(
            configuration=QuicConfiguration(
                alpn_protocols=["h3"], server_name="localhost", verify_mode=ssl.CERT_NONE, **options
            )
        )
        self.sent, self.received = 0, 0
        self.closed = False
        self.code: int | None = None
        self.resets: dict[int, int] = {}
        """Streams that the server reset or does not want, and why."""
        self.answers: dict[int, bytes] = {}
        self._opened = 0
        # What was promised by hand, the library knows nothing of: ids, and challenges.
        self.quic._host_cids.append(QuicConnectionId(cid=_Any(), sequence_number=1 << 61, was_sent=True))
        handlers = self.quic._QuicConnection__frame_handlers  # type: ignore[attr-defined]
        for kind, skip in ((0x19, Buffer.pull_uint_var), (0x1B, Buffer.pull_uint64)):
            handlers[kind] = (lambda _context, _kind, buffer, skip=skip: skip(buffer), handlers[kind][1])
        self.quic.connect(address, time.monotonic())
        if early:
            self.quic.send_stream_data(self.next_stream(), early, True)
        self.turn()
        self.wait(lambda: self.quic._handshake_confirmed)
        if opens:
            self.say(2, b"\0" + frame(SETTINGS))

    def __enter__(self) -> "QuicPeer":
        return self

    def __exit__(self, *_: object) -> None:
        if not self.closed:
            self.quic.close(error_code=NO_ERROR)
            self._transmit()
        self._socket.close()

    # --- turns -------------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Takes what has come, and sends what the library has to say."""
        now = time.monotonic()
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            for _ in range(256):
                data = self._socket.recv(65536)
                self.received += len(data)
                self.quic.receive_datagram(data, self._address, now)
        due = self.quic.get_timer()
        if due is not None and now >= due:
            self.quic.handle_timer(now)
        while (event := self.quic.next_event()) is not None:
            if isinstance(event, ConnectionTerminated):
                self.closed, self.code = True, event.error_code
            elif isinstance(event, StreamReset | StopSendingReceived):
                self.resets[event.stream_id] = event.error_code
            elif isinstance(event, StreamDataReceived):
                self.answers[event.stream_id] = self.answers.get(event.stream_id, b"") + event.data[:1024]
        self._transmit()

    def _transmit(self) -> None:
        for data, _ in self.quic.datagrams_to_send(time.monotonic()):
            self._give(data)

    def _give(self, data: bytes) -> None:
        self.sent += len(data)
        with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
            self._socket.send(data)

    def wait(self, condition: Callable[[], object], at_most_s: float = QUIET_MAX_S) -> bool:
        """Until then, or the end; whether it came to that."""
        deadline = time.monotonic() + at_most_s
        while not (found := condition()) and not self.closed and time.monotonic() < deadline:
            select.select([self._socket], [], [], 0.01)
            self.turn()
        return bool(found)

    def wait_end(self, at_most_s: float = QUIET_MAX_S) -> bool:
        self.wait(lambda: self.closed, at_most_s)
        return self.closed

    # --- by the rules of QUIC ----------------------------------------------------------------------------------------

    def say(self, number: int, data: bytes, *, fin: bool = False) -> None:
        """On a stream, reliably and within the server's windows."""
        self.quic.send_stream_data(number, data, fin)
        self.turn()

    def unsaid(self, number: int) -> int:
        """Bytes that are still here, or on their way."""
        sender = self.quic._streams[number].sender
        return int(sender._buffer_stop - sender._buffer_start)

    def next_stream(self) -> int:
        """One that the server allows; waits for that, or the end. quiche allows more once at most half are left."""
        number = 4 * self._opened
        self._opened += 1
        assert self.wait(lambda: self._opened <= self.quic._remote_max_streams_bidi) or self.closed, "no stream is allowed"
        # So that the library takes what is answered there.
        self.quic._get_or_create_stream_for_send(number)
        return number

    # --- without -----------------------------------------------------------------------------------------------------

    def packet(self, payload: bytes) -> None:
        """One packet with these frames; none once the connection has ended."""
        if self.closed:
            return
        number = self.quic._packet_number
        self.quic._packet_number += 1
        crypto = self.quic._cryptos[tls.Epoch.ONE_RTT]
        header = bytes([0x43 | crypto.key_phase << 2]) + self.quic._peer_cid.cid + (number & 0xFFFFFFFF).to_bytes(4, "big")
        self._give(crypto.encrypt_packet(header, payload.ljust(4, b"\0"), number))

    def packets(self, frames: Iterable[bytes]) -> None:
        """As few as they fit in."""
        payload = b""
        for found in frames:
            if payload and len(payload) + len(found) > PACKET_MAX:
                self.packet(payload)
                payload = b""
            payload += found
        if payload:
            self.packet(payload)

    def flood(self, piece: Callable[[int], Iterable[bytes]], rounds: int) -> End:
        """Sends frames until the connection has ended; an error if it outlives all of them."""
        for number in range(rounds):
            self.packets(piece(number))
            if number % TURN_EVERY == 0:
                self.turn()
            if self.closed:
                break
        return self.end()

    def flood_stream(self, number: int, before: bytes, piece: bytes, at_most: int) -> End:
        """The same by the rules, on one stream."""
        self.say(number, before)
        while not self.closed and self.sent < at_most:
            self.say(number, piece)
            self.wait(lambda: self.unsaid(number) < 64 * 1024)
        return self.end()

    def end(self) -> End:
        self.wait_end()
        assert self.closed, f"{self.sent} bytes did not end the connection"
        return End(self.sent, self.code)
