"""A minute of load while workers are killed, stopped and replaced at random. What goes wrong stays with the workers.

Each request has a tag of its own, and each answer must carry it. A POST is executed at most once, whatever happened to it.
"""

import operator
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

from conftest import Serve
from server import Server, descriptors, resident_kib, state, until

DURATION_S = float(os.environ.get("CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("CHAOS_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
CLIENTS = 16
WORKERS = 3
PAUSE_S = (0.3, 1.2)
"""Between two blows, beside the time that it takes to answer what was under way, so that no request is hit twice."""
STOPPED_S = (0.1, 0.8)
GROWTH_MAX_KIB = 16 * 1024
GETS = ("/quick/{}", "/quick/{}", "/waiting/{}", "/thread/{}")


class Clients:
    """Keep their connections and ask until they are told to stop. A connection that ends is an error."""

    def __init__(self, server: Server, seed: int) -> None:
        self._server, self._seed = server, seed
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.errors: list[str] = []
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.answered: set[str] = set()
        """Tags of the POSTs that were answered 200."""
        self._turns = [0] * CLIENTS
        self._threads = [threading.Thread(target=self._run, args=(number,), daemon=True) for number in range(CLIENTS)]

    def __enter__(self) -> "Clients":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a request without an answer"

    def count(self) -> int:
        with self._lock:
            assert not self.errors, self.errors[:5]
            return sum(self.statuses.values())

    def answer_what_is_under_way(self) -> None:
        """Waits until every client has the answer that it is waiting for now."""
        before = list(self._turns)
        until("everybody has an answer", lambda: self.errors or all(map(operator.gt, self._turns, before)))

    def _run(self, number: int) -> None:
        dice = random.Random(self._seed * CLIENTS + number)
        turn = 0
        try:
            with self._server.connect() as connection:
                while not self._stop.is_set():
                    turn += 1
                    self._turns[number] = turn
                    tag, asked = f"{number}-{turn}", time.monotonic()
                    if dice.random() < 0.3:
                        method, body = "POST", bytes(dice.choice((0, 10, 5_000, 100_000, 600_000)))
                        response = connection.request(method, f"/post/{tag}", body=body)
                        expected: dict[str, str | int] = {"tag": tag, "length": len(body)}
                    else:
                        method = "GET"
                        response = connection.request(method, dice.choice(GETS).format(tag))
                        expected = {"tag": tag}
                    assert response.status != 200 or response.json == expected, f"{response.body[:200]!r} is not for {tag}"
                    assert response.status == 200 or method == "POST", (
                        f"GET {tag}, asked at {asked:.3f}, was answered {response.status} at {time.monotonic():.3f}"
                    )
                    assert response.status in (200, 502, 503, 504), f"{method} {tag} was answered {response.status}"
                    with self._lock:
                        self.statuses[method, response.status] += 1
                        if method == "POST" and response.status == 200:
                            self.answered.add(tag)
                    if response.closes:
                        # Announced, because the rest of an upload was not read: not a reset.
                        connection.reconnect()
        except Exception as error:
            with self._lock:
                self.errors.append(f"client {number}, request {turn}: {error!r}")


def strike(server: Server, dice: random.Random, pause: threading.Event) -> str:
    """One blow, over when it returns."""
    blow = dice.choice(("kill", "kill", "stop", "reload"))
    if blow == "reload":
        server.signal(signal.SIGHUP)
        return blow
    pid = server.worker_pid(dice.randrange(WORKERS))
    if state(pid) in (None, "Z", "X"):
        return "none"
    try:
        if blow == "stop":
            os.kill(pid, signal.SIGSTOP)
            pause.wait(dice.uniform(*STOPPED_S))
            os.kill(pid, dice.choice((signal.SIGCONT, signal.SIGKILL)))
        else:
            os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return "none"
    return blow


def test_a_minute_of_chaos_costs_no_get_no_connection_and_no_memory(serve: Serve, tmp_path: Path) -> None:
    executed = tmp_path / "executed"
    server = serve("chaos:app", "--request-timeout", "20", workers=WORKERS, env={"EXECUTED": str(executed)}).ready()
    dice = random.Random(SEED)
    blows: Counter[str] = Counter()
    story: list[str] = []
    never = threading.Event()
    with Clients(server, SEED) as clients:
        until("the clients are under way", lambda: clients.count() > 2_000)
        rss, fds = resident_kib(server.pid), descriptors(server.pid)
        until_s = DURATION_S
        while until_s > 0:
            begun = time.monotonic()
            blow = strike(server, dice, never)
            blows[blow] += 1
            story.append(f"{blow} {begun:.3f}-{time.monotonic():.3f}")
            clients.answer_what_is_under_way()
            pause = dice.uniform(*PAUSE_S)
            never.wait(pause)
            until_s -= pause
            assert not clients.errors, f"seed {SEED}: {clients.errors[:5]} after {story[-6:]}"
        reached = clients.count()
        until("requests go on", lambda: clients.count() > reached + 200)
    print(f"seed {SEED}, {dict(blows)}, {dict(clients.statuses)}")
    assert not clients.errors, f"seed {SEED}: {clients.errors[:5]}"
    assert blows["kill"] and blows["stop"] and blows["reload"], blows
    times = Counter(executed.read_text().split())
    assert all(count == 1 for count in times.values()), f"seed {SEED}: a POST was executed twice"
    assert clients.answered <= times.keys(), f"seed {SEED}: answered without having been executed"
    until("as many descriptors as before", lambda: descriptors(server.pid) <= fds)
    assert resident_kib(server.pid) <= rss + GROWTH_MAX_KIB
