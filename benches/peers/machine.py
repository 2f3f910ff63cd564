"""On what, and with which versions: facts that belong beside every figure."""

import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def first_line(*command: str) -> str | None:
    """What a program says of itself; None if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines else None


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def facts(ours: Path, packages: Iterable[str]) -> dict[str, str]:
    found = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": f"{cpu_model()}, {os.cpu_count()} CPUs",
        "kernel": platform.release(),
        "load at start": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "wrk": first_line("wrk", "-v") or "?",
        "fasterapi": first_line(str(ours), "--version") or "not built",
        "commit": first_line("git", "describe", "--always", "--dirty", "--abbrev=12") or "?",
    }
    for package in sorted(set(packages)):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
