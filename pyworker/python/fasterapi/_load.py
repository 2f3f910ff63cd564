"""Finding the application by its name."""

import importlib
import sys
from functools import reduce
from pathlib import Path
from typing import Any

from fasterapi._app import FastAPI


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


def load_app(reference: str, app_dir: str | None) -> FastAPI:
    """Imports the application with its own folder (or the working directory) first on the path."""
    directory = str(Path(app_dir or ".").resolve())
    if directory not in sys.path[:1]:
        sys.path.insert(0, directory)
    found = resolve(reference, "app")
    if isinstance(found, FastAPI):
        return found
    kind = f"{type(found).__module__}.{type(found).__qualname__}"
    what = f"the class {found.__qualname__}" if isinstance(found, type) else f"an object of type {kind}"
    raise TypeError(
        f"{reference!r} is {what}, not a fasterapi.FastAPI application; other interfaces (ASGI, WSGI) are not supported yet"
    )
