"""Finding the application by its name, and what kind of application it is."""

import importlib
import inspect
import sys
from dataclasses import dataclass
from functools import reduce
from inspect import Parameter
from pathlib import Path
from typing import Any, Literal

from fasterapi._app import FastAPI
from fasterapi._threads import is_async

Interface = Literal["native", "asgi", "wsgi"]
AnyInterface = Literal["auto", "native", "asgi", "wsgi"]


def resolve(reference: str, default_attribute: str | None = None) -> Any:
    """The object that `module:attribute` (dots allowed on both sides) stands for."""
    module_name, colon, path = reference.partition(":")
    path = path or default_attribute or ""
    if not module_name or not path or (colon and reference.endswith(":")):
        raise ValueError(f"{reference!r} is not of the form module:attribute")
    module = importlib.import_module(module_name)
    try:
        return reduce(getattr, path.split("."), module)
    except AttributeError as error:
        raise AttributeError(f"module {module_name!r} has no attribute {path!r}") from error


@dataclass(frozen=True)
class Found:
    """An application, and how it is called."""

    app: Any
    interface: Interface


def load(reference: str, app_dir: str | None, *, interface: AnyInterface = "auto", factory: bool = False) -> Found:
    """Imports the application with its own folder (or the working directory) first on the path."""
    directory = str(Path(app_dir or ".").resolve())
    if directory not in sys.path[:1]:
        sys.path.insert(0, directory)
    app = resolve(reference, "app")
    if factory:
        if not callable(app):
            raise TypeError(f"{reference!r} is {_describe(app)}, which cannot be called: it is no factory")
        app = app()
    is_native = isinstance(app, FastAPI)
    if interface == "auto":
        found = "native" if is_native else interface_of(app)
        if found is None:
            raise TypeError(
                f"{reference!r} is {_describe(app)}: neither a fasterapi.FastAPI nor an ASGI nor a WSGI application, as far as "
                "can be told; if it is one, name its kind with --interface, and if it is a function that makes one, say --factory"
            )
        return Found(app, found)
    if interface == "native" and not is_native:
        raise TypeError(f"{reference!r} is {_describe(app)}, not a fasterapi.FastAPI application")
    if interface != "native" and (is_native or not callable(app)):
        raise TypeError(f"{reference!r} is {_describe(app)}, not {interface.upper()}'s kind of application")
    return Found(app, interface)


def load_app(reference: str, app_dir: str | None) -> FastAPI:
    """An application of this package's own."""
    app: FastAPI = load(reference, app_dir, interface="native").app
    return app


def interface_of(app: Any) -> Interface | None:
    """ASGI 3 is called with scope, receive, send; ASGI 2 with the scope alone; WSGI with environ and start_response."""
    if not callable(app):
        return None
    if is_coroutine_callable(app):
        return "asgi"
    count = _positional_count(app)
    if count == 2:
        return "wsgi"
    return "asgi" if count in (1, 3) else None


def _positional_count(app: Any) -> int | None:
    try:
        parameters = inspect.signature(app).parameters.values()
    except (TypeError, ValueError):
        return None
    positional = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in positional and parameter.default is Parameter.empty for parameter in parameters)


def is_double_callable(app: Any) -> bool:
    """ASGI 2: `await app(scope)(receive, send)`."""
    return not is_coroutine_callable(app) and _positional_count(app) == 1


def is_coroutine_callable(app: Any) -> bool:
    """A class stands for the function that makes its instances, whatever these can be called with."""
    return not isinstance(app, type) and is_async(app)


def _describe(found: Any) -> str:
    if isinstance(found, type):
        return f"the class {found.__qualname__}"
    return f"an object of type {type(found).__module__}.{type(found).__qualname__}"
