#!/usr/bin/env python3
"""A worker with no application: speaks the control channel and behaves as the attribute of APP says."""

import json
import mmap
import os
import signal
import socket
import stat
import sys
from contextlib import suppress
from pathlib import Path

if sys.argv[1] == "-c":
    sys.exit(int(os.environ.get("FAKE_PROBE", "0")))
assert sys.argv[1:] == ["-m", "fasterapi.core.worker_pool"], sys.argv


def kinds() -> dict[int, str]:
    found = {}
    for link in list(Path("/proc/self/fd").iterdir()):
        with suppress(FileNotFoundError):  # The directory's own.
            found[int(link.name)] = str(link.readlink())
    return found


leaked = {fd: kind for fd, kind in kinds().items() if fd > 2 and not kind.startswith(("pipe:", "/"))}
assert not leaked, f"leaked: {leaked}"
assert os.getpgrp() == os.getpid()
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

channel = socket.socket(fileno=os.dup(0))
text, fds, _, _ = socket.recv_fds(channel, 65536, 253)
while not text.endswith(b"\n"):
    text += channel.recv(65536)
attach = json.loads(text)["attach"]
mode = attach["app"].split(":")[1]
place, incarnation = attach["worker"], attach["incarnation"]
name = f"{place}.{incarnation}"
assert attach["parent"] == os.getppid()

assert len(fds) == 1 + 3 * attach["shards"], fds
kind = kinds()
assert kind[fds[0]].startswith("pipe:"), kind
for shard in range(attach["shards"]):
    e, w, bell = fds[1 + 3 * shard : 4 + 3 * shard]
    assert kind[e].startswith(f"/memfd:fasterapi-e-{shard}-{name}"), kind[e]
    assert kind[w].startswith(f"/memfd:fasterapi-w-{shard}-{name}"), kind[w]
    assert kind[bell] == "anon_inode:[eventfd]"
    size = os.fstat(e).st_size
    assert stat.S_ISREG(os.fstat(w).st_mode) and os.fstat(w).st_size == size > 0
    heads = [mmap.mmap(fd, size, prot=mmap.PROT_READ)[:32] for fd in (e, w)]
    assert heads[0] == heads[1] and any(heads[0])
    mmap.mmap(w, size)
    try:
        mmap.mmap(e, size)
    except PermissionError:
        pass
    else:
        raise AssertionError("the edge's segment can be written")


def say(message: object) -> None:
    channel.sendall(json.dumps(message).encode() + b"\n")


def ready(path: str = "/", count: int = 10_000) -> None:
    # More than the socket holds, so that the edge has to put pieces together.
    routes = [{"id": i, "methods": ["GET"], "path": f"{path}{i}/{{x}}"} for i in range(count)]
    say({"ready": {"routes": routes, "redirect_slashes": True, "pid": os.getpid()}})


def fail() -> None:
    say({"failed": {"stage": "import", "error": "ImportError: no bananas", "traceback": "Traceback:\n  bananas\n"}})
    sys.exit(1)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def serve() -> None:
    for line in channel.makefile():
        match json.loads(line):
            case {"ping": {"id": number}}:
                say({"pong": {"id": number, "tasks": 42}})
            case {"stop": {}}:
                break
            case other:
                raise AssertionError(other)
    else:
        sys.exit(1)  # The edge is gone.
    print(f"fake {name} stopped", file=sys.stderr, flush=True)


def file_says() -> str:
    """What the test wants of the next incarnation."""
    return Path(os.environ["FAKE_FILE"]).read_text().strip()


print(f"fake {name} attached: {json.dumps(attach)}", file=sys.stderr, flush=True)
match mode:
    case "good":
        ready()
        serve()
    case "import_error":
        fail()
    case "silent_exit":
        sys.exit(3)
    case "garbage":
        channel.sendall(b"hello\n")
        signal.pause()
    case "talkative":
        ready()
        while True:
            ready()
    case "bad_routes":
        ready("no-slash")
        signal.pause()
    case "crash_once":
        ready()
        if (place, incarnation) == (0, 1):
            crash()
        serve()
    case "cannot_come_back":
        if incarnation == 2:
            fail()
        ready()
        if incarnation == 1:
            crash()
        serve()
    case "changes":
        ready("/" if incarnation == 1 else "/changed/")
        if incarnation == 1:
            crash()
        signal.pause()
    case "stubborn":
        ready()
        serve()
        signal.pause()
    case "lean":
        ready(count=1)
        serve()
    case "file":
        match file_says():
            case "fail":
                fail()
            case "hang":
                signal.pause()
            case path:
                ready(path, count=1)
                serve()
    case "silent":
        ready(count=1)
        channel.makefile().readline()
        signal.pause()
    case "pong":
        ready(count=1)
        say({"pong": {"id": 1, "tasks": 0}})
        signal.pause()
    case other:
        raise AssertionError(other)
