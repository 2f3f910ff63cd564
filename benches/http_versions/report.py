"""Rounds in; Markdown and JSON out, the targets first: asked, measured, reached or not."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from peers.report import aligned

from http_versions.cases import CASES, RESUMED_LEAST, RSS_GROWTH_MAX_MIB, TARGETS, Case, Target
from http_versions.measure import TRANSFERS, Round, Transfer
from http_versions.servers import OURS

Results = Mapping[str, Mapping[str, Sequence[Round]]]
"""By case, then by contender; what failed has no entry."""


def middle(rounds: Sequence[Round], of: Callable[[Round], float]) -> float:
    return median(map(of, rounds))


def cpu_us(each: Round) -> float:
    return each.cpu_us


def per_s(each: Round) -> float:
    return each.per_s


def is_comparable(case: str, rounds: Sequence[Round]) -> bool:
    """Handshakes of which some were resumed and some not are another measure."""
    return case != "tls-resumed" or middle(rounds, lambda each: each.resumed) >= RESUMED_LEAST


# --- targets -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """`reached` is None when it could not be judged, and `measured` says why."""

    case: str
    asked: str
    measured: str
    reached: bool | None
    cpu_ratio: float | None = None
    rate_ratio: float | None = None


def verdict(target: Target, found: Results) -> Verdict:
    """Against the best of its peers by CPU: a target that an old build of a peer reaches is not reached."""
    by_name = found.get(target.case, {})
    mine = by_name.get(target.ours)
    theirs = {name: rounds for name in target.peers if (rounds := by_name.get(name))}
    if not mine or not theirs:
        missing = target.ours if not mine else " and ".join(target.peers)
        return Verdict(target.case, target.asked, f"no figures of {missing}", None)
    unlike = [name for name, rounds in {target.ours: mine, **theirs}.items() if not is_comparable(target.case, rounds)]
    if unlike:
        return Verdict(target.case, target.asked, f"not all handshakes with {' and '.join(unlike)} were resumed", None)
    best = min(theirs, key=lambda name: middle(theirs[name], cpu_us))
    cpu = middle(mine, cpu_us) / middle(theirs[best], cpu_us)
    rate = middle(mine, per_s) / middle(theirs[best], per_s)
    measured = f"{target.ours} / {best}: CPU {cpu:.3g} x, per second {rate:.3g} x"
    return Verdict(target.case, target.asked, measured, cpu <= target.most and rate >= target.least, cpu, rate)


def flatness(moved: Sequence[Transfer]) -> Verdict:
    asked = f"1 GB down and up over h1+TLS, h2, h3: the edge grows by at most {RSS_GROWTH_MAX_MIB:.0f} MiB"
    there = {(each.version, each.direction) for each in moved}
    missing = [f"{version} {direction}" for version, direction in TRANSFERS if (version, direction) not in there]
    if missing:
        return Verdict("transfers", asked, f"no figures of {', '.join(missing)}", None)
    growth = max(each.growth_mib for each in moved)
    peak = max(each.edge_rss_mib for each in moved)
    return Verdict("transfers", asked, f"by {growth:.1f} MiB, at most {peak:.0f} MiB resident", growth <= RSS_GROWTH_MAX_MIB)


def verdicts(found: Results, moved: Sequence[Transfer]) -> list[Verdict]:
    return [*(verdict(target, found) for target in TARGETS), flatness(moved)]


WORDS = {True: "yes", False: "NO", None: "not judged"}


# --- tables ------------------------------------------------------------------------------------------------------------

HEADINGS = (
    "server",
    "per second",
    "CPU µs each",
    "±",
    "first process",
    "its children",
    "RSS MiB",
    "errors",
    "p50 µs",
    "p99 µs",
)


def row(case: Case, name: str, rounds: Sequence[Round]) -> tuple[str, ...]:
    cpu = [each.cpu_us for each in rounds]
    cells = (
        name,
        f"{middle(rounds, per_s):,.0f}",
        f"{median(cpu):.1f}",
        f"{(max(cpu) - min(cpu)) / (median(cpu) or 1):.0%}",
        f"{middle(rounds, lambda each: each.root_cpu_us):.1f}",
        f"{middle(rounds, lambda each: each.children_cpu_us):.1f}",
        f"{middle(rounds, lambda each: each.rss_mib):.0f}",
        f"{sum(each.errors for each in rounds)}",
        f"{middle(rounds, lambda each: each.p50_us):,.0f}",
        f"{middle(rounds, lambda each: each.p99_us):,.0f}",
    )
    return (*cells, last_cell(case, rounds))


def is_handshakes(case: Case) -> bool:
    return case.load in ("full", "resumed")


def last_cell(case: Case, rounds: Sequence[Round]) -> str:
    if is_handshakes(case):
        return f"{middle(rounds, lambda each: each.resumed):.1%}"
    return f"{middle(rounds, lambda each: each.wire_bytes):.0f}"


def ratios(case: Case, by_name: Mapping[str, Sequence[Round]]) -> Iterator[str]:
    for mine in (name for name in by_name if name.startswith(OURS)):
        for other in (name for name in by_name if not name.startswith(OURS)):
            if not all(is_comparable(case.name, by_name[name]) for name in (mine, other)):
                yield f"- {mine} / {other}: not compared, for not all handshakes of both were resumed"
                continue
            cpu = middle(by_name[mine], cpu_us) / (middle(by_name[other], cpu_us) or 1)
            rate = middle(by_name[mine], per_s) / (middle(by_name[other], per_s) or 1)
            yield f"- {mine} / {other}: CPU each = {cpu:.3g}x; per second = {rate:.3g}x"


@dataclass(frozen=True)
class Report:
    how: str
    machine: Mapping[str, str]
    found: Results
    moved: Sequence[Transfer]
    left_out: Sequence[str]
    failures: Sequence[str]

    def targets(self) -> list[Verdict]:
        return verdicts(self.found, self.moved)

    def markdown(self) -> str:
        lines = ["# Versions of HTTP", "", self.how, "", "## Targets", ""]
        rows = [(each.case, each.asked, each.measured, WORDS[each.reached]) for each in self.targets()]
        lines += [*aligned(("case", "asked", "measured", "reached"), rows), ""]
        for case in CASES:
            if by_name := self.found.get(case.name):
                lines += [f"## `{case.name}`: {case.what}", ""]
                last = "resumed" if is_handshakes(case) else "bytes of an answer"
                lines += aligned((*HEADINGS, last), [row(case, name, rounds) for name, rounds in by_name.items()])
                lines += ["", *ratios(case, by_name), ""]
        if self.moved:
            lines += ["## One large body over one connection", ""]
            lines += [*aligned(TRANSFER_HEADINGS, [transfer_row(each) for each in self.moved]), ""]
        lines += ["## Machine", "", *(f"- {name}: {value}" for name, value in self.machine.items()), ""]
        for heading, notes in (("Left out", self.left_out), ("Failed", self.failures)):
            if notes:
                lines += [f"## {heading}", "", *(f"- {note}" for note in notes), ""]
        return "\n".join(lines)

    def json(self) -> str:
        results = {
            case: {name: [{**asdict(each), "cpu_us": each.cpu_us} for each in rounds] for name, rounds in by_name.items()}
            for case, by_name in self.found.items()
        }
        return json.dumps(
            {
                "how": self.how,
                "machine": dict(self.machine),
                "targets": [asdict(each) for each in self.targets()],
                "results": results,
                "transfers": [asdict(each) for each in self.moved],
                "left_out": list(self.left_out),
                "failures": list(self.failures),
            },
            indent=1,
        )


TRANSFER_HEADINGS = ("transfer", "MB/s", "CPU s", "edge MiB before", "edge MiB at most", "worker MiB at most")


def transfer_row(each: Transfer) -> tuple[str, ...]:
    return (
        f"{each.version} {each.direction}",
        f"{each.mb_per_s:,.0f}",
        f"{each.cpu_s:.2f}",
        f"{each.edge_before_mib:.1f}",
        f"{each.edge_rss_mib:.1f}",
        f"{each.worker_rss_mib:.1f}",
    )
