"""HTTP/2 and HTTP/3 side by side with other servers, by CPU per request; TLS handshakes; 1 GB with memory watched.

Clients: h2load for HTTP/2, benches/h3load for HTTP/3 and for handshakes, curl for transfers over TCP; each pinned away from the server, whose process
tree is weighed before and after. A fixed answer is what a server says without an application: ours redirects (`/slash`), nginx and Caddy `return 200`.
What is missing is said and skipped. Results: benches/results/http_versions.{md,json}.
"""

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from peers.choice import cpu_list, names
from peers.machine import facts, first_line
from peers.proc import usage
from peers.report import aligned
from peers.server import Unusable, free_port, stop, tail

ROOT = Path(__file__).parents[1]
APPS = Path(__file__).parent / "peers/apps"
START_S = 20.0
WARM_UP_S = 1
RSS_LOOK_S = 0.05
MIB = 1024 * 1024


@dataclass(frozen=True)
class Place:
    """What a server is started with: `folder` is its own, with `cert.pem` and `key.pem`."""

    port: int
    folder: Path
    ours: Path


@dataclass(frozen=True)
class Contender:
    name: str
    needs: str
    """A program, or a module of the running interpreter."""
    command: Callable[[Place], list[str]]


def tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def fasterapi(app: str, *arguments: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        return [
            *(str(place.ours), "run", app, "--host", "127.0.0.1", "--port", str(place.port), "--control", "off"),
            *("--tls-cert", str(place.folder / "cert.pem"), "--tls-key", str(place.folder / "key.pem"), "--http3"),
            *(
                "--workers",
                "1",
                "--shards",
                "1",
                "--app-dir",
                str(APPS),
                "--python",
                sys.executable,
                "--body-max",
                "0",
                *arguments,
            ),
        ]

    return command


def nginx(place: Place) -> list[str]:
    scratch = "".join(
        f"{kind}_temp_path {place.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (place.folder / "nginx.conf").write_text(
        f"pid {place.folder}/pid; error_log {place.folder}/errors; daemon off; worker_processes 1; events {{}}\n"
        f"http {{ access_log off; {scratch} keepalive_requests 100000000; ssl_session_cache shared:s:8m;\n"
        f"server {{ listen 127.0.0.1:{place.port} ssl http2; ssl_protocols TLSv1.3;\n"
        f"ssl_certificate {place.folder}/cert.pem; ssl_certificate_key {place.folder}/key.pem;\n"
        'location / { default_type text/plain; return 200 "Hello, World!"; } } }\n'
    )
    return ["nginx", "-c", str(place.folder / "nginx.conf"), "-p", str(place.folder)]


def caddy(place: Place) -> list[str]:
    (place.folder / "Caddyfile").write_text(
        "{\n admin off\n auto_https off\n default_sni localhost\n storage file_system " + str(place.folder) + "\n}\n"
        f"https://:{place.port} {{\n tls {place.folder}/cert.pem {place.folder}/key.pem\n"
        ' respond "Hello, World!"\n}\n'
    )
    return ["caddy", "run", "--config", str(place.folder / "Caddyfile"), "--adapter", "caddyfile"]


def hypercorn(place: Place) -> list[str]:
    where = f"127.0.0.1:{place.port}"
    return [
        *(tool("hypercorn"), "raw_asgi:app", "--bind", where, "--quic-bind", where, "--worker-class", "uvloop"),
        *("--certfile", str(place.folder / "cert.pem"), "--keyfile", str(place.folder / "key.pem")),
    ]


def granian(place: Place) -> list[str]:
    return [
        *(tool("granian"), "raw_asgi:app", "--interface", "asgi", "--host", "127.0.0.1", "--port", str(place.port)),
        *("--workers", "1", "--runtime-threads", "1", "--loop", "uvloop", "--http", "2", "--no-ws", "--log-level", "warning"),
        *("--ssl-certificate", str(place.folder / "cert.pem"), "--ssl-keyfile", str(place.folder / "key.pem")),
    ]


NATIVE = Contender("fasterapi", "", fasterapi("http_edge:app"))
OURS_ASGI = Contender("fasterapi-asgi", "", fasterapi("raw_asgi:app", "--interface", "asgi"))
NGINX = Contender("nginx", "nginx", nginx)
CADDY = Contender("caddy", "caddy", caddy)
HYPERCORN = Contender("hypercorn", "hypercorn", hypercorn)
GRANIAN = Contender("granian", "granian", granian)


@dataclass(frozen=True)
class Case:
    name: str
    what: str
    load: str
    """Which client."""
    path: str
    ours: str
    """The path for ours, where it differs."""
    contenders: tuple[Contender, ...]


CASES = (
    Case(
        "h2-fixed", "HTTP/2 over TLS, 32 connections x 10 streams, a fixed answer", "h2", "/", "/slash", (NATIVE, NGINX, CADDY)
    ),
    Case(
        *("h2-hello", "HTTP/2 over TLS, 32 connections x 10 streams, hello of a worker", "h2", "/hello", "/hello"),
        (NATIVE, OURS_ASGI, HYPERCORN, GRANIAN),
    ),
    Case("h3-fixed", "HTTP/3, 32 connections x 4 streams, a fixed answer", "h3", "/", "/slash", (NATIVE, CADDY)),
    Case(
        *("h3-hello", "HTTP/3, 32 connections x 4 streams, hello of a worker", "h3", "/hello", "/hello"),
        (NATIVE, OURS_ASGI, HYPERCORN),
    ),
    Case("tls-full", "TLS 1.3 handshakes over TCP, full, one small answer each", "full", "/", "/slash", (NATIVE, NGINX, CADDY)),
    Case(
        "tls-resumed",
        "TLS 1.3 handshakes over TCP, resumed, one small answer each",
        "resumed",
        "/",
        "/slash",
        (NATIVE, NGINX, CADDY),
    ),
)


@dataclass(frozen=True)
class Round:
    per_s: float
    errors: int
    p50_us: float
    p99_us: float
    root_cpu_us: float
    children_cpu_us: float
    rss_mib: float

    @property
    def cpu_us(self) -> float:
        return self.root_cpu_us + self.children_cpu_us


@dataclass(frozen=True)
class Setup:
    ours: Path
    h3load: Path
    server_cpus: frozenset[int]
    client_cpus: frozenset[int]
    seconds: int

    def pinned(self, cpus: frozenset[int], *command: str) -> list[str]:
        return ["taskset", "--cpu-list", ",".join(map(str, sorted(cpus))), *command]


def certificate(folder: Path) -> None:
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(folder / "key.pem"))
    about = (
        "-subj",
        "/CN=localhost",
        "-addext",
        "subjectAltName=DNS:localhost",
        "-days",
        "2",
        "-out",
        str(folder / "cert.pem"),
    )
    subprocess.run(["openssl", "req", "-x509", *key, *about], check=True, capture_output=True)


@contextmanager
def running(setup: Setup, contender: Contender) -> Iterator[tuple[int, int]]:
    """Its process id and port, once it takes connections."""
    with tempfile.TemporaryDirectory(prefix="http-") as name, tempfile.TemporaryFile() as log:
        place = Place(free_port(), Path(name), setup.ours)
        certificate(place.folder)
        command = setup.pinned(setup.server_cpus, *contender.command(place))
        environment = {**os.environ, "HOME": name, "XDG_DATA_HOME": name, "XDG_CONFIG_HOME": name}
        process = subprocess.Popen(
            command, cwd=APPS, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            deadline = time.monotonic() + START_S
            while True:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Unusable(f"{contender.name} does not listen\n{tail(log.fileno())}")
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", place.port)) == 0:
                        break
                time.sleep(0.05)
            yield process.pid, place.port
        finally:
            stop(process)


def h2load(setup: Setup, url: str, seconds: int) -> tuple[int, float, int, float, float]:
    """Requests, seconds, errors, and two percentiles of latency, which this program does not have: its mean and most stand in."""
    done = subprocess.run(
        setup.pinned(setup.client_cpus, "h2load", "-c", "32", "-m", "10", "-t", "1", "-D", str(seconds), url),
        capture_output=True,
        text=True,
        timeout=seconds + 60,
    )
    took = re.search(r"finished in ([\d.]+)s", done.stdout)
    counts = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored", done.stdout)
    times = re.search(r"time for request:\s+(\S+)\s+(\S+)\s+(\S+)", done.stdout)
    if not took or not counts or not times or not int(counts[1]):
        raise Unusable(f"h2load: {done.stdout[-500:]}{done.stderr[-500:]}")
    return int(counts[1]), float(seconds), int(counts[2]) + int(counts[3]), microseconds(times[3]), microseconds(times[2])


def microseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()  # type: ignore[union-attr]
    return float(number) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]


def h3load(setup: Setup, url: str, seconds: int, *arguments: str) -> tuple[int, float, int, float, float]:
    done = subprocess.run(
        setup.pinned(setup.client_cpus, str(setup.h3load), "--json", "-d", str(seconds), *arguments, url),
        capture_output=True,
        text=True,
        timeout=seconds + 60,
    )
    if done.returncode:
        raise Unusable(f"h3load: {done.stdout[-500:]}{done.stderr[-500:]}")
    found = json.loads(done.stdout)
    return found["requests"], found["seconds"], found["errors"], found["p50_us"], found["p99_us"]


def loaded(setup: Setup, case: Case, url: str, seconds: int) -> tuple[int, float, int, float, float]:
    if case.load == "h2":
        return h2load(setup, url, seconds)
    if case.load == "h3":
        return h3load(setup, url, seconds, "-c", "32", "-m", "4")
    return h3load(setup, url, seconds, "-c", "16", "--handshakes", case.load)


def measure(setup: Setup, case: Case, contender: Contender) -> Round:
    with running(setup, contender) as (pid, port):
        path = case.ours if contender.name.startswith("fasterapi") else case.path
        url = f"https://127.0.0.1:{port}{path}"
        # Who listens need not be ready to answer.
        deadline = time.monotonic() + START_S
        while True:
            try:
                loaded(setup, case, url, WARM_UP_S)
                break
            except Unusable:
                if time.monotonic() > deadline:
                    raise
        before = usage(pid)
        requests, seconds, errors, p50_us, p99_us = loaded(setup, case, url, setup.seconds)
        after = usage(pid)
    return Round(
        per_s=requests / seconds,
        errors=errors,
        p50_us=p50_us,
        p99_us=p99_us,
        root_cpu_us=(after.root_cpu_s - before.root_cpu_s) / requests * 1e6,
        children_cpu_us=(after.children_cpu_s - before.children_cpu_s) / requests * 1e6,
        rss_mib=(after.root_rss + after.children_rss) / MIB,
    )


# --- transfers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transfer:
    version: str
    direction: str
    mb_per_s: float
    cpu_s: float
    edge_rss_mib: float
    """The most that was seen of the first process."""
    worker_rss_mib: float


class Watch:
    """The most memory that a tree was seen to have."""

    def __init__(self, pid: int) -> None:
        self._pid, self._stop = pid, threading.Event()
        self.root, self.children = 0, 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(RSS_LOOK_S):
            now = usage(self._pid)
            self.root, self.children = max(self.root, now.root_rss), max(self.children, now.children_rss)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def transfers(setup: Setup, size: int) -> list[Transfer]:
    found = []
    with running(setup, NATIVE) as (pid, port), tempfile.NamedTemporaryFile() as file:
        file.truncate(size)
        base = f"https://127.0.0.1:{port}"
        curl = ("curl", "--silent", "--show-error", "--insecure", "--fail", "--output", "/dev/null")
        for version, flag in (("h1-tls", "--http1.1"), ("h2-tls", "--http2"), ("h3", "")):
            for direction in ("download", "upload"):
                if not flag:
                    how = ("--upload", str(size), f"{base}/upload") if direction == "upload" else (f"{base}/download/{size}",)
                    command = [str(setup.h3load), "--json", "-n", "1", *how]
                elif direction == "upload":
                    command = [*curl, flag, "--request", "POST", "--upload-file", file.name, f"{base}/upload"]
                else:
                    command = [*curl, flag, f"{base}/download/{size}"]
                before, started = usage(pid), time.monotonic()
                with Watch(pid) as watch:
                    done = subprocess.run(
                        setup.pinned(setup.client_cpus, *command), capture_output=True, text=True, timeout=300
                    )
                took = time.monotonic() - started
                if done.returncode:
                    raise Unusable(f"{version} {direction}: {done.stdout[-300:]}{done.stderr[-300:]}")
                after = usage(pid)
                cpu = after.root_cpu_s + after.children_cpu_s - before.root_cpu_s - before.children_cpu_s
                found.append(Transfer(version, direction, size / took / 1e6, cpu, watch.root / MIB, watch.children / MIB))
                print(
                    f"{version:<8} {direction:<9} {found[-1].mb_per_s:>7,.0f} MB/s, edge at most {found[-1].edge_rss_mib:.0f} MiB",
                    flush=True,
                )
    return found


# --- report --------------------------------------------------------------------------------------------------------------

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


def row(name: str, rounds: Sequence[Round]) -> tuple[str, ...]:
    def middle(of: Callable[[Round], float]) -> float:
        return median(map(of, rounds))

    cpu = [each.cpu_us for each in rounds]
    return (
        name,
        f"{middle(lambda each: each.per_s):,.0f}",
        f"{median(cpu):.1f}",
        f"{(max(cpu) - min(cpu)) / (median(cpu) or 1):.0%}",
        f"{middle(lambda each: each.root_cpu_us):.1f}",
        f"{middle(lambda each: each.children_cpu_us):.1f}",
        f"{middle(lambda each: each.rss_mib):.0f}",
        f"{sum(each.errors for each in rounds)}",
        f"{middle(lambda each: each.p50_us):,.0f}",
        f"{middle(lambda each: each.p99_us):,.0f}",
    )


Results = dict[str, dict[str, list[Round]]]


def markdown(found: Results, moved: Sequence[Transfer], machine: Mapping[str, str], how: str, notes: Sequence[str]) -> str:
    lines = ["# Versions of HTTP", "", how, ""]
    for case in CASES:
        by_name = found.get(case.name, {})
        if not by_name:
            continue
        lines += [f"## `{case.name}`: {case.what}", ""]
        lines += aligned(HEADINGS, [row(name, rounds) for name, rounds in by_name.items()])
        lines.append("")
        for mine in (name for name in by_name if name.startswith("fasterapi")):
            for other in (name for name in by_name if not name.startswith("fasterapi")):
                ratio = median(each.cpu_us for each in by_name[mine]) / (median(each.cpu_us for each in by_name[other]) or 1)
                speed = median(each.per_s for each in by_name[mine]) / median(each.per_s for each in by_name[other])
                lines.append(f"- {mine} / {other}: CPU each = {ratio:.2f}x; per second = {speed:.2f}x")
        lines.append("")
    if moved:
        lines += ["## 1 GB through one connection", ""]
        rows = [
            (
                f"{each.version} {each.direction}",
                f"{each.mb_per_s:,.0f}",
                f"{each.cpu_s:.2f}",
                f"{each.edge_rss_mib:.0f}",
                f"{each.worker_rss_mib:.0f}",
            )
            for each in moved
        ]
        lines += [*aligned(("transfer", "MB/s", "CPU s", "edge MiB at most", "worker MiB at most"), rows), ""]
    lines += ["## Machine", "", *(f"- {name}: {value}" for name, value in machine.items()), ""]
    if notes:
        lines += ["## Left out", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fasterapi", type=Path, default=ROOT / ".venv/bin/fasterapi", help="our binary")
    parser.add_argument("--h3load", type=Path, default=ROOT / "target/release/h3load")
    parser.add_argument("--only", type=names, default=[], help="cases, by name; `transfers` is one")
    parser.add_argument("--rounds", type=int, default=os.environ.get("ROUNDS", "3"))
    parser.add_argument("--seconds", type=int, default=os.environ.get("SECONDS", "4"), help="length of a round")
    parser.add_argument("--size", type=int, default=1 << 30, help="bytes of a transfer")
    parser.add_argument("--server-cpus", type=cpu_list, default=os.environ.get("SERVER_CPUS", "0,1"))
    parser.add_argument("--client-cpus", type=cpu_list, default=os.environ.get("CLIENT_CPUS", "3"))
    parser.add_argument("--out", type=Path, default=ROOT / "benches/results", help="folder of http_versions.{md,json}")
    options = parser.parse_args()
    setup = Setup(
        options.fasterapi.absolute(), options.h3load.absolute(), options.server_cpus, options.client_cpus, options.seconds
    )
    notes = ["nginx over HTTP/3: Debian's is built without it"] if "http_v3" not in built_with("nginx") else []
    everybody = {contender.name: contender for case in CASES for contender in case.contenders}
    notes.extend(
        f"{each.name}: not installed"
        for each in everybody.values()
        if each.needs and not shutil.which(each.needs) and not Path(tool(each.needs)).exists()
    )
    for name in ("h2load", "curl", str(setup.h3load)):
        if not shutil.which(name):
            raise SystemExit(f"error: no {name}; ci/system-packages bench, make h3load")
    missing = {note.partition(":")[0] for note in notes}
    found: Results = {}
    failed = False
    for number in range(1, options.rounds + 1):
        for case in CASES:
            for contender in case.contenders:
                if contender.name in missing or (options.only and case.name not in options.only):
                    continue
                try:
                    each = measure(setup, case, contender)
                except Unusable as error:
                    failed = True
                    print(f"round {number}, {case.name}, {contender.name}: {error}", file=sys.stderr)
                    continue
                found.setdefault(case.name, {}).setdefault(contender.name, []).append(each)
                print(
                    f"round {number}/{options.rounds}  {case.name:<12} {contender.name:<15} {each.per_s:>9,.0f} /s"
                    f"  {each.cpu_us:>7.1f} µs CPU each",
                    flush=True,
                )
    moved = transfers(setup, options.size) if not options.only or "transfers" in options.only else []
    machine = {**facts(setup.ours, ("hypercorn", "granian", "aioquic", "h2")), **programs()}
    how = (
        f"Server tree on CPUs {','.join(map(str, sorted(setup.server_cpus)))}, client on "
        f"{','.join(map(str, sorted(setup.client_cpus)))}; {options.rounds} round(s) of {options.seconds} s, interleaved, a fresh process each. "
        "Medians; ± is (most - least) / median of the CPU. One worker, one shard. h2load has no percentiles: its mean and its most stand in their places."
    )
    text = markdown(found, moved, machine, how, notes)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "http_versions.md").write_text(text)
    results = {
        case: {name: [asdict(each) for each in rounds] for name, rounds in by_name.items()} for case, by_name in found.items()
    }
    report = {"machine": machine, "results": results, "transfers": [asdict(each) for each in moved], "left_out": notes}
    (options.out / "http_versions.json").write_text(json.dumps(report, indent=1))
    print()
    print(text)
    return 1 if failed else 0


def built_with(program: str) -> str:
    if not shutil.which(program):
        return ""
    done = subprocess.run([program, "-V"], capture_output=True, text=True, timeout=10)
    return done.stdout + done.stderr


def programs() -> dict[str, str]:
    asked = {
        "nginx": ("nginx", "-v"),
        "caddy": ("caddy", "version"),
        "h2load": ("h2load", "--version"),
        "curl": ("curl", "--version"),
    }
    return {name: first_line(*command) or "not installed" for name, command in asked.items()}


if __name__ == "__main__":
    sys.exit(main())
