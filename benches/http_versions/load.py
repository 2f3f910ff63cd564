"""The clients, and what they say: h2load for HTTP/2, benches/h3load for HTTP/3 and for handshakes. All offer TLS 1.3 with AES-128 alone."""

import json
import re
from dataclasses import dataclass

from http_versions.cases import Case
from http_versions.servers import Ask

CIPHER = "TLS_AES_128_GCM_SHA256"


class Unreadable(Exception):
    """A client did not measure what it was told to."""


@dataclass(frozen=True)
class Load:
    """`begun` has the requests that were under way at the end as well, for they cost the server, too. `wire_bytes` is what came back for each answer:
    with its frames and, over UDP, with its packets; 0 where it is not known. `errors` are answers that did not come or were not 200."""

    answers: int
    begun: int
    seconds: float
    errors: int
    p50_us: float
    p99_us: float
    wire_bytes: float
    resumed: int


def command(case: Case, ask: Ask, url: str, seconds: int, h3load: str) -> list[str]:
    if case.load == "h2":
        method = [] if ask.method == "GET" else ["--header", f":method: {ask.method}"]
        return [
            *("h2load", "--clients", "32", "--max-concurrent-streams", "10", "--threads", "1", "--duration", str(seconds)),
            *(f"--tls13-ciphers={CIPHER}", *method, url),
        ]
    many = ["-c", "32", "-m", "4"] if case.load == "h3" else ["-c", "16", "--handshakes", case.load]
    return [h3load, "--json", "-d", str(seconds), "--method", ask.method, *many, url]


def read(case: Case, said: str, seconds: int) -> Load:
    return h2load(said, seconds) if case.load == "h2" else h3load(said)


def h2load(said: str, seconds: int) -> Load:
    """It has no percentiles: its mean and its most stand in for p50 and p99."""
    counts = re.search(r"(\d+) started, \d+ done, \d+ succeeded, (\d+) failed, (\d+) errored", said)
    statuses = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", said)
    traffic = re.search(r"^traffic: \S+ \((\d+)\) total", said, re.MULTILINE)
    times = re.search(r"time for request:\s+(\S+)\s+(\S+)\s+(\S+)", said)
    if not counts or not statuses or not traffic or not times or not int(statuses[1]):
        raise Unreadable("h2load: no answer was counted")
    for label, wanted in (("Application protocol", "h2"), ("Cipher", CIPHER)):
        found = re.search(rf"^{label}: (.*)$", said, re.MULTILINE)
        if not found or found[1] != wanted:
            raise Unreadable(f"h2load: {label} is {found[1] if found else 'not said'}, not {wanted}")
    answers = int(statuses[1])
    errors = int(counts[2]) + int(counts[3]) + sum(int(statuses[place]) for place in (2, 3, 4))
    return Load(
        answers=answers,
        begun=int(counts[1]),
        seconds=float(seconds),
        errors=errors,
        p50_us=microseconds(times[3]),
        p99_us=microseconds(times[2]),
        wire_bytes=int(traffic[1]) / answers,
        resumed=0,
    )


def microseconds(text: str) -> float:
    found = re.fullmatch(r"([\d.]+)(us|ms|s)", text)
    if not found:
        raise Unreadable(f"h2load: {text} is no time")
    return float(found[1]) * {"us": 1, "ms": 1e3, "s": 1e6}[found[2]]


def h3load(said: str) -> Load:
    try:
        found = json.loads(said)
    except ValueError:
        raise Unreadable("h3load: no result") from None
    right = found["statuses"].get("200", 0)
    if not right:
        raise Unreadable(f"h3load: no answer was 200: {found['statuses']}")
    return Load(
        answers=right,
        begun=found["requests"] + found["errors"],
        seconds=found["seconds"],
        errors=found["errors"] + found["requests"] - right,
        p50_us=found["p50_us"],
        p99_us=found["p99_us"],
        wire_bytes=found["wire_bytes"] / right,
        resumed=found["resumed"],
    )
