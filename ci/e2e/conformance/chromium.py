"""A headless Chromium, driven over the DevTools protocol through a pipe: no port, no driver program.

One page, in which JavaScript is evaluated. It resolves no name and asks nobody but what the test asks.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import time
from types import TracebackType
from typing import Any

TIMEOUT_S = 60.0
_ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--remote-debugging-pipe"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-extensions",
        "--mute-audio",
    ),
    *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--no-proxy-server"),
)


class Failed(Exception):
    """What the browser or the script in it reports."""


class Chromium:
    """Messages are JSON, each ended by a zero byte: in on descriptor 3, out on 4."""

    def __init__(self, *arguments: str) -> None:
        with contextlib.ExitStack() as undo:
            self._home = undo.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            theirs_in, self._out = os.pipe()
            self._in, theirs_out = os.pipe()
            # The shell only puts the descriptors where the browser looks for them.
            script = f'exec 3<&{theirs_in} 4>&{theirs_out}; exec chromium "$@"'
            self._process = subprocess.Popen(
                ["bash", "-c", script, "chromium", *_ARGUMENTS, *arguments, f"--user-data-dir={self._home}", "about:blank"],
                pass_fds=(theirs_in, theirs_out),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "HOME": self._home},
                start_new_session=True,
            )
            os.close(theirs_in)
            os.close(theirs_out)
            self._undo = undo.pop_all()
        self._unread, self._number = b"", 0
        target = self._ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        self._session: str | None = None
        self._session = self._ask("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        self._ask("Page.enable", {})

    def __enter__(self) -> "Chromium":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._out)
        os.close(self._in)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._undo.close()

    def open(self, url: str) -> None:
        """Returns when the page is loaded."""
        self._ask("Page.navigate", {"url": url})
        self._until(lambda message: message.get("method") == "Page.loadEventFired")

    def run(self, script: str) -> Any:
        """The value of an expression, waited for if it is a promise."""
        answer = self._ask("Runtime.evaluate", {"expression": script, "awaitPromise": True, "returnByValue": True})
        if "exceptionDetails" in answer:
            raise Failed(str(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")

    def _ask(self, method: str, parameters: dict[str, Any]) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answer = self._until(lambda found: found.get("id") == message["id"])
        if "error" in answer:
            raise Failed(f"{method}: {answer['error']}")
        return answer["result"]

    def _until(self, wanted: Any) -> Any:
        """Events that nobody waits for are dropped."""
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            while b"\0" in self._unread:
                text, _, self._unread = self._unread.partition(b"\0")
                message = json.loads(text)
                if wanted(message):
                    return message
            if not select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise Failed(f"not within {TIMEOUT_S} s")
            if not (data := os.read(self._in, 65536)):
                raise Failed(f"the browser has ended ({self._process.poll()})")
            self._unread += data
