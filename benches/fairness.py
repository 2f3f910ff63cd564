"""Who waits for whom: handlers of 1 ms and of 500 ms, mixed 50 : 1, on 4 workers, under several servers in one run.

An open loop: requests are due at times drawn once (one seed for all servers) and a request's latency counts from when it was due, so a server that
holds its clients up does not thereby get less to do. They go out on keep-alive connections, as a proxy's would, the one that has been
idle longest first. `block` handlers hold their worker's event loop, `await` handlers do not. Results: benches/results/fairness.{md,json}.
"""

import argparse
import asyncio
import json
import os
import random
import sys
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from unittest.mock import ANY

from peers.choice import chosen, names
from peers.contenders import UVICORN_WORKER, Case, Contender, fasterapi, granian, gunicorn
from peers.machine import facts
from peers.proc import usage
from peers.report import aligned
from peers.server import Unusable, running

WORKERS = 4
CONNECTIONS = 64
SHORT_MS, LONG_MS = 1, 500
SHORT_PER_LONG = 50
SEED = 1
START_MAX_S = 10.0
ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Kind:
    """How the handlers spend their time, and how many requests a second are due."""

    name: str
    rate: int
    what: str


KINDS = (
    Kind("block", 50, "time.sleep in the event loop: a worker does one thing at a time; workers are busy 14 % of the time"),
    Kind("await", 400, "asyncio.sleep: a worker does many things at a time"),
)


def contenders(ours: Path) -> list[Contender]:
    return [
        fasterapi(ours, "fasterapi", "ours, native handlers", "native", "fair_edge:app", workers=WORKERS),
        fasterapi(ours, "fasterapi-asgi", "ours, ASGI", "asgi", "fair_asgi:app", "--interface", "asgi", workers=WORKERS),
        gunicorn("gunicorn-uvicorn", "gunicorn with uvicorn workers", "asgi", "fair_asgi:app", UVICORN_WORKER, workers=WORKERS),
        granian("granian-asgi", "Granian, ASGI", "asgi", "fair_asgi:app", "asgi", workers=WORKERS),
    ]


@dataclass(frozen=True)
class Found:
    """Latencies of the short requests in ms; requests by worker, the busiest first."""

    short: list[float]
    long: list[float]
    workers: list[int]
    errors: int
    cpu_us: float

    def quantile(self, share: float) -> float:
        ordered = sorted(self.short)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")

    @property
    def late(self) -> float:
        """Share of the short ones that waited for more than 50 ms: for a long one."""
        return sum(each > 50 for each in self.short) / (len(self.short) or 1)

    @property
    def imbalance(self) -> float:
        """Most / mean; a worker that never answered counts."""
        return max(self.workers, default=0) / (sum(self.workers) / WORKERS or 1)


def schedule(kind: Kind, seconds: float) -> list[tuple[float, int]]:
    """When each request is due, and how long its handler takes. The same for every server."""
    draw = random.Random(SEED)
    due, found = 0.0, []
    while (due := due + draw.expovariate(kind.rate)) < seconds:
        found.append((due, LONG_MS if draw.randrange(SHORT_PER_LONG + 1) == 0 else SHORT_MS))
    return found


class Client:
    """One keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, path: str) -> int:
        """The process id in the answer."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if not head.startswith(b"http/1.1 200"):
            raise Unusable(head.splitlines()[0].decode())
        length = next(int(line.partition(b":")[2]) for line in head.splitlines() if line.startswith(b"content-length"))
        return int(await self._reader.readexactly(length))

    def close(self) -> None:
        self._writer.close()


async def every_worker_answered(port: int) -> None:
    """Servers listen before all of their workers do. Each look is on connections of its own, many at once; one that is never seen is not waited for."""
    seen: set[int] = set()
    deadline = time.monotonic() + START_MAX_S
    while len(seen) < WORKERS and time.monotonic() < deadline:
        clients = [Client(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(CONNECTIONS)]
        seen.update(await asyncio.gather(*(client.ask("/await/10") for client in clients)))
        for client in clients:
            client.close()


async def load(port: int, kind: Kind, seconds: float) -> tuple[list[float], list[float], Counter[int], int]:
    await every_worker_answered(port)
    idle = deque([Client(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(CONNECTIONS)])
    everybody = list(idle)
    latencies: dict[int, list[float]] = {SHORT_MS: [], LONG_MS: []}
    workers: Counter[int] = Counter()
    errors = 0
    freed = asyncio.Condition()

    async def one(due: float, duration_ms: int) -> None:
        nonlocal errors
        async with freed:
            await freed.wait_for(lambda: idle)
            client = idle.popleft()
        try:
            workers[await client.ask(f"/{kind.name}/{duration_ms}")] += 1
            latencies[duration_ms].append((time.perf_counter() - due) * 1000)
        except (OSError, EOFError, Unusable):
            errors += 1
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            everybody.append(client)
        async with freed:
            idle.append(client)
            freed.notify()

    start = time.perf_counter()
    tasks = []
    for due, duration_ms in schedule(kind, seconds):
        await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(start + due, duration_ms)))
    await asyncio.gather(*tasks)
    for client in everybody:
        client.close()
    return latencies[SHORT_MS], latencies[LONG_MS], workers, errors


def measure(contender: Contender, kind: Kind, seconds: float) -> Found:
    # Which process answers is the question.
    first = Case("first", f"/{kind.name}/0", ANY, "")
    with running(contender, frozenset(os.sched_getaffinity(0)), first) as server:
        before = usage(server.pid)
        short, long, workers, errors = asyncio.run(load(server.port, kind, seconds))
        after = usage(server.pid)
    spent = after.root_cpu_s + after.children_cpu_s - before.root_cpu_s - before.children_cpu_s
    counts = sorted(workers.values(), reverse=True)
    return Found(short, long, counts, errors, spent / (len(short) + len(long) or 1) * 1e6)


HEADINGS = (
    "server",
    "1 ms: p50",
    "p90",
    "p99 ms",
    "max",
    "over 50 ms",
    "500 ms: mean",
    "max/mean",
    "by worker",
    "errors",
    "CPU µs/request",
)


def row(name: str, found: Found) -> tuple[str, ...]:
    return (
        name,
        *(f"{found.quantile(share):,.1f}" for share in (0.5, 0.9, 0.99, 1.0)),
        f"{found.late:.1%}",
        f"{mean(found.long) if found.long else float('nan'):,.0f}",
        f"{found.imbalance:.2f}",
        " ".join(map(str, found.workers)),
        str(found.errors),
        f"{found.cpu_us:.0f}",
    )


def markdown(found: dict[str, dict[str, Found]], machine: dict[str, str], seconds: float, everybody: list[Contender]) -> str:
    lines = [
        "# Fairness",
        "",
        f"Handlers of {SHORT_MS} and {LONG_MS} ms, {SHORT_PER_LONG} : 1, {WORKERS} workers, {CONNECTIONS} keep-alive connections, {seconds:.0f} s; "
        "latency in ms from when a request was due (open loop, one schedule for all). `max/mean`: requests of the busiest worker.",
        "",
    ]
    for kind in KINDS:
        lines += [f"## {kind.name}: {kind.what}; {kind.rate} requests/s", ""]
        lines += aligned(HEADINGS, [row(name, each) for name, each in found[kind.name].items()])
        lines.append("")
    lines += ["## Servers", "", *(f"- {each.name}: {each.what}" for each in everybody), ""]
    lines += ["## Machine", "", *(f"- {name}: {value}" for name, value in machine.items()), ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fasterapi", type=Path, default=ROOT / ".venv/bin/fasterapi", help="our binary")
    parser.add_argument("--only", type=names, default=[], help="servers, by name: a,b,c")
    parser.add_argument(
        "--seconds", type=float, default=os.environ.get("SECONDS", "15"), help="for each server and kind of handler"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benches/results", help="folder of fairness.{md,json}")
    options = parser.parse_args()
    ours: Path = options.fasterapi.absolute()
    picked = chosen(contenders(ours), options.only, ours)
    machine = facts(ours, [package for each in picked for package in each.packages])
    found: dict[str, dict[str, Found]] = {kind.name: {} for kind in KINDS}
    failed = False
    for kind in KINDS:
        for contender in picked:
            try:
                each = found[kind.name][contender.name] = measure(contender, kind, options.seconds)
            except Unusable as error:
                failed = True
                print(f"{contender.name}: {error}", file=sys.stderr)
                continue
            print(
                f"{kind.name:<6} {contender.name:<17} p99 {each.quantile(0.99):>6.1f} ms  max/mean {each.imbalance:.2f}",
                flush=True,
            )
    options.out.mkdir(parents=True, exist_ok=True)
    text = markdown(found, machine, options.seconds, picked)
    (options.out / "fairness.md").write_text(text)
    results = {kind: {name: asdict(each) for name, each in by_name.items()} for kind, by_name in found.items()}
    (options.out / "fairness.json").write_text(json.dumps({"machine": machine, "results": results}, indent=1))
    print()
    print(text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
