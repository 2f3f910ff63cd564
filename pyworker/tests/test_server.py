"""`Server` with a stand-in for the native binary: what it is told, what the workers would import, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from fakes import Edge
from fasterapi import Depends, FastAPI, HTMLResponse, _manifest, _registry
from fasterapi._fastapi_native import connect_route_registry_to_server
from fasterapi.http.server import Server, ServerError, find_binary
from fasterapi.test_handlers import compute, get_user, get_user_async, root

PACKAGE = Path(__file__).parent.parent / "python"
TIMEOUT_S = 30.0

# The seed's script, but for its path and its port.
SEED = """\
#!/usr/bin/env python3.13
import sys
import time
sys.path.insert(0, {path!r})

from fasterapi.test_handlers import root, compute, get_user
from fasterapi.fastapi_compat import FastAPI
from fasterapi.http.server import Server
from fasterapi._fastapi_native import connect_route_registry_to_server

app = FastAPI()
app.get("/")(root)
app.get("/compute")(compute)
app.get("/user/{{user_id}}")(get_user)

connect_route_registry_to_server()
server = Server(port=9999, host="127.0.0.1", use_process_pool=True)
server.start()
"""

# Says what it was given and what a worker makes of it, then serves until it is told to stop.
BINARY = """\
#!{python}
import json, os, signal, sys
arguments = sys.argv[1:]
if "--fail" in arguments:
    sys.exit(7)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
from fasterapi._load import load_app
app = load_app(arguments[1], arguments[arguments.index("--app-dir") + 1])
routes = [[route.path, list(route.methods), route.endpoint.__qualname__, route.status_code] for route in app.routes]
print(json.dumps([arguments, os.environ["FASTERAPI_PYTHON"], routes]), flush=True)
print(signal.sigwait([signal.SIGINT, signal.SIGTERM]).name, flush=True)
"""


@pytest.fixture
def binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bin" / "fasterapi"
    path.parent.mkdir()
    path.write_text(BINARY.format(python=sys.executable))
    path.chmod(0o755)
    monkeypatch.setenv("FASTERAPI_BIN", str(path))
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_seeds_script(binary: Path, tmp_path: Path, number: signal.Signals) -> None:
    script = tmp_path / "test_process_pool.py"
    script.write_text(SEED.format(path=str(PACKAGE)))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=environment, cwd="/") as process:
        assert process.stdout is not None
        arguments, python, routes = json.loads(process.stdout.readline())
        process.send_signal(number)
        assert process.stdout.readline().decode().strip() == number.name
        assert process.wait(TIMEOUT_S) == 0
    assert arguments == [
        *("run", "fasterapi._manifest:app", "--host", "127.0.0.1", "--port", "9999", "--app-dir", str(tmp_path)),
    ]
    assert python == sys.executable
    assert routes == [
        ["/", ["GET"], "root", None],
        ["/compute", ["GET"], "compute", None],
        ["/user/{user_id}", ["GET"], "get_user", None],
    ]


def seed_app() -> FastAPI:
    app = FastAPI()
    app.get("/")(root)
    app.get("/user/{user_id}", status_code=203)(get_user)
    return app


def test_start_without_blocking(binary: Path) -> None:
    server = Server(port=1, app=seed_app(), num_workers=3, project_dir="/", arguments=["--extra"])
    assert not server.is_running()
    server.start(block=False)
    assert server.is_running()
    with pytest.raises(ServerError, match="running already"):
        server.start()
    server.stop()
    assert not server.is_running()
    assert server.command()[-5:] == ["--workers", "3", "--app-dir", "/", "--extra"]


def test_a_server_that_fails(binary: Path) -> None:
    with pytest.raises(ServerError, match="exit code 7"):
        Server(app=seed_app(), arguments=["--fail"]).start()


def test_no_binary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTERAPI_BIN", str(tmp_path / "nowhere"))
    with pytest.raises(ServerError, match="no executable file"):
        find_binary()
    monkeypatch.delenv("FASTERAPI_BIN")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ServerError, match=r"neither beside .* nor on PATH"):
        find_binary()


def test_options_without_a_meaning_are_refused(monkeypatch: pytest.MonkeyPatch, binary: Path) -> None:
    with pytest.raises(ValueError, match="use_process_pool"):
        Server(use_process_pool=False)
    monkeypatch.setattr(_registry, "_connected", False)
    with pytest.raises(ServerError, match="no application"):
        Server().start()


def test_the_registry_holds_what_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_registry, "_recorded", [])
    app = seed_app()
    FastAPI().get("/gone")(root)
    assert connect_route_registry_to_server() == 2
    assert _registry.applications() == [app]


@pytest.fixture
def main_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("__main__")
    exec("def mine(): return 1", module.__dict__)
    return module


def test_handlers_of_the_script_cannot_travel(binary: Path, main_module: types.ModuleType) -> None:
    app = FastAPI()
    app.get("/")(main_module.mine)
    with pytest.raises(TypeError, match=r"'mine' is defined in __main__.* worker processes import handlers by name"):
        Server(app=app).start()


def test_things_without_a_name_cannot_travel() -> None:
    def local() -> None: ...

    for handler in (local, lambda: None):
        app = FastAPI()
        app.get("/")(handler)
        with pytest.raises(TypeError, match="no name that leads to it"):
            _manifest.dump([app])

    def impostor() -> None: ...

    impostor.__module__, impostor.__qualname__ = "fasterapi.test_handlers", "root"
    app = FastAPI(on_startup=[impostor])
    with pytest.raises(TypeError, match="startup hook 'root' is not what the name"):
        _manifest.dump([app])


def on_start() -> None: ...
def on_key_error(request: Any, error: Any) -> Any:
    return HTMLResponse("key", 499)


def guard(q: int) -> int:
    return q


def html() -> str:
    return "<p>"


def raises() -> None:
    raise KeyError


def test_a_manifest_keeps_what_changes_answers() -> None:
    app = FastAPI(debug=True, redirect_slashes=False, on_startup=[on_start], exception_handlers={KeyError: on_key_error})
    app.add_exception_handler(404, on_key_error)
    app.get("/html", response_class=HTMLResponse, tags=["x"], dependencies=[Depends(guard)])(html)
    app.get("/async/{user_id}", status_code=201)(get_user_async)
    app.get("/compute", response_model=None)(compute)
    app.get("/raises")(raises)
    copy = _manifest.build(json.loads(_manifest.dump([app])))
    assert (copy.debug, copy.redirect_slashes, copy.on_startup) == (True, False, [on_start])
    assert copy.exception_handlers == {**app.exception_handlers, 404: on_key_error}
    edge = Edge(copy)
    assert edge.request("GET", "/html?q=1").text == "<p>"
    assert edge.request("GET", "/html").status_code == 422
    assert edge.request("GET", "/async/4").status_code == 201
    assert edge.request("GET", "/async/4").json() == {"user_id": 4, "name": "User 4"}
    assert edge.request("GET", "/compute?n=4").json() == {"n": 4, "sum_of_squares": 14}
    assert edge.request("GET", "/raises").status_code == 499


def test_a_manifest_has_a_size() -> None:
    app = FastAPI()
    for number in range(2000):
        app.get(f"/some/rather/long/path/{number}")(root)
    with pytest.raises(ValueError, match="more than an environment variable holds"):
        _manifest.dump([app])


def test_the_manifests_application_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_manifest.VARIABLE, _manifest.dump([seed_app()]))
    assert [route.path for route in _manifest.app.routes] == ["/", "/user/{user_id}"]
    del _manifest.app
    with pytest.raises(AttributeError):
        _ = _manifest.nothing
