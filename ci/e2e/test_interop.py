"""Other people's clients of HTTP/2 and HTTP/3: nghttp, h2load, curl, and quinn with h3. Browsers are in conformance/."""

import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from payload import pattern
from server import Server, serving

H3LOAD = Path(__file__).resolve().parents[2] / "target/release/h3load"
BIG = 16 * 1024 * 1024 + 1
STATUSES = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored")


def served(name: str) -> Iterator[Server]:
    with serving("echo:app", version=name) as server:
        yield server


@pytest.fixture(scope="module", params=["h2c", "h2-tls"])
def http2(request: pytest.FixtureRequest) -> Iterator[Server]:
    yield from served(request.param)


@pytest.fixture(scope="module")
def http3() -> Iterator[Server]:
    yield from served("h3")


def run(*command: str | Path) -> str:
    if not shutil.which(command[0]):
        pytest.fail(f"no {command[0]}; ci/system-packages test installs it")
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def url(server: Server, path: str) -> str:
    return "{}://{}:{}{}".format(server.version.scheme, *server.address, path)


def curl(server: Server, path: str, *arguments: str | Path) -> str:
    how = ("--http2-prior-knowledge",) if server.version.scheme == "http" else ("--http2", "--insecure")
    return run("curl", "--silent", "--show-error", "--max-time", "60", *how, *arguments, url(server, path))


# --- curl ------------------------------------------------------------------------------------------------------------


def test_curl_agrees_on_http2(http2: Server) -> None:
    assert curl(http2, "/tag/curl", "--write-out", " %{http_version}") == '{"tag":"curl"} 2'
    assert curl(http2, "/see", "--header", "x-a: 1").count('"version":"2"') == 1


def test_curl_uploads_and_downloads(http2: Server, tmp_path: Path) -> None:
    body = pattern(BIG)
    (tmp_path / "up").write_bytes(body)
    # Without a length, and with one that asks whether it may.
    for how in (("--header", "transfer-encoding: chunked"), ("--header", "expect: 100-continue"), ()):
        found = json.loads(curl(http2, "/digest", "--request", "POST", "--data-binary", f"@{tmp_path / 'up'}", *how))
        assert found == {"size": BIG, "sha256": hashlib.sha256(body).hexdigest()}
    curl(http2, f"/bytes/{BIG}", "--output", tmp_path / "down")
    assert (tmp_path / "down").read_bytes() == body


def test_curl_has_many_transfers_on_one_connection(http2: Server) -> None:
    if http2.version.scheme == "http":
        pytest.skip("curl 7.88 fails at it by itself with prior knowledge (error 16, against nginx too)")
    numbers = "[1-50]"
    found = curl(
        http2, f"/tag/{numbers}", "--parallel", "--parallel-max", "50", "--write-out", "\n%{http_version} %{num_connects}\n"
    )
    assert sorted(re.findall(r'"tag":"(\d+)"', found), key=int) == [str(number) for number in range(1, 51)]
    assert sum(int(connects) for connects in re.findall(r"^2 (\d+)$", found, re.MULTILINE)) <= 2


def test_an_upgrade_from_http1_is_passed_over(http2: Server) -> None:
    if http2.version.scheme == "https":
        pytest.skip("in clear only (RFC 9113 §3.1: obsolete)")
    found = run("curl", "--silent", "--http2", "--write-out", " %{http_version}", url(http2, "/tag/x"))
    assert found == '{"tag":"x"} 1.1'


# --- nghttp2's ---------------------------------------------------------------------------------------------------------


def test_nghttp_gets_and_posts(http2: Server, tmp_path: Path) -> None:
    found = run("nghttp", "--verbose", url(http2, "/tag/one"), url(http2, "/tag/two"))
    assert found.count(":status: 200") == 2
    assert '{"tag":"one"}' in found
    assert '{"tag":"two"}' in found
    assert "error_code=NO_ERROR" in found
    (tmp_path / "up").write_bytes(pattern(1_000_000))
    found = run("nghttp", "--data", tmp_path / "up", url(http2, "/digest"))
    assert json.loads(found) == {"size": 1_000_000, "sha256": hashlib.sha256(pattern(1_000_000)).hexdigest()}


def test_nghttp_pads_and_has_small_windows(http2: Server) -> None:
    found = run("nghttp", "--null-out", "--stat", "--padding=200", "--window-bits=10", url(http2, "/bytes/262144"))
    assert re.search(r"\b200\s+256K\s+/bytes/262144", found), found[-500:]


@pytest.mark.parametrize(("clients", "streams"), [(1, 1), (10, 32), (50, 100)])
def test_every_request_of_h2load_succeeds(http2: Server, clients: int, streams: int) -> None:
    how = ("--requests=2000", f"--clients={clients}", f"--max-concurrent-streams={streams}")
    found = STATUSES.search(run("h2load", *how, url(http2, "/tag/x")))
    assert found
    assert [int(number) for number in found.groups()] == [2000, 0, 0]


# --- quinn and h3 ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not H3LOAD.is_file(), reason="target/release/h3load does not exist: make h3load")
@pytest.mark.parametrize(
    ("path", "arguments", "requests"),
    [
        ("/tag/x", ("-c", "1", "-m", "1"), 200),
        ("/tag/x", ("-c", "8", "-m", "16"), 2000),
        ("/bytes/262144", ("-c", "2", "-m", "4"), 50),
        (f"/bytes/{BIG}", (), 2),
        ("/digest", ("--upload", "3000000", "-m", "2"), 6),
    ],
)
def test_every_request_of_quinns_client_succeeds(http3: Server, path: str, arguments: tuple[str, ...], requests: int) -> None:
    found = json.loads(run(H3LOAD, "--json", "-n", str(requests), *arguments, url(http3, path)))
    assert (found["requests"], found["errors"], found["statuses"]) == (requests, 0, {"200": requests})
