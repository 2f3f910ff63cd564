"""The application that answers a Rust program's calls: `POST /{module}/{function}`, the keyword arguments as JSON in the body.

Invariant: whatever happens to a call becomes its answer: 200 with the result; 404 where the name leads to no function, 422 where
the result is not JSON, 500 where the function raised, each with `{"type", "message", "traceback"}`.
"""

import importlib
import traceback
from collections.abc import Callable
from inspect import iscoroutine, iscoroutinefunction
from typing import Any

from fasterapi import _json
from fasterapi._app import FastAPI
from fasterapi._request import Request
from fasterapi._response import Response

app = FastAPI(redirect_slashes=False)

_found: dict[tuple[str, str], Callable[..., Any]] = {}


class NoSuchFunctionError(LookupError):
    """The names of a call lead to nothing that can be called."""


def find(module: str, function: str) -> Callable[..., Any]:
    """The function of that name at the top of that module. What a module raises while it is imported comes out as it is."""
    if module == "__main__":
        raise NoSuchFunctionError(
            f"{function!r} cannot be called in __main__: in a worker that is the worker itself. Move it into a module."
        )
    if not function.isidentifier():
        raise NoSuchFunctionError(f"{function!r} is not a name at the top of a module; nested names cannot be called")
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # Another one, which the module itself imports, is an error of the module's.
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise NoSuchFunctionError(f"there is no module {module!r} ({error})") from None
        raise
    except (TypeError, ValueError) as error:
        if module and not module.startswith("."):
            raise
        raise NoSuchFunctionError(f"{module!r} is not the name of a module") from error
    try:
        found = getattr(imported, function)
    except AttributeError:
        raise NoSuchFunctionError(f"module {module!r} has no function {function!r}") from None
    if not callable(found):
        raise NoSuchFunctionError(f"{function!r} of module {module!r} is not a function, but of type {type(found).__name__}")
    call: Callable[..., Any] = found
    return call


def _text(value: str) -> str:
    """Without lone surrogates, which no JSON parser has to take."""
    return value.encode("utf-8", "backslashreplace").decode()


def _failure(status: int, error: Exception) -> Response:
    try:
        message = str(error)
    except Exception:
        message = "(its message cannot be had: __str__ failed)"
    kind = type(error)
    document = {
        "type": kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}",
        "message": _text(message),
        "traceback": _text("".join(traceback.format_exception(error))),
    }
    return Response(_json.dumps(document), status, media_type="application/json")


@app.post("/{module}/{function}")
async def call(request: Request) -> Response:
    name = request.path_params["module"], request.path_params["function"]
    try:
        function = _found.get(name)
        if function is None:
            # An import may take its time: not on the loop.
            function = _found[name] = await app.threads.run(find, *name)
        arguments = _json.loads(await request.body())
        if iscoroutinefunction(function):
            result = await function(**arguments)
        else:
            result = await app.threads.run(function, **arguments)
            if iscoroutine(result):
                result = await result
    except NoSuchFunctionError as error:
        return _failure(404, error)
    except Exception as error:
        return _failure(500, error)
    try:
        return Response(_json.dumps(result), media_type="application/json")
    except Exception as error:
        return _failure(422, error)
