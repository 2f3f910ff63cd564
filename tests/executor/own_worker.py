"""A worker program of somebody's own: no event loop, answers in another order than it was asked."""

from fasterapi.core.shared_memory_protocol import SharedMemoryIPC

kept: list[tuple[int, object]] = []

with SharedMemoryIPC() as ipc:
    while request := ipc.read_request():
        request_id, module_name, function_name, kwargs = request
        if function_name == "fail":
            ipc.write_response(
                request_id, 500, False, error_message="as asked", error_type="OwnError", traceback="own traceback"
            )
        elif function_name == "keep":
            kept.append((request_id, kwargs["value"]))
            if len(kept) == kwargs["until"]:
                for kept_id, value in reversed(kept):
                    ipc.write_response(kept_id, body=value)
        else:
            ipc.write_response(request_id, body=[module_name, function_name, kwargs])
