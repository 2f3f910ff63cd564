"""Who is measured, and how each is set up: one process that does the work, or one and its worker; TLS 1.3; no access log; no end to a connection's requests.

A new server is a `Contender` and a row of a case. Deliberately absent: anything that runs them (measure.py).
"""

import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
APPS = Path(__file__).parents[1] / "peers/apps"
OURS = "fasterapi"
NGINX_QUIC = ROOT / "target/peers/nginx-quic/nginx"
REQUESTS_MAX = 1_000_000_000


@dataclass(frozen=True)
class Place:
    """What a server is started with: `folder` is its own, with `cert.pem` and `key.pem`."""

    port: int
    folder: Path
    ours: Path


@dataclass(frozen=True)
class Ask:
    """A request whose answer is fixed: status 200 without a body."""

    path: str
    method: str = "GET"


@dataclass(frozen=True)
class Contender:
    name: str
    command: Callable[[Place], list[str]]
    """Stays in the foreground. Writes the configuration that it names."""
    why_not: Callable[[], str]
    """Why it cannot take part; empty if it can."""
    version: Callable[[], str]
    environment: Mapping[str, str] = field(default_factory=dict)
    fixed: Ask = Ask("/")

    @property
    def is_ours(self) -> bool:
        return self.name.startswith(OURS)


def tool(name: str) -> str:
    """A program of the interpreter's own environment."""
    return str(Path(sys.executable).parent / name)


def installed(program: str) -> Callable[[], str]:
    return lambda: "" if shutil.which(program) else "not installed"


def said(*command: str) -> Callable[[], str]:
    """The first line that a program says of itself; empty if it cannot be run."""

    def line() -> str:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return (done.stdout + done.stderr).strip().partition("\n")[0]

    return line


def fasterapi(app: str, *arguments: str) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        return [
            *(str(place.ours), "run", app, "--host", "127.0.0.1", "--port", str(place.port), "--control", "off"),
            *("--tls-cert", str(place.folder / "cert.pem"), "--tls-key", str(place.folder / "key.pem"), "--http3"),
            *("--tls-min-version", "1.3", "--workers", "1", "--shards", "1", "--body-max", "0", "--access-log", "off"),
            *("--app-dir", str(APPS), "--python", sys.executable, *arguments),
        ]

    return command


def nginx_config(place: Place, quic: bool) -> str:
    scratch = " ".join(
        f"{kind}_temp_path {place.folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    over_udp = f"listen 127.0.0.1:{place.port} quic reuseport; http3 on; quic_gso on;" if quic else ""
    return f"""
daemon off; worker_processes 1; pid {place.folder}/pid; error_log {place.folder}/errors crit;
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests {REQUESTS_MAX}; keepalive_time 1d; {scratch}
  ssl_session_cache shared:sessions:8m; ssl_protocols TLSv1.3;
  ssl_certificate {place.folder}/cert.pem; ssl_certificate_key {place.folder}/key.pem;
  server {{ listen 127.0.0.1:{place.port} ssl http2; {over_udp} location / {{ return 200; }} }}
}}
"""


def nginx(program: str, quic: bool) -> Callable[[Place], list[str]]:
    def command(place: Place) -> list[str]:
        (place.folder / "nginx.conf").write_text(nginx_config(place, quic))
        return [program, "-c", str(place.folder / "nginx.conf"), "-p", str(place.folder), "-e", "stderr"]

    return command


def h2o(place: Place) -> list[str]:
    """An empty file: of what it answers by itself this costs it least, a third of what its Ruby takes. Its private key is in the process that uses
    it, as everybody's. It gives no ticket for a ticket, so of handshakes that use each ticket once (RFC 8446 §C.4) a third is full."""
    (place.folder / "empty").touch()
    (place.folder / "h2o.conf").write_text(f"""
num-threads: 1
http2-idle-timeout: 60
listen:
  host: 127.0.0.1
  port: {place.port}
  ssl:
    certificate-file: {place.folder}/cert.pem
    key-file: {place.folder}/key.pem
    minimum-version: TLSv1.3
    ocsp-update-interval: 0
    neverbleed: OFF
hosts:
  default:
    paths:
      /:
        file.file: {place.folder}/empty
""")
    return ["h2o", "-c", str(place.folder / "h2o.conf")]


def caddy(place: Place) -> list[str]:
    (place.folder / "Caddyfile").write_text(
        "{\n admin off\n auto_https off\n default_sni localhost\n storage file_system " + str(place.folder) + "\n}\n"
        f"https://:{place.port} {{\n tls {place.folder}/cert.pem {place.folder}/key.pem {{\n  protocols tls1.3\n }}\n"
        " respond 200\n}\n"
    )
    return ["caddy", "run", "--config", str(place.folder / "Caddyfile"), "--adapter", "caddyfile"]


def hypercorn(place: Place) -> list[str]:
    where = f"127.0.0.1:{place.port}"
    # Not one of its arguments: after the default of 1,000 it ends the connection.
    (place.folder / "hypercorn.toml").write_text(f"keep_alive_max_requests = {REQUESTS_MAX}\n")
    return [
        *(tool("hypercorn"), "raw_asgi:app", "--config", str(place.folder / "hypercorn.toml"), "--workers", "1"),
        *("--bind", where, "--quic-bind", where, "--worker-class", "uvloop", "--log-level", "warning"),
        *("--certfile", str(place.folder / "cert.pem"), "--keyfile", str(place.folder / "key.pem")),
    ]


def granian(place: Place) -> list[str]:
    return [
        *(tool("granian"), "raw_asgi:app", "--interface", "asgi", "--host", "127.0.0.1", "--port", str(place.port)),
        *("--workers", "1", "--runtime-threads", "1", "--loop", "uvloop", "--http", "2", "--no-ws", "--log-level", "warning"),
        *("--ssl-certificate", str(place.folder / "cert.pem"), "--ssl-keyfile", str(place.folder / "key.pem")),
        *("--ssl-protocol-min", "tls1.3", "--no-access-log"),
    ]


def none() -> str:
    return ""


def no_nginx_quic() -> str:
    return "" if NGINX_QUIC.exists() else "make target/peers/nginx-quic/nginx did not get it (it says why)"


# A route of the application, for methods that it does not have: the edge knows the answer.
OPTIONS = Ask("/hello", "OPTIONS")

NATIVE = Contender(OURS, fasterapi("http_edge:app"), none, none, fixed=OPTIONS)
OURS_ASGI = Contender(f"{OURS}-asgi", fasterapi("raw_asgi:app", "--interface", "asgi"), none, none)
NGINX = Contender("nginx", nginx("nginx", quic=False), installed("nginx"), said("nginx", "-v"))
NGINX_H3 = Contender("nginx-quic", nginx(str(NGINX_QUIC), quic=True), no_nginx_quic, said(str(NGINX_QUIC), "-v"))
H2O = Contender("h2o", h2o, installed("h2o"), said("h2o", "--version"))
# As many threads as the others have that do its work.
CADDY = Contender("caddy", caddy, installed("caddy"), said("caddy", "version"), {"GOMAXPROCS": "1"})
HYPERCORN = Contender("hypercorn", hypercorn, installed(tool("hypercorn")), said(tool("hypercorn"), "--version"))
GRANIAN = Contender("granian", granian, installed(tool("granian")), said(tool("granian"), "--version"))
