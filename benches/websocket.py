"""WebSocket echo of small text messages: messages per second, round trips, and CPU per message of each server.

The clients are raw sockets in an epoll loop, one process per CPU that the server does not have: a frame is built once and compared as bytes, so a message
costs them two system calls and hardly any Python. How busy they were stands beside the result: above 95 % they were what was measured.
Two cases: one message under way on each connection, and a window of them. Results: benches/results/websocket.{md,json}.
"""

import argparse
import json
import multiprocessing
import os
import select
import socket
import sys
import time
from array import array
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from statistics import median

from peers.choice import chosen, cpu_list, names
from peers.contenders import UVICORN_WORKER, Case, Contender, fasterapi, granian, gunicorn, uvicorn
from peers.machine import facts
from peers.proc import usage
from peers.report import aligned
from peers.server import Unusable, running

PAYLOAD = b"0123456789abcdef0123456789abcdef"
MASK = b"\x37\xfa\x21\x3d"
SENT = bytes([0x81, 0x80 | len(PAYLOAD)]) + MASK + bytes(byte ^ MASK[at % 4] for at, byte in enumerate(PAYLOAD))
RECEIVED = bytes([0x81, len(PAYLOAD)]) + PAYLOAD
HANDSHAKE = (
    b"GET /echo HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
WARM_UP_S = 1.0
WINDOWS = (1, 16)
ROOT = Path(__file__).parents[1]


def contenders(ours: Path) -> list[Contender]:
    return [
        fasterapi(ours, "fasterapi", "ours, native handler", "native", "ws_edge:app", "--ws-ping-interval", "20"),
        fasterapi(
            ours, "fasterapi-asgi", "ours, ASGI", "asgi", "ws_asgi:app", "--ws-ping-interval", "20", "--interface", "asgi"
        ),
        granian("granian-asgi", "Granian, ASGI", "asgi", "ws_asgi:app", "asgi", websockets=True),
        uvicorn("uvicorn", "uvicorn with websockets and uvloop", "asgi", "ws_asgi:app", "uvloop", "websockets"),
        gunicorn("gunicorn-uvicorn", "gunicorn with a uvicorn worker", "asgi", "ws_asgi:app", UVICORN_WORKER),
    ]


@dataclass(frozen=True)
class Share:
    """What one client process saw."""

    messages: int
    seconds: float
    busy: float
    rtt_us: list[float]


@dataclass(frozen=True)
class Round:
    messages_per_s: float
    p50_us: float
    p99_us: float
    cpu_us: float
    rss_mib: float
    clients_busy: float


class Echo:
    """One connection, with so many messages under way."""

    def __init__(self, port: int, window: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(HANDSHAKE)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            if not (byte := self.socket.recv(1)):
                raise Unusable("the handshake was not answered")
            head += byte
        if not head.startswith(b"HTTP/1.1 101"):
            raise Unusable(head.splitlines()[0].decode())
        self._sent, self._expected = SENT * window, RECEIVED * window
        self._arrived = b""
        self.since = 0.0

    def send(self, now: float) -> None:
        self.since = now
        self.socket.sendall(self._sent)

    def whole(self) -> bool:
        """Takes what has come; true when the window is back."""
        data = self.socket.recv(65536)
        if not data:
            raise Unusable("a connection was closed")
        self._arrived = self._arrived + data if self._arrived else data
        if len(self._arrived) < len(self._expected):
            return False
        if self._arrived != self._expected:
            raise Unusable(f"not what was sent: {self._arrived[:100]!r}")
        self._arrived = b""
        return True


def drive(port: int, connections: int, window: int, seconds: float, cpu: int, result: Pipe) -> None:
    """One client process."""
    os.sched_setaffinity(0, {cpu})
    try:
        result.send(echoes(port, connections, window, seconds))
    except (OSError, Unusable) as error:
        result.send(repr(error))


def echoes(port: int, connections: int, window: int, seconds: float) -> Share:
    clients = {echo.socket.fileno(): echo for echo in (Echo(port, window) for _ in range(connections))}
    poll = select.epoll()
    for fd, echo in clients.items():
        poll.register(fd, select.EPOLLIN)
        echo.send(time.perf_counter())
    start = time.perf_counter() + WARM_UP_S
    end = start + seconds
    rtt, windows, cpu = array("d"), 0, time.process_time()
    measured = False
    while (now := time.perf_counter()) < end:
        if not measured and now >= start:
            measured, start, windows, cpu, rtt = True, now, 0, time.process_time(), array("d")
        for fd, _ in poll.poll(1):
            echo = clients[fd]
            if echo.whole():
                now = time.perf_counter()
                rtt.append(now - echo.since)
                windows += 1
                echo.send(now)
    took = time.perf_counter() - start
    busy = (time.process_time() - cpu) / took
    for echo in clients.values():
        echo.socket.close()
    # Enough for a percentile; the pipe need not carry a million.
    step = max(1, len(rtt) // 20_000)
    return Share(windows * window, took, busy, [each * 1e6 for each in rtt[::step]])


def measure(
    contender: Contender, server_cpus: frozenset[int], client_cpus: list[int], connections: int, window: int, seconds: float
) -> Round:
    with running(contender, server_cpus, Case("first", "/ready", 1, "")) as server:
        pipes = []
        for number, cpu in enumerate(client_cpus):
            ours, theirs = multiprocessing.Pipe(duplex=False)
            count = connections // len(client_cpus) + (number < connections % len(client_cpus))
            arguments = (server.port, count, window, seconds, cpu, theirs)
            multiprocessing.Process(target=drive, args=arguments, daemon=True).start()
            pipes.append(ours)
        time.sleep(WARM_UP_S + seconds * 0.1)
        before, started = usage(server.pid), time.monotonic()
        time.sleep(seconds * 0.8)
        after, elapsed = usage(server.pid), time.monotonic() - started
        shares: list[Share] = []
        for pipe in pipes:
            if not pipe.poll(seconds + 10):
                raise Unusable("a client did not end")
            share = pipe.recv()
            if isinstance(share, str):
                raise Unusable(share)
            shares.append(share)
    rate = sum(share.messages / share.seconds for share in shares)
    rtt = sorted(each for share in shares for each in share.rtt_us)
    if not rtt:
        raise Unusable("no message came back")
    spent = after.root_cpu_s + after.children_cpu_s - before.root_cpu_s - before.children_cpu_s
    return Round(
        messages_per_s=rate,
        p50_us=rtt[len(rtt) // 2],
        p99_us=rtt[int(len(rtt) * 0.99)],
        cpu_us=spent / elapsed / rate * 1e6,
        rss_mib=(after.root_rss + after.children_rss) / 2**20,
        clients_busy=max(share.busy for share in shares),
    )


HEADINGS = ("server", "messages/s", "±", "p50 µs", "p99 µs", "CPU µs/message", "RSS MiB", "clients busy")


def row(name: str, rounds: list[Round]) -> tuple[str, ...]:
    speed = [each.messages_per_s for each in rounds]
    return (
        name,
        f"{median(speed):,.0f}",
        f"{(max(speed) - min(speed)) / median(speed):.0%}",
        f"{median(each.p50_us for each in rounds):,.0f}",
        f"{median(each.p99_us for each in rounds):,.0f}",
        f"{median(each.cpu_us for each in rounds):.1f}",
        f"{median(each.rss_mib for each in rounds):.0f}",
        f"{max(each.clients_busy for each in rounds):.0%}",
    )


Results = dict[int, dict[str, list[Round]]]


def markdown(found: Results, machine: dict[str, str], everybody: list[Contender], how: str) -> str:
    lines = ["# WebSocket echo", "", f"Text of {len(PAYLOAD)} bytes, {how} Medians; ± is (most - least) / median.", ""]
    for window, by_name in found.items():
        lines += [f"## {window} message(s) under way on each connection", ""]
        lines += aligned(HEADINGS, [row(name, rounds) for name, rounds in by_name.items()])
        lines.append("")
        for ours in (each for each in everybody if each.ours and each.name in by_name):
            for other in (each for each in everybody if not each.ours and each.name in by_name):
                ratio = median(each.messages_per_s for each in by_name[ours.name]) / median(
                    each.messages_per_s for each in by_name[other.name]
                )
                lines.append(f"- {ours.name} / {other.name}: messages/s = {ratio:.2f}x")
        lines.append("")
    lines += ["## Servers", "", *(f"- {each.name}: {each.what}" for each in everybody), ""]
    lines += ["## Machine", "", *(f"- {name}: {value}" for name, value in machine.items()), ""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fasterapi", type=Path, default=ROOT / ".venv/bin/fasterapi", help="our binary")
    parser.add_argument("--only", type=names, default=[], help="servers, by name: a,b,c")
    parser.add_argument("--rounds", type=int, default=os.environ.get("ROUNDS", "3"))
    parser.add_argument("--seconds", type=float, default=os.environ.get("SECONDS", "4"), help="length of a round")
    parser.add_argument("--connections", type=int, default=os.environ.get("CONNECTIONS", "64"))
    parser.add_argument("--server-cpus", type=cpu_list, default=os.environ.get("SERVER_CPUS", "0,1"))
    parser.add_argument("--out", type=Path, default=ROOT / "benches/results", help="folder of websocket.{md,json}")
    options = parser.parse_args()
    available = frozenset(os.sched_getaffinity(0))
    server_cpus: frozenset[int] = options.server_cpus & available
    client_cpus = sorted(available - server_cpus)
    if not server_cpus or not client_cpus:
        raise SystemExit("error: both the server and its clients need a CPU; see --server-cpus")
    ours: Path = options.fasterapi.absolute()
    picked = chosen(contenders(ours), options.only, ours)
    machine = facts(ours, [package for each in picked for package in each.packages])
    found: Results = {window: {} for window in WINDOWS}
    failed = False
    for number in range(1, options.rounds + 1):
        for contender in picked:
            for window in WINDOWS:
                try:
                    each = measure(contender, server_cpus, client_cpus, options.connections, window, options.seconds)
                except Unusable as error:
                    failed = True
                    print(f"round {number}, {contender.name}: {error}", file=sys.stderr)
                    continue
                found[window].setdefault(contender.name, []).append(each)
                print(
                    f"round {number}/{options.rounds}  {contender.name:<16} x{window:<3} {each.messages_per_s:>9,.0f} messages/s"
                    f"  {each.cpu_us:>6.1f} µs CPU/message  clients {each.clients_busy:.0%} busy",
                    flush=True,
                )
    how = (
        f"{options.connections} connections, {options.rounds} round(s) of {options.seconds:.0f} s; server on CPUs "
        f"{','.join(map(str, sorted(server_cpus)))}, clients on {','.join(map(str, client_cpus))}."
    )
    text = markdown(found, machine, picked, how)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "websocket.md").write_text(text)
    results = {
        str(window): {name: [asdict(each) for each in rounds] for name, rounds in by_name.items()}
        for window, by_name in found.items()
    }
    (options.out / "websocket.json").write_text(json.dumps({"machine": machine, "results": results}, indent=1))
    print()
    print(text)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
