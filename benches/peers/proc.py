"""What a process tree costs, read from /proc: CPU seconds and resident memory."""

import os
from dataclasses import dataclass
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
PROC = Path("/proc")


@dataclass(frozen=True)
class Usage:
    """A reading of a tree: its first process, and all others below it."""

    root_cpu_s: float
    children_cpu_s: float
    root_rss: int
    children_rss: int


def stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third (state) on; the second may hold spaces and brackets."""
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """The process and everything below it, whichever session or group that is in."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                children.setdefault(int(stat_fields(int(entry.name))[1]), []).append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    pids = [root]
    for pid in pids:
        pids.extend(children.get(pid, ()))
    return pids


def usage(root: int) -> Usage:
    """User and system time of all threads, ended ones and reaped children included."""
    cpu: list[float] = []
    rss: list[int] = []
    for pid in tree(root):
        try:
            fields = stat_fields(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
        cpu.append(sum(int(field) for field in fields[11:15]) * TICK)
        rss.append(int(fields[21]) * PAGE)
    return Usage(cpu[0], sum(cpu[1:]), rss[0], sum(rss[1:]))


def busy_s(cpus: frozenset[int]) -> float:
    """Time that these CPUs were not idle, by anybody, since boot."""
    total = 0
    for line in (PROC / "stat").read_text().splitlines():
        name, *fields = line.split()
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in cpus:
            user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
            total += user + nice + system + irq + softirq + steal
    return total * TICK
