"""What a scanner of TLS servers says of this one: testssl.sh with a certificate as an operator would have it.

The scan looks for weak protocols and ciphers, known attacks (Heartbleed to ROBOT), broken certificates, and header fields.
"""

import json
import os
import subprocess
from pathlib import Path

from conftest import Serve
from tls import Authority

HARMLESS = ("OK", "INFO", "LOW")
# The script warns of a GOST engine that its openssl does not have; that is not about the server.
NOT_OURS = ("engine_problem", "DNS_CAArecord")
FIELDS = ("X-Frame-Options: DENY", "X-Content-Type-Options: nosniff", "Content-Security-Policy: default-src 'self'")


def test_a_scan_finds_nothing_above_low(serve: Serve, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    # Scanners want to know where revocations are to be had, and a term of more than sixty days.
    pair = authority.issue("scanned", "localhost", days=180, extension="crlDistributionPoints=URI:http://localhost/crl")
    fields = [part for field in FIELDS for part in ("--header", field)]
    server = serve("echo:app", *pair.options, "--hsts", *fields).ready()
    assert not isinstance(server.address, str)
    findings, ours = tmp_path / "findings.json", str(authority.pair.certificate)
    scan = ["testssl", "--quiet", "--warnings", "off", "--color", "0", "--ip", "127.0.0.1", "--add-ca", ours]
    scan += ["--jsonfile", str(findings), f"https://localhost:{server.address[1]}/tag/x"]
    done = subprocess.run(scan, env=os.environ | {"TERM": "dumb"}, capture_output=True, text=True, timeout=600)
    found = json.loads(findings.read_text())
    assert len(found) > 100, (done.returncode, done.stdout[-2000:])
    ids = {finding["id"] for finding in found}
    assert {"TLS1_2", "TLS1_3", "ALPN_HTTP2", "heartbleed", "ROBOT", "LUCKY13", "cert_chain_of_trust"} <= ids, ids
    grave = [one for one in found if one["severity"] not in HARMLESS and one["id"] not in NOT_OURS]
    assert grave == []
