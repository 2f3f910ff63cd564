"""TLS as clients see it: versions, names, certificates that change, and those who should not get in.

What HTTP/1.1 does over TLS is in the other modules, whose fixtures exist in both schemes.
"""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest
from conftest import Serve
from server import APPS, BINARY, WAIT_MAX_S, Server, environment, resident_kib, until
from tls import UNVERIFIED, Authority, Pair
from wire import Closed, Connection, Response, head

BIG = 16 * 1024 * 1024 + 1


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("localhost", "localhost")


def ask(server: Server, path: str = "/tag/x", *, tls: ssl.SSLContext, name: str = "localhost") -> Response:
    with Connection(server.address, WAIT_MAX_S, tls=tls, name=name) as connection:
        return connection.request("GET", path)


def port(server: Server) -> int:
    return int(server.address[1])


def s_client(server: Server, *arguments: str, request: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """openssl's client; it ends with the connection."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port(server)}", *arguments]
    return subprocess.run(command, input=request, capture_output=True, timeout=60)


def curl(*arguments: str | Path) -> str:
    done = subprocess.run(["curl", "-sS", "--max-time", "30", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- versions, suites, what the application sees -----------------------------------------------------------------------


@pytest.mark.parametrize(("option", "version"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
def test_openssl_is_served_in_both_versions(secure: Server, option: str, version: str) -> None:
    request = head("GET", "/tag/openssl", {"connection": "close"})
    done = s_client(secure, option, "-ign_eof", request=request)
    assert b"HTTP/1.1 200 OK" in done.stdout
    assert b'{"tag":"openssl"}' in done.stdout
    assert f"New, {version}, Cipher is ".encode() in done.stdout


@pytest.mark.parametrize("option", ["-tls1", "-tls1_1"])
def test_older_versions_are_refused(secure: Server, option: str) -> None:
    done = s_client(secure, option, "-cipher", "DEFAULT:@SECLEVEL=0")
    assert done.returncode != 0
    assert b"alert protocol version" in done.stderr


@pytest.mark.parametrize("ciphers", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "DHE-RSA-AES128-GCM-SHA256"])
def test_suites_without_forward_secrecy_or_authenticated_encryption_are_refused(secure: Server, ciphers: str) -> None:
    done = s_client(secure, "-tls1_2", "-cipher", f"{ciphers}:@SECLEVEL=0")
    assert done.returncode != 0
    assert b"alert handshake failure" in done.stderr


def test_renegotiation_is_refused(secure: Server) -> None:
    # A line with R asks openssl to renegotiate.
    done = s_client(secure, "-tls1_2", request=b"R\n")
    assert b"RENEGOTIATING" in done.stdout + done.stderr
    assert done.returncode != 0


@pytest.mark.parametrize(("option", "version"), [("--http2", "2"), ("--http1.1", "1.1"), ("--no-alpn", "1.1")])
def test_client_and_server_agree_on_a_version(secure: Server, option: str, version: str) -> None:
    url = f"https://127.0.0.1:{port(secure)}/tag/curl"
    assert curl("-k", option, "-w", " %{http_version}", url) == f'{{"tag":"curl"}} {version}'


def test_http_2_can_be_left_out(serve: Serve) -> None:
    server = serve("echo:app", "--http", "1", version="h1-tls").ready()
    url = f"https://127.0.0.1:{port(server)}/tag/curl"
    assert curl("-k", "--http2", "-w", " %{http_version}", url) == '{"tag":"curl"} 1.1'


def test_the_application_is_told_that_the_request_was_encrypted(secure: Server) -> None:
    response = ask(secure, "/see", tls=UNVERIFIED)
    assert response.json["url"] == "https://test/see"


def test_http_in_clear_is_answered_in_clear(secure: Server) -> None:
    with Connection(secure.address) as connection:
        response = connection.request("GET", "/tag/x")
        assert (response.status, response.closes) == (400, True)
        assert response.json == {"detail": "This port speaks HTTPS only"}
        assert connection.rest() == b""


@pytest.mark.parametrize("data", [b"\0\0\0\0", b"\x80\x2e\x01\x03\x01", b"\x16\x03\x01\xff\xff", b"\x15\x03\x03\0\x02\x02\x28"])
def test_garbage_ends_its_connection_only(secure: Server, data: bytes) -> None:
    with Connection(secure.address) as connection:
        connection.send(data)
        connection.rest()
    assert ask(secure, tls=UNVERIFIED).status == 200


def test_sixteen_megabytes_pass_in_both_directions(secure: Server) -> None:
    before = resident_kib(secure.pid)
    with secure.connect() as connection:
        body = connection.request("GET", f"/bytes/{BIG}").body
        assert len(body) == BIG
        assert connection.request("POST", "/echo", body=body).body == body
    assert resident_kib(secure.pid) - before < 8 * 1024


def test_a_cut_connection_is_told_from_an_announced_end(secure: Server) -> None:
    with secure.connect() as connection:
        connection.ask("GET", "/tag/x", {"connection": "close"})
        assert connection.response().status == 200
        assert connection.rest() == b""


# --- certificates and names --------------------------------------------------------------------------------------------


def test_the_certificate_is_that_of_the_name(serve: Serve, authority: Authority) -> None:
    first = authority.issue("first", "first.test")
    wildcard = authority.issue("wildcard", "*.example.test")
    exact = authority.issue("exact", "a.example.test", "example.test")
    server = serve("echo:app", *first.options, *wildcard.options, *exact.options)
    server.ready()
    trusting = authority.trusting()
    for name in ("first.test", "b.example.test", "a.example.test", "example.test"):
        assert ask(server, tls=trusting, name=name).status == 200
    for name in ("c.b.example.test", "other.test"):
        with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname mismatch"):
            ask(server, tls=trusting, name=name)


def test_client_ca_lets_in_its_clients_only(serve: Serve, authority: Authority, pair: Pair, tmp_path: Path) -> None:
    server = serve("echo:app", *pair.options, "--client-ca", authority.pair.certificate).ready()
    client = authority.issue("client", "client.test")
    assert ask(server, tls=authority.trusting(client)).status == 200

    stranger = Authority(tmp_path).issue("stranger", "stranger.test")
    for context in (authority.trusting(), authority.trusting(stranger)):
        # With TLS 1.3 the client learns it when it reads.
        with pytest.raises(ssl.SSLError, match="alert"):
            ask(server, tls=context)


def pem(pair: Pair) -> str:
    text = pair.certificate.read_text()
    return text[text.index("-----BEGIN CERTIFICATE-----") :]


def test_asgi_is_told_of_the_session_and_of_the_client(serve: Serve, authority: Authority, pair: Pair) -> None:
    client = authority.issue("told", "told.test")
    server = serve("origin:app", *pair.options, "--client-ca", authority.pair.certificate).ready()
    for tls in (authority.trusting(client), authority.trusting(authority.issue("other", "other.test"))):
        for _ in range(2):
            found = json.loads(ask(server, "/", tls=tls).body)["tls"]
        assert found.pop("cipher_suite") in (0x1301, 0x1302, 0x1303)
        name = found.pop("client_cert_name")
        certificate, issuer = found.pop("client_cert_chain")
        assert issuer == pem(authority.pair), "which Python's client sends along"
        assert found == {"server_cert": None, "client_cert_error": None, "tls_version": 0x0304}
        stem = name.removeprefix("CN=").removesuffix(".test")
        assert certificate == pem(Pair(authority.folder / f"{stem}.crt", authority.folder / f"{stem}.key"))
    assert stem == "other"


def test_asgi_is_told_of_a_session_without_a_client_certificate(serve: Serve, authority: Authority, pair: Pair) -> None:
    server = serve("origin:app", *pair.options).ready()
    context = authority.trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    found = json.loads(ask(server, "/", tls=context).body)
    assert found["scheme"] == "https"
    assert found["tls"]["tls_version"] == 0x0303
    assert (found["tls"]["client_cert_chain"], found["tls"]["client_cert_name"]) == ([], None)


def test_wsgi_is_told_in_mod_ssls_words(serve: Serve, authority: Authority, pair: Pair) -> None:
    client = authority.issue("wsgi", "wsgi.test")
    server = serve("origin:wsgi", *pair.options, "--client-ca", authority.pair.certificate, "--interface", "wsgi").ready()
    found = json.loads(ask(server, "/", tls=authority.trusting(client)).body)
    assert found == {
        "HTTPS": "on",
        "REMOTE_ADDR": "127.0.0.1",
        "SSL_CLIENT_CERT": pem(client),
        "SSL_CLIENT_CERT_CHAIN_0": pem(authority.pair),
        "SSL_CLIENT_I_DN": "CN=tests",
        "SSL_CLIENT_S_DN": "CN=wsgi.test",
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_PROTOCOL": "TLSv1.3",
        "wsgi.url_scheme": "https",
    }
    server = serve("origin:wsgi", *pair.options, "--interface", "wsgi").ready()
    found = json.loads(ask(server, "/", tls=authority.trusting()).body)
    assert found["SSL_CLIENT_VERIFY"] == "NONE"
    assert "SSL_CLIENT_CERT" not in found


def test_tickets_are_taken_by_every_shard(serve: Serve, pair: Pair, authority: Authority) -> None:
    server = serve("echo:app", *pair.options, shards=3).ready()
    context = authority.trusting()
    with Connection(server.address, tls=context) as connection:
        assert connection.request("GET", "/tag/x").status == 200
        session = connection.session
    for _ in range(12):
        with Connection(server.address, tls=context, session=session) as connection:
            assert connection.request("GET", "/tag/x").status == 200
            assert connection.resumed


# --- certificates that change ------------------------------------------------------------------------------------------


def served_serial(server: Server) -> str:
    """Of the certificate that a new connection gets."""
    done = s_client(server, "-servername", "localhost")
    shown = subprocess.run(["openssl", "x509", "-noout", "-serial"], input=done.stdout, capture_output=True, timeout=60)
    return shown.stdout.decode().strip()


@pytest.mark.parametrize("how", ["SIGHUP", "file change"])
def test_new_certificates_are_served_and_no_connection_is_dropped(serve: Serve, authority: Authority, how: str) -> None:
    stem = f"renewed-{how.replace(' ', '-')}"
    pair = authority.issue(stem, "localhost")
    server = serve("echo:app", *pair.options).ready()
    before = served_serial(server)
    with Connection(server.address, tls=authority.trusting()) as connection:
        assert connection.request("GET", "/tag/1").status == 200
        authority.issue(stem, "localhost")
        if how == "SIGHUP":
            server.signal(signal.SIGHUP)
        server.log.wait("certificates reloaded")
        # The shards are told at the same time as the log.
        until("the new certificate", lambda: served_serial(server) != before)
        assert connection.request("GET", "/tag/2").status == 200


def test_certificates_that_cannot_be_loaded_leave_the_old_ones(serve: Serve, authority: Authority) -> None:
    pair = authority.issue("broken", "localhost")
    server = serve("echo:app", *pair.options).ready()
    before = served_serial(server)
    kept = pair.certificate.read_bytes()
    pair.certificate.write_text("not a certificate")
    server.log.wait(rf"certificates not reloaded, the old ones stay: {pair.certificate}: is not PEM")
    assert served_serial(server) == before
    pair.certificate.write_bytes(kept)
    server.log.wait("certificates reloaded")
    assert served_serial(server) == before


def test_a_certificate_behind_a_symbolic_link_is_followed(serve: Serve, authority: Authority, tmp_path: Path) -> None:
    """As orchestrators mount secrets: a folder that is exchanged as a whole."""
    for generation in ("1", "2"):
        issued = authority.issue(f"linked-{generation}", "localhost")
        (tmp_path / generation).mkdir()
        shutil.copy(issued.certificate, tmp_path / generation / "tls.crt")
        shutil.copy(issued.key, tmp_path / generation / "tls.key")
    (tmp_path / "data").symlink_to("1")
    server = serve("echo:app", *Pair(tmp_path / "data/tls.crt", tmp_path / "data/tls.key").options).ready()
    before = served_serial(server)
    (tmp_path / "next").symlink_to("2")
    (tmp_path / "next").rename(tmp_path / "data")
    server.log.wait("certificates reloaded")
    until("the new certificate", lambda: served_serial(server) != before)


# --- files and options that are not what they should be ----------------------------------------------------------------


def refusal(*arguments: str | Path) -> str:
    """The one line that the server says instead of starting."""
    command = [BINARY, "run", "echo:app", "--port", "0", "--app-dir", APPS, "--control", "off", *arguments]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, (done.stdout, done.stderr)
    (line,) = done.stderr.splitlines()
    return line


def test_a_file_that_is_missing_is_named(tmp_path: Path, pair: Pair) -> None:
    missing = tmp_path / "missing.pem"
    line = refusal("--tls-cert", missing, "--tls-key", pair.key)
    assert line == f"fasterapi: TLS: {missing}: cannot be read: No such file or directory (os error 2)"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_is_unreadable_is_named(tmp_path: Path, pair: Pair) -> None:
    secret = tmp_path / "secret.pem"
    secret.touch(0)
    assert refusal("--tls-cert", pair.certificate, "--tls-key", secret).endswith("Permission denied (os error 13)")


def test_a_wrong_key_is_named(authority: Authority, pair: Pair) -> None:
    other = authority.issue("other", "localhost")
    line = refusal("--tls-cert", pair.certificate, "--tls-key", other.key)
    assert line == f"fasterapi: TLS: {other.key}: the private key does not belong to the certificate in {pair.certificate}"


def test_an_expired_certificate_is_named(authority: Authority) -> None:
    expired = authority.issue("expired", "localhost", days=-1)
    line = refusal(*expired.options)
    assert line.startswith(f"fasterapi: TLS: {expired.certificate}: the certificate has expired: it was valid until ")


def test_swapped_files_are_named(pair: Pair) -> None:
    line = refusal("--tls-cert", pair.key, "--tls-key", pair.certificate)
    assert line == f"fasterapi: TLS: {pair.key}: holds no certificate"


def test_options_without_tls_are_refused() -> None:
    line = refusal("--hsts")
    assert line == "fasterapi: --hsts needs TLS: give --tls-cert and --tls-key, or --tls-dev"


# --- redirect and HSTS ---------------------------------------------------------------------------------------------------


def test_http_is_sent_to_https_and_told_to_stay_there(serve: Serve, authority: Authority, pair: Pair) -> None:
    server = serve("echo:app", *pair.options, "--redirect-http", "0", "--hsts", "3600", shards=2).ready()
    found = server.log.find(r"redirecting http://127\.0\.0\.1:(\d+) to https://127\.0\.0\.1:(\d+)")[-1]
    clear = int(found[1])
    assert int(found[2]) == port(server)
    with Connection(("127.0.0.1", clear)) as connection:
        response = connection.request("GET", "/tag/a?b=c", {"host": f"localhost:{clear}"})
        assert (response.status, response["location"]) == (308, f"https://localhost:{port(server)}/tag/a?b=c")
        assert response.all("strict-transport-security") == []
        assert connection.request("POST", "/echo", {"host": "localhost"}, b"x").status == 308
    followed = curl("-L", "--cacert", authority.pair.certificate, "-i", f"http://localhost:{clear}/tag/x", "-4")
    assert followed.endswith('{"tag":"x"}')
    assert "strict-transport-security: max-age=3600" in followed


# --- who is slow, or many ------------------------------------------------------------------------------------------------


def test_a_handshake_that_takes_too_long_is_ended(serve: Serve) -> None:
    server = serve("echo:app", "--handshake-timeout", "1", version="h1-tls").ready()
    begin = time.monotonic()
    with Connection(server.address) as connection:
        connection.send(b"\x16\x03\x01")
        assert connection.rest() == b""
    assert 0.9 < time.monotonic() - begin < 10
    assert ask(server, tls=UNVERIFIED).status == 200


def test_idle_handshakes_make_room_for_others(serve: Serve) -> None:
    server = serve("echo:app", "--handshakes-max", "10", version="h1-tls").ready()
    idle = [socket.create_connection(server.address, WAIT_MAX_S) for _ in range(100)]  # type: ignore[arg-type]
    try:
        for _ in range(20):
            assert ask(server, tls=UNVERIFIED).status == 200
        assert idle[0].recv(1) == b""
    finally:
        for connection in idle:
            connection.close()


def test_a_draining_server_announces_the_end_of_idle_connections(serve: Serve) -> None:
    server = serve("echo:app", version="h1-tls").ready()
    with server.connect() as connection:
        assert connection.request("GET", "/tag/x").status == 200
        server.signal(signal.SIGTERM)
        assert connection.rest() == b""
        with pytest.raises(Closed):
            connection.response()
    server.finish()
