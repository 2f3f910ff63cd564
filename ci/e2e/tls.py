"""TLS for the client of these tests, and certificates for the server.

Invariant: a `TlsSocket` keeps the two ends apart that the `ssl` module's own socket mixes up: an announced end (`close_notify`) is
b"", any other end is `truncated`, and its writing half can be closed alone. One thread may send while another receives, which OpenSSL
alone would not survive.
"""

import contextlib
import socket
import ssl
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path


def _unverified(*protocols: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


UNVERIFIED = _unverified()
"""For certificates that nobody trusts."""
UNVERIFIED_H2 = _unverified("h2")
"""The same, and HTTP/2 is the only protocol that is offered."""


class TlsSocket:
    """The part of a socket's interface that the tests use, over TLS."""

    def __init__(
        self, connected: socket.socket, context: ssl.SSLContext, name: str, session: ssl.SSLSession | None = None
    ) -> None:
        self.raw, self.truncated = connected, False
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._unsent, self._read = b"", b""
        # The first is held while a session is at work, never while a socket is waited for; the second keeps records in order.
        self._session, self._wire = threading.Lock(), threading.Lock()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname=name, session=session)
        try:
            while not self._shaken():
                if not self._feed():
                    raise ConnectionResetError("the connection ended in the handshake")
        except OSError:
            connected.close()
            raise

    def _shaken(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self.raw.sendall(self._out.read())
        return True

    def _feed(self) -> bool:
        data = self.raw.recv(256 * 1024)
        with self._session:
            self._in.write(data)
        return bool(data)

    def recv(self, size: int) -> bytes:
        if self._read:
            data, self._read = self._read[:size], self._read[size:]
            return data
        while True:
            with self._session:
                try:
                    return self.tls.read(size)
                except ssl.SSLZeroReturnError:
                    return b""
                except ssl.SSLWantReadError:
                    # Made while reading: an answer to a key update, an alert.
                    made = self._out.read()
            if made:
                with self._wire:
                    self.raw.sendall(made)
            if not self._feed():
                self.truncated = True
                return b""

    def sendall(self, data: bytes) -> None:
        with self._wire:
            self.raw.sendall(self._unsent)
            self._unsent = b""
            view = memoryview(data)
            while view:
                with self._session:
                    view = view[self.tls.write(view[: 16 * 1024]) :]
                    records = self._out.read()
                self.raw.sendall(records)

    @property
    def unsent(self) -> bool:
        """Whether something that `send` took has not gone out."""
        return bool(self._unsent)

    def flush(self) -> None:
        """What is still here from `send`; raises BlockingIOError if not all of it is taken."""
        if self._unsent:
            self._unsent = self._unsent[self.raw.send(self._unsent) :]
        if self._unsent:
            raise BlockingIOError

    def send(self, data: bytes | memoryview) -> int:
        """As a non-blocking socket's: what was made of the data and not taken waits for the next call."""
        self.flush()
        with self._session:
            taken = self.tls.write(data[: 16 * 1024])
            self._unsent = self._out.read()
        with contextlib.suppress(BlockingIOError):
            self._unsent = self._unsent[self.raw.send(self._unsent) :]
        return taken

    def shutdown(self, how: int) -> None:
        assert how == socket.SHUT_WR
        with self._wire:
            with self._session:
                try:
                    # What is here already would be lost: `unwrap` looks for the other side's end.
                    while data := self.tls.read(64 * 1024):
                        self._read += data
                except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                    pass
                with contextlib.suppress(ssl.SSLWantReadError):
                    self.tls.unwrap()
                records = self._out.read()
            self.raw.sendall(records)
            self.raw.shutdown(how)

    def close(self) -> None:
        self.raw.close()

    def fileno(self) -> int:
        return self.raw.fileno()

    def settimeout(self, seconds: float | None) -> None:
        self.raw.settimeout(seconds)

    def setblocking(self, blocking: bool) -> None:
        self.raw.setblocking(blocking)

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:
        self.raw.setsockopt(level, option, value)

    def getpeername(self) -> tuple[str, int]:
        host, port = self.raw.getpeername()
        return str(host), int(port)

    def getsockname(self) -> tuple[str, int]:
        host, port = self.raw.getsockname()
        return str(host), int(port)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path

    @property
    def options(self) -> tuple[str | Path, ...]:
        return ("--tls-cert", self.certificate, "--tls-key", self.key)


class Authority:
    """Issues certificates into a folder, with openssl."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pair = Pair(folder / "ca.crt", folder / "ca.key")
        self._make("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30")

    def _make(self, *command: str) -> None:
        subject = ("-subj", "/CN=tests", "-keyout", str(self.pair.key), "-out", str(self.pair.certificate))
        _openssl(*command, *subject)

    def issue(self, stem: str, *names: str, days: int = 30, extension: str = "") -> Pair:
        """A certificate for these DNS names, in files of that stem; replaces one that is there. `extension`: a line of openssl's."""
        pair = Pair(self.folder / f"{stem}.crt", self.folder / f"{stem}.key")
        request, extensions = self.folder / f"{stem}.csr", self.folder / f"{stem}.ext"
        extensions.write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in names) + f"\n{extension}\n")
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(pair.key))
        _openssl("req", "-new", *key, "-subj", f"/CN={names[0]}", "-out", str(request))
        ca = ("-CA", str(self.pair.certificate), "-CAkey", str(self.pair.key), "-days", str(days))
        _openssl("x509", "-req", "-in", str(request), *ca, "-extfile", str(extensions), "-out", str(pair.certificate))
        return pair

    def trusting(self, client: Pair | None = None) -> ssl.SSLContext:
        """A client that trusts this authority, and shows this certificate."""
        context = ssl.create_default_context(cafile=str(self.pair.certificate))
        if client:
            context.load_cert_chain(client.certificate, client.key)
        return context


def _openssl(*arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
