"""Rounds in; a Markdown table, JSON and an SVG out."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from statistics import median

from peers.contenders import OURS, Case, Contender
from peers.measure import Round, Setup


@dataclass(frozen=True)
class Results:
    """`rounds` by case name, then by contender name, each in the order of its table; what failed has no entry there."""

    setup: Setup
    machine: Mapping[str, str]
    cases: Sequence[Case]
    contenders: Sequence[Contender]
    rounds: Mapping[str, Mapping[str, Sequence[Round]]]
    failures: Sequence[str]


def middle(rounds: Sequence[Round], of: Callable[[Round], float]) -> float:
    return median(map(of, rounds))


def spread(rounds: Sequence[Round], of: Callable[[Round], float]) -> float:
    """(most - least) / median."""
    values = [of(each) for each in rounds]
    return (max(values) - min(values)) / (median(values) or 1)


def cpu_us(each: Round) -> float:
    return each.cpu_us


def requests_per_s(each: Round) -> float:
    return each.requests_per_s


HEADINGS = (
    *("server", "requests/s", "±", "p50 µs", "p99 µs", "errors"),
    *("CPU µs/request", "±", "first process", "its children", "RSS MiB", "other load"),
)


def row(name: str, rounds: Sequence[Round]) -> tuple[str, ...]:
    return (
        name,
        f"{middle(rounds, requests_per_s):,.0f}",
        f"{spread(rounds, requests_per_s):.0%}",
        f"{middle(rounds, lambda each: each.p50_us):,.0f}",
        f"{middle(rounds, lambda each: each.p99_us):,.0f}",
        f"{sum(each.errors for each in rounds)}",
        f"{middle(rounds, cpu_us):.1f}",
        f"{spread(rounds, cpu_us):.0%}",
        f"{middle(rounds, lambda each: each.root_cpu_us):.1f}",
        f"{middle(rounds, lambda each: each.children_cpu_us):.1f}",
        f"{middle(rounds, lambda each: each.rss_mib):.0f}",
        f"{middle(rounds, lambda each: each.foreign):.0%}",
    )


def aligned(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A Markdown table that also reads well in a terminal."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return f"| {first[0]:<{first[1]}} | " + " | ".join(f"{cell:>{width}}" for cell, width in others) + " |"

    yield line(headings)
    yield "|" + "|".join("-" * (width + 1) + (":" if place else "-") for place, width in enumerate(widths)) + "|"
    yield from map(line, rows)


def ratios(contenders: Sequence[Contender], by_name: Mapping[str, Sequence[Round]]) -> Iterator[str]:
    """Each of ours against those whose application does the same; native handlers against everybody."""
    there = [each for each in contenders if each.name in by_name]
    for our in (each for each in there if each.ours):
        mine = by_name[our.name]
        for other in there:
            if not other.ours and our.family in ("native", other.family):
                rounds = by_name[other.name]
                cpu = middle(mine, cpu_us) / (middle(rounds, cpu_us) or 1)
                speed = middle(mine, requests_per_s) / (middle(rounds, requests_per_s) or 1)
                yield f"- {our.name} / {other.name}: CPU per request = {cpu:.2f}x; requests/s = {speed:.2f}x"


def cpus(numbers: frozenset[int]) -> str:
    return ",".join(map(str, sorted(numbers)))


def markdown(results: Results) -> str:
    setup = results.setup
    lines = [
        "# Side by side",
        "",
        f"Server tree on CPUs {cpus(setup.server_cpus)}; wrk on {cpus(setup.client_cpus)} with {setup.threads} thread(s), "
        f"{setup.connections} keep-alive connections, {setup.seconds} s a round. One worker each, loopback, a fresh process "
        "each round, interleaved. Medians over the rounds; ± is (most - least) / median.",
        "CPU is user + system time of the whole process tree. `other load` is the share of the server's CPUs that went to "
        "interrupts and to other people's work: a high figure spoils a comparison.",
        "",
    ]
    for case in results.cases:
        by_name = results.rounds[case.name]
        rounds = max(map(len, by_name.values()), default=0)
        lines += [f"## `{case.name}`: {case.what}", "", f"{rounds} round(s).", ""]
        lines += aligned(HEADINGS, [row(name, each) for name, each in by_name.items()])
        lines += ["", *ratios(results.contenders, by_name), ""]
    lines += ["## Servers", "", *(f"- {each.name}: {each.what}" for each in results.contenders), ""]
    lines += ["## Machine", "", *(f"- {name}: {value}" for name, value in results.machine.items()), ""]
    if results.failures:
        lines += ["## Did not count", "", *(f"- {each}" for each in results.failures), ""]
    return "\n".join(lines)


def as_json(results: Results) -> str:
    return json.dumps(
        {
            "setup": {
                **asdict(results.setup),
                "server_cpus": sorted(results.setup.server_cpus),
                "client_cpus": sorted(results.setup.client_cpus),
            },
            "machine": dict(results.machine),
            "rounds": {
                case: {name: [{**asdict(each), "cpu_us": each.cpu_us} for each in rounds] for name, rounds in by_name.items()}
                for case, by_name in results.rounds.items()
            },
            "failures": list(results.failures),
        },
        indent=1,
    )


BAR, GAP, LABEL, SPAN, VALUE = 18, 6, 130, 250, 70
STYLE = """
  text { font: 12px system-ui, sans-serif; fill: #24292f }
  .head { font-weight: 600 }
  .ours { fill: #0969da }
  .other { fill: #8c959f }
  @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .ours { fill: #58a6ff } .other { fill: #6e7681 } }
"""


def bars(x: int, y: int, title: str, values: Mapping[str, float], shown: str) -> Iterator[str]:
    yield f'<text class="head" x="{x}" y="{y}">{escape(title)}</text>'
    most = max(values.values(), default=0) or 1
    for place, (name, value) in enumerate(values.items()):
        top = y + 10 + place * (BAR + GAP)
        width = max(1.0, value / most * SPAN)
        kind = "ours" if OURS in name else "other"
        yield f'<text x="{x + LABEL - 8}" y="{top + 13}" text-anchor="end">{escape(name)}</text>'
        yield f'<rect class="{kind}" x="{x + LABEL}" y="{top}" width="{width:.1f}" height="{BAR}" rx="2"/>'
        yield f'<text x="{x + LABEL + width + 6:.1f}" y="{top + 13}">{format(value, shown)}</text>'


def svg(results: Results) -> str:
    """Two panels to a case. No background of its own: it takes the page's, light or dark."""
    panel = LABEL + SPAN + VALUE
    y = 30
    parts: list[str] = []
    for case in results.cases:
        by_name = results.rounds[case.name]
        cpu = {name: middle(rounds, cpu_us) for name, rounds in by_name.items()}
        speed = {name: middle(rounds, requests_per_s) for name, rounds in by_name.items()}
        parts += bars(10, y, f"{case.name}: CPU µs per request (less is better)", cpu, ".1f")
        parts += bars(20 + panel, y, f"{case.name}: requests per second (more is better)", speed, ",.0f")
        y += len(by_name) * (BAR + GAP) + 50
    width, height = 2 * panel + 30, y - 20
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return "\n".join([opening, f"<style>{STYLE}</style>", *parts, "</svg>", ""])


def write(results: Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, text in (("md", markdown(results)), ("json", as_json(results)), ("svg", svg(results))):
        (folder / f"peers.{suffix}").write_text(text)
