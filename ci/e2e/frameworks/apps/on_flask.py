"""Flask: blueprints, sessions, uploads, streams, files."""

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from typing import Any

from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    flash,
    g,
    get_flashed_messages,
    redirect,
    request,
    send_file,
    session,
    stream_with_context,
    url_for,
)
from flask.typing import ResponseReturnValue

app = Flask(__name__)
app.secret_key = "a test's"
app.config["MAX_CONTENT_LENGTH"] = 32 * 1024 * 1024
shop = Blueprint("shop", __name__, url_prefix="/shop")
log: list[str] = []
barrier = threading.Barrier(2, timeout=20)


@app.before_request
def before() -> None:
    g.seen = ["before"]


@app.after_request
def after(response: Response) -> Response:
    response.headers["X-Seen"] = ",".join([*g.seen, "after"])
    return response


@app.teardown_request
def teardown(error: BaseException | None) -> None:
    log.append(f"torn down {request.path}{f' {error}' if error else ''}")


@app.get("/log")
def read_log() -> list[str]:
    return log


@app.get("/environ")
def environ() -> dict[str, Any]:
    """What PEP 3333 promises, with the types of what is not text."""
    return {
        key: value if isinstance(value, (str, bool)) or value is None else type(value).__name__
        for key, value in request.environ.items()
    } | {"wsgi.version": list(request.environ["wsgi.version"])}


@shop.get("/items/<int:item>")
def item(item: int) -> ResponseReturnValue:
    if item > 100:
        abort(404)
    return {"item": item, "url": url_for("shop.item", item=item), "external": url_for("shop.item", item=item, _external=True)}


@app.errorhandler(404)
def missing(_: Exception) -> ResponseReturnValue:
    return {"missing": request.path}, 404


@app.post("/login")
def login() -> ResponseReturnValue:
    session["user"] = request.form["user"]
    flash(f"welcome {request.form['user']}")
    return redirect(url_for("home"))


@app.get("/home")
def home() -> ResponseReturnValue:
    if "user" not in session:
        abort(401)
    return {"user": session["user"], "messages": get_flashed_messages()}


@app.post("/upload")
def upload() -> ResponseReturnValue:
    found = []
    for file in request.files.getlist("file"):
        content = file.read()
        found.append({"name": file.filename, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    return {"files": found, "title": request.form["title"]}


@app.post("/raw")
def raw() -> ResponseReturnValue:
    """Piece by piece, with an end that only the server knows if the body is chunked."""
    digest, size = hashlib.sha256(), 0
    while piece := request.stream.read(64 * 1024):
        digest.update(piece)
        size += len(piece)
    return {"size": size, "sha256": digest.hexdigest()}


@app.post("/lines")
def lines() -> ResponseReturnValue:
    return [line.decode() for line in request.stream]


@app.get("/stream/<int:count>")
def stream(count: int) -> Response:
    def pieces() -> Iterator[str]:
        for number in range(count):
            yield f"{number} of {request.path}\n"

    return Response(stream_with_context(pieces()), mimetype="text/plain")


@app.get("/breaks")
def breaks() -> Response:
    def pieces() -> Iterator[str]:
        yield "one\n"
        raise RuntimeError("broken in the body, on purpose")

    return Response(pieces(), mimetype="text/plain")


@app.get("/closes")
def closes() -> Response:
    """What it iterates is closed whatever becomes of the client (PEP 3333)."""
    response = Response((b"x" * 65536 for _ in range(10_000)), mimetype="application/octet-stream")
    response.call_on_close(lambda: log.append("closed"))
    return response


@app.get("/file")
def file() -> Response:
    return send_file(__file__, mimetype="text/x-python", download_name="app.py", as_attachment=True, conditional=True)


@app.get("/memory-file")
def memory_file() -> Response:
    return send_file(io.BytesIO(bytes(range(256)) * 4096), mimetype="application/octet-stream")


@app.get("/together")
def together() -> dict[str, Any]:
    """Answers when two are here, so both must run at once."""
    return {"place": barrier.wait(), "process": os.getpid()}


@app.get("/fails")
def fails() -> None:
    raise RuntimeError("broken on purpose")


@app.get("/large")
def large() -> str:
    return "0123456789" * 1_000_000


app.register_blueprint(shop)
