"""An HTTP/3 client on aioquic (PyPI), driven without asyncio over a UDP socket.

Invariant: a stream whose content nobody reads gets no more credit, while its packets go on being acknowledged.
"""

import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from aioquic.h3.connection import H3Connection, Setting
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    QuicEvent,
    StopSendingReceived,
    StreamReset,
)
from aioquic.tls import SessionTicket
from exchange import Cut
from multiplexed import PIECE, Multiplexed

H3_NO_ERROR, H3_INTERNAL_ERROR, H3_REQUEST_CANCELLED = 0x100, 0x102, 0x10C
WINDOW = 64 * 1024
"""A stream's credit at first. It doubles as content is read."""
UNSENT_MAX = 64 * 1024
DATAGRAMS_MAX = 64
"""Taken before anybody else gets a turn."""


class _Quic(QuicConnection):
    """The library grants credit for what has arrived; here it is granted for what was read."""

    unread: Callable[[int], int]

    def _write_stream_limits(self, builder: Any, space: Any, stream: Any) -> None:
        if self.unread(stream.stream_id) < WINDOW // 2:
            super()._write_stream_limits(builder=builder, space=space, stream=stream)


class _H3(H3Connection):
    """The library compares content-length with the content of answers to HEAD, too."""

    def __init__(self, quic: QuicConnection) -> None:
        super().__init__(quic)
        self.to_head: set[int] = set()

    def _check_content_length(self, stream: Any) -> None:
        if stream.stream_id not in self.to_head:
            super()._check_content_length(stream)


class Http3(Multiplexed):
    version = "3"

    def __init__(
        self,
        address: tuple[str, int],
        timeout_s: float,
        *,
        ticket: SessionTicket | None = None,
        idle_timeout_s: float = 60.0,
        **configuration: Any,
    ) -> None:
        super().__init__(timeout_s)
        self._address = address
        self.tickets: list[SessionTicket] = []
        """Those that the server has given so far."""
        self.handshake: HandshakeCompleted | None = None
        self._quic = _Quic(
            configuration=QuicConfiguration(
                alpn_protocols=["h3"],
                server_name="localhost",
                verify_mode=ssl.CERT_NONE,
                max_data=16 * 1024 * 1024,
                max_stream_data=WINDOW,
                session_ticket=ticket,
                idle_timeout=idle_timeout_s,
                **configuration,
            ),
            session_ticket_handler=self.tickets.append,
        )
        self._quic.unread = lambda stream: self._exchanges[stream].held if stream in self._exchanges else 0
        self._h3 = _H3(self._quic)
        self._sockets = [self._bound()]
        try:
            with self.turn():
                self._quic.connect(address, time.monotonic())
            self._thread.start()
            self.wait(lambda: self.handshake or self._ended, "a handshake")
            if self._ended:
                raise self._ended
        except BaseException:
            self.reset()
            raise

    def _bound(self) -> socket.socket:
        found = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 1024 * 1024)
        found.connect(self._address)
        found.setblocking(False)
        return found

    def rebind(self) -> None:
        """Goes on from another port, as behind a NAT that has forgotten this one."""
        with self.turn():
            self._sockets.append(self._bound())

    def migrate(self) -> None:
        """The same on purpose, and so with another connection id (RFC 9000 §9.5)."""
        with self.turn():
            self._sockets.append(self._bound())
            self._quic.change_connection_id()

    @property
    def quic(self) -> QuicConnection:
        return self._quic

    def fileno(self) -> int:
        return self._sockets[-1].fileno()

    def receive(self) -> None:
        for _ in range(DATAGRAMS_MAX):
            try:
                data = self._sockets[-1].recv(2048)
            except BlockingIOError:
                break
            self._quic.receive_datagram(data, self._address, time.monotonic())
        self._events()

    def _events(self) -> None:
        while (event := self._quic.next_event()) is not None:
            self._take(event)

    def _take(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            self.end(Cut(f"the connection was closed: {event.reason_phrase!r}", event.error_code))
        elif isinstance(event, HandshakeCompleted):
            self.handshake = event
        elif isinstance(event, StreamReset) and event.stream_id in self._exchanges:
            self._exchanges[event.stream_id].on_cut(Cut("the stream was reset", event.error_code))
        elif isinstance(event, StopSendingReceived) and event.stream_id in self._exchanges:
            self._exchanges[event.stream_id].on_stop(Cut("no content is wanted", event.error_code))
        for found in self._h3.handle_event(event):
            if not isinstance(found, (HeadersReceived, DataReceived)) or found.stream_id not in self._exchanges:
                continue
            exchange = self._exchanges[found.stream_id]
            if isinstance(found, DataReceived):
                if found.data:
                    exchange.on_data(found.data, len(found.data))
            else:
                fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in found.headers]
                (exchange.on_head if fields[0][0] == ":status" else exchange.on_trailers)(fields)
            if found.stream_ended:
                exchange.on_end()

    def transmit(self) -> None:
        now = time.monotonic()
        due = self._quic.get_timer() if self._quic.get_peer_address() else None
        if due is not None and now >= due:
            self._quic.handle_timer(now)
        for data, _ in self._quic.datagrams_to_send(now):
            # A full buffer is a loss like any other; nobody listening is for the idle timer to find out.
            with contextlib.suppress(BlockingIOError, ConnectionRefusedError):
                self._sockets[-1].send(data)
        self._events()

    def wants_write(self) -> bool:
        return False

    def deadline(self) -> float | None:
        return self._quic.get_timer()

    def open(self, fields: list[tuple[str, str]], *, end: bool) -> int:
        stream = self._quic.get_next_available_stream_id()
        if (":method", "HEAD") in fields:
            self._h3.to_head.add(stream)
        self._h3.send_headers(stream, [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields], end)
        return stream

    def may_open(self) -> bool:
        # The library waits for leave by itself.
        return True

    def websockets(self) -> bool:
        settings = self._h3.received_settings
        return settings is not None and settings.get(Setting.ENABLE_CONNECT_PROTOCOL) == 1

    def room(self, stream: int) -> int:
        sender = self._quic._streams[stream].sender
        return PIECE if sender._buffer_stop - sender.next_offset < UNSENT_MAX else 0

    def write(self, stream: int, data: bytes, *, end: bool) -> None:
        self._h3.send_data(stream, data, end)

    def consumed(self, stream: int, cost: int) -> None:
        """`turn` looks at what is held."""

    def abort(self, stream: int) -> None:
        self._quic.reset_stream(stream, H3_REQUEST_CANCELLED)
        self._quic.stop_stream(stream, H3_REQUEST_CANCELLED)

    def shut(self, *, orderly: bool) -> None:
        if not self._ended:
            self._quic.close(error_code=H3_NO_ERROR if orderly else H3_INTERNAL_ERROR)
            self.transmit()
        for found in self._sockets:
            found.close()
