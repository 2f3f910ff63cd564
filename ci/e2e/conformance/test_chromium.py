"""WebSockets, streams and aborts as a browser does them: headless Chromium on a page of the server under test."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from conformance.asking import journal, new_tag, noted, open_gate
from conformance.chromium import Chromium
from server import Listening, until

HELPERS = """
const opened = (path, protocols) => new Promise((resolve, reject) => {
  const socket = new WebSocket(`ws://${location.host}${path}`, protocols || []);
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    if not shutil.which("chromium"):
        pytest.fail("no chromium; ci/system-packages test installs it")
    with Chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Chromium, server: Listening) -> Chromium:
    assert not isinstance(server.address, str)
    browser.open("http://{}:{}/anywhere".format(*server.address))
    browser.run(HELPERS + "globalThis.opened = opened; true")
    return browser


def run(page: Chromium, body: str) -> Any:
    """The body of an asynchronous function."""
    return page.run(f"(async () => {{ {body} }})()")


@pytest.fixture
def tag() -> str:
    return new_tag()


def test_text_and_bytes(page: Chromium) -> None:
    found = run(
        page,
        """const socket = await opened("/ws/echo");
        socket.send("kůň 🐎");
        socket.send(new Uint8Array([0, 127, 255]));
        socket.send("");
        const found = [await socket.next(), await socket.next(), await socket.next(), socket.protocol];
        socket.close();
        return found;""",
    )
    assert found == ["kůň 🐎", [0, 127, 255], "", ""]


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
    assert left[:2] == ["websocket.disconnect", 1001]


def test_the_browsers_fields(page: Chromium, server: Listening) -> None:
    script = 'document.cookie = "a=1"; const socket = await opened("/ws/scope"); return JSON.parse(await socket.next());'
    scope = run(page, script)["scope"]
    fields = {name["bytes"]: value["bytes"] for name, value in scope["headers"]}
    assert not isinstance(server.address, str)
    host = "{}:{}".format(*server.address)
    assert (fields["host"], fields["origin"], fields["cookie"]) == (host, f"http://{host}", "a=1")


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
