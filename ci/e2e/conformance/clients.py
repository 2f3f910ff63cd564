"""Two independent WebSocket clients behind one interface: `websockets` and `wsproto`, each with and without compression."""

import socket
from abc import ABC, abstractmethod
from contextlib import ExitStack
from types import TracebackType

import wsproto
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.extensions import PerMessageDeflate

TIMEOUT_S = 30.0
Message = str | bytes


class Denied(Exception):
    """The server answered with an ordinary response."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(status, body[:200])
        self.status, self.body = status, body


class Ended(Exception):
    """The server has closed, with this code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code, self.reason = code, reason


class Client(ABC):
    """An open WebSocket. `compressed` and `subprotocol` are what the handshake agreed on."""

    compressed: bool
    subprotocol: str | None

    @abstractmethod
    def send(self, message: Message) -> None: ...

    @abstractmethod
    def send_in_pieces(self, *pieces: Message) -> None: ...

    @abstractmethod
    def receive(self) -> Message:
        """The next message; raises Ended."""

    @abstractmethod
    def ping(self, payload: bytes) -> None:
        """Returns when it is answered; messages wait."""

    @abstractmethod
    def close(self, code: int, reason: str) -> int:
        """The code with which the server answers."""

    @abstractmethod
    def drop(self) -> None: ...

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.drop()


class Websockets(Client):
    def __init__(self, host: str, port: int, target: str, subprotocols: list[str], *, compress: bool) -> None:
        self._open = ExitStack()
        try:
            opening = connect(
                f"ws://{host}:{port}{target}",
                subprotocols=[Subprotocol(name) for name in subprotocols] or None,
                compression="deflate" if compress else None,
                open_timeout=TIMEOUT_S,
                max_size=None,
                proxy=None,
            )
            self._socket: ClientConnection = self._open.enter_context(opening)
        except InvalidStatus as error:
            raise Denied(error.response.status_code, bytes(error.response.body or b"")) from None
        self.subprotocol = self._socket.subprotocol
        self.compressed = bool(self._socket.protocol.extensions)

    def send(self, message: Message) -> None:
        self._socket.send(message)

    def send_in_pieces(self, *pieces: Message) -> None:
        self._socket.send(pieces)

    def receive(self) -> Message:
        try:
            return self._socket.recv(TIMEOUT_S)
        except ConnectionClosed as error:
            close = error.rcvd
            raise Ended(close.code if close else 1006, close.reason if close else "") from None

    def ping(self, payload: bytes) -> None:
        assert self._socket.ping(payload).wait(TIMEOUT_S)

    def close(self, code: int, reason: str) -> int:
        self._socket.close(code, reason)
        return self._socket.close_code or 1006

    def drop(self) -> None:
        self._open.close()


class Wsproto(Client):
    def __init__(self, host: str, port: int, target: str, subprotocols: list[str], *, compress: bool) -> None:
        self._protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._socket = socket.create_connection((host, port), TIMEOUT_S)
        extensions = [PerMessageDeflate()] if compress else []
        request = Request(host=f"{host}:{port}", target=target, subprotocols=subprotocols, extensions=extensions)
        self._socket.sendall(self._protocol.send(request))
        self._events: list[wsproto.events.Event] = []
        first = self._event()
        if isinstance(first, RejectConnection):
            self._refused(first)
        assert isinstance(first, AcceptConnection), first
        self.subprotocol, self.compressed = first.subprotocol, bool(first.extensions)

    def _refused(self, rejection: RejectConnection) -> None:
        body, more = b"", rejection.has_body
        while more:
            event = self._event()
            assert isinstance(event, RejectData), event
            body, more = body + event.data, not event.body_finished
        self.drop()
        raise Denied(rejection.status_code, body)

    def _event(self) -> wsproto.events.Event:
        while not self._events:
            self._protocol.receive_data(self._socket.recv(65536) or None)
            for event in self._protocol.events():
                if isinstance(event, Ping):
                    self._socket.sendall(self._protocol.send(event.response()))
                else:
                    self._events.append(event)
        return self._events.pop(0)

    def send(self, message: Message) -> None:
        self.send_in_pieces(message)

    def send_in_pieces(self, *pieces: Message) -> None:
        for at, piece in enumerate(pieces):
            last = at == len(pieces) - 1
            event = (
                TextMessage(piece, message_finished=last)
                if isinstance(piece, str)
                else BytesMessage(piece, message_finished=last)
            )
            self._socket.sendall(self._protocol.send(event))

    def receive(self) -> Message:
        found: list[str | bytes | bytearray] = []
        while True:
            event = self._event()
            if isinstance(event, CloseConnection):
                self._socket.sendall(self._protocol.send(event.response()))
                raise Ended(event.code, event.reason or "")
            assert isinstance(event, (TextMessage, BytesMessage)), event
            found.append(event.data)
            if event.message_finished:
                break
        if isinstance(found[0], str):
            return "".join(str(piece) for piece in found)
        return b"".join(bytes(piece) for piece in found if not isinstance(piece, str))

    def ping(self, payload: bytes) -> None:
        self._socket.sendall(self._protocol.send(Ping(payload)))
        event = self._event()
        assert isinstance(event, Pong), event
        assert bytes(event.payload) == payload

    def close(self, code: int, reason: str) -> int:
        self._socket.sendall(self._protocol.send(CloseConnection(code, reason)))
        event = self._event()
        assert isinstance(event, CloseConnection), event
        return event.code

    def drop(self) -> None:
        self._socket.close()
