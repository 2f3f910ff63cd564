"""An application that lives in `__main__`, written down so that a worker can build it again.

A worker cannot import `__main__`: in there, that is the worker itself. But what such an application refers to (handlers,
hooks, classes) usually comes from modules, so its routes travel as names: the script writes them into an environment
variable, and `fasterapi._manifest:app` is the application that a worker makes of them.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from functools import reduce
from typing import Any

from fasterapi._app import FastAPI
from fasterapi._load import resolve
from fasterapi._params import Dependency, Depends
from fasterapi._routing import RouteOptions, WebSocketRoute

VARIABLE = "FASTERAPI_MANIFEST"
REFERENCE = f"{__name__}:app"
_SIZE_MAX = 128 * 1024 - len(VARIABLE) - 2  # MAX_ARG_STRLEN of Linux, for NAME=value and its end.

# Options that change an answer. The others are for documentation pages, and a manifest leaves them out.
_PLAIN_OPTIONS = frozenset(
    key for key in RouteOptions.__annotations__ if key in ("status_code", "name") or key.startswith("response_model_")
)
_NAMED_OPTIONS = ("response_class", "response_model")


class NotImportableError(TypeError):
    """Workers import the application's parts by name, and this one cannot be imported."""


def name_of(thing: Any, role: str) -> str:
    """`module:qualname`, checked to lead back to the thing itself."""
    module, path = getattr(thing, "__module__", None), getattr(thing, "__qualname__", None)
    shown = path or repr(thing)
    if module == "__main__":
        raise NotImportableError(
            f"{role} {shown!r} is defined in __main__, the script itself. The server's worker processes import handlers by "
            "name, and in a worker __main__ is the worker, not this script. Move it into a module and import it from there."
        )
    if not module or not path or "<" in path:
        raise NotImportableError(
            f"{role} {shown!r} has no name that leads to it (it is a lambda, an instance, or defined inside a function). "
            "The server's worker processes import handlers by name: define it at the top of a module."
        )
    try:
        found = reduce(getattr, path.split("."), sys.modules[module])
    except (KeyError, AttributeError):
        found = None
    if found is not thing:
        raise NotImportableError(
            f"{role} {shown!r} is not what the name {module}:{path} leads to, so the server's worker processes cannot import it "
            "(a decorator or a reassignment may stand between them)."
        )
    return f"{module}:{path}"


def _names(things: Iterable[Any], role: str) -> list[str]:
    return [name_of(thing, role) for thing in things]


def _dependency(marker: Dependency) -> dict[str, Any]:
    return {"call": name_of(marker.dependency, "dependency"), "use_cache": marker.use_cache}


def describe_apps(apps: Iterable[FastAPI]) -> dict[str, Any]:
    """The manifest of these applications taken together: routes and hooks in order, the first lifespan and settings."""
    apps = list(apps)
    routes: list[dict[str, Any]] = []
    handlers: dict[str, str] = {}
    for app in apps:
        for route in app.routes:
            entry: dict[str, Any] = {
                "path": route.path,
                "handler": name_of(route.endpoint, "handler"),
                "dependencies": [_dependency(marker) for marker in route.dependencies],
            }
            routes.append(entry)
            if isinstance(route, WebSocketRoute):
                continue
            entry["methods"] = route.methods
            for key, value in route.options.items():
                if key in _PLAIN_OPTIONS:
                    entry[key] = value
                elif key in _NAMED_OPTIONS:
                    entry[key] = None if value is None else name_of(value, key)
        for kind, handler in app.exception_handlers.items():
            written = str(kind) if isinstance(kind, int) else name_of(kind, "exception class")
            handlers.setdefault(written, name_of(handler, "exception handler"))
    lifespans = [app.lifespan for app in apps if app.lifespan is not None]
    if len(lifespans) > 1:
        raise ValueError("several applications with a lifespan each cannot be served as one: include routers in one application")
    return {
        "routes": routes,
        "exception_handlers": handlers,
        "on_startup": [name for app in apps for name in _names(app.on_startup, "startup hook")],
        "on_shutdown": [name for app in apps for name in _names(app.on_shutdown, "shutdown hook")],
        "lifespan": name_of(lifespans[0], "lifespan") if lifespans else None,
        "debug": any(app.debug for app in apps),
        "redirect_slashes": all(app.redirect_slashes for app in apps),
        "thread_pool_size": max((app.thread_pool_size for app in apps), default=40),
    }


def dump(apps: Iterable[FastAPI]) -> str:
    text = json.dumps(describe_apps(apps), separators=(",", ":"))
    if len(text) > _SIZE_MAX:
        raise ValueError(
            f"the routes take {len(text)} bytes, more than an environment variable holds: "
            "make the application in a module and serve it with `fasterapi run module:app`"
        )
    return text


def build(manifest: Mapping[str, Any]) -> FastAPI:
    """The application that `describe_apps` described."""
    app = FastAPI(
        debug=manifest["debug"],
        redirect_slashes=manifest["redirect_slashes"],
        thread_pool_size=manifest["thread_pool_size"],
        lifespan=resolve(manifest["lifespan"]) if manifest["lifespan"] else None,
        on_startup=[resolve(name) for name in manifest["on_startup"]],
        on_shutdown=[resolve(name) for name in manifest["on_shutdown"]],
        exception_handlers={
            int(key) if key.isdecimal() else resolve(key): resolve(name) for key, name in manifest["exception_handlers"].items()
        },
    )
    for entry in manifest["routes"]:
        options: Any = {key: entry[key] for key in _PLAIN_OPTIONS & entry.keys()}
        options |= {key: entry[key] and resolve(entry[key]) for key in _NAMED_OPTIONS if key in entry}
        options["dependencies"] = [
            Depends(resolve(marker["call"]), use_cache=marker["use_cache"]) for marker in entry["dependencies"]
        ]
        if "methods" not in entry:
            app.add_api_websocket_route(entry["path"], resolve(entry["handler"]), dependencies=options["dependencies"])
            continue
        app.add_api_route(entry["path"], resolve(entry["handler"]), methods=entry["methods"], **options)
    return app


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    text = os.environ.get(VARIABLE)
    if text is None:
        raise RuntimeError(f"{REFERENCE} needs the environment variable {VARIABLE}, which fasterapi.http.server.Server sets")
    return globals().setdefault("app", build(json.loads(text)))
