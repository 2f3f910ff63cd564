"""Which event loop a worker should run: every kind of application on asyncio's loop with the lanes in its selector, and on uvloop.

Rounds alternate between the loops; what counts is the CPU time of edge and worker for a request. Results: benches/results/loops.{md,json}.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median

from peers.choice import cpu_list
from peers.contenders import Case, fasterapi
from peers.machine import facts
from peers.measure import Round, Setup, measure
from peers.report import aligned
from peers.server import Unusable, running
from websocket import Round as Messages
from websocket import measure as measure_messages

ROOT = Path(__file__).parents[1]
LOOPS = ("asyncio", "uvloop")
HELLO = {"message": "Hello, World!"}
CASES = (
    ("native handler", "edge_app:app", "native", "/hello"),
    ("raw ASGI", "raw_asgi:app", "asgi", "/hello"),
    ("FastAPI", "fastapi_app:app", "asgi", "/hello"),
    ("ASGI, asyncio.sleep(1 ms)", "io_asgi:app", "asgi", "/sleep"),
    ("ASGI, gather of two tasks", "io_asgi:app", "asgi", "/tasks"),
    ("ASGI, round trip on streams", "io_asgi:app", "asgi", "/streams"),
)
WEBSOCKET = "WebSocket echo, ASGI"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fasterapi", type=Path, default=ROOT / ".venv/bin/fasterapi", help="our binary")
    parser.add_argument("--rounds", type=int, default=os.environ.get("ROUNDS", "5"))
    parser.add_argument("--seconds", type=int, default=os.environ.get("SECONDS", "3"), help="length of a round")
    parser.add_argument("--connections", type=int, default=os.environ.get("CONNECTIONS", "64"))
    parser.add_argument("--server-cpus", type=cpu_list, default=os.environ.get("SERVER_CPUS", "0,1"))
    parser.add_argument("--out", type=Path, default=ROOT / "benches/results", help="folder of loops.{md,json}")
    options = parser.parse_args()
    server_cpus: frozenset[int] = options.server_cpus
    client_cpus = frozenset(os.sched_getaffinity(0)) - server_cpus
    setup = Setup(server_cpus, client_cpus, options.connections, options.seconds)
    ours: Path = options.fasterapi.absolute()
    found: dict[str, dict[str, list[Round | Messages]]] = {}
    for number in range(1, options.rounds + 1):
        for name, app, interface, path in CASES:
            for loop in LOOPS:
                contender = fasterapi(ours, loop, loop, "asgi", app, "--interface", interface, "--loop", loop)
                case = Case(name, path, HELLO, "")
                with running(contender, server_cpus, case) as server:
                    each = measure(setup, server, case)
                found.setdefault(name, {}).setdefault(loop, []).append(each)
                print(
                    f"round {number}  {name:<28} {loop:<8} {each.requests_per_s:>9,.0f} requests/s  {each.cpu_us:6.1f} us",
                    flush=True,
                )
        for loop in LOOPS:
            contender = fasterapi(ours, loop, loop, "asgi", "ws_asgi:app", "--interface", "asgi", "--loop", loop)
            try:
                echoed = measure_messages(contender, server_cpus, sorted(client_cpus), options.connections, 1, options.seconds)
            except Unusable as error:
                print(f"round {number}, {loop}: {error}", file=sys.stderr)
                continue
            found.setdefault(WEBSOCKET, {}).setdefault(loop, []).append(echoed)
            print(
                f"round {number}  {WEBSOCKET:<28} {loop:<8} {echoed.messages_per_s:>9,.0f} messages/s  {echoed.cpu_us:6.1f} us",
                flush=True,
            )
    machine = facts(ours, ["uvloop"])
    text = markdown(found, machine, f"{options.connections} connections, {options.rounds} round(s) of {options.seconds} s")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "loops.md").write_text(text)
    results = {name: {loop: [asdict(each) for each in rounds] for loop, rounds in by.items()} for name, by in found.items()}
    (options.out / "loops.json").write_text(json.dumps({"machine": machine, "results": results}, indent=1))
    print(f"\n{text}")
    return 0


def markdown(found: dict[str, dict[str, list[Round | Messages]]], machine: dict[str, str], how: str) -> str:
    headings = (
        "application",
        *(f"{loop}: {unit}" for loop in LOOPS for unit in ("CPU µs", "per second", "p99 µs")),
        "CPU, uvloop/asyncio",
    )
    lines = ["# Event loops", "", f"{how}; medians.", "", *aligned(headings, [row(name, by) for name, by in found.items()])]
    return "\n".join([*lines, "", "## Machine", "", *(f"- {name}: {value}" for name, value in machine.items()), ""])


def row(name: str, by_loop: dict[str, list[Round | Messages]]) -> tuple[str, ...]:
    cells = [name]
    for loop in LOOPS:
        rounds = by_loop[loop]
        speed = median(each.messages_per_s if isinstance(each, Messages) else each.requests_per_s for each in rounds)
        cells += [
            f"{median(each.cpu_us for each in rounds):.1f}",
            f"{speed:,.0f}",
            f"{median(each.p99_us for each in rounds):,.0f}",
        ]
    ratio = median(each.cpu_us for each in by_loop["uvloop"]) / median(each.cpu_us for each in by_loop["asyncio"])
    return (*cells, f"{ratio:.2f}")


if __name__ == "__main__":
    sys.exit(main())
