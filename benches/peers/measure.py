"""One round of one server on one case: wrk on its CPUs, the server's tree weighed before and after."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from peers.contenders import Case
from peers.proc import busy_s, usage
from peers.server import Server, Unusable, check

WARM_UP_S = 1
LUA = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True)
class Setup:
    """What all rounds have in common."""

    server_cpus: frozenset[int]
    client_cpus: frozenset[int]
    connections: int
    seconds: int

    @property
    def threads(self) -> int:
        """wrk threads: one for each CPU of its own, two at most."""
        return min(2, len(self.client_cpus), self.connections)


@dataclass(frozen=True)
class Round:
    """`root` is the first process of the server's tree (ours: the edge), `children` all others (ours: the worker).
    `foreign` is the share of the server's CPUs that went to neither: interrupts, and other people's work."""

    requests_per_s: float
    p50_us: float
    p99_us: float
    errors: int
    root_cpu_us: float
    children_cpu_us: float
    rss_mib: float
    foreign: float

    @property
    def cpu_us(self) -> float:
        return self.root_cpu_us + self.children_cpu_us


def wrk(setup: Setup, url: str, seconds: int) -> dict[str, float]:
    command = [
        *("taskset", "--cpu-list", ",".join(map(str, sorted(setup.client_cpus)))),
        *("wrk", "--threads", str(setup.threads), "--connections", str(setup.connections)),
        *("--duration", f"{seconds}s", "--timeout", "10s", "--script", str(LUA), url),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def measure(setup: Setup, server: Server, case: Case) -> Round:
    """A round counts only if the server answers rightly before it and after it."""
    url = f"http://127.0.0.1:{server.port}{case.path}"
    check(server.port, case)
    wrk(setup, url, WARM_UP_S)
    busy, before = busy_s(setup.server_cpus), usage(server.pid)
    load = wrk(setup, url, setup.seconds)
    after, busy = usage(server.pid), busy_s(setup.server_cpus) - busy
    try:
        check(server.port, case)
    except OSError as error:
        raise Unusable(f"{case.path}: gone after the round: {error}") from error

    requests = load["requests"]
    if not requests:
        raise Unusable(f"{case.path}: no request was answered")
    root_s = after.root_cpu_s - before.root_cpu_s
    children_s = after.children_cpu_s - before.children_cpu_s
    return Round(
        requests_per_s=requests / load["seconds"],
        p50_us=load["p50_us"],
        p99_us=load["p99_us"],
        errors=int(load["errors"]),
        root_cpu_us=root_s / requests * 1e6,
        children_cpu_us=children_s / requests * 1e6,
        rss_mib=(after.root_rss + after.children_rss) / 2**20,
        foreign=max(0.0, busy - root_s - children_s) / (load["seconds"] * len(setup.server_cpus)),
    )
