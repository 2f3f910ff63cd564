"""What slow clients and slow handlers cost: 50 clients that read 100 MB each slowly, then 50 uploads of 100 MB to a handler that reads slowly.

Resident memory (VmRSS) and the process's share of it (PSS: shared pages count once among those that map them) of every process of the server,
sampled. Exit code 1 if a process of ours exceeds the limit. Socket buffers are the kernel's and in no process. Results:
benches/results/memory.{md,json}.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest.mock import ANY

from peers.choice import chosen, names
from peers.contenders import Case, Contender, fasterapi, granian, uvicorn
from peers.machine import facts
from peers.proc import PROC, tree, usage
from peers.report import aligned
from peers.server import Unusable, running

LIMIT_MIB = 150
CLIENTS = 50
SIZE = 100_000_000
# Slower than the machine, and quick enough for both phases to take less than a minute.
RATE = 5_000_000
PHASE_MAX_S = 60.0
SAMPLE_S = 0.25
PIECE = bytes(65536)
ROOT = Path(__file__).parents[1]


def contenders(ours: Path) -> list[Contender]:
    return [
        fasterapi(ours, "fasterapi", "ours, native handlers", "native", "stream_edge:app", "--body-max", str(SIZE)),
        fasterapi(
            ours, "fasterapi-asgi", "ours, ASGI", "asgi", "stream_asgi:app", "--interface", "asgi", "--body-max", str(SIZE)
        ),
        granian("granian-asgi", "Granian, ASGI", "asgi", "stream_asgi:app", "asgi"),
        uvicorn("uvicorn", "uvicorn with httptools and uvloop", "asgi", "stream_asgi:app", "uvloop"),
    ]


@dataclass
class Peak:
    """Of one process, in bytes."""

    rss: int = 0
    pss: int = 0


def kib(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0


def sample(root: int, peaks: dict[int, Peak]) -> None:
    for pid in tree(root):
        with contextlib.suppress(OSError):
            peak = peaks.setdefault(pid, Peak())
            peak.rss = max(peak.rss, kib(PROC / str(pid) / "status", "VmRSS:"))
            peak.pss = max(peak.pss, kib(PROC / str(pid) / "smaps_rollup", "Pss:"))


@dataclass(frozen=True)
class Phase:
    """The peaks of the server's first process (ours: the edge) and of the largest of the others (ours: the worker; none: zero)."""

    first: Peak
    other: Peak
    seconds: float
    cpu_s: float

    @property
    def most_mib(self) -> float:
        return max(self.first.rss, self.other.rss) / 2**20


async def body_of(reader: asyncio.StreamReader) -> int:
    """Reads the head; the length of what follows."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        raise Unusable(head.splitlines()[0].decode())
    return next(int(line.partition(b":")[2]) for line in head.splitlines() if line.startswith(b"content-length"))


async def download(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=len(PIECE))
    try:
        writer.write(f"GET /down/{SIZE} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        left = await body_of(reader)
        if left != SIZE:
            raise Unusable(f"a body of {left} bytes")
        started, taken = time.monotonic(), 0
        while taken < SIZE:
            if not (piece := await reader.read(len(PIECE))):
                raise Unusable(f"cut off after {taken} bytes")
            taken += len(piece)
            await asyncio.sleep(max(0.0, started + taken / RATE - time.monotonic()))
    finally:
        writer.close()


async def upload(port: int) -> None:
    """As fast as it is taken."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"POST /up/{RATE} HTTP/1.1\r\nHost: bench\r\nContent-Length: {SIZE}\r\n\r\n".encode())
        for at in range(0, SIZE, len(PIECE)):
            writer.write(PIECE[: SIZE - at])
            await writer.drain()
        received = await reader.readexactly(await body_of(reader))
        if int(received) != SIZE:
            raise Unusable(f"the handler saw {received!r} bytes")
    finally:
        writer.close()


PHASES: dict[str, tuple[str, Callable[[int], Awaitable[None]]]] = {
    "down": (f"{CLIENTS} clients read {SIZE / 1e6:.0f} MB each at {RATE / 1e6:.0f} MB/s", download),
    "up": (f"{CLIENTS} uploads of {SIZE / 1e6:.0f} MB to a handler that takes {RATE / 1e6:.0f} MB/s of each", upload),
}


async def run(pid: int, port: int, one: Callable[[int], Awaitable[None]], peaks: dict[int, Peak]) -> None:
    async def watch() -> None:
        while True:
            await asyncio.to_thread(sample, pid, peaks)
            await asyncio.sleep(SAMPLE_S)

    watching = asyncio.create_task(watch())
    try:
        await asyncio.wait_for(asyncio.gather(*(one(port) for _ in range(CLIENTS))), PHASE_MAX_S)
    finally:
        watching.cancel()


def measure(contender: Contender, phase: str) -> Phase:
    with running(contender, frozenset(os.sched_getaffinity(0)), Case("first", "/down/1", ANY, "")) as server:
        peaks: dict[int, Peak] = {}
        before, started = usage(server.pid), time.monotonic()
        try:
            asyncio.run(run(server.pid, server.port, PHASES[phase][1], peaks))
        except asyncio.TimeoutError:
            raise Unusable(f"{phase}: not within {PHASE_MAX_S:.0f} s") from None
        except (OSError, EOFError) as error:
            raise Unusable(f"{phase}: {error!r}") from error
        after, seconds = usage(server.pid), time.monotonic() - started
    others = [peak for pid, peak in peaks.items() if pid != server.pid]
    cpu_s = after.root_cpu_s + after.children_cpu_s - before.root_cpu_s - before.children_cpu_s
    return Phase(peaks[server.pid], max(others, key=lambda peak: peak.rss, default=Peak()), seconds, cpu_s)


HEADINGS = ("server", "first RSS MiB", "first PSS", "other RSS MiB", "other PSS", "seconds", "CPU ms/MB")


def row(name: str, found: Phase) -> tuple[str, ...]:
    sizes = (found.first.rss, found.first.pss, found.other.rss, found.other.pss)
    moved = CLIENTS * SIZE / 1e6
    return (name, *(f"{size / 2**20:.1f}" for size in sizes), f"{found.seconds:.1f}", f"{found.cpu_s * 1000 / moved:.2f}")


def markdown(found: dict[str, dict[str, Phase]], machine: dict[str, str], everybody: list[Contender]) -> Iterator[str]:
    yield from ("# Memory of slow transfers", "")
    yield "Most of each process that was seen. `first` is the server's first process (ours: the edge), `other` the largest of the others (the worker)."
    yield from (f"The limit for each of ours is {LIMIT_MIB} MiB of RSS.", "")
    for phase, (what, _) in PHASES.items():
        yield from (f"## {phase}: {what}", "")
        yield from aligned(HEADINGS, [row(name, each) for name, each in found[phase].items()])
        yield ""
    yield from ("## Servers", "", *(f"- {each.name}: {each.what}" for each in everybody), "")
    yield from ("## Machine", "", *(f"- {name}: {value}" for name, value in machine.items()), "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fasterapi", type=Path, default=ROOT / ".venv/bin/fasterapi", help="our binary")
    parser.add_argument("--only", type=names, default=[], help="servers, by name: a,b,c; default: ours")
    parser.add_argument("--peers", action="store_true", help="the others too")
    parser.add_argument("--out", type=Path, default=ROOT / "benches/results", help="folder of memory.{md,json}")
    options = parser.parse_args()
    ours: Path = options.fasterapi.absolute()
    everybody = contenders(ours)
    picked = chosen([each for each in everybody if each.ours or options.peers or options.only], options.only, ours)
    machine = facts(ours, [package for each in picked for package in each.packages])
    found: dict[str, dict[str, Phase]] = {phase: {} for phase in PHASES}
    problems = []
    for contender in picked:
        for phase in PHASES:
            try:
                each = found[phase][contender.name] = measure(contender, phase)
            except Unusable as error:
                problems.append(f"{contender.name}: {error}")
                continue
            if contender.ours and each.most_mib > LIMIT_MIB:
                problems.append(f"{contender.name}: {phase}: {each.most_mib:.0f} MiB, more than {LIMIT_MIB}")
    text = "\n".join(markdown(found, machine, picked))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "memory.md").write_text(text)
    results = {phase: {name: asdict(each) for name, each in by_name.items()} for phase, by_name in found.items()}
    (options.out / "memory.json").write_text(json.dumps({"machine": machine, "results": results}, indent=1))
    print(text)
    print("\n".join(problems), file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
