"""The command line, and the order of the rounds: A B C, A B C, … so that a change of the weather hits everybody."""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from peers import report
from peers.choice import chosen, cpu_list, names
from peers.contenders import CASES, Case, Contender, contenders
from peers.machine import facts
from peers.measure import Round, Setup, measure
from peers.server import Unusable, running

ROOT = Path(__file__).parents[2]


def default(name: str, value: str) -> str:
    return os.environ.get(name, value)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="peers", description=__doc__)
    parser.add_argument("--only", type=names, default=[], help="servers, by name: a,b,c")
    parser.add_argument("--case", type=names, default=[], help=f"cases: {','.join(case.name for case in CASES)}")
    parser.add_argument("--rounds", type=int, default=default("ROUNDS", "3"))
    parser.add_argument("--seconds", type=int, default=default("SECONDS", "4"), help="length of a round")
    parser.add_argument("--connections", type=int, default=default("CONNECTIONS", "64"))
    parser.add_argument("--server-cpus", type=cpu_list, default=default("SERVER_CPUS", "0,1"))
    parser.add_argument("--fasterapi", type=Path, default=ROOT / ".venv/bin/fasterapi", help="our binary")
    parser.add_argument("--out", type=Path, default=ROOT / "benches/results", help="folder of peers.{md,json,svg}")
    parser.add_argument("--list", action="store_true", help="say which servers there are")
    return parser.parse_args()


def run(
    setup: Setup, picked: Sequence[Contender], cases: Sequence[Case], rounds: int
) -> tuple[dict[str, dict[str, list[Round]]], list[str]]:
    found: dict[str, dict[str, list[Round]]] = {case.name: {} for case in cases}
    failures: list[str] = []
    for number in range(1, rounds + 1):
        for contender in picked:
            try:
                with running(contender, setup.server_cpus, cases[0]) as server:
                    for case in cases:
                        each = measure(setup, server, case)
                        found[case.name].setdefault(contender.name, []).append(each)
                        print(
                            f"round {number}/{rounds}  {contender.name:<16} {case.name:<6} {each.requests_per_s:>9,.0f} req/s"
                            f"  {each.cpu_us:>6.1f} µs CPU/request  p99 {each.p99_us:>7,.0f} µs",
                            flush=True,
                        )
            except (Unusable, subprocess.SubprocessError) as error:
                failures.append(f"round {number}, {contender.name}: {error}")
                print(failures[-1], file=sys.stderr, flush=True)
    return found, failures


def main() -> int:
    options = arguments()
    ours: Path = options.fasterapi.absolute()
    every = contenders(ours)
    if options.list:
        print("\n".join(f"{each.name:<16} {each.what}" for each in every))
        return 0
    for program in ("wrk", "taskset"):
        if not shutil.which(program):
            raise SystemExit(f"error: no {program}; ci/system-packages bench installs it")
    cases = [case for case in CASES if not options.case or case.name in options.case]
    if not cases:
        raise SystemExit(f"error: no such case; there are {', '.join(case.name for case in CASES)}")
    available = frozenset(os.sched_getaffinity(0))
    server_cpus: frozenset[int] = options.server_cpus & available
    client_cpus = available - server_cpus
    if not server_cpus or not client_cpus:
        raise SystemExit(f"error: of CPUs {report.cpus(available)}, both the server and wrk need one; see --server-cpus")

    setup = Setup(server_cpus, client_cpus, options.connections, options.seconds)
    picked = chosen(every, options.only, ours)
    packages = [package for each in picked for package in each.packages] + ["orjson"]
    machine = facts(ours, packages)
    rounds, failures = run(setup, picked, cases, options.rounds)
    results = report.Results(setup, machine, cases, picked, rounds, failures)
    report.write(results, options.out)
    print()
    print(report.markdown(results))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
