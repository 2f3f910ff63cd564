"""Calls from a Rust program's executor, for people who write their own worker: read a request, write its response.

    from fasterapi.core.shared_memory_protocol import SharedMemoryIPC

    with SharedMemoryIPC() as ipc:
        while request := ipc.read_request():
            request_id, module_name, function_name, kwargs = request
            ipc.write_response(request_id, body={"echo": kwargs})

The program is named by `Config.worker_module` and started by the executor, which leaves it a control channel on descriptor 0.
One thread uses a `SharedMemoryIPC`. Framing, memory and doorbells are the native module's.
"""

import os
import select
import time
from collections import deque
from types import TracebackType
from typing import Any, NamedTuple

from fasterapi import _json
from fasterapi._control import Control, ControlClosed


class Call(NamedTuple):
    """A call that waits for its response."""

    request_id: int
    module_name: str
    function_name: str
    kwargs: dict[str, Any]


class SharedMemoryIPC:
    """A worker's end of its lane.

    The arguments are those of the original, which looked a memory up by its name; a lane has none, and they are not needed.
    """

    def __init__(self, shm_name: str | None = None, worker_id: int | None = None) -> None:
        from fasterapi import _native

        self._control = Control.from_stdin()
        line, fds = self._control.receive_attach()
        attach = _json.loads(line)["attach"]
        _native.die_with_parent(attach["parent"])
        self.worker_id: int = attach["worker"]
        self._calls = _native.Calls(line, fds)
        self._waiting: deque[Call] = deque()
        self._stopping = False
        self._poll = select.poll()
        self._poll.register(self._calls.fileno(), select.POLLIN)
        self._poll.register(self._control.fileno(), select.POLLIN)
        self._control.send("ready", {"routes": []})

    def __enter__(self) -> "SharedMemoryIPC":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if kind is None:
            self.close()

    def fileno(self) -> int:
        """For an event loop: readable when `read_request(0)` may have something, if it returned None before."""
        return self._calls.fileno()

    def read_request(self, timeout: float | None = None) -> Call | None:
        """The next call; None once the executor asks this worker to end and all calls were read.

        Waits at most `timeout` seconds and then raises TimeoutError. A call whose keyword arguments are not JSON is answered
        here.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._waiting:
                return self._waiting.popleft()
            self._take()
            if self._waiting:
                continue
            if self._stopping:
                return None
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError(f"no request within {timeout} s")
            self._sleep(left)

    def write_response(
        self,
        request_id: int,
        status_code: int = 200,
        success: bool = True,
        body: Any = None,
        error_message: str = "",
        *,
        error_type: str = "RuntimeError",
        traceback: str = "",
    ) -> None:
        """Answers a call: with `body`, which goes as JSON, or, unless `success`, with an error.

        What does not fit the lane now goes with the next `read_request`. Raises KeyError for a call that does not wait, and
        TypeError for a body that is not JSON; then the call still waits for its answer. A caller sees the result or the error
        and not `status_code`, which has to be that of a success (below 400) or of an error.
        """
        if success != (status_code < 400):
            raise ValueError(f"a {'success' if success else 'failure'} with status {status_code}")
        if success:
            self._calls.answer(request_id, 200, _json.dumps(body))
            return
        document = {"type": error_type, "message": error_message, "traceback": traceback}
        self._calls.answer(request_id, 500, _json.dumps(document))

    def close(self) -> None:
        """Waits until every answer that was given is with the executor. Calls that were not answered end with this process."""
        while self._calls.unwritten():
            self._take()
            if self._calls.unwritten():
                self._sleep(None)

    def _sleep(self, left_s: float | None) -> None:
        if self._calls.arm():
            return
        self._poll.poll(None if left_s is None else max(1, int(left_s * 1000)))

    def _take(self) -> None:
        try:
            for message in self._control.receive():
                self._stopping |= "stop" in message
        except ControlClosed:
            # The executor is gone, and with it everybody who could read an answer.
            os._exit(1)
        for request_id, module_name, function_name, body in self._calls.poll():
            try:
                kwargs = _json.loads(body)
            except ValueError as error:
                self.write_response(request_id, 400, False, error_message=str(error), error_type="ValueError")
                continue
            self._waiting.append(Call(request_id, module_name.decode(), function_name.decode(), kwargs))
