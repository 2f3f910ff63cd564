"""What the executor's tests call."""

import asyncio
import os
import socket
import threading
from typing import Any

not_a_function = 1


def add(a: int, b: int = 0) -> int:
    return a + b


async def add_async(a: int, b: int = 0) -> int:
    await asyncio.sleep(0)
    return a + b


def echo(value: Any) -> Any:
    return value


def pid() -> int:
    return os.getpid()


def cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0))


_arrived: list[int] = []
_all_here = asyncio.Event()


async def meet(place: int, count: int) -> int:
    _arrived.append(place)
    if len(_arrived) == count:
        _all_here.set()
    await _all_here.wait()
    return place


_barrier = threading.Barrier(20)


def meet_in_threads(place: int) -> int:
    _barrier.wait()
    return place


class StrangeError(Exception):
    pass


def fail(text: str) -> None:
    try:
        raise KeyError("the cause")
    except KeyError as error:
        raise StrangeError(text) from error


async def fail_async(text: str) -> None:
    await asyncio.sleep(0)
    raise ValueError(text)


def unserialisable() -> object:
    return object()


def text_of(size: int) -> str:
    return "x" * size


def leave(status: int) -> None:
    os._exit(status)


def wait_for_word(path: str) -> str:
    """Says its pid to the test's socket, and returns what the test says."""
    with socket.socket(socket.AF_UNIX) as test:
        test.connect(path)
        test.sendall(f"{os.getpid()}\n".encode())
        return test.makefile().readline().strip()


async def wait_for_cancel(path: str) -> None:
    """As above, and says when it is cancelled."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(f"{os.getpid()}\n".encode())
    try:
        await reader.readline()
    except asyncio.CancelledError:
        writer.write(b"cancelled\n")
        await writer.drain()
        raise


async def cancel_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)
