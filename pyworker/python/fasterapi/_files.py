"""Files as responses: read in threads, a chunk at a time, never as a whole."""

import hashlib
import os
import stat
from collections.abc import Mapping
from email.utils import formatdate
from mimetypes import guess_type
from typing import IO, TYPE_CHECKING, Literal
from urllib.parse import quote

from fasterapi._background import BackgroundTask
from fasterapi._response import Response, has_body

if TYPE_CHECKING:
    from fasterapi._native import Exchange
    from fasterapi._threads import ThreadPool

_CHUNK_SIZE = 256 * 1024


def parse_range(text: str, size: int) -> range | Literal["unsatisfiable"] | None:
    """RFC 9110 §14.1.2: the bytes that a Range field asks for. None: the field is to be ignored, as a malformed one is, and as
    one that names several ranges may be."""
    unit, equals, spec = text.partition("=")
    first, dash, last = spec.strip().partition("-")
    if unit.strip().lower() != "bytes" or not equals or not dash:
        return None
    if not all(part == "" or (part.isascii() and part.isdigit()) for part in (first, last)):
        return None
    if first:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    elif last:
        start, end = max(size - int(last), 0), size
    else:
        return None
    return range(start, end) if start < end else "unsatisfiable"


def open_file(path: str | os.PathLike[str]) -> IO[bytes]:
    """A regular file, for `copy_file`; RuntimeError for everything else."""
    try:
        # Not to wait for the other end of a pipe.
        file = open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))  # noqa: SIM115
    except FileNotFoundError:
        raise RuntimeError(f"there is no file at {os.fspath(path)}") from None
    except IsADirectoryError:
        raise RuntimeError(f"{os.fspath(path)} is a directory") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise RuntimeError(f"{os.fspath(path)} is not a regular file")
    return file


async def copy_file(file: IO[bytes], wanted: range, exchange: "Exchange", threads: "ThreadPool", *, end: bool = True) -> None:
    """Writes these bytes of a file as the whole of a body, and ends it unless that is for somebody else to do."""
    at = wanted.start
    while True:
        piece = await threads.run(os.pread, file.fileno(), min(_CHUNK_SIZE, wanted.stop - at), at)
        at += len(piece)
        # A file that was cut meanwhile ends here, which the length then belies: the client sees it.
        last = at >= wanted.stop or not piece
        await exchange.write(piece, end=last and end)
        if last:
            return


class FileResponse(Response):
    """A file with its length, type, time and tag. One range of its bytes may be asked for."""

    is_live = True

    def __init__(
        self,
        path: str | os.PathLike[str],
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str | None = None,
        background: BackgroundTask | None = None,
        filename: str | None = None,
        stat_result: os.stat_result | None = None,
        content_disposition_type: str = "attachment",
    ) -> None:
        kind = media_type or guess_type(filename or path)[0] or "application/octet-stream"
        super().__init__(None, status_code, headers, kind, background)
        self.path = path
        self.filename = filename
        self.headers.setdefault("accept-ranges", "bytes")
        if filename is not None:
            quoted = quote(filename)
            name = f'filename="{filename}"' if quoted == filename else f"filename*=utf-8''{quoted}"
            self.headers.setdefault("content-disposition", f"{content_disposition_type}; {name}")
        if stat_result is not None:
            self.set_stat_headers(stat_result)

    def set_stat_headers(self, found: os.stat_result) -> None:
        tag = hashlib.md5(f"{found.st_mtime}-{found.st_size}".encode(), usedforsecurity=False).hexdigest()
        self.headers.setdefault("last-modified", formatdate(found.st_mtime, usegmt=True))
        self.headers.setdefault("etag", f'"{tag}"')

    async def send(self, exchange: "Exchange", threads: "ThreadPool") -> None:
        file = await threads.run(open_file, self.path)
        try:
            found = os.fstat(file.fileno())
            self.set_stat_headers(found)
            wanted = self._wanted(exchange, found.st_size)
            status, fields, _ = self.answer()
            if wanted == "unsatisfiable":
                exchange.start(416, [(b"content-range", b"bytes */%d" % found.st_size)])
                await exchange.write(b"", end=True)
                return
            if wanted is None:
                wanted = range(found.st_size)
            else:
                status = 206
                fields.append((b"content-range", b"bytes %d-%d/%d" % (wanted.start, wanted.stop - 1, found.st_size)))
            exchange.start(status, fields, length=len(wanted))
            if exchange.method != "HEAD" and has_body(status):
                await copy_file(file, wanted, exchange, threads)
            else:
                await exchange.write(b"", end=True)
        finally:
            file.close()

    def _wanted(self, exchange: "Exchange", size: int) -> range | Literal["unsatisfiable"] | None:
        asked, condition = exchange.header(b"range"), exchange.header(b"if-range")
        if asked is None or self.status_code != 200 or exchange.method not in ("GET", "HEAD"):
            return None
        # RFC 9110 §13.1.5: a weak tag never matches here.
        if condition is not None and condition.decode("latin-1") not in (self.headers["etag"], self.headers["last-modified"]):
            return None
        return parse_range(asked.decode("latin-1"), size)
