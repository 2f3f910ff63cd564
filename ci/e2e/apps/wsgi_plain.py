"""A WSGI application without a framework."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Environ = dict[str, Any]
BLOCK = bytes(range(256)) * 256
"""64 KiB."""
taken = 0
gate = threading.Event()


def echo(environ: Environ) -> Iterator[bytes]:
    while block := environ["wsgi.input"].read(20_000):
        yield block


def digest(environ: Environ) -> Iterable[bytes]:
    hashed, size = hashlib.sha256(), 0
    while block := environ["wsgi.input"].read(100_000):
        hashed.update(block)
        size += len(block)
    return [f"{size} {hashed.hexdigest()}".encode()]


class Endless:
    """Counts what was asked of it."""

    def __iter__(self) -> Iterator[bytes]:
        global taken
        taken = 0
        while True:
            taken += 1
            yield BLOCK

    def close(self) -> None:
        os.write(2, b"endless was closed\n")


def counting(environ: Environ) -> Iterator[bytes]:
    for number in range(5):
        gate.wait(10)
        gate.clear()
        yield b"%d\n" % number


def sleep(environ: Environ) -> Iterable[bytes]:
    time.sleep(float(environ["QUERY_STRING"]))
    os.write(2, b"slept to the end\n")
    return [b"slept"]


def go(environ: Environ) -> Iterable[bytes]:
    gate.set()
    return [b"%d" % taken]


def file(environ: Environ) -> Iterable[bytes]:
    opened = Path(environ["QUERY_STRING"]).open("rb")  # noqa: SIM115  (the server closes it)
    wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](opened)
    return wrapped


def fails(environ: Environ) -> Iterator[bytes]:
    # More than may be under way: the head has gone out by the end of it.
    yield b"begun" + bytes(1 << 20)
    raise RuntimeError("in mid-body")


def named(environ: Environ) -> Iterable[bytes]:
    return [f"{environ['SCRIPT_NAME']}|{environ['PATH_INFO']}|{environ['wsgi.multithread']}".encode()]


PATHS: dict[str, Callable[[Environ], Iterable[bytes]]] = {
    "/echo": echo,
    "/digest": digest,
    "/endless": lambda _: Endless(),
    "/counting": counting,
    "/sleep": sleep,
    "/go": go,
    "/file": file,
    "/fails": fails,
}


def app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return PATHS.get(environ["PATH_INFO"], named)(environ)
