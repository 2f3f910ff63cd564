"""One server at a time: started, pinned, asked until it answers, weighed while it is loaded; and one edge while 1 GB passes through it.

Invariant: whatever happens, the process tree that was started is gone when the block ends.
"""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peers.proc import PROC, tree, usage
from peers.server import Unusable, free_port, stop, tail

from http_versions.cases import Case
from http_versions.load import Load, Unreadable, command, read
from http_versions.servers import APPS, NATIVE, Ask, Contender, Place

START_S = 20.0
PROBE_S = 5
WARM_UP_S = 1
TRANSFER_S = 300
MIB = 1024 * 1024


@dataclass(frozen=True)
class Setup:
    ours: Path
    h3load: Path
    server_cpus: frozenset[int]
    client_cpus: frozenset[int]
    seconds: int

    def pinned(self, cpus: frozenset[int], words: Sequence[str]) -> list[str]:
        return ["taskset", "--cpu-list", ",".join(map(str, sorted(cpus))), *words]


@dataclass(frozen=True)
class Round:
    """CPU is per request begun. `root` is the first process of the server's tree (ours: the edge), `children` all others. `resumed` is a
    share of the answers."""

    per_s: float
    errors: int
    p50_us: float
    p99_us: float
    root_cpu_us: float
    children_cpu_us: float
    rss_mib: float
    wire_bytes: float
    resumed: float

    @property
    def cpu_us(self) -> float:
        return self.root_cpu_us + self.children_cpu_us


def certificate(folder: Path) -> None:
    """`cert.pem` and `key.pem`, ECDSA P-256: everybody signs with the same kind of key."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(folder / "key.pem"))
    name = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2")
    words = ["openssl", "req", "-x509", *key, *name, "-out", str(folder / "cert.pem")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    if done.returncode:
        raise Unusable(f"openssl: {done.stderr[-300:]}")


@contextmanager
def running(setup: Setup, contender: Contender) -> Iterator[tuple[int, int]]:
    """Its process id and port, once it takes connections."""
    with tempfile.TemporaryDirectory(prefix="http-") as name, tempfile.TemporaryFile() as log:
        place = Place(free_port(), Path(name), setup.ours)
        # Of the servers that run as root some read their files as nobody.
        place.folder.chmod(0o755)
        certificate(place.folder)
        words = setup.pinned(setup.server_cpus, contender.command(place))
        own = {"HOME": name, "XDG_DATA_HOME": name, "XDG_CONFIG_HOME": name, **contender.environment}
        process = subprocess.Popen(
            words,
            cwd=APPS,
            env={**os.environ, **own},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + START_S
            while not listens(place.port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Unusable(f"does not listen: {tail(log.fileno())}".rstrip())
                time.sleep(0.05)
            try:
                yield process.pid, place.port
            except Unusable as error:
                raise Unusable(f"{error}; it said: {tail(log.fileno())[-500:]}".rstrip()) from error
        finally:
            stop(process)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(ask: Ask, port: int) -> bool:
    """Whether one request is answered. h2load may not be the first to ask: one whose time is up before the first answer (h2load -D, nghttp2 1.52) asks
    on for ever."""
    words = ["curl", "--silent", "--insecure", "--max-time", str(PROBE_S), "--request", ask.method, "--output", "/dev/null"]
    words += ["--write-out", "%{http_code}", f"https://127.0.0.1:{port}{ask.path}"]
    return subprocess.run(words, capture_output=True, text=True).stdout == "200"


def loaded(setup: Setup, case: Case, contender: Contender, port: int, seconds: int) -> Load:
    ask = case.ask or contender.fixed
    url = f"https://127.0.0.1:{port}{ask.path}"
    words = setup.pinned(setup.client_cpus, command(case, ask, url, seconds, str(setup.h3load)))
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds + 60)
        return read(case, done.stdout, seconds)
    except subprocess.TimeoutExpired:
        raise Unusable(f"{words[3]} did not come to an end") from None
    except Unreadable as error:
        raise Unusable(f"{error}: {done.stdout[-300:]}{done.stderr[-300:]}".rstrip()) from error


def measure(setup: Setup, case: Case, contender: Contender) -> Round:
    with running(setup, contender) as (pid, port):
        # Who listens need not be ready to answer.
        deadline = time.monotonic() + START_S
        while not answers(case.ask or contender.fixed, port):
            if time.monotonic() > deadline:
                raise Unusable(f"no answer of 200 within {START_S:.0f} s")
            time.sleep(0.05)
        loaded(setup, case, contender, port, WARM_UP_S)
        before = usage(pid)
        load = loaded(setup, case, contender, port, setup.seconds)
        after = usage(pid)
    return Round(
        per_s=load.answers / load.seconds,
        errors=load.errors,
        p50_us=load.p50_us,
        p99_us=load.p99_us,
        root_cpu_us=(after.root_cpu_s - before.root_cpu_s) / load.begun * 1e6,
        children_cpu_us=(after.children_cpu_s - before.children_cpu_s) / load.begun * 1e6,
        rss_mib=(after.root_rss + after.children_rss) / MIB,
        wire_bytes=load.wire_bytes,
        resumed=load.resumed / load.answers,
    )


# --- transfers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transfer:
    """`edge_before_mib` is what the edge had resident when it began, the others the most that the kernel saw meanwhile."""

    version: str
    direction: str
    mb_per_s: float
    cpu_s: float
    edge_before_mib: float
    edge_rss_mib: float
    worker_rss_mib: float

    @property
    def growth_mib(self) -> float:
        return self.edge_rss_mib - self.edge_before_mib


def forget_peaks(pids: Sequence[int]) -> None:
    for pid in pids:
        # proc_pid_clear_refs(5): the peak becomes what is resident now.
        (PROC / str(pid) / "clear_refs").write_text("5")


def peak_mib(pid: int) -> float:
    for line in (PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise Unusable(f"process {pid} has no memory")


TRANSFERS = tuple((version, direction) for version in ("h1-tls", "h2-tls", "h3") for direction in ("download", "upload"))
CURL = ("curl", "--silent", "--show-error", "--insecure", "--fail")


def transfer_command(setup: Setup, version: str, direction: str, base: str, file: str, size: int) -> list[str]:
    """Says how many bytes came back (curl), or one line of JSON (h3load)."""
    path = "/upload" if direction == "upload" else f"/download/{size}"
    if version == "h3":
        return [
            str(setup.h3load),
            "--json",
            "-n",
            "1",
            *(("--upload", str(size)) if direction == "upload" else ()),
            base + path,
        ]
    flag = "--http1.1" if version == "h1-tls" else "--http2"
    what = ("--request", "POST", "--upload-file", file) if direction == "upload" else ()
    return [*CURL, flag, "--output", "/dev/null", "--write-out", "%{http_version} %{size_download}", *what, base + path]


def transfers(setup: Setup, size: int) -> Iterator[Transfer | Unusable]:
    """Each on the same edge, one after the other: what one leaves behind is seen in the next."""
    with running(setup, NATIVE) as (pid, port), tempfile.NamedTemporaryFile() as file:
        file.truncate(size)
        base = f"https://127.0.0.1:{port}"
        # There is a worker, and it is one of the processes whose memory is watched, once it has answered.
        subprocess.run([*CURL, "--output", "/dev/null", f"{base}/hello"], timeout=TRANSFER_S, check=False)
        for version, direction in TRANSFERS:
            try:
                words = transfer_command(setup, version, direction, base, file.name, size)
                yield transfer(setup, pid, version, direction, words, size)
            except Unusable as error:
                yield Unusable(f"{version} {direction}: {error}")


def transfer(setup: Setup, pid: int, version: str, direction: str, words: Sequence[str], size: int) -> Transfer:
    pids = tree(pid)
    before, started = usage(pid), time.monotonic()
    forget_peaks(pids)
    try:
        done = subprocess.run(setup.pinned(setup.client_cpus, words), capture_output=True, text=True, timeout=TRANSFER_S)
    except subprocess.TimeoutExpired:
        raise Unusable(f"did not end within {TRANSFER_S} s") from None
    took = time.monotonic() - started
    if done.returncode or (direction == "download" and str(size) not in done.stdout):
        raise Unusable(f"{words[0]}: code {done.returncode}: {done.stdout[-300:]}{done.stderr[-300:]}")
    after = usage(pid)
    edge, *others = (peak_mib(each) for each in pids)
    cpu_s = after.root_cpu_s + after.children_cpu_s - before.root_cpu_s - before.children_cpu_s
    return Transfer(version, direction, size / took / 1e6, cpu_s, before.root_rss / MIB, edge, sum(others))
