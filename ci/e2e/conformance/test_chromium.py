"""WebSockets, streams and aborts as a browser does them: headless Chromium on a page of the server under test.

Over HTTP/1.1 ours and uvicorn's; over HTTP/2 and QUIC ours alone.
"""

import base64
import hashlib
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conformance.asking import APP, APPS, journal, new_tag, noted, open_gate
from conformance.chromium import Chromium
from reference import Uvicorn
from server import Listening, Server, lasting, until

HELPERS = """
const opened = (path, protocols) => new Promise((resolve, reject) => {
  const socket = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}${path}`, protocols || []);
  socket.binaryType = "arraybuffer";
  socket.waiting = [];
  socket.arrived = [];
  socket.onmessage = (event) => {
    const value = typeof event.data === "string" ? event.data : Array.from(new Uint8Array(event.data));
    const waiter = socket.waiting.shift();
    waiter ? waiter(value) : socket.arrived.push(value);
  };
  socket.next = () => new Promise((resolve) =>
    socket.arrived.length ? resolve(socket.arrived.shift()) : socket.waiting.push(resolve));
  socket.closed = new Promise((resolve) => {
    socket.onclose = (event) => resolve([event.code, event.reason, event.wasClean]);
  });
  socket.onopen = () => resolve(socket);
  socket.onerror = () => socket.closed.then((end) => reject(new Error(`closed: ${end}`)));
});
"""


@pytest.fixture(scope="module", params=["uvicorn", "h1", "h2-tls", "h3"])
def server(request: pytest.FixtureRequest, shown_if_failed: list[Any]) -> Iterator[Listening]:
    started: Listening
    if request.param == "uvicorn":
        started = Uvicorn(APP, app_dir=APPS)
    else:
        started = Server(APP, "--interface", "asgi", "--body-max", "0", version=request.param, app_dir=APPS)
    with lasting(started, shown_if_failed):
        yield started


def public_key_hash(address: tuple[str, int]) -> str:
    """Of a server's certificate, as Chromium names those that it is to trust."""
    certificate = ssl.get_server_certificate(address)
    key = subprocess.run(["openssl", "x509", "-pubkey", "-noout"], input=certificate.encode(), capture_output=True, check=True)
    der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "der"], input=key.stdout, capture_output=True, check=True)
    return base64.b64encode(hashlib.sha256(der.stdout).digest()).decode()


@pytest.fixture(scope="module")
def browser(server: Listening) -> Iterator[Chromium]:
    if not shutil.which("chromium"):
        pytest.fail("no chromium; ci/system-packages test installs it")
    arguments = []
    assert not isinstance(server.address, str)
    if server.version.scheme == "https":
        arguments.append(f"--ignore-certificate-errors-spki-list={public_key_hash(server.address)}")
    if server.version.http == "3":
        arguments += ["--enable-quic", "--origin-to-force-quic-on={}:{}".format(*server.address)]
    with Chromium(*arguments) as browser:
        yield browser


@pytest.fixture
def page(browser: Chromium, server: Listening) -> Chromium:
    assert not isinstance(server.address, str)
    browser.open("{}://{}:{}/anywhere".format(server.version.scheme, *server.address))
    browser.run(HELPERS + "globalThis.opened = opened; true")
    return browser


def run(page: Chromium, body: str) -> Any:
    """The body of an asynchronous function."""
    return page.run(f"(async () => {{ {body} }})()")


@pytest.fixture
def tag() -> str:
    return new_tag()


def test_the_page_came_in_the_version_that_was_meant(server: Listening, page: Chromium) -> None:
    script = 'performance.getEntriesByType("navigation")[0].nextHopProtocol'
    assert page.run(script) == {"1.1": "http/1.1", "2": "h2", "3": "h3"}[server.version.http]


def test_many_fetches_at_once(page: Chromium) -> None:
    found = run(
        page,
        """const answers = [...Array(100).keys()].map(async (number) => {
          const response = await fetch("/receive/echo", {method: "POST", body: `${number}`});
          return await response.text();
        });
        return await Promise.all(answers);""",
    )
    assert found == [str(number) for number in range(100)]


def ports_towards(address: tuple[str, int]) -> set[str]:
    """Of UDP sockets here that speak with this one alone (/proc/net/udp, proc_net_udp(5))."""
    sockets = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return {local.partition(":")[2] for _, local, peer, *_ in sockets if int(peer.partition(":")[2], 16) == address[1]}


@pytest.mark.parametrize("server", ["h3"], indirect=True)
def test_a_browser_that_takes_another_port_while_it_waits_gets_everything(server: Server, page: Chromium) -> None:
    """As it does when it hears nothing for a moment; the first challenge of its new address it leaves unanswered."""
    address = server.address
    assert not isinstance(address, str)
    before = ports_towards(address)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        script = """[1, 2].map(async (number) => {
          const response = await fetch(`/send/big?${number}`);
          return (await response.arrayBuffer()).byteLength;
        })"""
        page.run(f"globalThis.lengths = {script}; true")
        until("another port", lambda: ports_towards(address) - before)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    assert run(page, "return await Promise.all(lengths)") == 2 * [32 * 1024 * 1024]


def test_text_and_bytes(page: Chromium) -> None:
    found = run(
        page,
        """const socket = await opened("/ws/echo");
        const found = [socket.protocol];
        for (const said of ["kůň 🐎", new Uint8Array([0, 127, 255]), ""]) {
          socket.send(said);
          found.push(await socket.next());
        }
        socket.close();
        return found;""",
    )
    # One after the other: Chromium now and then never sends an empty message that stands right behind another.
    assert found == ["", "kůň 🐎", [0, 127, 255], ""]


def test_a_browser_asks_for_compression_and_gets_it(page: Chromium) -> None:
    found = run(
        page,
        """const socket = await opened("/ws/echo");
        const sent = "0123456789".repeat(100000);
        socket.send(sent);
        const same = (await socket.next()) === sent;
        socket.close();
        return [same, socket.extensions];""",
    )
    assert found[0]
    assert found[1].startswith("permessage-deflate")


def test_subprotocols(page: Chromium) -> None:
    script = 'const socket = await opened("/ws/subprotocol", ["one", "two"]); return [socket.protocol, await socket.next()];'
    assert run(page, script) == ["two", '["one", "two"]']


def test_closes_of_either_side(server: Listening, page: Chromium, tag: str) -> None:
    script = f'const socket = await opened("/ws/closes?{tag}&4321&done"); return await socket.closed;'
    assert run(page, script) == [4321, "done", True]
    script = f'const socket = await opened("/ws/echo?{tag}"); socket.close(4000, "žluť"); return await socket.closed;'
    assert run(page, script) == [4000, "žluť", True]
    noted(server, tag, ["websocket.disconnect", 4000, "žluť"])


def test_a_denial(page: Chromium) -> None:
    script = 'try { await opened("/ws/denies"); return "open"; } catch (error) { return error.message; }'
    assert run(page, script) == "closed: 1006,,false"


def test_a_page_that_is_left(server: Listening, page: Chromium, tag: str) -> None:
    run(page, f'globalThis.kept = await opened("/ws/echo?{tag}");')
    page.run("location.reload()")
    (left,) = until("the application is told", lambda: journal(server, tag))
    # Over HTTP/2 the stream is reset right behind the close frame, and a reset may overtake (RFC 9113 §5.4.2).
    assert left[0] == "websocket.disconnect"
    assert left[1] in ((1001, 1006) if server.version.http == "2" else (1001,))


def test_the_browsers_fields(page: Chromium, server: Listening) -> None:
    script = 'document.cookie = "a=1"; const socket = await opened("/ws/scope"); return JSON.parse(await socket.next());'
    scope = run(page, script)["scope"]
    fields = {name["bytes"]: value["bytes"] for name, value in scope["headers"]}
    assert not isinstance(server.address, str)
    host = "{}:{}".format(*server.address)
    assert (fields["host"], fields["origin"], fields["cookie"]) == (
        host,
        f"{server.version.scheme}://{host}",
        "a=1",
    )


def test_fetch_reads_a_stream_piece_by_piece(server: Listening, page: Chromium, tag: str) -> None:
    run(
        page,
        f"""const response = await fetch("/send/stream?{tag}");
        globalThis.reader = response.body.pipeThrough(new TextDecoderStream()).getReader();""",
    )
    open_gate(server, tag)
    assert run(page, "return (await reader.read()).value;") == "data: 1\n\n"
    open_gate(server, f"{tag}-2")
    assert run(page, "return [(await reader.read()).value, (await reader.read()).done];") == ["data: 2\n\n", True]


def test_an_event_source(server: Listening, page: Chromium, tag: str) -> None:
    run(
        page,
        f"""globalThis.source = new EventSource("/send/stream?{tag}");
        source.arrived = [];
        source.onmessage = (event) => source.arrived.push(event.data);
        await new Promise((resolve) => {{ source.onopen = resolve; }});""",
    )
    open_gate(server, tag)
    until("the first event", lambda: run(page, "return source.arrived;") == ["1"])
    open_gate(server, f"{tag}-2")
    until("the second event", lambda: run(page, "return source.arrived.slice(0, 2);") == ["1", "2"])
    run(page, "source.close();")


def test_a_fetch_that_is_aborted(server: Listening, page: Chromium, tag: str) -> None:
    run(
        page,
        f"""const abort = new AbortController();
        globalThis.ended = fetch("/receive/until-disconnect?{tag}", {{signal: abort.signal}}).catch((error) => error.name);
        globalThis.abort = abort;""",
    )
    noted(server, tag, "reading")
    assert run(page, "abort.abort(); return await ended;") == "AbortError"
    noted(server, tag, "http.disconnect", "http.disconnect")
    open_gate(server, tag)


def test_an_upload_of_a_form(page: Chromium) -> None:
    found = run(
        page,
        """const form = new FormData();
        form.append("file", new Blob([new Uint8Array(3000000).fill(120)]), "x.bin");
        return await (await fetch("/receive/events", {method: "POST", body: form})).json();""",
    )
    assert found["size"] > 3_000_000
    assert found["events"][-1]["more_body"] is False
