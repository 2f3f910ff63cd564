"""Who takes part and where: lists from the command line, less those of ours that the binary does not have yet."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from peers.contenders import Contender


def cpu_list(text: str) -> frozenset[int]:
    """`0,1` or `0-3` or both."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def options_of(ours: Path) -> str:
    """What our binary says that it knows; nothing if it is not there."""
    if not os.access(ours, os.X_OK):
        return ""
    return subprocess.run([ours, "run", "--help"], capture_output=True, text=True, timeout=10).stdout


def chosen(every: Sequence[Contender], only: Sequence[str], ours: Path) -> list[Contender]:
    """Who takes part; one of ours that cannot is named, and an error if it was asked for."""
    unknown = set(only) - {each.name for each in every}
    if unknown:
        raise SystemExit(f"error: no such server: {', '.join(sorted(unknown))}; --list names them")
    known = options_of(ours)
    picked = []
    for each in every:
        if only and each.name not in only:
            continue
        if each.ours and (not known or each.option not in known):
            why = f"{ours} " + (f"has no {each.option}" if known else "is not there; make build")
            if only:
                raise SystemExit(f"error: {each.name}: {why}")
            print(f"skipped {each.name}: {why}")
            continue
        picked.append(each)
    return picked
