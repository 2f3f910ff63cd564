"""HTTP/2 and HTTP/3 side by side with other servers, by CPU per request; TLS handshakes; 1 GB with memory watched; what was promised of each.

Clients: h2load for HTTP/2, benches/h3load for HTTP/3 and for handshakes, curl for transfers over TCP; each pinned away from the server, whose process
tree is weighed before and after. A fixed answer is one that a server gives without an application, status 200 and no body: ours knows which methods a
route has (`OPTIONS /hello`), nginx and Caddy have a line of configuration for it, h2o an empty file. Who is missing is left out, who fails is skipped
for that round, and both are said. Results: benches/results/http_versions.{md,json}.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from peers.choice import cpu_list, names
from peers.machine import facts
from peers.server import Unusable

from http_versions.cases import CASES, Case
from http_versions.measure import Round, Setup, Transfer, measure, transfers
from http_versions.report import WORDS, Report
from http_versions.servers import ROOT, Contender, said

PROGRAMS = ("h2load", "curl", "openssl", "taskset")
FAILURE_MAX = 600
"""Characters of one that are told."""
HOW = (
    "Medians; ± is (most - least) / median of the CPU, which is divided by the requests that were begun. One worker, one shard; the others one "
    "worker or thread. TLS 1.3 with AES-128-GCM, X25519 and an ECDSA P-256 certificate everywhere. A fixed answer is status 200 without a body; "
    "its bytes are those of the frames (HTTP/2) or datagrams (HTTP/3) that the client received, divided by the answers. "
    "h2load has no percentiles: its mean and its most stand in their places."
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="http_versions", description=__doc__)
    parser.add_argument("--fasterapi", type=Path, default=ROOT / ".venv/bin/fasterapi", help="our binary")
    parser.add_argument("--h3load", type=Path, default=ROOT / "target/release/h3load")
    parser.add_argument("--only", type=names, default=[], help="cases, by name; `transfers` is one")
    parser.add_argument("--servers", type=names, default=[], help="contenders, by name")
    parser.add_argument("--rounds", type=int, default=os.environ.get("ROUNDS", "3"))
    parser.add_argument("--seconds", type=int, default=os.environ.get("SECONDS", "4"), help="length of a round")
    parser.add_argument("--size", type=int, default=1 << 30, help="bytes of a transfer")
    ours, last = usual_cpus(sorted(os.sched_getaffinity(0)))
    parser.add_argument("--server-cpus", type=cpu_list, default=os.environ.get("SERVER_CPUS", ours))
    parser.add_argument("--client-cpus", type=cpu_list, default=os.environ.get("CLIENT_CPUS", last))
    parser.add_argument("--out", type=Path, default=ROOT / "benches/results", help="folder of http_versions.{md,json}")
    return parser.parse_args()


def usual_cpus(there: Sequence[int]) -> tuple[str, str]:
    """The first two for the server, the last for the client; with fewer than three they share."""
    return ",".join(map(str, there[: 2 if len(there) > 2 else 1])), str(there[-1])


class Run:
    """Everything that one run finds, failures among it."""

    def __init__(self, setup: Setup, options: argparse.Namespace) -> None:
        self._setup, self._options = setup, options
        self._machine = facts(setup.ours, ("hypercorn", "granian", "aioquic", "h2"))
        self.found: dict[str, dict[str, list[Round]]] = {}
        self.moved: list[Transfer] = []
        self.failures: list[str] = []
        self.everybody = {each.name: each for case in CASES for each in case.contenders}
        self.missing = {each.name: why for each in self.everybody.values() if (why := each.why_not())}
        known = {*(case.name for case in CASES), "transfers"}
        for given, there in ((options.only, known), (options.servers, set(self.everybody))):
            if unknown := set(given) - there:
                raise SystemExit(f"error: no such thing: {', '.join(sorted(unknown))}; there are {', '.join(sorted(there))}")

    def _takes_part(self, server: str) -> bool:
        return server not in self.missing and (not self._options.servers or server in self._options.servers)

    def _is_asked(self, case: str) -> bool:
        return not self._options.only or case in self._options.only

    def _failed(self, what: str) -> None:
        self.failures.append(" ".join(what.split())[:FAILURE_MAX])
        print(f"FAILED  {self.failures[-1]}", file=sys.stderr, flush=True)

    def rounds(self) -> None:
        total = self._options.rounds
        for number in range(1, total + 1):
            for case in CASES:
                for contender in case.contenders:
                    if self._is_asked(case.name) and self._takes_part(contender.name):
                        self._round(f"{number}/{total}", case, contender)

    def _round(self, number: str, case: Case, contender: Contender) -> None:
        try:
            each = measure(self._setup, case, contender)
        except (Unusable, OSError) as error:
            self._failed(f"round {number}, {case.name}, {contender.name}: {error}")
            return
        self.found.setdefault(case.name, {}).setdefault(contender.name, []).append(each)
        figures = f"{each.per_s:>9,.0f} /s  {each.cpu_us:>7.1f} µs CPU each, {each.errors} errors"
        print(f"round {number}  {case.name:<12} {contender.name:<15} {figures}", flush=True)

    def transfers(self) -> None:
        if not self._is_asked("transfers"):
            return
        try:
            for each in transfers(self._setup, self._options.size):
                if isinstance(each, Unusable):
                    self._failed(f"transfers, {each}")
                    continue
                self.moved.append(each)
                what = f"{each.version:<8} {each.direction:<9} {each.mb_per_s:>7,.0f} MB/s"
                print(f"{what}, edge {each.edge_before_mib:.1f} MiB, at most {each.edge_rss_mib:.1f}", flush=True)
        except (Unusable, OSError) as error:
            self._failed(f"transfers: {error}")

    def report(self, how: str) -> Report:
        servers = {name: each.version() for name, each in self.everybody.items() if not each.is_ours}
        clients = {program: said(program, "--version")() for program in ("h2load", "curl")}
        versions = {name: version for name, version in {**servers, **clients}.items() if version and name not in self._machine}
        left_out = [f"{name}: {why}" for name, why in self.missing.items()]
        return Report(how, {**self._machine, **versions}, self.found, self.moved, left_out, self.failures)


def main() -> int:
    options = arguments()
    setup = Setup(
        options.fasterapi.absolute(), options.h3load.absolute(), options.server_cpus, options.client_cpus, options.seconds
    )
    for program in (*PROGRAMS, str(setup.ours), str(setup.h3load)):
        if not shutil.which(program):
            raise SystemExit(f"error: no {program}; make bench-http gets all that it takes")
    run = Run(setup, options)
    for name, why in run.missing.items():
        print(f"left out  {name}: {why}", flush=True)
    run.rounds()
    run.transfers()
    report = run.report(
        f"Server tree on CPUs {','.join(map(str, sorted(setup.server_cpus)))}, client on {','.join(map(str, sorted(setup.client_cpus)))}; "
        f"{options.rounds} round(s) of {options.seconds} s, interleaved, a fresh process each. {HOW}"
    )
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "http_versions.md").write_text(report.markdown())
    (options.out / "http_versions.json").write_text(report.json())
    print(f"\n{report.markdown()}")
    for each in report.targets():
        print(f"{WORDS[each.reached]:<10}  {each.case:<11}  {each.asked}: {each.measured}")
    return 1 if run.failures else 0


if __name__ == "__main__":
    sys.exit(main())
