"""An HTTP/2 client on the `h2` package (PyPI), in clear with prior knowledge or over TLS.

Invariant: the connection's window is large from the start, so only a stream's own can stop its content.
"""

import contextlib
import socket
import ssl
import struct
from typing import Any

from exchange import Cut
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import StreamClosedError
from h2.settings import SettingCodes
from multiplexed import PIECE, Multiplexed
from tls import TlsSocket
from wire import Address, connected

CANCEL = 8
UNSENT_MAX = 256 * 1024


class _Connection(H2Connection):
    """To this library a GOAWAY is the end; to the streams that it does not name it is not (RFC 9113 §6.8)."""

    def _receive_goaway_frame(self, frame: Any) -> Any:
        event = ConnectionTerminated()
        event.error_code, event.last_stream_id = frame.error_code, frame.last_stream_id
        return [], [event]


class Http2(Multiplexed):
    version = "2"

    def __init__(self, address: Address, timeout_s: float, tls: ssl.SSLContext | None) -> None:
        super().__init__(timeout_s)
        raw = connected(address, timeout_s)
        self._socket: socket.socket | TlsSocket = raw
        if tls:
            self._socket = TlsSocket(raw, tls, "localhost")
            assert self._socket.tls.selected_alpn_protocol() == "h2", "ALPN"
        self.scheme = "https" if tls else "http"
        self._socket.setblocking(False)
        self._h2 = _Connection(H2Configuration(client_side=True, header_encoding="latin-1"))
        self._unsent = bytearray()
        self.goaway: tuple[int, int] | None = None
        """Error code and last stream of the latest GOAWAY."""
        with self.turn():
            self._h2.initiate_connection()
            self._h2.increment_flow_control_window(2**30)
        self._thread.start()

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> None:
        while True:
            try:
                data = self._socket.recv(256 * 1024)
            except BlockingIOError:
                return
            if not data:
                self.end(Cut("the connection was closed", self.goaway[0] if self.goaway else None))
                return
            for event in self._h2.receive_data(data):
                self._take(event)

    def _take(self, event: object) -> None:
        if isinstance(event, ConnectionTerminated):
            code, last = int(event.error_code or 0), event.last_stream_id or 0
            self.goaway = code, last
            for stream, exchange in self._exchanges.items():
                if stream > last:
                    exchange.on_cut(Cut("the server goes away", code))
            return
        exchange = self._exchanges.get(getattr(event, "stream_id", 0))  # type: ignore[assignment]
        if not exchange:
            return
        if isinstance(event, (InformationalResponseReceived, ResponseReceived)):
            exchange.on_head([(str(name), str(value)) for name, value in event.headers])
        elif isinstance(event, TrailersReceived):
            exchange.on_trailers([(str(name), str(value)) for name, value in event.headers])
        elif isinstance(event, DataReceived):
            exchange.on_data(event.data, event.flow_controlled_length)
        elif isinstance(event, StreamEnded):
            exchange.on_end()
        elif isinstance(event, StreamReset):
            exchange.on_cut(Cut("the stream was reset", int(event.error_code)))

    def transmit(self) -> None:
        self._unsent += self._h2.data_to_send()
        try:
            if isinstance(self._socket, TlsSocket):
                self._socket.flush()
            while self._unsent:
                sent = self._socket.send(bytes(self._unsent[: 256 * 1024]))
                del self._unsent[:sent]
        except BlockingIOError:
            pass

    def wants_write(self) -> bool:
        return bool(self._unsent) or (isinstance(self._socket, TlsSocket) and self._socket.unsent)

    def deadline(self) -> None:
        return None

    def open(self, fields: list[tuple[str, str]], *, end: bool) -> int:
        stream = self._h2.get_next_available_stream_id()
        self._h2.send_headers(stream, fields, end_stream=end)
        return stream

    def may_open(self) -> bool:
        return self._h2.open_outbound_streams < self._h2.remote_settings.max_concurrent_streams

    def websockets(self) -> bool:
        return self._h2.remote_settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL, 0) == 1

    def room(self, stream: int) -> int:
        if len(self._unsent) > UNSENT_MAX:
            return 0
        # A stream that the server has reset: the event that says so comes behind the one that is looked at.
        try:
            return min(PIECE, self._h2.local_flow_control_window(stream))
        except StreamClosedError:
            return 0

    def write(self, stream: int, data: bytes, *, end: bool) -> None:
        with contextlib.suppress(StreamClosedError):
            self._h2.send_data(stream, data, end_stream=end)
        self._unsent += self._h2.data_to_send()

    def consumed(self, stream: int, cost: int) -> None:
        if cost and not self._ended:
            self._h2.acknowledge_received_data(cost, stream)

    def abort(self, stream: int) -> None:
        self._h2.reset_stream(stream, CANCEL)

    def shut(self, *, orderly: bool) -> None:
        if orderly and not self._ended:
            self._h2.close_connection()
            self.transmit()
        elif not orderly:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()
